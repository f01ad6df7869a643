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
/// The uid of the user whose system is meant, if it is neither one's own nor root's. A front door
/// that anybody else opened is not trusted.
pub const OWNER_VARIABLE: &str = "RENDEZ_OWNER";
/// Picks one of several systems.
pub const INSTANCE_VARIABLE: &str = "RENDEZ_INSTANCE";

/// The place of one system in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The runtime directory.
    pub directory: PathBuf,
    /// The system's name in it.
    pub instance: String,
    /// The uid whose system it is, if it is somebody else's; `None` for one's own, or root's.
    pub owner: Option<u32>,
}

/// A variable of the environment that says nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// An instance name that is not one.
    #[error("${INSTANCE_VARIABLE} is {0:?}; it must be 1 to 32 letters, digits, `-` or `_`")]
    Instance(String),
    /// An owner that is no uid.
    #[error("${OWNER_VARIABLE} is {0:?}; it must be a uid, as a number")]
    Owner(String),
}

impl Place {
    /// The place that `explicit` or the environment names.
    ///
    /// # Errors
    /// [`BadPlace`] if the instance's name, or the owner, is none.
    pub fn find(explicit: Option<&Path>) -> Result<Self, BadPlace> {
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
            return Err(BadPlace::Instance(instance));
        }
        let owner = match variable(OWNER_VARIABLE) {
            None => None,
            Some(text) => {
                let text = text.to_string_lossy();
                Some(text.parse().map_err(|_| BadPlace::Owner(text.into_owned()))?)
            }
        };
        Ok(Self { directory, instance, owner })
    }

    /// Whether a system of `uid`'s is one that is meant: this process's own user's, root's, who can
    /// do as it pleases anyhow, or [`Place::owner`]'s.
    #[must_use]
    pub fn trusts(&self, uid: u32) -> bool {
        uid == nix::unistd::geteuid().as_raw() || uid == 0 || self.owner == Some(uid)
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
        (found.uid() != own && self.owner != Some(found.uid())).then_some(found.uid())
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
