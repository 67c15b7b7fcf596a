//! Projects that move between groups while they are used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;

const PROJECTS: usize = 4;
const GROUPS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

#[derive(Clone, Debug)]
enum Step {
    Reserve { project: usize, blocks: u64, inodes: u64 },
    SettleOldest { blocks: i64, inodes: i64 },
    DropOldest,
    Settle { project: usize, blocks: i64 },
    Hold { project: usize, blocks: u64 },
    Estimate { project: usize, is_estimated: bool },
    Reclaim { project: usize, blocks: u64 },
    Regroup { project: usize, group: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let project = 0..PROJECTS;
    let step = prop_oneof![
        4 => (project.clone(), 1..40u64, 0..3u64)
            .prop_map(|(project, blocks, inodes)| Step::Reserve { project, blocks, inodes }),
        3 => (-20..60i64, -2..3i64).prop_map(|(blocks, inodes)| Step::SettleOldest { blocks, inodes }),
        1 => Just(Step::DropOldest),
        1 => (project.clone(), -30..30i64).prop_map(|(project, blocks)| Step::Settle { project, blocks }),
        1 => (project.clone(), 0..30u64).prop_map(|(project, blocks)| Step::Hold { project, blocks }),
        1 => (project.clone(), any::<bool>())
            .prop_map(|(project, is_estimated)| Step::Estimate { project, is_estimated }),
        1 => (project.clone(), 0..9u64).prop_map(|(project, blocks)| Step::Reclaim { project, blocks }),
        4 => (project, 0..GROUPS.len()).prop_map(|(project, group)| Step::Regroup { project, group }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Every number of a scope that is a sum of its projects'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums([u64; 8]);

fn sums(state: &ScopeState) -> Sums {
    let of = |usage: &super::super::scope_state::Usage| [usage.used, usage.reserved, usage.held];
    let ([a, b, c], [d, e, f]) = (of(&state.bytes), of(&state.inodes));
    Sums([a, b, c, d, e, f, state.reclaimable_bytes, state.projects])
}

/// Each group has exactly what its members have, and is not there without any.
fn check(ledger: &Ledger, groups: &[usize; PROJECTS]) -> Result<(), TestCaseError> {
    for (place, name) in GROUPS.iter().enumerate() {
        let Some(name) = name else { continue };
        let members: Vec<usize> = (0..PROJECTS).filter(|project| groups[*project] == place).collect();
        let mut expected = Sums::default();
        let mut is_estimated = false;
        for member in &members {
            let state = ledger.snapshot(&project(&member.to_string())).unwrap();
            for (sum, part) in expected.0.iter_mut().zip(sums(&state).0) {
                *sum += part;
            }
            is_estimated |= state.is_estimated;
        }
        let state = ledger.snapshot(&ScopeKey::Group((*name).to_owned()));
        prop_assert_eq!(state.is_some(), !members.is_empty(), "group {}", name);
        if let Some(state) = state {
            prop_assert_eq!(sums(&state), expected, "group {}", name);
            prop_assert_eq!(state.is_estimated, is_estimated, "group {}", name);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn group_has_what_its_members_have_whatever_moves_when(steps in steps()) {
        let ledger = Ledger::new();
        let accounts: Vec<_> = (0..PROJECTS)
            .map(|id| ledger.attach(&id.to_string(), u32::try_from(id).unwrap(), None, 1, Cells::private()))
            .collect();
        let mut groups = [0; PROJECTS];
        let mut holds = [0; PROJECTS];
        let mut open: std::collections::VecDeque<Reservation<'_>> = Default::default();
        for step in steps {
            match step {
                Step::Reserve { project, blocks, inodes } => {
                    open.push_back(accounts[project].reserve(blocks * BLOCK_BYTES, 1, inodes, LARGE).unwrap());
                }
                Step::SettleOldest { blocks, inodes } => {
                    if let Some(reservation) = open.pop_front() {
                        reservation.settle(blocks * 4096, inodes);
                    }
                }
                Step::DropOldest => drop(open.pop_front()),
                Step::Settle { project, blocks } => accounts[project].settle(blocks * 4096, 0),
                Step::Hold { project, blocks } => {
                    accounts[project].adjust_hold(holds[project], blocks * BLOCK_BYTES, LARGE).unwrap();
                    holds[project] = blocks * BLOCK_BYTES;
                }
                Step::Estimate { project, is_estimated } => accounts[project].set_estimated(is_estimated),
                Step::Reclaim { project, blocks } => accounts[project].set_reclaimable(blocks * BLOCK_BYTES),
                Step::Regroup { project, group } => {
                    accounts[project].regroup(GROUPS[group]);
                    groups[project] = group;
                }
            }
            check(&ledger, &groups)?;
        }
        drop(open);
        drop(accounts);
        prop_assert!(ledger.report().is_empty());
    }
}

#[test]
fn moving_under_load_loses_and_invents_nothing() {
    let ledger = Ledger::new();
    let accounts: Vec<_> = (0..PROJECTS)
        .map(|id| ledger.attach(&id.to_string(), 1000, Some("a"), 1, Cells::private()))
        .collect();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u64)
            .map(|number| {
                let account = &accounts[number as usize % PROJECTS];
                scope.spawn(move || {
                    for round in 0..3_000 {
                        let size = BLOCK_BYTES * (1 + (number + round) % 8);
                        let reservation = account.reserve(size, 1, 1, LARGE).unwrap();
                        match round % 4 {
                            0 => drop(reservation),
                            1 => reservation.settle(-4096, 0),
                            _ => reservation.settle(size.cast_signed(), 1),
                        }
                        account.adjust_hold(0, size, LARGE).unwrap();
                        account.adjust_hold(size, 0, LARGE).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut turn = 0;
            while !has_ended.load(Ordering::Relaxed) {
                accounts[turn % PROJECTS].regroup(GROUPS[turn % GROUPS.len()]);
                turn += 1;
            }
        });
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        has_ended.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let mut groups = [0; PROJECTS];
    for (project, account) in accounts.iter().enumerate() {
        account.regroup(GROUPS[1 + project % 2]);
        groups[project] = 1 + project % 2;
    }
    check(&ledger, &groups).unwrap();
    assert_eq!(bytes(&ledger, &user()), (accounts.iter().map(|account| account.used_bytes()).sum(), 0));
    assert!(ledger.report().iter().all(|state| state.bytes.held == 0));
}

#[test]
fn limit_of_the_new_group_holds_at_once_for_what_is_already_open() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    let group = ScopeKey::Group("tight".to_owned());
    ledger.set_limits(&group, Some(hard(10 * BLOCK_BYTES)), start());
    write(&account, 8 * BLOCK_BYTES).unwrap();
    let open = account.reserve(BLOCK_BYTES, 1, 0, LARGE).unwrap();
    account.regroup(Some("tight"));
    assert_eq!(bytes(&ledger, &group), (8 * BLOCK_BYTES, BLOCK_BYTES));
    assert_eq!(write(&account, 4 * BLOCK_BYTES), Ok(BLOCK_BYTES));
    assert_eq!(refused(write(&account, BLOCK_BYTES)).scope, group);
    open.settle(4096, 0);
    account.regroup(None);
    assert_eq!(write(&account, BLOCK_BYTES), Ok(BLOCK_BYTES));
    // What the group is limited to outlives its last member.
    account.regroup(Some("tight"));
    assert_eq!(refused(write(&account, BLOCK_BYTES)).scope, group);
}
