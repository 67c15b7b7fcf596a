use proptest::prelude::*;
use wsguard_api::{Bound, Bounds, GroupMembers, QuotaEdit, QuotaErrno, QuotaField, QuotaMode, Usage};

use super::*;

const GIB: u64 = 1 << 30;

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().unwrap()
}

fn projects() -> Vec<ProjectFacts> {
    let project = |(id, owner_uid): (&str, u32)| ProjectFacts { id: id.to_owned(), owner_uid };
    [("w1", 1000), ("w2", 1000), ("w3", 1001)].map(project).into()
}

fn user(uid: u32) -> PolicyTarget {
    PolicyTarget::User { uid }
}

fn each_user(group: &str) -> PolicyTarget {
    PolicyTarget::EachUser { group: group.to_owned() }
}

fn set(target: PolicyTarget) -> QuotaEdit {
    QuotaEdit::Set {
        target,
        bytes_soft: None,
        bytes_hard: None,
        inodes_soft: None,
        inodes_hard: None,
        grace_seconds: None,
        mode: None,
        errno: None,
        headroom_bytes: None,
    }
}

fn hard(target: PolicyTarget, bytes: u64) -> QuotaEdit {
    let QuotaEdit::Set { target, .. } = set(target) else { unreachable!() };
    edit_with(target, |hard, _, _| *hard = Some(Bound::At(bytes)))
}

fn edit_with(
    target: PolicyTarget,
    change: impl FnOnce(&mut Option<Bound>, &mut Option<Bound>, &mut Option<QuotaMode>),
) -> QuotaEdit {
    let mut edit = set(target);
    if let QuotaEdit::Set { bytes_hard, bytes_soft, mode, .. } = &mut edit {
        change(bytes_hard, bytes_soft, mode);
    }
    edit
}

fn apply(policy: &mut Policy, edit: &QuotaEdit) -> Result<u64, PolicyError> {
    let projects = projects();
    policy.edit(edit, &EditContext { now: now(), uid: 0, reason: Some("paper"), projects: &projects })
}

fn policy(edits: &[QuotaEdit]) -> Policy {
    let mut policy = Policy::default();
    for edit in edits {
        apply(&mut policy, edit).unwrap();
    }
    policy
}

fn assign(group: &str, uids: &[u32]) -> QuotaEdit {
    QuotaEdit::Assign { group: group.to_owned(), uids: uids.to_vec() }
}

fn user_hard(policy: &Policy, uid: u32) -> Option<u64> {
    policy.resolve(&ScopeRef::User { uid }, None).limits.bytes_hard
}

#[test]
fn the_strongest_level_that_says_it_counts() {
    let mut policy = policy(&[
        hard(each_user(DEFAULT_GROUP), 100 * GIB),
        hard(each_user("students"), 50 * GIB),
        assign("students", &[1001, 1002]),
        hard(user(1002), 7 * GIB),
    ]);
    assert_eq!(user_hard(&policy, 1000), Some(100 * GIB));
    assert_eq!(user_hard(&policy, 1001), Some(50 * GIB));
    assert_eq!(user_hard(&policy, 1002), Some(7 * GIB));
    apply(&mut policy, &QuotaEdit::Unset { target: user(1002), fields: Vec::new() }).unwrap();
    assert_eq!(user_hard(&policy, 1002), Some(50 * GIB));
}

#[test]
fn an_exception_of_one_part_leaves_the_others_inherited() {
    // What DS01 gets wrong: a longer time for one user cut what the group gave.
    let mut edit = set(user(1001));
    if let QuotaEdit::Set { grace_seconds, .. } = &mut edit {
        *grace_seconds = Some(86_400);
    }
    let policy = policy(&[hard(each_user("staff"), 50 * GIB), assign("staff", &[1001]), edit]);
    let resolved = policy.resolve(&ScopeRef::User { uid: 1001 }, None);
    assert_eq!((resolved.limits.bytes_hard, resolved.limits.grace_seconds), (Some(50 * GIB), Some(86_400)));
    let sources: Vec<(QuotaField, String)> =
        resolved.sources.iter().map(|source| (source.field, subject_of(&source.target))).collect();
    assert_eq!(
        sources,
        [(QuotaField::Bytes, "staff/each-user".to_owned()), (QuotaField::Grace, "user:1001".to_owned())]
    );
}

