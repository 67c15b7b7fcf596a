//! What is noted of one change.

use std::ffi::OsStr;

use jiff::Timestamp;

/// What happened. The numbers are stored in histories and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Operation {
    /// A regular file came into being.
    Create = 1,
    /// A directory came into being.
    MakeDirectory = 2,
    /// A symbolic link came into being.
    MakeSymlink = 3,
    /// A FIFO, socket or device came into being.
    MakeNode = 4,
    /// An inode got another name.
    Link = 5,
    /// A name moved.
    Rename = 6,
    /// Two names changed places; noted once for each inode.
    Exchange = 7,
    /// The inode whose name a rename took over.
    Replace = 8,
    /// A name of a file went.
    Unlink = 9,
    /// A directory went.
    RemoveDirectory = 10,
    /// write(2), folded per open file.
    Write = 11,
    /// The size was set.
    Truncate = 12,
    /// Space was allocated, freed or zeroed.
    Allocate = 13,
    /// Bytes were copied in from another file.
    CopyRange = 14,
    /// Mode, owner or times were set.
    SetAttributes = 15,
    /// An extended attribute or an ACL was set or removed.
    SetExtendedAttribute = 16,
}

impl Operation {
    /// Every operation, in the order of its number.
    pub(crate) const ALL: [Self; 16] = [
        Self::Create,
        Self::MakeDirectory,
        Self::MakeSymlink,
        Self::MakeNode,
        Self::Link,
        Self::Rename,
        Self::Exchange,
        Self::Replace,
        Self::Unlink,
        Self::RemoveDirectory,
        Self::Write,
        Self::Truncate,
        Self::Allocate,
        Self::CopyRange,
        Self::SetAttributes,
        Self::SetExtendedAttribute,
    ];

    /// Returns the number that stands for it in a history.
    pub(crate) fn code(self) -> i64 {
        self as i64
    }

    /// Returns what a number stands for.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.code() == code)
    }

    /// Whether a name or what it named is gone afterwards.
    pub(crate) fn is_deletion(self) -> bool {
        matches!(self, Self::Unlink | Self::RemoveDirectory | Self::Replace)
    }
}

/// One change, after it happened.
///
/// `node` is the inode that changed, as the kernel numbers it through the mount; 0 if it is not known. `parent` is 0
/// and `name` absent where the request did not name one; `to_parent` and `to_name` are the new name of a `Rename` or
/// `Exchange`. `delta_bytes` is the change of what the file is charged (allocated bytes), `bytes` what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Microseconds since 1970.
    pub(crate) at_us: i64,
    /// What happened.
    pub(crate) operation: Operation,
    /// To which inode.
    pub(crate) node: u64,
    /// Directory of the name.
    pub(crate) parent: u64,
    /// The name in it.
    pub(crate) name: Option<Box<OsStr>>,
    /// Directory of the new name.
    pub(crate) to_parent: u64,
    /// The new name in it.
    pub(crate) to_name: Option<Box<OsStr>>,
    /// Where what was written begins. Of folded writes: of all that the open file has written so far.
    pub(crate) offset: u64,
    /// Where it ends (exclusive), or the new size of a `Truncate`.
    pub(crate) end: u64,
    /// Bytes written since the last record of the same open file.
    pub(crate) bytes: u64,
    /// Change of the charge, bytes.
    pub(crate) delta_bytes: i64,
    /// Filesystem uid of the caller.
    pub(crate) uid: u32,
    /// Thread of the caller, in the daemon's pid namespace; 0 if it has none there.
    pub(crate) pid: u32,
}

impl Record {
    /// Makes a record of something that happened just now.
    pub(crate) fn new(operation: Operation, node: u64, uid: u32, pid: u32) -> Self {
        Self {
            at_us: Timestamp::now().as_microsecond(),
            operation,
            node,
            parent: 0,
            name: None,
            to_parent: 0,
            to_name: None,
            offset: 0,
            end: 0,
            bytes: 0,
            delta_bytes: 0,
            uid,
            pid,
        }
    }

    /// Adds the name that it is about.
    pub(crate) fn at(self, parent: u64, name: &OsStr) -> Self {
        Self { parent, name: Some(name.into()), ..self }
    }

    /// Adds the name that it has afterwards.
    pub(crate) fn moved_to(self, to_parent: u64, to_name: &OsStr) -> Self {
        Self { to_parent, to_name: Some(to_name.into()), ..self }
    }

    /// Adds the range that it covers.
    pub(crate) fn range(self, offset: u64, end: u64) -> Self {
        Self { offset, end, ..self }
    }

    /// Adds what was written and what it costs.
    pub(crate) fn costing(self, bytes: u64, delta_bytes: i64) -> Self {
        Self { bytes, delta_bytes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_lead_back() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation.code(), index as i64 + 1);
            assert_eq!(Operation::from_code(operation.code()), Some(operation));
        }
        assert_eq!(Operation::from_code(0), None);
        assert_eq!(Operation::from_code(17), None);
    }
}
