//! Rendez: synchronous message passing between isolated processes.

pub mod service;

pub use rendez_protocol as protocol;
