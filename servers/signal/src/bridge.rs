//! POSIX signals that become named ones.
//!
//! They are blocked in every thread and read from a signalfd, so that no handler exists that could
//! run in the middle of something. Linux queues a blocked signal even where it would otherwise
//! ignore it, and no more than one of each.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::io;

/// The POSIX signals that can be bridged: those that mean nothing to the server's process itself.
pub const BRIDGED: [Signal; 4] =
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH];

/// Which POSIX signal raises which named one.
#[derive(Debug)]
pub(crate) struct Bridges {
    /// Where they are read.
    pub(crate) descriptor: SignalFd,
    names: BTreeMap<i32, Box<str>>,
}

/// Blocks the bridged signals in this thread and in those that it starts from now on.
pub(crate) fn block() -> io::Result<()> {
    Ok(SigSet::from_iter(BRIDGED).thread_block()?)
}

impl Bridges {
    pub(crate) fn new() -> io::Result<Self> {
        let blocked = SigSet::thread_get_mask()?;
        if let Some(open) = BRIDGED.into_iter().find(|signal| !blocked.contains(*signal)) {
            return Err(io::Error::other(format!(
                "{open} is not blocked: call SignalServer::block_bridged before any thread starts"
            )));
        }
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&SigSet::from_iter(BRIDGED), flags)?;
        Ok(Self { descriptor, names: BTreeMap::new() })
    }

    /// Whether a POSIX signal can be bridged.
    pub(crate) fn can(posix: i32) -> bool {
        BRIDGED.into_iter().any(|signal| signal as i32 == posix)
    }

    /// Bridges a POSIX signal to a named one, or to none.
    pub(crate) fn set(&mut self, posix: i32, name: Option<&str>) {
        match name {
            Some(name) => self.names.insert(posix, name.into()),
            None => self.names.remove(&posix),
        };
    }

    /// The named signals of what arrived.
    pub(crate) fn arrived(&self) -> Vec<Box<str>> {
        // One of each can be pending; what comes meanwhile makes the descriptor readable again.
        (0..BRIDGED.len())
            .map_while(|_| self.descriptor.read_signal().ok().flatten())
            .filter_map(|seen| self.names.get(&i32::try_from(seen.ssi_signo).ok()?).cloned())
            .collect()
    }
}
