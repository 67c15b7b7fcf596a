//! Edits of a policy. Each either is done whole or leaves the policy unspecified: callers edit a copy.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use jiff::{SignedDuration, Timestamp};
use wsguard_api::{
    Boost, Bound, Bounds, GroupMembers, LimitSpec, PolicyDocument, PolicyTarget, QuotaEdit, QuotaField,
    ScopeRef,
};

use super::{DEFAULT_GROUP, Policy, PolicyError, ProjectFacts, subject_of, target_of};

/// Largest number of bytes, inodes or seconds: the catalog's integers are signed.
const MOST: u64 = i64::MAX as u64;

/// Longest grace period and boost, seconds: ten years.
const LONGEST_SECONDS: u64 = 3_653 * 86_400;

/// Longest name of a group, bytes.
const LONGEST_NAME: usize = 64;

/// What an edit depends on besides the policy.
#[derive(Clone, Debug)]
pub(crate) struct EditContext<'a> {
    pub(crate) now: Timestamp,
    /// Who asks.
    pub(crate) uid: u32,
    pub(crate) reason: Option<&'a str>,
    /// Registered workspaces.
    pub(crate) projects: &'a [ProjectFacts],
}

impl Policy {
    /// Applies an edit. [`QuotaEdit::ExtendGrace`] is about a clock and changes no policy.
    ///
    /// Returns how many records and memberships an applied document did not mention and left.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub(crate) fn edit(&mut self, edit: &QuotaEdit, context: &EditContext<'_>) -> Result<u64, PolicyError> {
        match edit {
            QuotaEdit::Set {
                target,
                bytes_soft,
                bytes_hard,
                inodes_soft,
                inodes_hard,
                grace_seconds,
                mode,
                errno,
                headroom_bytes,
            } => {
                let subject = subject_of(target);
                let mut spec = self.records.get(target).cloned().unwrap_or_default();
                spec.bytes = merged(spec.bytes, *bytes_soft, *bytes_hard, &subject, "bytes")?;
                spec.inodes = merged(spec.inodes, *inodes_soft, *inodes_hard, &subject, "inodes")?;
                spec.grace_seconds = grace_seconds.or(spec.grace_seconds);
                spec.mode = mode.or(spec.mode);
                spec.errno = errno.or(spec.errno);
                spec.headroom_bytes = headroom_bytes.or(spec.headroom_bytes);
                let is_empty_edit =
                    [bytes_soft, bytes_hard, inodes_soft, inodes_hard].iter().all(|bound| bound.is_none())
                        && grace_seconds.is_none()
                        && mode.is_none()
                        && errno.is_none()
                        && headroom_bytes.is_none();
                if is_empty_edit {
                    return Err(PolicyError::NothingToSet { subject });
                }
                check_target(target, context.projects)?;
                check_spec(&spec)?;
                self.records.insert(target.clone(), spec);
            }
            QuotaEdit::Unset { target, fields } => self.unset(target, fields)?,
            QuotaEdit::Assign { group, uids } => {
                check_group(group)?;
                self.members.extend(uids.iter().map(|uid| (*uid, group.clone())));
            }
            QuotaEdit::Unassign { uids } => {
                for uid in uids {
                    if self.members.remove(uid).is_none() {
                        let subject = format!("user:{uid}");
                        return Err(PolicyError::NothingSet { subject, part: " (in no group)".to_owned() });
                    }
                }
            }
            QuotaEdit::RemoveGroup { group } => self.remove_group(group)?,
            QuotaEdit::Boost { scope, bytes, inodes, seconds } => {
                self.boost(scope, *bytes, *inodes, *seconds, context)?;
            }
            QuotaEdit::EndBoosts { scope } => {
                if self.boosts.remove(scope).is_none() {
                    return Err(PolicyError::NoBoost { subject: subject_of(&target_of(scope)) });
                }
            }
            QuotaEdit::ExtendGrace { seconds, .. } => {
                check_range("grace", *seconds, LONGEST_SECONDS)?;
            }
            QuotaEdit::Apply { document, prune } => return self.apply(document, *prune, context),
        }
        Ok(0)
    }

    fn unset(&mut self, target: &PolicyTarget, fields: &[QuotaField]) -> Result<(), PolicyError> {
        let missing = |part: &str| PolicyError::NothingSet {
            subject: subject_of(target),
            part: if part.is_empty() { String::new() } else { format!(" ({part})") },
        };
        let spec = self.records.get_mut(target).ok_or_else(|| missing(""))?;
        for field in fields {
            if super::describe(spec, *field).is_none() {
                return Err(missing(field.word()));
            }
            match field {
                QuotaField::Bytes => spec.bytes = None,
                QuotaField::Inodes => spec.inodes = None,
                QuotaField::Grace => spec.grace_seconds = None,
                QuotaField::Mode => spec.mode = None,
                QuotaField::Errno => spec.errno = None,
                QuotaField::Headroom => spec.headroom_bytes = None,
            }
        }
        if fields.is_empty() || spec.is_empty() {
            self.records.remove(target);
        }
        Ok(())
    }

    fn remove_group(&mut self, group: &str) -> Result<(), PolicyError> {
        let is_known = self.groups().contains(group)
            || (group == DEFAULT_GROUP && self.records.keys().any(|target| is_of_group(target, group)));
        if !is_known {
            return Err(PolicyError::UnknownGroup { name: group.to_owned() });
        }
        self.records.retain(|target, _| !is_of_group(target, group));
        self.members.retain(|_, member_of| member_of != group);
        self.boosts.remove(&ScopeRef::Group { name: group.to_owned() });
        Ok(())
    }

    fn boost(
        &mut self,
        scope: &ScopeRef,
        bytes: u64,
        inodes: u64,
        seconds: u64,
        context: &EditContext<'_>,
    ) -> Result<(), PolicyError> {
        let subject = subject_of(&target_of(scope));
        check_target(&target_of(scope), context.projects)?;
        if bytes == 0 && inodes == 0 {
            return Err(PolicyError::NothingToSet { subject });
        }
        check_range("bytes", bytes, MOST)?;
        check_range("inodes", inodes, MOST)?;
        check_range("seconds", seconds, LONGEST_SECONDS)?;
        let limits = self.resolve(scope, owner_of(scope, context.projects)).limits;
        for (dimension, added, limit) in
            [("bytes", bytes, limits.bytes_hard), ("inodes", inodes, limits.inodes_hard)]
        {
            if added > 0 && limit.is_none() {
                return Err(PolicyError::NothingToBoost { subject, dimension });
            }
        }
        let until = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| context.now.checked_add(SignedDuration::from_secs(seconds)).ok())
            // Whole seconds: what is stored is what was told.
            .and_then(|until| Timestamp::from_second(until.as_second()).ok())
            .ok_or(PolicyError::Clock { seconds })?;
        self.boosts.entry(scope.clone()).or_default().push(Boost {
            bytes,
            inodes,
            until: until.to_string(),
            reason: context.reason.unwrap_or_default().to_owned(),
            by: context.uid,
        });
        Ok(())
    }

    fn apply(
        &mut self,
        document: &PolicyDocument,
        prune: bool,
        context: &EditContext<'_>,
    ) -> Result<u64, PolicyError> {
        let mut records: BTreeMap<PolicyTarget, LimitSpec> = BTreeMap::new();
        for record in &document.records {
            check_target(&record.target, context.projects)?;
            check_spec(&record.spec)?;
            if record.spec.is_empty() {
                continue;
            }
            if records.insert(record.target.clone(), record.spec.clone()).is_some() {
                return Err(PolicyError::NamedTwice { subject: subject_of(&record.target) });
            }
        }
        let mut members: BTreeMap<u32, String> = BTreeMap::new();
        for GroupMembers { group, uids } in &document.members {
            check_group(group)?;
            for uid in uids {
                let first = members.insert(*uid, group.clone());
                if let Some(first) = first.filter(|first| first != group) {
                    return Err(PolicyError::TwoGroups { uid: *uid, first, second: group.clone() });
                }
            }
        }
        let mut unmentioned = 0;
        if prune {
            self.records.retain(|target, _| records.contains_key(target));
            self.members.retain(|uid, _| members.contains_key(uid));
        } else {
            let other_records = self.records.keys().filter(|target| !records.contains_key(target)).count();
            let other_members = self.members.keys().filter(|uid| !members.contains_key(uid)).count();
            unmentioned = u64::try_from(other_records + other_members).unwrap_or(u64::MAX);
        }
        self.records.extend(records);
        self.members.extend(members);
        Ok(unmentioned)
    }
}

