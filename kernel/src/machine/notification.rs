//! Notifications: bits that many post and one receives.
//!
//! To the kernel a notification is much like an endpoint: the same capabilities with RECEIVE, the one
//! receiver at a time, incarnations, watches. Whoever posts has a connection to it whose two segments
//! are the smallest there are, and in which bits cross and no messages. No bit passes the kernel.
//!
//! What is different is the order of the steps. The poster's segment comes first and may *stand* there
//! for as long as nobody receives: bits are posted into it meanwhile, and whoever becomes the receiver
//! finds them.
//!
//! | phase | it waits for | next |
//! |---|---|---|
//! | `ClientMaps` | the poster's `Mapped` | the shell looks whether its segment is sealed |
//! | `ClientSeals` | the shell | the receiver is told: `Incoming`; or there is none |
//! | `Stands` | a receiver | it is told: `Incoming` |
//! | `ServerMaps`, `ServerSeals`, `Open` | as for an endpoint | |
//!
//! A connection has no server's end before it has met a receiver. Until it is open, the poster's status
//! word says `Waiting`; it says `Open` before the receiver hears `Done`, and before that an honest
//! receiver takes no bit. So a poster that has written its data and still sees `Waiting` knows that
//! whatever bit of its own is taken is taken after that, and need not be posted once more.
//!
//! A receiver is told of [`MEETING_MAX`] posters at a time, and of the next when it has taken one in: who
//! comes back to thousands that stand is not told of all of them at once.
//!
//! A segment that a receiver has mapped is never shown to the next one. When the receiver dies the
//! connection has ended, and its poster makes another when it posts next.

use super::connection::{Connection, End, Phase, Wanted};
use super::endpoint::{Endpoint, Receiver};
use super::tree::{Holder, Node, Object, Powers};
use super::words::Words;
use super::{Machine, Reply};
use crate::effect::{Attach, Effect, Pair, Side};
use crate::quota::{Count, over};
use rendez_protocol::kernel::{Answer, Doorbell, How, KernelError, ObjectKind, Shape};
use rendez_protocol::quota::Quota;
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Why};
use std::collections::{BTreeMap, BTreeSet};

/// All rights that there are to a notification.
pub(super) const NOTIFICATION_RIGHTS: Rights = Rights::RECEIVE
    .union(Rights::POST)
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT);

/// Connections to one notification that its receiver has been told of and not yet taken in.
const MEETING_MAX: usize = 16;

impl Machine {
    /// Makes a notification.
    pub(super) fn create_notification(&mut self, who: TaskId) -> Reply {
        self.space_for(who, 1)?;
        self.room(who, Quota::Endpoints, 1)?;
        let limit = self.quotas.notifications;
        let id = ObjectId(self.number());
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        task.notifications.admits(1, limit, "notifications of a task")?;
        task.notifications.add(1);
        let draws = task.draws;
        self.accounts.spend(&draws, Quota::Endpoints, 1);
        self.endpoints.insert(id, Endpoint::new(ObjectKind::Notification, who, &draws));
        let powers = Powers::first(NOTIFICATION_RIGHTS);
        Ok(Some(Answer::Slot(self.place(
            who,
            None,
            Object::Notification(id),
            powers,
            How::Created,
        )?)))
    }

    /// What a capability must name to be received from or connected to: a notification if it is one,
    /// else an endpoint.
    pub(super) fn receivable(&self, who: TaskId, slot: Slot) -> Result<ObjectKind, KernelError> {
        let (_, node) = self.capability(who, slot)?;
        Ok(match node.object.kind() {
            ObjectKind::Notification => ObjectKind::Notification,
            ObjectKind::Task | ObjectKind::Endpoint | ObjectKind::Region => ObjectKind::Endpoint,
        })
    }

