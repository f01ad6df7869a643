//! Where the time of a send goes.
//!
//! Both processes read the same clock (`CLOCK_MONOTONIC`, which Linux takes from the processor's
//! time stamp counter where that is one for all processors), each between the steps that it takes;
//! the server's stamps travel in its replies. A step at one end lies between two stamps of one
//! process and contains the cost of one reading, which is taken off. The way from one process to
//! the other begins with the stamp after publishing and ends with the first of the other process:
//! there nothing is taken off, for the sender reads the clock while its message is already crossing.
//!
//! What no clock can tell apart is told apart otherwise, and said so in the notes: what a mere line
//! takes from one processor to the other is half a round trip of the floor beside it; what ringing
//! and waking take is what the same span takes beyond that of those who spin; and where a server's
//! publishing ends is known from what the client takes to look whether its peer sleeps.
//!
//! The whole is measured by itself, over the same connection, by turns with the steps, with no stamp
//! but the first and the last. Of all values in a block it is the mean of their middle half that
//! counts: unlike medians, means add up.

mod probe;

use std::rc::Rc;
use std::time::Duration;

use self::probe::{Blocks, Probe, Spans, reading_ns};
use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Subject, interleave};
use crate::mechanism::{self, Wait};
use crate::report::{self, Class, Cores, Experiment, Plot, Point, Summary, WHOLE};
use crate::station::Station;
use crate::statistics::median;
use crate::steps;
use crate::system::System;

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "breakdown",
    question: "Where does the time of a send go?",
    usual: true,
    seconds: 9,
    run,
};

/// Connections of each series.
const CONNECTIONS: u32 = 3;

/// What is taken apart. The spinning one is first: others are compared with it.
const SERIES: [(&str, Wait); 3] = [
    ("rendez-spin", Wait::Spin),
    ("rendez-adaptive", Wait::Adaptive),
    ("rendez-block", Wait::Block),
];

/// What the steps of all series are made with.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The spans of those who spin, for a series that sleeps.
    spinning: Option<Spans>,
    /// What a line takes from one processor to the other, in ns.
    crossing: f64,
    /// What reading the clock takes, in ns.
    reading: f64,
}

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "Where a send's time goes", ENTRY.question, Plot::Stack, None);
    if context.cores(&[Cores::Two]).is_empty() {
        return Ok(experiment);
    }
    let reading = reading_ns();
    context.note(format!(
        "five numbers, 40 bytes, each way. Both ends read one clock between their steps; the {reading:.0} \
         ns of a reading are taken off for each of the {} that lie on the way. Publishing is one \
         store after writing, so the two are one step. “Cross” is half a round trip of the floor \
         beside it, and “notice, take” what is left between publishing and the handler (or the \
         client's having its reply). Publishing a reply ends where looking whether the client sleeps \
         begins, which takes what it takes the client to look; by then the message is on its way. \
         “Ring” and “wake” are what the same spans take beyond those of who spins. The whole is \
         measured without stamps, over the same connection by turns; of {CONNECTIONS} connections the \
         middle one is shown",
        Spans::READINGS
    ));
    let system = System::start(&context.options.exe, None)?;
    let mut spinning = None;
    let wanted: Vec<_> = SERIES.into_iter().filter(|(label, _)| context.wants(label)).collect();
    for (index, &(label, policy)) in wanted.iter().enumerate() {
        let parts = wanted.len() as f64;
        let mut step = |done: f64| progress(label, (index as f64 + done) / parts);
        let Some((whole, spans, crossing)) =
            usual(context, &system, policy, context.budget.div_f64(parts), &mut step)?
        else {
            continue;
        };
        let sleeping = if policy == Wait::Block { spinning } else { None };
        let known = Known { spinning: sleeping, crossing, reading };
        add(context, &mut experiment, (label, policy), whole, &steps_of(spans, known));
        if policy == Wait::Spin {
            spinning = Some(spans);
        }
    }
    Ok(experiment)
}

/// Takes apart sends over some connections, one after the other, and answers the whole and the spans
/// of the one that is in the middle by the whole, and half a floor, in ns, of the middle one of
/// these: where the pages of either lie, is luck.
fn usual(
    context: &Context<'_>,
    system: &System,
    policy: Wait,
    time: Duration,
    step: &mut dyn FnMut(f64),
) -> Result<Option<(Point, Spans, f64)>, Error> {
    let mut floors = Vec::new();
    let mut found = Vec::new();
    for turn in 0..CONNECTIONS {
        let blocks = Blocks::default();
        let mut subjects: Vec<Box<dyn Subject + '_>> =
            vec![Box::new(Probe::set_up(context, system, policy, Rc::clone(&blocks))?)];
        if let Some(floor) = mechanism::find("floor")
            && let Some(floor) = Station::set_up(context, floor, steps::BYTES, Cores::Two, true)?
        {
            subjects.push(Box::new(floor));
        }
        let plan = Plan::within(time / CONNECTIONS, subjects.len(), context.quick());
        let place = format!("over connection {}, waiting to {policy:?}", turn + 1);
        let all = interleave(context, plan, &place, subjects, &mut |_, done| {
            step((f64::from(turn) + done) / f64::from(CONNECTIONS));
        })?;
        let point = |floor: bool| {
            let one = all.iter().find(|found| (found.class == Class::Floor) == floor)?;
            one.point(Cores::Two, report::NS, &all, &[])
        };
        floors.extend(point(true).map(|point| point.summary.p50));
        let spans = Spans::each(&blocks.borrow(), |values| median(&values).unwrap_or_default());
        found.extend(point(false).map(|whole| (whole, spans)));
    }
    found.sort_by(|(one, _), (other, _)| one.summary.p50.total_cmp(&other.summary.p50));
    let middle = found.len() / 2;
    let crossing = median(&floors).unwrap_or_default() / 2.0;
    Ok(found.into_iter().nth(middle).map(|(whole, spans)| (whole, spans, crossing)))
}

