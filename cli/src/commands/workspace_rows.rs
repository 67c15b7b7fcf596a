//! How a workspace's state, data path and the like read in tables and sentences; shared by the commands.

use wsguard_api::{
    BackingInfo, ChangedOutside, Coherence, DataPath, HistoryState, Ownership, Workspace, WorkspaceState,
};

use crate::output::{Cell, Tone, View, ago, bytes, count, printable};

/// What stands where there is nothing to say.
const NOTHING: &str = "–";

pub(super) fn state_word(state: &WorkspaceState) -> &'static str {
    match state {
        WorkspaceState::Mounted => "mounted",
        WorkspaceState::Unmounted => "unmounted",
        WorkspaceState::Dead => "dead",
        WorkspaceState::Failed { .. } => "failed",
    }
}

pub(super) fn state_cell(state: &WorkspaceState) -> Cell {
    let tone = match state {
        WorkspaceState::Mounted => Tone::Good,
        WorkspaceState::Unmounted => Tone::Faint,
        WorkspaceState::Dead | WorkspaceState::Failed { .. } => Tone::Bad,
    };
    Cell::toned(state_word(state), tone)
}

pub(super) fn ownership_word(ownership: Ownership) -> &'static str {
    match ownership {
        Ownership::Preserve => "preserve",
        Ownership::Squash => "squash",
    }
}

pub(super) fn data_path_cell(data_path: Option<&DataPath>) -> Cell {
    match data_path {
        Some(DataPath::Passthrough) => Cell::toned("passthrough", Tone::Good),
        Some(DataPath::Cached { .. }) => Cell::toned("cached", Tone::Warning),
        None => Cell::toned(NOTHING, Tone::Faint),
    }
}

pub(super) fn coherence_cell(coherence: Option<&Coherence>) -> Cell {
    match coherence {
        Some(Coherence::Watched { directories }) => Cell::toned(format!("{directories} watched"), Tone::Good),
        Some(Coherence::Starting) => Cell::new("starting"),
        Some(Coherence::ShortTtl { .. }) => Cell::toned("1 s cache", Tone::Warning),
        None => Cell::toned(NOTHING, Tone::Faint),
    }
}

pub(super) fn backing_cell(backing: Option<&BackingInfo>) -> Cell {
    match backing {
        Some(backing) if backing.read_only => {
            Cell::toned(format!("{} read-only", backing.filesystem), Tone::Warning)
        }
        Some(backing) => Cell::new(&backing.filesystem),
        None => Cell::toned(NOTHING, Tone::Faint),
    }
}

pub(super) fn free_cell(backing: Option<&BackingInfo>) -> Cell {
    match backing {
        Some(backing) => Cell::new(bytes(backing.available_bytes)),
        None => Cell::toned(NOTHING, Tone::Faint),
    }
}

pub(super) fn since_cell(workspace: &Workspace, view: &View) -> Cell {
    match &workspace.mounted_at {
        Some(time) => Cell::new(ago(time, view.now)),
        None => Cell::toned(NOTHING, Tone::Faint),
    }
}

/// Returns what is kept of the past, as a line; empty while nothing is known, and where a remark says it.
pub(super) fn history_line(workspace: &Workspace, view: &View) -> String {
    let Some(history) = workspace.history.as_ref().filter(|history| history.state == HistoryState::On) else {
        return String::new();
    };
    let last = history.last_automatic.as_deref();
    let last = last.map_or_else(String::new, |at| format!(", last automatic one {}", ago(at, view.now)));
    format!(
        "history of {}: {}{last}; {} of {}, {} of it trash\n",
        printable(&workspace.name),
        count(history.snapshots, "snapshot"),
        bytes(history.stored_bytes),
        bytes(history.budget_bytes),
        bytes(history.trash_bytes)
    )
}

