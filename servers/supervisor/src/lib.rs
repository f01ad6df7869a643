//! The supervisor: starts the other servers, restarts them when they end, and keeps a record of how
//! they ended.
//!
//! The first task of a system. It makes the servers' endpoints and keeps a capability to each, so
//! they outlive the servers; it registers their names, gives each task the capabilities that the
//! manifest says and no others, and says whom the front door lets in and what they are given
//! ([`policy`]).
//!
//! - [`manifest`]: what a system consists of, and the check of it.
//! - [`machine`], with [`restart`], [`stuck`], [`order`]: what becomes of tasks. Pure: events and
//!   times in, actions out.
//! - [`log`], [`deaths`]: what is kept of a task.
//! - [`launch`], [`sandbox`], `entry`: processes and the walls around them. `server`, `service`, `report`, `watchman`: the machine joined to
//!   the world; `inbox`, `clerk`, `scribe`: so that the supervisor waits for nobody.

mod clerk;
pub mod deaths;
mod entry;
mod inbox;
#[allow(unsafe_code)]
pub mod launch;
pub mod log;
pub mod machine;
pub mod manifest;
mod names;
pub mod order;
mod pages;
pub mod policy;
mod report;
pub mod restart;
pub mod sandbox;
mod scribe;
mod server;
mod service;
pub mod stuck;
mod watchman;
pub mod words;

pub use server::{BuiltIn, Error, Supervisor, run};
