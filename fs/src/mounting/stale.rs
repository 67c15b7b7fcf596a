//! Telling a dead mount from a living one without hanging on it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

use super::error::MountError;
use super::mountinfo::{DeviceNumber, MountTable};

/// How long the processes of a daemon that was killed may take to let go of its connections.
const DEATH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one question may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes sure that every wsguard mount at `path` is dead. Waits a moment for one that is just dying.
///
/// # Errors
/// `OtherDaemon` if one still answers, or hangs.
pub(crate) fn expect_dead(path: &Path, table: &MountTable) -> Result<(), MountError> {
    if !table.entries().iter().any(|entry| entry.is_wsguard() && entry.mount_point == path) {
        return Ok(());
    }
    let deadline = Instant::now() + DEATH_TIMEOUT;
    loop {
        if is_dead(path) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(MountError::OtherDaemon { path: path.to_path_buf() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks for the attributes of the mount at `path`. A living but hanging mount would never answer, so the
/// question is asked on a thread of its own, which is left behind in that case.
fn is_dead(path: &Path) -> bool {
    let (answer, answered) = channel();
    let path = path.to_path_buf();
    let asked = std::thread::Builder::new().name("probe-mount".to_owned()).spawn(move || {
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
        let result = rustix::fs::statx(CWD, &path, flags, StatxFlags::BASIC_STATS);
        // Nobody listens any more if it took too long.
        answer.send(matches!(result, Err(Errno::NOTCONN | Errno::CONNABORTED))).ok();
    });
    asked.is_ok() && answered.recv_timeout(PROBE_TIMEOUT).unwrap_or(false)
}

/// A superblock of an earlier daemon below our own mounts directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// The workspace's id: the last component of where it is mounted.
    pub(crate) id: String,
    /// The name in its source field.
    pub(crate) name: String,
    /// Where else it is mounted.
    pub(crate) elsewhere: Vec<PathBuf>,
}

/// Returns every wsguard superblock that is mounted below `mounts_dir`.
pub(crate) fn leftovers(table: &MountTable, mounts_dir: &Path) -> Vec<Leftover> {
    let mut found: Vec<Leftover> = Vec::new();
    for entry in table.entries().iter().filter(|entry| entry.is_wsguard()) {
        let Some(id) = id_below(&entry.mount_point, mounts_dir) else { continue };
        if found.iter().any(|leftover| leftover.id == id) {
            continue;
        }
        found.push(Leftover {
            id,
            name: entry.workspace_name().unwrap_or_default().to_owned(),
            elsewhere: elsewhere(table, entry.device, &entry.mount_point),
        });
    }
    found
}

fn id_below(mount_point: &Path, mounts_dir: &Path) -> Option<String> {
    let id = mount_point.strip_prefix(mounts_dir).ok()?.to_str()?;
    (!id.is_empty() && !id.contains('/')).then(|| id.to_owned())
}

fn elsewhere(table: &MountTable, device: DeviceNumber, but: &Path) -> Vec<PathBuf> {
    table.of_device(device).map(|entry| entry.mount_point.clone()).filter(|path| path != but).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_found_with_their_in_place_mounts() {
        let table = MountTable::parse(
            b"30 1 0:40 / /r/m/w1 rw - fuse.wsguard wsguard:p rw\n31 1 0:40 / /h/p rw - fuse.wsguard wsguard:p rw\n\
              32 1 0:41 / /other/m/w2 rw - fuse.wsguard wsguard:q rw\n33 1 0:42 / /r/m rw - tmpfs none rw\n",
        );
        let expected = Leftover { id: "w1".into(), name: "p".into(), elsewhere: vec!["/h/p".into()] };
        assert_eq!(leftovers(&table, Path::new("/r/m")), [expected]);
    }

    #[test]
    fn plain_directory_needs_no_probe_and_is_not_dead() {
        let dir = tempfile::tempdir().unwrap();
        expect_dead(dir.path(), &MountTable::default()).unwrap();
        assert!(!is_dead(dir.path()));
    }
}
