//! The files of the undo log.
//!
//! An entry is one write(2) to a descriptor with `O_APPEND`, so that it is in the page cache, beyond the reach of our
//! own death, before the change that it is about. It survives a power cut once [`UndoLog::sync`] has returned, and
//! before that wherever the filesystem keeps the order of the log's [`Ring`] and of what was changed.
//! Segments have their blocks allocated when they are made, so that an append does not find the disk full.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{Dir, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::record::{self, Decoded, Entry};
use super::ring::{Noted, Ring};
use super::sequence::Epoch;

/// A segment is followed by another at the end of an epoch once it is this long.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Allocated at a time.
const ALLOCATE_BYTES: u64 = 4 << 20;
const SUFFIX: &[u8] = b".undo";
/// What [`UndoLog::appends`] begins with: what workers before this one appended counts as one.
const FIRST_APPEND: u64 = 1;
/// Read at a time; longer entries are read on their own.
const READ_BYTES: usize = 1 << 20;

/// A place in the log. Ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct LogPosition {
    /// The segment: the epoch in which it was begun.
    pub(crate) segment: u32,
    /// Bytes from its beginning.
    pub(crate) offset: u64,
}

struct Segment {
    epoch: Epoch,
    file: OwnedFd,
    /// Bytes that were appended, at least.
    length: AtomicU64,
    allocated: Mutex<u64>,
}

/// See the module.
pub(crate) struct UndoLog {
    dir: OwnedFd,
    current: RwLock<Segment>,
    /// Changes with every append; whoever has folded that much is up to date.
    appends: AtomicU64,
    synced: AtomicU64,
    /// Held by who synchronises. Segments of a worker before this one, which may not have.
    earlier: Mutex<Vec<u32>>,
    /// Held during an append, so that both have the same order.
    ring: Option<Mutex<Ring>>,
}

impl UndoLog {
    /// Goes on with a new segment, which begins with `epoch`. `dir` is the log's directory.
    ///
    /// # Errors
    /// As openat(2).
    pub(super) fn begin(dir: OwnedFd, epoch: Epoch) -> Result<Self, Errno> {
        let earlier = Mutex::new(segments(&dir)?);
        let current = RwLock::new(Segment::create(&dir, epoch)?);
        let (appends, synced) = (AtomicU64::new(FIRST_APPEND), AtomicU64::new(0));
        Ok(Self { dir, current, appends, synced, earlier, ring: None })
    }

