//! The typed client of the control API: one connection and one request at a time, on the calling thread.
//!
//! While a worker is replaced, a connection waits for the next one. A question that was cut off by the end of a worker
//! is asked again; anything else is not, because it may have been done.

mod notices;
mod past;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use wsguard_api::{
    API_PREFIX, ApiError, AuditList, CheckReport, CheckRequest, CleanPlan, CloneRequest, DaemonStatus,
    DifferenceReport, ErrorCode, EventList, Explanation, ForecastReport, LogReport, LogRequest,
    MountAllReport, MountRequest, PolicyDocument, QuotaPlan, QuotaReport, QuotaRequest, RestoreJob,
    RestoreJobs, RestorePlan, RestoreRequest, RetentionPreview, SnapshotChange, SnapshotChanged,
    SnapshotList, SnapshotRequest, SnapshotTaken, SyncReport, SyncRequest, TopReport, UmountReport, UndoList,
    UndoPreview, UndoRequest, UpgradeAccepted, UpgradeRequest, UsageReport, VerifyReport, VerifyRequest,
    VersionReport, Workspace, WorkspaceList,
};

use crate::error::CliError;

/// How long an answer may take, unless a command says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// How often a question is asked that is cut off each time.
const MOST_TRIES: u32 = 5;

/// The pause before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The longest answer that is read; a list of 10,000 workspaces takes a tenth of it.
const ANSWER_LIMIT_BYTES: usize = 128 << 20;

/// A connection to be to one daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
    limit: Duration,
}

/// Why there is no answer.
enum Failure {
    /// The daemon accepted the connection and closed it.
    CutOff(CliError),
    /// Everything else.
    Other(CliError),
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::CutOff(error) | Failure::Other(error) => error,
        }
    }
}

