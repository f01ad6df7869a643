//! The server itself: who may register what, what a look-up gives, and who waits for which name.

use crate::limit;
use crate::path::Path;
use crate::tree::{Conflict, Name, Node, Tree};
use rendez::service::{Caller, Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez_protocol::encode::page;
use rendez_protocol::kernel::{KernelError, Limits, ObjectKind, Offer, Received, Travel};
use rendez_protocol::name::{Entry, Found, List, Listing, LookUp, Register, operation, status};
use rendez_protocol::{ConnectionId, Rights, Status, TaskId, Ticket, decode, encode};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Instant;

/// The name server.
#[derive(Debug, Default)]
pub struct NameServer {
    tree: Tree,
    tasks: HashMap<TaskId, Client>,
    waiters: BTreeMap<(Deadline, u64), Waiter>,
    last_waiter: u64,
}

/// A task with at least one connection.
#[derive(Debug, Default)]
struct Client {
    connections: usize,
    names: BTreeSet<Box<str>>,
    waiters: usize,
}

/// When a waiter gives up; in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    At(Instant),
    Never,
}

/// A look-up of what is not registered yet.
#[derive(Debug)]
struct Waiter {
    asker: Asker,
    path: Box<str>,
    wanted: Option<Rights>,
    right: ReplyRight,
}

/// What a look-up needs to know of its caller.
#[derive(Clone, Copy, Debug)]
struct Asker {
    connection: ConnectionId,
    task: TaskId,
    rights: Rights,
    room: usize,
}

