//! `wsguard log`: what happened to files, when, and who did it.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use wsguard_api::{
    DeletionState, ErrorCode, LogBy, LogDeletion, LogEntry, LogGap, LogOperation, LogReport, LogRequest,
    RestoreWhen, VersionCertainty,
};

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, Verbosity, View, bytes, count, printable};
use crate::settings::Settings;
use crate::target;
use crate::users::Users;

/// Characters of a container's id that are shown, as `docker ps` does.
const CONTAINER_SHOWN: usize = 12;

/// Show what happened to files, and who did it
///
/// Every change made through the mount is recorded: which file, when, how many bytes, by which user, process and
/// container. Of writes there is one line for each open file and few seconds. The path need not exist any more; what
/// a file went through under an earlier name (such as a temporary file that was renamed) is shown as well.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard log .", "What happened in this directory lately"),
        ("wsguard log --deleted --since 1d ~/workspace/bert", "Who deleted or replaced something since yesterday, and what can be had back"),
        ("wsguard log --deleted src -v", "The same in one directory, with the command that brings each back"),
        ("wsguard log models/latest.pt -n 1000", "Everything about one file, even if it is gone"),
        ("wsguard log --by 4711", "What a process did; its pid on the host"),
        ("wsguard log --by container:3f2a9c --since 09:00", "What a container did this morning; see `docker ps` for ids"),
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
pub struct LogArgs {
    /// Show only this file or what is in this directory; every workspace that you may see if absent
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Show only what these did: a pid, a user's name, or 12 or more digits of a container's id; `pid:`, `user:` or
    /// `container:` before it says which
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// Show only what happened since: a span such as 10m, 2h or 3d, a time such as 09:00, or a date with or without time
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Show only deletions, and files that a rename replaced: how large they were and whether they can be had back
    #[arg(long)]
    pub deleted: bool,
    /// Show at most so many entries, the newest ones
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// Asks and prints the entries, oldest first.
///
/// # Errors
/// Fails if an option cannot be understood or the path is in no workspace.
pub fn run(args: &LogArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let view = printer.view();
    let since =
        args.since.as_deref().map(|since| moment(since, &view.now.to_zoned_datetime(TimeZone::system())));
    let request = LogRequest {
        path: args.path.as_deref().map(target::maybe_missing).transpose()?,
        by: args.by.as_deref().map(|by| who(by, &view.users)).transpose()?,
        since: since.transpose()?.map(|since| since.to_string()),
        deleted: args.deleted,
        limit: args.limit,
    };
    let report = Client::new(settings.socket()?)?.log(&request)?;
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => {
            let base = std::env::current_dir().unwrap_or_default();
            let zone = TimeZone::system();
            if args.deleted {
                printer.data(&deletions(&report.deletions, &base, &zone, &view))?;
                if let Some(hint) = restore_hint(&report.deletions, &base) {
                    printer.note(&hint);
                }
            }
            // Of workspaces that keep no history.
            if !args.deleted || !report.entries.is_empty() || report.deletions.is_empty() {
                printer.data(&text(&report, &base, &zone, &view))?;
            }
            for note in notes(&report, &TimeZone::system()) {
                printer.note(&note);
            }
        }
    }
    Ok(ExitStatus::Success)
}

/// Understands `--by`.
fn who(text: &str, users: &Users) -> Result<LogBy, CliError> {
    let wrong = |message: String| CliError::new(ErrorCode::InvalidRequest, message);
    let pid = |text: &str| text.parse().map(LogBy::Pid).ok();
    let container = |text: &str| {
        let is_id = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then(|| LogBy::Container(text.to_ascii_lowercase()))
    };
    let user = |text: &str| users.uid(text).or_else(|| text.parse().ok()).map(LogBy::Uid);
    match text.split_once(':') {
        Some(("pid", value)) => pid(value).ok_or_else(|| {
            wrong(format!("{value:?} is not a pid")).with_hint("give a number, such as --by pid:4711")
        }),
        Some(("user", value)) => user(value)
            .ok_or_else(|| wrong(format!("no user is called {value:?}")).with_hint("give a name or a uid")),
        Some(("container", value)) => container(value).ok_or_else(|| {
            wrong(format!("{value:?} is not the beginning of a container's id"))
                .with_hint("`docker ps` shows ids; names are not stored")
        }),
        Some(_) | None => pid(text)
            .or_else(|| users.uid(text).map(LogBy::Uid))
            .or_else(|| container(text).filter(|_| text.len() >= CONTAINER_SHOWN))
            .ok_or_else(|| {
                wrong(format!("{text:?} is neither a pid, a user nor a container's id"))
                    .with_hint("say which with pid:NUMBER, user:NAME or container:ID; `docker ps` shows ids")
            }),
    }
}

