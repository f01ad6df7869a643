//! One module a command, and what several of them need: `name_space` (paths and what is behind
//! them), `transfer` (contents of files), `supervisor`.

mod bench;
mod cat;
mod completions;
mod deaths;
mod demo;
mod doctor;
mod down;
mod get;
mod graph;
mod inject;
mod inspect;
mod ls;
mod manifest;
mod mkdir;
mod name_space;
mod ps;
mod put;
mod replay;
mod restart;
mod rm;
mod run;
mod signal;
mod stat;
mod status;
mod supervisor;
mod top;
mod transfer;
mod up;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;
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
    let task = || task(&place()?);
    match arguments.command {
        Command::Up(up) => up::run(&place()?, &up, output)?,
        Command::Manifest(manifest) => return manifest::run(&manifest.action, output),
        Command::Down => down::run(&place()?, task()?, output)?,
        Command::Status => return status::run(&place()?, &task()?, output),
        Command::Ps => ps::run(&task()?, output)?,
        Command::Graph(arguments) => graph::run(&task()?, &arguments, output)?,
        Command::Inspect { what } => inspect::run(&task()?, what.as_ref(), output)?,
        Command::Top(top) => top::run(&task()?, &top, output)?,
        Command::Restart { server } => restart::run(&task()?, &server, output)?,
        Command::Deaths { name, count } => {
            deaths::run(&task()?, name.as_deref(), count.get() as usize, output)?;
        }
        Command::Ls { path, long } => ls::run(&task()?, &path, long, output)?,
        Command::Cat { paths } => cat::run(&task()?, &paths)?,
        Command::Put { from, to } => put::run(&task()?, &from, &to, output)?,
        Command::Get { from, to } => get::run(&task()?, &from, &to, output)?,
        Command::Rm { paths } => rm::run(&task()?, &paths, output)?,
        Command::Mkdir { paths, parents } => mkdir::run(&task()?, &paths, parents, output)?,
        Command::Stat { path } => stat::run(&task()?, &path, output)?,
        Command::Signal(signal) => signal::run(&task()?, &signal.action, output)?,
        Command::Inject(inject) => inject::run(&task()?, &inject, output)?,
        Command::Replay(replay) => replay::run(&replay, output)?,
        Command::Run(run) => return run::run(&task()?, &run),
        Command::Doctor => return Ok(doctor::run(&place()?, output)),
        Command::Completions { shell } => completions::run(shell)?,
        Command::Bench(bench) => bench::run(&bench, output)?,
        Command::BenchPartner { arguments } => bench::partner(&arguments)?,
        Command::Demo(demo) => return demo::run(&demo, output),
        Command::DemoPart { part, arguments } => return demo::part(&part, &arguments),
        Command::PartKernel { record_bytes } => parts::kernel(record_bytes)?,
        Command::PartSupervisor(composed) => return parts::supervisor(&composed),
        Command::PartServer { server, served } => parts::server(&server, &served)?,
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
