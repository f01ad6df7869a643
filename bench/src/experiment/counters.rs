//! What the counters in the task pages add to a send.

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Subject, interleave};
use crate::mechanism;
use crate::report::{self, Axis, Cores, Experiment, Plot};
use crate::station::Station;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "counters",
    question: "What do the counters in the task pages add to a send?",
    usual: false,
    seconds: 24,
    run,
};

/// Rendez with and without its counters, and what it is all held against.
const COMPARED: [(Cores, &[&str]); 2] = [
    (Cores::Two, &["floor", "rendez-spin", "uncounted-spin"]),
    (Cores::One, &["rendez-block", "uncounted-block"]),
];

/// Payloads if none is named, in bytes: where a send is shortest.
const PAYLOADS: [usize; 1] = [8];

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "The cost of counting",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("payload", report::BYTES)),
    );
    let payloads = context.payloads(&PAYLOADS);
    let asked = context.cores(&[Cores::Two, Cores::One]);
    let compared: Vec<_> = COMPARED.iter().filter(|(cores, _)| asked.contains(cores)).collect();
    let places = (compared.len() * payloads.len()).max(1);
    let mut place = 0;
    for &payload_bytes in &payloads {
        for (cores, labels) in &compared {
            let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
            for label in *labels {
                let Some(mechanism) = mechanism::find(label) else { continue };
                let listed = *label != "floor";
                if let Some(station) =
                    Station::set_up(context, mechanism, payload_bytes, *cores, listed)?
                {
                    subjects.push(Box::new(station));
                }
            }
            let plan =
                Plan::within(context.budget / places as u32, subjects.len(), context.quick());
            let part = 1.0 / places as f64;
            let before = f64::from(place) * part;
            let mut step = |label: &str, done: f64| progress(label, before + done * part);
            let text = format!("with {payload_bytes} bytes on {}", cores.title());
            let all = interleave(context, plan, &text, subjects, &mut step)?;
            for found in &all {
                if let Some(mut point) = found.point(*cores, report::NS, &all, labels) {
                    point.x = Some(payload_bytes as f64);
                    experiment.add(&found.label, found.wait, found.class, point);
                }
            }
            place += 1;
        }
    }
    Ok(experiment)
}
