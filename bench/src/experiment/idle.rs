//! What connections cost while nothing happens on them.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rendez::{Connection, Options};

use super::crowd::Caller;
use super::{Context, Entry};
use crate::Error;
use crate::baseline::UnixEpoll;
use crate::baseline::unix_epoll;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch;
use crate::limits;
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment, Plot, Point, Summary};
use crate::system::{ServerProcess, System, failed};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "idle",
    question: "What do connections cost on which nothing happens?",
    usual: false,
    seconds: 24,
    run,
};

const RENDEZ: &str = "rendez-adaptive";
const RIVAL: &str = "unix-epoll";
const ALONE: &str = "rendez-adaptive, alone";

/// Connections over which memory is compared.
const COMPARED: usize = 1000;
/// Idle connections in the end.
const IDLE: usize = 10_000;
const QUICK_IDLE: usize = 2000;

/// How long nothing is done.
const REST: Duration = Duration::from_secs(10);
const QUICK_REST: Duration = Duration::from_secs(2);
/// How long everybody may take to come to rest.
const SETTLE: Duration = Duration::from_millis(500);

/// Transactions between two looks at the clock.
const BATCH: u32 = 16;

/// Where Linux books the memory of connections.
const BOOKED: [&str; 3] = ["Shmem", "Slab", "PageTables"];

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "Idle connections", ENTRY.question, Plot::Bars, None);
    let Some(&cores) = context.cores(&[Cores::Two, Cores::One]).first() else {
        return Ok(experiment);
    };
    let wanted = if context.quick() { QUICK_IDLE } else { IDLE };
    // A connection takes a descriptor and two mappings in each process.
    let most = limits::descriptors().min(limits::mappings() / 2);
    let idle = wanted.min(most);
    if idle < wanted {
        context.note(format!(
            "{idle} idle connections instead of {wanted}: a process may have no more descriptors \
             (ulimit -n) or mappings (vm.max_map_count) here"
        ));
    }
    context.note(format!(
        "memory is that of both sides and of Linux: the difference of MemAvailable, into which \
         whatever else the machine does goes too, and that of {}, over {} connections that were used \
         once, for each. Run time is that of kernel and server, from /proc/PID/schedstat",
        BOOKED.join(" + "),
        COMPARED.min(idle),
    ));
    progress("unix-epoll: memory", 0.0);
    let compared = COMPARED.min(idle);
    if context.wants(RIVAL) {
        let found = unix_memory(context, cores, compared)?;
        memory(&mut experiment, RIVAL, Class::Baseline, Wait::Block, cores, found);
    }
    if !context.wants(RENDEZ) {
        return Ok(experiment);
    }
    progress("rendez: memory", 0.1);
    let exe = &context.options.exe;
    let system = System::start(exe, context.cpus.first().copied())?;
    let cpu = context.cpus.get(cores.processors() - 1).copied();
    let alone = Busy::set_up(ALONE, &system, system.server(exe, cpu)?)?;
    let mut among = Busy::set_up(RENDEZ, &system, system.server(exe, cpu)?)?;
    let mut connections = Vec::with_capacity(idle);
    let before = Memory::read();
    among.connect(&system, compared, &mut connections)?;
    let found = Memory::read().since(&before, compared);
    memory(&mut experiment, RENDEZ, Class::Rendez, Wait::Adaptive, cores, found);
    progress("rendez: connecting", 0.2);
    among.connect(&system, idle - compared, &mut connections)?;

    progress("nothing at all", 0.4);
    let rest = if context.quick() { QUICK_REST } else { REST };
    let spent_ns = among.rest(&system, rest)?;
    let scaled = spent_ns as f64 * REST.as_secs_f64() / rest.as_secs_f64();
    let mut point = Point::new(cores, report::NS_CPU, Summary::single(scaled));
    point.case = Some(format!("run time in 10 s with {idle} idle"));
    experiment.add(RENDEZ, Some(Wait::Adaptive), Class::Rendez, point);

    let place = format!("among {idle} idle connections");
    let time = context.budget / 5;
    let subjects: Vec<Box<dyn Subject + '_>> = vec![Box::new(alone), Box::new(among)];
    let plan = Plan::within(time, subjects.len(), context.quick());
    let all = interleave(context, plan, &place, subjects, &mut |label, done| {
        progress(&format!("{label} {place}"), 0.8 + done / 5.0);
    })?;
    for found in &all {
        if let Some(mut point) = found.point(cores, report::NS, &all, &[ALONE]) {
            point.case = Some(format!("a send {place}"));
            experiment.add(&found.label, found.wait, found.class, point);
        }
    }
    Ok(experiment)
}

fn memory(
    experiment: &mut Experiment,
    label: &str,
    class: Class,
    wait: Wait,
    cores: Cores,
    found: Memory,
) {
    let cases =
        [("memory of one (MemAvailable)", found.fell), ("memory of one (booked)", found.booked)];
    for (case, bytes) in cases {
        let mut point = Point::new(cores, report::BYTES, Summary::single(bytes));
        point.case = Some(case.to_owned());
        experiment.add(label, Some(wait), class, point);
    }
}

