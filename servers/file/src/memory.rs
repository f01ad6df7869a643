//! A file system in memory, within quotas. It has no links of either sort, so a path leads to one
//! node and a node has one path.
//!
//! Nodes lie in one table and name each other by number: however deep renames make the tree,
//! nothing here recurses. A file that is removed while it is open lives, and counts, until it is
//! closed.

use crate::{Backend, Failure, Path};
use rendez::region::EmptyRegion;
use rendez_protocol::file::{Entry, Kind, OpenFlags, Stat, status};
use rustix::io::Errno;
use slab::Slab;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file system in memory.
#[derive(Debug)]
pub struct MemoryFileSystem {
    nodes: Slab<Node>,
    bytes: u64,
    bytes_max: u64,
    nodes_max: usize,
}

#[derive(Debug)]
struct Node {
    content: Content,
    mode: u32,
    modified_ns: i64,
    /// How often it is open.
    open: usize,
    /// Whether a directory holds it.
    linked: bool,
}

#[derive(Debug)]
enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Box<str>, usize>),
}

const ROOT: usize = 0;

/// An open file of a [`MemoryFileSystem`].
#[derive(Debug)]
pub struct MemoryFile(usize);

impl MemoryFileSystem {
    /// An empty file system for `bytes_max` bytes of content and `nodes_max` files and directories.
    /// What it occupies is more: names, tables, and room into which files may grow.
    #[must_use]
    pub fn new(bytes_max: u64, nodes_max: usize) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(Content::Directory(BTreeMap::new()), 0o777));
        Self { nodes, bytes: 0, bytes_max, nodes_max }
    }

    /// The node at `path`.
    fn node(&self, path: &Path<'_>) -> Result<usize, Failure> {
        path.components().try_fold(ROOT, |node, component| {
            self.entries(node)?.get(component).copied().ok_or_else(|| Errno::NOENT.into())
        })
    }

    fn entries(&self, node: usize) -> Result<&BTreeMap<Box<str>, usize>, Failure> {
        match &self.nodes[node].content {
            Content::Directory(entries) => Ok(entries),
            Content::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    /// The directory that holds `path` or could, the last component, and the node it names.
    fn place<'a>(&self, path: &'a Path<'_>) -> Result<(usize, &'a str, Option<usize>), Failure> {
        let (parent, name) = path.split()?;
        let parent = self.node(&parent)?;
        Ok((parent, name, self.entries(parent)?.get(name).copied()))
    }

    /// Changes the entry `name` of a directory.
    fn set_entry(&mut self, directory: usize, name: &str, node: Option<usize>) {
        let Some(parent) = self.nodes.get_mut(directory) else { return };
        parent.modified_ns = now_ns();
        if let Content::Directory(entries) = &mut parent.content {
            match node {
                Some(node) => entries.insert(name.into(), node),
                None => entries.remove(name),
            };
        }
    }

    fn create(
        &mut self,
        directory: usize,
        name: &str,
        content: Content,
        mode: u32,
    ) -> Result<usize, Failure> {
        // The root is not counted.
        if self.nodes.len() > self.nodes_max {
            let reason = format!(
                "no space left: the memory file system holds its {} files and directories",
                self.nodes_max
            );
            return Err(Failure::new(status::NO_SPACE, reason));
        }
        let node = self.nodes.insert(Node::new(content, mode));
        self.set_entry(directory, name, Some(node));
        Ok(node)
    }

    /// Takes a node out of the tree.
    fn unlink(&mut self, directory: usize, name: &str, node: usize) {
        self.set_entry(directory, name, None);
        self.nodes[node].linked = false;
        self.free_unused(node);
    }

    fn free_unused(&mut self, node: usize) {
        if !self.nodes[node].linked && self.nodes[node].open == 0 {
            self.bytes -= self.nodes.remove(node).size();
        }
    }

    fn set_size(&mut self, node: usize, size: u64) -> Result<(), Failure> {
        let before = self.nodes[node].size();
        let after = self.bytes - before + size.min(u64::MAX - self.bytes);
        if size > before && after > self.bytes_max {
            return Err(self.full());
        }
        let Content::File(bytes) = &mut self.nodes[node].content else {
            return Err(Errno::ISDIR.into());
        };
        // Within `bytes_max`, but that may be more than the machine or its pointers have room for.
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if bytes.try_reserve(length.saturating_sub(bytes.len())).is_err() {
            return Err(self.full());
        }
        bytes.resize(length, 0);
        if bytes.capacity() / 4 > length {
            bytes.shrink_to(length * 2);
        }
        self.nodes[node].modified_ns = now_ns();
        self.bytes = after;
        Ok(())
    }

    fn full(&self) -> Failure {
        let reason = format!(
            "no space left: the memory file system is full ({} of {} bytes used)",
            self.bytes, self.bytes_max
        );
        Failure::new(status::NO_SPACE, reason)
    }
}

impl Backend for MemoryFileSystem {
    type File = MemoryFile;

    fn open(
        &mut self,
        path: &Path<'_>,
        flags: OpenFlags,
        mode: u32,
    ) -> Result<MemoryFile, Failure> {
        let found = match self.node(path) {
            Ok(_) if flags.contains(OpenFlags::EXCLUSIVE) => return Err(Errno::EXIST.into()),
            Err(failure) if failure.status == status::NOT_FOUND => None,
            found => Some(found?),
        };
        let node = match found {
            Some(node) => node,
            None if flags.contains(OpenFlags::CREATE) => {
                let (directory, name, _) = self.place(path)?;
                self.create(directory, name, Content::File(Vec::new()), mode)?
            }
            None => return Err(Errno::NOENT.into()),
        };
        if self.entries(node).is_ok() {
            return Err(Errno::ISDIR.into());
        }
        if flags.contains(OpenFlags::TRUNCATE) {
            self.set_size(node, 0)?;
        }
        self.nodes[node].open += 1;
        Ok(MemoryFile(node))
    }

