//! A report for a terminal: aligned tables with bars.

use std::fmt::Write;

use crate::glance::Row;
use crate::paint::{BOLD, DIM, NOTE, OURS, Paint, bar, line, style_of};
use crate::report::{Axis, Cores, Experiment, NS, Plot, Point, Report, Series, WHOLE};
use crate::units::{count, short, tick, value};

/// Ratios are shown in bars as long as their logarithm; this one at least fills a bar.
const LEAST: f64 = 2.0;

/// From so many cases on, each is a line instead of a section.
const MANY: usize = 3;

/// Bars of values that differ by more than this factor are as long as their logarithm.
const WIDE: f64 = 40.0;

/// A whole report.
pub(crate) fn report(report: &Report, color: bool) -> String {
    let paint = Paint(color);
    let machine = &report.machine;
    let mut out = String::new();
    line(&mut out, &paint.with(BOLD, "The cost of messages between processes"));
    line(
        &mut out,
        &format!(
            "Linux {} · {} · {} online",
            machine.linux.split(' ').next().unwrap_or_default(),
            machine.cpu_model,
            count(machine.cores_online, "processor"),
        ),
    );
    for note in &machine.topology {
        line(&mut out, &paint.with(DIM, &format!("  {note}")));
    }
    for experiment in &report.experiments {
        one(&mut out, experiment, paint);
    }
    line(&mut out, "");
    let explained = "× floor: to two processes that pass one cache line on two cores, measured beside \
                     each block. “Half within”: quartiles of the blocks' ratios.";
    line(&mut out, &paint.with(DIM, explained));
    line(&mut out, &paint.with(DIM, &blocks(report)));
    for note in &report.notes {
        line(&mut out, &paint.with(NOTE, &format!("Note: {note}")));
    }
    out
}

/// What became of all blocks.
fn blocks(report: &Report) -> String {
    let [mut kept, mut repeated, mut given_up] = [0, 0, 0];
    let series = report.experiments.iter().flat_map(|experiment| &experiment.series);
    for point in series.flat_map(|series| &series.points) {
        kept += point.blocks.kept;
        repeated += point.blocks.repeated;
        given_up += point.blocks.disturbed;
    }
    format!(
        "Blocks: {kept} kept; {repeated} times one was disturbed and repeated; {given_up} given up."
    )
}

/// One experiment.
fn one(out: &mut String, experiment: &Experiment, paint: Paint) {
    line(out, "");
    line(out, &paint.with(BOLD, &format!("{} ({})", experiment.title, experiment.name)));
    line(out, &paint.with(DIM, &experiment.question));
    let mut places: Vec<(Cores, &str)> = Vec::new();
    for point in experiment.series.iter().flat_map(|series| &series.points) {
        if !places.contains(&(point.cores, &point.unit)) {
            places.push((point.cores, &point.unit));
        }
    }
    for (cores, unit) in places {
        let part = Part { experiment, cores, unit, paint };
        match (experiment.plot, &experiment.axis) {
            (Plot::Lines, Some(axis)) => part.along(out, axis),
            (Plot::Stack, _) => part.stacks(out),
            _ => part.cases(out),
        }
    }
    for note in &experiment.notes {
        line(out, &paint.with(NOTE, &format!("Note: {note}")));
    }
}

/// The points of an experiment on that many cores, in one unit.
#[derive(Clone, Copy)]
struct Part<'a> {
    experiment: &'a Experiment,
    cores: Cores,
    unit: &'a str,
    paint: Paint,
}

