//! Accounts: what several tasks draw on together, and what is set aside from it for others.
//!
//! What a single task may have at most is in [`Quotas`](crate::quota::Quotas); what *all* may have is
//! divided here, as a tree. At its top is the system's account. A part of an account can be set
//! aside for a task that somebody creates (a donation), and is for each uid that comes through the
//! front door: it is subtracted from what is free there, so nobody else can use it up, and returns
//! when the last task that draws on it has ended. Whoever is created without a part of its own draws
//! on what its creator draws on, quota by quota.
//!
//! Invariants, which [`Accounts::check`] looks at:
//! 1. In each account, what is used and what is set aside are together at most its limit.
//! 2. What is set aside in an account is the sum of the limits of those it was set aside for.
//! 3. An account on which no task draws has nothing free: it is kept while something that a task made
//!    outlives it, and its limit is just that.
//!
//! A chain of accounts has at most [`DEPTH_MAX`] links, so that what an end gives back passes a bounded
//! number of them.

use super::table::{Id, Table};
use rendez_protocol::TaskId;
use rendez_protocol::kernel::KernelError;
use rendez_protocol::quota::{Allotment, Quota, Share};
use std::collections::BTreeMap;

/// The most links from the system's account to any other.
const DEPTH_MAX: u8 = 16;

/// One task of a uid has at most the share divided by this, or [`SMALL`] if the share is small.
const OF_ONE_TASK: u64 = 4;

/// What one task of a uid may have however small that uid's share is, as far as it goes.
const SMALL: [u64; SHARED] = [16, 256, 64, 64, 16, 64 << 20];

/// Quotas that are shared out.
pub(super) const SHARED: usize = Quota::SHARED.len();

/// An account, while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AccountId {
    index: u32,
    generation: u32,
}

impl Id for AccountId {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }
    fn index(self) -> u32 {
        self.index
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

/// On which account a task draws, for each quota that is shared out.
pub(super) type Draws = [AccountId; SHARED];

/// Whose an account is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    System,
    Uid(u32),
    Task(String),
}

/// What an account has of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    limit: u64,
    used: u64,
    /// Set aside for others.
    aside: u64,
    /// From which account it was set aside.
    from: Option<AccountId>,
}

impl Line {
    fn taken(&self) -> u64 {
        self.used.saturating_add(self.aside)
    }

    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.taken())
    }
}

#[derive(Debug)]
struct Account {
    whose: Whose,
    depth: u8,
    /// What it has; of the rest, those draw elsewhere who draw on this.
    lines: [Option<Line>; SHARED],
    /// Tasks that draw on it.
    tasks: u32,
}

/// Why something does not fit into an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) what: String,
    pub(super) limit: u64,
    pub(super) used: u64,
}

impl From<Over> for KernelError {
    fn from(over: Over) -> Self {
        let Over { what, limit, used } = over;
        Self::Quota { what, limit, used, holders: Vec::new() }
    }
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Accounts {
    all: Table<AccountId, Account>,
    system: AccountId,
    uids: BTreeMap<u32, AccountId>,
}

impl Accounts {
    /// The system's, with these limits.
    pub(super) fn new(limits: [u64; SHARED]) -> Self {
        let mut all = Table::default();
        let line = |limit| Some(Line { limit, used: 0, aside: 0, from: None });
        let lines = limits.map(line);
        let system = all.insert(Account { whose: Whose::System, depth: 0, lines, tasks: 0 });
        Self { all, system, uids: BTreeMap::new() }
    }

    /// What draws on the system's account alone.
    pub(super) fn of_system(&self) -> Draws {
        [self.system; SHARED]
    }

