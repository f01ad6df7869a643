//! Arenas, mapped: where lent memory becomes Rust values.
//!
//! # Safety
//! This file is an island of `unsafe`. Its invariants, cited by number below:
//!
//! 1. *Mapped for life.* A `Map`'s memory stays mapped, at the same place and length, until the
//!    value is dropped; nothing that it lends outlives it ([`Span`]s hold their arena).
//! 2. *One writer.* An arena carries the same seals as a segment, so its bytes are written by its
//!    owner alone and no load can fault. [`PeerArena`] checks that itself.
//! 3. *No references to bytes that change.* A peer's arena is copied out by `copy_out`, or is a
//!    release word seen as an atomic; there is never a `&[u8]` to it. Our own bytes change only
//!    through us, so a part of them can be a `&mut [u8]`:
//! 4. *A span is had once.* Extents come from the arena's one [`Room`], which gives none out twice
//!    before it is given back, and never the release words; a [`Span`] gives its own back when it is
//!    dropped. So no two spans overlap.
//! 5. *No stores to what is mapped for reading.* Only [`OwnArena`] and its spans store.

use crate::arena::{Extent, Room, Words};
use crate::platform::Host;
use crate::segment::{SEALS, check_sealed, copy_out};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use parking_lot::Mutex;
use rendez_protocol::limit::{ARENA_BYTES_MAX, ARENA_HEAD_BYTES, RELEASE_WORDS};
use rustix::fs::{fcntl_add_seals, fstat};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An arena mapped into this process.
#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: invariants 3 and 4: peers' memory is reached by copies and atomics, our own through spans
// that do not overlap; nothing is tied to the thread that mapped it.
unsafe impl Send for Map {}
// SAFETY: as for `Send`.
unsafe impl Sync for Map {}

impl Map {
    fn new(descriptor: &OwnedFd, length: usize, protection: ProtFlags) -> io::Result<Self> {
        let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if length == 0 || length > ARENA_BYTES_MAX as usize || !length.is_multiple_of(4096) {
            return invalid("an arena's size is a multiple of 4096, up to the limit");
        }
        if u64::try_from(fstat(descriptor)?.st_size) != Ok(length as u64) {
            return invalid("an arena's size is not what was agreed");
        }
        let size = core::num::NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at a place that Linux chooses disturbs no memory that exists.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, descriptor, 0) }?;
        Ok(Self { start: start.cast(), length })
    }

    fn advise(&self, advice: MmapAdvise) -> io::Result<()> {
        // SAFETY: invariant 1; no advice that is given changes what the memory holds.
        unsafe { madvise(self.start.cast(), self.length, advice) }?;
        Ok(())
    }

    /// The release word of that number.
    fn word(&self, number: u16) -> &AtomicU32 {
        let offset = usize::from(number) % RELEASE_WORDS * size_of::<AtomicU32>();
        const { assert!(RELEASE_WORDS * size_of::<AtomicU32>() <= ARENA_HEAD_BYTES) };
        // SAFETY: within the first page, and an arena has at least one.
        let word = unsafe { self.start.add(offset) }.cast::<AtomicU32>();
        // SAFETY: invariants 1, 3 and 4: mapped, aligned, an atomic that no span covers.
        unsafe { word.as_ref() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: invariant 1: mapped by `new` with this length, and nothing borrows it any more.
        // It cannot fail for a range that is mapped.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// Whose arena it is: a client's begins with release words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The client's, for requests.
    Client,
    /// The server's, for replies.
    Server,
}

impl Owner {
    /// Where the first lease can lie.
    #[must_use]
    pub const fn first(self) -> usize {
        match self {
            Self::Client => ARENA_HEAD_BYTES,
            Self::Server => 0,
        }
    }
}

/// An arena of this task's own, mapped for writing.
#[derive(Debug)]
pub struct OwnArena {
    map: Map,
    owner: Owner,
    room: Mutex<Room>,
}

/// The peer's arena, sealed, mapped for reading.
#[derive(Debug)]
pub struct PeerArena {
    map: Map,
    owner: Owner,
}

/// What was free when there was not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// The longest extent that is free, in bytes.
    pub longest: usize,
    /// Free bytes, all in all.
    pub left: usize,
    /// Bytes that can be lent when nothing is.
    pub total: usize,
}

