use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::snapshot::HistoryStatus;
use crate::upgrade::{Program, UpgradeEvent};

/// Who new files belong to and what an unprivileged workspace may not hold (SEMANTICS.md, "Ownership").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// As the backing filesystem does it: the creator's uid and gid, setuid bits and device nodes allowed.
    Preserve,
    /// Everything new belongs to the workspace's owner; setuid, setgid, devices and capabilities are refused.
    Squash,
}

/// Asks the daemon to guard one directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// The directory with the user's plain files, absolute and without symbolic links.
    pub dir: PathBuf,
    /// A name for people; the directory's own name if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// The owner's uid; the directory's owner if absent.
    #[serde(default)]
    pub owner: Option<u32>,
    /// `squash` if the owner is not root, else `preserve`, if absent.
    #[serde(default)]
    pub ownership: Option<Ownership>,
    /// Mounts here instead of in place; the directory itself stays reachable unguarded.
    #[serde(default)]
    pub at: Option<PathBuf>,
    /// Mounts although files in the directory are open for writing; what is written through them bypasses the
    /// guard until they are closed.
    #[serde(default)]
    pub force: bool,
}

/// Whether a workspace is guarded at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum WorkspaceState {
    /// Mounted and answering.
    Mounted,
    /// Registered, but unmounted on request; `mount` guards it again.
    Unmounted,
    /// The mount is in place but nobody answers: every access gives ENOTCONN, never the plain files.
    Dead,
    /// It could not be mounted.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// How reads and writes reach the backing files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum DataPath {
    /// Reads and mmap run in the kernel on the backing file; writes reach the worker one by one.
    Passthrough,
    /// The kernel or a privilege lacks passthrough: every read goes through the worker, several times slower.
    Cached {
        /// What is missing, in one line.
        reason: String,
    },
}

/// How edits below the mount (a second host path, NFS) become visible through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Coherence {
    /// Every directory is watched; a foreign edit is visible within one second.
    Watched {
        /// Directories under watch.
        directories: u64,
    },
    /// The watch is being set up; attributes are trusted for one second only.
    Starting,
    /// Too many directories, or no watches left: attributes are trusted for one second only.
    ShortTtl {
        /// Why, in one line.
        reason: String,
    },
}

/// What the filesystem below a workspace is and can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackingInfo {
    /// `ext4`, `xfs`, `btrfs`, `tmpfs`, …
    pub filesystem: String,
    /// `major:minor` of the device.
    pub device: String,
    /// FICLONE works, so preserving an old version costs no copy.
    pub reflink: bool,
    /// Files can be reopened by handle.
    pub file_handles: bool,
    /// POSIX ACLs are kept.
    pub acl: bool,
    /// `user.*` extended attributes are kept.
    pub xattr: bool,
    /// Project quota is accounted on this filesystem.
    pub project_quota: bool,
    /// Nothing can be written.
    pub read_only: bool,
    /// Size of the filesystem, bytes.
    pub total_bytes: u64,
    /// Free for unprivileged users, bytes.
    pub available_bytes: u64,
}

/// Files that changed while nothing was mounted over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedOutside {
    /// Since when nobody was watching.
    pub since: String,
    /// Files and directories with a later change time.
    pub entries: u64,
    /// The first of them, relative to the workspace; names that are not UTF-8 are shown lossily.
    pub sample: Vec<String>,
    /// The search still runs; the numbers so far are lower bounds.
    pub scanning: bool,
}

/// One workspace as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Stable id: the name of its mount below the runtime directory and of its row in the catalog.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// The directory with the plain files.
    pub dir: PathBuf,
    /// Where users see it: `dir` itself, or the `--at` path.
    pub mount_point: PathBuf,
    /// The root-owned path to bind into containers.
    pub source: PathBuf,
    /// The owner's uid.
    pub owner_uid: u32,
    /// The owner's gid.
    pub owner_gid: u32,
    /// Who new files belong to.
    pub ownership: Ownership,
    /// Guarded or not.
    pub state: WorkspaceState,
    /// Registered by hand (`false`) or because it matches a configured root (`true`).
    pub from_roots: bool,
    /// How data flows; absent while not mounted.
    pub data_path: Option<DataPath>,
    /// How foreign edits are found; absent while not mounted.
    pub coherence: Option<Coherence>,
    /// The filesystem below; absent while it cannot be reached.
    pub backing: Option<BackingInfo>,
    /// When it was mounted, RFC 3339.
    pub mounted_at: Option<String>,
    /// What is kept of its past; absent while not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryStatus>,
    /// Inodes that the kernel knows at this moment.
    pub inodes_known: u64,
    /// Open file and directory handles.
    pub open_handles: u64,
    /// What changed while nothing was mounted; absent if nothing did.
    pub changed_outside: Option<ChangedOutside>,
    /// Who held something in the plain directory when the guard was mounted over it, and so gets past it; as of
    /// that moment, or of the start of the daemon that mounted it again.
    pub bypassing: Vec<MountUser>,
    /// What of its quota the filesystem below does; absent where the worker does everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_quota: Option<KernelQuota>,
}

