//! Where a workspace's preserve store is.
//!
//! It has to lie on the filesystem of the files (deleted ones are moved there), outside every workspace, and nobody but
//! root may reach it. What a directory on the way to it belongs to does not matter once it is open.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::mountinfo::MountTable;
use super::root::BackingRoot;
use crate::session::StoreDirectory;

/// The directory at the top of a filesystem that holds the stores of its workspaces.
const STORES: &str = ".wsguard";

/// Where history is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct HistoryPlan {
    /// A directory for the stores of workspaces on its filesystem.
    pub(crate) store: Option<PathBuf>,
}

impl HistoryPlan {
    /// Opens the store of workspace `id`, whose files are below the mount point `dir`.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    pub(super) fn open(
        &self,
        id: &str,
        dir: &Path,
        root: &BackingRoot,
        table: &MountTable,
    ) -> Result<StoreDirectory, String> {
        let stat = rustix::fs::fstat(&root.readable).map_err(|errno| errno.to_string())?;
        open_store(self.store.as_deref(), id, (dir, stat.st_dev), table)
            .map_err(|error| crate::error_chain::one_line(&error))
    }
}

/// Why a workspace has no history.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStore {
    /// The mount that the files lie on is not known.
    #[error("the mount that {path} lies on is not in the mount table", path = path.display())]
    NoMount {
        /// The workspace's directory.
        path: PathBuf,
    },
    /// Users would see it.
    #[error(
        "{stores} would be inside the workspace, because {dir} is the top of its filesystem; keep the files in a directory below",
        stores = stores.display(), dir = dir.display()
    )]
    InsideWorkspace {
        /// Where the store would be.
        stores: PathBuf,
        /// The workspace.
        dir: PathBuf,
    },
    /// A directory cannot be made or opened.
    #[error("cannot {action} {path}", path = path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Somebody else could put files there.
    #[error("{path} has mode {mode:o} and belongs to uid {uid}; it must be root's alone, mode 700", path = path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
}

/// Opens the store of workspace `id`, whose files are at `dir`, making it if it is missing. `configured` is a directory
/// for all stores; it is used for workspaces on its own filesystem.
///
/// # Errors
/// See [`NoStore`].
pub(super) fn open_store(
    configured: Option<&Path>,
    id: &str,
    (dir, device): (&Path, u64),
    table: &MountTable,
) -> Result<StoreDirectory, NoStore> {
    let of_filesystem = || {
        let mount = table.below_guards(dir);
        mount
            .map(|mount| mount.mount_point.join(STORES))
            .ok_or_else(|| NoStore::NoMount { path: dir.to_path_buf() })
    };
    let stores = match configured {
        Some(path) if device_of(path) == Some(device) => path.to_path_buf(),
        _ => of_filesystem()?,
    };
    if stores.starts_with(dir) {
        return Err(NoStore::InsideWorkspace { stores, dir: dir.to_path_buf() });
    }
    let parent = private_directory(None, &stores, stores.as_os_str())?;
    let path = stores.join(id);
    let fd = private_directory(Some(&parent), &path, std::ffi::OsStr::new(id))?;
    Ok(StoreDirectory { path, fd })
}

/// Returns the device that a directory lies on; it or, if it is yet to be made, the one above it.
fn device_of(path: &Path) -> Option<u64> {
    let stat = rustix::fs::stat(path).or_else(|_| rustix::fs::stat(path.parent().unwrap_or(path)));
    stat.ok().map(|stat| stat.st_dev)
}

fn private_directory(
    parent: Option<&OwnedFd>,
    path: &Path,
    name: &std::ffi::OsStr,
) -> Result<OwnedFd, NoStore> {
    let at = parent.map_or(rustix::fs::CWD, AsFd::as_fd);
    let failed = |action| move |errno| NoStore::Directory { action, path: path.to_path_buf(), errno };
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make")(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(failed("open"))?;
    let stat = rustix::fs::fstat(&opened).map_err(failed("look at"))?;
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != 0 || mode & 0o077 != 0 {
        return Err(NoStore::NotPrivate { path: path.to_path_buf(), uid: stat.st_uid, mode });
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(configured: &Path) -> Result<StoreDirectory, NoStore> {
        let device = std::fs::metadata(configured.parent().unwrap()).unwrap().dev();
        open_store(Some(configured), "w1", (Path::new("/elsewhere"), device), &MountTable::default())
    }

    #[test]
    fn a_store_is_never_inside_its_workspace() {
        let kept = tempfile::tempdir().unwrap();
        let device = std::fs::metadata(kept.path()).unwrap().dev();
        let stores = kept.path().join(".wsguard");
        let opened = open_store(Some(&stores), "w1", (kept.path(), device), &MountTable::default());
        assert!(matches!(opened, Err(NoStore::InsideWorkspace { .. })));
        assert!(!stores.exists());
    }

    #[test]
    fn a_store_is_roots_alone() {
        let kept = tempfile::tempdir().unwrap();
        let stores = kept.path().join("stores");
        open(&stores).unwrap();
        open(&stores).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&stores), mode(&stores.join("w1"))), (0o700, 0o700));
        std::fs::set_permissions(&stores, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(open(&stores), Err(NoStore::NotPrivate { mode: 0o755, .. })));
    }

    #[test]
    fn a_symbolic_link_is_no_store() {
        let kept = tempfile::tempdir().unwrap();
        std::fs::create_dir(kept.path().join("elsewhere")).unwrap();
        symlink(kept.path().join("elsewhere"), kept.path().join("stores")).unwrap();
        assert!(matches!(open(&kept.path().join("stores")), Err(NoStore::Directory { action: "open", .. })));
    }
}
