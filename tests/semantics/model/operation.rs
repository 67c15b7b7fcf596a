//! The operations of the property test and how often each occurs.

use proptest::{
    prelude::{Just, Strategy, any},
    prop_oneof,
    sample::select,
};

/// A path of the alphabet: few names, so that operations meet each other.
pub(crate) type Name = &'static str;

/// One of the descriptors that a sequence holds open.
pub(crate) type Slot = usize;

/// How many descriptors a sequence may hold open.
pub(crate) const SLOTS: usize = 4;

const NAMES: [Name; 14] =
    ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "e/a", "e/b", "link", "d/link", "caf\u{e9} \n"];
const TARGETS: [Name; 6] = ["a", "d", "../a", "missing", "link", "e/b"];
const MODES: [u32; 9] = [0o644, 0o600, 0o755, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o6711];
const ATTRIBUTES: [Name; 5] = ["user.a", "user.b", "user.long", "trusted.t", "bogus.x"];

/// How a file is opened.
pub(crate) const OPEN_FLAGS: [i32; 14] = [
    libc::O_RDONLY,
    libc::O_WRONLY,
    libc::O_RDWR,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
    libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
    libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT,
    libc::O_RDWR | libc::O_APPEND,
    libc::O_WRONLY | libc::O_TRUNC,
    libc::O_RDONLY | libc::O_NOFOLLOW,
    libc::O_RDONLY | libc::O_DIRECTORY,
    libc::O_WRONLY | libc::O_SYNC,
    libc::O_RDONLY | libc::O_TRUNC,
];

/// A mode of fallocate(2), by its bits.
pub(crate) const FALLOCATE_MODES: [u32; 6] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE as u32,
    (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32,
    (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32,
    libc::FALLOC_FL_ZERO_RANGE as u32,
    (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u32,
];

/// A flag of renameat2(2), by its bits.
pub(crate) const RENAME_FLAGS: [u32; 6] =
    [0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE];

/// One system call of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Open { slot: Slot, path: Name, flags: i32, mode: u32 },
    Close { slot: Slot },
    Write { slot: Slot, len: usize, fill: u8 },
    WriteAt { slot: Slot, offset: u64, len: usize, fill: u8 },
    Append { path: Name, len: usize, fill: u8 },
    Read { slot: Slot, len: usize },
    ReadAt { slot: Slot, offset: u64, len: usize },
    ReadFile { path: Name },
    SetLen { slot: Slot, len: u64 },
    Truncate { path: Name, len: u64 },
    Allocate { slot: Slot, mode: u32, offset: u64, len: u64 },
    CopyRange { from: Slot, to: Slot, from_offset: u64, to_offset: u64, len: usize },
    SeekData { slot: Slot, offset: u64 },
    SeekHole { slot: Slot, offset: u64 },
    Sync { slot: Slot },
    StatSlot { slot: Slot },
    Unlink { path: Name },
    MakeDir { path: Name, mode: u32 },
    RemoveDir { path: Name },
    Rename { from: Name, to: Name, flags: u32 },
    Link { from: Name, to: Name },
    Symlink { target: Name, path: Name },
    ReadLink { path: Name },
    MakeFifo { path: Name, mode: u32 },
    Chmod { path: Name, mode: u32 },
    Chown { path: Name, uid: Option<u32>, gid: Option<u32>, follow: bool },
    SetTimes { path: Name, seconds: i64, nanoseconds: i64 },
    SetAttribute { path: Name, name: Name, len: usize, flags: u32 },
    GetAttribute { path: Name, name: Name },
    RemoveAttribute { path: Name, name: Name },
    ListAttributes { path: Name },
    List { path: Name },
    Stat { path: Name },
}

fn name() -> impl Strategy<Value = Name> + Clone {
    select(&NAMES[..])
}

fn slot() -> impl Strategy<Value = Slot> + Clone {
    0..SLOTS
}

fn mode() -> impl Strategy<Value = u32> + Clone {
    select(&MODES[..])
}

/// Offsets and lengths around block borders as well as odd ones.
fn position() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        2 => 0..70_000_u64,
        1 => 0..300_u64,
        2 => (0..17_u64).prop_map(|block| block * 4096),
        1 => (1..17_u64).prop_map(|block| block * 4096 - 1),
    ]
}

fn length() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![3 => 0..9000_usize, 1 => select(vec![1, 4096, 8192, 65_536]), 1 => 0..20_usize]
}

