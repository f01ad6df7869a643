//! A kernel in a thread, and tasks that speak to it frame by frame.
//!
//! Every receive has a time limit ([`PATIENCE`]), so that what hangs fails.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use rendez_ipc_core::control::{Frame, Mode, receive_frame, send_frame};
use rendez_ipc_core::status::{PageWriter, StatusReader};
use rendez_kernel::shell::{Config, Record, run, socket_pair};
use rendez_protocol::kernel::{
    Answer, DoorRule, Doorbell, Event, Give, Given, Hello, KernelError, Limits, Received, Request,
    Shape, frame,
};
use rendez_protocol::{ConnectionId, Rights, TaskId, decode, encode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long to wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .unwrap()
}

/// A running kernel. Dropping it stops the kernel, and fails if that does not stop.
pub struct System {
    pub directory: tempfile::TempDir,
    pub first: Option<OwnedFd>,
    pub lifeline: Option<OwnedFd>,
    pub stopped: Receiver<Result<(), rendez_kernel::shell::Error>>,
}

impl System {
    pub fn start() -> Self {
        Self::start_with(false, |_, _| ())
    }

    /// Starts a kernel that records.
    pub fn recording(record: Record) -> Self {
        Self::configured(false, |_, _| (), |config| config.record = Some(record))
    }

    /// Starts a kernel after `before` was done, with the front door and the first task's socket.
    pub fn start_with(look_always: bool, before: impl FnOnce(&Path, &OwnedFd)) -> Self {
        Self::configured(look_always, before, |_| ())
    }

    fn configured(
        look_always: bool,
        before: impl FnOnce(&Path, &OwnedFd),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = socket();
        let path = directory.path().join("kernel");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 64).unwrap();
        let (ours, theirs) = if look_always {
            let (ours, theirs) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            sockopt::set_socket_passcred(&ours, true).unwrap();
            (ours, theirs)
        } else {
            socket_pair().unwrap()
        };
        before(&path, &theirs);
        let (watched, lifeline) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (done, stopped) = channel();
        let mut config = Config {
            first: Some(ours),
            lifeline: Some(watched),
            look_always,
            ..Config::new(listener)
        };
        change(&mut config);
        std::thread::spawn(move || done.send(run(config)));
        Self { directory, first: Some(theirs), lifeline: Some(lifeline), stopped }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("kernel")
    }

    /// The first task, which holds the kernel's capability.
    pub fn first(&mut self) -> Task {
        Task::greet(self.first.take().unwrap(), "").unwrap()
    }

    /// A task from the front door.
    pub fn visitor(&self, label: &str) -> Task {
        Task::greet(knock(&self.path()), label).unwrap()
    }

    /// A first task that serves an endpoint, to which visitors are given a capability.
    pub fn server(&mut self) -> Task {
        let mut server = self.first();
        let kernel = server.given("kernel");
        let endpoint = server.slot(Request::CreateEndpoint);
        let give = vec![Give {
            name: "service".into(),
            slot: endpoint.slot,
            rights: Rights::SEND | Rights::WATCH,
            badge: Some(7),
            limits: Limits::SAME,
        }];
        let rules = vec![DoorRule { uid: None, give, quotas: vec![] }];
        assert_eq!(server.ask(Request::FrontDoor { slot: kernel.slot, rules }), Answer::Done);
        let serving = server.ask(Request::Serve { slot: endpoint.slot, interface: None });
        assert!(matches!(serving, Answer::Serving { generation: 1, .. }), "{serving:?}");
        server
    }
}

impl Drop for System {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let stopped = self.stopped.recv_timeout(PATIENCE);
        if !std::thread::panicking() {
            stopped.expect("the kernel stops").expect("without an error");
        }
    }
}

/// Connects to the front door.
pub fn knock(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// The next frame, or `None` at the end; a reset is an end too.
pub fn next(socket: &OwnedFd) -> Option<Frame> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    match receive_frame(socket, Mode::Wait) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        other => other.expect("a frame in time"),
    }
}

