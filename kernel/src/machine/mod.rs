//! The kernel's logic, pure: *(state, who, request) → (state, effects)*.

#![allow(unused_variables, clippy::needless_pass_by_ref_mut)]

use crate::effect::{Effect, Side};
use crate::quota::Quotas;
use rendez_protocol::kernel::{Credentials, Hello, KernelError, Request};
use rendez_protocol::{ConnectionId, TaskId};

/// Everything that the kernel knows.
#[derive(Debug)]
pub struct Machine {
    quotas: Quotas,
}

impl Machine {
    /// A system without tasks, but for the kernel's own, [`TaskId::KERNEL`].
    #[must_use]
    pub fn new(quotas: Quotas) -> Self {
        Self { quotas }
    }

    /// Makes the first task: one that has not started and is given a capability named `kernel`, to
    /// the kernel's own task, with all rights. Emits [`Effect::MakeTask`].
    pub fn create_first(&mut self, name: &str, effects: &mut Vec<Effect>) -> TaskId {
        TaskId::KERNEL
    }

    /// Lets a process in that came through the front door. `own_uid`: it has the system's uid and
    /// is given what [`Request::FrontDoor`] said; anybody else gets nothing but a capability to
    /// itself. It must still say [`Hello`] ([`Machine::hello`]).
    ///
    /// # Errors
    /// [`KernelError::Quota`] if there are too many tasks, [`KernelError::BadValue`] for a name
    /// that is none.
    pub fn admit(
        &mut self,
        name: &str,
        credentials: Credentials,
        own_uid: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<TaskId, KernelError> {
        Ok(TaskId::KERNEL)
    }

    /// A task has announced itself, with these credentials of its process.
    ///
    /// Answers `Welcome`, or an error; after [`KernelError::Protocol`] the shell hangs up and calls
    /// [`Machine::died`].
    pub fn hello(
        &mut self,
        who: TaskId,
        transaction: u64,
        hello: Hello,
        credentials: Credentials,
        effects: &mut Vec<Effect>,
    ) {
    }

    /// A task asks for something.
    pub fn handle(
        &mut self,
        who: TaskId,
        transaction: u64,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
    }

    /// The outcome of [`Effect::Seal`]. An error ends the connection with `Protocol` for both ends.
    pub fn sealed(
        &mut self,
        connection: ConnectionId,
        side: Side,
        result: Result<(), KernelError>,
        effects: &mut Vec<Effect>,
    ) {
    }

    /// A task is dead: its pidfd or its socket said so, or the shell gave up on it. Idempotent.
    pub fn died(&mut self, who: TaskId, effects: &mut Vec<Effect>) {}

    /// Whether `who` is a task that has not died.
    #[must_use]
    pub fn is_alive(&self, who: TaskId) -> bool {
        false
    }

    /// A living task's name.
    #[must_use]
    pub fn name(&self, who: TaskId) -> Option<&str> {
        None
    }

    /// All living tasks but the kernel's own.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> + '_ {
        core::iter::empty()
    }

    /// The connection whose word in `task`'s status segment has index `status_index`, and the task
    /// at its other end (`None` in between means that nobody has that index now).
    #[must_use]
    pub fn connection_at(&self, task: TaskId, status_index: u32) -> Option<(ConnectionId, TaskId)> {
        None
    }

    /// Checks everything that must hold between two requests. For tests.
    ///
    /// # Panics
    /// If something does not hold.
    pub fn check(&self) {}
}
