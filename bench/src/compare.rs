//! What changed between two reports.
//!
//! Absolute times of two runs say little, even on one machine. So where a point of both reports has
//! a ratio to the same reference (the floor, or else another series), it is these ratios that are
//! compared, and their quartiles are the spread: a change is one that lies beyond it.

use serde::Serialize;

use crate::compare_table;
use crate::report::{Cores, Experiment, PER_SECOND, Point, Report, Series};
use crate::statistics::rounded;
use crate::units::{tick, visible};

/// Without a spread, a factor up to this is taken for noise.
const NOISE: f64 = 1.25;

/// A change by a smaller factor is none, whatever the spread: two connections of one mechanism, whose
/// pages lie elsewhere, differ by as much, and the spread of one connection's blocks does not show
/// it.
const MARGIN: f64 = 1.1;

/// Two reports beside each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changes {
    /// Why the comparison may mean little: other machines, other Linux, other ways to run.
    pub warnings: Vec<String>,
    /// Every point that both have, in the order of the first report.
    pub changes: Vec<Change>,
    /// What only the first report has: experiment and series.
    pub only_first: Vec<String>,
    /// What only the second report has.
    pub only_second: Vec<String>,
}

/// One point, in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The experiment's name.
    pub experiment: String,
    /// The series' label.
    pub series: String,
    /// On how many cores.
    pub cores: Cores,
    /// Where on the axis, or which case; empty if there is only one place.
    pub at: String,
    /// Unit of the values.
    pub unit: String,
    /// The value in the first report.
    pub first: f64,
    /// The value in the second.
    pub second: f64,
    /// What both were measured against, if `ratio` is one of ratios to that; null if it is one of the
    /// values themselves.
    pub against: Option<String>,
    /// How many times the first the second is.
    pub ratio: f64,
    /// From where to where that ratio may lie, by the quartiles of both; null if they are not known.
    pub spread: Option<[f64; 2]>,
    /// What to make of it.
    pub verdict: Verdict,
}

/// What to make of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within the spread (where none is known, within a quarter), or by less than a tenth.
    Same,
    /// Beyond it, for the better.
    Better,
    /// Beyond it, for the worse.
    Worse,
}

impl Changes {
    /// Compares two reports, point by point.
    #[must_use]
    pub fn between(first: &Report, second: &Report) -> Self {
        let mut changes = Vec::new();
        let mut only_first = Vec::new();
        for experiment in &first.experiments {
            let other = second.experiments.iter().find(|other| other.name == experiment.name);
            for series in &experiment.series {
                let same = other.and_then(|other| series_of(other, series));
                let before = changes.len();
                for point in &series.points {
                    let other = same.and_then(|same| point_of(same, point));
                    if let Some(other) = other {
                        changes.push(change(experiment, series, point, other));
                    }
                }
                if changes.len() - before < series.points.len() {
                    only_first.push(missing(experiment, series, changes.len() - before));
                }
            }
        }
        let mut only_second = Vec::new();
        for experiment in &second.experiments {
            let other = first.experiments.iter().find(|other| other.name == experiment.name);
            for series in &experiment.series {
                let same = other.and_then(|other| series_of(other, series));
                let known = series
                    .points
                    .iter()
                    .filter(|point| same.is_some_and(|same| point_of(same, point).is_some()))
                    .count();
                if known < series.points.len() {
                    only_second.push(missing(experiment, series, known));
                }
            }
        }
        Self { warnings: warnings(first, second), changes, only_first, only_second }
    }

    /// As an aligned table for a terminal.
    #[must_use]
    pub fn table(&self, color: bool) -> String {
        compare_table::table(self, color)
    }

    /// How many changes have that verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.changes.iter().filter(|change| change.verdict == verdict).count()
    }
}

fn series_of<'a>(experiment: &'a Experiment, like: &Series) -> Option<&'a Series> {
    experiment.series.iter().find(|series| series.label == like.label)
}

fn point_of<'a>(series: &'a Series, like: &Point) -> Option<&'a Point> {
    series.points.iter().find(|point| {
        (point.x, &point.case, point.cores, &point.unit)
            == (like.x, &like.case, like.cores, &like.unit)
    })
}

/// A series of which some points have no counterpart.
fn missing(experiment: &Experiment, series: &Series, known: usize) -> String {
    let lacking = series.points.len() - known;
    if known == 0 {
        format!("{} {}", experiment.name, series.label)
    } else {
        format!(
            "{} {} ({lacking} of {} points)",
            experiment.name,
            series.label,
            series.points.len()
        )
    }
}

