//! What happened between two looks.
//!
//! The two ends of a connection are put into one row where they agree who is at which end; what only
//! one of them says is a row by itself, and `confirmed` is false. All numbers are claims, so none is
//! computed with in a way that could fail: what went backwards counts as nothing.

use super::watch::{Sample, TaskSample};
use crate::arguments::SortKey;
use rendez::protocol::{ConnectionId, TaskId};
use rendez_ipc_core::counters::{
    BUCKETS, ConnectionCounts, Histogram, Side, ThreadCounts, quantile, total,
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What happened in an interval.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) interval_ms: u64,
    pub(super) transactions_per_s: f64,
    pub(super) bytes_per_s: f64,
    pub(super) tasks: Vec<TaskRow>,
    pub(super) connections: Vec<ConnectionRow>,
}

/// One task.
#[derive(Debug, Serialize)]
pub(super) struct TaskRow {
    pub(super) task: String,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    /// Whether it is this very command.
    pub(super) own: bool,
    pub(super) sent_per_s: f64,
    pub(super) served_per_s: f64,
    /// Wake-ups that it gave.
    pub(super) wakes_per_s: f64,
    /// What it has learned that a wake-up costs.
    pub(super) wake_ns: Option<u64>,
    pub(super) threads: Vec<ThreadRow>,
    pub(super) waits: Vec<WaitRow>,
}

/// One thread that waits for many connections.
#[derive(Debug, Serialize)]
pub(super) struct ThreadRow {
    pub(super) thread: u32,
    pub(super) connections: u64,
    pub(super) polled: u64,
    pub(super) sleeps: u64,
    pub(super) looks: u64,
    pub(super) sleeps_per_s: f64,
    pub(super) looks_per_s: f64,
    pub(super) wake_ns: u64,
    /// How long it spins before it sleeps; `None` for ever.
    pub(super) budget_ns: Option<u64>,
}

/// Whom a thread waits for.
#[derive(Debug, Serialize)]
pub(super) struct WaitRow {
    pub(super) on: Option<String>,
    pub(super) name: String,
    pub(super) connection: Option<String>,
    pub(super) for_ms: u64,
}

/// A task at one end.
#[derive(Debug, Serialize)]
pub(super) struct Party {
    pub(super) task: String,
    pub(super) name: String,
}

/// One connection.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionRow {
    pub(super) connection: String,
    pub(super) client: Party,
    pub(super) server: Party,
    /// Whether both ends say the same of who they are.
    pub(super) confirmed: bool,
    pub(super) transactions_per_s: f64,
    pub(super) bytes_per_s: f64,
    pub(super) wakes_per_s: f64,
    pub(super) looks_per_s: f64,
    pub(super) room_waits_per_s: f64,
    /// Late replies, ever.
    pub(super) late: u64,
    pub(super) client_end: Option<EndRow>,
    pub(super) server_end: Option<EndRow>,
}

impl ConnectionRow {
    /// A round trip in ns: the median (0), or what 99 in 100 stay below (1).
    pub(super) fn round_trip(&self, which: usize) -> Option<f64> {
        Self::time(self.client_end.as_ref(), which)
    }

    /// A service time in ns, likewise.
    pub(super) fn service(&self, which: usize) -> Option<f64> {
        Self::time(self.server_end.as_ref(), which)
    }

    fn time(end: Option<&EndRow>, which: usize) -> Option<f64> {
        let times = end?.times_ns.as_ref()?;
        Some(if which == 0 { times.p50 } else { times.p99 })
    }
}

/// What one end counts.
#[derive(Debug, Serialize)]
pub(super) struct EndRow {
    pub(super) requests: u64,
    pub(super) request_bytes: u64,
    pub(super) replies: u64,
    pub(super) reply_bytes: u64,
    pub(super) late: u64,
    pub(super) room_waits: u64,
    pub(super) looks: u64,
    pub(super) sleeps: u64,
    pub(super) rings: u64,
    pub(super) wake_ns: u64,
    /// How long it spins before it sleeps; `None` for ever.
    pub(super) budget_ns: Option<u64>,
    pub(super) since_ms: u64,
    /// Of the interval; `None` if no time was taken in it.
    pub(super) times_ns: Option<Times>,
    /// Ever.
    pub(super) times_ns_ever: Option<Times>,
}

/// What a histogram comes to.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) samples: u64,
}

impl Times {
    fn of(histogram: &Histogram) -> Option<Self> {
        let (p50, p99) = (quantile(histogram, 0.5)?, quantile(histogram, 0.99)?);
        Some(Self { p50, p99, samples: total(histogram) })
    }
}

/// What an end did in the interval.
#[derive(Debug)]
struct Change {
    seconds: f64,
    requests: u64,
    bytes: u64,
    rings: u64,
    looks: u64,
    room_waits: u64,
    histogram: Histogram,
}

