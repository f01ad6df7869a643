//! Tasks: how they come, and what remains when they go.
//!
//! A task starts as an *embryo*, made by another task and given its capabilities before it has a
//! process, or it is *admitted* through the front door. Its Hello makes it a task like any other;
//! before, all it can do is to die. What it made outlives it, what it held does not: capabilities
//! derived from its own pass to those that its own came from.

use super::account::Draws;
use super::endpoint::Wait;
use super::injection::Injections;
use super::space::Cell;
use super::spare::Spare;
use super::table::Table;
use super::tree::{NodeId, Object, Powers};
use super::words::Words;
use super::{Machine, Reply, label};
use crate::effect::Side;
use crate::effect::{Attach, Effect};
use crate::quota::Count;
use rendez_protocol::kernel::{
    Answer, Credentials, Give, Given, Hello, How, KernelError, ObjectKind,
};
use rendez_protocol::quota::{Allotment, Quota};
use rendez_protocol::version::PROTOCOL;
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, SpareId, TaskId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All rights that there are to a task.
pub(super) const TASK_RIGHTS: Rights = Rights::WATCH
    .union(Rights::INSPECT)
    .union(Rights::KILL)
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::INJECT);

/// All rights that there are to the kernel's own task.
pub(super) const KERNEL_RIGHTS: Rights = Rights::INSPECT
    .union(Rights::GRANT)
    .union(Rights::MINT)
    .union(Rights::WATCH)
    .union(Rights::KILL)
    .union(Rights::INJECT);

/// The largest number of a POSIX signal.
const SIGNAL_MAX: i32 = 64;

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Made, without a process that has announced itself.
    Embryo,
    /// Let in at the front door, and not yet greeted.
    Admitted,
    /// Greeted.
    Running,
}

/// What one client has at one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Connections.
    pub(super) connections: Count,
    /// Bytes of the server's segments.
    pub(super) reply_bytes: Count,
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: Arc<str>,
    /// On which accounts it draws.
    pub(super) draws: Draws,
    pub(super) object: ObjectId,
    pub(super) parent: Option<TaskId>,
    pub(super) credentials: Option<Credentials>,
    stage: Stage,
    page_mapped: bool,
    /// The capability to itself, which it is told of when it is greeted.
    own: Option<Slot>,
    given: Vec<(String, Slot)>,

    pub(super) space: Table<Slot, Cell>,
    /// Capabilities in its space and minted ones that it has in escrow.
    pub(super) capabilities: Count,
    pub(super) endpoints: Count,
    pub(super) notifications: Count,
    pub(super) tickets: Count,
    pub(super) watches: Count,
    pub(super) client_connections: Count,
    pub(super) server_connections: Count,
    pub(super) segment_bytes: Count,
    /// Segments that it has made in advance, and how many it ever did.
    pub(super) spares: BTreeMap<SpareId, Spare>,
    pub(super) spares_ever: u32,
    /// Regions that it made and that still exist, and their bytes.
    pub(super) regions: Count,
    pub(super) region_bytes: Count,
    /// What it has at each server that it is connected to.
    pub(super) shares: BTreeMap<TaskId, Share>,
    /// Living tasks that it created.
    pub(super) children: BTreeSet<TaskId>,

    /// Its requests that wait, by transaction.
    pub(super) waits: BTreeMap<u64, Wait>,
    /// Its ends of connections, by status index.
    pub(super) connections: BTreeMap<u32, (ConnectionId, Side)>,
    pub(super) words: Words,
    /// Connections that have ended without this task's asking, and their status words: a word is
    /// used again only when the task has said that it knows, by a `Disconnect`.
    pub(super) lingering: BTreeMap<(ConnectionId, Side), u32>,
    /// Capabilities with which this task is watched.
    pub(super) watchers: BTreeSet<NodeId>,
    /// Revocations that it has asked for and that are not done.
    pub(super) revocations: Count,
    /// Of `lingering`, those that were severed by revocations that wait for this task's word.
    pub(super) severed: BTreeMap<(ConnectionId, Side), u64>,
    /// How many connections of each such revocation it has not acknowledged.
    pub(super) acknowledges: BTreeMap<u64, u32>,
    /// Faults that somebody wants to see in its transactions.
    pub(super) injections: Injections,
}

