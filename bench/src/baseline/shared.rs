//! Memory that two processes share: two halves, one per direction.
//!
//! A half begins with a cache line that holds the number of the latest message, its **turn**, and up
//! to [`INLINE`] bytes; more follows in the lines after it. A mechanism takes one of two layouts:
//! *inline*, where the payload begins beside the turn, so that a short message is one line; or
//! *apart*, where the payload begins on the next line, as where a buffer and a flag are two things.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariants:
//!
//! 1. A mapping is `bytes` long, readable and writable, and lives exactly as long as the [`Mapping`]
//!    that made it; no address leaves but bound to a borrow of it or to a share in it.
//! 2. What lies behind it is as long, and stays so: a memfd is sealed against shrinking before it is
//!    mapped; a file has no name and its blocks are allocated. So no access can fault.
//! 3. [`Head`] consists of atomics only: any bytes are a valid value, and writes by the other
//!    process at any moment are not data races.
//! 4. The bytes after a head are reached through a [`Writer`] or a [`Reader`] alone. In one process
//!    there is one of each at a time, for different halves; between the processes the turn, or
//!    whatever says that a message is there, orders writing before reading. (Peers trust each
//!    other in this. Unlike in Rendez proper, both may write everything: a baseline has no enemy.)

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of payload that share a cache line with the turn.
pub(super) const INLINE: usize = 56;

/// Bytes before the first half. Semaphores are here.
const FRONT: usize = 4096;

/// The first line of a half.
#[repr(C, align(64))]
#[derive(Debug)]
struct Head {
    turn: AtomicU32,
    unused: AtomicU32,
    words: [AtomicU64; INLINE / 8],
}

const _: () = assert!(size_of::<Head>() == 64);
const _: () = assert!(std::mem::offset_of!(Head, words) == 8);

/// Which process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Partner,
}

/// A mapping with room for a message of some length in each direction.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: invariants 3 and 4: atomics, and bytes that are reached in turn only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(memory: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let length = rustix::fs::fstat(memory)?.st_size;
        if u64::try_from(length) != Ok(bytes as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the shared memory has {length} bytes where {bytes} were expected"),
            ));
        }
        // INVARIANT: 1, and the length in 2; that it stays is up to the callers.
        // SAFETY: a new mapping at an address of Linux's choice overlays nothing.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                memory,
                0,
            )
        }?;
        let at = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at, bytes })
    }

    /// Bytes of one half.
    fn half(&self) -> usize {
        (self.bytes - FRONT) / 2
    }

    fn head(&self, from: Side) -> &Head {
        let at = match from {
            Side::Client => FRONT,
            Side::Partner => FRONT + self.half(),
        };
        // SAFETY: invariant 1; both halves begin within the mapping, each on a page.
        let head = unsafe { self.at.add(at) }.cast();
        // SAFETY: invariants 1 to 3; a page is aligned enough for a line.
        unsafe { head.as_ref() }
    }

    /// The turn that this side publishes.
    pub(super) fn turn(&self, from: Side) -> &AtomicU32 {
        &self.head(from).turn
    }

    /// Room of 64 bytes for what this side tells the other by, on a line pair of its own, zero in
    /// the beginning.
    pub(super) fn front(&self, from: Side) -> NonNull<[u8; 64]> {
        let at = match from {
            Side::Client => 0,
            Side::Partner => 128,
        };
        // SAFETY: invariant 1; less than `FRONT`.
        unsafe { self.at.add(at) }.cast()
    }

    /// The bytes after the head.
    fn rest(&self, from: Side) -> (NonNull<u8>, usize) {
        let head = NonNull::from(self.head(from)).cast::<u8>();
        let at = head.as_ptr().addr() - self.at.as_ptr().addr() + size_of::<Head>();
        // SAFETY: invariant 1; a half is longer than its head.
        (unsafe { self.at.add(at) }, self.half() - size_of::<Head>())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: invariant 1: nobody holds an address any more, and nobody else unmaps it.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped");
    }
}

/// A process's only way into a mapping's payloads.
#[derive(Debug)]
pub(super) struct Shared {
    mapping: Arc<Mapping>,
    side: Side,
}

/// Bytes of a mapping whose halves hold messages of that length in either layout.
fn length(payload_bytes: usize) -> usize {
    FRONT + 2 * (size_of::<Head>() + payload_bytes).next_multiple_of(4096)
}

