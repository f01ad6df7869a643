//! A blocking handover by eventfds, one for each direction; the payload lies in shared memory.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::handover::{Handover, client, server};
use super::shared::{Mapping, Shared, Side};
use super::{exactly, lacking};
use crate::Launcher;
use crate::mechanism::{Client, Mechanism, Server, Setting};

/// Shared memory, and counters of Linux's that one can sleep on.
#[derive(Debug)]
pub(crate) struct Eventfd;

impl Mechanism for Eventfd {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let new = || {
            eventfd(0, EventfdFlags::CLOEXEC)
                .map_err(|error| lacking("an eventfd (CONFIG_EVENTFD)", error))
        };
        let (shared, memory) = Shared::create(setting.payload_bytes)?;
        let counters = Counters { request: new()?, answer: new()? };
        let (request, answer) = (counters.request.try_clone()?, counters.answer.try_clone()?);
        launcher.start(&[memory, request, answer])?;
        Ok(client(shared, counters))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [memory, request, answer] = exactly(descriptors)?;
        let shared = Shared::map(memory, setting.payload_bytes)?;
        Ok(server(setting, shared, Counters { request, answer }))
    }
}

/// Writing adds to a counter; reading takes it back to zero, and waits while it is zero.
#[derive(Debug)]
struct Counters {
    request: OwnedFd,
    answer: OwnedFd,
}

impl Counters {
    fn of(&self, from: Side) -> &OwnedFd {
        match from {
            Side::Client => &self.request,
            Side::Partner => &self.answer,
        }
    }
}

impl Handover for Counters {
    #[inline]
    fn pass(&self, _: &Mapping, from: Side, _: u32) -> io::Result<()> {
        rustix::io::write(self.of(from), &1_u64.to_ne_bytes())?;
        Ok(())
    }

    #[inline]
    fn wait(&self, _: &Mapping, from: Side, _: u32, abandoned: &AtomicBool) -> io::Result<()> {
        let mut count = [0_u8; 8];
        loop {
            match rustix::io::read(self.of(from), &mut count) {
                // ORDERING: Relaxed; nothing is read that depends on it.
                Ok(_) if abandoned.load(Ordering::Relaxed) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn free(&self, mapping: &Mapping, from: Side) {
        let woken = self.pass(mapping, from, 0);
        debug_assert!(woken.is_ok(), "a counter that is added to now and then does not overflow");
    }
}
