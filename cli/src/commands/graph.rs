//! `rendez graph`: the tasks of the system, the endpoints that they serve, the capabilities that they
//! hold, and who waits for whom; for people, for scripts, and for Graphviz.
//!
//! What there is (`model`) is asked of the kernel a page at a time, and put on a terminal (`draw`) or
//! into the DOT language (`dot`). Waits are looked at twice: what is marked as a circle was one both
//! times.

mod dot;
mod draw;
mod model;
#[cfg(test)]
mod tests;

use crate::arguments::GraphArguments;
use crate::failure::Failure;
use crate::output::Output;
use model::{Graph, Looked};
use rendez::Task;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long after the first look at waits the second one is taken, if the first has found a circle.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// Shows it.
///
/// # Errors
/// If this task may not look at the others.
pub(super) fn run(task: &Task, arguments: &GraphArguments, output: &Output) -> Result<(), Failure> {
    let kernel = task.given_as("kernel")?.slot;
    let mut waits = task.waits(kernel)?;
    let mut circles = model::circles(&waits);
    if !circles.is_empty() {
        std::thread::sleep(SECOND_LOOK);
        waits = task.waits(kernel)?;
        let again: BTreeSet<_> = model::circles(&waits).into_iter().collect();
        circles.retain(|circle| again.contains(circle));
    }
    let looked = Looked {
        tasks: task.list(kernel)?.into_iter().map(Into::into).collect(),
        endpoints: task.endpoints(kernel)?,
        capabilities: task.capabilities(kernel)?,
        waits,
        circles,
    };
    let graph = Graph::new(&looked, task.id());
    output.value(&graph);
    output.line(if arguments.dot { dot::document(&graph) } else { draw::tree(&graph) });
    Ok(())
}
