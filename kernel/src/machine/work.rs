//! What takes long is done in portions, between two requests of others.
//!
//! Whatever a task can make large by patience, the descendants of a capability, its own space, is
//! not gone through in one request: the request does the first [`PORTION`] nodes, and what remains
//! is put off. The shell has the machine do another portion after each task's turn. So between two
//! requests of others there are at most [`BETWEEN`] nodes: those of a request, and those of a portion.
//! Those by whose doing there is something to do take turns, so that one who has put off much delays
//! the others' by one portion each.

use super::Machine;
use super::tree::NodeId;
use rendez_protocol::{ConnectionId, TaskId, Ticket, limit};
use std::collections::VecDeque;

/// Nodes that are handled at most between two requests.
const BETWEEN: usize = 64;
/// Nodes that are handled at most in one portion, or by a request.
///
/// So few that one costs less than a request whose task and the kernel share a processor (tried: with
/// 48 the 99th percentile of such requests is 2.5 times what it is at rest, with 32 it is 2.1 times).
pub(super) const PORTION: usize = 24;
const _: () = assert!(2 * PORTION <= BETWEEN && MOST_AT_ONCE <= PORTION);
/// What voiding a ticket may come to, or removing a node that others hang below.
const MOST_AT_ONCE: usize = limit::TICKET_CAPABILITIES_MAX + 1;

/// Something that was put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Reaping what this revocation takes.
    Revocation(u64),
    /// Ending what a dead task had.
    Death(TaskId),
    /// Hanging over what is below a node that is gone.
    Dissolve(NodeId),
}

/// All that was put off. In turn, by whose doing, each with what there is, in order.
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
        let Some((by, work)) = self.works.take() else { return };
        let done = match work {
            Work::Revocation(id) => self.reap(id),
            Work::Death(who) => self.bury_some(who),
            Work::Dissolve(id) => self.tree.hang_over(id, self.portion),
        };
        if !done {
            self.works.put(by, work);
        }
    }

    /// Whether the portion that was begun when so many nodes had been handled might be exceeded by
    /// what handles so many more. The first of a portion is always done.
    pub(super) fn spent(&self, begun: u64, more: usize) -> bool {
        let handled = usize::try_from(self.tree.handled.wrapping_sub(begun)).unwrap_or(usize::MAX);
        handled > 0 && handled.saturating_add(more) > self.portion
    }

    /// How many nodes ending a connection handles at most; of one that has tickets, ending the first.
    pub(super) fn cost_of_ending(&self, connection: ConnectionId) -> usize {
        let first = self.connections.get(connection).and_then(|of| of.tickets.first());
        first.map_or(2, |ticket| self.cost_of_voiding(*ticket))
    }

    /// How many nodes voiding a ticket handles at most.
    pub(super) fn cost_of_voiding(&self, ticket: Ticket) -> usize {
        self.escrow.get(&ticket).map_or(1, |escrow| escrow.items.len())
    }

    /// Has what is below a node that is gone hung over, if there is anything.
    pub(super) fn dissolve(&mut self, by: Option<TaskId>, id: NodeId) {
        if !self.tree.hang_over(id, 0) {
            self.works.put(by.unwrap_or(TaskId::KERNEL), Work::Dissolve(id));
        }
    }
}
