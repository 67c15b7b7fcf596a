//! `wsguard versions`: what a file was.

use std::path::PathBuf;

use clap::Args;
use wsguard_api::{FileVersion, VersionCertainty, VersionReport};

use super::snapshot::local_time;
use crate::client::Client;
use crate::commands::log::process;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, Verbosity, View, bytes, printable};
use crate::settings::Settings;
use crate::target;

/// List the versions of a file, newest first
///
/// Also of one that was deleted, replaced or renamed. UNTIL is when a version was overwritten, replaced or deleted, BY
/// who did that. A version that is in no snapshot is in the trash, and goes after some days.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard versions notebook.ipynb", "What there is of it"),
        ("wsguard versions src/gone.py", "The file may be gone, and its directory too"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Conflict,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct VersionsArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Prints the table.
///
/// # Errors
/// Fails if nothing is known of the file.
pub fn run(args: &VersionsArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let report = Client::new(settings.socket()?)?.versions(&target::maybe_missing(&args.file)?)?;
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => {
            printer.data(&text(&report, &printer.view()))?;
            if !report.exists {
                printer.note(&format!("note: {} is not there now", printable(&report.path)));
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn text(report: &VersionReport, view: &View) -> String {
    if view.verbosity == Verbosity::Quiet {
        let moments = report.items.iter().filter_map(|version| version.moment);
        return moments.map(|moment| format!("{moment}\n")).collect();
    }
    let mut table = Table::new([
        Column::Fixed("WRITTEN"),
        Column::Fixed("UNTIL"),
        Column::Number("SIZE"),
        Column::Fixed("ENDED BY"),
        Column::Wrapping("WHO"),
        Column::Wrapping("SNAPSHOTS"),
        Column::Fixed("KNOWN"),
    ]);
    for version in &report.items {
        let time =
            |time: &Option<String>, none: &str| time.as_deref().map_or_else(|| none.to_owned(), local_time);
        table.row([
            Cell::new(time(&version.modified, "–")),
            Cell::new(time(&version.until, "now")),
            Cell::new(version.size.map_or_else(|| "–".to_owned(), bytes)),
            Cell::new(ended_by(version)),
            Cell::new(who(version, view)),
            Cell::new(snapshots(version)),
            known(version.certainty),
        ]);
    }
    table.render(view.width)
}

fn ended_by(version: &FileVersion) -> String {
    let verb = version.ended_by.as_deref().unwrap_or("–");
    match &version.path {
        Some(path) => format!("{verb} (as {path})"),
        None => verb.to_owned(),
    }
}

fn who(version: &FileVersion, view: &View) -> String {
    let Some(uid) = version.uid else { return "–".to_owned() };
    let user = view.users.name(uid);
    match (version.pid, &version.command) {
        (Some(pid), command) => format!("{user}, {}", process(command.as_deref().unwrap_or_default(), pid)),
        (None, _) => user,
    }
}

fn snapshots(version: &FileVersion) -> String {
    match version.snapshots.as_slice() {
        [] if version.until.is_some() => "trash".to_owned(),
        [] => "–".to_owned(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}–{last} ({})", version.snapshots.len()),
    }
}

fn known(certainty: VersionCertainty) -> Cell {
    match certainty {
        VersionCertainty::Exact => Cell::new("exact"),
        VersionCertainty::Fuzzy => Cell::toned("fuzzy", Tone::Warning),
        VersionCertainty::ChangedOutside => Cell::toned("changed outside", Tone::Warning),
        VersionCertainty::Damaged => Cell::toned("damaged", Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn a_deleted_file_says_when_who_and_where_it_can_be_had() {
        let version = FileVersion {
            since: None,
            until: Some("2030-01-01T11:00:00Z".to_owned()),
            size: Some(2048),
            modified: Some("2030-01-01T10:00:00Z".to_owned()),
            ended_by: Some("delete".to_owned()),
            uid: Some(1000),
            pid: Some(4711),
            command: Some("rm".to_owned()),
            path: None,
            snapshots: vec![3, 4, 9],
            moment: Some(77),
            certainty: VersionCertainty::Fuzzy,
        };
        let report = VersionReport {
            schema: 1,
            workspace: "bert".to_owned(),
            path: "a".to_owned(),
            exists: false,
            items: vec![version],
        };
        let text = plain(&text(&report, &view(None)));
        for value in ["2.0 KiB", "delete", "alice", "rm", "4711", "3–9 (3)", "fuzzy"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
    }
}
