//! Quota as everybody may look at it: the policy in force, what is known of workspaces that are not mounted, and the
//! ledger with the rest. The driver is the only writer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use wsguard_api::{ApiError, PolicyDocument};
use wsguard_api::{
    Binding, Counting, ErrorCode, ExplainedScope, Explanation, Limits, QuotaMode, QuotaReport, QuotaRow,
    QuotaState, SCHEMA_VERSION, ScopeRef, Usage,
};

use super::registry::Viewer;
use crate::catalog::{Counters, WorkspaceRecord};
use crate::policy::{self, Known, Policy, ProjectFacts, Resolved};
use crate::quota::{Ledger, ScopeKey, ScopeState, State};

/// A workspace as reports need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) owner_uid: u32,
    /// `st_dev` of the filesystem below, as of the last mount.
    pub(crate) device: Option<u64>,
    pub(crate) is_mounted: bool,
    /// How it is counted, while it is mounted.
    pub(crate) counting: Option<Counting>,
}

impl ProjectView {
    /// A workspace that is being mounted.
    pub(super) fn of(record: &WorkspaceRecord) -> Self {
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            dir: record.dir.clone(),
            owner_uid: record.owner_uid,
            device: record.identity.as_ref().map(|identity| identity.device),
            is_mounted: true,
            counting: None,
        }
    }

    pub(super) fn facts(&self) -> ProjectFacts {
        ProjectFacts { id: self.id.clone(), owner_uid: self.owner_uid }
    }
}

/// Where the number of a scope comes from when the ledger does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Exact(Usage),
    Estimated(Usage),
    Nothing,
}

#[derive(Debug, Default)]
struct Contents {
    policy: Arc<Policy>,
    /// Of workspaces that were mounted once; what is mounted now is in the ledger.
    counters: BTreeMap<String, Counters>,
    /// Which filesystem the path of a pool names.
    pools: BTreeMap<PathBuf, u64>,
}

/// See the module.
pub(crate) struct QuotaBoard {
    ledger: Arc<Ledger>,
    contents: Mutex<Contents>,
}

impl std::fmt::Debug for QuotaBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuotaBoard").field("contents", &self.contents).finish_non_exhaustive()
    }
}

/// Everything that a report is made of, copied at one moment.
pub(super) struct Look<'a> {
    policy: Arc<Policy>,
    counters: BTreeMap<String, Counters>,
    pools: BTreeMap<PathBuf, u64>,
    live: BTreeMap<ScopeKey, ScopeState>,
    projects: &'a [ProjectView],
    now: Timestamp,
}

impl QuotaBoard {
    pub(super) fn new() -> Self {
        Self { ledger: Ledger::new(), contents: Mutex::default() }
    }

