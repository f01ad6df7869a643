//! Leases at the server's end of a connection: what its client lends, and what its replies lend.
//!
//! The arenas of a connection hang on its [`Port`], so that whoever holds a right to reply reaches
//! them from any thread. Nothing here waits: what is not there is an error for the handler, and what
//! the client should not have said is a [`LeaseFault`].

use crate::arena::Lent;
use crate::arena_memory::{NoRoom, OwnArena, PeerArena, Span};
use crate::lease::{Claims, Lease, LeaseFault};
use crate::platform::Host;
use crate::server::{Port, Taken};
use parking_lot::Mutex;
use rendez_protocol::injection::Phase;
use rendez_protocol::lease::{self, DESCRIPTOR_BYTES, Descriptor, Kind};
use rendez_protocol::limit::{ARENA_UNIT_BYTES, LEASES_MAX, RELEASE_WORDS};
use rendez_protocol::status::Status;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pair of arenas of one connection, as its server sees it.
#[derive(Debug)]
pub struct ServerPair {
    id: u32,
    /// What the client lends from; its first page holds the release words.
    theirs: Arc<PeerArena>,
    ours: Option<Replies>,
}

#[derive(Debug)]
struct Replies {
    memory: Arc<OwnArena>,
    lent: Mutex<Lent<Span>>,
}

impl ServerPair {
    /// The pair `id`, which lends replies from `ours` if there is one.
    #[must_use]
    pub fn new(id: u32, theirs: PeerArena, ours: Option<OwnArena>) -> Self {
        let replies = |memory| Replies {
            memory: Arc::new(memory),
            lent: Mutex::new(Lent::new(RELEASE_WORDS)),
        };
        Self { id, theirs: Arc::new(theirs), ours: ours.map(replies) }
    }

    /// Room of a reply; `length` was checked against the arena's size.
    fn has_room(&self, length: u32) -> bool {
        self.ours.as_ref().is_some_and(|ours| length as usize <= ours.memory.capacity())
    }
}

/// The arenas of one connection, at the server's end.
#[derive(Debug, Default)]
pub struct ServerArenas {
    pairs: Mutex<Vec<Arc<ServerPair>>>,
    /// Whether `fault` is set: looked at after each message that carries leases.
    broken: AtomicBool,
    fault: Mutex<Option<LeaseFault>>,
}

impl ServerArenas {
    /// Adds a pair that the kernel has announced, before the kernel is told that it is mapped.
    pub fn attach(&self, pair: ServerPair) {
        self.pairs.lock().push(Arc::new(pair));
    }

    /// Takes a pair out that the client has let go of. Its memory is unmapped with what is answered,
    /// or with the last lease of it.
    pub fn detach(&self, id: u32) -> Option<Arc<ServerPair>> {
        let mut pairs = self.pairs.lock();
        let place = pairs.iter().position(|pair| pair.id == id)?;
        Some(pairs.swap_remove(place))
    }

    /// Takes all pairs out: the connection has ended.
    pub fn detach_all(&self) -> Vec<Arc<ServerPair>> {
        core::mem::take(&mut *self.pairs.lock())
    }

    /// What a reply found wrong with the client's release words: the connection is to end.
    #[must_use]
    pub fn fault(&self) -> Option<LeaseFault> {
        // ORDERING: Relaxed; a flag that is only ever set, after what is behind the lock.
        self.broken.load(Ordering::Relaxed).then(|| *self.fault.lock()).flatten()
    }

