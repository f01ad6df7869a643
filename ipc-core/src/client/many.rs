//! A client's end as one of many that a thread looks after: replies arrive in whatever order, and
//! giving a transaction up waits for nobody.
//!
//! The steps of giving up are those of [`client`](super): (C5) mark, (C6) fence, (C8) look at
//! *taken*. Not taken: it is over at once, and the server's `withdrawn` is dropped when it comes.
//! Taken: its reply has a grace, through which the thread goes on with other things, and after
//! which it is abandoned. (C7) is the thread's own polling, before and after.

use super::{ClientEnd, GRACE_NS, SendError};
use crate::end::End;
use crate::flight::Answer;
use crate::half::{Ours, Theirs};
use crate::lease::LeaseFault;
use crate::platform::{Host, Label, Platform};
use crate::ring::{Buffer, Fault};
use crate::server::Found;
use rendez_protocol::message::Header;
use rendez_protocol::status::{ConnectionState, Status, Why};

/// A reply, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Which transaction it answers.
    pub transaction: u64,
    status: Status,
    /// Why its sender had begun to give it up, if it had.
    given_up: Option<Why>,
}

impl Answered {
    /// What that means for a send to the server's incarnation `generation`.
    ///
    /// # Errors
    /// How it ended without an answer.
    #[inline]
    pub const fn result(self, generation: u32) -> Result<Status, SendError> {
        match (meaning(self.status, generation), self.given_up) {
            (Err(SendError::NotDelivered { .. }), Some(why)) => {
                Err(SendError::NotDelivered { why })
            }
            (other, _) => other,
        }
    }
}

/// What a reply's status means to its sender.
#[inline]
pub(super) const fn meaning(status: Status, generation: u32) -> Result<Status, SendError> {
    match status {
        Status::DROPPED => Err(SendError::Interrupted { why: Why::Dropped, generation }),
        Status::TOO_BIG => Err(SendError::Interrupted { why: Why::TooBig, generation }),
        Status::WITHDRAWN => Err(SendError::NotDelivered { why: Why::Cancelled }),
        other => Ok(other),
    }
}

/// A transaction that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which: what [`ClientEnd::begin`] answered.
    pub transaction: u64,
    /// The server's status, or how the send ended without an answer.
    pub result: Result<Status, SendError>,
}

impl<P: Platform> ClientEnd<P> {
    /// Takes the next reply, whatever it answers, its payload into `out`.
    #[inline]
    fn next_reply(&mut self, out: &mut Buffer) -> Result<Found<Answered>, Fault> {
        let Some(header) = self.reader.peek(&self.theirs)? else {
            self.run = 0;
            return Ok(Found::Nothing);
        };
        if header.flags & Header::LEASED != 0 {
            // An end like this has no arenas, and has invited no lease.
            return Err(Fault::Lease(LeaseFault::Together));
        }
        let transaction = header.word;
        let dropped = P::is_injected(&self.status)
            && self.flight.is_waiting(transaction)
            && Self::strikes(&self.status, Status(header.code));
        let answer = self.flight.answered(&header)?;
        if answer == Answer::Late {
            self.counts.late += 1;
            self.counters.late();
        }
        self.reader.copy(&self.theirs, &header, out);
        self.retire(&header);
        self.flight.remove(transaction);
        let given_up = match answer {
            Answer::Waited => None,
            Answer::GivenUp(why) => Some(why),
            Answer::Late => return Ok(Found::Nothing),
        };
        let status = if dropped { Status::DROPPED } else { Status(header.code) };
        Ok(Found::Message(Answered { transaction, status, given_up }))
    }

    /// Begins to give a transaction up. What became of it if that is known already; else its
    /// reply, or the end of its grace, says so.
    ///
    /// # Panics
    /// If the transaction is not in flight: a mistake of the caller.
    #[cold]
    pub fn give_up(&mut self, transaction: u64, why: Why) -> Option<Outcome> {
        assert!(
            self.flight.is_waiting(transaction),
            "transaction {transaction} is not in flight on this connection"
        );
        self.mark(transaction);
        if self.theirs.taken() <= transaction {
            self.flight.abandon(transaction);
            return Some(Outcome { transaction, result: Err(Self::not_delivered(why)) });
        }
        self.flight.give_up(transaction, why, P::now().saturating_add(GRACE_NS));
        None
    }