pub fn answer_of(frame: Frame) -> (Answer, Vec<OwnedFd>) {
    assert_eq!(frame.header.code, frame::ANSWER);
    (decode(&frame.payload).unwrap(), frame.descriptors)
}

pub struct Task {
    pub socket: OwnedFd,
    pub id: TaskId,
    pub given: Vec<Given>,
    pub status: StatusReader,
    pub page: PageWriter,
    pub transaction: u64,
    pub events: VecDeque<(Event, Vec<OwnedFd>)>,
}

impl Task {
    pub fn greet(socket: OwnedFd, label: &str) -> Result<Self, KernelError> {
        let mut greeting = Hello::OURS.to_bytes().to_vec();
        greeting.extend_from_slice(label.as_bytes());
        send_frame(&socket, 1, frame::HELLO, &greeting, &[], Mode::Wait).unwrap();
        let frame = next(&socket).expect("an answer to the greeting");
        assert_eq!(frame.transaction, 1);
        let (answer, descriptors) = answer_of(frame);
        let (id, given) = match answer {
            Answer::Welcome { task, given, .. } => (task, given),
            Answer::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        let [status, page] = <[OwnedFd; 2]>::try_from(descriptors).unwrap();
        let mut task = Self {
            socket,
            id,
            given,
            status: StatusReader::map(status).unwrap(),
            page: PageWriter::map(page).unwrap(),
            transaction: 1,
            events: VecDeque::new(),
        };
        assert_eq!(task.ask(Request::PageMapped), Answer::Done);
        Ok(task)
    }

    pub fn given(&self, name: &str) -> Received {
        self.given.iter().find(|given| given.name == name).unwrap().capability
    }

    pub fn send(&mut self, request: &Request) -> u64 {
        self.transaction += 1;
        let payload = encode(request);
        send_frame(&self.socket, self.transaction, frame::REQUEST, &payload, &[], Mode::Wait)
            .unwrap();
        self.transaction
    }

    /// The answer to a request; events that come first are kept.
    pub fn answer(&mut self, transaction: u64) -> (Answer, Vec<OwnedFd>) {
        loop {
            let frame = next(&self.socket).expect("the kernel is there");
            if frame.header.code == frame::EVENT {
                self.events.push_back((decode(&frame.payload).unwrap(), frame.descriptors));
            } else {
                assert_eq!(frame.transaction, transaction);
                return answer_of(frame);
            }
        }
    }

    pub fn ask_for(&mut self, request: Request) -> (Answer, Vec<OwnedFd>) {
        let transaction = self.send(&request);
        self.answer(transaction)
    }

    pub fn ask(&mut self, request: Request) -> Answer {
        self.ask_for(request).0
    }

    pub fn slot(&mut self, request: Request) -> Received {
        match self.ask(request) {
            Answer::Slot(received) => received,
            other => panic!("{other:?}"),
        }
    }

    pub fn event(&mut self) -> (Event, Vec<OwnedFd>) {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let frame = next(&self.socket).expect("the kernel is there");
        assert_eq!((frame.header.code, frame.transaction), (frame::EVENT, 0));
        (decode(&frame.payload).unwrap(), frame.descriptors)
    }

    /// Asks for a connection to `service`: which one, its status index, and its own segment.
    pub fn connect(
        &mut self,
        doorbell: Doorbell,
    ) -> Result<(ConnectionId, u32, OwnedFd), KernelError> {
        let request = Request::Connect {
            slot: self.given("service").slot,
            interface: None,
            requests: Shape::default(),
            replies: Shape::default(),
            doorbell,
        };
        match self.ask_for(request) {
            (Answer::Connecting { connection, status_index }, descriptors) => {
                let [segment] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
                Ok((connection, status_index, segment))
            }
            (Answer::Error(error), _) => Err(error),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Whether the kernel ends this task's socket: frames that were sent before are read.
    pub fn is_ended(&self) -> bool {
        while next(&self.socket).is_some() {}
        true
    }
}

pub fn mapped(connection: ConnectionId, doorbell: Doorbell) -> Request {
    Request::Mapped { connection, doorbell }
}
