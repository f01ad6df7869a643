//! The figures beneath a plot: everything that it was drawn from.

use std::fmt::Write;

use super::bars::case;
use super::escape;
use crate::report::{Cores, Experiment, Point, Series};
use crate::units::{short, tick, value};

/// Where a point is, under a heading that names the axis.
fn place(experiment: &Experiment, point: &Point) -> String {
    match (&experiment.axis, point.x, &point.case) {
        (Some(axis), Some(x), None) => tick(&axis.unit, x),
        _ => case(experiment, point),
    }
}

/// All points of an experiment on that many cores, in a unit, as a table.
pub(super) fn table(experiment: &Experiment, cores: Cores, unit: &str) -> String {
    let points: Vec<(&Series, &Point)> = experiment
        .series
        .iter()
        .flat_map(|series| series.points.iter().map(move |point| (series, point)))
        .filter(|(_, point)| point.cores == cores && point.unit == unit)
        .collect();
    let mut rivals: Vec<&str> = Vec::new();
    for (_, point) in &points {
        for ratio in &point.ratios {
            if !rivals.contains(&ratio.to.as_str()) {
                rivals.push(&ratio.to);
            }
        }
    }
    // The floor is shown in a column of its own; whoever wants all others finds them in the JSON.
    let shown = ["copy", "futex", "unix-stream", "rendez-spin", "rendez-block"];
    rivals.retain(|rival| shown.contains(rival));
    let has = |there: fn(&Point) -> bool| points.iter().any(|(_, point)| there(point));
    let tail = has(|point| point.summary.p99.is_some());
    let floor = has(|point| point.ratio_to("floor").is_some());
    let cpu = has(|point| point.cpu_s_per_million.is_some());
    let blocks = has(|point| point.blocks.kept > 0);
    let several = points.iter().any(|(_, point)| !case(experiment, point).is_empty());

    let mut out = String::from("<div class=\"scroll tall\"><table><thead><tr><th>series</th>");
    let mut head = |there: bool, text: &str| {
        if there {
            let _ = write!(out, "<th>{}</th>", escape(text));
        }
    };
    head(several, experiment.axis.as_ref().map_or("case", |axis| axis.name.as_str()));
    head(true, if tail { "p50" } else { "value" });
    for name in ["p90", "p99", "p99.9", "mean", "timed"] {
        head(tail, name);
    }
    head(floor, "× floor");
    head(floor, "half within");
    for rival in &rivals {
        head(true, &format!("× {rival}"));
    }
    head(cpu, "CPU s per million");
    for name in ["blocks kept", "repeated", "given up"] {
        head(blocks, name);
    }
    out.push_str("</tr></thead><tbody>");
    for (series, point) in points {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&series.label));
        let mut cell = |there: bool, text: String| {
            if there {
                let _ = write!(out, "<td>{}</td>", escape(&text));
            }
        };
        let or_dash = |number: Option<f64>, words: &dyn Fn(f64) -> String| {
            number.map_or_else(|| "–".to_owned(), words)
        };
        let in_unit = |number: f64| value(unit, number);
        let summary = &point.summary;
        cell(several, place(experiment, point));
        cell(true, in_unit(summary.p50));
        for number in [summary.p90, summary.p99, summary.p999, Some(summary.mean)] {
            cell(tail, or_dash(number, &in_unit));
        }
        cell(tail, summary.count.to_string());
        let to_floor = point.ratio_to("floor");
        cell(floor, or_dash(to_floor.map(|ratio| ratio.median), &short));
        cell(
            floor,
            to_floor.map_or_else(
                || "–".to_owned(),
                |ratio| format!("{} to {}", short(ratio.q1), short(ratio.q3)),
            ),
        );
        for rival in &rivals {
            cell(true, or_dash(point.ratio_to(rival).map(|ratio| ratio.median), &short));
        }
        cell(cpu, or_dash(point.cpu_s_per_million, &|seconds| format!("{seconds:.3}")));
        for number in [point.blocks.kept, point.blocks.repeated, point.blocks.disturbed] {
            cell(blocks, number.to_string());
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}
