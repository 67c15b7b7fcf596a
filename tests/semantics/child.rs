//! Child processes of these tests: the test binary runs itself with one role, because locks, appends and limits behave
//! differently between processes than between threads.

use std::{
    env,
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::{appends, databases, limits, programs};

const ROLE: &str = "WSGUARD_CHILD_ROLE";
const PATH: &str = "WSGUARD_CHILD_PATH";
const NUMBER: &str = "WSGUARD_CHILD_NUMBER";

/// What a child does once it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    AppendLines,
    ExceedFileSize,
    InsertRows,
    TakeLocks,
}

impl Role {
    const ALL: [Role; 4] = [Role::AppendLines, Role::ExceedFileSize, Role::InsertRows, Role::TakeLocks];

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// A child that waits until [`Waiting::release`], so that several of them really run at the same time.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// Starts a process that will do `role` on `path`; `number` is the role's own parameter.
    pub(crate) fn spawn(role: Role, path: &Path, number: u32) -> Waiting {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child::run_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role.name())
            .env(PATH, path)
            .env(NUMBER, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Waiting(child)
    }

    /// Lets the child go.
    pub(crate) fn release(mut self) -> Running {
        drop(self.0.stdin.take());
        Running(self.0)
    }
}

/// A child at work.
pub(crate) struct Running(Child);

impl Running {
    /// Waits for the end of the child.
    pub(crate) fn finish(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

/// Runs several children at the same time and expects all of them to succeed.
pub(crate) fn run_together(children: Vec<Waiting>) {
    let running: Vec<Running> = children.into_iter().map(Waiting::release).collect();
    for child in running {
        let status = child.finish();
        assert!(status.success(), "a child process failed: {status}");
    }
}

/// Runs one child to its end.
pub(crate) fn run_alone(role: Role, path: &Path, number: u32) -> ExitStatus {
    Waiting::spawn(role, path, number).release().finish()
}

/// The entry of a child process. Among the other tests it has no role and only checks that every role can be
/// told from the others by its name.
#[test]
fn run_role() {
    let names: std::collections::HashSet<String> = Role::ALL.into_iter().map(Role::name).collect();
    assert_eq!(names.len(), Role::ALL.len());
    let Some(name) = env::var_os(ROLE) else { return };
    let role = Role::ALL.into_iter().find(|role| OsStr::new(&role.name()) == name).unwrap();
    let path = PathBuf::from(env::var_os(PATH).unwrap());
    let number: u32 = env::var(NUMBER).unwrap().parse().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    match role {
        Role::AppendLines => appends::append_lines(&path, number),
        Role::ExceedFileSize => limits::exceed_file_size(&path, number),
        Role::InsertRows => databases::insert_rows(&path, number),
        Role::TakeLocks => programs::take_locks(&path, number),
    }
}
