//! What the demonstration and the processes it starts say to each other: a line of JSON each, on
//! their standard output. Only the plan is a file; what a process may do is in its capabilities.

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;

/// What a process says to the demonstration.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It is set up and waits.
    Ready,
    /// A sender has a connection.
    Connected { sender: usize, generation: u32 },
    /// What has been copied up to now.
    Progress { files: u64, bytes: u64 },
    /// A sender's connection has ended, and this is what it was told.
    Stopped(Stopped),
    /// A sender has done its share.
    Finished { sender: usize },
    /// Everything is copied.
    Copied { files: u64, bytes: u64, transactions: u64, seconds: f64 },
    /// Notification bits came, at a time in ns of `CLOCK_MONOTONIC`.
    Heard { bits: u64, at_ns: u64 },
    /// A signal was raised for so many, at a time in ns of `CLOCK_MONOTONIC`.
    Raised { reached: u32, at_ns: u64 },
    /// What is pending, and the bits that came meanwhile.
    Pending { signals: Vec<String>, bits: u64 },
    /// A POSIX signal came.
    Posix { signal: String },
    /// Something was tried.
    Tried { what: String, answer: String, refused: bool },
    /// It gives up.
    Failed { why: String },
}

/// What one sender was told when its server died.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stopped {
    /// Which sender.
    pub(super) sender: usize,
    /// Its transactions that had been answered.
    pub(super) answered: u64,
    /// Those in flight, which ended without an answer.
    pub(super) lost: Vec<Lost>,
}

/// A transaction that ended without an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lost {
    /// The library's words.
    pub(super) told: String,
    /// Which incarnation had taken it; `None` if none had: it was not delivered.
    pub(super) interrupted: Option<u32>,
    /// What it was about.
    pub(super) path: String,
    /// What was to be written, from which byte and how much; `None` if it was no write.
    pub(super) write: Option<(u64, u32)>,
}

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Direction {
    /// Into the file server.
    In,
    /// Out of it.
    Out,
}

/// What a process is to copy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Which way.
    pub(super) direction: Direction,
    /// How many connections copy, a thread each.
    pub(super) senders: usize,
    /// Bytes in one read or write.
    pub(super) chunk_bytes: u32,
    /// Whether a sender whose server died waits for the next incarnation and goes on.
    pub(super) goes_on: bool,
    /// The directories to make, parents first: below the file server's root, or absolute.
    pub(super) directories: Vec<String>,
    /// The files.
    pub(super) jobs: Vec<Job>,
}

/// One file to copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// Its path on this machine.
    pub(super) local: PathBuf,
    /// Its path below the file server's root.
    pub(super) remote: String,
    /// How many bytes of it.
    pub(super) bytes: u64,
    /// Its permission bits.
    pub(super) mode: u32,
}

/// Says it to the demonstration.
pub(super) fn say(said: &Said) {
    // If nobody listens any more, the demonstration is over, and Linux ends this process with it.
    if let Ok(mut line) = serde_json::to_vec(said) {
        line.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

/// Now, in ns of `CLOCK_MONOTONIC`, which all processes share.
pub(super) fn now_ns() -> u64 {
    rendez::deadline_after(std::time::Duration::ZERO)
}
