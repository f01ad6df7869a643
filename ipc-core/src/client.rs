//! The client's end of a connection: send, and be told exactly what became of it.
//!
//! # Steps of a send
//! (C1) there is room: a line of our ring, a line and the named bytes in the server's; (C2) publish
//! the request; (C3) ring if the server sleeps; (C4) wait for a reply that names the request's
//! position. If the wait is given up (deadline, cancel) or the connection has ended: (C5) mark the
//! line withdrawn; (C6) SeqCst fence; (C7) take replies that are there after all; (C8) look at the
//! server's *taken*. Not taken: `NotDelivered`. Taken: `Interrupted`.
//!
//! # Why these orderings
//! C5–C8 and the server's T4–T6 ([`server`](crate::server)) are Dekker's shape: the two fences have
//! an order, so either we see that it was taken, or the server sees the mark and does not run it.
//! `NotDelivered` is therefore exact. After a death the kernel's Release of the status
//! word and our fence make all that the dead server published visible, so the last reply is found,
//! and *taken* is exact too.
//!
//! # If the peer dies or lies here
//! Before it has taken: `NotDelivered`. After: `Interrupted`, or `Ok` if its reply is in the ring. A
//! server that lies about *taken* deceives its own clients. A reply for a transaction that is not in
//! flight, and every [`Fault`] of the ring, ends the connection. Models: `server_dies_…`,
//! `withdraw_against_take`, `late_reply_after_withdrawal`, `close_against_send`.

use crate::counters::ClientCounters;
use crate::doorbell::{Ringer, Sleeper};
use crate::flight::{Answer, Entry, Flight};
use crate::half::{Ours, Theirs};
use crate::notification::{Acknowledger, Poster};
use crate::platform::{Atomic, Label, Platform};
use crate::ring::{AHEAD, Buffer, Fault, Reader, Writer};
use crate::wait::{Habit, Learner, Slept, Spinner, Step, Wait};
use crate::waits::{Asked, Patience};
use core::sync::atomic::Ordering::Relaxed;
use rendez_protocol::injection::Phase;
use rendez_protocol::limit;
use rendez_protocol::message::{Header, area_bytes, room_bytes, room_for};
use rendez_protocol::status::{ConnectionState, Status, Why};

mod lease;
mod many;

pub use many::{Answered, Outcome, publish_fence};

/// How a send ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No server ever saw it: always safe to send again.
    #[error("not delivered: {why}")]
    NotDelivered {
        /// Why.
        why: Why,
    },
    /// A server had taken it, and what it did is unknown.
    #[error("interrupted: {why} (server incarnation {generation})")]
    Interrupted {
        /// Why.
        why: Why,
        /// Which incarnation of the server had taken it.
        generation: u32,
    },
}

impl SendError {
    /// The reason.
    #[must_use]
    pub const fn why(self) -> Why {
        match self {
            Self::NotDelivered { why } | Self::Interrupted { why, .. } => why,
        }
    }

    /// Whether sending again cannot do the same thing twice.
    #[must_use]
    pub const fn is_safe_to_retry(self) -> bool {
        matches!(self, Self::NotDelivered { .. })
    }
}

/// No deadline.
pub const NEVER: u64 = u64::MAX;
/// How often a sender without a deadline looks whether there still is a kernel, in ns: nobody would
/// tell it of its server's death.
const PATROL_NS: u64 = 1_000_000_000;
/// How long a sender that has given up waits for a reply that the server may just be writing, in ns.
const GRACE_NS: u64 = 1_000_000;

/// From this many transactions in flight on, a look in vain is followed by a rest for every second of
/// them, before the ring is looked at without a pause.
const GATHER_FROM: u64 = 8;
/// But no more than this.
const GATHER_MOST: u64 = 32;

/// What else ends a sleep of the client, beside a reply and the connection's end.
#[derive(Clone, Copy, Debug)]
enum Also {
    Nothing,
    Notifications,
    /// Room for a payload, and for its reply in the area.
    Room {
        length: usize,
        area: u64,
    },
}

/// What the client counts, for its statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Requests published.
    pub sent: u64,
    /// Replies that came after their sender had given up.
    pub late: u64,
    /// Times that this end slept.
    pub sleeps: u64,
    /// Times that it rang the server.
    pub rings: u64,
}

