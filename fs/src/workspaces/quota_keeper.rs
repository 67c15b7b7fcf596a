//! The thread beside the driver that a writer may wait for: it stores watermarks and looks how full the disks are.
//!
//! It has a connection of its own to the catalog, because the driver may be busy with a mount for seconds.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{debug, error, warn};

use super::registry::Registry;
use crate::catalog::{CatalogError, CounterStore, Counters};
use crate::error_chain::one_line;
use crate::mounting::Mounted;
use crate::quota::{Account, Watermark};

/// How often disks are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// After a failure to store, how long until the next try.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct QuotaKeeper {
    store: Arc<Mutex<CounterStore>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for QuotaKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuotaKeeper").finish_non_exhaustive()
    }
}

impl QuotaKeeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the catalog cannot be opened a second time, or there is no thread.
    pub(super) fn start(
        state_dir: &Path,
        min_free: Option<u64>,
        registry: Arc<Registry>,
    ) -> Result<Self, String> {
        let store = CounterStore::open(state_dir).map_err(|error| one_line(&error))?;
        let store = Arc::new(Mutex::new(store));
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work { store: store.clone(), stop: stop.clone(), min_free, registry };
        let thread = std::thread::Builder::new()
            .name("quota".to_owned())
            .spawn(move || work.run())
            .map_err(|error| format!("no thread: {error}"))?;
        Ok(Self { store, stop, thread: Some(thread) })
    }

    /// Stores counters; on disk when it returns.
    ///
    /// # Errors
    /// As [`CounterStore::put`].
    pub(super) fn store(&self, counters: &[(&str, Counters)]) -> Result<(), CatalogError> {
        self.store.lock().put(counters)
    }
}

impl Drop for QuotaKeeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the quota thread panicked");
        }
    }
}

struct Work {
    store: Arc<Mutex<CounterStore>>,
    stop: Arc<AtomicBool>,
    min_free: Option<u64>,
    registry: Arc<Registry>,
}

impl Work {
    fn run(self) {
        let mut sampled = Instant::now().checked_sub(SAMPLE_INTERVAL);
        let mut not_before = Instant::now();
        let ledger = self.registry.quota().ledger().clone();
        while !self.stop.load(Ordering::Acquire) {
            let mounted = self.mounted();
            if sampled.is_none_or(|at| at.elapsed() >= SAMPLE_INTERVAL) {
                self.sample(&mounted);
                sampled = Some(Instant::now());
            }
            if Instant::now() >= not_before && !self.persist(&mounted) {
                not_before = Instant::now() + RETRY;
            }
            drop(mounted);
            ledger.wait_for_watermark_request(SAMPLE_INTERVAL);
        }
    }

    fn mounted(&self) -> Vec<(String, Arc<Mounted>)> {
        let ids = self.registry.ids();
        ids.into_iter().filter_map(|id| self.registry.mounted(&id).map(|mounted| (id, mounted))).collect()
    }

    /// Tells the ledger how full each disk is, once a disk.
    fn sample(&self, mounted: &[(String, Arc<Mounted>)]) {
        let mut seen = BTreeSet::new();
        for (id, mounted) in mounted {
            mounted.measure_kernel_use();
            let pool = mounted.identity().device;
            if !seen.insert(pool) {
                continue;
            }
            match mounted.host_space() {
                Ok(space) => {
                    let ledger = self.registry.quota().ledger();
                    ledger.set_min_free(pool, self.min_free);
                    ledger.set_host_free(pool, space);
                }
                Err(errno) => debug!(workspace = %id, %errno, "disk does not tell how full it is"),
            }
        }
    }

    /// Stores the watermarks that are asked for. Returns whether that worked.
    fn persist(&self, mounted: &[(String, Arc<Mounted>)]) -> bool {
        let wanted: Vec<(&str, &Arc<Account>, Watermark)> = mounted
            .iter()
            .filter_map(|(id, mounted)| {
                let account = mounted.account()?;
                Some((id.as_str(), account, account.watermark_wanted()?))
            })
            .collect();
        if wanted.is_empty() {
            return true;
        }
        let rows: Vec<(&str, Counters)> = wanted
            .iter()
            .map(|(id, account, mark)| {
                let counters = Counters {
                    used_bytes: account.used_bytes(),
                    used_inodes: account.used_inodes(),
                    watermark_bytes: mark.bytes,
                    watermark_inodes: mark.inodes,
                    is_clean: false,
                };
                (*id, counters)
            })
            .collect();
        if let Err(error) = self.store.lock().put(&rows) {
            warn!(error = %one_line(&error), "watermarks of quota cannot be stored; writers near one wait");
            return false;
        }
        for (_, account, mark) in wanted {
            account.set_watermark(mark);
        }
        true
    }
}
