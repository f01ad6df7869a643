//! Connections: made step by step, ended at once.
//!
//! The steps are in the essay of the module above. Each end hangs in the derivation tree below the
//! capability that made it: the client's below the one it connected with, the server's below the
//! one it served with. A revocation above either severs the connection.
//!
//! A task may connect to itself. Where a request of such a task leaves open which end it means, it
//! means the client's.

use super::endpoint::Wait;
use super::task::Words;
use super::tree::{Holder, Node, NodeId};
use super::{Machine, Reply, label};
use crate::effect::{Attach, Effect, Side};
use rendez_protocol::kernel::{Answer, Doorbell, Event, KernelError, ObjectKind, Shape};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{
    ConnectionId, Interface, ObjectId, Rights, Slot, TaskId, Ticket, Why, limit,
};
use std::collections::BTreeSet;

/// What a client asks for when it connects.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) interface: Option<Interface>,
    pub(super) requests: Shape,
    pub(super) replies: Shape,
    pub(super) doorbell: Doorbell,
}

impl Wanted {
    fn check(&self) -> Result<(), KernelError> {
        for (what, shape) in [("requests", self.requests), ("replies", self.replies)] {
            check_shape(what, shape)?;
        }
        match &self.interface {
            Some(interface) => label("the name of an interface", &interface.name),
            None => Ok(()),
        }
    }

    /// Bytes of both segments.
    fn bytes(&self) -> u64 {
        (self.requests.segment_bytes() as u64).saturating_add(self.replies.segment_bytes() as u64)
    }
}

fn check_shape(what: &str, shape: Shape) -> Result<(), KernelError> {
    if shape.is_valid() {
        return Ok(());
    }
    let lines = Shape { lines: shape.lines, ..Shape::default() };
    Err(if lines.is_valid() {
        KernelError::BadValue {
            what: format!("{what}.area_bytes"),
            value: u64::from(shape.area_bytes),
            allowed: format!("a power of two from 4096 to {}", limit::AREA_BYTES_MAX),
        }
    } else {
        KernelError::BadValue {
            what: format!("{what}.lines"),
            value: u64::from(shape.lines),
            allowed: format!("a power of two from 1 to {}", limit::RING_LINES_MAX),
        }
    })
}

/// One end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) task: TaskId,
    /// Of its word in the task's status segment.
    pub(super) index: u32,
    /// Whether that word was another connection's before, so that it must be set to 0.
    reused: bool,
    /// Its place in the derivation tree.
    pub(super) node: NodeId,
    /// How it is woken.
    doorbell: Doorbell,
}

/// What a connection waits for, with the requests that are answered when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientMaps,
    ClientSeals { client: u64 },
    ServerMaps { client: u64 },
    ServerSeals { client: u64, server: u64 },
    Open,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) phase: Phase,
    endpoint: ObjectId,
    /// The endpoint's incarnation when it was made.
    generation: u32,
    wanted: Wanted,
    /// What the server speaks.
    serves: Option<Interface>,
    /// What is in escrow for it.
    pub(super) tickets: BTreeSet<Ticket>,
}