    /// Has entries noted in the ring in `dir` as well; returns whether the filesystem can. Entries that are there and not
    /// in the log have to be appended to it before.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub(super) fn bridge(&mut self, dir: OwnedFd) -> Result<bool, Errno> {
        self.ring = Ring::open(dir, self.appends())?.map(Mutex::new);
        Ok(self.ring.is_some())
    }

    /// Whether entries are noted in a ring as well.
    #[cfg(test)]
    pub(crate) fn is_bridged(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether the filesystem may make a change of names durable without those before it (btrfs), after a file or
    /// directory that it is about was synchronised.
    pub(super) fn may_be_overtaken(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| !ring.lock().syncs_all())
    }

    /// Appends an entry. When this returns, it survives the death of every process.
    ///
    /// # Errors
    /// As write(2); `EMSGSIZE` for an entry that is too long.
    pub(super) fn append(&self, entry: &Entry) -> Result<(), Errno> {
        thread_local! {
            static BUFFER: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
        }
        let mut buffer = BUFFER.take();
        buffer.clear();
        let encoded = record::encode(entry, &mut buffer);
        let result = match encoded {
            Ok(()) => self.write(&buffer),
            Err(error) => {
                tracing::error!(%error, "history entry cannot be stored");
                Err(Errno::MSGSIZE)
            }
        };
        // A list of large attributes must not be held for good.
        if buffer.capacity() <= 1 << 16 {
            BUFFER.set(buffer);
        }
        result
    }

    fn write(&self, frame: &[u8]) -> Result<(), Errno> {
        let Some(ring) = &self.ring else { return self.write_frame(frame).map(drop) };
        let mut ring = ring.lock();
        let append = self.write_frame(frame)?;
        let noted = ring.note(frame, append, self.synced.load(Ordering::Acquire));
        drop(ring);
        let synced = match noted {
            Noted::Here => Ok(()),
            // The others go on meanwhile, and one who synchronises is enough.
            Noted::HalfFull => match self.earlier.try_lock() {
                Some(earlier) => self.sync_holding(earlier),
                None => Ok(()),
            },
            Noted::Not => self.sync(),
        };
        if let Err(errno) = synced {
            tracing::warn!(%errno, "history may not survive a power cut");
        }
        Ok(())
    }

    /// Returns the number of the append.
    fn write_frame(&self, frame: &[u8]) -> Result<u64, Errno> {
        let segment = self.current.read();
        segment.allocate(frame.len() as u64);
        let mut rest = frame;
        while !rest.is_empty() {
            match rustix::io::write(&segment.file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) if written == rest.len() => rest = &[],
                // Half a frame, which readers skip. It cannot be gone on with: another thread's may follow it.
                Ok(_) => rest = frame,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        segment.length.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(self.appends.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Returns a number that every append raises.
    pub(crate) fn appends(&self) -> u64 {
        self.appends.load(Ordering::Acquire)
    }

    /// Makes everything durable that was appended before.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        if self.synced.load(Ordering::Acquire) >= self.appends() {
            return Ok(());
        }
        // Whoever waited may find that it was done for them.
        self.sync_holding(self.earlier.lock())
    }

    fn sync_holding(&self, mut earlier: MutexGuard<'_, Vec<u32>>) -> Result<(), Errno> {
        let appends = self.appends();
        if self.synced.load(Ordering::Acquire) >= appends {
            return Ok(());
        }
        while let Some(segment) = earlier.last() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::openat(&self.dir, name_of(*segment), flags, Mode::empty()) {
                Ok(file) => rustix::fs::fdatasync(&file)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            earlier.pop();
        }
        rustix::fs::fdatasync(&self.current.read().file)?;
        self.synced.fetch_max(appends, Ordering::AcqRel);
        Ok(())
    }

    /// Makes all names and attributes of the filesystem durable that were changed before; returns whether it could.
    ///
    /// # Errors
    /// As fsetxattr(2) and fsync(2).
    pub(super) fn commit_names(&self) -> Result<bool, Errno> {
        let Some(ring) = &self.ring else { return Ok(false) };
        let touched = ring.lock().touch(self.synced.load(Ordering::Acquire))?;
        touched.map_or(Ok(false), |file| rustix::fs::fsync(&file).map(|()| true))
    }

    /// Begins a new segment if the present one is long.
    ///
    /// # Errors
    /// As openat(2); the present segment goes on then.
    pub(super) fn rotate(&self, epoch: Epoch) -> Result<(), Errno> {
        if self.current.read().length.load(Ordering::Relaxed) < SEGMENT_BYTES {
            return Ok(());
        }
        // Under the lock: a reader that sees the next segment takes this one to be complete.
        let mut current = self.current.write();
        let next = Segment::create(&self.dir, epoch)?;
        // Its tail must not be lost to a later sync of the new one alone.
        rustix::fs::fdatasync(&current.file)?;
        *current = next;
        Ok(())
    }

    /// Returns a reader of the log from `from` on.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn read_from(&self, from: LogPosition) -> Result<Reader, Errno> {
        Reader::open(self.dir.try_clone().map_err(|_| Errno::MFILE)?, from)
    }

    /// Removes segments that end before `position`.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub(crate) fn remove_before(&self, position: LogPosition) -> Result<(), Errno> {
        let running = self.current.read().epoch.0;
        let mut gone = segments(&self.dir)?;
        gone.retain(|segment| *segment < position.segment && *segment < running);
        if gone.is_empty() {
            return Ok(());
        }
        // Or the ring would be taken to hold what the log has lost.
        self.sync()?;
        if let Some(ring) = &self.ring {
            ring.lock().settle(self.synced.load(Ordering::Acquire))?;
        }
        for segment in gone {
            rustix::fs::unlinkat(&self.dir, name_of(segment), rustix::fs::AtFlags::empty())?;
        }
        Ok(())
    }
}

