//! What is told of a scope: a copy of its numbers.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::book::Book;
use super::clock::LedgerClock;
use super::scope::Scope;
use super::watermark::{self, Watermark};
use super::{Dimension, Limits, ScopeKey};

/// The state of a scope at one moment. Numbers that change meanwhile may be one operation apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeState {
    /// Which.
    pub(crate) scope: ScopeKey,
    /// In short.
    pub(crate) state: State,
    /// Charged bytes.
    pub(crate) bytes: Usage,
    /// Inodes.
    pub(crate) inodes: Usage,
    /// What was set; `None` if nothing was.
    pub(crate) limits: Option<Limits>,
    /// Whether use is assumed rather than counted, of the project or of any below the scope.
    pub(crate) is_estimated: bool,
    /// Projects that are attached below the scope; 1 for a project.
    pub(crate) projects: u64,
    /// Trash: bytes that are given back when they are needed.
    pub(crate) reclaimable_bytes: u64,
    /// Reservations that this scope refused since it was entered.
    pub(crate) refused: u64,
    /// Times that a count would have gone below 0 (projects only). Not 0 means a defect.
    pub(crate) saturated: u64,
    /// Reservations that passed the watermark because it was not persisted in time (projects only).
    pub(crate) watermark_overruns: u64,
    /// What has been persisted (projects only).
    pub(crate) watermark: Option<Watermark>,
}

/// The numbers of one dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// In use.
    pub(crate) used: u64,
    /// Reserved by operations under way and by holds.
    pub(crate) reserved: u64,
    /// The part of `reserved` that sparse files hold while they are open.
    pub(crate) held: u64,
    /// The soft limit now, boosts included.
    pub(crate) soft: Option<u64>,
    /// The hard limit now, boosts included; for a pool what the host leaves, if that is less.
    pub(crate) hard: Option<u64>,
    /// The part of `hard` that is kept for small files.
    pub(crate) headroom: u64,
    /// When the soft limit becomes a hard one, or did, by the wall clock.
    pub(crate) grace_deadline: Option<Timestamp>,
    /// Whether it has.
    pub(crate) is_grace_expired: bool,
}

/// How a scope is, in short: the worst of both dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum State {
    /// Below all limits.
    Ok,
    /// As `Ok`, and use is assumed: a recount is under way.
    Estimated,
    /// Above the soft limit; the grace clock has not been started yet.
    Soft,
    /// Above the soft limit, the grace clock runs.
    Grace,
    /// The grace period has run out: growth is refused.
    Expired,
    /// Above the hard limit: growth is refused.
    Over,
}

impl Usage {
    fn state(&self) -> State {
        if self.hard.is_some_and(|hard| self.used > hard) {
            State::Over
        } else if self.is_grace_expired {
            State::Expired
        } else if self.grace_deadline.is_some() {
            State::Grace
        } else if self.soft.is_some_and(|soft| self.used > soft) {
            State::Soft
        } else {
            State::Ok
        }
    }
}

impl ScopeState {
    /// Copies the numbers of `scope`.
    pub(super) fn of(scope: &Scope, clock: &LedgerClock) -> Self {
        let book = scope.book.lock();
        let [bytes, inodes] = Dimension::ALL.map(|dimension| usage(scope, &book, clock, dimension));
        let is_estimated = scope.estimated.load(Ordering::Acquire) != 0;
        let least = if is_estimated { State::Estimated } else { State::Ok };
        let [marked_bytes, marked_inodes] = Dimension::ALL.map(|dimension| watermark::mark(scope, dimension));
        Self {
            scope: scope.key.clone(),
            state: bytes.state().max(inodes.state()).max(least),
            bytes,
            inodes,
            limits: book.limits.clone(),
            is_estimated,
            projects: scope.projects.load(Ordering::Acquire),
            reclaimable_bytes: scope.reclaimable.load(Ordering::Relaxed),
            refused: scope.refused.load(Ordering::Relaxed),
            saturated: scope.cells.saturated().load(Ordering::Relaxed),
            watermark_overruns: scope.overruns.load(Ordering::Relaxed),
            watermark: marked_bytes.zip(marked_inodes).map(|(bytes, inodes)| Watermark { bytes, inodes }),
        }
    }
}

fn usage(scope: &Scope, book: &Book, clock: &LedgerClock, dimension: Dimension) -> Usage {
    let meter = scope.meter(dimension);
    // Use before what is taken: never more used than taken, however much happens in between.
    let used = scope.used(dimension);
    let reserved = meter.taken().saturating_sub(used);
    let effective = book.effective(dimension);
    let floor = Some(book.floor_cap(dimension)).filter(|floor| *floor != super::meter::UNLIMITED);
    let grace = book.grace(dimension);
    Usage {
        used,
        reserved,
        held: meter.held().load(Ordering::Acquire),
        soft: effective.soft,
        hard: super::limits::least(effective.hard, floor),
        headroom: effective.headroom,
        grace_deadline: grace.map(|(deadline, _)| clock.to_wall(deadline)),
        is_grace_expired: grace.is_some_and(|(_, is_expired)| is_expired),
    }
}
