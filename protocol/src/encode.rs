//! postcard, bounded: nothing that is decoded can make the decoder loop, panic, or allocate more
//! than the message's own size.
//!
//! postcard reads every length from the message and then takes that many elements from what is
//! left of it. serde's own collections reserve at most 1 MiB on such a claim before elements are
//! seen, and a message here is at most [`limit::PAYLOAD_BYTES_MAX`](crate::limit::PAYLOAD_BYTES_MAX)
//! long, usually a few KiB.

use serde::{Deserialize, Serialize};

/// A payload that is not what the operation expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not form the value.
    #[error("malformed payload of {length} bytes: {cause}")]
    Malformed {
        /// Bytes that were given.
        length: usize,
        /// What the decoder said.
        cause: postcard::Error,
    },
    /// The value is there, and more bytes after it.
    #[error("malformed payload: {extra} bytes after its end")]
    Trailing {
        /// How many bytes were left over.
        extra: usize,
    },
}

/// The bytes of `value`.
///
/// # Panics
/// Only if `value` cannot be serialised at all (a map of unknown length, say), which is a mistake
/// in the type and shows at its first use.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match postcard::to_stdvec(value) {
        Ok(bytes) => bytes,
        Err(cause) => panic!("{} cannot be encoded: {cause}", core::any::type_name::<T>()),
    }
}

/// The value in `bytes`, all of them.
///
/// # Errors
/// [`DecodeError`] if the bytes are too few, too many, or not such a value.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    match decode_first(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(DecodeError::Trailing { extra: rest.len() }),
    }
}

/// The value at the start of `bytes`, and the raw bytes after it.
///
/// # Errors
/// [`DecodeError::Malformed`] if the bytes are too few or do not begin with such a value.
pub fn decode_first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), DecodeError> {
    postcard::take_from_bytes(bytes)
        .map_err(|cause| DecodeError::Malformed { length: bytes.len(), cause })
}

/// As many of `entries` as fit a reply of `room` bytes that holds them and a flag, and whether
/// there are more. One that is too long by itself is taken nevertheless: the reply then tells the
/// sender how much room it needs, where an empty page would tell it nothing.
#[must_use]
pub fn page<T: Serialize>(entries: impl IntoIterator<Item = T>, room: usize) -> (Vec<T>, bool) {
    // The vector's length takes at most five bytes, the flag one.
    let mut left = room.saturating_sub(6);
    let mut page = Vec::new();
    for entry in entries {
        let length = encode(&entry).len();
        if length > left && !page.is_empty() {
            return (page, true);
        }
        left = left.saturating_sub(length);
        page.push(entry);
    }
    (page, false)
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, decode, encode, page};

    #[test]
    fn a_page_fits_its_room_and_is_never_empty_without_need() {
        let entries = || (0..100u32).map(|i| format!("{i:0>10}"));
        for room in 0..300 {
            let (taken, more) = page(entries(), room);
            assert!(!taken.is_empty() && more);
            assert!(taken.len() == 1 || encode(&(&taken, more)).len() <= room);
        }
        assert_eq!(page(entries(), 4096).0.len(), 100);
        assert_eq!(page(Vec::<u8>::new(), 0), (vec![], false));
    }

    #[test]
    fn round_trip_and_exact_length() {
        let bytes = encode(&("name", 7u32));
        assert_eq!(decode::<(&str, u32)>(&bytes), Ok(("name", 7)));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<(&str, u32)>(&longer), Err(DecodeError::Trailing { extra: 1 }));
        for cut in 0..bytes.len() {
            assert!(decode::<(&str, u32)>(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_length_that_lies_is_refused_without_being_believed() {
        // A vector that claims 2^32 - 1 elements.
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3];
        assert!(decode::<Vec<u64>>(&lie).is_err());
        assert!(decode::<String>(&lie).is_err());
        assert!(decode::<&[u8]>(&lie).is_err());
    }
}
