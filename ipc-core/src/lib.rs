//! The data plane of Rendez: how a message crosses from one process to another.
//!
//! - [`segment`]: memory with one writer, mapped; the island of `unsafe`.
//! - [`layout`], [`half`]: what lies where, and every access to it, with its ordering.
//! - [`ring`]: one writer, one reader, one line a message.
//! - [`doorbell`]: how a reader sleeps and a writer wakes it.
//! - [`notification`]: bits that are posted.
//! - [`bits`]: the two ends of a connection that carries bits only.
//! - [`client`], [`server`]: the two ends of a connection: transactions.
//! - [`arena`], [`arena_memory`], [`lease`], [`lease_client`], [`lease_server`]: memory that is lent
//!   for a transaction.
//! - [`region`]: memory as a capability, mapped.
//! - [`receive`]: one thread that looks after many connections; [`end`]: what it needs of each.
//! - [`wait`]: spin, adaptive, block.
//! - [`control`], [`status`], [`page`]: kernel sockets; status segments; task pages.
//! - [`injection`]: faults that tests put into transactions.
//! - [`counters`]: what each end counts in its task's page.
//! - [`platform`]: the machine, or loom in its place.
//!
//! The protocol modules (`ring` to `server`) are generic over [`platform::Platform`] and know
//! headers and ids, never what a payload means.

pub mod arena;
#[allow(unsafe_code)]
pub mod arena_memory;
pub mod bits;
pub mod client;
pub mod control;
pub mod counters;
pub mod doorbell;
pub mod end;
mod flight;
pub mod half;
mod inherit;
pub mod injection;
pub mod layout;
pub mod lease;
pub mod lease_client;
pub mod lease_server;
#[cfg(feature = "model")]
pub mod model;
pub mod notification;
pub mod page;
pub mod platform;
pub mod receive;
#[allow(unsafe_code)]
pub mod region;
pub mod ring;
#[allow(unsafe_code)]
pub mod segment;
pub mod server;
pub mod status;
pub mod wait;
pub mod waits;
