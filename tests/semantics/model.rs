//! Random sequences of operations, applied to the workspace and to a plain directory of the same filesystem.
//!
//! Half of the sequences run as root, half as a user with a supplementary group. After each operation the result is
//! compared: return value or errno, data, attributes. After every fiftieth, and at the end, the whole tree.
//!
//! `WSGUARD_SEQUENCES=10000 cargo test --test semantics model` runs more sequences than the default; a failing one is
//! shrunk, printed, and kept in `tests/proptest-regressions`, with which every later run starts.

mod operation;
mod world;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use harness::as_user;
use proptest::{
    collection::vec,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};

use self::{
    operation::{Operation, operations},
    world::World,
};
use super::ground::{Ground, on_every_filesystem};

const DEFAULT_SEQUENCES: u32 = 60;
const LONGEST_SEQUENCE: usize = 150;
const TREE_INTERVAL: usize = 50;
const USER: u32 = 4001;
const EXTRA_GROUP: u32 = 4002;

fn sequences() -> u32 {
    match env::var("WSGUARD_SEQUENCES") {
        Ok(text) => text.parse().expect("WSGUARD_SEQUENCES is a number"),
        Err(_) => DEFAULT_SEQUENCES,
    }
}

/// Makes the directory of one sequence, so that neither an earlier one nor the shrinking leaves traces. One level down,
/// because a symbolic link to `../a` leads out of the tree.
fn fresh(root: &Path, number: u32) -> PathBuf {
    let path = root.join(format!("sequence-{number}/tree"));
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    path
}

/// Who runs a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Root,
    User,
}

impl Actor {
    /// Runs a part of a sequence with this actor's credentials.
    fn run<T: Send>(self, part: impl FnOnce() -> T + Send) -> T {
        match self {
            Actor::Root => part(),
            Actor::User => as_user(USER, USER, &[EXTRA_GROUP], part),
        }
    }
}

fn run_sequence(
    guarded: &mut World,
    plain: &mut World,
    actor: Actor,
    operations: &[Operation],
) -> Result<(), TestCaseError> {
    for (part, operations) in operations.chunks(TREE_INTERVAL).enumerate() {
        let first = part * TREE_INTERVAL;
        actor.run(|| run_part(guarded, plain, first, operations))?;
        compare_trees(guarded, plain, first + operations.len())?;
    }
    Ok(())
}

fn run_part(
    guarded: &mut World,
    plain: &mut World,
    first: usize,
    operations: &[Operation],
) -> Result<(), TestCaseError> {
    for (step, operation) in operations.iter().enumerate() {
        let (found, expected) = (guarded.apply(operation), plain.apply(operation));
        if found != expected {
            let step = first + step;
            let text = format!(
                "step {step}, {operation:?}\n  through the mount: {found}\n  plain directory:   {expected}"
            );
            return Err(TestCaseError::fail(text));
        }
    }
    Ok(())
}

fn compare_trees(guarded: &World, plain: &World, steps: usize) -> Result<(), TestCaseError> {
    let (found, expected) = (guarded.tree(), plain.tree());
    let differences: Vec<String> = expected
        .iter()
        .filter(|line| !found.contains(*line))
        .map(|line| format!("  missing: {line}"))
        .chain(found.iter().filter(|line| !expected.contains(*line)).map(|line| format!("  extra:   {line}")))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("trees differ after {steps} steps\n{}", differences.join("\n"))))
}

fn random_operations_match_a_plain_directory(ground: &Ground) {
    let outside = ground.backing.parent().unwrap().join("model");
    fs::create_dir(&outside).unwrap();
    let config = Config {
        cases: sequences(),
        source_file: Some(file!()),
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let number = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(
            &(select(vec![Actor::Root, Actor::User]), vec(operations(), 1..LONGEST_SEQUENCE)),
            |(actor, operations)| {
                number.set(number.get() + 1);
                let guarded_root = fresh(&ground.mounted, number.get());
                let plain_root = fresh(&outside, number.get());
                let (mut guarded, mut plain) = (World::new(&guarded_root), World::new(&plain_root));
                run_sequence(&mut guarded, &mut plain, actor, &operations)?;
                fs::remove_dir_all(guarded_root.parent().unwrap()).unwrap();
                fs::remove_dir_all(plain_root.parent().unwrap()).unwrap();
                Ok(())
            },
        )
        .unwrap_or_else(|failure| panic!("{failure}"));
}

on_every_filesystem!(random_operations_match_a_plain_directory);
