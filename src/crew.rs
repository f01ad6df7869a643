//! The threads that serve one server together: who gets which connection, and how it gets there.
//!
//! Each thread has a [`Receiver`](rendez_ipc_core::receive::Receiver) of its own, and a connection
//! belongs to one of them at a time. The first thread alone reads the kernel's socket. What another
//! is to know, a new connection above all, goes through that thread's inbox, an ordinary queue
//! within the process, and its eventfd, which is in its epoll set, edge-triggered and never read.
//!
//! # Spreading
//! A new connection goes to the thread that has the fewest. A thread that finds no moment of rest
//! ([`MESSAGES_PER_THOUGHT`] messages without one empty pass over its connections) gives the one that
//! it has just served to the thread with the fewest busy ones, if that one then still has fewer than
//! itself. Only its owner moves a connection: it is a value, taken out of one receiver and sent to
//! the other thread, so no two threads can be in one connection's handler. It is awake while it
//! moves, and its new owner polls it at once and looks at its status word: no ring, and no end, is lost
//! between the two epoll sets.
//!
//! # Ending
//! When one thread ends, all do. A connection that lies in an inbox then is let go of by being
//! dropped ([`Unsettled`]).

use crate::service::Caller;
use crate::task::Task;
use parking_lot::Mutex;
use rendez_ipc_core::platform::Host;
use rendez_ipc_core::server::ServerEnd;
use rendez_protocol::kernel::{Event, Request};
use rendez_protocol::{ConnectionId, Slot, Why};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Messages after which a thread thinks about giving a connection away.
const MESSAGES_PER_THOUGHT: u32 = 128;

/// What one thread hands to another.
#[derive(Debug)]
pub(crate) enum Handed {
    /// A client that wants to connect.
    Incoming(Unsettled, Event, VecDeque<OwnedFd>),
    /// A connection that was another thread's.
    Moved(Unsettled, Box<Moved>),
    /// What the kernel says that concerns a connection or a service of the thread.
    Event(Event),
    /// The server ends.
    End,
}

/// A connection on its way between two threads.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) end: ServerEnd<Host>,
    pub(crate) doorbell: OwnedFd,
    pub(crate) caller: Caller,
}

/// A connection of which the kernel is told, if nobody takes it in.
#[derive(Debug)]
pub(crate) struct Unsettled {
    task: Task,
    connection: ConnectionId,
    armed: bool,
}

impl Unsettled {
    pub(crate) fn new(task: &Task, connection: ConnectionId) -> Self {
        Self { task: task.clone(), connection, armed: true }
    }

    /// Somebody has taken it in.
    pub(crate) fn settle(mut self) {
        self.armed = false;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if self.armed {
            let connection = self.connection;
            self.task.link().tell(&Request::Disconnect { connection, why: Why::Closed });
        }
    }
}

/// What the other threads know of one.
#[derive(Debug)]
struct Desk {
    inbox: Sender<Handed>,
    bell: OwnedFd,
    /// Connections that it has or was given.
    connections: AtomicUsize,
    /// Connections that it polls.
    busy: Arc<AtomicUsize>,
}