/// What `/proc/meminfo` says, in bytes: how much is not available, and how much is booked where
/// connections are.
#[derive(Debug, Clone, Copy)]
struct Memory {
    fell: f64,
    booked: f64,
}

impl Memory {
    fn read() -> Self {
        thread::sleep(SETTLE);
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self { fell: -bytes_in(&text, &["MemAvailable"]), booked: bytes_in(&text, &BOOKED) }
    }

    /// What each of `count` connections made since `before` has added.
    fn since(self, before: &Self, count: usize) -> Self {
        let each = |now: f64, then: f64| ((now - then) / count as f64).max(0.0).round();
        Self { fell: each(self.fell, before.fell), booked: each(self.booked, before.booked) }
    }
}

/// The sum of these lines of `/proc/meminfo`, in bytes.
fn bytes_in(text: &str, names: &[&str]) -> f64 {
    let kib: u64 = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    kib as f64 * 1024.0
}

/// Run time of all threads of a process, in ns.
fn run_time_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Memory of each of so many connections of a Unix socket server.
fn unix_memory(context: &Context<'_>, cores: Cores, count: usize) -> Result<Memory, Error> {
    let failed = |error| Error::io("setting a Unix socket server up", error);
    let (listener, address) = unix_epoll::listener().map_err(failed)?;
    let cpu = context.cpus.get(cores.processors() - 1).copied();
    let server = launch::start_role(&context.options.exe, &UnixEpoll, &[], cpu, &[listener])
        .map_err(failed)?;
    server.hello()?;
    let mut first = unix_epoll::open(&address).map_err(failed)?;
    server.order(&[unix_epoll::SERVE])?;
    first.exchange(1).map_err(failed)?;
    let before = Memory::read();
    let mut connections: Vec<OwnedFd> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = unix_epoll::open(&address).map_err(failed)?;
        connection.exchange(1).map_err(failed)?;
        connections.push(connection);
    }
    let found = Memory::read().since(&before, count);
    first.stop().map_err(failed)?;
    server.report()?;
    Ok(found)
}

/// One client that is busy, and its server, which may have idle ones.
struct Busy {
    label: &'static str,
    connection: Connection,
    server: ServerProcess,
}

impl Busy {
    fn set_up(label: &'static str, system: &System, server: ServerProcess) -> Result<Self, Error> {
        let connection = server.connect_one(system.task(), &Options::default())?;
        Ok(Self { label, connection, server })
    }

    /// Makes connections, each of which is used once.
    fn connect(
        &mut self,
        system: &System,
        count: usize,
        connections: &mut Vec<Connection>,
    ) -> Result<(), Error> {
        self.server.serve(Wait::Adaptive)?;
        for _ in 0..count {
            let options = Options::default();
            let mut connection = Connection::open(system.task(), self.server.endpoint(), &options)
                .map_err(failed("connecting"))?;
            connection.exchange(1).map_err(|error| Error::io(self.label, error))?;
            connections.push(connection);
        }
        self.server.stop(&mut self.connection).map(drop)
    }

    /// Lets the server serve while nobody sends; answers the run time of server and kernel, in ns.
    fn rest(&mut self, system: &System, length: Duration) -> Result<u64, Error> {
        let pids = [system.kernel().pid(), self.server.partner().pid()];
        let spent = || pids.iter().map(|pid| run_time_ns(*pid)).sum::<u64>();
        self.server.serve(Wait::Adaptive)?;
        self.connection.exchange(1).map_err(|error| Error::io(self.label, error))?;
        thread::sleep(SETTLE);
        let before = spent();
        thread::sleep(length);
        let grown = spent().saturating_sub(before);
        self.server.stop(&mut self.connection)?;
        Ok(grown)
    }

    fn pump(&mut self, length: Duration) -> std::io::Result<Vec<f64>> {
        let mut batches = Vec::new();
        let mut number = 1;
        let start = Instant::now();
        while start.elapsed() < length || batches.len() < 2 {
            let before = Instant::now();
            for _ in 0..BATCH {
                number = self.connection.exchange(number)?;
            }
            batches.push(before.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
        // The first one finds the server's caches cold.
        batches.remove(0);
        Ok(batches)
    }
}

impl Subject for Busy {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Adaptive)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.serve(Wait::Adaptive)?;
        let batches = self.pump(length).map_err(|error| Error::io(self.label, error))?;
        self.server.stop(&mut self.connection)?;
        let value = crate::statistics::median(&batches).unwrap_or_default();
        Ok(Sample { value, singles: Vec::new(), cpu_ns: None })
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_in;

    #[test]
    fn lines_of_meminfo_are_summed() {
        let text =
            "MemTotal: 8 kB\nShmem:         3 kB\nSlab:          4 kB\nShmemHugePages: 9 kB\n";
        assert!((bytes_in(text, &["Shmem", "Slab"]) - 7168.0).abs() < 0.5);
        assert!(bytes_in("", &["Shmem"]).abs() < 0.5);
    }
}
