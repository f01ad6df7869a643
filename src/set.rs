//! One client thread that drives many connections, with several transactions in flight on each.
//!
//! It waits as a server does: connections that were busy lately are polled, quiet ones ring an
//! eventfd ([`Receiver`]), so that a transaction costs the same whether the set has one connection
//! or thousands. A connection on which something was just begun is polled at once, for its reply is
//! to be expected: while the thread is awake, no reply costs a system call.
//!
//! A request is published when it is begun. Its server is rung at once if it visibly sleeps; one
//! that lies down at just that moment is found out by a fence that many requests share, at the
//! latest when the set has nothing else to do ([`ConnectionSet::flush`]).

use crate::connection::{Opened, Options, Reply, coarse_deadline};
use crate::error::Error;
use crate::task::{Task, deadline_after};
use rendez_ipc_core::client::{
    Answered, ClientCounts, ClientEnd, NEVER, Outcome, SendError, publish_fence,
};
use rendez_ipc_core::platform::{Host, Platform};
use rendez_ipc_core::receive::{Key, Receiver, Turn};
use rendez_ipc_core::ring::Buffer;
use rendez_protocol::kernel::{Doorbell, Offer, Received, Request};
use rendez_protocol::{ConnectionId, Interface, Slot, Status, TaskId, Ticket, Why};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Descriptors of the set's own.
const KERNEL: u32 = 0;
const ENDS: u32 = 1;
/// Requests after which those servers are looked at that did not visibly sleep.
const QUIET_MAX: usize = 16;

/// A connection of a [`ConnectionSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(Key);

impl Member {
    /// Its place in the set: small numbers, used again after a member has left.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}

/// What [`ConnectionSet::next`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival<'a> {
    /// A transaction is over.
    Answer {
        /// On which connection.
        member: Member,
        /// Which: what [`ConnectionSet::begin`] answered.
        transaction: u64,
        /// The reply, or how it ended without one.
        outcome: Result<Reply<'a>, SendError>,
    },
    /// The server has posted these notification bits.
    Notified {
        /// On which connection.
        member: Member,
        /// Which bits.
        bits: u64,
    },
    /// A connection has ended, and what became of its transactions was told before. It is no
    /// member any more.
    Ended {
        /// Which.
        member: Member,
        /// Why.
        why: Why,
    },
}

/// What is known of a member beside its end.
#[derive(Clone, Debug)]
struct Known {
    id: ConnectionId,
    server: TaskId,
    interface: Option<Interface>,
    timeout: Duration,
    generation: u32,
}

/// Connections that one thread drives. A member's transactions never wait for one another, nor for
/// another member's; nothing is sent twice.
#[derive(Debug)]
pub struct ConnectionSet {
    task: Task,
    receiver: Receiver<ClientEnd<Host>>,
    /// By the place of the member.
    known: Vec<Option<Known>>,
    buffer: Buffer,
    /// Those with requests whose servers were not looked at after a fence.
    quiet: Vec<Key>,
    in_flight: usize,
    /// No deadline of a transaction in flight is before this, in ns.
    soonest: u64,
    /// Transactions that were cancelled before a server had taken them, of which nobody was told yet.
    cancelled: Vec<(Key, Outcome)>,
    /// A member that has ended, until all is told of it.
    ending: Option<(Key, Why)>,
    ends: Arc<OwnedFd>,
}

impl ConnectionSet {
    /// A set without connections, whose thread waits by [`Wait::Adaptive`](crate::Wait).
    ///
    /// # Errors
    /// What Linux says.
    pub fn new(task: &Task) -> Result<Self, Error> {
        let system = |error| Error::system("setting up epoll", error);
        let receiver =
            Receiver::new(crate::Wait::Adaptive, Some(task.status().clone())).map_err(system)?;
        receiver.add_descriptor(task.link().socket(), KERNEL).map_err(system)?;
        let ends = task.link().hear_of_ends().map_err(system)?;
        let set = Self {
            task: task.clone(),
            receiver,
            known: Vec::new(),
            buffer: Buffer::new(),
            quiet: Vec::new(),
            in_flight: 0,
            soonest: NEVER,
            cancelled: Vec::new(),
            ending: None,
            ends,
        };
        set.receiver.add_edge(&set.ends, ENDS).map_err(system)?;
        Ok(set)
    }

