//! The server's end of a connection: receive, and reply once, from any thread.
//!
//! # Steps of a receive
//! (T1) look at the next line; (T2) there is room for the reply that it names; (T3) copy header and
//! payload; (T4) store *taken*; (T5) SeqCst fence; (T6) look at the withdrawal mark and at the status
//! word; (T7) say that the line is *freed*; (T8) hand the message to the handler, or, if it was
//! withdrawn, answer `withdrawn`.
//!
//! # Why these orderings
//! T4–T6 against the client's C5–C8: see [`client`](crate::client). T7 comes after T6, so that the
//! mark that is read is this message's and not that of the next one on the same line.
//!
//! # Replying never blocks and never fails
//! Each message taken is answered by exactly one reply, so *taken* minus what the client has freed
//! bounds the lines in use; the area that a reply may need is reserved at T2 and the rest given
//! back when the reply is written. A client that does not read its replies stops being received
//! from, and nobody else notices.
//!
//! # If the peer dies or lies here
//! A client that dies leaves a ring that nobody adds to; replies to it go nowhere. A client that
//! lies about what it has freed overwrites its own replies. Models: as for the client, and
//! `reply_from_another_thread`.

use crate::counters::{ReplyCounters, RequestCounters};
use crate::doorbell::{Ringer, Sleeper};
use crate::half::{Ours, Theirs};
use crate::lease_server::ServerArenas;
use crate::notification::{Acknowledger, Poster};
use crate::platform::{Atomic, Host, Label, Lock, Platform};
use crate::ring::{AHEAD, Buffer, Fault, Reader, Writer, plain};
use crate::segment::prefetch_all;
use crate::waits;
use core::sync::atomic::Ordering::Relaxed;
use rendez_protocol::injection::Phase;
use rendez_protocol::limit::{LINE_BYTES, PRIORITY_MAX};
use rendez_protocol::message::{Header, area_bytes, room_bytes};
use rendez_protocol::status::{ConnectionState, Status};
use std::sync::{Arc, OnceLock};

/// What a look at a connection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<M = Taken> {
    /// No message.
    Nothing,
    /// A message whose reply has no room yet.
    NoRoom,
    /// A message, taken; its payload is in the buffer.
    Message(M),
    /// The connection has ended.
    Ended(ConnectionState),
}

/// A message that was taken and must be answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The transaction.
    pub transaction: u64,
    /// What is asked.
    pub operation: u16,
    /// The absolute deadline in ns that its sender claims, 0 for none.
    pub deadline: u64,
    /// The `room` field: what the reply may need.
    pub room: u16,
    /// Its priority: what its sender claims, within what its capability allows.
    pub priority: u8,
    /// Since when its service is timed, in ns, for the counters; 0 if it is not.
    pub timed_ns: u64,
    /// Whether injections are pending, so that its reply is to look for them.
    pub injected: bool,
}

impl Taken {
    /// The longest reply, in bytes.
    #[must_use]
    pub const fn room_bytes(&self) -> usize {
        room_bytes(self.room)
    }
}

#[derive(Debug)]
struct Outbox<P: Platform> {
    writer: Writer,
    ringer: Ringer<P>,
    poster: Poster,
    /// Area bytes reserved for replies and not needed by them, all in all.
    slack: u64,
    counters: ReplyCounters,
}

/// The sending half of a server's end: what reply rights hold on to, in any thread.
#[derive(Debug)]
pub struct Port<P: Platform> {
    ours: Ours<P>,
    theirs: Theirs<P>,
    outbox: P::Lock<Outbox<P>>,
    arenas: OnceLock<ServerArenas>,
    /// Of the connection's status word.
    index: u32,
    /// For those replies that look for injections: there since the first that does.
    status: OnceLock<P::Status>,
}

impl<P: Platform> Port<P> {
    /// Answers the transaction. Never blocks; a payload longer than the room that its request named
    /// becomes `too big`, with the length as payload. Each taken message is answered once; what
    /// makes sure of that is the reply right around it.
    #[inline(always)]
    pub fn reply(&self, taken: &Taken, status: Status, payload: &[u8]) {
        self.reply_flagged(taken, 0, status, payload);
    }

