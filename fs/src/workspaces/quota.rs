//! The driver's jobs for quota: it keeps the policy, and the ledger follows.
//!
//! An edit is judged on a copy, stored, and only then used. The ledger hears of every scope at the start, of a
//! workspace before it is mounted, and of whatever an edit changes; of nothing else.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tracing::{error, info, warn};
use wsguard_api::{
    ApiError, AuditEntry, Boost, ErrorCode, EventKind, KernelEdit, Limits, PolicyRecord, PolicyTarget,
    QuotaChange, QuotaEdit, QuotaErrno, QuotaHit, QuotaMode, QuotaPlan, QuotaRequest, SCHEMA_VERSION,
    ScopeRef,
};

use super::driver::{Driver, catalog_error};
use super::kernel_tier::{KernelStep, KernelTiers};
use super::quota_board::ProjectView;
use super::quota_keeper::QuotaKeeper;
use crate::catalog::{Counters, Dimension, GraceRow, NewAudit, QuotaRows, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::mounting::Mounted;
use crate::policy::{self, EditContext, Policy, ProjectFacts, Verdict};
use crate::quota::{self, ScopeKey};

/// Scopes that an error names at most.
const NAMED_HITS: usize = 3;

/// What the driver remembers about quota between its jobs.
#[derive(Debug, Default)]
pub(super) struct QuotaState {
    /// What the ledger was told.
    told: BTreeMap<ScopeKey, quota::Limits>,
    /// Grace clocks as they are stored.
    clocks: Vec<GraceRow>,
    /// Stores watermarks; `None` if it could not be started.
    keeper: Option<QuotaKeeper>,
    /// What was unmounted and is known exactly, to be stored.
    clean: Vec<(String, Counters)>,
    /// Workspaces whose limit the filesystem below enforces.
    pub(super) kernel: KernelTiers,
}

impl Driver {
    /// Reads the policy and tells the ledger everything, before the first request can be charged.
    ///
    /// A policy that cannot be read limits nobody and is told of as degraded: the users' work goes on.
    pub(super) fn start_quota(&mut self, records: &[WorkspaceRecord]) {
        let read = || {
            let QuotaRows { records, members, boosts } = self.catalog.quota()?;
            let policy = Policy::new(records, members, boosts);
            Ok((policy, self.catalog.counters()?, self.catalog.grace_clocks()?))
        };
        match read() {
            Ok((policy, counters, clocks)) => {
                self.registry.quota().set_policy(policy);
                self.registry.quota().set_counters(counters);
                self.quota.clocks = clocks;
            }
            Err(error) => {
                let error: crate::catalog::CatalogError = error;
                error!(error = %one_line(&error), "quota policy cannot be read");
                self.registry.warn(format!(
                    "nothing is limited, the quota policy cannot be read: {}",
                    one_line(&error)
                ));
            }
        }
        let facts: Vec<ProjectFacts> = records.iter().map(facts_of).collect();
        self.tell_ledger(&facts);
        self.start_clocks();
        self.start_kernel_tiers();
        match QuotaKeeper::start(&self.config.state_dir, self.config.min_free, self.registry.clone()) {
            Ok(keeper) => self.quota.keeper = Some(keeper),
            Err(reason) => {
                error!(reason, "quota is not stored");
                self.registry.warn(format!("use is not stored and full disks are noticed late: {reason}"));
            }
        }
    }

    /// Notes what a workspace uses that was just unmounted, if that is known exactly.
    pub(super) fn note_final_usage(&mut self, id: &str, mounted: &Mounted) {
        let Some((used_bytes, used_inodes)) = mounted.final_usage() else { return };
        let counters = Counters {
            used_bytes,
            used_inodes,
            watermark_bytes: used_bytes,
            watermark_inodes: used_inodes,
            is_clean: true,
        };
        self.registry.quota().set_counters_of(id, counters);
        self.quota.clean.push((id.to_owned(), counters));
    }

    /// Stores what was noted. Without it, the next mounts assume more than there is until they are counted.
    pub(super) fn store_final_usage(&mut self) {
        let clean = std::mem::take(&mut self.quota.clean);
        let rows: Vec<(&str, Counters)> =
            clean.iter().map(|(id, counters)| (id.as_str(), *counters)).collect();
        if let (Some(keeper), false) = (&self.quota.keeper, rows.is_empty())
            && let Err(error) = keeper.store(&rows)
        {
            warn!(error = %one_line(&error), "use of unmounted workspaces is not stored");
        }
    }

    /// Lets grace clocks of an earlier worker run on.
    fn start_clocks(&self) {
        let now = Timestamp::now();
        let pools = self.registry.quota().pools();
        for clock in &self.quota.clocks {
            // The clock of a pool that is not there waits in the catalog.
            let Some(key) = key_of(&clock.scope, &pools) else { continue };
            let dimension = ledger_dimension(clock.dimension);
            self.registry.quota().ledger().set_grace_deadline(&key, dimension, clock.deadline, now);
        }
    }

    /// Tells the ledger the limits of a workspace that is about to be mounted, and of its owner.
    pub(super) fn tell_ledger_of(&mut self, record: &WorkspaceRecord) {
        let mut facts = self.project_facts();
        facts.retain(|project| project.id != record.id);
        facts.push(facts_of(record));
        self.tell_ledger(&facts);
    }

    fn project_facts(&self) -> Vec<ProjectFacts> {
        self.registry.projects().iter().map(ProjectView::facts).collect()
    }

    /// Brings the ledger's limits to those of the policy.
    fn tell_ledger(&mut self, projects: &[ProjectFacts]) {
        let board = self.registry.quota();
        let policy = board.policy();
        let pools = named_pools(&policy);
        board.set_pools(pools.clone());
        let owner = |scope: &ScopeRef| match scope {
            ScopeRef::Project { id } => projects.iter().find(|p| p.id == *id).map(|p| p.owner_uid),
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
        };
        let mut wanted: BTreeMap<ScopeKey, quota::Limits> = BTreeMap::new();
        for scope in policy.scopes(projects) {
            let resolved = policy.resolve(&scope, owner(&scope));
            if let Some(key) = key_of(&scope, &pools).filter(|_| !resolved.is_silent()) {
                wanted.insert(key, ledger_limits(&resolved.limits));
            }
        }
        let now = Timestamp::now();
        for key in self.quota.told.keys().filter(|key| !wanted.contains_key(key)) {
            board.ledger().set_limits(key, None, now);
        }
        for (key, limits) in wanted.iter().filter(|(key, limits)| self.quota.told.get(key) != Some(limits)) {
            board.ledger().set_limits(key, Some(limits.clone()), now);
        }
        self.quota.told = wanted;
    }

    /// Brings what is mounted below the groups that the owners are in now.
    pub(super) fn regroup(&self) {
        let ids = self.registry.ids();
        let mounted = ids.iter().filter_map(|id| self.registry.mounted(id));
        let lingering = self.lingering.iter().map(|lingering| Arc::clone(&lingering.mounted));
        for mounted in mounted.chain(lingering) {
            self.regroup_one(&mounted);
        }
    }

    /// The same for one; a worker that takes over finds it in the group of the moment in which it was mounted.
    pub(super) fn regroup_one(&self, mounted: &Mounted) {
        let Some(account) = mounted.account() else { return };
        let group = account.owner().and_then(|owner| self.registry.quota().group_of(owner));
        account.regroup(group.as_deref());
    }

    /// Does what a client asks, or tells what it would do.
    pub(super) fn quota_request(&mut self, uid: u32, request: &QuotaRequest) -> Result<QuotaPlan, ApiError> {
        let now = Timestamp::now();
        let reason = request.reason.as_deref();
        if let QuotaEdit::ExtendGrace { scope, seconds } = &request.edit {
            return self.extend_grace(scope, *seconds, uid, request);
        }
        let projects = self.registry.projects();
        let facts: Vec<ProjectFacts> = projects.iter().map(ProjectView::facts).collect();
        let before = self.registry.quota().policy();
        let mut after = Policy::clone(&before);
        let unmentioned = if request.kernel.is_some() && request.edit.sets_nothing() {
            0
        } else {
            after
                .edit(&request.edit, &EditContext { now, uid, reason, projects: &facts })
                .map_err(|error| error.to_api())?
        };
        check_pools(&after)?;
        let changes = policy::changes(&before, &after);
        let mut plan = self.judge(&before, &after, &projects, now);
        plan.changes = changes;
        plan.unmentioned = unmentioned;
        if !request.dry_run && !plan.hits.is_empty() && !request.allow_over {
            return Err(over_error(&plan.hits));
        }
        let kernel = self.kernel_step(request, &after)?;
        plan.changes.extend(kernel.iter().map(KernelStep::change));
        if request.dry_run {
            return Ok(plan);
        }
        if !plan.changes.is_empty() {
            let audit = NewAudit { at: now, uid: Some(uid), reason, changes: &plan.changes };
            if let Some(step) = &kernel {
                self.begin_kernel(step)?;
            }
            if let Err(error) = self.store_policy(after, &audit) {
                kernel.iter().for_each(|step| self.undo_kernel(step));
                return Err(error);
            }
            self.tell_ledger(&facts);
            self.regroup();
            self.keep_clocks();
            if let Some(step) = &kernel {
                self.keep_kernel(step)?;
            }
            self.follow_kernels();
        }
        plan.applied = true;
        Ok(plan)
    }

    /// Returns what a request changes of the tier. Taking everything away that was set for a workspace includes it.
    fn kernel_step(&self, request: &QuotaRequest, after: &Policy) -> Result<Option<KernelStep>, ApiError> {
        let (target, is_everything) = match &request.edit {
            QuotaEdit::Set { target, .. } => (Some(target), false),
            QuotaEdit::Unset { target, fields } => (Some(target), fields.is_empty()),
            _ => (None, false),
        };
        let implied = (is_everything && self.has_kernel_quota(target)).then_some(KernelEdit::Off);
        let Some(edit) = request.kernel.or(implied) else { return Ok(None) };
        self.plan_kernel(target, edit, after, request.dry_run)
    }

    fn store_policy(&mut self, policy: Policy, audit: &NewAudit<'_>) -> Result<(), ApiError> {
        self.catalog.put_quota(&rows_of(&policy), audit).map_err(|error| catalog_error(&error))?;
        for change in audit.changes {
            let QuotaChange { subject, field, before, after } = change;
            info!(subject, field, before, after, uid = audit.uid, reason = audit.reason, "quota changed");
        }
        self.registry.quota().set_policy(policy);
        Ok(())
    }

    /// Finds the scopes whose limits would change, and those that would be over.
    fn judge(&self, before: &Policy, after: &Policy, projects: &[ProjectView], now: Timestamp) -> QuotaPlan {
        let facts: Vec<ProjectFacts> = projects.iter().map(ProjectView::facts).collect();
        let mut plan = QuotaPlan {
            schema: SCHEMA_VERSION,
            applied: false,
            changes: Vec::new(),
            hits: Vec::new(),
            affected: 0,
            unknown: 0,
            unmentioned: 0,
        };
        let look = self.registry.quota().look_with(after, projects, now);
        let mut scopes = after.scopes(&facts);
        scopes.extend(before.scopes(&facts));
        for scope in scopes {
            let project = match &scope {
                ScopeRef::Project { id } => projects.iter().find(|project| project.id == *id),
                ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
            };
            let owner_uid = match &scope {
                ScopeRef::User { uid } => Some(*uid),
                ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::Project { .. } => {
                    project.map(|project| project.owner_uid)
                }
            };
            let (old, new) = (before.resolve(&scope, owner_uid), after.resolve(&scope, owner_uid));
            if old.limits == new.limits {
                continue;
            }
            plan.affected += 1;
            let known = look.known(&scope);
            match policy::verdict(&old, &new, known, now) {
                Verdict::Fits => {}
                Verdict::Unknown => plan.unknown += 1,
                Verdict::Hit { bytes_hard, inodes_hard } => plan.hits.push(QuotaHit {
                    name: project.map(|project| project.name.clone()),
                    scope,
                    owner_uid,
                    used: known.usage,
                    bytes_hard,
                    inodes_hard,
                }),
            }
        }
        plan
    }

    fn extend_grace(
        &mut self,
        scope: &ScopeRef,
        seconds: u64,
        uid: u32,
        request: &QuotaRequest,
    ) -> Result<QuotaPlan, ApiError> {
        let now = Timestamp::now();
        // Checks the number; nothing of the policy changes.
        let context = EditContext { now, uid, reason: request.reason.as_deref(), projects: &[] };
        Policy::default().edit(&request.edit, &context).map_err(|error| error.to_api())?;
        let mut clocks = self.running_clocks();
        let subject = policy::subject_of(&policy::target_of(scope));
        if !clocks.iter().any(|clock| clock.scope == *scope) {
            return Err(ApiError::new(ErrorCode::Conflict, format!("no grace period of {subject} runs"))
                .with_hint("`wsguard quota set --grace` sets how long the next one will be"));
        }
        let mut changes = Vec::new();
        let mut deadlines = Vec::new();
        for clock in clocks.iter_mut().filter(|clock| clock.scope == *scope) {
            let longer = i64::try_from(seconds).map(SignedDuration::from_secs);
            let deadline = longer.ok().and_then(|longer| clock.deadline.max(now).checked_add(longer).ok());
            let Some(deadline) = deadline else {
                return Err(policy::PolicyError::Clock { seconds }.to_api());
            };
            let field = match clock.dimension {
                Dimension::Bytes => "bytes-grace-until",
                Dimension::Inodes => "inodes-grace-until",
            };
            changes.push(QuotaChange {
                subject: subject.clone(),
                field: field.to_owned(),
                before: Some(clock.deadline.to_string()),
                after: Some(deadline.to_string()),
            });
            deadlines.push((clock.dimension, deadline));
            clock.deadline = deadline;
        }
        if !request.dry_run {
            let reason = request.reason.as_deref();
            let audit = NewAudit { at: now, uid: Some(uid), reason, changes: &changes };
            self.catalog.put_grace_clocks(&clocks, &audit).map_err(|error| catalog_error(&error))?;
            self.quota.clocks = clocks;
            if let Some(key) = key_of(scope, &self.registry.quota().pools()) {
                for (dimension, deadline) in deadlines {
                    let dimension = ledger_dimension(dimension);
                    self.registry.quota().ledger().set_grace_deadline(&key, dimension, deadline, now);
                }
            }
        }
        Ok(QuotaPlan {
            schema: SCHEMA_VERSION,
            applied: !request.dry_run,
            changes,
            hits: Vec::new(),
            affected: 1,
            unknown: 0,
            unmentioned: 0,
        })
    }

    /// Returns the latest changes.
    pub(super) fn quota_audit(&self, most: u32) -> Result<Vec<AuditEntry>, ApiError> {
        self.catalog.audit(most).map_err(|error| catalog_error(&error))
    }

    /// Brings the ledger's clocks up to date and keeps what must survive.
    pub(super) fn tick_quota(&mut self) {
        let now = Timestamp::now();
        for event in self.registry.quota().ledger().tick(now) {
            self.registry.counts().note_event(&event.kind);
            self.tell_ledger_event(&event);
            let scope = event.scope.as_ref().map(ToString::to_string);
            match event.kind {
                quota::EventKind::Saturated { .. }
                | quota::EventKind::WatermarkPassed { .. }
                | quota::EventKind::ClockJumped { .. } => {
                    warn!(scope, event = ?event.kind, "quota needs a look");
                }
                quota::EventKind::Threshold { .. }
                | quota::EventKind::HardReached { .. }
                | quota::EventKind::GraceStarted { .. }
                | quota::EventKind::GraceEnding { .. }
                | quota::EventKind::GraceExpired { .. }
                | quota::EventKind::GraceStopped { .. }
                | quota::EventKind::BoostExpired { .. } => info!(scope, event = ?event.kind, "quota"),
            }
        }
        self.tell_drift();
        self.tell_refused();
        self.keep_clocks();
        self.drop_past_boosts(now);
        self.follow_kernels();
    }

    /// Tells of differences that recounts found and nothing explains. They are corrected already; that there was one is a
    /// defect, or an edit below the mount that nobody saw.
    fn tell_drift(&self) {
        for id in self.registry.ids() {
            let Some(mounted) = self.registry.mounted(&id) else { continue };
            for surprise in mounted.take_surprises() {
                let Ok(record) = self.registry.record(&id) else { continue };
                let found = surprise.found;
                warn!(
                    workspace = %id,
                    drift_bytes = found.drift_bytes,
                    drift_inodes = found.drift_inodes,
                    "counters of quota were wrong"
                );
                let message = format!(
                    "use of {} was off by {:+} bytes and {:+} inodes and is corrected: {} bytes in {} inodes",
                    record.name, found.drift_bytes, found.drift_inodes, found.bytes, found.inodes
                );
                self.registry.counts().note_drift(found.drift_bytes);
                self.tell_admins(&ProjectView::of(&record), EventKind::QuotaDrift, &message);
            }
        }
    }

    fn drop_past_boosts(&mut self, now: Timestamp) {
        let before = self.registry.quota().policy();
        if before.boosts().next().is_none() {
            return;
        }
        let facts = self.project_facts();
        let mut after = Policy::clone(&before);
        if !after.drop_past_boosts(now, &facts) {
            return;
        }
        let changes = policy::changes(&before, &after);
        let audit = NewAudit { at: now, uid: None, reason: Some("ended"), changes: &changes };
        match self.store_policy(after, &audit) {
            Ok(()) => self.tell_ledger(&facts),
            Err(error) => warn!(error = %error.message, "ended boosts stay in the catalog"),
        }
    }

    /// Removes what was set for a workspace that is not registered any more.
    pub(super) fn forget_quota(&mut self, id: &str) {
        let before = self.registry.quota().policy();
        let mut after = Policy::clone(&before);
        if after.forget_project(id) {
            let changes = policy::changes(&before, &after);
            let reason = Some("the workspace was forgotten");
            let audit = NewAudit { at: Timestamp::now(), uid: None, reason, changes: &changes };
            if let Err(error) = self.store_policy(after, &audit) {
                warn!(workspace = %id, error = %error.message, "limits of a forgotten workspace stay");
            }
        }
        self.tell_ledger(&self.project_facts());
    }

    /// Returns the grace clocks that run: those of the ledger, and the stored ones of scopes that rest.
    fn running_clocks(&self) -> Vec<GraceRow> {
        let pools = self.registry.quota().pools();
        let live = self.registry.quota().ledger().report();
        let is_live = |key: &ScopeKey| live.iter().any(|state| state.scope == *key);
        let has_soft = |key: &ScopeKey, dimension: Dimension| {
            let limits = self.quota.told.get(key);
            limits.is_some_and(|limits| limits.bounds(ledger_dimension(dimension)).soft.is_some())
        };
        // A pool whose path names nothing at the moment keeps its clock.
        let rests = |clock: &&GraceRow| {
            key_of(&clock.scope, &pools).is_none_or(|key| !is_live(&key) && has_soft(&key, clock.dimension))
        };
        let mut clocks: Vec<GraceRow> = self.quota.clocks.iter().filter(rests).cloned().collect();
        for state in &live {
            let Some(scope) = scope_of(&state.scope, &pools) else { continue };
            for (dimension, usage) in [(Dimension::Bytes, &state.bytes), (Dimension::Inodes, &state.inodes)] {
                let deadline = usage.grace_deadline;
                clocks.extend(deadline.map(|deadline| GraceRow {
                    scope: scope.clone(),
                    dimension,
                    deadline,
                }));
            }
        }
        clocks.sort_unstable();
        clocks
    }

    /// Stores the grace clocks if they are not as they were.
    fn keep_clocks(&mut self) {
        let clocks = self.running_clocks();
        if clocks == self.quota.clocks {
            return;
        }
        // The clocks run by themselves; only what somebody asked for is audited.
        let audit = NewAudit { at: Timestamp::now(), uid: None, reason: None, changes: &[] };
        match self.catalog.put_grace_clocks(&clocks, &audit) {
            Ok(()) => self.quota.clocks = clocks,
            Err(error) => warn!(error = %one_line(&error), "grace clocks are not kept"),
        }
    }
}

fn facts_of(record: &WorkspaceRecord) -> ProjectFacts {
    ProjectFacts { id: record.id.clone(), owner_uid: record.owner_uid }
}

fn rows_of(policy: &Policy) -> QuotaRows {
    let record = |(target, spec): (&PolicyTarget, &wsguard_api::LimitSpec)| PolicyRecord {
        target: target.clone(),
        spec: spec.clone(),
    };
    QuotaRows {
        records: policy.records().map(record).collect(),
        members: policy.members().map(|(uid, group)| (uid, group.to_owned())).collect(),
        boosts: policy.boosts().map(|(scope, boost)| (scope.clone(), boost.clone())).collect(),
    }
}

/// Finds the filesystem of each pool; one that is not there now is left out and looked for again at the next change.
fn named_pools(policy: &Policy) -> BTreeMap<PathBuf, u64> {
    let mut pools = BTreeMap::new();
    let paths = policy.scopes(&[]).into_iter().filter_map(|scope| match scope {
        ScopeRef::Pool { path } => Some(path),
        ScopeRef::Group { .. } | ScopeRef::User { .. } | ScopeRef::Project { .. } => None,
    });
    for path in paths {
        match std::fs::metadata(&path) {
            Ok(metadata) => {
                pools.insert(path, metadata.dev());
            }
            Err(error) => warn!(path = %path.display(), error = %error, "pool with a limit is not there"),
        }
    }
    pools
}

/// One filesystem has one set of limits.
fn check_pools(policy: &Policy) -> Result<(), ApiError> {
    let mut seen: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, device) in named_pools(policy) {
        if let Some(other) = seen.insert(device, path.clone()) {
            let message = format!(
                "{} and {} are on one filesystem and would both limit it",
                other.display(),
                path.display()
            );
            return Err(ApiError::new(ErrorCode::Conflict, message).with_hint("set the limit of one of them"));
        }
    }
    Ok(())
}

