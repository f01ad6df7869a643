//! The signal server: named signals and groups, bridged to POSIX signals.
//!
//! It has what POSIX signals are used for and leaves out what makes them hard: a signal has a name
//! instead of a number that everybody shares, it arrives as a bit in a connection's notification
//! word instead of in the middle of anything, and nobody can send one to somebody who did not
//! subscribe. Masks, pending signals and groups work as they do there; like there, signals coalesce.
//!
//! POSIX signals cross in both directions. *Out*: a subscriber can have a named signal delivered to
//! a task as a POSIX signal, with a capability to that task which has KILL; whoever may raise the
//! signal can then cause that one POSIX signal, and no other. *In*: a POSIX signal that the server's
//! process receives ([`BRIDGED`]) raises a named signal.
//!
//! The interface is [`rendez_protocol::signal`]; [`limit`] bounds what one connection can occupy.

#![forbid(unsafe_code)]

mod bridge;
pub mod limit;
mod server;
mod table;

pub use bridge::BRIDGED;
pub use server::SignalServer;