impl Connection {
    /// One of its ends.
    pub(super) fn end(&self, side: Side) -> &End {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// Whether that end has been told of the connection.
    pub(super) fn knows(&self, side: Side) -> bool {
        side == Side::Client || !matches!(self.phase, Phase::ClientMaps | Phase::ClientSeals { .. })
    }

    /// Which end is `who`'s, as far as it knows.
    fn side(&self, who: TaskId) -> Option<Side> {
        [Side::Client, Side::Server]
            .into_iter()
            .find(|side| self.end(*side).task == who && self.knows(*side))
    }

    /// The request of that end's that waits for the connection.
    fn waiting(&self, side: Side) -> Option<u64> {
        match (self.phase, side) {
            (
                Phase::ClientSeals { client }
                | Phase::ServerMaps { client }
                | Phase::ServerSeals { client, .. },
                Side::Client,
            ) => Some(client),
            (Phase::ServerSeals { server, .. }, Side::Server) => Some(server),
            _ => None,
        }
    }

    /// Bytes of both segments.
    pub(super) fn bytes(&self) -> u64 {
        self.wanted.bytes()
    }
}

impl Machine {
    /// Connects, or waits for a receiver. Needs SEND.
    pub(super) fn connect(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        wanted: Wanted,
    ) -> Reply {
        let (from, node) = self.capability_to(who, slot, ObjectKind::Endpoint, Rights::SEND)?;
        wanted.check()?;
        let id = node.object.id();
        match self.endpoints.get(&id) {
            Some(endpoint) if endpoint.receiver.is_some() => {}
            Some(endpoint) if !endpoint.receivers.is_zero() => {
                return self.park(who, transaction, slot, from, wanted);
            }
            _ => return Err(KernelError::Dead),
        }
        let below = self
            .tree
            .insert(Some(from), Node { holder: Holder::Parked(id, 0), watches: false, ..node });
        self.begin(who, transaction, id, below, wanted).inspect_err(|_| {
            self.tree.remove(below);
        })?;
        Ok(None)
    }

    /// Makes a connection to an endpoint that has a receiver. `node` becomes the client's end.
    pub(super) fn begin(
        &mut self,
        client: TaskId,
        transaction: u64,
        endpoint: ObjectId,
        node: NodeId,
        wanted: Wanted,
    ) -> Result<(), KernelError> {
        let Some(target) = self.endpoints.get(&endpoint) else { return Err(KernelError::Dead) };
        let Some(receiver) = target.receiver.clone() else { return Err(KernelError::Dead) };
        let generation = target.generation;
        if let (Some(client), Some(server)) = (&wanted.interface, &receiver.interface)
            && !server.serves(client)
        {
            let (client, server) = (client.clone(), server.clone());
            return Err(KernelError::Version { client, server });
        }
        self.room_for_connection(client, receiver.task, wanted.bytes())?;
        let Some(serving) = self.tree.get(receiver.node).copied() else {
            return Err(KernelError::Dead);
        };

        let id = self.connections.next_id();
        let bytes = wanted.bytes();
        self.set_holder(node, Holder::End(id, Side::Client));
        let server_node = self.tree.insert(
            Some(receiver.node),
            Node { holder: Holder::End(id, Side::Server), watches: false, ..serving },
        );
        let Some((client_index, client_reused)) = self.take_word(client, id, Side::Client) else {
            return Err(KernelError::Dead);
        };
        let Some((server_index, server_reused)) = self.take_word(receiver.task, id, Side::Server)
        else {
            return Err(KernelError::Dead);
        };
        if let Some(task) = self.tasks.get_mut(client) {
            task.client_connections.add(1);
            task.segment_bytes.add(bytes);
        }
        if let Some(task) = self.tasks.get_mut(receiver.task) {
            task.server_connections.add(1);
        }
        self.effects.push(Effect::MakeConnection {
            connection: id,
            client_bytes: wanted.requests.segment_bytes(),
            server_bytes: wanted.replies.segment_bytes(),
        });
        self.connections.insert(Connection {
            client: End {
                task: client,
                index: client_index,
                reused: client_reused,
                node,
                doorbell: wanted.doorbell,
            },
            server: End {
                task: receiver.task,
                index: server_index,
                reused: server_reused,
                node: server_node,
                doorbell: Doorbell::Futex,
            },
            phase: Phase::ClientMaps,
            endpoint,
            generation,
            wanted,
            serves: receiver.interface,
            tickets: BTreeSet::new(),
        });
        if client_reused {
            self.set_status(client, client_index, ConnectionState::Open as u32);
        }
        let answer = Answer::Connecting { connection: id, status_index: client_index };
        let attach = vec![Attach::OwnSegment(id, Side::Client)];
        self.answer_with(client, transaction, answer, attach);
        Ok(())
    }