    /// Returns the ledger that all workspaces are charged to.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.contents.lock().policy)
    }

    /// Returns what a workspace that is not mounted uses at most: bytes and inodes; nothing if it is new.
    pub(super) fn upper_bound(&self, id: &str) -> (u64, u64) {
        self.contents.lock().counters.get(id).map(Counters::upper_bound).unwrap_or_default()
    }

    /// Notes what a workspace uses that was unmounted.
    pub(super) fn set_counters_of(&self, id: &str, counters: Counters) {
        self.contents.lock().counters.insert(id.to_owned(), counters);
    }

    /// Returns the group of users that a user belongs to.
    pub(super) fn group_of(&self, uid: u32) -> Option<String> {
        self.policy().group_of(uid).map(str::to_owned)
    }

    pub(super) fn set_policy(&self, policy: Policy) {
        self.contents.lock().policy = Arc::new(policy);
    }

    pub(super) fn set_counters(&self, counters: BTreeMap<String, Counters>) {
        self.contents.lock().counters = counters;
    }

    /// Returns which filesystem each pool's path names.
    pub(super) fn pools(&self) -> BTreeMap<PathBuf, u64> {
        self.contents.lock().pools.clone()
    }

    pub(super) fn set_pools(&self, pools: BTreeMap<PathBuf, u64>) {
        self.contents.lock().pools = pools;
    }

    /// Returns what is configured.
    pub(crate) fn document(&self) -> PolicyDocument {
        self.policy().document()
    }

    /// Returns every scope that `viewer` may see: all, or the user's own with the user's group and workspaces.
    pub(crate) fn report(&self, projects: &[ProjectView], viewer: Viewer, now: Timestamp) -> QuotaReport {
        let look = self.look(projects, now);
        let mut scopes = look.policy.scopes(&projects.iter().map(ProjectView::facts).collect::<Vec<_>>());
        scopes.extend(look.unnamed_pools());
        let seen = scopes.into_iter().filter(|scope| look.is_visible(scope, viewer));
        QuotaReport {
            schema: SCHEMA_VERSION,
            generated_at: now.to_string(),
            is_admin: viewer == Viewer::Root,
            items: seen.map(|scope| look.row(scope)).collect(),
        }
    }

    /// Returns why `path` in the workspace `project` has the limits that it has.
    ///
    /// # Errors
    /// `NotFound` if the workspace is gone.
    pub(crate) fn explain(
        &self,
        path: &Path,
        project: &str,
        projects: &[ProjectView],
        now: Timestamp,
    ) -> Result<Explanation, ApiError> {
        let look = self.look(projects, now);
        let view = projects.iter().find(|view| view.id == project).ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("{} is not in a workspace", path.display()))
        })?;
        let owner = view.owner_uid;
        let mut chain = vec![ScopeRef::Project { id: view.id.clone() }, ScopeRef::User { uid: owner }];
        chain.extend(look.policy.group_of(owner).map(|name| ScopeRef::Group { name: name.to_owned() }));
        chain.extend(view.device.and_then(|device| look.pool_at(device)));
        let scopes: Vec<ExplainedScope> = chain
            .into_iter()
            .map(|scope| ExplainedScope {
                steps: look.policy.explain(&scope, Some(owner)),
                row: look.row(scope),
            })
            .collect();
        let tightest = |left: fn(&QuotaRow) -> Option<u64>| {
            let found = scopes.iter().filter_map(|explained| {
                Some(Binding { scope: explained.row.scope.clone(), left: left(&explained.row)? })
            });
            found.min_by_key(|binding| binding.left)
        };
        let (binding_bytes, binding_inodes) = (tightest(bytes_left), tightest(inodes_left));
        Ok(Explanation {
            schema: SCHEMA_VERSION,
            path: path.to_owned(),
            scopes,
            binding_bytes,
            binding_inodes,
        })
    }

    /// Looks at the use of the scopes that `policy` would form.
    pub(super) fn look_with<'a>(
        &self,
        policy: &Policy,
        projects: &'a [ProjectView],
        now: Timestamp,
    ) -> Look<'a> {
        Look { policy: Arc::new(policy.clone()), ..self.look(projects, now) }
    }

    fn look<'a>(&self, projects: &'a [ProjectView], now: Timestamp) -> Look<'a> {
        let live = self.ledger.report().into_iter().map(|state| (state.scope.clone(), state)).collect();
        let contents = self.contents.lock();
        Look {
            policy: Arc::clone(&contents.policy),
            counters: contents.counters.clone(),
            pools: contents.pools.clone(),
            live,
            projects,
            now,
        }
    }
}

