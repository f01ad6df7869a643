//! The walls around a started process: what it may do of Linux, beside what its capabilities let it
//! do of Rendez.
//!
//! A [`Sandbox`] is data, a table of the manifest. Its default is the strong setting: no files but
//! the program's own and the libraries it is loaded from, no sockets, a list of system calls without
//! those that look into other processes or change the machine, no signals to processes outside, and
//! no process of the same user may trace it. [`Sandbox::prepare`] turns it, in the parent, into a
//! [`Prepared`] one, which [`launch`](crate::launch) puts up in the child between fork and exec. So
//! it holds before the program's first instruction and for whatever it starts.
//!
//! | wall | made of | what it keeps out |
//! |---|---|---|
//! | files | Landlock | files, directories, devices; tracing of processes outside; abstract Unix sockets |
//! | system calls | seccomp | `ptrace`, `process_vm_*`, mounting, namespaces, modules, `bpf`, and all that is not on the list |
//! | network | seccomp, Landlock | making sockets at all; or all but Unix ones |
//! | user | `setresuid` | everything that another uid's is; needs root |
//! | namespaces | `unshare` | the host's network, host name, System V objects |
//! | dumpable | `PR_SET_DUMPABLE` | tracing, and reading of memory, by other processes of the user |
//!
//! What a machine lacks is named by [`Sandbox::lacks`]; whether a process starts without it is the
//! manifest's decision ([`Missing`]).

mod calls;
mod lacks;
mod prepare;

pub use lacks::{Lack, landlock_version, user_namespaces};
pub use prepare::Prepared;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The walls around one process. The default is the strong setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sandbox {
    /// Whether there are any walls. Without, nothing below is looked at.
    pub enabled: bool,
    /// What it may open.
    pub files: Files,
    /// Which sockets it may make.
    pub network: Network,
    /// Which system calls it may make.
    pub system_calls: SystemCalls,
    /// What it shall have of its own. Needs user namespaces, or root.
    pub namespaces: Vec<Namespace>,
    /// The uid that it shall run as, and the gid. Needs root.
    pub user: Option<User>,
    /// Whether other processes of its user may trace it and read its memory, and whether it leaves
    /// core files.
    pub dumpable: bool,
    /// What is done if this machine cannot put up one of the walls.
    pub missing: Missing,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            enabled: true,
            files: Files::default(),
            network: Network::None,
            system_calls: SystemCalls::Server,
            namespaces: Vec::new(),
            user: None,
            dumpable: false,
            missing: Missing::Warn,
        }
    }
}

impl Sandbox {
    /// No walls.
    #[must_use]
    pub fn open() -> Self {
        Self { enabled: false, ..Self::default() }
    }
}

/// Paths that a process may open, with all that is below them. Its program, the libraries that
/// programs are loaded with, and `/dev/null`, `zero`, `full`, `random` and `urandom` are there anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Files {
    /// Whether all files may be opened, as far as Linux's own permissions go.
    pub all: bool,
    /// To read.
    pub read: Vec<PathBuf>,
    /// To read and write, and to make and remove what is below.
    pub write: Vec<PathBuf>,
    /// To read and execute.
    pub execute: Vec<PathBuf>,
}

/// Which sockets a process may make. It has its kernel socket in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// None but pairs.
    #[default]
    None,
    /// Unix sockets: it can come in at front doors, too, and connect to any path before Landlock 9.
    Unix,
    /// All sorts.
    All,
}

/// Which system calls a process may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// What servers need: files, memory, threads, time, processes of their own. All others are
    /// answered with `EPERM`.
    #[default]
    Server,
    /// All.
    All,
}

/// A Linux namespace of a process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// Users: it can do nothing as root elsewhere, even if it becomes root here.
    User,
    /// Network: it has no interface.
    Network,
    /// System V objects and POSIX message queues.
    Ipc,
    /// The host's name.
    Host,
    /// Control groups.
    ControlGroup,
}

/// Whom a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number. It is in no other group.
    pub gid: u32,
}

/// What is done about a wall that this machine cannot put up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The process starts with the others, and it is said which one is missing.
    #[default]
    Warn,
    /// It does not start.
    Refuse,
}

/// What a process may use of the machine. `None` leaves what the parent has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Resources {
    /// Bytes of address space (`RLIMIT_AS`): shared segments count with it.
    pub memory: Option<u64>,
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub descriptors: Option<u64>,
    /// Processes and threads of its user, all together (`RLIMIT_NPROC`).
    pub processes: Option<u64>,
    /// Seconds of processor time, after which it is killed (`RLIMIT_CPU`).
    pub cpu_seconds: Option<u64>,
    /// Bytes of a file that it writes (`RLIMIT_FSIZE`).
    pub file_size: Option<u64>,
    /// Bytes of a core file (`RLIMIT_CORE`).
    pub core: Option<u64>,
}

/// Why walls could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that the sandbox names is not there.
    #[error("sandbox: {path}: {error}; name only what exists, or make it first")]
    Path {
        /// Which.
        path: PathBuf,
        /// What Linux said.
        error: String,
    },
    /// The program was not found.
    #[error("the program {program:?} is not there (a name without / is looked for in PATH)")]
    Program {
        /// Its name.
        program: String,
    },
    /// This machine lacks something, and the sandbox says `missing = "refuse"`.
    #[error("sandbox: this machine lacks {}; with missing = \"warn\" it starts without", .0.join(", "))]
    Lacks(Vec<String>),
    /// Linux, or a library, refused something.
    #[error("sandbox: {doing}: {error}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What was said.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::{Network, Sandbox};

    #[test]
    fn the_default_is_the_strong_setting() {
        let sandbox: Sandbox = toml::from_str("").unwrap();
        assert_eq!(sandbox, Sandbox::default());
        assert!(sandbox.enabled && !sandbox.dumpable && sandbox.network == Network::None);
    }

    #[test]
    fn a_table_of_the_manifest_is_read_and_a_slip_is_named() {
        let text = "network = 'unix'\nnamespaces = ['user', 'ipc']\n[files]\nread = ['/etc']\n";
        let sandbox: Sandbox = toml::from_str(text).unwrap();
        assert_eq!((sandbox.network, sandbox.namespaces.len()), (Network::Unix, 2));
        let error = toml::from_str::<Sandbox>("netwrok = 'none'").unwrap_err().to_string();
        assert!(error.contains("netwrok") && error.contains("network"), "{error}");
        assert!(toml::from_str::<Sandbox>("network = 'some'").is_err());
    }
}
