//! Looking at tasks: the list of all, and what one of them has.
//!
//! INSPECT on the kernel's own task lets one look at every task, INSPECT on a task at that one. All
//! answers come in pages, each bounded, so that thousands of tasks, or of capabilities, are no
//! obstacle; the cursor is a place in a table, so what comes and goes between two pages does not make
//! anything else be told twice or left out.

use super::space::Cell;
use super::tree::Object;
use super::{Machine, Reply};
use crate::effect::{Effect, Side};
use rendez_protocol::kernel::{Answer, EndInfo, KernelError, ObjectKind, TaskInfo};
use rendez_protocol::{Rights, Slot, TaskId};

/// Entries of a page.
const PAGE: usize = 256;

impl Machine {
    /// Says everything about tasks but the kernel's own, from a place in their table on. Needs INSPECT
    /// on the kernel's own task.
    pub(super) fn list(&mut self, who: TaskId, transaction: u64, slot: Slot, from: u32) -> Reply {
        self.kernel_capability(who, slot, Rights::INSPECT)?;
        let (tasks, next) = page(self.tasks.iter_from(from.max(1)).map(|(id, task)| {
            let info = TaskInfo {
                id,
                name: task.name.as_ref().into(),
                credentials: task.credentials,
                parent: task.parent,
                capabilities: task.capabilities.shown(),
                client_connections: task.client_connections.shown(),
                server_connections: task.server_connections.shown(),
                tightest: self.tightest(task),
                waits: Vec::new(),
            };
            (id.index, info)
        }));
        self.effects.push(Effect::Tasks { to: who, transaction, tasks, next });
        Ok(None)
    }

    /// Every quota of a task.
    pub(super) fn quotas_of(&mut self, who: TaskId, slot: Slot, task: TaskId) -> Reply {
        self.inspectable(who, slot, task)?;
        Ok(Some(Answer::Quotas(self.uses(task))))
    }

    /// The capabilities in a task's space.
    pub(super) fn held(&mut self, who: TaskId, slot: Slot, task: TaskId, from: u32) -> Reply {
        self.inspectable(who, slot, task)?;
        let Some(of) = self.tasks.get(task) else { return Ok(None) };
        let all = of.space.iter_from(from).filter_map(|(slot, cell)| match cell {
            Cell::Held(id) => Some((slot.index, self.received(*id)?)),
            Cell::Reserved => None,
        });
        let (capabilities, next) = page(all);
        Ok(Some(Answer::Held { capabilities, next }))
    }

    /// A task's ends of connections.
    pub(super) fn ends_of(&mut self, who: TaskId, slot: Slot, task: TaskId, from: u32) -> Reply {
        self.inspectable(who, slot, task)?;
        let Some(of) = self.tasks.get(task) else { return Ok(None) };
        let all = of.connections.range(from..).filter_map(|(index, (id, side))| {
            let connection = self.connections.get(*id)?;
            let met = connection.sides().contains(&side.other());
            let other = met.then(|| connection.end(side.other()).task);
            let powers = self.tree.get(connection.client.node).map(|node| node.powers);
            let arenas = connection.arenas.values().map(|arena| arena.bytes());
            let info = EndInfo {
                connection: *id,
                serves: *side == Side::Server,
                other,
                name: other.and_then(|other| self.name(other)).unwrap_or_default().into(),
                object: connection.endpoint,
                rights: powers.map_or(Rights::empty(), |powers| powers.rights),
                badge: powers.map_or(0, |powers| powers.badge),
                bytes: arenas.fold(connection.bytes(), u64::saturating_add),
            };
            Some((*index, info))
        });
        let (ends, next) = page(all);
        Ok(Some(Answer::Ends { ends, next }))
    }

    /// Whether the capability in `slot` lets one look at this task, which lives.
    fn inspectable(&self, who: TaskId, slot: Slot, task: TaskId) -> Result<(), KernelError> {
        let (_, node) = self.capability_to(who, slot, ObjectKind::Task, Rights::INSPECT)?;
        let of = match node.object {
            Object::Task { task, .. } => task,
            _ => return Err(KernelError::BadSlot(slot)),
        };
        if of != TaskId::KERNEL && of != task {
            return Err(KernelError::Denied(format!(
                "{slot} holds a capability to {of}; to look at {task} takes one to that, or to the \
                 kernel's own task"
            )));
        }
        if !self.tasks.contains(task) {
            return Err(KernelError::Order(format!("{task} is dead")));
        }
        Ok(())
    }
}

/// A page, and where the next one begins.
fn page<T>(all: impl Iterator<Item = (u32, T)>) -> (Vec<T>, Option<u32>) {
    let mut page = Vec::new();
    for (place, entry) in all {
        if page.len() == PAGE {
            return (page, Some(place));
        }
        page.push(entry);
    }
    (page, None)
}
