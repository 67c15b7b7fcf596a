//! `wsguard verify`: whether what is kept is what it was.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use wsguard_api::{VerifyReport, VerifyRequest};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, bytes, count};
use crate::settings::Settings;
use crate::target;

/// How long reading everything may take.
const LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// Check what is kept of the past of a workspace
///
/// Without --deep it is only looked whether everything is there. What is damaged is marked and never shown again; the
/// snapshots that need it are degraded.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard verify", "Of the workspace that you are in"),
        ("wsguard verify --deep ~/workspace/bert", "Read everything and compare it with its hash"),
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
        ExitStatus::Partial,
    ],
))]
pub struct VerifyArgs {
    /// Workspace, or something in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Read every object and compare it with its hash
    #[arg(long)]
    pub deep: bool,
}

/// Checks and prints what is wrong.
///
/// # Errors
/// Fails if the path is in no mounted workspace.
pub fn run(args: &VerifyArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let request = VerifyRequest { path: target::maybe_missing(&args.path)?, deep: args.deep };
    let report = Client::new(settings.socket()?)?.with_limit(LIMIT).verify(&request)?;
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => {
            printer.data(&text(&report, &printer.view()))?;
            if report.unhashed > 0 {
                printer.note(&format!(
                    "note: {} not hashed yet; that is done in the background",
                    count(report.unhashed, "part")
                ));
            }
        }
    }
    Ok(if report.damaged.is_empty() { ExitStatus::Success } else { ExitStatus::Partial })
}

fn text(report: &VerifyReport, view: &View) -> String {
    let read = if report.bytes > 0 { format!(", {} read", bytes(report.bytes)) } else { String::new() };
    let mut text = format!(
        "{}: {} looked at{read}, {} damaged\n",
        report.workspace,
        count(report.objects, "object"),
        report.damaged.len()
    );
    if report.damaged.is_empty() {
        return text;
    }
    let mut table = Table::new([
        Column::Fixed("OBJECT"),
        Column::Fixed("DAMAGE"),
        Column::Wrapping("FILE"),
        Column::Wrapping("SNAPSHOTS"),
    ]);
    for damaged in &report.damaged {
        let snapshots: Vec<String> = damaged.snapshots.iter().map(ToString::to_string).collect();
        table.row([
            Cell::new(&damaged.object),
            Cell::toned(&damaged.damage, Tone::Bad),
            Cell::new(damaged.path.as_deref().unwrap_or("?")),
            Cell::new(snapshots.join(", ")),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(view.width));
    text
}
