//! A blocking ping-pong over shared memory: each side sleeps on the other's turn.
//!
//! The plainest use of a futex: publish, wake, wait. Both system calls are made each time, without
//! looking whether the other side sleeps and without spinning first.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

use super::exactly;
use super::shared::Shared;
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, answer};

/// Sleeping and waking with futexes.
#[derive(Debug)]
pub(crate) struct Futex;

impl Mechanism for Futex {
    fn name(&self) -> &'static str {
        "futex"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (shared, memory) = Shared::create()?;
        launcher.start(&[memory])?;
        Ok(Box::new(FutexClient { shared: Arc::new(shared), turn: 0, abandoned: Arc::default() }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [memory] = exactly(descriptors)?;
        let payload = vec![0; setting.payload_bytes];
        Ok(Box::new(FutexServer { shared: Shared::map(memory)?, turn: 0, payload }))
    }
}

/// Publishes the turn and wakes whoever sleeps on it.
#[inline]
fn publish(turn: &AtomicU32, value: u32) -> io::Result<()> {
    // ORDERING(futex): Release; the payload must be visible before the turn. Pairs with `sleep`.
    turn.store(value, Ordering::Release);
    futex::wake(turn, Flags::empty(), 1)?;
    Ok(())
}

/// Sleeps until the turn comes.
#[inline]
fn sleep(turn: &AtomicU32, wanted: u32, abandoned: &AtomicBool) -> io::Result<()> {
    loop {
        // ORDERING(futex): Acquire; the payload is read after it. Pairs with `publish`.
        let seen = turn.load(Ordering::Acquire);
        if seen == wanted {
            return Ok(());
        }
        // ORDERING: Relaxed; nothing is read that depends on it.
        if abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match futex::wait(turn, Flags::empty(), seen, None) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct FutexClient {
    shared: Arc<Shared>,
    turn: u32,
    abandoned: Arc<AtomicBool>,
}

impl Client for FutexClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { shared, turn, abandoned } = self;
        let area = shared.area();
        recorder.run(|payload| {
            *turn = turn.wrapping_add(1);
            area.request.fill(payload);
            publish(&area.request.turn, *turn)?;
            sleep(&area.answer.turn, *turn, abandoned)?;
            area.answer.copy_out(payload);
            Ok(())
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let (shared, abandoned) = (Arc::clone(&self.shared), Arc::clone(&self.abandoned));
        Some(Arc::new(move || {
            abandoned.store(true, Ordering::Relaxed);
            let woken = futex::wake(&shared.area().answer.turn, Flags::empty(), 1);
            debug_assert!(woken.is_ok(), "waking on mapped memory");
        }))
    }
}

#[derive(Debug)]
struct FutexServer {
    shared: Shared,
    turn: u32,
    payload: Vec<u8>,
}

impl Server for FutexServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        let area = self.shared.area();
        let never = AtomicBool::new(false);
        for _ in 0..block.exchanges {
            self.turn = self.turn.wrapping_add(1);
            sleep(&area.request.turn, self.turn, &never)?;
            area.request.copy_out(&mut self.payload);
            answer(&mut self.payload);
            area.answer.fill(&self.payload);
            publish(&area.answer.turn, self.turn)?;
        }
        Ok(())
    }
}
