//! Files as they were, written somewhere: one file, or a tar archive of several. Nothing in the workspace is changed.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use tar::{Builder, EntryType, Header};

use super::execute::Obstacle;
use super::ledger::Root;
use super::moment::{not_then, roots};
use super::place::verify_all;
use super::{Ground, RestoreError, Wanted};
use crate::snapshot::{Archive, Attributes, Certainty, Named, PastFile, Sequence, View};
use crate::sys::handle::FileHandle;

/// What can be written.
pub(crate) struct Export {
    roots: Vec<Root>,
    form: Form,
    accepts_changed: bool,
}

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// The bytes of one file.
    Bytes,
    /// A tar archive with extended attributes, as GNU tar and bsdtar read it.
    Tar,
}

impl Export {
    /// Finds out what is asked for, so that what is wrong with it can be told before anything is written.
    ///
    /// # Errors
    /// `NotFound` for what did not exist; `Invalid` if bytes of something else than one file are asked for; as reading it.
    pub(crate) fn new(ground: &Ground, wanted: &Wanted, form: Form) -> Result<Self, RestoreError> {
        let roots = roots(ground, &wanted.paths, &wanted.request.when, None)?;
        let export = Self { roots, form, accepts_changed: wanted.request.accept_changed };
        for root in &export.roots {
            let view = export.view(ground, root)?;
            let Named { inode, file_type } = named(&view, root)?;
            if form == Form::Bytes {
                if export.roots.len() != 1 || file_type != libc::S_IFREG {
                    return Err(RestoreError::Invalid(
                        "only one regular file can be written like this".into(),
                    ));
                }
                export.check(ground, &view, &view.open(&inode)?, &root.from.path()).map_err(invalid)?;
            }
        }
        Ok(export)
    }

    fn view<'a>(&self, ground: &'a Ground, root: &Root) -> Result<View<'a>, RestoreError> {
        ground.view(Sequence::from_i64(root.moment).unwrap_or(Sequence::ZERO))
    }

    /// Writes it.
    ///
    /// # Errors
    /// As reading and writing; what was written so far is not all of it then.
    pub(crate) fn write(&self, ground: &Ground, to: impl Write) -> io::Result<()> {
        match self.form {
            Form::Bytes => self.write_bytes(ground, to),
            Form::Tar => self.write_tar(ground, to),
        }
    }

    fn write_bytes(&self, ground: &Ground, mut to: impl Write) -> io::Result<()> {
        for root in &self.roots {
            let view = self.view(ground, root).map_err(io::Error::other)?;
            let named = named(&view, root).map_err(io::Error::other)?;
            let file = view.open(&named.inode).map_err(io::Error::other)?;
            io::copy(&mut Bytes { file: &file, archive: &ground.archive, at: 0 }, &mut to)?;
        }
        to.flush()
    }

    fn write_tar(&self, ground: &Ground, to: impl Write) -> io::Result<()> {
        let mut tar = Tar { builder: Builder::new(to), names: FxHashMap::default(), export: self, ground };
        for root in &self.roots {
            let view = self.view(ground, root).map_err(io::Error::other)?;
            let first = named(&view, root).map_err(io::Error::other)?;
            let name = root.from.path().file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
            let mut pending = vec![(name, first)];
            while let Some((path, named)) = pending.pop() {
                tar.add(&view, &path, named)?;
                if named.file_type != libc::S_IFDIR {
                    continue;
                }
                let mut entries = view.list(&named.inode).map_err(io::Error::other)?;
                entries.sort_unstable_by(|a, b| b.name.cmp(&a.name));
                for entry in entries {
                    let name = std::ffi::OsString::from_vec(entry.name);
                    let found = match entry.named {
                        Some(named) => Some(named),
                        None => view.lookup(&named.inode, &name).map_err(io::Error::other)?,
                    };
                    pending.extend(found.map(|named| (path.join(name), named)));
                }
            }
        }
        tar.builder.into_inner()?.flush()
    }

    /// Refuses what is not known or damaged.
    fn check(&self, ground: &Ground, view: &View<'_>, file: &PastFile, path: &Path) -> Result<(), String> {
        let certainty = view.certainty(file).map_err(|error| error.to_string())?;
        if certainty == Certainty::ChangedOutside && !self.accepts_changed {
            return Err(format!("{} was changed past the mount since then", path.display()));
        }
        verify_all(ground, file)
            .map_err(|obstacle: Obstacle| format!("{}: {}", path.display(), obstacle.reason()))
    }
}

