//! One client for many threads: a few connections that they share, several transactions in flight on
//! each.
//!
//! # Who waits
//! All connections are in one [`ConnectionSet`], behind one lock, which nobody holds while they
//! sleep. Of the threads that wait for replies one is the *leader*: it polls, sleeps on the set's doorbells,
//! and hands each reply to the thread that waits for it (the others, the *followers*, sleep until
//! they have theirs). A leader that has its own reply makes one of the others the leader.
//!
//! A thread that begins something while the leader sleeps must not leave a connection that is polled
//! behind, for then nobody would ring: it lies down for the leader, and takes what has arrived in
//! between.

use crate::client::{ended, no_server, rest_before};
use crate::connection::{Opened, Options};
use crate::error::Error;
use crate::set::{Arrival, ConnectionSet, Member, Told};
use crate::task::{Task, deadline_after};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rendez_ipc_core::client::SendError;
use rendez_ipc_core::platform::{Host, Platform};
use rendez_ipc_core::wait::{Wait, learned_wake_ns};
use rendez_protocol::kernel::{Doorbell, KernelError};
use rendez_protocol::{Slot, Status, Why};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The longest sleep of a leader, in ns: only so that it fits what Linux takes.
const SLEEP_NS_MAX: u64 = 3_600_000_000_000;
/// Passes that a leader makes over the set before it lets others in.
const PASSES: u32 = 64;

/// Sends to one server from many threads, over a few connections that they share. Cheap to clone.
///
/// Unlike a [`Client`](crate::Client), whose threads take turns, a pool has as many transactions in
/// flight as its connections carry, and no thread waits for another's reply. Its policy of sending again is the same:
/// what was *not delivered* because the server died or the connection was closed is sent again,
/// over a new connection, within its deadline; what was *interrupted* never is.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    task: Task,
    slot: Slot,
    options: Options,
    size: usize,
    /// The epoll instance on which a leader sleeps, without the lock.
    doorbells: OwnedFd,
    state: Mutex<State>,
    /// Somebody has taken replies, so there may be room to begin, or a new connection.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    set: ConnectionSet,
    members: Vec<Member>,
    next: usize,
    /// Connections that somebody is making.
    making: usize,
    waiting: HashMap<(Member, u64), Waiter>,
    led: bool,
    leader_sleeps: bool,
}

#[derive(Debug)]
struct Waiter {
    wake: Arc<Condvar>,
    done: Option<Outcome>,
}

type Outcome = Result<(Status, Vec<u8>), SendError>;

impl Pool {
    /// A pool of at most `connections` connections to the endpoint that the capability in `slot`
    /// names. Connects once now, and again where all connections are full.
    ///
    /// # Errors
    /// As [`Connection::open`](crate::Connection::open).
    pub fn connect(
        task: &Task,
        slot: Slot,
        options: Options,
        connections: usize,
    ) -> Result<Self, Error> {
        let mut set = ConnectionSet::new(task)?;
        set.set_wait(options.wait);
        let first = set.connect(slot, &options)?;
        let doorbells = set
            .descriptor()
            .try_clone_to_owned()
            .map_err(|error| Error::system("duplicating a descriptor", error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                task: task.clone(),
                slot,
                options,
                size: connections.max(1),
                doorbells,
                state: Mutex::new(State {
                    set,
                    members: vec![first],
                    next: 0,
                    making: 0,
                    waiting: HashMap::new(),
                    led: false,
                    leader_sleeps: false,
                }),
                changed: Condvar::new(),
            }),
        })
    }

    /// Sends a request and waits for its reply, of at most `room` bytes, with the timeout of the
    /// pool's [`Options`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the server answers with another status than OK; [`Error::Send`] if it
    /// does not answer; what the kernel says to connecting again.
    pub fn send(&self, operation: u16, payload: &[u8], room: usize) -> Result<Vec<u8>, Error> {
        let (status, payload) =
            self.exchange(operation, payload, room, self.inner.options.timeout)?;
        if status.is_ok() { Ok(payload) } else { Err(Error::refused(status, &payload)) }
    }

    /// As [`Pool::send`], within `timeout`, answering the status whatever it is.
    ///
    /// # Errors
    /// [`Error::Send`] if the server does not answer; what the kernel says to connecting again.
    pub fn exchange(
        &self,
        operation: u16,
        payload: &[u8],
        room: usize,
        timeout: Duration,
    ) -> Result<(Status, Vec<u8>), Error> {
        let deadline = deadline_after(timeout);
        let mut pause = Duration::ZERO;
        loop {
            match self.inner.once(operation, payload, room, deadline) {
                Err(Error::Send(SendError::NotDelivered { why: Why::Dead | Why::Closed }))
                    if self.inner.options.resend.goes_on_until(deadline) =>
                {
                    pause = rest_before(pause, deadline);
                }
                other => return other.map_err(no_server),
            }
        }
    }

    /// How many connections there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.state.lock().members.len()
    }
}

