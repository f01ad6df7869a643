//! Quotas: how much of the kernel each may have, and how it is said who has how much.

use crate::id::TaskId;
use serde::{Deserialize, Serialize};

/// Something that there is only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// Tasks.
    Tasks,
    /// Capabilities: those in a task's space, and those that it has offered and nobody accepted.
    Capabilities,
    /// Endpoints and notifications that a task has made and that still exist.
    Endpoints,
    /// Connections at whose client end a task is.
    Connections,
    /// Regions that a task has made and that still exist.
    Regions,
    /// Bytes of memory: of those regions, of the segments and arenas of those connections, and of
    /// spares.
    Bytes,
    /// Connections at whose server end a task is.
    Served,
    /// Requests that wait for somebody else.
    Waiting,
    /// Capabilities with which a task watches.
    Watches,
    /// Tickets that nobody has accepted.
    Tickets,
    /// Spares.
    Spares,
}

impl Quota {
    /// Those that are shared out: a part of what a task, or a uid, has of them can be set aside for
    /// somebody. Their places here are what they are `as usize`.
    pub const SHARED: [Self; 6] = [
        Self::Tasks,
        Self::Capabilities,
        Self::Endpoints,
        Self::Connections,
        Self::Regions,
        Self::Bytes,
    ];

    /// Those of which each task has so many, whoever it is and whatever others have.
    pub const OF_EACH_TASK: [Self; 5] =
        [Self::Served, Self::Waiting, Self::Watches, Self::Tickets, Self::Spares];

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Capabilities => "capabilities",
            Self::Endpoints => "endpoints",
            Self::Connections => "connections",
            Self::Regions => "regions",
            Self::Bytes => "bytes",
            Self::Served => "served",
            Self::Waiting => "waiting",
            Self::Watches => "watches",
            Self::Tickets => "tickets",
            Self::Spares => "spares",
        }
    }
}

/// So much of a quota, set aside for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// Of which; one of [`Quota::SHARED`].
    pub quota: Quota,
    /// How much.
    pub amount: u64,
}

/// How much of a quota a task holds, as far as whoever is told may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The task.
    pub task: TaskId,
    /// Its name.
    pub name: String,
    /// How much it uses; or, if it has a part of its own, how large that is.
    pub amount: u64,
}

/// A task's use of one quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Of which.
    pub quota: Quota,
    /// How much the task itself uses.
    pub used: u64,
    /// The most that it may use itself.
    pub limit: u64,
    /// What it draws on, if the quota is shared out.
    pub share: Option<Share>,
}

/// What one task, or several, draw on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Whose it is, for people.
    pub whose: String,
    /// How much of it is used, what is set aside for others included.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
}

impl Use {
    /// How near the limit it is that is reached first, from 0 to 1000.
    #[must_use]
    pub fn permille(&self) -> u64 {
        let of = |used: u64, limit: u64| {
            u64::try_from(u128::from(used) * 1000 / u128::from(limit.max(1))).unwrap_or(1000)
        };
        let share = self.share.as_ref().map_or(0, |share| of(share.used, share.limit));
        of(self.used, self.limit).max(share).min(1000)
    }
}

/// What is said of those who hold most, at the end of an error.
pub(crate) fn held(holders: &[Holding]) -> String {
    holders.iter().map(|of| format!("; {} ({}) {}", of.name, of.task, of.amount)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Quota, Share, Use};

    #[test]
    fn quotas_that_are_shared_out_have_their_places() {
        for (place, quota) in Quota::SHARED.into_iter().enumerate() {
            assert_eq!(quota as usize, place);
        }
        assert!(Quota::OF_EACH_TASK.iter().all(|quota| !Quota::SHARED.contains(quota)));
    }

    #[test]
    fn the_tighter_of_two_limits_counts() {
        let share = |used, limit| Some(Share { whose: "uid 1".into(), used, limit });
        let tight =
            |used, limit, share| Use { quota: Quota::Regions, used, limit, share }.permille();
        assert_eq!(tight(1, 4, None), 250);
        assert_eq!(tight(1, 4, share(9, 10)), 900);
        assert_eq!(tight(4, 4, share(9, 10)), 1000);
        assert_eq!(tight(u64::MAX, u64::MAX, None), 1000);
        assert_eq!(tight(0, 0, None), 0);
    }
}
