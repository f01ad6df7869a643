//! Arenas: who may write which part of one, and when a part can be used again.
//!
//! An *arena* is a sealed segment by itself: one end of a connection writes it, the other reads it.
//! Its owner keeps all its books in private memory ([`Room`]: which bytes are free; [`Lent`]: what
//! the replies have lent). Nothing that the peer writes says where anything lies; all that it says
//! is that it has let go.
//!
//! # Words
//! A client's arena begins with 256 *release words*. A reply's lease is given one of them, by number:
//! the client alone writes it, and counts in it the leases of that word that it has let go of. A
//! request's lease needs no word: its transaction's reply ends it.
//!
//! # States of a release word
//! *free* → (the handler takes room) *taken* → (L1: the reply is published) *lent* → (L4) *free*.
//! The server counts in `issued` how often it gave the word to a lease. While one is lent, the word
//! says `issued - 1` (held) or `issued` (let go of); nothing else can be.
//!
//! # Steps of a reply's lease
//! Server: (L1) write the bytes, enter them as lent, publish the reply. Client: (L2) copy bytes out
//! as often as it likes; (L3) store the release word. Server: (L4) see the word; only then write the
//! bytes again.
//!
//! # Why these orderings
//! L1 to L2 and, for a request's lease, the way back, are the ring's: the turn is released after
//! the bytes were written and acquired before they are read; a reply's turn is released after its
//! handler's last copy. L3 releases what L4 acquires: the client's copies are done before the
//! server writes.
//!
//! # If the peer dies or lies here
//! A client that never lets go fills its own reply arena: the handler is told *full*. One that lets
//! go too early reads what the server writes next *to it*. A word that is neither of the two values
//! is a [`LeaseFault`]. A transaction that is given up leaves its lease in quarantine until the late
//! reply, or the connection's end. Models: `lease_is_read_before_it_is_written_again`,
//! `lease_ends_with_its_reply`, `abandoned_lease_waits_for_the_late_reply`.

use crate::lease::LeaseFault;
use crate::platform::{Atomic, Label, Platform};
use core::sync::atomic::Ordering::{Acquire, Release};
use rendez_protocol::limit::ARENA_UNIT_BYTES;

/// A part of an arena, in bytes; both are multiples of the unit of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: usize,
    /// How long it is.
    pub bytes: usize,
}

impl Extent {
    const fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

/// Which bytes of an arena are free: its owner's private book. First fit, so that what is lent and
/// given back at once is the same memory again, still in the cache.
#[derive(Debug)]
pub struct Room {
    /// By offset; no two touch.
    free: Vec<Extent>,
    total: usize,
    left: usize,
}

impl Room {
    /// All of the bytes from `start` to `end`, multiples of the unit.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        let bytes = end.saturating_sub(start);
        let free = if bytes == 0 { Vec::new() } else { vec![Extent { offset: start, bytes }] };
        Self { free, total: bytes, left: bytes }
    }

    /// Takes at least `bytes`, rounded up to the unit; `None` if no free extent is that long.
    pub fn take(&mut self, bytes: usize) -> Option<Extent> {
        let bytes = bytes.max(1).checked_next_multiple_of(ARENA_UNIT_BYTES)?;
        let place = self.free.iter().position(|extent| extent.bytes >= bytes)?;
        let found = self.free.get_mut(place)?;
        let taken = Extent { offset: found.offset, bytes };
        if found.bytes == bytes {
            self.free.remove(place);
        } else {
            *found = Extent { offset: found.offset + bytes, bytes: found.bytes - bytes };
        }
        self.left -= bytes;
        Some(taken)
    }

    /// Gives back what [`Room::take`] answered, once.
    pub fn give(&mut self, extent: Extent) {
        self.left += extent.bytes;
        let place = self.free.partition_point(|other| other.offset < extent.offset);
        let joins_next = self.free.get(place).is_some_and(|next| extent.end() == next.offset);
        let before = place.checked_sub(1).and_then(|before| self.free.get_mut(before));
        match before {
            Some(before) if before.end() == extent.offset => {
                before.bytes += extent.bytes;
                if joins_next {
                    let next = self.free.remove(place);
                    self.free[place - 1].bytes += next.bytes;
                }
            }
            _ if joins_next => {
                let next = &mut self.free[place];
                *next = Extent { offset: extent.offset, bytes: extent.bytes + next.bytes };
            }
            _ => self.free.insert(place, extent),
        }
    }

