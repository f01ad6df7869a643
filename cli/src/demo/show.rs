//! How the demonstration shows what it does: a line a step, progress while it works, JSON at the
//! end for scripts.

use super::guard::Guard;
use crate::failure::{FAILED, Failure};
use crate::output::{BAD, DIM, GOOD, HEAD, Output};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// What came of a step that went well.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In a line.
    pub(super) text: String,
    /// More lines, where a step has them to show.
    pub(super) details: Vec<String>,
    /// For scripts.
    pub(super) figures: Value,
}

/// A step, for scripts.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    ok: bool,
    seconds: f64,
    text: String,
    details: Vec<String>,
    figures: Value,
}

/// The whole demonstration, for scripts.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    ok: bool,
    seconds: f64,
    steps: &'a [Step],
}

/// Shows steps, and remembers how they went.
#[derive(Debug)]
pub(super) struct Show {
    output: Output,
    guard: Guard,
    start: Instant,
    steps: Vec<Step>,
}

impl Show {
    pub(super) fn new(output: Output, guard: Guard) -> Self {
        Self { output, guard, start: Instant::now(), steps: Vec::new() }
    }

    /// Does a step and shows how it went; `None` if it failed.
    pub(super) fn step<T>(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&Bar) -> Result<(T, Outcome), Failure>,
    ) -> Option<T> {
        self.guard.doing(name);
        let bar = Bar::new(self.output.shows_progress(), name);
        let start = Instant::now();
        let result = body(&bar);
        let seconds = start.elapsed().as_secs_f64();
        bar.0.finish_and_clear();
        self.guard.doing(name);
        let ok = result.is_ok();
        let (value, outcome) = match result {
            Ok((value, outcome)) => (Some(value), outcome),
            Err(failure) => (None, Outcome { text: failure.to_string(), ..Outcome::default() }),
        };
        let Outcome { text, details, figures } = outcome;
        let mark = if ok { format!("{GOOD}✓{GOOD:#}") } else { format!("{BAD}✗{BAD:#}") };
        let number = self.steps.len() + 1;
        self.output.line(format_args!(
            "{mark} {number:>2} {HEAD}{name:<8}{HEAD:#} {text}  {DIM}{seconds:.2} s{DIM:#}"
        ));
        for line in &details {
            self.output.line(format_args!("       {line}"));
        }
        self.steps.push(Step { step: name, ok, seconds, text, details, figures });
        value
    }

    /// Shows that a step cannot be done since an earlier one failed.
    pub(super) fn leave_out(&mut self, name: &'static str) {
        self.step::<()>(name, |_| {
            Err(Failure::new(FAILED, "left out: it builds on a step that failed"))
        });
    }

    /// Shows how it went as a whole; the exit code.
    pub(super) fn end(self) -> u8 {
        let seconds = self.start.elapsed().as_secs_f64();
        let failed: Vec<_> = self.steps.iter().filter(|step| !step.ok).map(|s| s.step).collect();
        let ok = failed.is_empty();
        self.output.value(&Summary { ok, seconds, steps: &self.steps });
        if ok {
            let steps = self.steps.len();
            self.output
                .line(format_args!("{GOOD}all {steps} steps went well{GOOD:#} in {seconds:.1} s"));
            return 0;
        }
        let failed = failed.join(", ");
        self.output.line(format_args!("{BAD}failed:{BAD:#} {failed}  ({seconds:.1} s)"));
        FAILED
    }
}

/// Progress within a step, where somebody is looking.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    fn new(shown: bool, name: &'static str) -> Self {
        if !shown {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.set_message(name);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// So many bytes are to be copied.
    pub(super) fn expect_bytes(&self, bytes: u64) {
        self.0.set_length(bytes);
        let style = "  {msg:<8} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.0.set_style(style.progress_chars("━╸─"));
        }
    }

    /// So many have been.
    pub(super) fn at_bytes(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// `count` things, for people.
pub(super) fn count(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{count, size};

    #[test]
    fn figures_for_people() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(200 << 20), "200.0 MiB");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
    }
}
