//! The task page: what a task says of itself to the kernel and to whoever holds INSPECT.
//!
//! *Words.* A page is written by its task alone. Its first 4096 bytes, the head, are populated and
//! mapped by the kernel: 63 records of whom a thread of the task waits for, from byte 64 on. What lies
//! around and behind them is counted there ([`counters`](crate::counters)).
//!
//! *Steps.* A wait is dated, then its key is stored; the key is 0 again when it is over.
//!
//! *If the owner dies or lies here.* A task that dies leaves its records; they go with its page.
//! What a page says is a claim: it is copied, bounded, and hurts only whom it is about, its writer.
//! Behind the head a page is full of holes, and they stay: nobody maps that part for reading. Who
//! reads it has Linux copy it (`pread`), to which a hole is zeros.
//!
//! # Safety
//! The invariants of a mapping are those of [`status`](crate::status), 1 to 3. And:
//! 4. The words of a `RecordPlace` lie within the mapping of the page that it keeps alive, aligned.

#![allow(unsafe_code)]

use crate::counters::{
    CONNECTIONS_OFFSET, ConnectionWords, HEAD_BYTES, RECORD_BYTES, RECORDS_MAX, THREADS_MAX,
    THREADS_OFFSET, TaskWords, ThreadWords,
};
use crate::status::{Mapping, SEALS, Words, check_sealed, has_hole, monotonic_ns};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use parking_lot::Mutex;
use rendez_protocol::limit::STATUS_WORDS;
use rustix::mm::ProtFlags;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

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
const _: () = assert!(PAGE_BYTES.is_multiple_of(4096));

// SAFETY: an array of atomics, `repr(C)`.
unsafe impl Words for TaskWords {}
// SAFETY: an array of atomics, `repr(C)`.
unsafe impl Words for ThreadWords {}
// SAFETY: atomics and arrays of them, `repr(C)`; no padding, as their offsets are asserted.
unsafe impl Words for ConnectionWords {}

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

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, PageReader, PageWriter, WAITS_MAX};
    use crate::status::{SEALS, memory_file};
    use std::os::fd::AsFd;

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
