//! `wsguard quota report`: every scope on one screen.

use std::cmp::Reverse;

use clap::{Args, ValueEnum};
use wsguard_api::{QuotaReport, QuotaRow, QuotaState, ScopeRef};

use super::STATUSES;
use super::rows::{percent, remarks, table};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, Verbosity, printable};
use crate::settings::Settings;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Pools, groups, users, workspaces, each by name
    Scope,
    /// Largest use first
    Used,
    /// Fullest first
    Full,
}

/// Which rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Filesystems
    Pool,
    /// Groups
    Group,
    /// Users
    User,
    /// Workspaces
    Project,
}

/// List the limits and the use of everything that you may see
///
/// With --quiet only what is over, expired or in its grace period is listed.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota report", "Everything"),
        ("sudo wsguard quota report --only user --sort used", "The users, largest first"),
        ("sudo wsguard quota report --json | jq '.items[].used.bytes'", "For programs"),
    ],
    &STATUSES,
))]
pub struct ReportArgs {
    /// Sort by this
    #[arg(long, value_name = "KEY", default_value = "scope")]
    pub sort: Sort,
    /// List only this kind
    #[arg(long, value_name = "KIND")]
    pub only: Option<Kind>,
}

/// Prints the list.
///
/// # Errors
/// Fails if no daemon answers.
pub(super) fn run(
    args: &ReportArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let mut report = Client::new(settings.socket()?)?.quota_report()?;
    arrange(&mut report, args, printer.verbosity());
    if printer.format() == Format::Json {
        printer.json(&report)?;
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    let rows: Vec<&QuotaRow> = report.items.iter().collect();
    if rows.is_empty() {
        printer.note("nothing to report");
        return Ok(ExitStatus::Success);
    }
    printer.data(&table(&rows, &view))?;
    for remark in rows.iter().flat_map(|row| remarks(row, &view)) {
        printer.detail(&format!("note: {}", printable(&remark)));
    }
    Ok(ExitStatus::Success)
}

fn arrange(report: &mut QuotaReport, args: &ReportArgs, verbosity: Verbosity) {
    report.items.retain(|row| {
        let is_wanted = args.only.is_none_or(|only| only == kind(&row.scope));
        is_wanted && (verbosity != Verbosity::Quiet || is_wrong(row.state))
    });
    match args.sort {
        // As the daemon sends them.
        Sort::Scope => {}
        Sort::Used => report.items.sort_by_key(|row| Reverse(row.used.map(|used| used.bytes))),
        Sort::Full => report.items.sort_by_key(|row| Reverse(percent(row))),
    }
}

fn kind(scope: &ScopeRef) -> Kind {
    match scope {
        ScopeRef::Pool { .. } => Kind::Pool,
        ScopeRef::Group { .. } => Kind::Group,
        ScopeRef::User { .. } => Kind::User,
        ScopeRef::Project { .. } => Kind::Project,
    }
}

fn is_wrong(state: QuotaState) -> bool {
    match state {
        QuotaState::Soft | QuotaState::Grace | QuotaState::Expired | QuotaState::Over => true,
        QuotaState::Ok | QuotaState::Estimated | QuotaState::Unmounted | QuotaState::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    fn report() -> QuotaReport {
        let small = row(ScopeRef::User { uid: 1 }, 10, Some(10));
        let mut large = row(ScopeRef::User { uid: 2 }, 20, Some(100));
        large.state = QuotaState::Over;
        let project = row(ScopeRef::Project { id: "w".into() }, 5, None);
        QuotaReport {
            schema: 1,
            generated_at: String::new(),
            is_admin: true,
            items: vec![small, large, project],
        }
    }

    fn arranged(sort: Sort, only: Option<Kind>, verbosity: Verbosity) -> Vec<u64> {
        let mut report = report();
        arrange(&mut report, &ReportArgs { sort, only }, verbosity);
        report.items.iter().map(|row| row.used.unwrap().bytes).collect()
    }

    #[test]
    fn rows_are_sorted_and_chosen() {
        assert_eq!(arranged(Sort::Scope, None, Verbosity::Normal), [10, 20, 5]);
        assert_eq!(arranged(Sort::Used, None, Verbosity::Normal), [20, 10, 5]);
        assert_eq!(arranged(Sort::Full, None, Verbosity::Normal), [10, 20, 5]);
        assert_eq!(arranged(Sort::Used, Some(Kind::Project), Verbosity::Normal), [5]);
        assert_eq!(arranged(Sort::Scope, None, Verbosity::Quiet), [20]);
    }
}
