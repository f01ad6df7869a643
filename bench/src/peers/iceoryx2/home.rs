//! The names that iceoryx2 needs, and how they go again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ::iceoryx2::node::{Node, NodeBuilder};
use ::iceoryx2::prelude::{
    Config, FileName, LogLevel, SemanticString, Service, ServiceName, SignalHandlingMode,
    set_log_level,
};

use super::super::other;

/// Where it keeps its shared memory, whatever its configuration says.
const SHARED_MEMORY: &str = "/dev/shm";
/// What the names of every run begin with.
const PREFIX: &str = "rendez-bench-iceoryx2-";

pub(super) fn name(text: &str) -> io::Result<ServiceName> {
    ServiceName::new(text).map_err(other)
}

/// This process among those that use that directory.
pub(super) fn node<S: Service>(directory: &Path) -> io::Result<Node<S>> {
    set_log_level(LogLevel::Fatal);
    let bytes = directory.as_os_str().as_encoded_bytes();
    let mut config = Config::default();
    config.global.set_root_path(&SemanticString::new(bytes).map_err(other)?);
    config.global.prefix = FileName::new(file_name(directory).as_bytes()).map_err(other)?;
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create()
        .map_err(other)
}

fn file_name(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where the names of one run lie. Who lets go of it last removes them.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) directory: PathBuf,
    /// The directory, open and locked: shared by both processes for as long as they use it.
    lock: File,
}

impl Home {
    /// A new one.
    pub(super) fn new() -> io::Result<Self> {
        sweep_abandoned();
        loop {
            let home = Self::enter(tempfile::Builder::new().prefix(PREFIX).tempdir()?.keep())?;
            // Before it was locked, it looked abandoned to anybody.
            if home.directory.exists() {
                return Ok(home);
            }
        }
    }

    /// One that the other process has made.
    pub(super) fn enter(directory: PathBuf) -> io::Result<Self> {
        let lock = File::open(&directory)?;
        lock.lock_shared()?;
        Ok(Self { directory, lock })
    }

    pub(super) fn node<S: Service>(&self) -> io::Result<Node<S>> {
        node(&self.directory)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.lock.try_lock().is_ok() {
            sweep(&self.directory);
        }
    }
}

/// Removes all that belongs to a home which nobody uses.
fn sweep(directory: &Path) {
    let beginning = file_name(directory);
    for entry in fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&beginning) {
            // What cannot be removed now, the next run tries again: the directory is still there.
            if fs::remove_file(entry.path()).is_err() {
                return;
            }
        }
    }
    // As above.
    let _ = fs::remove_dir_all(directory);
}

/// Removes what runs have left that were killed.
fn sweep_abandoned() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(directory) = File::open(entry.path())
            && directory.try_lock().is_ok()
        {
            sweep(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Home, SHARED_MEMORY, file_name, sweep_abandoned};
    use ::iceoryx2::prelude::ipc;
    use std::fs;
    use std::path::Path;

    #[test]
    fn who_leaves_last_sweeps() {
        let one = Home::new().expect("a home");
        let directory = one.directory.clone();
        let shared = Path::new(SHARED_MEMORY).join(format!("{}x", file_name(&directory)));
        let node = one.node::<ipc::Service>().expect("a node");
        fs::write(&shared, "left").expect("a file");
        let other = Home::enter(directory.clone()).expect("the same home");
        drop(node);
        drop(one);
        sweep_abandoned();
        assert!(directory.exists() && shared.exists(), "somebody is still there");
        drop(other);
        assert!(!directory.exists() && !shared.exists(), "nobody is there any more");
    }

    #[test]
    fn what_was_abandoned_is_swept() {
        let home = Home::new().expect("a home");
        let directory = home.directory.clone();
        let shared = Path::new(SHARED_MEMORY).join(format!("{}x", file_name(&directory)));
        fs::write(&shared, "left").expect("a file");
        home.lock.unlock().expect("unlocked, as by a process that was killed");
        sweep_abandoned();
        assert!(!directory.exists() && !shared.exists());
    }
}
