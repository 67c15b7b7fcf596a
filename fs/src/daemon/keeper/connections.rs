//! Ending connections to the kernel by force, so that whoever waits for an answer gets an error.
//!
//! Closing a connection's last descriptor does that as well, but a thread of a dead worker that hangs in the kernel
//! keeps its descriptors open, and it hangs because of the answers that nobody gives.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Ends all of them; returns how many there were. One that is over already is none.
///
/// The control filesystem need not be mounted: it is looked at in a mount that nobody else sees.
///
/// # Errors
/// The kernel has no such filesystem, or does not end a connection.
pub(super) fn abort(connections: impl IntoIterator<Item = u32>) -> Result<usize, Errno> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let control = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let mut aborted = 0;
    for connection in connections {
        let path = Path::new(&connection.to_string()).join("abort");
        match rustix::fs::openat(&control, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                rustix::io::write(&file, b"1")?;
                aborted += 1;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(aborted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_that_is_over_is_none() {
        // Connections are numbered like devices; this number has none.
        match abort([u32::MAX]) {
            Ok(aborted) => assert_eq!(aborted, 0),
            // Without root or FUSE there is nothing to look at.
            Err(errno) => assert!(matches!(errno, Errno::PERM | Errno::NODEV), "{errno}"),
        }
    }
}
