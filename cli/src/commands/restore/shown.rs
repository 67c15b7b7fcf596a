//! Plans, restores and bursts of deletions as text.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use wsguard_api::{
    RestoreCounts, RestoreJob, RestoreJobs, RestoreKind, RestoreNote, RestorePlan, RestoreState, UndoBurst,
    UndoList,
};

use crate::output::{Cell, Column, Table, View, bytes, count, printable};

/// Returns a plan.
pub(crate) fn plan(plan: &RestorePlan, zone: &TimeZone) -> String {
    let mut text = String::new();
    for origin in &plan.origins {
        let when = origin.at.as_deref().map_or_else(|| "now".to_owned(), |at| local(at, zone));
        text.push_str(&format!("{} as of {when}\n", printable(&origin.path)));
    }
    text.push_str(&format!("{}\n", counts(&plan.counts, "would be")));
    let left = plan.available_bytes.map_or_else(String::new, |left| format!(" of {} free", bytes(left)));
    text.push_str(&format!("takes {}{left}\n", bytes(plan.needed_bytes)));
    for line in &plan.notes {
        text.push_str(&format!("  {}\n", note(line)));
    }
    text
}

/// Returns what a restore did.
pub(crate) fn ended(job: &RestoreJob) -> String {
    let what = match job.kind {
        RestoreKind::Restore => "restore",
        RestoreKind::Undo => "undo",
        RestoreKind::Reversal => "reversal of a restore",
        RestoreKind::Clone => "clone",
    };
    format!("{what} {} {}: {}\n", job.id, state(job.state), counts(&job.counts, ""))
}

/// Returns the list of restores.
pub(crate) fn jobs(jobs: &RestoreJobs, view: &View) -> String {
    if jobs.items.is_empty() {
        return "nothing was restored yet\n".to_owned();
    }
    let zone = TimeZone::system();
    let mut table = Table::new([
        Column::Number("ID"),
        Column::Fixed("BEGUN"),
        Column::Fixed("STATE"),
        Column::Number("DONE"),
        Column::Number("SIZE"),
        Column::Number("SNAPSHOT"),
    ]);
    for job in &jobs.items {
        table.row([
            Cell::new(job.id.to_string()),
            Cell::new(local(&job.started_at, &zone)),
            Cell::new(state(job.state)),
            Cell::new(format!("{}/{}", job.done, job.total)),
            Cell::new(bytes(job.counts.bytes)),
            Cell::new(job.snapshot.map_or_else(|| "-".to_owned(), |number| number.to_string())),
        ]);
    }
    table.render(view.width)
}

/// Returns what was deleted, by whom and when.
pub(crate) fn burst(burst: &UndoBurst, view: &View) -> String {
    let zone = TimeZone::system();
    let mut what = Vec::new();
    for (number, noun) in [
        (burst.files, "file"),
        (burst.directories, "directory"),
        (burst.replaced, "replaced file"),
        (burst.truncated, "cut off file"),
    ] {
        if number > 0 {
            what.push(count(number, noun));
        }
    }
    let who = view.users.name(burst.uid);
    let command = match (burst.command_line.as_str(), burst.command.as_str()) {
        ("", "") => "a process that is not known".to_owned(),
        ("", command) => format!("{command}[{}]", burst.pid),
        (line, _) => format!("{line} [{}]", burst.pid),
    };
    let container = super::super::log::container(burst.container.as_deref());
    let container = if container == "-" { String::new() } else { format!(" in container {container}") };
    let mut text = format!(
        "{}: {} ({} kept), by {} with {}{}\n",
        local(&burst.at, &zone),
        what.join(", "),
        bytes(burst.bytes),
        printable(&who),
        printable(&command),
        printable(&container),
    );
    for path in &burst.paths {
        text.push_str(&format!("  {}\n", printable(path)));
    }
    text
}

/// Returns the list of bursts.
pub(crate) fn bursts(list: &UndoList, view: &View) -> String {
    if list.items.is_empty() {
        return format!("nothing was deleted or overwritten in {}\n", printable(&list.workspace));
    }
    let one = |item: &UndoBurst| {
        let undone = item.undone_by.map_or_else(String::new, |job| format!("  undone by restore {job}\n"));
        format!("{}  {}{undone}", item.id, burst(item, view))
    };
    list.items.iter().map(one).collect()
}

/// Returns a note.
pub(crate) fn note(note: &RestoreNote) -> String {
    if note.path.is_empty() {
        printable(&note.reason).into_owned()
    } else {
        format!("{}: {}", printable(&note.path), printable(&note.reason))
    }
}

fn state(state: RestoreState) -> &'static str {
    match state {
        RestoreState::Planning => "planning",
        RestoreState::Running => "running",
        RestoreState::Done => "done",
        RestoreState::Partial => "incomplete",
        RestoreState::Failed => "failed",
        RestoreState::Cancelled => "broken off",
        RestoreState::Interrupted => "interrupted",
    }
}

/// Returns counts as one sentence.
pub(crate) fn counts(counts: &RestoreCounts, verb: &str) -> String {
    let verb = if verb.is_empty() { String::new() } else { format!("{verb} ") };
    let mut parts = vec![format!(
        "{} and {} {verb}restored, {}",
        self::count(counts.files, "file"),
        self::count(counts.directories, "directory"),
        bytes(counts.bytes)
    )];
    for (number, what) in [
        (counts.put_back, "put back without a copy"),
        (counts.beside, "beside what exists"),
        (counts.replaced, "in the place of what exists"),
        (counts.attributes, "with attributes set only"),
        (counts.removed, "removed"),
        (counts.unchanged, "as they were"),
        (counts.skipped, "left alone"),
        (counts.fuzzy, "fuzzy"),
        (counts.failed, "not restorable"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.join("; ")
}

fn local(at: &str, zone: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => printable(at).into_owned(),
    }
}
