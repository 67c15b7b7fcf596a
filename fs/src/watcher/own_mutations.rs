//! The namespace changes that we make ourselves, so that the watcher does not take them for foreign ones.
//!
//! Inotify does not say who made a change. The filesystem therefore announces each of its own namespace
//! operations, one expectation per event that the kernel is going to raise, and the watcher consumes one
//! expectation per event. Only the *number* of events per name is compared, not their kind: whatever the
//! order in which own and foreign changes of one name are seen, at least one event is left over for each
//! foreign change, and one is enough to invalidate the name.
//!
//! A wrong answer can only be costly in one direction. An expectation that was dropped (expired, pushed out,
//! forgotten) costs one needless invalidation. An expectation that stays although its event never comes would
//! hide a foreign change, so everything here leans towards dropping: expiry after [`EXPIRY`],
//! [`OwnMutations::forget_directory`] when a watch begins, and [`OwnMutations::retract`] for operations that
//! failed.
//!
//! Memory is fixed: at most [`CAPACITY`] expectations (and four times as many bookkeeping slots).

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// How long an event may take from the operation to the watcher; the kernel's queue is drained in
/// milliseconds, seconds pass only while the machine is starved of CPU.
const EXPIRY: Duration = Duration::from_secs(5);

/// Expectations kept in total. At 50,000 operations a second and a queue that lags by 20 ms, 1,000 are open.
const CAPACITY: usize = 8192;

const SHARDS: usize = 16;
const SHARD_CAPACITY: usize = CAPACITY / SHARDS;

/// Slots of a shard's order queue, those of consumed expectations included.
const SHARD_SLOTS: usize = 4 * SHARD_CAPACITY;

/// Debts kept; beyond that the watcher is told to trust nothing.
const MAX_DEBTS: usize = 1024;

/// The filesystem's announcements of its own namespace changes.
///
/// Every method is safe to call from any thread while holding any lock: only leaf locks are taken, for well
/// under a microsecond. While no watcher runs each call is one relaxed atomic load.
pub(crate) struct OwnMutations {
    enabled: AtomicBool,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    debts: Mutex<Debts>,
}

/// Names whose foreign change was taken for an own one that then failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owed {
    /// The directory's key and the name in it.
    pub(super) names: Vec<(u64, OsString)>,
    /// More names than could be kept: anything may have changed.
    pub(super) overflowed: bool,
}

#[derive(Default)]
struct Debts {
    owed: Owed,
    watcher: Option<Thread>,
}

impl OwnMutations {
    /// Returns an empty set that collects nothing until a watcher starts.
    pub(crate) fn new() -> Self {
        Self {
            enabled: AtomicBool::new(false),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            debts: Mutex::new(Debts::default()),
        }
    }

    /// Announces one event for `name` in the directory with inode number `dir_key`; call it just before the
    /// system call, and [`OwnMutations::retract`] if that fails.
    ///
    /// Once per event that names an entry: create, mkdir, mknod, symlink, unlink, rmdir: once. link: once, for
    /// the new name. rename: once for the old and once for the new name, also if the new one existed.
    /// RENAME_EXCHANGE: **twice** for each of the two names, because the kernel reports two renames.
    pub(crate) fn expect(&self, dir_key: u64, name: &OsStr) {
        if self.enabled.load(Ordering::Relaxed) {
            self.expect_at(dir_key, name, Instant::now());
        }
    }

    /// Takes back one expectation of an operation that failed.
    ///
    /// If a foreign change has consumed it in the meantime (both created the same name, the other side won),
    /// that change is still reported.
    pub(crate) fn retract(&self, dir_key: u64, name: &OsStr) {
        if self.enabled.load(Ordering::Relaxed) && !self.take_at(dir_key, name, Instant::now()) {
            let mut debts = self.debts.lock();
            if debts.owed.names.len() < MAX_DEBTS {
                debts.owed.names.push((dir_key, name.to_owned()));
            } else {
                debts.owed.overflowed = true;
            }
            if let Some(watcher) = &debts.watcher {
                watcher.unpark();
            }
        }
    }

    /// Consumes one expectation; `true` means that the event is our own.
    pub(crate) fn take(&self, dir_key: u64, name: &OsStr) -> bool {
        self.enabled.load(Ordering::Relaxed) && self.take_at(dir_key, name, Instant::now())
    }

    /// Drops what is expected in a directory whose watch has just begun.
    ///
    /// Operations from before that moment raise no event, so their expectations would swallow foreign ones.
    pub(super) fn forget_directory(&self, dir_key: u64) {
        for shard in &self.shards {
            shard.lock().forget_directory(dir_key);
        }
    }

