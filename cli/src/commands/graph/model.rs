//! What there is, put together from what the kernel says.

use crate::commands::ps::number;
use rendez::protocol::kernel::{ObjectKind, TaskInfo};
use rendez::protocol::waits::{EndpointInfo, Held, TaskWaits};
use rendez::protocol::{ObjectId, Rights, TaskId};
use rendez_kernel::waits::{Claims, Receiver, Wait, WaitId, circle_of};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A task that there is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: TaskId,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
}

impl From<TaskInfo> for Known {
    fn from(info: TaskInfo) -> Self {
        Self { id: info.id, name: info.name, pid: info.credentials.map(|who| who.pid) }
    }
}

/// What the kernel says.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) tasks: Vec<Known>,
    pub(super) endpoints: Vec<EndpointInfo>,
    pub(super) capabilities: Vec<Held>,
    pub(super) waits: Vec<TaskWaits>,
    /// The circles among the waits.
    pub(super) circles: Vec<Vec<WaitId>>,
}

/// All of it, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Graph {
    pub(super) tasks: Vec<TaskNode>,
    pub(super) endpoints: Vec<EndpointNode>,
    /// By holder; capabilities of a task to itself are left out.
    pub(super) capabilities: Vec<CapabilityEdge>,
    /// By task, the longest first.
    pub(super) waits: Vec<WaitEdge>,
    /// Each is the tasks that wait for one another.
    pub(super) circles: Vec<Vec<String>>,
}

/// A task.
#[derive(Debug, Serialize)]
pub(super) struct TaskNode {
    pub(super) task: String,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    /// Threads of its server.
    pub(super) receivers: u32,
    /// Those of them that wait for nobody, as far as it says.
    pub(super) free: u32,
    /// Whether it is this very command.
    pub(super) own: bool,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub(super) struct EndpointNode {
    pub(super) endpoint: u64,
    /// The task that serves it.
    pub(super) server: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) generation: u32,
    /// Connects that wait for a server.
    pub(super) connects: u32,
}

/// Capabilities of one task that are alike.
#[derive(Debug, Serialize)]
pub(super) struct CapabilityEdge {
    pub(super) holder: String,
    pub(super) kind: &'static str,
    pub(super) object: u64,
    /// The task that it names, or that serves the endpoint that it names.
    pub(super) to: Option<String>,
    /// Rights, as letters.
    pub(super) rights: String,
    pub(super) badge: u64,
    /// How many of them there are.
    pub(super) count: u32,
}

/// A thread that waits.
#[derive(Debug, Serialize)]
pub(super) struct WaitEdge {
    pub(super) task: String,
    pub(super) thread: u32,
    pub(super) on: String,
    pub(super) connection: String,
    /// `null` for notifications.
    pub(super) transaction: Option<u64>,
    /// Whether the other task has taken the message, as the waiter last saw.
    pub(super) taken: bool,
    pub(super) for_ms: u64,
    /// How much longer at most; `null` for no end.
    pub(super) left_ms: Option<u64>,
    /// The circle that it is one of, counted from 0.
    pub(super) circle: Option<usize>,
}

fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Task => "task",
        ObjectKind::Endpoint => "endpoint",
        ObjectKind::Notification => "notification",
        ObjectKind::Region => "region",
    }
}

/// What the kernel looks for circles in.
fn claims(of: &TaskWaits) -> Claims {
    let receiving = of.receiving.iter().map(|receiver| Receiver {
        thread: receiver.thread,
        handles: receiver.handles.map(|handled| (handled.connection, handled.transaction)),
    });
    let waits = of.waits.iter().filter_map(|wait| {
        let (connection, server) = (wait.connection, wait.server);
        let (taken, thread) = (wait.taken, wait.thread);
        Some(Wait { connection, server, transaction: wait.transaction?, taken, thread })
    });
    Claims {
        receivers: of.receivers as usize,
        receiving: receiving.collect(),
        waits: waits.collect(),
    }
}

/// The circles of waits, each once.
pub(super) fn circles(all: &[TaskWaits]) -> Vec<Vec<WaitId>> {
    let claims: BTreeMap<TaskId, Claims> = all.iter().map(|of| (of.task, claims(of))).collect();
    let mut found = BTreeSet::new();
    for (task, of) in &claims {
        for wait in &of.waits {
            let (connection, transaction) = (wait.connection, wait.transaction);
            let start = WaitId { task: *task, connection, transaction };
            let circle = circle_of(start, |task| claims.get(&task).cloned());
            if !circle.is_empty() {
                found.insert(circle);
            }
        }
    }
    found.into_iter().collect()
}

