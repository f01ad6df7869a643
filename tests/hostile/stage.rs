//! What surrounds an attack: a system, a victim, neighbours, and what the kernel knows before and
//! after.

use crate::common::{
    Assistant, System, descriptor_kinds, eventually, for_ever, info, servers, signal, tasks,
};
use crate::table::{ATTACKS, Attack, Attacker, Told, Victim};
use crate::victim::{ECHO, MARK};
use rendez::protocol::kernel::{KernelError, Limits, Received};
use rendez::protocol::{Rights, TaskId};
use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, Error, NEVER, Options, SendError, Server, Task, Why, deadline_after};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long neighbours wait for an answer before they say that they were held up.
const NEIGHBOURS_WAIT: Duration = Duration::from_secs(30);
/// How long a victim waits for an answer that is not to come.
const VICTIM_WAITS: Duration = Duration::from_millis(300);
/// The bits that the attacker may post to the victim.
pub(crate) const BITS: u64 = 0b11;
/// Files in memory and doorbells that spares of all tasks may add to what the kernel has open.
const SPARES: usize = 100;

/// Plays one attack, and judges what came of it.
pub(crate) fn play(code: &str) {
    let attack = ATTACKS.iter().find(|attack| attack.code == code).expect("a code of the table");
    let mut stage = Stage::set();
    let before = stage.look();
    let mut hostile = stage.set_loose(attack);
    if let Victim::Told(expected) = attack.victim {
        assert_eq!(hostile.hear(), "serves");
        assert_eq!(stage.send_to_it(expected), expected, "what the victim is told");
    }
    let mut said = String::new();
    match attack.attacker {
        Attacker::Stays => loop {
            match hostile.hear() {
                line if line == "done" => break,
                line => said.push_str(&line),
            }
        },
        Attacker::GivenUp => {
            let status = hostile.child.wait().unwrap();
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "the kernel kills it");
        }
        Attacker::Ends => {}
        Attacker::Stopped => {
            let stat = format!("/proc/{}/stat", hostile.child.id());
            eventually("it stops", || {
                std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
            });
        }
    }
    if matches!(attack.attacker, Attacker::Ends | Attacker::GivenUp) {
        eventually("its task ends", || info(&stage.task, hostile.id).is_none().then_some(()));
    }
    stage.hear_the_victim(attack, hostile.id);
    stage.neighbours.go_on();
    let listed = info(&stage.task, hostile.id).is_some();
    let lives = matches!(attack.attacker, Attacker::Stays | Attacker::Stopped);
    assert_eq!(listed, lives, "whether the kernel lists it");
    // Those that it has left behind, which outlive it.
    said.push_str(&hostile.ignore());
    for child in said.split("child ").skip(1) {
        let pid = child.split_whitespace().next().unwrap().parse().unwrap();
        signal(pid, Signal::KILL);
    }
    // However it goes, nothing of it stays.
    drop(hostile);
    stage.is_as(&before);
    stage.neighbours.go_on();
    stage.neighbours.part();
}

/// What the kernel holds.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    /// Names of tasks with their capabilities, connections as client, and as server.
    tasks: Vec<(TaskId, String, [u32; 2])>,
    /// By name: the process, and how often it was started.
    servers: Vec<(String, Option<u32>, u32)>,
    victim: u32,
}

struct Stage {
    task: Task,
    served: Received,
    serves: Received,
    rung: Received,
    victim: Assistant,
    /// What the victim says, in lines.
    said: Receiver<String>,
    old: Connection,
    kinds: BTreeMap<String, usize>,
    neighbours: Neighbours,
    // Last: it ends the others.
    system: System,
}

impl Stage {
    fn set() -> Self {
        let system = System::start();
        let task = system.task();
        let served = task.create_endpoint().unwrap();
        let serves = task.create_endpoint().unwrap();
        let bell = task.create_notification().unwrap();
        let limits = Limits { bits: Some(BITS), ..Limits::SAME };
        let rights = Rights::POST | Rights::MINT | Rights::GRANT;
        let rung = task.mint_limited(bell.slot, rights, None, limits).unwrap();
        let given = [("serve", served.slot, Rights::RECEIVE), ("bell", bell.slot, Rights::RECEIVE)];
        let mut victim = Assistant::start(&task, "victim", &given, &[]);
        assert_eq!(victim.hear(), "serves");
        let said = listen(&mut victim);
        let old = Connection::open(&task, served.slot, &for_ever()).unwrap();
        let neighbours = Neighbours::meet(&system);
        neighbours.go_on();
        let kinds = descriptor_kinds(system.kernel);
        Self { task, served, serves, rung, victim, said, old, kinds, neighbours, system }
    }

