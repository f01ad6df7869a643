//! The kernel's logic, pure: *(state, who, request) → (state, effects)*.
//!
//! Nothing here does I/O, reads a clock, waits or draws lots. A [`Machine`] is told what tasks ask
//! and what became of earlier effects, and says, as a list of [`Effect`]s, what must happen now and
//! in which order. So every rule can be tested without a process, and a run can be repeated from
//! the list of its inputs ([`Input`](crate::input::Input)).
//!
//! # What there is
//!
//! | file | object |
//! |---|---|
//! | `account`, `share` | quotas: what tasks draw on, set aside and use |
//! | `task`, `death` | tasks: made, admitted, greeted, dead |
//! | `space` | capability spaces: mint, move, delete, inspect, where one came from |
//! | `revoke` | revocation, in portions and acknowledged |
//! | `tree` | the derivation tree, in which all capabilities hang |
//! | `endpoint` | endpoints: their one receiver, and the connects that wait for it |
//! | `connection`, `handshake` | connections: made in steps, ended in one |
//! | `notification` | notifications: connections that carry bits, and wait for a receiver |
//! | `arena` | memory for leases: attached in steps, detached in one |
//! | `region` | memory as a capability |
//! | `spare` | segments that are ready before anybody connects |
//! | `words` | the words of a task's status segment |
//! | `ticket` | capabilities in escrow, on their way over a connection |
//! | `inspect` | looking at tasks: the list of all, and what one has |
//! | `watch` | who is told of whose death |
//! | `graph` | who waits, who holds what, who serves what: a page at a time |
//! | `front_door` | what those are given who were not started by anybody here |
//! | `work` | what is done in portions, between two requests of others |
//! | `table` | ids with generations |
//! | `check` | everything that must hold between two requests |
//!
//! # Who holds what
//!
//! A *node* of the tree is owned by exactly one place, its *holder*: a slot, a ticket, the front
//! door, a connect that waits, or an end of a connection. The first three are capabilities; they
//! are counted at their object, so that an endpoint knows whether anybody can still receive from it
//! or send to it, and is gone when nobody can name it. The other two are what was made with a
//! capability, and hang below it so that a revocation finds them.
//!
//! A task is found by its id alone. When it dies it leaves the table first; whatever then speaks of
//! it finds nobody, and nothing is ever answered to the dead.
//!
//! # A connection, step by step
//!
//! | phase | it waits for | next |
//! |---|---|---|
//! | `ClientMaps` | the client's `Mapped` | the shell looks whether its segment is sealed |
//! | `ClientSeals` | the shell | the server is told: `Incoming` |
//! | `ServerMaps` | the server's `Mapped` | the shell looks whether its segment is sealed |
//! | `ServerSeals` | the shell | the server hears `Done`, the client `Connected` |
//! | `Open` | | |
//!
//! An end that has a spare skips its two phases (`spare`). When the server's are skipped, the
//! connection is for a moment in the phase `Telling`, until the shell has told the server.
//!
//! The server knows nothing of a connection before `Incoming`, and cannot name it. Whatever ends a
//! connection, at whatever phase, ends it completely: status words first, then those who wait for
//! it are answered, then whoever knew of it and did not ask for its end is told. Its tickets die
//! with it: what was minted for them is gone, what was moved is back in its slot. So do its arenas.
//!
//! # Bounds
//!
//! A request costs a time bounded by quotas and limits: most cost a look-up, which while anything is
//! being revoked is a walk up a chain of bounded length. What a task can make large, one capability's
//! descendants or its own space, is gone through in portions (`work`). Nothing recurses on a
//! structure whose depth a task can choose. Nothing that a task says is used as an index, and no
//! arithmetic on it can overflow; the lints below see to that.

#![warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod account;
mod arena;
mod check;
mod connection;
mod death;
mod endpoint;
mod front_door;
mod graph;
mod handshake;
mod hold;
mod injection;
mod inspect;
mod notification;
mod region;
mod revoke;
mod share;
mod space;
mod spare;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod ticket;
mod tree;
mod watch;
mod words;
mod work;

