//! What Linux can do.

use super::{Finding, line};
use nix::sys::socket::{getsockopt, sockopt};
use rendez_supervisor::sandbox::landlock_version;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::futex::{WaitvFlags, waitv};
use std::os::fd::{AsFd, OwnedFd};

const GROUP: &str = "Linux";

/// The oldest version that has all that is needed.
const OLDEST: (u32, u32) = (5, 16);

pub(super) fn find() -> Vec<Finding> {
    let check = |name, there, found: String, cost| Finding::check(GROUP, name, there, found, cost);
    let tried = |result: &Result<(), String>, good: &str| match result {
        Ok(()) => good.to_owned(),
        Err(error) => error.clone(),
    };
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let old = version(&release).is_none_or(|found| found < OLDEST);
    let waitv = futex_waitv();
    let seals = seals();
    let pidfd = peer_pidfd();
    let rights = refuse_descriptors();
    let openat2 = open_beneath();
    let (namespaces, namespaces_found) = user_namespaces();
    let actions = line("/proc/sys/kernel/seccomp/actions_avail");
    vec![
        check(
            "version",
            !old,
            format!("{release}, {}", std::env::consts::ARCH),
            "below 5.16 something that is needed is missing; it is named below",
        ),
        check(
            "futex_waitv (5.16)",
            waitv.is_ok(),
            tried(&waitv, "waits on two words at once"),
            "a sleeping client cannot be told of its server's death",
        )
        .needed(),
        check(
            "sealed memfds (5.1)",
            seals.is_ok(),
            tried(&seals, "FUTURE_WRITE, GROW, SHRINK, SEAL"),
            "a segment's one writer cannot be enforced",
        )
        .needed(),
        check(
            "pidfd of a socket's peer (6.5)",
            pidfd.is_ok(),
            tried(&pidfd, "SO_PEERPIDFD"),
            "a process that ends and whose number is reused while it greets could be mistaken for another",
        ),
        check(
            "sockets that refuse descriptors (6.16)",
            rights.is_ok(),
            tried(&rights, "SO_PASSRIGHTS"),
            "the kernel looks at each request before it receives it: one system call more each",
        ),
        check(
            "openat2 (5.6)",
            openat2.is_ok(),
            tried(&openat2, "beneath a directory only"),
            "`rendez up --dir` cannot serve a directory; files in memory work",
        ),
        check(
            "user namespaces",
            namespaces,
            namespaces_found,
            "a sandbox without root has no network, host name or users of its own; the other walls stand",
        ),
        landlock(),
        check(
            "seccomp filters",
            actions.is_some(),
            actions.unwrap_or_else(|| "not there".into()),
            "the kernel of Rendez and sandboxed tasks keep all system calls",
        ),
        isolation(),
    ]
}

/// Whether the supervisor can keep files from a task.
fn landlock() -> Finding {
    let version = landlock_version();
    let found = match version {
        0 => "not there, or switched off".into(),
        version => format!("version {version} of those known here"),
    };
    let cost = match version {
        0 => "a sandbox keeps no file from a task; a user of its own can",
        1 | 2 => "a sandboxed task can truncate files that it may not write (3, Linux 6.2)",
        _ => "a sandboxed task can send signals to its user's other processes (6, Linux 6.12)",
    };
    Finding::check(GROUP, "Landlock (5.13, whole with 6.12)", version >= 6, found, cost)
}

/// Whether processes of one user are kept apart.
fn isolation() -> Finding {
    let scope = line("/proc/sys/kernel/yama/ptrace_scope");
    let apart = scope.as_deref().is_some_and(|scope| scope != "0");
    let found = match scope {
        Some(scope) => format!("kernel.yama.ptrace_scope = {scope}"),
        None => "Yama is not there".into(),
    };
    let cost = "a user's other processes can trace a task from its start until it has forbidden it, \
                and tasks without a sandbox for good";
    Finding::check(GROUP, "tracing among one user", apart, found, cost)
}

/// Major and minor of a release such as `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn futex_waitv() -> Result<(), String> {
    // Waiting on nothing is an invalid argument, wherever the system call is known.
    match waitv(&[], WaitvFlags::empty(), None, rustix::thread::futex::ClockId::Monotonic) {
        Ok(_) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn seals() -> Result<(), String> {
    let attempt = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("rendez-doctor", flags)?;
        rustix::fs::ftruncate(&memory, 4096)?;
        let seals = SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)
    };
    attempt().map_err(|error: Errno| error.to_string())
}

fn pair() -> Result<(OwnedFd, OwnedFd), String> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| error.to_string())
}

fn peer_pidfd() -> Result<(), String> {
    getsockopt(&pair()?.0, sockopt::PeerPidfd).map(drop).map_err(|error| error.to_string())
}

fn refuse_descriptors() -> Result<(), String> {
    if rendez_kernel::shell::refuse_descriptors(pair()?.0.as_fd()) {
        Ok(())
    } else {
        Err("not there".into())
    }
}

fn open_beneath() -> Result<(), String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, ".", flags, Mode::empty(), ResolveFlags::BENEATH)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn user_namespaces() -> (bool, String) {
    let most = line("/proc/sys/user/max_user_namespaces");
    let clone = line("/proc/sys/kernel/unprivileged_userns_clone");
    let profile = line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let privileged = rustix::process::geteuid().is_root();
    match most {
        None => (false, "not there".into()),
        Some(most) if most == "0" => (false, "user.max_user_namespaces = 0".into()),
        Some(_) if !privileged && clone.as_deref() == Some("0") => {
            (false, "kernel.unprivileged_userns_clone = 0".into())
        }
        Some(_) if !privileged && profile.as_deref() == Some("1") => {
            (false, "kernel.apparmor_restrict_unprivileged_userns = 1".into())
        }
        Some(most) => (true, format!("at most {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, version};

    #[test]
    fn versions() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.16"), Some(OLDEST));
        assert_eq!(version("5.4.0-rc1+"), Some((5, 4)));
        assert_eq!(version("nonsense"), None);
    }
}
