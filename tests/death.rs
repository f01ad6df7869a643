//! Clients and servers that are killed in the middle: each sender is told exactly what became of
//! each of its messages, and nobody is left waiting.
//!
//! No timeout helps: the senders here wait for as long as it takes, and a watchdog looks on. The
//! server writes down what it handles before it replies, so what senders are told can be held
//! against that.

mod common;

use common::{Assistant, Random, Role, System, eventually, for_ever, info};
use rendez::protocol::kernel::{Hold, KernelError, Received};
use rendez::protocol::{Rights, decode, encode};
use rendez::service::{Caller, Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez::{
    Client, Connection, Error, NEVER, Options, Resend, SendError, Server, Slot, Status, Task, Why,
    deadline_after,
};
use rustix::process::Signal;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How many messages a sender has in flight at most.
const FLIGHT: u64 = 12;
/// Room for a reply, in bytes.
const ROOM: usize = 600;
/// How long a sender under load waits at most. Nobody ever does: each is told of a death.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the watchdog of many kills waits.
const MASSACRE: Duration = Duration::from_secs(1500);

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    match role.name.as_str() {
        "recorder" => {
            let log = append(&role.variable("LOG"));
            let (later, kept) = channel::<(ReplyRight, Vec<u8>)>();
            std::thread::spawn(move || {
                kept.into_iter().for_each(|(right, bytes)| right.ok(&bytes))
            });
            serve(&task, &mut Recorder { log, later, handled: 0 });
        }
        "stalling" => {
            let log = append(&role.variable("LOG"));
            let until = role.variable("STALLS_AT").to_str().unwrap().parse().unwrap();
            serve(&task, &mut Stalling { log, until, handled: 0 });
        }
        "observer" => serve(&task, &mut Observer { role, kept: Vec::new() }),
        "sender" => {
            let base = role.variable("BASE").to_str().unwrap().parse().unwrap();
            let stop = role.variable("STOP");
            let mut told = append(&role.variable("TOLD"));
            let slot = task.given_as("recorder").unwrap().slot;
            let mut load = Load::new(&task, slot, Random::of(base), base);
            role.say("sends");
            while !stop.exists() {
                for (id, outcome) in load.go() {
                    told.write_all(format!("{id} {}\n", outcome.letter()).as_bytes()).unwrap();
                }
            }
            role.say("done");
        }
        "one-shot" => {
            let slot = task.given_as("observer").unwrap().slot;
            let mut connection = Connection::open(&task, slot, &for_ever()).unwrap();
            let outcome = connection.send_until(1, b"kept", ROOM, NEVER);
            panic!("it was never answered, and yet: {outcome:?}");
        }
        other => panic!("no part is called {other}"),
    }
}

fn serve(task: &Task, service: &mut impl Service) {
    let mut server = Server::new(task).unwrap();
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    match server.run(service) {
        Ok(()) | Err(Error::KernelGone) => {}
        Err(error) => panic!("{error}"),
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn id_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

/// Writes down what it handles, then replies: at once, or from another thread.
struct Recorder {
    log: File,
    later: Sender<(ReplyRight, Vec<u8>)>,
    handled: u64,
}

impl Service for Recorder {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        self.log.write_all(format!("{}\n", id_of(message.payload)).as_bytes()).unwrap();
        self.handled += 1;
        if self.handled.is_multiple_of(7) {
            self.later.send((reply.keep(), message.payload.to_vec())).unwrap();
        } else {
            reply.ok(message.payload);
        }
    }
}

/// Answers until it comes to message number `until`, with which it never ends.
struct Stalling {
    log: File,
    until: u64,
    handled: u64,
}

impl Service for Stalling {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        self.handled += 1;
        self.log.write_all(format!("{}\n", id_of(message.payload)).as_bytes()).unwrap();
        if self.handled == self.until {
            loop {
                std::thread::park();
            }
        }
        reply.ok(message.payload);
    }
}

/// Says who comes and goes, and answers nobody before he has gone.
struct Observer {
    role: Role,
    kept: Vec<ReplyRight>,
}

