//! Short blocks of everything that is compared, in turns, each judged.
//!
//! Whatever the machine does in the meantime, it does to all of them. Experiments hand their
//! **subjects** to [`interleave`], and make points out of what it has [`Found`].

use std::time::{Duration, Instant};

use crate::Error;
use crate::distribution::Distribution;
use crate::experiment::Context;
use crate::machine;
use crate::mechanism::Wait;
use crate::report::{Blocks, Class, Cores, Point, Ratio, Summary};
use crate::statistics::{median, quartiles, rounded};

/// Two floors beside one block may differ by this factor; else the machine has changed meanwhile.
const STEADY: f64 = 1.25;

/// How often a block is tried in one round.
const ATTEMPTS: u32 = 3;

/// A subject whose blocks took this many times what was planned sits the remaining rounds out.
const PATIENCE: u32 = 4;

/// All rounds together may take this many times what was planned; then the rest is left out.
const OVERTIME: u32 = 2;

/// About how long it takes to tell the partners of a block and of its floor to begin, and to hear
/// that they are done, in milliseconds.
const HANDSHAKES_MS: f64 = 0.5;

/// How long blocks are, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Rounds of one block of each subject.
    pub(crate) rounds: u32,
    /// Length of a block.
    pub(crate) block: Duration,
    /// Length of the floor's measurement between two blocks.
    pub(crate) reference: Duration,
    /// Whether the floor is measured beside each block, or only around each round: enough where a
    /// block is long, and the floor itself takes long.
    pub(crate) floor_beside_each: bool,
}

impl Plan {
    /// Fewest rounds: with less, a spread means nothing.
    const FEWEST: u32 = 5;
    /// Rounds that are measured however long they take.
    const LEAST: u32 = 3;
    /// Most rounds: more change nothing.
    const MOST: u32 = 200;

    /// A plan that takes about that long for so many subjects.
    pub(crate) fn within(time: Duration, subjects: usize, quick: bool) -> Self {
        let (block, reference): (u32, u32) = if quick { (4, 1) } else { (8, 2) };
        let each = time.as_secs_f64() * 1e3 / subjects.max(1) as f64;
        let rounds = (each / (f64::from(block + reference) + HANDSHAKES_MS)) as u32;
        // Too little time for blocks of that length: shorter ones, down to a quarter.
        let scale = (f64::from(rounds.max(1)) / f64::from(Self::FEWEST)).clamp(0.25, 1.0);
        let block = Duration::from_millis(block.into()).mul_f64(scale);
        let reference = Duration::from_millis(reference.into()).mul_f64(scale.max(0.5));
        Self {
            rounds: rounds.clamp(Self::FEWEST, Self::MOST),
            block,
            reference,
            floor_beside_each: true,
        }
    }
}

/// What one block gave.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// The block's value, which ratios are made of: its median in nanoseconds, or its rate.
    pub(crate) value: f64,
    /// Transactions timed one by one, in nanoseconds; none where that was not done.
    pub(crate) singles: Vec<u64>,
    /// Processor time of both sides per transaction, in nanoseconds.
    pub(crate) cpu_ns: Option<f64>,
}

/// Something that is measured in blocks.
pub(crate) trait Subject {
    /// Its label in the report.
    fn label(&self) -> &str;

    /// How it waits.
    fn wait(&self) -> Option<Wait> {
        None
    }

    /// What kind of thing it is.
    fn class(&self) -> Class;

    /// Whether it gets points, or only serves as the floor.
    fn listed(&self) -> bool {
        true
    }

    /// One block of about that length. Outside its own blocks it disturbs nobody.
    ///
    /// # Errors
    /// If it failed for good: it is left out from then on, and a note says so.
    fn block(&mut self, length: Duration) -> Result<Sample, Error>;
}

/// What was found about one subject.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its label.
    pub(crate) label: String,
    /// How it waits.
    pub(crate) wait: Option<Wait>,
    /// What kind of thing it is.
    pub(crate) class: Class,
    /// What became of its blocks.
    pub(crate) blocks: Blocks,
    /// The blocks that count.
    records: Vec<Record>,
    /// Single times in the blocks that count.
    distribution: Distribution,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    round: u32,
    value: f64,
    to_floor: Option<f64>,
    cpu_ns: Option<f64>,
}

