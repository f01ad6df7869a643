//! Bulk: memory that a message lends, in either direction, and messages longer than a ring.
//!
//! A client takes room in an arena of its own ([`Connection::lease`]), writes it in place and sends
//! it along ([`Connection::send_leased`]); the server reads it in place until it replies. A request
//! names how much its reply may lend back ([`Room`]); the client reads that in place until it lets
//! go of it. Each byte is copied at most once at each end, by whoever produces or needs it.
//!
//! Arenas are attached at first use, through the kernel, and replaced by larger ones when they are
//! too small, up to [`Options::arena_bytes_max`](crate::Options); the old ones go when nothing of
//! them is lent. A plain [`Connection::send`] whose payload or room is more than the ring carries
//! goes this way by itself.

use crate::connection::{Connection, Reply, coarse_deadline};
use crate::error::Error;
use crate::task::out_of_turn;
use rendez_ipc_core::arena_memory::{NoRoom, OwnArena, Owner, PeerArena, Span};
use rendez_ipc_core::client::{ClientEnd, SendError};
pub use rendez_ipc_core::lease::{Lease, LeaseReader};
pub use rendez_ipc_core::lease_client::ReplyLease;
use rendez_ipc_core::lease_client::{Back, ClientPair, LentReply};
pub(crate) use rendez_ipc_core::lease_server::ReplySpan;
use rendez_ipc_core::platform::Host;
use rendez_ipc_core::ring::Fault;
use rendez_protocol::kernel::{Answer, KernelError, Request};
use rendez_protocol::lease::{self, DESCRIPTOR_BYTES, DESCRIPTORS_MAX, Descriptor, Kind};
use rendez_protocol::limit::{
    ARENA_BYTES_MAX, ARENA_HEAD_BYTES, ARENA_UNIT_BYTES, ARENAS_MAX, LEASES_MAX,
};
use rendez_protocol::message::Header;
use rendez_protocol::{Status, Why};
use std::sync::Arc;

/// The largest arena that a client attaches, or a server accepts, when nobody says otherwise, in
/// bytes of what can be lent.
pub const ARENA_BYTES_MAX_DEFAULT: u32 = 64 << 20;
/// The smallest arena that is attached, in bytes of what can be lent.
const ARENA_BYTES_MIN: usize = 256 << 10;
/// The most that is lent from one arena: the largest one, less the page of release words.
const LENDABLE_MAX: usize = ARENA_BYTES_MAX as usize - ARENA_HEAD_BYTES;
/// A buffer for long payloads that is kept between messages, in bytes.
pub(crate) const SPILL_KEPT: usize = 4 << 20;

/// Why memory could not be lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// A lease has at least one byte.
    #[error("a lease of 0 bytes: lend something, or nothing")]
    Empty,
    /// More than an arena may have.
    #[error(
        "{asked} bytes asked for in an arena, which has at most {limit}; raise arena_bytes_max, or use a region"
    )]
    TooBig {
        /// What was asked for, in bytes.
        asked: usize,
        /// The most.
        limit: usize,
    },
    /// Everything is lent, or reserved for replies.
    #[error(
        "the arena is full: {asked} bytes asked for, {longest} free in one piece of {total}; let go of leases, or finish transactions"
    )]
    Full {
        /// What was asked for, in bytes.
        asked: usize,
        /// The longest free extent.
        longest: usize,
        /// All of the arena.
        total: usize,
    },
    /// The lease belongs to another connection.
    #[error("the lease was taken from another connection's arena")]
    Foreign,
    /// More leases than a message carries.
    #[error("more than {LEASES_MAX} leases in one message")]
    TooMany,
    /// The request left no room for what the reply wants to lend.
    #[error("{asked} bytes asked for in the reply, where its request left room to lend {room}")]
    Room {
        /// What was asked for, in bytes.
        asked: usize,
        /// What is left of the room.
        room: usize,
    },
    /// The client's release words are not what they can be; its connection ends.
    #[error("the client broke the protocol of leases")]
    Protocol,
}

#[derive(Debug)]
enum Memory {
    Own(Span),
    Reply(ReplySpan),
    /// Where there is no peer: a server's logic that is called directly.
    Private(Vec<u8>),
}