fn invalid(reason: String) -> RestoreError {
    RestoreError::Invalid(reason)
}

fn named(view: &View<'_>, root: &Root) -> Result<Named, RestoreError> {
    let path = root.from.path();
    view.resolve(&path)?.ok_or_else(|| not_then(&path))
}

struct Tar<'a, W: Write> {
    builder: Builder<W>,
    /// The first names of inodes that have several.
    names: FxHashMap<FileHandle, PathBuf>,
    export: &'a Export,
    ground: &'a Ground,
}

impl<W: Write> Tar<'_, W> {
    fn add(&mut self, view: &View<'_>, path: &Path, Named { inode, file_type }: Named) -> io::Result<()> {
        let (attributes, _) = view.attributes(&inode).map_err(io::Error::other)?;
        let mut header = header(&attributes);
        if file_type != libc::S_IFDIR
            && let Some(first) = self.names.get(&inode)
        {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return self.builder.append_link(&mut header, path, first);
        }
        if attributes.nlink > 1 && file_type != libc::S_IFDIR {
            self.names.insert(inode, path.to_path_buf());
        }
        let kind = match file_type {
            libc::S_IFREG => EntryType::Regular,
            libc::S_IFDIR => EntryType::Directory,
            libc::S_IFLNK => EntryType::Symlink,
            libc::S_IFIFO => EntryType::Fifo,
            libc::S_IFCHR => EntryType::Char,
            libc::S_IFBLK => EntryType::Block,
            // A socket means nothing in an archive, as to tar(1).
            _ => return Ok(()),
        };
        header.set_entry_type(kind);
        self.add_extensions(view, &inode, &attributes)?;
        match file_type {
            libc::S_IFREG => {
                let file = view.open(&inode).map_err(io::Error::other)?;
                self.export.check(self.ground, view, &file, path).map_err(io::Error::other)?;
                header.set_size(attributes.size);
                let bytes = Bytes { file: &file, archive: &self.ground.archive, at: 0 };
                self.builder.append_data(&mut header, path, bytes)
            }
            libc::S_IFLNK => {
                let target = view.read_link(&inode).map_err(io::Error::other)?;
                self.builder.append_link(&mut header, path, std::ffi::OsString::from_vec(target))
            }
            _ => {
                if matches!(file_type, libc::S_IFCHR | libc::S_IFBLK) {
                    header.set_device_major(rustix::fs::major(attributes.device))?;
                    header.set_device_minor(rustix::fs::minor(attributes.device))?;
                }
                self.builder.append_data(&mut header, path, io::empty())
            }
        }
    }

    /// Adds what the header has no room for: parts of a second, and extended attributes.
    fn add_extensions(
        &mut self,
        view: &View<'_>,
        inode: &FileHandle,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let xattrs = view.extended_attributes(inode).map_err(io::Error::other)?;
        let mut extensions = vec![("mtime".to_owned(), decimal(attributes.modified_ns).into_bytes())];
        for (name, value) in xattrs {
            // A key is UTF-8 and ends at the first `=`.
            if let Some(name) = String::from_utf8(name).ok().filter(|name| !name.contains('=')) {
                extensions.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        let extensions = extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(extensions)
    }
}

fn header(attributes: &Attributes) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(attributes.mode & 0o7777);
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(u64::try_from(attributes.modified_ns.div_euclid(1_000_000_000)).unwrap_or(0));
    header.set_size(0);
    header
}

/// Returns seconds with nine digits behind the point.
fn decimal(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// The bytes of a file as it was, from the first on.
struct Bytes<'a> {
    file: &'a PastFile,
    archive: &'a Archive,
    at: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(self.archive, self.at, buffer).map_err(io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(decimal(1_500_000_000), "1.500000000");
        assert_eq!(decimal(0), "0.000000000");
        assert_eq!(decimal(-1), "-0.000000001");
    }
}
