//! `rendez bench`: what a message costs here, against what Linux offers.

use crate::arguments::{Bench, BenchAction, STANDARD_OUTPUT};
use crate::failure::{FAILED, Failure, NOT_FOUND, USAGE};
use crate::output::{Output, table};
use indicatif::{ProgressBar, ProgressStyle};
use rendez_bench::compare::Changes;
use rendez_bench::report::Report;
use rendez_bench::{Error, Options, Progress, experiment, mechanism};
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Measures and reports, or does what the arguments say instead.
///
/// # Errors
/// If a name is unknown, a file cannot be written or read, or nothing could be measured.
pub(super) fn run(bench: &Bench, output: &Output) -> Result<(), Failure> {
    if let Some(BenchAction::Compare { first, second, json }) = &bench.action {
        return compare([first, second], json.as_deref(), output);
    }
    if bench.list {
        list(output);
        return Ok(());
    }
    measure(bench, output)
}

/// Runs experiments.
fn measure(bench: &Bench, output: &Output) -> Result<(), Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::system("finding this executable", error))?;
    let mut options = Options::new(executable);
    options.experiments.clone_from(&bench.experiments);
    options.quick = bench.quick;
    options.only.clone_from(&bench.only);
    options.payloads.clone_from(&bench.payload);
    options.cores.clone_from(&bench.cores);
    options.seconds = bench.seconds;
    options.check().map_err(failure)?;
    let json = bench.json.as_deref().filter(|file| file.as_os_str() != STANDARD_OUTPUT);
    if let Some(name) = json.and_then(Path::to_str).filter(|name| experiment::find(name).is_some())
    {
        let text = format!(
            "--json {name} would write to a file of that name: name experiments before --json, or \
             write --json ./{name}"
        );
        return Err(Failure::new(USAGE, text));
    }
    // Opened first: minutes of measuring are not to be lost to a path with a typo.
    let mut json = json.map(Destination::open).transpose()?;
    let mut html = bench.html.as_deref().map(Destination::open).transpose()?;

    let bar = output.shows_progress().then(|| {
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}");
        ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut show = |Progress { experiment, what, done }: Progress| {
        if let Some(bar) = &bar {
            bar.set_position((done * 1000.0) as u64);
            bar.set_message(format!("{experiment}: {what}"));
        }
    };
    let report = rendez_bench::run(&options, &mut show).map_err(failure)?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    output.value(&report);
    output.line(report.table(std::io::stdout().is_terminal()).trim_end());
    if let Some(json) = &mut json {
        let text =
            report.to_json().map_err(|error| Failure::system("encoding the report", error))?;
        json.write(&text)?;
        output.line(format!("The report as JSON: {}", json.path.display()));
    }
    if let Some(html) = &mut html {
        html.write(&report.to_html())?;
        output.line(format!("The report as a page for a browser: {}", html.path.display()));
    }
    Ok(())
}

/// A file for a report.
struct Destination {
    path: PathBuf,
    file: File,
}

impl Destination {
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| {
            let code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { FAILED };
            Failure::new(code, format!("creating {}: {error}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Replaces what was there before: not earlier, so that a run that fails destroys no report.
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let written =
            truncate(&self.file).and_then(|()| writeln!(self.file, "{}", text.trim_end()));
        written.map_err(|error| Failure::system(format!("writing {}", self.path.display()), error))
    }
}

/// Empties a file; what is none, like a pipe or `/dev/stdout`, has nothing to empty.
fn truncate(file: &File) -> std::io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

/// What changed between two reports.
fn compare(
    [first, second]: [&Path; 2],
    json: Option<&Path>,
    output: &Output,
) -> Result<(), Failure> {
    let first = Report::load(first).map_err(failure)?;
    let second = Report::load(second).map_err(failure)?;
    let changes = Changes::between(&first, &second);
    output.value(&changes);
    output.line(changes.table(std::io::stdout().is_terminal()).trim_end());
    if let Some(json) = json.filter(|file| file.as_os_str() != STANDARD_OUTPUT) {
        let text = serde_json::to_string_pretty(&changes)
            .map_err(|error| Failure::system("encoding the changes", error))?;
        Destination::open(json)?.write(&text)?;
    }
    Ok(())
}

/// All names that the command understands.
fn list(output: &Output) {
    let experiments: Vec<Vec<String>> = experiment::all()
        .iter()
        .map(|entry| {
            let usual = if entry.usual { "" } else { "only if named" };
            vec![entry.name.to_owned(), usual.to_owned(), entry.question.to_owned()]
        })
        .collect();
    let mechanisms: Vec<Vec<String>> = mechanism::all()
        .iter()
        .map(|one| {
            let class = format!("{:?}", one.class()).to_lowercase();
            vec![mechanism::label(*one), class, one.waits().to_string()]
        })
        .collect();
    output.line(table(&["experiment", "", "asks"], &experiments));
    output.line("");
    output.line(table(&["mechanism", "class", "waits"], &mechanisms));
    let experiments = experiment::all().iter().map(
        |entry| json!({ "name": entry.name, "usual": entry.usual, "question": entry.question }),
    );
    let mechanisms = mechanism::all().iter().map(|one| {
        json!({ "label": mechanism::label(*one), "class": one.class(), "waits": one.waits() })
    });
    output.value(&json!({
        "experiments": experiments.collect::<Vec<_>>(),
        "mechanisms": mechanisms.collect::<Vec<_>>(),
    }));
}

/// What went wrong, with the code that says whether the command line was to blame.
fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::UnknownMechanism { .. }
        | Error::UnknownExperiment { .. }
        | Error::Payload { .. } => USAGE,
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => NOT_FOUND,
        _ => FAILED,
    };
    Failure::new(code, crate::output::printable(&error.to_string()))
}

/// This executable as the other process of a measurement.
///
/// # Errors
/// What Linux refuses.
pub(super) fn partner(arguments: &[String]) -> Result<(), Failure> {
    rendez_bench::partner(arguments).map_err(failure)
}
