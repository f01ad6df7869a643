//! The two ways to look at a segment: as its only writer ([`Ours`]) and as a reader ([`Theirs`]).
//!
//! Every access that the protocol makes to shared memory is one of the methods here, so that the
//! two ends of each ordering stand side by side. `Theirs` has no method that stores: its memory is
//! mapped for reading only. What its methods answer is a claim of the peer.

use crate::platform::{Area, Atomic, Body, Half, Host, Label, Platform};
use crate::segment::{OwnSegment, PeerSegment, prefetch, prefetch_write};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use rendez_protocol::message::Header;

/// A segment that this side writes.
#[derive(Debug)]
pub struct Ours<P: Platform>(P::Half);

/// A segment that the peer writes.
#[derive(Debug)]
pub struct Theirs<P: Platform>(P::Half);

impl<P: Platform> Ours<P> {
    /// The segment `half`, which this side alone writes.
    pub fn new(half: P::Half) -> Self {
        Self(half)
    }

    /// Lines of the ring.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.0.lines()
    }

    /// Bytes of the payload area.
    #[must_use]
    pub fn area_bytes(&self) -> usize {
        self.0.area().bytes()
    }

    /// Fetches the line of message `position`, to be written.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        self.0.fetch_to_write(position);
    }

    #[inline]
    pub(crate) fn write_line(&self, position: u64, header: Header, inline: &[u8]) {
        self.0.line(position).body.write(header.to_bytes(), inline);
    }

    #[inline]
    pub(crate) fn write_area(&self, offset: usize, bytes: &[u8]) {
        self.0.area().write(offset, bytes);
    }

    #[inline]
    pub(crate) fn publish_turn(&self, position: u64, turn: u32) {
        // ORDERING(turn): Release; header and payload are visible before the turn. Pairs with
        // `Theirs::turn`.
        self.0.line(position).turn.store(turn, P::ordering(Label::TurnRelease, Release));
    }

    #[inline]
    pub(crate) fn reset_mark(&self, position: u64, turn: u32) {
        // Any other value than the turn: none of an earlier lap may match after the turns wrap.
        // ORDERING: Relaxed; the turn is released after it.
        self.0.line(position).mark.store(turn.wrapping_sub(1), Relaxed);
    }

    pub(crate) fn mark_withdrawn(&self, position: u64, turn: u32) {
        // ORDERING: Relaxed; the sender's fence (WithdrawFence) follows.
        self.0.line(position).mark.store(turn, Relaxed);
    }

    #[inline]
    pub(crate) fn set_taken(&self, taken: u64) {
        // ORDERING: Relaxed; towards a withdrawing sender the receiver's fence (TakeFence) follows,
        // towards the sender of a dead server the status word orders it.
        self.0.head().progress.0.taken.store(taken, Relaxed);
    }

    #[inline]
    pub(crate) fn set_freed(&self, freed: u64) {
        // ORDERING(freed): Release; our copies out of the lines are done before they are said to be
        // free. Pairs with `Theirs::freed`.
        self.0.head().progress.0.freed.store(freed, P::ordering(Label::FreedRelease, Release));
    }

    #[inline]
    pub(crate) fn set_asleep(&self, word: u32) {
        // ORDERING: Relaxed; going to sleep, the fence (SleepFence) follows; awake again, a writer
        // that sees it late rings once too often.
        self.0.head().sleep.0.asleep.store(word, Relaxed);
    }

    #[inline]
    pub(crate) fn set_cpu(&self, cpu: u32) {
        // ORDERING: Relaxed; a hint.
        self.0.head().sleep.0.cpu.store(cpu, Relaxed);
    }

    pub(crate) fn set_rang_at(&self, now: u64) {
        // ORDERING: Relaxed; a hint for the reader's statistics.
        self.0.head().doorbell.0.rang_at.store(now, Relaxed);
    }

    pub(crate) fn set_doorbell(&self, value: u32) -> &P::U32 {
        let words = &self.0.head().doorbell.0;
        // ORDERING: Relaxed; the reader compares it in the futex, whose wake-up follows and is
        // ordered by Linux; what it looks at afterwards is ordered by the turn.
        words.doorbell.store(value, Relaxed);
        &words.doorbell
    }

    pub(crate) fn set_posted(&self, bits: u64) {
        // ORDERING: Relaxed; the poster's fence (PostFence) came before, and releases the data.
        self.0.head().posted.0.store(bits, Relaxed);
    }

    pub(crate) fn set_acknowledged(&self, bits: u64) {
        // ORDERING: Relaxed; the reader's fence (AcknowledgeFence) follows.
        self.0.head().acknowledged.0.store(bits, Relaxed);
    }
}

