//! The words of a task's status segment, which the kernel writes and the task sleeps on.
//!
//! Word 0 is the task's own; each end of a connection has one of the others while it lasts.

use rendez_protocol::limit;
use std::collections::VecDeque;

/// The words of a task's status segment that no connection has.
///
/// One that was used is used again as late as possible: the task may still look at it.
#[derive(Debug)]
pub(super) struct Words {
    /// The first of those that were never used.
    pub(super) fresh: u32,
    /// Those that were, longest unused first.
    pub(super) used: VecDeque<u32>,
}

impl Words {
    /// How many words connections can have: word 0 is the task's own.
    pub(super) const ALL: u32 = limit::STATUS_WORDS - 1;

    pub(super) fn new() -> Self {
        Self { fresh: 1, used: VecDeque::new() }
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        (limit::STATUS_WORDS.saturating_sub(self.fresh) as usize).saturating_add(self.used.len())
    }

    /// Takes one; true if it was used before, and so must be set to 0.
    pub(super) fn take(&mut self) -> Option<(u32, bool)> {
        if self.fresh < limit::STATUS_WORDS {
            let index = self.fresh;
            self.fresh = self.fresh.saturating_add(1);
            return Some((index, false));
        }
        self.used.pop_front().map(|index| (index, true))
    }

    /// Gives one back.
    pub(super) fn put(&mut self, index: u32) {
        self.used.push_back(index);
    }
}
