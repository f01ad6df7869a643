//! Which transactions of a client are in flight, and what became of those that are not asked for yet.
//!
//! A transaction's place is its position modulo the number of lines, so that finding it costs an
//! index. One that outlives a lap moves to a short list of stragglers when its successor begins. What
//! is in flight is bounded by the server's ring, what is answered and not asked for by this table.

use crate::ring::{Buffer, Fault};
use crate::segment::prefetch_all;
use rendez_protocol::limit::INLINE_BYTES;
use rendez_protocol::message::{Header, area_bytes};
use rendez_protocol::status::{Status, Why};

/// One transaction.
#[derive(Debug, Default)]
pub(crate) enum Entry {
    /// None.
    #[default]
    Free,
    /// Its reply is waited for until `deadline`; it may need `room` bytes of the server's area. If it
    /// is given up already, for this reason, the deadline is that of its grace.
    Waiting { position: u64, room: u64, deadline: u64, given_up: Option<Why> },
    /// Its reply is here, and nobody has asked for it yet.
    Done { position: u64, status: Status, payload: Buffer },
    /// Its sender has given up; its reply may still come.
    Abandoned { position: u64, room: u64 },
}

impl Entry {
    #[inline]
    const fn position(&self) -> Option<u64> {
        match self {
            Self::Free => None,
            Self::Waiting { position, .. }
            | Self::Done { position, .. }
            | Self::Abandoned { position, .. } => Some(*position),
        }
    }
}

/// Who a reply came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Somebody who waits for it.
    Waited,
    /// Somebody who has given up for this reason, and waits out the grace.
    GivenUp(Why),
    /// Nobody any more.
    Late,
}

/// The transactions of one client's end.
#[derive(Debug)]
pub(crate) struct Flight {
    entries: Box<[Entry]>,
    stragglers: Vec<Entry>,
    /// Area bytes of the server's segment that those in flight may need.
    rooms: u64,
}

impl Flight {
    /// None yet, in a ring of `lines`, a power of two.
    pub(crate) fn new(lines: u32) -> Self {
        Self {
            entries: (0..lines).map(|_| Entry::Free).collect(),
            stragglers: Vec::new(),
            rooms: 0,
        }
    }

    /// Whether another would be one too many, until the caller asks for a reply that is here.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.stragglers.len() >= self.entries.len()
    }

    /// Area bytes of the server's segment that those in flight may need.
    #[inline]
    pub(crate) const fn rooms(&self) -> u64 {
        self.rooms
    }

    #[inline]
    fn index(&self, transaction: u64) -> usize {
        transaction as usize & (self.entries.len() - 1)
    }

    /// Enters a transaction that was just published.
    #[inline]
    pub(crate) fn begin(&mut self, transaction: u64, room: u64, deadline: u64) {
        let place = self.index(transaction);
        let place = &mut self.entries[place];
        if !matches!(place, Entry::Free) {
            self.stragglers.push(core::mem::take(place));
        }
        *place = Entry::Waiting { position: transaction, room, deadline, given_up: None };
        self.rooms += room;
    }

    /// Fetches the entry of a transaction.
    #[inline]
    pub(crate) fn prefetch(&self, transaction: u64) {
        if let Some(entry) = self.entries.get(self.index(transaction)) {
            prefetch_all(entry);
        }
    }

    /// The entry of a transaction, if there is one.
    #[inline]
    pub(crate) fn get(&mut self, transaction: u64) -> Option<&mut Entry> {
        let index = self.index(transaction);
        if self.entries[index].position() == Some(transaction) {
            return Some(&mut self.entries[index]);
        }
        self.stragglers.iter_mut().find(|entry| entry.position() == Some(transaction))
    }

    /// Lets go of a transaction that is over.
    #[inline]
    pub(crate) fn remove(&mut self, transaction: u64) {
        let index = self.index(transaction);
        if self.entries[index].position() == Some(transaction) {
            self.entries[index] = Entry::Free;
        } else {
            self.stragglers.retain(|entry| entry.position() != Some(transaction));
        }
    }

    /// Notes that the sender has given a transaction up.
    pub(crate) fn abandon(&mut self, transaction: u64) {
        if let Some(entry) = self.get(transaction)
            && let Entry::Waiting { position, room, .. } = *entry
        {
            *entry = Entry::Abandoned { position, room };
        }
    }

    /// Notes that the sender has given a transaction up for `why`, and waits until `grace` for a
    /// reply that the server may just be writing.
    pub(crate) fn give_up(&mut self, transaction: u64, why: Why, grace: u64) {
        if let Some(Entry::Waiting { deadline, given_up, .. }) = self.get(transaction) {
            *deadline = grace;
            *given_up = Some(why);
        }
    }

    fn all_waiting(&self) -> impl Iterator<Item = (u64, u64, Option<Why>)> {
        self.entries.iter().chain(&self.stragglers).filter_map(|entry| match *entry {
            Entry::Waiting { position, deadline, given_up, .. } => {
                Some((position, deadline, given_up))
            }
            _ => None,
        })
    }

    /// The transactions whose replies are here, and that nobody has asked for yet.
    fn all_answered(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().chain(&self.stragglers).filter_map(|entry| match entry {
            Entry::Done { position, .. } => Some(*position),
            _ => None,
        })
    }

    /// Of how many transactions nobody has been told what became of them.
    pub(crate) fn untold(&self) -> usize {
        self.all_waiting().count() + self.all_answered().count()
    }

    /// Whether this transaction's reply is here, and nobody has asked for it yet.
    pub(crate) fn is_answered(&self, transaction: u64) -> bool {
        self.all_answered().any(|position| position == transaction)
    }

    /// Whether somebody waits for this transaction's reply.
    pub(crate) fn is_waiting(&self, transaction: u64) -> bool {
        self.all_waiting().any(|(position, ..)| position == transaction)
    }

    /// The oldest transaction of which nobody has been told what became of it.
    pub(crate) fn first(&self) -> Option<u64> {
        self.all_waiting().map(|(position, ..)| position).chain(self.all_answered()).min()
    }

    /// A transaction whose deadline, or grace, has passed; and why it was given up, if it was.
    pub(crate) fn overdue(&self, now: u64) -> Option<(u64, Option<Why>)> {
        self.all_waiting()
            .find(|(_, deadline, _)| *deadline <= now)
            .map(|(position, _, given_up)| (position, given_up))
    }

    /// The first deadline, or end of a grace, of all.
    pub(crate) fn next_deadline(&self) -> u64 {
        self.all_waiting().map(|(_, deadline, _)| deadline).min().unwrap_or(u64::MAX)
    }

    /// Notes that this reply has come, and gives its room back; for whom it came.
    ///
    /// # Errors
    /// [`Fault::Transaction`] if its transaction is not in flight, [`Fault::Length`] if it is longer
    /// than the room that its request named.
    #[inline]
    pub(crate) fn answered(&mut self, header: &Header) -> Result<Answer, Fault> {
        let (answer, room) = match self.get(header.word) {
            Some(Entry::Waiting { room, given_up: None, .. }) => (Answer::Waited, *room),
            Some(Entry::Waiting { room, given_up: Some(why), .. }) => {
                (Answer::GivenUp(*why), *room)
            }
            Some(Entry::Abandoned { room, .. }) => (Answer::Late, *room),
            _ => return Err(Fault::Transaction(header.word)),
        };
        if area_bytes(header.length as usize) as u64 > room {
            let most = room as usize + INLINE_BYTES;
            return Err(Fault::Length { length: header.length, most });
        }
        self.rooms -= room;
        Ok(answer)
    }
}
