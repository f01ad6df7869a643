//! Faults put into real processes, each at its phase: what the sender is told is what the
//! specification says, exact about delivery, and the server's log agrees.

mod common;

use common::{Assistant, Role, System, eventually, for_ever, signal};
use rendez::protocol::Rights;
use rendez::protocol::injection::{Action, Injection, Phase};
use rendez::protocol::kernel::{KernelError, Received};
use rendez::service::{Context, Message, Reply, ReplyRight, Service};
use rendez::{Client, Connection, Error, NEVER, SendError, Server, Task, Why, deadline_after};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Operations of the server: it replies from its handler, or from another thread.
const AT_ONCE: u16 = 1;
const LATER: u16 = 2;
/// How long a delay is.
const DELAY: Duration = Duration::from_millis(40);
/// How long a sender waits for a server that has stopped.
const PATIENCE: Duration = Duration::from_millis(250);

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    match role.name.as_str() {
        "server" => {
            let log = append(&role.variable("LOG"));
            let (later, kept) = channel::<ReplyRight>();
            std::thread::spawn(move || kept.into_iter().for_each(|right| right.ok(b"later")));
            let mut server = Server::new(&task).unwrap();
            server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
            match server.run(&mut Recorder { log, later }) {
                Ok(()) | Err(Error::KernelGone) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Sends 1, 2, 3, … one at a time, each when it is told to.
        "client" => {
            let slot = task.given_as("server").unwrap().slot;
            let mut connection = Connection::open(&task, slot, &for_ever()).unwrap();
            role.say("ready");
            for id in 1..u64::MAX {
                let go = role.variable("GO").join(id.to_string());
                eventually("go", || go.exists().then_some(()));
                let told = connection.send_until(AT_ONCE, &id.to_le_bytes(), 8, NEVER);
                role.say(words(told.map(drop)));
            }
        }
        other => panic!("no part is called {other}"),
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// Writes down what it handles, then replies.
struct Recorder {
    log: File,
    later: Sender<ReplyRight>,
}

impl Service for Recorder {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let id = u64::from_le_bytes(message.payload[..8].try_into().unwrap());
        self.log.write_all(format!("{id}\n").as_bytes()).unwrap();
        if message.operation == LATER {
            self.later.send(reply.keep()).unwrap();
        } else {
            reply.ok(b"at once");
        }
    }
}

fn words(told: Result<(), SendError>) -> String {
    match told {
        Ok(()) => "ok".into(),
        Err(SendError::NotDelivered { why }) => format!("not delivered: {why}"),
        Err(SendError::Interrupted { why, .. }) => format!("interrupted: {why}"),
    }
}

/// A system with an endpoint, and the log of whoever serves it.
struct Stage {
    directory: tempfile::TempDir,
    system: System,
    task: Task,
    endpoint: Received,
    /// How many messages there were.
    sent: u64,
}

impl Stage {
    fn new() -> Self {
        let system = System::start();
        let task = system.task();
        let endpoint = task.create_endpoint().unwrap();
        Self { directory: tempfile::tempdir().unwrap(), system, task, endpoint, sent: 0 }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn server(&self) -> Assistant {
        let log = self.log();
        let variables = [("LOG", log.as_os_str())];
        let given = [("serve", self.endpoint.slot, Rights::RECEIVE)];
        Assistant::start(&self.task, "server", &given, &variables)
    }

    fn client(&self) -> Assistant {
        let given = [("server", self.endpoint.slot, Rights::SEND)];
        let variables: [(&str, &OsStr); 1] = [("GO", self.directory.path().as_os_str())];
        Assistant::start(&self.task, "client", &given, &variables)
    }

    fn open(&self) -> Connection {
        Connection::open(&self.task, self.endpoint.slot, &for_ever()).unwrap()
    }

    fn inject(&self, into: &Assistant, injection: Injection) {
        self.task.inject(into.capability.slot, injection).unwrap();
    }

    /// How often the server has handled a message.
    fn handled(&self, id: u64) -> usize {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().filter(|line| *line == id.to_string()).count()
    }

    /// Sends the next message; its number and what became of it.
    fn send(
        &mut self,
        connection: &mut Connection,
        operation: u16,
        deadline: u64,
    ) -> (u64, String) {
        self.sent += 1;
        let told = connection.send_until(operation, &self.sent.to_le_bytes(), 8, deadline);
        (self.sent, words(told.map(drop)))
    }

    /// Tells a client to send its next message.
    fn go(&self, id: u64) {
        std::fs::write(self.directory.path().join(id.to_string()), "").unwrap();
    }
}

fn has_stopped(assistant: &Assistant) {
    let stat = format!("/proc/{}/stat", assistant.child.id());
    eventually("it stops", || {
        std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
    });
}

fn go_on(assistant: &Assistant) {
    signal(assistant.child.id(), Signal::CONT);
}

const SERVER_PHASES: [Phase; 4] =
    [Phase::BeforeTaken, Phase::Taken, Phase::InHandler, Phase::ReplyPublished];

/// Whether a handler has seen a message that has come so far.
fn is_handled(phase: Phase) -> bool {
    matches!(phase, Phase::InHandler | Phase::ReplyPublished)
}

/// What its sender is told of a message that comes no further than this, for `why`.
fn told(phase: Phase, why: Why) -> String {
    match phase {
        Phase::Now | Phase::BeforeTaken => format!("not delivered: {why}"),
        Phase::Taken | Phase::InHandler => format!("interrupted: {why}"),
        _ => "ok".into(),
    }
}

#[test]
fn a_server_killed_at_each_phase() {
    let mut stage = Stage::new();
    for operation in [AT_ONCE, LATER] {
        for phase in SERVER_PHASES {
            let mut server = stage.server();
            let mut connection = stage.open();
            assert_eq!(stage.send(&mut connection, operation, NEVER).1, "ok");
            stage.inject(&server, Injection::next(phase, Action::Kill));
            let (id, outcome) = stage.send(&mut connection, operation, NEVER);
            assert_eq!(outcome, told(phase, Why::Dead), "{phase}, operation {operation}");
            let status = server.child.wait().unwrap();
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
            assert_eq!(stage.handled(id), usize::from(is_handled(phase)), "{phase}");
        }
    }
}

#[test]
fn a_server_stopped_at_each_phase() {
    let mut stage = Stage::new();
    let server = stage.server();
    for phase in SERVER_PHASES {
        let mut connection = stage.open();
        assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
        stage.inject(&server, Injection::next(phase, Action::Stop));
        let (id, outcome) = stage.send(&mut connection, AT_ONCE, deadline_after(PATIENCE));
        assert_eq!(outcome, told(phase, Why::Deadline), "{phase}");
        has_stopped(&server);
        assert_eq!(stage.handled(id), usize::from(is_handled(phase)), "{phase}");
        go_on(&server);
        // It goes on as if nothing had been.
        assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
        // What was withdrawn meanwhile is never run; what it had taken is, once.
        assert_eq!(stage.handled(id), usize::from(phase != Phase::BeforeTaken), "{phase}");
    }
}

#[test]
fn a_server_delayed_at_each_phase() {
    let mut stage = Stage::new();
    let server = stage.server();
    let mut connection = stage.open();
    let milliseconds = DELAY.as_millis() as u32;
    for operation in [AT_ONCE, LATER] {
        for phase in SERVER_PHASES {
            stage.inject(&server, Injection::next(phase, Action::Delay { milliseconds }));
            let before = Instant::now();
            let (id, outcome) = stage.send(&mut connection, operation, NEVER);
            assert_eq!(outcome, "ok", "{phase}");
            // Whoever looks at the ring finds a reply that has not been rung for.
            if phase != Phase::ReplyPublished {
                assert!(before.elapsed() >= DELAY, "{phase}");
            }
            assert_eq!(stage.handled(id), 1, "{phase}");
        }
    }
}

#[test]
fn what_a_server_drops_at_each_phase() {
    let mut stage = Stage::new();
    let server = stage.server();
    for (phase, expected) in [
        (Phase::BeforeTaken, "not delivered: closed"),
        (Phase::Taken, "interrupted: dropped"),
        (Phase::InHandler, "interrupted: dropped"),
    ] {
        let mut connection = stage.open();
        stage.inject(&server, Injection::next(phase, Action::Drop));
        let (id, outcome) = stage.send(&mut connection, AT_ONCE, NEVER);
        assert_eq!(outcome, expected, "{phase}");
        assert_eq!(stage.handled(id), usize::from(is_handled(phase)), "{phase}");
        let mut connection = stage.open();
        assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok", "{phase}");
    }
    let late = Injection::next(Phase::ReplyPublished, Action::Drop);
    let refused = stage.task.inject(server.capability.slot, late);
    assert!(matches!(refused, Err(Error::Kernel(KernelError::Malformed(_)))), "{refused:?}");
}

#[test]
fn a_client_killed_at_each_phase() {
    for phase in [Phase::BeforePublish, Phase::Published, Phase::BeforeTakeReply] {
        let stage = Stage::new();
        let _server = stage.server();
        let mut client = stage.client();
        assert_eq!(client.hear(), "ready");
        stage.inject(&client, Injection { nth: 2, ..Injection::next(phase, Action::Kill) });
        stage.go(1);
        assert_eq!(client.hear(), "ok");
        stage.go(2);
        let status = client.child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{phase}");
        match phase {
            Phase::BeforePublish => assert_eq!(stage.handled(2), 0),
            // A server may be quicker than the news of the death.
            Phase::Published => assert!(stage.handled(2) <= 1),
            _ => assert_eq!(stage.handled(2), 1),
        }
    }
}

#[test]
fn a_client_stopped_or_delayed_at_each_phase_goes_on() {
    let stage = Stage::new();
    let _server = stage.server();
    let mut client = stage.client();
    assert_eq!(client.hear(), "ready");
    let mut id = 0;
    for phase in [Phase::BeforePublish, Phase::Published, Phase::BeforeTakeReply] {
        id += 1;
        stage.inject(&client, Injection::next(phase, Action::Stop));
        stage.go(id);
        has_stopped(&client);
        if phase == Phase::BeforePublish {
            assert_eq!(stage.handled(id), 0);
        } else if phase == Phase::BeforeTakeReply {
            assert_eq!(stage.handled(id), 1);
        }
        go_on(&client);
        assert_eq!(client.hear(), "ok", "{phase}");
        assert_eq!(stage.handled(id), 1, "{phase}");

        id += 1;
        let milliseconds = DELAY.as_millis() as u32;
        stage.inject(&client, Injection::next(phase, Action::Delay { milliseconds }));
        let before = Instant::now();
        stage.go(id);
        assert_eq!(client.hear(), "ok", "{phase}");
        assert!(before.elapsed() >= DELAY, "{phase}");
        assert_eq!(stage.handled(id), 1, "{phase}");
    }
}

#[test]
fn what_a_client_drops_at_each_phase() {
    let stage = Stage::new();
    let server = stage.server();
    let mut client = stage.client();
    assert_eq!(client.hear(), "ready");
    let drop_at = |phase| stage.inject(&client, Injection::next(phase, Action::Drop));

    drop_at(Phase::BeforePublish);
    drop_at(Phase::Published);
    drop_at(Phase::BeforeTakeReply);
    stage.go(1);
    assert_eq!(client.hear(), "not delivered: cancelled");
    assert_eq!(stage.handled(1), 0, "it was never sent");

    // A server that looks only afterwards.
    signal(server.child.id(), Signal::STOP);
    has_stopped(&server);
    stage.go(2);
    let pending = || stage.task.injections(client.capability.slot, None).unwrap();
    eventually("it is sent and withdrawn", || (pending().len() == 1).then_some(()));
    // It strikes after the kernel has heard of it.
    std::thread::sleep(Duration::from_millis(100));
    go_on(&server);
    assert_eq!(client.hear(), "not delivered: cancelled");
    assert_eq!(stage.handled(2), 0, "it was withdrawn");

    stage.go(3);
    assert_eq!(client.hear(), "interrupted: dropped");
    assert_eq!(stage.handled(3), 1, "it was run");
    stage.go(4);
    assert_eq!(client.hear(), "ok");
}

#[test]
fn what_is_for_now_strikes_at_once() {
    let mut stage = Stage::new();
    let mut server = stage.server();
    let mut connection = stage.open();
    assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
    stage.inject(&server, Injection::next(Phase::Now, Action::Stop));
    has_stopped(&server);
    let (id, outcome) = stage.send(&mut connection, AT_ONCE, deadline_after(PATIENCE));
    assert_eq!(outcome, told(Phase::Now, Why::Deadline));
    go_on(&server);
    assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
    assert_eq!(stage.handled(id), 0);
    stage.inject(&server, Injection::next(Phase::Now, Action::Kill));
    assert_eq!(server.child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, told(Phase::Now, Why::Dead));
}

#[test]
fn it_is_the_nth_transaction_over_all_connections() {
    let mut stage = Stage::new();
    let mut server = stage.server();
    let mut connections: Vec<_> = (0..3).map(|_| stage.open()).collect();
    let nth = 7;
    stage.inject(&server, Injection { nth, ..Injection::next(Phase::Taken, Action::Kill) });
    let mut outcomes = Vec::new();
    for turn in 0..nth as usize {
        // One of them connects only now.
        if turn == 4 {
            connections.push(stage.open());
        }
        let count = connections.len();
        outcomes.push(stage.send(&mut connections[turn % count], AT_ONCE, NEVER).1);
    }
    let mut expected = vec!["ok".to_owned(); nth as usize - 1];
    expected.push(told(Phase::Taken, Why::Dead));
    assert_eq!(outcomes, expected);
    server.child.wait().unwrap();
}

#[test]
fn an_injection_that_is_taken_back_never_strikes() {
    let mut stage = Stage::new();
    let server = stage.server();
    let mut connection = stage.open();
    let slot = server.capability.slot;
    let kill = Injection { nth: 3, ..Injection::next(Phase::Taken, Action::Kill) };
    let id = stage.task.inject(slot, kill).unwrap().unwrap();
    assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
    // The server knows of it by now.
    let pending = stage.task.injections(slot, None).unwrap();
    assert_eq!(pending.iter().map(|one| (one.id, one.injection)).collect::<Vec<_>>(), [(id, kill)]);
    stage.task.cancel_injection(slot, None, id).unwrap();
    for _ in 0..4 {
        assert_eq!(stage.send(&mut connection, AT_ONCE, NEVER).1, "ok");
    }
    assert_eq!(stage.task.injections(slot, None).unwrap(), []);
    let again = stage.task.cancel_injection(slot, None, id);
    assert!(matches!(again, Err(Error::Kernel(KernelError::BadInjection(_)))), "{again:?}");
}

#[test]
fn a_client_that_sends_again_is_answered_once() {
    let stage = Stage::new();
    let server = stage.server();
    let options = for_ever();
    let client = Client::connect(&stage.task, stage.endpoint.slot, options).unwrap();
    let send = |id: u64| client.send(AT_ONCE, &id.to_le_bytes(), 8);
    send(1).unwrap();
    stage.inject(&server, Injection::next(Phase::BeforeTaken, Action::Kill));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(2));
        let mut server = server;
        server.child.wait().unwrap();
        let _next = stage.server();
        assert_eq!(sending.join().unwrap().unwrap(), b"at once");
        assert_eq!(stage.handled(2), 1);
    });
    // A connection that its server drops is made anew.
    let server = stage.server();
    send(3).unwrap();
    stage.inject(&server, Injection::next(Phase::BeforeTaken, Action::Drop));
    send(4).unwrap();
    assert_eq!(stage.handled(4), 1);
}

