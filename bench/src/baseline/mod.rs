//! The rivals: what Linux offers, in its natural form, and the floor under all of them.
//!
//! Nothing here is a library for anything but measuring: peers trust each other.

mod bytes;
mod floor;
mod futex;
#[allow(unsafe_code)]
mod shared;

pub(crate) use bytes::{Pipe, UnixSeqpacket, UnixStream};
pub(crate) use floor::Floor;
pub(crate) use futex::Futex;

use std::io;
use std::os::fd::OwnedFd;

/// Exactly `N` descriptors, as the parent process sent them.
fn exactly<const N: usize>(descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    <[OwnedFd; N]>::try_from(descriptors).map_err(|others| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} descriptors arrived where {N} were expected", others.len()),
        )
    })
}