    /// Free bytes, perhaps in several extents.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }

    /// All bytes, free or not.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// The longest extent that is free.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.free.iter().map(|extent| extent.bytes).max().unwrap_or(0)
    }

    /// Whether nothing is taken.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.left == self.total
    }
}

/// The release words of an arena pair, as the client writes or the server reads them.
pub trait Words<P: Platform> {
    /// How many there are.
    fn count(&self) -> usize;
    /// One of them, by its number, below [`Words::count`].
    fn word(&self, number: u16) -> &P::U32;
}

/// What a server has lent out of one arena: its private book. `S` is what is lent; it is dropped
/// when the client has let go of it.
#[derive(Debug)]
pub struct Lent<S> {
    issued: Box<[u32]>,
    free: Vec<u16>,
    lent: Vec<(u16, S)>,
}

impl<S> Lent<S> {
    /// Nothing lent yet, by `words` release words.
    #[must_use]
    pub fn new(words: usize) -> Self {
        let words = words.min(1 << 16);
        Self {
            issued: vec![0; words].into_boxed_slice(),
            free: (0..words).rev().map(|number| number as u16).collect(),
            lent: Vec::new(),
        }
    }

    /// The number of a word for a lease that is being written, if one is free.
    pub fn take_word(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives a word back whose lease was never published.
    pub fn give_word(&mut self, number: u16) {
        self.free.push(number);
    }

    /// (L1) Enters a lease that is about to be published.
    pub fn lend(&mut self, number: u16, what: S) {
        let issued = &mut self.issued[usize::from(number)];
        *issued = issued.wrapping_add(1);
        self.lent.push((number, what));
    }

    /// (L4) Takes back what the client has let go of.
    ///
    /// # Errors
    /// [`LeaseFault::Release`] if a word is one that no honest client writes.
    pub fn reclaim<P: Platform>(&mut self, words: &impl Words<P>) -> Result<(), LeaseFault> {
        let mut place = 0;
        while let Some((number, _)) = self.lent.get(place) {
            let number = *number;
            let issued = self.issued[usize::from(number)];
            // ORDERING(release): Acquire; the client's copies are done before the bytes are written
            // again. Pairs with `Releases::release`.
            let said = words.word(number).load(P::ordering(Label::ReleaseAcquire, Acquire));
            if said == issued {
                self.lent.swap_remove(place);
                self.free.push(number);
            } else if said == issued.wrapping_sub(1) {
                place += 1;
            } else {
                return Err(LeaseFault::Release { word: number, said, issued });
            }
        }
        Ok(())
    }

    /// How many leases the client holds, as far as was looked.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.lent.len()
    }
}

/// What a client has let go of: its own copy of its release words.
#[derive(Debug)]
pub struct Releases {
    said: Box<[u32]>,
    held: Box<[bool]>,
}

impl Releases {
    /// Nothing held, nothing let go of, by `words` release words.
    #[must_use]
    pub fn new(words: usize) -> Self {
        Self {
            said: vec![0; words].into_boxed_slice(),
            held: vec![false; words].into_boxed_slice(),
        }
    }

    /// Takes note of a lease that a reply names.
    ///
    /// # Errors
    /// [`LeaseFault::Word`] if there is no such word, or this end holds its lease already.
    pub fn hold(&mut self, number: u16) -> Result<(), LeaseFault> {
        match self.held.get_mut(usize::from(number)) {
            Some(held) if !*held => {
                *held = true;
                Ok(())
            }
            _ => Err(LeaseFault::Word(number)),
        }
    }