    fn set_loose(&self, attack: &Attack) -> Assistant {
        let door = self.system.place().socket();
        let given = [
            ("victim", self.served.slot, Rights::SEND | Rights::WATCH),
            ("handed", self.served.slot, Rights::SEND | Rights::MINT | Rights::GRANT),
            ("serve", self.serves.slot, Rights::RECEIVE),
            ("bell", self.rung.slot, Rights::POST | Rights::MINT),
        ];
        Assistant::start(&self.task, attack.code, &given, &[("DOOR", door.as_os_str())])
    }

    /// What the kernel says that there is.
    fn look(&self) -> Holdings {
        let mut tasks: Vec<_> = tasks(&self.task)
            .into_iter()
            .map(|task| (task.id, task.name, [task.client_connections, task.server_connections]))
            .collect();
        tasks.sort();
        // A neighbour connects again and again.
        for (_, name, connections) in &mut tasks {
            if name != "victim" {
                *connections = [0, 0];
            }
        }
        let servers =
            servers(&self.task).into_iter().map(|one| (one.name, one.pid, one.starts)).collect();
        Holdings { tasks, servers, victim: self.victim.child.id() }
    }

    /// Waits until all is as it was.
    fn is_as(&mut self, before: &Holdings) {
        let started = Instant::now();
        while self.look() != *before && started.elapsed() < NEIGHBOURS_WAIT {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.look(), *before, "what the kernel has, and had");
        let mut too_many = BTreeMap::new();
        for _ in 0..1000 {
            too_many = descriptor_kinds(self.system.kernel);
            too_many.retain(|kind, count| {
                let spares = kind.contains("segment") || kind.contains("event");
                *count > self.kinds.get(kind).unwrap_or(&0) + if spares { SPARES } else { 0 }
            });
            if too_many.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(too_many.is_empty(), "the kernel keeps {too_many:?}; it had {:?}", self.kinds);
        assert!(self.victim.child.try_wait().unwrap().is_none(), "the victim lives");
    }

    /// As the victim that sends: how its send to the attacker ends.
    fn send_to_it(&self, expected: Told) -> Told {
        let waits = match expected {
            Told::NotConnected(Why::Deadline)
            | Told::NotDelivered(Why::Deadline)
            | Told::Interrupted(Why::Deadline)
            | Told::AnswerAtLast => VICTIM_WAITS,
            _ => NEIGHBOURS_WAIT,
        };
        let options = Options { timeout: waits, ..Options::default() };
        let mut connection = match Connection::open(&self.task, self.serves.slot, &options) {
            Ok(connection) => connection,
            Err(Error::Kernel(KernelError::NotCompleted(why))) => return Told::NotConnected(why),
            Err(Error::Send(SendError::NotDelivered { why })) => return Told::NotConnected(why),
            Err(error) => panic!("{error:?}"),
        };
        let deadline = deadline_after(waits);
        match connection.send_until(ECHO, &[7; 600], 64, deadline) {
            Ok(_) if deadline_after(Duration::ZERO) >= deadline => Told::AnswerAtLast,
            Ok(_) => Told::Answer,
            Err(SendError::NotDelivered { why }) => Told::NotDelivered(why),
            Err(SendError::Interrupted { why, generation }) => {
                assert_eq!(generation, 1);
                Told::Interrupted(why)
            }
        }
    }

    fn hear(&self) -> String {
        self.said.recv_timeout(NEIGHBOURS_WAIT).expect("the victim says something")
    }

    /// What the victim that serves has said of the attacker; and that it serves others.
    fn hear_the_victim(&mut self, attack: &Attack, attacker: TaskId) {
        let goes = format!("goes {attacker}");
        let comes = format!("comes {attacker}");
        let mut heard = Vec::new();
        let told_of_it = matches!(attack.victim, Victim::ShowsOut | Victim::HearsItGo);
        while told_of_it && heard.last() != Some(&goes) {
            heard.push(self.hear());
        }
        let mut new = Connection::open(&self.task, self.served.slot, &for_ever()).unwrap();
        for connection in [&mut self.old, &mut new] {
            let reply = connection.send_until(ECHO, b"served", 64, NEVER).unwrap();
            assert_eq!(reply.ok().unwrap(), b"served");
        }
        self.old.send_until(MARK, b"", 0, NEVER).unwrap().ok().unwrap();
        loop {
            match self.hear() {
                line if line == "mark" => break,
                line => heard.push(line),
            }
        }
        let ours = format!(" {}", self.task.id());
        heard.retain(|line| !line.ends_with(&ours));
        let mut posted = 0;
        heard.retain(|line| match line.strip_prefix("notified ") {
            Some(bits) => {
                posted |= bits.parse::<u64>().unwrap();
                false
            }
            None => true,
        });
        let may = if attack.victim == Victim::HearsBits { BITS } else { 0 };
        assert_eq!(posted, may, "the bits that it hears");
        let (came, went) = (heard.contains(&comes), heard.contains(&goes));
        match attack.victim {
            Victim::HearsNothing | Victim::HearsBits | Victim::Told(_) => {
                assert_eq!(heard, [""; 0])
            }
            Victim::ServesOn => assert_eq!((came, went), (true, false), "{heard:?}"),
            Victim::ShowsOut | Victim::HearsItGo => assert!(came && went, "{heard:?}"),
            Victim::Either => assert!(came, "{heard:?}"),
        }
    }
}

/// Takes all that the victim says, so that it never waits for somebody to listen.
fn listen(victim: &mut Assistant) -> Receiver<String> {
    let lines = BufReader::new(victim.child.stdout.take().unwrap()).lines();
    let (sender, said) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some((_, said)) = line.rsplit_once("SAY:")
                && sender.send(said.to_owned()).is_err()
            {
                break;
            }
        }
    });
    said
}

