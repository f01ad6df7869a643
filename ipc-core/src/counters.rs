//! Counters: what each end of a connection, and each thread that receives, says of itself in its
//! task's page, for whoever holds INSPECT.
//!
//! *Words.* The head of a page is 4096 bytes: the task's own words (`TaskWords`), 42 wait records
//! ([`page`](crate::page)), 42 thread records (`ThreadWords`). Behind it lie connection
//! records (`ConnectionWords`), 512 bytes each, which take memory where they are used.
//! Every word is written by one task. Within it, every word of a record is written by one thread at
//! a time: the first lines of a server's record by the thread that receives, the others under the
//! lock of its replies.
//!
//! *Steps.* A record is taken: (R1) all its words are 0; (R2) it is said whose it is; (R3) `key` is
//! stored, a number that no other user of the record has. It is given back: (R4) `key` is 0.
//! A reader copies a record (Q1) and looks at `key` once more (Q2): if it is 0 or has changed, there
//! is nothing there to be read.
//!
//! *What can tear.* Each word is one store, and all of them are relaxed: a reader sees each a moment
//! old, and words of one record from different moments. It may count a request and not yet its
//! bytes, or a reply in the histogram and not yet among the replies. Nothing is ever decided by
//! these numbers, so nothing is spent on more order.
//!
//! *What it costs.* A transaction is three loads and stores in the owner's own lines at each end,
//! after the peer was given what it waits for where that can be. Time is taken of one transaction in
//! [`SAMPLE_MEAN`], at distances drawn by lot so that no rhythm of the application's hides from it,
//! and of each one where those of a thread are at least [`SLOW_NS`] apart: there it costs nothing that
//! matters.
//!
//! *If the owner dies or lies here.* A task that dies leaves its page to whoever has it open. What a
//! page says is a claim: it is copied, bounded, and believed of its writer alone.

mod histogram;
mod read;

pub use histogram::{BUCKETS, Histogram, bucket, bucket_start, quantile, total};
pub use read::{ConnectionCounts, Head, PageFile, ThreadCounts};

use crate::page::{PageWriter, RecordPlace};
use crate::platform::Platform;
use crate::segment::{prefetch, prefetch_write};
use crate::status::monotonic_ns;
use crate::wait::learned_wake_ns;
use crate::waits::{self, Receiving};
use core::cell::Cell;
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicU64, fence};
use rendez_protocol::limit::STATUS_WORDS;
use rendez_protocol::{ConnectionId, TaskId};
use std::sync::Arc;

/// Bytes of a page's head.
pub const HEAD_BYTES: usize = 4096;
/// Where connection records begin, in bytes.
pub const CONNECTIONS_OFFSET: usize = HEAD_BYTES;
/// Bytes of a connection record.
pub const RECORD_BYTES: usize = 512;
/// Connection records of a page: one for each end that a task can have.
pub const RECORDS_MAX: usize = STATUS_WORDS as usize;
/// Where thread records begin, in bytes.
pub const THREADS_OFFSET: usize = 1408;
/// Thread records of a page.
pub const THREADS_MAX: usize = 42;
/// Of so many transactions that follow each other closely the time of one is taken, on average.
pub const SAMPLE_MEAN: u32 = 64;
/// Transactions that are at least this far apart, in ns, are all timed.
pub const SLOW_NS: u64 = 5_000;

/// After a sleep, one of so many transactions is timed at the latest.
const AFTER_SLEEP: u32 = 8;

/// The task's own words, at the start of its page.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct TaskWords {
    /// Connection records that were ever in use.
    used: AtomicU64,
    /// What a wake-up costs, as its threads have learned, in ns.
    wake_ns: AtomicU64,
    /// Threads of its server.
    receivers: AtomicU64,
    _unused: [AtomicU64; 5],
}

impl TaskWords {
    pub(crate) fn set_used(&self, used: u32) {
        // ORDERING: Relaxed; a reader that sees it late misses a record for a moment.
        self.used.store(used.into(), Relaxed);
    }

    pub(crate) fn set_receivers(&self, receivers: u32) {
        // ORDERING: Relaxed; a claim, which whoever decides anything by it looks at twice.
        self.receivers.store(receivers.into(), Relaxed);
    }

    /// What it says of the threads of its server.
    pub(crate) fn receivers(&self) -> u32 {
        // ORDERING: Relaxed; as in `set_receivers`.
        u32::try_from(self.receivers.load(Relaxed)).unwrap_or(u32::MAX)
    }
}

