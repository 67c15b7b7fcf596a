//! What is different between two policies, in the words of the audit.

use std::collections::BTreeSet;

use wsguard_api::{Boost, Bound, LimitSpec, PolicyTarget, QuotaChange, QuotaErrno, QuotaMode, ScopeRef};

use super::{Policy, subject_of};

/// Returns the level that is set for a scope itself.
pub(crate) fn target_of(scope: &ScopeRef) -> PolicyTarget {
    match scope.clone() {
        ScopeRef::Pool { path } => PolicyTarget::Pool { path },
        ScopeRef::Group { name } => PolicyTarget::Group { name },
        ScopeRef::User { uid } => PolicyTarget::User { uid },
        ScopeRef::Project { id } => PolicyTarget::Project { id },
    }
}

pub(crate) fn mode_word(mode: QuotaMode) -> &'static str {
    match mode {
        QuotaMode::Off => "off",
        QuotaMode::Track => "track",
        QuotaMode::Enforce => "enforce",
    }
}

pub(crate) fn errno_word(errno: QuotaErrno) -> &'static str {
    match errno {
        QuotaErrno::Edquot => "edquot",
        QuotaErrno::Enospc => "enospc",
    }
}

/// Returns every difference: records, then members, then boosts.
pub(crate) fn changes(before: &Policy, after: &Policy) -> Vec<QuotaChange> {
    let mut changes = Vec::new();
    let nothing = LimitSpec::default();
    let targets: BTreeSet<&PolicyTarget> = before.records.keys().chain(after.records.keys()).collect();
    for target in targets {
        let old = parts(before.records.get(target).unwrap_or(&nothing));
        let new = parts(after.records.get(target).unwrap_or(&nothing));
        for ((field, old), (_, new)) in old.into_iter().zip(new) {
            push(&mut changes, || subject_of(target), field, old, new);
        }
    }
    let uids: BTreeSet<u32> = before.members.keys().chain(after.members.keys()).copied().collect();
    for uid in uids {
        let (old, new) = (before.members.get(&uid).cloned(), after.members.get(&uid).cloned());
        push(&mut changes, || format!("user:{uid}"), "group", old, new);
    }
    let scopes: BTreeSet<&ScopeRef> = before.boosts.keys().chain(after.boosts.keys()).collect();
    for scope in scopes {
        let of = |policy: &Policy| policy.boosts.get(scope).cloned().unwrap_or_default();
        let (old, new) = (of(before), of(after));
        let subject = || subject_of(&target_of(scope));
        for boost in old.iter().filter(|boost| !new.contains(boost)) {
            push(&mut changes, subject, "boost", Some(boost_text(boost)), None);
        }
        for boost in new.iter().filter(|boost| !old.contains(boost)) {
            push(&mut changes, subject, "boost", None, Some(boost_text(boost)));
        }
    }
    changes
}

fn push(
    changes: &mut Vec<QuotaChange>,
    subject: impl FnOnce() -> String,
    field: &str,
    before: Option<String>,
    after: Option<String>,
) {
    if before != after {
        changes.push(QuotaChange { subject: subject(), field: field.to_owned(), before, after });
    }
}

/// Returns everything that a level can say, each with its name, in a fixed order.
fn parts(spec: &LimitSpec) -> [(&'static str, Option<String>); 8] {
    let bound = |bound: Bound| bound.number().map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    [
        ("bytes-soft", spec.bytes.map(|bounds| bound(bounds.soft))),
        ("bytes-hard", spec.bytes.map(|bounds| bound(bounds.hard))),
        ("inodes-soft", spec.inodes.map(|bounds| bound(bounds.soft))),
        ("inodes-hard", spec.inodes.map(|bounds| bound(bounds.hard))),
        ("grace", number(spec.grace_seconds)),
        ("mode", spec.mode.map(|mode| mode_word(mode).to_owned())),
        ("errno", spec.errno.map(|errno| errno_word(errno).to_owned())),
        ("headroom", number(spec.headroom_bytes)),
    ]
}

fn boost_text(boost: &Boost) -> String {
    format!("{} bytes, {} inodes until {}", boost.bytes, boost.inodes, boost.until)
}
