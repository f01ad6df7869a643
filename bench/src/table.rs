//! Tables for a terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::report::{Report, Row};

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

fn style_of(row: &Row) -> Style {
    match row.mechanism.as_str() {
        "rendez" => OURS,
        "floor" => DIM,
        _ => Style::new(),
    }
}

/// A whole report.
pub(crate) fn report(report: &Report, color: bool) -> String {
    let paint = Paint(color);
    let machine = &report.machine;
    let mut out = String::new();
    line(&mut out, &paint.with(BOLD, "Round trips between two processes"));
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
    let name_width = report.rows.iter().map(|row| row.label().len()).max().unwrap_or(0).max(9);
    let longest = longest(report.rows.iter().filter_map(|row| row.ratio_to_floor));

    let mut sections: Vec<(usize, usize)> = Vec::new();
    for row in &report.rows {
        if !sections.contains(&(row.cores, row.payload_bytes)) {
            sections.push((row.cores, row.payload_bytes));
        }
    }
    for (cores, payload) in sections {
        let rows: Vec<&Row> = report
            .rows
            .iter()
            .filter(|row| (row.cores, row.payload_bytes) == (cores, payload))
            .collect();
        let futex = cores == 1 && rows.iter().any(|row| row.ratio_to_futex.is_some());
        let title = match cores {
            1 => format!("one core for both, {payload} bytes"),
            _ => format!("a core each, {payload} bytes"),
        };
        line(&mut out, "");
        line(&mut out, &paint.with(BOLD, &title));
        let futex_title = if futex { format!("{:>9}", "× futex") } else { String::new() };
        let head = format!(
            "  {:name_width$}{:>10}{:>10}{:>10}{:>10}  {:<15}{futex_title}{:>9}",
            "", "p50", "p99", "p99.9", "× floor", "half within", "blocks"
        );
        line(&mut out, &paint.with(DIM, &head));
        for row in rows {
            let ratio = row.ratio_to_floor.map_or_else(|| "–".to_owned(), short);
            let spread = row
                .ratio_spread
                .map_or_else(String::new, |[low, high]| format!("{}–{}", short(low), short(high)));
            let futex = if futex {
                format!("{:>9}", row.ratio_to_futex.map_or_else(|| "–".to_owned(), short))
            } else {
                String::new()
            };
            let bar = row.ratio_to_floor.map_or_else(String::new, |ratio| bar(ratio, longest));
            let style = style_of(row);
            line(
                &mut out,
                &format!(
                    "  {}{:>10}{:>10}{:>10}{}  {spread:<15}{futex}{:>9}  {}",
                    paint.with(style, &format!("{:name_width$}", row.label())),
                    time(row.p50_ns),
                    time(row.p99_ns),
                    time(row.p999_ns),
                    paint.with(style, &format!("{ratio:>10}")),
                    row.blocks_kept,
                    paint.with(style, &bar),
                ),
            );
        }
    }
    line(&mut out, "");
    let explained = "× floor: to two processes passing one cache line, measured beside each block, on \
                     two cores. Bars: its logarithm.";
    line(&mut out, &paint.with(DIM, explained));
    let repeated: u32 = report.rows.iter().map(|row| row.blocks_repeated).sum();
    let dropped: u32 = report.rows.iter().map(|row| row.blocks_dropped).sum();
    if repeated + dropped > 0 {
        let text = format!("Disturbed blocks: {repeated} repeated, {dropped} dropped.");
        line(&mut out, &paint.with(DIM, &text));
    }
    for note in &report.notes {
        line(&mut out, &paint.with(NOTE, &format!("Note: {note}")));
    }
    out
}

/// A few rows beside one of them: times, and how many times that one's.
pub(crate) fn comparison(rows: &[Row], color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    let name_width = rows.iter().map(|row| row.label().len()).max().unwrap_or(0);
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
                paint.with(style_of(row), &format!("{:name_width$}", row.label())),
                time(row.p50_ns),
                format!("{} ×", short(ratio)),
                paint.with(style_of(row), &bar(ratio, longest)),
            ),
        );
    }
    out
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
    use super::{bar, comparison, short, time};
    use crate::report::tests::sample;

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

    #[test]
    fn a_table_names_every_row_and_note() {
        let report = sample();
        let plain = report.table(false);
        for text in
            ["floor", "rendez-spin", "rendez-block", "pipe", "190", "× futex", "something to know"]
        {
            assert!(plain.contains(text), "{text} in\n{plain}");
        }
        assert!(!plain.contains('\u{1b}'), "no colour unless asked for");
        assert!(report.table(true).contains('\u{1b}'));
    }

    #[test]
    fn a_comparison_starts_at_one() {
        let text = comparison(&sample().rows[1..3], false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("1.00 ×"), "{text}");
        assert!(lines[1].contains("158 ×"), "{text}");
    }
}
