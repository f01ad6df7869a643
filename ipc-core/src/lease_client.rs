//! Leases at the client's end of a connection: what replies lend.
//!
//! The client decides how big the server's reply arena is, and names in each request how much of it
//! the reply may take. It keeps count of what it has promised and of what it holds, so that the
//! replies of an honest pair always find room (but for an arena that has become fragmented).

use crate::arena::Releases;
use crate::arena_memory::{OwnArena, PeerArena};
use crate::lease::{Claims, Lease, LeaseFault};
use crate::platform::Host;
use parking_lot::Mutex;
use rendez_protocol::lease::{self, Descriptor};
use rendez_protocol::limit::{ARENA_UNIT_BYTES, RELEASE_WORDS};
use std::sync::Arc;

/// A pair of arenas of one connection, as its client sees it.
#[derive(Debug)]
pub struct ClientPair {
    id: u32,
    own: Arc<OwnArena>,
    back: Option<Arc<Back>>,
}

/// The server's arena of a pair, and what is lent from it.
#[derive(Debug)]
pub struct Back {
    memory: Arc<PeerArena>,
    /// The release words lie in our own arena.
    words: Arc<OwnArena>,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    releases: Releases,
    /// Bytes that requests in flight have named as room.
    promised: usize,
    /// Bytes of leases that are held.
    held: usize,
}

impl ClientPair {
    /// The pair `id`; `theirs` is what the server lends from, if it does.
    #[must_use]
    pub fn new(id: u32, own: OwnArena, theirs: Option<PeerArena>) -> Self {
        let own = Arc::new(own);
        let back = theirs.map(|memory| {
            Arc::new(Back {
                memory: Arc::new(memory),
                words: Arc::clone(&own),
                books: Mutex::new(Books {
                    releases: Releases::new(RELEASE_WORDS),
                    promised: 0,
                    held: 0,
                }),
            })
        });
        Self { id, own, back }
    }

    /// What messages call it.
    #[must_use]
    #[inline]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What requests lend from.
    #[must_use]
    #[inline]
    pub const fn own(&self) -> &Arc<OwnArena> {
        &self.own
    }

    /// What replies lend from, if they do.
    #[must_use]
    #[inline]
    pub const fn back(&self) -> Option<&Arc<Back>> {
        self.back.as_ref()
    }

    /// Whether nothing is lent in either direction, and nothing promised.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let back_is_idle = self.back.as_ref().is_none_or(|back| {
            let books = back.books.lock();
            books.promised == 0 && books.held == 0 && books.releases.is_idle()
        });
        back_is_idle && self.own.is_idle()
    }
}

impl Back {
    /// Bytes that replies can lend when none has.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Promises room for `bytes` to one reply, if there is that much. [`Back::take_back`] once it
    /// has come.
    pub fn promise(&self, bytes: usize) -> bool {
        let mut books = self.books.lock();
        let bytes = bytes.next_multiple_of(ARENA_UNIT_BYTES);
        let fits = books.promised + books.held + bytes <= self.capacity();
        if fits {
            books.promised += bytes;
        }
        fits
    }

    /// Takes back what was promised to a reply that has come or cannot come any more.
    pub fn take_back(&self, bytes: usize) {
        self.books.lock().promised -= bytes.next_multiple_of(ARENA_UNIT_BYTES);
    }

    /// Bytes that can be promised.
    #[must_use]
    pub fn left(&self) -> usize {
        let books = self.books.lock();
        self.capacity() - books.promised - books.held
    }

    /// Takes note of one lease of a reply.
    fn hold(self: &Arc<Self>, descriptor: &Descriptor) -> Result<ReplyLease, LeaseFault> {
        let bytes = (descriptor.length as usize).next_multiple_of(ARENA_UNIT_BYTES);
        let mut books = self.books.lock();
        books.releases.hold(descriptor.word)?;
        books.held += bytes;
        drop(books);
        Ok(ReplyLease {
            lease: Lease::new(&self.memory, descriptor),
            word: descriptor.word,
            bytes,
            back: Arc::clone(self),
        })
    }
}

/// Memory that a reply lends, to be read in place: a [`Lease`] that the server has back when this
/// value is dropped.
#[derive(Debug)]
pub struct ReplyLease {
    lease: Lease,
    word: u16,
    bytes: usize,
    back: Arc<Back>,
}

impl core::ops::Deref for ReplyLease {
    type Target = Lease;
    #[inline]
    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for ReplyLease {
    fn drop(&mut self) {
        let mut books = self.back.books.lock();
        books.held -= self.bytes;
        books.releases.release::<Host>(&*self.back.words, self.word);
    }
}

/// A reply that carries descriptors, checked.
#[derive(Debug)]
pub struct LentReply<'a> {
    /// The payload proper, unless it lies in the arena.
    pub payload: &'a [u8],
    /// Where the payload lies, if it was too long for the ring.
    pub spilled: Option<ReplyLease>,
    /// What the reply lends.
    pub leases: Vec<ReplyLease>,
}

impl<'a> LentReply<'a> {
    /// Reads the descriptors in front of a reply's payload and checks them. `back` is the arena in
    /// which its request named room for `room` bytes, and that arena's id.
    ///
    /// # Errors
    /// [`LeaseFault`]: the connection is over.
    pub fn read(
        payload: &'a [u8],
        back: Option<(u32, &Arc<Back>)>,
        room: usize,
        scratch: &mut Vec<Descriptor>,
    ) -> Result<Self, LeaseFault> {
        let payload = lease::read(payload, scratch)?;
        let claims = Claims::check(
            scratch,
            |one| back.filter(|(id, _)| *id == one.arena).map(|(_, back)| &*back.memory),
            |_| false,
        )?;
        let room = room.next_multiple_of(ARENA_UNIT_BYTES) as u64;
        if claims.bytes > room {
            return Err(LeaseFault::Room { lent: claims.bytes, room });
        }
        if claims.payload.is_some() && !payload.is_empty() {
            return Err(LeaseFault::Together);
        }
        let Some((_, back)) = back else { return Err(LeaseFault::Together) };
        let leases = scratch[..claims.leases]
            .iter()
            .map(|one| back.hold(one))
            .collect::<Result<Vec<_>, _>>()?;
        let spilled = claims.payload.map(|place| back.hold(&scratch[place])).transpose()?;
        Ok(Self { payload, spilled, leases })
    }
}
