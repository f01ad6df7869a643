//! Injections: faults that somebody who may wants to see in a task's transactions.
//!
//! The kernel is on no message's path: it keeps what is pending, marks the status words of the
//! task's connections while anything is, and says what it is to the task when that asks. Nothing is
//! sent unasked, so a task that never looks costs the kernel no more than what is pending.

use super::connection::End;
use super::{Machine, Reply};
use crate::effect::Side;
use crate::quota::Count;
use rendez_protocol::injection::{Action, INJECTIONS_MAX, Injection, InjectionId, Pending, Phase};
use rendez_protocol::kernel::{Answer, KernelError, ObjectKind};
use rendez_protocol::status::{ConnectionState, injected_word};
use rendez_protocol::{ConnectionId, Rights, Slot, TaskId};
use std::collections::BTreeMap;

/// SIGKILL and SIGSTOP, alike on all machines.
const KILL: i32 = 9;
const STOP: i32 = 19;

/// A task's injections.
#[derive(Debug, Default)]
pub(super) struct Injections {
    /// Those that have not struck.
    pub(super) pending: BTreeMap<InjectionId, Injection>,
    /// How many there ever were.
    pub(super) ever: u32,
}

impl Injections {
    /// What the status word of an open connection of the task holds.
    pub(super) fn open_word(&self) -> u32 {
        if self.pending.is_empty() {
            ConnectionState::Open as u32
        } else {
            injected_word(self.ever)
        }
    }

    fn listed(&self) -> Answer {
        let pending = |(id, injection): (&InjectionId, &Injection)| Pending {
            id: *id,
            injection: *injection,
        };
        Answer::Injections(self.pending.iter().map(pending).collect())
    }
}

impl Machine {
    /// Whose transactions are meant. Needs INJECT on that task, or on the kernel's own.
    fn injected_task(
        &self,
        who: TaskId,
        slot: Slot,
        task: Option<TaskId>,
    ) -> Result<TaskId, KernelError> {
        let meant = match task {
            Some(task) => {
                self.kernel_capability(who, slot, Rights::INJECT)?;
                task
            }
            None => {
                let (_, node) = self.capability_to(who, slot, ObjectKind::Task, Rights::INJECT)?;
                let super::tree::Object::Task { task, .. } = node.object else {
                    return Err(KernelError::BadSlot(slot));
                };
                task
            }
        };
        if meant == TaskId::KERNEL {
            return Err(KernelError::Denied(
                "the kernel has no transactions to put faults into; say which task is meant".into(),
            ));
        }
        if self.tasks.get(meant).is_none() {
            return Err(KernelError::Order(format!("{meant} is dead")));
        }
        Ok(meant)
    }

    /// Puts a fault into a task's transactions.
    pub(super) fn inject(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        task: Option<TaskId>,
        injection: Injection,
    ) -> Reply {
        let meant = self.injected_task(who, slot, task)?;
        injection.check().map_err(KernelError::Malformed)?;
        if injection.phase == Phase::Now {
            let signal = if injection.action == Action::Kill { KILL } else { STOP };
            return self.signal(who, transaction, meant, signal);
        }
        let Some(task) = self.tasks.get_mut(meant) else { return Ok(None) };
        let mut pending = Count::default();
        pending.add(task.injections.pending.len() as u64);
        pending.admits(1, INJECTIONS_MAX as u64, "pending injections of a task")?;
        task.injections.ever = task.injections.ever.saturating_add(1);
        let id = InjectionId(task.injections.ever);
        task.injections.pending.insert(id, injection);
        self.mark_injected(meant);
        Ok(Some(Answer::Injected { id }))
    }

    /// Which are pending.
    pub(super) fn injections(&mut self, who: TaskId, slot: Slot, task: Option<TaskId>) -> Reply {
        let meant = self.injected_task(who, slot, task)?;
        Ok(self.tasks.get(meant).map(|task| task.injections.listed()))
    }

    /// Takes one back.
    pub(super) fn cancel_injection(
        &mut self,
        who: TaskId,
        slot: Slot,
        task: Option<TaskId>,
        id: InjectionId,
    ) -> Reply {
        let meant = self.injected_task(who, slot, task)?;
        self.end_injection(meant, id)
    }

    /// Which are pending into the task that asks.
    pub(super) fn own_injections(&self, who: TaskId) -> Reply {
        Ok(self.tasks.get(who).map(|task| task.injections.listed()))
    }

    /// One is about to strike, or is taken back: it is pending no more.
    pub(super) fn end_injection(&mut self, who: TaskId, id: InjectionId) -> Reply {
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        if task.injections.pending.remove(&id).is_none() {
            return Err(KernelError::BadInjection(id));
        }
        if task.injections.pending.is_empty() {
            self.mark_injected(who);
        }
        Ok(Some(Answer::Done))
    }

    /// Sets the words of all ends of a task to what they hold while their connection is open.
    fn mark_injected(&mut self, who: TaskId) {
        let Some(task) = self.tasks.get(who) else { return };
        let word = task.injections.open_word();
        let ends: Vec<_> = task.connections.iter().map(|(index, end)| (*index, *end)).collect();
        for (index, (connection, side)) in ends {
            // A server is told of a connection with the word already set.
            let known = self.connections.get(connection).is_some_and(|it| it.knows(side));
            if known && self.carries_messages(connection) {
                self.set_status(who, index, word);
            }
        }
    }

    /// Sets the word of an end whose task is about to be told of its connection.
    pub(super) fn open_word(&mut self, id: ConnectionId, side: Side) {
        let Some(End { task, index, reused, .. }) =
            self.connections.get(id).map(|connection| *connection.end(side))
        else {
            return;
        };
        let messages = self.carries_messages(id);
        let word = match self.tasks.get(task) {
            Some(task) if messages => task.injections.open_word(),
            _ => ConnectionState::Open as u32,
        };
        if reused || word != ConnectionState::Open as u32 {
            self.set_status(task, index, word);
        }
    }

    /// Whether a connection carries messages: those to a notification carry bits, and no transaction
    /// ever reaches a phase there.
    pub(super) fn carries_messages(&self, id: ConnectionId) -> bool {
        let node = self.connections.get(id).and_then(|it| self.tree.get(it.client.node));
        node.is_some_and(|node| node.object.kind() == ObjectKind::Endpoint)
    }

    /// For tests: what the word of an end holds.
    #[cfg(test)]
    pub(super) fn word_of(&self, connection: ConnectionId, side: Side) -> u32 {
        let end = self.connections.get(connection).map(|it| it.end(side).task);
        end.and_then(|task| self.tasks.get(task)).map_or(0, |task| task.injections.open_word())
    }
}
