//! Which snapshots stay.
//!
//! A pure function of the list, the policy and the clock: a snapshot stays for as many reasons as there are, each of
//! which is shown, and goes if there is none. In every bucket of civil time (an hour, a day, …) the newest snapshot
//! stays that is whole; as long as a rule has buckets to give away, the oldest snapshot stays as well, so that a young
//! workspace keeps its beginning. `within` counts back from the newest snapshot, not from now: a machine that was off for
//! a month has lost nothing when it comes back. Whatever the policy says, what is held, what somebody looks at, the
//! newest snapshot that is whole and the newest of which a copy was verified stay.
//!
//! While the clock cannot be right, nothing is deleted.

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::catalog::{SnapshotRecord, SnapshotState};
use super::record::SnapshotReason;
use super::sequence::Epoch;
use crate::config::RetentionPolicy;

/// Snapshots from before something risky stay at least so long.
const EVENT_FLOOR: SignedDuration = SignedDuration::from_hours(48);

/// If the last epoch ended longer ago than this, the clock may have jumped; the next epoch shows it.
const CLOCK_LEAP: SignedDuration = SignedDuration::from_hours(24);

/// A snapshot, as far as retention needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// Its number.
    pub(crate) id: Epoch,
    /// When it was taken.
    pub(crate) time: Timestamp,
    /// Why.
    pub(crate) reason: SnapshotReason,
    /// The user holds it.
    pub(crate) is_held: bool,
    /// Somebody looks at it.
    pub(crate) is_open: bool,
    /// How safe it is.
    pub(crate) state: SnapshotState,
}

/// A span of civil time that has one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Period {
    /// An hour; the one that comes twice when clocks are set back is two.
    Hour,
    /// A day.
    Day,
    /// A week of ISO 8601, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// Why a snapshot stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum KeepReason {
    /// The user holds it.
    Held,
    /// Somebody looks at it.
    Open,
    /// It is the newest that is whole.
    NewestComplete,
    /// It is the newest of which a copy was verified.
    NewestVerified,
    /// There is no copy of it yet, and the policy wants one.
    NotUploaded,
    /// It was taken before something risky or by hand, not long ago.
    Event,
    /// It is one of the newest: the `n`th of so many.
    Last {
        /// From 1.
        n: u32,
        /// Of how many.
        of: u32,
    },
    /// It is not much older than the newest.
    Within,
    /// It is the newest of its hour, day, …
    Newest {
        /// Of what.
        period: Period,
        /// The `n`th bucket, from 1.
        n: u32,
        /// Of how many.
        of: u32,
    },
    /// It is the oldest, and the rule has not used up its number.
    Oldest {
        /// The rule.
        period: Period,
        /// It counts as the `n`th bucket.
        n: u32,
        /// Of how many.
        of: u32,
    },
    /// Without it there were too few.
    Minimum {
        /// From 1.
        n: u32,
        /// Of how many.
        of: u32,
    },
}

/// What becomes of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// The snapshot.
    pub(crate) id: Epoch,
    /// Why it stays; if there is no reason, it goes.
    pub(crate) reasons: Vec<KeepReason>,
}

/// Why the clock cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClockFault {
    /// It shows less than when the last epoch ended.
    WentBack,
    /// It shows more than a day more than when the last epoch ended.
    LeaptAhead,
}

/// What retention says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RetentionPlan {
    /// Nothing may be deleted now.
    Paused(ClockFault),
    /// A verdict on each snapshot, newest first.
    Verdicts(Vec<Verdict>),
}

impl KeepReason {
    /// Returns whether not even a lack of space overrides it.
    pub(crate) fn is_absolute(self) -> bool {
        match self {
            Self::Held | Self::Open | Self::NewestComplete | Self::NewestVerified | Self::Minimum { .. } => {
                true
            }
            Self::NotUploaded
            | Self::Event
            | Self::Last { .. }
            | Self::Within
            | Self::Newest { .. }
            | Self::Oldest { .. } => false,
        }
    }
}