    /// (L3) Lets go of a lease that is held.
    pub fn release<P: Platform>(&mut self, words: &impl Words<P>, number: u16) {
        let index = usize::from(number);
        debug_assert!(self.held[index], "released once");
        self.held[index] = false;
        let said = &mut self.said[index];
        *said = said.wrapping_add(1);
        // ORDERING(release): Release; our copies are done before the server writes again. Pairs with
        // `Lent::reclaim`.
        words.word(number).store(*said, P::ordering(Label::ReleaseRelease, Release));
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.held.iter().any(|held| *held)
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Lent, Releases, Room, Words};
    use crate::lease::LeaseFault;
    use crate::platform::Host;
    use core::sync::atomic::{AtomicU32, Ordering};

    /// Words of plain memory, which a liar may change.
    struct Plain([AtomicU32; 2]);

    impl Words<Host> for Plain {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn word(&self, number: u16) -> &AtomicU32 {
            &self.0[usize::from(number)]
        }
    }

    #[test]
    fn room_is_taken_first_fit_and_joins_again_whatever_the_order() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for order in orders {
            let mut room = Room::new(4096, 4096 + 256);
            let parts = [100, 1, 64].map(|bytes| room.take(bytes).expect("room"));
            assert_eq!(parts[0], Extent { offset: 4096, bytes: 128 });
            assert_eq!(parts[1], Extent { offset: 4224, bytes: 64 });
            assert_eq!((room.left(), room.take(1)), (0, None));
            for part in order {
                room.give(parts[part]);
            }
            assert!(room.is_whole());
            assert_eq!((room.longest(), room.total()), (256, 256));
            assert_eq!(room.take(256), Some(Extent { offset: 4096, bytes: 256 }));
        }
    }

    /// Against a map of units: no two extents overlap, nothing is lost.
    #[test]
    fn room_keeps_its_books() {
        let mut room = Room::new(0, 64 * 100);
        let mut taken: Vec<Extent> = Vec::new();
        let mut seed = 7_u64;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (seed >> 33) as usize;
            if number.is_multiple_of(2) && !taken.is_empty() {
                room.give(taken.swap_remove(number / 2 % taken.len()));
            } else if let Some(extent) = room.take(number % 1000) {
                assert!(extent.end() <= 6400);
                assert!(
                    taken.iter().all(|other| {
                        other.end() <= extent.offset || extent.end() <= other.offset
                    })
                );
                taken.push(extent);
            }
            let sum: usize = taken.iter().map(|extent| extent.bytes).sum();
            assert_eq!(room.left(), 6400 - sum);
        }
        taken.into_iter().for_each(|extent| room.give(extent));
        assert_eq!(room.longest(), 6400);
        assert_eq!(room.take(usize::MAX), None);
    }

    #[test]
    fn a_lease_comes_back_when_its_holder_lets_go() {
        let words = Plain([AtomicU32::new(0), AtomicU32::new(0)]);
        let (mut lent, mut releases) = (Lent::new(2), Releases::new(2));
        for _ in 0..3 {
            let numbers = [lent.take_word().expect("one"), lent.take_word().expect("two")];
            assert_eq!(lent.take_word(), None);
            for number in numbers {
                lent.lend(number, "bytes");
                releases.hold(number).expect("not held yet");
            }
            assert_eq!(releases.hold(numbers[0]), Err(LeaseFault::Word(numbers[0])));
            lent.reclaim(&words).expect("honest");
            assert_eq!(lent.count(), 2);
            releases.release(&words, numbers[1]);
            lent.reclaim(&words).expect("honest");
            assert_eq!(lent.count(), 1);
            releases.release(&words, numbers[0]);
            lent.reclaim(&words).expect("honest");
            assert!(lent.count() == 0 && releases.is_idle());
        }
        assert_eq!(releases.hold(2), Err(LeaseFault::Word(2)));
    }

    #[test]
    fn release_words_that_lie_are_a_fault() {
        for said in [2, 7, u32::MAX] {
            let words = Plain([AtomicU32::new(0), AtomicU32::new(0)]);
            let mut lent = Lent::new(2);
            let number = lent.take_word().expect("one");
            lent.lend(number, ());
            words.word(number).store(said, Ordering::Relaxed);
            let fault = LeaseFault::Release { word: number, said, issued: 1 };
            assert_eq!(lent.reclaim(&words), Err(fault));
        }
    }
}