/// Memory to be lent, written in place: nobody else sees it before it is sent. Dropped instead, it
/// is free again.
#[derive(Debug)]
pub struct LeaseMut {
    memory: Memory,
}

impl LeaseMut {
    const fn own(span: Span) -> Self {
        Self { memory: Memory::Own(span) }
    }

    pub(crate) const fn reply(span: ReplySpan) -> Self {
        Self { memory: Memory::Reply(span) }
    }

    pub(crate) fn private(bytes: usize) -> Self {
        Self { memory: Memory::Private(vec![0; bytes]) }
    }

    pub(crate) fn into_reply(self) -> Option<ReplySpan> {
        match self.memory {
            Memory::Reply(span) => Some(span),
            _ => None,
        }
    }

    pub(crate) fn into_private(self) -> Option<Vec<u8>> {
        match self.memory {
            Memory::Private(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Lends only the first `length` bytes, if that is fewer.
    pub fn shorten(&mut self, length: usize) {
        match &mut self.memory {
            Memory::Own(span) => span.shorten(length),
            Memory::Reply(span) => span.shorten(length),
            Memory::Private(bytes) => bytes.truncate(length),
        }
    }
}

impl core::ops::Deref for LeaseMut {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(span) => span,
            Memory::Reply(span) => span,
            Memory::Private(bytes) => bytes,
        }
    }
}

impl core::ops::DerefMut for LeaseMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(span) => span,
            Memory::Reply(span) => span,
            Memory::Private(bytes) => bytes,
        }
    }
}

/// What a request leaves room for in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    payload: usize,
    lent: usize,
}

impl Room {
    /// Room for a payload of `bytes`.
    #[must_use]
    pub const fn payload(bytes: usize) -> Self {
        Self { payload: bytes, lent: 0 }
    }

    /// And for leases of `bytes` together, each counted in units of 64.
    #[must_use]
    pub const fn lending(self, bytes: usize) -> Self {
        Self { lent: bytes, ..self }
    }
}

impl From<usize> for Room {
    fn from(bytes: usize) -> Self {
        Self::payload(bytes)
    }
}

/// A reply that may lend something.
#[derive(Debug)]
pub struct LeasedReply<'a> {
    /// How the operation ended.
    pub status: Status,
    /// Its result, or what its refusal says; it lies in the connection's buffer.
    pub payload: &'a [u8],
    /// What the server lends, to be read in place. It has each of them back when it is dropped.
    pub leases: Vec<ReplyLease>,
}

impl<'a> LeasedReply<'a> {
    /// Payload and leases of a reply whose status is OK.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's words.
    pub fn ok(self) -> Result<(&'a [u8], Vec<ReplyLease>), Error> {
        if self.status.is_ok() {
            Ok((self.payload, self.leases))
        } else {
            Err(Error::refused(self.status, self.payload))
        }
    }
}

/// Room that a request in flight has named for its reply.
#[derive(Debug)]
struct Promise {
    transaction: u64,
    arena: u32,
    back: Arc<Back>,
    bytes: usize,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.back.take_back(self.bytes);
    }
}

/// The arenas of one connection, and what of them is in use.
#[derive(Debug)]
pub(crate) struct Bulk {
    /// What may be lent from one arena, in bytes.
    limit: usize,
    pairs: Vec<ClientPair>,
    /// What requests have lent whose replies have not come.
    flying: Vec<(u64, Span)>,
    promises: Vec<Promise>,
    descriptors: Vec<Descriptor>,
    message: Vec<u8>,
    /// A reply's payload that was too long for the ring.
    payload: Vec<u8>,
}

