//! Tables for a terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::glance::Row;
use crate::report::{self, Class, Experiment, Point, Report};

/// Columns of the longest bar.
const BAR: usize = 24;

/// Bars of one to eight eighths.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

struct Paint(bool);

impl Paint {
    /// The text in that style. The text is padded already: escape codes have no width.
    fn with(&self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const OURS: Style = AnsiColor::Green.on_default().bold();
const NOTE: Style = AnsiColor::Yellow.on_default();

const fn style_of(class: Class) -> Style {
    match class {
        Class::Rendez => OURS,
        Class::Floor => DIM,
        Class::Baseline | Class::Peer => Style::new(),
    }
}

/// A whole report.
pub(crate) fn report(report: &Report, color: bool) -> String {
    let paint = Paint(color);
    let machine = &report.machine;
    let mut out = String::new();
    line(&mut out, &paint.with(BOLD, "The cost of messages between two processes"));
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
        table_of(&mut out, experiment, &paint);
    }
    line(&mut out, "");
    for note in &report.notes {
        line(&mut out, &paint.with(NOTE, &format!("Note: {note}")));
    }
    out
}

/// One experiment.
fn table_of(out: &mut String, experiment: &Experiment, paint: &Paint) {
    line(out, "");
    line(out, &paint.with(BOLD, &experiment.title));
    line(out, &paint.with(DIM, &experiment.question));
    let points = || {
        experiment
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(move |point| (series, point)))
    };
    let name_width =
        experiment.series.iter().map(|series| series.label.len()).max().unwrap_or(0).max(9);
    let longest = longest(points().filter_map(|(_, point)| Some(point.ratio_to("floor")?.median)));
    let place = |point: &Point| (point.cores, point.unit.clone(), point.x, point.case.clone());
    let mut places = Vec::new();
    for (_, point) in points() {
        if !places.contains(&place(point)) {
            places.push(place(point));
        }
    }
    for here in places {
        let (cores, unit, x, case) = &here;
        let axis = experiment.axis.as_ref();
        let at = x.zip(axis).map(|(x, axis)| format!("{} {}", axis.name, value(&axis.unit, x)));
        let title: Vec<&str> =
            [Some(cores.title()), at.as_deref(), case.as_deref()].into_iter().flatten().collect();
        line(out, "");
        line(out, &paint.with(BOLD, &title.join(", ")));
        let head = format!(
            "  {:name_width$}{:>10}{:>10}{:>10}{:>10}  {:<15}{:>9}",
            "", "p50", "p99", "p99.9", "× floor", "half within", "blocks"
        );
        line(out, &paint.with(DIM, &head));
        for (series, point) in points().filter(|(_, point)| place(point) == here) {
            let floor = point.ratio_to("floor");
            let ratio = floor.map_or_else(|| "–".to_owned(), |floor| short(floor.median));
            let spread = floor.map_or_else(String::new, |floor| {
                format!("{}–{}", short(floor.q1), short(floor.q3))
            });
            let bar = floor.map_or_else(String::new, |floor| bar(floor.median, longest));
            let style = style_of(series.class);
            let tail = |tail: Option<f64>| tail.map_or_else(String::new, |tail| value(unit, tail));
            line(
                out,
                &format!(
                    "  {}{:>10}{:>10}{:>10}{}  {spread:<15}{:>9}  {}",
                    paint.with(style, &format!("{:name_width$}", series.label)),
                    value(unit, point.summary.p50),
                    tail(point.summary.p99),
                    tail(point.summary.p999),
                    paint.with(style, &format!("{ratio:>10}")),
                    point.blocks.kept,
                    paint.with(style, &bar),
                ),
            );
        }
    }
    for note in &experiment.notes {
        line(out, &paint.with(NOTE, &format!("Note: {note}")));
    }
}

/// A value with its unit.
fn value(unit: &str, value: f64) -> String {
    match unit {
        report::NS | report::NS_CPU => time(value.round() as u64),
        "" => short(value),
        _ => format!("{} {unit}", short(value)),
    }
}

/// A few rows beside one of them: times, and how many times that one's.
pub(crate) fn comparison(rows: &[Row], color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    let name_width = rows.iter().map(|row| row.label.len()).max().unwrap_or(0);
    let first = rows.first().map(|row| row.p50_ns.max(1) as f64);
    let ratio =
        |row: &Row| match (row.ratio_to_floor, rows.first().and_then(|row| row.ratio_to_floor)) {
            (Some(this), Some(first)) if first > 0.0 => this / first,
            _ => row.p50_ns as f64 / first.unwrap_or(1.0),
        };
    let longest = longest(rows.iter().map(ratio));
    for row in rows {
        let ratio = ratio(row);
        line(
            &mut out,
            &format!(
                "  {}{:>10}{:>9}  {}",
                paint.with(row_style(row), &format!("{:name_width$}", row.label)),
                time(row.p50_ns),
                format!("{} ×", short(ratio)),
                paint.with(row_style(row), &bar(ratio, longest)),
            ),
        );
    }
    out
}

fn row_style(row: &Row) -> Style {
    if row.mechanism == "rendez" { OURS } else { Style::new() }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.trim_end());
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A time with three digits.
fn time(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", short(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", short(value / 1e6)),
        _ => format!("{} s", short(value / 1e9)),
    }
}

/// A number with about three digits.
fn short(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn longest(ratios: impl Iterator<Item = f64>) -> f64 {
    ratios.fold(2.0, f64::max)
}

/// A bar as long as the ratio's logarithm. Never empty, so that 1 shows too.
fn bar(ratio: f64, longest: f64) -> String {
    let part = (ratio.max(1.0).ln() / longest.ln()).clamp(0.0, 1.0);
    let eighths = ((part * (BAR * 8) as f64).round() as usize).max(1);
    let mut bar = EIGHTHS[7].to_string().repeat(eighths / 8);
    if let Some(rest) = (eighths % 8).checked_sub(1) {
        bar.push(EIGHTHS[rest]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::{bar, short, time};

    #[test]
    fn times_and_numbers_have_three_digits() {
        assert_eq!(time(310), "310 ns");
        assert_eq!(time(3_100), "3.10 µs");
        assert_eq!(time(59_040), "59.0 µs");
        assert_eq!(time(8_000_000), "8.00 ms");
        assert_eq!(time(2_000_000_000), "2.00 s");
        assert_eq!(short(190.4), "190");
    }

    #[test]
    fn bars_grow() {
        let lengths: Vec<usize> = [1.0, 2.0, 30.0, 200.0]
            .into_iter()
            .map(|ratio| bar(ratio, 200.0).chars().count())
            .collect();
        assert!(lengths.windows(2).all(|pair| pair[0] <= pair[1]), "{lengths:?}");
        assert_eq!(lengths.first(), Some(&1));
        assert_eq!(lengths.last(), Some(&super::BAR));
    }
}
