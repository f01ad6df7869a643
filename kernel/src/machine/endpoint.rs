//! Endpoints: one receiver at a time, and the connects that wait for the next one.
//!
//! An endpoint lives while a capability to it exists, wherever that lies, and outlives its
//! receivers: a restarted server takes it back, and clients' capabilities stay good. Who may receive
//! is decided by capabilities alone; the receiver is bound to the one that it served with, and stops
//! when that leaves its space.
//!
//! A notification is one that bits are posted to, and no messages sent: what is different about it is
//! in `notification`.

use super::account::{AccountId, Draws};
use super::connection::Wanted;
use super::hold::Policy;
use super::tree::{Holder, Node, NodeId, Object, Powers};
use super::{Machine, Reply, label};
use crate::effect::Side;
use crate::quota::Count;
use rendez_protocol::kernel::{Answer, Event, Fate, How, KernelError, ObjectKind, Senders};
use rendez_protocol::quota::Quota;
use rendez_protocol::{ArenaId, ConnectionId, Interface, ObjectId, Rights, Slot, TaskId, Why};
use std::collections::{BTreeMap, BTreeSet};

/// All rights that there are to an endpoint.
pub(super) const ENDPOINT_RIGHTS: Rights = Rights::SEND
    .union(Rights::RECEIVE)
    .union(Rights::POST)
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT)
    .union(Rights::SERVER_MASK);

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Whether it is an endpoint or a notification.
    pub(super) kind: ObjectKind,
    /// On whose quota it is, while that lives.
    pub(super) maker: TaskId,
    /// On whose account, also then.
    pub(super) account: AccountId,
    /// Capabilities to it.
    pub(super) capabilities: Count,
    /// Those with RECEIVE.
    pub(super) receivers: Count,
    /// Those with SEND; to a notification: with POST.
    pub(super) senders: Count,
    /// How many of these were ever made.
    pub(super) senders_made: u64,
    pub(super) receiver: Option<Receiver>,
    /// How many receivers it has had.
    pub(super) generation: u32,
    /// What becomes of connects while there is no receiver.
    pub(super) policy: Policy,
    /// Connects that wait, in the order in which they came.
    pub(super) parked: BTreeMap<u64, Parked>,
    /// To a notification: connections that wait for a receiver.
    pub(super) standing: BTreeSet<ConnectionId>,
    /// To a notification: connections that its receiver has been told of and not yet taken in.
    pub(super) meeting: BTreeSet<ConnectionId>,
    /// Capabilities with which it is watched.
    pub(super) watchers: BTreeSet<NodeId>,
}

/// Who receives.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    pub(super) task: TaskId,
    /// By virtue of which capability.
    pub(super) node: NodeId,
    pub(super) interface: Option<Interface>,
}

/// A connect that waits for a receiver.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) client: TaskId,
    pub(super) transaction: u64,
    pub(super) slot: Slot,
    /// Its node below the capability that it was made with.
    pub(super) node: NodeId,
    pub(super) wanted: Wanted,
}

/// What a request that has not been answered waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// A connect: a receiver of this endpoint; its number in the queue.
    Connect(ObjectId, u64),
    /// A client's `Mapped`: the completion of this connection.
    Mapped(ConnectionId),
    /// A revoke: all of it gone, and acknowledged.
    Revocation(u64),
    /// A client's `ArenaMapped`: the attachment of these arenas.
    Arena(ConnectionId, ArenaId),
}

impl Endpoint {
    /// One without anything.
    pub(super) fn new(kind: ObjectKind, maker: TaskId, draws: &Draws) -> Self {
        let [_, _, account, ..] = *draws;
        Self {
            kind,
            maker,
            account,
            capabilities: Count::default(),
            receivers: Count::default(),
            senders: Count::default(),
            senders_made: 0,
            receiver: None,
            generation: 0,
            policy: Policy::default(),
            parked: BTreeMap::new(),
            standing: BTreeSet::new(),
            meeting: BTreeSet::new(),
            watchers: BTreeSet::new(),
        }
    }

    /// How many can send to it, and ever could.
    fn could_send(&self) -> Senders {
        Senders { present: self.senders.get(), made: self.senders_made }
    }

    /// The right of those whom its receiver hears.
    pub(super) fn sends(&self) -> Rights {
        if self.kind == ObjectKind::Notification { Rights::POST } else { Rights::SEND }
    }
}

