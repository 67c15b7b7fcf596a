//! The socket between keeper and worker, and the worker's way to ask for what only the keeper may hold.
//!
//! [`Channel`] is one end with its messages; both processes use it. [`KeeperLink`] is the worker's side, shared
//! between the thread that listens and the driver that asks. Nothing here knows what a workspace is, so that
//! everything that mounts can lie above it.

mod history;
mod link;
mod protocol;

pub(crate) use history::{History, Past};
pub(crate) use link::{InheritedSession, KeeperLink, LinkError, OpenedSession, Order};
pub(crate) use protocol::{Channel, ChannelError, PROTOCOL_VERSION, SessionId, ToKeeper, ToWorker};
