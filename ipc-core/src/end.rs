//! What a [`Receiver`](crate::receive::Receiver) of many connections needs of each: the server's end
//! takes messages from it, the client's end replies.

use crate::half::{Ours, Theirs};
use crate::platform::Host;
use crate::ring::{Buffer, Fault};
use crate::server::{Found, ServerEnd, Taken};
use rendez_protocol::status::ConnectionState;
use std::fmt::Debug;

/// One end of a connection, one of many that a thread looks after.
///
/// The steps of a sleep are those of [`doorbell`](crate::doorbell): [`End::lie_down`], one fence for
/// any number of ends, [`End::wakes_at_once`], and [`End::get_up`] when it is polled again.
pub trait End: Debug {
    /// What arrives at this end.
    type Message;

    /// Takes what arrived next, its payload into `out`. `Nothing` also where it was of no
    /// interest: there may be more behind it, which [`End::is_ready`] says before a sleep.
    ///
    /// # Errors
    /// What the peer did that no honest one does: the connection is to be closed with `protocol`.
    fn receive(&mut self, out: &mut Buffer) -> Result<Found<Self::Message>, Fault>;

    /// Whether [`End::receive`] has something to look at: the shortest look there is.
    fn has_news(&self) -> bool;

    /// The priority of what [`End::receive`] would look at, `None` if there is nothing.
    fn urgency(&self) -> Option<u8> {
        self.has_news().then_some(0)
    }

    /// The priority of what has arrived.
    fn priority(_: &Self::Message) -> u8 {
        0
    }

    /// Fetches what this process knows of the connection, and keeps outside of this value.
    fn prefetch_own(&self);

    /// Fetches the lines of shared memory that the next [`End::receive`], and what follows it, touch.
    fn prefetch_shared(&self);

    /// Whether there is something to do: a message, a notification, the end, a fault to report.
    fn is_ready(&mut self) -> bool;

    /// Says that this end sleeps.
    fn lie_down(&mut self);

    /// After the fence of a sleep: whether there is something to do after all.
    fn wakes_at_once(&mut self) -> bool;

    /// Says that this end is awake.
    fn get_up(&mut self);

    /// Off the hot path, where nothing was found: wakes a peer that waits for the room we freed.
    fn settle(&mut self);

    /// What the kernel says of the connection.
    fn state(&self) -> ConnectionState;

    /// Takes the notification bits that the peer has posted, 0 if none are pending.
    fn take_notifications(&mut self) -> u64;

    /// When the peer last rang, in ns: a claim.
    fn rang_at(&self) -> u64;

    /// Our segment and the peer's, for [`Spinner::step`](crate::wait::Spinner::step).
    fn halves(&self) -> (&Ours<Host>, &Theirs<Host>);
}

impl End for ServerEnd<Host> {
    type Message = Taken;

    #[inline(always)]
    fn receive(&mut self, out: &mut Buffer) -> Result<Found, Fault> {
        Self::receive(self, out)
    }

    #[inline(always)]
    fn has_news(&self) -> bool {
        Self::has_news(self)
    }

    fn urgency(&self) -> Option<u8> {
        Self::urgency(self)
    }

    #[inline(always)]
    fn priority(message: &Taken) -> u8 {
        message.priority
    }

    #[inline]
    fn prefetch_own(&self) {
        Self::prefetch_own(self);
    }

    #[inline]
    fn prefetch_shared(&self) {
        Self::prefetch_shared(self);
    }

    fn is_ready(&mut self) -> bool {
        Self::is_ready(self)
    }

    fn lie_down(&mut self) {
        Self::lie_down(self);
    }

    fn wakes_at_once(&mut self) -> bool {
        Self::wakes_at_once(self)
    }

    fn get_up(&mut self) {
        Self::get_up(self);
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
        Self::rang_at(self)
    }

    #[inline]
    fn halves(&self) -> (&Ours<Host>, &Theirs<Host>) {
        Self::halves(self)
    }
}