    /// Whether both ends may have one more.
    fn room_for_connection(
        &self,
        client: TaskId,
        server: TaskId,
        bytes: u64,
    ) -> Result<(), KernelError> {
        let quotas = &self.quotas;
        let (Some(of_client), Some(of_server)) = (self.tasks.get(client), self.tasks.get(server))
        else {
            return Err(KernelError::Dead);
        };
        let count = of_client.client_connections;
        count.admits(1, quotas.client_connections, "connections of a client")?;
        let count = of_server.server_connections;
        count.admits(1, quotas.server_connections, "connections of a server")?;
        let count = of_client.segment_bytes;
        count.admits(bytes, quotas.segment_bytes, "bytes of a client's segments")?;
        let at_one_end: usize = if client == server { 2 } else { 1 };
        if of_client.words.free() < at_one_end || of_server.words.free() < at_one_end {
            let what = "status words of a task".into();
            return Err(KernelError::Quota { what, limit: u64::from(Words::ALL) });
        }
        Ok(())
    }

    fn take_word(&mut self, who: TaskId, id: ConnectionId, side: Side) -> Option<(u32, bool)> {
        let task = self.tasks.get_mut(who)?;
        let (index, reused) = task.words.take()?;
        task.connections.insert(index, (id, side));
        Some((index, reused))
    }

    /// An end has mapped and populated its own segment.
    pub(super) fn mapped(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ConnectionId,
        doorbell: Doorbell,
    ) -> Reply {
        self.side_of(who, id)?;
        let Some(connection) = self.connections.get_mut(id) else { return Ok(None) };
        let side = match connection.phase {
            Phase::ClientMaps if connection.client.task == who => {
                connection.phase = Phase::ClientSeals { client: transaction };
                if let Some(task) = self.tasks.get_mut(who) {
                    task.waits.insert(transaction, Wait::Mapped(id));
                }
                Side::Client
            }
            Phase::ServerMaps { client } if connection.server.task == who => {
                connection.phase = Phase::ServerSeals { client, server: transaction };
                connection.server.doorbell = doorbell;
                Side::Server
            }
            _ => return Err(KernelError::Order(format!("{id} does not wait for this end"))),
        };
        self.effects.push(Effect::Seal { connection: id, side });
        Ok(None)
    }

    /// A segment was sealed and is good, or is not.
    pub(super) fn seal_done(
        &mut self,
        id: ConnectionId,
        side: Side,
        result: Result<(), KernelError>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match (connection.phase, side) {
            (Phase::ClientSeals { client }, Side::Client) => match result {
                Ok(()) => {
                    connection.phase = Phase::ServerMaps { client };
                    self.tell_server(id);
                }
                Err(error) => {
                    connection.phase = Phase::ClientMaps;
                    let client_task = connection.client.task;
                    self.end_wait(client_task, client, Err(error));
                    self.end(id, Why::Protocol, Some(Side::Client));
                }
            },
            (Phase::ServerSeals { client, server }, Side::Server) => match result {
                Ok(()) => {
                    connection.phase = Phase::Open;
                    let server_task = connection.server.task;
                    self.answer(server_task, server, Ok(Answer::Done));
                    self.complete(id, client);
                }
                Err(error) => {
                    connection.phase = Phase::ServerMaps { client };
                    let server_task = connection.server.task;
                    self.answer(server_task, server, Err(error));
                    self.end(id, Why::Protocol, Some(Side::Server));
                }
            },
            _ => {}
        }
    }

    /// Tells the server that somebody wants to connect.
    fn tell_server(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let (client, server) = (connection.client, connection.server);
        let credentials = self.tasks.get(client.task).and_then(|task| task.credentials);
        let (Some(node), Some(credentials)) = (self.tree.get(client.node), credentials) else {
            return;
        };
        let event = Event::Incoming {
            connection: id,
            endpoint: connection.endpoint,
            status_index: server.index,
            badge: node.badge,
            rights: node.rights,
            client: client.task,
            credentials,
            interface: connection.wanted.interface.clone(),
            requests: connection.wanted.requests,
            replies: connection.wanted.replies,
            rings: client.doorbell,
        };
        let mut attach = vec![
            Attach::OwnSegment(id, Side::Server),
            Attach::SealedSegment(id, Side::Client),
            Attach::Wait(id, Side::Server),
        ];
        if client.doorbell == Doorbell::Event {
            attach.push(Attach::Ring(id, Side::Client));
        }
        if server.reused {
            self.set_status(server.task, server.index, ConnectionState::Open as u32);
        }
        self.tell(server.task, event, attach);
    }

