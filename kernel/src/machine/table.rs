//! A table whose places are reused, each use with a generation of its own.
//!
//! A stale id is refused and never misread, until its place has been used 2^32 times.

use core::marker::PhantomData;
use rendez_protocol::{ConnectionId, Slot, TaskId};
use slab::Slab;

/// An id of a place and a generation.
pub(super) trait Id: Copy + Ord {
    /// The id with these parts.
    fn new(index: u32, generation: u32) -> Self;
    /// Its place.
    fn index(self) -> u32;
    /// Which use of that place.
    fn generation(self) -> u32;
}

macro_rules! id {
    ($($name:ty),*) => { $(
        impl Id for $name {
            fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
            fn index(self) -> u32 {
                self.index
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }
    )* };
}

id!(TaskId, Slot, ConnectionId, super::tree::NodeId);

/// The table: entries in a slab, the generations of all places beside it.
#[derive(Debug)]
pub(super) struct Table<I, T> {
    entries: Slab<T>,
    generations: Vec<u32>,
    id: PhantomData<I>,
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Self { entries: Slab::new(), generations: Vec::new(), id: PhantomData }
    }
}

impl<I: Id, T> Table<I, T> {
    fn id(&self, key: usize) -> I {
        // Quotas keep every table far below 2^32 places.
        I::new(key as u32, self.generations.get(key).copied().unwrap_or(0))
    }

    fn is_current(&self, id: I) -> bool {
        self.generations.get(id.index() as usize) == Some(&id.generation())
    }

    /// The id that the next [`Table::insert`] will return.
    pub(super) fn next_id(&self) -> I {
        self.id(self.entries.vacant_key())
    }

    /// Puts an entry into a free place.
    pub(super) fn insert(&mut self, entry: T) -> I {
        let key = self.entries.insert(entry);
        if key >= self.generations.len() {
            self.generations.resize(key.saturating_add(1), 0);
        }
        self.id(key)
    }

    /// The entry, if `id` is current.
    pub(super) fn get(&self, id: I) -> Option<&T> {
        if self.is_current(id) { self.entries.get(id.index() as usize) } else { None }
    }

    /// The entry, if `id` is current.
    pub(super) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        if self.is_current(id) { self.entries.get_mut(id.index() as usize) } else { None }
    }

    /// Whether `id` is current.
    pub(super) fn contains(&self, id: I) -> bool {
        self.get(id).is_some()
    }

    /// Takes the entry out and makes its id stale.
    pub(super) fn remove(&mut self, id: I) -> Option<T> {
        if !self.is_current(id) {
            return None;
        }
        let entry = self.entries.try_remove(id.index() as usize)?;
        if let Some(generation) = self.generations.get_mut(id.index() as usize) {
            *generation = generation.wrapping_add(1);
        }
        Some(entry)
    }

    /// All entries, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.entries.iter().map(|(key, entry)| (self.id(key), entry))
    }

    /// All entries from this place on.
    pub(super) fn iter_from(&self, index: u32) -> impl Iterator<Item = (I, &T)> {
        (index as usize..self.generations.len())
            .filter_map(|key| Some((self.id(key), self.entries.get(key)?)))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use rendez_protocol::Slot;

    #[test]
    fn a_place_used_again_refuses_the_old_id() {
        let mut table: Table<Slot, char> = Table::default();
        assert_eq!(table.next_id(), Slot { index: 0, generation: 0 });
        let first = table.insert('a');
        let other = table.insert('b');
        assert_eq!(table.remove(first), Some('a'));
        assert_eq!(table.remove(first), None);
        assert_eq!(table.next_id(), Slot { index: 0, generation: 1 });
        let second = table.insert('c');
        assert_eq!(second, Slot { index: 0, generation: 1 });
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(second), Some(&'c'));
        assert_eq!(table.get(other), Some(&'b'));
        assert_eq!(table.get(Slot { index: 7, generation: 0 }), None);
        assert_eq!(table.len(), 2);
        let from = |from| table.iter_from(from).map(|(_, entry)| *entry).collect::<String>();
        assert_eq!([from(0), from(1), from(2), from(u32::MAX)], ["cb", "b", "", ""]);
    }
}
