//! The host: hardware atomics, futexes, eventfds, `CLOCK_MONOTONIC`.

use super::{Atomic, BODY_BYTES, Bell as BellTrait, Body, Label, Lock, Platform};
use crate::injection::Plan;
use crate::segment::{Bytes, Mapping};
use crate::status::{PageWriter, StatusReader};
use crate::waits::{self, Asked, Inquirer, Waiting};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rendez_protocol::injection::{Action, Phase};
use rendez_protocol::limit::INLINE_BYTES;
use rendez_protocol::message::Header;
use rendez_protocol::status::{STATE_MASK, injected_of};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};
use rustix::thread::futex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The machine that the process runs on.
#[derive(Debug)]
pub enum Host {}

impl Atomic<u32> for AtomicU32 {
    #[inline]
    fn new(value: u32) -> Self {
        Self::new(value)
    }
    #[inline]
    fn load(&self, ordering: Ordering) -> u32 {
        self.load(ordering)
    }
    #[inline]
    fn store(&self, value: u32, ordering: Ordering) {
        self.store(value, ordering);
    }
}

impl Atomic<u64> for AtomicU64 {
    #[inline]
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    #[inline]
    fn load(&self, ordering: Ordering) -> u64 {
        self.load(ordering)
    }
    #[inline]
    fn store(&self, value: u64, ordering: Ordering) {
        self.store(value, ordering);
    }
}

const WORDS: usize = BODY_BYTES / 8;

/// A line's body as seven words. Relaxed loads and stores of words are plain moves on the machine
/// and are no data race whatever the peer does; seven of them are as fast as a copy.
#[derive(Debug)]
#[repr(C)]
pub struct HostBody([AtomicU64; WORDS]);

impl Body for HostBody {
    fn new() -> Self {
        Self(Default::default())
    }

    #[inline]
    fn write(&self, header: [u8; Header::BYTES], inline: &[u8]) {
        let [low, high, payload @ ..] = &self.0;
        let both = u128::from_le_bytes(header);
        // ORDERING: Relaxed; nobody reads them before the turn, which is Release.
        low.store((both as u64).to_le(), Ordering::Relaxed);
        high.store(((both >> 64) as u64).to_le(), Ordering::Relaxed);
        let mut chunks = inline.chunks_exact(8);
        let mut words = payload.iter();
        for (chunk, word) in (&mut chunks).zip(&mut words) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        let rest = chunks.remainder();
        if !rest.is_empty()
            && let Some(word) = words.next()
        {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    #[inline]
    fn header(&self) -> [u8; Header::BYTES] {
        let [low, high, ..] = &self.0;
        // ORDERING: Relaxed; they come after the Acquire of the turn. The copy is then checked.
        let low = u64::from_le(low.load(Ordering::Relaxed));
        let high = u64::from_le(high.load(Ordering::Relaxed));
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    #[inline]
    fn inline(&self, out: &mut [u8]) {
        debug_assert!(out.len() <= INLINE_BYTES);
        let [_, _, payload @ ..] = &self.0;
        // Whole words apart from the rest: a chunk whose length is not known is a call to copy it.
        let mut chunks = out.chunks_exact_mut(8);
        let mut words = payload.iter();
        for (chunk, word) in (&mut chunks).zip(&mut words) {
            // ORDERING: Relaxed; as the header.
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let rest = chunks.into_remainder();
        if !rest.is_empty()
            && let Some(word) = words.next()
        {
            // ORDERING: Relaxed; as the header.
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            rest.copy_from_slice(&bytes[..rest.len()]);
        }
    }
}

/// How a reader on this machine is woken.
#[derive(Debug)]
pub enum Bell {
    /// It waits on the doorbell word.
    Futex,
    /// It waits in epoll for this eventfd.
    Event(OwnedFd),
}

impl BellTrait<Host> for Bell {
    fn ring(&self, word: &AtomicU32) {
        match self {
            Self::Futex => Host::wake(word),
            // Fails only if the counter is full, and then the reader has an event already.
            Self::Event(event) => {
                let _ = rustix::io::write(event, &1u64.to_ne_bytes());
            }
        }
    }
}

/// One word of this task's status segment, and the task page in which waits on it are published.
#[derive(Clone, Debug)]
pub struct HostStatus {
    reader: Arc<StatusReader>,
    page: Arc<PageWriter>,
    kernel: Arc<OwnedFd>,
    plan: Option<Arc<dyn Plan>>,
    index: u32,
    inquirer: Option<Arc<dyn Inquirer>>,
}

impl HostStatus {
    /// Word `index` of the segment; `None` if there is no such word. `kernel` is the task's kernel
    /// socket.
    #[must_use]
    pub fn new(
        reader: Arc<StatusReader>,
        page: Arc<PageWriter>,
        kernel: Arc<OwnedFd>,
        index: u32,
    ) -> Option<Self> {
        (index < rendez_protocol::limit::STATUS_WORDS).then_some(Self {
            reader,
            page,
            kernel,
            plan: None,
            index,
            inquirer: None,
        })
    }

    /// The same, of which a client that waits too long asks `inquirer` whether it waits in a circle.
    #[must_use]
    pub fn with_inquirer(self, inquirer: Arc<dyn Inquirer>) -> Self {
        Self { inquirer: Some(inquirer), ..self }
    }

    /// With what the task knows of injections into it; without it there are none.
    #[must_use]
    pub fn with_plan(self, plan: Arc<dyn Plan>) -> Self {
        Self { plan: Some(plan), ..self }
    }
}

impl AsRef<AtomicU32> for HostStatus {
    #[inline]
    fn as_ref(&self) -> &AtomicU32 {
        self.reader.word(self.index)
    }
}

impl<T: core::fmt::Debug> Lock<T> for parking_lot::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }
    #[inline]
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.lock())
    }
}

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
    // Not another step, however long it takes.
    loop {
        std::thread::park();
    }
}

