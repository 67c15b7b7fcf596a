//! All scopes of a process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use super::book::Book;
use super::clock::LedgerClock;
use super::meter::Cells;
use super::scope::Scope;
use super::scope_state::ScopeState;
use super::space::{HostFloor, HostSpace};
use super::watermark::Persister;
use super::{Account, Dimension, Event, EventKind, Limits, ScopeKey};

/// See [`super`]. One a process.
#[derive(Default)]
pub(crate) struct Ledger {
    tables: Mutex<Tables>,
    persister: Persister,
}

#[derive(Default)]
struct Tables {
    /// Scopes with projects attached.
    scopes: FxHashMap<ScopeKey, Arc<Scope>>,
    /// What is known of scopes that have none.
    resting: FxHashMap<ScopeKey, Book>,
    min_free: FxHashMap<u64, u64>,
    clock: LedgerClock,
}

impl Tables {
    /// The scope of a parent, made if there is none yet.
    fn parent(&mut self, key: ScopeKey) -> Arc<Scope> {
        if let Some(scope) = self.scopes.get(&key) {
            return Arc::clone(scope);
        }
        let scope = Arc::new(Scope::new(key.clone(), Cells::private(), self.wake(&key)));
        self.scopes.insert(key, Arc::clone(&scope));
        scope
    }

    /// Takes the book that was kept for a scope, or a new one. A scope whose last account lingers while its project is
    /// attached anew shares what it knows.
    fn wake(&mut self, key: &ScopeKey) -> Book {
        if let Some(scope) = self.scopes.get(key) {
            return scope.book.lock().clone();
        }
        self.resting.remove(key).unwrap_or_else(|| Book::new(self.clock.now()))
    }

    /// Puts a scope to rest that has no project any more.
    fn retire(&mut self, scope: &Arc<Scope>) {
        let is_ours = self.scopes.get(&scope.key).is_some_and(|entry| Arc::ptr_eq(entry, scope));
        if !is_ours || scope.projects.load(Ordering::Acquire) > 0 {
            return;
        }
        self.scopes.remove(&scope.key);
        let book = std::mem::replace(&mut *scope.book.lock(), Book::new(Timestamp::MIN));
        if !book.is_blank() {
            self.resting.insert(scope.key.clone(), book);
        }
    }

