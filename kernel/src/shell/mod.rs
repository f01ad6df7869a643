//! The shell around the machine: sockets, descriptors, pidfds. It performs and decides nothing.
//!
//! One thread runs an epoll loop; two more close what may block in closing. What keeps the loop
//! from ever waiting for a task:
//!
//! - *Sending.* Every send is non-blocking. What does not fit is queued, and while anything is
//!   queued nothing is read from that task; at most one batch of descriptors is under way to it.
//! - *Receiving.* A turn reads a bounded number of requests from each task that has some, and sends
//!   what came of all of them at its end: who is told of several things is woken once.
//! - *Descriptors.* None travels from a task to the kernel. Linux refuses them at the sender
//!   (6.16); where it cannot, the kernel looks at each packet without room for descriptors, and a
//!   socket with some in it goes unread to a closer. Receiving or discarding a stranger's
//!   descriptor would run its last close here.
//! - *Closing.* No socket of a task is closed in this thread.
//!
//! A task is dead when its socket ends or its pidfd says so, whichever comes first. No timer
//! decides about it. What the machine has put off (`Machine::step`) goes on between two tasks'
//! requests, a portion at a time. One that was created here and that the shell gives up, for rubbish on its
//! socket or for lack of something, is killed before anybody is told that it is dead.
//!
//! | file | what |
//! |---|---|
//! | here | setting up, the loop, requests on their way to the machine |
//! | `arrival` | how a process becomes a task |
//! | `perform` | effects: from the machine to the world |
//! | `listing` | the list of all tasks |
//! | `waits` | what they say of whom they wait for |
//! | `peer` | one kernel socket, and what waits to be sent over it |
//! | `segments`, `regions` | the descriptors of connections and arenas; of regions |
//! | `timers` | alarms that the machine has asked for |
//! | `closer` | threads that close what may block |
//! | `recorder` | what the machine is told, to a file, by a thread of its own |
//! | `sandbox` | what the threads may still ask of Linux |

#![warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod arrival;
mod closer;
mod listing;
mod peer;
mod perform;
mod recorder;
mod regions;
mod sandbox;
mod segments;
mod timers;
mod waits;

use crate::effect::Effect;
use crate::input::{Input, Outcome};
use crate::machine::Machine;
use crate::quota::Quotas;
use crate::system::{self, Packet};
use crate::waits::Suspicions;
use closer::Closers;
use peer::{Origin, Peer};
pub use recorder::Record;
use recorder::Recorder;
use regions::Regions;
use rendez_ipc_core::control::{self, FrameError};
use rendez_protocol::kernel::{Answer, KernelError, Request, frame};
use rendez_protocol::limit::FRAME_BYTES_MAX;
use rendez_protocol::{TaskId, decode};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use rustix::time::Timespec;
use segments::Segments;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use timers::Timers;

/// Requests of one task, and processes at the front door, that are taken in one turn.
const PER_TURN: usize = 16;
/// Frames that are queued at most before they are sent, though more requests are there to be read.
const PER_BATCH: usize = 128;
/// Processes of one uid that may be at the front door without having greeted. When another comes,
/// the one that has been silent for longest is shown out.
const UNGREETED_MAX: usize = 64;
/// What part of the kernel's descriptors one task's connections and arenas in the making may be:
/// their number
/// is the number of descriptors divided by this (each takes up to five for a while).
const MAKING_SHARE: u64 = 64;
/// How many connections and arenas one task may have in the making however many descriptors there are.
const MAKING_MAX: usize = 1024;
/// The kernel's descriptors divided by the spares of all tasks together, of which each takes up to
/// three.
const SPARES_SHARE: u64 = 24;
/// What part of the kernel's descriptors the regions of all tasks together may be.
const REGIONS_SHARE: u64 = 4;
/// How soon to try again what Linux had no room for, in ns.
const AGAIN: u64 = 50_000_000;
/// Epoll's word for the front door.
const LISTENER: u64 = 0;
/// Epoll's word for the lifeline. Peers have the words from 2 on.
const LIFELINE: u64 = 1;

