use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::config::PolicyError;

/// A zone with summer time, as POSIX writes it, so that no database of zones is needed.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn at(id: u32, text: &str) -> Candidate {
    Candidate {
        id: Epoch(id),
        time: time(text),
        reason: SnapshotReason::Automatic,
        is_held: false,
        is_open: false,
        state: SnapshotState::Durable,
    }
}

fn nothing() -> RetentionPolicy {
    RetentionPolicy {
        keep_last: 0,
        within_minutes: 0,
        hourly: 0,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        event_days: 0,
        trash_days: 0,
        min_count: 0,
        keep_until_uploaded: false,
    }
}

/// Runs at the time of the newest snapshot.
fn verdicts(snapshots: &[Candidate], policy: &RetentionPolicy) -> Vec<Verdict> {
    let newest = snapshots.iter().map(|snapshot| snapshot.time).max().unwrap();
    match plan(snapshots, policy, newest, Some(newest), &berlin()) {
        RetentionPlan::Verdicts(verdicts) => verdicts,
        RetentionPlan::Paused(fault) => panic!("paused: {fault:?}"),
    }
}

fn kept(snapshots: &[Candidate], policy: &RetentionPolicy) -> BTreeSet<u32> {
    let verdicts = verdicts(snapshots, policy);
    verdicts.iter().filter(|verdict| !verdict.reasons.is_empty()).map(|verdict| verdict.id.0).collect()
}

fn set(ids: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    ids.into_iter().collect()
}

#[test]
fn hour_that_comes_twice_is_two_and_the_day_is_one() {
    // 2025-10-26: 03:00 CEST becomes 02:00 CET at 01:00 UTC.
    let snapshots =
        [at(1, "2025-10-26T00:10:00Z"), at(2, "2025-10-26T00:50:00Z"), at(3, "2025-10-26T01:10:00Z")];
    let hourly = RetentionPolicy { hourly: 2, ..nothing() };
    assert_eq!(kept(&snapshots, &hourly), set([2, 3]));
    let daily = RetentionPolicy { daily: 1, ..nothing() };
    assert_eq!(kept(&snapshots, &daily), set([3]));
}

#[test]
fn day_begins_at_midnight_of_the_zone() {
    let snapshots =
        [at(1, "2025-07-01T21:59:00Z"), at(2, "2025-07-01T22:01:00Z"), at(3, "2025-07-02T21:00:00Z")];
    assert_eq!(kept(&snapshots, &RetentionPolicy { daily: 2, ..nothing() }), set([1, 3]));
}

#[test]
fn week_across_the_new_year_is_one() {
    // Monday 2024-12-30 to Sunday 2025-01-05 is week 1 of 2025.
    let snapshots =
        [at(1, "2024-12-29T12:00:00Z"), at(2, "2024-12-31T12:00:00Z"), at(3, "2025-01-02T12:00:00Z")];
    assert_eq!(kept(&snapshots, &RetentionPolicy { weekly: 2, ..nothing() }), set([1, 3]));
}

#[test]
fn oldest_stays_while_a_rule_has_buckets_left() {
    let snapshots =
        [at(1, "2025-01-01T10:00:00Z"), at(2, "2025-01-01T11:00:00Z"), at(3, "2025-01-02T10:00:00Z")];
    assert_eq!(kept(&snapshots, &RetentionPolicy { daily: 2, ..nothing() }), set([2, 3]));
    assert_eq!(kept(&snapshots, &RetentionPolicy { daily: 3, ..nothing() }), set([1, 2, 3]));
    let first = verdicts(&snapshots, &RetentionPolicy { daily: 3, ..nothing() }).pop().unwrap();
    assert_eq!(first.reasons, [KeepReason::Oldest { period: Period::Day, n: 3, of: 3 }]);
}

