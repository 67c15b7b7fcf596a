//! A run's numbers: as they are kept in JSON, and what follows from them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    measure::{Measurement, Unit, median},
    row::{Goal, Row, Section},
    variant::{BARE, NATIVE, WSGUARD},
};

/// A peer counts as faster only beyond this factor: two runs of the same thing differ as much.
const NOISE: f64 = 1.05;

/// One run of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Of this format.
    pub(crate) schema: u32,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// How often each row ran.
    pub(crate) rounds: u32,
    /// It ran at the scale that means little.
    pub(crate) quick: bool,
    /// In the order of the columns, native first.
    pub(crate) variants: Vec<VariantInfo>,
    /// In the order of the catalog.
    pub(crate) rows: Vec<RowResults>,
    /// Runs that ended in an error instead of a number.
    pub(crate) failures: Vec<Failure>,
}

/// What a column is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VariantInfo {
    /// Its name.
    pub(crate) name: String,
    /// What was measured, in one line.
    pub(crate) version: String,
}

/// A run that ended in an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Whose.
    pub(crate) variant: String,
    /// In which row.
    pub(crate) row: String,
    /// In which round, from 0.
    pub(crate) round: u32,
    /// What happened.
    pub(crate) message: String,
}

/// All numbers of a row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowResults {
    /// For `--only`.
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    /// Its heading.
    pub(crate) section: Section,
    /// Of all its numbers.
    pub(crate) unit: Unit,
    /// What wsguard is to reach.
    pub(crate) goal: Option<Goal>,
    /// By variant, then by round from 0.
    pub(crate) runs: BTreeMap<String, BTreeMap<u32, Measurement>>,
}

/// One variant's numbers of one row in one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// The median over the rounds.
    pub(crate) value: f64,
    /// The median over the rounds of each round's 99th percentile, microseconds.
    pub(crate) p99: Option<f64>,
    /// The median of the ratios to native in the same round; more than 1 is faster.
    pub(crate) ratio: Option<f64>,
    /// In how many rounds it ran.
    pub(crate) rounds: usize,
}

impl RowResults {
    /// An empty row.
    pub(crate) fn new(row: &Row) -> Self {
        let (name, title) = (row.name.clone(), row.title.clone());
        Self { name, title, section: row.section, unit: row.unit, goal: row.goal, runs: BTreeMap::new() }
    }

    /// Returns the variant's numbers, if it has any in this row.
    pub(crate) fn cell(&self, variant: &str) -> Option<Cell> {
        let runs = self.runs.get(variant)?;
        let values: Vec<f64> = runs.values().map(|run| run.value).collect();
        let p99: Vec<f64> = runs.values().filter_map(|run| run.p99).collect();
        let ratios = self.paired(variant, |native, own| self.unit.ratio(native, own));
        Some(Cell { value: median(&values)?, p99: median(&p99), ratio: median(&ratios), rounds: runs.len() })
    }

    /// Returns how many times longer than without quota and history a row takes with them, one number for each round
    /// that has both, ascending.
    pub(crate) fn costs(&self) -> Vec<f64> {
        let (Some(with), Some(without)) = (self.runs.get(WSGUARD), self.runs.get(BARE)) else {
            return Vec::new();
        };
        let cost = |(round, run): (&u32, &Measurement)| {
            Some(1.0 / self.unit.ratio(without.get(round)?.value, run.value))
        };
        let mut costs: Vec<f64> = with.iter().filter_map(cost).collect();
        costs.sort_unstable_by(f64::total_cmp);
        costs
    }

    /// Combines the variant's number with native's of the same round.
    fn paired(&self, variant: &str, combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let (Some(native), Some(own)) = (self.runs.get(NATIVE), self.runs.get(variant)) else {
            return Vec::new();
        };
        own.iter().filter_map(|(round, run)| Some(combine(native.get(round)?.value, run.value))).collect()
    }

    /// Returns whether wsguard reaches the goal; `None` without a goal or a number.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let cell = self.cell(WSGUARD)?;
        match self.goal? {
            // Compared as shown: 0.966 is 0.97 to the reader.
            Goal::Ratio(goal) => Some((cell.ratio? * 100.0).round() / 100.0 >= goal),
            Goal::Micros(goal) => Some(cell.value <= goal),
            Goal::MicrosAboveNative(goal) => {
                Some(median(&self.paired(WSGUARD, |native, own| own - native))? <= goal)
            }
        }
    }

    /// Returns the goal as a ratio to native's median of this run, to be drawn beside ratios.
    pub(crate) fn goal_ratio(&self) -> Option<f64> {
        match self.goal? {
            Goal::Ratio(goal) => Some(goal),
            Goal::Micros(goal) => Some(self.cell(NATIVE)?.value / goal),
            Goal::MicrosAboveNative(goal) => {
                let native = self.cell(NATIVE)?.value;
                Some(native / (native + goal))
            }
        }
    }

    /// Returns the peers that are faster than wsguard by more than noise.
    pub(crate) fn faster_peers<'a>(&self, variants: &'a [VariantInfo]) -> Vec<&'a str> {
        let Some(own) = self.cell(WSGUARD).and_then(|cell| cell.ratio) else { return Vec::new() };
        let peers = variants
            .iter()
            .map(|variant| variant.name.as_str())
            .filter(|name| ![NATIVE, WSGUARD, BARE].contains(name));
        peers
            .filter(|name| {
                self.cell(name).and_then(|cell| cell.ratio).is_some_and(|ratio| ratio > own * NOISE)
            })
            .collect()
    }
}

impl Results {
    /// The format written now.
    pub(crate) const SCHEMA: u32 = 1;

    /// Reads a file that [`Self::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {path:?}"))
    }

    /// Writes all numbers; a reader never sees half of them.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("json.tmp");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&temporary, text).with_context(|| format!("cannot write {temporary:?}"))?;
        fs::rename(&temporary, path).with_context(|| format!("cannot write {path:?}"))
    }
}