    /// Starts to collect expectations, from nothing; `watcher` is woken when a debt appears.
    pub(super) fn enable(&self, watcher: Thread) {
        self.clear();
        self.debts.lock().watcher = Some(watcher);
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Stops to collect expectations and drops those that are there.
    pub(super) fn disable(&self) {
        self.enabled.store(false, Ordering::Relaxed);
        self.debts.lock().watcher = None;
        self.clear();
    }

    /// Hands over the names that [`OwnMutations::retract`] found consumed.
    pub(super) fn take_debts(&self) -> Owed {
        std::mem::take(&mut self.debts.lock().owed)
    }

    /// Makes everybody wait who announces or consumes something, for as long as the result lives.
    #[cfg(test)]
    #[must_use]
    pub(super) fn stall(&self) -> impl Sized + '_ {
        self.shards.each_ref().map(|shard| shard.lock())
    }

    fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
        self.debts.lock().owed = Owed::default();
    }

    fn expect_at(&self, dir_key: u64, name: &OsStr, now: Instant) {
        let key = self.key(dir_key, name);
        self.shard(key).lock().expect(key, dir_key, now);
    }

    fn take_at(&self, dir_key: u64, name: &OsStr, now: Instant) -> bool {
        let key = self.key(dir_key, name);
        self.shard(key).lock().take(key, now)
    }

    /// 64 bits stand for directory and name. They are seeded at random, so that nobody can choose names that
    /// collide; by accident 8,192 of them collide once in 10^11 tables, at the price of one wrong answer.
    fn key(&self, dir_key: u64, name: &OsStr) -> u64 {
        self.hasher.hash_one((dir_key, name))
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // The map below uses the low bits; the top four are independent of them. The modulo cannot lose any.
        &self.shards[(key >> 60) as usize % SHARDS]
    }
}

/// What is expected for one name.
struct Expected {
    dir_key: u64,
    /// Expectations not yet consumed.
    live: u32,
    /// Slots in the order queue that belong to consumed expectations. Consumption is oldest first, so these
    /// are always the first slots of this name.
    consumed: u32,
}

/// Invariant: for each key the number of its slots in `order` is `live + consumed`, and a key with neither is
/// not in `names`; `live` is the sum over all keys. `order` is sorted by time.
#[derive(Default)]
struct Shard {
    names: FxHashMap<u64, Expected>,
    order: VecDeque<(u64, Instant)>,
    live: usize,
}

impl Shard {
    fn expect(&mut self, key: u64, dir_key: u64, now: Instant) {
        self.expire(now);
        while self.live >= SHARD_CAPACITY || self.order.len() >= SHARD_SLOTS || self.oldest_is_consumed() {
            self.drop_oldest();
        }
        let expected = self.names.entry(key).or_insert(Expected { dir_key, live: 0, consumed: 0 });
        expected.live += 1;
        self.live += 1;
        self.order.push_back((key, now));
    }

    fn take(&mut self, key: u64, now: Instant) -> bool {
        self.expire(now);
        let Some(expected) = self.names.get_mut(&key) else { return false };
        if expected.live == 0 {
            return false;
        }
        expected.live -= 1;
        expected.consumed += 1;
        self.live -= 1;
        true
    }

