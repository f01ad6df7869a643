//! Latency and processor time when requests arrive at a fixed rate.

use std::time::Duration;

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Found, Plan, Sample, Subject, interleave};
use crate::mechanism::{self, Mechanism, Wait};
use crate::report::{self, Axis, Class, Cores, Experiment, Plot, Point, Summary};
use crate::station::Station;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "load",
    question: "What does a transaction take, and what does waiting for it cost, by how often one arrives?",
    usual: true,
    seconds: 30,
    run,
};

/// Arrivals per second.
const RATES: [u32; 9] = [100, 1000, 3000, 6000, 12_000, 25_000, 50_000, 100_000, 200_000];
const QUICK_RATES: [u32; 3] = [1000, 12_000, 100_000];

/// What is compared unless mechanisms are named.
const USUAL: [&str; 5] = ["rendez-spin", "rendez-adaptive", "rendez-block", "unix-stream", "futex"];

/// Bytes of a request and of its reply.
const PAYLOAD: usize = 40;

/// A block is at least this long, and has at least so many arrivals.
const SHORTEST: Duration = Duration::from_millis(20);
const FEWEST: u32 = 10;

/// What cannot keep up gets so many times fewer arrivals that its block is no longer than this many
/// planned ones.
const LATE: f64 = 2.0;

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "Cost against load",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("arrivals", report::PER_SECOND)),
    );
    let Some(&cores) = context.cores(&[Cores::Two]).first() else { return Ok(experiment) };
    context.note(
        "40 bytes each way, one connection. Arrival times are fixed beforehand, and latency counts \
         from the time at which a request was meant to start, however late the one before was. All \
         have the same generator: it sleeps until 150 µs before an arrival, then spins; its processor \
         time is measured and taken off, so what is left is that of sending, waiting and serving, at \
         both ends",
    );
    let rates: &[u32] = if context.quick() { &QUICK_RATES } else { &RATES };
    for (index, &rate) in rates.iter().enumerate() {
        let place = format!("at {rate} arrivals a second");
        let mut step = |label: &str, done: f64| {
            progress(&format!("{label} {place}"), (index as f64 + done) / rates.len() as f64);
        };
        step("setting up", 0.0);
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        for mechanism in wanted(context) {
            if let Some(station) = Station::set_up(context, mechanism, PAYLOAD, cores, true)? {
                let closed_ns = station.expected_ns();
                subjects.push(Box::new(Arrivals { station, rate, closed_ns }));
            }
        }
        if subjects.is_empty() {
            break;
        }
        let block = SHORTEST.max(Duration::from_secs(1) * FEWEST / rate);
        let time = context.budget.as_secs_f64() / rates.len() as f64;
        let rounds = (time / block.as_secs_f64() / subjects.len() as f64) as u32;
        let mut plan = Plan::within(context.budget, subjects.len(), context.quick());
        (plan.block, plan.rounds) = (block, rounds.clamp(5, 60));
        let all = interleave(context, plan, &place, subjects, &mut step)?;
        points(&mut experiment, &all, cores, rate);
    }
    context.note(format!(
        "the client takes a wake-up to cost {} µs, as it has measured it; that is how long it spins",
        rendez::learned_wake_ns() / 1000
    ));
    Ok(experiment)
}

/// The mechanisms to compare.
fn wanted(context: &Context<'_>) -> Vec<&'static dyn Mechanism> {
    let named = !context.options.only.is_empty();
    context
        .mechanisms
        .iter()
        .copied()
        .filter(|one| one.class() != Class::Floor)
        .filter(|one| named || USUAL.contains(&mechanism::label(*one).as_str()))
        .collect()
}

/// For each subject its latency, and as a series of its own the processor time.
fn points(experiment: &mut Experiment, all: &[Found], cores: Cores, rate: u32) {
    const RIVALS: [&str; 4] = ["rendez-spin", "rendez-block", "unix-stream", "futex"];
    for found in all {
        let Some(mut point) = found.point(cores, report::NS, all, &RIVALS) else { continue };
        point.x = Some(f64::from(rate));
        let cpu = point.cpu_s_per_million.map(|seconds| Point {
            x: point.x,
            ratios: all
                .iter()
                .filter(|rival| rival.label != found.label)
                .filter(|rival| RIVALS.contains(&rival.label.as_str()))
                .filter_map(|rival| found.cpu_ratio_to(rival))
                .map(|ratio| report::Ratio { to: processor_time(&ratio.to), ..ratio })
                .collect(),
            blocks: point.blocks,
            // Seconds for a million are microseconds for one.
            ..Point::new(cores, report::NS_CPU, Summary::single(seconds * 1e3))
        });
        experiment.add(&found.label, found.wait, found.class, point);
        if let Some(cpu) = cpu {
            experiment.add(&processor_time(&found.label), found.wait, found.class, cpu);
        }
    }
}

/// The label of a series whose values are processor time.
fn processor_time(label: &str) -> String {
    format!("{label}, processor time")
}

/// A mechanism whose requests arrive at a fixed rate.
struct Arrivals<'c> {
    station: Station<'c>,
    rate: u32,
    /// What a round trip takes with nothing between two of them.
    closed_ns: f64,
}

impl Subject for Arrivals<'_> {
    fn label(&self) -> &str {
        self.station.label()
    }

    fn wait(&self) -> Option<Wait> {
        self.station.wait()
    }

    fn class(&self) -> Class {
        self.station.class()
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let meant = length.as_secs_f64() * f64::from(self.rate);
        let most = LATE * length.as_nanos() as f64 / self.closed_ns;
        let exchanges = (meant.min(most) as u32).max(FEWEST);
        self.station.scheduled(u64::from(1_000_000_000 / self.rate), exchanges)
    }
}
