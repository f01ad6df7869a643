//! How a command fails: an exit code that scripts can rely on, and words for people.

use rendez::{Error, SendError, Status, Why};
use rendez_protocol::kernel::{KernelError, SOCKET_VARIABLE};
use std::fmt::Display;

/// Anything that has no code of its own.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// No system is running.
pub const NO_SYSTEM: u8 = 3;
/// There is no such name or file.
pub const NOT_FOUND: u8 = 4;
/// A right is missing, or policy refuses.
pub const REFUSED: u8 = 5;
/// The deadline passed.
pub const DEADLINE: u8 = 6;
/// The server died, or the connection to it ended.
pub const INTERRUPTED: u8 = 7;
/// A disk, a quota or a limit is full.
pub const FULL: u8 = 8;
/// A system of that instance is running already.
pub const RUNNING: u8 = 9;

/// The exit codes and what they mean, for the help text.
pub const EXIT_CODES: &str = "\
Exit codes (`run` answers its program's):
  0  done
  1  failed, for a reason without a code of its own
  2  the command line is wrong
  3  no system is running
  4  there is no such name or file
  5  refused: a right is missing
  6  the deadline passed
  7  the server died or the connection ended before an answer came
  8  full: a disk, a quota or a limit
  9  a system of that instance is running already";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// A failure with `code` that says `text`.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A failure of `error` while `doing`.
    pub fn system(doing: impl Display, error: impl Display) -> Self {
        Self::new(FAILED, format!("{doing}: {error}"))
    }

    /// Whoever was to read what the command says has had enough. That is no failure, only the end.
    #[must_use]
    pub const fn nobody_reads() -> Self {
        Self { code: 0, text: String::new() }
    }

    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// The same failure, with what it was about in front.
    #[must_use]
    pub fn about(self, what: impl Display) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    /// The same failure, with what was done nevertheless at its end.
    #[must_use]
    pub fn but(self, what: impl Display) -> Self {
        Self { text: format!("{}; {what}", self.text), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSystem { .. } => NO_SYSTEM,
            Error::Refused { status, .. } => code_of(*status),
            Error::NotGiven { .. } | Error::Stranger { .. } => REFUSED,
            Error::Send(error) => code_of_why(error.why()),
            Error::Kernel(KernelError::NotCompleted(why)) => code_of_why(*why),
            Error::KernelGone => INTERRUPTED,
            Error::KernelSilent { .. } => DEADLINE,
            Error::Kernel(KernelError::MissingRights { .. } | KernelError::Denied(_)) => REFUSED,
            Error::Kernel(KernelError::Quota { .. }) => FULL,
            Error::Kernel(KernelError::Dead | KernelError::NotHeld { .. }) => INTERRUPTED,
            _ => FAILED,
        };
        Self::new(code, crate::output::printable(&words(&error)))
    }
}

/// What to do about a right that a shell's command lacks.
const POLICY: &str = "what commands in a shell may do is the front door's policy, said when the system \
                      is started: `rendez up --policy operator` lets its own user do everything";

/// What an error means to whoever typed the command.
fn words(error: &Error) -> String {
    match error {
        Error::Send(SendError::NotDelivered { why }) => format!(
            "not delivered ({why}): {}; no server saw the request, so it is safe to try again",
            meaning(*why)
        ),
        Error::Send(SendError::Interrupted { why, .. }) => format!(
            "interrupted ({why}): {}; the server had taken the request, and what it did is unknown",
            meaning(*why)
        ),
        Error::KernelSilent { ms } => format!(
            "no answer within {ms} ms: the server that is needed is dead, stopped or busy, or the \
             kernel is; `rendez status` tells"
        ),
        Error::KernelGone => "the system has ended: the kernel closed this task's socket".into(),
        Error::NotGiven { name, given } if inherited() => format!(
            "this task was given no capability named {name:?}, only: {}; whoever starts it gives it \
             one with `rendez run --give {name}=PATH:RIGHTS`",
            if given.is_empty() { "none".into() } else { given.join(", ") },
        ),
        Error::NotGiven { name, given } => format!(
            "refused: the front door's policy gives this user no capability named {name:?}, which \
             this needs, only: {}; {POLICY}",
            if given.is_empty() { "none".into() } else { given.join(", ") },
        ),
        Error::Refused { status: Status::DENIED, text } if !inherited() => {
            format!("{text}; {POLICY}")
        }
        other => other.to_string(),
    }
}

/// Whether this process was started as a task.
fn inherited() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

const fn meaning(why: Why) -> &'static str {
    match why {
        Why::Deadline => "the server did not answer in time",
        Why::Cancelled => "it was cancelled",
        Why::Dead => "the server is dead",
        Why::Revoked => "the capability was revoked",
        Why::Dropped => "the server let go of the request",
        Why::Deadlock => "everybody in a circle waits for everybody else",
        Why::Denied => "a right is missing",
        Why::Quota => "a quota is exhausted",
        Why::Full => "there is no room for more",
        Why::TooBig => "the message or its reply is too long",
        Why::Protocol => "a side broke the protocol",
        Why::Closed => "the connection was closed",
    }
}

const fn code_of_why(why: Why) -> u8 {
    match why {
        Why::Deadline => DEADLINE,
        Why::Denied | Why::Revoked => REFUSED,
        Why::Full | Why::Quota => FULL,
        _ => INTERRUPTED,
    }
}

/// The interfaces number their own statuses from 256, each its own; the first of both the name and
/// the file interface says that something is not there.
fn code_of(status: Status) -> u8 {
    use rendez_protocol::file::status as file;
    match status {
        Status::DENIED => REFUSED,
        Status::DEADLINE => DEADLINE,
        Status::QUOTA => FULL,
        file::NOT_FOUND => NOT_FOUND,
        file::NO_SPACE => FULL,
        file::OUTSIDE | file::PERMISSION => REFUSED,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::{DEADLINE, FULL, Failure, INTERRUPTED, NO_SYSTEM, NOT_FOUND, REFUSED};
    use rendez::{Error, SendError, Why};
    use rendez_protocol::Status;
    use rendez_protocol::file::status;

    #[test]
    fn codes() {
        let refused = |status| Error::Refused { status, text: "no".into() };
        let not_delivered = |why| Error::Send(SendError::NotDelivered { why });
        for (error, code) in [
            (
                Error::NoSystem { path: "/x".into(), cause: std::io::ErrorKind::NotFound.into() },
                NO_SYSTEM,
            ),
            (refused(status::NOT_FOUND), NOT_FOUND),
            (refused(status::OUTSIDE), REFUSED),
            (refused(status::NO_SPACE), FULL),
            (refused(Status::DENIED), REFUSED),
            (not_delivered(Why::Deadline), DEADLINE),
            (not_delivered(Why::Dead), INTERRUPTED),
            (Error::KernelGone, INTERRUPTED),
        ] {
            let text = error.to_string();
            assert_eq!(Failure::from(error).code(), code, "{text}");
        }
    }

    #[test]
    fn what_others_say_cannot_drive_the_terminal() {
        let error = Error::Refused { status: status::IO, text: "\u{1b}[2J\n".into() };
        assert_eq!(Failure::from(error).to_string(), "\\u{1b}[2J\\n");
    }
}
