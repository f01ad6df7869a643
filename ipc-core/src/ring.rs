//! The line ring: one writer, one reader, each in its own process.
//!
//! # Words
//! A segment's ring has *N* lines (a power of two). Message *p* (counted from 0, 64 bits, never
//! wrapping) starts on line *p mod N* with *turn* `p / N + 1`, modulo 2^32. Its payload's first 40
//! bytes lie in the line, the rest in the payload area, which is a ring of bytes used in the order
//! of the messages, each rounded up to 64. Nothing in a message says where its payload lies: both
//! sides count for themselves, so there is no offset to lie about. Since the start lines hold
//! nothing but starts, no payload can forge a turn.
//!
//! # Steps
//! Writer: (W1) there is room: fewer than *N* messages, and less than the area, lie between what
//! was published and what the reader has *freed*; (W2) write payload and header; (W3) publish the
//! turn. Reader: (R1) look at the turn of the next line; (R2) copy the header, check the copy;
//! (R3) copy the payload; (R4) move on, and say what is *freed*.
//!
//! # Why these orderings
//! W3 releases what R1 acquires, so R2 and R3 see what W2 wrote. R4 releases what W1 acquires, so
//! W2 of the next lap writes nothing that R2 or R3 still reads.
//!
//! # If the peer dies or lies here
//! A writer that dies before W3 has published nothing. A turn that is neither this lap's nor the
//! last one's, a length beyond the area, or a *freed* that runs backwards or ahead of what was
//! published is a [`Fault`], and the connection ends; a copy of rubbish is rubbish in a private
//! buffer. Models: `ring_publishes`, `ring_full_and_empty`, `ring_wraps`, and their
//! twins.

use crate::half::{Ours, Theirs};
use crate::platform::Platform;
use rendez_protocol::limit::INLINE_BYTES;
use rendez_protocol::message::{Header, area_bytes};

/// What a peer did that no honest one does. The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line's turn is of another lap than can be.
    #[error("the peer's ring shows turn {found} where only {expected} or the one before can be")]
    Turn {
        /// What the line holds.
        found: u32,
        /// What the next message will hold.
        expected: u32,
    },
    /// A message is longer than the segment can carry.
    #[error("the peer announces {length} bytes in a segment that carries at most {most}")]
    Length {
        /// What the header says.
        length: u32,
        /// The most.
        most: usize,
    },
    /// The peer says it freed what it cannot have.
    #[error("the peer says it has freed {freed} messages of {published}")]
    Freed {
        /// What it says.
        freed: u64,
        /// How many there were.
        published: u64,
    },
    /// A reply for a transaction that is not in flight.
    #[error("the peer replies to transaction {0}, which is not in flight")]
    Transaction(u64),
    /// What the peer says of leases cannot be.
    #[error("{0}")]
    Lease(crate::lease::LeaseFault),
    /// The peer asks for more reply room than its own limits allow.
    #[error("the peer asks for {asked} bytes of reply room in an area of {area}")]
    Room {
        /// What it asks for.
        asked: usize,
        /// What there is.
        area: usize,
    },
}

/// With this many messages under way, the line as many further on is fetched ahead: a line comes from
/// the other processor in the time that this many take, and fences wait for it. With fewer, the
/// peer may be looking at that very line.
pub(crate) const AHEAD: u64 = 8;

/// A private, growing buffer for payloads: its bytes are kept between messages.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    flags: u8,
}

impl Buffer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), length: 0, flags: 0 }
    }

    /// The flags of the message whose payload this is.
    #[must_use]
    #[inline]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    #[inline]
    fn set_length(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        self.length = length;
        &mut self.bytes[..length]
    }

    /// Replaces the content, with no flags.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.flags = 0;
        self.set_length(bytes.len()).copy_from_slice(bytes);
    }

    /// The content.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl core::ops::Deref for Buffer {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// The turn of message `position` in a ring of `lines`.
#[inline]
pub(crate) const fn turn_of(position: u64, lines: u32) -> u32 {
    ((position >> lines.trailing_zeros()) as u32).wrapping_add(1)
}

/// The writer's own count of its ring.
#[derive(Debug)]
pub struct Writer {
    lines: u32,
    area: u64,
    published: u64,
    /// How many messages the reader has freed, as far as we know.
    freed: u64,
    area_published: u64,
    area_freed: u64,
    /// Where each line's message ends in the payload area.
    ends: Box<[u64]>,
}

impl Writer {
    /// The writer of an unused segment.
    #[must_use]
    pub fn new<P: Platform>(ours: &Ours<P>) -> Self {
        let lines = ours.lines();
        Self {
            lines,
            area: ours.area_bytes() as u64,
            published: 0,
            freed: 0,
            area_published: 0,
            area_freed: 0,
            ends: vec![0; lines as usize].into_boxed_slice(),
        }
    }

