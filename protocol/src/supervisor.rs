//! The supervisor's interface: what it started and how that fares, how what ended came to its end,
//! restart on request, stop the system.
//!
//! Server rights: READ to look, MANAGE to restart and stop.

use crate::id::TaskId;
use crate::status::Status;
use crate::version::{Interface, Version};
use serde::{Deserialize, Serialize};

/// The interface's name and version.
#[must_use]
pub fn interface() -> Interface {
    Interface::new("supervisor", Version::new(2, 0))
}

/// The name under which a task that says itself when it is ready is given the capability to say so.
pub const READY_LABEL: &str = "ready";

/// Operations: request payload → reply payload.
pub mod operation {
    /// [`List`](super::List) → [`Listing`](super::Listing).
    pub const LIST: u16 = 1;
    /// Task name (`&str`) → nothing, once it has been started again and is ready.
    pub const RESTART: u16 = 2;
    /// Nothing → nothing; the whole system then stops.
    pub const STOP: u16 = 3;
    /// [`Deaths`](super::Deaths) → [`DeathList`](super::DeathList).
    pub const DEATHS: u16 = 4;
    /// Nothing → nothing. From a task that the supervisor has started: it is ready. Needs no right
    /// but to send.
    pub const READY: u16 = 5;
}

/// The interface's own failures, as statuses; each reply's payload is a text for people.
pub mod status {
    use super::Status;
    /// No task of that name.
    pub const NOT_FOUND: Status = Status(256);
    /// It could not be started.
    pub const NOT_STARTED: Status = Status(257);
}

/// Asks for what the supervisor started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// So many are left out: those that earlier answers brought.
    pub skip: u32,
}

/// As many as the reply had room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In the order in which they start.
    pub servers: Vec<Server>,
    /// Whether there are others behind them.
    pub more: bool,
}

/// A task that the supervisor starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its task, while it lives.
    pub task: Option<TaskId>,
    /// Its process, while it lives.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: State,
    /// How often it has been started.
    pub starts: u32,
    /// How often of these the supervisor has restarted it by itself.
    pub restarts: u32,
    /// For how long its process has run, in ms; 0 if it does not.
    pub up_ms: u64,
    /// How the last one ended, for people; empty if none has.
    pub last_end: String,
}

/// Where a task is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Others must be ready first.
    Waiting {
        /// Which, for people.
        on: String,
    },
    /// Its process runs, and it is not ready yet.
    Starting,
    /// It does what it is for.
    Ready,
    /// It lives, somebody waits for it, and it does not receive.
    Stuck {
        /// For how long this has been known, in ms.
        for_ms: u64,
    },
    /// It will be started again.
    BackingOff {
        /// In how many ms.
        in_ms: u64,
    },
    /// It has ended, as it should.
    Ended,
    /// It will not be started again, unless somebody asks.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// Asks for the records of deaths, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// Of the task of this name; of all.
    pub name: Option<String>,
    /// Those before the one with this number; all.
    pub before: Option<u64>,
}

/// As many as the reply had room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathList {
    /// The latest first.
    pub deaths: Vec<Death>,
    /// Whether there are others before them.
    pub more: bool,
}

/// How one incarnation of a task came to its end. Names and doings are what the task and others said
/// of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Counts all ends of the system, from 1.
    pub number: u64,
    /// The task's name.
    pub name: String,
    /// Which incarnation: so many starts there had been.
    pub incarnation: u32,
    /// The task.
    pub task: Option<TaskId>,
    /// The process, if one was started.
    pub pid: Option<u32>,
    /// When it ended, in ms since 1970.
    pub at_unix_ms: u64,
    /// For how long it had run, in ms.
    pub ran_ms: u64,
    /// How it ended.
    pub end: End,
    /// What the supervisor killed it for; empty if it did not.
    pub killed_for: String,
    /// What became of it then, for people.
    pub then: String,
    /// Transactions that it had taken and not answered, by whose they were.
    pub serving: Vec<Doing>,
    /// Whom it waited for itself.
    pub waiting: Vec<Doing>,
    /// The last lines that it wrote on standard output and error.
    pub log: Vec<String>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a POSIX signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Its name.
        name: String,
        /// Whether Linux wrote a core dump.
        core: bool,
    },
    /// It was never started: why.
    NotStarted(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Killed { name, core, .. } => {
                write!(f, "killed by {name}{}", if *core { ", core dumped" } else { "" })
            }
            Self::NotStarted(why) => f.write_str(why),
        }
    }
}

/// Transactions between a task and another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// The other task.
    pub task: TaskId,
    /// Its name; empty if it was gone too.
    pub name: String,
    /// How many transactions.
    pub count: u64,
    /// For how long, in ms, where that is known.
    pub for_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn ends_are_said_plainly() {
        assert_eq!(End::Exited(3).to_string(), "exited with 3");
        let killed = |core| End::Killed { signal: 6, name: "SIGABRT".into(), core };
        assert_eq!(killed(false).to_string(), "killed by SIGABRT");
        assert_eq!(killed(true).to_string(), "killed by SIGABRT, core dumped");
    }
}
