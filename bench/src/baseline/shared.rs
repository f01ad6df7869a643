//! Memory that two processes share: two halves, one per direction.
//!
//! # Safety
//!
//! The one island of unsafe code in the laboratory. Its invariants:
//!
//! 1. A mapping is as long as [`Area`], readable and writable, and lives exactly as long as the
//!    [`Shared`] that made it; the address never leaves but as a reference bound to that.
//! 2. The memfd behind it is as long as [`Area`] and sealed against shrinking before it is mapped,
//!    so no access can fault for lack of it.
//! 3. [`Area`] consists of atomics only: any bytes are a valid value, and writes by the other
//!    process at any moment are not data races.
//!
//! Unlike in Rendez proper, both processes may write everything. A baseline has no enemy.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Eight-byte words of payload in one direction. The first seven share a cache line with the turn.
const WORDS: usize = 511;

/// One direction.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Half {
    /// Number of the latest message, published after its payload.
    pub(super) turn: AtomicU32,
    unused: AtomicU32,
    words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Half>() == 4096);
const _: () = assert!(std::mem::offset_of!(Half, words) == 8);
const _: () = assert!(WORDS * 8 == crate::options::MAX_PAYLOAD);

impl Half {
    /// Copies the payload in, before the turn is published.
    #[inline(always)]
    pub(super) fn fill(&self, payload: &[u8]) {
        for (word, bytes) in self.words.iter().zip(payload.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            // ORDERING: Relaxed; the turn's Release, stored later, makes it visible.
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
    }

    /// Copies the payload out, after the turn was seen.
    #[inline(always)]
    pub(super) fn copy_out(&self, payload: &mut [u8]) {
        for (word, bytes) in self.words.iter().zip(payload.chunks_exact_mut(8)) {
            // ORDERING: Relaxed; the turn's Acquire, loaded earlier, made it visible.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }
}

/// Both directions.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Area {
    /// Written by the client.
    pub(super) request: Half,
    /// Written by the partner.
    pub(super) answer: Half,
}

/// A mapping of an [`Area`].
#[derive(Debug)]
pub(super) struct Shared {
    at: NonNull<Area>,
}

// SAFETY: invariant 3: an `Area` is nothing but atomics, for any thread to use.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes a new area, all zero, and the descriptor through which the partner maps it.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let memory = rustix::fs::memfd_create(
            "rendez-bench",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memory, size_of::<Area>() as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok((Self::map(&memory)?, memory))
    }

    /// Maps the area behind a descriptor that [`create`](Self::create) made.
    pub(super) fn map(memory: impl AsFd) -> io::Result<Self> {
        let memory = memory.as_fd();
        let length = rustix::fs::fstat(memory)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(memory)?;
        if u64::try_from(length) != Ok(size_of::<Area>() as u64)
            || !seals.contains(SealFlags::SHRINK)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the shared memory has the wrong size, or is not sealed",
            ));
        }
        // INVARIANT: 1 and 2, checked just above.
        // SAFETY: a new mapping at an address of Linux's choice overlays nothing.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                size_of::<Area>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                memory,
                0,
            )
        }?;
        let at = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at })
    }

    /// The area.
    #[inline]
    pub(super) fn area(&self) -> &Area {
        // SAFETY: invariants 1 to 3; a mapping is aligned to a page.
        unsafe { self.at.as_ref() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: invariant 1: nobody holds a reference any more, and nobody else unmaps it.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), size_of::<Area>()) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::Shared;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_area_see_the_same() {
        let (one, memory) = Shared::create().expect("a memfd");
        let two = Shared::map(&memory).expect("mapped again");
        one.area().request.fill(&[7; 64]);
        one.area().request.turn.store(3, Ordering::Release);
        assert_eq!(two.area().request.turn.load(Ordering::Acquire), 3);
        let mut out = [0; 64];
        two.area().request.copy_out(&mut out);
        assert_eq!(out, [7; 64]);
        two.area().answer.copy_out(&mut out);
        assert_eq!(out, [0; 64]);
    }

    #[test]
    fn what_is_not_such_an_area_is_refused() {
        let memory = rustix::fs::memfd_create("small", rustix::fs::MemfdFlags::CLOEXEC);
        assert!(Shared::map(memory.expect("a memfd")).is_err());
    }
}