use crate::effect::{Alarm, Attach, Effect, Pair, Side};
use crate::quota::Quotas;
use account::Accounts;
use connection::{Connection, Wanted};
use death::Remains;
use endpoint::Endpoint;
use front_door::FrontDoor;
use region::Region;
use rendez_protocol::kernel::{Answer, Credentials, Event, Hello, KernelError, Request};
use rendez_protocol::{ConnectionId, ObjectId, Slot, SpareId, TaskId, Ticket, Why, limit};
use revoke::Revocation;
use std::collections::{BTreeMap, BTreeSet};
use table::Table;
use task::Task;
use ticket::Escrow;
use tree::{NodeId, Tree, Wish};
use work::{PORTION, Works};

/// Everything that the kernel knows.
#[derive(Debug)]
pub struct Machine {
    quotas: Quotas,
    accounts: Accounts,
    tasks: Table<TaskId, Task>,
    endpoints: BTreeMap<ObjectId, Endpoint>,
    regions: BTreeMap<ObjectId, Region>,
    tree: Tree,
    connections: Table<ConnectionId, Connection>,
    escrow: BTreeMap<Ticket, Escrow>,
    /// What was put off, by whose doing it is.
    works: Works,
    /// Nodes that are handled at most between two requests.
    portion: usize,
    revocations: BTreeMap<u64, Revocation>,
    /// The same, by what they revoke from.
    revoking: BTreeSet<(NodeId, u64)>,
    /// What is left of dead tasks.
    remains: BTreeMap<TaskId, Remains>,
    front_door: FrontDoor,
    /// Objects, tickets and connects that waited, so far: identities that are never used again.
    numbered: u64,
    /// What the request under way has caused.
    effects: Vec<Effect>,
}

/// What a request comes to: an answer now, or `None` if it has been given or will be.
type Reply = Result<Option<Answer>, KernelError>;

impl Machine {
    /// A system without tasks, but for the kernel's own, [`TaskId::KERNEL`].
    #[must_use]
    pub fn new(quotas: Quotas) -> Self {
        let mut machine = Self {
            accounts: Accounts::new(quotas.system.limits()),
            quotas,
            tasks: Table::default(),
            endpoints: BTreeMap::new(),
            regions: BTreeMap::new(),
            tree: Tree::default(),
            connections: Table::default(),
            escrow: BTreeMap::new(),
            works: Works::default(),
            portion: PORTION,
            revocations: BTreeMap::new(),
            revoking: BTreeSet::new(),
            remains: BTreeMap::new(),
            front_door: FrontDoor::default(),
            numbered: 0,
            effects: Vec::new(),
        };
        let draws = machine.accounts.of_system();
        let own = machine.insert_task("kernel", None, draws);
        debug_assert_eq!(own, TaskId::KERNEL);
        machine
    }

    /// Makes the first task: one that has not started and is given a capability named `kernel`, to
    /// the kernel's own task, with all rights that there are to it. Emits [`Effect::MakeTask`].
    pub(crate) fn create_first(&mut self, name: &str, effects: &mut Vec<Effect>) -> TaskId {
        let id = self.first_task(name);
        effects.append(&mut self.effects);
        id
    }