    fn close(&mut self, MemoryFile(node): MemoryFile) {
        self.nodes[node].open -= 1;
        self.free_unused(node);
    }

    fn size(&mut self, &MemoryFile(node): &MemoryFile) -> Result<u64, Failure> {
        match &self.nodes[node].content {
            Content::File(bytes) => Ok(bytes.len() as u64),
            Content::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn fill(
        &mut self,
        &MemoryFile(node): &MemoryFile,
        region: &mut EmptyRegion,
    ) -> Result<u64, Failure> {
        match &self.nodes[node].content {
            Content::File(bytes) => {
                region.fill(bytes)?;
                Ok(bytes.len() as u64)
            }
            Content::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn read<'a>(
        &'a mut self,
        &MemoryFile(node): &MemoryFile,
        offset: u64,
        length: usize,
        _scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Failure> {
        let Content::File(bytes) = &self.nodes[node].content else {
            return Err(Errno::ISDIR.into());
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[start..start.saturating_add(length).min(bytes.len())])
    }

    fn write(
        &mut self,
        &MemoryFile(node): &MemoryFile,
        offset: u64,
        new: &[u8],
    ) -> Result<(), Failure> {
        if new.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(new.len() as u64).ok_or_else(|| self.full())?;
        self.set_size(node, end.max(self.nodes[node].size()))?;
        if let Content::File(bytes) = &mut self.nodes[node].content {
            bytes[offset as usize..end as usize].copy_from_slice(new);
        }
        Ok(())
    }

    fn truncate(&mut self, &MemoryFile(node): &MemoryFile, size: u64) -> Result<(), Failure> {
        self.set_size(node, size)
    }

    fn sync(&mut self, _file: &MemoryFile) -> Result<(), Failure> {
        Ok(())
    }

    fn stat(&mut self, path: &Path<'_>) -> Result<Stat, Failure> {
        let node = &self.nodes[self.node(path)?];
        Ok(Stat {
            kind: node.kind(),
            size: node.size(),
            mode: node.mode,
            modified_ns: node.modified_ns,
        })
    }

    fn list(
        &mut self,
        path: &Path<'_>,
        after: &str,
        most: usize,
    ) -> Result<(Vec<Entry>, bool), Failure> {
        let mut rest = self
            .entries(self.node(path)?)?
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
            .map(|(name, &node)| Entry {
                name: name.to_string(),
                kind: self.nodes[node].kind(),
                size: self.nodes[node].size(),
            });
        let entries = rest.by_ref().take(most).collect();
        Ok((entries, rest.next().is_some()))
    }

    fn make_directory(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        match self.place(path)? {
            (_, _, Some(_)) => Err(Errno::EXIST.into()),
            (directory, name, None) => {
                self.create(directory, name, Content::Directory(BTreeMap::new()), 0o777).map(drop)
            }
        }
    }

    fn remove_directory(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        let (directory, name, node) = self.place(path)?;
        let node = node.ok_or(Errno::NOENT)?;
        if !self.entries(node)?.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        self.unlink(directory, name, node);
        Ok(())
    }

    fn remove(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        let (directory, name, node) = self.place(path)?;
        let node = node.ok_or(Errno::NOENT)?;
        if self.entries(node).is_ok() {
            return Err(Errno::ISDIR.into());
        }
        self.unlink(directory, name, node);
        Ok(())
    }

    fn rename(&mut self, from: &Path<'_>, to: &Path<'_>) -> Result<(), Failure> {
        let (old_directory, old_name, node) = self.place(from)?;
        let node = node.ok_or(Errno::NOENT)?;
        if to.is_below(from) && self.entries(node).is_ok() {
            return Err(Failure::into_itself());
        }
        let (new_directory, new_name, replaced) = self.place(to)?;
        match replaced {
            Some(same) if same == node => return Ok(()),
            Some(replaced) => {
                match (self.entries(node), self.entries(replaced)) {
                    (Ok(_), Err(_)) => return Err(Errno::NOTDIR.into()),
                    (Err(_), Ok(_)) => return Err(Errno::ISDIR.into()),
                    (Ok(_), Ok(below)) if !below.is_empty() => {
                        return Err(Errno::NOTEMPTY.into());
                    }
                    _ => {}
                }
                self.unlink(new_directory, new_name, replaced);
            }
            None => {}
        }
        self.set_entry(old_directory, old_name, None);
        self.set_entry(new_directory, new_name, Some(node));
        Ok(())
    }
}

impl Node {
    fn new(content: Content, mode: u32) -> Self {
        Self { content, mode, modified_ns: now_ns(), open: 0, linked: true }
    }

    fn kind(&self) -> Kind {
        match self.content {
            Content::File(_) => Kind::File,
            Content::Directory(_) => Kind::Directory,
        }
    }

    /// Bytes of content; a directory has none.
    fn size(&self) -> u64 {
        match &self.content {
            Content::File(bytes) => bytes.len() as u64,
            Content::Directory(_) => 0,
        }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
