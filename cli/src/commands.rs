//! The commands, one file each: an argument struct whose doc comment is the help text, and `run`.

pub mod browse;
pub mod clean;
pub mod clone;
pub mod completion;
pub mod daemon;
pub mod doctor;
pub mod events;
pub mod log;
pub mod ls;
pub mod metrics;
pub mod mount;
pub mod quota;
pub mod restore;
pub mod retention;
#[cfg(test)]
pub(crate) mod samples;
pub mod snapshot;
pub mod status;
pub mod sync;
pub mod top;
pub mod umount;
pub mod undo;
pub mod usage;
pub mod verify;
pub mod versions;
mod workspace_rows;

use serde::Serialize;
use wsguard_api::SCHEMA_VERSION;

use crate::args::Command;
use crate::error::{CliError, ExitStatus};
use crate::output::Printer;
use crate::settings::Settings;

/// Runs one command.
///
/// # Errors
/// Whatever keeps the command from doing what was asked.
pub fn run(command: &Command, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match command {
        Command::Mount(args) => mount::run(args, settings, printer),
        Command::Umount(args) => umount::run(args, settings, printer),
        Command::Ls(args) => ls::run(args, settings, printer),
        Command::Status(args) => status::run(args, settings, printer),
        Command::Log(args) => log::run(args, settings, printer),
        Command::Top(args) => top::run(args, settings, printer),
        Command::Events(args) => events::run(args, settings, printer),
        Command::Usage(args) => usage::run(args, settings, printer),
        Command::Browse(args) => browse::run(args, settings, printer),
        Command::Clean(args) => clean::run(args, settings, printer),
        Command::Undo(args) => undo::run(args, settings, printer),
        Command::Restore(args) => restore::run(args, settings, printer),
        Command::Clone(args) => clone::run(args, settings, printer),
        Command::Sync(args) => sync::run(args, settings, printer),
        Command::Metrics(args) => metrics::run(args, settings, printer),
        Command::Quota(args) => quota::run(args, settings, printer),
        Command::Snapshot(args) => snapshot::run(args, settings, printer),
        Command::Versions(args) => versions::run(args, settings, printer),
        Command::Retention(args) => retention::run(args, settings, printer),
        Command::Verify(args) => verify::run(args, settings, printer),
        Command::Doctor(args) => doctor::run(args, settings, printer),
        Command::Daemon(args) => daemon::run(args, settings, printer),
        Command::Completion(args) => completion::run(args, printer),
    }
}

/// A wire type that carries no version of its own, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl<'a, T> Versioned<'a, T> {
    fn new(value: &'a T) -> Self {
        Self { schema: SCHEMA_VERSION, value }
    }
}
