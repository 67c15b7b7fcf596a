//! `wsguard mount`: guards a directory, with a daemon started for it if none runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use wsguard_api::{ErrorCode, MountAllReport, MountRequest, MountUser, Ownership, Workspace, WorkspaceState};

use crate::client::Client;
use crate::commands::Versioned;
use crate::commands::workspace_rows::{
    backing_sentence, coherence_sentence, data_path_sentence, ownership_word, remarks,
};
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::launch;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, Verbosity, View, count, facts, printable};
use crate::settings::Settings;
use crate::target::{self, quoted};

/// How long the daemon may take to mount; a large tree is not read for it, a slow disk may be.
const MOUNT_LIMIT: Duration = Duration::from_secs(120);

/// Guard a directory in place, for the host and for every container that binds it
///
/// The files stay where they are, plain. If no daemon answers, one is started in the background first.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard mount ~/workspace/bert", "Guard a project's directory"),
        ("sudo wsguard mount /srv/data --name data --owner 1000", "With a name and for an owner"),
        ("sudo wsguard mount /srv/p --at /mnt/p", "Guarded at /mnt/p; /srv/p stays reachable unguarded"),
        ("sudo wsguard mount ~/workspace/bert --force", "Although files in it are open for writing"),
        ("sudo wsguard mount --all", "Every directory below the roots in the config"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Conflict,
        ExitStatus::Denied,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Interrupted,
    ],
))]
pub struct MountArgs {
    /// Directory to guard
    #[arg(value_name = "DIR", required_unless_present = "all")]
    pub dir: Option<PathBuf>,
    /// Guard every directory below the roots in the config
    #[arg(long, conflicts_with_all = ["dir", "name", "owner", "ownership", "at", "force"])]
    pub all: bool,
    /// Call it this; the directory's own name if left out
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Give it to this user; the directory's owner if left out
    #[arg(long, value_name = "UID")]
    pub owner: Option<u32>,
    /// Say whom new files belong to; `squash` if left out, `preserve` if the owner is root
    #[arg(long, value_name = "POLICY")]
    pub ownership: Option<OwnershipArg>,
    /// Mount there instead of over the directory itself
    #[arg(long, value_name = "PATH")]
    pub at: Option<PathBuf>,
    /// Mount although files in it are open for writing
    ///
    /// Writes through files already open bypass the guard until they are closed.
    #[arg(long)]
    pub force: bool,
}

/// Whom new files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OwnershipArg {
    /// Whoever creates them; setuid files and devices are allowed
    Preserve,
    /// The workspace's owner; setuid files, devices and capabilities are refused
    Squash,
}

impl From<OwnershipArg> for Ownership {
    fn from(argument: OwnershipArg) -> Self {
        match argument {
            OwnershipArg::Preserve => Self::Preserve,
            OwnershipArg::Squash => Self::Squash,
        }
    }
}

/// Guards what was named and says what is guarded now.
///
/// # Errors
/// Fails if the directory is not one, no daemon runs or can be started, or the daemon refuses.
pub fn run(args: &MountArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let Some(dir) = &args.dir else {
        let daemon = launch::ensure_daemon(settings, printer, "mount --all")?;
        return mount_all(&daemon.client.with_limit(MOUNT_LIMIT), printer);
    };
    let request = MountRequest {
        dir: target::directory(dir)?,
        name: args.name.clone(),
        owner: args.owner,
        ownership: args.ownership.map(Ownership::from),
        at: args.at.as_deref().map(target::beside_mount).transpose()?,
        force: args.force,
    };
    let purpose = format!("mount {}", quoted(request.dir.as_os_str()));
    let daemon = launch::ensure_daemon(settings, printer, &purpose)?;
    let client = daemon.client.with_limit(MOUNT_LIMIT);
    let mut workspace = match client.mount(&request) {
        Err(error) if daemon.was_started && error.code() == ErrorCode::Conflict => {
            remembered(&request, client.workspaces()?.items).ok_or(error)?
        }
        outcome => outcome?,
    };
    // This command itself, about to end.
    workspace.bypassing.retain(|user| user.pid != std::process::id());
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&Versioned::new(&workspace))?,
        (Format::Text, Verbosity::Quiet) => printer.data(&format!("{}\n", printable(&workspace.id)))?,
        (Format::Text, _) => {
            let view = printer.view();
            printer.data(&summary(&workspace, settings, &view))?;
        }
    }
    if let Some(note) = bypass_note(&workspace) {
        printer.note(&printable(&note));
    }
    Ok(ExitStatus::Success)
}