/// One thread that waits for many connections.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct ThreadWords {
    key: AtomicU64,
    /// As Linux numbers it.
    thread: AtomicU64,
    /// Connections below, how many of them are polled above.
    connections: AtomicU64,
    budget_ns: AtomicU64,
    looks: AtomicU64,
    sleeps: AtomicU64,
    /// What it was given to handle last ([`waits`](crate::waits)), 0 if it has found nothing to do.
    pub(crate) handles: AtomicU64,
    since_ns: AtomicU64,
}

impl ThreadWords {
    /// Whether the record is that of its user number `incarnation`.
    pub(crate) fn is_used_by(&self, incarnation: u64) -> bool {
        // ORDERING: Relaxed; asked by the user's own thread.
        self.key.load(Relaxed) == incarnation
    }

    /// What the thread claims of itself; `None` if the record is free.
    pub(crate) fn receiving(&self) -> Option<Receiving> {
        // ORDERING: Relaxed; claims, each for itself.
        let receiving = Receiving::new(self.thread.load(Relaxed), self.handles.load(Relaxed));
        (self.key.load(Relaxed) != 0).then_some(receiving)
    }
}

/// One end of a connection: a cache line each for who it is, for requests and for replies, then the
/// histogram.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct ConnectionWords {
    key: AtomicU64,
    connection: AtomicU64,
    peer: AtomicU64,
    /// The side below, the index of the connection's status word above.
    side: AtomicU64,
    since_ns: AtomicU64,
    _unused: [AtomicU64; 3],
    requests: AtomicU64,
    request_bytes: AtomicU64,
    room_waits: AtomicU64,
    looks: AtomicU64,
    sleeps: AtomicU64,
    wake_ns: AtomicU64,
    budget_ns: AtomicU64,
    _more_unused: AtomicU64,
    replies: AtomicU64,
    reply_bytes: AtomicU64,
    late: AtomicU64,
    rings: AtomicU64,
    _still_unused: [AtomicU64; 4],
    histogram: [AtomicU64; BUCKETS],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<TaskWords>() == 64 && size_of::<ThreadWords>() == 64);
    assert!(THREADS_OFFSET.is_multiple_of(64));
    assert!(THREADS_OFFSET + THREADS_MAX * size_of::<ThreadWords>() == HEAD_BYTES);
    assert!(size_of::<ConnectionWords>() == RECORD_BYTES);
    assert!(offset_of!(ThreadWords, looks) == 32 && offset_of!(ThreadWords, since_ns) == 56);
    assert!(offset_of!(ConnectionWords, side) == 24 && offset_of!(ConnectionWords, since_ns) == 32);
    assert!(offset_of!(ConnectionWords, requests) == 64);
    assert!(offset_of!(ConnectionWords, budget_ns) == 112);
    assert!(offset_of!(ConnectionWords, replies) == 128);
    assert!(offset_of!(ConnectionWords, rings) == 152);
    assert!(offset_of!(ConnectionWords, histogram) == 192);
};

/// Adds to a word that this thread alone writes.
#[inline]
fn add(word: &AtomicU64, count: u64) {
    // ORDERING: Relaxed; nobody else writes it, and nothing follows from it.
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

/// Which end of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The end that sends: its times are round trips.
    Client,
    /// The end that replies: its times are those from taking a request to having replied.
    Server,
}

/// Whose a connection record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The connection.
    pub connection: ConnectionId,
    /// The task at its other end.
    pub peer: TaskId,
    /// This end.
    pub side: Side,
    /// The index of its word in the task's status segment, by which wait records name it.
    pub status_index: u32,
}

/// A connection record in use. Dropping it gives it back.
#[derive(Debug)]
struct Record(RecordPlace<ConnectionWords>);

impl Record {
    fn new(page: &Arc<PageWriter>, whose: Identity) -> Option<Self> {
        let record = Self(page.claim_connection()?);
        let words = record.words();
        // (R1, R2) ORDERING: Relaxed; `key` is released after them.
        for word in [&words.requests, &words.request_bytes, &words.room_waits, &words.looks]
            .into_iter()
            .chain([&words.sleeps, &words.wake_ns, &words.replies, &words.reply_bytes])
            .chain([&words.late, &words.rings, &words.budget_ns])
            .chain(&words.histogram)
        {
            word.store(0, Relaxed);
        }
        words.connection.store(whose.connection.to_bits(), Relaxed);
        words.peer.store(whose.peer.to_bits(), Relaxed);
        let side = match whose.side {
            Side::Client => CLIENT,
            Side::Server => SERVER,
        };
        words.side.store(side | u64::from(whose.status_index) << 32, Relaxed);
        words.since_ns.store(monotonic_ns(), Relaxed);
        // (R3) ORDERING(record): Release; whose it is, and zeros, before the key. Pairs with
        // `PageFile::connections`, whose copy Linux makes.
        words.key.store(record.0.incarnation, Release);
        Some(record)
    }

