//! `wsguard quota boost`: more room for a while.

use clap::Args;
use wsguard_api::{ErrorCode, QuotaEdit};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::quantity;
use crate::settings::Settings;

/// Give more room for a while
///
/// Soft and hard limit are raised. When the time is up and more is used than is allowed then, the grace period begins.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota boost alice --by 200G --for 7d --reason paper", "200 GiB more for a week"),
        ("sudo wsguard quota boost alice --end", "End every boost of alice now"),
    ],
    &STATUSES,
))]
pub struct BoostArgs {
    /// User, workspace, directory, group:NAME or pool:DIR
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// How many bytes more
    #[arg(long, value_name = "SIZE", value_parser = quantity::size, allow_hyphen_values = true)]
    pub by: Option<u64>,
    /// How many inodes more
    #[arg(long, value_name = "NUMBER", value_parser = quantity::count, allow_hyphen_values = true)]
    pub inodes: Option<u64>,
    /// For how long: 7d, 12h
    #[arg(long = "for", value_name = "TIME", value_parser = quantity::seconds, allow_hyphen_values = true)]
    pub time: Option<u64>,
    /// End all boosts of the target
    #[arg(long, conflicts_with_all = ["by", "inodes", "time"])]
    pub end: bool,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Gives or ends the boost.
///
/// # Errors
/// Fails if there is no limit to raise.
pub(super) fn run(
    args: &BoostArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    if !args.end {
        check(args)?;
    }
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    let scope = directory.scope(&args.target)?;
    let edit = match (args.end, args.time) {
        (false, Some(seconds)) => {
            QuotaEdit::Boost { scope, bytes: args.by.unwrap_or(0), inodes: args.inodes.unwrap_or(0), seconds }
        }
        (true, _) | (false, None) => QuotaEdit::EndBoosts { scope },
    };
    change::make(edit, &args.change, &directory, printer)
}

fn check(args: &BoostArgs) -> Result<(), CliError> {
    let amount = args.by.unwrap_or(0).max(args.inodes.unwrap_or(0));
    let missing = match (amount, args.time, &args.change.reason) {
        (0, _, _) => "how much: --by 200G or --inodes 100k",
        (_, None | Some(0), _) => "for how long: --for 7d",
        (_, _, None) => "why: --reason TEXT",
        _ => return Ok(()),
    };
    Err(CliError::new(ErrorCode::InvalidRequest, format!("a boost needs to know {missing}"))
        .with_hint("see `wsguard quota boost --help`"))
}
