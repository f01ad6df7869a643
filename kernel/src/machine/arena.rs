//! Arenas: memory for leases, attached to a connection in steps, detached in one.
//!
//! | phase | it waits for | next |
//! |---|---|---|
//! | `ClientMaps` | the client's `ArenaMapped` | the shell looks whether its arena is sealed |
//! | `ClientSeals` | the shell | the server is told: `Attach` |
//! | `ServerMaps` | the server's `ArenaMapped` | the shell looks, if the server has an arena |
//! | `ServerSeals` | the shell | the server hears `Done`, the client `Attached` |
//! | `Attached` | | |
//!
//! These are the steps of a connection (`handshake`), and the same holds for them: the server
//! knows of no arena before it is told and cannot name it; a request that waits is remembered in
//! the phase, so whatever ends the arena finds who must be answered. Only the client asks, for
//! both directions, so a server never waits for a client, and the client pays for both.
//!
//! An arena ends with a `Detach` of either end, with a step that fails, or with its connection.
//! What fails ends the arena alone: the connection and its other arenas stay.

use super::connection::Phase as ConnectionPhase;
use super::endpoint::Wait;
use super::{Machine, Reply};
use crate::effect::{Attach, Effect, Pair, Side};
use crate::quota::over;
use rendez_protocol::kernel::{Answer, Event, KernelError};
use rendez_protocol::quota::Quota;
use rendez_protocol::{ArenaId, ConnectionId, TaskId, Why, limit};

/// What a pair of arenas waits for, with the requests that are answered when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientMaps,
    ClientSeals { client: u64 },
    ServerMaps { client: u64 },
    ServerSeals { client: u64, server: u64 },
    Attached,
}

/// A pair of arenas, or the client's alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arena {
    pub(super) requests: u32,
    pub(super) replies: u32,
    pub(super) phase: Phase,
}

impl Arena {
    /// Bytes of both.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.requests).saturating_add(u64::from(self.replies))
    }

    /// Whether that end has been told of it.
    fn knows(&self, side: Side) -> bool {
        side == Side::Client || !matches!(self.phase, Phase::ClientMaps | Phase::ClientSeals { .. })
    }

    /// The request of that end's that waits for it.
    pub(super) fn waiting(&self, side: Side) -> Option<u64> {
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
}

