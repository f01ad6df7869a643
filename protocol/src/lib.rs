//! What may be said in Rendez: plain data, no I/O, no `unsafe`.
//!
//! - [`message`]: the 24-byte header at the start of every line, and what its fields mean.
//! - [`status`]: how a transaction ended, as a number on the wire.
//! - [`lease`]: how a message names what lies in an arena.
//! - [`rights`], [`id`]: the words of capabilities.
//! - [`kernel`]: requests to the kernel, its answers and its events.
//! - [`name`], [`mod@file`], [`signal`], [`supervisor`]: the interfaces of the standard servers.
//! - [`mod@encode`]: postcard, with a bound on everything that is decoded.
//! - [`injection`]: faults that a test puts into a task.
//! - [`limit`]: every limit of the wire, in one place.
//! - [`waits`]: who waits for whom, who may connect where.
//! - [`version`]: versions and how two sides agree on one.

#![forbid(unsafe_code)]

pub mod encode;
pub mod file;
pub mod id;
pub mod injection;
pub mod kernel;
pub mod lease;
pub mod limit;
pub mod message;
pub mod name;
pub mod quota;
pub mod rights;
pub mod signal;
pub mod status;
pub mod supervisor;
pub mod version;
pub mod waits;

pub use encode::{DecodeError, decode, encode};
pub use id::{ArenaId, ConnectionId, ObjectId, Slot, SpareId, TaskId, Ticket};
pub use rights::Rights;
pub use status::{Status, Why};
pub use version::{Interface, Version};
