//! From when to when each thing that is kept was so.
//!
//! What an entry at `q` says was so since the entry before it for the same thing, at `p`; a moment `S` needs it if and
//! only if `p <= S < q`. Content is a matter of bytes: each byte of a range has its own predecessor, so the range is
//! needed from the oldest of these on. Two bounds make this exact:
//! - an inode that is gone was not there before it had a name, so that no earlier moment needs anything of it;
//! - an object that is the inode itself, taken away, also holds its extended attributes, where they were not noted.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ContentRow;
use crate::snapshot::record::Origin;
use crate::snapshot::sequence::Sequence;

/// What is known of an inode besides its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Inode {
    /// When it got its first name and when it lost its last, if it has none any more.
    pub(super) life: Option<(Sequence, Sequence)>,
    /// The moments at which its extended attributes were noted, in order.
    pub(super) xattrs: Vec<Sequence>,
}

impl Inode {
    /// Returns the moment before which nothing that ended at `until` was there.
    pub(super) fn born(&self, until: Sequence) -> Sequence {
        match self.life {
            Some((born, died)) if until <= died => born,
            // Put back and alive, or not known.
            _ => Sequence::ZERO,
        }
    }

    /// Returns since when the extended attributes were as an inode that was taken away at `until` has them; `until` if
    /// they were noted then.
    fn xattrs_since(&self, until: Sequence) -> Sequence {
        let noted = self.xattrs.partition_point(|at| *at <= until);
        noted.checked_sub(1).and_then(|last| self.xattrs.get(last)).copied().unwrap_or(Sequence::ZERO)
    }
}

/// Returns for each row of one inode, given in the order of `at, offset, object`, the moment since which what it holds
/// was so. It was so until the row's own moment; if they are equal, nobody needs it.
pub(super) fn since(rows: &[ContentRow], inode: &Inode) -> Vec<Sequence> {
    let mut cover = Cover::default();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let mut since = cover.oldest(row.held()).unwrap_or(row.at);
        if row.origin == Origin::TakenAway {
            // It is the inode, and hides nothing of what was kept when that was written to afterwards.
            since = since.min(inode.xattrs_since(row.at));
        } else {
            cover.set(row.covered(), row.at);
        }
        found.push(since.max(inode.born(row.at)).min(row.at));
    }
    found
}

/// The last moment at which each byte was noted: disjoint ranges by their start, with their end.
#[derive(Default)]
struct Cover(BTreeMap<u64, (u64, Sequence)>);

impl Cover {
    /// Returns the oldest moment of the bytes of `range`; [`Sequence::ZERO`] if some were never noted, `None` for an
    /// empty range.
    fn oldest(&self, range: Range<u64>) -> Option<Sequence> {
        // A range that ends before it starts is none; BTreeMap::range panics at one.
        if range.is_empty() {
            return None;
        }
        let mut next = range.start;
        let mut oldest = None;
        let before = self.0.range(..range.start).next_back();
        for (&start, &(end, at)) in before.into_iter().chain(self.0.range(range.clone())) {
            if end <= range.start {
                continue;
            }
            if start > next {
                return Some(Sequence::ZERO);
            }
            oldest = Some(oldest.map_or(at, |oldest: Sequence| oldest.min(at)));
            next = end;
        }
        Some(if next < range.end { Sequence::ZERO } else { oldest.unwrap_or(Sequence::ZERO) })
    }

    /// Notes the bytes of `range` at `at`. Costs as much as there are ranges that it hides, which are gone then.
    fn set(&mut self, range: Range<u64>, at: Sequence) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &(end, before))) = self.0.range(..range.start).next_back()
            && end > range.start
        {
            self.0.insert(start, (range.start, before));
            if end > range.end {
                self.0.insert(range.end, (end, before));
            }
        }
        while let Some((&start, &(end, before))) = self.0.range(range.clone()).next() {
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, (end, before));
            }
        }
        self.0.insert(range.start, (range.end, at));
    }
}
