//! What a task says in its page of whom its threads wait for, and what they work on meanwhile.
//!
//! *Words.* A wait record is four words: the key (which connection, which transaction), who waits
//! (the thread, and whether its peer has taken the message), since when, until when. A thread record
//! ([`counters`](crate::counters)) has a word of the same shape as the key: what the thread's handler
//! was last given. So an edge of the graph of waits has two ends, which two tasks say independently.
//!
//! *When.* A wait is published when its thread goes to sleep, and again each time that it does so: a
//! wait that spinning ends is never said. What a receiver handles is one store for each message, into
//! a line that nobody else writes; it is taken back where the receiver has found nothing to do.
//!
//! *If the owner dies or lies here.* Whatever is read is a claim: copied once, bounded, and held
//! against what the other end says, and what the kernel knows of the connection. Nothing is concluded
//! from one look: who is said to be in a circle of waits is asked again (`docs/guide/observing.md`).

use crate::counters::ThreadWords;
use crate::page::{PageWriter, RecordPlace};
use core::sync::atomic::Ordering::Relaxed;
use rendez_protocol::limit::STATUS_WORDS;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Bits of a transaction id that a key has room for: at a million transactions a second they last
/// for nine years.
const TRANSACTION_BITS: u32 = 48;
const TRANSACTION_MASK: u64 = (1 << TRANSACTION_BITS) - 1;
/// In the word that says who waits: the peer has taken the message.
const TAKEN: u64 = 1 << 32;

/// A wait lasts so long before it is suspected to be one of a circle, in ns: many times what a handler
/// takes as a rule, and a wake-up of a loaded machine, so that who asks is rare; and short for people.
pub const SUSPECT_AFTER_NS: u64 = 50_000_000;
/// After a suspicion: how soon it is looked at again, in ns.
pub(crate) const ASK_AGAIN_NS: u64 = 5_000_000;

const _: () = assert!(STATUS_WORDS < u16::MAX as u32);

/// A transaction of a connection in one word, never 0.
#[must_use]
pub(crate) const fn key(status_index: u32, transaction: Option<u64>) -> u64 {
    let transaction = match transaction {
        Some(transaction) => transaction & TRANSACTION_MASK,
        None => TRANSACTION_MASK,
    };
    (status_index as u64 + 1) << TRANSACTION_BITS | transaction
}

/// What [`key`] was made of; `None` if it is 0 or names no status word.
pub(crate) fn unlock(key: u64) -> Option<(u32, Option<u64>)> {
    let status_index = u32::try_from((key >> TRANSACTION_BITS).checked_sub(1)?).ok()?;
    let transaction = key & TRANSACTION_MASK;
    let transaction = (transaction != TRANSACTION_MASK).then_some(transaction);
    (status_index < STATUS_WORDS).then_some((status_index, transaction))
}

/// A wait, as the thread that waits says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For which transaction; `None` for notifications.
    pub transaction: Option<u64>,
    /// Since when, in ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Until when, in ns; [`NEVER`](crate::client::NEVER) for no end.
    pub deadline_ns: u64,
    /// Whether the peer has said that it has taken the message.
    pub taken: bool,
}

/// A wait, as a task claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The index of the connection's word in the task's status segment.
    pub status_index: u32,
    /// For which transaction; `None` for notifications.
    pub transaction: Option<u64>,
    /// Whether the other end has taken the message, as the waiter last saw.
    pub taken: bool,
    /// The thread, as Linux numbers it.
    pub thread: u32,
    /// Since when, in ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Until when; 0 for no end.
    pub deadline_ns: u64,
}

/// The words of a wait record, of which the key is stored last.
pub(crate) fn words_of(status_index: u32, waiting: &Waiting) -> [u64; 4] {
    let who = u64::from(own_thread()) | if waiting.taken { TAKEN } else { 0 };
    let deadline = if waiting.deadline_ns == u64::MAX { 0 } else { waiting.deadline_ns };
    [key(status_index, waiting.transaction), who, waiting.since_ns, deadline]
}

impl Claim {
    /// What a wait record says; `None` if it is free or makes no sense.
    pub(crate) fn new([key, who, since_ns, deadline_ns]: [u64; 4]) -> Option<Self> {
        let (status_index, transaction) = unlock(key)?;
        let (thread, taken) = (who as u32, who & TAKEN != 0);
        Some(Self { status_index, transaction, taken, thread, since_ns, deadline_ns })
    }
}

