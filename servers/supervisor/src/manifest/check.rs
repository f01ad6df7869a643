//! Whether a manifest makes sense. What the reader of TOML finds wrong is told alone; of all else,
//! all that is wrong is told at once.

use super::plan::{Plan, Planned, Source};
use super::problem::{Problem, Problems, of_toml};
use super::{
    MANIFEST_BYTES_MAX, STANDARD, STANDARD_NAME, SUPERVISOR_PATH, TASKS_MAX, Written, WrittenTask,
};
use crate::order::order;
use rendez_protocol::limit::{GIVEN_CAPABILITIES_MAX, LABEL_BYTES_MAX, PATH_BYTES_MAX};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

mod capabilities;
mod running;

/// What a task has of the supervisor's environment unless it says otherwise.
const INHERITED: [&str; 8] =
    ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE", "RUST_LOG"];

/// Tasks in the order in which they are written.
type Tasks = Vec<(Spanned<String>, Spanned<WrittenTask>)>;

pub(super) fn check(text: &str, name: &str, base: &Path) -> Result<Plan, Problems> {
    let failed = |problem| Problems::new(text, name, vec![problem]);
    if text.len() > MANIFEST_BYTES_MAX {
        let what = format!("the manifest is longer than {MANIFEST_BYTES_MAX} bytes");
        return Err(failed(Problem { at: None, ..Problem::new(what, 0..0, "") }));
    }
    let written: Written = toml::from_str(text).map_err(|error| failed(of_toml(&error)))?;
    let mut tasks = in_order(written.task);
    let own = tasks.len();
    if written.standard && name != STANDARD_NAME {
        let standard: Written = toml::from_str(STANDARD)
            .map_err(|error| Problems::new(STANDARD, STANDARD_NAME, vec![of_toml(&error)]))?;
        let mut added = in_order(standard.task);
        added.retain(|(name, _)| tasks.iter().all(|(own, _)| own.get_ref() != name.get_ref()));
        tasks.extend(added);
    }
    let mut checker =
        Checker { names: HashMap::new(), own, added: None, tasks: &tasks, problems: Vec::new() };
    let mut plan = checker.plan(base);
    let mut problems = checker.problems;
    plan.policy = written.policy.map(|front| front.0);
    // Of the uid itself nothing is checked.
    if let Some(Err(mistake)) = plan.policy.as_ref().map(|policy| policy.admissions(0)) {
        problems.push(Problem::new(mistake.what, mistake.at, "here"));
    }
    if problems.is_empty() { Ok(plan) } else { Err(Problems::new(text, name, problems)) }
}

fn in_order(tasks: BTreeMap<Spanned<String>, Spanned<WrittenTask>>) -> Tasks {
    let mut tasks: Tasks = tasks.into_iter().collect();
    tasks.sort_by_key(|(name, _)| name.span().start);
    tasks
}

