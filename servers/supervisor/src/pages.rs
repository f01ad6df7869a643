//! What is read of a task's page: whether it gets on, for whom it works, whom it waits for. All of it
//! is what the task says of itself, and believed of that task alone.

use crate::stuck::Look;
use rendez_ipc_core::counters::{ConnectionCounts, PageFile, Side};
use rendez_protocol::TaskId;
use rendez_protocol::kernel::TaskInfo;
use rendez_protocol::supervisor::Doing;
use std::collections::BTreeMap;

/// Other tasks that a record of a death names, at each side.
const DOINGS_MAX: usize = 16;

/// What a page says, put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) look: Look,
    /// Whether there is anybody who could wait for it.
    pub(crate) has_clients: bool,
}

/// Whether the task gets on; `None` if it does not say, or nothing of threads that receive.
pub(crate) fn progress(page: &PageFile) -> Option<Progress> {
    let head = page.head().ok()?;
    let (mut traffic, mut clients, mut in_hand) = (0_u64, 0_u64, false);
    page.connections(head.records, |counts| {
        if counts.whose.side == Side::Server {
            clients += 1;
            // A connection that comes or goes changes the sum too.
            let moved = counts.requests.wrapping_add(counts.replies).wrapping_add(counts.key);
            traffic = traffic.wrapping_add(moved.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            in_hand |= counts.requests > counts.replies;
        }
    })
    .ok()?;
    let life = head.threads.iter().map(|thread| thread.looks.wrapping_add(thread.sleeps));
    let life = life.reduce(u64::wrapping_add)?;
    let look = Look { traffic, life, awaited: in_hand };
    Some(Progress { look, has_clients: clients > 0 })
}

/// For whom a task worked and whom it waited for, at `now_ns` of `CLOCK_MONOTONIC`. `tasks`: who else
/// there is.
pub(crate) fn doings(page: &PageFile, tasks: &[TaskInfo], now_ns: u64) -> (Vec<Doing>, Vec<Doing>) {
    let Ok(head) = page.head() else { return Default::default() };
    let mut ends: Vec<ConnectionCounts> = Vec::new();
    let _ = page.connections(head.records, |counts| ends.push(counts));
    let mut serving: BTreeMap<TaskId, Doing> = BTreeMap::new();
    let mut waiting: BTreeMap<TaskId, Doing> = BTreeMap::new();
    let doing = |task: TaskId| Doing { task, name: name(tasks, task), count: 0, for_ms: None };
    for end in ends.iter().filter(|end| end.whose.side == Side::Server) {
        let in_hand = end.requests.saturating_sub(end.replies);
        if in_hand > 0 {
            let peer = end.whose.peer;
            let one = serving.entry(peer).or_insert_with(|| doing(peer));
            one.count = one.count.saturating_add(in_hand);
        }
    }
    for wait in &head.waits {
        let found = ends.iter().find(|end| {
            end.whose.side == Side::Client && end.whose.status_index == wait.status_index
        });
        let Some(end) = found else { continue };
        let one = waiting.entry(end.whose.peer).or_insert_with(|| doing(end.whose.peer));
        let for_ms = now_ns.saturating_sub(wait.since_ns) / 1_000_000;
        one.count += 1;
        one.for_ms = Some(one.for_ms.map_or(for_ms, |other| other.max(for_ms)));
    }
    let most = |doings: BTreeMap<_, _>| doings.into_values().take(DOINGS_MAX).collect();
    (most(serving), most(waiting))
}

fn name(tasks: &[TaskInfo], task: TaskId) -> String {
    tasks.iter().find(|info| info.id == task).map(|info| info.name.clone()).unwrap_or_default()
}