    /// Sets a part of what `draws` draws on aside for a task. Quotas that are not named are drawn on
    /// as before.
    pub(super) fn set_aside(
        &mut self,
        draws: &Draws,
        name: &str,
        parts: &[Allotment],
    ) -> Result<Draws, KernelError> {
        if parts.is_empty() {
            return Ok(*draws);
        }
        let mut limits = [None; SHARED];
        for part in parts {
            let Some(limit) = limits.get_mut(part.quota as usize) else {
                return Err(KernelError::Order(format!(
                    "{} are not shared out: each task has so many",
                    part.quota.name()
                )));
            };
            if limit.replace(part.amount).is_some() {
                let text = format!("{} are set aside twice", part.quota.name());
                return Err(KernelError::Order(text));
            }
        }
        let depth = draws.iter().filter_map(|id| self.all.get(*id)).map(|of| of.depth).max();
        let depth = depth.unwrap_or(0).saturating_add(1);
        if depth > DEPTH_MAX {
            let what = "how often a part of a part is set aside".into();
            let (limit, used) = (DEPTH_MAX.into(), DEPTH_MAX.into());
            return Err(Over { what, limit, used }.into());
        }
        for (quota, limit) in Quota::SHARED.into_iter().zip(limits) {
            if let Some(limit) = limit {
                self.fits(draws, quota, 0, limit)?;
            }
        }
        let mut lines = [None; SHARED];
        for ((line, limit), from) in lines.iter_mut().zip(limits).zip(draws) {
            if let Some(limit) = limit {
                *line = Some(Line { limit, used: 0, aside: 0, from: Some(*from) });
            }
        }
        for (quota, limit) in Quota::SHARED.into_iter().zip(limits) {
            if let (Some(limit), Some(line)) = (limit, self.line_mut(draws, quota)) {
                line.aside = line.aside.saturating_add(limit);
            }
        }
        let whose = Whose::Task(name.into());
        let id = self.all.insert(Account { whose, depth, lines, tasks: 0 });
        let mut own = *draws;
        for (draw, limit) in own.iter_mut().zip(limits) {
            if limit.is_some() {
                *draw = id;
            }
        }
        Ok(own)
    }

    /// What tasks of a uid draw on: made, or filled up to `limits`, if none draws on it now.
    pub(super) fn of_uid(&mut self, uid: u32, limits: [u64; SHARED]) -> Result<Draws, KernelError> {
        let known = self.uids.get(&uid).copied();
        if let Some(id) = known.filter(|id| self.all.get(*id).is_some_and(|it| it.tasks > 0)) {
            return Ok([id; SHARED]);
        }
        let system = self.of_system();
        let before = known.and_then(|id| self.all.get(id)).map(|it| it.lines);
        let has = |place: usize| {
            before.and_then(|lines| lines.get(place).copied().flatten()).map_or(0, |it| it.limit)
        };
        for (place, (quota, limit)) in Quota::SHARED.into_iter().zip(limits).enumerate() {
            self.fits(&system, quota, 0, limit.saturating_sub(has(place)))?;
        }
        let id = known.unwrap_or_else(|| {
            let line = Line { limit: 0, used: 0, aside: 0, from: Some(self.system) };
            let lines = [Some(line); SHARED];
            let id = self.all.insert(Account { whose: Whose::Uid(uid), depth: 1, lines, tasks: 0 });
            self.uids.insert(uid, id);
            id
        });
        for (place, (quota, limit)) in Quota::SHARED.into_iter().zip(limits).enumerate() {
            let more = limit.saturating_sub(has(place));
            for (draws, of_system) in [(&system, true), (&[id; SHARED], false)] {
                if let Some(line) = self.line_mut(draws, quota) {
                    let grows = if of_system { &mut line.aside } else { &mut line.limit };
                    *grows = grows.saturating_add(more);
                }
            }
        }
        Ok([id; SHARED])
    }

    /// Nobody draws on these after all.
    pub(super) fn abandon(&mut self, draws: &Draws) {
        for id in draws {
            self.settle(*id);
        }
    }

    /// A task draws on these from now on.
    pub(super) fn join(&mut self, draws: &Draws) {
        self.each(draws, |account| account.tasks = account.tasks.saturating_add(1));
        self.spend(draws, Quota::Tasks, 1);
    }

    /// A task draws on these no longer, and gives back what it used.
    pub(super) fn leave(&mut self, draws: &Draws, used: [u64; SHARED]) {
        for (quota, used) in Quota::SHARED.into_iter().zip(used) {
            if let Some(line) = self.line_mut(draws, quota) {
                line.used = line.used.saturating_sub(used);
            }
        }
        self.each(draws, |account| account.tasks = account.tasks.saturating_sub(1));
        for id in draws {
            self.settle(*id);
        }
    }

    /// Whether `more` fits, for a task that has `own` of it itself.
    pub(super) fn fits(
        &self,
        draws: &Draws,
        quota: Quota,
        own: u64,
        more: u64,
    ) -> Result<(), Over> {
        let Some((account, line)) = self.line(draws, quota) else { return Ok(()) };
        if more > line.free() {
            let what = format!("{} of {}", quota.name(), account.name());
            return Err(Over { what, limit: line.limit, used: line.taken() });
        }
        let most = account.of_one_task(quota, line.limit);
        if own.saturating_add(more) > most {
            let what = format!("{} of one task of {}", quota.name(), account.name());
            return Err(Over { what, limit: most, used: own });
        }
        Ok(())
    }

