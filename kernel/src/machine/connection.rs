//! Connections: made step by step, ended at once.
//!
//! The steps are in the essay of the module above. Each end hangs in the derivation tree below the
//! capability that made it: the client's below the one it connected with, the server's below the
//! one it served with. A revocation above either severs the connection.
//!
//! A task may connect to itself. Where a request of such a task leaves open which end it means, it
//! means the client's.

use super::arena::Arena;
use super::endpoint::Wait;
use super::tree::{Holder, Node, NodeId};
use super::words::Words;
use super::{Machine, Reply, label};
use crate::effect::{Attach, Effect, Pair, Side};
use crate::quota::over;
use rendez_protocol::kernel::{Answer, Doorbell, KernelError, ObjectKind, Shape};
use rendez_protocol::quota::Quota;
use rendez_protocol::{
    ArenaId, ConnectionId, Interface, ObjectId, Rights, Slot, SpareId, TaskId, Ticket, limit,
};
use std::collections::{BTreeMap, BTreeSet};

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
    pub(super) fn bytes(&self) -> u64 {
        (self.requests.segment_bytes() as u64).saturating_add(self.reply_bytes())
    }

    /// Bytes of the server's segment.
    pub(super) fn reply_bytes(&self) -> u64 {
        self.replies.segment_bytes() as u64
    }
}

pub(super) fn check_shape(what: &str, shape: Shape) -> Result<(), KernelError> {
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
    pub(super) reused: bool,
    /// Its place in the derivation tree.
    pub(super) node: NodeId,
    /// How it is woken.
    pub(super) doorbell: Doorbell,
}