impl Bulk {
    pub(crate) fn new(arena_bytes_max: u32) -> Self {
        Self {
            limit: (arena_bytes_max as usize).min(LENDABLE_MAX),
            pairs: Vec::new(),
            flying: Vec::new(),
            promises: Vec::new(),
            descriptors: Vec::new(),
            message: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Room for `bytes` in the newest arena that has it.
    #[inline]
    fn take(&self, bytes: usize) -> Option<Span> {
        self.pairs.iter().rev().find_map(|pair| pair.own().take(bytes).ok())
    }

    fn pair_of(&self, arena: &Arc<OwnArena>) -> Option<u32> {
        self.pairs.iter().find(|pair| Arc::ptr_eq(pair.own(), arena)).map(ClientPair::id)
    }

    /// Frees what transactions no longer need that are over, late replies included.
    #[inline]
    fn sweep(&mut self, end: &mut ClientEnd<Host>) -> Result<(), Fault> {
        self.flying.retain(|(sent, _)| *sent == UNSENT || end.is_pending(*sent));
        for late in end.take_late() {
            // Read only to let go of it again.
            let descriptors = lease::read(&late, &mut self.descriptors);
            descriptors.map_err(|malformed| Fault::Lease(malformed.into()))?;
            let arena = self.descriptors[0].arena;
            let pair = self.pairs.iter().find(|pair| pair.id() == arena);
            let back = pair.and_then(ClientPair::back);
            LentReply::read(
                &late,
                back.map(|back| (arena, back)),
                back.map_or(0, |back| back.capacity()),
                &mut self.descriptors,
            )
            .map_err(Fault::Lease)?;
        }
        self.promises.retain(|promise| !end.is_over(promise.transaction));
        Ok(())
    }

    /// The largest that requests, or replies, can lend from now, in bytes.
    fn largest(&self, owner: Owner) -> usize {
        let sizes = self.pairs.iter().map(|pair| match owner {
            Owner::Client => pair.own().capacity(),
            Owner::Server => pair.back().map_or(0, |back| back.capacity()),
        });
        sizes.max().unwrap_or(0)
    }

    /// How large the next arena is to be that holds `bytes`; `None` if no larger one may be had.
    fn next_size(&self, owner: Owner, bytes: usize) -> Option<usize> {
        let largest = self.largest(owner);
        let wanted = bytes.checked_next_power_of_two()?.max(largest * 2).max(ARENA_BYTES_MIN);
        let size = wanted.min(self.limit).next_multiple_of(4096).min(LENDABLE_MAX);
        (size > largest && size >= bytes && self.pairs.len() < ARENAS_MAX).then_some(size)
    }

    /// What there is in the largest arena, for an error.
    fn no_room(&self, owner: Owner, asked: usize) -> Error {
        let (longest, total) = match owner {
            Owner::Client => self
                .pairs
                .iter()
                .filter_map(|pair| pair.own().take(usize::MAX / 2).err())
                .fold((0, 0), |(longest, total), no: NoRoom| {
                    (longest.max(no.longest), total.max(no.total))
                }),
            Owner::Server => self
                .pairs
                .iter()
                .filter_map(ClientPair::back)
                .fold((0, 0), |(l, t), back| (l.max(back.left()), t.max(back.capacity()))),
        };
        LeaseError::Full { asked, longest, total }.into()
    }
}

/// The reason that a plain send is given for what its long payload met.
fn reason(error: Error) -> SendError {
    let why = match error {
        Error::Send(error) => return error,
        Error::Lease(LeaseError::Full { .. }) => Why::Full,
        Error::Lease(_) => Why::TooBig,
        Error::Kernel(KernelError::Quota { .. }) | Error::System { .. } => Why::Quota,
        Error::Kernel(KernelError::NotAttached { why: Why::Denied, .. }) => Why::TooBig,
        Error::Kernel(KernelError::NotAttached { why, .. }) => why,
        Error::KernelSilent { .. } => Why::Deadline,
        _ => Why::Closed,
    };
    SendError::NotDelivered { why }
}

impl Connection {
    /// Takes memory for `bytes` in an arena of this connection's own, to be written in place and
    /// sent with [`Connection::send_leased`]. What is in it at first is of no meaning. Attaches an
    /// arena if there is none that has room; if none may be had, waits until transactions of this
    /// connection are over.
    ///
    /// # Errors
    /// [`Error::Lease`]: too big, or full with nothing in flight that would end; `NotDelivered` for
    /// `Deadline`, or because the connection has ended; what the kernel says to attaching.
    pub fn lease(&mut self, bytes: usize) -> Result<LeaseMut, Error> {
        match self.bulk.take(bytes) {
            Some(span) if bytes > 0 => Ok(LeaseMut::own(span)),
            _ => self.lease_until(bytes, coarse_deadline(self.timeout)),
        }
    }

    /// As [`Connection::lease`], with a deadline in ns of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// As [`Connection::lease`].
    pub fn lease_until(&mut self, bytes: usize, deadline: u64) -> Result<LeaseMut, Error> {
        if bytes == 0 {
            return Err(LeaseError::Empty.into());
        }
        self.find(Owner::Client, bytes, deadline, |bulk| bulk.take(bytes)).map(LeaseMut::own)
    }

    /// Finds room: what is there, else in a larger arena, else where transactions end.
    fn find<R>(
        &mut self,
        owner: Owner,
        bytes: usize,
        deadline: u64,
        mut take: impl FnMut(&Bulk) -> Option<R>,
    ) -> Result<R, Error> {
        loop {
            if let Some(found) = take(&self.bulk) {
                return Ok(found);
            }
            // Replies may have come that nobody has asked for yet.
            self.end.take_in().map_err(|error| self.report(error))?;
            self.sweep()?;
            if let Some(found) = take(&self.bulk) {
                return Ok(found);
            }
            let limit = self.bulk.limit;
            if bytes > limit {
                return Err(LeaseError::TooBig { asked: bytes, limit }.into());
            }
            if let Some(size) = self.bulk.next_size(owner, bytes) {
                self.grow(owner, size, bytes, deadline)?;
            } else if self.bulk.flying.is_empty() && self.bulk.promises.is_empty() {
                return Err(self.bulk.no_room(owner, bytes));
            } else {
                let end = &mut self.end;
                // Replies that are here and not asked for keep what they lend: only the caller can
                // let go of that.
                if !self.bulk.flying.iter().any(|(sent, _)| end.is_pending(*sent))
                    && !self.bulk.promises.iter().any(|one| end.is_pending(one.transaction))
                {
                    return Err(self.bulk.no_room(owner, bytes));
                }
                if !end.wait_for_reply(deadline).map_err(|error| self.report(error))? {
                    return Err(SendError::NotDelivered { why: Why::Deadline }.into());
                }
            }
        }
    }

    /// Attaches a larger arena in place of those that are idle: of `size` bytes, or, where a quota
    /// is in the way of that, of just the `bytes` that are needed.
    fn grow(
        &mut self,
        owner: Owner,
        size: usize,
        bytes: usize,
        deadline: u64,
    ) -> Result<(), Error> {
        self.detach_idle(true);
        let mut attach = |size| match owner {
            Owner::Client => self.attach(size, 0, deadline),
            Owner::Server => self.attach(0, size, deadline),
        };
        let least = bytes.next_multiple_of(4096);
        match attach(size) {
            Err(Error::Kernel(KernelError::Quota { .. })) if least < size => attach(least),
            other => other,
        }
    }

    /// Attaches a pair of arenas of which `requests` and `replies` bytes can be lent.
    fn attach(&mut self, requests: usize, replies: usize, deadline: u64) -> Result<(), Error> {
        let connection = self.id;
        let whole = ARENA_HEAD_BYTES + requests;
        let request =
            Request::Attach { connection, requests: whole as u32, replies: replies as u32 };
        let link = self.task.link();
        let ended = |error: Error| match error {
            Error::Kernel(KernelError::BadConnection(_)) => {
                let why = self.end.state().why().unwrap_or(Why::Closed);
                SendError::NotDelivered { why }.into()
            }
            other => other,
        };
        let (answer, mut descriptors) = link.ask(&request, deadline).map_err(ended)?;
        let Answer::Attaching { arena, .. } = answer else { return Err(out_of_turn(&answer)) };
        // From here on the kernel knows the arena: a failure must let go of it.
        let pair = (|| {
            let missing = || Error::Protocol("an arena without its descriptor".into());
            let own = descriptors.pop_front().ok_or_else(missing)?;
            let own = OwnArena::map(own, whole, Owner::Client).map_err(|error| {
                Error::system("mapping an arena of the connection's own", error)
            })?;
            let mapped = Request::ArenaMapped { connection, arena };
            let (answer, mut descriptors) = link.ask(&mapped, deadline).map_err(ended)?;
            let Answer::Attached = answer else { return Err(out_of_turn(&answer)) };
            let theirs = (replies > 0)
                .then(|| {
                    let theirs = descriptors.pop_front().ok_or_else(missing)?;
                    PeerArena::map(theirs, replies, Owner::Server)
                        .map_err(|error| Error::system("mapping the server's arena", error))
                })
                .transpose()?;
            Ok(ClientPair::new(arena.0, own, theirs))
        })();
        match pair {
            Ok(pair) => {
                self.bulk.pairs.push(pair);
                Ok(())
            }
            Err(error) => {
                link.tell(&Request::Detach { connection, arena });
                Err(error)
            }
        }
    }

    #[inline]
    fn sweep(&mut self) -> Result<(), SendError> {
        if let Err(fault) = self.bulk.sweep(&mut self.end) {
            self.end.break_off(fault);
            return Err(self.report(SendError::NotDelivered { why: Why::Protocol }));
        }
        if self.bulk.pairs.len() > 1 {
            self.detach_idle(false);
        }
        Ok(())
    }

    /// Detaches arenas in which nothing is lent: those that larger ones have replaced, or all.
    fn detach_idle(&mut self, all: bool) {
        let largest = [Owner::Client, Owner::Server].map(|owner| self.bulk.largest(owner));
        let (link, connection) = (self.task.link(), self.id);
        self.bulk.pairs.retain(|pair| {
            let serves = [pair.own().capacity(), pair.back().map_or(0, |back| back.capacity())];
            let needed = !all
                && serves.iter().zip(largest).any(|(size, largest)| *size > 0 && *size == largest);
            if needed || !pair.is_idle() {
                return true;
            }
            let arena = rendez_protocol::ArenaId(pair.id());
            link.tell(&Request::Detach { connection, arena });
            false
        });
    }

    /// Gives the memory of all arenas back in which nothing is lent. They are attached again when
    /// they are needed.
    pub fn detach_arenas(&mut self) {
        if self.sweep().is_ok() {
            self.detach_idle(true);
        }
    }

    /// How many bytes of arenas are attached: those that this end writes, those that the server does.
    #[must_use]
    pub fn arena_bytes(&self) -> (usize, usize) {
        self.bulk.pairs.iter().fold((0, 0), |(own, theirs), pair| {
            let back = pair.back().map_or(0, |back| back.capacity());
            (own + pair.own().capacity(), theirs + back)
        })
    }

    /// Sends a request that lends `leases` for the transaction, and waits for its reply. The server
    /// sees them in this order. `room` is what the reply may be, and lend.
    ///
    /// # Errors
    /// [`Error::Send`]: how it ended without an answer; [`Error::Lease`], and what the kernel says to
    /// attaching an arena: nothing was sent.
    pub fn send_leased(
        &mut self,
        operation: u16,
        payload: &[u8],
        leases: impl IntoIterator<Item = LeaseMut>,
        room: impl Into<Room>,
    ) -> Result<LeasedReply<'_>, Error> {
        let deadline = coarse_deadline(self.timeout);
        self.send_leased_until(operation, payload, leases, room, deadline)
    }

    /// As [`Connection::send_leased`], with a deadline in ns of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// As [`Connection::send_leased`].
    pub fn send_leased_until(
        &mut self,
        operation: u16,
        payload: &[u8],
        leases: impl IntoIterator<Item = LeaseMut>,
        room: impl Into<Room>,
        deadline: u64,
    ) -> Result<LeasedReply<'_>, Error> {
        let transaction = self.begin_lent(operation, payload, leases, room.into(), deadline)?;
        Ok(self.finish_lent(transaction, deadline)?)
    }

