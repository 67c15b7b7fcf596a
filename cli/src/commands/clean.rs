//! `wsguard clean`: removes what rules say can go, after asking.

mod removal;

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use wsguard_api::{CleanItem, CleanPlan, EntryType, ErrorCode, IndexState, SCHEMA_VERSION};

use crate::client::Client;
use crate::commands::usage::of_directory;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, Verbosity, View, bytes, count, printable};
use crate::settings::Settings;
use crate::target;

use removal::{Removed, Stays};

/// Items of a rule that are shown, the largest first; `--verbose` shows all.
const SHOWN: usize = 10;

/// Remove caches and leftovers from a workspace
///
/// Shows what each rule found and asks before anything is removed. Files are removed through the mount with your
/// own permissions; what has changed since it was found is left alone. It cannot be undone.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard clean --dry-run", "What could go, in the directory you are in"),
        ("wsguard clean ~/workspace/bert --skip huggingface-cache", "Everything but one rule"),
        ("wsguard clean --only python-bytecode,old-logs --yes", "Two rules, without asking"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
    ],
))]
pub struct CleanArgs {
    /// Workspace, or a directory in one
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Show the plan and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Use these rules only
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Do not use these rules
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub skip: Vec<String>,
}

/// What was removed, as `--json` prints it.
#[derive(Serialize)]
struct CleanReport<'a> {
    schema: u32,
    workspace: &'a str,
    removed: Vec<&'a CleanItem>,
    failed: Vec<Failure<'a>>,
    freed_bytes: u64,
    freed_inodes: u64,
}

#[derive(Serialize)]
struct Failure<'a> {
    path: &'a str,
    reason: String,
}

/// Shows the plan, asks, and removes.
///
/// # Errors
/// Fails if the path is in no workspace, nobody can be asked, or something could not be removed.
pub fn run(args: &CleanArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let path = target::existing(&args.path)?;
    let client = Client::new(settings.socket()?)?;
    let mut plan = client.clean_plan(&path).map_err(of_directory(&path))?;
    select(&mut plan, args)?;
    if args.dry_run || plan.items.is_empty() {
        show(&plan, printer)?;
        return Ok(ExitStatus::Success);
    }
    if !args.yes && (printer.format() == Format::Json || !std::io::stdin().is_terminal()) {
        return Err(CliError::new(ErrorCode::InvalidRequest, "nobody can be asked before files are removed")
            .with_hint("look at the plan with --dry-run, then run it with --yes"));
    }
    if printer.format() == Format::Text {
        show(&plan, printer)?;
    }
    if !args.yes && !is_confirmed(&plan)? {
        printer.note("nothing was removed");
        return Ok(ExitStatus::Success);
    }
    remove(&plan, printer)
}

/// Leaves the rules that are wanted.
fn select(plan: &mut CleanPlan, args: &CleanArgs) -> Result<(), CliError> {
    let is_wanted = |rule: &str| {
        (args.only.is_empty() || args.only.iter().any(|only| only == rule))
            && !args.skip.iter().any(|skip| skip == rule)
    };
    for named in args.only.iter().chain(&args.skip) {
        let is_id = !named.is_empty() && named.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !is_id {
            return Err(CliError::new(ErrorCode::InvalidRequest, format!("{named:?} is not a rule"))
                .with_hint("`wsguard clean --dry-run` names the rules that found something"));
        }
    }
    plan.items.retain(|item| is_wanted(&item.rule));
    plan.rules.retain(|rule| is_wanted(&rule.id));
    Ok(())
}

fn show(plan: &CleanPlan, printer: &mut Printer) -> Result<(), CliError> {
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(plan)?,
        (Format::Text, Verbosity::Quiet) => {
            let paths: String =
                plan.items.iter().map(|item| format!("{}\n", printable(&item.path))).collect();
            printer.data(&paths)?;
        }
        (Format::Text, _) => {
            let view = printer.view();
            printer.data(&text(plan, &view))?;
        }
    }
    for note in notes(plan) {
        printer.note(&format!("note: {note}"));
    }
    Ok(())
}

fn text(plan: &CleanPlan, view: &View) -> String {
    if plan.items.is_empty() {
        return format!("nothing to clean up in {}\n", printable(&plan.name));
    }
    let mut text = String::new();
    for rule in &plan.rules {
        let items: Vec<&CleanItem> = plan.items.iter().filter(|item| item.rule == rule.id).collect();
        let size: u64 = items.iter().map(|item| item.bytes).sum();
        text.push_str(&format!(
            "{}: {}, {} ({})\n",
            printable(&rule.id),
            printable(&rule.title),
            bytes(size),
            printable(&rule.why)
        ));
        let mut table =
            Table::new([Column::Number("SIZE"), Column::Number("INODES"), Column::Wrapping("PATH")]);
        let shown = if view.verbosity == Verbosity::Verbose { items.len() } else { SHOWN };
        for item in items.iter().take(shown) {
            let slash = if item.entry == EntryType::Directory { "/" } else { "" };
            table.row([
                Cell::new(bytes(item.bytes)),
                Cell::new(item.inodes.to_string()),
                Cell::new(format!("{}{slash}", item.path)),
            ]);
        }
        let left_out = items.len().saturating_sub(shown);
        if left_out > 0 {
            table.row([
                Cell::new(""),
                Cell::new(""),
                Cell::toned(format!("and {left_out} more, see --verbose"), Tone::Faint),
            ]);
        }
        text.push_str(&table.render(view.width));
        text.push('\n');
    }
    text.push_str(&format!("{} in all, in {}\n", total(plan), printable(&plan.root.display().to_string())));
    text
}

