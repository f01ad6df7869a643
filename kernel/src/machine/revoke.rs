//! Revocation: at once for whoever looks, in portions for the kernel, and done when servers say so.
//!
//! | step | what |
//! |---|---|
//! | mark | from the request on, every look-up of what is below the capability fails (`tree`) |
//! | reap | portion by portion, leaves first, each node goes with all that hangs on it: slots, tickets, connects that wait, connections, whose status words say so |
//! | acknowledge | the server of each severed connection says that it knows, by the `Disconnect` with which it lets go of the status word; from then on it handles none of its messages |
//! | answer | with counts, and with those servers that have not acknowledged when their time is over |
//!
//! What the holder makes with the capability meanwhile is younger than the mark, and stays; so do the
//! capability itself and the connections that its holder has made with it. Nothing of this depends on
//! who asked: if that task dies, or the capability is taken by another revocation, further up, the
//! reaping goes on. A revocation within another one that began earlier cannot be: its capability
//! cannot be used. One within which another is under way, begun earlier, waits for that one's
//! acknowledgements too.
//!
//! The caller itself is not waited for: whoever revokes from within a handler would wait for itself.
//! That is so too where what it would acknowledge belongs to a revocation within its own, or to one
//! that it has joined: it is answered, and the revocation is there until it has acknowledged, for
//! those around it.
//! Nor is the receiver of a notification, which has no handlers: it looks at the status word after it
//! has taken bits, and drops them.

use super::connection::Phase;
use super::endpoint::Wait;
use super::tree::{Holder, NodeId};
use super::work::Work;
use super::{Machine, Reply};
use crate::effect::{Alarm, Effect, Side};
use rendez_protocol::kernel::{Answer, ObjectKind};
use rendez_protocol::{ConnectionId, Slot, TaskId, limit};
use std::collections::BTreeSet;

/// One that is not done.
#[derive(Debug)]
pub(super) struct Revocation {
    /// What is below it is reaped. It may be gone.
    top: NodeId,
    /// By whose doing.
    by: TaskId,
    /// Who waits for the answer, and how many capabilities it is told of.
    callers: Vec<Caller>,
    /// Connections severed.
    connections: u32,
    /// Whether everything is reaped.
    reaped: bool,
    /// Whether it is awaited that the time for acknowledging it is over.
    waits: bool,
    /// Servers that have not acknowledged.
    unacknowledged: BTreeSet<TaskId>,
    /// Revocations of what was below, that are not done.
    within: BTreeSet<u64>,
    /// Those that wait for this one in the same way.
    around: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    task: TaskId,
    transaction: u64,
    capabilities: u32,
}

impl Machine {
    /// Deletes what is derived from a capability, and severs the connections made with that.
    pub(super) fn revoke(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let (top, _) = self.capability(who, slot)?;
        let most = self.quotas.parked;
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        task.revocations.admits(1, most, "revocations of a task that are not done")?;
        task.revocations.add(1);

        let number = self.number();
        let (capabilities, id) = self.tree.mark(top, number);
        let caller = Caller { task: who, transaction, capabilities };
        if let Some(task) = self.tasks.get_mut(who) {
            task.waits.insert(transaction, Wait::Revocation(id));
        }
        // A second one of the same capability joins the first, and has it take more.
        let revocation = self.revocations.entry(id).or_insert_with(|| Revocation {
            top,
            by: who,
            callers: Vec::new(),
            connections: 0,
            reaped: false,
            waits: false,
            unacknowledged: BTreeSet::new(),
            within: BTreeSet::new(),
            around: BTreeSet::new(),
        });
        revocation.callers.push(caller);
        self.revoking.insert((top, id));
        if id == number && !self.reap(id) {
            self.works.put(who, Work::Revocation(id));
        }
        Ok(None)
    }

    /// Reaps a portion of what a revocation takes. True when all is reaped.
    pub(super) fn reap(&mut self, id: u64) -> bool {
        let Some(top) = self.revocations.get(&id).map(|revocation| revocation.top) else {
            return true;
        };
        let begun = self.tree.handled;
        let mut near = None;
        while let Some(leaf) = self.tree.doomed_leaf(top, near) {
            let cost = match self.tree.get(leaf).map(|node| node.holder) {
                Some(Holder::End(connection, _)) => self.cost_of_ending(connection),
                Some(Holder::Ticket(ticket)) => self.cost_of_voiding(ticket),
                _ => 1,
            };
            if self.spent(begun, cost) {
                return false;
            }
            near = self.tree.parent(leaf);
            self.reap_one(id, leaf);
        }
        if self.tree.unmark(top) {
            self.dissolve(self.revocations.get(&id).map(|it| it.by), top);
        }
        if let Some(revocation) = self.revocations.get_mut(&id) {
            revocation.reaped = true;
            if revocation.is_done() {
                self.revoked(id);
            } else {
                revocation.waits = true;
                let milliseconds = limit::REVOKE_GRACE_MS;
                self.effects.push(Effect::After { milliseconds, alarm: Alarm::Grace(id) });
                self.answer_outwards(id);
            }
        }
        true
    }

