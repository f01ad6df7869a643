//! What a notification costs, from a post to its being taken, there and back.

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Subject, interleave};
use crate::mechanism;
use crate::report::{self, Axis, Cores, Experiment, Plot};
use crate::station::Station;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "notification",
    question: "What does a post cost until it is taken, there and back, against a bare line and an eventfd?",
    usual: false,
    seconds: 16,
    run,
};

/// Notifications, what they are held against, and a send for comparison.
const COMPARED: [(Cores, &[&str]); 2] = [
    (Cores::Two, &["floor", "notification-spin", "notification-block", "eventfd", "rendez-spin"]),
    (Cores::One, &["notification-block", "eventfd", "rendez-block"]),
];

/// Payloads if none is named, in bytes: of those that carry one.
const PAYLOADS: [usize; 1] = [8];

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment = Experiment::new(
        ENTRY.name,
        "Notifications",
        ENTRY.question,
        Plot::Lines,
        Some(Axis::logarithmic("payload", report::BYTES)),
    );
    context.note(
        "a notification carries nothing but its bit; the others bring 8 bytes along. A round trip is two \
         posts, each taken by a process that waits for it",
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
