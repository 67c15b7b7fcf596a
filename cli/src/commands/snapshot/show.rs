//! `wsguard snapshot show`.

use clap::Args;
use wsguard_api::{ErrorCode, Snapshot, SnapshotList};

use super::{OfWorkspace, STATUSES, local_time};
use crate::client::Client;
use crate::commands::Versioned;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, View, ago, bytes, facts};
use crate::settings::Settings;

/// Show everything about a snapshot
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[("wsguard snapshot show 17", "By its number"), ("wsguard snapshot show paper", "By its name")],
    &STATUSES,
))]
pub struct ShowArgs {
    /// Number or name
    #[arg(value_name = "ID")]
    pub id: String,
    /// Which workspace.
    #[command(flatten)]
    pub of: OfWorkspace,
}

pub(super) fn run(
    args: &ShowArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let list = Client::new(settings.socket()?)?.snapshots(&args.of.path()?)?;
    let snapshot = find(&list, &args.id)?;
    match printer.format() {
        Format::Json => printer.json(&Versioned::new(snapshot))?,
        Format::Text => printer.data(&text(&list, snapshot, &printer.view()))?,
    }
    Ok(ExitStatus::Success)
}

fn find<'a>(list: &'a SnapshotList, id: &str) -> Result<&'a Snapshot, CliError> {
    let number: Option<u32> = id.parse().ok();
    list.items
        .iter()
        .find(|snapshot| Some(snapshot.id) == number)
        .or_else(|| list.items.iter().rev().find(|snapshot| snapshot.name.as_deref() == Some(id)))
        .ok_or_else(|| {
            CliError::new(ErrorCode::NotFound, format!("{} has no snapshot {id:?}", list.name))
                .with_hint("see `wsguard snapshot ls`")
        })
}

fn text(list: &SnapshotList, snapshot: &Snapshot, view: &View) -> String {
    let kept = match snapshot.kept_because.is_empty() {
        true => "nothing; it goes soon".to_owned(),
        false => snapshot.kept_because.join("; "),
    };
    let mut lines = vec![
        ("snapshot", snapshot.id.to_string()),
        ("workspace", list.name.clone()),
        ("time", format!("{} ({})", local_time(&snapshot.at), ago(&snapshot.at, view.now))),
        ("reason", snapshot.reason.clone()),
    ];
    lines.extend(snapshot.name.iter().map(|name| ("name", name.clone())));
    lines.extend(snapshot.note.iter().map(|note| ("note", note.clone())));
    lines.extend([
        ("taken by", view.users.name(snapshot.uid)),
        ("state", format!("{:?}", snapshot.safety).to_lowercase()),
        ("held", if snapshot.held { "yes" } else { "no" }.to_owned()),
        ("kept because of", kept),
        ("frees if deleted", bytes(snapshot.unique_bytes)),
        ("shared", bytes(snapshot.shared_bytes)),
    ]);
    facts(&lines)
}
