//! The name space, from a client's side.

use crate::client::Client;
use crate::connection::{Connection, Options};
use crate::error::Error;
use crate::task::Task;
use rendez_protocol::kernel::{Given, Limits, Offer, Received, Travel};
use rendez_protocol::limit::PATH_BYTES_MAX;
use rendez_protocol::name::{self, Found, List, Listing, LookUp, Register, operation};
use rendez_protocol::{Interface, Rights, Slot, Status, decode, encode};
use std::time::Duration;

/// The name under which a task is given the name server.
pub(crate) const NAME_SERVER: &str = "name";

/// The name under which a task may be given a capability to the name server that lets it register.
const REGISTER: &str = "register";

/// A registered name. It vanishes when this is dropped and the task has no other connection to the
/// name server, such as other names.
#[derive(Debug)]
pub struct Registration {
    _connection: Connection,
    path: String,
}

impl Registration {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Task {
    /// Connects to the name server by the capability given under `preferred`, else by the usual one.
    fn name_server(&self, preferred: &str) -> Result<Connection, Error> {
        let slot = self.given_as(preferred).or_else(|_| self.given_as(NAME_SERVER))?.slot;
        Connection::open(self, slot, &Options::speaking(name::interface()))
    }

    /// Registers the capability in `slot` under `path`, with all the rights that may travel but
    /// RECEIVE.
    ///
    /// # Errors
    /// What the kernel or the name server says.
    pub fn register(&self, path: &str, slot: Slot) -> Result<Registration, Error> {
        let rights = self.inspect(slot)?.itself.rights - Rights::RECEIVE;
        self.register_with(path, slot, rights)
    }

    /// As [`Task::register`], with `rights`, which must include MINT and GRANT.
    ///
    /// # Errors
    /// As [`Task::register`].
    pub fn register_with(
        &self,
        path: &str,
        slot: Slot,
        rights: Rights,
    ) -> Result<Registration, Error> {
        let may = |given: &Given| given.capability.rights.contains(Rights::REGISTER);
        self.register_at(self.name_server(REGISTER)?, path, slot, rights).map_err(|error| match error {
            Error::Refused { status: Status::DENIED, text } if !self.given().iter().any(may) => {
                let why = "this task was given no capability to register with: whoever starts it gives \
                           one (`rendez run --give register=/name:rn`), and for a program started in a \
                           shell it is the front door's policy (`rendez up --policy operator`)";
                Error::Refused { status: Status::DENIED, text: format!("{text}; {why}") }
            }
            other => other,
        })
    }

    /// As [`Task::register_with`], through the name server whose endpoint the capability in
    /// `name_server` names, which may take `timeout` for each step.
    ///
    /// # Errors
    /// As [`Task::register`].
    pub fn register_through(
        &self,
        name_server: Slot,
        path: &str,
        slot: Slot,
        rights: Rights,
        timeout: Duration,
    ) -> Result<Registration, Error> {
        let options = Options { timeout, ..Options::speaking(name::interface()) };
        self.register_at(Connection::open(self, name_server, &options)?, path, slot, rights)
    }

    fn register_at(
        &self,
        mut connection: Connection,
        path: &str,
        slot: Slot,
        rights: Rights,
    ) -> Result<Registration, Error> {
        let ticket = connection.offer(&[Offer {
            slot,
            rights,
            badge: None,
            limits: Limits::SAME,
            travel: Travel::Mint,
        }])?;
        let request = encode(&Register { path, ticket });
        connection.send(operation::REGISTER, &request, 256)?.ok()?;
        Ok(Registration { _connection: connection, path: path.into() })
    }

