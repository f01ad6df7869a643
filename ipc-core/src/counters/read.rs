//! What is read of a task page by whoever holds INSPECT: claims, copied, bounded and told apart.

use super::{
    CLIENT, CONNECTIONS_OFFSET, ConnectionWords, HEAD_BYTES, Histogram, Identity, RECORD_BYTES,
    RECORDS_MAX, SERVER, Side, THREADS_MAX, THREADS_OFFSET, ThreadWords,
};
use crate::page::{PAGE_BYTES, WAIT_BYTES, WAITS_MAX, WAITS_OFFSET};
use crate::status::check_sealed;
use crate::waits::{Claim, Receiving};
use rendez_protocol::limit::STATUS_WORDS;
use rendez_protocol::{ConnectionId, TaskId};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What a task claims of one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Which use of the record it is: another key is another connection.
    pub key: u64,
    /// Whose it is.
    pub whose: Identity,
    /// Since when, in ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Requests published (client) or taken (server).
    pub requests: u64,
    /// Their payloads, in bytes.
    pub request_bytes: u64,
    /// Replies taken in (client) or published (server).
    pub replies: u64,
    /// Their payloads, in bytes.
    pub reply_bytes: u64,
    /// Replies whose sender had given up.
    pub late: u64,
    /// Times that a message waited for room: a request in the ring, a reply's in the other.
    pub room_waits: u64,
    /// Looks at the clock while spinning.
    pub looks: u64,
    /// Times that this end slept.
    pub sleeps: u64,
    /// Times that it woke the other end.
    pub rings: u64,
    /// What a wake-up costs, as it was last learned, in ns; 0 if it never slept.
    pub wake_ns: u64,
    /// For how long it spins before it sleeps, as of its last sleep, in ns, `u64::MAX` for ever.
    pub budget_ns: u64,
    /// Round trips (client) or service times (server), sampled.
    pub histogram: Histogram,
}

/// What a task claims of one of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Which use of the record it is.
    pub key: u64,
    /// The thread, as Linux numbers it; 0 if it has not begun.
    pub thread: u32,
    /// Connections that it waits for.
    pub connections: u64,
    /// How many of them it polled when it last said so.
    pub polled: u64,
    /// Looks round while spinning.
    pub looks: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// The message that it was given last, by the index of its connection's status word and its
    /// transaction, until it has found nothing more to do.
    pub handles: Option<(u32, u64)>,
    /// For how long it spins before it sleeps, as of its last sleep, in ns, `u64::MAX` for ever.
    pub budget_ns: u64,
    /// Since when it counts, in ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

/// What the head of a page claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Connection records to look at.
    pub records: usize,
    /// What a wake-up costs, as the task has learned, in ns; 0 if it never slept.
    pub wake_ns: u64,
    /// How many threads its server has, those without a record too.
    pub receivers: u32,
    /// Whom its threads wait for.
    pub waits: Vec<Claim>,
    /// Threads that wait for many.
    pub threads: Vec<ThreadCounts>,
}

/// A task's page, open for reading: no mapping, so that holes stay holes and nothing that its owner
/// does can be felt here.
#[derive(Debug)]
pub struct PageFile {
    file: OwnedFd,
}

/// Connection records that are copied at a time.
const RECORDS_AT_ONCE: usize = 64;