    fn reap_one(&mut self, id: u64, leaf: NodeId) {
        let within = self.revoking.range((leaf, 0)..=(leaf, u64::MAX)).map(|(_, within)| *within);
        for within in within.collect::<Vec<_>>() {
            if let Some(inner) = self.revocations.get_mut(&within) {
                inner.around.insert(id);
            }
            if let Some(revocation) = self.revocations.get_mut(&id) {
                revocation.within.insert(within);
            }
        }
        match self.tree.get(leaf).map(|node| node.holder) {
            Some(Holder::End(connection, _)) => {
                // What is in escrow for it counts for itself.
                if self.void_one(connection) {
                    return;
                }
                self.sever(connection, Some(id));
            }
            Some(_) => {
                self.remove(leaf);
                // One that is marked itself has stayed as a place.
                self.tree.take_out(leaf);
            }
            None => self.tree.take_out(leaf),
        }
    }

    /// A connection is about to be severed for a revocation: whether its server must acknowledge it.
    pub(super) fn wants_acknowledgement(&mut self, id: u64, connection: ConnectionId) {
        let Some(revocation) = self.revocations.get_mut(&id) else { return };
        revocation.connections = revocation.connections.saturating_add(1);
        let Some(of) = self.connections.get(connection) else { return };
        let server = of.server.task;
        let handles = matches!(of.phase, Phase::Open | Phase::Telling { .. });
        // Whoever takes bits looks at the status word after that, and drops them.
        let posts = self
            .endpoints
            .get(&of.endpoint)
            .is_some_and(|endpoint| endpoint.kind == ObjectKind::Notification);
        if !handles || posts || server == revocation.by {
            return;
        }
        if let Some(task) = self.tasks.get_mut(server) {
            let count = task.acknowledges.entry(id).or_default();
            *count = count.saturating_add(1);
            task.severed.insert((connection, Side::Server), id);
            revocation.unacknowledged.insert(server);
        }
    }

