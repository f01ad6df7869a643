//! What can be said on the command line.

use crate::failure::EXIT_CODES;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// What `--json` says when it names no file.
pub const STANDARD_OUTPUT: &str = "-";

/// Synchronous message passing between isolated processes.
#[derive(Debug, Parser)]
#[command(name = "rendez", version, about, after_help = EXIT_CODES, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// Say it in JSON, for scripts
    // An optional value, so that `bench` can have a `--json FILE` of its own.
    #[arg(long, global = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = STANDARD_OUTPUT, hide_default_value = true, value_name = "-")]
    pub json: Option<PathBuf>,
    /// Where the front door is [default: $RENDEZ_RUNTIME_DIR, $RUNTIME_DIRECTORY,
    /// $XDG_RUNTIME_DIR/rendez, or a place of the user's own]
    #[arg(long, global = true, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Whether standard output is to be JSON.
    #[must_use]
    pub fn wants_json(&self) -> bool {
        self.json.as_ref().is_some_and(|file| file.as_os_str() == STANDARD_OUTPUT)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a system and stay with it; ends with SIGINT, SIGTERM or `rendez down`
    Up(Up),
    /// Stop the running system
    Down,
    /// Whether a system is running, and how its servers are
    Status,
    /// The tasks of the system, and what each waits for
    Ps,
    /// Start a server of the system again
    Restart {
        /// Its name: name, file or signal
        server: String,
    },
    /// List a path of the name space
    Ls {
        /// The path; /file and below is the file server
        #[arg(default_value = "/")]
        path: String,
    },
    /// Write a file to standard output
    Cat {
        /// Its path: /file/…
        path: String,
    },
    /// Copy a local file (or, with -, standard input) into the name space
    Put {
        /// The local file
        from: PathBuf,
        /// The path: /file/…
        to: String,
    },
    /// Copy a file out of the name space
    Get {
        /// Its path: /file/…
        from: String,
        /// The local file (or - for standard output)
        to: PathBuf,
    },
    /// Remove a file, or an empty directory
    Rm {
        /// Its path: /file/…
        path: String,
    },
    /// Make a directory
    Mkdir {
        /// Its path: /file/…
        path: String,
    },
    /// What is known of a name or file
    Stat {
        /// Its path
        path: String,
    },
    /// Named signals: raise, wait, list
    Signal(Signal),
    /// Start a program as a task with just the capabilities that are given
    Run(Run),
    /// The main job, on real input, with everything that can go wrong going wrong
    Demo(Demo),
    /// Measure what a send costs here, against the classical mechanisms
    Bench(Bench),
    /// What this machine has and lacks, and what that costs
    Doctor,
    /// Print a script that completes this command in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// This executable as the kernel (started by `up`)
    #[command(hide = true, name = "part-kernel")]
    PartKernel,
    /// This executable as the supervisor (started by `up`)
    #[command(hide = true, name = "part-supervisor")]
    PartSupervisor(Served),
    /// This executable as one of the servers (started by the supervisor)
    #[command(hide = true, name = "part-server")]
    PartServer {
        /// Which
        server: String,
        /// What the file server serves
        #[command(flatten)]
        served: Served,
    },
    /// The other process of a measurement (started by `bench`)
    #[command(hide = true, name = "bench-partner")]
    BenchPartner {
        /// What it is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// What the file server serves.
#[derive(Args, Clone, Debug, Default)]
pub struct Served {
    /// The directory that the file server serves; without it, a file system in memory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `rendez up`.
#[derive(Args, Debug)]
pub struct Up {
    /// What the file server serves
    #[command(flatten)]
    pub served: Served,
}

/// `rendez signal`.
#[derive(Args, Debug)]
pub struct Signal {
    /// What to do
    #[command(subcommand)]
    pub action: SignalAction,
}

/// What to do with signals.
#[derive(Debug, Subcommand)]
pub enum SignalAction {
    /// Raise a signal; says how many subscribers it reached
    Raise {
        /// Its name
        name: String,
        /// Only for members of this group
        #[arg(long, default_value = "")]
        group: String,
    },
    /// Wait until a signal is raised
    Wait {
        /// Its name
        name: String,
        /// Wait as a member of this group
        #[arg(long)]
        group: Option<String>,
        /// How long, in ms
        #[arg(long, default_value_t = 10_000)]
        timeout_ms: u64,
    },
    /// The signals that somebody subscribes to, and the groups with members
    List,
}

/// `rendez run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Give the task a capability: NAME=PATH:RIGHTS, where PATH is registered in the name space and
    /// RIGHTS are letters: s send, r read, w write, n register, x manage, m mint, g grant, t watch,
    /// i inspect, p post. Example: files=/file:sr
    #[arg(long, value_name = "NAME=PATH:RIGHTS")]
    pub give: Vec<String>,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    pub command: Vec<std::ffi::OsString>,
}

/// `rendez demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// The tree to copy [default: the current directory, its ignore rules honoured]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `rendez bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Under 30 seconds
    #[arg(long)]
    pub quick: bool,
    /// Only these mechanisms, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub only: Vec<String>,
    /// Write the report to FILE as JSON, beside the table; - for standard output, instead of it
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
