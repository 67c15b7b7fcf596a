//! `wsguard quota approve` and `deny`: answers to requests for more room.

use clap::Args;
use wsguard_api::{BoostAnswer, BoostDecision, RequestState, Verdict};

use super::STATUSES;
use super::change;
use super::requests::asks_for;
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity, printable};
use crate::quantity;
use crate::settings::Settings;

/// Grant a request for more room
///
/// Gives a boost of the limit that leaves the workspace the least room: its own, or that of its owner. The user finds the
/// answer in .wsguard/request and is told as configured.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota approve 3", "As asked for"),
        ("sudo wsguard quota approve 3 --by 100G --for 3d --reason 'until the new disks are here'", "Less of it"),
    ],
    &STATUSES,
))]
pub struct ApproveArgs {
    /// Number of the request, as `wsguard quota requests` shows it
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Give so many bytes instead
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub by: Option<u64>,
    /// Give it for so long instead: 7d, 12h
    #[arg(long = "for", value_name = "TIME", value_parser = quantity::seconds)]
    pub time: Option<u64>,
    /// Tell the user
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only tell what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// Refuse a request for more room
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[("sudo wsguard quota deny 3 --reason 'delete run1 to run5 first'", "The user reads the reason")],
    &STATUSES,
))]
pub struct DenyArgs {
    /// Number of the request, as `wsguard quota requests` shows it
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Tell the user why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Grants a request.
///
/// # Errors
/// Fails if it is decided already, or nothing limits the workspace.
pub(super) fn approve(
    args: &ApproveArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let decision = BoostDecision {
        verdict: Verdict::Approve,
        reason: args.reason.clone(),
        bytes: args.by,
        seconds: args.time,
        dry_run: args.dry_run,
    };
    decide(args.id, &decision, settings, printer)
}

/// Refuses a request.
///
/// # Errors
/// Fails if it is decided already.
pub(super) fn deny(
    args: &DenyArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let decision = BoostDecision {
        verdict: Verdict::Deny,
        reason: Some(args.reason.clone()),
        bytes: None,
        seconds: None,
        dry_run: false,
    };
    decide(args.id, &decision, settings, printer)
}

fn decide(
    id: u64,
    decision: &BoostDecision,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let answer = client.decide(id, decision)?;
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&answer)?,
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => {
            let mut text = line(&answer);
            if let Some(plan) = &answer.plan {
                let view = printer.view();
                text.push_str(&change::text(plan, &Directory::read(&client)?, &view));
            }
            printer.data(&text)?;
        }
    }
    Ok(ExitStatus::Success)
}

fn line(answer: &BoostAnswer) -> String {
    let request = &answer.request;
    let what = match request.state {
        RequestState::Approved => "approved",
        RequestState::Denied => "denied",
        RequestState::Pending => "not decided yet",
    };
    format!("request {} of {} ({}): {what}\n", request.id, printable(&request.name), asks_for(request))
}
