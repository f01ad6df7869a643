//! The laboratory itself: chooses processors, shares the time out, runs one experiment after the
//! other.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Error;
use crate::experiment::Context;
use crate::launch;
use crate::machine::{self, Machine};
use crate::options::Options;
use crate::recorder;
use crate::report::{FORMAT, Report};
use crate::watchdog::Watchdog;

/// How many times shorter a quick run is.
const QUICK: u32 = 6;

/// The experiments of one run share at most this, in seconds, unless a time was asked for: with
/// setting up, that is under two minutes.
const LONGEST: u32 = 85;

/// The same for a quick run: with setting up, that is under 20 seconds.
const LONGEST_QUICK: u32 = 7;

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
        let budget = budget(options, whole).mul_f64(share);
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
        // An experiment for which nothing was selected does not fail, and says nothing either.
        Some(error) if experiments.iter().all(|one| one.series.is_empty()) => Err(error),
        _ => Ok(Report {
            format: FORMAT,
            machine: Machine::read(&cpus, clock_cost_ns),
            quick: options.quick,
            experiments,
            notes,
        }),
    }
}

/// How long all experiments together may take, if `whole` is what they would take by themselves, in
/// seconds.
fn budget(options: &Options, whole: u32) -> Duration {
    match options.seconds {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None if options.quick => (Duration::from_secs(whole.into()) / QUICK)
            .min(Duration::from_secs(LONGEST_QUICK.into())),
        None => Duration::from_secs(whole.min(LONGEST).into()),
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

#[cfg(test)]
mod tests {
    use super::{LONGEST, LONGEST_QUICK, budget};
    use crate::options::Options;

    #[test]
    fn a_run_is_as_long_as_it_was_asked_to_be_or_else_not_too_long() {
        let mut options = Options::new("/nowhere");
        assert_eq!(budget(&options, 40).as_secs(), 40);
        assert_eq!(budget(&options, 400).as_secs(), u64::from(LONGEST));
        options.quick = true;
        assert_eq!(budget(&options, 30).as_secs(), 5);
        assert_eq!(budget(&options, 400).as_secs(), u64::from(LONGEST_QUICK));
        options.seconds = Some(3600);
        assert_eq!(budget(&options, 40).as_secs(), 3600);
    }
}
