//! Whether a manifest makes sense. What the reader of TOML finds wrong is told alone; of all else,
//! all that is wrong is told at once.

use super::plan::{Getting, Plan, Planned, Program, Readiness, Serving, Source, Stuck};
use super::problem::{Problem, Problems, of_toml, suggestion};
use super::values::{Origin, Period};
use super::{
    BUILT_IN, MANIFEST_BYTES_MAX, READY_LABEL, STANDARD, STANDARD_NAME, SUPERVISOR_PATH, TASKS_MAX,
    Written, WrittenGetting, WrittenHold, WrittenServing, WrittenTask,
};
use crate::order::order;
use crate::restart::{Policy, When};
use crate::sandbox::{Resources, Sandbox};
use crate::stuck::Then;
use rendez::Rights;
use rendez::protocol::kernel::Hold;
use rendez_protocol::limit::{GIVEN_CAPABILITIES_MAX, LABEL_BYTES_MAX, PATH_BYTES_MAX};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// What whoever looks an endpoint up can have unless the manifest says otherwise.
const CLIENT: Rights = Rights::SEND
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT)
    .union(Rights::READ)
    .union(Rights::WRITE);
/// Rights that there are to an endpoint.
const ENDPOINT: Rights =
    CLIENT.union(Rights::POST).union(Rights::INJECT).union(Rights::SERVER_MASK);
/// Rights that there are to the supervisor.
const SUPERVISOR: Rights = CLIENT.union(Rights::MANAGE);
/// Rights that there are to the kernel's own task, of those that can be given away.
const KERNEL: Rights = Rights::MINT
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT)
    .union(Rights::INJECT);
