//! What can be said on the command line.

mod bench;

pub use bench::{Bench, BenchAction};

use crate::failure::EXIT_CODES;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use rendez::Rights;
use rendez::protocol::injection::{Action, Phase};
use rendez_protocol::limit::{LABEL_BYTES_MAX, PATH_BYTES_MAX};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

/// What `--json` says when it names no file.
pub const STANDARD_OUTPUT: &str = "-";

/// Synchronous message passing between isolated processes.
#[derive(Debug, Parser)]
#[command(name = "rendez", version, about, after_help = EXIT_CODES, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// Say it in JSON on standard output, for scripts; to a FILE with `bench` alone
    // An optional value, so that `bench` can have a `--json FILE` of its own.
    #[arg(long, global = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = STANDARD_OUTPUT, hide_default_value = true, value_name = "FILE")]
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

impl Arguments {
    /// Whether it is `bench` that is to be done.
    #[must_use]
    pub const fn is_bench(&self) -> bool {
        matches!(self.command, Command::Bench(_))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a system and stay with it; ends with SIGINT, SIGTERM or `rendez down`
    Up(Up),
    /// Check, explain or show a manifest: which tasks a system consists of
    Manifest(Manifest),
    /// Stop the running system
    Down,
    /// Whether a system is running, and how its servers are
    Status,
    /// The tasks of the system, and what each waits for
    Ps,
    /// Tasks, endpoints, who may connect where, who waits for whom and who waits in a circle
    Graph(GraphArguments),
    /// What a task has: its quotas, connections and capabilities; or what a name leads to
    Inspect {
        /// A task, by its number or its name, or a path of the name space; without it, this command
        what: Option<Inspected>,
    },
    /// What crosses each connection, how long it takes, who wakes whom and who waits for whom
    Top(Top),
    /// Start a task of the system again
    Restart {
        /// Its name in the manifest: name, file, signal, or one of yours
        #[arg(value_name = "TASK")]
        server: String,
    },
    /// How tasks of the system came to their ends: what they were doing, their last words
    Deaths {
        /// Only those of this task
        name: Option<String>,
        /// How many, the latest
        #[arg(short = 'n', long, default_value = "10", value_name = "N")]
        count: NonZeroU32,
    },
    /// List a path of the name space
    Ls {
        /// The path; /file and below is the file server
        #[arg(default_value = "/")]
        path: NamePath,
        /// Kinds and sizes too
        #[arg(short, long)]
        long: bool,
    },
    /// Write files to standard output
    Cat {
        /// Their paths: /file/…
        #[arg(required = true)]
        paths: Vec<NamePath>,
    },
    /// Copy a local file (or, with -, standard input) into the name space
    Put {
        /// The local file
        from: PathBuf,
        /// The path: /file/…; in a directory, the file keeps its name
        to: NamePath,
    },
    /// Copy a file out of the name space
    Get {
        /// Its path: /file/…
        from: NamePath,
        /// The local file (or - for standard output); in a directory, the file keeps its name
        to: PathBuf,
    },
    /// Remove files, or empty directories
    Rm {
        /// Their paths: /file/…
        #[arg(required = true)]
        paths: Vec<NamePath>,
    },
    /// Make directories
    Mkdir {
        /// Their paths: /file/…
        #[arg(required = true)]
        paths: Vec<NamePath>,
        /// Make those above it too; it may be there already
        #[arg(short, long)]
        parents: bool,
    },
    /// What is known of a name or file
    Stat {
        /// Its path
        path: NamePath,
    },
    /// Named signals: raise, wait, list
    Signal(Signal),
    /// Put a fault into a task's transactions, to see how those around it bear it
    Inject(Inject),
    /// Run a recording of a kernel again, and compare
    Replay(Replay),
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
    PartKernel {
        /// It is given a file to record to, which may become so long, in bytes
        #[arg(long)]
        record_bytes: Option<u64>,
    },
    /// This executable as the supervisor (started by `up`)
    #[command(hide = true, name = "part-supervisor")]
    PartSupervisor(Composed),
    /// This executable as one of the servers (started by the supervisor)
    #[command(hide = true, name = "part-server")]
    PartServer {
        /// Which
        server: String,
        /// What the file server serves
        #[command(flatten)]
        served: Served,
    },
    /// A process of the demonstration (started by `demo`)
    #[command(hide = true, name = "demo-part")]
    DemoPart {
        /// Which
        part: String,
        /// What it is told
        arguments: Vec<PathBuf>,
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

/// What a system consists of, as `up` tells the supervisor; the manifest itself is its standard
/// input.
#[derive(Args, Clone, Debug)]
pub struct Composed {
    /// What the manifest is called
    #[arg(long)]
    pub manifest: String,
    /// From where the files that it names are found
    #[arg(long)]
    pub base: PathBuf,
    /// What the file server serves
    #[command(flatten)]
    pub served: Served,
    /// Whom the front door lets in, whatever the manifest says
    #[arg(long)]
    pub policy: Option<PolicyName>,
}

/// `rendez manifest`.
#[derive(Args, Debug)]
pub struct Manifest {
    /// What to do
    #[command(subcommand)]
    pub action: ManifestAction,
}

/// What to do with a manifest.
#[derive(Debug, Subcommand)]
pub enum ManifestAction {
    /// Say what is wrong with it, and where
    Check {
        /// The manifest
        file: PathBuf,
    },
    /// Say what it means: what is started, in which order, with which authority
    Explain {
        /// The manifest; without it, the standard one
        file: Option<PathBuf>,
    },
    /// Print the standard manifest, which `up` takes if it is given none
    Show,
}

/// `rendez up`.
#[derive(Args, Debug)]
#[command(after_help = UP_HELP)]
pub struct Up {
    /// The manifest: which tasks the system consists of [default: name, file and signal server]
    pub manifest: Option<PathBuf>,
    /// What the file server serves
    #[command(flatten)]
    pub served: Served,
    /// Where the kernel's requests are recorded
    #[command(flatten)]
    pub recording: Recording,
    /// What commands in a shell may do: little, operator, or a FILE of rules by uid [default: what
    /// the manifest says, else little]
    #[arg(long, value_name = "NAME|FILE")]
    pub policy: Option<PolicyName>,
}

const UP_HELP: &str = "\
The front door's policy says whom it lets in, by uid, and what they are given:
  little    your own processes: look names up, use servers, see how the servers are
  operator  your own processes: all that there is, to register names, to restart and stop, and to
            look at tasks (ps, top, graph, inspect) and inject faults into them
  FILE      rules in TOML, for other users too; docs/guide/quotas-and-the-front-door.md

What is written with a `/` or a `.` is a FILE.";

/// A policy of the front door, built in or in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyName {
    /// The default.
    Little,
    /// Everything for one's own processes.
    Operator,
    /// What this file says.
    File(PathBuf),
}

impl PolicyName {
    /// The same as an argument.
    #[must_use]
    pub fn argument(&self) -> &std::ffi::OsStr {
        match self {
            Self::Little => "little".as_ref(),
            Self::Operator => "operator".as_ref(),
            Self::File(path) => path.as_os_str(),
        }
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "little" => Ok(Self::Little),
            "operator" => Ok(Self::Operator),
            file if file.contains(['/', '.']) => Ok(Self::File(file.into())),
            _ => Err("it is `little`, `operator`, or a file: ./NAME".into()),
        }
    }
}

/// Where the kernel records what it is asked.
#[derive(Args, Clone, Debug)]
pub struct Recording {
    /// Record all that the kernel is told to a new FILE, for `rendez replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// How long the recording may become, in MiB; the system goes on without it
    #[arg(long, value_name = "MIB", default_value_t = 1024, requires = "record")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub record_limit: u32,
}

/// `rendez replay`.
#[derive(Args, Debug)]
#[command(after_help = REPLAY_HELP)]
pub struct Replay {
    /// The recording
    pub file: PathBuf,
    /// Check what must always hold after every Nth step; 0 for never
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub check_every: u64,
    /// Say each step, and what came of it, from this one on
    #[arg(long, value_name = "STEP", num_args = 0..=1, default_missing_value = "1")]
    pub show: Option<u64>,
}

const REPLAY_HELP: &str = "\
The kernel's logic is run again on what was recorded, without any process, and must come to the same
effects, bit for bit. docs/guide/recording.md says what a recording holds, and what it does not.";

/// `rendez graph`.
#[derive(Debug, Args)]
pub struct GraphArguments {
    /// In the DOT language, for Graphviz: rendez graph --dot | dot -Tsvg -o graph.svg
    #[arg(long)]
    pub dot: bool,
}

/// `rendez top`.
#[derive(Args, Debug)]
#[command(after_help = TOP_HELP)]
pub struct Top {
    /// How long each look lasts, in ms
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u32).range(50..=60_000))]
    pub interval: u32,
    /// How many looks; without it, one, or on a terminal as many as you like
    #[arg(long, value_name = "N")]
    pub iterations: Option<NonZeroU32>,
    /// What comes first
    #[arg(long, value_enum, default_value_t, value_name = "KEY")]
    pub sort: SortKey,
}