impl NameServer {
    /// A name server without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn register(
        &mut self,
        context: &mut dyn Context,
        caller: &Caller,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::REGISTER)?;
        let Register { path: text, ticket } = decode(payload)?;
        let path = match self.admit(caller.task, text) {
            Ok(path) => path,
            Err(refusal) => {
                // Left alone, it would count against the caller until its connection ends.
                if let Ok(received) = context.accept(caller.connection, ticket) {
                    delete_all(context, &received);
                }
                return Err(refusal);
            }
        };
        let capability = accept(context, caller.connection, ticket)?;
        let name = Name { slot: capability.slot, rights: capability.rights, owner: caller.task };
        self.tree.insert(path, name);
        if let Some(client) = self.tasks.get_mut(&caller.task) {
            client.names.insert(text.into());
        }
        self.tell_waiters(context, text);
        Ok(Vec::new())
    }

    /// The path, if `task` may register it.
    fn admit<'a>(&self, task: TaskId, text: &'a str) -> Result<Path<'a>, Refusal> {
        let path = Path::to_register(text)?;
        self.tree.free(path).map_err(|conflict| {
            let why = match conflict {
                Conflict::Registered(owner) => {
                    format!("{text} is taken: {owner} has registered it or a part of it")
                }
                Conflict::Directory => format!("{text} is taken: names are registered below it"),
            };
            Refusal::new(status::TAKEN, why)
        })?;
        let client = self.tasks.get(&task).ok_or_else(not_connected)?;
        if client.names.len() >= limit::NAMES_PER_TASK {
            return over_quota("names of one task", limit::NAMES_PER_TASK);
        }
        if self.tree.len() >= limit::NAMES {
            return over_quota("names", limit::NAMES);
        }
        Ok(path)
    }

    fn unregister(
        &mut self,
        context: &mut dyn Context,
        caller: &Caller,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let text: &str = decode(payload)?;
        let path = Path::new(text)?;
        match self.tree.find(path) {
            Some((name, end)) if end + 1 == text.len() => {
                if name.owner != caller.task {
                    let why = format!("{text} belongs to {}, not to the caller", name.owner);
                    return Err(Refusal::new(status::NOT_YOURS, why));
                }
            }
            _ => return Err(not_found(text)),
        }
        self.remove(context, text);
        Ok(Vec::new())
    }

    /// Ends a name and lets go of its capability.
    fn remove(&mut self, context: &mut dyn Context, text: &str) {
        let Ok(path) = Path::new(text) else { return };
        if let Some(name) = self.tree.remove(path) {
            if let Some(client) = self.tasks.get_mut(&name.owner) {
                client.names.remove(text);
            }
            // If the kernel does not know it, it was revoked: gone is what it should be.
            let _ = context.delete(name.slot);
        }
    }

    fn look_up(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let request: LookUp<'_> = match decode(message.payload) {
            Ok(request) => request,
            Err(error) => return reply.refuse(&error.into()),
        };
        let asker = Asker {
            connection: message.caller.connection,
            task: message.caller.task,
            rights: message.caller.rights,
            room: message.room,
        };
        match self.find(context, asker, request.path, request.rights) {
            Err(refusal) if refusal.status == status::NOT_FOUND && request.wait => {
                let deadline = message.deadline().map_or(Deadline::Never, Deadline::At);
                match self.admit_waiter(asker.task) {
                    Err(refusal) => reply.refuse(&refusal),
                    Ok(id) => {
                        let waiter = Waiter {
                            asker,
                            path: request.path.into(),
                            wanted: request.rights,
                            right: reply.keep(),
                        };
                        self.waiters.insert((deadline, id), waiter);
                    }
                }
            }
            result => reply.result(result),
        }
    }

    /// Counts another waiter of `task`; its number.
    fn admit_waiter(&mut self, task: TaskId) -> Result<u64, Refusal> {
        if self.waiters.len() >= limit::WAITERS {
            return over_quota("waiting look-ups", limit::WAITERS);
        }
        let client = self.tasks.get_mut(&task).ok_or_else(not_connected)?;
        if client.waiters >= limit::WAITERS_PER_TASK {
            return over_quota("waiting look-ups of one task", limit::WAITERS_PER_TASK);
        }
        client.waiters += 1;
        self.last_waiter += 1;
        Ok(self.last_waiter)
    }

    /// A waiter, no longer counted.
    fn take_waiter(&mut self, key: (Deadline, u64)) -> Option<Waiter> {
        let waiter = self.waiters.remove(&key)?;
        if let Some(client) = self.tasks.get_mut(&waiter.asker.task) {
            client.waiters -= 1;
        }
        Some(waiter)
    }

    /// The reply to a look-up: offers a capability to whoever asked.
    fn find(
        &mut self,
        context: &mut dyn Context,
        asker: Asker,
        text: &str,
        wanted: Option<Rights>,
    ) -> Result<Vec<u8>, Refusal> {
        let path = Path::new(text)?;
        let (name, end) = self.tree.find(path).ok_or_else(|| not_found(text))?;
        let registered = &text[..=end];
        let (_, rest) = path.split(end);
        let rights = rights_given(registered, name.rights, asker.rights, wanted)?;
        let reply = |ticket| encode(&Found { name: registered, rest, ticket });
        let longest = reply(Ticket(u64::MAX));
        if longest.len() > asker.room {
            // Becomes `too big`. Offered, its ticket would be lost.
            return Ok(longest);
        }
        let offer = Offer {
            slot: name.slot,
            rights,
            badge: None,
            limits: Limits::SAME,
            travel: Travel::Mint,
        };
        match context.offer(asker.connection, &[offer]) {
            Ok(ticket) => Ok(reply(ticket)),
            Err(KernelError::BadSlot(_)) => {
                self.remove(context, registered);
                Err(not_found(text))
            }
            Err(error) => Err(refused_by_kernel(&format!("offering {registered}"), &error)),
        }
    }

    /// Answers the look-ups that waited for `registered`.
    fn tell_waiters(&mut self, context: &mut dyn Context, registered: &str) {
        let leads_here = |path: &str| {
            path.strip_prefix(registered)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let keys: Vec<_> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| leads_here(&waiter.path))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if let Some(waiter) = self.take_waiter(key) {
                let result = self.find(context, waiter.asker, &waiter.path, waiter.wanted);
                waiter.right.result(result);
            }
        }
    }

    fn list(&self, room: usize, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let List { path: text, after } = decode(payload)?;
        let path = Path::new(text)?;
        let Some(directory) = self.tree.directory(path) else {
            let Some((name, end)) = self.tree.find(path) else { return Err(not_found(text)) };
            let why = format!(
                "{} is registered by {}: ask its server what is below it",
                &text[..=end],
                name.owner
            );
            return Err(Refusal::new(status::NOT_FOUND, why));
        };
        let entries = directory.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).map(
            |(name, node)| Entry {
                name: name.to_string(),
                registered: matches!(node, Node::Leaf(_)),
            },
        );
        let (entries, more) = page(entries, room);
        Ok(encode(&Listing { entries, more }))
    }
}

