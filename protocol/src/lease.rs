//! How a message names memory that lies in an arena.
//!
//! The payload of a message with the flag [`Header::LEASED`](crate::message::Header::LEASED) begins
//! with descriptors of 16 bytes, the last of which says so; the rest is the payload proper.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0–3 | arena | which, counted from 1 for each connection |
//! | 4–5 | word | of a reply's lease: the number of its release word; else 0 |
//! | 6 | kind | 1 lease, 2 payload, 3 room |
//! | 7 | more | 1 if another descriptor follows, 0 after the last |
//! | 8–11 | place | of the first byte, in units of 64 bytes |
//! | 12–15 | length | bytes, at least 1 |
//!
//! *Lease*: memory that the receiver may read until the transaction is over. *Payload*: the message
//! was longer than the ring carries, and its payload lies there; what follows the descriptors in
//! the ring is then empty. *Room* (requests only; place and word are 0): the reply may carry so many
//! bytes in the server's arena of that id. Each descriptor is a claim of whoever sent it.

use crate::limit::{ARENA_BYTES_MAX, ARENA_UNIT_BYTES, LEASES_MAX};

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

/// The most descriptors in front of a payload: leases, one for the payload and one for room.
pub const DESCRIPTORS_MAX: usize = LEASES_MAX + 2;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory lent for the transaction.
    Lease,
    /// The message's payload.
    Payload,
    /// Room for what the reply lends.
    Room,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Lease => 1,
            Self::Payload => 2,
            Self::Room => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Lease,
            2 => Self::Payload,
            3 => Self::Room,
            _ => return None,
        })
    }
}

/// One descriptor, whose `more` is left to [`write()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Which arena.
    pub arena: u32,
    /// Of a reply's lease: its release word.
    pub word: u16,
    /// What it stands for.
    pub kind: Kind,
    /// Where it begins in the arena, in units of [`ARENA_UNIT_BYTES`].
    pub place: u32,
    /// Its bytes.
    pub length: u32,
}

impl Descriptor {
    /// Where it begins in the arena, in bytes. Below 2^38, whatever the peer claims.
    #[must_use]
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.place as u64 * ARENA_UNIT_BYTES as u64
    }

    /// Just behind its last byte.
    #[must_use]
    #[inline]
    pub const fn end(&self) -> u64 {
        self.offset() + self.length as u64
    }

    #[inline]
    fn to_bytes(self, more: bool) -> [u8; DESCRIPTOR_BYTES] {
        let low = u64::from(self.arena)
            | u64::from(self.word) << 32
            | u64::from(self.kind.to_byte()) << 48
            | u64::from(more) << 56;
        let high = u64::from(self.place) | u64::from(self.length) << 32;
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    /// The descriptor in `bytes`, and whether another follows.
    #[inline]
    fn from_bytes(bytes: [u8; DESCRIPTOR_BYTES]) -> Result<(Self, bool), Malformed> {
        let both = u128::from_le_bytes(bytes);
        let (low, high) = (both as u64, (both >> 64) as u64);
        let kind = Kind::from_byte((low >> 48) as u8).ok_or(Malformed::Kind((low >> 48) as u8))?;
        let more = match low >> 56 {
            0 => false,
            1 => true,
            other => return Err(Malformed::More(other as u8)),
        };
        let length = (high >> 32) as u32;
        if length == 0 || length > ARENA_BYTES_MAX {
            return Err(Malformed::Length(length));
        }
        let descriptor =
            Self { arena: low as u32, word: (low >> 32) as u16, kind, place: high as u32, length };
        Ok((descriptor, more))
    }
}

/// Bytes that are no descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The payload ends within them.
    #[error("a payload of {0} bytes ends within its lease descriptors")]
    Short(usize),
    /// There are more than any message may have.
    #[error("more than {DESCRIPTORS_MAX} lease descriptors")]
    Many,
    /// No such kind.
    #[error("a lease descriptor of unknown kind {0}")]
    Kind(u8),
    /// `more` is neither 0 nor 1.
    #[error("a lease descriptor that says {0} where 0 or 1 is due")]
    More(u8),
    /// Empty, or longer than any arena.
    #[error("a lease of {0} bytes; it must be 1 to {ARENA_BYTES_MAX}")]
    Length(u32),
}

/// Appends `descriptors` to a payload that is being built.
#[inline]
pub fn write(descriptors: &[Descriptor], out: &mut Vec<u8>) {
    for (place, descriptor) in descriptors.iter().enumerate() {
        out.extend_from_slice(&descriptor.to_bytes(place + 1 < descriptors.len()));
    }
}

/// Reads the descriptors in front of `payload` into `out`, and answers the payload proper.
///
/// # Errors
/// [`Malformed`].
#[inline]
pub fn read<'a>(payload: &'a [u8], out: &mut Vec<Descriptor>) -> Result<&'a [u8], Malformed> {
    out.clear();
    let mut rest = payload;
    loop {
        let (bytes, behind) =
            rest.split_first_chunk::<DESCRIPTOR_BYTES>().ok_or(Malformed::Short(payload.len()))?;
        let (descriptor, more) = Descriptor::from_bytes(*bytes)?;
        out.push(descriptor);
        rest = behind;
        if !more {
            return Ok(rest);
        }
        if out.len() == DESCRIPTORS_MAX {
            return Err(Malformed::Many);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTORS_MAX, Descriptor, Kind, Malformed, read, write};
    use crate::limit::ARENA_BYTES_MAX;

    const ONE: Descriptor =
        Descriptor { arena: 7, word: 3, kind: Kind::Lease, place: 0x0012_3456, length: 99 };

    #[test]
    fn descriptors_survive_the_wire_with_what_follows_them() {
        let all = [
            ONE,
            Descriptor { kind: Kind::Payload, length: ARENA_BYTES_MAX, ..ONE },
            Descriptor { kind: Kind::Room, place: 0, word: 0, ..ONE },
        ];
        for count in 1..=all.len() {
            let mut bytes = Vec::new();
            write(&all[..count], &mut bytes);
            bytes.extend_from_slice(b"payload");
            let mut found = Vec::new();
            assert_eq!(read(&bytes, &mut found), Ok(&b"payload"[..]));
            assert_eq!(found, all[..count]);
        }
    }

    #[test]
    fn what_is_no_descriptor_is_refused() {
        let mut good = Vec::new();
        write(&[ONE], &mut good);
        let mut found = Vec::new();
        assert_eq!(read(&[], &mut found), Err(Malformed::Short(0)));
        assert_eq!(read(&good[..15], &mut found), Err(Malformed::Short(15)));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read(&bytes, &mut Vec::new()).map(<[u8]>::len)
        };
        assert_eq!(changed(6, 0), Err(Malformed::Kind(0)));
        assert_eq!(changed(6, 4), Err(Malformed::Kind(4)));
        assert_eq!(changed(7, 2), Err(Malformed::More(2)));
        assert_eq!(changed(7, 1), Err(Malformed::Short(16)), "the one that follows is missing");
        assert_eq!(changed(12, 0), Err(Malformed::Length(0)));
        assert_eq!(changed(15, 0x80), Err(Malformed::Length(0x8000_0063)));
        let endless: Vec<u8> = {
            let mut one = good.clone();
            one[7] = 1;
            one.repeat(DESCRIPTORS_MAX + 3)
        };
        assert_eq!(read(&endless, &mut found), Err(Malformed::Many));
    }

    #[test]
    fn the_farthest_claim_does_not_wrap() {
        let far = Descriptor { place: u32::MAX, length: u32::MAX, ..ONE };
        assert!(far.end() > u64::from(u32::MAX));
    }
}