    /// As [`Port::reply`], for a payload that begins with
    /// [lease descriptors](rendez_protocol::lease).
    pub fn reply_leased(&self, taken: &Taken, status: Status, payload: &[u8]) {
        self.reply_flagged(taken, Header::LEASED, status, payload);
    }

    /// What says in the task page that a thread handles this transaction: for
    /// [`ThreadCounters::handles`](crate::counters::ThreadCounters::handles).
    #[inline]
    pub const fn handled(&self, transaction: u64) -> u64 {
        waits::key(self.index, Some(transaction))
    }

    /// The calling thread keeps the right to answer this transaction beyond its handler.
    #[cold]
    pub fn keeps(&self, transaction: u64) {
        waits::keeps(self.handled(transaction));
    }

    /// The connection's arenas.
    pub fn arenas(&self) -> &ServerArenas {
        self.arenas.get_or_init(ServerArenas::default)
    }

    #[inline(always)]
    fn reply_flagged(&self, taken: &Taken, flags: u8, status: Status, payload: &[u8]) {
        if taken.injected {
            return self.reply_injected(taken, flags, status, payload);
        }
        self.outbox.with(|outbox| {
            Self::publish(&self.ours, outbox, taken, flags, status, payload);
            self.ring(outbox, taken, payload.len());
        });
    }

    /// As [`Port::reply`], where injections are pending.
    #[cold]
    fn reply_injected(&self, taken: &Taken, flags: u8, status: Status, payload: &[u8]) {
        let lends = flags & Header::LEASED != 0;
        // What lends has been asked about before it was lent.
        let dropped = !lends && self.reached(Phase::InHandler);
        let (status, payload) =
            if dropped { (Status::DROPPED, &[][..]) } else { (status, payload) };
        self.outbox.with(|outbox| {
            Self::publish(&self.ours, outbox, taken, flags, status, payload);
        });
        // Dropping is not for this phase.
        let _ = self.reached(Phase::ReplyPublished);
        self.outbox.with(|outbox| self.ring(outbox, taken, payload.len()));
    }

    /// A transaction that looks for injections has reached `phase`; whether to drop its reply.
    pub(crate) fn reached(&self, phase: Phase) -> bool {
        self.status.get().is_some_and(|status| P::reached(status, phase))
    }

    #[inline(always)]
    fn ring(&self, outbox: &mut Outbox<P>, taken: &Taken, length: usize) {
        outbox.ringer.ring_if_asleep(&self.ours, &self.theirs);
        let rings = outbox.ringer.rings();
        outbox.counters.replied::<P>(length, taken.timed_ns, rings);
    }

    #[inline(always)]
    fn publish(
        ours: &Ours<P>,
        outbox: &mut Outbox<P>,
        taken: &Taken,
        flags: u8,
        status: Status,
        payload: &[u8],
    ) {
        let long = (payload.len() as u32).to_le_bytes();
        let (flags, status, payload) = if payload.len() > taken.room_bytes() {
            (0, Status::TOO_BIG, &long[..])
        } else {
            (flags, status, payload)
        };
        outbox.slack += taken.room as u64 * LINE_BYTES as u64 - area_bytes(payload.len()) as u64;
        let header = Header { flags, ..plain(status.0, 0, taken.transaction) };
        outbox.writer.publish(ours, header, payload);
    }

    /// Posts notification bits to the client.
    pub fn post(&self, bits: u64) {
        self.outbox.with(|outbox| {
            if outbox.poster.post(&self.ours, &self.theirs, bits) {
                outbox.ringer.ring_if_asleep(&self.ours, &self.theirs);
            }
        });
    }

    /// How often the client had to be woken.
    pub fn rings(&self) -> u64 {
        self.outbox.with(|outbox| outbox.ringer.rings())
    }
}

