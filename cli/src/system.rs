//! Starting and stopping a system.
//!
//! `up` takes the lock, binds the front door, and hands both to the kernel, which opens no file
//! itself. What `up` started ends with it, however it ends: the kernel reads the end of its
//! lifeline, kills the tasks it created, and closes every task's socket; besides, Linux kills kernel
//! and supervisor when the thread that started them ends.
//!
//! The lock is a file that is locked (`flock`) while the system lives. What a crash leaves behind
//! is that file, unlocked, and the front door's socket, with nobody behind it: the next `up` takes
//! both over.

use crate::arguments::Served;
use crate::failure::{FAILED, Failure, INTERRUPTED, RUNNING};
use nix::fcntl::{Flock, FlockArg};
use rendez::runtime::Place;
use rendez_protocol::kernel::SOCKET_VARIABLE;
use rendez_supervisor::launch::{spawn, spawn_task};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Connections that may wait at the front door.
const BACKLOG: i32 = 128;

/// A running system. Dropping it stops it.
#[derive(Debug)]
pub struct System {
    place: Place,
    kernel: Child,
    supervisor: Child,
    /// The kernel stops when this is closed.
    lifeline: Option<OwnedFd>,
    ready: Option<BufReader<std::process::ChildStdout>>,
    lock: Option<Flock<File>>,
}

/// How a system came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The supervisor ended as it should: somebody asked it to stop.
    Asked,
    /// The supervisor or the kernel died.
    Died(&'static str),
}

impl System {
    /// Starts a system at `place`, by `executable`. It is ready after [`System::wait_ready`]. It
    /// ends with the calling thread.
    ///
    /// # Errors
    /// If one is running there already, or what Linux says.
    pub fn start(place: &Place, executable: &Path, served: &Served) -> Result<Self, Failure> {
        if let Some(directory) = &served.dir {
            let found = std::fs::metadata(directory).map_err(|error| {
                Failure::system(
                    format!("the directory {} cannot be served", directory.display()),
                    error,
                )
            })?;
            if !found.is_dir() {
                return Err(Failure::new(
                    FAILED,
                    format!("{} cannot be served: it is no directory", directory.display()),
                ));
            }
        }
        make_directory(&place.directory)?;
        let lock = take_lock(place)?;
        let listener = open_front_door(&place.socket())?;
        let (kernel_end, supervisor_end) = rendez_kernel::shell::socket_pair()
            .map_err(|error| Failure::system("making a socket pair", error))?;
        let (lifeline, kernel_lifeline) = pair()?;
        let kept =
            lock.try_clone().map_err(|error| Failure::system("duplicating the lock", error))?;

        let mut command = Command::new(executable);
        command.arg("part-kernel").stdin(Stdio::null()).current_dir("/");
        command.env_remove(SOCKET_VARIABLE);
        let inherited = vec![listener, kernel_end, kernel_lifeline, kept.into()];
        let kernel = spawn(command, inherited, true)
            .map_err(|error| Failure::system("starting the kernel", error))?;

        let mut command = Command::new(executable);
        command.arg("part-supervisor").stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(directory) = &served.dir {
            command.arg("--dir").arg(directory);
        }
        let mut supervisor = match spawn_task(command, supervisor_end, true) {
            Ok(supervisor) => supervisor,
            Err(error) => {
                let mut kernel = kernel;
                let _ = kernel.kill().and_then(|()| kernel.wait());
                return Err(Failure::system("starting the supervisor", error));
            }
        };
        let ready = supervisor.stdout.take().map(BufReader::new);
        Ok(Self {
            place: place.clone(),
            kernel,
            supervisor,
            lifeline: Some(lifeline),
            ready,
            lock: Some(lock),
        })
    }