    /// Makes a poster's connection, whether or not anybody receives. Needs POST.
    pub(super) fn stand(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        wanted: Wanted,
    ) -> Reply {
        let (from, node) = self.capability_to(who, slot, ObjectKind::Notification, Rights::POST)?;
        check_wanted(&wanted)?;
        let notification = node.object.id();
        if self.endpoints.get(&notification).is_none_or(|it| it.receivers.is_zero()) {
            return Err(KernelError::Dead);
        }
        self.room_to_stand(who, &wanted)?;
        let id = self.connections.next_id();
        let Some((index, reused)) = self.take_word(who, id, Side::Client) else { return Ok(None) };
        let holder = Holder::End(id, Side::Client);
        let own = self.tree.make(from, Node { holder, watches: false, ..node });
        if let Some(task) = self.tasks.get_mut(who) {
            task.client_connections.add(1);
            task.segment_bytes.add(wanted.bytes());
            self.accounts.spend(&task.draws, Quota::Connections, 1);
            self.accounts.spend(&task.draws, Quota::Bytes, wanted.bytes());
        }
        self.effects.push(Effect::MakeSegments {
            pair: id.into(),
            client_bytes: wanted.requests.segment_bytes(),
            server_bytes: wanted.replies.segment_bytes(),
        });
        let doorbell = wanted.doorbell;
        self.connections.insert(Connection {
            client: End { task: who, index, reused, node: own, doorbell },
            // Nobody's yet.
            server: End {
                task: TaskId::KERNEL,
                index: 0,
                reused: false,
                node: own,
                doorbell: Doorbell::Futex,
            },
            phase: Phase::ClientMaps,
            endpoint: notification,
            generation: 0,
            wanted,
            serves: None,
            tickets: BTreeSet::new(),
            spare: None,
            arenas: BTreeMap::new(),
            arenas_ever: 0,
        });
        self.set_status(who, index, ConnectionState::Waiting as u32);
        let answer = Answer::Connecting { connection: id, status_index: index };
        let attach = vec![Attach::OwnSegment(Pair::Connection(id), Side::Client)];
        self.answer_with(who, transaction, answer, attach);
        Ok(None)
    }

    /// A poster's segment is ready, or there is a receiver now: brings them together if both are so.
    pub(super) fn meet(&mut self, id: ConnectionId, client: u64) {
        let Some(connection) = self.connections.get(id) else { return };
        self.look_at_receiver(connection.endpoint);
        let Some(connection) = self.connections.get(id) else { return };
        let (notification, own) = (connection.endpoint, connection.client.node);
        if self.tree.is_doomed(own) {
            return self.end(id, Why::Revoked, None);
        }
        self.look_at_receiver(notification);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let target = self.endpoints.get_mut(&notification);
        let Some(target) = target.filter(|target| !target.receivers.is_zero()) else {
            return self.end(id, Why::Dead, None);
        };
        let Some(receiver) = target.receives_more() else {
            target.standing.insert(id);
            connection.phase = Phase::Stands { client };
            return;
        };
        let (generation, poster) = (target.generation, connection.client.task);
        let Some(serving) = self.tree.get(receiver.node).copied() else { return };
        if self.room_to_meet(poster, receiver.task).is_err() {
            return self.end(id, Why::Quota, None);
        }
        let Some((index, reused)) = self.take_word(receiver.task, id, Side::Server) else { return };
        let holder = Holder::End(id, Side::Server);
        let node = self.tree.make(receiver.node, Node { holder, watches: false, ..serving });
        let task = receiver.task;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.server = End { task, index, reused, node, doorbell: Doorbell::Futex };
        connection.generation = generation;
        connection.phase = Phase::ServerMaps { client };
        let reply_bytes = connection.wanted.reply_bytes();
        if let Some(task) = self.tasks.get_mut(poster) {
            task.connected(receiver.task, reply_bytes);
        }
        if let Some(task) = self.tasks.get_mut(task) {
            task.server_connections.add(1);
        }
        if let Some(target) = self.endpoints.get_mut(&notification) {
            target.meeting.insert(id);
        }
        self.tell_server(id, None);
    }

    /// There is a receiver, or it has taken a poster in: it meets more of those who wait for it.
    pub(super) fn meet_next(&mut self, notification: ObjectId) {
        while let Some(target) = self.endpoints.get_mut(&notification)
            && target.receives_more().is_some()
            && let Some(id) = target.standing.pop_first()
        {
            if let Some(connection) = self.connections.get(id)
                && let Phase::Stands { client } = connection.phase
            {
                self.meet(id, client);
            }
        }
    }

    /// There can be no receiver any more: nobody waits for one.
    pub(super) fn nobody_to_meet(&mut self, notification: ObjectId) {
        let target = self.endpoints.get_mut(&notification);
        let standing = target.map(|target| core::mem::take(&mut target.standing));
        for id in standing.unwrap_or_default() {
            self.end(id, Why::Dead, None);
        }
    }

    /// A connection has ended, which may be one that stands, or that a receiver was told of.
    pub(super) fn leave(&mut self, id: ConnectionId, connection: &Connection) {
        if let Some(target) = self.endpoints.get_mut(&connection.endpoint) {
            target.standing.remove(&id);
            if target.meeting.remove(&id) {
                self.meet_next(connection.endpoint);
            }
        }
    }

