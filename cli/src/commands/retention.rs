//! `wsguard retention`: which snapshots stay.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wsguard_api::RetentionPreview;

use super::snapshot::{STATUSES, local_time};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, bytes};
use crate::settings::Settings;
use crate::target;

/// See which snapshots stay, and why
///
/// The rules are in the table [snapshots.retention] of the daemon's config file.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = help::sections(
    &[("wsguard retention preview", "Of the workspace that you are in")],
    &STATUSES,
))]
pub struct RetentionArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RetentionCommand,
}

/// The commands of retention.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each argument struct is the help text of its command")]
pub enum RetentionCommand {
    Preview(PreviewArgs),
}

/// Show what retention would do now
///
/// It does so every ten minutes.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard retention preview", "Of the workspace that you are in"),
        ("wsguard retention preview ~/workspace/bert --json", "For programs"),
    ],
    &STATUSES,
))]
pub struct PreviewArgs {
    /// Workspace, or something in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
}

/// Runs one of them.
///
/// # Errors
/// Fails if the path is in no mounted workspace.
pub fn run(args: &RetentionArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let RetentionCommand::Preview(args) = &args.command;
    let preview = Client::new(settings.socket()?)?.retention_preview(&target::maybe_missing(&args.path)?)?;
    match printer.format() {
        Format::Json => printer.json(&preview)?,
        Format::Text => {
            printer.data(&text(&preview, &printer.view()))?;
            for note in notes(&preview) {
                printer.note(&note);
            }
        }
    }
    Ok(ExitStatus::Success)
}

fn text(preview: &RetentionPreview, view: &View) -> String {
    if preview.items.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        Column::Fixed("DAY"),
        Column::Fixed("TIME"),
        Column::Number("ID"),
        Column::Fixed("REASON"),
        Column::Fixed("STAYS"),
        Column::Wrapping("BECAUSE"),
    ]);
    let mut last_day = "";
    for row in &preview.items {
        let (day, time) = row.at.split_once(' ').unwrap_or((row.at.as_str(), ""));
        // As in a calendar: a day is written once.
        let shown_day = if day == last_day { "" } else { day };
        last_day = day;
        let stays = match row.kept_because.is_empty() {
            true => Cell::toned("no", Tone::Warning),
            false => Cell::new("yes"),
        };
        table.row([
            Cell::new(shown_day),
            Cell::new(time),
            Cell::new(row.id.to_string()),
            Cell::new(&row.reason),
            stays,
            Cell::new(row.kept_because.join("; ")),
        ]);
    }
    table.render(view.width)
}

fn notes(preview: &RetentionPreview) -> Vec<String> {
    let going = preview.items.iter().filter(|row| row.kept_because.is_empty()).count();
    let mut notes = vec![format!(
        "{going} of {} snapshots would go, which gives back {}; times of {}",
        preview.items.len(),
        bytes(preview.frees_bytes),
        preview.zone
    )];
    notes.extend(
        preview.trash_since.iter().map(|since| format!("the trash reaches back to {}", local_time(since))),
    );
    notes.extend(preview.paused.iter().map(|reason| format!("note: nothing is deleted for now: {reason}")));
    notes
}

#[cfg(test)]
mod tests {
    use wsguard_api::RetentionRow;

    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn a_day_is_written_once_and_what_goes_is_said() {
        let row = |id, at: &str, kept: &[&str]| RetentionRow {
            id,
            at: at.to_owned(),
            reason: "auto".to_owned(),
            kept_because: kept.iter().map(|&reason| reason.to_owned()).collect(),
        };
        let preview = RetentionPreview {
            schema: 1,
            workspace: "bert".to_owned(),
            zone: "Europe/London".to_owned(),
            items: vec![
                row(9, "2030-01-02 09:00", &["newest", "daily 1/14"]),
                row(8, "2030-01-02 08:00", &[]),
                row(7, "2030-01-01 08:00", &["daily 2/14"]),
            ],
            frees_bytes: 1 << 20,
            trash_since: None,
            paused: None,
        };
        let text = plain(&text(&preview, &view(Some(80))));
        assert_eq!(text.matches("2030-01-02").count(), 1, "{text}");
        assert!(text.contains("no") && text.contains("daily 2/14"), "{text}");
        assert_eq!(
            notes(&preview),
            ["1 of 3 snapshots would go, which gives back 1.0 MiB; times of Europe/London"]
        );
    }
}
