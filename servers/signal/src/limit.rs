//! The signal server's limits. A name is at most
//! [`LABEL_BYTES_MAX`](rendez_protocol::limit::LABEL_BYTES_MAX) bytes long.

/// Signals that one connection may subscribe to: as many as its notification word has bits.
pub const SUBSCRIPTIONS_PER_CONNECTION: usize = 64;
/// Groups that one connection may join.
pub const GROUPS_PER_CONNECTION: usize = 64;
/// Subscriptions of all connections together.
pub const SUBSCRIPTIONS: usize = 64 << 10;
/// Memberships of all connections together.
pub const MEMBERSHIPS: usize = 64 << 10;
