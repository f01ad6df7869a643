//! A task's share: what it uses, what it draws on, and what it is told when that is not enough.
//!
//! A refusal names the quota, its value, how much is taken, and who holds most, as far as the asker
//! may know: itself, and tasks that it has created. How much others have who draw on the same is in
//! the sum and nowhere else; whoever holds INSPECT on the kernel's own task can see each.

use super::Machine;
use super::account::{Draws, Over, SHARED, most_first};
use super::task::Task;
use rendez_protocol::TaskId;
use rendez_protocol::kernel::KernelError;
use rendez_protocol::quota::{Allotment, Holding, Quota, Use};

/// How many of those who hold most are named.
const NAMED: usize = 3;

impl Task {
    /// How much of a quota the task itself uses.
    pub(super) fn used(&self, quota: Quota) -> u64 {
        match quota {
            Quota::Tasks => 1,
            Quota::Capabilities => self.capabilities.get(),
            Quota::Endpoints => self.endpoints.get().saturating_add(self.notifications.get()),
            Quota::Connections => self.client_connections.get(),
            Quota::Regions => self.regions.get(),
            Quota::Bytes => self.segment_bytes.get().saturating_add(self.region_bytes.get()),
            Quota::Served => self.server_connections.get(),
            Quota::Waiting => self.waits.len() as u64,
            Quota::Watches => self.watches.get(),
            Quota::Tickets => self.tickets.get(),
            Quota::Spares => self.spares.len() as u64,
        }
    }

    /// What it gives back when it ends: what it held. What it made may outlive it.
    pub(super) fn returned(&self) -> [u64; SHARED] {
        Quota::SHARED.map(|quota| match quota {
            Quota::Endpoints | Quota::Regions => 0,
            Quota::Bytes => self.segment_bytes.get(),
            other => self.used(other),
        })
    }
}

impl Machine {
    /// Whether `more` of what is shared out fits, for a task.
    pub(super) fn room(&self, who: TaskId, quota: Quota, more: u64) -> Result<(), KernelError> {
        let Some(task) = self.tasks.get(who) else { return Ok(()) };
        self.accounts
            .fits(&task.draws, quota, self.own_and_parts(task, quota), more)
            .map_err(|over| self.over(who, task, quota, over))
    }

    /// A task uses so much less. What a dead one held has been given back.
    pub(super) fn repay(&mut self, who: TaskId, quota: Quota, amount: u64) {
        let draws = self.tasks.get(who).map(|task| task.draws);
        if let Some(account) = draws.and_then(|draws| draws.get(quota as usize).copied()) {
            self.accounts.repay(account, quota, amount);
        }
    }

    /// Sets parts of what a task draws on aside for one that it creates.
    pub(super) fn set_aside(
        &mut self,
        who: TaskId,
        name: &str,
        parts: &[Allotment],
    ) -> Result<Draws, KernelError> {
        let Some(task) = self.tasks.get(who) else {
            return Err(KernelError::Order(format!("{who} is dead")));
        };
        for part in parts {
            // Its creator gets a capability to it.
            let own = u64::from(part.quota == Quota::Capabilities);
            // For the names of those who hold most; the account says the same and no more.
            self.room(who, part.quota, part.amount.saturating_add(own))?;
        }
        let draws = task.draws;
        self.accounts.set_aside(&draws, name, parts)
    }

    /// Every quota of a living task.
    pub(super) fn uses(&self, who: TaskId) -> Vec<Use> {
        let Some(task) = self.tasks.get(who) else { return Vec::new() };
        Quota::SHARED
            .into_iter()
            .chain(Quota::OF_EACH_TASK)
            .map(|it| self.use_of(task, it))
            .collect()
    }

    /// The quota of which a task has least left.
    pub(super) fn tightest(&self, task: &Task) -> Option<Use> {
        let all = Quota::SHARED.into_iter().chain(Quota::OF_EACH_TASK);
        // The first of those that are alike.
        all.map(|quota| self.use_of(task, quota)).rev().max_by_key(Use::permille)
    }

    fn use_of(&self, task: &Task, quota: Quota) -> Use {
        let ceiling = self.quotas.of_each_task(quota);
        let share = self.accounts.share(&task.draws, quota);
        let limit = share.as_ref().map_or(ceiling, |(_, most)| ceiling.min(*most));
        Use { quota, used: task.used(quota), limit, share: share.map(|(share, _)| share) }
    }

    /// What a task uses itself, and what it has set aside for those whom it created.
    fn own_and_parts(&self, task: &Task, quota: Quota) -> u64 {
        let Some(account) = task.draws.get(quota as usize) else { return task.used(quota) };
        let own = match quota {
            // Those that it has created, with a part or without.
            Quota::Tasks => task.children.len() as u64,
            other => task.used(other),
        };
        let children = task.children.iter().filter_map(|child| self.tasks.get(*child));
        children
            .filter_map(|child| self.accounts.part_of(&child.draws, quota, *account))
            .fold(own, u64::saturating_add)
    }

    fn over(&self, who: TaskId, task: &Task, quota: Quota, over: Over) -> KernelError {
        let Over { what, limit, used } = over;
        let account = task.draws.get(quota as usize).copied();
        let children = task.children.iter().filter_map(|id| {
            let child = self.tasks.get(*id)?;
            let part = self.accounts.part_of(&child.draws, quota, account?);
            let shares = child.draws.get(quota as usize).copied() == account;
            Some((*id, part.or_else(|| shares.then(|| child.used(quota)))?))
        });
        let all = core::iter::once((who, task.used(quota))).chain(children).collect();
        let holders = most_first(all, NAMED)
            .into_iter()
            .filter_map(|(id, amount)| {
                let name = self.tasks.get(id)?.name.to_string();
                Some(Holding { task: id, name, amount })
            })
            .collect();
        KernelError::Quota { what, limit, used, holders }
    }
}
