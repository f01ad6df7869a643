//! The shell around the machine: sockets, descriptors, pidfds. It performs and decides nothing.
//!
//! One thread runs an epoll loop; two more close what may block in closing. What keeps the loop
//! from ever waiting for a task:
//!
//! - *Sending.* Every send is non-blocking. What does not fit is queued, and while anything is
//!   queued nothing is read from that task; at most one batch of descriptors is under way to it.
//! - *Receiving.* A turn reads a bounded number of requests from each task that has some.
//! - *Descriptors.* None travels from a task to the kernel. Linux refuses them at the sender
//!   (6.16); where it cannot, the kernel looks at each packet without room for descriptors, and a
//!   socket with some in it goes unread to a closer. Receiving or discarding a stranger's
//!   descriptor would run its last close here.
//! - *Closing.* No socket of a task is closed in this thread.
//!
//! A task is dead when its socket ends or its pidfd says so, whichever comes first. No timer
//! decides about it.

mod closer;
mod peer;
mod sandbox;
mod segments;

use crate::effect::{Attach, Effect};
use crate::machine::Machine;
use crate::quota::Quotas;
use crate::system::{self, Packet};
use closer::Closers;
use peer::{Interest, Origin, Outgoing, Peer, Sent};
use rendez_ipc_core::control::{self, FRAME_PAYLOAD_BYTES_MAX, FrameError};
use rendez_ipc_core::status::{PAGE_BYTES, PageReader, StatusWriter, memory_file, monotonic_ns};
use rendez_protocol::kernel::{
    Answer, Credentials, Event, Hello, KernelError, Request, TaskInfo, Waiting, frame,
};
use rendez_protocol::limit::{FRAME_BYTES_MAX, LABEL_BYTES_MAX};
use rendez_protocol::status::Why;
use rendez_protocol::{ConnectionId, TaskId, decode, encode};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::thread::Timespec;
use segments::{Segments, Shared, system as refused};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Requests of one task, and processes at the front door, that are taken in one turn.
const PER_TURN: usize = 16;
/// Processes of one uid that may be at the front door without having greeted.
const UNGREETED_MAX: usize = 64;
/// What part of the kernel's descriptors one task's connections in the making may be: their number
/// is the number of descriptors divided by this (each takes up to five for a while).
const MAKING_SHARE: u64 = 64;
/// How many connections one task may have in the making however many descriptors there are.
const MAKING_MAX: usize = 1024;
/// How soon to try again what Linux had no room for, in ms.
const AGAIN_MS: i64 = 50;
/// Epoll's word for the front door.
const LISTENER: u64 = 0;
/// Epoll's word for the lifeline. Peers have the words from 2 on: twice their number for the
/// socket, one more for the pidfd.
const LIFELINE: u64 = 1;
/// The transaction id of what the shell asks the machine on a task's behalf.
const ON_BEHALF: u64 = u64::MAX;

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
    if shell.first.is_some() {
        let mut effects = Vec::new();
        shell.machine.create_first(&config.first_name, &mut effects);
        shell.effects.extend(effects);
        shell.settle();
    }
    if config.sandbox {
        sandbox::confine_kernel().map_err(doing("giving up system calls"))?;
    }
    let mut ready = Vec::with_capacity(64);
    loop {
        ready.clear();
        match epoll::wait(&shell.epoll, rustix::buffer::spare_capacity(&mut ready), shell.timeout())
        {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(doing("waiting for tasks")(error)),
        }
        shell.try_again();
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
    epoll: OwnedFd,
    listener: OwnedFd,
    lifeline: Option<OwnedFd>,
    /// The first task's socket, until the machine has made that task.
    first: Option<OwnedFd>,
    closers: Closers,
    segments: Segments,
    /// By number. Numbers are never used again, so that a late event of epoll finds nobody.
    peers: HashMap<u64, Peer>,
    tasks: HashMap<TaskId, u64>,
    peers_ever: u64,
    /// What the machine said is to be done, in order.
    effects: VecDeque<Effect>,
    /// Peers to give up once the effect at hand is done.
    doomed: Vec<u64>,
    /// Peers that Linux had no room for.
    again: HashSet<u64>,
    /// Linux had no descriptor left for another process at the front door.
    door_paused: bool,
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
        Ok(Self {
            machine,
            epoll,
            listener,
            lifeline,
            first,
            closers,
            segments: Segments::new(
                usize::try_from(descriptors / MAKING_SHARE).unwrap_or(MAKING_MAX).min(MAKING_MAX),
            ),
            peers: HashMap::new(),
            tasks: HashMap::new(),
            peers_ever: 0,
            effects: VecDeque::new(),
            doomed: Vec::new(),
            again: HashSet::new(),
            door_paused: false,
            buffer: vec![0; FRAME_BYTES_MAX],
            uid: rustix::process::geteuid().as_raw(),
            look_always,
        })
    }

    /// How long epoll may wait: for ever, unless something is to be tried again.
    fn timeout(&self) -> Option<&'static Timespec> {
        const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: AGAIN_MS * 1_000_000 };
        (self.door_paused || !self.again.is_empty()).then_some(&SOON)
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
            !matches!(rustix::io::read(lifeline, &mut ignored), Ok(1..) | Err(Errno::INTR))
        })
    }

    /// Ends everything.
    fn stop(&mut self) {
        let own = std::process::id();
        for (_, peer) in self.peers.drain() {
            if peer.origin == Origin::Created
                // A kernel in a thread of its own task's process, in tests.
                && peer.process.is_some_and(|process| process.pid != own)
                && let Some(pidfd) = &peer.pidfd
            {
                // It is dead already, or not ours to kill; its socket ends it then.
                let _ = system::signal(pidfd.as_fd(), libc::SIGKILL);
            }
            let _ = rustix::net::shutdown(&peer.socket, Shutdown::Both);
            close(&self.closers, peer.suspect, peer.socket);
        }
        self.tasks.clear();
    }

    // Peers: how they come and go.

    /// Takes processes in that are at the front door.
    fn accept(&mut self) {
        for _ in 0..PER_TURN {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.visitor(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    let watched = EventData::new_u64(LISTENER);
                    let nothing = EventFlags::empty();
                    let _ = epoll::modify(&self.epoll, &self.listener, watched, nothing);
                    self.door_paused = true;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// A process has connected to the front door. It is nobody until it greets.
    fn visitor(&mut self, socket: OwnedFd) {
        let suspect = self.look_always || !system::refuses_rights(socket.as_fd());
        match self.meet(&socket) {
            Ok((credentials, pidfd)) => {
                if let Ok(id) = self.add(socket, Origin::FrontDoor(credentials))
                    && let Some(peer) = self.peers.get_mut(&id)
                {
                    peer.process = Some(credentials);
                    self.watch_process(id, pidfd);
                }
            }
            // Gone already, or over its uid's limit.
            Err(_) => close(&self.closers, suspect, socket),
        }
    }

    /// Who is at the other end of a socket from the front door.
    fn meet(&self, socket: &OwnedFd) -> io::Result<(Credentials, OwnedFd)> {
        use nix::sys::socket::{getsockopt, sockopt};
        let who = getsockopt(socket, sockopt::PeerCredentials)?;
        let credentials =
            Credentials { pid: who.pid().cast_unsigned(), uid: who.uid(), gid: who.gid() };
        let same_uid = |peer: &&Peer| match peer.origin {
            Origin::FrontDoor(other) => peer.task.is_none() && other.uid == credentials.uid,
            Origin::Created => false,
        };
        if self.peers.values().filter(same_uid).count() >= UNGREETED_MAX {
            return Err(Errno::AGAIN.into());
        }
        // Linux before 6.5 does not say; then the process is found by its id.
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            Err(_) => open_process(credentials.pid)?,
        };
        Ok((credentials, pidfd))
    }

    /// Adds a peer and watches its socket. If that fails the socket is closed.
    fn add(&mut self, socket: OwnedFd, origin: Origin) -> io::Result<u64> {
        let peer = Peer::new(socket, origin, self.look_always)?;
        self.peers_ever += 1;
        let id = self.peers_ever;
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let watched = epoll::add(&self.epoll, &peer.socket, EventData::new_u64(id * 2), flags);
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
        let word = EventData::new_u64(id * 2 + 1);
        match (epoll::add(&self.epoll, &pidfd, word, EventFlags::IN), self.peers.get_mut(&id)) {
            (Ok(()), Some(peer)) => peer.pidfd = Some(pidfd),
            _ => self.doomed.push(id),
        }
    }

    /// A peer is dead, or given up.
    fn end(&mut self, id: u64) {
        if let Some(task) = self.peers.get(&id).and_then(|peer| peer.task) {
            let mut effects = Vec::new();
            self.machine.died(task, &mut effects);
            self.effects.extend(effects);
        }
        self.remove(id);
    }

    fn remove(&mut self, id: u64) {
        let Some(peer) = self.peers.remove(&id) else { return };
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

    // Requests: from a peer's socket to the machine.

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
                // The end of the stream (an empty packet is no frame either), a packet that is too
                // long, descriptors, a reset.
                Err(_) | Ok(Packet { bytes: 0, .. } | Packet { truncated: true, .. }) => {
                    self.end(id);
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
                        Err(FrameError::Short { .. }) => self.end(id),
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
                    let mut effects = Vec::new();
                    self.machine.handle(task, transaction, request, &mut effects);
                    self.effects.extend(effects);
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

    /// A process says who it is; Linux says whether it is true.
    fn hello(
        &mut self,
        id: u64,
        transaction: u64,
        payload: &[u8],
        packet: Packet,
    ) -> Result<(), KernelError> {
        let Some(hello) = Hello::from_bytes(payload) else {
            return Err(KernelError::Malformed("this is no greeting".into()));
        };
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let (task, credentials) = match (peer.origin, peer.task) {
            (Origin::Created, Some(task)) => {
                let Some((pid @ 1.., uid, gid)) = packet.credentials else {
                    return Err(KernelError::Denied(
                        "Linux did not say which process sent the greeting; is it in another \
                         process id namespace?"
                            .into(),
                    ));
                };
                let pidfd = match packet.pidfd {
                    Some(pidfd) => pidfd,
                    None => open_process(pid)
                        .map_err(|error| refused("watching the task's process", error))?,
                };
                let credentials = Credentials { pid, uid, gid };
                peer.process = Some(credentials);
                peer.known();
                self.watch_process(id, pidfd);
                (task, credentials)
            }
            (Origin::FrontDoor(credentials), None) => {
                if credentials.uid != self.uid {
                    return Err(KernelError::Denied(format!(
                        "this system belongs to uid {}, and uid {} is given nothing",
                        self.uid, credentials.uid
                    )));
                }
                (self.admit(id, payload, credentials)?, credentials)
            }
            _ => return Err(KernelError::Order("this socket has no task".into())),
        };
        let mut effects = Vec::new();
        self.machine.hello(task, transaction, hello, credentials, &mut effects);
        self.effects.extend(effects);
        Ok(())
    }

    /// Makes a process from the front door a task. Its greeting may be followed by a label.
    fn admit(
        &mut self,
        id: u64,
        payload: &[u8],
        credentials: Credentials,
    ) -> Result<TaskId, KernelError> {
        let name = label(payload.get(8..).unwrap_or_default())
            .unwrap_or_else(|| format!("pid {}", credentials.pid));
        let mut effects = Vec::new();
        let task = self.machine.admit(&name, credentials, true, &mut effects)?;
        self.effects.extend(effects);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.task = Some(task);
        }
        self.tasks.insert(task, id);
        Ok(task)
    }

    // Effects: from the machine to the world.

    /// Performs everything that is to be done, and what follows from that.
    fn settle(&mut self) {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                self.perform(effect);
            } else if let Some(id) = self.doomed.pop() {
                self.end(id);
            } else {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { to, transaction, answer, attach } => {
                self.answer_task(to, transaction, answer, &attach);
            }
            Effect::Event { to, event, attach } => self.tell(to, &event, &attach),
            Effect::MakeTask(task) => self.make_task(task),
            Effect::MakeConnection { connection, client_bytes, server_bytes } => {
                self.segments.make(connection, client_bytes, server_bytes);
            }
            Effect::Seal { connection, side } => {
                let result = self.segments.seal(connection, side);
                let mut effects = Vec::new();
                self.machine.sealed(connection, side, result, &mut effects);
                self.effects.extend(effects);
            }
            Effect::SealPage(task) => self.seal_page(task),
            Effect::Status { task, index, word } => {
                if let Some(status) = self.peer(task).and_then(|(_, peer)| peer.status.as_mut()) {
                    status.set(index, word);
                }
            }
            Effect::ForgetConnection(connection) => self.segments.forget(connection),
            Effect::Signal { to, transaction, task, signal } => {
                let answer = match self.signal(task, signal) {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Error(error),
                };
                self.answer_task(to, transaction, answer, &[]);
            }
            Effect::Tasks { to, transaction, tasks } => {
                let tasks = tasks.into_iter().map(|task| self.with_waits(task)).collect();
                self.answer_task(to, transaction, Answer::Tasks(tasks), &[]);
            }
            Effect::ForgetTask(task) => {
                if let Some((id, _)) = self.peer(task) {
                    self.remove(id);
                }
            }
        }
    }

    fn peer(&mut self, task: TaskId) -> Option<(u64, &mut Peer)> {
        let id = *self.tasks.get(&task)?;
        Some((id, self.peers.get_mut(&id)?))
    }

    /// Makes a task's kernel socket, or takes the one that the kernel was started with. If it
    /// cannot be made, that shows when it is to be attached.
    fn make_task(&mut self, task: TaskId) {
        let made = match self.first.take() {
            Some(ours) => self.add(ours, Origin::Created),
            None => pair(!self.look_always).and_then(|(ours, theirs)| {
                let id = self.add(ours, Origin::Created)?;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.inherited = Some(Rc::new(theirs));
                }
                Ok(id)
            }),
        };
        if let Ok(id) = made {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.task = Some(task);
            }
            self.tasks.insert(task, id);
        }
    }

    /// Answers a task of the machine's, with descriptors. Where one cannot be had, the answer is
    /// an error and what it was about is taken back.
    fn answer_task(&mut self, to: TaskId, transaction: u64, answer: Answer, attach: &[Attach]) {
        let Some((id, _)) = self.peer(to) else { return };
        let descriptors = match &answer {
            Answer::Connecting { connection, .. } => self.segments.charge(*connection, to),
            _ => Ok(()),
        };
        match descriptors.and_then(|()| self.attachments(attach)) {
            Ok(descriptors) => {
                if let (Answer::Connected { .. }, Some(connection)) =
                    (&answer, attach.iter().find_map(connection_of))
                {
                    self.segments.complete(connection);
                }
                if let (Answer::Welcome { .. }, Some(peer)) = (&answer, self.peers.get_mut(&id)) {
                    peer.welcomed = true;
                }
                self.answer(id, transaction, &answer, descriptors);
            }
            Err(error) => {
                self.answer(id, transaction, &Answer::Error(error), vec![]);
                if let Answer::Task { id: child, .. } = answer {
                    match self.peer(child) {
                        Some((child, _)) => self.doomed.push(child),
                        None => {
                            let mut effects = Vec::new();
                            self.machine.died(child, &mut effects);
                            self.effects.extend(effects);
                        }
                    }
                }
                if let Some(connection) = attach.iter().find_map(connection_of) {
                    self.disconnect(to, connection);
                }
            }
        }
    }

    /// Answers a peer.
    fn answer(&mut self, id: u64, transaction: u64, answer: &Answer, descriptors: Vec<Shared>) {
        let mut payload = encode(answer);
        if payload.len() > FRAME_PAYLOAD_BYTES_MAX {
            payload = encode(&Answer::Error(KernelError::Quota {
                what: "bytes of an answer".into(),
                limit: FRAME_PAYLOAD_BYTES_MAX as u64,
            }));
        }
        self.post(id, Outgoing::answer(transaction, payload, descriptors));
    }

    /// Tells a task something unasked.
    fn tell(&mut self, to: TaskId, event: &Event, attach: &[Attach]) {
        let Some((id, peer)) = self.peer(to) else { return };
        match event {
            // The server has not been told of it, and need not be.
            Event::Closed { connection, .. } if peer.take_back_incoming(*connection) => {
                return self.flush(id);
            }
            // It does not read: the one who connects is told so.
            Event::Incoming { connection, .. } if !peer.takes_incoming() => {
                return self.disconnect(to, *connection);
            }
            _ => {}
        }
        match self.attachments(attach) {
            Ok(descriptors) => {
                self.post(id, Outgoing::event(event, encode(event), descriptors));
            }
            Err(_) => {
                if let Some(connection) = attach.iter().find_map(connection_of) {
                    self.disconnect(to, connection);
                }
            }
        }
    }

    /// Ends a connection on behalf of a task that cannot take part in it for lack of something.
    fn disconnect(&mut self, task: TaskId, connection: ConnectionId) {
        let request = Request::Disconnect { connection, why: Why::Quota };
        let mut effects = Vec::new();
        self.machine.handle(task, ON_BEHALF, request, &mut effects);
        // The task did not ask, so it is not answered.
        effects.retain(|effect| {
            !matches!(effect, Effect::Answer { to, transaction: ON_BEHALF, .. } if *to == task)
        });
        self.effects.extend(effects);
    }

    fn post(&mut self, id: u64, outgoing: Outgoing) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let sent = peer.post(outgoing);
            self.sent(id, sent);
        }
    }

    fn flush(&mut self, id: u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let sent = peer.flush();
            self.sent(id, sent);
        }
    }

    /// What is watched for after sending: requests, or room for what waits.
    fn sent(&mut self, id: u64, sent: Sent) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (interest, flags) = match sent {
            Sent::Broken => return self.doomed.push(id),
            Sent::All => (Interest::Requests, EventFlags::IN | EventFlags::RDHUP),
            // By edges: each packet that the task reads is one, while a level would say only that
            // there is some room, all the time.
            Sent::Waits | Sent::Again => {
                (Interest::Room, EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET)
            }
        };
        if sent == Sent::Again {
            self.again.insert(id);
        }
        if peer.interest != interest {
            peer.interest = interest;
            let word = EventData::new_u64(id * 2);
            if epoll::modify(&self.epoll, &peer.socket, word, flags).is_err() {
                self.doomed.push(id);
            }
        }
    }

    /// The descriptors that go with a frame.
    fn attachments(&mut self, attach: &[Attach]) -> Result<Vec<Shared>, KernelError> {
        attach.iter().map(|attach| self.attachment(*attach)).collect()
    }

    fn attachment(&mut self, attach: Attach) -> Result<Shared, KernelError> {
        let missing = || KernelError::Order(format!("{attach:?} is not there"));
        match attach {
            Attach::StatusSegment(task) => {
                let (_, peer) = self.peer(task).ok_or_else(missing)?;
                let mut status = StatusWriter::new()
                    .map_err(|error| refused("making a status segment", error))?;
                let file = status.take_file().ok_or_else(missing)?;
                peer.status = Some(status);
                Ok(Rc::new(file))
            }
            Attach::TaskPage(task) => {
                let (_, peer) = self.peer(task).ok_or_else(missing)?;
                let file = memory_file("rendez-task-page", PAGE_BYTES)
                    .map_err(|error| refused("making a task page", error))?;
                let file = Rc::new(file);
                peer.page_file = Some(Rc::clone(&file));
                Ok(file)
            }
            Attach::TaskSocket(task) => self
                .peer(task)
                .and_then(|(_, peer)| peer.inherited.take())
                .ok_or_else(|| refused("making the task's kernel socket", Errno::MFILE)),
            Attach::OwnSegment(connection, side) => self.segments.own(connection, side),
            Attach::SealedSegment(connection, side) => self.segments.sealed(connection, side),
            Attach::Wait(connection, side) => self.segments.wait(connection, side),
            Attach::Ring(connection, side) => self.segments.ring(connection, side),
        }
    }

    /// A task says that its page is mapped: from now on nobody else can write it.
    fn seal_page(&mut self, task: TaskId) {
        let Some((id, peer)) = self.peer(task) else { return };
        let mapped = peer.page_file.take().and_then(|file| {
            segments::seal(&file, PAGE_BYTES).ok()?;
            // Nobody shares it: the frame that it went out with is sent, or this would not be read.
            PageReader::map(Rc::into_inner(file)?).ok()
        });
        match mapped {
            Some(page) => peer.page = Some(page),
            None => self.doomed.push(id),
        }
    }

    fn signal(&mut self, task: TaskId, signal: i32) -> Result<(), KernelError> {
        match self.peer(task).and_then(|(_, peer)| peer.pidfd.as_ref()) {
            Some(pidfd) => system::signal(pidfd.as_fd(), signal)
                .map_err(|error| refused(&format!("sending signal {signal} to {task}"), error)),
            None => Err(KernelError::Order(format!("{task} has no process yet"))),
        }
    }

    /// What the machine knows of a task, and whom the task says it waits for.
    fn with_waits(&mut self, mut task: TaskInfo) -> TaskInfo {
        let now_ns = monotonic_ns();
        let claims = self
            .peer(task.id)
            .and_then(|(_, peer)| peer.page.as_ref())
            .map(PageReader::waits)
            .unwrap_or_default();
        task.waits = claims
            .into_iter()
            .map(|claim| {
                let on = self.machine.connection_at(task.id, claim.status_index);
                let on = on.map(|(_, other)| other);
                Waiting {
                    on,
                    name: on.and_then(|on| self.machine.name(on)).unwrap_or_default().into(),
                    for_ms: now_ns.saturating_sub(claim.since_ns) / 1_000_000,
                }
            })
            .collect();
        task
    }
}

/// Closes a task's socket where it may block as long as it likes.
fn close(closers: &Closers, suspect: bool, socket: OwnedFd) {
    if suspect { closers.close_suspect(socket) } else { closers.close(socket) }
}

fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn connection_of(attach: &Attach) -> Option<ConnectionId> {
    match attach {
        Attach::OwnSegment(connection, _)
        | Attach::SealedSegment(connection, _)
        | Attach::Wait(connection, _)
        | Attach::Ring(connection, _) => Some(*connection),
        Attach::StatusSegment(_) | Attach::TaskPage(_) | Attach::TaskSocket(_) => None,
    }
}

/// A label that a process gives itself, made fit to be shown to people.
fn label(bytes: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(bytes).ok().filter(|text| text.len() <= LABEL_BYTES_MAX)?;
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.into())
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_are_fit_to_be_shown() {
        assert_eq!(label(b" ls\x1b[31m\n"), Some("ls[31m".into()));
        assert_eq!(label(b"\n \t"), None);
        assert_eq!(label(b"\xff"), None);
        assert_eq!(label(&[b'x'; 65]), None);
    }
}