impl Look<'_> {
    fn is_visible(&self, scope: &ScopeRef, viewer: Viewer) -> bool {
        let Viewer::User(viewer) = viewer else { return true };
        match scope {
            ScopeRef::Pool { .. } => false,
            ScopeRef::Group { name } => self.policy.group_of(viewer) == Some(name),
            ScopeRef::User { uid } => *uid == viewer,
            ScopeRef::Project { id } => self.project(id).is_some_and(|project| project.owner_uid == viewer),
        }
    }

    fn project(&self, id: &str) -> Option<&ProjectView> {
        self.projects.iter().find(|project| project.id == id)
    }

    /// Pools that are in use and that no record names go by the directory of their first workspace.
    fn unnamed_pools(&self) -> Vec<ScopeRef> {
        let devices: std::collections::BTreeSet<u64> =
            self.projects.iter().filter_map(|project| project.device).collect();
        let is_unnamed = |device: &u64| !self.pools.values().any(|known| known == device);
        devices.into_iter().filter(is_unnamed).filter_map(|device| self.pool_at(device)).collect()
    }

    fn pool_at(&self, device: u64) -> Option<ScopeRef> {
        let named = self.pools.iter().find(|(_, known)| **known == device).map(|(path, _)| path.clone());
        let first = || {
            let dirs = self.projects.iter().filter(|project| project.device == Some(device));
            dirs.map(|project| project.dir.clone()).min()
        };
        named.or_else(first).map(|path| ScopeRef::Pool { path })
    }

    fn key(&self, scope: &ScopeRef) -> Option<ScopeKey> {
        match scope {
            ScopeRef::Group { name } => Some(ScopeKey::Group(name.clone())),
            ScopeRef::User { uid } => Some(ScopeKey::User(*uid)),
            ScopeRef::Project { id } => Some(ScopeKey::Project(id.clone())),
            ScopeRef::Pool { path } => {
                let unnamed = || self.projects.iter().find(|project| project.dir == *path)?.device;
                self.pools.get(path).copied().or_else(unnamed).map(ScopeKey::Pool)
            }
        }
    }

    /// Returns the workspaces whose use a scope counts.
    fn projects_of(&self, scope: &ScopeRef) -> Vec<&ProjectView> {
        let device = match (scope, self.key(scope)) {
            (ScopeRef::Pool { .. }, Some(ScopeKey::Pool(device))) => Some(device),
            _ => None,
        };
        let belongs = |project: &&ProjectView| match scope {
            ScopeRef::Pool { .. } => device.is_some() && project.device == device,
            ScopeRef::Group { name } => self.policy.group_of(project.owner_uid) == Some(name),
            ScopeRef::User { uid } => project.owner_uid == *uid,
            ScopeRef::Project { id } => project.id == *id,
        };
        self.projects.iter().filter(belongs).collect()
    }

    fn stored(&self, project: &ProjectView) -> Stored {
        let Some(counters) = self.counters.get(&project.id) else { return Stored::Nothing };
        let (bytes, inodes) = counters.upper_bound();
        let usage = Usage { bytes, inodes };
        if counters.is_clean { Stored::Exact(usage) } else { Stored::Estimated(usage) }
    }

    /// Returns what the workspaces of a scope use, mounted or not: what it would be charged if all were mounted.
    pub(super) fn known(&self, scope: &ScopeRef) -> Known {
        let mut known = Known { usage: Usage::default(), is_complete: true };
        for project in self.projects_of(scope) {
            let live = self.live.get(&ScopeKey::Project(project.id.clone()));
            let usage = match (live, self.stored(project)) {
                (Some(live), _) => {
                    known.is_complete &= !live.is_estimated;
                    Usage { bytes: live.bytes.used, inodes: live.inodes.used }
                }
                (None, Stored::Exact(usage)) => usage,
                (None, Stored::Estimated(_) | Stored::Nothing) => {
                    known.is_complete = false;
                    Usage::default()
                }
            };
            known.usage.bytes = known.usage.bytes.saturating_add(usage.bytes);
            known.usage.inodes = known.usage.inodes.saturating_add(usage.inodes);
        }
        known
    }

    fn row(&self, scope: ScopeRef) -> QuotaRow {
        let project = match &scope {
            ScopeRef::Project { id } => self.project(id),
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
        };
        let owner_uid = match &scope {
            ScopeRef::User { uid } => Some(*uid),
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::Project { .. } => {
                project.map(|project| project.owner_uid)
            }
        };
        let group = match &scope {
            ScopeRef::Group { name } => Some(name.clone()),
            ScopeRef::Pool { .. } | ScopeRef::User { .. } | ScopeRef::Project { .. } => {
                owner_uid.and_then(|uid| self.policy.group_of(uid)).map(str::to_owned)
            }
        };
        let resolved = self.policy.resolve(&scope, owner_uid);
        let live = self.key(&scope).and_then(|key| self.live.get(&key));
        let row = QuotaRow {
            name: project.map(|project| project.name.clone()),
            owner_uid,
            group,
            dir: project.map(|project| project.dir.clone()),
            is_mounted: project.is_some_and(|project| project.is_mounted),
            counting: project.and_then(|project| project.counting.clone()),
            used: None,
            reserved: Usage::default(),
            bytes_hard: resolved.raised(resolved.limits.bytes_hard, self.now, |boost| boost.bytes),
            bytes_soft: resolved.raised(resolved.limits.bytes_soft, self.now, |boost| boost.bytes),
            inodes_hard: resolved.raised(resolved.limits.inodes_hard, self.now, |boost| boost.inodes),
            inodes_soft: resolved.raised(resolved.limits.inodes_soft, self.now, |boost| boost.inodes),
            bytes_grace_until: None,
            inodes_grace_until: None,
            state: QuotaState::Unknown,
            refused: 0,
            limits: self.shown(&resolved),
            sources: resolved.sources,
            scope,
        };
        match live {
            Some(live) => live_row(row, live),
            None => self.resting_row(row),
        }
    }

    fn shown(&self, resolved: &Resolved) -> Limits {
        let mut limits = resolved.limits.clone();
        limits.boosts.retain(|boost| policy::is_running(boost, self.now));
        limits
    }

    /// Nothing of the scope is mounted: the numbers are those of the last unmounts.
    fn resting_row(&self, mut row: QuotaRow) -> QuotaRow {
        let (mut usage, mut state) = (Usage::default(), None);
        for project in self.projects_of(&row.scope) {
            let (found, standing) = match self.stored(project) {
                // Mounted without being counted: what was stored before says nothing any more.
                _ if project.is_mounted => return row,
                Stored::Exact(found) => (found, QuotaState::Unmounted),
                Stored::Estimated(found) => (found, QuotaState::Estimated),
                Stored::Nothing => return row,
            };
            usage.bytes = usage.bytes.saturating_add(found.bytes);
            usage.inodes = usage.inodes.saturating_add(found.inodes);
            state = state.max(Some(standing)).filter(|_| state != Some(QuotaState::Estimated)).or(state);
        }
        row.used = Some(usage);
        row.state = state.unwrap_or(QuotaState::Ok);
        row
    }
}

