//! What the terminal shows: a line of totals, the tasks, the connections, the keys. Pure: a report,
//! a view and a size come to lines.

use super::report::{ConnectionRow, Report, TaskRow, order};
use super::terminal::Key;
use crate::arguments::SortKey;
use crate::output::{DIM, HEAD, WARN, printable};
use anstyle::Style;

/// The shortest and the longest interval, in ms.
pub(super) const INTERVALS_MS: core::ops::RangeInclusive<u64> = 50..=60_000;

/// What somebody has chosen to see.
#[derive(Debug)]
pub(super) struct View {
    pub(super) sort: SortKey,
    pub(super) reverse: bool,
    pub(super) paused: bool,
    pub(super) interval_ms: u64,
    /// The first connection that is shown.
    pub(super) first: usize,
}

impl View {
    pub(super) fn new(sort: SortKey, interval_ms: u32) -> Self {
        let interval_ms = u64::from(interval_ms);
        Self { sort, reverse: false, paused: false, interval_ms, first: 0 }
    }

    /// Does what a key stands for, where there are so many connections.
    pub(super) fn pressed(&mut self, key: Key, connections: usize) {
        let clamp = |ms: u64| ms.clamp(*INTERVALS_MS.start(), *INTERVALS_MS.end());
        match key {
            Key::Down => self.first = (self.first + 1).min(connections.saturating_sub(1)),
            Key::Up => self.first = self.first.saturating_sub(1),
            Key::Character(b's') => self.sort = self.sort.next(),
            Key::Character(b'r') => self.reverse = !self.reverse,
            Key::Character(b'p' | b' ') => self.paused = !self.paused,
            Key::Character(b'+') => self.interval_ms = clamp(self.interval_ms / 2),
            Key::Character(b'-') => self.interval_ms = clamp(self.interval_ms * 2),
            Key::Character(b'g') => self.first = 0,
            Key::Character(_) | Key::None | Key::Quit | Key::Resized => {}
        }
    }
}

/// A column: its head, its width, and whether numbers stand in it.
type Column = (&'static str, usize, bool);

const TASKS: [Column; 8] = [
    ("TASK", 6, false),
    ("NAME", 12, false),
    ("PID", 7, true),
    ("SENT/S", 7, true),
    ("SERVED/S", 8, true),
    ("WAKES/S", 7, true),
    ("LEARNED", 7, true),
    ("WAITS FOR", REST, false),
];

const CONNECTIONS: [Column; 9] = [
    ("CLIENT → SERVER", REST, false),
    ("/S", 6, true),
    ("B/S", 6, true),
    ("RTT P50", 7, true),
    ("P99", 6, true),
    ("SVC P50", 7, true),
    ("WAKES/S", 7, true),
    ("LOOKS/S", 7, true),
    ("ROOM/S", 6, true),
];

/// The width of a column that gets what is left.
const REST: usize = 0;

/// The screen: `height` lines of at most `width` columns, as far as characters are one wide.
pub(super) fn lines(report: &Report, view: &View, (width, height): (usize, usize)) -> Vec<String> {
    let mut lines = vec![title(report, view, width)];
    // The title, two heads, the keys.
    let rows = height.saturating_sub(4);
    let tasks = report.tasks.len().min((rows / 3).max(3)).min(rows);
    lines.push(heading(&TASKS, width));
    let mut busiest: Vec<_> = report.tasks.iter().collect();
    busiest.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    lines.extend(busiest.iter().take(tasks).map(|row| task(row, width)));
    lines.push(heading(&CONNECTIONS, width));
    let mut sorted: Vec<_> = report.connections.iter().collect();
    sorted.sort_by(|a, b| order(view.sort, view.reverse, a, b));
    let shown = sorted.iter().skip(view.first).take(rows - tasks);
    lines.extend(shown.map(|row| connection(row, width)));
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), String::new());
    if height > 0 {
        lines.push(keys(view, width));
    }
    lines
}