/// Stops the process, this thread exactly here: what is left of it comes after somebody has sent
/// SIGCONT. A signal to the process might be taken by another thread, and this one go on until that
/// one runs; one to this thread is taken before it returns. The others stop where Linux next sees
/// them.
fn stop() {
    let _ = nix::sys::signal::raise(nix::sys::signal::SIGSTOP);
}

impl Platform for Host {
    type U32 = AtomicU32;
    type U64 = AtomicU64;
    type Body = HostBody;
    type Area = Bytes;
    type Half = Mapping;
    type Bell = Bell;
    type Status = HostStatus;
    type Lock<T: core::fmt::Debug> = parking_lot::Mutex<T>;

    #[inline]
    fn fence(_label: Label) {
        fence(Ordering::SeqCst);
    }

    fn wait(words: &[(&AtomicU32, u32)], deadline: Option<u64>) {
        let deadline = deadline.map(|ns| rustix::time::Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        // Every outcome (woken, changed, timed out, interrupted) is a reason to look again.
        let waiter = |(word, value): &(&AtomicU32, u32)| {
            let mut wait = futex::Wait::new();
            wait.uaddr = futex::WaitPtr::new(core::ptr::from_ref(*word).cast_mut().cast());
            wait.val = u64::from(*value);
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        };
        let result = match words {
            [one] => futex::waitv(
                &[waiter(one)],
                futex::WaitvFlags::empty(),
                deadline.as_ref(),
                rustix::thread::ClockId::Monotonic,
            ),
            [one, two] => futex::waitv(
                &[waiter(one), waiter(two)],
                futex::WaitvFlags::empty(),
                deadline.as_ref(),
                rustix::thread::ClockId::Monotonic,
            ),
            many => futex::waitv(
                &many.iter().map(waiter).collect::<Vec<_>>(),
                futex::WaitvFlags::empty(),
                deadline.as_ref(),
                rustix::thread::ClockId::Monotonic,
            ),
        };
        let _ = result;
    }

    fn is_orphaned(status: &HostStatus) -> bool {
        let mut polled = [PollFd::new(&*status.kernel, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    fn waiting<'a>(status: &'a HostStatus, waiting: &Waiting) -> impl Sized + 'a {
        status.page.waiting(status.index, waiting)
    }

    fn is_waited_for(status: &HostStatus) -> bool {
        status.inquirer.is_some() && waits::is_receiver_of(&status.page)
    }

    fn ask(status: &HostStatus, transaction: u64) -> Asked {
        status.inquirer.as_ref().map_or(Asked::Nothing, |inquirer| inquirer.ask(transaction))
    }

    fn index(status: &HostStatus) -> u32 {
        status.index
    }

    fn open_word(status: &HostStatus) -> u32 {
        // ORDERING: Relaxed; the futex compares it again.
        status.as_ref().load(Ordering::Relaxed) & !STATE_MASK
    }

    #[inline]
    fn is_injected(status: &HostStatus) -> bool {
        // ORDERING: Relaxed; see `reached`.
        injected_of(status.as_ref().load(Ordering::Relaxed)) != 0
    }

    #[cold]
    fn reached(status: &HostStatus, phase: Phase) -> bool {
        let Some(plan) = &status.plan else { return false };
        // ORDERING: Relaxed; whether there is anything to look for. What there is comes by a socket.
        let ever = injected_of(status.as_ref().load(Ordering::Relaxed));
        let Some(action) = plan.reached(ever, phase) else { return false };
        match action {
            Action::Kill => {
                die();
                false
            }
            Action::Stop => {
                stop();
                false
            }
            Action::Delay { milliseconds } => {
                std::thread::sleep(Duration::from_millis(milliseconds.into()));
                false
            }
            Action::Drop => true,
        }
    }

    fn wake(word: &AtomicU32) {
        // Fails only for an address that is not mapped, and this one is.
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    }

    #[inline]
    fn now() -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    #[inline]
    fn cpu() -> u32 {
        rustix::thread::sched_getcpu() as u32
    }

    #[inline]
    fn pause() {
        core::hint::spin_loop();
    }

    fn yield_now() {
        rustix::thread::sched_yield();
    }
}
