//! Who waits for whom, who may connect where: what the kernel says of it.
//!
//! Waits, and what a server's threads handle, are claims of the tasks, from their pages; whose a
//! connection is, who holds which capability and who serves what is the kernel's own knowledge.

use crate::id::{ConnectionId, ObjectId, TaskId};
use crate::kernel::Received;
use serde::{Deserialize, Serialize};

/// What came of [`LookForCircle`](crate::kernel::Request::LookForCircle).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Look {
    /// The wait is in no circle.
    Nothing,
    /// It may be in one. Whoever waits looks for its answer once more and asks again soon.
    Suspected,
    /// It is in a circle in which every receiver waits: nobody will answer unless somebody gives up.
    /// Its members, the caller among them; those whom it may not WATCH are not named.
    Deadlock(Vec<Option<Member>>),
}

/// A task in a circle of waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub task: TaskId,
    /// Its name.
    pub name: String,
}

/// What one task says of its threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskWaits {
    /// Who.
    pub task: TaskId,
    /// How many threads its server has, 0 if it has no server.
    pub receivers: u32,
    /// What it says of them, as far as its page has room.
    pub receiving: Vec<Receiving>,
    /// The waits of its threads, of connections that exist and whose client it is.
    pub waits: Vec<Wait>,
}

/// A thread of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// The thread, as Linux numbers it; 0 if it has not begun.
    pub thread: u32,
    /// The message that it was given last, until it has found nothing more to do.
    pub handles: Option<Handled>,
}

/// A message that a server's thread handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// Of which connection, of which the task is the server.
    pub connection: ConnectionId,
    /// The client.
    pub client: TaskId,
    /// Which transaction.
    pub transaction: u64,
}

/// A thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The thread, as Linux numbers it.
    pub thread: u32,
    /// On which connection.
    pub connection: ConnectionId,
    /// The task at its other end.
    pub server: TaskId,
    /// For which transaction; `None` for notifications.
    pub transaction: Option<u64>,
    /// Whether the waiter has seen its message taken.
    pub taken: bool,
    /// Since when, in ms.
    pub for_ms: u64,
    /// How much longer at most, in ms; `None` for no end.
    pub left_ms: Option<u64>,
}

/// A capability, and who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who holds it.
    pub holder: TaskId,
    /// What it is.
    pub capability: Received,
    /// The task that it names, if it names one.
    pub task: Option<TaskId>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Which.
    pub endpoint: ObjectId,
    /// Who serves it.
    pub server: Option<TaskId>,
    /// How many receivers it has had.
    pub generation: u32,
    /// What is spoken there, if its server says.
    pub interface: Option<String>,
    /// Connects that wait for a server.
    pub connects: u32,
}
