//! Tests of the machine's rules. Every step of every test is followed by a check of all invariants.

mod arenas;
mod bytes;
mod capabilities;
mod connections;
mod endpoints;
mod graph;
mod hold;
mod injections;
mod notifications;
mod provenance;
mod races;
mod random;
mod reference;
mod regions;
mod revocations;
mod shares;
mod spares;
mod tasks;
mod tickets;
mod watches;

use super::Machine;
use crate::effect::{Attach, Effect, Pair as Segments, Side};
use crate::quota::Quotas;
use rendez_protocol::kernel::{
    Answer, Credentials, DoorRule, Doorbell, Event, Give, Given, Hello, KernelError, Limits, Offer,
    Received, Request, Shape, Travel,
};
use rendez_protocol::{ConnectionId, Rights, Slot, TaskId, Ticket, Version, Why};

const CREDENTIALS: Credentials = Credentials { pid: 100, uid: 1000, gid: 1000 };

/// A machine, all that it has said, and a shell that does what it is told.
#[derive(Debug)]
struct World {
    machine: Machine,
    /// What has not been looked at yet.
    log: Vec<Effect>,
    /// Whether segments are sealed at once.
    seals: bool,
    transaction: u64,
}

impl World {
    fn new() -> Self {
        Self::with(Quotas::default())
    }

    fn with(quotas: Quotas) -> Self {
        Self { machine: Machine::new(quotas), log: Vec::new(), seals: true, transaction: 0 }
    }

    /// A world with a first task, and its capability to the kernel's task.
    fn started() -> (Self, TaskId, Slot) {
        Self::started_with(Quotas::default())
    }

    fn started_with(quotas: Quotas) -> (Self, TaskId, Slot) {
        let mut world = Self::with(quotas);
        let first = world.machine.create_first("supervisor", &mut world.log);
        let (_, given) = world.hello(first);
        assert_eq!(given[0].name, "kernel");
        world.log.clear();
        (world, first, given[0].capability.slot)
    }