/// A workspace whose limit of bytes the filesystem below enforces. Writes run in the kernel; what is known of them is who
/// had which file open, and it is not known whether everything that a file holds was seen being written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelQuota {
    /// Such as `btrfs qgroup 0/257`; empty if that could not be found out.
    pub mechanism: String,
    /// The limit that it enforces, bytes; absent if the policy has none.
    pub limit_bytes: Option<u64>,
    /// What it counts, bytes.
    pub used_bytes: u64,
    /// Open files whose writes do not reach the worker.
    pub unseen_writers: u64,
    /// Why it does not enforce at this moment; files that are opened meanwhile are written through the worker.
    pub failure: Option<String>,
    /// It was turned off, and ends once `unseen_writers` is 0.
    pub is_ending: bool,
}

/// A directory that matches a configured root and is not guarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnguardedDirectory {
    /// The directory.
    pub dir: PathBuf,
    /// Its owner.
    pub owner_uid: u32,
    /// Why it is not guarded.
    pub reason: String,
}

/// Every workspace, and what could be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceList {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// Registered workspaces by name.
    pub items: Vec<Workspace>,
    /// Directories under a configured root that nobody guards.
    pub unguarded: Vec<UnguardedDirectory>,
}

/// The end of a worker that was not wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEvent {
    /// When the keeper noticed it, RFC 3339.
    pub at: String,
    /// Which worker, as in [`DaemonStatus::generation`].
    pub generation: u64,
    /// The signal or exit code, or `hung: ` and what was missing.
    pub reason: String,
    /// From the death to the moment when its successor served every mount again, milliseconds. Absent if nothing
    /// was mounted, or if the successor died on the way there: then the whole wait is told at that one.
    pub stall_ms: Option<u64>,
    /// The last lines that it logged, for root only, and for the last few workers only.
    #[serde(default)]
    pub log: Vec<String>,
}

/// The daemon and everything it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// RFC 3339.
    pub generated_at: String,
    /// Version of the worker's program.
    pub version: String,
    /// The worker's program; absent if the daemon is older than this field.
    #[serde(default)]
    pub worker: Option<Program>,
    /// The keeper's program, which an upgrade leaves as it is; absent if the daemon is older than this field.
    #[serde(default)]
    pub keeper: Option<Program>,
    /// Pid of the keeper, which holds the mounts.
    pub keeper_pid: u32,
    /// Pid of the worker, which answers them.
    pub worker_pid: u32,
    /// How many workers this keeper has started, this one included.
    pub generation: u64,
    /// How many workers died and were replaced; those that made room for another program are not among them.
    #[serde(default)]
    pub restarts: u64,
    /// Their ends, newest last, twenty at most.
    #[serde(default)]
    pub events: Vec<WorkerEvent>,
    /// Switches to another program, newest last, five at most.
    #[serde(default)]
    pub upgrades: Vec<UpgradeEvent>,
    /// Requests that were under way when a worker died and that the kernel sent again to its successor; of the
    /// mounts that there are, each since it was made.
    #[serde(default)]
    pub resent_requests: u64,
    /// When this worker started, RFC 3339.
    pub started_at: String,
    /// Where the catalog is.
    pub state_dir: PathBuf,
    /// Where socket and mounts are.
    pub runtime_dir: PathBuf,
    /// The config file that was read, if any.
    pub config: Option<PathBuf>,
    /// Directories that are guarded as they appear.
    pub roots: Vec<String>,
    /// `uname -r`.
    pub kernel: String,
    /// File descriptors the worker has open.
    pub open_fds: u64,
    /// The worker's limit of file descriptors.
    pub fd_limit: u64,
    /// The worker's resident memory, bytes.
    pub resident_bytes: u64,
    /// How notices get through, a channel each.
    #[serde(default)]
    pub delivery: Vec<crate::DeliveryStatus>,
    /// What is degraded, one line each; empty when nothing is.
    pub warnings: Vec<String>,
    /// Registered workspaces by name.
    pub workspaces: Vec<Workspace>,
}

/// A process or mount that still uses a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountUser {
    /// The process.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// The container it runs in, if its cgroup names one (first 12 characters of the id).
    pub container: Option<String>,
    /// What it holds: `working directory`, `open file`, `mount in its namespace`, `memory map`, `root`; of a plain
    /// directory also `open directory`, `file open for writing`, `writable memory map`.
    pub holds: String,
}

/// What an unmount did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UmountReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace after it.
    pub workspace: Workspace,
    /// It was in use and had to be detached; the users below keep what they hold until they let go.
    pub detached: bool,
    /// Who used it.
    pub users: Vec<MountUser>,
    /// It was taken out of the registry; the files stay.
    pub forgotten: bool,
}

/// A directory that `mount --all` could not guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAllFailure {
    /// The directory.
    pub dir: PathBuf,
    /// Why.
    pub error: crate::ApiError,
}

/// What `mount --all` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAllReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// Newly mounted.
    pub mounted: Vec<Workspace>,
    /// Already mounted before.
    pub already: u64,
    /// Could not be.
    pub failed: Vec<MountAllFailure>,
}

/// Asks for everything written below a path to be on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// A path inside a mounted workspace, or the workspace itself.
    pub path: PathBuf,
}

/// The sync that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// The workspace whose backing filesystem was synced.
    pub workspace: String,
    /// How long `syncfs(2)` took, milliseconds.
    pub elapsed_ms: u64,
}

/// What stopping the daemon did with each mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// One report for each workspace that was mounted.
    pub unmounted: Vec<UmountReport>,
}
