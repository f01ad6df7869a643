//! How many transactions a second one server answers, by how many clients it has.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rendez::{Connection, Options};

use super::crowd::{Caller, Counted, Crowd};
use super::{Context, Entry};
use crate::Error;
use crate::baseline::UnixEpoll;
use crate::baseline::unix_epoll;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::limits;
use crate::mechanism::Wait;
use crate::report::{self, Axis, Class, Cores, Experiment, Plot};
use crate::role::process_cpu_ns;
use crate::system::{ANSWER, STOP, ServerProcess, System, wait};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "clients",
    question: "How many transactions a second does one server answer, by how many client threads?",
    usual: true,
    seconds: 20,
    run,
};

/// Client threads.
const CLIENTS: [usize; 6] = [1, 4, 16, 64, 256, 1000];
const QUICK_CLIENTS: [usize; 3] = [1, 64, 256];

/// Bytes of a request and of its reply.
const PAYLOAD: usize = unix_epoll::MESSAGE;

/// The rival's name.
const RIVAL: &str = "unix-epoll";

/// What everybody is compared with, if it is there.
const RIVALS: [&str; 2] = [RIVAL, "iceoryx2-yield"];

/// A block must be long against a lap of all clients.
const SHORTEST: Duration = Duration::from_millis(60);

/// For each client, a block is at least this long.
const FOR_EACH: Duration = Duration::from_micros(200);

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "Many clients",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("client threads", "")),
    );
    let Some(&cores) = context.cores(&[Cores::Two]).first() else { return Ok(experiment) };
    context.note(
        "40 bytes each way, closed loop: each client is a thread with a connection of its own, which \
         sends again as soon as it is answered. All clients are threads of one process on one \
         processor, the server is one thread of another process, on the other processor",
    );
    let counts: &[usize] = if context.quick() { &QUICK_CLIENTS } else { &CLIENTS };
    let most = limits::descriptors();
    for (index, &clients) in counts.iter().enumerate() {
        if clients > most {
            context.note(format!(
                "{clients} clients are left out: this process may have descriptors for {most} only \
                 (ulimit -n)"
            ));
            continue;
        }
        let place = format!("with {clients} clients");
        let mut step = |label: &str, done: f64| {
            progress(&format!("{label} {place}"), (index as f64 + done) / counts.len() as f64);
        };
        step("setting up", 0.0);
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        if context.wants(RIVAL) {
            subjects.push(Box::new(Rival::unix(context, cores, clients)?));
        }
        for (label, wait) in [("rendez-adaptive", Wait::Adaptive), ("rendez-block", Wait::Block)] {
            if context.wants(label) {
                subjects.push(Box::new(Rendez::set_up(context, cores, label, wait, clients)?));
            }
        }
        #[cfg(feature = "peers")]
        subjects.extend(super::rivals::set_up(context, other(context, cores), clients)?);
        let time = context.budget / counts.len() as u32;
        let mut plan = Plan::within(time, subjects.len(), context.quick());
        let block = SHORTEST.max(FOR_EACH * clients as u32);
        let rounds = time.as_secs_f64() / (block.as_secs_f64() * 1.5 * subjects.len() as f64);
        (plan.block, plan.rounds) = (block, (rounds as u32).clamp(5, 60));
        let all = interleave(context, plan, &place, subjects, &mut step)?;
        for found in &all {
            if let Some(mut point) = found.point(cores, report::PER_SECOND, &all, &RIVALS) {
                point.x = Some(clients as f64);
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// The server's processor. The clients run where this thread does, on the first.
fn other(context: &Context<'_>, cores: Cores) -> Option<usize> {
    context.cpus.get(cores.processors() - 1).copied()
}

/// Rendez, by one wait policy at both ends.
struct Rendez<'c> {
    context: &'c Context<'c>,
    label: &'static str,
    wait: Wait,
    // The clients go before the server, and both before the kernel.
    crowd: Crowd<Connection>,
    server: ServerProcess,
    _system: System,
}

impl<'c> Rendez<'c> {
    fn set_up(
        context: &'c Context<'c>,
        cores: Cores,
        label: &'static str,
        policy: Wait,
        clients: usize,
    ) -> Result<Self, Error> {
        let exe = &context.options.exe;
        let system = System::start(exe, None)?;
        let server = system.server(exe, other(context, cores))?;
        let options = Options { wait: wait(policy), ..Options::default() };
        let connections = server.connect(system.task(), &options, clients, clients)?;
        let crowd = Crowd::new(connections)?;
        Ok(Self { context, label, wait: policy, crowd, server, _system: system })
    }
}

impl Caller for Connection {
    #[inline]
    fn exchange(&mut self, number: u64) -> io::Result<u64> {
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let reply = self.send(ANSWER, &payload, PAYLOAD).map_err(io::Error::other)?;
        Ok(reply.payload.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)))
    }

    fn stop(&mut self) -> io::Result<()> {
        self.send(STOP, &[], 0).map(drop).map_err(io::Error::other)
    }
}

