//! What is left: of the host, and as `df` shows it.

use super::meter::{FileClass, UNLIMITED};
use super::scope::Scope;
use super::{BLOCK_BYTES, Dimension};

/// Smallest part of a filesystem that is kept free, in percent.
const MIN_FREE_PERCENT: u64 = 2;
/// What is kept free of a large filesystem …
const MIN_FREE_BYTES: u64 = 5 << 30;
/// … but no more than this part of a small one, in percent.
const MIN_FREE_PERCENT_OF_SMALL: u64 = 5;

/// What statfs(2) says of the backing filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostSpace {
    /// All bytes.
    pub(crate) total_bytes: u64,
    /// Free bytes (`f_bfree`).
    pub(crate) free_bytes: u64,
    /// Free bytes for ordinary users (`f_bavail`).
    pub(crate) available_bytes: u64,
    /// All inodes; 0 where the filesystem does not count them.
    pub(crate) total_inodes: u64,
    /// Free inodes.
    pub(crate) free_inodes: u64,
}

impl HostSpace {
    /// Bytes that are kept free unless configured: 2 %, or 5 GiB if that is more, the latter no more than 5 %.
    pub(crate) fn default_min_free(&self) -> u64 {
        let percent = |percent| self.total_bytes / 100 * percent;
        percent(MIN_FREE_PERCENT).max(MIN_FREE_BYTES.min(percent(MIN_FREE_PERCENT_OF_SMALL)))
    }
}

/// The end of a pool by what its host leaves: use at the time of the sample, plus what was free, less what has to stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostFloor {
    host: HostSpace,
    /// Bytes that have to stay free.
    min_free: u64,
    /// Use when `host` was sampled. Moves with use that comes and goes without the host's space changing.
    base: [i128; 2],
}

impl HostFloor {
    pub(super) fn new(host: HostSpace, min_free: Option<u64>, used: [u64; 2]) -> Self {
        let min_free = min_free.unwrap_or_else(|| host.default_min_free());
        Self { host, min_free, base: used.map(i128::from) }
    }

    /// The cap on `taken`; `None` where the host does not count.
    pub(super) fn cap(&self, dimension: Dimension) -> Option<u64> {
        let room = match dimension {
            Dimension::Bytes => i128::from(self.host.available_bytes) - i128::from(self.min_free),
            Dimension::Inodes if self.host.total_inodes == 0 => return None,
            Dimension::Inodes => i128::from(self.host.free_inodes),
        };
        let cap = (self.base[dimension.index()] + room).max(0);
        Some(u64::try_from(cap).unwrap_or(UNLIMITED))
    }

    /// Accounts for use that changed without the host's space changing.
    pub(super) fn shift(&mut self, dimension: Dimension, by: i128) {
        self.base[dimension.index()] += by;
    }
}

/// What statfs(2) answers in a workspace. Blocks are of [`BLOCK_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statfs {
    /// The size: of the limit that leaves least, or of the host.
    pub(crate) blocks: u64,
    /// Free within that, headroom included.
    pub(crate) blocks_free: u64,
    /// What a large file can take now: the least that any limit or the host leaves. Trash counts as free.
    pub(crate) blocks_available: u64,
    /// The same for inodes.
    pub(crate) files: u64,
    /// Inodes that can still be made.
    pub(crate) files_free: u64,
}

/// Size, free and available of one dimension.
struct Room {
    total: u64,
    free: u64,
    available: u64,
}

/// Computes what `df` shows for a chain of scopes, project first.
pub(super) fn statfs(chain: &[std::sync::Arc<Scope>], host: HostSpace, reclaimable: u64) -> Statfs {
    let bytes = room(
        chain,
        Dimension::Bytes,
        reclaimable,
        Room {
            total: host.total_bytes,
            free: host.free_bytes.saturating_add(reclaimable),
            available: host.available_bytes.saturating_add(reclaimable),
        },
    );
    let host_inodes = match host.total_inodes {
        0 => UNLIMITED,
        _ => host.free_inodes,
    };
    let inodes = room(
        chain,
        Dimension::Inodes,
        0,
        Room { total: host.total_inodes, free: host_inodes, available: host_inodes },
    );
    let is_uncounted = inodes.total == 0;
    Statfs {
        blocks: bytes.total / BLOCK_BYTES,
        blocks_free: bytes.free.min(bytes.total) / BLOCK_BYTES,
        blocks_available: bytes.available.min(bytes.free).min(bytes.total) / BLOCK_BYTES,
        files: inodes.total,
        // statfs of FUSE has one number for both.
        files_free: if is_uncounted { 0 } else { inodes.available.min(inodes.free).min(inodes.total) },
    }
}

fn room(chain: &[std::sync::Arc<Scope>], dimension: Dimension, reclaimable: u64, host: Room) -> Room {
    let mut available = host.available;
    let mut tightest: Option<Room> = None;
    for scope in chain {
        let taken = scope.meter(dimension).taken();
        let left = |cap: u64, more: u64| match cap {
            UNLIMITED => UNLIMITED,
            cap => cap.saturating_add(more).saturating_sub(taken),
        };
        let (limit, caps) = {
            let book = scope.book.lock();
            (book.limit_caps(dimension), book.caps(dimension))
        };
        // Trash is nobody's use, so giving it back helps against a full disk only.
        available = available.min(left(limit.large, 0)).min(left(caps.of(FileClass::Large), reclaimable));
        if limit.small != UNLIMITED {
            let own =
                Room { total: limit.small, free: left(limit.small, 0), available: left(limit.large, 0) };
            if tightest.as_ref().is_none_or(|other| own.available < other.available) {
                tightest = Some(own);
            }
        }
    }
    let shown = tightest.unwrap_or(host);
    Room { total: shown.total, free: shown.free, available }
}
