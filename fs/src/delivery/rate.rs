//! How many notices about one subject may go out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3_600);

/// Counts what went out in the last hour, by subject. As many subjects as there are workspaces and users.
#[derive(Debug)]
pub(super) struct Rate {
    per_hour: usize,
    sent: BTreeMap<String, VecDeque<Instant>>,
}

impl Rate {
    pub(super) fn new(per_hour: u64) -> Self {
        Self { per_hour: usize::try_from(per_hour).unwrap_or(usize::MAX), sent: BTreeMap::new() }
    }

    /// Whether one more may go out now; it is counted then.
    pub(super) fn admits(&mut self, subject: &str, now: Instant) -> bool {
        self.sent.retain(|_, times| {
            while times.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
                times.pop_front();
            }
            !times.is_empty()
        });
        let times = self.sent.entry(subject.to_owned()).or_default();
        let admits = times.len() < self.per_hour;
        if admits {
            times.push_back(now);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_an_hour_for_each_subject() {
        let mut rate = Rate::new(2);
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        assert_eq!([0, 10, 20].map(|minutes| rate.admits("a", at(minutes))), [true, true, false]);
        assert!(rate.admits("b", at(20)));
        assert_eq!([60, 61, 70].map(|minutes| rate.admits("a", at(minutes))), [true, false, true]);
        assert!(rate.admits("c", at(200)));
        assert_eq!(rate.sent.len(), 1, "what is over is forgotten");
    }
}