    /// Looks `path` up, an endpoint or a region: the capability of the longest registered prefix, its name, and the rest of
    /// the path below it. `rights`: what is wanted, `None` for all that can be had. `wait`: how long
    /// to wait for it to be registered.
    ///
    /// # Errors
    /// What the kernel or the name server says.
    pub fn look_up(
        &self,
        path: &str,
        rights: Option<Rights>,
        wait: Option<Duration>,
    ) -> Result<(Received, String, String), Error> {
        let connection = self.name_server(NAME_SERVER)?;
        let timeout = wait.unwrap_or(Duration::from_secs(10));
        self.look_up_at(connection, LookUp { path, rights, wait: wait.is_some() }, timeout)
    }

    /// As [`Task::look_up`] of a whole name, without waiting for it, through the name server whose
    /// endpoint the capability in `name_server` names, which may take `timeout` for each step.
    ///
    /// # Errors
    /// As [`Task::look_up`]; that `path` lies inside a server.
    pub fn look_up_through(
        &self,
        name_server: Slot,
        path: &str,
        rights: Rights,
        timeout: Duration,
    ) -> Result<Received, Error> {
        let options = Options { timeout, ..Options::speaking(name::interface()) };
        let connection = Connection::open(self, name_server, &options)?;
        let asked = LookUp { path, rights: Some(rights), wait: false };
        let (found, _, rest) = self.look_up_at(connection, asked, timeout)?;
        if rest.is_empty() {
            Ok(found)
        } else {
            self.delete(found.slot)?;
            Err(inside(path))
        }
    }

    fn look_up_at(
        &self,
        mut connection: Connection,
        asked: LookUp<'_>,
        timeout: Duration,
    ) -> Result<(Received, String, String), Error> {
        let request = encode(&asked);
        let deadline = crate::deadline_after(timeout);
        let room = connection.reply_bytes_max().min(PATH_BYTES_MAX + 64);
        let reply = connection.send_until(operation::LOOK_UP, &request, room, deadline)?;
        let found: Found<'_> = decode(reply.ok()?)?;
        let (ticket, name, rest) = (found.ticket, found.name.to_owned(), found.rest.to_owned());
        match connection.accept(ticket)?.as_slice() {
            [one] => Ok((*one, name, rest)),
            other => Err(Error::Protocol(format!("{} capabilities for one name", other.len()))),
        }
    }

    /// What is directly below `path` in the name space, sorted.
    ///
    /// # Errors
    /// What the kernel or the name server says.
    pub fn list_names(&self, path: &str) -> Result<Vec<name::Entry>, Error> {
        let mut connection = self.name_server(NAME_SERVER)?;
        let mut entries: Vec<name::Entry> = Vec::new();
        loop {
            let after = entries.last().map_or("", |entry| &entry.name);
            let request = encode(&List { path, after });
            let room = connection.reply_bytes_max();
            let listing: Listing = decode(connection.send(operation::LIST, &request, room)?.ok()?)?;
            let more = listing.more && !listing.entries.is_empty();
            entries.extend(listing.entries);
            if !more {
                return Ok(entries);
            }
        }
    }
}

impl Client {
    /// A client of what is registered under `path`, which must be the whole path of a name.
    ///
    /// # Errors
    /// What the kernel or the name server says.
    pub fn look_up(task: &Task, path: &str, interface: Option<Interface>) -> Result<Self, Error> {
        let options = Options { interface, ..Options::default() };
        let (client, rest) = Self::look_up_prefix(task, path, options)?;
        if rest.is_empty() { Ok(client) } else { Err(inside(path)) }
    }

    /// A client of the longest registered prefix of `path`, and the rest of the path.
    ///
    /// # Errors
    /// What the kernel or the name server says.
    pub fn look_up_prefix(
        task: &Task,
        path: &str,
        options: Options,
    ) -> Result<(Self, String), Error> {
        let (found, _, rest) = task.look_up(path, None, None)?;
        Ok((Self::new(task, found.slot, options, true)?, rest))
    }
}

fn inside(path: &str) -> Error {
    Error::Refused {
        status: name::status::NOT_FOUND,
        text: format!("{path} lies inside a server, and is no name of its own"),
    }
}
