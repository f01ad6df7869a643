//! What a round trip costs, by the size of its payload.

use std::time::{Duration, Instant};

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Subject, interleave};
use crate::mechanism::{self, Mechanism};
use crate::report::{self, Axis, Cores, Experiment, Plot};
use crate::station::Station;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "size",
    question: "What does a round trip cost, by the size of its payload?",
    usual: true,
    seconds: 40,
    run,
};

/// Payloads if none is named, in bytes: in one line, in more than one, in a page, and beyond.
const PAYLOADS: [usize; 7] = [8, 40, 256, 4096, 64 << 10, 1 << 20, 16 << 20];
const QUICK_PAYLOADS: [usize; 3] = [8, 256, 4096];

/// Above this, it is copying that is measured, and that costs the same however a core wakes up:
/// two cores only, unless payloads or cores are named. A quick run does so above its first payload.
const ALL_CORES_TO: usize = 4096;

/// Above this, the floor is measured around each round only.
const FLOOR_BESIDE_EACH_TO: usize = 64 << 10;

/// Which ratios everybody's point has, besides the one to the floor.
const RIVALS: [&str; 5] = ["copy", "futex", "unix-stream", "rendez-spin", "rendez-block"];

/// One place to measure at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    payload_bytes: usize,
    cores: Cores,
}

impl Place {
    /// For notes.
    fn text(self) -> String {
        format!("with {} on {}", size(self.payload_bytes), self.cores.title())
    }

    /// Its part of the time: most claims are about small payloads.
    const fn weight(self) -> u32 {
        if self.payload_bytes <= 64 { 3 } else { 2 }
    }
}

/// Measures all mechanisms with each payload on each number of cores.
fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "Cost against size",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("payload", report::BYTES)),
    );
    let places = places(context);
    let whole: u32 = places.iter().map(|place| place.weight()).sum();
    let mut before = 0;
    for place in places {
        let share = f64::from(place.weight()) / f64::from(whole.max(1));
        let done = f64::from(before) / f64::from(whole.max(1));
        before += place.weight();
        let mut step = |label: &str, part: f64| {
            progress(&format!("{label} {}", place.text()), done + part * share);
        };
        measure(context, place, context.budget.mul_f64(share), &mut experiment, &mut step)?;
    }
    Ok(experiment)
}

fn places(context: &Context<'_>) -> Vec<Place> {
    let usual: &[usize] = if context.quick() { &QUICK_PAYLOADS } else { &PAYLOADS };
    let asked = !context.options.payloads.is_empty() || !context.options.cores.is_empty();
    let payloads = context.payloads(usual);
    let mut places = Vec::new();
    for cores in context.cores(&Cores::ALL) {
        for &payload_bytes in &payloads {
            let all_cores = if context.quick() { payloads[0] } else { ALL_CORES_TO };
            if asked || cores == Cores::Two || payload_bytes <= all_cores {
                places.push(Place { payload_bytes, cores });
            }
        }
    }
    places
}

fn measure(
    context: &Context<'_>,
    place: Place,
    time: Duration,
    experiment: &mut Experiment,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<(), Error> {
    progress("setting up", 0.0);
    let start = Instant::now();
    let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
    let mut failure = None;
    let floor: Option<&'static dyn Mechanism> = mechanism::find("floor");
    let reference = floor.filter(|_| {
        context.cpus.len() > 1
            && (place.cores == Cores::One
                || !context.mechanisms.iter().any(|one| one.name() == "floor"))
    });
    let listed = context.mechanisms.iter().map(|mechanism| (*mechanism, place.cores, true));
    let reference = reference.map(|mechanism| (mechanism, Cores::Two, false));
    for (mechanism, cores, listed) in listed.chain(reference) {
        match Station::set_up(context, mechanism, place.payload_bytes, cores, listed) {
            Ok(Some(station)) => subjects.push(Box::new(station)),
            Ok(None) => {}
            Err(error) => {
                context.note(format!("left out {}: {error}", place.text()));
                failure.get_or_insert(error);
            }
        }
    }
    if !subjects.iter().any(|subject| subject.listed()) {
        return failure.map_or(Ok(()), Err);
    }
    // Setting up dozens of mechanisms takes its time, too.
    let left = time.saturating_sub(start.elapsed());
    let mut plan = Plan::within(left, subjects.len(), context.quick());
    plan.floor_beside_each = place.payload_bytes <= FLOOR_BESIDE_EACH_TO;
    let all = interleave(context, plan, &place.text(), subjects, progress)?;
    for found in &all {
        let rivals: Vec<&str> = if found.class == report::Class::Rendez {
            all.iter().map(|rival| rival.label.as_str()).collect()
        } else {
            RIVALS.to_vec()
        };
        if let Some(mut point) = found.point(place.cores, report::NS, &all, &rivals) {
            point.x = Some(place.payload_bytes as f64);
            experiment.add(&found.label, found.wait, found.class, point);
        }
    }
    Ok(())
}

/// A number of bytes in words.
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size(40), "40 bytes");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(4088), "4088 bytes");
        assert_eq!(size(16 << 20), "16 MiB");
    }
}
