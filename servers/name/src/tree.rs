//! The tree of names. Leaves are names, and every directory holds at least one.

use crate::path::Path;
use rendez_protocol::{Rights, Slot, TaskId};
use std::collections::BTreeMap;

/// A registered name.
#[derive(Debug)]
pub(crate) struct Name {
    /// The server's capability.
    pub(crate) slot: Slot,
    /// What it holds.
    pub(crate) rights: Rights,
    /// Who registered it.
    pub(crate) owner: TaskId,
}

/// What a component stands for.
#[derive(Debug)]
pub(crate) enum Node {
    /// Something registered.
    Leaf(Name),
    /// A directory of names.
    Directory(Directory),
}

/// Nodes by component, in order.
pub(crate) type Directory = BTreeMap<Box<str>, Node>;

/// Why a path is not free.
#[derive(Debug)]
pub(crate) enum Conflict {
    /// It, or a part of it from the top, is registered by this task.
    Registered(TaskId),
    /// It is a directory of names.
    Directory,
}

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    top: Directory,
    names: usize,
}

impl Tree {
    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names
    }

    /// The name that `path` leads to or through, and where in `path` it ends.
    pub(crate) fn find(&self, path: Path<'_>) -> Option<(&Name, usize)> {
        let mut directory = &self.top;
        let mut end = 0;
        for component in path.components() {
            end += component.len();
            match directory.get(component)? {
                Node::Leaf(name) => return Some((name, end)),
                Node::Directory(below) => directory = below,
            }
            end += 1;
        }
        None
    }

    /// The directory at `path`.
    pub(crate) fn directory(&self, path: Path<'_>) -> Option<&Directory> {
        path.components().try_fold(&self.top, |directory, component| {
            match directory.get(component)? {
                Node::Leaf(_) => None,
                Node::Directory(below) => Some(below),
            }
        })
    }

    /// `Ok` if a name could be inserted at `path`.
    pub(crate) fn free(&self, path: Path<'_>) -> Result<(), Conflict> {
        let mut directory = &self.top;
        for component in path.components() {
            match directory.get(component) {
                None => return Ok(()),
                Some(Node::Leaf(name)) => return Err(Conflict::Registered(name.owner)),
                Some(Node::Directory(below)) => directory = below,
            }
        }
        Err(Conflict::Directory)
    }

    /// Inserts `name`, and the directories above it, where [`Tree::free`] said yes; else nothing
    /// happens.
    pub(crate) fn insert(&mut self, path: Path<'_>, name: Name) {
        if self.free(path).is_err() {
            return;
        }
        let mut components: Vec<_> = path.components().collect();
        let Some(last) = components.pop() else { return };
        let mut directory = &mut self.top;
        for component in components {
            let node = directory
                .entry(component.into())
                .or_insert_with(|| Node::Directory(Directory::new()));
            match node {
                Node::Directory(below) => directory = below,
                Node::Leaf(_) => return,
            }
        }
        directory.insert(last.into(), Node::Leaf(name));
        self.names += 1;
    }

    /// Removes the name at exactly `path`, and the directories that it leaves empty.
    pub(crate) fn remove(&mut self, path: Path<'_>) -> Option<Name> {
        let components: Vec<_> = path.components().collect();
        let name = remove(&mut self.top, &components)?;
        self.names -= 1;
        Some(name)
    }
}

/// No deeper than the tree, which is at most [`DEPTH`](crate::limit::DEPTH) deep.
fn remove(directory: &mut Directory, components: &[&str]) -> Option<Name> {
    let (&first, rest) = components.split_first()?;
    match directory.get_mut(first)? {
        Node::Leaf(_) if !rest.is_empty() => None,
        Node::Leaf(_) => match directory.remove(first)? {
            Node::Leaf(name) => Some(name),
            Node::Directory(_) => None,
        },
        Node::Directory(below) => {
            let name = remove(below, rest)?;
            if below.is_empty() {
                directory.remove(first);
            }
            Some(name)
        }
    }
}
