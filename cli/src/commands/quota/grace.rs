//! `wsguard quota grace`: how long a soft limit may be passed, and for how long still.

use clap::Args;
use wsguard_api::{ErrorCode, PolicyTarget, QuotaEdit, QuotaRow, ScopeRef};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::set::LimitArgs;
use super::subject::{Directory, Each, scope_text};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, facts};
use crate::quantity;
use crate::settings::Settings;

/// How long the grace period is where nobody says: 7 days.
const DEFAULT_SECONDS: u64 = 7 * 86_400;

/// Show or change how long a soft limit may be passed
///
/// Without an option the running grace periods are shown.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota grace alice", "How much of it is left"),
        ("sudo wsguard quota grace alice --extend 3d --reason holidays", "Three days more for the running one"),
        ("sudo wsguard quota grace default --period 14d", "How long the next ones are"),
    ],
    &STATUSES,
))]
pub struct GraceArgs {
    /// User, workspace, directory, group:NAME or pool:DIR; with --period also template:GROUP and default
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Let the running grace period end later by this
    #[arg(long, value_name = "TIME", value_parser = quantity::seconds, allow_hyphen_values = true)]
    pub extend: Option<u64>,
    /// Set how long the next grace periods are
    #[arg(long, value_name = "TIME", value_parser = quantity::seconds, allow_hyphen_values = true, conflicts_with = "extend")]
    pub period: Option<u64>,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Shows or changes it.
///
/// # Errors
/// Fails if no grace period runs that could be extended.
pub(super) fn run(
    args: &GraceArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    if args.extend == Some(0) {
        return Err(CliError::new(ErrorCode::InvalidRequest, "an extension by nothing changes nothing")
            .with_hint("give a time such as 3d"));
    }
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    match (args.extend, args.period) {
        (Some(seconds), _) => {
            let scope = directory.scope(&args.target)?;
            change::make(QuotaEdit::ExtendGrace { scope, seconds }, &args.change, &directory, printer)
        }
        (None, Some(_)) => {
            let target: PolicyTarget = directory.target(&args.target, Each::User)?;
            let limits = LimitArgs { grace: args.period, ..LimitArgs::default() };
            change::make(limits.edit(target), &args.change, &directory, printer)
        }
        (None, None) => show(&directory.scope(&args.target)?, &directory, printer),
    }
}

fn show(scope: &ScopeRef, directory: &Directory<'_>, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let view = printer.view();
    let row: Option<&QuotaRow> = directory.report.items.iter().find(|row| row.scope == *scope);
    let Some(row) = row else {
        let name = scope_text(scope, &view.users, None);
        return Err(CliError::new(ErrorCode::NotFound, format!("nothing is known of {name}"))
            .with_hint("see `wsguard quota report`"));
    };
    if printer.format() == Format::Json {
        printer.json(row)?;
        return Ok(ExitStatus::Success);
    }
    let clock = |until: &Option<String>| {
        until.clone().map_or_else(|| "does not run".to_owned(), |u| format!("ends {u}"))
    };
    let period = quantity::seconds_text(row.limits.grace_seconds.unwrap_or(DEFAULT_SECONDS));
    printer.data(&facts(&[
        ("scope", scope_text(scope, &view.users, row.name.as_deref())),
        ("period", period),
        ("bytes", clock(&row.bytes_grace_until)),
        ("inodes", clock(&row.inodes_grace_until)),
    ]))?;
    Ok(ExitStatus::Success)
}