impl Segment {
    fn create(dir: &OwnedFd, epoch: Epoch) -> Result<Self, Errno> {
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, name_of(epoch.0), flags, Mode::RUSR | Mode::WUSR)?;
        // It may be there already: made by a worker that died before it noted a single entry.
        let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).map_err(|_| Errno::IO)?;
        let segment = Self { epoch, file, length: AtomicU64::new(length), allocated: Mutex::new(length) };
        segment.allocate(0);
        Ok(segment)
    }

    /// Has blocks ready for `more` bytes. Where that is impossible, the append itself finds out.
    fn allocate(&self, more: u64) {
        let length = self.length.load(Ordering::Relaxed);
        let Some(mut allocated) = self.allocated.try_lock() else { return };
        if length + more + ALLOCATE_BYTES / 4 <= *allocated {
            return;
        }
        // In a filesystem without it there is nothing to fall back to but the append.
        let asked = rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, ALLOCATE_BYTES);
        *allocated = length + ALLOCATE_BYTES;
        if let Err(errno) = asked {
            tracing::debug!(%errno, "history log is not allocated ahead");
        }
    }
}

/// Reads entries in the order in which they were appended; moments may be out of order by those under way.
pub(crate) struct Reader {
    dir: OwnedFd,
    file: Option<OwnedFd>,
    position: LogPosition,
    buffer: Vec<u8>,
    start: usize,
    garbage: u64,
}

impl Reader {
    /// Opens the log in `dir` at `from`, which is 0 or what [`Self::position`] returned.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn open(dir: OwnedFd, from: LogPosition) -> Result<Self, Errno> {
        let mut reader = Self { dir, file: None, position: from, buffer: Vec::new(), start: 0, garbage: 0 };
        reader.open_segment(from)?;
        Ok(reader)
    }

    /// Returns where the next entry begins.
    pub(crate) fn position(&self) -> LogPosition {
        self.position
    }

    /// Returns the bytes so far that were no entry.
    #[cfg(test)]
    pub(crate) fn garbage(&self) -> u64 {
        self.garbage
    }

    /// Returns the next entry; `None` at the end for now.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Errno> {
        loop {
            match record::decode(self.buffer.get(self.start..).unwrap_or_default()) {
                Decoded::Entry(entry, bytes) => {
                    self.advance(bytes);
                    return Ok(Some(*entry));
                }
                Decoded::Garbage(bytes) => {
                    let bytes = bytes.min(self.buffer.len() - self.start);
                    self.garbage += bytes as u64;
                    self.advance(bytes);
                }
                Decoded::Incomplete => {
                    if self.fill()? == 0 && !self.next_segment()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.position.offset += bytes as u64;
    }

    fn fill(&mut self) -> Result<usize, Errno> {
        let Some(file) = &self.file else { return Ok(0) };
        self.buffer.drain(..self.start);
        self.start = 0;
        let have = self.buffer.len();
        self.buffer.resize(have + READ_BYTES, 0);
        let read = rustix::io::pread(file, &mut self.buffer[have..], self.position.offset + have as u64);
        self.buffer.truncate(have + read.unwrap_or(0));
        read
    }

    /// Goes on to the segment after this one, if there is one: then nothing is appended to this one any more, except
    /// by whom a rotation overtook, for whom it is read to the end once more.
    fn next_segment(&mut self) -> Result<bool, Errno> {
        let next = segments(&self.dir)?.into_iter().filter(|segment| *segment > self.position.segment).min();
        let Some(segment) = next else { return Ok(false) };
        if self.fill()? > 0 {
            return Ok(true);
        }
        self.garbage += self.buffer.len() as u64;
        self.open_segment(LogPosition { segment, offset: 0 })?;
        Ok(true)
    }

    fn open_segment(&mut self, at: LogPosition) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        self.file = match rustix::fs::openat(&self.dir, name_of(at.segment), flags, Mode::empty()) {
            Ok(file) => Some(file),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.position = at;
        self.buffer.clear();
        self.start = 0;
        Ok(())
    }
}

fn name_of(segment: u32) -> OsString {
    format!("{segment:08}.undo").into()
}

/// Returns the segments in `dir`, in no order.
fn segments(dir: &OwnedFd) -> Result<Vec<u32>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let number = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 8);
        let number = number.and_then(|digits| OsStr::from_bytes(digits).to_str()?.parse::<u32>().ok());
        found.extend(number);
    }
    Ok(found)
}

