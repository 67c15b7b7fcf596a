//! Grace clocks, thresholds, boosts, and a wall clock that jumps.

use super::*;

/// What `tick` has to say at `start` plus so many hours. Ticks every half an hour on the way, as a daemon would.
struct Days {
    ledger: Arc<Ledger>,
    minutes: i64,
}

impl Days {
    fn new(ledger: &Arc<Ledger>) -> Self {
        assert_eq!(ledger.tick(start()), []);
        Self { ledger: Arc::clone(ledger), minutes: 0 }
    }

    fn now(&self) -> Timestamp {
        start() + SignedDuration::from_mins(self.minutes)
    }

    /// Lets time pass; returns every event with the hour it came at.
    fn pass(&mut self, hours: i64) -> Vec<(i64, EventKind)> {
        let mut events = Vec::new();
        for _ in 0..hours * 2 {
            self.minutes += 30;
            let hour = self.minutes / 60;
            events.extend(kinds(self.ledger.tick(self.now())).into_iter().map(|kind| (hour, kind)));
        }
        events
    }
}

const BYTES: Dimension = Dimension::Bytes;

#[test]
fn grace_runs_reminds_and_expires_into_a_hard_limit() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    let mut days = Days::new(&ledger);
    write(&account, 100 * MIB).unwrap();
    assert_eq!(days.pass(1), []);
    write(&account, MIB).unwrap();
    let deadline = days.now() + SignedDuration::from_mins(30) + hours(7 * 24);
    assert_eq!(days.pass(1), [(1, EventKind::GraceStarted { dimension: BYTES, deadline })]);
    assert_eq!(ledger.snapshot(&user()).unwrap().state, State::Grace);
    let ending = |hours| EventKind::GraceEnding { dimension: BYTES, hours, deadline };
    let events = days.pass(7 * 24);
    assert_eq!(
        events,
        [
            (1 + 4 * 24, ending(72)),
            (1 + 6 * 24, ending(24)),
            (7 * 24, ending(1)),
            (1 + 7 * 24, EventKind::GraceExpired { dimension: BYTES }),
        ]
    );
    let refusal = refused(write(&account, 4096));
    assert_eq!((refusal.reason, refusal.limit), (Reason::GraceExpired, 100 * MIB));
    let state = ledger.snapshot(&user()).unwrap();
    assert_eq!((state.state, state.bytes.grace_deadline), (State::Expired, Some(deadline)));
    assert_eq!(days.pass(48), []);
}

#[test]
fn falling_to_the_soft_limit_stops_the_clock() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    let mut days = Days::new(&ledger);
    write(&account, 101 * MIB).unwrap();
    days.pass(24 * 6);
    account.settle(-(MIB.cast_signed()), 0);
    assert_eq!(kinds(ledger.tick(days.now())), [EventKind::GraceStopped { dimension: BYTES }]);
    write(&account, MIB).unwrap();
    let events = days.pass(1);
    assert!(matches!(events[..], [(_, EventKind::GraceStarted { .. })]), "{events:?}");
}

#[test]
fn cleaning_up_after_expiry_allows_growth_without_waiting_for_a_tick() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    let mut days = Days::new(&ledger);
    write(&account, 110 * MIB).unwrap();
    days.pass(24 * 8);
    account.settle(-20 * MIB.cast_signed(), 0);
    assert_eq!(write(&account, 30 * MIB), Ok(10 * MIB));
    assert_eq!(write(&account, 30 * MIB), Ok(30 * MIB));
    let events = days.pass(1);
    assert_eq!(events[0].1, EventKind::GraceStopped { dimension: BYTES });
    assert!(matches!(events[1..], [(_, EventKind::GraceStarted { .. })]), "{events:?}");
}

