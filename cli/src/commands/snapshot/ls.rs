//! `wsguard snapshot ls`.

use std::path::PathBuf;

use clap::Args;
use wsguard_api::SnapshotList;

use super::{STATUSES, kept_cell, local_time, safety_cell};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Verbosity, View, bytes};
use crate::settings::Settings;
use crate::target;

/// List snapshots, newest first
///
/// FREES is what deleting this one gives back; what two snapshots share is given back by the second.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard snapshot ls", "Of the workspace that you are in"),
        ("wsguard snapshot ls ~/workspace/bert --json", "For programs"),
    ],
    &STATUSES,
))]
pub struct LsArgs {
    /// Workspace, or something in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

pub(super) fn run(args: &LsArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let list = Client::new(settings.socket()?)?.snapshots(&target::maybe_missing(&args.path)?)?;
    match printer.format() {
        Format::Json => printer.json(&list)?,
        Format::Text => {
            printer.data(&text(&list, &printer.view()))?;
            if list.items.is_empty() {
                printer.note(&format!(
                    "there is no snapshot of {} yet; one is taken a minute after a change, or by `wsguard snapshot create`",
                    list.name
                ));
            }
            if let Some(reason) = &list.paused {
                printer.note(&format!("note: nothing is deleted for now: {reason}"));
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn text(list: &SnapshotList, view: &View) -> String {
    let newest_first = list.items.iter().rev();
    if view.verbosity == Verbosity::Quiet {
        return newest_first.map(|snapshot| format!("{}\n", snapshot.id)).collect();
    }
    if list.items.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        Column::Number("ID"),
        Column::Fixed("TIME"),
        Column::Fixed("REASON"),
        Column::Wrapping("NAME"),
        Column::Fixed("STATE"),
        Column::Number("FREES"),
        Column::Wrapping("KEPT BECAUSE"),
    ]);
    for snapshot in newest_first {
        table.row([
            Cell::new(snapshot.id.to_string()),
            Cell::new(local_time(&snapshot.at)),
            Cell::new(&snapshot.reason),
            Cell::new(snapshot.name.as_deref().unwrap_or_default()),
            safety_cell(snapshot.safety),
            Cell::new(bytes(snapshot.unique_bytes)),
            kept_cell(snapshot),
        ]);
    }
    table.render(view.width)
}

#[cfg(test)]
pub(super) mod tests {
    use wsguard_api::{Snapshot, SnapshotSafety};

    use super::*;
    use crate::commands::samples::{plain, view};

    pub(crate) fn list() -> SnapshotList {
        let snapshot = |id: u32, reason: &str, name: Option<&str>, kept: &[&str]| Snapshot {
            id,
            at: format!("2030-01-01T11:{:02}:00Z", id % 60),
            reason: reason.to_owned(),
            name: name.map(str::to_owned),
            note: None,
            uid: 1000,
            held: name.is_some(),
            safety: SnapshotSafety::Durable,
            kept_because: kept.iter().map(|&reason| reason.to_owned()).collect(),
            unique_bytes: 3 << 20,
            shared_bytes: 1 << 20,
        };
        SnapshotList {
            schema: 1,
            generated_at: "2030-01-01T12:00:00Z".to_owned(),
            workspace: "w1".to_owned(),
            name: "bert".to_owned(),
            mount_point: "/home/alice/workspace/bert".into(),
            items: vec![
                snapshot(7, "auto", None, &[]),
                snapshot(9, "manual", Some("before-the-great-refactoring"), &["hold", "event"]),
                snapshot(12, "auto", None, &["newest", "last 1/1", "hourly 1/24", "daily 1/14"]),
            ],
            stored_bytes: 9 << 20,
            trash_bytes: 2 << 20,
            garbage_bytes: 0,
            budget_bytes: 5 << 30,
            trash_since: None,
            paused: None,
        }
    }

    #[test]
    fn table_fits_80_columns_and_says_why_each_is_kept() {
        let text = plain(&text(&list(), &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for value in ["goes soon", "3.0 MiB", "durable", "hold; event"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
        let place = |id: &str| text.lines().position(|line| line.trim_start().starts_with(id)).unwrap();
        assert!(place("12") < place("7"), "newest first:\n{text}");
    }
}