/// Finds the workspace that was asked for among those that a new daemon mounted by itself, because it had them
/// before: whoever asked has what they wanted.
fn remembered(request: &MountRequest, workspaces: Vec<Workspace>) -> Option<Workspace> {
    let agrees = |workspace: &Workspace| {
        matches!(workspace.state, WorkspaceState::Mounted)
            && workspace.dir == request.dir
            && workspace.mount_point == *request.at.as_ref().unwrap_or(&request.dir)
            && request.name.as_ref().is_none_or(|name| workspace.name == *name)
            && request.owner.is_none_or(|owner| workspace.owner_uid == owner)
            && request.ownership.is_none_or(|ownership| workspace.ownership == ownership)
    };
    workspaces.into_iter().find(agrees)
}

fn mount_all(client: &Client, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let report = client.mount_all()?;
    let view = printer.view();
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&report)?,
        (Format::Text, Verbosity::Quiet) => {
            let ids = report.mounted.iter().map(|workspace| format!("{}\n", printable(&workspace.id)));
            printer.data(&ids.collect::<String>())?;
        }
        (Format::Text, _) => printer.data(&all_text(&report, &view))?,
    }
    for failure in &report.failed {
        let hint = failure.error.hint.as_ref().map_or_else(String::new, |hint| format!(" (hint: {hint})"));
        let line = format!("{}: {}{hint}", failure.dir.display(), failure.error.message);
        printer.complaint(&line);
    }
    Ok(if report.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Failure })
}

/// Returns what is protected, how to use it and how to see it.
fn summary(workspace: &Workspace, settings: &Settings, view: &View) -> String {
    let name = quoted(workspace.name.as_ref());
    let wsguard = own_command(settings);
    format!(
        "{}\n\
         put it into a container:\n{}\n\
         see it:\n  {wsguard} status\n  {wsguard} ls\n\n\
         stop guarding it (the files stay):\n  {wsguard} umount {name}\n{}",
        facts(&protected(workspace, view)),
        container_commands(workspace),
        warnings(workspace, view),
    )
}

fn protected(workspace: &Workspace, view: &View) -> Vec<(&'static str, String)> {
    let owner = view.users.full(workspace.owner_uid);
    let ownership = match workspace.ownership {
        Ownership::Preserve => "new files belong to whoever creates them".to_owned(),
        Ownership::Squash => format!("everything new belongs to {owner}, whoever creates it"),
    };
    let mut pairs = vec![("guarded", workspace.mount_point.display().to_string())];
    if workspace.mount_point != workspace.dir {
        pairs.push(("files", format!("{} (reachable unguarded)", workspace.dir.display())));
    }
    pairs.push(("name", workspace.name.clone()));
    pairs.push(("owner", owner));
    pairs.push(("ownership", format!("{}: {ownership}", ownership_word(workspace.ownership))));
    if let Some(data_path) = &workspace.data_path {
        pairs.push(("data path", data_path_sentence(data_path)));
    }
    if let Some(coherence) = &workspace.coherence {
        pairs.push(("changes", coherence_sentence(coherence)));
    }
    if let Some(backing) = &workspace.backing {
        pairs.push(("backing", backing_sentence(backing)));
    }
    pairs
}

