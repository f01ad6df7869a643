//! Leases: memory of an arena that one end lends the other for a transaction.
//!
//! What a message says of leases is a claim. [`Claims::check`] looks at a private copy of it, once:
//! the arena is known, the range lies in it, no two overlap. After that a [`Lease`] can be read as
//! often as one likes, and every read is a copy: a peer that changes what it has lent changes what
//! is copied and nothing else.

use crate::arena_memory::PeerArena;
use rendez_protocol::lease::{Descriptor, Kind, Malformed};
use std::io;
use std::sync::Arc;

/// What a peer said of leases that no honest one says. The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseFault {
    /// The descriptors cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such arena, or it does not lend in this direction.
    #[error("the peer lends from arena {0}, which is not attached")]
    Arena(u32),
    /// The range is not within the arena.
    #[error("the peer lends {length} bytes at {offset} of arena {arena}, which does not hold them")]
    Bounds {
        /// Which arena.
        arena: u32,
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
    /// Two leases of one message overlap.
    #[error("two leases of one message overlap in arena {0}")]
    Overlap(u32),
    /// More descriptors of one kind than a message can have, or one that does not belong in it.
    #[error("the peer's message has lease descriptors that do not go together")]
    Together,
    /// A lease's release word is none, or one whose last lease is still held.
    #[error("the peer lends by release word {0}, which is none or in use")]
    Word(u16),
    /// A reply lends more than its request named room for.
    #[error("the peer lends {lent} bytes where at most {room} were asked for")]
    Room {
        /// What it lends.
        lent: u64,
        /// What was asked for.
        room: u64,
    },
    /// A release word says what cannot be.
    #[error(
        "the peer says that it let go of {said} leases by release word {word}; {issued} were lent"
    )]
    Release {
        /// Which word.
        word: u16,
        /// What it says.
        said: u32,
        /// How many leases it was given to.
        issued: u32,
    },
}

/// The descriptors of one message, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// How many of the descriptors, from the first, are leases to be read.
    pub leases: usize,
    /// The one in which the payload lies.
    pub payload: Option<usize>,
    /// The one that names room for the reply.
    pub room: Option<usize>,
    /// Bytes lent, all in all.
    pub bytes: u64,
}

impl Claims {
    /// Checks what `descriptors`, a private copy, say: leases first, then at most one payload, then
    /// at most one room. `arena` answers the arena that a descriptor of this message may lend from,
    /// or, for room, whether it may name that room.
    ///
    /// # Errors
    /// [`LeaseFault`].
    #[inline]
    pub fn check<'a>(
        descriptors: &[Descriptor],
        mut arena: impl FnMut(&Descriptor) -> Option<&'a PeerArena>,
        mut has_room: impl FnMut(&Descriptor) -> bool,
    ) -> Result<Self, LeaseFault> {
        let mut claims = Self::default();
        for (place, one) in descriptors.iter().enumerate() {
            match one.kind {
                Kind::Lease if claims.payload.is_none() && claims.room.is_none() => {
                    claims.leases += 1;
                }
                Kind::Payload if claims.payload.is_none() && claims.room.is_none() => {
                    claims.payload = Some(place);
                }
                Kind::Room if claims.room.is_none() => {
                    if one.place != 0 || one.word != 0 || !has_room(one) {
                        return Err(LeaseFault::Arena(one.arena));
                    }
                    claims.room = Some(place);
                    continue;
                }
                _ => return Err(LeaseFault::Together),
            }
            let memory = arena(one).ok_or(LeaseFault::Arena(one.arena))?;
            if !memory.holds(one.offset(), u64::from(one.length)) {
                return Err(LeaseFault::Bounds {
                    arena: one.arena,
                    offset: one.offset(),
                    length: one.length,
                });
            }
            // At most a handful: each against all before it.
            let overlap = |other: &Descriptor| {
                other.arena == one.arena && other.offset() < one.end() && one.offset() < other.end()
            };
            if descriptors[..place].iter().any(overlap) {
                return Err(LeaseFault::Overlap(one.arena));
            }
            claims.bytes += u64::from(one.length);
        }
        if claims.leases > rendez_protocol::limit::LEASES_MAX {
            return Err(LeaseFault::Together);
        }
        Ok(claims)
    }
}

