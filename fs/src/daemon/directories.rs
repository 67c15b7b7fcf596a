//! The daemon's two directories and the locks that keep a second daemon out of them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::DaemonError;
use crate::config::Config;

/// Only root looks into the catalog.
const STATE_MODE: u32 = 0o700;

/// Everybody may pass through to a mount whose id they know; nobody may list.
const RUNTIME_MODE: u32 = 0o711;

/// Below the runtime directory: where the superblocks are mounted.
const MOUNTS_DIR: &str = "m";

/// The file that is locked in each directory, with the holder's pid in it.
const LOCK_FILE: &str = "lock";

/// Held as long as the keeper lives.
#[derive(Debug)]
pub(crate) struct DirectoryLocks {
    _state: File,
    _runtime: File,
}

/// Creates what is missing, sets the modes and takes both locks.
///
/// # Errors
/// `Locked` names the daemon that is already there.
pub(crate) fn prepare(config: &Config) -> Result<DirectoryLocks, DaemonError> {
    if !rustix::process::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    ensure(&config.state_dir, STATE_MODE)?;
    ensure(&config.runtime_dir, RUNTIME_MODE)?;
    let locks = DirectoryLocks { _state: lock(&config.state_dir)?, _runtime: lock(&config.runtime_dir)? };
    ensure(&mounts_dir(config), RUNTIME_MODE)?;
    Ok(locks)
}

/// Returns where the superblocks of this daemon are mounted.
pub(crate) fn mounts_dir(config: &Config) -> PathBuf {
    config.runtime_dir.join(MOUNTS_DIR)
}

/// Makes `path` a directory of root's with `mode`.
fn ensure(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let failed = |action| move |source| DaemonError::Directory { action, path: path.to_path_buf(), source };
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("create"))?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed("look at"))?;
    if !metadata.is_dir() || metadata.uid() != 0 {
        return Err(DaemonError::ForeignDirectory { path: path.to_path_buf(), owner: metadata.uid() });
    }
    if metadata.mode() & 0o7777 != mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, DaemonError> {
    let path = dir.join(LOCK_FILE);
    let failed = |action| {
        let path = path.clone();
        move |source| DaemonError::Directory { action, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed("read"))?;
            return Err(DaemonError::Locked { path, holder: holder.trim().to_owned() });
        }
        Err(errno) => return Err(failed("lock")(errno.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed("write"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DaemonOptions;

    fn config(root: &Path) -> Config {
        let options = DaemonOptions {
            state_dir: Some(root.join("s")),
            runtime_dir: Some(root.join("r")),
            config: Some(root.join("c.toml")),
        };
        std::fs::write(root.join("c.toml"), "").unwrap();
        Config::load(&options).unwrap()
    }

    #[test]
    fn directories_get_their_modes_and_a_second_daemon_is_told_who_is_there() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let locks = prepare(&config).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&config.state_dir), 0o700);
        assert_eq!(mode(&mounts_dir(&config)), 0o711);
        let error = prepare(&config).unwrap_err();
        let DaemonError::Locked { holder, .. } = &error else { panic!("{error}") };
        assert_eq!(*holder, std::process::id().to_string());
        drop(locks);
        prepare(&config).unwrap();
    }
}
