//! Who waits for whom, and whether that comes round in a circle.
//!
//! Pure: it is given what tasks claim in their pages, and times; it reads neither.
//!
//! *What a wait waits for.* A sender waits for one transaction of one connection. Its answer comes
//! from the task at the other end, and from one of the threads of that task's server:
//!
//! - A thread that says that it handles this very transaction: for that one. (Both ends then agree.)
//! - Nobody says so, and the sender has not seen it taken: it lies in the ring, and whichever thread
//!   becomes free first can take it. For all of them.
//! - Nobody says so, and the sender has seen it taken: its answer was put off, and may come from
//!   anywhere. For nobody that we know.
//!
//! A wait is *stuck* if no thread of that server is free, that is, if every one of them waits in its
//! turn, and if all that it waits for is stuck as well. It is *in a circle* if what it waits for waits,
//! over however many steps, for it. Who is stuck behind a circle and not in it is told nothing: it
//! hears when those in it have given up.
//!
//! This is finer than Holt's condition for systems of reusable and consumable resources ("Some
//! deadlock properties of computer systems", 1972) only in that a message that was taken waits for one
//! thread; and coarser in that a task with one free thread is never stuck, though a message may lie
//! in the ring of another of its threads.
//!
//! *Claims.* Each wait is one task's word, and so is each thread's. What a liar can bring about: that
//! a wait which is really there, for the liar, with every thread of the waiter's task really waiting,
//! counts as one of a circle. That sender would have waited for the liar anyway. Whatever passes
//! through an honest task passes through waits that this task has published itself.
//!
//! *Two looks.* Pages are read one after the other, so a circle that is found may never have been
//! there at one moment. [`Suspicions`] remembers it, and has each member asked to say its wait again,
//! after having looked for its answer again. Once all have, and the kernel has found the same circle
//! each time: each of them waited without a break from before the first look was over until after it
//! had ended, so at that moment all did, unanswered.
//!
//! *Bounds.* A look follows at most [`WAITS_LOOKED_AT_MAX`] waits; where there are more, it finds
//! nothing. A task has raised at most [`SUSPICIONS_MAX`] suspicions.

use rendez_protocol::{ConnectionId, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Waits that one look follows at most.
pub const WAITS_LOOKED_AT_MAX: usize = 64;
/// Suspicions that one task may have raised at a time.
pub const SUSPICIONS_MAX: usize = 4;
/// A suspicion that is this old without having been confirmed is forgotten, in ns.
pub const SUSPECTED_FOR_NS: u64 = 2_000_000_000;
/// A circle that is certain is remembered for so long for those of its members who have not asked
/// yet, in ns.
pub const CERTAIN_FOR_NS: u64 = 1_000_000_000;

/// A wait: the client of a connection, for one of its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WaitId {
    /// Who waits.
    pub task: TaskId,
    /// On which connection, as its client.
    pub connection: ConnectionId,
    /// For which transaction.
    pub transaction: u64,
}

/// A wait, as its task claims it; the connection and whose it is are the kernel's knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// On which connection, of which the task is the client.
    pub connection: ConnectionId,
    /// The task at its other end.
    pub server: TaskId,
    /// For which transaction.
    pub transaction: u64,
    /// Whether the waiter has seen it taken.
    pub taken: bool,
    /// The waiting thread.
    pub thread: u32,
}

/// A thread of a task's server, as its task claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The thread, 0 if it has not begun.
    pub thread: u32,
    /// What it says that it handles, of connections of which the task is the server.
    pub handles: Option<(ConnectionId, u64)>,
}

/// What one task claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// How many threads its server has.
    pub receivers: usize,
    /// What it says of them.
    pub receiving: Vec<Receiver>,
    /// The waits of its threads.
    pub waits: Vec<Wait>,
}

impl Claims {
    /// The waits of all threads of the server, in their order; `None` if one of them is free, or if
    /// nothing is known of one.
    fn stuck(&self) -> Option<Vec<(Receiver, Wait)>> {
        if self.receivers == 0 || self.receivers != self.receiving.len() {
            return None;
        }
        self.receiving
            .iter()
            .map(|receiver| {
                let wait = self.waits.iter().find(|wait| wait.thread == receiver.thread);
                wait.filter(|_| receiver.thread != 0).map(|wait| (*receiver, *wait))
            })
            .collect()
    }

    /// What `wait`, of a client of this task, waits for; `None` if for nothing that is stuck.
    fn waited_for_by(&self, wait: &Wait) -> Option<Vec<Wait>> {
        let stuck = self.stuck()?;
        let handling: Vec<_> = stuck
            .iter()
            .filter(|(receiver, _)| receiver.handles == Some((wait.connection, wait.transaction)))
            .map(|(_, wait)| *wait)
            .collect();
        match (handling.is_empty(), wait.taken) {
            (false, _) => Some(handling),
            (true, true) => None,
            (true, false) => Some(stuck.into_iter().map(|(_, wait)| wait).collect()),
        }
    }
}

