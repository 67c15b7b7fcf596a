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
//! `undo_log` (the files of the log), `ring` (what bridges its end over a power cut),
//! `store` (objects), `history` (what the filesystem calls before it changes
//! something), `catalog` (the log folded into SQLite, and every question about the past), `archive` (the catalog kept up
//! to date), `view` (a workspace as it was), `label` (what snapshots are called), `retention` and `budget` (what goes,
//! decided), `upkeep` (what goes, done).

mod after_cut;
mod archive;
mod budget;
mod catalog;
mod comparison;
mod epochs;
mod history;
mod label;
mod places;
mod record;
mod retention;
mod ring;
mod roster;
mod sequence;
mod store;
mod temporary;
mod touched;
mod undo_log;
mod upkeep;
mod view;

pub(crate) use archive::{Archive, ArchiveError, Pin};
pub(crate) use budget::Fullness;
pub(crate) use catalog::{
    Below, Burst, CatalogError, ContentRow, Deletion, Event, Lost, Past, SnapshotRecord, SnapshotState, Then,
    Version, XattrList,
};
pub(crate) use comparison::{DifferenceOf, compare};
pub(crate) use history::{EpochEnded, History, Permit, Shortage, Step, Syncing, attributes_of, now_ns};
pub(crate) use label::{MAX_GIVEN_NAME, candidates, label, may_be_given};
pub(crate) use places::Places;
pub(crate) use record::{
    Actor, Attributes, Cause, Named, ObjectId, Origin, SnapshotNote, SnapshotReason, Span,
};
pub(crate) use retention::{ClockFault, RetentionPlan};
pub(crate) use sequence::{Epoch, Sequence};
pub(crate) use temporary::is_temporary;
pub(crate) use touched::{Affected, Touched};
pub(crate) use upkeep::{
    Bounds, DamageKind, Evicted, Pace, collect, evict, hash_some, mark_lost, plan_now, retain, scan,
    trash_due, verify,
};
pub(crate) use view::{Certainty, PastChild, PastEntry, PastFile, Presence, Sought, View, list_attributes};
