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

use crate::arguments::Recording;
use crate::failure::{FAILED, Failure, INTERRUPTED, RUNNING};
use crate::manifest::Manifest;
use crate::parts::READY;
use nix::fcntl::{Flock, FlockArg};
use rendez::runtime::Place;
use rendez_kernel::shell::Record;
use rendez_protocol::kernel::SOCKET_VARIABLE;
use rendez_supervisor::launch::{spawn, spawn_task};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Connections that may wait at the front door.
const BACKLOG: i32 = 128;

/// How long a process that is to stop may take, before it is killed; and then, before it is left to
/// Linux.
const FAREWELL: Duration = Duration::from_secs(5);

/// A running system. Dropping it stops it.
#[derive(Debug)]
pub struct System {
    kernel: Child,
    supervisor: Child,
    /// The kernel stops when this is closed.
    lifeline: Option<OwnedFd>,
    ready: ChildStdout,
    /// What the supervisor has said up to now.
    said: Vec<u8>,
    _files: Files,
}

/// What a system has in the runtime directory, removed when this is dropped.
#[derive(Debug)]
struct Files {
    place: Place,
    _lock: Flock<File>,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.place.socket());
        // The lock's file goes while it is still locked, so that nobody's fresh one is removed.
        let _ = std::fs::remove_file(self.place.lock());
    }
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
    /// Starts a system at `place`, by `executable`, that consists of what `manifest` says. It is ready after [`System::wait_ready`]. It
    /// ends with the calling thread.
    ///
    /// # Errors
    /// If one is running there already, or what Linux says.
    pub fn start(place: &Place, executable: &Path, manifest: &Manifest) -> Result<Self, Failure> {
        Self::start_recorded(place, executable, manifest, None)
    }

    /// As [`System::start`], with a recording of what the kernel is told.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_recorded(
        place: &Place,
        executable: &Path,
        manifest: &Manifest,
        record: Option<Record>,
    ) -> Result<Self, Failure> {
        let own = nix::unistd::geteuid().as_raw();
        let door = if manifest.policy.admits_others(own) { Door::ForAll } else { Door::Own };
        make_directory(&place.directory, door)?;
        let lock = take_lock(place)?;
        let kept =
            lock.try_clone().map_err(|error| Failure::system("duplicating the lock", error))?;
        let files = Files { place: place.clone(), _lock: lock };
        let listener = open_front_door(&place.socket(), door)?;
        let (kernel_end, supervisor_end) = rendez_kernel::shell::socket_pair()
            .map_err(|error| Failure::system("making a socket pair", error))?;
        let (lifeline, kernel_lifeline) = pair()?;

        let mut command = Command::new(executable);
        command.arg("part-kernel").stdin(Stdio::null()).current_dir("/");
        command.env_remove(SOCKET_VARIABLE);
        let mut inherited = vec![listener, kernel_end, kernel_lifeline, kept.into()];
        if let Some(record) = record {
            command.arg("--record-bytes").arg(record.bytes_max.to_string());
            inherited.push(record.file);
        }
        let mut kernel = spawn(command, inherited, true)
            .map_err(|error| Failure::system("starting the kernel", error))?;

        let mut command = Command::new(executable);
        command.arg("part-supervisor").stdin(Stdio::piped()).stdout(Stdio::piped());
        manifest.pass_on(&mut command);
        let started = spawn_task(command, supervisor_end, true).and_then(|mut supervisor| {
            let ready = supervisor.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            let told = supervisor.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            // One that ends instead of listening says why by its end.
            let _ = manifest.tell(told);
            Ok((supervisor, ready))
        });
        match started {
            Ok((supervisor, ready)) => Ok(Self {
                kernel,
                supervisor,
                lifeline: Some(lifeline),
                ready,
                said: Vec::new(),
                _files: files,
            }),
            Err(error) => {
                kill(&mut kernel);
                Err(Failure::system("starting the supervisor", error))
            }
        }
    }

    /// Waits until all servers serve.
    ///
    /// # Errors
    /// As [`System::wait_ready_or`].
    pub fn wait_ready(&mut self) -> Result<(), Failure> {
        while !self.look_ready(None)? {}
        Ok(())
    }

    /// Waits until all servers serve, which is answered, or until `other` is readable.
    ///
    /// # Errors
    /// If a server or the supervisor ends before.
    pub fn wait_ready_or(&mut self, other: BorrowedFd<'_>) -> Result<bool, Failure> {
        self.look_ready(Some(other))
    }

    /// Waits until the supervisor says something, or `other` is readable.
    fn look_ready(&mut self, other: Option<BorrowedFd<'_>>) -> Result<bool, Failure> {
        let mut polled = vec![PollFd::new(&self.ready, PollFlags::IN)];
        polled.extend(other.map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(Failure::system("waiting for the supervisor", error)),
        }
        if polled[0].revents().is_empty() {
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        let count = self
            .ready
            .read(&mut buffer)
            .map_err(|error| Failure::system("hearing the supervisor", error))?;
        self.said.extend_from_slice(&buffer[..count]);
        match self.said.split(|byte| *byte == b'\n').next() {
            Some(line) if line.len() < self.said.len() => {
                let line = String::from_utf8_lossy(line);
                if line == READY { Ok(true) } else { Err(Failure::new(FAILED, line)) }
            }
            _ if count > 0 => Ok(false),
            _ => Err(self.ended_early()),
        }
    }

    /// The supervisor has closed its end without a word.
    fn ended_early(&mut self) -> Failure {
        if !ends(&mut self.supervisor, FAREWELL) {
            kill(&mut self.supervisor);
        }
        let what = match self.supervisor.try_wait().map(|end| end.map(|end| (end.code(), end))) {
            Ok(Some((Some(0), _))) => "the system was stopped before it was ready".into(),
            Ok(Some((Some(code), _))) if code == i32::from(INTERRUPTED) => {
                "the kernel died before the system was ready".into()
            }
            Ok(Some((_, end))) => {
                format!("the supervisor ended before the system was ready: {end}")
            }
            _ => "the supervisor ended before the system was ready".into(),
        };
        Failure::new(FAILED, what)
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
        // No timer decides that somebody is dead, but one who is to stop is not waited for for ever.
        if !ends(&mut self.kernel, FAREWELL) {
            kill(&mut self.kernel);
        }
        kill(&mut self.supervisor);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills a process. If Linux takes its time to end it, it is left to it.
fn kill(child: &mut Child) {
    let _ = child.kill();
    ends(child, FAREWELL);
}

/// Whether a process ends within `patience`.
fn ends(child: &mut Child, patience: Duration) -> bool {
    let late = Instant::now() + patience;
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return true,
        }
        let left = late.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match &pidfd {
            Ok(pidfd) => {
                let left = Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: i64::from(left.subsec_nanos()),
                };
                let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Failure::system("making a socket pair", error))
}

/// Makes the file of a recording, for its owner alone, and never over another.
///
/// # Errors
/// If it is there already, or what Linux says.
pub fn make_recording(recording: &Recording) -> Result<Option<Record>, Failure> {
    let Some(path) = &recording.record else { return Ok(None) };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "; name another, no recording is overwritten",
                _ => "",
            };
            Failure::new(FAILED, format!("recording to {}: {error}{hint}", path.display()))
        },
    )?;
    Ok(Some(Record { file: file.into(), bytes_max: u64::from(recording.record_limit) << 20 }))
}

