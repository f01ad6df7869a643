//! Plots along an axis: values, processor time, and how single ones are distributed.

use super::frame::{Frame, classes};
use super::scale::Scale;
use super::{Figure, Panel};
use crate::report::{Class, Experiment, NS, PER_SECOND, Point, Series};
use crate::units::{count, tick, value};

/// The parts of all transactions whose time a percentile plot marks.
const PARTS: [(f64, &str); 5] =
    [(0.5, "50%"), (0.9, "90%"), (0.99, "99%"), (0.999, "99.9%"), (0.9999, "99.99%")];

/// A point, its place on the axis, and its value.
type Dot<'a> = (&'a Point, f64, f64);

/// A place on the axis, or a case.
type Place = (Option<f64>, Option<String>);

/// A panel along the experiment's axis: the median of each series at each place.
pub(super) fn medians(experiment: &Experiment, panel: &Panel<'_>) -> Option<Figure> {
    let what = if panel.unit == PER_SECOND { "rate" } else { "median" };
    let better = if panel.unit == PER_SECOND { "higher is better" } else { "lower is better" };
    along(
        experiment,
        panel,
        [what, &format!("{what} ({better})")],
        panel.unit,
        |point| Some(point.summary.p50),
        &format!("The {what} of each series, both scales logarithmic; {better}."),
    )
}

/// A panel along the experiment's axis: processor time of both sides.
pub(super) fn processor_time(experiment: &Experiment, panel: &Panel<'_>) -> Option<Figure> {
    along(
        experiment,
        panel,
        ["processor time", "processor time of both sides each"],
        NS,
        // Seconds for a million are microseconds for one.
        |point| point.cpu_s_per_million.map(|seconds| seconds * 1e3),
        "Processor time that both sides together took for one transaction, waiting included: what \
         spinning costs somebody else.",
    )
}