impl Service for Observer {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        if message.payload == b"kept" {
            self.kept.push(reply.keep());
            self.role.say("has it");
        } else {
            reply.ok(message.payload);
        }
    }

    fn connected(&mut self, _: &mut dyn Context, _: &Caller) -> Result<(), Refusal> {
        self.role.say("connected");
        Ok(())
    }

    fn disconnected(&mut self, _: &mut dyn Context, _: &Caller) {
        // Into the void.
        for right in self.kept.drain(..) {
            right.ok(b"too late");
        }
        self.role.say("disconnected");
    }
}

/// What a sender was told of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    NotDelivered,
    Interrupted,
}

impl Outcome {
    fn letter(self) -> char {
        match self {
            Self::Answered => 'a',
            Self::NotDelivered => 'n',
            Self::Interrupted => 'i',
        }
    }

    fn of(letter: &str) -> Self {
        match letter {
            "a" => Self::Answered,
            "n" => Self::NotDelivered,
            "i" => Self::Interrupted,
            other => panic!("{other:?}"),
        }
    }
}

/// A sender that goes on and on, over one connection after the other.
struct Load<'a> {
    task: &'a Task,
    slot: Slot,
    random: Random,
    next: u64,
    connection: Option<Connection>,
}

impl<'a> Load<'a> {
    fn new(task: &'a Task, slot: Slot, random: Random, base: u64) -> Self {
        Self { task, slot, random, next: base, connection: None }
    }

    fn payload(&mut self, id: u64) -> Vec<u8> {
        let mut payload = id.to_le_bytes().to_vec();
        if self.random.below(4) == 0 {
            payload.resize(8 + self.random.below(500) as usize, id as u8);
        }
        payload
    }

    /// Sends one message, or some at a time, and answers what became of each.
    fn go(&mut self) -> Vec<(u64, Outcome)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(self.task, self.slot),
        };
        let generation = connection.generation();
        let count = if self.random.below(2) == 0 { 1 } else { 1 + self.random.below(FLIGHT) };
        let ids: Vec<u64> = (self.next..self.next + count).collect();
        self.next += count;
        let mut told = Vec::new();
        let mut begun = Vec::new();
        let mut ended = false;
        let outcome = |id, payload: &[u8], result: Result<(Status, Vec<u8>), SendError>| {
            let outcome = match result {
                Ok((Status::OK, reply)) => {
                    assert_eq!(reply, payload, "the reply to this message");
                    Outcome::Answered
                }
                Err(SendError::NotDelivered { why: Why::Dead }) => Outcome::NotDelivered,
                Err(SendError::Interrupted { why: Why::Dead, generation: known }) => {
                    assert_eq!(known, generation);
                    Outcome::Interrupted
                }
                other => panic!("{other:?}"),
            };
            (id, outcome)
        };
        if let [id] = ids[..] {
            let payload = self.payload(id);
            let deadline = deadline_after(PATIENCE);
            let result = connection.send_until(1, &payload, ROOM, deadline);
            let result = result.map(|reply| (reply.status, reply.payload.to_vec()));
            ended |= result.is_err();
            told.push(outcome(id, &payload, result));
        } else {
            for id in ids {
                let payload = self.payload(id);
                match connection.begin(1, &payload, ROOM) {
                    Ok(transaction) => begun.push((id, payload, transaction)),
                    Err(error) => {
                        ended = true;
                        told.push(outcome(id, &payload, Err(error)));
                    }
                }
            }
            for (id, payload, transaction) in begun {
                let result = connection.finish(transaction);
                let result = result.map(|reply| (reply.status, reply.payload.to_vec()));
                ended |= result.is_err();
                told.push(outcome(id, &payload, result));
            }
        }
        if !ended {
            self.connection = Some(connection);
        }
        told
    }
}

