//! What to measure.

use std::path::PathBuf;

use crate::Error;
use crate::experiment::{self, Entry};
use crate::mechanism::{self, Mechanism, label};
use crate::report::Cores;

/// The largest payload, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;

/// What [`run`](crate::run) is to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Experiments, by name; the usual ones if empty.
    pub experiments: Vec<String>,
    /// Fewer and shorter blocks, fewer sizes: a first look.
    pub quick: bool,
    /// About how long all of it is to take together; each experiment's own idea if `None`.
    pub seconds: Option<u32>,
    /// Mechanisms to measure, by name (`rendez`) or by name and wait policy (`rendez-spin`). All if
    /// empty. The floor is always measured, since ratios need it, but gets no points unless it is
    /// named.
    pub only: Vec<String>,
    /// Payload sizes in bytes: multiples of 8, at most 16 MiB. Each experiment's own choice if empty.
    pub payloads: Vec<usize>,
    /// Numbers of cores. Each experiment's own choice if empty.
    pub cores: Vec<Cores>,
    /// The executable to start as the partner process. It must hand the arguments after
    /// [`PARTNER`](crate::PARTNER) to [`partner`](crate::partner).
    pub exe: PathBuf,
}

impl Options {
    /// The usual experiments, thoroughly: about two minutes.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            experiments: Vec::new(),
            quick: false,
            seconds: None,
            only: Vec::new(),
            payloads: Vec::new(),
            cores: Vec::new(),
            exe: exe.into(),
        }
    }

    /// Checks everything that can be checked without measuring.
    ///
    /// # Errors
    /// An unknown name (answered with the valid ones) or a payload that cannot be measured.
    pub fn check(&self) -> Result<(), Error> {
        self.entries()?;
        self.selected()?;
        Ok(())
    }

    /// The experiments to run.
    ///
    /// # Errors
    /// An unknown name.
    pub(crate) fn entries(&self) -> Result<Vec<&'static Entry>, Error> {
        let all = experiment::all();
        if let Some(name) = self.experiments.iter().find(|name| experiment::find(name).is_none()) {
            return Err(Error::UnknownExperiment {
                name: name.clone(),
                valid: all.iter().map(|entry| entry.name.to_owned()).collect(),
            });
        }
        Ok(all
            .iter()
            .filter(|entry| {
                if self.experiments.is_empty() {
                    entry.usual
                } else {
                    self.experiments.iter().any(|name| name == entry.name)
                }
            })
            .collect())
    }

    /// Checks everything that can be checked without starting anything, and finds the mechanisms.
    ///
    /// # Errors
    /// An unknown name or payload.
    pub(crate) fn selected(&self) -> Result<Vec<&'static dyn Mechanism>, Error> {
        if let Some(&bytes) =
            self.payloads.iter().find(|&&bytes| bytes == 0 || bytes % 8 != 0 || bytes > MAX_PAYLOAD)
        {
            return Err(Error::Payload { bytes });
        }
        let all = mechanism::all();
        for name in &self.only {
            if !all.iter().any(|one| matches(*one, name)) {
                return Err(Error::UnknownMechanism { name: name.clone(), valid: valid_names() });
            }
        }
        Ok(all
            .iter()
            .copied()
            .filter(|one| self.only.is_empty() || self.only.iter().any(|name| matches(*one, name)))
            .collect())
    }
}

fn matches(mechanism: &dyn Mechanism, name: &str) -> bool {
    mechanism.name() == name || label(mechanism) == name
}

/// Every name that `only` understands, without repetition.
fn valid_names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for mechanism in mechanism::all() {
        for name in [mechanism.name().to_owned(), label(*mechanism)] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{MAX_PAYLOAD, Options};
    use crate::Error;

    #[test]
    fn an_unknown_name_is_answered_with_the_valid_ones() {
        let mut options = Options::new("/nowhere");
        options.only = vec!["pipe".into(), "carrier-pigeon".into()];
        let error = options.selected().expect_err("nobody measures pigeons");
        let text = error.to_string();
        assert!(matches!(error, Error::UnknownMechanism { .. }));
        for name in ["carrier-pigeon", "floor", "futex", "pipe", "unix-stream", "unix-seqpacket"] {
            assert!(text.contains(name), "{text} should name {name}");
        }
    }

    #[test]
    fn experiments_are_selected_by_name() {
        let mut options = Options::new("/nowhere");
        assert!(options.entries().expect("the usual ones").iter().all(|entry| entry.usual));
        options.experiments = vec!["size".into()];
        let names: Vec<_> =
            options.entries().expect("it exists").iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["size"]);
        options.experiments = vec!["colour".into()];
        let text = options.entries().expect_err("not measured").to_string();
        assert!(text.contains("colour") && text.contains("size"), "{text}");
    }

    #[test]
    fn only_selects_by_name() {
        let mut options = Options::new("/nowhere");
        options.only = vec!["pipe".into(), "futex".into()];
        let names: Vec<_> =
            options.selected().expect("both exist").iter().map(|one| one.name()).collect();
        assert_eq!(names, ["futex", "pipe"]);
    }

    #[test]
    fn payloads_are_checked() {
        for bytes in [0, 7, 12, MAX_PAYLOAD + 8] {
            let mut options = Options::new("/nowhere");
            options.payloads = vec![8, bytes];
            assert!(matches!(options.selected(), Err(Error::Payload { bytes: b }) if b == bytes));
        }
    }
}