#[test]
fn clock_of_an_earlier_process_goes_on_and_can_be_extended() {
    let ledger = Ledger::new();
    let deadline = start() + hours(2);
    ledger.set_limits(&user(), Some(soft_and_hard(100 * MIB, 200 * MIB)), start());
    ledger.set_grace_deadline(&user(), BYTES, deadline, start());
    let account = attach(&ledger, "p");
    account.settle(110 * MIB.cast_signed(), 0);
    let mut days = Days::new(&ledger);
    let one_left = EventKind::GraceEnding { dimension: BYTES, hours: 1, deadline };
    assert_eq!(days.pass(3), [(1, one_left), (2, EventKind::GraceExpired { dimension: BYTES })]);
    assert!(write(&account, 4096).is_err());
    ledger.set_grace_deadline(&user(), BYTES, start() + hours(10), days.now());
    assert_eq!(write(&account, 4096), Ok(4096));
    let again = days.pass(8);
    assert_eq!(again.last(), Some(&(10, EventKind::GraceExpired { dimension: BYTES })));
}

#[test]
fn clock_of_a_user_without_projects_is_neither_stopped_nor_forgotten() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    let mut days = Days::new(&ledger);
    account.settle(150 * MIB.cast_signed(), 0);
    days.pass(1);
    drop(account);
    assert_eq!(days.pass(24 * 8), []);
    let account = attach(&ledger, "p");
    account.settle(150 * MIB.cast_signed(), 0);
    assert_eq!(days.pass(1)[0].1, EventKind::GraceExpired { dimension: BYTES });
    assert!(write(&account, 4096).is_err());
}

#[test]
fn longer_grace_moves_a_running_deadline() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    let mut days = Days::new(&ledger);
    account.settle(150 * MIB.cast_signed(), 0);
    days.pass(1);
    let limits = Limits { grace: Some(hours(14 * 24)), ..soft_and_hard(100 * MIB, 200 * MIB) };
    let old = ledger.snapshot(&user()).unwrap().bytes.grace_deadline.unwrap();
    ledger.set_limits(&user(), Some(limits), days.now());
    let new = ledger.snapshot(&user()).unwrap().bytes.grace_deadline.unwrap();
    assert_eq!(new.duration_since(old), hours(7 * 24));
}

#[test]
fn no_grace_makes_the_soft_limit_hard_at_once() {
    let limits = Limits { grace: Some(SignedDuration::ZERO), ..soft_and_hard(100 * MIB, 200 * MIB) };
    let (ledger, account) = with_user_limits(limits);
    write(&account, 101 * MIB).unwrap();
    assert_eq!(kinds(ledger.tick(start())).len(), 2);
    assert_eq!(refused(write(&account, 4096)).reason, Reason::GraceExpired);
}

#[test]
fn jump_of_the_wall_clock_costs_an_hour_of_grace_at_most() {
    let (ledger, account) = with_user_limits(soft_and_hard(100 * MIB, 200 * MIB));
    account.settle(150 * MIB.cast_signed(), 0);
    ledger.tick(start());
    let year = hours(365 * 24);
    let left =
        |now: Timestamp| ledger.snapshot(&user()).unwrap().bytes.grace_deadline.unwrap().duration_since(now);
    let before = left(start());
    assert_eq!(kinds(ledger.tick(start() + year)), [EventKind::ClockJumped { by: year }]);
    assert_eq!(left(start() + year), before - hours(1));
    assert_eq!(kinds(ledger.tick(start())), [EventKind::ClockJumped { by: -year }]);
    assert_eq!(left(start()), before);
    assert_eq!(kinds(ledger.tick(start() + hours(1))), []);
    assert_eq!(left(start() + hours(1)), before - hours(1));
}

#[test]
fn threshold_is_told_once_a_crossing_and_the_highest_only() {
    let (ledger, account) = with_user_limits(hard(100 * MIB));
    let told = |ledger: &Ledger| {
        let percents = kinds(ledger.tick(start())).into_iter().map(|kind| match kind {
            EventKind::Threshold { percent, dimension: BYTES, .. } => percent,
            EventKind::HardReached { dimension: BYTES, used, hard } if used == hard => 100,
            other => panic!("{other:?}"),
        });
        percents.collect::<Vec<u8>>()
    };
    let grow = |mib: i64| account.settle(mib << 20, 0);
    grow(79);
    assert_eq!(told(&ledger), Vec::<u8>::new());
    grow(1);
    assert_eq!((told(&ledger), told(&ledger)), (vec![80], vec![]));
    // Wobbling at the line is no crossing.
    account.settle(-4096, 0);
    assert_eq!(told(&ledger), Vec::<u8>::new());
    account.settle(4096, 0);
    assert_eq!(told(&ledger), Vec::<u8>::new());
    grow(-10);
    assert_eq!(told(&ledger), Vec::<u8>::new());
    grow(22);
    assert_eq!(told(&ledger), [90]);
    grow(8);
    assert_eq!((told(&ledger), told(&ledger)), (vec![100], vec![]));
    grow(-10);
    assert_eq!(told(&ledger), Vec::<u8>::new());
    grow(6);
    assert_eq!(told(&ledger), [95]);
}

