//! One module a command.

mod bench;
mod up;

use crate::arguments::{Arguments, Command};
use crate::failure::{FAILED, Failure};
use crate::output::Output;
use crate::parts;
use rendez::Task;
use rendez::runtime::Place;
use std::path::Path;

/// Does what the arguments say; the exit code.
///
/// # Errors
/// Why it could not be done.
pub fn run(arguments: Arguments, output: &Output) -> Result<u8, Failure> {
    let place = || place(arguments.runtime_dir.as_deref());
    match arguments.command {
        Command::Up(up) => up::run(&place()?, &up, output)?,
        Command::Bench(bench) => bench::run(&bench, output)?,
        Command::BenchPartner { arguments } => bench::partner(&arguments)?,
        Command::PartKernel => parts::kernel()?,
        Command::PartSupervisor(served) => parts::supervisor(served)?,
        Command::PartServer { server, served } => parts::server(&server, &served)?,
        _ => return Err(Failure::new(FAILED, "not there")),
    }
    Ok(0)
}

fn place(explicit: Option<&Path>) -> Result<Place, Failure> {
    Place::find(explicit).map_err(|bad| Failure::new(crate::failure::USAGE, bad.to_string()))
}

/// This command as a task of the running system.
///
/// # Errors
/// If none is running.
pub fn task(place: &Place) -> Result<Task, Failure> {
    match Task::inherited()? {
        Some(task) => Ok(task),
        None => Ok(Task::front_door(place)?),
    }
}
