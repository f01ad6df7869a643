//! One connection to a server: several transactions in flight, nothing sent twice.

use crate::circle::Inquiry;
use crate::client::Resend;
use crate::error::Error;
use crate::lease::{ARENA_BYTES_MAX_DEFAULT, Bulk, LeasedReply};
use crate::task::{Task, deadline_after, out_of_turn};
use rendez_ipc_core::client::{ClientCounts, ClientEnd, SendError};
use rendez_ipc_core::counters::{ClientCounters, Identity, Side};
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::{Host, HostBell};
use rendez_ipc_core::ring::Buffer;
use rendez_ipc_core::segment::{OwnSegment, PeerSegment};
use rendez_ipc_core::wait::Wait;
use rendez_protocol::kernel::{Answer, Doorbell, KernelError, Offer, Received, Request, Shape};
use rendez_protocol::limit::DEADLINE_DEFAULT_MS;
use rendez_protocol::message::Header;
use rendez_protocol::status::Why;
use rendez_protocol::waits::Member;
use rendez_protocol::{ConnectionId, Interface, Slot, Status, TaskId, Ticket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the client speaks; compared with what the server offers. `None` asks nothing.
    pub interface: Option<Interface>,
    /// The client's own segment: bounds how long a request can be.
    pub requests: Shape,
    /// The server's segment: bounds how long a reply can be.
    pub replies: Shape,
    /// The most bytes that one arena of the connection lends, in each direction: bounds leases, and
    /// messages longer than a ring. At most 1 GiB less 4 KiB.
    pub arena_bytes_max: u32,
    /// How the client waits for replies.
    pub wait: Wait,
    /// How long connecting may take, and how long a send may take that names no deadline.
    pub timeout: Duration,
    /// The priority of what is sent, from 0, the lowest and the default, to 127. A server serves
    /// higher ones first, and none above what the client's capability allows.
    pub priority: u8,
    /// What a [`Client`](crate::Client) or a [`Pool`](crate::Pool) does with a message that was not
    /// delivered; a [`Connection`] never sends again by itself.
    pub resend: Resend,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interface: None,
            requests: Shape::default(),
            replies: Shape::default(),
            arena_bytes_max: ARENA_BYTES_MAX_DEFAULT,
            wait: Wait::Adaptive,
            timeout: Duration::from_millis(DEADLINE_DEFAULT_MS),
            priority: 0,
            resend: Resend::default(),
        }
    }
}

impl Options {
    /// The defaults, for a client that speaks `interface`.
    #[must_use]
    pub fn speaking(interface: Interface) -> Self {
        Self { interface: Some(interface), ..Self::default() }
    }

    /// With payload areas of `bytes` (a power of two) in both directions.
    #[must_use]
    pub fn with_area(mut self, bytes: u32) -> Self {
        self.requests.area_bytes = bytes;
        self.replies.area_bytes = bytes;
        self
    }
}

/// A reply: the status, and the payload, which lies in the connection's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// How the operation ended.
    pub status: Status,
    /// Its result, or what its refusal says.
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The payload of a reply whose status is OK.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's words.
    pub fn ok(self) -> Result<&'a [u8], Error> {
        if self.status.is_ok() {
            Ok(self.payload)
        } else {
            Err(Error::refused(self.status, self.payload))
        }
    }
}

/// The client's end of a connection, just made.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) end: ClientEnd<Host>,
    pub(crate) id: ConnectionId,
    pub(crate) server: TaskId,
    pub(crate) interface: Option<Interface>,
    /// The epoll instance in which the server rings, if the doorbell is [`Doorbell::Event`].
    pub(crate) waiter: Option<OwnedFd>,
    pub(crate) inquiry: Arc<Inquiry>,
}

