//! `wsguard quota check`: whether the counters are right.

use std::time::Duration;

use clap::Args;
use wsguard_api::{CheckReport, CheckRequest, ScopeRef};

use super::subject::Directory;
use crate::client::Client;
use crate::commands::Versioned;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, bytes, elapsed_ms};
use crate::settings::Settings;

/// How long counting one workspace may take.
const CHECK_LIMIT: Duration = Duration::from_secs(3_600);

/// Count a workspace anew and compare
///
/// Counting corrects the counters, while programs go on writing. A difference is a defect, or comes from edits past the
/// guard that have not been seen yet: without --repair it ends with exit code 10.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota check ~/workspace/bert", "One workspace"),
        ("wsguard quota check ~/workspace/bert --sample", "Without a walk"),
        ("sudo wsguard quota check --repair", "All that are mounted; a difference is no failure"),
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
        ExitStatus::Verification,
    ],
))]
pub struct CheckArgs {
    /// Workspace, by name or directory; all that are mounted and that you may see if none is named
    #[arg(value_name = "WORKSPACE")]
    pub workspace: Option<String>,
    /// A difference is what you came to have corrected: end with success
    #[arg(long)]
    pub repair: bool,
    /// Only compare the counters with the usage index, as is done every night: takes no walk and corrects nothing
    #[arg(long, conflicts_with = "repair")]
    pub sample: bool,
}

/// What was counted.
#[derive(Debug, serde::Serialize)]
struct Checked {
    items: Vec<CheckReport>,
}

/// Counts and compares.
///
/// # Errors
/// Fails if a workspace is not mounted or cannot be counted.
pub(super) fn run(
    args: &CheckArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(CHECK_LIMIT);
    let directory = Directory::read(&client)?;
    let ids = match &args.workspace {
        Some(name) => vec![directory.workspace(name)?],
        None => mounted(&directory),
    };
    let count = |id: String| client.quota_check(&CheckRequest { workspace: id, is_sample: args.sample });
    let items = ids.into_iter().map(count).collect::<Result<Vec<CheckReport>, CliError>>()?;
    let has_drift = items.iter().any(|report| (report.drift_bytes, report.drift_inodes) != (0, 0));
    let view = printer.view();
    match printer.format() {
        Format::Json => printer.json(&Versioned::new(&Checked { items }))?,
        Format::Text => printer.data(&table(&items, &view))?,
    }
    Ok(if has_drift && !args.repair { ExitStatus::Verification } else { ExitStatus::Success })
}

fn mounted(directory: &Directory<'_>) -> Vec<String> {
    let id_of = |row: &wsguard_api::QuotaRow| match &row.scope {
        ScopeRef::Project { id } if row.is_mounted => Some(id.clone()),
        ScopeRef::Project { .. } | ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => {
            None
        }
    };
    directory.report.items.iter().filter_map(id_of).collect()
}

fn table(items: &[CheckReport], view: &View) -> String {
    let mut table = Table::new([
        Column::Fixed("WORKSPACE"),
        Column::Number("BYTES"),
        Column::Number("OFF BY"),
        Column::Number("INODES"),
        Column::Number("OFF BY"),
        Column::Number("TOOK"),
    ]);
    for report in items {
        let drift = |drift: i64| match drift {
            0 => Cell::toned("0", Tone::Good),
            drift => Cell::toned(format!("{drift:+}"), Tone::Bad),
        };
        table.row([
            Cell::new(&report.name),
            Cell::new(bytes(report.counted.bytes)),
            drift(report.drift_bytes),
            Cell::new(report.counted.inodes.to_string()),
            drift(report.drift_inodes),
            Cell::new(elapsed_ms(report.elapsed_ms)),
        ]);
    }
    table.render(view.width)
}