impl Task {
    /// One more connection to `server`, at whose server end there are so many bytes.
    pub(super) fn connected(&mut self, server: TaskId, reply_bytes: u64) {
        let share = self.shares.entry(server).or_default();
        share.connections.add(1);
        share.reply_bytes.add(reply_bytes);
    }

    /// One connection to `server` less.
    pub(super) fn disconnected(&mut self, server: TaskId, reply_bytes: u64) {
        if let Some(share) = self.shares.get_mut(&server) {
            share.connections.sub(1);
            share.reply_bytes.sub(reply_bytes);
            if share.connections.is_zero() {
                self.shares.remove(&server);
            }
        }
    }

    /// Whether it has not begun yet.
    pub(super) fn is_embryo(&self) -> bool {
        self.stage == Stage::Embryo
    }

    /// Whether it has said Hello and may ask for something.
    pub(super) fn is_greeted(&self) -> bool {
        self.stage == Stage::Running
    }
}

impl Machine {
    /// Enters a task, which holds nothing and has not joined those who draw on its accounts.
    pub(super) fn insert_task(
        &mut self,
        name: &str,
        parent: Option<TaskId>,
        draws: Draws,
    ) -> TaskId {
        let object = ObjectId(self.number());
        self.tasks.insert(Task {
            name: name.into(),
            draws,
            object,
            parent,
            credentials: None,
            stage: Stage::Embryo,
            page_mapped: false,
            own: None,
            given: Vec::new(),
            space: Table::default(),
            capabilities: Count::default(),
            endpoints: Count::default(),
            notifications: Count::default(),
            tickets: Count::default(),
            watches: Count::default(),
            client_connections: Count::default(),
            server_connections: Count::default(),
            segment_bytes: Count::default(),
            spares: BTreeMap::new(),
            spares_ever: 0,
            regions: Count::default(),
            region_bytes: Count::default(),
            shares: BTreeMap::new(),
            children: BTreeSet::new(),
            waits: BTreeMap::new(),
            connections: BTreeMap::new(),
            words: Words::new(),
            lingering: BTreeMap::new(),
            watchers: BTreeSet::new(),
            revocations: Count::default(),
            severed: BTreeMap::new(),
            acknowledges: BTreeMap::new(),
            injections: Injections::default(),
        })
    }

    pub(super) fn first_task(&mut self, name: &str) -> TaskId {
        let draws = self.accounts.of_system();
        let id = self.insert_task(name, None, draws);
        self.accounts.join(&draws);
        self.give_own(id);
        if let Some(object) = self.task_object(TaskId::KERNEL)
            && let Ok(kernel) =
                self.place(id, None, object, Powers::first(KERNEL_RIGHTS), How::Created)
            && let Some(task) = self.tasks.get_mut(id)
        {
            task.given.push(("kernel".into(), kernel.slot));
        }
        self.effects.push(Effect::MakeTask(id));
        id
    }

    /// Makes a task that has not started.
    pub(super) fn create_task(
        &mut self,
        who: TaskId,
        transaction: u64,
        name: &str,
        give: &[Give],
        quotas: &[Allotment],
    ) -> Reply {
        label("the name of a task", name)?;
        let gifts = self.checked_gifts(who, give)?;
        self.ceiling_for(gifts.len())?;
        self.space_for(who, 1)?;
        let Some(creator) = self.tasks.get(who) else { return Ok(None) };
        let mut children = Count::default();
        children.add(creator.children.len() as u64);
        children.admits(1, self.quotas.children, "tasks created by a task")?;

        let draws = self.set_aside(who, name, quotas)?;
        if let Err(error) = self.begins(who, &draws, gifts.len()) {
            self.accounts.abandon(&draws);
            return Err(error);
        }
        let id = self.insert_task(name, Some(who), draws);
        self.accounts.join(&draws);
        let Some(object) = self.task_object(id) else { return Ok(None) };
        if let Some(creator) = self.tasks.get_mut(who) {
            creator.children.insert(id);
        }
        let capability = self.place(who, None, object, Powers::first(TASK_RIGHTS), How::Created)?;
        self.give_own(id);
        for gift in gifts {
            self.give(id, gift.name, gift.from, gift.powers);
        }
        self.effects.push(Effect::MakeTask(id));
        let answer = Answer::Task { capability, id };
        self.answer_with(who, transaction, answer, vec![Attach::TaskSocket(id)]);
        Ok(None)
    }

