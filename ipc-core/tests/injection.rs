//! Injections, at both ends of a connection over real segments in one process: each transaction
//! reaches each phase once, what is dropped is told as the specification has it, and an end with
//! injections sleeps as well as any other. Real kills and stops are in the system's tests.

use parking_lot::Mutex;
use rendez_ipc_core::client::{ClientEnd, NEVER, SendError};
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::injection::{Injections, Plan};
use rendez_ipc_core::platform::{Host, HostBell, HostStatus, Platform};
use rendez_ipc_core::ring::Buffer;
use rendez_ipc_core::segment::{OwnSegment, PeerSegment, SEALS};
use rendez_ipc_core::server::{Found, ServerEnd, Taken};
use rendez_ipc_core::status::{PAGE_BYTES, PageWriter, StatusReader, StatusWriter, memory_file};
use rendez_ipc_core::wait::Wait;
use rendez_protocol::injection::{Action, Injection, InjectionId, Pending, Phase};
use rendez_protocol::kernel::Shape;
use rendez_protocol::status::{ConnectionState, Status, Why, injected_word};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A plan that both ends share, and what it was asked.
#[derive(Debug, Default)]
struct Script {
    all: Mutex<Injections>,
    asked: Mutex<Vec<Phase>>,
}

impl Plan for Script {
    fn reached(&self, ever: u32, phase: Phase) -> Option<Action> {
        assert_ne!(ever, 0);
        self.asked.lock().push(phase);
        let mut all = self.all.lock();
        all.count(phase);
        all.due(phase).map(|pending| pending.injection.action)
    }
}

struct Pair {
    client: ClientEnd<Host>,
    server: ServerEnd<Host>,
    kernel: StatusWriter,
    script: Arc<Script>,
    out: Buffer,
    _socket: OwnedFd,
}

fn segment() -> (Ours<Host>, Theirs<Host>) {
    let shape = Shape::default();
    let file = memory_file("test", shape.segment_bytes()).expect("a memfd");
    let other = file.try_clone().expect("a duplicate");
    let own = OwnSegment::map(file, shape).expect("a segment");
    let _ = rustix::fs::fcntl_add_seals(&other, SEALS);
    (Ours::over(own), Theirs::over(PeerSegment::map(other, shape).expect("a sealed segment")))
}

