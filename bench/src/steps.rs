//! What the two ends of the breakdown do with a message: five numbers, encoded and decoded.
//!
//! The same code runs with stamps of the clock between its steps and without, so that what the
//! stamps took can be told from what the steps take.

use std::hint::black_box;

use rendez::Status;
use rendez::service::Reply;

use crate::role::now_ns;

/// Numbers in a request, and in its reply.
const NUMBERS: usize = 5;

/// Bytes of a request, and of its reply.
pub(crate) const BYTES: usize = 8 * NUMBERS;

/// The numbers as they travel.
#[inline]
pub(crate) fn encode(numbers: &[u64; NUMBERS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    bytes
}

/// The numbers that travelled, if there are as many.
#[inline]
pub(crate) fn decode(bytes: &[u8]) -> Option<[u64; NUMBERS]> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let mut numbers = [0; NUMBERS];
    for (number, place) in numbers.iter_mut().zip(bytes.as_chunks().0) {
        *number = u64::from_le_bytes(*place);
    }
    Some(numbers)
}

/// When a server did what, in ns of the clock that both ends share.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stamps {
    /// Its handler began.
    pub(crate) received: u64,
    /// It had the numbers.
    pub(crate) decoded: u64,
    /// It had worked on them.
    pub(crate) served: u64,
    /// Its answer was encoded.
    pub(crate) encoded: u64,
    /// Its answer was published, and the client rung if it slept.
    pub(crate) replied: u64,
}

impl Stamps {
    /// As numbers, in the order of time.
    const fn numbers(self) -> [u64; NUMBERS] {
        [self.received, self.decoded, self.served, self.encoded, self.replied]
    }

    /// What [`numbers`](Self::numbers) said.
    pub(crate) const fn of(numbers: [u64; NUMBERS]) -> Self {
        let [received, decoded, served, encoded, replied] = numbers;
        Self { received, decoded, served, encoded, replied }
    }

    /// Answers a request: each number one higher. With stamps, the reply has those of the
    /// transaction before instead, and `self` has this one's afterwards.
    #[inline]
    pub(crate) fn serve<const STAMPED: bool>(&mut self, payload: &[u8], reply: Reply<'_>) {
        let now = || if STAMPED { now_ns() } else { 0 };
        let received = now();
        let Some(numbers) = black_box(decode(payload)) else {
            return reply.send(Status::MALFORMED, &[]);
        };
        let decoded = now();
        let answer = black_box(numbers.map(|number| number.wrapping_add(1)));
        let served = now();
        let bytes = black_box(encode(&if STAMPED { self.numbers() } else { answer }));
        let encoded = now();
        reply.ok(&bytes);
        if STAMPED {
            *self = Self { received, decoded, served, encoded, replied: now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, decode, encode};

    #[test]
    fn numbers_travel() {
        let numbers = [1, u64::MAX, 0, 1 << 40, 5];
        assert_eq!(decode(&encode(&numbers)), Some(numbers));
        assert_eq!(decode(&[0; BYTES - 1]), None);
        assert_eq!(decode(&[0; BYTES + 1]), None);
    }
}
