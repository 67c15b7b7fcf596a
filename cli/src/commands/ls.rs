//! `wsguard ls`: the workspaces, or the directories that could be one.

use clap::Args;
use wsguard_api::{UnguardedDirectory, Workspace};

use crate::client::Client;
use crate::commands::workspace_rows::{
    backing_cell, data_path_cell, free_cell, ownership_word, remarks, since_cell, state_cell,
};
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Verbosity, View, count, printable};
use crate::settings::Settings;

/// List the guarded workspaces
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard ls", "Every workspace and its state"),
        ("wsguard ls --verbose", "With owners, ids and the paths to bind into containers"),
        ("wsguard ls --unguarded", "Directories below the configured roots that nobody guards"),
        ("wsguard ls --json", "For programs: `items` and `unguarded`"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct LsArgs {
    /// List the directories below the configured roots that are not guarded, and why
    #[arg(long)]
    pub unguarded: bool,
}

/// Prints the list.
///
/// # Errors
/// Fails if no daemon answers.
pub fn run(args: &LsArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let list = Client::new(settings.socket()?)?.workspaces()?;
    let view = printer.view();
    match (printer.format(), args.unguarded) {
        (Format::Json, _) => printer.json(&list)?,
        (Format::Text, true) => printer.data(&unguarded_text(&list.unguarded, &view))?,
        (Format::Text, false) => {
            printer.data(&workspaces_text(&list.items, &view))?;
            comment(&list.items, &list.unguarded, &view, printer);
        }
    }
    Ok(ExitStatus::Success)
}

/// Says beside the table what the table has no room for.
fn comment(items: &[Workspace], unguarded: &[UnguardedDirectory], view: &View, printer: &mut Printer) {
    if items.is_empty() {
        printer.note("no workspace is guarded; guard one with `sudo wsguard mount DIR`");
    }
    for remark in items.iter().flat_map(|workspace| remarks(workspace, view)) {
        printer.note(&format!("note: {}", printable(&remark)));
    }
    if !unguarded.is_empty() {
        let found = count(unguarded.len() as u64, "directory");
        printer.note(&format!(
            "note: {found} below the configured roots not guarded, see `wsguard ls --unguarded`"
        ));
    }
}

fn workspaces_text(items: &[Workspace], view: &View) -> String {
    match view.verbosity {
        Verbosity::Quiet => items.iter().map(|workspace| format!("{}\n", printable(&workspace.id))).collect(),
        Verbosity::Normal | Verbosity::Verbose if items.is_empty() => String::new(),
        Verbosity::Normal => narrow_table(items, view),
        Verbosity::Verbose => wide_table(items, view),
    }
}

fn narrow_table(items: &[Workspace], view: &View) -> String {
    let mut table = Table::new([
        Column::Fixed("NAME"),
        Column::Fixed("OWNER"),
        Column::Fixed("STATE"),
        Column::Wrapping("MOUNTED AT"),
        Column::Fixed("BACKING"),
        Column::Number("FREE"),
        Column::Fixed("SINCE"),
    ]);
    for workspace in items {
        table.row([
            Cell::new(&workspace.name),
            Cell::new(view.users.name(workspace.owner_uid)),
            state_cell(&workspace.state),
            Cell::new(workspace.mount_point.to_string_lossy()),
            backing_cell(workspace.backing.as_ref()),
            free_cell(workspace.backing.as_ref()),
            since_cell(workspace, view),
        ]);
    }
    table.render(view.width)
}

fn wide_table(items: &[Workspace], view: &View) -> String {
    let mut table = Table::new([
        Column::Fixed("NAME"),
        Column::Fixed("ID"),
        Column::Fixed("OWNER"),
        Column::Fixed("OWNERSHIP"),
        Column::Fixed("STATE"),
        Column::Wrapping("DIRECTORY"),
        Column::Wrapping("MOUNTED AT"),
        Column::Wrapping("SOURCE"),
        Column::Fixed("DATA PATH"),
        Column::Fixed("BACKING"),
        Column::Number("FREE"),
        Column::Fixed("SINCE"),
    ]);
    for workspace in items {
        table.row([
            Cell::new(&workspace.name),
            Cell::new(&workspace.id),
            Cell::new(view.users.full(workspace.owner_uid)),
            Cell::new(ownership_word(workspace.ownership)),
            state_cell(&workspace.state),
            Cell::new(workspace.dir.to_string_lossy()),
            Cell::new(workspace.mount_point.to_string_lossy()),
            Cell::new(workspace.source.to_string_lossy()),
            data_path_cell(workspace.data_path.as_ref()),
            backing_cell(workspace.backing.as_ref()),
            free_cell(workspace.backing.as_ref()),
            since_cell(workspace, view),
        ]);
    }
    table.render(view.width)
}

fn unguarded_text(unguarded: &[UnguardedDirectory], view: &View) -> String {
    if view.verbosity == Verbosity::Quiet {
        let paths = unguarded.iter().map(|directory| directory.dir.to_string_lossy());
        return paths.map(|path| format!("{}\n", printable(&path))).collect();
    }
    if unguarded.is_empty() {
        return "every directory below the configured roots is guarded\n".to_owned();
    }
    let mut table =
        Table::new([Column::Wrapping("DIRECTORY"), Column::Fixed("OWNER"), Column::Wrapping("REASON")]);
    for directory in unguarded {
        table.row([
            Cell::new(directory.dir.to_string_lossy()),
            Cell::new(view.users.name(directory.owner_uid)),
            Cell::new(&directory.reason),
        ]);
    }
    table.render(view.width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view, workspace};

    #[test]
    fn list_fits_80_columns_and_keeps_every_value() {
        let text =
            plain(&workspaces_text(&[workspace("bert"), workspace("a-much-longer-name")], &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for value in ["bert", "alice", "mounted", "ext4", "79.1 GiB", "1 h ago"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
    }

    #[test]
    fn piped_list_has_one_line_a_workspace() {
        let text = plain(&workspaces_text(&[workspace("bert")], &view(None)));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("/home/alice/workspace/bert"), "{text}");
    }

    #[test]
    fn quiet_list_is_ids_and_verbose_list_has_the_bind_source() {
        let quiet = View { verbosity: Verbosity::Quiet, ..view(None) };
        assert_eq!(workspaces_text(&[workspace("bert")], &quiet), "bert-7f3a\n");
        let verbose = View { verbosity: Verbosity::Verbose, ..view(None) };
        assert!(workspaces_text(&[workspace("bert")], &verbose).contains("/run/wsguard/m/bert-7f3a"));
    }

    #[test]
    fn unguarded_directories_come_with_their_reason() {
        let found = [UnguardedDirectory {
            dir: "/home/a/workspace/x".into(),
            owner_uid: 7,
            reason: "not mounted yet".into(),
        }];
        let text = plain(&unguarded_text(&found, &view(None)));
        assert!(text.contains("/home/a/workspace/x  7      not mounted yet"), "{text}");
        assert!(unguarded_text(&[], &view(None)).starts_with("every directory"));
    }
}
