//! Directories on the way to where something is restored, held while they are needed.
//!
//! Each step is one name looked up in a directory that is held, and has to be a directory: a symbolic link that
//! somebody puts in its place is never followed.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use rustix::io::Errno;

use crate::fs::GuardFs;
use crate::inode::ROOT_NODE;

/// See the module.
pub(super) struct Walk<'a> {
    fs: &'a GuardFs,
    /// Names from the root, each with the node that is held.
    held: Vec<(OsString, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(fs: &'a GuardFs) -> Self {
        Self { fs, held: Vec::new() }
    }

    /// Returns the node of a directory, relative to the root; it is held until the next call.
    ///
    /// # Errors
    /// `ENOENT` or `ENOTDIR` if there is no such directory.
    pub(super) fn enter(&mut self, path: &Path) -> Result<u64, Errno> {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let common = self.held.iter().zip(&names).take_while(|((held, _), name)| held == *name).count();
        self.leave(common);
        for name in names.get(common..).unwrap_or_default() {
            let entry = self.fs.lookup(self.top(), name)?;
            if u32::from(entry.stat.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
                self.fs.forget(entry.node, 1);
                return Err(Errno::NOTDIR);
            }
            self.held.push(((*name).to_owned(), entry.node));
        }
        Ok(self.top())
    }

    /// Lets go of everything, so that the next call looks again.
    pub(super) fn start_over(&mut self) {
        self.leave(0);
    }

    fn top(&self) -> u64 {
        self.held.last().map_or(ROOT_NODE, |(_, node)| *node)
    }

    fn leave(&mut self, kept: usize) {
        for (_, node) in self.held.drain(kept..) {
            self.fs.forget(node, 1);
        }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.leave(0);
    }
}
