//! The graph as a tree for people: each task with what it serves, what it may reach, and whom it waits
//! for; circles at the end.

use super::model::{CapabilityEdge, Graph, TaskNode, WaitEdge};
use crate::commands::ps::duration;
use crate::output::{BAD, DIM, GOOD, HEAD, WARN, printable};

/// A task by its number, with its name.
fn named(graph: &Graph, task: &str) -> String {
    let name = graph.tasks.iter().find(|node| node.task == task).map(|node| printable(&node.name));
    match name {
        Some(name) => format!("{name} {DIM}{task}{DIM:#}"),
        None => format!("{DIM}task {task}{DIM:#}"),
    }
}

/// The whole tree.
pub(super) fn tree(graph: &Graph) -> String {
    let mut lines = Vec::new();
    for task in &graph.tasks {
        lines.push(head(task));
        let branches = branches(graph, task);
        for (place, branch) in branches.iter().enumerate() {
            let stem = if place + 1 < branches.len() { "├─" } else { "└─" };
            lines.push(format!("{DIM}{stem}{DIM:#} {branch}"));
        }
    }
    let unserved: Vec<_> = graph.endpoints.iter().filter(|it| it.server.is_none()).collect();
    if !unserved.is_empty() {
        lines.push(format!("{HEAD}endpoints without a server{HEAD:#}"));
        for endpoint in unserved {
            let waiting = match endpoint.connects {
                0 => String::new(),
                count => format!(", {WARN}{count} connects wait{WARN:#}"),
            };
            let id = endpoint.endpoint;
            lines.push(format!("   endpoint {id}, incarnation {}{waiting}", endpoint.generation));
        }
    }
    for (place, circle) in graph.circles.iter().enumerate() {
        let first = circle.first().into_iter();
        let round: Vec<_> = circle.iter().chain(first).map(|task| named(graph, task)).collect();
        lines.push(format!("{BAD}circle {place}:{BAD:#} {}", round.join(" → ")));
    }
    if graph.circles.is_empty() {
        lines.push(format!("{GOOD}no circle of waits{GOOD:#}"));
    }
    lines.join("\n")
}

fn head(task: &TaskNode) -> String {
    let name = printable(&task.name);
    let pid = task.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
    let own = if task.own { " (this command)" } else { "" };
    let threads = match (task.receivers, task.free) {
        (0, _) => String::new(),
        (all, 0) => format!("  {WARN}no thread of {all} free{WARN:#}"),
        (all, free) => {
            format!("  {free} of {all} {} free", if all == 1 { "thread" } else { "threads" })
        }
    };
    format!("{HEAD}{name}{HEAD:#} {DIM}{}{pid}{own}{DIM:#}{threads}", task.task)
}

/// What hangs below a task, aligned.
fn branches(graph: &Graph, task: &TaskNode) -> Vec<String> {
    let mut branches = Vec::new();
    for endpoint in &graph.endpoints {
        if endpoint.server.as_ref() == Some(&task.task) {
            let speaks = endpoint.interface.as_deref().map_or("any interface".into(), printable);
            let (id, incarnation) = (endpoint.endpoint, endpoint.generation);
            branches.push(format!("serves  endpoint {id}: {speaks}, incarnation {incarnation}"));
        }
    }
    let held = graph.capabilities.iter().filter(|it| it.holder == task.task);
    let rows: Vec<_> = held.map(|edge| holds(graph, edge)).collect();
    let widest = |cell: usize| rows.iter().map(|row| row[cell].chars().count()).max().unwrap_or(0);
    let (objects, powers) = (widest(0), widest(1));
    branches.extend(rows.iter().map(|[object, power, to]| {
        format!("holds   {object:objects$}  {DIM}{power:powers$}{DIM:#}  {to}").trim_end().into()
    }));
    branches
        .extend(graph.waits.iter().filter(|it| it.task == task.task).map(|it| waits(graph, it)));
    branches
}

/// What is held, with which powers, and whom that leads to.
fn holds(graph: &Graph, edge: &CapabilityEdge) -> [String; 3] {
    let CapabilityEdge { kind, object, rights, badge, count, .. } = edge;
    let badge = if *badge == 0 { String::new() } else { format!(" badge {badge}") };
    let count = if *count == 1 { String::new() } else { format!(" ×{count}") };
    let to = match &edge.to {
        Some(task) if task == "0.0" => "→ the kernel".into(),
        Some(task) => format!("→ {}", named(graph, task)),
        None => String::new(),
    };
    [format!("{kind} {object}"), format!("{rights}{badge}{count}"), to]
}

fn waits(graph: &Graph, edge: &WaitEdge) -> String {
    let left = match edge.left_ms {
        Some(left) => format!("{} left", duration(left)),
        None => "no deadline".into(),
    };
    let what = match edge.transaction {
        Some(number) => {
            let taken = if edge.taken { "taken" } else { "not taken" };
            format!("transaction {number} of connection {}, {taken}", edge.connection)
        }
        None => format!("notifications of connection {}", edge.connection),
    };
    let (on, age) = (named(graph, &edge.on), duration(edge.for_ms));
    match edge.circle {
        Some(circle) => {
            format!(
                "{BAD}waits{BAD:#}   for {on} for {age} ({left}): {what} {BAD}in circle {circle}{BAD:#}"
            )
        }
        None => format!("{WARN}waits{WARN:#}   for {on} for {age} ({left}): {DIM}{what}{DIM:#}"),
    }
}
