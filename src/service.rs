//! What a server's logic is written against. It names no process and no transport: the same
//! [`Service`] runs over rings between processes and by direct call in a unit test.

use parking_lot::{Condvar, Mutex};
use rendez_ipc_core::platform::{Host, Platform};
use rendez_ipc_core::server::{Port, Taken};
use rendez_protocol::kernel::{Credentials, Fate, KernelError, Offer, Received};
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
    /// When its sender stops waiting, in ns of `CLOCK_MONOTONIC`; 0 means never. A claim.
    pub deadline_ns: u64,
    /// The longest reply that the sender has room for, in bytes.
    pub room: usize,
}

impl Message<'_> {
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

    /// A watched object died or restarted.
    fn watched(&mut self, _context: &mut dyn Context, _slot: Slot, _what: Fate) {}

    /// A client posted notification bits, if its capability has POST.
    fn notified(&mut self, _context: &mut dyn Context, _caller: &Caller, _bits: u64) {}

    /// The last capability with SEND to an endpoint that this task serves is gone.
    fn no_senders(&mut self, _context: &mut dyn Context, _endpoint: ObjectId) {}

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

/// Where replies by direct call end up.
#[derive(Debug, Default)]
pub struct DirectSlot {
    answer: Mutex<Option<(Status, Vec<u8>)>>,
    answered: Condvar,
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
    Direct(&'a Arc<DirectSlot>),
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

    /// Keeps the right beyond the handler.
    #[must_use]
    pub fn keep(mut self) -> ReplyRight {
        let to = self.to.take().map(|to| match to {
            ReplyTo::Ring(port, taken) => KeptTo::Ring(Arc::clone(port), taken),
            ReplyTo::Direct(slot) => KeptTo::Direct(Arc::clone(slot)),
        });
        ReplyRight { to, room: self.room }
    }

    #[inline]
    fn put(&mut self, status: Status, payload: &[u8]) {
        match self.to.take() {
            Some(ReplyTo::Ring(port, taken)) => port.reply(&taken, status, payload),
            Some(ReplyTo::Direct(slot)) => direct(slot, self.room, status, payload),
            None => {}
        }
    }
}

impl ReplyRight {
    fn put(&mut self, status: Status, payload: &[u8]) {
        match self.to.take() {
            Some(KeptTo::Ring(port, taken)) => port.reply(&taken, status, payload),
            Some(KeptTo::Direct(slot)) => direct(&slot, self.room, status, payload),
            None => {}
        }
    }
}

/// What can be done with the right to reply, kept or not.
macro_rules! replies {
    ($right:ty) => {
        impl $right {
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
replies!(Reply<'_>);
replies!(ReplyRight);

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