/// What a kernel is started with.
#[derive(Debug)]
pub struct Config {
    /// The front door: bound, listening, `SOCK_SEQPACKET`. Pass it through [`refuse_descriptors`]
    /// before `listen`.
    pub listener: OwnedFd,
    /// The kernel's end of the first task's socket, from [`socket_pair`].
    pub first: Option<OwnedFd>,
    /// The first task's name, for people.
    pub first_name: String,
    /// The kernel stops when the other end of this is closed.
    pub lifeline: Option<OwnedFd>,
    /// What each task may have.
    pub quotas: Quotas,
    /// Held open until the kernel stops: the lock on the runtime directory, say.
    pub keep: Vec<OwnedFd>,
    /// Where to record what the machine is told; nowhere without it.
    pub record: Option<Record>,
    /// Whether the kernel's threads give up all system calls that they do not need.
    pub sandbox: bool,
    /// Whether to look for descriptors before each receive even where Linux refuses them at the
    /// sender. For tests.
    pub look_always: bool,
}

impl Config {
    /// A kernel with this front door and nothing else out of the ordinary.
    #[must_use]
    pub fn new(listener: OwnedFd) -> Self {
        Self {
            listener,
            first: None,
            first_name: "supervisor".into(),
            lifeline: None,
            quotas: Quotas::default(),
            keep: Vec::new(),
            record: None,
            sandbox: true,
            look_always: false,
        }
    }
}

/// Why a kernel could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {error}")]
pub struct Error {
    /// What the kernel was doing.
    pub doing: &'static str,
    /// What Linux said.
    pub error: io::Error,
}

/// For `map_err`: what was being done.
fn doing<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error { doing, error: error.into() }
}

/// Makes a kernel socket pair: the kernel's end, and the end that a task's process inherits. What
/// the kernel needs to know of its greeting is switched on before anybody can send one.
///
/// # Errors
/// What Linux says.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(true)
}

fn pair(refuse: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    if refuse {
        refuse_descriptors(ours.as_fd());
    }
    rustix::net::sockopt::set_socket_passcred(&ours, true)?;
    Ok((ours, theirs))
}

/// Has Linux refuse descriptors sent to `socket`, and to what is accepted from it. Whether it can
/// (6.16); where it cannot the kernel looks before it receives.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> bool {
    system::refuse_rights(socket).is_ok()
}

/// Runs a kernel in the calling thread until its lifeline ends, then ends the tasks that were
/// created in it. Their processes are killed; those that came through the front door only lose
/// their sockets.
///
/// # Errors
/// If something cannot be set up. Nothing that a task does makes a running kernel return.
pub fn run(config: Config) -> Result<(), Error> {
    let _kept = config.keep;
    let descriptors = raise_descriptor_limit();
    let mut shell = Shell::new(
        config.listener,
        config.lifeline,
        config.first,
        Machine::new(config.quotas),
        descriptors,
        config.sandbox,
        config.look_always,
    )?;
    if let Some(record) = config.record {
        let recorder = Recorder::start(record, &config.quotas, config.sandbox)
            .map_err(doing("starting the recorder"))?;
        shell.recorder = Some(recorder);
    }
    if shell.first.is_some() {
        shell.apply(Input::First { name: config.first_name });
        shell.settle();
    }
    if config.sandbox {
        sandbox::confine_kernel().map_err(doing("giving up system calls"))?;
    }
    let mut ready = Vec::with_capacity(64);
    loop {
        ready.clear();
        let timeout = shell.timeout();
        let room = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(&shell.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(doing("waiting for tasks")(error)),
        }
        shell.try_again();
        shell.ring();
        if ready.is_empty() {
            shell.step();
        }
        for event in &ready {
            match event.data.u64() {
                LISTENER => shell.accept(),
                LIFELINE => {
                    if shell.lifeline_ended() {
                        shell.stop();
                        return Ok(());
                    }
                }
                word if word % 2 == 0 => shell.socket_ready(word / 2, event.flags),
                word => shell.end(word / 2),
            }
            shell.settle();
            shell.step();
        }
        shell.finish_turn();
        if !ready.is_empty() && shell.machine.is_at_work() {
            // Whoever was answered on this very processor goes first.
            rustix::thread::sched_yield();
        }
    }
}