#[test]
fn within_counts_from_the_newest_and_not_from_now() {
    let snapshots =
        [at(1, "2025-01-01T10:00:00Z"), at(2, "2025-01-01T10:45:00Z"), at(3, "2025-01-01T11:30:00Z")];
    let policy = RetentionPolicy { within_minutes: 60, ..nothing() };
    let later = time("2025-01-02T11:00:00Z");
    let RetentionPlan::Verdicts(verdicts) =
        plan(&snapshots, &policy, later, Some(snapshots[2].time), &berlin())
    else {
        panic!("paused")
    };
    let reasons: Vec<Vec<String>> =
        verdicts.iter().map(|verdict| verdict.reasons.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(reasons, [vec!["recent", "newest"], vec!["recent"], vec![]]);
}

#[test]
fn reasons_are_all_shown_with_their_numbers() {
    let snapshots =
        [at(1, "2025-01-01T10:00:00Z"), Candidate { is_held: true, ..at(2, "2025-01-02T10:00:00Z") }];
    let policy = RetentionPolicy { daily: 7, weekly: 4, min_count: 1, ..nothing() };
    let newest = &verdicts(&snapshots, &policy)[0];
    let shown: Vec<String> = newest.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["hold", "newest", "daily 1/7", "weekly 1/4", "minimum 1/1"]);
}

#[test]
fn bucket_prefers_a_whole_snapshot_to_a_newer_damaged_one() {
    let damaged = Candidate { state: SnapshotState::Degraded, ..at(2, "2025-01-01T12:00:00Z") };
    let snapshots = [at(1, "2025-01-01T10:00:00Z"), damaged, at(3, "2025-01-02T10:00:00Z")];
    assert_eq!(kept(&snapshots, &RetentionPolicy { daily: 2, ..nothing() }), set([1, 3]));
    let only_damaged = [damaged, at(3, "2025-01-02T10:00:00Z")];
    assert_eq!(kept(&only_damaged, &RetentionPolicy { daily: 2, ..nothing() }), set([2, 3]));
}

#[test]
fn snapshot_before_something_risky_stays_for_two_days_at_least() {
    let risky = |id, text| Candidate { reason: SnapshotReason::BeforeRestore, ..at(id, text) };
    let snapshots = [
        risky(1, "2025-01-01T09:59:00Z"),
        risky(2, "2025-01-01T10:01:00Z"),
        at(3, "2025-01-01T11:00:00Z"),
        at(4, "2025-01-03T10:00:00Z"),
    ];
    assert_eq!(kept(&snapshots, &nothing()), set([2, 4]));
    assert_eq!(kept(&snapshots, &RetentionPolicy { event_days: 3, ..nothing() }), set([1, 2, 4]));
}

#[test]
fn nothing_is_deleted_while_the_clock_is_wrong() {
    let snapshots = [at(1, "2025-01-01T10:00:00Z"), at(2, "2025-01-02T10:00:00Z")];
    let plan_at = |text: &str| plan(&snapshots, &nothing(), time(text), Some(snapshots[1].time), &berlin());
    assert_eq!(plan_at("2025-01-02T09:59:59Z"), RetentionPlan::Paused(ClockFault::WentBack));
    assert_eq!(plan_at("2025-01-03T10:00:01Z"), RetentionPlan::Paused(ClockFault::LeaptAhead));
    assert!(matches!(plan_at("2025-01-03T10:00:00Z"), RetentionPlan::Verdicts(_)));
}

#[test]
fn not_uploaded_snapshots_stay_if_the_policy_says_so() {
    let uploaded = |id, text| Candidate { state: SnapshotState::Uploaded, ..at(id, text) };
    let snapshots =
        [at(1, "2025-01-01T10:00:00Z"), uploaded(2, "2025-01-02T10:00:00Z"), at(3, "2025-01-03T10:00:00Z")];
    let policy = RetentionPolicy { keep_until_uploaded: true, ..nothing() };
    assert_eq!(kept(&snapshots, &policy), set([1, 3]));
}

