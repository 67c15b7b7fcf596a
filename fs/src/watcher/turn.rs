//! Who may walk through a tree now: after a takeover every workspace wants to at once, and the CPUs are needed for
//! requests that waited.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Walks at the same time, of all workspaces.
const MOST_WALKS: usize = 1;

/// How long one waits for the others; a huge tree, or one on a disk that hangs, must not keep the rest from being
/// watched.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether the wait is still wanted.
const STEP: Duration = Duration::from_millis(50);

static WALKS: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to walk, until it is dropped.
pub(super) struct Turn(());

impl Turn {
    /// Waits for a turn, for as long as `is_wanted` and the patience last, then takes one in any case.
    pub(super) fn wait(is_wanted: impl Fn() -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let mut walks = WALKS.lock();
        while *walks >= MOST_WALKS && is_wanted() && Instant::now() < deadline {
            ENDED.wait_for(&mut walks, STEP);
        }
        *walks += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *WALKS.lock() -= 1;
        ENDED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_walk_begins_when_the_one_before_has_ended_or_is_not_waited_for() {
        let first = Turn::wait(|| true);
        // Nobody waits for a watch that is to end.
        drop(Turn::wait(|| false));
        let started = Instant::now();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                drop(Turn::wait(|| true));
                started.elapsed()
            });
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
            let waited = second.join().unwrap();
            assert!(waited >= Duration::from_millis(90), "{waited:?}");
        });
    }
}
