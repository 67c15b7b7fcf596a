//! The moments that history must be able to show.

use std::ops::Range;

use crate::snapshot::sequence::Sequence;

/// The moments that history must be able to show: single ones, the snapshots, and every moment from one on, the trash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    moments: Vec<Sequence>,
    window_start: Sequence,
}

impl Kept {
    /// `moments` may be in any order. Every moment from `window_start` on is kept too.
    pub(crate) fn new(moments: impl IntoIterator<Item = Sequence>, window_start: Sequence) -> Self {
        let mut moments: Vec<Sequence> = moments.into_iter().collect();
        moments.sort_unstable();
        moments.dedup();
        Self { moments, window_start }
    }

    /// Returns the single moments in order.
    pub(crate) fn moments(&self) -> &[Sequence] {
        &self.moments
    }

    /// Returns the same with more single moments.
    pub(crate) fn and(&self, more: impl IntoIterator<Item = Sequence>) -> Self {
        Self::new(self.moments.iter().copied().chain(more), self.window_start)
    }

    /// Returns the same without some single moments, and with a trash that begins no earlier than `start`.
    pub(crate) fn without(&self, gone: &[Sequence], start: Sequence) -> Self {
        let left = self.moments.iter().copied().filter(|moment| !gone.contains(moment));
        Self::new(left, self.window_start.max(start))
    }

    /// Returns where the trash begins.
    pub(crate) fn window_start(&self) -> Sequence {
        self.window_start
    }

    /// Returns whether a moment is kept, so that what history says of it is so.
    #[cfg_attr(not(test), expect(dead_code, reason = "a question that no command asks yet"))]
    pub(crate) fn contains(&self, moment: Sequence) -> bool {
        moment >= self.window_start || self.moments.binary_search(&moment).is_ok()
    }

    /// Returns whether one of them lies in `[from, until)`: whether what was so from `from` until `until` is needed.
    pub(super) fn meets(&self, from: Sequence, until: Sequence) -> bool {
        from < until && (self.is_in_trash(until) || !self.within(from, until).is_empty())
    }

    /// Returns whether what ended at `until` is in the trash.
    pub(super) fn is_in_trash(&self, until: Sequence) -> bool {
        until > self.window_start
    }

    /// Returns which of the single moments lie in `[from, until)`, as places in [`Self::moments`].
    pub(super) fn within(&self, from: Sequence, until: Sequence) -> Range<usize> {
        let first = self.moments.partition_point(|moment| *moment < from);
        let end = self.moments.partition_point(|moment| *moment < until);
        first..end.max(first)
    }

    /// Returns the first of all.
    pub(super) fn oldest(&self) -> Sequence {
        self.moments.first().map_or(self.window_start, |first| self.window_start.min(*first))
    }

    /// Returns the same with a trash that begins no later than `latest`.
    pub(super) fn with_window_from(&self, latest: Sequence) -> Self {
        Self { moments: self.moments.clone(), window_start: self.window_start.min(latest) }
    }
}