    /// Changes how the thread waits.
    pub const fn set_wait(&mut self, wait: crate::Wait) {
        self.receiver.set_wait(wait);
    }

    /// Connects to the endpoint that the capability in `slot` names, and takes the connection in.
    /// Of `options`, `wait` does not matter: the set waits.
    ///
    /// # Errors
    /// As [`Connection::open`](crate::Connection::open).
    pub fn connect(&mut self, slot: Slot, options: &Options) -> Result<Member, Error> {
        let deadline = deadline_after(options.timeout);
        let opened = Opened::open(&self.task, slot, options, deadline, Doorbell::Event)?;
        self.adopt(opened, options)
    }

    /// Takes in a connection that was opened with [`Doorbell::Event`].
    pub(crate) fn adopt(&mut self, opened: Opened, options: &Options) -> Result<Member, Error> {
        let Opened { end, id, server, interface, waiter, .. } = opened;
        let let_go = || {
            self.task.link().tell(&Request::Disconnect { connection: id, why: Why::Closed });
        };
        let Some(waiter) = waiter else {
            let_go();
            return Err(Error::Protocol("a connection without its doorbell".into()));
        };
        let generation = end.generation();
        let key = self.receiver.add(end, waiter).map_err(|error| {
            let_go();
            Error::system("adding a connection to epoll", error)
        })?;
        if self.known.len() <= key.index() {
            self.known.resize(key.index() + 1, None);
        }
        self.known[key.index()] =
            Some(Known { id, server, interface, timeout: options.timeout, generation });
        Ok(Member(key))
    }

    /// Ends a member's connection. What was in flight on it is not told of any more. Nothing
    /// happens if it is no member.
    pub fn remove(&mut self, member: Member) {
        if let Some((end, known)) = self.take_out(member.0) {
            self.in_flight -= end.in_flight();
            while self.take_cancelled(Some(member.0)).is_some() {
                self.in_flight -= 1;
            }
            drop(end);
            self.let_go(known.id, Why::Closed);
        }
        if self.ending.is_some_and(|(key, _)| key == member.0) {
            self.ending = None;
        }
    }

    fn take_out(&mut self, key: Key) -> Option<(ClientEnd<Host>, Known)> {
        let end = self.receiver.remove(key)?;
        self.quiet.retain(|other| *other != key);
        let known = self.known.get_mut(key.index()).and_then(Option::take)?;
        Some((end, known))
    }

