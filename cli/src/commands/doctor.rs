//! `wsguard doctor`: what this machine, the daemon and its mounts lack, and what to do about it.
//!
//! It looks and tries, and changes nothing; whatever may hang is asked with a time limit.

mod check;
mod daemon;
mod directory;
mod host;
mod mount_table;
mod mounts;
mod probe;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use wsguard_api::{DaemonStatus, ErrorCode};

pub use check::{Check, DoctorReport, Level};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer};
use crate::settings::Settings;
use crate::target;

/// How long the daemon may take to answer before that is a problem.
const DAEMON_LIMIT: Duration = Duration::from_secs(5);

/// Find out what is wrong, and what to do about it
///
/// Looks at the kernel, privileges, limits, the daemon, its mounts and the filesystems below them, and changes
/// nothing. Warnings leave the exit code at 0; problems set it to 10.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard doctor", "Look at everything"),
        ("sudo wsguard doctor ~/workspace/bert", "And try what the filesystem of a directory can do"),
        ("wsguard doctor --quiet", "Only what is degraded or broken"),
    ],
    &[ExitStatus::Success, ExitStatus::Failure, ExitStatus::Usage, ExitStatus::NotFound, ExitStatus::Verification],
))]
pub struct DoctorArgs {
    /// Directory that is to be guarded
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Looks at everything and prints what was found.
///
/// # Errors
/// Fails if the directory is not one; what is wrong with machine and daemon is the report.
pub fn run(args: &DoctorArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let dir = args.dir.as_deref().map(target::directory).transpose()?;
    let (answer, status) = ask_daemon(&settings.socket()?);
    let mut checks = host::checks(status.as_ref().map(|status| status.worker_pid));
    checks.push(answer);
    checks.extend(status.as_ref().map(daemon::checks).unwrap_or_default());
    match fs::read("/proc/self/mountinfo") {
        Ok(table) => {
            let mounts = mount_table::parse(&table);
            checks.extend(mounts::checks(&mounts, status.as_ref()));
            checks.extend(dir.map(|dir| directory::checks(&dir, &mounts)).unwrap_or_default());
        }
        Err(error) => checks.push(Check::problem(
            "mounts.table",
            format!("the mount table cannot be read: {error}"),
            "mount /proc where wsguard runs",
        )),
    }
    let report = DoctorReport::new(checks, Timestamp::now().to_string());
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => {
            let view = printer.view();
            printer.data(&report.render(&view))?;
        }
    }
    Ok(if report.problems() == 0 { ExitStatus::Success } else { ExitStatus::Verification })
}

/// Returns whether the daemon answers, and what it says.
fn ask_daemon(socket: &Path) -> (Check, Option<DaemonStatus>) {
    const ID: &str = "daemon.answer";
    let asked = Client::new(socket).and_then(|client| {
        let client = client.with_limit(DAEMON_LIMIT);
        if client.is_answering()? { client.status().map(Some) } else { Ok(None) }
    });
    let socket = socket.display();
    match asked {
        Ok(Some(status)) => (Check::ok(ID, format!("a daemon answers on {socket}")), Some(status)),
        Ok(None) => {
            let advice = "start one with `sudo wsguard mount DIR` or `sudo wsguard daemon`";
            (Check::warning(ID, format!("no daemon answers on {socket}: nothing is guarded"), advice), None)
        }
        Err(error) if error.code() == ErrorCode::Permission => {
            (Check::info(ID, format!("the daemon on {socket} cannot be asked by this user")), None)
        }
        Err(error) => {
            let advice = error.hint().unwrap_or("see the daemon's log").to_owned();
            (Check::problem(ID, error.to_string(), advice), None)
        }
    }
}
