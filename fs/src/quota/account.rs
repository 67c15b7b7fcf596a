//! A project's way into the ledger: reserve, settle, hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::meter::{FileClass, UNLIMITED};
use super::refusal::Refusal;
use super::scope::{Scope, smallest_grant};
use super::space::{self, HostSpace, Statfs};
use super::watermark::Watermark;
use super::{BLOCK_BYTES, Dimension, Ledger, ScopeKey, whole_blocks};

/// How often, and after what pause, a reservation that only others under way stand in the way of is tried again.
const RETRIES: u32 = 20;
const RETRY_PAUSE: Duration = Duration::from_micros(500);

/// A project that is attached. Its totals leave the parents' when the last reference is dropped.
pub(crate) struct Account {
    ledger: Arc<Ledger>,
    project: Arc<Scope>,
    /// Project, user, group, pool: the order in which reservations are made. Locked, shared, for the length of one
    /// change, so that each is made on all scopes of one chain; exclusively only while the group is replaced, which
    /// takes what is reserved along.
    chain: RwLock<Vec<Arc<Scope>>>,
    /// Its bytes are what the filesystem below says, which also refuses what is too much. They change by
    /// [`Self::set_measured`] alone then.
    is_measured: AtomicBool,
}

/// Where a reservation failed.
struct Blocked {
    scope: Arc<Scope>,
    dimension: Dimension,
    least: u64,
}

impl Account {
    /// Wraps scopes that the project has been entered in.
    pub(super) fn new(ledger: Arc<Ledger>, project: Arc<Scope>, chain: Vec<Arc<Scope>>) -> Self {
        Self { ledger, project, chain: RwLock::new(chain), is_measured: AtomicBool::new(false) }
    }

    /// The project's own scope.
    fn project(&self) -> &Scope {
        &self.project
    }

