//! `rendez inspect`: what a task has, of how much, and where it came from; or what a name leads to.

use super::ps::number;
use crate::arguments::{Inspected, NamePath};
use crate::failure::{FAILED, Failure, NOT_FOUND};
use crate::output::{BAD, DIM, GOOD, HEAD, Output, WARN, bytes, printable, table};
use rendez::Task;
use rendez::protocol::kernel::{EndInfo, How, Provenance, Received, TaskInfo};
use rendez::protocol::quota::{Quota, Use};
use rendez::protocol::{Slot, TaskId};
use serde::Serialize;

/// Of so many capabilities it is said where they came from; each costs a request.
const PROVENANCES: usize = 256;
/// Characters of a bar.
const BAR: u64 = 20;
/// In thousandths: what is nearly used up, and what is well on its way.
const NEARLY: u64 = 900;
const MUCH: u64 = 700;

/// A task, for scripts.
#[derive(Debug, Serialize)]
struct Report {
    task: String,
    name: String,
    pid: Option<u32>,
    uid: Option<u32>,
    parent: Option<String>,
    quotas: Vec<Use>,
    connections: Vec<End>,
    capabilities: Vec<Held>,
}

/// A connection, for scripts.
#[derive(Debug, Serialize)]
struct End {
    connection: String,
    /// `client` or `server`.
    end: &'static str,
    other: Option<String>,
    name: String,
    object: u64,
    rights: String,
    badge: u64,
    bytes: u64,
}

/// A capability, for scripts.
#[derive(Debug, Serialize)]
struct Held {
    slot: String,
    kind: String,
    object: u64,
    rights: String,
    badge: u64,
    /// Its way here, nearest first; absent where it was not asked for.
    from: Option<Vec<Step>>,
}

#[derive(Debug, Serialize)]
struct Step {
    how: &'static str,
    task: String,
    name: String,
    rights: String,
}

/// Says what a task has, or what a name leads to.
///
/// # Errors
/// If there is no such task or name, or this task may not look at it.
pub(super) fn run(task: &Task, what: Option<&Inspected>, output: &Output) -> Result<(), Failure> {
    match what {
        None => {
            let own = task.own().slot;
            say(task, own, None, &OneTask { id: task.id(), info: None }, output)
        }
        Some(Inspected::Path(path)) => capability(task, path, output),
        Some(Inspected::Task(wanted)) => {
            let kernel = task.given_as("kernel")?.slot;
            let info = one(task.list(kernel)?, wanted)?;
            say(task, kernel, Some(kernel), &OneTask { id: info.id, info: Some(info) }, output)
        }
    }
}

struct OneTask {
    id: TaskId,
    info: Option<TaskInfo>,
}

/// The task that is meant: by its number, with or without its generation, or by its name.
fn one(tasks: Vec<TaskInfo>, wanted: &str) -> Result<TaskInfo, Failure> {
    let numbered =
        |info: &TaskInfo| number(info.id) == wanted || info.id.index.to_string() == wanted;
    let by_number = tasks.iter().any(numbered);
    let mut found: Vec<TaskInfo> = tasks
        .into_iter()
        .filter(|info| if by_number { numbered(info) } else { info.name == wanted })
        .collect();
    match (found.pop(), found.len()) {
        (Some(info), 0) => Ok(info),
        (Some(last), _) => {
            let all: Vec<_> = found.iter().chain([&last]).map(|info| number(info.id)).collect();
            let why = format!(
                "several tasks are called {}: {}; name one by its number",
                printable(wanted),
                all.join(", ")
            );
            Err(Failure::new(FAILED, why))
        }
        (None, _) => {
            let why = format!("there is no task {}; `rendez ps` lists them", printable(wanted));
            Err(Failure::new(NOT_FOUND, why))
        }
    }
}

