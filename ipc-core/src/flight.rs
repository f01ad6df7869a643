//! Which transactions of a client are in flight, and what became of those that are not asked for yet.
//!
//! A transaction's place is its position modulo the number of lines, so that finding it costs an
//! index. One that outlives a lap moves to a short list of stragglers when its successor begins. What
//! is in flight is bounded by the server's ring, what is answered and not asked for by this table.

use crate::ring::{Buffer, Fault};
use rendez_protocol::limit::INLINE_BYTES;
use rendez_protocol::message::{Header, area_bytes};
use rendez_protocol::status::Status;

/// One transaction.
#[derive(Debug, Default)]
pub(crate) enum Entry {
    /// None.
    #[default]
    Free,
    /// Its reply is waited for; it may need `room` bytes of the server's area.
    Waiting { position: u64, room: u64 },
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
    pub(crate) fn begin(&mut self, transaction: u64, room: u64) {
        let place = self.index(transaction);
        let place = &mut self.entries[place];
        if !matches!(place, Entry::Free) {
            self.stragglers.push(core::mem::take(place));
        }
        *place = Entry::Waiting { position: transaction, room };
        self.rooms += room;
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
            && let Entry::Waiting { position, room } = *entry
        {
            *entry = Entry::Abandoned { position, room };
        }
    }

    /// Notes that this reply has come, and gives its room back. Whether somebody waits for it (else
    /// it is late).
    ///
    /// # Errors
    /// [`Fault::Transaction`] if its transaction is not in flight, [`Fault::Length`] if it is longer
    /// than the room that its request named.
    #[inline]
    pub(crate) fn answered(&mut self, header: &Header) -> Result<bool, Fault> {
        let (waiting, room) = match self.get(header.word) {
            Some(Entry::Waiting { room, .. }) => (true, *room),
            Some(Entry::Abandoned { room, .. }) => (false, *room),
            _ => return Err(Fault::Transaction(header.word)),
        };
        if area_bytes(header.length as usize) as u64 > room {
            let most = room as usize + INLINE_BYTES;
            return Err(Fault::Length { length: header.length, most });
        }
        self.rooms -= room;
        Ok(waiting)
    }
}