#[test]
fn the_command_injects_lists_and_takes_back() {
    let mut stage = Stage::new();
    let mut server = stage.server();
    let mut connection = stage.open();
    let id = format!("{}.{}", server.id.index, server.id.generation);
    let say = |arguments: &[&str]| {
        let output = stage.system.rendez(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), error)
    };
    let (code, said, _) = say(&["inject", "server", "taken", "delay=30", "--nth", "5"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("injection 1"), "{said}");
    let (code, said, _) = say(&["inject", &id, "--list"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("taken") && said.contains("delay=30"), "{said}");
    assert_eq!(say(&["inject", &id, "--cancel", "1"]).0, Some(0));
    let (code, _, error) = say(&["inject", &id, "--cancel", "1"]);
    assert_ne!(code, Some(0));
    assert!(error.contains("not pending"), "{error}");
    for (wrong, hint) in [
        (["inject", "server", "sometime", "kill"], "before-taken"),
        (["inject", "server", "taken", "explode"], "drop"),
        (["inject", "nobody", "taken", "kill"], "nobody"),
        (["inject", "server", "reply-published", "drop"], "cannot be dropped"),
    ] {
        let (code, _, error) = say(&wrong);
        assert!(code != Some(0) && error.contains(hint), "{wrong:?}: {error}");
    }
    assert_eq!(say(&["inject", "server", "taken", "kill"]).0, Some(0));
    let (_, outcome) = stage.send(&mut connection, AT_ONCE, NEVER);
    assert_eq!(outcome, told(Phase::Taken, Why::Dead));
    server.child.wait().unwrap();
}
