//! The machine once more, naively, and independently of it: what every rule means, without anything
//! that makes it quick.
//!
//! There is one flat list of *grants*: capabilities, and what was made with them. Each knows its
//! parent by number. Every question is answered by going through that list from end to end: how many
//! capabilities a task has, who can still send, what is derived from what. Nothing is counted in
//! advance, nothing is indexed, nothing is kept twice. What a task or a connection is, is a plain
//! record; which ids are given out is a list of places with the last one freed on top.
//!
//! Told the same ([`Input`]), both must say the same: outcome, answers, events, status words, and what
//! the shell is to do, in the same order. Not compared (see `plain`) are texts for
//! people, the order among those who are told of one object's fate at one moment, how a quota's
//! refusal is explained, and which quota is the tightest.
//!
//! | file | what |
//! |---|---|
//! | here | the records, requests on their way |
//! | `grants` | the list, and what can be asked of it |
//! | `space`, `revoke` | mint, move, delete, inspect; revoke; quotas |
//! | `tasks`, `death` | tasks: made, admitted, greeted, dead |
//! | `endpoints` | serving, waiting, watching |
//! | `connections`, `tickets` | connections step by step; what travels over them |
//! | `regions` | regions |
//! | `looks` | where capabilities came from, what a task has |
//! | `plain` | what is compared |
//! | `posts` | notifications |
//! | `steps`, `dice`, `runs` | random sequences, and both machines run beside each other |
//! | `fixed` | sequences that once failed |
//! | `shrink`, `broken` | the shortest sequence that still fails; machines that are broken on purpose |
//!
//! To bring it up to a rule that is new: write the rule here as plainly as it can be said, add its
//! request to `steps` and `dice`, and run.

mod broken;
mod connections;
mod death;
mod dice;
mod endpoints;
mod fixed;
mod grants;
mod looks;
mod plain;
mod posts;
mod regions;
mod revoke;
mod runs;
mod shrink;
mod space;
mod steps;
mod tasks;
mod tickets;

use crate::effect::{Attach, Effect, Pair, Side};
use crate::input::{Input, Outcome};
use crate::quota::Quotas;
use connections::Connection;
use endpoints::Endpoint;
use grants::Grant;
use looks::Way;
use regions::Region;
use rendez_protocol::kernel::{Answer, Event, Hello, KernelError, Request};
use rendez_protocol::{ConnectionId, ObjectId, Slot, TaskId};
use revoke::Revocation;
use tasks::Task;
use tickets::Escrow;

/// Places that are used again, the last one freed first, with how often each was.
#[derive(Debug)]
struct Places<T> {
    all: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Place and generation of what is put in next.
    fn next(&self) -> (u32, u32) {
        match self.free.last() {
            Some(place) => (*place as u32, self.all[*place].0),
            None => (self.all.len() as u32, 0),
        }
    }

    fn put(&mut self, what: T) -> (u32, u32) {
        let id = self.next();
        match self.free.pop() {
            Some(place) => self.all[place].1 = Some(what),
            None => self.all.push((0, Some(what))),
        }
        id
    }

    fn get(&self, (place, generation): (u32, u32)) -> Option<&T> {
        let (current, what) = self.all.get(place as usize)?;
        what.as_ref().filter(|_| *current == generation)
    }

    fn get_mut(&mut self, (place, generation): (u32, u32)) -> Option<&mut T> {
        let (current, what) = self.all.get_mut(place as usize)?;
        what.as_mut().filter(|_| *current == generation)
    }

