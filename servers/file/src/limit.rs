//! The file server's limits, beside those of the wire in [`rendez_protocol::limit`].

/// Files that one connection may have open at a time.
pub const OPEN_FILES_PER_CONNECTION: usize = 256;
/// Files that all connections together may have open at a time.
pub const OPEN_FILES: usize = 4 << 10;
/// The most that one read answers, in bytes, if its sender has room for more.
pub const READ_BYTES: usize = 4 << 20;
/// The longest file that is handed out as a region, and how much one connection's regions may have
/// together before the oldest is revoked, in bytes.
pub const REGION_BYTES: u64 = 1 << 30;
/// How many regions one connection may hold capabilities to before the oldest is revoked.
pub const REGIONS_PER_CONNECTION: usize = 4;
/// The most entries in one page of a listing.
pub const LIST_ENTRIES: usize = 1 << 10;