/// The client's end of a connection. One thread uses it at a time.
#[derive(Debug)]
pub struct ClientEnd<P: Platform> {
    ours: Ours<P>,
    theirs: Theirs<P>,
    status: P::Status,
    writer: Writer,
    reader: Reader,
    ringer: Ringer<P>,
    sleeper: Sleeper,
    poster: Poster,
    acknowledger: Acknowledger,
    flight: Flight,
    wait: Wait,
    generation: u32,
    fault: Option<Fault>,
    unsettled: bool,
    /// Requests were published for which the server has not been rung for certain.
    quiet: bool,
    /// Replies in a row that were there when they were looked for.
    run: u64,
    /// Flags of the next request: see [`ClientEnd::begin_leased`].
    flags_next: u8,
    /// Those of all messages: their priority.
    flags_always: u8,
    /// Late replies that lend something, for whoever lets go of it.
    late: Vec<Buffer>,
    learner: Learner,
    habit: Habit,
    counts: ClientCounts,
    counters: ClientCounters,
}

impl<P: Platform> ClientEnd<P> {
    /// The client's end of a new connection to the server's incarnation `generation`, woken by
    /// futex, ringing the server by `bell`.
    pub fn new(
        ours: Ours<P>,
        theirs: Theirs<P>,
        status: P::Status,
        bell: P::Bell,
        generation: u32,
        wait: Wait,
    ) -> Self {
        Self {
            writer: Writer::new(&ours),
            reader: Reader::new(&theirs),
            flight: Flight::new(ours.lines()),
            ours,
            theirs,
            status,
            ringer: Ringer::new(bell),
            sleeper: Sleeper::new(),
            poster: Poster::new(),
            acknowledger: Acknowledger::new(u64::MAX),
            wait,
            generation,
            fault: None,
            unsettled: false,
            quiet: false,
            run: 0,
            flags_next: 0,
            flags_always: 0,
            late: Vec::new(),
            learner: Learner::default(),
            habit: Habit::default(),
            counts: ClientCounts::default(),
            counters: ClientCounters::none(),
        }
    }

    /// Counts for others from now on too.
    pub fn set_counters(&mut self, counters: ClientCounters) {
        self.counters = counters;
    }

    /// Changes how this end waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Gives what is sent from now on a priority, 0 at first, at most
    /// [`PRIORITY_MAX`](rendez_protocol::limit::PRIORITY_MAX). The server serves it as if it had
    /// that, or what the client's capability allows, whichever is lower.
    pub const fn set_priority(&mut self, priority: u8) {
        self.flags_always = Header::flags_of(priority);
    }

    /// What the peer did wrong, if it did.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The server's incarnation.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Statistics.
    #[must_use]
    pub const fn counts(&self) -> ClientCounts {
        ClientCounts { rings: self.ringer.rings(), ..self.counts }
    }

    /// What the kernel says of the connection.
    #[must_use]
    #[inline]
    pub fn state(&self) -> ConnectionState {
        // ORDERING(status): Relaxed; whoever reads an end here marks its message and fences
        // (WithdrawFence) before it concludes anything, which acquires what the kernel released
        // with the word.
        let word = self.status.as_ref().load(Relaxed);
        ConnectionState::from_word(word)
    }

    /// The longest payload of a request.
    #[must_use]
    pub const fn request_bytes_max(&self) -> usize {
        self.writer.payload_bytes_max()
    }

