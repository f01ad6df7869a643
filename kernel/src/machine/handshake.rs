//! The steps of a connection, from the client's first `Mapped` to its end.
//!
//! The table in the essay of the module above names the phases. A request that waits for a step is
//! remembered in the phase itself, so whatever ends the connection finds who must be answered.

use super::arena::Phase as ArenaPhase;
use super::connection::Phase;
use super::endpoint::Wait;
use super::{Machine, Reply};
use crate::effect::{Attach, Effect, Pair, Side};
use rendez_protocol::kernel::{Answer, Doorbell, Event, KernelError};
use rendez_protocol::quota::Quota;
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, SpareId, TaskId, Why};

impl Machine {
    /// An end has mapped, populated and sealed its own segment.
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
        self.effects.push(Effect::Seal { pair: id.into(), side });
        Ok(None)
    }

    /// A segment was looked at: it is sealed and whole, or is not.
    pub(super) fn seal_done(
        &mut self,
        id: ConnectionId,
        side: Side,
        result: Result<(), KernelError>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match (connection.phase, side) {
            (Phase::ClientSeals { client }, Side::Client) => match result {
                Ok(()) => self.client_ready(id, client),
                Err(error) => {
                    let client_task = connection.client.task;
                    self.end_wait(client_task, client, Err(error));
                    self.end(id, Why::Protocol, Some(Side::Client));
                }
            },
            (Phase::ServerSeals { client, server }, Side::Server) => match result {
                Ok(()) => {
                    connection.phase = Phase::Open;
                    self.met(id);
                    let Some(connection) = self.connections.get(id) else { return };
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

    /// The client's segment is sealed, and its request waits. With a spare of the server's the
    /// connection is complete as soon as the server is told.
    pub(super) fn client_ready(&mut self, id: ConnectionId, client: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.sides().len() == 1 {
            return self.meet(id, client);
        }
        let (server, shape) = (connection.server.task, connection.wanted.replies);
        let spare = self.take_spare(server, shape, id.into(), Side::Server);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = match spare {
            Some((_, doorbell)) => {
                connection.server.doorbell = doorbell;
                Phase::Telling { client }
            }
            None => Phase::ServerMaps { client },
        };
        self.tell_server(id, spare.map(|(spare, _)| spare));
        if spare.is_some() {
            self.effects.push(Effect::Told(id));
        }
    }

    /// The server has been told of a connection with a spare of its own: it is complete.
    pub(super) fn server_told(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && let Phase::Telling { client } = connection.phase
        {
            connection.phase = Phase::Open;
            self.complete(id, client);
        }
    }

    /// Tells the server that somebody wants to connect; or has, if its segment was a spare.
    pub(super) fn tell_server(&mut self, id: ConnectionId, spare: Option<SpareId>) {
        let Some(connection) = self.connections.get(id) else { return };
        let (client, server) = (connection.client, connection.server);
        let credentials = self.tasks.get(client.task).and_then(|task| task.credentials);
        let (Some(node), Some(credentials)) = (self.tree.get(client.node), credentials) else {
            return;
        };
        let event = Event::Incoming {
            connection: id,
            endpoint: connection.endpoint,
            kind: node.object.kind(),
            status_index: server.index,
            badge: node.powers.badge,
            rights: node.powers.rights,
            bits: node.powers.bits,
            priority: node.powers.priority,
            client: client.task,
            credentials,
            interface: connection.wanted.interface.clone(),
            requests: connection.wanted.requests,
            replies: connection.wanted.replies,
            rings: client.doorbell,
            spare,
        };
        let mut attach = Vec::with_capacity(4);
        if spare.is_none() {
            attach.push(Attach::OwnSegment(id.into(), Side::Server));
        }
        attach.push(Attach::SealedSegment(id.into(), Side::Client));
        // Without a spare it has not said yet how it waits.
        if spare.is_none() || server.doorbell == Doorbell::Event {
            attach.push(Attach::Wait(id, Side::Server));
        }
        if client.doorbell == Doorbell::Event {
            attach.push(Attach::Ring(id, Side::Client));
        }
        self.open_word(id, Side::Server);
        self.tell(server.task, event, attach);
    }

    /// Tells the client that its connection is there.
    fn complete(&mut self, id: ConnectionId, transaction: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        let (client, server) = (connection.client, connection.server);
        let answer = Answer::Connected {
            connection: id,
            status_index: client.index,
            spare: connection.spare,
            server: server.task,
            generation: connection.generation,
            rings: server.doorbell,
            interface: connection.serves.clone(),
        };
        let mut attach = vec![Attach::SealedSegment(id.into(), Side::Server)];
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
        self.effects.push(Effect::ForgetSegments(id.into()));
    }

    /// Ends a connection at the wish of one of its ends.
    pub(super) fn disconnect(&mut self, who: TaskId, id: ConnectionId, why: Why) -> Reply {
        if let Some(task) = self.tasks.get_mut(who)
            && let Some((&end, &index)) =
                task.lingering.range((id, Side::Client)..=(id, Side::Server)).next()
        {
            // It has ended already; now its status word is not looked at any more.
            task.lingering.remove(&end);
            task.words.put(index);
            self.acknowledge(who, end.0, end.1);
            return Ok(Some(Answer::Done));
        }
        let side = self.end_of(who, id)?;
        // These two are the kernel's to say.
        let why = if matches!(why, Why::Dead | Why::Revoked) { Why::Closed } else { why };
        self.end(id, why, Some(side));
        Ok(Some(Answer::Done))
    }

    /// Ends a connection because a capability behind it is revoked; `by` which revocation.
    pub(super) fn sever(&mut self, id: ConnectionId, by: Option<u64>) {
        if let Some(revocation) = by {
            self.wants_acknowledgement(revocation, id);
        }
        self.end(id, Why::Revoked, None);
    }

    /// The server of a connection that has ended was never told that it began.
    pub(super) fn never_heard(&mut self, who: TaskId, id: ConnectionId) {
        let Some(task) = self.tasks.get_mut(who) else { return };
        if let Some(index) = task.lingering.remove(&(id, Side::Server)) {
            task.words.put(index);
            self.acknowledge(who, id, Side::Server);
        }
    }

    /// Ends a connection, at whatever phase. `asker`, the end that wanted it, is not told again.
    pub(super) fn end(&mut self, id: ConnectionId, why: Why, asker: Option<Side>) {
        let Some(connection) = self.connections.remove(id) else { return };
        for side in connection.sides() {
            self.tree.remove(connection.end(*side).node);
        }
        for ticket in &connection.tickets {
            self.void(*ticket);
        }
        for arena in connection.arenas.values() {
            self.give_back(connection.client.task, connection.server.task, arena);
        }
        let bytes = connection.bytes();
        if let Some(task) = self.tasks.get_mut(connection.client.task) {
            task.client_connections.sub(1);
            task.segment_bytes.sub(bytes);
            let [_, _, _, connections, _, of_bytes] = task.draws;
            self.accounts.repay(connections, Quota::Connections, 1);
            self.accounts.repay(of_bytes, Quota::Bytes, bytes);
            task.disconnected(connection.server.task, connection.wanted.reply_bytes());
        }
        let sides = connection.sides();
        if sides.contains(&Side::Server)
            && let Some(task) = self.tasks.get_mut(connection.server.task)
        {
            task.server_connections.sub(1);
        }
        for &side in sides {
            let end = connection.end(side);
            if let Some(task) = self.tasks.get_mut(end.task) {
                task.connections.remove(&end.index);
                // An end that has not asked for this may go on looking at its word.
                if connection.knows(side) && asker != Some(side) {
                    task.lingering.insert((id, side), end.index);
                } else {
                    task.words.put(end.index);
                }
            }
            if connection.knows(side) {
                self.set_status(end.task, end.index, state_after(why) as u32);
            }
        }
        for (arena, ended) in &connection.arenas {
            for &side in sides {
                self.arena_refused(connection.end(side).task, side, *arena, ended, why);
            }
            if ended.phase != ArenaPhase::Attached {
                self.effects.push(Effect::ForgetSegments(Pair::Arena(id, *arena)));
            }
        }
        for &side in sides.iter().filter(|side| connection.knows(**side)) {
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
        if connection.phase != Phase::Open {
            self.effects.push(Effect::ForgetSegments(id.into()));
        }
        self.leave(id, &connection);
    }
}

/// What the status words say of a connection that ended so.
fn state_after(why: Why) -> ConnectionState {
    match why {
        Why::Dead => ConnectionState::Dead,
        Why::Revoked => ConnectionState::Revoked,
        Why::Protocol => ConnectionState::Protocol,
        Why::Denied => ConnectionState::Denied,
        Why::Quota => ConnectionState::Quota,
        _ => ConnectionState::Closed,
    }
}