/// What the connections are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SortKey {
    /// Transactions a second
    #[default]
    Rate,
    /// Bytes a second, both ways
    Bytes,
    /// What 99 in 100 round trips stay below
    #[value(name = "rtt")]
    RoundTrip,
    /// What 99 in 100 service times stay below
    Service,
    /// Wake-ups a second
    Wakes,
    /// The server's name, then the client's
    Name,
}

impl SortKey {
    /// The one after it, in a circle.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::RoundTrip,
            Self::RoundTrip => Self::Service,
            Self::Service => Self::Wakes,
            Self::Wakes => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::RoundTrip => "rtt",
            Self::Service => "service",
            Self::Wakes => "wakes",
            Self::Name => "name",
        }
    }
}

const TOP_HELP: &str = "\
On a terminal: q quits, p pauses, s sorts by another key, r reverses, the arrows scroll, + and -
change the interval. In a pipe: tables; with --json, one document for each look.

It reads what tasks count of themselves. That disturbs nobody; and a task that lies about itself is
believed. docs/guide/observing.md says what each number means.";

/// `rendez signal`.
#[derive(Args, Debug)]
pub struct Signal {
    /// What to do
    #[command(subcommand)]
    pub action: SignalAction,
}

/// `rendez inject`.
#[derive(Args, Debug)]
#[command(after_help = "\
Phases, in the order of a transaction:
  now                at once, whatever the task does (kill and stop only)
  before-publish     client: the request is complete and not in the ring yet
  published          client: it is in the ring, a sleeping server not woken yet
  before-taken       server: it sees the request and has not taken it
  taken              server: it has taken it, no handler has seen it
  in-handler         server: the handler is done, the reply is not in the ring yet
  reply-published    server: it is in the ring, a sleeping client not woken yet
  before-take-reply  client: the reply is there and has not been taken

