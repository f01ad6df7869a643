//! The laboratory itself: sets mechanisms up, lets their blocks take turns, judges each block.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Error;
use crate::launch::{self, Launcher, Partner};
use crate::machine::{self, Machine};
use crate::mechanism::{self, Block, Client, Mechanism, Setting, label};
use crate::options::{Options, Plan};
use crate::recorder::{self, Recorder};
use crate::report::{Report, Row};
use crate::statistics::{median, quartiles, rounded};
use crate::watchdog::Watchdog;

/// Two floors beside one block may differ by this factor; else the machine has changed meanwhile.
const STEADY: f64 = 1.25;

/// How often a block is tried in one round.
const ATTEMPTS: u32 = 3;

/// A mechanism whose blocks took this many times what was planned sits the remaining rounds out.
const PATIENCE: u32 = 4;

/// A round trip that takes longer counts as one that takes this long, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Said in every report of such a build.
const UNOPTIMISED: &str = "built without optimisation: the floor is too slow, and ratios to it mean \
                           nothing; build with --release";

/// Most round trips in one block.
const MOST: u32 = 1 << 22;

/// Where a run stands; reported before each block.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What is measured next, with its wait policy: `rendez-spin`.
    pub mechanism: String,
    /// Bytes of each request and of each answer.
    pub payload_bytes: usize,
    /// On how many cores.
    pub cores: usize,
    /// The part of the whole run that is done, from 0 to 1.
    pub done: f64,
}

/// Measures what the options ask for. The calling thread is the client of all round trips and is
/// pinned to a processor meanwhile; it must not end before this returns.
///
/// # Errors
/// An option that makes no sense (an unknown name is answered with the valid ones), a partner
/// process that cannot be started, a mechanism that fails or makes no progress.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let selected = options.selected()?;
    let plan = if options.quick { Plan::QUICK } else { Plan::FULL };
    measure_all(options, &selected, plan, progress)
}

/// The largest number of cores that can be measured here: 1 or 2.
pub(crate) fn cores_available() -> usize {
    machine::choose_cpus().len()
}

