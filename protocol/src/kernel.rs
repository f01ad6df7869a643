//! Requests to the kernel, its answers and its events.
//!
//! They travel over the task's kernel socket (`SOCK_SEQPACKET`), one frame a packet: an eight-byte
//! transaction id, the sixteen bytes of a [`Header`](crate::message::Header), then the payload.
//! `code` is one of [`frame`]. The first frame of a task is [`Hello`], whose layout never changes;
//! everything after it is postcard of [`Request`], [`Answer`] or [`Event`].
//!
//! Descriptors travel from the kernel to a task and never the other way. Which descriptors come
//! with a frame, and in what order, is said at each variant.

use crate::id::{ArenaId, ConnectionId, ObjectId, Slot, SpareId, TaskId, Ticket};
use crate::injection::{Injection, InjectionId, Pending};
use crate::quota::{Allotment, Holding, Use};
use crate::rights::Rights;
use crate::status::Why;
use crate::version::{Interface, PROTOCOL, Version};
use crate::waits::{EndpointInfo, Held, Look, TaskWaits};
use serde::{Deserialize, Serialize};

/// The `code` of a frame's header.
pub mod frame {
    /// Task to kernel, the first frame: [`Hello`](super::Hello).
    pub const HELLO: u16 = 0;
    /// Task to kernel: [`Request`](super::Request).
    pub const REQUEST: u16 = 1;
    /// Kernel to task: [`Answer`](super::Answer), with the request's transaction id.
    pub const ANSWER: u16 = 2;
    /// Kernel to task: [`Event`](super::Event), transaction id 0.
    pub const EVENT: u16 = 3;
}

/// The environment variable that names the descriptor of an inherited kernel socket.
pub const SOCKET_VARIABLE: &str = "RENDEZ_KERNEL_SOCKET";

/// The environment variable that, if it is there, tells a started task to let no other process trace
/// it (`PR_SET_DUMPABLE`): executing a program has undone what its starter could do about that.
pub const UNDUMPABLE_VARIABLE: &str = "RENDEZ_UNDUMPABLE";

/// The first frame. Its layout is fixed for all versions, so that a mismatch can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the task's library.
    pub version: Version,
}

impl Hello {
    const MAGIC: [u8; 4] = *b"RNDZ";

    /// This library's greeting.
    pub const OURS: Self = Self { version: PROTOCOL };

    /// Eight bytes: `RNDZ`, major, minor, little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&Self::MAGIC);
        bytes[4..6].copy_from_slice(&self.version.major.to_le_bytes());
        bytes[6..].copy_from_slice(&self.version.minor.to_le_bytes());
        bytes
    }

    /// The greeting in `bytes`; what follows its eight bytes is for later versions.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
        let [a, b, c, d, major_low, major_high, minor_low, minor_high] = bytes;
        ([a, b, c, d] == Self::MAGIC).then(|| Self {
            version: Version::new(
                u16::from_le_bytes([major_low, major_high]),
                u16::from_le_bytes([minor_low, minor_high]),
            ),
        })
    }
}

/// Who a process is, as Linux told the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// What sort of object a capability names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A task.
    Task,
    /// An endpoint.
    Endpoint,
    /// A notification: bits that coalesce, posted by many and received by one.
    Notification,
    /// A region of memory.
    Region,
}

/// Who may write a region, and what its readers may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RegionKind {
    /// Nobody writes any more: whoever made it has filled it, unmapped it, and sealed it `WRITE`,
    /// `GROW`, `SHRINK` and `SEAL`. Mapped for reading with `MAP_PRIVATE`, its content stands: it
    /// may be read in place, as a slice.
    Sealed,
    /// Whoever made it goes on writing, through the mapping that it had when it sealed it
    /// `FUTURE_WRITE`, `GROW`, `SHRINK` and `SEAL`, and nobody else ever can. It is read by copies.
    Published,
    /// Every holder of MAP_WRITE writes. Its size stands (`GROW`, `SHRINK`, `SEAL`) and nothing
    /// else. It is read and written by copies. There is no reading without MAP_WRITE: Linux cannot
    /// keep whoever has the descriptor from writing.
    Shared,
}

/// How the reader of one direction wants to be woken. It chooses when the connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Doorbell {
    /// A futex on the writer's doorbell word.
    Futex,
    /// An eventfd in an epoll instance that the reader nests in its own.
    Event,
}

/// The size of one segment of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Lines of the ring, a power of two, at most [`RING_LINES_MAX`](crate::limit::RING_LINES_MAX).
    pub lines: u32,
    /// Bytes of the payload area, a power of two of at least 4096 and at most
    /// [`AREA_BYTES_MAX`](crate::limit::AREA_BYTES_MAX).
    pub area_bytes: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            lines: crate::limit::RING_LINES_DEFAULT,
            area_bytes: crate::limit::AREA_BYTES_DEFAULT,
        }
    }
}

impl Shape {
    /// The smallest there is. Both segments of a connection to a notification have it: bits need no
    /// ring.
    pub const SMALLEST: Self = Self { lines: 1, area_bytes: 4096 };