#[test]
fn unlimited_is_said_and_not_inherited() {
    let lift = edit_with(user(1000), |hard, _, _| *hard = Some(Bound::Unlimited));
    let policy = policy(&[hard(each_user(DEFAULT_GROUP), GIB), lift]);
    assert_eq!(user_hard(&policy, 1000), None);
    assert_eq!(user_hard(&policy, 1001), Some(GIB));
}

#[test]
fn projects_take_their_size_from_projects_and_their_mode_from_the_owner() {
    let track = edit_with(user(1000), |_, _, mode| *mode = Some(QuotaMode::Track));
    let each = PolicyTarget::EachProject { group: DEFAULT_GROUP.to_owned() };
    let policy = policy(&[hard(each, 3 * GIB), hard(user(1000), 100 * GIB), track]);
    let project = |id: &str, owner| policy.resolve(&ScopeRef::Project { id: id.into() }, Some(owner)).limits;
    assert_eq!((project("w1", 1000).bytes_hard, project("w1", 1000).mode), (Some(3 * GIB), QuotaMode::Track));
    assert_eq!(project("w3", 1001).mode, QuotaMode::Enforce);
}

#[test]
fn a_soft_limit_above_the_hard_one_and_one_alone_are_refused() {
    let both = edit_with(user(1), |hard, soft, _| {
        *hard = Some(Bound::At(GIB));
        *soft = Some(Bound::At(2 * GIB));
    });
    let error = apply(&mut Policy::default(), &both).unwrap_err();
    assert!(matches!(error, PolicyError::SoftAboveHard { dimension: "bytes", .. }), "{error}");
    let alone = edit_with(user(1), |_, soft, _| *soft = Some(Bound::At(GIB)));
    let mut inherits = policy(&[hard(each_user(DEFAULT_GROUP), 2 * GIB)]);
    assert!(matches!(apply(&mut inherits, &alone), Err(PolicyError::SoftAlone { .. })));
    let mut own = policy(&[hard(user(1), 2 * GIB)]);
    apply(&mut own, &alone).unwrap();
    let limits = own.resolve(&ScopeRef::User { uid: 1 }, None).limits;
    assert_eq!((limits.bytes_soft, limits.bytes_hard), (Some(GIB), Some(2 * GIB)));
}

#[test]
fn what_cannot_be_is_refused_with_a_hint() {
    let project = PolicyTarget::Project { id: "nope".into() };
    let refused = [
        set(user(1)),
        hard(project, GIB),
        hard(user(1), u64::MAX),
        hard(PolicyTarget::Pool { path: "data".into() }, GIB),
        hard(PolicyTarget::Pool { path: "/a/../b".into() }, GIB),
        hard(PolicyTarget::Group { name: DEFAULT_GROUP.into() }, GIB),
        assign("", &[1]),
        assign("a/b", &[1]),
        assign("-x", &[1]),
        QuotaEdit::Unassign { uids: vec![1] },
        QuotaEdit::RemoveGroup { group: "nope".into() },
        QuotaEdit::Unset { target: user(1), fields: Vec::new() },
        QuotaEdit::EndBoosts { scope: ScopeRef::User { uid: 1 } },
        QuotaEdit::Boost { scope: ScopeRef::User { uid: 1 }, bytes: 1, inodes: 0, seconds: 60 },
        QuotaEdit::ExtendGrace { scope: ScopeRef::User { uid: 1 }, seconds: u64::MAX },
    ];
    for edit in refused {
        let error = apply(&mut Policy::default(), &edit).expect_err(&format!("{edit:?}"));
        assert!(error.to_api().hint.is_some(), "{error}");
    }
}