fn live_row(mut row: QuotaRow, live: &ScopeState) -> QuotaRow {
    row.used = Some(Usage { bytes: live.bytes.used, inodes: live.inodes.used });
    row.reserved = Usage { bytes: live.bytes.reserved, inodes: live.inodes.reserved };
    // The ledger knows more: the end of a boost, and what the host leaves of a pool.
    row.bytes_hard = live.bytes.hard;
    row.bytes_soft = live.bytes.soft;
    row.inodes_hard = live.inodes.hard;
    row.inodes_soft = live.inodes.soft;
    row.bytes_grace_until = live.bytes.grace_deadline.map(|deadline| deadline.to_string());
    row.inodes_grace_until = live.inodes.grace_deadline.map(|deadline| deadline.to_string());
    row.refused = live.refused;
    row.state = match live.state {
        State::Ok => QuotaState::Ok,
        State::Estimated => QuotaState::Estimated,
        State::Soft => QuotaState::Soft,
        State::Grace => QuotaState::Grace,
        State::Expired => QuotaState::Expired,
        State::Over => QuotaState::Over,
    };
    row
}

fn bytes_left(row: &QuotaRow) -> Option<u64> {
    left(row, row.bytes_hard, row.used?.bytes, row.reserved.bytes)
}

fn inodes_left(row: &QuotaRow) -> Option<u64> {
    left(row, row.inodes_hard, row.used?.inodes, row.reserved.inodes)
}

/// Returns what a scope still lets in, or `None` if it sets no end.
fn left(row: &QuotaRow, hard: Option<u64>, used: u64, reserved: u64) -> Option<u64> {
    match (row.limits.mode, row.state) {
        (QuotaMode::Off | QuotaMode::Track, _) => None,
        (QuotaMode::Enforce, QuotaState::Expired) => Some(0),
        (QuotaMode::Enforce, _) => hard.map(|hard| hard.saturating_sub(used).saturating_sub(reserved)),
    }
}

#[cfg(test)]
mod tests {
    use wsguard_api::{Bound, Bounds, LimitSpec, PolicyRecord, PolicyTarget};

    use super::*;
    use crate::quota::{Cells, Limits as LedgerLimits};

    const MIB: u64 = 1 << 20;

    fn view(id: &str, owner_uid: u32, is_mounted: bool) -> ProjectView {
        ProjectView {
            id: id.to_owned(),
            name: format!("name-{id}"),
            dir: format!("/home/u/{id}").into(),
            owner_uid,
            device: Some(7),
            is_mounted,
            counting: None,
        }
    }

    fn hard(target: PolicyTarget, bytes: u64) -> PolicyRecord {
        let bytes = Some(Bounds { soft: Bound::Unlimited, hard: Bound::At(bytes) });
        PolicyRecord { target, spec: LimitSpec { bytes, ..LimitSpec::default() } }
    }

