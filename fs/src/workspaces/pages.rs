//! What the virtual directory `.wsguard` of a workspace holds.
//!
//! Written from what is in memory, by threads that serve requests: nothing here waits for a disk. Everybody who
//! reaches the workspace may read it, so it tells of the workspace, its owner and the owner's group, and of nobody else.

mod top;

use std::sync::Arc;

use jiff::Timestamp;
use wsguard_api::{
    Explanation, Limits, QuotaReport, QuotaRow, QuotaState, SCHEMA_VERSION, ScopeRef, UsageReport,
};

use super::jobs::Jobs;
use super::quota_board::ProjectView;
use super::registry::Registry;
use super::request_desk;
use crate::session::{Page, Pages};
use crate::tracker::Recorder;

/// Returns what writes the pages of a workspace and takes its requests. `view` is used until the registry knows it, which it does not yet
/// while a worker takes over.
pub(super) fn source(
    registry: &Arc<Registry>,
    recorder: &Arc<Recorder>,
    jobs: &Jobs,
    id: &str,
    view: Option<ProjectView>,
) -> Pages {
    let request = request_desk::taker(registry, jobs, id);
    // The registry holds the mounts, and so this.
    let (registry, recorder) = (Arc::downgrade(registry), Arc::downgrade(recorder));
    let id = id.to_owned();
    let text = Arc::new(move |page| {
        let (Some(registry), Some(recorder)) = (registry.upgrade(), recorder.upgrade()) else {
            return UNKNOWN.to_owned();
        };
        let now = Timestamp::now();
        let explained = || explanation(&registry, &id, view.as_ref(), now);
        match page {
            Page::Quota => explained().map_or_else(
                || UNKNOWN.to_owned(),
                |explained| screen(&explained, registry.growth().look(&id).as_deref()),
            ),
            Page::QuotaJson => json(explained(), now),
            Page::QuotaLine => explained().as_ref().map_or_else(String::new, line),
            Page::Notices => registry.notices().page(&id),
            Page::Top => {
                top::page(recorder.activity_of(&id).as_ref(), registry.growth().look(&id).as_deref())
            }
            Page::Log => registry.recent().page(&id, registry.requests().lines(&id)),
            Page::Request => registry.requests().page(&id),
        }
    });
    Pages { text, request }
}

const UNKNOWN: &str = "nothing is known yet: the daemon is starting or ending\n";

/// Returns the workspace's own scopes, project first. Those of a pool are the administrators'.
fn explanation(
    registry: &Registry,
    id: &str,
    view: Option<&ProjectView>,
    now: Timestamp,
) -> Option<Explanation> {
    let mut projects = registry.projects();
    if !projects.iter().any(|project| project.id == id) {
        projects.extend(view.cloned());
    }
    let path = projects.iter().find(|project| project.id == id)?.dir.clone();
    let mut explained = registry.quota().explain(&path, id, &projects, now).ok()?;
    explained.scopes.retain(|scope| !matches!(scope.row.scope, ScopeRef::Pool { .. }));
    Some(explained)
}

/// As `wsguard quota get --json` prints it.
fn json(explained: Option<Explanation>, now: Timestamp) -> String {
    let scopes = explained.map_or_else(Vec::new, |explained| explained.scopes);
    let report = QuotaReport {
        schema: SCHEMA_VERSION,
        generated_at: now.to_string(),
        is_admin: false,
        items: scopes.into_iter().map(|scope| scope.row).collect(),
    };
    // Plain data without maps of other keys than text.
    let mut text =
        serde_json::to_string_pretty(&report).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
    text.push('\n');
    text
}

/// One screen.
fn screen(explained: &Explanation, usage: Option<&UsageReport>) -> String {
    let mut text = String::new();
    for (place, scope) in explained.scopes.iter().enumerate() {
        let left = explained.binding_bytes.as_ref().filter(|_| place == 0);
        text.push_str(&bytes_line(&scope.row, left.map(|binding| binding.left)));
    }
    for row in explained.scopes.iter().map(|scope| &scope.row) {
        if row.used.is_some() && (matches!(row.scope, ScopeRef::Project { .. }) || row.inodes_hard.is_some())
        {
            text.push_str(&inodes_line(row));
        }
    }
    for row in explained.scopes.iter().map(|scope| &scope.row) {
        text.push_str(&remarks(row));
    }
    if let Some(usage) = usage {
        text.push_str(&growth_line(usage));
        let left = explained.binding_bytes.as_ref().map(|binding| binding.left);
        text.push_str(&checkpoint_line(usage, left.or(usage.forecast.available_bytes)));
    }
    text
}

/// How it grows, and until when.
fn growth_line(usage: &UsageReport) -> String {
    let Some(grown) = usage.forecast.last_day_bytes else { return String::new() };
    let mut line = format!("{:<8} {} in 24 h", "growth", change(grown));
    if let Some(most) = usage.growing.first().filter(|most| most.bytes > 0 && !most.path.is_empty()) {
        write_to(&mut line, format_args!(", most of it {}", printable(&most.path)));
    }
    if let Some(seconds) = usage.forecast.seconds_to_full {
        write_to(&mut line, format_args!("; full in {} at this pace", span(seconds)));
    }
    line.push('\n');
    line
}

/// How often a checkpoint like the newest one fits.
fn checkpoint_line(usage: &UsageReport, left: Option<u64>) -> String {
    let (Some(needed), Some(left)) = (usage.forecast.checkpoint_bytes.filter(|bytes| *bytes > 0), left)
    else {
        return String::new();
    };
    let fits = match left / needed {
        0 => "does not fit any more".to_owned(),
        1 => "fits once".to_owned(),
        times => format!("fits {times} times"),
    };
    format!("next checkpoint ~{}: {fits}\n", size(needed))
}