/// Descriptors are what runs out first: allows as many as this process may allow itself, and says
/// how many that is.
fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let known = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    known.unwrap_or(u64::MAX)
}

struct Shell {
    machine: Machine,
    recorder: Option<Recorder>,
    epoll: OwnedFd,
    listener: OwnedFd,
    lifeline: Option<OwnedFd>,
    /// The first task's socket, until the machine has made that task.
    first: Option<OwnedFd>,
    closers: Closers,
    segments: Segments,
    regions: Regions,
    /// By number. Numbers are never used again, so that a late event of epoll finds nobody.
    peers: HashMap<u64, Peer>,
    tasks: HashMap<TaskId, u64>,
    peers_ever: u64,
    /// What the machine said is to be done, in order.
    effects: VecDeque<Effect>,
    /// Peers that have closed their end, to be ended once the effect at hand is done.
    gone: Vec<u64>,
    /// Peers to give up then.
    doomed: Vec<u64>,
    /// Peers for whom something was queued that is to be sent at the end of the turn.
    due: Vec<u64>,
    /// How many frames that is.
    queued: usize,
    /// Peers that Linux had no room for.
    again: HashSet<u64>,
    /// Linux had no descriptor left for another process at the front door.
    door_paused: bool,
    timers: Timers,
    suspicions: Suspicions,
    buffer: Vec<u8>,
    uid: u32,
    look_always: bool,
}