/// Connects, however often the server dies meanwhile.
fn open(task: &Task, slot: Slot) -> Connection {
    let options = Options { timeout: PATIENCE, ..Options::default() };
    loop {
        match Connection::open(task, slot, &options) {
            Ok(connection) => return connection,
            Err(Error::Kernel(KernelError::NotCompleted(Why::Dead))) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn start(task: &Task, role: &str, endpoint: Received, variables: &[(&str, &OsStr)]) -> Assistant {
    Assistant::start(task, role, &[("serve", endpoint.slot, Rights::RECEIVE)], variables)
}

/// The lines of a file whose writer may have been killed: a last one may be torn.
fn whole_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// What the server has written down: how often each message.
fn logged(path: &Path) -> HashMap<u64, u32> {
    let mut handled = HashMap::new();
    for line in whole_lines(path) {
        *handled.entry(line.parse().unwrap()).or_default() += 1;
    }
    handled
}

/// Holds what senders were told against what the server wrote down.
fn judge(told: &[(u64, Outcome)], handled: &HashMap<u64, u32>) -> HashMap<char, usize> {
    let mut once = HashSet::new();
    let mut counts = HashMap::new();
    for (id, outcome) in told {
        assert!(once.insert(id), "message {id} had two outcomes");
        match outcome {
            Outcome::Answered => assert_eq!(handled.get(id), Some(&1), "{id} was answered"),
            Outcome::NotDelivered => assert_eq!(handled.get(id), None, "{id} was not delivered"),
            Outcome::Interrupted => {}
        }
        *counts.entry(outcome.letter()).or_default() += 1;
    }
    counts
}

/// Kills one that went on until now: one that cannot write its log has ended by itself, and said why.
fn kill(assistant: &mut Assistant) {
    let ended = assistant.kill();
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "it has ended by itself: {ended}");
}

/// Who sends from a process that can be killed.
struct Killable {
    assistant: Assistant,
    told: PathBuf,
}

impl Killable {
    fn start(task: &Task, slot: Slot, directory: &Path, number: u64) -> Self {
        let told = directory.join(format!("told-{number}"));
        let stop = directory.join("stop");
        let base = (number << 40).to_string();
        let variables =
            [("TOLD", told.as_os_str()), ("STOP", stop.as_os_str()), ("BASE", OsStr::new(&base))];
        let given = [("recorder", slot, Rights::SEND)];
        let assistant = Assistant::start(task, "sender", &given, &variables);
        Self { assistant, told }
    }

    /// What it was told, as far as it came to write it down.
    fn told(&self) -> Vec<(u64, Outcome)> {
        let entry = |line: &str| {
            let (id, letter) = line.split_once(' ').unwrap();
            (id.parse().unwrap(), Outcome::of(letter))
        };
        whole_lines(&self.told).iter().map(|line| entry(line)).collect()
    }
}

/// A system in which servers and clients are killed at random moments, and what all senders were told.
struct Massacre {
    directory: tempfile::TempDir,
    system: System,
    task: Task,
    endpoint: Received,
    random: Random,
    /// How many senders there ever were: each has numbers of its own for its messages.
    senders: u64,
    told: Vec<(u64, Outcome)>,
    servers: u32,
    dead_clients: usize,
}

impl Massacre {
    fn begin() -> Self {
        let system = System::patient(tempfile::tempdir().unwrap(), MASSACRE, |_| ());
        let task = system.task();
        let endpoint = task.create_endpoint().unwrap();
        Self {
            directory: tempfile::tempdir().unwrap(),
            system,
            task,
            endpoint,
            random: Random::seeded(),
            senders: 0,
            told: Vec::new(),
            servers: 0,
            dead_clients: 0,
        }
    }

    /// Each server has a log of its own: one killed while it writes may leave half a line, which the
    /// next one would go on with.
    fn log(&self, server: u32) -> PathBuf {
        self.directory.path().join(format!("log-{server}"))
    }

    fn server(&mut self) -> Assistant {
        self.servers += 1;
        let log = self.log(self.servers);
        start(&self.task, "recorder", self.endpoint, &[("LOG", log.as_os_str())])
    }

    fn client(&mut self) -> Killable {
        self.senders += 1;
        Killable::start(&self.task, self.endpoint.slot, self.directory.path(), self.senders)
    }

    /// Kills so many, under load, and waits until everybody has gone.
    fn kill(&mut self, kills: usize) {
        let name = self.task.register("/recorder", self.endpoint.slot).unwrap();
        let mut server = self.server();
        let mut killable: Vec<_> = (0..2).map(|_| self.client()).collect();
        let mut dead: Vec<Killable> = Vec::new();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Stops the senders however this ends, so that the scope can be left.
            let stopper = Stopper(&stop);
            let senders: Vec<_> = (0..4_u64)
                .map(|number| {
                    // Two with a task of their own, two that share one: its socket, its status words.
                    let own = if number < 2 { self.system.task() } else { self.task.clone() };
                    let random = self.random.fork();
                    self.senders += 1;
                    let (base, stop) = (self.senders << 40, &stop);
                    scope.spawn(move || {
                        let (found, _, _) = own.look_up("/recorder", None, None).unwrap();
                        let mut load = Load::new(&own, found.slot, random, base);
                        let mut told = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            told.extend(load.go());
                        }
                        drop(load);
                        own.delete(found.slot).unwrap();
                        told
                    })
                })
                .collect();
            for _ in 0..kills {
                std::thread::sleep(Duration::from_micros(self.random.below(12_000)));
                match self.random.below(4) {
                    0 | 1 => {
                        kill(&mut server);
                        self.task.delete(server.capability.slot).unwrap();
                        server = self.server();
                    }
                    who => {
                        let next = self.client();
                        let mut victim = std::mem::replace(&mut killable[(who % 2) as usize], next);
                        kill(&mut victim.assistant);
                        dead.push(victim);
                    }
                }
            }
            drop(stopper);
            for sender in senders {
                self.told.extend(sender.join().unwrap());
            }
        });
        // Nobody in the other processes hangs either.
        let end = self.directory.path().join("stop");
        std::fs::write(&end, "").unwrap();
        for sender in &mut killable {
            while sender.assistant.hear() != "done" {}
            assert!(sender.assistant.child.wait().unwrap().success());
        }
        std::fs::remove_file(end).unwrap();
        for sender in dead.iter().chain(&killable) {
            self.told.extend(sender.told());
            self.task.delete(sender.assistant.capability.slot).unwrap();
        }
        self.dead_clients += dead.len();
        eventually("the server has no client left", || {
            (info(&self.task, server.id).unwrap().server_connections == 0).then_some(())
        });
        kill(&mut server);
        self.task.delete(server.capability.slot).unwrap();
        drop(name);
    }

    /// Holds what senders were told against what the servers wrote down.
    fn judge(&self) {
        let mut handled = HashMap::new();
        for server in 1..=self.servers {
            for (id, times) in logged(&self.log(server)) {
                *handled.entry(id).or_default() += times;
            }
        }
        assert!(handled.values().all(|times| *times == 1), "nothing is handled twice");
        let counts = judge(&self.told, &handled);
        let (servers, dead) = (self.servers, self.dead_clients);
        println!("{servers} servers, {dead} dead clients, told {counts:?}");
        assert!(counts[&'a'] > 0);
    }

    /// What the kernel holds, when it holds the same for a while.
    fn level(&self) -> Level {
        eventually("it is quiet", || {
            let one = Level::of(&self.system, &self.task);
            std::thread::sleep(Duration::from_millis(250));
            (one == Level::of(&self.system, &self.task)).then_some(one)
        })
    }
}

