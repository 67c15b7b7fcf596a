//! How long the longest call took.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Pause between two calls.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that writes eight bytes over and over, which always goes through the worker, and times each write.
pub(crate) struct StallProbe {
    must_end: Arc<AtomicBool>,
    worst: Arc<Mutex<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl StallProbe {
    pub(crate) fn start(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let (must_end, worst) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Duration::ZERO)));
        let (end, slowest) = (Arc::clone(&must_end), Arc::clone(&worst));
        let thread = thread::Builder::new()
            .name("stall probe".into())
            .spawn(move || probe(&file, &end, &slowest))
            .unwrap();
        Self { must_end, worst, thread: Some(thread) }
    }

    /// Returns the longest call since the last time it was asked.
    pub(crate) fn take_worst(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().unwrap())
    }

    /// Ends the thread; fails if a call of it failed.
    pub(crate) fn finish(mut self) {
        self.must_end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for StallProbe {
    fn drop(&mut self) {
        self.must_end.store(true, Ordering::Relaxed);
    }
}

fn probe(file: &File, must_end: &AtomicBool, worst: &Mutex<Duration>) {
    for number in 0_u64.. {
        if must_end.load(Ordering::Relaxed) {
            return;
        }
        let started = Instant::now();
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        let elapsed = started.elapsed();
        let mut worst = worst.lock().unwrap();
        *worst = worst.max(elapsed);
        drop(worst);
        thread::sleep(PAUSE);
    }
}