/// A thread of a task's server, as the task claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiving {
    /// The thread, as Linux numbers it; 0 if it has not begun.
    pub thread: u32,
    /// The message that it was given last, by the index of its connection's status word and its
    /// transaction, until it has found nothing more to do.
    pub handles: Option<(u32, u64)>,
}

impl Receiving {
    /// What the words of a thread record say.
    pub(crate) fn new(thread: u64, handles: u64) -> Self {
        let handles = unlock(handles).and_then(|(index, transaction)| Some((index, transaction?)));
        Self { thread: thread as u32, handles }
    }
}

/// All that a task claims of its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// How many threads its server has.
    pub receivers: u32,
    /// Those of them that have a record.
    pub receiving: Vec<Receiving>,
    /// Waits of any of its threads.
    pub waits: Vec<Claim>,
}

/// What came of asking whether a wait is one of a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is not.
    Nothing,
    /// It may be: ask again.
    Suspected,
    /// It is.
    Deadlock,
}

/// Whom to ask whether a wait is one of a circle: the kernel, in production.
pub trait Inquirer: core::fmt::Debug + Send + Sync {
    /// Asks of the wait of the calling thread for `transaction`, which is published. Takes a moment,
    /// and never long.
    fn ask(&self, transaction: u64) -> Asked;
}

/// When a wait that sleeps asks whether it is one of a circle.
#[derive(Debug)]
pub(crate) struct Patience {
    pub(crate) waiting: Waiting,
    /// When to ask next, `u64::MAX` for never.
    ask_at: u64,
    pause_ns: u64,
    asked_at: u64,
    /// Until when the last sleep was to last.
    until: u64,
}

impl Patience {
    /// For a wait that has not slept yet.
    #[inline]
    pub(crate) const fn new(transaction: Option<u64>, deadline_ns: u64) -> Self {
        let waiting = Waiting { transaction, since_ns: 0, deadline_ns, taken: false };
        Self { waiting, ask_at: u64::MAX, pause_ns: 0, asked_at: 0, until: 0 }
    }

    /// Before a sleep. Whether to ask first; `waited_for` says whether anybody can wait for this
    /// thread.
    pub(crate) fn before_sleep(&mut self, now: u64, waited_for: impl FnOnce() -> bool) -> bool {
        if self.waiting.since_ns == 0 {
            self.waiting.since_ns = now;
            if self.waiting.transaction.is_some() && waited_for() {
                self.pause_ns = SUSPECT_AFTER_NS;
                self.ask_at = now.saturating_add(SUSPECT_AFTER_NS);
            }
        } else if self.ask_at != u64::MAX && now < self.until {
            // Woken before its time, for nothing that is there: somebody else has asked, and the
            // kernel wants to know whether this wait is still one.
            self.ask_at = self.ask_at.min(self.asked_at.saturating_add(ASK_AGAIN_NS)).max(now);
        }
        now >= self.ask_at
    }

    /// What came of asking.
    pub(crate) fn asked(&mut self, now: u64, asked: Asked) {
        self.asked_at = now;
        let pause = if asked == Asked::Suspected {
            ASK_AGAIN_NS
        } else {
            self.pause_ns = self.pause_ns.saturating_mul(2);
            self.pause_ns
        };
        self.ask_at = now.saturating_add(pause);
    }

    /// Until when to sleep, if `until` is the latest.
    pub(crate) fn sleeps_until(&mut self, until: u64) -> u64 {
        self.until = until.min(self.ask_at);
        self.until
    }
}

std::thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
    /// The record of the server whose loop this thread runs.
    static RECEIVER: RefCell<Option<Arc<RecordPlace<ThreadWords>>>> = const { RefCell::new(None) };
}

/// The calling thread, as Linux numbers it.
pub(crate) fn own_thread() -> u32 {
    THREAD.with(|thread| {
        if thread.get() == 0 {
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            thread.set(own.unsigned_abs());
        }
        thread.get()
    })
}

/// The calling thread runs the loop to which `record` belongs.
pub(crate) fn receives(record: &Arc<RecordPlace<ThreadWords>>) {
    RECEIVER.with(|receiver| *receiver.borrow_mut() = Some(Arc::clone(record)));
}

