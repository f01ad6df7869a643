//! The supervisor as a service: it tells the machine what happens, and does what the machine says.
//! It waits for nobody: processes end when they end, the clerk talks to the name server, the scribe to
//! the terminal.

use crate::clerk::{Clerk, Job, Told};
use crate::deaths::Deaths;
use crate::entry::{self, Entry, Output};
use crate::inbox::Inbox;
use crate::log::prefixed;
use crate::machine::{Action, Event, Machine, Rules};
use crate::manifest::{Plan, Readiness, Source};
use crate::names;
use crate::policy::{Mistake, Policy};
use crate::report::Dead;
use crate::scribe::Scribe;
use rendez::protocol::kernel::{DoorRule, Give, Limits, Received};
use rendez::protocol::{Slot, supervisor};
use rendez::service::Refusal;
use rendez::{Rights, Server, Task};
use rendez_protocol::supervisor::{End, status};
use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

/// How the process of a server is started that this executable is.
pub trait BuiltIn {
    /// The command that runs the server called `name`, to be started as a task.
    fn command(&self, name: &str) -> Command;
}

/// Why the supervisor could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task ended and the system cannot do without it.
    #[error("{0}")]
    Stopped(String),
    /// The front door's policy cannot be meant.
    #[error("the front door's policy: {}", .0.what)]
    Policy(Mistake),
    /// What the kernel or Linux said.
    #[error(transparent)]
    Rendez(#[from] rendez::Error),
}

impl From<Mistake> for Error {
    fn from(mistake: Mistake) -> Self {
        Self::Policy(mistake)
    }
}

/// The supervisor as a service.
pub struct Supervisor<P> {
    pub(crate) task: Task,
    pub(crate) plan: Plan,
    built_in: P,
    pub(crate) machine: Machine,
    /// What the machine's times are counted from.
    began: Instant,
    pub(crate) entries: Vec<Entry>,
    pub(crate) own: Received,
    pub(crate) kernel: Slot,
    pub(crate) inbox: Inbox,
    pub(crate) clerk: Clerk,
    pub(crate) scribe: Scribe,
    pub(crate) deaths: Deaths,
    /// Those who have ended and are not in the records yet.
    pub(crate) dead: Vec<Dead>,
    /// Whether all names are registered; else what the name server said.
    pub(crate) registered: Result<(), String>,
    /// When tasks are looked at next, whether they get on.
    pub(crate) next_look: Option<Instant>,
    pub(crate) stopping: bool,
    pub(crate) failed: Option<Error>,
    on_ready: Option<Box<dyn FnOnce()>>,
}

impl<P> std::fmt::Debug for Supervisor<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("task", &self.task).finish_non_exhaustive()
    }
}

/// Turns that the output of one task is read in a row.
const READS_PER_TURN: usize = 4;