    fn take(&mut self, id: (u32, u32)) -> Option<T> {
        self.get(id)?;
        let (generation, what) = &mut self.all[id.0 as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(id.0 as usize);
        what.take()
    }

    fn iter(&self) -> impl Iterator<Item = ((u32, u32), &T)> {
        let used = |(place, (generation, what)): (usize, &'_ (u32, Option<T>))| {
            what.is_some().then_some((place as u32, *generation))
        };
        let ids: Vec<_> = self.all.iter().enumerate().filter_map(used).collect();
        ids.into_iter().filter_map(|id| Some((id, self.get(id)?)))
    }
}

fn of_task(id: TaskId) -> (u32, u32) {
    (id.index, id.generation)
}

fn of_slot(id: Slot) -> (u32, u32) {
    (id.index, id.generation)
}

fn of_connection(id: ConnectionId) -> (u32, u32) {
    (id.index, id.generation)
}

/// A rule of the front door: for which uid, names and grants.
type Rule = (Option<u32>, Vec<(String, u64)>);

/// Everything.
#[derive(Debug)]
pub(super) struct Reference {
    quotas: Quotas,
    tasks: Places<Task>,
    grants: Vec<Grant>,
    grants_ever: u64,
    ways: Vec<Way>,
    endpoints: Vec<Endpoint>,
    regions: Vec<Region>,
    connections: Places<Connection>,
    escrow: Vec<Escrow>,
    revocations: Vec<Revocation>,
    /// An alarm has just rung, and need not be taken back.
    rung: bool,
    door: Option<Vec<Rule>>,
    numbered: u64,
    said: Vec<Effect>,
}

/// An answer now, or later, or an error.
type Reply = Result<Option<Answer>, KernelError>;

impl Reference {
    pub(super) fn new(quotas: Quotas) -> Self {
        let mut reference = Self {
            quotas,
            tasks: Places::default(),
            grants: Vec::new(),
            grants_ever: 0,
            ways: Vec::new(),
            endpoints: Vec::new(),
            regions: Vec::new(),
            connections: Places::default(),
            escrow: Vec::new(),
            revocations: Vec::new(),
            rung: false,
            door: None,
            numbered: 0,
            said: Vec::new(),
        };
        assert_eq!(reference.new_task("kernel", None), TaskId::KERNEL);
        reference
    }

    /// What `Machine::apply` must do.
    pub(super) fn apply(&mut self, input: Input) -> (Outcome, Vec<Effect>) {
        let mut outcome = Outcome::Done;
        match input {
            Input::First { name } => outcome = Outcome::Task(self.first(&name)),
            Input::Admit { name, credentials, own_uid } => {
                outcome = match self.admit(&name, credentials, own_uid) {
                    Ok(task) => Outcome::Task(task),
                    Err(error) => Outcome::Refused(error),
                }
            }
            Input::Hello { who, transaction, version, credentials } => {
                let answer = self.greet(who, Hello { version }, credentials);
                let attach = match answer {
                    Ok(_) => vec![Attach::StatusSegment(who), Attach::TaskPage(who)],
                    Err(_) => Vec::new(),
                };
                self.answer_with(who, transaction, answer, attach);
            }
            Input::Request { who, transaction, request } => {
                if who != TaskId::KERNEL {
                    match self.ask(who, transaction, request) {
                        Ok(None) => {}
                        Ok(Some(answer)) => self.answer(who, transaction, Ok(answer)),
                        Err(error) => self.answer(who, transaction, Err(error)),
                    }
                }
            }
            Input::Sealed { pair: Pair::Connection(id), side, result } => {
                self.sealed(id, side, result);
            }
            Input::GiveUp { pair: Pair::Connection(id), side, why } => {
                self.end(id, why, Some(side));
            }
            Input::Told { connection } => self.told(connection),
            Input::RegionLookedAt { who, transaction, region, result } => {
                self.region_looked_at(who, transaction, region, result);
            }
            Input::TakeBack { creator, capability } => _ = self.delete(creator, capability),
            Input::NeverMade { creator, capability, child } => {
                self.die(child);
                let _ = self.delete(creator, capability);
            }
            Input::Died { who } => self.die(who),
            Input::Expired { alarm } => self.expired(alarm),
            Input::Unheard { server, connection } => self.unheard(server, connection),
            Input::Step => {}
            other => panic!("{other} is not modelled"),
        }
        (outcome, core::mem::take(&mut self.said))
    }