    #[inline]
    fn words(&self) -> &ConnectionWords {
        self.0.words()
    }

    /// Fetches the lines that a transaction counts in.
    #[inline]
    fn prefetch(&self) {
        let words = self.words();
        prefetch_write(&words.requests);
        prefetch_write(&words.replies);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // (R4) ORDERING(record): Relaxed; a reader that still sees the key reads what was. The fence
        // keeps the next user's words behind it.
        self.words().key.store(0, Relaxed);
        fence(Release);
        let (page, index) = self.0.place();
        page.release_connection(index);
    }
}

const CLIENT: u64 = 1;
const SERVER: u64 = 2;

std::thread_local! {
    /// When this thread last took a transaction's time, in ns.
    static LAST_NS: Cell<u64> = const { Cell::new(0) };
}

/// Draws which transactions are timed.
#[derive(Debug)]
struct Sampler {
    /// Transactions until the next that is.
    until: u32,
    distance: u32,
    lot: u32,
}

impl Sampler {
    /// The first transaction is timed.
    const fn new() -> Self {
        Self { until: 1, distance: 1, lot: 0x9e37_79b9 }
    }

    #[inline]
    fn is_due(&mut self) -> bool {
        self.until = self.until.wrapping_sub(1);
        self.until == 0
    }

    /// One is timed from `now_ns` on: draws the next.
    fn drawn(&mut self, now_ns: u64) {
        // Of all that this thread times: one of many connections that are each slow is not slow.
        let apart = now_ns.saturating_sub(LAST_NS.replace(now_ns)) / u64::from(self.distance);
        self.distance = if apart >= SLOW_NS {
            1
        } else {
            // Marsaglia, "Xorshift RNGs", 2003: the 32-bit generator (13, 17, 5).
            self.lot ^= self.lot << 13;
            self.lot ^= self.lot >> 17;
            self.lot ^= self.lot << 5;
            SAMPLE_MEAN / 2 + self.lot % (SAMPLE_MEAN + 1)
        };
        self.until = self.distance;
    }

    /// There was a sleep: one of the next few is timed, not of the next many. Not the very next: where
    /// each transaction sleeps and they follow each other closely, that would be each of them.
    fn soon(&mut self) {
        if self.until > AFTER_SLEEP {
            self.distance = self.distance - self.until + AFTER_SLEEP;
            self.until = AFTER_SLEEP;
        }
    }
}

/// What a client's end counts. One thread uses it at a time.
#[derive(Debug)]
pub struct ClientCounters {
    record: Option<Record>,
    sampler: Sampler,
    /// The transaction that is being timed, and since when; 0 if none is.
    timed: u64,
    started_ns: u64,
}

impl Default for ClientCounters {
    fn default() -> Self {
        Self::none()
    }
}

