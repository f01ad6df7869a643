//! `rendez manifest`: checks a manifest, says what it means, shows the standard one.

use crate::arguments::ManifestAction;
use crate::failure::{FAILED, Failure};
use crate::manifest::{base_of, plan_of, text_of};
use crate::output::{GOOD, Output};
use rendez_supervisor::manifest::explain::{command, details, explain};
use rendez_supervisor::manifest::{Plan, Problems, STANDARD, STANDARD_NAME};
use serde::Serialize;
use std::path::Path;

/// A task, for scripts.
#[derive(Debug, Serialize)]
struct Task<'a> {
    name: &'a str,
    command: String,
    details: Vec<Detail>,
}

/// What there is to say of it.
#[derive(Debug, Serialize)]
struct Detail {
    what: &'static str,
    text: String,
}

/// Something that is wrong, for scripts.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    what: &'a str,
    line: Option<usize>,
    column: Option<usize>,
}

/// Does what is asked. The exit code says whether the manifest is right.
///
/// # Errors
/// If it cannot be read.
pub(super) fn run(action: &ManifestAction, output: &Output) -> Result<u8, Failure> {
    match action {
        ManifestAction::Show => {
            output.value(&serde_json::json!({ "manifest": STANDARD }));
            output.line(STANDARD.trim_end());
            Ok(0)
        }
        ManifestAction::Check { file } => {
            let Some(plan) = read(file, output)? else { return Ok(FAILED) };
            let count = plan.tasks.len();
            output.value(&serde_json::json!({ "problems": [], "tasks": count }));
            let name = file.display();
            output.line(format_args!("{GOOD}right{GOOD:#}: {name}, {count} tasks"));
            Ok(0)
        }
        ManifestAction::Explain { file } => {
            let plan = match file {
                Some(file) => read(file, output)?,
                None => plan_of("", STANDARD_NAME, Path::new("/")).ok(),
            };
            let Some(plan) = plan else { return Ok(FAILED) };
            output.value(&tasks(&plan));
            output.line(explain(&plan));
            Ok(0)
        }
    }
}

/// The plan that a manifest describes; if it is wrong, that is said.
fn read(file: &Path, output: &Output) -> Result<Option<Plan>, Failure> {
    let text = text_of(file)?;
    match plan_of(&text, &file.display().to_string(), &base_of(file)?) {
        Ok(plan) => Ok(Some(plan)),
        Err(problems) => {
            tell(&problems, output);
            Ok(None)
        }
    }
}

fn tell(problems: &Problems, output: &Output) {
    let list: Vec<_> = problems
        .list()
        .map(|(what, place)| {
            let (line, column) = place.unzip();
            Problem { what, line, column }
        })
        .collect();
    output.value(&serde_json::json!({ "problems": list }));
    // Where the stream is no terminal, the colours are stripped.
    output.picture(problems.pictures(true));
}

fn tasks(plan: &Plan) -> Vec<Task<'_>> {
    let task = |task| -> Task<'_> {
        let task: &rendez_supervisor::manifest::Planned = task;
        let details = details(plan, task);
        Task {
            name: &task.name,
            command: command(task),
            details: details.into_iter().map(|(what, text)| Detail { what, text }).collect(),
        }
    };
    plan.tasks.iter().map(task).collect()
}