/// The server's end of a connection. One thread receives from it at a time.
#[derive(Debug)]
pub struct ServerEnd<P: Platform> {
    port: Arc<Port<P>>,
    status: P::Status,
    reader: Reader,
    sleeper: Sleeper,
    acknowledger: Acknowledger,
    lines: u64,
    area: u64,
    /// Replies that the client has freed, as far as we know.
    replies_freed: u64,
    /// Area bytes reserved for replies, all in all.
    reserved: u64,
    /// Area bytes given back, all in all, as far as we know.
    returned: u64,
    unsettled: bool,
    /// The highest priority that a message may have.
    ceiling: u8,
    /// Messages in a row that were there when they were looked for.
    run: u64,
    counters: RequestCounters,
}

impl<P: Platform> ServerEnd<P> {
    /// The server's end of a new connection, ringing its client by `bell`. The client may post the
    /// notification bits of `mask`.
    pub fn new(
        ours: Ours<P>,
        theirs: Theirs<P>,
        status: P::Status,
        bell: P::Bell,
        mask: u64,
    ) -> Self {
        Self {
            reader: Reader::new(&theirs),
            sleeper: Sleeper::new(),
            acknowledger: Acknowledger::new(mask),
            lines: u64::from(ours.lines()),
            area: ours.area_bytes() as u64,
            replies_freed: 0,
            reserved: 0,
            returned: 0,
            unsettled: false,
            ceiling: PRIORITY_MAX,
            run: 0,
            counters: RequestCounters::default(),
            port: Arc::new(Port {
                outbox: P::Lock::new(Outbox {
                    writer: Writer::new(&ours),
                    ringer: Ringer::new(bell),
                    poster: Poster::new(),
                    slack: 0,
                    counters: ReplyCounters::default(),
                }),
                ours,
                theirs,
                arenas: OnceLock::new(),
                index: P::index(&status),
                status: OnceLock::new(),
            }),
            status,
        }
    }

    /// Counts for others from now on.
    pub fn set_counters(&mut self, (requests, replies): (RequestCounters, ReplyCounters)) {
        self.counters = requests;
        self.port.outbox.with(|outbox| outbox.counters = replies);
    }

    /// From now on no message has a higher priority than `ceiling`, whatever it claims.
    pub const fn set_ceiling(&mut self, ceiling: u8) {
        self.ceiling = ceiling;
    }

    /// The priority of the next message, `None` if there is none. A fault is urgent.
    pub fn urgency(&self) -> Option<u8> {
        match self.reader.peek(&self.port.theirs) {
            Ok(None) => None,
            Ok(Some(header)) => Some(header.priority().min(self.ceiling)),
            Err(_) => Some(PRIORITY_MAX),
        }
    }

    /// What reply rights hold on to.
    #[must_use]
    #[inline]
    pub const fn port(&self) -> &Arc<Port<P>> {
        &self.port
    }

    /// What the kernel says of the connection.
    #[must_use]
    #[inline]
    pub fn state(&self) -> ConnectionState {
        // ORDERING(status): Relaxed; when a message is taken, the fence (TakeFence) came before;
        // elsewhere nothing is read after it.
        let word = self.status.as_ref().load(Relaxed);
        ConnectionState::from_word(word)
    }

    /// Takes the next message, its payload into `out`. [`Found::Nothing`] also where a message was
    /// withdrawn: there may be more behind it, which [`ServerEnd::is_ready`] says before a sleep.
    ///
    /// # Errors
    /// What the client did that no honest one does: the connection is to be closed with `protocol`.
    #[inline(always)]
    pub fn receive(&mut self, out: &mut Buffer) -> Result<Found, Fault> {
        let theirs = &self.port.theirs;
        let Some(header) = self.reader.peek(theirs)? else {
            self.run = 0;
            return Ok(Found::Nothing);
        };
        if !self.has_reply_room(&header)? {
            self.counters.waits_for_room(self.reader.position());
            return Ok(Found::NoRoom);
        }
        if P::is_injected(&self.status) {
            return self.receive_injected(&header, out);
        }
        Ok(self.take(&header, out, false))
    }

