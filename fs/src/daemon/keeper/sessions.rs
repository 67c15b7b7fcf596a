//! What each mount needs to outlive its worker.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use wsguard_api::{ApiError, ErrorCode};

use crate::keeper_link::SessionId;

/// One session's descriptors.
#[derive(Debug)]
pub(super) struct HeldSession {
    pub(super) workspace: String,
    pub(super) device: OwnedFd,
    pub(super) state: OwnedFd,
    /// From here on absent until a worker has mounted it.
    pub(super) root: Option<OwnedFd>,
    pub(super) notes: String,
    pub(super) connection: Option<u32>,
}

/// All of them by number.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    held: BTreeMap<SessionId, HeldSession>,
    last: u64,
}

impl Sessions {
    /// Goes on with the sessions of a keeper before this one.
    pub(super) fn again(held: BTreeMap<SessionId, HeldSession>) -> Self {
        let last = held.last_key_value().map_or(0, |(session, _)| session.0);
        Self { held, last }
    }

    /// Returns one of them.
    pub(super) fn get(&self, session: SessionId) -> Option<&HeldSession> {
        self.held.get(&session)
    }

    /// Opens a connection and its state, keeps both and returns copies.
    ///
    /// # Errors
    /// For whoever wanted to mount something.
    pub(super) fn open(&mut self, workspace: String) -> Result<(SessionId, Vec<OwnedFd>), ApiError> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| {
                ApiError::new(ErrorCode::Unavailable, format!("cannot open /dev/fuse: {errno}"))
                    .with_hint("load the module with `modprobe fuse`; in a container add --device /dev/fuse")
            },
        )?;
        let unavailable = |what: &str, errno: Errno| {
            ApiError::new(ErrorCode::Unavailable, format!("cannot {what} for {workspace}: {errno}"))
        };
        let state = rustix::fs::memfd_create(format!("wsguard-{workspace}"), MemfdFlags::CLOEXEC)
            .map_err(|errno| unavailable("make a memory file", errno))?;
        let copy = |fd: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| unavailable("copy a descriptor", errno))
        };
        let copies = vec![copy(&device)?, copy(&state)?];
        self.last += 1;
        let session = SessionId(self.last);
        let held =
            HeldSession { workspace, device, state, root: None, notes: String::new(), connection: None };
        self.held.insert(session, held);
        Ok((session, copies))
    }

    /// Keeps what a worker knows of a session once it is mounted. Returns whether there is such a session.
    pub(super) fn adopt(
        &mut self,
        session: SessionId,
        notes: String,
        connection: u32,
        root: OwnedFd,
    ) -> bool {
        let Some(held) = self.held.get_mut(&session) else { return false };
        held.root = Some(root);
        held.notes = notes;
        held.connection = Some(connection);
        true
    }

    /// Lets go of a session; one that is not there is what was wanted.
    pub(super) fn close(&mut self, session: SessionId) {
        self.held.remove(&session);
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns all of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &HeldSession)> {
        self.held.iter().map(|(session, held)| (*session, held))
    }

    /// Returns the numbers under which the kernel knows their connections.
    pub(super) fn connections(&self) -> impl Iterator<Item = u32> {
        self.held.values().filter_map(|held| held.connection)
    }

    /// Returns the layouts that their state is written in, each once.
    ///
    /// # Errors
    /// As [`crate::state::layout_of`].
    pub(super) fn layouts(&self) -> Result<Vec<u64>, Errno> {
        let mut layouts = Vec::new();
        for held in self.held.values() {
            layouts.extend(crate::state::layout_of(held.state.as_fd())?);
        }
        layouts.sort_unstable();
        layouts.dedup();
        Ok(layouts)
    }
}

impl HeldSession {
    /// Returns the descriptors in the order in which a worker expects them.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![self.device.as_fd(), self.state.as_fd()];
        descriptors.extend(self.root.as_ref().map(AsFd::as_fd));
        descriptors
    }
}
