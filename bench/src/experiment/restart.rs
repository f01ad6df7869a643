//! How long a sender waits for a server that was killed, against what the server needs to start.
//!
//! A whole system of processes, as `rendez up` starts it from a manifest, with two file servers that
//! keep their files in memory. One is restarted by the supervisor when it dies; the other stays
//! away, and is started by request.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rendez::protocol::{decode, encode, file, supervisor};
use rendez::runtime::Place;
use rendez::{Client, NEVER, Options, SendError, Task};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment, Plot};
use crate::system::failed;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "restart",
    question: "How long does a sender wait for a server that was killed, and is started again?",
    usual: false,
    seconds: 6,
    run,
};

const START: &str = "start";
const RESTART: &str = "rendez-restart";

/// How often each is done.
const ROUNDS: u32 = 20;
const QUICK_ROUNDS: u32 = 5;
/// About what one takes, with what comes before it.
const BLOCK: Duration = Duration::from_millis(100);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The tasks beside those of the standard system.
const MANIFEST: &str = "
[task.killed]
built-in = 'file'
restart = { when = 'always', reset-after = '1ms', budget = { restarts = 10000, within = '1h' } }
serves.serve = { path = '/killed', rights = 'srwnmgti' }
gets.name = { from = 'name', rights = 'srwn' }

[task.started]
built-in = 'file'
restart.when = 'never'
required = false
serves.serve = { path = '/started', rights = 'srwnmgti' }
gets.name = { from = 'name', rights = 'srwn' }
";

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "A killed server", ENTRY.question, Plot::Bars, None);
    let cores = if context.cpus.len() > 1 { Cores::Two } else { Cores::One };
    if !context.wants(RESTART) {
        return Ok(experiment);
    }
    context.note(
        "a system as `rendez up` starts it. \"start\": from asking the supervisor for a server that \
         is dead until it says that it is ready. \"rendez-restart\": from SIGKILL to a server until \
         its client has the reply of the next one, its first restart, without back-off. Linux places \
         the processes as it likes",
    );
    progress("setting up", 0.0);
    let Some(mut system) = System::start(&context.options.exe)? else {
        context.note("left out: the program that measures cannot start a system with `up`");
        return Ok(experiment);
    };
    let killed = Killed { client: system.client("/killed")?, system: &system };
    killed.answered()?;
    let started = Started { system: &system };
    let subjects: Vec<Box<dyn Subject + '_>> = vec![Box::new(started), Box::new(killed)];
    let mut plan = Plan::within(context.budget, subjects.len(), context.quick());
    plan.block = BLOCK;
    plan.rounds = if context.quick() { QUICK_ROUNDS } else { ROUNDS };
    let all = interleave(context, plan, "", subjects, &mut |label, done| progress(label, done))?;
    for found in &all {
        if let Some(mut point) = found.point(cores, report::NS, &all, &[START]) {
            point.case = Some("until a reply, or ready".to_owned());
            experiment.add(&found.label, found.wait, found.class, point);
        }
    }
    system.stop();
    Ok(experiment)
}

/// A running system.
struct System {
    up: Child,
    task: Task,
    supervisor: Client,
    _directory: TempDir,
}

