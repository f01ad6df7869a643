//! What becomes of what a task had.

use super::grants::Holder;
use super::{Reference, of_task};
use crate::effect::{Effect, Side};
use crate::machine::tree::Object;
use rendez_protocol::kernel::Fate;
use rendez_protocol::{ConnectionId, TaskId, Why};

impl Reference {
    /// A task dies, and with it those whom it made and who have not begun.
    pub(super) fn die(&mut self, who: TaskId) {
        if who == TaskId::KERNEL || self.tasks.take(of_task(who)).is_none() {
            return;
        }
        self.revocations_without(who);
        // Nobody hears anything of this.
        let waiting: Vec<_> = self
            .endpoints
            .iter()
            .flat_map(|endpoint| endpoint.parked.iter().map(|it| (endpoint.id, it.clone())))
            .filter(|(_, it)| it.client == who)
            .collect();
        for (endpoint, parked) in waiting {
            self.unpark(endpoint, parked.number);
        }
        let mut ends: Vec<(u32, ConnectionId)> = Vec::new();
        for ((index, generation), connection) in self.connections.iter() {
            let id = ConnectionId { index, generation };
            for side in [Side::Client, Side::Server] {
                if connection.end(side).task == who {
                    ends.push((connection.end(side).index, id));
                }
            }
        }
        ends.sort_unstable();
        for (_, connection) in ends {
            self.void_all(connection);
            self.end(connection, Why::Dead, None);
        }
        let watchers: Vec<u64> = self
            .live()
            .filter(|it| {
                it.watches && matches!(it.object, Object::Task { task, .. } if task == who)
            })
            .map(|it| it.number)
            .collect();
        for watcher in watchers {
            self.tell_watcher(watcher, Fate::Died { generation: 0 });
        }
        let mut held: Vec<u64> = self
            .live()
            .filter(|it| matches!(it.holder, Holder::Slot(task, _) if task == who))
            .map(|it| it.number)
            .collect();
        held.sort_unstable();
        for number in held {
            self.remove(number);
        }
        self.said.push(Effect::ForgetTask(who));
        let unborn: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, it)| it.parent == Some(who) && !it.is_there)
            .map(|((index, generation), _)| TaskId { index, generation })
            .collect();
        for child in unborn {
            self.die(child);
        }
    }
}
