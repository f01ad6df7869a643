//! How fast a writer fills a ring that a reader empties.

use std::time::{Duration, Instant};

use super::pipeline::{Pipeline, Shape};
use super::{Context, Entry};
use crate::Error;
use crate::baseline::BareRing;
use crate::baseline::bare_ring::Writer;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Axis, Class, Cores, Experiment, Plot};
use crate::role::thread_cpu_ns;
use crate::system::{EMPTY, System};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "oneway",
    question: "How many messages a second does a writer get through a ring, against a bare ring?",
    usual: true,
    seconds: 6,
    run,
};

/// Lines of the rings.
const LINES: [u32; 3] = [32, 128, 1024];
const QUICK_LINES: [u32; 1] = [128];

/// The baseline's name.
const BARE: &str = "bare-ring";

/// Messages in the bare ring's first block.
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
        "messages of 40 bytes. In the bare ring nothing comes back but how far the reader is. Rendez \
         has no one-way message: here the client begins as many transactions as the ring holds, the \
         server answers each with an empty reply, and the client takes the replies a quarter of a \
         ring at a time",
    );
    let sizes: &[u32] = if context.quick() { &QUICK_LINES } else { &LINES };
    let system = System::start(&context.options.exe, None)?;
    for (index, &lines) in sizes.iter().enumerate() {
        let place = format!("with {lines} lines");
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        if context.wants(BARE) {
            subjects.push(Box::new(Bare::set_up(context, lines)?));
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
            if let Some(mut point) = found.point(Cores::Two, report::PER_SECOND, &all, &[BARE]) {
                point.x = Some(f64::from(lines));
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// The bare ring: the writer here, the reader in a process of its own.
struct Bare {
    writer: Writer,
    reader: Partner,
    /// Messages in the next block.
    count: u64,
}

impl Bare {
    fn set_up(context: &Context<'_>, lines: u32) -> Result<Self, Error> {
        let start = || -> std::io::Result<_> {
            let (writer, memory) = Writer::create(lines)?;
            let cpu = context.cpus.get(1).copied();
            let exe = &context.options.exe;
            let reader = launch::start_role(exe, &BareRing, &[lines.into()], cpu, &[memory])?;
            Ok((writer, reader))
        };
        let (writer, reader) = start().map_err(|error| Error::io("setting a ring up", error))?;
        reader.hello()?;
        Ok(Self { writer, reader, count: AT_FIRST })
    }

    fn once(&mut self, pause: bool) -> Result<Sample, Error> {
        self.reader.order(&[self.count, pause.into()])?;
        let (start, before) = (Instant::now(), thread_cpu_ns());
        let written = self.writer.write(self.count, pause);
        let (took, own) = (start.elapsed(), thread_cpu_ns() - before);
        let found = self.reader.report()?;
        written.map_err(|error| Error::io(BARE, error))?;
        let both = own + found.first().copied().unwrap_or_default();
        Ok(Sample {
            value: self.count as f64 / took.as_secs_f64(),
            singles: Vec::new(),
            cpu_ns: Some(both as f64 / self.count as f64),
        })
    }
}

impl Subject for Bare {
    fn label(&self) -> &str {
        BARE
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Spin)
    }

    fn class(&self) -> Class {
        Class::Baseline
    }

    /// With the processor's hint that it is in a spin loop, and without: the better one counts.
    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let with = self.once(true)?;
        let without = self.once(false)?;
        let best = if with.value > without.value { with } else { without };
        self.count = (best.value * length.as_secs_f64() / 2.0).max(1.0) as u64;
        Ok(best)
    }
}