impl Change {
    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }
}

/// Seconds in so many ns, at least a millisecond's: to divide by.
fn seconds(ns: u64) -> f64 {
    ns.max(1_000_000) as f64 / 1e9
}

/// What happened since `before`, or, if nobody looked then, since the end was made.
fn change(
    before: Option<&ConnectionCounts>,
    now: &ConnectionCounts,
    from_ns: Option<u64>,
    at_ns: u64,
) -> Change {
    let since_ns = now.since_ns.min(at_ns);
    let began_ns = match from_ns {
        Some(from) if before.is_some() => from,
        // It is new; or it was there, and its page was not read.
        Some(from) => from.min(since_ns),
        None => since_ns,
    };
    let since = |get: fn(&ConnectionCounts) -> u64| get(now).saturating_sub(before.map_or(0, get));
    let empty = [0; BUCKETS];
    let old = before.map_or(&empty, |before| &before.histogram);
    Change {
        seconds: seconds(at_ns.saturating_sub(began_ns)),
        requests: since(|counts| counts.requests),
        bytes: since(|counts| counts.request_bytes.saturating_add(counts.reply_bytes)),
        rings: since(|counts| counts.rings),
        looks: since(|counts| counts.looks),
        room_waits: since(|counts| counts.room_waits),
        histogram: core::array::from_fn(|place| now.histogram[place].saturating_sub(old[place])),
    }
}

/// `connection`, client, server.
type Key = (ConnectionId, TaskId, TaskId);

#[derive(Debug, Default)]
struct Ends<'a> {
    client: Option<(&'a ConnectionCounts, Change)>,
    server: Option<(&'a ConnectionCounts, Change)>,
}

impl Report {
    /// What happened between two looks; without a first one, what has happened so far.
    pub(super) fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let from_ns = before.map(|before| before.at_ns);
        let names: HashMap<TaskId, &str> =
            now.tasks.iter().map(|task| (task.id, task.name.as_str())).collect();
        let tasks_before: HashMap<TaskId, &TaskSample> = before
            .map(|before| before.tasks.iter().map(|task| (task.id, task)).collect())
            .unwrap_or_default();
        let mut rows: BTreeMap<Key, Ends<'_>> = BTreeMap::new();
        let mut tasks = Vec::new();
        for task in &now.tasks {
            let task_before = tasks_before.get(&task.id);
            let ends_before: HashMap<u64, &ConnectionCounts> = task_before
                .map(|task| task.ends.iter().map(|end| (end.key, end)).collect())
                .unwrap_or_default();
            let mut row = task_row(task, task_before.copied(), &names, now, from_ns);
            for end in &task.ends {
                let old = ends_before.get(&end.key).copied();
                let change = change(old, end, from_ns, now.at_ns);
                row.wakes_per_s += change.per_s(change.rings);
                let per_s = change.per_s(change.requests);
                match end.whose.side {
                    Side::Client => {
                        row.sent_per_s += per_s;
                        let key = (end.whose.connection, task.id, end.whose.peer);
                        rows.entry(key).or_default().client = Some((end, change));
                    }
                    Side::Server => {
                        row.served_per_s += per_s;
                        let key = (end.whose.connection, end.whose.peer, task.id);
                        rows.entry(key).or_default().server = Some((end, change));
                    }
                }
            }
            tasks.push(row);
        }
        let connections: Vec<_> = rows
            .into_iter()
            .map(|(key, ends)| connection_row(key, ends, &names, now.at_ns))
            .collect();
        Self {
            interval_ms: from_ns.map_or(0, |from| now.at_ns.saturating_sub(from) / 1_000_000),
            transactions_per_s: connections.iter().map(|row| row.transactions_per_s).sum(),
            bytes_per_s: connections.iter().map(|row| row.bytes_per_s).sum(),
            tasks,
            connections,
        }
    }

    /// Sorts the connections, what there is most of first, or last if `reverse`.
    pub(super) fn sort(&mut self, key: SortKey, reverse: bool) {
        self.connections.sort_by(|a, b| order(key, reverse, a, b));
    }
}

/// How two rows are ordered by `key`.
pub(super) fn order(
    key: SortKey,
    reverse: bool,
    a: &ConnectionRow,
    b: &ConnectionRow,
) -> core::cmp::Ordering {
    let most = |value: fn(&ConnectionRow) -> f64| value(b).total_cmp(&value(a));
    let order = match key {
        SortKey::Rate => most(|row| row.transactions_per_s),
        SortKey::Bytes => most(|row| row.bytes_per_s),
        SortKey::RoundTrip => most(|row| row.round_trip(1).unwrap_or(-1.0)),
        SortKey::Service => most(|row| row.service(1).unwrap_or(-1.0)),
        SortKey::Wakes => most(|row| row.wakes_per_s),
        SortKey::Name => (&a.server.name, &a.client.name).cmp(&(&b.server.name, &b.client.name)),
    };
    if reverse { order.reverse() } else { order }
}