impl Opened {
    /// Connects to the endpoint that the capability in `slot` names; the client is woken by `doorbell`.
    pub(crate) fn open(
        task: &Task,
        slot: Slot,
        options: &Options,
        deadline: u64,
        doorbell: Doorbell,
    ) -> Result<Self, Error> {
        let request = Request::Connect {
            slot,
            interface: options.interface.clone(),
            requests: options.requests,
            replies: options.replies,
            doorbell,
        };
        let connecting = task.spares().connecting(task);
        let (answer, mut descriptors) = task.link().ask(&request, deadline).map_err(|error| {
            connecting.failed();
            no_server_yet(error)
        })?;
        let (id, status_index) = match answer {
            Answer::Connecting { connection, status_index }
            | Answer::Connected { connection, status_index, .. } => (connection, status_index),
            other => return Err(out_of_turn(&other)),
        };
        // From here on the kernel knows the connection: a failure must let go of it.
        let opened = (|| {
            let (own, answer, mut descriptors) = match &answer {
                Answer::Connected { spare: Some(spare), .. } => {
                    let own = task.spares().take(*spare).ok_or_else(|| missing("spare"))?;
                    (own, answer, descriptors)
                }
                _ => {
                    let own = descriptors.pop_front().ok_or_else(|| missing("own segment"))?;
                    let own = OwnSegment::map(own, options.requests).map_err(|error| {
                        Error::system("mapping the connection's own segment", error)
                    })?;
                    task.spares().missed(options.requests);
                    let (answer, descriptors) = task
                        .link()
                        .ask(&Request::Mapped { connection: id, doorbell }, deadline)
                        .map_err(|error| not_mapped(task, status_index, error))?;
                    (own, answer, descriptors)
                }
            };
            let Answer::Connected { server, generation, rings, interface, .. } = answer else {
                return Err(out_of_turn(&answer));
            };
            let peer = descriptors.pop_front().ok_or_else(|| missing("server's segment"))?;
            let peer = PeerSegment::map(peer, options.replies)
                .map_err(|error| Error::system("mapping the server's segment", error))?;
            let bell = match rings {
                Doorbell::Futex => HostBell::Futex,
                Doorbell::Event => {
                    HostBell::Event(descriptors.pop_front().ok_or_else(|| missing("doorbell"))?)
                }
            };
            let waiter = match doorbell {
                Doorbell::Futex => None,
                Doorbell::Event => {
                    Some(descriptors.pop_front().ok_or_else(|| missing("own doorbell"))?)
                }
            };
            let status = task
                .host_status(status_index)
                .ok_or_else(|| Error::Protocol(format!("a status word {status_index}")))?;
            let inquiry = Inquiry::new(task, id);
            let status = status.with_inquirer(Arc::clone(&inquiry) as _);
            let (ours, theirs) = (Ours::over(own), Theirs::over(peer));
            let mut end = ClientEnd::new(ours, theirs, status, bell, generation, options.wait);
            end.set_priority(options.priority);
            let whose = Identity { connection: id, peer: server, side: Side::Client, status_index };
            end.set_counters(ClientCounters::new(task.page(), whose));
            Ok(Self { end, id, server, interface, waiter, inquiry })
        })();
        if opened.is_err() {
            task.link().tell(&Request::Disconnect { connection: id, why: Why::Closed });
        }
        opened
    }
}

/// One connection to a server. It ends when it is dropped. It never sends anything again by itself:
/// each send ends in a reply, `NotDelivered` or `Interrupted`, and is reported at once.
#[derive(Debug)]
pub struct Connection {
    pub(crate) end: ClientEnd<Host>,
    pub(crate) task: Task,
    pub(crate) id: ConnectionId,
    server: TaskId,
    interface: Option<Interface>,
    pub(crate) timeout: Duration,
    pub(crate) buffer: Buffer,
    reported: bool,
    inquiry: Arc<Inquiry>,
    pub(crate) bulk: Box<Bulk>,
}

impl Connection {
    /// Connects to the endpoint that the capability in `slot` names. Waits, within the timeout,
    /// while the endpoint has no server but somebody who may bring one back.
    ///
    /// # Errors
    /// What the kernel says: a version that does not fit, a right that is missing, a dead server;
    /// `NotDelivered` for `Deadline` if no server came, or none took the connection, in time.
    pub fn open(task: &Task, slot: Slot, options: &Options) -> Result<Self, Error> {
        Self::open_until(task, slot, options, deadline_after(options.timeout))
    }

