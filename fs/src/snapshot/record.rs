//! What history remembers: how things were just before they changed.
//!
//! History is an *undo log*. Every entry says what a name stood for, what an inode's attributes were or what bytes a
//! range held before a change, with the moment of the change. How something was at moment `S` is what the entry with
//! the smallest moment greater than `S` says; where there is none, it is as it is now. It follows that an entry whose
//! change never happened is true all the same, that a second entry for one change does no harm, and that nothing has to
//! be walked or copied for a snapshot. The one exception is [`Origin::TakenAway`]: the bytes are in the store only once
//! the change has happened; see [`Change::NotTaken`].
//!
//! On disk an entry is a frame: magic, length, checksum (CRC-32 of the payload), each 4 bytes little-endian, then the
//! payload in postcard's encoding. A reader that finds garbage looks for the next frame behind it: a process can die, and
//! a disk be full, in the middle of an append.

use serde::{Deserialize, Serialize};

use super::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

const MAGIC: u32 = u32::from_le_bytes(*b"wsUL");
const HEADER_BYTES: usize = 12;
/// Longest payload: an inode's extended attributes, 64 KiB of names and values of 64 KiB each in theory; more than this
/// no filesystem that is supported stores in one inode.
const MAX_PAYLOAD_BYTES: usize = 8 << 20;

/// One operation, noted before it was carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The moment of the operation.
    pub(crate) at: Sequence,
    /// The same by the clock, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    /// Who did it.
    pub(crate) actor: Actor,
    /// What was done.
    pub(crate) cause: Cause,
    /// How things were before.
    pub(crate) changes: Vec<Change>,
}

/// Who did something. The command and the container are in the workspace's tracked history under the same pid and time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Actor {
    /// The user.
    pub(crate) uid: u32,
    /// The process, in the pid namespace of the daemon; 0 if it is not known.
    pub(crate) pid: u32,
}

/// What was done, as far as undoing it needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// A name for a new inode.
    Create,
    /// One more name.
    Link,
    /// A name is gone.
    Unlink,
    /// A directory is gone.
    RemoveDirectory,
    /// A name was moved, perhaps over another.
    Rename,
    /// Bytes were written, allocated, freed or copied into a file.
    Write,
    /// The size was set.
    Truncate,
    /// Mode, owner, times or extended attributes.
    SetAttributes,
    /// A file was opened so that a mapping may store into it.
    Map,
    /// Somebody bypassed the mount.
    Outside,
    /// History itself: an epoch ended, an object was put back.
    History,
}

/// How something was before a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    /// What a name stood for.
    Name {
        /// The directory.
        parent: FileHandle,
        /// The name.
        name: Vec<u8>,
        /// What it stood for; `None` if there was no such name.
        before: Option<Named>,
    },
    /// The attributes of an inode.
    Attributes {
        /// The inode.
        inode: FileHandle,
        /// How they were.
        before: Attributes,
    },
    /// All extended attributes of an inode, ACLs included, the guard's own excluded.
    ExtendedAttributes {
        /// The inode.
        inode: FileHandle,
        /// Name and value.
        before: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Bytes of a file, kept in an object of the store at the same offsets.
    Content {
        /// The file.
        inode: FileHandle,
        /// The object that holds them.
        object: ObjectId,
        /// Which bytes. A hole in the object is a hole in the file.
        span: Span,
        /// How they came into the store.
        origin: Origin,
        /// BLAKE3 of the bytes, without holes' meaning anything but zeros; `None` where nothing was read (the
        /// background hashes it later).
        hash: Option<[u8; 32]>,
    },
    /// From `since` on, up to the moment of this entry, stores through a shared mapping may have changed the file unseen.
    MappedSince {
        /// The file.
        inode: FileHandle,
        /// When it was opened.
        since: Sequence,
    },
    /// Somebody changed a directory's names or a file's content below the mount: what it was before is not known.
    ChangedOutside {
        /// The directory or file.
        inode: FileHandle,
        /// The name, if it was one.
        name: Option<Vec<u8>>,
    },
    /// An object of which an earlier entry says that it was taken away is not in the store: the operation failed.
    NotTaken {
        /// The object.
        object: ObjectId,
    },
    /// An object was given a name in the workspace again and is not in the store any more. Its inode is what it was.
    PutBack {
        /// The object.
        object: ObjectId,
    },
    /// An epoch has ended; the entry's moment is the epoch's end.
    EpochEnd {
        /// The snapshot that shows this moment, if one was asked for.
        snapshot: Option<SnapshotNote>,
    },
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    /// The inode.
    pub(crate) inode: FileHandle,
    /// Its type, `st_mode & S_IFMT`.
    pub(crate) file_type: u32,
}

