//! `wsguard quota explain`: where limits come from, and which one is reached first.

use std::path::PathBuf;

use clap::Args;
use wsguard_api::{Binding, ExplainedScope, Explanation, QuotaField};

use super::STATUSES;
use super::rows::{remarks, table};
use super::subject::{scope_text, target_text};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, bytes, printable};
use crate::quantity;
use crate::settings::Settings;
use crate::target;

/// Show where the limits of a directory come from, and which one is reached first
///
/// For each scope that a file there is charged to, every level of the policy that was looked at is listed, strongest
/// first; the one that counts is marked.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota explain", "The current directory"),
        ("wsguard quota explain ~/workspace/bert --json", "For programs"),
    ],
    &STATUSES,
))]
pub struct ExplainArgs {
    /// A workspace, or a path inside one
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

/// Prints the chain.
///
/// # Errors
/// Fails if the path is not in a workspace of the caller.
pub(super) fn run(
    args: &ExplainArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let path = target::directory_or_beside(&args.path)?;
    let client = Client::new(settings.socket()?)?;
    let explanation = client.quota_explain(&path.to_string_lossy())?;
    let view = printer.view();
    match printer.format() {
        Format::Json => printer.json(&explanation)?,
        Format::Text => printer.data(&text(&explanation, &view))?,
    }
    Ok(ExitStatus::Success)
}

fn text(explanation: &Explanation, view: &View) -> String {
    let rows: Vec<_> = explanation.scopes.iter().map(|scope| &scope.row).collect();
    let mut text = table(&rows, view);
    text.push('\n');
    text.push_str(&steps_table(&explanation.scopes, view));
    text.push('\n');
    let name = |binding: &Binding| {
        let row = rows.iter().find(|row| row.scope == binding.scope);
        scope_text(&binding.scope, &view.users, row.and_then(|row| row.name.as_deref()))
    };
    text.push_str(&match &explanation.binding_bytes {
        Some(binding) => format!(
            "{} is reached first: {} are left, small files included\n",
            printable(&name(binding)),
            bytes(binding.left)
        ),
        None if rows.iter().any(|row| row.bytes_hard.is_some() && row.used.is_none()) => {
            "what is left is not known: not everything that is used has been counted\n".to_owned()
        }
        None => "nothing limits bytes here\n".to_owned(),
    });
    if let Some(binding) = &explanation.binding_inodes {
        text.push_str(&format!("{}: {} inodes are left\n", printable(&name(binding)), binding.left));
    }
    for remark in rows.iter().flat_map(|row| remarks(row, view)) {
        text.push_str(&format!("{}\n", printable(&remark)));
    }
    text
}

fn steps_table(scopes: &[ExplainedScope], view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("SCOPE"),
        Column::Fixed("WHAT"),
        Column::Fixed("LEVEL"),
        Column::Wrapping("SAYS"),
        Column::Fixed(""),
    ]);
    for scope in scopes {
        let name = scope.row.name.as_deref();
        for field in QuotaField::ALL {
            let steps: Vec<_> = scope.steps.iter().filter(|step| step.field == field).collect();
            // What nobody says, on any level, is not worth a line.
            if steps.iter().all(|step| step.says.is_none()) {
                continue;
            }
            for step in steps {
                table.row([
                    Cell::new(scope_text(&scope.row.scope, &view.users, name)),
                    Cell::new(field.word()),
                    Cell::new(target_text(&step.target, &view.users, name)),
                    match &step.says {
                        Some(says) => Cell::new(says_text(field, says)),
                        None => Cell::toned("–", Tone::Faint),
                    },
                    if step.wins { Cell::toned("counts", Tone::Good) } else { Cell::new("") },
                ]);
            }
        }
    }
    table.render(view.width)
}

fn says_text(field: QuotaField, says: &str) -> String {
    let number = |text: &str| text.parse::<u64>().ok();
    let size = |text: &str| number(text).map_or_else(|| text.to_owned(), bytes);
    match (field, says.split_once('/')) {
        (QuotaField::Bytes, Some((soft, hard))) => format!("soft {}, hard {}", size(soft), size(hard)),
        (QuotaField::Inodes, Some((soft, hard))) => format!("soft {soft}, hard {hard}"),
        (QuotaField::Grace, _) => number(says).map_or_else(|| says.to_owned(), quantity::seconds_text),
        (QuotaField::Headroom, _) => size(says),
        (QuotaField::Bytes | QuotaField::Inodes | QuotaField::Mode | QuotaField::Errno, _) => says.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wsguard_api::{ExplainStep, PolicyTarget, ScopeRef};

    use super::super::rows::tests::row;
    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn the_level_that_counts_and_the_binding_scope_are_shown() {
        let step = |target, says: Option<&str>, wins| ExplainStep {
            field: QuotaField::Bytes,
            target,
            says: says.map(str::to_owned),
            wins,
        };
        let scope = ScopeRef::User { uid: 1000 };
        let explanation = Explanation {
            schema: 1,
            path: "/home/alice/workspace/bert".into(),
            scopes: vec![ExplainedScope {
                row: row(scope.clone(), 1 << 30, Some(10 << 30)),
                steps: vec![
                    step(PolicyTarget::User { uid: 1000 }, None, false),
                    step(PolicyTarget::EachUser { group: "lab".into() }, Some("unlimited/10737418240"), true),
                    step(PolicyTarget::EachUser { group: "default".into() }, Some("1/2"), false),
                ],
            }],
            binding_bytes: Some(Binding { scope, left: 9 << 30 }),
            binding_inodes: None,
        };
        let text = plain(&text(&explanation, &view(None)));
        let winner = text.lines().find(|line| line.ends_with("counts")).unwrap();
        assert!(
            winner.contains("template:lab") && winner.contains("soft unlimited, hard 10.0 GiB"),
            "{text}"
        );
        assert!(text.contains("user:alice is reached first: 9.0 GiB are left"), "{text}");
    }
}
