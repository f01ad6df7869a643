//! Who receives, who waits for that, and who watches.

use super::connections::Wanted;
use super::grants::{Grant, Holder};
use super::space::needs;
use super::{Reference, Reply, fits};
use crate::effect::{Alarm, Effect};
use crate::machine::tree::{Object, Powers};
use rendez_protocol::kernel::{Answer, Event, Fate, Hold, How, KernelError, ObjectKind, Senders};
use rendez_protocol::{Interface, ObjectId, Rights, Slot, TaskId};

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) id: ObjectId,
    pub(super) kind: ObjectKind,
    pub(super) maker: TaskId,
    pub(super) receiver: Option<Receiver>,
    pub(super) generation: u32,
    /// Capabilities with which one can send, or post, that were ever made.
    pub(super) senders_made: u64,
    hold: Hold,
    /// Whether the time runs until which connects wait, and whether it is over.
    runs: bool,
    over: bool,
    /// In the order in which they came.
    pub(super) parked: Vec<Parked>,
}

#[derive(Clone, Debug)]
pub(super) struct Receiver {
    pub(super) task: TaskId,
    pub(super) grant: u64,
    pub(super) interface: Option<Interface>,
}

#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) number: u64,
    pub(super) client: TaskId,
    pub(super) transaction: u64,
    slot: Slot,
    wanted: Wanted,
}