    /// As [`Connection::open`], with a deadline in ns of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_until(
        task: &Task,
        slot: Slot,
        options: &Options,
        deadline: u64,
    ) -> Result<Self, Error> {
        let opened = Opened::open(task, slot, options, deadline, Doorbell::Futex)?;
        Ok(Self {
            end: opened.end,
            task: task.clone(),
            id: opened.id,
            server: opened.server,
            interface: opened.interface,
            timeout: options.timeout,
            buffer: Buffer::new(),
            reported: false,
            inquiry: opened.inquiry,
            bulk: Box::new(Bulk::new(options.arena_bytes_max)),
        })
    }

    /// The connection, as the kernel knows it.
    #[must_use]
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// The task at the other end.
    #[must_use]
    pub const fn server(&self) -> TaskId {
        self.server
    }

    /// The server's incarnation.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.end.generation()
    }

    /// What the server speaks, if it says.
    #[must_use]
    pub const fn interface(&self) -> Option<&Interface> {
        self.interface.as_ref()
    }

    /// The tasks of the circle of waits in which a send over this connection ended last, for the
    /// reason [`Why::Deadlock`]: this task among them, `None` for each that it may not WATCH. Empty if
    /// none has.
    #[must_use]
    pub fn circle(&self) -> Vec<Option<Member>> {
        self.inquiry.circle()
    }

    /// Changes how this end waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.end.set_wait(wait);
    }

    /// Statistics.
    #[must_use]
    pub const fn counts(&self) -> ClientCounts {
        self.end.counts()
    }

    /// The longest payload of a request that the ring carries, in bytes; a longer one goes through
    /// an arena.
    #[must_use]
    pub const fn request_bytes_max(&self) -> usize {
        self.end.request_bytes_max()
    }

    /// The longest payload of a reply that the ring carries, in bytes; a longer one goes through an
    /// arena.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        self.end.reply_bytes_max()
    }

    /// Sends a request and waits for its reply, of at most `room` bytes.
    ///
    /// # Errors
    /// How it ended without an answer.
    #[inline]
    pub fn send(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
    ) -> Result<Reply<'_>, SendError> {
        let deadline = coarse_deadline(self.timeout);
        self.send_until(operation, payload, room, deadline)
    }

    /// As [`Connection::send`], with a deadline in ns of `CLOCK_MONOTONIC`, [`NEVER`](crate::NEVER)
    /// for none.
    ///
    /// # Errors
    /// How it ended without an answer.
    #[inline]
    pub fn send_until(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<Reply<'_>, SendError> {
        match self.end.send(operation, payload, room, deadline, &mut self.buffer) {
            Ok(status) if self.buffer.flags() & Header::LEASED == 0 => {
                Ok(Reply { status, payload: self.buffer.as_slice() })
            }
            outcome => self.send_long(outcome, operation, payload, room, deadline),
        }
    }

    /// Sends a request without waiting for its reply; answers its transaction id. Waits for room in
    /// the ring.
    ///
    /// # Errors
    /// `NotDelivered`.
    pub fn begin(&mut self, operation: u16, payload: &[u8], room: usize) -> Result<u64, SendError> {
        let deadline = coarse_deadline(self.timeout);
        match self.end.begin_waiting(operation, payload, room, deadline) {
            Ok(transaction) => Ok(transaction),
            Err(SendError::NotDelivered { why: Why::TooBig }) => {
                self.begin_long(operation, payload, room, deadline)
            }
            Err(error) => Err(self.report(error)),
        }
    }

    /// As [`Connection::begin`], one of many: publishes the request, and leaves it to whatever waits
    /// next ([`Connection::finish`] that finds no reply yet, a full ring, [`Connection::flush`]) to
    /// make sure, once for all of them, that the server does not sleep. A server that visibly sleeps
    /// is rung at once. Who then does other things calls [`Connection::flush`] first.
    ///
    /// # Errors
    /// `NotDelivered`.
    #[inline]
    pub fn begin_quietly(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
    ) -> Result<u64, SendError> {
        let deadline = coarse_deadline(self.timeout);
        match self.end.begin_quietly(operation, payload, room, deadline) {
            Err(SendError::NotDelivered { why: Why::Full | Why::TooBig }) => {
                self.begin(operation, payload, room)
            }
            other => other.map_err(|error| self.report(error)),
        }
    }

    /// Makes sure that the server does not sleep over what was begun quietly.
    #[inline]
    pub fn flush(&mut self) {
        self.end.flush();
    }

    /// Waits for the reply to a transaction that was begun.
    ///
    /// # Errors
    /// How it ended without an answer.
    ///
    /// # Panics
    /// If the transaction is not in flight: a mistake of the caller.
    pub fn finish(&mut self, transaction: u64) -> Result<Reply<'_>, SendError> {
        let deadline = coarse_deadline(self.timeout);
        let outcome = self.end.wait(transaction, &mut self.buffer, deadline);
        self.reply(outcome, transaction)
    }

    /// Gives up a transaction that was begun.
    ///
    /// # Errors
    /// How it ended: `NotDelivered` if the server had not taken it. `Ok` if its reply was there.
    ///
    /// # Panics
    /// If the transaction is not in flight: a mistake of the caller.
    pub fn cancel(&mut self, transaction: u64) -> Result<Reply<'_>, SendError> {
        let outcome = self.end.withdraw(transaction, Why::Cancelled, &mut self.buffer);
        self.reply(outcome, transaction)
    }

    #[inline]
    fn reply(
        &mut self,
        outcome: Result<Status, SendError>,
        transaction: u64,
    ) -> Result<Reply<'_>, SendError> {
        match outcome {
            Ok(status) if self.buffer.flags() & Header::LEASED == 0 => {
                Ok(Reply { status, payload: self.buffer.as_slice() })
            }
            outcome => {
                let LeasedReply { status, payload, .. } = self.lent_reply(outcome, transaction)?;
                Ok(Reply { status, payload })
            }
        }
    }

    /// Tells the kernel of a server that broke the protocol.
    #[cold]
    pub(crate) fn report(&mut self, error: SendError) -> SendError {
        if self.end.fault().is_some() && !self.reported {
            self.reported = true;
            self.task.link().tell(&Request::Disconnect { connection: self.id, why: Why::Protocol });
        }
        error
    }

    /// Takes the notification bits that the server has posted, 0 if none are pending.
    pub fn take_notifications(&mut self) -> u64 {
        self.end.take_notifications()
    }

    /// Waits for notification bits, at most for `timeout`; 0 if none came.
    ///
    /// # Errors
    /// `NotDelivered` with the reason if the connection has ended.
    pub fn wait_notifications(&mut self, timeout: Duration) -> Result<u64, SendError> {
        self.end.wait_notifications(deadline_after(timeout)).map_err(|error| self.report(error))
    }

    /// Gives what is sent from now on a priority, from 0 to 127: see [`Options::priority`].
    pub fn set_priority(&mut self, priority: u8) {
        self.end.set_priority(priority);
    }

    /// Posts notification bits to the server, which takes those that the capability allows.
    pub fn post(&mut self, bits: u64) {
        self.end.post(bits);
    }

    /// Puts capabilities into escrow for the server; the ticket goes into a request.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn offer(&self, items: &[Offer]) -> Result<Ticket, Error> {
        self.task.offer(self.id, items)
    }

    /// Takes what a ticket in a reply stands for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn accept(&self, ticket: Ticket) -> Result<Vec<Received>, Error> {
        self.task.accept(self.id, ticket)
    }

    /// The task that connected.
    #[must_use]
    pub const fn task(&self) -> &Task {
        &self.task
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.link().tell(&Request::Disconnect { connection: self.id, why: Why::Closed });
        self.task.spares().keep_for_client(&self.task);
    }
}

