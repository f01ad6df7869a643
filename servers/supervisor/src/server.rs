//! The supervisor's logic.

use crate::launch::spawn_task;
use crate::policy::{Mistake, Policy};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rendez::protocol::kernel::{DoorRule, Fate, Give, Limits, Received};
use rendez::protocol::{Rights, Slot, Status, TaskId, decode, encode, supervisor};
use rendez::service::{Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez::{Registration, Server, Task};
use rendez_protocol::supervisor::{operation, status};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a server's process is started.
pub trait Program {
    /// The command that runs the server called `name`, to be started as a task.
    fn command(&self, name: &str) -> Command;
}

/// What the supervisor starts.
#[derive(Debug)]
pub struct Plan<P> {
    /// How.
    pub program: P,
    /// Whom the front door lets in, and what they are given.
    pub policy: Policy,
}

/// Why the supervisor could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server ended before the system was ready.
    #[error("the {name} server ended before the system was ready: {how}")]
    Ended {
        /// Which.
        name: &'static str,
        /// How, for people.
        how: String,
    },
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

/// A server that the supervisor starts.
struct Entry {
    name: &'static str,
    /// Under which it is registered.
    path: &'static str,
    /// Its endpoint, with all rights.
    endpoint: Received,
    /// From its start until its end has been seen.
    running: Option<Running>,
    /// It has been killed to be started again.
    restarting: bool,
    starts: u32,
    last_end: String,
    /// Who waits for it to serve.
    waiting: Vec<(ReplyRight, Instant)>,
    serving: bool,
}

struct Running {
    capability: Received,
    id: TaskId,
    child: Child,
}

/// A registration that failed is tried again.
struct Again {
    at: Instant,
    /// How long to wait if it fails once more.
    then: Duration,
    /// Why it failed, for people.
    error: String,
}

/// The supervisor as a service.
pub struct Supervisor<P> {
    task: Task,
    plan: Plan<P>,
    entries: Vec<Entry>,
    own: Received,
    /// All names of the system, or none.
    registrations: Vec<Registration>,
    /// What is to be done about a registration that failed.
    again: Option<Again>,
    /// Tells of the ends of processes.
    ends: SignalFd,
    stopping: bool,
    failed: Option<Error>,
    on_ready: Option<Box<dyn FnOnce()>>,
}

impl<P> std::fmt::Debug for Supervisor<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("task", &self.task).finish_non_exhaustive()
    }
}

/// The fixed list: name, path.
const SERVERS: [(&str, &str); 3] = [("name", "/name"), ("file", "/file"), ("signal", "/signal")];
/// How long a server may take from its start until it serves, before who asked is told.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the name server may take for one step of a registration. Nobody else is heard meanwhile.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How soon to try again after a registration has failed; then twice as long each time...
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// ...up to this.
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// What a client of a server can be given.
const CLIENT: Rights = Rights::SEND
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT);

/// Runs the supervisor in this process, which was started as the system's first task. `on_ready` is
/// called once all servers serve.
///
/// # Errors
/// [`Error::Ended`] if a server ends before all serve; else what the kernel says, which is
/// [`KernelGone`](rendez::Error::KernelGone) when the system ends.
pub fn run<P: Program>(plan: Plan<P>, on_ready: impl FnOnce() + 'static) -> Result<(), Error> {
    let task = Task::inherited()?.ok_or_else(|| rendez::Error::NotGiven {
        name: "kernel socket".into(),
        given: Vec::new(),
    })?;
    // Started processes unblock it again.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    let ends = ends
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
        .map_err(|error| rendez::Error::system("making a signalfd", error))?;
    let mut server = Server::new(&task)?;
    let mut supervisor = Supervisor::start(task, plan, &server, ends, Box::new(on_ready))?;
    server.run(&mut supervisor)?;
    supervisor.failed.map_or(Ok(()), Err)
}

impl<P: Program> Supervisor<P> {
    fn start(
        task: Task,
        plan: Plan<P>,
        server: &Server,
        ends: SignalFd,
        on_ready: Box<dyn FnOnce()>,
    ) -> Result<Self, Error> {
        let own = task.create_endpoint()?;
        server.serve(own.slot, Some(supervisor::interface()))?;
        let mut entries = Vec::new();
        for (name, path) in SERVERS {
            let endpoint = task.create_endpoint()?;
            task.watch(endpoint.slot)?;
            entries.push(Entry {
                name,
                path,
                endpoint,
                running: None,
                restarting: false,
                starts: 0,
                last_end: String::new(),
                waiting: Vec::new(),
                serving: false,
            });
        }
        let mut this = Self {
            task,
            plan,
            entries,
            own,
            registrations: Vec::new(),
            again: None,
            ends,
            stopping: false,
            failed: None,
            on_ready: Some(on_ready),
        };
        this.open_the_door()?;
        for place in 0..this.entries.len() {
            this.launch(place)?;
        }
        Ok(this)
    }

