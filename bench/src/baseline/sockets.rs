//! Sockets, with blocking reads and writes: Unix sockets of each type, and TCP and UDP over the
//! loopback interface.
//!
//! Their buffers are as Linux makes them; TCP sends at once instead of collecting (`TCP_NODELAY`),
//! as every program does that waits for answers.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::bytes::{Ends, server};
use super::{exactly, lacking};
use crate::Launcher;
use crate::mechanism::{Client, Mechanism, Server, Setting};

/// Bytes that fit into one datagram of IPv4: 65535 less the headers of IP and UDP.
const UDP_BYTES: usize = 65535 - 20 - 8;

/// What Linux itself puts into the buffer of a Unix socket beside a message, in bytes.
const UNIX_OVERHEAD: usize = 32;

/// A pair of connected sockets.
#[derive(Debug)]
pub(crate) enum Sockets {
    /// Unix sockets that carry a stream.
    UnixStream,
    /// Unix sockets that carry messages, without a connection: a peer's end goes unnoticed.
    UnixDatagram,
    /// Unix sockets that carry messages over a connection.
    UnixSeqpacket,
    /// TCP over the loopback interface.
    Tcp,
    /// UDP over the loopback interface, both ends connected. Nothing is lost there as long as a
    /// single datagram is under way.
    Udp,
}

impl Sockets {
    /// Both ends: the client's, the partner's.
    fn pair(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        match self {
            Self::UnixStream => unix(SocketType::STREAM),
            Self::UnixDatagram => unix(SocketType::DGRAM),
            Self::UnixSeqpacket => unix(SocketType::SEQPACKET),
            Self::Tcp => tcp().map_err(|error| lacking("TCP over the loopback interface", error)),
            Self::Udp => udp().map_err(|error| lacking("UDP over the loopback interface", error)),
        }
    }

    fn ends(&self, socket: OwnedFd) -> Ends {
        match self {
            Self::UnixDatagram | Self::Udp => Ends::silent(socket),
            Self::UnixStream | Self::UnixSeqpacket | Self::Tcp => Ends::new(socket, None),
        }
    }
}

impl Mechanism for Sockets {
    fn name(&self) -> &'static str {
        match self {
            Self::UnixStream => "unix-stream",
            Self::UnixDatagram => "unix-datagram",
            Self::UnixSeqpacket => "unix-seqpacket",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        match self {
            Self::UnixStream | Self::Tcp => Ok(()),
            Self::Udp if payload_bytes <= UDP_BYTES => Ok(()),
            Self::Udp => Err(format!("a UDP datagram holds at most {UDP_BYTES} bytes")),
            Self::UnixDatagram | Self::UnixSeqpacket => {
                // What cannot be found out is found out by trying.
                let Ok((socket, _)) = unix(SocketType::DGRAM) else { return Ok(()) };
                let buffer = sockopt::socket_send_buffer_size(&socket).unwrap_or(usize::MAX);
                let most = buffer.saturating_sub(UNIX_OVERHEAD);
                if payload_bytes <= most {
                    return Ok(());
                }
                Err(format!(
                    "a message on a Unix socket has at most {most} bytes here \
                     (net.core.wmem_default)"
                ))
            }
        }
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) = self.pair()?;
        launcher.start(&[theirs])?;
        Ok(Box::new(self.ends(mine)))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [socket] = exactly(descriptors)?;
        Ok(server(setting, self.ends(socket)))
    }
}

fn unix(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

fn tcp() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mine = TcpStream::connect(listener.local_addr()?)?;
    let own = mine.local_addr()?;
    // Anybody on this machine may have connected meanwhile.
    let theirs = loop {
        let (socket, from) = listener.accept()?;
        if from == own {
            break socket;
        }
    };
    mine.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((mine.into(), theirs.into()))
}

fn udp() -> io::Result<(OwnedFd, OwnedFd)> {
    let mine = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let theirs = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    mine.connect(theirs.local_addr()?)?;
    theirs.connect(mine.local_addr()?)?;
    Ok((mine.into(), theirs.into()))
}

#[cfg(test)]
mod tests {
    use super::{Sockets, UDP_BYTES};
    use crate::mechanism::Mechanism;

    #[test]
    fn the_limits_of_messages_are_those_of_linux() {
        for sockets in [Sockets::UnixDatagram, Sockets::UnixSeqpacket, Sockets::Udp] {
            let (mine, theirs) = sockets.pair().expect("a pair");
            let most = (1..=1 << 20).rev().step_by(8).find(|most| sockets.carries(*most).is_ok());
            let most = most.expect("it carries something");
            assert_eq!(rustix::io::write(&mine, &vec![1; most]).expect("it fits"), most);
            assert_eq!(rustix::io::read(&theirs, &mut vec![0; most]).expect("arrived"), most);
            let reason = sockets.carries(most + 8).expect_err("this was the limit");
            assert!(reason.contains("at most"), "{reason}");
            assert!(rustix::io::write(&mine, &vec![1; most + 8]).is_err());
        }
        assert!(Sockets::Udp.carries(UDP_BYTES).is_ok());
        assert!(Sockets::Tcp.carries(1 << 24).is_ok());
    }
}