/// From one end's beginning to write to the other's having the message.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Until it is published, and the reader rung if it sleeps.
    publish: f64,
    /// From there on.
    rest: f64,
}

impl Way {
    /// Taken apart, given the same way between those who spin. The steps add up to it.
    fn steps(self, like: Self, crossing: f64) -> [(&'static str, f64); 5] {
        let publish = self.publish.min(like.publish).max(0.0);
        let wake = (self.rest - like.rest).max(0.0);
        let cross = crossing.min(self.rest - wake).max(0.0);
        [
            ("write, publish", publish),
            ("ring", self.publish - publish),
            ("cross", cross),
            ("wake", wake),
            ("notice, take", self.rest - wake - cross),
        ]
    }
}

/// The steps, in the order in which they come.
fn steps_of(spans: Spans, known: Known) -> Vec<(String, f64)> {
    let like = known.spinning.unwrap_or(spans);
    // While those who spin look whether the peer sleeps, the message is on its way already; what a
    // look takes longer is ringing.
    let ringing = (spans.look - like.look).max(0.0);
    let there = |spans: Spans, ringing: f64| Way {
        publish: spans.publish + ringing,
        rest: spans.look + spans.there - ringing,
    };
    let look = (like.look - known.reading).clamp(0.0, like.reply.max(0.0));
    let back = |spans: Spans| Way { publish: spans.reply - look, rest: spans.back + look };
    let mut steps = vec![("encode".to_owned(), spans.encode)];
    let mut add = |before: &str, way: [(&str, f64); 5]| {
        steps.extend(way.map(|(step, ns)| (format!("{before}{step}"), ns)));
    };
    add("", there(spans, ringing).steps(there(like, 0.0), known.crossing));
    for (step, ns) in
        [("decode", spans.decode), ("serve", spans.serve), ("reply: encode", spans.reply_encode)]
    {
        steps.push((step.to_owned(), ns));
    }
    let mut add = |before: &str, way: [(&str, f64); 5]| {
        steps.extend(way.map(|(step, ns)| (format!("{before}{step}"), ns)));
    };
    add("reply: ", back(spans).steps(back(like), known.crossing));
    steps.push(("reply: decode".to_owned(), spans.reply_decode));
    steps.retain(|(step, _)| {
        known.spinning.is_some() || !(step.ends_with("ring") || step.ends_with("wake"))
    });
    steps
}

fn add(
    context: &Context<'_>,
    experiment: &mut Experiment,
    (label, wait): (&str, Wait),
    mut whole: Point,
    steps: &[(String, f64)],
) {
    let sum: f64 = steps.iter().map(|(_, ns)| ns).sum();
    context.note(format!(
        "{label}: the steps add up to {:.0} % of the whole",
        100.0 * sum / whole.summary.p50.max(1.0)
    ));
    for (step, ns) in steps {
        // What takes no time may come out below nothing by the jitter of the clock.
        let ns = (ns * 10.0).round().max(0.0) / 10.0;
        let mut point = Point::new(Cores::Two, report::NS, Summary::single(ns));
        point.case = Some(step.clone());
        experiment.add(label, Some(wait), Class::Rendez, point);
    }
    whole.case = Some(WHOLE.to_owned());
    experiment.add(label, Some(wait), Class::Rendez, whole);
}

#[cfg(test)]
mod tests {
    use super::{Known, Spans, steps_of};

    #[test]
    fn steps_add_up_to_the_spans() {
        let spin = Spans {
            encode: 2.0,
            publish: 20.0,
            look: 60.0,
            there: 110.0,
            decode: 2.0,
            serve: 1.0,
            reply_encode: 2.0,
            reply: 80.0,
            back: 90.0,
            reply_decode: 1.0,
        };
        let block = Spans { publish: 5000.0, look: 25.0, there: 20_000.0, reply: 5000.0, ..spin };
        let late = Spans { look: 4000.0, there: 9000.0, reply: 9000.0, back: 20.0, ..spin };
        for (spans, spinning) in [(spin, None), (block, Some(spin)), (late, Some(spin))] {
            let steps = steps_of(spans, Known { spinning, crossing: 100.0, reading: 25.0 });
            let sum: f64 = steps.iter().map(|(_, ns)| ns).sum();
            assert!((sum - spans.sum()).abs() < 1e-6, "{steps:?}");
            assert!(steps.iter().all(|(_, ns)| *ns >= 0.0), "{steps:?}");
            assert_eq!(steps.iter().any(|(step, _)| step == "wake"), spinning.is_some());
        }
    }

    #[test]
    fn what_only_those_do_who_sleep_is_a_step_of_its_own() {
        let spin = Spans { publish: 20.0, look: 60.0, there: 110.0, ..Spans::default() };
        let block = Spans { publish: 520.0, look: 60.0, there: 5110.0, ..spin };
        let known = Known { spinning: Some(spin), crossing: 100.0, reading: 25.0 };
        let steps = steps_of(block, known);
        let of = |name: &str| steps.iter().find(|(step, _)| step == name).map(|(_, ns)| *ns);
        assert_eq!(of("write, publish"), Some(20.0));
        assert_eq!(of("ring"), Some(500.0));
        assert_eq!(of("cross"), Some(100.0));
        assert_eq!(of("wake"), Some(5000.0));
        assert_eq!(of("notice, take"), Some(70.0));
    }
}
