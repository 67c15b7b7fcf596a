//! What bridges the time in which the end of the undo log is not on the disk.
//!
//! A filesystem with a journal brings changes of names and attributes to the disk in the order in which they were made;
//! the bytes of the log come when they come. So each entry is also written as what the journal orders, as a part of an
//! extended attribute of a file in `ring/`, before the change that it is about is made: if the change is on the disk
//! after a power cut, so is its entry, in the log or here. Whoever goes on after the cut appends to the log what it
//! lacks.
//!
//! A *slot* is a number that goes up; its value lies in the file of that number modulo [`FILES`]. Once the log is
//! synchronised, the slots of its entries are free, and are written again without being cleared. Each value says which
//! slot was the oldest that was not free when it was written.
//!
//! A value: magic `wsRG`, version, 3 bytes of zero, slot and oldest slot (8 bytes each), CRC-32 of these 24 bytes; then
//! frames as in the log. Numbers little-endian.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustc_hash::FxHashSet;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::record::{self, Decoded, Entry};

/// Where the values are. Only root sees it.
const ATTRIBUTE: &str = "trusted.wsguard.ring";
const FILES: u64 = 256;
const MAGIC: [u8; 4] = *b"wsRG";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 28;
/// No value is longer: a longer one is not always a part of the journal (xfs), or moves much within its block (btrfs).
const MAX_VALUE_BYTES: usize = 1900;
/// ext4 has one block for all attributes of an inode, which are this and what a security module adds.
const MAX_EXT4_BYTES: usize = 3400;
const RESERVED_BYTES: u64 = 600;

/// What a filesystem makes of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Terms {
    /// How long a value may be, bytes.
    room: usize,
    /// fsync(2) of one file takes with it all names and attributes that were changed before.
    syncs_all: bool,
    /// Slots.
    files: u64,
}

/// Returns what a ring can be made of; `None` if the filesystem of `dir` is none whose journal keeps the order.
///
/// # Errors
/// As fstatfs(2).
fn terms_of(dir: BorrowedFd<'_>) -> Result<Option<Terms>, Errno> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    let found = rustix::fs::fstatfs(dir)?;
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    let bytes = |bytes: u64, most: usize| usize::try_from(bytes).unwrap_or(most).min(most);
    Ok(match u64::try_from(found.f_type).unwrap_or(0) {
        EXT4 => Some(Terms {
            room: bytes(block.saturating_sub(RESERVED_BYTES), MAX_EXT4_BYTES),
            syncs_all: true,
            files: FILES,
        }),
        // Beyond three quarters of a block a value is written like a file's bytes (xfs_attr_leaf_entsize_local_max).
        XFS => Some(Terms {
            room: bytes((block / 4 * 3).saturating_sub(64), MAX_VALUE_BYTES),
            syncs_all: true,
            files: FILES,
        }),
        BTRFS => Some(Terms { room: MAX_VALUE_BYTES, syncs_all: false, files: FILES }),
        _ => None,
    })
}

/// A value that was read back.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Slot {
    number: u64,
    oldest: u64,
    entries: Vec<Entry>,
    /// Header and entries.
    bytes: usize,
}

fn header(number: u64, oldest: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = VERSION;
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..24].copy_from_slice(&oldest.to_le_bytes());
    let checksum = crc32fast::hash(&header[..24]);
    header[24..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Reads a value; `None` for what is none.
fn parse(value: &[u8]) -> Option<Slot> {
    let (head, mut rest) = value.split_at_checked(HEADER_BYTES)?;
    let number = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (slot, oldest) = (number(8)?, number(16)?);
    if head != header(slot, oldest) {
        return None;
    }
    let mut entries = Vec::new();
    while let Decoded::Entry(entry, length) = record::decode(rest) {
        entries.push(*entry);
        rest = rest.get(length..)?;
    }
    Some(Slot { number: slot, oldest, entries, bytes: value.len() - rest.len() })
}

/// Returns the entries, in their order, that may not be in the log.
fn unsettled(mut slots: Vec<Slot>) -> Vec<Entry> {
    slots.sort_unstable_by_key(|slot| slot.number);
    let oldest = slots.last().map_or(0, |last| last.oldest);
    slots.into_iter().filter(|slot| slot.number >= oldest).flat_map(|slot| slot.entries).collect()
}

/// Returns what a log lacks of the entries of a ring. From the first on that is missing all are taken once more, so that
/// none comes after one that speaks of the same object later; folded a second time they change nothing.
pub(super) fn missing<'e>(log: &[Entry], ring: &'e [Entry]) -> &'e [Entry] {
    let known: FxHashSet<_> = log.iter().map(|entry| entry.at).collect();
    let first = ring.iter().position(|entry| !known.contains(&entry.at));
    first.and_then(|first| ring.get(first..)).unwrap_or_default()
}

/// Whether an entry is in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noted {
    /// It is.
    Here,
    /// It is, and half of the slots wait for the log to be synchronised.
    HalfFull,
    /// It does not fit, or could not be written: the log must be synchronised before the change.
    Not,
}

/// See the module. The caller lets one thread in at a time, in the order of the log.
pub(super) struct Ring {
    dir: OwnedFd,
    terms: Terms,
    number: u64,
    file: OwnedFd,
    value: Vec<u8>,
    /// The append that the last entry of this slot was.
    last: u64,
    /// The same for the slots before this one that may not be free, oldest first.
    before: VecDeque<u64>,
}

