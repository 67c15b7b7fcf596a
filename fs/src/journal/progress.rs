//! Whether the threads that answer requests get anywhere.
//!
//! Each of them counts the requests that it begins and ends in a line of its own. The worker's main thread looks
//! at these counts once a second ([`Progress::look`]). A thread that is still in the request of the look before is
//! *stuck* if it waits for another thread, or computes without a system call; both mean a defect of this program.
//! One that is in any other system call waits for the files below, however long that takes, and whoever waits for
//! a lock then may be waiting for that one: as long as a request is in there, nothing is stuck.
//!
//! Looks are counted, not seconds: if the whole process stood still, nothing else could have moved either.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Set once, when the worker is about to make room for another one.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Every thread that has answered a request and still lives.
static THREADS: Mutex<Vec<Arc<Thread>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: Registered = Registered::new();
}

/// Written by its thread only, and alone on its cache lines.
#[repr(align(128))]
struct Thread {
    id: i32,
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Thread {
    fn turn(&self) -> Turn {
        Turn { ended: self.ended.load(Ordering::Acquire), begun: self.begun.load(Ordering::Acquire) }
    }
}

/// The requests of all threads, of every workspace, that are under way at one moment.
pub(crate) struct Turns(Vec<(Arc<Thread>, Turn)>);

impl Turns {
    pub(crate) fn now() -> Self {
        let threads = THREADS.lock().clone().into_iter();
        let turns = threads.map(|thread| {
            let turn = thread.turn();
            (thread, turn)
        });
        Self(turns.filter(|(_, turn)| turn.begun != turn.ended).collect())
    }

    /// Whether each of them has been answered, or its thread has ended.
    pub(crate) fn have_ended(&self) -> bool {
        self.0.iter().all(|(thread, turn)| thread.turn() != *turn)
    }
}

/// Counts of one thread at one moment; the same ones again mean the same request.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Turn {
    begun: u64,
    ended: u64,
}

struct Registered(Arc<Thread>);

impl Registered {
    fn new() -> Self {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = Arc::new(Thread { id, begun: AtomicU64::new(0), ended: AtomicU64::new(0) });
        THREADS.lock().push(thread.clone());
        Self(thread)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        THREADS.lock().retain(|thread| !Arc::ptr_eq(thread, &self.0));
    }
}

/// As long as it lives, its thread is in a request.
pub(super) struct Busy(PhantomData<*const ()>);

impl Busy {
    pub(super) fn begin() -> Self {
        OWN.with(|own| count(&own.0.begun));
        let busy = Self(PhantomData);
        if IS_CLOSED.load(Ordering::Acquire) {
            drop(busy);
            wait_for_the_end();
        }
        busy
    }
}

/// The request that this thread has read is sent again to the next worker, which finds no record of it and carries
/// it out.
fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}

/// Lets no thread begin with a request any more, until the process ends.
///
/// A thread that is just about to begin may not see it yet. Its request then is one of those that are under way when
/// the process ends, which the journal is for.
pub(crate) fn close() {
    IS_CLOSED.store(true, Ordering::Release);
}

/// Returns how many threads are in a request.
pub(crate) fn under_way() -> usize {
    let threads = THREADS.lock();
    threads.iter().map(|thread| thread.turn()).filter(|turn| turn.begun != turn.ended).count()
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Fails while the thread ends; it is off the list then.
        OWN.try_with(|own| count(&own.0.ended)).ok();
    }
}

/// Only the owner writes, so that no locked instruction is needed.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
}

/// What a thread does, as the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// It sleeps until another thread wakes it.
    WaitsForThread,
    /// It is on a CPU or could be.
    Runs {
        /// What it has spent outside the kernel so far, in ticks.
        user_ticks: u64,
    },
    /// It waits for something else, or cannot be looked at.
    WaitsForKernel,
}

/// A thread that was in a request at the last look.
struct Seen {
    turn: Turn,
    user_ticks: Option<u64>,
    stuck_looks: u64,
}

/// Remembers what the last look saw.
#[derive(Default)]
pub(crate) struct Progress {
    seen: HashMap<i32, Seen>,
}

impl Progress {
    /// Looks again, one second after the last time. Returns at how many looks in a row a thread was stuck, the
    /// longest if there are several; 0 if none is.
    pub(crate) fn look(&mut self) -> u64 {
        let threads = THREADS.lock().clone();
        let mut before = std::mem::take(&mut self.seen);
        let (mut longest, mut waits_below) = (0, false);
        for thread in threads {
            let turn = thread.turn();
            if turn.begun == turn.ended {
                continue;
            }
            let known = before.remove(&thread.id).filter(|seen| seen.turn == turn);
            let seen = known.map_or(Seen { turn, user_ticks: None, stuck_looks: 0 }, |seen| {
                let seen = seen.then(doing(thread.id));
                waits_below |= seen.stuck_looks == 0;
                seen
            });
            longest = longest.max(seen.stuck_looks);
            self.seen.insert(thread.id, seen);
        }
        if waits_below { 0 } else { longest }
    }
}

