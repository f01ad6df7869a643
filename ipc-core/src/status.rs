//! The status segment and the task page: what the kernel tells a task without a message, and what
//! a task tells the kernel.
//!
//! *Words.* A status segment is [`STATUS_WORDS`] words, written by the kernel alone and mapped by
//! that one task. Word 0 counts the changes and the events sent; each end of a connection has one
//! of the other words, its [`ConnectionState`]. A task page is written by the task alone. Its first
//! 4096 bytes, the head, are mapped by the kernel too: 63 records of whom a thread of the task waits
//! for, from byte 64 on. What lies around and behind them, [`counters`](crate::counters), is for
//! whoever holds INSPECT.
//!
//! *Steps.* The kernel stores a word (1) and wakes its waiters (2), adds one to word 0 (3) and wakes
//! its waiters (4).
//! A task loads a word, and sleeps on it with the value that it saw: Linux compares under its own
//! lock, so a store that comes in between is not slept through.
//!
//! *If the peer dies or lies here.* A task that dies leaves its records; they go with its page.
//! What a page says is a claim: it is copied, bounded, and hurts only whom it is about, its writer.
//! Behind the head a page is full of holes, and they stay: nobody maps that part for reading. Who
//! reads it has Linux copy it (`pread`), to which a hole is zeros.
//!
//! # Safety
//! Invariants of this file:
//! 1. A `Mapping` is `bytes` bytes, a multiple of 8, at a page's boundary, mapped until it is
//!    dropped and never moved or shrunk.
//! 2. The file behind it can neither shrink nor grow while it is mapped: it was made so
//!    ([`memory_file`]), and whoever maps what somebody else made has seen the seals.
//! 3. All access goes through atomics.
//! 4. The words of a [`RecordPlace`] lie within the mapping of the page that it keeps alive, aligned.

#![allow(unsafe_code)]

use crate::counters::{
    CONNECTIONS_OFFSET, ConnectionWords, HEAD_BYTES, RECORD_BYTES, RECORDS_MAX, THREADS_MAX,
    THREADS_OFFSET, TaskWords, ThreadWords,
};
use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use parking_lot::Mutex;
use rendez_protocol::limit::STATUS_WORDS;
use rendez_protocol::status::ConnectionState;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of a status segment.
pub const STATUS_BYTES: usize = STATUS_WORDS as usize * 4;
/// Bytes of a task page: its head, and a record for each end of a connection that there can be.
/// Only what is used has memory behind it.
pub const PAGE_BYTES: usize = CONNECTIONS_OFFSET + RECORDS_MAX * RECORD_BYTES;
/// Waits that a task page has room for.
pub const WAITS_MAX: usize = 63;
/// Where the first wait record begins, in bytes; before it the task's own counters lie.
pub(crate) const WAITS_OFFSET: usize = 64;
/// Bytes of a wait record: the key, the time.
pub(crate) const WAIT_BYTES: usize = 16;

const _: () = assert!(size_of::<TaskWords>() <= WAITS_OFFSET);
const _: () = assert!(WAITS_OFFSET + WAITS_MAX * WAIT_BYTES <= THREADS_OFFSET);
const _: () = assert!(PAGE_BYTES.is_multiple_of(4096) && STATUS_BYTES.is_multiple_of(4096));

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

