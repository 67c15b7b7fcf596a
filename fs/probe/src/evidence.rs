//! Why a probe says what it says.

use std::fmt;

use crate::format::Format;

/// One observation. [`fmt::Display`] says it in plain English, with numbers; sizes and offsets are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The file begins like this format.
    Signature(Format),
    /// Only the name tells the format.
    NameOnly(Format),
    /// There is nothing in the file.
    Empty,
    /// The file is shorter than its header says.
    EndsEarly {
        /// What is there.
        size: u64,
        /// What should be there at least.
        expected: u64,
    },
    /// The file is longer than its header says.
    TrailingBytes {
        /// What is there.
        size: u64,
        /// What should be there.
        expected: u64,
    },
    /// The header accounts for every byte.
    LengthMatches {
        /// The size of the file.
        size: u64,
        /// Tensors, arrays or records in it.
        parts: u64,
    },
    /// Something violates the format.
    Malformed {
        /// What.
        what: String,
    },
    /// A version or feature of the format that this probe does not know.
    Unsupported {
        /// Which.
        what: String,
    },
    /// No record at the end of a zip archive.
    ZipEndMissing,
    /// The directory of a zip archive ends where it should and its entries fit.
    ZipDirectory {
        /// How many entries.
        entries: u64,
    },
    /// A name that the format requires is not in the archive.
    EntryMissing {
        /// The name.
        name: String,
    },
    /// Every tensor that a torch file refers to has its bytes.
    StoragesPresent {
        /// How many storages.
        count: u64,
        /// Their sizes together.
        bytes: u64,
    },
    /// A torch file refers to a tensor whose bytes are not in it: saving failed midway.
    StorageMissing {
        /// The key of the storage.
        key: String,
    },
    /// A tensor of a torch file has fewer bytes than its type and shape need.
    StorageShort {
        /// The key of the storage.
        key: String,
        /// What is there.
        size: u64,
        /// What should be there.
        expected: u64,
    },
    /// The whole pickle was walked, up to its end.
    PickleEnds {
        /// Objects in it.
        objects: u64,
    },
    /// Only the frames of a pickle were followed: weaker than a walk.
    PickleFrames {
        /// How many.
        frames: u64,
    },
    /// HDF5 says that a program has the file open for writing, or died with it open.
    OpenFlag,
    /// The probe stopped at its limit.
    LimitReached {
        /// The limit, in bytes or objects.
        limit: u64,
    },
    /// The file could not be read.
    Unreadable {
        /// The kind of the error.
        error: String,
    },
    /// Handles are open for writing.
    Writers {
        /// How many.
        count: u32,
    },
    /// Every byte was seen to be written.
    Covered,
    /// A byte that was never written.
    Unwritten {
        /// Its offset.
        offset: u64,
    },
    /// The filesystem shows a hole, which may be data that never arrived or a sparse copy of zeros.
    Hole {
        /// Its offset.
        offset: u64,
    },
    /// Whether the writer asked for durability.
    Fsynced(bool),
    /// Checksums of all parts were compared.
    ChecksumsMatch {
        /// How many.
        count: u64,
    },
    /// A checksum is wrong.
    ChecksumDiffers {
        /// Of which part.
        part: String,
    },
    /// A file that the framework writes last is there.
    Marker {
        /// Its name.
        name: String,
    },
    /// A file that the framework writes last is missing.
    MarkerMissing {
        /// Its name.
        name: String,
    },
    /// A marker of a save that has not ended.
    UnfinishedMarker {
        /// Its name.
        name: String,
    },
    /// A file that belongs to the checkpoint is missing.
    FileMissing {
        /// Its name.
        name: String,
    },
    /// A file of the checkpoint is not complete.
    FileNotComplete {
        /// Its name.
        name: String,
        /// Its state.
        state: crate::verdict::State,
    },
    /// A file that others refer to ends too early for them.
    FileShort {
        /// Its name.
        name: String,
        /// What is there.
        size: u64,
        /// What should be there.
        expected: u64,
    },
    /// A name that leads out of the tree; it is not looked at.
    NameOutside {
        /// The name.
        name: String,
    },
    /// The name and the content tell different steps.
    StepDiffers {
        /// According to the name.
        name: u64,
        /// According to the content.
        content: u64,
    },
    /// Shards or ranks are not numbered without a gap.
    ShardsMissing {
        /// How many there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
    /// All shards or ranks are there.
    ShardsPresent {
        /// How many.
        count: u64,
    },
    /// Nothing marks the end of a save of this framework: only that all files are whole.
    NoCommitMarker,
    /// There is no file that looks like weights.
    NothingRecognised,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(format) => write!(f, "begins like {format}"),
            Self::NameOnly(format) => write!(f, "is {format} by its name only"),
            Self::Empty => write!(f, "is empty"),
            Self::EndsEarly { size, expected } => {
                write!(f, "ends at byte {size}, but its header needs {expected}")
            }
            Self::TrailingBytes { size, expected } => {
                write!(f, "has {size} bytes, but its header accounts for {expected}")
            }
            Self::LengthMatches { size, parts } => {
                write!(f, "{parts} parts account for all {size} bytes")
            }
            Self::Malformed { what } => write!(f, "is damaged: {what}"),
            Self::Unsupported { what } => write!(f, "cannot be judged: {what}"),
            Self::ZipEndMissing => {
                write!(f, "has no zip directory at its end: it was cut or is still written")
            }
            Self::ZipDirectory { entries } => write!(f, "zip directory of {entries} entries is whole"),
            Self::EntryMissing { name } => write!(f, "lacks the entry {name:?}"),
            Self::StoragesPresent { count, bytes } => {
                write!(f, "{count} tensor storages of {bytes} bytes are all there")
            }
            Self::StorageMissing { key } => {
                write!(f, "tensor storage {key:?} is missing: saving failed midway")
            }
            Self::StorageShort { key, size, expected } => {
                write!(f, "tensor storage {key:?} has {size} of {expected} bytes")
            }
            Self::PickleEnds { objects } => write!(f, "pickle of {objects} objects is whole"),
            Self::PickleFrames { frames } => write!(f, "{frames} pickle frames end with the file"),
            Self::OpenFlag => write!(f, "is marked as open for writing: its writer works on or has died"),
            Self::LimitReached { limit } => write!(f, "is too large to judge within the limit of {limit}"),
            Self::Unreadable { error } => write!(f, "cannot be read: {error}"),
            Self::Writers { count } => write!(f, "{count} handles are open for writing"),
            Self::Covered => write!(f, "every byte was seen to be written"),
            Self::Unwritten { offset } => write!(f, "byte {offset} was never written"),
            Self::Hole { offset } => {
                write!(f, "there is a hole at byte {offset} that may never have been written")
            }
            Self::Fsynced(true) => write!(f, "was synced after its last write"),
            Self::Fsynced(false) => write!(f, "was never synced: a power failure may lose it"),
            Self::ChecksumsMatch { count } => write!(f, "{count} checksums match"),
            Self::ChecksumDiffers { part } => write!(f, "checksum of {part:?} is wrong"),
            Self::Marker { name } => write!(f, "{name:?} marks the end of the save"),
            Self::MarkerMissing { name } => write!(f, "{name:?}, which is written last, is missing"),
            Self::UnfinishedMarker { name } => write!(f, "{name:?} says that the save has not ended"),
            Self::FileMissing { name } => write!(f, "{name:?} is missing"),
            Self::FileNotComplete { name, state } => write!(f, "{name:?} is {state}"),
            Self::FileShort { name, size, expected } => {
                write!(f, "{name:?} has {size} of at least {expected} bytes")
            }
            Self::NameOutside { name } => write!(f, "{name:?} leads out of the tree and is not looked at"),
            Self::StepDiffers { name, content } => {
                write!(f, "is named after step {name} but holds step {content}")
            }
            Self::ShardsMissing { found, expected } => write!(f, "has {found} of {expected} shards"),
            Self::ShardsPresent { count } => write!(f, "all {count} shards are there"),
            Self::NoCommitMarker => {
                write!(f, "the framework marks no end of a save: all that is there is whole")
            }
            Self::NothingRecognised => write!(f, "holds no file that looks like weights"),
        }
    }
}