impl Seen {
    /// The same request, one look later.
    fn then(self, doing: Doing) -> Self {
        let (is_stuck, user_ticks) = match doing {
            Doing::WaitsForThread => (true, self.user_ticks),
            Doing::Runs { user_ticks } => {
                let half = rustix::param::clock_ticks_per_second() / 2;
                let spent = self.user_ticks.map(|before| user_ticks.saturating_sub(before));
                (spent.is_some_and(|spent| spent >= half), Some(user_ticks))
            }
            Doing::WaitsForKernel => (false, None),
        };
        Self { turn: self.turn, user_ticks, stuck_looks: if is_stuck { self.stuck_looks + 1 } else { 0 } }
    }
}

/// Asks the kernel. A thread that cannot be looked at counts as waiting below: no reason to kill anybody.
fn doing(id: i32) -> Doing {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/task/{id}/{file}"));
    let (Ok(call), Ok(stat)) = (read("syscall"), read("stat")) else { return Doing::WaitsForKernel };
    parse(&call, &stat)
}

/// Understands `syscall` and `stat` of proc(5).
fn parse(call: &str, stat: &str) -> Doing {
    match call.split_whitespace().next() {
        // Field 14; the command name before field 3 may hold anything, the last parenthesis ends it.
        Some("running") => stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(11)?.parse().ok())
            .map_or(Doing::WaitsForKernel, |user_ticks| Doing::Runs { user_ticks }),
        Some(number) if number.parse() == Ok(libc::SYS_futex) => Doing::WaitsForThread,
        _ => Doing::WaitsForKernel,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    /// Other tests of this process answer requests as well; their threads are left out.
    fn only(ids: &[i32], progress: &mut Progress) -> u64 {
        progress.look();
        let looked = progress.seen.iter().filter(|(id, _)| ids.contains(id));
        looked.map(|(_, seen)| seen.stuck_looks).max().unwrap_or(0)
    }

    #[test]
    fn thread_that_waits_for_another_one_is_stuck_and_one_that_reads_is_not() {
        let (tell, ids) = channel();
        let (release, released) = channel::<()>();
        let deadlocked = tell.clone();
        let waiter = std::thread::spawn(move || {
            let _busy = Busy::begin();
            deadlocked.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            released.recv().unwrap_err();
        });
        let waiting = ids.recv().unwrap();
        let (out, into) = std::io::pipe().unwrap();
        let reader = std::thread::spawn(move || {
            let _busy = Busy::begin();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            std::io::read_to_string(out).unwrap();
        });
        let reading = ids.recv().unwrap();

        let mut progress = Progress::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        while only(&[waiting], &mut progress) < 3 {
            assert!(Instant::now() < deadline, "a thread that waits is not stuck");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(only(&[reading], &mut progress), 0);
        assert_eq!(progress.look(), 0, "it may be waiting for the one that reads");
        drop(into);
        reader.join().unwrap();
        drop(release);
        waiter.join().unwrap();
        assert_eq!(only(&[waiting, reading], &mut progress), 0);
        assert!(THREADS.lock().iter().all(|thread| thread.id != waiting && thread.id != reading));
    }

    #[test]
    fn new_request_is_not_the_old_one() {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut progress = Progress::default();
        let mut turns = Vec::new();
        for _ in 0..3 {
            let _busy = Busy::begin();
            progress.look();
            turns.push(progress.seen[&id].turn.begun);
        }
        assert!(turns.windows(2).all(|pair| pair[0] < pair[1]), "{turns:?}");
        progress.look();
        assert!(!progress.seen.contains_key(&id), "it is idle");
    }

    #[test]
    fn endless_loop_is_stuck_and_a_long_copy_is_not() {
        let second = rustix::param::clock_ticks_per_second();
        let seen = || Seen { turn: Turn { begun: 1, ended: 0 }, user_ticks: None, stuck_looks: 0 };
        let looks = |ticks: [u64; 3]| {
            ticks.iter().fold(seen(), |seen, user_ticks| seen.then(Doing::Runs { user_ticks: *user_ticks }))
        };
        assert_eq!(looks([0, second, 2 * second]).stuck_looks, 2);
        assert_eq!(looks([7, 7, 7]).stuck_looks, 0);
        let waited = seen().then(Doing::WaitsForThread).then(Doing::WaitsForThread);
        assert_eq!(waited.stuck_looks, 2);
        assert_eq!(waited.then(Doing::WaitsForKernel).stuck_looks, 0);
    }

    #[test]
    fn what_a_thread_does_is_read_from_proc() {
        let stat = "12 (a) b) R 1 1 1 0 -1 4194560 100 0 0 0 42 7 0 0 20 0 1 0 100";
        assert_eq!(parse("running\n", stat), Doing::Runs { user_ticks: 42 });
        let futex = format!("{} 0x7f 0x0 0x1 0x0 0x0 0x0 0x7ffd 0x7f\n", libc::SYS_futex);
        assert_eq!(parse(&futex, stat), Doing::WaitsForThread);
        for other in ["0 0x3 0x7f 0x10 0x0 0x0 0x0 0x7ffd 0x7f\n", "-1 0x7ffd 0x7f\n", ""] {
            assert_eq!(parse(other, stat), Doing::WaitsForKernel);
        }
        assert_eq!(parse("running\n", "12 (a) R"), Doing::WaitsForKernel);
    }
}