/// A shared mapping of a whole file; see the invariants above.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and invariant 3.
unsafe impl Send for Mapping {}
// SAFETY: invariant 3: all access is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, bytes: usize, protection: ProtFlags) -> io::Result<Self> {
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
    fn populate(&self) -> io::Result<()> {
        let (start, advice) = (self.start.as_ptr(), Advice::LinuxPopulateRead);
        // SAFETY: our own mapping, whole; the advice changes nothing that it holds.
        Ok(unsafe { madvise(start, self.bytes, advice) }?)
    }

    /// Has memory put behind `bytes` bytes from the page boundary `offset` on: that there is none
    /// left is an error now, and no signal later.
    fn populate_for_writing(&self, offset: usize, bytes: usize) -> io::Result<()> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "outside of the segment");
        // SAFETY: invariant 1 and the assertion: within the mapping.
        let start = unsafe { self.start.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: our own mapping; the advice changes nothing that it holds.
        Ok(unsafe { madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) }?)
    }

    /// The words of type `T`, made of 64-bit atomics alone, at byte `offset`.
    fn words<T: Words>(&self, offset: usize) -> NonNull<T> {
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
    fn long(&self, offset: usize) -> &AtomicU64 {
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
unsafe trait Words {}

// SAFETY: an array of atomics, `repr(C)`.
unsafe impl Words for TaskWords {}
// SAFETY: an array of atomics, `repr(C)`.
unsafe impl Words for ThreadWords {}
// SAFETY: atomics and arrays of them, `repr(C)`; no padding, as their offsets are asserted.
unsafe impl Words for ConnectionWords {}

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

/// The task's side of its page: the one writer.
#[derive(Debug)]
pub struct PageWriter {
    mapping: Mapping,
    /// Which wait records are in use, one bit each. Private to the process.
    claimed: AtomicU64,
    /// Which records of connections and of threads are in use. Private to the process.
    records: Mutex<Records>,
    /// Whether whoever asks for a record gets one.
    counting: AtomicBool,
}

/// Which records are in use.
#[derive(Debug, Default)]
struct Records {
    /// Connection records that were in use and are free.
    free: BinaryHeap<Reverse<u32>>,
    /// Connection records that were ever in use.
    used: u32,
    /// Connection records behind which there is memory.
    populated: u32,
    /// How often a record was handed out.
    incarnations: u64,
    /// Thread records in use, one bit each.
    threads: u64,
}

impl PageWriter {
    /// Maps the page writable, populates its head, seals it, so that this mapping is the last that
    /// writes, and closes the descriptor.
    ///
    /// # Errors
    /// `InvalidData` if it has another size; else what Linux says.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        let found = rustix::fs::fstat(&file)?.st_size;
        if u64::try_from(found) != Ok(PAGE_BYTES as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the task page has {found} bytes and should have {PAGE_BYTES}"),
            ));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::new(file.as_fd(), PAGE_BYTES, protection)?;
        mapping.populate_for_writing(0, HEAD_BYTES)?;
        // Here and not in the kernel: adding a seal can wait for whoever else has the file.
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let counting = AtomicBool::new(true);
        Ok(Self { mapping, claimed: AtomicU64::new(0), records: Mutex::default(), counting })
    }

    /// Whether ends of connections get a record from now on: they do unless told otherwise.
    pub fn set_counting(&self, counting: bool) {
        // ORDERING: Relaxed; a switch by itself.
        self.counting.store(counting, Ordering::Relaxed);
    }

    /// The task's own counters.
    pub(crate) fn task_words(&self) -> &TaskWords {
        // SAFETY: within our mapping, which lives as long as `self` (invariant 1), aligned, and
        // nothing but atomics (invariant 3).
        unsafe { self.mapping.words(0).as_ref() }
    }

    /// A free connection record: the one of lowest number, so that what once had memory is used
    /// again first. `None` if all are in use, there is no memory, or nothing is to be counted.
    pub(crate) fn claim_connection(self: &Arc<Self>) -> Option<RecordPlace<ConnectionWords>> {
        // ORDERING: Relaxed; a switch by itself.
        if !self.counting.load(Ordering::Relaxed) {
            return None;
        }
        let mut records = self.records.lock();
        let index = match records.free.pop() {
            Some(Reverse(index)) => index,
            None if records.used as usize >= RECORDS_MAX => return None,
            None => {
                if records.used >= records.populated {
                    let offset = CONNECTIONS_OFFSET + records.used as usize * RECORD_BYTES;
                    self.mapping.populate_for_writing(offset, 4096).ok()?;
                    records.populated += (4096 / RECORD_BYTES) as u32;
                }
                records.used += 1;
                self.task_words().set_used(records.used);
                records.used - 1
            }
        };
        records.incarnations += 1;
        let offset = CONNECTIONS_OFFSET + index as usize * RECORD_BYTES;
        // INVARIANT 4.
        let words = self.mapping.words(offset);
        let incarnation = records.incarnations;
        Some(RecordPlace { words, page: Arc::clone(self), index, incarnation })
    }

    /// A free thread record; `None` if all are in use or nothing is to be counted.
    pub(crate) fn claim_thread(self: &Arc<Self>) -> Option<RecordPlace<ThreadWords>> {
        // ORDERING: Relaxed; a switch by itself.
        if !self.counting.load(Ordering::Relaxed) {
            return None;
        }
        let mut records = self.records.lock();
        let index = records.threads.trailing_ones();
        if index as usize >= THREADS_MAX {
            return None;
        }
        records.threads |= 1 << index;
        records.incarnations += 1;
        // INVARIANT 4.
        let words = self.mapping.words(THREADS_OFFSET + index as usize * size_of::<ThreadWords>());
        let incarnation = records.incarnations;
        Some(RecordPlace { words, page: Arc::clone(self), index, incarnation })
    }

    pub(crate) fn release_connection(&self, index: u32) {
        self.records.lock().free.push(Reverse(index));
    }

    pub(crate) fn release_thread(&self, index: u32) {
        self.records.lock().threads &= !(1 << index);
    }

    /// Says that the calling thread waits on the connection whose status word has this index,
    /// until the guard is dropped. Beyond [`WAITS_MAX`] waits at a time, nothing is said.
    #[must_use]
    pub fn waiting(&self, status_index: u32) -> WaitGuard<'_> {
        // Acquire: whoever had the record has cleared it before; pairs with `WaitGuard::drop`.
        let before = self.claimed.fetch_update(Ordering::Acquire, Ordering::Relaxed, |claimed| {
            let free = claimed.trailing_ones() as usize;
            (free < WAITS_MAX).then(|| claimed | 1 << free)
        });
        let place = before.ok().map(|claimed| claimed.trailing_ones() as usize);
        if let Some(place) = place {
            let (key, since) = record(&self.mapping, place);
            // Relaxed: dated before the key says that it counts.
            since.store(monotonic_ns(), Ordering::Relaxed);
            // ORDERING(wait): Release; the time before the key. Pairs with `PageReader::waits`.
            key.store(u64::from(status_index) + 1, Ordering::Release);
        }
        WaitGuard { page: self, place }
    }
}

