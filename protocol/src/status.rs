//! How a transaction ended: numbers on the wire, reasons in the library.

use core::fmt;

/// The status of a reply. 0 is success, 1–255 belong to Rendez, 256 and above to the interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

impl Status {
    /// The operation was done; the payload is its result.
    pub const OK: Self = Self(0);
    /// The server let go of the right to reply without using it.
    pub const DROPPED: Self = Self(1);
    /// The server saw the sender's mark before its handler ran: it never happened.
    pub const WITHDRAWN: Self = Self(2);
    /// The reply was longer than the room that the request named; the payload is its length (u32).
    pub const TOO_BIG: Self = Self(3);
    /// The server knows no such operation.
    pub const UNIMPLEMENTED: Self = Self(4);
    /// The request's payload is malformed; the payload says how, as UTF-8.
    pub const MALFORMED: Self = Self(5);
    /// The sender's capability lacks a right; the payload says which, as UTF-8.
    pub const DENIED: Self = Self(6);
    /// What the sender wanted to wait for had not come by the transaction's deadline.
    pub const DEADLINE: Self = Self(7);
    /// The server has reached a limit of its own; the payload says which, as UTF-8.
    pub const QUOTA: Self = Self(8);
    /// First status of an interface's own.
    pub const INTERFACE: Self = Self(256);

    /// Whether the status is [`Status::OK`].
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// A word for the status, where it is one of Rendez's own.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "ok",
            Self::DROPPED => "dropped",
            Self::WITHDRAWN => "withdrawn",
            Self::TOO_BIG => "too big",
            Self::UNIMPLEMENTED => "unimplemented",
            Self::MALFORMED => "malformed",
            Self::DENIED => "denied",
            Self::DEADLINE => "deadline",
            Self::QUOTA => "quota",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) => f.write_str(word),
            None => write!(f, "status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({} {self})", self.0)
    }
}

/// Why a send got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Why {
    /// Its deadline passed.
    Deadline,
    /// Its sender cancelled it.
    Cancelled,
    /// The server's task is dead.
    Dead,
    /// The capability behind the connection was revoked.
    Revoked,
    /// The server let go of it unanswered.
    Dropped,
    /// It was one of a circle of waits, in which every receiver waits for another one.
    Deadlock,
    /// A right is missing.
    Denied,
    /// A quota is exhausted.
    Quota,
    /// The ring is full and the sender did not want to wait.
    Full,
    /// The message, or its reply, does not fit.
    TooBig,
    /// A side broke the protocol.
    Protocol,
    /// The connection was closed by one of its ends.
    Closed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
            Self::Revoked => "revoked",
            Self::Dropped => "dropped",
            Self::Deadlock => "deadlock",
            Self::Denied => "denied",
            Self::Quota => "quota",
            Self::Full => "full",
            Self::TooBig => "too big",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
        })
    }
}

/// The bits of a connection's status word that say what became of it.
pub const STATE_MASK: u32 = 0xff;

/// The status word of an open connection at whose end injections are pending: beside the state, how
/// many the task ever had, modulo 2^24, and never 0. An end that sees a new number asks what there is
/// before its transaction goes on.
#[must_use]
pub const fn injected_word(ever: u32) -> u32 {
    let shown = if ever << 8 == 0 { 1 } else { ever };
    ConnectionState::Open as u32 | shown << 8
}

/// What a status word says beside the state: 0 as a rule; see [`injected_word`].
#[must_use]
#[inline]
pub const fn injected_of(word: u32) -> u32 {
    word >> 8
}

/// What a connection's status word says. Written by the kernel into each end's status segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ConnectionState {
    /// In use (also before it is complete).
    Open = 0,
    /// The other end's task is dead.
    Dead = 1,
    /// The capability it was made with is revoked.
    Revoked = 2,
    /// One end closed it.
    Closed = 3,
    /// One end broke the protocol and the other reported it.
    Protocol = 4,
    /// The server refused it, though it was complete: its segment was a spare.
    Denied = 5,
    /// An end had no room for it.
    Quota = 6,
    /// A connection to a notification that has no receiver yet. What is posted waits in the poster's
    /// segment.
    Waiting = 7,
}

impl ConnectionState {
    /// The state that `word` names. The word is the kernel's: an unknown one is read as closed.
    #[must_use]
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        match word & STATE_MASK {
            0 => Self::Open,
            1 => Self::Dead,
            2 => Self::Revoked,
            4 => Self::Protocol,
            5 => Self::Denied,
            6 => Self::Quota,
            7 => Self::Waiting,
            _ => Self::Closed,
        }
    }

    /// The reason that senders are given, `None` while the connection has not ended.
    #[must_use]
    pub const fn why(self) -> Option<Why> {
        match self {
            Self::Open | Self::Waiting => None,
            Self::Dead => Some(Why::Dead),
            Self::Revoked => Some(Why::Revoked),
            Self::Closed => Some(Why::Closed),
            Self::Protocol => Some(Why::Protocol),
            Self::Denied => Some(Why::Denied),
            Self::Quota => Some(Why::Quota),
        }
    }
}
