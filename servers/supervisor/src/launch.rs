//! Starting processes: the launcher. The one place before `exec` where our code runs in a child.
//!
//! # Safety
//! This file is an island of `unsafe`. Its invariant: what runs between fork and exec allocates
//! nothing, takes no lock and makes async-signal-safe system calls only (`prctl`, `getppid`,
//! `sigprocmask`, `_exit`).

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};
use rendez_protocol::kernel::SOCKET_VARIABLE;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// The first descriptor that a started process inherits; a task's kernel socket is this one.
pub const FIRST_INHERITED: i32 = 3;

/// Starts `command` with `descriptors` as its descriptors [`FIRST_INHERITED`] and following. If
/// `bound`, Linux kills it when the calling *thread* ends, and it starts with no signal blocked,
/// whatever the caller has blocked for its own ends.
///
/// # Errors
/// What Linux says to fork or exec.
pub fn spawn(mut command: Command, descriptors: Vec<OwnedFd>, bound: bool) -> io::Result<Child> {
    // What tells of a failing exec is a descriptor too, made by `Command::spawn`: while the numbers
    // that the child gets are taken, it is none of them, and is not replaced by what it gets.
    let mut taken = Vec::new();
    if let (Some(any), Ok(count)) = (descriptors.first(), RawFd::try_from(descriptors.len())) {
        loop {
            let copy = any.try_clone()?;
            if copy.as_raw_fd() >= FIRST_INHERITED + count {
                break;
            }
            taken.push(copy);
        }
    }
    let mappings = (FIRST_INHERITED..)
        .zip(descriptors)
        .map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd })
        .collect();
    command
        .fd_mappings(mappings)
        .map_err(|collision| io::Error::new(io::ErrorKind::InvalidInput, collision))?;
    if bound {
        let parent = getpid();
        // SAFETY: `die_with` only makes async-signal-safe system calls.
        unsafe { command.pre_exec(move || die_with(parent)) };
    }
    let child = command.spawn();
    drop(taken);
    child
}

/// Starts `command` as the task whose kernel socket is `socket`.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_task(mut command: Command, socket: OwnedFd, bound: bool) -> io::Result<Child> {
    command.env(SOCKET_VARIABLE, FIRST_INHERITED.to_string());
    spawn(command, vec![socket], bound)
}

/// Has Linux kill this process when its parent ends; ends it if the parent has ended already: nobody
/// is left who could be told of a failure. Unblocks all signals.
fn die_with(parent: Pid) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        // SAFETY: `_exit` takes any number, and runs nothing of this process.
        unsafe { nix::libc::_exit(1) }
    }
    Ok(())
}