/// Runs the supervisor in this process, which was started as the system's first task. `on_ready` is
/// called once all tasks are ready that must be.
///
/// # Errors
/// [`Error::Stopped`] if a task ends that must not; [`Error::Policy`]; else what the kernel says, which is
/// [`KernelGone`](rendez::Error::KernelGone) when the system ends.
pub fn run<P: BuiltIn>(
    plan: Plan,
    policy: &Policy,
    built_in: P,
    on_ready: impl FnOnce() + 'static,
) -> Result<(), Error> {
    let task = Task::inherited()?.ok_or_else(|| rendez::Error::NotGiven {
        name: "kernel socket".into(),
        given: Vec::new(),
    })?;
    let inbox =
        Inbox::new().map_err(|error| rendez::Error::system("setting up the supervisor", error))?;
    let mut server = Server::new(&task)?;
    let own = task.create_endpoint()?;
    server.serve(own.slot, Some(supervisor::interface()))?;
    let kernel = task.given_as("kernel")?.slot;
    let mut entries = Vec::new();
    for planned in &plan.tasks {
        entries.push(Entry::new(&task, planned)?);
    }
    let system = |error| rendez::Error::system("starting a thread", error);
    let endpoint = |task: usize, place: usize| entries[task].endpoints[place].0;
    let name_server = plan.name_server().map(|(task, place)| endpoint(task, place));
    let names = names::of(&plan, own.slot, endpoint);
    let clerk = Clerk::start(task.clone(), name_server, names).map_err(system)?;
    inbox.add_clerk(clerk.bell()).map_err(system)?;
    let registered = match name_server {
        Some(_) => Err("the name server does not serve yet".into()),
        None => Ok(()),
    };
    let mut supervisor = Supervisor {
        machine: Machine::new(plan.tasks.iter().map(rules)),
        task,
        plan,
        built_in,
        began: Instant::now(),
        entries,
        own,
        kernel,
        inbox,
        clerk,
        scribe: Scribe::start().map_err(system)?,
        deaths: Deaths::default(),
        dead: Vec::new(),
        registered,
        next_look: None,
        stopping: false,
        failed: None,
        on_ready: Some(Box::new(on_ready)),
    };
    supervisor.open_the_door(name_server, policy)?;
    supervisor.look_names_up();
    supervisor.event(Event::Begin);
    supervisor.tell_if_ready();
    server.run(&mut supervisor)?;
    supervisor.failed.map_or(Ok(()), Err)
}

fn rules(planned: &crate::manifest::Planned) -> Rules {
    let is_name = |getting: &&crate::manifest::Getting| matches!(getting.source, Source::Path(_));
    Rules {
        name: planned.name.clone(),
        after: planned.after.clone(),
        names: planned.gets.iter().filter(is_name).count(),
        finishes: planned.ready == Readiness::Finished,
        required: planned.required,
        restart: planned.restart,
        give_up: planned.give_up,
        ready_within: planned.ready_within,
    }
}

impl<P: BuiltIn> Supervisor<P> {
    /// Says whom the front door lets in, and what they are given; `names`: the name server, if there
    /// is one.
    fn open_the_door(&self, names: Option<Slot>, policy: &Policy) -> Result<(), Error> {
        let give = |(name, rights): (String, Rights)| {
            let slot = match name.as_str() {
                "kernel" => self.kernel,
                "supervisor" => self.own.slot,
                _ => names?,
            };
            Some(Give { name, slot, rights, badge: None, limits: Limits::SAME })
        };
        let admissions = policy.admissions(nix::unistd::geteuid().as_raw())?;
        let rule = |rule: crate::policy::Admission| DoorRule {
            uid: rule.uid,
            give: rule.give.into_iter().filter_map(give).collect(),
            quotas: rule.quotas,
        };
        let rules = admissions.into_iter().map(rule).collect();
        Ok(self.task.set_front_door(self.kernel, rules)?)
    }

    /// Has the names looked up that tasks get and nobody of the plan has.
    fn look_names_up(&self) {
        for (task, planned) in self.plan.tasks.iter().enumerate() {
            for (place, getting) in planned.gets.iter().enumerate() {
                if let Source::Path(path) = &getting.source {
                    // Giving it away needs GRANT, and giving less of it MINT.
                    let rights = getting.rights | Rights::GRANT | Rights::MINT;
                    let job = Job::LookUp { of: (task, place), path: path.clone(), rights };
                    self.clerk.ask(job);
                }
            }
        }
    }

