//! The supervisor's logic.

use crate::launch::spawn_task;
use rendez::protocol::kernel::{Fate, Give, Received};
use rendez::protocol::{Rights, Slot, Status, TaskId, decode, encode, supervisor};
use rendez::service::{Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez::{Error, Registration, Server, Task};
use rendez_protocol::supervisor::{operation, status};
use std::process::{Child, Command, ExitStatus};
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
}

/// A server that the supervisor starts.
struct Entry {
    name: &'static str,
    /// Under which it is registered.
    path: &'static str,
    /// Its endpoint, with all rights.
    endpoint: Received,
    task: Option<Running>,
    starts: u32,
    last_end: String,
    /// Who waits for it to serve.
    waiting: Vec<(ReplyRight, Instant)>,
    serving: bool,
    registration: Option<Registration>,
}

struct Running {
    capability: Received,
    id: TaskId,
    child: Child,
}

/// The supervisor as a service.
pub struct Supervisor<P> {
    task: Task,
    plan: Plan<P>,
    entries: Vec<Entry>,
    own: Received,
    own_name: Option<Registration>,
    stopping: bool,
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
/// What the kernel says; [`Error::KernelGone`] when the system ends.
pub fn run<P: Program>(plan: Plan<P>, on_ready: impl FnOnce() + 'static) -> Result<(), Error> {
    let task = Task::inherited()?
        .ok_or_else(|| Error::NotGiven { name: "kernel socket".into(), given: Vec::new() })?;
    let mut server = Server::new(&task)?;
    let mut supervisor = Supervisor::start(task, plan, &server)?;
    supervisor.on_ready = Some(Box::new(on_ready));
    supervisor.tell_if_ready();
    server.run(&mut supervisor)
}

impl<P: Program> Supervisor<P> {
    fn start(task: Task, plan: Plan<P>, server: &Server) -> Result<Self, Error> {
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
                task: None,
                starts: 0,
                last_end: String::new(),
                waiting: Vec::new(),
                serving: false,
                registration: None,
            });
        }
        let mut this =
            Self { task, plan, entries, own, own_name: None, stopping: false, on_ready: None };
        for place in 0..this.entries.len() {
            this.launch(place)?;
        }
        this.register()?;
        this.open_the_door()?;
        Ok(this)
    }

    /// The name server's endpoint.
    fn names(&self) -> Slot {
        self.entries[0].endpoint.slot
    }

    /// Starts a server's process as a new task.
    fn launch(&mut self, place: usize) -> Result<(), Error> {
        let names = self.names();
        let entry = &self.entries[place];
        let mut give = vec![Give {
            name: "serve".into(),
            slot: entry.endpoint.slot,
            rights: Rights::RECEIVE | Rights::SEND | Rights::MINT | Rights::GRANT | Rights::INSPECT,
            badge: None,
        }];
        if place != 0 {
            give.push(Give {
                name: "name".into(),
                slot: names,
                rights: Rights::SEND | Rights::READ | Rights::WRITE | Rights::REGISTER,
                badge: None,
            });
        }
        let (capability, id, socket) = self.task.create_task(entry.name, give)?;
        self.task.watch(capability.slot)?;
        let command = self.plan.program.command(entry.name);
        let child = spawn_task(command, socket, true)
            .map_err(|error| Error::system(format!("starting the {} server", entry.name), error))?;
        let entry = &mut self.entries[place];
        entry.task = Some(Running { capability, id, child });
        entry.starts += 1;
        Ok(())
    }

    /// Registers all servers with the name server, after it has started.
    fn register(&mut self) -> Result<(), Error> {
        let names = self.names();
        let register = |path: &str, slot: Slot, rights: Rights| {
            self.task.register_through(names, path, slot, rights)
        };
        let server_half = Rights::READ | Rights::WRITE | Rights::REGISTER;
        let mut registrations = Vec::new();
        for entry in &self.entries {
            let rights = CLIENT | server_half;
            registrations.push(register(entry.path, entry.endpoint.slot, rights)?);
        }
        self.own_name =
            Some(register("/supervisor", self.own.slot, CLIENT | Rights::READ | Rights::MANAGE)?);
        for (entry, registration) in self.entries.iter_mut().zip(registrations) {
            entry.registration = Some(registration);
        }
        Ok(())
    }

    /// Says what processes of the system's own user are given at the front door.
    fn open_the_door(&self) -> Result<(), Error> {
        let kernel = self.task.given_as("kernel")?.slot;
        let give = |name: &str, slot, rights| Give { name: name.into(), slot, rights, badge: None };
        let use_names = CLIENT | Rights::READ | Rights::WRITE;
        self.task.front_door_gives(
            kernel,
            vec![
                give("name", self.names(), use_names),
                give("register", self.names(), use_names | Rights::REGISTER),
                give("supervisor", self.own.slot, CLIENT | Rights::READ | Rights::MANAGE),
                give("kernel", kernel, Rights::INSPECT),
            ],
        )
    }

    fn tell_if_ready(&mut self) {
        if self.entries.iter().all(|entry| entry.serving)
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
        self.entries
            .iter()
            .map(|entry| supervisor::Server {
                name: entry.name.into(),
                task: entry.task.as_ref().map(|running| running.id),
                pid: entry.task.as_ref().map(|running| running.child.id()),
                starts: entry.starts,
                last_end: entry.last_end.clone(),
            })
            .collect()
    }

    /// Ends a server's process if it lives, and starts another.
    fn restart(&mut self, place: usize) -> Result<(), Refusal> {
        self.end(place);
        self.launch(place).map_err(|error| Refusal::new(status::NOT_STARTED, error.to_string()))
    }

    /// Ends a server's process, notes how it ended, and lets go of its task.
    fn end(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        let Some(Running { capability, mut child, .. }) = entry.task.take() else { return };
        // Either it is dead already, or it is killed here: neither wait is long.
        let _ = child.kill();
        entry.last_end = child.wait().map_or_else(|error| error.to_string(), describe);
        entry.serving = false;
        let _ = self.task.delete(capability.slot);
    }
}

