//! What tasks serve and get.

use super::{Checker, is_path};
use crate::manifest::plan::{Getting, Serving, Source};
use crate::manifest::problem::suggestion;
use crate::manifest::values::Origin;
use crate::manifest::{
    READY_LABEL, SUPERVISOR_PATH, WrittenGetting, WrittenHold, WrittenServing, WrittenTask,
};
use rendez::Rights;
use rendez::protocol::kernel::Hold;
use rendez_protocol::limit::LABEL_BYTES_MAX;
use std::ops::Range;
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

impl Checker<'_> {
    pub(super) fn label(&mut self, label: &Spanned<String>) {
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

    pub(super) fn serving(&mut self, label: &Spanned<String>, serving: &WrittenServing) -> Serving {
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

    pub(super) fn possible(&mut self, rights: Rights, all: Rights, what: &str, at: Range<usize>) {
        let beyond = rights - all;
        if !beyond.is_empty() {
            let text = format!("there is no right {} to {what} that can be given", beyond.names());
            let help = format!("there are: {}", (all & known()).to_letters());
            self.wrong(text, at, "these rights").help = Some(help);
        }
    }

    pub(super) fn getting(
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
            Origin::Path(path) => (self.at_path(path, at), ENDPOINT, "an endpoint"),
            Origin::Task(task, label) => {
                (self.of_task(task, label.as_deref(), at), ENDPOINT, "an endpoint")
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
    pub(super) fn at_path(&mut self, path: &str, at: Range<usize>) -> Source {
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

    pub(super) fn of_task(&mut self, name: &str, label: Option<&str>, at: Range<usize>) -> Source {
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

    pub(super) fn unknown_task(&mut self, name: &str, at: Range<usize>) {
        let known = self.tasks.iter().map(|(name, _)| name.get_ref().as_str());
        let help = suggestion(name, known.clone())
            .unwrap_or_else(|| format!("there are: {}", known.collect::<Vec<_>>().join(", ")));
        self.wrong(format!("no task is called `{name}`"), at, "here").help = Some(help);
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

/// Rights that have a name.
fn known() -> Rights {
    Rights::from_letters("svpmgtikjrwnxab").unwrap_or_else(|_| Rights::empty())
}