/// Who can reach the front door's socket in the file system. Whom the kernel lets in is another
/// matter, and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// The system's own user.
    Own,
    /// Everybody who can reach the runtime directory.
    ForAll,
}

/// Makes the runtime directory, for its owner alone, or so that others can reach (not read) it;
/// refuses one that belongs to somebody else, or that somebody else may write to.
fn make_directory(directory: &Path, door: Door) -> Result<(), Failure> {
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
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Failure::new(
            FAILED,
            format!(
                "other users may write to the runtime directory {0} (mode {mode:04o}) and could put \
                 a front door of their own there; `chmod go-w {0}`, or name another with \
                 --runtime-dir",
                directory.display()
            ),
        ));
    }
    if door == Door::ForAll && mode & 0o011 != 0o011 {
        let reached = std::fs::Permissions::from_mode(mode | 0o011);
        std::fs::set_permissions(directory, reached)
            .map_err(|error| Failure::system(at("opening"), error))?;
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
fn open_front_door(path: &PathBuf, door: Door) -> Result<OwnedFd, Failure> {
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
    // Nobody can connect before `listen`.
    let mode = if door == Door::ForAll { 0o666 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| Failure::system(at("setting the mode of"), error))?;
    // Where Linux cannot, the kernel looks before it receives.
    let _ = rendez_kernel::shell::refuse_descriptors(socket.as_fd());
    listen(&socket, BACKLOG).map_err(|error| Failure::system(at("opening"), error))?;
    Ok(socket)
}