fn describe(end: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (end.code(), end.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(number)) => match nix::sys::signal::Signal::try_from(number) {
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
                let asked = require(Rights::MANAGE).and_then(|()| {
                    let place = self.place(decode(message.payload)?)?;
                    self.restart(place)?;
                    Ok(place)
                });
                match asked {
                    Ok(place) => {
                        let late = Instant::now() + START_TIMEOUT;
                        self.entries[place].waiting.push((reply.keep(), late));
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
            entry.task.as_ref().is_some_and(|running| running.capability.slot == slot)
        }) {
            if matches!(what, Fate::Died { .. } | Fate::Gone) {
                self.end(place);
            }
            return;
        }
        let Some(place) = self.entries.iter().position(|entry| entry.endpoint.slot == slot) else {
            return;
        };
        match what {
            Fate::Restarted { .. } => {
                self.entries[place].serving = true;
                for (reply, _) in self.entries[place].waiting.drain(..) {
                    reply.ok(&[]);
                }
                if place == 0 && self.own_name.is_some() {
                    // A new name server knows nobody.
                    self.own_name = None;
                    for entry in &mut self.entries {
                        entry.registration = None;
                    }
                    if let Err(error) = self.register() {
                        self.entries[0].last_end = format!("registering again failed: {error}");
                    }
                }
                self.tell_if_ready();
            }
            Fate::Died { .. } | Fate::Gone => self.entries[place].serving = false,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.entries.iter().flat_map(|entry| entry.waiting.iter().map(|(_, at)| *at)).min()
    }

    fn expired(&mut self, _context: &mut dyn Context, now: Instant) {
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
        self.stopping
    }
}
