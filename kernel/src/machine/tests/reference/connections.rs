//! Connections: made in steps, ended in one.

use super::grants::Holder;
use super::{Reference, Reply, bad, fits, of_connection};
use crate::effect::{Attach, Effect, Pair, Side};
use rendez_protocol::kernel::{Answer, Doorbell, Event, KernelError, ObjectKind, Shape};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, Interface, ObjectId, Rights, Slot, TaskId, Why};

#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) interface: Option<Interface>,
    pub(super) requests: Shape,
    pub(super) replies: Shape,
    pub(super) doorbell: Doorbell,
}

/// What it waits for, with the requests that are answered then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientMaps,
    ClientSeals(u64),
    /// Of a poster: there is no receiver.
    Stands(u64),
    ServerMaps(u64),
    ServerSeals(u64, u64),
    Open,
}

impl Phase {
    /// The request of that end's that waits.
    pub(super) fn waiting(self, side: Side) -> Option<u64> {
        match (self, side) {
            (
                Self::ClientSeals(client)
                | Self::Stands(client)
                | Self::ServerMaps(client)
                | Self::ServerSeals(client, _),
                Side::Client,
            ) => Some(client),
            (Self::ServerSeals(_, server), Side::Server) => Some(server),
            _ => None,
        }
    }

    /// Whether the server has been told.
    fn is_told(self) -> bool {
        matches!(self, Self::ServerMaps(_) | Self::ServerSeals(..) | Self::Open)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The kernel's, if it is nobody's yet.
    pub(super) task: TaskId,
    pub(super) index: u32,
    pub(super) doorbell: Doorbell,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) phase: Phase,
    pub(super) endpoint: ObjectId,
    pub(super) kind: ObjectKind,
    pub(super) generation: u32,
    pub(super) wanted: Wanted,
    pub(super) serves: Option<Interface>,
}

impl Connection {
    pub(super) fn end(&self, side: Side) -> End {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    /// Whether that end knows of it.
    fn knows(&self, side: Side) -> bool {
        side == Side::Client || self.phase.is_told()
    }
}

pub(super) fn bytes(shape: Shape) -> u64 {
    let ring = (1024 + u64::from(shape.lines) * 64).div_ceil(4096) * 4096;
    ring + u64::from(shape.area_bytes)
}

const SIDES: [Side; 2] = [Side::Client, Side::Server];

impl Reference {
    pub(super) fn side(&self, who: TaskId, id: ConnectionId) -> Result<Side, KernelError> {
        let connection = self.connection(id).ok_or(KernelError::BadConnection(id))?;
        SIDES
            .into_iter()
            .find(|side| connection.end(*side).task == who && connection.knows(*side))
            .ok_or(KernelError::BadConnection(id))
    }

    pub(super) fn connect(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        wanted: Wanted,
    ) -> Reply {
        if self.capability(who, slot)?.object.kind() == ObjectKind::Notification {
            return self.stand(who, transaction, slot, wanted);
        }
        let from = self.capability_to(who, slot, ObjectKind::Endpoint, Rights::SEND)?;
        for shape in [wanted.requests, wanted.replies] {
            let lines = shape.lines.is_power_of_two() && shape.lines <= 4096;
            let area = shape.area_bytes;
            if !lines {
                return Err(bad(shape.lines));
            }
            if !area.is_power_of_two() || !(4096..=4 << 20).contains(&area) {
                return Err(bad(area));
            }
        }
        let id = from.object.id();
        if self.receiver(id).is_none() {
            if self.with(id, Rights::RECEIVE) == 0 {
                return Err(KernelError::Dead);
            }
            return self.park(who, transaction, slot, &from, wanted);
        }
        // A place in no queue.
        let holder = Holder::Parked(id, 0);
        self.enter(Some(from.number), from.object, from.powers, holder);
        self.begin(who, transaction, id, holder, wanted).inspect_err(|_| self.unmake(holder))?;
        Ok(None)
    }

