//! The floor: one cache line there and one back, both sides spinning. And bare copying, which is the
//! floor of what is too long for a line.
//!
//! The writer fills the payload into the line and publishes its turn; the reader sees the turn,
//! copies the payload out, and does the same in the other direction. Nothing that passes a message
//! through memory can do less. Up to 56 bytes lie in the turn's own line; larger payloads continue
//! in the lines after it.
//!
//! [`Copying`] is the same with the payload in a buffer apart from the turn, as it is where memory
//! is copied out and in over a flag: two lines for the shortest message, but nothing that splits or
//! shifts a long one.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exactly;
use super::handover::{look, publish};
use super::shared::{INLINE, Reader, Shared, Writer};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, Wait, answer};
use crate::report::Class;

/// Variants of a block, by what is between two looks at the turn: one `pause` of the processor (that
/// is variant 0), none, or [`SELDOM`].
const NO_PAUSE: u32 = 1;
const SELDOM_LOOKING: u32 = 2;

/// `pause`s between two looks of a reader that leaves the writer alone. Looking takes the first line
/// from under the writer, and its neighbours with it where processors fetch lines ahead: a message of
/// 256 bytes arrives a fifth sooner at who looks less often, one of a single line does not.
const SELDOM: u32 = 8;

/// Payloads above this have one variant: looking is lost in what copying costs, and the best of some
/// blocks with a handful of round trips each would be luck.
const VARIED_BYTES: usize = 64 << 10;

/// The number of variants with such a payload.
const fn variants(payload_bytes: usize) -> u32 {
    if payload_bytes <= INLINE {
        2
    } else if payload_bytes <= VARIED_BYTES {
        3
    } else {
        1
    }
}

/// The bare ping-pong.
#[derive(Debug)]
pub(crate) struct Floor;

/// Memory copied out and in over a spinning flag.
#[derive(Debug)]
pub(crate) struct Copying;

impl Mechanism for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn waits(&self) -> Wait {
        Wait::Spin
    }

    fn class(&self) -> Class {
        Class::Floor
    }

    fn runs_on(&self, cores: usize) -> bool {
        cores >= 2
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        client::<false>(setting, launcher)
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        server::<false>(setting, descriptors)
    }
}

impl Mechanism for Copying {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn waits(&self) -> Wait {
        Wait::Spin
    }

    fn runs_on(&self, cores: usize) -> bool {
        cores >= 2
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        client::<true>(setting, launcher)
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        server::<true>(setting, descriptors)
    }
}

fn client<const APART: bool>(
    setting: Setting,
    launcher: &mut Launcher,
) -> io::Result<Box<dyn Client>> {
    let (shared, memory) = Shared::create(setting.payload_bytes)?;
    launcher.start(&[memory])?;
    let abandoned = Arc::default();
    let variants = variants(setting.payload_bytes);
    Ok(Box::new(SpinningClient::<APART> { shared, turn: 0, variants, variant: 0, abandoned }))
}

fn server<const APART: bool>(
    setting: Setting,
    descriptors: Vec<OwnedFd>,
) -> io::Result<Box<dyn Server>> {
    let [memory] = exactly(descriptors)?;
    Ok(Box::new(SpinningServer::<APART> {
        shared: Shared::map(memory, setting.payload_bytes)?,
        turn: 0,
        payload: vec![0; setting.payload_bytes],
        abandoned: AtomicBool::new(false),
    }))
}

#[inline(always)]
fn write<const APART: bool>(writer: &mut Writer<'_>, payload: &[u8], turn: u32) {
    if APART {
        writer.fill_apart(payload);
    } else {
        writer.fill(payload);
    }
    publish(writer.turn, turn);
}

#[inline(always)]
fn read<const APART: bool, const PAUSES: u32>(
    reader: &mut Reader<'_>,
    payload: &mut [u8],
    turn: u32,
    abandoned: &AtomicBool,
) -> io::Result<()> {
    look(reader.turn, turn, abandoned, || {
        for _ in 0..PAUSES {
            hint::spin_loop();
        }
    })?;
    if APART {
        reader.copy_out_apart(payload);
    } else {
        reader.copy_out(payload);
    }
    Ok(())
}

#[derive(Debug)]
struct SpinningClient<const APART: bool> {
    shared: Shared,
    turn: u32,
    variants: u32,
    variant: u32,
    abandoned: Arc<AtomicBool>,
}

impl<const APART: bool> SpinningClient<APART> {
    fn run<const PAUSES: u32>(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { shared, turn, abandoned, .. } = self;
        let (mut writer, mut reader) = shared.ends();
        recorder.run(|payload| {
            *turn = turn.wrapping_add(1);
            write::<APART>(&mut writer, payload, *turn);
            read::<APART, PAUSES>(&mut reader, payload, *turn, abandoned)
        })
    }
}

impl<const APART: bool> Client for SpinningClient<APART> {
    fn variants(&self) -> u32 {
        self.variants
    }

    fn prepare(&mut self, block: Block) -> io::Result<()> {
        self.variant = block.variant;
        Ok(())
    }

    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        match self.variant {
            NO_PAUSE => self.run::<0>(recorder),
            SELDOM_LOOKING => self.run::<SELDOM>(recorder),
            _ => self.run::<1>(recorder),
        }
    }

    fn rescue(&self) -> Option<Rescue> {
        let abandoned = Arc::clone(&self.abandoned);
        // ORDERING: Relaxed; nothing is read that depends on it.
        Some(Arc::new(move || abandoned.store(true, Ordering::Relaxed)))
    }
}

#[derive(Debug)]
struct SpinningServer<const APART: bool> {
    shared: Shared,
    turn: u32,
    payload: Vec<u8>,
    abandoned: AtomicBool,
}

impl<const APART: bool> SpinningServer<APART> {
    fn run<const PAUSES: u32>(&mut self, exchanges: u32) -> io::Result<()> {
        let Self { shared, turn, payload, abandoned } = self;
        let (mut writer, mut reader) = shared.ends();
        for _ in 0..exchanges {
            *turn = turn.wrapping_add(1);
            read::<APART, PAUSES>(&mut reader, payload, *turn, abandoned)?;
            answer(payload);
            write::<APART>(&mut writer, payload, *turn);
        }
        Ok(())
    }
}

impl<const APART: bool> Server for SpinningServer<APART> {
    fn block(&mut self, block: Block) -> io::Result<()> {
        match block.variant {
            NO_PAUSE => self.run::<0>(block.exchanges),
            SELDOM_LOOKING => self.run::<SELDOM>(block.exchanges),
            _ => self.run::<1>(block.exchanges),
        }
    }
}
