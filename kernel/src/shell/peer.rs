//! One process at the other end of a kernel socket, and what waits to be sent to it.
//!
//! Nothing here waits. What cannot be sent at once is queued, in order; while the queue is not
//! empty, nothing more is read from that task. So answers are bounded by what one turn reads.
//! Events are bounded because those that take each other back are not both kept: see
//! [`Peer::post`].

use super::segments::Shared;
use crate::effect::Pair;
use crate::system::{self, Packet, Room};
use rendez_ipc_core::control::{self, Mode};
use rendez_ipc_core::status::{PageReader, StatusWriter};
use rendez_protocol::kernel::{Credentials, Event, frame};
use rendez_protocol::{ObjectId, Slot, TaskId};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Clients, and arenas of theirs, that may wait to be announced to a server that does not read;
/// whoever comes then is refused with `Quota`. Each costs the kernel up to four descriptors.
pub(super) const INCOMING_MAX: usize = 128;
/// Frames that may wait altogether. The rest are ends of connections and fates of what a task
/// watches, of which its quotas allow fewer than this; a task with more is given up.
pub(super) const QUEUE_MAX: usize = 1 << 16;
/// What Linux may still count as unread just while the last packet is being released.
const RELEASING_BYTES: usize = 64;

/// How a process came to its kernel socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It inherited it: its greeting says who it is.
    Created,
    /// It connected to the front door: Linux said who it is.
    FrontDoor(Credentials),
}

/// How a peer's socket is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// For requests.
    Requests,
    /// For room, at each packet that the task reads; and for its end.
    Room,
}

/// What a queued event is about, for those that a later one takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Topic {
    /// Something with descriptors: a client, or its arenas.
    Offered(Pair),
    Watched(Slot, ObjectId),
    NoSenders(ObjectId),
}

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) transaction: u64,
    pub(super) code: u16,
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<Shared>,
    topic: Option<Topic>,
}

impl Outgoing {
    pub(super) fn answer(transaction: u64, payload: Vec<u8>, descriptors: Vec<Shared>) -> Self {
        Self { transaction, code: frame::ANSWER, payload, descriptors, topic: None }
    }

    pub(super) fn event(event: &Event, payload: Vec<u8>, descriptors: Vec<Shared>) -> Self {
        let topic = match event {
            // With a spare it is told for good: it says which spare is taken. A task with more of
            // these than it may have spares has read some.
            Event::Incoming { spare: Some(_), .. } => None,
            Event::Incoming { connection, .. } => Some(Topic::Offered((*connection).into())),
            Event::Attach { connection, arena, .. } => {
                Some(Topic::Offered(Pair::Arena(*connection, *arena)))
            }
            Event::Watched { slot, object, .. } => Some(Topic::Watched(*slot, *object)),
            Event::NoSenders { endpoint, .. } => Some(Topic::NoSenders(*endpoint)),
            Event::Closed { .. } | Event::Detached { .. } => None,
        };
        Self { transaction: 0, code: frame::EVENT, payload, descriptors, topic }
    }
}

/// What became of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing waits any more.
    All,
    /// Some waits until the task reads.
    Waits,
    /// Some waits for Linux, which has no room for anybody: try again soon.
    Again,
    /// The task has closed its end.
    Gone,
    /// The task cannot be sent to any more, though it is there.
    Broken,
}

/// A process at the other end of a kernel socket.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) origin: Origin,
    /// Who it is to the machine; not yet anybody before the greeting at the front door.
    pub(super) task: Option<TaskId>,
    pub(super) process: Option<Credentials>,
    /// Its greeting was answered with a welcome.
    pub(super) welcomed: bool,
    /// Linux does not refuse descriptors for this socket: look before each receive, and close it
    /// where it may block.
    pub(super) suspect: bool,
    pub(super) interest: Interest,
    /// The other end, until the task's creator gets it.
    pub(super) inherited: Option<Shared>,
    pub(super) status: Option<StatusWriter>,
    // Before its file: whoever lets go of the memory last gives it back, and that is for a closer.
    pub(super) page: Option<PageReader>,
    /// The task page, for whoever may read it once it is sealed.
    pub(super) page_file: Option<Shared>,
    /// When it was last looked whether it waits in a circle.
    pub(super) looked_ns: u64,
    room: Room,
    /// By number, in the order in which they are sent.
    queue: BTreeMap<u64, Outgoing>,
    queued_ever: u64,
    /// Sending has stopped at the queue's first frame, for lack of room.
    blocked: bool,
    /// Frames were queued that nobody has tried to send yet.
    pub(super) due: bool,
    /// Which of the queued frames is about it.
    topics: HashMap<Topic, u64>,
    /// How many of the queued frames announce a client or its arenas.
    incoming: usize,
}

impl Peer {
    /// A peer at the other end of `socket`. Whoever inherits one must send its credentials; that
    /// is switched on here unless whoever made the socket did so.
    pub(super) fn new(socket: OwnedFd, origin: Origin, look_always: bool) -> io::Result<Self> {
        let suspect = look_always || !system::refuses_rights(socket.as_fd());
        let mut room = Room::Nothing;
        if origin == Origin::Created {
            rustix::net::sockopt::set_socket_passcred(&socket, true)?;
            room = Room::Credentials;
            // Not with a suspect socket: when looking, a pidfd for which there is no room could not
            // be told from descriptors. Nor before Linux 6.5. Then the process is found by its id.
            if !suspect && system::pass_pidfd(socket.as_fd(), true).is_ok() {
                room = Room::Process;
            }
        }
        Ok(Self {
            socket,
            pidfd: None,
            origin,
            task: None,
            process: None,
            welcomed: false,
            suspect,
            interest: Interest::Requests,
            inherited: None,
            status: None,
            page: None,
            page_file: None,
            looked_ns: 0,
            room,
            queue: BTreeMap::new(),
            queued_ever: 0,
            blocked: false,
            due: false,
            topics: HashMap::new(),
            incoming: 0,
        })
    }