fn say(
    task: &Task,
    by: Slot,
    kernel: Option<Slot>,
    of: &OneTask,
    output: &Output,
) -> Result<(), Failure> {
    let quotas = task.quotas_of(by, of.id)?;
    let connections = task.ends_of(by, of.id)?.iter().map(end).collect();
    let held = task.held_by(by, of.id)?;
    let capabilities = held
        .iter()
        .enumerate()
        .map(|(place, held)| {
            let from = (place < PROVENANCES).then(|| match kernel {
                Some(kernel) => task.provenance_of(kernel, of.id, held.slot),
                None => task.provenance(held.slot),
            });
            // One that is gone by now is shown without its way.
            described(held, from.and_then(Result::ok))
        })
        .collect();
    let credentials = of.info.as_ref().and_then(|info| info.credentials);
    let report = Report {
        task: number(of.id),
        name: of.info.as_ref().map_or("this command".into(), |info| info.name.clone()),
        pid: credentials.map(|who| who.pid),
        uid: credentials.map(|who| who.uid),
        parent: of.info.as_ref().and_then(|info| info.parent).map(number),
        quotas,
        connections,
        capabilities,
    };
    output.value(&report);
    for (name, value) in [
        ("task", format!("{} {DIM}{}{DIM:#}", printable(&report.name), report.task)),
        ("process", or_none(report.pid.map(|pid| pid.to_string()))),
        ("uid", or_none(report.uid.map(|uid| uid.to_string()))),
        ("parent", or_none(report.parent.clone())),
    ] {
        if value != "-" {
            output.line(format_args!("{HEAD}{name:<10}{HEAD:#}{value}"));
        }
    }
    let rows: Vec<_> = report.quotas.iter().map(quota).collect();
    let head = ["QUOTA", "USED", "", "OF", "TAKEN OF WHAT IT DRAWS ON"];
    output.line(format_args!("\n{}", table(&head, &rows)));
    let rows: Vec<_> = report.connections.iter().map(connection).collect();
    if !rows.is_empty() {
        let head = ["CONNECTION", "END", "WITH", "OBJECT", "RIGHTS", "BADGE", "BYTES"];
        output.line(format_args!("\n{}", table(&head, &rows)));
    }
    let rows: Vec<_> = report.capabilities.iter().map(line).collect();
    let head = ["SLOT", "KIND", "OBJECT", "RIGHTS", "BADGE", "FROM"];
    output.line(format_args!("\n{}", table(&head, &rows)));
    Ok(())
}

/// What a name leads to.
fn capability(task: &Task, path: &NamePath, output: &Output) -> Result<(), Failure> {
    let (found, name, rest) = task.look_up(path.as_str(), None, None)?;
    let of = task.inspect(found.slot)?;
    let held = described(&found, task.provenance(found.slot).ok());
    output.value(&serde_json::json!({
        "name": name,
        "below": rest,
        "capability": held,
        "descendants": of.descendants,
        "depth": of.depth,
    }));
    for (what, value) in [
        ("name", printable(&name).into_owned()),
        ("below it", printable(&rest).into_owned()),
        ("names", format!("{} {}", held.kind, held.object)),
        ("rights", format!("{} {DIM}{}{DIM:#}", held.rights, found.rights.names())),
        ("badge", held.badge.to_string()),
        ("from", way(&held)),
    ] {
        if !value.is_empty() {
            output.line(format_args!("{HEAD}{what:<10}{HEAD:#}{value}"));
        }
    }
    Ok(())
}

fn quota(of: &Use) -> Vec<String> {
    let amount = |count: u64| amount(of.quota, count);
    let share = of.share.as_ref().map_or(String::new(), |share| {
        let colour = colour(permille(share.used, share.limit));
        format!(
            "{colour}{}{colour:#} of {} {DIM}{}{DIM:#}",
            amount(share.used),
            amount(share.limit),
            printable(&share.whose)
        )
    });
    vec![of.quota.name().into(), amount(of.used), bar(of.used, of.limit), amount(of.limit), share]
}

/// So much of a quota, for people.
pub(super) fn amount(quota: Quota, count: u64) -> String {
    if quota == Quota::Bytes { bytes(count) } else { count.to_string() }
}

fn permille(used: u64, limit: u64) -> u64 {
    let permille = u128::from(used) * 1000 / u128::from(limit.max(1));
    u64::try_from(permille).unwrap_or(1000).min(1000)
}

/// Whether there is still enough.
pub(super) fn colour(permille: u64) -> anstyle::Style {
    match permille {
        NEARLY.. => BAD,
        MUCH..NEARLY => WARN,
        _ => GOOD,
    }
}

fn bar(used: u64, limit: u64) -> String {
    let permille = permille(used, limit);
    // Something is something.
    let full = (permille * BAR).div_ceil(1000).max(u64::from(used > 0)) as usize;
    let colour = colour(permille);
    let empty = BAR as usize - full;
    format!("{colour}{}{colour:#}{DIM}{}{DIM:#}", "#".repeat(full), ".".repeat(empty))
}

