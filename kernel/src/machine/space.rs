//! Capability spaces, and what can be done to a capability.
//!
//! A slot is a place and a generation in its task's own table, so a slot number says nothing to
//! anybody else and a stale one is refused. A capability that was moved into escrow keeps its slot
//! reserved, so that it can come back to where it was.

use super::tree::{Holder, Node, NodeId, Object, Powers, Wish};
use super::{Machine, Reply};
use rendez_protocol::kernel::{Answer, Capability, KernelError, ObjectKind, Received};
use rendez_protocol::{Rights, Slot, TaskId};
use std::collections::BTreeSet;

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
        Ok(Some(Answer::Slot(self.place(who, Some(parent), node.object, powers)?)))
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

    /// Deletes what is derived from a capability, and severs the connections made with that.
    pub(super) fn revoke(&mut self, who: TaskId, slot: Slot) -> Reply {
        let (top, _) = self.capability(who, slot)?;
        let mut capabilities: u32 = 0;
        let mut connections = BTreeSet::new();
        let doomed = self.tree.revocable(top);
        // Who loses the capability to watch hears nothing of what else goes now.
        for id in &doomed {
            if let Some(node) = self.tree.get(*id).copied() {
                self.forget_watch(*id, &node);
            }
        }
        // Children first: nothing is hung over only to go too.
        for id in doomed.into_iter().rev() {
            match self.tree.get(id).map(|node| node.holder) {
                Some(Holder::End(connection, _)) => _ = connections.insert(connection),
                Some(holder) if holder.is_capability() => {
                    capabilities = capabilities.saturating_add(1);
                }
                _ => {}
            }
            self.remove(id);
        }
        let connections = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Ok(Some(Answer::Revoked { capabilities, connections }))
    }

    /// Looks at a capability.
    pub(super) fn inspect(&mut self, who: TaskId, slot: Slot) -> Reply {
        let (id, _) = self.capability(who, slot)?;
        Ok(self.received(id).map(|itself| {
            Answer::Inspected(Capability {
                itself,
                descendants: self.tree.descendants(id),
                depth: self.tree.depth(id),
            })
        }))
    }

    /// The capability in a task's slot.
    pub(super) fn capability(
        &self,
        who: TaskId,
        slot: Slot,
    ) -> Result<(NodeId, Node), KernelError> {
        let cell = self.tasks.get(who).and_then(|task| task.space.get(slot));
        match cell {
            Some(Cell::Held(id)) => self.tree.get(*id).map(|node| (*id, *node)),
            Some(Cell::Reserved) | None => None,
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
        self.tasks.get(who).map_or(Ok(()), |task| {
            task.capabilities.admits(
                more as u64,
                self.quotas.capabilities,
                "capabilities of a task",
            )
        })
    }

    /// Puts a new capability into a new slot.
    pub(super) fn place(
        &mut self,
        who: TaskId,
        parent: Option<NodeId>,
        object: Object,
        powers: Powers,
    ) -> Result<Received, KernelError> {
        self.space_for(who, 1)?;
        let Some(task) = self.tasks.get_mut(who) else {
            return Err(KernelError::Order(format!("{who} is dead")));
        };
        task.capabilities.add(1);
        let slot = task.space.insert(Cell::Reserved);
        let id = self.plant(parent, object, powers, Holder::Slot(who, slot));
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
    ) -> NodeId {
        match object {
            Object::Endpoint(id) | Object::Notification(id) => self.count_in(id, powers.rights),
            Object::Region(region) => self.region_in(region),
            Object::Task { .. } => {}
        }
        self.tree.insert(parent, Node { object, powers, holder, watches: false })
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
        let Some(node) = self.tree.remove(id) else { return };
        match node.holder {
            Holder::Slot(task, slot) => self.free_slot(task, slot),
            Holder::Ticket(ticket) => self.void(ticket),
            Holder::FrontDoor => self.front_door.forget(id),
            Holder::Parked(endpoint, number) => self.refuse_parked(endpoint, number),
            Holder::End(connection, _) => self.sever(connection),
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