A fault strikes once. It needs the right INJECT on the kernel, which `rendez up --policy operator`
gives to your own commands.

  rendez inject file taken kill          the file server dies with the next request taken
  rendez inject file before-taken delay=200 --nth 5
  rendez inject 7.0 published drop       task 7.0's next request is withdrawn in the ring
  rendez inject file --list")]
pub struct Inject {
    /// The task: its name or number, as `rendez ps` shows them
    pub task: String,
    /// Where in a transaction
    #[arg(required_unless_present_any = ["list", "cancel"], requires = "action")]
    pub phase: Option<Phase>,
    /// What happens there: kill, stop, drop, or delay=MS
    #[arg(value_parser = parse_action)]
    pub action: Option<Action>,
    /// In which transaction, of those that get there from now on: 1 for the next
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub nth: u32,
    /// List what has not struck yet
    #[arg(long, conflicts_with_all = ["phase", "cancel"])]
    pub list: bool,
    /// Take one back that has not struck yet
    #[arg(long, value_name = "NUMBER", conflicts_with = "phase")]
    pub cancel: Option<u32>,
}

fn parse_action(text: &str) -> Result<Action, String> {
    match text {
        "kill" => Ok(Action::Kill),
        "stop" => Ok(Action::Stop),
        "drop" => Ok(Action::Drop),
        other => match other.strip_prefix("delay=").map(str::parse) {
            Some(Ok(milliseconds)) => Ok(Action::Delay { milliseconds }),
            Some(Err(_)) => Err("a delay is written delay=MS, in whole milliseconds".into()),
            None => Err("there are kill, stop, drop and delay=MS".into()),
        },
    }
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
        #[arg(long, default_value_t = 10_000, value_name = "MS")]
        timeout_ms: u64,
    },
    /// The signals that somebody subscribes to, and the groups with members
    List,
}

/// `rendez run`.
#[derive(Args, Debug)]
#[command(after_help = RUN_HELP)]
pub struct Run {
    /// Give the task a capability: what is registered under PATH, with these RIGHTS and no others
    #[arg(long, value_name = "NAME=PATH:RIGHTS")]
    pub give: Vec<Gift>,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

const RUN_HELP: &str = "\
RIGHTS are letters:
  s  connect and send (r, w, n and x bring it with them: they are exercised by sending)
  r  read what the server keeps        w  change it
  n  register, define                  x  manage the server
  m  derive further capabilities       g  let it travel in messages
  t  be told of its death              i  look at its state
  p  post notifications                v  receive: serve an endpoint
  k  send the task POSIX signals       j  inject faults into it
  a  map a region for reading          b  map it for writing

The program finds what it was given by NAME. With a capability named `name` (the name server) it
can look paths up:

  rendez run --give name=/name:r --give files=/file:rw -- rendez ls /file
  rendez run --give register=/name:rn -- ./a-server-that-registers-itself

A right that cannot be had is an error, and nothing is started. The exit code is the program's,
128 + N if signal N killed it, 126 or 127 if it could not be started.

What is given bounds what the task may do over Rendez. A process of the same user can still open the
front door by itself; what separates the two is what separates their processes.";

/// `rendez demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// The tree to copy [default: the current directory, its ignore rules honoured]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A path of the name space: it begins with `/`, and has no empty or `.` components any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePath(String);

impl NamePath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NamePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NamePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a path is missing: `/` is the top of the name space".into());
        }
        let Some(below) = text.strip_prefix('/') else {
            return Err("a path of the name space begins with `/`: the file server's files are \
                        /file/…, and `rendez ls` lists what else there is"
                .into());
        };
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("it has {} bytes; {PATH_BYTES_MAX} is the most", text.len()));
        }
        if text.contains('\0') {
            return Err("it contains a NUL".into());
        }
        let kept: Vec<_> = below.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        Ok(Self(format!("/{}", kept.join("/"))))
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// What is registered under a path.
    Path(NamePath),
    /// A task, by its number or its name.
    Task(String),
}

impl FromStr for Inspected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("name a task, by its number or its name, or a path: /…".into()),
            path if path.starts_with('/') => Ok(Self::Path(path.parse()?)),
            task => Ok(Self::Task(task.into())),
        }
    }
}

/// What a task is given: `NAME=PATH:RIGHTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// Under which name the task finds it.
    pub name: String,
    /// What it is looked up under.
    pub path: NamePath,
    /// With which rights.
    pub rights: Rights,
}

impl FromStr for Gift {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write NAME=PATH:RIGHTS, as in files=/file:sr";
        let (name, rest) = text.split_once('=').ok_or(format!("there is no `=`: {FORM}"))?;
        let (path, letters) =
            rest.rsplit_once(':').ok_or(format!("the rights are missing: {FORM}"))?;
        if name.is_empty() || name.len() > LABEL_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!(
                "the name must have 1 to {LABEL_BYTES_MAX} printable bytes: {FORM}"
            ));
        }
        if letters.is_empty() {
            return Err(format!("the rights are missing: {FORM}"));
        }
        let mut rights = Rights::from_letters(letters).map_err(|unknown| {
            format!("no right has the letter {unknown:?}; `rendez run --help` lists them")
        })?;
        if rights.intersects(Rights::SERVER_MASK) {
            rights |= Rights::SEND;
        }
        Ok(Self { name: name.into(), path: path.parse()?, rights })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Command, Gift, NamePath};
    use clap::{CommandFactory, Parser};
    use rendez::Rights;

    #[test]
    fn the_definitions_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        for (text, path) in [
            ("/", "/"),
            ("//", "/"),
            ("/file/", "/file"),
            ("/a//./b/.", "/a/b"),
            ("/a/..", "/a/.."),
        ] {
            assert_eq!(text.parse::<NamePath>().expect(text).as_str(), path);
        }
        let long = "/x".repeat(4096);
        for text in ["", "a", "a/b", "/a\0", &long] {
            assert!(text.parse::<NamePath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn gifts() {
        let gift = |text: &str| text.parse::<Gift>();
        let files = gift("files=/file:sr").expect("a gift");
        assert_eq!((files.name.as_str(), files.path.as_str()), ("files", "/file"));
        assert_eq!(files.rights, Rights::SEND | Rights::READ);
        // A server's right is exercised by sending.
        assert_eq!(gift("f=/file:r").expect("a gift"), gift("f=/file:sr").expect("a gift"));
        assert_eq!(gift("f=/file:t").expect("a gift").rights, Rights::WATCH);
        assert_eq!(gift("f=/a:b:s").expect("a gift").path.as_str(), "/a:b");
        for text in ["", "files", "files=", "files=/file", "files=/file:", "=/file:s", "f=file:s"] {
            assert!(gift(text).is_err(), "{text:?}");
        }
        assert!(gift("f=/file:sq").expect_err("no right q").contains("'q'"));
    }

    #[test]
    fn what_is_after_the_dashes_is_the_program() {
        let parsed = Arguments::try_parse_from([
            "rendez", "run", "--give", "a=/b:s", "--", "program", "--json", "--give",
        ]);
        match parsed.expect("well-formed").command {
            Command::Run(run) => {
                assert_eq!(run.give.len(), 1);
                assert_eq!(run.command, ["program", "--json", "--give"]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for line in [
            &["rendez"][..],
            &["rendez", "lss"],
            &["rendez", "ls", "--lng"],
            &["rendez", "ls", "relative"],
            &["rendez", "cat"],
            &["rendez", "run", "program"],
            &["rendez", "run", "--"],
            &["rendez", "signal"],
            &["rendez", "signal", "wait", "a", "--timeout-ms", "-1"],
            &["rendez", "completions", "csh"],
        ] {
            assert!(Arguments::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