    /// The longest payload of a reply.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        // The header's `room` counts lines in 16 bits.
        room_bytes(room_for(self.theirs.area_bytes() + limit::INLINE_BYTES))
    }

    fn why_ended(&self) -> Option<Why> {
        if self.fault.is_some() { Some(Why::Protocol) } else { self.state().why() }
    }

    const fn not_delivered(why: Why) -> SendError {
        SendError::NotDelivered { why }
    }

    const fn interrupted(&self, why: Why) -> SendError {
        SendError::Interrupted { why, generation: self.generation }
    }

    /// Publishes a request, if there is room, and answers its transaction id. `room` is the longest
    /// reply wanted, in bytes; `deadline` (ns, [`NEVER`]) travels with the message.
    ///
    /// # Errors
    /// `NotDelivered`: `Full`, `TooBig`, or why the connection has ended.
    #[inline]
    pub fn begin(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        let position = self.publish(operation, payload, room, deadline)?;
        self.ringer.ring_if_asleep(&self.ours, &self.theirs);
        Ok(position)
    }

    /// (C1, C2)
    #[inline]
    fn publish(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        // ORDERING(status): as in `state`.
        if self.fault.is_some() || self.status.as_ref().load(Relaxed) != 0 {
            return self.publish_disturbed(operation, payload, room, deadline);
        }
        let reply_area = self.admit(payload, room)?;
        Ok(self.put(operation, payload, room, reply_area, deadline))
    }

    /// As [`ClientEnd::publish`], where the connection has ended, or injections are pending.
    #[cold]
    fn publish_disturbed(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        if let Some(why) = self.why_ended() {
            return Err(Self::not_delivered(why));
        }
        let reply_area = self.admit(payload, room)?;
        if P::reached(&self.status, Phase::BeforePublish) {
            return Err(Self::not_delivered(Why::Cancelled));
        }
        if let Some(why) = self.why_ended() {
            return Err(Self::not_delivered(why));
        }
        let position = self.put(operation, payload, room, reply_area, deadline);
        if P::reached(&self.status, Phase::Published) {
            // Whoever waits for it is told what becomes of that.
            self.mark(position);
        }
        Ok(position)
    }

    /// (C1) The bytes of the area that the reply may need, if there is room for both.
    #[inline(always)]
    fn admit(&mut self, payload: &[u8], room: usize) -> Result<u64, SendError> {
        if payload.len() > self.request_bytes_max() || room > self.reply_bytes_max() {
            return Err(Self::not_delivered(Why::TooBig));
        }
        let reply_area = area_bytes(room) as u64;
        if !self.has_room(payload.len(), reply_area)? {
            return Err(Self::not_delivered(Why::Full));
        }
        Ok(reply_area)
    }

    /// (C2)
    #[inline(always)]
    fn put(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        reply_area: u64,
        deadline: u64,
    ) -> u64 {
        let header = Header {
            length: 0,
            flags: self.flags_next | self.flags_always,
            code: operation,
            room: room_for(room),
            word: if deadline == NEVER { 0 } else { deadline.max(1) },
        };
        let position = self.writer.publish(&self.ours, header, payload);
        if position - self.reader.position() >= AHEAD {
            self.ours.prefetch(position + AHEAD);
        }
        self.flight.begin(position, reply_area, deadline);
        self.counts.sent += 1;
        self.counters.sent::<P>(position, payload.len());
        position
    }

    /// (C1)
    #[inline]
    fn has_room(&mut self, length: usize, reply_area: u64) -> Result<bool, SendError> {
        let position = self.writer.position();
        Ok(!self.flight.is_full()
            && position - self.reader.position() < u64::from(self.theirs.lines())
            && self.flight.rooms() + reply_area <= self.theirs.area_bytes() as u64
            && self
                .writer
                .has_room(&self.theirs, length)
                .map_err(|fault| self.broken(fault, Self::not_delivered(Why::Protocol)))?)
    }

    #[cold]
    fn broken(&mut self, fault: Fault, error: SendError) -> SendError {
        self.fault = Some(fault);
        error
    }

    /// As [`ClientEnd::begin`], waiting for room until `deadline`.
    ///
    /// # Errors
    /// As `begin`, with `Deadline` for `Full`; `Full` still if twice as many transactions as the ring
    /// has lines were begun and their replies not taken: then only the caller can make room.
    #[inline]
    pub fn begin_waiting(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        match self.begin(operation, payload, room, deadline) {
            Err(SendError::NotDelivered { why: Why::Full }) => {
                self.wait_for_room(payload.len(), area_bytes(room) as u64, deadline)?;
                self.begin(operation, payload, room, deadline)
            }
            other => other,
        }
    }

    #[cold]
    fn wait_for_room(
        &mut self,
        length: usize,
        reply_area: u64,
        deadline: u64,
    ) -> Result<(), SendError> {
        self.flush();
        self.counters.waits_for_room();
        let mut patience = Patience::new(Some(self.writer.position()), deadline);
        let mut spinner = Spinner::new(self.wait, &self.habit);
        loop {
            // Replies that nobody waits for yet hold lines and room: take them in.
            while self
                .absorb(None)
                .map_err(|fault| self.broken(fault, Self::not_delivered(Why::Protocol)))?
            {
            }
            if self.has_room(length, reply_area)? {
                return Ok(());
            }
            if self.flight.is_full() {
                // Their replies are here: only the caller can make room, by taking them.
                return Err(Self::not_delivered(Why::Full));
            }
            match spinner.step(&mut self.habit, &self.ours, &self.theirs) {
                Step::Again => continue,
                Step::Look(now) if now < deadline => {}
                Step::Look(_) => return Err(Self::not_delivered(Why::Deadline)),
                Step::Sleep => {
                    let also = Also::Room { length, area: reply_area };
                    if self.sleep(also, deadline, &mut patience) == Asked::Deadlock {
                        return Err(Self::not_delivered(Why::Deadlock));
                    }
                    spinner.exhaust();
                    if P::now() >= deadline {
                        return Err(Self::not_delivered(Why::Deadline));
                    }
                    if deadline == NEVER && P::is_orphaned(&self.status) {
                        return Err(Self::not_delivered(Why::Closed));
                    }
                }
            }
            self.settle();
            if let Some(why) = self.why_ended() {
                return Err(Self::not_delivered(why));
            }
        }
    }

    /// The outcome of a transaction if it is known; its reply's payload in `out`. `None` while it is
    /// in flight. Once answered, the transaction is over.
    ///
    /// # Panics
    /// If `transaction` is not one that [`ClientEnd::begin`] answered and that is not over: a
    /// mistake of the caller.
    pub fn poll(
        &mut self,
        transaction: u64,
        out: &mut Buffer,
    ) -> Option<Result<Status, SendError>> {
        match self.look(transaction, out) {
            Ok(None) => {
                self.flush();
                self.why_ended().map(|why| self.ended(transaction, why, out))
            }
            Ok(Some(outcome)) => Some(outcome),
            Err(fault) => {
                self.fault = Some(fault);
                Some(self.ended(transaction, Why::Protocol, out))
            }
        }
    }

    /// Waits for the outcome of a transaction, at most until `deadline`; its reply's payload in `out`.
    ///
    /// # Errors
    /// How it ended without an answer.
    ///
    /// # Panics
    /// As [`ClientEnd::poll`].
    #[inline]
    pub fn wait(
        &mut self,
        transaction: u64,
        out: &mut Buffer,
        deadline: u64,
    ) -> Result<Status, SendError> {
        let mut spinner = Spinner::new(self.wait, &self.habit);
        let mut patience = Patience::new(Some(transaction), deadline);
        loop {
            match self.look(transaction, out) {
                Ok(Some(outcome)) => {
                    spinner.over(&mut self.habit);
                    return outcome;
                }
                Ok(None) => {
                    self.flush();
                    self.let_gather();
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    return self.ended(transaction, Why::Protocol, out);
                }
            }
            match spinner.step(&mut self.habit, &self.ours, &self.theirs) {
                Step::Again => {
                    while !self.reader.has_news(&self.theirs) && spinner.again::<P>() {}
                    continue;
                }
                Step::Look(now) => {
                    self.counters.looked();
                    if now >= deadline {
                        return self.withdraw(transaction, Why::Deadline, out);
                    }
                }
                Step::Sleep => {
                    if self.sleep(Also::Nothing, deadline, &mut patience) == Asked::Deadlock {
                        return self.withdraw(transaction, Why::Deadlock, out);
                    }
                    spinner.exhaust();
                    if deadline == NEVER {
                        if P::is_orphaned(&self.status) {
                            return self.ended(transaction, Why::Closed, out);
                        }
                    } else if P::now() >= deadline {
                        return self.withdraw(transaction, Why::Deadline, out);
                    }
                }
            }
            self.settle();
            if let Some(why) = self.why_ended() {
                return self.ended(transaction, why, out);
            }
        }
    }

    /// With many in flight, lets replies gather: who looks at each line in the very moment in which
    /// it is written makes the writer fetch it twice.
    #[inline]
    fn let_gather(&self) {
        let in_flight = self.writer.position() - self.reader.position();
        if in_flight >= GATHER_FROM {
            for _ in 0..(in_flight / 2).min(GATHER_MOST) {
                P::pause();
            }
        }
    }

    /// Sends: publishes a request and waits for its reply, whose payload is then in `out`.
    ///
    /// # Errors
    /// How it ended without an answer.
    #[inline]
    pub fn send(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
        out: &mut Buffer,
    ) -> Result<Status, SendError> {
        let transaction = self.begin_waiting(operation, payload, room, deadline)?;
        self.wait(transaction, out, deadline)
    }

    /// Gives a transaction up. If the server had taken it, waits a short grace for its answer; not
    /// where it waits in a circle, which nobody answers before somebody has given up.
    ///
    /// # Errors
    /// `NotDelivered` or `Interrupted` for `why`.
    ///
    /// # Panics
    /// As [`ClientEnd::poll`].
    #[cold]
    pub fn withdraw(
        &mut self,
        transaction: u64,
        why: Why,
        out: &mut Buffer,
    ) -> Result<Status, SendError> {
        self.flush();
        self.mark(transaction);
        let mut grace = 0;
        let mut patience = Patience::new(Some(transaction), 0);
        let mut spinner = Spinner::new(
            if self.wait == Wait::Block { Wait::Block } else { Wait::Adaptive },
            &self.habit,
        );
        loop {
            match self.look(transaction, out) {
                Ok(Some(outcome)) => return Self::withdrawn_for(outcome, why),
                Ok(None) => {}
                Err(fault) => {
                    self.fault = Some(fault);
                    return self.ended(transaction, Why::Protocol, out);
                }
            }
            if self.theirs.taken() <= transaction {
                self.flight.abandon(transaction);
                return Err(Self::not_delivered(why));
            }
            let now = P::now();
            if grace == 0 && why != Why::Deadlock {
                grace = now.saturating_add(GRACE_NS);
            } else if now >= grace {
                self.flight.abandon(transaction);
                return Err(self.interrupted(why));
            }
            if let Some(ended) = self.why_ended() {
                return self.ended(transaction, ended, out);
            }
            if spinner.step(&mut self.habit, &self.ours, &self.theirs) == Step::Sleep {
                patience.waiting.deadline_ns = grace;
                self.sleep(Also::Nothing, grace, &mut patience);
                spinner.exhaust();
            }
        }
    }

    /// Where the server saw the mark, the reason is the one for which it was set.
    fn withdrawn_for(outcome: Result<Status, SendError>, why: Why) -> Result<Status, SendError> {
        match outcome {
            Err(SendError::NotDelivered { .. }) => Err(Self::not_delivered(why)),
            other => other,
        }
    }

    /// (C5, C6)
    fn mark(&self, transaction: u64) {
        // Lines up to `freed` are ours to write anew: then the server is past this message, and its
        // *taken* says so.
        if self.writer.position() - transaction <= u64::from(self.ours.lines()) {
            self.ours.mark_withdrawn(transaction, self.writer.turn(transaction));
        }
        P::fence(Label::WithdrawFence);
    }

    /// (C5–C8) What became of a transaction of a connection that has ended.
    #[cold]
    fn ended(&mut self, transaction: u64, why: Why, out: &mut Buffer) -> Result<Status, SendError> {
        self.mark(transaction);
        // A reply that was taken in before the peer's mistake was found stays one.
        if self.fault.is_none() || self.flight.is_answered(transaction) {
            match self.look(transaction, out) {
                Ok(Some(outcome)) => return Self::withdrawn_for(outcome, why),
                Ok(None) => {}
                Err(fault) => self.fault = Some(fault),
            }
        }
        let taken = self.theirs.taken() > transaction;
        self.flight.abandon(transaction);
        Err(if taken { self.interrupted(why) } else { Self::not_delivered(why) })
    }

    /// Takes replies in until that of `transaction` is there or there are no more.
    #[inline]
    fn look(
        &mut self,
        transaction: u64,
        out: &mut Buffer,
    ) -> Result<Option<Result<Status, SendError>>, Fault> {
        match self.flight.get(transaction) {
            Some(Entry::Waiting { .. }) => {}
            Some(Entry::Done { status, .. })
                if P::is_injected(&self.status) && Self::strikes(&self.status, *status) =>
            {
                self.drop_done(transaction);
                return Ok(Some(self.outcome(Status::DROPPED)));
            }
            Some(Entry::Done { status, payload, .. }) => {
                core::mem::swap(out, payload);
                let status = *status;
                self.flight.remove(transaction);
                return Ok(Some(self.outcome(status)));
            }
            _ => panic!("transaction {transaction} is not in flight on this connection"),
        }
        loop {
            let Some(header) = self.reader.peek(&self.theirs)? else {
                self.run = 0;
                return Ok(None);
            };
            if header.word == transaction {
                if P::is_injected(&self.status) && Self::strikes(&self.status, Status(header.code))
                {
                    return self.drop_reply(header).map(Some);
                }
                self.flight.answered(&header)?;
                self.reader.copy(&self.theirs, &header, out);
                self.retire(&header);
                self.flight.remove(transaction);
                return Ok(Some(self.outcome(Status(header.code))));
            }
            self.absorb(Some(header))?;
        }
    }

    /// A reply of this status is about to be taken: whether it is to be dropped. That a request was
    /// withdrawn is no reply.
    #[cold]
    fn strikes(word: &P::Status, status: Status) -> bool {
        status != Status::WITHDRAWN && P::reached(word, Phase::BeforeTakeReply)
    }

    /// Throws a reply away that is there, as an injection wants it.
    #[cold]
    fn drop_reply(&mut self, header: Header) -> Result<Result<Status, SendError>, Fault> {
        self.flight.abandon(header.word);
        self.absorb(Some(header))?;
        Ok(self.outcome(Status::DROPPED))
    }

    /// As [`ClientEnd::drop_reply`], of one that was taken in before.
    #[cold]
    fn drop_done(&mut self, transaction: u64) {
        if let Some(Entry::Done { payload, .. }) = self.flight.get(transaction) {
            let payload = core::mem::take(payload);
            if payload.flags() & Header::LEASED != 0 {
                self.late.push(payload);
            }
        }
        self.flight.remove(transaction);
    }

    /// Takes one reply in for later; whether there was one.
    fn absorb(&mut self, header: Option<Header>) -> Result<bool, Fault> {
        let header = match header {
            Some(header) => header,
            None => match self.reader.peek(&self.theirs)? {
                Some(header) => header,
                None => return Ok(false),
            },
        };
        let transaction = header.word;
        if self.flight.answered(&header)? != Answer::Late {
            let mut payload = Buffer::new();
            self.reader.copy(&self.theirs, &header, &mut payload);
            self.retire(&header);
            if let Some(entry) = self.flight.get(transaction) {
                *entry =
                    Entry::Done { position: transaction, status: Status(header.code), payload };
            }
        } else {
            self.keep_late_leases(&header);
            self.retire(&header);
            self.flight.remove(transaction);
            self.counts.late += 1;
            self.counters.late();
        }
        Ok(true)
    }

    /// Lets go of the line of a reply.
    #[inline]
    fn retire(&mut self, header: &Header) {
        self.run += 1;
        self.reader.advance(header);
        self.reader.publish_freed(&self.ours);
        self.writer.answered(header.word);
        self.counters.answered::<P>(header.word, header.length, self.ringer.rings());
        self.unsettled = true;
    }

    #[inline]
    const fn outcome(&self, status: Status) -> Result<Status, SendError> {
        many::meaning(status, self.generation)
    }

    /// Wakes a server that waits for the room we have freed. Off the hot path: only where this end
    /// has found nothing to do.
    fn settle(&mut self) {
        if self.unsettled {
            self.unsettled = false;
            P::fence(Label::PublishFence);
            self.ringer.ring_for_room(&self.ours, &self.theirs);
        }
    }

    /// (S1–S5) Sleeps until there is a reply, the connection's end, what `also` says, or `deadline`.
    /// May return without cause. Instead of the sleep that is due to it, asks whether the wait is one
    /// of a circle, and sleeps on if it is not.
    fn sleep(&mut self, also: Also, deadline: u64, patience: &mut Patience) -> Asked {
        // ORDERING: Relaxed; the futex compares them again, under its own order.
        let doorbell = self.theirs.doorbell().load(Relaxed);
        let open = P::open_word(&self.status);
        self.sleeper.lie_down(&self.ours, matches!(also, Also::Room { .. }));
        P::fence(Label::SleepFence);
        self.ringer.ring_for_room(&self.ours, &self.theirs);
        self.unsettled = false;
        let nothing = !matches!(self.reader.peek(&self.theirs), Ok(Some(_)) | Err(_))
            && match also {
                Also::Nothing => true,
                Also::Notifications => !self.acknowledger.is_pending(&self.theirs),
                Also::Room { length, area } => matches!(self.has_room(length, area), Ok(false)),
            };
        let mut asked = Asked::Nothing;
        if nothing {
            let now = P::now();
            let ask = patience.before_sleep(now, || P::is_waited_for(&self.status));
            let transaction = patience.waiting.transaction;
            patience.waiting.taken = transaction.is_some_and(|it| self.theirs.taken() > it);
            let _published = P::waiting(&self.status, &patience.waiting);
            if let Some(transaction) = transaction.filter(|_| ask) {
                asked = P::ask(&self.status, transaction);
                patience.asked(P::now(), asked);
            }
            if asked != Asked::Deadlock {
                let words = [(self.theirs.doorbell(), doorbell), (self.status.as_ref(), open)];
                let until =
                    if deadline == NEVER { now.saturating_add(PATROL_NS) } else { deadline };
                let slept = Slept::begin::<P>(&self.habit);
                P::wait(&words, Some(patience.sleeps_until(until)));
                slept.end::<P>(&mut self.habit);
                self.counts.sleeps += 1;
                self.learner.woken::<P>(self.theirs.rang_at());
                self.counters.slept(self.habit.budget_ns(self.wait));
            }
        }
        self.sleeper.get_up(&self.ours);
        asked
    }

    /// Takes the notification bits that are pending, 0 if none are.
    pub fn take_notifications(&mut self) -> u64 {
        self.acknowledger.take(&self.ours, &self.theirs)
    }

    /// Waits for notification bits until `deadline`; 0 if that has passed.
    ///
    /// # Errors
    /// `NotDelivered` with the reason if the connection has ended and no bits are pending.
    pub fn wait_notifications(&mut self, deadline: u64) -> Result<u64, SendError> {
        self.flush();
        let mut spinner = Spinner::new(self.wait, &self.habit);
        let mut patience = Patience::new(None, deadline);
        loop {
            let bits = self.take_notifications();
            if bits != 0 {
                return Ok(bits);
            }
            match spinner.step(&mut self.habit, &self.ours, &self.theirs) {
                Step::Again => continue,
                Step::Look(now) if now < deadline => {}
                Step::Look(_) => return Ok(0),
                Step::Sleep => {
                    // Replies of transactions begun before must not keep us awake.
                    while self
                        .absorb(None)
                        .map_err(|fault| self.broken(fault, Self::not_delivered(Why::Protocol)))?
                    {
                    }
                    self.sleep(Also::Notifications, deadline, &mut patience);
                    spinner.exhaust();
                    if deadline == NEVER {
                        if P::is_orphaned(&self.status) {
                            return Err(Self::not_delivered(Why::Closed));
                        }
                    } else if P::now() >= deadline {
                        return Ok(self.take_notifications());
                    }
                }
            }
            if let Some(why) = self.why_ended() {
                let bits = self.take_notifications();
                return if bits != 0 { Ok(bits) } else { Err(Self::not_delivered(why)) };
            }
        }
    }

    /// Posts notification bits to the server.
    pub fn post(&mut self, bits: u64) {
        if self.poster.post(&self.ours, &self.theirs, bits) {
            self.ringer.ring_if_asleep(&self.ours, &self.theirs);
        }
    }
}