/// What a connection waits for, with the requests that are answered when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    ClientMaps,
    ClientSeals {
        client: u64,
    },
    /// To a notification: a receiver.
    Stands {
        client: u64,
    },
    ServerMaps {
        client: u64,
    },
    ServerSeals {
        client: u64,
        server: u64,
    },
    /// The shell is telling the server, whose segment was a spare.
    Telling {
        client: u64,
    },
    Open,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) phase: Phase,
    pub(super) endpoint: ObjectId,
    /// The endpoint's incarnation when it was made.
    pub(super) generation: u32,
    pub(super) wanted: Wanted,
    /// What the server speaks.
    pub(super) serves: Option<Interface>,
    /// What is in escrow for it.
    pub(super) tickets: BTreeSet<Ticket>,
    /// What the client's segment was before.
    pub(super) spare: Option<SpareId>,
    /// Arenas, attached or on the way there.
    pub(super) arenas: BTreeMap<ArenaId, Arena>,
    /// How many it has had.
    pub(super) arenas_ever: u32,
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
        let early = matches!(
            self.phase,
            Phase::ClientMaps | Phase::ClientSeals { .. } | Phase::Stands { .. }
        );
        side == Side::Client || !early
    }

    /// Its ends: one to a notification has only the client's before it has met a receiver.
    pub(super) fn sides(&self) -> &'static [Side] {
        if self.server.task == TaskId::KERNEL {
            &[Side::Client]
        } else {
            &[Side::Client, Side::Server]
        }
    }

    /// Which end is `who`'s, as far as it knows.
    pub(super) fn side(&self, who: TaskId) -> Option<Side> {
        [Side::Client, Side::Server]
            .into_iter()
            .find(|side| self.end(*side).task == who && self.knows(*side))
    }

    /// The request of that end's that waits for the connection.
    pub(super) fn waiting(&self, side: Side) -> Option<u64> {
        match (self.phase, side) {
            (
                Phase::ClientSeals { client }
                | Phase::Stands { client }
                | Phase::ServerMaps { client }
                | Phase::ServerSeals { client, .. }
                | Phase::Telling { client },
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
    /// Connects, or waits for a receiver. Needs SEND; to a notification: POST.
    pub(super) fn connect(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        wanted: Wanted,
    ) -> Reply {
        if self.receivable(who, slot)? == ObjectKind::Notification {
            return self.stand(who, transaction, slot, wanted);
        }
        let (from, node) = self.capability_to(who, slot, ObjectKind::Endpoint, Rights::SEND)?;
        wanted.check()?;
        let id = node.object.id();
        self.look_at_receiver(id);
        match self.endpoints.get(&id) {
            Some(endpoint) if endpoint.receiver.is_some() => {}
            Some(endpoint) if !endpoint.receivers.is_zero() => {
                return self.park(who, transaction, slot, from, wanted);
            }
            _ => return Err(KernelError::Dead),
        }
        let below =
            self.tree.make(from, Node { holder: Holder::Parked(id, 0), watches: false, ..node });
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
        self.look_at_receiver(endpoint);
        let Some(target) = self.endpoints.get(&endpoint) else { return Err(KernelError::Dead) };
        let Some(receiver) = target.receiver.clone() else { return Err(KernelError::Dead) };
        let generation = target.generation;
        if let (Some(client), Some(server)) = (&wanted.interface, &receiver.interface)
            && !server.serves(client)
        {
            let (client, server) = (client.clone(), server.clone());
            return Err(KernelError::Version { client, server });
        }
        self.room_for_connection(client, receiver.task, &wanted)?;
        let Some(serving) = self.tree.get(receiver.node).copied() else {
            return Err(KernelError::Dead);
        };

        let id = self.connections.next_id();
        let requests = wanted.requests;
        let bytes = wanted.bytes();
        self.set_holder(node, Holder::End(id, Side::Client));
        let server_node = self.tree.make(
            receiver.node,
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
            self.accounts.spend(&task.draws, Quota::Connections, 1);
            self.accounts.spend(&task.draws, Quota::Bytes, bytes);
            task.connected(receiver.task, wanted.reply_bytes());
        }
        if let Some(task) = self.tasks.get_mut(receiver.task) {
            task.server_connections.add(1);
        }
        self.effects.push(Effect::MakeSegments {
            pair: id.into(),
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
            spare: None,
            arenas: BTreeMap::new(),
            arenas_ever: 0,
        });
        self.open_word(id, Side::Client);
        if let Some((spare, _)) = self.take_spare(client, requests, id.into(), Side::Client) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.spare = Some(spare);
            }
            if let Some(task) = self.tasks.get_mut(client) {
                task.waits.insert(transaction, Wait::Mapped(id));
            }
            self.client_ready(id, transaction);
            return Ok(());
        }
        let answer = Answer::Connecting { connection: id, status_index: client_index };
        let attach = vec![Attach::OwnSegment(Pair::Connection(id), Side::Client)];
        self.answer_with(client, transaction, answer, attach);
        Ok(())
    }

    /// Whether both ends may have one more.
    fn room_for_connection(
        &self,
        client: TaskId,
        server: TaskId,
        wanted: &Wanted,
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
        count.admits(wanted.bytes(), quotas.segment_bytes, "bytes of a client's segments")?;
        self.room(client, Quota::Connections, 1)?;
        self.room(client, Quota::Bytes, wanted.bytes())?;
        let share = of_client.shares.get(&server).copied().unwrap_or_default();
        let limit = quotas.connections_to_one_server;
        share.connections.admits(1, limit, "connections of a client to one server")?;
        let (bytes, limit) = (wanted.reply_bytes(), quotas.reply_bytes_of_one_server);
        share.reply_bytes.admits(bytes, limit, "bytes of a server's segments for one client")?;
        let at_one_end: usize = if client == server { 2 } else { 1 };
        if of_client.words.free() < at_one_end || of_server.words.free() < at_one_end {
            return Err(over("status words of a task", Words::ALL.into(), Words::ALL.into()));
        }
        Ok(())
    }

    pub(super) fn take_word(
        &mut self,
        who: TaskId,
        id: ConnectionId,
        side: Side,
    ) -> Option<(u32, bool)> {
        let task = self.tasks.get_mut(who)?;
        let (index, reused) = task.words.take()?;
        task.connections.insert(index, (id, side));
        Some((index, reused))
    }

    /// Which end of the connection is the task's.
    pub(super) fn end_of(&self, who: TaskId, id: ConnectionId) -> Result<Side, KernelError> {
        let connection = self.connections.get(id);
        connection.and_then(|it| it.side(who)).ok_or(KernelError::BadConnection(id))
    }

    /// The same of a connection that can be used: nothing behind it is revoked, nobody dead.
    pub(super) fn side_of(&self, who: TaskId, id: ConnectionId) -> Result<Side, KernelError> {
        let side = self.end_of(who, id)?;
        let stands = self.connections.get(id).is_some_and(|connection| {
            connection.sides().iter().all(|side| {
                let end = connection.end(*side);
                self.tasks.contains(end.task) && !self.tree.is_doomed(end.node)
            })
        });
        if stands { Ok(side) } else { Err(KernelError::BadConnection(id)) }
    }
}
