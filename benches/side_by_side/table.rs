//! The results as text: a table for the terminal, the same as Markdown for the README.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};

use crate::{
    measure::{Unit, median},
    results::{Cell, Results, RowResults},
    variant::{BARE, NATIVE, WSGUARD},
};

/// Where the README's results begin and end.
const MARKS: [&str; 2] = ["<!-- results: begin -->", "<!-- results: end -->"];

/// How the table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// For a terminal.
    Terminal,
    /// For a README.
    Markdown,
}

/// Renders tables by section, then what fell short, and what failed.
pub(crate) fn render(results: &Results, style: Style) -> Result<String> {
    let mut text = format!("{}; medians of {} rounds", results.machine, results.rounds);
    text.push_str(if results.quick { "; quick scale, not comparable\n" } else { "\n" });
    let versions = results.variants.iter().filter(|variant| variant.name != NATIVE);
    let versions: Vec<_> = versions.map(|variant| format!("{} {}", variant.name, variant.version)).collect();
    writeln!(text, "\n{}", versions.join(", "))?;
    let mut rest = results.rows.as_slice();
    while let Some(first) = rest.first() {
        let len = rest.iter().take_while(|row| row.section == first.section).count();
        let (rows, after) = rest.split_at(len);
        rest = after;
        let heading = if style == Style::Markdown { "### " } else { "" };
        writeln!(text, "\n{heading}{}\n\n{}", first.section.title(), table(results, rows, style))?;
    }
    write_costs(&mut text, results, style)?;
    write_shortfalls(&mut text, results)?;
    Ok(text)
}

/// What quota and history cost, where both were measured.
fn write_costs(text: &mut String, results: &Results, style: Style) -> Result<()> {
    let mut table = empty_table(style);
    table.set_header(["workload", "with", "without", "times as long", "middle half of the rounds"]);
    let mut is_empty = true;
    for row in &results.rows {
        let costs = row.costs();
        let (Some(cost), Some(with), Some(without)) = (median(&costs), row.cell(WSGUARD), row.cell(BARE))
        else {
            continue;
        };
        is_empty = false;
        let quarter = |quarters: usize| costs.get(costs.len() * quarters / 4).copied().unwrap_or(cost);
        table.add_row([
            row.title.clone(),
            value_text(row.unit, Cell { p99: None, ..with }),
            value_text(row.unit, Cell { p99: None, ..without }),
            format!("{cost:.3}"),
            format!("{:.3} to {:.3}", quarter(1), quarter(3)),
        ]);
    }
    if !is_empty {
        let heading = if style == Style::Markdown { "### " } else { "" };
        writeln!(text, "\n{heading}Cost of quota and history\n\n{table}")?;
    }
    Ok(())
}

fn empty_table(style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(match style {
        Style::Terminal => presets::NOTHING,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table
}

fn table(results: &Results, rows: &[RowResults], style: Style) -> Table {
    let mut table = empty_table(style);
    let has_guard = results.variants.iter().any(|variant| variant.name == WSGUARD);
    let mut header = vec!["workload".to_owned()];
    for variant in &results.variants {
        header.push(variant.name.clone());
        if variant.name == WSGUARD {
            header.extend(["goal".to_owned(), "met".to_owned()]);
        }
    }
    if has_guard {
        header.push("faster than wsguard".to_owned());
    }
    table.set_header(header);
    for row in rows {
        let mut line = vec![row.title.clone()];
        for variant in &results.variants {
            line.push(cell_text(results, row, &variant.name));
            if variant.name == WSGUARD {
                line.push(row.goal.map_or("–".to_owned(), |goal| goal.to_string()));
                line.push(row.is_met().map_or("–", |met| if met { "yes" } else { "no" }).to_owned());
            }
        }
        if has_guard {
            let faster = row.faster_peers(&results.variants).join(", ");
            line.push(if faster.is_empty() { "–".to_owned() } else { faster });
        }
        table.add_row(line);
    }
    table
}

fn cell_text(results: &Results, row: &RowResults, variant: &str) -> String {
    let Some(cell) = row.cell(variant) else {
        let has_failed =
            results.failures.iter().any(|failure| failure.row == row.name && failure.variant == variant);
        return if has_failed { "failed" } else { "–" }.to_owned();
    };
    // A peer's 99th percentile is in the JSON only: the table has to fit a screen.
    let p99 = if [NATIVE, WSGUARD].contains(&variant) { cell.p99 } else { None };
    let value = value_text(row.unit, Cell { p99, ..cell });
    let repeats =
        if cell.rounds < results.rounds as usize { format!(" [{}×]", cell.rounds) } else { String::new() };
    match cell.ratio {
        Some(ratio) if variant != NATIVE => format!("{} ({value}){repeats}", ratio_text(ratio)),
        _ => format!("{value}{repeats}"),
    }
}

/// Two decimals, three where two would say little.
pub(crate) fn ratio_text(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

fn value_text(unit: Unit, cell: Cell) -> String {
    match (unit, cell.p99) {
        (Unit::MegabytesPerSecond, _) if cell.value >= 1_000.0 => format!("{:.2} GB/s", cell.value / 1e3),
        (Unit::MegabytesPerSecond, _) => format!("{:.0} MB/s", cell.value),
        (Unit::Microseconds, Some(p99)) => format!("{} µs, p99 {}", digits(cell.value), digits(p99)),
        (Unit::Microseconds, None) => format!("{} µs", digits(cell.value)),
        (Unit::Milliseconds, _) => format!("{} ms", digits(cell.value)),
    }
}

/// Three digits are all that repeat from run to run.
fn digits(value: f64) -> String {
    match value {
        0.0..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn write_shortfalls(text: &mut String, results: &Results) -> Result<()> {
    let judged: Vec<_> = results.rows.iter().filter_map(|row| Some((row, row.is_met()?))).collect();
    if !judged.is_empty() {
        let met = judged.iter().filter(|(_, met)| *met).count();
        writeln!(text, "\nGoals met: {met} of {}.", judged.len())?;
        let missed: Vec<_> =
            judged.iter().filter(|(_, met)| !met).map(|(row, _)| row.title.as_str()).collect();
        if !missed.is_empty() {
            writeln!(text, "Missed: {}.", missed.join("; "))?;
        }
    }
    let slower = results.rows.iter().filter_map(|row| {
        let faster = row.faster_peers(&results.variants);
        (!faster.is_empty()).then(|| format!("{} ({})", row.title, faster.join(", ")))
    });
    let slower: Vec<_> = slower.collect();
    if !slower.is_empty() {
        writeln!(text, "A peer is faster by more than 5 %: {}.", slower.join("; "))?;
    }
    for failure in &results.failures {
        writeln!(
            text,
            "Failed: {} in {}, round {}: {}",
            failure.variant,
            failure.row,
            failure.round + 1,
            failure.message
        )?;
    }
    Ok(())
}

/// Puts the table between the marks of a Markdown file.
pub(crate) fn update_readme(results: &Results, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin).with_context(|| format!("{path:?} has no {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{path:?} has no {end} after {begin}"))?;
    let table = render(results, Style::Markdown)?;
    fs::write(path, format!("{before}{begin}\n{table}\n{end}{after}"))
        .with_context(|| format!("cannot write {path:?}"))
}
