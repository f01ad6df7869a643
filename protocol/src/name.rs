//! The name server's interface: a hierarchical name space of capabilities.
//!
//! A path is absolute, `/` between components, no empty, `.` or `..` component. A registered name
//! is a leaf that may itself serve a tree below it: looking up `/file/a/b` where `/file` is
//! registered answers its capability and the rest of the path, `a/b`. Registered names belong to
//! the task that registered them and vanish when its last connection to the name server ends.

use crate::id::Ticket;
use crate::rights::Rights;
use crate::status::Status;
use crate::version::{Interface, Version};
use serde::{Deserialize, Serialize};

/// The interface's name and version.
#[must_use]
pub fn interface() -> Interface {
    Interface::new("name", Version::new(1, 0))
}

/// Operations.
pub mod operation {
    /// [`Register`](super::Register) → nothing. Needs the server right REGISTER.
    pub const REGISTER: u16 = 1;
    /// [`LookUp`](super::LookUp) → [`Found`](super::Found).
    pub const LOOK_UP: u16 = 2;
    /// [`List`](super::List) → [`Listing`](super::Listing).
    pub const LIST: u16 = 3;
    /// A path (`&str`) → nothing. Only by the task that registered it.
    pub const UNREGISTER: u16 = 4;
}

/// The interface's own failures, as statuses; each reply's payload is a text for people.
pub mod status {
    use super::Status;
    /// Nothing is registered under the name.
    pub const NOT_FOUND: Status = Status(256);
    /// Somebody has registered it already, or it lies below a registered name.
    pub const TAKEN: Status = Status(257);
    /// The path is not one.
    pub const BAD_PATH: Status = Status(258);
    /// It belongs to another task.
    pub const NOT_YOURS: Status = Status(259);
    /// What came with the request is not one endpoint capability with MINT and GRANT.
    pub const BAD_CAPABILITY: Status = Status(260);
}

/// Register a capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register<'a> {
    /// Under which path.
    pub path: &'a str,
    /// One capability with MINT and GRANT, offered over this connection.
    pub ticket: Ticket,
}

/// Look a path up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookUp<'a> {
    /// The path; the longest registered prefix counts.
    pub path: &'a str,
    /// Rights wanted, `None` for all that can be had. Asking for more than there is is refused.
    pub rights: Option<Rights>,
    /// Wait until it is registered, or the transaction's deadline.
    pub wait: bool,
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found<'a> {
    /// The registered name, a prefix of the path.
    pub name: &'a str,
    /// What is left of the path below it, without a leading `/`.
    pub rest: &'a str,
    /// One capability.
    pub ticket: Ticket,
}

/// List what is directly below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<'a> {
    /// The path, `/` for the top.
    pub path: &'a str,
    /// Continue after this name; empty to begin.
    pub after: &'a str,
}

/// Names in order; as many as fit the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Entries, sorted by name.
    pub entries: Vec<Entry>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last component of its path.
    pub name: String,
    /// Whether something is registered there (else it is only a directory of names).
    pub registered: bool,
}