impl Machine {
    /// Makes an endpoint.
    pub(super) fn create_endpoint(&mut self, who: TaskId) -> Reply {
        self.space_for(who, 1)?;
        self.room(who, Quota::Endpoints, 1)?;
        let limit = self.quotas.endpoints;
        let id = ObjectId(self.number());
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        task.endpoints.admits(1, limit, "endpoints of a task")?;
        task.endpoints.add(1);
        let draws = task.draws;
        self.accounts.spend(&draws, Quota::Endpoints, 1);
        self.endpoints.insert(id, Endpoint::new(ObjectKind::Endpoint, who, &draws));
        let object = Object::Endpoint(id);
        Ok(Some(Answer::Slot(self.place(
            who,
            None,
            object,
            Powers::first(ENDPOINT_RIGHTS),
            How::Created,
        )?)))
    }

    /// Makes a task the receiver of an endpoint or a notification. Needs RECEIVE.
    pub(super) fn serve(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        interface: Option<Interface>,
    ) -> Reply {
        let wanted = self.receivable(who, slot)?;
        let (node, capability) = self.capability_to(who, slot, wanted, Rights::RECEIVE)?;
        if let Some(interface) = &interface {
            label("the name of an interface", &interface.name)?;
        }
        let id = capability.object.id();
        self.look_at_receiver(id);
        let Some(endpoint) = self.endpoints.get_mut(&id) else {
            return Err(KernelError::BadSlot(slot));
        };
        let before = endpoint.receiver.as_ref().map(|receiver| receiver.task);
        if let Some(other) = before.filter(|task| *task != who) {
            return Err(KernelError::Served(other));
        }
        endpoint.receiver = Some(Receiver { task: who, node, interface });
        if before.is_none() {
            endpoint.generation = endpoint.generation.wrapping_add(1);
        }
        let (generation, senders) = (endpoint.generation, endpoint.could_send());
        self.answer(who, transaction, Ok(Answer::Serving { generation, senders }));
        if before.is_none() {
            self.occupied(id);
            self.tell_endpoint(id, Fate::Restarted { generation });
            self.resume(id);
            self.meet_next(id);
        }
        Ok(None)
    }