fn key_of(scope: &ScopeRef, pools: &BTreeMap<PathBuf, u64>) -> Option<ScopeKey> {
    match scope {
        ScopeRef::Pool { path } => pools.get(path).map(|device| ScopeKey::Pool(*device)),
        ScopeRef::Group { name } => Some(ScopeKey::Group(name.clone())),
        ScopeRef::User { uid } => Some(ScopeKey::User(*uid)),
        ScopeRef::Project { id } => Some(ScopeKey::Project(id.clone())),
    }
}

/// A pool that no record names has no soft limit and needs no name.
fn scope_of(key: &ScopeKey, pools: &BTreeMap<PathBuf, u64>) -> Option<ScopeRef> {
    match key {
        ScopeKey::Pool(device) => {
            let named = pools.iter().find(|(_, known)| *known == device);
            named.map(|(path, _)| ScopeRef::Pool { path: path.clone() })
        }
        ScopeKey::Group(name) => Some(ScopeRef::Group { name: name.clone() }),
        ScopeKey::User(uid) => Some(ScopeRef::User { uid: *uid }),
        ScopeKey::Project(id) => Some(ScopeRef::Project { id: id.clone() }),
    }
}

fn ledger_dimension(dimension: Dimension) -> quota::Dimension {
    match dimension {
        Dimension::Bytes => quota::Dimension::Bytes,
        Dimension::Inodes => quota::Dimension::Inodes,
    }
}