impl Found {
    /// Its point, with ratios to the floor and to the rivals of these labels. `None` if no block of
    /// it was measured.
    pub(crate) fn point(
        &self,
        cores: Cores,
        unit: &str,
        all: &[Self],
        rivals: &[&str],
    ) -> Option<Point> {
        let values: Vec<f64> = self.records.iter().map(|record| record.value).collect();
        let p50 = rounded(median(&values)?);
        let summary = if self.distribution.count() == 0 {
            let mean = rounded(values.iter().sum::<f64>() / values.len() as f64);
            Summary { p50, p90: None, p99: None, p999: None, mean, count: values.len() as u64 }
        } else {
            Summary { p50, ..self.distribution.summary() }
        };
        let to_floor: Vec<f64> = self.records.iter().filter_map(|record| record.to_floor).collect();
        let mut ratios: Vec<Ratio> = ratio("floor", &to_floor).into_iter().collect();
        for rival in all.iter().filter(|rival| {
            rival.label != self.label
                && rival.class != Class::Floor
                && rivals.contains(&rival.label.as_str())
        }) {
            ratios.extend(ratio(&rival.label, &self.ratios_to(rival)));
        }
        let cpu: Vec<f64> = self.records.iter().filter_map(|record| record.cpu_ns).collect();
        Some(Point {
            ratios,
            // Nanoseconds for one are milliseconds for a million.
            cpu_s_per_million: median(&cpu).map(|ns| rounded(ns / 1e3)),
            histogram: self.distribution.buckets(),
            blocks: self.blocks,
            ..Point::new(cores, unit, summary)
        })
    }

    /// Its processor time for a transaction against that of a rival, in the rounds in which a block of
    /// both counts.
    pub(crate) fn cpu_ratio_to(&self, rival: &Self) -> Option<Ratio> {
        let in_round = |round| rival.records.iter().find(|record| record.round == round);
        let ratios: Vec<f64> = self
            .records
            .iter()
            .filter_map(|own| Some(own.cpu_ns? / in_round(own.round)?.cpu_ns?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        ratio(&rival.label, &ratios)
    }

    /// The ratios of the rounds in which a block of both counts.
    fn ratios_to(&self, rival: &Self) -> Vec<f64> {
        let in_round = |round| rival.records.iter().find(|record| record.round == round);
        self.records
            .iter()
            .filter_map(|own| Some(own.value / in_round(own.round)?.value))
            .filter(|ratio| ratio.is_finite())
            .collect()
    }
}

/// The ratios of blocks in three numbers.
pub(crate) fn ratio(to: &str, ratios: &[f64]) -> Option<Ratio> {
    let [q1, q3] = quartiles(ratios)?.map(rounded);
    Some(Ratio { to: to.to_owned(), median: rounded(median(ratios)?), q1, q3 })
}

/// A subject, and what its blocks gave so far.
struct Turn<'a> {
    subject: Box<dyn Subject + 'a>,
    listed: bool,
    resting: bool,
    spent: Duration,
    quiet: Vec<Record>,
    disturbed: Vec<Record>,
    quiet_singles: Distribution,
    disturbed_singles: Distribution,
    blocks: Blocks,
}

impl<'a> Turn<'a> {
    fn new(subject: Box<dyn Subject + 'a>) -> Result<Self, Error> {
        Ok(Self {
            listed: subject.listed(),
            subject,
            resting: false,
            spent: Duration::ZERO,
            quiet: Vec::new(),
            disturbed: Vec::new(),
            quiet_singles: Distribution::new()?,
            disturbed_singles: Distribution::new()?,
            blocks: Blocks::default(),
        })
    }

    fn add(&mut self, round: u32, judged: &Judged) {
        let Sample { value, singles, cpu_ns } = &judged.sample;
        let record = Record { round, value: *value, to_floor: judged.to_floor, cpu_ns: *cpu_ns };
        let (records, distribution) = if judged.disturbed {
            (&mut self.disturbed, &mut self.disturbed_singles)
        } else {
            (&mut self.quiet, &mut self.quiet_singles)
        };
        records.push(record);
        for single in singles {
            distribution.record(*single);
        }
    }