#[test]
fn snapshot_of_the_catalog_is_a_candidate() {
    let record = SnapshotRecord {
        epoch: Epoch(7),
        time_ns: 1_735_725_600_000_000_000,
        actor: super::super::record::Actor::default(),
        reason: SnapshotReason::Manual,
        name: None,
        note: None,
        is_held: true,
        state: SnapshotState::Verified,
    };
    let expected = Candidate {
        is_held: true,
        reason: SnapshotReason::Manual,
        state: SnapshotState::Verified,
        ..at(7, "2025-01-01T10:00:00Z")
    };
    assert_eq!(Candidate::new(&record, false), expected);
    let never = SnapshotRecord { time_ns: i64::MAX, ..record };
    assert!(Candidate::new(&never, true).time > expected.time);
}

#[test]
fn policy_is_read_from_the_table_and_checked() {
    let parse = |text: &str| toml::from_str::<RetentionPolicy>(text).map(RetentionPolicy::checked);
    let default = RetentionPolicy::default();
    assert_eq!((default.hourly, default.daily, default.weekly, default.monthly), (24, 14, 8, 6));
    assert_eq!((default.within_minutes, default.event_days, default.trash_days), (60, 14, 7));
    assert_eq!(default.trash_age(), SignedDuration::from_hours(7 * 24));
    assert_eq!(parse("").unwrap(), Ok(default.clone()));
    assert_eq!(parse("daily = 3").unwrap(), Ok(RetentionPolicy { daily: 3, ..default }));
    let too_large = PolicyError::TooLarge { key: "daily", value: 200_000 };
    assert_eq!(parse("daily = 200000").unwrap(), Err(too_large));
    let empty = "keep-last = 0\nwithin-minutes = 0\nhourly = 0\ndaily = 0\nweekly = 0\nmonthly = 0";
    assert_eq!(parse(empty).unwrap(), Err(PolicyError::Empty));
    assert!(parse("dayly = 3").is_err());
    assert!(parse("daily = -1").is_err());
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let states = prop_oneof![
        4 => Just(SnapshotState::Durable),
        1 => Just(SnapshotState::Verified),
        1 => Just(SnapshotState::Degraded),
        1 => Just(SnapshotState::Incomplete),
    ];
    let reasons = prop_oneof![3 => Just(SnapshotReason::Automatic), 1 => Just(SnapshotReason::Burst)];
    let one = (0_i64..400 * 24 * 60, any::<prop::sample::Index>(), any::<bool>(), states, reasons);
    prop::collection::vec(one, 1..80).prop_map(|list| {
        let begin = time("2024-10-01T00:00:00Z");
        let mut snapshots: Vec<Candidate> = list
            .into_iter()
            .map(|(minutes, chance, is_open, state, reason)| Candidate {
                id: Epoch(0),
                time: begin + SignedDuration::from_mins(minutes),
                reason,
                is_held: chance.index(8) == 0,
                is_open: is_open && chance.index(8) == 1,
                state,
            })
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.time);
        for (snapshot, id) in snapshots.iter_mut().zip(1..) {
            snapshot.id = Epoch(id);
        }
        snapshots
    })
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let rules = (0_u32..4, 0_u32..3000, 0_u32..30, 0_u32..20, 0_u32..10, 0_u32..10, 0_u32..3, 0_u32..5);
    rules.prop_map(|(keep_last, within_minutes, hourly, daily, weekly, monthly, yearly, min_count)| {
        RetentionPolicy {
            keep_last,
            within_minutes,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            min_count,
            ..nothing()
        }
    })
}

fn more(a: &RetentionPolicy, b: &RetentionPolicy) -> RetentionPolicy {
    RetentionPolicy {
        keep_last: a.keep_last + b.keep_last,
        within_minutes: a.within_minutes + b.within_minutes,
        hourly: a.hourly + b.hourly,
        daily: a.daily + b.daily,
        weekly: a.weekly + b.weekly,
        monthly: a.monthly + b.monthly,
        yearly: a.yearly + b.yearly,
        event_days: a.event_days + b.event_days,
        min_count: a.min_count + b.min_count,
        ..nothing()
    }
}

