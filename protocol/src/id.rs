//! Identifiers. Those that a table reuses carry a generation, so that a stale one is refused and
//! never misread.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! generational {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name {
            /// Place in the table.
            pub index: u32,
            /// How often that place had been used before, modulo 2^32.
            pub generation: u32,
        }

        impl $name {
            /// Both halves in one number, the generation above.
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.index as u64
            }

            /// The reverse of [`Self::to_bits`].
            #[must_use]
            pub const fn from_bits(bits: u64) -> Self {
                Self { index: bits as u32, generation: (bits >> 32) as u32 }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}.{}"), self.index, self.generation)
            }
        }
    };
}

generational!(
    /// A task, system-wide. Index 0 is the kernel itself.
    TaskId, "task");
generational!(
    /// A place for a capability in one task's capability space.
    Slot, "slot");
generational!(
    /// A connection, system-wide.
    ConnectionId, "connection");

/// A kernel object (task, endpoint), for comparing: never reused while the kernel lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId(pub u64);

/// Capabilities in transit over one connection. Works once, for the receiver at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// An arena of a connection: counted from 1 for each connection, never used again within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArenaId(pub u32);

impl fmt::Display for ArenaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arena {}", self.0)
    }
}

/// A spare segment of a task: counted from 1 for each task, never used again by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpareId(pub u32);

impl fmt::Display for SpareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spare {}", self.0)
    }
}

impl TaskId {
    /// The kernel, as the task that capabilities to "the system" name.
    pub const KERNEL: Self = Self { index: 0, generation: 0 };
}