impl Ours<Host> {
    /// The task's own segment of a connection.
    #[must_use]
    pub fn over(segment: OwnSegment) -> Self {
        Self::new(segment.into_mapping())
    }
}

impl Ours<Host> {
    /// Fetches the words that say how far we have read, to be written.
    #[inline]
    pub(crate) fn prefetch_progress(&self) {
        prefetch_write(core::ptr::from_ref(&self.0.head().progress));
    }
}

impl Theirs<Host> {
    /// Fetches the words that say whether the peer sleeps.
    #[inline]
    pub(crate) fn prefetch_asleep(&self) {
        prefetch(core::ptr::from_ref(&self.0.head().sleep));
    }

    /// The peer's segment of a connection.
    #[must_use]
    pub fn over(segment: PeerSegment) -> Self {
        Self::new(segment.into_mapping())
    }
}

impl<P: Platform> Theirs<P> {
    /// The segment `half`, which the peer alone writes.
    pub fn new(half: P::Half) -> Self {
        Self(half)
    }

    /// Lines of the ring.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.0.lines()
    }

    /// Bytes of the payload area.
    #[must_use]
    pub fn area_bytes(&self) -> usize {
        self.0.area().bytes()
    }

    /// Fetches the line of message `position`.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        self.0.fetch_to_read(position);
    }

    #[inline]
    pub(crate) fn turn(&self, position: u64) -> u32 {
        // ORDERING(turn): Acquire; pairs with `Ours::publish_turn`.
        self.0.line(position).turn.load(P::ordering(Label::TurnAcquire, Acquire))
    }

    #[inline]
    pub(crate) fn header(&self, position: u64) -> Header {
        Header::from_bytes(self.0.line(position).body.header())
    }

    #[inline]
    pub(crate) fn inline(&self, position: u64, out: &mut [u8]) {
        self.0.line(position).body.inline(out);
    }

    #[inline]
    pub(crate) fn read_area(&self, offset: usize, out: &mut [u8]) {
        self.0.area().read(offset, out);
    }

    #[inline]
    pub(crate) fn mark(&self, position: u64) -> u32 {
        // ORDERING: Relaxed; the receiver's fence (TakeFence) came before.
        self.0.line(position).mark.load(Relaxed)
    }

    #[inline]
    pub(crate) fn taken(&self) -> u64 {
        // ORDERING: Relaxed; a withdrawing sender's fence (WithdrawFence) came before; after a
        // death the same fence came after the status word was read.
        self.0.head().progress.0.taken.load(Relaxed)
    }

    #[inline]
    pub(crate) fn freed(&self) -> u64 {
        // ORDERING(freed): Acquire; the peer's copies are done before we write the lines again.
        // Pairs with `Ours::set_freed`.
        self.0.head().progress.0.freed.load(P::ordering(Label::FreedAcquire, Acquire))
    }

    #[inline]
    pub(crate) fn asleep(&self) -> u32 {
        // ORDERING: Relaxed; the writer's fence (PublishFence) came before.
        self.0.head().sleep.0.asleep.load(Relaxed)
    }

    #[inline]
    pub(crate) fn cpu(&self) -> u32 {
        // ORDERING: Relaxed; a hint.
        self.0.head().sleep.0.cpu.load(Relaxed)
    }

    pub(crate) fn doorbell(&self) -> &P::U32 {
        &self.0.head().doorbell.0.doorbell
    }

    pub(crate) fn rang_at(&self) -> u64 {
        // ORDERING: Relaxed; a hint, clamped by whoever uses it.
        self.0.head().doorbell.0.rang_at.load(Relaxed)
    }

    pub(crate) fn posted(&self) -> u64 {
        // ORDERING: Relaxed; the reader's fence (AcknowledgeFence) follows, and acquires the data.
        self.0.head().posted.0.load(Relaxed)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        // ORDERING: Relaxed; the poster's fence (PostFence) came before.
        self.0.head().acknowledged.0.load(Relaxed)
    }
}