    /// Whether the sizes are within the limits of the wire.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.lines.is_power_of_two()
            && self.lines <= crate::limit::RING_LINES_MAX
            && self.area_bytes.is_power_of_two()
            && self.area_bytes >= 4096
            && self.area_bytes <= crate::limit::AREA_BYTES_MAX
    }

    /// Bytes of the whole segment: one header page's worth is shared with the ring.
    #[must_use]
    pub const fn segment_bytes(self) -> usize {
        (SEGMENT_HEADER_BYTES + self.lines as usize * crate::limit::LINE_BYTES)
            .next_multiple_of(4096)
            + self.area_bytes as usize
    }
}

/// Bytes of a segment's header, before its ring.
pub const SEGMENT_HEADER_BYTES: usize = 1024;

/// Bounds of a derived capability, beside its rights. `None`: the same as in that which it derives
/// from; more than that has is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// The bits that may be posted with it.
    pub bits: Option<u64>,
    /// The highest priority that a message sent with it may have, from 0, the lowest, to
    /// [`PRIORITY_MAX`](crate::limit::PRIORITY_MAX).
    pub priority: Option<u8>,
}

impl Limits {
    /// As in that which it derives from.
    pub const SAME: Self = Self { bits: None, priority: None };
}

/// A capability that a parent gives to a task it creates, or that the front door gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Give {
    /// The name under which the child finds it.
    pub name: String,
    /// The giver's capability.
    pub slot: Slot,
    /// Rights of the child's capability, a subset of the giver's.
    pub rights: Rights,
    /// Badge of the child's capability, the giver's if `None`.
    pub badge: Option<u64>,
    /// Its other bounds.
    pub limits: Limits,
}

/// What the front door does with processes of a uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorRule {
    /// The effective uid; `None` is every uid for which no rule before this one is.
    pub uid: Option<u32>,
    /// What they are given.
    pub give: Vec<Give>,
    /// What all tasks of one such uid draw on together, set aside while there are any. What is not
    /// named is as the kernel was configured.
    pub quotas: Vec<Allotment>,
}

/// A capability that a task was given at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub capability: Received,
}

/// A capability that has arrived in a task's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Where it lies.
    pub slot: Slot,
    /// What it names.
    pub kind: ObjectKind,
    /// The object's identity, for comparing.
    pub object: ObjectId,
    /// Its rights.
    pub rights: Rights,
    /// Its badge.
    pub badge: u64,
    /// The bits that may be posted with it.
    pub bits: u64,
    /// The highest priority that a message sent with it may have.
    pub priority: u8,
}

/// How an offered capability travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Travel {
    /// The receiver gets one derived from the sender's.
    Mint,
    /// The sender's own goes, with its place in the derivation tree.
    Move,
}

/// One capability in an offer. Needs GRANT; minting with fewer rights or a badge needs MINT too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The sender's capability.
    pub slot: Slot,
    /// Rights of what arrives, a subset of the sender's.
    pub rights: Rights,
    /// Badge of what arrives, the sender's if `None`.
    pub badge: Option<u64>,
    /// Its other bounds.
    pub limits: Limits,
    /// Minted or moved.
    pub travel: Travel,
}

/// What becomes of connects to an endpoint while it has no receiver, but a capability with RECEIVE
/// is left, so that one may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hold {
    /// They are refused at once.
    Fail,
    /// They wait for the next receiver. With none of either they are refused at once, as with
    /// `Fail`.
    Wait {
        /// How many at a time, of all clients together; further ones are refused at once.
        /// `u32::MAX` sets no limit.
        connects: u32,
        /// For how long, in ms, counted from when the endpoint lost its receiver or, without one,
        /// from when this was said. Then those that wait, and all further ones, are refused until
        /// there is a receiver. `u32::MAX` sets no limit.
        milliseconds: u32,
    },
}

impl Hold {
    /// They wait for as long as it takes: how an endpoint begins.
    pub const FOR_EVER: Self = Self::Wait { connects: u32::MAX, milliseconds: u32::MAX };

    /// How many connects may wait.
    #[must_use]
    pub const fn connects(self) -> u32 {
        match self {
            Self::Fail | Self::Wait { milliseconds: 0, .. } => 0,
            Self::Wait { connects, .. } => connects,
        }
    }

    /// For how long they may wait, in ms; `None` if nobody may, or for as long as it takes.
    #[must_use]
    pub const fn limit_ms(self) -> Option<u32> {
        match self {
            Self::Wait { milliseconds, .. } if self.connects() > 0 && milliseconds != u32::MAX => {
                Some(milliseconds)
            }
            _ => None,
        }
    }
}

impl core::fmt::Display for Hold {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Wait { connects, milliseconds } if self.connects() > 0 => {
                match connects {
                    u32::MAX => f.write_str("holds any number of connects")?,
                    connects => write!(f, "holds {connects} connects")?,
                }
                match milliseconds {
                    u32::MAX => Ok(()),
                    milliseconds => write!(f, " for {milliseconds} ms"),
                }
            }
            _ => f.write_str("holds no connects"),
        }
    }
}

