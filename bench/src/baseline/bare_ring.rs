//! A bare ring in shared memory: one writer, one reader, one cache line a message, nothing else.
//!
//! What a ring can do at most: no transactions, no replies, no deadlines, no checks, no sleeping,
//! peers that trust each other. Each line holds a turn and 40 bytes of payload, which are copied in
//! and copied out; the reader says now and then how far it is, and the writer looks there only when
//! the ring seems full. Both spin.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariants:
//!
//! 1. A mapping is as long as [`bytes`] says for its number of lines, readable and writable, and
//!    lives exactly as long as the [`Ring`] that made it; the address never leaves but as a reference
//!    bound to that.
//! 2. The memfd behind it is that long and sealed against shrinking before it is mapped, so no
//!    access can fault for lack of it.
//! 3. What lies there consists of atomics only: any bytes are a valid value, and writes by the other
//!    process at any moment are not data races.

use std::hint;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::exactly;
use crate::role::{Actor, Role, exactly as numbers, thread_cpu_ns};

/// Bytes of payload in a line.
pub(crate) const PAYLOAD: usize = 40;
const WORDS: usize = PAYLOAD / 8;

/// How often the processor may be told, between two looks, that it is in a spin loop. Who looks less
/// often leaves the line to the writer; which is best depends on the machine.
pub(crate) const PAUSES: [u64; 3] = [0, 1, SELDOM as u64];
pub(super) const SELDOM: u32 = 8;

/// Looks before a spinning process looks at the clock.
const LOOKS: u32 = 1 << 16;
/// A peer that has done nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// The reader says how far it is this many times in a lap.
const FREED_PER_LAP: u32 = 4;

/// One message, laid out as Rendez lays out its own: a header of 24 bytes, of which a bare ring
/// needs the turn alone, and the payload.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Line {
    pub(super) turn: AtomicU32,
    _unused: [AtomicU32; 5],
    pub(super) payload: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Line>() == 64);
const _: () = assert!(std::mem::offset_of!(Line, payload) == 24);

/// Bytes of the page before the lines, whose first word is how many messages the reader has freed.
const PAGE: usize = 4096;

const fn bytes(lines: u32) -> usize {
    PAGE + lines as usize * size_of::<Line>()
}

/// A mapping of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    at: NonNull<AtomicU64>,
    lines: u32,
}

// SAFETY: invariant 3: a ring is nothing but atomics, for any thread to use.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn create(lines: u32) -> io::Result<(Self, OwnedFd)> {
        let memory = rustix::fs::memfd_create(
            "rendez-bench-ring",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memory, bytes(lines) as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok((Self::map(&memory, lines)?, memory))
    }

    pub(super) fn map(memory: impl AsFd, lines: u32) -> io::Result<Self> {
        let memory = memory.as_fd();
        let length = rustix::fs::fstat(memory)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(memory)?;
        if !lines.is_power_of_two()
            || u64::try_from(length) != Ok(bytes(lines) as u64)
            || !seals.contains(SealFlags::SHRINK)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the ring's memory has the wrong size, or is not sealed",
            ));
        }
        // INVARIANT: 1 and 2, checked just above.
        // SAFETY: a new mapping at an address of Linux's choice overlays nothing.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes(lines),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                memory,
                0,
            )
        }?;
        let at = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at, lines })
    }

    #[inline]
    fn freed(&self) -> &AtomicU64 {
        // SAFETY: invariants 1 to 3; a mapping is aligned to a page.
        unsafe { self.at.as_ref() }
    }

    /// Its lines.
    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: invariant 1: the lines lie after the first page, within the mapping.
        let first = unsafe { self.at.as_ptr().byte_add(PAGE) }.cast::<Line>();
        // SAFETY: invariants 1 to 3; a page is a multiple of a line's alignment.
        unsafe { slice::from_raw_parts(first, self.lines as usize) }
    }

    /// The turn of the message at `position`.
    pub(super) const fn turn(&self, position: u64) -> u32 {
        ((position >> self.lines.trailing_zeros()) as u32).wrapping_add(1)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: invariant 1: nobody holds a reference any more, and nobody else unmaps it.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), bytes(self.lines)) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped");
    }
}

