//! The only source of atomics, memory, waiting and time for the protocol code.
//!
//! Everything in [`ring`](crate::ring), [`doorbell`](crate::doorbell),
//! [`notification`](crate::notification), [`client`](crate::client) and
//! [`server`](crate::server) is generic over a [`Platform`]: [`Host`] in production, where each
//! method is an instruction or a system call, and `Model` (feature `model`) under loom, where each
//! is a choice point. The code that is explored is the code that ships.

mod host;
#[cfg(feature = "model")]
#[allow(unsafe_code)]
pub(crate) mod model;

pub use host::{Bell as HostBell, Host, HostStatus};

use crate::layout::{Head, Line};
use crate::waits::{Asked, Waiting};
use core::fmt::Debug;
use core::sync::atomic::Ordering;
use rendez_protocol::injection::Phase;
use rendez_protocol::limit::INLINE_BYTES;
use rendez_protocol::message::Header;
use rendez_protocol::status::ConnectionState;

/// The names of the orderings and fences of the protocol. Each stands in an `ORDERING(…)` comment
/// at both of its ends, and has a model whose twin weakens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// A line's turn, published: its payload is there before it.
    TurnRelease,
    /// A line's turn, looked at: its payload is read after it.
    TurnAcquire,
    /// Lines freed, said: they have been read before.
    FreedRelease,
    /// Lines freed, looked at: they are written again after it.
    FreedAcquire,
    /// A connection's status word, stored by the kernel: what the dead peer did is visible before
    /// its death is.
    StatusRelease,
    /// Fence of a writer, between publishing and looking whether the reader is asleep.
    PublishFence,
    /// Fence of a reader, between saying that it is asleep and looking once more.
    SleepFence,
    /// Fence of a receiver, between *taken* and looking for the withdrawal mark.
    TakeFence,
    /// Fence of a sender, between the withdrawal mark and looking at *taken*.
    WithdrawFence,
    /// Fence of a poster, between its data and looking at what is acknowledged.
    PostFence,
    /// Fence of a poster, between posting and looking whether there is a receiver yet.
    StandFence,
    /// Fence of whoever acknowledges, between doing so and looking at the data.
    AcknowledgeFence,
    /// A release word, stored: the lease has been read before.
    ReleaseRelease,
    /// A release word, looked at: the lease's bytes are written again after it.
    ReleaseAcquire,
}

/// An atomic integer.
pub trait Atomic<T>: Debug {
    /// One that holds `value`.
    fn new(value: T) -> Self;
    /// Loads.
    fn load(&self, ordering: Ordering) -> T;
    /// Stores.
    fn store(&self, value: T, ordering: Ordering);
}

/// The 56 bytes of a line after its turn and mark: a header and the inline payload.
pub trait Body: Debug {
    /// All zero.
    fn new() -> Self;
    /// Writes the header and `inline`, at most [`INLINE_BYTES`]; the owner's side.
    fn write(&self, header: [u8; Header::BYTES], inline: &[u8]);
    /// Copies the header out; the reader's side.
    fn header(&self) -> [u8; Header::BYTES];
    /// Copies `out.len()` inline bytes out, at most [`INLINE_BYTES`]; the reader's side.
    fn inline(&self, out: &mut [u8]);
}

/// The payload area of a segment: a ring of bytes.
pub trait Area: Debug {
    /// Bytes, a power of two.
    fn bytes(&self) -> usize;
    /// Writes at `offset`; the owner's side. The range lies within.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Copies out from `offset`; the reader's side. The range lies within.
    fn read(&self, offset: usize, out: &mut [u8]);
}

