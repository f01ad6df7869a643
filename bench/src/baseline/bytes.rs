//! What carries bytes through Linux by blocking reads and writes: the ends that all such mechanisms
//! have, and the pipes.
//!
//! A request is read to its end before the answer is written, so that neither side ever waits for
//! the other to make room while that one waits too, however long the payload is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, answer};

/// Two anonymous pipes, one for each direction.
#[derive(Debug)]
pub(crate) struct Pipe;

/// Two named pipes, one for each direction. Their names lie in a private directory and are gone as
/// soon as both ends are open.
#[derive(Debug)]
pub(crate) struct NamedPipe;

impl Mechanism for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (request_out, request_in) = io::pipe()?;
        let (answer_out, answer_in) = io::pipe()?;
        launcher.start(&[request_out.into(), answer_in.into()])?;
        Ok(Box::new(Ends::new(answer_out.into(), Some(request_in.into()))))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [read, write] = exactly(descriptors)?;
        Ok(server(setting, Ends::new(read, Some(write))))
    }
}

impl Mechanism for NamedPipe {
    fn name(&self) -> &'static str {
        "named-pipe"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let what = "a named pipe in a private temporary directory";
        let (request_out, request_in) = named_pipe().map_err(|error| lacking(what, error))?;
        let (answer_out, answer_in) = named_pipe().map_err(|error| lacking(what, error))?;
        launcher.start(&[request_out, answer_in])?;
        Ok(Box::new(Ends::new(answer_out, Some(request_in))))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        Pipe.serve(setting, descriptors)
    }
}

/// Both ends of a new named pipe, reading and writing. The name exists within this call only.
fn named_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
    // Reading without waiting for a writer; then writing finds a reader. The flag is on the open
    // file, and so is taken off again.
    let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = rustix::fs::open(&path, read, Mode::empty())?;
    let write = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fcntl_setfl(&read, OFlags::empty())?;
    directory.close()?;
    Ok((read, write))
}

/// The answering half over such ends.
pub(super) fn server(setting: Setting, ends: Ends) -> Box<dyn Server> {
    Box::new(ByteServer { ends, payload: vec![0; setting.payload_bytes] })
}

/// Where one process reads and where it writes, if that is not the same.
#[derive(Debug)]
pub(super) struct Ends {
    read: Arc<OwnedFd>,
    write: Option<OwnedFd>,
    /// Whether the peer's death goes unnoticed, as with datagrams.
    silent: bool,
}

impl Ends {
    pub(super) fn new(read: OwnedFd, write: Option<OwnedFd>) -> Self {
        Self { read: Arc::new(read), write, silent: false }
    }

    /// A socket whose reader does not learn that its peer is gone.
    pub(super) fn silent(socket: OwnedFd) -> Self {
        Self { silent: true, ..Self::new(socket, None) }
    }

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
            match rustix::io::read(&*self.read, &mut *payload) {
                // A terminal says `IO` where others say that this is the end.
                Ok(0) | Err(Errno::IO) => return Err(io::ErrorKind::UnexpectedEof.into()),
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

    fn rescue(&self) -> Option<Rescue> {
        if !self.silent {
            return None;
        }
        let socket = Arc::clone(&self.read);
        Some(Arc::new(move || {
            // It can fail only where nobody reads from it any more.
            let _ = rustix::net::shutdown(&*socket, Shutdown::Both);
        }))
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

#[cfg(test)]
mod tests {
    use super::{Ends, named_pipe};
    use crate::mechanism::Client;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_named_pipe_works_without_its_name() {
        let (read, write) = named_pipe().expect("a named pipe");
        Ends::new(read.try_clone().expect("a copy"), Some(write)).put(b"hello").expect("written");
        let mut out = [0; 5];
        let reader = Ends::new(read, None);
        reader.take(&mut out).expect("read");
        assert_eq!(&out, b"hello");
        // All writing ends are closed; a reader that did not wait would see this either way.
        let end = reader.take(&mut out).expect_err("the end");
        assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_reader_of_datagrams_can_be_set_free() {
        let (mine, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .expect("a socket pair");
        let ends = Ends::silent(mine);
        let rescue = ends.rescue().expect("datagrams need one");
        let freed = std::thread::spawn(move || rescue());
        assert!(ends.take(&mut [0; 8]).is_err());
        freed.join().expect("no panic");
    }
}