    /// The position of the next message.
    #[must_use]
    #[inline]
    pub const fn position(&self) -> u64 {
        self.published
    }

    /// The turn with which message `position` was or will be published.
    pub(crate) const fn turn(&self, position: u64) -> u32 {
        turn_of(position, self.lines)
    }

    /// The longest payload that one message can ever carry.
    #[must_use]
    pub const fn payload_bytes_max(&self) -> usize {
        self.area as usize + INLINE_BYTES
    }

    /// Messages that the reader has freed, as far as we know.
    #[must_use]
    pub const fn freed(&self) -> u64 {
        self.freed
    }

    /// Bytes of the area that the reader has freed, all in all.
    pub(crate) const fn area_freed(&self) -> u64 {
        self.area_freed
    }

    const fn fits(&self, area: u64) -> bool {
        self.published - self.freed < self.lines as u64
            && self.area_published - self.area_freed + area <= self.area
    }

    /// (W1) Whether a payload of `length` bytes can be published now.
    ///
    /// # Errors
    /// [`Fault::Freed`].
    #[inline]
    pub fn has_room<P: Platform>(
        &mut self,
        theirs: &Theirs<P>,
        length: usize,
    ) -> Result<bool, Fault> {
        let area = area_bytes(length) as u64;
        if self.fits(area) {
            return Ok(true);
        }
        self.refresh(theirs)?;
        Ok(self.fits(area))
    }

    /// Reads what the reader has freed.
    ///
    /// # Errors
    /// [`Fault::Freed`].
    pub fn refresh<P: Platform>(&mut self, theirs: &Theirs<P>) -> Result<(), Fault> {
        let freed = theirs.freed();
        self.set_freed(freed)
    }

    /// Takes note that the first `freed` messages are free.
    pub(crate) fn set_freed(&mut self, freed: u64) -> Result<(), Fault> {
        if freed < self.freed || freed > self.published {
            return Err(Fault::Freed { freed, published: self.published });
        }
        if freed > self.freed {
            self.freed = freed;
            self.area_freed = self.ends[(freed - 1) as usize & (self.lines as usize - 1)];
        }
        Ok(())
    }

    /// Takes note that a reply has arrived for message `position`: its server freed it, and all
    /// before it, before it answered. If that is a lie it is the server's loss.
    #[inline]
    pub(crate) fn answered(&mut self, position: u64) {
        if position >= self.freed && position < self.published {
            self.freed = position + 1;
            self.area_freed = self.ends[position as usize & (self.lines as usize - 1)];
        }
    }

    /// (W2, W3) Publishes a message for which there is room, and answers its position.
    #[inline(always)]
    pub fn publish<P: Platform>(&mut self, ours: &Ours<P>, header: Header, payload: &[u8]) -> u64 {
        let position = self.published;
        let (inline, rest) = payload.split_at(payload.len().min(INLINE_BYTES));
        if !rest.is_empty() {
            let offset = self.area_published as usize & (self.area as usize - 1);
            let (first, second) = rest.split_at(rest.len().min(self.area as usize - offset));
            ours.write_area(offset, first);
            if !second.is_empty() {
                ours.write_area(0, second);
            }
            self.area_published += area_bytes(payload.len()) as u64;
        }
        ours.write_line(position, Header { length: payload.len() as u32, ..header }, inline);
        self.ends[position as usize & (self.lines as usize - 1)] = self.area_published;
        let turn = turn_of(position, self.lines);
        ours.reset_mark(position, turn);
        ours.publish_turn(position, turn);
        self.published += 1;
        position
    }
}

/// The reader's own count of the peer's ring.
#[derive(Debug)]
pub struct Reader {
    lines: u32,
    area: u64,
    position: u64,
    area_position: u64,
}

impl Reader {
    /// The reader of an unused segment.
    #[must_use]
    pub fn new<P: Platform>(theirs: &Theirs<P>) -> Self {
        Self {
            lines: theirs.lines(),
            area: theirs.area_bytes() as u64,
            position: 0,
            area_position: 0,
        }
    }

    /// The position of the next message.
    #[must_use]
    #[inline]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// (R1, R2) The header of the next message, if there is one.
    ///
    /// # Errors
    /// [`Fault::Turn`], [`Fault::Length`].
    #[inline(always)]
    pub fn peek<P: Platform>(&self, theirs: &Theirs<P>) -> Result<Option<Header>, Fault> {
        let expected = turn_of(self.position, self.lines);
        let found = theirs.turn(self.position);
        if found != expected {
            return if found == expected.wrapping_sub(1) {
                Ok(None)
            } else {
                Err(Fault::Turn { found, expected })
            };
        }
        let header = theirs.header(self.position);
        let most = self.area as usize + INLINE_BYTES;
        if header.length as usize > most {
            return Err(Fault::Length { length: header.length, most });
        }
        Ok(Some(header))
    }

