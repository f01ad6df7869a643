//! Where a system's front door is.
//!
//! The runtime directory is the first of: what the caller names (`--runtime-dir`),
//! `$RENDEZ_RUNTIME_DIR`, `$RUNTIME_DIRECTORY` (its first entry; systemd), `$XDG_RUNTIME_DIR/rendez`,
//! `/run/rendez` for root, else a directory of the user's own, mode 0700, under the temporary
//! directory. In it, each system has a socket and a lock, named after `$RENDEZ_INSTANCE`
//! (`default` if unset).

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names the runtime directory.
pub const DIRECTORY_VARIABLE: &str = "RENDEZ_RUNTIME_DIR";
/// Picks one of several systems.
pub const INSTANCE_VARIABLE: &str = "RENDEZ_INSTANCE";

/// The place of one system in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The runtime directory.
    pub directory: PathBuf,
    /// The system's name in it.
    pub instance: String,
}

/// An instance name that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("${INSTANCE_VARIABLE} is {0:?}; it must be 1 to 32 letters, digits, `-` or `_`")]
pub struct BadInstance(pub String);

impl Place {
    /// The place that `explicit` or the environment names.
    ///
    /// # Errors
    /// [`BadInstance`] if the instance's name is not one.
    pub fn find(explicit: Option<&Path>) -> Result<Self, BadInstance> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = explicit
            .map(Path::to_path_buf)
            .or_else(|| directory_from(variable, nix::unistd::geteuid().as_raw()))
            .unwrap_or_default();
        let instance = match variable(INSTANCE_VARIABLE) {
            None => "default".to_owned(),
            Some(name) => name.to_string_lossy().into_owned(),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if instance.is_empty() || instance.len() > 32 || !instance.chars().all(good) {
            return Err(BadInstance(instance));
        }
        Ok(Self { directory, instance })
    }

    /// The user whose the directory is, if that is another one and the directory is the one in the
    /// temporary directory: there anybody can have made it first.
    #[must_use]
    pub fn stranger(&self) -> Option<u32> {
        let own = nix::unistd::geteuid().as_raw();
        if self.directory != temporary(own) {
            return None;
        }
        let found = std::fs::symlink_metadata(&self.directory).ok()?;
        (found.uid() != own).then_some(found.uid())
    }

    /// The front door's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.instance))
    }

    /// The lock that a running system holds.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.directory.join(format!("{}.lock", self.instance))
    }
}

fn directory_from(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Option<PathBuf> {
    if let Some(directory) = variable(DIRECTORY_VARIABLE) {
        return Some(directory.into());
    }
    if let Some(directories) = variable("RUNTIME_DIRECTORY")
        && let Some(first) = std::env::split_paths(&directories).find(|p| !p.as_os_str().is_empty())
    {
        return Some(first);
    }
    if let Some(directory) = variable("XDG_RUNTIME_DIR") {
        return Some(PathBuf::from(directory).join("rendez"));
    }
    if uid == 0 {
        return Some("/run/rendez".into());
    }
    Some(temporary(uid))
}

fn temporary(uid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("rendez-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::directory_from;
    use std::ffi::OsString;
    use std::path::PathBuf;

    fn found(set: &[(&str, &str)], uid: u32) -> PathBuf {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        directory_from(variable, uid).expect("there is always one")
    }

    #[test]
    fn the_first_that_is_set_counts() {
        let all = [
            ("RENDEZ_RUNTIME_DIR", "/a"),
            ("RUNTIME_DIRECTORY", "/b:/c"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ];
        assert_eq!(found(&all, 7), PathBuf::from("/a"));
        assert_eq!(found(&all[1..], 7), PathBuf::from("/b"));
        assert_eq!(found(&all[2..], 7), PathBuf::from("/run/user/7/rendez"));
        assert_eq!(found(&[], 0), PathBuf::from("/run/rendez"));
        assert!(found(&[], 7).ends_with("rendez-7"));
    }
}
