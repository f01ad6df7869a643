//! Capability spaces, and what can be done to a capability.
//!
//! A slot is a place and a generation in its task's own table, so a slot number says nothing to
//! anybody else and a stale one is refused. A capability that was moved into escrow keeps its slot
//! reserved, so that it can come back to where it was.

use super::tree::{Holder, Node, NodeId, Object, Origin, Powers, Removed, Step, Wish};
use super::work::Work;
use super::{Machine, Reply};
use rendez_protocol::kernel::{
    Answer, Capability, How, KernelError, ObjectKind, Provenance, Received,
};
use rendez_protocol::quota::Quota;
use rendez_protocol::{Rights, Slot, TaskId, limit};
use std::sync::Arc;

/// What lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// A capability.
    Held(NodeId),
    /// The place of one that was moved and has not been accepted, or is not there yet.
    Reserved,
}

impl Machine {
    /// Derives a capability. Needs MINT.
    pub(super) fn mint(&mut self, who: TaskId, slot: Slot, wish: Wish) -> Reply {
        let (parent, node) = self.capability(who, slot)?;
        needs(slot, &node, Rights::MINT | wish.rights)?;
        let powers = derived(slot, &node, wish)?;
        self.tree.admits_below(parent)?;
        let minted = self.place(who, Some(parent), node.object, powers, How::Minted)?;
        Ok(Some(Answer::Slot(minted)))
    }

    /// Moves a capability to a new slot.
    pub(super) fn relocate(&mut self, who: TaskId, slot: Slot) -> Reply {
        let (id, _) = self.capability(who, slot)?;
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        task.space.remove(slot);
        let slot = task.space.insert(Cell::Held(id));
        self.set_holder(id, Holder::Slot(who, slot));
        Ok(self.received(id).map(Answer::Slot))
    }

    /// Lets go of a capability.
    pub(super) fn delete(&mut self, who: TaskId, slot: Slot) -> Reply {
        let (id, _) = self.capability(who, slot)?;
        self.remove(id);
        Ok(Some(Answer::Done))
    }

    /// Looks at a capability.
    pub(super) fn inspect(&mut self, who: TaskId, slot: Slot) -> Reply {
        let (id, _) = self.capability(who, slot)?;
        Ok(self.received(id).map(|itself| {
            Answer::Inspected(Capability {
                itself,
                descendants: self.tree.descendants(id),
                depth: self.tree.depth(id),
                senders: self.senders(id),
            })
        }))
    }

    /// Says where a capability came from. Needs INSPECT on it; of somebody else's, on the kernel's
    /// own task.
    pub(super) fn provenance(
        &mut self,
        who: TaskId,
        slot: Slot,
        of: Option<(TaskId, Slot)>,
    ) -> Reply {
        let id = match of {
            None => {
                let (id, node) = self.capability(who, slot)?;
                needs(slot, &node, Rights::INSPECT)?;
                id
            }
            Some((whose, theirs)) => {
                self.kernel_capability(who, slot, Rights::INSPECT)?;
                self.capability(whose, theirs)?.0
            }
        };
        let (steps, omitted) = self.tree.provenance(id, limit::PROVENANCE_STEPS_MAX);
        let told = |Step { origin: Origin { task, name, how }, powers }: Step| {
            let (rights, badge) = (powers.rights, powers.badge);
            rendez_protocol::kernel::Step { task, name: name.as_ref().into(), how, rights, badge }
        };
        let steps = steps.into_iter().map(told).collect();
        Ok(Some(Answer::Provenance(Provenance { steps, omitted })))
    }

    /// That a task has something, and how it came to it.
    pub(super) fn origin(&self, task: TaskId, how: How) -> Origin {
        let name = self.tasks.get(task).map_or_else(|| "?".into(), |of| Arc::clone(&of.name));
        Origin { task, name, how }
    }

    /// The capability in a task's slot.
    pub(super) fn capability(
        &self,
        who: TaskId,
        slot: Slot,
    ) -> Result<(NodeId, Node), KernelError> {
        let cell = self.tasks.get(who).and_then(|task| task.space.get(slot));
        match cell {
            Some(Cell::Held(id)) if !self.tree.is_doomed(*id) => {
                self.tree.get(*id).map(|node| (*id, *node))
            }
            Some(_) | None => None,
        }
        .ok_or(KernelError::BadSlot(slot))
    }

    /// The capability in a task's slot, which must name such an object and have these rights.
    pub(super) fn capability_to(
        &self,
        who: TaskId,
        slot: Slot,
        wanted: ObjectKind,
        rights: Rights,
    ) -> Result<(NodeId, Node), KernelError> {
        let (id, node) = self.capability(who, slot)?;
        let found = node.object.kind();
        if found != wanted {
            return Err(KernelError::WrongObject { slot, wanted, found });
        }
        needs(slot, &node, rights)?;
        Ok((id, node))
    }

    /// A capability that may leave its owner's space, with fewer powers or another badge: the
    /// node, and the powers that go out. Needs GRANT, and MINT if anything changes.
    pub(super) fn passable(
        &self,
        who: TaskId,
        slot: Slot,
        wish: Wish,
    ) -> Result<(NodeId, Powers), KernelError> {
        let (id, node) = self.capability(who, slot)?;
        needs(slot, &node, Rights::GRANT | wish.rights)?;
        let powers = derived(slot, &node, wish)?;
        if powers != node.powers {
            needs(slot, &node, Rights::MINT)?;
        }
        Ok((id, powers))
    }

