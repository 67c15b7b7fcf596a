//! What can be cleaned up, as data: caches that programs fill again by themselves, and leftovers.
//!
//! A rule names directories by the end of their path, or files by their name, and how long nothing in them may
//! have changed. It never looks into a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use wsguard_api::{CleanRule, FileKind};

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// How people and programs name it; never changed.
    pub(super) id: &'static str,
    /// What it finds.
    pub(super) title: &'static str,
    /// Why that can go.
    pub(super) why: &'static str,
    pub(super) finds: Finds,
    /// Nothing in it has changed for so long.
    pub(super) idle_hours: i64,
}

/// What a rule looks for.
#[derive(Debug)]
pub(super) enum Finds {
    /// Directories whose path ends like one of these.
    Directories(&'static [&'static [&'static str]]),
    /// Files of a kind with one of these extensions, or any name if there are none.
    Files(FileKind, &'static [&'static str]),
}

/// All rules. The first that matches a path names it.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "python-bytecode",
        title: "compiled Python files",
        why: "Python writes them again when it imports a module",
        finds: Finds::Directories(&[&["__pycache__"]]),
        idle_hours: 0,
    },
    Rule {
        id: "pip-cache",
        title: "package caches of pip and uv",
        why: "they are downloaded again when they are needed",
        finds: Finds::Directories(&[&[".cache", "pip"], &[".cache", "uv"]]),
        idle_hours: 1,
    },
    Rule {
        id: "conda-packages",
        title: "package caches of conda",
        why: "environments keep working; packages are downloaded again for new ones",
        finds: Finds::Directories(&[
            &[".conda", "pkgs"],
            &["conda", "pkgs"],
            &["miniconda3", "pkgs"],
            &["anaconda3", "pkgs"],
            &["miniforge3", "pkgs"],
            &["mambaforge", "pkgs"],
        ]),
        idle_hours: 1,
    },
    Rule {
        id: "huggingface-cache",
        title: "downloads of Hugging Face",
        why: "models and data sets are downloaded again when they are used",
        finds: Finds::Directories(&[&[".cache", "huggingface"]]),
        idle_hours: 24,
    },
    Rule {
        id: "torch-hub-cache",
        title: "downloads of torch hub",
        why: "models are downloaded again when they are used",
        finds: Finds::Directories(&[&[".cache", "torch"]]),
        idle_hours: 24,
    },
    Rule {
        id: "kernel-cache",
        title: "compiled GPU kernels",
        why: "they are compiled again when a program needs them",
        finds: Finds::Directories(&[
            &[".triton", "cache"],
            &[".nv", "ComputeCache"],
            &[".cache", "torch_extensions"],
        ]),
        idle_hours: 24,
    },
    Rule {
        id: "tool-cache",
        title: "caches of test and lint tools",
        why: "the tools write them again when they run",
        finds: Finds::Directories(&[
            &[".pytest_cache"],
            &[".mypy_cache"],
            &[".ruff_cache"],
            &[".cache", "matplotlib"],
        ]),
        idle_hours: 1,
    },
    Rule {
        id: "notebook-checkpoints",
        title: "saved states of notebooks",
        why: "copies that Jupyter made when the notebook itself was saved",
        finds: Finds::Directories(&[&[".ipynb_checkpoints"]]),
        idle_hours: 24,
    },
    Rule {
        id: "torn-leftovers",
        title: "temporary and partial files",
        why: "their writer has gone without finishing them: nobody has them open for writing",
        finds: Finds::Files(FileKind::Temporary, &[]),
        idle_hours: 24,
    },
    Rule {
        id: "old-logs",
        title: "logs that nobody has written to for 30 days",
        why: "TensorBoard's event files are not among them",
        finds: Finds::Files(FileKind::Log, &["log", "out", "err"]),
        idle_hours: 30 * 24,
    },
];

