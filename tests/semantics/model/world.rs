//! One of the two directories of a sequence: applies operations and describes what a program can see of the result.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags,
        copy_file_range, fallocate, fsync, getxattr, listxattr, llistxattr, mkdirat, mkfifoat, openat,
        removexattr, renameat_with, seek, setxattr, utimensat,
    },
    io::Errno,
};

use super::operation::{Operation, SLOTS, Slot};

/// Times below this were set by the sequence; later ones are the clock's and differ between the two directories.
const FIRST_CLOCK_SECOND: i64 = 1_000_000_000;

/// A directory and the descriptors that are open in it.
pub(crate) struct World {
    root: PathBuf,
    slots: [Option<File>; SLOTS],
}

/// What an operation gives: a description of the result, or an errno.
type Outcome = io::Result<String>;

fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes #{:x}", bytes.len(), hasher.finish())
}

fn describe(metadata: &fs::Metadata) -> String {
    let kind = metadata.file_type();
    let kind = [
        (kind.is_dir(), "directory"),
        (kind.is_file(), "file"),
        (kind.is_symlink(), "symlink"),
        (kind.is_fifo(), "fifo"),
        (kind.is_char_device(), "character device"),
    ]
    .into_iter()
    .find_map(|(holds, name)| holds.then_some(name))
    .unwrap_or("something else");
    // The size of a directory depends on what was in it before.
    let size = if metadata.is_dir() { 0 } else { metadata.len() };
    // A write into a FIFO moves its times on the filesystem below only (SEMANTICS.md).
    let modified = if metadata.file_type().is_fifo() {
        "by anybody".to_owned()
    } else if metadata.mtime() < FIRST_CLOCK_SECOND {
        format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())
    } else {
        "by the clock".to_owned()
    };
    format!(
        "{kind} {:o} links {} size {size} owner {}:{} modified {modified}",
        metadata.permissions().mode() & 0o7777,
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
    )
}

