//! Joining a worker to a mount: the first one by answering INIT, a later one without it.
//!
//! The kernel sends INIT once in the life of a mount. `fuser` can only begin with it, so a worker that takes over
//! plays the kernel's part to it over a socket pair, with what the first worker negotiated, and then puts the live
//! device under the session's descriptor (dup3(2)).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::GuardFuse;
use crate::fs::GuardFs;
use crate::sys::device::FuseDevice;

/// `FUSE_INIT` of include/uapi/linux/fuse.h.
const INIT: u32 = 26;
/// Bytes of `struct fuse_in_header` and `struct fuse_init_in`.
const HEADER_BYTES: usize = 40;
const INIT_BYTES: usize = HEADER_BYTES + 64;
/// `FUSE_INIT_EXT`: the flags have a second half.
const INIT_EXT: u64 = 1 << 30;
/// The protocol that the flags in use belong to; the library speaks 7.40.
const PROTOCOL: (u32, u32) = (7, 45);
/// Means nothing here: it was settled with the kernel by the first worker.
const MAX_READAHEAD: u32 = 128 << 10;

fn config(threads: usize) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(threads.max(1));
    config
}

/// Answers the pending INIT of a mount that was just made.
///
/// # Errors
/// The kernel lacks what SEMANTICS.md needs, or the mount is gone.
pub(crate) fn connect(
    fs: Arc<GuardFs>,
    device: OwnedFd,
    threads: usize,
) -> std::io::Result<Session<GuardFuse>> {
    Session::from_fd(GuardFuse(fs), device, SessionACL::All, config(threads))
}

/// Takes over a mount whose worker is gone. What that one had read and not answered is sent again before this
/// returns, so it must be called before anybody reads from the device.
///
/// # Errors
/// As [`connect`]; `EINVAL` when the kernel cannot send requests again (before Linux 6.9).
pub(crate) fn reconnect(
    fs: Arc<GuardFs>,
    device: &FuseDevice,
    capabilities: u64,
    threads: usize,
) -> std::io::Result<Session<GuardFuse>> {
    let (kernel_side, session_side) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::write(&kernel_side, &init_request(capabilities))?;
    let session = Session::from_fd(GuardFuse(fs), session_side, SessionACL::All, config(threads))?;
    device.replace(session.as_fd())?;
    device.resend()?;
    Ok(session)
}

fn init_request(capabilities: u64) -> [u8; INIT_BYTES] {
    let mut request = [0; INIT_BYTES];
    let flags = capabilities | INIT_EXT;
    let mut put = |offset: usize, value: u32| {
        request[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    };
    put(0, INIT_BYTES as u32);
    put(4, INIT);
    put(8, 1); // any number but 0
    put(HEADER_BYTES, PROTOCOL.0);
    put(HEADER_BYTES + 4, PROTOCOL.1);
    put(HEADER_BYTES + 8, MAX_READAHEAD);
    put(HEADER_BYTES + 12, (flags & 0xffff_ffff) as u32);
    put(HEADER_BYTES + 16, (flags >> 32) as u32);
    request
}