    /// A server looks at the status word of a severed connection no more.
    pub(super) fn acknowledge(&mut self, who: TaskId, connection: ConnectionId, side: Side) {
        let Some(task) = self.tasks.get_mut(who) else { return };
        let Some(id) = task.severed.remove(&(connection, side)) else { return };
        let Some(count) = task.acknowledges.get_mut(&id) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            task.acknowledges.remove(&id);
            self.acknowledged(who, id);
        }
    }

    /// A server has acknowledged all of a revocation, or is dead.
    pub(super) fn acknowledged(&mut self, who: TaskId, id: u64) {
        if let Some(revocation) = self.revocations.get_mut(&id)
            && revocation.unacknowledged.remove(&who)
        {
            if revocation.is_done() {
                self.revoked(id);
            } else {
                self.answer_outwards(id);
            }
        }
    }

    /// The time for acknowledging a revocation is over.
    pub(super) fn grace_over(&mut self, id: u64) {
        if let Some(revocation) = self.revocations.get_mut(&id) {
            revocation.waits = false;
            self.revoked(id);
        }
    }

    /// A revocation is done: answers those who wait for it.
    fn revoked(&mut self, id: u64) {
        // Those around it, which may be done with it, and so on outwards.
        let mut done = vec![id];
        while let Some(id) = done.pop() {
            let Some(revocation) = self.revocations.remove(&id) else { continue };
            self.revoking.remove(&(revocation.top, id));
            if revocation.waits {
                self.effects.push(Effect::Unset(Alarm::Grace(id)));
            }
            for server in &revocation.unacknowledged {
                if let Some(task) = self.tasks.get_mut(*server) {
                    task.acknowledges.remove(&id);
                }
            }
            for caller in revocation.callers {
                let late = revocation.unacknowledged.iter().copied();
                let others = late.filter(|server| *server != caller.task);
                let unacknowledged = others.take(limit::UNACKNOWLEDGED_MAX).collect();
                self.answer_caller(caller, revocation.connections, unacknowledged);
            }
            for around in revocation.around {
                if let Some(outer) = self.revocations.get_mut(&around) {
                    outer.within.remove(&id);
                    if outer.is_done() {
                        done.push(around);
                    } else {
                        self.answer_outwards(around);
                    }
                }
            }
        }
    }

    fn answer_caller(&mut self, caller: Caller, connections: u32, unacknowledged: Vec<TaskId>) {
        let Caller { task, transaction, capabilities } = caller;
        let answer = Answer::Revoked { capabilities, connections, unacknowledged };
        if self.end_wait(task, transaction, Ok(answer)) {
            self.no_longer_revokes(task);
        }
    }

    /// One waits for less than before: answers those who would wait for nobody but themselves, its
    /// own callers and those of the revocations around it.
    fn answer_outwards(&mut self, id: u64) {
        let (mut next, mut seen) = (vec![id], BTreeSet::new());
        while let Some(id) = next.pop() {
            let Some(revocation) = self.revocations.get(&id) else { continue };
            if !seen.insert(id) {
                continue;
            }
            next.extend(revocation.around.iter().copied());
            let alone = |caller: &Caller| self.waits_for_nobody_but(id, caller.task);
            let (now, later): (Vec<_>, Vec<_>) =
                revocation.callers.iter().partition(|it| alone(it));
            let connections = revocation.connections;
            if let Some(revocation) = self.revocations.get_mut(&id) {
                revocation.callers = later;
            }
            for caller in now {
                self.answer_caller(caller, connections, Vec::new());
            }
        }
    }

    /// Whether all is reaped, and acknowledged by all others, of a revocation and of those within.
    fn waits_for_nobody_but(&self, id: u64, who: TaskId) -> bool {
        let (mut next, mut seen) = (vec![id], BTreeSet::new());
        while let Some(id) = next.pop() {
            let Some(revocation) = self.revocations.get(&id) else { continue };
            if !revocation.reaped || revocation.unacknowledged.iter().any(|server| *server != who) {
                return false;
            }
            if seen.insert(id) {
                next.extend(revocation.within.iter().copied());
            }
        }
        true
    }

    /// Nobody waits for a revocation's answer any more. It is done all the same.
    pub(super) fn forget_caller(&mut self, who: TaskId, transaction: u64, id: u64) {
        if let Some(revocation) = self.revocations.get_mut(&id) {
            revocation
                .callers
                .retain(|caller| (caller.task, caller.transaction) != (who, transaction));
        }
        self.no_longer_revokes(who);
    }

    fn no_longer_revokes(&mut self, who: TaskId) {
        if let Some(task) = self.tasks.get_mut(who) {
            task.revocations.sub(1);
        }
    }

    /// Checks what must hold of those that are not done.
    pub(super) fn check_revocations(&self) {
        assert_eq!(self.revoking.len(), self.revocations.len());
        for (id, revocation) in &self.revocations {
            assert!(self.revoking.contains(&(revocation.top, *id)));
            assert!(!revocation.is_done(), "revocation {id} is done and not answered");
            assert_eq!(revocation.waits, revocation.reaped, "whether an alarm is awaited");
            let marked = self.tree.marked(revocation.top).map(|mark| mark.revocation);
            if revocation.reaped {
                assert_ne!(marked, Some(*id), "what was reaped is marked");
            }
            for server in &revocation.unacknowledged {
                let count = self.tasks.get(*server).and_then(|task| task.acknowledges.get(id));
                assert!(
                    count.is_some_and(|count| *count > 0),
                    "{server} has nothing to acknowledge"
                );
            }
            for within in &revocation.within {
                let inner = self.revocations.get(within);
                assert!(inner.is_some_and(|inner| inner.around.contains(id)));
            }
            for caller in &revocation.callers {
                let task = self.tasks.get(caller.task);
                let wait = task.and_then(|task| task.waits.get(&caller.transaction));
                assert_eq!(wait, Some(&Wait::Revocation(*id)), "nobody waits for {id}");
                let alone = self.waits_for_nobody_but(*id, caller.task);
                assert!(!alone, "{} waits for itself", caller.task);
            }
        }
        for (top, mark) in self.tree.marks() {
            let of = self.revocations.get(&mark.revocation);
            assert!(of.is_some_and(|it| it.top == top && !it.reaped), "{top:?} is marked in vain");
        }
    }

    /// Whether a task's request waits for that revocation.
    pub(super) fn waits_for_revocation(&self, who: TaskId, transaction: u64, id: u64) -> bool {
        self.revocations.get(&id).is_some_and(|revocation| {
            let mut callers = revocation.callers.iter();
            callers.any(|it| (it.task, it.transaction) == (who, transaction))
        })
    }
}

impl Revocation {
    fn is_done(&self) -> bool {
        self.reaped && self.unacknowledged.is_empty() && self.within.is_empty()
    }
}
