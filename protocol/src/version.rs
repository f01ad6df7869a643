//! Versions of the kernel protocol and of interfaces, and how two sides agree.
//!
//! A version is `major.minor`. Sides of different majors do not talk; within one major, a server
//! answers any client whose minor is not above its own.

use core::fmt;
use serde::{Deserialize, Serialize};

/// `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Changes that break a peer.
    pub major: u16,
    /// Additions that do not.
    pub minor: u16,
}

/// The version of the kernel protocol, the segment layout and the message header in this library.
pub const PROTOCOL: Version = Version::new(3, 0);

impl Version {
    /// Version `major.minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Whether a server of this version serves a client of version `client`.
    #[must_use]
    pub const fn serves(self, client: Self) -> bool {
        self.major == client.major && self.minor >= client.minor
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An interface by name and version, as a server offers it and a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// Its name: `file`, at most [`LABEL_BYTES_MAX`](crate::limit::LABEL_BYTES_MAX) bytes.
    pub name: String,
    /// Its version.
    pub version: Version,
}

impl Interface {
    /// Interface `name` of `version`.
    #[must_use]
    pub fn new(name: &str, version: Version) -> Self {
        Self { name: name.into(), version }
    }

    /// Whether a server that offers `self` serves a client that asks for `client`.
    #[must_use]
    pub fn serves(&self, client: &Self) -> bool {
        self.name == client.name && self.version.serves(client.version)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn a_newer_minor_serves_an_older_client_and_not_the_reverse() {
        assert!(Version::new(1, 2).serves(Version::new(1, 0)));
        assert!(!Version::new(1, 0).serves(Version::new(1, 2)));
        assert!(!Version::new(2, 0).serves(Version::new(1, 0)));
    }
}
