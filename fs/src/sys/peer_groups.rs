//! The groups of the process at the other end of a unix socket.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::handle::last_errno;

/// `SO_PEERGROUPS` of asm-generic/socket.h (Linux 4.13), which libc does not name on every target.
const SO_PEERGROUPS: libc::c_int = 59;

/// Returns the supplementary groups that the peer had when it connected.
///
/// # Errors
/// `NODATA` if the socket is not connected, `NOPROTOOPT` if the kernel is too old.
pub(crate) fn peer_groups(socket: impl AsFd) -> Result<Vec<u32>, Errno> {
    // NGROUPS_MAX is 65,536; most have a few, and the kernel says how many there are.
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: `groups` is valid for writes of `length` bytes, and both pointers outlive the call; the kernel
        // writes at most `length` bytes and puts the number of bytes that there are into `length`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let found = usize::try_from(length).unwrap_or(usize::MAX) / size_of::<libc::gid_t>();
        match result {
            0 => {
                groups.truncate(found);
                return Ok(groups);
            }
            _ => match last_errno() {
                Errno::RANGE if found > groups.len() => groups.resize(found, 0),
                errno => return Err(errno),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn groups_of_a_peer_in_this_process_are_its_own() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut own: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        own.sort_unstable();
        let mut found = peer_groups(&here).unwrap();
        found.sort_unstable();
        assert_eq!(found, own);
    }
}
