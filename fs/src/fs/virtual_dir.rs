//! The virtual directory `.wsguard` at the root of a mount: text files about the workspace itself, and one that takes
//! requests.
//!
//! Found by name and never listed, so that backups and `find` do not see it. A user's own entry of that name wins. The
//! files cost no space, and reading them needs none.
//!
//! Nodes and handles are stateless: their numbers say what they stand for (the range that [`crate::inode`] leaves
//! free), so that any worker answers for what another one gave out, and nothing is counted. What a file holds is made
//! when it is opened, and stays the same for this open. A worker that took over has not kept it: a reader that is at the
//! beginning gets the text of now, one at the end the end, and one in the middle ESTALE, because the rest of another
//! text would be wrong.
//!
//! `request` takes one line with each write(2), and what is read from it is the answer. The line is passed on, and not
//! kept here: how it is bounded is said by [`Pages::request`].

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Caller, DirectoryEntry, Entry, GuardFs, borrow};
use crate::backing::{Stat, stat_of};
use crate::inode::{FIRST_RESERVED_NODE, ROOT_NODE};

/// The directory's name.
const NAME: &str = ".wsguard";

/// The attribute with the quota of the workspace, on every directory.
const QUOTA_ATTRIBUTE: &str = "user.wsguard.quota";

/// The directory's node; those of its files follow in the order of [`Page::FILES`].
const DIRECTORY_NODE: u64 = FIRST_RESERVED_NODE;

/// Handles from here on belong to virtual files; the others are indices into a table.
pub(super) const FIRST_HANDLE: u64 = 1 << 63;
/// Where a handle has the number of its file; below it is a number of its own.
const FILE_SHIFT: u32 = 56;

/// How long a text may be given out again: an open in a loop must not cost more than a read.
const FRESH: Duration = Duration::from_millis(100);

/// How long the kernel may trust that the name is there: somebody may create their own below the mount.
const DIRECTORY_TTL: Duration = Duration::from_secs(1);

/// Virtual files that may be open at a time: each keeps a text.
const MOST_OPEN: usize = 65_536;

/// A text about the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// One screen for people.
    Quota,
    /// The same for programs.
    QuotaJson,
    /// What the owner should know, a line each, oldest first.
    Notices,
    /// Who writes now, and what is large and grows.
    Top,
    /// What happened lately.
    Log,
    /// What was asked for from inside, and the answers.
    Request,
    /// One line of `key=value`, for the extended attribute.
    QuotaLine,
}

impl Page {
    /// Those that are files, with their names. Their places are parts of node and handle numbers that outlive a worker:
    /// new ones go to the end.
    const FILES: [(Self, &'static str); 6] = [
        (Self::Quota, "quota"),
        (Self::QuotaJson, "quota.json"),
        (Self::Notices, "notices"),
        (Self::Top, "top"),
        (Self::Log, "log"),
        (Self::Request, "request"),
    ];
    const COUNT: usize = 7;

    fn of_file(index: u64) -> Option<Self> {
        Self::FILES.get(usize::try_from(index).ok()?).map(|(page, _)| *page)
    }

    fn of_node(node: u64) -> Option<Self> {
        Self::of_file(node.checked_sub(DIRECTORY_NODE + 1)?)
    }
}

/// A line that somebody wrote to `request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestLine {
    /// Without the newline; any characters but control characters.
    pub(crate) text: String,
    /// The writer's filesystem uid.
    pub(crate) uid: u32,
    /// The command that wrote it; empty if it is not known.
    pub(crate) command: String,
}

/// What the files hold, and who takes requests. Called by threads that serve requests.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Writes a text. It may take locks for moments and must not wait for a disk or for the filesystem itself.
    pub(crate) text: Arc<dyn Fn(Page) -> String + Send + Sync>,
    /// Takes a request, or says with which errno write(2) fails. It may wait for an answer for a fraction of a second,
    /// and bounds how often a workspace can make it do so.
    pub(crate) request: Arc<dyn Fn(RequestLine) -> Result<(), Errno> + Send + Sync>,
}

/// Longest line of a request, bytes.
const LONGEST_LINE: usize = 1_024;

type Text = Arc<[u8]>;

/// What [`GuardFs`] keeps for the directory.
pub(super) struct VirtualDir {
    pages: Pages,
    kept: [Mutex<Option<(Instant, Text)>>; Page::COUNT],
    open: Mutex<FxHashMap<u64, Text>>,
    next: AtomicU64,
}