    /// One of those whose deadline, or grace, has passed at `now`, if there is one that is over by
    /// that. To be asked until it answers none.
    #[cold]
    pub fn next_overdue(&mut self, now: u64) -> Option<Outcome> {
        while let Some((transaction, given_up)) = self.flight.overdue(now) {
            match given_up {
                None => {
                    if let Some(outcome) = self.give_up(transaction, Why::Deadline) {
                        return Some(outcome);
                    }
                }
                Some(why) => {
                    self.flight.abandon(transaction);
                    return Some(Outcome { transaction, result: Err(self.interrupted(why)) });
                }
            }
        }
        None
    }

    /// How many transactions were begun and not told of yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flight.untold()
    }

    /// When the next transaction in flight is overdue, [`NEVER`](super::NEVER) if none is ever.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.flight.next_deadline()
    }

    /// What became of one transaction in flight on a connection that has ended, a reply's payload
    /// in `out`. To be asked until it answers none.
    #[cold]
    pub fn next_of_ended(&mut self, out: &mut Buffer) -> Option<Outcome> {
        let why = self.why_ended()?;
        let transaction = self.flight.first()?;
        let result = self.ended(transaction, why, out);
        Some(Outcome { transaction, result })
    }

    /// Publishes a request as [`ClientEnd::begin`] does, and rings only a server that visibly
    /// sleeps. One that lies down in just this moment may be missed: [`ClientEnd::announce`] is to
    /// follow, after a [`publish_fence`].
    ///
    /// # Errors
    /// As [`ClientEnd::begin`].
    #[inline]
    pub fn begin_quietly(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        let transaction = self.publish(operation, payload, room, deadline)?;
        if self.ringer.sees_sleeper(&self.theirs) {
            self.ringer.ring_if_asleep(&self.ours, &self.theirs);
        }
        self.quiet = true;
        Ok(transaction)
    }

    /// Makes sure that the server does not sleep over a request that was begun quietly. Whatever
    /// waits does it first.
    #[inline]
    pub fn flush(&mut self) {
        if self.quiet {
            P::fence(Label::PublishFence);
            self.announce();
        }
    }

    /// Rings the server if it slept when requests were published, before the last [`publish_fence`].
    #[inline]
    pub fn announce(&mut self) {
        self.quiet = false;
        self.ringer.ring_unfenced(&self.ours, &self.theirs);
    }
}

/// (B2) The fence between [`ClientEnd::begin_quietly`], on any number of connections, and
/// [`ClientEnd::announce`] on each of them.
#[inline]
pub fn publish_fence<P: Platform>() {
    P::fence(Label::PublishFence);
}

impl End for ClientEnd<Host> {
    type Message = Answered;

    #[inline]
    fn receive(&mut self, out: &mut Buffer) -> Result<Found<Answered>, Fault> {
        self.next_reply(out).inspect_err(|fault| self.fault = Some(*fault))
    }

    #[inline(always)]
    fn has_news(&self) -> bool {
        self.reader.has_news(&self.theirs)
    }

    #[inline]
    fn prefetch_own(&self) {
        self.flight.prefetch(self.reader.position());
    }

    #[inline]
    fn prefetch_shared(&self) {
        self.theirs.prefetch(self.reader.position());
        self.theirs.prefetch_asleep();
        self.ours.prefetch(self.writer.position());
        self.ours.prefetch_progress();
        self.counters.prefetch();
    }

    fn is_ready(&mut self) -> bool {
        !matches!(self.reader.peek(&self.theirs), Ok(None))
            || self.acknowledger.is_pending(&self.theirs)
            || self.why_ended().is_some()
    }

    fn lie_down(&mut self) {
        // A request that found no room waits for replies, which wake by themselves.
        self.sleeper.lie_down(&self.ours, false);
    }

    fn wakes_at_once(&mut self) -> bool {
        self.unsettled = false;
        self.ringer.ring_for_room(&self.ours, &self.theirs);
        self.is_ready()
    }

    fn get_up(&mut self) {
        if self.sleeper.is_down() {
            self.counters.slept(self.habit.budget_ns(self.wait));
        }
        self.sleeper.get_up(&self.ours);
    }

    fn settle(&mut self) {
        Self::settle(self);
    }

    fn state(&self) -> ConnectionState {
        Self::state(self)
    }

    fn take_notifications(&mut self) -> u64 {
        Self::take_notifications(self)
    }

    fn rang_at(&self) -> u64 {
        self.theirs.rang_at()
    }

    fn halves(&self) -> (&Ours<Host>, &Theirs<Host>) {
        (&self.ours, &self.theirs)
    }
}