impl std::fmt::Display for KeepReason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held => out.write_str("hold"),
            Self::Open => out.write_str("in use"),
            Self::NewestComplete => out.write_str("newest"),
            Self::NewestVerified => out.write_str("newest verified"),
            Self::NotUploaded => out.write_str("not uploaded"),
            Self::Event => out.write_str("event"),
            Self::Last { n, of } => write!(out, "last {n}/{of}"),
            Self::Within => out.write_str("recent"),
            Self::Newest { period, n, of } => write!(out, "{} {n}/{of}", period.as_str()),
            Self::Oldest { period, n, of } => write!(out, "oldest, {} {n}/{of}", period.as_str()),
            Self::Minimum { n, of } => write!(out, "minimum {n}/{of}"),
        }
    }
}

impl Period {
    const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// Returns the word that users see.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Returns of how many buckets the newest snapshot stays.
    fn count(self, policy: &RetentionPolicy) -> u32 {
        match self {
            Self::Hour => policy.hourly,
            Self::Day => policy.daily,
            Self::Week => policy.weekly,
            Self::Month => policy.monthly,
            Self::Year => policy.yearly,
        }
    }

    /// Returns what is equal for two moments if and only if they are in one bucket.
    fn bucket(self, time: Timestamp, zone: &TimeZone) -> [i64; 5] {
        let civil = time.to_zoned_datetime(zone.clone());
        let week = ISOWeekDate::from(civil.date());
        let (year, month, day) = (civil.year().into(), civil.month().into(), civil.day().into());
        match self {
            // The offset tells the two hours apart that are called the same when clocks are set back.
            Self::Hour => [year, month, day, civil.hour().into(), civil.offset().seconds().into()],
            Self::Day => [year, month, day, 0, 0],
            Self::Week => [week.year().into(), week.week().into(), 0, 0, 0],
            Self::Month => [year, month, 0, 0, 0],
            Self::Year => [year, 0, 0, 0, 0],
        }
    }
}

impl Candidate {
    /// Returns what retention needs to know of a snapshot; a time that no calendar has counts as the nearest that has.
    pub(crate) fn new(snapshot: &SnapshotRecord, is_open: bool) -> Self {
        let nearest = if snapshot.time_ns < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Self {
            id: snapshot.epoch,
            time: Timestamp::from_nanosecond(snapshot.time_ns.into()).unwrap_or(nearest),
            reason: snapshot.reason,
            is_held: snapshot.is_held,
            is_open,
            state: snapshot.state,
        }
    }

    fn is_complete(&self) -> bool {
        match self.state {
            SnapshotState::Sealed
            | SnapshotState::Durable
            | SnapshotState::Uploaded
            | SnapshotState::Verified => true,
            SnapshotState::Degraded | SnapshotState::Incomplete => false,
        }
    }

    fn is_uploaded(&self) -> bool {
        matches!(self.state, SnapshotState::Uploaded | SnapshotState::Verified)
    }

    fn is_event(&self) -> bool {
        match self.reason {
            SnapshotReason::Manual
            | SnapshotReason::BeforeRestore
            | SnapshotReason::Burst
            | SnapshotReason::Container
            | SnapshotReason::Rotation => true,
            SnapshotReason::Automatic | SnapshotReason::Service => false,
        }
    }
}

/// Returns what is wrong with the clock. `last_epoch` is when the last epoch ended.
pub(crate) fn clock_fault(now: Timestamp, last_epoch: Option<Timestamp>) -> Option<ClockFault> {
    let ahead = now.duration_since(last_epoch?);
    if ahead.is_negative() {
        return Some(ClockFault::WentBack);
    }
    (ahead > CLOCK_LEAP).then_some(ClockFault::LeaptAhead)
}

