//! `wsguard quota audit`: who changed which limit, and why.

use clap::Args;
use wsguard_api::AuditList;

use super::STATUSES;
use super::change::value_text;
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, ago};
use crate::settings::Settings;

/// List the latest changes of limits, newest first: who, what, before, after, why
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota audit", "The latest 100"),
        ("sudo wsguard quota audit --limit 10000 --json", "For programs; 100,000 are kept"),
    ],
    &STATUSES,
))]
pub struct AuditArgs {
    /// List at most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// Prints the list.
///
/// # Errors
/// Fails for users who may not set limits.
pub(super) fn run(
    args: &AuditArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let list = client.quota_audit(args.limit)?;
    if printer.format() == Format::Json {
        printer.json(&list)?;
        return Ok(ExitStatus::Success);
    }
    if list.items.is_empty() {
        printer.note("no limit was ever changed");
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    let text = table(&list, &Directory::read(&client)?, &view);
    printer.data(&text)?;
    Ok(ExitStatus::Success)
}

fn table(list: &AuditList, directory: &Directory<'_>, view: &View) -> String {
    let mut table = Table::new([
        Column::Fixed("WHEN"),
        Column::Fixed("WHO"),
        Column::Wrapping("TARGET"),
        Column::Fixed("WHAT"),
        Column::Wrapping("BEFORE"),
        Column::Wrapping("AFTER"),
        Column::Wrapping("WHY"),
    ]);
    for entry in &list.items {
        let value = |value: &Option<String>| match value {
            Some(value) => Cell::new(value_text(&entry.field, value)),
            None => Cell::toned("–", Tone::Faint),
        };
        table.row([
            Cell::new(ago(&entry.at, view.now)),
            Cell::new(entry.uid.map_or_else(|| "daemon".to_owned(), |uid| view.users.name(uid))),
            Cell::new(directory.shown(&entry.subject)),
            Cell::new(&entry.field),
            value(&entry.before),
            value(&entry.after),
            Cell::new(entry.reason.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(view.width)
}
