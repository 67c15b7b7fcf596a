//! Time for grace periods and boosts: a wall clock whose jumps count for an hour at most, and the grace clock.

use jiff::{SignedDuration, Timestamp};

/// The most that one step of the wall clock counts for.
const LONGEST_STEP: SignedDuration = SignedDuration::from_hours(1);
/// Hours before the deadline at which to remind, in the order in which they come.
const REMINDERS: [u8; 3] = [72, 24, 1];

/// Turns the wall clock into *ledger time*, which moves with it but by no more than an hour between two looks. A jump
/// and the one that corrects it cancel each other out.
#[derive(Debug, Default)]
pub(super) struct LedgerClock {
    last: Option<Timestamp>,
    /// Wall time less ledger time.
    offset: SignedDuration,
}

impl LedgerClock {
    /// Looks at the wall clock. Returns ledger time, and by how much the clock jumped if it did.
    pub(super) fn observe(&mut self, wall: Timestamp) -> (Timestamp, Option<SignedDuration>) {
        let step = self.last.map_or(SignedDuration::ZERO, |last| wall.duration_since(last));
        let counted = step.clamp(-LONGEST_STEP, LONGEST_STEP);
        self.last = Some(wall);
        self.offset = self.offset.saturating_add(step.saturating_sub(counted));
        (self.to_ledger(wall), (step != counted).then_some(step))
    }

    /// Ledger time at the last look; the beginning of time before the first.
    pub(super) fn now(&self) -> Timestamp {
        self.last.map_or(Timestamp::MIN, |last| self.to_ledger(last))
    }

    /// Converts a time of the wall clock.
    pub(super) fn to_ledger(&self, wall: Timestamp) -> Timestamp {
        later(wall, -self.offset)
    }

    /// Converts back.
    pub(super) fn to_wall(&self, ledger: Timestamp) -> Timestamp {
        later(ledger, self.offset)
    }
}

/// Adds, stopping at the ends of time.
pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

/// Runs while use is above a soft limit. All times are ledger time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GraceClock {
    /// When use was first seen above the limit.
    pub(super) started: Timestamp,
    /// When the soft limit becomes a hard one.
    pub(super) deadline: Timestamp,
    /// Whether it has.
    pub(super) is_expired: bool,
    /// How many of [`REMINDERS`] are behind.
    reminded: usize,
}

/// What a grace clock has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Fewer than so many hours are left.
    Ending(u8),
    /// None is left.
    Expired,
}

impl GraceClock {
    /// Starts a clock. Reminders that lie before its start are not given.
    pub(super) fn start(started: Timestamp, deadline: Timestamp, now: Timestamp) -> Self {
        Self { started, deadline, is_expired: false, reminded: reminders_due(deadline, now) }
    }

    /// Moves the deadline. An expired clock whose new deadline lies ahead runs again.
    pub(super) fn set_deadline(&mut self, deadline: Timestamp, now: Timestamp) {
        self.deadline = deadline;
        self.is_expired = self.is_expired && deadline <= now;
        self.reminded = reminders_due(deadline, now);
    }

    /// Tells what has become due, each thing once.
    pub(super) fn advance(&mut self, now: Timestamp) -> Option<Notice> {
        if now >= self.deadline {
            let notice = (!self.is_expired).then_some(Notice::Expired);
            self.is_expired = true;
            return notice;
        }
        let due = reminders_due(self.deadline, now);
        let notice = (due > self.reminded).then(|| Notice::Ending(REMINDERS[due - 1]));
        self.reminded = self.reminded.max(due);
        notice
    }
}

fn reminders_due(deadline: Timestamp, now: Timestamp) -> usize {
    let left = deadline.duration_since(now);
    REMINDERS.iter().filter(|hours| left <= SignedDuration::from_hours(i64::from(**hours))).count()
}
