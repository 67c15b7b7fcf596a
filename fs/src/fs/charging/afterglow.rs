//! Looking again: at what was written back, at what was closed a while ago, at what others may have changed.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{AFTERGLOW, Charge, Charging, ECHO, MAX_GLOWING, Reach, TRIMMED_WITHIN, signed};
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

    /// Looks once more at inodes that were changed and closed a while ago, and lets go of them.
    pub(in crate::fs) fn cool(&self, now: Instant, reach: Reach<'_>) {
        let mut closed: Vec<(Instant, u64)> = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|node, charge| {
                if Arc::strong_count(charge) > 1 {
                    return true;
                }
                let state = charge.state.lock();
                let Some(changed) = state.changed else { return false };
                // Space is held for a mapping of it.
                if state.mappers == 0 {
                    closed.push((changed, *node));
                }
                true
            });
        }
        closed.sort_unstable();
        let surplus = closed.len().saturating_sub(MAX_GLOWING);
        for (position, (changed, node)) in closed.into_iter().enumerate() {
            let Some(charge) = self.find(node) else { continue };
            let age = now.saturating_duration_since(changed);
            let glows = charge.glows.load(Ordering::Relaxed);
            let is_trimmed = self.accounting == Accounting::AllocatedToSize && charge.may_be_trimmed();
            let is_due = age
                >= match glows {
                    true if is_trimmed => TRIMMED_WITHIN,
                    true => AFTERGLOW,
                    false => ECHO,
                };
            if !is_due && position >= surplus {
                continue;
            }
            if glows && !self.look_again(node, &charge, reach) {
                continue;
            }
            let mut shard = self.shard(node).lock();
            // The table and this function hold it; nobody else can come while the shard is locked.
            if Arc::strong_count(&charge) == 2 {
                shard.remove(&node);
            }
        }
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
            let dense_end = if self.accounting == Accounting::Logical { stat.stx_size } else { 0 };
            charge.dense_end.store(dense_end, Ordering::Release);
        }
        true
    }
}
