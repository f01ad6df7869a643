//! Quotas: each task's share of the kernel. Every table has a limit.
//!
//! The bounds of the wire, beyond which a message is malformed, are in
//! [`rendez_protocol::limit`]; these here are what an operator may tune. Over quota is an error to
//! the one who asked, never a disconnection of somebody else.

use rendez_protocol::kernel::KernelError;
use serde::{Deserialize, Serialize};

/// The limits of the kernel's tables. All are counts, but for those that say bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Tasks in the system, the kernel's own not counted.
    pub tasks: u32,
    /// Living tasks that one task has created.
    pub children: u32,
    /// Capabilities in one task's space, and those that it has offered and nobody has accepted.
    pub capabilities: u32,
    /// Endpoints that one task has made and that still exist.
    pub endpoints: u32,
    /// Notifications that one task has made and that still exist.
    pub notifications: u32,
    /// Connections at whose client end one task is.
    pub client_connections: u32,
    /// Connections at whose server end one task is.
    pub server_connections: u32,
    /// Connections of one client to one server: well below half of `server_connections`, so that
    /// one client, or two, leave room for others.
    pub connections_to_one_server: u32,
    /// Tickets that one task has offered and nobody has accepted.
    pub tickets: u32,
    /// Requests of one task that wait for somebody else. Beyond it, an endpoint without a receiver
    /// is not waited for.
    pub parked: u32,
    /// Capabilities with which one task watches.
    pub watches: u32,
    /// Spares of one task.
    pub spares: u32,
    /// Regions that one task has made and that still exist. Each costs the kernel a descriptor.
    pub regions: u32,
    /// Their bytes.
    pub region_bytes: u64,
    /// Bytes of both segments, and of all arenas, of all connections at whose client end one task is,
    /// and of its spares.
    pub segment_bytes: u64,
    /// Bytes of the segments and arenas that one server makes for one client. It is the client that says how
    /// large they are and the server that populates them.
    pub reply_bytes_of_one_server: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            tasks: 4096,
            children: 1024,
            capabilities: 16_384,
            endpoints: 1024,
            notifications: 1024,
            client_connections: 12_288,
            server_connections: 16_000,
            connections_to_one_server: 4096,
            tickets: 1024,
            parked: 1024,
            watches: 4096,
            spares: 16,
            regions: 256,
            region_bytes: 4 << 30,
            segment_bytes: 4 << 30,
            reply_bytes_of_one_server: 64 << 20,
        }
    }
}

/// How much of a quota is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count(u64);

impl Count {
    /// How much.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// For a report, whose fields are narrower.
    pub(crate) fn shown(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Whether nothing is.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Uses `more`.
    pub(crate) fn add(&mut self, more: u64) {
        self.0 = self.0.saturating_add(more);
    }

    /// Gives `less` back.
    pub(crate) fn sub(&mut self, less: u64) {
        debug_assert!(self.0 >= less, "more given back than was used");
        self.0 = self.0.saturating_sub(less);
    }

    /// Whether `more` fits under `limit`.
    pub(crate) fn admits(
        self,
        more: u64,
        limit: impl Into<u64>,
        what: &str,
    ) -> Result<(), KernelError> {
        let limit = limit.into();
        if self.0.saturating_add(more) <= limit {
            Ok(())
        } else {
            Err(KernelError::Quota { what: what.into(), limit })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Count;
    use rendez_protocol::kernel::KernelError;

    #[test]
    fn a_count_names_the_quota_that_it_exceeds() {
        let mut count = Count::default();
        count.add(3);
        assert_eq!(count.admits(1, 4u32, "things"), Ok(()));
        assert_eq!(
            count.admits(2, 4u32, "things"),
            Err(KernelError::Quota { what: "things".into(), limit: 4 })
        );
        count.sub(3);
        assert!(count.is_zero());
    }
}