/// The waits of the circle in which `start` is, sorted, itself among them; empty if it is in none.
/// `claims` answers what a task claims, and is asked once for each.
pub fn circle_of(start: WaitId, mut claims: impl FnMut(TaskId) -> Option<Claims>) -> Vec<WaitId> {
    let mut known: BTreeMap<TaskId, Option<Claims>> = BTreeMap::new();
    let mut of = |task: TaskId| known.entry(task).or_insert_with(|| claims(task)).clone();
    let first = of(start.task).and_then(|claims| {
        claims.waits.into_iter().find(|wait| {
            (wait.connection, wait.transaction) == (start.connection, start.transaction)
        })
    });
    let Some(first) = first else { return Vec::new() };
    // Who waits directly for each wait that was found.
    let mut behind: BTreeMap<WaitId, BTreeSet<WaitId>> = BTreeMap::from([(start, BTreeSet::new())]);
    let mut ahead = vec![(start, first)];
    while let Some((id, wait)) = ahead.pop() {
        let Some(next) = of(wait.server).and_then(|claims| claims.waited_for_by(&wait)) else {
            // Not stuck; and then nothing is that waits for it.
            return Vec::new();
        };
        for next in next {
            let Wait { connection, transaction, .. } = next;
            let next_id = WaitId { task: wait.server, connection, transaction };
            if !behind.contains_key(&next_id) {
                if behind.len() >= WAITS_LOOKED_AT_MAX {
                    return Vec::new();
                }
                ahead.push((next_id, next));
            }
            behind.entry(next_id).or_default().insert(id);
        }
    }
    // All that was found can be reached from the start. In its circle is what leads back to it.
    let mut circle: BTreeSet<WaitId> = BTreeSet::new();
    let mut back: Vec<WaitId> = behind.get(&start).into_iter().flatten().copied().collect();
    while let Some(id) = back.pop() {
        if circle.insert(id) {
            back.extend(behind.get(&id).into_iter().flatten());
        }
    }
    circle.into_iter().collect()
}

/// What is known of a wait whose sender asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in no circle.
    Nothing,
    /// It may be in one: these members are to be asked.
    Suspected(Vec<WaitId>),
    /// It is in this circle.
    Deadlock {
        /// Its members.
        circle: Rc<[WaitId]>,
        /// Those who are to hear of it now.
        wake: Vec<WaitId>,
    },
}

/// A circle that was found once.
#[derive(Clone, Debug)]
struct Suspicion {
    circle: Vec<WaitId>,
    since_ns: u64,
    /// Who has said it again since.
    confirmed: BTreeSet<WaitId>,
}

/// Circles that were found.
#[derive(Clone, Debug, Default)]
pub struct Suspicions {
    /// By who has found them first.
    raised: BTreeMap<TaskId, Vec<Suspicion>>,
    /// Members of circles that are certain, who have not asked since, and since when.
    untold: BTreeMap<WaitId, (u64, Rc<[WaitId]>)>,
}

impl Suspicions {
    /// The sender of `who` asks, having looked for its answer just now, and found none. Whether it is
    /// one of a circle that is certain already: then no further look is needed.
    pub fn certain(&mut self, now_ns: u64, who: WaitId) -> Option<Verdict> {
        let (since_ns, circle) = self.untold.remove(&who)?;
        let fresh = now_ns.saturating_sub(since_ns) <= CERTAIN_FOR_NS;
        fresh.then_some(Verdict::Deadlock { circle, wake: Vec::new() })
    }

    /// Its sender asks, and the kernel has found it in `circle` (in none, if that is empty), whose
    /// members are sorted.
    pub fn found(&mut self, now_ns: u64, who: WaitId, circle: Vec<WaitId>) -> Verdict {
        if !circle.contains(&who) {
            return Verdict::Nothing;
        }
        let others = |circle: &[WaitId]| circle.iter().filter(|it| **it != who).copied().collect();
        // Whoever raised it is one of its members.
        let members: BTreeSet<TaskId> = circle.iter().map(|wait| wait.task).collect();
        let raised = members.into_iter().find_map(|task| {
            let at = self.raised.get(&task)?.iter().position(|known| known.circle == circle)?;
            Some((task, at))
        });
        if let Some((task, at)) = raised
            && let Some(of_task) = self.raised.get_mut(&task)
            && let Some(known) = of_task.get_mut(at)
            && now_ns.saturating_sub(known.since_ns) <= SUSPECTED_FOR_NS
        {
            known.confirmed.insert(who);
            if known.confirmed.len() < known.circle.len() {
                return Verdict::Suspected(Vec::new());
            }
            of_task.remove(at);
            if of_task.is_empty() {
                self.raised.remove(&task);
            }
            let wake: Vec<WaitId> = others(&circle);
            let circle: Rc<[WaitId]> = circle.into();
            self.untold.retain(|_, (since, _)| now_ns.saturating_sub(*since) <= CERTAIN_FOR_NS);
            self.untold.extend(wake.iter().map(|other| (*other, (now_ns, Rc::clone(&circle)))));
            return Verdict::Deadlock { circle, wake };
        }
        // A new one; or so old a one that it counts for nothing.
        if let Some((task, at)) = raised
            && let Some(of_task) = self.raised.get_mut(&task)
        {
            of_task.remove(at);
        }
        let wake = others(&circle);
        let of_task = self.raised.entry(who.task).or_default();
        if of_task.len() >= SUSPICIONS_MAX {
            of_task.remove(0);
        }
        of_task.push(Suspicion { circle, since_ns: now_ns, confirmed: BTreeSet::new() });
        Verdict::Suspected(wake)
    }

    /// A task is gone, and with it what it has found.
    pub fn forget(&mut self, task: TaskId) {
        self.raised.remove(&task);
        self.untold.retain(|wait, _| wait.task != task);
    }
}

#[cfg(test)]
mod tests;
