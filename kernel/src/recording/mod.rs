//! Recordings: what a running kernel's machine was told, and what it said, in a file.
//!
//! The machine is pure, so the list of its inputs is its whole history. A recording holds them in
//! order, each with a digest of the effects that it came to. Run again ([`replay`]), the same inputs
//! must come to the same effects, bit for bit, or the machine has read something that it was not
//! told, or it is not the machine that was recorded.
//!
//! # The file
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`FORMAT`], little-endian |
//! | then frames | 4 bytes of length, 4 of [`checksum`], both little-endian; a [`Frame`] in postcard |
//!
//! The first frame is the [`Header`], the last one the [`End`], if the kernel came to say it. Input,
//! quotas and effects have no layout but their declaration: a recording is replayed by the version
//! that made it.
//!
//! The digest is FNV-1a over the postcard of the effects (G. Fowler, L. C. Noll, K.-P. Vo, 1991): it
//! is the same everywhere, and finds accidents. It is no proof against somebody who forges one.

pub mod read;
pub mod replay;

use crate::effect::Effect;
use crate::input::{Input, Outcome};
use crate::quota::Quotas;
use rendez_protocol::{Version, encode};
use serde::{Deserialize, Serialize};

/// The first bytes of a recording.
pub const MAGIC: [u8; 8] = *b"RNDZREC\n";
/// Which layout follows. It rises whenever a [`Frame`] is written in another way.
pub const FORMAT: u32 = 1;
/// The longest frame, in bytes. An input is hardly longer than the request that it brings.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// What stands before each frame, in bytes.
pub(crate) const FRAME_HEAD_BYTES: usize = 8;

/// Under what the recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which version of the program recorded.
    pub program: String,
    /// Which kernel protocol it speaks.
    pub protocol: Version,
    /// What the machine began with.
    pub quotas: Quotas,
}

/// One entry of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first.
    Header(Header),
    /// One input.
    Step {
        /// What the machine was told.
        input: Input,
        /// What it came to, by [`digest`]. `None` if the kernel ended over it.
        effects: Option<u64>,
    },
    /// The last.
    End(End),
}

/// How a recording came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum End {
    /// The kernel stopped.
    #[error("the kernel stopped")]
    Stopped,
    /// The recording was as long as it may be; the kernel went on without it.
    #[error("the recording reached its size limit, and the kernel went on without it")]
    Limit,
    /// The file took less than the kernel had to say; it went on without it.
    #[error("the file was written more slowly than the kernel works, which went on without it")]
    Overrun,
}

/// A digest of what an input came to: the same for the same effects, on every machine.
#[must_use]
pub fn digest(outcome: &Outcome, effects: &[Effect]) -> u64 {
    fnv(&encode(&(outcome, effects)))
}

/// What guards a frame's bytes against accidents.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    let sum = fnv(bytes);
    (sum ^ (sum >> 32)) as u32
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Appends a frame's bytes.
pub(crate) fn append(to: &mut Vec<u8>, frame: &Frame) {
    let payload = encode(frame);
    // Far below 2^32: a frame holds one request, whose packet was bounded.
    to.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    to.extend_from_slice(&checksum(&payload).to_le_bytes());
    to.extend_from_slice(&payload);
}

/// The bytes with which a recording begins.
pub(crate) fn preamble(quotas: &Quotas) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        protocol: rendez_protocol::version::PROTOCOL,
        quotas: *quotas,
    };
    append(&mut bytes, &Frame::Header(header));
    bytes
}

#[cfg(test)]
mod tests {
    use super::{checksum, fnv};

    #[test]
    fn the_digest_is_the_published_one() {
        // From the authors' test vectors.
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
        assert_ne!(checksum(b"ab"), checksum(b"ba"));
    }
}
