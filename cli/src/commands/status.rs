//! `wsguard status`: the daemon and everything it holds, on one screen.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use wsguard_api::{
    DaemonStatus, DeliveryChannel, DeliveryStatus, Program, UpgradeEvent, UpgradeOutcome, WorkerEvent,
    WorkspaceState,
};

use crate::client::Client;
use crate::commands::workspace_rows::{
    backing_cell, coherence_cell, data_path_cell, free_cell, history_line, remarks, state_cell,
};
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{
    Cell, Column, Format, Printer, Table, Verbosity, View, ago, bytes, count, duration, elapsed_ms, facts,
    printable,
};
use crate::settings::Settings;

/// Show the daemon, what it guards and what is degraded
///
/// With --quiet only what is degraded is printed.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard status", "One screen for people"),
        ("wsguard status --json | jq '.workspaces[].state.kind'", "For programs"),
        ("watch wsguard status", "Keep looking"),
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
pub struct StatusArgs {}

/// Prints the screen.
///
/// # Errors
/// Fails if no daemon answers.
pub fn run(_args: &StatusArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let status = client.status()?;
    let view = printer.view();
    match printer.format() {
        Format::Json => printer.json(&status)?,
        Format::Text => printer.data(&screen(&status, &client.socket().to_string_lossy(), &view))?,
    }
    Ok(ExitStatus::Success)
}

fn screen(status: &DaemonStatus, socket: &str, view: &View) -> String {
    let mut text = String::new();
    if view.verbosity != Verbosity::Quiet {
        text.push_str(&facts(&daemon_facts(status, socket, view)));
        if !status.workspaces.is_empty() {
            text.push('\n');
            text.push_str(&table(status, view));
            text.push_str(
                &status.workspaces.iter().map(|workspace| history_line(workspace, view)).collect::<String>(),
            );
        }
        text.push_str(&kernel_quota_lines(status));
        text.push_str(&last_words(status));
    }
    let remarks = status.workspaces.iter().flat_map(|workspace| remarks(workspace, view));
    let warnings: Vec<String> = status.warnings.iter().cloned().chain(remarks).collect();
    if !text.is_empty() && !warnings.is_empty() {
        text.push('\n');
    }
    for warning in warnings {
        text.push_str(&format!("warning: {}\n", printable(&warning)));
    }
    text
}

fn daemon_facts(status: &DaemonStatus, socket: &str, view: &View) -> Vec<(&'static str, String)> {
    let config = status.config.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let roots = if status.roots.is_empty() { "none".to_owned() } else { status.roots.join(", ") };
    let mut facts = vec![
        ("daemon", daemon_line(status, view.now)),
        ("processes", processes_line(status)),
        ("restarts", restarts_line(status)),
    ];
    facts.extend(status.events.last().map(|event| ("last", last_death_line(event, view.now))));
    facts.extend(status.upgrades.last().map(|event| ("upgrade", upgrade_line(event, view.now))));
    facts.extend(older_keeper_line(status).map(|line| ("keeper", line)));
    facts.extend([
        ("kernel", status.kernel.clone()),
        ("socket", socket.to_owned()),
        ("state", status.state_dir.display().to_string()),
        ("runtime", status.runtime_dir.display().to_string()),
        ("config", config),
        ("roots", roots),
        ("memory", bytes(status.resident_bytes)),
        ("files", format!("{} of {} descriptors open", status.open_fds, status.fd_limit)),
    ]);
    facts.extend(notices_line(status).map(|line| ("notices", line)));
    facts.push(("workspaces", workspaces_line(status)));
    facts
}

