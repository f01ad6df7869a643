//! The two ends of a connection to a notification: bits cross it, and nothing else.
//!
//! What makes bits cross, and coalesce, is [`notification`](crate::notification); how a receiver
//! sleeps and is rung is [`doorbell`](crate::doorbell). What is here is how a poster begins before
//! anybody receives.
//!
//! # Words
//! `posted`, `acknowledged`, `asleep` as ever; and the poster's status word, written by the kernel:
//! *waiting* until the receiver has mapped both segments, then *open*, then whatever ended it. The
//! ring and all that belongs to it is not used and not looked at.
//!
//! # Steps
//! Poster, without a receiver's segment: (W1) write the data that the bits tell of; (W2) SeqCst fence;
//! (W3) add the bits to `posted`; (W4) SeqCst fence; (W5) look at the status word. *Waiting*: done.
//! *Open*: (W6) map the receiver's segment; then post those bits again that were set before W3, as in
//! (P2–P4), and ring if the receiver sleeps.
//! Kernel: (K1) store *open*; (K2) tell the receiver. Receiver, from K2 on: (N1–N4), (S1–S5).
//!
//! # Why these orderings
//! A bit that was set before W3 tells of new data without any change of `posted`, so whether the
//! receiver took it before or after W1 must be known. K1 comes before every fence of the receiver's,
//! N3 and S2. A poster that sees *waiting* at W5 has therefore made its own before those: W2, so N4
//! sees the data of W1, and W4, so the look after S2 sees what W3 added. Nothing is left to be done. One
//! that sees *open* asks the words themselves. W2 also makes the data visible to whoever takes a bit that
//! W3 added.
//!
//! # If the peer dies or lies here
//! A receiver that takes bits before it was told gets them at a time of its own choosing, and nobody
//! else suffers. When it dies, what it has acknowledged and what not stays in its segment: the poster
//! carries the rest over ([`PostEnd::unacknowledged`]) to the next connection. A poster that sets bits
//! which it may not post, or rings for nothing, is masked, and muted by
//! [`receive`](crate::receive). Bits of a poster that has died are there to be taken; those of one
//! whose capability was revoked are not taken any more. Models: `post_that_stands_is_not_lost`,
//! `post_that_stands_wakes`.

use crate::doorbell::{Ringer, Sleeper};
use crate::end::End;
use crate::half::{Ours, Theirs};
use crate::notification::{Acknowledger, Poster};
use crate::platform::{Atomic, Host, Label, Platform};
use crate::ring::{Buffer, Fault};
use crate::server::Found;
use core::sync::atomic::Ordering::Relaxed;
use rendez_protocol::status::ConnectionState;

/// What became of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// The receiver finds the bits.
    Crossed,
    /// Nobody receives yet: whoever will finds them.
    Waits,
    /// There is a receiver now: its segment is to be had ([`PostEnd::meet`]), and these bits are to be
    /// posted again.
    Met {
        /// Which bits.
        again: u64,
    },
    /// The connection has ended.
    Ended(ConnectionState),
}

/// The poster's end. One thread uses it at a time.
#[derive(Debug)]
pub struct PostEnd<P: Platform> {
    ours: Ours<P>,
    status: P::Status,
    poster: Poster,
    receiver: Option<Receiving<P>>,
}

/// What is known of the receiver.
#[derive(Debug)]
struct Receiving<P: Platform> {
    theirs: Theirs<P>,
    ringer: Ringer<P>,
}

impl<P: Platform> PostEnd<P> {
    /// The poster's end of a new connection, in which `bits` are posted from the beginning. The kernel
    /// has not heard yet that the segment is ready.
    pub fn new(ours: Ours<P>, status: P::Status, bits: u64) -> Self {
        let mut poster = Poster::new();
        poster.add(&ours, bits);
        Self { ours, status, poster, receiver: None }
    }

    /// The receiver's segment is here, and `bell` rings it.
    pub fn meet(&mut self, theirs: Theirs<P>, bell: P::Bell) {
        self.receiver = Some(Receiving { theirs, ringer: Ringer::new(bell) });
    }

    /// Posts `bits`.
    #[inline]
    pub fn post(&mut self, bits: u64) -> Posted {
        let Some(receiver) = &mut self.receiver else { return self.post_early(bits) };
        if self.poster.post(&self.ours, &receiver.theirs, bits) {
            receiver.ringer.ring_if_asleep(&self.ours, &receiver.theirs);
        }
        match self.state() {
            ConnectionState::Open => Posted::Crossed,
            ended => Posted::Ended(ended),
        }
    }

    /// (W2–W5)
    #[cold]
    fn post_early(&mut self, bits: u64) -> Posted {
        P::fence(Label::PostFence);
        let again = self.poster.add(&self.ours, bits);
        P::fence(Label::StandFence);
        match self.state() {
            ConnectionState::Waiting => Posted::Waits,
            ConnectionState::Open => Posted::Met { again },
            ended => Posted::Ended(ended),
        }
    }