fn is_of_group(target: &PolicyTarget, wanted: &str) -> bool {
    match target {
        PolicyTarget::Group { name: group }
        | PolicyTarget::EachUser { group }
        | PolicyTarget::EachProject { group } => group == wanted,
        PolicyTarget::Pool { .. } | PolicyTarget::User { .. } | PolicyTarget::Project { .. } => false,
    }
}

pub(super) fn owner_of(scope: &ScopeRef, projects: &[ProjectFacts]) -> Option<u32> {
    match scope {
        ScopeRef::Project { id } => {
            projects.iter().find(|project| project.id == *id).map(|project| project.owner_uid)
        }
        ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
    }
}

/// Puts the halves of a dimension together; what is not given stays.
fn merged(
    known: Option<Bounds>,
    soft: Option<Bound>,
    hard: Option<Bound>,
    subject: &str,
    dimension: &'static str,
) -> Result<Option<Bounds>, PolicyError> {
    match (known, soft, hard) {
        (known, None, None) => Ok(known),
        (Some(known), soft, hard) => {
            Ok(Some(Bounds { soft: soft.unwrap_or(known.soft), hard: hard.unwrap_or(known.hard) }))
        }
        // The hard limit would come from a weaker level no more: never lifted by the way.
        (None, Some(_), None) => Err(PolicyError::SoftAlone { subject: subject.to_owned(), dimension }),
        (None, soft, Some(hard)) => Ok(Some(Bounds { soft: soft.unwrap_or(Bound::Unlimited), hard })),
    }
}

