//! The wsguard filesystem daemon.
//!
//! ```text
//!   daemon ── keeper: holds /dev/fuse fds and state memfds ── worker: everything below
//!     control ── workspaces ── mounting, catalog, changed_outside, mount_users, rebind, keeper_link, roots_watch
//!                    │
//!                 session ── fuse (adapter) ── fs (operations) ── inode, handle, backing, tracker
//!                                               │
//!                                            watcher (foreign edits), quota (the ledger)
//! ```
//! Arrows point down only; `tests/architecture.rs` keeps it so. `unsafe` lives in `sys` modules.

mod accounting;
mod backing;
mod catalog;
mod changed_outside;
pub mod config;
mod control;
pub mod daemon;
mod delivery;
mod error_chain;
mod events;
mod fail_point;
mod fs;
mod fuse;
mod handle;
mod inode;
mod journal;
mod keeper_link;
mod kernel_quota;
mod mount_users;
mod mounting;
mod policy;
mod processes;
mod quota;
mod rebind;
mod restore;
mod roots_watch;
pub mod session;
mod snapshot;
mod state;
mod sys;
mod tracker;
mod usage;
mod watcher;
mod workspaces;