/// Returns the entries in the last `bytes` of a log, and those that follow until its end.
///
/// # Errors
/// As reading the log.
pub(super) fn recent(dir: OwnedFd, bytes: u64) -> Result<Vec<Entry>, Errno> {
    let mut numbers = segments(&dir)?;
    numbers.sort_unstable();
    let mut from = LogPosition::default();
    let mut left = bytes;
    for segment in numbers.into_iter().rev() {
        let stat = rustix::fs::statat(&dir, name_of(segment), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let length = u64::try_from(stat.st_size).map_err(|_| Errno::IO)?;
        // The middle of an entry is garbage to the reader, who goes on behind it.
        from = LogPosition { segment, offset: length.saturating_sub(left) };
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
    let mut reader = Reader::open(dir, from)?;
    let mut found = Vec::new();
    while let Some(entry) = reader.next()? {
        found.push(entry);
    }
    Ok(found)
}

/// Returns the epoch in which the last segment of a log was begun.
///
/// # Errors
/// As reading the directory.
pub(super) fn last_segment(dir: &OwnedFd) -> Result<Option<Epoch>, Errno> {
    Ok(segments(dir)?.into_iter().max().map(Epoch))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Actor, Cause};
    use super::super::sequence::Sequence;
    use super::*;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    fn entry(epoch: u32, n: u64) -> Entry {
        let at = Sequence::new(Epoch(epoch), n);
        Entry { at, time_ns: 0, actor: Actor::default(), cause: Cause::Create, changes: Vec::new() }
    }

    fn all(reader: &mut Reader) -> Vec<Sequence> {
        std::iter::from_fn(|| reader.next().unwrap()).map(|entry| entry.at).collect()
    }

    #[test]
    fn a_reader_sees_what_is_appended_while_it_reads() {
        let (_kept, dir) = directory();
        let log = UndoLog::begin(dir, Epoch(1)).unwrap();
        let mut reader = log.read_from(LogPosition::default()).unwrap();
        assert_eq!(all(&mut reader), []);
        log.append(&entry(1, 1)).unwrap();
        log.append(&entry(1, 2)).unwrap();
        assert_eq!(all(&mut reader).len(), 2);
        let position = reader.position();
        log.append(&entry(1, 3)).unwrap();
        assert_eq!(all(&mut reader), [Sequence::new(Epoch(1), 3)]);
        let mut again = log.read_from(position).unwrap();
        assert_eq!(all(&mut again), [Sequence::new(Epoch(1), 3)]);
        assert_eq!(again.garbage(), 0);
    }

    #[test]
    fn a_successor_goes_on_behind_a_torn_entry() {
        let (kept, dir) = directory();
        let log = UndoLog::begin(dir.try_clone().unwrap(), Epoch(1)).unwrap();
        log.append(&entry(1, 1)).unwrap();
        drop(log);
        let path = kept.path().join("00000001.undo");
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes.extend_from_slice(&whole[..whole.len() - 3]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(last_segment(&dir), Ok(Some(Epoch(1))));
        assert_eq!(recent(dir.try_clone().unwrap(), 1 << 20).unwrap(), [entry(1, 1)]);
        let log = UndoLog::begin(dir, Epoch(1)).unwrap();
        log.append(&entry(1, 2)).unwrap();
        let mut reader = log.read_from(LogPosition::default()).unwrap();
        assert_eq!(all(&mut reader), [Sequence::new(Epoch(1), 1), Sequence::new(Epoch(1), 2)]);
        assert!(reader.garbage() > 0);
    }

    #[test]
    fn entries_of_racing_threads_are_whole() {
        let (_kept, dir) = directory();
        let log = UndoLog::begin(dir, Epoch(1)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..500 {
                        log.append(&entry(1, thread * 1000 + n)).unwrap();
                    }
                });
            }
        });
        let mut reader = log.read_from(LogPosition::default()).unwrap();
        let mut found = all(&mut reader);
        found.sort_unstable();
        found.dedup();
        assert_eq!((found.len(), reader.garbage()), (2_000, 0));
    }

    #[test]
    fn segments_that_are_folded_are_removed_and_reading_goes_on() {
        let (_kept, dir) = directory();
        let log = UndoLog::begin(dir.try_clone().unwrap(), Epoch(1)).unwrap();
        log.append(&entry(1, 1)).unwrap();
        log.current.read().length.store(SEGMENT_BYTES, Ordering::Relaxed);
        log.rotate(Epoch(2)).unwrap();
        log.append(&entry(2, 1)).unwrap();
        let mut reader = log.read_from(LogPosition::default()).unwrap();
        assert_eq!(all(&mut reader).len(), 2);
        log.remove_before(reader.position()).unwrap();
        assert_eq!(segments(&dir).unwrap(), [2]);
        log.append(&entry(2, 2)).unwrap();
        assert_eq!(all(&mut reader), [Sequence::new(Epoch(2), 2)]);
    }
}
