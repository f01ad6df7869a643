//! `rendez replay`: runs a recording of a kernel again, and compares.

use crate::arguments::Replay as Arguments;
use crate::failure::{FAILED, Failure};
use crate::output::{DIM, GOOD, Output, WARN};
use indicatif::{ProgressBar, ProgressStyle};
use rendez_kernel::recording::replay::Replay;
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;

/// Steps between two looks at the progress bar.
const STEPS_PER_LOOK: u64 = 256;

/// What a replay came to, for scripts.
#[derive(Debug, Serialize)]
struct Summary {
    equal: bool,
    steps: u64,
    effects: u64,
    bytes: u64,
    tasks: usize,
    end: Option<String>,
    error: Option<String>,
}

/// Runs a recording again.
///
/// # Errors
/// If it cannot be read to its end, if anything comes out differently, or if something that must
/// always hold does not.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    let path = arguments.file.display();
    let file = File::open(&arguments.file)
        .map_err(|error| Failure::system(format!("opening {path}"), error))?;
    let length = file.metadata().map_or(0, |found| found.len());
    let mut replay = Replay::new(BufReader::new(file), arguments.check_every)
        .map_err(|error| Failure::new(FAILED, format!("{path}: {error}")))?;
    let bar = progress(length, output);
    let failed = loop {
        match replay.next_step() {
            Ok(Some(step)) => {
                if arguments.show.is_some_and(|from| step.number >= from) {
                    bar.suspend(|| output.line(format_args!("{} {}", step.number, step.script())));
                }
                if step.number.is_multiple_of(STEPS_PER_LOOK) {
                    bar.set_position(replay.reader().offset());
                }
            }
            Ok(None) => break None,
            Err(failed) => break Some(failed.to_string()),
        }
    };
    bar.finish_and_clear();
    let end = replay.end().map(|end| end.to_string());
    output.value(&Summary {
        equal: failed.is_none(),
        steps: replay.steps(),
        effects: replay.effects(),
        bytes: replay.reader().offset(),
        tasks: replay.machine().tasks().count(),
        end: end.clone(),
        error: failed.clone(),
    });
    if let Some(failed) = failed {
        return Err(Failure::new(FAILED, format!("{path}: {failed}")));
    }
    output.line(format_args!(
        "{GOOD}equal{GOOD:#}: {} steps, {} effects {DIM}({} bytes, {} tasks at the end){DIM:#}",
        replay.steps(),
        replay.effects(),
        replay.reader().offset(),
        replay.machine().tasks().count(),
    ));
    match end {
        Some(end) => output.line(format_args!("the recording ends because {end}")),
        None => output.line(format_args!(
            "{WARN}the recording has no end{WARN:#}: the kernel was killed, its disk was full, or it \
             still runs"
        )),
    }
    Ok(())
}

/// How far it is, on a terminal.
fn progress(length: u64, output: &Output) -> ProgressBar {
    if !output.shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}
