//! The answer to `POST /restore/read`: files as they were, as a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Query, State};
use axum::response::Response;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use wsguard_api::{ApiError, ErrorCode};

use super::restore::{BODY_LIMIT, wanted};
use super::routes::{Caller, Context, Refusal, Shared, parameters, parse};
use crate::restore::{Export, Form};
use crate::workspaces::Viewer;

/// Sent at a time, bytes.
const CHUNK: usize = 128 << 10;
/// Chunks that wait for the client at most.
const WAITING: usize = 4;

/// What `POST /restore/read` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reading {
    tar: bool,
}

pub(super) async fn post_read(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<Reading>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let (viewer, Reading { tar }) = (peer.viewer()?, parameters(query)?);
    let request = parse(body, BODY_LIMIT)?;
    let (ready, is_ready) = oneshot::channel();
    let (sender, chunks) = mpsc::channel(WAITING);
    let form = if tar { Form::Tar } else { Form::Bytes };
    // A thread of its own: it reads for as long as the client takes.
    let read = move || read(&shared, viewer, request, form, ready, Sender { sender, chunk: Vec::new() });
    std::thread::Builder::new().name("restore read".to_owned()).spawn(read).map_err(|error| {
        ApiError::new(ErrorCode::Unavailable, format!("cannot start a thread to read: {error}"))
    })?;
    let gone = |_| ApiError::new(ErrorCode::Internal, "the look at what is to be read panicked");
    is_ready.await.map_err(gone)??;
    Ok(Response::new(Body::new(Chunks(chunks))))
}

fn read(
    shared: &Arc<Shared>,
    viewer: Viewer,
    request: wsguard_api::RestoreRequest,
    form: Form,
    ready: oneshot::Sender<Result<(), ApiError>>,
    mut sender: Sender,
) {
    let found = wanted(&shared.registry, viewer, request).and_then(|(site, wanted)| {
        let export = Export::new(site.ground(), &wanted, form).map_err(|error| error.to_api())?;
        Ok((site, export))
    });
    let (site, export) = match found {
        Ok(found) => found,
        Err(error) => {
            // Nobody waits any more if the client is gone.
            ready.send(Err(error)).ok();
            return;
        }
    };
    ready.send(Ok(())).ok();
    if let Err(error) = export.write(site.ground(), &mut sender) {
        tracing::warn!(%error, "what is read of the past breaks off");
        // The client must not take what it has for all of it.
        sender.sender.blocking_send(Err(error)).ok();
    }
}

/// Hands chunks to the connection.
struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The body of the answer.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