    pub(super) fn admit_task(
        &mut self,
        name: &str,
        credentials: Credentials,
        own_uid: bool,
    ) -> Result<TaskId, KernelError> {
        let rule = self.front_door.for_uid(credentials.uid, own_uid)?;
        let given = rule.map_or_else(Vec::new, |rule| rule.given.clone());
        let share = self.quotas.uid.with(rule.map_or(&[], |rule| &rule.quotas));
        self.ceiling_for(given.len())?;
        let draws = self.accounts.of_uid(credentials.uid, share)?;
        let all = (given.len() as u64).saturating_add(1);
        let fits = |quota, more| self.accounts.fits(&draws, quota, 0, more);
        if let Err(over) = fits(Quota::Tasks, 1).and_then(|()| fits(Quota::Capabilities, all)) {
            self.accounts.abandon(&draws);
            return Err(over.into());
        }
        let id = self.insert_task(&presentable(name), None, draws);
        self.accounts.join(&draws);
        if let Some(task) = self.tasks.get_mut(id) {
            task.stage = Stage::Admitted;
            task.credentials = Some(credentials);
        }
        self.give_own(id);
        for (name, from) in given {
            if let Some(powers) = self.tree.get(from).map(|node| node.powers)
                && !self.tree.is_doomed(from)
            {
                self.give(id, &name, from, powers);
            }
        }
        Ok(id)
    }

    /// Answers a Hello.
    pub(super) fn greet(
        &mut self,
        who: TaskId,
        hello: Hello,
        credentials: Credentials,
    ) -> Result<Answer, KernelError> {
        let Some(task) = self.tasks.get_mut(who).filter(|_| who != TaskId::KERNEL) else {
            return Err(KernelError::Order(format!("{who} is dead")));
        };
        if task.is_greeted() {
            return Err(KernelError::Order("a second Hello".into()));
        }
        if !PROTOCOL.serves(hello.version) {
            return Err(KernelError::Protocol { yours: hello.version, kernel: PROTOCOL });
        }
        task.stage = Stage::Running;
        task.credentials = Some(credentials);
        let given = core::mem::take(&mut task.given);
        let own = task.own.take();
        let received =
            |slot: Slot| self.capability(who, slot).ok().and_then(|(id, _)| self.received(id));
        let Some(own) = own.and_then(received) else {
            return Err(KernelError::Order("no capability to the task itself".into()));
        };
        // One that was revoked meanwhile is not there any more.
        let given = given
            .into_iter()
            .filter_map(|(name, slot)| Some(Given { name, capability: received(slot)? }))
            .collect();
        Ok(Answer::Welcome { task: who, version: PROTOCOL, own, given })
    }

    /// The task's page is ready.
    pub(super) fn page_mapped(&mut self, who: TaskId, transaction: u64) -> Reply {
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        if core::mem::replace(&mut task.page_mapped, true) {
            return Err(KernelError::Order("the task page was mapped before".into()));
        }
        self.effects.push(Effect::SealPage(who));
        self.answer(who, transaction, Ok(Answer::Done));
        Ok(None)
    }

    /// Has a signal sent. Needs KILL.
    pub(super) fn kill(&mut self, who: TaskId, transaction: u64, slot: Slot, signal: i32) -> Reply {
        let (_, node) = self.capability_to(who, slot, ObjectKind::Task, Rights::KILL)?;
        if !(1..=SIGNAL_MAX).contains(&signal) {
            return Err(KernelError::BadValue {
                what: if signal < 0 { "minus the signal's number" } else { "the signal's number" }
                    .into(),
                value: u64::from(signal.unsigned_abs()),
                allowed: format!("1 to {SIGNAL_MAX}"),
            });
        }
        let Object::Task { task, .. } = node.object else { return Err(KernelError::BadSlot(slot)) };
        self.signal(who, transaction, task, signal)
    }