    /// Reads the descriptors in front of a request's payload and checks them. What may be read is in
    /// `scratch` until the next call.
    ///
    /// # Errors
    /// [`LeaseFault`]: the connection is to be closed with `protocol`.
    pub fn read<'a>(
        &self,
        payload: &'a [u8],
        scratch: &mut Scratch,
    ) -> Result<Request<'a>, LeaseFault> {
        scratch.leases.clear();
        let payload = lease::read(payload, &mut scratch.descriptors)?;
        let pairs = self.pairs.lock();
        let find = |one: &Descriptor| pairs.iter().find(|pair| pair.id == one.arena);
        let claims = Claims::check(
            &scratch.descriptors,
            |one| find(one).map(|pair| &*pair.theirs),
            |one| find(one).is_some_and(|pair| pair.has_room(one.length)),
        )?;
        if claims.payload.is_some() && !payload.is_empty() {
            return Err(LeaseFault::Together);
        }
        let lease = |one: &Descriptor| find(one).map(|pair| Lease::new(&pair.theirs, one));
        let all = &scratch.descriptors;
        scratch.leases.extend(all[..claims.leases].iter().filter_map(lease));
        let spilled = claims.payload.and_then(|place| lease(&all[place]));
        let room = claims.room.map(|place| &all[place]).and_then(|one| {
            let pair = Arc::clone(find(one)?);
            Some(ReplyRoom { pair, left: round(one.length as usize) })
        });
        Ok(Request { payload, spilled, room })
    }
}

/// What is kept between two requests that carry leases, so that none of them allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    descriptors: Vec<Descriptor>,
    leases: Vec<Lease>,
}

impl Scratch {
    /// The leases of the request that was read last, in the order of its sender.
    #[must_use]
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Lets go of them.
    pub fn clear(&mut self) {
        self.leases.clear();
    }
}

/// A request that carries descriptors, checked.
#[derive(Debug)]
pub struct Request<'a> {
    /// The payload proper, unless it lies in an arena.
    pub payload: &'a [u8],
    /// Where the payload lies, if it was too long for the ring.
    pub spilled: Option<Lease>,
    /// What the reply may lend.
    pub room: Option<ReplyRoom>,
}

/// Why a reply cannot lend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyRoomError {
    /// More than the request named.
    #[error("a reply lease of {asked} bytes, where the request left room for {left}")]
    Beyond {
        /// What was asked for.
        asked: usize,
        /// What is left of the room.
        left: usize,
    },
    /// The client holds on to what it was lent.
    #[error(
        "the reply arena is full: {asked} bytes asked for, {longest} free in one piece of {total}; \
         its client has not let go of earlier replies"
    )]
    Full {
        /// What was asked for.
        asked: usize,
        /// The longest free extent.
        longest: usize,
        /// All of the arena.
        total: usize,
    },
    /// A release word that lies; the connection ends.
    #[error(transparent)]
    Fault(#[from] LeaseFault),
}

/// The room in an arena that a request named for what its reply lends.
#[derive(Clone, Debug)]
pub struct ReplyRoom {
    pair: Arc<ServerPair>,
    left: usize,
}

impl ReplyRoom {
    /// Bytes that can still be lent; each lease counts in units of 64.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }

    /// Whether a span was taken from this room's arena.
    #[must_use]
    pub fn is_of(&self, span: &ReplySpan) -> bool {
        Arc::ptr_eq(&self.pair, &span.pair)
    }

    /// Takes memory for `bytes`, to be written in place.
    ///
    /// # Errors
    /// [`ReplyRoomError`].
    pub fn take(&mut self, bytes: usize) -> Result<ReplySpan, ReplyRoomError> {
        let taken = round(bytes.max(1));
        let full = |no: NoRoom| ReplyRoomError::Full {
            asked: bytes,
            longest: no.longest,
            total: no.total,
        };
        let beyond = ReplyRoomError::Beyond { asked: bytes, left: self.left };
        let Some(ours) = &self.pair.ours else { return Err(beyond) };
        if taken > self.left || bytes == 0 {
            return Err(beyond);
        }
        let mut lent = ours.lent.lock();
        lent.reclaim::<Host>(&*self.pair.theirs)?;
        let word = lent.take_word();
        drop(lent);
        let Some(word) = word else {
            return Err(full(NoRoom { longest: 0, left: 0, total: ours.memory.capacity() }));
        };
        match ours.memory.take(bytes) {
            Ok(span) => {
                self.left -= taken;
                Ok(ReplySpan { held: Some((word, span)), pair: Arc::clone(&self.pair) })
            }
            Err(no_room) => {
                ours.lent.lock().give_word(word);
                Err(full(no_room))
            }
        }
    }
}

/// Memory that a reply is going to lend.
#[derive(Debug)]
pub struct ReplySpan {
    held: Option<(u16, Span)>,
    pair: Arc<ServerPair>,
}