    /// As [`ServerEnd::receive`] of the message with this header, where injections are pending.
    #[cold]
    fn receive_injected(&mut self, header: &Header, out: &mut Buffer) -> Result<Found, Fault> {
        self.port.status.get_or_init(|| self.status.clone());
        if P::reached(&self.status, Phase::BeforeTaken) {
            return Ok(Found::Ended(ConnectionState::Closed));
        }
        let found = self.take(header, out, true);
        if let Found::Message(taken) = found
            && P::reached(&self.status, Phase::Taken)
        {
            self.port.reply(&Taken { injected: false, ..taken }, Status::DROPPED, &[]);
            return Ok(Found::Nothing);
        }
        Ok(found)
    }

    /// (T3–T8) Takes the message with this header.
    #[inline(always)]
    fn take(&mut self, header: &Header, out: &mut Buffer, injected: bool) -> Found {
        let theirs = &self.port.theirs;
        self.reserved += u64::from(header.room) * LINE_BYTES as u64;
        self.reader.copy(theirs, header, out);
        let transaction = self.reader.position();
        self.run += 1;
        if self.run > AHEAD {
            self.port.theirs.prefetch(transaction + AHEAD);
            self.port.ours.prefetch(transaction + AHEAD);
        }
        self.port.ours.set_taken(transaction + 1);
        P::fence(Label::TakeFence);
        let withdrawn = self.reader.is_withdrawn(theirs);
        let state = self.state();
        self.reader.advance(header);
        self.reader.publish_freed(&self.port.ours);
        self.unsettled = true;
        let taken = Taken {
            transaction,
            operation: header.code,
            deadline: header.word,
            room: header.room,
            priority: header.priority().min(self.ceiling),
            timed_ns: self.counters.taken::<P>(header.length),
            injected,
        };
        if state != ConnectionState::Open {
            return Found::Ended(state);
        }
        if !withdrawn {
            return Found::Message(taken);
        }
        // One at a time: a client that withdraws everything is not to hold the thread.
        self.port.reply(&Taken { injected: false, ..taken }, Status::WITHDRAWN, &[]);
        Found::Nothing
    }

    /// Whether there is anything in the ring that was not there at the last look.
    #[inline(always)]
    pub fn has_news(&self) -> bool {
        self.reader.has_news(&self.port.theirs)
    }

    /// Takes the next message and dies at once, between (T4) and (T5): for models of death.
    ///
    /// # Panics
    /// If there is no message.
    #[cfg(feature = "model")]
    pub fn die_after_taking(self) {
        assert!(matches!(self.reader.peek(&self.port.theirs), Ok(Some(_))), "a message is there");
        self.port.ours.set_taken(self.reader.position() + 1);
    }

    /// (T2)
    #[inline]
    fn has_reply_room(&mut self, header: &Header) -> Result<bool, Fault> {
        let asked = u64::from(header.room) * LINE_BYTES as u64;
        if self.reader.position() - self.replies_freed < self.lines
            && self.reserved - self.returned + asked <= self.area
        {
            return Ok(true);
        }
        self.find_reply_room(asked)
    }

    #[cold]
    fn find_reply_room(&mut self, asked: u64) -> Result<bool, Fault> {
        if asked > self.area {
            return Err(Fault::Room { asked: asked as usize, area: self.area as usize });
        }
        let port = &self.port;
        let (freed, returned) = port.outbox.with(|outbox| {
            outbox.writer.refresh(&port.theirs)?;
            Ok((outbox.writer.freed(), outbox.writer.area_freed() + outbox.slack))
        })?;
        self.replies_freed = freed;
        self.returned = returned;
        Ok(self.reader.position() - freed < self.lines
            && self.reserved - returned + asked <= self.area)
    }