impl ClientCounters {
    /// Fetches what a transaction counts in.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if let Some(record) = &self.record {
            record.prefetch();
        }
    }

    /// Ones that count nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { record: None, sampler: Sampler::new(), timed: 0, started_ns: 0 }
    }

    /// Ones that count in a record of `page`, or nothing if it has none left.
    #[must_use]
    pub fn new(page: &Arc<PageWriter>, whose: Identity) -> Self {
        Self { record: Record::new(page, whose), ..Self::none() }
    }

    /// A request was published.
    #[inline]
    pub(crate) fn sent<P: Platform>(&mut self, transaction: u64, bytes: usize) {
        let Some(record) = &self.record else { return };
        let words = record.words();
        add(&words.requests, 1);
        add(&words.request_bytes, bytes as u64);
        if self.sampler.is_due() {
            self.start(transaction, P::now());
        }
    }

    #[cold]
    fn start(&mut self, transaction: u64, now_ns: u64) {
        self.sampler.drawn(now_ns);
        self.timed = transaction;
        self.started_ns = now_ns;
    }

    /// Its reply was taken in, by an end that has rung so often.
    #[inline]
    pub(crate) fn answered<P: Platform>(&mut self, transaction: u64, bytes: u32, rings: u64) {
        let Some(record) = &self.record else { return };
        let words = record.words();
        add(&words.replies, 1);
        add(&words.reply_bytes, bytes.into());
        // ORDERING: Relaxed; as in `add`.
        words.rings.store(rings, Relaxed);
        if self.started_ns != 0 && self.timed == transaction {
            self.stop(P::now());
        }
    }

    #[cold]
    fn stop(&mut self, now_ns: u64) {
        if let Some(record) = &self.record {
            note_time(record, now_ns.saturating_sub(self.started_ns));
        }
        self.started_ns = 0;
    }

    /// A reply came whose sender had given up.
    #[cold]
    pub(crate) fn late(&self) {
        self.count(|words| &words.late);
    }

    /// A sender waits for room.
    #[cold]
    pub(crate) fn waits_for_room(&self) {
        self.count(|words| &words.room_waits);
    }

    /// A waiting sender has looked at the clock, and spins on.
    pub(crate) fn looked(&self) {
        self.count(|words| &words.looks);
    }

    /// This end has slept, and will spin for so long before it sleeps again.
    pub(crate) fn slept(&mut self, budget_ns: u64) {
        let Some(record) = &self.record else { return };
        let (words, wake_ns) = (record.words(), learned_wake_ns());
        add(&words.sleeps, 1);
        // ORDERING: Relaxed; as in `add`.
        words.wake_ns.store(wake_ns, Relaxed);
        words.budget_ns.store(budget_ns, Relaxed);
        record.0.place().0.task_words().wake_ns.store(wake_ns, Relaxed);
        self.sampler.soon();
    }

    fn count(&self, word: impl FnOnce(&ConnectionWords) -> &AtomicU64) {
        if let Some(record) = &self.record {
            add(word(record.words()), 1);
        }
    }
}

/// What the receiving half of a server's end counts. One thread uses it at a time.
#[derive(Debug)]
pub struct RequestCounters {
    record: Option<Arc<Record>>,
    sampler: Sampler,
    /// The position of the last message that had no room for its reply, plus one.
    without_room: u64,
}

/// What the replying half of a server's end counts, under the lock of its replies.
#[derive(Debug, Default)]
pub struct ReplyCounters {
    record: Option<Arc<Record>>,
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self { record: None, sampler: Sampler::new(), without_room: 0 }
    }
}

/// Counters of both halves of a server's end in one record of `page`, or such as count nothing if it
/// has none left.
#[must_use]
pub fn server_counters(
    page: &Arc<PageWriter>,
    whose: Identity,
) -> (RequestCounters, ReplyCounters) {
    let record = Record::new(page, whose).map(Arc::new);
    let replies = ReplyCounters { record: record.clone() };
    (RequestCounters { record, ..RequestCounters::default() }, replies)
}

impl RequestCounters {
    /// Fetches where the record lies.
    #[inline]
    pub(crate) fn prefetch_place(&self) {
        if let Some(record) = &self.record {
            prefetch(Arc::as_ptr(record));
        }
    }

    /// Fetches what a transaction counts in, its reply too.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if let Some(record) = &self.record {
            record.prefetch();
        }
    }

    /// A request was taken. Answers since when it is timed, 0 if it is not.
    #[inline]
    pub(crate) fn taken<P: Platform>(&mut self, bytes: u32) -> u64 {
        let Some(record) = &self.record else { return 0 };
        let words = record.words();
        add(&words.requests, 1);
        add(&words.request_bytes, bytes.into());
        if self.sampler.is_due() { self.start(P::now()) } else { 0 }
    }

    #[cold]
    fn start(&mut self, now_ns: u64) -> u64 {
        self.sampler.drawn(now_ns);
        now_ns
    }

    /// The message at `position` waits for room for its reply.
    #[cold]
    pub(crate) fn waits_for_room(&mut self, position: u64) {
        if self.without_room != position + 1 {
            self.without_room = position + 1;
            if let Some(record) = &self.record {
                add(&record.words().room_waits, 1);
            }
        }
    }

    /// This end got up from a sleep.
    pub(crate) fn slept(&mut self) {
        if let Some(record) = &self.record {
            let words = record.words();
            add(&words.sleeps, 1);
            // ORDERING: Relaxed; as in `add`.
            words.wake_ns.store(learned_wake_ns(), Relaxed);
            self.sampler.soon();
        }
    }
}

