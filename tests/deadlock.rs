//! Circles of waits: who is in one is told so, and nobody else is.

mod common;

use common::raw::{Memory, RawTask};
use common::{Assistant, Role, System, eventually};
use rendez::protocol::kernel::{Answer, Doorbell, Hello, Received, Request, Shape};
use rendez::protocol::waits::Look;
use rendez::protocol::{Rights, Slot};
use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, NEVER, Options, Server, Task};
use rendez_ipc_core::control::adopt_inherited;
use rendez_ipc_core::waits::Waiting;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answer with what was sent.
const ECHO: u8 = 1;
/// Answer after a while, much longer than it takes to be suspected.
const SLOW: u8 = 2;
/// Wait until everybody is ready, then send the next server what follows; say what came of it, and
/// answer with that when everybody has said so.
const GO: u8 = 3;
/// Connect to the next server.
const OPEN: u8 = 4;
/// The same as GO, answered at once.
const GO_ON: u8 = 5;

/// Where the files are for which GO waits.
const DIRECTORY: &str = "RENDEZ_TEST_DIRECTORY";
/// How long GO waits for an answer, in ms; for ever if it is not set.
const TIMEOUT: &str = "RENDEZ_TEST_TIMEOUT";

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    if role.name == "liar" {
        return lie(&role);
    }
    let task = role.task();
    let next = Arc::default();
    let make = |_| Part { role: &role, task: task.clone(), next: Arc::clone(&next) };
    let mut server = Server::new(&task).unwrap();
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    role.say("serving");
    match role.name.as_str() {
        "two threads" => server.run_on(2, make).unwrap(),
        _ => server.run(&mut make(0)).unwrap(),
    }
}

/// A server that sends to the next one while it handles a message.
struct Part<'a> {
    role: &'a Role,
    task: Task,
    next: Arc<Mutex<Option<Connection>>>,
}

impl Part<'_> {
    fn wait_for(&self, file: &str) {
        let path = self.role.variable(DIRECTORY).join(file);
        eventually(file, || path.exists().then_some(()));
    }

    /// Sends on what it was told to; what came of it.
    fn go(&self, chain: &[u8]) -> String {
        let mut next = self.next.lock().unwrap();
        let next = next.as_mut().expect("told to open it before");
        let deadline = match std::env::var(TIMEOUT) {
            Ok(ms) => rendez::deadline_after(Duration::from_millis(ms.parse().unwrap())),
            Err(_) => NEVER,
        };
        match next.send_until(chain[0].into(), &chain[1..], 256, deadline) {
            Ok(_) => "ok".into(),
            Err(error) => {
                let name = |member: &Option<rendez::protocol::waits::Member>| {
                    member.as_ref().map_or_else(|| "?".into(), |member| member.name.clone())
                };
                let circle: Vec<String> = next.circle().iter().map(name).collect();
                format!("{error} {}", circle.join(","))
            }
        }
    }
}

impl Service for Part<'_> {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        match message.operation as u8 {
            ECHO => reply.ok(message.payload),
            SLOW => {
                std::thread::sleep(Duration::from_millis(400));
                reply.ok(b"");
            }
            GO | GO_ON => {
                self.role.say("within");
                self.wait_for("go");
                let outcome = self.go(message.payload);
                self.role.say(&outcome);
                if message.operation as u8 == GO {
                    self.wait_for("end");
                }
                reply.ok(outcome.as_bytes());
            }
            OPEN => {
                // Not here: it may be this very server that is to take the connection in.
                let (reply, task, next) = (reply.keep(), self.task.clone(), Arc::clone(&self.next));
                let tries = !message.payload.is_empty();
                std::thread::spawn(move || {
                    let slot = task.given_as("next").unwrap().slot;
                    let mut opened = Connection::open(&task, slot, &Options::default()).unwrap();
                    if tries {
                        opened.send_until(ECHO.into(), &[], 0, NEVER).unwrap().ok().unwrap();
                    }
                    *next.lock().unwrap() = Some(opened);
                    reply.ok(b"");
                });
            }
            other => panic!("no operation {other}"),
        }
    }
}