impl Shell {
    fn new(
        listener: OwnedFd,
        lifeline: Option<OwnedFd>,
        first: Option<OwnedFd>,
        machine: Machine,
        descriptors: u64,
        sandbox: bool,
        look_always: bool,
    ) -> Result<Self, Error> {
        let confine = if sandbox { sandbox::confine_closer } else { || Ok(()) };
        let closers = Closers::start(confine).map_err(doing("starting the closer threads"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(doing("making an epoll instance"))?;
        let watch = |fd: BorrowedFd<'_>, word| {
            epoll::add(&epoll, fd, EventData::new_u64(word), EventFlags::IN)
        };
        rustix::io::ioctl_fionbio(&listener, true).map_err(doing("preparing the front door"))?;
        if !look_always {
            refuse_descriptors(listener.as_fd());
        }
        watch(listener.as_fd(), LISTENER).map_err(doing("watching the front door"))?;
        if let Some(lifeline) = &lifeline {
            watch(lifeline.as_fd(), LIFELINE).map_err(doing("watching the lifeline"))?;
        }
        let closing = closers.closing();
        Ok(Self {
            machine,
            recorder: None,
            epoll,
            listener,
            lifeline,
            first,
            closers,
            segments: Segments::new(
                usize::try_from(descriptors / MAKING_SHARE).unwrap_or(MAKING_MAX).min(MAKING_MAX),
                usize::try_from(descriptors / SPARES_SHARE).unwrap_or(usize::MAX),
                closing.clone(),
            ),
            regions: Regions::new(
                usize::try_from(descriptors / REGIONS_SHARE).unwrap_or(usize::MAX),
                closing,
            ),
            peers: HashMap::new(),
            tasks: HashMap::new(),
            peers_ever: 0,
            effects: VecDeque::new(),
            gone: Vec::new(),
            doomed: Vec::new(),
            due: Vec::new(),
            queued: 0,
            again: HashSet::new(),
            door_paused: false,
            timers: Timers::default(),
            suspicions: Suspicions::default(),
            buffer: vec![0; FRAME_BYTES_MAX],
            uid: rustix::process::geteuid().as_raw(),
            look_always,
        })
    }

    /// Tells the machine something: the one place where anybody does. What is to be done about it is
    /// queued.
    fn tell_machine(&mut self, input: Input) -> Outcome {
        let mut effects = Vec::new();
        if let Some(recorder) = &mut self.recorder {
            recorder.telling(&input);
        }
        let outcome = self.machine.apply(input, &mut effects);
        if let Some(recorder) = &mut self.recorder {
            recorder.came_to(&outcome, &effects);
        }
        self.effects.extend(effects);
        outcome
    }

    /// Tells the machine something that comes to nothing but effects.
    fn apply(&mut self, input: Input) {
        let _ = self.tell_machine(input);
    }

    /// How long epoll may wait: for ever, unless the machine is at work or has asked for an alarm,
    /// or something is to be tried again.
    fn timeout(&self) -> Option<Timespec> {
        if self.machine.is_at_work() {
            return Some(timers::timeout(0));
        }
        let again = (self.door_paused || !self.again.is_empty()).then_some(AGAIN);
        let alarm = if self.timers.is_empty() { None } else { self.timers.wait(timers::now()) };
        again.into_iter().chain(alarm).min().map(timers::timeout)
    }

    /// Hands alarms back whose time has come.
    fn ring(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = timers::now();
        while let Some(alarm) = self.timers.ringing(now) {
            self.apply(Input::Expired { alarm });
            self.settle();
        }
    }

    /// Has the machine do a portion of what it has put off, if it has put anything off.
    fn step(&mut self) {
        if self.machine.is_at_work() {
            // Those who have been answered do not wait for it.
            self.finish_turn();
            self.apply(Input::Step);
            self.settle();
        }
    }

    fn try_again(&mut self) {
        if self.door_paused {
            let watched = EventData::new_u64(LISTENER);
            let open = epoll::modify(&self.epoll, &self.listener, watched, EventFlags::IN);
            self.door_paused = open.is_err();
        }
        for id in std::mem::take(&mut self.again) {
            self.flush(id);
        }
        self.settle();
    }

    /// Whether the other end of the lifeline is closed. What is written to it means nothing.
    fn lifeline_ended(&self) -> bool {
        let mut ignored = [0_u8; 64];
        self.lifeline.as_ref().is_some_and(|lifeline| {
            !matches!(
                rustix::io::read(lifeline, &mut ignored),
                Ok(1..) | Err(Errno::INTR | Errno::AGAIN)
            )
        })
    }

    /// Ends everything.
    fn stop(&mut self) {
        for (_, peer) in self.peers.drain() {
            kill(&peer);
            let _ = rustix::net::shutdown(&peer.socket, Shutdown::Both);
            close(&self.closers, peer.suspect, peer.socket);
        }
        self.tasks.clear();
    }

    /// Adds a peer and watches its socket. If that fails the socket is closed.
    fn add(&mut self, socket: OwnedFd, origin: Origin) -> io::Result<u64> {
        let peer = Peer::new(socket, origin, self.look_always)?;
        self.peers_ever = self.peers_ever.wrapping_add(1);
        let id = self.peers_ever;
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let watched = epoll::add(&self.epoll, &peer.socket, socket_word(id), flags);
        match watched {
            Ok(()) => {
                self.peers.insert(id, peer);
                Ok(id)
            }
            Err(error) => {
                close(&self.closers, peer.suspect, peer.socket);
                Err(error.into())
            }
        }
    }

    /// Has the peer end when its process does.
    fn watch_process(&mut self, id: u64, pidfd: OwnedFd) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if epoll::add(&self.epoll, &pidfd, pidfd_word(id), EventFlags::IN).is_err() {
            self.doomed.push(id);
        }
        peer.pidfd = Some(pidfd);
    }

    /// A peer is given up. Whoever is told that it is dead may start another in its place.
    fn end_by_force(&mut self, id: u64) {
        if let Some(peer) = self.peers.get(&id) {
            kill(peer);
        }
        self.end(id);
    }

    /// A peer is dead, or has closed its end.
    fn end(&mut self, id: u64) {
        if let Some(task) = self.peers.get(&id).and_then(|peer| peer.task) {
            self.apply(Input::Died { who: task });
        }
        self.remove(id);
    }

    fn remove(&mut self, id: u64) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        if peer.due {
            // Whatever became of it.
            let _ = peer.flush();
        }
        if let Some(task) = peer.task {
            self.tasks.remove(&task);
        }
        self.again.remove(&id);
        // The closer takes its time; until then epoll would go on about the socket.
        let _ = epoll::delete(&self.epoll, &peer.socket);
        if let Some(pidfd) = &peer.pidfd {
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        // What was sent can still be read at the other end, and then it ends there, at once.
        let _ = rustix::net::shutdown(&peer.socket, Shutdown::Both);
        close(&self.closers, peer.suspect, peer.socket);
    }

