//! What takes long: opening, durability, retention, garbage, hashes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, error, info, warn};
use wsguard_api::{EventKind, HistoryState};

use super::relief::{self, Cause};
use super::{Shared, Subject};
use crate::error_chain::one_line;
use crate::snapshot::{
    Archive, ArchiveError, Epoch, Fullness, History, ObjectId, Pace, SnapshotReason, SnapshotState, collect,
    hash_some, mark_lost, retain, scan, verify,
};
use crate::workspaces::history_board::shown_time;

/// Between two rounds.
const STEP: Duration = Duration::from_secs(1);
/// A past that could not be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// Between two syncfs(2) for one workspace.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at what retention says.
const RETAIN_INTERVAL: Duration = Duration::from_secs(600);
/// Between two counts of what is in the trash: every row is read.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// Hashed in one round, bytes.
const HASH_BYTES: u64 = 64 << 20;
/// From one search for objects without a hash to the next.
const HASH_INTERVAL: Duration = Duration::from_secs(30);
/// Every object is read again after this.
const SCRUB_INTERVAL: Duration = Duration::from_secs(30 * 86_400);
/// If nothing more can be given up, it is told no more often than this, and tried again after a while.
const TELL_INTERVAL: Duration = Duration::from_secs(3_600);
const HOPELESS: Duration = Duration::from_secs(30);

/// The thread.
pub(super) struct Service {
    shared: Arc<Shared>,
    duties: HashMap<String, Duty>,
}

/// When what was done last for a workspace.
struct Duty {
    history: Arc<History>,
    failed_at: Option<Instant>,
    is_scanned: bool,
    synced: Option<(Instant, Epoch)>,
    retained_at: Option<Instant>,
    counted_at: Option<Instant>,
    hashing: Hashing,
    scrubbed_at: Instant,
    hopeless: Option<(Instant, Option<Instant>)>,
}

enum Hashing {
    After(Option<ObjectId>),
    DoneAt(Instant),
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, duties: HashMap::new() }
    }

    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() {
            let ids = self.shared.registry.ids();
            self.duties.retain(|id, _| ids.contains(id));
            for (id, mounted) in self.shared.mounted() {
                if self.shared.is_stopping() {
                    return;
                }
                // Why there is none is told by the other thread.
                let Ok(subject) = self.shared.subject(&id, &mounted) else { continue };
                let duty = self.duty(&subject);
                if duty.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
                    continue;
                }
                let opened = mounted.session().opened_archive();
                let archive = opened.map_or_else(|| mounted.session().archive(), Ok);
                drop(mounted);
                match archive {
                    Ok(archive) => self.look_after(&subject, &archive),
                    Err(reason) => self.note_unopened(&subject, &reason),
                }
            }
            let mut calls = self.shared.calls.lock();
            if !self.shared.is_stopping() {
                self.shared.rest.wait_for(&mut calls, STEP);
            }
        }
    }

    fn duty(&mut self, subject: &Subject) -> &mut Duty {
        let is_same =
            self.duties.get(&subject.id).is_some_and(|duty| Arc::ptr_eq(&duty.history, &subject.history));
        if !is_same {
            let duty = Duty {
                history: subject.history.clone(),
                failed_at: None,
                is_scanned: false,
                synced: None,
                retained_at: None,
                counted_at: None,
                hashing: Hashing::After(None),
                scrubbed_at: Instant::now(),
                hopeless: None,
            };
            self.duties.insert(subject.id.clone(), duty);
        }
        self.duties.get_mut(&subject.id).expect("it was just put there")
    }

    fn note_unopened(&mut self, subject: &Subject, reason: &str) {
        let reason = format!("what is deleted is kept, but the past cannot be looked at: {reason}");
        let state = HistoryState::Off { reason: reason.clone() };
        let board = self.shared.registry.history();
        let is_known = board.of(&subject.id).is_some_and(|facts| facts.state == state);
        board.update(&subject.id, |facts| facts.state = state);
        if !is_known {
            error!(workspace = %subject.id, reason, "history cannot be opened");
            self.shared.tell(subject, EventKind::HistoryOff, &reason);
        }
        self.duty(subject).failed_at = Some(Instant::now());
    }

    fn look_after(&mut self, subject: &Subject, archive: &Arc<Archive>) {
        let shared = self.shared.clone();
        let duty = self.duty(subject);
        duty.failed_at = None;
        if !duty.is_scanned
            && let Some(aside) = archive.set_aside()
        {
            let message = format!(
                "the history catalog was damaged and was made again from what is left of the log; what older \
                 snapshots showed is lost, the files are untouched; the old catalog is {}",
                aside.display()
            );
            shared.tell(subject, EventKind::HistoryDamaged, &message);
        }
        if !duty.is_scanned && archive.was_missing() {
            let message = "the history catalog was missing and was made again from what is left of the log; what older \
                           snapshots showed is lost, the files are untouched";
            shared.tell(subject, EventKind::HistoryDamaged, message);
        }
        if let Some(cut) = archive.after_cut().filter(|cut| !duty.is_scanned && cut.damaged > 0) {
            let message = format!(
                "the power went, and {} pieces of what had been overwritten shortly before had not reached the disk; \
                 the snapshots that need them are shown as degraded (`wsguard snapshot ls`)",
                cut.damaged
            );
            shared.tell(subject, EventKind::HistoryDamaged, &message);
        }
        let round = Round { shared: &shared, subject, archive, duty };
        if let Err(error) = round.run() {
            warn!(workspace = %subject.id, error = %one_line(&error), "history is not looked after in this round");
            self.duty(subject).failed_at = Some(Instant::now());
        }
    }
}