/// What a task asks the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The task page that came with [`Answer::Welcome`] is mapped, populated and sealed.
    /// → [`Answer::Done`]
    PageMapped,
    /// Make an endpoint. → [`Answer::Slot`] with all rights of an endpoint.
    CreateEndpoint,
    /// Make a notification. → [`Answer::Slot`] with all rights of a notification. Its receiver is whoever
    /// says [`Request::Serve`]; who posts to it says [`Request::Connect`].
    CreateNotification,
    /// Make a task that has not started. → [`Answer::Task`] and the socket that it must inherit.
    CreateTask {
        /// Its name, for people.
        name: String,
        /// What it is given.
        give: Vec<Give>,
        /// What is set aside for it, and for those whom it creates, of what its creator draws on. Of
        /// the rest it draws on the same as its creator.
        quotas: Vec<Allotment>,
    },
    /// Derive a capability with fewer rights, or another badge. Needs MINT. → [`Answer::Slot`]
    Mint {
        /// From which.
        slot: Slot,
        /// The new one's rights.
        rights: Rights,
        /// The new one's badge; only an unbadged capability (badge 0) can be given one.
        badge: Option<u64>,
        /// Its other bounds.
        limits: Limits,
    },
    /// Move a capability to a new slot; the old slot is stale. → [`Answer::Slot`]
    Move {
        /// Which.
        slot: Slot,
    },
    /// Let go of a capability. Those derived from it pass to its parent. → [`Answer::Done`]
    Delete {
        /// Which.
        slot: Slot,
    },
    /// Delete everything derived from a capability and sever the connections made with what was
    /// derived, those included whose capability is deleted by now. The capability itself, and what
    /// its holder made with it or derives from now on, stay. From now on none of what is deleted can
    /// be used; → [`Answer::Revoked`] when all of it is gone and each server of a severed connection
    /// but the caller has acknowledged, by a [`Request::Disconnect`], that it handles no more of its
    /// messages, or [`REVOKE_GRACE_MS`](crate::limit::REVOKE_GRACE_MS) later. Whoever cancels this
    /// hears no more of it; it is done all the same.
    Revoke {
        /// From which.
        slot: Slot,
    },
    /// What a capability is. → [`Answer::Inspected`]
    Inspect {
        /// Which.
        slot: Slot,
    },
    /// Where a capability came from: who gave it to whom, back to who made its object. With
    /// `slot` alone that capability is meant, and INSPECT on it needed: it names tasks, all of which
    /// had INSPECT themselves and passed it on. With `of`, `slot` must hold a capability to the
    /// kernel's own task with INSPECT, and anybody's may be looked at. → [`Answer::Provenance`]
    Provenance {
        /// Which; or a capability to the kernel's task.
        slot: Slot,
        /// Whose, and where it lies in that task's space.
        of: Option<(TaskId, Slot)>,
    },
    /// Put capabilities into escrow for the other end of a connection. → [`Answer::Ticket`]
    Offer {
        /// Over which connection.
        connection: ConnectionId,
        /// What, all or nothing.
        items: Vec<Offer>,
    },
    /// Take what a ticket stands for. → [`Answer::Received`]
    Accept {
        /// The connection over which the ticket came.
        connection: ConnectionId,
        /// The ticket.
        ticket: Ticket,
    },
    /// Be told of the object's death or restart. Needs WATCH. → [`Answer::Done`], then
    /// [`Event::Watched`], at once if it is already dead.
    Watch {
        /// Which.
        slot: Slot,
    },
    /// Become the receiver of an endpoint or a notification. Needs RECEIVE. → [`Answer::Serving`]
    Serve {
        /// The endpoint or notification.
        slot: Slot,
        /// What is spoken there; `None` accepts any client.
        interface: Option<Interface>,
    },
    /// Say what becomes of connects while an endpoint has no receiver. Needs RECEIVE. Replaces what
    /// was said before; connects that wait already, and may not by the new policy, are refused.
    /// → [`Answer::Done`]
    Hold {
        /// The endpoint.
        slot: Slot,
        /// What.
        hold: Hold,
    },
    /// Be the receiver of an endpoint or a notification no longer. Connections that were made stay; new
    /// ones wait for the next receiver. → [`Answer::Done`], also if the task was not the receiver by this
    /// capability.
    StopReceiving {
        /// The endpoint or notification.
        slot: Slot,
    },
    /// Connect to an endpoint. Needs SEND. → [`Answer::Connecting`]; waits while the endpoint has
    /// no receiver but a task that may bring one back lives, as far as its [`Hold`] allows. If the client has a spare of the shape
    /// `requests`, that becomes its segment, and the answer is [`Answer::Connected`]: at once if the
    /// server has one of the shape `replies`.
    ///
    /// Or connect to a notification, in order to post to it. Needs POST; both shapes are
    /// [`Shape::SMALLEST`], and spares are not used. → [`Answer::Connecting`] at once, with
    /// or without a receiver: from when on the segment is mapped, bits can be posted into it, and the
    /// status word says [`Waiting`](crate::status::ConnectionState::Waiting) until a receiver has them.
    Connect {
        /// The endpoint.
        slot: Slot,
        /// What the client wants to speak; `None` asks nothing.
        interface: Option<Interface>,
        /// The client's own segment: requests.
        requests: Shape,
        /// The server's segment: replies.
        replies: Shape,
        /// How the client is woken.
        doorbell: Doorbell,
    },
    /// An own segment is mapped writable, populated, then sealed, by its owner, `FUTURE_WRITE`,
    /// `GROW`, `SHRINK` and `SEAL`, its descriptor closed. The kernel only looks. From the client:
    /// → [`Answer::Connected`] once the server has done the same. From the server: → [`Answer::Done`].
    /// Bits that a notification's receiver finds in the other's segment it takes only then.
    Mapped {
        /// Which connection.
        connection: ConnectionId,
        /// How the sender of this request is woken (ignored from a client, who said it before).
        doorbell: Doorbell,
    },
    /// End a connection; or, if it has ended, say that its status word is looked at no more, so that
    /// it can be used for another. → [`Answer::Done`]
    Disconnect {
        /// Which.
        connection: ConnectionId,
        /// What the other end is told.
        why: Why,
    },
    /// Give up a request of one's own that has not been answered: it is answered with
    /// [`KernelError::Cancelled`] unless its answer is already on its way. No answer of its own.
    Cancel {
        /// That request's transaction id.
        transaction: u64,
    },
    /// Send a task a POSIX signal. Needs KILL. → [`Answer::Done`]
    Kill {
        /// The task.
        slot: Slot,
        /// The signal's number.
        signal: i32,
    },
    /// Put a fault into a task's transactions to come. Needs INJECT on it, or, with `task`, on the
    /// kernel's own task. While any is pending, the status words of the task's connections say so:
    /// its library asks for it ([`Request::OwnInjections`]) when a transaction comes by, and carries
    /// it out. → [`Answer::Injected`]; to one at
    /// [`Phase::Now`](crate::injection::Phase::Now), when it has struck, [`Answer::Done`]
    Inject {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// With a capability to the kernel's task: which task is meant.
        task: Option<TaskId>,
        /// The fault.
        injection: Injection,
    },
    /// Which injections a task has pending. Needs INJECT, as [`Request::Inject`] does.
    /// → [`Answer::Injections`]
    Injections {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// With a capability to the kernel's task: which task is meant.
        task: Option<TaskId>,
    },
    /// Take an injection back that has not struck. Needs INJECT, as [`Request::Inject`] does.
    /// → [`Answer::Done`], or [`KernelError::BadInjection`]
    CancelInjection {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// With a capability to the kernel's task: which task is meant.
        task: Option<TaskId>,
        /// Which.
        id: InjectionId,
    },
    /// Which injections the sender itself has pending. → [`Answer::Injections`]
    OwnInjections,
    /// An injection into the sender itself is about to strike. → [`Answer::Done`]: it may; or
    /// [`KernelError::BadInjection`]: it was taken back.
    Struck {
        /// Which.
        id: InjectionId,
    },
    /// Everything about every task, a page of it. Needs INSPECT on the kernel's own task.
    /// → [`Answer::Tasks`]
    List {
        /// A capability to the kernel's task.
        slot: Slot,
        /// Where the page begins: 0, then what the page before said.
        from: u32,
    },
    /// A task's use of each quota. Needs INSPECT on that task or on the kernel's own.
    /// → [`Answer::Quotas`]
    Quotas {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// Whose.
        task: TaskId,
    },
    /// The capabilities in a task's space, a page of them. Needs INSPECT on that task or on the
    /// kernel's own. → [`Answer::Held`]
    Held {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// Whose.
        task: TaskId,
        /// Where the page begins: 0, then what the page before said.
        from: u32,
    },
    /// A task's ends of connections, a page of them. Needs INSPECT on that task or on the kernel's
    /// own. → [`Answer::Ends`]
    Ends {
        /// A capability to the task, or to the kernel's.
        slot: Slot,
        /// Whose.
        task: TaskId,
        /// Where the page begins: 0, then what the page before said.
        from: u32,
    },
    /// Read a task's page, in which it counts what it does and says whom it waits for. Needs INSPECT
    /// on the kernel's own task. → [`Answer::Page`]
    Page {
        /// A capability to the kernel's task.
        slot: Slot,
        /// Whose page.
        task: TaskId,
    },
    /// Look whether this task's wait for the answer to a transaction is one of a circle in which every
    /// receiver waits. Of a connection whose client it is; the wait must be published in its page, and
    /// its thread have looked for the answer just now. → [`Answer::Circle`]
    LookForCircle {
        /// Which connection.
        connection: ConnectionId,
        /// Which of its transactions.
        transaction: u64,
    },
    /// What tasks say of their threads: whom they wait for, what they handle. In the order of their
    /// numbers. Needs INSPECT on the kernel's own task. → [`Answer::Waits`]
    Waits {
        /// A capability to the kernel's task.
        slot: Slot,
        /// Those after this one; `None` for the first.
        after: Option<TaskId>,
    },
    /// Which task holds which capabilities, in the order of tasks, then of slots. Needs INSPECT on the
    /// kernel's own task. → [`Answer::Capabilities`]
    Capabilities {
        /// A capability to the kernel's task.
        slot: Slot,
        /// Those after this one; `None` for the first.
        after: Option<(TaskId, Slot)>,
    },
    /// The endpoints that there are, in the order in which they were made, and who serves them. Needs
    /// INSPECT on the kernel's own task. → [`Answer::Endpoints`]
    Endpoints {
        /// A capability to the kernel's task.
        slot: Slot,
        /// Those after this one; `None` for the first.
        after: Option<ObjectId>,
    },
    /// Who is let in at the front door, and what they are given: the first rule for a process's uid
    /// counts, and whoever has none is refused. Needs GRANT on the kernel's own task. Replaces what
    /// was said before. → [`Answer::Done`]
    FrontDoor {
        /// A capability to the kernel's task.
        slot: Slot,
        /// The rules, at most [`DOOR_RULES_MAX`](crate::limit::DOOR_RULES_MAX).
        rules: Vec<DoorRule>,
    },
    /// Make a region. → [`Answer::Region`], a capability with all rights of a region, and the
    /// descriptor to fill it with (a [`RegionKind::Shared`] one is ready at once; the others after
    /// [`Request::RegionSealed`]).
    CreateRegion {
        /// A multiple of 4096, at least that, at most
        /// [`REGION_BYTES_MAX`](crate::limit::REGION_BYTES_MAX).
        bytes: u64,
        /// Who may write it.
        kind: RegionKind,
    },
    /// A region is filled, without a hole, and sealed as its kind wants it, by whoever made it. The
    /// kernel only looks. → [`Answer::Done`], or what is missing: then it can be said again.
    RegionSealed {
        /// A capability to it.
        slot: Slot,
    },
    /// Get a region's descriptor. Needs MAP_READ or, with `write`, MAP_WRITE; a shared region needs
    /// MAP_WRITE in any case. Only a shared region can be mapped for writing. → [`Answer::Mapping`]
    MapRegion {
        /// A capability to it.
        slot: Slot,
        /// Whether to write it.
        write: bool,
    },
    /// Have a segment made in advance, for a connection to come: the next whose end here wants one
    /// of this shape takes it. How many a task may have is its quota; their bytes count as those of
    /// connections. → [`Answer::Spare`]
    Spare {
        /// Its shape.
        shape: Shape,
    },
    /// A spare is mapped writable, populated, sealed and its descriptor closed, as with
    /// [`Request::Mapped`]. → [`Answer::Done`], from when on it may be taken; or what is missing, and
    /// then it is gone.
    SpareMapped {
        /// Which.
        spare: SpareId,
        /// How its owner is woken if it is taken for the server's end of a connection.
        doorbell: Doorbell,
    },
    /// Let go of a spare. → [`Answer::Done`], or [`KernelError::BadSpare`] if it has been taken
    DropSpare {
        /// Which.
        spare: SpareId,
    },
    /// Have memory for leases: an arena that the client writes and, if `replies` is not 0, one that
    /// the server writes, under one id. From the client of a complete connection only; at most
    /// [`ARENAS_MAX`](crate::limit::ARENAS_MAX) at a time. Both count as the client's bytes.
    /// → [`Answer::Attaching`]
    Attach {
        /// Of which connection.
        connection: ConnectionId,
        /// Bytes of the client's own arena: a multiple of 4096, at least that, at most
        /// [`ARENA_BYTES_MAX`](crate::limit::ARENA_BYTES_MAX).
        requests: u32,
        /// Bytes of the server's arena: a multiple of 4096, at most
        /// [`ARENA_BYTES_MAX`](crate::limit::ARENA_BYTES_MAX), or 0 for none.
        replies: u32,
    },
    /// An own arena is mapped, populated, sealed and its descriptor closed, as with
    /// [`Request::Mapped`]; from a server without an arena of its own: the client's is mapped. From
    /// the client: → [`Answer::Attached`] once the server has done the same, or
    /// [`KernelError::NotAttached`]. From the server: → [`Answer::Done`].
    ArenaMapped {
        /// Of which connection.
        connection: ConnectionId,
        /// Which.
        arena: ArenaId,
    },
    /// Let go of a pair of arenas, attached or not; from the server before it has said
    /// [`Request::ArenaMapped`]: refuse it. The other end is told ([`Event::Detached`], or
    /// [`KernelError::NotAttached`] if it waits); mappings stay until their holders unmap them. Of an
    /// arena that the other end has detached meanwhile: [`KernelError::BadArena`], which is no
    /// mistake. → [`Answer::Done`]
    Detach {
        /// Of which connection.
        connection: ConnectionId,
        /// Which.
        arena: ArenaId,
    },
}