/// Two tasks that have nothing to do with the attacker: the one sends to the other all the time, on
/// old connections and new ones, checks each answer, and finds the other by its name.
struct Neighbours {
    rounds: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
    server: Option<JoinHandle<()>>,
}

const REVERSE: u16 = 1;
const PART: u16 = 2;

/// Answers what it is sent, the other way round.
struct Reverser {
    parted: bool,
}

impl Service for Reverser {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        self.parted = message.operation == PART;
        let reversed: Vec<u8> = message.payload.iter().rev().copied().collect();
        reply.ok(&reversed);
    }

    fn finished(&self) -> bool {
        self.parted
    }
}

impl Neighbours {
    fn meet(system: &System) -> Self {
        let (client, server) = (system.task(), system.task());
        let rounds = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let endpoint = server.create_endpoint().unwrap();
        let mut serving = Server::new(&server).unwrap();
        serving.serve(endpoint.slot, None).unwrap();
        let name = server.register("/neighbour", endpoint.slot).unwrap();
        let server = std::thread::spawn(move || {
            serving.run(&mut Reverser { parted: false }).unwrap();
            drop(name);
        });
        let counted = (Arc::clone(&rounds), Arc::clone(&over));
        let client = std::thread::spawn(move || talk(&client, &counted.0, &counted.1));
        Self { rounds, over, client: Some(client), server: Some(server) }
    }

    /// Waits until they have exchanged more messages than were under way.
    fn go_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("the neighbours go on", || {
            let ended = self.client.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "a neighbour noticed something");
            (self.rounds.load(Ordering::Relaxed) >= before + 3).then_some(())
        });
    }

    /// Has them end, as they wanted to.
    fn part(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.client.take().unwrap().join().unwrap();
        self.server.take().unwrap().join().unwrap();
    }
}

/// What the neighbour says that sends.
fn talk(task: &Task, rounds: &AtomicU64, over: &AtomicBool) {
    let options = Options { timeout: NEIGHBOURS_WAIT, ..Options::default() };
    let find = || {
        let (found, _, _) = task.look_up("/neighbour", None, Some(NEIGHBOURS_WAIT)).unwrap();
        let connection = Connection::open(task, found.slot, &options).unwrap();
        task.delete(found.slot).unwrap();
        connection
    };
    let say = |connection: &mut Connection, operation, payload: &[u8]| {
        let deadline = deadline_after(NEIGHBOURS_WAIT);
        let reply = connection.send_until(operation, payload, payload.len(), deadline).unwrap();
        let answer = reply.ok().unwrap();
        assert!(answer.iter().eq(payload.iter().rev()), "not what was said");
    };
    let mut old = find();
    let mut number = 0_usize;
    while !over.load(Ordering::Relaxed) {
        let payload: Vec<u8> = (0..number % 700).map(|place| (place * number) as u8).collect();
        say(&mut old, REVERSE, &payload);
        if number.is_multiple_of(8) {
            say(&mut find(), REVERSE, b"and over a new connection");
        }
        number += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    say(&mut old, PART, b"farewell");
}
