//! Lines, colours and bars for a terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::report::Class;

/// Columns of the longest bar.
pub(crate) const BAR: usize = 24;

/// Bars of one to eight eighths.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// For headings.
pub(crate) const BOLD: Style = Style::new().bold();
/// For what is beside the point.
pub(crate) const DIM: Style = Style::new().dimmed();
/// For Rendez, and what went well.
pub(crate) const OURS: Style = AnsiColor::Green.on_default().bold();
/// For what a reader has to know.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// For what got worse.
pub(crate) const WORSE: Style = AnsiColor::Red.on_default().bold();

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// The text in that style. The text is padded already: escape codes have no width.
    pub(crate) fn with(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// How a series of that kind is shown.
pub(crate) const fn style_of(class: Class) -> Style {
    match class {
        Class::Rendez => OURS,
        Class::Floor => DIM,
        Class::Baseline | Class::Peer => Style::new(),
    }
}

/// Adds a line, without blanks at its end.
pub(crate) fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.trim_end());
}

/// A bar for a part (0 to 1) of the longest. Never empty, so that the least shows too.
pub(crate) fn bar(part: f64) -> String {
    let eighths = ((part.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize).max(1);
    let mut bar = EIGHTHS[7].to_string().repeat(eighths / 8);
    if let Some(rest) = (eighths % 8).checked_sub(1) {
        bar.push(EIGHTHS[rest]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::{BAR, bar};

    #[test]
    fn bars_grow() {
        let lengths: Vec<usize> =
            [0.0, 0.1, 0.5, 1.0].into_iter().map(|part| bar(part).chars().count()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] <= pair[1]), "{lengths:?}");
        assert_eq!(lengths.first(), Some(&1));
        assert_eq!(lengths.last(), Some(&BAR));
    }
}
