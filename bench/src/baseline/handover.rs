//! Shared memory as it is used by hand: a buffer for each direction, and something that says a
//! message lies there.
//!
//! What says so is a [`Handover`]; all else is common to them. The writer copies the payload into
//! the shared buffer and hands over; the reader waits for that and copies the payload into memory of
//! its own. Buffer and flag are apart: a buffer begins on a line of its own.

use std::fmt;
use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::futex::Sleeping;
use super::semaphore::Semaphores;
use super::shared::{Mapping, Shared, Side};
use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, Wait, answer};

/// Looks at a turn before a process that never sleeps looks whether it has been abandoned.
const LOOKS: u32 = 1 << 16;

/// How one process tells the other that a message lies in the shared memory.
pub(super) trait Handover: fmt::Debug + Send + Sync + 'static {
    /// Says that the message of that number is there, from that side.
    fn pass(&self, mapping: &Mapping, from: Side, turn: u32) -> io::Result<()>;

    /// Waits until the message of that number is there, from that side.
    fn wait(
        &self,
        mapping: &Mapping,
        from: Side,
        turn: u32,
        abandoned: &AtomicBool,
    ) -> io::Result<()>;

    /// Wakes this process, asleep in [`wait`](Self::wait) for that side, after it was abandoned.
    fn free(&self, mapping: &Mapping, from: Side) {
        let _ = (mapping, from);
    }
}

/// A client over that memory.
pub(super) fn client(shared: Shared, handover: impl Handover) -> Box<dyn Client> {
    let handover = Arc::new(handover);
    Box::new(SharedClient { shared, handover, turn: 0, abandoned: Arc::default() })
}

/// The partner over that memory.
pub(super) fn server(setting: Setting, shared: Shared, handover: impl Handover) -> Box<dyn Server> {
    Box::new(SharedServer { shared, handover, turn: 0, payload: vec![0; setting.payload_bytes] })
}

#[derive(Debug)]
struct SharedClient<H> {
    shared: Shared,
    handover: Arc<H>,
    turn: u32,
    abandoned: Arc<AtomicBool>,
}