impl OwnArena {
    /// Maps the memfd that the kernel made for this task, populates it, keeps it out of forked
    /// children, seals it and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says; `InvalidInput` if its size is not `bytes`, or none that an arena can have.
    pub fn map(descriptor: OwnedFd, bytes: usize, owner: Owner) -> io::Result<Self> {
        let map = Map::new(&descriptor, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        map.advise(MmapAdvise::MADV_POPULATE_WRITE)?;
        map.advise(MmapAdvise::MADV_DONTFORK)?;
        fcntl_add_seals(&descriptor, SEALS)?;
        Ok(Self { map, owner, room: Mutex::new(Room::new(owner.first(), bytes)) })
    }

    /// Takes room for `bytes`, to be written.
    ///
    /// # Errors
    /// [`NoRoom`] with what is free.
    #[inline]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Span, NoRoom> {
        let mut room = self.room.lock();
        match room.take(bytes) {
            Some(extent) => {
                drop(room);
                Ok(Span { arena: Arc::clone(self), extent, length: bytes })
            }
            None => Err(NoRoom { longest: room.longest(), left: room.left(), total: room.total() }),
        }
    }

    /// Bytes that can be lent when nothing is.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.map.length - self.owner.first()
    }

    /// Whether no span of it exists.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.room.lock().is_whole()
    }
}

impl PeerArena {
    /// Checks that the peer's arena is sealed, of the right size and without holes, maps it for
    /// reading with every page in place, and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says; `InvalidData` if the arena is not what the kernel promises.
    pub fn map(descriptor: OwnedFd, bytes: usize, owner: Owner) -> io::Result<Self> {
        check_sealed(&descriptor, bytes)?;
        let map = Map::new(&descriptor, bytes, ProtFlags::PROT_READ)?;
        map.advise(MmapAdvise::MADV_POPULATE_READ)?;
        map.advise(MmapAdvise::MADV_DONTFORK)?;
        Ok(Self { map, owner })
    }

    /// Whether so many bytes can have been lent there.
    #[must_use]
    #[inline]
    pub const fn holds(&self, offset: u64, length: u64) -> bool {
        // Both are far below 2^63: no sum wraps.
        offset >= self.owner.first() as u64 && offset + length <= self.map.length as u64
    }

    /// Bytes that can be lent.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.map.length - self.owner.first()
    }

    /// Copies out of the peer's memory, which may change meanwhile.
    ///
    /// # Panics
    /// If the range is not within the arena: whoever accepted the claim has checked it.
    #[inline]
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        let from = self.range(offset, out.len());
        // SAFETY: `out.len()` bytes are readable at `from` (invariants 1 and 2) and writable at `out`.
        unsafe { copy_out(from.as_ptr(), out.as_mut_ptr(), out.len()) };
    }

    /// Copies `length` bytes out to the end of `out`, which grows.
    ///
    /// # Panics
    /// As [`PeerArena::copy_to`].
    pub fn append_to(&self, offset: usize, length: usize, out: &mut Vec<u8>) {
        let from = self.range(offset, length);
        out.reserve(length);
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `length` bytes are readable at `from` (invariants 1 and 2), and were just reserved
        // at `to`.
        unsafe { copy_out(from.as_ptr(), to, length) };
        // SAFETY: they are within the capacity, and have just been written.
        unsafe { out.set_len(out.len() + length) };
    }

    fn range(&self, offset: usize, length: usize) -> NonNull<u8> {
        assert!(
            offset <= self.map.length && length <= self.map.length - offset,
            "a claim that was checked"
        );
        // SAFETY: the range was just checked.
        unsafe { self.map.start.add(offset) }
    }
}

impl Words<Host> for OwnArena {
    fn count(&self) -> usize {
        RELEASE_WORDS
    }
    #[inline]
    fn word(&self, number: u16) -> &AtomicU32 {
        debug_assert_eq!(self.owner, Owner::Client);
        self.map.word(number)
    }
}

