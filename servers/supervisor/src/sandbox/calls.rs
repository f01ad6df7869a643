//! The system calls that a confined server may make.
//!
//! The list is made like systemd's `@system-service` set, without its parts about sockets, other
//! users, other processes and the machine. What is missing, and is meant to be: tracing and reading
//! other processes (`ptrace`, `process_vm_*`, `pidfd_getfd`, `kcmp`), mounting and namespaces,
//! `bpf`, `perf_event_open`, `userfaultfd`, `io_uring_*` (its operations pass by this filter), keys,
//! modules, `kexec`, `reboot`, clocks, System V objects and POSIX message queues.

use super::{Network, SystemCalls};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Files and descriptors.
#[rustfmt::skip]
const FILES: &[i64] = &[
    libc::SYS_chdir, libc::SYS_close, libc::SYS_close_range, libc::SYS_copy_file_range,
    libc::SYS_dup, libc::SYS_dup3, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64,
    libc::SYS_fallocate, libc::SYS_fchdir, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown,
    libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_fgetxattr,
    libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fremovexattr, libc::SYS_fsetxattr,
    libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_getcwd,
    libc::SYS_getdents64, libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch, libc::SYS_ioctl, libc::SYS_lgetxattr, libc::SYS_linkat,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_lseek, libc::SYS_memfd_create,
    libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_openat2,
    libc::SYS_pipe2, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_sendfile, libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlinkat,
    libc::SYS_sync, libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_tee, libc::SYS_truncate,
    libc::SYS_umask, libc::SYS_unlinkat, libc::SYS_utimensat, libc::SYS_vmsplice, libc::SYS_write,
    libc::SYS_writev,
];

/// The same by older names, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[i64] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_creat, libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_fork, libc::SYS_futimesat, libc::SYS_getdents, libc::SYS_getpgrp,
    libc::SYS_inotify_init, libc::SYS_lchown, libc::SYS_link, libc::SYS_lstat, libc::SYS_mkdir,
    libc::SYS_mknod, libc::SYS_open, libc::SYS_pause, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_select, libc::SYS_signalfd,
    libc::SYS_stat, libc::SYS_symlink, libc::SYS_time, libc::SYS_unlink, libc::SYS_utime,
    libc::SYS_utimes, libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Memory, threads, time, waiting, signals, processes of its own.
#[rustfmt::skip]
const RUNNING: &[i64] = &[
    libc::SYS_brk, libc::SYS_capget, libc::SYS_clock_getres, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_clone3, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_execve,
    libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex,
    libc::SYS_futex_waitv, libc::SYS_get_mempolicy, libc::SYS_get_robust_list, libc::SYS_getcpu,
    libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups,
    libc::SYS_getitimer, libc::SYS_getpgid, libc::SYS_getpid, libc::SYS_getppid,
    libc::SYS_getpriority, libc::SYS_getrandom, libc::SYS_getresgid, libc::SYS_getresuid,
    libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_getsid, libc::SYS_gettid,
    libc::SYS_gettimeofday, libc::SYS_getuid, libc::SYS_kill, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self, libc::SYS_madvise,
    libc::SYS_membarrier, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall,
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_msync, libc::SYS_munlock,
    libc::SYS_munlockall, libc::SYS_munmap, libc::SYS_nanosleep, libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    libc::SYS_ppoll, libc::SYS_prctl, libc::SYS_prlimit64, libc::SYS_pselect6,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval, libc::SYS_sched_setaffinity, libc::SYS_sched_setattr,
    libc::SYS_sched_setparam, libc::SYS_sched_setscheduler, libc::SYS_sched_yield,
    libc::SYS_seccomp, libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_setitimer,
    libc::SYS_setpgid, libc::SYS_setpriority, libc::SYS_setrlimit, libc::SYS_setsid,
    libc::SYS_sigaltstack, libc::SYS_signalfd4, libc::SYS_sysinfo, libc::SYS_tgkill,
    libc::SYS_timer_create, libc::SYS_timer_delete, libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime, libc::SYS_timer_settime, libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime, libc::SYS_times, libc::SYS_tkill,
    libc::SYS_uname, libc::SYS_wait4, libc::SYS_waitid,
];

/// What is done with sockets, however one has come by them.
#[rustfmt::skip]
const SOCKETS: &[i64] = &[
    libc::SYS_accept4, libc::SYS_getpeername, libc::SYS_getsockname, libc::SYS_getsockopt,
    libc::SYS_recvfrom, libc::SYS_recvmmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg,
    libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_setsockopt, libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// Making sockets that reach somebody else.
const REACHING: &[i64] = &[libc::SYS_accept, libc::SYS_bind, libc::SYS_connect, libc::SYS_listen];

/// What makes a namespace, in the flags of `clone`.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;

/// The filters, to be installed in this order. Several hold together: the strictest answer counts.
///
/// # Errors
/// What the library that makes them says, for people.
pub(super) fn filters(calls: SystemCalls, network: Network) -> Result<Vec<BpfProgram>, String> {
    let mut filters = Vec::new();
    if calls == SystemCalls::Server {
        filters.push(list(network)?);
        // The flags of `clone3` lie in memory, where no filter sees them; told that it does not
        // exist, the C library takes `clone`.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        filters.push(build(clone3, SeccompAction::Allow, errno(libc::ENOSYS))?);
    } else if network != Network::All {
        let refused = match network {
            Network::None => vec![],
            _ => vec![condition(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?],
        };
        let rules = BTreeMap::from([(libc::SYS_socket, refused)]);
        filters.push(build(rules, SeccompAction::Allow, errno(libc::EPERM))?);
    }
    Ok(filters)
}

fn list(network: Network) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let reaching = if network == Network::None { &[][..] } else { REACHING };
    for call in [FILES, OLDER, RUNNING, SOCKETS, reaching].into_iter().flatten() {
        rules.insert(*call, vec![]);
    }
    rules.insert(libc::SYS_clone, vec![condition(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?]);
    // Typing into the terminal that one was started from.
    rules.insert(libc::SYS_ioctl, vec![condition_of(&[(1, libc::TIOCSTI), (1, libc::TIOCLINUX)])?]);
    match network {
        Network::None => {}
        Network::Unix => {
            let unix = condition(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?;
            rules.insert(libc::SYS_socket, vec![unix]);
        }
        Network::All => _ = rules.insert(libc::SYS_socket, vec![]),
    }
    build(rules, errno(libc::EPERM), SeccompAction::Allow)
}

fn errno(error: i32) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

fn condition(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| error.to_string())
}

/// None of these values in these arguments.
fn condition_of(none: &[(u8, u64)]) -> Result<SeccompRule, String> {
    none.iter()
        .map(|(argument, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *value)
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)
        .map_err(|error| error.to_string())
}

/// A filter that answers `found` to what the rules name, else `other`.
fn build(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    other: SeccompAction,
    found: SeccompAction,
) -> Result<BpfProgram, String> {
    TargetArch::try_from(std::env::consts::ARCH)
        .and_then(|architecture| SeccompFilter::new(rules, other, found, architecture))
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}