/// Understands `--since`.
fn moment(text: &str, now: &ZonedDateTime) -> Result<Timestamp, CliError> {
    let wrong = |reason: &str| {
        CliError::new(ErrorCode::InvalidRequest, format!("--since {text:?} {reason}")).with_hint(
            "give a span (10m, 2h, 3d), a time (09:00), or a date (2030-01-31, \"2030-01-31 09:00\")",
        )
    };
    let zone = now.time_zone();
    let in_zone =
        |at: jiff::civil::DateTime| at.to_zoned_datetime(zone.clone()).ok().map(|at| at.timestamp());
    if let Ok(span) = text.parse::<jiff::Span>() {
        if span.is_negative() {
            return Err(wrong("is in the future"));
        }
        return Ok(now.checked_sub(span).map_err(|_| wrong("is too long ago"))?.timestamp());
    }
    let parsed = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<jiff::civil::DateTime>().ok().and_then(in_zone))
        .or_else(|| text.parse::<jiff::civil::Date>().ok().and_then(|date| in_zone(date.at(0, 0, 0, 0))))
        .or_else(|| {
            text.parse::<jiff::civil::Time>().ok().and_then(|time| in_zone(now.date().to_datetime(time)))
        });
    parsed.ok_or_else(|| wrong("is no moment"))
}

fn text(report: &LogReport, base: &Path, zone: &TimeZone, view: &View) -> String {
    if report.entries.is_empty() {
        return match view.verbosity {
            Verbosity::Quiet => String::new(),
            Verbosity::Normal | Verbosity::Verbose => "nothing was recorded\n".to_owned(),
        };
    }
    if view.verbosity == Verbosity::Quiet {
        let paths = report.entries.iter().filter_map(|entry| entry.path.as_deref());
        return paths.map(|path| format!("{}\n", printable(path))).collect();
    }
    let is_verbose = view.verbosity == Verbosity::Verbose;
    let mut columns = vec![
        Column::Fixed("TIME"),
        Column::Fixed("WHAT"),
        Column::Number("BYTES"),
        Column::Wrapping("PATH"),
        Column::Fixed("USER"),
        Column::Fixed("PROCESS"),
        Column::Fixed("CONTAINER"),
    ];
    if is_verbose {
        columns.extend([Column::Number("INODE"), Column::Fixed("RANGE"), Column::Wrapping("COMMAND LINE")]);
    }
    let mut table = Table::new(columns);
    for entry in &report.entries {
        let mut cells = vec![
            Cell::new(shown_time(&entry.at, zone)),
            Cell::toned(word(entry.operation), tone(entry.operation)),
            Cell::new(size(entry)),
            Cell::new(paths(entry, base)),
            Cell::new(view.users.name(entry.uid)),
            Cell::new(process(&entry.command, entry.pid)),
            Cell::new(container(entry.container.as_deref())),
        ];
        if is_verbose {
            let range = if entry.end > 0 { format!("{}-{}", entry.start, entry.end) } else { "-".to_owned() };
            cells.extend([
                Cell::new(entry.inode.to_string()),
                Cell::new(range),
                Cell::new(&entry.command_line),
            ]);
        }
        table.row(cells);
    }
    table.render(view.width)
}

/// What was deleted where history is kept.
fn deletions(list: &[LogDeletion], base: &Path, zone: &TimeZone, view: &View) -> String {
    if list.is_empty() {
        return String::new();
    }
    if view.verbosity == Verbosity::Quiet {
        let paths = list.iter().filter_map(|deletion| deletion.path.as_deref());
        return paths.map(|path| format!("{}\n", printable(path))).collect();
    }
    let is_verbose = view.verbosity == Verbosity::Verbose;
    let mut columns = vec![
        Column::Fixed("TIME"),
        Column::Fixed("WHAT"),
        Column::Number("SIZE"),
        Column::Wrapping("PATH"),
        Column::Fixed("USER"),
        Column::Fixed("PROCESS"),
        Column::Fixed("CONTAINER"),
        Column::Fixed("RESTORE"),
    ];
    if is_verbose {
        columns.extend([Column::Wrapping("COMMAND LINE"), Column::Wrapping("TO RESTORE IT")]);
    }
    let mut table = Table::new(columns);
    for deletion in list {
        let path =
            deletion.path.as_deref().map_or_else(|| "(unknown)".to_owned(), |path| shortened(path, base));
        let mut cells = vec![
            Cell::new(shown_time(&deletion.at, zone)),
            Cell::toned(word(deletion.operation), tone(deletion.operation)),
            Cell::new(deletion.size.map_or_else(|| "-".to_owned(), bytes)),
            Cell::new(path),
            Cell::new(view.users.name(deletion.uid)),
            Cell::new(process(&deletion.command, deletion.pid)),
            Cell::new(container(deletion.container.as_deref())),
            restorable(deletion),
        ];
        if is_verbose {
            let command = restore_command(deletion, base).unwrap_or_else(|| "-".to_owned());
            cells.extend([Cell::new(&deletion.command_line), Cell::new(command)]);
        }
        table.row(cells);
    }
    table.render(view.width)
}

