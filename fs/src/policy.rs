//! The rules of quota, without files, clocks or counters: what is configured, what follows from it for one scope,
//! what an edit changes, and who would be over.
//!
//! A level of the policy says as much or as little as it likes; each part of the limits comes from the strongest
//! level that says it ([`resolve`]): explicit project, explicit user, what the owner's group gives each, what
//! `default` gives each. So giving somebody a longer grace period never changes how much they may store. Soft and
//! hard limit of a dimension are one part.
//!
//! Pure: the driver loads it, edits a copy, looks at the plan, stores the copy and only then uses it.

mod difference;
mod edit;
mod hits;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use wsguard_api::{
    ApiError, Boost, ErrorCode, GroupMembers, LimitSpec, PolicyDocument, PolicyRecord, PolicyTarget, ScopeRef,
};

pub(crate) use difference::{changes, target_of};
pub(crate) use edit::EditContext;
pub(crate) use hits::{Known, Verdict, verdict};
pub(crate) use resolve::{Resolved, describe};

/// The group that everybody is in who is in no other; it has no members and no total.
pub(crate) const DEFAULT_GROUP: &str = "default";

/// The grace period where nobody says another: 7 days.
const DEFAULT_GRACE_SECONDS: i64 = 7 * 86_400;

/// Everything that is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    records: BTreeMap<PolicyTarget, LimitSpec>,
    members: BTreeMap<u32, String>,
    boosts: BTreeMap<ScopeRef, Vec<Boost>>,
}

/// A workspace as far as quota is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectFacts {
    pub(crate) id: String,
    pub(crate) owner_uid: u32,
}