    /// Lets a process in that came through the front door, if a rule of [`Request::FrontDoor`] is
    /// for its uid, and gives it what that says. Before there are rules, a process of the kernel's
    /// own uid (`own_uid`) is let in and given nothing. It must still say [`Hello`]
    /// ([`Machine::hello`]).
    ///
    /// `name` is for people, and may be what the process says of itself: what does not belong into
    /// a name is replaced.
    ///
    /// # Errors
    /// [`KernelError::Denied`] if there is no rule for its uid, [`KernelError::Quota`] if there are
    /// too many tasks.
    pub(crate) fn admit(
        &mut self,
        name: &str,
        credentials: Credentials,
        own_uid: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<TaskId, KernelError> {
        let admitted = self.admit_task(name, credentials, own_uid);
        effects.append(&mut self.effects);
        admitted
    }

    /// A task has announced itself, with these credentials of its process.
    ///
    /// Answers `Welcome`, or an error; after [`KernelError::Protocol`] the shell hangs up and calls
    /// [`Machine::died`].
    pub(crate) fn hello(
        &mut self,
        who: TaskId,
        transaction: u64,
        hello: Hello,
        credentials: Credentials,
        effects: &mut Vec<Effect>,
    ) {
        let attach = vec![Attach::StatusSegment(who), Attach::TaskPage(who)];
        match self.greet(who, hello, credentials) {
            Ok(welcome) => self.answer_with(who, transaction, welcome, attach),
            Err(error) => self.answer(who, transaction, Err(error)),
        }
        effects.append(&mut self.effects);
    }

    /// A task asks for something. It gets one answer, now or, while it lives, later; a `Cancel`
    /// gets none.
    pub(crate) fn handle(
        &mut self,
        who: TaskId,
        transaction: u64,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
        if who != TaskId::KERNEL {
            match self.dispatch(who, transaction, request) {
                Ok(None) => {}
                Ok(Some(answer)) => self.answer(who, transaction, Ok(answer)),
                Err(error) => self.answer(who, transaction, Err(error)),
            }
        }
        effects.append(&mut self.effects);
    }

    /// The outcome of [`Effect::Seal`]. An error ends what was to be made: the connection, with
    /// `Protocol` for both ends, or the arenas.
    pub(crate) fn sealed(
        &mut self,
        pair: Pair,
        side: Side,
        result: Result<(), KernelError>,
        effects: &mut Vec<Effect>,
    ) {
        match pair {
            Pair::Connection(connection) => self.seal_done(connection, side, result),
            Pair::Arena(connection, arena) => self.arena_sealed(connection, arena, side, result),
        }
        effects.append(&mut self.effects);
    }

    /// A connection, or a pair of arenas, cannot be made for lack of something at `side`, which has
    /// not been told of it or is told otherwise. The other end is told `why`. Idempotent.
    pub(crate) fn give_up(&mut self, pair: Pair, side: Side, why: Why, effects: &mut Vec<Effect>) {
        match pair {
            Pair::Connection(connection) => self.end(connection, why, Some(side)),
            Pair::Arena(connection, arena) => self.end_arena(connection, arena, why, side),
        }
        effects.append(&mut self.effects);
    }

    /// The outcome of [`Effect::CheckSpare`]. An error ends the spare.
    pub(crate) fn spare_looked_at(
        &mut self,
        task: TaskId,
        spare: SpareId,
        result: Result<(), KernelError>,
        effects: &mut Vec<Effect>,
    ) {
        self.spare_seen(task, spare, result);
        effects.append(&mut self.effects);
    }

    /// A spare could not be made, and its owner was not told of it. Idempotent.
    pub(crate) fn spare_failed(&mut self, task: TaskId, spare: SpareId, effects: &mut Vec<Effect>) {
        self.forget_spare(task, spare);
        effects.append(&mut self.effects);
    }

    /// [`Effect::Told`]: the server of a connection has been told of it.
    pub(crate) fn told(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        self.server_told(connection);
        effects.append(&mut self.effects);
    }

    /// The outcome of [`Effect::CheckRegion`].
    pub(crate) fn region_looked_at(
        &mut self,
        who: TaskId,
        transaction: u64,
        region: ObjectId,
        result: Result<(), KernelError>,
        effects: &mut Vec<Effect>,
    ) {
        self.region_seen(who, transaction, region, result);
        effects.append(&mut self.effects);
    }

    /// What `capability` names could not be made after all, and `creator` was not told of it: it
    /// vanishes. Idempotent.
    pub(crate) fn take_back(
        &mut self,
        creator: TaskId,
        capability: Slot,
        effects: &mut Vec<Effect>,
    ) {
        // It is there unless the creator is dead.
        let _ = self.delete(creator, capability);
        effects.append(&mut self.effects);
    }

    /// The task `child` could not be made after all, and its creator was not told of `capability`:
    /// both vanish. Idempotent.
    pub(crate) fn never_made(
        &mut self,
        creator: TaskId,
        capability: Slot,
        child: TaskId,
        effects: &mut Vec<Effect>,
    ) {
        if child != TaskId::KERNEL {
            self.bury(child);
        }
        // It is there unless the creator is dead too.
        let _ = self.delete(creator, capability);
        effects.append(&mut self.effects);
    }

    /// The server of a connection that has ended was never told of it, neither of its beginning nor
    /// of its end: its status word is looked at by nobody.
    pub(crate) fn unheard(
        &mut self,
        server: TaskId,
        connection: ConnectionId,
        effects: &mut Vec<Effect>,
    ) {
        self.never_heard(server, connection);
        effects.append(&mut self.effects);
    }

    /// A task is dead: its pidfd or its socket said so, or the shell gave up on it. Idempotent.
    pub(crate) fn died(&mut self, who: TaskId, effects: &mut Vec<Effect>) {
        if who != TaskId::KERNEL {
            self.bury(who);
        }
        effects.append(&mut self.effects);
    }

    /// The time of an alarm has come that [`Effect::After`] asked for.
    pub(crate) fn expired(&mut self, alarm: Alarm, effects: &mut Vec<Effect>) {
        match alarm {
            Alarm::Grace(revocation) => self.grace_over(revocation),
            Alarm::Hold(endpoint) => self.hold_expired(endpoint),
        }
        effects.append(&mut self.effects);
    }

    /// Does one portion of what was put off: at most `work::PORTION` nodes. Nothing if
    /// nothing was.
    pub(crate) fn step(&mut self, effects: &mut Vec<Effect>) {
        self.work();
        effects.append(&mut self.effects);
    }

    /// Whether something was put off: then the shell says [`Input::Step`](crate::input::Input::Step)
    /// between two requests, and does not wait for another.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        !self.works.is_empty()
    }