/// Whether a node is the directory or one of its files.
pub(crate) fn is_virtual(node: u64) -> bool {
    node >= FIRST_RESERVED_NODE
}

/// Whether a handle is one of a virtual file.
pub(super) fn is_virtual_handle(number: u64) -> bool {
    number >= FIRST_HANDLE
}

/// Whether `name` in `parent` is what the directory is found by.
pub(super) fn is_reserved(parent: u64, name: &OsStr) -> bool {
    parent == ROOT_NODE && name == NAME
}

impl VirtualDir {
    pub(super) fn new(pages: Pages) -> Self {
        // Its time in microseconds: handles that a worker before this one gave out are not given out again.
        let first = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        Self {
            pages,
            kept: std::array::from_fn(|_| Mutex::new(None)),
            open: Mutex::default(),
            next: AtomicU64::new(first),
        }
    }

    fn text(&self, page: Page) -> Text {
        let mut kept = self.kept[page as usize].lock();
        match &*kept {
            Some((made, text)) if made.elapsed() < FRESH => text.clone(),
            _ => {
                let text: Text = (self.pages.text)(page).into_bytes().into();
                *kept = Some((Instant::now(), text.clone()));
                text
            }
        }
    }

    /// Makes the next reader get a new text, also one that has the file open already.
    fn renew(&self, page: Page, number: u64) {
        *self.kept[page as usize].lock() = None;
        self.open.lock().remove(&number);
    }

    fn open(&self, file: u64, page: Page) -> Result<u64, Errno> {
        let text = self.text(page);
        let mut open = self.open.lock();
        if open.len() >= MOST_OPEN {
            return Err(Errno::NFILE);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << FILE_SHIFT) - 1);
        let number = FIRST_HANDLE | (file << FILE_SHIFT) | number;
        open.insert(number, text);
        Ok(number)
    }

    /// Returns the text of an open that will be read from `offset` on.
    fn opened(&self, number: u64, offset: u64) -> Result<Text, Errno> {
        if let Some(text) = self.open.lock().get(&number) {
            return Ok(text.clone());
        }
        let page = Page::of_file((number - FIRST_HANDLE) >> FILE_SHIFT).ok_or(Errno::BADF)?;
        let text = self.text(page);
        match offset {
            0 => {
                let mut open = self.open.lock();
                if open.len() < MOST_OPEN {
                    open.insert(number, text.clone());
                }
                Ok(text)
            }
            _ if offset >= text.len() as u64 => Ok(text),
            _ => Err(Errno::STALE),
        }
    }
}

impl GuardFs {
    /// Refuses to make something of the directory's name, or of that of [`super::snapshots_dir`], unless a user's own entry is there.
    ///
    /// # Errors
    /// `EPERM`.
    pub(super) fn check_name(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        if !is_reserved(parent, name) && !self.is_snapshots_name(name) {
            return Ok(());
        }
        match self.backing.stat_at(borrow(&self.node_fd(parent)?), name) {
            Err(Errno::NOENT) => Err(Errno::PERM),
            // A user's own, or the change itself says what is wrong.
            _ => Ok(()),
        }
    }

    /// Turns "there is no such entry" into a refusal where the directory was to be removed or renamed: only the backing
    /// filesystem does not have it. Not before the attempt, which may be the second one of a worker that took over.
    ///
    /// # Errors
    /// `EPERM`, else as `result`.
    pub(crate) fn refuse_virtual<T>(
        &self,
        parent: u64,
        name: &OsStr,
        result: Result<T, Errno>,
    ) -> Result<T, Errno> {
        match result {
            Err(Errno::NOENT) if is_reserved(parent, name) || self.is_snapshots_name(name) => {
                Err(Errno::PERM)
            }
            result => result,
        }
    }

    /// Returns the directory as an entry of the root.
    pub(super) fn virtual_root_entry(&self) -> Result<Entry, Errno> {
        self.virtual_entry_of(DIRECTORY_NODE)
    }

