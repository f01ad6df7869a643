//! The signal server's interface: named signals and groups of subscribers.
//!
//! A *signal* is a name (`reload`, `batch/done`). A client *subscribes* to it and says by which bit
//! (0–63) of its connection's notification word it wants to be told. Raising a signal posts that bit
//! to every subscriber; posts coalesce, as notification bits do. A subscriber may *join* groups; a
//! raise can be limited to one group. Masked signals stay pending at the server and are posted when
//! unmasked. Server rights: WRITE to raise.

use crate::id::Ticket;
use crate::status::Status;
use crate::version::{Interface, Version};
use serde::{Deserialize, Serialize};

/// The interface's name and version.
#[must_use]
pub fn interface() -> Interface {
    Interface::new("signal", Version::new(1, 0))
}

/// Operations: request payload → reply payload.
pub mod operation {
    /// [`Subscribe`](super::Subscribe) → nothing.
    pub const SUBSCRIBE: u16 = 1;
    /// Signal name (`&str`) → nothing.
    pub const UNSUBSCRIBE: u16 = 2;
    /// [`Raise`](super::Raise) → how many subscribers it reached (`u32`), those included that mask it
    /// and for whom it is pending now.
    pub const RAISE: u16 = 3;
    /// [`Mask`](super::Mask) → nothing.
    pub const MASK: u16 = 4;
    /// Nothing → names of masked signals that are pending for the caller (`Vec<String>`).
    pub const PENDING: u16 = 5;
    /// Group name (`&str`) → nothing.
    pub const JOIN: u16 = 6;
    /// Group name (`&str`) → nothing.
    pub const LEAVE: u16 = 7;
    /// Nothing → [`Listing`](super::Listing).
    pub const LIST: u16 = 8;
    /// [`Deliver`](super::Deliver) → nothing.
    pub const DELIVER: u16 = 9;
    /// [`Bridge`](super::Bridge) → nothing. Needs the server right REGISTER.
    pub const BRIDGE: u16 = 10;
}

/// The interface's own failures, as statuses; each reply's payload is a text for people.
pub mod status {
    use super::Status;
    /// The caller does not subscribe to it.
    pub const NOT_SUBSCRIBED: Status = Status(256);
    /// The name is empty, too long, or holds control characters.
    pub const BAD_NAME: Status = Status(257);
    /// The bit is not in 0–63.
    pub const BAD_BIT: Status = Status(258);
    /// The POSIX signal is not one that can be bridged.
    pub const BAD_SIGNAL: Status = Status(259);
    /// The kernel refused the capability that came with the request.
    pub const BAD_CAPABILITY: Status = Status(260);
}

/// Subscribe to a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe<'a> {
    /// Its name.
    pub signal: &'a str,
    /// The bit of the connection's notification word that tells of it.
    pub bit: u8,
}

/// Raise a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise<'a> {
    /// Its name.
    pub signal: &'a str,
    /// Only to members of this group; empty for every subscriber.
    pub group: &'a str,
}

/// Mask or unmask a signal for the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask<'a> {
    /// Its name.
    pub signal: &'a str,
    /// Whether it is held back.
    pub masked: bool,
}

/// Have a named signal delivered to a task as a POSIX signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver<'a> {
    /// Its name.
    pub signal: &'a str,
    /// A capability to the task, with KILL, offered over this connection.
    pub ticket: Ticket,
    /// The POSIX signal's number.
    pub posix: i32,
}

/// Raise a named signal whenever the server process receives a POSIX signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge<'a> {
    /// The POSIX signal's number.
    pub posix: i32,
    /// The named signal; empty to end the bridge. A bridge replaces the one that was there, and
    /// stays when the connection that made it ends.
    pub signal: &'a str,
}

/// Signals that somebody subscribes to, and groups with members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Name and number of subscribers, sorted by name.
    pub signals: Vec<(String, u32)>,
    /// Name and number of members, sorted by name.
    pub groups: Vec<(String, u32)>,
}