impl Ring {
    /// Goes on in `dir`; `None` if the filesystem has nothing that it could be made of. What is there counts as append
    /// number `append`.
    ///
    /// # Errors
    /// As openat(2) and fsetxattr(2).
    pub(super) fn open(dir: OwnedFd, append: u64) -> Result<Option<Self>, Errno> {
        match terms_of(dir.as_fd())? {
            Some(terms) => Self::open_on(terms, dir, append),
            None => Ok(None),
        }
    }

    fn open_on(terms: Terms, dir: OwnedFd, append: u64) -> Result<Option<Self>, Errno> {
        let slots = read_slots(&dir, terms.files)?;
        // It goes on where it was: a slot for each worker that dies would use them up.
        let last = slots.into_iter().max_by_key(|(slot, _)| slot.number);
        let is_new = last.is_none();
        let (number, oldest, value) = match last {
            Some((slot, value)) => (slot.number, slot.oldest, value),
            None => (0, 0, vec![0; HEADER_BYTES]),
        };
        let kept = number.saturating_sub(oldest).min(terms.files - 1);
        let before = (0..kept).map(|_| append).collect();
        let file = open_file(&dir, number % terms.files)?;
        let mut ring = Self { dir, terms, number, file, value, last: append, before };
        if !is_new {
            return Ok(Some(ring));
        }
        match ring.write() {
            Ok(()) => Ok(Some(ring)),
            // No attributes of root's here.
            Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Notes the frame of an entry, which was append number `append` of the log. The log is on the disk up to `synced`.
    pub(super) fn note(&mut self, frame: &[u8], append: u64, synced: u64) -> Noted {
        if frame.len() > self.terms.room.saturating_sub(HEADER_BYTES) {
            return Noted::Not;
        }
        if self.value.len() + frame.len() > self.terms.room
            && let Err(errno) = self.advance(synced)
        {
            tracing::debug!(%errno, "no slot of the ring is free");
            return Noted::Not;
        }
        let length = self.value.len();
        self.value.extend_from_slice(frame);
        if let Err(errno) = self.write() {
            tracing::debug!(%errno, "history entry cannot be written as an attribute");
            self.value.truncate(length);
            return Noted::Not;
        }
        self.last = append;
        if self.before.len() as u64 >= self.terms.files / 2 { Noted::HalfFull } else { Noted::Here }
    }

    /// Whether fsync(2) of one file takes with it all names and attributes that were changed before.
    pub(super) fn syncs_all(&self) -> bool {
        self.terms.syncs_all
    }

    /// Notes that nothing here is needed any more that the log has up to `synced`, and returns once the journal has it
    /// before everything that follows.
    ///
    /// # Errors
    /// As fsetxattr(2).
    pub(super) fn settle(&mut self, synced: u64) -> Result<(), Errno> {
        if self.value.len() > HEADER_BYTES && self.last <= synced {
            self.advance(synced)?;
        }
        self.release(synced);
        self.write()
    }

    /// Changes the file that is returned: when that is synchronised, so are all names and attributes that were changed
    /// before. `None` where that does not follow.
    ///
    /// # Errors
    /// As fsetxattr(2) and dup(2).
    pub(super) fn touch(&mut self, synced: u64) -> Result<Option<OwnedFd>, Errno> {
        if !self.terms.syncs_all {
            return Ok(None);
        }
        self.release(synced);
        self.write()?;
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map(Some)
    }

    fn release(&mut self, synced: u64) {
        while self.before.front().is_some_and(|last| *last <= synced) {
            self.before.pop_front();
        }
    }

    /// Goes on to the next slot, if it is free.
    fn advance(&mut self, synced: u64) -> Result<(), Errno> {
        self.release(synced);
        if self.before.len() as u64 >= self.terms.files - 1 {
            return Err(Errno::AGAIN);
        }
        self.file = open_file(&self.dir, (self.number + 1) % self.terms.files)?;
        self.number += 1;
        self.before.push_back(self.last);
        self.release(synced);
        self.value.clear();
        self.value.extend_from_slice(&[0; HEADER_BYTES]);
        Ok(())
    }

    fn write(&mut self) -> Result<(), Errno> {
        let oldest = self.number - self.before.len() as u64;
        if let Some(head) = self.value.get_mut(..HEADER_BYTES) {
            head.copy_from_slice(&header(self.number, oldest));
        }
        rustix::fs::fsetxattr(&self.file, ATTRIBUTE, &self.value, XattrFlags::empty())
    }
}

fn open_file(dir: &OwnedFd, place: u64) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, format!("{place:02x}"), flags, Mode::RUSR | Mode::WUSR)
}

/// Returns the entries of the ring in `dir`, in their order, that may not be in the log.
///
/// # Errors
/// As openat(2) and fgetxattr(2).
pub(super) fn read(dir: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    Ok(unsettled(read_slots(dir, FILES)?.into_iter().map(|(slot, _)| slot).collect()))
}

/// Returns what is in each file, and its bytes as far as they could be read.
fn read_slots(dir: &OwnedFd, files: u64) -> Result<Vec<(Slot, Vec<u8>)>, Errno> {
    let mut slots = Vec::new();
    let mut value = vec![0_u8; MAX_EXT4_BYTES];
    for place in 0..files {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, format!("{place:02x}"), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let length = match rustix::fs::fgetxattr(&file, ATTRIBUTE, &mut value[..]) {
            Ok(length) => length,
            // Made, and not written before the power went; or none of ours.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => continue,
            Err(errno) => return Err(errno),
        };
        let found = value.get(..length).unwrap_or_default();
        if let Some(slot) = parse(found).filter(|slot| slot.number % files == place) {
            let whole = found.get(..slot.bytes).unwrap_or_default().to_vec();
            slots.push((slot, whole));
        }
    }
    Ok(slots)
}

#[cfg(test)]
mod tests;