    /// Makes a connection. What lies at `holder` is its client's end then.
    pub(super) fn begin(
        &mut self,
        client: TaskId,
        transaction: u64,
        endpoint: ObjectId,
        holder: Holder,
        wanted: Wanted,
    ) -> Result<(), KernelError> {
        let of = self.endpoint(endpoint).ok_or(KernelError::Dead)?;
        let (generation, kind) = (of.generation, of.kind);
        let receiver = of.receiver.clone().ok_or(KernelError::Dead)?;
        if let (Some(client), Some(server)) = (&wanted.interface, &receiver.interface)
            && !server.serves(client)
        {
            let (client, server) = (client.clone(), server.clone());
            return Err(KernelError::Version { client, server });
        }
        self.room_for(client, receiver.task, &wanted)?;

        let (index, generation_of_place) = self.connections.next();
        let id = ConnectionId { index, generation: generation_of_place };
        let own = self.held(holder).map(|grant| grant.number).unwrap();
        self.lies(own, Holder::End(id, Side::Client));
        let serving = *self.grant(receiver.grant).unwrap();
        let end = Holder::End(id, Side::Server);
        self.enter(Some(serving.number), serving.object, serving.powers, end);
        let ends = [(client, wanted.doorbell), (receiver.task, Doorbell::Futex)];
        let [client_end, server_end] =
            ends.map(|(task, doorbell)| End { task, index: self.word(task), doorbell });
        self.said.push(Effect::MakeSegments {
            pair: id.into(),
            client_bytes: bytes(wanted.requests) as usize,
            server_bytes: bytes(wanted.replies) as usize,
        });
        self.connections.put(Connection {
            client: client_end,
            server: server_end,
            phase: Phase::ClientMaps,
            endpoint,
            kind,
            generation,
            wanted,
            serves: receiver.interface,
        });
        let answer = Answer::Connecting { connection: id, status_index: client_end.index };
        let attach = vec![Attach::OwnSegment(id.into(), Side::Client)];
        self.answer_with(client, transaction, Ok(answer), attach);
        Ok(())
    }

    /// The next word of a task's status segment.
    pub(super) fn word(&mut self, who: TaskId) -> u32 {
        let task = self.task_mut(who).unwrap();
        task.next_word += 1;
        task.next_word - 1
    }

    fn room_for(&self, client: TaskId, server: TaskId, wanted: &Wanted) -> Result<(), KernelError> {
        let quotas = &self.quotas;
        let used = self.ends(client, Side::Client);
        fits(used, 1, quotas.client_connections, "connections of a client")?;
        let used = self.ends(server, Side::Server);
        fits(used, 1, quotas.server_connections, "connections of a server")?;
        let more = bytes(wanted.requests) + bytes(wanted.replies);
        let what = "bytes of a client's segments";
        fits(self.segment_bytes(client), more, quotas.segment_bytes, what)?;
        self.share_fits(client, server, bytes(wanted.replies))
    }

    /// Whether one more connection of this client to this server fits, with so many bytes.
    pub(super) fn share_fits(
        &self,
        client: TaskId,
        server: TaskId,
        more: u64,
    ) -> Result<(), KernelError> {
        let both = |it: &&Connection| it.client.task == client && it.server.task == server;
        let shared: Vec<_> = self.connections.iter().map(|(_, it)| it).filter(both).collect();
        let limit = self.quotas.connections_to_one_server;
        fits(shared.len() as u64, 1, limit, "connections of a client to one server")?;
        let used = shared.iter().map(|it| bytes(it.wanted.replies)).sum();
        let limit = self.quotas.reply_bytes_of_one_server;
        fits(used, more, limit, "bytes of a server's segments for one client")
    }

    pub(super) fn segment_bytes(&self, client: TaskId) -> u64 {
        let own = self.connections.iter().filter(|(_, it)| it.client.task == client);
        own.map(|(_, it)| bytes(it.wanted.requests) + bytes(it.wanted.replies)).sum()
    }