#[test]
fn a_boost_raises_the_limit_until_it_ends_and_is_kept_for_the_grace_after_it() {
    let scope = ScopeRef::User { uid: 1000 };
    let boost = QuotaEdit::Boost { scope: scope.clone(), bytes: GIB, inodes: 0, seconds: 3600 };
    let mut policy = policy(&[hard(user(1000), 2 * GIB), boost]);
    let at = |seconds| now().checked_add(SignedDuration::from_secs(seconds)).unwrap();
    let resolved = policy.resolve(&scope, None);
    assert_eq!(resolved.enforced_bytes(at(3599)), Some(3 * GIB));
    assert_eq!(resolved.enforced_bytes(at(3600)), Some(2 * GIB));
    assert!(!policy.drop_past_boosts(at(3600 + DEFAULT_GRACE_SECONDS - 1), &projects()));
    assert!(policy.drop_past_boosts(at(3600 + DEFAULT_GRACE_SECONDS), &projects()));
    assert_eq!(policy.boosts().count(), 0);
}

#[test]
fn only_what_gets_tighter_hits_somebody() {
    let resolved = |bytes: u64| policy(&[hard(user(1), bytes)]).resolve(&ScopeRef::User { uid: 1 }, None);
    let known = |bytes, is_complete| Known { usage: Usage { bytes, inodes: 0 }, is_complete };
    let hit = Verdict::Hit { bytes_hard: Some(GIB), inodes_hard: None };
    let none = Resolved::default();
    assert_eq!(verdict(&none, &resolved(GIB), known(GIB + 1, true), now()), hit);
    assert_eq!(verdict(&none, &resolved(GIB), known(GIB + 1, false), now()), hit);
    assert_eq!(verdict(&none, &resolved(GIB), known(GIB, true), now()), Verdict::Fits);
    assert_eq!(verdict(&none, &resolved(GIB), known(0, false), now()), Verdict::Unknown);
    assert_eq!(verdict(&resolved(2 * GIB), &resolved(GIB), known(3 * GIB, true), now()), hit);
    assert_eq!(verdict(&resolved(GIB), &resolved(2 * GIB), known(3 * GIB, true), now()), Verdict::Fits);
    let mut tracked = resolved(GIB);
    tracked.limits.mode = QuotaMode::Track;
    assert_eq!(verdict(&none, &tracked, known(2 * GIB, true), now()), Verdict::Fits);
    assert_eq!(verdict(&tracked, &resolved(GIB), known(2 * GIB, true), now()), hit);
}

#[test]
fn a_document_is_applied_by_difference_and_prunes_only_when_asked() {
    let mut policy = policy(&[hard(user(1), GIB), assign("staff", &[5])]);
    let document = PolicyDocument {
        records: vec![PolicyRecord {
            target: each_user("students"),
            spec: LimitSpec { mode: Some(QuotaMode::Track), ..LimitSpec::default() },
        }],
        members: vec![GroupMembers { group: "students".into(), uids: vec![2, 3] }],
    };
    let kept = QuotaEdit::Apply { document: document.clone(), prune: false };
    let before = policy.clone();
    assert_eq!(apply(&mut policy, &kept).unwrap(), 2);
    let changed: Vec<String> =
        changes(&before, &policy).into_iter().map(|c| format!("{} {}", c.subject, c.field)).collect();
    assert_eq!(changed, ["students/each-user mode", "user:2 group", "user:3 group"]);
    assert_eq!(apply(&mut policy, &QuotaEdit::Apply { document: document.clone(), prune: true }).unwrap(), 0);
    assert_eq!(policy.document(), document);
}

#[test]
fn a_document_that_contradicts_itself_is_refused() {
    let record = PolicyRecord {
        target: user(1),
        spec: LimitSpec { errno: Some(QuotaErrno::Enospc), ..LimitSpec::default() },
    };
    let twice = PolicyDocument { records: vec![record.clone(), record], members: Vec::new() };
    let member = |group: &str| GroupMembers { group: group.into(), uids: vec![1] };
    let torn = PolicyDocument { records: Vec::new(), members: vec![member("a"), member("b")] };
    for document in [twice, torn] {
        let edit = QuotaEdit::Apply { document, prune: false };
        assert!(apply(&mut Policy::default(), &edit).is_err(), "{edit:?}");
    }
}

