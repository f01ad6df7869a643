//! A kernel socket and the life of its process: taken over at the start, let go of in a fork.
//!
//! # Safety
//! Invariants of this file:
//! 1. A descriptor becomes an `OwnedFd` here at most once per process (`ADOPTED`).
//! 2. `DEAD`, once not −1, is a descriptor that nobody closes.
//! 3. What runs in a forked child reads atomics and calls `dup3`, all async-signal-safe, and
//!    replaces descriptors without closing one: whoever owns a registered number still owns it.

#![allow(unsafe_code)]

use rendez_protocol::kernel::{SOCKET_VARIABLE, UNDUMPABLE_VARIABLE};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Whether the inherited socket was taken; see invariant 1.
static ADOPTED: AtomicBool = AtomicBool::new(false);

/// Takes the kernel socket that this process inherited, close-on-exec from now on. `None` if there
/// is none ([`SOCKET_VARIABLE`] is not set), or if it was taken before.
///
/// # Errors
/// If the variable does not name a socket of the right sort: it was set by hand, or is left over
/// from a parent that closed the socket.
pub fn adopt_inherited() -> io::Result<Option<OwnedFd>> {
    if std::env::var_os(UNDUMPABLE_VARIABLE).is_some() {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    let Some(value) = std::env::var_os(SOCKET_VARIABLE) else { return Ok(None) };
    let wrong = |why: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{SOCKET_VARIABLE} is {}, {why}", value.display()),
        )
    };
    let number = value.to_str().and_then(|text| text.parse::<RawFd>().ok());
    let Some(number) = number.filter(|number| *number > 2) else {
        return Err(wrong("which is no number of a descriptor beyond the standard ones"));
    };
    // SAFETY: borrowed for the two questions below, which fail cleanly if it is not open. It is
    // not −1: checked above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let kind = (sockopt::socket_domain(borrowed), sockopt::socket_type(borrowed));
    if kind.0 == Err(rustix::io::Errno::BADF) {
        // Left over from an ancestor that was a task; its socket was closed on exec.
        return Ok(None);
    }
    if kind != (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET)) {
        return Err(wrong("which is not an inherited kernel socket"));
    }
    // Relaxed: the flag orders nothing, it only lets one caller through.
    if ADOPTED.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: invariant 1: the swap let nobody else through. The parent left this descriptor to
    // this process for this purpose, so nobody else in it owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Some(socket))
}

/// Takes the descriptors that the starter of this process left it under `numbers`, close-on-exec
/// from now on. At most one of this and [`adopt_inherited`] succeeds in a process, and once.
///
/// # Errors
/// If one is not open, or something was taken before.
pub fn adopt_started(numbers: core::ops::Range<RawFd>) -> io::Result<Vec<OwnedFd>> {
    if numbers.start <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for number in numbers.clone() {
        // SAFETY: borrowed for the question, which fails cleanly if it is not open; it is above 2.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = rustix::io::fcntl_getfd(borrowed)?;
        if flags.contains(rustix::io::FdFlags::CLOEXEC) {
            // Then it was not inherited, and somebody in this process owns it.
            return Err(io::ErrorKind::InvalidInput.into());
        }
    }
    // Relaxed: the flag orders nothing, it only lets one caller through.
    if ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    numbers
        .map(|number| {
            // SAFETY: invariant 1: the swap let nobody else through; it is open, and was left to
            // this process by its starter.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
            Ok(descriptor)
        })
        .collect()
}

/// The most kernel sockets that one process can have registered at a time.
const REGISTERED_MAX: usize = 64;
/// Registered descriptors, −1 where there is none. Written by the process's threads one place at a
/// time, read by the child of a fork.
static REGISTERED: [AtomicI32; REGISTERED_MAX] = [const { AtomicI32::new(-1) }; REGISTERED_MAX];
/// One end of a socket pair whose other end is closed; see invariant 2.
static DEAD: AtomicI32 = AtomicI32::new(-1);

/// A kernel socket's entry in the list of those that a forked child lets go of. Dropping it takes
/// the socket off the list: do that before closing the socket.
#[derive(Debug)]
pub struct ForkRegistration {
    place: usize,
}

impl Drop for ForkRegistration {
    fn drop(&mut self) {
        // Relaxed: only a fork reads it, and a fork sees what its own thread sees of memory.
        REGISTERED[self.place].store(-1, Ordering::Relaxed);
    }
}

/// Has `socket` let go of in every forked child of this process: there its number then names a
/// socket at its end, and the kernel hears of this process's death whatever the child does.
///
/// # Errors
/// If 64 sockets are registered already, or Linux refuses what is set up at the first use.
pub fn register_for_fork(socket: BorrowedFd<'_>) -> io::Result<ForkRegistration> {
    install()?;
    let number = socket.as_raw_fd();
    REGISTERED
        .iter()
        .position(|place| {
            // Relaxed: as in `drop`; the exchange alone makes the place ours.
            place.compare_exchange(-1, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
        .map(|place| ForkRegistration { place })
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{REGISTERED_MAX} kernel sockets are open in this process already"),
            )
        })
}

/// Makes `DEAD` and installs the fork handler, once.
fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| {
        let (dead, _closed) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(rustix::io::Errno::raw_os_error)?;
        // INVARIANT 2: leaked. Release: pairs with the Acquire in `in_child`.
        DEAD.store(dead.into_raw_fd(), Ordering::Release);
        // SAFETY: `in_child` is safe to run in the child of a fork: invariant 3.
        match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
            0 => Ok(()),
            error => Err(error),
        }
    })
    .map_err(io::Error::from_raw_os_error)
}

/// Runs in the child of every fork; see invariant 3.
extern "C" fn in_child() {
    let dead = DEAD.load(Ordering::Acquire);
    for place in &REGISTERED {
        let number = place.load(Ordering::Relaxed);
        if number >= 0 {
            // SAFETY: async-signal-safe; `number` was registered by its owner, who keeps owning
            // it: it is replaced, not closed.
            let _ = unsafe { libc::dup3(dead, number, libc::O_CLOEXEC) };
        }
    }
}
