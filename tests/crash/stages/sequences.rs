//! Operations and deaths in any order.

use std::{cell::RefCell, fs, path::Path, time::Duration};

use harness::require;
use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    sample::{select, subsequence},
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::{
    operations::{CASES, Case, Observed},
    twin::{self, Twin},
};
use crate::ground::alone;

/// Sequences of `cargo test`; each takes two seconds.
const DEFAULT_SEQUENCES: u32 = 8;
const LONGEST_SEQUENCE: usize = 8;

/// A request is only suspected when it ended more workers than this.
const MOST_DEATHS: usize = 2;

/// Tidies nothing up between steps, so that they meet what earlier ones left.
#[derive(Clone, Debug)]
struct Step {
    case: usize,
    /// Which stages of the case end a worker, in order.
    stages: Vec<&'static str>,
}

fn steps() -> impl Strategy<Value = Step> {
    select((0..CASES.len()).collect::<Vec<_>>()).prop_flat_map(|case| {
        let stages = CASES[case].stages.to_vec();
        let most = MOST_DEATHS.min(stages.len());
        (subsequence(stages, 0..=most), any::<bool>()).prop_map(move |(mut stages, is_reversed)| {
            if is_reversed {
                stages.reverse();
            }
            Step { case, stages }
        })
    })
}

fn sequences() -> u32 {
    std::env::var("WSGUARD_SEQUENCES")
        .map_or(DEFAULT_SEQUENCES, |text| text.parse().expect("WSGUARD_SEQUENCES is a number"))
}

/// What earlier steps left is in the way of some cases; both sides must refuse them alike.
fn prepare(case: &'static Case) -> impl Fn(&Path) -> Observed {
    |dir| {
        drop(fs::remove_file(dir.join("new")));
        drop(fs::remove_dir(dir.join("new")));
        // A whiteout is a device, which opens differently on a mount without devices (SEMANTICS.md).
        if fs::symlink_metadata(dir.join("a")).is_ok_and(|stat| !stat.is_file()) {
            drop(fs::remove_file(dir.join("a")));
        }
        // Its outcome depends on what is there, and is compared.
        (case.prepare)(dir)
    }
}

fn run(twin: &mut Twin, steps: &[Step]) -> Result<(), String> {
    twin.fresh_tree();
    for (number, step) in steps.iter().enumerate() {
        let case = &CASES[step.case];
        let failed = |failure: String| format!("step {number}, {}, {:?}: {failure}", case.name, step.stages);
        twin.in_both(prepare(case)).map_err(failed)?;
        twin.arm(case.request, &step.stages);
        let result = twin.in_both(case.act);
        // A step that the kernel refuses by itself comes to no stage.
        twin.disarm(step.stages.len());
        result.and_then(|()| twin.compare()).map_err(failed)?;
    }
    Ok(())
}

#[test]
fn any_sequence_of_operations_and_deaths_is_as_without_deaths() {
    require!(fuse);
    if !twin::has_fail_points() {
        println!("SKIPPED: needs fail points, see tests/README.md");
        return;
    }
    let _alone = alone();
    let cases = sequences();
    let twin = RefCell::new(Twin::new(Duration::from_secs(120 + 30 * u64::from(cases))));
    let config = Config { cases, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&vec(steps(), 1..=LONGEST_SEQUENCE), |steps| {
        run(&mut twin.borrow_mut(), &steps).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    twin.into_inner().finish();
}
