//! Long random runs: tasks that ask for anything, in any order, with ids that are good, stale or
//! made up. After every step all invariants are checked, and what the machine has said is compared
//! with what it promises: one answer to a request, nothing to the dead, words set before they are
//! told.

use super::{CREDENTIALS, Hello};
use crate::effect::{Alarm, Effect, Pair, Side};
use crate::machine::Machine;
use crate::machine::spare::Phase;
use crate::quota::{Quotas, Shares};
use rendez_protocol::injection::{Action, Injection, InjectionId, Phase as InjectedPhase};
use rendez_protocol::kernel::{
    Answer, DoorRule, Doorbell, Event, Give, Hold, KernelError, Limits, ObjectKind, Offer,
    RegionKind, Request, Shape, Travel,
};
use rendez_protocol::quota::{Allotment, Quota};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{
    ArenaId, ConnectionId, Interface, ObjectId, Rights, Slot, SpareId, TaskId, Ticket, Version,
    Why, limit,
};
use std::collections::{BTreeMap, BTreeSet};

/// Small random numbers, the same for the same seed (SplitMix64).
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}

/// What one task has been told, some of it long ago.
#[derive(Debug, Default)]
struct Knowledge {
    slots: Vec<Slot>,
    connections: Vec<ConnectionId>,
    tickets: Vec<(ConnectionId, Ticket)>,
}

