//! Replies that name a backing id by number.
//!
//! `fuser` ties a registration to a `BackingId` that closes it when dropped. Ours outlive replies and workers,
//! so they are kept as numbers (`crate::sys::device`), wrapped for the one reply and unwrapped again.

use std::time::Duration;

use fuser::{FileAttr, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};

/// Answers OPEN with passthrough to the registered backing file `id`.
#[expect(unsafe_code, reason = "fuser offers no safe way to name an existing backing id")]
pub(super) fn reply_passthrough(reply: ReplyOpen, number: FileHandle, flags: FopenFlags, id: u32) {
    // SAFETY: `id` was registered on this connection and is closed only when the last open of its inode is
    // released, which cannot be before this reply; `into_raw` below takes the closing away from the wrapper.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(number, flags, &backing);
    backing.into_raw();
}

/// Answers CREATE with passthrough to the registered backing file `id`.
#[expect(unsafe_code, reason = "fuser offers no safe way to name an existing backing id")]
pub(super) fn reply_created(
    reply: ReplyCreate,
    ttl: &Duration,
    attributes: &FileAttr,
    generation: Generation,
    number: FileHandle,
    flags: FopenFlags,
    id: u32,
) {
    // SAFETY: as in `reply_passthrough`.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.created_passthrough(ttl, attributes, generation, number, flags, &backing);
    backing.into_raw();
}