/// How much there is to say of a task: who waits comes first, then who sends and serves most.
fn busy(row: &TaskRow) -> f64 {
    let waits = if row.waits.iter().any(|wait| wait.for_ms >= 1000) { 1e18 } else { 0.0 };
    waits + row.sent_per_s + row.served_per_s
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

fn title(report: &Report, view: &View, width: usize) -> String {
    let text = format!(
        "rendez top   {} tasks   {} connections   {}/s   {}B/s   {}",
        report.tasks.len(),
        report.connections.len(),
        rate(report.transactions_per_s),
        size(report.bytes_per_s),
        if report.interval_ms == 0 {
            "since they began".to_owned()
        } else {
            format!("over {}", duration(report.interval_ms))
        },
    );
    let paused = if view.paused { "  PAUSED" } else { "" };
    let text = cut(&text, width.saturating_sub(paused.len()));
    format!("{}{}", styled(HEAD, &text), styled(WARN, paused))
}

fn keys(view: &View, width: usize) -> String {
    let text = format!(
        "q quit  p pause  s sort: {}{}  r reverse  ↑↓ scroll  +- every {}",
        view.sort.name(),
        if view.reverse { " (least)" } else { "" },
        duration(view.interval_ms),
    );
    styled(DIM, &cut(&text, width))
}

fn heading(columns: &[Column], width: usize) -> String {
    let cells: Vec<_> = columns.iter().map(|(head, ..)| (*head).to_owned()).collect();
    styled(HEAD, &line(columns, &cells, width))
}

fn task(row: &TaskRow, width: usize) -> String {
    let cells = [
        row.task.clone(),
        printable(&row.name).into_owned(),
        row.pid.map_or("-".into(), |pid| pid.to_string()),
        rate(row.sent_per_s),
        rate(row.served_per_s),
        rate(row.wakes_per_s),
        time(row.wake_ns.map(|ns| ns as f64)),
        waits(row),
    ];
    line(&TASKS, &cells, width)
}

fn connection(row: &ConnectionRow, width: usize) -> String {
    let cells = [
        parties(row),
        rate(row.transactions_per_s),
        size(row.bytes_per_s),
        time(row.round_trip(0)),
        time(row.round_trip(1)),
        time(row.service(0)),
        rate(row.wakes_per_s),
        rate(row.looks_per_s),
        rate(row.room_waits_per_s),
    ];
    line(&CONNECTIONS, &cells, width)
}

/// Who is at a connection's ends; with a `?` if only one of them says so.
pub(super) fn parties(row: &ConnectionRow) -> String {
    let sure = if row.confirmed { "" } else { " ?" };
    format!("{} → {}{sure}", printable(&row.client.name), printable(&row.server.name))
}

/// Whom a task waits for, the longest first.
pub(super) fn waits(row: &TaskRow) -> String {
    let waits: Vec<_> = row
        .waits
        .iter()
        .take(8)
        .map(|wait| format!("{} {}", printable(&wait.name), duration(wait.for_ms)))
        .collect();
    if waits.is_empty() { "-".into() } else { waits.join(", ") }
}

/// Cells side by side, each as wide as its column, cut where it is longer.
fn line(columns: &[Column], cells: &[String], width: usize) -> String {
    let fixed: usize = columns.iter().map(|(_, width, _)| width + 1).sum();
    let rest = (width + 1).saturating_sub(fixed + 1).max(4);
    let mut text = String::new();
    for ((_, width, right), cell) in columns.iter().zip(cells) {
        let width = if *width == REST { rest } else { *width };
        let cell = cut(cell, width);
        let gap = width - cell.chars().count();
        if *right {
            text.extend(core::iter::repeat_n(' ', gap));
        }
        text.push_str(&cell);
        if !*right {
            text.extend(core::iter::repeat_n(' ', gap));
        }
        text.push(' ');
    }
    cut(text.trim_end(), width)
}

/// At most `width` characters of `text`, the last of which says that there was more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    if width == 0 { String::new() } else { kept.chain(['…']).collect() }
}

/// A number of times a second, in four characters or so: `0`, `0.4`, `12`, `3.4k`, `1.2M`.
pub(super) fn rate(per_s: f64) -> String {
    match per_s {
        per_s if per_s < 0.05 => "0".into(),
        per_s if per_s < 9.95 => format!("{per_s:.1}"),
        _ => scaled(per_s, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// A number of bytes, in binary thousands.
pub(super) fn size(bytes: f64) -> String {
    if bytes < 0.5 {
        "0".into()
    } else {
        scaled(bytes, 1024.0, &["", "K", "M", "G", "T", "P", "E"])
    }
}

/// A time of so many ns.
pub(super) fn time(ns: Option<f64>) -> String {
    match ns {
        None => "-".into(),
        Some(ns) if ns < 999.5 => format!("{ns:.0}ns"),
        Some(ns) => scaled(ns / 1e3, 1000.0, &["µs", "ms", "s", "ks", "Ms", "Gs"]),
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        if value < step - 0.5 {
            break;
        }
        value /= step;
        unit = next;
    }
    if value < 9.95 && !unit.is_empty() {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// A time of so many ms.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
    }
}
