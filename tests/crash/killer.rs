use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Daemon, children, is_alive, kill, wait_for};
use rustix::process::Signal;

use super::random::Random;

/// A worker that lives shorter than this counts towards a crash loop, as the keeper measures it.
const YOUNG: Duration = Duration::from_millis(500);

/// The keeper reads its clock a little later than we read ours.
const MARGIN: Duration = Duration::from_millis(60);

/// How long another worker may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// Every how many kills the next worker dies young as well, maybe in the middle of its takeover.
const YOUNG_EVERY: usize = 4;

/// Returns how often `WSGUARD_KILLS` says that a worker shall die.
pub(crate) fn kills() -> usize {
    std::env::var("WSGUARD_KILLS").map_or(30, |text| text.parse().expect("WSGUARD_KILLS is a number"))
}

/// Ends workers.
pub(crate) struct Killer {
    keeper: u32,
    worker: u32,
    appeared: Instant,
    killed_at: Instant,
    killed: usize,
    random: Random,
}

impl Killer {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        let keeper = daemon.keeper_pid();
        Self {
            keeper,
            worker: daemon.worker_pid(),
            appeared: Instant::now(),
            killed_at: Instant::now(),
            killed: 0,
            random: Random::from_clock(),
        }
    }

    /// Returns how many workers it has killed.
    pub(crate) fn killed(&self) -> usize {
        self.killed
    }

    /// Returns when the last one was killed.
    pub(crate) fn killed_at(&self) -> Instant {
        self.killed_at
    }

    /// Kills the worker at a random moment of its life and waits until there is another one.
    pub(crate) fn kill_at_random(&mut self) {
        let dies_young = self.killed % YOUNG_EVERY == YOUNG_EVERY - 1;
        let age = if dies_young {
            self.random.pause(0..250_000)
        } else {
            YOUNG + MARGIN + self.random.pause(0..120_000)
        };
        thread::sleep(age.saturating_sub(self.appeared.elapsed()));
        self.kill_now();
    }

    /// Kills the worker when it is old enough not to count as one that died young.
    pub(crate) fn kill_old_one(&mut self) {
        thread::sleep((YOUNG + MARGIN).saturating_sub(self.appeared.elapsed()));
        self.kill_now();
    }

    fn kill_now(&mut self) {
        let (keeper, dead) = (self.keeper, self.worker);
        self.killed_at = Instant::now();
        kill(dead, Signal::KILL);
        self.killed += 1;
        self.worker = wait_for("another worker", APPEARS_WITHIN, || {
            children(keeper).into_iter().find(|pid| *pid != dead && is_alive(*pid))
        });
        self.appeared = Instant::now();
    }
}