impl Desk {
    fn hand(&self, what: Handed) {
        // To a thread that has ended: dropped, and so let go of.
        if self.inbox.send(what).is_ok() {
            // A full counter is an event already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// All threads of a server.
#[derive(Debug)]
pub(crate) struct Crew {
    desks: Vec<Desk>,
    /// Which threads' services watch what.
    watches: Mutex<HashMap<Slot, Vec<usize>>>,
}

/// One thread's place among them.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) crew: Arc<Crew>,
    pub(crate) index: usize,
    inbox: Receiver<Handed>,
    messages: u32,
    rests: u64,
}

impl Crew {
    /// One place for each of `busy`, the threads' own counts of the connections that they poll.
    ///
    /// # Errors
    /// What Linux says to eventfds.
    pub(crate) fn gather(busy: Vec<Arc<AtomicUsize>>) -> io::Result<Vec<Hand>> {
        let mut desks = Vec::with_capacity(busy.len());
        let mut inboxes = Vec::with_capacity(busy.len());
        for busy in busy {
            let (send, receive) = channel();
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            desks.push(Desk { inbox: send, bell, connections: AtomicUsize::new(0), busy });
            inboxes.push(receive);
        }
        let crew = Arc::new(Self { desks, watches: Mutex::default() });
        let hand =
            |(index, inbox)| Hand { crew: crew.clone(), index, inbox, messages: 0, rests: 0 };
        Ok(inboxes.into_iter().enumerate().map(hand).collect())
    }

    /// Takes note of a thread's connections: one more, or one less.
    pub(crate) fn count(&self, index: usize, more: bool) {
        // ORDERING: Relaxed; only a measure of who has how much.
        if more {
            self.desks[index].connections.fetch_add(1, Relaxed);
        } else {
            self.desks[index].connections.fetch_sub(1, Relaxed);
        }
    }

    /// How many connections all threads have.
    pub(crate) fn connections(&self) -> usize {
        self.desks.iter().map(|desk| desk.connections.load(Relaxed)).sum()
    }

    /// The thread that gets the next connection.
    pub(crate) fn least_loaded(&self) -> usize {
        let load = |index: &usize| self.desks[*index].connections.load(Relaxed);
        (0..self.desks.len()).min_by_key(load).unwrap_or(0)
    }

    pub(crate) fn hand(&self, to: usize, what: Handed) {
        self.desks[to].hand(what);
    }

    fn others(&self, than: usize) -> impl Iterator<Item = &Desk> {
        self.desks.iter().enumerate().filter(move |(at, _)| *at != than).map(|(_, desk)| desk)
    }

    /// Ends all threads but this one.
    pub(crate) fn end(&self, index: usize) {
        self.others(index).for_each(|desk| desk.hand(Handed::End));
    }

    /// Tells all threads but the first of an event.
    pub(crate) fn tell_others(&self, event: &Event) {
        self.others(0).for_each(|desk| desk.hand(Handed::Event(event.clone())));
    }

    /// Takes note that a thread's service watches `slot`.
    pub(crate) fn watches(&self, slot: Slot, index: usize) {
        let mut watches = self.watches.lock();
        let who = watches.entry(slot).or_default();
        if !who.contains(&index) {
            who.push(index);
        }
    }

    /// Tells of the fate of a watched object those who watch it; whether the first thread, which
    /// asks, is to be told too.
    pub(crate) fn tell_watchers(&self, slot: Slot, event: &Event) -> bool {
        let who = self.watches.lock().get(&slot).cloned().unwrap_or_default();
        for index in who.iter().filter(|index| **index != 0) {
            self.hand(*index, Handed::Event(event.clone()));
        }
        who.is_empty() || who.contains(&0)
    }
}

impl Hand {
    /// Written to when something is in the inbox.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.crew.desks[self.index].bell.as_fd()
    }

    /// What was handed to this thread.
    pub(crate) fn take(&self) -> Option<Handed> {
        self.inbox.try_recv().ok()
    }

    /// After each message: to which thread the connection that it came on is to go, if this one has
    /// too much to do. `rests` counts the moments at which it had nothing to do.
    #[inline]
    pub(crate) fn overloaded(&mut self, rests: u64, busy: usize) -> Option<usize> {
        self.messages += 1;
        if self.messages < MESSAGES_PER_THOUGHT {
            return None;
        }
        self.think(rests, busy)
    }

    #[cold]
    fn think(&mut self, rests: u64, busy: usize) -> Option<usize> {
        self.messages = 0;
        let rested = rests != self.rests;
        self.rests = rests;
        if rested {
            return None;
        }
        let of = |index: &usize| self.crew.desks[*index].busy.load(Relaxed);
        let others = (0..self.crew.desks.len()).filter(|index| *index != self.index);
        others.min_by_key(of).filter(|index| of(index) + 1 < busy)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // Whoever ends, however: a panic too.
        self.crew.end(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::{Crew, MESSAGES_PER_THOUGHT};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn only_who_never_rests_gives_away_and_only_to_who_has_less() {
        let busy: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let mut hands = Crew::gather(busy.clone()).unwrap();
        let first = &mut hands[0];
        let mut thoughts = |rests, own: usize| {
            (0..MESSAGES_PER_THOUGHT).filter_map(|_| first.overloaded(rests, own)).next()
        };
        assert_eq!(thoughts(1, 5), None, "it has rested");
        busy[1].store(4, Relaxed);
        busy[2].store(3, Relaxed);
        assert_eq!(thoughts(1, 5), Some(2));
        assert_eq!(thoughts(1, 4), None, "it would only change places");
        assert_eq!(thoughts(2, 9), None, "it has rested again");
    }

    #[test]
    fn connections_go_to_who_has_the_fewest() {
        let hands = Crew::gather((0..3).map(|_| Arc::default()).collect()).unwrap();
        let crew = &hands[0].crew;
        let given: Vec<usize> = (0..6)
            .map(|_| {
                let to = crew.least_loaded();
                crew.count(to, true);
                to
            })
            .collect();
        assert_eq!(given, [0, 1, 2, 0, 1, 2]);
        crew.count(1, false);
        assert_eq!((crew.least_loaded(), crew.connections()), (1, 5));
    }
}
