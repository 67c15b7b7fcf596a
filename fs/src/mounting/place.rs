//! Whether a path may be guarded, and opening it so that nobody can swap it afterwards.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::MountError;
use super::mountinfo::{MountTable, split_last};

/// Directories that are never guarded themselves; what lies below some of them may be.
const SYSTEM: &[&str] = &[
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt",
    "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
    "/var/run", "/var/tmp",
];

/// Directories below which nothing is guarded, because the kernel or the system owns everything there.
const SYSTEM_TREES: &[&str] =
    &["/proc", "/sys", "/dev", "/etc", "/usr", "/boot", "/bin", "/sbin", "/lib", "/lib64"];

/// Longest name of a workspace, in characters.
const LONGEST_NAME: usize = 128;

/// A place that is taken by a registered workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) mount_point: PathBuf,
}

/// An open directory together with the way to its entry.
#[derive(Debug)]
pub(crate) struct Place {
    /// The absolute path, for messages and the mount table.
    pub(crate) path: PathBuf,
    /// The directory that it is an entry of.
    pub(crate) parent: OwnedFd,
    /// Its name there.
    pub(crate) name: std::ffi::OsString,
}

impl Place {
    /// Opens the parent of `path`, which must lead through no symbolic link.
    pub(crate) fn open(path: &Path) -> Result<Self, MountError> {
        let Some((parent, name)) = split_last(path) else {
            return Err(MountError::System { path: path.to_path_buf() });
        };
        let parent = open_path(CWD, parent.as_os_str()).map_err(|errno| path_error(path, errno))?;
        Ok(Self { path: path.to_path_buf(), parent, name: name.to_owned() })
    }

    /// Opens the directory that a lookup finds there at this moment: the topmost mount's root, if it is a
    /// mount point.
    pub(crate) fn open_top(&self) -> Result<OwnedFd, MountError> {
        open_path(self.parent.as_fd(), &self.name).map_err(|errno| path_error(&self.path, errno))
    }

    /// Returns a path to the entry that no user can redirect, for calls that take paths only.
    pub(crate) fn stable_path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name)
    }
}

/// Opens a directory as a place, without following symbolic links anywhere in `path`.
fn open_path(dir: BorrowedFd<'_>, path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)
}

fn path_error(path: &Path, errno: Errno) -> MountError {
    let path = path.to_path_buf();
    match errno {
        Errno::NOENT => MountError::Missing { path },
        Errno::NOTDIR => MountError::NotADirectory { path },
        Errno::LOOP => MountError::SymbolicLink { path },
        errno => MountError::Path { action: "open", path, errno },
    }
}

/// Checks the form of a path and that it is no directory of the system. Returns it without a trailing slash.
pub(crate) fn check_form(path: &Path) -> Result<PathBuf, MountError> {
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let has_dots = path.to_string_lossy().split('/').any(|part| part == ".");
    if !path.is_absolute() || !is_plain || has_dots {
        return Err(MountError::NotAbsolute { path: path.to_path_buf() });
    }
    if path.to_str().is_none() {
        return Err(MountError::NotUtf8 { path: path.to_path_buf() });
    }
    let path: PathBuf = path.components().collect();
    let is_system = SYSTEM.iter().any(|system| path == Path::new(system))
        || SYSTEM_TREES.iter().any(|tree| path.starts_with(tree));
    if is_system { Err(MountError::System { path }) } else { Ok(path) }
}

/// Checks that `path` and the daemon's own directories do not lie in one another.
pub(crate) fn check_own(path: &Path, own: &[&Path]) -> Result<(), MountError> {
    for own in own {
        if path.starts_with(own) || own.starts_with(path) {
            return Err(MountError::OwnDirectory { path: path.to_path_buf(), own: own.to_path_buf() });
        }
    }
    Ok(())
}

/// Checks that `path` is in nobody's way. `id` is the workspace that it is for, if it is registered.
pub(crate) fn check_overlap(path: &Path, id: Option<&str>, others: &[Occupied]) -> Result<(), MountError> {
    for other in others.iter().filter(|other| Some(other.id.as_str()) != id) {
        for taken in [&other.dir, &other.mount_point] {
            let path = path.to_path_buf();
            let name = other.name.clone();
            if path == *taken {
                return Err(MountError::AlreadyGuarded { path, name });
            }
            if path.starts_with(taken) {
                return Err(MountError::InsideWorkspace { path, name, other: taken.clone() });
            }
            if taken.starts_with(&path) {
                return Err(MountError::ContainsWorkspace { path, name, other: taken.clone() });
            }
        }
    }
    Ok(())
}