impl Pair {
    fn new() -> Self {
        let mut kernel = StatusWriter::new().expect("a status segment");
        let file = kernel.take_file().expect("not taken yet");
        let reader = Arc::new(StatusReader::map(file).expect("a sealed status segment"));
        let page = memory_file("page", PAGE_BYTES).expect("a memfd");
        let page = Arc::new(PageWriter::map(page).expect("a page"));
        let (socket, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket pair");
        let socket = Arc::new(socket);
        let script = Arc::new(Script::default());
        let status = |index| {
            HostStatus::new(reader.clone(), page.clone(), socket.clone(), index)
                .expect("a word")
                .with_plan(script.clone())
        };
        let (ours, server_theirs) = segment();
        let (server_ours, theirs) = segment();
        Self {
            client: ClientEnd::new(ours, theirs, status(1), HostBell::Futex, 7, Wait::Block),
            server: ServerEnd::new(
                server_ours,
                server_theirs,
                status(2),
                HostBell::Futex,
                u64::MAX,
            ),
            kernel,
            script,
            out: Buffer::new(),
            _socket: other,
        }
    }

    /// With one injection into the next transaction, and the words set as the kernel sets them.
    fn with(phase: Phase, action: Action) -> Self {
        let mut pair = Self::new();
        let injection = Injection::next(phase, action);
        pair.script.all.lock().learn(1, [Pending { id: InjectionId(1), injection }]);
        pair.mark(injected_word(1));
        pair
    }

    fn mark(&mut self, word: u32) {
        self.kernel.set(1, word);
        self.kernel.set(2, word);
    }

    fn begin(&mut self) -> u64 {
        self.client.begin(1, b"asked", 8, NEVER).expect("room")
    }

    fn taken(&mut self) -> Taken {
        match self.server.receive(&mut self.out) {
            Ok(Found::Message(taken)) => taken,
            other => panic!("no message: {other:?}"),
        }
    }

    fn reply(&mut self, taken: &Taken) {
        self.server.port().reply(taken, Status::OK, b"told");
    }

    fn told(&mut self, sent: u64) -> Option<Result<Status, SendError>> {
        self.client.poll(sent, &mut self.out)
    }

    /// A whole transaction in which nothing is lost.
    fn exchange(&mut self) {
        let sent = self.begin();
        let taken = self.taken();
        self.reply(&taken);
        assert_eq!(self.told(sent), Some(Ok(Status::OK)));
        assert_eq!(&*self.out, b"told");
    }
}

const DROPPED: Result<Status, SendError> =
    Err(SendError::Interrupted { why: Why::Dropped, generation: 7 });
const WITHDRAWN: SendError = SendError::NotDelivered { why: Why::Cancelled };

#[test]
fn a_transaction_reaches_each_phase_once_and_in_order() {
    let mut pair = Pair::new();
    pair.exchange();
    assert_eq!(*pair.script.asked.lock(), [], "without a mark nobody is asked");
    let injection = Injection { nth: 9, ..Injection::next(Phase::Taken, Action::Kill) };
    pair.script.all.lock().learn(1, [Pending { id: InjectionId(1), injection }]);
    pair.mark(injected_word(1));
    for _ in 0..2 {
        pair.exchange();
        let asked = std::mem::take(&mut *pair.script.asked.lock());
        assert_eq!(asked, Phase::ALL[1..], "from publishing to taking the reply");
    }
    pair.mark(ConnectionState::Open as u32);
    pair.exchange();
    assert_eq!(*pair.script.asked.lock(), []);
}

#[test]
fn a_request_dropped_before_it_is_published_was_never_sent() {
    let mut pair = Pair::with(Phase::BeforePublish, Action::Drop);
    assert_eq!(pair.client.begin(1, b"asked", 8, NEVER), Err(WITHDRAWN));
    assert_eq!(pair.server.receive(&mut pair.out), Ok(Found::Nothing));
    assert_eq!(pair.client.counts().sent, 0);
    pair.exchange();
}

#[test]
fn a_request_dropped_in_the_ring_is_never_run() {
    let mut pair = Pair::with(Phase::Published, Action::Drop);
    let sent = pair.begin();
    assert_eq!(pair.told(sent), None);
    assert_eq!(pair.server.receive(&mut pair.out), Ok(Found::Nothing));
    assert_eq!(pair.told(sent), Some(Err(WITHDRAWN)));
    pair.exchange();
}

#[test]
fn a_server_that_drops_before_it_takes_closes_and_has_taken_nothing() {
    let mut pair = Pair::with(Phase::BeforeTaken, Action::Drop);
    let sent = pair.begin();
    let found = pair.server.receive(&mut pair.out);
    assert_eq!(found, Ok(Found::Ended(ConnectionState::Closed)));
    // Which the loop around it tells the kernel, who tells the client.
    pair.kernel.set(1, ConnectionState::Closed as u32);
    assert_eq!(pair.told(sent), Some(Err(SendError::NotDelivered { why: Why::Closed })));
}

#[test]
fn a_request_dropped_once_taken_is_interrupted_and_never_run() {
    let mut pair = Pair::with(Phase::Taken, Action::Drop);
    let sent = pair.begin();
    assert_eq!(pair.server.receive(&mut pair.out), Ok(Found::Nothing));
    assert_eq!(pair.told(sent), Some(DROPPED));
    pair.exchange();
}

#[test]
fn a_reply_dropped_after_the_handler_is_interrupted() {
    let mut pair = Pair::with(Phase::InHandler, Action::Drop);
    let sent = pair.begin();
    let taken = pair.taken();
    pair.reply(&taken);
    assert_eq!(pair.told(sent), Some(DROPPED));
    pair.exchange();
}

#[test]
fn a_reply_dropped_by_its_client_is_interrupted_also_when_it_was_taken_in_before() {
    for others_first in [false, true] {
        let mut pair = Pair::with(Phase::BeforeTakeReply, Action::Drop);
        let sent = [pair.begin(), pair.begin()];
        for _ in sent {
            let taken = pair.taken();
            pair.reply(&taken);
        }
        let last = pair.begin();
        let taken = pair.taken();
        pair.reply(&taken);
        if others_first {
            // Its own is taken in on the way to the last one, which it strikes.
            assert_eq!(pair.told(last), Some(DROPPED));
            assert_eq!(sent.map(|sent| pair.told(sent)), [Some(Ok(Status::OK)); 2]);
        } else {
            let told = sent.map(|sent| pair.told(sent));
            assert_eq!(told, [Some(DROPPED), Some(Ok(Status::OK))]);
            assert_eq!(pair.told(last), Some(Ok(Status::OK)));
        }
        pair.exchange();
    }
}

#[test]
fn a_delay_delays_and_changes_nothing() {
    const MS: u64 = 30;
    for phase in &Phase::ALL[1..] {
        let mut pair = Pair::with(*phase, Action::Delay { milliseconds: MS as u32 });
        let before = Host::now();
        pair.exchange();
        assert!(Host::now() - before >= MS * 1_000_000, "{phase}");
        pair.exchange();
    }
}

/// The futex compares the status word with what it holds while it is open, mark and all.
#[test]
fn a_sender_with_injections_pending_sleeps() {
    let mut pair = Pair::with(Phase::BeforeTakeReply, Action::Kill);
    let deadline = Host::now() + 100_000_000;
    let told = pair.client.send(1, &[], 0, deadline, &mut pair.out);
    assert_eq!(told, Err(SendError::NotDelivered { why: Why::Deadline }));
    let sleeps = pair.client.counts().sleeps;
    assert!((1..20).contains(&sleeps), "it slept {sleeps} times");
}
