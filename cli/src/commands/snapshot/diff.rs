//! `wsguard snapshot diff`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use wsguard_api::{DifferenceKind, DifferenceReport, SnapshotDifference};

use super::{STATUSES, is_snapshot};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity, View, count, printable};
use crate::settings::Settings;
use crate::target;

/// How long a comparison may take: it reads everything that is noted.
const LIMIT: Duration = Duration::from_secs(600);

/// Show what is different between two snapshots, or between one and now
///
/// `+` was added, `-` removed, `M` written to, `R` renamed, `P` replaced by another file, `A` has other attributes.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard snapshot diff 17", "What has changed since snapshot 17"),
        ("wsguard snapshot diff 17 23 src", "What changed in src between the two"),
        ("wsguard snapshot diff paper now figures", "A name works as well"),
    ],
    &STATUSES,
))]
pub struct DiffArgs {
    /// The earlier snapshot, by number or name
    #[arg(value_name = "A")]
    pub earlier: String,
    /// The later one, and the only path of interest; `now` and the workspace that you are in if absent
    #[arg(value_name = "B [PATH]", num_args = 0..=2)]
    pub rest: Vec<String>,
}

pub(super) fn run(
    args: &DiffArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(LIMIT);
    let (later, path) = match args.rest.as_slice() {
        [] => (None, PathBuf::from(".")),
        [one] => {
            let snapshots = client.snapshots(&target::maybe_missing(Path::new("."))?);
            let known = snapshots.map(|list| list.items).unwrap_or_default();
            match is_snapshot(one, &known) {
                true => (Some(one.as_str()), PathBuf::from(".")),
                false => (None, PathBuf::from(one)),
            }
        }
        [later, path, ..] => (Some(later.as_str()), PathBuf::from(path)),
    };
    let later = later.filter(|later| *later != "now");
    let report = client.snapshot_difference(&target::maybe_missing(&path)?, &args.earlier, later)?;
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => {
            let view = printer.view();
            printer.data(&text(&report))?;
            if view.verbosity != Verbosity::Quiet {
                printer.note(&summary(&report, &view));
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn text(report: &DifferenceReport) -> String {
    report.items.iter().map(line).collect()
}

fn line(item: &SnapshotDifference) -> String {
    let sign = match item.kind {
        DifferenceKind::Added => '+',
        DifferenceKind::Removed => '-',
        DifferenceKind::Renamed => 'R',
        DifferenceKind::Replaced => 'P',
        DifferenceKind::Modified => 'M',
        DifferenceKind::Attributes => 'A',
    };
    let slash = if item.is_directory { "/" } else { "" };
    let from = item.from.as_deref().map_or_else(String::new, |from| format!("{}{slash} → ", printable(from)));
    format!("{sign} {from}{}{slash}\n", printable(&item.path))
}

fn summary(report: &DifferenceReport, _view: &View) -> String {
    let later = report.later.map_or_else(|| "now".to_owned(), |later| later.to_string());
    let total = report.items.len() as u64 + report.left_out;
    let more =
        if report.left_out > 0 { format!(", {} of them not shown", report.left_out) } else { String::new() };
    format!(
        "{}: {} between {} and {later}{more}",
        printable(&report.workspace),
        count(total, "difference"),
        report.earlier
    )
}