/// What the kernel answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Hello`]. Descriptors: the status segment (map for reading), the task page (map for
    /// writing, populate, seal, close, then [`Request::PageMapped`]).
    Welcome {
        /// Who the task is.
        task: TaskId,
        /// The kernel's version.
        version: Version,
        /// A capability to itself.
        own: Received,
        /// What it was given.
        given: Vec<Given>,
    },
    /// It is done.
    Done,
    /// A capability is there.
    Slot(Received),
    /// A task is made. Descriptor: the socket that it must inherit.
    Task {
        /// A capability to it, with all rights of a task.
        capability: Received,
        /// Who it is.
        id: TaskId,
    },
    /// What a revoke did.
    Revoked {
        /// Capabilities deleted.
        capabilities: u32,
        /// Connections severed.
        connections: u32,
        /// Servers that have not acknowledged in time: they may still be handling a message that
        /// came over a severed connection. At most
        /// [`UNACKNOWLEDGED_MAX`](crate::limit::UNACKNOWLEDGED_MAX) are named.
        unacknowledged: Vec<TaskId>,
    },
    /// What a capability is.
    Inspected(Capability),
    /// Where a capability came from.
    Provenance(Provenance),
    /// Capabilities are in escrow.
    Ticket(Ticket),
    /// Capabilities have arrived, in the order of the offer.
    Received(Vec<Received>),
    /// The task is the endpoint's receiver.
    Serving {
        /// The endpoint's incarnation: how many receivers it has had.
        generation: u32,
        /// Who could send to it now.
        senders: Senders,
    },
    /// A connection is being made. Descriptor: the client's own segment (map for writing,
    /// populate, seal, close, then [`Request::Mapped`]).
    Connecting {
        /// Which.
        connection: ConnectionId,
        /// The index of its word in the client's status segment.
        status_index: u32,
    },
    /// The connection is complete. Descriptors: the server's segment (map for reading), then, if
    /// `rings` is [`Doorbell::Event`], the eventfd that rings the server, then, if the client chose
    /// [`Doorbell::Event`], the epoll instance it waits on.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// The index of its word in the client's status segment.
        status_index: u32,
        /// The spare that has become the client's own segment, if it was one.
        spare: Option<SpareId>,
        /// The server.
        server: TaskId,
        /// The endpoint's incarnation.
        generation: u32,
        /// How the server is rung.
        rings: Doorbell,
        /// What the server speaks.
        interface: Option<Interface>,
    },
    /// Tasks, as many as one frame holds.
    Tasks {
        /// Each.
        tasks: Vec<TaskInfo>,
        /// Where the next page begins, if there is one.
        next: Option<u32>,
    },
    /// A task's use of each quota, those that are shared out first.
    Quotas(Vec<Use>),
    /// Capabilities of a task, by slot.
    Held {
        /// Each.
        capabilities: Vec<Received>,
        /// Where the next page begins, if there is one.
        next: Option<u32>,
    },
    /// A task's ends of connections.
    Ends {
        /// Each.
        ends: Vec<EndInfo>,
        /// Where the next page begins, if there is one.
        next: Option<u32>,
    },
    /// An injection is pending.
    Injected {
        /// Which.
        id: InjectionId,
    },
    /// The injections that are pending, oldest first.
    Injections(Vec<Pending>),
    /// A task's page. Descriptor: that page, sealed: nobody but the task writes it.
    Page,
    /// Whether a wait is one of a circle.
    Circle(Look),
    /// What tasks say of their threads.
    Waits {
        /// Task by task.
        tasks: Vec<TaskWaits>,
        /// Whether there are more after these.
        more: bool,
    },
    /// Who holds what.
    Capabilities {
        /// One by one.
        held: Vec<Held>,
        /// Whether there are more after these.
        more: bool,
    },
    /// The endpoints that there are.
    Endpoints {
        /// One by one.
        endpoints: Vec<EndpointInfo>,
        /// Whether there are more after these.
        more: bool,
    },
    /// It could not be done.
    Error(KernelError),
    /// A spare is being made. Descriptor: it (map for writing, populate, seal, close, then
    /// [`Request::SpareMapped`]).
    Spare {
        /// Which.
        spare: SpareId,
    },
    /// A region is made. Descriptor: the region itself, empty.
    Region(Received),
    /// A region, to be mapped: for reading a sealed or published one, for both a shared one.
    /// Descriptor: the region itself.
    Mapping {
        /// How large it is.
        bytes: u64,
        /// What may be relied on.
        kind: RegionKind,
    },
    /// Arenas are being attached. Descriptor: the client's own arena (map for writing, populate,
    /// seal, close, then [`Request::ArenaMapped`]).
    Attaching {
        /// Of which connection.
        connection: ConnectionId,
        /// Which.
        arena: ArenaId,
    },
    /// The arenas are attached. Descriptor: if the server has one, its arena (map for reading).
    Attached,
}