/// Whether the calling thread runs the loop of a server that counts in `page`: only then can anybody
/// wait for it.
pub(crate) fn is_receiver_of(page: &PageWriter) -> bool {
    RECEIVER.with(|receiver| {
        receiver.borrow().as_ref().is_some_and(|record| {
            core::ptr::eq(record.place().0, page) && record.words().is_used_by(record.incarnation)
        })
    })
}

/// The calling thread's handler keeps the right to answer this transaction beyond itself: whoever
/// waits for that does not wait for this thread.
pub(crate) fn keeps(handled: u64) {
    RECEIVER.with(|receiver| {
        if let Some(record) = receiver.borrow().as_ref()
            && record.words().is_used_by(record.incarnation)
        {
            let handles = &record.words().handles;
            // ORDERING: Relaxed; a claim of its own, which only this thread writes.
            if handles.load(Relaxed) == handled {
                handles.store(0, Relaxed);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{
        ASK_AGAIN_NS, Asked, Claim, Patience, Receiving, SUSPECT_AFTER_NS, Waiting, key, unlock,
        words_of,
    };
    use rendez_protocol::limit::STATUS_WORDS;

    #[test]
    fn a_key_names_a_transaction_of_a_connection() {
        for index in [0, 1, STATUS_WORDS - 1] {
            for transaction in [0, 1, (1 << 48) - 2] {
                assert_eq!(unlock(key(index, Some(transaction))), Some((index, Some(transaction))));
            }
            assert_eq!(unlock(key(index, None)), Some((index, None)));
        }
        for rubbish in [0, 7, u64::MAX, u64::from(STATUS_WORDS + 1) << 48] {
            assert_eq!(unlock(rubbish), None, "{rubbish:x}");
        }
        assert_eq!(Receiving::new(9, key(4, None)).handles, None);
        assert_eq!(Receiving::new(9, key(4, Some(6))).handles, Some((4, 6)));
    }

    #[test]
    fn what_is_said_of_a_wait_is_what_is_read() {
        let waiting =
            Waiting { transaction: Some(5), since_ns: 10, deadline_ns: u64::MAX, taken: true };
        let claim = Claim::new(words_of(3, &waiting)).unwrap();
        assert_eq!((claim.status_index, claim.transaction, claim.taken), (3, Some(5), true));
        assert_eq!((claim.since_ns, claim.deadline_ns), (10, 0));
        assert_eq!(claim.thread, super::own_thread());
        assert_eq!(Claim::new([0, 1, 2, 3]), None);
    }

    #[test]
    fn only_who_can_be_waited_for_asks_and_less_and_less_often() {
        let mut idle = Patience::new(Some(1), u64::MAX);
        assert!(!idle.before_sleep(1_000, || false));
        assert_eq!(idle.sleeps_until(u64::MAX), u64::MAX);
        let mut post = Patience::new(None, u64::MAX);
        assert!(!post.before_sleep(1_000, || unreachable!("nobody asks of notifications")));

        let mut patience = Patience::new(Some(1), u64::MAX);
        assert!(!patience.before_sleep(1_000, || true));
        let mut at = 1_000 + SUSPECT_AFTER_NS;
        assert_eq!(patience.sleeps_until(u64::MAX), at);
        for doubled in 1..10 {
            assert!(patience.before_sleep(at, || unreachable!("asked once")));
            patience.asked(at, Asked::Nothing);
            at += SUSPECT_AFTER_NS << doubled;
            assert_eq!(patience.sleeps_until(u64::MAX), at);
        }
        assert_eq!(patience.waiting.since_ns, 1_000);
        assert_eq!(patience.sleeps_until(at - 1), at - 1, "a deadline comes first");
    }

    #[test]
    fn who_is_woken_for_nothing_asks_at_once_but_not_all_the_time() {
        let mut patience = Patience::new(Some(1), u64::MAX);
        assert!(!patience.before_sleep(1_000, || true));
        patience.sleeps_until(u64::MAX);
        assert!(!patience.before_sleep(1_001, || true), "too soon after the beginning");
        patience.sleeps_until(u64::MAX);
        let now = 1_000 + ASK_AGAIN_NS;
        assert!(patience.before_sleep(now, || true));
        patience.asked(now, Asked::Suspected);
        assert_eq!(patience.sleeps_until(u64::MAX), now + ASK_AGAIN_NS);
        assert!(!patience.before_sleep(now + 1, || true));
        assert!(patience.before_sleep(now + ASK_AGAIN_NS, || true));
    }
}