/// An answer as it came.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Client {
    /// Prepares to talk to the daemon on a socket; nothing is sent yet.
    ///
    /// # Errors
    /// Fails if the process may not open what an event loop needs.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self, CliError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| CliError::io("cannot start an event loop", &source))?;
        Ok(Self { socket: socket.into(), runtime, limit: DEFAULT_LIMIT })
    }

    /// Allows an answer to take this long.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the socket that is talked to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Tells whether anybody accepts connections on the socket.
    ///
    /// # Errors
    /// Fails if that cannot be found out: no permission, or a path that no socket can have.
    pub fn is_answering(&self) -> Result<bool, CliError> {
        match self.runtime.block_on(UnixStream::connect(&self.socket)) {
            Ok(_) => Ok(true),
            Err(source) if is_nobody_there(&source) => Ok(false),
            Err(source) => Err(self.connect_error(&source)),
        }
    }

    /// Asks for the daemon and everything it holds.
    ///
    /// # Errors
    /// As every request: the daemon's own error, or why it could not be asked.
    pub fn status(&self) -> Result<DaemonStatus, CliError> {
        self.get("/status")
    }

    /// Asks for the workspaces.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn workspaces(&self) -> Result<WorkspaceList, CliError> {
        self.get("/workspaces")
    }

    /// Has one directory guarded.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn mount(&self, request: &MountRequest) -> Result<Workspace, CliError> {
        self.post("/workspaces", Some(request))
    }

    /// Has every directory below the configured roots guarded.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn mount_all(&self) -> Result<MountAllReport, CliError> {
        self.post("/workspaces/mount-all", None::<&()>)
    }

    /// Has a workspace unmounted, and taken out of the registry if `forget`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn umount(&self, id: &str, forget: bool) -> Result<UmountReport, CliError> {
        let route = format!("/workspaces/{}?forget={forget}", percent_encoded(id));
        decode(&self.exchange(Method::DELETE, &format!("{API_PREFIX}{route}"), Vec::new())?)
    }

    /// Has the daemon go on with another program; what becomes of it is told by [`Self::status`].
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeAccepted, CliError> {
        self.post("/upgrade", Some(request))
    }

    /// Asks what happened to files.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn log(&self, request: &LogRequest) -> Result<LogReport, CliError> {
        self.post("/log", Some(request))
    }

    /// Asks who writes at this moment.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn top(&self) -> Result<TopReport, CliError> {
        self.get("/top")
    }

    /// Asks for the newest events.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn last_events(&self, count: u32) -> Result<EventList, CliError> {
        self.get(&format!("/events?last={count}"))
    }

    /// Asks for the events after one, waiting for the first at most so long.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn events_after(&self, after: u64, wait_seconds: u64) -> Result<EventList, CliError> {
        self.get(&format!("/events?after={after}&wait_seconds={wait_seconds}"))
    }

    /// Asks where the space of a directory in a workspace went: `top` entries of each list, growth in `days`, and what
    /// has not changed for `cold_days`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn usage(&self, path: &Path, top: u32, days: u32, cold_days: u32) -> Result<UsageReport, CliError> {
        let path = percent_encoded(&path.to_string_lossy());
        self.get(&format!("/usage?path={path}&top={top}&days={days}&cold_days={cold_days}"))
    }

    /// Asks how every workspace grows, and what grew in `days`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn forecast(&self, days: u32) -> Result<ForecastReport, CliError> {
        self.get(&format!("/usage/forecast?days={days}"))
    }

    /// Asks what could be cleaned up in a directory in a workspace.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn clean_plan(&self, path: &Path) -> Result<CleanPlan, CliError> {
        let path = percent_encoded(&path.to_string_lossy());
        self.get(&format!("/usage/clean?path={path}"))
    }

    /// Has everything below a path written to disk.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn sync(&self, request: &SyncRequest) -> Result<SyncReport, CliError> {
        self.post("/sync", Some(request))
    }

    /// Asks for the limits and the use of every scope that the caller may see.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_report(&self) -> Result<QuotaReport, CliError> {
        self.get("/quota")
    }

    /// Has the quota policy changed, or asks what a change would do.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_change(&self, request: &QuotaRequest) -> Result<QuotaPlan, CliError> {
        self.post("/quota", Some(request))
    }

    /// Asks for everything that is configured.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_policy(&self) -> Result<PolicyDocument, CliError> {
        self.get("/quota/policy")
    }

    /// Asks why a path has the limits that it has.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_explain(&self, path: &str) -> Result<Explanation, CliError> {
        self.get(&format!("/quota/explain?path={}", percent_encoded(path)))
    }

    /// Has a workspace counted anew and its counters corrected.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_check(&self, request: &CheckRequest) -> Result<CheckReport, CliError> {
        self.post("/quota/check", Some(request))
    }

    /// Asks for the latest changes of the quota policy.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn quota_audit(&self, limit: u32) -> Result<AuditList, CliError> {
        self.get(&format!("/quota/audit?limit={limit}"))
    }

    /// Asks what a restore would do.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn restore_plan(&self, request: &RestoreRequest) -> Result<RestorePlan, CliError> {
        self.post("/restore/plan", Some(request))
    }

    /// Begins a restore.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn restore_start(&self, request: &RestoreRequest) -> Result<RestoreJob, CliError> {
        self.post("/restore/start", Some(request))
    }

    /// Asks what a clone would be (`plan`) or begins it (`start`).
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn clone_request<T: DeserializeOwned>(
        &self,
        action: &str,
        request: &CloneRequest,
    ) -> Result<T, CliError> {
        self.post(&format!("/clone/{action}"), Some(request))
    }

    /// Writes a file as it was, or a tar archive, to `to`. A reader that goes away early is no error.
    ///
    /// # Errors
    /// As [`Self::status`], and if it breaks off.
    pub fn restore_read(
        &self,
        request: &RestoreRequest,
        is_tar: bool,
        to: &mut dyn io::Write,
    ) -> Result<(), CliError> {
        let body = serde_json::to_vec(request).map_err(|source| {
            CliError::new(ErrorCode::Internal, "cannot write the request as JSON").because(source.to_string())
        })?;
        let path = format!("{API_PREFIX}/restore/read?tar={is_tar}");
        let copied = self.runtime.block_on(async {
            let (response, driver) = self.send(Method::POST, &path, body).await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
                driver.abort();
                let body =
                    body.map_err(|source| Failure::CutOff(self.broken_error(source.as_ref())))?.to_bytes();
                return Err(Failure::Other(refusal(&Answer { status, body })));
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|source| Failure::CutOff(self.broken_error(&source)))?;
                if let Ok(bytes) = frame.into_data() {
                    match to.write_all(&bytes) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(Failure::Other(CliError::io("cannot write", &error))),
                    }
                }
            }
            to.flush().map_err(|error| Failure::Other(CliError::io("cannot write", &error)))
        });
        Ok(copied?)
    }

    /// Asks for the restores of the workspace that a path is in.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn restore_jobs(&self, path: &Path) -> Result<RestoreJobs, CliError> {
        self.get(&format!("/restore/jobs?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Asks how far a restore is.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn restore_job(&self, path: &Path, id: u64) -> Result<RestoreJob, CliError> {
        self.get(&format!("/restore/jobs/{id}?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Has a restore broken off (`cancel`), taken up again (`resume`) or taken back (`reverse`, 0 for the last one).
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn restore_action(&self, path: &Path, id: u64, action: &str) -> Result<RestoreJob, CliError> {
        let path = percent_encoded(&path.to_string_lossy());
        self.post(&format!("/restore/jobs/{id}/{action}?path={path}"), None::<&()>)
    }

    /// Asks what could be undone in the workspace that a path is in.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn undo_list(&self, path: &Path) -> Result<UndoList, CliError> {
        self.get(&format!("/undo?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Asks what undoing would do.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn undo_preview(&self, request: &UndoRequest) -> Result<UndoPreview, CliError> {
        self.post("/undo/preview", Some(request))
    }

    /// Begins to undo a deletion.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn undo_start(&self, request: &UndoRequest) -> Result<RestoreJob, CliError> {
        self.post("/undo/start", Some(request))
    }

    /// Has a snapshot taken.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn take_snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotTaken, CliError> {
        self.post("/snapshots", Some(request))
    }

    /// Asks for the snapshots of the workspace that a path lies in.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn snapshots(&self, path: &Path) -> Result<SnapshotList, CliError> {
        self.get(&format!("/snapshots?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Has snapshots deleted, held or let go.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn change_snapshots(&self, request: &SnapshotChange) -> Result<SnapshotChanged, CliError> {
        self.post("/snapshots/change", Some(request))
    }

    /// Asks what is different between two snapshots, or one and now, at and below a path.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn snapshot_difference(
        &self,
        path: &Path,
        earlier: &str,
        later: Option<&str>,
    ) -> Result<DifferenceReport, CliError> {
        let (path, earlier) = (percent_encoded(&path.to_string_lossy()), percent_encoded(earlier));
        let later = later.map_or_else(String::new, |later| format!("&later={}", percent_encoded(later)));
        self.get(&format!("/snapshots/diff?path={path}&earlier={earlier}{later}"))
    }

    /// Asks for the versions of a file.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn versions(&self, path: &Path) -> Result<VersionReport, CliError> {
        self.get(&format!("/versions?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Asks what retention would do.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn retention_preview(&self, path: &Path) -> Result<RetentionPreview, CliError> {
        self.get(&format!("/retention/preview?path={}", percent_encoded(&path.to_string_lossy())))
    }

    /// Has everything that is kept of a workspace checked.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, CliError> {
        self.post("/verify", Some(request))
    }

    /// Sends a GET for any path, of any server, and returns the HTTP status of the answer.
    ///
    /// # Errors
    /// As [`Self::status`], save that every status is an answer.
    pub fn probe(&self, path: &str) -> Result<u16, CliError> {
        Ok(self.exchange(Method::GET, path, Vec::new())?.status.as_u16())
    }

    fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, CliError> {
        let path = format!("{API_PREFIX}{route}");
        let mut tries = 1;
        loop {
            match self.exchange(Method::GET, &path, Vec::new()) {
                Ok(answer) => return decode(&answer),
                Err(Failure::CutOff(_)) if tries < MOST_TRIES => tries += 1,
                Err(failure) => return Err(failure.into()),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn post<B: Serialize, T: DeserializeOwned>(&self, route: &str, body: Option<&B>) -> Result<T, CliError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|source| {
            CliError::new(ErrorCode::Internal, "cannot write the request as JSON").because(source.to_string())
        })?;
        decode(&self.exchange(Method::POST, &format!("{API_PREFIX}{route}"), body.unwrap_or_default())?)
    }

    fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        let exchange = self.exchange_unlimited(method, path, body);
        let limited = async { tokio::time::timeout(self.limit, exchange).await };
        self.runtime.block_on(limited).unwrap_or_else(|_| {
            let message = format!(
                "the daemon on {} did not answer within {} s",
                self.socket.display(),
                self.limit.as_secs_f64()
            );
            Err(Failure::Other(CliError::new(ErrorCode::TimedOut, message).with_hint(
                "it may still finish what was asked: look at `wsguard status` and at the daemon's log",
            )))
        })
    }

    /// Sends a request and returns the beginning of the answer, and what drives the connection.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Failure::Other(self.connect_error(&source)))?;
        let broken = |source: &dyn std::error::Error| Failure::CutOff(self.broken_error(source));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        // Ends with the exchange: the runtime runs it only while this future waits, and an error of the
        // connection reaches the request below.
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "wsguard");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|source| {
            let error = CliError::new(ErrorCode::Internal, "cannot make a request");
            Failure::Other(error.because(source.to_string()))
        })?;
        Ok((sender.send_request(request).await.map_err(|e| broken(&e))?, driver))
    }

    async fn exchange_unlimited(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        let (response, driver) = self.send(method, path, body).await?;
        let broken = |source: &dyn std::error::Error| Failure::CutOff(self.broken_error(source));
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
        driver.abort();
        match body {
            Ok(body) => Ok(Answer { status, body: body.to_bytes() }),
            Err(source) if source.is::<LengthLimitError>() => {
                let message = format!("the daemon's answer is longer than {ANSWER_LIMIT_BYTES} bytes");
                Err(Failure::Other(CliError::new(ErrorCode::Internal, message)))
            }
            Err(source) => Err(broken(source.as_ref())),
        }
    }

    fn connect_error(&self, source: &io::Error) -> CliError {
        let socket = self.socket.display();
        if is_nobody_there(source) {
            return CliError::new(ErrorCode::Unavailable, format!("no daemon answers on {socket}"))
                .because(source.to_string())
                .with_hint(
                    "start one with `sudo wsguard mount DIR` or `sudo wsguard daemon`; if one runs elsewhere, \
                     name it with --socket or --runtime-dir",
                );
        }
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                CliError::new(ErrorCode::Permission, format!("no permission to connect to {socket}"))
                    .with_hint("run the command as root, or ask an administrator for access")
            }
            io::ErrorKind::InvalidInput => {
                CliError::new(ErrorCode::InvalidRequest, format!("{socket} cannot be a socket's path"))
                    .because(source.to_string())
                    .with_hint("choose a runtime directory with a shorter path; sockets have 107 bytes")
            }
            io::ErrorKind::WouldBlock => CliError::new(
                ErrorCode::Unavailable,
                format!("too many commands wait for the daemon on {socket}"),
            )
            .with_hint("try again; if it stays so, the daemon hangs: see its log"),
            _ => CliError::io(format!("cannot connect to {socket}"), source),
        }
    }

    fn broken_error(&self, source: &dyn std::error::Error) -> CliError {
        let message = format!("the connection to the daemon on {} broke", self.socket.display());
        let error = CliError::new(ErrorCode::Unavailable, message).because(source.to_string());
        let error = match source.source() {
            Some(deeper) => error.because(deeper.to_string()),
            None => error,
        };
        error.with_hint("see whether it was done with `wsguard status`, then try again")
    }
}