#[derive(Debug)]
struct Run {
    machine: Machine,
    dice: Dice,
    tasks: Vec<TaskId>,
    known: BTreeMap<TaskId, Knowledge>,
    unanswered: BTreeMap<u64, TaskId>,
    seals: Vec<(Pair, Side)>,
    /// Each task's status segment, as far as it was written.
    words: BTreeMap<(TaskId, u32), u32>,
    /// Which of its words a task was told to look at for a connection.
    indices: BTreeMap<(TaskId, ConnectionId), Vec<u32>>,
    made: BTreeSet<Pair>,
    regions: BTreeSet<ObjectId>,
    spares: BTreeSet<(TaskId, SpareId)>,
    spare_looks: Vec<(TaskId, SpareId)>,
    tellings: Vec<ConnectionId>,
    /// Set, and not rung yet.
    alarms: Vec<Alarm>,
    /// Regions to be looked at, for whom, and which request.
    looks: Vec<(TaskId, u64, ObjectId)>,
    /// Arenas that were attached or offered, some of them long ago.
    arenas: Vec<(ConnectionId, ArenaId)>,
    transaction: u64,
    /// How often each sort of answer came: a run that reaches nothing tests nothing.
    seen: BTreeMap<&'static str, u32>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let quotas = Quotas {
            system: Shares {
                tasks: 12,
                capabilities: 220,
                endpoints: 24,
                connections: 24,
                regions: 9,
                bytes: 60 * Shape::default().segment_bytes() as u64,
            },
            uid: Shares {
                tasks: 4,
                capabilities: 70,
                endpoints: 8,
                connections: 8,
                regions: 4,
                bytes: 12 * Shape::default().segment_bytes() as u64,
            },
            children: 6,
            capabilities: 60,
            endpoints: 6,
            notifications: 3,
            client_connections: 8,
            server_connections: 12,
            connections_to_one_server: 5,
            tickets: 4,
            parked: 6,
            watches: 8,
            spares: 3,
            regions: 3,
            region_bytes: 5 * 4096,
            segment_bytes: 10 * Shape::default().segment_bytes() as u64,
            reply_bytes_of_one_server: 4 * Shape::default().segment_bytes() as u64,
        };
        let mut run = Self {
            machine: Machine::new(quotas),
            dice: Dice(seed),
            tasks: Vec::new(),
            known: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            seals: Vec::new(),
            words: BTreeMap::new(),
            indices: BTreeMap::new(),
            made: BTreeSet::new(),
            regions: BTreeSet::new(),
            spares: BTreeSet::new(),
            spare_looks: Vec::new(),
            tellings: Vec::new(),
            alarms: Vec::new(),
            looks: Vec::new(),
            arenas: Vec::new(),
            transaction: 0,
            seen: BTreeMap::new(),
        };
        if seed % 2 == 1 {
            // Much is put off that would be done at once.
            run.machine.portion = 2;
        }
        let mut effects = Vec::new();
        let first = run.machine.create_first("first", &mut effects);
        run.tasks.push(first);
        run.look(effects);
        run.hello(first);
        run
    }

    fn hello(&mut self, who: TaskId) {
        let mut effects = Vec::new();
        let transaction = self.ask(who);
        self.machine.hello(who, transaction, Hello::OURS, CREDENTIALS, &mut effects);
        self.look(effects);
    }

    fn ask(&mut self, who: TaskId) -> u64 {
        self.transaction += 1;
        if self.machine.is_alive(who) {
            self.unanswered.insert(self.transaction, who);
        }
        self.transaction
    }

    fn step(&mut self) {
        let mut effects = Vec::new();
        if self.tasks.is_empty() {
            let name = "again";
            let id = self.machine.create_first(name, &mut effects);
            self.tasks.push(id);
            self.look(effects);
            return self.hello(id);
        }
        let who = self.dice.pick(&self.tasks).unwrap();
        let greeted = self.machine.tasks.get(who).is_some_and(|task| task.is_greeted());
        if !greeted && self.dice.one_in(2) {
            return self.hello(who);
        }
        match self.dice.below(100) {
            0 => self.machine.died(who, &mut effects),
            1 => {
                let own = self.dice.one_in(2);
                if let Ok(id) = self.machine.admit("guest", CREDENTIALS, own, &mut effects) {
                    self.tasks.push(id);
                }
            }
            2 => return self.hello(who),
            56..60 if !self.alarms.is_empty() => {
                let alarm = self.alarms.remove(self.dice.below(self.alarms.len()));
                self.machine.expired(alarm, &mut effects);
            }
            60..70 if self.machine.is_at_work() => self.machine.step(&mut effects),
            40..50 if !self.tellings.is_empty() => {
                let connection = self.tellings.remove(0);
                self.machine.told(connection, &mut effects);
            }
            50..56 if !self.spare_looks.is_empty() => {
                let (task, spare) = self.spare_looks.remove(0);
                let error = KernelError::Malformed("not sealed".into());
                let result = if self.dice.one_in(6) { Err(error) } else { Ok(()) };
                self.machine.spare_looked_at(task, spare, result, &mut effects);
            }
            30..40 if !self.looks.is_empty() => {
                let (to, transaction, region) = self.looks.remove(0);
                let error = KernelError::Malformed("not sealed".into());
                let result = if self.dice.one_in(4) { Err(error) } else { Ok(()) };
                self.machine.region_looked_at(to, transaction, region, result, &mut effects);
            }
            3..30 if !self.seals.is_empty() => {
                let at = self.dice.below(self.seals.len());
                let (pair, side) = self.seals.remove(at);
                let error = KernelError::Malformed("a hole".into());
                let result = if self.dice.one_in(10) { Err(error) } else { Ok(()) };
                self.machine.sealed(pair, side, result, &mut effects);
            }
            _ => {
                let request = self.request(who);
                if let Request::Cancel { .. } = request {
                    self.machine.handle(who, 0, request, &mut effects);
                } else {
                    let transaction = self.ask(who);
                    self.machine.handle(who, transaction, request, &mut effects);
                }
            }
        }
        self.look(effects);
    }

    /// A slot: mostly one that holds a capability with some of these rights.
    fn slot(&mut self, who: TaskId, useful: Rights) -> Slot {
        let any = Slot { index: self.dice.below(70) as u32, generation: self.dice.below(3) as u32 };
        if self.dice.one_in(8) {
            return self.dice.pick(&self.known.entry(who).or_default().slots).unwrap_or(any);
        }
        let Some(task) = self.machine.tasks.get(who) else { return any };
        let good: Vec<Slot> = task
            .space
            .iter()
            .map(|(slot, _)| slot)
            .filter(|slot| {
                let node = self.machine.capability(who, *slot);
                node.is_ok_and(|(_, node)| {
                    useful.is_empty() || node.powers.rights.intersects(useful)
                })
            })
            .collect();
        self.dice.pick(&good).unwrap_or(any)
    }

    /// A connection: mostly one that is there.
    fn connection(&mut self, who: TaskId) -> ConnectionId {
        let any = ConnectionId { index: self.dice.below(20) as u32, generation: 0 };
        if self.dice.one_in(8) {
            return self.dice.pick(&self.known.entry(who).or_default().connections).unwrap_or(any);
        }
        let Some(task) = self.machine.tasks.get(who) else { return any };
        let good: Vec<ConnectionId> = task.connections.values().map(|(id, _)| *id).collect();
        self.dice.pick(&good).unwrap_or(any)
    }

    fn rights(&mut self, who: TaskId, slot: Slot) -> Rights {
        let held =
            self.machine.capability(who, slot).map_or(Rights::SEND, |(_, node)| node.powers.rights);
        match self.dice.below(8) {
            0 => Rights::from_bits_retain(self.dice.next() as u32),
            1 => held & Rights::from_bits_retain(self.dice.next() as u32),
            2 => held - Rights::RECEIVE,
            3 | 4 => held - Rights::SEND,
            5 => held & (Rights::SEND | Rights::GRANT | Rights::MINT),
            _ => held,
        }
    }

    fn badge(&mut self) -> Option<u64> {
        if self.dice.one_in(3) { Some(self.dice.next() % 3) } else { None }
    }

    fn limits(&mut self) -> Limits {
        if !self.dice.one_in(4) {
            return Limits::SAME;
        }
        let bits = self.dice.one_in(2).then(|| u64::MAX >> self.dice.below(3));
        let priority = self.dice.one_in(2).then(|| limit::PRIORITY_MAX - self.dice.below(3) as u8);
        Limits { bits, priority }
    }

    /// What is set aside for a new task, mostly nothing.
    fn parts(&mut self) -> Vec<Allotment> {
        if !self.dice.one_in(3) {
            return Vec::new();
        }
        let most = [4, 30, 5, 4, 2, 4 * Shape::default().segment_bytes()];
        let mut parts = Vec::new();
        for (quota, most) in Quota::SHARED.into_iter().zip(most) {
            if self.dice.one_in(2) {
                parts.push(Allotment { quota, amount: self.dice.below(most + 1) as u64 });
            }
        }
        parts
    }

    fn gifts(&mut self, who: TaskId) -> Vec<Give> {
        (0..self.dice.below(4))
            .map(|_| {
                let slot = self.slot(who, Rights::GRANT);
                let (rights, badge) = (self.rights(who, slot), self.badge());
                Give { name: "given".into(), slot, rights, badge, limits: self.limits() }
            })
            .collect()
    }

    fn interface(&mut self) -> Option<Interface> {
        let minor = self.dice.below(2) as u16;
        (self.dice.one_in(4)).then(|| Interface::new("file", Version::new(1, minor)))
    }

    fn shape(&mut self) -> Shape {
        let bad = self.dice.one_in(20);
        if bad { Shape { lines: 3, area_bytes: 4096 } } else { Shape::default() }
    }

    /// Whether a connect with what is in a slot is to be one to a notification.
    fn posts(&mut self, who: TaskId, slot: Slot) -> bool {
        let found = self.machine.receivable(who, slot);
        found == Ok(ObjectKind::Notification) && !self.dice.one_in(10)
    }

    fn doorbell(&mut self) -> Doorbell {
        if self.dice.one_in(2) { Doorbell::Futex } else { Doorbell::Event }
    }

    /// Whose transactions are meant: mostly those of the task that a slot names.
    fn meant(&mut self) -> Option<TaskId> {
        if self.dice.one_in(3) { self.dice.pick(&self.tasks) } else { None }
    }

    fn request(&mut self, who: TaskId) -> Request {
        let connection = self.connection(who);
        let what = self.dice.below(175);
        let slot = self.slot(
            who,
            match what {
                8..14 => Rights::MINT,
                47..51 => Rights::WATCH,
                51..58 | 156..162 => Rights::RECEIVE,
                58..72 => Rights::SEND | Rights::POST,
                94..96 => Rights::KILL,
                96..100 | 162..165 => Rights::INSPECT,
                165..175 => Rights::INJECT,
                133..142 => Rights::MAP_READ,
                _ => Rights::empty(),
            },
        );
        match what {
            0 => Request::PageMapped,
            1..4 => Request::CreateEndpoint,
            4 => Request::CreateNotification,
            5..8 => Request::CreateTask {
                name: "child".into(),
                give: self.gifts(who),
                quotas: self.parts(),
            },
            8..14 => {
                let (rights, badge) = (self.rights(who, slot), self.badge());
                Request::Mint { slot, rights, badge, limits: self.limits() }
            }
            14..17 => Request::Move { slot },
            17..21 => Request::Delete { slot },
            21..23 => Request::Revoke { slot },
            23..25 => Request::Inspect { slot },
            25..37 => {
                let items = (0..self.dice.below(4))
                    .map(|_| {
                        let slot = self.slot(who, Rights::GRANT);
                        let (rights, badge) = (self.rights(who, slot), self.badge());
                        let moves = self.dice.one_in(3);
                        let travel = if moves { Travel::Move } else { Travel::Mint };
                        Offer { slot, rights, badge, limits: self.limits(), travel }
                    })
                    .collect();
                Request::Offer { connection, items }
            }
            37..47 => {
                let tickets = &self.known.entry(who).or_default().tickets;
                let recent = &tickets[tickets.len().saturating_sub(3)..];
                let (connection, ticket) =
                    self.dice.pick(recent).unwrap_or((connection, Ticket(1)));
                Request::Accept { connection, ticket }
            }
            47..51 => Request::Watch { slot },

            57 if self.dice.one_in(6) => Request::StopReceiving { slot },
            58..72 if self.posts(who, slot) => Request::Connect {
                slot,
                interface: None,
                requests: Shape::SMALLEST,
                replies: Shape::SMALLEST,
                doorbell: self.doorbell(),
            },
            51..58 => Request::Serve { slot, interface: self.interface() },
            58..72 => Request::Connect {
                slot,
                interface: self.interface(),
                requests: self.shape(),
                replies: self.shape(),
                doorbell: self.doorbell(),
            },
            72..88 => Request::Mapped { connection, doorbell: self.doorbell() },
            88..91 => {
                let all = [Why::Closed, Why::Denied, Why::Dead, Why::Revoked, Why::Protocol];
                let why = self.dice.pick(&all).unwrap();
                let severed =
                    self.machine.tasks.get(who).and_then(|task| task.severed.keys().next());
                let severed = severed.map(|(connection, _)| *connection);
                let connection = severed.filter(|_| self.dice.one_in(2)).unwrap_or(connection);
                Request::Disconnect { connection, why }
            }
            91..94 => {
                let waits: Vec<u64> = self.unanswered.keys().copied().collect();
                Request::Cancel { transaction: self.dice.pick(&waits).unwrap_or(1) }
            }
            94 => Request::Kill { slot, signal: self.dice.below(70) as i32 - 2 },
            100..112 => Request::Attach {
                connection,
                requests: 4096 * self.dice.below(3) as u32,
                replies: 4096 * self.dice.below(2) as u32,
            },
            130..133 => Request::CreateRegion {
                bytes: 4096 * self.dice.below(4) as u64,
                kind: self
                    .dice
                    .pick(&[RegionKind::Sealed, RegionKind::Published, RegionKind::Shared])
                    .unwrap(),
            },
            142..148 => Request::Spare { shape: self.shape() },
            165..169 => {
                let all = [Action::Kill, Action::Drop, Action::Delay { milliseconds: 5 }];
                let injection = Injection {
                    phase: self.dice.pick(&InjectedPhase::ALL).unwrap(),
                    nth: self.dice.below(3) as u32,
                    action: self.dice.pick(&all).unwrap(),
                };
                Request::Inject { slot, task: self.meant(), injection }
            }
            169 => Request::Injections { slot, task: self.meant() },
            170 => Request::OwnInjections,
            171..173 => {
                let id = InjectionId(1 + self.dice.below(4) as u32);
                Request::CancelInjection { slot, task: self.meant(), id }
            }
            173..175 => Request::Struck { id: InjectionId(1 + self.dice.below(4) as u32) },
            156..162 => {
                let hold = match self.dice.below(6) {
                    0 => Hold::Fail,
                    1..4 => Hold::FOR_EVER,
                    connects => Hold::Wait { connects: connects as u32 - 3, milliseconds: 5 },
                };
                Request::Hold { slot, hold }
            }
            148..156 => {
                let all: Vec<SpareId> = self
                    .spares
                    .iter()
                    .filter_map(|(owner, spare)| (*owner == who).then_some(*spare))
                    .collect();
                let spare = self.dice.pick(&all).unwrap_or(SpareId(1));
                if what < 155 {
                    Request::SpareMapped { spare, doorbell: self.doorbell() }
                } else {
                    Request::DropSpare { spare }
                }
            }
            133..137 => Request::RegionSealed { slot },
            137..142 => Request::MapRegion { slot, write: self.dice.one_in(3) },
            112..130 => {
                let recent = &self.arenas[self.arenas.len().saturating_sub(4)..];
                let (connection, arena) =
                    self.dice.pick(recent).unwrap_or((connection, ArenaId(1)));
                if what < 125 {
                    Request::ArenaMapped { connection, arena }
                } else {
                    Request::Detach { connection, arena }
                }
            }
            95 => {
                let of = self.dice.pick(&self.tasks).unwrap_or(who);
                let theirs = self.slot(of, Rights::empty());
                let of = self.dice.one_in(2).then_some((of, theirs));
                Request::Provenance { slot: self.slot(who, Rights::INSPECT), of }
            }
            96 => match self.dice.below(9) {
                0..6 => Request::List { slot, from: 0 },
                6 => Request::Quotas { slot, task: self.dice.pick(&self.tasks).unwrap_or(who) },
                7 => Request::Held { slot, task: who, from: 0 },
                _ => Request::Ends { slot, task: who, from: 0 },
            },
            162 => match self.dice.below(3) {
                0 => Request::Waits { slot, after: self.dice.pick(&self.tasks) },
                1 => {
                    let known = self.known.get(&who).map(|known| known.slots.clone());
                    let after = self.dice.pick(&known.unwrap_or_default()).map(|at| (who, at));
                    Request::Capabilities { slot, after }
                }
                _ => {
                    let after = self.dice.one_in(2).then(|| ObjectId(self.dice.next() % 50));
                    Request::Endpoints { slot, after }
                }
            },
            163 => {
                let transaction = self.dice.next() % 4;
                Request::LookForCircle { connection, transaction }
            }
            97 => Request::Page { slot, task: self.dice.pick(&self.tasks).unwrap_or(who) },
            _ => {
                let own =
                    DoorRule { uid: Some(CREDENTIALS.uid), give: self.gifts(who), quotas: vec![] };
                let others = DoorRule { uid: None, give: self.gifts(who), quotas: vec![] };
                Request::FrontDoor { slot, rules: vec![own, others] }
            }
        }
    }

    /// Looks at what the machine said, as the shell and the tasks would.
    fn look(&mut self, effects: Vec<Effect>) {
        self.machine.check();
        for effect in effects {
            match effect {
                Effect::Answer { to, transaction, answer, .. } => {
                    self.answered(to, transaction);
                    self.learn(to, answer);
                }
                Effect::Tasks { to, transaction, .. } => {
                    self.answered(to, transaction);
                    *self.seen.entry("tasks").or_default() += 1;
                }
                Effect::Waits { to, transaction, tasks, .. } => {
                    assert!(tasks.into_iter().all(|task| self.machine.is_alive(task)));
                    self.answered(to, transaction);
                    *self.seen.entry("waits").or_default() += 1;
                }
                Effect::LookForCircle { transaction, wait } => {
                    assert!(self.machine.client_index(wait.connection).is_some());
                    self.answered(wait.task, transaction);
                    *self.seen.entry("looks for circles").or_default() += 1;
                }
                Effect::Signal { to, transaction, task, .. } => {
                    assert!(self.machine.is_alive(task));
                    self.answered(to, transaction);
                }
                Effect::Event { to, event, .. } => {
                    assert!(self.machine.is_alive(to), "{event:?} to the dead");
                    self.hear(to, event);
                }
                Effect::Seal { pair, side } => self.seals.push((pair, side)),
                Effect::Status { task, index, word } => {
                    assert!(self.machine.is_alive(task), "a word to the dead");
                    self.words.insert((task, index), word);
                }
                Effect::MakeSegments { pair, .. } => {
                    assert!(self.made.insert(pair), "{pair:?} was made twice");
                }
                Effect::ForgetSegments(pair) => {
                    assert!(self.made.remove(&pair), "{pair:?} was never made");
                }
                Effect::ForgetTask(task) => {
                    assert!(self.tasks.contains(&task));
                    self.spares.retain(|(owner, _)| *owner != task);
                    self.tasks.retain(|id| *id != task);
                    self.unanswered.retain(|_, of| *of != task);
                    self.known.remove(&task);
                }
                Effect::MakeSpare { task, spare, .. } => {
                    assert!(self.spares.insert((task, spare)), "{spare} was made twice");
                }
                Effect::CheckSpare { task, spare, .. } => {
                    assert!(self.spares.contains(&(task, spare)));
                    self.spare_looks.push((task, spare));
                }
                Effect::UseSpare { task, spare, pair, .. } => {
                    assert!(self.spares.remove(&(task, spare)), "{spare} was never made");
                    assert!(self.made.contains(&pair), "{pair:?} was never made");
                }
                Effect::ForgetSpare(task, spare) => {
                    assert!(self.spares.remove(&(task, spare)), "{spare} was never made");
                }
                Effect::Told(connection) => self.tellings.push(connection),
                Effect::MakeRegion { region, .. } => {
                    assert!(self.regions.insert(region), "{region:?} was made twice");
                }
                Effect::ForgetRegion(region) => {
                    assert!(self.regions.remove(&region), "{region:?} was never made");
                }
                Effect::CheckRegion { to, transaction, region } => {
                    assert!(self.regions.contains(&region));
                    self.looks.push((to, transaction, region));
                }
                Effect::MakeTask(_) | Effect::SealPage(_) => {}
                Effect::After { alarm, .. } => {
                    self.alarms.retain(|other| *other != alarm);
                    self.alarms.push(alarm);
                }
                Effect::Unset(alarm) => self.alarms.retain(|other| *other != alarm),
            }
        }
        assert!(self.regions.iter().eq(self.machine.regions.keys()), "regions made and forgotten");
        self.look_at_words();
        assert_eq!(self.machine.tasks().count(), self.tasks.len());
        assert!(self.tasks.iter().all(|id| self.machine.is_alive(*id)));
        // Whatever has not been answered waits for something.
        for (transaction, who) in &self.unanswered {
            let waits = self.machine.tasks.get(*who).unwrap().waits.contains_key(transaction);
            let seals = || {
                self.machine.connections.iter().any(|(_, connection)| {
                    connection.server.task == *who
                        && (connection.waiting(Side::Server) == Some(*transaction)
                            || connection
                                .arenas
                                .values()
                                .any(|arena| arena.waiting(Side::Server) == Some(*transaction)))
                })
            };
            let looks = self.looks.iter().any(|(to, it, _)| (to, it) == (who, transaction));
            let spare = |task: &crate::machine::task::Task| {
                task.spares.values().any(|spare| {
                    matches!(spare.phase, Phase::Seals { transaction: it, .. } if it == *transaction)
                })
            };
            let looks = looks || self.machine.tasks.get(*who).is_some_and(spare);
            assert!(waits || seals() || looks, "{transaction} of {who} was forgotten");
        }
    }

    /// Each end of a connection that knows of it finds in its word whether injections are pending.
    fn look_at_words(&self) {
        for (id, connection) in self.machine.connections.iter() {
            let messages = self.machine.carries_messages(id);
            let known = |side: &&Side| {
                let alive = self.machine.is_alive(connection.end(**side).task);
                messages && alive && connection.knows(**side)
            };
            for side in connection.sides().iter().filter(known) {
                let end = connection.end(*side);
                let word = self.words.get(&(end.task, end.index)).copied().unwrap_or(0);
                assert_eq!(word, self.machine.word_of(id, *side), "the word of {id} at {side:?}");
            }
        }
    }

    fn answered(&mut self, to: TaskId, transaction: u64) {
        assert!(self.machine.is_alive(to), "an answer to the dead");
        assert_eq!(self.unanswered.remove(&transaction), Some(to), "an answer to no question");
    }

    fn learn(&mut self, who: TaskId, answer: Answer) {
        let known = self.known.entry(who).or_default();
        let name = match answer {
            Answer::Welcome { own, given, .. } => {
                known.slots.push(own.slot);
                known.slots.extend(given.iter().map(|given| given.capability.slot));
                "welcome"
            }
            Answer::Slot(received) => {
                known.slots.push(received.slot);
                "slot"
            }
            Answer::Task { capability, id } => {
                known.slots.push(capability.slot);
                self.tasks.push(id);
                "task"
            }
            Answer::Received(all) => {
                known.slots.extend(all.iter().map(|received| received.slot));
                "received"
            }
            Answer::Connecting { connection, status_index } => {
                known.connections.push(connection);
                self.told(who, connection, status_index);
                "connecting"
            }
            Answer::Provenance(provenance) => {
                assert!(!provenance.steps.is_empty());
                "provenance"
            }
            Answer::Ticket(ticket) => {
                // It is passed on, and everybody else has heard of it too.
                if let Some((connection, other)) = self.escrow(ticket) {
                    for id in self.tasks.clone() {
                        if id == other || self.dice.one_in(8) {
                            let known = self.known.entry(id).or_default();
                            known.tickets.push((connection, ticket));
                        }
                    }
                }
                "ticket"
            }
            Answer::Attaching { connection, arena } => {
                self.arenas.push((connection, arena));
                "attaching"
            }
            Answer::Attached => "attached",
            Answer::Region(received) => {
                known.slots.push(received.slot);
                "region"
            }
            Answer::Mapping { .. } => "mapping",
            Answer::Error(KernelError::NotAttached { .. }) => "not attached",
            Answer::Error(KernelError::BadArena { .. }) => "bad arena",
            Answer::Spare { .. } => "spare",
            Answer::Error(KernelError::BadSpare(_)) => "bad spare",
            Answer::Connected { connection, status_index, spare: Some(_), .. } => {
                known.connections.push(connection);
                self.told(who, connection, status_index);
                "connected with a spare"
            }
            Answer::Connected { .. } => "connected",
            Answer::Serving { .. } => "serving",
            Answer::Revoked { unacknowledged, .. } if !unacknowledged.is_empty() => {
                "unacknowledged"
            }
            Answer::Revoked { connections: 1.., .. } => "severed",
            Answer::Revoked { .. } => "revoked",
            Answer::Error(KernelError::NotCompleted(_)) => "not completed",
            Answer::Error(KernelError::Quota { what, .. }) if what.ends_with("(its own part)") => {
                "part"
            }
            Answer::Error(KernelError::Quota { .. }) => "quota",
            Answer::Error(KernelError::Cancelled) => "cancelled",
            Answer::Error(KernelError::Dead) => "dead",
            Answer::Error(KernelError::NotHeld { .. }) => "not held",
            Answer::Injected { .. } => "injected",
            Answer::Injections(all) if !all.is_empty() => "injections",
            Answer::Error(KernelError::BadInjection(_)) => "bad injection",
            Answer::Error(KernelError::BadTicket) => "bad ticket",
            Answer::Error(_) => "error",
            _ => "done",
        };
        *self.seen.entry(name).or_default() += 1;
    }

    fn escrow(&self, ticket: Ticket) -> Option<(ConnectionId, TaskId)> {
        let escrow = self.machine.escrow.get(&ticket)?;
        let connection = self.machine.connections.get(escrow.connection)?;
        let ends = [connection.client.task, connection.server.task];
        let other = ends.into_iter().find(|task| *task != escrow.offerer);
        Some((escrow.connection, other.unwrap_or(escrow.offerer)))
    }

    fn told(&mut self, who: TaskId, connection: ConnectionId, index: u32) {
        let word = self.words.get(&(who, index)).copied().unwrap_or(0);
        let waits =
            self.machine.connections.get(connection).is_some_and(|it| it.sides().len() == 1);
        let wanted = if waits { ConnectionState::Waiting } else { ConnectionState::Open };
        assert_eq!(
            ConnectionState::from_word(word),
            wanted,
            "word {index} of {who} was told before it was set"
        );
        self.indices.entry((who, connection)).or_default().push(index);
    }

    fn hear(&mut self, who: TaskId, event: Event) {
        let name = match event {
            Event::Incoming { connection, status_index, spare, kind, .. } => {
                self.known.entry(who).or_default().connections.push(connection);
                self.told(who, connection, status_index);
                match (kind, spare) {
                    (ObjectKind::Notification, None) => "a poster",
                    (_, Some(_)) => "incoming with a spare",
                    (_, None) => "incoming",
                }
            }
            Event::Closed { connection, .. } => {
                let indices = &self.indices[&(who, connection)];
                assert!(indices.iter().all(|index| {
                    let state = ConnectionState::from_word(self.words[&(who, *index)]);
                    state != ConnectionState::Open
                }));
                "closed"
            }
            Event::Attach { connection, arena, .. } => {
                self.arenas.push((connection, arena));
                "attach"
            }
            Event::Detached { connection, .. } => {
                // Whoever is told knows the connection, and it has not ended.
                assert!(self.machine.side_of(who, connection).is_ok());
                "detached"
            }
            Event::Watched { .. } => "watched",
            Event::NoSenders { .. } => "no senders",
        };
        *self.seen.entry(name).or_default() += 1;
    }
}