impl<'a> Part<'a> {
    fn points(self) -> impl Iterator<Item = (&'a Series, &'a Point)> {
        self.experiment
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(move |point| (series, point)))
            .filter(move |(_, point)| point.cores == self.cores && point.unit == self.unit)
    }

    fn name_width(self) -> usize {
        self.points().map(|(series, _)| series.label.chars().count()).max().unwrap_or(0)
    }

    fn title(self, out: &mut String, more: Option<&str>) {
        let title: Vec<&str> = [Some(self.cores.title()), more].into_iter().flatten().collect();
        line(out, "");
        line(out, &self.paint.with(BOLD, &title.join(", ")));
    }

    /// Along an axis: everything about its first place, if there is a floor to compare with; then
    /// the medians of all places.
    fn along(self, out: &mut String, axis: &Axis) {
        let mut places: Vec<f64> = self.points().filter_map(|(_, point)| point.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let Some(first) = places.first() else { return self.cases(out) };
        let at = format!("{} {}", axis.name, tick(&axis.unit, *first));
        let floor = self.points().any(|(_, point)| point.ratio_to("floor").is_some());
        if floor || places.len() == 1 {
            self.title(out, Some(&at));
            self.rows(out, |point| point.x == Some(*first));
        }
        if places.len() > 1 {
            self.title(out, Some(&format!("by {}", axis.name)));
            self.matrix(out, axis, &places);
        }
    }

    /// A column per place.
    fn matrix(self, out: &mut String, axis: &Axis, places: &[f64]) {
        let names = self.name_width();
        let mut head = format!("  {:names$}", "");
        for x in places {
            let _ = write!(head, "{:>10}", tick(&axis.unit, *x));
        }
        line(out, &self.paint.with(DIM, &head));
        for series in &self.experiment.series {
            let at = |x: f64| {
                self.points().find(|(one, point)| one.label == series.label && point.x == Some(x))
            };
            if places.iter().all(|x| at(*x).is_none()) {
                continue;
            }
            let style = style_of(series.class);
            let mut row =
                format!("  {}", self.paint.with(style, &format!("{:names$}", series.label)));
            for x in places {
                let cell = at(*x)
                    .map_or_else(String::new, |(_, point)| value(self.unit, point.summary.p50));
                let _ = write!(row, "{}", self.paint.with(style, &format!("{cell:>10}")));
            }
            line(out, &row);
        }
    }

    /// A section per case, or per place of an axis.
    fn cases(self, out: &mut String) {
        let mut cases: Vec<(Option<&str>, Option<f64>)> = Vec::new();
        for (_, point) in self.points() {
            let case = (point.case.as_deref(), point.x);
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        if cases.len() >= MANY && self.experiment.plot == Plot::Bars {
            return self.table_of_cases(out, &cases);
        }
        for (case, x) in cases {
            let axis = self.experiment.axis.as_ref();
            let at = x.zip(axis).map(|(x, axis)| format!("{} {}", axis.name, tick(&axis.unit, x)));
            let words: Vec<&str> = [case, at.as_deref()].into_iter().flatten().collect();
            self.title(out, Some(words.join(", ").as_str()).filter(|words| !words.is_empty()));
            self.rows(out, |point| point.case.as_deref() == case && point.x == x);
        }
    }

    /// A line per case, a column per series: where the cases are many, and each is compared in itself.
    fn table_of_cases(self, out: &mut String, cases: &[(Option<&str>, Option<f64>)]) {
        let series: Vec<&Series> = self
            .experiment
            .series
            .iter()
            .filter(|series| self.points().any(|(one, _)| one.label == series.label))
            .collect();
        let width = |text: &str| text.chars().count();
        let names = cases.iter().map(|(case, _)| case.map_or(0, width)).max().unwrap_or(0);
        self.title(out, None);
        let mut head = format!("  {:names$}", "");
        for one in &series {
            let _ = write!(head, "  {:>10}", one.label);
        }
        line(out, &self.paint.with(DIM, &head));
        for (case, x) in cases {
            let mut row = format!("  {:names$}", case.unwrap_or_default());
            for one in &series {
                let point = self.points().find(|(other, point)| {
                    other.label == one.label && (point.case.as_deref(), point.x) == (*case, *x)
                });
                let cell = point
                    .map_or_else(String::new, |(_, point)| value(self.unit, point.summary.p50));
                let wide = width(&one.label).max(10);
                let _ = write!(
                    row,
                    "  {}",
                    self.paint.with(style_of(one.class), &format!("{cell:>wide$}"))
                );
            }
            line(out, &row);
        }
    }

    /// Everything about the points of one place, with bars.
    fn rows(self, out: &mut String, here: impl Fn(&Point) -> bool) {
        let names = self.name_width();
        let rows: Vec<(&Series, &Point)> = self.points().filter(|(_, point)| here(point)).collect();
        let has = |there: fn(&Point) -> bool| rows.iter().any(|(_, point)| there(point));
        let floor = has(|point| point.ratio_to("floor").is_some());
        let tail = has(|point| point.summary.p99.is_some());
        let cpu = has(|point| point.cpu_s_per_million.is_some());
        let mut head = format!("  {:names$}{:>10}", "", if tail { "p50" } else { "" });
        for (there, text) in
            [(tail, "       p99"), (floor, "  × floor  half within  "), (cpu, " CPU s/M")]
        {
            if there {
                head.push_str(text);
            }
        }
        line(out, &self.paint.with(DIM, &head));
        let lengths = lengths(&rows, floor);
        for ((series, point), length) in rows.iter().zip(lengths) {
            let style = style_of(series.class);
            let mut row = format!(
                "  {}{:>10}",
                self.paint.with(style, &format!("{:names$}", series.label)),
                value(self.unit, point.summary.p50)
            );
            if tail {
                let p99 = point.summary.p99.map(|p99| value(self.unit, p99)).unwrap_or_default();
                let _ = write!(row, "{p99:>10}");
            }
            if floor {
                let ratio = point.ratio_to("floor");
                let median = ratio.map_or_else(|| "–".to_owned(), |ratio| short(ratio.median));
                let spread = ratio
                    .map(|ratio| format!("{}–{}", short(ratio.q1), short(ratio.q3)))
                    .unwrap_or_default();
                let _ = write!(
                    row,
                    "{}  {spread:<13}",
                    self.paint.with(style, &format!("{median:>9}"))
                );
            }
            if cpu {
                let seconds = point
                    .cpu_s_per_million
                    .map(|seconds| format!("{seconds:.2}"))
                    .unwrap_or_default();
                let _ = write!(row, "{seconds:>8}");
            }
            if let Some(length) = length {
                let _ = write!(row, "  {}", self.paint.with(style, &bar(length)));
            }
            line(out, &row);
        }
    }

    /// The parts of each whole, in the order in which they come.
    fn stacks(self, out: &mut String) {
        for series in &self.experiment.series {
            let points: Vec<&Point> = self
                .points()
                .filter(|(one, _)| one.label == series.label)
                .map(|(_, point)| point)
                .collect();
            let (whole, parts): (Vec<&Point>, Vec<&Point>) =
                points.iter().partition(|point| point.case.as_deref() == Some(WHOLE));
            if parts.is_empty() {
                continue;
            }
            let sum: f64 = parts.iter().map(|point| point.summary.p50).sum();
            let names = parts
                .iter()
                .filter_map(|point| point.case.as_ref())
                .map(|case| case.chars().count());
            let names = names.max().unwrap_or(0).max(WHOLE.len());
            self.title(out, Some(&series.label));
            for point in parts {
                let part = point.summary.p50 / sum;
                let row = format!(
                    "  {:names$}{:>10}{:>7} %  {}",
                    point.case.as_deref().unwrap_or_default(),
                    value(self.unit, point.summary.p50),
                    short(part * 100.0),
                    self.paint.with(style_of(series.class), &bar(part)),
                );
                line(out, &row);
            }
            let beside = whole.first().map_or_else(String::new, |whole| {
                let whole = whole.summary.p50;
                format!(
                    "; measured as a whole {}, of which that is {} %",
                    value(self.unit, whole),
                    short(sum / whole * 100.0)
                )
            });
            let total = format!("  {:names$}{:>10}{beside}", "sum", value(self.unit, sum));
            line(out, &self.paint.with(DIM, &total));
        }
    }
}

/// How long the bars are, from 0 to 1: by the ratio to the floor where there is one, or else by the
/// value.
fn lengths(rows: &[(&Series, &Point)], floor: bool) -> Vec<Option<f64>> {
    let ratio = |point: &Point| point.ratio_to("floor").map(|ratio| ratio.median.max(1.0));
    let values = || rows.iter().map(|(_, point)| point.summary.p50).filter(|value| *value > 0.0);
    let longest = rows.iter().filter_map(|(_, point)| ratio(point)).fold(LEAST, f64::max);
    let high = values().fold(0.0, f64::max);
    let low = values().fold(f64::INFINITY, f64::min);
    rows.iter()
        .map(|(_, point)| {
            let value = point.summary.p50;
            if rows.len() < 2 || value <= 0.0 {
                None
            } else if floor {
                ratio(point).map(|ratio| ratio.ln() / longest.ln())
            } else if high / low > WIDE {
                Some(0.05 + 0.95 * (value / low).ln() / (high / low).ln())
            } else {
                Some(value / high)
            }
        })
        .collect()
}

/// A few rows beside one of them: times, and how many times that one's.
pub(crate) fn comparison(rows: &[Row], color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    let names = rows.iter().map(|row| row.label.len()).max().unwrap_or(0);
    let first = rows.first().map(|row| row.p50_ns.max(1) as f64);
    let ratio =
        |row: &Row| match (row.ratio_to_floor, rows.first().and_then(|row| row.ratio_to_floor)) {
            (Some(this), Some(first)) if first > 0.0 => this / first,
            _ => row.p50_ns as f64 / first.unwrap_or(1.0),
        };
    let longest = rows.iter().map(ratio).fold(LEAST, f64::max);
    for row in rows {
        let ratio = ratio(row);
        let style = if row.mechanism == "rendez" { OURS } else { anstyle::Style::new() };
        line(
            &mut out,
            &format!(
                "  {}{:>10}{:>9}  {}",
                paint.with(style, &format!("{:names$}", row.label)),
                value(NS, row.p50_ns as f64),
                format!("{} ×", short(ratio)),
                paint.with(style, &bar(ratio.max(1.0).ln() / longest.ln())),
            ),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{comparison, report as table};
    use crate::glance::Row;
    use crate::report::samples::report;

    #[test]
    fn a_table_names_every_series_place_part_and_note() {
        let report = report();
        let plain = table(&report, false);
        for text in [
            "floor",
            "rendez-spin",
            "rendez-block",
            "pipe",
            "190",
            "171–209",
            "4 KiB",
            "two cores",
            "one core",
            "1.90 M/s",
            "cross",
            "97.6 %",
            "mint",
            "12.0 µs",
            "something to know",
            "left out <b>",
            "2000 kept",
            "30 times",
            "10 given up",
        ] {
            assert!(plain.contains(text), "{text} in\n{plain}");
        }
        assert!(!plain.contains('\u{1b}'), "no colour unless asked for");
        assert!(plain.lines().all(|line| !line.ends_with(' ')), "{plain}");
    }

    #[test]
    fn colours_change_nothing_else() {
        let report = report();
        let (plain, coloured) = (table(&report, false), table(&report, true));
        let mut stripped = String::new();
        let mut inside = false;
        for letter in coloured.chars() {
            match letter {
                '\u{1b}' => inside = true,
                'm' if inside => inside = false,
                _ if inside => {}
                other => stripped.push(other),
            }
        }
        assert_ne!(plain, coloured);
        // A blank at the end of a line may hide behind a colour.
        let lines =
            |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&stripped), lines(&plain));
    }

    #[test]
    fn a_comparison_starts_at_one() {
        let row = |label: &str, p50_ns, ratio| Row {
            label: label.into(),
            mechanism: label.into(),
            wait: None,
            payload_bytes: 40,
            cores: 2,
            p50_ns,
            p99_ns: p50_ns,
            ratio_to_floor: ratio,
        };
        let rows = [row("rendez", 370, Some(1.2)), row("pipe", 59_000, Some(190.0))];
        let text = comparison(&rows, false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("1.00 ×"), "{text}");
        assert!(lines[1].contains("158 ×"), "{text}");
    }
}
