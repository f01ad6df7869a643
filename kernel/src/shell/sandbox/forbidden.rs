//! Every system call that there is, tried under the very filters of the kernel's threads.

use super::{COMMON, KERNEL, RECORDER, confine_closer, confine_kernel, confine_recorder};
use crate::system::raw_call;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// Which thread's filter the process is to try; set for [`a_process_that_tries`] alone.
const FILTER: &str = "RENDEZ_TEST_FILTER";
/// What it says when all was refused.
const REFUSED: &str = "everything was refused";
/// Numbers of system calls that are tried. Linux has given out fewer, on every architecture.
const NUMBERS: std::ops::Range<i64> = 0..1024;
/// What Linux adds to the numbers of its x32 calls: the same calls by another name.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// `uretprobe` and `uprobe`, which Linux (6.14, 6.17) lets pass every filter: it makes them itself,
/// from pages that it has put into a traced process, and answers everybody else with SIGILL.
#[cfg(target_arch = "x86_64")]
const OF_LINUX: &[i64] = &[335, 336];
#[cfg(not(target_arch = "x86_64"))]
const OF_LINUX: &[i64] = &[];

type Confine = fn() -> io::Result<()>;

/// The filters: whose, how it is applied, what it lets through.
const FILTERS: [(&str, Confine, &[&[i64]]); 3] = [
    ("kernel", confine_kernel, &[COMMON, KERNEL]),
    ("closer", confine_closer, &[COMMON]),
    ("recorder", confine_recorder, &[COMMON, RECORDER]),
];

/// Let through by their arguments only; [`try_all`] tries others.
const CONDITIONAL: [i64; 3] = [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_ioctl];

/// Those that would each undo the confinement.
const NEVER: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_userfaultfd,
    libc::SYS_kill,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

#[test]
fn no_list_has_a_call_that_would_undo_it() {
    for (whose, _, lists) in FILTERS {
        for call in lists.iter().flat_map(|list| list.iter()) {
            assert!(!NEVER.contains(call), "the {whose}'s threads may make system call {call}");
            assert!(NUMBERS.contains(call), "number {call} is not tried");
        }
    }
}

/// Not a test by itself: what the next one starts in a process of its own.
#[test]
fn a_process_that_tries() {
    let Ok(filter) = std::env::var(FILTER) else { return };
    let (_, confine, lists) = FILTERS.into_iter().find(|(whose, ..)| *whose == filter).unwrap();
    let tried = std::thread::spawn(move || {
        confine().unwrap();
        try_all(lists)
    });
    let through = tried.join().unwrap();
    assert!(through.is_empty(), "not refused: {through:?}");
    println!("{REFUSED}");
}

/// Tries every call that is not on the lists, and those that are let through by their arguments with
/// others: what was not refused, and what came of it.
fn try_all(lists: &[&[i64]]) -> Vec<(i64, Option<Errno>)> {
    let listed: BTreeSet<i64> =
        lists.iter().flat_map(|list| list.iter().copied()).chain(CONDITIONAL).collect();
    let mut calls: Vec<(i64, [u64; 6])> = NUMBERS
        .filter(|number| !listed.contains(number) && !OF_LINUX.contains(number))
        .map(|number| (number, [u64::MAX; 6]))
        .collect();
    #[cfg(target_arch = "x86_64")]
    calls.extend(NUMBERS.map(|number| (X32 + number, [u64::MAX; 6])));
    let executable = u64::from((libc::PROT_READ | libc::PROT_EXEC).cast_unsigned());
    let anonymous = u64::from((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned());
    calls.push((libc::SYS_mmap, [0, 4096, executable, anonymous, u64::MAX, 0]));
    calls.push((libc::SYS_mprotect, [0, 4096, executable, 0, 0, 0]));
    for request in [libc::TIOCSTI, libc::FIOCLEX, libc::TCGETS, libc::FIONREAD] {
        calls.push((libc::SYS_ioctl, [0, request, 0, 0, 0, 0]));
    }
    calls
        .into_iter()
        .map(|(number, arguments)| (number, raw_call(number, arguments)))
        .filter(|(_, error)| *error != Some(Errno::PERM))
        .collect()
}

#[test]
fn every_system_call_off_the_list_is_refused() {
    for (whose, ..) in FILTERS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shell::sandbox::forbidden::a_process_that_tries", "--nocapture"])
            .env(FILTER, whose)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // A call that is not refused may wait for ever.
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{whose}: {}, {said}", output.status);
        assert!(said.contains(REFUSED), "{whose}: nothing was tried: {said}");
    }
}

/// Without a filter much of it is not refused: the test above can fail.
#[test]
fn what_is_not_confined_is_not_refused() {
    let nothing = [0, 0, 0, 0, 0, 0];
    assert_eq!(raw_call(libc::SYS_getppid, nothing), None);
    assert_eq!(raw_call(libc::SYS_dup, [u64::MAX; 6]), Some(Errno::BADF));
}