fn restorable(deletion: &LogDeletion) -> Cell {
    match (deletion.state, deletion.certainty) {
        (DeletionState::Restorable, Some(VersionCertainty::Fuzzy)) => Cell::toned("fuzzy", Tone::Warning),
        (DeletionState::Restorable, Some(VersionCertainty::ChangedOutside)) => {
            Cell::toned("changed outside", Tone::Warning)
        }
        (DeletionState::Restorable, Some(VersionCertainty::Damaged)) | (DeletionState::Damaged, _) => {
            Cell::toned("damaged", Tone::Bad)
        }
        (DeletionState::Restorable, Some(VersionCertainty::Exact) | None) => Cell::new("yes"),
        (DeletionState::Returned, _) => Cell::toned("there again", Tone::Faint),
        (DeletionState::NotKept, _) => Cell::toned("no", Tone::Faint),
    }
}

/// The command that brings it back, as it is typed in `base`.
fn restore_command(deletion: &LogDeletion, base: &Path) -> Option<String> {
    let path = shortened(deletion.path.as_deref()?, base);
    // One that begins like an option would be taken for one.
    let path = if path.starts_with('-') { format!("./{path}") } else { path };
    let path = target::quoted(path.as_ref());
    Some(match deletion.restore.as_ref()? {
        RestoreWhen::BeforeDelete => format!("wsguard restore {path} --before-delete"),
        RestoreWhen::At(time) => format!("wsguard restore {path} --at {}", target::quoted(time.as_ref())),
        RestoreWhen::Snapshot(id) => {
            format!("wsguard restore {path} --snapshot {}", target::quoted(id.as_ref()))
        }
        RestoreWhen::BeforeBurst(_) => return None,
    })
}

/// How the last one that can be had back is had back.
fn restore_hint(list: &[LogDeletion], base: &Path) -> Option<String> {
    let command = list.iter().rev().find_map(|deletion| restore_command(deletion, base))?;
    Some(format!("hint: {}; `wsguard log --deleted -v` shows the command for each", printable(&command)))
}

/// What cannot be in the table: what is not there.
fn notes(report: &LogReport, zone: &TimeZone) -> Vec<String> {
    let gap = |gap: &LogGap| {
        let missing = match gap.records {
            Some(records) => count(records, "change"),
            None => "changes".to_owned(),
        };
        format!(
            "note: {}: {missing} may be missing between {} and {}: {}",
            printable(&gap.workspace),
            shown_time(&gap.from, zone),
            shown_time(&gap.to, zone),
            printable(&gap.reason)
        )
    };
    let beginnings = report.beginnings.iter().map(|beginning| {
        format!(
            "note: {}: what happened up to {} is not kept any more",
            printable(&beginning.workspace),
            shown_time(&beginning.removed_up_to, zone)
        )
    });
    report.gaps.iter().map(gap).chain(beginnings).collect()
}

fn shown_time(at: &str, zone: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at.to_owned(),
    }
}

fn word(operation: LogOperation) -> &'static str {
    match operation {
        LogOperation::Create => "created",
        LogOperation::MakeDirectory => "created dir",
        LogOperation::MakeSymlink => "created link",
        LogOperation::MakeNode => "created special",
        LogOperation::Link => "linked",
        LogOperation::Rename => "renamed",
        LogOperation::Exchange => "exchanged",
        LogOperation::Replace => "replaced",
        LogOperation::Unlink => "deleted",
        LogOperation::RemoveDirectory => "deleted dir",
        LogOperation::Write => "wrote",
        LogOperation::Truncate => "resized",
        LogOperation::Allocate => "allocated",
        LogOperation::CopyRange => "copied into",
        LogOperation::SetAttributes => "attributes",
        LogOperation::SetExtendedAttribute => "xattr or acl",
    }
}