fn end(of: &EndInfo) -> End {
    End {
        connection: format!("{}.{}", of.connection.index, of.connection.generation),
        end: if of.serves { "server" } else { "client" },
        other: of.other.map(number),
        name: of.name.clone(),
        object: of.object.0,
        rights: of.rights.to_letters(),
        badge: of.badge,
        bytes: of.bytes,
    }
}

fn connection(of: &End) -> Vec<String> {
    let other = match &of.other {
        Some(other) => format!("{} {DIM}{other}{DIM:#}", printable(&of.name)),
        None => "nobody yet".into(),
    };
    vec![
        of.connection.clone(),
        of.end.into(),
        other,
        of.object.to_string(),
        of.rights.clone(),
        of.badge.to_string(),
        bytes(of.bytes),
    ]
}

fn described(held: &Received, from: Option<Provenance>) -> Held {
    let from = from.map(|way| {
        let step = |step: rendez::protocol::kernel::Step| Step {
            how: how(step.how),
            task: number(step.task),
            name: step.name,
            rights: step.rights.to_letters(),
        };
        way.steps.into_iter().map(step).collect()
    });
    Held {
        slot: format!("{}.{}", held.slot.index, held.slot.generation),
        kind: format!("{:?}", held.kind).to_lowercase(),
        object: held.object.0,
        rights: held.rights.to_letters(),
        badge: held.badge,
        from,
    }
}

fn line(held: &Held) -> Vec<String> {
    vec![
        held.slot.clone(),
        held.kind.clone(),
        held.object.to_string(),
        held.rights.clone(),
        held.badge.to_string(),
        way(held),
    ]
}

/// Where a capability came from, in a line: nearest first.
fn way(held: &Held) -> String {
    let Some(steps) = &held.from else { return String::new() };
    let mut said = String::new();
    for (place, step) in steps.iter().enumerate() {
        if place > 0 {
            said.push_str(" from ");
            said.push_str(&printable(&step.name));
            said.push_str(": ");
        }
        said.push_str(step.how);
    }
    said
}

const fn how(how: How) -> &'static str {
    match how {
        How::Created => "created",
        How::Minted => "minted",
        How::Given => "given",
        How::FrontDoor => "front door",
        How::Offered => "offered",
        How::Moved => "moved",
    }
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests {
    use super::{bar, one, permille};
    use rendez::protocol::TaskId;
    use rendez::protocol::kernel::TaskInfo;

    fn task(index: u32, generation: u32, name: &str) -> TaskInfo {
        TaskInfo {
            id: TaskId { index, generation },
            name: name.into(),
            credentials: None,
            parent: None,
            capabilities: 0,
            client_connections: 0,
            server_connections: 0,
            tightest: None,
            waits: Vec::new(),
        }
    }

    #[test]
    fn tasks_are_found_by_number_or_name() {
        let all =
            || vec![task(1, 0, "file"), task(2, 3, "twin"), task(4, 0, "twin"), task(5, 0, "1")];
        let found = |wanted| one(all(), wanted).map(|info| info.id.index);
        for (wanted, index) in [("file", 1), ("1", 1), ("2.3", 2), ("2", 2), ("5", 5)] {
            assert_eq!(found(wanted).ok(), Some(index), "{wanted}");
        }
        let twins = found("twin").expect_err("two of them").to_string();
        assert!(twins.contains("2.3, 4.0"), "{twins}");
        assert!(found("2.4").expect_err("another generation").to_string().contains("rendez ps"));
    }

    #[test]
    fn bars_are_as_full_as_what_they_show() {
        let plain = |used, limit| anstream::adapter::strip_str(&bar(used, limit)).to_string();
        assert_eq!(plain(0, 7), ".".repeat(20));
        assert_eq!(plain(1, 1 << 40), format!("#{}", ".".repeat(19)), "something is something");
        assert_eq!(plain(1, 2), format!("{}{}", "#".repeat(10), ".".repeat(10)));
        assert_eq!(plain(9, 7), "#".repeat(20));
        assert_eq!(permille(u64::MAX, 1), 1000);
        assert_eq!(permille(1, 0), 1000);
        assert_eq!(permille(1, 4), 250);
    }
}
