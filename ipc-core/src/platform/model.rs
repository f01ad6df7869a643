//! loom in the place of the machine.
//!
//! Payload is modelled as cells that loom checks for races, so a message that is read before it is
//! published fails a model by itself. A wait is one condition variable for the whole model, its
//! check made under the lock as a futex makes it: it may wake without cause, which every waiter
//! must bear anyway.
//!
//! # Safety
//! `unsafe` here is the use of loom's checked cells: loom hands out a pointer for the length of a
//! closure and fails the model if another thread is in a closure of the same cell without order.

use super::{Area, Atomic, Bell, Body, Half, Label, Lock, Platform};
use crate::layout::{Head, Line};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use rendez_protocol::limit::{INLINE_BYTES, LINE_BYTES};
use rendez_protocol::message::Header;

/// Which ordering or fence of the protocol a model leaves out.
pub trait Twin: fmt::Debug + 'static {
    /// The label that is weakened, or `None` for the protocol as it ships.
    const WEAK: Option<Label>;
}

/// The protocol as it ships.
#[derive(Debug)]
pub enum Sound {}

impl Twin for Sound {
    const WEAK: Option<Label> = None;
}

/// loom, with the protocol's orderings as they ship ([`Sound`]) or one of them weakened.
#[derive(Debug)]
pub struct Model<T: Twin = Sound>(PhantomData<T>);

macro_rules! atomic {
    ($atomic:ty, $value:ty) => {
        impl Atomic<$value> for $atomic {
            fn new(value: $value) -> Self {
                Self::new(value)
            }
            fn load(&self, ordering: Ordering) -> $value {
                self.load(ordering)
            }
            fn store(&self, value: $value, ordering: Ordering) {
                self.store(value, ordering);
            }
        }
    };
}
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// A line's body: one cell, so that reading it while it is written fails the model.
pub struct ModelBody(UnsafeCell<([u8; Header::BYTES], [u8; INLINE_BYTES])>);

impl fmt::Debug for ModelBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelBody")
    }
}

impl Body for ModelBody {
    fn new() -> Self {
        Self(UnsafeCell::new(([0; Header::BYTES], [0; INLINE_BYTES])))
    }

    fn write(&self, header: [u8; Header::BYTES], inline: &[u8]) {
        self.0.with_mut(|cell| {
            // SAFETY: loom hands out the pointer for the length of the closure, and fails the model
            // if another thread is in a closure of the same cell without order.
            let cell = unsafe { &mut *cell };
            cell.0 = header;
            cell.1[..inline.len()].copy_from_slice(inline);
        });
    }

    fn header(&self) -> [u8; Header::BYTES] {
        // SAFETY: as in `write`.
        self.0.with(|cell| unsafe { (*cell).0 })
    }

    fn inline(&self, out: &mut [u8]) {
        self.0.with(|cell| {
            // SAFETY: as in `write`.
            let cell = unsafe { &*cell };
            out.copy_from_slice(&cell.1[..out.len()]);
        });
    }
}

/// A payload area: one cell for each line.
pub struct ModelArea(Vec<UnsafeCell<[u8; LINE_BYTES]>>);

impl fmt::Debug for ModelArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelArea")
    }
}

