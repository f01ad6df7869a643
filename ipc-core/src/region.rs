//! Regions, mapped: memory as a capability, and what may be done with it.
//!
//! A *sealed* region nobody can write any more, so it is a real `&[u8]`: the one exception to the
//! rule that a peer's memory is never one. A *published* one its maker goes on writing and all
//! others read by copies. A *shared* one is read and written by copies by all who have it.
//!
//! # Safety
//! This file is an island of `unsafe`. Its invariants, cited by number below:
//!
//! 1. *Mapped for life.* A `Map`'s memory stays mapped, at the same place and length, until the
//!    value is dropped; nothing that it lends outlives it.
//! 2. *No fault.* The file cannot shrink (`SHRINK`, or nobody but us and the kernel has it yet) and
//!    has no hole, checked under its seals: every page is there.
//! 3. *Sealed stands still.* A [`SealedRegion`] carries `F_SEAL_WRITE`, checked by the mapper
//!    itself: no mapping that writes exists, none can be made, and `write` is refused; so nothing
//!    changes it and a `&[u8]` to it is sound. Mapped `MAP_PRIVATE`, as older Linux wants it.
//! 4. *One writer before the seal, and of a published region.* A [`RegionMut`] is the only mapping
//!    of a file that the kernel gives nobody else before it is sealed, and after `FUTURE_WRITE` the
//!    only one that can write; it is not `Clone`. So its bytes can be a `&mut [u8]`.
//! 5. *No references to bytes that others change.* [`PublishedRegion`] and [`SharedRegion`] have no
//!    method that lends; they copy by an instruction, or by atomics, that the compiler cannot look
//!    into.

use crate::segment::{SEALS, check_sealed_with, copy_out};
use core::ptr::NonNull;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The seals of a region that nobody writes any more.
pub const SEALED: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: memory is reached through borrows of the value that owns it, or by copies; nothing is tied
// to the thread that mapped it.
unsafe impl Send for Map {}
// SAFETY: as for `Send`; `&self` only reads, or copies as invariant 5 says.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &OwnedFd, bytes: u64, protection: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        if u64::try_from(fstat(file)?.st_size) != Ok(bytes) {
            let what = "a region's size is not what the kernel said";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let size = core::num::NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at a place that Linux chooses disturbs no memory that exists.
        let start = unsafe { mmap(None, size, protection, flags, file, 0) }?.cast();
        Ok(Self { start, length })
    }

    /// Where `length` bytes at `offset` begin; `None` if they are not all within.
    fn range(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        let within = offset <= self.length && length <= self.length - offset;
        // SAFETY: the range was just checked.
        within.then(|| unsafe { self.start.add(offset) })
    }

    fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        let bytes = self.length.saturating_sub(offset).min(out.len());
        if let Some(from) = self.range(offset.min(self.length), bytes) {
            // SAFETY: `bytes` bytes are readable at `from` (invariants 1 and 2) and writable at `out`.
            unsafe { copy_out(from.as_ptr(), out.as_mut_ptr(), bytes) };
        }
        bytes
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: invariant 1: mapped by `new` with this length, and nothing borrows it any more.
        // It cannot fail for a range that is mapped.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// A new region's file, to be filled: through a mapping ([`NewRegion::map`]) or from another file
/// ([`NewRegion::fill_from`]). Nobody else has it but the kernel, which gives it to nobody yet.
#[derive(Debug)]
pub struct NewRegion {
    file: OwnedFd,
    bytes: u64,
}