    fn let_go(&self, connection: ConnectionId, why: Why) {
        self.task.link().tell(&Request::Disconnect { connection, why });
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// How many transactions were begun and not told of yet.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Publishes a request whose reply has at most `room` bytes, with the timeout of the options
    /// that the member was made with; answers its transaction id. Never waits.
    ///
    /// # Errors
    /// `NotDelivered`: [`Why::Full`] if the member has as many in flight as its rings carry (take
    /// replies by [`ConnectionSet::next`] first); [`Why::TooBig`]; [`Why::Closed`] if it is no
    /// member any more; or why its connection has ended.
    #[inline]
    pub fn begin(
        &mut self,
        member: Member,
        operation: u16,
        payload: &[u8],
        room: usize,
    ) -> Result<u64, SendError> {
        let Some(Some(known)) = self.known.get(member.index()) else {
            return Err(SendError::NotDelivered { why: Why::Closed });
        };
        let deadline = coarse_deadline(known.timeout);
        self.begin_until(member, operation, payload, room, deadline)
    }

    /// As [`ConnectionSet::begin`], with a deadline in ns of `CLOCK_MONOTONIC`, [`NEVER`] for none.
    ///
    /// # Errors
    /// As [`ConnectionSet::begin`].
    #[inline]
    pub fn begin_until(
        &mut self,
        member: Member,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        let Some(end) = self.receiver.end(member.0) else {
            return Err(SendError::NotDelivered { why: Why::Closed });
        };
        let transaction = end.begin_quietly(operation, payload, room, deadline)?;
        // Only now: one that is quiet and on which nothing was begun goes on ringing.
        self.receiver.rouse(member.0);
        self.in_flight += 1;
        self.soonest = self.soonest.min(deadline);
        self.quiet.push(member.0);
        if self.quiet.len() >= QUIET_MAX {
            self.flush();
        }
        Ok(transaction)
    }

    /// Makes sure that no server sleeps over a request that was begun. [`ConnectionSet::next`] does
    /// it before it waits; who begins something and then does other things first calls this.
    pub fn flush(&mut self) {
        if self.quiet.is_empty() {
            return;
        }
        publish_fence::<Host>();
        for key in self.quiet.drain(..) {
            if let Some(end) = self.receiver.end(key) {
                end.announce();
            }
        }
    }

    /// Gives a transaction up. What became of it is told by [`ConnectionSet::next`]: its reply, if
    /// that comes within a millisecond, else `NotDelivered` if the server had not taken it, else
    /// `Interrupted`.
    ///
    /// # Panics
    /// If the transaction is not in flight: a mistake of the caller.
    pub fn cancel(&mut self, member: Member, transaction: u64) {
        if let Some(end) = self.receiver.end(member.0) {
            match end.give_up(transaction, Why::Cancelled) {
                None => self.soonest = self.soonest.min(end.next_deadline()),
                Some(outcome) => {
                    self.cancelled.push((member.0, outcome));
                    // To be told at the next look at the clock.
                    self.soonest = 0;
                }
            }
        }
    }

    /// Waits for something to arrive, until `deadline` (ns of `CLOCK_MONOTONIC`, [`NEVER`] for
    /// none): `None` if it has passed.
    ///
    /// # Errors
    /// [`Error::KernelGone`], once: the connections go on, and nobody tells of their servers'
    /// deaths any more. What Linux says to waiting.
    #[inline]
    pub fn next(&mut self, deadline: u64) -> Result<Option<Arrival<'_>>, Error> {
        // Split, so that no borrow of the buffer lives through the loop.
        match self.turn(deadline)? {
            Some(told) => Ok(Some(self.tell(told))),
            None => Ok(None),
        }
    }

