//! A glance at three mechanisms, for a demonstration.

use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::laboratory;
use crate::mechanism::{self, Wait};
use crate::options::Options;
use crate::report::{Cores, Point, Series};
use crate::table;

/// What is compared, the first being what the others are compared with.
const COMPARED: [&str; 3] = ["rendez-adaptive", "unix-stream", "pipe"];

/// Bytes of each request and answer.
const PAYLOAD: usize = 40;

/// How long it may take, in seconds.
const SECONDS: u32 = 2;

/// A few mechanisms beside each other.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Their rows, the one that the others are compared with first.
    pub rows: Vec<Row>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// One mechanism of a comparison. Times are in nanoseconds, for a whole round trip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name and wait policy: `rendez-adaptive`.
    pub label: String,
    /// The name alone: `rendez`.
    pub mechanism: String,
    /// How both sides wait.
    pub wait: Option<Wait>,
    /// Bytes of each request and of each answer.
    pub payload_bytes: usize,
    /// 2 if client and partner had a core each, 1 if they shared one.
    pub cores: usize,
    /// The median.
    pub p50_ns: u64,
    /// 99 of 100 round trips took no longer.
    pub p99_ns: u64,
    /// How many times the floor's; null if the machine has only one processor.
    pub ratio_to_floor: Option<f64>,
}

impl Row {
    fn new(series: &Series, point: &Point) -> Self {
        let name = mechanism::find(&series.label).map_or(&*series.label, |one| one.name());
        Self {
            label: series.label.clone(),
            mechanism: name.to_owned(),
            wait: series.wait,
            payload_bytes: PAYLOAD,
            cores: point.cores.processors(),
            p50_ns: point.summary.p50.round() as u64,
            p99_ns: point.summary.p99.unwrap_or(point.summary.p50).round() as u64,
            ratio_to_floor: point.ratio_to("floor").map(|ratio| ratio.median),
        }
    }
}

impl Comparison {
    /// As an aligned table: median, how many times the first row's, a bar.
    #[must_use]
    pub fn table(&self, color: bool) -> String {
        table::comparison(&self.rows, color)
    }
}

/// Compares `rendez` with a Unix stream socket and a pipe: 40 bytes each way, on two cores if there
/// are two. It takes a second or two. `exe` is as in [`Options::exe`].
///
/// # Errors
/// As for [`run`](crate::run).
pub fn quick_compare(exe: &Path) -> Result<Comparison, Error> {
    let mut options = Options::new(exe);
    options.quick = true;
    options.experiments = vec!["size".into()];
    options.only = COMPARED.map(String::from).to_vec();
    options.payloads = vec![PAYLOAD];
    options.cores = vec![if laboratory::processors() > 1 { Cores::Two } else { Cores::One }];
    options.seconds = Some(SECONDS);
    let report = laboratory::run(&options, &mut |_| {})?;
    let mut notes = report.notes;
    let mut rows = Vec::new();
    for experiment in report.experiments {
        notes.extend(experiment.notes);
        for wanted in COMPARED {
            let series = experiment.series.iter().filter(|series| series.label == wanted);
            rows.extend(
                series.flat_map(|series| series.points.iter().map(|point| Row::new(series, point))),
            );
        }
    }
    Ok(Comparison { rows, notes })
}
