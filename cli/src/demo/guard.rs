//! What sees to it that nothing stays behind: not after a failure, not after Ctrl-C, not if
//! something hangs.
//!
//! The signals that end a process are blocked in the demonstration and in all that it starts, so
//! that Ctrl-C reaches one thread of one process, which takes everything down in order. If that
//! thread cannot either, the end of this process does: the kernel reads the end of its lifeline and
//! kills its tasks, and Linux kills what this process started itself; a process that waits for that
//! alone, the *cleaner*, removes the directory.

use crate::failure::{FAILED, Failure, USAGE};
use crate::output::Output;
use crate::system::System;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The signals that end the demonstration.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// How long taking everything down may take, after a signal or when something hangs.
const FAREWELL: Duration = Duration::from_secs(3);

/// How the names of the directories begin that a cleaner removes.
pub(super) const PREFIX: &str = "rendez-demo-";

/// Holds what must not outlive the demonstration.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    held: Arc<Mutex<Held>>,
    /// The kernel's process, 0 while there is none: needed while `held` is locked.
    kernel: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Held {
    // The system ends before the directory is removed.
    system: Option<System>,
    directory: Option<TempDir>,
    /// Removes the directory when its standard input ends, unless it is gone by then.
    cleaner: Option<Child>,
    doing: &'static str,
    /// The watching thread is taking everything down.
    ending: bool,
}

impl Guard {
    /// Watches over the calling process, which it ends if a signal says so, or after `limit`.
    pub(super) fn start(limit: Duration, output: Output) -> Result<Self, Failure> {
        let signals = SigSet::from_iter(ENDING);
        signals.thread_block().map_err(|error| Failure::system("blocking signals", error))?;
        let arrived =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .map_err(|error| Failure::system("making a signalfd", error))?;
        let guard = Self { held: Arc::default(), kernel: Arc::default() };
        let watching = guard.clone();
        let watch = move || {
            let late = Instant::now() + limit;
            let failure = loop {
                let left = late.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let doing = watching
                        .held
                        .try_lock()
                        .map_or("starting or ending the system", |held| held.doing);
                    let text =
                        format!("not done after {} s; it hangs at: {doing}", limit.as_secs());
                    break Failure::new(FAILED, text);
                }
                let timeout = Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: i64::from(left.subsec_nanos()),
                };
                let _ = poll(&mut [PollFd::new(&arrived, PollFlags::IN)], Some(&timeout));
                if let Ok(Some(signal)) = arrived.read_signal() {
                    let number = signal.ssi_signo as i32;
                    let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
                    // As a shell says it of a process that a signal ended.
                    break Failure::new(128 + number as u8, format!("ended by {name}"));
                }
            };
            output.failure(&failure);
            let kernel = Arc::clone(&watching.kernel);
            let cleaning = std::thread::spawn(move || {
                watching.held.lock().ending = true;
                watching.clean();
            });
            if !ends(&cleaning) {
                // A kernel that does not come to its end would be waited for.
                let pid = i32::try_from(kernel.load(Relaxed)).unwrap_or_default();
                if pid > 0 {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                ends(&cleaning);
            }
            std::process::exit(i32::from(failure.code()));
        };
        std::thread::Builder::new()
            .name("guard".into())
            .spawn(watch)
            .map_err(|error| Failure::system("starting a thread", error))?;
        Ok(guard)
    }

    /// Starts the system that ends with the guard, and waits until it is ready. Nothing is taken
    /// down meanwhile, for it would come back.
    pub(super) fn start_system(
        &self,
        start: impl FnOnce() -> Result<System, Failure>,
    ) -> Result<[u32; 2], Failure> {
        let mut held = self.held();
        let system = held.system.insert(start()?);
        let pids = [system.kernel_pid(), system.supervisor_pid()];
        // The number carries nothing but itself.
        self.kernel.store(system.kernel_pid(), Relaxed);
        system.wait_ready()?;
        Ok(pids)
    }

    /// Makes the directory that ends with the guard, or by itself if this process is killed; its
    /// path.
    pub(super) fn make_directory(
        &self,
        make: impl FnOnce() -> io::Result<TempDir>,
    ) -> io::Result<PathBuf> {
        let mut held = self.held();
        let directory = held.directory.insert(make()?).path().canonicalize()?;
        held.cleaner = Some(start_cleaner(&directory)?);
        Ok(directory)
    }

    /// What is being done, should it hang. Does not return if everything is being taken down: what
    /// fails then is of no interest.
    pub(super) fn doing(&self, doing: &'static str) {
        self.held().doing = doing;
    }

    /// What is held, once it is known that it is not being taken down.
    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock();
        while held.ending {
            MutexGuard::unlocked(&mut held, std::thread::park);
        }
        held
    }

    /// Ends the system and removes the directory.
    pub(super) fn clean(&self) {
        let mut held = self.held.lock();
        held.system = None;
        // It has been waited for: the number may be somebody else's from now on.
        self.kernel.store(0, Relaxed);
        if let Some(directory) = held.directory.take() {
            remove(&directory.keep());
        }
        if let Some(mut cleaner) = held.cleaner.take() {
            // Has it look.
            drop(cleaner.stdin.take());
            let _ = cleaner.wait();
        }
    }
}

/// Removes a directory.
fn remove(directory: &Path) {
    // Who is ended by the end of the system may still be writing there for a moment.
    let late = Instant::now() + FAREWELL;
    while std::fs::remove_dir_all(directory).is_err() && directory.exists() && Instant::now() < late
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the cleaner of `directory`.
fn start_cleaner(directory: &Path) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["demo-part", "cleaner"])
        .arg(directory)
        // Our end of the pipe is nobody else's: it is closed when this process ends.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Ctrl-C is not for it.
        .process_group(0)
        .spawn()
}

/// The cleaner: waits for the end of the demonstration, and removes its directory if that is still
/// there. Inherits that the signals which end a process are blocked.
pub(super) fn clean_part(directory: &Path) -> Result<(), Failure> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    if !directory.is_absolute() || !name.starts_with(PREFIX) {
        return Err(Failure::new(USAGE, "the cleaner is started by `rendez demo`, not by hand"));
    }
    SigSet::from_iter(ENDING)
        .thread_block()
        .map_err(|error| Failure::system("blocking signals", error))?;
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    if directory.exists() {
        remove(directory);
    }
    Ok(())
}

/// Whether a thread ends soon.
fn ends(thread: &JoinHandle<()>) -> bool {
    let late = Instant::now() + FAREWELL;
    while !thread.is_finished() && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(10));
    }
    thread.is_finished()
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The watching thread holds the other.
        if Arc::strong_count(&self.held) <= 2 {
            self.clean();
        }
    }
}