impl Rule {
    /// Returns what clients are told of it.
    pub(super) fn wire(&self) -> CleanRule {
        CleanRule {
            id: self.id.to_owned(),
            title: self.title.to_owned(),
            why: self.why.to_owned(),
            idle_hours: u64::try_from(self.idle_hours).unwrap_or(0),
        }
    }
}

/// Returns 1 if a directory of that name may match a rule, else 0: such directories are found without a search.
pub(super) fn marker(name: &OsStr) -> i64 {
    let is_marked = RULES.iter().any(|rule| match rule.finds {
        Finds::Directories(ends) => {
            ends.iter().any(|end| end.last().is_some_and(|last| last.as_bytes() == name.as_bytes()))
        }
        Finds::Files(..) => false,
    });
    i64::from(is_marked)
}

/// Returns the rule that a directory's path matches.
pub(super) fn of_directory(path: &Path) -> Option<&'static Rule> {
    RULES.iter().find(|rule| match rule.finds {
        Finds::Directories(ends) => ends.iter().any(|end| ends_with(path, end)),
        Finds::Files(..) => false,
    })
}

/// Returns the rule that a file's kind and name match.
pub(super) fn of_file(kind: FileKind, name: &OsStr) -> Option<&'static Rule> {
    RULES.iter().find(|rule| match rule.finds {
        Finds::Directories(_) => false,
        Finds::Files(wanted, extensions) => {
            wanted == kind && (extensions.is_empty() || has_extension(name, extensions))
        }
    })
}

/// Whether the last components are these, all of them.
fn ends_with(path: &Path, end: &[&str]) -> bool {
    let mut components = path.components().rev();
    end.iter().rev().all(|wanted| match components.next() {
        Some(Component::Normal(name)) => name.as_bytes() == wanted.as_bytes(),
        _ => false,
    })
}

/// `train.log` and `train.log.3`, not `events.out.tfevents.1`.
fn has_extension(name: &OsStr, extensions: &[&str]) -> bool {
    let mut parts =
        name.as_bytes().rsplit(|byte| *byte == b'.').filter(|part| !part.iter().all(u8::is_ascii_digit));
    let last = parts.next().unwrap_or_default();
    extensions.iter().any(|extension| extension.as_bytes().eq_ignore_ascii_case(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::kind;

    fn directory(path: &str) -> Option<&'static str> {
        of_directory(Path::new(path)).map(|rule| rule.id)
    }

    fn file(name: &str) -> Option<&'static str> {
        of_file(kind::of_name(OsStr::new(name)), OsStr::new(name)).map(|rule| rule.id)
    }

    #[test]
    fn directories_match_by_whole_components_at_the_end() {
        assert_eq!(directory("src/__pycache__"), Some("python-bytecode"));
        assert_eq!(directory("home/.cache/pip"), Some("pip-cache"));
        assert_eq!(directory(".cache/huggingface"), Some("huggingface-cache"));
        assert_eq!(directory("pip"), None);
        assert_eq!(directory("my.cache/pip"), None);
        assert_eq!(directory(".cache/pip/http"), None);
        assert_eq!(directory("src/pkgs"), None);
    }

    #[test]
    fn every_directory_rule_is_marked() {
        for rule in RULES {
            if let Finds::Directories(ends) = rule.finds {
                for end in ends {
                    assert_eq!(marker(OsStr::new(end.last().unwrap())), 1, "{end:?}");
                }
            }
        }
        assert_eq!(marker(OsStr::new("src")), 0);
    }

    #[test]
    fn training_curves_and_results_are_never_leftovers() {
        assert_eq!(file("train.log"), Some("old-logs"));
        assert_eq!(file("train.log.2"), Some("old-logs"));
        assert_eq!(file("events.out.tfevents.17.host.1"), None);
        assert_eq!(file("model.pt"), None);
        assert_eq!(file("model.pt.tmp"), Some("torn-leftovers"));
        assert_eq!(file("data.part"), Some("torn-leftovers"));
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), RULES.len());
    }
}