impl Graph {
    /// What there is, for the command that is the task `own`.
    pub(super) fn new(looked: &Looked, own: TaskId) -> Self {
        let tasks = looked.tasks.iter().map(|info| {
            let said = looked.waits.iter().find(|waits| waits.task == info.id);
            let waits = |thread: u32| {
                said.is_some_and(|of| of.waits.iter().any(|wait| wait.thread == thread))
            };
            let busy = said.map_or(0, |of| {
                of.receiving.iter().filter(|it| it.thread != 0 && waits(it.thread)).count()
            });
            let receivers = said.map_or(0, |of| of.receivers);
            TaskNode {
                task: number(info.id),
                name: info.name.clone(),
                pid: info.pid,
                receivers,
                free: receivers.saturating_sub(busy as u32),
                own: info.id == own,
            }
        });
        let endpoints = looked.endpoints.iter().map(|info| EndpointNode {
            endpoint: info.endpoint.0,
            server: info.server.map(number),
            interface: info.interface.clone(),
            generation: info.generation,
            connects: info.connects,
        });
        Self {
            tasks: tasks.collect(),
            endpoints: endpoints.collect(),
            capabilities: capabilities(looked),
            waits: waits(looked),
            circles: looked.circles.iter().map(|circle| in_order(circle, &looked.waits)).collect(),
        }
    }
}

fn capabilities(looked: &Looked) -> Vec<CapabilityEdge> {
    type Alike = (TaskId, ObjectKindOrder, ObjectId, Rights, u64);
    /// In the order in which kinds are shown.
    type ObjectKindOrder = &'static str;
    let mut alike: BTreeMap<Alike, (Option<TaskId>, u32)> = BTreeMap::new();
    for held in &looked.capabilities {
        if held.task == Some(held.holder) {
            continue;
        }
        let capability = held.capability;
        let server = || looked.endpoints.iter().find(|it| it.endpoint == capability.object)?.server;
        let to = held.task.or_else(server);
        let key = (
            held.holder,
            kind(capability.kind),
            capability.object,
            capability.rights,
            capability.badge,
        );
        alike.entry(key).or_insert((to, 0)).1 += 1;
    }
    alike
        .into_iter()
        .map(|((holder, kind, object, rights, badge), (to, count))| CapabilityEdge {
            holder: number(holder),
            kind,
            object: object.0,
            to: to.map(number),
            rights: rights.to_letters(),
            badge,
            count,
        })
        .collect()
}

fn waits(looked: &Looked) -> Vec<WaitEdge> {
    let mut edges = Vec::new();
    for of in &looked.waits {
        let mut longest: Vec<_> = of.waits.iter().collect();
        longest.sort_by_key(|wait| core::cmp::Reverse(wait.for_ms));
        for wait in longest {
            let id =
                |transaction| WaitId { task: of.task, connection: wait.connection, transaction };
            let circle = wait.transaction.and_then(|transaction| {
                looked.circles.iter().position(|circle| circle.contains(&id(transaction)))
            });
            let connection = wait.connection;
            edges.push(WaitEdge {
                task: number(of.task),
                thread: wait.thread,
                on: number(wait.server),
                connection: format!("{}.{}", connection.index, connection.generation),
                transaction: wait.transaction,
                taken: wait.taken,
                for_ms: wait.for_ms,
                left_ms: wait.left_ms,
                circle,
            });
        }
    }
    edges
}

/// The tasks of a circle, each followed, as far as possible, by one that it waits for.
fn in_order(circle: &[WaitId], all: &[TaskWaits]) -> Vec<String> {
    let next = |of: &WaitId| {
        let waits = &all.iter().find(|waits| waits.task == of.task)?.waits;
        let wait = waits.iter().find(|wait| {
            (wait.connection, wait.transaction) == (of.connection, Some(of.transaction))
        })?;
        Some(wait.server)
    };
    let mut left: Vec<WaitId> = circle.to_vec();
    let mut order: Vec<TaskId> = Vec::new();
    let mut wanted = None;
    while !left.is_empty() {
        let at = left.iter().position(|wait| Some(wait.task) == wanted).unwrap_or(0);
        let wait = left.remove(at);
        if !order.contains(&wait.task) {
            order.push(wait.task);
        }
        wanted = next(&wait);
    }
    order.into_iter().map(number).collect()
}