/// Why the kernel did not complete a connection whose segment we have mapped.
fn not_mapped(task: &Task, status_index: u32, error: Error) -> Error {
    match error {
        // It ended before we had mapped our segment: its status word says why.
        Error::Kernel(KernelError::BadConnection(_)) => {
            let why = task.status().state(status_index).why().unwrap_or(Why::Closed);
            KernelError::NotCompleted(why).into()
        }
        other => no_server_yet(other),
    }
}

/// The kernel holds a connect back while the endpoint has no server but may get one again: that it
/// does not answer in time means that none came.
fn no_server_yet(error: Error) -> Error {
    match error {
        Error::KernelSilent { .. } => SendError::NotDelivered { why: Why::Deadline }.into(),
        other => other,
    }
}

fn missing(what: &str) -> Error {
    Error::Protocol(format!("a descriptor is missing: {what}"))
}

/// Timeouts above this are counted from a clock that is a few milliseconds coarse and a quarter of
/// the price.
const COARSE_ABOVE: Duration = Duration::from_millis(500);

/// The deadline `timeout` from now, never early.
#[inline]
pub(crate) fn coarse_deadline(timeout: Duration) -> u64 {
    if timeout < COARSE_ABOVE {
        return deadline_after(timeout);
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // The coarse clock lags by at most a tick, which is at most 10 ms.
    (now.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec as u64 + 10_000_000)
        .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
}
