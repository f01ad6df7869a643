//! What a plan means, for people: what is started, in which order, with which authority, and what
//! becomes of it when it ends.

use super::plan::{Plan, Planned, Program, Readiness, Source};
use crate::machine::GiveUp;
use crate::restart::When;
use crate::sandbox::{Network, Sandbox, SystemCalls};
use crate::stuck::Then;
use crate::words::time;
use rendez::protocol::kernel::Hold;

/// A plan as lines of text.
#[must_use]
pub fn explain(plan: &Plan) -> String {
    let mut lines = vec![format!(
        "{} tasks, in this order; those with nothing before them start at once, together:",
        plan.tasks.len()
    )];
    for (place, task) in plan.tasks.iter().enumerate() {
        lines.push(String::new());
        lines.push(format!("{}. {}: {}", place + 1, task.name, command(task)));
        for (what, text) in details(plan, task) {
            lines.push(format!("   {what:<9} {text}"));
        }
    }
    lines.join("\n")
}

/// What is executed.
#[must_use]
pub fn command(task: &Planned) -> String {
    let mut words = match &task.program {
        Program::BuiltIn(name) => vec![format!("the {name} server of this executable")],
        Program::File(file) => vec![file.display().to_string()],
    };
    words.extend(task.arguments.iter().map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("{argument:?}")
        }
    }));
    words.join(" ")
}

/// What there is to say of a task: under which word, and what.
#[must_use]
pub fn details(plan: &Plan, task: &Planned) -> Vec<(&'static str, String)> {
    let mut details = Vec::new();
    let mut say = |what, text: String| details.push((what, text));
    let name = |place: usize| plan.tasks[place].name.as_str();
    if !task.after.is_empty() {
        let names: Vec<_> = task.after.iter().map(|on| name(*on)).collect();
        say("after", format!("{} (is ready)", names.join(", ")));
    }
    for serving in &task.serves {
        let path = match &serving.path {
            Some(path) => {
                format!("registered as {path}, others can have {}", serving.rights.to_letters())
            }
            None => "not registered".into(),
        };
        let hold = match serving.hold {
            Hold::FOR_EVER => String::new(),
            other => format!("; without a receiver {other}"),
        };
        say("serves", format!("{}: {path}{hold}", serving.label));
    }
    for getting in &task.gets {
        let source = match &getting.source {
            Source::Endpoint { task, place } => {
                format!("{}.{}", name(*task), plan.tasks[*task].serves[*place].label)
            }
            Source::Path(path) => format!("{path}, once somebody has registered it"),
            Source::Kernel => "the kernel".into(),
            Source::Supervisor => "the supervisor".into(),
        };
        let badge = getting.badge.map_or(String::new(), |badge| format!(", badge {badge}"));
        let rights = getting.rights.to_letters();
        say("gets", format!("{}: {rights} to {source}{badge}", getting.label));
    }
    let ready = match task.ready {
        Readiness::Serving => "once it serves",
        Readiness::Says => "once it says so",
        Readiness::Started => "once its program runs",
        Readiness::Finished => "once it has exited with 0",
    };
    let within =
        task.ready_within.map_or(String::new(), |within| format!(", within {}", time(within)));
    let required = if task.required { "" } else { "; the system does not wait for that" };
    say("ready", format!("{ready}{within}{required}"));
    say("restart", restart(task));
    if let Some(stuck) = &task.stuck {
        let then = match stuck.then {
            Then::Report => "shown as stuck",
            Then::Restart => "killed and restarted",
            Then::Kill => "killed",
        };
        say("stuck", format!("{then} when it receives nothing for {}", time(stuck.after)));
    }
    let limits = limits(task);
    if !limits.is_empty() {
        say("limits", limits.join(", "));
    }
    if !task.quotas.is_empty() {
        let quotas: Vec<_> =
            task.quotas.iter().map(|one| format!("{} {}", one.amount, one.quota.name())).collect();
        say("quotas", format!("{} set aside for it", quotas.join(", ")));
    }
    say("sandbox", walls(&task.sandbox));
    for lack in task.sandbox.lacks() {
        say("lacks", format!("{}: {}", lack.what, lack.costs));
    }
    say("directory", task.directory.display().to_string());
    details
}

