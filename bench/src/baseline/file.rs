//! A regular file that one process writes and the other reads: `pwrite` and `pread`.
//!
//! A file has nothing to wait on, and so programs that pass messages by files do one of two things,
//! both of which are here. They read the place again and again until something new is there, giving
//! the processor away in between (*spin*, with `sched_yield` after each look); or they have Linux
//! tell them of changes (*block*, by inotify).
//!
//! There is a file for each direction, without a name, in the temporary directory: on a disk, or in
//! memory where that is a tmpfs. It holds the payload and after it the number of the message. Who
//! looks again and again must find the number only after the payload, so that it takes a `pwrite`
//! of its own; who is told of a change is told after a `pwritev` of both.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, pread, preadv, pwrite, pwritev};

use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, Wait, answer};

/// Bytes of a message's number.
const NUMBER: usize = 8;

/// Two regular files.
#[derive(Debug)]
pub(crate) struct RegularFile(pub(crate) Wait);

impl Mechanism for RegularFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.0)
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let new = || -> io::Result<File> {
            tempfile::tempfile()
                .map_err(|error| lacking("a file in the temporary directory", error))
        };
        let (request, answer): (OwnedFd, OwnedFd) = (new()?.into(), new()?.into());
        let files = [request.try_clone()?, answer.try_clone()?];
        let place = Place::new(request, answer, self.0)?;
        launcher.start(&files)?;
        Ok(Box::new(FileClient { place: Arc::new(place), turn: 0 }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [request, answer] = exactly(descriptors)?;
        let place = Place::new(answer, request, self.0)?;
        Ok(Box::new(FileServer { place, turn: 0, payload: vec![0; setting.payload_bytes] }))
    }
}

/// The two files as one process sees them.
#[derive(Debug)]
struct Place {
    write: OwnedFd,
    read: OwnedFd,
    /// Tells of changes to `read`, where that is how this process waits.
    changes: Option<OwnedFd>,
    abandoned: AtomicBool,
}

impl Place {
    fn new(write: OwnedFd, read: OwnedFd, wait: Wait) -> io::Result<Self> {
        let changes = match wait {
            Wait::Block => {
                Some(watch(&read).map_err(|error| lacking("inotify on a file of /proc", error))?)
            }
            Wait::Spin | Wait::Adaptive => None,
        };
        Ok(Self { write, read, changes, abandoned: AtomicBool::new(false) })
    }

    /// Writes a message and its number.
    #[inline]
    fn put(&self, payload: &[u8], turn: u64) -> io::Result<()> {
        let number = turn.to_le_bytes();
        if self.changes.is_none() {
            write_all(&self.write, &mut [IoSlice::new(payload)], 0)?;
            return write_all(&self.write, &mut [IoSlice::new(&number)], payload.len() as u64);
        }
        write_all(&self.write, &mut [IoSlice::new(payload), IoSlice::new(&number)], 0)
    }

    /// Waits for the message of that number, and reads it.
    #[inline]
    fn take(&self, payload: &mut [u8], turn: u64) -> io::Result<()> {
        let mut number = [0; NUMBER];
        loop {
            // ORDERING: Relaxed; nothing is read that depends on it.
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match &self.changes {
                None => {
                    let count = pread(&self.read, &mut number, payload.len() as u64)?;
                    if count == NUMBER && u64::from_le_bytes(number) == turn {
                        return read_exact(&self.read, payload);
                    }
                    thread::yield_now();
                }
                Some(changes) => {
                    let mut events = [MaybeUninit::<u8>::uninit(); 256];
                    match inotify::Reader::new(changes, &mut events).next() {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                    let both = &mut [IoSliceMut::new(payload), IoSliceMut::new(&mut number)];
                    let count = preadv(&self.read, both, 0)?;
                    if count == payload.len() + NUMBER && u64::from_le_bytes(number) == turn {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// What tells of changes to a file that has no name of its own.
fn watch(file: &OwnedFd) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    inotify::add_watch(&changes, path, WatchFlags::MODIFY)?;
    Ok(changes)
}

fn write_all(file: impl AsFd, mut parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    while parts.iter().any(|part| !part.is_empty()) {
        match pwritev(&file, parts, at) {
            Ok(count) => {
                IoSlice::advance_slices(&mut parts, count);
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_exact(file: impl AsFd, payload: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < payload.len() {
        match pread(&file, &mut payload[done..], done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct FileClient {
    place: Arc<Place>,
    turn: u64,
}

impl Client for FileClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            self.turn += 1;
            self.place.put(payload, self.turn)?;
            self.place.take(payload, self.turn)
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let place = Arc::clone(&self.place);
        Some(Arc::new(move || {
            place.abandoned.store(true, Ordering::SeqCst);
            if place.changes.is_some() {
                // A change, so that a sleeping reader looks. What it finds no longer matters.
                let _ = pwrite(&place.read, &[0], 0);
            }
        }))
    }
}

#[derive(Debug)]
struct FileServer {
    place: Place,
    turn: u64,
    payload: Vec<u8>,
}

impl Server for FileServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            self.turn += 1;
            self.place.take(&mut self.payload, self.turn)?;
            answer(&mut self.payload);
            self.place.put(&self.payload, self.turn)?;
        }
        Ok(())
    }
}
