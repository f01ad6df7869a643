//! Segments of connections, mapped: where the memory of messages becomes Rust values.
//!
//! # Safety
//! This file is an island of `unsafe`. Its invariants, cited by number below:
//!
//! 1. *Mapped for life.* A [`Mapping`]'s memory stays mapped, at the same place and length, until
//!    the value is dropped; nothing that it lends outlives it.
//! 2. *One writer.* A segment's length is fixed from the beginning (`GROW | SHRINK`); its owner
//!    seals it `FUTURE_WRITE | SEAL` once it is mapped and populated, and the kernel hands it to
//!    nobody else before it has seen all four. So its bytes are written by its owner alone and a
//!    load cannot fault. [`PeerSegment`] checks seals, size and that no page is a hole itself.
//! 3. *No references to bytes that change.* Memory that a peer writes is seen as atomics, or is
//!    copied out by `copy_out`; there is never a `&[u8]` to it.
//! 4. *No stores to what is mapped for reading.* Only [`Ours`](crate::half::Ours) stores, and it is
//!    made from an [`OwnSegment`] alone.

use crate::layout::{Head, Line};
use crate::platform::{Area, Half, Host};
use core::ptr::NonNull;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use rendez_protocol::kernel::{SEGMENT_HEADER_BYTES, Shape};
use rendez_protocol::limit::LINE_BYTES;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The seals that make a segment safe to read.
pub const SEALS: SealFlags =
    SealFlags::FUTURE_WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// The payload area of a mapped segment.
#[derive(Debug)]
pub struct Bytes {
    start: NonNull<u8>,
    length: usize,
}

/// A segment mapped into this process, for writing or for reading.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
    lines: u32,
    area: Bytes,
}

// SAFETY: invariants 1 and 3: the memory is reached through atomics, or through copies whose ranges
// the ring hands to one thread at a time; nothing is tied to the thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

/// This task's own segment of a connection, mapped for writing and populated.
#[derive(Debug)]
pub struct OwnSegment(Mapping);

/// The peer's segment of a connection, sealed, mapped for reading.
#[derive(Debug)]
pub struct PeerSegment(Mapping);

impl OwnSegment {
    /// Maps the memfd that the kernel made for this task, populates it, keeps it out of forked
    /// children, seals it, so that this mapping is the last that writes, and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says, `InvalidInput` if `shape` is not valid, or the descriptor is of another size.
    pub fn map(descriptor: OwnedFd, shape: Shape) -> io::Result<Self> {
        let mapping =
            Mapping::map(&descriptor, shape, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        mapping.advise(MmapAdvise::MADV_POPULATE_WRITE)?;
        mapping.advise(MmapAdvise::MADV_DONTFORK)?;
        // Here and not in the kernel: adding a seal can wait for whoever else has the file.
        fcntl_add_seals(&descriptor, SEALS)?;
        Ok(Self(mapping))
    }

    /// The mapping, for [`Ours::over`](crate::half::Ours::over) alone: invariant 4.
    pub(crate) fn into_mapping(self) -> Mapping {
        self.0
    }
}

impl PeerSegment {
    /// Checks that the peer's segment is sealed, of the right size and without holes, maps it for
    /// reading with every page in place, and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says; `InvalidData` if the segment is not what the kernel promises.
    pub fn map(descriptor: OwnedFd, shape: Shape) -> io::Result<Self> {
        check_sealed(&descriptor, shape.segment_bytes())?;
        let mapping = Mapping::map(&descriptor, shape, ProtFlags::PROT_READ)?;
        // What is wrong with a page is an error now, and no signal later.
        mapping.advise(MmapAdvise::MADV_POPULATE_READ)?;
        mapping.advise(MmapAdvise::MADV_DONTFORK)?;
        Ok(Self(mapping))
    }

