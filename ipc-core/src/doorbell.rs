//! Doorbells: a reader that finds nothing sleeps, a writer rings only a reader that sleeps.
//!
//! # Words
//! `asleep`, written by the reader in *its own* segment: bit 0 says that it sleeps, bit 1 that it
//! (also) waits for room in the other direction, the bits above count its sleeps. `doorbell`,
//! written by the writer in its own segment: any change wakes.
//!
//! # Steps
//! Reader: (S1) store `asleep` with a new count; (S2) SeqCst fence; (S3) look again; (S4) wait for
//! the doorbell to differ from what it was before S1; (S5) store `asleep` without bit 0.
//! Writer: (B1) publish; (B2) SeqCst fence; (B3) look at `asleep`; (B4) if bit 0 is set and this
//! sleep was not rung for yet: change the doorbell, wake.
//!
//! # Why these orderings
//! Dekker: of S1–S3 and B1–B3 at least one look sees the other's store, because the two fences have
//! an order. So either the reader finds the message, or the writer finds the reader asleep. A
//! writer rings once for each count, so a burst costs one system call; a reader that waits again
//! after a wake-up without cause counts on, so that it can be rung again.
//!
//! # If the peer dies or lies here
//! A reader that always says it sleeps costs its peer a system call for each new count, of its own
//! making. A writer that rings for ever wakes a reader that finds nothing; see
//! [`receive`](crate::receive). A writer that never rings is the one whose message waits. Death
//! wakes through the status word, which only the kernel writes. Models: `wake_is_not_lost_either_way`,
//! `wake_for_room`.

use crate::half::{Ours, Theirs};
use crate::platform::{Bell, Label, Platform};
use crate::wait::RINGS_PER_DATE;

/// Bit 0 of `asleep`.
const ASLEEP: u32 = 1;
/// Bit 1 of `asleep`.
const WANTS_ROOM: u32 = 2;
/// One sleep more.
const COUNT: u32 = 4;

/// The writer's side: rings the reader of its ring.
#[derive(Debug)]
pub struct Ringer<P: Platform> {
    bell: P::Bell,
    doorbell: u32,
    rung: u32,
    rings: u64,
}

impl<P: Platform> Ringer<P> {
    /// Rings by `bell`.
    pub fn new(bell: P::Bell) -> Self {
        Self { bell, doorbell: 0, rung: 0, rings: 0 }
    }

    /// (B2–B4) After publishing: wakes the reader if it sleeps.
    #[inline]
    pub fn ring_if_asleep(&mut self, ours: &Ours<P>, theirs: &Theirs<P>) {
        P::fence(Label::PublishFence);
        self.ring_unfenced(ours, theirs);
    }

    /// (B3, B4) without the fence, for when one has just been.
    #[inline]
    pub(crate) fn ring_unfenced(&mut self, ours: &Ours<P>, theirs: &Theirs<P>) {
        let asleep = theirs.asleep();
        if asleep & ASLEEP != 0 && asleep != self.rung {
            self.ring(ours, asleep);
        }
    }

    /// Whether the reader sleeps and was not rung for this sleep yet, as far as can be seen without
    /// the fence of B2.
    #[inline]
    pub(crate) fn sees_sleeper(&self, theirs: &Theirs<P>) -> bool {
        let asleep = theirs.asleep();
        asleep & ASLEEP != 0 && asleep != self.rung
    }

    /// After freeing lines, without a fence of its own: wakes the peer if it waits for room.
    #[inline]
    pub(crate) fn ring_for_room(&mut self, ours: &Ours<P>, theirs: &Theirs<P>) {
        let asleep = theirs.asleep();
        if asleep & (ASLEEP | WANTS_ROOM) == ASLEEP | WANTS_ROOM && asleep != self.rung {
            self.ring(ours, asleep);
        }
    }

    #[cold]
    fn ring(&mut self, ours: &Ours<P>, asleep: u32) {
        self.rung = asleep;
        self.rings += 1;
        self.doorbell = self.doorbell.wrapping_add(1);
        if self.rings % RINGS_PER_DATE == 1 {
            ours.set_rang_at(P::now());
        }
        self.bell.ring(ours.set_doorbell(self.doorbell));
    }

    /// Whether the peer seems to sleep for want of room: a look that needs no ringer, and no lock
    /// around one.
    #[inline]
    pub(crate) fn sees_want_of_room(theirs: &Theirs<P>) -> bool {
        theirs.asleep() & (ASLEEP | WANTS_ROOM) == ASLEEP | WANTS_ROOM
    }

    /// How often the reader had to be woken.
    #[must_use]
    pub const fn rings(&self) -> u64 {
        self.rings
    }
}

/// The reader's side.
#[derive(Debug, Default)]
pub struct Sleeper {
    word: u32,
}

impl Sleeper {
    /// One that is awake.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: 0 }
    }

    /// (S1) Says that it sleeps, and whether for want of room too. (S2) follows from the caller,
    /// one fence for as many connections as it likes, then (S3) the look.
    pub(crate) fn lie_down<P: Platform>(&mut self, ours: &Ours<P>, wants_room: bool) {
        let count = self.word.wrapping_add(COUNT) & !(ASLEEP | WANTS_ROOM);
        self.word = count | ASLEEP | if wants_room { WANTS_ROOM } else { 0 };
        ours.set_asleep(self.word);
    }

    /// (S5) Says that it is awake.
    pub(crate) fn get_up<P: Platform>(&mut self, ours: &Ours<P>) {
        if self.word & ASLEEP != 0 {
            self.word &= !(ASLEEP | WANTS_ROOM);
            ours.set_asleep(self.word);
        }
    }

    /// Whether it has lain down for want of room too.
    pub(crate) const fn wants_room(&self) -> bool {
        self.word & WANTS_ROOM != 0
    }

    /// Whether it has lain down.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.word & ASLEEP != 0
    }
}
