//! What a partner process does in an experiment that is more than a round trip.
//!
//! A mechanism's partner answers a given number of requests and rests. Here a partner plays a *role*
//! with orders of its own: "take that many connections", "serve until you are told to stop". What
//! is carried over the control socket is described in [`launch`](crate::launch).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{ClockId, clock_gettime};

use crate::experiment;

/// What a partner process can be started as.
pub(crate) trait Role: fmt::Debug + Sync {
    /// Tells roles apart.
    fn name(&self) -> &'static str;

    /// In the partner process: sets everything up.
    fn enter(&self, arguments: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>>;
}

/// A role that was entered.
pub(crate) trait Actor {
    /// Does what it is ordered; answers what it found. Outside of this, it sleeps.
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>>;
}

/// The role of that name.
pub(crate) fn find(wanted: &str) -> Option<&'static dyn Role> {
    experiment::roles().iter().copied().find(|role| role.name() == wanted)
}

/// Exactly `N` numbers, as the parent process sent them.
pub(crate) fn exactly<const N: usize>(order: &[u64]) -> io::Result<[u64; N]> {
    order.try_into().map_err(|_| {
        let text = format!("{} numbers arrived where {N} were expected", order.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// Processor time that this process has used, in ns.
pub(crate) fn process_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// Processor time that this thread has used, in ns.
pub(crate) fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// The clock that deadlines and schedules are in, in ns.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither is ever negative.
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}
