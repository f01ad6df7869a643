//! The header at the start of every message.
//!
//! A message starts on a line of 64 bytes:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0–3 | turn | lap of the ring plus one, published last; written by the ring, not here |
//! | 4–7 | mark | set by a sender that withdraws the message; written by the ring, not here |
//! | 8–10 | length | payload bytes, 24 bits |
//! | 11 | flags | bit 0: the payload begins with lease descriptors; bits 1–7: a request's priority, 0 in a reply |
//! | 12–13 | operation, or in a reply the status | |
//! | 14–15 | room | what the reply may need, in units of 64 bytes beyond the inline bytes |
//! | 16–23 | request: absolute deadline in ns of `CLOCK_MONOTONIC`, 0 for none; reply: the transaction id | |
//! | 24–63 | the first 40 bytes of payload | |
//!
//! A transaction's id is the position of its request in the client's ring, counted from 0 and
//! never reused. All numbers are little-endian. The same sixteen bytes 8–23 stand in front of
//! every frame on a kernel socket, after an eight-byte transaction id.

use crate::limit;

/// Bytes 8 to 23 of a message's line, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes, at most [`limit::PAYLOAD_BYTES_MAX`].
    pub length: u32,
    /// [`Header::LEASED`], and a request's [priority](Header::priority).
    pub flags: u8,
    /// The operation of a request; the [`Status`](crate::Status) of a reply.
    pub code: u16,
    /// Room for the reply, in units of 64 bytes beyond the inline bytes; 0 in a reply.
    pub room: u16,
    /// A request's absolute deadline in ns, 0 for none; a reply's transaction id.
    pub word: u64,
}

impl Header {
    /// Bytes of the encoded form.
    pub const BYTES: usize = 16;

    /// Flag: the payload begins with [lease descriptors](crate::lease).
    pub const LEASED: u8 = 1;

    /// The flags of a request of this priority, from 0 to [`limit::PRIORITY_MAX`]; what is beyond is
    /// that.
    #[must_use]
    #[inline]
    pub const fn flags_of(priority: u8) -> u8 {
        if priority > limit::PRIORITY_MAX { limit::PRIORITY_MAX << 1 } else { priority << 1 }
    }

    /// The priority that a request claims.
    #[must_use]
    #[inline]
    pub const fn priority(self) -> u8 {
        self.flags >> 1
    }

    /// The sixteen bytes.
    #[must_use]
    #[inline]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        let shape = (self.length & 0x00ff_ffff) | (self.flags as u32) << 24;
        let low = shape as u64 | (self.code as u64) << 32 | (self.room as u64) << 48;
        ((self.word as u128) << 64 | low as u128).to_le_bytes()
    }

    /// The header in `bytes`.
    #[must_use]
    #[inline]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let both = u128::from_le_bytes(bytes);
        let low = both as u64;
        Self {
            length: low as u32 & 0x00ff_ffff,
            flags: (low >> 24) as u8,
            code: (low >> 32) as u16,
            room: (low >> 48) as u16,
            word: (both >> 64) as u64,
        }
    }
}

/// The part of a payload of `length` bytes that lies in the payload area, in bytes rounded up to
/// whole lines.
#[must_use]
#[inline]
pub const fn area_bytes(length: usize) -> usize {
    length.saturating_sub(limit::INLINE_BYTES).next_multiple_of(limit::LINE_BYTES)
}

/// The `room` field that lets a reply carry `bytes` of payload. Saturates at what the field holds.
#[must_use]
#[inline]
pub const fn room_for(bytes: usize) -> u16 {
    let lines = area_bytes(bytes) / limit::LINE_BYTES;
    if lines > u16::MAX as usize { u16::MAX } else { lines as u16 }
}

/// The longest payload that fits into `room`.
#[must_use]
#[inline]
pub const fn room_bytes(room: u16) -> usize {
    limit::INLINE_BYTES + room as usize * limit::LINE_BYTES
}

#[cfg(test)]
mod tests {
    use super::{Header, area_bytes, room_bytes, room_for};

    #[test]
    fn header_round_trip() {
        let header = Header {
            length: 0x00ab_cdef,
            flags: 0x9a,
            code: 0x1234,
            room: 0x5678,
            word: u64::MAX - 1,
        };
        assert_eq!(Header::from_bytes(header.to_bytes()), header);
    }

    #[test]
    fn a_priority_stands_beside_the_other_flag() {
        for (wanted, found) in [(0, 0), (1, 1), (127, 127), (128, 127), (255, 127)] {
            let flags = Header::flags_of(wanted) | Header::LEASED;
            let header = Header { length: 0, flags, code: 0, room: 0, word: 0 };
            assert_eq!(header.priority(), found);
            assert_eq!(Header::flags_of(wanted) & Header::LEASED, 0);
        }
    }

    #[test]
    fn room_counts_lines_beyond_the_first() {
        assert_eq!(area_bytes(0), 0);
        assert_eq!(area_bytes(40), 0);
        assert_eq!(area_bytes(41), 64);
        assert_eq!(area_bytes(104), 64);
        assert_eq!(room_for(105), 2);
        for bytes in [0, 1, 40, 41, 104, 105, 4096, 100_000] {
            assert!(room_bytes(room_for(bytes)) >= bytes);
        }
    }
}