    fn forget_directory(&mut self, dir_key: u64) {
        for expected in self.names.values_mut().filter(|expected| expected.dir_key == dir_key) {
            self.live -= expected.live as usize;
            expected.consumed += std::mem::take(&mut expected.live);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, at)) = self.order.front()
            && now.saturating_duration_since(*at) >= EXPIRY
        {
            self.drop_oldest();
        }
    }

    fn oldest_is_consumed(&self) -> bool {
        self.order.front().and_then(|(key, _)| self.names.get(key)).is_some_and(|oldest| oldest.consumed > 0)
    }

    fn drop_oldest(&mut self) {
        let Some((key, _)) = self.order.pop_front() else { return };
        let Some(expected) = self.names.get_mut(&key) else { return };
        if expected.consumed > 0 {
            expected.consumed -= 1;
        } else {
            expected.live -= 1;
            self.live -= 1;
        }
        if expected.live == 0 && expected.consumed == 0 {
            self.names.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enabled() -> OwnMutations {
        let own = OwnMutations::new();
        own.enable(std::thread::current());
        own
    }

    #[test]
    fn one_expectation_swallows_one_event() {
        let own = enabled();
        own.expect(7, OsStr::new("a"));
        assert!(own.take(7, OsStr::new("a")));
        assert!(!own.take(7, OsStr::new("a")));
    }

    #[test]
    fn another_name_or_directory_is_not_swallowed() {
        let own = enabled();
        own.expect(7, OsStr::new("a"));
        assert!(!own.take(7, OsStr::new("b")));
        assert!(!own.take(8, OsStr::new("a")));
    }

    #[test]
    fn nothing_is_collected_while_disabled() {
        let own = OwnMutations::new();
        own.expect(7, OsStr::new("a"));
        own.enable(std::thread::current());
        assert!(!own.take(7, OsStr::new("a")));
    }

    #[test]
    fn expectations_expire() {
        let own = enabled();
        let start = Instant::now();
        own.expect_at(7, OsStr::new("a"), start);
        own.expect_at(7, OsStr::new("a"), start + EXPIRY / 2);
        assert!(own.take_at(7, OsStr::new("a"), start + EXPIRY));
        assert!(!own.take_at(7, OsStr::new("a"), start + EXPIRY));
    }

    #[test]
    fn retracted_expectation_is_gone() {
        let own = enabled();
        own.expect(7, OsStr::new("a"));
        own.retract(7, OsStr::new("a"));
        assert!(!own.take(7, OsStr::new("a")));
        assert_eq!(own.take_debts(), Owed::default());
    }

    #[test]
    fn foreign_change_swallowed_by_a_failed_operation_is_owed() {
        let own = enabled();
        own.expect(7, OsStr::new("a"));
        assert!(own.take(7, OsStr::new("a")));
        own.retract(7, OsStr::new("a"));
        assert_eq!(own.take_debts().names, [(7, OsString::from("a"))]);
        assert_eq!(own.take_debts(), Owed::default());
    }

    #[test]
    fn forgotten_directory_swallows_nothing_and_others_still_do() {
        let own = enabled();
        own.expect(7, OsStr::new("a"));
        own.expect(8, OsStr::new("a"));
        own.forget_directory(7);
        assert!(!own.take(7, OsStr::new("a")));
        assert!(own.take(8, OsStr::new("a")));
    }

    #[test]
    fn memory_stays_bounded_and_the_newest_survive() {
        let own = enabled();
        let now = Instant::now();
        for index in 0..10 * CAPACITY as u64 {
            own.expect_at(index, OsStr::new("x"), now);
        }
        let live: usize = own.shards.iter().map(|shard| shard.lock().live).sum();
        assert!(live <= CAPACITY, "{live} live expectations");
        assert!(own.take_at(10 * CAPACITY as u64 - 1, OsStr::new("x"), now));
        assert!(!own.take_at(0, OsStr::new("x"), now));
    }

    #[test]
    fn one_stuck_expectation_does_not_let_the_queue_grow() {
        let own = enabled();
        let now = Instant::now();
        own.expect_at(1, OsStr::new("stuck"), now);
        for _ in 0..10 * CAPACITY {
            own.expect_at(2, OsStr::new("busy"), now);
            assert!(own.take_at(2, OsStr::new("busy"), now));
        }
        assert!(own.shards.iter().all(|shard| shard.lock().order.len() <= SHARD_SLOTS));
    }

    /// The same, obviously right and slow: one list of live expectations, oldest first.
    #[derive(Default)]
    struct Model(Vec<(u64, u64, Instant)>);

    impl Model {
        fn expire(&mut self, now: Instant) {
            self.0.retain(|(_, _, at)| now.saturating_duration_since(*at) < EXPIRY);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Expect(u64),
        Take(u64),
        ForgetDirectory(u64),
        Wait(Duration),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u64).prop_map(Step::Expect),
            4 => (0..6u64).prop_map(Step::Take),
            1 => (0..3u64).prop_map(Step::ForgetDirectory),
            1 => (0..4_000u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
        ]
    }

    proptest! {
        #[test]
        fn shard_agrees_with_a_list(steps in prop::collection::vec(step(), 0..300)) {
            let (mut shard, mut model, mut now) = (Shard::default(), Model::default(), Instant::now());
            for step in steps {
                match step {
                    Step::Expect(key) => {
                        shard.expect(key, key / 2, now);
                        model.expire(now);
                        model.0.push((key, key / 2, now));
                    }
                    Step::Take(key) => {
                        model.expire(now);
                        let found = model.0.iter().position(|(other, _, _)| *other == key);
                        if let Some(index) = found {
                            model.0.remove(index);
                        }
                        prop_assert_eq!(shard.take(key, now), found.is_some());
                    }
                    Step::ForgetDirectory(dir_key) => {
                        shard.forget_directory(dir_key);
                        model.0.retain(|(_, other, _)| *other != dir_key);
                    }
                    Step::Wait(duration) => now += duration,
                }
                let slots: u32 = shard.names.values().map(|name| name.live + name.consumed).sum();
                prop_assert_eq!(shard.order.len(), slots as usize);
                let live: u32 = shard.names.values().map(|name| name.live).sum();
                prop_assert_eq!(shard.live, live as usize);
            }
        }
    }
}
