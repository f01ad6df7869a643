//! Frames on kernel sockets: what the kernel and the library both need to speak over one.
//!
//! A kernel socket is `SOCK_SEQPACKET`, one frame a packet: eight bytes of transaction id, a
//! [`Header`], the payload. Descriptors travel from the kernel to a task only, so
//! [`receive_frame`], which accepts them, is the task's; the kernel receives with a function of its
//! own that never installs one.

use rendez_protocol::limit::{FRAME_BYTES_MAX, FRAME_DESCRIPTORS_MAX};
use rendez_protocol::message::Header;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use crate::inherit::{ForkRegistration, adopt_inherited, adopt_started, register_for_fork};

/// Bytes in front of a frame's payload: the transaction id and the header.
pub const PREFIX_BYTES: usize = 8 + Header::BYTES;

/// The longest payload of a frame, in bytes.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - PREFIX_BYTES;

/// Whether an operation on a socket may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Wait for as long as it takes.
    Wait,
    /// Fail with [`io::ErrorKind::WouldBlock`] instead.
    Now,
}

/// One frame, received.
#[derive(Debug)]
pub struct Frame {
    /// The request that it is, or answers; 0 for an event.
    pub transaction: u64,
    /// Its header; `length` is that of `payload`.
    pub header: Header,
    /// What it says.
    pub payload: Vec<u8>,
    /// Descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// A packet that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends within the prefix, so not even a transaction can be named.
    #[error("a frame of {bytes} bytes, which is less than its prefix of {PREFIX_BYTES}")]
    Short {
        /// Bytes of the packet.
        bytes: usize,
    },
    /// The header announces another length than the packet has.
    #[error("a frame whose header says {said} bytes of payload, with {found} after it")]
    Length {
        /// The frame's transaction.
        transaction: u64,
        /// What the header says.
        said: usize,
        /// What is there.
        found: usize,
    },
}

/// The prefix of a frame with `length` bytes of payload.
#[must_use]
pub fn prefix(transaction: u64, code: u16, length: usize) -> [u8; PREFIX_BYTES] {
    // A longer payload than the field holds does not fit a frame either; the sender refuses it.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let header = Header { length, flags: 0, code, room: 0, word: 0 };
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..8].copy_from_slice(&transaction.to_le_bytes());
    bytes[8..].copy_from_slice(&header.to_bytes());
    bytes
}

/// Takes a packet apart into transaction, header and payload.
///
/// # Errors
/// [`FrameError`] if it is shorter than a prefix or its length is not what its header says.
pub fn parse(packet: &[u8]) -> Result<(u64, Header, &[u8]), FrameError> {
    let short = FrameError::Short { bytes: packet.len() };
    let (transaction, rest) = packet.split_first_chunk::<8>().ok_or(short)?;
    let (header, payload) = rest.split_first_chunk::<{ Header::BYTES }>().ok_or(short)?;
    let transaction = u64::from_le_bytes(*transaction);
    let header = Header::from_bytes(*header);
    let said = header.length as usize;
    if said == payload.len() {
        Ok((transaction, header, payload))
    } else {
        Err(FrameError::Length { transaction, said, found: payload.len() })
    }
}

