//! Takes back references that the kernel does not hold.
//!
//! The table counts a reference before the reply that carries it is sent, and forgets it when the kernel says so. A
//! worker that dies in between leaves counts too high: of a listing that was counted and not sent, of references that
//! the kernel gave back in a message which was read and not carried out. The kernel repeats neither, so such inodes
//! would stay in the table for as long as the mount lives.
//!
//! After a takeover the kernel is asked, for each node that was in the table then, whether it knows it: an invalidation
//! of a node that it does not know fails. While it does not, the count consists of what leaked, replies under way and
//! messages that were not carried out yet. So it is asked several times, and between two times everything that was
//! under way has ended and every message has been read; a count that stayed the same all the while leaked.
//!
//! A node that the kernel knows is looked at again later, ever less often. Each look makes the kernel ask for the
//! node's attributes once more, nothing else.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::GuardFs;
use crate::inode::ROOT_NODE;
use crate::journal::progress::Turns;

/// From the takeover to the first pass; each pause is three times as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Looks at a node that the kernel does not know, after the first one.
const MORE_LOOKS: usize = 3;

/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How long the messages of the kernel may take to be read and carried out, before a pass is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// No reference was taken back for this long: no message is being carried out.
const QUIET: Duration = Duration::from_millis(50);

/// How often it is looked whether they have been.
const STEP: Duration = Duration::from_millis(10);

/// Nodes that are asked for without a pause.
const BATCH: usize = 512;
const BATCH_PAUSE: Duration = Duration::from_millis(1);

/// The thread that looks; none after a mount, which nobody died under.
#[derive(Default)]
pub(super) struct Sweep {
    thread: Mutex<Option<JoinHandle<()>>>,
    must_end: Arc<AtomicBool>,
    forgets: AtomicU64,
}

/// A node that the kernel did not know, with its count then.
struct Suspect {
    node: u64,
    lookups: u64,
}

/// Why a pass ended early.
enum Interrupted {
    /// The session ends.
    Ending,
    /// Something was under way for too long; the next pass tries again.
    Busy,
}

impl Sweep {
    /// Starts to look after a takeover.
    pub(super) fn start(&self, fs: &Arc<GuardFs>) {
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return;
        }
        let sweeper = Sweeper { fs: Arc::downgrade(fs), must_end: self.must_end.clone() };
        match std::thread::Builder::new().name("wsguard-sweep".into()).spawn(move || sweeper.run()) {
            Ok(started) => *thread = Some(started),
            Err(error) => tracing::warn!(%error, "cannot start a thread; lost references stay in the table"),
        }
    }

    /// Notes that references are being taken back.
    pub(super) fn note_forget(&self) {
        self.forgets.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        self.must_end.store(true, Ordering::Release);
        let Some(thread) = self.thread.lock().take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the sweeping thread panicked");
        }
    }
}

struct Sweeper {
    fs: Weak<GuardFs>,
    must_end: Arc<AtomicBool>,
}

impl Sweeper {
    fn run(self) {
        let Some(fs) = self.fs.upgrade() else { return };
        let mut nodes = Vec::new();
        // Only what is here now can have leaked.
        fs.table.for_each_node(|node| nodes.push(node));
        drop(fs);
        let mut pause = FIRST_PAUSE;
        while !nodes.is_empty() && self.sleep(pause).is_ok() {
            let Some(fs) = self.fs.upgrade() else { return };
            match self.pass(&fs, &mut nodes) {
                Ok(0) => {}
                Ok(swept) => {
                    tracing::info!(inodes = swept, "references that the kernel does not hold were dropped");
                }
                Err(Interrupted::Busy) => {
                    tracing::debug!("kernel or worker is too busy to look for lost references");
                }
                Err(Interrupted::Ending) => return,
            }
            pause = (pause * 3).min(LONGEST_PAUSE);
        }
    }

    /// Keeps the nodes in `nodes` that have to be looked at again; returns how many inodes went.
    fn pass(&self, fs: &GuardFs, nodes: &mut Vec<u64>) -> Result<usize, Interrupted> {
        let mut suspects = self.first_look(fs, nodes)?;
        let mut swept = 0;
        for _ in 0..MORE_LOOKS {
            if suspects.is_empty() {
                return Ok(swept);
            }
            let settled = self.wait_until_settled(fs);
            if settled.is_err() {
                nodes.extend(suspects.iter().map(|suspect| suspect.node));
                settled?;
            }
            suspects.retain(|suspect| {
                let is_unchanged = fs.table.lookups(suspect.node) == Some(suspect.lookups)
                    && is_known(fs, suspect.node) == Ok(false);
                if !is_unchanged {
                    nodes.push(suspect.node);
                }
                is_unchanged
            });
        }
        for Suspect { node, lookups } in suspects {
            fs.forget(node, lookups);
            swept += 1;
        }
        Ok(swept)
    }

    fn first_look(&self, fs: &GuardFs, nodes: &mut Vec<u64>) -> Result<Vec<Suspect>, Interrupted> {
        let mut suspects = Vec::new();
        let mut left = Vec::new();
        for batch in nodes.chunks(BATCH) {
            for node in batch.iter().copied().filter(|node| *node != ROOT_NODE) {
                // Forgotten as it should be: nothing of it leaked.
                let Some(lookups) = fs.table.lookups(node) else { continue };
                match is_known(fs, node) {
                    Ok(true) => left.push(node),
                    Ok(false) => suspects.push(Suspect { node, lookups }),
                    // The mount is on its way out.
                    Err(_) => return Err(Interrupted::Ending),
                }
            }
            self.sleep(BATCH_PAUSE)?;
        }
        *nodes = left;
        Ok(suspects)
    }

    /// Waits until everything that is under way now has ended, and what the kernel has sent was read and carried out.
    fn wait_until_settled(&self, fs: &GuardFs) -> Result<(), Interrupted> {
        let before = Turns::now();
        self.wait_for(|| before.have_ended())?;
        self.wait_for(|| fs.device.is_drained().unwrap_or(true))?;
        // A thread that has read a message begins with it in less than this. One message may hold many thousand
        // references, each of which is counted.
        self.sleep(BETWEEN_LOOKS)?;
        let mut seen = fs.sweep.forgets.load(Ordering::Relaxed);
        let mut since = Instant::now();
        self.wait_for(|| {
            let now = fs.sweep.forgets.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, now) != now {
                since = Instant::now();
            }
            since.elapsed() >= QUIET
        })
    }

    fn wait_for(&self, mut condition: impl FnMut() -> bool) -> Result<(), Interrupted> {
        let started = Instant::now();
        while !condition() {
            if started.elapsed() > PATIENCE {
                return Err(Interrupted::Busy);
            }
            self.sleep(STEP)?;
        }
        Ok(())
    }

    fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + duration;
        loop {
            if self.must_end.load(Ordering::Acquire) {
                return Err(Interrupted::Ending);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::park_timeout(left);
        }
    }
}

/// Whether the kernel has the node's inode.
fn is_known(fs: &GuardFs, node: u64) -> Result<bool, Errno> {
    fs.device.knows_node(node)
}
