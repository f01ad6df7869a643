//! A fork must not hide a task's death: alone in its process, since a forked child holds on to
//! whatever other tests have open.

#![allow(unsafe_code)]

use rendez_ipc_core::control::{Mode, adopt_inherited, receive_frame, register_for_fork};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn a_forked_child_does_not_keep_the_kernel_socket_open() {
    assert!(adopt_inherited().unwrap().is_none(), "nothing was inherited");
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let registration = register_for_fork(ours.as_fd()).unwrap();
    // SAFETY: the child calls nothing but `pause` and `_exit`, both async-signal-safe.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: async-signal-safe.
        unsafe { libc::pause() };
        // SAFETY: ends the child at once, without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    drop(registration);
    drop(ours);
    // A child that keeps the socket would make the wait below last for ever.
    let bitten = Arc::new(AtomicBool::new(false));
    let (done, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn({
        let bitten = Arc::clone(&bitten);
        move || {
            if watch.recv_timeout(Duration::from_secs(30)).is_err() {
                bitten.store(true, Ordering::SeqCst);
            }
            // SAFETY: our own child, not yet waited for.
            let _ = unsafe { libc::kill(child, libc::SIGKILL) };
        }
    });
    let end = receive_frame(&theirs, Mode::Wait);
    let kept = bitten.load(Ordering::SeqCst);
    // The watchdog is gone only if it has bitten.
    let _ = done.send(());
    watchdog.join().unwrap();
    // SAFETY: our own child; no status is asked for.
    let _ = unsafe { libc::waitpid(child, core::ptr::null_mut(), 0) };
    assert!(end.unwrap().is_none());
    assert!(!kept, "the child kept the socket open");
}
