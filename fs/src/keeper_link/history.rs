//! How workers ended and which programs they ran: written by the keeper, shown by whichever worker runs.

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use wsguard_api::{Program, UpgradeEvent, UpgradeOutcome, WorkerEvent};

/// Events that are kept, newest last.
const MOST_EVENTS: usize = 20;

/// Longest reason in bytes; twenty of them fit into one packet with much room left.
const LONGEST_REASON: usize = 300;

/// Deaths whose last log lines are kept.
const MOST_LOGS: usize = 5;

/// Switches to another program that are kept, newest last.
const MOST_UPGRADES: usize = 5;

/// What the keeper tells each worker about those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// How they ended, newest last.
    pub(crate) events: Vec<WorkerEvent>,
    /// Milliseconds of the monotonic clock at the first death since requests were last answered.
    pub(crate) waiting_since_ms: Option<u64>,
    /// Workers that died right after their start, one after the other, up to now.
    pub(crate) young_deaths: usize,
    /// How many workers died and had to be replaced.
    pub(crate) deaths: u64,
    /// Switches to another program, newest last.
    pub(crate) upgrades: Vec<UpgradeEvent>,
}

impl Past {
    /// Tells that requests wait from now on.
    pub(crate) fn note_waiting(&mut self) {
        self.waiting_since_ms.get_or_insert_with(monotonic_ms);
    }

    /// Enters the death of a worker that is noticed now, with the last lines that it logged.
    pub(crate) fn note_death(&mut self, generation: u64, reason: &str, log: Vec<String>) {
        self.note_waiting();
        self.deaths += 1;
        if self.events.len() == MOST_EVENTS {
            self.events.remove(0);
        }
        self.events.push(WorkerEvent {
            at: jiff::Timestamp::now().to_string(),
            generation,
            reason: shortened(reason),
            stall_ms: None,
            log,
        });
        if let Some(older) = self.events.len().checked_sub(MOST_LOGS + 1) {
            self.events[older].log.clear();
        }
    }

    /// Enters a switch that begins now; returns its number.
    pub(crate) fn note_upgrade(&mut self, from: Program, to: Program) -> u64 {
        let number = self.upgrades.last().map_or(1, |last| last.number + 1);
        if self.upgrades.len() == MOST_UPGRADES {
            self.upgrades.remove(0);
        }
        self.upgrades.push(UpgradeEvent {
            number,
            at: jiff::Timestamp::now().to_string(),
            from,
            to,
            outcome: UpgradeOutcome::Switching,
        });
        number
    }

    /// Enters how the last switch ended, or what became of it later.
    pub(crate) fn note_outcome(&mut self, outcome: UpgradeOutcome) {
        if let Some(last) = self.upgrades.last_mut() {
            last.outcome = match outcome {
                UpgradeOutcome::Failed { reason } => UpgradeOutcome::Failed { reason: shortened(&reason) },
                UpgradeOutcome::RolledBack { reason } => {
                    UpgradeOutcome::RolledBack { reason: shortened(&reason) }
                }
                outcome @ (UpgradeOutcome::Switching | UpgradeOutcome::Done { .. }) => outcome,
            };
        }
    }

    /// Enters how long requests have waited, now that the worker `generation` answers them again. Deaths on the way
    /// there are one stall, which is told at the last of them, or at the switch to another program that it was for.
    pub(crate) fn note_stall(&mut self, generation: u64, stall_ms: Option<u64>) {
        let waited = self.waiting_since_ms.take().is_some();
        let last = self.upgrades.last();
        if last.is_some_and(|upgrade| upgrade.outcome == UpgradeOutcome::Switching) {
            self.note_outcome(UpgradeOutcome::Done { generation, stall_ms });
        } else if let (true, Some(last)) = (waited, self.events.last_mut()) {
            last.stall_ms = stall_ms;
        }
    }
}

/// A worker's copy.
#[derive(Debug)]
pub(crate) struct History(Mutex<Past>);

impl History {
    /// Takes what the keeper told.
    pub(crate) fn new(past: Past) -> Self {
        Self(Mutex::new(past))
    }

    /// Returns how workers ended, newest last.
    pub(crate) fn events(&self) -> Vec<WorkerEvent> {
        self.0.lock().events.clone()
    }