    /// Lets a task say Hello.
    fn hello(&mut self, who: TaskId) -> (Received, Vec<Given>) {
        let transaction = self.next();
        self.machine.hello(who, transaction, Hello::OURS, CREDENTIALS, &mut self.log);
        self.machine.check();
        match self.answer_to(transaction) {
            Some(Answer::Welcome { task, own, given, .. }) => {
                assert_eq!(task, who);
                (own, given)
            }
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// A task that `parent` creates and that has said Hello: its id, the parent's capability to it,
    /// what it was given.
    fn spawn(&mut self, parent: TaskId, give: Vec<Give>) -> (TaskId, Slot, Vec<Slot>) {
        let (id, slot) = self.embryo(parent, give);
        let (_, given) = self.hello(id);
        (id, slot, given.into_iter().map(|given| given.capability.slot).collect())
    }

    fn embryo(&mut self, parent: TaskId, give: Vec<Give>) -> (TaskId, Slot) {
        match self.ask(parent, Request::CreateTask { name: "task".into(), give, quotas: vec![] }) {
            Answer::Task { capability, id } => (id, capability.slot),
            other => panic!("not created: {other:?}"),
        }
    }

    fn next(&mut self) -> u64 {
        self.transaction += 1;
        self.transaction
    }

    /// Sends a request; the answer, if any, is in the log.
    fn send(&mut self, who: TaskId, request: Request) -> u64 {
        let transaction = self.next();
        self.machine.handle(who, transaction, request, &mut self.log);
        self.settle();
        transaction
    }

    /// Does what a shell would do at once.
    fn settle(&mut self) {
        self.machine.check();
        let looks = |effect: &Effect| {
            matches!(effect, Effect::Seal { .. } | Effect::CheckSpare { .. } | Effect::Told(_))
        };
        while let Some(at) = self.log.iter().position(|effect| self.seals && looks(effect)) {
            match self.log.remove(at) {
                Effect::Seal { pair, side } => self.seal(pair, side, Ok(())),
                Effect::CheckSpare { task, spare, .. } => {
                    self.machine.spare_looked_at(task, spare, Ok(()), &mut self.log);
                }
                Effect::Told(connection) => self.machine.told(connection, &mut self.log),
                other => panic!("{other:?}"),
            }
            self.machine.check();
        }
    }

    fn seal(&mut self, pair: Segments, side: Side, result: Result<(), KernelError>) {
        self.machine.sealed(pair, side, result, &mut self.log);
        self.machine.check();
    }

    fn die(&mut self, who: TaskId) {
        self.machine.died(who, &mut self.log);
        self.machine.check();
        assert!(!self.machine.is_alive(who));
    }

    /// Takes the one answer to a request out of the log.
    fn answer_to(&mut self, wanted: u64) -> Option<Answer> {
        self.answer_with(wanted).map(|(answer, _)| answer)
    }

    fn answer_with(&mut self, wanted: u64) -> Option<(Answer, Vec<Attach>)> {
        let is_it = |effect: &Effect| matches!(effect, Effect::Answer { transaction, .. } if *transaction == wanted);
        let at = self.log.iter().position(is_it)?;
        let Effect::Answer { answer, attach, .. } = self.log.remove(at) else { unreachable!() };
        assert!(!self.log.iter().any(is_it), "a second answer to {wanted}");
        Some((answer, attach))
    }

    /// Sends a request that is answered at once.
    fn ask(&mut self, who: TaskId, request: Request) -> Answer {
        let transaction = self.send(who, request);
        if matches!(self.machine.tasks.get(who), Some(task) if task.waits.contains_key(&transaction))
        {
            self.work();
            self.acknowledge();
        }
        self.answer_to(transaction).expect("an answer at once")
    }

    /// Does all that was put off.
    fn work(&mut self) {
        while self.machine.is_at_work() {
            self.machine.step(&mut self.log);
            self.settle();
        }
    }

    /// Has every server acknowledge what was severed.
    fn acknowledge(&mut self) {
        let severed: Vec<(TaskId, ConnectionId)> = self
            .machine
            .tasks
            .iter()
            .flat_map(|(who, task)| {
                task.severed.keys().map(move |(connection, _)| (who, *connection))
            })
            .collect();
        for (who, connection) in severed {
            let transaction = self.send(who, Request::Disconnect { connection, why: Why::Closed });
            assert_eq!(self.answer_to(transaction), Some(Answer::Done));
        }
    }

    /// Sends a request that is answered with an error.
    fn fail(&mut self, who: TaskId, request: Request) -> KernelError {
        match self.ask(who, request) {
            Answer::Error(error) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Sends a request that makes a capability.
    fn slot(&mut self, who: TaskId, request: Request) -> Slot {
        match self.ask(who, request) {
            Answer::Slot(received) => received.slot,
            other => panic!("no slot: {other:?}"),
        }
    }

    fn endpoint(&mut self, who: TaskId) -> Slot {
        self.slot(who, Request::CreateEndpoint)
    }

    fn mint(&mut self, who: TaskId, slot: Slot, rights: Rights) -> Slot {
        self.slot(who, Request::Mint { slot, rights, badge: None, limits: Limits::SAME })
    }

    fn inspect(&mut self, who: TaskId, slot: Slot) -> rendez_protocol::kernel::Capability {
        match self.ask(who, Request::Inspect { slot }) {
            Answer::Inspected(capability) => capability,
            other => panic!("not inspected: {other:?}"),
        }
    }

    fn serve(&mut self, who: TaskId, slot: Slot) -> u32 {
        match self.ask(who, Request::Serve { slot, interface: None }) {
            Answer::Serving { generation, .. } => generation,
            other => panic!("not serving: {other:?}"),
        }
    }

    /// Takes the events to `who` out of the log.
    fn events(&mut self, who: TaskId) -> Vec<Event> {
        let mut events = Vec::new();
        self.log.retain(|effect| match effect {
            Effect::Event { to, event, .. } if *to == who => {
                events.push(event.clone());
                false
            }
            _ => true,
        });
        events
    }

    /// Takes the status words out of the log.
    fn words(&mut self) -> Vec<(TaskId, u32, u32)> {
        let mut words = Vec::new();
        self.log.retain(|effect| match effect {
            Effect::Status { task, index, word } => {
                words.push((*task, *index, *word));
                false
            }
            _ => true,
        });
        words
    }

    /// Begins to connect; the connection and its status index.
    fn connecting(&mut self, client: TaskId, slot: Slot) -> (ConnectionId, u32) {
        match self.ask(client, connect(slot)) {
            Answer::Connecting { connection, status_index } => (connection, status_index),
            other => panic!("not connecting: {other:?}"),
        }
    }

    /// Connects, with both ends doing what they should.
    fn connected(&mut self, client: TaskId, slot: Slot, server: TaskId) -> ConnectionId {
        let (connection, _) = self.connecting(client, slot);
        let mapped = self.send(client, mapped(connection));
        assert!(matches!(self.events(server).last(), Some(Event::Incoming { .. })));
        assert_eq!(self.ask(server, super::tests::mapped(connection)), Answer::Done);
        assert!(matches!(self.answer_to(mapped), Some(Answer::Connected { .. })));
        connection
    }

    fn offer(&mut self, who: TaskId, connection: ConnectionId, items: Vec<Offer>) -> Ticket {
        match self.ask(who, Request::Offer { connection, items }) {
            Answer::Ticket(ticket) => ticket,
            other => panic!("no ticket: {other:?}"),
        }
    }

    fn accept(&mut self, who: TaskId, connection: ConnectionId, ticket: Ticket) -> Vec<Received> {
        match self.ask(who, Request::Accept { connection, ticket }) {
            Answer::Received(received) => received,
            other => panic!("not accepted: {other:?}"),
        }
    }
}

/// A first task with an endpoint of its own, a server with RECEIVE, a client with SEND, connected.
#[derive(Debug)]
struct Pair {
    world: World,
    first: TaskId,
    kernel: Slot,
    endpoint: Slot,
    server: TaskId,
    receive: Slot,
    client: TaskId,
    send: Slot,
}

fn pair() -> Pair {
    pair_with(Quotas::default())
}

fn pair_with(quotas: Quotas) -> Pair {
    let (mut world, first, kernel) = World::started_with(quotas);
    let endpoint = world.endpoint(first);
    let passed = Rights::GRANT | Rights::MINT | Rights::WATCH | Rights::READ;
    let (server, _, receive) =
        world.spawn(first, vec![give(endpoint, Rights::RECEIVE | Rights::SEND | passed)]);
    let (client, _, send) = world.spawn(first, vec![give(endpoint, Rights::SEND | passed)]);
    world.serve(server, receive[0]);
    world.log.clear();
    Pair { world, first, kernel, endpoint, server, receive: receive[0], client, send: send[0] }
}

fn give(slot: Slot, rights: Rights) -> Give {
    Give { name: "given".into(), slot, rights, badge: None, limits: Limits::SAME }
}

fn rule(uid: Option<u32>, give: Vec<Give>) -> DoorRule {
    DoorRule { uid, give, quotas: vec![] }
}

/// Which quota is exceeded, and its value.
fn quota(error: &KernelError) -> (String, u64) {
    match error {
        KernelError::Quota { what, limit, used, .. } => {
            assert!(used <= limit, "{error}");
            (what.clone(), *limit)
        }
        other => panic!("{other:?}"),
    }
}

fn connect(slot: Slot) -> Request {
    Request::Connect {
        slot,
        interface: None,
        requests: Shape::default(),
        replies: Shape::default(),
        doorbell: Doorbell::Futex,
    }
}

fn mapped(connection: ConnectionId) -> Request {
    Request::Mapped { connection, doorbell: Doorbell::Event }
}

fn offered(slot: Slot, rights: Rights, travel: Travel) -> Offer {
    Offer { slot, rights, badge: None, limits: Limits::SAME, travel }
}

/// The answer to a revocation that everybody has acknowledged.
fn revoked(capabilities: u32, connections: u32) -> Answer {
    Answer::Revoked { capabilities, connections, unacknowledged: Vec::new() }
}