    /// Uses `amount` of what is drawn on; it fits.
    pub(super) fn spend(&mut self, draws: &Draws, quota: Quota, amount: u64) {
        if let Some(line) = self.line_mut(draws, quota) {
            debug_assert!(amount <= line.free(), "{quota:?} were not asked for");
            line.used = line.used.saturating_add(amount);
        }
    }

    /// Gives back what was used of an account, whoever it was.
    pub(super) fn repay(&mut self, account: AccountId, quota: Quota, amount: u64) {
        if let Some(line) = self.line_mut(&[account; SHARED], quota) {
            debug_assert!(amount <= line.used, "more {quota:?} are given back than were used");
            line.used = line.used.saturating_sub(amount);
        }
        self.settle(account);
    }

    /// What a task draws on, for a report: and the most that it may have of it.
    pub(super) fn share(&self, draws: &Draws, quota: Quota) -> Option<(Share, u64)> {
        let (account, line) = self.line(draws, quota)?;
        let share = Share { whose: account.name(), used: line.taken(), limit: line.limit };
        Some((share, account.of_one_task(quota, line.limit)))
    }

    /// How much is set aside of `from` for those who draw on `draws`.
    pub(super) fn part_of(&self, draws: &Draws, quota: Quota, from: AccountId) -> Option<u64> {
        let (_, line) = self.line(draws, quota)?;
        (line.from == Some(from)).then_some(line.limit)
    }

    fn line(&self, draws: &Draws, quota: Quota) -> Option<(&Account, &Line)> {
        let account = self.all.get(*draws.get(quota as usize)?)?;
        Some((account, account.lines.get(quota as usize)?.as_ref()?))
    }

    fn line_mut(&mut self, draws: &Draws, quota: Quota) -> Option<&mut Line> {
        let account = self.all.get_mut(*draws.get(quota as usize)?)?;
        account.lines.get_mut(quota as usize)?.as_mut()
    }

    /// Each account that is drawn on, once.
    fn each(&mut self, draws: &Draws, act: impl Fn(&mut Account)) {
        for (place, id) in draws.iter().enumerate() {
            if !draws.iter().take(place).any(|before| before == id)
                && let Some(account) = self.all.get_mut(*id)
            {
                act(account);
            }
        }
    }

    /// If no task draws on an account, gives back what is free in it, and so on upwards.
    fn settle(&mut self, id: AccountId) {
        let mut idle = vec![id];
        while let Some(id) = idle.pop() {
            let Some(account) = self.all.get_mut(id).filter(|it| it.tasks == 0) else { continue };
            if account.whose == Whose::System {
                continue;
            }
            let mut given = Vec::with_capacity(SHARED);
            for (place, line) in account.lines.iter_mut().enumerate() {
                if let Some(line) = line.as_mut() {
                    let free = line.free();
                    line.limit = line.limit.saturating_sub(free);
                    given.extend(line.from.map(|from| (place, from, free)));
                }
            }
            if account.lines.iter().flatten().all(|line| line.limit == 0) {
                if let Whose::Uid(uid) = account.whose {
                    self.uids.remove(&uid);
                }
                self.all.remove(id);
            }
            for (place, from, free) in given {
                let line = self.all.get_mut(from).and_then(|it| it.lines.get_mut(place)?.as_mut());
                if let Some(line) = line {
                    line.aside = line.aside.saturating_sub(free);
                }
                if free > 0 && !idle.contains(&from) {
                    idle.push(from);
                }
            }
        }
    }

    /// Checks that nobody has anything.
    #[cfg(test)]
    pub(super) fn check_idle(&self) {
        assert_eq!(self.all.len(), 1, "accounts that nobody draws on");
        let system = self.all.get(self.system).map(|account| account.lines);
        assert!(system.is_some_and(|lines| lines.iter().flatten().all(|line| line.taken() == 0)));
    }