    /// Whether there is something to do: a message with room for its reply, a notification, the
    /// connection's end, or a fault to report.
    pub fn is_ready(&mut self) -> bool {
        let message = match self.reader.peek(&self.port.theirs) {
            Ok(None) => false,
            Ok(Some(header)) => self.has_reply_room(&header).unwrap_or(true),
            Err(_) => true,
        };
        message
            || self.acknowledger.is_pending(&self.port.theirs)
            || self.state() != ConnectionState::Open
    }

    /// (S1) Says that this end sleeps. The caller then calls [`sleep_fence`], once for any number of
    /// connections, then asks [`ServerEnd::wakes_at_once`] for each, and waits if none does.
    pub fn lie_down(&mut self) {
        let wants_room = matches!(self.reader.peek(&self.port.theirs), Ok(Some(_)));
        self.sleeper.lie_down(&self.port.ours, wants_room);
    }

    /// After the fence of a sleep: whether there is something to do after all. A message that came
    /// meanwhile and has no room for its reply makes this end wait for room.
    pub fn wakes_at_once(&mut self) -> bool {
        self.settle_asleep();
        if self.is_ready() {
            return true;
        }
        if !self.sleeper.wants_room() && matches!(self.reader.peek(&self.port.theirs), Ok(Some(_)))
        {
            self.sleeper.lie_down(&self.port.ours, true);
            P::fence(Label::SleepFence);
            return self.is_ready();
        }
        false
    }

    /// After the fence of a sleep: wakes a client that waits for the room we have freed.
    fn settle_asleep(&mut self) {
        self.unsettled = false;
        self.ring_for_room();
    }

    /// (S5) Says that this end is awake.
    pub fn get_up(&mut self) {
        if self.is_down() {
            self.counters.slept();
        }
        self.sleeper.get_up(&self.port.ours);
    }

    /// Whether this end has said that it sleeps.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.sleeper.is_down()
    }

    /// Wakes a client that waits for the room we have freed. Called where the receiver has found
    /// nothing to do.
    pub fn settle(&mut self) {
        if self.unsettled {
            self.unsettled = false;
            P::fence(Label::PublishFence);
            self.ring_for_room();
        }
    }

    fn ring_for_room(&self) {
        if !Ringer::<P>::sees_want_of_room(&self.port.theirs) {
            return;
        }
        self.port
            .outbox
            .with(|outbox| outbox.ringer.ring_for_room(&self.port.ours, &self.port.theirs));
    }

    /// Takes the notification bits that the client has posted, 0 if none are pending.
    pub fn take_notifications(&mut self) -> u64 {
        self.acknowledger.take(&self.port.ours, &self.port.theirs)
    }

    /// The client's doorbell word and this end's status word, for a server that waits by futex.
    #[must_use]
    pub fn words(&self) -> (&P::U32, &P::U32) {
        (self.port.theirs.doorbell(), self.status.as_ref())
    }

    /// Our segment and the client's, for [`Spinner::step`](crate::wait::Spinner::step).
    #[must_use]
    pub fn halves(&self) -> (&Ours<P>, &Theirs<P>) {
        (&self.port.ours, &self.port.theirs)
    }

    /// When the client last rang, in ns: a claim.
    #[must_use]
    pub fn rang_at(&self) -> u64 {
        self.port.theirs.rang_at()
    }
}

/// (S2) The fence between [`ServerEnd::lie_down`] and the look that follows.
pub fn sleep_fence<P: Platform>() {
    P::fence(Label::SleepFence);
}

impl ServerEnd<Host> {
    /// See [`End::prefetch_own`](crate::end::End::prefetch_own).
    #[inline]
    pub(crate) fn prefetch_own(&self) {
        prefetch_all(&*self.port);
        self.counters.prefetch_place();
    }

    /// See [`End::prefetch_shared`](crate::end::End::prefetch_shared).
    #[inline]
    pub(crate) fn prefetch_shared(&self) {
        let Port { ours, theirs, .. } = &*self.port;
        theirs.prefetch(self.reader.position());
        theirs.prefetch_asleep();
        ours.prefetch(self.reader.position());
        ours.prefetch_progress();
        self.counters.prefetch();
    }
}
