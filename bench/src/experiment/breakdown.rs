//! Where the time of a send goes.
//!
//! Both processes read the same clock (`CLOCK_MONOTONIC`, which Linux takes from the processor's
//! time stamp counter where that is one for all processors). The client stamps before it begins a
//! transaction, after that, and when it has the reply; the server stamps where its handler begins,
//! before it replies, and after that, and its stamps travel in its replies. A step at one end lies
//! between two stamps of one process and contains the cost of one reading, which is taken off; on
//! the way from one process to the other none is, for the sender reads the clock while its message
//! is already crossing. What a mere line
//! takes from one processor to the other is half a round trip of the floor beside it. The whole is
//! measured by itself, from the first stamp to the last, with none in between. Of all values in a
//! block it is the mean of their middle half that counts: unlike medians, means add up.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rendez::{Connection, Options};

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Found, Plan, Sample, Subject, interleave};
use crate::mechanism::{self, Wait};
use crate::report::{self, Class, Cores, Experiment, Plot, Point, Summary, WHOLE};
use crate::role::now_ns;
use crate::station::Station;
use crate::statistics::median;
use crate::system::{ANSWER, STAMP, ServerProcess, System, wait};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "breakdown",
    question: "Where does the time of a send go?",
    usual: true,
    seconds: 8,
    run,
};

/// Bytes of a request and of its reply.
const PAYLOAD: usize = 40;

/// Between the stamps of one transaction: what lies on its way, in this order.
#[derive(Debug, Clone, Copy, Default)]
struct Spans {
    /// The client begins: encodes, writes, publishes, rings.
    begin: f64,
    /// From there to the handler: crossing, noticing (or waking), taking, decoding.
    there: f64,
    /// In the handler.
    serve: f64,
    /// The server replies: encodes, writes, publishes, rings.
    reply: f64,
    /// From there to the client's having it.
    back: f64,
}

/// What a block of stamps gave.
type Stamps = Rc<RefCell<Vec<Spans>>>;

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "Where a send's time goes", ENTRY.question, Plot::Stack, None);
    if context.cores(&[Cores::Two]).is_empty() {
        return Ok(experiment);
    }
    context.note(
        "40 bytes each way. Stamps of the clock that both processes share lie around each step; the \
         cost of reading it is taken off where it lies on the way. Crossing is half a round trip of the floor, or all of \
         the time between two stamps where that is less, since a step's end overlaps with crossing. \
         The whole is measured without stamps, in blocks in between",
    );
    let system = System::start(&context.options.exe, None)?;
    let mut spinning = None;
    for (index, (label, policy)) in
        [("rendez-spin", Wait::Spin), ("rendez-block", Wait::Block)].into_iter().enumerate()
    {
        if !context.wants(label) {
            continue;
        }
        let stamps = Stamps::default();
        let mut subjects: Vec<Box<dyn Subject + '_>> = vec![
            Box::new(Probe::set_up(context, &system, WHOLE, policy, None)?),
            Box::new(Probe::set_up(context, &system, "stamped", policy, Some(Rc::clone(&stamps)))?),
        ];
        if let Some(floor) = mechanism::find("floor")
            && let Some(floor) = Station::set_up(context, floor, PAYLOAD, Cores::Two, true)?
        {
            subjects.push(Box::new(floor));
        }
        let plan = Plan::within(context.budget / 2, subjects.len(), context.quick());
        let all = interleave(context, plan, label, subjects, &mut |_, done| {
            progress(label, (index as f64 + done) / 2.0);
        })?;
        let spans = each(&stamps.borrow(), |values| median(&values).unwrap_or_default());
        let floor_ns = all.iter().find(|found| found.class == Class::Floor).map_or(0.0, |found| {
            found.point(Cores::Two, report::NS, &all, &[]).map_or(0.0, |point| point.summary.p50)
        });
        add(context, &mut experiment, (label, policy), &all, (spans, spinning, floor_ns / 2.0));
        if policy == Wait::Spin {
            spinning = Some(spans);
        }
    }
    Ok(experiment)
}