    /// Returns how many workers died.
    pub(crate) fn deaths(&self) -> u64 {
        self.0.lock().deaths
    }

    /// Returns the switches to another program, newest last.
    pub(crate) fn upgrades(&self) -> Vec<UpgradeEvent> {
        self.0.lock().upgrades.clone()
    }

    /// Returns how many workers died right after their start before this one.
    pub(crate) fn young_deaths(&self) -> usize {
        self.0.lock().young_deaths
    }

    /// Tells that everything is answered again, by the worker `generation`; `sessions` waited for it. Returns for how
    /// many milliseconds, if anybody could have waited at all.
    pub(crate) fn note_taken_over(&self, generation: u64, sessions: usize) -> Option<u64> {
        let mut past = self.0.lock();
        let stall_ms =
            past.waiting_since_ms.filter(|_| sessions > 0).map(|since| monotonic_ms().saturating_sub(since));
        past.note_stall(generation, stall_ms);
        stall_ms
    }
}

/// One clock for all processes of the machine; it stands still while the machine is suspended.
fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let milliseconds = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(milliseconds).unwrap_or(0)
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().map(|(start, _)| start).find(|start| *start > LONGEST_REASON) {
        Some(end) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_in_a_row_are_one_stall() {
        let mut past = Past::default();
        past.note_death(1, "signal: 9 (SIGKILL)", Vec::new());
        let since = past.waiting_since_ms;
        past.note_death(2, "exit status: 1", Vec::new());
        assert_eq!(past.waiting_since_ms, since);
        let history = History::new(past.clone());
        let stall = history.note_taken_over(3, 3);
        assert!(stall.is_some());
        past.note_stall(3, stall);
        assert_eq!(history.events(), past.events);
        assert_eq!(past.events[0].stall_ms, None);
        assert_eq!(past.events[1].stall_ms, stall);
        assert_eq!(History::new(past).note_taken_over(4, 3), None, "nobody waits any more");
    }

    #[test]
    fn nothing_is_a_stall_without_mounts() {
        let mut past = Past::default();
        past.note_death(1, "exit status: 1", Vec::new());
        assert_eq!(History::new(past).note_taken_over(2, 0), None);
    }

    #[test]
    fn history_is_bounded() {
        let mut past = Past::default();
        for generation in 1..=30 {
            past.note_death(generation, &"ä".repeat(1_000), vec!["line".to_owned()]);
        }
        assert_eq!(past.events.iter().filter(|event| !event.log.is_empty()).count(), MOST_LOGS);
        assert_eq!((past.deaths, past.events[19].log.len()), (30, 1));
        assert_eq!(past.events.len(), 20);
        assert_eq!((past.events[0].generation, past.events[19].generation), (11, 30));
        assert!(past.events.iter().all(|event| event.reason.len() <= LONGEST_REASON + 8));
    }

    fn program(version: &str) -> Program {
        let build = "2030-01-01T00:00:00Z".to_owned();
        Program { version: version.to_owned(), build, path: "/usr/bin/wsguard".into() }
    }

    #[test]
    fn stall_of_an_upgrade_is_told_with_it_and_not_with_an_earlier_death() {
        let mut past = Past::default();
        past.note_death(1, "exit status: 1", Vec::new());
        past.note_stall(2, Some(7));
        assert_eq!(past.note_upgrade(program("1.0.0"), program("1.1.0")), 1);
        past.note_waiting();
        past.note_stall(3, Some(9));
        assert_eq!(past.events[0].stall_ms, Some(7));
        let done = UpgradeOutcome::Done { generation: 3, stall_ms: Some(9) };
        assert_eq!(past.upgrades[0].outcome, done);
    }

    #[test]
    fn upgrades_are_bounded_and_their_numbers_go_on() {
        let mut past = Past::default();
        for number in 1..=9 {
            assert_eq!(past.note_upgrade(program("1.0.0"), program("1.1.0")), number);
            past.note_outcome(UpgradeOutcome::Failed { reason: "ä".repeat(1_000) });
        }
        assert_eq!((past.upgrades.len(), past.upgrades[0].number), (MOST_UPGRADES, 5));
        let UpgradeOutcome::Failed { reason } = &past.upgrades[4].outcome else { panic!("it failed") };
        assert!(reason.len() <= LONGEST_REASON + 8);
    }
}