/// Attributes of an inode, as statx(2) tells them. Times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// The backing inode number.
    pub(crate) ino: u64,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    /// Of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) accessed_ns: i64,
    pub(crate) modified_ns: i64,
    pub(crate) changed_ns: i64,
    /// When the inode was made; 0 if the filesystem does not tell.
    pub(crate) born_ns: i64,
    /// Of a device, `makedev(3)`.
    pub(crate) device: u64,
}

/// The name of an object in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectId(pub(crate) u64);

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Span {
    /// All of them: the object is what the file was, size included.
    Whole,
    /// From `offset`, `length` bytes.
    Range {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// How bytes came into the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The inode itself, which lost its last name: it was renamed into the store, or linked there before something was
    /// renamed over it. The entry is written first, so that the object is missing if the process died then or the
    /// operation failed; nothing is lost in that case, for the inode has its name still.
    TakenAway,
    /// A clone that shares blocks (`FICLONE`).
    Cloned,
    /// A copy.
    Copied,
}

/// A snapshot, as the log knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotNote {
    /// Why it was taken.
    pub(crate) reason: SnapshotReason,
    /// A name that the user gave.
    pub(crate) name: Option<String>,
    /// Free text.
    pub(crate) note: Option<String>,
    /// Retention must not delete it.
    pub(crate) is_held: bool,
}

/// Why a snapshot was taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotReason {
    /// Somebody asked for it.
    Manual,
    /// The workspace was changed, and it was time.
    Automatic,
    /// Something risky is about to happen or has just begun: a restore.
    BeforeRestore,
    /// Many deletions or overwrites at once.
    Burst,
    /// A container starts, stops or is retired.
    Container,
    /// A checkpoint rotation.
    Rotation,
    /// The worker or the mount begins or ends.
    Service,
}

impl SnapshotReason {
    /// Returns the word that users see.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Automatic => "auto",
            Self::BeforeRestore => "before-restore",
            Self::Burst => "burst",
            Self::Container => "container",
            Self::Rotation => "rotation",
            Self::Service => "service",
        }
    }
}

impl Entry {
    /// Returns the entry that ends an epoch.
    pub(crate) fn epoch_end(
        epoch: Epoch,
        time_ns: i64,
        actor: Actor,
        snapshot: Option<SnapshotNote>,
    ) -> Self {
        let changes = vec![Change::EpochEnd { snapshot }];
        Self { at: epoch.end(), time_ns, actor, cause: Cause::History, changes }
    }
}

/// An entry is too long to be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// See [`MAX_PAYLOAD_BYTES`].
    #[error("a history entry of {bytes} bytes is longer than {MAX_PAYLOAD_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The encoder failed.
    #[error("a history entry cannot be encoded")]
    Postcard(#[from] postcard::Error),
}

/// Appends the frame of an entry to `out`.
///
/// # Errors
/// If it is too long.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let mut whole = postcard::to_extend(entry, std::mem::take(out))?;
    let bytes = whole.len() - start - HEADER_BYTES;
    if bytes > MAX_PAYLOAD_BYTES {
        whole.truncate(start);
        *out = whole;
        return Err(EncodeError::TooLong { bytes });
    }
    let checksum = crc32fast::hash(&whole[start + HEADER_BYTES..]);
    let length = bytes as u32;
    for (place, word) in [MAGIC, length, checksum].into_iter().enumerate() {
        let place = start + 4 * place;
        whole[place..place + 4].copy_from_slice(&word.to_le_bytes());
    }
    *out = whole;
    Ok(())
}