    /// The mapping, for [`Theirs::over`](crate::half::Theirs::over).
    pub(crate) fn into_mapping(self) -> Mapping {
        self.0
    }
}

/// Checks that a memfd carries all of [`SEALS`], is `bytes` long and has no hole.
///
/// # Errors
/// What Linux says; `InvalidData` naming what is wrong.
pub fn check_sealed(descriptor: impl AsFd, bytes: usize) -> io::Result<()> {
    check_sealed_with(descriptor, bytes as u64, SEALS)
}

/// As [`check_sealed`], for other seals.
pub(crate) fn check_sealed_with(
    descriptor: impl AsFd,
    bytes: u64,
    wanted: SealFlags,
) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let seals = fcntl_get_seals(&descriptor)?;
    if !seals.contains(wanted) {
        return wrong(format!("a segment lacks the seals {:?}", wanted - seals));
    }
    let stat = fstat(&descriptor)?;
    if u64::try_from(stat.st_size) != Ok(bytes) {
        return wrong(format!("a segment is {} bytes long instead of {bytes}", stat.st_size));
    }
    if (stat.st_blocks as u64).saturating_mul(512) < bytes {
        return wrong("a segment has holes".into());
    }
    Ok(())
}

impl Mapping {
    fn map(descriptor: &OwnedFd, shape: Shape, protection: ProtFlags) -> io::Result<Self> {
        if !shape.is_valid() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a segment's shape is not valid",
            ));
        }
        let length = shape.segment_bytes();
        if u64::try_from(fstat(descriptor)?.st_size) != Ok(length as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a segment's size is not its shape's",
            ));
        }
        let size = core::num::NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at a place that Linux chooses disturbs no memory that exists.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, descriptor, 0) }?
            .cast::<u8>();
        let area_at = length - shape.area_bytes as usize;
        // SAFETY: `area_at` is within the `length` bytes just mapped.
        let area_start = unsafe { start.add(area_at) };
        Ok(Self {
            start,
            length,
            lines: shape.lines,
            area: Bytes { start: area_start, length: shape.area_bytes as usize },
        })
    }

    fn advise(&self, advice: MmapAdvise) -> io::Result<()> {
        // SAFETY: invariant 1; no advice that is given changes what the memory holds.
        unsafe { madvise(self.start.cast(), self.length, advice) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: invariant 1: mapped by `map` with this length, and nothing borrows it any more.
        // It cannot fail for a range that is mapped.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

impl Half<Host> for Mapping {
    #[inline]
    fn head(&self) -> &Head<Host> {
        // SAFETY: invariants 1 and 3: mapped, page-aligned, at least SEGMENT_HEADER_BYTES long; the
        // type is made of atomics, for which every bit pattern is valid.
        unsafe { self.start.cast::<Head<Host>>().as_ref() }
    }

    #[inline]
    fn lines(&self) -> u32 {
        self.lines
    }

    #[inline]
    fn line(&self, index: u64) -> &Line<Host> {
        let offset =
            SEGMENT_HEADER_BYTES + (index as usize & (self.lines as usize - 1)) * LINE_BYTES;
        // SAFETY: the masked index is below `lines` (a power of two), and `Shape::segment_bytes`
        // counts header and lines in.
        let line = unsafe { self.start.add(offset) }.cast::<Line<Host>>();
        // SAFETY: invariants 1 and 3: mapped, aligned to a line since the header's size is a
        // multiple of one; atomics only.
        unsafe { line.as_ref() }
    }

    #[inline]
    fn fetch_to_write(&self, index: u64) {
        prefetch_write(core::ptr::from_ref(self.line(index)));
    }

    #[inline]
    fn fetch_to_read(&self, index: u64) {
        prefetch(core::ptr::from_ref(self.line(index)));
    }

    #[inline]
    fn area(&self) -> &Bytes {
        &self.area
    }
}

impl Area for Bytes {
    #[inline]
    fn bytes(&self) -> usize {
        self.length
    }

    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.length && bytes.len() <= self.length - offset,
            "range checked by the ring"
        );
        // SAFETY: the range was just checked.
        let to = unsafe { self.start.add(offset) };
        // SAFETY: invariants 1, 2 and 4: mapped for writing by its only writer; the ring gives a
        // range to one writer at a time. `bytes` is private memory and cannot overlap.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    #[inline]
    fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(
            offset <= self.length && out.len() <= self.length - offset,
            "range checked by the ring"
        );
        // SAFETY: the range was just checked.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: `out.len()` bytes are readable at `from` (invariants 1 and 2) and writable at `out`.
        unsafe { copy_out(from.as_ptr(), out.as_mut_ptr(), out.len()) };
    }
}