    fn board() -> QuotaBoard {
        let board = QuotaBoard::new();
        board.set_policy(Policy::new(
            [
                hard(PolicyTarget::EachUser { group: "default".into() }, 100 * MIB),
                hard(PolicyTarget::Project { id: "w1".into() }, 10 * MIB),
                hard(PolicyTarget::Group { name: "lab".into() }, 50 * MIB),
            ],
            [(1, "lab".to_owned())],
            [],
        ));
        board
    }

    fn now() -> Timestamp {
        "2030-01-01T12:00:00Z".parse().unwrap()
    }

    fn counters(used_bytes: u64, is_clean: bool) -> Counters {
        Counters { used_bytes, used_inodes: 5, watermark_bytes: 9 * MIB, watermark_inodes: 9, is_clean }
    }

    fn row(report: &QuotaReport, scope: &ScopeRef) -> QuotaRow {
        report.items.iter().find(|row| row.scope == *scope).cloned().unwrap()
    }

    #[test]
    fn users_see_their_own_scopes_and_admins_all() {
        let projects = [view("w1", 1, true), view("w2", 2, true)];
        let seen = |viewer| board().report(&projects, viewer, now()).items.len();
        // A pool, a group, two users, two projects.
        assert_eq!(seen(Viewer::Root), 6);
        let own = board().report(&projects, Viewer::User(1), now());
        let scopes: Vec<ScopeRef> = own.items.into_iter().map(|row| row.scope).collect();
        let project = ScopeRef::Project { id: "w1".into() };
        assert_eq!(scopes, [ScopeRef::Group { name: "lab".into() }, ScopeRef::User { uid: 1 }, project]);
        assert_eq!(seen(Viewer::User(3)), 0);
    }

    #[test]
    fn what_is_not_mounted_has_the_numbers_of_its_last_unmount() {
        let board = board();
        board.set_counters(BTreeMap::from([
            ("w1".to_owned(), counters(4 * MIB, true)),
            ("w3".to_owned(), counters(MIB, false)),
        ]));
        let projects = [view("w1", 1, false), view("w2", 2, false), view("w3", 3, false)];
        let report = board.report(&projects, Viewer::Root, now());
        let of = |uid| {
            let row = row(&report, &ScopeRef::User { uid });
            (row.used.map(|used| used.bytes), row.state)
        };
        assert_eq!(of(1), (Some(4 * MIB), QuotaState::Unmounted));
        assert_eq!(of(2), (None, QuotaState::Unknown));
        assert_eq!(of(3), (Some(9 * MIB), QuotaState::Estimated));
        let known = |uid| board.look_with(&board.policy(), &projects, now()).known(&ScopeRef::User { uid });
        assert_eq!((known(1).usage.bytes, known(1).is_complete), (4 * MIB, true));
        assert!(!known(2).is_complete && !known(3).is_complete);
    }

    #[test]
    fn the_binding_scope_is_the_one_with_the_least_room() {
        let board = board();
        let project = ScopeKey::Project("w1".to_owned());
        let bytes = crate::quota::Bounds { soft: None, hard: Some(10 * MIB) };
        board.ledger().set_limits(&project, Some(LedgerLimits { bytes, ..LedgerLimits::default() }), now());
        let account = board.ledger().attach("w1", 1, Some("lab"), 7, Cells::private());
        account.settle(i64::try_from(3 * MIB).unwrap(), 4);
        let explained =
            board.explain(Path::new("/home/u/w1/x"), "w1", &[view("w1", 1, true)], now()).unwrap();
        let binding = explained.binding_bytes.unwrap();
        assert_eq!((binding.scope, binding.left), (ScopeRef::Project { id: "w1".into() }, 7 * MIB));
        assert_eq!(explained.binding_inodes, None);
        let kinds: Vec<String> = explained
            .scopes
            .iter()
            .map(|scope| policy::subject_of(&policy::target_of(&scope.row.scope)))
            .collect();
        assert_eq!(kinds, ["project:w1", "user:1", "group:lab", "pool:/home/u/w1"]);
        assert_eq!(explained.scopes[1].row.used, Some(Usage { bytes: 3 * MIB, inodes: 4 }));
    }
}
