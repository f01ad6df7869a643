//! What can go wrong between a program and the rest of its system.

use rendez_ipc_core::client::SendError;
use rendez_protocol::kernel::KernelError;
use rendez_protocol::{DecodeError, Status, Why};
use std::io;
use std::path::PathBuf;

/// Why something that a task asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no system at the front door.
    #[error("no system is running: nobody answers at {path} ({cause}); start one with `rendez up`", path = .path.display())]
    NoSystem {
        /// Where the front door was looked for.
        path: PathBuf,
        /// What Linux said.
        cause: io::Error,
    },
    /// Whoever waits at the front door, or whose directory it is in, is another user: no system of
    /// this one's.
    #[error("{path} belongs to uid {uid}, and this process to uid {own}: whoever trusts that user says so with $RENDEZ_OWNER={uid}", path = .path.display())]
    Stranger {
        /// The front door, or the directory it is in.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Whose this process is.
        own: u32,
    },
    /// The kernel has closed this task's socket, or is dead.
    #[error("the kernel is gone: its socket was closed")]
    KernelGone,
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {ms} ms")]
    KernelSilent {
        /// How long was waited.
        ms: u64,
    },
    /// The kernel said no.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A send ended without an answer.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Memory could not be lent.
    #[error(transparent)]
    Lease(#[from] crate::lease::LeaseError),
    /// The server answered with a status other than OK.
    #[error("{text}")]
    Refused {
        /// The status.
        status: Status,
        /// The server's words.
        text: String,
    },
    /// A reply is not what the operation answers.
    #[error("a reply could not be read: {0}")]
    Reply(#[from] DecodeError),
    /// The kernel's answer is not one to the question.
    #[error("the kernel answered out of turn: {0}")]
    Protocol(String),
    /// This task was not given a capability of that name.
    #[error("this task was given no capability named {name:?}{}", hint(.given))]
    NotGiven {
        /// The name.
        name: String,
        /// What it was given.
        given: Vec<String>,
    },
    /// Linux said no.
    #[error("{doing}: {cause}")]
    System {
        /// What was being done.
        doing: String,
        /// What Linux said.
        cause: io::Error,
    },
}

fn hint(given: &[String]) -> String {
    if given.is_empty() {
        "; it was given none".into()
    } else {
        format!("; it was given: {}", given.join(", "))
    }
}

impl Error {
    /// An error of Linux's while `doing`.
    pub fn system(doing: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { doing: doing.into(), cause: cause.into() }
    }

    /// A status other than OK, with the server's words.
    #[must_use]
    pub fn refused(status: Status, payload: &[u8]) -> Self {
        let text = match (status.word(), String::from_utf8_lossy(payload)) {
            (Some(word), text) if text.is_empty() => word.into(),
            (None, text) if text.is_empty() => format!("refused with {status}"),
            (_, text) => text.into_owned(),
        };
        Self::Refused { status, text }
    }

    /// Why a send ended without an answer, if that is what this is.
    #[must_use]
    pub const fn why(&self) -> Option<Why> {
        match self {
            Self::Send(error) => Some(error.why()),
            _ => None,
        }
    }

    /// The server's status, if it answered one.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
