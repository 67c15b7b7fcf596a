//! `wsguard quota forecast`: when limits will be reached.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use wsguard_api::ScopeRef;

use super::STATUSES;
use super::pace::{GROWTH_DAYS, Paced, paced};
use super::rows::bytes_or_unlimited;
use super::subject::{Directory, scope_text};
use crate::client::Client;
use crate::commands::Versioned;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, bytes, duration, printable};
use crate::settings::Settings;

/// From here on a time is worth a colour.
const SOON: Duration = Duration::from_secs(3 * 86_400);

/// Tell when limits will be reached
///
/// Time until the soft limit and until nothing more can be stored, at the pace of the last day or week, whichever is
/// faster; the soonest first. Of a workspace, what is left is that of its tightest limit or of the disk, and FITS says
/// how often a checkpoint as large as its newest one fits.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota forecast", "Your own limits and workspaces"),
        ("wsguard quota forecast .", "The workspace that you are in"),
        ("sudo wsguard quota forecast --json | jq '.items[] | select(.seconds_to_full < 86400)'", "Full within a day"),
    ],
    &STATUSES,
))]
pub struct ForecastArgs {
    /// User, workspace, directory or group:NAME; everything that you may see if none is named
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
}

#[derive(Debug, Serialize)]
struct Forecasts {
    items: Vec<Paced>,
}

/// Prints the list.
///
/// # Errors
/// Fails if there is no such target or no daemon answers.
pub(super) fn run(
    args: &ForecastArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    let scope = args.target.as_deref().map(|target| directory.scope(target)).transpose()?;
    let mut items = paced(&directory.report, &client.forecast(GROWTH_DAYS)?);
    items.retain(|item| scope.as_ref().is_none_or(|scope| belongs(item, scope)));
    items.sort_by_key(|item| item.seconds_to_full.unwrap_or(u64::MAX));
    if printer.format() == Format::Json {
        printer.json(&Versioned::new(&Forecasts { items }))?;
        return Ok(ExitStatus::Success);
    }
    if items.is_empty() {
        printer.note("there is nothing to tell about that");
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    printer.data(&table(&items, &view))?;
    for item in items.iter().filter(|item| item.bytes_per_day.is_none()) {
        let subject = scope_text(&item.scope, &view.users, item.name.as_deref());
        let note = format!(
            "growth of {subject} is not known: it has not been watched for an hour, or not all of it"
        );
        printer.detail(&format!("note: {}", printable(&note)));
    }
    Ok(ExitStatus::Success)
}

/// The scope itself, and the workspaces of a user.
fn belongs(item: &Paced, scope: &ScopeRef) -> bool {
    let is_own_project = match (&item.scope, scope) {
        (ScopeRef::Project { .. }, ScopeRef::User { uid }) => item.owner_uid == Some(*uid),
        _ => false,
    };
    item.scope == *scope || is_own_project
}

fn table(items: &[Paced], view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("SCOPE"),
        Column::Number("USED"),
        Column::Number("A DAY"),
        Column::Number("LEFT"),
        Column::Number("SOFT IN"),
        Column::Number("FULL IN"),
        Column::Number("FITS"),
    ]);
    for item in items {
        table.row([
            Cell::new(scope_text(&item.scope, &view.users, item.name.as_deref())),
            Cell::new(item.used_bytes.map_or_else(|| "?".to_owned(), bytes)),
            Cell::new(pace_text(item.bytes_per_day)),
            Cell::new(bytes_or_unlimited(item.available_bytes)),
            time_cell(item.seconds_to_soft, Tone::Warning),
            time_cell(item.seconds_to_full, Tone::Bad),
            Cell::new(item.checkpoints_fit.map_or_else(|| "–".to_owned(), |fits| format!("{fits}x"))),
        ]);
    }
    table.render(view.width)
}

/// Returns growth with its sign.
pub(super) fn pace_text(pace: Option<i64>) -> String {
    match pace {
        None => "?".to_owned(),
        Some(0) => "0".to_owned(),
        Some(pace) if pace < 0 => format!("-{}", bytes(pace.unsigned_abs())),
        Some(pace) => format!("+{}", bytes(pace.unsigned_abs())),
    }
}

fn time_cell(seconds: Option<u64>, tone: Tone) -> Cell {
    let Some(seconds) = seconds else { return Cell::new("–") };
    let time = Duration::from_secs(seconds);
    match seconds {
        0 => Cell::toned("now", tone),
        _ if time <= SOON => Cell::toned(duration(time), tone),
        _ => Cell::new(duration(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::tests::reports;
    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn table_tells_time_to_both_limits_and_how_many_checkpoints_fit() {
        let (report, growth) = reports();
        let text = plain(&table(&paced(&report, &growth), &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let line = text.lines().find(|line| line.starts_with("project:b")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["project:b", "40.0", "GiB", "+3.0", "GiB", "9.0", "GiB", "24", "h", "3", "d", "2x"],
            "{text}"
        );
        let user = text.lines().find(|line| line.starts_with("user:alice")).unwrap();
        assert!(user.contains("10 d") && user.trim_end().ends_with('–'), "{text}");
    }

    #[test]
    fn a_target_stands_for_itself_and_for_the_workspaces_of_a_user() {
        let (report, growth) = reports();
        let items = paced(&report, &growth);
        let count = |scope: ScopeRef| items.iter().filter(|item| belongs(item, &scope)).count();
        assert_eq!(count(ScopeRef::User { uid: 1000 }), 1 + owned(&items, 1000));
        assert_eq!(count(ScopeRef::Project { id: "a".into() }), 1);
        assert_eq!(count(ScopeRef::Group { name: "lab".into() }), 0);
    }

    fn owned(items: &[Paced], uid: u32) -> usize {
        let is_owned =
            |item: &&Paced| matches!(item.scope, ScopeRef::Project { .. }) && item.owner_uid == Some(uid);
        items.iter().filter(is_owned).count()
    }

    #[test]
    fn growth_has_a_sign_and_ignorance_a_question_mark() {
        assert_eq!(pace_text(None), "?");
        assert_eq!(pace_text(Some(0)), "0");
        assert_eq!(pace_text(Some(-2048)), "-2.0 KiB");
        assert_eq!(pace_text(Some(2048)), "+2.0 KiB");
    }
}
