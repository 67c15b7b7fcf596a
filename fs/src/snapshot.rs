//! History: snapshots, trash and undo over a directory of plain files.
//!
//! Guarantees: before an operation that goes through the mount changes or removes something, how it was is in the
//! *preserve store* and noted in the *undo log* (`preserve → record → mutate`), so that every snapshot, and every
//! moment before a deletion, can be shown and restored as it was. A snapshot is the end of an epoch: a number and one
//! entry in the log; nothing is copied and nobody waits for it.
//!
//! `fs/doc/SNAPSHOTS.md` has the design, the formats and what is not promised.
//!
//! Parts: [`sequence`] (moments), [`record`] (entries and their encoding), `epochs` (who belongs to which epoch),
//! `undo_log` (the files of the log), `store` (objects), `preserver` (what the filesystem calls before it changes
//! something), `catalog` (the log folded into SQLite, and every question about the past), `retention` (which snapshots
//! stay), `budget` (what goes when history takes too much).

#[cfg_attr(not(test), expect(dead_code, reason = "history has no limits to keep yet"))]
mod budget;
#[cfg_attr(not(test), expect(dead_code, reason = "nobody asks about the past yet"))]
#[expect(unused_imports, reason = "what questions are answered with is named by nobody yet")]
mod catalog;
mod record;
#[cfg_attr(not(test), expect(dead_code, reason = "history has no limits to keep yet"))]
#[cfg_attr(not(test), expect(unused_imports, reason = "no policy is read yet"))]
mod retention;
mod sequence;
