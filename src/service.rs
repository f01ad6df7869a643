//! What a server's logic is written against. It names no process and no transport: the same
//! [`Service`] runs over rings between processes and by direct call in a unit test.

use crate::lease::{Lease, LeaseError, LeaseMut, ReplySpan};
use crate::region::EmptyRegion;
use parking_lot::{Condvar, Mutex};
use rendez_ipc_core::lease_server::{ReplyRoom, ReplyRoomError};
use rendez_ipc_core::platform::{Host, Platform};
use rendez_ipc_core::server::{Port, Taken};
use rendez_protocol::kernel::{Credentials, Fate, KernelError, Offer, Received};
use rendez_protocol::limit::LEASES_MAX;
use rendez_protocol::{ConnectionId, Interface, ObjectId, Rights, Slot, Status, TaskId, Ticket};
use std::sync::Arc;
use std::time::Instant;

/// Who is at the other end of a connection, as the kernel told the server.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The connection.
    pub connection: ConnectionId,
    /// The client's task.
    pub task: TaskId,
    /// The endpoint it came through.
    pub endpoint: ObjectId,
    /// The badge of the client's capability.
    pub badge: u64,
    /// The rights of the client's capability, the server's own ones among them.
    pub rights: Rights,
    /// The bits that the client may post, if it may post at all.
    pub bits: u64,
    /// The highest priority that the client's messages have, whatever they claim.
    pub priority: u8,
    /// The client's process.
    pub credentials: Credentials,
    /// What the client speaks.
    pub interface: Option<Interface>,
}

impl Caller {
    /// `Ok` if the caller holds all of `rights`, else a refusal that says what is missing.
    ///
    /// # Errors
    /// [`Refusal`] with [`Status::DENIED`].
    pub fn require(&self, rights: Rights) -> Result<(), Refusal> {
        let missing = rights - self.rights;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Refusal::new(
                Status::DENIED,
                format!(
                    "refused: the capability lacks the right {}; it holds {}",
                    missing.names(),
                    self.rights.names()
                ),
            ))
        }
    }
}

/// A status other than OK, with a text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The status that the client is answered.
    pub status: Status,
    /// What was wrong and what to do.
    pub text: String,
}

impl Refusal {
    /// A refusal of `status` that says `text`.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<rendez_protocol::DecodeError> for Refusal {
    fn from(error: rendez_protocol::DecodeError) -> Self {
        Self::new(Status::MALFORMED, error.to_string())
    }
}

/// A request as the server's logic sees it: a private copy, already checked by the core.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Who sent it.
    pub caller: &'a Caller,
    /// What is asked.
    pub operation: u16,
    /// Its payload.
    pub payload: &'a [u8],
    /// What it lends until it is answered, in the order of its sender.
    pub leases: &'a [Lease],
    /// When its sender stops waiting, in ns of `CLOCK_MONOTONIC`; 0 means never. A claim.
    pub deadline_ns: u64,
    /// The longest reply that the sender has room for, in bytes.
    pub room: usize,
    /// Its priority: what the sender claims, within what its capability allows.
    pub priority: u8,
}

impl<'a> Message<'a> {
    /// What it lends at `place`, counted from 0. Valid until the reply: a handler that keeps its
    /// right to reply can keep a clone. Read after the reply, it holds what its sender has put there
    /// since.
    ///
    /// # Errors
    /// A refusal as malformed, if it lends less than that.
    pub fn lease(&self, place: usize) -> Result<&'a Lease, Refusal> {
        self.leases.get(place).ok_or_else(|| {
            let count = self.leases.len();
            let text = format!("the operation takes lease {place}; the message has {count}");
            Refusal::new(Status::MALFORMED, text)
        })
    }

    /// When its sender stops waiting; `None` means never. Reads the clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.deadline_ns == 0 {
            return None;
        }
        let left = self.deadline_ns.saturating_sub(Host::now());
        Instant::now().checked_add(std::time::Duration::from_nanos(left))
    }
}

