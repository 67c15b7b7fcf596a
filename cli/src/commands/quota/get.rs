//! `wsguard quota get`: one's own limits, or those of one target.

use clap::Args;
use wsguard_api::{QuotaReport, QuotaRow, ScopeRef};

use super::STATUSES;
use super::rows::{remarks, table};
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, printable};
use crate::settings::Settings;

/// Show the limits and the use of a user or a workspace
///
/// Without TARGET: your own, with all your workspaces. The DS01 names quota-check and check-limits do the same if this
/// program is linked to them.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota get", "Your own limits"),
        ("wsguard quota get ~/workspace/bert", "Those of one workspace"),
        ("sudo wsguard quota get alice", "Those of a user with all workspaces"),
        ("sudo wsguard quota get group:students", "Those of a group"),
    ],
    &STATUSES,
))]
pub struct GetArgs {
    /// User, workspace, directory, group:NAME or pool:DIR
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
}

/// Prints the limits.
///
/// # Errors
/// Fails if there is no such target or it is somebody else's.
pub(super) fn run(
    args: &GetArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    let scope = match &args.target {
        Some(target) => directory.scope(target)?,
        None => ScopeRef::User { uid: rustix::process::getuid().as_raw() },
    };
    let rows: Vec<&QuotaRow> = directory.report.items.iter().filter(|row| belongs(row, &scope)).collect();
    if printer.format() == Format::Json {
        let items = rows.into_iter().cloned().collect();
        printer.json(&QuotaReport { items, ..directory.report.clone() })?;
        return Ok(ExitStatus::Success);
    }
    if rows.is_empty() {
        printer.note("nothing is limited and nothing is used there");
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    printer.data(&table(&rows, &view))?;
    for remark in rows.iter().flat_map(|row| remarks(row, &view)) {
        printer.note(&format!("note: {}", printable(&remark)));
    }
    Ok(ExitStatus::Success)
}

/// The scope itself, and the workspaces of a user.
fn belongs(row: &QuotaRow, scope: &ScopeRef) -> bool {
    let is_own_project = match (&row.scope, scope) {
        (ScopeRef::Project { .. }, ScopeRef::User { uid }) => row.owner_uid == Some(*uid),
        _ => false,
    };
    row.scope == *scope || is_own_project
}
