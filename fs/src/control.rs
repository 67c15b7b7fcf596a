//! The control API: HTTP/1.1 + JSON on `<runtime>/wsguard.sock`.
//!
//! One thread with a single-threaded runtime. Handlers validate, convert and delegate: they read the registry
//! directly and hand everything that mounts or unmounts to the driver, so a slow mount delays no `status`. Who
//! asks is known from the socket (SO_PEERCRED): everybody may look, at their own workspaces only; only root may
//! change anything.

mod deletions;
mod export;
mod history;
mod metrics;
mod past;
mod peer;
mod quota;
mod restore;
mod routes;
mod snapshots;
mod status;
mod usage;
mod versions;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};
use wsguard_api::{ApiError, ErrorCode, SOCKET_NAME};

pub(crate) use status::{Greeted, WorkerFacts};

use crate::delivery::Delivery;
use crate::events::EventLog;
use crate::tracker::Recorder;
use crate::usage::UsageService;
use crate::workspaces::{Jobs, Registry};

/// Everybody may connect; what they may do is decided for each request.
const SOCKET_MODE: u32 = 0o666;

/// How long requests under way may take after the end was announced.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What requests are answered from and handed to.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// What there is.
    pub(crate) registry: Arc<Registry>,
    /// Who changes it.
    pub(crate) jobs: Jobs,
    /// What happens in workspaces.
    pub(crate) recorder: Arc<Recorder>,
    /// Where their space went.
    pub(crate) usage: Arc<UsageService>,
    /// What happens beside that.
    pub(crate) events: Arc<EventLog>,
    /// How people hear of it.
    pub(crate) delivery: Arc<Delivery>,
}

/// A socket that listens, held by the keeper; clients that connect wait until a worker serves it. It goes with this
/// value.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            warn!(path = %self.path.display(), error = %error, "socket stays");
        }
    }
}

/// Returns the socket's path.
pub(crate) fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(SOCKET_NAME)
}

/// Listens below `runtime_dir`, in the place of a socket that a daemon left behind. Nobody can connect before it has
/// its mode.
///
/// # Errors
/// Names the socket; most likely its path is too long.
pub(crate) fn bind(runtime_dir: &Path) -> Result<ControlSocket, ApiError> {
    let path = socket_path(runtime_dir);
    let temporary = runtime_dir.join(format!(".{SOCKET_NAME}"));
    let attempt = || {
        remove_if_there(&temporary)?;
        let listener = std::os::unix::net::UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&temporary, &path)?;
        Ok(listener)
    };
    attempt().map(|listener| ControlSocket { listener, path: path.clone() }).map_err(
        |error: std::io::Error| {
            ApiError::new(ErrorCode::Unavailable, format!("cannot listen on {}: {error}", path.display()))
                .with_hint("a socket's path has at most 107 bytes; choose a shorter --runtime-dir")
        },
    )
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Who serves the socket after this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Successor {
    /// Nobody: the daemon stops.
    None,
    /// Another worker, which also gets the connections that are made until then.
    Worker,
}

/// The thread that serves the socket.
#[derive(Debug)]
pub(crate) struct ControlServer {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    path: PathBuf,
}

impl ControlServer {
    /// Serves the socket at `path` as soon as `ready` speaks, but after `patience` in any case.
    ///
    /// # Errors
    /// When thread or runtime cannot be started.
    pub(crate) fn start(
        (listener, path): (OwnedFd, PathBuf),
        ready: Receiver<()>,
        patience: Duration,
        facts: WorkerFacts,
        parts: Parts,
    ) -> std::io::Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let listener = std::os::unix::net::UnixListener::from(listener);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let metrics_listen = facts.metrics_listen();
        let shared = routes::shared(facts, parts);
        let router = routes::router(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            if ready.recv_timeout(patience).is_err() {
                warn!(seconds = patience.as_secs(), "not everything is mounted yet");
            }
            runtime.block_on(async move {
                if let Some(address) = metrics_listen {
                    // Ends with the runtime.
                    drop(tokio::spawn(metrics::serve(address, shared)));
                }
                if let Err(error) = serve(listener, router, &mut stopped).await {
                    error!(error = %error, "control socket is not served");
                }
            });
            // A sync that hangs on its filesystem must not keep the worker.
            runtime.shutdown_timeout(Duration::ZERO);
        })?;
        Ok(Self { stop, thread, path })
    }

    /// Lets requests under way finish; if nobody comes after, the socket goes first.
    pub(crate) fn stop(self, successor: Successor) {
        if successor == Successor::None
            && let Err(error) = remove_if_there(&self.path)
        {
            warn!(path = %self.path.display(), error = %error, "socket stays");
        }
        // Without a receiver the server has ended already.
        self.stop.send(true).ok();
        if self.thread.join().is_err() {
            error!("control server panicked");
        }
    }
}

async fn serve(
    listener: std::os::unix::net::UnixListener,
    router: axum::Router,
    stopped: &mut watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    info!("control socket answers");
    let mut announced = stopped.clone();
    let service = router.into_make_service_with_connect_info::<peer::Peer>();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which is an announcement as well.
        announced.wait_for(|is_stopped| *is_stopped).await.ok();
    });
    tokio::select! {
        result = server => result,
        () = overdue(stopped) => Ok(()),
    }
}

/// Ends some time after the end was announced.
async fn overdue(stopped: &mut watch::Receiver<bool>) {
    stopped.wait_for(|is_stopped| *is_stopped).await.ok();
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}
