//! Quotas: each task's share of the kernel. Every table has a limit.
//!
//! The bounds of the wire, beyond which a message is malformed, are in
//! [`rendez_protocol::limit`]; these here are what an operator may tune. Over quota is an error to
//! the one who asked, never a disconnection of somebody else.

use rendez_protocol::kernel::KernelError;
use rendez_protocol::quota::{Allotment, Quota};
use serde::{Deserialize, Serialize};

/// The limits of the kernel's tables. All are counts, but for those that say bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// What all tasks together may have, the kernel's own not counted.
    pub system: Shares,
    /// What all tasks of one uid that came through the front door may have together, unless a rule
    /// says otherwise; and those that they create.
    pub uid: Shares,
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
            system: Shares::SYSTEM,
            uid: Shares::UID,
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

impl Quotas {
    /// The same, with so many tasks in the system and of a uid.
    #[cfg(test)]
    pub(crate) fn of_tasks(self, system: u64, uid: u64) -> Self {
        let system = Shares { tasks: system, ..self.system };
        let uid = Shares { tasks: uid, ..self.uid };
        Self { system, uid, ..self }
    }

    /// What one task may have of a quota, whatever it draws on.
    pub(crate) fn of_each_task(&self, quota: Quota) -> u64 {
        match quota {
            Quota::Tasks => self.children.into(),
            Quota::Capabilities => self.capabilities.into(),
            Quota::Endpoints => u64::from(self.endpoints).saturating_add(self.notifications.into()),
            Quota::Connections => self.client_connections.into(),
            Quota::Regions => self.regions.into(),
            Quota::Bytes => self.segment_bytes.saturating_add(self.region_bytes),
            Quota::Served => self.server_connections.into(),
            Quota::Waiting => self.parked.into(),
            Quota::Watches => self.watches.into(),
            Quota::Tickets => self.tickets.into(),
            Quota::Spares => self.spares.into(),
        }
    }
}

/// What is shared out: see `docs/design/0013-shares.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Tasks.
    pub tasks: u64,
    /// Capabilities.
    pub capabilities: u64,
    /// Endpoints and notifications.
    pub endpoints: u64,
    /// Connections, counted at their clients.
    pub connections: u64,
    /// Regions.
    pub regions: u64,
    /// Bytes of regions, segments, arenas and spares.
    pub bytes: u64,
}

impl Shares {
    /// Of one uid, when nobody says otherwise.
    const UID: Self = Self {
        tasks: 1024,
        capabilities: 1 << 18,
        endpoints: 1 << 14,
        connections: 1 << 16,
        regions: 1024,
        bytes: 16 << 30,
    };

    /// Of the system: eight such uids.
    const SYSTEM: Self = Self {
        tasks: 8 * Self::UID.tasks,
        capabilities: 8 * Self::UID.capabilities,
        endpoints: 8 * Self::UID.endpoints,
        connections: 8 * Self::UID.connections,
        regions: 8 * Self::UID.regions,
        bytes: 8 * Self::UID.bytes,
    };

    /// In the order of [`Quota::SHARED`].
    pub(crate) fn limits(self) -> [u64; Quota::SHARED.len()] {
        let Self { tasks, capabilities, endpoints, connections, regions, bytes } = self;
        [tasks, capabilities, endpoints, connections, regions, bytes]
    }

    /// With what `parts` say in place of what is here.
    pub(crate) fn with(self, parts: &[Allotment]) -> [u64; Quota::SHARED.len()] {
        let mut limits = self.limits();
        for part in parts {
            if let Some(limit) = limits.get_mut(part.quota as usize) {
                *limit = part.amount;
            }
        }
        limits
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
        if self.0.saturating_add(more) <= limit { Ok(()) } else { Err(over(what, limit, self.0)) }
    }
}

/// What is said of a quota that one task has for itself.
pub(crate) fn over(what: &str, limit: u64, used: u64) -> KernelError {
    KernelError::Quota { what: what.into(), limit, used, holders: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::{Count, over};

    #[test]
    fn a_count_names_the_quota_that_it_exceeds() {
        let mut count = Count::default();
        count.add(3);
        assert_eq!(count.admits(1, 4u32, "things"), Ok(()));
        assert_eq!(count.admits(2, 4u32, "things"), Err(over("things", 4, 3)));
        count.sub(3);
        assert!(count.is_zero());
    }
}