/// What the next bytes of a log hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// An entry, and the bytes that its frame takes.
    Entry(Box<Entry>, usize),
    /// The frame is not complete yet.
    Incomplete,
    /// So many bytes are none of ours: an append that its process did not live to finish.
    Garbage(usize),
}

/// Reads the first frame of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Decoded {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return Decoded::Incomplete };
    let word = |place: usize| {
        header
            .get(4 * place..4 * place + 4)
            .and_then(|word| word.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    let length = word(1) as usize;
    if word(0) != MAGIC || length > MAX_PAYLOAD_BYTES {
        return garbage(bytes);
    }
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Decoded::Incomplete };
    if crc32fast::hash(payload) != word(2) {
        return garbage(bytes);
    }
    match postcard::from_bytes(payload) {
        Ok(entry) => Decoded::Entry(Box::new(entry), HEADER_BYTES + length),
        Err(_) => garbage(bytes),
    }
}

/// Returns how far it is to the next place where a frame may begin.
fn garbage(bytes: &[u8]) -> Decoded {
    let magic = MAGIC.to_le_bytes();
    let next =
        (1..bytes.len()).find(|place| magic.starts_with(&bytes[*place..(*place + 4).min(bytes.len())]));
    Decoded::Garbage(next.unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handle(number: u64) -> FileHandle {
        FileHandle::from_words(1, 8, [number, 0, 0, 0])
    }

    fn entry(n: u64, name: &[u8]) -> Entry {
        let named = Named { inode: handle(n + 1), file_type: libc::S_IFREG };
        Entry {
            at: Sequence::new(Epoch(3), n),
            time_ns: 1_700_000_000_000_000_000,
            actor: Actor { uid: 1000, pid: 42 },
            cause: Cause::Unlink,
            changes: vec![
                Change::Name { parent: handle(n), name: name.to_vec(), before: Some(named) },
                Change::Content {
                    inode: named.inode,
                    object: ObjectId(n),
                    span: Span::Whole,
                    origin: Origin::TakenAway,
                    hash: None,
                },
            ],
        }
    }

    fn read_all(mut log: &[u8]) -> Vec<Entry> {
        let mut found = Vec::new();
        loop {
            match decode(log) {
                Decoded::Entry(entry, length) => {
                    found.push(*entry);
                    log = &log[length..];
                }
                Decoded::Garbage(length) => log = log.get(length..).unwrap_or_default(),
                Decoded::Incomplete => return found,
            }
        }
    }

    #[test]
    fn entry_of_an_unlink_takes_less_than_100_bytes() {
        let mut log = Vec::new();
        encode(&entry(70_000, b"checkpoint-000123.pt"), &mut log).unwrap();
        assert!(log.len() < 100, "{} bytes", log.len());
    }

    proptest! {
        #[test]
        fn entries_come_back(names in prop::collection::vec(prop::collection::vec(1_u8.., 1..255), 1..20)) {
            let entries: Vec<Entry> = names.iter().enumerate().map(|(n, name)| entry(n as u64, name)).collect();
            let mut log = Vec::new();
            for entry in &entries {
                encode(entry, &mut log).unwrap();
            }
            prop_assert_eq!(read_all(&log), entries);
        }

        #[test]
        fn an_append_that_broke_off_hides_no_later_entry(cut in 1_usize..88, garbage in any::<u8>()) {
            let (lost, kept) = (entry(1, b"lost"), entry(2, b"kept"));
            let mut torn = Vec::new();
            encode(&lost, &mut torn).unwrap();
            torn.truncate(cut.min(torn.len() - 1));
            torn.resize(torn.len() + usize::from(garbage % 16), garbage);
            encode(&kept, &mut torn).unwrap();
            let found = read_all(&torn);
            prop_assert_eq!(found.last(), Some(&kept));
            prop_assert!(found.len() <= 2, "at most padding was cut off");
        }

        #[test]
        fn garbage_is_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert!(read_all(&bytes).is_empty());
        }
    }
}