    /// Checks everything, given what tasks and what they made use: by account and quota, and how many
    /// tasks draw on each.
    pub(super) fn check(
        &self,
        used: &BTreeMap<(AccountId, usize), u64>,
        tasks: &BTreeMap<AccountId, u32>,
    ) {
        let mut aside: BTreeMap<(AccountId, usize), u64> = BTreeMap::new();
        let lines = || {
            self.all.iter().flat_map(|(id, account)| {
                let lines = account.lines.iter().enumerate();
                lines.filter_map(move |(place, line)| Some((id, place, account, line.as_ref()?)))
            })
        };
        for (_, place, _, line) in lines() {
            if let Some(from) = line.from {
                let sum = aside.entry((from, place)).or_default();
                *sum = sum.saturating_add(line.limit);
                let stays = line.limit == 0 || self.all.contains(from);
                assert!(stays, "set aside from an account that is gone");
            }
        }
        for (id, place, account, line) in lines() {
            let found = |map: &BTreeMap<_, u64>| map.get(&(id, place)).copied().unwrap_or(0);
            assert_eq!(line.used, found(used), "used of {account:?}, {place}");
            assert_eq!(line.aside, found(&aside), "set aside of {account:?}, {place}");
            assert!(line.taken() <= line.limit, "{account:?} is overdrawn");
            if account.tasks == 0 && account.whose != Whose::System {
                assert_eq!(line.free(), 0, "{account:?} keeps what nobody can use");
            }
        }
        for (id, account) in self.all.iter() {
            assert_eq!(account.tasks, tasks.get(&id).copied().unwrap_or(0), "of {account:?}");
            assert!(account.depth <= DEPTH_MAX, "{account:?} is too deep");
            let empty = account.lines.iter().flatten().all(|line| line.limit == 0);
            let idle = account.tasks == 0 && account.whose != Whose::System;
            assert!(!(idle && empty), "{account:?} is kept for nothing");
        }
        for (uid, id) in &self.uids {
            let whose = self.all.get(*id).map(|account| &account.whose);
            assert_eq!(whose, Some(&Whose::Uid(*uid)));
        }
    }
}

impl Account {
    /// Whose it is, for people.
    fn name(&self) -> String {
        match &self.whose {
            Whose::System => "the system".into(),
            Whose::Uid(uid) => format!("uid {uid}"),
            Whose::Task(name) => format!("{name} (its own part)"),
        }
    }

    /// The most that one task may have of it.
    fn of_one_task(&self, quota: Quota, limit: u64) -> u64 {
        match self.whose {
            Whose::Uid(_) => {
                let small = SMALL.get(quota as usize).copied().unwrap_or(u64::MAX);
                (limit / OF_ONE_TASK).max(small)
            }
            Whose::System | Whose::Task(_) => u64::MAX,
        }
    }
}

/// The tasks that draw on an account with somebody, if that is what it takes to say who has how much.
pub(super) fn most_first(mut holders: Vec<(TaskId, u64)>, most: usize) -> Vec<(TaskId, u64)> {
    holders.retain(|(_, amount)| *amount > 0);
    holders.sort_by_key(|(task, amount)| (core::cmp::Reverse(*amount), *task));
    holders.truncate(most);
    holders
}

#[cfg(test)]
mod tests {
    use super::{Accounts, DEPTH_MAX, Draws, SHARED};
    use rendez_protocol::kernel::KernelError;
    use rendez_protocol::quota::{Allotment, Quota};
    use std::collections::BTreeMap;

    const LIMITS: [u64; SHARED] = [100; SHARED];

    fn part(quota: Quota, amount: u64) -> Allotment {
        Allotment { quota, amount }
    }

    /// Limit and what is taken of capabilities.
    fn capabilities(accounts: &Accounts, draws: &Draws) -> (u64, u64) {
        let (share, _) = accounts.share(draws, Quota::Capabilities).unwrap();
        (share.limit, share.used)
    }