#[test]
fn anything_in_any_order() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..16 {
        let mut run = Run::new(seed);
        for step in 0..4_000 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step()));
            if let Err(cause) = result {
                eprintln!("seed {seed}, step {step}");
                std::panic::resume_unwind(cause);
            }
        }
        for (name, count) in run.seen {
            *seen.entry(name).or_default() += count;
        }
        // And then everybody dies, and nothing is left.
        for id in run.tasks.clone() {
            run.machine.died(id, &mut Vec::new());
            run.machine.check();
        }
        while run.machine.is_at_work() {
            run.machine.step(&mut Vec::new());
            run.machine.check();
        }
        assert_eq!(run.machine.tasks().count(), 0);
        assert_eq!(run.machine.connections.len(), 0);
        assert!(run.machine.escrow.is_empty());
        assert!(run.machine.remains.is_empty());
        let kept = run.machine.front_door.kept().count();
        if kept == 0 {
            run.machine.accounts.check_idle();
        }
        assert_eq!(run.machine.tree.iter().count(), kept, "only the front door keeps anything");
    }
    for name in [
        "welcome",
        "slot",
        "task",
        "received",
        "connecting",
        "ticket",
        "connected",
        "connected with a spare",
        "incoming with a spare",
        "spare",
        "bad spare",
        "region",
        "mapping",
        "attaching",
        "attached",
        "attach",
        "detached",
        "not attached",
        "bad arena",
        "serving",
        "provenance",
        "severed",
        "revoked",
        "not completed",
        "quota",
        "part",
        "cancelled",
        "dead",
        "not held",
        "injected",
        "injections",
        "bad injection",
        "bad ticket",
        "error",
        "done",
        "tasks",
        "incoming",
        "a poster",
        "closed",
        "watched",
        "no senders",
    ] {
        assert!(seen.get(name).is_some_and(|count| *count >= 2), "{name} hardly ever: {seen:?}");
    }
}
