//! How workers ended: written by the keeper, shown by whichever worker runs.

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use wsguard_api::WorkerEvent;

/// Events that are kept, newest last.
const MOST_EVENTS: usize = 20;

/// Longest reason in bytes; twenty of them fit into one packet with much room left.
const LONGEST_REASON: usize = 300;

/// What the keeper tells each worker about those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// How they ended, newest last.
    pub(crate) events: Vec<WorkerEvent>,
    /// Milliseconds of the monotonic clock at the first death since requests were last answered.
    pub(crate) waiting_since_ms: Option<u64>,
    /// Workers that died right after their start, one after the other, up to now.
    pub(crate) young_deaths: usize,
}

impl Past {
    /// Enters the death of a worker that is noticed now.
    pub(crate) fn note_death(&mut self, generation: u64, reason: &str) {
        self.waiting_since_ms.get_or_insert_with(monotonic_ms);
        if self.events.len() == MOST_EVENTS {
            self.events.remove(0);
        }
        self.events.push(WorkerEvent {
            at: jiff::Timestamp::now().to_string(),
            generation,
            reason: shortened(reason),
            stall_ms: None,
        });
    }

    /// Enters how long requests have waited, now that they are answered again. Deaths on the way there are one
    /// stall, which is told at the last of them.
    pub(crate) fn note_stall(&mut self, stall_ms: Option<u64>) {
        let waited = self.waiting_since_ms.take().is_some();
        if let (true, Some(last)) = (waited, self.events.last_mut()) {
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

    /// Returns how many workers died right after their start before this one.
    pub(crate) fn young_deaths(&self) -> usize {
        self.0.lock().young_deaths
    }

    /// Tells that everything is answered again; `sessions` waited for it. Returns for how many milliseconds, if
    /// anybody could have waited at all.
    pub(crate) fn note_taken_over(&self, sessions: usize) -> Option<u64> {
        let mut past = self.0.lock();
        let stall_ms =
            past.waiting_since_ms.filter(|_| sessions > 0).map(|since| monotonic_ms().saturating_sub(since));
        past.note_stall(stall_ms);
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
        past.note_death(1, "signal: 9 (SIGKILL)");
        let since = past.waiting_since_ms;
        past.note_death(2, "exit status: 1");
        assert_eq!(past.waiting_since_ms, since);
        let history = History::new(past.clone());
        let stall = history.note_taken_over(3);
        assert!(stall.is_some());
        past.note_stall(stall);
        assert_eq!(history.events(), past.events);
        assert_eq!(past.events[0].stall_ms, None);
        assert_eq!(past.events[1].stall_ms, stall);
        assert_eq!(History::new(past).note_taken_over(3), None, "nobody waits any more");
    }

    #[test]
    fn nothing_is_a_stall_without_mounts() {
        let mut past = Past::default();
        past.note_death(1, "exit status: 1");
        assert_eq!(History::new(past).note_taken_over(0), None);
    }

    #[test]
    fn history_is_bounded() {
        let mut past = Past::default();
        for generation in 1..=30 {
            past.note_death(generation, &"ä".repeat(1_000));
        }
        assert_eq!(past.events.len(), 20);
        assert_eq!((past.events[0].generation, past.events[19].generation), (11, 30));
        assert!(past.events.iter().all(|event| event.reason.len() <= LONGEST_REASON + 8));
    }
}