    /// Receives one packet into `buffer`. `InvalidData` if descriptors came with it: it is still
    /// there then, unread.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Packet> {
        if self.suspect {
            let seen = system::receive(self.socket.as_fd(), &mut [0], self.room, true)?;
            if seen.more {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        system::receive(self.socket.as_fd(), buffer, self.room, false)
    }

    /// Whether Linux says with each packet which process sent it, not only by its id.
    pub(super) fn brings_pidfd(&self) -> bool {
        self.room == Room::Process
    }

    /// From now on nobody is asked who they are.
    pub(super) fn known(&mut self) {
        if self.room == Room::Process {
            // It was switched on, so it can be switched off; if not, each packet brings a pidfd
            // that is closed at once.
            if system::pass_pidfd(self.socket.as_fd(), false).is_err() {
                return;
            }
        }
        if self.room != Room::Nothing
            && rustix::net::sockopt::set_socket_passcred(&self.socket, false).is_ok()
        {
            self.room = Room::Nothing;
        }
    }

    /// Whether frames wait for the task to read, or for Linux.
    pub(super) fn is_behind(&self) -> bool {
        self.blocked
    }

    /// Whether another client, or a client's arenas, may be announced.
    pub(super) fn takes_incoming(&self) -> bool {
        self.incoming < INCOMING_MAX
    }

    /// Drops the queued announcement of a connection or of arenas. Whether there was one: then the
    /// task has never heard of it.
    pub(super) fn take_back(&mut self, pair: Pair) -> bool {
        self.take_back_topic(Topic::Offered(pair))
    }

    fn take_back_topic(&mut self, topic: Topic) -> bool {
        let place = self.leaves(topic);
        place.is_some_and(|place| self.queue.remove(&place).is_some())
    }

    /// A queued event leaves the queue. Where it was there.
    fn leaves(&mut self, topic: Topic) -> Option<u64> {
        let place = self.topics.remove(&topic);
        if place.is_some() && matches!(topic, Topic::Offered(_)) {
            self.incoming = self.incoming.saturating_sub(1);
        }
        place
    }

    /// Queues a frame. A later event about the same fate takes the place of one that waits. False if
    /// too many wait.
    pub(super) fn post(&mut self, outgoing: Outgoing) -> bool {
        if let Some(topic) = outgoing.topic {
            self.take_back_topic(topic);
        }
        if self.queue.len() >= QUEUE_MAX {
            return false;
        }
        self.queued_ever = self.queued_ever.wrapping_add(1);
        let place = self.queued_ever;
        if let Some(topic) = outgoing.topic
            && self.topics.insert(topic, place).is_none()
            && matches!(topic, Topic::Offered(_))
        {
            self.incoming = self.incoming.saturating_add(1);
        }
        self.queue.insert(place, outgoing);
        true
    }

    /// Sends as much as there is room for.
    pub(super) fn flush(&mut self) -> Sent {
        let sent = self.send();
        self.due = false;
        self.blocked = matches!(sent, Sent::Waits | Sent::Again);
        sent
    }

    fn send(&mut self) -> Sent {
        while let Some((_, next)) = self.queue.first_key_value() {
            // At most one batch of descriptors is under way to a task: what it does not read
            // counts against this process's limit of descriptors in flight, and all tasks' share.
            if !next.descriptors.is_empty()
                && system::unread(self.socket.as_fd()) >= RELEASING_BYTES
            {
                return Sent::Waits;
            }
            let descriptors: Vec<BorrowedFd<'_>> =
                next.descriptors.iter().map(|shared| shared.as_fd()).collect();
            let sent = control::send_frame(
                &self.socket,
                next.transaction,
                next.code,
                &next.payload,
                &descriptors,
                Mode::Now,
            );
            if let Err(error) = sent {
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => Sent::Waits,
                    Some(libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM) => Sent::Again,
                    Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Sent::Gone,
                    _ => Sent::Broken,
                };
            }
            let was_event = next.code == frame::EVENT;
            if let Some((_, sent)) = self.queue.pop_first()
                && let Some(topic) = sent.topic
            {
                self.leaves(topic);
            }
            if was_event && let Some(status) = &mut self.status {
                status.bump();
            }
        }
        Sent::All
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, Outgoing, Peer};
    use rendez_protocol::kernel::{Event, Fate};
    use rendez_protocol::{ObjectId, Slot};

    #[test]
    fn a_later_fate_takes_the_place_of_one_that_waits() {
        let (ours, _theirs) = crate::shell::socket_pair().unwrap();
        let mut peer = Peer::new(ours, Origin::Created, false).unwrap();
        let mut post = |index, generation| {
            let slot = Slot { index, generation: 0 };
            let what = Fate::Restarted { generation };
            let event = Event::Watched { slot, object: ObjectId(1), what };
            assert!(peer.post(Outgoing::event(&event, vec![generation as u8], vec![])));
        };
        // As many as a task may watch with: each round replaces all of them.
        for round in 0..20 {
            (0..4096).for_each(|index| post(index, round));
        }
        post(0, 20);
        assert_eq!((peer.queue.len(), peer.topics.len()), (4096, 4096));
        let payloads: Vec<u8> = peer.queue.values().map(|frame| frame.payload[0]).collect();
        assert_eq!(payloads[..4095], [19; 4095]);
        assert_eq!(payloads[4095], 20, "it is the last one now");
    }
}