    /// Changes the book of a scope, with projects or without.
    fn edit<R>(&mut self, key: &ScopeKey, edit: impl FnOnce(&mut Book) -> R) -> R {
        if let Some(scope) = self.scopes.get(key) {
            let mut book = scope.book.lock();
            let result = edit(&mut book);
            scope.refresh(&book);
            return result;
        }
        let mut book = self.wake(key);
        let result = edit(&mut book);
        if !book.is_blank() {
            self.resting.insert(key.clone(), book);
        }
        result
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Makes an empty ledger.
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Enters a project below its parents, whose totals grow by what `cells` hold. It leaves them when the account is
    /// dropped. While an earlier account of the same project lingers, both count on the parents.
    pub(crate) fn attach(
        self: &Arc<Self>,
        project: &str,
        owner: u32,
        group: Option<&str>,
        pool: u64,
        cells: Cells,
    ) -> Arc<Account> {
        let mut tables = self.tables.lock();
        let key = ScopeKey::Project(project.to_owned());
        let scope = Arc::new(Scope::new(key.clone(), cells, tables.wake(&key)));
        scope.projects.store(1, Ordering::Release);
        scope.estimated.store(scope.cells.estimated().load(Ordering::Acquire).min(1), Ordering::Release);
        tables.scopes.insert(key, Arc::clone(&scope));
        let group = group.map(|name| ScopeKey::Group(name.to_owned()));
        let parents = [Some(ScopeKey::User(owner)), group, Some(ScopeKey::Pool(pool))];
        let mut chain = vec![Arc::clone(&scope)];
        for key in parents.into_iter().flatten() {
            let parent = tables.parent(key);
            enter(&parent, &scope);
            chain.push(parent);
        }
        Arc::new(Account::new(Arc::clone(self), scope, chain))
    }

    /// Takes a project out of its parents' totals. Called once, when nothing can use it any more.
    pub(super) fn leave(&self, chain: &[Arc<Scope>]) {
        let [scope, parents @ ..] = chain else { return };
        let mut tables = self.tables.lock();
        for parent in parents {
            exit(parent, scope);
        }
        scope.projects.store(0, Ordering::Release);
        for scope in chain {
            tables.retire(scope);
        }
    }

    /// Replaces the group in the chain of a project. What the project has leaves the one group's totals and enters the
    /// other's while no change of it is under way; reservations that are open are settled on the new group.
    pub(super) fn regroup(&self, chain: &RwLock<Vec<Arc<Scope>>>, group: Option<&str>) {
        let wanted = group.map(|name| ScopeKey::Group(name.to_owned()));
        let place =
            |chain: &[Arc<Scope>]| chain.iter().position(|scope| matches!(scope.key, ScopeKey::Group(_)));
        let mut tables = self.tables.lock();
        let mut chain = chain.write();
        let old = place(&chain);
        if old.map(|place| &chain[place].key) == wanted.as_ref() {
            return;
        }
        let project = Arc::clone(&chain[0]);
        if let Some(key) = wanted {
            let group = tables.parent(key);
            enter(&group, &project);
            // After the user, before the pool.
            let pool = chain.len() - 1;
            chain.insert(old.unwrap_or(pool), group);
        }
        let had = old.map(|place| place + usize::from(group.is_some()));
        if let Some(group) = had.map(|place| chain.remove(place)) {
            exit(&group, &project);
            tables.retire(&group);
        }
    }

    /// Sets or removes the limits of a scope, whether it has projects or not. In effect for the next reservation.
    pub(crate) fn set_limits(&self, scope: &ScopeKey, limits: Option<Limits>, now: Timestamp) {
        let mut tables = self.tables.lock();
        let now = tables.clock.to_ledger(now);
        tables.edit(scope, |book| book.set_limits(limits, now));
    }

    /// Starts a grace clock with this deadline, or moves that of a running one: for clocks of an earlier process, and
    /// to extend one. The clock stops at the next [`Self::tick`] if use is not above the soft limit.
    pub(crate) fn set_grace_deadline(
        &self,
        scope: &ScopeKey,
        dimension: Dimension,
        deadline: Timestamp,
        now: Timestamp,
    ) {
        let mut tables = self.tables.lock();
        let (deadline, now) = (tables.clock.to_ledger(deadline), tables.clock.to_ledger(now));
        tables.edit(scope, |book| book.set_deadline(dimension, deadline, now));
    }

    /// Sets how many bytes of a pool stay free; `None` for the default. In effect with the next sample.
    pub(crate) fn set_min_free(&self, pool: u64, bytes: Option<u64>) {
        let mut tables = self.tables.lock();
        match bytes {
            Some(bytes) => tables.min_free.insert(pool, bytes),
            None => tables.min_free.remove(&pool),
        };
    }

    /// Enters a sample of what the host leaves of a pool: its use may grow by what is available less what has to stay
    /// free. Without a sample there is no such end.
    pub(crate) fn set_host_free(&self, pool: u64, host: HostSpace) {
        let mut tables = self.tables.lock();
        let min_free = tables.min_free.get(&pool).copied();
        let key = ScopeKey::Pool(pool);
        let used = tables.scopes.get(&key).map_or([0; 2], |scope| scope.all_used());
        tables.edit(&key, |book| book.floor = Some(HostFloor::new(host, min_free, used)));
    }

    /// Brings grace clocks, thresholds and boosts up to date; to be called about every second. Returns what happened
    /// since, each crossing once.
    pub(crate) fn tick(&self, now: Timestamp) -> Vec<Event> {
        let mut tables = self.tables.lock();
        let (_, jump) = tables.clock.observe(now);
        let mut events: Vec<Event> = jump
            .map(|by| Event { scope: None, at: now, kind: EventKind::ClockJumped { by } })
            .into_iter()
            .collect();
        let mut scopes: Vec<&Arc<Scope>> = tables.scopes.values().collect();
        scopes.sort_by(|one, other| one.key.cmp(&other.key));
        for scope in scopes {
            let mut book = scope.book.lock();
            let mut kinds = book.advance(&tables.clock, scope.all_used());
            kinds.extend(alarms(scope, &mut book));
            scope.refresh(&book);
            events.extend(kinds.into_iter().map(|kind| Event {
                scope: Some(scope.key.clone()),
                at: now,
                kind,
            }));
        }
        events
    }

    /// The state of one scope; `None` where no project is attached.
    pub(crate) fn snapshot(&self, scope: &ScopeKey) -> Option<ScopeState> {
        let tables = self.tables.lock();
        tables.scopes.get(scope).map(|scope| ScopeState::of(scope, &tables.clock))
    }

    /// The state of every scope with projects: pools, groups, users, projects, each kind by name.
    pub(crate) fn report(&self) -> Vec<ScopeState> {
        let tables = self.tables.lock();
        let mut report: Vec<ScopeState> =
            tables.scopes.values().map(|scope| ScopeState::of(scope, &tables.clock)).collect();
        report.sort_by(|one, other| one.scope.cmp(&other.scope));
        report
    }

    /// Waits until an account wants a watermark, for the thread that persists them. Returns whether one does;
    /// [`Account::watermark_wanted`] tells which.
    pub(crate) fn wait_for_watermark_request(&self, timeout: Duration) -> bool {
        self.persister.wait_for_request(timeout)
    }

    pub(super) fn persister(&self) -> &Persister {
        &self.persister
    }
}

/// Adds what a project has to a parent. Nobody changes the project meanwhile.
fn enter(parent: &Scope, project: &Scope) {
    shift_floor(parent, project, 1);
    for dimension in Dimension::ALL {
        parent.meter(dimension).add(project.meter(dimension).taken());
        let held = project.meter(dimension).held().load(Ordering::Acquire);
        parent.meter(dimension).held().fetch_add(held, Ordering::AcqRel);
        parent.cells.used(dimension).fetch_add(project.used(dimension), Ordering::AcqRel);
    }
    parent.reclaimable.fetch_add(project.reclaimable.load(Ordering::Relaxed), Ordering::Relaxed);
    parent.estimated.fetch_add(project.estimated.load(Ordering::Acquire), Ordering::AcqRel);
    parent.projects.fetch_add(1, Ordering::AcqRel);
}

/// Takes what a project has from a parent. Nobody changes the project meanwhile.
fn exit(parent: &Scope, project: &Scope) {
    for dimension in Dimension::ALL {
        parent.cells.used(dimension).fetch_sub(project.used(dimension), Ordering::AcqRel);
        let held = project.meter(dimension).held().load(Ordering::Acquire);
        parent.meter(dimension).held().fetch_sub(held, Ordering::AcqRel);
        parent.meter(dimension).give_back(project.meter(dimension).taken());
    }
    shift_floor(parent, project, -1);
    parent.reclaimable.fetch_sub(project.reclaimable.load(Ordering::Relaxed), Ordering::Relaxed);
    parent.estimated.fetch_sub(project.estimated.load(Ordering::Acquire), Ordering::AcqRel);
    parent.projects.fetch_sub(1, Ordering::AcqRel);
}

/// A project that comes or goes changes the use of a pool, and not what is free on it.
fn shift_floor(parent: &Scope, project: &Scope, sign: i128) {
    let mut book = parent.book.lock();
    if let Some(floor) = &mut book.floor {
        for dimension in Dimension::ALL {
            floor.shift(dimension, sign * i128::from(project.used(dimension)));
        }
        parent.refresh(&book);
    }
}

/// Alarms that have not been told of yet.
fn alarms(scope: &Scope, book: &mut Book) -> Vec<EventKind> {
    let mut events = Vec::new();
    let saturated = scope.cells.saturated().load(Ordering::Relaxed);
    if saturated > book.told_saturated {
        events.push(EventKind::Saturated { times: saturated - book.told_saturated });
    }
    book.told_saturated = saturated;
    let overruns = scope.overruns.load(Ordering::Relaxed);
    if overruns > book.told_overruns {
        events.push(EventKind::WatermarkPassed { times: overruns - book.told_overruns });
    }
    book.told_overruns = overruns;
    events
}