/// A server's logic.
pub trait Service {
    /// Handle one request. Reply now through `reply`, or [`Reply::keep`] the right and reply later
    /// from any thread. Letting go of it answers `dropped`.
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>);

    /// A client has connected.
    ///
    /// # Errors
    /// A refusal ends the connection before it is used.
    fn connected(&mut self, _context: &mut dyn Context, _caller: &Caller) -> Result<(), Refusal> {
        Ok(())
    }

    /// A client is gone, or its connection is. Kept reply rights of it do nothing from now on.
    fn disconnected(&mut self, _context: &mut dyn Context, _caller: &Caller) {}

    /// Whether a client's messages may go to another thread's service from now on: asked where a
    /// server runs on several threads ([`Server::run_on`](crate::Server::run_on)) and this one has
    /// more to do than it can. A service that knows something of a client which the others do not
    /// share says no.
    fn may_move(&mut self, _caller: &Caller) -> bool {
        false
    }

    /// A watched object died or restarted.
    fn watched(&mut self, _context: &mut dyn Context, _slot: Slot, _what: Fate) {}

    /// A client posted notification bits: those of its capability, if that has POST. Or somebody posted
    /// to a notification that the server is [bound](crate::Server::bind) to: then the caller's
    /// `endpoint` is that notification, and nothing else is told of it ([`Service::connected`] and
    /// [`Service::disconnected`] are about clients).
    fn notified(&mut self, _context: &mut dyn Context, _caller: &Caller, _bits: u64) {}

    /// The last capability with SEND to an endpoint that this task serves is gone; `made` is how many
    /// there had ever been. If the capability that it is served with says of
    /// [`senders`](rendez_protocol::kernel::Capability::senders) that more have been made by now,
    /// somebody can send again, and more will be told when they are gone too.
    fn no_senders(&mut self, _context: &mut dyn Context, _endpoint: ObjectId, _made: u64) {}

    /// When [`Service::expired`] wants to be called next.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// The time of [`Service::next_deadline`] has come.
    fn expired(&mut self, _context: &mut dyn Context, _now: Instant) {}

    /// Descriptors that the service also waits for; [`Service::ready`] is called while one is readable.
    fn descriptors(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        Vec::new()
    }

    /// A descriptor of [`Service::descriptors`] (by its place there) is readable.
    fn ready(&mut self, _context: &mut dyn Context, _place: usize) {}

    /// Whether the server should end its loop, asked after each step.
    fn finished(&self) -> bool {
        false
    }
}

/// What a server's logic can ask of the world.
pub trait Context {
    /// Take the capabilities that a ticket stands for, sent by the client of `connection`.
    ///
    /// # Errors
    /// What the kernel says.
    fn accept(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
    ) -> Result<Vec<Received>, KernelError>;

    /// Put capabilities into escrow for the client of `connection`.
    ///
    /// # Errors
    /// What the kernel says.
    fn offer(&mut self, connection: ConnectionId, items: &[Offer]) -> Result<Ticket, KernelError>;

    /// Let go of a capability.
    ///
    /// # Errors
    /// What the kernel says.
    fn delete(&mut self, slot: Slot) -> Result<(), KernelError>;

    /// Delete everything derived from a capability.
    ///
    /// # Errors
    /// What the kernel says; that there is no kernel, where the logic is called directly.
    fn revoke(&mut self, _slot: Slot) -> Result<(), KernelError> {
        Err(no_kernel())
    }

    /// Make a region of at least `bytes`, to be filled and sealed.
    ///
    /// # Errors
    /// What the kernel says; that there is no kernel, where the logic is called directly.
    fn create_region(&mut self, _bytes: u64) -> Result<EmptyRegion, KernelError> {
        Err(no_kernel())
    }

    /// Ask for [`Service::watched`] about an object.
    ///
    /// # Errors
    /// What the kernel says.
    fn watch(&mut self, slot: Slot) -> Result<(), KernelError>;

    /// Send a task's process a POSIX signal.
    ///
    /// # Errors
    /// What the kernel says.
    fn kill(&mut self, task: Slot, signal: i32) -> Result<(), KernelError>;

    /// Post notification bits to the client of `connection`. Nothing happens if it is gone.
    fn post(&mut self, connection: ConnectionId, bits: u64);
}

fn no_kernel() -> KernelError {
    KernelError::Denied("there is no kernel behind this context".into())
}

/// Where replies by direct call end up.
#[derive(Debug, Default)]
pub struct DirectSlot {
    answer: Mutex<Option<(Status, Vec<u8>)>>,
    answered: Condvar,
    lent: Mutex<Vec<Vec<u8>>>,
}

impl DirectSlot {
    fn put(&self, status: Status, payload: &[u8]) {
        let mut answer = self.answer.lock();
        if answer.is_none() {
            *answer = Some((status, payload.to_vec()));
            self.answered.notify_all();
        }
    }

