//! The closers: threads that do every close that may block.
//!
//! Closing a task's socket closes what was sent to it and not read, and the last close of a
//! stranger's descriptor can take seconds (a lingering TCP socket, a FUSE file). So no socket of a
//! task is closed in the kernel's thread. There are two closers, since one stranger's descriptors
//! must not hold up the sockets of others: *plain* has the sockets to which Linux refuses
//! descriptors, which therefore hold none; *suspect* has all others.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// Both closers.
#[derive(Debug)]
pub(super) struct Closers {
    plain: Option<(Rc<Sender<OwnedFd>>, JoinHandle<()>)>,
    suspect: Sender<OwnedFd>,
}

/// For closing one thing that may take long: what [`Closers::close`] does, for who has only this.
#[derive(Clone, Debug)]
pub(super) struct Closing(Weak<Sender<OwnedFd>>);

impl Closing {
    /// Closes a descriptor of our own.
    pub(super) fn close(&self, descriptor: OwnedFd) {
        // Without closers the kernel ends, and may take its time.
        if let Some(sender) = self.0.upgrade() {
            let _ = sender.send(descriptor);
        }
    }
}

impl Closers {
    /// Starts both threads; each runs `confine` first.
    pub(super) fn start(confine: fn() -> io::Result<()>) -> io::Result<Self> {
        let (suspect, _detached) = start("closer-suspect", confine)?;
        let (plain, thread) = start("closer", confine)?;
        Ok(Self { plain: Some((Rc::new(plain), thread)), suspect })
    }

    /// What the plain one does, to be kept elsewhere.
    pub(super) fn closing(&self) -> Closing {
        Closing(self.plain.as_ref().map_or_else(Weak::new, |(sender, _)| Rc::downgrade(sender)))
    }

    /// Closes a socket that holds nothing of a stranger's, or another descriptor of our own.
    pub(super) fn close(&self, descriptor: OwnedFd) {
        if let Some((sender, _)) = &self.plain {
            // It cannot fail while the thread lives, and then the descriptor is closed here.
            let _ = sender.send(descriptor);
        }
    }

    /// Closes a socket that may hold a stranger's descriptors.
    pub(super) fn close_suspect(&self, descriptor: OwnedFd) {
        let _ = self.suspect.send(descriptor);
    }
}

impl Drop for Closers {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.plain.take() {
            drop(sender);
            // The other one may block for long: it ends by itself, or with the process.
            let _ = thread.join();
        }
    }
}

fn start(
    name: &str,
    confine: fn() -> io::Result<()>,
) -> io::Result<(Sender<OwnedFd>, JoinHandle<()>)> {
    let (sender, receiver): (_, Receiver<OwnedFd>) = channel();
    let (ready, started) = channel();
    let thread = Builder::new().name(name.into()).spawn(move || {
        let _ = ready.send(confine());
        receiver.into_iter().for_each(drop);
    })?;
    match started.recv() {
        Ok(result) => result.map(|()| (sender, thread)),
        Err(_) => Err(io::Error::other("the closer thread ended before it began")),
    }
}
