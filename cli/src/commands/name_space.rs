//! Paths of the name space: what they lead to, and the files behind a server.

use crate::arguments::NamePath;
use crate::failure::{DEADLINE, FAILED, Failure, NOT_FOUND, REFUSED};
use crate::output::printable;
use rendez::protocol::file::{self, Entry, Kind, List, Listing, Stat, operation};
use rendez::protocol::kernel::{KernelError, Received};
use rendez::protocol::{decode, encode, limit, name};
use rendez::{Client, Error, Options, Task, Why, deadline_after};
use std::time::Duration;

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Target {
    /// A directory of names.
    Names(Vec<name::Entry>),
    /// A registered server, or something inside it.
    Server(Place),
}

/// A place at a server.
#[derive(Debug)]
pub(super) struct Place {
    /// A capability to it, with all that can be had.
    pub(super) capability: Received,
    /// Under which it is registered.
    pub(super) name: String,
    /// The path below it, empty for the server itself.
    pub(super) rest: String,
}

/// Looks `path` up.
///
/// # Errors
/// If nothing is registered there, or what the name server says.
pub(super) fn find(task: &Task, path: &NamePath) -> Result<Target, Failure> {
    let path = path.as_str();
    if path.split('/').any(|component| component == "..") {
        let why = format!("{path}: `..` is not followed: a path cannot leave what is served");
        return Err(Failure::new(REFUSED, why));
    }
    if path == "/" {
        return Ok(Target::Names(task.list_names(path)?));
    }
    match task.look_up(path, None, None) {
        Ok((capability, name, rest)) => Ok(Target::Server(Place { capability, name, rest })),
        Err(error) if error.status() == Some(name::status::NOT_FOUND) => {
            match task.list_names(path) {
                Ok(entries) => Ok(Target::Names(entries)),
                Err(_) => Err(not_registered(task, path)),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn not_registered(task: &Task, path: &str) -> Failure {
    let known: Vec<_> = task
        .list_names("/")
        .unwrap_or_default()
        .iter()
        .take(16)
        .map(|entry| format!("/{}", printable(&entry.name)))
        .collect();
    let path = printable(path);
    let mut text = format!("nothing is registered under {path}");
    if !known.is_empty() {
        text.push_str(&format!("; the name space has: {}", known.join(", ")));
    }
    Failure::new(NOT_FOUND, text)
}

/// Why the server that is registered as `name` cannot be connected to.
pub(super) fn unreachable(error: Error, name: &str) -> Failure {
    match error {
        Error::Send(error) if error.why() == Why::Deadline => Failure::new(
            DEADLINE,
            format!(
                "{name}: its server did not take the connection in time: it is dead, stopped \
                 or busy; `rendez status` and `rendez restart` are for the system's own servers"
            ),
        ),
        other => Failure::from(other).about(name),
    }
}

/// A path at a server that has files.
#[derive(Debug)]
pub(super) struct Files {
    client: Client,
    name: String,
    rest: String,
}

impl Files {
    /// The file (or what is to become one) at `path`. Each payload area is `area` bytes long.
    ///
    /// # Errors
    /// If nothing is registered there, or it has no files.
    pub(super) fn at(task: &Task, path: &NamePath, area: u32) -> Result<Self, Failure> {
        match find(task, path)? {
            Target::Server(place) => Self::of(task, place, area),
            Target::Names(_) => Err(Failure::new(
                FAILED,
                format!("{path} is a directory of names, not a file; `rendez ls {path}` lists it"),
            )),
        }
    }

    /// The file at `place`.
    ///
    /// # Errors
    /// If the server has no files, or cannot be reached.
    pub(super) fn of(task: &Task, place: Place, area: u32) -> Result<Self, Failure> {
        let options = Options::speaking(file::interface()).with_area(area);
        let Place { capability, name, rest } = place;
        let client =
            Client::connect(task, capability.slot, options).map_err(|error| match error {
                Error::Kernel(KernelError::Version { client, server })
                    if client.name != server.name =>
                {
                    let has = format!("{name} has no files: it speaks {server}, and not {client}");
                    Failure::new(FAILED, has)
                }
                other => unreachable(other, &name),
            })?;
        // To a server that does not say what it speaks the kernel lets everybody.
        let speaks = client.with(deadline_after(CONNECT_TIMEOUT), |connection| {
            Ok(connection.interface().is_some())
        })?;
        if !speaks {
            let why = format!("{name} has no files: its server does not say that it speaks `file`");
            return Err(Failure::new(FAILED, why));
        }
        Ok(Self { client, name, rest })
    }

    /// The client.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// The path below the server.
    pub(super) fn rest(&self) -> &str {
        &self.rest
    }

    /// The whole path.
    pub(super) fn path(&self) -> String {
        match self.rest.as_str() {
            "" => self.name.clone(),
            rest => format!("{}/{rest}", self.name),
        }
    }

    /// The last component of the path below the server, if there is one.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.rest.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The file `name` in the directory that this is.
    pub(super) fn join(mut self, name: &str) -> Self {
        if !self.rest.is_empty() {
            self.rest.push('/');
        }
        self.rest.push_str(name);
        self
    }

    /// The root of what the server serves.
    pub(super) fn at_root(self) -> Self {
        Self { rest: String::new(), ..self }
    }

    /// What the server says, about the whole path where it speaks of the one below it.
    pub(super) fn failure(&self, error: Error) -> Failure {
        let error = match error {
            Error::Refused { status, text } => {
                let named = format!("{:?}: ", self.rest);
                let text = text.strip_prefix(&named).unwrap_or(&text).into();
                Error::Refused { status, text }
            }
            other => other,
        };
        Failure::from(error).about(printable(&self.path()))
    }

    /// An operation that takes the path and answers nothing.
    ///
    /// # Errors
    /// What the server says.
    pub(super) fn change(&self, operation: u16) -> Result<(), Error> {
        self.client.send(operation, &encode(&self.rest), REFUSAL_BYTES).map(drop)
    }

    /// What is known of it.
    ///
    /// # Errors
    /// What the server says.
    pub(super) fn stat(&self) -> Result<Stat, Error> {
        let reply = self.client.send(operation::STAT, &encode(&self.rest), REPLY_BYTES)?;
        Ok(decode(&reply)?)
    }

    /// The entries of the directory that it is.
    ///
    /// # Errors
    /// What the server says.
    pub(super) fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map_or("", |entry| &entry.name);
            let request = encode(&List { path: &self.rest, after });
            let listing: Listing =
                decode(&self.client.send(operation::LIST, &request, REPLY_BYTES)?)?;
            let more = listing.more && !listing.entries.is_empty();
            entries.extend(listing.entries);
            if !more {
                return Ok(entries);
            }
        }
    }
}

/// How long connecting again may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for replies that are neither empty nor a file's content.
const REPLY_BYTES: usize = limit::AREA_BYTES_DEFAULT as usize;

/// Room for a server's words where the reply itself is short.
pub(super) const REFUSAL_BYTES: usize = 1024;

/// A sort of file, for people and scripts.
pub(super) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Other => "other",
    }
}

/// The default payload area: enough for all but contents.
pub(super) const SMALL: u32 = limit::AREA_BYTES_DEFAULT;

#[cfg(test)]
mod tests {
    use super::{REPLY_BYTES, SMALL};
    use rendez::Options;

    #[test]
    fn replies_fit_the_area_that_is_asked_for() {
        let area = Options::default().with_area(SMALL).replies.area_bytes;
        assert!(REPLY_BYTES <= area as usize);
    }
}
