//! Faults that a test puts into a task's transactions: asking for them, and carrying out those that
//! others have asked for. `docs/guide/faults.md` shows how a test uses them.

use crate::error::Error;
use crate::link::Link;
use crate::task::{Task, default_deadline, out_of_turn};
use rendez_ipc_core::injection::Plan;
use rendez_protocol::injection::{Action, Injection, InjectionId, Pending, Phase};
use rendez_protocol::kernel::{Answer, Request};
use rendez_protocol::{Slot, TaskId};

impl Plan for Link {
    fn reached(&self, ever: u32, phase: Phase) -> Option<Action> {
        let is_news = self.injections().lock().is_news(ever);
        if is_news
            && let Ok((Answer::Injections(pending), _)) =
                self.ask(&Request::OwnInjections, default_deadline())
        {
            self.injections().lock().learn(ever, pending);
        }
        self.injections().lock().count(phase);
        loop {
            let Pending { id, injection } = self.injections().lock().due(phase)?;
            // Else it was taken back; or there is no kernel, and nobody who wants to see anything.
            if self.ask(&Request::Struck { id }, default_deadline()).is_ok() {
                return Some(injection.action);
            }
        }
    }
}

impl Task {
    /// Puts a fault into the transactions of the task that the capability in `task` names; it needs
    /// INJECT. Answers which, `None` if it was for now: then it has struck.
    ///
    /// Messages sent after this has returned are counted from the first.
    ///
    /// # Errors
    /// What the kernel says: INJECT is missing, the task is dead, too many are pending, or there is
    /// no such fault.
    pub fn inject(&self, task: Slot, injection: Injection) -> Result<Option<InjectionId>, Error> {
        self.ask_to_inject(task, None, injection)
    }

    /// As [`Task::inject`], into any task, by a capability to the kernel's own task with INJECT.
    ///
    /// # Errors
    /// As [`Task::inject`].
    pub fn inject_into(
        &self,
        kernel: Slot,
        task: TaskId,
        injection: Injection,
    ) -> Result<Option<InjectionId>, Error> {
        self.ask_to_inject(kernel, Some(task), injection)
    }

    fn ask_to_inject(
        &self,
        slot: Slot,
        task: Option<TaskId>,
        injection: Injection,
    ) -> Result<Option<InjectionId>, Error> {
        match self.ask(&Request::Inject { slot, task, injection })?.0 {
            Answer::Injected { id } => Ok(Some(id)),
            Answer::Done => Ok(None),
            other => Err(out_of_turn(&other)),
        }
    }

    /// The injections that a task has pending, by a capability to it with INJECT; or, `of` a certain
    /// task, by one to the kernel's own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn injections(&self, slot: Slot, of: Option<TaskId>) -> Result<Vec<Pending>, Error> {
        match self.ask(&Request::Injections { slot, task: of })?.0 {
            Answer::Injections(pending) => Ok(pending),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Takes an injection back. Done, it will not strike. As [`Task::injections`] otherwise.
    ///
    /// # Errors
    /// What the kernel says: that it has struck, for instance.
    pub fn cancel_injection(
        &self,
        slot: Slot,
        of: Option<TaskId>,
        id: InjectionId,
    ) -> Result<(), Error> {
        self.done(&Request::CancelInjection { slot, task: of, id })
    }
}
