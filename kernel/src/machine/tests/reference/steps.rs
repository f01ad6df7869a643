//! Sequences as scripts: what is done, in terms of what earlier steps came to.
//!
//! A step has a number, and names what it needs by the numbers of the steps that brought it: `who: 3`
//! is the task of step 3, `S(7, 1)` the second capability that step 7 brought. So a step may be left
//! out, and what is left still means what it meant; who names what was never brought names something
//! that is not there.

use super::{Input, Outcome};
use crate::effect::{Alarm, Effect, Pair, Side};
use rendez_protocol::kernel::{
    Answer, Credentials, DoorRule, Doorbell, Give, Hold, KernelError, Limits, Offer, RegionKind,
    Request, Shape, Travel,
};
use rendez_protocol::version::PROTOCOL;
use rendez_protocol::{
    ConnectionId, Interface, ObjectId, Rights, Slot, TaskId, Ticket, Version, Why,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A capability: which step brought it, and which of those that it brought it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct S(pub(super) u32, pub(super) u32);

/// What is asked for when a capability is passed on: rights, badge, bits, priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct With(
    pub(super) Rights,
    pub(super) Option<u64>,
    pub(super) Option<u64>,
    pub(super) Option<u8>,
);

impl With {
    fn limits(self) -> Limits {
        Limits { bits: self.2, priority: self.3 }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// Its number, from 1; its requests have it too.
    pub(super) step: u32,
    /// Who: the step that brought the task; 0 for the shell.
    pub(super) who: u32,
    pub(super) does: Does,
}

/// A rule of the front door: for which uid, and what is given.
pub(super) type Rule = (Option<u32>, Vec<(S, With)>);

/// What is done. A `u32` is the step that brought a connection, a ticket, a task, or that asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Does {
    First,
    Admit {
        uid: u32,
    },
    Greet,
    Die,
    PageMapped,
    CreateEndpoint,
    CreateNotification,
    CreateTask(Vec<(S, With)>),
    Mint(S, With),
    Move(S),
    Delete(S),
    Revoke(S),
    Inspect(S),
    Offer(u32, Vec<(S, With, Travel)>),
    Accept(u32),
    Watch(S),
    Serve(S, Option<u16>),
    StopReceiving(S),
    Hold(S, Hold),
    Connect {
        slot: S,
        speaks: Option<u16>,
        lines: u32,
        doorbell: Doorbell,
    },
    Mapped(u32, Doorbell),
    Disconnect(u32, Why),
    Cancel(u32),
    Kill(S, i32),
    List(S),
    Page(S, u32),
    /// From a place on.
    Held(S, u32, u32),
    Ends(S, u32, u32),
    /// Of one's own, or of another's: whose, and which.
    Provenance(S, Option<(u32, S)>),
    FrontDoor(S, Vec<Rule>),
    CreateRegion(u64, RegionKind),
    RegionSealed(S),
    MapRegion(S, bool),
    /// The shell has looked at a segment: whether it is as it should be.
    Sealed(u32, Side, bool),
    /// The same of a region, for who asked in that step.
    RegionLookedAt(u32, bool),
    GiveUp(u32, Side, Why),
    Unheard(u32),
    TakeBack(S),
    /// It is time for the alarm that was set so, before which there were so many.
    Expired(Alarm),
    /// A portion of what was put off is done.
    Step,
}

/// What steps have brought, some of it long ago.
#[derive(Debug, Default)]
pub(super) struct Brought {
    pub(super) tasks: BTreeMap<u32, TaskId>,
    pub(super) slots: BTreeMap<S, (TaskId, Slot)>,
    pub(super) connections: BTreeMap<u32, ConnectionId>,
    /// With the step that brought its connection.
    pub(super) tickets: BTreeMap<u32, (u32, Ticket)>,
    /// Segments to be looked at.
    pub(super) seals: Vec<(u32, Side)>,
    /// Regions to be looked at, by who asked: task and step.
    pub(super) looks: BTreeMap<u32, (TaskId, ObjectId)>,
    pub(super) alarms: Vec<Alarm>,
    /// Requests that have not been answered.
    pub(super) open: BTreeMap<u32, TaskId>,
    /// Who was introduced to whom: servers of connections.
    pub(super) servers: BTreeMap<u32, TaskId>,
}

const NOBODY: u32 = 9_999;

impl Brought {
    pub(super) fn task(&self, step: u32) -> TaskId {
        let nobody = TaskId { index: NOBODY, generation: 0 };
        self.tasks.get(&step).copied().unwrap_or(nobody)
    }

    fn slot(&self, slot: S) -> Slot {
        let nothing = Slot { index: NOBODY, generation: 0 };
        self.slots.get(&slot).map_or(nothing, |(_, slot)| *slot)
    }

    fn connection(&self, step: u32) -> ConnectionId {
        let nothing = ConnectionId { index: NOBODY, generation: 0 };
        self.connections.get(&step).copied().unwrap_or(nothing)
    }

