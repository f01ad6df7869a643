//! The status segment: what the kernel tells a task without a message. And what status segments and
//! task pages ([`page`](crate::page)) are made of: sealed memory files, mapped.
//!
//! *Words.* A status segment is [`STATUS_WORDS`] words, written by the kernel alone and mapped by
//! that one task. Word 0 counts the changes and the events sent; each end of a connection has one
//! of the other words, its [`ConnectionState`].
//!
//! *Steps.* The kernel stores a word (1) and wakes its waiters (2), adds one to word 0 (3) and wakes
//! its waiters (4).
//! A task loads a word, and sleeps on it with the value that it saw: Linux compares under its own
//! lock, so a store that comes in between is not slept through.
//!
//! # Safety
//! Invariants of this file:
//! 1. A `Mapping` is the first `bytes` bytes of a file, a multiple of 8, at a page's boundary, mapped
//!    until it is dropped and never moved or shrunk.
//! 2. The file behind it can neither shrink nor grow while it is mapped: it was made so
//!    ([`memory_file`]), and whoever maps what somebody else made has seen the seals.
//! 3. All access goes through atomics.

#![allow(unsafe_code)]

pub use crate::page::{PAGE_BYTES, PageReader, PageWriter, WAITS_MAX, WaitGuard};
pub use crate::waits::{Claim, Claims};

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rendez_protocol::limit::STATUS_WORDS;
use rendez_protocol::status::ConnectionState;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a status segment.
pub const STATUS_BYTES: usize = STATUS_WORDS as usize * 4;
const _: () = assert!(STATUS_BYTES.is_multiple_of(4096));

/// The seals after which nobody but the present mapping can write, and the size stands.
pub const SEALS: SealFlags =
    SealFlags::FUTURE_WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// Makes an unnamed file of `bytes` bytes in memory, whose size is sealed from the beginning and
/// which can be sealed further. `name` is for people who look at a process's maps.
///
/// Whoever gets it can neither make it large, which would make its last close long, nor put memory
/// beyond its end, which would hide a hole from those who count blocks.
///
/// # Errors
/// What Linux says, too many open descriptors for instance.
pub fn memory_file(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&file, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

/// Whether `file` is `bytes` long and has all of [`SEALS`].
///
/// # Errors
/// `InvalidData` if it is not; else what Linux says.
pub fn check_sealed(file: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    let seals = rustix::fs::fcntl_get_seals(file)?;
    if !seals.contains(SEALS) {
        return invalid(format!("the segment lacks the seals {:?}", SEALS - seals));
    }
    let found = rustix::fs::fstat(file)?.st_size;
    if u64::try_from(found) != Ok(bytes as u64) {
        return invalid(format!("the segment has {found} bytes and should have {bytes}"));
    }
    Ok(())
}

/// A shared mapping of a file's beginning; see the invariants above.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and invariant 3.
unsafe impl Send for Mapping {}
// SAFETY: invariant 3: all access is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(
        file: BorrowedFd<'_>,
        bytes: usize,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping where Linux likes it touches no memory that is in use.
        let start =
            unsafe { mmap(core::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        // INVARIANT 1: a page's boundary, by mmap's contract; unmapped in `drop` only.
        let start = NonNull::new(start).ok_or(rustix::io::Errno::NOMEM)?;
        let mapping = Self { start, bytes };
        if protection.contains(ProtFlags::WRITE) {
            // A forked child must not inherit it: there would be two writers.
            // SAFETY: our own mapping, whole; the advice changes nothing in this process.
            unsafe { madvise(start.as_ptr(), bytes, Advice::LinuxDontFork) }?;
        }
        Ok(mapping)
    }

    /// Has every page there before it is read: what is wrong with one is an error now, and no
    /// signal later.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let (start, advice) = (self.start.as_ptr(), Advice::LinuxPopulateRead);
        // SAFETY: our own mapping, whole; the advice changes nothing that it holds.
        Ok(unsafe { madvise(start, self.bytes, advice) }?)
    }

    /// Has memory put behind `bytes` bytes from the page boundary `offset` on: that there is none
    /// left is an error now, and no signal later.
    pub(crate) fn populate_for_writing(&self, offset: usize, bytes: usize) -> io::Result<()> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "outside of the segment");
        // SAFETY: invariant 1 and the assertion: within the mapping.
        let start = unsafe { self.start.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: our own mapping; the advice changes nothing that it holds.
        Ok(unsafe { madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) }?)
    }

    /// The words of type `T`, made of 64-bit atomics alone, at byte `offset`.
    pub(crate) fn words<T: Words>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(offset.is_multiple_of(align_of::<T>()), "not aligned");
        assert!(end.is_some_and(|end| end <= self.bytes), "outside of the segment");
        // SAFETY: invariant 1 and the assertion: within the mapping.
        unsafe { self.start.cast::<u8>().add(offset).cast() }
    }

    /// The 32-bit word at byte `offset`.
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < self.bytes, "outside of the segment");
        // SAFETY: invariant 1 and the assertion: within the mapping.
        let word = unsafe { self.start.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: aligned and mapped for as long as `self` (invariants 1 and 2), and only ever
        // accessed as an atomic (invariant 3).
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// The 64-bit word at byte `offset`.
    #[inline]
    pub(crate) fn long(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.bytes, "outside of the segment");
        // SAFETY: invariant 1 and the assertion: within the mapping.
        let word = unsafe { self.start.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }
}

