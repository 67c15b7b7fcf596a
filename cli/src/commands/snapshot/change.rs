//! `wsguard snapshot rm`, `hold` and `unhold`.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use wsguard_api::{ErrorCode, SnapshotAction, SnapshotChange, SnapshotChanged};

use super::{OfWorkspace, STATUSES};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, bytes, count};
use crate::settings::Settings;

/// Delete snapshots
///
/// What only they needed is given back within a minute. Files of the workspace are not touched. A snapshot that is held
/// is refused.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard snapshot rm 17 18", "Delete two, after a question"),
        ("wsguard snapshot rm paper --dry-run", "See what that would give back"),
    ],
    &STATUSES,
))]
pub struct RmArgs {
    /// Numbers or names
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Which workspace.
    #[command(flatten)]
    pub of: OfWorkspace,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Say what it would give back, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Keep snapshots until they are let go
#[derive(Debug, Args)]
#[command(after_help = help::sections(&[("wsguard snapshot hold paper", "Retention does not delete it")], &STATUSES))]
pub struct HoldArgs {
    /// Numbers or names
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Which workspace.
    #[command(flatten)]
    pub of: OfWorkspace,
}

/// Let go of snapshots that are held
#[derive(Debug, Args)]
#[command(after_help = help::sections(&[("wsguard snapshot unhold paper", "Retention decides again")], &STATUSES))]
pub struct UnholdArgs {
    /// Numbers or names
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Which workspace.
    #[command(flatten)]
    pub of: OfWorkspace,
}

pub(super) fn remove(
    args: &RmArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let request = |dry_run| {
        let path = args.of.path()?;
        Ok::<_, CliError>(SnapshotChange {
            path,
            ids: args.ids.clone(),
            action: SnapshotAction::Remove,
            dry_run,
        })
    };
    let plan = client.change_snapshots(&request(true)?)?;
    if args.dry_run {
        return tell(&plan, "would be deleted", printer);
    }
    if !args.yes {
        if printer.format() == Format::Json || !std::io::stdin().is_terminal() {
            return Err(CliError::new(
                ErrorCode::InvalidRequest,
                "nobody can be asked before snapshots are deleted",
            )
            .with_hint("look at the plan with --dry-run, then run it with --yes"));
        }
        if !is_confirmed(&plan)? {
            printer.note("nothing was deleted");
            return Ok(ExitStatus::Success);
        }
    }
    let done = client.change_snapshots(&request(false)?)?;
    tell(&done, "deleted", printer)
}

pub(super) fn hold(
    args: &HoldArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    change((&args.ids, &args.of), SnapshotAction::Hold, settings, printer)
}

pub(super) fn unhold(
    args: &UnholdArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    change((&args.ids, &args.of), SnapshotAction::Unhold, settings, printer)
}

fn change(
    (ids, of): (&[String], &OfWorkspace),
    action: SnapshotAction,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let request = SnapshotChange { path: of.path()?, ids: ids.to_vec(), action, dry_run: false };
    let done = Client::new(settings.socket()?)?.change_snapshots(&request)?;
    tell(&done, if action == SnapshotAction::Hold { "held" } else { "let go" }, printer)
}

fn tell(done: &SnapshotChanged, what: &str, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match printer.format() {
        Format::Json => printer.json(done)?,
        Format::Text => {
            let ids: Vec<String> = done.ids.iter().map(ToString::to_string).collect();
            let frees = match done.frees_bytes {
                0 => String::new(),
                frees => format!("; gives back {}", bytes(frees)),
            };
            printer.data(&format!("{what}: {}{frees}\n", ids.join(", ")))?;
        }
    }
    Ok(ExitStatus::Success)
}

fn is_confirmed(plan: &SnapshotChanged) -> Result<bool, CliError> {
    let failed = |source: std::io::Error| CliError::io("cannot ask", &source);
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "delete {} of {}, which gives back {}? This cannot be undone. [y/N] ",
        count(plan.ids.len() as u64, "snapshot"),
        plan.workspace,
        bytes(plan.frees_bytes)
    )
    .map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