    fn gifts(&self, given: &[(S, With)]) -> Vec<Give> {
        let give = |(slot, with): &(S, With)| Give {
            name: "given".into(),
            slot: self.slot(*slot),
            rights: with.0,
            badge: with.1,
            limits: with.limits(),
        };
        given.iter().map(give).collect()
    }

    /// What the machine is told in a step.
    pub(super) fn input(&self, step: &Step) -> Input {
        let who = self.task(step.who);
        let transaction = u64::from(step.step);
        let credentials = |uid| Credentials { pid: 100, uid, gid: 100 };
        let bad = || KernelError::Malformed(String::new());
        let seen = |good: bool| if good { Ok(()) } else { Err(bad()) };
        let interface =
            |minor: Option<u16>| minor.map(|minor| Interface::new("file", Version::new(1, minor)));
        let request = match step.does.clone() {
            Does::First => return Input::First { name: "first".into() },
            Does::Admit { uid } => {
                let (name, own_uid) = ("guest".into(), uid == 1000);
                return Input::Admit { name, credentials: credentials(uid), own_uid };
            }
            Does::Greet => {
                let credentials = credentials(1000);
                return Input::Hello { who, transaction, version: PROTOCOL, credentials };
            }
            Does::Die => return Input::Died { who },
            Does::Sealed(step, side, good) => {
                let pair = Pair::Connection(self.connection(step));
                return Input::Sealed { pair, side, result: seen(good) };
            }
            Does::RegionLookedAt(step, good) => {
                let nothing = (TaskId { index: NOBODY, generation: 0 }, ObjectId(u64::MAX));
                let (who, region) = self.looks.get(&step).copied().unwrap_or(nothing);
                let (transaction, result) = (u64::from(step), seen(good));
                return Input::RegionLookedAt { who, transaction, region, result };
            }
            Does::GiveUp(step, side, why) => {
                return Input::GiveUp { pair: self.connection(step).into(), side, why };
            }
            Does::Unheard(step) => {
                let server = self.servers.get(&step).copied().unwrap_or(who);
                return Input::Unheard { server, connection: self.connection(step) };
            }
            Does::TakeBack(slot) => {
                return Input::TakeBack { creator: who, capability: self.slot(slot) };
            }
            Does::Expired(alarm) => return Input::Expired { alarm },
            Does::Step => return Input::Step,
            Does::PageMapped => Request::PageMapped,
            Does::CreateEndpoint => Request::CreateEndpoint,
            Does::CreateNotification => Request::CreateNotification,
            Does::CreateTask(given) => {
                let (name, give) = ("child".into(), self.gifts(&given));
                Request::CreateTask { name, give, quotas: Vec::new() }
            }
            Does::Mint(slot, with) => {
                let (slot, limits) = (self.slot(slot), with.limits());
                Request::Mint { slot, rights: with.0, badge: with.1, limits }
            }
            Does::Move(slot) => Request::Move { slot: self.slot(slot) },
            Does::Delete(slot) => Request::Delete { slot: self.slot(slot) },
            Does::Revoke(slot) => Request::Revoke { slot: self.slot(slot) },
            Does::Inspect(slot) => Request::Inspect { slot: self.slot(slot) },
            Does::Offer(connection, items) => {
                let item = |(slot, with, travel): (S, With, Travel)| Offer {
                    slot: self.slot(slot),
                    rights: with.0,
                    badge: with.1,
                    limits: with.limits(),
                    travel,
                };
                let items = items.into_iter().map(item).collect();
                Request::Offer { connection: self.connection(connection), items }
            }
            Does::Accept(step) => {
                let (of, ticket) = self.tickets.get(&step).copied().unwrap_or((0, Ticket(0)));
                Request::Accept { connection: self.connection(of), ticket }
            }
            Does::Watch(slot) => Request::Watch { slot: self.slot(slot) },
            Does::Serve(slot, minor) => {
                Request::Serve { slot: self.slot(slot), interface: interface(minor) }
            }
            Does::StopReceiving(slot) => Request::StopReceiving { slot: self.slot(slot) },
            Does::Hold(slot, hold) => Request::Hold { slot: self.slot(slot), hold },
            Does::Connect { slot, speaks, lines, doorbell } => {
                let shape = Shape { lines, area_bytes: 4096 };
                Request::Connect {
                    slot: self.slot(slot),
                    interface: interface(speaks),
                    requests: shape,
                    replies: shape,
                    doorbell,
                }
            }
            Does::Mapped(step, doorbell) => {
                Request::Mapped { connection: self.connection(step), doorbell }
            }
            Does::Disconnect(step, why) => {
                Request::Disconnect { connection: self.connection(step), why }
            }
            Does::Cancel(step) => Request::Cancel { transaction: u64::from(step) },
            Does::Kill(slot, signal) => Request::Kill { slot: self.slot(slot), signal },
            Does::List(slot) => Request::List { slot: self.slot(slot), from: 0 },
            Does::Held(slot, step, from) => {
                Request::Held { slot: self.slot(slot), task: self.task(step), from }
            }
            Does::Ends(slot, step, from) => {
                Request::Ends { slot: self.slot(slot), task: self.task(step), from }
            }
            Does::Provenance(slot, of) => {
                let of = of.map(|(step, slot)| (self.task(step), self.slot(slot)));
                Request::Provenance { slot: self.slot(slot), of }
            }
            Does::Page(slot, step) => {
                Request::Page { slot: self.slot(slot), task: self.task(step) }
            }
            Does::FrontDoor(slot, rules) => {
                let rule = |(uid, given): &Rule| DoorRule {
                    uid: *uid,
                    give: self.gifts(given),
                    quotas: Vec::new(),
                };
                let rules = rules.iter().map(rule).collect();
                Request::FrontDoor { slot: self.slot(slot), rules }
            }
            Does::CreateRegion(bytes, kind) => Request::CreateRegion { bytes, kind },
            Does::RegionSealed(slot) => Request::RegionSealed { slot: self.slot(slot) },
            Does::MapRegion(slot, write) => Request::MapRegion { slot: self.slot(slot), write },
        };
        Input::Request { who, transaction, request }
    }