impl Area for ModelArea {
    fn bytes(&self) -> usize {
        self.0.len() * LINE_BYTES
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (chunk, cell) in bytes.chunks(LINE_BYTES).zip(&self.0[offset / LINE_BYTES..]) {
            // SAFETY: as in `ModelBody::write`.
            cell.with_mut(|cell| unsafe { &mut *cell }[..chunk.len()].copy_from_slice(chunk));
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        for (chunk, cell) in out.chunks_mut(LINE_BYTES).zip(&self.0[offset / LINE_BYTES..]) {
            // SAFETY: as in `ModelBody::write`.
            cell.with(|cell| chunk.copy_from_slice(&unsafe { &*cell }[..chunk.len()]));
        }
    }
}

/// A segment that is not mapped but built.
#[derive(Debug)]
pub struct ModelHalf<T: Twin> {
    head: Head<Model<T>>,
    lines: Vec<Line<Model<T>>>,
    area: ModelArea,
}

/// A handle on a built segment; both ends hold one.
#[derive(Debug)]
pub struct SharedHalf<T: Twin>(Arc<ModelHalf<T>>);

impl<T: Twin> Clone for SharedHalf<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Twin> SharedHalf<T> {
    /// An unused segment of `lines` lines and an area of `area_lines` lines, both powers of two.
    #[must_use]
    pub fn new(lines: usize, area_lines: usize) -> Self {
        Self(Arc::new(ModelHalf {
            head: Head::new(),
            lines: (0..lines).map(|_| Line::new()).collect(),
            area: ModelArea((0..area_lines).map(|_| UnsafeCell::new([0; LINE_BYTES])).collect()),
        }))
    }
}

impl<T: Twin> Half<Model<T>> for SharedHalf<T> {
    fn head(&self) -> &Head<Model<T>> {
        &self.0.head
    }
    fn lines(&self) -> u32 {
        self.0.lines.len() as u32
    }
    fn line(&self, index: u64) -> &Line<Model<T>> {
        &self.0.lines[index as usize & (self.0.lines.len() - 1)]
    }
    fn area(&self) -> &ModelArea {
        &self.0.area
    }
}

/// A status word, which the model's kernel thread stores into.
#[derive(Clone, Debug)]
pub struct ModelStatus(Arc<AtomicU32>);

impl ModelStatus {
    /// The word of an open connection.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    /// What the kernel does: stores the word and wakes its waiters.
    pub fn set<T: Twin>(&self, word: u32) {
        // ORDERING(status): Release; what the dead task did is visible before its death is. Pairs
        // with the fence after `ClientEnd::state`.
        self.0.store(word, Model::<T>::ordering(Label::StatusRelease, Ordering::Release));
        Model::<T>::wake(&self.0);
    }
}

impl Default for ModelStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<AtomicU32> for ModelStatus {
    fn as_ref(&self) -> &AtomicU32 {
        &self.0
    }
}

/// The only bell of a model: the doorbell word itself.
#[derive(Debug)]
pub struct ModelBell;

impl<T: Twin> Bell<Model<T>> for ModelBell {
    fn ring(&self, word: &AtomicU32) {
        Model::<T>::wake(word);
    }
}

/// loom's lock.
pub struct ModelLock<T>(Mutex<T>);

impl<T> fmt::Debug for ModelLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelLock")
    }
}

impl<T> Lock<T> for ModelLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        body(&mut guard)
    }
}

struct Parking {
    lock: Mutex<()>,
    condition: Condvar,
}

loom::lazy_static! {
    static ref PARKING: Parking = Parking { lock: Mutex::new(()), condition: Condvar::new() };
}

impl<T: Twin> Platform for Model<T> {
    type U32 = AtomicU32;
    type U64 = AtomicU64;
    type Body = ModelBody;
    type Area = ModelArea;
    type Half = SharedHalf<T>;
    type Bell = ModelBell;
    type Status = ModelStatus;
    type Lock<V: fmt::Debug> = ModelLock<V>;

    fn ordering(label: Label, given: Ordering) -> Ordering {
        if T::WEAK == Some(label) { Ordering::Relaxed } else { given }
    }

    fn fence(label: Label) {
        if T::WEAK != Some(label) {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    fn wait(words: &[(&AtomicU32, u32)], _deadline: Option<u64>) {
        let guard = PARKING.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // ORDERING: Relaxed; whoever changed a word before it took the lock is seen through the lock.
        if words.iter().all(|(word, value)| word.load(Ordering::Relaxed) == *value) {
            drop(PARKING.condition.wait(guard));
        }
    }

    fn wake(_word: &AtomicU32) {
        drop(PARKING.lock.lock());
        PARKING.condition.notify_all();
    }

    fn now() -> u64 {
        0
    }

    fn cpu() -> u32 {
        0
    }

    fn pause() {
        loom::thread::yield_now();
    }

    fn yield_now() {
        loom::thread::yield_now();
    }
}