/// Checks that the guard over `dir` hides no other mount.
///
/// The clone of the backing directory does not contain them: a user's data there would seem gone.
pub(crate) fn check_no_mounts_below(dir: &Path, table: &MountTable) -> Result<(), MountError> {
    match table.below(dir).next() {
        None => Ok(()),
        Some(entry) => {
            Err(MountError::ContainsMount { path: dir.to_path_buf(), inner: entry.mount_point.clone() })
        }
    }
}

/// Checks a workspace's name.
pub(crate) fn check_name(name: &str) -> Result<(), MountError> {
    let is_good = !name.is_empty()
        && name.chars().count() <= LONGEST_NAME
        && !name.starts_with(['.', '-'])
        && !name.chars().any(|c| c == '/' || c.is_control());
    if is_good { Ok(()) } else { Err(MountError::BadName { name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> [Occupied; 1] {
        [Occupied { id: "w1".into(), name: "p".into(), dir: "/h/u/p".into(), mount_point: "/srv/p".into() }]
    }

    #[test]
    fn system_directories_are_refused_and_projects_are_not() {
        for path in ["/", "/etc", "/etc/x", "/proc/1", "/usr/local/p", "/home", "/var", "/run", "/tmp/"] {
            assert!(matches!(check_form(Path::new(path)), Err(MountError::System { .. })), "{path}");
        }
        for path in
            ["/home/u/workspace/p", "/srv/data", "/tmp/p", "/mnt/disk", "/var/lib/p", "/root/p", "/run/x/y"]
        {
            assert_eq!(check_form(Path::new(path)).unwrap(), Path::new(path));
        }
        assert_eq!(check_form(Path::new("/home/u/p/")).unwrap(), Path::new("/home/u/p"));
    }

    #[test]
    fn relative_and_dotted_paths_are_refused() {
        for path in ["p", "./p", "/home/../etc", "/home/./p", ""] {
            assert!(matches!(check_form(Path::new(path)), Err(MountError::NotAbsolute { .. })), "{path}");
        }
    }

    #[test]
    fn overlap_is_seen_in_both_directions_and_for_both_paths() {
        let check = |path: &str| check_overlap(Path::new(path), None, &taken());
        assert!(matches!(check("/h/u/p"), Err(MountError::AlreadyGuarded { .. })));
        assert!(matches!(check("/srv/p"), Err(MountError::AlreadyGuarded { .. })));
        assert!(matches!(check("/h/u/p/sub"), Err(MountError::InsideWorkspace { .. })));
        assert!(matches!(check("/h/u"), Err(MountError::ContainsWorkspace { .. })));
        check("/h/u/p2").unwrap();
        check_overlap(Path::new("/h/u/p"), Some("w1"), &taken()).unwrap();
    }

    #[test]
    fn own_directories_cannot_be_guarded_nor_guard() {
        let own = [Path::new("/v/state")];
        assert!(check_own(Path::new("/v"), &own).is_err());
        assert!(check_own(Path::new("/v/state/m"), &own).is_err());
        check_own(Path::new("/v/other"), &own).unwrap();
    }

    #[test]
    fn links_files_and_missing_paths_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("file"), b"").unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::os::unix::fs::symlink("dir", root.join("link")).unwrap();
        let open = |name: &str| Place::open(&root.join(name)).and_then(|place| place.open_top());
        open("dir").unwrap();
        assert!(matches!(open("file").unwrap_err(), MountError::NotADirectory { .. }));
        assert!(matches!(
            open("link").unwrap_err(),
            MountError::SymbolicLink { .. } | MountError::NotADirectory { .. }
        ));
        assert!(matches!(open("link/x").unwrap_err(), MountError::SymbolicLink { .. }));
        assert!(matches!(open("none").unwrap_err(), MountError::Missing { .. }));
    }

    #[test]
    fn names_are_checked() {
        for name in ["", ".hidden", "-x", "a/b", "a\nb"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("größe 1").unwrap();
    }
}