/// Decides which snapshots stay.
pub(crate) fn plan(
    snapshots: &[Candidate],
    policy: &RetentionPolicy,
    now: Timestamp,
    last_epoch: Option<Timestamp>,
    zone: &TimeZone,
) -> RetentionPlan {
    if let Some(fault) = clock_fault(now, last_epoch) {
        return RetentionPlan::Paused(fault);
    }
    let mut sorted = snapshots.to_vec();
    sorted.sort_unstable_by_key(|snapshot| std::cmp::Reverse((snapshot.time, snapshot.id)));
    let mut verdicts: Vec<Verdict> = sorted
        .iter()
        .map(|snapshot| Verdict { id: snapshot.id, reasons: own_reasons(snapshot, &sorted, policy, now) })
        .collect();
    let mut keep = |place: usize, reason| {
        if let Some(verdict) = verdicts.get_mut(place) {
            verdict.reasons.push(reason);
        }
    };
    let places = |of: u32| sorted.iter().enumerate().take(of as usize).map(|(place, _)| place);
    let complete = || sorted.iter().enumerate().filter(|(_, snapshot)| snapshot.is_complete());
    if let Some((place, _)) = complete().next() {
        keep(place, KeepReason::NewestComplete);
    }
    if let Some(place) = sorted.iter().position(|snapshot| snapshot.state == SnapshotState::Verified) {
        keep(place, KeepReason::NewestVerified);
    }
    for (n, place) in (1..).zip(places(policy.keep_last)) {
        keep(place, KeepReason::Last { n, of: policy.keep_last });
    }
    for period in Period::ALL {
        for (place, reason) in buckets(&sorted, period, period.count(policy), zone) {
            keep(place, reason);
        }
    }
    for (n, (place, _)) in (1..).zip(complete().take(policy.min_count as usize)) {
        keep(place, KeepReason::Minimum { n, of: policy.min_count });
    }
    RetentionPlan::Verdicts(verdicts)
}

/// The reasons that have to do with no other snapshot, or with the newest only. `sorted` is newest first.
fn own_reasons(
    snapshot: &Candidate,
    sorted: &[Candidate],
    policy: &RetentionPolicy,
    now: Timestamp,
) -> Vec<KeepReason> {
    let newest = sorted.first().map_or(now, |newest| newest.time);
    let event_age = policy.event_age().max(EVENT_FLOOR);
    let reasons = [
        (snapshot.is_held, KeepReason::Held),
        (snapshot.is_open, KeepReason::Open),
        (policy.keep_until_uploaded && !snapshot.is_uploaded(), KeepReason::NotUploaded),
        (snapshot.is_event() && now.duration_since(snapshot.time) < event_age, KeepReason::Event),
        (newest.duration_since(snapshot.time) < policy.within(), KeepReason::Within),
    ];
    reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

/// Returns which snapshots a rule keeps. Of a bucket in which none is whole, the newest counts.
fn buckets(sorted: &[Candidate], period: Period, of: u32, zone: &TimeZone) -> Vec<(usize, KeepReason)> {
    let bucket_at = |place: usize| sorted.get(place).map(|snapshot| period.bucket(snapshot.time, zone));
    let mut kept = Vec::new();
    let mut start = 0;
    for n in 1..=of {
        let Some(bucket) = bucket_at(start) else { break };
        let length =
            sorted.iter().skip(start).take_while(|next| period.bucket(next.time, zone) == bucket).count();
        let complete = sorted.iter().skip(start).take(length).position(Candidate::is_complete);
        kept.push((start + complete.unwrap_or(0), KeepReason::Newest { period, n, of }));
        start += length;
    }
    // As restic: while the rule has something left to give, the beginning stays.
    let (used, last) = (kept.len(), sorted.len().saturating_sub(1));
    if used > 0 && used < of as usize && kept.iter().all(|(place, _)| *place != last) {
        let n = u32::try_from(used + 1).unwrap_or(of);
        kept.push((last, KeepReason::Oldest { period, n, of }));
    }
    kept
}

#[cfg(test)]
mod tests;
