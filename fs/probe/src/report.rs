//! What a probe of one file finds, and how it becomes a verdict.

use std::collections::BTreeMap;

use crate::coverage::{Coverage, Written};
use crate::evidence::Evidence;
use crate::format::Format;
use crate::source::FirstHole;
use crate::verdict::State;
use crate::window::{Check, Window};

/// What a file says about the training that wrote it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Optimizer steps done.
    pub step: Option<u64>,
    /// Epochs done.
    pub epoch: Option<u64>,
    /// Metrics by name. Never NaN.
    pub metrics: BTreeMap<String, f64>,
    /// Where the framework says its best checkpoint is; as written, maybe absolute.
    pub best: Option<String>,
    /// The program that wrote it, with its version.
    pub producer: Option<String>,
}

/// Another file that this one cannot be used without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Relative to the directory of the file, plain names only.
    pub path: String,
    /// How many bytes it has at least.
    pub at_least: u64,
}

/// The verdict on one file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileReport {
    /// What kind of file it is.
    pub format: Format,
    /// The verdict. Files in `needs` are not part of it.
    pub state: State,
    /// Why.
    pub evidence: Vec<Evidence>,
    /// Size in bytes that the header promises, where it does.
    pub expected_bytes: Option<u64>,
    /// The size in bytes when it was looked at.
    pub size: u64,
    /// What it says about the training.
    pub facts: Facts,
    /// Files it cannot be used without, sorted, no name twice.
    pub needs: Vec<Need>,
}

/// What a reader of one format collects on its way.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) expected: Option<u64>,
    pub(crate) facts: Facts,
    pub(crate) needs: BTreeMap<String, u64>,
    /// The format may leave bytes unwritten, so a hole says nothing.
    pub(crate) may_have_holes: bool,
}

impl Findings {
    pub(crate) fn note(&mut self, evidence: Evidence) {
        self.evidence.push(evidence);
    }

    pub(crate) fn need(&mut self, path: &str, at_least: u64) {
        let known = self.needs.entry(path.to_owned()).or_default();
        *known = at_least.max(*known);
    }

    pub(crate) fn metric(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.facts.metrics.insert(name.to_owned(), value);
        }
    }

    /// Combines what the structure says with what is known about the writing.
    pub(crate) fn judge(
        mut self,
        format: Format,
        structure: Check<()>,
        window: &Window<'_>,
        coverage: Coverage,
    ) -> FileReport {
        let mut state = State::Complete;
        if let Err(flaw) = structure {
            state = flaw.state;
            self.evidence.push(flaw.evidence);
        }
        let size = window.size();
        match coverage.written {
            Written::Full => self.evidence.push(Evidence::Covered),
            Written::Holes(offset) => {
                self.evidence.push(Evidence::Unwritten { offset });
                state = state.and(State::Torn);
            }
            Written::Unknown if self.may_have_holes => {}
            Written::Unknown => {
                if let FirstHole::At(offset) = window.first_hole(0, size) {
                    self.evidence.push(Evidence::Hole { offset });
                    state = state.and(State::Unknown);
                }
            }
        }
        if let Some(fsynced) = coverage.fsynced {
            self.evidence.push(Evidence::Fsynced(fsynced));
        }
        if coverage.open_writers > 0 {
            self.evidence.push(Evidence::Writers { count: coverage.open_writers });
            state = State::InProgress;
        }
        let needs = self.needs.into_iter().map(|(path, at_least)| Need { path, at_least }).collect();
        let (evidence, expected, facts) = (self.evidence, self.expected, self.facts);
        FileReport { format, state, evidence, expected_bytes: expected, size, facts, needs }
    }
}