    /// A connection is about to be open: says so to a poster, before its receiver takes any bit.
    pub(super) fn met(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let (poster, node) = (connection.client, self.tree.get(connection.client.node));
        if node.is_some_and(|node| node.object.kind() == ObjectKind::Notification) {
            let notification = connection.endpoint;
            self.set_status(poster.task, poster.index, ConnectionState::Open as u32);
            if let Some(target) = self.endpoints.get_mut(&notification)
                && target.meeting.remove(&id)
            {
                self.meet_next(notification);
            }
        }
    }

    /// Whether a poster may have one connection more.
    fn room_to_stand(&self, who: TaskId, wanted: &Wanted) -> Result<(), KernelError> {
        let (quotas, Some(task)) = (&self.quotas, self.tasks.get(who)) else { return Ok(()) };
        let count = task.client_connections;
        count.admits(1, quotas.client_connections, "connections of a client")?;
        let count = task.segment_bytes;
        count.admits(wanted.bytes(), quotas.segment_bytes, "bytes of a client's segments")?;
        self.room(who, Quota::Connections, 1)?;
        self.room(who, Quota::Bytes, wanted.bytes())?;
        let mut waits = Count::default();
        waits.add(task.waits.len() as u64);
        waits.admits(1, quotas.parked, "requests of a task that wait")?;
        words_left(task.words.free())
    }

    /// Whether its receiver may.
    fn room_to_meet(&self, poster: TaskId, receiver: TaskId) -> Result<(), KernelError> {
        let quotas = &self.quotas;
        let (Some(poster), Some(task)) = (self.tasks.get(poster), self.tasks.get(receiver)) else {
            return Err(KernelError::Dead);
        };
        let count = task.server_connections;
        count.admits(1, quotas.server_connections, "connections of a server")?;
        let share = poster.shares.get(&receiver).copied().unwrap_or_default();
        let limit = quotas.connections_to_one_server;
        share.connections.admits(1, limit, "connections of a client to one server")?;
        let (bytes, limit) =
            (Shape::SMALLEST.segment_bytes() as u64, quotas.reply_bytes_of_one_server);
        share.reply_bytes.admits(bytes, limit, "bytes of a server's segments for one client")?;
        words_left(task.words.free())
    }

    /// Checks what must hold of the connections that wait for a receiver.
    pub(super) fn check_standing(&self, id: ObjectId, target: &Endpoint) {
        for connection in &target.standing {
            let found = self.connections.get(*connection);
            assert!(
                found.is_some_and(|it| {
                    it.endpoint == id && matches!(it.phase, Phase::Stands { .. })
                }),
                "{connection} does not wait for a receiver of {id:?}"
            );
        }
        for connection in &target.meeting {
            let found = self.connections.get(*connection);
            let phase = found.filter(|it| it.endpoint == id).map(|it| it.phase);
            assert!(
                matches!(phase, Some(Phase::ServerMaps { .. } | Phase::ServerSeals { .. })),
                "{connection} is not on its way to a receiver of {id:?}"
            );
        }
        assert!(target.meeting.len() <= MEETING_MAX, "too many at once for a receiver of {id:?}");
        let waits = !target.standing.is_empty();
        let nobody = target.receives_more().is_some() || target.receivers.is_zero();
        assert!(!waits || !nobody, "posters of {id:?} wait in vain");
        match target.kind {
            ObjectKind::Notification => assert!(target.parked.is_empty(), "a connect waits"),
            _ => assert!(target.standing.is_empty(), "a client of an endpoint stands"),
        }
    }
}

impl Endpoint {
    /// Its receiver, if that is to be told of one more poster now.
    fn receives_more(&self) -> Option<Receiver> {
        self.receiver.clone().filter(|_| self.meeting.len() < MEETING_MAX)
    }
}

fn check_wanted(wanted: &Wanted) -> Result<(), KernelError> {
    for (what, shape) in [("requests", wanted.requests), ("replies", wanted.replies)] {
        let Shape { lines, area_bytes } = shape;
        let smallest = Shape::SMALLEST;
        for (what, value, allowed) in [
            (format!("{what}.lines"), lines, smallest.lines),
            (format!("{what}.area_bytes"), area_bytes, smallest.area_bytes),
        ] {
            if value != allowed {
                let allowed = format!("{allowed}, for a notification");
                return Err(KernelError::BadValue { what, value: value.into(), allowed });
            }
        }
    }
    if wanted.interface.is_some() {
        return Err(KernelError::Order("a notification speaks no interface".into()));
    }
    Ok(())
}

fn words_left(free: usize) -> Result<(), KernelError> {
    if free > 0 {
        return Ok(());
    }
    Err(over("status words of a task", Words::ALL.into(), Words::ALL.into()))
}
