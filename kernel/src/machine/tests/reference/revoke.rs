//! Revocation: all at once, and answered when the servers have acknowledged.

use super::connections::Phase;
use super::grants::Holder;
use super::{Reference, Reply, fits};
use crate::effect::{Alarm, Effect, Side};
use rendez_protocol::kernel::{Answer, ObjectKind};
use rendez_protocol::{ConnectionId, Slot, TaskId, Why, limit};

/// One that has not been acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Revocation {
    pub(super) number: u64,
    /// Who waits for the answer, with which request.
    pub(super) caller: Option<(TaskId, u64)>,
    capabilities: u32,
    connections: u32,
    /// Servers that have not acknowledged, and what.
    late: Vec<(TaskId, ConnectionId)>,
    /// Of which capability.
    top: u64,
    /// Those of what went with it that are not done.
    within: Vec<u64>,
}

impl Revocation {
    fn is_done(&self) -> bool {
        self.late.is_empty() && self.within.is_empty()
    }
}

impl Reference {
    /// What is below goes, leaves first; who watches with what goes hears nothing of the rest.
    pub(super) fn revoke(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let top = self.capability(who, slot)?.number;
        let pending = self.revocations.iter().filter(|it| it.caller.is_some_and(|it| it.0 == who));
        let what = "revocations of a task that are not done";
        fits(pending.count() as u64, 1, self.quotas.parked, what)?;
        let mut revocation = Revocation {
            number: self.number(),
            caller: Some((who, transaction)),
            capabilities: self.descendants(top),
            connections: 0,
            late: Vec::new(),
            top,
            within: Vec::new(),
        };
        let doomed: Vec<u64> = self
            .live()
            .filter(|grant| self.is_revoked_with(grant, top))
            .map(|grant| grant.number)
            .collect();
        for number in doomed {
            if let Some(grant) = self.grant_mut(number) {
                grant.watches = false;
            }
        }
        while let Some(leaf) = self.first_leaf(top) {
            let of = self.revocations.iter().filter(|it| it.top == leaf).map(|it| it.number);
            let within: Vec<u64> = of.filter(|it| !revocation.within.contains(it)).collect();
            revocation.within.extend(within);
            let Holder::End(id, _) = self.grant(leaf).unwrap().holder else {
                self.remove(leaf);
                continue;
            };
            self.void_all(id);
            let Some(connection) = self.connection(id) else { continue };
            revocation.connections += 1;
            let server = connection.server.task;
            let handles = connection.kind != ObjectKind::Notification;
            if handles && connection.phase == Phase::Open && server != who {
                revocation.late.push((server, id));
            }
            self.end(id, Why::Revoked, None);
        }
        // Servers that died of it have nothing to say.
        revocation.late.retain(|(server, _)| self.task(*server).is_some());
        if revocation.is_done() {
            self.revoked(&revocation);
        } else {
            let alarm = Alarm::Grace(revocation.number);
            self.said.push(Effect::After { milliseconds: limit::REVOKE_GRACE_MS, alarm });
            self.revocations.push(revocation);
            self.answer_those_alone();
        }
        Ok(None)
    }

    /// The first in the list that a revocation takes and that nothing is below.
    fn first_leaf(&self, top: u64) -> Option<u64> {
        let doomed = self.live().filter(|grant| self.is_revoked_with(grant, top));
        let has_below = |number| self.live().any(|below| below.parent == Some(number));
        doomed.map(|grant| grant.number).find(|number| !has_below(*number))
    }

    /// Answers who asked.
    fn revoked(&mut self, revocation: &Revocation) {
        let mut unacknowledged: Vec<TaskId> = revocation.late.iter().map(|it| it.0).collect();
        unacknowledged.sort_unstable();
        unacknowledged.dedup();
        let &Revocation { capabilities, connections, .. } = revocation;
        if let Some((who, transaction)) = revocation.caller {
            let answer = Answer::Revoked { capabilities, connections, unacknowledged };
            self.answer(who, transaction, Ok(answer));
        }
    }

    /// For whom one waits, with those within it.
    fn waits_for(&self, number: u64) -> Vec<TaskId> {
        let Some(revocation) = self.revocations.iter().find(|it| it.number == number) else {
            return Vec::new();
        };
        let late = revocation.late.iter().map(|it| it.0);
        late.chain(revocation.within.iter().flat_map(|it| self.waits_for(*it))).collect()
    }

    /// Answers those who wait for nobody but themselves.
    fn answer_those_alone(&mut self) {
        for revocation in self.revocations.clone() {
            let Some((who, _)) = revocation.caller else { continue };
            if !revocation.is_done()
                && self.waits_for(revocation.number).iter().all(|it| *it == who)
            {
                self.revoked(&Revocation { late: Vec::new(), ..revocation.clone() });
                let same = |it: &&mut Revocation| it.number == revocation.number;
                self.revocations.iter_mut().find(same).unwrap().caller = None;
            }
        }
    }

    /// One is done, and then perhaps those that waited for it.
    fn finish(&mut self, number: u64) {
        let mut done = vec![number];
        while let Some(number) = done.pop() {
            let Some(at) = self.revocations.iter().position(|it| it.number == number) else {
                continue;
            };
            let revocation = self.revocations.remove(at);
            if !core::mem::take(&mut self.rung) {
                self.said.push(Effect::Unset(Alarm::Grace(number)));
            }
            self.revoked(&revocation);
            for other in &mut self.revocations {
                if other.within.contains(&number) {
                    other.within.retain(|it| *it != number);
                    if other.is_done() {
                        done.push(other.number);
                    }
                }
            }
        }
        self.answer_those_alone();
    }

    /// What nobody is late for any more, of those for which this is so, is done.
    fn less_late(&mut self, is: impl Fn(&(TaskId, ConnectionId)) -> bool) {
        let numbers: Vec<u64> = self.revocations.iter().map(|it| it.number).collect();
        for number in numbers {
            let revocation = self.revocations.iter_mut().find(|it| it.number == number);
            let Some(revocation) = revocation else { continue };
            let before = revocation.late.len();
            revocation.late.retain(|late| !is(late));
            if revocation.late.len() < before && revocation.is_done() {
                self.finish(number);
            }
        }
        self.answer_those_alone();
    }

    /// A server looks at an ended connection no more.
    pub(super) fn acknowledge(&mut self, who: TaskId, connection: ConnectionId, side: Side) {
        if side == Side::Server {
            self.less_late(|late| *late == (who, connection));
        }
    }

    /// A task is dead: it says nothing any more, and is told nothing.
    pub(super) fn revocations_without(&mut self, who: TaskId) {
        for revocation in &mut self.revocations {
            if revocation.caller.is_some_and(|it| it.0 == who) {
                revocation.caller = None;
            }
        }
        self.less_late(|late| late.0 == who);
    }

    pub(super) fn grace_over(&mut self, number: u64) {
        self.rung = self.revocations.iter().any(|it| it.number == number);
        self.finish(number);
    }

    /// Whoever asked hears no more of it.
    pub(super) fn cancel_revocation(&mut self, who: TaskId, transaction: u64) -> bool {
        let of = |it: &&mut Revocation| it.caller == Some((who, transaction));
        match self.revocations.iter_mut().find(of) {
            Some(revocation) => {
                revocation.caller = None;
                true
            }
            None => false,
        }
    }
}
