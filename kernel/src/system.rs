//! The system calls that no safe library offers in the form that the kernel needs. All `unsafe` of
//! the kernel is here.
//!
//! # Safety
//! Invariants of this file:
//! 1. Every pointer given to Linux is to a local or borrowed buffer that outlives the call, with
//!    its true length.
//! 2. A descriptor becomes an `OwnedFd` once: straight from the control message in which Linux
//!    says that it has just been installed.

#![allow(unsafe_code)]

use core::ffi::c_int;
use core::mem::{MaybeUninit, size_of};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Linux 6.16: whether descriptors may be sent to the socket at all. `libc` does not have it yet.
const SO_PASSRIGHTS: c_int = 83;
/// Linux 6.5: messages bring a pidfd of their sender.
const SO_PASSPIDFD: c_int = 76;
/// The type of the control message that holds such a pidfd.
const SCM_PIDFD: c_int = 4;

/// Bytes of control messages that a receive has room for: credentials, a pidfd, and no more.
// SAFETY: computes a number, nothing else.
const CREDENTIALS_SPACE: usize =
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;
// SAFETY: as above.
const PIDFD_SPACE: usize = unsafe { libc::CMSG_SPACE(size_of::<c_int>() as u32) } as usize;

/// A buffer for control messages, aligned as they must be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; CREDENTIALS_SPACE + PIDFD_SPACE],
}

/// A packet that was received, beside its bytes.
#[derive(Debug)]
pub(crate) struct Packet {
    /// Bytes in the buffer.
    pub(crate) bytes: usize,
    /// It was longer than the buffer.
    pub(crate) truncated: bool,
    /// Something came with it for which no room was made. Descriptors, if nothing else was
    /// switched on.
    pub(crate) more: bool,
    /// Who sent it, if that was switched on before it was sent: process, user, group.
    pub(crate) credentials: Option<(u32, u32, u32)>,
    /// The process that sent it, if that was switched on.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// What a receive makes room for beside the bytes. Never for descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing.
    Nothing,
    /// The sender's credentials.
    Credentials,
    /// The sender's credentials and its pidfd.
    Process,
}

/// Receives a packet without waiting; or looks at it and leaves it there.
///
/// No descriptor that a peer sent is installed: there is no room for one.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    room: Room,
    look: bool,
) -> io::Result<Packet> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control { bytes: [0; CREDENTIALS_SPACE + PIDFD_SPACE] };
    // SAFETY: all zeros is a valid msghdr: null pointers and lengths of 0.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_controllen = match room {
        Room::Nothing => 0,
        Room::Credentials => CREDENTIALS_SPACE,
        Room::Process => CREDENTIALS_SPACE + PIDFD_SPACE,
    } as _;
    if room != Room::Nothing {
        message.msg_control = (&raw mut control).cast();
    }
    let look = if look { libc::MSG_PEEK } else { 0 };
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | look;
    // SAFETY: invariant 1: `message` points to `part` (which is `buffer`) and `control`.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let mut packet = Packet {
        bytes,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        more: message.msg_flags & libc::MSG_CTRUNC != 0,
        credentials: None,
        pidfd: None,
    };
    // SAFETY: `message` is as Linux left it: its control length is what lies in `control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header in `control`.
        let libc::cmsghdr { cmsg_level: level, cmsg_type: kind, .. } = unsafe { *header };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                // SAFETY: this type of message holds a ucred; it may lie unaligned.
                let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                packet.credentials = Some((who.pid.cast_unsigned(), who.uid, who.gid));
            }
            (libc::SOL_SOCKET, SCM_PIDFD) => {
                // SAFETY: this type of message holds an int; it may lie unaligned.
                let number = unsafe { data.cast::<c_int>().read_unaligned() };
                // An error in its place if the process has been waited for.
                if number >= 0 {
                    // SAFETY: invariant 2.
                    packet.pidfd = Some(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
            // Nothing else was switched on.
            _ => packet.more = true,
        }
        // SAFETY: as for CMSG_FIRSTHDR; `header` is one of its messages.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(packet)
}

/// Switches a boolean option of the socket level.
fn set(socket: BorrowedFd<'_>, option: c_int, on: bool) -> io::Result<()> {
    let value = c_int::from(on);
    // SAFETY: invariant 1.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has Linux refuse descriptors that are sent to this socket (Linux 6.16).
pub(crate) fn refuse_rights(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, SO_PASSRIGHTS, false)
}

/// Whether Linux refuses descriptors that are sent to this socket.
pub(crate) fn refuses_rights(socket: BorrowedFd<'_>) -> bool {
    let mut value: c_int = 1;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: invariant 1.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    result == 0 && value == 0
}

/// Has messages bring a pidfd of their sender (Linux 6.5).
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set(socket, SO_PASSPIDFD, on)
}

/// Bytes, as Linux accounts for them, that the other end of a Unix socket has not read.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: invariant 1: the request writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Sends a process a signal by number; whichever number, Linux judges it.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: no pointers but a null one, which this call allows.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            core::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a system call with these arguments, for the tests of the filter that refuses it: the error.
///
/// Under the filter none of these calls is carried out. The arguments are such that without it none
/// could touch this process's memory: no address, no descriptor that there is.
#[cfg(test)]
pub(crate) fn raw_call(number: i64, arguments: [u64; 6]) -> Option<rustix::io::Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments name no memory of this process that anybody knows of.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    (result == -1).then(|| {
        let error = io::Error::last_os_error();
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL)
    })
}