    /// Takes in what a step came to.
    pub(super) fn learn(&mut self, step: &Step, outcome: &Outcome, effects: &[Effect]) {
        if let Outcome::Task(task) = outcome {
            self.tasks.insert(step.step, *task);
        }
        let who = self.task(step.who);
        if matches!(self.input(step), Input::Request { request, .. } if !matches!(request, Request::Cancel { .. }))
        {
            self.open.insert(step.step, who);
        }
        if let Does::Sealed(of, side, _) = step.does {
            self.seals.retain(|it| *it != (of, side));
        }
        if let Does::RegionLookedAt(of, _) = step.does {
            self.looks.remove(&of);
        }
        if let Does::Expired(alarm) = step.does {
            self.alarms.retain(|it| *it != alarm);
        }
        for effect in effects {
            self.hear(effect);
        }
    }

    fn hear(&mut self, effect: &Effect) {
        let step_of = |connections: &BTreeMap<u32, ConnectionId>, id: ConnectionId| {
            connections.iter().rev().find(|(_, it)| **it == id).map(|(step, _)| *step)
        };
        match effect {
            Effect::Answer { to, transaction, answer, .. } => {
                let step = u32::try_from(*transaction).unwrap_or(0);
                self.open.remove(&step);
                let slots: Vec<Slot> = match answer {
                    Answer::Welcome { own, given, .. } => {
                        let given = given.iter().map(|it| it.capability.slot);
                        core::iter::once(own.slot).chain(given).collect()
                    }
                    Answer::Slot(it) | Answer::Region(it) => vec![it.slot],
                    Answer::Task { capability, id } => {
                        self.tasks.insert(step, *id);
                        vec![capability.slot]
                    }
                    Answer::Received(all) => all.iter().map(|it| it.slot).collect(),
                    _ => Vec::new(),
                };
                for (nth, slot) in slots.into_iter().enumerate() {
                    self.slots.insert(S(step, nth as u32), (*to, slot));
                }
                if let Answer::Connecting { connection, .. } = answer {
                    self.connections.insert(step, *connection);
                }
                if let Answer::Ticket(ticket) = answer {
                    self.tickets.insert(step, (0, *ticket));
                }
            }
            Effect::Event { to, event, .. } => {
                if let rendez_protocol::kernel::Event::Incoming { connection, .. } = event
                    && let Some(step) = step_of(&self.connections, *connection)
                {
                    self.servers.insert(step, *to);
                }
            }
            Effect::Seal { pair: Pair::Connection(id), side } => {
                if let Some(step) = step_of(&self.connections, *id) {
                    self.seals.push((step, *side));
                }
            }
            Effect::CheckRegion { to, transaction, region } => {
                self.looks.insert(*transaction as u32, (*to, *region));
            }
            Effect::After { alarm, .. } => self.alarms.push(*alarm),
            Effect::Unset(alarm) => self.alarms.retain(|it| it != alarm),
            Effect::ForgetTask(task) => self.open.retain(|_, of| of != task),
            Effect::Tasks { transaction, .. } | Effect::Signal { transaction, .. } => {
                self.open.remove(&(*transaction as u32));
            }
            _ => {}
        }
    }

    /// A ticket is for the connection that its offer named.
    pub(super) fn ticket_for(&mut self, step: &Step) {
        if let Does::Offer(connection, _) = step.does
            && let Some((of, _)) = self.tickets.get_mut(&step.step)
        {
            *of = connection;
        }
    }
}

/// A sequence as a script: a line for each step, which [`parse`] reads.
pub(super) fn script(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match ron::to_string(step) {
            Ok(line) => _ = writeln!(text, "{line}"),
            Err(error) => panic!("{step:?} cannot be written: {error}"),
        }
    }
    text
}

/// The steps of a script. Empty lines, and what follows `//`, mean nothing.
pub(super) fn parse(script: &str) -> Vec<Step> {
    script
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| ron::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}
