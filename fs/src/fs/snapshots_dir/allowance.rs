//! How many snapshots may be taken by mkdir(2) in a short time.
//!
//! Each costs a little for as long as it is kept, and whoever may write in a workspace may take one: a container must not
//! make thousands.

use std::time::{Duration, Instant};

/// So many at once.
const MOST: u32 = 10;
/// One more after this.
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    /// Since when the next one is waited for.
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// Takes one out; returns whether there was one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        let gained = u32::try_from(elapsed.as_nanos() / INTERVAL.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(gained).min(MOST);
        // What is beyond the most is lost; a part of an interval is not.
        self.since = if self.left == MOST { now } else { self.since + INTERVAL * gained };
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_and_then_one_in_ten_seconds() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(start);
        assert!((0..MOST).all(|_| allowance.take(start)));
        assert!(!allowance.take(at(0)));
        assert!(!allowance.take(at(9)));
        assert!(allowance.take(at(10)) && !allowance.take(at(10)));
        assert!(!allowance.take(at(19)));
        assert!(allowance.take(at(25)) && !allowance.take(at(25)), "half an interval is remembered");
        assert!(allowance.take(at(30)));
        let later = at(100_000);
        assert_eq!((0..50).filter(|_| allowance.take(later)).count(), MOST as usize);
    }
}
