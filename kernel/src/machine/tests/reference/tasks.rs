//! Tasks, until they die.

use super::grants::Holder;
use super::space::received;
use super::{Places, Reference, Reply, bad, fits, of_task};
use crate::effect::{Attach, Effect, Side};
use crate::machine::tree::{Object, Powers};
use rendez_protocol::kernel::{
    Answer, Credentials, DoorRule, Give, Given, Hello, How, KernelError, ObjectKind, TaskInfo,
};
use rendez_protocol::version::PROTOCOL;
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId};

/// All rights to a task; the kernel's own is one too.
fn all_rights() -> Rights {
    let looked_at = Rights::WATCH | Rights::INSPECT;
    let passed_on = Rights::MINT | Rights::GRANT;
    looked_at | passed_on | Rights::KILL | Rights::INJECT
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) object: ObjectId,
    pub(super) parent: Option<TaskId>,
    pub(super) credentials: Option<Credentials>,
    /// It has come in, by the front door or by greeting.
    pub(super) is_there: bool,
    /// It has greeted.
    pub(super) runs: bool,
    pub(super) paged: bool,
    own: Option<Slot>,
    given: Vec<(String, Slot)>,
    /// Which slots are taken. A grant lies in each, or it is reserved.
    pub(super) space: Places<()>,
    /// The next word of its status segment. In so short a life none is used twice.
    pub(super) next_word: u32,
    /// Connections that have ended and that it may still look at.
    pub(super) over: Vec<(ConnectionId, Side)>,
}

impl Reference {
    pub(super) fn new_task(&mut self, name: &str, parent: Option<TaskId>) -> TaskId {
        let object = self.object();
        let (index, generation) = self.tasks.put(Task {
            name: name.into(),
            object,
            parent,
            credentials: None,
            is_there: false,
            runs: false,
            paged: false,
            own: None,
            given: Vec::new(),
            space: Places::default(),
            next_word: 1,
            over: Vec::new(),
        });
        TaskId { index, generation }
    }

    fn object_of(&self, task: TaskId) -> Option<Object> {
        self.task(task).map(|it| Object::Task { task, id: it.object })
    }

    fn give_own(&mut self, id: TaskId) {
        let Some(object) = self.object_of(id) else { return };
        let own = self.place(id, None, object, Powers::first(all_rights()), How::Created).ok();
        if let Some(task) = self.task_mut(id) {
            task.own = own.map(|own| own.slot);
        }
    }

    fn give(&mut self, to: TaskId, name: &str, from: u64, powers: Powers) {
        let Some(object) = self.grant(from).map(|grant| grant.object) else { return };
        if let Ok(given) = self.place(to, Some(from), object, powers, How::Given)
            && let Some(task) = self.task_mut(to)
        {
            task.given.push((name.into(), given.slot));
        }
    }

    pub(super) fn first(&mut self, name: &str) -> TaskId {
        let id = self.new_task(name, None);
        self.give_own(id);
        let object = self.object_of(TaskId::KERNEL).unwrap();
        if let Ok(kernel) = self.place(id, None, object, Powers::first(all_rights()), How::Created)
        {
            self.task_mut(id).unwrap().given.push(("kernel".into(), kernel.slot));
        }
        self.said.push(Effect::MakeTask(id));
        id
    }

    fn task_for(&self, given: usize) -> Result<(), KernelError> {
        fits(0, given as u64 + 1, self.quotas.capabilities, "capabilities of a task")
    }

    fn gifts(&self, who: TaskId, give: &[Give]) -> Result<Vec<(String, u64, Powers)>, KernelError> {
        give.iter()
            .map(|it| {
                let wish = (it.rights, it.badge, it.limits);
                let (grant, powers) = self.passable(who, it.slot, wish)?;
                Ok((it.name.clone(), grant.number, powers))
            })
            .collect()
    }

    pub(super) fn create_task(
        &mut self,
        who: TaskId,
        transaction: u64,
        name: &str,
        give: &[Give],
    ) -> Reply {
        let gifts = self.gifts(who, give)?;
        self.task_for(gifts.len())?;
        self.space_for(who, 1)?;
        let children = self.tasks.iter().filter(|(_, it)| it.parent == Some(who)).count() as u64;
        fits(children, 1, self.quotas.children, "tasks created by a task")?;
        let id = self.new_task(name, Some(who));
        let object = self.object_of(id).unwrap();
        let capability =
            self.place(who, None, object, Powers::first(all_rights()), How::Created)?;
        self.give_own(id);
        for (name, from, powers) in gifts {
            self.give(id, &name, from, powers);
        }
        self.said.push(Effect::MakeTask(id));
        let answer = Ok(Answer::Task { capability, id });
        self.answer_with(who, transaction, answer, vec![Attach::TaskSocket(id)]);
        Ok(None)
    }

