//! What the kernel's threads may still ask of Linux once everything is set up: no file can be
//! opened, nothing executed, no socket made but pairs, no memory made executable. Anything else is
//! answered with `EPERM`, not with death: a gap in this list must not end the system.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;
use std::io;

/// System calls that both sorts of threads need, whatever the arguments.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    // The handler of a fault puts the default in its own place and returns: without this call the
    // fault would come again for ever.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What the kernel's own thread needs on top of these.
const KERNEL: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getsockopt,
    libc::SYS_memfd_create,
    libc::SYS_newfstatat,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_statx,
];

fn failed(doing: &str, error: &impl core::fmt::Display) -> io::Error {
    io::Error::other(format!("{doing}: {error}"))
}

/// A filter that lets `calls` through, mappings that are not executable, and one ioctl.
fn filter(calls: &[&[i64]]) -> io::Result<BpfProgram> {
    let condition = |argument, operation, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| failed("building the system call filter", &error))
    };
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    let not_executable = || condition(2, SeccompCmpOp::MaskedEq(executable), 0);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.iter().flat_map(|calls| calls.iter()).map(|call| (*call, vec![])).collect();
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    rules.insert(libc::SYS_ioctl, vec![condition(1, SeccompCmpOp::Eq, libc::TIOCOUTQ)?]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|error| failed("naming the architecture for the system call filter", &error))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(|error| failed("building the system call filter", &error))
}

fn confine(calls: &[&[i64]]) -> io::Result<()> {
    apply_filter(&filter(calls)?)
        .map_err(|error| failed("installing the system call filter", &error))
}

/// Confines the calling thread to what the kernel's thread needs.
pub(super) fn confine_kernel() -> io::Result<()> {
    confine(&[COMMON, KERNEL])
}

/// Confines the calling thread to what a closer needs.
pub(super) fn confine_closer() -> io::Result<()> {
    confine(&[COMMON])
}

/// What the recorder's writer needs on top of the common ones.
const RECORDER: &[i64] = &[libc::SYS_ftruncate];

/// Confines the calling thread to what the recorder's writer needs.
pub(super) fn confine_recorder() -> io::Result<()> {
    confine(&[COMMON, RECORDER])
}

#[cfg(test)]
mod forbidden;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// Not a test by itself: what the next one starts in a process of its own.
    #[test]
    fn a_process_that_faults() {
        let Some(how) = std::env::var_os("RENDEZ_TEST_FAULT") else { return };
        let calls = super::filter(&[super::COMMON, super::KERNEL]).unwrap();
        seccompiler::apply_filter_all_threads(&calls).unwrap();
        if how == "abort" {
            std::process::abort();
        }
        let own = rustix::process::getpid();
        let own = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
        // As a fault does, it comes again when the handler returns.
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            let _ = crate::system::signal(own.as_fd(), libc::SIGSEGV);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_confined_process_dies_of_a_fault() {
        for (how, signal) in [("fault", libc::SIGSEGV), ("abort", libc::SIGABRT)] {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "shell::sandbox::tests::a_process_that_faults"])
                .env("RENDEZ_TEST_FAULT", how)
                .output()
                .unwrap()
                .status;
            assert_eq!(status.signal(), Some(signal), "{status}");
        }
    }

    #[test]
    fn a_confined_thread_opens_no_file_and_starts_nothing() {
        let confined = std::thread::spawn(|| {
            super::confine_kernel()?;
            let file = std::fs::File::open("/dev/null").map(drop);
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").map(drop);
            let thread = std::thread::Builder::new().spawn(|| ()).map(drop);
            let memory = rendez_ipc_core::status::memory_file("test", 4096).map(drop);
            Ok::<_, std::io::Error>((file, socket, thread, memory))
        });
        let (file, socket, thread, memory) = confined.join().unwrap().unwrap();
        assert_eq!(file.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(socket.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(thread.unwrap_err().kind(), ErrorKind::PermissionDenied);
        memory.unwrap();
    }
}
