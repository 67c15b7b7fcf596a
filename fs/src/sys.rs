//! The only place with `unsafe`: one safe wrapper per system call that `rustix` does not offer.
//!
//! Each wrapper states in its `SAFETY` comment which contract of the call it upholds. Nothing here knows
//! what a workspace is.

#![expect(unsafe_code, reason = "the wrappers of raw system calls; everything else is safe code")]

pub(crate) mod btrfs;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod extents;
pub(crate) mod handle;
pub(crate) mod identity;
pub(crate) mod inherited;
pub(crate) mod lease;
pub(crate) mod mount;
pub(crate) mod on_behalf;
pub(crate) mod peer_groups;
pub(crate) mod priority;
mod read_buffer;
pub(crate) mod shared_memory;
pub(crate) mod signals;
pub(crate) mod writeback;
