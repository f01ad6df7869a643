//! What several transactions in flight on one connection bring.

use super::floor_rate::FloorRate;
use super::pipeline::{Pipeline, Shape};
use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Subject, interleave};
use crate::mechanism::Wait;
use crate::report::{self, Axis, Cores, Experiment, Plot};
use crate::system::{ANSWER, System};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "pipelined",
    question: "How many transactions a second does one connection carry, by how many are in flight?",
    usual: true,
    seconds: 12,
    run,
};

/// Bytes of a request and of its reply: they fit into one line.
const PAYLOAD: usize = 40;

/// Transactions in flight.
const IN_FLIGHT: [u32; 4] = [1, 4, 16, 64];
const QUICK_IN_FLIGHT: [u32; 2] = [1, 64];

/// Lines of the rings: twice as many as are ever in flight. With no more than those, each end has to ask
/// the other for every line how far it has come.
const LINES: u32 = 128;

/// What is compared: a new request for each reply, so that there are always as many in flight; or
/// this part of the window taken in, and then begun, at once.
const SERIES: [(&str, Wait, Part); 4] = [
    ("rendez-spin", Wait::Spin, Part::One),
    ("rendez-adaptive", Wait::Adaptive, Part::One),
    ("rendez-spin, quarters", Wait::Spin, Part::Quarter),
    ("rendez-spin, batches", Wait::Spin, Part::All),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    One,
    Quarter,
    All,
}

impl Part {
    /// Transactions at once, or nothing if that is no different from one.
    const fn of(self, window: u32) -> Option<u32> {
        match self {
            Self::One => Some(1),
            Self::Quarter if window > 4 => Some(window / 4),
            Self::All if window > 1 => Some(window),
            Self::Quarter | Self::All => None,
        }
    }
}

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "Several in flight",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("in flight", "")),
    );
    if context.cores(&[Cores::Two]).is_empty() {
        return Ok(experiment);
    }
    context.note(
        "40 bytes each way, one connection, one thread at each end. The ratio to the floor is the \
         number of transactions in the time of one bare round trip",
    );
    let windows: &[u32] = if context.quick() { &QUICK_IN_FLIGHT } else { &IN_FLIGHT };
    let system = System::start(&context.options.exe, None)?;
    for (index, &window) in windows.iter().enumerate() {
        let place = format!("with {window} in flight");
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        for (label, wait, part) in SERIES.into_iter().filter(|(label, ..)| context.wants(label)) {
            if let Some(chunk) = part.of(window) {
                let shape = Shape { operation: ANSWER, room: PAYLOAD, lines: LINES, window, chunk };
                subjects.push(Box::new(Pipeline::set_up(context, &system, label, wait, shape)?));
            }
        }
        subjects.push(Box::new(FloorRate::set_up(context, PAYLOAD)?));
        let time = context.budget / windows.len() as u32;
        let plan = Plan::within(time, subjects.len(), context.quick());
        let all = interleave(context, plan, &place, subjects, &mut |label, done| {
            progress(&format!("{label} {place}"), (index as f64 + done) / windows.len() as f64);
        })?;
        for found in &all {
            if let Some(mut point) =
                found.point(Cores::Two, report::PER_SECOND, &all, &["rendez-spin"])
            {
                point.x = Some(f64::from(window));
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}
