//! One thread that receives from many connections.
//!
//! As in a network driver (Linux's NAPI), connections that were busy lately are polled and quiet
//! ones interrupt: a quiet connection's `asleep` word is set, and its client rings an eventfd that
//! lies in this thread's epoll set. So a transaction costs the same whether there are 1 or 10,000
//! connections. Polled connections take turns, one message each.
//!
//! Messages of a higher priority come first. Nobody pays for that where nobody uses it: once a
//! message of a priority above 0 has come, and until `ORDERED_FOR` have come without one, the
//! heads of all polled connections are looked at before one is taken; with more than a few of them,
//! before every so many are taken that each message costs about `LOOKS_PER_MESSAGE` looks. Epoll is
//! asked as often, for those that are quiet.
//!
//! A client that rings again and again and publishes nothing would keep the thread awake: after
//! [`EMPTY_RINGS_MAX`] such rings its doorbell is taken out of the epoll set and its ring is looked
//! at every [`MUTED_LOOK_NS`] instead, until there is a message in it.

use crate::counters::ThreadCounters;
use crate::end::End;
use crate::platform::{Host, Platform};
use crate::ring::{Buffer, Fault};
use crate::segment::prefetch_all;
use crate::server::{Found, Port, ServerEnd, Taken, sleep_fence};
use crate::status::StatusReader;
use crate::wait::{Habit, Learner, Slept, Spinner, Step, Wait};
use rendez_protocol::status::ConnectionState;
use rustix::event::{Timespec, epoll};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rings with nothing published after which a doorbell is no longer listened to.
pub const EMPTY_RINGS_MAX: u32 = 64;
/// How often the ring behind such a doorbell is looked at, in ns.
pub const MUTED_LOOK_NS: u64 = 10_000_000;
/// Empty looks after which one of several polled connections becomes quiet.
const IDLE_LOOKS: u32 = 128;
/// Messages after which the kernel's socket and the other descriptors are looked at in any case.
const MESSAGES_PER_LOOK: u32 = 128;
/// Looks of the spinner (each many polls) after which epoll is asked.
const LOOKS_PER_EPOLL: u32 = 8;
/// As [`LOOKS_PER_EPOLL`], where each look is a yield to the peer, and as a rule finds its message.
const YIELDS_PER_EPOLL: u32 = 32;
/// Polled connections whose notification bits are looked at in one look.
const NOTIFIED_PER_LOOK: usize = 8;
/// How many connections ahead of the one that is polled memory is fetched: its place, then, nearer,
/// what that points to, then the lines in which it meets its peer.
const AHEAD_PLACE: usize = 9;
/// See [`AHEAD_PLACE`].
const AHEAD_OWN: usize = 6;
/// See [`AHEAD_PLACE`].
const AHEAD_SHARED: usize = 3;
/// Messages of priority 0 after which connections take turns again without a look at what they hold.
const ORDERED_FOR: u32 = 4096;
/// How many heads of connections are looked at for one message, at most and on average.
const LOOKS_PER_MESSAGE: usize = 16;
/// Marks an epoll token as a descriptor of the caller's.
const OTHER: u64 = 1 << 63;

/// A connection's place in a [`Receiver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The place in the receiver's table, which is used again after [`Receiver::remove`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// What [`Receiver::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<M = Taken> {
    /// A message was taken; its payload is in the buffer.
    Message(Key, M),
    /// A client posted these notification bits.
    Notified(Key, u64),
    /// A connection has ended.
    Ended(Key, ConnectionState),
    /// A client broke the protocol.
    Fault(Key, Fault),
    /// The descriptor that was added with this token is readable.
    Descriptor(u32),
    /// The kernel has changed this task's own status word: there is an event on its socket.
    Kernel,
    /// The deadline has passed.
    Deadline,
}

#[derive(Debug)]
struct Place<E> {
    end: E,
    doorbell: OwnedFd,
    generation: u32,
    idle: u32,
    empty_rings: u32,
    /// Where it stands among the polled ones, if it is one.
    at: Option<usize>,
    muted: bool,
    learner: Learner,
}

