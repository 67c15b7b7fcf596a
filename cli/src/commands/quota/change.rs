//! What all commands that change the policy have in common: options, the request, and telling the plan.

use clap::Args;
use wsguard_api::{KernelEdit, QuotaChange, QuotaEdit, QuotaHit, QuotaPlan, QuotaRequest};

use super::rows::{bytes_or_unlimited, count_or_unlimited};
use super::subject::{Directory, scope_text};
use crate::error::{CliError, ExitStatus};
use crate::output::{Cell, Column, Format, Printer, Table, Tone, Verbosity, View, bytes, count, printable};

/// Options of every change.
#[derive(Clone, Debug, Default, Args)]
pub struct ChangeArgs {
    /// Note why in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only tell what would change and who would be over
    #[arg(long)]
    pub dry_run: bool,
    /// Go on although somebody uses more than they would be allowed; they keep it and may not grow
    #[arg(long)]
    pub allow_over: bool,
}

impl ChangeArgs {
    fn request(&self, edit: QuotaEdit, kernel: Option<KernelEdit>) -> QuotaRequest {
        QuotaRequest {
            edit,
            kernel,
            dry_run: self.dry_run,
            allow_over: self.allow_over,
            reason: self.reason.clone(),
        }
    }
}

/// Sends an edit and tells what came of it.
pub(super) fn make(
    edit: QuotaEdit,
    args: &ChangeArgs,
    directory: &Directory<'_>,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    make_with(edit, None, args, directory, printer)
}

/// As [`make`], and changes who enforces.
pub(super) fn make_with(
    edit: QuotaEdit,
    kernel: Option<KernelEdit>,
    args: &ChangeArgs,
    directory: &Directory<'_>,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let plan = directory.client.quota_change(&args.request(edit, kernel))?;
    let view = printer.view();
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&plan)?,
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => printer.data(&text(&plan, directory, &view))?,
    }
    Ok(ExitStatus::Success)
}

pub(super) fn text(plan: &QuotaPlan, directory: &Directory<'_>, view: &View) -> String {
    let mut text = String::new();
    if plan.changes.is_empty() {
        text.push_str("nothing to change, it is so already\n");
    } else {
        text.push_str(&changes_table(&plan.changes, directory, view));
    }
    if plan.unmentioned > 0 {
        let entries = count(plan.unmentioned, "other entry");
        text.push_str(&format!("{entries} not in the file stay; --prune removes them\n"));
    }
    if !plan.hits.is_empty() {
        let which = if plan.applied { "over now, may not grow" } else { "would be over" };
        text.push_str(&format!("\n{which}:\n{}", hits_table(&plan.hits, view)));
    }
    if plan.unknown > 0 {
        let scopes = count(plan.unknown, "scope");
        text.push_str(&format!("{scopes} may be over: not everything that is used there is known\n"));
    }
    if !plan.applied {
        text.push_str("dry run: nothing is changed\n");
    }
    text
}

fn changes_table(changes: &[QuotaChange], directory: &Directory<'_>, view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("TARGET"),
        Column::Fixed("WHAT"),
        Column::Wrapping("BEFORE"),
        Column::Wrapping("AFTER"),
    ]);
    for change in changes {
        let value = |value: &Option<String>| match value {
            Some(value) => Cell::new(value_text(&change.field, value)),
            None => Cell::toned("–", Tone::Faint),
        };
        table.row([
            Cell::new(directory.shown(&change.subject)),
            Cell::new(&change.field),
            value(&change.before),
            value(&change.after),
        ]);
    }
    table.render(view.width)
}

/// Returns a value of the audit for people: sizes with units, times in days.
pub(super) fn value_text(field: &str, value: &str) -> String {
    let Ok(number) = value.parse::<u64>() else { return value.to_owned() };
    match field {
        "bytes-soft" | "bytes-hard" | "headroom" => bytes(number),
        "grace" => crate::quantity::seconds_text(number),
        _ => value.to_owned(),
    }
}

fn hits_table(hits: &[QuotaHit], view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("SCOPE"),
        Column::Number("USED"),
        Column::Number("LIMIT"),
        Column::Number("INODES"),
        Column::Number("LIMIT"),
    ]);
    for hit in hits {
        table.row([
            Cell::new(printable(&scope_text(&hit.scope, &view.users, hit.name.as_deref()))),
            Cell::new(bytes(hit.used.bytes)),
            Cell::new(bytes_or_unlimited(hit.bytes_hard)),
            Cell::new(hit.used.inodes.to_string()),
            Cell::new(count_or_unlimited(hit.inodes_hard)),
        ]);
    }
    table.render(view.width)
}