#[test]
fn full_to_the_headroom_counts_as_reached() {
    let (ledger, account) = with_user_limits(Limits { headroom_bytes: None, ..hard(100 * MIB) });
    while write(&account, MIB).is_ok() {}
    assert!(matches!(kinds(ledger.tick(start()))[..], [EventKind::HardReached { .. }]));
}

#[test]
fn boost_raises_both_bounds_until_its_end() {
    let until = start() + hours(48);
    let boost = Boost { bytes: 100 * MIB, inodes: 10, until };
    let limits = Limits { boosts: vec![boost], ..soft_and_hard(100 * MIB, 120 * MIB) };
    let (ledger, account) = with_user_limits(limits);
    let mut days = Days::new(&ledger);
    write(&account, 190 * MIB).unwrap();
    let usage = ledger.snapshot(&user()).unwrap().bytes;
    assert_eq!((usage.soft, usage.hard), (Some(200 * MIB), Some(220 * MIB)));
    account.settle(-150 * MIB.cast_signed(), 0);
    let events: Vec<_> = days.pass(50);
    let expired = EventKind::BoostExpired { bytes: 100 * MIB, inodes: 10, until };
    assert_eq!(events, [(48, expired)]);
    let usage = ledger.snapshot(&user()).unwrap().bytes;
    assert_eq!((usage.soft, usage.hard), (Some(100 * MIB), Some(120 * MIB)));
    assert_eq!(write(&account, 200 * MIB), Ok(80 * MIB));
}

#[test]
fn boost_that_is_in_use_ends_into_grace_and_then_into_over() {
    let until = start() + hours(48);
    let boost = Boost { bytes: 100 * MIB, inodes: 0, until };
    let limits = Limits { boosts: vec![boost], ..hard(100 * MIB) };
    let (ledger, account) = with_user_limits(limits);
    let mut days = Days::new(&ledger);
    write(&account, 150 * MIB).unwrap();
    let events = days.pass(50);
    let deadline = until + hours(7 * 24);
    assert_eq!(
        events,
        [
            (48, EventKind::BoostExpired { bytes: 100 * MIB, inodes: 0, until }),
            (48, EventKind::GraceStarted { dimension: BYTES, deadline }),
        ]
    );
    assert_eq!(write(&account, 100 * MIB), Ok(50 * MIB));
    let expired = days.pass(7 * 24);
    assert!(expired.contains(&(48 + 7 * 24, EventKind::GraceExpired { dimension: BYTES })), "{expired:?}");
    let state = ledger.snapshot(&user()).unwrap();
    assert_eq!((state.state, state.bytes.hard), (State::Over, Some(100 * MIB)));
    assert_eq!(refused(write(&account, 4096)).reason, Reason::Over);
    account.settle(-101 * MIB.cast_signed(), 0);
    assert_eq!(write(&account, 100 * MIB), Ok(MIB));
    assert_eq!(days.pass(1)[0].1, EventKind::GraceStopped { dimension: BYTES });
}

#[test]
fn inodes_have_a_clock_of_their_own() {
    let limits = Limits { inodes: Bounds { soft: Some(10), hard: Some(20) }, ..Limits::default() };
    let (ledger, account) = with_user_limits(limits);
    let mut days = Days::new(&ledger);
    account.settle(0, 11);
    days.pass(24 * 8);
    assert_eq!(refused(account.reserve(0, 0, 1, 0)).dimension, Dimension::Inodes);
    assert_eq!(write(&account, GIB), Ok(GIB));
}
