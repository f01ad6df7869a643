//! Rendez's own ring by itself: what its writer and its reader can do, without transactions.
//!
//! The same code and the same memory that connections are made of: segments with one writer each,
//! sealed, mapped by both processes; every header, turn and count of what is free is checked. What
//! is missing is what a connection adds: replies, deadlines, doorbells, counters.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::Host;
use rendez_ipc_core::ring::{Buffer, Reader, Writer};
use rendez_ipc_core::segment::{OwnSegment, PeerSegment};
use rendez_ipc_core::status::memory_file;
use rendez_protocol::kernel::Shape;
use rendez_protocol::message::Header;

use crate::role::{Actor, Role, exactly, thread_cpu_ns};

/// Bytes of a message.
const PAYLOAD: usize = 40;
/// Bytes of the payload areas, which nothing here needs.
const AREA: u32 = 4096;
/// The reader says how far it is this many times in a lap, as the bare one does.
const FREED_PER_LAP: u64 = 4;
/// Looks before a spinning process looks at the clock.
const LOOKS: u32 = 1 << 16;
/// A peer that has done nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

const fn shape(lines: u32) -> Shape {
    Shape { lines, area_bytes: AREA }
}

/// Spins until `ready` answers something, with so many `pause`s of the processor between two looks.
#[inline(always)]
fn spin<T>(pauses: u64, mut ready: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    if let Some(found) = ready()? {
        return Ok(found);
    }
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            for _ in 0..pauses {
                hint::spin_loop();
            }
            if let Some(found) = ready()? {
                return Ok(found);
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Filler {
    ours: Ours<Host>,
    theirs: Theirs<Host>,
    writer: Writer,
}

/// The writing end while its reader maps and seals its own segment.
#[derive(Debug)]
pub(super) struct Waiting {
    ours: Ours<Host>,
    peer: OwnedFd,
    lines: u32,
}

impl Waiting {
    /// Two new segments, and the descriptors with which [`OwnRing`] reads.
    pub(super) fn create(lines: u32) -> io::Result<(Self, [OwnedFd; 2])> {
        let bytes = shape(lines).segment_bytes();
        let (own, peer) = (memory_file("ring", bytes)?, memory_file("ring", bytes)?);
        let (own_again, peer_again) = (own.try_clone()?, peer.try_clone()?);
        let ours = Ours::over(OwnSegment::map(own, shape(lines))?);
        Ok((Self { ours, peer, lines }, [own_again, peer_again]))
    }

    /// Once the reader is ready.
    pub(super) fn ready(self) -> io::Result<Filler> {
        let Self { ours, peer, lines } = self;
        let theirs = Theirs::over(PeerSegment::map(peer, shape(lines))?);
        let writer = Writer::new(&ours);
        Ok(Filler { ours, theirs, writer })
    }
}

impl Filler {
    /// Writes that many messages and waits until all have been read.
    pub(super) fn write(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        let Self { ours, theirs, writer } = self;
        let header = Header { length: 0, flags: 0, code: 1, room: 0, word: 0 };
        let mut payload = [0; PAYLOAD];
        for _ in 0..count {
            spin(pauses, || {
                let room = writer.has_room(theirs, PAYLOAD).map_err(io::Error::other)?;
                Ok(room.then_some(()))
            })?;
            payload[..8].copy_from_slice(&writer.position().to_le_bytes());
            writer.publish(ours, header, hint::black_box(&payload));
        }
        spin(pauses, || {
            writer.refresh(theirs).map_err(io::Error::other)?;
            Ok((writer.freed() == writer.position()).then_some(()))
        })
    }
}

/// The reader's process. Arguments: lines. Orders: messages, and `pause`s between two looks.
#[derive(Debug)]
pub(crate) struct OwnRing;

impl Role for OwnRing {
    fn name(&self) -> &'static str {
        "rendez-ring"
    }

    fn enter(&self, arguments: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [peer, own] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let [lines] = exactly(arguments)?;
        let lines = u32::try_from(lines).map_err(|_| io::ErrorKind::InvalidInput)?;
        let theirs = Theirs::over(PeerSegment::map(peer, shape(lines))?);
        let ours = Ours::over(OwnSegment::map(own, shape(lines))?);
        let reader = Reader::new(&theirs);
        let every = (u64::from(lines) / FREED_PER_LAP).max(1);
        Ok(Box::new(Emptier { ours, theirs, reader, every, buffer: Buffer::new() }))
    }
}

/// The reading end.
struct Emptier {
    ours: Ours<Host>,
    theirs: Theirs<Host>,
    reader: Reader,
    /// It says what is free after so many messages.
    every: u64,
    buffer: Buffer,
}

impl Emptier {
    fn read(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        let Self { ours, theirs, reader, every, buffer } = self;
        for _ in 0..count {
            let header = spin(pauses, || reader.peek(theirs).map_err(io::Error::other))?;
            reader.copy(theirs, &header, buffer);
            if hint::black_box(&*buffer).first_chunk() != Some(&reader.position().to_le_bytes()) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was written"));
            }
            reader.advance(&header);
            if reader.position().is_multiple_of(*every) {
                reader.publish_freed(ours);
            }
        }
        reader.publish_freed(ours);
        Ok(())
    }
}

impl Actor for Emptier {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [count, pauses] = exactly(order)?;
        let before = thread_cpu_ns();
        self.read(count, pauses)?;
        Ok(vec![thread_cpu_ns() - before])
    }
}

#[cfg(test)]
mod tests {
    use super::{OwnRing, Waiting};
    use crate::role::Role;

    #[test]
    fn what_is_written_is_read_in_order() {
        let (waiting, memory) = Waiting::create(8).expect("two memfds");
        let (sealed, when_sealed) = std::sync::mpsc::channel();
        let reading = std::thread::spawn(move || {
            let mut reader = OwnRing.enter(&[8], memory.into()).expect("two segments");
            sealed.send(()).expect("somebody waits for it");
            reader.act(&[100, 1]).expect("all in order");
            reader.act(&[3, 0]).expect("it goes on where it was");
        });
        when_sealed.recv().expect("the reader has come so far");
        let mut writer = waiting.ready().expect("the reader has sealed its own");
        writer.write(100, 1).expect("read to the end");
        writer.write(3, 0).expect("read to the end");
        reading.join().expect("no panic");
    }

    #[test]
    fn a_writer_whose_reader_has_not_sealed_is_not_ready() {
        let (waiting, _memory) = Waiting::create(8).expect("two memfds");
        assert!(waiting.ready().is_err());
    }
}