pub(crate) fn measure_all(
    options: &Options,
    selected: &[&'static dyn Mechanism],
    plan: Plan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
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

    let mut settings = Vec::new();
    for &cores in &options.cores {
        if cores > cpus.len() {
            notes.push(format!(
                "only one processor may be used here: measurements on {cores} cores are left out, \
                 and with them the floor and all ratios to it"
            ));
            continue;
        }
        for &payload_bytes in &options.payloads {
            settings.push(Setting { payload_bytes, cores });
        }
    }

    let mut rows = Vec::new();
    for (index, &setting) in settings.iter().enumerate() {
        let mut table = Table {
            options,
            plan,
            cpus: &cpus,
            watchdog: &watchdog,
            recorder: Recorder::new(setting.payload_bytes, clock_cost_ns),
            setting,
            stations: Vec::new(),
            floor: None,
            futex: None,
            notes: &mut notes,
        };
        table.set_up(selected)?;
        table.calibrate()?;
        table.rounds(&mut |label, part| {
            progress(Progress {
                mechanism: label.to_owned(),
                payload_bytes: setting.payload_bytes,
                cores: setting.cores,
                done: (index as f64 + part) / settings.len() as f64,
            });
        })?;
        rows.extend(table.rows());
    }
    notes.dedup();
    let machine = Machine::read(&cpus, clock_cost_ns);
    Ok(Report { machine, quick: options.quick, rows, notes })
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

/// What one block gave.
struct Sample {
    p50: f64,
    singles: Vec<u64>,
}

/// A block beside its floors.
struct Judged {
    sample: Sample,
    ratio: Option<f64>,
    disturbed: bool,
}

/// Blocks of one kind: those that count, or the disturbed ones.
struct Pile {
    medians: Vec<f64>,
    ratios: Vec<f64>,
    futex_ratios: Vec<f64>,
    singles: Histogram<u64>,
}

impl Pile {
    fn new() -> Result<Self, Error> {
        let singles = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .map_err(|error| Error::io("making a histogram", std::io::Error::other(error)))?;
        Ok(Self { medians: Vec::new(), ratios: Vec::new(), futex_ratios: Vec::new(), singles })
    }

    fn add(&mut self, sample: &Sample, ratio: Option<f64>, futex_p50: Option<f64>) {
        self.medians.push(sample.p50);
        self.ratios.extend(ratio);
        self.futex_ratios.extend(futex_p50.map(|futex| sample.p50 / futex));
        for single in &sample.singles {
            self.singles.saturating_record(*single);
        }
    }
}

/// A mechanism, set up and waiting for its next block.
struct Station {
    mechanism: &'static dyn Mechanism,
    label: String,
    /// Whether it gets a row, or only serves as the reference.
    listed: bool,
    // The client's half goes before the partner, which then ends by itself.
    client: Box<dyn Client>,
    partner: Partner,
    /// Mean of a round trip lately, in nanoseconds, to plan the next block with.
    expected_ns: f64,
    spent: Duration,
    resting: bool,
    kept: Pile,
    disturbed: Pile,
    repeated: u32,
    dropped: u32,
}

impl Station {
    /// One block of about that length.
    fn measure(
        &mut self,
        length: Duration,
        recorder: &mut Recorder,
        watchdog: &Watchdog,
    ) -> Result<Sample, Error> {
        let variants = self.client.variants().max(1);
        let share = length.as_nanos() as f64 / f64::from(variants);
        let wanted = (share / self.expected_ns).min(f64::from(MOST)) as u32;
        let exchanges = recorder::whole(wanted);
        let mut best: Option<Sample> = None;
        let start = Instant::now();
        for variant in 0..variants {
            let block = Block { exchanges, variant };
            let (client, partner, label) = (&mut self.client, &self.partner, &self.label);
            let rescue = client.rescue();
            watchdog.guard(label, partner.child(), rescue, || {
                recorder.begin(exchanges);
                partner.begin(block)?;
                let done = client.prepare(block).and_then(|()| client.block(recorder));
                if let Err(error) = done {
                    // A client that failed of itself leaves a partner that waits for more: what the
                    // partner says comes first, the watchdog sees to it that something comes.
                    return Err(match error.kind() {
                        std::io::ErrorKind::UnexpectedEof
                        | std::io::ErrorKind::BrokenPipe
                        | std::io::ErrorKind::ConnectionReset => {
                            partner.reason().unwrap_or_else(|| Error::io(label, error))
                        }
                        _ => Error::io(label, error),
                    });
                }
                partner.finish()
            })?;
            if let Some(p50) = median(recorder.batches())
                && best.as_ref().is_none_or(|best| p50 < best.p50)
            {
                best = Some(Sample { p50, singles: recorder.singles().to_vec() });
            }
        }
        let took = start.elapsed();
        self.expected_ns =
            (took.as_nanos() as f64 / f64::from(exchanges) / f64::from(variants)).max(1.0);
        self.spent += took;
        best.ok_or_else(|| Error::Partner {
            mechanism: self.label.clone(),
            reason: "the client's half did not use the recorder".into(),
        })
    }
}

/// All mechanisms in one setting.
struct Table<'a> {
    options: &'a Options,
    plan: Plan,
    cpus: &'a [usize],
    watchdog: &'a Watchdog,
    recorder: Recorder,
    setting: Setting,
    stations: Vec<Station>,
    /// Which station is the floor.
    floor: Option<usize>,
    /// Median of the bare futex's latest block, for the ratios of disturbed blocks.
    futex: Option<f64>,
    notes: &'a mut Vec<String>,
}

impl Table<'_> {
    fn set_up(&mut self, selected: &[&'static dyn Mechanism]) -> Result<(), Error> {
        let setting = self.setting;
        for mechanism in selected.iter().filter(|one| one.runs_on(setting.cores)) {
            self.station(*mechanism, setting, true)?;
        }
        self.floor = self.stations.iter().position(|one| one.label == "floor");
        if self.floor.is_none()
            && self.cpus.len() > 1
            && !self.stations.is_empty()
            && let Some(floor) = mechanism::find("floor")
        {
            self.floor = Some(self.stations.len());
            self.station(floor, Setting { cores: 2, ..setting }, false)?;
        }
        Ok(())
    }

    fn station(
        &mut self,
        mechanism: &'static dyn Mechanism,
        setting: Setting,
        listed: bool,
    ) -> Result<(), Error> {
        let label = label(mechanism);
        let cpu = self.cpus.get(setting.cores - 1).copied();
        let mut launcher = Launcher::new(&self.options.exe, label.clone(), setting, cpu);
        let client = mechanism
            .connect(setting, &mut launcher)
            .map_err(|error| Error::io(format!("setting {label} up"), error))?;
        let partner = launcher.into_partner()?;
        let remark =
            self.watchdog.guard(&label, partner.child(), client.rescue(), || partner.hello())?;
        if let Some(remark) = remark {
            let note = format!("partner: {remark}");
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        self.stations.push(Station {
            mechanism,
            label,
            listed,
            client,
            partner,
            expected_ns: f64::MAX,
            spent: Duration::ZERO,
            resting: false,
            kept: Pile::new()?,
            disturbed: Pile::new()?,
            repeated: 0,
            dropped: 0,
        });
        Ok(())
    }

    /// Short blocks that grow, until each mechanism's cost is known well enough to plan with.
    fn calibrate(&mut self) -> Result<(), Error> {
        for station in &mut self.stations {
            for part in [64, 16, 4] {
                station.measure(self.plan.block / part, &mut self.recorder, self.watchdog)?;
            }
            station.spent = Duration::ZERO;
        }
        Ok(())
    }

    /// All rounds.
    fn rounds(&mut self, progress: &mut dyn FnMut(&str, f64)) -> Result<(), Error> {
        let listed: Vec<usize> =
            (0..self.stations.len()).filter(|index| self.stations[*index].listed).collect();
        let mut floor = self.reference()?;
        for round in 0..self.plan.rounds {
            let mut kept: Vec<(usize, Judged)> = Vec::new();
            let mut futex = None;
            for (turn, &index) in listed.iter().enumerate() {
                if self.stations[index].resting {
                    continue;
                }
                let part = (f64::from(round) + turn as f64 / listed.len() as f64)
                    / f64::from(self.plan.rounds);
                progress(&self.stations[index].label, part);
                if let Some(judged) = self.block(index, &mut floor)? {
                    if self.stations[index].label == "futex" {
                        futex = Some(judged.sample.p50);
                    }
                    kept.push((index, judged));
                }
                self.rest_if_slow(index, round);
            }
            for (index, judged) in kept {
                let station = &mut self.stations[index];
                station.kept.add(&judged.sample, judged.ratio, futex);
            }
        }
        Ok(())
    }

    /// One block that counts, repeated if disturbed; `None` if it was disturbed each time.
    fn block(&mut self, index: usize, floor: &mut Option<f64>) -> Result<Option<Judged>, Error> {
        let mut attempt = 1;
        loop {
            let judged = self.judged(index, floor)?;
            if self.stations[index].label == "futex" {
                self.futex = Some(judged.sample.p50);
            }
            let futex = self.futex;
            if !judged.disturbed {
                return Ok(Some(judged));
            }
            let budget = self.plan.rounds / 2;
            let station = &mut self.stations[index];
            station.disturbed.add(&judged.sample, judged.ratio, futex);
            if attempt == ATTEMPTS || station.repeated >= budget {
                station.dropped += 1;
                return Ok(None);
            }
            station.repeated += 1;
            attempt += 1;
        }
    }

    /// One block with its floors. `floor` is the one before, and becomes the one after.
    fn judged(&mut self, index: usize, floor: &mut Option<f64>) -> Result<Judged, Error> {
        let stolen_before = machine::stolen(self.cpus);
        let sample =
            self.stations[index].measure(self.plan.block, &mut self.recorder, self.watchdog)?;
        let before = *floor;
        *floor = self.reference()?;
        let stolen = machine::stolen(self.cpus) > stolen_before;
        let beside = before.zip(*floor);
        let steady = beside.is_none_or(|(one, other)| one.max(other) <= STEADY * one.min(other));
        let ratio = beside.map(|(one, other)| sample.p50 / f64::midpoint(one, other));
        Ok(Judged { sample, ratio, disturbed: stolen || !steady })
    }

    /// The floor for a moment.
    fn reference(&mut self) -> Result<Option<f64>, Error> {
        let Some(index) = self.floor else { return Ok(None) };
        let station = &mut self.stations[index];
        let spent = station.spent;
        let sample = station.measure(self.plan.reference, &mut self.recorder, self.watchdog)?;
        station.spent = spent;
        Ok(Some(sample.p50))
    }

    /// A mechanism that takes far longer than planned must not take over the run.
    fn rest_if_slow(&mut self, index: usize, round: u32) {
        let station = &mut self.stations[index];
        if station.spent > self.plan.block * self.plan.rounds * PATIENCE {
            station.resting = true;
            self.notes.push(format!(
                "{} with {} bytes on {}: far slower than planned for, ended after {} of {} rounds",
                station.label,
                self.setting.payload_bytes,
                cores(self.setting.cores),
                round + 1,
                self.plan.rounds
            ));
        }
    }

    /// What has been found.
    fn rows(self) -> Vec<Row> {
        let Self { plan, setting, stations, notes, .. } = self;
        let mut rows = Vec::new();
        for mut station in stations.into_iter().filter(|one| one.listed) {
            let quiet = station.kept.medians.len();
            if quiet < plan.rounds as usize / 4 && !station.disturbed.medians.is_empty() {
                notes.push(format!(
                    "{} with {} bytes on {}: the machine was quiet in only {quiet} blocks, so {} \
                     disturbed ones count too",
                    station.label,
                    setting.payload_bytes,
                    cores(setting.cores),
                    station.disturbed.medians.len(),
                ));
                let disturbed = station.disturbed;
                station.kept.medians.extend(disturbed.medians);
                station.kept.ratios.extend(disturbed.ratios);
                station.kept.futex_ratios.extend(disturbed.futex_ratios);
                station.kept.singles += disturbed.singles;
                station.dropped = 0;
            }
            let kept = &station.kept;
            rows.push(Row {
                mechanism: station.mechanism.name().to_owned(),
                wait: station.mechanism.wait(),
                payload_bytes: setting.payload_bytes,
                cores: setting.cores,
                p50_ns: median(&kept.medians).unwrap_or(0.0).round() as u64,
                p99_ns: kept.singles.value_at_quantile(0.99),
                p999_ns: kept.singles.value_at_quantile(0.999),
                ratio_to_floor: median(&kept.ratios).map(rounded),
                ratio_spread: quartiles(&kept.ratios).map(|spread| spread.map(rounded)),
                ratio_to_futex: median(&kept.futex_ratios).map(rounded),
                blocks_kept: u32::try_from(kept.medians.len()).unwrap_or(u32::MAX),
                blocks_repeated: station.repeated,
                blocks_dropped: station.dropped,
            });
        }
        rows
    }
}

fn cores(number: usize) -> &'static str {
    if number == 1 { "one core" } else { "two cores" }
}

#[cfg(test)]
mod tests {
    use super::{Pile, Sample};

    #[test]
    fn a_pile_keeps_long_and_short_round_trips_apart() {
        let mut pile = Pile::new().expect("fixed bounds");
        let singles = (1..=1000).map(|ms| ms * 1_000_000).collect();
        pile.add(&Sample { p50: 300.0, singles }, Some(2.0), Some(150.0));
        pile.add(&Sample { p50: 500.0, singles: vec![0] }, None, None);
        let tail = pile.singles.value_at_quantile(0.99);
        assert!((980_000_000..=1_000_000_000).contains(&tail), "{tail}");
        assert_eq!(pile.medians, [300.0, 500.0]);
        assert_eq!(pile.ratios, [2.0]);
        assert_eq!(pile.futex_ratios, [2.0]);
    }
}