    #[test]
    fn a_part_is_taken_from_what_is_free_and_returns() {
        let mut accounts = Accounts::new(LIMITS);
        let top = accounts.of_system();
        accounts.join(&top);
        let parts = [part(Quota::Capabilities, 60)];
        let child = accounts.set_aside(&top, "child", &parts).unwrap();
        accounts.join(&child);
        assert_eq!(capabilities(&accounts, &top), (100, 60));
        // What it has no part of, it shares.
        assert_eq!(accounts.share(&child, Quota::Regions).unwrap().0.whose, "the system");
        let again = accounts.set_aside(&top, "other", &parts);
        assert!(
            matches!(&again, Err(KernelError::Quota { limit: 100, used: 60, what, .. })
                if what == "capabilities of the system"),
            "{again:?}"
        );
        // Nothing that others do takes it away.
        accounts.spend(&top, Quota::Capabilities, 40);
        assert!(accounts.fits(&top, Quota::Capabilities, 40, 1).is_err());
        assert_eq!(accounts.fits(&child, Quota::Capabilities, 0, 60), Ok(()));
        accounts.spend(&child, Quota::Capabilities, 25);

        // What was made outlives its maker, and only that much is kept.
        let mut used = [0; SHARED];
        used[Quota::Tasks as usize] = 1;
        used[Quota::Capabilities as usize] = 20;
        accounts.leave(&child, used);
        assert_eq!(capabilities(&accounts, &child), (5, 5));
        assert_eq!(capabilities(&accounts, &top), (100, 45));
        accounts.repay(child[1], Quota::Capabilities, 5);
        assert_eq!(capabilities(&accounts, &top), (100, 40));
        assert_eq!(accounts.share(&child, Quota::Capabilities), None, "it is gone");
    }

    #[test]
    fn what_comes_back_passes_those_who_are_gone() {
        let mut accounts = Accounts::new(LIMITS);
        let top = accounts.of_system();
        let mut chain = vec![top];
        for depth in 1..=u64::from(DEPTH_MAX) {
            let parts = [part(Quota::Capabilities, 100 - depth)];
            let next = accounts.set_aside(chain.last().unwrap(), "link", &parts).unwrap();
            accounts.join(&next);
            chain.push(next);
        }
        let deeper = accounts.set_aside(chain.last().unwrap(), "link", &[part(Quota::Regions, 1)]);
        assert!(matches!(deeper, Err(KernelError::Quota { limit: 16, .. })), "{deeper:?}");
        let mut used = [0; SHARED];
        used[Quota::Tasks as usize] = 1;
        // From the top down, so that each but the last still has something set aside.
        for link in &chain[1..] {
            accounts.leave(link, used);
        }
        assert_eq!(capabilities(&accounts, &top), (100, 0));
        accounts.check_idle();
    }

    #[test]
    fn a_uid_has_its_share_while_it_has_tasks() {
        let mut accounts = Accounts::new([1000; SHARED]);
        let share = [800; SHARED];
        let seven = accounts.of_uid(7, share).unwrap();
        accounts.join(&seven);
        assert_eq!(accounts.of_uid(7, [1; SHARED]), Ok(seven), "it is there already");
        assert!(matches!(accounts.of_uid(8, share), Err(KernelError::Quota { used: 800, .. })));
        // One task does not get all of it.
        assert_eq!(accounts.fits(&seven, Quota::Capabilities, 0, 256), Ok(()));
        let over = accounts.fits(&seven, Quota::Capabilities, 200, 57).unwrap_err();
        assert_eq!((over.limit, over.used), (256, 200));
        assert_eq!(over.what, "capabilities of one task of uid 7");
        accounts.spend(&seven, Quota::Regions, 3);
        let mut used = [0; SHARED];
        used[Quota::Tasks as usize] = 1;
        accounts.leave(&seven, used);
        let eight = accounts.of_uid(8, share).unwrap();
        accounts.join(&eight);
        // Three regions are left of the seventh, and it cannot come back to its share.
        assert!(accounts.of_uid(7, share).is_err());
        accounts.leave(&eight, used);
        assert_eq!(accounts.of_uid(7, share), Ok(seven));
        accounts.join(&seven);
        assert_eq!(accounts.share(&seven, Quota::Regions).unwrap().0.used, 3);
        accounts.leave(&seven, used);
        accounts.repay(seven[0], Quota::Regions, 3);
        accounts.check(&BTreeMap::new(), &BTreeMap::new());
    }

    #[test]
    fn what_cannot_be_set_aside_is_said() {
        let mut accounts = Accounts::new(LIMITS);
        let top = accounts.of_system();
        let twice = [part(Quota::Regions, 1), part(Quota::Regions, 2)];
        assert!(matches!(accounts.set_aside(&top, "x", &twice), Err(KernelError::Order(_))));
        let tickets = [part(Quota::Tickets, 1)];
        assert!(matches!(accounts.set_aside(&top, "x", &tickets), Err(KernelError::Order(_))));
        assert_eq!(accounts.set_aside(&top, "x", &[]), Ok(top));
        accounts.check(&BTreeMap::new(), &BTreeMap::new());
    }
}