    /// Finds `name` in the directory.
    pub(super) fn virtual_lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        if parent != DIRECTORY_NODE {
            return Err(Errno::NOTDIR);
        }
        let index = Page::FILES.iter().position(|(_, known)| name == *known).ok_or(Errno::NOENT)?;
        self.virtual_entry_of(DIRECTORY_NODE + 1 + index as u64)
    }

    fn virtual_entry_of(&self, node: u64) -> Result<Entry, Errno> {
        let (stat, attribute_ttl) = self.virtual_attributes(node)?;
        Ok(Entry { node, generation: 0, stat, attribute_ttl, entry_ttl: DIRECTORY_TTL })
    }

    /// Returns the attributes of the directory or of one of its files: the root's, but for what makes them read-only.
    pub(super) fn virtual_attributes(&self, node: u64) -> Result<(Stat, Duration), Errno> {
        let mut stat = stat_of(borrow(&self.node_fd(ROOT_NODE)?))?;
        stat.stx_blocks = 0;
        if node == DIRECTORY_NODE {
            stat.stx_mode = (libc::S_IFDIR | 0o555) as u16;
            stat.stx_nlink = 2;
            stat.stx_size = 0;
            return Ok((stat, DIRECTORY_TTL));
        }
        let page = Page::of_node(node).ok_or(Errno::STALE)?;
        let mode = match page {
            Page::Request => 0o644,
            // It names what lies in directories that not everybody may read.
            Page::Log => 0o400,
            Page::Quota | Page::QuotaJson | Page::Notices | Page::Top | Page::QuotaLine => 0o444,
        };
        stat.stx_mode = (libc::S_IFREG | mode) as u16;
        stat.stx_nlink = 1;
        stat.stx_size = self.virtual_dir.text(page).len() as u64;
        let now = Timestamp::now();
        for time in [&mut stat.stx_atime, &mut stat.stx_mtime, &mut stat.stx_ctime] {
            time.tv_sec = now.as_second();
            // Not negative after 1970.
            time.tv_nsec = now.subsec_nanosecond().unsigned_abs();
        }
        Ok((stat, Duration::ZERO))
    }

    /// Opens a virtual file and returns its handle.
    ///
    /// # Errors
    /// `EROFS` for anything but reading, except of `request`; `ENFILE` when too many are open.
    pub(crate) fn open_virtual(&self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        let page = Page::of_node(node).ok_or(Errno::ISDIR)?;
        let is_writer = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if is_writer && page != Page::Request {
            return Err(Errno::ROFS);
        }
        self.virtual_dir.open(node - DIRECTORY_NODE - 1, page)
    }

    /// Reads from an open virtual file.
    pub(super) fn read_virtual(&self, number: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let text = self.virtual_dir.opened(number, offset)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// Takes what was written to a virtual file: one request, whatever its offset. Returns its length.
    ///
    /// # Errors
    /// `EMSGSIZE` for more than a line of 1,024 bytes, `EINVAL` for what is no line of text or asks for nothing that
    /// there is, `EAGAIN` for too many in a minute, `EBUSY` for too many that wait; `EBADF` for any other file.
    pub(crate) fn write_virtual(&self, caller: Caller, number: u64, data: &[u8]) -> Result<usize, Errno> {
        let page = Page::of_file((number & !FIRST_HANDLE) >> FILE_SHIFT);
        if !is_virtual_handle(number) || page != Some(Page::Request) {
            return Err(Errno::BADF);
        }
        let text = line_in(data)?;
        let process = self.tracker.process_of(caller.pid);
        let command = process.map_or_else(String::new, |process| process.command_line.clone());
        let line = RequestLine { text, uid: caller.uid, command };
        let taken = (self.virtual_dir.pages.request)(line);
        self.virtual_dir.renew(Page::Request, number);
        taken.map(|()| data.len())
    }

    /// Whether a change of attributes is the truncation that comes with `>` on a file that takes requests, which has
    /// nothing to truncate.
    pub(super) fn is_virtual_truncation(&self, node: u64, set: &super::SettableAttributes) -> bool {
        let is_truncation = set.size.is_some() && (set.mode, set.uid, set.gid) == (None, None, None);
        is_truncation && Page::of_node(node) == Some(Page::Request)
    }

    /// Ends an open of a virtual file.
    pub(super) fn release_virtual(&self, number: u64) {
        self.virtual_dir.open.lock().remove(&number);
    }

    /// `SEEK_DATA` and `SEEK_HOLE` of a file without holes.
    pub(super) fn seek_virtual(&self, number: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let length = self.virtual_dir.opened(number, offset)?.len() as u64;
        match whence {
            _ if offset >= length => Err(Errno::NXIO),
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(length),
            _ => Err(Errno::INVAL),
        }
    }

    /// Gives the entries of the directory from `offset` on to `visit`.
    pub(super) fn list_virtual(
        &self,
        node: u64,
        offset: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>, Option<&Entry>) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        if node != DIRECTORY_NODE {
            return Err(Errno::NOTDIR);
        }
        let root = self.backing.root_stat().stx_ino;
        let dots = [(".", DIRECTORY_NODE, libc::DT_DIR), ("..", root, libc::DT_DIR)];
        let files = Page::FILES.iter().zip(DIRECTORY_NODE + 1..);
        let files = files.map(|((_, name), node)| (*name, node, libc::DT_REG));
        let all = dots.into_iter().chain(files).zip(1_u64..);
        for ((name, ino, kind), next_offset) in all.filter(|(_, next)| *next > offset) {
            let entry = if kind == libc::DT_REG { Some(self.virtual_entry_of(ino)?) } else { None };
            let listed = DirectoryEntry { name: OsStr::new(name), ino, kind, next_offset };
            if visit(listed, entry.as_ref()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Reads the attribute with the quota, if `name` is its name.
    ///
    /// # Errors
    /// `ENODATA` for anything but a directory; `ERANGE` if the buffer is too small and not empty.
    pub(super) fn quota_attribute(
        &self,
        node: u64,
        name: &OsStr,
        buffer: &mut [u8],
    ) -> Option<Result<usize, Errno>> {
        if name != QUOTA_ATTRIBUTE {
            return None;
        }
        let is_dir = if is_virtual(node) {
            Ok(node == DIRECTORY_NODE)
        } else {
            self.table.get(node).map(|inode| inode.is_dir())
        };
        Some(is_dir.and_then(|is_dir| {
            if !is_dir {
                return Err(Errno::NODATA);
            }
            let text = self.virtual_dir.text(Page::QuotaLine);
            if !buffer.is_empty() {
                buffer.get_mut(..text.len()).ok_or(Errno::RANGE)?.copy_from_slice(&text);
            }
            Ok(text.len())
        }))
    }
}

/// Returns the one line that a write holds.
fn line_in(data: &[u8]) -> Result<String, Errno> {
    if data.len() > LONGEST_LINE {
        return Err(Errno::MSGSIZE);
    }
    let text = std::str::from_utf8(data).map_err(|_| Errno::INVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text).trim_matches([' ', '\t']);
    if text.is_empty() || text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Errno::INVAL);
    }
    Ok(text.replace('\t', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_holds_one_line_of_text() {
        assert_eq!(line_in(b" boost\t200G \n").unwrap(), "boost 200G");
        assert_eq!(line_in("für 7d".as_bytes()).unwrap(), "für 7d");
        for wrong in [&b""[..], b"\n", b"  ", b"a\nb", b"a\n\n", b"a\0", b"\xff\xfe", b"a\x1b[2J"] {
            assert_eq!(line_in(wrong), Err(Errno::INVAL), "{wrong:?}");
        }
        assert_eq!(line_in(&[b'a'; LONGEST_LINE]).unwrap().len(), LONGEST_LINE);
        assert_eq!(line_in(&[b'a'; LONGEST_LINE + 1]), Err(Errno::MSGSIZE));
    }

    fn directory() -> (VirtualDir, Arc<AtomicU64>) {
        let made = Arc::new(AtomicU64::new(0));
        let counter = made.clone();
        let source = move |_| format!("text {}", counter.fetch_add(1, Ordering::Relaxed));
        let pages = Pages { text: Arc::new(source), request: Arc::new(|_| Err(Errno::INVAL)) };
        (VirtualDir::new(pages), made)
    }

    #[test]
    fn one_open_has_one_text() {
        let (directory, made) = directory();
        let first = directory.open(0, Page::Quota).unwrap();
        std::thread::sleep(FRESH);
        let second = directory.open(0, Page::Quota).unwrap();
        assert_eq!(&*directory.opened(first, 3).unwrap(), b"text 0");
        assert_eq!(&*directory.opened(second, 3).unwrap(), b"text 1");
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn handle_of_another_worker_is_read_from_the_beginning_or_not_at_all() {
        let (directory, _) = directory();
        let foreign = FIRST_HANDLE | (1 << FILE_SHIFT) | 77;
        assert_eq!(directory.opened(foreign, 2), Err(Errno::STALE));
        assert_eq!(directory.opened(foreign, 6).unwrap().len(), 6, "the end");
        assert_eq!(&*directory.opened(foreign, 0).unwrap(), b"text 0");
        std::thread::sleep(FRESH);
        assert_eq!(&*directory.opened(foreign, 2).unwrap(), b"text 0", "its own from now on");
        assert_eq!(directory.opened(FIRST_HANDLE | (100 << FILE_SHIFT), 0), Err(Errno::BADF));
    }
}
