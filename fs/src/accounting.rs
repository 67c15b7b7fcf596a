//! How many bytes an inode counts for: one rule for quota, for the history and for the usage index.

use rustix::fs::{FileType, Stat, Statx};

/// The unit of allocation that is counted in.
const BLOCK: u64 = 4096;

/// How an inode's bytes are counted (`quota report` shows it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accounting {
    /// Blocks allocated on the disk: ext4, tmpfs, btrfs without compression.
    Allocated,
    /// The same, but never more than the size: XFS allocates speculatively beyond the end.
    AllocatedToSize,
    /// The size in whole blocks: where `st_blocks` lags or lies (network filesystems, compression).
    Logical,
}

impl Accounting {
    /// Returns the bytes that an inode is billed for; whole blocks of 4 KiB, and nothing but regular files is.
    pub(crate) fn charge(self, stat: &Statx) -> u64 {
        match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::RegularFile => self.charge_of(stat.stx_size, stat.stx_blocks),
            _ => 0,
        }
    }

    /// As [`Self::charge`], of what fstat(2) says.
    pub(crate) fn charge_of_open(self, stat: &Stat) -> u64 {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.charge_of(
                u64::try_from(stat.st_size).unwrap_or(0),
                u64::try_from(stat.st_blocks).unwrap_or(0),
            ),
            _ => 0,
        }
    }

    /// Returns the bytes that a regular file is billed for, from its size and its blocks of 512 bytes.
    pub(crate) fn charge_of(self, size: u64, blocks: u64) -> u64 {
        let allocated = ceil_block(blocks.saturating_mul(512));
        match self {
            Self::Allocated => allocated,
            Self::AllocatedToSize => allocated.min(ceil_block(size)),
            Self::Logical => ceil_block(size),
        }
    }
}

/// Rounds up to whole blocks.
fn ceil_block(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX - (BLOCK - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_counts_whole_blocks_of_what_it_trusts() {
        // 5,000 bytes for which the disk has 64 KiB, and a hole of 1 MiB.
        let cases = [(Accounting::Allocated, 65_536, 0), (Accounting::AllocatedToSize, 8_192, 0)];
        for (accounting, ahead, hole) in cases {
            assert_eq!(accounting.charge_of(5_000, 128), ahead);
            assert_eq!(accounting.charge_of(1 << 20, 0), hole);
        }
        assert_eq!(Accounting::Logical.charge_of(5_000, 128), 8_192);
        assert_eq!(Accounting::Logical.charge_of(1 << 20, 0), 1 << 20);
        // tmpfs counts in pages, others in sectors.
        assert_eq!(Accounting::Allocated.charge_of(1, 1), 4_096);
        assert_eq!(Accounting::Logical.charge_of(u64::MAX, 0), u64::MAX - 4_095);
    }
}
