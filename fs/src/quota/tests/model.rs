//! Random operations against a model that is plain arithmetic.

use proptest::prelude::*;

use super::*;

const PROJECTS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Reserve { project: usize, blocks: u64, at_least: u64, inodes: u64, is_small: bool },
    SettleOldest { blocks: i64, inodes: i64 },
    DropOldest,
    Settle { project: usize, blocks: i64, inodes: i64 },
    Hold { project: usize, blocks: u64 },
    SetUsed { project: usize, blocks: u64, inodes: u64 },
    Limit { scope: usize, hard_blocks: Option<u64>, hard_inodes: Option<u64>, headroom_blocks: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let project = 0..PROJECTS;
    let step = prop_oneof![
        6 => (project.clone(), 0..40u64, 0..40u64, 0..3u64, any::<bool>()).prop_map(
            |(project, blocks, at_least, inodes, is_small)| Step::Reserve {
                project, blocks, at_least, inodes, is_small
            }
        ),
        4 => (-20..60i64, -2..3i64).prop_map(|(blocks, inodes)| Step::SettleOldest { blocks, inodes }),
        1 => Just(Step::DropOldest),
        2 => (project.clone(), -60..20i64, -3..3i64).prop_map(|(project, blocks, inodes)| Step::Settle {
            project, blocks, inodes
        }),
        1 => (project.clone(), 0..30u64).prop_map(|(project, blocks)| Step::Hold { project, blocks }),
        1 => (project, 0..30u64, 0..10u64).prop_map(|(project, blocks, inodes)| Step::SetUsed {
            project, blocks, inodes
        }),
        2 => (
            0..scopes().len(),
            prop::option::of(0..150u64),
            prop::option::of(0..20u64),
            0..20u64
        )
            .prop_map(|(scope, hard_blocks, hard_inodes, headroom_blocks)| Step::Limit {
                scope, hard_blocks, hard_inodes, headroom_blocks
            }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Pool, group, two users with two projects each; only the first user is in the group.
fn scopes() -> Vec<ScopeKey> {
    let mut scopes =
        vec![ScopeKey::Pool(1), ScopeKey::Group("g".to_owned()), ScopeKey::User(0), ScopeKey::User(1)];
    scopes.extend((0..PROJECTS).map(|id| ScopeKey::Project(id.to_string())));
    scopes
}

/// The scopes of a project by their place in [`scopes`], in the order of reservations.
fn chain(project: usize) -> Vec<usize> {
    match project / 2 {
        0 => vec![4 + project, 2, 1, 0],
        _ => vec![4 + project, 3, 0],
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    used: u64,
    reserved: u64,
}

#[derive(Clone, Copy, Default)]
struct Bound {
    hard: Option<u64>,
    headroom: u64,
}

/// Blocks and inodes of every project, and what bounds every scope.
#[derive(Default)]
struct Model {
    counts: [[Counts; 2]; PROJECTS],
    bounds: [[Bound; 2]; 8],
    saturated: u64,
}

impl Model {
    fn total(&self, scope: usize, dimension: usize) -> Counts {
        let members = (0..PROJECTS).filter(|project| chain(*project).contains(&scope));
        members.map(|project| self.counts[project][dimension]).fold(Counts::default(), |sum, counts| Counts {
            used: sum.used + counts.used,
            reserved: sum.reserved + counts.reserved,
        })
    }

    fn room(&self, scope: usize, dimension: usize, is_small: bool) -> u64 {
        let Bound { hard, headroom } = self.bounds[scope][dimension];
        let Counts { used, reserved } = self.total(scope, dimension);
        let Some(hard) = hard else { return u64::MAX };
        (hard - if is_small { 0 } else { headroom }).saturating_sub(used + reserved)
    }

    /// What a reservation is granted.
    fn grant(&self, project: usize, blocks: u64, at_least: u64, inodes: u64, is_small: bool) -> Option<u64> {
        let least = |dimension| {
            chain(project)
                .iter()
                .map(|scope| self.room(*scope, dimension, is_small))
                .min()
                .unwrap_or(u64::MAX)
        };
        let granted = blocks.min(least(0));
        let fits = granted >= at_least.max(1).min(blocks) && inodes <= least(1);
        fits.then_some(granted)
    }

    fn change(&mut self, project: usize, dimension: usize, delta: i64) {
        let used = &mut self.counts[project][dimension].used;
        match used.checked_add_signed(delta) {
            Some(changed) => *used = changed,
            None => {
                *used = 0;
                self.saturated += 1;
            }
        }
    }
}

fn check(ledger: &Ledger, model: &Model) -> Result<(), TestCaseError> {
    for (place, key) in scopes().iter().enumerate() {
        let state = ledger.snapshot(key).unwrap();
        for (usage, dimension, unit) in [(state.bytes, 0, BLOCK_BYTES), (state.inodes, 1, 1)] {
            let Counts { used, reserved } = model.total(place, dimension);
            prop_assert_eq!((usage.used, usage.reserved), (used * unit, reserved * unit), "{}", key);
        }
    }
    let saturated: u64 = ledger.report().iter().map(|state| state.saturated).sum();
    prop_assert_eq!(saturated, model.saturated);
    Ok(())
}

fn signed_bytes(blocks: i64) -> i64 {
    blocks * 4096
}

proptest! {
    #[test]
    fn ledger_does_what_arithmetic_says(steps in steps()) {
        let ledger = Ledger::new();
        let accounts: Vec<_> = (0..PROJECTS)
            .map(|id| {
                let owner = u32::try_from(id / 2).unwrap();
                let group = (owner == 0).then_some("g");
                ledger.attach(&id.to_string(), owner, group, 1, Cells::private())
            })
            .collect();
        let mut model = Model::default();
        let mut open: std::collections::VecDeque<(usize, u64, u64, Reservation<'_>)> = Default::default();
        let mut holds = [0; PROJECTS];
        for step in steps {
            match step {
                Step::Reserve { project, blocks, at_least, inodes, is_small } => {
                    let file_end = if is_small { SMALL_FILE_BYTES } else { SMALL_FILE_BYTES + 1 };
                    let got = accounts[project].reserve(
                        blocks * BLOCK_BYTES, at_least * BLOCK_BYTES, inodes, file_end,
                    );
                    let expected = model.grant(project, blocks, at_least, inodes, is_small);
                    prop_assert_eq!(got.as_ref().ok().map(|got| got.bytes() / BLOCK_BYTES), expected);
                    if let Ok(reservation) = got {
                        let blocks = reservation.bytes() / BLOCK_BYTES;
                        model.counts[project][0].reserved += blocks;
                        model.counts[project][1].reserved += inodes;
                        open.push_back((project, blocks, inodes, reservation));
                    }
                }
                Step::SettleOldest { blocks, inodes } => {
                    let Some((project, reserved, reserved_inodes, reservation)) = open.pop_front() else {
                        continue;
                    };
                    reservation.settle(signed_bytes(blocks), inodes);
                    model.counts[project][0].reserved -= reserved;
                    model.counts[project][1].reserved -= reserved_inodes;
                    model.change(project, 0, blocks);
                    model.change(project, 1, inodes);
                }
                Step::DropOldest => {
                    let Some((project, reserved, reserved_inodes, reservation)) = open.pop_front() else {
                        continue;
                    };
                    drop(reservation);
                    model.counts[project][0].reserved -= reserved;
                    model.counts[project][1].reserved -= reserved_inodes;
                }
                Step::Settle { project, blocks, inodes } => {
                    accounts[project].settle(signed_bytes(blocks), inodes);
                    model.change(project, 0, blocks);
                    model.change(project, 1, inodes);
                }
                Step::Hold { project, blocks } => {
                    let old = holds[project];
                    let result = accounts[project].adjust_hold(old * BLOCK_BYTES, blocks * BLOCK_BYTES, LARGE);
                    let more = blocks.saturating_sub(old);
                    let fits = model.grant(project, more, more, 0, false).is_some();
                    prop_assert_eq!(result.is_ok(), fits);
                    if fits {
                        let reserved = &mut model.counts[project][0].reserved;
                        *reserved = *reserved - old + blocks;
                        holds[project] = blocks;
                    }
                }
                Step::SetUsed { project, blocks, inodes } => {
                    accounts[project].set_used(blocks * BLOCK_BYTES, inodes);
                    model.counts[project][0].used = blocks;
                    model.counts[project][1].used = inodes;
                }
                Step::Limit { scope, hard_blocks, hard_inodes, headroom_blocks } => {
                    let limits = Limits {
                        bytes: Bounds { soft: None, hard: hard_blocks.map(|blocks| blocks * BLOCK_BYTES) },
                        inodes: Bounds { soft: None, hard: hard_inodes },
                        headroom_bytes: Some(headroom_blocks * BLOCK_BYTES),
                        ..Limits::default()
                    };
                    ledger.set_limits(&scopes()[scope], Some(limits), start());
                    model.bounds[scope] = [
                        Bound { hard: hard_blocks, headroom: headroom_blocks.min(hard_blocks.unwrap_or(0)) },
                        Bound { hard: hard_inodes, headroom: hard_inodes.unwrap_or(0) / 10 },
                    ];
                }
            }
            check(&ledger, &model)?;
        }
        drop(open);
        for (project, hold) in holds.into_iter().enumerate() {
            accounts[project].adjust_hold(hold * BLOCK_BYTES, 0, LARGE).unwrap();
        }
        prop_assert!(ledger.report().iter().all(|state| state.bytes.reserved + state.inodes.reserved == 0));
        drop(accounts);
        prop_assert!(ledger.report().is_empty());
    }
}
