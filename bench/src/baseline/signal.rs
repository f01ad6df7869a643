//! Real-time signals that carry a value, as `sigqueue` sends them, waited for with `sigwaitinfo`.
//!
//! A signal has room for one word, which is the whole payload. Each goes to a thread rather than to
//! a process (`rt_tgsigqueueinfo`, which is `sigqueue` for a thread): any other thread of the process
//! that does not block it would be ended by it, and with it the process.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariants:
//!
//! 1. [`Value`] is laid out as Linux's `siginfo_t` for a queued signal on 64-bit machines, and is as
//!    long.
//! 2. A set of signals is only ever one that `sigemptyset` has filled.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{Pid, gettid};

use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, answer};

/// Bytes that a signal carries: `union sigval`.
const CARRIED: usize = size_of::<libc::sigval>();

/// The first real-time signal, with a value.
#[derive(Debug)]
pub(crate) struct QueuedSignal;

impl Mechanism for QueuedSignal {
    fn name(&self) -> &'static str {
        "signal"
    }

    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        if payload_bytes <= CARRIED {
            return Ok(());
        }
        Err(format!("a signal carries {CARRIED} bytes (union sigval)"))
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let own = Thread::own();
        // One signal to itself finds out whether queueing is permitted at all (RLIMIT_SIGPENDING).
        let signals = Signals::block()?;
        own.queue(0).map_err(|error| lacking("a queued signal", error))?;
        signals.wait(own)?;
        let (own_out, mut own_in) = io::pipe()?;
        let (mut other, other_in) = io::pipe()?;
        own_in.write_all(&own.to_bytes())?;
        launcher.start(&[own_out.into(), other_in.into()])?;
        let mut bytes = [0; 8];
        other.read_exact(&mut bytes)?;
        let peer = Thread::from_bytes(bytes);
        Ok(Box::new(SignalClient { own, peer, signals, abandoned: Arc::default() }))
    }

    fn serve(&self, _: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [peer, hello] = exactly(descriptors)?;
        let signals = Signals::block()?;
        let mut bytes = [0; 8];
        File::from(peer).read_exact(&mut bytes)?;
        File::from(hello).write_all(&Thread::own().to_bytes())?;
        Ok(Box::new(SignalServer { peer: Thread::from_bytes(bytes), signals }))
    }
}

/// Who a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    process: i32,
    thread: i32,
}

impl Thread {
    fn own() -> Self {
        Self { process: Pid::this().as_raw(), thread: gettid().as_raw() }
    }

    fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.process.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.thread.to_ne_bytes());
        bytes
    }

    fn from_bytes([a, b, c, d, e, f, g, h]: [u8; 8]) -> Self {
        Self { process: i32::from_ne_bytes([a, b, c, d]), thread: i32::from_ne_bytes([e, f, g, h]) }
    }

    /// Queues the signal with that value, as this process.
    #[inline]
    fn queue(self, value: u64) -> io::Result<()> {
        self.queue_as(process::id().cast_signed(), value)
    }

    /// Queues the signal with that value. Who it comes from is the sender's word, with Linux.
    #[inline]
    fn queue_as(self, sender: i32, value: u64) -> io::Result<()> {
        let value = Value {
            signal: libc::SIGRTMIN(),
            error: 0,
            code: libc::SI_QUEUE,
            unused: 0,
            process: sender,
            user: 0,
            value,
            rest: [0; 12],
        };
        // SAFETY: invariant 1; it is only read, and during the call only.
        let done = unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                self.process,
                self.thread,
                libc::SIGRTMIN(),
                &raw const value,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// What comes with a signal.
#[repr(C)]
struct Value {
    signal: i32,
    error: i32,
    code: i32,
    unused: i32,
    process: i32,
    user: u32,
    value: u64,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Value>() == size_of::<libc::siginfo_t>());
const _: () = assert!(std::mem::offset_of!(Value, value) == 24);
const _: () = assert!(CARRIED == 8);

/// The signal, blocked in this thread and there to be waited for.
///
/// It stays blocked in the thread: an answer that came late would end the process otherwise.
#[derive(Debug)]
struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // INVARIANT: 2.
        // SAFETY: it fills the set, and cannot fail.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: filled just now.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: invariant 2.
        unsafe { libc::sigaddset(&raw mut set, libc::SIGRTMIN()) };
        // SAFETY: invariant 2; blocking a signal breaks nothing.
        let refused =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        Ok(Self { set })
    }

    /// Waits for the signal from that process; answers its value.
    #[inline]
    fn wait(&self, from: Thread) -> io::Result<u64> {
        let mut info = MaybeUninit::<Value>::zeroed();
        loop {
            // SAFETY: invariants 1 and 2; it fills in no more than there is.
            let signal = unsafe {
                libc::sigwaitinfo(&raw const self.set, info.as_mut_ptr().cast::<libc::siginfo_t>())
            };
            if signal < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            // SAFETY: numbers, all set to zero before, whatever was filled in.
            let info = unsafe { info.assume_init_ref() };
            // One that an earlier partner has left behind is none of this one's.
            if info.process == from.process && info.code == libc::SI_QUEUE {
                return Ok(info.value);
            }
        }
    }
}

fn value(payload: &[u8]) -> u64 {
    payload.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
}

#[derive(Debug)]
struct SignalClient {
    own: Thread,
    peer: Thread,
    signals: Signals,
    abandoned: Arc<AtomicBool>,
}

impl Client for SignalClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { own, peer, signals, abandoned } = self;
        if *own != Thread::own() {
            return Err(io::Error::other("signals come to the thread that set the mechanism up"));
        }
        recorder.run(|payload| {
            peer.queue(value(payload))?;
            let answered = signals.wait(*peer)?;
            // ORDERING: Relaxed; nothing is read that depends on it.
            if abandoned.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Some(first) = payload.first_chunk_mut::<8>() {
                *first = answered.to_le_bytes();
            }
            Ok(())
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let (own, peer, abandoned) = (self.own, self.peer, Arc::clone(&self.abandoned));
        Some(Arc::new(move || {
            abandoned.store(true, Ordering::SeqCst);
            // If the queue is full, there is something to wake up for.
            let _ = own.queue_as(peer.process, 0);
        }))
    }
}

#[derive(Debug)]
struct SignalServer {
    peer: Thread,
    signals: Signals,
}

impl Server for SignalServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            let mut payload = self.signals.wait(self.peer)?.to_le_bytes();
            answer(&mut payload);
            self.peer.queue(u64::from_le_bytes(payload))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{QueuedSignal, Signals, Thread};
    use crate::mechanism::Mechanism;

    #[test]
    fn a_value_comes_with_its_signal() {
        let signals = Signals::block().expect("blocked");
        let own = Thread::own();
        assert_eq!(Thread::from_bytes(own.to_bytes()), own);
        // The first comes from nobody that is waited for.
        own.queue_as(1, 1).expect("queued");
        own.queue(u64::MAX - 1).expect("queued");
        assert_eq!(signals.wait(own).expect("there"), u64::MAX - 1);
    }

    #[test]
    fn a_signal_carries_one_word() {
        assert!(QueuedSignal.carries(8).is_ok());
        assert!(QueuedSignal.carries(16).expect_err("two words").contains("8 bytes"));
    }
}