    /// Who pays.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.chain.read().iter().find_map(|scope| match scope.key {
            ScopeKey::User(uid) => Some(uid),
            ScopeKey::Pool(_) | ScopeKey::Group(_) | ScopeKey::Project(_) => None,
        })
    }

    /// Moves the project to another group, or to none, with everything that it uses and that is reserved at this moment.
    /// Never refused: a group that is over its limit by it may not grow.
    pub(crate) fn regroup(&self, group: Option<&str>) {
        self.ledger.regroup(&self.chain, group);
    }

    /// Reserves on every scope or on none: up to `bytes` (rounded up to whole blocks) and exactly `inodes`, for a file
    /// that will end at `file_end`. Where fewer bytes fit, but `at_least` (and at least a block), that many are granted.
    ///
    /// May wait for a few milliseconds for operations under way to settle before it refuses, and for up to two seconds
    /// for the watermark.
    ///
    /// # Errors
    /// When it does not fit. Nothing is reserved then.
    pub(crate) fn reserve(
        &self,
        bytes: u64,
        at_least: u64,
        inodes: u64,
        file_end: u64,
    ) -> Result<Reservation<'_>, Refusal> {
        if self.is_measured() {
            if bytes > 0 {
                self.check_parents(file_end)?;
            }
            self.take_patiently(0, 0, inodes, file_end)?;
            return Ok(Reservation { account: self, bytes: whole_blocks(bytes), reserved: 0, inodes });
        }
        let bytes = self.take_patiently(whole_blocks(bytes), whole_blocks(at_least), inodes, file_end)?;
        Ok(Reservation { account: self, bytes, reserved: bytes, inodes })
    }

    /// Whether bytes of the project are measured by the filesystem below, and not counted here.
    pub(crate) fn is_measured(&self) -> bool {
        self.is_measured.load(Ordering::Acquire)
    }

    /// Takes the project's bytes from the filesystem below from now on, or counts them here again. In the latter case
    /// use is estimated until the next recount.
    pub(crate) fn measure(&self, is_measured: bool) {
        if self.is_measured.swap(is_measured, Ordering::AcqRel) && !is_measured {
            self.set_estimated(true);
        }
    }

    /// Tells what the filesystem below says that the project uses. Changes nothing while bytes are counted here.
    pub(crate) fn set_measured(&self, bytes: u64) {
        if self.is_measured() {
            self.change(Dimension::Bytes, difference(bytes, self.used_bytes()), 0);
        }
    }

    /// Whether each scope above the project could take one more block; nothing is reserved.
    ///
    /// # Errors
    /// The first one that could not.
    pub(crate) fn check_parents(&self, file_end: u64) -> Result<(), Refusal> {
        let class = FileClass::of(file_end);
        for scope in self.chain.read().iter().skip(1) {
            let meter = scope.meter(Dimension::Bytes);
            while meter.take(BLOCK_BYTES, BLOCK_BYTES, class).is_none() {
                if !scope.relax(Dimension::Bytes) {
                    return Err(scope.refuse(Dimension::Bytes, BLOCK_BYTES, class));
                }
            }
            meter.give_back(BLOCK_BYTES);
        }
        Ok(())
    }

    /// What of a change of bytes is booked: nothing while they are measured.
    fn counted(&self, delta_bytes: i64) -> i64 {
        if self.is_measured() { 0 } else { delta_bytes }
    }

    /// Books a change that was not reserved: unlink, truncate, restat. Never refused. Counts that would fall below 0
    /// stop there, with an alarm.
    pub(crate) fn settle(&self, delta_bytes: i64, delta_inodes: i64) {
        self.change(Dimension::Bytes, self.counted(delta_bytes), 0);
        self.change(Dimension::Inodes, delta_inodes, 0);
    }

    /// As [`Self::settle`], where `released` bytes of a hold end with it: they pay for the growth as a reservation does.
    pub(crate) fn settle_held(&self, delta_bytes: i64, released: u64) {
        self.end_hold(released);
        self.change(Dimension::Bytes, self.counted(delta_bytes), released);
    }

    /// Notes that a part of a hold is an ordinary reservation from now on.
    fn end_hold(&self, released: u64) {
        for scope in self.chain.read().iter().filter(|_| released != 0) {
            scope.meter(Dimension::Bytes).held().fetch_sub(released, Ordering::AcqRel);
        }
    }

    /// Changes what a handle holds from `old` to `new` bytes (each rounded up to whole blocks). Shrinking always works.
    /// After a write below a hold, settle the write first.
    ///
    /// # Errors
    /// When the growth does not fit; the hold is what it was.
    pub(crate) fn adjust_hold(&self, old: u64, new: u64, file_end: u64) -> Result<(), Refusal> {
        let (old, new) = (whole_blocks(old), whole_blocks(new));
        if new > old {
            let more = self.take_patiently(new - old, new - old, 0, file_end)?;
            add_held(&self.chain.read(), more);
        } else {
            for scope in &*self.chain.read() {
                scope.meter(Dimension::Bytes).held().fetch_sub(old - new, Ordering::AcqRel);
                scope.meter(Dimension::Bytes).give_back(old - new);
            }
        }
        Ok(())
    }

    /// Enters a hold that was granted by a worker before this one. Never refused.
    pub(crate) fn adopt_hold(&self, bytes: u64) {
        let bytes = whole_blocks(bytes);
        let chain = self.chain.read();
        for scope in chain.iter().rev() {
            scope.meter(Dimension::Bytes).add(bytes);
        }
        add_held(&chain, bytes);
    }

    /// Whether any scope limits bytes.
    pub(crate) fn limits_bytes(&self) -> bool {
        self.chain
            .read()
            .iter()
            .any(|scope| scope.book.lock().limit_caps(Dimension::Bytes).small != UNLIMITED)
    }

    /// Returns the tightest limit of bytes, however it is used up; `None` if there is none.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        let chain = self.chain.read();
        let limits = chain.iter().map(|scope| scope.book.lock().limit_caps(Dimension::Bytes).large);
        limits.min().filter(|limit| *limit != UNLIMITED)
    }

    /// Whether use is assumed rather than counted.
    pub(crate) fn is_estimated(&self) -> bool {
        self.project().cells.estimated().load(Ordering::Acquire) != 0
    }

    /// Marks use as assumed, or as counted.
    pub(crate) fn set_estimated(&self, is_estimated: bool) {
        let chain = self.chain.read();
        let old = self.project().cells.estimated().swap(u64::from(is_estimated), Ordering::AcqRel) != 0;
        for scope in &*chain {
            match (old, is_estimated) {
                (false, true) => {
                    scope.estimated.fetch_add(1, Ordering::AcqRel);
                }
                (true, false) => {
                    scope.estimated.fetch_sub(1, Ordering::AcqRel);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Bytes in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.project().used(Dimension::Bytes)
    }

    /// Inodes in use.
    pub(crate) fn used_inodes(&self) -> u64 {
        self.project().used(Dimension::Inodes)
    }

    /// Sets use to what a recount found while nothing else changed it. While something does, use [`Self::correct`].
    pub(crate) fn set_used(&self, bytes: u64, inodes: u64) {
        self.correct(difference(bytes, self.used_bytes()), difference(inodes, self.used_inodes()));
    }

    /// Corrects use by the drift that a recount found: as [`Self::settle`], but the host's space is not expected to
    /// change with it.
    pub(crate) fn correct(&self, drift_bytes: i64, drift_inodes: i64) {
        let changed = [
            self.change(Dimension::Bytes, self.counted(drift_bytes), 0),
            self.change(Dimension::Inodes, drift_inodes, 0),
        ];
        for scope in &*self.chain.read() {
            let mut book = scope.book.lock();
            if let Some(floor) = &mut book.floor {
                for (dimension, changed) in Dimension::ALL.into_iter().zip(changed) {
                    floor.shift(dimension, i128::from(changed));
                }
                scope.refresh(&book);
            }
        }
    }

    /// The watermark to persist next: the present one is nearly reached, far too high, or there is none yet. It is
    /// in effect once [`Self::set_watermark`] is told. For the one thread that persists, which looks after every
    /// request and every few seconds besides: nobody asks for a mark to be lowered.
    pub(crate) fn watermark_wanted(&self) -> Option<Watermark> {
        self.ledger.persister().next(self.project())
    }

    /// Tells that a watermark is on disk. From the first one on, use does not pass it.
    pub(crate) fn set_watermark(&self, persisted: Watermark) {
        self.ledger.persister().set(self.project(), persisted);
    }

    /// Tells how many bytes of the project's trash can be given back: `df` shows them as available as far as the disk
    /// is what limits. For one thread at a time.
    pub(crate) fn set_reclaimable(&self, bytes: u64) {
        let chain = self.chain.read();
        let old = self.project().reclaimable.swap(bytes, Ordering::Relaxed);
        for parent in &chain[1..] {
            parent.reclaimable.fetch_add(bytes, Ordering::Relaxed);
            parent.reclaimable.fetch_sub(old, Ordering::Relaxed);
        }
    }

    /// Computes what statfs(2) answers, with `host` as the backing filesystem's own answer.
    pub(crate) fn statfs(&self, host: HostSpace) -> Statfs {
        space::statfs(&self.chain.read(), host, self.project().reclaimable.load(Ordering::Relaxed))
    }

    /// Takes, trying again for a moment where only operations under way stand in the way.
    fn take_patiently(&self, bytes: u64, at_least: u64, inodes: u64, file_end: u64) -> Result<u64, Refusal> {
        let class = FileClass::of(file_end);
        let mut retries = 0;
        loop {
            let blocked = match self.take(bytes, at_least, inodes, class) {
                Ok(granted) => return Ok(granted),
                Err(blocked) => blocked,
            };
            let Blocked { scope, dimension, least } = blocked;
            if scope.relax(dimension) {
                continue;
            }
            // What others reserve is the worst case; much of it comes back when they settle.
            if retries == RETRIES || !scope.is_briefly_full(dimension, least, class) {
                return Err(scope.refuse(dimension, least, class));
            }
            retries += 1;
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn take(&self, bytes: u64, at_least: u64, inodes: u64, class: FileClass) -> Result<u64, Blocked> {
        let mut granted = bytes;
        let mut taken = [0; 2];
        let chain = self.chain.read();
        for (depth, scope) in chain.iter().enumerate() {
            let dimensions = [(Dimension::Bytes, granted), (Dimension::Inodes, inodes)];
            for (dimension, want) in dimensions {
                if want == 0 {
                    continue;
                }
                let least = smallest_grant(dimension, want, at_least);
                let Some((got, now)) = scope.meter(dimension).take(want, least, class) else {
                    undo(&chain, depth, dimension, granted, inodes);
                    return Err(Blocked { scope: Arc::clone(scope), dimension, least });
                };
                if depth == 0 {
                    taken[dimension.index()] = now;
                }
                if dimension == Dimension::Bytes && got < granted {
                    give_back(&chain[..depth], Dimension::Bytes, granted - got);
                    granted = got;
                }
            }
        }
        // It may wait, and whoever replaces the group must not wait for that.
        drop(chain);
        for (dimension, want) in [(Dimension::Bytes, granted), (Dimension::Inodes, inodes)] {
            if want != 0 {
                self.ledger.persister().admit(self.project(), dimension, taken[dimension.index()]);
            }
        }
        Ok(granted)
    }

    /// Changes use by `delta` and ends a reservation of `reserved`. Returns by how much use did change.
    ///
    /// Order: `taken` is never less than use, and a parent's use never less than the sum of its projects'; so growth
    /// begins at the pool and with `taken`, and shrinking at the project and with use.
    fn change(&self, dimension: Dimension, delta: i64, reserved: u64) -> i64 {
        if (delta, reserved) == (0, 0) {
            return 0;
        }
        let amount = delta.unsigned_abs();
        let chain = self.chain.read();
        if delta >= 0 {
            for scope in chain.iter().rev() {
                scope.meter(dimension).add(amount.saturating_sub(reserved));
            }
            for scope in chain.iter().rev().filter(|_| amount != 0) {
                scope.cells.used(dimension).fetch_add(amount, Ordering::AcqRel);
            }
            give_back(&chain, dimension, reserved.saturating_sub(amount));
            if amount > reserved {
                self.ledger.persister().note(self.project(), dimension);
            }
            return delta;
        }
        let credited = self.credit(dimension, amount);
        for scope in &chain[1..] {
            scope.cells.used(dimension).fetch_sub(credited, Ordering::AcqRel);
        }
        give_back(&chain, dimension, credited.saturating_add(reserved));
        0_i64.saturating_sub_unsigned(credited)
    }

    /// Lowers the project's own use by as much of `amount` as there is. Returns how much that was.
    fn credit(&self, dimension: Dimension, amount: u64) -> u64 {
        let cells = &self.project().cells;
        let used = cells.used(dimension);
        let mut present = used.load(Ordering::Acquire);
        loop {
            let credited = amount.min(present);
            match used.compare_exchange_weak(present, present - credited, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) if credited < amount => {
                    cells.saturated().fetch_add(1, Ordering::Relaxed);
                    return credited;
                }
                Ok(_) => return credited,
                Err(now) => present = now,
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ledger.leave(self.chain.get_mut());
    }
}

/// Takes a reservation back that failed in `dimension` at `depth`.
fn undo(chain: &[Arc<Scope>], depth: usize, dimension: Dimension, bytes: u64, inodes: u64) {
    let bytes_depth = depth + usize::from(dimension == Dimension::Inodes);
    give_back(&chain[..bytes_depth], Dimension::Bytes, bytes);
    give_back(&chain[..depth], Dimension::Inodes, inodes);
}

fn give_back(scopes: &[Arc<Scope>], dimension: Dimension, amount: u64) {
    for scope in scopes {
        scope.meter(dimension).give_back(amount);
    }
}

fn add_held(chain: &[Arc<Scope>], bytes: u64) {
    for scope in chain {
        scope.meter(Dimension::Bytes).held().fetch_add(bytes, Ordering::AcqRel);
    }
}

/// `new` less `old`, as far as that can be said.
fn difference(new: u64, old: u64) -> i64 {
    let difference = i128::from(new) - i128::from(old);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// What has been reserved. Given back when dropped, unless it was settled.
#[must_use = "dropping a reservation gives it back"]
pub(crate) struct Reservation<'a> {
    account: &'a Account,
    /// Bytes that may be taken.
    bytes: u64,
    /// The same, or 0 where the filesystem below counts them.
    reserved: u64,
    inodes: u64,
}

impl Reservation<'_> {
    /// How many bytes were granted: whole blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Books what really happened, which may be more than was reserved, and gives the rest back.
    pub(crate) fn settle(mut self, delta_bytes: i64, delta_inodes: i64) {
        let (bytes, inodes) = (std::mem::take(&mut self.reserved), std::mem::take(&mut self.inodes));
        self.account.change(Dimension::Bytes, self.account.counted(delta_bytes), bytes);
        self.account.change(Dimension::Inodes, delta_inodes, inodes);
    }

    /// As [`Self::settle`] of bytes, where `released` bytes of a hold end with it as well.
    pub(crate) fn settle_held(mut self, delta_bytes: i64, released: u64) {
        let (bytes, inodes) = (std::mem::take(&mut self.reserved), std::mem::take(&mut self.inodes));
        self.account.end_hold(released);
        let counted = self.account.counted(delta_bytes);
        self.account.change(Dimension::Bytes, counted, bytes.saturating_add(released));
        self.account.change(Dimension::Inodes, 0, inodes);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.account.change(Dimension::Bytes, 0, self.reserved);
        self.account.change(Dimension::Inodes, 0, self.inodes);
    }
}
