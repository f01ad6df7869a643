//! Bars: a value per series and case, or the parts of a whole.

use std::fmt::Write;

use super::lines::details;
use super::{Figure, Panel, escape};
use crate::report::{Experiment, PER_SECOND, Point, Series, WHOLE};
use crate::units::{short, value};

const WIDTH: f64 = 600.0;
/// Room for names.
const LEFT: f64 = 150.0;
/// Room for values.
const RIGHT: f64 = 80.0;
const BAR: f64 = 15.0;
const STEP: f64 = 21.0;
const HEAD: f64 = 26.0;
/// Values that differ by more than this factor are drawn by their logarithm.
const WIDE: f64 = 40.0;
/// Colours of the parts of a stack.
const PARTS: usize = 10;

/// A bar per series, under a heading per case (or per place of the axis).
pub(super) fn bars(experiment: &Experiment, panel: &Panel<'_>) -> Option<Figure> {
    let mut cases: Vec<String> = Vec::new();
    let mut shown: Vec<(String, &Series, &str, &Point)> = Vec::new();
    for (series, class) in &panel.series {
        for point in panel.points(series).filter(|point| point.summary.p50 > 0.0) {
            let case = case(experiment, point);
            if !cases.contains(&case) {
                cases.push(case.clone());
            }
            shown.push((case, series, class, point));
        }
    }
    let high = shown.iter().map(|(.., point)| point.summary.p50).fold(f64::NAN, f64::max);
    let low = shown.iter().map(|(.., point)| point.summary.p50).fold(f64::NAN, f64::min);
    if !high.is_finite() {
        return None;
    }
    let logarithmic = high / low > WIDE;
    let part = |value: f64| {
        if logarithmic {
            // The shortest bar is one tenth of the length.
            (value / low).ln() / (high / low).ln() * 0.9 + 0.1
        } else {
            value / high
        }
    };
    let room = WIDTH - LEFT - RIGHT;
    let mut body = String::new();
    let mut y = 4.0;
    for heading in &cases {
        if !heading.is_empty() {
            let _ = write!(
                body,
                "<text class=\"head\" x=\"0\" y=\"{:.1}\">{}</text>",
                y + 16.0,
                escape(heading),
            );
            y += HEAD;
        }
        for (_, series, class, point) in shown.iter().filter(|(case, ..)| case == heading) {
            let length = part(point.summary.p50) * room;
            let text = value(panel.unit, point.summary.p50);
            let _ = write!(
                body,
                "<g class=\"series {class}\"><title>{}: {text}{}</title>\
                 <text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
                 <rect class=\"bar\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                 <text class=\"amount\" x=\"{:.1}\" y=\"{:.1}\">{text}</text></g>",
                escape(&series.label),
                escape(&details(point)),
                LEFT - 7.0,
                y + 12.0,
                escape(&series.label),
                LEFT + length + 6.0,
                y + 12.0,
            );
            y += STEP;
        }
        y += 6.0;
    }
    let scale = if logarithmic {
        "Length by the logarithm: look at the figures."
    } else {
        "Length by the value, from zero."
    };
    let better = if panel.unit == PER_SECOND { "longer is better" } else { "shorter is better" };
    Some(Figure {
        title: panel.title(),
        svg: svg(y, &format!("{}: bars", panel.title()), &body),
        caption: format!("{scale} {}", capital(better)),
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// What a point is called beside the others of its series.
pub(super) fn case(experiment: &Experiment, point: &Point) -> String {
    let at = point
        .x
        .zip(experiment.axis.as_ref())
        .map(|(x, axis)| format!("{} {}", axis.name, crate::units::tick(&axis.unit, x)));
    [point.case.clone(), at].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// One stack.
struct Stack<'a> {
    series: &'a Series,
    /// The steps' numbers, which their colours come from, and how long they take.
    parts: Vec<(usize, &'a Point)>,
    /// The whole, measured by itself.
    whole: Option<f64>,
}

impl Stack<'_> {
    fn sum(&self) -> f64 {
        self.parts.iter().map(|(_, point)| point.summary.p50.max(0.0)).sum()
    }
}

/// A stack per series: its cases one after the other, and the whole, measured by itself, beneath.
pub(super) fn stacks(panel: &Panel<'_>) -> Option<Figure> {
    let mut steps: Vec<&str> = Vec::new();
    let mut rows: Vec<Stack<'_>> = Vec::new();
    for (series, _) in &panel.series {
        let mut parts = Vec::new();
        let mut whole = None;
        for point in panel.points(series) {
            let step = point.case.as_deref().unwrap_or_default();
            if step == WHOLE {
                whole = Some(point.summary.p50);
                continue;
            }
            let index = steps.iter().position(|known| *known == step).unwrap_or_else(|| {
                steps.push(step);
                steps.len() - 1
            });
            parts.push((index, point));
        }
        if !parts.is_empty() {
            rows.push(Stack { series, parts, whole });
        }
    }
    let high =
        rows.iter().map(|stack| stack.sum().max(stack.whole.unwrap_or(0.0))).fold(0.0, f64::max);
    if high <= 0.0 {
        return None;
    }
    let wide = WIDTH - 10.0;
    let mut body = String::new();
    let mut y = 4.0;
    for stack in &rows {
        let Stack { series, parts, whole } = stack;
        let sum = stack.sum();
        let beside = whole.map_or_else(String::new, |whole| {
            format!(
                ", {} % of the {} measured as a whole",
                short(sum / whole * 100.0),
                value(panel.unit, whole)
            )
        });
        let _ = write!(
            body,
            "<text class=\"head\" x=\"0\" y=\"{:.1}\">{}</text>\
             <text class=\"amount\" x=\"{:.1}\" y=\"{:.1}\">sum {}{beside}</text>",
            y + 14.0,
            escape(&series.label),
            series.label.chars().count() as f64 * 8.0 + 14.0,
            y + 14.0,
            value(panel.unit, sum),
        );
        y += 22.0;
        let mut x = 0.0;
        for (index, point) in parts {
            let length = point.summary.p50.max(0.0) / high * wide;
            let step = steps[*index];
            let text = value(panel.unit, point.summary.p50);
            let _ = write!(
                body,
                "<g class=\"part p{}\"><title>{}: {text}, {} %</title>\
                 <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"34\"/>",
                index % PARTS,
                escape(step),
                short(point.summary.p50 / sum * 100.0),
            );
            // Words where there is room for them; the legend has them all.
            if length > step.chars().count() as f64 * 7.0 + 6.0 {
                let _ = write!(
                    body,
                    "<text class=\"within\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 4.0,
                    y + 15.0,
                    escape(step),
                );
                if length > text.chars().count() as f64 * 6.6 + 6.0 {
                    let _ = write!(
                        body,
                        "<text class=\"within\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                        x + 4.0,
                        y + 29.0,
                    );
                }
            }
            body.push_str("</g>");
            x += length;
        }
        y += 36.0;
        if let Some(whole) = whole {
            let _ = write!(
                body,
                "<rect class=\"whole\" x=\"0\" y=\"{y:.1}\" width=\"{:.1}\" height=\"5\"><title>measured \
                 as a whole: {}</title></rect>",
                whole / high * wide,
                value(panel.unit, *whole),
            );
            y += 9.0;
        }
        y += 12.0;
    }
    let mut x = 0.0;
    for (index, step) in steps.iter().enumerate() {
        let room = step.chars().count() as f64 * 7.2 + 26.0;
        if x + room > WIDTH {
            x = 0.0;
            y += 19.0;
        }
        let _ = write!(
            body,
            "<g class=\"part p{}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"11\" height=\"11\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            index % PARTS,
            x + 16.0,
            y + 10.0,
            escape(step),
        );
        x += room;
    }
    Some(Figure {
        title: panel.title(),
        svg: svg(y + 18.0, &format!("{}: parts of the whole", panel.title()), &body),
        caption: "Each step measured by itself, one after the other; the thin bar beneath is the \
                  whole, measured by itself too. They should be of one length."
            .to_owned(),
    })
}

fn svg(height: f64, description: &str, body: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">{body}</svg>",
        escape(description)
    )
}