impl System {
    /// `None` if `exe` is no program that can.
    fn start(exe: &Path) -> Result<Option<Self>, Error> {
        let setting_up = |error| Error::io("setting a system up", error);
        let directory = tempfile::tempdir().map_err(setting_up)?;
        let manifest = directory.path().join("manifest.toml");
        std::fs::write(&manifest, MANIFEST).map_err(setting_up)?;
        let runtime = directory.path().join("run");
        let mut up = Command::new(exe)
            .arg("--runtime-dir")
            .arg(&runtime)
            .args(["up", "--policy", "operator"])
            .arg(&manifest)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(setting_up)?;
        let place = Place { directory: runtime, instance: "default".into(), owner: None };
        let begun = Instant::now();
        let task = loop {
            // Before the supervisor has said what it gives, the front door gives nothing.
            if let Ok(task) = Task::front_door(&place)
                && task.given_as("supervisor").is_ok()
            {
                break task;
            }
            if up.try_wait().map_err(setting_up)?.is_some() {
                return Ok(None);
            }
            if begun.elapsed() > PATIENCE {
                let _ = up.kill();
                return Err(setting_up(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(5));
        };
        let connecting = failed("connecting to the supervisor");
        let options = Options { timeout: PATIENCE, ..Options::speaking(supervisor::interface()) };
        let connected = task
            .given_as("supervisor")
            .and_then(|given| Client::connect(&task, given.slot, options))
            .map_err(connecting)?;
        Ok(Some(Self { up, task, supervisor: connected, _directory: directory }))
    }

    /// A client of the file server at `path`.
    fn client(&self, path: &str) -> Result<Client, Error> {
        let found = self.task.look_up(path, None, Some(PATIENCE)).map_err(failed("looking up"))?.0;
        let options = Options { timeout: PATIENCE, ..Options::speaking(file::interface()) };
        Client::connect(&self.task, found.slot, options).map_err(failed("connecting"))
    }

    /// The process of the server of that name, if it lives.
    fn process(&self, name: &str) -> Result<Option<Pid>, Error> {
        let asked = encode(&supervisor::List { skip: 0 });
        let reply = self
            .supervisor
            .send(supervisor::operation::LIST, &asked, 8 << 10)
            .map_err(failed("asking the supervisor"))?;
        let listing: supervisor::Listing = decode(&reply)
            .map_err(|error| failed("asking the supervisor")(rendez::Error::from(error)))?;
        let found = listing.servers.into_iter().find(|server| server.name == name);
        let pid = found.and_then(|server| server.pid);
        Ok(pid.and_then(|pid| Pid::from_raw(pid.cast_signed())))
    }

    fn kill(&self, name: &str) -> Result<(), Error> {
        let killing = |error: rustix::io::Errno| Error::io("killing a server", error);
        match self.process(name)? {
            Some(pid) => kill_process(pid, Signal::KILL).map_err(killing),
            None => Err(killing(rustix::io::Errno::SRCH)),
        }
    }

    /// Asks for the end, and waits for it.
    fn stop(&mut self) {
        let pid = Pid::from_raw(self.up.id().cast_signed());
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.up.wait();
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if matches!(self.up.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Kills a server and sends to the next one.
struct Killed<'a> {
    client: Client,
    system: &'a System,
}

impl Killed<'_> {
    /// Sends until there is an answer; from which incarnation.
    fn answered(&self) -> Result<u32, Error> {
        let asked = encode(&"");
        loop {
            let told = self.client.with(NEVER, |connection| {
                connection.send_until(file::operation::STAT, &asked, 256, NEVER)?;
                Ok(connection.generation())
            });
            match told {
                // It had taken it when it was killed.
                Err(rendez::Error::Send(SendError::Interrupted { .. })) => {}
                other => return other.map_err(failed("sending to a killed server")),
            }
        }
    }
}

impl Subject for Killed<'_> {
    fn label(&self) -> &str {
        RESTART
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Adaptive)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, _: Duration) -> Result<Sample, Error> {
        let before = self.answered()?;
        let process = self.system.process("killed")?;
        let Some(process) = process else {
            return Err(Error::io("killing a server", io::ErrorKind::NotFound));
        };
        // Long enough that its restart is its first.
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        kill_process(process, Signal::KILL)
            .map_err(|error| Error::io("killing a server", error))?;
        while self.answered()? == before {}
        Ok(sample(start))
    }
}

/// Has a dead server started.
struct Started<'a> {
    system: &'a System,
}

impl Subject for Started<'_> {
    fn label(&self) -> &str {
        START
    }

    fn wait(&self) -> Option<Wait> {
        None
    }

    fn class(&self) -> Class {
        Class::Baseline
    }

    fn block(&mut self, _: Duration) -> Result<Sample, Error> {
        self.system.kill("started")?;
        let killed = Instant::now();
        while self.system.process("started")?.is_some() {
            if killed.elapsed() > PATIENCE {
                return Err(Error::io("killing a server", io::ErrorKind::TimedOut));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        self.system
            .supervisor
            .send(supervisor::operation::RESTART, &encode(&"started"), 256)
            .map_err(failed("starting a server"))?;
        Ok(sample(start))
    }
}

fn sample(start: Instant) -> Sample {
    let ns = start.elapsed().as_nanos() as u64;
    Sample { value: ns as f64, singles: vec![ns], cpu_ns: None }
}