/// When a server is stuck unless the manifest says otherwise.
const STUCK: Stuck = Stuck { after: Duration::from_secs(10), then: Then::Report };
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
            sandbox: sandbox(&written.sandbox, base),
        }
    }

    fn program(&mut self, at: &Range<usize>, task: &WrittenTask, base: &Path) -> Program {
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

    fn no_nul(&mut self, what: &str, text: &Spanned<String>) {
        if text.get_ref().contains('\0') {
            self.wrong(format!("{what} cannot contain a NUL"), text.span(), "here");
        }
    }

    fn variable(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        if text.is_empty() || text.contains(['=', '\0']) {
            self.wrong(format!("{text:?} cannot be the name of a variable"), name.span(), "here");
        } else if text == rendez_protocol::kernel::SOCKET_VARIABLE {
            self.wrong(format!("{text} is set by the supervisor"), name.span(), "here");
        }
    }

    fn label(&mut self, label: &Spanned<String>) {
        let text = label.get_ref();
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.contains(char::is_control) {
            let what = format!("{text:?} cannot be the name of a capability");
            let help = format!("it has 1 to {LABEL_BYTES_MAX} printable bytes");
            self.wrong(what, label.span(), "this name").help = Some(help);
        } else if text == READY_LABEL {
            let what = format!("`{READY_LABEL}` is what the supervisor itself gives a task");
            self.wrong(what, label.span(), "this name");
        }
    }

    fn serving(&mut self, label: &Spanned<String>, serving: &WrittenServing) -> Serving {
        self.label(label);
        if let Some(rights) = &serving.rights {
            self.possible(rights.get_ref().0, ENDPOINT, "an endpoint", rights.span());
        }
        Serving {
            label: label.get_ref().clone(),
            path: serving.path.as_ref().map(|path| path.get_ref().clone()),
            rights: serving.rights.as_ref().map_or(CLIENT, |rights| rights.get_ref().0),
            hold: serving.hold.as_ref().map_or(Hold::FOR_EVER, hold),
        }
    }

    fn possible(&mut self, rights: Rights, all: Rights, what: &str, at: Range<usize>) {
        let beyond = rights - all;
        if !beyond.is_empty() {
            let text = format!("there is no right {} to {what} that can be given", beyond.names());
            let help = format!("there are: {}", (all & known()).to_letters());
            self.wrong(text, at, "these rights").help = Some(help);
        }
    }

    fn getting(
        &mut self,
        label: &Spanned<String>,
        getting: &WrittenGetting,
        task: &WrittenTask,
    ) -> Getting {
        self.label(label);
        if let Some(served) = task.serves.keys().find(|served| *served == label) {
            let what = format!("two capabilities are called `{}`", label.get_ref());
            let other = (served.span(), "and here".into());
            self.wrong(what, label.span(), "here").beside.push(other);
        }
        let (at, rights) = (getting.from.span(), getting.rights.get_ref().0);
        let (source, all, what) = match getting.from.get_ref() {
            Origin::Kernel => (Source::Kernel, KERNEL, "the kernel"),
            Origin::Supervisor => (Source::Supervisor, SUPERVISOR, "the supervisor"),
            Origin::Path(path) => (self.from_path(path, at), ENDPOINT, "an endpoint"),
            Origin::Task(task, label) => {
                (self.from_task(task, label.as_deref(), at), ENDPOINT, "an endpoint")
            }
        };
        // A region that somebody registers can be looked up too.
        let all = match source {
            Source::Path(_) => all | Rights::MAP_READ | Rights::MAP_WRITE,
            _ => all,
        };
        self.possible(rights, all, what, getting.rights.span());
        Getting { label: label.get_ref().clone(), source, rights, badge: getting.badge }
    }

    /// A path that a task of the manifest serves is that endpoint; others are looked up.
    fn from_path(&mut self, path: &str, at: Range<usize>) -> Source {
        if path == SUPERVISOR_PATH {
            return Source::Supervisor;
        }
        for (task, (_, written)) in self.tasks.iter().enumerate() {
            let is_it =
                |one: &WrittenServing| one.path.as_ref().is_some_and(|it| it.get_ref() == path);
            if let Some(place) = written.get_ref().serves.values().position(is_it) {
                return Source::Endpoint { task, place };
            }
        }
        if !is_path(path) {
            self.wrong(format!("{path:?} is no path of the name space"), at, "this path");
        }
        Source::Path(path.into())
    }

    fn from_task(&mut self, name: &str, label: Option<&str>, at: Range<usize>) -> Source {
        let nothing = Source::Kernel;
        let Some(&task) = self.names.get(name) else {
            self.unknown_task(name, at);
            return nothing;
        };
        let tasks = self.tasks;
        let serves = &tasks[task].1.get_ref().serves;
        let labels: Vec<&str> = serves.keys().map(|label| label.get_ref().as_str()).collect();
        let found = match label {
            Some(label) => labels.iter().position(|one| *one == label),
            None if labels.len() == 1 => Some(0),
            None => None,
        };
        if let Some(place) = found {
            return Source::Endpoint { task, place };
        }
        let (what, help) = match (label, labels.as_slice()) {
            (_, []) => (format!("the task `{name}` serves no endpoint"), None),
            (Some(label), _) => (
                format!("the task `{name}` has no endpoint `{label}`"),
                suggestion(label, labels.iter().copied())
                    .or_else(|| Some(format!("it has: {}", labels.join(", ")))),
            ),
            (None, _) => (
                format!("the task `{name}` has several endpoints"),
                Some(format!("write \"{name}.…\": it has {}", labels.join(", "))),
            ),
        };
        self.wrong(what, at, "here").help = help;
        nothing
    }

    fn unknown_task(&mut self, name: &str, at: Range<usize>) {
        let known = self.tasks.iter().map(|(name, _)| name.get_ref().as_str());
        let help = suggestion(name, known.clone())
            .unwrap_or_else(|| format!("there are: {}", known.collect::<Vec<_>>().join(", ")));
        self.wrong(format!("no task is called `{name}`"), at, "here").help = Some(help);
    }

    fn ready(&mut self, at: &Range<usize>, task: &WrittenTask) -> Readiness {
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

    fn positive(&mut self, what: &str, period: &Spanned<Period>) -> Option<Duration> {
        if period.get_ref().0.is_zero() {
            self.wrong(format!("`{what}` must be longer than nothing"), period.span(), "here");
        }
        Some(period.get_ref().0)
    }

    fn restart(&mut self, task: &WrittenTask) -> Policy {
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

    fn stuck(&mut self, task: &WrittenTask) -> Option<Stuck> {
        let Some(written) = &task.stuck else {
            return (!task.serves.is_empty()).then_some(STUCK);
        };
        if task.serves.is_empty() {
            self.wrong("a task that serves nothing is never stuck", written.span(), "here");
        }
        let after = self.positive("after", &written.get_ref().after)?;
        Some(Stuck { after, then: written.get_ref().then })
    }

    fn limits(&mut self, task: &WrittenTask) -> Resources {
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

fn hold(hold: &WrittenHold) -> Hold {
    match (hold.connects, hold.within) {
        (Some(0), _) => Hold::Fail,
        (connects, within) => Hold::Wait {
            connects: connects.unwrap_or(u32::MAX),
            milliseconds: within
                .map_or(u32::MAX, |period| u32::try_from(period.0.as_millis()).unwrap_or(u32::MAX)),
        },
    }
}

/// A sandbox whose paths are found from `base`.
fn sandbox(written: &Sandbox, base: &Path) -> Sandbox {
    let mut sandbox = written.clone();
    let files = &mut sandbox.files;
    for path in files.read.iter_mut().chain(&mut files.write).chain(&mut files.execute) {
        *path = base.join(&*path);
    }
    sandbox
}

/// Rights that have a name.
fn known() -> Rights {
    Rights::from_letters("svpmgtikjrwnxab").unwrap_or_else(|_| Rights::empty())
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
