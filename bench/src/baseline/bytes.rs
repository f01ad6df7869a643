//! What carries bytes through Linux: pipes and Unix sockets, with blocking reads and writes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::exactly;
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Server, Setting, answer};

/// Two anonymous pipes, one for each direction.
#[derive(Debug)]
pub(crate) struct Pipe;

/// A pair of Unix stream sockets.
#[derive(Debug)]
pub(crate) struct UnixStream;

/// A pair of Unix sockets that keep messages apart.
#[derive(Debug)]
pub(crate) struct UnixSeqpacket;

impl Mechanism for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (request_out, request_in) = io::pipe()?;
        let (answer_out, answer_in) = io::pipe()?;
        launcher.start(&[request_out.into(), answer_in.into()])?;
        Ok(Box::new(Ends { read: answer_out.into(), write: Some(request_in.into()) }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [read, write] = exactly(descriptors)?;
        Ok(server(setting, Ends { read, write: Some(write) }))
    }
}

impl Mechanism for UnixStream {
    fn name(&self) -> &'static str {
        "unix-stream"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        sockets(SocketType::STREAM, launcher)
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [read] = exactly(descriptors)?;
        Ok(server(setting, Ends { read, write: None }))
    }
}

impl Mechanism for UnixSeqpacket {
    fn name(&self) -> &'static str {
        "unix-seqpacket"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        sockets(SocketType::SEQPACKET, launcher)
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [read] = exactly(descriptors)?;
        Ok(server(setting, Ends { read, write: None }))
    }
}

fn sockets(kind: SocketType, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
    let (mine, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    launcher.start(&[theirs])?;
    Ok(Box::new(Ends { read: mine, write: None }))
}

fn server(setting: Setting, ends: Ends) -> Box<dyn Server> {
    Box::new(ByteServer { ends, payload: vec![0; setting.payload_bytes] })
}

/// Where one process reads and where it writes, if that is not the same.
#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: Option<OwnedFd>,
}

impl Ends {
    #[inline]
    fn put(&self, mut payload: &[u8]) -> io::Result<()> {
        let write = self.write.as_ref().unwrap_or(&self.read);
        while !payload.is_empty() {
            match rustix::io::write(write, payload) {
                Ok(count) => payload = &payload[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    #[inline]
    fn take(&self, mut payload: &mut [u8]) -> io::Result<()> {
        while !payload.is_empty() {
            match rustix::io::read(&self.read, &mut *payload) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => payload = &mut payload[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Client for Ends {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            self.put(payload)?;
            self.take(payload)
        })
    }
}

#[derive(Debug)]
struct ByteServer {
    ends: Ends,
    payload: Vec<u8>,
}

impl Server for ByteServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            self.ends.take(&mut self.payload)?;
            answer(&mut self.payload);
            self.ends.put(&self.payload)?;
        }
        Ok(())
    }
}
