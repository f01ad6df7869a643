//! `rendez deaths`: how tasks of the system came to their ends.

use super::supervisor::Supervisor;
use crate::failure::Failure;
use crate::output::{BAD, DIM, HEAD, Output, printable};
use rendez::Task;
use rendez::protocol::supervisor::{Death, Doing};
use std::fmt::Write;

/// Says how the last `count` ends came about, of the task called `name` or of all.
///
/// # Errors
/// What the supervisor says.
pub(super) fn run(
    task: &Task,
    name: Option<&str>,
    count: usize,
    output: &Output,
) -> Result<(), Failure> {
    let deaths = Supervisor::of(task)?.deaths(name, count)?;
    output.value(&deaths);
    if deaths.is_empty() {
        output.line(match name {
            Some(name) => format!("{} has never ended", printable(name)),
            None => "no task has ended".into(),
        });
    }
    // The latest last, where people look first.
    let texts: Vec<_> = deaths.iter().rev().map(text).collect();
    if !texts.is_empty() {
        output.line(texts.join("\n\n"));
    }
    Ok(())
}

fn text(death: &Death) -> String {
    let name = printable(&death.name);
    let mut text = format!(
        "{HEAD}{name}{HEAD:#} #{}: {BAD}{}{BAD:#} {DIM}{} ago{DIM:#}",
        death.incarnation,
        printable(&death.end.to_string()),
        duration(ago_ms(death.at_unix_ms)),
    );
    let mut say = |what: &str, said: String| {
        let _ = write!(text, "\n  {what:<9}{said}");
    };
    if let (Some(task), Some(pid)) = (death.task, death.pid) {
        let ran = duration(death.ran_ms);
        say("was", format!("task {}.{}, pid {pid}, for {ran}", task.index, task.generation));
    }
    if !death.killed_for.is_empty() {
        say("killed", printable(&death.killed_for).into_owned());
    }
    say("then", printable(&death.then).into_owned());
    for doing in &death.serving {
        let plural = if doing.count == 1 { "" } else { "s" };
        say("served", format!("{}: {} transaction{plural} under way", who(doing), doing.count));
    }
    for doing in &death.waiting {
        let long = doing.for_ms.map_or(String::new(), |ms| format!(" for {}", duration(ms)));
        say("awaited", format!("{}{long}", who(doing)));
    }
    for line in &death.log {
        say("said", printable(line).into_owned());
    }
    text
}

fn who(doing: &Doing) -> String {
    let id = format!("task {}.{}", doing.task.index, doing.task.generation);
    match doing.name.as_str() {
        "" => format!("{id}, gone"),
        name => format!("{} ({id})", printable(name)),
    }
}

fn ago_ms(at_unix_ms: u64) -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(at_unix_ms)
}

/// A length of time, for people.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use rendez::protocol::TaskId;
    use rendez::protocol::supervisor::{Death, Doing, End};

    #[test]
    fn a_record_says_what_there_is_to_say() {
        let id = |index| TaskId { index, generation: 2 };
        let death = Death {
            number: 4,
            name: "db".into(),
            incarnation: 3,
            task: Some(id(5)),
            pid: Some(77),
            at_unix_ms: u64::MAX,
            ran_ms: 1_500,
            end: End::Killed { signal: 6, name: "SIGABRT".into(), core: true },
            killed_for: String::new(),
            then: "restarted at once".into(),
            serving: vec![Doing { task: id(8), name: "web\u{1b}".into(), count: 2, for_ms: None }],
            waiting: vec![Doing { task: id(9), name: String::new(), count: 1, for_ms: Some(20) }],
            log: vec!["panicked\u{7}".into()],
        };
        let plain = anstream::adapter::strip_str(&text(&death)).to_string();
        let expected = "\
db #3: killed by SIGABRT, core dumped 0 ms ago
  was      task 5.2, pid 77, for 1.5 s
  then     restarted at once
  served   web\\u{1b} (task 8.2): 2 transactions under way
  awaited  task 9.2, gone for 20 ms
  said     panicked\\u{7}";
        assert_eq!(plain, expected);
    }
}
