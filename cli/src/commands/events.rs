//! `wsguard events`: what an operator or an owner may want to know, as it happens.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use wsguard_api::{ErrorCode, Event, EventKind, EventList};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, printable};
use crate::settings::Settings;

/// How long one request waits for the next event. The daemon allows half a minute.
const WAIT_SECONDS: u64 = 20;

/// How long to wait for a daemon that does not answer any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// Show what happened to the daemon and to workspaces
///
/// Starts and deaths of workers, workspaces that are guarded or not any more, limits that are crossed. Users see what
/// concerns their own workspaces and the daemon; root sees everything. Changes of files are in `wsguard log`.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard events", "The last ones"),
        ("wsguard events --follow", "And those to come, until you press Ctrl-C"),
        ("wsguard events --follow --json", "One JSON object a line, for programs"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Interrupted,
    ],
))]
pub struct EventsArgs {
    /// Go on with what happens from now on; a daemon that restarts is waited for
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with at most so many, the newest ones
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=2_000))]
    pub last: u32,
}

/// Prints events, and follows them if asked to.
///
/// # Errors
/// Fails if no daemon answers at first.
pub fn run(args: &EventsArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let first = client.last_events(args.last)?;
    if !args.follow {
        match printer.format() {
            Format::Json => printer.json(&first)?,
            Format::Text => print(&first.events, printer)?,
        }
        return Ok(ExitStatus::Success);
    }
    print(&first.events, printer)?;
    let mut after = first.next;
    let mut is_lost = false;
    loop {
        match client.events_after(after, WAIT_SECONDS) {
            Ok(EventList { events, next, has_gap, .. }) => {
                if std::mem::take(&mut is_lost) {
                    printer.note("the daemon answers again");
                }
                if has_gap {
                    printer.note("note: some events were not kept and are missing here");
                }
                print(&events, printer)?;
                after = next;
            }
            // Being restarted, or killed: what it has told meanwhile is told by the next one.
            Err(error) if matches!(error.code(), ErrorCode::Unavailable | ErrorCode::TimedOut) => {
                if !std::mem::replace(&mut is_lost, true) {
                    printer.note(&format!("the daemon does not answer, waiting for it: {error}"));
                }
                std::thread::sleep(PATIENCE);
            }
            Err(error) => return Err(error),
        }
    }
}

fn print(events: &[Event], printer: &mut Printer) -> Result<(), CliError> {
    for event in events {
        let line = match printer.format() {
            Format::Text => line(event, &TimeZone::system()),
            Format::Json => serde_json::to_string(event).map_err(|source| {
                CliError::new(ErrorCode::Internal, "cannot write an event as JSON")
                    .because(source.to_string())
            })?,
        };
        printer.data(&format!("{line}\n"))?;
    }
    // Whoever reads from a pipe wants it now.
    printer.finish()
}

fn line(event: &Event, zone: &TimeZone) -> String {
    let at = match event.at.parse::<Timestamp>() {
        Ok(at) => at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => event.at.clone(),
    };
    let concerned = event.workspace.as_deref().map_or_else(String::new, |name| format!("{name}: "));
    format!("{at}  {:<14}  {}{}", word(event.kind), printable(&concerned), printable(&event.message))
}

fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::DaemonStarted => "started",
        EventKind::DaemonStopped => "stopped",
        EventKind::WorkerDied => "worker died",
        EventKind::WorkerTookOver => "took over",
        EventKind::Mounted => "guarded",
        EventKind::Unmounted => "unmounted",
        EventKind::MountFailed => "not guarded",
        EventKind::QuotaCrossed => "quota",
        EventKind::QuotaGrace => "quota grace",
        EventKind::QuotaRefused => "write refused",
        EventKind::QuotaChanged => "quota changed",
        EventKind::QuotaDrift => "quota recount",
        EventKind::QuotaForecast => "quota forecast",
        EventKind::QuotaRequested => "more room asked",
        EventKind::QuotaDecided => "request decided",
        EventKind::NoticeTest => "test",
        EventKind::HistoryOff => "history off",
        EventKind::HistoryEvicted => "history evicted",
        EventKind::HistoryLost => "history lost",
        EventKind::HistoryDamaged => "history damaged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_time_kind_workspace_and_message_and_nothing_that_steers_the_terminal() {
        let event = Event {
            id: 1,
            at: "2030-01-01T12:00:00.5Z".to_owned(),
            kind: EventKind::Mounted,
            workspace: Some("be\u{1b}rt".to_owned()),
            owner_uid: Some(1000),
            message: "guarded at /x".to_owned(),
        };
        let text = line(&event, &TimeZone::UTC);
        assert!(text.starts_with("2030-01-01 12:00:00  guarded"), "{text}");
        assert!(text.ends_with("rt: guarded at /x") && !text.contains('\u{1b}'), "{text}");
    }
}
