//! `rendez restart`: starts a task of the system again.

use super::supervisor::Supervisor;
use crate::failure::Failure;
use crate::output::{GOOD, Output, printable};
use rendez::Task;

/// Ends the task and starts it again; answers once it is ready.
///
/// # Errors
/// If there is no such task, or it does not get ready.
pub(super) fn run(task: &Task, name: &str, output: &Output) -> Result<(), Failure> {
    let supervisor = Supervisor::of(task)?;
    supervisor.restart(name)?;
    let server = supervisor.list()?.into_iter().find(|server| server.name == name);
    output.value(&server);
    let pid =
        server.and_then(|server| server.pid).map_or(String::new(), |pid| format!(" (pid {pid})"));
    output.line(format_args!("{GOOD}{}{GOOD:#} is ready again{pid}", printable(name)));
    Ok(())
}
