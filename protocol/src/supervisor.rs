//! The supervisor's interface: what it started, restart on request, stop the system.
//!
//! Server rights: READ to look, MANAGE to restart and stop.

use crate::id::TaskId;
use crate::status::Status;
use crate::version::{Interface, Version};
use serde::{Deserialize, Serialize};

/// The interface's name and version.
#[must_use]
pub fn interface() -> Interface {
    Interface::new("supervisor", Version::new(1, 0))
}

/// Operations: request payload → reply payload.
pub mod operation {
    /// Nothing → `Vec<`[`Server`](super::Server)`>`.
    pub const LIST: u16 = 1;
    /// Server name (`&str`) → nothing, once it has been started again and serves.
    pub const RESTART: u16 = 2;
    /// Nothing → nothing; the whole system then stops.
    pub const STOP: u16 = 3;
}

/// The interface's own failures, as statuses; each reply's payload is a text for people.
pub mod status {
    use super::Status;
    /// No server of that name.
    pub const NOT_FOUND: Status = Status(256);
    /// It could not be started.
    pub const NOT_STARTED: Status = Status(257);
}

/// A server that the supervisor started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its task, while it lives.
    pub task: Option<TaskId>,
    /// Its process, while it lives.
    pub pid: Option<u32>,
    /// How often it has been started.
    pub starts: u32,
    /// How the last one ended, for people; empty if none has.
    pub last_end: String,
}
