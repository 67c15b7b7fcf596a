//! Waiting for a restore, with a bar on a terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wsguard_api::{ErrorCode, RestoreJob, RestoreState};

use super::shown;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::output::{Format, Printer, Verbosity, bytes};

/// How long an answer may take: a plan reads directories and compares files.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);
/// The first pause between two looks; it grows to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// Waits until a restore has ended and says what was done.
pub(crate) fn follow(
    client: &Client,
    path: &Path,
    mut job: RestoreJob,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let bar = bar(printer);
    let mut pause = FIRST_PAUSE;
    while matches!(job.state, RestoreState::Planning | RestoreState::Running) {
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_PAUSE);
        job = client.restore_job(path, job.id)?;
        if let Some(bar) = &bar {
            bar.set_length(job.total);
            bar.set_position(job.done);
            let eta = job.eta_seconds.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
            let rate = bytes(job.bytes_per_second.max(0.0) as u64);
            bar.set_message(format!(
                "{} of {}, {rate}/s{eta}",
                bytes(job.done_bytes),
                bytes(job.total_bytes)
            ));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    told(&job, printer)
}

fn bar(printer: &Printer) -> Option<ProgressBar> {
    let is_wanted = printer.format() == Format::Text
        && printer.verbosity() != Verbosity::Quiet
        && std::io::stderr().is_terminal();
    if !is_wanted {
        return None;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is a constant that parses.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} files  {msg}") {
        bar.set_style(style);
    }
    Some(bar)
}

fn told(job: &RestoreJob, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(job)?,
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => printer.data(&shown::ended(job))?,
    }
    for note in &job.notes {
        printer.note(&format!("note: {}", shown::note(note)));
    }
    for failure in &job.failures {
        printer.complaint(&shown::note(failure));
    }
    let more = job.counts.failed.saturating_sub(job.failures.len() as u64);
    if more > 0 {
        printer.complaint(&format!("{more} more could not be restored"));
    }
    match job.state {
        RestoreState::Partial => Ok(ExitStatus::Partial),
        RestoreState::Failed => {
            let reason = job.error.clone().unwrap_or_default();
            // A daemon before this one gave no code.
            let code = job.error_code.unwrap_or(ErrorCode::Internal);
            let error = CliError::new(code, reason);
            Err(match code {
                ErrorCode::Denied => error.with_hint("delete what is not needed, or ask for a higher limit"),
                ErrorCode::NotFound | ErrorCode::Conflict | ErrorCode::Permission => error,
                ErrorCode::InvalidRequest
                | ErrorCode::Unavailable
                | ErrorCode::TimedOut
                | ErrorCode::Internal => error
                    .with_hint(format!("see the daemon's log, then `wsguard restore --resume {}`", job.id)),
            })
        }
        RestoreState::Interrupted => {
            Err(CliError::new(ErrorCode::Internal, format!("restore {} was interrupted", job.id))
                .with_hint(format!("go on with `wsguard restore --resume {}`", job.id)))
        }
        RestoreState::Cancelled | RestoreState::Done | RestoreState::Planning | RestoreState::Running => {
            Ok(ExitStatus::Success)
        }
    }
}

/// Asks on the terminal.
///
/// # Errors
/// If nobody can be asked.
pub(crate) fn is_confirmed(question: &str, printer: &Printer) -> Result<bool, CliError> {
    if printer.format() == Format::Json || !std::io::stdin().is_terminal() {
        return Err(CliError::new(ErrorCode::InvalidRequest, "nobody can be asked before files are changed")
            .with_hint("look at the plan with --dry-run, then run it with --yes"));
    }
    let failed = |source: std::io::Error| CliError::io("cannot ask", &source);
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ").map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