/// Returns one line for each thing about the workspace that a person should know of.
pub(super) fn remarks(workspace: &Workspace, view: &View) -> Vec<String> {
    let mut remarks = Vec::new();
    match &workspace.state {
        WorkspaceState::Mounted | WorkspaceState::Unmounted => {}
        WorkspaceState::Dead => remarks.push(
            "the mount is in place but nobody answers: accesses fail with ENOTCONN; restart the daemon"
                .to_owned(),
        ),
        WorkspaceState::Failed { reason } => remarks.push(format!("could not be mounted: {reason}")),
    }
    if let Some(DataPath::Cached { reason }) = &workspace.data_path {
        remarks.push(format!("reads go through the worker, several times slower: {reason}"));
    }
    if let Some(Coherence::ShortTtl { reason }) = &workspace.coherence {
        remarks.push(format!("edits below the mount are looked for every second only: {reason}"));
    }
    if workspace.backing.as_ref().is_some_and(|backing| backing.read_only) {
        remarks.push("the filesystem below is read-only".to_owned());
    }
    if let Some(history) = &workspace.history {
        if let HistoryState::Off { reason } = &history.state {
            remarks.push(format!("no history: {reason}"));
        }
        if history.lost > 0 {
            remarks.push(format!(
                "what {} changed or deleted files were could not be kept since the worker started",
                history.lost
            ));
        }
        if history.damaged > 0 {
            remarks.push(format!("{} kept objects are damaged: see `wsguard verify`", history.damaged));
        }
    }
    if let Some(changed) = &workspace.changed_outside {
        remarks.push(changed_outside(changed, view));
    }
    remarks.into_iter().map(|remark| format!("{}: {remark}", workspace.name)).collect()
}

fn changed_outside(changed: &ChangedOutside, view: &View) -> String {
    let mut text = String::new();
    if changed.scanning {
        text.push_str("at least ");
    }
    let noun = if changed.entries == 1 { "entry" } else { "entries" };
    text.push_str(&format!(
        "{} {noun} changed while nothing was mounted (since {})",
        changed.entries,
        ago(&changed.since, view.now)
    ));
    if !changed.sample.is_empty() {
        let shown: Vec<&str> = changed.sample.iter().map(String::as_str).take(3).collect();
        text.push_str(&format!(": {}", shown.join(", ")));
        if changed.entries > shown.len() as u64 {
            text.push_str(", …");
        }
    }
    text
}

/// Returns how data flows, as a sentence.
pub(super) fn data_path_sentence(data_path: &DataPath) -> String {
    match data_path {
        DataPath::Passthrough => "passthrough: reads run in the kernel, on the file itself".to_owned(),
        DataPath::Cached { reason } => {
            format!("cached: reads go through the daemon, several times slower, because {reason}")
        }
    }
}

/// Returns how foreign edits are found, as a sentence.
pub(super) fn coherence_sentence(coherence: &Coherence) -> String {
    match coherence {
        Coherence::Watched { directories } => {
            format!("{} watched, edits below the mount show within 1 s", count(*directories, "directory"))
        }
        Coherence::Starting => "the watch for edits below the mount is being set up".to_owned(),
        Coherence::ShortTtl { reason } => {
            format!("attributes are trusted for 1 s, because {reason}")
        }
    }
}

/// Returns the filesystem below and its free space, as a sentence.
pub(super) fn backing_sentence(backing: &BackingInfo) -> String {
    let access = if backing.read_only { ", read-only" } else { "" };
    format!(
        "{} on device {}, {} of {} free{access}",
        backing.filesystem,
        backing.device,
        bytes(backing.available_bytes),
        bytes(backing.total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{view, workspace};

    #[test]
    fn what_is_degraded_is_said_with_its_reason() {
        let mut degraded = workspace("bert");
        degraded.data_path = Some(DataPath::Cached { reason: "kernel 6.1 is older than 6.9".into() });
        degraded.changed_outside = Some(ChangedOutside {
            since: "2030-01-01T10:00:00Z".into(),
            entries: 4,
            sample: vec!["a".into(), "b".into(), "c".into(), "d".into()],
            scanning: true,
        });
        let remarks = remarks(&degraded, &view(None));
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].contains("kernel 6.1 is older than 6.9"), "{remarks:?}");
        assert!(remarks[1].contains("at least 4 entries changed"), "{remarks:?}");
        assert!(remarks[1].ends_with("(since 2 h ago): a, b, c, …"), "{remarks:?}");
    }
}
