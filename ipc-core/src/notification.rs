//! Notifications: bits that are posted, coalesce, and are never queued, lost or overflowing.
//!
//! # Words
//! `posted`, in the poster's segment; `acknowledged`, in the reader's. A bit is *pending* while the
//! two differ in it. Each word has one writer, so neither needs a read-modify-write.
//!
//! # Steps
//! Poster: (P1) write the data that the bits tell of; (P2) SeqCst fence; (P3) look at
//! `acknowledged`; (P4) flip those bits of `posted` that are not pending; then ring as for a message.
//! Reader: (N1) look at `posted`; (N2) store it as `acknowledged`; (N3) SeqCst fence; (N4) look at
//! the data.
//!
//! # Why these orderings
//! A poster that finds a bit pending does not flip it. If the reader acknowledged it meanwhile, the
//! fences decide: either P3 sees the acknowledgement (and flips), or N4 sees the data of P1. The
//! same two fences stand between P1 and P4, and between N1 and N4, so the words themselves need no
//! ordering of their own: what a flipped bit tells of is visible to whoever takes it.
//!
//! Posters of one process take turns under the connection's lock: two that flip at once would undo
//! each other.
//!
//! # If the peer dies or lies here
//! A poster's words are a claim: the reader masks what it may post with what the kernel said. A
//! reader that acknowledges rubbish gets rubbish of its own bits. Models: `notification_is_not_lost`,
//! `notification_two_posters`.

use crate::half::{Ours, Theirs};
use crate::platform::{Label, Platform};

/// The poster's side.
#[derive(Debug, Default)]
pub struct Poster {
    posted: u64,
}

impl Poster {
    /// One that has posted nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { posted: 0 }
    }

    /// (P2–P4) Makes `bits` pending. Answers whether the reader is to be rung: not if all of them
    /// were pending already.
    pub fn post<P: Platform>(&mut self, ours: &Ours<P>, theirs: &Theirs<P>, bits: u64) -> bool {
        P::fence(Label::PostFence);
        let pending = self.posted ^ theirs.acknowledged();
        let flip = bits & !pending;
        if flip == 0 {
            return false;
        }
        self.posted ^= flip;
        ours.set_posted(self.posted);
        true
    }

    /// (W3 of [`bits`](crate::bits)) Sets `bits`, while nobody can have acknowledged any: answers those
    /// that were set before.
    pub fn add<P: Platform>(&mut self, ours: &Ours<P>, bits: u64) -> u64 {
        let before = self.posted & bits;
        self.posted |= bits;
        ours.set_posted(self.posted);
        before
    }

    /// What is pending, as the reader has said so far.
    pub fn pending<P: Platform>(&self, theirs: &Theirs<P>) -> u64 {
        self.posted ^ theirs.acknowledged()
    }

    /// The word as it was stored last.
    #[must_use]
    pub const fn posted(&self) -> u64 {
        self.posted
    }
}

/// The reader's side.
#[derive(Debug)]
pub struct Acknowledger {
    acknowledged: u64,
    mask: u64,
}

impl Acknowledger {
    /// One that lets the bits of `mask` through.
    #[must_use]
    pub const fn new(mask: u64) -> Self {
        Self { acknowledged: 0, mask }
    }

    /// Whether there is anything to take.
    pub fn is_pending<P: Platform>(&self, theirs: &Theirs<P>) -> bool {
        (theirs.posted() ^ self.acknowledged) & self.mask != 0
    }

    /// (N1–N3) Takes what is pending, 0 if nothing is. The data is looked at afterwards.
    pub fn take<P: Platform>(&mut self, ours: &Ours<P>, theirs: &Theirs<P>) -> u64 {
        let posted = theirs.posted();
        let pending = posted ^ self.acknowledged;
        if pending != 0 {
            self.acknowledged = posted;
            ours.set_acknowledged(posted);
            P::fence(Label::AcknowledgeFence);
        }
        pending & self.mask
    }
}
