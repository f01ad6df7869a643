//! The file server's interface.
//!
//! Paths are relative to the served tree, without a leading `/`; the empty path is its root. Open
//! files belong to the connection that opened them and end with it. Server rights: READ for all
//! that looks, WRITE for all that changes.

use crate::id::Ticket;
use crate::status::Status;
use crate::version::{Interface, Version};
use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// The interface's name and version.
#[must_use]
pub fn interface() -> Interface {
    Interface::new("file", Version::new(1, 1))
}

/// Operations: request payload → reply payload.
pub mod operation {
    /// [`Open`](super::Open) → handle (`u32`).
    pub const OPEN: u16 = 1;
    /// [`Read`](super::Read) → the bytes, raw; fewer than asked only at the end of the file.
    pub const READ: u16 = 2;
    /// [`Write`](super::Write), then raw bytes → nothing; all of them are written, or none is said to be.
    pub const WRITE: u16 = 3;
    /// Handle (`u32`) → nothing.
    pub const CLOSE: u16 = 4;
    /// Path (`&str`) → [`Stat`](super::Stat).
    pub const STAT: u16 = 5;
    /// [`List`](super::List) → [`Listing`](super::Listing).
    pub const LIST: u16 = 6;
    /// Path (`&str`) → nothing. The parent must exist.
    pub const MAKE_DIRECTORY: u16 = 7;
    /// Path (`&str`) → nothing. The directory must be empty.
    pub const REMOVE_DIRECTORY: u16 = 8;
    /// Path (`&str`) → nothing. Files and symbolic links.
    pub const REMOVE: u16 = 9;
    /// [`Rename`](super::Rename) → nothing. Replaces an existing file, atomically.
    pub const RENAME: u16 = 10;
    /// [`Truncate`](super::Truncate) → nothing.
    pub const TRUNCATE: u16 = 11;
    /// Handle (`u32`), opened for writing → nothing: what was written is on the disk.
    pub const SYNC: u16 = 12;
    /// Handle (`u32`), opened for reading → [`Mapping`](super::Mapping): the content, as it is now,
    /// in a sealed region.
    pub const MAP: u16 = 13;
}

/// The interface's own failures, as statuses; each reply's payload is a text for people.
pub mod status {
    use super::Status;
    /// There is no such file or directory.
    pub const NOT_FOUND: Status = Status(256);
    /// It exists already.
    pub const EXISTS: Status = Status(257);
    /// The path leaves the served tree, or is not a path.
    pub const OUTSIDE: Status = Status(258);
    /// It is a directory.
    pub const IS_DIRECTORY: Status = Status(259);
    /// It is no directory.
    pub const NOT_DIRECTORY: Status = Status(260);
    /// The directory is not empty.
    pub const NOT_EMPTY: Status = Status(261);
    /// The disk, or the memory file system's quota, is full.
    pub const NO_SPACE: Status = Status(262);
    /// The handle is not open on this connection.
    pub const BAD_HANDLE: Status = Status(263);
    /// The handle was not opened for that.
    pub const NOT_OPEN_FOR: Status = Status(264);
    /// Linux refused it (permission).
    pub const PERMISSION: Status = Status(265);
    /// Any other error of input or output.
    pub const IO: Status = Status(266);
}

bitflags! {
    /// How to open.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct OpenFlags: u8 {
        /// For reading.
        const READ = 1;
        /// For writing.
        const WRITE = 2;
        /// Create it if it is not there.
        const CREATE = 4;
        /// With CREATE: it must not be there.
        const EXCLUSIVE = 8;
        /// Empty it.
        const TRUNCATE = 16;
    }
}

/// Open a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open<'a> {
    /// Which.
    pub path: &'a str,
    /// How.
    pub flags: OpenFlags,
    /// Permission bits of a file that is created.
    pub mode: u32,
}

/// Read from an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Which.
    pub handle: u32,
    /// From which byte.
    pub offset: u64,
    /// How many bytes, at most.
    pub length: u32,
}

/// Write to an open file; the rest of the payload is what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Which.
    pub handle: u32,
    /// From which byte.
    pub offset: u64,
}

/// What sort of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link (seen by list; stat follows it inside the tree).
    Link,
    /// Anything else. It can be seen and removed, not opened.
    Other,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Its sort.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last change of its content, in ns since 1970.
    pub modified_ns: i64,
}

/// List a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<'a> {
    /// Which.
    pub path: &'a str,
    /// Continue after this name; empty to begin.
    pub after: &'a str,
}

/// Entries in order of their names; as many as fit the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Entries.
    pub entries: Vec<Entry>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name. Names that are not UTF-8 are listed with U+FFFD and cannot be opened.
    pub name: String,
    /// Its sort.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
}

/// Rename a file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename<'a> {
    /// From.
    pub from: &'a str,
    /// To.
    pub to: &'a str,
}

/// A file's content in a sealed region, which is a copy: later changes of the file are not in it.
/// The capability is good until several more were asked for over the same connection, or that ends;
/// what was mapped with it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Bytes of the file; the region is longer, to whole pages, and zero there.
    pub size: u64,
    /// What the region's capability, with MAP_READ, travels under.
    pub ticket: Ticket,
}

/// Set the length of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncate {
    /// Which.
    pub handle: u32,
    /// Bytes.
    pub size: u64,
}
