//! This executable as the kernel, the supervisor, or one of the servers.

use crate::arguments::{Composed, Served};
use crate::failure::{FAILED, Failure, INTERRUPTED, USAGE};
use crate::manifest::Manifest;
use rendez::{Error, Server, Service, Task};
use rendez_file::{FileServer, MemoryFileSystem, RealDirectory};
use rendez_ipc_core::control::adopt_started;
use rendez_kernel::quota::Quotas;
use rendez_kernel::shell;
use rendez_name::NameServer;
use rendez_protocol::Interface;
use rendez_signal::SignalServer;
use rendez_supervisor::BuiltIn;
use rendez_supervisor::launch::FIRST_INHERITED;
use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

/// The descriptors that `up` gives the kernel, from [`FIRST_INHERITED`] on: the listening socket of
/// the front door, the kernel's end of the supervisor's socket, the lifeline, the lock; and then, if
/// there is to be a recording, its file.
const KERNEL_DESCRIPTORS: i32 = 4;

/// What a file system in memory may hold.
const MEMORY_BYTES: u64 = 256 << 20;
/// How many files and directories it may have.
const MEMORY_NODES: usize = 100_000;

/// Runs the kernel, with the descriptors that `up` gave it; with one more if it is to record, so
/// many bytes at most.
///
/// # Errors
/// If they are not there, or what Linux says.
pub fn kernel(record_bytes: Option<u64>) -> Result<(), Failure> {
    let count = KERNEL_DESCRIPTORS + i32::from(record_bytes.is_some());
    let numbers = FIRST_INHERITED..FIRST_INHERITED + count;
    let mut given = adopt_started(numbers).map_err(|_| not_by_hand("the kernel"))?;
    let record = record_bytes.and_then(|bytes_max| {
        let file = given.pop()?;
        Some(shell::Record { file, bytes_max })
    });
    let [listener, first, lifeline, lock] =
        <[OwnedFd; 4]>::try_from(given).map_err(|_| not_by_hand("the kernel"))?;
    let mut config = shell::Config::new(listener);
    config.first = Some(first);
    config.first_name = "supervisor".into();
    config.lifeline = Some(lifeline);
    config.keep = vec![lock];
    config.record = record;
    config.quotas = Quotas::default();
    shell::run(config).map_err(|error| Failure::new(FAILED, format!("kernel: {error}")))
}

fn not_by_hand(part: &str) -> Failure {
    Failure::new(USAGE, format!("{part} is started by `rendez up`, not by hand"))
}

struct Myself {
    executable: PathBuf,
}

impl BuiltIn for Myself {
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(["part-server", name]);
        command
    }
}

/// What the supervisor says on standard output, for `up`, once all tasks are ready that must be.
pub const READY: &str = "ready";

/// Runs the supervisor with the manifest that is its standard input. Says [`READY`] on standard output
/// once all tasks are ready that must be, or in one line why
/// that will not be. The exit code: whether it was asked to stop or the kernel went first, which
/// `up` wants to know.
///
/// # Errors
/// What the kernel says; what is wrong with the manifest.
pub fn supervisor(composed: &Composed) -> Result<u8, Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::system("finding this executable", error))?;
    let Manifest { plan, policy, .. } = Manifest::passed_on(composed)?;
    let said = Rc::new(Cell::new(false));
    let ready = Rc::clone(&said);
    let ended = rendez_supervisor::run(plan, &policy, Myself { executable }, move || {
        ready.set(true);
        say(READY);
    });
    match ended {
        Ok(()) => Ok(0),
        Err(rendez_supervisor::Error::Rendez(Error::KernelGone)) => Ok(INTERRUPTED),
        Err(error) if said.get() => Err(Failure::new(FAILED, error.to_string())),
        Err(error) => {
            say(&error.to_string().replace('\n', " "));
            Ok(FAILED)
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs the server called `name`.
///
/// # Errors
/// What the kernel or Linux says.
pub fn server(name: &str, served: &Served) -> Result<(), Failure> {
    match name {
        "name" => serve(&mut NameServer::new(), rendez_protocol::name::interface()),
        "file" => {
            let interface = rendez_protocol::file::interface();
            match &served.dir {
                Some(directory) => {
                    let root = RealDirectory::open(directory).map_err(|error| {
                        Failure::system(format!("opening {}", directory.display()), error)
                    })?;
                    serve(&mut FileServer::new(root), interface)
                }
                None => {
                    let memory = MemoryFileSystem::new(MEMORY_BYTES, MEMORY_NODES);
                    serve(&mut FileServer::new(memory), interface)
                }
            }
        }
        "signal" => {
            SignalServer::block_bridged()
                .map_err(|error| Failure::system("blocking POSIX signals", error))?;
            let mut signals = SignalServer::new()
                .map_err(|error| Failure::system("setting up the signal server", error))?;
            serve(&mut signals, rendez_protocol::signal::interface())
        }
        other => Err(Failure::new(USAGE, format!("there is no server called {other:?}"))),
    }
}

fn serve(service: &mut impl Service, interface: Interface) -> Result<(), Failure> {
    let task = Task::inherited()?.ok_or_else(|| not_by_hand("a server of the system"))?;
    let mut server = Server::new(&task)?;
    server.serve(task.given_as("serve")?.slot, Some(interface))?;
    ended(server.run(service))
}

/// A part that ends because the system has ended has done its work.
fn ended(result: Result<(), Error>) -> Result<(), Failure> {
    match result {
        Ok(()) | Err(Error::KernelGone) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
