//! The peers: other frameworks for talking between processes, measured like everything else here.
//!
//! Each is set up the way its own documentation recommends for two processes on one machine, and
//! otherwise left as it comes; `docs/reference/peers.md` says what was chosen and why. They exist
//! only with the feature `peers`, which builds a lot.
//!
//! The asynchronous ones run on a runtime of one thread in each process: client and partner have a
//! processor each, or share one, and a second thread would only add wake-ups. The partner's runtime
//! has a thread of its own, because it serves whenever a request comes; [`Tally`] tells
//! [`Server::block`] when a block's requests have all been answered.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unimplemented,
    clippy::wildcard_imports,
    reason = "generated"
)]
#[rustfmt::skip]
mod answer_capnp;
mod capnp_rpc;
mod iceoryx2;
mod ipc_channel;
mod tarpc;
mod tonic;
mod zbus;

pub(crate) use capnp_rpc::CapnpRpc;
pub(crate) use iceoryx2::{Iceoryx2, Port, Yielding};
pub(crate) use ipc_channel::IpcChannel;
pub(crate) use tarpc::{Caller, ManyTarpc, Tarpc};
pub(crate) use tonic::Tonic;
pub(crate) use zbus::Zbus;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::mechanism::{Block, Server};

/// What a peer says about an error, as one of ours.
fn other(error: impl fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Exactly one descriptor, as the parent process sent it.
fn only(descriptors: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let [only] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|others| {
        let text = format!("{} descriptors arrived where 1 was expected", others.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok(only)
}

/// A pair of connected Unix stream sockets.
fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A descriptor from which the other process reads that short text.
fn note(text: &str) -> io::Result<OwnedFd> {
    let (reading, mut writing) = io::pipe()?;
    writing.write_all(text.as_bytes())?;
    Ok(reading.into())
}

/// The text behind a descriptor, up to its end.
fn read_note(descriptor: OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    File::from(descriptor).read_to_string(&mut text)?;
    Ok(text)
}

/// A runtime of one thread: the one that calls [`Runtime::block_on`].
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A socket for the current runtime.
fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Counts answered requests, and lets a thread wait for a number of them.
#[derive(Debug, Clone, Default)]
struct Tally(Arc<(Mutex<Count>, Condvar)>);

#[derive(Debug, Default)]
struct Count {
    answered: u64,
    wanted: u64,
    ended: Option<String>,
}

impl Tally {
    /// One request has been answered. Costs some nanoseconds, except for the last one of a block.
    fn one(&self) {
        let (count, changed) = &*self.0;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.answered += 1;
        if count.answered == count.wanted {
            changed.notify_one();
        }
    }

    /// No more will be answered.
    fn end(&self, why: String) {
        let (count, changed) = &*self.0;
        count.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(why);
        changed.notify_one();
    }

    /// Waits until that many more have been answered, counted from where the last wait ended.
    fn wait(&self, more: u32) -> io::Result<()> {
        let (count, changed) = &*self.0;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.wanted += u64::from(more);
        while count.answered < count.wanted {
            if let Some(why) = &count.ended {
                return Err(other(why));
            }
            count = changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

/// The answering half of a peer that serves in a thread of its own.
#[derive(Debug)]
struct Background {
    tally: Tally,
}

impl Background {
    /// Starts the thread. `serve` runs until its connection ends.
    fn start(
        serve: impl FnOnce(Tally) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Box<dyn Server>> {
        let tally = Tally::default();
        let theirs = tally.clone();
        thread::Builder::new().name("peer".into()).spawn(move || {
            let why = match serve(theirs.clone()) {
                Ok(()) => "the connection has ended".to_owned(),
                Err(error) => error.to_string(),
            };
            theirs.end(why);
        })?;
        Ok(Box::new(Self { tally }))
    }
}

impl Server for Background {
    fn block(&mut self, block: Block) -> io::Result<()> {
        self.tally.wait(block.exchanges)
    }
}

#[cfg(test)]
mod tests {
    use super::{Background, Tally, note, read_note};
    use crate::mechanism::{Block, Server};
    use std::io;

    #[test]
    fn a_tally_counts_what_came_before_the_wait() {
        let tally = Tally::default();
        tally.one();
        tally.one();
        tally.wait(2).expect("both are counted");
        tally.one();
        tally.end("over".into());
        tally.wait(1).expect("answered before the end");
        let error = tally.wait(1).expect_err("nothing more comes");
        assert_eq!(error.to_string(), "over");
    }

    #[test]
    fn what_ends_a_background_server_is_told() {
        let mut server: Box<dyn Server> = Background::start(|tally| {
            tally.one();
            Err(io::Error::other("the stream broke"))
        })
        .expect("a thread");
        server.block(Block { exchanges: 1, variant: 0 }).expect("one was answered");
        let error = server.block(Block { exchanges: 1, variant: 0 }).expect_err("not two");
        assert_eq!(error.to_string(), "the stream broke");
    }

    #[test]
    fn a_note_is_read_to_its_end() {
        let descriptor = note("some text").expect("a pipe");
        assert_eq!(read_note(descriptor).expect("text"), "some text");
    }
}
