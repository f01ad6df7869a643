//! The open files of one connection, by handle.

use crate::limit::OPEN_FILES_PER_CONNECTION;
use rendez_protocol::file::OpenFlags;

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile<F> {
    /// The file system's side of it.
    pub(crate) file: F,
    /// What it was opened as, for people.
    pub(crate) path: Box<str>,
    /// What it was opened for.
    pub(crate) flags: OpenFlags,
}

/// A table of open files. A handle is a place below and its generation above, from 1 on, so that
/// one that was closed is not taken for a later one (until its place was used 65,535 times more).
#[derive(Debug)]
pub(crate) struct Handles<F> {
    places: Vec<Place<F>>,
}

#[derive(Debug)]
struct Place<F> {
    generation: u16,
    open: Option<OpenFile<F>>,
}

// A place's index has to fit the lower half of a handle.
const _: () = assert!(OPEN_FILES_PER_CONNECTION <= 1 << 16);

impl<F> Default for Handles<F> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<F> Handles<F> {
    /// Whether another file can be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.places.len() < OPEN_FILES_PER_CONNECTION
            || self.places.iter().any(|place| place.open.is_none())
    }

    /// Keeps an open file; its handle. There must be room.
    pub(crate) fn insert(&mut self, open: OpenFile<F>) -> u32 {
        let free = self.places.iter().position(|place| place.open.is_none());
        let index = free.unwrap_or_else(|| {
            self.places.push(Place { generation: 0, open: None });
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        place.generation = place.generation.checked_add(1).unwrap_or(1);
        place.open = Some(open);
        u32::from(place.generation) << 16 | index as u32
    }

    /// The open file of a handle.
    pub(crate) fn get(&self, handle: u32) -> Option<&OpenFile<F>> {
        let place = self.places.get((handle & 0xffff) as usize)?;
        place.open.as_ref().filter(|_| u32::from(place.generation) == handle >> 16)
    }

    /// Gives up a handle; its file.
    pub(crate) fn remove(&mut self, handle: u32) -> Option<OpenFile<F>> {
        self.get(handle)?;
        self.places.get_mut((handle & 0xffff) as usize)?.open.take()
    }

    /// All open files.
    pub(crate) fn into_files(self) -> impl Iterator<Item = F> {
        self.places.into_iter().filter_map(|place| place.open).map(|open| open.file)
    }
}

#[cfg(test)]
mod tests {
    use super::{Handles, OpenFile};
    use rendez_protocol::file::OpenFlags;

    fn file(file: u32) -> OpenFile<u32> {
        OpenFile { file, path: "x".into(), flags: OpenFlags::READ }
    }

    #[test]
    fn a_closed_handle_stays_closed() {
        let mut handles = Handles::default();
        let first = handles.insert(file(1));
        let second = handles.insert(file(2));
        assert_eq!(handles.remove(first).map(|open| open.file), Some(1));
        let third = handles.insert(file(3));
        assert_eq!(first & 0xffff, third & 0xffff, "the place is used again");
        assert!(handles.get(first).is_none() && handles.remove(first).is_none());
        assert_eq!(handles.get(third).map(|open| open.file), Some(3));
        for unknown in [0, 1, third ^ 1 << 31, 0xffff, u32::MAX] {
            assert!(handles.get(unknown).is_none() || unknown == second);
        }
        assert_eq!(handles.into_files().collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn generations_wrap_past_zero() {
        let mut handles = Handles::default();
        for turn in 0..=u32::from(u16::MAX) {
            let handle = handles.insert(file(turn));
            assert_ne!(handle >> 16, 0);
            assert!(handles.remove(handle).is_some());
        }
    }
}
