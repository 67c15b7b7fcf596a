use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{Run, process::wait_for_exit, require::note, sys, unmount_below};

/// How long the janitor may take at the end of the process: an engine with containers stops in seconds.
const JANITOR_TIMEOUT: Duration = Duration::from_secs(90);

/// A directory for one test, with a path short enough for unix sockets; unmounted and removed on drop.
///
/// All of them lie in one directory of the test process, which the janitor removes when the process ends.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory that every user may enter.
    #[expect(clippy::new_without_default, reason = "makes a directory: a default must not have side effects")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let path = base().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path).expect("a scratch directory can be made");
        Self { path }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory below it and returns its path.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("a directory below the scratch directory can be made");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = unmount_below(&self.path);
        if !left.is_empty() {
            // Removing would go through the mount to files that are not ours.
            note(&format!("{} is kept: still mounted there: {left:?}", self.path.display()));
            return;
        }
        let removed = Run::new("rm").args(["-rf", "--one-file-system"]).arg(&self.path).output();
        if removed.code != 0 {
            note(&format!("cannot remove {}: {}", self.path.display(), removed.stderr.trim()));
        }
    }
}

struct Base {
    path: PathBuf,
    janitor: Mutex<Option<Child>>,
}

static BASE: OnceLock<Base> = OnceLock::new();

/// Processes that the janitor ends; without a parent that waits they would stay as zombies where the machine's
/// first process does not care for orphans.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Returns the directory of this test process, and starts its janitor when called for the first time.
pub(crate) fn base() -> &'static Path {
    &BASE.get_or_init(start).path
}

/// Waits for a child at the end of the process, after the janitor has ended it.
pub(crate) fn reap_at_exit(child: Child) {
    if let Ok(mut children) = CHILDREN.lock() {
        children.push(child);
    }
}

/// Returns a name that no other test process uses at the same time.
pub(crate) fn process_name() -> String {
    base().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn start() -> Base {
    // Not `TMPDIR`: it may be long, and the path of a unix socket holds 107 bytes.
    let path = tempfile::Builder::new().prefix("wg.").tempdir_in("/tmp").expect("/tmp can be written").keep();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own directories can be opened up");
    let janitor = Command::new("bash")
        .args(["-c", include_str!("janitor.sh"), "janitor"])
        .arg(&path)
        // Out of reach of an interrupt from the keyboard, which ends the test process alone.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("bash can be started");
    sys::at_exit(finish);
    Base { path, janitor: Mutex::new(Some(janitor)) }
}

/// Lets the janitor start and waits until it is done, so that the next test binary begins on a clean machine.
extern "C" fn finish() {
    let Some(mut janitor) = BASE.get().and_then(|base| base.janitor.try_lock().ok()?.take()) else { return };
    drop(janitor.stdin.take());
    if wait_for_exit(janitor.id(), JANITOR_TIMEOUT) {
        // Only reaps it: the janitor has said itself what it could not do.
        drop(janitor.wait());
        for child in CHILDREN.try_lock().iter_mut().flat_map(|children| children.iter_mut()) {
            // One that is still there has been reported by the janitor.
            drop(child.try_wait());
        }
    } else {
        note(&format!("the janitor (pid {}) is still at work after {JANITOR_TIMEOUT:?}", janitor.id()));
    }
}

/// Runs the calling test once more in a process of its own, which is killed once it has called [`play_dead`].
/// Returns the directory of that process, or nothing in the process that is to be killed.
#[cfg(test)]
pub(crate) fn kill_a_copy_of_this_test(test: &str) -> Option<PathBuf> {
    use std::io::{BufRead, BufReader};

    if std::env::var_os(VICTIM).is_some() {
        return None;
    }
    let executable = std::env::current_exe().unwrap();
    let run = Run::new(executable).args(["--exact", test, "--nocapture"]).env(VICTIM, "1");
    let mut child = run.spawn(Stdio::null(), Stdio::piped(), Stdio::inherit());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let path =
        lines.map_while(Result::ok).find_map(|line| line.split_once(VICTIM).map(|(_, path)| path.to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
    Some(PathBuf::from(path.expect("the copy says where its directory is")))
}

#[cfg(test)]
const VICTIM: &str = "WSGUARD_TEST_VICTIM=";

/// Tells the parent that it may kill this process now, and waits for that.
#[cfg(test)]
pub(crate) fn play_dead() {
    println!("{VICTIM}{}", base().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FsKind, LoopFs, is_alive, mounts_below, wait_until};

    #[test]
    fn a_killed_test_process_leaves_no_mount_process_or_file() {
        crate::require!(root, ext4);
        let Some(base) =
            kill_a_copy_of_this_test("scratch::tests::a_killed_test_process_leaves_no_mount_process_or_file")
        else {
            let filesystem = LoopFs::new(FsKind::Ext4, 64 << 20);
            let sleeper =
                Run::new("sleep").arg("300").env("BASE", filesystem.path()).current_dir(filesystem.path());
            let sleeper = sleeper.spawn(Stdio::null(), Stdio::null(), Stdio::null());
            fs::write(base().with_extension("pid"), sleeper.id().to_string()).unwrap();
            reap_at_exit(sleeper);
            play_dead();
            return;
        };
        wait_until("the janitor to be done", Duration::from_secs(30), || !base.exists());
        let pid = base.with_extension("pid");
        let sleeper = fs::read_to_string(&pid).unwrap().parse().unwrap();
        fs::remove_file(&pid).unwrap();
        wait_until("the process to be gone", Duration::from_secs(5), || !is_alive(sleeper));
        assert_eq!(mounts_below(&base), []);
        assert!(!Run::new("losetup").arg("-a").ok().contains(base.to_str().unwrap()));
    }
}