/// A structure that consists of atomics alone and may hold any bytes.
///
/// # Safety
/// `Self` is `repr(C)`, at most 4096 aligned, and each of its bytes belongs to an atomic integer.
pub(crate) unsafe trait Words {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; every reference into it borrows `self`.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// The kernel's side of a task's status segment: the one writer.
#[derive(Debug)]
pub struct StatusWriter {
    mapping: Mapping,
    /// Until it is handed out.
    file: Option<OwnedFd>,
    /// What word 0 holds: our own copy, never loaded back.
    changes: u32,
}

impl StatusWriter {
    /// Makes a segment, all words 0 and sparse: it takes memory where it is written.
    ///
    /// # Errors
    /// What Linux says.
    pub fn new() -> io::Result<Self> {
        let file = memory_file("rendez-status", STATUS_BYTES)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::new(file.as_fd(), STATUS_BYTES, protection)?;
        // INVARIANT 2, and from here on nobody else can map it writable.
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        Ok(Self { mapping, file: Some(file), changes: 0 })
    }

    /// The sealed file, to hand to the task; `None` after [`StatusWriter::take_file`].
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// The sealed file, given away: it is handed out once.
    pub fn take_file(&mut self) -> Option<OwnedFd> {
        self.file.take()
    }

    /// Stores `word` at `index`, adds one to word 0, wakes who sleeps on either. An `index` outside
    /// of the segment changes nothing.
    pub fn set(&mut self, index: u32, word: u32) {
        if index == 0 || index >= STATUS_WORDS {
            return;
        }
        let place = self.mapping.word(index as usize * 4);
        // (1) ORDERING(status): Release; what happened before is seen by who sees the word. Pairs
        // with `StatusReader::load`.
        place.store(word, Ordering::Release);
        // (2)
        wake(place);
        self.bump();
    }

    /// Wakes who sleeps on the word at `index`, which stays as it is: whoever finds nothing there asks
    /// the kernel again whether it waits in a circle. An `index` outside of the segment wakes nobody.
    pub fn nudge(&self, index: u32) {
        if index != 0 && index < STATUS_WORDS {
            wake(self.mapping.word(index as usize * 4));
        }
    }

