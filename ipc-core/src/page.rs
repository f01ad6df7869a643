//! The task page: what a task says of itself to the kernel and to whoever holds INSPECT.
//!
//! *Words.* A page is written by its task alone. Its first 4096 bytes, the head, are populated and
//! mapped by the kernel: 42 records of whom a thread of the task waits for, from byte 64 on
//! ([`waits`](crate::waits)). What lies around and behind them is counted there
//! ([`counters`](crate::counters)).
//!
//! *Steps.* A wait is described, then its key is stored; the key is 0 again when it is over.
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
use crate::status::{Mapping, SEALS, Words, check_sealed, has_hole};
use crate::waits::{Claim, Claims, Receiving, Waiting, words_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use parking_lot::Mutex;
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
pub const WAITS_MAX: usize = 42;
/// Where the first wait record begins, in bytes; before it the task's own counters lie.
pub(crate) const WAITS_OFFSET: usize = 64;
/// Bytes of a wait record: the key, who waits, since when, until when.
pub(crate) const WAIT_BYTES: usize = 32;

const _: () = assert!(size_of::<TaskWords>() <= WAITS_OFFSET);
const _: () = assert!(WAITS_OFFSET + WAITS_MAX * WAIT_BYTES <= THREADS_OFFSET);
const _: () = assert!(PAGE_BYTES.is_multiple_of(4096) && WAITS_MAX <= 64 && THREADS_MAX <= 64);

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
    /// Threads of servers, whether they have a record or not.
    receivers: u32,
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

    /// One more thread of a server: its record, `None` if all are in use. Those who want nothing
    /// counted have one too, for it says what the thread handles.
    pub(crate) fn claim_thread(self: &Arc<Self>) -> Option<RecordPlace<ThreadWords>> {
        let mut records = self.records.lock();
        records.receivers += 1;
        self.task_words().set_receivers(records.receivers);
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

    /// One thread of a server less, with its record if it had one.
    pub(crate) fn release_thread(&self, index: Option<u32>) {
        let mut records = self.records.lock();
        if let Some(index) = index {
            records.threads &= !(1 << index);
        }
        records.receivers = records.receivers.saturating_sub(1);
        self.task_words().set_receivers(records.receivers);
    }

    /// Says that the calling thread waits on the connection whose status word has this index,
    /// until the guard is dropped. Beyond [`WAITS_MAX`] waits at a time, nothing is said.
    #[must_use]
    pub fn waiting(&self, status_index: u32, waiting: &Waiting) -> WaitGuard<'_> {
        // Acquire: whoever had the record has cleared it before; pairs with `WaitGuard::drop`.
        let before = self.claimed.fetch_update(Ordering::Acquire, Ordering::Relaxed, |claimed| {
            let free = claimed.trailing_ones() as usize;
            (free < WAITS_MAX).then(|| claimed | 1 << free)
        });
        let place = before.ok().map(|claimed| claimed.trailing_ones() as usize);
        if let Some(place) = place {
            let [key, rest @ ..] = record(&self.mapping, place);
            let [key_word, rest_words @ ..] = words_of(status_index, waiting);
            // ORDERING(wait): Release; the last one's key is 0 before its words change. Pairs with the
            // second look in `PageReader::claims`.
            fence(Ordering::Release);
            for (place, word) in rest.into_iter().zip(rest_words) {
                // Relaxed: described before the key says that it counts.
                place.store(word, Ordering::Relaxed);
            }
            // ORDERING(wait): Release; what it says before the key. Pairs with `PageReader::claims`.
            key.store(key_word, Ordering::Release);
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
            let [key, ..] = record(&self.page.mapping, place);
            key.store(0, Ordering::Relaxed);
            // Release: cleared before somebody else claims it; pairs with `PageWriter::waiting`.
            self.page.claimed.fetch_and(!(1 << place), Ordering::Release);
        }
    }
}

