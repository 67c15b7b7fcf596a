//! What is known of a scope besides its counters: limits, grace clocks, the level it is at. Decides caps and events.

use jiff::Timestamp;

use super::clock::{GraceClock, LedgerClock, Notice, later};
use super::limits::{Effective, LimitErrno, Limits, Mode, least};
use super::meter::{Caps, FileClass, UNLIMITED};
use super::refusal::Reason;
use super::space::HostFloor;
use super::{Dimension, EventKind};

/// How full a dimension is. A level is left only 1 % below the line at which it was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Low,
    Percent(u8),
    Hard,
}

/// See the module. All times are ledger time.
#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) limits: Option<Limits>,
    clocks: [Option<GraceClock>; 2],
    levels: [Level; 2],
    /// Clocks that [`Self::relax`] stopped and nobody has been told of.
    has_relaxed: [bool; 2],
    /// Of pools: what the host leaves.
    pub(super) floor: Option<HostFloor>,
    /// When it was last looked at.
    now: Timestamp,
    /// Alarms that have been told of.
    pub(super) told_saturated: u64,
    pub(super) told_overruns: u64,
}

impl Book {
    /// An empty one.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            limits: None,
            clocks: [None; 2],
            levels: [Level::Low; 2],
            has_relaxed: [false; 2],
            floor: None,
            now,
            told_saturated: 0,
            told_overruns: 0,
        }
    }

    /// Whether it says nothing that would have to be kept for a scope without projects.
    pub(super) fn is_blank(&self) -> bool {
        self.limits.is_none() && self.clocks == [None; 2] && self.floor.is_none()
    }

    /// The limits, unless they are switched off.
    fn counted(&self) -> Option<&Limits> {
        self.limits.as_ref().filter(|limits| limits.mode != Mode::Off)
    }

    pub(super) fn mode(&self) -> Mode {
        self.limits.as_ref().map_or(Mode::default(), |limits| limits.mode)
    }

    /// What the limits amount to now.
    pub(super) fn effective(&self, dimension: Dimension) -> Effective {
        let clock = self.clocks[dimension.index()].map(|clock| (clock.started, clock.is_expired));
        self.counted().map_or_else(Effective::default, |limits| limits.effective(dimension, self.now, clock))
    }

    /// The grace clock's deadline and whether it has passed.
    pub(super) fn grace(&self, dimension: Dimension) -> Option<(Timestamp, bool)> {
        self.clocks[dimension.index()].map(|clock| (clock.deadline, clock.is_expired))
    }

    /// Caps by the limits alone.
    pub(super) fn limit_caps(&self, dimension: Dimension) -> Caps {
        if self.mode() != Mode::Enforce {
            return Caps::NONE;
        }
        let Effective { soft, hard, headroom } = self.effective(dimension);
        let expired = match self.grace(dimension) {
            Some((_, true)) => soft,
            Some((_, false)) | None => None,
        };
        let cap = |hard: Option<u64>| least(hard, expired).unwrap_or(UNLIMITED);
        Caps { small: cap(hard), large: cap(hard.map(|hard| hard - headroom)) }
    }

    /// The cap by what the host leaves.
    pub(super) fn floor_cap(&self, dimension: Dimension) -> u64 {
        let floor = self.floor.as_ref().filter(|_| self.mode() != Mode::Off);
        floor.and_then(|floor| floor.cap(dimension)).unwrap_or(UNLIMITED)
    }

    /// All caps together.
    pub(super) fn caps(&self, dimension: Dimension) -> Caps {
        let (limits, floor) = (self.limit_caps(dimension), self.floor_cap(dimension));
        Caps { small: limits.small.min(floor), large: limits.large.min(floor) }
    }

    /// Tells why a scope that uses `used` has refused a file of `class`, and with what number.
    pub(super) fn reason(&self, dimension: Dimension, used: u64, class: FileClass) -> (Reason, LimitErrno) {
        let errno = self.limits.as_ref().map_or(LimitErrno::default(), |limits| limits.errno);
        if self.floor_cap(dimension) < self.limit_caps(dimension).of(class) {
            return (Reason::HostFull, LimitErrno::Space);
        }
        let Effective { soft, hard, .. } = self.effective(dimension);
        let is_expired = self.grace(dimension).is_some_and(|(_, is_expired)| is_expired);
        if hard.is_some_and(|hard| used > hard) {
            (Reason::Over, errno)
        } else if is_expired && soft.is_some_and(|soft| hard.is_none_or(|hard| soft < hard)) {
            (Reason::GraceExpired, errno)
        } else {
            (Reason::Hard, errno)
        }
    }

    /// Sets or removes limits. A running grace clock keeps its start and any extension.
    pub(super) fn set_limits(&mut self, limits: Option<Limits>, now: Timestamp) {
        if let (Some(old), Some(new)) = (&self.limits, &limits) {
            let change = new.grace_period().saturating_sub(old.grace_period());
            if !change.is_zero() {
                for clock in self.clocks.iter_mut().flatten() {
                    clock.set_deadline(later(clock.deadline, change), now);
                }
            }
        }
        self.limits = limits;
        self.now = now;
    }

    /// Starts a grace clock with the given deadline, or moves that of one that runs.
    pub(super) fn set_deadline(&mut self, dimension: Dimension, deadline: Timestamp, now: Timestamp) {
        let grace = self.limits.as_ref().map_or(super::limits::DEFAULT_GRACE, Limits::grace_period);
        let clock = &mut self.clocks[dimension.index()];
        match clock {
            Some(clock) => clock.set_deadline(deadline, now),
            None => *clock = Some(GraceClock::start(later(deadline, -grace).min(now), deadline, now)),
        }
        self.now = now;
    }

    /// Stops an expired grace clock if `used` is back at the soft limit. Returns whether it did; [`Self::advance`]
    /// tells of it.
    pub(super) fn relax(&mut self, dimension: Dimension, used: u64) -> bool {
        let soft = self.effective(dimension).soft;
        let clock = &mut self.clocks[dimension.index()];
        // Only a clock that the limits explain: one that was restored before them is theirs to judge.
        if clock.is_some_and(|clock| clock.is_expired) && soft.is_some_and(|soft| used <= soft) {
            *clock = None;
            self.has_relaxed[dimension.index()] = true;
            return true;
        }
        false
    }

    /// Brings clocks and levels up to date with `used`. Returns what there is to tell.
    pub(super) fn advance(&mut self, clock: &LedgerClock, used: [u64; 2]) -> Vec<EventKind> {
        let (last, now) = (self.now, clock.now());
        self.now = now;
        let mut events = Vec::new();
        for boost in self.counted().map_or(&[][..], |limits| &limits.boosts) {
            if last < boost.until && boost.until <= now {
                let (bytes, inodes, until) = (boost.bytes, boost.inodes, clock.to_wall(boost.until));
                events.push(EventKind::BoostExpired { bytes, inodes, until });
            }
        }
        for dimension in Dimension::ALL {
            let used = used[dimension.index()];
            self.advance_grace(clock, dimension, used, &mut events);
            events.extend(self.advance_level(dimension, used));
        }
        events
    }

    fn advance_grace(
        &mut self,
        time: &LedgerClock,
        dimension: Dimension,
        used: u64,
        events: &mut Vec<EventKind>,
    ) {
        let index = dimension.index();
        if std::mem::take(&mut self.has_relaxed[index]) {
            events.push(EventKind::GraceStopped { dimension });
        }
        let is_above = self.effective(dimension).soft.is_some_and(|soft| used > soft);
        if !is_above {
            if self.clocks[index].take().is_some() {
                events.push(EventKind::GraceStopped { dimension });
            }
            return;
        }
        let grace = self.counted().map_or(super::limits::DEFAULT_GRACE, Limits::grace_period);
        let now = self.now;
        let clock = self.clocks[index].get_or_insert_with(|| {
            let deadline = later(now, grace);
            events.push(EventKind::GraceStarted { dimension, deadline: time.to_wall(deadline) });
            GraceClock::start(now, deadline, now)
        });
        let deadline = time.to_wall(clock.deadline);
        events.extend(clock.advance(now).map(|notice| match notice {
            Notice::Ending(hours) => EventKind::GraceEnding { dimension, hours, deadline },
            Notice::Expired => EventKind::GraceExpired { dimension },
        }));
    }

    fn advance_level(&mut self, dimension: Dimension, used: u64) -> Option<EventKind> {
        let Effective { hard, headroom, .. } = self.effective(dimension);
        let floor = Some(self.floor_cap(dimension)).filter(|floor| *floor != UNLIMITED);
        let (hard, headroom) = match (hard, floor) {
            (hard, Some(floor)) if hard.is_none_or(|hard| floor < hard) => (Some(floor), 0),
            (hard, Some(_) | None) => (hard, headroom),
        };
        let old = self.levels[dimension.index()];
        let hard = hard.filter(|hard| *hard > 0);
        let new = hard.map_or(Level::Low, |hard| level(used, hard, headroom, old));
        self.levels[dimension.index()] = new;
        match (new, hard) {
            (Level::Percent(percent), Some(hard)) if new > old => {
                Some(EventKind::Threshold { dimension, percent, used, hard })
            }
            (Level::Hard, Some(hard)) if new > old => Some(EventKind::HardReached { dimension, used, hard }),
            _ => None,
        }
    }
}

fn level(used: u64, hard: u64, headroom: u64, old: Level) -> Level {
    let slack = hard / 100;
    let is_at =
        |level: Level, line: u64| used >= if level <= old { line.saturating_sub(slack) } else { line };
    if is_at(Level::Hard, (hard - headroom).max(1)) {
        return Level::Hard;
    }
    [95, 90, 80]
        .into_iter()
        .map(|percent| (Level::Percent(percent), percent_of(hard, percent)))
        .find(|(level, line)| is_at(*level, *line))
        .map_or(Level::Low, |(level, _)| level)
}

/// Rounded up: a threshold is crossed when at least this part is in use.
fn percent_of(hard: u64, percent: u8) -> u64 {
    let part = (u128::from(hard) * u128::from(percent)).div_ceil(100);
    u64::try_from(part).unwrap_or(u64::MAX)
}
