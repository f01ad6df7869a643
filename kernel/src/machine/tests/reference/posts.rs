//! Notifications: connections into which bits are posted, and that stand until somebody receives.

use super::connections::{Connection, End, Phase, Wanted, bytes};
use super::endpoints::Receiver;
use super::grants::Holder;
use super::{Reference, Reply, bad, fits};
use crate::effect::{Attach, Effect, Side};
use crate::machine::tree::{Object, Powers};
use rendez_protocol::kernel::{Answer, Doorbell, How, KernelError, ObjectKind};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Why};

impl Reference {
    pub(super) fn create_notification(&mut self, who: TaskId) -> Reply {
        self.space_for(who, 1)?;
        let id = self.object();
        let made = self.made(who, ObjectKind::Notification);
        fits(made, 1, self.quotas.notifications, "notifications of a task")?;
        self.new_endpoint(id, ObjectKind::Notification, who);
        let passed = Rights::MINT | Rights::GRANT | Rights::WATCH | Rights::INSPECT;
        let rights = passed | Rights::RECEIVE | Rights::POST;
        let own =
            self.place(who, None, Object::Notification(id), Powers::first(rights), How::Created)?;
        Ok(Some(Answer::Slot(own)))
    }

    /// Connects to a notification.
    pub(super) fn stand(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        wanted: Wanted,
    ) -> Reply {
        let from = self.capability_to(who, slot, ObjectKind::Notification, Rights::POST)?;
        for shape in [wanted.requests, wanted.replies] {
            if shape.lines != 1 {
                return Err(bad(shape.lines));
            }
            if shape.area_bytes != 4096 {
                return Err(bad(shape.area_bytes));
            }
        }
        if wanted.interface.is_some() {
            return Err(KernelError::Order(String::new()));
        }
        let endpoint = from.object.id();
        if self.with(endpoint, Rights::RECEIVE) == 0 {
            return Err(KernelError::Dead);
        }
        let used = self.ends(who, Side::Client);
        fits(used, 1, self.quotas.client_connections, "connections of a client")?;
        let more = bytes(wanted.requests) + bytes(wanted.replies);
        let (used, limit) = (self.segment_bytes(who), self.quotas.segment_bytes);
        fits(used, more, limit, "bytes of a client's segments")?;
        let waits = self.waits(who).len() as u64;
        fits(waits, 1, self.quotas.parked, "requests of a task that wait")?;

        let (index, generation) = self.connections.next();
        let id = ConnectionId { index, generation };
        let word = self.word(who);
        let holder = Holder::End(id, Side::Client);
        self.enter(Some(from.number), from.object, from.powers, holder);
        self.said.push(Effect::MakeSegments {
            pair: id.into(),
            client_bytes: bytes(wanted.requests) as usize,
            server_bytes: bytes(wanted.replies) as usize,
        });
        self.connections.put(Connection {
            client: End { task: who, index: word, doorbell: wanted.doorbell },
            server: End { task: TaskId::KERNEL, index: 0, doorbell: Doorbell::Futex },
            phase: Phase::ClientMaps,
            endpoint,
            kind: ObjectKind::Notification,
            generation: 0,
            wanted,
            serves: None,
        });
        self.status(who, word, ConnectionState::Waiting as u32);
        let answer = Answer::Connecting { connection: id, status_index: word };
        let attach = vec![Attach::OwnSegment(id.into(), Side::Client)];
        self.answer_with(who, transaction, Ok(answer), attach);
        Ok(None)
    }

    /// A poster's segment is ready, or there is a receiver now.
    pub(super) fn poster_is_ready(&mut self, id: ConnectionId, transaction: u64) {
        let connection = self.connection(id).unwrap();
        let (endpoint, poster) = (connection.endpoint, connection.client.task);
        let reply_bytes = bytes(connection.wanted.replies);
        if self.with(endpoint, Rights::RECEIVE) == 0 {
            return self.end(id, Why::Dead, None);
        }
        let of = self.endpoint(endpoint).unwrap();
        let generation = of.generation;
        let Some(Receiver { task, grant, .. }) = of.receiver.clone() else {
            self.connection_mut(id).unwrap().phase = Phase::Stands(transaction);
            return;
        };
        let used = self.ends(task, Side::Server);
        let room = fits(used, 1, self.quotas.server_connections, "")
            .and_then(|()| self.share_fits(poster, task, reply_bytes));
        if room.is_err() {
            return self.end(id, Why::Quota, None);
        }
        let index = self.word(task);
        let serving = *self.grant(grant).unwrap();
        self.enter(Some(grant), serving.object, serving.powers, Holder::End(id, Side::Server));
        let connection = self.connection_mut(id).unwrap();
        connection.server = End { task, index, doorbell: Doorbell::Futex };
        connection.generation = generation;
        connection.phase = Phase::ServerMaps(transaction);
        self.introduce(id);
    }

    /// The posters of a notification that wait for a receiver.
    fn standing(&self, endpoint: ObjectId) -> Vec<(ConnectionId, u64)> {
        self.connections
            .iter()
            .filter(|(_, it)| it.endpoint == endpoint)
            .filter_map(|((index, generation), it)| match it.phase {
                Phase::Stands(transaction) => {
                    Some((ConnectionId { index, generation }, transaction))
                }
                _ => None,
            })
            .collect()
    }

    pub(super) fn posters_meet(&mut self, endpoint: ObjectId) {
        for (id, transaction) in self.standing(endpoint) {
            self.poster_is_ready(id, transaction);
        }
    }

    pub(super) fn nobody_to_meet(&mut self, endpoint: ObjectId) {
        for (id, _) in self.standing(endpoint) {
            self.end(id, Why::Dead, None);
        }
    }

    /// A poster's bits are taken from now on.
    pub(super) fn poster_is_met(&mut self, id: ConnectionId) {
        let connection = self.connection(id).unwrap();
        let (kind, client) = (connection.kind, connection.client);
        if kind == ObjectKind::Notification {
            self.status(client.task, client.index, ConnectionState::Open as u32);
        }
    }
}