/// Each span of many, put together by `merge`.
fn each(many: &[Spans], merge: fn(Vec<f64>) -> f64) -> Spans {
    let of = |span: fn(&Spans) -> f64| merge(many.iter().map(span).collect());
    Spans {
        begin: of(|spans| spans.begin),
        there: of(|spans| spans.there),
        serve: of(|spans| spans.serve),
        reply: of(|spans| spans.reply),
        back: of(|spans| spans.back),
    }
}

/// The mean of the values between the quartiles.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let middle = &values[quarter..values.len() - quarter];
    middle.iter().sum::<f64>() / middle.len().max(1) as f64
}

/// The steps. Where somebody sleeps, what a step takes beyond the same step of those who spin is
/// ringing on the one side and waking on the other.
fn steps(spans: Spans, spinning: Option<Spans>, crossing: f64) -> Vec<(&'static str, f64)> {
    let like = spinning.unwrap_or(spans);
    let beyond = |span: f64, like: f64| (span - like).max(0.0);
    let (there, back) = (spans.there.min(like.there), spans.back.min(like.back));
    let (cross, cross_back) = (crossing.min(there), crossing.min(back));
    let mut steps = vec![
        ("encode, write, publish", spans.begin.min(like.begin)),
        ("cross", cross),
        ("notice, take, decode", there - cross),
        ("serve", spans.serve),
        ("reply: encode, write, publish", spans.reply.min(like.reply)),
        ("reply: cross", cross_back),
        ("reply: notice, take, decode", back - cross_back),
    ];
    if spinning.is_some() {
        steps.insert(1, ("ring", beyond(spans.begin, like.begin)));
        steps.insert(3, ("wake", beyond(spans.there, like.there)));
        steps.insert(7, ("reply: ring", beyond(spans.reply, like.reply)));
        steps.insert(9, ("reply: wake", beyond(spans.back, like.back)));
    }
    steps
}

fn add(
    context: &Context<'_>,
    experiment: &mut Experiment,
    (label, wait): (&str, Wait),
    all: &[Found],
    (spans, spinning, crossing): (Spans, Option<Spans>, f64),
) {
    let Some(mut whole) = all
        .iter()
        .find(|found| found.label == WHOLE)
        .and_then(|found| found.point(Cores::Two, report::NS, all, &[]))
    else {
        return;
    };
    let steps = steps(spans, spinning, crossing);
    let sum: f64 = steps.iter().map(|(_, ns)| ns).sum();
    context.note(format!(
        "{label}: the steps add up to {:.0} % of the whole",
        100.0 * sum / whole.summary.p50.max(1.0)
    ));
    for (step, ns) in steps {
        let mut point = Point::new(Cores::Two, report::NS, Summary::single(ns.round()));
        point.case = Some(step.to_owned());
        experiment.add(label, Some(wait), Class::Rendez, point);
    }
    whole.case = Some(WHOLE.to_owned());
    experiment.add(label, Some(wait), Class::Rendez, whole);
}

/// One connection, with stamps or without.
struct Probe {
    label: &'static str,
    wait: Wait,
    // Before the server's process, which then ends by itself.
    connection: Connection,
    server: ServerProcess,
    stamps: Option<Stamps>,
    clock_ns: f64,
    sequence: u64,
}

impl Probe {
    fn set_up(
        context: &Context<'_>,
        system: &System,
        label: &'static str,
        policy: Wait,
        stamps: Option<Stamps>,
    ) -> Result<Self, Error> {
        let server = system.server(&context.options.exe, context.cpus.get(1).copied())?;
        let options = Options { wait: wait(policy), ..Options::default() };
        let connection = server.connect_one(system.task(), &options)?;
        let clock_ns = context.clock_cost_ns as f64;
        Ok(Self { label, wait: policy, connection, server, stamps, clock_ns, sequence: 0 })
    }