/// A published wait. Dropping it takes it back.
#[derive(Debug)]
pub struct WaitGuard<'a> {
    page: &'a PageWriter,
    place: Option<usize>,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // Relaxed: a reader that still sees the key has read a moment ago.
            record(&self.page.mapping, place).0.store(0, Ordering::Relaxed);
            // Release: cleared before somebody else claims it; pairs with `PageWriter::waiting`.
            self.page.claimed.fetch_and(!(1 << place), Ordering::Release);
        }
    }
}

/// The key and the time of wait record `place`.
fn record(mapping: &Mapping, place: usize) -> (&AtomicU64, &AtomicU64) {
    let offset = WAITS_OFFSET + place * WAIT_BYTES;
    (mapping.long(offset), mapping.long(offset + 8))
}

/// A record of a page, in use by whoever has this; see invariant 4.
#[derive(Debug)]
pub(crate) struct RecordPlace<T> {
    words: NonNull<T>,
    page: Arc<PageWriter>,
    index: u32,
    /// Different from that of all others who have had it.
    pub(crate) incarnation: u64,
}

// SAFETY: invariants 3 and 4: it leads to atomics only, which belong to the process.
unsafe impl<T> Send for RecordPlace<T> {}
// SAFETY: as for `Send`.
unsafe impl<T> Sync for RecordPlace<T> {}

impl<T> RecordPlace<T> {
    /// Its words.
    #[inline]
    pub(crate) fn words(&self) -> &T {
        // SAFETY: invariant 4, and nothing but atomics (invariant 3, `Words`).
        unsafe { self.words.as_ref() }
    }