/// One mapped segment, seen by its owner or by its reader.
pub trait Half<P: Platform>: Debug {
    /// Its header.
    fn head(&self) -> &Head<P>;
    /// How many lines its ring has, a power of two.
    fn lines(&self) -> u32;
    /// Line `index`, which is taken modulo [`Half::lines`].
    fn line(&self, index: u64) -> &Line<P>;
    /// Its payload area.
    fn area(&self) -> &P::Area;
    /// Asks the processor for line `index`, to be written soon. A hint.
    #[inline]
    fn fetch_to_write(&self, index: u64) {
        let _ = index;
    }
    /// Asks the processor for line `index`, to be read soon. A hint.
    #[inline]
    fn fetch_to_read(&self, index: u64) {
        let _ = index;
    }
}

/// How a writer wakes the reader of its direction.
pub trait Bell<P: Platform>: Debug {
    /// Rings. `word` is the doorbell word of the writer's own segment, already changed.
    fn ring(&self, word: &P::U32);
}

/// A lock within one process.
pub trait Lock<T>: Debug {
    /// A lock around `value`.
    fn new(value: T) -> Self;
    /// Runs `body` with the lock held.
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R;
}

/// A source of atomics, memory, waiting and time.
pub trait Platform: Sized + Debug + 'static {
    /// A 32-bit atomic, which can be waited for.
    type U32: Atomic<u32>;
    /// A 64-bit atomic.
    type U64: Atomic<u64>;
    /// The body of a line.
    type Body: Body;
    /// A payload area.
    type Area: Area;
    /// A mapped segment.
    type Half: Half<Self>;
    /// What rings a reader.
    type Bell: Bell<Self>;
    /// A handle on one status word.
    type Status: AsRef<Self::U32> + Clone + Debug;
    /// A lock within the process.
    type Lock<T: Debug>: Lock<T>;

    /// The ordering to use for `label`, where the protocol gives `given`: the identity, except in
    /// a broken twin.
    #[must_use]
    fn ordering(_label: Label, given: Ordering) -> Ordering {
        given
    }

    /// A SeqCst fence, except in a broken twin.
    fn fence(label: Label);

    /// Waits until one of `words` no longer holds the value beside it, until it is woken, or until
    /// `deadline` (ns of [`Platform::now`]). May return without cause.
    fn wait(words: &[(&Self::U32, u32)], deadline: Option<u64>);

    /// Whether the kernel that writes this status word is gone, so that nobody tells of deaths.
    fn is_orphaned(_status: &Self::Status) -> bool {
        false
    }

    /// Says, for as long as the answer lives, that this thread waits on the connection of `status`.
    fn waiting<'a>(_status: &'a Self::Status, _waiting: &Waiting) -> impl Sized + 'a {}

    /// Whether anybody can wait for the calling thread, so that its own wait can be one of a circle.
    fn is_waited_for(_status: &Self::Status) -> bool {
        false
    }

    /// Whether the published wait of the calling thread for `transaction` is one of a circle.
    fn ask(_status: &Self::Status, _transaction: u64) -> Asked {
        Asked::Nothing
    }

    /// The index of the connection's status word, by which the task page names it.
    fn index(_status: &Self::Status) -> u32 {
        0
    }

    /// What the status word of this connection holds while it is open, for a sleeper to compare.
    #[must_use]
    #[inline]
    fn open_word(_status: &Self::Status) -> u32 {
        ConnectionState::Open as u32
    }

    /// Whether the status word says that injections are pending.
    #[must_use]
    #[inline]
    fn is_injected(_status: &Self::Status) -> bool {
        false
    }

    /// A transaction has reached `phase` at an end whose status word says that injections are
    /// pending: carries out what is to happen there. Whether what is at hand is to be dropped.
    #[must_use]
    fn reached(_status: &Self::Status, _phase: Phase) -> bool {
        false
    }

    /// Wakes all who wait for `word`.
    fn wake(word: &Self::U32);

    /// A monotonic clock, in ns.
    fn now() -> u64;

    /// The processor that this thread runs on, counted from 0.
    fn cpu() -> u32;

    /// A short rest between two looks.
    fn pause();

    /// Lets others run on this processor.
    fn yield_now();
}

/// What a line's body holds beside its header.
pub(crate) const BODY_BYTES: usize = Header::BYTES + INLINE_BYTES;