    /// Sends a request that lends `leases`, without waiting for its reply; answers its transaction
    /// id, for [`Connection::finish_leased`]. Waits for room in the ring and in the arena.
    ///
    /// # Errors
    /// As [`Connection::send_leased`].
    pub fn begin_leased(
        &mut self,
        operation: u16,
        payload: &[u8],
        leases: impl IntoIterator<Item = LeaseMut>,
        room: impl Into<Room>,
    ) -> Result<u64, Error> {
        let deadline = coarse_deadline(self.timeout);
        self.begin_lent(operation, payload, leases, room.into(), deadline)
    }

    /// Waits for the reply to a transaction that was begun, and takes what it lends.
    ///
    /// # Errors
    /// How it ended without an answer.
    ///
    /// # Panics
    /// If the transaction is not in flight: a mistake of the caller.
    pub fn finish_leased(&mut self, transaction: u64) -> Result<LeasedReply<'_>, SendError> {
        self.finish_lent(transaction, coarse_deadline(self.timeout))
    }

    fn begin_lent(
        &mut self,
        operation: u16,
        payload: &[u8],
        leases: impl IntoIterator<Item = LeaseMut>,
        room: Room,
        deadline: u64,
    ) -> Result<u64, Error> {
        let begun = self.begin_lent_from(operation, payload, leases, room, deadline);
        if begun.is_err() {
            // What was entered and not sent.
            self.bulk.flying.retain(|(transaction, _)| *transaction != UNSENT);
        }
        begun
    }

    fn begin_lent_from(
        &mut self,
        operation: u16,
        payload: &[u8],
        leases: impl IntoIterator<Item = LeaseMut>,
        room: Room,
        deadline: u64,
    ) -> Result<u64, Error> {
        let mut descriptors = std::mem::take(&mut self.bulk.descriptors);
        descriptors.clear();
        for lease in leases {
            if descriptors.len() == LEASES_MAX {
                return Err(LeaseError::TooMany.into());
            }
            let Memory::Own(span) = lease.memory else { return Err(LeaseError::Foreign.into()) };
            if span.is_empty() {
                return Err(LeaseError::Empty.into());
            }
            let arena = self.bulk.pair_of(span.arena()).ok_or(LeaseError::Foreign)?;
            descriptors.push(describe(arena, Kind::Lease, &span));
            self.bulk.flying.push((UNSENT, span));
        }
        // A reply that lends, or may be longer than its ring carries, is named room in the arena.
        let ring_most = self.end.reply_bytes_max();
        let long_reply = room.payload > ring_most;
        let named = if long_reply {
            room.lent.next_multiple_of(ARENA_UNIT_BYTES).saturating_add(room.payload)
        } else if room.lent > 0 && room.payload + DESCRIPTORS_MAX * DESCRIPTOR_BYTES > ring_most {
            // With the descriptors before it, the payload may find no place in the ring.
            room.lent.next_multiple_of(ARENA_UNIT_BYTES) + room.payload
        } else {
            room.lent
        };
        let ring_room = match named {
            0 => room.payload,
            // Descriptors, a status's text, or something short.
            _ if long_reply => LONG_REPLY_IN_RING.min(ring_most),
            _ => (room.payload + DESCRIPTORS_MAX * DESCRIPTOR_BYTES).min(ring_most),
        };
        let count = descriptors.len() + usize::from(named > 0);
        let long = payload.len() + count * DESCRIPTOR_BYTES > self.end.request_bytes_max();
        if long {
            let bytes = payload.len();
            let mut span = self.find(Owner::Client, bytes, deadline, |bulk| bulk.take(bytes))?;
            span.copy_from_slice(payload);
            let arena = self.bulk.pair_of(span.arena()).ok_or(LeaseError::Foreign)?;
            descriptors.push(describe(arena, Kind::Payload, &span));
            self.bulk.flying.push((UNSENT, span));
        }
        let promise = if named > 0 {
            let promise = self.find(Owner::Server, named, deadline, |bulk| {
                bulk.pairs.iter().rev().find_map(|pair| {
                    let back = pair.back()?;
                    back.promise(named).then(|| Promise {
                        transaction: UNSENT,
                        arena: pair.id(),
                        back: Arc::clone(back),
                        bytes: named,
                    })
                })
            })?;
            descriptors.push(Descriptor {
                arena: promise.arena,
                word: 0,
                kind: Kind::Room,
                place: 0,
                length: named as u32,
            });
            Some(promise)
        } else {
            None
        };
        if descriptors.is_empty() {
            self.bulk.descriptors = descriptors;
            return self
                .end
                .begin_waiting(operation, payload, ring_room, deadline)
                .map_err(|error| self.report(error).into());
        }
        let bulk = &mut self.bulk;
        bulk.message.clear();
        lease::write(&descriptors, &mut bulk.message);
        if !long {
            bulk.message.extend_from_slice(payload);
        }
        bulk.descriptors = descriptors;
        let sent = self.end.begin_leased(operation, &bulk.message, ring_room, deadline);
        let transaction = sent.map_err(|error| self.report(error))?;
        for (sent, _) in self.bulk.flying.iter_mut().rev().take_while(|(sent, _)| *sent == UNSENT) {
            *sent = transaction;
        }
        if let Some(mut promise) = promise {
            promise.transaction = transaction;
            self.bulk.promises.push(promise);
        }
        Ok(transaction)
    }

    fn finish_lent(
        &mut self,
        transaction: u64,
        deadline: u64,
    ) -> Result<LeasedReply<'_>, SendError> {
        let outcome = self.end.wait(transaction, &mut self.buffer, deadline);
        self.lent_reply(outcome, transaction)
    }

    /// What a transaction's reply says and lends, once it is in the buffer.
    pub(crate) fn lent_reply(
        &mut self,
        outcome: Result<Status, SendError>,
        transaction: u64,
    ) -> Result<LeasedReply<'_>, SendError> {
        let status = match outcome {
            Ok(status) => status,
            Err(error) => return Err(self.report(error)),
        };
        let mut leases = Vec::new();
        let mut spilled = None;
        let mut at = 0;
        if self.buffer.flags() & Header::LEASED != 0 {
            let bulk = &mut self.bulk;
            let promise = bulk.promises.iter().find(|one| one.transaction == transaction);
            let back = promise.map(|one| (one.arena, &one.back));
            let room = promise.map_or(0, |one| one.bytes);
            let bytes = self.buffer.as_slice();
            match LentReply::read(bytes, back, room, &mut bulk.descriptors) {
                Ok(lent) => {
                    at = bytes.len() - lent.payload.len();
                    (leases, spilled) = (lent.leases, lent.spilled);
                }
                Err(fault) => {
                    self.end.break_off(Fault::Lease(fault));
                    let generation = self.end.generation();
                    let error = SendError::Interrupted { why: Why::Protocol, generation };
                    return Err(self.report(error));
                }
            }
        }
        // Whatever else is wrong, this reply has come; the next send says so.
        let _ = self.sweep();
        let bulk = &mut self.bulk;
        let payload = match spilled {
            None => &self.buffer.as_slice()[at..],
            Some(lease) => {
                if bulk.payload.capacity() > SPILL_KEPT.max(lease.len()) {
                    bulk.payload = Vec::new();
                }
                bulk.payload.clear();
                lease.append_to(&mut bulk.payload);
                &bulk.payload
            }
        };
        Ok(LeasedReply { status, payload, leases })
    }

    /// The rest of a plain send whose outcome was not simply a reply in the ring: what was too long
    /// for it goes through the arena.
    #[cold]
    pub(crate) fn send_long(
        &mut self,
        outcome: Result<Status, SendError>,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<Reply<'_>, SendError> {
        let reply = match outcome {
            Err(SendError::NotDelivered { why: Why::TooBig }) => {
                let transaction = self.begin_long(operation, payload, room, deadline)?;
                self.finish_lent(transaction, deadline)?
            }
            other => self.lent_reply(other, UNSENT)?,
        };
        Ok(Reply { status: reply.status, payload: reply.payload })
    }

    /// A plain request that the ring does not carry, or that it does not carry the reply of.
    #[cold]
    pub(crate) fn begin_long(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        self.begin_lent(operation, payload, [], Room::payload(room), deadline).map_err(reason)
    }
}

/// What of a ring's area is reserved for a reply that goes through the arena if it is long, in bytes.
const LONG_REPLY_IN_RING: usize = 1024;

/// Stands for the transaction of what is about to be sent.
const UNSENT: u64 = u64::MAX;

fn describe(arena: u32, kind: Kind, span: &Span) -> Descriptor {
    Descriptor {
        arena,
        word: 0,
        kind,
        place: (span.offset() / ARENA_UNIT_BYTES) as u32,
        length: span.len() as u32,
    }
}