    /// The name server's endpoint.
    fn names(&self) -> Slot {
        self.entries[0].endpoint.slot
    }

    /// Starts a server's process as a new task.
    fn launch(&mut self, place: usize) -> Result<(), rendez::Error> {
        let names = self.names();
        let entry = &self.entries[place];
        let mut give = vec![Give {
            name: "serve".into(),
            slot: entry.endpoint.slot,
            rights: Rights::RECEIVE | Rights::SEND | Rights::MINT | Rights::GRANT | Rights::INSPECT,
            badge: None,
            limits: Limits::SAME,
        }];
        if place != 0 {
            give.push(Give {
                name: "name".into(),
                slot: names,
                rights: Rights::SEND | Rights::READ | Rights::WRITE | Rights::REGISTER,
                badge: None,
                limits: Limits::SAME,
            });
        }
        let (capability, id, socket) = self.task.create_task(entry.name, give)?;
        let started = self.task.watch(capability.slot).and_then(|()| {
            let mut command = self.plan.program.command(entry.name);
            // What the supervisor says on its own is not for others to say.
            command.stdout(Stdio::null());
            spawn_task(command, socket, true).map_err(|error| {
                rendez::Error::system(format!("starting the {} server", entry.name), error)
            })
        });
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                let _ = self.task.delete(capability.slot);
                return Err(error);
            }
        };
        let entry = &mut self.entries[place];
        entry.running = Some(Running { capability, id, child });
        entry.starts += 1;
        Ok(())
    }

    /// Registers all servers with the name server, which serves. If that fails it is tried again
    /// later.
    fn register(&mut self, patience: Duration) {
        self.forget_registrations();
        if let Err(error) = self.try_register() {
            // Names go with their task's last connection: one that was registered after all, when
            // nobody waited for it any more, would stand in its own way.
            self.forget_registrations();
            self.again = Some(Again {
                at: Instant::now() + patience,
                then: (patience * 2).min(AGAIN_MAX),
                error: error.to_string(),
            });
        }
        self.tell_if_ready();
    }

    fn try_register(&mut self) -> Result<(), rendez::Error> {
        let names = self.names();
        let register = |path, slot, rights| {
            self.task.register_through(names, path, slot, rights, REGISTER_TIMEOUT)
        };
        let server_half = Rights::READ | Rights::WRITE | Rights::REGISTER;
        let mut made = Vec::new();
        for entry in &self.entries {
            made.push(register(entry.path, entry.endpoint.slot, CLIENT | server_half)?);
        }
        let rights = CLIENT | Rights::READ | Rights::MANAGE;
        made.push(register("/supervisor", self.own.slot, rights)?);
        self.registrations = made;
        Ok(())
    }

    fn forget_registrations(&mut self) {
        self.again = None;
        self.registrations.clear();
    }

    /// Says whom the front door lets in, and what they are given.
    fn open_the_door(&self) -> Result<(), Error> {
        let kernel = self.task.given_as("kernel")?.slot;
        let slot = |name: &str| match name {
            "kernel" => kernel,
            "supervisor" => self.own.slot,
            _ => self.names(),
        };
        let give = |(name, rights): (String, Rights)| Give {
            slot: slot(&name),
            name,
            rights,
            badge: None,
            limits: Limits::SAME,
        };
        let own = nix::unistd::geteuid().as_raw();
        let admissions = self.plan.policy.admissions(own)?;
        let rules = admissions
            .into_iter()
            .map(|rule| DoorRule {
                uid: rule.uid,
                give: rule.give.into_iter().map(give).collect(),
                quotas: vec![],
            })
            .collect();
        Ok(self.task.set_front_door(kernel, rules)?)
    }

    fn tell_if_ready(&mut self) {
        if !self.registrations.is_empty()
            && self.entries.iter().all(|entry| entry.serving)
            && let Some(tell) = self.on_ready.take()
        {
            tell();
        }
    }

    fn place(&self, name: &str) -> Result<usize, Refusal> {
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
            let known: Vec<_> = self.entries.iter().map(|entry| entry.name).collect();
            Refusal::new(
                status::NOT_FOUND,
                format!("no server is called {name:?}; there are: {}", known.join(", ")),
            )
        })
    }

    fn list(&self) -> Vec<supervisor::Server> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|entry| supervisor::Server {
                name: entry.name.into(),
                task: entry.running.as_ref().map(|running| running.id),
                pid: entry.running.as_ref().map(|running| running.child.id()),
                starts: entry.starts,
                last_end: entry.last_end.clone(),
            })
            .collect();
        if let Some(again) = &self.again {
            all[0].last_end = format!("names are not registered yet: {}", again.error);
        }
        all
    }

    /// Has a server's process end, if it lives, and another be started.
    fn restart(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        match &mut entry.running {
            Some(running) => {
                entry.restarting = true;
                entry.serving = false;
                let _ = running.child.kill();
                self.reap(place);
            }
            None => self.launch_again(place),
        }
    }

    fn launch_again(&mut self, place: usize) {
        if let Err(error) = self.launch(place) {
            self.refuse_waiting(place, &error.to_string());
        }
    }

    /// If a server's process has ended, notes how, lets go of its task, and starts the next if that
    /// is what it was ended for. Never waits: Linux may take its time to end a process.
    fn reap(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        let Some(running) = &mut entry.running else { return };
        let end = match running.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => describe(status),
            Err(error) => error.to_string(),
        };
        let _ = self.task.delete(running.capability.slot);
        entry.running = None;
        entry.serving = false;
        entry.last_end.clone_from(&end);
        if std::mem::take(&mut entry.restarting) {
            self.launch_again(place);
            return;
        }
        let name = entry.name;
        self.refuse_waiting(place, &format!("the {name} server ended before it served: {end}"));
        if self.on_ready.is_some() {
            self.failed.get_or_insert(Error::Ended { name, how: end });
        }
    }

    fn refuse_waiting(&mut self, place: usize, text: &str) {
        for (reply, _) in self.entries[place].waiting.drain(..) {
            reply.refuse(&Refusal::new(status::NOT_STARTED, text));
        }
    }
}

