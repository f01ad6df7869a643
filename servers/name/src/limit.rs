//! The name server's limits, beside those of the wire in [`rendez_protocol::limit`].

/// Names that one task may have registered at a time.
pub const NAMES_PER_TASK: usize = 256;
/// Names of all tasks together.
pub const NAMES: usize = 16 << 10;
/// Look-ups that one task may have waiting at a time.
pub const WAITERS_PER_TASK: usize = 64;
/// Waiting look-ups of all tasks together.
pub const WAITERS: usize = 4 << 10;
/// Components of a registered name. A path that is looked up may be deeper.
pub const DEPTH: usize = 16;
