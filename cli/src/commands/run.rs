//! `rendez run`: a program as a task with just the capabilities that are given.

use crate::arguments::{Gift, Run};
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::printable;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rendez::protocol::kernel::{Give, Limits, Received};
use rendez::protocol::limit::LABEL_BYTES_MAX;
use rendez::{Rights, Status, Task};
use rendez_supervisor::launch::spawn_task;
use rustix::event::{PollFd, PollFlags, poll};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

/// The program was found and could not be started.
const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
const NO_PROGRAM: u8 = 127;
/// What the exit code of a program that was killed is counted from.
const KILLED: u8 = 128;
/// Signals that are meant for the program.
const PASSED_ON: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Starts the program, waits for its end, and answers its exit code.
///
/// # Errors
/// If a capability cannot be had, or the program not be started.
pub(super) fn run(task: &Task, run: &Run) -> Result<u8, Failure> {
    let Some((program, arguments)) = run.command.split_first() else {
        return Err(Failure::new(USAGE, "no program is named; write it after `--`"));
    };
    let mut give = Vec::new();
    for gift in &run.give {
        if give.iter().any(|given: &Give| given.name == gift.name) {
            return Err(Failure::new(
                USAGE,
                format!("two capabilities are to be named {:?}", gift.name),
            ));
        }
        give.push(obtain(task, gift)?);
    }
    let (_capability, _, socket) = task.create_task(&label(program), give)?;
    let mut command = Command::new(program);
    command.args(arguments);
    let child = spawn_task(command, socket, true).map_err(|error| {
        let code = if error.kind() == ErrorKind::NotFound { NO_PROGRAM } else { NOT_EXECUTABLE };
        let name = program.to_string_lossy();
        let name = printable(&name);
        Failure::new(
            code,
            match error.kind() {
                ErrorKind::NotFound => format!("there is no program {name}: is it on $PATH?"),
                _ => format!("starting {name}: {error}"),
            },
        )
    })?;
    wait(child).map(exit_code)
}

/// What is given, from a capability that may be passed on.
fn obtain(task: &Task, gift: &Gift) -> Result<Give, Failure> {
    let about = |failure: Failure| failure.about(format_args!("--give {}", printable(&gift.name)));
    // Giving away needs GRANT, and giving less than one has needs MINT; the task gets neither.
    let wanted = gift.rights | Rights::GRANT | Rights::MINT;
    let path = gift.path.as_str();
    let (received, name, rest) = match task.look_up(path, Some(wanted), None) {
        Err(error) if error.status() == Some(Status::DENIED) => {
            own(task, path, wanted).ok_or_else(|| about(error.into()))?
        }
        other => other.map_err(|error| about(error.into()))?,
    };
    if !rest.is_empty() {
        let why = format!(
            "{} lies inside the server {name}; a capability is to a whole server: write {name}",
            gift.path
        );
        return Err(about(Failure::new(FAILED, why)));
    }
    Ok(Give {
        name: gift.name.clone(),
        slot: received.slot,
        rights: gift.rights,
        badge: None,
        limits: Limits::SAME,
    })
}

/// A capability that this task was itself given, to what is registered under `path`. It may have
/// rights that the name server gives nobody: to register names, say.
fn own(task: &Task, path: &str, wanted: Rights) -> Option<(Received, String, String)> {
    let (found, name, rest) = task.look_up(path, None, None).ok()?;
    let same = |own: &&Received| own.object == found.object && own.rights.contains(wanted);
    let own = task.given().iter().map(|given| &given.capability).find(same)?;
    Some((*own, name, rest))
}

/// The task's name: the program's, as far as it is fit to print.
fn label(program: &OsStr) -> String {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(LABEL_BYTES_MAX / char::MAX.len_utf8())
        .collect();
    if name.is_empty() { "program".into() } else { name }
}

/// Waits for the end of the program, and passes signals on to it meanwhile.
fn wait(mut child: Child) -> Result<ExitStatus, Failure> {
    let failed = |doing: &'static str| move |error: nix::Error| Failure::system(doing, error);
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    // Blocked only now: a started process inherits what is blocked.
    signals.thread_block().map_err(failed("blocking signals"))?;
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("making a signalfd"))?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    loop {
        let ended =
            child.try_wait().map_err(|error| Failure::system("waiting for the program", error))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        let _ = poll(&mut [PollFd::new(&arrived, PollFlags::IN)], None);
        while let Ok(Some(signal)) = arrived.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            // What a terminal sends goes to the program as well.
            let from_terminal = signal.ssi_code == nix::libc::SI_KERNEL;
            if let (Ok(pid), Ok(signal)) = (pid, Signal::try_from(number))
                && signal != Signal::SIGCHLD
                && !from_terminal
            {
                let _ = kill(pid, signal);
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| i32::from(KILLED) + number));
    // Both are below 256 on Linux.
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use super::{exit_code, label};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }

    #[test]
    fn tasks_are_called_after_their_program() {
        assert_eq!(label("/bin/echo".as_ref()), "echo");
        assert_eq!(label("/".as_ref()), "/");
        assert_eq!(label("\n".as_ref()), "program");
        assert!(label("ä".repeat(300).as_ref()).len() <= 64);
    }
}
