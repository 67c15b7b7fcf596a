//! `wsguard quota notify --test`: whether notices get through.

use clap::{Args, ValueEnum};
use wsguard_api::{DeliveryChannel, NotifyOutcome, NotifyReport, NotifyRequest};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View};
use crate::settings::Settings;

/// Send a test notice and tell what became of it
///
/// Channels are configured in [delivery] of the config. With WORKSPACE its owner gets the notice and the terminals of the
/// containers that have it; without, the administrators and the webhook do. A channel that fails ends with exit code 10.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota notify --test", "Every channel that reaches administrators"),
        ("sudo wsguard quota notify --test bert --channel terminals", "The terminals of one workspace's containers"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Verification,
    ],
))]
pub struct NotifyArgs {
    /// Say that a test is meant
    #[arg(long, required = true)]
    pub test: bool,
    /// Workspace, by name or id, whose owner and containers are reached
    #[arg(value_name = "WORKSPACE")]
    pub workspace: Option<String>,
    /// Use one channel only
    #[arg(long, value_name = "CHANNEL")]
    pub channel: Option<Channel>,
}

/// A channel, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Channel {
    /// Terminals of containers
    Terminals,
    /// Login messages
    Login,
    /// Mail
    Mail,
    /// The webhook
    Webhook,
}

impl From<Channel> for DeliveryChannel {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Terminals => Self::Terminals,
            Channel::Login => Self::Login,
            Channel::Mail => Self::Mail,
            Channel::Webhook => Self::Webhook,
        }
    }
}

/// Sends it and prints what became of it.
///
/// # Errors
/// Fails if no daemon answers, or there is no such workspace.
pub(super) fn run(
    args: &NotifyArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let request = NotifyRequest { channel: args.channel.map(Into::into), workspace: args.workspace.clone() };
    let report = Client::new(settings.socket()?)?.notify(&request)?;
    let view = printer.view();
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => printer.data(&table(&report, &view))?,
    }
    let has_failed = |outcome: &NotifyOutcome| matches!(outcome, NotifyOutcome::Failed { .. });
    let is_well = !report.items.iter().any(|item| has_failed(&item.outcome));
    Ok(if is_well { ExitStatus::Success } else { ExitStatus::Verification })
}

fn table(report: &NotifyReport, view: &View) -> String {
    let mut table =
        Table::new([Column::Fixed("CHANNEL"), Column::Fixed("RESULT"), Column::Wrapping("WHERE OR WHY")]);
    for item in &report.items {
        let (result, text) = match &item.outcome {
            NotifyOutcome::Delivered { to } => (Cell::toned("delivered", Tone::Good), to.as_str()),
            NotifyOutcome::Nobody { reason } => (Cell::toned("nobody", Tone::Warning), reason.as_str()),
            NotifyOutcome::Failed { reason } => (Cell::toned("failed", Tone::Bad), reason.as_str()),
            NotifyOutcome::Off => (Cell::toned("off", Tone::Faint), "not configured in [delivery]"),
        };
        table.row([Cell::new(item.channel.word()), result, Cell::new(text)]);
    }
    table.render(view.width)
}