impl Subject for Rendez<'_> {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.wait)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.serve(self.wait)?;
        let before = process_cpu_ns();
        let counted = self.crowd.block(length);
        let own = process_cpu_ns() - before;
        let served = self.server.stopped()?;
        sample(self.context, self.label, counted, own + served.cpu_ns)
    }
}

/// Somebody else's server, which takes the orders that a server over epoll takes.
pub(super) struct Rival<'c, C> {
    pub(super) context: &'c Context<'c>,
    pub(super) label: &'static str,
    pub(super) wait: Wait,
    pub(super) class: Class,
    pub(super) crowd: Crowd<C>,
    pub(super) server: Partner,
}

impl<'c> Rival<'c, OwnedFd> {
    /// Unix stream sockets, with a server over epoll.
    fn unix(context: &'c Context<'c>, cores: Cores, clients: usize) -> Result<Self, Error> {
        let failed = |error| Error::io("setting a Unix socket server up", error);
        let (listener, address) = unix_epoll::listener().map_err(failed)?;
        let exe = &context.options.exe;
        let server = launch::start_role(exe, &UnixEpoll, &[], other(context, cores), &[listener])
            .map_err(failed)?;
        server.hello()?;
        server.order(&[unix_epoll::ADMIT, clients as u64])?;
        let connect = |_| unix_epoll::open(&address);
        let connections: io::Result<Vec<OwnedFd>> = (0..clients).map(connect).collect();
        let connections = connections.map_err(failed)?;
        server.report()?;
        let crowd = Crowd::new(connections)?;
        Ok(Self { context, label: RIVAL, wait: Wait::Block, class: Class::Baseline, crowd, server })
    }
}

impl Caller for OwnedFd {
    #[inline]
    fn exchange(&mut self, number: u64) -> io::Result<u64> {
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        unix_epoll::exchange(self, &mut payload)?;
        Ok(payload.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)))
    }

    fn stop(&mut self) -> io::Result<()> {
        unix_epoll::stop(self)
    }
}

impl<C: Caller> Subject for Rival<'_, C> {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.wait)
    }

    fn class(&self) -> Class {
        self.class
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.order(&[unix_epoll::SERVE])?;
        let before = process_cpu_ns();
        let counted = self.crowd.block(length);
        let own = process_cpu_ns() - before;
        let served = self.server.report()?.first().copied().unwrap_or_default();
        sample(self.context, self.label, counted, own + served)
    }
}

fn sample(
    context: &Context<'_>,
    label: &str,
    counted: io::Result<Counted>,
    cpu_ns: u64,
) -> Result<Sample, Error> {
    let Counted { count, took, all, starved } = counted.map_err(|error| Error::io(label, error))?;
    if starved > 0 {
        context.note(format!("{label}: there was a block in which some clients had no answer"));
    }
    Ok(Sample {
        value: count as f64 / took.as_secs_f64(),
        singles: Vec::new(),
        cpu_ns: Some(cpu_ns as f64 / all.max(1) as f64),
    })
}