    /// Whether [`Reader::peek`] would answer anything but *nothing yet*: the shortest look there is.
    #[inline(always)]
    pub(crate) fn has_news<P: Platform>(&self, theirs: &Theirs<P>) -> bool {
        theirs.turn(self.position) != turn_of(self.position, self.lines).wrapping_sub(1)
    }

    /// (R3) Copies the payload of the message whose header [`Reader::peek`] answered.
    #[inline(always)]
    pub fn copy<P: Platform>(&self, theirs: &Theirs<P>, header: &Header, out: &mut Buffer) {
        let length = header.length as usize;
        out.flags = header.flags;
        let out = out.set_length(length);
        let (inline, rest) = out.split_at_mut(length.min(INLINE_BYTES));
        theirs.inline(self.position, inline);
        if !rest.is_empty() {
            let offset = self.area_position as usize & (self.area as usize - 1);
            let (first, second) = rest.split_at_mut(rest.len().min(self.area as usize - offset));
            theirs.read_area(offset, first);
            if !second.is_empty() {
                theirs.read_area(0, second);
            }
        }
    }

    /// Whether the sender has withdrawn the next message.
    pub(crate) fn is_withdrawn<P: Platform>(&self, theirs: &Theirs<P>) -> bool {
        theirs.mark(self.position) == turn_of(self.position, self.lines)
    }

    /// (R4) Moves past the message; [`Reader::publish_freed`] follows.
    #[inline]
    pub fn advance(&mut self, header: &Header) {
        self.position += 1;
        self.area_position += area_bytes(header.length as usize) as u64;
    }
}

impl Reader {
    /// (R4) Says in our own segment that all messages before the position are free.
    #[inline]
    pub fn publish_freed<P: Platform>(&self, ours: &Ours<P>) {
        ours.set_freed(self.position);
    }
}

/// A header with nothing but a code and a word.
#[inline]
pub(crate) const fn plain(code: u16, room: u16, word: u64) -> Header {
    Header { length: 0, flags: 0, code, room, word }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Fault, Reader, Writer, plain};
    use crate::half::{Ours, Theirs};
    use crate::platform::Host;
    use crate::segment::{OwnSegment, PeerSegment, SEALS};
    use crate::status::memory_file;
    use rendez_protocol::kernel::Shape;

    const LINES: u32 = 4;

    fn segment() -> (Ours<Host>, Theirs<Host>) {
        let shape = Shape { lines: LINES, area_bytes: 4096 };
        let file = memory_file("ring", shape.segment_bytes()).expect("a memfd");
        let other = file.try_clone().expect("a duplicate");
        let own = OwnSegment::map(file, shape).expect("a segment");
        let _ = rustix::fs::fcntl_add_seals(&other, SEALS);
        (Ours::over(own), Theirs::over(PeerSegment::map(other, shape).expect("a sealed one")))
    }

    /// Reproduces: on the lap on which turns wrap to 0, a mark that was never set looked set.
    #[test]
    fn turns_wrap_and_no_message_is_taken_for_withdrawn() {
        let (ours, theirs) = segment();
        let (mut writer, mut reader) = (Writer::new(&ours), Reader::new(&theirs));
        let start = u64::from(u32::MAX - 1) * u64::from(LINES);
        (writer.published, writer.freed, reader.position) = (start, start, start);
        let mut out = Buffer::new();
        for n in 0..4 * u64::from(LINES) {
            // Before the first lap the lines hold turns of no neighbouring lap: only from then on
            // does an empty look mean that there is nothing.
            if n >= u64::from(LINES) {
                assert_eq!(reader.peek(&theirs), Ok(None));
            }
            writer.publish(&ours, plain(1, 0, 0), &n.to_le_bytes());
            let header = reader.peek(&theirs).expect("no fault").expect("a message");
            reader.copy(&theirs, &header, &mut out);
            assert_eq!(*out, n.to_le_bytes());
            assert!(!reader.is_withdrawn(&theirs), "message {n}");
            if n >= 3 * u64::from(LINES) {
                ours.mark_withdrawn(start + n, writer.turn(start + n));
                assert!(reader.is_withdrawn(&theirs));
            }
            reader.advance(&header);
            writer.set_freed(reader.position()).expect("an honest reader");
        }
    }

    #[test]
    fn claims_that_cannot_be_are_faults() {
        let (ours, theirs) = segment();
        let (mut writer, reader) = (Writer::new(&ours), Reader::new(&theirs));
        writer.publish(&ours, plain(1, 0, 0), &[]);
        assert_eq!(writer.set_freed(2), Err(Fault::Freed { freed: 2, published: 1 }));
        writer.set_freed(1).expect("all of it");
        assert_eq!(writer.set_freed(0), Err(Fault::Freed { freed: 0, published: 1 }));
        ours.publish_turn(0, 7);
        assert_eq!(reader.peek(&theirs), Err(Fault::Turn { found: 7, expected: 1 }));
    }
}
