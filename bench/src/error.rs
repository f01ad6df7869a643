//! What can go wrong in the laboratory, and what to do about it.

use std::io;

/// Why a run of the laboratory failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Options::only`](crate::Options::only) names something that is not there.
    #[error("there is no mechanism called {name:?}; choose from: {}", valid.join(", "))]
    UnknownMechanism {
        /// What was asked for.
        name: String,
        /// All names that would have been understood.
        valid: Vec<String>,
    },
    /// [`Options::experiments`](crate::Options::experiments) names something that is not there.
    #[error("there is no experiment called {name:?}; choose from: {}", valid.join(", "))]
    UnknownExperiment {
        /// What was asked for.
        name: String,
        /// All names that would have been understood.
        valid: Vec<String>,
    },
    /// A payload that cannot be measured.
    #[error(
        "a payload of {bytes} bytes cannot be measured; take a multiple of 8 from 8 to {}",
        crate::options::MAX_PAYLOAD
    )]
    Payload {
        /// What was asked for.
        bytes: usize,
    },
    /// The partner process of a mechanism reported an error, or ended.
    #[error("{mechanism}: its partner process failed: {reason}")]
    Partner {
        /// Label of the mechanism.
        mechanism: String,
        /// What it said, or how it ended.
        reason: String,
    },
    /// The hidden subcommand was started with arguments that it does not understand. It is not for
    /// use by hand.
    #[error("bench-partner is started by `rendez bench` only ({reason})")]
    Arguments {
        /// What was wrong.
        reason: String,
    },
    /// The round trips of a mechanism stopped; the watchdog ended its partner.
    #[error("{mechanism}: no progress for {seconds} s, given up")]
    Stuck {
        /// Label of the mechanism.
        mechanism: String,
        /// How long the watchdog waited.
        seconds: u64,
    },
    /// A file that was to be a report is none.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// Linux refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What Linux said.
        source: io::Error,
    },
}

impl Error {
    /// Wraps what Linux said together with what was being done.
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }
}