impl ReplySpan {
    /// Makes it shorter.
    pub const fn shorten(&mut self, length: usize) {
        if let Some((_, span)) = &mut self.held {
            span.shorten(length);
        }
    }

    /// (L1) Enters it as lent; how the reply names it. `None` if nothing is left of it.
    fn lend(mut self, kind: Kind) -> Option<Descriptor> {
        let (word, span) = self.held.take()?;
        let ours = self.pair.ours.as_ref()?;
        let descriptor = Descriptor {
            arena: self.pair.id,
            word,
            kind,
            place: (span.offset() / ARENA_UNIT_BYTES) as u32,
            length: span.len() as u32,
        };
        if span.is_empty() {
            ours.lent.lock().give_word(word);
            return None;
        }
        ours.lent.lock().lend(word, span);
        Some(descriptor)
    }
}

impl core::ops::Deref for ReplySpan {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], |(_, span)| span)
    }
}

impl core::ops::DerefMut for ReplySpan {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.held.as_mut().map_or(&mut [], |(_, span)| span)
    }
}

impl Drop for ReplySpan {
    fn drop(&mut self) {
        if let (Some((word, span)), Some(ours)) = (self.held.take(), &self.pair.ours) {
            drop(span);
            ours.lent.lock().give_word(word);
        }
    }
}

const fn round(bytes: usize) -> usize {
    bytes.next_multiple_of(ARENA_UNIT_BYTES)
}

impl Port<Host> {
    /// As [`Port::reply`], lending `spans`; a payload for which the ring has no room goes into the
    /// arena too, where the request named that much. What fits neither becomes `too big`, and
    /// nothing is lent.
    pub fn reply_lending(
        &self,
        taken: &Taken,
        status: Status,
        payload: &[u8],
        spans: impl IntoIterator<Item = ReplySpan>,
        room: Option<&mut ReplyRoom>,
    ) {
        let mut spans = spans.into_iter().take(LEASES_MAX).peekable();
        if spans.peek().is_none() && payload.len() <= taken.room_bytes() {
            return self.reply(taken, status, payload);
        }
        if taken.injected && self.reached(Phase::InHandler) {
            // What was to be lent goes back with the spans.
            return self.reply(&Taken { injected: false, ..*taken }, Status::DROPPED, &[]);
        }
        let spans: Vec<ReplySpan> = spans.collect();
        let in_ring = spans.len() * DESCRIPTOR_BYTES + payload.len() <= taken.room_bytes();
        let mut spilled = None;
        if !in_ring {
            match room.map(|room| room.take(payload.len())) {
                Some(Ok(mut span)) => {
                    span.copy_from_slice(payload);
                    spilled = Some(span);
                }
                other => {
                    if let Some(Err(error)) = other {
                        self.note_fault(&error);
                    }
                    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                    return self.reply(taken, Status::TOO_BIG, &length.to_le_bytes());
                }
            }
        }
        let count = spans.len() + usize::from(spilled.is_some());
        if count * DESCRIPTOR_BYTES > taken.room_bytes() {
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            return self.reply(taken, Status::TOO_BIG, &length.to_le_bytes());
        }
        let mut descriptors: Vec<Descriptor> =
            spans.into_iter().filter_map(|span| span.lend(Kind::Lease)).collect();
        descriptors.extend(spilled.and_then(|span| span.lend(Kind::Payload)));
        if descriptors.is_empty() {
            return self.reply(taken, status, payload);
        }
        let mut message = Vec::with_capacity(count * DESCRIPTOR_BYTES + payload.len());
        lease::write(&descriptors, &mut message);
        if in_ring {
            message.extend_from_slice(payload);
        }
        self.reply_leased(taken, status, &message);
    }

    /// Takes note of what a reply's [`ReplyRoom::take`] found wrong with the client.
    pub fn note_fault(&self, error: &ReplyRoomError) {
        if let ReplyRoomError::Fault(fault) = error {
            let arenas = self.arenas();
            *arenas.fault.lock() = Some(*fault);
            // ORDERING: Relaxed; as in `ServerArenas::fault`.
            arenas.broken.store(true, Ordering::Relaxed);
        }
    }
}