fn check_spec(spec: &LimitSpec) -> Result<(), PolicyError> {
    for (dimension, bounds) in [("bytes", spec.bytes), ("inodes", spec.inodes)] {
        let Some(bounds) = bounds else { continue };
        for number in [bounds.soft.number(), bounds.hard.number()].into_iter().flatten() {
            check_range(dimension, number, MOST)?;
        }
        if let (Some(soft), Some(hard)) = (bounds.soft.number(), bounds.hard.number())
            && soft > hard
        {
            return Err(PolicyError::SoftAboveHard { dimension, soft, hard });
        }
    }
    if let Some(seconds) = spec.grace_seconds {
        check_range("grace", seconds, LONGEST_SECONDS)?;
    }
    if let Some(headroom) = spec.headroom_bytes {
        check_range("headroom", headroom, MOST)?;
        let hard = spec.bytes.and_then(|bounds| bounds.hard.number());
        if let Some(hard) = hard.filter(|hard| headroom > *hard) {
            return Err(PolicyError::HeadroomAboveHard { headroom, hard });
        }
    }
    Ok(())
}

fn check_range(what: &'static str, value: u64, most: u64) -> Result<(), PolicyError> {
    if value > most { Err(PolicyError::OutOfRange { what, value, most }) } else { Ok(()) }
}

fn check_target(target: &PolicyTarget, projects: &[ProjectFacts]) -> Result<(), PolicyError> {
    match target {
        PolicyTarget::User { .. } => Ok(()),
        PolicyTarget::Pool { path } => check_pool(path),
        PolicyTarget::Group { name } => check_group(name),
        PolicyTarget::EachUser { group } | PolicyTarget::EachProject { group } if group == DEFAULT_GROUP => {
            Ok(())
        }
        PolicyTarget::EachUser { group } | PolicyTarget::EachProject { group } => check_group(group),
        PolicyTarget::Project { id } if projects.iter().any(|project| project.id == *id) => Ok(()),
        PolicyTarget::Project { id } => Err(PolicyError::UnknownProject { id: id.clone() }),
    }
}

fn check_pool(path: &Path) -> Result<(), PolicyError> {
    let is_clean = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && is_clean {
        Ok(())
    } else {
        Err(PolicyError::PoolPath { path: path.display().to_string() })
    }
}

fn check_group(name: &str) -> Result<(), PolicyError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_good = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name != DEFAULT_GROUP;
    if is_good { Ok(()) } else { Err(PolicyError::GroupName { name: name.to_owned() }) }
}
