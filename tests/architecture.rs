//! The direction of dependencies, kept by reading the sources.
//!
//! A failing test here names the file and the line; the tables below are the architecture.

use std::path::{Path, PathBuf};

/// Which part of the tree may import a foreign crate. A crate that is not listed may be used anywhere.
const IMPORTERS: &[(&str, &[&str])] = &[
    ("fuser", &["fs/src/fuse.rs", "fs/src/fuse/", "fs/src/session.rs"]),
    ("notify", &["fs/src/roots_watch.rs"]),
    (
        "rusqlite",
        &[
            "fs/src/catalog.rs",
            "fs/src/catalog/",
            "fs/src/tracker/history.rs",
            "fs/src/tracker/history/",
            "fs/src/usage/",
            "fs/src/snapshot/catalog.rs",
            "fs/src/snapshot/catalog/",
        ],
    ),
    ("lettre", &["fs/src/delivery/mail.rs"]),
    ("uzers", &["fs/src/delivery/mail.rs", "cli/src/users.rs"]),
    ("ureq", &["fs/src/delivery/webhook.rs"]),
    ("hmac", &["fs/src/delivery/webhook.rs"]),
    ("sha2", &["fs/src/delivery/webhook.rs"]),
    ("prometheus_client", &["fs/src/control/metrics.rs"]),
    ("sd_notify", &["fs/src/daemon/keeper/fd_store.rs"]),
    ("postcard", &["fs/src/snapshot/record.rs"]),
    ("range_set_blaze", &["fs/src/snapshot/"]),
    ("axum", &["fs/src/control.rs", "fs/src/control/"]),
    ("tar", &["fs/src/restore/stream.rs"]),
    ("flate2", &["fs/probe/src/inflate.rs"]),
    ("indicatif", &["cli/src/commands/restore/"]),
    ("ratatui", &["cli/src/browse/"]),
    ("similar", &["cli/src/browse/content.rs"]),
    ("clap", &["cli/src/"]),
    ("comfy_table", &["cli/src/output.rs", "cli/src/output/"]),
    ("hyper", &["cli/src/client.rs", "cli/src/client/", "fs/src/control.rs", "fs/src/control/"]),
    ("bollard", &["cli/src/docker.rs", "cli/src/docker/"]),
    ("xxhash_rust", &["fs/src/usage/"]),
    ("wsguard_fs", &["cli/src/commands/daemon.rs"]),
];

/// Modules of `fs/src`, lower ones first: a module may use only those in earlier rows. Modules of one row do not
/// know each other unless the second column says so.
const LAYERS: &[(&[&str], Peers)] = &[
    (
        &[
            "accounting",
            "error_chain",
            "events",
            "fail_point",
            "sys",
            "config",
            "catalog",
            "policy",
            "keeper_link",
            "processes",
            "roots_watch",
        ],
        Peers::Strangers,
    ),
    (&["state", "kernel_quota"], Peers::Strangers),
    (&["backing", "inode", "handle", "journal", "quota", "tracker", "watcher"], Peers::Strangers),
    (&["snapshot", "usage"], Peers::Strangers),
    (&["fs"], Peers::Strangers),
    (&["fuse"], Peers::Strangers),
    (&["session"], Peers::Strangers),
    (&["restore"], Peers::Strangers),
    (&["mounting", "mount_users", "changed_outside", "rebind", "delivery"], Peers::Acquainted),
    (&["workspaces"], Peers::Strangers),
    (&["control"], Peers::Strangers),
    (&["daemon"], Peers::Strangers),
];

#[derive(PartialEq, Eq)]
enum Peers {
    Strangers,
    Acquainted,
}

/// Longest source file; beyond it a file has two nouns.
const MAX_LINES: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust source of the product with its path relative to the repository, tests of the parts excluded.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> =
        ["fs/src", "fs/api/src", "fs/probe/src", "cli/src"].map(|dir| root().join(dir)).into();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).expect("source directory exists") {
            let path = entry.expect("directory can be read").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source is UTF-8");
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, text));
            }
        }
    }
    found
}

