//! What is executed, when it is ready, what becomes of it when it ends, what it may use.

use super::Checker;
use crate::manifest::plan::{Program, Readiness, Stuck};
use crate::manifest::problem::suggestion;
use crate::manifest::values::Period;
use crate::manifest::{BUILT_IN, WrittenTask};
use crate::restart::{Policy, When};
use crate::sandbox::{Resources, Sandbox};
use crate::stuck::Then;
use rendez_protocol::quota::{Allotment, Quota};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// When a server is stuck unless the manifest says otherwise.
const STUCK: Stuck = Stuck { after: Duration::from_secs(10), then: Then::Report };

impl Checker<'_> {
    pub(super) fn program(
        &mut self,
        at: &Range<usize>,
        task: &WrittenTask,
        base: &Path,
    ) -> Program {
        match (&task.program, &task.built_in) {
            (Some(program), None) => {
                self.no_nul("a program", program);
                let text = program.get_ref();
                if text.is_empty() {
                    self.wrong("no program is named", program.span(), "here");
                }
                // As in a shell: with a slash it is a file, without one it is looked for.
                let file = if text.contains('/') { base.join(text) } else { PathBuf::from(text) };
                Program::File(file)
            }
            (None, Some(built_in)) => {
                let text = built_in.get_ref();
                if !BUILT_IN.contains(&text.as_str()) {
                    let what = format!("no server called `{text}` is built in");
                    let help = suggestion(text, BUILT_IN)
                        .unwrap_or_else(|| format!("there are: {}", BUILT_IN.join(", ")));
                    self.wrong(what, built_in.span(), "here").help = Some(help);
                } else if !task.serves.keys().any(|label| label.get_ref() == "serve") {
                    let what = "a built-in server serves the endpoint that it is given as `serve`";
                    self.wrong(what, at.clone(), "this task has none of that name").help =
                        Some(format!("add: serves.serve = {{ path = \"/{text}\" }}"));
                }
                Program::BuiltIn(text.clone())
            }
            (None, None) => {
                self.wrong("it is not said what this task executes", at.clone(), "this task")
                    .help = Some("add: program = \"…\"".into());
                Program::File(PathBuf::new())
            }
            (Some(program), Some(_)) => {
                self.wrong("`program` and `built-in` exclude each other", program.span(), "here");
                Program::File(PathBuf::new())
            }
        }
    }

    pub(super) fn no_nul(&mut self, what: &str, text: &Spanned<String>) {
        if text.get_ref().contains('\0') {
            self.wrong(format!("{what} cannot contain a NUL"), text.span(), "here");
        }
    }

    pub(super) fn variable(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        if text.is_empty() || text.contains(['=', '\0']) {
            self.wrong(format!("{text:?} cannot be the name of a variable"), name.span(), "here");
        } else if text == rendez_protocol::kernel::SOCKET_VARIABLE {
            self.wrong(format!("{text} is set by the supervisor"), name.span(), "here");
        }
    }

    pub(super) fn ready(&mut self, at: &Range<usize>, task: &WrittenTask) -> Readiness {
        let Some(ready) = &task.ready else {
            let serves = !task.serves.is_empty();
            return if serves { Readiness::Serving } else { Readiness::Started };
        };
        let when = task.restart.when.as_ref();
        match ready.get_ref() {
            Readiness::Serving if task.serves.is_empty() => {
                let problem = self.wrong(
                    "a task that serves nothing is never ready by serving",
                    ready.span(),
                    "here",
                );
                problem.beside.push((at.clone(), "this task has no `serves`".into()));
                problem.help = Some("write ready = \"says\", \"started\" or \"finished\"".into());
            }
            Readiness::Finished if when.is_some_and(|when| *when.get_ref() == When::Always) => {
                let beside = when.map(|when| (when.span(), "is restarted".to_owned()));
                self.wrong(
                    "a task that is restarted always never finishes",
                    ready.span(),
                    "finished",
                )
                .beside
                .extend(beside);
            }
            _ => {}
        }
        *ready.get_ref()
    }

    pub(super) fn positive(&mut self, what: &str, period: &Spanned<Period>) -> Option<Duration> {
        if period.get_ref().0.is_zero() {
            self.wrong(format!("`{what}` must be longer than nothing"), period.span(), "here");
        }
        Some(period.get_ref().0)
    }

    pub(super) fn restart(&mut self, task: &WrittenTask) -> Policy {
        let written = &task.restart;
        let default = Policy::default();
        let back_off = written.back_off.map_or(default.back_off, |period| period.0);
        let cap =
            written.cap.as_ref().map_or(default.cap.max(back_off), |period| period.get_ref().0);
        if let Some(period) = &written.cap
            && cap < back_off
        {
            let what = format!(
                "the cap is shorter than the first back-off, {}",
                crate::words::time(back_off)
            );
            self.wrong(what, period.span(), "here");
        }
        let (budget, within) = match &written.budget {
            Some(budget) => {
                (budget.restarts, self.positive("within", &budget.within).unwrap_or(default.within))
            }
            None => (default.budget, default.within),
        };
        Policy {
            when: written.when.as_ref().map_or(default.when, |when| *when.get_ref()),
            back_off,
            cap,
            reset_after: written.reset_after.map_or(default.reset_after, |period| period.0),
            budget,
            within,
        }
    }

    pub(super) fn stuck(&mut self, task: &WrittenTask) -> Option<Stuck> {
        let Some(written) = &task.stuck else {
            return (!task.serves.is_empty()).then_some(STUCK);
        };
        if task.serves.is_empty() {
            self.wrong("a task that serves nothing is never stuck", written.span(), "here");
        }
        let after = self.positive("after", &written.get_ref().after)?;
        Some(Stuck { after, then: written.get_ref().then })
    }

    pub(super) fn quotas(&mut self, task: &WrittenTask) -> Vec<Allotment> {
        let mut allotments = Vec::new();
        for (name, amount) in &task.quotas {
            let text = name.get_ref();
            let Some(quota) = Quota::SHARED.into_iter().find(|quota| quota.name() == text) else {
                let known = Quota::SHARED.map(Quota::name);
                let help = suggestion(text, known)
                    .unwrap_or_else(|| format!("there are: {}", known.join(", ")));
                let what = format!("no quota called `{text}` can be set aside");
                self.wrong(what, name.span(), "here").help = Some(help);
                continue;
            };
            allotments.push(Allotment { quota, amount: *amount });
        }
        allotments
    }

    pub(super) fn limits(&mut self, task: &WrittenTask) -> Resources {
        let written = &task.limits;
        let cpu_seconds = written.cpu.as_ref().map(|period| period.get_ref().0.as_secs());
        if let (Some(period), Some(0)) = (&written.cpu, cpu_seconds) {
            self.wrong("Linux counts processor time in seconds", period.span(), "less than one");
        }
        Resources {
            memory: written.memory.map(|size| size.0),
            descriptors: written.descriptors.map(|count| count.get().into()),
            processes: written.processes.map(|count| count.get().into()),
            cpu_seconds,
            core: written.core.map(|size| size.0),
            file_size: written.file_size.map(|size| size.0),
        }
    }
}

/// A sandbox whose paths are found from `base`.
pub(super) fn sandbox(written: &Sandbox, base: &Path) -> Sandbox {
    let mut sandbox = written.clone();
    let files = &mut sandbox.files;
    for path in files.read.iter_mut().chain(&mut files.write).chain(&mut files.execute) {
        *path = base.join(&*path);
    }
    sandbox
}
