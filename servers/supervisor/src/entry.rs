//! A task of the plan and its process.

use crate::launch::spawn_confined;
use crate::log::Log;
use crate::manifest::{Plan, Planned, Program, READY_LABEL, Readiness, Source};
use crate::stuck::Watch;
use rendez::protocol::kernel::{self, Give, Received};
use rendez::service::ReplyRight;
use rendez::{Rights, Slot, Task};
use rendez_ipc_core::counters::PageFile;
use rendez_protocol::TaskId;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// Bytes of a task's output that are read at a time, before others have their turn.
const READ_BYTES: usize = 16 << 10;

/// A task of the plan.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Its endpoints, with all rights, and whether each is served.
    pub(crate) endpoints: Vec<(Slot, bool)>,
    /// Capabilities that were looked up for it, by the place in what it gets.
    pub(crate) found: Vec<Option<Slot>>,
    /// From its start until its end has been seen.
    pub(crate) running: Option<Running>,
    /// Who waits for it to be ready, and until when.
    pub(crate) waiting: Vec<(ReplyRight, Instant)>,
    pub(crate) log: Log,
    pub(crate) last_end: String,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Running {
    /// To its task.
    pub(crate) capability: Received,
    pub(crate) id: TaskId,
    pub(crate) child: Child,
    pub(crate) output: Output,
    /// Its page, once it has one.
    pub(crate) page: Option<PageFile>,
    pub(crate) watch: Watch,
}

/// The reading end of what a process writes.
#[derive(Debug)]
pub(crate) struct Output(std::fs::File);

impl Entry {
    /// The entry of `planned`, with new endpoints, each of which is watched.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(task: &Task, planned: &Planned) -> Result<Self, rendez::Error> {
        let mut endpoints = Vec::new();
        for serving in &planned.serves {
            let endpoint = task.create_endpoint()?;
            task.watch(endpoint.slot)?;
            if serving.hold != kernel::Hold::FOR_EVER {
                task.hold(endpoint.slot, serving.hold)?;
            }
            endpoints.push((endpoint.slot, false));
        }
        Ok(Self { endpoints, found: vec![None; planned.gets.len()], ..Self::default() })
    }

    /// Whether all its endpoints are served.
    pub(crate) fn is_serving(&self) -> bool {
        self.endpoints.iter().all(|(_, serving)| *serving)
    }

    /// Notes that an endpoint of this entry is served or is not; `None` if it is none of them.
    pub(crate) fn served(&mut self, slot: Slot, serving: bool) -> Option<()> {
        let endpoint = self.endpoints.iter_mut().find(|(one, _)| *one == slot)?;
        endpoint.1 = serving;
        Some(())
    }
}

impl Output {
    /// Reads what is there; `None` at the end, an empty slice if there is nothing now.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8; READ_BYTES]) -> Option<&'a [u8]> {
        match self.0.read(buffer) {
            Ok(0) => None,
            Ok(count) => Some(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(&[]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(&[]),
            Err(_) => None,
        }
    }

    /// A buffer to read into.
    pub(crate) const fn buffer() -> [u8; READ_BYTES] {
        [0; READ_BYTES]
    }

    pub(crate) const fn file(&self) -> &std::fs::File {
        &self.0
    }
}

/// What a task starts with.
fn gifts(planned: &Planned, entries: &[Entry], place: usize, own: Slot, kernel: Slot) -> Vec<Give> {
    let give = |label: &str, slot, rights, badge| Give {
        name: label.into(),
        slot,
        rights,
        badge,
        limits: kernel::Limits::SAME,
    };
    let served = Rights::RECEIVE | Rights::SEND | Rights::MINT | Rights::GRANT | Rights::INSPECT;
    let mut gifts: Vec<_> = planned
        .serves
        .iter()
        .zip(&entries[place].endpoints)
        .map(|(serving, (slot, _))| give(&serving.label, *slot, served, None))
        .collect();
    for (getting, found) in planned.gets.iter().zip(&entries[place].found) {
        let slot = match &getting.source {
            Source::Endpoint { task, place } => Some(entries[*task].endpoints[*place].0),
            Source::Path(_) => *found,
            Source::Kernel => Some(kernel),
            Source::Supervisor => Some(own),
        };
        // The machine starts it only once all names have been found.
        if let Some(slot) = slot {
            gifts.push(give(&getting.label, slot, getting.rights, getting.badge));
        }
    }
    if planned.ready == Readiness::Says {
        gifts.push(give(READY_LABEL, own, Rights::SEND, None));
    }
    gifts
}

/// Starts the process of task `place`. `built_in` is the command that runs a server that this
/// executable is.
///
/// # Errors
/// What the kernel or Linux says.
pub(crate) fn launch(
    task: &Task,
    plan: &Plan,
    entries: &[Entry],
    place: usize,
    (own, kernel): (Slot, Slot),
    built_in: impl FnOnce(&str) -> Command,
) -> Result<Running, rendez::Error> {
    let planned = &plan.tasks[place];
    let gifts = gifts(planned, entries, place, own, kernel);
    let (capability, id, socket) =
        task.create_task_with(&planned.name, gifts, planned.quotas.clone())?;
    let started = task.watch(capability.slot).and_then(|()| {
        let failed = |error: io::Error| {
            rendez::Error::system(format!("starting the task {}", planned.name), error)
        };
        let (output, input) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| failed(error.into()))?;
        let command = command(planned, input, built_in).map_err(failed)?;
        let walls = planned
            .sandbox
            .prepare(command.get_program(), &planned.limits)
            .map_err(|error| failed(io::Error::other(error)))?;
        let child = spawn_confined(command, socket, true, walls).map_err(failed)?;
        Ok((child, Output(output.into())))
    });
    match started {
        Ok((child, output)) => {
            Ok(Running { capability, id, child, output, page: None, watch: Watch::default() })
        }
        Err(error) => {
            let _ = task.delete(capability.slot);
            Err(error)
        }
    }
}

fn command(
    planned: &Planned,
    input: OwnedFd,
    built_in: impl FnOnce(&str) -> Command,
) -> io::Result<Command> {
    let mut command = match &planned.program {
        Program::BuiltIn(name) => built_in(name),
        Program::File(file) => Command::new(file),
    };
    command.args(&planned.arguments).current_dir(&planned.directory);
    command.env_clear();
    for name in &planned.inherit {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(planned.environment.iter().map(|(name, value)| (name, value)));
    let output = Stdio::from(input.try_clone()?);
    command.stdin(Stdio::null()).stdout(output).stderr(input);
    Ok(command)
}

/// How a process ended.
pub(crate) fn end_of(status: ExitStatus) -> rendez_protocol::supervisor::End {
    use rendez_protocol::supervisor::End;
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => {
            let name = match nix::sys::signal::Signal::try_from(signal) {
                Ok(known) => known.to_string(),
                Err(_) => format!("signal {signal}"),
            };
            End::Killed { signal, name, core: status.core_dumped() }
        }
        (None, None) => End::NotStarted("ended, Linux does not say how".into()),
    }
}