    pub(super) fn mapped(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ConnectionId,
        doorbell: Doorbell,
    ) -> Reply {
        self.side(who, id)?;
        let connection = self.connection_mut(id).unwrap();
        let side = match connection.phase {
            Phase::ClientMaps if connection.client.task == who => {
                connection.phase = Phase::ClientSeals(transaction);
                Side::Client
            }
            Phase::ServerMaps(client) if connection.server.task == who => {
                connection.phase = Phase::ServerSeals(client, transaction);
                connection.server.doorbell = doorbell;
                Side::Server
            }
            _ => return Err(KernelError::Order(String::new())),
        };
        self.said.push(Effect::Seal { pair: id.into(), side });
        Ok(None)
    }

    pub(super) fn sealed(&mut self, id: ConnectionId, side: Side, result: Result<(), KernelError>) {
        let Some(connection) = self.connection_mut(id) else { return };
        let (client, server) = (connection.client, connection.server);
        match (connection.phase, side, result) {
            (Phase::ClientSeals(transaction), Side::Client, Ok(())) => {
                if connection.kind == ObjectKind::Notification {
                    return self.poster_is_ready(id, transaction);
                }
                connection.phase = Phase::ServerMaps(transaction);
                self.introduce(id);
            }
            (Phase::ClientSeals(transaction), Side::Client, Err(error)) => {
                connection.phase = Phase::ClientMaps;
                self.answer(client.task, transaction, Err(error));
                self.end(id, Why::Protocol, Some(Side::Client));
            }
            (Phase::ServerSeals(of_client, of_server), Side::Server, Ok(())) => {
                connection.phase = Phase::Open;
                self.poster_is_met(id);
                self.answer(server.task, of_server, Ok(Answer::Done));
                self.complete(id, of_client);
            }
            (Phase::ServerSeals(of_client, of_server), Side::Server, Err(error)) => {
                connection.phase = Phase::ServerMaps(of_client);
                self.answer(server.task, of_server, Err(error));
                self.end(id, Why::Protocol, Some(Side::Server));
            }
            _ => {}
        }
    }

    /// Only spares are told of in two steps.
    pub(super) fn told(&mut self, _: ConnectionId) {}

    /// Tells the server of a connection.
    pub(super) fn introduce(&mut self, id: ConnectionId) {
        let connection = self.connection(id).unwrap().clone();
        let credentials = self.task(connection.client.task).unwrap().credentials.unwrap();
        let grant = *self.held(Holder::End(id, Side::Client)).unwrap();
        let event = Event::Incoming {
            connection: id,
            endpoint: connection.endpoint,
            kind: connection.kind,
            status_index: connection.server.index,
            badge: grant.powers.badge,
            rights: grant.powers.rights,
            bits: grant.powers.bits,
            priority: grant.powers.priority,
            client: connection.client.task,
            credentials,
            interface: connection.wanted.interface,
            requests: connection.wanted.requests,
            replies: connection.wanted.replies,
            rings: connection.client.doorbell,
            spare: None,
        };
        let mut attach = vec![
            Attach::OwnSegment(id.into(), Side::Server),
            Attach::SealedSegment(id.into(), Side::Client),
            Attach::Wait(id, Side::Server),
        ];
        if connection.client.doorbell == Doorbell::Event {
            attach.push(Attach::Ring(id, Side::Client));
        }
        self.tell(connection.server.task, event, attach);
    }

    fn complete(&mut self, id: ConnectionId, transaction: u64) {
        let Connection { client, server, generation, serves, .. } =
            self.connection(id).unwrap().clone();
        let answer = Answer::Connected {
            connection: id,
            status_index: client.index,
            spare: None,
            server: server.task,
            generation,
            rings: server.doorbell,
            interface: serves,
        };
        let mut attach = vec![Attach::SealedSegment(id.into(), Side::Server)];
        if server.doorbell == Doorbell::Event {
            attach.push(Attach::Ring(id, Side::Server));
        }
        if client.doorbell == Doorbell::Event {
            attach.push(Attach::Wait(id, Side::Client));
        }
        self.answer_with(client.task, transaction, Ok(answer), attach);
        self.said.push(Effect::ForgetSegments(id.into()));
    }

