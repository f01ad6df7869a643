//! The file server: a directory or a memory file system, never anything outside it.
//!
//! [`FileServer`] speaks [`rendez_protocol::file`] and knows about callers, their rights and their
//! open files. Where the files are is a [`Backend`]'s business:
//!
//! - [`RealDirectory`] serves a directory of this machine. Linux itself resolves every path
//!   *beneath* it (`openat2` with `RESOLVE_BENEATH`), so neither `..` nor a symbolic link nor a
//!   race between the two leads out of it.
//! - [`MemoryFileSystem`] keeps a tree in memory, within quotas.
//!
//! One suite of tests holds both to the same behaviour. A file system of your own is a type that
//! implements [`Backend`] and passes that suite.
//!
//! A file can be had as a sealed region ([`MAP`]): copied once, within Linux where the file is on a
//! disk, and then mapped by its reader.
//!
//! Requests are served one after another: a slow disk, or [`SYNC`] of much that was written, makes
//! the others wait. What must not share that fate gets a file server of its own.
//!
//! [`MAP`]: rendez_protocol::file::operation::MAP
//! [`SYNC`]: rendez_protocol::file::operation::SYNC

#![forbid(unsafe_code)]

mod backend;
mod handles;
pub mod limit;
mod memory;
mod path;
mod real;
mod regions;
mod server;

pub use backend::{Backend, Failure};
pub use memory::MemoryFileSystem;
pub use path::Path;
pub use real::RealDirectory;
pub use server::FileServer;
