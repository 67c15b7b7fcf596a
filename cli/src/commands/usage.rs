//! `wsguard usage`: where the space went, without a walk.

mod compare;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use wsguard_api::{
    CacheUsage, Duplicates, EntryType, ErrorCode, FileKind, Forecast, Growth, IndexState, KindUsage,
    UsageEntry, UsageReport,
};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{
    Cell, Column, Format, Printer, Table, Tone, Verbosity, View, ago, bytes, count, duration, printable,
};
use crate::settings::Settings;
use crate::target;

/// Show where the space of a workspace went
///
/// Answered from an index that the daemon keeps, so it takes milliseconds for any size. Bytes are what the quota
/// counts. Paths are relative to PATH.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard usage", "Of the directory you are in"),
        ("wsguard usage ~/workspace/bert/models --top 20", "More of each list, of one directory"),
        ("wsguard usage --days 1", "What grew since yesterday"),
        ("wsguard usage --verify", "Read checkpoints that are probably duplicates, and say whether they are"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct UsageArgs {
    /// Workspace, or a directory in one
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Show so many entries of each list
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub top: u32,
    /// Show what grew in so many days
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=92))]
    pub days: u32,
    /// Call cold what has not changed for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub cold_days: u32,
    /// Compare probable duplicates byte by byte; reads them whole
    #[arg(long)]
    pub verify: bool,
}

/// The report, and whether its duplicates were compared.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a UsageReport,
    duplicates_verified: bool,
}

/// Prints the report.
///
/// # Errors
/// Fails if the path is in no workspace or has not been counted yet.
pub fn run(args: &UsageArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let path = target::existing(&args.path)?;
    let client = Client::new(settings.socket()?)?;
    let mut report = client.usage(&path, args.top, args.days, args.cold_days).map_err(of_directory(&path))?;
    if args.verify {
        let (verified, failures) = compare::identical(&report.path, &report.duplicates);
        report.duplicates = verified;
        for failure in failures {
            printer.complaint(&failure);
        }
    }
    match printer.format() {
        Format::Json => printer.json(&Shown { report: &report, duplicates_verified: args.verify })?,
        Format::Text => {
            let view = printer.view();
            printer.data(&text(&report, args, &view))?;
            for note in notes(&report, args.verify) {
                printer.note(&format!("note: {note}"));
            }
        }
    }
    Ok(ExitStatus::Success)
}

/// A file's own numbers are in `stat`; the report is of directories.
pub(super) fn of_directory(path: &Path) -> impl Fn(CliError) -> CliError + '_ {
    move |error| {
        if error.code() == ErrorCode::NotFound && !path.is_dir() {
            return error.with_hint("name a directory in a workspace, not a file");
        }
        error
    }
}

fn text(report: &UsageReport, args: &UsageArgs, view: &View) -> String {
    let path = report.path.display().to_string();
    if view.verbosity == Verbosity::Quiet {
        return format!("{}\n", report.bytes);
    }
    let inodes = count(report.inodes, "inode");
    let mut text = format!("{}  {} in {inodes}\n", printable(&path), bytes(report.bytes));
    text.push_str(&forecast_text(&report.name, &report.forecast));
    let mut section = |title: String, table: Option<String>| {
        if let Some(table) = table {
            text.push_str(&format!("\n{title}\n{table}"));
        }
    };
    let left_out = match report.entries_left_out {
        0 => String::new(),
        left_out => format!(" (and {left_out} more)"),
    };
    section(format!("Largest here{left_out}"), entries_table(&report.entries, view));
    section("Largest files".to_owned(), entries_table(&report.largest_files, view));
    let since = report
        .growth_since
        .as_deref()
        .map_or_else(String::new, |since| format!(", in {}", ago(since, view.now).trim_end_matches(" ago")));
    section(format!("Growing fastest{since}"), growth_table(&report.growing, view));
    section(format!("Unchanged for {} days", args.cold_days), entries_table(&report.coldest, view));
    section("By kind".to_owned(), kinds_table(&report.kinds, view));
    section("Caches (`wsguard clean` removes them)".to_owned(), caches_table(&report.caches, view));
    let title =
        if args.verify { "Identical checkpoints, compared whole" } else { "Probably duplicate checkpoints" };
    section(title.to_owned(), duplicates_table(&report.duplicates, view));
    text
}