/// No socket, or a socket that a dead daemon left.
fn is_nobody_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

fn decode<T: DeserializeOwned>(answer: &Answer) -> Result<T, CliError> {
    if !answer.status.is_success() {
        return Err(refusal(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|source| {
        CliError::new(ErrorCode::Internal, "cannot understand the daemon's answer")
            .because(source.to_string())
            .with_hint("daemon and command may be of different versions: restart the daemon with this binary")
    })
}

fn refusal(answer: &Answer) -> CliError {
    match serde_json::from_slice::<ApiError>(&answer.body) {
        Ok(error) => error.into(),
        Err(_) => {
            let message = format!("the daemon answered with HTTP status {}", answer.status.as_u16());
            CliError::new(ErrorCode::Internal, message).with_hint(
                "another program may listen on this socket, or the daemon is of another version: \
                 see its log and `wsguard status`",
            )
        }
    }
}

/// Returns an id as one segment of a path.
fn percent_encoded(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::test_server::{answer_always, http};

    fn answering(answer: String) -> (tempfile::TempDir, Client, Receiver<String>) {
        let dir = tempfile::tempdir().unwrap();
        let requests = answer_always(&dir.path().join("s"), answer);
        let client = Client::new(dir.path().join("s")).unwrap();
        (dir, client, requests)
    }

    #[test]
    fn umount_asks_with_an_encoded_id_and_passes_the_daemons_error_on() {
        let body = r#"{"code":"conflict","message":"busy","hint":"wait"}"#;
        let (_dir, client, requests) = answering(http("409 Conflict", body));
        let error = client.umount("a/b", true).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (ErrorCode::Conflict, "busy"));
        assert!(requests.recv().unwrap().starts_with("DELETE /v1/workspaces/a%2Fb?forget=true HTTP/1.1\r\n"));
    }

    #[test]
    fn an_answer_that_is_no_json_is_an_error_with_its_status() {
        let (_dir, client, _requests) = answering(http("500 X", "boom"));
        let error = client.status().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(error.to_string().contains("500"), "{error}");
    }

    #[test]
    fn a_question_that_is_cut_off_is_asked_again_and_a_request_is_not() {
        let (_dir, client, requests) = answering(String::new());
        assert_eq!(client.status().unwrap_err().code(), ErrorCode::Unavailable);
        assert_eq!(requests.try_iter().count(), MOST_TRIES as usize);
        let error = client.umount("a", false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unavailable);
        assert!(error.hint().unwrap().contains("whether it was done"), "{error:?}");
        assert_eq!(requests.try_iter().count(), 1);
    }

    #[test]
    fn a_server_that_says_nothing_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let client = Client::new(socket).unwrap().with_limit(Duration::from_millis(50));
        assert_eq!(client.status().unwrap_err().code(), ErrorCode::TimedOut);
    }

    #[test]
    fn nobody_there_is_not_an_error_of_the_question_whether_somebody_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Client::new(dir.path().join("none")).unwrap().is_answering().unwrap());
        let long = dir.path().join("x".repeat(200));
        let error = Client::new(long).unwrap().is_answering().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
    }
}
