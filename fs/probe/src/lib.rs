//! Recognises checkpoints of training frameworks without loading them.
//!
//! [`probe_file`] judges one file, [`survey()`] a tree: which checkpoints there are, of which framework, series and
//! step, and whether each is [`State::Complete`]. Both read headers only, within [`Limits`], and execute nothing:
//! pickles are followed by a machine that builds opaque nodes. [`verify_deep`] reads everything.
//!
//! Guarantees: no input makes it panic, read more than the limits or allocate by a number that a file claims;
//! a file is complete only if its structure accounts for every byte, nobody writes, and nothing says that bytes are
//! missing ([`Coverage`]). What cannot be judged is [`State::Unknown`], never complete.
//!
//! What it does not do: open files (see [`Tree`]), watch, or change anything. It runs on the caller's thread and
//! blocks only in the caller's reads.

mod coverage;
mod deep;
mod directory;
mod evidence;
mod format;
mod inflate;
mod name;
mod pickle;
mod report;
mod source;
mod verdict;
mod window;

pub use coverage::{Coverage, Written};
pub use deep::verify_deep;
pub use directory::{Checkpoint, Framework, Member, Pointer, PointerKind, Survey, SurveyOptions, survey};
pub use evidence::Evidence;
pub use format::{Format, probe_file};
pub use name::{NameFacts, natural_order, read_name};
pub use report::{Facts, FileReport, Need};
pub use source::{
    DiskFile, DiskTree, Entry, EntryKind, FirstHole, Identity, Listing, MemoryFile, MemoryTree, Moment,
    ReadAt, Tree,
};
pub use verdict::State;
pub use window::Limits;
