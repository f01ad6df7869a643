//! The experiments: each asks one question. **This is where a new one is added.**
//!
//! An experiment is a module with a function of the type `Run`, and a line in [`all`]. It finds
//! what it needs in the `Context`, measures mostly through `interleave`, and gives the part of the
//! report that answers its question.

mod breakdown;
mod bulk;
mod capabilities;
mod clients;
mod counters;
mod crowd;
mod fan;
mod floor_rate;
mod idle;
mod load;
mod neighbour;
mod notification;
mod oneway;
mod own_ring;
mod pipeline;
mod pipelined;
mod restart;
mod revoking;
#[cfg(feature = "peers")]
mod rivals;
mod setup;
mod size;

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use crate::Error;
use crate::awake::Spinners;
use crate::baseline::{BareAnswers, BareRing, UnixEpoll};
use crate::mechanism::Mechanism;
use crate::options::Options;
use crate::report::{Cores, Experiment};
use crate::role::{Role, process_cpu_ns};
use crate::system::{Kernel, Serving};
use crate::watchdog::Watchdog;
use capabilities::Echo;
use neighbour::Glutton;
use own_ring::OwnRing;
use revoking::Revoker;

/// How an experiment is run. It tells `progress` what it measures next, and which part of itself is
/// done, from 0 to 1.
pub(crate) type Run =
    fn(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error>;

/// An experiment, before it is run.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it asks, in one sentence.
    pub question: &'static str,
    /// Whether it is run if none is named.
    pub usual: bool,
    /// About how long it takes in a full run, in seconds; a quick one takes a sixth.
    pub seconds: u32,
    /// What runs it.
    pub(crate) run: Run,
}

/// All experiments, in the order of the report.
#[must_use]
pub fn all() -> &'static [Entry] {
    &[
        size::ENTRY,
        pipelined::ENTRY,
        oneway::ENTRY,
        clients::ENTRY,
        fan::ENTRY,
        load::ENTRY,
        setup::ENTRY,
        counters::ENTRY,
        notification::ENTRY,
        bulk::ENTRY,
        breakdown::ENTRY,
        capabilities::ENTRY,
        neighbour::ENTRY,
        idle::ENTRY,
        restart::ENTRY,
    ]
}

/// What partner processes can be started as for the sake of an experiment.
pub(crate) fn roles() -> &'static [&'static dyn Role] {
    &[
        &Kernel,
        &Serving,
        &UnixEpoll,
        &BareRing,
        &BareAnswers,
        &OwnRing,
        &Echo,
        &Revoker,
        &Glutton,
        #[cfg(feature = "peers")]
        &crate::peers::Yielding,
        #[cfg(feature = "peers")]
        &crate::peers::ManyTarpc,
    ]
}

/// The experiment of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    all().iter().find(|entry| entry.name == name)
}

/// What an experiment finds ready.
pub(crate) struct Context<'a> {
    /// What was asked for.
    pub(crate) options: &'a Options,
    /// The mechanisms that were asked for, in the order of the report.
    pub(crate) mechanisms: &'a [&'static dyn Mechanism],
    /// About how long this experiment may take.
    pub(crate) budget: Duration,
    /// The processors to use: the client's, and the partner's if there is a second. The calling
    /// thread is pinned to the first.
    pub(crate) cpus: &'a [usize],
    /// Ends what makes no progress.
    pub(crate) watchdog: &'a Watchdog,
    /// What one reading of the clock costs, in nanoseconds.
    pub(crate) clock_cost_ns: u64,
    notes: RefCell<Vec<String>>,
    /// None if Linux refused them, which is noted.
    spinners: OnceCell<Option<Spinners>>,
}

impl<'a> Context<'a> {
    /// A context without notes.
    pub(crate) fn new(
        options: &'a Options,
        mechanisms: &'a [&'static dyn Mechanism],
        budget: Duration,
        cpus: &'a [usize],
        watchdog: &'a Watchdog,
        clock_cost_ns: u64,
    ) -> Self {
        Self {
            options,
            mechanisms,
            budget,
            cpus,
            watchdog,
            clock_cost_ns,
            notes: RefCell::default(),
            spinners: OnceCell::new(),
        }
    }

    /// Keeps something that a reader has to know, for the notes of the experiment. What was said
    /// already is not said again.
    pub(crate) fn note(&self, note: impl Into<String>) {
        let note = note.into();
        let mut notes = self.notes.borrow_mut();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// The notes so far.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// Whether a first look is enough.
    pub(crate) fn quick(&self) -> bool {
        self.options.quick
    }

    /// Whether a series of that label is wanted: for what is no mechanism. Its name without the wait
    /// policy is enough, as for mechanisms.
    pub(crate) fn wants(&self, label: &str) -> bool {
        self.options.only.is_empty()
            || self.options.only.iter().any(|only| {
                label == only
                    || label.strip_prefix(only.as_str()).is_some_and(|rest| rest.starts_with('-'))
            })
    }

    /// The numbers of cores to measure on: those that were asked for, or else these, as far as this
    /// machine has them. What it lacks is noted.
    pub(crate) fn cores(&self, usual: &[Cores]) -> Vec<Cores> {
        let asked = if self.options.cores.is_empty() { usual } else { &self.options.cores };
        let (there, lacking): (Vec<_>, Vec<_>) =
            asked.iter().partition(|cores| cores.processors() <= self.cpus.len());
        if !lacking.is_empty() {
            self.note(
                "only one processor may be used here: measurements on two cores are left out, and \
                 with them the floor and all ratios to it",
            );
        }
        there
            .into_iter()
            .filter(|cores| *cores != Cores::Awake || self.spinners().is_some())
            .collect()
    }

    /// Does this, a block or so, on that many cores: with [`Cores::Awake`], spinners of idle priority
    /// keep both from halting meanwhile.
    pub(crate) fn on<T>(&self, cores: Cores, work: impl FnOnce() -> T) -> T {
        if cores != Cores::Awake {
            return work();
        }
        match self.spinners() {
            Some(spinners) => spinners.during(work),
            None => work(),
        }
    }

    /// Processor time that this process has used, in nanoseconds, without the spinners'. Call it
    /// outside of [`on`](Self::on).
    pub(crate) fn own_cpu_ns(&self) -> u64 {
        let spinners = self.spinners.get().and_then(Option::as_ref).map_or(0, Spinners::cpu_ns);
        process_cpu_ns().saturating_sub(spinners)
    }

    fn spinners(&self) -> Option<&Spinners> {
        let make = || match Spinners::new(self.cpus) {
            Ok(spinners) => Some(spinners),
            Err(error) => {
                self.note(format!("cores could not be kept awake, so that is left out: {error}"));
                None
            }
        };
        self.spinners.get_or_init(make).as_ref()
    }

    /// The payloads to measure: those that were asked for, or else these.
    pub(crate) fn payloads(&self, usual: &[usize]) -> Vec<usize> {
        if self.options.payloads.is_empty() {
            usual.to_vec()
        } else {
            self.options.payloads.clone()
        }
    }
}