impl ReplyCounters {
    /// A reply was published, to a request that is timed since `started_ns` unless that is 0, by a
    /// writer that has rung so often.
    #[inline]
    pub(crate) fn replied<P: Platform>(&self, bytes: usize, started_ns: u64, rings: u64) {
        let Some(record) = &self.record else { return };
        let words = record.words();
        add(&words.replies, 1);
        add(&words.reply_bytes, bytes as u64);
        // ORDERING: Relaxed; as in `add`.
        words.rings.store(rings, Relaxed);
        if started_ns != 0 {
            stop_service(record, started_ns, P::now());
        }
    }
}

#[cold]
fn stop_service(record: &Record, started_ns: u64, now_ns: u64) {
    note_time(record, now_ns.saturating_sub(started_ns));
}

fn note_time(record: &Record, ns: u64) {
    if let Some(bucket) = record.words().histogram.get(bucket(ns)) {
        add(bucket, 1);
    }
}

/// What a thread counts that waits for many connections, and what it says of its work.
#[derive(Debug, Default)]
pub struct ThreadCounters {
    record: Option<Arc<RecordPlace<ThreadWords>>>,
    /// The page, if the thread is counted there.
    page: Option<Arc<PageWriter>>,
}

impl ThreadCounters {
    /// Those of one more thread of a task's server, in a thread record of `page`; if it has none left,
    /// the thread is counted and nothing is said of it. Made by any thread; whose they are is said by
    /// [`ThreadCounters::here`].
    #[must_use]
    pub fn new(page: &Arc<PageWriter>) -> Self {
        let record = page.claim_thread().map(Arc::new);
        if let Some(record) = &record {
            let words = record.words();
            // (R1, R2) ORDERING: Relaxed; `key` is released after them.
            for word in [&words.thread, &words.connections, &words.budget_ns, &words.looks] {
                word.store(0, Relaxed);
            }
            words.sleeps.store(0, Relaxed);
            words.handles.store(0, Relaxed);
            words.since_ns.store(monotonic_ns(), Relaxed);
            // (R3) ORDERING(record): Release; as in `Record::new`.
            words.key.store(record.incarnation, Release);
        }
        Self { record, page: Some(Arc::clone(page)) }
    }

    /// The calling thread is the one.
    pub fn here(&self) {
        if let Some(record) = &self.record {
            // ORDERING: Relaxed; as in `add`.
            record.words().thread.store(u64::from(waits::own_thread()), Relaxed);
            waits::receives(record);
        }
    }

    /// It hands a message to its handler: one of [`Port::handled`](crate::server::Port::handled).
    #[inline]
    pub fn handles(&self, handled: u64) {
        if let Some(record) = &self.record {
            // ORDERING: Relaxed; a claim, which whoever decides anything by it looks at twice.
            record.words().handles.store(handled, Relaxed);
        }
    }

    /// It has looked round while it spins: at so many connections, of so many.
    pub(crate) fn looked(&self, polled: usize, connections: usize) {
        if let Some(record) = &self.record {
            let words = record.words();
            add(&words.looks, 1);
            Self::round(words, polled, connections);
        }
    }

    /// It goes to sleep, and will spin for so long before it does so again.
    pub(crate) fn sleeps(&self, connections: usize, budget_ns: u64) {
        if let Some(record) = &self.record {
            let words = record.words();
            add(&words.sleeps, 1);
            // ORDERING: Relaxed; as in `add`.
            if words.thread.load(Relaxed) != u64::from(waits::own_thread()) {
                self.here();
            }
            Self::round(words, 0, connections);
            words.budget_ns.store(budget_ns, Relaxed);
            record.place().0.task_words().wake_ns.store(learned_wake_ns(), Relaxed);
        }
    }

    fn round(words: &ThreadWords, polled: usize, connections: usize) {
        // ORDERING: Relaxed; as in `add`.
        words.connections.store(connections as u64 | (polled as u64) << 32, Relaxed);
        words.handles.store(0, Relaxed);
    }
}

impl Drop for ThreadCounters {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            // (R4) ORDERING(record): Relaxed; as for a connection's record.
            record.words().key.store(0, Relaxed);
            fence(Release);
        }
        if let Some(page) = &self.page {
            page.release_thread(self.record.as_ref().map(|record| record.place().1));
        }
    }
}

#[cfg(test)]
mod tests;