/// Returns the ways into a container that this workspace's paths allow.
fn container_commands(workspace: &Workspace) -> String {
    let mut text = String::new();
    // Docker splits -v at colons and has no way to quote one.
    if !workspace.mount_point.to_string_lossy().contains(':') {
        let bind = quoted(workspace.mount_point.as_os_str());
        text.push_str(&format!("  docker run --rm -it -v {bind}:/workspace IMAGE\n"));
    }
    let mount = format!("type=bind,source={},target=/workspace", workspace.source.display());
    text.push_str(&format!(
        "  docker run --rm -it --mount {} IMAGE   (by the path that only root can change)\n",
        quoted(mount.as_ref())
    ));
    text
}

/// Processes that the note names; the others are counted, `--json` lists them.
const BYPASSING_NAMED: usize = 5;

/// Says who is past the guard, and what brings them behind it.
///
/// A shell's `cd` with an absolute path looks the directory up again and so ends up in the guard; `cd .` does in
/// most shells, but not where they follow the physical path.
fn bypass_note(workspace: &Workspace) -> Option<String> {
    let mut processes: Vec<(&MountUser, Vec<&str>)> = Vec::new();
    for user in &workspace.bypassing {
        match processes.last_mut().filter(|(last, _)| last.pid == user.pid) {
            Some((_, holds)) => holds.push(&user.holds),
            None => processes.push((user, vec![&user.holds])),
        }
    }
    let first = processes.first()?;
    let does = |one: &'static str, many: &'static str| if processes.len() == 1 { one } else { many };
    let named: Vec<String> =
        processes.iter().take(BYPASSING_NAMED).map(|(user, holds)| bypassing_process(user, holds)).collect();
    let more = processes.len().saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    let is_one_container = processes.len() == 1 && first.0.container.is_some();
    let advice = if is_one_container {
        "restart the container".to_owned()
    } else {
        let dir = quoted(workspace.mount_point.as_os_str());
        format!("a shell sees the guard after `cd {dir}`, anything else after a restart")
    };
    Some(format!(
        "{} still {} the plain directory, past the guard: {}{more}; {advice}",
        count(processes.len() as u64, "process"),
        does("uses", "use"),
        named.join(", "),
    ))
}

fn bypassing_process(user: &MountUser, holds: &[&str]) -> String {
    let container = user.container.as_ref().map_or_else(String::new, |id| format!(" in container {id}"));
    format!("{} ({}){container}: {}", user.command, user.pid, holds.join(" and "))
}

/// Returns the program's name with the options that reach the same daemon from any shell.
fn own_command(settings: &Settings) -> String {
    let options = [
        ("--config", &settings.config),
        ("--runtime-dir", &settings.runtime_dir),
        ("--socket", &settings.socket),
    ];
    let mut command =
        settings.program.as_ref().map_or_else(|| "wsguard".to_owned(), |path| quoted(path.as_os_str()));
    // One suffices: the last of them that was named decides.
    if let Some((option, Some(path))) = options.iter().rev().find(|(_, path)| path.is_some()) {
        command.push_str(&format!(" {option} {}", quoted(path.as_os_str())));
    }
    command
}