    /// Whether `who` is a task that has not died. The kernel's own always lives.
    #[must_use]
    pub fn is_alive(&self, who: TaskId) -> bool {
        self.tasks.contains(who)
    }

    /// A living task's name.
    #[must_use]
    pub fn name(&self, who: TaskId) -> Option<&str> {
        self.tasks.get(who).map(|task| task.name.as_ref())
    }

    /// All living tasks but the kernel's own.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.iter().map(|(id, _)| id).filter(|id| *id != TaskId::KERNEL)
    }

    fn dispatch(&mut self, who: TaskId, transaction: u64, request: Request) -> Reply {
        let Some(task) = self.tasks.get(who) else { return Ok(None) };
        if let Request::Cancel { transaction } = request {
            self.cancel(who, transaction);
            return Ok(None);
        }
        if !task.is_greeted() {
            return Err(KernelError::Order("the first frame must be a Hello".into()));
        }
        if task.waits.contains_key(&transaction) {
            let text = format!("transaction {transaction} has not been answered yet");
            return Err(KernelError::Order(text));
        }
        match request {
            Request::PageMapped => self.page_mapped(who, transaction),
            Request::CreateEndpoint => self.create_endpoint(who),
            Request::CreateNotification => self.create_notification(who),
            Request::CreateTask { name, give, quotas } => {
                self.create_task(who, transaction, &name, &give, &quotas)
            }
            Request::Mint { slot, rights, badge, limits } => {
                self.mint(who, slot, Wish { rights, badge, limits })
            }
            Request::Move { slot } => self.relocate(who, slot),
            Request::Delete { slot } => self.delete(who, slot),
            Request::Revoke { slot } => self.revoke(who, transaction, slot),
            Request::Inspect { slot } => self.inspect(who, slot),
            Request::Provenance { slot, of } => self.provenance(who, slot, of),
            Request::Offer { connection, items } => self.offer(who, connection, &items),
            Request::Accept { connection, ticket } => self.accept(who, connection, ticket),
            Request::Watch { slot } => self.watch(who, transaction, slot),
            Request::Serve { slot, interface } => self.serve(who, transaction, slot, interface),
            Request::Hold { slot, hold } => self.hold(who, slot, hold),
            Request::StopReceiving { slot } => self.stop_receiving(who, slot),
            Request::Connect { slot, interface, requests, replies, doorbell } => {
                let wanted = Wanted { interface, requests, replies, doorbell };
                self.connect(who, transaction, slot, wanted)
            }
            Request::Mapped { connection, doorbell } => {
                self.mapped(who, transaction, connection, doorbell)
            }
            Request::Disconnect { connection, why } => self.disconnect(who, connection, why),
            Request::Cancel { .. } => Ok(None),
            Request::Kill { slot, signal } => self.kill(who, transaction, slot, signal),
            Request::List { slot, from } => self.list(who, transaction, slot, from),
            Request::Quotas { slot, task } => self.quotas_of(who, slot, task),
            Request::Held { slot, task, from } => self.held(who, slot, task, from),
            Request::Ends { slot, task, from } => self.ends_of(who, slot, task, from),
            Request::Inject { slot, task, injection } => {
                self.inject(who, transaction, slot, task, injection)
            }
            Request::Injections { slot, task } => self.injections(who, slot, task),
            Request::CancelInjection { slot, task, id } => {
                self.cancel_injection(who, slot, task, id)
            }
            Request::OwnInjections => self.own_injections(who),
            Request::Struck { id } => self.end_injection(who, id),
            Request::Page { slot, task } => self.page(who, transaction, slot, task),
            Request::LookForCircle { connection, transaction: wait } => {
                self.look_for_circle(who, transaction, connection, wait)
            }
            Request::Waits { slot, after } => self.waits(who, transaction, slot, after),
            Request::Capabilities { slot, after } => self.capabilities(who, slot, after),
            Request::Endpoints { slot, after } => self.list_endpoints(who, slot, after),
            Request::FrontDoor { slot, rules } => self.set_front_door(who, slot, &rules),
            Request::Attach { connection, requests, replies } => {
                self.attach(who, transaction, connection, requests, replies)
            }
            Request::ArenaMapped { connection, arena } => {
                self.arena_mapped(who, transaction, connection, arena)
            }
            Request::Spare { shape } => self.make_spare(who, transaction, shape),
            Request::SpareMapped { spare, doorbell } => {
                self.spare_mapped(who, transaction, spare, doorbell)
            }
            Request::DropSpare { spare } => self.drop_spare(who, spare),
            Request::CreateRegion { bytes, kind } => {
                self.create_region(who, transaction, bytes, kind)
            }
            Request::RegionSealed { slot } => self.region_sealed(who, transaction, slot),
            Request::MapRegion { slot, write } => self.map_region(who, transaction, slot, write),
            Request::Detach { connection, arena } => self.detach(who, connection, arena),
        }
    }

    /// A number that was never used before.
    fn number(&mut self) -> u64 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    fn answer(&mut self, to: TaskId, transaction: u64, result: Result<Answer, KernelError>) {
        self.answer_with(to, transaction, result.unwrap_or_else(Answer::Error), Vec::new());
    }

    fn answer_with(&mut self, to: TaskId, transaction: u64, answer: Answer, attach: Vec<Attach>) {
        if self.tasks.contains(to) {
            self.effects.push(Effect::Answer { to, transaction, answer, attach });
        }
    }

    fn tell(&mut self, to: TaskId, event: Event, attach: Vec<Attach>) {
        if self.tasks.contains(to) {
            self.effects.push(Effect::Event { to, event, attach });
        }
    }

    fn set_status(&mut self, task: TaskId, index: u32, word: u32) {
        if self.tasks.contains(task) {
            self.effects.push(Effect::Status { task, index, word });
        }
    }
}

/// Whether `text` can be the name of something.
fn label(what: &str, text: &str) -> Result<(), KernelError> {
    if (1..=limit::LABEL_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(KernelError::BadValue {
        what: format!("the length of {what}, in bytes,"),
        value: text.len() as u64,
        allowed: format!("1 to {}, without control characters", limit::LABEL_BYTES_MAX),
    })
}

/// Whether a list of `length` elements is within `most`.
fn bounded(what: &str, length: usize, least: usize, most: usize) -> Result<(), KernelError> {
    if (least..=most).contains(&length) {
        return Ok(());
    }
    Err(KernelError::BadValue {
        what: what.into(),
        value: length as u64,
        allowed: format!("{least} to {most}"),
    })
}
