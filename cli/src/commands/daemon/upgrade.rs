//! `wsguard daemon upgrade`: the daemon goes on with another program, on the same mounts.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use wsguard_api::{ErrorCode, Program, SCHEMA_VERSION, UpgradeEvent, UpgradeOutcome, UpgradeRequest};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity, elapsed_ms, printable};
use crate::settings::Settings;
use crate::target;

/// How often the daemon is asked whether it is done.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Let the running daemon go on with another binary, on the same mounts
///
/// The binary is asked first whether it can take over what is there. Then the worker finishes what is under way and
/// makes room; programs and containers that use a workspace wait for that moment and notice nothing else. If the new
/// binary does not come up, the old one serves on. The keeper, which holds the mounts, stays as it is until the daemon
/// is restarted.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard daemon upgrade", "After the package was upgraded"),
        ("sudo wsguard daemon upgrade --binary ./target/release/wsguard", "To a build of your own"),
        ("wsguard status", "See which programs run, and how the last upgrade ended"),
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
pub struct UpgradeArgs {
    /// The new binary; the file that is now where the daemon's own was started from if absent
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    from: &'a Program,
    to: &'a Program,
    generation: u64,
    stall_ms: Option<u64>,
}

/// Asks for the upgrade and waits for how it ends.
///
/// # Errors
/// Fails if the binary is refused or does not come up; the daemon works on as before then.
pub fn run(args: &UpgradeArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let binary = args.binary.as_deref().map(target::existing).transpose()?;
    let client = Client::new(settings.socket()?)?;
    let accepted = client.upgrade(&UpgradeRequest { binary })?;
    printer.detail(&format!("{} makes room for {}", named(&accepted.from), named(&accepted.to)));
    let limit = Duration::from_millis(accepted.limit_ms);
    let event = wait_for_outcome(&client, accepted.number, limit)?;
    let (from, to) = (&event.from, &event.to);
    let (generation, stall_ms) = match event.outcome {
        UpgradeOutcome::Done { generation, stall_ms } => (generation, stall_ms),
        UpgradeOutcome::Failed { ref reason } => return Err(failure(&event, "did not come up", reason)),
        UpgradeOutcome::RolledBack { ref reason } => {
            return Err(failure(&event, "came up and died again", reason));
        }
        UpgradeOutcome::Switching => {
            let message = format!("the upgrade is not over after {} s", limit.as_secs());
            return Err(CliError::new(ErrorCode::TimedOut, message)
                .with_hint("see `wsguard status` and the daemon's log"));
        }
    };
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => {
            printer.json(&Report { schema: SCHEMA_VERSION, from, to, generation, stall_ms })?;
        }
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => printer.data(&text(from, to, generation, stall_ms))?,
    }
    Ok(ExitStatus::Success)
}

/// Asks until the switch is over, or for as long as it can take. The connection that asked for it is gone; the next
/// worker answers.
fn wait_for_outcome(client: &Client, number: u64, limit: Duration) -> Result<UpgradeEvent, CliError> {
    let deadline = Instant::now() + limit;
    loop {
        let found = client.status()?.upgrades.into_iter().find(|event| event.number == number);
        let is_late = Instant::now() >= deadline;
        match found {
            Some(event) if is_late || event.outcome != UpgradeOutcome::Switching => return Ok(event),
            None if is_late => {
                return Err(CliError::new(ErrorCode::Internal, "the daemon knows nothing of the upgrade")
                    .with_hint("it was started again meanwhile: see `wsguard status` and its log"));
            }
            Some(_) | None => thread::sleep(POLL_INTERVAL),
        }
    }
}

fn failure(event: &UpgradeEvent, what: &str, reason: &str) -> CliError {
    let message = format!("{} {what}; {} serves on", named(&event.to), named(&event.from));
    CliError::new(ErrorCode::Internal, message)
        .because(reason)
        .with_hint("see `wsguard status` for the last lines that it logged")
}

fn named(program: &Program) -> String {
    format!(
        "wsguard {} of {} ({})",
        printable(&program.version),
        printable(&program.build),
        printable(&program.path.to_string_lossy())
    )
}

fn text(from: &Program, to: &Program, generation: u64, stall_ms: Option<u64>) -> String {
    let stall = stall_ms.map_or_else(|| "nothing was mounted".to_owned(), elapsed_ms);
    format!(
        "from        {}\nto          {}\ngeneration  {generation}\nstall       {stall}\n",
        named(from),
        named(to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::program;

    #[test]
    fn success_names_both_builds_generation_and_stall() {
        let text = text(&program("0.1.0"), &program("0.2.0"), 4, Some(61));
        for value in ["wsguard 0.1.0 of 2029-12-31T23:59:59Z (/usr/bin/wsguard)", "0.2.0", "  4\n", "61 ms"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
    }

    #[test]
    fn failure_says_which_one_serves_on_and_why() {
        let outcome = UpgradeOutcome::Failed { reason: "exit status: 1".to_owned() };
        let at = "2030-01-01T12:00:00Z".to_owned();
        let event = UpgradeEvent { number: 1, at, from: program("0.1.0"), to: program("0.2.0"), outcome };
        let error = failure(&event, "did not come up", "exit status: 1");
        assert_eq!(error.exit_status(), ExitStatus::Failure);
        let message = error.to_string();
        assert!(message.contains("0.2.0") && message.contains("did not come up; wsguard 0.1.0"), "{message}");
        assert_eq!(error.causes(), ["exit status: 1"]);
    }
}
