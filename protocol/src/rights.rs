//! Rights: what the holder of a capability may do with its object.
//!
//! The low sixteen bits are the kernel's and are enforced by it. The high sixteen are the
//! *server's own*: the kernel lets them shrink and never grow, and tells them to the server with
//! each connection; what they mean is the server's interface.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// A set of rights. Minting can drop rights and never add any.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Rights: u32 {
        /// Connect to an endpoint and send.
        const SEND = 1 << 0;
        /// Serve an endpoint.
        const RECEIVE = 1 << 1;
        /// Post a notification.
        const POST = 1 << 2;
        /// Map a region for reading.
        const MAP_READ = 1 << 3;
        /// Map a region for writing.
        const MAP_WRITE = 1 << 4;
        /// Derive further capabilities from this one.
        const MINT = 1 << 5;
        /// Let it travel in messages.
        const GRANT = 1 << 6;
        /// Be told when the object dies or restarts.
        const WATCH = 1 << 7;
        /// Look at the object's state.
        const INSPECT = 1 << 8;
        /// Send the task POSIX signals.
        const KILL = 1 << 9;
        /// Inject faults, for tests.
        const INJECT = 1 << 10;

        /// A server's own right: read what it keeps.
        const READ = 1 << 16;
        /// A server's own right: change what it keeps.
        const WRITE = 1 << 17;
        /// A server's own right: register (name server), define (signal server).
        const REGISTER = 1 << 18;
        /// A server's own right: manage the server itself.
        const MANAGE = 1 << 19;

        /// The kernel's half.
        const KERNEL_MASK = 0xffff;
        /// The server's half.
        const SERVER_MASK = 0xffff_0000;
    }
}

/// Letters for the rights that people write on a command line, in display order.
const LETTERS: [(char, Rights); 15] = [
    ('s', Rights::SEND),
    ('v', Rights::RECEIVE),
    ('p', Rights::POST),
    ('m', Rights::MINT),
    ('g', Rights::GRANT),
    ('t', Rights::WATCH),
    ('i', Rights::INSPECT),
    ('k', Rights::KILL),
    ('j', Rights::INJECT),
    ('r', Rights::READ),
    ('w', Rights::WRITE),
    ('n', Rights::REGISTER),
    ('x', Rights::MANAGE),
    ('a', Rights::MAP_READ),
    ('b', Rights::MAP_WRITE),
];

impl Rights {
    /// Reads rights from letters, `"srw"` for SEND, READ and WRITE.
    ///
    /// # Errors
    /// The first letter that names no right.
    pub fn from_letters(text: &str) -> Result<Self, char> {
        text.chars().try_fold(Self::empty(), |sum, c| {
            LETTERS.iter().find(|(letter, _)| *letter == c).map(|(_, right)| sum | *right).ok_or(c)
        })
    }

    /// The letters of the rights held, `-` for none.
    #[must_use]
    pub fn to_letters(self) -> String {
        let text: String =
            LETTERS.iter().filter(|(_, right)| self.contains(*right)).map(|(c, _)| *c).collect();
        if text.is_empty() { "-".into() } else { text }
    }

    /// The names of the rights in `self`, for messages: `SEND, READ`.
    #[must_use]
    pub fn names(self) -> String {
        let names: Vec<_> = self
            .iter_names()
            .map(|(name, _)| name)
            .filter(|name| !name.ends_with("_MASK"))
            .collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::Rights;

    #[test]
    fn letters_go_both_ways() {
        let rights = Rights::SEND | Rights::READ | Rights::WRITE;
        assert_eq!(rights.to_letters(), "srw");
        assert_eq!(Rights::from_letters("wrs"), Ok(rights));
        assert_eq!(Rights::from_letters("sq"), Err('q'));
        assert_eq!(Rights::empty().to_letters(), "-");
        assert_eq!(rights.names(), "SEND, READ, WRITE");
    }
}