    /// Where it lies: its page and its number.
    pub(crate) fn place(&self) -> (&PageWriter, u32) {
        (&self.page, self.index)
    }
}

/// The kernel's side of a task's page. Whatever it reads is a claim.
#[derive(Debug)]
pub struct PageReader {
    mapping: Mapping,
}

/// A wait, as a task claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The index of the connection's word in the task's status segment.
    pub status_index: u32,
    /// Since when, in ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

impl PageReader {
    /// Maps the head of the page for reading. A descriptor that is only lent stays the caller's.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed, has another size, or nothing in it; else what Linux says.
    pub fn map(file: impl AsFd) -> io::Result<Self> {
        let file = file.as_fd();
        // INVARIANT 2.
        check_sealed(file, PAGE_BYTES)?;
        if has_hole(file, HEAD_BYTES)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the task page was not populated before it was sealed",
            ));
        }
        let mapping = Mapping::new(file, HEAD_BYTES, ProtFlags::READ)?;
        // Whichever part its owner has populated: from here on the head is there.
        mapping.populate()?;
        Ok(Self { mapping })
    }

    /// The waits that the task claims; those that make no sense are left out.
    #[must_use]
    pub fn waits(&self) -> Vec<Claim> {
        (0..WAITS_MAX)
            .filter_map(|place| {
                let (key, since) = record(&self.mapping, place);
                // Relaxed: on read-only memory Rust promises relaxed loads only.
                let index = key.load(Ordering::Relaxed);
                // ORDERING(wait): Acquire; pairs with `PageWriter::waiting`.
                fence(Ordering::Acquire);
                Claim::new(index, since.load(Ordering::Relaxed))
            })
            .collect()
    }
}

impl Claim {
    /// What a wait record says; `None` if it is free or makes no sense.
    pub(crate) fn new(key: u64, since_ns: u64) -> Option<Self> {
        let status_index = u32::try_from(key.checked_sub(1)?).ok()?;
        (status_index < STATUS_WORDS).then_some(Self { status_index, since_ns })
    }
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
    use super::{
        PAGE_BYTES, PageReader, PageWriter, SEALS, STATUS_BYTES, StatusReader, StatusWriter,
        WAITS_MAX, memory_file,
    };
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
    fn waits_are_claimed_and_taken_back() {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        let reader = PageReader::map(file.as_fd()).unwrap();
        let first = writer.waiting(3);
        let second = writer.waiting(4);
        let indices = |reader: &PageReader| {
            reader.waits().iter().map(|claim| claim.status_index).collect::<Vec<_>>()
        };
        assert_eq!(indices(&reader), [3, 4]);
        assert!(reader.waits()[0].since_ns <= super::monotonic_ns());
        drop(first);
        assert_eq!(indices(&reader), [4]);
        let many: Vec<_> = (0..100).map(|index| writer.waiting(index)).collect();
        assert_eq!(reader.waits().len(), WAITS_MAX);
        drop((many, second));
        assert!(reader.waits().is_empty());
    }

    #[test]
    fn rubbish_in_a_page_is_left_out() {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let rubbish = vec![0xff; PAGE_BYTES];
        assert_eq!(rustix::io::write(&file, &rubbish), Ok(PAGE_BYTES));
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        assert!(PageReader::map(file.as_fd()).unwrap().waits().is_empty());
        drop(writer);
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

    #[test]
    fn the_owner_of_a_page_is_the_last_to_map_it_for_writing() {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        assert!(rustix::io::write(&file, b"x").is_err());
        assert!(PageWriter::map(file.try_clone().unwrap()).is_err());
        PageReader::map(file.as_fd()).unwrap();
        drop(writer);
    }

    #[test]
    fn an_unsealed_or_empty_page_is_refused() {
        let unsealed = memory_file("test", PAGE_BYTES).unwrap();
        assert!(PageReader::map(unsealed.as_fd()).is_err());
        rustix::fs::fcntl_add_seals(&unsealed, SEALS).unwrap();
        assert!(PageReader::map(unsealed.as_fd()).is_err(), "sealed with nothing in it");
    }
}