    pub(super) fn disconnect(&mut self, who: TaskId, id: ConnectionId, why: Why) -> Reply {
        let over = &mut self.task_mut(who).unwrap().over;
        for side in SIDES {
            if let Some(at) = over.iter().position(|it| *it == (id, side)) {
                over.remove(at);
                self.acknowledge(who, id, side);
                return Ok(Some(Answer::Done));
            }
        }
        let side = self.side(who, id)?;
        let kernels_own = matches!(why, Why::Dead | Why::Revoked);
        self.end(id, if kernels_own { Why::Closed } else { why }, Some(side));
        Ok(Some(Answer::Done))
    }

    /// The server of a connection that is over was never told of it.
    pub(super) fn unheard(&mut self, server: TaskId, id: ConnectionId) {
        let Some(task) = self.task_mut(server) else { return };
        if let Some(at) = task.over.iter().position(|it| *it == (id, Side::Server)) {
            task.over.remove(at);
            self.acknowledge(server, id, Side::Server);
        }
    }

    pub(super) fn cancel_connection(&mut self, who: TaskId, transaction: u64) {
        let waits = |it: &Connection| {
            it.client.task == who && it.phase.waiting(Side::Client) == Some(transaction)
        };
        let found = self.connections.iter().find(|(_, it)| waits(it)).map(|(id, _)| id);
        if let Some((index, generation)) = found {
            let id = ConnectionId { index, generation };
            self.answer(who, transaction, Err(KernelError::Cancelled));
            self.answered(id);
            self.end(id, Why::Cancelled, Some(Side::Client));
        }
    }

    /// The client's request has been answered, whatever it waits for.
    fn answered(&mut self, id: ConnectionId) {
        let connection = self.connection_mut(id).unwrap();
        // No request has the number 0.
        connection.phase = match connection.phase {
            Phase::ClientSeals(_) => Phase::ClientSeals(0),
            Phase::Stands(_) => Phase::Stands(0),
            Phase::ServerMaps(_) => Phase::ServerMaps(0),
            Phase::ServerSeals(_, server) => Phase::ServerSeals(0, server),
            other => other,
        };
    }

    /// Ends a connection. Who asked for it is not told.
    pub(super) fn end(&mut self, id: ConnectionId, why: Why, asker: Option<Side>) {
        let Some(connection) = self.connection(id).cloned() else { return };
        self.connections.take(of_connection(id));
        for side in SIDES {
            self.unmake(Holder::End(id, side));
        }
        self.void_all(id);
        let there = SIDES.into_iter().filter(|side| connection.end(*side).task != TaskId::KERNEL);
        let state = match why {
            Why::Dead => ConnectionState::Dead,
            Why::Revoked => ConnectionState::Revoked,
            Why::Protocol => ConnectionState::Protocol,
            Why::Denied => ConnectionState::Denied,
            Why::Quota => ConnectionState::Quota,
            _ => ConnectionState::Closed,
        };
        let knowing: Vec<Side> = there.filter(|side| connection.knows(*side)).collect();
        for side in &knowing {
            let end = connection.end(*side);
            if asker != Some(*side)
                && let Some(task) = self.task_mut(end.task)
            {
                task.over.push((id, *side));
            }
            self.status(end.task, end.index, state as u32);
        }
        for side in knowing {
            let task = connection.end(side).task;
            match connection.phase.waiting(side) {
                Some(0) | None if asker == Some(side) => {}
                None => self.tell(task, Event::Closed { connection: id, why }, Vec::new()),
                Some(0) => {}
                Some(transaction) => {
                    self.answer(task, transaction, Err(KernelError::NotCompleted(why)));
                }
            }
        }
        if connection.phase != Phase::Open {
            self.said.push(Effect::ForgetSegments(Pair::Connection(id)));
        }
    }
}