fn names(buffer: &[u8]) -> BTreeSet<String> {
    buffer
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

impl World {
    pub(crate) fn new(root: &Path) -> World {
        World { root: root.to_owned(), slots: [const { None }; SLOTS] }
    }

    /// Applies one operation and describes its outcome, the errno by its name.
    pub(crate) fn apply(&mut self, operation: &Operation) -> String {
        match self.attempt(operation) {
            Ok(text) => text,
            Err(error) => format!("{:?}", error.raw_os_error().map(Errno::from_raw_os_error)),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn slot(&self, slot: Slot) -> io::Result<&File> {
        self.slots[slot].as_ref().ok_or_else(|| Errno::BADF.into())
    }

    fn attempt(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Open { .. }
            | Operation::Close { .. }
            | Operation::Write { .. }
            | Operation::WriteAt { .. }
            | Operation::Append { .. }
            | Operation::Read { .. }
            | Operation::ReadAt { .. }
            | Operation::ReadFile { .. }
            | Operation::SetLen { .. }
            | Operation::Truncate { .. }
            | Operation::Allocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SeekData { .. }
            | Operation::SeekHole { .. }
            | Operation::Sync { .. }
            | Operation::StatSlot { .. } => self.attempt_data(operation),
            _ => self.attempt_name(operation),
        }
    }

    fn attempt_data(&mut self, operation: &Operation) -> Outcome {
        match *operation {
            Operation::Open { slot, path, flags, mode } => {
                self.slots[slot] = None;
                self.slots[slot] = Some(self.open(path, flags, mode)?);
                Ok("open".to_owned())
            }
            Operation::Close { slot } => Ok(format!("was open: {}", self.slots[slot].take().is_some())),
            Operation::Write { slot, len, fill } => {
                Ok(format!("wrote {}", self.slot(slot)?.write(&vec![fill; len])?))
            }
            Operation::WriteAt { slot, offset, len, fill } => {
                Ok(format!("wrote {}", self.slot(slot)?.write_at(&vec![fill; len], offset)?))
            }
            Operation::Append { path, len, fill } => {
                let mut file = self.open(path, libc::O_WRONLY | libc::O_APPEND, 0)?;
                Ok(format!("wrote {}", file.write(&vec![fill; len])?))
            }
            Operation::Read { slot, len } => {
                let mut buffer = vec![0; len];
                let count = self.slot(slot)?.read(&mut buffer)?;
                Ok(digest(&buffer[..count]))
            }
            Operation::ReadAt { slot, offset, len } => {
                let mut buffer = vec![0; len];
                let count = self.slot(slot)?.read_at(&mut buffer, offset)?;
                Ok(digest(&buffer[..count]))
            }
            Operation::ReadFile { path } => {
                let mut bytes = Vec::new();
                self.open(path, libc::O_RDONLY, 0)?.read_to_end(&mut bytes)?;
                Ok(digest(&bytes))
            }
            Operation::SetLen { slot, len } => self.slot(slot)?.set_len(len).map(|()| "cut".to_owned()),
            Operation::Truncate { path, len } => {
                self.open(path, libc::O_WRONLY, 0)?.set_len(len).map(|()| "cut".to_owned())
            }
            Operation::Allocate { slot, mode, offset, len } => {
                let (file, mode) = (self.slot(slot)?, FallocateFlags::from_bits_retain(mode));
                // btrfs keeps set-id bits where there was a hole already; the kernel's FUSE asks for no such thing.
                let is_set_id = file.metadata()?.permissions().mode() & 0o6000 != 0;
                if is_set_id && mode.contains(FallocateFlags::PUNCH_HOLE) {
                    return Ok("not tried".to_owned());
                }
                fallocate(file, mode, offset, len)?;
                Ok("allocated".to_owned())
            }
            Operation::CopyRange { from, to, mut from_offset, mut to_offset, len } => {
                let (source, target) = (self.slot(from)?, self.slot(to)?);
                let copied =
                    copy_file_range(source, Some(&mut from_offset), target, Some(&mut to_offset), len)?;
                Ok(format!("copied {copied}, now at {from_offset} and {to_offset}"))
            }
            Operation::SeekData { slot, offset } => {
                Ok(format!("data at {}", seek(self.seekable(slot)?, SeekFrom::Data(offset))?))
            }
            Operation::SeekHole { slot, offset } => {
                Ok(format!("hole at {}", seek(self.seekable(slot)?, SeekFrom::Hole(offset))?))
            }
            Operation::Sync { slot } => Ok(fsync(self.slot(slot)?).map(|()| "synced".to_owned())?),
            Operation::StatSlot { slot } => self.slot(slot)?.metadata().map(|metadata| describe(&metadata)),
            _ => unreachable!("not an operation on data: {operation:?}"),
        }
    }

    fn attempt_name(&self, operation: &Operation) -> Outcome {
        let done = || "done".to_owned();
        match *operation {
            Operation::Unlink { path } => fs::remove_file(self.at(path)).map(|()| done()),
            Operation::MakeDir { path, mode } => {
                Ok(mkdirat(CWD, self.at(path), Mode::from_raw_mode(mode)).map(|()| done())?)
            }
            Operation::RemoveDir { path } => fs::remove_dir(self.at(path)).map(|()| done()),
            Operation::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(flags);
                Ok(renameat_with(CWD, self.at(from), CWD, self.at(to), flags).map(|()| done())?)
            }
            Operation::Link { from, to } => fs::hard_link(self.at(from), self.at(to)).map(|()| done()),
            Operation::Symlink { target, path } => symlink(target, self.at(path)).map(|()| done()),
            Operation::ReadLink { path } => fs::read_link(self.at(path)).map(|target| format!("{target:?}")),
            Operation::MakeFifo { path, mode } => {
                Ok(mkfifoat(CWD, self.at(path), Mode::from_raw_mode(mode)).map(|()| done())?)
            }
            Operation::Chmod { path, mode } => {
                fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).map(|()| done())
            }
            Operation::Chown { path, uid, gid, follow } => {
                let change =
                    if follow { chown(self.at(path), uid, gid) } else { lchown(self.at(path), uid, gid) };
                change.map(|()| done())
            }
            Operation::SetTimes { path, seconds, nanoseconds } => {
                let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
                let times = Timestamps { last_access: time, last_modification: time };
                Ok(utimensat(CWD, self.at(path), &times, AtFlags::empty()).map(|()| done())?)
            }
            Operation::SetAttribute { path, name, len, flags } => {
                let flags = XattrFlags::from_bits_retain(flags);
                Ok(setxattr(self.at(path), name, &vec![b'v'; len], flags).map(|()| done())?)
            }
            Operation::GetAttribute { path, name } => {
                let mut buffer = vec![0; 2000];
                let len = getxattr(self.at(path), name, &mut buffer)?;
                Ok(digest(&buffer[..len]))
            }
            Operation::RemoveAttribute { path, name } => {
                Ok(removexattr(self.at(path), name).map(|()| done())?)
            }
            Operation::ListAttributes { path } => {
                let mut buffer = vec![0; 8000];
                let len = listxattr(self.at(path), &mut buffer)?;
                Ok(format!("{:?}", names(&buffer[..len])))
            }
            Operation::List { path } => self.list(path),
            Operation::Stat { path } => self.stat(path),
            _ => unreachable!("not an operation on names: {operation:?}"),
        }
    }

    fn open(&self, path: &str, flags: i32, mode: u32) -> io::Result<File> {
        // O_NONBLOCK: nobody waits for the other end of a FIFO.
        let flags = OFlags::from_bits_retain((flags | libc::O_NONBLOCK) as u32);
        let fd = openat(CWD, self.at(path), flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(fd))
    }

    /// Holes are those of regular files, and compared after writeback: before it, the filesystem may or may not have
    /// reserved whole blocks.
    fn seekable(&self, slot: Slot) -> io::Result<&File> {
        let file = self.slot(slot)?;
        if !file.metadata()?.is_file() {
            return Err(Errno::INVAL.into());
        }
        file.sync_all()?;
        Ok(file)
    }

    fn list(&self, path: &str) -> Outcome {
        let mut entries = fs::read_dir(self.at(path))?
            .map(|entry| {
                entry.and_then(|entry| Ok(format!("{:?} {:?}", entry.file_name(), entry.file_type()?)))
            })
            .collect::<io::Result<Vec<String>>>()?;
        entries.sort();
        Ok(format!("{entries:?}"))
    }

    fn stat(&self, path: &str) -> Outcome {
        let own = fs::symlink_metadata(self.at(path))?;
        let followed = fs::metadata(self.at(path)).map(|metadata| describe(&metadata));
        Ok(format!("{}; followed: {:?}", describe(&own), followed.map_err(|error| error.raw_os_error())))
    }

    /// Describes every entry, one line each.
    pub(crate) fn tree(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        self.describe_below(&self.root, &mut lines);
        lines
    }

    fn describe_below(&self, directory: &Path, lines: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                let mut bytes = Vec::new();
                OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(&path)
                    .and_then(|mut file| file.read_to_end(&mut bytes))
                    .unwrap();
                digest(&bytes)
            } else if metadata.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                String::new()
            };
            let mut buffer = vec![0; 8000];
            let len = llistxattr(&path, &mut buffer).unwrap();
            let name =
                path.strip_prefix(&self.root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            lines.insert(format!("{name}: {} {content} {:?}", describe(&metadata), names(&buffer[..len])));
            if metadata.is_dir() {
                self.describe_below(&path, lines);
            }
        }
    }
}
