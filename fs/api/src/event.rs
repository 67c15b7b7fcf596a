use serde::{Deserialize, Serialize};

/// What kind of thing happened. New ones are added; a client shows those that it does not know as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon started.
    DaemonStarted,
    /// The daemon was told to stop.
    DaemonStopped,
    /// A worker died or hung and was replaced.
    WorkerDied,
    /// Its successor answers.
    WorkerTookOver,
    /// A workspace is guarded.
    Mounted,
    /// A workspace is not guarded any more, on request.
    Unmounted,
    /// A workspace could not be guarded, or lost its mount.
    MountFailed,
    /// Usage crossed a threshold or a limit.
    QuotaCrossed,
    /// A grace period began, ends soon, ended or expired.
    QuotaGrace,
    /// A write was refused because of a limit.
    QuotaRefused,
    /// A limit was changed.
    QuotaChanged,
    /// Usage was counted anew and differed.
    QuotaDrift,
    /// The next checkpoint will probably not fit.
    QuotaForecast,
    /// Somebody asked for more room.
    QuotaRequested,
    /// An administrator decided about it.
    QuotaDecided,
    /// Somebody tries whether notices get through. Delivered, and never among the events.
    NoticeTest,
    /// The past of a workspace is not kept, or cannot be looked at.
    HistoryOff,
    /// History gave something up because space was short, or could give up nothing more.
    HistoryEvicted,
    /// Something was changed or deleted and what it was could not be kept.
    HistoryLost,
    /// Something that was kept is damaged.
    HistoryDamaged,
}

/// Something that an operator or the workspace's owner may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Ascending: to go on after it.
    pub id: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What kind.
    pub kind: EventKind,
    /// The workspace's name, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Whose it is: only they and root see it. Everybody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_uid: Option<u32>,
    /// One line for people.
    pub message: String,
}

/// Events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// What happened after the one that was asked for.
    pub events: Vec<Event>,
    /// Ask for what comes after this; never less than what was asked with.
    pub next: u64,
    /// Older ones than those that were asked for are not known any more: some may be missing before the first.
    pub has_gap: bool,
}
