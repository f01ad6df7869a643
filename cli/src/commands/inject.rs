//! `rendez inject`: faults in a task's transactions.

use crate::arguments::Inject;
use crate::failure::{Failure, NOT_FOUND};
use crate::output::{DIM, Output, printable, table};
use rendez::Task;
use rendez::protocol::TaskId;
use rendez::protocol::injection::{Injection, InjectionId, Pending};
use rendez::protocol::kernel::TaskInfo;

/// Injects, lists, or takes back.
///
/// # Errors
/// If there is no such task, or what the kernel says.
pub(super) fn run(task: &Task, inject: &Inject, output: &Output) -> Result<(), Failure> {
    let kernel = task.given_as("kernel")?.slot;
    let tasks = task.list(kernel)?;
    let found = find(&tasks, &inject.task)?;
    let name = printable(&found.name);
    if let Some(number) = inject.cancel {
        let id = InjectionId(number);
        task.cancel_injection(kernel, Some(found.id), id)?;
        output.line(format_args!("{id} into {name} is taken back"));
        return Ok(());
    }
    let (Some(phase), Some(action)) = (inject.phase, inject.action) else {
        let pending = task.injections(kernel, Some(found.id))?;
        list(&pending, output);
        return Ok(());
    };
    let injection = Injection { phase, nth: inject.nth, action };
    let id = task.inject_into(kernel, found.id, injection)?;
    output.value(&serde_json::json!({
        "task": number(found.id),
        "injection": id.map(|id| id.0),
    }));
    match id {
        Some(id) => output.line(format_args!("{id} into {name}: {injection} from now on")),
        None => output.line(format_args!("{name}: {action} {DIM}at once{DIM:#}")),
    }
    Ok(())
}

fn list(pending: &[Pending], output: &Output) {
    let value: Vec<_> = pending
        .iter()
        .map(|Pending { id, injection }| {
            serde_json::json!({
                "injection": id.0,
                "phase": injection.phase.name(),
                "action": injection.action.to_string(),
                "nth": injection.nth,
            })
        })
        .collect();
    output.value(&value);
    if pending.is_empty() {
        output.line(format_args!("{DIM}nothing is pending{DIM:#}"));
        return;
    }
    let rows: Vec<_> = pending
        .iter()
        .map(|Pending { id, injection }| {
            let Injection { phase, nth, action } = injection;
            vec![id.0.to_string(), phase.to_string(), action.to_string(), nth.to_string()]
        })
        .collect();
    output.line(table(&["NUMBER", "PHASE", "ACTION", "NTH"], &rows));
}

/// The one task of that number, or that name.
fn find<'a>(tasks: &'a [TaskInfo], wanted: &str) -> Result<&'a TaskInfo, Failure> {
    if let Some(found) = tasks.iter().find(|info| number(info.id) == wanted) {
        return Ok(found);
    }
    let named: Vec<_> = tasks.iter().filter(|info| info.name == wanted).collect();
    match named[..] {
        [found] => Ok(found),
        [] => Err(Failure::new(
            NOT_FOUND,
            format!("there is no task {}; `rendez ps` lists them", printable(wanted)),
        )),
        _ => {
            let numbers: Vec<_> = named.iter().map(|info| number(info.id)).collect();
            let text = format!(
                "several tasks are called {}: say which by its number, one of {}",
                printable(wanted),
                numbers.join(", ")
            );
            Err(Failure::new(NOT_FOUND, text))
        }
    }
}

fn number(id: TaskId) -> String {
    format!("{}.{}", id.index, id.generation)
}