    /// Waits until all servers serve.
    ///
    /// # Errors
    /// If the supervisor ends before.
    pub fn wait_ready(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        if let Some(ready) = &mut self.ready {
            let _ = ready.read_line(&mut line);
        }
        if line.trim_end() == "ready" {
            return Ok(());
        }
        let _ = self.supervisor.kill();
        let end =
            self.supervisor.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        Err(Failure::new(
            FAILED,
            format!("the supervisor ended before the system was ready ({end})"),
        ))
    }

    /// The kernel's process.
    #[must_use]
    pub fn kernel_pid(&self) -> u32 {
        self.kernel.id()
    }

    /// The supervisor's process.
    #[must_use]
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// Whether the system has come to its end, and how.
    ///
    /// # Errors
    /// What Linux says to looking.
    pub fn ended(&mut self) -> std::io::Result<Option<End>> {
        if let Some(status) = self.supervisor.try_wait()? {
            return Ok(Some(match status.code() {
                Some(0) => End::Asked,
                Some(code) if code == i32::from(INTERRUPTED) => End::Died("kernel"),
                _ => End::Died("supervisor"),
            }));
        }
        Ok(self.kernel.try_wait()?.map(|_| End::Died("kernel")))
    }

    /// Stops the system and removes what it had in the runtime directory.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(lifeline) = self.lifeline.take() else { return };
        drop(lifeline);
        let _ = self.kernel.wait();
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        let _ = std::fs::remove_file(self.place.socket());
        // The lock's file goes while it is still locked, so that nobody's fresh one is removed.
        let _ = std::fs::remove_file(self.place.lock());
        self.lock = None;
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end();
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Failure::system("making a socket pair", error))
}

/// Makes the runtime directory, for its owner alone; refuses one that belongs to somebody else.
fn make_directory(directory: &Path) -> Result<(), Failure> {
    let at = |what: &str| format!("{what} the runtime directory {}", directory.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| Failure::system(at("making"), error))?;
    let found = std::fs::symlink_metadata(directory)
        .map_err(|error| Failure::system(at("looking at"), error))?;
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own {
        return Err(Failure::new(
            FAILED,
            format!(
                "the runtime directory {} belongs to user {} and not to {own}, or is no directory; \
                 name another with --runtime-dir",
                directory.display(),
                found.uid()
            ),
        ));
    }
    Ok(())
}

fn take_lock(place: &Place) -> Result<Flock<File>, Failure> {
    let path = place.lock();
    loop {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| Failure::system(format!("opening {}", path.display()), error))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(Failure::new(
                    RUNNING,
                    format!(
                        "a system is running already: instance {:?} in {}; stop it with `rendez down`, \
                         or pick another with $RENDEZ_INSTANCE",
                        place.instance,
                        place.directory.display()
                    ),
                ));
            }
            Err((_, error)) => {
                return Err(Failure::system(format!("locking {}", path.display()), error));
            }
        };
        // A system that was just stopping may have removed the file that we have locked.
        let locked = lock.metadata().map(|found| (found.dev(), found.ino()));
        let named = std::fs::metadata(&path).map(|found| (found.dev(), found.ino()));
        match (locked, named) {
            (Ok(locked), Ok(named)) if locked == named => return Ok(lock),
            (Err(error), _) => {
                return Err(Failure::system(format!("looking at {}", path.display()), error));
            }
            _ => {}
        }
    }
}

/// Binds the front door. The lock is ours, so a socket that is there has nobody behind it.
fn open_front_door(path: &PathBuf) -> Result<OwnedFd, Failure> {
    let at = |what: &str| format!("{what} the front door {}", path.display());
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::system(at("removing a stale socket at"), error)),
    }
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| Failure::system("making a socket", error))?;
    let address =
        SocketAddrUnix::new(path).map_err(|error| Failure::system(at("naming"), error))?;
    bind(&socket, &address).map_err(|error| Failure::system(at("binding"), error))?;
    listen(&socket, BACKLOG).map_err(|error| Failure::system(at("opening"), error))?;
    Ok(socket)
}