    /// Has a signal sent to a task, as somebody may who has the right.
    pub(super) fn signal(
        &mut self,
        who: TaskId,
        transaction: u64,
        task: TaskId,
        signal: i32,
    ) -> Reply {
        if task == TaskId::KERNEL {
            return Err(KernelError::Denied("the kernel takes no signals from tasks".into()));
        }
        match self.tasks.get(task).map(|task| task.stage) {
            None => Err(KernelError::Order(format!("{task} is dead"))),
            Some(Stage::Embryo) => Err(KernelError::Order(format!("{task} has not started"))),
            Some(Stage::Admitted | Stage::Running) => {
                self.effects.push(Effect::Signal { to: who, transaction, task, signal });
                Ok(None)
            }
        }
    }

    /// Gives a task's page to be read. Needs INSPECT on the kernel's own task.
    pub(super) fn page(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        task: TaskId,
    ) -> Reply {
        self.kernel_capability(who, slot, Rights::INSPECT)?;
        match self.tasks.get(task).map(|task| task.page_mapped) {
            None => Err(KernelError::Order(format!("{task} is dead"))),
            Some(false) => Err(KernelError::Order(format!("{task} has no page yet"))),
            Some(true) => {
                let attach = vec![Attach::SealedPage(task)];
                self.answer_with(who, transaction, Answer::Page, attach);
                Ok(None)
            }
        }
    }

    /// The object that capabilities to a living task name.
    pub(super) fn task_object(&self, task: TaskId) -> Option<Object> {
        self.tasks.get(task).map(|of_task| Object::Task { task, id: of_task.object })
    }

    /// Whether one task may have so many given capabilities, and one to itself.
    fn ceiling_for(&self, given: usize) -> Result<(), KernelError> {
        let all = (given as u64).saturating_add(1);
        Count::default().admits(all, self.quotas.capabilities, "capabilities of a task")
    }

    /// Whether a task that draws on `draws` can be made, with so many capabilities and one to itself,
    /// while `creator` gets one to it.
    fn begins(&self, creator: TaskId, draws: &Draws, given: usize) -> Result<(), KernelError> {
        let all = (given as u64).saturating_add(1);
        let Some(task) = self.tasks.get(creator) else { return Ok(()) };
        // One more at the creator, which may be of the same account.
        let same = |quota: Quota| task.draws.get(quota as usize) == draws.get(quota as usize);
        let more = if same(Quota::Capabilities) { all.saturating_add(1) } else { all };
        for (quota, more) in [(Quota::Tasks, 1), (Quota::Capabilities, more)] {
            if same(quota) {
                self.room(creator, quota, more)?;
            } else {
                self.accounts.fits(draws, quota, 0, more)?;
            }
        }
        Ok(())
    }

    /// Gives a new task the capability to itself. It derives from none, so nobody can revoke it.
    fn give_own(&mut self, id: TaskId) {
        let Some(object) = self.task_object(id) else { return };
        let own = self.place(id, None, object, Powers::first(TASK_RIGHTS), How::Created).ok();
        if let Some(task) = self.tasks.get_mut(id) {
            task.own = own.map(|own| own.slot);
        }
    }

    fn give(&mut self, to: TaskId, name: &str, from: NodeId, powers: Powers) {
        let Some(object) = self.tree.get(from).map(|node| node.object) else { return };
        let given = self.place(to, Some(from), object, powers, How::Given);
        if let (Ok(given), Some(task)) = (given, self.tasks.get_mut(to)) {
            task.given.push((name.into(), given.slot));
        }
    }
}

/// A name for people, whatever a process calls itself.
fn presentable(name: &str) -> String {
    let mut presentable = String::new();
    for c in name.chars() {
        let c = if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        if presentable.len().saturating_add(c.len_utf8()) > limit::LABEL_BYTES_MAX {
            break;
        }
        presentable.push(c);
    }
    if presentable.is_empty() { "?".into() } else { presentable }
}
