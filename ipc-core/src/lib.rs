//! The data plane of Rendez: segments, rings, doorbells, transactions.

pub mod control;
mod inherit;
pub mod status;