    /// (W6) After [`Posted::Met`] and [`PostEnd::meet`]: posts those bits again, and rings a receiver
    /// that sleeps over any.
    pub fn settle(&mut self, again: u64) {
        if let Some(receiver) = &mut self.receiver {
            let _ = self.poster.post(&self.ours, &receiver.theirs, again);
            receiver.ringer.ring_if_asleep(&self.ours, &receiver.theirs);
        }
    }

    /// Bits that were posted and that no receiver has acknowledged, as far as this one says.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        match &self.receiver {
            Some(receiver) => self.poster.pending(&receiver.theirs),
            None => self.poster.posted(),
        }
    }

    /// Whether the receiver's segment is here.
    #[must_use]
    pub const fn has_met(&self) -> bool {
        self.receiver.is_some()
    }

    /// What the kernel says of the connection.
    #[must_use]
    #[inline]
    pub fn state(&self) -> ConnectionState {
        // ORDERING(status): Relaxed; the poster's fence (StandFence) came before, where it matters.
        ConnectionState::from_word(self.status.as_ref().load(Relaxed))
    }

    /// How often the receiver had to be woken.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.receiver.as_ref().map_or(0, |receiver| receiver.ringer.rings())
    }
}

/// The receiver's end. One thread uses it at a time.
#[derive(Debug)]
pub struct TakeEnd<P: Platform> {
    ours: Ours<P>,
    theirs: Theirs<P>,
    status: P::Status,
    sleeper: Sleeper,
    acknowledger: Acknowledger,
}

impl<P: Platform> TakeEnd<P> {
    /// The receiver's end of a connection whose poster may post the bits of `mask`. The kernel has
    /// said that it is complete.
    pub fn new(ours: Ours<P>, theirs: Theirs<P>, status: P::Status, mask: u64) -> Self {
        Self {
            ours,
            theirs,
            status,
            sleeper: Sleeper::new(),
            acknowledger: Acknowledger::new(mask),
        }
    }

    /// Takes the bits that are pending, 0 if none are or the poster may not post any more. What they
    /// tell of is looked at afterwards.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let bits = self.acknowledger.take(&self.ours, &self.theirs);
        if bits != 0 && self.state() == ConnectionState::Revoked { 0 } else { bits }
    }

    /// Whether bits are pending.
    #[must_use]
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.acknowledger.is_pending(&self.theirs)
    }

    /// What the kernel says of the connection.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        // ORDERING(status): Relaxed; nothing is concluded from it but that there is no more to come,
        // and the kernel stores it before it tells.
        ConnectionState::from_word(self.status.as_ref().load(Relaxed))
    }

    /// Sleeps until there is something to take; may return without cause. For models.
    #[cfg(feature = "model")]
    pub fn sleep(&mut self) {
        // ORDERING: Relaxed; the futex compares it again, under its own order.
        let doorbell = self.theirs.doorbell().load(Relaxed);
        self.sleeper.lie_down(&self.ours, false);
        P::fence(Label::SleepFence);
        if !self.is_pending() {
            P::wait(&[(self.theirs.doorbell(), doorbell), (self.status.as_ref(), 0)], None);
        }
        self.sleeper.get_up(&self.ours);
    }
}

impl End for TakeEnd<Host> {
    type Message = u64;

    #[inline(always)]
    fn receive(&mut self, _: &mut Buffer) -> Result<Found<u64>, Fault> {
        if !self.is_pending() {
            return Ok(Found::Nothing);
        }
        Ok(match self.take() {
            0 => Found::Nothing,
            bits => Found::Message(bits),
        })
    }

    #[inline(always)]
    fn has_news(&self) -> bool {
        self.is_pending()
    }

    fn prefetch_own(&self) {}

    #[inline]
    fn prefetch_shared(&self) {
        self.theirs.prefetch_asleep();
    }

    fn is_ready(&mut self) -> bool {
        self.is_pending() || self.state() != ConnectionState::Open
    }

    fn lie_down(&mut self) {
        self.sleeper.lie_down(&self.ours, false);
    }

    fn wakes_at_once(&mut self) -> bool {
        self.is_ready()
    }

    fn get_up(&mut self) {
        self.sleeper.get_up(&self.ours);
    }

    fn settle(&mut self) {}

    fn state(&self) -> ConnectionState {
        Self::state(self)
    }

    fn take_notifications(&mut self) -> u64 {
        // They are its messages.
        0
    }

    fn rang_at(&self) -> u64 {
        self.theirs.rang_at()
    }

    #[inline]
    fn halves(&self) -> (&Ours<Host>, &Theirs<Host>) {
        (&self.ours, &self.theirs)
    }
}
