//! A new FUSE superblock, not attached anywhere yet.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::error::MountError;
use super::mountinfo::SOURCE_PREFIX;

/// Creates the superblock that `device` serves and returns its detached mount.
///
/// The kernel queues the INIT request at once; nothing else is asked before somebody looks into the mount.
/// Dropping the descriptor before it is attached ends the superblock, and with it the session.
pub(crate) fn create(device: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, MountError> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| MountError::Kernel {
        action: "know fuse",
        errno,
        detail: String::new(),
    })?;
    let configured = configure(&context, device, name).and_then(|()| {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    });
    configured.map_err(|errno| MountError::Kernel {
        action: "mount fuse",
        errno,
        detail: complaints(&context),
    })
}

fn configure(context: &OwnedFd, device: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let context = context.as_fd();
    let descriptor = device.as_raw_fd().to_string();
    let source = format!("{SOURCE_PREFIX}{name}");
    for (key, value) in [
        ("source", source.as_str()),
        ("subtype", "wsguard"),
        ("fd", descriptor.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(context, key, value)?;
    }
    for flag in ["default_permissions", "allow_other"] {
        fsconfig_set_flag(context, flag)?;
    }
    fsconfig_create(context)
}

/// What the kernel wrote about a failure, for the message.
fn complaints(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0; 512];
    // ENODATA ends the list; any other error only means that there is nothing to add.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        text.push_str("; ");
        text.push_str(line.trim_start_matches("e ").trim());
    }
    text
}