    pub(super) fn admit(
        &mut self,
        name: &str,
        credentials: Credentials,
        own_uid: bool,
    ) -> Result<TaskId, KernelError> {
        let given = match &self.door {
            None if own_uid => Vec::new(),
            None => return Err(KernelError::Denied(String::new())),
            Some(rules) => {
                let of = |uid: &Option<u32>| uid.is_none_or(|uid| uid == credentials.uid);
                let Some((_, given)) = rules.iter().find(|(uid, _)| of(uid)) else {
                    return Err(KernelError::Denied(String::new()));
                };
                given.clone()
            }
        };
        self.task_for(given.len())?;
        let id = self.new_task(name, None);
        let task = self.task_mut(id).unwrap();
        task.is_there = true;
        task.credentials = Some(credentials);
        self.give_own(id);
        for (name, from) in given {
            if let Some(powers) = self.grant(from).map(|grant| grant.powers) {
                self.give(id, &name, from, powers);
            }
        }
        Ok(id)
    }

    pub(super) fn greet(
        &mut self,
        who: TaskId,
        hello: Hello,
        credentials: Credentials,
    ) -> Result<Answer, KernelError> {
        let order = || KernelError::Order(String::new());
        if who == TaskId::KERNEL || self.task(who).is_none_or(|task| task.runs) {
            return Err(order());
        }
        if !PROTOCOL.serves(hello.version) {
            return Err(KernelError::Protocol { yours: hello.version, kernel: PROTOCOL });
        }
        let task = self.task_mut(who).unwrap();
        task.is_there = true;
        task.runs = true;
        task.credentials = Some(credentials);
        let (own, given) = (task.own.take(), core::mem::take(&mut task.given));
        let shown = |slot: Slot| {
            let grant = self.held(Holder::Slot(who, slot))?;
            Some(received(slot, grant.object, grant.powers))
        };
        let own = own.and_then(shown).ok_or_else(order)?;
        let given = given
            .into_iter()
            .filter_map(|(name, slot)| Some(Given { name, capability: shown(slot)? }))
            .collect();
        Ok(Answer::Welcome { task: who, version: PROTOCOL, own, given })
    }

    pub(super) fn page_mapped(&mut self, who: TaskId) -> Reply {
        let task = self.task_mut(who).unwrap();
        if core::mem::replace(&mut task.paged, true) {
            return Err(KernelError::Order(String::new()));
        }
        self.said.push(Effect::SealPage(who));
        Ok(Some(Answer::Done))
    }

    pub(super) fn kill(&mut self, who: TaskId, transaction: u64, slot: Slot, signal: i32) -> Reply {
        let grant = self.capability_to(who, slot, ObjectKind::Task, Rights::KILL)?;
        if !(1..=64).contains(&signal) {
            return Err(bad(signal.unsigned_abs()));
        }
        let Object::Task { task, .. } = grant.object else { return Ok(None) };
        if task == TaskId::KERNEL {
            return Err(KernelError::Denied(String::new()));
        }
        if !self.task(task).is_some_and(|it| it.is_there) {
            return Err(KernelError::Order(String::new()));
        }
        self.said.push(Effect::Signal { to: who, transaction, task, signal });
        Ok(None)
    }

    pub(super) fn list(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        self.kernels(who, slot, Rights::INSPECT)?;
        let id = |(index, generation)| TaskId { index, generation };
        let others = self.tasks.iter().filter(|(it, _)| *it != of_task(TaskId::KERNEL));
        let tasks = others
            .map(|(it, task)| TaskInfo {
                id: id(it),
                name: task.name.clone(),
                credentials: task.credentials,
                parent: task.parent,
                capabilities: self.capabilities(id(it)) as u32,
                client_connections: self.ends(id(it), Side::Client) as u32,
                server_connections: self.ends(id(it), Side::Server) as u32,
                tightest: None,
                waits: Vec::new(),
            })
            .collect();
        self.said.push(Effect::Tasks { to: who, transaction, tasks, next: None });
        Ok(None)
    }

    pub(super) fn page(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        task: TaskId,
    ) -> Reply {
        self.kernels(who, slot, Rights::INSPECT)?;
        if !self.task(task).is_some_and(|it| it.paged) {
            return Err(KernelError::Order(String::new()));
        }
        let attach = vec![Attach::SealedPage(task)];
        self.answer_with(who, transaction, Ok(Answer::Page), attach);
        Ok(None)
    }

    pub(super) fn set_door(&mut self, who: TaskId, slot: Slot, rules: &[DoorRule]) -> Reply {
        self.kernels(who, slot, Rights::GRANT)?;
        let mut checked = Vec::new();
        for rule in rules {
            checked.push((rule.uid, self.gifts(who, &rule.give)?));
        }
        let mut now = Vec::new();
        for (uid, gifts) in checked {
            let mut kept = Vec::new();
            for (name, from, powers) in gifts {
                let object = self.grant(from).unwrap().object;
                let number = self.enter(Some(from), object, powers, Holder::Door);
                self.came(number, TaskId::KERNEL, How::FrontDoor);
                kept.push((name, number));
            }
            now.push((uid, kept));
        }
        let before = self.door.replace(now);
        for (_, number) in before.into_iter().flatten().flat_map(|(_, given)| given) {
            self.remove(number);
        }
        Ok(Some(Answer::Done))
    }
}
