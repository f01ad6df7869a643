//! What to measure, and for how long.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::mechanism::{self, Mechanism, label};

/// The largest payload that every mechanism carries, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 4088;

/// What [`run`](crate::run) is to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Fewer and shorter blocks: under half a minute in all.
    pub quick: bool,
    /// Mechanisms to measure, by name (`rendez`) or by name and wait policy (`rendez-spin`). All if
    /// empty. The floor is always measured, since ratios need it, but gets a row only if it is named.
    pub only: Vec<String>,
    /// Payload sizes in bytes: multiples of 8, at most 4088.
    pub payloads: Vec<usize>,
    /// Numbers of cores: 1, 2, or both.
    pub cores: Vec<usize>,
    /// The executable to start as the partner process. It must hand the arguments after
    /// [`PARTNER`](crate::PARTNER) to [`partner`](crate::partner).
    pub exe: PathBuf,
}

impl Options {
    /// Everything, thoroughly: about two minutes.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            quick: false,
            only: Vec::new(),
            payloads: vec![8, 40],
            cores: vec![2, 1],
            exe: exe.into(),
        }
    }

    /// Checks everything that can be checked without starting anything, and finds the mechanisms.
    ///
    /// # Errors
    /// An unknown name, payload, or number of cores.
    pub(crate) fn selected(&self) -> Result<Vec<&'static dyn Mechanism>, Error> {
        if let Some(&bytes) =
            self.payloads.iter().find(|&&bytes| bytes == 0 || bytes % 8 != 0 || bytes > MAX_PAYLOAD)
        {
            return Err(Error::Payload { bytes });
        }
        if let Some(&cores) = self.cores.iter().find(|&&cores| cores != 1 && cores != 2) {
            return Err(Error::Cores { cores });
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

/// How long blocks are and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Rounds of one block of each mechanism.
    pub(crate) rounds: u32,
    /// Length of a mechanism's block.
    pub(crate) block: Duration,
    /// Length of the floor's measurement between two blocks.
    pub(crate) reference: Duration,
}

impl Plan {
    pub(crate) const FULL: Self =
        Self { rounds: 200, block: Duration::from_millis(10), reference: Duration::from_millis(2) };
    pub(crate) const QUICK: Self =
        Self { rounds: 60, block: Duration::from_millis(5), reference: Duration::from_millis(2) };
    pub(crate) const COMPARE: Self =
        Self { rounds: 80, block: Duration::from_millis(5), reference: Duration::from_millis(1) };
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
    fn only_selects_by_name() {
        let mut options = Options::new("/nowhere");
        options.only = vec!["pipe".into(), "futex".into()];
        let names: Vec<_> =
            options.selected().expect("both exist").iter().map(|one| one.name()).collect();
        assert_eq!(names, ["futex", "pipe"]);
    }

    #[test]
    fn payloads_and_cores_are_checked() {
        for bytes in [0, 7, 12, MAX_PAYLOAD + 8] {
            let mut options = Options::new("/nowhere");
            options.payloads = vec![8, bytes];
            assert!(matches!(options.selected(), Err(Error::Payload { bytes: b }) if b == bytes));
        }
        let mut options = Options::new("/nowhere");
        options.cores = vec![3];
        assert!(matches!(options.selected(), Err(Error::Cores { cores: 3 })));
    }
}
