//! Quotas: each task's share of the kernel, every table of which has a limit.
//!
//! The bounds of the wire, beyond which a message is malformed, are in
//! [`rendez_protocol::limit`]; these here are what an operator may tune. Over quota is an error to
//! the one who asked, never a disconnection of somebody else.

/// The limits of the kernel's tables. All are counts but the one that says bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Tasks in the system, the kernel's own not counted.
    pub tasks: u32,
    /// Tasks that one task has created and that live.
    pub children: u32,
    /// Capabilities in one task's space, and in escrow on its account.
    pub capabilities: u32,
    /// Endpoints that one task has made and that exist.
    pub endpoints: u32,
    /// Connections at whose client end one task is.
    pub client_connections: u32,
    /// Connections at whose server end one task is.
    pub server_connections: u32,
    /// Tickets that one task has offered and nobody has accepted.
    pub tickets: u32,
    /// Requests of one task that wait: for a receiver, for the other end, for a seal.
    pub parked: u32,
    /// Objects that one task watches.
    pub watches: u32,
    /// Bytes of both segments of all connections at whose client end one task is.
    pub segment_bytes: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            tasks: 4096,
            children: 1024,
            capabilities: 65_536,
            endpoints: 1024,
            client_connections: 12_288,
            server_connections: 16_000,
            tickets: 1024,
            parked: 12_288,
            watches: 4096,
            segment_bytes: 4 << 30,
        }
    }
}
