//! Tells a worker that hangs from one that is slow, stopped for a moment, or waiting for a disk.
//!
//! A worker's main thread sends a heartbeat each second and says in it for how long filesystem threads have been
//! stuck (`journal::progress`). It hangs when no heartbeat came, or a thread was stuck, for the whole limit, and
//! none of its threads waits uninterruptibly for the files below (`threads`): a backing filesystem that hangs would
//! hang the successor as well, and a thread inside it cannot be killed.
//!
//! Time counts only while the keeper runs, too. Whatever stops both, such as a suspended machine or a frozen
//! control group, makes the keeper late at its own appointments, and being late starts the measurement again.
//!
//! Decisions are made from what is passed in; nothing here reads a clock.

use std::time::{Duration, Instant};

use tracing::info;

/// The longest time between two looks. Also what the keeper may be late before it concludes that it did not run.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is to be done about a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Alive,
    /// Nothing either, for this reason: the filesystem below hangs.
    BackingHangs(String),
    /// Kill it, for this reason.
    Hung(String),
}

/// Watches one worker.
#[derive(Debug)]
pub(super) struct Watchdog {
    limit: Option<Duration>,
    /// When silence began.
    last_sign: Instant,
    /// For how long a filesystem thread was stuck at the last heartbeat.
    stuck: Duration,
    /// When the keeper should have been here last.
    expected: Instant,
}

impl Watchdog {
    /// Begins to watch a worker that was just started. No limit, no watch.
    pub(super) fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, last_sign: now, stuck: Duration::ZERO, expected: now }
    }

    /// Returns when to look next; the keeper goes to sleep until then.
    pub(super) fn next_look(&mut self, now: Instant) -> Instant {
        self.note_time(now);
        let next = now + LOOK_INTERVAL;
        let due = self.limit.map(|limit| self.last_sign + limit).filter(|due| *due > now);
        self.expected = due.map_or(next, |due| due.min(next));
        self.expected
    }

    /// Tells that the keeper is awake again; to be called before anything that it finds then.
    pub(super) fn note_time(&mut self, now: Instant) {
        if now > self.expected + LOOK_INTERVAL {
            let late_ms = now.saturating_duration_since(self.expected).as_millis();
            info!(late_ms, "keeper did not run for a while; what the worker did meanwhile does not count");
            self.last_sign = now;
            self.stuck = Duration::ZERO;
        }
        self.expected = now;
    }

    /// Takes a heartbeat.
    pub(super) fn beat(&mut self, now: Instant, stuck: Duration) {
        self.last_sign = now;
        self.stuck = stuck;
    }

    /// Decides. `waits_below` is asked only if it matters.
    pub(super) fn look(&self, now: Instant, waits_below: impl FnOnce() -> bool) -> Verdict {
        let Some(limit) = self.limit else { return Verdict::Alive };
        let silence = now.saturating_duration_since(self.last_sign);
        let reason = if silence >= limit {
            format!("no heartbeat for {:.1} s", silence.as_secs_f64())
        } else if self.stuck >= limit {
            format!("a filesystem thread made no progress for {:.1} s", self.stuck.as_secs_f64())
        } else {
            return Verdict::Alive;
        };
        if waits_below() { Verdict::BackingHangs(reason) } else { Verdict::Hung(format!("hung: {reason}")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn is_hung(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Hung(_))
    }

    /// One thing that happens to a keeper.
    #[derive(Clone, Debug)]
    enum Step {
        /// It sleeps until its next look, and so much longer.
        Sleep { late_ms: u64 },
        /// A heartbeat wakes it, so long before its next look.
        Beat { early_ms: u64, stuck_s: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let sleep = prop_oneof![4 => 0_u64..900, 1 => 1_001_u64..60_000];
        let step = prop_oneof![
            3 => sleep.prop_map(|late_ms| Step::Sleep { late_ms }),
            1 => (0_u64..1_000, 0_u64..4).prop_map(|(early_ms, stuck_s)| Step::Beat { early_ms, stuck_s }),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn worker_is_killed_exactly_after_a_silence_that_the_keeper_lived_through(
            steps in steps(), waits in any::<bool>(),
        ) {
            let mut now = Instant::now();
            let mut watchdog = Watchdog::new(Some(LIMIT), now);
            let mut silent_since = now;
            for step in steps {
                let planned = watchdog.next_look(now);
                prop_assert!(planned > now && planned <= now + LOOK_INTERVAL);
                match step {
                    Step::Sleep { late_ms } => {
                        now = planned + Duration::from_millis(late_ms);
                        watchdog.note_time(now);
                        if late_ms > 1_000 {
                            silent_since = now;
                        }
                    }
                    Step::Beat { early_ms, stuck_s } => {
                        now = now.max(planned.checked_sub(Duration::from_millis(early_ms)).unwrap());
                        watchdog.note_time(now);
                        watchdog.beat(now, Duration::from_secs(stuck_s));
                        silent_since = now;
                    }
                }
                let verdict = watchdog.look(now, || waits);
                let is_due = now - silent_since >= LIMIT;
                prop_assert_eq!(is_hung(&verdict), is_due && !waits, "{:?}", verdict);
                prop_assert_eq!(verdict == Verdict::Alive, !is_due);
            }
        }
    }

    #[test]
    fn reason_says_what_was_missing() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Some(LIMIT), start);
        let verdict = watchdog.look(start + LIMIT, || false);
        assert_eq!(verdict, Verdict::Hung("hung: no heartbeat for 5.0 s".to_owned()));
        watchdog.beat(start, LIMIT);
        let verdict = watchdog.look(start, || false);
        assert_eq!(verdict, Verdict::Hung("hung: a filesystem thread made no progress for 5.0 s".to_owned()));
        let verdict = watchdog.look(start, || true);
        assert!(matches!(verdict, Verdict::BackingHangs(_)), "{verdict:?}");
    }

    #[test]
    fn keeper_that_is_late_between_two_looks_starts_again() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Some(LIMIT), start);
        watchdog.beat(start, LIMIT);
        // Stopped not while it slept but while it worked.
        let later = start + Duration::from_secs(100);
        watchdog.next_look(later);
        assert_eq!(watchdog.look(later, || false), Verdict::Alive);
    }

    #[test]
    fn without_limit_nothing_is_watched() {
        let start = Instant::now();
        let watchdog = Watchdog::new(None, start);
        assert_eq!(watchdog.look(start + Duration::from_secs(1_000), || false), Verdict::Alive);
    }
}
