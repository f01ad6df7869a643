//! What takes long is done in portions, between two requests of others.
//!
//! Whatever a task can make large by patience, the descendants of a capability, its own space, is
//! not gone through in one request: the request does the first [`PORTION`] nodes, and what remains
//! is put off. The shell has the machine do another portion after each task's turn, so nobody waits
//! for more than one. Those by whose doing there is something to do take turns, so that one who has
//! put off much delays the others' by one portion each.

#![expect(dead_code, reason = "nothing is put off yet")]

use super::Machine;
use rendez_protocol::TaskId;
use std::collections::VecDeque;

/// Nodes that are handled at most between two requests.
pub(super) const PORTION: usize = 64;

/// Something that was put off.
#[derive(Debug)]
pub(super) enum Work {
    /// What this revocation takes.
    Revocation(u64),
}

/// All that was put off. In turn, whose doing it is, each with what there is, in order.
#[derive(Debug, Default)]
pub(super) struct Works {
    turns: VecDeque<(TaskId, VecDeque<Work>)>,
}

impl Works {
    /// Whether nothing was put off.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Puts something off.
    pub(super) fn put(&mut self, by: TaskId, work: Work) {
        match self.turns.iter_mut().find(|(who, _)| *who == by) {
            Some((_, works)) => works.push_back(work),
            None => self.turns.push_back((by, VecDeque::from([work]))),
        }
    }

    /// What is to be done now, and by whose doing; whoever it is comes last from now on.
    fn take(&mut self) -> Option<(TaskId, Work)> {
        let (who, mut works) = self.turns.pop_front()?;
        let work = works.pop_front()?;
        if !works.is_empty() {
            self.turns.push_back((who, works));
        }
        Some((who, work))
    }
}

impl Machine {
    /// Does one portion.
    pub(super) fn work(&mut self) {
        match self.works.take() {
            Some((_, Work::Revocation(_))) | None => {}
        }
    }

    /// The time for acknowledging a revocation is over.
    pub(super) fn grace_over(&mut self, _revocation: u64) {}
}
