//! Keeps `fs/doc/SEMANTICS.md` honest: each deviation names the tests that prove it, and they exist.

use std::{fs, path::Path};

const DOCUMENT: &str = "fs/doc/SEMANTICS.md";
/// The chapters whose paragraphs must each name a test.
const PROVEN: [&str; 4] = ["\n## Deviations\n", "\n## Ownership\n", "\n## Quota\n", "\n## Write tracking\n"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The test names on a line, between backquotes: those of a `Test:` line and of the last column of the operations' table.
fn names_in(line: &str) -> Vec<&str> {
    let names = line.split('`').skip(1).step_by(2);
    if line.starts_with("Test: ") {
        return names.collect();
    }
    names.filter(|name| name.starts_with("semantics::")).collect()
}

/// Whether `semantics::links::hard_links_share_one_inode` is a function of `tests/semantics/links.rs`, or a function that
/// the matrix turns into tests.
fn exists(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [modules @ .., function] = &parts[..] else { return false };
    let mut file = root().join("tests").join(modules.join("/"));
    file.set_extension("rs");
    fs::read_to_string(file).is_ok_and(|source| source.contains(&format!("fn {function}(")))
}

#[test]
fn semantics_doc_names_existing_tests() {
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let names: Vec<&str> = text.lines().flat_map(names_in).collect();
    assert!(names.len() > 10, "{DOCUMENT} names only {} tests", names.len());
    let missing: Vec<&str> = names.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{DOCUMENT} names tests that do not exist: {missing:?}");
}

#[test]
fn every_deviation_has_a_test() {
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let paragraphs = PROVEN.iter().flat_map(|chapter| {
        let (_, rest) = text.split_once(chapter).unwrap();
        rest.split("\n## ").next().unwrap().split("### ").skip(1)
    });
    let untested: Vec<&str> = paragraphs
        .filter(|paragraph| !paragraph.lines().any(|line| line.starts_with("Test: `")))
        .map(|paragraph| paragraph.lines().next().unwrap())
        .collect();
    assert!(untested.is_empty(), "deviations without a test: {untested:?}");
}
