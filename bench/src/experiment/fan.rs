//! One client thread that drives many connections.

use std::io;
use std::time::{Duration, Instant};

use rendez::{Arrival, ConnectionSet, Member, NEVER, Options};
use rendez_protocol::kernel::Shape;

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::limits;
use crate::mechanism::Wait;
use crate::report::{self, Axis, Class, Cores, Experiment, Plot};
use crate::role::thread_cpu_ns;
use crate::system::{ANSWER, STOP, Served, ServerProcess, System, failed, wait};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "fan",
    question: "How many transactions a second does one client thread drive, over how many connections?",
    usual: true,
    seconds: 8,
    run,
};

/// Connections; the transactions in flight are spread over them.
const CONNECTIONS: [u32; 4] = [1, 10, 100, 1000];
const QUICK_CONNECTIONS: [u32; 2] = [1, 1000];

/// Transactions in flight, over all connections.
const IN_FLIGHT: u32 = 1000;
/// Fewest lines of a ring.
const LINES: u32 = 32;

/// Bytes of a request and of its reply.
const PAYLOAD: usize = 40;

/// Transactions between two looks at the clock.
const STRIDE: u32 = 1000;

const LABEL: &str = "rendez-adaptive";
const POLICY: Wait = Wait::Adaptive;
const ONE: &str = "one connection";

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "One thread, many connections",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("connections", "")),
    );
    if context.cores(&[Cores::Two]).is_empty() || !context.wants(LABEL) {
        return Ok(experiment);
    }
    context.note(
        "40 bytes each way. However many connections there are, 1,000 transactions are in flight, \
         spread over them; one thread of one client process begins a new one for each reply, one \
         thread of one server process answers",
    );
    let counts: &[u32] = if context.quick() { &QUICK_CONNECTIONS } else { &CONNECTIONS };
    let most = limits::descriptors();
    let system = System::start(&context.options.exe, None)?;
    let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
    let mut labels = Vec::new();
    for &count in counts {
        progress(&format!("{LABEL}: making {count} connections"), 0.0);
        if count as usize > most {
            context.note(format!(
                "{count} connections are left out: this process may have descriptors for {most} \
                 only (ulimit -n)"
            ));
            continue;
        }
        let label = if count == 1 { ONE.to_owned() } else { format!("{count} connections") };
        labels.push((label.clone(), count));
        subjects.push(Box::new(Fan::set_up(context, &system, label, count)?));
    }
    let mut plan = Plan::within(context.budget, subjects.len(), context.quick());
    // A block is long against a lap of all that is in flight.
    let block = plan.block * 2;
    (plan.block, plan.rounds) = (block, (plan.rounds / 2).max(5));
    let all = interleave(context, plan, "with 1000 in flight", subjects, progress)?;
    for found in &all {
        let count = labels.iter().find(|(label, _)| *label == found.label).map(|(_, count)| *count);
        let point = found.point(Cores::Two, report::PER_SECOND, &all, &[ONE]);
        if let Some((count, mut point)) = count.zip(point) {
            point.x = Some(f64::from(count));
            experiment.add(LABEL, found.wait, found.class, point);
        }
    }
    Ok(experiment)
}

/// Some connections of one thread, and their server.
struct Fan {
    label: String,
    // Before the server's process, which then ends by itself.
    set: ConnectionSet,
    members: Vec<Member>,
    server: ServerProcess,
    /// Transactions in flight on each connection.
    window: u32,
    /// By the place of the member: what was sent last, and what was answered last.
    numbers: Vec<(u64, u64)>,
}

impl Fan {
    fn set_up(
        context: &Context<'_>,
        system: &System,
        label: String,
        count: u32,
    ) -> Result<Self, Error> {
        let server = system.server(&context.options.exe, context.cpus.get(1).copied())?;
        let window = IN_FLIGHT / count;
        let ring = Shape { lines: window.next_power_of_two().max(LINES), ..Shape::default() };
        // Replies without an area: 40 bytes lie in the line.
        let options = Options { requests: ring, replies: ring, ..Options::default() };
        let mut set = ConnectionSet::new(system.task()).map_err(failed("making a set"))?;
        set.set_wait(wait(POLICY));
        server.admit(count as usize)?;
        let members: Result<Vec<_>, _> =
            (0..count).map(|_| set.connect(server.endpoint(), &options)).collect();
        let members = members.map_err(failed("connecting"))?;
        server.admitted()?;
        let places = members.iter().map(|member| member.index() + 1).max().unwrap_or(0);
        Ok(Self { label, set, members, server, window, numbers: vec![(0, 0); places] })
    }

    #[inline]
    fn begin(&mut self, member: Member) -> io::Result<()> {
        let number = &mut self.numbers[member.index()].0;
        *number += 1;
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        self.set.begin(member, ANSWER, &payload, PAYLOAD).map(drop).map_err(io::Error::other)
    }

    /// Takes one reply, which must be that to the oldest request of its connection.
    #[inline]
    fn take(&mut self) -> io::Result<Member> {
        match self.set.next(NEVER).map_err(io::Error::other)? {
            Some(Arrival::Answer { member, outcome, .. }) => {
                let payload = outcome.map_err(io::Error::other)?.payload;
                let last = &mut self.numbers[member.index()].1;
                *last += 1;
                if payload.first_chunk() == Some(&(*last + 1).to_le_bytes()) {
                    return Ok(member);
                }
                let text = format!("request {last} was answered wrongly");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            other => Err(io::Error::other(format!("{other:?} where a reply was expected"))),
        }
    }

    fn pump(&mut self, length: Duration) -> io::Result<(u64, Duration)> {
        for _ in 0..self.window {
            for place in 0..self.members.len() {
                self.begin(self.members[place])?;
            }
        }
        let turn = |own: &mut Self| -> io::Result<()> {
            for _ in 0..STRIDE {
                let member = own.take()?;
                own.begin(member)?;
            }
            Ok(())
        };
        turn(self)?;
        let start = Instant::now();
        let mut count = 0;
        let mut took = Duration::ZERO;
        while took < length {
            turn(self)?;
            count += u64::from(STRIDE);
            took = start.elapsed();
        }
        for _ in 0..self.window as usize * self.members.len() {
            self.take()?;
        }
        Ok((count, took))
    }

    /// Has the server rest.
    fn stop(&mut self) -> io::Result<()> {
        let Some(&first) = self.members.first() else { return Ok(()) };
        self.set.begin(first, STOP, &[], 0).map_err(io::Error::other)?;
        match self.set.next(NEVER).map_err(io::Error::other)? {
            Some(Arrival::Answer { outcome: Ok(_), .. }) => Ok(()),
            other => Err(io::Error::other(format!("{other:?} where a reply was expected"))),
        }
    }
}

impl Subject for Fan {
    fn label(&self) -> &str {
        &self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(POLICY)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let failed = |label: &str, error| Error::io(format!("{LABEL}, {label}"), error);
        self.server.serve(POLICY)?;
        let before = thread_cpu_ns();
        let pumped = self.pump(length).map_err(|error| failed(&self.label, error))?;
        let own = thread_cpu_ns() - before;
        self.stop().map_err(|error| failed(&self.label, error))?;
        let Served { cpu_ns, .. } = self.server.stopped()?;
        let (count, took) = pumped;
        Ok(Sample {
            value: count as f64 / took.as_secs_f64(),
            singles: Vec::new(),
            cpu_ns: Some((own + cpu_ns) as f64 / count as f64),
        })
    }
}