impl Reference {
    pub(super) fn endpoint(&self, id: ObjectId) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.id == id)
    }

    pub(super) fn endpoint_mut(&mut self, id: ObjectId) -> Option<&mut Endpoint> {
        self.endpoints.iter_mut().find(|endpoint| endpoint.id == id)
    }

    pub(super) fn receiver(&self, id: ObjectId) -> Option<TaskId> {
        self.endpoint(id)?.receiver.as_ref().map(|receiver| receiver.task)
    }

    pub(super) fn new_endpoint(&mut self, id: ObjectId, kind: ObjectKind, maker: TaskId) {
        self.endpoints.push(Endpoint {
            id,
            kind,
            maker,
            receiver: None,
            generation: 0,
            senders_made: 0,
            hold: Hold::FOR_EVER,
            runs: false,
            over: false,
            parked: Vec::new(),
        });
    }

    /// How many of a kind a task has made that still exist.
    pub(super) fn made(&self, who: TaskId, kind: ObjectKind) -> u64 {
        self.endpoints.iter().filter(|it| it.maker == who && it.kind == kind).count() as u64
    }

    /// How many can send to it, and ever could.
    fn senders(&self, id: ObjectId) -> Senders {
        let Some(endpoint) = self.endpoint(id) else { return Senders::default() };
        let present = self.with(id, endpoint.sends()) as u64;
        Senders { present, made: endpoint.senders_made }
    }

    /// The same, for one who may receive.
    pub(super) fn senders_seen_with(&self, grant: &Grant) -> Option<Senders> {
        let id = grant.object.id();
        let receives = grant.powers.rights.contains(Rights::RECEIVE);
        self.endpoint(id).filter(|_| receives).map(|_| self.senders(id))
    }

    pub(super) fn create_endpoint(&mut self, who: TaskId) -> Reply {
        self.space_for(who, 1)?;
        let id = self.object();
        let made = self.made(who, ObjectKind::Endpoint);
        fits(made, 1, self.quotas.endpoints, "endpoints of a task")?;
        self.new_endpoint(id, ObjectKind::Endpoint, who);
        let passed = Rights::MINT | Rights::GRANT | Rights::WATCH | Rights::INSPECT;
        let rights = passed | Rights::SEND | Rights::RECEIVE | Rights::POST | Rights::SERVER_MASK;
        let own =
            self.place(who, None, Object::Endpoint(id), Powers::first(rights), How::Created)?;
        Ok(Some(Answer::Slot(own)))
    }

    pub(super) fn serve(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        interface: Option<Interface>,
    ) -> Reply {
        let grant = self.received_from(who, slot)?;
        let id = grant.object.id();
        let before = self.receiver(id);
        if let Some(other) = before.filter(|other| *other != who) {
            return Err(KernelError::Served(other));
        }
        let Some(endpoint) = self.endpoint_mut(id) else { return Err(KernelError::BadSlot(slot)) };
        endpoint.receiver = Some(Receiver { task: who, grant: grant.number, interface });
        if before.is_none() {
            endpoint.generation += 1;
        }
        let generation = endpoint.generation;
        let senders = self.senders(id);
        self.answer(who, transaction, Ok(Answer::Serving { generation, senders }));
        if before.is_none() {
            self.time_stops(id);
            self.tell_all(id, Fate::Restarted { generation });
            let parked = self.endpoint_mut(id).map(|it| core::mem::take(&mut it.parked));
            for it in parked.unwrap_or_default() {
                let Parked { number, client, transaction, wanted, .. } = it;
                let holder = Holder::Parked(id, number);
                if let Err(error) = self.begin(client, transaction, id, holder, wanted) {
                    self.unmake(holder);
                    self.answer(client, transaction, Err(error));
                }
            }
            self.posters_meet(id);
        }
        Ok(None)
    }

    /// A capability to receive with.
    fn received_from(&self, who: TaskId, slot: Slot) -> Result<Grant, KernelError> {
        let grant = self.capability(who, slot)?;
        if grant.object.kind() != ObjectKind::Notification {
            self.capability_to(who, slot, ObjectKind::Endpoint, Rights::RECEIVE)?;
        }
        needs(slot, &grant, Rights::RECEIVE)?;
        Ok(grant)
    }

    pub(super) fn stop_receiving(&mut self, who: TaskId, slot: Slot) -> Reply {
        let grant = self.received_from(who, slot)?;
        self.stop_serving_with(&grant);
        Ok(Some(Answer::Done))
    }

    /// A capability has left its space: nobody serves with it any more.
    pub(super) fn stop_serving_with(&mut self, grant: &Grant) {
        let id = grant.object.id();
        let Some(endpoint) = self.endpoint_mut(id) else { return };
        if endpoint.receiver.as_ref().is_some_and(|receiver| receiver.grant == grant.number) {
            endpoint.receiver = None;
            let generation = endpoint.generation;
            self.tell_all(id, Fate::Died { generation });
            self.time_starts(id);
        }
    }

    pub(super) fn nobody_can_receive(&mut self, id: ObjectId) {
        self.refuse_but(id, 0, &KernelError::Dead);
        self.nobody_to_meet(id);
        self.tell_all(id, Fate::Gone);
    }

    // Waiting.

    /// Lets a connect wait.
    pub(super) fn park(
        &mut self,
        client: TaskId,
        transaction: u64,
        slot: Slot,
        from: &Grant,
        wanted: Wanted,
    ) -> Reply {
        let id = from.object.id();
        let Some(endpoint) = self.endpoint(id) else { return Err(KernelError::Dead) };
        let waiting = endpoint.parked.len() as u32;
        if waiting >= endpoint.allowed() {
            return Err(KernelError::NotHeld { hold: endpoint.hold, waiting });
        }
        let number = self.number();
        let waits = self.waits(client).len() as u64;
        fits(waits, 1, self.quotas.parked, "requests of a task that wait")?;
        self.enter(Some(from.number), from.object, from.powers, Holder::Parked(id, number));
        let parked = Parked { number, client, transaction, slot, wanted };
        self.endpoint_mut(id).unwrap().parked.push(parked);
        Ok(None)
    }

    /// A connect waits no longer.
    pub(super) fn unpark(&mut self, id: ObjectId, number: u64) -> Option<Parked> {
        let endpoint = self.endpoint_mut(id)?;
        let at = endpoint.parked.iter().position(|it| it.number == number)?;
        let parked = endpoint.parked.remove(at);
        self.unmake(Holder::Parked(id, number));
        Some(parked)
    }

    pub(super) fn refuse_parked(&mut self, id: ObjectId, number: u64) {
        if let Some(Parked { client, transaction, slot, .. }) = self.unpark(id, number) {
            self.answer(client, transaction, Err(KernelError::BadSlot(slot)));
        }
    }

    /// All that wait are refused, but the first few.
    fn refuse_but(&mut self, id: ObjectId, few: usize, error: &KernelError) {
        let Some(endpoint) = self.endpoint(id) else { return };
        let refused: Vec<u64> = endpoint.parked.iter().skip(few).map(|it| it.number).collect();
        for number in refused {
            if let Some(parked) = self.unpark(id, number) {
                self.answer(parked.client, parked.transaction, Err(error.clone()));
            }
        }
    }

    pub(super) fn cancel(&mut self, who: TaskId, transaction: u64) {
        let of = |it: &Parked| it.client == who && it.transaction == transaction;
        let parked = self.endpoints.iter().find_map(|endpoint| {
            endpoint.parked.iter().find(|it| of(it)).map(|it| (endpoint.id, it.number))
        });
        if let Some((endpoint, number)) = parked {
            self.answer(who, transaction, Err(KernelError::Cancelled));
            self.unpark(endpoint, number);
        } else if self.cancel_revocation(who, transaction) {
            self.answer(who, transaction, Err(KernelError::Cancelled));
        } else {
            self.cancel_connection(who, transaction);
        }
    }

    // Holding.

    pub(super) fn hold(&mut self, who: TaskId, slot: Slot, hold: Hold) -> Reply {
        let grant = self.capability_to(who, slot, ObjectKind::Endpoint, Rights::RECEIVE)?;
        let id = grant.object.id();
        self.time_stops(id);
        self.endpoint_mut(id).unwrap().hold = hold;
        if self.receiver(id).is_none() {
            self.time_starts(id);
            self.hold_what_is_allowed(id);
        }
        Ok(Some(Answer::Done))
    }

    fn time_starts(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoint_mut(id) else { return };
        if let Hold::Wait { connects: 1.., milliseconds: milliseconds @ 1.. } = endpoint.hold
            && milliseconds != u32::MAX
        {
            endpoint.runs = true;
            self.said.push(Effect::After { milliseconds, alarm: Alarm::Hold(id) });
        }
    }

    pub(super) fn time_stops(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoint_mut(id) else { return };
        endpoint.over = false;
        if core::mem::take(&mut endpoint.runs) {
            self.said.push(Effect::Unset(Alarm::Hold(id)));
        }
    }

    fn hold_what_is_allowed(&mut self, id: ObjectId) {
        let endpoint = self.endpoint(id).unwrap();
        let allowed = endpoint.allowed();
        let waiting = (endpoint.parked.len() as u32).min(allowed);
        let error = KernelError::NotHeld { hold: endpoint.hold, waiting };
        self.refuse_but(id, allowed as usize, &error);
    }

    pub(super) fn expired(&mut self, alarm: Alarm) {
        if let Alarm::Grace(number) = alarm {
            self.grace_over(number);
        }
        if let Alarm::Hold(id) = alarm
            && let Some(endpoint) = self.endpoint_mut(id)
            && core::mem::take(&mut endpoint.runs)
        {
            endpoint.over = true;
            self.hold_what_is_allowed(id);
        }
    }

    // Watching.

    pub(super) fn watch(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let grant = self.capability(who, slot)?;
        needs(slot, &grant, Rights::WATCH)?;
        if !grant.watches {
            let own = |it: &&Grant| matches!(it.holder, Holder::Slot(whose, _) if whose == who);
            let watches = self.live().filter(own).filter(|it| it.watches).count() as u64;
            fits(watches, 1, self.quotas.watches, "watches of a task")?;
            self.grant_mut(grant.number).unwrap().watches = true;
        }
        self.answer(who, transaction, Ok(Answer::Done));
        let fate = match grant.object {
            Object::Region(_) => None,
            Object::Task { task, .. } => {
                self.task(task).is_none().then_some(Fate::Died { generation: 0 })
            }
            Object::Endpoint(id) | Object::Notification(id) => match self.endpoint(id) {
                Some(endpoint) if endpoint.receiver.is_some() => None,
                Some(endpoint) if self.with(id, Rights::RECEIVE) > 0 => {
                    Some(Fate::Died { generation: endpoint.generation })
                }
                _ => Some(Fate::Gone),
            },
        };
        if let Some(fate) = fate {
            self.tell_watcher(grant.number, fate);
        }
        Ok(None)
    }

    pub(super) fn tell_watcher(&mut self, number: u64, what: Fate) {
        let Some(grant) = self.grant(number).copied() else { return };
        let Holder::Slot(who, slot) = grant.holder else { return };
        self.tell(who, Event::Watched { slot, object: grant.object.id(), what }, Vec::new());
        let for_good = matches!(grant.object, Object::Task { .. }) || what == Fate::Gone;
        if for_good && let Some(grant) = self.grant_mut(number) {
            grant.watches = false;
        }
    }

    fn tell_all(&mut self, id: ObjectId, what: Fate) {
        let watches = |it: &&Grant| it.watches && it.object.id() == id;
        let all: Vec<u64> = self.live().filter(watches).map(|it| it.number).collect();
        for number in all {
            self.tell_watcher(number, what);
        }
    }
}

impl Endpoint {
    /// The right of those whom its receiver hears.
    pub(super) fn sends(&self) -> Rights {
        match self.kind {
            ObjectKind::Notification => Rights::POST,
            _ => Rights::SEND,
        }
    }

    /// How many connects may wait.
    fn allowed(&self) -> u32 {
        match self.hold {
            _ if self.over => 0,
            Hold::Fail | Hold::Wait { milliseconds: 0, .. } => 0,
            Hold::Wait { connects, .. } => connects,
        }
    }
}