/// What a kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    descriptors: usize,
    /// Memory files that it has mapped.
    segments: usize,
    tasks: usize,
    /// Capabilities of the task that has started everybody.
    capabilities: u32,
    /// Memory of its own.
    kib: u64,
}

impl Level {
    fn of(system: &System, task: &Task) -> Self {
        let read = |what: &str| {
            std::fs::read_to_string(format!("/proc/{}/{what}", system.kernel)).unwrap()
        };
        let status = read("status");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            descriptors: common::descriptors(system.kernel),
            segments: read("maps").lines().filter(|line| line.contains("memfd:")).count(),
            tasks: common::tasks(task).len(),
            capabilities: info(task, task.id()).unwrap().capabilities,
            kib: own.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

#[test]
fn a_hundred_kills_leave_nobody_waiting_and_nobody_deceived() {
    let mut massacre = Massacre::begin();
    massacre.kill(100);
    massacre.judge();
}

/// Takes a minute: `cargo test -p rendez-cli --test death -- --ignored --nocapture a_thousand_kills`.
#[test]
#[ignore = "takes a minute; a hundred kills are always tried"]
fn a_thousand_kills_leave_nothing_behind_either() {
    let mut massacre = Massacre::begin();
    // What comes to stay comes with the first of them.
    massacre.kill(100);
    let before = massacre.level();
    massacre.kill(1000);
    massacre.judge();
    println!("before {before:?}");
    eventually("everything is let go of", || {
        let after = massacre.level();
        println!("after {after:?}");
        let none_more = after.descriptors <= before.descriptors
            && after.segments <= before.segments
            && after.tasks <= before.tasks
            && after.capabilities <= before.capabilities
            // An allocator's pages, against half a KiB for each of the dead.
            && after.kib <= before.kib + 512;
        none_more.then_some(())
    });
}

/// Sets a flag when it goes.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_a_dead_server_had_taken_is_told_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    for stalls_at in 1..=8_u64 {
        let log = directory.path().join(format!("log-{stalls_at}"));
        let number = stalls_at.to_string();
        let variables = [("LOG", log.as_os_str()), ("STALLS_AT", OsStr::new(&number))];
        let mut server = start(&task, "stalling", endpoint, &variables);
        let mut connection = open(&task, endpoint.slot);
        assert_eq!(connection.generation(), stalls_at as u32);
        let begun: Vec<_> = (1..=8_u64)
            .map(|id| (id, connection.begin(1, &id.to_le_bytes(), ROOM).unwrap()))
            .collect();
        eventually("it stalls", || (logged(&log).len() as u64 == stalls_at).then_some(()));
        server.kill();
        for (id, transaction) in begun {
            let result = connection.finish(transaction).map(|reply| reply.payload.to_vec());
            let generation = stalls_at as u32;
            let expected = match id.cmp(&stalls_at) {
                // Its reply lies in the ring of the dead.
                std::cmp::Ordering::Less => Ok(id.to_le_bytes().to_vec()),
                std::cmp::Ordering::Equal => {
                    Err(SendError::Interrupted { why: Why::Dead, generation })
                }
                std::cmp::Ordering::Greater => Err(SendError::NotDelivered { why: Why::Dead }),
            };
            assert_eq!(result, expected, "message {id}, stalled at {stalls_at}");
        }
    }
}