fn along(
    experiment: &Experiment,
    panel: &Panel<'_>,
    [what, title]: [&str; 2],
    unit: &str,
    of: impl Fn(&Point) -> Option<f64>,
    caption: &str,
) -> Option<Figure> {
    let axis = experiment.axis.as_ref()?;
    let shown: Vec<(&Series, &str, Vec<Dot<'_>>)> = panel
        .series
        .iter()
        .map(|(series, class)| {
            let mut points: Vec<_> = panel
                .points(series)
                .filter_map(|point| Some((point, point.x?, of(point).filter(|y| *y > 0.0)?)))
                .collect();
            points.sort_by(|one, other| one.1.total_cmp(&other.1));
            (*series, class.as_str(), points)
        })
        .filter(|(_, _, points)| !points.is_empty())
        .collect();
    let all = || shown.iter().flat_map(|(_, _, points)| points);
    let mut places: Vec<f64> = all().map(|(_, x, _)| *x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    if places.len() < 2 {
        return None;
    }
    let mut frame = Frame::new(shown.len());
    let (left, right) = Frame::across();
    let across = Scale::over(places.iter().copied(), axis.logarithmic, left, right);
    let (bottom, top) = frame.up();
    let up = Scale::over(all().map(|(_, _, y)| *y), true, bottom, top);
    frame.vertical(&up, title, |number| tick(unit, number));
    let ticks = places.iter().map(|x| (across.at(*x), tick(&axis.unit, *x)));
    frame.horizontal(ticks, &axis.name);
    for (series, class, points) in &shown {
        let places: Vec<_> = points
            .iter()
            .map(|(point, x, y)| {
                let at = tick(&axis.unit, *x);
                let text = format!("{}, {} {at}: {}", series.label, axis.name, value(unit, *y));
                (across.at(*x), up.at(*y), text + &details(point))
            })
            .collect();
        frame.series(&series.label, class, &places, true);
    }
    Some(Figure {
        title: format!("{}: {what}", panel.title()),
        svg: frame.finish(&format!("{}: {title} against {}", panel.title(), axis.name)),
        caption: caption.to_owned(),
    })
}

/// What else is known of a point, for a pointer that rests on it.
pub(super) fn details(point: &Point) -> String {
    let mut text = String::new();
    for (name, tail) in [("p99", point.summary.p99), ("p99.9", point.summary.p999)] {
        if let Some(tail) = tail {
            text.push_str(&format!(", {name} {}", value(&point.unit, tail)));
        }
    }
    for ratio in point.ratios.iter().filter(|ratio| ratio.to == "floor") {
        text.push_str(&format!(
            "; {:.2} × the floor (half of the blocks from {:.2} to {:.2})",
            ratio.median, ratio.q1, ratio.q3
        ));
    }
    if point.blocks.kept > 0 {
        text.push_str(&format!("; {}", count(point.blocks.kept as usize, "block")));
    }
    text
}

/// How single transactions are distributed, at one place of the axis: the time that so many of them
/// did not exceed.
pub(super) fn distribution(experiment: &Experiment, panel: &Panel<'_>) -> Option<Figure> {
    let (x, case) = place(panel)?;
    let here = |point: &&Point| point.x == x && point.case == case && !point.histogram.is_empty();
    let shown: Vec<(&Series, &str, &Point)> = panel
        .series
        .iter()
        .filter_map(|(series, class)| {
            Some((*series, class.as_str(), panel.points(series).find(here)?))
        })
        .collect();
    let mut frame = Frame::new(shown.len());
    let (left, right) = Frame::across();
    let (bottom, top) = frame.up();
    // Each further nine takes the same room; and the last mark is the end.
    let nines = |part: f64| -(1.0 - part).max(1e-9).log10();
    let across = Scale::over([0.0, nines(0.99995)], false, left, right);
    let values = shown.iter().flat_map(|(_, _, point)| point.histogram.iter().map(|(ns, _)| *ns));
    let up = Scale::over(values, true, bottom, top);
    frame.vertical(&up, "time of one transaction", |number| tick(NS, number));
    let marks = PARTS.iter().map(|(part, text)| (across.at(nines(*part)), (*text).to_owned()));
    frame.horizontal(marks, "this part of all transactions took no longer");
    for (series, class, point) in shown {
        let whole = point.histogram.iter().map(|(_, count)| count).sum::<u64>() as f64;
        let mut places = Vec::new();
        let mut so_far = 0.0;
        for (ns, count) in &point.histogram {
            places.push((
                across.at(nines(so_far / whole)),
                up.at(*ns),
                at_part(series, so_far / whole, *ns),
            ));
            so_far += *count as f64;
            let part = (so_far / whole).min(1.0 - 1.0 / (whole + 1.0));
            places.push((across.at(nines(part)), up.at(*ns), at_part(series, part, *ns)));
        }
        frame.series(&series.label, class, &places, false);
    }
    let axis = experiment.axis.as_ref();
    let at = x.zip(axis).map(|(x, axis)| format!("{} {}", axis.name, tick(&axis.unit, x)));
    let at = at.or(case).unwrap_or_default();
    Some(Figure {
        title: format!("{}: the tail, {at}", panel.title()),
        svg: frame.finish(&format!("{}: distribution of single transactions, {at}", panel.title())),
        caption: format!(
            "Distribution of single transactions ({at}). The further right, the rarer; flat is \
             predictable. Timed one by one, less what reading the clock costs."
        ),
    })
}

fn at_part(series: &Series, part: f64, ns: f64) -> String {
    format!("{}: {:.3}% within {}", series.label, part * 100.0, value(NS, ns))
}

/// Where a distribution is drawn: where most series have one; of such places the first.
fn place(panel: &Panel<'_>) -> Option<Place> {
    let mut places: Vec<(Place, usize)> = Vec::new();
    for (series, _) in panel.series.iter().filter(|(series, _)| series.class != Class::Floor) {
        for point in panel.points(series).filter(|point| !point.histogram.is_empty()) {
            let key = (point.x, point.case.clone());
            match places.iter_mut().find(|(place, _)| *place == key) {
                Some((_, count)) => *count += 1,
                None => places.push((key, 1)),
            }
        }
    }
    let most = places.iter().map(|(_, count)| *count).max()?;
    places.into_iter().find(|(_, count)| *count == most).map(|(place, _)| place)
}

/// The series with their styles, as panels take them.
pub(super) fn styled(experiment: &Experiment) -> Vec<(&Series, String)> {
    experiment.series.iter().zip(classes(&experiment.series)).collect()
}
