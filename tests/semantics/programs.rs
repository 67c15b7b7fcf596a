//! Running programs from the workspace, and locks between processes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, fcntl_lock, flock},
    io::Errno,
};

use super::{
    child::{self, Role},
    ground::{Ground, on_every_filesystem},
};

/// Copies `sleep` into the workspace. By another process: a descriptor for writing that a concurrent test's fork
/// inherited would make the program busy.
fn install_sleep(ground: &Ground) -> PathBuf {
    let program = ground.mounted.join("sleep");
    let source = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    assert!(Command::new("cp").arg(source).arg(&program).status().unwrap().success());
    program
}

fn start(program: &Path) -> io::Result<Child> {
    Command::new(program).arg("30").stdin(Stdio::null()).spawn()
}

fn running_program_cannot_be_written(ground: &Ground) {
    let program = install_sleep(ground);
    let mut running = start(&program).unwrap();
    let write = OpenOptions::new().write(true).open(&program);
    let truncate = OpenOptions::new().write(true).truncate(true).open(&program);
    // Linux truncates for readers as well, so this has to be refused before anything is cut off.
    let read = rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC | OFlags::CLOEXEC, Mode::empty());
    let size = fs::metadata(&program).unwrap().len();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    assert_eq!(truncate.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    assert_eq!(read.unwrap_err(), Errno::TXTBSY);
    assert_ne!(size, 0);
    drop(OpenOptions::new().write(true).open(&program).unwrap());
}

fn program_open_for_writing_cannot_run(ground: &Ground) {
    let program = install_sleep(ground);
    let writer = OpenOptions::new().write(true).open(&program).unwrap();
    assert_eq!(start(&program).unwrap_err().kind(), ErrorKind::ExecutableFileBusy);
    drop(writer);
    // A fork of a concurrent test holds a copy of the descriptor until its own exec.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut running = loop {
        match start(&program) {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            result => break result.unwrap(),
        }
    };
    running.kill().unwrap();
    running.wait().unwrap();
}

fn lock_target(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// The role of a child: tries both kinds of lock; `held` 1 means that somebody else holds them.
pub(crate) fn take_locks(directory: &Path, held: u32) {
    let posix = fcntl_lock(lock_target(&directory.join("posix")), FlockOperation::NonBlockingLockExclusive);
    let whole = flock(lock_target(&directory.join("whole")), FlockOperation::NonBlockingLockShared);
    if held == 0 {
        assert_eq!((posix, whole), (Ok(()), Ok(())));
    } else {
        assert!(matches!(posix, Err(Errno::AGAIN | Errno::ACCESS)), "{posix:?}");
        assert_eq!(whole, Err(Errno::WOULDBLOCK));
    }
}

fn posix_locks_and_flock_exclude_other_processes(ground: &Ground) {
    let posix = lock_target(&ground.mounted.join("posix"));
    let whole = lock_target(&ground.mounted.join("whole"));
    fcntl_lock(&posix, FlockOperation::LockExclusive).unwrap();
    flock(&whole, FlockOperation::LockExclusive).unwrap();
    assert!(child::run_alone(Role::TakeLocks, &ground.mounted, 1).success());

    let second = lock_target(&ground.mounted.join("whole"));
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    flock(&whole, FlockOperation::Unlock).unwrap();
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    fcntl_lock(&posix, FlockOperation::Unlock).unwrap();
    drop(second);
    let unlocked = child::run_alone(Role::TakeLocks, &ground.mounted, 0);
    assert!(unlocked.success(), "an unlocked file stayed locked");
}

on_every_filesystem!(
    running_program_cannot_be_written,
    program_open_for_writing_cannot_run,
    posix_locks_and_flock_exclude_other_processes,
);