impl Inner {
    /// One attempt.
    fn once(
        &self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<(Status, Vec<u8>), Error> {
        let mut state = self.state.lock();
        let key = loop {
            match state.begin(operation, payload, room, deadline) {
                Some(begun) => break begun?,
                None if state.members.len() + state.making < self.size => {
                    state = self.one_more(state, deadline)?;
                }
                None if state.members.is_empty() || state.led => {
                    // Replies will make room; or somebody connects.
                    if self.changed.wait_until(&mut state, instant(deadline)).timed_out()
                        && Host::now() >= deadline
                    {
                        return Err(SendError::NotDelivered { why: Why::Deadline }.into());
                    }
                }
                None => {
                    // Nobody takes replies: then it is for us to do.
                    self.lead(&mut state, None, deadline)?;
                    if Host::now() >= deadline {
                        return Err(SendError::NotDelivered { why: Why::Deadline }.into());
                    }
                }
            }
        };
        let wake = Arc::new(Condvar::new());
        state.waiting.insert(key, Waiter { wake: Arc::clone(&wake), done: None });
        if state.leader_sleeps {
            self.lie_down(&mut state)?;
        }
        loop {
            if let Some(outcome) = state.take(key) {
                return outcome.map_err(Error::from);
            }
            if state.led {
                wake.wait(&mut state);
            } else if let Err(error) = self.lead(&mut state, Some(key), u64::MAX) {
                // The transaction is told of to nobody any more.
                state.waiting.remove(&key);
                return Err(error);
            }
        }
    }

    /// Makes one connection more, without the lock.
    fn one_more<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: u64,
    ) -> Result<MutexGuard<'a, State>, Error> {
        state.making += 1;
        let opened = MutexGuard::unlocked(&mut state, || {
            let (task, options) = (&self.task, &self.options);
            Opened::open(task, self.slot, options, deadline, Doorbell::Event)
        });
        state.making -= 1;
        self.changed.notify_all();
        let opened = opened.map_err(|error| match error {
            // It died while the connection was made: the next attempt waits for its successor.
            Error::Kernel(KernelError::NotCompleted(Why::Dead)) => {
                SendError::NotDelivered { why: Why::Dead }.into()
            }
            other => other,
        })?;
        let member = state.set.adopt(opened, &self.options)?;
        state.members.push(member);
        if state.leader_sleeps {
            self.lie_down(&mut state)?;
        }
        Ok(state)
    }

    /// While the leader sleeps: sees to it that whatever comes rings, and hands over what is there.
    fn lie_down(&self, state: &mut State) -> Result<(), Error> {
        loop {
            match state.set.turn_now(true) {
                Ok(Some(told)) => self.hand_over(state, told),
                Ok(None) => return Ok(()),
                Err(Error::KernelGone) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes replies for all until `own` is there (`None`: until anything is), or `deadline`.
    fn lead(
        &self,
        state: &mut MutexGuard<'_, State>,
        own: Option<(Member, u64)>,
        deadline: u64,
    ) -> Result<(), Error> {
        state.led = true;
        let result = match self.drive(state, own, deadline) {
            // Told once. The connections go on, and deadlines end what nobody answers.
            Err(Error::KernelGone) => Ok(()),
            other => other,
        };
        state.led = false;
        // One of those who wait goes on. Those whose reply is there wake by themselves.
        if let Some(next) = state.waiting.values().find(|waiter| waiter.done.is_none()) {
            next.wake.notify_one();
        }
        self.changed.notify_all();
        result
    }

    fn drive(
        &self,
        state: &mut MutexGuard<'_, State>,
        own: Option<(Member, u64)>,
        deadline: u64,
    ) -> Result<(), Error> {
        let mut passes = 0u32;
        let mut began = 0;
        loop {
            let mut any = false;
            while let Some(told) = state.set.turn_now(false)? {
                self.hand_over(state, told);
                any = true;
                if own.is_some_and(|own| state.is_done(own)) {
                    return Ok(());
                }
            }
            if any && own.is_none() {
                return Ok(());
            }
            passes = if any { 0 } else { passes + 1 };
            if !passes.is_multiple_of(PASSES) || (any && passes == 0) {
                continue;
            }
            let now = Host::now();
            if now >= deadline {
                return Ok(());
            }
            if passes == PASSES {
                began = now;
            }
            let spin = match self.options.wait {
                Wait::Spin => true,
                Wait::Adaptive => now.saturating_sub(began) < learned_wake_ns(),
                Wait::Block => false,
            };
            if spin {
                // Whoever wants to begin something gets in.
                MutexGuard::bump(state);
                continue;
            }
            if let Some(told) = state.set.turn_now(true)? {
                self.hand_over(state, told);
            } else {
                let until = state.set.soonest().min(deadline);
                state.leader_sleeps = true;
                MutexGuard::unlocked(state, || self.sleep(until));
                state.leader_sleeps = false;
                if let Some(told) = state.set.after_sleep()? {
                    self.hand_over(state, told);
                }
            }
            passes = 0;
            if own.is_some_and(|own| state.is_done(own)) {
                return Ok(());
            }
        }
    }

    fn sleep(&self, until: u64) {
        let left = until.saturating_sub(Host::now()).min(SLEEP_NS_MAX);
        let timeout = Timespec {
            tv_sec: (left / 1_000_000_000) as i64,
            tv_nsec: (left % 1_000_000_000) as i64,
        };
        // Whatever comes of it is a reason to look.
        let _ = poll(&mut [PollFd::new(&self.doorbells, PollFlags::IN)], Some(&timeout));
    }

    fn hand_over(&self, state: &mut State, told: Told) {
        let State { set, waiting, members, .. } = state;
        match set.tell(told) {
            Arrival::Answer { member, transaction, outcome } => {
                if let Some(waiter) = waiting.get_mut(&(member, transaction)) {
                    waiter.done = Some(outcome.map(|reply| (reply.status, reply.payload.to_vec())));
                    waiter.wake.notify_one();
                }
                if matches!(outcome, Err(error) if ended(error.why())) {
                    members.retain(|other| *other != member);
                }
                self.changed.notify_one();
            }
            Arrival::Ended { member, .. } => {
                members.retain(|other| *other != member);
                self.changed.notify_all();
            }
            Arrival::Notified { .. } => {}
        }
    }
}

impl State {
    /// Begins on whichever connection has room; `None` if none has.
    fn begin(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Option<Result<(Member, u64), SendError>> {
        for _ in 0..self.members.len() {
            self.next = (self.next + 1) % self.members.len();
            let member = self.members[self.next];
            match self.set.begin_until(member, operation, payload, room, deadline) {
                Ok(transaction) => return Some(Ok((member, transaction))),
                Err(SendError::NotDelivered { why: Why::Full }) => {}
                Err(error) => {
                    if ended(error.why()) {
                        self.members.retain(|other| *other != member);
                    }
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn is_done(&self, key: (Member, u64)) -> bool {
        self.waiting.get(&key).is_none_or(|waiter| waiter.done.is_some())
    }

    /// The outcome of a transaction, if it is there.
    fn take(&mut self, key: (Member, u64)) -> Option<Outcome> {
        if !self.is_done(key) {
            return None;
        }
        self.waiting.remove(&key)?.done
    }
}

/// A time of `CLOCK_MONOTONIC` as the standard library has it.
fn instant(deadline: u64) -> std::time::Instant {
    let left = deadline.saturating_sub(Host::now()).min(SLEEP_NS_MAX);
    std::time::Instant::now() + Duration::from_nanos(left)
}