/// Lines of code with their numbers: no comments, nothing after the in-file tests begin.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]") || line.contains("use "))
        .map(|(number, line)| (number + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn mentions(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let is_word_start = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let after = line[start + path.len()..].chars().next();
        is_word_start && after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

#[test]
fn every_foreign_crate_has_one_importer() {
    let mut violations = Vec::new();
    for (file, text) in sources() {
        for (name, allowed) in IMPORTERS {
            if allowed.iter().any(|prefix| file.starts_with(prefix)) {
                continue;
            }
            let uses = code_lines(&text).filter(|(_, line)| {
                mentions(line, &format!("{name}::")[..name.len()]) && line.contains(&format!("{name}::"))
            });
            violations.extend(uses.map(|(number, line)| format!("{file}:{number}: {}", line.trim())));
        }
    }
    assert!(violations.is_empty(), "crates used outside their importer:\n{}", violations.join("\n"));
}

#[test]
fn modules_of_the_daemon_depend_downwards_only() {
    let layer_of = |module: &str| LAYERS.iter().position(|(modules, _)| modules.contains(&module));
    let mut violations = Vec::new();
    for (file, text) in sources() {
        let Some(rest) = file.strip_prefix("fs/src/") else { continue };
        let module = rest.split(['/', '.']).next().unwrap_or_default();
        if module == "lib" {
            continue;
        }
        let own =
            layer_of(module).unwrap_or_else(|| panic!("{file}: module `{module}` is missing from LAYERS"));
        for (number, line) in code_lines(&text) {
            for (layer, (modules, peers)) in LAYERS.iter().enumerate() {
                for other in modules.iter().filter(|other| **other != module) {
                    let is_allowed = layer < own || (layer == own && *peers == Peers::Acquainted);
                    if !is_allowed && mentions(line, &format!("crate::{other}")) {
                        violations.push(format!("{file}:{number}: {}", line.trim()));
                    }
                }
            }
        }
    }
    assert!(violations.is_empty(), "upward dependencies:\n{}", violations.join("\n"));
}

#[test]
fn unsafe_code_lives_in_sys_modules_only() {
    let mut violations = Vec::new();
    for (file, text) in sources() {
        let is_sys = file.contains("/sys/") || file.ends_with("/sys.rs");
        for (number, line) in code_lines(&text) {
            let is_unsafe = mentions(line, "unsafe");
            if is_unsafe && !is_sys {
                violations.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(violations.is_empty(), "unsafe outside sys modules:\n{}", violations.join("\n"));
}

#[test]
fn files_have_one_noun() {
    let mut violations = Vec::new();
    for (file, text) in sources() {
        if file.ends_with("/mod.rs") {
            violations.push(format!("{file}: use foo.rs beside foo/"));
        }
        let lines = code_lines(&text).last().map_or(0, |(number, _)| number);
        if lines > MAX_LINES {
            violations.push(format!("{file}: {lines} lines"));
        }
    }
    assert!(violations.is_empty(), "files to split:\n{}", violations.join("\n"));
}

#[test]
fn top_level_holds_what_the_design_names() {
    const ALLOWED: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "fs",
        "cli",
        "tests",
        "benches",
    ];
    let ignored = std::fs::read_to_string(root().join(".gitignore")).expect("what git ignores is listed");
    let is_ignored = |name: &str| ignored.lines().any(|line| line.strip_prefix('/') == Some(name));
    let extra: Vec<String> = std::fs::read_dir(root())
        .expect("repository root exists")
        .map(|entry| entry.expect("root can be read").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !ALLOWED.contains(&name.as_str()) && !is_ignored(name))
        .collect();
    assert!(extra.is_empty(), "unexpected at the top level: {extra:?}");
}

#[test]
fn mentions_finds_whole_path_segments() {
    assert!(mentions("use crate::fs::GuardFs;", "crate::fs"));
    assert!(!mentions("use crate::fs_extra::X;", "crate::fs"));
    assert!(!mentions("use other_crate::fs;", "crate::fs"));
}
