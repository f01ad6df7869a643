//! What a run found: the model of a report, format 2.
//!
//! A report holds **experiments**; each asks one question and holds **series**, one per thing that is
//! compared; each series holds **points**, one per place on the experiment's axis (or per case, where
//! there is no axis) and number of cores. Everything that a reader may want to doubt is in a point:
//! the tail, the spread of the ratios, the distribution, and how many blocks counted.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mechanism::Wait;
use crate::{Error, Machine, html, json, table};

/// The number of this form. A reader refuses any other.
pub const FORMAT: u32 = 2;

/// Unit of a point whose value is a time in nanoseconds.
pub const NS: &str = "ns";
/// Unit of a point whose value is a rate: transactions (or messages) per second.
pub const PER_SECOND: &str = "per s";
/// Unit of a point whose value is an amount of memory.
pub const BYTES: &str = "bytes";
/// Unit of a point whose value is processor time in nanoseconds.
pub const NS_CPU: &str = "ns cpu";

/// The case, in an experiment whose cases are the steps of a whole, that is the whole itself,
/// measured on its own.
pub const WHOLE: &str = "whole";

/// What a run of the laboratory found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// Whether blocks were few and short.
    pub quick: bool,
    /// What was asked, and found, in the order in which it was measured.
    pub experiments: Vec<Experiment>,
    /// What a reader has to know about all of it.
    pub notes: Vec<String>,
}

impl Report {
    /// The report as aligned tables for a terminal, with bars.
    #[must_use]
    pub fn table(&self, color: bool) -> String {
        table::report(self, color)
    }

    /// The report as JSON, a line per point.
    ///
    /// # Errors
    /// None that is known; a report holds nothing that JSON cannot express.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        json::write(self)
    }

    /// The report as one page that needs nothing else: plots, tables, and how to read them.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Reads a report that [`to_json`](Self::to_json) wrote into a file.
    ///
    /// # Errors
    /// If the file cannot be read, is cut off, is no JSON, no report, or one of another format. Each
    /// names the file and says what to do.
    pub fn load(path: &Path) -> Result<Self, Error> {
        json::load(path)
    }
}

/// One question, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Its name on the command line: `size`, `load`, `breakdown`.
    pub name: String,
    /// A heading.
    pub title: String,
    /// What it asks, in one sentence.
    pub question: String,
    /// How it is drawn.
    pub plot: Plot,
    /// What its points differ in; none if they differ in their [`case`](Point::case) or not at all.
    pub axis: Option<Axis>,
    /// What is compared.
    pub series: Vec<Series>,
    /// What a reader has to know: what was left out and why, and the like.
    pub notes: Vec<String>,
}

impl Experiment {
    /// An experiment without series yet.
    #[must_use]
    pub fn new(name: &str, title: &str, question: &str, plot: Plot, axis: Option<Axis>) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            question: question.to_owned(),
            plot,
            axis,
            series: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a point to the series of that label, which is made at the end if there is none yet.
    pub fn add(&mut self, label: &str, wait: Option<Wait>, class: Class, point: Point) {
        match self.series.iter_mut().find(|series| series.label == label) {
            Some(series) => series.points.push(point),
            None => self.series.push(Series {
                label: label.to_owned(),
                wait,
                class,
                points: vec![point],
            }),
        }
    }
}

/// How an experiment is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plot {
    /// A line per series, along the axis.
    Lines,
    /// A bar per series and case.
    Bars,
    /// A stack per series, whose parts are the cases; [`WHOLE`] is drawn beside it.
    Stack,
}

/// What the points of an experiment differ in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// `payload`, `clients`, `arrivals`.
    pub name: String,
    /// `bytes`, `per s`; empty for a mere number.
    pub unit: String,
    /// Whether equal factors are to be equal distances.
    pub logarithmic: bool,
}

impl Axis {
    /// A logarithmic axis: nearly everything here spans orders of magnitude.
    #[must_use]
    pub fn logarithmic(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), logarithmic: true }
    }
}