struct Round<'a> {
    shared: &'a Arc<Shared>,
    subject: &'a Subject,
    archive: &'a Arc<Archive>,
    duty: &'a mut Duty,
}

impl Round<'_> {
    fn run(mut self) -> Result<(), ArchiveError> {
        self.note_facts()?;
        let go_on = self.go_on();
        if !self.duty.is_scanned {
            let scanned = scan(self.archive, &go_on)?;
            info!(workspace = %self.subject.id, objects = scanned.objects, removed = scanned.removed, adopted = scanned.adopted, "preserve store was looked through");
            if scanned.adopted > 0 {
                let message = format!(
                    "{} kept files that nothing is known of any more are in {}/adopted; ask an administrator",
                    scanned.adopted,
                    self.archive.directory().display()
                );
                self.shared.tell(self.subject, EventKind::HistoryDamaged, &message);
            }
            if self.archive.was_rebuilt() {
                self.mark_lost(&go_on)?;
            }
            self.duty.is_scanned = true;
        }
        self.subject.history.sync_soon();
        self.make_durable()?;
        let is_deleted = self.shared.registry.history().take_deleted(&self.subject.id);
        let must_retain =
            is_deleted || self.duty.retained_at.is_none_or(|at| at.elapsed() >= RETAIN_INTERVAL);
        if must_retain {
            self.duty.retained_at = Some(Instant::now());
            let retained = retain(self.archive, &self.shared.bounds(), Timestamp::now())?;
            if let Some(fault) = retained.paused {
                warn!(workspace = %self.subject.id, ?fault, "retention waits, because the clock may be wrong");
            }
            if !retained.removed.is_empty() {
                info!(workspace = %self.subject.id, snapshots = retained.removed.len(), "snapshots dropped by retention");
            }
        }
        if must_retain {
            let collected = collect(self.archive, Pace::Gentle, &go_on)?;
            if collected.objects > 0 {
                info!(workspace = %self.subject.id, objects = collected.objects, bytes = collected.bytes, "history garbage collected");
            }
            self.duty.counted_at = None;
        }
        self.keep_within_bounds()?;
        self.hash()?;
        self.scrub()
    }

    /// After the catalog was made again: what it speaks of may be gone.
    fn mark_lost(&self, go_on: &dyn Fn() -> bool) -> Result<(), ArchiveError> {
        let lost = mark_lost(self.archive, go_on)?;
        if lost.is_trash_shorter {
            warn!(workspace = %self.subject.id, "it is not known any more how far the trash reached back; it begins later");
        }
        if lost.objects > 0 {
            let snapshots: Vec<String> = lost.snapshots.iter().map(|epoch| epoch.0.to_string()).collect();
            let message = format!(
                "{} kept objects are lost; the snapshots that need them are degraded: {}; see `wsguard verify`",
                lost.objects,
                if snapshots.is_empty() { "none".to_owned() } else { snapshots.join(", ") }
            );
            self.shared.tell(self.subject, EventKind::HistoryDamaged, &message);
        }
        Ok(())
    }

    /// Long work goes on as long as the workspace is mounted and nobody stops us.
    fn go_on(&self) -> impl Fn() -> bool + use<> {
        let (registry, id) = (self.shared.registry.clone(), self.subject.id.clone());
        let (shared, history) = (self.shared.clone(), self.subject.history.clone());
        move || {
            let is_same = |mounted: Arc<crate::mounting::Mounted>| {
                mounted.session().history().is_ok_and(|now| Arc::ptr_eq(&now, &history))
            };
            !shared.is_stopping() && registry.mounted(&id).is_some_and(is_same)
        }
    }

    fn note_facts(&mut self) -> Result<(), ArchiveError> {
        let past = self.archive.read()?;
        let snapshots = past.snapshots()?;
        let is_automatic = |reason: SnapshotReason| reason == SnapshotReason::Automatic;
        let last = snapshots.iter().rev().find(|snapshot| is_automatic(snapshot.reason));
        let last_automatic = last.map(|snapshot| shown_time(snapshot.time_ns));
        let stored_bytes = past.stored_bytes()?;
        let budget = self.subject.fs.host_space().map(|host| self.shared.budget(self.subject, host));
        let trash = match self.duty.counted_at {
            Some(at) if at.elapsed() < COUNT_INTERVAL => None,
            _ => Some((past.space(&past.kept()?)?.trash, past.damaged_objects()?)),
        };
        drop(past);
        if let Some((trash_bytes, _)) = trash {
            self.duty.counted_at = Some(Instant::now());
            if let Some(account) = self.subject.fs.account() {
                account.set_reclaimable(trash_bytes);
            }
        }
        self.shared.registry.history().update(&self.subject.id, |facts| {
            facts.state = HistoryState::On;
            facts.snapshots = snapshots.len() as u64;
            facts.last_automatic = last_automatic;
            facts.stored_bytes = stored_bytes;
            if let Ok(budget) = budget {
                facts.budget_bytes = budget;
            }
            if let Some((trash_bytes, damaged)) = trash {
                (facts.trash_bytes, facts.damaged) = (trash_bytes, damaged);
            }
        });
        Ok(())
    }

    /// Writes the filesystem back and notes that what was sealed before is durable.
    fn make_durable(&mut self) -> Result<(), ArchiveError> {
        let Some(last) = self.archive.read()?.last_ended_epoch()? else { return Ok(()) };
        let is_due = match self.duty.synced {
            Some((at, epoch)) => epoch < last && at.elapsed() >= SYNC_INTERVAL,
            None => true,
        };
        if !is_due {
            return Ok(());
        }
        make_durable(self.archive, &self.subject.fs, last)?;
        self.duty.synced = Some((Instant::now(), last));
        match self.archive.trim_log() {
            Ok(()) => {}
            Err(error) => {
                debug!(workspace = %self.subject.id, error = %one_line(&error), "history log is not trimmed");
            }
        }
        Ok(())
    }

    fn keep_within_bounds(&mut self) -> Result<(), ArchiveError> {
        let fullness = match self.shared.fullness(self.subject, self.archive) {
            Ok(fullness) => fullness,
            Err(error) => {
                debug!(workspace = %self.subject.id, error, "it cannot be found out how full it is");
                return Ok(());
            }
        };
        if fullness.excess() == 0 || self.duty.hopeless.is_some_and(|(at, _)| at.elapsed() < HOPELESS) {
            return Ok(());
        }
        let cause = if fullness.free < fullness.free_floor { Cause::LittleFree } else { Cause::Budget };
        // A little more than must be, so that it is not done all the time.
        let wanted = Fullness {
            budget: fullness.budget - fullness.budget / 50,
            free_floor: fullness.free_floor + fullness.free_floor / 50,
            ..fullness
        };
        let Some(evicted) = relief::give_up(self.shared, self.subject, self.archive, wanted, cause) else {
            self.duty.hopeless = Some((Instant::now(), self.duty.hopeless.and_then(|(_, told)| told)));
            return Ok(());
        };
        self.duty.counted_at = None;
        if evicted.missing == 0 {
            self.duty.hopeless = None;
            return Ok(());
        }
        let told = self.duty.hopeless.and_then(|(_, told)| told);
        let is_told = told.is_some_and(|at| at.elapsed() < TELL_INTERVAL);
        self.duty.hopeless = Some((Instant::now(), if is_told { told } else { Some(Instant::now()) }));
        // That a disk is full of other things is no matter of history.
        if !is_told && fullness.used > 0 && cause == Cause::Budget {
            let message = "history has used up its budget, and all that is left of it is held, in use or the newest; \
                           delete snapshots with `wsguard snapshot rm`";
            self.shared.tell(self.subject, EventKind::HistoryEvicted, message);
        }
        Ok(())
    }

    fn hash(&mut self) -> Result<(), ArchiveError> {
        let after = match self.duty.hashing {
            Hashing::After(after) => after,
            Hashing::DoneAt(at) if at.elapsed() >= HASH_INTERVAL => None,
            Hashing::DoneAt(_) => return Ok(()),
        };
        let next = hash_some(self.archive, after, HASH_BYTES, &self.go_on())?;
        self.duty.hashing = match next {
            Some(object) => Hashing::After(Some(object)),
            None => Hashing::DoneAt(Instant::now()),
        };
        Ok(())
    }

    /// Reads everything that is kept once a month, and compares it.
    fn scrub(&mut self) -> Result<(), ArchiveError> {
        if self.duty.scrubbed_at.elapsed() < SCRUB_INTERVAL {
            return Ok(());
        }
        let known = self.archive.read()?.damaged_objects()?;
        let verified = verify(self.archive, true, None, &self.go_on())?;
        info!(workspace = %self.subject.id, objects = verified.objects, bytes = verified.bytes, damaged = verified.damage.len(), "history was scrubbed");
        self.duty.scrubbed_at = Instant::now();
        self.duty.counted_at = None;
        if verified.damage.len() as u64 > known {
            let message = format!(
                "{} kept objects are damaged; see `wsguard verify`, and the kernel's log for the disk",
                verified.damage.len()
            );
            self.shared.tell(self.subject, EventKind::HistoryDamaged, &message);
        }
        Ok(())
    }
}

/// Writes the filesystem back; then snapshots up to `last` survive a power cut.
///
/// # Errors
/// As syncfs(2); see [`ArchiveError`].
pub(crate) fn make_durable(
    archive: &Archive,
    fs: &crate::fs::GuardFs,
    last: Epoch,
) -> Result<(), ArchiveError> {
    let sealed: Vec<Epoch> = archive
        .read()?
        .snapshots()?
        .into_iter()
        .filter(|snapshot| snapshot.state == SnapshotState::Sealed && snapshot.epoch <= last)
        .map(|snapshot| snapshot.epoch)
        .collect();
    if sealed.is_empty() {
        return Ok(());
    }
    fs.sync_backing()?;
    for epoch in sealed {
        archive.with_catalog(|catalog| catalog.set_state(epoch, SnapshotState::Durable))?;
    }
    Ok(())
}