/// Says in a task page that the task's server has one thread, which is this one.
fn say_one_thread(page: &OwnedFd, thread: u32) {
    for (offset, word) in [(16, 1), (1408, 1), (1408 + 8, u64::from(thread))] {
        assert_eq!(rustix::io::pwrite(page, &u64::to_le_bytes(word), offset), Ok(8));
    }
}

/// Claims to wait for the server that it was given as `next`, with the only thread of its own, which
/// handles whatever is sent to it; and asks again and again whether that is a circle.
fn lie(role: &Role) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let socket = adopt_inherited().unwrap().unwrap();
    let mut liar =
        RawTask::greet_with(socket, Hello::OURS, |page| say_one_thread(page, thread)).unwrap();
    let slot = liar.given("serve").slot;
    let serving = liar.ask(&Request::Serve { slot, interface: None }).0;
    assert!(matches!(serving, Answer::Serving { generation: 1, .. }), "{serving:?}");
    let connection = liar.connect(liar.given("next").slot);
    let waiting = Waiting { transaction: Some(0), since_ns: 1, deadline_ns: NEVER, taken: false };
    role.say("serving");
    // Whoever connects is served, and never answered.
    let _victim = role.variable(DIRECTORY).join("connects").exists().then(|| liar.take_in());
    let (page, mut told, mut suspected) = (Arc::clone(&liar.page), 0, 0);
    let over = role.variable(DIRECTORY).join("over");
    while !over.exists() {
        let guard = page.waiting(connection.status_index, &waiting);
        let request = Request::LookForCircle { connection: connection.id, transaction: 0 };
        match liar.ask(&request).0 {
            Answer::Circle(Look::Nothing) => {}
            Answer::Circle(Look::Suspected) => suspected += 1,
            Answer::Circle(Look::Deadlock(_)) => told += 1,
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(3));
        drop(guard);
    }
    role.say(format!("{told} {}", suspected > 0));
    role.wait_for_ever();
}

/// Servers, of which each may send to the one that it was given as next.
struct Ring {
    _system: System,
    task: Task,
    directory: PathBuf,
}

impl Ring {
    fn new() -> Self {
        let system = System::start();
        let (task, directory) = (system.task(), system.directory.path().to_owned());
        Self { _system: system, task, directory }
    }

    fn endpoint(&self) -> Received {
        self.task.create_endpoint().unwrap()
    }

    /// A server of `serve` that sends to `next`, which it may watch if `watches`.
    fn member(&self, name: &str, serve: Slot, next: Slot, watches: bool) -> Assistant {
        self.member_with(name, serve, next, watches, &[])
    }

    fn member_with(
        &self,
        name: &str,
        serve: Slot,
        next: Slot,
        watches: bool,
        variables: &[(&str, &OsStr)],
    ) -> Assistant {
        let rights = if watches { Rights::SEND | Rights::WATCH } else { Rights::SEND };
        let given = [("serve", serve, Rights::RECEIVE), ("next", next, rights)];
        let mut all = vec![(DIRECTORY, self.directory.as_os_str())];
        all.extend(variables);
        let mut member = Assistant::start(&self.task, name, &given, &all);
        assert_eq!(member.hear(), "serving");
        member
    }

    /// Has the servers of these endpoints connect to their next ones: before any of them is busy.
    fn open(&self, endpoints: &[Slot]) -> Vec<Connection> {
        self.open_and(&[], endpoints)
    }

    /// As [`Ring::open`]; with a payload each tries its connection too. The answer says that a thread
    /// of the server has it: it is the first one that takes connections in, unless that is busy.
    fn open_and(&self, payload: &[u8], endpoints: &[Slot]) -> Vec<Connection> {
        let open = |endpoint: &Slot| {
            let mut connection = self.connect(*endpoint);
            connection.send_until(OPEN.into(), payload, 0, NEVER).unwrap().ok().unwrap();
            connection
        };
        endpoints.iter().map(open).collect()
    }