    /// Adds one to word 0 and wakes who sleeps on it: an event was sent.
    pub fn bump(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        let place = self.mapping.word(0);
        // (3) ORDERING(status): as in `set`.
        place.store(self.changes, Ordering::Release);
        // (4)
        wake(place);
    }
}

/// Wakes everybody who sleeps on `word`, in whichever process.
fn wake(word: &AtomicU32) {
    // It fails only for an address that is none.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

/// The task's side of its status segment.
#[derive(Debug)]
pub struct StatusReader {
    mapping: Mapping,
}

impl StatusReader {
    /// Maps the segment for reading and closes the descriptor.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed or has another size; else what Linux says.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        // INVARIANT 2.
        check_sealed(file.as_fd(), STATUS_BYTES)?;
        let mapping = Mapping::new(file.as_fd(), STATUS_BYTES, ProtFlags::READ)?;
        Ok(Self { mapping })
    }

    /// The word at `index`, to sleep on. The mapping is read-only: load it with `Relaxed` only
    /// (as [`StatusReader::load`] does) and never store.
    ///
    /// # Panics
    /// If `index` is not below [`STATUS_WORDS`]. The kernel tells no such index.
    #[must_use]
    #[inline]
    pub fn word(&self, index: u32) -> &AtomicU32 {
        self.mapping.word(index as usize * 4)
    }

    /// What the word at `index` holds.
    ///
    /// # Panics
    /// As [`StatusReader::word`].
    #[must_use]
    #[inline]
    pub fn load(&self, index: u32) -> u32 {
        // Relaxed: on read-only memory Rust promises relaxed loads only.
        let word = self.word(index).load(Ordering::Relaxed);
        // ORDERING(status): Acquire; pairs with the stores in `StatusWriter`.
        fence(Ordering::Acquire);
        word
    }

    /// What became of the connection whose word has `index`.
    ///
    /// # Panics
    /// As [`StatusReader::word`].
    #[must_use]
    #[inline]
    pub fn state(&self, index: u32) -> ConnectionState {
        ConnectionState::from_word(self.load(index))
    }
}

/// The time of `CLOCK_MONOTONIC` in ns, by which waits are dated.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative; the sum wraps in 584 years.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Whether some of a file's `bytes` bytes have no memory behind them.
///
/// # Errors
/// What Linux says.
pub fn has_hole(file: BorrowedFd<'_>, bytes: usize) -> io::Result<bool> {
    let blocks = rustix::fs::fstat(file)?.st_blocks;
    Ok(u64::try_from(blocks).map_or(true, |blocks| blocks * 512 < bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, PageWriter, STATUS_BYTES, StatusReader, StatusWriter, memory_file};
    use rendez_protocol::limit::STATUS_WORDS;
    use rendez_protocol::status::ConnectionState;
    use rustix::thread::futex;
    use std::io::ErrorKind;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn what_the_kernel_sets_the_task_sees() {
        let mut writer = StatusWriter::new().unwrap();
        assert!(writer.fd().is_some());
        let reader = StatusReader::map(writer.take_file().unwrap()).unwrap();
        assert!(writer.fd().is_none());
        writer.set(5, ConnectionState::Revoked as u32);
        writer.set(STATUS_WORDS - 1, ConnectionState::Dead as u32);
        writer.set(STATUS_WORDS, 9);
        writer.bump();
        assert_eq!(reader.state(5), ConnectionState::Revoked);
        assert_eq!(reader.state(STATUS_WORDS - 1), ConnectionState::Dead);
        assert_eq!(reader.state(6), ConnectionState::Open);
        assert_eq!(reader.load(0), 3, "two changes and an event");
    }

    #[test]
    fn a_change_wakes_a_sleeper() {
        let mut writer = StatusWriter::new().unwrap();
        let reader = StatusReader::map(writer.take_file().unwrap()).unwrap();
        let sleeper = std::thread::spawn(move || {
            // The watchdog: without a wake-up this thread fails after a while.
            let timeout = futex::Timespec { tv_sec: 30, tv_nsec: 0 };
            while reader.load(7) == 0 {
                match futex::wait(reader.word(7), futex::Flags::empty(), 0, Some(&timeout)) {
                    Err(rustix::io::Errno::TIMEDOUT) => return false,
                    _ => continue,
                }
            }
            true
        });
        // Likely asleep by now; if not, it sees the word.
        std::thread::sleep(Duration::from_millis(20));
        writer.set(7, 1);
        assert!(sleeper.join().unwrap());
    }

    #[test]
    fn only_the_kernel_can_write_a_status_segment() {
        let mut writer = StatusWriter::new().unwrap();
        let file = writer.take_file().unwrap();
        assert!(rustix::io::write(&file, b"x").is_err());
        assert!(rustix::fs::ftruncate(&file, 0).is_err());
        assert!(PageWriter::map(file).is_err());
        let unsealed = memory_file("test", STATUS_BYTES).unwrap();
        assert_eq!(StatusReader::map(unsealed).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_size_stands_from_the_beginning() {
        use rustix::fs::FallocateFlags;
        use rustix::io::Errno;
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let page = PAGE_BYTES as u64;
        // Memory beyond the end would count as if there were no hole before it.
        let forged = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, page, page);
        assert_eq!(forged, Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 1 << 32), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM));
        assert!(super::has_hole(file.as_fd(), PAGE_BYTES).unwrap());
    }
}
