//! `wsguard snapshot du`.

use std::path::PathBuf;

use clap::Args;
use wsguard_api::SnapshotList;

use super::{STATUSES, local_time};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Verbosity, View, bytes, facts};
use crate::settings::Settings;
use crate::target;

/// Show what history takes of the disk
///
/// It is not counted against the quota. UNIQUE is what deleting one snapshot gives back, SHARED what other snapshots or
/// the trash need as well. A clone counts as if it shared nothing with its file.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[("wsguard snapshot du", "Of the workspace that you are in")],
    &STATUSES,
))]
pub struct DuArgs {
    /// Workspace, or something in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

pub(super) fn run(args: &DuArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let list = Client::new(settings.socket()?)?.snapshots(&target::maybe_missing(&args.path)?)?;
    match printer.format() {
        Format::Json => printer.json(&list)?,
        Format::Text => printer.data(&text(&list, &printer.view()))?,
    }
    Ok(ExitStatus::Success)
}

fn text(list: &SnapshotList, view: &View) -> String {
    if view.verbosity == Verbosity::Quiet {
        return format!("{}\n", list.stored_bytes);
    }
    let mut lines = vec![
        ("workspace", list.name.clone()),
        ("history", format!("{} of {}", bytes(list.stored_bytes), bytes(list.budget_bytes))),
        ("trash", bytes(list.trash_bytes)),
        ("garbage", bytes(list.garbage_bytes)),
    ];
    lines.extend(list.trash_since.iter().map(|since| ("trash since", local_time(since))));
    let mut text = facts(&lines);
    if list.items.is_empty() {
        return text;
    }
    let mut table = Table::new([
        Column::Number("ID"),
        Column::Fixed("TIME"),
        Column::Wrapping("NAME"),
        Column::Number("UNIQUE"),
        Column::Number("SHARED"),
    ]);
    for snapshot in list.items.iter().rev() {
        table.row([
            Cell::new(snapshot.id.to_string()),
            Cell::new(local_time(&snapshot.at)),
            Cell::new(snapshot.name.as_deref().unwrap_or_default()),
            Cell::new(bytes(snapshot.unique_bytes)),
            Cell::new(bytes(snapshot.shared_bytes)),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(view.width));
    text
}

#[cfg(test)]
mod tests {
    use super::super::ls::tests::list;
    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn sums_stand_above_the_table() {
        let text = plain(&text(&list(), &view(Some(80))));
        assert!(text.contains("9.0 MiB of 5.0 GiB") && text.contains("2.0 MiB"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