    /// The answer, if it is there.
    pub fn take(&self) -> Option<(Status, Vec<u8>)> {
        self.answer.lock().take()
    }

    /// What the answer lends, in its order.
    pub fn take_leases(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut *self.lent.lock())
    }

    /// The answer; waits until `deadline` for it.
    pub fn wait_until(&self, deadline: Instant) -> Option<(Status, Vec<u8>)> {
        let mut answer = self.answer.lock();
        while answer.is_none() {
            if self.answered.wait_until(&mut answer, deadline).timed_out() {
                break;
            }
        }
        answer.take()
    }
}

/// Calls a service directly, as a function; answers the slot in which its reply lies, or will lie
/// if the service keeps the right to reply.
pub fn call(
    service: &mut dyn Service,
    context: &mut dyn Context,
    message: Message<'_>,
) -> Arc<DirectSlot> {
    let slot = Arc::new(DirectSlot::default());
    service.receive(
        context,
        message,
        Reply { to: Some(ReplyTo::Direct(&slot)), room: message.room },
    );
    slot
}

#[derive(Debug)]
enum ReplyTo<'a> {
    Ring(&'a Arc<Port<Host>>, Taken),
    Lending(&'a Arc<Port<Host>>, Taken, Box<Lending>),
    Direct(&'a Arc<DirectSlot>),
}

/// What a reply may lend, and what it is going to.
#[derive(Debug)]
struct Lending {
    room: ReplyRoom,
    spans: Vec<ReplySpan>,
}

impl Lending {
    fn take(&mut self, port: &Port<Host>, bytes: usize) -> Result<LeaseMut, LeaseError> {
        self.room.take(bytes).map(LeaseMut::reply).map_err(|error| {
            port.note_fault(&error);
            match error {
                ReplyRoomError::Beyond { asked, left } => LeaseError::Room { asked, room: left },
                ReplyRoomError::Full { asked, longest, total } => {
                    LeaseError::Full { asked, longest, total }
                }
                ReplyRoomError::Fault(_) => LeaseError::Protocol,
            }
        })
    }

    /// Takes in what is to be lent, if it was taken from this right's own room.
    fn give(&mut self, lease: LeaseMut) -> bool {
        let span = lease.into_reply().filter(|span| self.room.is_of(span));
        let fits = self.spans.len() < LEASES_MAX;
        span.filter(|_| fits).map(|span| self.spans.push(span)).is_some()
    }

    fn reply(mut self, port: &Port<Host>, taken: &Taken, status: Status, payload: &[u8]) {
        port.reply_lending(taken, status, payload, self.spans, Some(&mut self.room));
    }
}

/// The right to reply to the message at hand. Used once; let go of, it answers `dropped`.
#[derive(Debug)]
pub struct Reply<'a> {
    to: Option<ReplyTo<'a>>,
    room: usize,
}

#[derive(Debug)]
enum KeptTo {
    Ring(Arc<Port<Host>>, Taken),
    Lending(Arc<Port<Host>>, Taken, Box<Lending>),
    Direct(Arc<DirectSlot>),
}

/// The right to reply, kept beyond the handler; can move to another thread.
#[derive(Debug)]
pub struct ReplyRight {
    to: Option<KeptTo>,
    room: usize,
}

impl<'a> Reply<'a> {
    #[inline]
    pub(crate) fn ring(port: &'a Arc<Port<Host>>, taken: Taken) -> Self {
        Self { to: Some(ReplyTo::Ring(port, taken)), room: taken.room_bytes() }
    }

    /// For a message that names room for what its reply lends.
    pub(crate) fn lending(port: &'a Arc<Port<Host>>, taken: Taken, room: ReplyRoom) -> Self {
        let longest = taken.room_bytes().max(room.left());
        let lending = Box::new(Lending { room, spans: Vec::new() });
        Self { to: Some(ReplyTo::Lending(port, taken, lending)), room: longest }
    }

    /// Keeps the right beyond the handler.
    #[must_use]
    pub fn keep(mut self) -> ReplyRight {
        if let Some(ReplyTo::Ring(port, taken) | ReplyTo::Lending(port, taken, _)) = &self.to {
            port.keeps(taken.transaction);
        }
        let to = self.to.take().map(|to| match to {
            ReplyTo::Ring(port, taken) => KeptTo::Ring(Arc::clone(port), taken),
            ReplyTo::Lending(port, taken, lending) => {
                KeptTo::Lending(Arc::clone(port), taken, lending)
            }
            ReplyTo::Direct(slot) => KeptTo::Direct(Arc::clone(slot)),
        });
        ReplyRight { to, room: self.room }
    }

    #[inline]
    fn put(&mut self, status: Status, payload: &[u8]) {
        match self.to.take() {
            Some(ReplyTo::Ring(port, taken)) => port.reply(&taken, status, payload),
            Some(ReplyTo::Lending(port, taken, lending)) => {
                lending.reply(port, &taken, status, payload);
            }
            Some(ReplyTo::Direct(slot)) => direct(slot, self.room, status, payload),
            None => {}
        }
    }
}

impl ReplyRight {
    fn put(&mut self, status: Status, payload: &[u8]) {
        match self.to.take() {
            Some(KeptTo::Ring(port, taken)) => port.reply(&taken, status, payload),
            Some(KeptTo::Lending(port, taken, lending)) => {
                lending.reply(&port, &taken, status, payload);
            }
            Some(KeptTo::Direct(slot)) => direct(&slot, self.room, status, payload),
            None => {}
        }
    }
}

/// What can be done with the right to reply, kept or not.
macro_rules! replies {
    ($right:ty, $to:ident) => {
        impl $right {
            /// Takes memory for `bytes` in this end's arena, to be written in place and lent by the
            /// reply. What is in it at first is of no meaning.
            ///
            /// # Errors
            /// [`LeaseError`]: the request left no room for that much, or the client has not let go
            /// of what earlier replies lent.
            pub fn lease(&mut self, bytes: usize) -> Result<LeaseMut, LeaseError> {
                let room = self.room;
                match &mut self.to {
                    Some($to::Lending(port, _, lending)) => lending.take(port, bytes),
                    Some($to::Direct(_)) if (1..=room).contains(&bytes) => {
                        Ok(LeaseMut::private(bytes))
                    }
                    Some($to::Direct(_)) => Err(LeaseError::Room { asked: bytes, room }),
                    _ => Err(LeaseError::Room { asked: bytes, room: 0 }),
                }
            }

            /// Has the reply lend what [`lease`](Self::lease) answered. The client sees leases in
            /// the order of these calls.
            ///
            /// # Panics
            /// If the lease was taken from another right to reply, or is the ninth: a mistake of the
            /// caller.
            #[must_use]
            pub fn with_lease(mut self, lease: LeaseMut) -> Self {
                let given = match &mut self.to {
                    Some($to::Lending(_, _, lending)) => lending.give(lease),
                    Some($to::Direct(slot)) => {
                        lease.into_private().map(|bytes| slot.lent.lock().push(bytes)).is_some()
                    }
                    _ => false,
                };
                assert!(given, "a reply lends what was taken from it, and at most {LEASES_MAX}");
                self
            }

            /// Replies with `status` and `payload`. A payload longer than the sender's room becomes
            /// `too big`.
            #[inline]
            pub fn send(mut self, status: Status, payload: &[u8]) {
                self.put(status, payload);
            }

            /// Replies OK with `payload`.
            #[inline]
            pub fn ok(self, payload: &[u8]) {
                self.send(Status::OK, payload);
            }

            /// Replies with a refusal, its text cut to the sender's room.
            pub fn refuse(self, refusal: &Refusal) {
                let room = self.room;
                self.send(refusal.status, clip(&refusal.text, room));
            }

            /// Replies with what `result` is.
            pub fn result(self, result: Result<Vec<u8>, Refusal>) {
                match result {
                    Ok(payload) => self.ok(&payload),
                    Err(refusal) => self.refuse(&refusal),
                }
            }
        }

        impl Drop for $right {
            fn drop(&mut self) {
                self.put(Status::DROPPED, &[]);
            }
        }
    };
}
replies!(Reply<'_>, ReplyTo);
replies!(ReplyRight, KeptTo);

fn direct(slot: &DirectSlot, room: usize, status: Status, payload: &[u8]) {
    if payload.len() > room {
        slot.put(Status::TOO_BIG, &(payload.len() as u32).to_le_bytes());
    } else {
        slot.put(status, payload);
    }
}

/// As much of `text` as fits, cut at a character.
fn clip(text: &str, room: usize) -> &[u8] {
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}
