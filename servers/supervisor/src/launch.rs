//! Starting processes: the launcher. The one place before `exec` where our code runs in a child.
//!
//! # Safety
//! This file is an island of `unsafe`. Its invariant: what runs between fork and exec allocates
//! nothing, takes no lock and makes async-signal-safe system calls only (`prctl`, `getppid`,
//! `sigprocmask`, `_exit`; for the walls of a [sandbox](crate::sandbox) `setrlimit`, `unshare`,
//! `open`, `write`, `close`, `setgroups`, `setresgid`, `setresuid`, `landlock_restrict_self`,
//! `seccomp`). Whatever needs memory was made in the parent.

use crate::sandbox::Prepared;
use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_no_new_privs, set_pdeathsig};
use nix::sys::resource::setrlimit;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, getppid, setgroups, setresgid, setresuid};
use rendez_protocol::kernel::{SOCKET_VARIABLE, UNDUMPABLE_VARIABLE};
use std::ffi::CStr;
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
pub fn spawn(command: Command, descriptors: Vec<OwnedFd>, bound: bool) -> io::Result<Child> {
    start(command, descriptors, bound, None)
}

fn start(
    mut command: Command,
    descriptors: Vec<OwnedFd>,
    bound: bool,
    walls: Option<Prepared>,
) -> io::Result<Child> {
    if let Some(mut walls) = walls {
        if walls.confined && !walls.dumpable {
            command.env(UNDUMPABLE_VARIABLE, "1");
        }
        // Before the descriptors are put in their places, since the rules are one of them.
        // SAFETY: `put_up` only makes async-signal-safe system calls, and frees nothing: what it
        // takes is taken by reference.
        unsafe { command.pre_exec(move || put_up(&mut walls)) };
    }
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

/// Starts `command` as the task whose kernel socket is `socket`, within `walls`, from
/// [`Sandbox::prepare`](crate::sandbox::Sandbox::prepare) for the same program.
///
/// # Errors
/// As [`spawn`]; `PermissionDenied` too, if a wall cannot be put up or keeps out the program itself.
pub fn spawn_confined(
    mut command: Command,
    socket: OwnedFd,
    bound: bool,
    walls: Prepared,
) -> io::Result<Child> {
    command.env(SOCKET_VARIABLE, FIRST_INHERITED.to_string());
    start(command, vec![socket], bound, Some(walls))
}

/// Puts all walls up around this process, which is about to execute its program.
fn put_up(walls: &mut Prepared) -> io::Result<()> {
    for (resource, limit) in &walls.limits {
        setrlimit(*resource, *limit, *limit)?;
    }
    if !walls.confined {
        return Ok(());
    }
    let own_users = walls.namespaces.contains(CloneFlags::CLONE_NEWUSER);
    // A namespace of users is made by the user who shall be in it, all others by root.
    if own_users {
        become_user(walls)?;
    }
    if !walls.namespaces.is_empty() {
        unshare(walls.namespaces)?;
    }
    if let Some([users, groups]) = &walls.maps {
        write_to(c"/proc/self/setgroups", b"deny")?;
        write_to(c"/proc/self/uid_map", users)?;
        write_to(c"/proc/self/gid_map", groups)?;
    }
    if !own_users {
        become_user(walls)?;
    }
    set_no_new_privs()?;
    if let Some(rules) = &walls.rules {
        // SAFETY: the call takes a descriptor, which is open, and no pointer.
        let done =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
        Errno::result(done)?;
    }
    for filter in &walls.filters {
        seccompiler::apply_filter(filter).map_err(|_| Errno::last())?;
    }
    Ok(())
}

fn become_user(walls: &Prepared) -> io::Result<()> {
    if let Some((user, group)) = walls.user {
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        // Changing the user has made its own files in /proc root's. Its program starts as it likes.
        set_dumpable(true)?;
    }
    Ok(())
}

fn write_to(path: &CStr, text: &[u8]) -> io::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, text)?;
    Ok(())
}

/// Has Linux kill this process when its parent ends; ends it if the parent has ended already: nobody
/// is left who could be told of a failure. Unblocks all signals.
fn die_with(parent: Pid) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        // SAFETY: `_exit` takes any number, and runs nothing of this process.
        unsafe { libc::_exit(1) }
    }
    Ok(())
}
