//! The recorder: writes what the machine is told, and a digest of what it says, to a file.
//!
//! Writing to a file may block for as long as its disk likes, so the kernel's thread never does it.
//! It collects the frames of a turn and hands them, under a lock that nobody holds across a system
//! call, to a thread of their own, the *writer*. What waits there is bounded. If it is full, if the
//! recording is as long as it may be, or if the file cannot be written (a full disk, say), then the
//! recording has ended, the writer says so on standard error, and the kernel goes on.
//!
//! The launcher opened the file before the kernel was confined; the writer may do nothing to it but
//! write, and cut off what was written in part.

use super::sandbox;
use crate::effect::Effect;
use crate::input::{Input, Outcome};
use crate::quota::Quotas;
use crate::recording::{self, End, Frame, digest};
use nix::sys::signal::{SigSet, Signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Bytes that may wait for the writer.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Room that is kept for the last frame.
const END_BYTES: u64 = 64;

/// Where a kernel records to.
#[derive(Debug)]
pub struct Record {
    /// The file: empty, open for writing.
    pub file: OwnedFd,
    /// How long the recording may become, in bytes. It ends there, and the kernel goes on.
    pub bytes_max: u64,
}

/// The kernel's side.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Frames of this turn.
    turn: Vec<u8>,
    /// What the machine is being told, until it has said what it comes to.
    told: Option<Input>,
    /// Bytes that the recording may still grow by.
    left: u64,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Nothing more will come, and why.
    end: Option<End>,
    /// The writer has given up.
    lost: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whoever panicked with it left bytes that are whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Starts the writer, which is confined if `sandbox`.
    pub(super) fn start(record: Record, quotas: &Quotas, sandbox: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let turn = recording::preamble(quotas);
        let Record { file, bytes_max } = record;
        let (ready, started) = std::sync::mpsc::channel();
        let of_writer = Arc::clone(&shared);
        let writer = Builder::new().name("recorder".into()).spawn(move || {
            let confined = prepare(sandbox);
            let goes_on = confined.is_ok();
            let _ = ready.send(confined);
            if goes_on {
                write_all(file.as_fd(), &of_writer);
            }
        })?;
        started.recv().map_err(|_| io::Error::other("the recorder ended before it began"))??;
        let left = bytes_max.saturating_sub(turn.len() as u64).saturating_sub(END_BYTES);
        let writer = Some(writer);
        Ok(Self { turn, told: None, left, shared, writer, stopped: false })
    }

    /// The machine is about to be told this.
    pub(super) fn telling(&mut self, input: &Input) {
        if !self.stopped {
            self.told = Some(input.clone());
        }
    }

    /// It has come to this.
    pub(super) fn came_to(&mut self, outcome: &Outcome, effects: &[Effect]) {
        if let Some(input) = self.told.take() {
            self.step(input, Some(digest(outcome, effects)));
        }
    }

    fn step(&mut self, input: Input, effects: Option<u64>) {
        let before = self.turn.len();
        recording::append(&mut self.turn, &Frame::Step { input, effects });
        let more = self.turn.len().saturating_sub(before) as u64;
        if let Some(left) = self.left.checked_sub(more) {
            self.left = left;
        } else {
            self.turn.truncate(before);
            self.stop(End::Limit);
        }
    }

    /// The end of a turn: what it brought is for the writer.
    pub(super) fn finish_turn(&mut self) {
        if self.stopped || self.turn.is_empty() {
            return;
        }
        let mut waiting = self.shared.lock();
        if waiting.lost {
            self.stopped = true;
            return;
        }
        if waiting.bytes.len().saturating_add(self.turn.len()) > WAITING_BYTES_MAX {
            drop(waiting);
            self.turn.clear();
            return self.stop(End::Overrun);
        }
        waiting.bytes.append(&mut self.turn);
        drop(waiting);
        self.shared.changed.notify_one();
    }

    /// The recording ends, with what has been collected.
    fn stop(&mut self, end: End) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        let mut waiting = self.shared.lock();
        waiting.bytes.append(&mut self.turn);
        waiting.end = Some(end);
        drop(waiting);
        self.shared.changed.notify_one();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The kernel panicked over it: that is what one wants to see.
        if let Some(input) = self.told.take() {
            self.step(input, None);
        }
        self.stop(End::Stopped);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// What the writer does before it begins.
fn prepare(sandbox: bool) -> io::Result<()> {
    // A file that may not grow is an error like any other, and no signal that ends the kernel.
    let mut refused = SigSet::empty();
    refused.add(Signal::SIGXFSZ);
    refused.thread_block()?;
    if sandbox { sandbox::confine_recorder() } else { Ok(()) }
}

/// The writer.
fn write_all(file: BorrowedFd<'_>, shared: &Shared) {
    let mut bytes = Vec::new();
    let mut written: u64 = 0;
    loop {
        let mut waiting = shared.lock();
        while waiting.bytes.is_empty() && waiting.end.is_none() {
            waiting = shared.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut bytes, &mut waiting.bytes);
        let end = waiting.end;
        drop(waiting);
        if let Some(end) = end {
            recording::append(&mut bytes, &Frame::End(end));
        }
        if let Err(error) = write(file, &bytes) {
            // A recording ends with a whole frame; if this cannot be, its reader says where.
            let _ = rustix::fs::ftruncate(file, written);
            shared.lock().lost = true;
            return say(&format!("writing it failed after {written} bytes: {error}"));
        }
        written = written.saturating_add(bytes.len() as u64);
        bytes.clear();
        match end {
            None => {}
            Some(End::Stopped) => return,
            Some(end) => return say(&end.to_string()),
        }
    }
}

fn write(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Says something on standard error, past the lock that the kernel's thread would wait for.
fn say(what: &str) {
    let line = format!("kernel: the recording has ended: {what}\n");
    let _ = rustix::io::write(io::stderr().as_fd(), line.as_bytes());
}