#[test]
fn a_forgotten_workspace_leaves_nothing() {
    let target = PolicyTarget::Project { id: "w1".into() };
    let boost =
        QuotaEdit::Boost { scope: ScopeRef::Project { id: "w1".into() }, bytes: 1, inodes: 0, seconds: 60 };
    let mut policy = policy(&[hard(target, GIB), boost]);
    assert!(policy.forget_project("w1"));
    assert_eq!(policy, Policy::default());
}

fn any_spec() -> impl Strategy<Value = LimitSpec> {
    let bound = || prop_oneof![Just(Bound::Unlimited), (0..100u64).prop_map(Bound::At)];
    let bounds = (bound(), bound()).prop_map(|(soft, hard)| match (soft.number(), hard.number()) {
        (Some(soft), Some(hard)) if soft > hard => Bounds { soft: Bound::At(hard), hard: Bound::At(soft) },
        _ => Bounds { soft, hard },
    });
    (
        proptest::option::of(bounds.clone()),
        proptest::option::of(bounds),
        proptest::option::of(0..1000u64),
        proptest::option::of(prop_oneof![Just(QuotaMode::Off), Just(QuotaMode::Track)]),
    )
        .prop_map(|(bytes, inodes, grace_seconds, mode)| LimitSpec {
            bytes,
            inodes,
            grace_seconds,
            mode,
            errno: None,
            headroom_bytes: None,
        })
}

fn any_document() -> impl Strategy<Value = PolicyDocument> {
    let target = prop_oneof![
        (0..4u32).prop_map(user),
        "[ab]".prop_map(|group| each_user(&group)),
        "[ab]".prop_map(|group| PolicyTarget::EachProject { group }),
        "[ab]".prop_map(|name| PolicyTarget::Group { name }),
        Just(each_user(DEFAULT_GROUP)),
        "w[123]".prop_map(|id| PolicyTarget::Project { id }),
    ];
    let records = proptest::collection::btree_map(target, any_spec(), 0..8);
    let members = proptest::collection::btree_map(0..4u32, "[ab]", 0..4);
    (records, members).prop_map(|(records, members)| {
        Policy::new(
            records
                .into_iter()
                .filter(|(_, spec)| !spec.is_empty())
                .map(|(target, spec)| PolicyRecord { target, spec }),
            members,
            [],
        )
        .document()
    })
}

proptest! {
    #[test]
    fn applying_with_prune_gives_the_document_back_whatever_was_before(
        first in any_document(), second in any_document(),
    ) {
        let mut policy = Policy::default();
        apply(&mut policy, &QuotaEdit::Apply { document: first, prune: true }).unwrap();
        let before = policy.clone();
        apply(&mut policy, &QuotaEdit::Apply { document: second.clone(), prune: true }).unwrap();
        prop_assert_eq!(policy.document(), second);
        prop_assert_eq!(changes(&before, &policy).is_empty(), before == policy);
    }

    #[test]
    fn resolved_limits_never_have_a_soft_one_above_the_hard_one(document in any_document()) {
        let mut policy = Policy::default();
        apply(&mut policy, &QuotaEdit::Apply { document, prune: true }).unwrap();
        for scope in policy.scopes(&projects()) {
            let owner = edit::owner_of(&scope, &projects());
            let limits = policy.resolve(&scope, owner).limits;
            for (soft, hard) in [(limits.bytes_soft, limits.bytes_hard), (limits.inodes_soft, limits.inodes_hard)] {
                prop_assert!(soft.is_none_or(|soft| hard.is_none_or(|hard| soft <= hard)), "{:?}", limits);
            }
        }
    }

    #[test]
    fn exactly_one_level_wins_for_each_part_that_has_a_source(document in any_document()) {
        let mut policy = Policy::default();
        apply(&mut policy, &QuotaEdit::Apply { document, prune: true }).unwrap();
        for scope in policy.scopes(&projects()) {
            let owner = edit::owner_of(&scope, &projects());
            let winners: Vec<_> = policy.explain(&scope, owner).into_iter().filter(|step| step.wins).collect();
            let sources = policy.resolve(&scope, owner).sources;
            prop_assert_eq!(winners.len(), sources.len());
            for (step, source) in winners.iter().zip(&sources) {
                prop_assert_eq!((step.field, &step.target), (source.field, &source.target));
            }
        }
    }
}