    /// Lets a connect wait.
    pub(super) fn park(
        &mut self,
        client: TaskId,
        transaction: u64,
        slot: Slot,
        from: NodeId,
        wanted: Wanted,
    ) -> Reply {
        let Some(of_client) = self.tree.get(from).copied() else {
            return Err(KernelError::BadSlot(slot));
        };
        let endpoint = of_client.object.id();
        self.admits_parked(endpoint)?;
        let limit = self.quotas.parked;
        let number = self.number();
        let Some(task) = self.tasks.get_mut(client) else { return Ok(None) };
        let mut waits = Count::default();
        waits.add(task.waits.len() as u64);
        waits.admits(1, limit, "requests of a task that wait")?;
        task.waits.insert(transaction, Wait::Connect(endpoint, number));
        let holder = Holder::Parked(endpoint, number);
        let node = self.tree.make(from, Node { holder, watches: false, ..of_client });
        if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
            endpoint.parked.insert(number, Parked { client, transaction, slot, node, wanted });
        }
        Ok(None)
    }

    /// Gives up a request, if it still waits.
    pub(super) fn cancel(&mut self, who: TaskId, transaction: u64) {
        let wait = self.tasks.get_mut(who).and_then(|task| task.waits.remove(&transaction));
        if let Some(wait) = wait {
            self.answer(who, transaction, Err(KernelError::Cancelled));
            match wait {
                Wait::Revocation(id) => self.forget_caller(who, transaction, id),
                wait => self.withdraw(wait),
            }
        }
    }

    /// Undoes what a request has done that nobody waits for any more.
    pub(super) fn withdraw(&mut self, wait: Wait) {
        match wait {
            Wait::Connect(endpoint, number) => {
                let parked =
                    self.endpoints.get_mut(&endpoint).and_then(|it| it.parked.remove(&number));
                if let Some(parked) = parked {
                    self.tree.remove(parked.node);
                }
            }
            Wait::Mapped(connection) => {
                self.end(connection, Why::Cancelled, Some(Side::Client));
            }
            Wait::Arena(connection, arena) => {
                self.end_arena(connection, arena, Why::Cancelled, Side::Client);
            }
            // It cannot be undone.
            Wait::Revocation(_) => {}
        }
    }

    /// The capability of a connect that waits was revoked.
    pub(super) fn refuse_parked(&mut self, endpoint: ObjectId, number: u64) {
        let parked = self.endpoints.get_mut(&endpoint).and_then(|it| it.parked.remove(&number));
        if let Some(parked) = parked {
            let error = KernelError::BadSlot(parked.slot);
            self.end_wait(parked.client, parked.transaction, Err(error));
        }
    }

    /// Answers a request that waited. False if it does not wait (any more).
    pub(super) fn end_wait(
        &mut self,
        who: TaskId,
        transaction: u64,
        result: Result<Answer, KernelError>,
    ) -> bool {
        let waited =
            self.tasks.get_mut(who).is_some_and(|task| task.waits.remove(&transaction).is_some());
        if waited {
            self.answer(who, transaction, result);
        }
        waited
    }

    /// Whoever receives no longer does if dead, or if the capability that they serve with is revoked:
    /// they may be waiting to be buried, or it to be reaped.
    pub(super) fn look_at_receiver(&mut self, id: ObjectId) {
        if let Some(receiver) = self.endpoints.get(&id).and_then(|it| it.receiver.as_ref())
            && (!self.tasks.contains(receiver.task) || self.tree.is_doomed(receiver.node))
        {
            self.stop_serving_with(id, receiver.node);
        }
    }

    /// How many can send to an endpoint, for one who may receive from it.
    pub(super) fn senders(&self, id: NodeId) -> Option<Senders> {
        let node = self.tree.get(id)?;
        let endpoint = self.endpoints.get(&node.object.id())?;
        node.powers.rights.contains(Rights::RECEIVE).then(|| endpoint.could_send())
    }

    /// Ends what `serve` began.
    pub(super) fn stop_receiving(&mut self, who: TaskId, slot: Slot) -> Reply {
        let wanted = self.receivable(who, slot)?;
        let (node, capability) = self.capability_to(who, slot, wanted, Rights::RECEIVE)?;
        self.stop_serving_with(capability.object.id(), node);
        Ok(Some(Answer::Done))
    }

    /// A capability has left its space: whoever serves with it does so no longer.
    pub(super) fn stop_serving_with(&mut self, id: ObjectId, node: NodeId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let generation = endpoint.generation;
        if endpoint.receiver.take_if(|receiver| receiver.node == node).is_some() {
            // Whom it never takes in is not to keep others from the next one.
            endpoint.meeting.clear();
            self.tell_endpoint(id, Fate::Died { generation });
            self.vacated(id);
        }
    }

    /// There is one more capability to an endpoint.
    pub(super) fn count_in(&mut self, id: ObjectId, rights: Rights) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        endpoint.capabilities.add(1);
        if rights.contains(Rights::RECEIVE) {
            endpoint.receivers.add(1);
        }
        if rights.contains(endpoint.sends()) {
            endpoint.senders.add(1);
            endpoint.senders_made = endpoint.senders_made.saturating_add(1);
        }
    }

    /// There is one capability less to an endpoint. It may have been the last of its sort.
    pub(super) fn count_out(&mut self, id: ObjectId, rights: Rights) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        endpoint.capabilities.sub(1);
        if rights.contains(endpoint.sends()) {
            endpoint.senders.sub(1);
            if endpoint.senders.is_zero()
                && let Some(receiver) = endpoint.receiver.as_ref().map(|receiver| receiver.task)
            {
                let made = endpoint.senders_made;
                self.tell(receiver, Event::NoSenders { endpoint: id, made }, Vec::new());
            }
        }
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        if rights.contains(Rights::RECEIVE) {
            endpoint.receivers.sub(1);
            if endpoint.receivers.is_zero() {
                self.nobody_can_receive(id);
            }
        }
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        if endpoint.capabilities.is_zero() {
            if let Some(maker) = self.tasks.get_mut(endpoint.maker) {
                match endpoint.kind {
                    ObjectKind::Notification => maker.notifications.sub(1),
                    _ => maker.endpoints.sub(1),
                }
            }
            let account = endpoint.account;
            self.occupied(id);
            self.endpoints.remove(&id);
            self.accounts.repay(account, Quota::Endpoints, 1);
        }
    }

    fn nobody_can_receive(&mut self, id: ObjectId) {
        self.refuse_waiting(id, 0, &KernelError::Dead);
        self.nobody_to_meet(id);
        self.tell_endpoint(id, Fate::Gone);
    }

    /// Connects that waited go on, in the order in which they came.
    fn resume(&mut self, id: ObjectId) {
        let parked = self.endpoints.get_mut(&id).map(|it| core::mem::take(&mut it.parked));
        for parked in parked.unwrap_or_default().into_values() {
            let Parked { client, transaction, slot, node, wanted } = parked;
            if let Some(task) = self.tasks.get_mut(client) {
                task.waits.remove(&transaction);
            }
            let begun = if self.tree.is_doomed(node) {
                Err(KernelError::BadSlot(slot))
            } else {
                self.begin(client, transaction, id, node, wanted)
            };
            if let Err(error) = begun {
                self.tree.remove(node);
                self.answer(client, transaction, Err(error));
            }
        }
    }
}