#[derive(Clone, Debug)]
enum Source {
    Peer(Arc<PeerArena>),
    /// Where there is no peer: a server's logic called directly.
    Private(Arc<[u8]>),
}

/// Memory that the peer has lent, to be read in place. Every access is a copy out, because the peer
/// may change it at any time. It stays readable for as long as this value lives; once the
/// transaction is over it holds whatever the peer has put there since.
#[derive(Clone, Debug)]
pub struct Lease {
    source: Source,
    offset: usize,
    length: usize,
}

impl Lease {
    /// The lease of a descriptor that was checked.
    #[must_use]
    #[inline]
    pub fn new(memory: &Arc<PeerArena>, descriptor: &Descriptor) -> Self {
        Self {
            source: Source::Peer(Arc::clone(memory)),
            offset: descriptor.offset() as usize,
            length: descriptor.length as usize,
        }
    }

    /// Private memory in the form of a lease, for a server's logic that is called directly.
    #[must_use]
    pub fn private(bytes: &[u8]) -> Self {
        Self { source: Source::Private(bytes.into()), offset: 0, length: bytes.len() }
    }

    /// How many bytes were lent.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was lent, which no peer can do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies bytes from `offset` on into `out`; answers how many there were.
    #[inline]
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        let bytes = self.length.saturating_sub(offset).min(out.len());
        if bytes > 0 {
            match &self.source {
                Source::Peer(memory) => memory.copy_to(self.offset + offset, &mut out[..bytes]),
                Source::Private(own) => {
                    out[..bytes].copy_from_slice(&own[offset..offset + bytes]);
                }
            }
        }
        bytes
    }

    /// Copies all of it to the end of `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match &self.source {
            Source::Peer(memory) => memory.append_to(self.offset, self.length, out),
            Source::Private(own) => out.extend_from_slice(own),
        }
    }

    /// A private copy of all of it.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    /// Reads it from the beginning, as a stream.
    #[must_use]
    pub const fn reader(&self) -> LeaseReader<'_> {
        LeaseReader { lease: self, at: 0 }
    }
}

/// Reads a [`Lease`] as a stream, each byte once.
#[derive(Clone, Debug)]
pub struct LeaseReader<'a> {
    lease: &'a Lease,
    at: usize,
}

