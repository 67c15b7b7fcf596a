//! Who is at the other end of a connection.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use wsguard_api::{ApiError, ErrorCode};

use crate::workspaces::Viewer;

/// The uid of the process that connected, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // Without credentials the peer may do nothing.
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl Peer {
    /// Returns what the peer may see.
    ///
    /// # Errors
    /// `Permission` if the kernel does not say who it is.
    pub(super) fn viewer(self) -> Result<Viewer, ApiError> {
        match self.uid {
            Some(0) => Ok(Viewer::Root),
            Some(uid) => Ok(Viewer::User(uid)),
            None => Err(ApiError::new(ErrorCode::Permission, "the kernel does not say who is asking")),
        }
    }

    /// Allows root only.
    ///
    /// # Errors
    /// `Permission` for everybody else.
    pub(super) fn require_root(self) -> Result<(), ApiError> {
        match self.viewer()? {
            Viewer::Root => Ok(()),
            Viewer::User(uid) => {
                Err(ApiError::new(ErrorCode::Permission, format!("only root may do this, not uid {uid}"))
                    .with_hint("run it with sudo, or ask an administrator"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_may_change_anything() {
        Peer { uid: Some(0) }.require_root().unwrap();
        let error = Peer { uid: Some(1000) }.require_root().unwrap_err();
        assert_eq!(error.code, ErrorCode::Permission);
        assert!(error.hint.is_some());
        assert!(Peer { uid: None }.viewer().is_err());
    }
}
