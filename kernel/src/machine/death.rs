//! The death of a task.
//!
//! It leaves the table before anything else happens: from then on nobody finds it, so none of what
//! follows is told to it. Then, in this order: what it waited for is withdrawn, its connections end,
//! those who watch it are told, and its capabilities vanish, whereby an endpoint can lose its
//! receiver, the last who could receive or send, and itself.

use super::Machine;
use super::endpoint::Wait;
use super::space::Cell;
use super::tree::NodeId;
use crate::effect::Effect;
use rendez_protocol::kernel::Fate;
use rendez_protocol::{TaskId, Why};

impl Machine {
    /// A task is dead, and with it the embryos that it made.
    pub(super) fn bury(&mut self, who: TaskId) {
        let Some(task) = self.tasks.remove(who) else { return };
        if let Some(parent) = task.parent.and_then(|parent| self.tasks.get_mut(parent)) {
            parent.children.remove(&who);
        }
        for wait in task.waits.into_values() {
            // What waits for a connection ends with it, below.
            if let Wait::Connect(..) = wait {
                self.withdraw(wait);
            }
        }
        for (connection, _) in task.connections.into_values() {
            self.end(connection, Why::Dead, None);
        }
        for watcher in task.watchers {
            self.tell_watcher(watcher, Fate::Died { generation: 0 });
        }
        let mut held: Vec<NodeId> = task
            .space
            .iter()
            .filter_map(|(_, cell)| match cell {
                Cell::Held(id) => Some(*id),
                Cell::Reserved => None,
            })
            .collect();
        // Oldest first, so that what was derived from many of them in turn is hung over once.
        held.sort_by_key(|id| self.tree.age(*id));
        for id in held {
            self.remove(id);
        }
        self.effects.push(Effect::ForgetTask(who));
        // An embryo has made nothing, so this goes no deeper.
        for child in task.children {
            if self.tasks.get(child).is_some_and(|child| child.is_embryo()) {
                self.bury(child);
            }
        }
    }
}
