//! `rendez top`: what crosses every connection, how long it takes, who wakes whom and who waits for
//! whom; again and again on a terminal, or as often as asked for as tables or JSON.
//!
//! It reads what tasks count in their pages (`watch`), works out what happened between two looks
//! (`report`), and shows it (`screen`, on a `terminal`). Nothing of this touches a connection: the
//! kernel is asked for the list of tasks once a second at most, and once for each page.

mod report;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;
mod watch;

use crate::arguments::Top;
use crate::failure::Failure;
use crate::output::{Output, printable, table};
use report::Report;
use screen::{View, duration, rate, size, time};
use std::io::IsTerminal;
use std::time::Duration;
use terminal::{Key, Terminal};
use watch::Watch;

/// Shows what happens.
///
/// # Errors
/// If this task may not look at the others, or the terminal cannot be used.
pub(super) fn run(task: &rendez::Task, top: &Top, output: &Output) -> Result<(), Failure> {
    let watch = Watch::new(task)?;
    let people = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if people && !output.is_json() { watched(watch, top) } else { told(watch, top, output) }
}

/// Looks at it from a terminal, until somebody has seen enough.
fn watched(mut watch: Watch, top: &Top) -> Result<(), Failure> {
    let failed = |error| Failure::system("using the terminal", error);
    let mut view = View::new(top.sort, top.interval);
    let mut terminal = Terminal::open().map_err(failed)?;
    let mut before = watch.look()?;
    let mut report = Report::between(None, &before);
    let mut shown = 0;
    loop {
        terminal.show(&screen::lines(&report, &view, terminal.size())).map_err(failed)?;
        let mut left = Duration::from_millis(view.interval_ms);
        loop {
            match terminal.key(left).map_err(failed)? {
                (Key::None, _) => break,
                (Key::Quit, _) => return Ok(()),
                (key, rest) => {
                    view.pressed(key, report.connections.len());
                    let lines = screen::lines(&report, &view, terminal.size());
                    terminal.show(&lines).map_err(failed)?;
                    left = rest;
                }
            }
        }
        if view.paused {
            continue;
        }
        shown += 1;
        if top.iterations.is_some_and(|most| shown >= most.get()) {
            return Ok(());
        }
        let now = watch.look()?;
        report = Report::between(Some(&before), &now);
        before = now;
    }
}

/// Says it in tables or JSON, so many times.
fn told(mut watch: Watch, top: &Top, output: &Output) -> Result<(), Failure> {
    let mut before = watch.look()?;
    for _ in 0..top.iterations.map_or(1, |count| count.get()) {
        std::thread::sleep(Duration::from_millis(top.interval.into()));
        let now = watch.look()?;
        let mut report = Report::between(Some(&before), &now);
        report.sort(top.sort, false);
        before = now;
        output.value(&report);
        output.line(tables(&report));
    }
    Ok(())
}

/// A report as tables, as wide as they are.
fn tables(report: &Report) -> String {
    let tasks: Vec<_> = report
        .tasks
        .iter()
        .map(|task| {
            vec![
                task.task.clone(),
                printable(&task.name).into_owned(),
                task.pid.map_or("-".into(), |pid| pid.to_string()),
                rate(task.sent_per_s),
                rate(task.served_per_s),
                rate(task.wakes_per_s),
                task.wake_ns.map_or("-".into(), |ns| time(Some(ns as f64))),
                screen::waits(task),
            ]
        })
        .collect();
    let connections: Vec<_> = report
        .connections
        .iter()
        .map(|row| {
            let requests = |end: &Option<report::EndRow>| end.as_ref().map(|end| end.requests);
            vec![
                row.connection.clone(),
                screen::parties(row),
                requests(&row.client_end).or(requests(&row.server_end)).unwrap_or(0).to_string(),
                rate(row.transactions_per_s),
                size(row.bytes_per_s),
                time(row.round_trip(0)),
                time(row.round_trip(1)),
                time(row.service(0)),
                time(row.service(1)),
                rate(row.wakes_per_s),
                rate(row.looks_per_s),
                rate(row.room_waits_per_s),
                row.late.to_string(),
            ]
        })
        .collect();
    let first = table(
        &["TASK", "NAME", "PID", "SENT/S", "SERVED/S", "WAKES/S", "LEARNED", "WAITS FOR"],
        &tasks,
    );
    let second = table(
        &[
            "CONN",
            "CLIENT → SERVER",
            "SENDS",
            "/S",
            "B/S",
            "RTT P50",
            "P99",
            "SERVICE P50",
            "P99",
            "WAKES/S",
            "LOOKS/S",
            "ROOM/S",
            "LATE",
        ],
        &connections,
    );
    format!("{first}\n\n{second}\n\nover {}", duration(report.interval_ms))
}