fn tone(operation: LogOperation) -> Tone {
    match operation {
        LogOperation::Unlink | LogOperation::RemoveDirectory | LogOperation::Replace => Tone::Bad,
        LogOperation::SetAttributes | LogOperation::SetExtendedAttribute => Tone::Faint,
        LogOperation::Create
        | LogOperation::MakeDirectory
        | LogOperation::MakeSymlink
        | LogOperation::MakeNode
        | LogOperation::Link
        | LogOperation::Rename
        | LogOperation::Exchange
        | LogOperation::Write
        | LogOperation::Truncate
        | LogOperation::Allocate
        | LogOperation::CopyRange => Tone::Plain,
    }
}

/// What was written, or else what was freed.
fn size(entry: &LogEntry) -> String {
    if entry.bytes > 0 {
        return bytes(entry.bytes);
    }
    match entry.delta_bytes {
        0 => "-".to_owned(),
        delta if delta < 0 => format!("-{}", bytes(delta.unsigned_abs())),
        delta => format!("+{}", bytes(delta.unsigned_abs())),
    }
}

fn paths(entry: &LogEntry, base: &Path) -> String {
    let path = match &entry.path {
        Some(path) => shortened(path, base),
        None => format!("(inode {})", entry.inode),
    };
    match &entry.to_path {
        Some(to_path) => format!("{path} -> {}", shortened(to_path, base)),
        None => path,
    }
}

/// Paths below the current directory are shown as they would be typed there.
fn shortened(path: &str, base: &Path) -> String {
    match Path::new(path).strip_prefix(base) {
        Ok(relative) if !relative.as_os_str().is_empty() => relative.to_string_lossy().into_owned(),
        Ok(_) | Err(_) => path.to_owned(),
    }
}

pub(super) fn process(command: &str, pid: u32) -> String {
    match (command, pid) {
        ("", 0) => "-".to_owned(),
        ("", pid) => format!("[{pid}]"),
        (command, pid) => format!("{command}[{pid}]"),
    }
}

