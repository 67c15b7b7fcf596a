//! The quota ledger: who may still take how much.
//!
//! Scopes form a tree: a backing filesystem (*pool*), optionally a *group*, the *user* who owns the directory, and the
//! *project*, which is a workspace. Every change lands on all scopes of the chain or on none. A caller reserves before
//! it touches a file and settles what the file really took afterwards; nothing here knows of files, SQLite or FUSE.
//!
//! Invariants, of bytes and of inodes alike:
//! - `used <= taken` at every instant, where `taken` = used + reserved; with no operation under way and no hold they
//!   are equal.
//! - `taken <= limit` except for what is never refused: unreserved changes, files that took more than was reserved for
//!   them, and limits lowered below use (state [`State::Over`], in which nothing may grow).
//! - A parent's numbers are the sums of its projects' numbers whenever no operation is under way, and never less.
//! - `used` never goes below 0: it stops there, and an alarm counts how often.
//!
//! Threads: [`Account::reserve`] and everything that settles is called by every thread that serves requests. It takes
//! no lock that anybody holds for long, unless it refuses or waits for the watermark: its project's chain, shared, which
//! is locked exclusively only to replace a group. Its cost is one compare-and-swap a scope and dimension. The rest
//! ([`Ledger::tick`], limits, reports, groups) is for one or two threads beside them. Lock order: tables, one chain, then
//! one book.
//!
//! The time is always given by the caller; a wall clock that jumps is kept from ending grace periods ([`clock`]).

mod account;
mod book;
mod clock;
mod event;
mod ledger;
mod limits;
mod meter;
mod refusal;
mod scope;
mod scope_state;
mod space;
mod watermark;

pub(crate) use self::account::{Account, Reservation};
pub(crate) use self::event::{Event, EventKind};
pub(crate) use self::ledger::Ledger;
pub(crate) use self::limits::{Boost, Bounds, LimitErrno, Limits, Mode};
pub(crate) use self::meter::Cells;
pub(crate) use self::refusal::{Reason, Refusal};
pub(crate) use self::scope_state::{ScopeState, State};
pub(crate) use self::space::HostSpace;
pub(crate) use self::watermark::Watermark;

/// The unit in which bytes are charged.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Files that end at or below this may use the headroom.
pub(crate) const SMALL_FILE_BYTES: u64 = 1 << 20;

/// Names a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ScopeKey {
    /// A backing filesystem by its `st_dev`.
    Pool(u64),
    /// A group of users by name.
    Group(String),
    /// The owner of workspaces by uid.
    User(u32),
    /// A workspace by its id.
    Project(String),
}

impl std::fmt::Display for ScopeKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(device) => write!(out, "pool {device:#x}"),
            Self::Group(name) => write!(out, "group {name}"),
            Self::User(uid) => write!(out, "user {uid}"),
            Self::Project(id) => write!(out, "project {id}"),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dimension {
    /// Charged bytes, in whole blocks.
    Bytes,
    /// Files, directories, links and everything else with an inode.
    Inodes,
}

impl Dimension {
    /// Both, in the order in which they are reserved.
    pub(crate) const ALL: [Self; 2] = [Self::Bytes, Self::Inodes];

    /// The place in arrays of two.
    const fn index(self) -> usize {
        match self {
            Self::Bytes => 0,
            Self::Inodes => 1,
        }
    }
}

impl std::fmt::Display for Dimension {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
        })
    }
}

/// Rounds up to whole blocks; what does not fit a number becomes the largest number of whole blocks.
const fn whole_blocks(bytes: u64) -> u64 {
    match bytes.checked_next_multiple_of(BLOCK_BYTES) {
        Some(bytes) => bytes,
        None => u64::MAX - (BLOCK_BYTES - 1),
    }
}

#[cfg(test)]
mod tests;
