//! Making room when the disk is full, or history takes too much.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, info, warn};
use wsguard_api::EventKind;

use super::{Shared, Subject};
use crate::error_chain::one_line;
use crate::snapshot::{Archive, Evicted, Fullness, Pace, Shortage, collect, evict};
use crate::sys::priority;

/// Made free at a time at least when the disk is full, as part of the filesystem and in bytes.
const LEAST_RELIEF_PERCENT: u64 = 5;
const MOST_RELIEF: u64 = 1 << 30;
/// If nothing could be given up, how long until it is tried again.
const HOPELESS: Duration = Duration::from_secs(5);

/// Makes room for those that wait, and tells them.
pub(super) fn relieve(shared: &Shared, calls: &BTreeMap<String, Shortage>) {
    // Somebody waits, and whoever fills the disk does so at ordinary priority.
    if let Err(errno) = priority::restore_own() {
        debug!(%errno, "room is made at low priority");
    }
    let mut has_room = false;
    for (id, shortage) in calls {
        let Some(mounted) = shared.registry.mounted(id) else { continue };
        let archive = mounted.session().opened_archive();
        let (Ok(subject), Some(archive)) = (shared.subject(id, &mounted), archive) else { continue };
        let pool = mounted.identity().device;
        drop(mounted);
        has_room |= relieve_one(shared, &subject, &archive, *shortage);
        shared.set_room(&subject);
        // Who waits asks the ledger first.
        if let Ok(host) = subject.fs.host_space() {
            shared.registry.quota().ledger().set_host_free(pool, host);
        }
    }
    let mut calls = shared.calls.lock();
    calls.answers += 1;
    calls.has_room = has_room;
    calls.hopeless_until = (!has_room).then(|| Instant::now() + HOPELESS);
    drop(calls);
    shared.answered.notify_all();
    if let Err(errno) = priority::lower_own() {
        debug!(%errno, "history is looked after at normal priority");
    }
}

fn relieve_one(shared: &Shared, subject: &Subject, archive: &Archive, shortage: Shortage) -> bool {
    let host = match subject.fs.host_space() {
        Ok(host) => host,
        Err(errno) => {
            warn!(workspace = %subject.id, %errno, "disk does not tell how full it is");
            return false;
        }
    };
    if shortage == Shortage::Near {
        let floor = shared.free_floor(host);
        // Much may have been kept, and all of it been there before.
        if host.available_bytes > floor / 2 {
            return true;
        }
        let fullness = Fullness { used: 0, budget: u64::MAX, free: host.available_bytes, free_floor: floor };
        let evicted = give_up(shared, subject, archive, fullness, Cause::LittleFree);
        return evicted.is_some_and(|evicted| evicted.bytes > 0);
    }
    let wanted = (host.total_bytes / 100 * LEAST_RELIEF_PERCENT).min(MOST_RELIEF);
    let floor = host.available_bytes.saturating_add(wanted);
    let fullness = Fullness { used: 0, budget: u64::MAX, free: host.available_bytes, free_floor: floor };
    give_up(shared, subject, archive, fullness, Cause::FullDisk).is_some_and(|evicted| evicted.bytes > 0)
}

/// Why something is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Somebody found the disk full.
    FullDisk,
    /// Less than should be is free.
    LittleFree,
    /// History takes more than it may.
    Budget,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::FullDisk => "the disk was full",
            Self::LittleFree => "too little of the disk was free",
            Self::Budget => "history had used up its budget",
        }
    }
}

/// Gives up what has to be and takes it off the disk. What was done in the running epoch can be given up only once that
/// has ended.
pub(super) fn give_up(
    shared: &Shared,
    subject: &Subject,
    archive: &Archive,
    fullness: Fullness,
    cause: Cause,
) -> Option<Evicted> {
    let bounds = shared.bounds();
    let attempt = |fullness: Fullness| {
        let evicted = evict(archive, &bounds, fullness, Timestamp::now())?;
        let collected = collect(archive, Pace::Urgent, &|| !shared.is_stopping())?;
        Ok::<_, crate::snapshot::ArchiveError>((evicted, collected))
    };
    let mut total = Evicted::default();
    for is_last in [false, true] {
        let left = fullness.excess().saturating_sub(total.bytes);
        let still = Fullness { used: left, budget: 0, free: 0, free_floor: 0 };
        match attempt(still) {
            Ok((evicted, collected)) => {
                total.snapshots.extend(&evicted.snapshots);
                total.trash_bytes += evicted.trash_bytes;
                // Garbage of before may have gone with it.
                total.bytes += evicted.bytes.max(collected.bytes);
                total.missing = evicted.missing;
            }
            Err(error) => {
                warn!(workspace = %subject.id, error = %one_line(&error), "history cannot give anything up");
                return None;
            }
        }
        if is_last || total.bytes >= fullness.excess() || !subject.history.is_dirty() {
            break;
        }
        if let Err(error) = subject.history.end_epoch(subject.fs.backing(), Default::default(), None) {
            warn!(workspace = %subject.id, error = %one_line(&error), "epoch does not end");
            break;
        }
    }
    if total.is_something() {
        tell(shared, subject, &total, cause);
    }
    Some(total)
}

fn tell(shared: &Shared, subject: &Subject, evicted: &Evicted, cause: Cause) {
    info!(
        workspace = %subject.id,
        bytes = evicted.bytes,
        snapshots = evicted.snapshots.len(),
        missing = evicted.missing,
        cause = cause.as_str(),
        "history gave way"
    );
    let snapshots = match evicted.snapshots.len() {
        0 => String::new(),
        1 => ", 1 snapshot among it".to_owned(),
        count => format!(", {count} snapshots among it"),
    };
    let message = format!(
        "history gave up {} of deleted and overwritten files{snapshots}, because {}",
        super::super::pages::size(evicted.bytes),
        cause.as_str()
    );
    shared.tell(subject, EventKind::HistoryEvicted, &message);
}