fn id() -> impl Strategy<Value = Option<u32>> + Clone {
    select(vec![None, Some(0), Some(4001), Some(4002)])
}

/// Any operation; data operations are the most frequent.
pub(crate) fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![4 => data_operations(), 3 => namespace_operations(), 3 => attribute_operations()]
}

fn data_operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (slot(), name(), select(&OPEN_FLAGS[..]), mode())
            .prop_map(|(slot, path, flags, mode)| Operation::Open { slot, path, flags, mode }),
        1 => slot().prop_map(|slot| Operation::Close { slot }),
        3 => (slot(), length(), any::<u8>()).prop_map(|(slot, len, fill)| Operation::Write { slot, len, fill }),
        4 => (slot(), position(), length(), any::<u8>())
            .prop_map(|(slot, offset, len, fill)| Operation::WriteAt { slot, offset, len, fill }),
        2 => (name(), length(), any::<u8>()).prop_map(|(path, len, fill)| Operation::Append { path, len, fill }),
        2 => (slot(), length()).prop_map(|(slot, len)| Operation::Read { slot, len }),
        3 => (slot(), position(), length())
            .prop_map(|(slot, offset, len)| Operation::ReadAt { slot, offset, len }),
        2 => name().prop_map(|path| Operation::ReadFile { path }),
        2 => (slot(), position()).prop_map(|(slot, len)| Operation::SetLen { slot, len }),
        2 => (name(), position()).prop_map(|(path, len)| Operation::Truncate { path, len }),
        3 => (slot(), select(&FALLOCATE_MODES[..]), position(), position())
            .prop_map(|(slot, mode, offset, len)| Operation::Allocate { slot, mode, offset, len }),
        2 => (slot(), slot(), position(), position(), length()).prop_map(
            |(from, to, from_offset, to_offset, len)| Operation::CopyRange { from, to, from_offset, to_offset, len }
        ),
        1 => (slot(), position()).prop_map(|(slot, offset)| Operation::SeekData { slot, offset }),
        1 => (slot(), position()).prop_map(|(slot, offset)| Operation::SeekHole { slot, offset }),
        1 => slot().prop_map(|slot| Operation::Sync { slot }),
        2 => slot().prop_map(|slot| Operation::StatSlot { slot }),
    ]
}

fn namespace_operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => name().prop_map(|path| Operation::Unlink { path }),
        4 => (name(), mode()).prop_map(|(path, mode)| Operation::MakeDir { path, mode }),
        1 => name().prop_map(|path| Operation::RemoveDir { path }),
        4 => (name(), name(), select(&RENAME_FLAGS[..]))
            .prop_map(|(from, to, flags)| Operation::Rename { from, to, flags }),
        2 => (name(), name()).prop_map(|(from, to)| Operation::Link { from, to }),
        2 => (select(&TARGETS[..]), name()).prop_map(|(target, path)| Operation::Symlink { target, path }),
        1 => name().prop_map(|path| Operation::ReadLink { path }),
        1 => (name(), mode()).prop_map(|(path, mode)| Operation::MakeFifo { path, mode }),
        2 => name().prop_map(|path| Operation::List { path }),
        2 => name().prop_map(|path| Operation::Stat { path }),
    ]
}

fn attribute_operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => (name(), mode()).prop_map(|(path, mode)| Operation::Chmod { path, mode }),
        2 => (name(), id(), id(), any::<bool>())
            .prop_map(|(path, uid, gid, follow)| Operation::Chown { path, uid, gid, follow }),
        2 => (name(), 0..1_000_000_i64, 0..1_000_000_000_i64)
            .prop_map(|(path, seconds, nanoseconds)| Operation::SetTimes { path, seconds, nanoseconds }),
        3 => (name(), select(&ATTRIBUTES[..]), select(vec![0, 1, 30, 900]), 0..4_u32)
            .prop_map(|(path, name, len, flags)| Operation::SetAttribute { path, name, len, flags }),
        2 => (name(), select(&ATTRIBUTES[..])).prop_map(|(path, name)| Operation::GetAttribute { path, name }),
        1 => (name(), select(&ATTRIBUTES[..])).prop_map(|(path, name)| Operation::RemoveAttribute { path, name }),
        1 => name().prop_map(|path| Operation::ListAttributes { path }),
        2 => name().prop_map(|path| Operation::Stat { path }),
        1 => Just(Operation::Stat { path: "d" }),
    ]
}
