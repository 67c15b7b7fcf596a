//! What nobody needs any more leaves the disk.

use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::fail_point::{self, Stage};
use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::catalog::{Condemned, Disposal, Sweep};
use crate::snapshot::store::Store;

/// Rows that are looked at in one step: some milliseconds.
const ROWS: usize = 1_000;
/// Objects that are removed in one step.
const OBJECTS: usize = 64;
/// Between two steps, so that others get at the catalog and at the disk.
const REST: Duration = Duration::from_millis(2);

/// How thoroughly and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Everything, with a rest after each step.
    Gentle,
    /// Bytes alone, at once: somebody waits for them.
    Urgent,
}

/// What [`collect`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Collected {
    /// Rows that are gone.
    pub(crate) rows: u64,
    /// Objects that are gone or were punched.
    pub(crate) objects: u64,
    /// What that gave back at most, bytes.
    pub(crate) bytes: u64,
    /// It stopped before the end.
    pub(crate) is_interrupted: bool,
}

/// Takes out what no snapshot and no trash needs, as long as `go_on` says so.
///
/// # Errors
/// See [`ArchiveError`]; what was done is done, the rest is found again.
pub(crate) fn collect(
    archive: &Archive,
    pace: Pace,
    go_on: &dyn Fn() -> bool,
) -> Result<Collected, ArchiveError> {
    let mut collected = Collected::default();
    let mut sweep = match pace {
        Pace::Gentle => Sweep::default(),
        Pace::Urgent => Sweep::of_content(),
    };
    loop {
        if !go_on() {
            collected.is_interrupted = true;
            return Ok(collected);
        }
        // What is kept is asked for each step, under the lock: somebody may just have begun to look at a moment.
        let step = archive.with_catalog(|catalog| {
            let kept = catalog.past().kept()?.and(archive.pinned());
            catalog.sweep(&mut sweep, &kept, ROWS)
        })?;
        collected.rows += step.rows;
        if step.is_finished || (pace == Pace::Urgent && sweep.is_past_content()) {
            break;
        }
        rest(pace);
    }
    dispose(archive, pace, go_on, &mut collected)?;
    Ok(collected)
}

/// Removes or punches what is condemned.
fn dispose(
    archive: &Archive,
    pace: Pace,
    go_on: &dyn Fn() -> bool,
    collected: &mut Collected,
) -> Result<(), ArchiveError> {
    if archive.read()?.condemned(1)?.is_empty() {
        return Ok(());
    }
    // A power cut must not bring back rows whose objects are gone.
    archive.with_catalog(|catalog| catalog.sync().map(drop))?;
    fail_point::begin("collect");
    fail_point::reach(Stage::Prepared);
    loop {
        if !go_on() {
            collected.is_interrupted = true;
            return Ok(());
        }
        let batch = archive.read()?.condemned(OBJECTS)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut done = Vec::with_capacity(batch.len());
        let mut failure = None;
        for condemned in batch {
            match dispose_of(archive.history().store(), &condemned) {
                Ok(()) => {
                    collected.objects += 1;
                    collected.bytes += condemned.bytes;
                    done.push(condemned);
                }
                Err(errno) => failure = Some(errno),
            }
        }
        fail_point::reach(Stage::Effect);
        archive.with_catalog(|catalog| catalog.disposed(&done))?;
        fail_point::reach(Stage::Noted);
        // The others would be found first again.
        if let Some(errno) = failure {
            return Err(errno.into());
        }
        rest(pace);
    }
}

fn dispose_of(store: &Store, condemned: &Condemned) -> Result<(), Errno> {
    let ranges = match &condemned.disposal {
        Disposal::Remove => return store.remove(condemned.object),
        Disposal::Punch(ranges) => ranges,
    };
    let object = match store.open_object(condemned.object, OFlags::RDWR) {
        Ok(object) => object,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = range.end.min(i64::MAX.cast_unsigned()) - range.start;
        match rustix::fs::fallocate(&object, mode, range.start, length) {
            Ok(()) => {}
            // Where there are no holes the bytes stay until the whole object goes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn rest(pace: Pace) {
    match pace {
        Pace::Gentle => std::thread::sleep(REST),
        Pace::Urgent => {}
    }
}
