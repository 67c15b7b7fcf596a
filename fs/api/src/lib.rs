//! Wire types of the control API: HTTP/1.1 + JSON on the daemon's unix socket.
//!
//! Client and daemon both use these types and nothing else of each other. Every type is plain data:
//! no I/O, no defaults that hide a missing field. Sizes are bytes, times are RFC 3339 strings in UTC,
//! paths are absolute and UTF-8 (a workspace directory whose path is not UTF-8 is refused at mount;
//! names *inside* a workspace are not restricted, and are [`ExactBytes`] where they have to be told exactly).
//!
//! Routes (all under [`API_PREFIX`]):
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /status` | – | [`DaemonStatus`] |
//! | `GET /workspaces` | – | [`WorkspaceList`] |
//! | `POST /workspaces` | [`MountRequest`] | [`Workspace`] |
//! | `POST /workspaces/mount-all` | – | [`MountAllReport`] |
//! | `DELETE /workspaces/{id}?forget=BOOL` | – | [`UmountReport`] |
//! | `GET /usage?path=PATH&top=N&days=N&cold_days=N` | – | [`UsageReport`] |
//! | `GET /usage/forecast?days=N` | – | [`ForecastReport`] |
//! | `GET /usage/clean?path=PATH` | – | [`CleanPlan`] |
//! | `POST /log` | [`LogRequest`] | [`LogReport`] |
//! | `GET /top` | – | [`TopReport`] |
//! | `GET /events?after=ID&wait_seconds=N&last=N` | – | [`EventList`] |
//! | `POST /sync` | [`SyncRequest`] | [`SyncReport`] |
//! | `POST /shutdown` | – | [`ShutdownReport`] |
//! | `GET /quota` | – | [`QuotaReport`] |
//! | `POST /quota` | [`QuotaRequest`] | [`QuotaPlan`] |
//! | `GET /quota/policy` | – | [`PolicyDocument`] |
//! | `GET /quota/explain?path=PATH` | – | [`Explanation`] |
//! | `GET /quota/audit?limit=N` | – | [`AuditList`] |
//! | `POST /quota/check` | [`CheckRequest`] | [`CheckReport`] |
//! | `GET /quota/requests?all=BOOL` | – | [`BoostRequestList`] |
//! | `POST /quota/requests/{id}` | [`BoostDecision`] | [`BoostAnswer`] |
//! | `POST /quota/notify` | [`NotifyRequest`] | [`NotifyReport`] |
//! | `GET /metrics` | – | OpenMetrics text |
//! | `POST /restore/plan` | [`RestoreRequest`] | [`RestorePlan`] |
//! | `POST /restore/start` | [`RestoreRequest`] | [`RestoreJob`] |
//! | `POST /restore/read?tar=BOOL` | [`RestoreRequest`] | the file, or a tar archive |
//! | `GET /restore/jobs?path=PATH` | – | [`RestoreJobs`] |
//! | `GET /restore/jobs/{id}?path=PATH` | – | [`RestoreJob`] |
//! | `POST /restore/jobs/{id}/cancel?path=PATH` | – | [`RestoreJob`] |
//! | `POST /restore/jobs/{id}/resume?path=PATH` | – | [`RestoreJob`] |
//! | `POST /restore/jobs/{id}/reverse?path=PATH` | – | [`RestoreJob`] |
//! | `GET /undo?path=PATH` | – | [`UndoList`] |
//! | `POST /undo/preview` | [`UndoRequest`] | [`UndoPreview`] |
//! | `POST /undo/start` | [`UndoRequest`] | [`RestoreJob`] |
//! | `POST /past/list` | [`PastRequest`] | [`PastListing`] |
//! | `POST /past/read` | [`PastRequest`] | [`PastPiece`] |
//! | `GET /snapshots?path=PATH` | – | [`SnapshotList`] |
//! | `POST /snapshots` | [`SnapshotRequest`] | [`SnapshotTaken`] |
//! | `POST /snapshots/change` | [`SnapshotChange`] | [`SnapshotChanged`] |
//! | `GET /snapshots/diff?path=PATH&earlier=ID&later=ID` | – | [`DifferenceReport`] |
//! | `GET /versions?path=PATH` | – | [`VersionReport`] |
//! | `GET /retention/preview?path=PATH` | – | [`RetentionPreview`] |
//! | `POST /verify` | [`VerifyRequest`] | [`VerifyReport`] |
//! | `POST /upgrade` | [`UpgradeRequest`] | [`UpgradeAccepted`] |
//!
//! Every error answer is an [`ApiError`] with the HTTP status of its [`ErrorCode`].

mod delivery;
mod error;
mod event;
mod exact;
mod history;
mod past;
mod quota;
mod restore;
mod snapshot;
mod upgrade;
mod usage;
mod workspace;

pub use delivery::{
    DeliveryChannel, DeliveryStatus, NotifyOutcome, NotifyReport, NotifyRequest, NotifyResult,
};
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventKind, EventList};
pub use exact::ExactBytes;
pub use history::{
    DeletionState, LogBeginning, LogBy, LogDeletion, LogEntry, LogGap, LogOperation, LogReport, LogRequest,
    TopFile, TopReport, TopWorkspace, TopWriter,
};
pub use past::{PastChange, PastEntry, PastKind, PastListing, PastPiece, PastRequest};
pub use quota::{
    AccountingMode, AuditEntry, AuditList, Binding, Boost, BoostAnswer, BoostDecision, BoostRequest,
    BoostRequestList, Bound, Bounds, CheckReport, CheckRequest, Counting, ExplainStep, ExplainedScope,
    Explanation, GroupMembers, KernelEdit, LastRecount, LimitSource, LimitSpec, Limits, PolicyDocument,
    PolicyRecord, PolicyTarget, QuotaChange, QuotaEdit, QuotaErrno, QuotaField, QuotaHit, QuotaMode,
    QuotaPlan, QuotaReport, QuotaRequest, QuotaRow, QuotaState, RequestState, ScopeRef, Usage, Verdict,
};
pub use restore::{
    CloneRequest, RestoreConflict, RestoreCounts, RestoreJob, RestoreJobs, RestoreKind, RestoreNote,
    RestoreOrigin, RestorePlan, RestoreRequest, RestoreState, RestoreWhen, UndoBurst, UndoList, UndoPreview,
    UndoRequest,
};
pub use snapshot::{
    DamagedObject, DifferenceKind, DifferenceReport, FileVersion, HistoryState, HistoryStatus,
    RetentionPreview, RetentionRow, Snapshot, SnapshotAction, SnapshotChange, SnapshotChanged,
    SnapshotDifference, SnapshotList, SnapshotRequest, SnapshotSafety, SnapshotTaken, VerifyReport,
    VerifyRequest, VersionCertainty, VersionReport,
};
pub use upgrade::{Program, UpgradeAccepted, UpgradeEvent, UpgradeOutcome, UpgradeRequest};
pub use usage::{
    CacheUsage, CleanItem, CleanPlan, CleanRule, Duplicates, EntryType, FileKind, Forecast, ForecastReport,
    Growth, IndexState, KindUsage, UsageEntry, UsageReport, WorkspaceForecast,
};
pub use workspace::{
    BackingInfo, ChangedOutside, Coherence, DaemonStatus, DataPath, KernelQuota, MountAllFailure,
    MountAllReport, MountRequest, MountUser, Ownership, ShutdownReport, SyncReport, SyncRequest,
    UmountReport, UnguardedDirectory, WorkerEvent, Workspace, WorkspaceList, WorkspaceState,
};

/// The version in every answer's `schema` field; raised when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The path that every route starts with.
pub const API_PREFIX: &str = "/v1";

/// The socket's file name below the runtime directory.
pub const SOCKET_NAME: &str = "wsguard.sock";

/// The runtime directory when neither flag, environment nor config names one.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/wsguard";

/// The state directory when neither flag, environment nor config names one.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/wsguard";

/// The config file when neither flag nor environment names one.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/wsguard/config.toml";