/// What the kernel tells a task unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A client wants to connect and has mapped its segment. Descriptors: the server's own segment
    /// (map for writing, populate, seal, close), the client's segment (map for reading), the epoll
    /// instance that an [`Doorbell::Event`] server waits on, then, if `rings` is
    /// [`Doorbell::Event`], the eventfd that rings the client. The server then says
    /// [`Request::Mapped`], or [`Request::Disconnect`] to refuse.
    ///
    /// With a `spare` the connection is complete: that spare is the server's own segment. Neither
    /// does its descriptor come, nor is there anything to be said. The epoll instance comes only if
    /// the server chose [`Doorbell::Event`] for the spare.
    Incoming {
        /// Which connection.
        connection: ConnectionId,
        /// The object identity of the endpoint, or of the notification.
        endpoint: ObjectId,
        /// Which of the two it is: a connection to a notification carries bits, and no messages.
        kind: ObjectKind,
        /// The index of its word in the server's status segment.
        status_index: u32,
        /// The badge of the client's capability.
        badge: u64,
        /// The rights of the client's capability.
        rights: Rights,
        /// The bits that may be posted with it.
        bits: u64,
        /// The highest priority that its messages may have.
        priority: u8,
        /// The client.
        client: TaskId,
        /// Who the client's process is.
        credentials: Credentials,
        /// What the client speaks.
        interface: Option<Interface>,
        /// The client's segment.
        requests: Shape,
        /// The server's own segment.
        replies: Shape,
        /// How the client is rung.
        rings: Doorbell,
        /// The spare that has become the server's own segment, if it was one.
        spare: Option<SpareId>,
    },
    /// A connection has ended; its status word says so already.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        why: Why,
    },
    /// A watched object died or restarted.
    Watched {
        /// The capability that it was watched with.
        slot: Slot,
        /// The object.
        object: ObjectId,
        /// What became of it.
        what: Fate,
    },
    /// The last capability with SEND to an endpoint that this task serves is gone. (A receiver's own
    /// counts too, if it has SEND.)
    NoSenders {
        /// The endpoint.
        endpoint: ObjectId,
        /// How many there had ever been then. Another was made meanwhile if there have been more
        /// by now: [`Capability::senders`].
        made: u64,
    },
    /// A client wants to attach arenas and has mapped its own. Descriptors: if `replies` is not 0,
    /// the server's own arena (map for writing, populate, seal, close); the client's arena (map for
    /// reading). The server then says [`Request::ArenaMapped`], or [`Request::Detach`] to refuse.
    Attach {
        /// Of which connection.
        connection: ConnectionId,
        /// Which.
        arena: ArenaId,
        /// Bytes of the client's arena.
        requests: u32,
        /// Bytes of the server's own arena, 0 if it is to have none.
        replies: u32,
    },
    /// The other end has let go of arenas that this end knew of. (The end of a connection is the
    /// end of its arenas, and is told by [`Event::Closed`] alone.)
    Detached {
        /// Of which connection.
        connection: ConnectionId,
        /// Which.
        arena: ArenaId,
    },
}