fn change(experiment: &Experiment, series: &Series, first: &Point, second: &Point) -> Change {
    let common =
        first.ratios.iter().filter_map(|ratio| Some((ratio, second.ratio_to(&ratio.to)?))).find(
            |(one, other)| [one.median, one.q1, other.median, other.q1].iter().all(|at| *at > 0.0),
        );
    let (against, ratio, spread) = match common {
        Some((one, other)) => (
            Some(visible(&one.to)),
            other.median / one.median,
            Some([other.q1 / one.q3, other.q3 / one.q1].map(rounded)),
        ),
        None => (None, second.summary.p50 / first.summary.p50, None),
    };
    let [low, high] = spread.unwrap_or([ratio / NOISE, ratio * NOISE]);
    let more_is_better = first.unit == PER_SECOND;
    let verdict = if low > 1.0 && ratio > MARGIN {
        if more_is_better { Verdict::Better } else { Verdict::Worse }
    } else if high < 1.0 && ratio < 1.0 / MARGIN {
        if more_is_better { Verdict::Worse } else { Verdict::Better }
    } else {
        Verdict::Same
    };
    let x = first.x.zip(experiment.axis.as_ref()).map(|(x, axis)| tick(&axis.unit, x));
    Change {
        experiment: visible(&experiment.name),
        series: visible(&series.label),
        cores: first.cores,
        at: visible(&[first.case.clone(), x].into_iter().flatten().collect::<Vec<_>>().join(", ")),
        unit: visible(&first.unit),
        first: first.summary.p50,
        second: second.summary.p50,
        against,
        ratio: rounded(ratio),
        spread,
        verdict,
    }
}

/// What differs between the circumstances.
fn warnings(first: &Report, second: &Report) -> Vec<String> {
    let (one, other) = (&first.machine, &second.machine);
    let differ = |what: &str, one: &str, other: &str| {
        (one != other).then(|| format!("{what} differs: {one:?}, then {other:?}"))
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let used = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
    let run = |quick| if quick { "quick" } else { "full" };
    [
        differ("the processor", &one.cpu_model, &other.cpu_model),
        differ("the instruction set", &one.architecture, &other.architecture),
        differ("Linux", &one.linux, &other.linux),
        differ("the hypervisor", &text(&one.hypervisor), &text(&other.hypervisor)),
        differ("the governor", &text(&one.governor), &text(&other.governor)),
        differ(
            "the number of processors",
            &one.cores_online.to_string(),
            &other.cores_online.to_string(),
        ),
        differ("which processors were used", &used(&one.cores_used), &used(&other.cores_used)),
        differ("the kind of run", run(first.quick), run(second.quick)),
        (one.mitigations != other.mitigations)
            .then(|| "the mitigations of processor flaws differ".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Changes, Verdict};
    use crate::report::samples::report;
    use crate::report::{PER_SECOND, Report};

    /// The sample, with Rendez twice as slow when it spins, and some noise elsewhere.
    pub(crate) fn changed() -> Report {
        let mut report = report();
        for series in &mut report.experiments[0].series {
            for point in &mut series.points {
                let by = if series.label == "rendez-spin" { 2.0 } else { 1.05 };
                point.summary.p50 *= by;
                for ratio in &mut point.ratios {
                    ratio.median *= by;
                    ratio.q1 *= by;
                    ratio.q3 *= by;
                }
            }
        }
        report.experiments[1].series[0].points[0].summary.p50 *= 3.0;
        report.experiments[3].series[0].points.remove(0);
        report
    }

    #[test]
    fn a_report_beside_itself_has_not_changed() {
        let report = report();
        let changes = Changes::between(&report, &report);
        let series = report.experiments.iter().flat_map(|experiment| &experiment.series);
        let points: usize = series.map(|series| series.points.len()).sum();
        assert_eq!(changes.changes.len(), points);
        assert_eq!(changes.count(Verdict::Same), changes.changes.len());
        assert!(changes.warnings.is_empty() && changes.only_first.is_empty());
        assert!(changes.only_second.is_empty());
    }

    #[test]
    fn what_changed_beyond_the_spread_is_marked() {
        let changes = Changes::between(&report(), &changed());
        for change in &changes.changes {
            let expected = match change.series.as_str() {
                "rendez-spin" if change.experiment == "size" => Verdict::Worse,
                "rendez-adaptive" if change.at == "1" => {
                    assert_eq!(change.unit, PER_SECOND);
                    Verdict::Better
                }
                _ => Verdict::Same,
            };
            assert_eq!(change.verdict, expected, "{change:?}");
        }
        let spin = &changes.changes[2];
        assert_eq!((spin.series.as_str(), spin.at.as_str()), ("rendez-spin", "8 B"));
        assert_eq!(spin.against.as_deref(), Some("floor"));
        assert!((spin.ratio - 2.0).abs() < 1e-9);
        let [low, high] = spin.spread.expect("both have quartiles");
        assert!((low - 1.636).abs() < 1e-9 && (high - 2.444).abs() < 1e-9, "{low} {high}");
        assert_eq!(changes.only_first, ["capabilities rendez (1 of 2 points)"]);
        assert!(changes.only_second.is_empty());
        let back = Changes::between(&changed(), &report());
        assert_eq!(back.only_second, changes.only_first);
    }

    #[test]
    fn other_machines_are_warned_of() {
        let mut other = report();
        other.machine.cpu_model = "Another".into();
        other.machine.governor = Some("powersave".into());
        other.quick = false;
        let warnings = Changes::between(&report(), &other).warnings;
        for expected in ["the processor", "Another", "powersave", "full"] {
            assert!(warnings.iter().any(|warning| warning.contains(expected)), "{warnings:?}");
        }
        assert_eq!(warnings.len(), 3);
    }
}