fn warnings(workspace: &Workspace, view: &View) -> String {
    let lines: String =
        remarks(workspace, view).iter().map(|remark| format!("warning: {}\n", printable(remark))).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn all_text(report: &MountAllReport, view: &View) -> String {
    let mut text = String::new();
    if !report.mounted.is_empty() {
        let mut table =
            Table::new([Column::Fixed("NAME"), Column::Fixed("OWNER"), Column::Wrapping("NEWLY MOUNTED AT")]);
        for workspace in &report.mounted {
            table.row([
                Cell::new(&workspace.name),
                Cell::new(view.users.name(workspace.owner_uid)),
                Cell::toned(workspace.mount_point.to_string_lossy(), Tone::Good),
            ]);
        }
        text.push_str(&table.render(view.width));
        text.push('\n');
    }
    text.push_str(&format!(
        "{} newly mounted, {} mounted before, {} failed\n",
        count(report.mounted.len() as u64, "directory"),
        report.already,
        report.failed.len()
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{view, workspace};

    #[test]
    fn summary_says_what_is_protected_and_how_to_use_and_see_it() {
        let text = summary(&workspace("bert"), &Settings::default(), &view(None));
        for line in [
            "guarded    /home/alice/workspace/bert\n",
            "owner      alice (1000)\n",
            "ownership  squash: everything new belongs to alice (1000), whoever creates it\n",
            "backing    ext4 on device 254:0, 79.1 GiB of 252 GiB free\n",
            "  docker run --rm -it -v /home/alice/workspace/bert:/workspace IMAGE\n",
            "  docker run --rm -it --mount type=bind,source=/run/wsguard/m/bert-7f3a,target=/workspace IMAGE ",
            "  wsguard status\n",
            "  wsguard umount bert\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing:\n{text}");
        }
    }

    #[test]
    fn a_workspace_that_a_new_daemon_remembered_is_what_was_asked_for_if_nothing_differs() {
        let known = workspace("bert");
        let request = MountRequest {
            dir: known.dir.clone(),
            name: None,
            owner: None,
            ownership: None,
            at: None,
            force: false,
        };
        assert!(remembered(&request, vec![known.clone()]).is_some());
        let renamed = MountRequest { name: Some("other".into()), ..request.clone() };
        assert!(remembered(&renamed, vec![known.clone()]).is_none());
        let elsewhere = MountRequest { at: Some("/mnt/b".into()), ..request.clone() };
        assert!(remembered(&elsewhere, vec![known.clone()]).is_none());
        let unmounted = Workspace { state: WorkspaceState::Unmounted, ..known };
        assert!(remembered(&request, vec![unmounted]).is_none());
    }

    #[test]
    fn who_is_past_the_guard_is_named_with_what_helps() {
        let mut known = workspace("bert");
        assert_eq!(bypass_note(&known), None);
        let user = |pid: u32, command: &str, container: Option<&str>, holds: &str| MountUser {
            pid,
            command: command.into(),
            container: container.map(str::to_owned),
            holds: holds.into(),
        };
        known.bypassing = vec![user(9, "python3", Some("0123456789ab"), "mount in its namespace")];
        assert_eq!(
            bypass_note(&known).unwrap(),
            "1 process still uses the plain directory, past the guard: python3 (9) in container 0123456789ab: \
             mount in its namespace; restart the container"
        );
        known.bypassing.push(user(12, "bash", None, "working directory"));
        known.bypassing.push(user(12, "bash", None, "open file"));
        assert_eq!(
            bypass_note(&known).unwrap(),
            "2 processes still use the plain directory, past the guard: python3 (9) in container 0123456789ab: \
             mount in its namespace, bash (12): working directory and open file; a shell sees the guard after `cd \
             /home/alice/workspace/bert`, anything else after a restart"
        );
    }

    #[test]
    fn a_path_with_a_colon_is_offered_by_its_source_only() {
        let mut odd = workspace("bert");
        odd.mount_point = "/home/alice/workspace/a:b".into();
        let text = container_commands(&odd);
        assert!(!text.contains(" -v ") && text.contains("--mount"), "{text}");
    }

    #[test]
    fn a_mount_elsewhere_names_the_unguarded_files_too() {
        let mut elsewhere = workspace("bert");
        elsewhere.mount_point = "/mnt/b c".into();
        let text = summary(&elsewhere, &Settings::default(), &view(None));
        assert!(text.contains("files      /home/alice/workspace/bert (reachable unguarded)\n"), "{text}");
        assert!(text.contains("-v '/mnt/b c':/workspace"), "{text}");
    }

    #[test]
    fn commands_reach_the_same_daemon_again() {
        let private = Settings { runtime_dir: Some("/t/run".into()), ..Settings::default() };
        assert_eq!(own_command(&private), "wsguard --runtime-dir /t/run");
        let socket = Settings { socket: Some("/t/s".into()), program: Some("./a b".into()), ..private };
        assert_eq!(own_command(&socket), "'./a b' --socket /t/s");
    }
}
