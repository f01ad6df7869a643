//! The floor: one cache line there and one back, both sides spinning.
//!
//! The writer fills the payload into the line and publishes its turn; the reader sees the turn,
//! copies the payload out, and does the same in the other direction. Nothing that passes a message
//! through memory can do less. Up to 56 bytes lie in the turn's own line; larger payloads continue
//! in the lines after it.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::exactly;
use super::shared::Shared;
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, Wait, answer};

/// Variants of a block: with the processor's hint that it is in a spin loop, and without.
const VARIANTS: u32 = 2;
const WITH_PAUSE: u32 = 0;

/// Looks at the turn before a spinning process looks whether it has been abandoned.
const LOOKS: u32 = 1 << 16;

/// The bare ping-pong.
#[derive(Debug)]
pub(crate) struct Floor;

impl Mechanism for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn waits(&self) -> Wait {
        Wait::Spin
    }

    fn runs_on(&self, cores: usize) -> bool {
        cores >= 2
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (shared, memory) = Shared::create()?;
        launcher.start(&[memory])?;
        Ok(Box::new(FloorClient { shared, turn: 0, variant: 0, abandoned: Arc::default() }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [memory] = exactly(descriptors)?;
        let payload = vec![0; setting.payload_bytes];
        Ok(Box::new(FloorServer {
            shared: Shared::map(memory)?,
            turn: 0,
            payload,
            abandoned: AtomicBool::new(false),
        }))
    }
}

/// Spins until the turn comes.
#[inline(always)]
fn spin<const PAUSE: bool>(
    turn: &AtomicU32,
    wanted: u32,
    abandoned: &AtomicBool,
) -> io::Result<()> {
    loop {
        for _ in 0..LOOKS {
            // ORDERING(floor): Acquire; the payload is read after it. Pairs with `publish`.
            if turn.load(Ordering::Acquire) == wanted {
                return Ok(());
            }
            if PAUSE {
                hint::spin_loop();
            }
        }
        // ORDERING: Relaxed; nothing is read that depends on it.
        if abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Hands the line over.
#[inline(always)]
fn publish(turn: &AtomicU32, value: u32) {
    // ORDERING(floor): Release; the payload must be visible before the turn. Pairs with `spin`.
    turn.store(value, Ordering::Release);
}

#[derive(Debug)]
struct FloorClient {
    shared: Shared,
    turn: u32,
    variant: u32,
    abandoned: Arc<AtomicBool>,
}

impl FloorClient {
    fn run<const PAUSE: bool>(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { shared, turn, abandoned, .. } = self;
        let area = shared.area();
        recorder.run(|payload| {
            *turn = turn.wrapping_add(1);
            area.request.fill(payload);
            publish(&area.request.turn, *turn);
            spin::<PAUSE>(&area.answer.turn, *turn, abandoned)?;
            area.answer.copy_out(payload);
            Ok(())
        })
    }
}

impl Client for FloorClient {
    fn variants(&self) -> u32 {
        VARIANTS
    }

    fn prepare(&mut self, block: Block) -> io::Result<()> {
        self.variant = block.variant;
        Ok(())
    }

    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        if self.variant == WITH_PAUSE {
            self.run::<true>(recorder)
        } else {
            self.run::<false>(recorder)
        }
    }

    fn rescue(&self) -> Option<Rescue> {
        let abandoned = Arc::clone(&self.abandoned);
        Some(Arc::new(move || abandoned.store(true, Ordering::Relaxed)))
    }
}

#[derive(Debug)]
struct FloorServer {
    shared: Shared,
    turn: u32,
    payload: Vec<u8>,
    abandoned: AtomicBool,
}

impl FloorServer {
    fn run<const PAUSE: bool>(&mut self, exchanges: u32) -> io::Result<()> {
        let area = self.shared.area();
        for _ in 0..exchanges {
            self.turn = self.turn.wrapping_add(1);
            spin::<PAUSE>(&area.request.turn, self.turn, &self.abandoned)?;
            area.request.copy_out(&mut self.payload);
            answer(&mut self.payload);
            area.answer.fill(&self.payload);
            publish(&area.answer.turn, self.turn);
        }
        Ok(())
    }
}

impl Server for FloorServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        if block.variant == WITH_PAUSE {
            self.run::<true>(block.exchanges)
        } else {
            self.run::<false>(block.exchanges)
        }
    }
}