/// Channels that are on, with what did not get through. The login message alone, and in order, is no news.
fn notices_line(status: &DaemonStatus) -> Option<String> {
    let channel = |channel: &DeliveryStatus| {
        let mut text = format!("{} {} sent", channel.channel.word(), channel.delivered);
        let rest = [
            (channel.failed, "failed"),
            (channel.dropped, "dropped"),
            (channel.suppressed, "over the hourly limit"),
        ];
        for (number, what) in rest.iter().filter(|(number, _)| *number > 0) {
            text.push_str(&format!(", {number} {what}"));
        }
        text
    };
    let is_news = |channel: &&DeliveryStatus| {
        let has_lost = channel.failed + channel.dropped + channel.suppressed > 0;
        channel.is_enabled && (has_lost || channel.channel != DeliveryChannel::Login)
    };
    let on: Vec<String> = status.delivery.iter().filter(is_news).map(channel).collect();
    (!on.is_empty()).then(|| on.join("; "))
}

fn daemon_line(status: &DaemonStatus, now: Timestamp) -> String {
    let mut line = format!("wsguard {}", status.version);
    if status.version != env!("CARGO_PKG_VERSION") {
        line.push_str(&format!(" (this command is {})", env!("CARGO_PKG_VERSION")));
    }
    if let Ok(started) = status.started_at.parse::<Timestamp>() {
        let up = Duration::try_from(now.duration_since(started)).unwrap_or(Duration::ZERO);
        line.push_str(&format!(", up {}", duration(up)));
    }
    line
}

fn processes_line(status: &DaemonStatus) -> String {
    let mut line = format!("keeper pid {}, worker pid {}", status.keeper_pid, status.worker_pid);
    if status.generation > 1 {
        line.push_str(&format!(" (generation {})", status.generation));
    }
    line
}

fn restarts_line(status: &DaemonStatus) -> String {
    if status.restarts == 0 {
        return "none".to_owned();
    }
    let resent = count(status.resent_requests, "request");
    format!("{} died; {resent} under way sent again", count(status.restarts, "worker"))
}

fn last_death_line(event: &WorkerEvent, now: Timestamp) -> String {
    let mut line = format!("{}, {}", ago(&event.at, now), printable(&event.reason));
    if let Some(stall) = event.stall_ms {
        line.push_str(&format!("; answers again after {}", elapsed_ms(stall)));
    }
    line
}

fn upgrade_line(event: &UpgradeEvent, now: Timestamp) -> String {
    let outcome = match &event.outcome {
        UpgradeOutcome::Switching => "is under way".to_owned(),
        UpgradeOutcome::Done { generation, stall_ms: None } => format!("done by worker {generation}"),
        UpgradeOutcome::Done { generation, stall_ms: Some(stall) } => {
            format!("done by worker {generation}; answers again after {}", elapsed_ms(*stall))
        }
        UpgradeOutcome::Failed { reason } => format!("failed, {}", printable(reason)),
        UpgradeOutcome::RolledBack { reason } => format!("undone, {}", printable(reason)),
    };
    let (from, to) = (printable(&event.from.version), printable(&event.to.version));
    format!("{}, {from} to {to}: {outcome}", ago(&event.at, now))
}

/// The keeper is replaced by a restart only; said as long as that makes a difference.
fn older_keeper_line(status: &DaemonStatus) -> Option<String> {
    let (keeper, worker) = (status.keeper.as_ref()?, status.worker.as_ref()?);
    let build = |program: &Program| (program.version.clone(), program.build.clone());
    (build(keeper) != build(worker)).then(|| {
        format!(
            "wsguard {} of {}, worker {} of {}",
            printable(&keeper.version),
            printable(&keeper.build),
            printable(&worker.version),
            printable(&worker.build)
        )
    })
}

/// Workspaces that the filesystem below limits, and what is not known of them therefore.
fn kernel_quota_lines(status: &DaemonStatus) -> String {
    let shown =
        status.workspaces.iter().filter_map(|workspace| Some((workspace, workspace.kernel_quota.as_ref()?)));
    let mut text = String::new();
    for (workspace, quota) in shown.filter(|(_, quota)| quota.failure.is_none()) {
        let limit = quota.limit_bytes.map_or_else(|| "no limit".to_owned(), bytes);
        let writers = count(quota.unseen_writers, "open file");
        let writes = if quota.is_ending {
            format!("is turned off and goes when {writers} written past the worker are closed")
        } else {
            format!("writes bypass the worker ({writers}), known per open only, coverage unknown")
        };
        text.push_str(&format!(
            "\nkernel quota of {}: {}, {} of {limit}\n  {writes}\n",
            printable(&workspace.name),
            printable(&quota.mechanism),
            bytes(quota.used_bytes)
        ));
    }
    text
}