/// One of the things that are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name, with the wait policy if there is a choice: `rendez-spin`, `pipe`.
    pub label: String,
    /// How both sides wait, so that like is compared with like; null where it is not known.
    pub wait: Option<Wait>,
    /// What kind of thing it is.
    pub class: Class,
    /// What was found.
    pub points: Vec<Point>,
}

/// What kind of thing a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The least that is possible.
    Floor,
    /// A classical mechanism, bare.
    Baseline,
    /// Rendez.
    Rendez,
    /// Another framework.
    Peer,
}

/// On how many processors something was measured, and whether those may halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cores {
    /// Client and partner have a processor each.
    Two,
    /// The same, with a spinner of idle priority on each, so that neither ever halts.
    Awake,
    /// Client and partner share one.
    One,
}

impl Cores {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 3] = [Self::Two, Self::Awake, Self::One];

    /// How many processors that takes.
    #[must_use]
    pub const fn processors(self) -> usize {
        match self {
            Self::Two | Self::Awake => 2,
            Self::One => 1,
        }
    }

    /// The name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Two => "two",
            Self::Awake => "awake",
            Self::One => "one",
        }
    }

    /// For a heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Two => "two cores",
            Self::Awake => "two cores, kept awake",
            Self::One => "one core",
        }
    }
}

/// One place of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where on the axis.
    pub x: Option<f64>,
    /// What was done, in an experiment without an axis: `mint`, `encode`.
    pub case: Option<String>,
    /// On how many cores.
    pub cores: Cores,
    /// Unit of the summary: [`NS`], [`PER_SECOND`], [`BYTES`], [`NS_CPU`].
    pub unit: String,
    /// What was found.
    pub summary: Summary,
    /// How many times the value of another series at the same place, measured in the same moment.
    pub ratios: Vec<Ratio>,
    /// Processor seconds of both sides together per million transactions, waiting included.
    pub cpu_s_per_million: Option<f64>,
    /// How many transactions took no longer than so many nanoseconds, and longer than the bound
    /// before: `[upper bound, count]`, ascending, empty buckets left out.
    pub histogram: Vec<(f64, u64)>,
    /// What became of the blocks.
    pub blocks: Blocks,
}

impl Point {
    /// A point with a summary and nothing else yet: fill in the rest with struct update syntax.
    #[must_use]
    pub fn new(cores: Cores, unit: &str, summary: Summary) -> Self {
        Self {
            x: None,
            case: None,
            cores,
            unit: unit.to_owned(),
            summary,
            ratios: Vec::new(),
            cpu_s_per_million: None,
            histogram: Vec::new(),
            blocks: Blocks::default(),
        }
    }

    /// The ratio to the series of that label, if it was measured.
    #[must_use]
    pub fn ratio_to(&self, label: &str) -> Option<&Ratio> {
        self.ratios.iter().find(|ratio| ratio.to == label)
    }
}

/// A distribution in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median (for what was measured in blocks: of the blocks' medians).
    pub p50: f64,
    /// 90 of 100 were no greater; null where only one value per block is known, as for rates.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1000.
    pub p999: Option<f64>,
    /// The mean.
    pub mean: f64,
    /// How many values there were.
    pub count: u64,
}

impl Summary {
    /// Of one value.
    #[must_use]
    pub const fn single(value: f64) -> Self {
        Self { p50: value, p90: None, p99: None, p999: None, mean: value, count: 1 }
    }
}

/// How many times another's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Label of the other series.
    pub to: String,
    /// Median of the blocks' ratios.
    pub median: f64,
    /// Their first quartile.
    pub q1: f64,
    /// Their third quartile.
    pub q3: f64,
}

/// What became of the blocks of a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Those that count.
    pub kept: u32,
    /// Those given up, since every repetition was disturbed too.
    pub disturbed: u32,
    /// Times that a disturbed one was measured again.
    pub repeated: u32,
}

#[cfg(test)]
pub(crate) mod samples;
