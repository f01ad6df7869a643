//! A manifest that makes sense: names are resolved, what was not written is filled in.

use crate::machine::GiveUp;
use crate::policy;
use crate::restart::Policy;
use crate::sandbox::{Resources, Sandbox};
use crate::stuck::Then;
use rendez::Rights;
use rendez::protocol::kernel::Hold;
use rendez_protocol::quota::Allotment;
use std::path::PathBuf;
use std::time::Duration;

/// What a system consists of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its tasks, each after those that it starts after.
    pub tasks: Vec<Planned>,
    /// Whom the front door lets in, if the manifest says so.
    pub policy: Option<policy::Policy>,
}

/// A task.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// What is executed.
    pub program: Program,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Variables that it has from the supervisor's environment.
    pub inherit: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its endpoints.
    pub serves: Vec<Serving>,
    /// The other capabilities that it starts with.
    pub gets: Vec<Getting>,
    /// When it is ready.
    pub ready: Readiness,
    /// How long it may take until then.
    pub ready_within: Option<Duration>,
    /// Tasks that must be ready before it starts, by their place.
    pub after: Vec<usize>,
    /// Whether the system is ready only once it is.
    pub required: bool,
    /// How it is restarted.
    pub restart: Policy,
    /// What becomes of the others when it is given up.
    pub give_up: GiveUp,
    /// After which time without progress it is stuck, and what then.
    pub stuck: Option<Stuck>,
    /// What it may use.
    pub limits: Resources,
    /// What is set aside for it of what the supervisor may have of the kernel.
    pub quotas: Vec<Allotment>,
    /// What it may do of Linux.
    pub sandbox: Sandbox,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A server that this executable is.
    BuiltIn(String),
    /// A file, or a name that is looked for in `$PATH`.
    File(PathBuf),
}

/// An endpoint that a task serves.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Under which name the task finds it.
    pub label: String,
    /// Under which path it is registered, if it is.
    pub path: Option<String>,
    /// Which rights whoever looks it up can have.
    pub rights: Rights,
    /// What becomes of connects while it is not served.
    pub hold: Hold,
}

/// A capability that a task starts with.
#[derive(Clone, Debug)]
pub struct Getting {
    /// Under which name the task finds it.
    pub label: String,
    /// To what.
    pub source: Source,
    /// With which rights.
    pub rights: Rights,
    /// With which badge.
    pub badge: Option<u64>,
}

/// To what a capability is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An endpoint of a task of the plan.
    Endpoint {
        /// Whose.
        task: usize,
        /// Which of its endpoints.
        place: usize,
    },
    /// What is registered under this path once the task starts.
    Path(String),
    /// The kernel's own task.
    Kernel,
    /// The supervisor.
    Supervisor,
}

/// When a task is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// All its endpoints are served.
    Serving,
    /// It has said so ([`rendez::Task::say_ready`]).
    Says,
    /// Its program runs.
    Started,
    /// It has exited with 0: a job that others wait for.
    Finished,
}

/// When a task is stuck, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// After so long without progress.
    pub after: Duration,
    /// What is done.
    pub then: Then,
}

impl Plan {
    /// The name server, if the plan has one: its task and which of its endpoints.
    #[must_use]
    pub fn name_server(&self) -> Option<(usize, usize)> {
        self.tasks.iter().enumerate().find_map(|(task, planned)| {
            let is_it =
                |serving: &Serving| serving.path.as_deref() == Some(super::NAME_SERVER_PATH);
            planned.serves.iter().position(is_it).map(|place| (task, place))
        })
    }

    /// The task called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tasks.iter().position(|task| task.name == name)
    }

    /// Has the file server serve `directory`.
    ///
    /// # Errors
    /// If the plan has no file server of ours, or one that was told what to serve: why, for people.
    pub fn serve_directory(&mut self, directory: &str) -> Result<(), String> {
        let is_it = |task: &&mut Planned| task.program == Program::BuiltIn("file".into());
        let Some(task) = self.tasks.iter_mut().find(is_it) else {
            return Err("this manifest has no file server that could serve a directory".into());
        };
        if !task.arguments.is_empty() {
            return Err(format!(
                "the manifest says already what the task {} serves: {}",
                task.name,
                task.arguments.join(" ")
            ));
        }
        task.arguments = vec!["--dir".into(), directory.into()];
        task.sandbox.files.write.push(directory.into());
        Ok(())
    }
}