    /// What counts: the quiet blocks; all of them, and a note, where hardly any was quiet.
    fn found(self, plan: Plan, place: &str, context: &Context<'_>) -> Found {
        let Self { subject, mut quiet, disturbed, mut quiet_singles, mut blocks, .. } = self;
        if quiet.len() < plan.rounds as usize / 4 && !disturbed.is_empty() {
            context.note(format!(
                "{} {place}: the machine was quiet in only {} blocks, so {} disturbed ones count too",
                subject.label(),
                quiet.len(),
                disturbed.len(),
            ));
            quiet.extend(disturbed);
            quiet_singles.merge(&self.disturbed_singles);
            blocks.disturbed = 0;
        }
        blocks.kept = u32::try_from(quiet.len()).unwrap_or(u32::MAX);
        Found {
            label: subject.label().to_owned(),
            wait: subject.wait(),
            class: subject.class(),
            blocks,
            records: quiet,
            distribution: quiet_singles,
        }
    }
}

/// A block beside its floors.
struct Judged {
    sample: Sample,
    to_floor: Option<f64>,
    disturbed: bool,
}

/// Measures blocks of all subjects in turns.
///
/// The subject whose label is `floor`, if there is one, is also measured for a moment between the
/// blocks, and the ratio of a block is that to the mean of the two floors beside it. `place` is for
/// notes: "with 64 bytes on two cores".
///
/// # Errors
/// If the floor failed, or every subject.
pub(crate) fn interleave(
    context: &Context<'_>,
    plan: Plan,
    place: &str,
    subjects: Vec<Box<dyn Subject + '_>>,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<Vec<Found>, Error> {
    let turns = subjects.into_iter().map(Turn::new).collect::<Result<Vec<_>, _>>()?;
    let floor = turns.iter().position(|turn| turn.subject.class() == Class::Floor);
    let mut table = Table { context, plan, place, turns, floor, failure: None };
    table.rounds(progress)?;
    let Table { turns, failure, .. } = table;
    let found: Vec<Found> = turns
        .into_iter()
        .filter(|turn| turn.listed)
        .map(|turn| turn.found(plan, place, context))
        .filter(|found| !found.records.is_empty())
        .collect();
    match failure {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// All subjects at one place.
struct Table<'c, 's> {
    context: &'c Context<'c>,
    plan: Plan,
    place: &'c str,
    turns: Vec<Turn<'s>>,
    /// Which one is the floor.
    floor: Option<usize>,
    /// The first failure.
    failure: Option<Error>,
}

impl Table<'_, '_> {
    fn rounds(&mut self, progress: &mut dyn FnMut(&str, f64)) -> Result<(), Error> {
        let listed: Vec<usize> =
            (0..self.turns.len()).filter(|index| self.turns[*index].listed).collect();
        let beside = if self.plan.floor_beside_each { self.plan.reference } else { Duration::ZERO };
        let each = self.plan.block + beside + Duration::from_secs_f64(HANDSHAKES_MS / 1e3);
        let planned = each * self.plan.rounds * u32::try_from(listed.len()).unwrap_or(u32::MAX);
        let start = Instant::now();
        let mut floor = self.reference()?;
        for round in 0..self.plan.rounds {
            if round >= Plan::LEAST && start.elapsed() > planned * OVERTIME {
                self.context.note(format!(
                    "{}: took longer than planned for, ended after {round} of {} rounds",
                    self.place, self.plan.rounds
                ));
                break;
            }
            for (turn, &index) in listed.iter().enumerate() {
                if self.turns[index].resting {
                    continue;
                }
                let part = (f64::from(round) + turn as f64 / listed.len() as f64)
                    / f64::from(self.plan.rounds);
                progress(self.turns[index].subject.label(), part);
                self.block(index, round, &mut floor)?;
                self.rest_if_slow(index, round);
            }
            if !self.plan.floor_beside_each {
                floor = self.reference()?;
            }
        }
        Ok(())
    }

    /// One block that counts, repeated if disturbed.
    fn block(&mut self, index: usize, round: u32, floor: &mut Option<f64>) -> Result<(), Error> {
        let budget = self.plan.rounds / 2;
        for attempt in 1.. {
            let Some(judged) = self.judged(index, floor)? else { return Ok(()) };
            let turn = &mut self.turns[index];
            turn.add(round, &judged);
            if !judged.disturbed {
                break;
            }
            if attempt == ATTEMPTS || turn.blocks.repeated >= budget {
                turn.blocks.disturbed += 1;
                break;
            }
            turn.blocks.repeated += 1;
        }
        Ok(())
    }

    /// One block with its floors. `floor` is the one before, and becomes the one after. `None` if
    /// the subject failed.
    fn judged(&mut self, index: usize, floor: &mut Option<f64>) -> Result<Option<Judged>, Error> {
        let cpus = self.context.cpus;
        let stolen_before = machine::stolen(cpus);
        let start = Instant::now();
        let sample = match self.turns[index].subject.block(self.plan.block) {
            Ok(sample) => sample,
            Err(error) if Some(index) == self.floor => return Err(error),
            Err(error) => {
                self.context.note(format!("left out {}: {error}", self.place));
                self.turns[index].resting = true;
                self.failure.get_or_insert(error);
                return Ok(None);
            }
        };
        self.turns[index].spent += start.elapsed();
        let before = *floor;
        if self.plan.floor_beside_each {
            *floor = self.reference()?;
        }
        let stolen = machine::stolen(cpus) > stolen_before;
        let beside = before.zip(*floor);
        let steady = beside.is_none_or(|(one, other)| one.max(other) <= STEADY * one.min(other));
        let to_floor = beside.map(|(one, other)| sample.value / f64::midpoint(one, other));
        Ok(Some(Judged { sample, to_floor, disturbed: stolen || !steady }))
    }

    /// The floor for a moment.
    fn reference(&mut self) -> Result<Option<f64>, Error> {
        let Some(index) = self.floor else { return Ok(None) };
        let sample = self.turns[index].subject.block(self.plan.reference)?;
        Ok(Some(sample.value))
    }

    /// A subject that takes far longer than planned must not take over the run.
    fn rest_if_slow(&mut self, index: usize, round: u32) {
        let turn = &mut self.turns[index];
        if turn.spent > self.plan.block * self.plan.rounds * PATIENCE && !turn.resting {
            turn.resting = true;
            self.context.note(format!(
                "{} {}: far slower than planned for, ended after {} of {} rounds",
                turn.subject.label(),
                self.place,
                round + 1,
                self.plan.rounds
            ));
        }
    }
}
