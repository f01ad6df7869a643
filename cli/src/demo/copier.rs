//! The process that copies: it holds the file server and nothing else.
//!
//! Each sender is a thread with a connection of its own, and keeps several transactions in flight
//! on it. A handful of files at a time, it opens them all, then moves their chunks, then closes
//! them. When the server dies under it, the library tells it of each transaction what became of
//! it; a sender that goes on waits on the same capability for the next incarnation, opens what was
//! not finished, and sends what was not answered. Sending an *interrupted* write again is right
//! here since a write at an offset does no harm twice: that is for the one who sends to know.

use super::talk::{Direction, Job, Lost, Plan, Said, Stopped, now_ns, say};
use super::tree;
use crate::failure::{FAILED, Failure};
use rendez::protocol::file::{self, Open, OpenFlags, Read, Write, operation, status};
use rendez::protocol::kernel::KernelError;
use rendez::protocol::{decode, encode};
use rendez::{Connection, Error, Options, SendError, Slot, Task, Why};
use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Transactions that one sender keeps in flight.
const IN_FLIGHT: usize = 8;
/// Files that one sender has open at a time.
const FILES_OPEN: usize = 16;
/// The payload area of a connection: room for all that is in flight.
const AREA_BYTES: u32 = 4 << 20;
/// How often progress is told.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Copies what `plan` says, by the capability that the task was given as `file`.
pub(super) fn run(task: &Task, plan: &Plan) -> Result<(), Failure> {
    let start = now_ns();
    let slot = task.given_as("file")?.slot;
    let meter = Meter::default();
    let mut senders = (1..=plan.senders)
        .map(|number| Sender::new(number, task, slot, plan, &meter))
        .collect::<Result<Vec<_>, _>>()?;
    match plan.direction {
        Direction::In => {
            if let Some(first) = senders.first_mut() {
                first.make_directories(&plan.directories)?;
            }
        }
        Direction::Out => {
            for directory in &plan.directories {
                tree::make_directory(Path::new(directory))
                    .map_err(|error| Failure::system(format!("making {directory}"), error))?;
            }
        }
    }
    let failed = std::thread::scope(|scope| {
        let running: Vec<_> =
            senders.into_iter().map(|sender| scope.spawn(move || sender.copy_share())).collect();
        let ended = running.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Failure::new(FAILED, "a sender panicked")))
        });
        ended.filter_map(Result::err).next()
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    say(&Said::Copied {
        files: meter.files.load(Relaxed),
        bytes: meter.bytes.load(Relaxed),
        transactions: meter.transactions.load(Relaxed),
        seconds: (now_ns() - start) as f64 / 1e9,
    });
    Ok(())
}

/// What all senders have done. The counters carry nothing but themselves.
#[derive(Debug, Default)]
struct Meter {
    files: AtomicU64,
    bytes: AtomicU64,
    transactions: AtomicU64,
}

impl Meter {
    fn add_bytes(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let now = before + bytes;
        if before / PROGRESS_BYTES != now / PROGRESS_BYTES {
            say(&Said::Progress { files: self.files.load(Relaxed), bytes: now });
        }
    }
}

/// A file that is being copied.
struct Moving<'a> {
    job: &'a Job,
    local: File,
    handle: Option<u32>,
    opened: bool,
    /// What is still to be moved: from which byte, how many.
    chunks: VecDeque<(u64, u32)>,
}

impl<'a> Moving<'a> {
    /// `None` if the file is not there any more: that is for the comparison to judge.
    fn new(job: &'a Job, plan: &Plan) -> Result<Option<Self>, Failure> {
        let local = match plan.direction {
            Direction::In => File::open(&job.local),
            Direction::Out => File::create(&job.local),
        };
        let local = match local {
            Ok(local) => local,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::system(job.local.display(), error)),
        };
        let step = u64::from(plan.chunk_bytes.max(1));
        let chunks = (0..job.bytes.div_ceil(step))
            .map(|place| (place * step, step.min(job.bytes - place * step) as u32))
            .collect();
        Ok(Some(Self { job, local, handle: None, opened: false, chunks }))
    }

    fn is_finished(&self) -> bool {
        self.opened && self.chunks.is_empty()
    }
}

/// A transaction, and which of the files at hand it is about.
#[derive(Clone, Copy)]
enum Step {
    Open(usize),
    Move { file: usize, offset: u64, bytes: u32 },
    Close(usize),
}

impl Step {
    fn file(self) -> usize {
        match self {
            Self::Open(file) | Self::Move { file, .. } | Self::Close(file) => file,
        }
    }
}