pub(super) fn forecast_text(name: &str, forecast: &Forecast) -> String {
    let name = printable(name);
    let left = match forecast.available_bytes {
        Some(available) => format!("{} left", bytes(available)),
        None => "not mounted".to_owned(),
    };
    let pace = match forecast.bytes_per_day {
        None => "growth is not known yet".to_owned(),
        Some(pace) if pace > 0 => format!("grows by {} a day", bytes(pace.unsigned_abs())),
        Some(_) => "does not grow".to_owned(),
    };
    let full = match forecast.seconds_to_full {
        Some(0) => ", full now".to_owned(),
        Some(seconds) => format!(", full in about {}", duration(Duration::from_secs(seconds))),
        None => String::new(),
    };
    format!("{name} as a whole: {} used, {left}; {pace}{full}\n", bytes(forecast.used_bytes))
}

fn entries_table(entries: &[UsageEntry], view: &View) -> Option<String> {
    if entries.is_empty() {
        return None;
    }
    let mut table = Table::new([
        Column::Number("SIZE"),
        Column::Number("INODES"),
        Column::Fixed("CHANGED"),
        Column::Wrapping("PATH"),
    ]);
    for entry in entries {
        let (path, inodes) = match entry.entry {
            EntryType::Directory => (format!("{}/", entry.path), entry.inodes.to_string()),
            EntryType::File => (entry.path.clone(), String::new()),
        };
        let changed = entry.changed_at.as_deref().map_or_else(|| "–".to_owned(), |at| ago(at, view.now));
        table.row([Cell::new(bytes(entry.bytes)), Cell::new(inodes), Cell::new(changed), Cell::new(path)]);
    }
    Some(table.render(view.width))
}

fn growth_table(growing: &[Growth], view: &View) -> Option<String> {
    if growing.is_empty() {
        return None;
    }
    let mut table =
        Table::new([Column::Number("GROWTH"), Column::Number("INODES"), Column::Wrapping("PATH")]);
    for growth in growing {
        let path = if growth.path.is_empty() { "." } else { &growth.path };
        table.row([
            Cell::new(format!("+{}", bytes(growth.bytes.unsigned_abs()))),
            Cell::new(format!("{:+}", growth.inodes)),
            Cell::new(format!("{path}/")),
        ]);
    }
    Some(table.render(view.width))
}

fn kinds_table(kinds: &[KindUsage], view: &View) -> Option<String> {
    if kinds.is_empty() {
        return None;
    }
    let mut table = Table::new([Column::Number("SIZE"), Column::Number("FILES"), Column::Fixed("KIND")]);
    for usage in kinds {
        table.row([
            Cell::new(bytes(usage.bytes)),
            Cell::new(usage.files.to_string()),
            Cell::new(kind_words(usage.kind)),
        ]);
    }
    Some(table.render(view.width))
}

fn kind_words(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Checkpoint => "checkpoints",
        FileKind::Data => "data",
        FileKind::Archive => "archives",
        FileKind::Media => "images, audio, video",
        FileKind::Code => "code and text",
        FileKind::Binary => "compiled code",
        FileKind::Log => "logs",
        FileKind::Temporary => "temporary files",
        FileKind::Other => "other",
    }
}

fn caches_table(caches: &[CacheUsage], view: &View) -> Option<String> {
    if caches.is_empty() {
        return None;
    }
    let mut table = Table::new([
        Column::Number("SIZE"),
        Column::Number("INODES"),
        Column::Number("DIRS"),
        Column::Fixed("RULE"),
        Column::Wrapping("LARGEST"),
    ]);
    for cache in caches {
        table.row([
            Cell::new(bytes(cache.bytes)),
            Cell::new(cache.inodes.to_string()),
            Cell::new(cache.directories.to_string()),
            Cell::new(&cache.rule),
            Cell::new(format!("{}/", cache.largest)),
        ]);
    }
    Some(table.render(view.width))
}

fn duplicates_table(duplicates: &[Duplicates], view: &View) -> Option<String> {
    if duplicates.is_empty() {
        return None;
    }
    let mut table = Table::new([Column::Number("SURPLUS"), Column::Number("SIZE"), Column::Wrapping("PATH")]);
    for group in duplicates {
        for (number, path) in group.paths.iter().enumerate() {
            let surplus = if number == 0 { bytes(group.reclaimable_bytes) } else { String::new() };
            table.row([Cell::toned(surplus, Tone::Warning), Cell::new(bytes(group.size)), Cell::new(path)]);
        }
    }
    Some(table.render(view.width))
}

