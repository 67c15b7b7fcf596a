//! Why a directory cannot be guarded, with what to do about it.

use std::path::PathBuf;

use rustix::io::Errno;
use wsguard_api::{ApiError, ErrorCode};

use crate::error_chain::one_line;
use crate::keeper_link::LinkError;
use crate::mount_users::Writer;
use crate::session::SessionError;

/// Processes that a message names; there may be hundreds.
const WRITERS_NAMED: usize = 3;

/// Why a mount or unmount was refused or failed. Nothing is left half-mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("{path:?} is not an absolute path without . and ..")]
    NotAbsolute { path: PathBuf },
    #[error("the path {path:?} is not utf-8")]
    NotUtf8 { path: PathBuf },
    #[error("{} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("the path {} goes through a symbolic link", path.display())]
    SymbolicLink { path: PathBuf },
    #[error("{} belongs to the system", path.display())]
    System { path: PathBuf },
    #[error("{} and the daemon's own directory {} lie in one another", path.display(), own.display())]
    OwnDirectory { path: PathBuf, own: PathBuf },
    #[error("{} is already guarded as workspace {name}", path.display())]
    AlreadyGuarded { path: PathBuf, name: String },
    #[error("{} lies inside workspace {name} ({})", path.display(), other.display())]
    InsideWorkspace { path: PathBuf, name: String, other: PathBuf },
    #[error("{} contains workspace {name} ({})", path.display(), other.display())]
    ContainsWorkspace { path: PathBuf, name: String, other: PathBuf },
    #[error("{} is guarded by another wsguard daemon", path.display())]
    OtherDaemon { path: PathBuf },
    #[error("{} is the mount point of another fuse filesystem ({filesystem})", path.display())]
    OtherFuse { path: PathBuf, filesystem: String },
    #[error("{} is in use: {}", path.display(), writers_text(writers))]
    Busy { path: PathBuf, writers: Vec<Writer> },
    #[error("{} contains the mount point {}, which the guard would hide", path.display(), inner.display())]
    ContainsMount { path: PathBuf, inner: PathBuf },
    #[error("{} was registered as another directory (owner {expected}, now {found})", path.display())]
    Replaced { path: PathBuf, expected: u32, found: u32 },
    #[error("{filesystem} below {} has no file handles that fit ({errno})", path.display())]
    NoFileHandles { path: PathBuf, filesystem: String, errno: Errno },
    #[error("{} is on a read-only filesystem", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("the name {name} is taken by the workspace of {}", dir.display())]
    NameTaken { name: String, dir: PathBuf },
    #[error("{name:?} cannot be a workspace's name")]
    BadName { name: String },
    #[error("something else is mounted over {}", path.display())]
    Covered { path: PathBuf },
    #[error("cannot {action} {}: {errno}", path.display())]
    Path { action: &'static str, path: PathBuf, errno: Errno },
    #[error("cannot read the mount table: {0}")]
    MountTable(#[from] std::io::Error),
    #[error("the kernel does not {action}: {errno}{detail}")]
    Kernel { action: &'static str, errno: Errno, detail: String },
    #[error("{}", one_line(.0))]
    Keeper(#[from] LinkError),
    #[error("{}", one_line(.0))]
    Session(#[from] SessionError),
}

impl MountError {
    /// Returns the error as a client sees it.
    pub(crate) fn to_api(&self) -> ApiError {
        if let Self::Keeper(error) = self {
            return error.to_api();
        }
        let error = ApiError::new(self.code(), self.to_string());
        match self.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NotAbsolute { .. }
            | Self::NotUtf8 { .. }
            | Self::NotADirectory { .. }
            | Self::SymbolicLink { .. }
            | Self::System { .. }
            | Self::OwnDirectory { .. }
            | Self::OtherFuse { .. }
            | Self::BadName { .. } => ErrorCode::InvalidRequest,
            Self::Missing { .. } => ErrorCode::NotFound,
            Self::AlreadyGuarded { .. }
            | Self::InsideWorkspace { .. }
            | Self::ContainsWorkspace { .. }
            | Self::OtherDaemon { .. }
            | Self::Busy { .. }
            | Self::ContainsMount { .. }
            | Self::Replaced { .. }
            | Self::NotEmpty { .. }
            | Self::NameTaken { .. }
            | Self::Covered { .. } => ErrorCode::Conflict,
            Self::NoFileHandles { .. }
            | Self::ReadOnly { .. }
            | Self::Path { .. }
            | Self::MountTable(_)
            | Self::Kernel { .. }
            | Self::Session(_) => ErrorCode::Unavailable,
            Self::Keeper(_) => ErrorCode::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAbsolute { path } | Self::SymbolicLink { path } => {
                format!("give the real path: `realpath {}`", path.display())
            }
            Self::NotUtf8 { .. } => "rename the directory; names inside it are not restricted".to_owned(),
            Self::Missing { path } => format!("create it first: `mkdir {}`", path.display()),
            Self::NotADirectory { .. } => "give the directory that holds the project".to_owned(),
            Self::System { .. } => {
                "guard the directory of one project, such as ~/workspace/my-project".to_owned()
            }
            Self::OwnDirectory { .. } => {
                "move the daemon's directories elsewhere with --state-dir and --runtime-dir".to_owned()
            }
            Self::AlreadyGuarded { .. } => "see `wsguard ls`".to_owned(),
            Self::InsideWorkspace { name, .. } => {
                format!(
                    "it is protected by {name} already; to change that, `wsguard umount {name} --forget` first"
                )
            }
            Self::ContainsWorkspace { name, .. } => {
                format!("guard the inner directories one by one, or `wsguard umount {name} --forget` first")
            }
            Self::OtherDaemon { .. } => "use that daemon's --runtime-dir or WSGUARD_SOCKET".to_owned(),
            Self::OtherFuse { .. } => {
                "guard the directory that the other filesystem shows, or unmount it".to_owned()
            }
            Self::Busy { .. } => {
                "close them, or mount with --force: writes through files already open bypass the guard until \
                 they are closed"
                    .to_owned()
            }
            Self::ContainsMount { inner, .. } => format!("unmount it first: `umount {}`", inner.display()),
            Self::Replaced { .. } => {
                "take the old one out with `wsguard umount --forget`, then mount again".to_owned()
            }
            Self::NoFileHandles { .. } => {
                "put the workspace on ext4, xfs, btrfs or tmpfs, not on overlayfs or a network filesystem"
                    .to_owned()
            }
            Self::ReadOnly { .. } => "remount the filesystem read-write, then mount again".to_owned(),
            Self::NotEmpty { .. } => "choose an empty directory or one that does not exist".to_owned(),
            Self::NameTaken { .. } => "choose another one with --name".to_owned(),
            Self::BadName { .. } => {
                "use 1 to 128 characters without / and control characters, not starting with . or -"
                    .to_owned()
            }
            Self::Covered { path } => format!("unmount that first: `umount {}`", path.display()),
            Self::Kernel { errno: Errno::PERM | Errno::ACCESS, .. } => {
                "the daemon needs CAP_SYS_ADMIN in the first user namespace".to_owned()
            }
            Self::Kernel { .. } => "`wsguard doctor` checks what the kernel lacks".to_owned(),
            Self::Path { .. } | Self::MountTable(_) | Self::Keeper(_) | Self::Session(_) => return None,
        };
        Some(hint)
    }
}

/// Says how many files are open for writing, and by whom.
fn writers_text(writers: &[Writer]) -> String {
    let files: usize = writers.iter().map(|writer| writer.files).sum();
    let noun = if files == 1 { "file is" } else { "files are" };
    let named: Vec<String> = writers.iter().take(WRITERS_NAMED).map(writer_text).collect();
    let mut text = format!("{files} {noun} open for writing: {}", named.join("; "));
    if let Some(more @ 1..) = writers.len().checked_sub(WRITERS_NAMED) {
        let noun = if more == 1 { "process" } else { "processes" };
        text.push_str(&format!("; and by {more} more {noun}"));
    }
    text
}

fn writer_text(writer: &Writer) -> String {
    let Writer { pid, command, container, files, path } = writer;
    let mut text = format!("{} by {command} (pid {pid}", path.display());
    if let Some(container) = container {
        text.push_str(&format!(", container {container}"));
    }
    if *files > 1 {
        text.push_str(&format!(", {files} files"));
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_directory_names_process_container_path_and_number() {
        let writer = |pid: u32, files: usize, container: Option<&str>| Writer {
            pid,
            command: "python3".into(),
            container: container.map(str::to_owned),
            files,
            path: format!("log{pid}").into(),
        };
        let busy = |writers: Vec<Writer>| MountError::Busy { path: "/h/p".into(), writers }.to_api();
        let one = busy(vec![writer(7, 1, None)]);
        assert_eq!(one.code, ErrorCode::Conflict);
        assert_eq!(one.message, "/h/p is in use: 1 file is open for writing: log7 by python3 (pid 7)");
        assert!(one.hint.unwrap().contains("--force"));
        let five = busy((1..=5).map(|pid| writer(pid, 2, Some("0123456789ab"))).collect());
        assert_eq!(
            five.message,
            "/h/p is in use: 10 files are open for writing: log1 by python3 (pid 1, container 0123456789ab, 2 \
             files); log2 by python3 (pid 2, container 0123456789ab, 2 files); log3 by python3 (pid 3, container \
             0123456789ab, 2 files); and by 2 more processes"
        );
    }
}