/// What became of a watched object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// The task is dead; or the endpoint's receiver is, and another may come.
    Died {
        /// The incarnation that ended (an endpoint's), 0 for a task.
        generation: u32,
    },
    /// The endpoint has a receiver again.
    Restarted {
        /// The new incarnation.
        generation: u32,
    },
    /// The endpoint is gone for good.
    Gone,
}

/// Capabilities with SEND to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Senders {
    /// How many there are, tickets included.
    pub present: u64,
    /// How many were ever made. While it stays the same nobody can send who could not before.
    pub made: u64,
}

/// How somebody came to have a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum How {
    /// It is the first one to its object, which its holder made, or is.
    Created,
    /// Its holder minted it from another of its own.
    Minted,
    /// Given to its holder when that task was created, or came through the front door.
    Given,
    /// Kept by the kernel to be given at the front door.
    FrontDoor,
    /// Minted for a message, and accepted.
    Offered,
    /// Moved in a message, and accepted: its holder has what the next one had.
    Moved,
}

/// One step on the way of a capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Who has it, or had it.
    pub task: TaskId,
    /// That task's name. The task may be dead.
    pub name: String,
    /// How it came to that task, from that of the next step.
    pub how: How,
    /// With which rights.
    pub rights: Rights,
    /// With which badge.
    pub badge: u64,
}

