//! A thread that ends what must not go on: a stuck row, or the whole run at a stop signal.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{cleanup, sys};

/// How long one run of one row may take. The slowest peer unpacks the source tree in half a minute.
const ROW_LIMIT: Duration = Duration::from_secs(180);

#[derive(Default)]
struct Watch {
    armed: Option<(String, Instant)>,
    expired: bool,
    over: bool,
}

/// Watches until dropped.
pub(crate) struct Watchdog {
    watch: Arc<Mutex<Watch>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let shared = Arc::clone(&watch);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || run(&shared));
        Ok(Self { watch, thread: Some(thread.context("cannot start the watchdog")?) })
    }

    /// Gives the variant [`ROW_LIMIT`] from now on.
    pub(crate) fn arm(&self, variant: &str) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.armed = Some((variant.to_owned(), Instant::now() + ROW_LIMIT));
        watch.expired = false;
    }

    /// Stops the clock and returns whether it had run out, so that the variant is dead.
    pub(crate) fn disarm(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.armed = None;
        watch.expired
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to watch.
            thread.join().ok();
        }
    }
}

fn run(shared: &Mutex<Watch>) {
    loop {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(signal) = sys::stop_signal() {
            stop(signal);
        }
        let mut watch = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.over {
            return;
        }
        let stuck = watch.armed.take_if(|(_, deadline)| Instant::now() > *deadline);
        if let Some((variant, _)) = stuck {
            watch.expired = true;
            cleanup::kill_variant(&variant);
        }
    }
}

/// Cleans up and ends the process; the main thread may be deep in a system call.
fn stop(signal: i32) -> ! {
    let mut stderr = std::io::stderr();
    let code = match cleanup::end_everything() {
        Ok(()) => 128 + signal,
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            writeln!(stderr, "error: {error:#}").ok();
            1
        }
    };
    writeln!(stderr, "stopped by signal {signal}; everything is unmounted and removed").ok();
    std::process::exit(code)
}