    /// Gives servers something to do, each in a thread that answers with its answer.
    fn tell(
        &self,
        connections: Vec<Connection>,
        what: &[u8],
    ) -> Vec<std::thread::JoinHandle<String>> {
        let tell = |mut connection: Connection| {
            let what = what.to_owned();
            std::thread::spawn(move || {
                let answer = connection.send_until(what[0].into(), &what[1..], 256, NEVER).unwrap();
                String::from_utf8(answer.ok().unwrap().to_vec()).unwrap()
            })
        };
        connections.into_iter().map(tell).collect()
    }

    fn connect(&self, endpoint: Slot) -> Connection {
        Connection::open(&self.task, endpoint, &Options::default()).unwrap()
    }

    /// What all members wait for that were told to [`GO`].
    fn say(&self, file: &str) {
        std::fs::write(self.directory.join(file), "").unwrap();
    }
}

fn join(answers: Vec<std::thread::JoinHandle<String>>) -> Vec<String> {
    answers.into_iter().map(|answer| answer.join().unwrap()).collect()
}

/// Connects without the library, at both ends; the index of the client's status word.
fn meet(client: &mut RawTask, slot: Slot, server: &mut RawTask) -> (u32, [Memory; 2]) {
    let (connection, index, own) = client.begin_to_connect(slot).unwrap();
    let own = Memory::own(&own, Shape::default());
    let asked = client.send(&Request::Mapped { connection, doorbell: Doorbell::Futex });
    let end = server.take_in();
    assert!(matches!(client.answer(asked).0, Answer::Connected { .. }));
    (index, [own, end.own])
}