/// Where a capability came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Its way, nearest first: the first step is the capability itself, the last, unless some are
    /// omitted, the first one to its object. At most
    /// [`PROVENANCE_STEPS_MAX`](crate::limit::PROVENANCE_STEPS_MAX).
    pub steps: Vec<Step>,
    /// How many steps are not told: too many, or too long gone.
    pub omitted: u32,
}

/// A capability, looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Where it lies, what it names, rights and badge.
    pub itself: Received,
    /// Capabilities derived from it, directly and indirectly.
    pub descendants: u32,
    /// How far it is from the object's first capability.
    pub depth: u32,
    /// Who can send to the endpoint, if this is one with RECEIVE.
    pub senders: Option<Senders>,
}

/// A task, looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Who.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Its process, if it has started.
    pub credentials: Option<Credentials>,
    /// Its parent, if it was created.
    pub parent: Option<TaskId>,
    /// Capabilities it holds.
    pub capabilities: u32,
    /// Connections at whose client end it is.
    pub client_connections: u32,
    /// Connections at whose server end it is.
    pub server_connections: u32,
    /// The quota of which it has least left.
    pub tightest: Option<Use>,
    /// Whom it says it waits for, a claim, filled from its task page by the shell.
    pub waits: Vec<Waiting>,
}

/// A task's end of a connection, looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndInfo {
    /// Which connection.
    pub connection: ConnectionId,
    /// Whether it is the server's end.
    pub serves: bool,
    /// The task at the other end, if there is one yet.
    pub other: Option<TaskId>,
    /// Its name.
    pub name: String,
    /// The identity of the endpoint or notification.
    pub object: ObjectId,
    /// Rights of the client's capability.
    pub rights: Rights,
    /// Its badge.
    pub badge: u64,
    /// Bytes of both segments, and of arenas.
    pub bytes: u64,
}

/// One wait that a task has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The task at the other end, if the connection still exists.
    pub on: Option<TaskId>,
    /// Its name.
    pub name: String,
    /// Since when, in ms.
    pub for_ms: u64,
    /// How much longer at most, in ms; `None` for no end.
    pub left_ms: Option<u64>,
}