    /// Tells the client that its connection is there.
    fn complete(&mut self, id: ConnectionId, transaction: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        let (client, server) = (connection.client, connection.server);
        let answer = Answer::Connected {
            server: server.task,
            generation: connection.generation,
            rings: server.doorbell,
            interface: connection.serves.clone(),
        };
        let mut attach = vec![Attach::SealedSegment(id, Side::Server)];
        if server.doorbell == Doorbell::Event {
            attach.push(Attach::Ring(id, Side::Server));
        }
        if client.doorbell == Doorbell::Event {
            attach.push(Attach::Wait(id, Side::Client));
        }
        if let Some(task) = self.tasks.get_mut(client.task)
            && task.waits.remove(&transaction).is_some()
        {
            self.answer_with(client.task, transaction, answer, attach);
        }
    }

    /// Ends a connection at the wish of one of its ends.
    pub(super) fn disconnect(&mut self, who: TaskId, id: ConnectionId, why: Why) -> Reply {
        let side = self.side_of(who, id)?;
        // These two are the kernel's to say.
        let why = if matches!(why, Why::Dead | Why::Revoked) { Why::Closed } else { why };
        self.end(id, why, Some(side));
        Ok(Some(Answer::Done))
    }

    /// Which end of the connection is the task's.
    pub(super) fn side_of(&self, who: TaskId, id: ConnectionId) -> Result<Side, KernelError> {
        let connection = self.connections.get(id);
        connection.and_then(|it| it.side(who)).ok_or(KernelError::BadConnection(id))
    }

    /// Ends a connection because a capability behind it is revoked.
    pub(super) fn sever(&mut self, id: ConnectionId) {
        self.end(id, Why::Revoked, None);
    }

    /// Ends a connection, at whatever phase. `asker`, the end that wanted it, is not told again.
    pub(super) fn end(&mut self, id: ConnectionId, why: Why, asker: Option<Side>) {
        let Some(connection) = self.connections.remove(id) else { return };
        self.tree.remove(connection.client.node);
        self.tree.remove(connection.server.node);
        for ticket in &connection.tickets {
            self.void(*ticket);
        }
        let bytes = connection.bytes();
        if let Some(task) = self.tasks.get_mut(connection.client.task) {
            task.client_connections.sub(1);
            task.segment_bytes.sub(bytes);
        }
        if let Some(task) = self.tasks.get_mut(connection.server.task) {
            task.server_connections.sub(1);
        }
        let sides = [Side::Client, Side::Server];
        for side in sides {
            let end = connection.end(side);
            if let Some(task) = self.tasks.get_mut(end.task) {
                task.connections.remove(&end.index);
                task.words.put(end.index);
            }
            if connection.knows(side) {
                self.set_status(end.task, end.index, state_after(why) as u32);
            }
        }
        for side in sides.into_iter().filter(|side| connection.knows(*side)) {
            let task = connection.end(side).task;
            let error = Err(KernelError::NotCompleted(why));
            let answered = match (side, connection.waiting(side)) {
                (Side::Client, Some(transaction)) => self.end_wait(task, transaction, error),
                (Side::Server, Some(transaction)) => {
                    self.answer(task, transaction, error);
                    true
                }
                (_, None) => false,
            };
            if !answered && asker != Some(side) {
                self.tell(task, Event::Closed { connection: id, why }, Vec::new());
            }
        }
        self.effects.push(Effect::ForgetConnection(id));
    }
}

/// What the status words say of a connection that ended so.
fn state_after(why: Why) -> ConnectionState {
    match why {
        Why::Dead => ConnectionState::Dead,
        Why::Revoked => ConnectionState::Revoked,
        Why::Protocol => ConnectionState::Protocol,
        _ => ConnectionState::Closed,
    }
}
