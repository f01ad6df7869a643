//! The rival under many clients: a server of Unix stream sockets in one thread, over epoll.
//!
//! As such servers are written where they are written well: non-blocking sockets, level-triggered,
//! many events for one `epoll_wait`, one read and one write for each request. Requests and answers
//! have a fixed length, so nothing has to be parsed or put together.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, socket_with,
};

use super::exactly;
use crate::mechanism::answer;
use crate::role::{Actor, Role, process_cpu_ns};

/// Bytes of a request and of its answer.
pub(crate) const MESSAGE: usize = 40;
/// The first eight bytes of the request after whose answer the server rests.
pub(crate) const STOP: u64 = u64::MAX;

/// Order: take connections until there are that many.
pub(crate) const ADMIT: u64 = 1;
/// Order: serve until told to stop.
pub(crate) const SERVE: u64 = 2;

/// Events that one `epoll_wait` may answer.
const EVENTS: usize = 512;
/// Connections that Linux keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// Epoll's word for the listening socket; connections have their place.
const LISTENER: u64 = u64::MAX;

/// A listening socket without a name in any file system, and where it is.
pub(crate) fn listener() -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let socket = stream()?;
    // Without a name of ours, Linux gives it an abstract one.
    bind(&socket, &SocketAddrUnix::new_unnamed())?;
    listen(&socket, BACKLOG)?;
    let address = getsockname(&socket)?;
    Ok((socket, address.try_into()?))
}

/// A connection to it.
pub(crate) fn open(address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    let socket = stream()?;
    connect(&socket, address)?;
    Ok(socket)
}

fn stream() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// One exchange over a blocking connection.
#[inline]
pub(crate) fn exchange(socket: &OwnedFd, payload: &mut [u8; MESSAGE]) -> io::Result<()> {
    put(socket, payload)?;
    loop {
        match rustix::io::read(socket, payload.as_mut_slice()) {
            Ok(MESSAGE) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells the server to rest.
pub(crate) fn stop(socket: &OwnedFd) -> io::Result<()> {
    let mut payload = [0; MESSAGE];
    payload[..8].copy_from_slice(&STOP.to_le_bytes());
    exchange(socket, &mut payload)
}

fn put(socket: &OwnedFd, payload: &[u8; MESSAGE]) -> io::Result<()> {
    loop {
        match rustix::io::write(socket, payload) {
            Ok(MESSAGE) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The server's process. It is handed the listening socket.
#[derive(Debug)]
pub(crate) struct UnixEpoll;

impl Role for UnixEpoll {
    fn name(&self) -> &'static str {
        "unix-epoll"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [listener] = exactly(descriptors)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Box::new(Loop { epoll, listener, connections: Vec::new(), open: 0, stopped: false }))
    }
}

struct Loop {
    epoll: OwnedFd,
    listener: OwnedFd,
    connections: Vec<Option<OwnedFd>>,
    open: u64,
    stopped: bool,
}

impl Actor for Loop {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let mut events = Vec::with_capacity(EVENTS);
        match *order {
            [ADMIT, total] => {
                while self.open < total {
                    self.turn(&mut events)?;
                }
                Ok(Vec::new())
            }
            [SERVE] => {
                let before = process_cpu_ns();
                self.stopped = false;
                while !self.stopped {
                    self.turn(&mut events)?;
                }
                Ok(vec![process_cpu_ns() - before])
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Loop {
    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            match event.data.u64() {
                LISTENER => self.accept()?,
                place => self.serve(place as usize)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let free = self.connections.iter().rposition(Option::is_none);
            let place = free.unwrap_or(self.connections.len());
            let data = epoll::EventData::new_u64(place as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            if free.is_none() {
                self.connections.push(None);
            }
            self.connections[place] = Some(socket);
            self.open += 1;
        }
    }

    #[inline]
    fn serve(&mut self, place: usize) -> io::Result<()> {
        let Some(Some(socket)) = self.connections.get(place) else { return Ok(()) };
        let mut payload = [0; MESSAGE];
        match rustix::io::read(socket, payload.as_mut_slice()) {
            Ok(MESSAGE) => {}
            // Closing it takes it out of the epoll set.
            Ok(0) | Err(Errno::CONNRESET) => {
                self.connections[place] = None;
                self.open -= 1;
                return Ok(());
            }
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.stopped |= payload[..8] == STOP.to_le_bytes();
        answer(&mut payload);
        put(socket, &payload)
    }
}