/// What the worker that died last had logged before.
fn last_words(status: &DaemonStatus) -> String {
    let Some(event) = status.events.last().filter(|event| !event.log.is_empty()) else {
        return String::new();
    };
    let mut text = format!("\nlast lines of worker {}:\n", event.generation);
    for line in &event.log {
        text.push_str(&format!("  {}\n", printable(line)));
    }
    text
}

fn workspaces_line(status: &DaemonStatus) -> String {
    if status.workspaces.is_empty() {
        return "none; guard one with `sudo wsguard mount DIR`".to_owned();
    }
    let number = |wanted: fn(&WorkspaceState) -> bool| {
        status.workspaces.iter().filter(|workspace| wanted(&workspace.state)).count()
    };
    let counts = [
        (number(|state| matches!(state, WorkspaceState::Mounted)), "mounted"),
        (number(|state| matches!(state, WorkspaceState::Unmounted)), "unmounted"),
        (number(|state| matches!(state, WorkspaceState::Dead)), "dead"),
        (number(|state| matches!(state, WorkspaceState::Failed { .. })), "failed"),
    ];
    let present = counts.iter().filter(|(number, _)| *number > 0);
    present.map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", ")
}

fn table(status: &DaemonStatus, view: &View) -> String {
    let mut table = Table::new([
        Column::Fixed("NAME"),
        Column::Fixed("OWNER"),
        Column::Fixed("STATE"),
        Column::Fixed("DATA PATH"),
        Column::Fixed("CHANGES"),
        Column::Fixed("BACKING"),
        Column::Number("FREE"),
        Column::Number("INODES"),
        Column::Number("OPEN"),
    ]);
    for workspace in &status.workspaces {
        table.row([
            Cell::new(&workspace.name),
            Cell::new(view.users.name(workspace.owner_uid)),
            state_cell(&workspace.state),
            data_path_cell(workspace.data_path.as_ref()),
            coherence_cell(workspace.coherence.as_ref()),
            backing_cell(workspace.backing.as_ref()),
            free_cell(workspace.backing.as_ref()),
            Cell::new(workspace.inodes_known.to_string()),
            Cell::new(workspace.open_handles.to_string()),
        ]);
    }
    table.render(view.width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wsguard_api::KernelQuota;

    use crate::commands::samples::{plain, program, status, view};

    #[test]
    fn notices_are_told_of_where_a_channel_is_configured_or_fails() {
        let of = |channel, failed| DeliveryStatus {
            channel,
            is_enabled: true,
            delivered: 7,
            failed,
            suppressed: 0,
            dropped: 2 * failed,
            last_error: None,
            last_error_at: None,
        };
        let line = |delivery| notices_line(&DaemonStatus { delivery, ..status() });
        assert_eq!(line(vec![of(DeliveryChannel::Login, 0)]), None);
        let both = line(vec![of(DeliveryChannel::Login, 1), of(DeliveryChannel::Mail, 0)]).unwrap();
        assert_eq!(both, "login 7 sent, 1 failed, 2 dropped; mail 7 sent");
        let off = DeliveryStatus { is_enabled: false, ..of(DeliveryChannel::Webhook, 1) };
        assert_eq!(line(vec![off]), None);
    }

    #[test]
    fn screen_fits_80_columns_and_24_lines() {
        let text = plain(&screen(&status(), "/run/wsguard/wsguard.sock", &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
        for value in ["up 3 h", "1 mounted, 1 failed", "12.0 MiB", "43 of 20000", "passthrough", "12 watched"]
        {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
        assert!(text.contains("warning: gpt: could not be mounted: the directory is gone\n"), "{text}");
    }

    #[test]
    fn restarts_are_told_with_the_last_reason_and_stall() {
        let text = plain(&screen(&status(), "/s", &view(Some(80))));
        for value in [
            "worker pid 101 (generation 3)",
            "2 workers died; 14 requests under way sent again",
            "5 min ago, hung: no heartbeat for 5.0 s; answers again after 61 ms",
        ] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
        let calm = DaemonStatus { generation: 1, restarts: 0, events: Vec::new(), ..status() };
        let text = plain(&screen(&calm, "/s", &view(Some(80))));
        let lines = text.lines().filter(|line| line.contains("none")).count();
        assert!(lines >= 1 && !text.contains("ago,") && !text.contains("generation"), "{text}");
    }

    #[test]
    fn status_of_an_older_daemon_is_understood() {
        let mut value = serde_json::to_value(status()).unwrap();
        for field in ["restarts", "events", "resent_requests", "upgrades", "keeper", "worker"] {
            value.as_object_mut().unwrap().remove(field).unwrap();
        }
        let status: DaemonStatus = serde_json::from_value(value).unwrap();
        assert_eq!((status.restarts, status.events.len(), status.resent_requests), (0, 0, 0));
    }

    #[test]
    fn last_lines_of_a_dead_worker_are_shown() {
        let text = plain(&screen(&status(), "/s", &view(Some(80))));
        assert!(
            text.contains("last lines of worker 2:\n  INFO workspace mounted\n  WARN the last"),
            "{text}"
        );
    }

    #[test]
    fn upgrades_and_a_keeper_of_another_build_are_told() {
        let outcomes = [
            (UpgradeOutcome::Switching, "0.0.9 to 0.1.0: is under way"),
            (
                UpgradeOutcome::Done { generation: 3, stall_ms: Some(61) },
                "done by worker 3; answers again after 61 ms",
            ),
            (UpgradeOutcome::Failed { reason: "exit status: 1".into() }, "failed, exit status: 1"),
            (UpgradeOutcome::RolledBack { reason: "3 died".into() }, "undone, 3 died"),
        ];
        for (outcome, value) in outcomes {
            let at = "2030-01-01T11:55:00Z".to_owned();
            let upgrade =
                UpgradeEvent { number: 1, at, from: program("0.0.9"), to: program("0.1.0"), outcome };
            let upgraded =
                DaemonStatus { upgrades: vec![upgrade], keeper: Some(program("0.0.9")), ..status() };
            let text = plain(&screen(&upgraded, "/s", &view(None)));
            assert!(text.contains("5 min ago, 0.0.9 to") && text.contains(value), "{value}:\n{text}");
            assert!(text.contains("keeper      wsguard 0.0.9 of 2029"), "{text}");
        }
        assert!(!plain(&screen(&status(), "/s", &view(None))).contains("keeper  "));
    }

    #[test]
    fn what_the_kernel_limits_is_told_with_what_is_not_known() {
        let mut limited = status();
        let mut quota = KernelQuota {
            mechanism: "btrfs qgroup 0/257".to_owned(),
            limit_bytes: Some(20 << 20),
            used_bytes: 3 << 20,
            unseen_writers: 2,
            failure: None,
            is_ending: false,
        };
        let mut told = |quota: &KernelQuota| {
            limited.workspaces[0].kernel_quota = Some(quota.clone());
            plain(&screen(&limited, "/s", &view(Some(80))))
        };
        let text = told(&quota);
        assert!(text.contains(": btrfs qgroup 0/257, 3.0 MiB of 20.0 MiB\n"), "{text}");
        assert!(text.contains("(2 open files), known per open only, coverage unknown\n"), "{text}");
        quota.is_ending = true;
        let text = told(&quota);
        assert!(text.contains("goes when 2 open files written past the worker are closed\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        // The daemon's warning tells of a failure.
        quota.failure = Some("quotas are off on this btrfs".to_owned());
        assert!(!told(&quota).contains("btrfs qgroup"));
    }

    #[test]
    fn quiet_screen_is_what_is_wrong() {
        let quiet = View { verbosity: Verbosity::Quiet, ..view(None) };
        let text = screen(&status(), "/s", &quiet);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.starts_with("warning: ")), "{text}");
    }
}
