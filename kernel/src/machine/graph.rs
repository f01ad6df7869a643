//! What there is to be seen of the whole system, a page at a time: who waits on which connection,
//! who holds which capability, who serves which endpoint.
//!
//! Pages are cut by number, not remembered: whoever turns them sees what is there at that moment.

use super::space::Cell;
use super::tree::Object;
use super::{Machine, Reply};
use crate::effect::{Effect, Side};
use crate::waits::WaitId;
use rendez_protocol::kernel::{Answer, KernelError};
use rendez_protocol::waits::{EndpointInfo, Held};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId};
use std::collections::BTreeSet;

/// Tasks whose waits are told in one answer: with all that one can say it fits into a frame.
pub(crate) const TASKS_PER_PAGE: usize = 8;
/// Capabilities that are told of in one answer.
const CAPABILITIES_PER_PAGE: usize = 512;
/// Endpoints that are told of in one answer.
const ENDPOINTS_PER_PAGE: usize = 256;

impl Machine {
    /// The connection whose word in `task`'s status segment has index `status_index`, which end of it
    /// is the task's, and the task at the other end. `None` if nothing has that index now.
    #[must_use]
    pub fn connection_at(
        &self,
        task: TaskId,
        status_index: u32,
    ) -> Option<(ConnectionId, Side, TaskId)> {
        let (id, side) = *self.tasks.get(task)?.connections.get(&status_index)?;
        Some((id, side, self.connections.get(id)?.end(side.other()).task))
    }

    /// The index of a connection's word in its client's status segment.
    #[must_use]
    pub fn client_index(&self, connection: ConnectionId) -> Option<u32> {
        self.connections.get(connection).map(|connection| connection.client.index)
    }

    /// Those of `tasks` whom `who` may WATCH: itself, and those that a capability with that right
    /// names, or that serve an endpoint which one names.
    #[must_use]
    pub fn may_watch(&self, who: TaskId, tasks: &BTreeSet<TaskId>) -> BTreeSet<TaskId> {
        let watched = self.tasks.get(who).into_iter().flat_map(|task| task.space.iter());
        let watched = watched.filter_map(|(_, cell)| {
            let Cell::Held(id) = cell else { return None };
            let node = self.tree.get(*id)?;
            if !node.powers.rights.contains(Rights::WATCH) || self.tree.is_doomed(*id) {
                return None;
            }
            match node.object {
                Object::Task { task, .. } => Some(task),
                Object::Endpoint(endpoint) => {
                    self.endpoints.get(&endpoint)?.receiver.as_ref().map(|it| it.task)
                }
                _ => None,
            }
        });
        watched.chain([who]).filter(|task| tasks.contains(task)).collect()
    }

    /// Has the shell look whether a wait of `who`'s is one of a circle.
    pub(super) fn look_for_circle(
        &mut self,
        who: TaskId,
        transaction: u64,
        connection: ConnectionId,
        wait: u64,
    ) -> Reply {
        let client = self.connections.get(connection).map(|it| it.client.task);
        if client != Some(who) {
            return Err(KernelError::BadConnection(connection));
        }
        let wait = WaitId { task: who, connection, transaction: wait };
        self.effects.push(Effect::LookForCircle { transaction, wait });
        Ok(None)
    }

    /// Has the shell say what tasks say of their threads. Needs INSPECT on the kernel's own task.
    pub(super) fn waits(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        after: Option<TaskId>,
    ) -> Reply {
        self.kernel_capability(who, slot, Rights::INSPECT)?;
        let from = after.map_or(0, |task| task.index.saturating_add(1));
        let (tasks, more) = page(
            self.tasks.iter_from(from).map(|(id, _)| id).filter(|id| *id != TaskId::KERNEL),
            TASKS_PER_PAGE,
        );
        self.effects.push(Effect::Waits { to: who, transaction, tasks, more });
        Ok(None)
    }

    /// Says who holds what. Needs INSPECT on the kernel's own task.
    pub(super) fn capabilities(
        &mut self,
        who: TaskId,
        slot: Slot,
        after: Option<(TaskId, Slot)>,
    ) -> Reply {
        self.kernel_capability(who, slot, Rights::INSPECT)?;
        let from = after.map_or(0, |(task, _)| task.index);
        let machine = &*self;
        let held = machine.tasks.iter_from(from).flat_map(|(holder, task)| {
            // Of another use of the same place: from the beginning.
            let slots = match after {
                Some((task, slot)) if task == holder => slot.index.saturating_add(1),
                _ => 0,
            };
            task.space.iter_from(slots).filter_map(move |(_, cell)| {
                let Cell::Held(node) = cell else { return None };
                let task = match machine.tree.get(*node)?.object {
                    Object::Task { task, .. } => Some(task),
                    _ => None,
                };
                Some(Held { holder, capability: machine.received(*node)?, task })
            })
        });
        let (held, more) = page(held, CAPABILITIES_PER_PAGE);
        Ok(Some(Answer::Capabilities { held, more }))
    }

    /// Says which endpoints there are. Needs INSPECT on the kernel's own task.
    pub(super) fn list_endpoints(
        &mut self,
        who: TaskId,
        slot: Slot,
        after: Option<ObjectId>,
    ) -> Reply {
        self.kernel_capability(who, slot, Rights::INSPECT)?;
        let from = ObjectId(after.map_or(0, |endpoint| endpoint.0.saturating_add(1)));
        let all = self.endpoints.range(from..).map(|(id, endpoint)| {
            let receiver = endpoint.receiver.as_ref();
            EndpointInfo {
                endpoint: *id,
                server: receiver.map(|receiver| receiver.task),
                generation: endpoint.generation,
                interface: receiver.and_then(|it| it.interface.as_ref()).map(ToString::to_string),
                connects: u32::try_from(endpoint.parked.len()).unwrap_or(u32::MAX),
            }
        });
        let (endpoints, more) = page(all, ENDPOINTS_PER_PAGE);
        Ok(Some(Answer::Endpoints { endpoints, more }))
    }
}

/// The first `most` of `all`, and whether there are more.
fn page<T>(mut all: impl Iterator<Item = T>, most: usize) -> (Vec<T>, bool) {
    let page: Vec<T> = all.by_ref().take(most).collect();
    let more = all.next().is_some();
    (page, more)
}
