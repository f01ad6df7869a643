//! The laboratory itself: chooses processors, shares the time out, runs one experiment after the
//! other.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Error;
use crate::experiment::{Context, Entry};
use crate::launch;
use crate::machine::{self, Machine};
use crate::options::Options;
use crate::recorder;
use crate::report::{FORMAT, Report};
use crate::watchdog::Watchdog;

/// How many times shorter a quick run is.
const QUICK: u32 = 6;

/// Said in every report of such a build.
const UNOPTIMISED: &str = "built without optimisation: the floor is too slow, and ratios to it mean \
                           nothing; build with --release";

/// Where a run stands; reported before each block.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The experiment: `size`.
    pub experiment: &'static str,
    /// What is measured next, in words.
    pub what: String,
    /// The part of the whole run that is done, from 0 to 1.
    pub done: f64,
}

/// Measures what the options ask for. The calling thread is the client of all round trips and is
/// pinned to a processor meanwhile; it must not end before this returns.
///
/// # Errors
/// An option that makes no sense (an unknown name is answered with the valid ones), a partner
/// process that cannot be started, a mechanism that makes no progress; an experiment of which
/// nothing could be measured, if it was the only one.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let entries = options.entries()?;
    let mechanisms = options.selected()?;
    let cpus = machine::choose_cpus();
    let mut notes = Vec::new();
    if cfg!(debug_assertions) {
        notes.push(UNOPTIMISED.to_owned());
    }
    let clock_cost_ns = recorder::clock_cost_ns();
    let watchdog = Watchdog::new()?;
    let pinned = Pinned::to(cpus.first().copied().unwrap_or(0));
    if let Err(remark) = &pinned {
        notes.push(format!("client: {remark}"));
    }

    let whole: u32 = entries.iter().map(|entry| entry.seconds).sum::<u32>().max(1);
    let mut experiments = Vec::new();
    let mut failure = None;
    let mut before = 0.0;
    for entry in &entries {
        let share = f64::from(entry.seconds) / f64::from(whole);
        let budget = budget(options, entry, share);
        let context = Context::new(options, &mechanisms, budget, &cpus, &watchdog, clock_cost_ns);
        let mut step = |what: &str, part: f64| {
            progress(Progress {
                experiment: entry.name,
                what: what.to_owned(),
                done: before + part.clamp(0.0, 1.0) * share,
            });
        };
        match (entry.run)(&context, &mut step) {
            Ok(mut experiment) => {
                experiment.notes.extend(context.take_notes());
                experiments.push(experiment);
            }
            Err(error) => {
                notes.extend(context.take_notes());
                notes.push(format!("experiment {} failed: {error}", entry.name));
                failure.get_or_insert(error);
            }
        }
        before += share;
    }
    match failure {
        Some(error) if experiments.is_empty() => Err(error),
        _ => Ok(Report {
            format: FORMAT,
            machine: Machine::read(&cpus, clock_cost_ns),
            quick: options.quick,
            experiments,
            notes,
        }),
    }
}

/// How long an experiment may take.
fn budget(options: &Options, entry: &Entry, share: f64) -> Duration {
    match options.seconds {
        Some(seconds) => Duration::from_secs(seconds.into()).mul_f64(share),
        None if options.quick => Duration::from_secs(entry.seconds.into()) / QUICK,
        None => Duration::from_secs(entry.seconds.into()),
    }
}

/// How many processors can be measured on here: 1 or 2.
pub(crate) fn processors() -> usize {
    machine::choose_cpus().len()
}

/// The calling thread pinned to a processor, until dropped.
struct Pinned {
    before: Option<CpuSet>,
}

impl Pinned {
    fn to(cpu: usize) -> Result<Self, String> {
        let before = sched_getaffinity(None).ok();
        launch::pin(cpu)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // What was allowed before is allowed again; if not, the thread stays where it is.
            let _ = sched_setaffinity(None, before);
        }
    }
}