/// Spins until `ready` answers something.
#[inline(always)]
pub(super) fn spin<const PAUSES: u32, T>(mut ready: impl FnMut() -> Option<T>) -> io::Result<T> {
    let mut since = None;
    loop {
        for _ in 0..LOOKS {
            if let Some(value) = ready() {
                return Ok(value);
            }
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
        }
        if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The writer.
#[derive(Debug)]
pub(crate) struct Writer {
    ring: Ring,
    position: u64,
    freed: u64,
}

impl Writer {
    /// A new ring, and the descriptor through which a [`BareRing`] reads it.
    pub(crate) fn create(lines: u32) -> io::Result<(Self, OwnedFd)> {
        let (ring, memory) = Ring::create(lines)?;
        Ok((Self { ring, position: 0, freed: 0 }, memory))
    }

    /// Writes that many messages and waits until all have been read.
    pub(crate) fn write(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        match pauses {
            0 => self.run::<0>(count),
            1 => self.run::<1>(count),
            _ => self.run::<SELDOM>(count),
        }
    }

    fn run<const PAUSES: u32>(&mut self, count: u64) -> io::Result<()> {
        let Self { ring, position, freed } = self;
        let (lines, word) = (ring.lines(), ring.freed());
        let mask = lines.len() - 1;
        let mut payload = [0_u8; PAYLOAD];
        let end = *position + count;
        while *position < end {
            if *position - *freed >= lines.len() as u64 {
                let full = *freed;
                *freed = spin::<PAUSES, _>(|| {
                    // ORDERING(bare ring): Acquire; the reader is done with what it freed. Pairs
                    // with the Release in `Reader::run`.
                    Some(word.load(Ordering::Acquire)).filter(|freed| *freed != full)
                })?;
            }
            payload[..8].copy_from_slice(&position.to_le_bytes());
            let line = &lines[*position as usize & mask];
            for (word, bytes) in line.payload.iter().zip(hint::black_box(&payload).as_chunks().0) {
                // ORDERING: Relaxed; the turn's Release makes it visible.
                word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
            }
            // ORDERING(bare ring): Release; the payload comes first. Pairs with `Reader::run`.
            line.turn.store(ring.turn(*position), Ordering::Release);
            *position += 1;
        }
        *freed =
            spin::<PAUSES, _>(|| Some(word.load(Ordering::Acquire)).filter(|freed| *freed == end))?;
        Ok(())
    }
}

/// The reader's process. Arguments: lines. Orders: messages, and one of [`PAUSES`].
#[derive(Debug)]
pub(crate) struct BareRing;

impl Role for BareRing {
    fn name(&self) -> &'static str {
        "bare-ring"
    }

    fn enter(&self, arguments: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [memory] = exactly(descriptors)?;
        let [lines] = numbers(arguments)?;
        let lines = u32::try_from(lines).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Box::new(Reader { ring: Ring::map(memory, lines)?, position: 0 }))
    }
}

struct Reader {
    ring: Ring,
    position: u64,
}

impl Reader {
    fn run<const PAUSES: u32>(&mut self, count: u64) -> io::Result<()> {
        let Self { ring, position } = self;
        let lines = ring.lines();
        let mask = lines.len() - 1;
        let every = u64::from((ring.lines / FREED_PER_LAP).max(1)) - 1;
        let mut payload = [0_u8; PAYLOAD];
        let end = *position + count;
        while *position < end {
            let line = &lines[*position as usize & mask];
            let turn = ring.turn(*position);
            spin::<PAUSES, _>(|| {
                // ORDERING(bare ring): Acquire; the payload is read after it. Pairs with
                // `Writer::run`.
                (line.turn.load(Ordering::Acquire) == turn).then_some(())
            })?;
            for (word, bytes) in line.payload.iter().zip(payload.as_chunks_mut().0) {
                // ORDERING: Relaxed; the turn's Acquire made it visible.
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
            let read = hint::black_box(&payload);
            if read[..8] != position.to_le_bytes() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was written"));
            }
            *position += 1;
            if *position & every == 0 {
                // ORDERING(bare ring): Release; the payload was read before. Pairs with
                // `Writer::run`.
                ring.freed().store(*position, Ordering::Release);
            }
        }
        ring.freed().store(*position, Ordering::Release);
        Ok(())
    }
}

impl Actor for Reader {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [count, pauses] = numbers(order)?;
        let before = thread_cpu_ns();
        match pauses {
            0 => self.run::<0>(count),
            1 => self.run::<1>(count),
            _ => self.run::<SELDOM>(count),
        }?;
        Ok(vec![thread_cpu_ns() - before])
    }
}

#[cfg(test)]
mod tests {
    use super::{BareRing, Writer};
    use crate::role::Role;

    #[test]
    fn what_is_written_is_read_in_order() {
        let (mut writer, memory) = Writer::create(8).expect("a memfd");
        let reading = std::thread::spawn(|| {
            let mut reader = BareRing.enter(&[8], vec![memory]).expect("mapped again");
            reader.act(&[100, 1]).expect("all in order");
            reader.act(&[3, 0]).expect("it goes on where it was");
        });
        writer.write(100, 1).expect("read to the end");
        writer.write(3, 0).expect("read to the end");
        reading.join().expect("no panic");
    }

    #[test]
    fn a_ring_of_another_size_is_refused() {
        let (_writer, memory) = Writer::create(8).expect("a memfd");
        assert!(BareRing.enter(&[16], vec![memory]).is_err());
    }
}
