//! What the tests of the browser look at: a workspace with three snapshots and a deletion, and names that mean no good.

use wsguard_api::{
    ExactBytes, PastChange, PastEntry, PastKind, PastListing, PastPiece, RestoreCounts, RestoreJob,
    RestoreKind, RestoreNote, RestorePlan, RestoreState, Snapshot, SnapshotList, SnapshotSafety, UndoBurst,
    UndoList, VersionCertainty,
};

/// When the tests take place.
pub(crate) const NOW: &str = "2030-01-01T12:00:00Z";
/// Where the workspace is.
pub(crate) const ROOT: &str = "/home/alice/workspace/bert";

fn snapshot(id: u32, at: &str, reason: &str) -> Snapshot {
    Snapshot {
        id,
        at: at.into(),
        reason: reason.into(),
        name: None,
        note: None,
        uid: 1000,
        held: false,
        safety: SnapshotSafety::Durable,
        kept_because: Vec::new(),
        unique_bytes: 0,
        shared_bytes: 0,
    }
}

pub(crate) fn snapshots() -> SnapshotList {
    let first = Snapshot { safety: SnapshotSafety::Degraded, ..snapshot(1, "2029-12-30T09:00:00Z", "burst") };
    let second = Snapshot {
        name: Some("before \x1b[31mrefactoring".into()),
        held: true,
        ..snapshot(2, "2030-01-01T10:00:00Z", "manual")
    };
    SnapshotList {
        schema: 1,
        generated_at: NOW.into(),
        workspace: "bert-7f3a".into(),
        name: "bert".into(),
        mount_point: ROOT.into(),
        items: vec![first, second, snapshot(3, "2030-01-01T11:55:00Z", "auto")],
        stored_bytes: 0,
        trash_bytes: 0,
        garbage_bytes: 0,
        budget_bytes: 0,
        trash_since: None,
        paused: None,
    }
}

pub(crate) fn deletions() -> UndoList {
    UndoList {
        schema: 1,
        workspace: "bert".into(),
        items: vec![UndoBurst {
            id: "4294967299".into(),
            at: "2030-01-01T11:30:00Z".into(),
            until: "2030-01-01T11:30:00.1Z".into(),
            files: 2,
            directories: 0,
            replaced: 0,
            truncated: 0,
            bytes: 4096,
            uid: 1000,
            pid: 4711,
            command: "rm".into(),
            command_line: "rm -rf old".into(),
            container: None,
            paths: vec![format!("{ROOT}/old")],
            undone_by: None,
        }],
    }
}

fn entry(name: &[u8], kind: PastKind, size: u64, change: PastChange) -> PastEntry {
    PastEntry {
        name: ExactBytes(name.to_vec()),
        kind,
        size: Some(size),
        modified: Some("2030-01-01T09:12:34.5Z".into()),
        change,
        certainty: (kind == PastKind::File && change != PastChange::New).then_some(VersionCertainty::Exact),
    }
}

pub(crate) fn listing() -> PastListing {
    use PastChange::{Attributes, Changed, Deleted, New, Same};
    let mut fuzzy = entry(b"weights.db", PastKind::File, 3 << 20, Changed);
    fuzzy.certainty = Some(VersionCertainty::Fuzzy);
    PastListing {
        schema: 1,
        workspace: "bert".into(),
        mount_point: ROOT.into(),
        path: "".into(),
        existed: true,
        exists: true,
        entries: vec![
            entry(b"data", PastKind::Directory, 4096, Same),
            entry(b"old", PastKind::Directory, 4096, Deleted),
            entry(b"bad\x1b[2J\xff.txt", PastKind::File, 12, Same),
            entry(b"latest", PastKind::Symlink, 8, Same),
            entry(b"new.ipynb", PastKind::File, 999, New),
            entry(b"notes.md", PastKind::File, 1536, Deleted),
            entry(b"run.sh", PastKind::File, 77, Attributes),
            entry(b"train.py", PastKind::File, 20_480, Changed),
            fuzzy,
        ],
        left_out: 0,
    }
}

pub(crate) fn piece(text: &str) -> PastPiece {
    PastPiece {
        schema: 1,
        workspace: "bert".into(),
        kind: PastKind::File,
        size: text.len() as u64,
        modified: "2030-01-01T09:12:34.5Z".into(),
        certainty: VersionCertainty::Exact,
        bytes: ExactBytes(text.as_bytes().to_vec()),
    }
}

pub(crate) fn plan(replaced: u64) -> RestorePlan {
    RestorePlan {
        schema: 1,
        workspace: "bert".into(),
        origins: Vec::new(),
        counts: RestoreCounts {
            files: 2,
            directories: 1,
            bytes: 1_500_000,
            put_back: 1,
            replaced,
            ..RestoreCounts::default()
        },
        needed_bytes: 8192,
        available_bytes: Some(1 << 30),
        needed_inodes: 3,
        available_inodes: None,
        notes: vec![RestoreNote { path: format!("{ROOT}/notes.md"), reason: "is fuzzy".into() }],
    }
}

pub(crate) fn job(state: RestoreState, done: u64) -> RestoreJob {
    RestoreJob {
        schema: 1,
        id: 5,
        workspace: "bert".into(),
        kind: RestoreKind::Restore,
        state,
        started_at: NOW.into(),
        finished_at: None,
        snapshot: Some(4),
        total: 200,
        done,
        total_bytes: 40 << 20,
        done_bytes: done * (40 << 20) / 200,
        bytes_per_second: 10_485_760.0,
        eta_seconds: Some(3),
        counts: RestoreCounts { files: done, bytes: 40 << 20, ..RestoreCounts::default() },
        failures: Vec::new(),
        error: None,
        error_code: None,
        notes: Vec::new(),
    }
}