    /// The time by the machine's clock.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What the machine's clock calls `at`.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.began + at
    }

    /// Tells the machine what has happened, and does what it says.
    pub(crate) fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let ended = match &event {
                Event::Ended { task, .. } => Some(*task),
                _ => None,
            };
            let actions = self.machine.handle(self.now(), event);
            if let Some(place) = ended {
                self.decided(place);
            }
            for action in actions {
                match action {
                    Action::Launch(place) => events.extend(self.launch(place)),
                    Action::Kill(place) => {
                        if let Some(running) = &mut self.entries[place].running {
                            let _ = running.child.kill();
                        }
                        events.extend(self.reap(place));
                    }
                    Action::Answer(place) => {
                        for (reply, _) in self.entries[place].waiting.drain(..) {
                            reply.ok(&[]);
                        }
                    }
                    Action::Refuse(place, why) => {
                        for (reply, _) in self.entries[place].waiting.drain(..) {
                            reply.refuse(&Refusal::new(status::NOT_STARTED, why.as_str()));
                        }
                    }
                    Action::Announce => self.tell_if_ready(),
                    Action::Stop(why) => {
                        self.failed.get_or_insert(Error::Stopped(why));
                    }
                }
            }
        }
        // Only now: whoever is to be started again has been.
        self.bury();
    }

    pub(crate) fn tell_if_ready(&mut self) {
        if self.machine.announced()
            && self.registered.is_ok()
            && let Some(tell) = self.on_ready.take()
        {
            tell();
        }
    }

    /// Starts a task's process. Answers what follows from that.
    fn launch(&mut self, place: usize) -> Option<Event> {
        let slots = (self.own.slot, self.kernel);
        let built_in = |name: &str| self.built_in.command(name);
        let started = entry::launch(&self.task, &self.plan, &self.entries, place, slots, built_in)
            .and_then(|running| {
                let watched = self.inbox.add_output(running.output.file(), place);
                watched.map_err(|error| rendez::Error::system("reading its output", error))?;
                Ok(running)
            });
        match started {
            Ok(running) => {
                self.entries[place].running = Some(running);
                self.look_soon();
                (self.plan.tasks[place].ready == Readiness::Started)
                    .then_some(Event::Ready { task: place })
            }
            Err(error) => {
                let how = error.to_string();
                self.note_death(place, None, End::NotStarted(how.clone()));
                Some(Event::Ended { task: place, good: false, how })
            }
        }
    }

    /// If a task's process has ended, lets go of it. Never waits: Linux may take its time to end a
    /// process. Answers what follows.
    pub(crate) fn reap(&mut self, place: usize) -> Option<Event> {
        let end = match self.entries[place].running.as_mut()?.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => entry::end_of(status),
            Err(error) => End::NotStarted(error.to_string()),
        };
        let running = self.entries[place].running.take()?;
        let _ = self.task.delete(running.capability.slot);
        for (_, serving) in &mut self.entries[place].endpoints {
            *serving = false;
        }
        let good = end == End::Exited(0);
        let how = self.note_death(place, Some(running), end);
        Some(Event::Ended { task: place, good, how })
    }

    pub(crate) fn said(&mut self, place: usize, bytes: &[u8]) {
        for line in self.entries[place].log.take(bytes) {
            self.scribe.write(prefixed(&self.plan.tasks[place].name, &line));
        }
    }

    /// Reads what a task has written, a bounded amount of it.
    pub(crate) fn hear_task(&mut self, place: usize) {
        let mut buffer = Output::buffer();
        for _ in 0..READS_PER_TURN {
            let Some(running) = &mut self.entries[place].running else { return };
            match running.output.read(&mut buffer) {
                Some([]) => return,
                Some(bytes) => self.said(place, bytes),
                None => {
                    // It has closed both, and may live on.
                    self.inbox.remove_output(running.output.file());
                    return;
                }
            }
        }
    }

    pub(crate) fn hear_clerk(&mut self) {
        for told in self.clerk.hear() {
            match told {
                Told::Registered => {
                    self.registered = Ok(());
                    self.tell_if_ready();
                }
                Told::NotRegistered(why) => self.registered = Err(why),
                Told::Found((task, place), found) => {
                    self.entries[task].found[place] = Some(found.slot);
                    self.event(Event::Named { task });
                }
                Told::Nudged(task) => {
                    if let Some(running) = &mut self.entries[task].running {
                        running.watch.nudged();
                    }
                }
            }
        }
    }
}