/// Why a pass over the files at hand stopped.
enum Halt {
    /// The connection has ended.
    Ended(SendError),
    /// Something that waiting does not mend.
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Sender<'a> {
    number: usize,
    task: &'a Task,
    slot: Slot,
    options: Options,
    plan: &'a Plan,
    meter: &'a Meter,
    connection: Connection,
    window: VecDeque<(u64, Step)>,
    payload: Vec<u8>,
    /// Replies that came.
    answered: u64,
    lost: Vec<Lost>,
}

impl<'a> Sender<'a> {
    fn new(
        number: usize,
        task: &'a Task,
        slot: Slot,
        plan: &'a Plan,
        meter: &'a Meter,
    ) -> Result<Self, Failure> {
        let options = Options::speaking(file::interface()).with_area(AREA_BYTES);
        let connection = connect(number, task, slot, &options)?;
        Ok(Self {
            number,
            task,
            slot,
            options,
            plan,
            meter,
            connection,
            window: VecDeque::new(),
            payload: Vec::new(),
            answered: 0,
            lost: Vec::new(),
        })
    }

    fn make_directories(&mut self, directories: &[String]) -> Result<(), Failure> {
        for directory in directories {
            let request = encode(&directory.as_str());
            let reply = self.connection.send(operation::MAKE_DIRECTORY, &request, 256);
            match reply.map_err(Error::from).and_then(|reply| reply.ok().map(drop)) {
                Err(error) if error.status() != Some(status::EXISTS) => {
                    return Err(Failure::from(error).about(directory));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies this sender's share of the files: every so-manieth.
    fn copy_share(mut self) -> Result<(), Failure> {
        let share: Vec<&Job> =
            self.plan.jobs.iter().skip(self.number - 1).step_by(self.plan.senders).collect();
        for jobs in share.chunks(FILES_OPEN) {
            let mut files = Vec::new();
            for job in jobs {
                files.extend(Moving::new(job, self.plan)?);
            }
            self.copy(&mut files)?;
            self.meter.files.fetch_add(files.len() as u64, Relaxed);
        }
        say(&Said::Finished { sender: self.number });
        Ok(())
    }

    /// Copies the files at hand, over as many connections as it takes.
    fn copy(&mut self, files: &mut [Moving<'_>]) -> Result<(), Failure> {
        loop {
            let error = match self.pass(files) {
                Ok(()) => return Ok(()),
                Err(Halt::Failed(failure)) => return Err(failure),
                Err(Halt::Ended(error)) => error,
            };
            while !self.window.is_empty() {
                if let Err(Halt::Failed(failure)) = self.finish(files) {
                    return Err(failure);
                }
            }
            if !self.plan.goes_on || error.why() != Why::Dead {
                return Err(Error::from(error).into());
            }
            say(&Said::Stopped(Stopped {
                sender: self.number,
                answered: self.answered,
                lost: std::mem::take(&mut self.lost),
            }));
            // Handles end with the connection that opened them.
            for file in files.iter_mut() {
                file.handle = None;
            }
            self.connection = connect(self.number, self.task, self.slot, &self.options)?;
        }
    }

    /// Opens, moves and closes what is not finished.
    fn pass(&mut self, files: &mut [Moving<'_>]) -> Result<(), Halt> {
        for place in 0..files.len() {
            if !files[place].is_finished() {
                self.begin(files, Step::Open(place))?;
            }
        }
        self.finish_all(files)?;
        for place in 0..files.len() {
            while let Some((offset, bytes)) = files[place].chunks.pop_front() {
                self.begin(files, Step::Move { file: place, offset, bytes })?;
            }
        }
        self.finish_all(files)?;
        for place in 0..files.len() {
            if files[place].handle.is_some() {
                self.begin(files, Step::Close(place))?;
            }
        }
        self.finish_all(files)
    }

    /// Sends a step, once no more than the allowed number are in flight.
    fn begin(&mut self, files: &mut [Moving<'_>], step: Step) -> Result<(), Halt> {
        if self.window.len() >= IN_FLIGHT
            && let Err(halt) = self.finish(files)
        {
            // It was not sent: it stays to be done, and nobody need be told of it.
            put_back(files, step);
            return Err(halt);
        }
        let Some((operation, room)) = self.request(files, step)? else { return Ok(()) };
        match self.connection.begin(operation, &self.payload, room) {
            Ok(transaction) => {
                self.meter.transactions.fetch_add(1, Relaxed);
                self.window.push_back((transaction, step));
                Ok(())
            }
            Err(error) => Err(self.note(files, step, error)),
        }
    }

    /// Puts a step's request into the payload; operation and room. `None`: there is nothing to do.
    fn request(
        &mut self,
        files: &[Moving<'_>],
        step: Step,
    ) -> Result<Option<(u16, usize)>, Failure> {
        let Moving { job, local, handle, .. } = &files[step.file()];
        Ok(match (step, *handle) {
            (Step::Open(_), _) => {
                let flags = match self.plan.direction {
                    Direction::In => OpenFlags::WRITE | OpenFlags::CREATE,
                    Direction::Out => OpenFlags::READ,
                };
                self.payload = encode(&Open { path: &job.remote, flags, mode: job.mode });
                Some((operation::OPEN, 256))
            }
            (Step::Close(_), Some(handle)) => {
                self.payload = encode(&handle);
                Some((operation::CLOSE, 256))
            }
            (Step::Move { offset, bytes, .. }, Some(handle)) => match self.plan.direction {
                Direction::In => {
                    self.payload = encode(&Write { handle, offset });
                    let head = self.payload.len();
                    self.payload.resize(head + bytes as usize, 0);
                    let read = read_at(local, &mut self.payload[head..], offset)
                        .map_err(|error| Failure::system(job.local.display(), error))?;
                    self.payload.truncate(head + read);
                    (read > 0).then_some((operation::WRITE, 256))
                }
                Direction::Out => {
                    self.payload = encode(&Read { handle, offset, length: bytes });
                    Some((operation::READ, bytes as usize))
                }
            },
            (Step::Close(_) | Step::Move { .. }, None) => None,
        })
    }

    fn finish_all(&mut self, files: &mut [Moving<'_>]) -> Result<(), Halt> {
        while !self.window.is_empty() {
            self.finish(files)?;
        }
        Ok(())
    }

    /// Waits for the reply to the oldest step in flight, and does what it says.
    fn finish(&mut self, files: &mut [Moving<'_>]) -> Result<(), Halt> {
        let Some((transaction, step)) = self.window.pop_front() else { return Ok(()) };
        let reply = match self.connection.finish(transaction) {
            Ok(reply) => reply,
            Err(error) => return Err(self.note(files, step, error)),
        };
        self.answered += 1;
        let file = &mut files[step.file()];
        let failed = |error: Error| Failure::from(error).about(&file.job.remote);
        match (step, reply.ok()) {
            (Step::Open(_), Ok(payload)) => {
                file.handle = Some(decode(payload).map_err(|error| failed(error.into()))?);
                file.opened = true;
            }
            (Step::Open(_), Err(error)) if error.status() == Some(status::NOT_FOUND) => {
                // Nobody had put it there: the comparison will find out why.
                file.opened = true;
                file.chunks.clear();
            }
            (Step::Move { offset, bytes, .. }, Ok(payload)) => {
                if self.plan.direction == Direction::Out {
                    file.local
                        .write_all_at(payload, offset)
                        .map_err(|error| Failure::system(file.job.local.display(), error))?;
                }
                self.meter.add_bytes(u64::from(bytes));
            }
            (Step::Close(_), Ok(_)) => file.handle = None,
            (_, Err(error)) => return Err(failed(error).into()),
        }
        Ok(())
    }

    /// Notes that a step got no answer, and that it is still to be done.
    fn note(&mut self, files: &mut [Moving<'_>], step: Step, error: SendError) -> Halt {
        put_back(files, step);
        self.lost.push(Lost {
            told: error.to_string(),
            interrupted: match error {
                SendError::Interrupted { generation, .. } => Some(generation),
                SendError::NotDelivered { .. } => None,
            },
            path: files[step.file()].job.remote.clone(),
            write: match step {
                Step::Move { offset, bytes, .. } => Some((offset, bytes)),
                _ => None,
            },
        });
        Halt::Ended(error)
    }
}

fn put_back(files: &mut [Moving<'_>], step: Step) {
    if let Step::Move { file, offset, bytes } = step {
        files[file].chunks.push_back((offset, bytes));
    }
}

/// Connects; waits while the server is dead and somebody is left who may bring it back.
fn connect(
    sender: usize,
    task: &Task,
    slot: Slot,
    options: &Options,
) -> Result<Connection, Failure> {
    let deadline = rendez::deadline_after(options.timeout);
    loop {
        match Connection::open_until(task, slot, options, deadline) {
            Ok(connection) => {
                say(&Said::Connected { sender, generation: connection.generation() });
                return Ok(connection);
            }
            // It died while it was being connected to.
            Err(Error::Kernel(KernelError::NotCompleted(Why::Dead))) if now_ns() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fills `buffer` from the file, as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