/// Tasks that wait for each other, and ask nobody whether that is a circle: it stays.
#[test]
fn a_circle_is_marked_where_it_is_drawn() {
    let system = System::start();
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let mut tasks = ["/a", "/b"].map(|path| {
        let socket = common::raw::knock(&system.place().socket());
        let mut task =
            RawTask::greet_with(socket, Hello::OURS, |page| say_one_thread(page, thread)).unwrap();
        task.serve_as(path);
        task
    });
    let [a, b] = &mut tasks;
    let (to_b, to_a) = (a.look_up("/b"), b.look_up("/a"));
    let ((on_b, _first), (on_a, _second)) = (meet(a, to_b, b), meet(b, to_a, a));
    let numbers = [&*a, &*b].map(|it| format!("{}.{}", it.id.index, it.id.generation));
    let waiting = Waiting { transaction: Some(0), since_ns: 1, deadline_ns: NEVER, taken: false };
    let _a_waits = a.page.waiting(on_b, &waiting);
    let graph = |arguments: &[&str]| {
        let output = system.rendez(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let report = json(&graph(&["--json", "graph"]));
    assert_eq!(report["circles"], serde_json::json!([]), "one is free");
    assert!(graph(&["graph"]).contains("no circle of waits"));
    let _b_waits = b.page.waiting(on_a, &waiting);

    let report = json(&graph(&["--json", "graph"]));
    assert_eq!(report["circles"], serde_json::json!([numbers]), "{report:#}");
    let waits = report["waits"].as_array().unwrap();
    assert_eq!(waits.iter().filter(|wait| wait["circle"] == 0).count(), 2, "{waits:#?}");
    let edge = waits.iter().find(|wait| wait["task"] == *numbers[0]).unwrap();
    assert_eq!((&edge["on"], &edge["left_ms"]), (&numbers[1].clone().into(), &().into()));
    let endpoints = report["endpoints"].as_array().unwrap();
    let served = |task: &str| endpoints.iter().any(|endpoint| endpoint["server"] == task);
    assert!(served(&numbers[0]) && served(&numbers[1]));
    let held = report["capabilities"].as_array().unwrap();
    let may = |from: &str, to: &str| held.iter().any(|it| it["holder"] == from && it["to"] == to);
    assert!(may(&numbers[0], &numbers[1]) && may(&numbers[1], &numbers[0]));
    let text = graph(&["graph"]);
    assert!(text.contains("circle 0: ") && !text.contains('\x1b'), "{text}");
    let dot = graph(&["graph", "--dot"]);
    let edge =
        format!("\"task {}\" -> \"task {}\" [style=dashed, color=red", numbers[0], numbers[1]);
    assert!(dot.starts_with("digraph rendez {") && dot.contains(&edge), "{dot}");
    let ps = graph(&["ps"]);
    assert!(ps.contains("no deadline"), "{ps}");
}

#[test]
fn two_servers_that_send_to_each_other_are_told() {
    let ring = Ring::new();
    let (a, b) = (ring.endpoint(), ring.endpoint());
    let mut first = ring.member("a", a.slot, b.slot, true);
    let mut second = ring.member("b", b.slot, a.slot, false);
    let answers = ring.tell(ring.open(&[a.slot, b.slot]), &[GO, ECHO]);
    assert_eq!((first.hear(), second.hear()), ("within".into(), "within".into()));
    ring.say("go");
    // Neither has taken the other's message. Whom one may not watch, one is not told of.
    assert_eq!(first.hear(), "not delivered: deadlock a,b");
    assert_eq!(second.hear(), "not delivered: deadlock ?,b");
    ring.say("end");
    for answer in join(answers) {
        assert!(answer.contains("deadlock"), "their clients hear it from them");
    }
    // And life goes on.
    let answers = ring.tell(ring.open(&[a.slot]), &[GO_ON, ECHO]);
    assert_eq!(join(answers), ["ok"]);
}

#[test]
fn nobody_hangs_whoever_gives_up_first() {
    let ring = Ring::new();
    let ends: Vec<_> = (0..3).map(|_| ring.endpoint().slot).collect();
    let mut members: Vec<_> =
        (0..3).map(|at| ring.member("member", ends[at], ends[(at + 1) % 3], true)).collect();
    let answers = ring.tell(ring.open(&ends), &[GO_ON, ECHO]);
    members.iter_mut().for_each(|member| assert_eq!(member.hear(), "within"));
    ring.say("go");
    let answers = join(answers);
    // As soon as one has been told, the others may have their answers.
    let deadlocked = |answer: &&String| answer.starts_with("not delivered: deadlock ");
    assert!(answers.iter().any(|answer| deadlocked(&answer)), "{answers:?}");
    assert!(answers.iter().all(|answer| answer == "ok" || deadlocked(&answer)), "{answers:?}");
}

#[test]
fn three_servers_in_a_ring_are_told_and_who_waits_behind_them_is_not() {
    let ring = Ring::new();
    let ends: Vec<_> = (0..4).map(|_| ring.endpoint().slot).collect();
    let mut members: Vec<_> = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(at, name)| ring.member(name, ends[at], ends[(at + 1) % 3], true))
        .collect();
    let mut outside = ring.member("outside", ends[3], ends[0], true);
    let answers = ring.tell(ring.open(&ends), &[GO, ECHO]);
    members.iter_mut().chain([&mut outside]).for_each(|it| assert_eq!(it.hear(), "within"));
    ring.say("go");
    for (at, member) in members.iter_mut().enumerate() {
        let heard = member.hear();
        assert!(heard.starts_with("not delivered: deadlock "), "{at}: {heard}");
        // Itself, and the one that it sends to.
        assert_eq!(heard.matches('?').count(), 1, "{heard}");
    }
    ring.say("end");
    assert_eq!(outside.hear(), "ok", "it was answered when the circle was broken");
    assert_eq!(join(answers)[3], "ok");
}

#[test]
fn a_server_that_sends_to_itself_is_told() {
    let ring = Ring::new();
    let own = ring.endpoint().slot;
    let mut member = ring.member("alone", own, own, false);
    let answers = ring.tell(ring.open(&[own]), &[GO, ECHO]);
    assert_eq!(member.hear(), "within");
    ring.say("go");
    assert_eq!(member.hear(), "not delivered: deadlock alone");
    ring.say("end");
    assert!(join(answers)[0].contains("deadlock"));
}

#[test]
fn a_message_that_was_taken_is_interrupted() {
    let ring = Ring::new();
    let (a, b) = (ring.endpoint().slot, ring.endpoint().slot);
    let mut first = ring.member("a", a, b, true);
    let mut second = ring.member("b", b, a, true);
    let mut connections = ring.open(&[a, b]);
    connections.truncate(1);
    let answers = ring.tell(connections, &[GO, GO, ECHO]);
    ring.say("go");
    assert_eq!((first.hear(), second.hear()), ("within".into(), "within".into()));
    assert_eq!(first.hear(), "interrupted: deadlock (server incarnation 1) a,b");
    assert_eq!(second.hear(), "not delivered: deadlock a,b");
    ring.say("end");
    assert!(join(answers)[0].starts_with("interrupted"));
}

#[test]
fn a_second_thread_that_is_free_or_busy_is_no_deadlock() {
    for what in [ECHO, SLOW] {
        let ring = Ring::new();
        let own = ring.endpoint().slot;
        let mut member = ring.member("two threads", own, own, false);
        // The first connection is the first thread's, and that to itself the other one's.
        let answers = ring.tell(ring.open_and(b"try", &[own]), &[GO_ON, what]);
        assert_eq!(member.hear(), "within");
        ring.say("go");
        assert_eq!(member.hear(), "ok");
        assert_eq!(join(answers), ["ok"]);
    }
}

#[test]
fn a_slow_server_is_no_deadlock() {
    let ring = Ring::new();
    let (a, b) = (ring.endpoint().slot, ring.endpoint().slot);
    let mut first = ring.member("a", a, b, true);
    let _second = ring.member("b", b, a, true);
    let answers = ring.tell(ring.open(&[a]), &[GO_ON, SLOW]);
    assert_eq!(first.hear(), "within");
    ring.say("go");
    assert_eq!(first.hear(), "ok");
    assert_eq!(join(answers), ["ok"]);
}

#[test]
fn who_claims_to_wait_for_somebody_does_not_make_his_sends_fail() {
    let ring = Ring::new();
    let (victim, slow, lie) = (ring.endpoint().slot, ring.endpoint().slot, ring.endpoint().slot);
    let mut honest = ring.member("victim", victim, slow, true);
    let _slow = ring.member("slow", slow, slow, true);
    let mut liar = ring.member("liar", lie, victim, true);
    let answers = ring.tell(ring.open(&[victim]), &[GO_ON, SLOW]);
    assert_eq!(honest.hear(), "within");
    ring.say("go");
    assert_eq!(honest.hear(), "ok");
    assert_eq!(join(answers), ["ok"]);
    ring.say("over");
    assert_eq!(liar.hear(), "0 false", "it was told nothing, and suspected of nothing");
}

#[test]
fn a_liar_that_is_waited_for_cannot_hurry_who_has_a_thread_free() {
    let ring = Ring::new();
    let (victim, lie) = (ring.endpoint().slot, ring.endpoint().slot);
    let timeout = [(TIMEOUT, OsStr::new("600"))];
    let mut honest = ring.member_with("two threads", victim, lie, true, &timeout);
    ring.say("connects");
    let mut liar = ring.member("liar", lie, victim, true);
    let answers = ring.tell(ring.open(&[victim]), &[GO_ON, ECHO]);
    assert_eq!(honest.hear(), "within");
    ring.say("go");
    assert_eq!(honest.hear(), "not delivered: deadline ");
    assert_eq!(join(answers), ["not delivered: deadline "]);
    ring.say("over");
    assert_eq!(liar.hear(), "0 false");
}
