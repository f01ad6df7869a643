//! `rendez up`: starts a system and stays with it.

use crate::arguments::Up;
use crate::failure::{FAILED, Failure};
use crate::manifest::Manifest;
use crate::output::{DIM, GOOD, Output};
use crate::system::{End, System, make_recording};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rendez::runtime::Place;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::os::fd::AsFd;

/// What the ready line says to scripts.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    socket: &'a std::path::Path,
    kernel_pid: u32,
    supervisor_pid: u32,
    serves: String,
    manifest: Option<&'a std::path::Path>,
}

/// Starts a system, says when it is ready, and stays until it is stopped.
///
/// # Errors
/// If it cannot be started, or dies.
pub(super) fn run(place: &Place, up: &Up, output: &Output) -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    let manifest = Manifest::read(up.manifest.as_deref(), &up.served, up.policy.as_ref())?;
    let executable = std::env::current_exe()
        .map_err(|error| Failure::system("finding this executable", error))?;
    let record = make_recording(&up.recording)?;
    // Blocked before anything is there that would be left behind; started processes unblock them.
    signals.thread_block().map_err(|error| Failure::system("blocking signals", error))?;
    let mut system = System::start_recorded(place, &executable, &manifest, record)?;
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| Failure::system("making a signalfd", error))?;
    while !system.wait_ready_or(arrived.as_fd())? {
        if told_to_stop(&arrived) {
            system.stop();
            output.line("stopped before it was ready");
            return Ok(());
        }
    }
    let serves = match &up.served.dir {
        Some(directory) => directory.display().to_string(),
        None => "memory".into(),
    };
    let what = match &up.manifest {
        Some(file) => format!("manifest {}", file.display()),
        None => format!("/file serves {serves}"),
    };
    let socket = place.socket();
    output.value(&Ready {
        ready: true,
        socket: &socket,
        kernel_pid: system.kernel_pid(),
        supervisor_pid: system.supervisor_pid(),
        serves,
        manifest: up.manifest.as_deref(),
    });
    output.line(format_args!(
        "{GOOD}ready{GOOD:#}: {} {DIM}(kernel {}, supervisor {}; {what}){DIM:#}",
        socket.display(),
        system.kernel_pid(),
        system.supervisor_pid(),
    ));
    loop {
        let mut polled = [PollFd::new(&arrived, PollFlags::IN)];
        let _ = poll(&mut polled, None);
        if told_to_stop(&arrived) {
            system.stop();
            output.line("stopped");
            return Ok(());
        }
        match system.ended().map_err(|error| Failure::system("waiting for the system", error))? {
            None => {}
            Some(End::Asked) => {
                system.stop();
                output.line("stopped, as asked");
                return Ok(());
            }
            Some(End::Died(part)) => {
                system.stop();
                return Err(Failure::new(FAILED, format!("the {part} died; the system has ended")));
            }
        }
    }
}

/// Whether a signal has come that says so.
fn told_to_stop(arrived: &SignalFd) -> bool {
    while let Ok(Some(signal)) = arrived.read_signal() {
        if signal.ssi_signo != Signal::SIGCHLD as u32 {
            return true;
        }
    }
    false
}