impl<H: Handover> Client for SharedClient<H> {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { shared, handover, turn, abandoned } = self;
        let mapping = shared.mapping();
        let (mut writer, mut reader) = shared.ends();
        recorder.run(|payload| {
            *turn = turn.wrapping_add(1);
            writer.fill_apart(payload);
            handover.pass(&mapping, Side::Client, *turn)?;
            handover.wait(&mapping, Side::Partner, *turn, abandoned)?;
            reader.copy_out_apart(payload);
            Ok(())
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let (mapping, abandoned) = (self.shared.mapping(), Arc::clone(&self.abandoned));
        let handover = Arc::clone(&self.handover);
        Some(Arc::new(move || {
            // ORDERING: SeqCst; far from any measured path, and before whatever `free` does.
            abandoned.store(true, Ordering::SeqCst);
            handover.free(&mapping, Side::Partner);
        }))
    }
}

#[derive(Debug)]
struct SharedServer<H> {
    shared: Shared,
    handover: H,
    turn: u32,
    payload: Vec<u8>,
}

impl<H: Handover> Server for SharedServer<H> {
    fn block(&mut self, block: Block) -> io::Result<()> {
        let Self { shared, handover, turn, payload } = self;
        let mapping = shared.mapping();
        let (mut writer, mut reader) = shared.ends();
        let never = AtomicBool::new(false);
        for _ in 0..block.exchanges {
            *turn = turn.wrapping_add(1);
            handover.wait(&mapping, Side::Client, *turn, &never)?;
            reader.copy_out_apart(payload);
            answer(payload);
            writer.fill_apart(payload);
            handover.pass(&mapping, Side::Partner, *turn)?;
        }
        Ok(())
    }
}

/// Publishes a turn for somebody who looks at it without being told.
#[inline(always)]
pub(super) fn publish(turn: &AtomicU32, value: u32) {
    // ORDERING(handover): Release; the payload must be visible before the turn. Pairs with `look`.
    turn.store(value, Ordering::Release);
}

/// Looks at a turn until it comes, doing `between` after each look.
#[inline(always)]
pub(super) fn look(
    turn: &AtomicU32,
    wanted: u32,
    abandoned: &AtomicBool,
    between: impl Fn(),
) -> io::Result<()> {
    loop {
        for _ in 0..LOOKS {
            // ORDERING(handover): Acquire; the payload is read after it. Pairs with `publish`.
            if turn.load(Ordering::Acquire) == wanted {
                return Ok(());
            }
            between();
        }
        // ORDERING: Relaxed; nothing is read that depends on it.
        if abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// A turn that is looked at without pause, with the processor's hint that this is a spin loop.
#[derive(Debug)]
pub(super) struct Spinning;

impl Handover for Spinning {
    #[inline]
    fn pass(&self, mapping: &Mapping, from: Side, turn: u32) -> io::Result<()> {
        publish(mapping.turn(from), turn);
        Ok(())
    }

    #[inline]
    fn wait(
        &self,
        mapping: &Mapping,
        from: Side,
        turn: u32,
        abandoned: &AtomicBool,
    ) -> io::Result<()> {
        look(mapping.turn(from), turn, abandoned, hint::spin_loop)
    }
}

/// A turn that is looked at again and again, with a `sched_yield` after each look.
#[derive(Debug)]
pub(super) struct Yielding;

impl Handover for Yielding {
    #[inline]
    fn pass(&self, mapping: &Mapping, from: Side, turn: u32) -> io::Result<()> {
        publish(mapping.turn(from), turn);
        Ok(())
    }

    #[inline]
    fn wait(
        &self,
        mapping: &Mapping,
        from: Side,
        turn: u32,
        abandoned: &AtomicBool,
    ) -> io::Result<()> {
        look(mapping.turn(from), turn, abandoned, thread::yield_now)
    }
}

/// Shared memory with a handover that needs nothing besides.
#[derive(Debug)]
pub(crate) enum SharedMemory {
    /// [`Spinning`].
    Spin,
    /// [`Yielding`].
    Yield,
    /// [`Sleeping`].
    Futex,
    /// [`Semaphores`].
    Semaphore,
    /// [`Spinning`] or [`Sleeping`] over a file that is mapped, rather than memory without one.
    MappedFile(Wait),
}

impl Mechanism for SharedMemory {
    fn name(&self) -> &'static str {
        match self {
            Self::Spin => "shm-spin",
            Self::Yield => "shm-yield",
            Self::Futex => "futex",
            Self::Semaphore => "semaphore",
            Self::MappedFile(_) => "mapped-file",
        }
    }

    fn wait(&self) -> Option<Wait> {
        match self {
            Self::MappedFile(wait) => Some(*wait),
            _ => None,
        }
    }

    fn waits(&self) -> Wait {
        match self {
            Self::Spin | Self::Yield => Wait::Spin,
            Self::Futex | Self::Semaphore => Wait::Block,
            Self::MappedFile(wait) => *wait,
        }
    }

    fn runs_on(&self, cores: usize) -> bool {
        cores >= 2 || !matches!(self, Self::Spin | Self::MappedFile(Wait::Spin))
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (shared, memory) = match self {
            Self::MappedFile(_) => Shared::create_file(setting.payload_bytes)
                .map_err(|error| lacking("a file in the temporary directory", error))?,
            _ => Shared::create(setting.payload_bytes)?,
        };
        let semaphores = match self {
            Self::Semaphore => Some(Semaphores::create(&shared.mapping())?),
            _ => None,
        };
        launcher.start(&[memory])?;
        Ok(match (self, semaphores) {
            (_, Some(semaphores)) => client(shared, semaphores),
            (Self::Spin | Self::MappedFile(Wait::Spin), None) => client(shared, Spinning),
            (Self::Yield, None) => client(shared, Yielding),
            (_, None) => client(shared, Sleeping),
        })
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [memory] = exactly(descriptors)?;
        let shared = match self {
            Self::MappedFile(_) => Shared::map_file(memory, setting.payload_bytes)?,
            _ => Shared::map(memory, setting.payload_bytes)?,
        };
        Ok(match self {
            Self::Spin | Self::MappedFile(Wait::Spin) => server(setting, shared, Spinning),
            Self::Yield => server(setting, shared, Yielding),
            Self::Semaphore => {
                let semaphores = Semaphores::created(&shared.mapping());
                server(setting, shared, semaphores)
            }
            Self::Futex | Self::MappedFile(_) => server(setting, shared, Sleeping),
        })
    }
}
