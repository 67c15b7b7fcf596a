//! `wsguard umount`: takes the guard away; the files stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use wsguard_api::{ErrorCode, MountUser, UmountReport, Workspace};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Verbosity, View, count, printable};
use crate::settings::Settings;
use crate::target;

/// How long the daemon may take: it looks for users in every process first.
const UMOUNT_LIMIT: Duration = Duration::from_secs(120);

/// How similar a name must be to be suggested, from 0 to 1.
const SUGGESTION_THRESHOLD: f64 = 0.7;

/// Stop guarding a workspace; its files stay
///
/// A workspace that is in use is detached: who still uses it keeps what it holds and is listed.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard umount bert", "By name"),
        ("sudo wsguard umount ~/workspace/bert", "By directory"),
        ("sudo wsguard umount bert --forget", "And do not mount it again at the daemon's next start"),
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
pub struct UmountArgs {
    /// Name, directory or id of the workspace
    #[arg(value_name = "NAME|DIR|ID")]
    pub workspace: String,
    /// Take it out of the registry too
    #[arg(long)]
    pub forget: bool,
}

/// Unmounts the workspace and says who still uses it.
///
/// # Errors
/// Fails if no or more than one workspace is meant, or the daemon refuses.
pub fn run(args: &UmountArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(UMOUNT_LIMIT);
    let list = client.workspaces()?;
    let workspace = find(&args.workspace, &list.items)?;
    let report = client.umount(&workspace.id, args.forget)?;
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&report)?,
        (Format::Text, Verbosity::Quiet) => {
            printer.data(&format!("{}\n", printable(&report.workspace.id)))?;
        }
        (Format::Text, _) => {
            let view = printer.view();
            printer.data(&text(&report, &view))?;
        }
    }
    Ok(ExitStatus::Success)
}

/// Returns the one workspace that is meant: by id, by name, then by directory.
fn find<'a>(wanted: &str, items: &'a [Workspace]) -> Result<&'a Workspace, CliError> {
    if let Some(workspace) = items.iter().find(|workspace| workspace.id == wanted) {
        return Ok(workspace);
    }
    let named: Vec<&Workspace> = items.iter().filter(|workspace| workspace.name == wanted).collect();
    match named.as_slice() {
        [workspace] => return Ok(workspace),
        [] => {}
        several => return Err(ambiguous(wanted, several)),
    }
    let by_path = |path: PathBuf| {
        let place = |workspace: &&Workspace| workspace.mount_point == path;
        items.iter().find(place).or_else(|| items.iter().find(|workspace| workspace.dir == path))
    };
    let path = Path::new(wanted);
    // The directory itself is touched last, because the mount over it may hang. A path that cannot be looked at
    // names no workspace.
    target::beside_mount(path)
        .ok()
        .and_then(by_path)
        .or_else(|| target::existing(path).ok().and_then(by_path))
        .ok_or_else(|| not_found(wanted, items))
}

fn ambiguous(wanted: &str, several: &[&Workspace]) -> CliError {
    let error = CliError::new(
        ErrorCode::InvalidRequest,
        format!("{} workspaces are named \"{wanted}\"", several.len()),
    );
    several
        .iter()
        .fold(error, |error, workspace| {
            error.because(format!("{} at {}", workspace.id, workspace.mount_point.display()))
        })
        .with_hint("name it by its directory or id")
}

fn not_found(wanted: &str, items: &[Workspace]) -> CliError {
    let error = CliError::new(ErrorCode::NotFound, format!("no workspace is named \"{wanted}\""));
    let candidates = items
        .iter()
        .flat_map(|workspace| [workspace.name.as_str(), workspace.id.as_str()])
        .map(|candidate| (strsim::jaro_winkler(wanted, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SUGGESTION_THRESHOLD);
    match candidates.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, nearest)) => error.with_hint(format!("did you mean \"{nearest}\"? see `wsguard ls`")),
        None => error.with_hint("see `wsguard ls` for what there is"),
    }
}

fn text(report: &UmountReport, view: &View) -> String {
    let workspace = &report.workspace;
    let mut text = if report.detached {
        format!(
            "{} is detached, but still in use by {}:\n\n",
            workspace.name,
            count(report.users.len() as u64, "process")
        )
    } else {
        format!("{} is unmounted\n", workspace.name)
    };
    text = printable_lines(&text);
    if !report.users.is_empty() {
        text.push_str(&users_table(&report.users, view));
        text.push('\n');
    }
    let dir = workspace.dir.display().to_string();
    let next = if report.forgotten {
        "it is forgotten: nothing mounts it again by itself"
    } else {
        "`wsguard mount` guards it again"
    };
    text.push_str(&format!("the files are in {}, unguarded; {next}\n", printable(&dir)));
    text
}

/// Escapes a text line by line.
fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn users_table(users: &[MountUser], view: &View) -> String {
    let mut table = Table::new([
        Column::Number("PID"),
        Column::Fixed("COMMAND"),
        Column::Fixed("CONTAINER"),
        Column::Wrapping("HOLDS"),
    ]);
    for user in users {
        table.row([
            Cell::new(user.pid.to_string()),
            Cell::new(&user.command),
            Cell::new(user.container.as_deref().unwrap_or("–")),
            Cell::new(&user.holds),
        ]);
    }
    table.render(view.width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view, workspace};

    #[test]
    fn a_workspace_is_found_by_id_name_and_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = workspace("here");
        here.dir = dir.path().canonicalize().unwrap();
        here.mount_point = here.dir.clone();
        let items = [workspace("bert"), here];
        assert_eq!(find("bert-7f3a", &items).unwrap().name, "bert");
        assert_eq!(find("bert", &items).unwrap().name, "bert");
        assert_eq!(find(dir.path().to_str().unwrap(), &items).unwrap().name, "here");
    }

    #[test]
    fn a_directory_that_is_gone_still_names_its_workspace() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = workspace("gone");
        gone.dir = dir.path().canonicalize().unwrap().join("gone");
        gone.mount_point = gone.dir.clone();
        let path = gone.dir.clone();
        assert_eq!(find(path.to_str().unwrap(), &[gone]).unwrap().name, "gone");
    }

    #[test]
    fn a_typing_error_gets_the_nearest_name() {
        let error = find("bret", &[workspace("bert"), workspace("gpt")]).unwrap_err();
        assert_eq!(error.exit_status(), ExitStatus::NotFound);
        assert!(error.hint().unwrap().contains("\"bert\""), "{error:?}");
        assert!(!find("zzz", &[workspace("bert")]).unwrap_err().hint().unwrap().contains("did you mean"));
    }

    #[test]
    fn a_name_that_two_users_have_is_refused_with_both_ids() {
        let mut other = workspace("bert");
        other.id = "bert-0002".into();
        let error = find("bert", &[workspace("bert"), other]).unwrap_err();
        assert_eq!(error.exit_status(), ExitStatus::Usage);
        assert_eq!(error.causes().len(), 2);
    }

    #[test]
    fn a_detached_workspace_lists_who_still_uses_it() {
        let report = UmountReport {
            schema: 1,
            workspace: workspace("bert"),
            detached: true,
            users: vec![MountUser {
                pid: 4711,
                command: "python3".into(),
                container: Some("0123456789ab".into()),
                holds: "open file".into(),
            }],
            forgotten: false,
        };
        let text = plain(&text(&report, &view(Some(80))));
        assert!(text.starts_with("bert is detached, but still in use by 1 process:\n"), "{text}");
        assert!(text.contains("4711  python3  0123456789ab  open file"), "{text}");
        assert!(text.contains("/home/alice/workspace/bert, unguarded"), "{text}");
    }
}