impl NewRegion {
    /// The file that the kernel has made for this task.
    #[must_use]
    pub const fn new(file: OwnedFd, bytes: u64) -> Self {
        Self { file, bytes }
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies a file's content into it, from its beginning, at most as much as fits: within Linux,
    /// once, past this process. Answers how many bytes there were; the rest is zero.
    ///
    /// # Errors
    /// What Linux says.
    pub fn fill_from(&mut self, source: impl AsFd) -> io::Result<u64> {
        let mut done = 0;
        while done < self.bytes {
            let (mut from, mut to) = (done, done);
            // What one call moves is bounded by Linux at 2 GiB.
            let wanted = usize::try_from(self.bytes - done).unwrap_or(usize::MAX).min(1 << 30);
            let moved = rustix::fs::copy_file_range(
                &source,
                Some(&mut from),
                &self.file,
                Some(&mut to),
                wanted,
            );
            match moved {
                Ok(0) => break,
                Ok(moved) => done += moved as u64,
                Err(Errno::INTR) => {}
                // Between these two file systems Linux does not: by `sendfile` then.
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    done = self.send_from(&source, done)?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // What was not written must be there all the same.
        if done < self.bytes {
            fallocate(&self.file, FallocateFlags::empty(), done, self.bytes - done)?;
        }
        Ok(done)
    }

    fn send_from(&self, source: impl AsFd, mut done: u64) -> io::Result<u64> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(done))?;
        while done < self.bytes {
            let mut from = done;
            let wanted = usize::try_from(self.bytes - done).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::sendfile(&self.file, &source, Some(&mut from), wanted) {
                Ok(0) => break,
                Ok(moved) => done += moved as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Fills it with `bytes` from its beginning, as many as fit; the rest is zero.
    ///
    /// # Errors
    /// What Linux says.
    pub fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let mut done = 0;
        while done < fits {
            match rustix::io::pwrite(&self.file, &bytes[done..fits], done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let left = self.bytes - done as u64;
        if left > 0 {
            fallocate(&self.file, FallocateFlags::empty(), done as u64, left)?;
        }
        Ok(())
    }

    /// Maps it, with every page in place, to be written.
    ///
    /// # Errors
    /// What Linux says.
    pub fn map(self) -> io::Result<RegionMut> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let map = Map::new(&self.file, self.bytes, protection, MapFlags::MAP_SHARED)?;
        // SAFETY: invariant 1; the advice changes nothing of what the memory holds.
        unsafe { madvise(map.start.cast(), map.length, MmapAdvise::MADV_POPULATE_WRITE) }?;
        // SAFETY: as before. A child's copy of the mapping would be a second one that writes.
        unsafe { madvise(map.start.cast(), map.length, MmapAdvise::MADV_DONTFORK) }?;
        Ok(RegionMut { map, file: self.file })
    }

    /// Seals it: nobody writes it any more.
    ///
    /// # Errors
    /// What Linux says.
    pub fn seal(self) -> io::Result<()> {
        Ok(fcntl_add_seals(&self.file, SEALED)?)
    }
}

/// A region that this task alone can write, mapped.
#[derive(Debug)]
pub struct RegionMut {
    map: Map,
    file: OwnedFd,
}

impl RegionMut {
    /// Seals it: nobody writes it any more, this task included.
    ///
    /// # Errors
    /// What Linux says.
    pub fn seal(self) -> io::Result<()> {
        let Self { map, file } = self;
        // Linux refuses the seal while a mapping writes.
        drop(map);
        Ok(fcntl_add_seals(&file, SEALED)?)
    }

    /// Publishes it: this mapping goes on writing, and nobody else ever can.
    ///
    /// # Errors
    /// What Linux says.
    pub fn publish(self) -> io::Result<PublishedMut> {
        fcntl_add_seals(&self.file, SEALS)?;
        Ok(PublishedMut { map: self.map })
    }
}

/// The mapping by which its maker goes on writing a published region.
#[derive(Debug)]
pub struct PublishedMut {
    map: Map,
}

macro_rules! written_in_place {
    ($type:ty) => {
        impl core::ops::Deref for $type {
            type Target = [u8];
            fn deref(&self) -> &[u8] {
                // SAFETY: invariants 1, 2 and 4: mapped, every page there, written only through the
                // `&mut` of this value.
                unsafe { core::slice::from_raw_parts(self.map.start.as_ptr(), self.map.length) }
            }
        }

        impl core::ops::DerefMut for $type {
            fn deref_mut(&mut self) -> &mut [u8] {
                // SAFETY: as in `deref`; `&mut self` is the only way to these bytes.
                unsafe { core::slice::from_raw_parts_mut(self.map.start.as_ptr(), self.map.length) }
            }
        }
    };
}
written_in_place!(RegionMut);
written_in_place!(PublishedMut);

/// A sealed region, mapped: bytes that nobody can change.
#[derive(Debug)]
pub struct SealedRegion {
    map: Map,
}

impl SealedRegion {
    /// Checks seals, size and that there is no hole, maps it and closes the descriptor. Pages are put
    /// in place as they are looked at.
    ///
    /// # Errors
    /// What Linux says; `InvalidData` if it is not what the kernel promises.
    pub fn map(file: OwnedFd, bytes: u64) -> io::Result<Self> {
        check_sealed_with(&file, bytes, SEALED)?;
        let map = Map::new(&file, bytes, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
        Ok(Self { map })
    }
}

impl core::ops::Deref for SealedRegion {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: invariants 1, 2 and 3.
        unsafe { core::slice::from_raw_parts(self.map.start.as_ptr(), self.map.length) }
    }
}

/// Somebody else's published region, mapped for reading.
#[derive(Debug)]
pub struct PublishedRegion {
    map: Map,
}

impl PublishedRegion {
    /// Checks seals, size and that there is no hole, maps it and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says; `InvalidData` if it is not what the kernel promises.
    pub fn map(file: OwnedFd, bytes: u64) -> io::Result<Self> {
        check_sealed_with(&file, bytes, SEALS)?;
        let map = Map::new(&file, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
        Ok(Self { map })
    }
}

/// A shared region, mapped for reading and writing.
#[derive(Debug)]
pub struct SharedRegion {
    map: Map,
}

impl SharedRegion {
    /// Checks that its size stands, maps it and closes the descriptor.
    ///
    /// # Errors
    /// What Linux says; `InvalidData` if it is not what the kernel promises.
    pub fn map(file: OwnedFd, bytes: u64) -> io::Result<Self> {
        let size = SealFlags::GROW.union(SealFlags::SHRINK).union(SealFlags::SEAL);
        if !fcntl_get_seals(&file)?.contains(size) {
            let what = "the size of a shared region is not sealed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let map = Map::new(&file, bytes, protection, MapFlags::MAP_SHARED)?;
        // A hole in it is filled on the first touch, or now: a page that Linux has none for is an
        // error here and no signal later. A hole that a writer punches is filled again likewise.
        // SAFETY: invariant 1; the advice changes nothing of what the memory holds.
        unsafe { madvise(map.start.cast(), map.length, MmapAdvise::MADV_POPULATE_WRITE) }?;
        Ok(Self { map })
    }

    /// Writes `bytes` at `offset`, as many as fit; answers how many. Others may see any part of it
    /// at any time.
    pub fn copy_from(&self, offset: usize, bytes: &[u8]) -> usize {
        let count = self.map.length.saturating_sub(offset).min(bytes.len());
        if let Some(to) = self.map.range(offset.min(self.map.length), count) {
            // SAFETY: `count` bytes are readable at `bytes` and writable at `to` (invariants 1 and
            // 2); what others write there meanwhile meets the copy of invariant 5.
            unsafe { copy_in(bytes.as_ptr(), to.as_ptr(), count) };
        }
        count
    }
}

macro_rules! read_by_copies {
    ($type:ty) => {
        impl $type {
            /// How many bytes it has.
            #[must_use]
            pub const fn len(&self) -> usize {
                self.map.length
            }

            /// Whether it has none, which no region has.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.map.length == 0
            }

            /// Copies bytes from `offset` on into `out`; answers how many there were. They may
            /// change meanwhile: what arrives is old, new, or a mixture.
            pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
                self.map.copy_to(offset, out)
            }
        }
    };
}
read_by_copies!(PublishedRegion);
read_by_copies!(SharedRegion);

/// Copies private memory to where others read and write at any time.
///
/// # Safety
/// `length` bytes are readable at `from`, writable at `to`, and do not overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_in(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the same contract; one instruction that the compiler cannot look into.
    unsafe { copy_out(from, to, length) };
}

/// Copies private memory to where others read and write at any time, byte by byte as atomics.
///
/// # Safety
/// `length` bytes are readable at `from`, writable at `to`, and do not overlap.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_in(from: *const u8, to: *mut u8, length: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    for at in 0..length {
        // SAFETY: `at < length`, within the caller's range.
        let source = unsafe { from.add(at) };
        // SAFETY: as above.
        let target = unsafe { to.add(at) };
        // SAFETY: one readable byte of private memory.
        let byte = unsafe { source.read() };
        // SAFETY: one byte, only ever seen as an atomic by us.
        unsafe { &*target.cast::<AtomicU8>() }.store(byte, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{NewRegion, PublishedRegion, SEALED, SealedRegion, SharedRegion};
    use crate::status::memory_file;
    use rustix::fs::{SealFlags, fcntl_add_seals};
    use std::os::fd::OwnedFd;

    const BYTES: u64 = 3 * 4096;

    fn new() -> (NewRegion, OwnedFd) {
        let file = memory_file("region", BYTES as usize).expect("a memfd");
        let other = file.try_clone().expect("a duplicate");
        (NewRegion::new(file, BYTES), other)
    }

    #[test]
    fn a_sealed_region_is_a_slice_that_nobody_can_change() {
        let (region, file) = new();
        let again = file.try_clone().unwrap();
        assert!(SealedRegion::map(again, BYTES).is_err(), "it is not sealed yet");
        let mut region = region.map().expect("mapped");
        region.fill(3);
        region[4096] = 9;
        region.seal().expect("no mapping that writes is left");
        let again = || file.try_clone().unwrap();
        let sealed = SealedRegion::map(again(), BYTES).expect("sealed");
        assert_eq!((sealed.len(), sealed[0], sealed[4096]), (BYTES as usize, 3, 9));
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        assert!(NewRegion::new(again(), BYTES).map().is_err(), "no mapping that writes");
        assert!(SealedRegion::map(again(), BYTES + 4096).is_err(), "another size");
        assert!(PublishedRegion::map(again(), BYTES).is_err(), "another kind");
        drop(file);
        assert_eq!(sealed[4096], 9, "the mapping stays");
    }

    #[test]
    fn a_region_with_a_hole_is_not_mapped() {
        let (region, file) = new();
        region.seal().expect("sealed");
        assert!(SealedRegion::map(file, BYTES).is_err());
    }

    #[test]
    fn a_region_is_filled_from_a_file_of_whatever_length() {
        for (length, name) in
            [(0, "empty"), (5000, "short"), (BYTES as usize, "whole"), (20_000, "long")]
        {
            let source = tempfile(length);
            let (mut region, file) = new();
            let expected = length.min(BYTES as usize);
            assert_eq!(region.fill_from(&source).expect("copied"), expected as u64, "{name}");
            region.seal().expect("sealed");
            let sealed = SealedRegion::map(file, BYTES).expect("no hole");
            assert!(sealed[..expected].iter().enumerate().all(|(at, byte)| *byte == at as u8));
            assert!(sealed[expected..].iter().all(|byte| *byte == 0), "{name}");
        }
        let (mut region, file) = new();
        region.fill(b"short").expect("written");
        region.seal().expect("sealed");
        assert_eq!(&SealedRegion::map(file, BYTES).expect("no hole")[..6], b"short\0");
    }

    /// An unnamed file of Linux's temporary directory with `length` bytes.
    fn tempfile(length: usize) -> OwnedFd {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR).unwrap();
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        assert_eq!(rustix::io::pwrite(&file, &bytes, 0).unwrap(), length);
        file
    }

    #[test]
    fn a_published_region_is_written_by_its_maker_alone() {
        let (region, file) = new();
        let mut own = region.map().expect("mapped").publish().expect("published");
        let theirs = PublishedRegion::map(file.try_clone().unwrap(), BYTES).expect("published");
        own[5000] = 7;
        let mut out = [0; 2];
        assert_eq!((theirs.copy_to(4999, &mut out), out), (2, [0, 7]));
        assert_eq!(theirs.copy_to(BYTES as usize - 1, &mut out), 1);
        assert_eq!(theirs.copy_to(usize::MAX, &mut out), 0);
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        assert!(NewRegion::new(file, BYTES).map().is_err(), "no second writer");
    }

    #[test]
    fn a_shared_region_is_written_by_all() {
        let file = memory_file("region", BYTES as usize).expect("a memfd");
        assert!(SharedRegion::map(file.try_clone().unwrap(), BYTES).is_err(), "size not sealed");
        fcntl_add_seals(&file, SealFlags::SEAL).expect("as the kernel does");
        let one = SharedRegion::map(file.try_clone().unwrap(), BYTES).expect("shared");
        let two = SharedRegion::map(file, BYTES).expect("shared");
        assert_eq!(one.copy_from(4090, b"across a page"), 13);
        assert_eq!(two.copy_from(4090, b"A"), 1);
        let mut out = [0; 13];
        assert_eq!(one.copy_to(4090, &mut out), 13);
        assert_eq!(&out, b"Across a page");
        assert_eq!(two.copy_from(BYTES as usize - 2, b"xyz"), 2);
        assert_eq!((two.copy_from(usize::MAX, b"x"), one.len()), (0, BYTES as usize));
        assert!(SEALED.contains(SealFlags::WRITE));
    }
}
