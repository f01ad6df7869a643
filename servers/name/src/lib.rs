//! The name server: a hierarchical name space of capabilities.
//!
//! A name is registered with a capability to an endpoint and belongs to the task that registered
//! it; whoever looks it up is offered a capability derived from that one. A name is a leaf; the
//! directories above it exist as long as it does. What is below a leaf is its server's business: a
//! look-up answers the registered part of a path and the rest.
//!
//! **What a look-up gives.** Without a wish: every right that the registered capability holds,
//! except RECEIVE, MANAGE and REGISTER. MANAGE and REGISTER can be asked for, RECEIVE never. In the
//! server's half, nobody is given what its own capability to the name server lacks: a name space
//! that was handed on without WRITE is read-only all the way down.
//!
//! The interface is [`rendez_protocol::name`]; [`limit`] bounds what one task can occupy.

#![forbid(unsafe_code)]

pub mod limit;
mod path;
mod server;
mod tree;

pub use server::NameServer;