/// Why the kernel did not do what was asked. Each names what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum KernelError {
    /// There is no such capability: never was, deleted, moved or revoked.
    #[error("{0} holds no capability (deleted, moved, revoked, or never there)")]
    BadSlot(Slot),
    /// The capability names another sort of object.
    #[error("{slot} holds a capability to a {found:?}, where a {wanted:?} is needed")]
    WrongObject {
        /// Which.
        slot: Slot,
        /// What is needed.
        wanted: ObjectKind,
        /// What it is.
        found: ObjectKind,
    },
    /// The capability lacks rights.
    #[error("refused: {slot} lacks the right {}; it holds {}", .missing.names(), .held.names())]
    MissingRights {
        /// Which.
        slot: Slot,
        /// What is missing.
        missing: Rights,
        /// What it has.
        held: Rights,
    },
    /// More bits were asked for than the capability has.
    #[error("refused: bits {missing:#x} cannot be posted with {slot}, only {held:#x}")]
    Bits {
        /// Which.
        slot: Slot,
        /// Those it lacks.
        missing: u64,
        /// Those it has.
        held: u64,
    },
    /// A higher priority was asked for than the capability has.
    #[error("refused: priority {wanted} is above that of {slot}, which is {held}")]
    Priority {
        /// Which.
        slot: Slot,
        /// What was asked for.
        wanted: u8,
        /// What it has.
        held: u8,
    },
    /// A badge can be given once.
    #[error("{slot} already has badge {badge}; only an unbadged capability can be given one")]
    Badged {
        /// Which.
        slot: Slot,
        /// Its badge.
        badge: u64,
    },
    /// A quota is exhausted.
    #[error("over quota: {what} (limit {limit}, taken {used}{})", crate::quota::held(.holders))]
    Quota {
        /// Which quota, and whose.
        what: String,
        /// Its value.
        limit: u64,
        /// How much of it is taken.
        used: u64,
        /// Who has most of it, as far as the asker may know: itself, and tasks that it has created.
        holders: Vec<Holding>,
    },
    /// Nobody serves the endpoint, and nobody is left who could.
    #[error("the server is dead and nobody is left who could bring it back")]
    Dead,
    /// Nobody serves the endpoint, somebody may bring a server back, and the endpoint's policy is not
    /// to wait for that, or no longer, or not with so many.
    #[error("there is no server now, and this endpoint {hold} ({waiting} wait)")]
    NotHeld {
        /// The policy.
        hold: Hold,
        /// How many connects wait already.
        waiting: u32,
    },
    /// The endpoint has a living receiver already.
    #[error("the endpoint is already served by {0}")]
    Served(TaskId),
    /// The two sides' versions do not fit.
    #[error("version mismatch: the client speaks {client}, the server speaks {server}")]
    Version {
        /// What the client asked for.
        client: Interface,
        /// What the server offers.
        server: Interface,
    },
    /// The task's library and the kernel do not fit.
    #[error("protocol version mismatch: this program speaks {yours}, the kernel speaks {kernel}")]
    Protocol {
        /// The task's.
        yours: Version,
        /// The kernel's.
        kernel: Version,
    },
    /// No such connection, or not the caller's.
    #[error("{0} is not a connection of this task (closed, or never was)")]
    BadConnection(ConnectionId),
    /// The task has no such spare: taken, dropped, or never there.
    #[error("{0} is not there (taken, dropped, or never made)")]
    BadSpare(SpareId),
    /// The connection has no such arena: detached, or never attached.
    #[error("{connection} has no {arena} (detached, or never attached)")]
    BadArena {
        /// Which connection.
        connection: ConnectionId,
        /// Which arena.
        arena: ArenaId,
    },
    /// The other end refused the arenas, or their connection ended, before they were attached.
    #[error("{arena} was not attached: {why}")]
    NotAttached {
        /// Which.
        arena: ArenaId,
        /// Why.
        why: Why,
    },
    /// The ticket is unknown, used, for another connection, or for the other end.
    #[error("the ticket is not valid here (used, withdrawn, or for another connection)")]
    BadTicket,
    /// The task has no such injection pending.
    #[error("{0} is not pending (struck, cancelled, or never there)")]
    BadInjection(InjectionId),
    /// A size is outside the limits.
    #[error("{what} is {value}; it must be {allowed}")]
    BadValue {
        /// What.
        what: String,
        /// What was given.
        value: u64,
        /// What is allowed.
        allowed: String,
    },
    /// A step came out of order.
    #[error("out of order: {0}")]
    Order(String),
    /// The request could not be read.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// Policy refuses it.
    #[error("refused: {0}")]
    Denied(String),
    /// The other end closed before the connection was complete.
    #[error("the connection was not completed: {0}")]
    NotCompleted(Why),
    /// The caller gave it up.
    #[error("cancelled")]
    Cancelled,
    /// Linux refused something.
    #[error("{doing}: {error}")]
    System {
        /// What the kernel was doing.
        doing: String,
        /// What Linux said.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::{Hello, Request, Shape};
    use crate::{decode, encode, version::PROTOCOL};

    #[test]
    fn hello_is_recognised_and_rubbish_is_not() {
        assert_eq!(Hello::from_bytes(&Hello::OURS.to_bytes()), Some(Hello { version: PROTOCOL }));
        assert_eq!(Hello::from_bytes(b"RNDX\x01\0\0\0"), None);
        assert_eq!(Hello::from_bytes(b"RNDZ"), None);
    }

    #[test]
    fn requests_survive_the_wire() {
        let request = Request::CreateTask { name: "file".into(), give: vec![], quotas: vec![] };
        assert_eq!(decode::<Request>(&encode(&request)), Ok(request));
    }

    #[test]
    fn shapes() {
        assert!(Shape::default().is_valid());
        assert!(!Shape { lines: 3, area_bytes: 4096 }.is_valid());
        assert!(!Shape { lines: 32, area_bytes: 0 }.is_valid());
        assert_eq!(Shape::default().segment_bytes(), 4096 + 8192);
    }
}