    fn socket_ready(&mut self, id: u64, flags: EventFlags) {
        if self.peers.get(&id).is_some_and(Peer::is_behind) {
            self.flush(id);
            let ended = EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR;
            if flags.intersects(ended) && self.peers.get(&id).is_some_and(Peer::is_behind) {
                self.end(id);
            }
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PER_TURN {
            let Some(peer) = self.peers.get(&id).filter(|peer| !peer.is_behind()) else { break };
            match peer.receive(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The end of the stream; an empty packet is no frame either.
                Ok(Packet { bytes: 0, .. }) => {
                    self.end(id);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.end(id);
                    break;
                }
                // A packet that is too long, descriptors.
                Err(_) | Ok(Packet { truncated: true, .. }) => {
                    self.end_by_force(id);
                    break;
                }
                Ok(packet) => {
                    let bytes = buffer.get(..packet.bytes).unwrap_or_default();
                    match control::parse(bytes) {
                        Ok((transaction, header, payload)) => {
                            self.frame(id, transaction, header.code, payload, packet);
                        }
                        Err(error @ FrameError::Length { transaction, .. }) => {
                            let error = KernelError::Malformed(error.to_string());
                            self.answer(id, transaction, &Answer::Error(error), vec![]);
                        }
                        Err(FrameError::Short { .. }) => self.end_by_force(id),
                    }
                    self.settle();
                }
            }
        }
        self.buffer = buffer;
    }

    fn frame(&mut self, id: u64, transaction: u64, code: u16, payload: &[u8], packet: Packet) {
        let Some(peer) = self.peers.get(&id) else { return };
        match (peer.task.filter(|_| peer.welcomed), code) {
            (Some(task), frame::REQUEST) => match decode::<Request>(payload) {
                Ok(request) => {
                    self.apply(Input::Request { who: task, transaction, request });
                }
                Err(error) => {
                    let error = KernelError::Malformed(error.to_string());
                    self.answer(id, transaction, &Answer::Error(error), vec![]);
                }
            },
            (Some(_), frame::HELLO) => {
                let error = KernelError::Order("this task has greeted already".into());
                self.answer(id, transaction, &Answer::Error(error), vec![]);
            }
            (Some(_), code) => {
                let error = KernelError::Malformed(format!("a frame of unknown code {code}"));
                self.answer(id, transaction, &Answer::Error(error), vec![]);
            }
            (None, frame::HELLO) => {
                if let Err(error) = self.hello(id, transaction, payload, packet) {
                    self.answer(id, transaction, &Answer::Error(error), vec![]);
                }
                self.settle();
                self.flush(id);
                // Refused, by us or by the machine.
                if self.peers.get(&id).is_some_and(|peer| !peer.welcomed) {
                    self.end(id);
                }
            }
            (None, _) => {
                let error = KernelError::Order("the first frame must be a greeting".into());
                self.answer(id, transaction, &Answer::Error(error), vec![]);
                self.end(id);
            }
        }
    }
}

/// Kills the process of a task that was created here, if it has announced itself.
fn kill(peer: &Peer) {
    // The same process: a kernel in a thread of its own task, in tests.
    let other = peer.process.is_some_and(|process| process.pid != std::process::id());
    if peer.origin == Origin::Created
        && other
        && let Some(pidfd) = &peer.pidfd
    {
        // It is dead already, or not ours to kill; then its socket ends it.
        let _ = system::signal(pidfd.as_fd(), libc::SIGKILL);
    }
}

/// Closes a task's socket where it may block as long as it likes.
fn close(closers: &Closers, suspect: bool, socket: OwnedFd) {
    if suspect { closers.close_suspect(socket) } else { closers.close(socket) }
}

/// Epoll's word for a peer's socket.
fn socket_word(id: u64) -> EventData {
    EventData::new_u64(id.wrapping_mul(2))
}

/// Epoll's word for a peer's pidfd.
fn pidfd_word(id: u64) -> EventData {
    EventData::new_u64(id.wrapping_mul(2).wrapping_add(1))
}