impl Service for NameServer {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let Message { caller, payload, room, .. } = message;
        let result = match message.operation {
            operation::REGISTER => self.register(context, caller, payload),
            operation::LOOK_UP => return self.look_up(context, message, reply),
            operation::LIST => self.list(room, payload),
            operation::UNREGISTER => self.unregister(context, caller, payload),
            unknown => Err(Refusal::new(
                Status::UNIMPLEMENTED,
                format!("the name server knows no operation {unknown}"),
            )),
        };
        reply.result(result);
    }

    fn connected(&mut self, _context: &mut dyn Context, caller: &Caller) -> Result<(), Refusal> {
        self.tasks.entry(caller.task).or_default().connections += 1;
        Ok(())
    }

    fn disconnected(&mut self, context: &mut dyn Context, caller: &Caller) {
        let gone: Vec<_> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.asker.connection == caller.connection)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.take_waiter(key);
        }
        let Some(client) = self.tasks.get_mut(&caller.task) else { return };
        client.connections = client.connections.saturating_sub(1);
        if client.connections == 0 {
            let names = std::mem::take(&mut client.names);
            self.tasks.remove(&caller.task);
            for name in names {
                self.remove(context, &name);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.waiters.first_key_value()? {
            ((Deadline::At(when), _), _) => Some(*when),
            ((Deadline::Never, _), _) => None,
        }
    }

    fn expired(&mut self, _context: &mut dyn Context, now: Instant) {
        while let Some((&key, _)) = self.waiters.first_key_value() {
            if key.0 > Deadline::At(now) {
                break;
            }
            if let Some(waiter) = self.take_waiter(key) {
                let why = format!("{} was not registered in time", waiter.path);
                waiter.right.refuse(&Refusal::new(Status::DEADLINE, why));
            }
        }
    }
}

/// What somebody with `asker` rights on the name server is given of a capability with `held`.
fn rights_given(
    name: &str,
    held: Rights,
    asker: Rights,
    wanted: Option<Rights>,
) -> Result<Rights, Refusal> {
    let possible = (held & (Rights::KERNEL_MASK | asker)) - Rights::RECEIVE;
    let Some(wanted) = wanted else {
        return Ok(possible - (Rights::MANAGE | Rights::REGISTER));
    };
    let missing = wanted - possible;
    if missing.is_empty() {
        return Ok(wanted);
    }
    let why = format!(
        "refused: {name} cannot be had with {}; this caller can have {}",
        missing.names(),
        possible.names()
    );
    Err(Refusal::new(Status::DENIED, why))
}

/// Takes the one capability that a registration must bring.
fn accept(
    context: &mut dyn Context,
    connection: ConnectionId,
    ticket: Ticket,
) -> Result<Received, Refusal> {
    let received = context
        .accept(connection, ticket)
        .map_err(|error| refused_by_kernel("accepting the capability to register", &error))?;
    let needed = Rights::MINT | Rights::GRANT;
    let why = match received.as_slice() {
        [one]
            if !matches!(
                one.kind,
                ObjectKind::Endpoint | ObjectKind::Notification | ObjectKind::Region
            ) =>
        {
            format!(
                "a capability to a {:?} came; an Endpoint, a Notification or a Region is what can be registered",
                one.kind
            )
        }
        [one] if !one.rights.contains(needed) => format!(
            "refused: the capability to register lacks the right {}; it holds {}",
            (needed - one.rights).names(),
            one.rights.names()
        ),
        [one] => return Ok(*one),
        several => format!("{} capabilities came; a registration takes one", several.len()),
    };
    delete_all(context, &received);
    Err(Refusal::new(status::BAD_CAPABILITY, why))
}

fn delete_all(context: &mut dyn Context, received: &[Received]) {
    for capability in received {
        let _ = context.delete(capability.slot);
    }
}

fn refused_by_kernel(doing: &str, error: &KernelError) -> Refusal {
    let status = match error {
        KernelError::Quota { .. } => Status::QUOTA,
        _ => status::BAD_CAPABILITY,
    };
    Refusal::new(status, format!("{doing}: {error}"))
}

fn not_found(path: &str) -> Refusal {
    Refusal::new(status::NOT_FOUND, format!("nothing is registered under {path}"))
}

fn not_connected() -> Refusal {
    Refusal::new(Status::DENIED, "refused: the caller has no connection")
}

fn over_quota<T>(what: &str, limit: usize) -> Result<T, Refusal> {
    Err(Refusal::new(Status::QUOTA, format!("over quota: {what} (limit {limit})")))
}
