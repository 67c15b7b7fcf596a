//! Extended attributes and, as such, POSIX ACLs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::tracking::is_told;
use super::{Caller, GuardFs, borrow, is_virtual};
use crate::backing::{is_private_xattr, proc_path, stat_of};
use crate::fail_point::{self, Stage};
use crate::inode::is_past;
use crate::sys::identity;
use crate::tracker::Operation;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of linux/limits.h.
const MAX_BYTES: usize = 64 << 10;

impl GuardFs {
    /// Sets an attribute.
    ///
    /// # Errors
    /// As setxattr(2); `EPERM` for the guard's own names and, under `squash`, for anything that gives privilege.
    pub(crate) fn set_xattr(
        &self,
        caller: Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        self.check_settable(name)?;
        identity::assume_nobody()?;
        let flags = u32::try_from(flags).ok().and_then(XattrFlags::from_bits).ok_or(Errno::INVAL)?;
        let fd = self.node_fd(node)?;
        let _step = self.before_attributes(caller, node, borrow(&fd), true)?;
        // Large values take a block of their own, which counts as the file's.
        let set = || {
            rustix::fs::setxattr(proc_path(borrow(&fd)), name, value, flags)?;
            // The ctime; the mode as well, if it is an ACL.
            self.changed(node);
            fail_point::reach(Stage::Effect);
            Ok(())
        };
        let set = || self.charged_change(node, borrow(&fd), set);
        // An access ACL clears the setgid bit unless the caller is in the file's group or holds CAP_FSETID
        // (`posix_acl_update_mode`); the request does not say which.
        if name == "system.posix_acl_access" {
            let stat = stat_of(borrow(&fd))?;
            if u32::from(stat.stx_mode) & libc::S_ISGID != 0 && caller.may_keep_setgid(stat.stx_gid) {
                identity::with_fsetid(set)?;
                self.note_xattr(caller, node, name);
                return Ok(());
            }
        }
        set()?;
        self.note_xattr(caller, node, name);
        Ok(())
    }

    fn note_xattr(&self, caller: Caller, node: u64, name: &OsStr) {
        if is_told(name) {
            self.note(caller.did(Operation::SetExtendedAttribute, node));
        }
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As removexattr(2), else as [`Self::set_xattr`].
    pub(crate) fn remove_xattr(&self, caller: Caller, node: u64, name: &OsStr) -> Result<(), Errno> {
        if is_private_xattr(name) {
            return Err(Errno::PERM);
        }
        identity::assume_nobody()?;
        let fd = self.node_fd(node)?;
        let _step = self.before_attributes(caller, node, borrow(&fd), true)?;
        self.charged_change(node, borrow(&fd), || {
            rustix::fs::removexattr(proc_path(borrow(&fd)), name)?;
            self.changed(node);
            fail_point::reach(Stage::Effect);
            Ok(())
        })?;
        self.note_xattr(caller, node, name);
        Ok(())
    }

    /// Whether an attribute is there.
    ///
    /// # Errors
    /// As getxattr(2), except `ENODATA`.
    pub(crate) fn has_xattr(&self, node: u64, name: &OsStr) -> Result<bool, Errno> {
        match self.xattr(node, name, &mut []) {
            Ok(_) => Ok(true),
            Err(Errno::NODATA) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Reads an attribute's value into `buffer`; with an empty buffer only returns its length.
    ///
    /// # Errors
    /// As getxattr(2), `ERANGE` included; `ENODATA` for the guard's own names, except that of the quota of a directory.
    pub(crate) fn xattr(&self, node: u64, name: &OsStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        if is_past(node) {
            return self.past_xattr(node, name, buffer);
        }
        if let Some(result) = self.quota_attribute(node, name, buffer) {
            return result;
        }
        if is_private_xattr(name) || is_virtual(node) {
            return Err(Errno::NODATA);
        }
        let path = proc_path(borrow(&self.node_fd(node)?));
        if buffer.is_empty() {
            rustix::fs::getxattr_query(path, name)
        } else {
            rustix::fs::getxattr(path, name, buffer)
        }
    }

    /// Returns the attributes' names, each ended by a NUL, without the guard's own.
    ///
    /// # Errors
    /// As listxattr(2).
    pub(crate) fn xattr_names(&self, node: u64) -> Result<Vec<u8>, Errno> {
        if is_virtual(node) {
            return Ok(Vec::new());
        }
        if is_past(node) {
            return self.past_xattr_names(node);
        }
        let fd = self.node_fd(node)?;
        let mut buffer = vec![0_u8; MAX_BYTES];
        let length = rustix::fs::listxattr(proc_path(borrow(&fd)), &mut buffer[..])?;
        let names = buffer[..length].split_inclusive(|byte| *byte == 0);
        Ok(names.filter(|name| !is_private_xattr(OsStr::from_bytes(name))).flatten().copied().collect())
    }

    fn check_settable(&self, name: &OsStr) -> Result<(), Errno> {
        let gives_privilege = name == "security.capability" || name.as_bytes().starts_with(b"trusted.");
        if is_private_xattr(name) || (self.is_squashed() && gives_privilege) {
            return Err(Errno::PERM);
        }
        Ok(())
    }
}
