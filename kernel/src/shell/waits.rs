//! Who waits for whom: what tasks say of it in their pages, held against what the kernel knows.
//!
//! A claim names a status word; which connection that is, which end of it, and who is at the other,
//! is the machine's knowledge. What it does not know of is left out. The conclusions are drawn in
//! [`waits`](crate::waits).

use super::Shell;
use crate::effect::Side;
use crate::waits::{Claims, Receiver, Verdict, Wait, WaitId, circle_of};
use rendez_ipc_core::status::{Claim, PageReader, monotonic_ns};
use rendez_protocol::kernel::{Answer, TaskInfo, Waiting};
use rendez_protocol::waits::{Handled, Look, Member, Receiving, TaskWaits};
use rendez_protocol::{ConnectionId, TaskId, waits};
use std::collections::BTreeSet;

/// How often the kernel looks for one task whether it waits in a circle, in ns: a look follows up to
/// [`WAITS_LOOKED_AT_MAX`](crate::waits::WAITS_LOOKED_AT_MAX) waits, and others wait meanwhile.
const LOOK_EVERY_NS: u64 = 2_000_000;

impl Shell {
    /// What a task's page claims; nothing if it has none yet.
    fn page_claims(&self, task: TaskId) -> rendez_ipc_core::status::Claims {
        self.tasks
            .get(&task)
            .and_then(|id| self.peers.get(id)?.page.as_ref())
            .map(PageReader::claims)
            .unwrap_or_default()
    }

    /// The connection that a task names by one of its status words, if it is that end of it, and the
    /// task at the other.
    fn named(&self, task: TaskId, index: u32, side: Side) -> Option<(ConnectionId, TaskId)> {
        let (connection, its_side, other) = self.machine.connection_at(task, index)?;
        (its_side == side).then_some((connection, other))
    }

    /// What a task claims, in terms of what the kernel knows; `None` if there is no such task.
    fn claims_of(&self, task: TaskId) -> Option<Claims> {
        if !self.machine.is_alive(task) {
            return None;
        }
        let claims = self.page_claims(task);
        let receiving = claims.receiving.iter().map(|receiver| Receiver {
            thread: receiver.thread,
            handles: receiver.handles.and_then(|(index, transaction)| {
                Some((self.named(task, index, Side::Server)?.0, transaction))
            }),
        });
        let waits = claims.waits.iter().filter_map(|claim| {
            let (connection, server) = self.named(task, claim.status_index, Side::Client)?;
            let Claim { taken, thread, .. } = *claim;
            Some(Wait { connection, server, transaction: claim.transaction?, taken, thread })
        });
        Some(Claims {
            receivers: usize::try_from(claims.receivers).unwrap_or(usize::MAX),
            receiving: receiving.collect(),
            waits: waits.collect(),
        })
    }

    /// Whether a wait is one of a circle. Wakes those who are to say theirs again, or to be told.
    pub(super) fn look_for_circle(&mut self, wait: WaitId) -> Answer {
        let now_ns = monotonic_ns();
        if let Some(Verdict::Deadlock { circle, .. }) = self.suspicions.certain(now_ns, wait) {
            return Answer::Circle(Look::Deadlock(self.members(wait.task, &circle)));
        }
        let Some((_, peer)) = self.peer(wait.task) else { return Answer::Circle(Look::Nothing) };
        if now_ns.saturating_sub(peer.looked_ns) < LOOK_EVERY_NS {
            return Answer::Circle(Look::Suspected);
        }
        peer.looked_ns = now_ns;
        let circle = circle_of(wait, |task| self.claims_of(task));
        let (look, wake) = match self.suspicions.found(now_ns, wait, circle) {
            Verdict::Nothing => (Look::Nothing, Vec::new()),
            Verdict::Suspected(wake) => (Look::Suspected, wake),
            Verdict::Deadlock { circle, wake } => {
                (Look::Deadlock(self.members(wait.task, &circle)), wake)
            }
        };
        for other in wake {
            if let Some(index) = self.machine.client_index(other.connection)
                && let Some(status) = self.peer(other.task).and_then(|(_, it)| it.status.as_ref())
            {
                status.nudge(index);
            }
        }
        Answer::Circle(look)
    }

    /// The tasks of a circle, as one of them may know them.
    fn members(&self, who: TaskId, circle: &[WaitId]) -> Vec<Option<Member>> {
        let tasks: BTreeSet<TaskId> = circle.iter().map(|wait| wait.task).collect();
        let known = self.machine.may_watch(who, &tasks);
        let member = |task: TaskId| {
            let name = self.machine.name(task).filter(|_| known.contains(&task))?;
            Some(Member { task, name: name.into() })
        };
        tasks.into_iter().map(member).collect()
    }

    /// What these tasks say of their threads.
    pub(super) fn waits_of_all(&self, tasks: Vec<TaskId>, more: bool) -> Answer {
        let now_ns = monotonic_ns();
        let tasks = tasks.into_iter().map(|task| self.waits_of(task, now_ns)).collect();
        Answer::Waits { tasks, more }
    }

    fn waits_of(&self, task: TaskId, now_ns: u64) -> TaskWaits {
        let claims = self.page_claims(task);
        let receiving = claims.receiving.iter().map(|receiver| Receiving {
            thread: receiver.thread,
            handles: receiver.handles.and_then(|(index, transaction)| {
                let (connection, client) = self.named(task, index, Side::Server)?;
                Some(Handled { connection, client, transaction })
            }),
        });
        let waits = claims.waits.iter().filter_map(|claim| {
            let (connection, server) = self.named(task, claim.status_index, Side::Client)?;
            Some(waits::Wait {
                thread: claim.thread,
                connection,
                server,
                transaction: claim.transaction,
                taken: claim.taken,
                for_ms: for_ms(claim, now_ns),
                left_ms: left_ms(claim, now_ns),
            })
        });
        let receiving = receiving.collect();
        TaskWaits { task, receivers: claims.receivers, receiving, waits: waits.collect() }
    }

    /// Whom a task says it waits for: each once, since the longest time, the longest first.
    pub(super) fn waits(&self, task: &TaskInfo) -> Vec<Waiting> {
        let now_ns = monotonic_ns();
        let mut waits: Vec<Waiting> = Vec::new();
        for claim in self.page_claims(task.id).waits {
            let on = self.machine.connection_at(task.id, claim.status_index);
            let on = on.map(|(_, _, other)| other);
            let (for_ms, left_ms) = (for_ms(&claim, now_ns), left_ms(&claim, now_ns));
            if let Some(same) = waits.iter_mut().find(|wait| wait.on == on) {
                if for_ms > same.for_ms {
                    (same.for_ms, same.left_ms) = (for_ms, left_ms);
                }
            } else {
                let name = on.and_then(|on| self.machine.name(on)).unwrap_or_default().into();
                waits.push(Waiting { on, name, for_ms, left_ms });
            }
        }
        waits.sort_by_key(|wait| core::cmp::Reverse(wait.for_ms));
        waits
    }
}

fn for_ms(claim: &Claim, now_ns: u64) -> u64 {
    now_ns.saturating_sub(claim.since_ns) / 1_000_000
}

fn left_ms(claim: &Claim, now_ns: u64) -> Option<u64> {
    (claim.deadline_ns != 0).then(|| claim.deadline_ns.saturating_sub(now_ns) / 1_000_000)
}