impl PageFile {
    /// The page behind `file`.
    ///
    /// # Errors
    /// `InvalidData` if it is no task page, or not sealed.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        check_sealed(file.as_fd(), PAGE_BYTES)?;
        Ok(Self { file })
    }

    /// Copies `bytes.len()` bytes from `offset` on.
    fn copy(&self, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(&self.file, &mut bytes[done..], (offset + done) as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the head of the page says.
    ///
    /// # Errors
    /// What Linux says.
    pub fn head(&self) -> io::Result<Head> {
        let mut bytes = vec![0; HEAD_BYTES];
        self.copy(0, &mut bytes)?;
        let waits = (0..WAITS_MAX).filter_map(|place| {
            let offset = WAITS_OFFSET + place * WAIT_BYTES;
            Claim::new([0, 8, 16, 24].map(|at| word(&bytes, offset + at)))
        });
        let threads = (0..THREADS_MAX).filter_map(|place| {
            thread(&bytes[THREADS_OFFSET + place * size_of::<ThreadWords>()..])
        });
        Ok(Head {
            records: usize::try_from(word(&bytes, 0)).map_or(RECORDS_MAX, |n| n.min(RECORDS_MAX)),
            wake_ns: word(&bytes, 8),
            receivers: u32::try_from(word(&bytes, 16)).unwrap_or(u32::MAX),
            waits: waits.collect(),
            threads: threads.collect(),
        })
    }

    /// What the page says of connections, of the first `records` records. `each` is called for one
    /// after the other.
    ///
    /// # Errors
    /// What Linux says.
    pub fn connections(
        &self,
        records: usize,
        mut each: impl FnMut(ConnectionCounts),
    ) -> io::Result<()> {
        let mut bytes = vec![0; RECORDS_AT_ONCE * RECORD_BYTES];
        for first in (0..records.min(RECORDS_MAX)).step_by(RECORDS_AT_ONCE) {
            let count = RECORDS_AT_ONCE.min(records.min(RECORDS_MAX) - first);
            let offset = CONNECTIONS_OFFSET + first * RECORD_BYTES;
            // (Q1)
            self.copy(offset, &mut bytes[..count * RECORD_BYTES])?;
            for place in 0..count {
                let Some(counts) = connection(&bytes[place * RECORD_BYTES..]) else { continue };
                // (Q2)
                let mut key = [0; 8];
                self.copy(offset + place * RECORD_BYTES, &mut key)?;
                if u64::from_le_bytes(key) == counts.key {
                    each(counts);
                }
            }
        }
        Ok(())
    }
}

/// The word at byte `offset`; 0 if it is not there.
fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What a thread record says; `None` if it is free.
fn thread(record: &[u8]) -> Option<ThreadCounts> {
    use core::mem::offset_of;
    let key = word(record, offset_of!(ThreadWords, key));
    (key != 0).then(|| ThreadCounts {
        key,
        thread: word(record, offset_of!(ThreadWords, thread)) as u32,
        connections: word(record, offset_of!(ThreadWords, connections)) & u64::from(u32::MAX),
        polled: word(record, offset_of!(ThreadWords, connections)) >> 32,
        budget_ns: word(record, offset_of!(ThreadWords, budget_ns)),
        looks: word(record, offset_of!(ThreadWords, looks)),
        sleeps: word(record, offset_of!(ThreadWords, sleeps)),
        handles: Receiving::new(0, word(record, offset_of!(ThreadWords, handles))).handles,
        since_ns: word(record, offset_of!(ThreadWords, since_ns)),
    })
}

/// What a connection record says; `None` if it is free or makes no sense.
fn connection(record: &[u8]) -> Option<ConnectionCounts> {
    use core::mem::offset_of;
    let key = word(record, offset_of!(ConnectionWords, key));
    let side = word(record, offset_of!(ConnectionWords, side));
    let status_index = (side >> 32) as u32;
    let side = match side & u64::from(u32::MAX) {
        CLIENT => Side::Client,
        SERVER => Side::Server,
        _ => return None,
    };
    if key == 0 || status_index >= STATUS_WORDS {
        return None;
    }
    let bits = |offset| word(record, offset);
    Some(ConnectionCounts {
        key,
        whose: Identity {
            connection: ConnectionId::from_bits(bits(offset_of!(ConnectionWords, connection))),
            peer: TaskId::from_bits(bits(offset_of!(ConnectionWords, peer))),
            side,
            status_index,
        },
        since_ns: bits(offset_of!(ConnectionWords, since_ns)),
        requests: bits(offset_of!(ConnectionWords, requests)),
        request_bytes: bits(offset_of!(ConnectionWords, request_bytes)),
        replies: bits(offset_of!(ConnectionWords, replies)),
        reply_bytes: bits(offset_of!(ConnectionWords, reply_bytes)),
        late: bits(offset_of!(ConnectionWords, late)),
        room_waits: bits(offset_of!(ConnectionWords, room_waits)),
        looks: bits(offset_of!(ConnectionWords, looks)),
        sleeps: bits(offset_of!(ConnectionWords, sleeps)),
        rings: bits(offset_of!(ConnectionWords, rings)),
        wake_ns: bits(offset_of!(ConnectionWords, wake_ns)),
        budget_ns: bits(offset_of!(ConnectionWords, budget_ns)),
        histogram: core::array::from_fn(|place| {
            bits(offset_of!(ConnectionWords, histogram) + place * 8)
        }),
    })
}
