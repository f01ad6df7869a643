//! What can be done to a capability, and what of it a task may have.

use super::grants::{Grant, Holder};
use super::{Reference, Reply, fits, of_slot};
use crate::effect::{Effect, Side};
use crate::machine::tree::{Object, Powers};
use rendez_protocol::kernel::{
    Answer, Capability, Event, How, KernelError, Limits, ObjectKind, Received, Travel,
};
use rendez_protocol::{Rights, Slot, TaskId};

/// Rights, badge, limits that are asked for.
pub(super) type Wish = (Rights, Option<u64>, Limits);

impl Reference {
    pub(super) fn capability(&self, who: TaskId, slot: Slot) -> Result<Grant, KernelError> {
        self.held(Holder::Slot(who, slot)).copied().ok_or(KernelError::BadSlot(slot))
    }

    pub(super) fn capability_to(
        &self,
        who: TaskId,
        slot: Slot,
        wanted: ObjectKind,
        rights: Rights,
    ) -> Result<Grant, KernelError> {
        let grant = self.capability(who, slot)?;
        let found = grant.object.kind();
        if found != wanted {
            return Err(KernelError::WrongObject { slot, wanted, found });
        }
        needs(slot, &grant, rights)?;
        Ok(grant)
    }

    /// A capability to the kernel's own task.
    pub(super) fn kernels(&self, who: TaskId, slot: Slot, rights: Rights) -> Reply {
        let grant = self.capability_to(who, slot, ObjectKind::Task, rights)?;
        match grant.object {
            Object::Task { task: TaskId::KERNEL, .. } => Ok(None),
            _ => Err(KernelError::Denied(String::new())),
        }
    }

    pub(super) fn passable(
        &self,
        who: TaskId,
        slot: Slot,
        wish: Wish,
    ) -> Result<(Grant, Powers), KernelError> {
        let grant = self.capability(who, slot)?;
        needs(slot, &grant, Rights::GRANT | wish.0)?;
        let powers = wished(slot, &grant, wish)?;
        if powers != grant.powers {
            needs(slot, &grant, Rights::MINT)?;
        }
        Ok((grant, powers))
    }

    /// How many capabilities a task has: in its space, and minted for tickets.
    pub(super) fn capabilities(&self, who: TaskId) -> u64 {
        let held = self.task(who).map_or(0, |task| task.space.iter().count());
        let offered = self.escrow.iter().filter(|it| it.offerer == who).flat_map(|it| &it.items);
        (held + offered.filter(|item| item.travel == Travel::Mint).count()) as u64
    }

    pub(super) fn space_for(&self, who: TaskId, more: usize) -> Result<(), KernelError> {
        if self.task(who).is_none() {
            return Ok(());
        }
        let limit = self.quotas.capabilities;
        fits(self.capabilities(who), more as u64, limit, "capabilities of a task")
    }

    pub(super) fn place(
        &mut self,
        who: TaskId,
        parent: Option<u64>,
        object: Object,
        powers: Powers,
        how: How,
    ) -> Result<Received, KernelError> {
        self.space_for(who, 1)?;
        let Some(task) = self.task_mut(who) else {
            return Err(KernelError::Order(String::new()));
        };
        let (index, generation) = task.space.put(());
        let slot = Slot { index, generation };
        let number = self.enter(parent, object, powers, Holder::Slot(who, slot));
        self.came(number, who, how);
        Ok(received(slot, object, powers))
    }

    pub(super) fn mint(&mut self, who: TaskId, slot: Slot, wish: Wish) -> Reply {
        let grant = self.capability(who, slot)?;
        needs(slot, &grant, Rights::MINT | wish.0)?;
        let powers = wished(slot, &grant, wish)?;
        let minted = self.place(who, Some(grant.number), grant.object, powers, How::Minted)?;
        Ok(Some(Answer::Slot(minted)))
    }

    pub(super) fn relocate(&mut self, who: TaskId, slot: Slot) -> Reply {
        let grant = self.capability(who, slot)?;
        let Some(task) = self.task_mut(who) else { return Ok(None) };
        task.space.take(of_slot(slot));
        let (index, generation) = task.space.put(());
        let slot = Slot { index, generation };
        self.lies(grant.number, Holder::Slot(who, slot));
        Ok(Some(Answer::Slot(received(slot, grant.object, grant.powers))))
    }

    pub(super) fn lies(&mut self, number: u64, holder: Holder) {
        if let Some(grant) = self.grant_mut(number) {
            grant.holder = holder;
        }
    }

