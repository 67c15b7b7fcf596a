//! The one harness of all integration tests and benchmarks: real daemons, real mounts, real containers.
//!
//! What it guarantees:
//!
//! - **Nothing stays behind.** Everything a test process makes lives below one directory under `/tmp`. Values
//!   clean up after themselves when they are dropped, also while a test panics; a small helper process
//!   (`janitor.sh`) does the rest when the test process ends, however it ends.
//! - **Nothing hangs.** Every command has a timeout, and every [`Daemon`] has a deadline after which its
//!   processes are killed and its mounts detached, so that a stuck FUSE request turns into an errno and the
//!   test fails instead of hanging the suite.
//! - **Nothing is skipped in silence.** [`require!`] prints `SKIPPED: …`, and fails where the environment
//!   variable `WSGUARD_REQUIRE` names the missing facility.
//!
//! Everything here is synchronous and may be used from any number of threads.

mod backing;
mod binary;
mod command;
mod daemon;
mod docker;
mod mapping;
mod mount;
mod mountinfo;
mod process;
mod random;
mod require;
mod scratch;
mod service_manager;
mod sys;
mod terminal;
mod user;
mod wait;
mod watchdog;

pub use backing::{Backing, BackingDir, FsKind, LoopFs, Tmpfs};
pub use binary::{target_dir, wsguard_binary};
pub use command::{Output, Run};
pub use daemon::{Daemon, DaemonBuilder, Stopped};
pub use docker::{ContainerRun, Docker, RunningContainer};
pub use mapping::{Mapping, Protection};
pub use mount::{GuardMount, GuardMountBuilder};
pub use mountinfo::{Mount, mounts, mounts_below, mounts_of_process, unmount_below};
pub use process::{
    StoppedThreads, children, command_line, is_alive, kill, open_fds, resident_bytes, threads,
};
pub use random::Random;
pub use require::{Facility, require_tool};
pub use scratch::Scratch;
pub use service_manager::ServiceManager;
pub use terminal::Terminal;
pub use user::{as_user, run_as};
pub use wait::{wait_for, wait_until};
