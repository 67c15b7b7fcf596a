//! From levels to the limits of one scope.

use jiff::Timestamp;
use wsguard_api::{
    Boost, ExplainStep, LimitSource, LimitSpec, Limits, PolicyTarget, QuotaField, QuotaMode, ScopeRef,
};

use super::{DEFAULT_GROUP, Policy, is_running, target_of};

/// The limits of a scope and how they came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Its boosts may have ended: the grace period after their end depends on them.
    pub(crate) limits: Limits,
    /// Which level each part comes from; parts that no level says are missing.
    pub(crate) sources: Vec<LimitSource>,
}

impl Resolved {
    /// Whether anything is limited or said at all: a scope without is only counted.
    pub(crate) fn is_silent(&self) -> bool {
        self.sources.is_empty() && self.limits.boosts.is_empty()
    }

    /// Returns the hard limit of bytes with the boosts that run, or `None` if nothing is enforced.
    pub(crate) fn enforced_bytes(&self, now: Timestamp) -> Option<u64> {
        self.enforced(self.raised(self.limits.bytes_hard, now, |boost| boost.bytes))
    }

    /// As [`Self::enforced_bytes`], for inodes.
    pub(crate) fn enforced_inodes(&self, now: Timestamp) -> Option<u64> {
        self.enforced(self.raised(self.limits.inodes_hard, now, |boost| boost.inodes))
    }

    /// Adds the boosts that run to one of the limits; unlimited stays unlimited.
    pub(crate) fn raised(
        &self,
        limit: Option<u64>,
        now: Timestamp,
        amount: impl Fn(&Boost) -> u64,
    ) -> Option<u64> {
        let running = self.limits.boosts.iter().filter(|boost| is_running(boost, now));
        limit.map(|limit| running.map(amount).fold(limit, u64::saturating_add))
    }

    fn enforced(&self, limit: Option<u64>) -> Option<u64> {
        limit.filter(|_| self.limits.mode == QuotaMode::Enforce)
    }
}

impl Policy {
    /// Returns the limits of a scope; `owner` is the owner of a project.
    pub(crate) fn resolve(&self, scope: &ScopeRef, owner: Option<u32>) -> Resolved {
        let mut limits = Limits::default();
        let mut sources = Vec::new();
        for field in QuotaField::ALL {
            let levels = self.levels(scope, owner, field);
            let found = levels.into_iter().find_map(|target| {
                let spec = self.records.get(&target).filter(|spec| says(spec, field))?;
                Some((target, spec))
            });
            if let Some((target, spec)) = found {
                copy(&mut limits, spec, field);
                sources.push(LimitSource { field, target });
            }
        }
        limits.boosts = self.boosts.get(scope).cloned().unwrap_or_default();
        Resolved { limits, sources }
    }

    /// Returns every level that [`Self::resolve`] looks at, and which one counts.
    pub(crate) fn explain(&self, scope: &ScopeRef, owner: Option<u32>) -> Vec<ExplainStep> {
        let mut steps = Vec::new();
        for field in QuotaField::ALL {
            let mut is_decided = false;
            for target in self.levels(scope, owner, field) {
                let says = self.records.get(&target).and_then(|spec| describe(spec, field));
                let wins = says.is_some() && !is_decided;
                is_decided |= wins;
                steps.push(ExplainStep { field, target, says, wins });
            }
        }
        steps
    }

    /// Returns the levels that may say `field` of a scope, strongest first.
    ///
    /// How a project is enforced follows its owner where nobody says it for the project: whoever exempts a user
    /// means the user's projects too. How much it may hold does not: the user's total is counted on its own.
    fn levels(&self, scope: &ScopeRef, owner: Option<u32>, field: QuotaField) -> Vec<PolicyTarget> {
        let mut levels = vec![target_of(scope)];
        let uid = match scope {
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } => return levels,
            ScopeRef::User { uid } => Some(*uid),
            ScopeRef::Project { .. } => owner,
        };
        let is_project = matches!(scope, ScopeRef::Project { .. });
        let follows_owner = match field {
            QuotaField::Grace | QuotaField::Mode | QuotaField::Errno => is_project,
            QuotaField::Bytes | QuotaField::Inodes | QuotaField::Headroom => false,
        };
        levels.extend(uid.filter(|_| follows_owner).map(|uid| PolicyTarget::User { uid }));
        let group = uid.and_then(|uid| self.group_of(uid));
        for group in group.into_iter().chain([DEFAULT_GROUP]).map(str::to_owned) {
            if is_project {
                levels.push(PolicyTarget::EachProject { group: group.clone() });
            }
            if !is_project || follows_owner {
                levels.push(PolicyTarget::EachUser { group });
            }
        }
        levels
    }
}

fn says(spec: &LimitSpec, field: QuotaField) -> bool {
    describe(spec, field).is_some()
}

/// Returns what a level says about a part, as `soft/hard`, a number or a word.
pub(crate) fn describe(spec: &LimitSpec, field: QuotaField) -> Option<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let bounds = |bounds: wsguard_api::Bounds| {
        format!("{}/{}", number(bounds.soft.number()), number(bounds.hard.number()))
    };
    match field {
        QuotaField::Bytes => spec.bytes.map(bounds),
        QuotaField::Inodes => spec.inodes.map(bounds),
        QuotaField::Grace => spec.grace_seconds.map(|seconds| seconds.to_string()),
        QuotaField::Mode => spec.mode.map(|mode| super::difference::mode_word(mode).to_owned()),
        QuotaField::Errno => spec.errno.map(|errno| super::difference::errno_word(errno).to_owned()),
        QuotaField::Headroom => spec.headroom_bytes.map(|bytes| bytes.to_string()),
    }
}

fn copy(limits: &mut Limits, spec: &LimitSpec, field: QuotaField) {
    match field {
        QuotaField::Bytes => {
            limits.bytes_soft = spec.bytes.and_then(|bounds| bounds.soft.number());
            limits.bytes_hard = spec.bytes.and_then(|bounds| bounds.hard.number());
        }
        QuotaField::Inodes => {
            limits.inodes_soft = spec.inodes.and_then(|bounds| bounds.soft.number());
            limits.inodes_hard = spec.inodes.and_then(|bounds| bounds.hard.number());
        }
        QuotaField::Grace => limits.grace_seconds = spec.grace_seconds,
        QuotaField::Mode => limits.mode = spec.mode.unwrap_or_default(),
        QuotaField::Errno => limits.errno = spec.errno.unwrap_or_default(),
        QuotaField::Headroom => limits.headroom_bytes = spec.headroom_bytes,
    }
}
