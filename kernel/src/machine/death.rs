//! The death of a task.
//!
//! It leaves the table before anything else happens: from then on nobody finds it, so none of what
//! follows is told to it, and nothing that it had can be used. Then, in this order: what it waited
//! for is withdrawn, its connections end, those who watch it are told, and its capabilities vanish,
//! whereby an endpoint can lose its receiver, the last who could receive or send, and itself. Whoever
//! had much is buried in portions (`work`); whoever looks at what is left of it meanwhile, an
//! endpoint that it served, a connection, a ticket, sees that it is dead.

use super::Machine;
use super::endpoint::Wait;
use super::space::Cell;
use super::tree::NodeId;
use super::work::Work;
use crate::effect::{Effect, Side};
use rendez_protocol::kernel::Fate;
use rendez_protocol::{ConnectionId, TaskId, Why};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// What is left of a dead task.
#[derive(Debug)]
pub(super) struct Remains {
    /// Connects that wait.
    waits: Vec<Wait>,
    /// Its ends of connections.
    pub(super) connections: BTreeMap<u32, (ConnectionId, Side)>,
    watchers: BTreeSet<NodeId>,
    /// Its capabilities, oldest first, so that what was derived from many of them in turn is hung
    /// over once.
    pub(super) held: BinaryHeap<Reverse<(u64, NodeId)>>,
}

impl Machine {
    /// A task is dead, and with it the embryos that it made.
    pub(super) fn bury(&mut self, who: TaskId) {
        self.bury_within(who, who, self.tree.handled);
    }

    /// The same, in the portion that was begun when so many nodes had been handled; what does not fit
    /// is put off, by whose doing it is.
    fn bury_within(&mut self, who: TaskId, by: TaskId, begun: u64) {
        let Some(task) = self.tasks.remove(who) else { return };
        let (draws, returned) = (task.draws, task.returned());
        if let Some(parent) = task.parent.and_then(|parent| self.tasks.get_mut(parent)) {
            parent.children.remove(&who);
        }
        let mut waits = Vec::new();
        for (transaction, wait) in task.waits {
            match wait {
                Wait::Connect(..) => waits.push(wait),
                Wait::Revocation(id) => self.forget_caller(who, transaction, id),
                // What waits for a connection ends with it.
                Wait::Mapped(_) | Wait::Arena(..) => {}
            }
        }
        for id in task.acknowledges.into_keys() {
            self.acknowledged(who, id);
        }
        let held = task.space.iter().filter_map(|(_, cell)| match cell {
            Cell::Held(id) => Some(Reverse((self.tree.age(*id), *id))),
            Cell::Reserved => None,
        });
        let (connections, watchers) = (task.connections, task.watchers);
        let remains = Remains { waits, connections, watchers, held: held.collect() };
        self.remains.insert(who, remains);
        if !self.bury_more(who, begun) {
            self.works.put(by, Work::Death(who));
        }
        self.accounts.leave(&draws, returned);
        self.effects.push(Effect::ForgetTask(who));
        // An embryo has made nothing, so this goes no deeper.
        for child in task.children {
            if self.tasks.get(child).is_some_and(|child| child.is_embryo()) {
                self.bury_within(child, by, begun);
            }
        }
    }

    /// Ends a portion of what a dead task had. True when nothing is left.
    pub(super) fn bury_some(&mut self, who: TaskId) -> bool {
        self.bury_more(who, self.tree.handled)
    }

    fn bury_more(&mut self, who: TaskId, begun: u64) -> bool {
        // Whoever watches is told, and is no node that goes.
        let mut told: usize = 0;
        loop {
            let Some(remains) = self.remains.get(&who) else { return true };
            let connection = remains.connections.values().next().map(|(connection, _)| *connection);
            let cost = match (remains.waits.is_empty(), connection, remains.held.peek()) {
                (true, Some(connection), _) => self.cost_of_ending(connection),
                (true, None, Some(Reverse((_, id)))) if remains.watchers.is_empty() => {
                    self.tree.cost_of_removing(*id)
                }
                _ => 1,
            };
            if self.spent(begun, cost) || told >= self.portion {
                break;
            }
            let Some(remains) = self.remains.get_mut(&who) else { return true };
            if let Some(wait) = remains.waits.pop() {
                self.withdraw(wait);
            } else if let Some(connection) = connection {
                if !self.void_one(connection) {
                    if let Some(remains) = self.remains.get_mut(&who) {
                        remains.connections.pop_first();
                    }
                    self.end(connection, Why::Dead, None);
                }
            } else if let Some(watcher) = remains.watchers.pop_first() {
                told = told.saturating_add(1);
                self.tell_watcher(watcher, Fate::Died { generation: 0 });
            } else if let Some(Reverse((_, id))) = remains.held.pop() {
                self.remove(id);
            } else {
                self.remains.remove(&who);
                return true;
            }
        }
        let nothing = self.remains.get(&who).is_none_or(|remains| {
            remains.waits.is_empty()
                && remains.connections.is_empty()
                && remains.watchers.is_empty()
                && remains.held.is_empty()
        });
        if nothing {
            self.remains.remove(&who);
        }
        nothing
    }
}