/// Sends one frame, whole or not at all.
///
/// # Errors
/// `InvalidInput` if the payload or the number of descriptors is over the limit of a frame;
/// `WouldBlock` if `mode` is [`Mode::Now`] and there is no room; else what Linux says, a broken
/// pipe (never `SIGPIPE`) if the other end is closed.
pub fn send_frame(
    socket: impl AsFd,
    transaction: u64,
    code: u16,
    payload: &[u8],
    descriptors: &[BorrowedFd<'_>],
    mode: Mode,
) -> io::Result<()> {
    if payload.len() > FRAME_PAYLOAD_BYTES_MAX || descriptors.len() > FRAME_DESCRIPTORS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a frame of {} bytes and {} descriptors; at most {FRAME_PAYLOAD_BYTES_MAX} and \
                 {FRAME_DESCRIPTORS_MAX} fit",
                payload.len(),
                descriptors.len()
            ),
        ));
    }
    let prefix = prefix(transaction, code, payload.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        // The space is that of the most descriptors, checked above, so it always fits.
        let _fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(_fits);
    }
    let flags = match mode {
        Mode::Wait => SendFlags::NOSIGNAL,
        Mode::Now => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    let parts = [IoSlice::new(&prefix), IoSlice::new(payload)];
    loop {
        match sendmsg(&socket, &parts, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            // A packet is sent whole.
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one frame with the descriptors that came with it; `None` at the end of the stream.
///
/// # Errors
/// `WouldBlock` if `mode` is [`Mode::Now`] and nothing is there; `InvalidData` if the packet is no
/// frame, or longer or with more descriptors than a frame may have (what arrived is closed); else
/// what Linux says. If descriptors were lost because this process has too many open, the frame comes
/// without any.
pub fn receive_frame(socket: impl AsFd, mode: Mode) -> io::Result<Option<Frame>> {
    let mut packet = vec![0; FRAME_BYTES_MAX];
    // Room for one descriptor more than allowed, so that too many and too few places can be told
    // apart.
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_DESCRIPTORS_MAX + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = match mode {
        Mode::Wait => RecvFlags::CMSG_CLOEXEC,
        Mode::Now => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    };
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(received) => break received,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = message {
            descriptors.extend(arrived);
        }
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    if received.flags.contains(ReturnFlags::TRUNC) {
        return invalid(format!("a frame of more than {FRAME_BYTES_MAX} bytes"));
    }
    if descriptors.len() > FRAME_DESCRIPTORS_MAX {
        return invalid(format!("a frame with more than {FRAME_DESCRIPTORS_MAX} descriptors"));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // This process has too many open: what came is of no use without the rest, and only who
        // needs it is hurt.
        descriptors.clear();
    }
    packet.truncate(received.bytes);
    match parse(&packet) {
        Ok((transaction, header, payload)) => {
            Ok(Some(Frame { transaction, header, payload: payload.to_vec(), descriptors }))
        }
        Err(error) => invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        FRAME_PAYLOAD_BYTES_MAX, FrameError, Mode, parse, prefix, receive_frame, send_frame,
    };
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::ErrorKind;
    use std::os::fd::{AsFd, OwnedFd};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_frame_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let (c, d) = pair();
        send_frame(&a, 7, 3, b"payload", &[c.as_fd()], Mode::Now).unwrap();
        drop((a, c));
        let frame = receive_frame(&b, Mode::Wait).unwrap().unwrap();
        assert_eq!((frame.transaction, frame.header.code), (7, 3));
        assert_eq!(frame.payload, b"payload");
        let [c] = <[OwnedFd; 1]>::try_from(frame.descriptors).unwrap();
        assert!(rustix::io::fcntl_getfd(&c).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        send_frame(&c, 1, 1, &[], &[], Mode::Now).unwrap();
        assert_eq!(receive_frame(&d, Mode::Now).unwrap().unwrap().transaction, 1);
        assert!(receive_frame(&b, Mode::Now).unwrap().is_none(), "the other end is closed");
    }

    #[test]
    fn a_full_and_an_empty_socket_say_so() {
        let (a, b) = pair();
        assert_eq!(receive_frame(&b, Mode::Now).unwrap_err().kind(), ErrorKind::WouldBlock);
        let error = loop {
            if let Err(error) = send_frame(&a, 0, 0, &[0; 1000], &[], Mode::Now) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let long = vec![0; FRAME_PAYLOAD_BYTES_MAX + 1];
        let error = send_frame(&a, 0, 0, &long, &[], Mode::Now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn rubbish_is_no_frame() {
        assert_eq!(parse(b"short"), Err(FrameError::Short { bytes: 5 }));
        let mut packet = prefix(9, 1, 5).to_vec();
        packet.extend_from_slice(b"four");
        let expected = FrameError::Length { transaction: 9, said: 5, found: 4 };
        assert_eq!(parse(&packet), Err(expected));

        let (a, b) = pair();
        for rubbish in [&b"x"[..], &packet] {
            rustix::net::send(&a, rubbish, rustix::net::SendFlags::empty()).unwrap();
            assert_eq!(receive_frame(&b, Mode::Now).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let (a, b) = pair();
        let (watched, peer) = pair();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let many = [watched.as_fd(); 9];
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        let frame = prefix(0, 0, 0);
        let parts = [std::io::IoSlice::new(&frame)];
        sendmsg(&a, &parts, &mut control, SendFlags::empty()).unwrap();
        assert!(receive_frame(&b, Mode::Now).is_err());
        drop(watched);
        assert!(receive_frame(&peer, Mode::Now).unwrap().is_none(), "no copy stayed open");
    }
}
