//! What plots share: a grid with axes, lines of series, and labels at their ends.

use std::fmt::Write;

use super::escape;
use super::scale::Scale;
use crate::report::{Class, Series};

/// Width of every plot, in its own units; a page scales it.
pub(super) const WIDTH: f64 = 600.0;
/// Room for the labels of the vertical axis.
const LEFT: f64 = 74.0;
/// Room for the names of the series.
const RIGHT: f64 = 148.0;
/// Room above.
const TOP: f64 = 14.0;
/// Room for the labels of the horizontal axis.
const BOTTOM: f64 = 44.0;
/// From one label to the next.
const LINE: f64 = 14.0;

/// A plot with two axes.
#[derive(Debug)]
pub(super) struct Frame {
    height: f64,
    body: String,
    labels: Vec<Label>,
}

#[derive(Debug)]
struct Label {
    /// Where its line ends.
    x: f64,
    y: f64,
    text: String,
    class: String,
}

impl Frame {
    /// A plot with room for that many names of series.
    pub(super) fn new(series: usize) -> Self {
        let height = (TOP + BOTTOM + LINE * (series as f64 + 1.0)).max(330.0);
        Self { height, body: String::new(), labels: Vec::new() }
    }

    /// Left and right end of the horizontal axis.
    pub(super) const fn across() -> (f64, f64) {
        (LEFT, WIDTH - RIGHT)
    }

    /// Lower and upper end of the vertical axis.
    pub(super) const fn up(&self) -> (f64, f64) {
        (self.height - BOTTOM, TOP)
    }

    /// The vertical axis, with a line across for each tick, and what it shows.
    pub(super) fn vertical(&mut self, scale: &Scale, title: &str, words: impl Fn(f64) -> String) {
        let (left, right) = Self::across();
        for tick in scale.ticks() {
            let y = scale.at(tick);
            self.put(&format!(
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 7.0,
                y + 4.0,
                escape(&words(tick)),
            ));
        }
        let (bottom, top) = self.up();
        let middle = f64::midpoint(bottom, top);
        self.put(&format!(
            "<text class=\"axis middle\" transform=\"translate(12 {middle:.1}) rotate(-90)\">{}</text>",
            escape(title),
        ));
    }

    /// The horizontal axis with these ticks. Labels that would overlap are left out.
    pub(super) fn horizontal(
        &mut self,
        ticks: impl IntoIterator<Item = (f64, String)>,
        title: &str,
    ) {
        let (left, right) = Self::across();
        let (bottom, top) = self.up();
        self.put(&format!(
            "<line class=\"base\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>"
        ));
        let mut free = f64::NEG_INFINITY;
        for (x, text) in ticks {
            self.put(&format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" y2=\"{top:.1}\"/>"
            ));
            let half = text.chars().count() as f64 * 3.4;
            if x - half > free {
                free = x + half + 4.0;
                self.put(&format!(
                    "<text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                    bottom + 17.0,
                    escape(&text),
                ));
            }
        }
        self.put(&format!(
            "<text class=\"axis middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            f64::midpoint(left, right),
            bottom + 36.0,
            escape(title),
        ));
    }

    /// A series: a line through places, each with what is shown when a pointer rests on it, and its
    /// name at the end. With `dots`, each place is marked.
    pub(super) fn series(
        &mut self,
        name: &str,
        class: &str,
        places: &[(f64, f64, String)],
        dots: bool,
    ) {
        let Some((last_x, last_y, _)) = places.last() else { return };
        let mut path = String::new();
        for (index, (x, y, _)) in places.iter().enumerate() {
            // Writing to a string cannot fail, here and below.
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
        }
        let mut group = format!(
            "<g class=\"series {class}\"><path class=\"line\" d=\"{path}\"><title>{}</title></path>",
            escape(name),
        );
        for (x, y, title) in places {
            let radius = if dots { 3.2 } else { 7.0 };
            let kind = if dots { "dot" } else { "spot" };
            let _ = write!(
                group,
                "<circle class=\"{kind}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
                escape(title),
            );
        }
        group.push_str("</g>");
        self.put(&group);
        self.labels.push(Label {
            x: *last_x,
            y: *last_y,
            text: name.to_owned(),
            class: class.to_owned(),
        });
    }

    /// The whole as SVG, described for those who do not see it.
    pub(super) fn finish(mut self, description: &str) -> String {
        let (bottom, top) = self.up();
        self.labels.sort_by(|one, other| one.y.total_cmp(&other.y));
        let wanted: Vec<f64> = self.labels.iter().map(|label| label.y).collect();
        let x = WIDTH - RIGHT + 18.0;
        let mut names = String::new();
        for (label, y) in self.labels.iter().zip(spread(&wanted, LINE, top, bottom)) {
            let _ = write!(
                names,
                "<g class=\"name {}\"><path class=\"leader\" d=\"M{:.1} {:.1}L{:.1} {y:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
                label.class,
                label.x + 4.0,
                label.y,
                x - 3.0,
                y + 4.0,
                escape(&label.text),
            );
        }
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">{}{names}</svg>",
            self.height,
            escape(description),
            self.body,
        )
    }

    fn put(&mut self, text: &str) {
        self.body.push_str(text);
    }
}

/// Places as near to the wanted ones (ascending) as they can be with that distance between them.
fn spread(wanted: &[f64], distance: f64, low: f64, high: f64) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::with_capacity(wanted.len());
    let mut least = low;
    for want in wanted {
        let place = want.max(least);
        places.push(place);
        least = place + distance;
    }
    let mut most = high;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - distance;
    }
    places
}

/// The style of each series: what Rendez is made of has its own, the others take turns.
pub(super) fn classes(all: &[Series]) -> Vec<String> {
    let mut turn = 0;
    all.iter()
        .map(|series| match series.class {
            Class::Floor => "floor".to_owned(),
            Class::Rendez => {
                let kind = ["spin", "adaptive", "block"]
                    .into_iter()
                    .find(|kind| series.label.contains(kind))
                    .unwrap_or("plain");
                let variant = if series.label.contains(", ") { " variant" } else { "" };
                format!("ours {kind}{variant}")
            }
            class => {
                turn += 1;
                let peer = if class == Class::Peer { " peer" } else { "" };
                // Five colours by three kinds of dashes: all pairs before one comes again.
                format!("c{} d{}{peer}", (turn - 1) % 5, (turn - 1) / 5 % 3)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{LINE, classes, spread};
    use crate::report::samples::report;

    #[test]
    fn labels_keep_their_order_and_distance() {
        let places = spread(&[50.0, 50.0, 51.0, 200.0, 299.0, 300.0], LINE, 0.0, 300.0);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= LINE - 1e-9), "{places:?}");
        assert!((places[3] - 200.0).abs() < f64::EPSILON, "where there is room, it stays");
        assert!(places.iter().all(|place| (0.0..=300.0).contains(place)));
    }

    #[test]
    fn series_look_different() {
        let series = &report().experiments[0].series;
        let mut classes = classes(series);
        classes.sort();
        classes.dedup();
        assert_eq!(classes.len(), series.len());
    }
}
