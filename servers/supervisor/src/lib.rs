//! The supervisor: starts the other servers and restarts them on request.
//!
//! The first task of a system. It makes the servers' endpoints and keeps a capability to each, so
//! they outlive the servers; it registers their names, gives each server the capabilities it needs
//! and no others, and says whom the front door lets in and what they are given ([`policy`]). It starts each server once and restarts it
//! when asked: when and how often to restart by itself is policy, and there is none yet.

#[allow(unsafe_code)]
pub mod launch;
pub mod policy;
pub mod sandbox;
mod server;

pub use server::{Error, Plan, Program, Supervisor, run};