impl Machine {
    /// Begins to attach arenas.
    pub(super) fn attach(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ConnectionId,
        requests: u32,
        replies: u32,
    ) -> Reply {
        self.side_of(who, id)?;
        check_bytes("requests", requests, 4096)?;
        check_bytes("replies", replies, 0)?;
        let Some(connection) = self.connections.get(id) else { return Ok(None) };
        if connection.client.task != who {
            return Err(KernelError::Order("only the client of a connection attaches".into()));
        }
        if connection.phase != ConnectionPhase::Open {
            return Err(KernelError::Order(format!("{id} is not complete")));
        }
        if connection.arenas.len() >= limit::ARENAS_MAX {
            return Err(over(
                "arenas of a connection",
                limit::ARENAS_MAX as u64,
                limit::ARENAS_MAX as u64,
            ));
        }
        let Some(number) = connection.arenas_ever.checked_add(1) else {
            return Err(over(
                "arenas that a connection has ever had",
                u32::MAX.into(),
                u32::MAX.into(),
            ));
        };
        let server = connection.server.task;
        let added = Arena { requests, replies, phase: Phase::ClientMaps };

        self.room(who, Quota::Bytes, added.bytes())?;
        let Some(client) = self.tasks.get_mut(who) else { return Ok(None) };
        let limit = self.quotas.segment_bytes;
        client.segment_bytes.admits(added.bytes(), limit, "bytes of a client's segments")?;
        let share = client.shares.entry(server).or_default();
        let limit = self.quotas.reply_bytes_of_one_server;
        let what = "bytes of a server's segments for one client";
        share.reply_bytes.admits(replies.into(), limit, what)?;
        share.reply_bytes.add(replies.into());
        client.segment_bytes.add(added.bytes());
        self.accounts.spend(&client.draws, Quota::Bytes, added.bytes());

        let arena = ArenaId(number);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.arenas_ever = number;
            connection.arenas.insert(arena, added);
        }
        let pair = Pair::Arena(id, arena);
        self.effects.push(Effect::MakeSegments {
            pair,
            client_bytes: requests as usize,
            server_bytes: replies as usize,
        });
        let attach = vec![Attach::OwnSegment(pair, Side::Client)];
        self.answer_with(who, transaction, Answer::Attaching { connection: id, arena }, attach);
        Ok(None)
    }

    /// An end has mapped, populated and sealed its own arena, or has none.
    pub(super) fn arena_mapped(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ConnectionId,
        arena: ArenaId,
    ) -> Reply {
        self.arena_side(who, id, arena)?;
        let Some(connection) = self.connections.get_mut(id) else { return Ok(None) };
        let (client, server) = (connection.client.task, connection.server.task);
        let Some(of) = connection.arenas.get_mut(&arena) else { return Ok(None) };
        let side = match of.phase {
            Phase::ClientMaps if client == who => {
                of.phase = Phase::ClientSeals { client: transaction };
                if let Some(task) = self.tasks.get_mut(who) {
                    task.waits.insert(transaction, Wait::Arena(id, arena));
                }
                Side::Client
            }
            Phase::ServerMaps { client } if server == who && of.replies == 0 => {
                of.phase = Phase::Attached;
                self.answer(who, transaction, Ok(Answer::Done));
                self.attached(id, arena, client);
                return Ok(None);
            }
            Phase::ServerMaps { client } if server == who => {
                of.phase = Phase::ServerSeals { client, server: transaction };
                Side::Server
            }
            _ => {
                let text = format!("{arena} of {id} does not wait for this end");
                return Err(KernelError::Order(text));
            }
        };
        self.effects.push(Effect::Seal { pair: Pair::Arena(id, arena), side });
        Ok(None)
    }

    /// An arena was looked at: it is sealed and whole, or is not.
    pub(super) fn arena_sealed(
        &mut self,
        id: ConnectionId,
        arena: ArenaId,
        side: Side,
        result: Result<(), KernelError>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let (client_task, server_task) = (connection.client.task, connection.server.task);
        let Some(of) = connection.arenas.get_mut(&arena) else { return };
        match (of.phase, side, result) {
            (Phase::ClientSeals { client }, Side::Client, Ok(())) => {
                of.phase = Phase::ServerMaps { client };
                let Arena { requests, replies, .. } = *of;
                let event = Event::Attach { connection: id, arena, requests, replies };
                let pair = Pair::Arena(id, arena);
                let own = (replies > 0).then_some(Attach::OwnSegment(pair, Side::Server));
                let attach = own.into_iter().chain([Attach::SealedSegment(pair, Side::Client)]);
                self.tell(server_task, event, attach.collect());
            }
            (Phase::ClientSeals { client }, Side::Client, Err(error)) => {
                self.end_wait(client_task, client, Err(error));
                self.end_arena(id, arena, Why::Protocol, Side::Client);
            }
            (Phase::ServerSeals { client, server }, Side::Server, Ok(())) => {
                of.phase = Phase::Attached;
                self.answer(server_task, server, Ok(Answer::Done));
                self.attached(id, arena, client);
            }
            (Phase::ServerSeals { client, server }, Side::Server, Err(error)) => {
                of.phase = Phase::ServerMaps { client };
                self.answer(server_task, server, Err(error));
                self.end_arena(id, arena, Why::Protocol, Side::Server);
            }
            _ => {}
        }
    }

    /// Tells the client that its arenas are there.
    fn attached(&mut self, id: ConnectionId, arena: ArenaId, transaction: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(of) = connection.arenas.get(&arena) else { return };
        let (client, replies) = (connection.client.task, of.replies);
        let pair = Pair::Arena(id, arena);
        let attach = (replies > 0)
            .then_some(Attach::SealedSegment(pair, Side::Server))
            .into_iter()
            .collect();
        if let Some(task) = self.tasks.get_mut(client)
            && task.waits.remove(&transaction).is_some()
        {
            self.answer_with(client, transaction, Answer::Attached, attach);
        }
        self.effects.push(Effect::ForgetSegments(pair));
    }

    /// Lets go of arenas at the wish of one end.
    pub(super) fn detach(&mut self, who: TaskId, id: ConnectionId, arena: ArenaId) -> Reply {
        let side = self.arena_side(who, id, arena)?;
        let attached = self
            .connections
            .get(id)
            .and_then(|connection| connection.arenas.get(&arena))
            .is_some_and(|arena| arena.phase == Phase::Attached);
        let refused = side == Side::Server && !attached;
        self.end_arena(id, arena, if refused { Why::Denied } else { Why::Closed }, side);
        Ok(Some(Answer::Done))
    }

    /// Ends arenas, at whatever phase. `asker`, the end that wanted it, is not told again; but a
    /// request of its that waits is answered.
    pub(super) fn end_arena(&mut self, id: ConnectionId, arena: ArenaId, why: Why, asker: Side) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(ended) = connection.arenas.remove(&arena) else { return };
        let (client, server) = (connection.client.task, connection.server.task);
        self.give_back(client, server, &ended);
        for (side, task) in [(Side::Client, client), (Side::Server, server)] {
            let answered = self.arena_refused(task, side, arena, &ended, why);
            if !answered && asker != side && ended.knows(side) {
                self.tell(task, Event::Detached { connection: id, arena }, Vec::new());
            }
        }
        if ended.phase != Phase::Attached {
            self.effects.push(Effect::ForgetSegments(Pair::Arena(id, arena)));
        }
    }

    /// The quotas have the bytes of a pair back.
    pub(super) fn give_back(&mut self, client: TaskId, server: TaskId, ended: &Arena) {
        if let Some(task) = self.tasks.get_mut(client) {
            task.segment_bytes.sub(ended.bytes());
            let [.., of_bytes] = task.draws;
            self.accounts.repay(of_bytes, Quota::Bytes, ended.bytes());
            if let Some(share) = task.shares.get_mut(&server) {
                share.reply_bytes.sub(ended.replies.into());
            }
        }
    }

    /// Answers the request of one end that waits for arenas that have ended, if there is one.
    pub(super) fn arena_refused(
        &mut self,
        task: TaskId,
        side: Side,
        arena: ArenaId,
        ended: &Arena,
        why: Why,
    ) -> bool {
        let error = Err(KernelError::NotAttached { arena, why });
        match (side, ended.waiting(side)) {
            (Side::Client, Some(transaction)) => self.end_wait(task, transaction, error),
            (Side::Server, Some(transaction)) => {
                self.answer(task, transaction, error);
                true
            }
            (_, None) => false,
        }
    }

    /// Which end of the arena is the task's, as far as it knows.
    fn arena_side(
        &self,
        who: TaskId,
        id: ConnectionId,
        arena: ArenaId,
    ) -> Result<Side, KernelError> {
        let side = self.side_of(who, id)?;
        self.connections
            .get(id)
            .and_then(|connection| connection.arenas.get(&arena))
            .filter(|arena| arena.knows(side))
            .map(|_| side)
            .ok_or(KernelError::BadArena { connection: id, arena })
    }
}

/// Whether an arena may have so many bytes.
fn check_bytes(what: &str, bytes: u32, least: u32) -> Result<(), KernelError> {
    if (least..=limit::ARENA_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(());
    }
    Err(KernelError::BadValue {
        what: format!("{what}, in bytes,"),
        value: bytes.into(),
        allowed: format!("a multiple of 4096 from {least} to {}", limit::ARENA_BYTES_MAX),
    })
}
