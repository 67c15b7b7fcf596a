//! Who is at the other end of a connection.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use wsguard_api::{ApiError, ErrorCode};

use crate::sys::peer_groups::peer_groups;
use crate::workspaces::Viewer;

/// The uid and the groups of the process that connected, as the kernel knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    uid: Option<u32>,
    /// Primary and supplementary.
    groups: Vec<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // Without credentials the peer may do nothing, without groups what its uid may.
        let credentials = stream.io().peer_cred().ok();
        let mut groups = peer_groups(stream.io()).unwrap_or_default();
        groups.extend(credentials.map(|credentials| credentials.gid()));
        Self { uid: credentials.map(|credentials| credentials.uid()), groups }
    }
}

impl Peer {
    /// Returns what the peer may see.
    ///
    /// # Errors
    /// `Permission` if the kernel does not say who it is.
    pub(super) fn viewer(&self) -> Result<Viewer, ApiError> {
        match self.uid {
            Some(0) => Ok(Viewer::Root),
            Some(uid) => Ok(Viewer::User(uid)),
            None => Err(ApiError::new(ErrorCode::Permission, "the kernel does not say who is asking")),
        }
    }

    /// Returns uid, primary group, and all groups of the peer.
    ///
    /// # Errors
    /// As [`Self::viewer`].
    pub(super) fn credentials(&self) -> Result<(u32, u32, Vec<u32>), ApiError> {
        self.viewer()?;
        match (self.uid, self.groups.last()) {
            (Some(uid), Some(gid)) => Ok((uid, *gid, self.groups.clone())),
            _ => Err(ApiError::new(ErrorCode::Permission, "the kernel does not say who is asking")),
        }
    }

    /// Returns what the peer may see of quota: members of the group `admins` see what root sees.
    ///
    /// # Errors
    /// As [`Self::viewer`].
    pub(super) fn quota_viewer(&self, admins: Option<u32>) -> Result<Viewer, ApiError> {
        let viewer = self.viewer()?;
        let is_admin = admins.is_some_and(|gid| self.groups.contains(&gid));
        Ok(if is_admin { Viewer::Root } else { viewer })
    }

    /// Allows root and members of the group `admins` only, and returns the uid.
    ///
    /// # Errors
    /// `Permission` for everybody else.
    pub(super) fn require_quota_admin(&self, admins: Option<u32>, group: &str) -> Result<u32, ApiError> {
        match (self.quota_viewer(admins)?, self.uid) {
            (Viewer::Root, Some(uid)) => Ok(uid),
            (Viewer::Root | Viewer::User(_), uid) => {
                let who = uid.map_or_else(|| "nobody".to_owned(), |uid| format!("uid {uid}"));
                let message = format!("only root and members of {group} may do this, not {who}");
                Err(ApiError::new(ErrorCode::Permission, message)
                    .with_hint("ask an administrator; `wsguard quota get` shows your own limits"))
            }
        }
    }

    /// Allows root only.
    ///
    /// # Errors
    /// `Permission` for everybody else.
    pub(super) fn require_root(&self) -> Result<(), ApiError> {
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

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { uid: Some(uid), groups: groups.to_vec() }
    }

    #[test]
    fn only_root_may_change_anything() {
        peer(0, &[]).require_root().unwrap();
        let error = peer(1000, &[7]).require_root().unwrap_err();
        assert_eq!(error.code, ErrorCode::Permission);
        assert!(error.hint.is_some());
        assert!(Peer { uid: None, groups: Vec::new() }.viewer().is_err());
    }

    #[test]
    fn quota_is_set_by_root_and_the_group_of_its_admins() {
        assert_eq!(peer(0, &[]).require_quota_admin(None, "g"), Ok(0));
        assert_eq!(peer(1000, &[7]).require_quota_admin(Some(7), "g"), Ok(1000));
        for peer in [peer(1000, &[8]), peer(1000, &[]), Peer { uid: None, groups: vec![7] }] {
            let error = peer.require_quota_admin(Some(7), "g").unwrap_err();
            assert_eq!(error.code, ErrorCode::Permission, "{peer:?}");
        }
        assert!(peer(1000, &[7]).require_quota_admin(None, "g").is_err());
        assert_eq!(peer(1000, &[7]).quota_viewer(Some(7)), Ok(Viewer::Root));
        assert_eq!(peer(1000, &[8]).quota_viewer(Some(7)), Ok(Viewer::User(1000)));
    }
}
