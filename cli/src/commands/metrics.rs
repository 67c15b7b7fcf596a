//! `wsguard metrics`: numbers for monitoring.

use clap::Args;
use serde::Serialize;

use super::Versioned;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;

/// Print the daemon's metrics, in the text format of OpenMetrics
///
/// For root and the group wsguard-admin: they name every user's workspaces. Prometheus reads them from the address in
/// [metrics] listen of the config, or through a collector that runs this command.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard metrics | grep quota_used_bytes", "How much is used, by user and workspace"),
        ("sudo wsguard metrics > /var/lib/node_exporter/wsguard.prom", "For the textfile collector"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct MetricsArgs {}

#[derive(Debug, Serialize)]
struct Text {
    text: String,
}

/// Prints them.
///
/// # Errors
/// Fails if no daemon answers, and for users who may not see them.
pub fn run(_args: &MetricsArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let text = Client::new(settings.socket()?)?.metrics()?;
    match printer.format() {
        Format::Json => printer.json(&Versioned::new(&Text { text }))?,
        Format::Text => printer.data(&text)?,
    }
    Ok(ExitStatus::Success)
}