    #[inline]
    fn begin(&mut self, operation: u16) -> io::Result<u64> {
        self.sequence += 1;
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&self.sequence.to_le_bytes());
        self.connection.begin(operation, &payload, PAYLOAD).map_err(io::Error::other)
    }

    /// The whole, without stamps in between.
    fn plain(&mut self, length: Duration) -> io::Result<f64> {
        let mut values = Vec::new();
        let start = Instant::now();
        while start.elapsed() < length || values.len() < 2 {
            let before = now_ns();
            let transaction = self.begin(ANSWER)?;
            let reply = self.connection.finish(transaction).map_err(io::Error::other)?;
            let finished = now_ns();
            if reply.payload.first_chunk() != Some(&(self.sequence + 1).to_le_bytes()) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            values.push(self.at_one_end(before, finished));
        }
        Ok(middle(values))
    }

    /// With stamps: all spans.
    fn stamped(&mut self, length: Duration) -> io::Result<Spans> {
        let mut blocks = Vec::new();
        // The server's last stamp of a transaction comes with the reply to the next.
        let mut last: Option<(Spans, u64, u64)> = None;
        let start = now_ns();
        let mut finished = start;
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        while finished - start < length || blocks.len() < 2 {
            let before = now_ns();
            let transaction = self.begin(STAMP)?;
            let begun = now_ns();
            let reply = self.connection.finish(transaction).map_err(io::Error::other)?;
            finished = now_ns();
            let word = |place: usize| -> io::Result<u64> {
                let bytes = reply.payload.get(8 * place..).and_then(|rest| rest.first_chunk());
                bytes
                    .map(|bytes| u64::from_le_bytes(*bytes))
                    .ok_or(io::ErrorKind::InvalidData.into())
            };
            let (received, replying, replied) = (word(0)?, word(1)?, word(2)?);
            if let Some((spans, replying, finished)) = last {
                // Who rings may still be at it when the other is awake already.
                let replied = replied.min(finished);
                let reply = self.at_one_end(replying, replied);
                blocks.push(Spans { reply, back: (finished - replied) as f64, ..spans });
            }
            let begun = begun.min(received);
            let spans = Spans {
                begin: self.at_one_end(before, begun),
                there: (received - begun) as f64,
                serve: self.at_one_end(received, replying),
                ..Spans::default()
            };
            last = Some((spans, replying, finished));
        }
        Ok(each(&blocks, middle))
    }

    /// The time from one stamp to the next of one process, less one reading.
    #[inline]
    fn at_one_end(&self, from: u64, to: u64) -> f64 {
        (to as f64 - from as f64 - self.clock_ns).max(0.0)
    }
}

impl Subject for Probe {
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
        let measured = match self.stamps.clone() {
            None => self.plain(length),
            Some(stamps) => self.stamped(length).map(|spans| {
                stamps.borrow_mut().push(spans);
                spans.begin + spans.there + spans.serve + spans.reply + spans.back
            }),
        };
        self.server.stop(&mut self.connection)?;
        let value = measured.map_err(|error| Error::io(self.label, error))?;
        Ok(Sample { value, singles: Vec::new(), cpu_ns: None })
    }
}

#[cfg(test)]
mod tests {
    use super::{Spans, steps};

    #[test]
    fn steps_add_up_to_the_spans_and_strays_do_not_count() {
        let spin = Spans { begin: 30.0, there: 150.0, serve: 5.0, reply: 30.0, back: 90.0 };
        let block = Spans { begin: 5000.0, there: 20_000.0, serve: 6.0, reply: 5000.0, back: 20.0 };
        let sum = |spans: Spans| spans.begin + spans.there + spans.serve + spans.reply + spans.back;
        assert!((super::middle(vec![100.0, 2.0, 1.0, 4.0]) - 3.0).abs() < 1e-9);
        for (spans, spinning) in [(spin, None), (block, Some(spin))] {
            let steps = steps(spans, spinning, 100.0);
            let total: f64 = steps.iter().map(|(_, ns)| ns).sum();
            assert!((total - sum(spans)).abs() < 1e-6, "{steps:?}");
            assert!(steps.iter().all(|(_, ns)| *ns >= 0.0), "{steps:?}");
        }
    }
}