impl Words<Host> for PeerArena {
    fn count(&self) -> usize {
        RELEASE_WORDS
    }
    #[inline]
    fn word(&self, number: u16) -> &AtomicU32 {
        debug_assert_eq!(self.owner, Owner::Client);
        self.map.word(number)
    }
}

/// A part of an arena of one's own that nobody else in this process has: memory to write in place.
/// It is free again when it is dropped.
#[derive(Debug)]
pub struct Span {
    arena: Arc<OwnArena>,
    extent: Extent,
    length: usize,
}

impl Span {
    /// Where it begins in the arena, in bytes.
    #[must_use]
    #[inline]
    pub const fn offset(&self) -> usize {
        self.extent.offset
    }

    /// The arena that it is a part of.
    #[must_use]
    #[inline]
    pub const fn arena(&self) -> &Arc<OwnArena> {
        &self.arena
    }

    /// Makes it shorter; what it took stays taken.
    pub const fn shorten(&mut self, length: usize) {
        if length < self.length {
            self.length = length;
        }
    }

    /// How many bytes it takes from the arena.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.extent.bytes
    }
}

impl core::ops::Deref for Span {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the extent lies within the mapping (invariant 4).
        let start = unsafe { self.arena.map.start.add(self.extent.offset) };
        // SAFETY: invariants 1 to 4: mapped while the arena is held, initialised by Linux, written
        // only through this span's `&mut`; `length` is at most the extent's bytes.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), self.length) }
    }
}

impl core::ops::DerefMut for Span {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        let start = unsafe { self.arena.map.start.add(self.extent.offset) };
        // SAFETY: as in `deref`, and `&mut self` is the only way to this span.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), self.length) }
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        self.arena.room.lock().give(self.extent);
    }
}

#[cfg(test)]
mod tests {
    use super::{NoRoom, OwnArena, Owner, PeerArena};
    use crate::status::memory_file;
    use std::sync::Arc;

    #[test]
    fn what_is_written_in_place_is_copied_out_at_the_other_end() {
        let file = memory_file("arena", 16384).expect("a memfd");
        let other = file.try_clone().expect("a duplicate");
        assert!(PeerArena::map(file.try_clone().unwrap(), 16384, Owner::Client).is_err());
        let own = Arc::new(OwnArena::map(file, 16384, Owner::Client).expect("an arena"));
        let again = other.try_clone().expect("a duplicate");
        assert!(OwnArena::map(again, 16384, Owner::Client).is_err(), "a second writer");
        let again = other.try_clone().expect("a duplicate");
        assert!(PeerArena::map(again, 8192, Owner::Client).is_err(), "another size");
        let peer = PeerArena::map(other, 16384, Owner::Client).expect("a sealed arena");

        let mut first = own.take(5000).expect("room");
        let mut second = own.take(100).expect("room");
        first.fill(1);
        second.fill(2);
        assert_eq!((first.offset(), first.len(), second.len()), (4096, 5000, 100));
        let mut out = vec![9];
        peer.append_to(first.offset() + 4900, 100, &mut out);
        assert_eq!(out, [&[9][..], &[1; 100]].concat());
        let mut out = [0; 100];
        peer.copy_to(second.offset(), &mut out);
        assert_eq!(out, [2; 100]);
        assert_eq!(own.take(12288).err().map(|no| no.total), Some(12288));
        drop(first);
        let no_room = own.take(12288 - 128).err();
        assert_eq!(
            no_room,
            Some(NoRoom { longest: 12288 - 5056 - 128, left: 12288 - 128, total: 12288 })
        );
        drop(second);
        assert!(own.is_idle());
        assert_eq!(own.take(12288).expect("all of it").len(), 12288);

        assert!(peer.holds(4096, 12288));
        assert!(!peer.holds(4095, 1), "the release words are no lease");
        assert!(!peer.holds(4096, 12289) && !peer.holds(u64::from(u32::MAX) * 64, 1));
    }
}