/// Copies memory that a peer may be changing. One instruction that the compiler cannot look into,
/// so whatever arrives is a value and no data race; two to three times as fast as words, at 4 KiB.
///
/// # Safety
/// `length` bytes are readable at `from`, writable at `to`, and do not overlap.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn copy_out(from: *const u8, to: *mut u8, length: usize) {
    if length <= WORDS_BYTES_MAX {
        // SAFETY: the caller's contract.
        unsafe { copy_words(from, to, length) };
        return;
    }
    // SAFETY: the caller's contract; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Up to this many bytes, the instruction takes longer to start than the words take.
#[cfg(target_arch = "x86_64")]
const WORDS_BYTES_MAX: usize = 128;

/// As the other `copy_out`, for processors without that instruction.
///
/// # Safety
/// As there.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn copy_out(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's contract.
    unsafe { copy_words(from, to, length) };
}

/// Copies memory that a peer may be changing, word by word as relaxed atomics.
///
/// # Safety
/// `length` bytes are readable at `from`, writable at `to`, and do not overlap.
#[inline]
unsafe fn copy_words(from: *const u8, to: *mut u8, length: usize) {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    let mut at = 0;
    while at < length {
        // SAFETY: `at < length`, within the caller's range.
        let source = unsafe { from.add(at) };
        // SAFETY: as above.
        let target = unsafe { to.add(at) };
        if source.cast::<u64>().is_aligned() && length - at >= 8 {
            // SAFETY: eight readable bytes, aligned; only loaded, as an atomic.
            let word = unsafe { &*source.cast::<AtomicU64>() }.load(Ordering::Relaxed);
            // SAFETY: eight writable bytes of private memory.
            unsafe { target.cast::<u64>().write_unaligned(word) };
            at += 8;
        } else {
            // SAFETY: one readable byte; only loaded, as an atomic.
            let byte = unsafe { &*source.cast::<AtomicU8>() }.load(Ordering::Relaxed);
            // SAFETY: one writable byte of private memory.
            unsafe { target.write(byte) };
            at += 1;
        }
    }
}

/// Asks the processor to fetch the cache line of `address`, for reading. A hint: it never faults.
#[inline]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is a hint that changes nothing and cannot fault.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// As [`prefetch`], for writing: the line is taken from whoever has it.
#[inline]
pub(crate) fn prefetch_write<T>(address: *const T) {
    // The intrinsic's hint for writing becomes one for reading unless the target is told of the
    // instruction, which every x86-64 processor takes, if only as one that does nothing.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`; it touches no register, flag or memory that the compiler knows of.
    unsafe {
        core::arch::asm!(
            "prefetchw byte ptr [{address}]",
            address = in(reg) address,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches all of a private value.
#[inline]
pub(crate) fn prefetch_all<T>(value: &T) {
    let start = core::ptr::from_ref(value).cast::<u8>();
    for line in (0..size_of::<T>()).step_by(64) {
        prefetch(start.wrapping_add(line));
    }
}

#[cfg(test)]
mod tests {
    use super::{OwnSegment, PeerSegment, SEALS};
    use crate::status::memory_file;
    use rendez_protocol::kernel::Shape;

    #[test]
    fn the_owner_seals_what_it_has_mapped() {
        let shape = Shape::default();
        let file = memory_file("test", shape.segment_bytes()).unwrap();
        assert!(PeerSegment::map(file.try_clone().unwrap(), shape).is_err(), "not sealed");
        let own = OwnSegment::map(file.try_clone().unwrap(), shape).unwrap();
        assert!(rustix::fs::fcntl_get_seals(&file).unwrap().contains(SEALS));
        assert!(OwnSegment::map(file.try_clone().unwrap(), shape).is_err(), "a second writer");
        PeerSegment::map(file, shape).unwrap();
        drop(own);
    }
}