fn restart(task: &Planned) -> String {
    let policy = &task.restart;
    let when = match policy.when {
        When::Never => return "never".into(),
        When::Always => "always",
        When::OnFailure => "unless it exits with 0",
    };
    let then = match task.give_up {
        GiveUp::Leave => "left",
        GiveUp::StopDependents => "left, and those after it are stopped",
        GiveUp::StopSystem => "the end of the system",
    };
    format!(
        "{when}: at once, then after {} and twice as long each time up to {}; at once again after a run \
         of {}; more than {} within {} is {then}",
        time(policy.back_off),
        time(policy.cap),
        time(policy.reset_after),
        policy.budget,
        time(policy.within),
    )
}

fn walls(sandbox: &Sandbox) -> String {
    if !sandbox.enabled {
        return "none".into();
    }
    let mut walls = Vec::new();
    let files = &sandbox.files;
    if files.all {
        walls.push("all files".to_owned());
    } else {
        for (what, paths) in
            [("reads", &files.read), ("writes", &files.write), ("executes", &files.execute)]
        {
            if !paths.is_empty() {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                walls.push(format!("{what} {}", paths.join(" ")));
            }
        }
        if walls.is_empty() {
            walls.push("no files but its program and libraries".into());
        }
    }
    walls.push(match sandbox.network {
        Network::None => "no sockets".into(),
        Network::Unix => "Unix sockets".into(),
        Network::All => "all sockets".into(),
    });
    walls.push(match sandbox.system_calls {
        SystemCalls::Server => "a server's system calls".into(),
        SystemCalls::All => "all system calls".into(),
    });
    if !sandbox.namespaces.is_empty() {
        walls.push(format!("{} namespaces of its own", sandbox.namespaces.len()));
    }
    if let Some(user) = sandbox.user {
        walls.push(format!("uid {} gid {}", user.uid, user.gid));
    }
    if sandbox.dumpable {
        walls.push("can be traced".into());
    }
    walls.join("; ")
}

fn limits(task: &Planned) -> Vec<String> {
    let limits = &task.limits;
    let bytes = |what: &str, value: Option<u64>| {
        value.map(|bytes| match bytes {
            _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => {
                format!("{what} {} MiB", bytes >> 20)
            }
            _ => format!("{what} {bytes} bytes"),
        })
    };
    let count = |what: &str, value: Option<u64>| value.map(|value| format!("{what} {value}"));
    [
        bytes("memory", limits.memory),
        count("descriptors", limits.descriptors),
        count("processes", limits.processes),
        limits.cpu_seconds.map(|seconds| format!("cpu {seconds} s")),
        bytes("core", limits.core),
        bytes("a file", limits.file_size),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::explain;
    use std::path::Path;

    #[test]
    fn a_plan_is_told_in_its_order() {
        let text = "standard = false
[task.web]
program = './web'
arguments = ['--port', '80', 'a b']
after = ['db']
gets.db = { from = 'db', rights = 'r', badge = 7 }
limits = { memory = '64MiB', cpu = '1min' }
restart = { when = 'always', give-up = 'stop-system' }
[task.db]
program = 'db'
serves.main = { path = '/db', rights = 'sr' }
stuck = { after = '5s', then = 'restart' }
restart.when = 'never'
";
        let text = text.replace("program", "sandbox.enabled = false\nprogram");
        let text = text.as_str();
        let plan = super::super::read(text, "x.toml", Path::new("/srv")).unwrap();
        let expected = "\
2 tasks, in this order; those with nothing before them start at once, together:

1. db: db
   serves    main: registered as /db, others can have sr
   ready     once it serves
   restart   never
   stuck     killed and restarted when it receives nothing for 5s
   sandbox   none
   directory /srv

2. web: /srv/./web --port 80 \"a b\"
   after     db (is ready)
   gets      db: sr to db.main, badge 7
   ready     once its program runs
   restart   always: at once, then after 100ms and twice as long each time up to 30s; at once again \
after a run of 10s; more than 10 within 1min is the end of the system
   limits    memory 64 MiB, cpu 60 s
   sandbox   none
   directory /srv";
        assert_eq!(explain(&plan), expected);
    }
}