/// What a reader has to know to take the numbers for what they are.
fn notes(report: &UsageReport, is_verified: bool) -> Vec<String> {
    let mut notes = Vec::new();
    match &report.state {
        IndexState::Current => {}
        IndexState::Counting { counted } => notes.push(format!(
            "the workspace is being counted again, {counted} names so far; until then the numbers may be old"
        )),
        IndexState::Unwatched => {
            notes.push("the workspace is not mounted: the numbers are as of the last time it was".to_owned());
        }
    }
    if report.unreadable > 0 {
        notes.push(format!(
            "{} could not be read by the last count and is not in the numbers; the daemon's log names the first",
            match report.unreadable {
                1 => "one directory or file".to_owned(),
                more => format!("{more} directories or files"),
            }
        ));
    }
    if report.coldest_is_partial && report.coldest.len() < 10 {
        notes.push("only the largest directories were searched for what has not changed".to_owned());
    }
    if report.duplicates_unknown > 0 && !is_verified {
        notes
            .push(format!("{} of one size not compared yet", count(report.duplicates_unknown, "checkpoint")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    fn args() -> UsageArgs {
        UsageArgs { path: ".".into(), top: 10, days: 7, cold_days: 30, verify: false }
    }

    pub(super) fn report() -> UsageReport {
        let entry = |path: &str, entry, size| UsageEntry {
            path: path.to_owned(),
            entry,
            bytes: size,
            inodes: 12,
            changed_at: Some("2030-01-01T11:00:00Z".into()),
        };
        UsageReport {
            schema: 1,
            generated_at: "2030-01-01T12:00:00Z".into(),
            workspace: "bert-7f3a".into(),
            name: "bert".into(),
            path: "/home/alice/workspace/bert".into(),
            state: IndexState::Current,
            walked_at: Some("2030-01-01T00:00:00Z".into()),
            bytes: 443_023_432_908,
            inodes: 1_204_331,
            entries: vec![
                entry("models", EntryType::Directory, 300 << 30),
                entry("a.tar", EntryType::File, 3 << 30),
            ],
            entries_left_out: 7,
            largest_files: vec![entry("models/run7/step-9000.pt", EntryType::File, 14 << 30)],
            coldest: vec![entry("data/old\u{1b}[31m", EntryType::Directory, 20 << 30)],
            cold_days: 30,
            unreadable: 0,
            coldest_is_partial: false,
            kinds: vec![KindUsage { kind: FileKind::Checkpoint, bytes: 290 << 30, files: 21 }],
            growing: vec![Growth { path: "models/run7".into(), bytes: 61 << 30, inodes: 5 }],
            growth_since: Some("2029-12-25T12:00:00Z".into()),
            caches: vec![CacheUsage {
                rule: "pip-cache".into(),
                title: "package caches of pip and uv".into(),
                directories: 1,
                bytes: 5 << 30,
                inodes: 900,
                largest: ".cache/pip".into(),
            }],
            duplicates: vec![Duplicates {
                size: 2 << 30,
                reclaimable_bytes: 2 << 30,
                paths: vec!["a/step-1.pt".into(), "b/step-1.pt".into()],
            }],
            duplicates_unknown: 0,
            forecast: Forecast {
                used_bytes: 443_023_432_908,
                available_bytes: Some(93_843_998_310),
                last_day_bytes: Some(61 << 30),
                last_week_bytes: None,
                bytes_per_day: Some(61 << 30),
                seconds_to_full: Some(123_800),
                checkpoint_bytes: None,
            },
        }
    }

    #[test]
    fn report_fits_80_columns_and_names_everything() {
        let text = plain(&text(&report(), &args(), &view(Some(80))));
        assert!(text.starts_with("/home/alice/workspace/bert  412 GiB in 1204331 inodes\n"), "{text}");
        for part in [
            "bert as a whole: 412 GiB used, 87.3 GiB left; grows by 61.0 GiB a day, full in about 34 h",
            "Largest here (and 7 more)",
            "models/run7/step-9000.pt",
            "Growing fastest, in 7 d",
            "+61.0 GiB",
            "Unchanged for 30 days",
            "checkpoints",
            "pip-cache",
            "Probably duplicate checkpoints",
            "a/step-1.pt",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.lines().skip(2).all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn empty_lists_are_left_out_and_quiet_is_one_number() {
        let mut report = report();
        report.caches.clear();
        report.duplicates.clear();
        let text = text(&report, &args(), &view(None));
        assert!(!text.contains("Caches") && !text.contains("duplicate"), "{text}");
        let quiet = View { verbosity: Verbosity::Quiet, ..view(None) };
        assert_eq!(super::text(&report, &args(), &quiet), "443023432908\n");
    }

    #[test]
    fn numbers_that_may_be_old_are_said_to_be() {
        let mut report = report();
        assert!(notes(&report, false).is_empty());
        report.state = IndexState::Unwatched;
        report.duplicates_unknown = 2;
        report.unreadable = 3;
        let notes = notes(&report, false);
        assert!(notes[0].contains("not mounted"), "{notes:?}");
        assert!(notes[1].starts_with("3 directories or files could not be read"), "{notes:?}");
        assert_eq!(notes[2], "2 checkpoints of one size not compared yet");
    }
}