    pub(super) fn delete(&mut self, who: TaskId, slot: Slot) -> Reply {
        let grant = self.capability(who, slot)?;
        self.remove(grant.number);
        Ok(Some(Answer::Done))
    }

    pub(super) fn inspect(&mut self, who: TaskId, slot: Slot) -> Reply {
        let grant = self.capability(who, slot)?;
        Ok(Some(Answer::Inspected(Capability {
            itself: received(slot, grant.object, grant.powers),
            descendants: self.descendants(grant.number),
            depth: self.depth(grant.number),
            senders: self.senders_seen_with(&grant),
        })))
    }

    /// A grant goes, with all that hangs on it.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(grant) = self.take_out(number) else { return };
        match grant.holder {
            Holder::Slot(who, slot) => self.free_slot(who, slot),
            Holder::Ticket(ticket) => self.void(ticket),
            Holder::Door => {
                for (_, given) in self.door.iter_mut().flatten() {
                    given.retain(|(_, kept)| *kept != number);
                }
            }
            Holder::Parked(endpoint, at) => self.refuse_parked(endpoint, at),
            Holder::End(connection, _) => {
                self.end(connection, rendez_protocol::Why::Revoked, None);
            }
        }
        if grant.is_capability() {
            self.stop_serving_with(&grant);
        }
        self.forget(number);
        if grant.is_capability() {
            self.one_less(&grant);
        }
    }

    /// There is one capability less to an object: it may have been the last of its sort.
    fn one_less(&mut self, grant: &Grant) {
        let id = grant.object.id();
        match grant.object {
            Object::Task { .. } => {}
            Object::Region(_) => {
                if self.with(id, Rights::empty()) == 0 {
                    self.regions.retain(|region| region.id != id);
                    self.said.push(Effect::ForgetRegion(id));
                }
            }
            Object::Endpoint(_) | Object::Notification(_) => {
                let sends = match grant.object {
                    Object::Notification(_) => Rights::POST,
                    _ => Rights::SEND,
                };
                if grant.powers.rights.contains(sends)
                    && self.with(id, sends) == 0
                    && let Some(receiver) = self.receiver(id)
                {
                    let made = self.endpoint(id).map_or(0, |it| it.senders_made);
                    self.tell(receiver, Event::NoSenders { endpoint: id, made }, Vec::new());
                }
                if grant.powers.rights.contains(Rights::RECEIVE)
                    && self.with(id, Rights::RECEIVE) == 0
                {
                    self.nobody_can_receive(id);
                }
                if self.with(id, Rights::empty()) == 0 {
                    self.time_stops(id);
                    self.endpoints.retain(|endpoint| endpoint.id != id);
                }
            }
        }
    }

    pub(super) fn free_slot(&mut self, who: TaskId, slot: Slot) {
        if let Some(task) = self.task_mut(who) {
            task.space.take(of_slot(slot));
        }
    }

    /// The ends of connections of a task, by side.
    pub(super) fn ends(&self, who: TaskId, side: Side) -> u64 {
        self.connections.iter().filter(|(_, it)| it.end(side).task == who).count() as u64
    }
}

pub(super) fn needs(slot: Slot, grant: &Grant, rights: Rights) -> Result<(), KernelError> {
    let held = grant.powers.rights;
    let missing = rights - held;
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::MissingRights { slot, missing, held })
}

/// What comes of a wish: never more than there is.
fn wished(slot: Slot, grant: &Grant, wish: Wish) -> Result<Powers, KernelError> {
    let (rights, badge, limits) = wish;
    let held = grant.powers;
    let badge = match badge {
        None => held.badge,
        Some(badge) if held.badge == 0 || held.badge == badge => badge,
        Some(_) => return Err(KernelError::Badged { slot, badge: held.badge }),
    };
    let bits = limits.bits.unwrap_or(held.bits);
    if bits & !held.bits != 0 {
        return Err(KernelError::Bits { slot, missing: bits & !held.bits, held: held.bits });
    }
    let wanted = limits.priority.unwrap_or(held.priority);
    if wanted > held.priority {
        return Err(KernelError::Priority { slot, wanted, held: held.priority });
    }
    Ok(Powers { rights, badge, bits, priority: wanted })
}

pub(super) fn received(slot: Slot, object: Object, powers: Powers) -> Received {
    let Powers { rights, badge, bits, priority } = powers;
    Received { slot, kind: object.kind(), object: object.id(), rights, badge, bits, priority }
}
