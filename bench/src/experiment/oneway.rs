//! How fast a writer fills a ring that a reader empties.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::own_ring::{Filler, OwnRing, Waiting};
use super::pipeline::{Pipeline, Shape};
use super::{Context, Entry};
use crate::Error;
use crate::baseline::bare_ring::{PAUSES, Writer};
use crate::baseline::{Asker, BareAnswers, BareRing};
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Axis, Class, Cores, Experiment, Plot};
use crate::role::{Role, thread_cpu_ns};
use crate::system::{EMPTY, System};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "oneway",
    question: "How many messages a second does a writer get through a ring, against a bare ring?",
    usual: true,
    seconds: 8,
    run,
};

/// Lines of the rings.
const LINES: [u32; 3] = [32, 128, 1024];
const QUICK_LINES: [u32; 1] = [128];

/// A bare ring, and what it is the limit of: Rendez's own ring.
const BARE: &str = "bare-ring";
const OWN: &str = "rendez-ring";
/// Bare rings with an answer for each message: the limit of a transaction.
const ANSWERED: &str = "bare-ring-answered";

/// Messages in the first block of a ring without a connection.
const AT_FIRST: u64 = 10_000;

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "One way",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("lines of the ring", "")),
    );
    if context.cores(&[Cores::Two]).is_empty() {
        return Ok(experiment);
    }
    context.note(
        "messages of 40 bytes, lines of 64 in all rings. bare-ring: nothing is checked and nothing comes \
         back but how far the reader is. rendez-ring: the writer and the reader that connections are made \
         of, over the same segments, filled in the same way; every header and every count is checked. \
         bare-ring-answered: two bare rings, an empty answer for each message. rendez-spin and \
         rendez-adaptive: transactions, for Rendez has no one-way message; each is answered with an \
         empty reply. In these three, as many are in flight as a ring has lines, and answers are taken a \
         quarter of a ring at a time. Without a connection, three ways to look at a line (0, 1 or 8 \
         pauses in between) are measured in each block, and the best one counts",
    );
    let sizes: &[u32] = if context.quick() { &QUICK_LINES } else { &LINES };
    let system = System::start(&context.options.exe, None)?;
    for (index, &lines) in sizes.iter().enumerate() {
        let place = format!("with {lines} lines");
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        for label in [BARE, OWN, ANSWERED].into_iter().filter(|label| context.wants(label)) {
            subjects.push(Box::new(Filling::set_up(context, label, lines)?));
        }
        let shape = Shape { operation: EMPTY, room: 0, lines, window: lines, chunk: lines / 4 };
        for (label, wait) in [("rendez-spin", Wait::Spin), ("rendez-adaptive", Wait::Adaptive)] {
            if context.wants(label) {
                subjects.push(Box::new(Pipeline::set_up(context, &system, label, wait, shape)?));
            }
        }
        let time = context.budget / sizes.len() as u32;
        let plan = Plan::within(time, subjects.len(), context.quick());
        let all = interleave(context, plan, &place, subjects, &mut |label, done| {
            progress(&format!("{label} {place}"), (index as f64 + done) / sizes.len() as f64);
        })?;
        for found in &all {
            if let Some(mut point) =
                found.point(Cores::Two, report::PER_SECOND, &all, &[BARE, ANSWERED])
            {
                point.x = Some(f64::from(lines));
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// The writing end of a ring.
trait Fill {
    /// Has that many messages read or answered, with that many `pause`s between two looks.
    fn fill(&mut self, count: u64, pauses: u64) -> io::Result<()>;
}

impl Fill for Writer {
    fn fill(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        self.write(count, pauses)
    }
}

impl Fill for Asker {
    fn fill(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        self.ask(count, pauses)
    }
}

impl Fill for Filler {
    fn fill(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        self.write(count, pauses)
    }
}

/// A ring without a connection around it: the writer here, the reader in a process of its own.
struct Filling {
    label: &'static str,
    class: Class,
    writer: Box<dyn Fill>,
    reader: Partner,
    /// Messages in the next block.
    count: u64,
}

impl Filling {
    /// The one of that label.
    fn set_up(context: &Context<'_>, label: &'static str, lines: u32) -> Result<Self, Error> {
        let failed = |error| Error::io("setting a ring up", error);
        let start = |role: &dyn Role, memory: &[OwnedFd]| -> Result<Partner, Error> {
            let cpu = context.cpus.get(1).copied();
            let exe = &context.options.exe;
            let reader =
                launch::start_role(exe, role, &[lines.into()], cpu, memory).map_err(failed)?;
            reader.hello()?;
            Ok(reader)
        };
        let (class, writer, reader): (Class, Box<dyn Fill>, Partner) = match label {
            OWN => {
                let (waiting, memory) = Waiting::create(lines).map_err(failed)?;
                let reader = start(&OwnRing, &memory)?;
                (Class::Rendez, Box::new(waiting.ready().map_err(failed)?), reader)
            }
            ANSWERED => {
                let (asker, memory) = Asker::create(lines).map_err(failed)?;
                (Class::Baseline, Box::new(asker), start(&BareAnswers, &memory)?)
            }
            _ => {
                let (writer, memory) = Writer::create(lines).map_err(failed)?;
                (Class::Baseline, Box::new(writer), start(&BareRing, &[memory])?)
            }
        };
        Ok(Self { label, class, writer, reader, count: AT_FIRST })
    }

    fn once(&mut self, pauses: u64) -> Result<Sample, Error> {
        self.reader.order(&[self.count, pauses])?;
        let (start, before) = (Instant::now(), thread_cpu_ns());
        let written = self.writer.fill(self.count, pauses);
        let (took, own) = (start.elapsed(), thread_cpu_ns() - before);
        let found = self.reader.report()?;
        written.map_err(|error| Error::io(self.label, error))?;
        let both = own + found.first().copied().unwrap_or_default();
        Ok(Sample {
            value: self.count as f64 / took.as_secs_f64(),
            singles: Vec::new(),
            cpu_ns: Some(both as f64 / self.count as f64),
        })
    }
}

impl Subject for Filling {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Spin)
    }

    fn class(&self) -> Class {
        self.class
    }

    /// Each way to look: the best one counts.
    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let [first, others @ ..] = PAUSES;
        let mut best = self.once(first)?;
        for pauses in others {
            let sample = self.once(pauses)?;
            if sample.value > best.value {
                best = sample;
            }
        }
        let ways = PAUSES.len() as f64;
        self.count = (best.value * length.as_secs_f64() / ways).max(1.0) as u64;
        Ok(best)
    }
}
