//! What history gives up when it takes too much.
//!
//! A pure function: what the store holds and what needs it go in, the steps come out in the order in which they are to
//! be taken. First the trash, oldest first; then automatic snapshots, oldest first; then what retention would keep, oldest
//! first; never what is held, looked at or the last that is whole. If all that is not enough, somebody must be told.
//!
//! The bytes of a step are what it frees after the steps before it: what two snapshots share is freed by the second.

use std::ops::Range;

use super::record::SnapshotReason;
use super::retention::{KeepReason, Verdict};
use super::sequence::{Epoch, Sequence};

/// How full it is, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fullness {
    /// What history takes.
    pub(crate) used: u64,
    /// What it may take.
    pub(crate) budget: u64,
    /// What is free on the filesystem.
    pub(crate) free: u64,
    /// What should be.
    pub(crate) free_floor: u64,
}

/// How easily a snapshot is given up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Rank {
    /// It was taken because it was time.
    Automatic,
    /// Retention would keep it.
    Extra,
    /// It stays.
    Protected,
}

/// A snapshot that may have to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Evictable {
    /// The snapshot.
    pub(crate) id: Epoch,
    /// How easily.
    pub(crate) rank: Rank,
}

/// Bytes that the same moments need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holding {
    /// The snapshots that need them, as places in the list of snapshots.
    pub(crate) snapshots: Range<usize>,
    /// When they were deleted or overwritten: in the trash as long as this is after its beginning.
    pub(crate) until: Sequence,
    /// How many.
    pub(crate) bytes: u64,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Eviction {
    /// The trash begins at this moment from now on.
    ShortenTrash {
        /// The moment.
        start: Sequence,
        /// What that frees.
        bytes: u64,
    },
    /// A snapshot goes.
    DropSnapshot {
        /// The snapshot.
        id: Epoch,
        /// What that frees.
        bytes: u64,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct EvictionPlan {
    /// The steps in order.
    pub(crate) steps: Vec<Eviction>,
    /// What they free together.
    pub(crate) frees: u64,
    /// So many bytes too much remain: somebody must be told.
    pub(crate) missing: u64,
}

impl Fullness {
    /// Returns how many bytes must go.
    pub(crate) fn excess(&self) -> u64 {
        let over_budget = self.used.saturating_sub(self.budget);
        let too_little_free = self.free_floor.saturating_sub(self.free);
        // More than it has, history cannot give.
        over_budget.max(too_little_free)
    }
}

impl Rank {
    /// Returns the rank of a snapshot by what retention says of it.
    pub(crate) fn of(reason: SnapshotReason, verdict: &Verdict) -> Self {
        if verdict.reasons.iter().any(|reason| reason.is_absolute()) {
            return Self::Protected;
        }
        let is_by_age_only =
            |reason: &KeepReason| matches!(reason, KeepReason::Within | KeepReason::Last { .. });
        match reason {
            SnapshotReason::Automatic | SnapshotReason::Service
                if verdict.reasons.iter().all(is_by_age_only) =>
            {
                Self::Automatic
            }
            _ => Self::Extra,
        }
    }
}

/// Plans how to free `excess` bytes. `snapshots` are in the order of time; `trash_start` is where the trash begins now,
/// `trash_end` the latest moment at which it may begin: the end of the last epoch.
pub(crate) fn plan(
    excess: u64,
    snapshots: &[Evictable],
    holdings: &[Holding],
    trash_start: Sequence,
    trash_end: Sequence,
) -> EvictionPlan {
    let mut state = State { snapshots, holdings, trash_start, dropped: vec![false; snapshots.len()] };
    let mut plan = EvictionPlan::default();
    if excess == 0 {
        return plan;
    }
    state.shorten_trash(excess, trash_end, &mut plan);
    state.drop_snapshots(excess, &mut plan);
    plan.missing = excess.saturating_sub(plan.frees);
    plan
}

struct State<'a> {
    snapshots: &'a [Evictable],
    holdings: &'a [Holding],
    trash_start: Sequence,
    dropped: Vec<bool>,
}

impl State<'_> {
    fn shorten_trash(&mut self, excess: u64, latest: Sequence, plan: &mut EvictionPlan) {
        let mut trash: Vec<(Sequence, u64)> = self
            .holdings
            .iter()
            .filter(|holding| holding.snapshots.is_empty())
            .filter(|holding| holding.until > self.trash_start && holding.until <= latest)
            .map(|holding| (holding.until, holding.bytes))
            .collect();
        trash.sort_unstable();
        let mut bytes = 0_u64;
        let mut trash = trash.into_iter().peekable();
        while let Some((until, more)) = trash.next() {
            bytes = bytes.saturating_add(more);
            let is_whole_moment = trash.peek().is_none_or(|(next, _)| *next != until);
            // What is deleted at a moment is in the trash if the trash begins before it.
            if is_whole_moment && bytes > 0 {
                self.trash_start = until;
                if plan.frees.saturating_add(bytes) >= excess {
                    break;
                }
            }
        }
        if bytes > 0 {
            plan.steps.push(Eviction::ShortenTrash { start: self.trash_start, bytes });
            plan.frees = plan.frees.saturating_add(bytes);
        }
        if plan.frees < excess && self.trash_start < latest {
            // What snapshots need is in the trash too, and would be kept by it when they are gone.
            if let Some(Eviction::ShortenTrash { start, .. }) = plan.steps.last_mut() {
                *start = latest;
            } else if self.holdings.iter().any(|holding| self.is_in_trash(holding)) {
                plan.steps.push(Eviction::ShortenTrash { start: latest, bytes: 0 });
            }
            self.trash_start = latest;
        }
    }

    fn is_in_trash(&self, holding: &Holding) -> bool {
        holding.until > self.trash_start
    }

    fn is_needed(&self, holding: &Holding) -> bool {
        let needing = self.dropped.get(holding.snapshots.clone()).unwrap_or_default();
        self.is_in_trash(holding) || needing.iter().any(|is_dropped| !is_dropped)
    }

    /// Drops snapshots by rank and age until enough is freed. Those that free nothing even together are spared.
    fn drop_snapshots(&mut self, excess: u64, plan: &mut EvictionPlan) {
        let mut candidates: Vec<(Rank, usize, Epoch)> = self
            .snapshots
            .iter()
            .enumerate()
            .filter(|(_, snapshot)| snapshot.rank != Rank::Protected)
            .map(|(place, snapshot)| (snapshot.rank, place, snapshot.id))
            .collect();
        candidates.sort_unstable();
        let mut used: Vec<((Rank, usize, Epoch), u64)> = Vec::new();
        // Dropped, and nothing was freed so far by that.
        let mut pending: Vec<(Rank, usize, Epoch)> = Vec::new();
        for candidate in candidates {
            if plan.frees >= excess {
                break;
            }
            let (_, place, _) = candidate;
            let freed = self.drop_one(place);
            if freed == 0 {
                pending.push(candidate);
                continue;
            }
            let (sharing, rest) = pending
                .drain(..)
                .partition::<Vec<_>, _>(|earlier| self.shares_what_is_freed(earlier.1, place));
            pending = rest;
            used.extend(sharing.into_iter().map(|earlier| (earlier, 0)));
            used.push((candidate, freed));
            plan.frees = plan.frees.saturating_add(freed);
        }
        // In the order in which they were dropped, or the bytes would be others.
        used.sort_unstable();
        plan.steps.extend(used.into_iter().map(|((_, _, id), bytes)| Eviction::DropSnapshot { id, bytes }));
    }

    /// Returns what it frees.
    fn drop_one(&mut self, place: usize) -> u64 {
        if let Some(is_dropped) = self.dropped.get_mut(place) {
            *is_dropped = true;
        }
        let freed = self.holdings.iter().filter(|holding| holding.snapshots.contains(&place));
        freed
            .filter(|holding| !self.is_needed(holding))
            .fold(0, |sum, holding| sum.saturating_add(holding.bytes))
    }

    fn shares_what_is_freed(&self, earlier: usize, last: usize) -> bool {
        self.holdings.iter().any(|holding| {
            let is_shared = holding.snapshots.contains(&earlier) && holding.snapshots.contains(&last);
            is_shared && holding.bytes > 0 && !self.is_needed(holding)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(n: u64) -> Sequence {
        Sequence::new(Epoch(1), n)
    }

    fn snapshots(ranks: &[Rank]) -> Vec<Evictable> {
        (1..).zip(ranks).map(|(id, rank)| Evictable { id: Epoch(id), rank: *rank }).collect()
    }

    fn holding(snapshots: Range<usize>, until: u64, bytes: u64) -> Holding {
        Holding { snapshots, until: moment(until), bytes }
    }

    fn drop_snapshot(id: u32, bytes: u64) -> Eviction {
        Eviction::DropSnapshot { id: Epoch(id), bytes }
    }

    #[test]
    fn trash_goes_first_and_no_more_of_it_than_must() {
        let holdings =
            [holding(0..0, 30, 5), holding(0..0, 10, 7), holding(0..0, 20, 4), holding(0..1, 5, 100)];
        let evictable = snapshots(&[Rank::Automatic]);
        let plan = plan(10, &evictable, &holdings, moment(0), moment(50));
        assert_eq!(plan.steps, [Eviction::ShortenTrash { start: moment(20), bytes: 11 }]);
        assert_eq!((plan.frees, plan.missing), (11, 0));
    }

    #[test]
    fn automatic_snapshots_go_before_those_that_the_policy_keeps() {
        let holdings = [holding(0..1, 10, 50), holding(1..2, 20, 50), holding(2..3, 30, 50)];
        let evictable = snapshots(&[Rank::Extra, Rank::Automatic, Rank::Protected]);
        let plan = plan(80, &evictable, &holdings, moment(40), moment(50));
        assert_eq!(plan.steps, [drop_snapshot(2, 50), drop_snapshot(1, 50)]);
    }

    #[test]
    fn snapshot_that_frees_nothing_is_spared() {
        // What the first needs, the protected one needs too; the second and third share something.
        let holdings = [holding(0..4, 10, 50), holding(1..3, 10, 50)];
        let evictable = snapshots(&[Rank::Automatic, Rank::Automatic, Rank::Automatic, Rank::Protected]);
        let plan = plan(60, &evictable, &holdings, moment(40), moment(40));
        assert_eq!(plan.steps, [drop_snapshot(2, 0), drop_snapshot(3, 50)]);
        assert_eq!((plan.frees, plan.missing), (50, 10));
    }

    #[test]
    fn lack_of_free_space_counts_as_well_as_the_budget() {
        let fullness = Fullness { used: 100, budget: 90, free: 5, free_floor: 30 };
        assert_eq!(fullness.excess(), 25);
        assert_eq!(Fullness { free: 50, ..fullness }.excess(), 10);
        assert_eq!(Fullness { free: 50, used: 80, ..fullness }.excess(), 0);
    }

    #[test]
    fn rank_follows_what_retention_says() {
        let rank = |reason, reasons: &[KeepReason]| {
            Rank::of(reason, &Verdict { id: Epoch(1), reasons: reasons.to_vec() })
        };
        let daily = KeepReason::Newest { period: super::super::retention::Period::Day, n: 1, of: 7 };
        assert_eq!(rank(SnapshotReason::Automatic, &[]), Rank::Automatic);
        assert_eq!(rank(SnapshotReason::Automatic, &[KeepReason::Within]), Rank::Automatic);
        assert_eq!(rank(SnapshotReason::Automatic, &[KeepReason::Within, daily]), Rank::Extra);
        assert_eq!(rank(SnapshotReason::Manual, &[]), Rank::Extra);
        assert_eq!(rank(SnapshotReason::Automatic, &[daily, KeepReason::Held]), Rank::Protected);
    }

    fn cases() -> impl Strategy<Value = (u64, Vec<Evictable>, Vec<Holding>, u64)> {
        let ranks = prop::collection::vec(
            prop_oneof![Just(Rank::Automatic), Just(Rank::Extra), Just(Rank::Protected)],
            0..8,
        );
        ranks.prop_flat_map(|ranks| {
            let count = ranks.len();
            let one = (0..=count, 0..=count, 0_u64..20, 0_u64..50)
                .prop_map(|(a, b, until, bytes)| holding(a.min(b)..a.max(b), until, bytes));
            (0_u64..600, Just(snapshots(&ranks)), prop::collection::vec(one, 0..30), 0_u64..20)
        })
    }

    /// What is freed if the trash begins at `start` and some snapshots are gone.
    fn freed(holdings: &[Holding], old_start: Sequence, start: Sequence, gone: &[usize]) -> u64 {
        let is_needed = |holding: &Holding, start: Sequence, gone: &[usize]| {
            holding.until > start || holding.snapshots.clone().any(|place| !gone.contains(&place))
        };
        let freed = holdings
            .iter()
            .filter(|holding| is_needed(holding, old_start, &[]) && !is_needed(holding, start, gone));
        freed.map(|holding| holding.bytes).sum()
    }

    fn outcome(plan: &EvictionPlan, old_start: Sequence) -> (Sequence, Vec<usize>) {
        let mut start = old_start;
        let mut gone = Vec::new();
        for step in &plan.steps {
            match step {
                Eviction::ShortenTrash { start: new, .. } => start = *new,
                Eviction::DropSnapshot { id, .. } => gone.push(id.0 as usize - 1),
            }
        }
        (start, gone)
    }

    proptest! {
        #[test]
        fn plan_frees_what_it_says_and_enough_or_all_it_can((excess, snapshots, holdings, start) in cases()) {
            let (start, end) = (moment(start), moment(20));
            let plan = plan(excess, &snapshots, &holdings, start, end);
            let (new_start, gone) = outcome(&plan, start);
            prop_assert_eq!(freed(&holdings, start, new_start, &gone), plan.frees);
            let by_steps: u64 = plan.steps.iter().map(|step| match step {
                Eviction::ShortenTrash { bytes, .. } | Eviction::DropSnapshot { bytes, .. } => *bytes,
            }).sum();
            prop_assert_eq!(by_steps, plan.frees);
            prop_assert_eq!(plan.missing, excess.saturating_sub(plan.frees));
            if plan.missing > 0 {
                let all: Vec<usize> = (0..snapshots.len())
                    .filter(|place| snapshots[*place].rank != Rank::Protected)
                    .collect();
                prop_assert_eq!(plan.frees, freed(&holdings, start, end, &all), "more could be freed");
            }
        }

        #[test]
        fn protected_snapshots_stay_and_others_go_only_when_the_trash_is_empty((excess, snapshots, holdings, start) in cases()) {
            let (start, end) = (moment(start), moment(20));
            let plan = plan(excess, &snapshots, &holdings, start, end);
            let (new_start, gone) = outcome(&plan, start);
            let rank = |place: &usize| snapshots[*place].rank;
            prop_assert!(gone.iter().all(|place| rank(place) != Rank::Protected));
            prop_assert!(gone.is_sorted_by_key(rank));
            if !gone.is_empty() {
                let has_trash = holdings.iter().any(|holding| holding.until > new_start && holding.bytes > 0);
                prop_assert!(!has_trash, "a snapshot goes before the trash");
            }
            if excess == 0 {
                prop_assert!(plan.steps.is_empty());
            }
        }
    }
}