proptest! {
    #[test]
    fn what_is_held_or_open_or_the_newest_stays(snapshots in candidates(), policy in policies()) {
        let kept = kept(&snapshots, &policy);
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.is_held || snapshot.is_open) {
            prop_assert!(kept.contains(&snapshot.id.0));
        }
        if let Some(newest) = snapshots.iter().rev().find(|snapshot| snapshot.is_complete()) {
            prop_assert!(kept.contains(&newest.id.0));
        }
        if let Some(verified) = snapshots.iter().rev().find(|snapshot| snapshot.state == SnapshotState::Verified) {
            prop_assert!(kept.contains(&verified.id.0));
        }
    }

    #[test]
    fn policy_that_asks_for_more_keeps_more(snapshots in candidates(), a in policies(), b in policies()) {
        prop_assert!(kept(&snapshots, &a).is_subset(&kept(&snapshots, &more(&a, &b))));
    }

    #[test]
    fn doing_it_twice_deletes_nothing_more(snapshots in candidates(), policy in policies()) {
        let survivors = kept(&snapshots, &policy);
        let rest: Vec<Candidate> =
            snapshots.into_iter().filter(|snapshot| survivors.contains(&snapshot.id.0)).collect();
        if !rest.is_empty() {
            prop_assert_eq!(kept(&rest, &policy), survivors);
        }
    }

    #[test]
    fn as_many_stay_as_must(snapshots in candidates(), policy in policies()) {
        let kept = kept(&snapshots, &policy);
        let complete = |snapshot: &&Candidate| snapshot.is_complete();
        let wanted = snapshots.iter().filter(complete).count().min(policy.min_count as usize);
        let stay = snapshots.iter().filter(complete).filter(|snapshot| kept.contains(&snapshot.id.0)).count();
        prop_assert!(stay >= wanted);
    }

    #[test]
    fn every_bucket_that_counts_has_its_newest(snapshots in candidates(), policy in policies()) {
        let kept = kept(&snapshots, &policy);
        for period in Period::ALL {
            // By the start of the bucket, so in the order of time.
            let mut buckets: BTreeMap<Timestamp, Vec<&Candidate>> = BTreeMap::new();
            for snapshot in &snapshots {
                let same = |other: &&Candidate| {
                    period.bucket(other.time, &berlin()) == period.bucket(snapshot.time, &berlin())
                };
                let first = snapshots.iter().find(same).unwrap();
                buckets.entry(first.time).or_default().push(snapshot);
            }
            for bucket in buckets.values().rev().take(period.count(&policy) as usize) {
                let newest = bucket.iter().rev().find(|snapshot| snapshot.is_complete());
                let newest = newest.or(bucket.last()).unwrap();
                prop_assert!(kept.contains(&newest.id.0), "{period:?}");
            }
        }
    }

    #[test]
    fn what_goes_is_needed_by_no_rule(snapshots in candidates(), policy in policies()) {
        let survivors = kept(&snapshots, &policy);
        let limit = policy.keep_last + policy.hourly + policy.daily + policy.weekly + policy.monthly
            + policy.yearly + policy.min_count + 2;
        let newest = snapshots.last().unwrap().time;
        let others = snapshots.iter().filter(|snapshot| {
            let is_recent = newest.duration_since(snapshot.time) < policy.within();
            let is_young_event =
                snapshot.is_event() && newest.duration_since(snapshot.time) < EVENT_FLOOR;
            let is_safe = snapshot.is_held || snapshot.is_open || is_recent || is_young_event;
            survivors.contains(&snapshot.id.0) && !is_safe
        });
        prop_assert!(others.count() <= limit as usize);
    }
}
