//! Looking again: at what was written back, at what was closed a while ago, at what others may have changed.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{
    AFTERGLOW, Charge, Charging, ECHO, FIRST_LOOK, MAX_GLOWING, Reach, Still, TRIMMED_WITHIN, signed,
};
use crate::accounting::Accounting;

impl Charging {
    /// Books what a file takes now that it was written back.
    pub(in crate::fs) fn settle_synced(&self, node: u64, file: BorrowedFd<'_>) {
        if let Some(charge) = self.find(node)
            && charge.glows.load(Ordering::Relaxed)
        {
            let _pending = self.pending();
            self.settle(node, &charge, file, None);
        }
    }

    /// Looks at inodes that were changed and closed a while ago, and lets go of those that are still.
    pub(in crate::fs) fn cool(&self, now: Instant, reach: Reach<'_>, still: Still<'_>) {
        let mut closed: Vec<(Instant, u64)> = Vec::new();
        let mut inferred: Vec<u64> = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|node, charge| {
                let state = charge.state.lock();
                if state.inferred > 0 {
                    inferred.push(*node);
                }
                if Arc::strong_count(charge) > 1 {
                    return true;
                }
                // Space is held for a mapping of it.
                if state.mappers > 0 {
                    return true;
                }
                let Some(changed) = state.changed else { return false };
                closed.push((changed, *node));
                true
            });
        }
        // Before a mark of what glows is out of date that the last look has left.
        let mut is_any_glowing = !inferred.is_empty();
        for node in inferred {
            self.recheck(node, reach);
        }
        closed.sort_unstable();
        let surplus = closed.len().saturating_sub(MAX_GLOWING);
        for (position, (changed, node)) in closed.into_iter().enumerate() {
            let Some(charge) = self.find(node) else { continue };
            let age = now.saturating_duration_since(changed);
            let glows = charge.glows.load(Ordering::Relaxed);
            let is_old = position < surplus || age >= if glows { AFTERGLOW } else { ECHO };
            let is_over = match (glows, is_old) {
                (false, _) => is_old,
                (true, true) => self.has_cooled(node, &charge, age, reach, still),
                (true, false) => {
                    self.look_if_due(node, &charge, age, reach);
                    false
                }
            };
            is_any_glowing |= glows && !is_over;
            if !is_over {
                continue;
            }
            let mut shard = self.shard(node).lock();
            // The table and this function hold it; nobody else can come while the shard is locked.
            if Arc::strong_count(&charge) == 2 {
                shard.remove(&node);
            }
        }
        if is_any_glowing {
            self.note_glow();
        }
    }

    fn has_cooled(
        &self,
        node: u64,
        charge: &Charge,
        age: Duration,
        reach: Reach<'_>,
        still: Still<'_>,
    ) -> bool {
        let (handle, size) = {
            let state = charge.state.lock();
            (state.handle, state.size)
        };
        let may_be_trimmed = self.accounting == Accounting::AllocatedToSize && charge.may_be_trimmed();
        if may_be_trimmed && !Self::is_due(charge, age) {
            return false;
        }
        match still(node, handle, (may_be_trimmed && age < TRIMMED_WITHIN).then_some(size)) {
            Ok(is_still) => self.look_again(node, charge, reach) && is_still,
            Err(errno) => {
                tracing::debug!(ino = node, %errno, "a changed file cannot be written out; later");
                false
            }
        }
    }

    fn look_if_due(&self, node: u64, charge: &Charge, age: Duration, reach: Reach<'_>) {
        if Self::is_due(charge, age) {
            self.look_again(node, charge, reach);
        }
    }

    /// Whether a file is to be looked at, which counts as a look.
    fn is_due(charge: &Charge, age: Duration) -> bool {
        let mut state = charge.state.lock();
        let is_due = age >= FIRST_LOOK * 2_u32.pow(state.looks.min(16));
        state.looks += u32::from(is_due);
        is_due
    }

    /// Looks at every inode that has an entry.
    pub(in crate::fs) fn look_at_all(&self, reach: Reach<'_>) {
        for shard in &self.shards {
            let nodes: Vec<u64> = shard.lock().keys().copied().collect();
            for node in nodes {
                self.recheck(node, reach);
            }
        }
    }

    /// Books what has become of an inode that somebody may have changed below the mount. Returns whether that could
    /// be done: not without an entry, because then it is not known what is booked for it.
    pub(in crate::fs) fn recheck(&self, node: u64, reach: Reach<'_>) -> bool {
        self.find(node).is_some_and(|charge| self.look_again(node, &charge, reach))
    }

    pub(super) fn look_again(&self, node: u64, charge: &Charge, reach: Reach<'_>) -> bool {
        let mut state = charge.state.lock();
        if state.is_gone {
            return true;
        }
        let stat = match reach(node, state.handle) {
            Ok(Some(stat)) => stat,
            // Deleted meanwhile: who deleted it has booked that.
            Ok(None) => return true,
            Err(errno) => {
                tracing::debug!(ino = node, %errno, "a changed file cannot be looked at; later");
                return false;
            }
        };
        let Some(booked) = state.bytes else { return true };
        let bytes = self.accounting.charge(&stat);
        state.inferred = 0;
        if bytes != booked {
            let _pending = self.pending();
            let recount = self.recount.load();
            let counted = recount.as_ref().map(|recount| recount.lock(node));
            self.account.settle(signed(bytes) - signed(booked), 0);
            if let Some(mut counted) = counted {
                counted.set(node, bytes, 1);
            }
            state.bytes = Some(bytes);
            state.size = stat.stx_size;
            state.is_plain = false;
            let dense_end = if self.accounting == Accounting::Logical { stat.stx_size } else { 0 };
            charge.dense_end.store(dense_end, Ordering::Release);
        }
        true
    }
}