impl Shared {
    /// The client's: new memory, all zero, and the descriptor through which the partner maps it.
    pub(super) fn create(payload_bytes: usize) -> io::Result<(Self, OwnedFd)> {
        let memory = rustix::fs::memfd_create(
            "rendez-bench",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memory, length(payload_bytes) as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let mapping = Arc::new(Mapping::new(memory.as_fd(), length(payload_bytes))?);
        Ok((Self { mapping, side: Side::Client }, memory))
    }

    /// The client's, in a new file without a name.
    pub(super) fn create_file(payload_bytes: usize) -> io::Result<(Self, OwnedFd)> {
        let file: File = tempfile::tempfile()?;
        // A page that the disk has no room for would be a fault later.
        let bytes = length(payload_bytes);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
        let mapping = Arc::new(Mapping::new(file.as_fd(), bytes)?);
        Ok((Self { mapping, side: Side::Client }, file.into()))
    }

    /// The partner's: what lies behind a descriptor that [`create`](Self::create) made.
    pub(super) fn map(memory: impl AsFd, payload_bytes: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(memory.as_fd())?;
        if !seals.contains(SealFlags::SHRINK) {
            let text = "the shared memory is not sealed";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Self::map_file(memory, payload_bytes)
    }

    /// The partner's: what lies behind a descriptor that [`create_file`](Self::create_file) made.
    pub(super) fn map_file(memory: impl AsFd, payload_bytes: usize) -> io::Result<Self> {
        let mapping = Arc::new(Mapping::new(memory.as_fd(), length(payload_bytes))?);
        Ok(Self { mapping, side: Side::Partner })
    }

    /// The mapping, for what can be reached at any time.
    pub(super) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// The half that this process writes, and the one that it reads.
    pub(super) fn ends(&mut self) -> (Writer<'_>, Reader<'_>) {
        let other = match self.side {
            Side::Client => Side::Partner,
            Side::Partner => Side::Client,
        };
        let (writer, reader) = (self.mapping.rest(self.side), self.mapping.rest(other));
        let (written, read) = (self.mapping.head(self.side), self.mapping.head(other));
        (
            Writer { turn: &written.turn, words: &written.words, rest: writer.0, bytes: writer.1 },
            Reader { turn: &read.turn, words: &read.words, rest: reader.0, bytes: reader.1 },
        )
    }
}

/// The half that this process writes.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    /// Number of the latest message, published after its payload.
    pub(super) turn: &'a AtomicU32,
    words: &'a [AtomicU64; INLINE / 8],
    rest: NonNull<u8>,
    bytes: usize,
}

impl Writer<'_> {
    /// Copies a payload in, inline, before the turn is published. What is beyond the first line goes
    /// first: the reader looks at that line all the time, and takes it away from under the writer.
    #[inline(always)]
    pub(super) fn fill(&mut self, payload: &[u8]) {
        if let Some(rest) = payload.get(INLINE..) {
            self.fill_apart(rest);
        }
        for (word, bytes) in self.words.iter().zip(payload.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            // ORDERING: Relaxed; the turn's Release, stored later, makes it visible.
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
    }

    /// Copies a payload in, apart from the turn.
    #[inline(always)]
    pub(super) fn fill_apart(&mut self, payload: &[u8]) {
        assert!(payload.len() <= self.bytes, "a payload longer than the setting's");
        // SAFETY: invariants 1 and 4; that many bytes are there, as was checked just now.
        unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), self.rest.as_ptr(), payload.len()) }
    }
}

/// The half that this process reads.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// Number of the latest message.
    pub(super) turn: &'a AtomicU32,
    words: &'a [AtomicU64; INLINE / 8],
    rest: NonNull<u8>,
    bytes: usize,
}

impl Reader<'_> {
    /// Copies a payload out that was written inline, after its turn was seen.
    #[inline(always)]
    pub(super) fn copy_out(&mut self, payload: &mut [u8]) {
        for (word, bytes) in self.words.iter().zip(payload.chunks_exact_mut(8)) {
            // ORDERING: Relaxed; the turn's Acquire, loaded earlier, made it visible.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        if let Some(rest) = payload.get_mut(INLINE..) {
            self.copy_out_apart(rest);
        }
    }

    /// Copies a payload out that was written apart from the turn.
    #[inline(always)]
    pub(super) fn copy_out_apart(&mut self, payload: &mut [u8]) {
        assert!(payload.len() <= self.bytes, "a payload longer than the setting's");
        // SAFETY: invariants 1 and 4; that many bytes are there, as was checked just now.
        unsafe { ptr::copy_nonoverlapping(self.rest.as_ptr(), payload.as_mut_ptr(), payload.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{INLINE, Shared, Side};
    use std::sync::atomic::Ordering;

    #[test]
    fn either_layout_carries_any_length() {
        for bytes in [8, INLINE, INLINE + 8, 4096, 1 << 20] {
            let (mut one, memory) = Shared::create(bytes).expect("a memfd");
            let mut two = Shared::map(&memory, bytes).expect("mapped again");
            let payload: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let mut out = vec![0; bytes];

            let (mut writer, _) = one.ends();
            let (_, mut reader) = two.ends();
            writer.fill(&payload);
            writer.turn.store(3, Ordering::Release);
            assert_eq!(reader.turn.load(Ordering::Acquire), 3);
            reader.copy_out(&mut out);
            assert_eq!(out, payload);

            let (mut writer, _) = two.ends();
            let (_, mut reader) = one.ends();
            writer.fill_apart(&payload);
            out.fill(0);
            reader.copy_out_apart(&mut out);
            assert_eq!(out, payload);
        }
    }

    #[test]
    fn a_file_without_a_name_does_as_well() {
        let (mut one, file) = Shared::create_file(4096).expect("a file");
        let mut two = Shared::map_file(&file, 4096).expect("mapped again");
        one.ends().0.fill_apart(&[7; 4096]);
        let mut out = [0; 4096];
        two.ends().1.copy_out_apart(&mut out);
        assert_eq!(out, [7; 4096]);
        assert_ne!(one.mapping().front(Side::Client), one.mapping().front(Side::Partner));
    }

    #[test]
    fn what_is_not_such_memory_is_refused() {
        let memory = rustix::fs::memfd_create("small", rustix::fs::MemfdFlags::CLOEXEC);
        assert!(Shared::map(memory.expect("a memfd"), 8).is_err());
        let (_, memory) = Shared::create(8).expect("a memfd");
        assert!(Shared::map(memory, 1 << 20).is_err());
    }
}