    #[inline]
    fn answer(
        &mut self,
        key: Key,
        transaction: u64,
        result: Result<Status, SendError>,
    ) -> Arrival<'_> {
        self.in_flight -= 1;
        let payload = self.buffer.as_slice();
        let outcome = result.map(|status| Reply { status, payload });
        Arrival::Answer { member: Member(key), transaction, outcome }
    }

    #[inline]
    fn turn(&mut self, deadline: u64) -> Result<Option<Told>, Error> {
        loop {
            if self.ending.is_some()
                && let Some(told) = self.last_words()
            {
                return Ok(Some(told));
            }
            let until = deadline.min(self.soonest);
            let found = match self.receiver.next_now(&mut self.buffer, until) {
                Ok(None) => {
                    self.flush();
                    self.receiver.next(&mut self.buffer, until)
                }
                Ok(Some(turn)) => Ok(turn),
                Err(error) => Err(error),
            };
            match found.map_err(waiting)? {
                Turn::Message(key, answered) => return Ok(Some(Told::Reply(key, answered))),
                other => {
                    if let Some(told) = self.rarely(other, deadline)? {
                        return Ok(told);
                    }
                }
            }
        }
    }

    /// What is there now; before a sleep, what is there after all, or `None`: then whoever drives the
    /// set may sleep until [`ConnectionSet::descriptor`] is readable, at most until
    /// [`ConnectionSet::soonest`].
    pub(crate) fn turn_now(&mut self, before_sleep: bool) -> Result<Option<Told>, Error> {
        loop {
            if self.ending.is_some()
                && let Some(told) = self.last_words()
            {
                return Ok(Some(told));
            }
            let mut found = self.receiver.next_now(&mut self.buffer, self.soonest);
            if matches!(found, Ok(None)) {
                self.flush();
                if before_sleep {
                    found = self.receiver.before_sleep(&mut self.buffer);
                }
            }
            let Some(turn) = found.map_err(waiting)? else { return Ok(None) };
            if let Some(told) = self.rarely(turn, NEVER)? {
                return Ok(told);
            }
        }
    }

    /// After a sleep of whoever drives the set.
    pub(crate) fn after_sleep(&mut self) -> Result<Option<Told>, Error> {
        if Host::now() >= self.soonest
            && let Some(told) = self.rarely(Turn::Deadline, NEVER)?
        {
            return Ok(told);
        }
        match self.receiver.after_sleep().map_err(waiting)? {
            Some(turn) => Ok(self.rarely(turn, NEVER)?.flatten()),
            None => Ok(None),
        }
    }

    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.receiver.descriptor()
    }

    pub(crate) const fn soonest(&self) -> u64 {
        self.soonest
    }

    /// A reply's outcome as [`ConnectionSet::next`] tells it.
    #[inline]
    pub(crate) fn tell(&mut self, told: Told) -> Arrival<'_> {
        match told {
            Told::Reply(key, answered) => {
                let generation = match self.known.get(key.index()) {
                    Some(Some(known)) => known.generation,
                    _ => 0,
                };
                self.answer(key, answered.transaction, answered.result(generation))
            }
            Told::Answer(key, outcome) => self.answer(key, outcome.transaction, outcome.result),
            Told::Notified(key, bits) => Arrival::Notified { member: Member(key), bits },
            Told::Ended(key, why) => Arrival::Ended { member: Member(key), why },
        }
    }

    /// Whatever is no reply. `Some(None)`: the deadline has passed.
    #[cold]
    fn rarely(
        &mut self,
        turn: Turn<Answered>,
        deadline: u64,
    ) -> Result<Option<Option<Told>>, Error> {
        match turn {
            Turn::Message(key, answered) => return Ok(Some(Some(Told::Reply(key, answered)))),
            Turn::Notified(key, bits) => return Ok(Some(Some(Told::Notified(key, bits)))),
            Turn::Ended(key, state) => {
                self.ending = Some((key, state.why().unwrap_or(Why::Closed)));
            }
            Turn::Fault(key, _) => self.ending = Some((key, Why::Protocol)),
            Turn::Descriptor(KERNEL) => {
                if let Err(error) = self.task.link().take_in() {
                    let _ = self.receiver.remove_descriptor(self.task.link().socket());
                    return Err(error);
                }
            }
            // A connection may have ended, polled or not.
            Turn::Kernel | Turn::Descriptor(_) => self.receiver.look_for_ends(),
            Turn::Deadline => {
                let now = Host::now();
                if now >= self.soonest {
                    if let Some(told) = self.next_overdue(now) {
                        return Ok(Some(Some(told)));
                    }
                } else if now >= deadline {
                    return Ok(Some(None));
                }
            }
        }
        Ok(None)
    }

    /// A transaction whose deadline has passed; if there is none, when that will next be so.
    fn next_overdue(&mut self, now: u64) -> Option<Told> {
        if let Some(told) = self.take_cancelled(None) {
            return Some(told);
        }
        let mut soonest = NEVER;
        for key in self.receiver.keys() {
            let Some(end) = self.receiver.end(key) else { continue };
            if let Some(outcome) = end.next_overdue(now) {
                // A refusal that a late reply brought lies in nobody's buffer.
                self.buffer.replace(&[]);
                return Some(Told::Answer(key, outcome));
            }
            soonest = soonest.min(end.next_deadline());
        }
        self.soonest = soonest;
        None
    }

    /// A transaction, of this member if one is named, that no server had taken when it was cancelled.
    #[cold]
    fn take_cancelled(&mut self, of: Option<Key>) -> Option<Told> {
        let at = self.cancelled.iter().position(|(key, _)| of.is_none_or(|of| of == *key))?;
        let (key, outcome) = self.cancelled.remove(at);
        self.buffer.replace(&[]);
        Some(Told::Answer(key, outcome))
    }

    /// What is still to be told of a member that has ended; at last, that it has.
    #[cold]
    fn last_words(&mut self) -> Option<Told> {
        let (key, why) = self.ending?;
        if let Some(told) = self.take_cancelled(Some(key)) {
            return Some(told);
        }
        let end = self.receiver.end(key)?;
        if let Some(outcome) = end.next_of_ended(&mut self.buffer) {
            return Some(Told::Answer(key, outcome));
        }
        self.ending = None;
        let (_, known) = self.take_out(key)?;
        // Its status word is not looked at any more.
        self.let_go(known.id, why);
        Some(Told::Ended(key, why))
    }

    /// Posts notification bits to a member's server, which takes those that the capability allows.
    pub fn post(&mut self, member: Member, bits: u64) {
        if let Some(end) = self.receiver.end(member.0) {
            end.post(bits);
        }
    }

    /// A member's connection, as the kernel knows it.
    #[must_use]
    pub fn id(&self, member: Member) -> Option<ConnectionId> {
        self.about(member).map(|known| known.id)
    }

    /// The task at the other end of a member.
    #[must_use]
    pub fn server(&self, member: Member) -> Option<TaskId> {
        self.about(member).map(|known| known.server)
    }

    /// What a member's server speaks, if it says.
    #[must_use]
    pub fn interface(&self, member: Member) -> Option<&Interface> {
        self.about(member)?.interface.as_ref()
    }

    fn about(&self, member: Member) -> Option<&Known> {
        self.receiver.contains(member.0).then_some(())?;
        self.known.get(member.index())?.as_ref()
    }

    /// Statistics of a member.
    pub fn counts(&mut self, member: Member) -> Option<ClientCounts> {
        self.receiver.end(member.0).map(|end| end.counts())
    }

    /// Puts capabilities into escrow for a member's server; the ticket goes into a request.
    ///
    /// # Errors
    /// What the kernel says; [`SendError::NotDelivered`] if it is no member.
    pub fn offer(&self, member: Member, items: &[Offer]) -> Result<Ticket, Error> {
        self.task.offer(self.connection_of(member)?, items)
    }

    /// Takes what a ticket in a reply stands for.
    ///
    /// # Errors
    /// What the kernel says; [`SendError::NotDelivered`] if it is no member.
    pub fn accept(&self, member: Member, ticket: Ticket) -> Result<Vec<Received>, Error> {
        self.task.accept(self.connection_of(member)?, ticket)
    }

    fn connection_of(&self, member: Member) -> Result<ConnectionId, Error> {
        self.id(member).ok_or_else(|| SendError::NotDelivered { why: Why::Closed }.into())
    }

    /// The task whose connections these are.
    #[must_use]
    pub const fn task(&self) -> &Task {
        &self.task
    }
}

/// As [`Arrival`], its payload still in the buffer.
#[derive(Debug)]
pub(crate) enum Told {
    Reply(Key, Answered),
    Answer(Key, Outcome),
    Notified(Key, u64),
    Ended(Key, Why),
}

fn waiting(error: std::io::Error) -> Error {
    Error::system("waiting for replies", error)
}

impl Drop for ConnectionSet {
    fn drop(&mut self) {
        self.task.link().hear_no_more(&self.ends);
        for known in self.known.iter().flatten() {
            self.let_go(known.id, Why::Closed);
        }
    }
}