/// A number of bytes that came or went.
pub(super) fn change(bytes: i64) -> String {
    let sign = if bytes < 0 { '-' } else { '+' };
    format!("{sign}{}", size(bytes.unsigned_abs()))
}

/// In the two largest units.
pub(super) fn span(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn bytes_line(row: &QuotaRow, left: Option<u64>) -> String {
    let (kind, name) = titles(row);
    let Some(used) = row.used else { return format!("{kind:<8} {name:<16} not known yet\n") };
    let mut line = format!("{kind:<8} {name:<16} {:>10}", size(used.bytes));
    match row.bytes_hard {
        Some(hard) => {
            let of = format!("of {}", size(hard));
            write_to(&mut line, format_args!(" {of:<14} {:>4}", percent(used.bytes, hard)));
        }
        None => line.push_str(" of unlimited"),
    }
    if let Some(soft) = row.bytes_soft {
        write_to(&mut line, format_args!("   soft {}", size(soft)));
    }
    if let Some(left) = left {
        write_to(&mut line, format_args!("   free {}", size(left)));
    }
    line.push('\n');
    line
}

fn inodes_line(row: &QuotaRow) -> String {
    let used = row.used.map_or(0, |used| used.inodes);
    let of = row.inodes_hard.map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
    let whose = match row.scope {
        ScopeRef::Project { .. } => String::new(),
        _ => format!("   ({} {})", titles(row).0, titles(row).1),
    };
    format!("{:<8} {used} of {of}{whose}\n", "files")
}

/// What somebody has to know or to do.
fn remarks(row: &QuotaRow) -> String {
    let (kind, name) = titles(row);
    let until = row.bytes_grace_until.as_ref().or(row.inodes_grace_until.as_ref());
    let remark = match (row.state, until) {
        (QuotaState::Over, _) => "over the limit: nothing may grow until something is deleted".to_owned(),
        (QuotaState::Expired, _) => {
            "over the soft limit for too long: nothing may grow until something is deleted".to_owned()
        }
        (QuotaState::Grace | QuotaState::Soft, Some(until)) => {
            format!("over the soft limit: from {until} on nothing may grow")
        }
        (QuotaState::Grace | QuotaState::Soft, None) => "over the soft limit".to_owned(),
        (QuotaState::Estimated, _) => "being counted: it may use less than this".to_owned(),
        (QuotaState::Ok | QuotaState::Unmounted | QuotaState::Unknown, _) => return String::new(),
    };
    format!("note     {kind} {name}: {remark}\n")
}

fn titles(row: &QuotaRow) -> (&'static str, String) {
    match &row.scope {
        ScopeRef::Project { id } => ("project", printable(row.name.as_deref().unwrap_or(id))),
        ScopeRef::User { uid } => ("user", format!("uid {uid}")),
        ScopeRef::Group { name } => ("group", printable(name)),
        ScopeRef::Pool { path } => ("pool", printable(&path.to_string_lossy())),
    }
}

/// Names are shown on terminals.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// One line of `key=value` about the workspace. What is free is the least that any of its scopes leaves.
fn line(explained: &Explanation) -> String {
    let Some(row) = explained.scopes.first().map(|scope| &scope.row) else { return String::new() };
    let number =
        |value: Option<u64>, absent: &str| value.map_or_else(|| absent.to_owned(), |n| n.to_string());
    let free = |binding: &Option<wsguard_api::Binding>| binding.as_ref().map(|binding| binding.left);
    let Limits { mode, .. } = row.limits;
    let texts = [
        ("used_bytes", number(row.used.map(|used| used.bytes), "unknown")),
        ("soft_bytes", number(row.bytes_soft, "unlimited")),
        ("hard_bytes", number(row.bytes_hard, "unlimited")),
        ("free_bytes", number(free(&explained.binding_bytes), "unlimited")),
        ("used_inodes", number(row.used.map(|used| used.inodes), "unknown")),
        ("soft_inodes", number(row.inodes_soft, "unlimited")),
        ("hard_inodes", number(row.inodes_hard, "unlimited")),
        ("free_inodes", number(free(&explained.binding_inodes), "unlimited")),
        ("mode", word(mode)),
        ("state", word(row.state)),
    ];
    texts.map(|(key, value)| format!("{key}={value}")).join(" ")
}

/// The word that the API uses.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

fn percent(part: u64, whole: u64) -> String {
    // Nothing may be allocated: it is full.
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(100);
    format!("{percent} %")
}

/// Powers of 1024 with one digit after the point, rounded down: what is not there is not shown.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(6);
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let unit = UNITS[power as usize - 1];
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.push_str(&arguments.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit_after_the_point_and_are_rounded_down() {
        let sizes = [0, 1023, 1024, 1535, 1 << 20, (500 << 30) - 1, 500 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1 KiB", "1.4 KiB", "1 MiB", "499.9 GiB", "500 GiB", "15.9 EiB"]);
    }

    #[test]
    fn spans_and_changes_are_short() {
        assert_eq!([59, 18_600, 200_000].map(span), ["0 min", "5 h 10 min", "2 d 7 h"]);
        assert_eq!([change(-2048), change(0), change(1 << 30)], ["-2 KiB", "+0 B", "+1 GiB"]);
    }

    #[test]
    fn percent_of_nothing_is_all_of_it() {
        assert_eq!([percent(0, 0), percent(1, 3), percent(7, 5)], ["100 %", "33 %", "140 %"]);
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a?[2Jb?c");
    }
}
