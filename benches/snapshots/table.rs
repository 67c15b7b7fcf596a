//! The numbers as a table and as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

const MARKS: [&str; 2] = ["<!-- snapshots: begin -->", "<!-- snapshots: end -->"];

/// One number, with what it is compared with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// What was done.
    pub(crate) what: String,
    /// Of what the numbers are: µs, ms, s, MB/s.
    pub(crate) unit: &'static str,
    /// With history.
    pub(crate) with: f64,
    /// Without, where that can be done.
    pub(crate) without: Option<f64>,
    /// The median of the rounds' ratios, where both were measured in rounds.
    pub(crate) ratio: Option<f64>,
    /// What else there is to say.
    pub(crate) note: String,
}

impl Measured {
    /// A number that stands alone.
    pub(crate) fn alone(
        what: impl Into<String>,
        unit: &'static str,
        with: f64,
        note: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), unit, with, without: None, ratio: None, note: note.into() }
    }
}

/// How the table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// For a terminal.
    Terminal,
    /// For a README.
    Markdown,
}

pub(crate) fn render(all: &[Measured], style: Style) -> String {
    let mut table = Table::new();
    table.load_style(if style == Style::Markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    table.set_header(["workload", "with history", "without", "times as long", ""]);
    for row in all {
        let number = |value: f64| {
            let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
            format!("{value:.digits$} {}", row.unit)
        };
        table.add_row([
            row.what.clone(),
            number(row.with),
            row.without.map(number).unwrap_or_default(),
            row.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            row.note.clone(),
        ]);
    }
    format!("{table}\n")
}

pub(crate) fn write_json(all: &[Measured], path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_string_pretty(all)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {path:?}"))
}

/// Replaces what is between the marks.
pub(crate) fn update(path: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin).with_context(|| format!("{path:?} has no {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{path:?} has no {end}"))?;
    Ok(fs::write(path, format!("{before}{begin}\n{table}{end}{after}"))?)
}