fn number(id: TaskId) -> String {
    format!("{}.{}", id.index, id.generation)
}

fn task_row(
    task: &TaskSample,
    before: Option<&TaskSample>,
    names: &HashMap<TaskId, &str>,
    now: &Sample,
    from_ns: Option<u64>,
) -> TaskRow {
    let mut waits: Vec<_> = task
        .head
        .waits
        .iter()
        .map(|wait| {
            let end = task.ends.iter().find(|end| end.whose.status_index == wait.status_index);
            let on = end.map(|end| end.whose.peer);
            WaitRow {
                on: on.map(number),
                name: on.and_then(|on| names.get(&on)).map_or("?", |name| name).to_owned(),
                connection: end.map(|end| connection_number(end.whose.connection)),
                for_ms: now.at_ns.saturating_sub(wait.since_ns) / 1_000_000,
            }
        })
        .collect();
    waits.sort_by_key(|wait| core::cmp::Reverse(wait.for_ms));
    let threads = task.head.threads.iter().map(|thread| {
        let old =
            before.and_then(|before| before.head.threads.iter().find(|old| old.key == thread.key));
        let began_ns = from_ns.unwrap_or(thread.since_ns.min(now.at_ns));
        let seconds = seconds(now.at_ns.saturating_sub(began_ns));
        let per_s = |get: fn(&ThreadCounts) -> u64| {
            get(thread).saturating_sub(old.map_or(0, get)) as f64 / seconds
        };
        ThreadRow {
            thread: thread.thread,
            connections: thread.connections,
            polled: thread.polled,
            sleeps: thread.sleeps,
            looks: thread.looks,
            sleeps_per_s: per_s(|thread| thread.sleeps),
            looks_per_s: per_s(|thread| thread.looks),
            wake_ns: task.head.wake_ns,
            budget_ns: budget(thread.budget_ns),
        }
    });
    TaskRow {
        task: number(task.id),
        name: task.name.clone(),
        pid: task.pid,
        own: now.own == Some(task.id),
        sent_per_s: 0.0,
        served_per_s: 0.0,
        wakes_per_s: 0.0,
        wake_ns: (task.head.wake_ns != 0).then_some(task.head.wake_ns),
        threads: threads.collect(),
        waits,
    }
}

fn connection_number(id: ConnectionId) -> String {
    format!("{}.{}", id.index, id.generation)
}

fn connection_row(
    (connection, client, server): Key,
    ends: Ends<'_>,
    names: &HashMap<TaskId, &str>,
    at_ns: u64,
) -> ConnectionRow {
    let party = |id: TaskId| Party {
        task: number(id),
        name: names.get(&id).map_or("?", |name| name).to_owned(),
    };
    // The client's count is the one that includes what no server has taken.
    let main = ends.client.as_ref().or(ends.server.as_ref()).map(|(_, change)| change);
    let both = |get: fn(&Change) -> u64| -> f64 {
        let of = |end: &Option<(&ConnectionCounts, Change)>| {
            end.as_ref().map_or(0.0, |(_, change)| change.per_s(get(change)))
        };
        of(&ends.client) + of(&ends.server)
    };
    ConnectionRow {
        connection: connection_number(connection),
        client: party(client),
        server: party(server),
        confirmed: ends.client.is_some() && ends.server.is_some(),
        transactions_per_s: main.map_or(0.0, |change| change.per_s(change.requests)),
        bytes_per_s: main.map_or(0.0, |change| change.per_s(change.bytes)),
        wakes_per_s: both(|change| change.rings),
        looks_per_s: both(|change| change.looks),
        room_waits_per_s: both(|change| change.room_waits),
        late: ends.client.as_ref().map_or(0, |(counts, _)| counts.late),
        client_end: ends.client.map(|(counts, change)| end_row(counts, &change, at_ns)),
        server_end: ends.server.map(|(counts, change)| end_row(counts, &change, at_ns)),
    }
}

/// A spin budget, if it has an end.
fn budget(ns: u64) -> Option<u64> {
    (ns != u64::MAX).then_some(ns)
}

fn end_row(counts: &ConnectionCounts, change: &Change, at_ns: u64) -> EndRow {
    EndRow {
        requests: counts.requests,
        request_bytes: counts.request_bytes,
        replies: counts.replies,
        reply_bytes: counts.reply_bytes,
        late: counts.late,
        room_waits: counts.room_waits,
        looks: counts.looks,
        sleeps: counts.sleeps,
        rings: counts.rings,
        wake_ns: counts.wake_ns,
        budget_ns: budget(counts.budget_ns),
        since_ms: at_ns.saturating_sub(counts.since_ns) / 1_000_000,
        times_ns: Times::of(&change.histogram),
        times_ns_ever: Times::of(&counts.histogram),
    }
}
