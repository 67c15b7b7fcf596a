//! `wsguard daemon`: the one command that enters `wsguard-fs`, and what is done to a daemon that runs.

pub mod upgrade;

use std::error::Error;

use clap::{Args, Subcommand};
use wsguard_api::ErrorCode;
use wsguard_fs::daemon::{self, DaemonError, DaemonOptions, WorkerEnd};

use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::settings::Settings;

/// Run the daemon that holds and answers the guarded mounts
///
/// It runs in the foreground until SIGTERM or SIGINT, then unmounts everything in order. `wsguard mount` starts
/// one in the background where none answers. Its log goes to stderr.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard daemon", "Run it under a supervisor"),
        ("sudo wsguard daemon --state-dir /srv/s --runtime-dir /run/s", "A second one, beside the first"),
        ("sudo wsguard daemon upgrade", "Go on with the binary that was installed meanwhile"),
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
    ],
))]
pub struct DaemonArgs {
    /// Answer the mounts that the keeper handed over
    #[arg(long, hide = true)]
    pub worker: bool,
    /// Leave the terminal's session first, as `wsguard mount` wants it
    #[arg(long, hide = true, conflicts_with = "worker")]
    pub detached: bool,
    /// Tell which versions this build works with, for a daemon that is to be upgraded to it
    #[arg(long, hide = true, conflicts_with_all = ["worker", "detached"])]
    pub versions: bool,
    /// What to do to the daemon that runs.
    #[command(subcommand)]
    pub action: Option<DaemonAction>,
}

/// What can be done to a daemon that runs.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each argument struct is the help text of its command")]
pub enum DaemonAction {
    Upgrade(upgrade::UpgradeArgs),
}

/// Runs the daemon until it is told to end, or does something to the one that runs.
///
/// # Errors
/// Fails if the daemon cannot start or ends otherwise than on request.
pub fn run(args: &DaemonArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    if let Some(DaemonAction::Upgrade(args)) = &args.action {
        return upgrade::run(args, settings, printer);
    }
    if args.versions {
        printer.data(&format!("{}\n", daemon::versions()))?;
        return Ok(ExitStatus::Success);
    }
    let options = DaemonOptions {
        state_dir: settings.state_dir.clone(),
        runtime_dir: settings.runtime_dir.clone(),
        config: settings.config.clone(),
    };
    if args.detached {
        leave_session()?;
    }
    let ended = if args.worker {
        daemon::run_worker(options)
    } else {
        daemon::run(options).map(|()| WorkerEnd::Stopped)
    };
    match ended {
        Ok(WorkerEnd::Stopped) => Ok(ExitStatus::Success),
        Ok(WorkerEnd::KeeperTold(code)) => Ok(code.into()),
        Err(error) => Err(cli_error(&error)),
    }
}

/// Makes the daemon outlive the terminal and its Ctrl-C.
fn leave_session() -> Result<(), CliError> {
    match rustix::process::setsid() {
        Ok(_) => Ok(()),
        Err(errno) => Err(CliError::new(ErrorCode::Internal, "cannot leave the terminal's session")
            .because(std::io::Error::from(errno).to_string())
            .with_hint("run `wsguard daemon` without --detached")),
    }
}

fn cli_error(error: &DaemonError) -> CliError {
    let mut told = CliError::new(error.code(), error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        told = told.because(cause.to_string());
        source = cause.source();
    }
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}
