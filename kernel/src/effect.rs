//! What the pure machine tells the shell to do.
//!
//! The machine answers nothing directly: every answer, event, descriptor and status word is an
//! effect, in the order in which it must happen. The shell performs them and decides nothing.

use crate::waits::WaitId;
use rendez_protocol::kernel::{Answer, Event, RegionKind};
use rendez_protocol::{ArenaId, ConnectionId, ObjectId, SpareId, TaskId};
use serde::{Deserialize, Serialize};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// The task that connected.
    Client,
    /// The task that serves the endpoint.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What two segments, one written by each end of a connection, are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Pair {
    /// The connection's own: its rings.
    Connection(ConnectionId),
    /// A connection's arenas. The server's may be of no bytes, and then there is none.
    Arena(ConnectionId, ArenaId),
}

impl From<ConnectionId> for Pair {
    fn from(connection: ConnectionId) -> Self {
        Self::Connection(connection)
    }
}

/// A descriptor to send along, by what it is. The shell makes it when it is first named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Attach {
    /// The task's status segment, which only the kernel writes.
    StatusSegment(TaskId),
    /// The task's page, which only the task writes.
    TaskPage(TaskId),
    /// The same, sealed by its owner, for whoever may read it.
    SealedPage(TaskId),
    /// The end of a created task's kernel socket that its process inherits.
    TaskSocket(TaskId),
    /// The segment that `Side` of the connection writes, for its owner to map and to seal.
    OwnSegment(Pair, Side),
    /// The segment that `Side` of the connection writes, seen to be sealed, for the other end.
    SealedSegment(Pair, Side),
    /// The epoll instance on which `Side` waits.
    Wait(ConnectionId, Side),
    /// The eventfd that rings `Side`: the other end gets it.
    Ring(ConnectionId, Side),
    /// A region.
    Region(ObjectId),
    /// A task's spare, for it to map and to seal.
    Spare(TaskId, SpareId),
}

/// What the machine wants to be reminded of. It is the machine's own matter; one that it does not
/// mean any more when it rings, it ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Alarm {
    /// The grace of a revocation is over: servers that have not acknowledged it are named.
    Grace(u64),
    /// This endpoint, which has no receiver, holds connects no longer.
    Hold(ObjectId),
}

/// One step for the shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Answer a request.
    Answer {
        /// Whom.
        to: TaskId,
        /// Which request.
        transaction: u64,
        /// What.
        answer: Answer,
        /// Descriptors, in order.
        attach: Vec<Attach>,
    },
    /// Tell a task something.
    Event {
        /// Whom.
        to: TaskId,
        /// What.
        event: Event,
        /// Descriptors, in order.
        attach: Vec<Attach>,
    },
    /// Make the task's kernel socket pair; the other half of a `TaskSocket`.
    MakeTask(TaskId),
    /// Remember the size of two segments; they are made when first attached.
    MakeSegments {
        /// Which.
        pair: Pair,
        /// Bytes of the client's segment.
        client_bytes: usize,
        /// Bytes of the server's segment.
        server_bytes: usize,
    },
    /// Check the segment that `side` says it has populated and sealed, then call
    /// `Machine::sealed`. The shell adds no seal itself: that could wait for the segment's owner.
    Seal {
        /// Of which pair.
        pair: Pair,
        /// Whose segment.
        side: Side,
    },
    /// Remember the size of a spare; it is made when first attached.
    MakeSpare {
        /// Whose.
        task: TaskId,
        /// Which.
        spare: SpareId,
        /// How large.
        bytes: usize,
    },
    /// Check the spare that its owner says it has populated and sealed, make the doorbell that goes
    /// with it if `bell`, then call `Machine::spare_looked_at`.
    CheckSpare {
        /// Whose.
        task: TaskId,
        /// Which.
        spare: SpareId,
        /// Whether its owner waits by eventfd when it serves with it.
        bell: bool,
    },
    /// A spare becomes the segment that `side` writes of a pair that was just made; if it is the
    /// client's, the pair goes on that task's account. Whatever fails ends the pair.
    UseSpare {
        /// Whose.
        task: TaskId,
        /// Which.
        spare: SpareId,
        /// For what.
        pair: Pair,
        /// Whose it is there.
        side: Side,
    },
    /// Let go of a spare. Not said of those of a task that is gone.
    ForgetSpare(TaskId, SpareId),
    /// The server of this connection was told of it: call `Machine::told`.
    Told(ConnectionId),
    /// Remember a region, which is made when first attached; one that is shared with its size sealed
    /// once and for all.
    MakeRegion {
        /// Which.
        region: ObjectId,
        /// How large.
        bytes: u64,
        /// Which seals it must have.
        kind: RegionKind,
    },
    /// Check that a region is filled and sealed, then call `Machine::region_looked_at`.
    CheckRegion {
        /// Who asked.
        to: TaskId,
        /// Its request.
        transaction: u64,
        /// Which.
        region: ObjectId,
    },
    /// Let go of a region: nobody can name it any more.
    ForgetRegion(ObjectId),
    /// Check that the task's page is sealed and whole, and map it; on failure end the task.
    SealPage(TaskId),
    /// Store a word in a task's status segment, add one to its word 0, wake both words' waiters.
    Status {
        /// Whose.
        task: TaskId,
        /// Which word.
        index: u32,
        /// What.
        word: u32,
    },
    /// Call `Machine::expired` with this alarm in so many milliseconds, not before; if it is set
    /// already, then and not when it was to be.
    After {
        /// How many.
        milliseconds: u32,
        /// What to hand back.
        alarm: Alarm,
    },
    /// Do not call `Machine::expired` with this alarm after all, if it is set.
    Unset(Alarm),
    /// Let go of all descriptors that are left of a pair of segments: both ends have got theirs, or
    /// there is nothing to be got any more. Said once for each pair that was made.
    ForgetSegments(Pair),
    /// Send a task's process a POSIX signal through its pidfd, then answer the request with
    /// `Done` or the error.
    Signal {
        /// Who asked.
        to: TaskId,
        /// Its request.
        transaction: u64,
        /// Whose process.
        task: TaskId,
        /// The signal's number.
        signal: i32,
    },
    /// Answer a `List`: fill in each task's waits from its page, then send.
    Tasks {
        /// Whom.
        to: TaskId,
        /// Which request.
        transaction: u64,
        /// What the machine knows.
        tasks: Vec<rendez_protocol::kernel::TaskInfo>,
        /// Where the next page begins, if there is one.
        next: Option<u32>,
    },
    /// Answer a `Waits`: with what these tasks say in their pages.
    Waits {
        /// Whom.
        to: TaskId,
        /// Which request.
        transaction: u64,
        /// Of whom.
        tasks: Vec<TaskId>,
        /// Whether there are more after these.
        more: bool,
    },
    /// Answer a `LookForCircle`: by what the pages say.
    LookForCircle {
        /// Which request.
        transaction: u64,
        /// The wait, of the task that asks.
        wait: WaitId,
    },
    /// The task is gone from the machine: close its socket (elsewhere: a last close can block),
    /// its pidfd, its segments, its spares.
    ForgetTask(TaskId),
}