    fn ask(&mut self, who: TaskId, transaction: u64, request: Request) -> Reply {
        if self.task(who).is_none() {
            return Ok(None);
        }
        if let Request::Cancel { transaction } = request {
            self.cancel(who, transaction);
            return Ok(None);
        }
        if !self.task(who).is_some_and(|task| task.runs) {
            return Err(KernelError::Order(String::new()));
        }
        if self.waits(who).contains(&transaction) {
            return Err(KernelError::Order(String::new()));
        }
        match request {
            Request::PageMapped => self.page_mapped(who),
            Request::CreateEndpoint => self.create_endpoint(who),
            Request::CreateNotification => self.create_notification(who),
            Request::CreateTask { name, give, .. } => {
                self.create_task(who, transaction, &name, &give)
            }
            Request::Mint { slot, rights, badge, limits } => {
                self.mint(who, slot, (rights, badge, limits))
            }
            Request::Move { slot } => self.relocate(who, slot),
            Request::Delete { slot } => self.delete(who, slot),
            Request::Revoke { slot } => self.revoke(who, transaction, slot),
            Request::Inspect { slot } => self.inspect(who, slot),
            Request::Offer { connection, items } => self.offer(who, connection, &items),
            Request::Accept { connection, ticket } => self.accept(who, connection, ticket),
            Request::Watch { slot } => self.watch(who, transaction, slot),
            Request::Serve { slot, interface } => self.serve(who, transaction, slot, interface),
            Request::StopReceiving { slot } => self.stop_receiving(who, slot),
            Request::Hold { slot, hold } => self.hold(who, slot, hold),
            Request::Connect { slot, interface, requests, replies, doorbell } => {
                let wanted = connections::Wanted { interface, requests, replies, doorbell };
                self.connect(who, transaction, slot, wanted)
            }
            Request::Mapped { connection, doorbell } => {
                self.mapped(who, transaction, connection, doorbell)
            }
            Request::Disconnect { connection, why } => self.disconnect(who, connection, why),
            Request::Kill { slot, signal } => self.kill(who, transaction, slot, signal),
            Request::List { slot, .. } => self.list(who, transaction, slot),
            Request::Held { slot, task, from } => self.look_at_space(who, slot, task, from),
            Request::Ends { slot, task, from } => self.look_at_ends(who, slot, task, from),
            Request::Provenance { slot, of } => self.provenance(who, slot, of),
            Request::Page { slot, task } => self.page(who, transaction, slot, task),
            Request::FrontDoor { slot, rules } => self.set_door(who, slot, &rules),
            Request::CreateRegion { bytes, kind } => {
                self.create_region(who, transaction, bytes, kind)
            }
            Request::RegionSealed { slot } => self.region_sealed(who, transaction, slot),
            Request::MapRegion { slot, write } => self.map_region(who, transaction, slot, write),
            other => panic!("{other:?} is not modelled"),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn object(&mut self) -> ObjectId {
        ObjectId(self.number())
    }

    fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(of_task(id))
    }

    fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(of_task(id))
    }

    fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(of_connection(id))
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(of_connection(id))
    }

    fn say(&mut self, to: TaskId, effect: Effect) {
        if self.task(to).is_some() {
            self.said.push(effect);
        }
    }

    fn answer(&mut self, to: TaskId, transaction: u64, result: Result<Answer, KernelError>) {
        self.answer_with(to, transaction, result, Vec::new());
    }

    fn answer_with(
        &mut self,
        to: TaskId,
        transaction: u64,
        result: Result<Answer, KernelError>,
        attach: Vec<Attach>,
    ) {
        let answer = result.unwrap_or_else(Answer::Error);
        self.say(to, Effect::Answer { to, transaction, answer, attach });
    }

    fn tell(&mut self, to: TaskId, event: Event, attach: Vec<Attach>) {
        self.say(to, Effect::Event { to, event, attach });
    }

    fn status(&mut self, task: TaskId, index: u32, word: u32) {
        self.say(task, Effect::Status { task, index, word });
    }

    /// The requests of a task that wait, by what makes them wait.
    fn waits(&self, who: TaskId) -> Vec<u64> {
        let parked = self.endpoints.iter().flat_map(|endpoint| &endpoint.parked);
        let parked = parked.filter(|it| it.client == who).map(|it| it.transaction);
        let ends = self.connections.iter().filter(|(_, it)| it.client.task == who);
        let revocations = self.revocations.iter().filter_map(|it| it.caller);
        let revocations = revocations.filter(|it| it.0 == who).map(|it| it.1);
        let parked = parked.chain(revocations);
        parked.chain(ends.filter_map(|(_, it)| it.phase.waiting(Side::Client))).collect()
    }
}

/// A quota, and whether so much fits.
fn fits(used: u64, more: u64, limit: impl Into<u64>, what: &str) -> Result<(), KernelError> {
    let limit = limit.into();
    if used + more <= limit {
        return Ok(());
    }
    Err(KernelError::Quota { what: what.into(), limit, used, holders: Vec::new() })
}

/// A value that is out of its bounds.
fn bad(value: impl Into<u64>) -> KernelError {
    KernelError::BadValue { what: String::new(), value: value.into(), allowed: String::new() }
}