fn total(plan: &CleanPlan) -> String {
    let size: u64 = plan.items.iter().map(|item| item.bytes).sum();
    let inodes: u64 = plan.items.iter().map(|item| item.inodes).sum();
    format!("{} and {}", bytes(size), count(inodes, "inode"))
}

fn notes(plan: &CleanPlan) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.in_use > 0 {
        notes.push(format!("{} left alone: open for writing", count(plan.in_use, "file")));
    }
    if plan.unnamable > 0 {
        notes.push(format!(
            "{} left alone: the name is not UTF-8; remove it by hand",
            count(plan.unnamable, "entry")
        ));
    }
    match plan.state {
        IndexState::Current => {}
        IndexState::Counting { .. } => {
            notes.push("the workspace is being counted again; there may be more".to_owned());
        }
        IndexState::Unwatched => {
            notes.push("the workspace is not mounted: nothing can be removed".to_owned());
        }
    }
    notes
}

fn is_confirmed(plan: &CleanPlan) -> Result<bool, CliError> {
    let failed = |source: std::io::Error| CliError::io("cannot ask", &source);
    let mut stderr = std::io::stderr();
    write!(stderr, "remove {} for good? This cannot be undone. [y/N] ", total(plan)).map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

fn remove(plan: &CleanPlan, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let workspace = removal::Workspace::open(&plan.root)?;
    let (mut removed, mut failed, mut freed) = (Vec::new(), Vec::new(), Removed::default());
    for item in &plan.items {
        match workspace.remove(item, &mut freed) {
            Ok(()) => {
                printer.detail(&format!("removed {}", printable(&item.path)));
                removed.push(item);
            }
            // The plan may be seconds old.
            Err(Stays::Gone) => printer.detail(&format!("{} is gone already", printable(&item.path))),
            Err(error) => {
                printer.complaint(&format!("{} stays: {error}", item.path));
                failed.push(Failure { path: &item.path, reason: error.to_string() });
            }
        }
    }
    let status = if failed.is_empty() { ExitStatus::Success } else { ExitStatus::Failure };
    match (printer.format(), printer.verbosity()) {
        (Format::Json, _) => printer.json(&CleanReport {
            schema: SCHEMA_VERSION,
            workspace: &plan.workspace,
            removed,
            failed,
            freed_bytes: freed.bytes,
            freed_inodes: freed.inodes,
        })?,
        (Format::Text, Verbosity::Quiet) => {}
        (Format::Text, _) => {
            let freed = format!("{} and {} freed\n", bytes(freed.bytes), count(freed.inodes, "inode"));
            printer.data(&freed)?;
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use wsguard_api::CleanRule;

    use super::*;
    use crate::commands::samples::{plain, view};

    fn args() -> CleanArgs {
        CleanArgs { path: ".".into(), dry_run: true, yes: false, only: Vec::new(), skip: Vec::new() }
    }

    fn plan() -> CleanPlan {
        let rule = |id: &str| CleanRule {
            id: id.to_owned(),
            title: "things".into(),
            why: "they come again".into(),
            idle_hours: 1,
        };
        let item = |path: String, rule: &str| CleanItem {
            path,
            entry: EntryType::Directory,
            ino: 7,
            mtime: 0,
            size: 0,
            bytes: 1 << 30,
            inodes: 3,
            rule: rule.to_owned(),
        };
        let mut items: Vec<CleanItem> =
            (0..12).map(|number| item(format!("d{number}/__pycache__"), "python-bytecode")).collect();
        items.push(item(".cache/pip".into(), "pip-cache"));
        CleanPlan {
            schema: 1,
            generated_at: "2030-01-01T12:00:00Z".into(),
            workspace: "bert-7f3a".into(),
            name: "bert".into(),
            root: "/home/alice/workspace/bert".into(),
            state: IndexState::Current,
            rules: vec![rule("python-bytecode"), rule("pip-cache")],
            items,
            unnamable: 1,
            in_use: 2,
        }
    }

    #[test]
    fn plan_names_rule_size_and_reason_and_shortens_long_lists() {
        let text = plain(&text(&plan(), &view(Some(80))));
        assert!(text.contains("python-bytecode: things, 12.0 GiB (they come again)"), "{text}");
        assert!(text.contains("and 2 more, see --verbose"), "{text}");
        assert!(text.ends_with("13.0 GiB and 39 inodes in all, in /home/alice/workspace/bert\n"), "{text}");
        let verbose = View { verbosity: Verbosity::Verbose, ..view(None) };
        assert!(!super::text(&plan(), &verbose).contains("more, see"), "{text}");
        let notes = notes(&plan());
        assert_eq!(notes[0], "2 files left alone: open for writing");
        assert!(notes[1].starts_with("1 entry left alone"), "{notes:?}");
    }

    #[test]
    fn rules_are_chosen_by_name_and_a_wrong_name_is_refused() {
        let mut only = plan();
        select(&mut only, &CleanArgs { only: vec!["pip-cache".into()], ..args() }).unwrap();
        assert_eq!((only.items.len(), only.rules.len()), (1, 1));
        let mut skipped = plan();
        select(&mut skipped, &CleanArgs { skip: vec!["pip-cache".into()], ..args() }).unwrap();
        assert_eq!((skipped.items.len(), skipped.rules.len()), (12, 1));
        let error = select(&mut plan(), &CleanArgs { only: vec!["../x".into()], ..args() }).unwrap_err();
        assert_eq!(error.exit_status(), ExitStatus::Usage);
    }
}
