//! What the supervisor waits for besides messages: ends of processes, their output, the clerk. One
//! epoll instance, which the server's own waits for.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Events that are looked at in one turn.
const EVENTS_MAX: usize = 16;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Processes have ended.
    Ends,
    /// The clerk has done something.
    Clerk,
    /// A task has written something, or closed what it writes to.
    Output(usize),
}

const ENDS: u64 = 0;
const CLERK: u64 = 1;
const OUTPUTS: u64 = 16;

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Inbox {
    epoll: OwnedFd,
    ends: SignalFd,
}

impl Inbox {
    /// Blocks SIGCHLD in this thread, which started processes unblock again, and waits for it.
    ///
    /// # Errors
    /// What Linux says.
    pub(crate) fn new() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let ends = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let inbox = Self { epoll, ends };
        inbox.add(inbox.ends.as_fd(), ENDS)?;
        Ok(inbox)
    }

    fn add(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token), EventFlags::IN)?;
        Ok(())
    }

    pub(crate) fn add_clerk(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.add(bell, CLERK)
    }

    /// Waits for what task `place` writes, until its descriptor is closed.
    pub(crate) fn add_output(&self, output: impl AsFd, place: usize) -> io::Result<()> {
        self.add(output.as_fd(), OUTPUTS + place as u64)
    }

    /// Waits no more for what a task writes, which has closed it.
    pub(crate) fn remove_output(&self, output: impl AsFd) {
        let _ = epoll::delete(&self.epoll, output);
    }

    /// Readable when something has come.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// What has come, as far as it is looked at in one turn.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let room = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, room, Some(&now)).is_err() {
            return Vec::new();
        }
        let what = |event: &Event| match event.data.u64() {
            ENDS => {
                while let Ok(Some(_)) = self.ends.read_signal() {}
                Arrived::Ends
            }
            CLERK => Arrived::Clerk,
            output => Arrived::Output((output - OUTPUTS) as usize),
        };
        events.iter().map(what).collect()
    }
}
