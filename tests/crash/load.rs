//! Programs at work on the mount.

mod appends;
mod databases;
mod descriptors;
mod listings;
mod mappings;
mod names;
mod programs;
mod records;
mod sizes;
mod transfers;
mod unlinked;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

pub(crate) use self::listings::make_listed_files;
use super::ground::Ground;

/// Works until it is told to end, then checks what it has left; panics when it finds fault.
type Body = fn(&Work);

/// Every program with its name, which is also its directory's.
const PROGRAMS: &[(&str, Body)] = &[
    ("records-1", records::acknowledged_records_stay),
    ("records-2", records::acknowledged_records_stay),
    ("transfers", transfers::megabytes_come_back_as_written),
    ("appends", appends::each_line_is_there_once),
    ("names-1", names::each_step_happens_once),
    ("names-2", names::each_step_happens_once),
    ("sizes", sizes::file_is_as_its_model),
    ("mappings", mappings::stores_are_seen),
    ("databases", databases::committed_rows_stay),
    ("programs", programs::binary_runs),
    ("listings", listings::each_name_comes_once),
    ("unlinked", unlinked::deleted_files_work_on),
    ("descriptors", descriptors::open_files_stay_open),
];

/// What one program works with.
pub(crate) struct Work {
    /// Its directory on the mount.
    pub(crate) mounted: PathBuf,
    /// The same below the mount.
    pub(crate) backing: PathBuf,
    /// A directory elsewhere.
    pub(crate) outside: PathBuf,
    /// A number of its own.
    pub(crate) seed: u64,
    must_end: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
}

impl Work {
    /// Whether the program has to go on; each call counts as one step.
    pub(crate) fn goes_on(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.must_end.load(Ordering::Relaxed)
    }

    /// The same file through the mount and below it.
    pub(crate) fn both(&self, name: &str) -> [PathBuf; 2] {
        [self.mounted.join(name), self.backing.join(name)]
    }
}

/// The value of a call that must not fail.
#[track_caller]
pub(crate) fn ok<T, E: Display>(what: impl Display, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// All programs, running.
pub(crate) struct Load {
    must_end: Arc<AtomicBool>,
    programs: Vec<Program>,
}

struct Program {
    name: &'static str,
    steps: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(ground: &Ground) -> Self {
        let must_end = Arc::new(AtomicBool::new(false));
        let programs = PROGRAMS.iter().zip(1..).map(|((name, program), seed)| {
            let (mounted, backing, outside) = ground.dirs(name);
            let steps = Arc::new(AtomicU64::new(0));
            let work =
                Work { mounted, backing, outside, seed, must_end: must_end.clone(), steps: steps.clone() };
            let thread = thread::Builder::new().name((*name).into()).spawn(move || program(&work)).unwrap();
            Program { name, steps, thread }
        });
        Self { programs: programs.collect(), must_end }
    }

    /// Whether a program has failed; they all run until they are told to end.
    pub(crate) fn has_failed(&self) -> bool {
        self.programs.iter().any(|program| program.thread.is_finished())
    }

    /// Lets the programs end and check what they have left; fails if one of them found fault.
    pub(crate) fn finish(mut self) -> String {
        self.must_end.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        let mut steps = Vec::new();
        for program in self.programs.drain(..) {
            steps.push(format!("{} {}", program.name, program.steps.load(Ordering::Relaxed)));
            if let Err(panic) = program.thread.join() {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                failures.push(format!("{}: {}", program.name, text.unwrap_or_default()));
            }
        }
        assert!(failures.is_empty(), "application errors:\n{}", failures.join("\n"));
        steps.join(", ")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.must_end.store(true, Ordering::Relaxed);
        for program in self.programs.drain(..) {
            // Only after a failure elsewhere, which is what the test reports.
            drop(program.thread.join());
        }
    }
}

/// Panics with the first place at which two byte strings differ.
#[track_caller]
pub(crate) fn assert_same(path: &Path, found: &[u8], expected: &[u8]) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert!(
        differs.is_none() && found.len() == expected.len(),
        "{}: {} bytes for {}, the first difference at {differs:?}",
        path.display(),
        found.len(),
        expected.len()
    );
}
