//! `rendez bench`: what a send costs here, against the classical mechanisms.

use crate::arguments::{Bench, STANDARD_OUTPUT};
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use rendez_bench::{Error, Options, Progress};
use std::io::{IsTerminal, Write};

/// Measures, and reports.
///
/// # Errors
/// If a mechanism is unknown, or Linux refuses one.
pub(super) fn run(bench: &Bench, output: &Output) -> Result<(), Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::system("finding this executable", error))?;
    let mut options = Options::new(executable);
    options.quick = bench.quick;
    options.only.clone_from(&bench.only);
    let file = bench.json.as_ref().filter(|file| file.as_os_str() != STANDARD_OUTPUT);
    // Opened first: minutes of measuring are not to be lost to a path with a typo.
    let mut file = file
        .map(|path| {
            std::fs::File::create(path)
                .map_err(|error| Failure::system(format!("creating {}", path.display()), error))
                .map(|file| (path, file))
        })
        .transpose()?;
    let bar = output.shows_progress().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
        ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut show = |Progress { experiment, what, done }: Progress| {
        if let Some(bar) = &bar {
            bar.set_position((done * 1000.0) as u64);
            bar.set_message(format!("{experiment}: {what}"));
        }
    };
    let report = rendez_bench::run(&options, &mut show).map_err(|error| {
        let code = if matches!(error, Error::UnknownMechanism { .. }) { USAGE } else { FAILED };
        Failure::new(code, error.to_string())
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if let Some((path, file)) = &mut file {
        report.to_json().map_err(|error| Failure::system("encoding the report", error)).and_then(
            |text| {
                writeln!(file, "{text}")
                    .map_err(|error| Failure::system(format!("writing {}", path.display()), error))
            },
        )?;
    }
    output.value(&report);
    output.line(report.table(std::io::stdout().is_terminal()).trim_end());
    Ok(())
}

/// This executable as the other process of a measurement.
///
/// # Errors
/// What Linux refuses.
pub(super) fn partner(arguments: &[String]) -> Result<(), Failure> {
    rendez_bench::partner(arguments).map_err(|error| Failure::new(FAILED, error.to_string()))
}
