//! `wsguard quota top`: who has most, and what grows fastest.

use std::cmp::Reverse;

use clap::Args;
use serde::Serialize;
use wsguard_api::ScopeRef;

use super::STATUSES;
use super::forecast::pace_text;
use super::pace::{GROWTH_DAYS, Paced, paced};
use super::rows::bytes_or_unlimited;
use super::subject::scope_text;
use crate::client::Client;
use crate::commands::Versioned;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, View, bytes};
use crate::settings::Settings;

/// Show who uses most and what grows fastest
///
/// Users and workspaces, largest first, and the workspaces that grow, fastest first. `wsguard top` shows who writes at
/// this moment.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota top", "Find out who fills the disk"),
        ("wsguard quota top", "Your own workspaces"),
        ("sudo wsguard quota top --count 3 --json", "For programs"),
    ],
    &STATUSES,
))]
pub struct TopArgs {
    /// Rows of each list at most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Lists {
    /// Largest first.
    users: Vec<Paced>,
    /// Largest first.
    workspaces: Vec<Paced>,
    /// Workspaces that grow, fastest first.
    growing: Vec<Paced>,
}

/// Prints the lists.
///
/// # Errors
/// Fails if no daemon answers.
pub(super) fn run(
    args: &TopArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let items = paced(&client.quota_report()?, &client.forecast(GROWTH_DAYS)?);
    let lists = lists(&items, usize::try_from(args.count).unwrap_or(usize::MAX));
    match printer.format() {
        Format::Json => printer.json(&Versioned::new(&lists))?,
        Format::Text if lists.users.is_empty() && lists.workspaces.is_empty() => {
            printer.note("nothing is used yet");
        }
        Format::Text => printer.data(&text(&lists, &printer.view()))?,
    }
    Ok(ExitStatus::Success)
}

fn lists(items: &[Paced], count: usize) -> Lists {
    let first = |mut rows: Vec<Paced>| {
        rows.truncate(count);
        rows
    };
    let largest = |is_wanted: fn(&ScopeRef) -> bool| {
        let mut rows: Vec<Paced> = items.iter().filter(|item| is_wanted(&item.scope)).cloned().collect();
        rows.sort_by_key(|item| Reverse(item.used_bytes));
        rows
    };
    let workspaces = largest(|scope| matches!(scope, ScopeRef::Project { .. }));
    let mut growing: Vec<Paced> =
        workspaces.iter().filter(|item| item.bytes_per_day.is_some_and(|pace| pace > 0)).cloned().collect();
    growing.sort_by_key(|item| Reverse(item.bytes_per_day));
    Lists {
        users: first(largest(|scope| matches!(scope, ScopeRef::User { .. }))),
        workspaces: first(workspaces),
        growing: first(growing),
    }
}

fn text(lists: &Lists, view: &View) -> String {
    let sections = [
        ("Users, largest first", &lists.users),
        ("Workspaces, largest first", &lists.workspaces),
        ("Growing fastest", &lists.growing),
    ];
    let sections = sections.iter().filter(|(_, rows)| !rows.is_empty());
    let tables: Vec<String> =
        sections.map(|(title, rows)| format!("{title}\n{}", table(rows, view))).collect();
    tables.join("\n")
}

fn table(rows: &[Paced], view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("SCOPE"),
        Column::Fixed("OWNER"),
        Column::Number("USED"),
        Column::Number("LIMIT"),
        Column::Number("IN A DAY"),
        Column::Number("IN A WEEK"),
    ]);
    for row in rows {
        table.row([
            Cell::new(scope_text(&row.scope, &view.users, row.name.as_deref())),
            Cell::new(row.owner_uid.map_or_else(|| "–".to_owned(), |uid| view.users.name(uid))),
            Cell::new(row.used_bytes.map_or_else(|| "?".to_owned(), bytes)),
            Cell::new(bytes_or_unlimited(row.bytes_hard)),
            Cell::new(pace_text(row.last_day_bytes)),
            Cell::new(pace_text(row.last_week_bytes)),
        ]);
    }
    table.render(view.width)
}

#[cfg(test)]
mod tests {
    use super::super::pace::tests::reports;
    use super::*;
    use crate::commands::samples::{plain, view};

    fn names(rows: &[Paced]) -> Vec<&str> {
        rows.iter().filter_map(|row| row.name.as_deref()).collect()
    }

    #[test]
    fn lists_are_sorted_and_cut() {
        let (report, mut growth) = reports();
        let items = paced(&report, &growth);
        let all = lists(&items, 10);
        assert_eq!((all.users.len(), names(&all.workspaces)), (1, vec!["b", "a"]));
        assert_eq!(names(&all.growing), ["b", "a"]);
        assert_eq!(names(&lists(&items, 1).growing), ["b"]);
        growth.items[1].forecast = None;
        assert_eq!(names(&lists(&paced(&report, &growth), 10).growing), ["a"]);
    }

    #[test]
    fn text_shows_growth_of_users_and_workspaces_in_80_columns() {
        let (report, growth) = reports();
        let text = plain(&text(&lists(&paced(&report, &growth), 10), &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for value in ["user:alice", "+4.0 GiB", "+28.0 GiB", "Growing fastest", "project:b"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
    }
}