    /// Whether `more` capabilities fit into a task's quota.
    pub(super) fn space_for(&self, who: TaskId, more: usize) -> Result<(), KernelError> {
        let Some(task) = self.tasks.get(who) else { return Ok(()) };
        let (count, limit) = (task.capabilities, self.quotas.capabilities);
        count.admits(more as u64, limit, "capabilities of a task")?;
        self.room(who, Quota::Capabilities, more as u64)
    }

    /// Puts a new capability into a new slot.
    pub(super) fn place(
        &mut self,
        who: TaskId,
        parent: Option<NodeId>,
        object: Object,
        powers: Powers,
        how: How,
    ) -> Result<Received, KernelError> {
        self.space_for(who, 1)?;
        let Some(task) = self.tasks.get_mut(who) else {
            return Err(KernelError::Order(format!("{who} is dead")));
        };
        task.capabilities.add(1);
        self.accounts.spend(&task.draws, Quota::Capabilities, 1);
        let slot = task.space.insert(Cell::Reserved);
        let origin = self.origin(who, how);
        let id = self.plant(parent, object, powers, Holder::Slot(who, slot), origin);
        if let Some(cell) = self.tasks.get_mut(who).and_then(|task| task.space.get_mut(slot)) {
            *cell = Cell::Held(id);
        }
        Ok(received(slot, object, powers))
    }

    /// Makes a capability and counts it at its object. The caller has checked that it may be.
    pub(super) fn plant(
        &mut self,
        parent: Option<NodeId>,
        object: Object,
        powers: Powers,
        holder: Holder,
        origin: Origin,
    ) -> NodeId {
        match object {
            Object::Endpoint(id) | Object::Notification(id) => self.count_in(id, powers.rights),
            Object::Region(region) => self.region_in(region),
            Object::Task { .. } => {}
        }
        self.tree.derive(parent, Node { object, powers, holder, watches: false }, origin)
    }

    /// What its owner is told of a capability, if it lies in a slot.
    pub(super) fn received(&self, id: NodeId) -> Option<Received> {
        let node = self.tree.get(id)?;
        let Holder::Slot(_, slot) = node.holder else { return None };
        Some(received(slot, node.object, node.powers))
    }

    pub(super) fn set_holder(&mut self, id: NodeId, holder: Holder) {
        if let Some(node) = self.tree.get_mut(id) {
            node.holder = holder;
        }
    }

    /// Removes a node, wherever it lies, with all that follows: a slot is empty, a ticket void, a
    /// connect refused, a connection severed, an endpoint without receiver or gone.
    ///
    /// One removal can cause others, but never a chain of them: a severed connection voids its
    /// tickets, and a void ticket removes capabilities with which nothing was made.
    pub(super) fn remove(&mut self, id: NodeId) {
        let Some(Removed { node, stays }) = self.tree.remove(id) else { return };
        if stays {
            let by = match node.holder {
                Holder::Slot(who, _) => who,
                _ => TaskId::KERNEL,
            };
            self.works.put(by, Work::Dissolve(id));
        }
        match node.holder {
            Holder::Slot(task, slot) => self.free_slot(task, slot),
            Holder::Ticket(ticket) => self.void(ticket),
            Holder::FrontDoor => self.front_door.forget(id),
            Holder::Parked(endpoint, number) => self.refuse_parked(endpoint, number),
            Holder::End(connection, _) => self.sever(connection, None),
            Holder::Gone => {}
        }
        if node.holder.is_capability() {
            self.unbind(id, &node);
            match node.object {
                Object::Endpoint(id) | Object::Notification(id) => {
                    self.count_out(id, node.powers.rights);
                }
                Object::Region(region) => self.region_out(region),
                Object::Task { .. } => {}
            }
        }
    }

    /// Ends what a task does by having a capability in its space: watching, and receiving.
    pub(super) fn unbind(&mut self, id: NodeId, node: &Node) {
        self.forget_watch(id, node);
        if let Object::Endpoint(object) | Object::Notification(object) = node.object {
            self.stop_serving_with(object, id);
        }
    }

    pub(super) fn free_slot(&mut self, who: TaskId, slot: Slot) {
        if let Some(task) = self.tasks.get_mut(who)
            && task.space.remove(slot).is_some()
        {
            task.capabilities.sub(1);
            self.repay(who, Quota::Capabilities, 1);
        }
    }
}

/// Whether `node` has all these rights.
pub(super) fn needs(slot: Slot, node: &Node, rights: Rights) -> Result<(), KernelError> {
    let held = node.powers.rights;
    let missing = rights.difference(held);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(KernelError::MissingRights { slot, missing, held })
    }
}

fn received(slot: Slot, object: Object, powers: Powers) -> Received {
    let Powers { rights, badge, bits, priority } = powers;
    Received { slot, kind: object.kind(), object: object.id(), rights, badge, bits, priority }
}

/// The powers of what is derived from `node`, whose rights have been looked at.
fn derived(slot: Slot, node: &Node, wish: Wish) -> Result<Powers, KernelError> {
    let held = node.powers;
    let badge = wish.badge.unwrap_or(held.badge);
    if held.badge != 0 && held.badge != badge {
        return Err(KernelError::Badged { slot, badge: held.badge });
    }
    let bits = wish.limits.bits.unwrap_or(held.bits);
    let missing = bits & !held.bits;
    if missing != 0 {
        return Err(KernelError::Bits { slot, missing, held: held.bits });
    }
    let priority = wish.limits.priority.unwrap_or(held.priority);
    if priority > held.priority {
        return Err(KernelError::Priority { slot, wanted: priority, held: held.priority });
    }
    Ok(Powers { rights: wish.rights, badge, bits, priority })
}
