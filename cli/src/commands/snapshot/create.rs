//! `wsguard snapshot create`.

use std::path::PathBuf;

use clap::Args;
use wsguard_api::SnapshotRequest;

use super::STATUSES;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity};
use crate::settings::Settings;
use crate::target;

/// Take a snapshot
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard snapshot create", "Of the workspace that you are in"),
        ("wsguard snapshot create ~/workspace/bert --name paper --hold", "One that is never deleted by itself"),
        ("wsguard snapshot create --sync", "Return when it survives a power cut"),
    ],
    &STATUSES,
))]
pub struct CreateArgs {
    /// Workspace, or something in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Call it so
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Remember this with it
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Keep it until it is let go with `snapshot unhold`
    #[arg(long)]
    pub hold: bool,
    /// Wait until it survives a power cut; otherwise that takes some seconds more
    #[arg(long)]
    pub sync: bool,
}

pub(super) fn run(
    args: &CreateArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let request = SnapshotRequest {
        path: target::existing(&args.path)?,
        name: args.name.clone(),
        note: args.note.clone(),
        hold: args.hold,
        sync: args.sync,
    };
    let taken = Client::new(settings.socket()?)?.take_snapshot(&request)?;
    match printer.format() {
        Format::Json => printer.json(&taken)?,
        Format::Text if printer.verbosity() == Verbosity::Quiet => {
            printer.data(&format!("{}\n", taken.id))?;
        }
        Format::Text => {
            let name = args.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
            printer.data(&format!("snapshot {}{name} of {} taken\n", taken.id, taken.workspace))?;
        }
    }
    Ok(ExitStatus::Success)
}