/// The words of wait record `place`.
fn record(mapping: &Mapping, place: usize) -> [&AtomicU64; 4] {
    let offset = WAITS_OFFSET + place * WAIT_BYTES;
    [0, 8, 16, 24].map(|word| mapping.long(offset + word))
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

    /// What the task claims of its threads; what makes no sense is left out.
    #[must_use]
    pub fn claims(&self) -> Claims {
        // Relaxed: on read-only memory Rust promises relaxed loads only.
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let waits = (0..WAITS_MAX).filter_map(|place| {
            let [key, rest @ ..] = record(&self.mapping, place);
            let key_word = load(key);
            if key_word == 0 {
                return None;
            }
            // ORDERING(wait): Acquire; pairs with `PageWriter::waiting`.
            fence(Ordering::Acquire);
            let [who, since, deadline] = rest.map(load);
            // ORDERING(wait): Acquire; the words before the second look at the key. Whoever has read one
            // that was changed then sees that the key was. Pairs with `PageWriter::waiting`.
            fence(Ordering::Acquire);
            // Another wait's by now: what was read may be half of each.
            (load(key) == key_word).then(|| Claim::new([key_word, who, since, deadline])).flatten()
        });
        let receiving = (0..THREADS_MAX).filter_map(|place| {
            let words = self.mapping.words(THREADS_OFFSET + place * size_of::<ThreadWords>());
            // SAFETY: within our mapping, which lives as long as `self` (invariant 1), aligned, and
            // nothing but atomics (invariant 3).
            let words: &ThreadWords = unsafe { words.as_ref() };
            words.receiving()
        });
        // SAFETY: as above.
        let task: &TaskWords = unsafe { self.mapping.words(0).as_ref() };
        Claims {
            receivers: task.receivers(),
            receiving: receiving.collect::<Vec<Receiving>>(),
            waits: waits.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, PageReader, PageWriter, WAITS_MAX};
    use crate::counters::{THREADS_MAX, ThreadCounters};
    use crate::status::{SEALS, memory_file};
    use crate::waits::{Claims, Receiving, Waiting, own_thread};
    use std::os::fd::AsFd;
    use std::sync::Arc;

    fn pair() -> (Arc<PageWriter>, PageReader) {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        (Arc::new(writer), PageReader::map(file.as_fd()).unwrap())
    }

    #[test]
    fn waits_are_claimed_and_taken_back() {
        let (writer, reader) = pair();
        let waiting = Waiting { transaction: Some(7), since_ns: 11, deadline_ns: 12, taken: false };
        let first = writer.waiting(3, &waiting);
        let second = writer.waiting(4, &Waiting { transaction: None, ..waiting });
        let indices = |reader: &PageReader| {
            reader.claims().waits.iter().map(|claim| claim.status_index).collect::<Vec<_>>()
        };
        assert_eq!(indices(&reader), [3, 4]);
        let claim = reader.claims().waits[0];
        assert_eq!((claim.transaction, claim.thread), (Some(7), own_thread()));
        assert_eq!((claim.since_ns, claim.deadline_ns), (11, 12));
        drop(first);
        assert_eq!(indices(&reader), [4]);
        let many: Vec<_> = (0..100).map(|index| writer.waiting(index, &waiting)).collect();
        assert_eq!(reader.claims().waits.len(), WAITS_MAX);
        drop((many, second));
        assert!(reader.claims().waits.is_empty());
    }

    #[test]
    fn threads_that_receive_are_counted_and_say_what_they_handle() {
        let (writer, reader) = pair();
        let mut threads: Vec<_> =
            (0..THREADS_MAX + 2).map(|_| ThreadCounters::new(&writer)).collect();
        let claims = reader.claims();
        assert_eq!(claims.receivers as usize, THREADS_MAX + 2, "the ones without a record too");
        assert_eq!(claims.receiving.len(), THREADS_MAX);
        assert_eq!(claims.receiving[0], Receiving { thread: 0, handles: None });
        threads.truncate(1);
        threads[0].here();
        threads[0].handles(crate::waits::key(5, Some(9)));
        let receiving = Receiving { thread: own_thread(), handles: Some((5, 9)) };
        let one = Claims { receivers: 1, receiving: vec![receiving], waits: vec![] };
        assert_eq!(reader.claims(), one);
        assert!(crate::waits::is_receiver_of(&writer));
        crate::waits::keeps(crate::waits::key(5, Some(8)));
        assert_eq!(reader.claims(), one, "another transaction");
        crate::waits::keeps(crate::waits::key(5, Some(9)));
        assert_eq!(reader.claims().receiving[0].handles, None);
        threads.clear();
        assert!(!crate::waits::is_receiver_of(&writer));
        assert_eq!(reader.claims(), Claims::default());
    }

    #[test]
    fn rubbish_in_a_page_is_left_out() {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        let rubbish = vec![0xff; PAGE_BYTES];
        assert_eq!(rustix::io::write(&file, &rubbish), Ok(PAGE_BYTES));
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        let claims = PageReader::map(file.as_fd()).unwrap().claims();
        assert!(claims.waits.is_empty());
        assert!(claims.receiving.iter().all(|one| one.handles.is_none()));
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