pub(super) fn container(id: Option<&str>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.chars().take(CONTAINER_SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    fn entry(operation: LogOperation, path: &str) -> LogEntry {
        LogEntry {
            at: "2030-01-01T11:00:00.000001Z".to_owned(),
            workspace: "bert".to_owned(),
            operation,
            path: Some(path.to_owned()),
            to_path: None,
            inode: 12,
            start: 0,
            end: 0,
            bytes: 0,
            delta_bytes: 0,
            uid: 1000,
            pid: 4711,
            command: "python".to_owned(),
            command_line: "python train.py".to_owned(),
            container: Some("3f2a9c".repeat(10)),
        }
    }

    fn report(entries: Vec<LogEntry>) -> LogReport {
        LogReport {
            schema: 1,
            generated_at: "2030-01-01T12:00:00Z".to_owned(),
            entries,
            deletions: Vec::new(),
            gaps: Vec::new(),
            beginnings: Vec::new(),
        }
    }

    fn shown(report: &LogReport, view: &View) -> String {
        plain(&text(report, Path::new("/home/alice/workspace/bert"), &TimeZone::UTC, view))
    }

    #[test]
    fn entry_says_who_what_when_and_where() {
        let written =
            LogEntry { bytes: 14 << 30, ..entry(LogOperation::Write, "/home/alice/workspace/bert/a.pt") };
        let renamed = LogEntry {
            to_path: Some("/home/alice/workspace/bert/b.pt".to_owned()),
            ..entry(LogOperation::Rename, "/home/alice/workspace/bert/a.pt")
        };
        let deleted =
            LogEntry { delta_bytes: -4096, container: None, ..entry(LogOperation::Unlink, "/elsewhere/x") };
        let text = shown(&report(vec![written, renamed, deleted]), &view(None));
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "2030-01-01 11:00:00 wrote 14.0 GiB a.pt alice python[4711] 3f2a9c3f2a9c");
        assert_eq!(lines[2], "2030-01-01 11:00:00 renamed - a.pt -> b.pt alice python[4711] 3f2a9c3f2a9c");
        assert_eq!(lines[3], "2030-01-01 11:00:00 deleted -4.0 KiB /elsewhere/x alice python[4711] -");
    }

    #[test]
    fn list_fits_100_columns_and_quiet_is_paths() {
        let long = "/home/alice/workspace/bert/".to_owned() + &"directory/".repeat(10) + "file";
        let report = report(vec![entry(LogOperation::Create, &long)]);
        assert!(shown(&report, &view(Some(100))).lines().all(|line| line.chars().count() <= 100));
        let quiet = View { verbosity: Verbosity::Quiet, ..view(None) };
        assert_eq!(shown(&report, &quiet), format!("{long}\n"));
    }

    #[test]
    fn hostile_name_cannot_steer_the_terminal() {
        let text = shown(&report(vec![entry(LogOperation::Create, "/w/\u{1b}[2Jx\ny")]), &view(None));
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text:?}");
    }

    #[test]
    fn deletion_says_whether_and_how_it_can_be_had_back() {
        let base = Path::new("/home/alice/workspace/bert");
        let deletion = |path: &str, state, restore| LogDeletion {
            at: "2030-01-01T11:00:00.000001Z".to_owned(),
            workspace: "bert".to_owned(),
            operation: LogOperation::Unlink,
            kind: Some(wsguard_api::PastKind::File),
            path: Some(base.join(path).to_str().unwrap().to_owned()),
            size: Some(2048),
            uid: 1000,
            pid: 4711,
            command: "rm".to_owned(),
            command_line: "rm -rf src".to_owned(),
            container: None,
            state,
            certainty: None,
            restore,
        };
        let list = [
            deletion("a", DeletionState::Restorable, Some(RestoreWhen::BeforeDelete)),
            deletion("-it's b", DeletionState::Restorable, Some(RestoreWhen::Snapshot("42".to_owned()))),
            deletion("c", DeletionState::NotKept, None),
        ];
        let shown = plain(&deletions(&list, base, &TimeZone::UTC, &view(None)));
        let lines: Vec<String> =
            shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "2030-01-01 11:00:00 deleted 2.0 KiB a alice rm[4711] - yes");
        assert!(lines[3].ends_with("c alice rm[4711] - no"), "{lines:?}");
        let hint = restore_hint(&list, base).unwrap();
        assert!(hint.contains(r"wsguard restore './-it'\''s b' --snapshot 42;"), "{hint}");
        let verbose = View { verbosity: Verbosity::Verbose, ..view(None) };
        let shown = plain(&deletions(&list, base, &TimeZone::UTC, &verbose));
        assert!(shown.contains("wsguard restore a --before-delete"), "{shown}");
        assert_eq!(restore_hint(&list[2..], base), None);
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut report = report(Vec::new());
        report.gaps.push(LogGap {
            workspace: "bert".to_owned(),
            from: "2030-01-01T11:00:00.000000Z".to_owned(),
            to: "2030-01-01T11:00:05.000000Z".to_owned(),
            records: Some(3),
            reason: "the disk was full".to_owned(),
        });
        let notes = notes(&report, &TimeZone::UTC);
        assert_eq!(
            notes,
            [
                "note: bert: 3 changes may be missing between 2030-01-01 11:00:00 and 2030-01-01 11:00:05: the disk was full"
            ]
        );
        assert_eq!(shown(&report, &view(None)), "nothing was recorded\n");
    }

    #[test]
    fn who_is_a_pid_a_user_or_a_container() {
        let users = Users::parse("alice:x:1000:1000::/home/alice:/bin/sh\n");
        let ok = |text: &str| who(text, &users).unwrap();
        assert_eq!(ok("4711"), LogBy::Pid(4711));
        assert_eq!(ok("alice"), LogBy::Uid(1000));
        assert_eq!(ok("user:7"), LogBy::Uid(7));
        assert_eq!(ok("3F2A9C3F2A9C"), LogBy::Container("3f2a9c3f2a9c".to_owned()));
        assert_eq!(ok("container:3"), LogBy::Container("3".to_owned()));
        for wrong in ["", "bob", "3f2a", "pid:x", "user:bob", "container:web", "x:y", "-1"] {
            let error = who(wrong, &users).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn since_is_a_span_a_time_or_a_date() {
        let now: ZonedDateTime = "2030-01-31T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let ok = |text: &str| moment(text, &now).unwrap().to_string();
        assert_eq!(ok("90m"), "2030-01-31T09:30:00Z");
        assert_eq!(ok("3d"), "2030-01-28T11:00:00Z");
        assert_eq!(ok("09:00"), "2030-01-31T08:00:00Z");
        assert_eq!(ok("2030-01-30"), "2030-01-29T23:00:00Z");
        assert_eq!(ok("2030-01-30 10:00"), "2030-01-30T09:00:00Z");
        assert_eq!(ok("2030-01-30T10:00:00Z"), "2030-01-30T10:00:00Z");
        for wrong in ["", "yesterday", "-2h", "25:00", "99999999y"] {
            assert_eq!(moment(wrong, &now).unwrap_err().code(), ErrorCode::InvalidRequest, "{wrong}");
        }
    }
}