struct Checker<'a> {
    tasks: &'a Tasks,
    /// The places of tasks, by name.
    names: HashMap<&'a str, usize>,
    /// So many of the tasks are from the manifest itself; where the others stand is not shown.
    own: usize,
    /// The one at hand is one of the others.
    added: Option<&'a str>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn wrong(&mut self, what: impl Into<String>, at: Range<usize>, label: &str) -> &mut Problem {
        let mut problem = Problem::new(what, at, label);
        if let Some(name) = self.added {
            problem.what = format!("in the standard task `{name}`: {}", problem.what);
            problem.at = None;
        }
        self.problems.push(problem);
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    fn plan(&mut self, base: &Path) -> Plan {
        for (place, (name, _)) in self.tasks.iter().enumerate() {
            self.task_name(name);
            self.names.insert(name.get_ref(), place);
        }
        if let Some((name, _)) = self.tasks.get(TASKS_MAX) {
            let what = format!("there are more than {TASKS_MAX} tasks");
            self.wrong(what, name.span(), "one too many");
        }
        self.paths();
        let mut planned = Vec::new();
        for (place, (name, task)) in self.tasks.iter().enumerate() {
            self.added = (place >= self.own).then(|| name.get_ref().as_str());
            planned.push(self.task(place, name, task, base));
        }
        self.added = None;
        let after: Vec<_> = planned.iter().map(|task| task.after.clone()).collect();
        match order(&after) {
            Ok(order) => Plan { tasks: sorted(planned, &order), policy: None },
            Err(cycle) => {
                self.cycle(&cycle);
                Plan::default()
            }
        }
    }

    fn task_name(&mut self, name: &Spanned<String>) {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let text = name.get_ref();
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || !text.chars().all(fit) {
            let what = format!("{text:?} cannot be the name of a task");
            let help = format!("it has 1 to {LABEL_BYTES_MAX} letters, digits, `-` and `_`");
            self.wrong(what, name.span(), "this name").help = Some(help);
        } else if matches!(text.as_str(), "kernel" | "supervisor") {
            let what = format!("no task can be called `{text}`: it is taken");
            self.wrong(what, name.span(), "this name");
        }
    }

    /// Each path is one endpoint's.
    fn paths(&mut self) {
        let mut seen: HashMap<&str, (usize, Range<usize>)> = HashMap::new();
        for (place, (_, task)) in self.tasks.iter().enumerate() {
            for serving in task.get_ref().serves.values() {
                let Some(path) = &serving.path else { continue };
                let (text, at) = (path.get_ref().as_str(), path.span());
                if place < self.own && !is_path(text) {
                    let what = format!("{text:?} is no path of the name space");
                    let help = "write \"/a\" or \"/a/b\": no `.`, no `..`, nothing empty";
                    self.wrong(what, at.clone(), "this path").help = Some(help.into());
                } else if place < self.own && text == SUPERVISOR_PATH {
                    self.wrong(format!("{text} is the supervisor's own path"), at.clone(), "here");
                }
                let Some((other, before)) = seen.insert(text, (place, at.clone())) else {
                    continue;
                };
                let what = format!("two endpoints have the path {text}");
                if place < self.own {
                    self.wrong(what, at, "here").beside.push((before, "and here".into()));
                } else if other < self.own {
                    let name = self.tasks[place].0.get_ref();
                    let help = format!(
                        "the standard task `{name}` has it: define [task.{name}] yourself, or say \
                         `standard = false`"
                    );
                    self.wrong(what, before, "here").help = Some(help);
                }
            }
        }
    }

    fn task(
        &mut self,
        place: usize,
        name: &Spanned<String>,
        task: &'a Spanned<WrittenTask>,
        base: &Path,
    ) -> Planned {
        let at = name.span();
        let written = task.get_ref();
        let program = self.program(&at, written, base);
        for argument in &written.arguments {
            self.no_nul("an argument", argument);
        }
        for (variable, value) in &written.environment {
            self.variable(variable);
            self.no_nul("a variable", value);
        }
        for variable in written.inherit.iter().flatten() {
            self.variable(variable);
        }
        let directory = match &written.directory {
            Some(directory) => {
                self.no_nul("a directory", directory);
                base.join(directory.get_ref())
            }
            None => base.to_owned(),
        };
        let serves: Vec<_> =
            written.serves.iter().map(|(label, one)| self.serving(label, one)).collect();
        let gets: Vec<_> =
            written.gets.iter().map(|(label, one)| self.getting(label, one, written)).collect();
        if serves.len() + gets.len() >= GIVEN_CAPABILITIES_MAX {
            let most = GIVEN_CAPABILITIES_MAX - 1;
            self.wrong(
                format!("a task starts with at most {most} capabilities"),
                at.clone(),
                "here",
            );
        }
        let ready = self.ready(&at, written);
        let inherit = match &written.inherit {
            Some(names) => names.iter().map(|name| name.get_ref().clone()).collect(),
            None => INHERITED.map(String::from).to_vec(),
        };
        Planned {
            name: name.get_ref().clone(),
            program,
            arguments: written.arguments.iter().map(|one| one.get_ref().clone()).collect(),
            environment: written
                .environment
                .iter()
                .map(|(name, value)| (name.get_ref().clone(), value.get_ref().clone()))
                .collect(),
            inherit,
            directory,
            serves,
            gets,
            ready,
            ready_within: written
                .ready_within
                .as_ref()
                .and_then(|within| self.positive("ready-within", within)),
            after: self.after(place, written),
            required: written.required,
            restart: self.restart(written),
            give_up: written.restart.give_up.unwrap_or_default(),
            stuck: self.stuck(written),
            limits: self.limits(written),
            quotas: self.quotas(written),
            sandbox: running::sandbox(&written.sandbox, base),
        }
    }

    fn after(&mut self, place: usize, task: &WrittenTask) -> Vec<usize> {
        let mut after = Vec::new();
        for name in &task.after {
            match self.names.get(name.get_ref().as_str()) {
                None => self.unknown_task(name.get_ref(), name.span()),
                Some(&on) if on == place => {
                    self.wrong("a task cannot start after itself", name.span(), "this is it");
                }
                Some(&on) if after.contains(&on) => {}
                Some(&on) => after.push(on),
            }
        }
        after
    }

    fn cycle(&mut self, cycle: &[usize]) {
        let names: Vec<_> =
            cycle.iter().map(|task| self.tasks[*task].0.get_ref().as_str()).collect();
        let mut places = Vec::new();
        for (task, next) in cycle.iter().zip(names.iter().cycle().skip(1)) {
            let after = &self.tasks[*task].1.get_ref().after;
            let name = self.tasks[*task].0.get_ref();
            if let Some(written) = after.iter().find(|on| on.get_ref() == next) {
                places.push((written.span(), format!("{name} starts after {next}")));
            }
        }
        let around = [names.as_slice(), &names[..1]].concat().join(" → ");
        let mut places = places.into_iter();
        if let Some((at, label)) = places.next() {
            let what = format!("none of these tasks could ever start: {around}");
            self.wrong(what, at, &label).beside.extend(places);
        }
    }
}

/// Whether `text` is a path under which something can be registered.
fn is_path(text: &str) -> bool {
    text.len() <= PATH_BYTES_MAX
        && text.strip_prefix('/').is_some_and(|below| {
            below.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        })
}

/// The tasks in this order; the places that they know each other by are changed with them.
fn sorted(planned: Vec<Planned>, order: &[usize]) -> Vec<Planned> {
    let mut new = vec![0; planned.len()];
    for (place, old) in order.iter().enumerate() {
        new[*old] = place;
    }
    let mut sorted: Vec<_> = planned.into_iter().enumerate().collect();
    sorted.sort_by_key(|(old, _)| new[*old]);
    let renumbered = |(_, mut task): (usize, Planned)| {
        for on in &mut task.after {
            *on = new[*on];
        }
        for getting in &mut task.gets {
            if let Source::Endpoint { task, .. } = &mut getting.source {
                *task = new[*task];
            }
        }
        task
    };
    sorted.into_iter().map(renumbered).collect()
}

#[cfg(test)]
mod tests;
