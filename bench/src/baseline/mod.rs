//! The rivals: what Linux offers, in its natural form, and the floor under all of them.
//!
//! Nothing here is a library for anything but measuring: peers trust each other.

mod bare_answers;
#[allow(unsafe_code)]
pub(crate) mod bare_ring;
mod bytes;
mod eventfd;
mod file;
mod floor;
mod futex;
mod handover;
#[allow(unsafe_code)]
mod posix_queue;
#[allow(unsafe_code)]
mod semaphore;
#[allow(unsafe_code)]
mod shared;
#[allow(unsafe_code)]
mod signal;
mod sockets;
#[allow(unsafe_code)]
mod system_v_queue;
mod terminal;
pub(crate) mod unix_epoll;

pub(crate) use bare_answers::{Asker, BareAnswers};
pub(crate) use bare_ring::BareRing;
pub(crate) use bytes::{NamedPipe, Pipe};
pub(crate) use eventfd::Eventfd;
pub(crate) use file::RegularFile;
pub(crate) use floor::{Copying, Floor};
pub(crate) use handover::SharedMemory;
pub(crate) use posix_queue::PosixQueue;
pub(crate) use signal::QueuedSignal;
pub(crate) use sockets::Sockets;
pub(crate) use system_v_queue::SystemVQueue;
pub(crate) use terminal::PseudoTerminal;
pub(crate) use unix_epoll::UnixEpoll;

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

/// That this machine does not have what a mechanism needs, or does not permit it, and what Linux
/// said to it: the reason for which a run goes on without the mechanism.
fn lacking(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} is not to be had here: {error}"))
}
