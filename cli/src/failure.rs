//! How a command fails: an exit code that scripts can rely on, and words for people.

use rendez::{Error, Status, Why};
use rendez_protocol::kernel::KernelError;
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
Exit codes:
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
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSystem { .. } => NO_SYSTEM,
            Error::Refused { status, .. } => code_of(*status),
            Error::NotGiven { .. } => REFUSED,
            Error::Send(error) if error.why() == Why::Deadline => DEADLINE,
            Error::Send(error) if error.why() == Why::Denied => REFUSED,
            Error::Send(error) if matches!(error.why(), Why::Full | Why::Quota) => FULL,
            Error::Send(_) | Error::KernelGone => INTERRUPTED,
            Error::KernelSilent { .. } => DEADLINE,
            Error::Kernel(KernelError::MissingRights { .. } | KernelError::Denied(_)) => REFUSED,
            Error::Kernel(KernelError::Quota { .. }) => FULL,
            Error::Kernel(KernelError::Dead) => INTERRUPTED,
            _ => FAILED,
        };
        Self::new(code, error.to_string())
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