#[test]
fn a_sender_asleep_is_woken_by_the_death_of_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let log = directory.path().join("log");
    let variables = [("LOG", log.as_os_str()), ("STALLS_AT", OsStr::new("1"))];
    let mut server = start(&task, "stalling", endpoint, &variables);
    let sleeper = system.task();
    let waits = sleeper.id();
    let registration = task.register("/stalling", endpoint.slot).unwrap();
    let sending = std::thread::spawn(move || {
        let (found, _, _) = sleeper.look_up("/stalling", None, None).unwrap();
        let mut connection = Connection::open(&sleeper, found.slot, &for_ever()).unwrap();
        connection.send_until(1, &7_u64.to_le_bytes(), ROOM, NEVER).map(drop)
    });
    eventually("its message is taken", || logged(&log).contains_key(&7).then_some(()));
    // It says itself that it waits, and for whom.
    eventually("it sleeps", || {
        info(&task, waits)?.waits.iter().any(|wait| wait.on == Some(server.id)).then_some(())
    });
    server.kill();
    let expected = SendError::Interrupted { why: Why::Dead, generation: 1 };
    assert_eq!(sending.join().unwrap(), Err(expected));
    drop(registration);
}

#[test]
fn a_message_withdrawn_at_its_deadline_is_never_run() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let log = directory.path().join("log");
    let server = start(&task, "recorder", endpoint, &[("LOG", log.as_os_str())]);
    let mut connection = open(&task, endpoint.slot);
    let send = |connection: &mut Connection, id: u64, deadline| {
        connection.send_until(1, &id.to_le_bytes(), ROOM, deadline).map(drop)
    };
    send(&mut connection, 1, NEVER).unwrap();
    let pid = server.child.id();
    for round in 0..10 {
        common::signal(pid, Signal::STOP);
        eventually("it stops", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") T ").then_some(())
        });
        let late = deadline_after(Duration::from_millis(20));
        let expected = SendError::NotDelivered { why: Why::Deadline };
        assert_eq!(send(&mut connection, 100 + round, late), Err(expected));
        common::signal(pid, Signal::CONT);
        send(&mut connection, 200 + round, NEVER).unwrap();
    }
    let handled = logged(&log);
    assert!(handled.keys().all(|id| !(100..200).contains(id)), "{handled:?}");
    assert_eq!(handled.len(), 11);
}

