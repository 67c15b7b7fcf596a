//! The kernel-quota tier: the filesystem below enforces the limit of bytes of a workspace, and writes run in the kernel.
//!
//! The catalog knows of a limit before the filesystem has it, and until the filesystem has it no more; what is found
//! half done at the start is undone. The limit follows the policy (a new size, a boost, a grace period that ran out)
//! within a tick. Where the filesystem stops enforcing, files that are opened from then on are written through the worker
//! again, and `status` says why.
//!
//! Taking the tier away ends when the last file is closed that was opened under it: until then the filesystem keeps the
//! limit, because nobody else could hold those writers to one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{info, warn};
use wsguard_api::{
    ApiError, DataPath, ErrorCode, KernelEdit, KernelQuota, PolicyTarget, QuotaChange, QuotaMode, ScopeRef,
};

use super::driver::{Driver, catalog_error};
use crate::catalog::{KernelRow, KernelState, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::kernel_quota::{KernelQuotaError, Subvolume};
use crate::mounting::Mounted;
use crate::policy::{self, Policy};
use crate::quota::ScopeKey;

/// The word of the audit.
const FIELD: &str = "kernel";
/// How long a request that turns quotas on waits for the kernel to count what is there.
const COUNTING_PATIENCE: Duration = Duration::from_secs(5);
const COUNTING_STEP: Duration = Duration::from_millis(50);

/// What the driver remembers of workspaces that the filesystem below limits.
#[derive(Debug, Default)]
pub(super) struct KernelTiers(BTreeMap<String, KernelRow>);

/// A change of the tier that is checked and not made yet.
#[derive(Debug)]
pub(super) enum KernelStep {
    /// The filesystem gets a limit.
    Install { id: String, mounted: Arc<Mounted>, subvolume: Subvolume, limit: u64 },
    /// Its limit goes.
    Remove { id: String },
}

impl KernelStep {
    /// What the audit tells of it.
    pub(super) fn change(&self) -> QuotaChange {
        let (id, before, after) = match self {
            Self::Install { id, subvolume, .. } => (id, None, Some(subvolume.name())),
            Self::Remove { id } => (id, Some("on".to_owned()), None),
        };
        let subject = policy::subject_of(&PolicyTarget::Project { id: id.clone() });
        QuotaChange { subject, field: FIELD.to_owned(), before, after }
    }
}

impl Driver {
    /// Reads which workspaces the filesystem below limits.
    pub(super) fn start_kernel_tiers(&mut self) {
        match self.catalog.kernel_rows() {
            Ok(rows) => {
                let rows = rows.into_iter().map(|row| (row.workspace.clone(), row));
                self.quota.kernel = KernelTiers(rows.collect());
            }
            Err(error) => {
                self.registry.warn(format!("limits of the kernel are not followed: {}", one_line(&error)));
            }
        }
    }

    /// Checks what a request wants of the tier. `None` if that is so already.
    ///
    /// # Errors
    /// Why it cannot be, with what to do.
    pub(super) fn plan_kernel(
        &self,
        target: Option<&PolicyTarget>,
        edit: KernelEdit,
        after: &Policy,
        is_dry_run: bool,
    ) -> Result<Option<KernelStep>, ApiError> {
        let Some(PolicyTarget::Project { id }) = target else {
            return Err(invalid(
                "only a workspace can be limited by the kernel",
                "name a workspace or a directory",
            ));
        };
        let known = self.quota.kernel.0.get(id);
        match edit {
            KernelEdit::Off => {
                let is_on = known.is_some_and(|row| row.state != KernelState::Removing);
                Ok(is_on.then(|| KernelStep::Remove { id: id.clone() }))
            }
            KernelEdit::On { enable_quotas } => {
                let record = self.registry.record(id)?;
                let mounted = self.registry.mounted(id).ok_or_else(|| {
                    ApiError::new(ErrorCode::Conflict, format!("{} is not mounted", record.name))
                        .with_hint("mount it first; see `wsguard ls`")
                })?;
                if mounted.data_path() != DataPath::Passthrough {
                    let message =
                        format!("writes of {} cannot bypass the worker on this kernel", record.name);
                    return Err(
                        ApiError::new(ErrorCode::Unavailable, message).with_hint("see `wsguard status`")
                    );
                }
                if mounted.account().is_none() {
                    let message = format!("quota was off when {} was mounted", record.name);
                    return Err(ApiError::new(ErrorCode::Conflict, message)
                        .with_hint("set quota.enabled = true in the config file and restart the daemon"));
                }
                let Some(limit) = limit_of(after, id, record.owner_uid, Timestamp::now()) else {
                    let message = format!("{} has no hard limit of bytes that is enforced", record.name);
                    return Err(invalid(
                        &message,
                        "give a size: `wsguard quota set WORKSPACE 500G --kernel`",
                    ));
                };
                let subvolume = offered(&mounted, enable_quotas && !is_dry_run)
                    .map_err(|error| not_offered(&record, &error))?;
                if !mounted.backing().reflink {
                    let message = format!("the filesystem of {} cannot share blocks", record.name);
                    let hint = "what is overwritten could not be kept; leave --kernel out";
                    return Err(ApiError::new(ErrorCode::Unavailable, message).with_hint(hint));
                }
                let is_on = known.is_some_and(|row| row.state == KernelState::On);
                Ok((!is_on).then(|| KernelStep::Install { id: id.clone(), mounted, subvolume, limit }))
            }
        }
    }

    /// Makes a change: noted first, and undone where it fails. A limit is in force when it returns, and not used for
    /// anything yet: see [`Self::keep_kernel`].
    ///
    /// # Errors
    /// Nothing is changed then.
    pub(super) fn begin_kernel(&mut self, step: &KernelStep) -> Result<(), ApiError> {
        match step {
            KernelStep::Install { id, subvolume, limit, .. } => {
                // Taken over from a removal that has not come to its end: what was there before that one still counts.
                let earlier = self.quota.kernel.0.get(id).map(|row| row.before);
                let before = match earlier {
                    Some(before) => before,
                    None => {
                        subvolume.limit().map_err(|error| failed("read the limit of the kernel", &error))?
                    }
                };
                let row = KernelRow { workspace: id.clone(), state: KernelState::Installing, before };
                self.note_kernel(row)?;
                subvolume.set_limit(Some(*limit)).map_err(|error| {
                    self.undo_kernel(step);
                    failed("set the limit of the kernel", &error)
                })
            }
            KernelStep::Remove { id } => {
                let Some(row) = self.quota.kernel.0.get(id).cloned() else { return Ok(()) };
                self.note_kernel(KernelRow { state: KernelState::Removing, ..row })
            }
        }
    }

    /// Takes back what [`Self::begin_kernel`] did.
    pub(super) fn undo_kernel(&mut self, step: &KernelStep) {
        match step {
            KernelStep::Install { id, mounted, .. } => self.end_kernel(id, mounted),
            KernelStep::Remove { id } => {
                let Some(row) = self.quota.kernel.0.get(id).cloned() else { return };
                if let Err(error) = self.note_kernel(KernelRow { state: KernelState::On, ..row }) {
                    warn!(workspace = %id, error = %error.message, "the limit of the kernel goes although asked to stay");
                }
            }
        }
    }

    /// Ends a change that was begun: what is opened from now on follows it.
    ///
    /// # Errors
    /// The change is undone then.
    pub(super) fn keep_kernel(&mut self, step: &KernelStep) -> Result<(), ApiError> {
        let id = match step {
            KernelStep::Install { id, .. } => {
                let row = self.quota.kernel.0.get(id).cloned();
                if let Some(row) = row {
                    self.note_kernel(KernelRow { state: KernelState::On, ..row })
                        .inspect_err(|_| self.undo_kernel(step))?;
                }
                id
            }
            KernelStep::Remove { id } => id,
        };
        self.follow_kernel(id);
        Ok(())
    }

    fn note_kernel(&mut self, row: KernelRow) -> Result<(), ApiError> {
        self.catalog.put_kernel_row(&row).map_err(|error| catalog_error(&error))?;
        self.quota.kernel.0.insert(row.workspace.clone(), row);
        Ok(())
    }

    /// Whether the filesystem below limits a workspace, and is to go on doing so.
    pub(super) fn has_kernel_quota(&self, target: Option<&PolicyTarget>) -> bool {
        let Some(PolicyTarget::Project { id }) = target else { return false };
        self.quota.kernel.0.get(id).is_some_and(|row| row.state == KernelState::On)
    }

    /// Brings every limit of the filesystems below to what the policy says.
    pub(super) fn follow_kernels(&mut self) {
        let ids: Vec<String> = self.quota.kernel.0.keys().cloned().collect();
        for id in ids {
            self.follow_kernel(&id);
        }
    }

    /// The same for one workspace, if it is mounted.
    pub(super) fn follow_kernel(&mut self, id: &str) {
        let Some(row) = self.quota.kernel.0.get(id) else { return };
        let Some(mounted) = self.registry.mounted(id) else { return };
        match row.state {
            KernelState::On => {
                let shown = self.enforce_below(id, &mounted);
                self.show_kernel(id, Some(shown));
            }
            KernelState::Installing | KernelState::Removing => self.end_kernel(id, &mounted),
        }
    }

    fn enforce_below(&self, id: &str, mounted: &Mounted) -> KernelQuota {
        let wanted = self.kernel_limit(id);
        let enforce = || {
            if mounted.account().is_none() {
                return Err(KernelQuotaError::NotCounted);
            }
            let subvolume = mounted.subvolume()?;
            subvolume.check()?;
            if subvolume.limit()? != wanted {
                subvolume.set_limit(wanted)?;
                info!(workspace = %id, bytes = wanted, "limit of the kernel set");
            }
            Ok::<Subvolume, KernelQuotaError>(subvolume)
        };
        let mut shown = KernelQuota {
            mechanism: String::new(),
            limit_bytes: wanted,
            used_bytes: mounted.account().map_or(0, |account| account.used_bytes()),
            unseen_writers: mounted.unseen_writers() as u64,
            failure: None,
            is_ending: false,
        };
        match enforce() {
            Ok(subvolume) => {
                shown.mechanism = subvolume.name();
                if mounted.kernel_quota().is_none_or(|known| !known.is_same(&subvolume)) {
                    mounted.set_kernel_quota(Some(subvolume));
                    info!(workspace = %id, mechanism = shown.mechanism, "writes run in the kernel");
                }
            }
            Err(error) => {
                if mounted.kernel_quota().is_some() {
                    mounted.set_kernel_quota(None);
                    warn!(workspace = %id, error = %error, "the filesystem stopped enforcing; writes reach the worker again");
                }
                shown.failure = Some(error.to_string());
            }
        }
        shown
    }

    /// What the filesystem is to enforce: the hard limit with boosts, or the soft one once its grace period is over.
    fn kernel_limit(&self, id: &str) -> Option<u64> {
        let owner = self.registry.record(id).ok()?.owner_uid;
        let board = self.registry.quota();
        let hard = limit_of(&board.policy(), id, owner, Timestamp::now())?;
        let state = board.ledger().snapshot(&ScopeKey::Project(id.to_owned()));
        let soft = state.filter(|state| state.bytes.is_grace_expired).and_then(|state| state.bytes.soft);
        Some(soft.map_or(hard, |soft| soft.min(hard)))
    }

    /// Goes back to the worker's own limits; ends once nobody writes past it any more.
    fn end_kernel(&mut self, id: &str, mounted: &Mounted) {
        if mounted.kernel_quota().is_some() {
            mounted.set_kernel_quota(None);
        }
        let unseen = mounted.unseen_writers() as u64;
        let Some(row) = self.quota.kernel.0.get(id) else { return };
        let end = || {
            let subvolume = mounted.subvolume()?;
            let name = subvolume.name();
            if unseen == 0 {
                match subvolume.set_limit(row.before) {
                    // With quotas off there is no limit to take away.
                    Err(error) if subvolume.check() != Err(KernelQuotaError::QuotasOff) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            Ok::<String, KernelQuotaError>(name)
        };
        let (mechanism, failure) = match end() {
            Ok(name) => (name, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        if unseen == 0 && failure.is_none() {
            match self.catalog.remove_kernel_row(id) {
                Ok(()) => {
                    self.quota.kernel.0.remove(id);
                    self.show_kernel(id, None);
                    info!(workspace = %id, mechanism, "limit of the kernel taken away");
                    return;
                }
                Err(error) => {
                    warn!(workspace = %id, error = %one_line(&error), "a limit of the kernel stays noted");
                }
            }
        }
        let shown = KernelQuota {
            mechanism,
            limit_bytes: self.kernel_limit(id),
            used_bytes: mounted.account().map_or(0, |account| account.used_bytes()),
            unseen_writers: unseen,
            failure,
            is_ending: true,
        };
        self.show_kernel(id, Some(shown));
    }

    fn show_kernel(&self, id: &str, shown: Option<KernelQuota>) {
        // Gone only if this thread removed it.
        self.registry.with_entry(id, |entry| entry.kernel_quota = shown).ok();
    }

    /// Gives the filesystem back what it had before a workspace is forgotten, which is not mounted any more.
    pub(super) fn forget_kernel(&mut self, record: &WorkspaceRecord) {
        let Some(row) = self.quota.kernel.0.remove(&record.id) else { return };
        let restored = std::fs::File::open(&record.dir).map_err(|error| error.to_string()).and_then(|dir| {
            let subvolume =
                Subvolume::at(std::os::fd::AsFd::as_fd(&dir)).map_err(|error| error.to_string())?;
            subvolume.set_limit(row.before).map_err(|error| error.to_string())
        });
        if let Err(error) = restored {
            warn!(workspace = %record.id, dir = %record.dir.display(), error, "the filesystem keeps the limit of a forgotten workspace");
            self.registry.warn(format!(
                "{} was forgotten, and its filesystem keeps the limit: {error}; \
                 `btrfs qgroup limit none DIRECTORY` takes it away",
                record.dir.display()
            ));
        }
    }
}

/// Returns the hard limit of bytes of a workspace, boosts included, if it is enforced.
fn limit_of(policy: &Policy, id: &str, owner: u32, now: Timestamp) -> Option<u64> {
    let limits = policy.resolve(&ScopeRef::Project { id: id.to_owned() }, Some(owner)).limits;
    let boosts = limits.boosts.iter().filter(|boost| policy::is_running(boost, now));
    let more: u64 = boosts.map(|boost| boost.bytes).fold(0, u64::saturating_add);
    let hard = limits.bytes_hard.filter(|_| limits.mode == QuotaMode::Enforce)?;
    Some(hard.saturating_add(more))
}

/// Returns the subvolume that can be limited, quotas turned on if that is asked for.
fn offered(mounted: &Mounted, enable: bool) -> Result<Subvolume, KernelQuotaError> {
    let subvolume = mounted.subvolume()?;
    match subvolume.check() {
        Ok(()) => return Ok(subvolume),
        Err(KernelQuotaError::QuotasOff) if enable => subvolume.enable()?,
        Err(error) => return Err(error),
    }
    let begun = Instant::now();
    loop {
        match subvolume.check() {
            Ok(()) => return Ok(subvolume),
            Err(KernelQuotaError::Counting | KernelQuotaError::QuotasOff)
                if begun.elapsed() < COUNTING_PATIENCE => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(COUNTING_STEP);
    }
}

fn not_offered(record: &WorkspaceRecord, error: &KernelQuotaError) -> ApiError {
    let dir = record.dir.display();
    let (code, hint) = match error {
        KernelQuotaError::NotBtrfs { .. } => (
            ErrorCode::Unavailable,
            "leave --kernel out: the limit is exact then too; or move the workspace into a btrfs subvolume".to_owned(),
        ),
        KernelQuotaError::NotASubvolume => (
            ErrorCode::Unavailable,
            format!("make it one while it is unmounted: `btrfs subvolume create NEW`, `cp -a --reflink {dir}/. NEW`, rename"),
        ),
        KernelQuotaError::QuotasOff => (
            ErrorCode::Conflict,
            "turn them on for the whole filesystem with --enable; the kernel then counts everything on it once".to_owned(),
        ),
        KernelQuotaError::NoGroup { id } => {
            (ErrorCode::Conflict, format!("make it again: `btrfs qgroup create 0/{id} {dir}`"))
        }
        KernelQuotaError::Counting => (ErrorCode::Conflict, "try again in a while".to_owned()),
        KernelQuotaError::NotCounted | KernelQuotaError::NotTaken { .. } | KernelQuotaError::Call { .. } | KernelQuotaError::Sysfs { .. } => {
            (ErrorCode::Unavailable, "see the daemon's log".to_owned())
        }
    };
    ApiError::new(code, format!("{dir}: {error}")).with_hint(hint)
}

fn failed(action: &str, error: &KernelQuotaError) -> ApiError {
    let message = format!("cannot {action}: {error}; nothing is changed");
    ApiError::new(ErrorCode::Unavailable, message).with_hint("see the daemon's log")
}

fn invalid(message: &str, hint: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message.to_owned()).with_hint(hint)
}
