//! Faults that a test puts into a task on purpose.
//!
//! An injection names a *phase* of a transaction, which one of the task's transactions is meant,
//! and what is to happen when that one reaches the phase. The kernel, which is on no message's path,
//! hands it to the task; the task's own library carries it out, once.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// The most injections that a task has pending at a time.
pub const INJECTIONS_MAX: usize = 16;

/// The longest delay of one injection, in ms.
pub const DELAY_MS_MAX: u32 = 600_000;

/// Where in a transaction an injection strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nowhere in particular: at once, by the kernel's hand.
    Now,
    /// A client: its request is complete and not in the ring yet.
    BeforePublish,
    /// A client: its request is in the ring, and a server that sleeps has not been woken for it.
    Published,
    /// A client: the reply is there and has not been taken.
    BeforeTakeReply,
    /// A server: it has seen a request and has not said that it takes it.
    BeforeTaken,
    /// A server: it has said that it has taken a request, and no handler has seen it.
    Taken,
    /// A server: the handler is done, or whoever kept the right to reply, and the reply is not in
    /// the ring yet.
    InHandler,
    /// A server: the reply is in the ring, and a client that sleeps has not been woken for it.
    ReplyPublished,
}

impl Phase {
    /// All of them, in the order of a transaction.
    pub const ALL: [Self; 8] = [
        Self::Now,
        Self::BeforePublish,
        Self::Published,
        Self::BeforeTaken,
        Self::Taken,
        Self::InHandler,
        Self::ReplyPublished,
        Self::BeforeTakeReply,
    ];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::BeforePublish => "before-publish",
            Self::Published => "published",
            Self::BeforeTakeReply => "before-take-reply",
            Self::BeforeTaken => "before-taken",
            Self::Taken => "taken",
            Self::InHandler => "in-handler",
            Self::ReplyPublished => "reply-published",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|phase| phase.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|phase| phase.name()).collect();
            format!("there is no phase {name:?}; there are {}", names.join(", "))
        })
    }
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// The process gets SIGKILL.
    Kill,
    /// The process gets SIGSTOP. Somebody has to send it SIGCONT.
    Stop,
    /// The thread that carries the transaction sleeps.
    Delay {
        /// For how long.
        milliseconds: u32,
    },
    /// What is at hand is lost. [`Phase::BeforePublish`], [`Phase::Published`]: the request is
    /// withdrawn. [`Phase::BeforeTakeReply`]: the reply is thrown away. [`Phase::BeforeTaken`]: the
    /// server closes the connection. [`Phase::Taken`], [`Phase::InHandler`]: the server lets go of
    /// the right to reply.
    Drop,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.pad("kill"),
            Self::Stop => f.pad("stop"),
            Self::Delay { milliseconds } => f.pad(&format!("delay={milliseconds}")),
            Self::Drop => f.pad("drop"),
        }
    }
}

/// A fault, where, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Injection {
    /// Where in a transaction.
    pub phase: Phase,
    /// In which: the how many-eth to reach the phase from now on, counted from 1 over all
    /// connections of the task.
    pub nth: u32,
    /// What happens.
    pub action: Action,
}

impl Injection {
    /// `action` when the next transaction reaches `phase`.
    #[must_use]
    pub const fn next(phase: Phase, action: Action) -> Self {
        Self { phase, nth: 1, action }
    }

    /// Whether there is such a thing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let Self { phase, nth, action } = self;
        match (phase, action) {
            (Phase::Now, Action::Kill | Action::Stop) => {}
            (Phase::Now, _) => {
                return Err(format!("{action} needs a phase of a transaction; {phase} is none"));
            }
            (Phase::ReplyPublished, Action::Drop) => {
                return Err("a reply that is published cannot be dropped any more".into());
            }
            (_, Action::Delay { milliseconds }) if !(1..=DELAY_MS_MAX).contains(milliseconds) => {
                return Err(format!("a delay is from 1 to {DELAY_MS_MAX} ms"));
            }
            _ => {}
        }
        if *nth == 0 { Err("transactions are counted from 1".into()) } else { Ok(()) }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, nth, action } = self;
        write!(f, "{action} at {phase} of transaction {nth}")
    }
}

/// Which injection of a task's, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InjectionId(pub u32);

impl fmt::Display for InjectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injection {}", self.0)
    }
}

/// An injection that has not struck yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which.
    pub id: InjectionId,
    /// What.
    pub injection: Injection,
}

#[cfg(test)]
mod tests {
    use super::{Action, DELAY_MS_MAX, Injection, Phase};

    #[test]
    fn phases_have_names_that_lead_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.name().parse(), Ok(phase));
        }
        let said = "later".parse::<Phase>().unwrap_err();
        assert!(said.contains("before-taken") && said.contains("later"), "{said}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let delay = |milliseconds| Action::Delay { milliseconds };
        let good = |phase, action| Injection::next(phase, action).check().is_ok();
        assert!(good(Phase::Now, Action::Kill) && good(Phase::Now, Action::Stop));
        assert!(!good(Phase::Now, Action::Drop) && !good(Phase::Now, delay(5)));
        assert!(!good(Phase::ReplyPublished, Action::Drop));
        assert!(good(Phase::ReplyPublished, delay(DELAY_MS_MAX)));
        assert!(!good(Phase::Taken, delay(0)) && !good(Phase::Taken, delay(DELAY_MS_MAX + 1)));
        assert!(
            Injection { nth: 0, ..Injection::next(Phase::Taken, Action::Drop) }.check().is_err()
        );
    }
}