/// Why an edit cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("the soft limit of {dimension} ({soft}) is above the hard one ({hard})")]
    SoftAboveHard { dimension: &'static str, soft: u64, hard: u64 },
    #[error("{subject} has no hard limit of {dimension} of its own beside the soft one")]
    SoftAlone { subject: String, dimension: &'static str },
    #[error("the headroom ({headroom} bytes) is above the hard limit ({hard} bytes)")]
    HeadroomAboveHard { headroom: u64, hard: u64 },
    #[error("{what} = {value} is out of range")]
    OutOfRange { what: &'static str, value: u64, most: u64 },
    #[error("nothing to set for {subject}")]
    NothingToSet { subject: String },
    #[error("nothing is set for {subject}{part}")]
    NothingSet { subject: String, part: String },
    #[error("{name:?} cannot be the name of a group")]
    GroupName { name: String },
    #[error("no group is called {name}")]
    UnknownGroup { name: String },
    #[error("no workspace has the id {id}")]
    UnknownProject { id: String },
    #[error("{path} cannot name a pool")]
    PoolPath { path: String },
    #[error("{subject} has no limit of {dimension} that a boost could raise")]
    NothingToBoost { subject: String, dimension: &'static str },
    #[error("no boost of {subject} to end")]
    NoBoost { subject: String },
    #[error("uid {uid} is named as a member of {first} and of {second}")]
    TwoGroups { uid: u32, first: String, second: String },
    #[error("{subject} is named twice")]
    NamedTwice { subject: String },
    #[error("the time {seconds} s from now cannot be")]
    Clock { seconds: u64 },
}

impl PolicyError {
    /// Returns it for a client, with what to do next.
    pub(crate) fn to_api(&self) -> ApiError {
        let (code, hint) = match self {
            Self::SoftAboveHard { .. } => {
                (ErrorCode::InvalidRequest, "give a soft limit that is at most the hard one".to_owned())
            }
            Self::SoftAlone { .. } => (
                ErrorCode::InvalidRequest,
                "give the hard limit too, or `unlimited` for it: both are inherited together".to_owned(),
            ),
            Self::HeadroomAboveHard { .. } => {
                (ErrorCode::InvalidRequest, "give a headroom below the hard limit".to_owned())
            }
            Self::OutOfRange { most, .. } => (ErrorCode::InvalidRequest, format!("give at most {most}")),
            Self::NothingToSet { .. } => (
                ErrorCode::InvalidRequest,
                "give a size such as 500G, or one of --soft, --inodes, --grace, --mode, --errno, --headroom"
                    .to_owned(),
            ),
            Self::NothingSet { .. } => {
                (ErrorCode::NotFound, "see `wsguard quota explain` for where its limits come from".to_owned())
            }
            Self::GroupName { .. } => (
                ErrorCode::InvalidRequest,
                "use 1 to 64 of a-z, A-Z, 0-9, `_`, `-` and `.`, beginning with a letter or digit; `default` is taken"
                    .to_owned(),
            ),
            Self::UnknownGroup { .. } => {
                (ErrorCode::NotFound, "see `wsguard quota template ls`".to_owned())
            }
            Self::UnknownProject { .. } => (ErrorCode::NotFound, "see `wsguard ls --verbose`".to_owned()),
            Self::PoolPath { .. } => {
                (ErrorCode::InvalidRequest, "give an absolute path without ..".to_owned())
            }
            Self::NothingToBoost { .. } => {
                (ErrorCode::Conflict, "set a limit first; without one it is unlimited".to_owned())
            }
            Self::NoBoost { .. } => (ErrorCode::NotFound, "see `wsguard quota get`".to_owned()),
            Self::TwoGroups { .. } => {
                (ErrorCode::InvalidRequest, "name each user in one group".to_owned())
            }
            Self::NamedTwice { .. } => {
                (ErrorCode::InvalidRequest, "put everything about it in one place".to_owned())
            }
            Self::Clock { .. } => (ErrorCode::InvalidRequest, "give a shorter time".to_owned()),
        };
        ApiError::new(code, self.to_string()).with_hint(hint)
    }
}

impl Policy {
    /// Puts it together from what was stored.
    pub(crate) fn new(
        records: impl IntoIterator<Item = PolicyRecord>,
        members: impl IntoIterator<Item = (u32, String)>,
        boosts: impl IntoIterator<Item = (ScopeRef, Boost)>,
    ) -> Self {
        let mut policy = Self {
            records: records.into_iter().map(|record| (record.target, record.spec)).collect(),
            members: members.into_iter().collect(),
            boosts: BTreeMap::new(),
        };
        for (scope, boost) in boosts {
            policy.boosts.entry(scope).or_default().push(boost);
        }
        policy
    }

    /// Returns every record.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&PolicyTarget, &LimitSpec)> {
        self.records.iter()
    }

    /// Returns every membership.
    pub(crate) fn members(&self) -> impl Iterator<Item = (u32, &str)> {
        self.members.iter().map(|(uid, group)| (*uid, group.as_str()))
    }

    /// Returns every boost.
    pub(crate) fn boosts(&self) -> impl Iterator<Item = (&ScopeRef, &Boost)> {
        self.boosts.iter().flat_map(|(scope, boosts)| boosts.iter().map(move |boost| (scope, boost)))
    }

    /// Returns the group that a user is a member of.
    pub(crate) fn group_of(&self, uid: u32) -> Option<&str> {
        self.members.get(&uid).map(String::as_str)
    }

    /// Returns every group that has a member, a total or something for each of its members, without `default`.
    pub(crate) fn groups(&self) -> BTreeSet<String> {
        let named = self.records.keys().filter_map(|target| match target {
            PolicyTarget::Group { name: group }
            | PolicyTarget::EachUser { group }
            | PolicyTarget::EachProject { group } => Some(group.clone()),
            PolicyTarget::Pool { .. } | PolicyTarget::User { .. } | PolicyTarget::Project { .. } => None,
        });
        named.chain(self.members.values().cloned()).filter(|group| group != DEFAULT_GROUP).collect()
    }

    /// Returns every scope that the policy or one of the workspaces names.
    pub(crate) fn scopes(&self, projects: &[ProjectFacts]) -> BTreeSet<ScopeRef> {
        let mut scopes: BTreeSet<ScopeRef> =
            self.groups().into_iter().map(|name| ScopeRef::Group { name }).collect();
        scopes.extend(self.members.keys().map(|uid| ScopeRef::User { uid: *uid }));
        scopes.extend(self.boosts.keys().cloned());
        for target in self.records.keys() {
            match target {
                PolicyTarget::Pool { path } => scopes.extend([ScopeRef::Pool { path: path.clone() }]),
                PolicyTarget::User { uid } => scopes.extend([ScopeRef::User { uid: *uid }]),
                // A group's are there already; a project counts while its workspace is registered.
                PolicyTarget::Group { .. }
                | PolicyTarget::Project { .. }
                | PolicyTarget::EachUser { .. }
                | PolicyTarget::EachProject { .. } => {}
            }
        }
        for project in projects {
            scopes.extend([ScopeRef::User { uid: project.owner_uid }]);
            scopes.extend([ScopeRef::Project { id: project.id.clone() }]);
        }
        scopes
    }

    /// Returns what can be written down of it.
    pub(crate) fn document(&self) -> PolicyDocument {
        let record = |(target, spec): (&PolicyTarget, &LimitSpec)| PolicyRecord {
            target: target.clone(),
            spec: spec.clone(),
        };
        let mut members: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (uid, group) in self.members() {
            members.entry(group).or_default().push(uid);
        }
        let members = members.into_iter().map(|(group, uids)| GroupMembers { group: group.to_owned(), uids });
        PolicyDocument { records: self.records.iter().map(record).collect(), members: members.collect() }
    }

    /// Removes boosts that ended longer ago than a grace period; returns whether there were any. Until then they
    /// soften their end.
    pub(crate) fn drop_past_boosts(&mut self, now: Timestamp, projects: &[ProjectFacts]) -> bool {
        let before = self.boosts().count();
        let grace: BTreeMap<ScopeRef, i64> =
            self.boosts.keys().map(|scope| (scope.clone(), self.grace_seconds(scope, projects))).collect();
        for (scope, boosts) in &mut self.boosts {
            let grace = SignedDuration::from_secs(grace.get(scope).copied().unwrap_or(DEFAULT_GRACE_SECONDS));
            let softened = now.checked_sub(grace).unwrap_or(Timestamp::MIN);
            boosts.retain(|boost| is_running(boost, softened));
        }
        self.boosts.retain(|_, boosts| !boosts.is_empty());
        self.boosts().count() != before
    }

    fn grace_seconds(&self, scope: &ScopeRef, projects: &[ProjectFacts]) -> i64 {
        let resolved = self.resolve(scope, edit::owner_of(scope, projects));
        let seconds = resolved.limits.grace_seconds.and_then(|seconds| i64::try_from(seconds).ok());
        seconds.unwrap_or(DEFAULT_GRACE_SECONDS)
    }

    /// Removes what was set for a workspace that is forgotten; returns whether there was anything.
    pub(crate) fn forget_project(&mut self, id: &str) -> bool {
        let record = self.records.remove(&PolicyTarget::Project { id: id.to_owned() });
        let boosts = self.boosts.remove(&ScopeRef::Project { id: id.to_owned() });
        record.is_some() || boosts.is_some()
    }
}

/// Whether a boost still counts. One whose end cannot be read was not made by this program and does not.
pub(crate) fn is_running(boost: &Boost, now: Timestamp) -> bool {
    boost.until.parse::<Timestamp>().is_ok_and(|until| until > now)
}

/// Returns a scope as people write it.
pub(crate) fn subject_of(target: &PolicyTarget) -> String {
    match target {
        PolicyTarget::Pool { path } => format!("pool:{}", path.display()),
        PolicyTarget::Group { name } => format!("group:{name}"),
        PolicyTarget::User { uid } => format!("user:{uid}"),
        PolicyTarget::Project { id } => format!("project:{id}"),
        PolicyTarget::EachUser { group } => format!("{group}/each-user"),
        PolicyTarget::EachProject { group } => format!("{group}/each-project"),
    }
}

#[cfg(test)]
mod tests;