/// Receives from many connections in one thread.
#[derive(Debug)]
pub struct Receiver<E: End = ServerEnd<Host>> {
    epoll: OwnedFd,
    places: Slab<Place<E>>,
    generation: u32,
    polled: Vec<usize>,
    cursor: usize,
    muted: Vec<usize>,
    wait: Wait,
    habit: Habit,
    status: Option<Arc<StatusReader>>,
    kernel_word: u32,
    since_look: u32,
    looks: u32,
    turn_to_notify: usize,
    /// Descriptors of the caller's that epoll has named and nobody was told of yet.
    readable: VecDeque<u32>,
    counters: ThreadCounters,
    /// Connections that [`Receiver::look_for_ends`] has found ended, and nobody was told of yet.
    ended: VecDeque<usize>,
    gauge: Arc<AtomicUsize>,
    rests: u64,
    /// For how many messages yet priority is looked at.
    ordered: u32,
    /// Connections whose next messages come first, in their order.
    first: VecDeque<usize>,
}

impl<E: End> Receiver<E> {
    /// One without connections. `status` is the task's status segment, if it has a kernel.
    ///
    /// # Errors
    /// What Linux says to a new epoll instance.
    pub fn new(wait: Wait, status: Option<Arc<StatusReader>>) -> io::Result<Self> {
        let kernel_word = status.as_ref().map_or(0, |status| status.load(0));
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            places: Slab::new(),
            generation: 0,
            polled: Vec::new(),
            cursor: 0,
            muted: Vec::new(),
            wait,
            habit: Habit::default(),
            status,
            kernel_word,
            since_look: 0,
            looks: 0,
            turn_to_notify: 0,
            readable: VecDeque::new(),
            counters: ThreadCounters::default(),
            ended: VecDeque::new(),
            gauge: Arc::default(),
            rests: 0,
            ordered: 0,
            first: VecDeque::new(),
        })
    }

    /// Counts from now on how the thread waits.
    pub fn set_counters(&mut self, counters: ThreadCounters) {
        self.counters = counters;
    }

    /// What the thread counts, and says of its work.
    #[must_use]
    #[inline]
    pub const fn counters(&self) -> &ThreadCounters {
        &self.counters
    }

    /// Changes how the thread waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Adds a connection and the epoll instance, made by the kernel, in which its client rings.
    ///
    /// # Errors
    /// What Linux says.
    pub fn add(&mut self, end: E, doorbell: OwnedFd) -> io::Result<Key> {
        let entry = self.places.vacant_entry();
        let index = entry.key();
        // The nested instance is never read: each ring is an edge, which the outer one passes on.
        epoll::add(
            &self.epoll,
            &doorbell,
            epoll::EventData::new_u64(index as u64),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        entry.insert(Place {
            end,
            doorbell,
            generation,
            idle: 0,
            empty_rings: 0,
            at: Some(self.polled.len()),
            muted: false,
            learner: Learner::default(),
        });
        self.polled.push(index);
        Ok(Key { index: index as u32, generation })
    }

    /// Removes a connection and answers its end.
    pub fn remove(&mut self, key: Key) -> Option<E> {
        self.take(key).map(|(end, _)| end)
    }

    /// As [`Receiver::remove`], for another receiver: the end is awake, its doorbell comes with it.
    pub fn take(&mut self, key: Key) -> Option<(E, OwnedFd)> {
        self.place(key)?;
        let index = key.index as usize;
        self.unpoll(index);
        let mut place = self.places.remove(index);
        self.muted.retain(|other| *other != index);
        if !place.muted {
            let _ = epoll::delete(&self.epoll, &place.doorbell);
        }
        place.end.get_up();
        Some((place.end, place.doorbell))
    }

    /// Adds a descriptor of the caller's, level-triggered, which [`Turn::Descriptor`] reports.
    ///
    /// # Errors
    /// What Linux says.
    pub fn add_descriptor(&self, descriptor: impl AsFd, token: u32) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            descriptor,
            epoll::EventData::new_u64(OTHER | u64::from(token)),
            epoll::EventFlags::IN,
        )?)
    }

    /// As [`Receiver::add_descriptor`], edge-triggered: each write to an eventfd is an event, and
    /// nobody reads it.
    ///
    /// # Errors
    /// What Linux says.
    pub fn add_edge(&self, descriptor: impl AsFd, token: u32) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            descriptor,
            epoll::EventData::new_u64(OTHER | u64::from(token)),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?)
    }

    /// Takes a descriptor of the caller's out again.
    ///
    /// # Errors
    /// What Linux says.
    pub fn remove_descriptor(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, descriptor)?)
    }

    /// How many connections are polled, as other threads may know: a measure.
    #[must_use]
    pub const fn gauge(&self) -> &Arc<AtomicUsize> {
        &self.gauge
    }

    /// How many connections are polled.
    #[must_use]
    pub const fn polled(&self) -> usize {
        self.polled.len()
    }

    /// How often a pass over the polled connections has found nothing.
    #[must_use]
    pub const fn rests(&self) -> u64 {
        self.rests
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A connection's end, to send by. Whoever receives from it does so through [`Receiver::next`].
    #[must_use]
    #[inline]
    pub fn end(&mut self, key: Key) -> Option<&mut E> {
        self.places
            .get_mut(key.index as usize)
            .filter(|place| place.generation == key.generation)
            .map(|place| &mut place.end)
    }

    /// As [`Receiver::end`], of a connection that is polled from now on: something will arrive.
    #[inline]
    pub fn rouse(&mut self, key: Key) -> Option<&mut E> {
        let index = key.index as usize;
        let place =
            self.places.get_mut(index).filter(|place| place.generation == key.generation)?;
        place.idle = 0;
        if place.at.is_none() && !place.muted {
            place.end.get_up();
            place.at = Some(self.polled.len());
            self.polled.push(index);
        }
        Some(&mut place.end)
    }

    /// Whether the connection is here.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.place(key).is_some()
    }

    /// All connections.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.places
            .iter()
            .map(|(index, place)| Key { index: index as u32, generation: place.generation })
            .collect()
    }

    /// Looks at each connection's status word, the quiet ones' too: [`Receiver::next`] tells of
    /// those that have ended.
    #[cold]
    pub fn look_for_ends(&mut self) {
        for (index, place) in &self.places {
            if place.end.state() != ConnectionState::Open && !self.ended.contains(&index) {
                self.ended.push_back(index);
            }
        }
    }

    fn ended_turn(&mut self) -> Option<Turn<E::Message>> {
        while let Some(index) = self.ended.pop_front() {
            if let Some(place) = self.places.get(index)
                && place.end.state() != ConnectionState::Open
            {
                let state = place.end.state();
                self.unpoll(index);
                return Some(Turn::Ended(self.key(index), state));
            }
        }
        None
    }

    #[inline]
    fn place(&self, key: Key) -> Option<&Place<E>> {
        self.places.get(key.index as usize).filter(|place| place.generation == key.generation)
    }

    fn key(&self, index: usize) -> Key {
        Key { index: index as u32, generation: self.places[index].generation }
    }

    /// Waits for something to do, until `deadline` (ns of `CLOCK_MONOTONIC`, `u64::MAX` for never).
    /// A message's payload is in `out`.
    ///
    /// # Errors
    /// What Linux says to waiting, which is a mistake of this library.
    #[inline(always)]
    pub fn next(&mut self, out: &mut Buffer, deadline: u64) -> io::Result<Turn<E::Message>> {
        if let Some(turn) = self.before(deadline)? {
            return Ok(turn);
        }
        let mut spinner = Spinner::new(self.wait, &self.habit);
        loop {
            if let Some(turn) = self.poll(out) {
                spinner.over(&mut self.habit);
                return Ok(turn);
            }
            let step = match self.polled.first() {
                Some(&index) => {
                    let (ours, theirs) = self.places[index].end.halves();
                    spinner.step(&mut self.habit, ours, theirs)
                }
                None if self.wait == Wait::Spin && !self.places.is_empty() => {
                    Step::Look(Host::now())
                }
                None => Step::Sleep,
            };
            match step {
                Step::Again => {
                    // One connection: nothing else to poll, and no turn to take.
                    if let [index] = self.polled[..] {
                        let end = &self.places[index].end;
                        while !end.has_news() && spinner.again::<Host>() {}
                    }
                }
                Step::Look(now) => {
                    if now >= deadline {
                        return Ok(Turn::Deadline);
                    }
                    if let Some(turn) = self.idle_look()? {
                        return Ok(turn);
                    }
                }
                Step::Sleep => {
                    spinner.exhaust();
                    if let Some(turn) = self.sleep(deadline)? {
                        return Ok(turn);
                    }
                }
            }
        }
    }

    /// As [`Receiver::next`], without waiting: `None` if one pass over the polled connections finds
    /// nothing.
    ///
    /// # Errors
    /// As [`Receiver::next`].
    #[inline]
    pub fn next_now(
        &mut self,
        out: &mut Buffer,
        deadline: u64,
    ) -> io::Result<Option<Turn<E::Message>>> {
        let turn = self.before(deadline)?;
        Ok(if turn.is_some() { turn } else { self.poll(out) })
    }

    /// What comes before messages.
    #[inline(always)]
    fn before(&mut self, deadline: u64) -> io::Result<Option<Turn<E::Message>>> {
        if let Some(token) = self.readable.pop_front() {
            return Ok(Some(Turn::Descriptor(token)));
        }
        if !self.ended.is_empty()
            && let Some(turn) = self.ended_turn()
        {
            return Ok(Some(turn));
        }
        if let Some(turn) = self.kernel_turn() {
            return Ok(Some(turn));
        }
        self.since_look += 1;
        if self.since_look >= MESSAGES_PER_LOOK {
            self.since_look = 0;
            return self.look_elsewhere(deadline);
        }
        Ok(None)
    }

    /// Prepares for a sleep that the caller makes by itself, by waiting until
    /// [`Receiver::descriptor`] is readable: lies down with all polled connections. Something that
    /// is there after all, or `None`: then nothing is polled until [`Receiver::after_sleep`].
    ///
    /// # Errors
    /// As [`Receiver::next`].
    pub fn before_sleep(&mut self, out: &mut Buffer) -> io::Result<Option<Turn<E::Message>>> {
        while !self.lie_down() {
            if let Some(turn) = self.ready_turn() {
                return Ok(Some(turn));
            }
            if let Some(turn) = self.poll(out) {
                return Ok(Some(turn));
            }
        }
        Ok(self.kernel_turn())
    }

    /// What is readable when a sleep that [`Receiver::before_sleep`] prepared is over.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// After such a sleep: connections that were rung are polled again.
    ///
    /// # Errors
    /// As [`Receiver::next`].
    pub fn after_sleep(&mut self) -> io::Result<Option<Turn<E::Message>>> {
        self.look_at_muted();
        self.ask_epoll(Some(0))
    }

    /// One pass over the polled connections.
    #[inline(always)]
    fn poll(&mut self, out: &mut Buffer) -> Option<Turn<E::Message>> {
        if self.ordered != 0
            && self.polled.len() > 1
            && let Some(turn) = self.poll_first(out)
        {
            return Some(turn);
        }
        for _ in 0..self.polled.len() {
            if self.cursor >= self.polled.len() {
                self.cursor = 0;
            }
            let index = self.polled[self.cursor];
            self.cursor += 1;
            if self.polled.len() > AHEAD_PLACE {
                self.look_ahead();
            }
            if let Some(turn) = self.look_at(index, out) {
                return Some(turn);
            }
        }
        self.rests += 1;
        None
    }

    /// Takes what the connection holds next.
    #[inline(always)]
    fn look_at(&mut self, index: usize, out: &mut Buffer) -> Option<Turn<E::Message>> {
        let place = &mut self.places[index];
        match place.end.receive(out) {
            Ok(Found::Message(taken)) => {
                place.idle = 0;
                place.empty_rings = 0;
                let key = Key { index: index as u32, generation: place.generation };
                if E::priority(&taken) != 0 {
                    self.ordered = ORDERED_FOR;
                }
                Some(Turn::Message(key, taken))
            }
            Ok(Found::Nothing | Found::NoRoom) => {
                place.idle = place.idle.saturating_add(1);
                if place.idle > IDLE_LOOKS && self.polled.len() > 1 {
                    self.quieten(index);
                }
                None
            }
            Ok(Found::Ended(state)) => {
                self.unpoll(index);
                Some(Turn::Ended(self.key(index), state))
            }
            Err(fault) => {
                self.unpoll(index);
                Some(Turn::Fault(self.key(index), fault))
            }
        }
    }

    /// Takes a message of the highest priority that there is, in turn with others of the same.
    /// `None` if nothing can be taken from those that came first: then all take turns.
    #[cold]
    fn poll_first(&mut self, out: &mut Buffer) -> Option<Turn<E::Message>> {
        if self.first.is_empty() {
            self.find_first();
        }
        while let Some(index) = self.first.pop_front() {
            let is_polled = self.places.get(index).is_some_and(|place| place.at.is_some());
            if is_polled && let Some(turn) = self.look_at(index, out) {
                // Set anew by each message that has a priority.
                self.ordered = self.ordered.saturating_sub(1);
                return Some(turn);
            }
        }
        None
    }

    /// Looks at the next messages of all polled connections, and remembers those that come first.
    fn find_first(&mut self) {
        if self.polled.len() < self.places.len() {
            // Quiet ones may have rung. What Linux says against asking, it says again when we sleep.
            if let Ok(Some(Turn::Descriptor(token))) = self.ask_epoll(Some(0)) {
                self.readable.push_front(token);
            }
        }
        let (most, mut highest) = (self.polled.len().div_ceil(LOOKS_PER_MESSAGE), 0);
        let mut some_idle = false;
        for step in 0..self.polled.len() {
            let at = (self.cursor + step) % self.polled.len();
            let index = self.polled[at];
            let place = &mut self.places[index];
            let Some(priority) = place.end.urgency() else {
                // While there is always something that comes first, no other look is made.
                place.idle = place.idle.saturating_add(1);
                some_idle |= place.idle > IDLE_LOOKS;
                continue;
            };
            if priority > highest {
                highest = priority;
                self.first.clear();
            }
            if priority == highest && self.first.len() < most {
                self.first.push_back(index);
            }
        }
        if let Some(at) = self.first.back().and_then(|last| self.places[*last].at) {
            self.cursor = at + 1;
        }
        if some_idle {
            self.quieten_idle();
        }
    }

    /// Makes those quiet in which there was nothing for long, but for one.
    #[cold]
    fn quieten_idle(&mut self) {
        let mut at = 0;
        while self.polled.len() > 1
            && let Some(&index) = self.polled.get(at)
        {
            if self.places[index].idle > IDLE_LOOKS {
                self.quieten(index);
            }
            // Another has taken the place of one that is quiet now.
            if self.polled.get(at) == Some(&index) {
                at += 1;
            }
        }
    }

    /// Fetches what the next turns will need: with many connections each of them lies in lines and
    /// pages of its own, whose misses would otherwise add up instead of overlapping.
    fn look_ahead(&self) {
        let ahead = |by: usize| {
            let at = self.cursor + by;
            let at = if at < self.polled.len() { at } else { at - self.polled.len() };
            self.polled.get(at).and_then(|index| self.places.get(*index))
        };
        if let Some(place) = ahead(AHEAD_PLACE) {
            prefetch_all(place);
        }
        if let Some(place) = ahead(AHEAD_OWN) {
            place.end.prefetch_own();
        }
        if let Some(place) = ahead(AHEAD_SHARED) {
            place.end.prefetch_shared();
        }
    }

    fn unpoll(&mut self, index: usize) {
        if let Some(at) = self.places[index].at.take() {
            self.polled.swap_remove(at);
            if let Some(moved) = self.polled.get(at) {
                self.places[*moved].at = Some(at);
            }
        }
    }

    /// Makes one of several polled connections quiet, unless there is something in it after all.
    #[cold]
    fn quieten(&mut self, index: usize) {
        let end = &mut self.places[index].end;
        end.lie_down();
        sleep_fence::<Host>();
        if end.wakes_at_once() {
            end.get_up();
            self.places[index].idle = 0;
        } else {
            self.unpoll(index);
        }
    }

    /// What is looked at while spinning.
    #[cold]
    fn idle_look(&mut self) -> io::Result<Option<Turn<E::Message>>> {
        self.counters.looked(self.polled.len(), self.places.len());
        for &index in &self.polled {
            self.places[index].end.settle();
        }
        if let Some(turn) = self.kernel_turn() {
            return Ok(Some(turn));
        }
        self.looks = self.looks.wrapping_add(1);
        let every = if self.habit.yields() { YIELDS_PER_EPOLL } else { LOOKS_PER_EPOLL };
        if self.looks.is_multiple_of(every) {
            self.look_at_muted();
            if let Some(turn) = self.ask_epoll(Some(0))? {
                return Ok(Some(turn));
            }
        }
        Ok(self.notified())
    }

    /// What is looked at now and then while messages come without a pause.
    #[cold]
    fn look_elsewhere(&mut self, deadline: u64) -> io::Result<Option<Turn<E::Message>>> {
        if let Some(turn) = self.kernel_turn() {
            return Ok(Some(turn));
        }
        if deadline != u64::MAX && Host::now() >= deadline {
            return Ok(Some(Turn::Deadline));
        }
        self.look_at_muted();
        self.show_polled();
        if let Some(turn) = self.ask_epoll(Some(0))? {
            return Ok(Some(turn));
        }
        Ok(self.notified())
    }

    fn show_polled(&self) {
        // ORDERING: Relaxed; a measure for other threads.
        self.gauge.store(self.polled.len(), Ordering::Relaxed);
    }

    /// Notification bits of a polled connection.
    fn notified(&mut self) -> Option<Turn<E::Message>> {
        // A few of many at a time: each is a cache line or two that nothing else needs now.
        for _ in 0..self.polled.len().min(NOTIFIED_PER_LOOK) {
            self.turn_to_notify += 1;
            if self.turn_to_notify >= self.polled.len() {
                self.turn_to_notify = 0;
            }
            let index = self.polled[self.turn_to_notify];
            let place = &mut self.places[index];
            if place.end.state() != ConnectionState::Open {
                continue;
            }
            let bits = place.end.take_notifications();
            if bits != 0 {
                place.empty_rings = 0;
                return Some(Turn::Notified(self.key(index), bits));
            }
        }
        None
    }

    fn kernel_turn(&mut self) -> Option<Turn<E::Message>> {
        let word = self.status.as_ref()?.load(0);
        (word != self.kernel_word).then(|| {
            self.kernel_word = word;
            Turn::Kernel
        })
    }

    /// Lies down with all polled connections, and waits in epoll if there is nothing in any.
    #[cold]
    fn sleep(&mut self, deadline: u64) -> io::Result<Option<Turn<E::Message>>> {
        if !self.lie_down() {
            // Notifications and ends are found here, messages by the next pass.
            return Ok(self.ready_turn());
        }
        if let Some(turn) = self.kernel_turn() {
            return Ok(Some(turn));
        }
        self.counters.sleeps(self.places.len(), self.habit.budget_ns(self.wait));
        self.show_polled();
        if deadline == u64::MAX && self.muted.is_empty() {
            return self.ask_epoll(None);
        }
        let now = Host::now();
        if now >= deadline {
            return Ok(Some(Turn::Deadline));
        }
        let until =
            if self.muted.is_empty() { deadline } else { deadline.min(now + MUTED_LOOK_NS) };
        let turn = self.ask_epoll(Some(until - now))?;
        self.look_at_muted();
        Ok(turn)
    }

    /// Lies down with all polled connections; those in which there is something stay awake. Whether
    /// there are none of these.
    fn lie_down(&mut self) -> bool {
        for &index in &self.polled {
            self.places[index].end.lie_down();
        }
        sleep_fence::<Host>();
        let mut awake = 0;
        for at in 0..self.polled.len() {
            let index = self.polled[at];
            let place = &mut self.places[index];
            if place.end.wakes_at_once() {
                place.end.get_up();
                place.at = Some(awake);
                self.polled[awake] = index;
                awake += 1;
            } else {
                place.at = None;
            }
        }
        self.polled.truncate(awake);
        self.polled.is_empty()
    }

    fn ready_turn(&mut self) -> Option<Turn<E::Message>> {
        if let Some(turn) = self.notified() {
            return Some(turn);
        }
        for place in 0..self.polled.len() {
            let index = self.polled[place];
            let state = self.places[index].end.state();
            if state != ConnectionState::Open {
                self.unpoll(index);
                return Some(Turn::Ended(self.key(index), state));
            }
        }
        None
    }

    /// Asks epoll, for at most `timeout` ns (`None`: for as long as it takes). Rung connections are
    /// polled from now on.
    fn ask_epoll(&mut self, timeout: Option<u64>) -> io::Result<Option<Turn<E::Message>>> {
        let slept = timeout != Some(0);
        let timeout = timeout.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let mut space = [const { core::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        let sleep = slept.then(|| Slept::begin::<Host>(&self.habit));
        let found = epoll::wait(&self.epoll, &mut space[..], timeout.as_ref());
        if let Some(sleep) = sleep {
            sleep.end::<Host>(&mut self.habit);
        }
        let (events, _) = match found {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let token = event.data.u64();
            if token & OTHER != 0 {
                self.readable.push_back(token as u32);
            } else if self.places.contains(token as usize) {
                self.rung(token as usize, slept);
            }
        }
        Ok(self.readable.pop_front().map(Turn::Descriptor))
    }

    fn rung(&mut self, index: usize, slept: bool) {
        let place = &mut self.places[index];
        if slept {
            place.learner.woken::<Host>(place.end.rang_at());
        }
        place.empty_rings = place.empty_rings.saturating_add(1);
        if place.empty_rings > EMPTY_RINGS_MAX && !place.end.is_ready() {
            if !place.muted && epoll::delete(&self.epoll, &place.doorbell).is_ok() {
                place.muted = true;
                self.muted.push(index);
            }
            return;
        }
        place.end.get_up();
        place.idle = 0;
        if place.at.is_none() {
            place.at = Some(self.polled.len());
            self.polled.push(index);
        }
    }

    /// Takes those muted connections back that have something in them.
    fn look_at_muted(&mut self) {
        if self.muted.is_empty() {
            return;
        }
        let muted = core::mem::take(&mut self.muted);
        for index in muted {
            let place = &mut self.places[index];
            let back = place.end.is_ready()
                && epoll::add(
                    &self.epoll,
                    &place.doorbell,
                    epoll::EventData::new_u64(index as u64),
                    epoll::EventFlags::IN | epoll::EventFlags::ET,
                )
                .is_ok();
            if back {
                place.muted = false;
                place.empty_rings = 0;
                place.end.get_up();
                if place.at.is_none() {
                    place.at = Some(self.polled.len());
                    self.polled.push(index);
                }
            } else {
                self.muted.push(index);
            }
        }
    }
}

impl Receiver {
    /// The sending half of a connection.
    #[must_use]
    #[inline]
    pub fn port(&self, key: Key) -> Option<&Arc<Port<Host>>> {
        self.place(key).map(|place| place.end.port())
    }
}