fn describe(end: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (end.code(), end.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => "ended".into(),
    }
}

impl<P: Program> Service for Supervisor<P> {
    fn receive(&mut self, _context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let require = |rights| message.caller.require(rights);
        match message.operation {
            operation::LIST => {
                reply.result(require(Rights::READ).map(|()| encode(&self.list())));
            }
            operation::RESTART => {
                let asked =
                    require(Rights::MANAGE).and_then(|()| self.place(decode(message.payload)?));
                match asked {
                    Ok(place) => {
                        let late = Instant::now() + START_TIMEOUT;
                        self.entries[place].waiting.push((reply.keep(), late));
                        self.restart(place);
                    }
                    Err(refusal) => reply.refuse(&refusal),
                }
            }
            operation::STOP => {
                let asked = require(Rights::MANAGE);
                self.stopping |= asked.is_ok();
                reply.result(asked.map(|()| Vec::new()));
            }
            unknown => reply.refuse(&Refusal::new(
                Status::UNIMPLEMENTED,
                format!("the supervisor has no operation {unknown}"),
            )),
        }
    }

    fn watched(&mut self, _context: &mut dyn Context, slot: Slot, what: Fate) {
        if let Some(place) = self.entries.iter().position(|entry| {
            entry.running.as_ref().is_some_and(|running| running.capability.slot == slot)
        }) {
            // Without a kernel socket it can serve nobody, even if its process lives on.
            if matches!(what, Fate::Died { .. } | Fate::Gone)
                && let Some(running) = &mut self.entries[place].running
            {
                let _ = running.child.kill();
                self.reap(place);
            }
            return;
        }
        let Some(place) = self.entries.iter().position(|entry| entry.endpoint.slot == slot) else {
            return;
        };
        match what {
            // Of the one that is to be no more.
            Fate::Restarted { .. } if self.entries[place].restarting => {}
            Fate::Restarted { .. } => {
                self.entries[place].serving = true;
                if place == 0 {
                    // A new name server knows nobody.
                    self.register(AGAIN_FIRST);
                }
                for (reply, _) in self.entries[place].waiting.drain(..) {
                    reply.ok(&[]);
                }
                self.tell_if_ready();
            }
            Fate::Died { .. } | Fate::Gone => {
                self.entries[place].serving = false;
                if place == 0 {
                    self.forget_registrations();
                }
            }
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.ends.as_fd()]
    }

    fn ready(&mut self, _context: &mut dyn Context, _descriptor: usize) {
        while let Ok(Some(_)) = self.ends.read_signal() {}
        for place in 0..self.entries.len() {
            self.reap(place);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.entries.iter().flat_map(|entry| entry.waiting.iter().map(|(_, at)| *at));
        waiting.chain(self.again.as_ref().map(|again| again.at)).min()
    }

    fn expired(&mut self, _context: &mut dyn Context, now: Instant) {
        if let Some(Again { at, then, .. }) = self.again
            && at <= now
        {
            self.register(then);
        }
        for entry in &mut self.entries {
            let (late, waiting) =
                entry.waiting.drain(..).partition::<Vec<_>, _>(|(_, deadline)| *deadline <= now);
            entry.waiting = waiting;
            for (reply, _) in late {
                let ended = if entry.last_end.is_empty() { "nothing" } else { &entry.last_end };
                let text = format!("the {} server does not serve yet (last: {ended})", entry.name);
                reply.refuse(&Refusal::new(status::NOT_STARTED, text));
            }
        }
    }

    fn finished(&self) -> bool {
        self.stopping || self.failed.is_some()
    }
}
