//! `wsguard quota`: limits, what is used of them, and why.

mod apply;
mod audit;
mod boost;
mod change;
mod check;
mod decide;
mod explain;
mod forecast;
mod get;
mod grace;
mod import;
mod pace;
mod report;
mod requests;
mod rows;
mod set;
mod shell_hook;
mod simulate;
mod subject;
mod template;
mod test_notice;
mod top;
mod unset;

use clap::{Args, Subcommand};

use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::settings::Settings;

/// What every command below ends with.
const STATUSES: [ExitStatus; 8] = [
    ExitStatus::Success,
    ExitStatus::Failure,
    ExitStatus::Usage,
    ExitStatus::NotFound,
    ExitStatus::Conflict,
    ExitStatus::Unavailable,
    ExitStatus::TimedOut,
    ExitStatus::Permission,
];

/// Show and set how much may be stored
///
/// Limits hold for a workspace (project), for all workspaces of a user, of a group, and for a filesystem (pool). A
/// TARGET is a user, a workspace or a directory in one. Where a name could be several things: user:NAME, project:NAME,
/// group:NAME (all its members together), pool:DIR, template:GROUP (each member of a group) or default (everybody).
///
/// Root and members of the group wsguard-admin set limits; everybody sees their own.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = help::sections(
    &[
        ("wsguard quota get", "See your own limits and what you use"),
        ("sudo wsguard quota set default 500G", "Limit each user who has no limit of their own"),
        ("sudo wsguard quota set alice 1T --soft 900G", "Give one user more"),
        ("wsguard quota explain .", "Find out where the limits of a directory come from"),
        ("sudo wsguard quota report", "See everybody"),
    ],
    &STATUSES,
))]
pub struct QuotaArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: QuotaCommand,
}

/// The commands of quota.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each argument struct is the help text of its command")]
pub enum QuotaCommand {
    Get(get::GetArgs),
    Report(report::ReportArgs),
    Top(top::TopArgs),
    Forecast(forecast::ForecastArgs),
    Explain(explain::ExplainArgs),
    Set(set::SetArgs),
    Unset(unset::UnsetArgs),
    Boost(boost::BoostArgs),
    Grace(grace::GraceArgs),
    Template(template::TemplateArgs),
    Simulate(simulate::SimulateArgs),
    Apply(apply::ApplyArgs),
    Import(import::ImportArgs),
    Check(check::CheckArgs),
    Audit(audit::AuditArgs),
    Requests(requests::RequestsArgs),
    Approve(decide::ApproveArgs),
    Deny(decide::DenyArgs),
    Notify(test_notice::NotifyArgs),
    ShellHook(shell_hook::ShellHookArgs),
}

/// Runs one of them.
///
/// # Errors
/// Whatever keeps the command from doing what was asked.
pub fn run(args: &QuotaArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match &args.command {
        QuotaCommand::Get(args) => get::run(args, settings, printer),
        QuotaCommand::Report(args) => report::run(args, settings, printer),
        QuotaCommand::Top(args) => top::run(args, settings, printer),
        QuotaCommand::Forecast(args) => forecast::run(args, settings, printer),
        QuotaCommand::Explain(args) => explain::run(args, settings, printer),
        QuotaCommand::Set(args) => set::run(args, settings, printer),
        QuotaCommand::Unset(args) => unset::run(args, settings, printer),
        QuotaCommand::Boost(args) => boost::run(args, settings, printer),
        QuotaCommand::Grace(args) => grace::run(args, settings, printer),
        QuotaCommand::Template(args) => template::run(args, settings, printer),
        QuotaCommand::Simulate(args) => simulate::run(args, settings, printer),
        QuotaCommand::Apply(args) => apply::run(args, settings, printer),
        QuotaCommand::Import(args) => import::run(args, printer),
        QuotaCommand::Check(args) => check::run(args, settings, printer),
        QuotaCommand::Audit(args) => audit::run(args, settings, printer),
        QuotaCommand::Requests(args) => requests::run(args, settings, printer),
        QuotaCommand::Approve(args) => decide::approve(args, settings, printer),
        QuotaCommand::Deny(args) => decide::deny(args, settings, printer),
        QuotaCommand::Notify(args) => test_notice::run(args, settings, printer),
        QuotaCommand::ShellHook(args) => shell_hook::run(args, settings, printer),
    }
}
