//! `rendez ps`: the tasks of the system, and what each waits for.

use super::inspect::{amount, colour};
use crate::failure::Failure;
use crate::output::{DIM, Output, printable, table};
use rendez::Task;
use rendez::protocol::TaskId;
use rendez::protocol::kernel::{TaskInfo, Waiting};
use rendez::protocol::quota::Use;
use serde::Serialize;

/// A task, for scripts.
#[derive(Debug, Serialize)]
struct Row<'a> {
    task: String,
    name: &'a str,
    pid: Option<u32>,
    uid: Option<u32>,
    parent: Option<String>,
    capabilities: u32,
    client_connections: u32,
    server_connections: u32,
    /// The quota of which it has least left.
    tightest: Option<&'a Use>,
    waits: Vec<Wait<'a>>,
    /// Whether it is this very command.
    own: bool,
}

/// One wait.
#[derive(Debug, Serialize)]
struct Wait<'a> {
    on: Option<String>,
    name: &'a str,
    for_ms: u64,
    /// How much longer at most; `null` for no end.
    left_ms: Option<u64>,
}

/// Lists the tasks.
///
/// # Errors
/// If this task may not look at them.
pub(super) fn run(task: &Task, output: &Output) -> Result<(), Failure> {
    let tasks = task.list(task.given_as("kernel")?.slot)?;
    let own = task.id();
    let rows: Vec<_> = tasks.iter().map(|info| row(info, own)).collect();
    output.value(&rows);
    let lines: Vec<_> = rows.iter().map(line).collect();
    let head = [
        "TASK",
        "NAME",
        "PID",
        "UID",
        "CAPS",
        "CLIENT",
        "SERVER",
        "TIGHTEST",
        "PARENT",
        "WAITS FOR",
    ];
    output.line(table(&head, &lines));
    Ok(())
}

fn row(info: &TaskInfo, own: TaskId) -> Row<'_> {
    Row {
        task: number(info.id),
        name: &info.name,
        pid: info.credentials.map(|who| who.pid),
        uid: info.credentials.map(|who| who.uid),
        parent: info.parent.map(number),
        capabilities: info.capabilities,
        client_connections: info.client_connections,
        server_connections: info.server_connections,
        tightest: info.tightest.as_ref(),
        waits: info
            .waits
            .iter()
            .map(|Waiting { on, name, for_ms, left_ms }| Wait {
                on: on.map(number),
                name,
                for_ms: *for_ms,
                left_ms: *left_ms,
            })
            .collect(),
        own: info.id == own,
    }
}

fn line(row: &Row<'_>) -> Vec<String> {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let name = printable(row.name);
    let waits: Vec<_> = row
        .waits
        .iter()
        .map(|wait| {
            let name = if wait.name.is_empty() { "?".into() } else { printable(wait.name) };
            let left = match wait.left_ms {
                Some(left) => format!("{} left", duration(left)),
                None => "no deadline".into(),
            };
            format!("{name} for {} ({left})", duration(wait.for_ms))
        })
        .collect();
    vec![
        row.task.clone(),
        if row.own { format!("{name} {DIM}(this command){DIM:#}") } else { name.into_owned() },
        or_none(row.pid.map(|pid| pid.to_string())),
        or_none(row.uid.map(|uid| uid.to_string())),
        row.capabilities.to_string(),
        row.client_connections.to_string(),
        row.server_connections.to_string(),
        or_none(row.tightest.map(tightest)),
        or_none(row.parent.clone()),
        if waits.is_empty() { "-".into() } else { waits.join(", ") },
    ]
}

/// The quota, what is used, and of how much: the task's own, or what it draws on if that is tighter.
fn tightest(of: &Use) -> String {
    let own = (of.used, of.limit);
    let (used, limit) = match &of.share {
        Some(share) if tighter((share.used, share.limit), own) => (share.used, share.limit),
        _ => own,
    };
    let colour = colour(of.permille());
    let (used, limit) = (amount(of.quota, used), amount(of.quota, limit));
    format!("{} {colour}{used}/{limit}{colour:#}", of.quota.name())
}

fn tighter(one: (u64, u64), other: (u64, u64)) -> bool {
    u128::from(one.0) * u128::from(other.1.max(1)) > u128::from(other.0) * u128::from(one.1.max(1))
}

pub(super) fn number(id: TaskId) -> String {
    format!("{}.{}", id.index, id.generation)
}

pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations() {
        for (ms, text) in [(0, "0 ms"), (999, "999 ms"), (1_250, "1.2 s"), (61_000, "1 min 1 s")] {
            assert_eq!(duration(ms), text);
        }
    }
}