fn ledger_limits(limits: &Limits) -> quota::Limits {
    quota::Limits {
        bytes: quota::Bounds { soft: limits.bytes_soft, hard: limits.bytes_hard },
        inodes: quota::Bounds { soft: limits.inodes_soft, hard: limits.inodes_hard },
        grace: limits.grace_seconds.map(|seconds| {
            // The policy has bounded it.
            SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
        }),
        mode: match limits.mode {
            QuotaMode::Off => quota::Mode::Off,
            QuotaMode::Track => quota::Mode::Track,
            QuotaMode::Enforce => quota::Mode::Enforce,
        },
        errno: match limits.errno {
            QuotaErrno::Edquot => quota::LimitErrno::Quota,
            QuotaErrno::Enospc => quota::LimitErrno::Space,
        },
        headroom_bytes: limits.headroom_bytes,
        boosts: limits.boosts.iter().filter_map(ledger_boost).collect(),
    }
}

fn ledger_boost(boost: &Boost) -> Option<quota::Boost> {
    let until = boost.until.parse().ok()?;
    Some(quota::Boost { bytes: boost.bytes, inodes: boost.inodes, until })
}

/// Says who would be over, with numbers.
fn over_error(hits: &[QuotaHit]) -> ApiError {
    let one = |hit: &QuotaHit| {
        let subject = policy::subject_of(&policy::target_of(&hit.scope));
        let name = hit.name.as_ref().map_or_else(|| subject.clone(), |name| format!("{name} ({subject})"));
        match (hit.bytes_hard, hit.inodes_hard) {
            (Some(hard), _) => format!("{name} uses {} of {hard} bytes", hit.used.bytes),
            (None, Some(hard)) => format!("{name} uses {} of {hard} inodes", hit.used.inodes),
            (None, None) => name,
        }
    };
    let mut named: Vec<String> = hits.iter().take(NAMED_HITS).map(one).collect();
    if let Some(more) = hits.len().checked_sub(NAMED_HITS).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    ApiError::new(ErrorCode::Conflict, format!("below current use: {}", named.join(", "))).with_hint(
        "see all with --dry-run; with --allow-over it is done, and they keep what they have but may not grow",
    )
}