#[test]
fn nobody_waits_for_a_dead_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let log = directory.path().join("log");
    let variables = [("LOG", log.as_os_str()), ("STALLS_AT", OsStr::new("1"))];
    let server = start(&task, "stalling", endpoint, &variables);
    let mut connection = open(&task, endpoint.slot);
    let sending = std::thread::spawn(move || {
        connection.send_until(1, &7_u64.to_le_bytes(), ROOM, NEVER).map(drop)
    });
    eventually("its message is taken", || logged(&log).contains_key(&7).then_some(()));
    common::signal(system.kernel, Signal::KILL);
    let told = sending.join().unwrap();
    assert!(matches!(told, Err(SendError::Interrupted { .. })), "{told:?}");
    drop(server);
}

#[test]
fn a_server_is_told_of_a_dead_client_and_serves_the_others() {
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let mut server = start(&task, "observer", endpoint, &[]);
    let mut other = open(&task, endpoint.slot);
    assert_eq!(server.hear(), "connected");
    for _ in 0..5 {
        let given = [("observer", endpoint.slot, Rights::SEND)];
        let mut client = Assistant::start(&task, "one-shot", &given, &[]);
        assert_eq!(server.hear(), "connected");
        assert_eq!(server.hear(), "has it");
        client.kill();
        assert_eq!(server.hear(), "disconnected");
        let echo = other.send_until(1, &encode(&"others"), ROOM, NEVER).unwrap();
        assert_eq!(decode::<&str>(echo.ok().unwrap()).unwrap(), "others");
    }
}

#[test]
fn how_long_senders_wait_for_the_next_server_is_its_endpoints_to_say() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let log = directory.path().join("log");
    let variables = [("LOG", log.as_os_str())];
    let send = |client: &Client| client.send(1, &7_u64.to_le_bytes(), ROOM).map(drop);
    let gone = |result: Result<(), Error>| {
        let expected = SendError::NotDelivered { why: Why::Dead };
        assert!(matches!(result, Err(Error::Send(error)) if error == expected), "{result:?}");
    };
    let mut server = start(&task, "recorder", endpoint, &variables);
    let patient = Client::connect(&task, endpoint.slot, for_ever()).unwrap();
    let options = Options { resend: Resend::Never, ..for_ever() };
    let never = Client::connect(&task, endpoint.slot, options).unwrap();
    send(&patient).unwrap();
    send(&never).unwrap();

    // Nobody waits, however patient.
    task.hold(endpoint.slot, Hold::Fail).unwrap();
    server.kill();
    gone(send(&never));
    gone(send(&patient));
    let refused = Connection::open(&task, endpoint.slot, &for_ever());
    assert!(matches!(refused, Err(Error::Kernel(KernelError::NotHeld { .. }))), "{refused:?}");

    // For a while.
    let before = std::time::Instant::now();
    task.hold(endpoint.slot, Hold::Wait { connects: 8, milliseconds: 150 }).unwrap();
    gone(send(&patient));
    assert!(before.elapsed() >= Duration::from_millis(150));
    let refused = Connection::open(&task, endpoint.slot, &for_ever());
    assert!(matches!(refused, Err(Error::Kernel(KernelError::NotHeld { .. }))), "{refused:?}");

    // For as long as it takes.
    task.hold(endpoint.slot, Hold::FOR_EVER).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| send(&patient));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        server = start(&task, "recorder", endpoint, &variables);
        waits.join().unwrap().unwrap();
    });
    send(&never).unwrap();
}
