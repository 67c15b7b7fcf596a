use std::{
    fs::{self, File},
    path::Path,
};

use super::{Work, ok};
use crate::random::Random;

const FILES: usize = 20_000;
/// Where they lie; a program finds it from its own directory.
const DIR: &str = "listed";

/// Makes the files that will be listed; faster before the mount.
pub(crate) fn make_listed_files(root: &Path) {
    let dir = root.join(DIR);
    fs::create_dir(&dir).unwrap();
    for number in 0..FILES {
        File::create(dir.join(format!("file-{number:05}"))).unwrap();
    }
}

/// Lists a directory that is too large for one answer: each name comes once.
pub(super) fn each_name_comes_once(work: &Work) {
    let dir = work.mounted.with_file_name(DIR);
    let expected: Vec<String> = (0..FILES).map(|number| format!("file-{number:05}")).collect();
    let mut random = Random::new(work.seed);
    while work.goes_on() {
        // Another name makes the kernel ask again instead of showing what it has.
        let other = dir.join("other");
        ok("create", File::create(&other));
        ok("unlink", fs::remove_file(&other));
        let entries = ok("list", fs::read_dir(&dir));
        // A program that looks at what it lists makes the kernel ask for names and attributes at once.
        let with_attributes = random.below(2) == 0;
        let mut names: Vec<String> = entries
            .map(|entry| {
                let entry = ok("list on", entry);
                if with_attributes && random.below(8) == 0 {
                    assert!(ok("stat", entry.metadata()).is_file());
                }
                entry.file_name().into_string().unwrap()
            })
            .collect();
        names.sort_unstable();
        let differs = names.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert!(
            names.len() == FILES && differs.is_none(),
            "{} names, the first wrong one: {differs:?}",
            names.len()
        );
    }
}