impl io::Read for LeaseReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.lease.copy_to(self.at, out);
        self.at += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, Lease, LeaseFault};
    use crate::arena_memory::{OwnArena, Owner, PeerArena};
    use crate::status::memory_file;
    use rendez_protocol::lease::{Descriptor, Kind};
    use std::io::Read;
    use std::sync::Arc;

    const BYTES: usize = 64 << 10;

    fn arenas() -> (Arc<OwnArena>, Arc<PeerArena>) {
        let file = memory_file("arena", BYTES).expect("a memfd");
        let other = file.try_clone().expect("a duplicate");
        let own = OwnArena::map(file, BYTES, Owner::Client).expect("an arena");
        let peer = PeerArena::map(other, BYTES, Owner::Client).expect("a sealed one");
        (Arc::new(own), Arc::new(peer))
    }

    fn one(kind: Kind, offset: u32, length: u32) -> Descriptor {
        Descriptor { arena: 1, word: 0, kind, place: offset / 64, length }
    }

    fn check(descriptors: &[Descriptor]) -> Result<Claims, LeaseFault> {
        let (_, peer) = arenas();
        let known = |one: &Descriptor| (one.arena == 1).then_some(&*peer);
        Claims::check(descriptors, known, |room| room.length <= 1000)
    }

    #[test]
    fn honest_claims_are_sorted() {
        let all = [
            one(Kind::Lease, 4096, 4096),
            one(Kind::Lease, 16384, 1),
            one(Kind::Payload, 8192, 100),
            one(Kind::Room, 0, 1000),
        ];
        let claims = Claims { leases: 2, payload: Some(2), room: Some(3), bytes: 4197 };
        assert_eq!(check(&all), Ok(claims));
        let claims = Claims { leases: 0, payload: None, room: Some(0), bytes: 0 };
        assert_eq!(check(&all[3..]), Ok(claims));
    }

    #[test]
    fn claims_outside_the_arena_are_faults() {
        let last = BYTES as u32;
        assert!(check(&[one(Kind::Lease, last - 64, 64)]).is_ok());
        for (offset, length) in [
            (0, 64),
            (4032, 100),
            (last - 64, 65),
            (last, 1),
            (4096, last),
            (u32::MAX / 64 * 64, u32::MAX),
        ] {
            let outside = one(Kind::Lease, offset, length);
            let offset = outside.offset();
            let expected = LeaseFault::Bounds { arena: 1, offset, length };
            assert_eq!(check(&[outside]), Err(expected));
            let payload = Descriptor { kind: Kind::Payload, ..outside };
            assert_eq!(check(&[payload]), Err(expected));
        }
        let far = Descriptor { place: u32::MAX, ..one(Kind::Lease, 0, u32::MAX) };
        assert!(matches!(check(&[far]), Err(LeaseFault::Bounds { .. })));
    }

    #[test]
    fn claims_that_overlap_are_faults() {
        let base = one(Kind::Lease, 8192, 4096);
        assert!(check(&[base, one(Kind::Lease, 4096, 4096), one(Kind::Payload, 12288, 1)]).is_ok());
        for (offset, length) in [(8192, 4096), (8192, 1), (4096, 4097), (12224, 500), (4096, 40000)]
        {
            for kind in [Kind::Lease, Kind::Payload] {
                let other = one(kind, offset, length);
                assert_eq!(check(&[base, other]), Err(LeaseFault::Overlap(1)));
            }
        }
    }

    #[test]
    fn claims_of_unknown_arenas_and_odd_company_are_faults() {
        let (lease, payload, room) =
            (one(Kind::Lease, 4096, 8), one(Kind::Payload, 8192, 8), one(Kind::Room, 0, 8));
        for arena in [0, 2, u32::MAX] {
            let lost = Descriptor { arena, ..lease };
            assert_eq!(check(&[lost]), Err(LeaseFault::Arena(arena)));
        }
        assert_eq!(check(&[Descriptor { length: 1001, ..room }]), Err(LeaseFault::Arena(1)));
        assert_eq!(check(&[Descriptor { place: 1, ..room }]), Err(LeaseFault::Arena(1)));
        for odd in [[payload, lease], [payload, payload], [room, lease], [room, payload]] {
            assert_eq!(check(&odd), Err(LeaseFault::Together));
        }
        assert_eq!(check(&[room, room]), Err(LeaseFault::Together));
        let many: Vec<_> = (0..9).map(|n| one(Kind::Lease, 4096 + n * 64, 8)).collect();
        assert_eq!(check(&many), Err(LeaseFault::Together));
    }

    #[test]
    fn a_lease_that_changes_under_its_reader_changes_only_what_is_copied() {
        let (own, peer) = arenas();
        let mut span = own.take(1000).expect("room");
        span.fill(1);
        let descriptor = one(Kind::Lease, span.offset() as u32, 1000);
        let lease = Lease::new(&peer, &descriptor);
        let before = lease.to_vec();
        span[500..].fill(2);
        assert_eq!(before, [1; 1000], "what was copied stays");
        assert_eq!(lease.to_vec(), [[1; 500], [2; 500]].concat());
        // And while somebody writes without pause, whatever arrives is one of the two.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for byte in [1, 2].into_iter().cycle() {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    span.fill(byte);
                }
            });
            for _ in 0..1000 {
                assert!(lease.to_vec().iter().all(|byte| [1, 2].contains(byte)));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_lease_is_read_in_parts_and_never_beyond_its_end() {
        let (own, peer) = arenas();
        let mut span = own.take(300).expect("room");
        for (place, byte) in span.iter_mut().enumerate() {
            *byte = place as u8;
        }
        let shared = Lease::new(&peer, &one(Kind::Lease, span.offset() as u32, 300));
        for lease in [shared, Lease::private(&span)] {
            let mut out = [7; 200];
            assert_eq!(lease.copy_to(250, &mut out), 50);
            assert_eq!((out[0], out[49], out[50]), (250, 43, 7));
            assert_eq!(lease.copy_to(300, &mut out), 0);
            assert_eq!(lease.copy_to(usize::MAX, &mut out), 0);
            let mut all = Vec::new();
            assert_eq!(lease.reader().read_to_end(&mut all).expect("no error"), 300);
            assert_eq!(all, *span);
            assert_eq!((lease.len(), lease.is_empty()), (300, false));
        }
    }
}
