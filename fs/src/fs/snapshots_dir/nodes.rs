//! The numbers of past nodes.

use crate::inode::{FIRST_PAST_NODE, FIRST_RESERVED_NODE, Inode};
use crate::sys::handle::FileHandle;

/// Numbers that are tried when another node has the first. Two of a million nodes meet once in millions of mounts.
pub(super) const MOST_COLLISIONS: usize = 16;

/// Returns the node of something in a snapshot, or with `past` 0 of a list of snapshots. `way` tells how `.snapshots` was
/// reached.
pub(super) fn past_node(past: u32, way: u32, handle: FileHandle, file_type: u32) -> Inode {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&past.to_le_bytes());
    hasher.update(&way.to_le_bytes());
    hasher.update(&handle.to_bytes());
    Inode { node: in_range(first_word(&hasher)), generation: way, file_type, handle, past }
}

/// Returns what tells one way into a tree from another: by this name, from this node. Never 0.
pub(super) fn way(from: u64, name: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&from.to_le_bytes());
    hasher.update(name);
    ((first_word(&hasher) & 0xffff_ffff) as u32).max(1)
}

/// Returns the number to try after this one.
pub(super) fn next(node: u64) -> u64 {
    in_range(node.wrapping_add(1))
}

fn first_word(hasher: &blake3::Hasher) -> u64 {
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

fn in_range(number: u64) -> u64 {
    let node = number | FIRST_PAST_NODE;
    if node < FIRST_RESERVED_NODE { node } else { FIRST_PAST_NODE }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inode::is_past;

    fn handle(seed: u64) -> FileHandle {
        FileHandle::from_words(1, 8, [seed, 0, 0, 0])
    }

    proptest! {
        #[test]
        fn every_number_is_a_past_one(word in any::<u64>(), past in any::<u32>(), way in any::<u32>()) {
            prop_assert!(is_past(in_range(word)) && is_past(next(word)));
            prop_assert!(is_past(past_node(past, way, handle(word), libc::S_IFREG).node));
        }
    }

    #[test]
    fn number_depends_on_snapshot_way_and_file_and_on_nothing_else() {
        let node = |past, way, seed| past_node(past, way, handle(seed), libc::S_IFREG).node;
        let numbers = [node(1, 1, 1), node(2, 1, 1), node(1, 2, 1), node(1, 1, 2)];
        assert_eq!(numbers.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(numbers[0], past_node(1, 1, handle(1), libc::S_IFDIR).node);
        assert_ne!(way(1, b"a"), way(2, b"a"));
        assert_ne!(way(1, b"a"), way(1, b"b"));
        assert!(is_past(next(u64::MAX - 0x100)));
    }
}
