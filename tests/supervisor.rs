//! The supervisor with real processes: what a manifest says, and what becomes of tasks that crash,
//! hang, take their time, or say nothing.

mod common;

use common::{Role, System, eventually, for_ever, pid_of, rendez, runtime_of, servers, signal};
use rendez::protocol::supervisor::{
    Death, DeathList, Deaths, End, Server as Row, State, operation,
};
use rendez::protocol::{decode, encode};
use rendez::service::{Context, Message, Reply, ReplyRight, Service};
use rendez::{Connection, Error, Options, SendError, Server, Task, Why};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// What the server of the assistant can be asked.
const ECHO: u16 = 1;
const ABORT: u16 = 2;
const SLEEP: u16 = 3;
const KEEP: u16 = 4;

/// A server that does as it is told.
struct Obedient {
    kept: Vec<ReplyRight>,
}

impl Service for Obedient {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        match message.operation {
            ECHO => reply.ok(message.payload),
            ABORT => {
                eprintln!("first line");
                eprint!("last words\u{1b}[2J");
                std::process::abort()
            }
            SLEEP => loop {
                std::thread::park();
            },
            _ => self.kept.push(reply.keep()),
        }
    }
}

/// The part of a task of a manifest; see [`Plan::task`].
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let note = || {
        let path = role.variable("NOTES");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{}", role.name).unwrap();
    };
    match role.variable("DOES").to_str().unwrap() {
        "serve" => {
            note();
            let task = role.task();
            let mut server = Server::new(&task).unwrap();
            server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
            let _ = server.run(&mut Obedient { kept: Vec::new() });
        }
        "job" => {
            // Whoever did not wait for it would be first.
            std::thread::sleep(Duration::from_millis(100));
            note();
        }
        "say" => {
            let task = role.task();
            let go = role.variable("NOTES").with_extension("go");
            eventually("somebody says go", || go.exists().then_some(()));
            note();
            task.say_ready().unwrap();
            role.wait_for_ever();
        }
        other => panic!("{other}"),
    }
    // Without the harness, which would say more than there is to say.
    std::process::exit(0);
}

/// A manifest in the making, and where its tasks write.
struct Plan {
    text: String,
    directory: TempDir,
}

impl Plan {
    fn new() -> Self {
        Self { text: String::new(), directory: tempfile::tempdir().unwrap() }
    }

    /// Adds a task that is this test program.
    fn task(mut self, name: &str, does: &str, rest: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let notes = self.directory.path().join("notes");
        let _ = write!(
            self.text,
            "[task.{name}]
program = {program:?}
arguments = ['--exact', 'assistant', '--nocapture', '--test-threads', '1']
environment = {{ RENDEZ_TEST_ROLE = '{name}', DOES = '{does}', NOTES = {notes:?} }}
sandbox.enabled = false
{rest}
"
        );
        self
    }

    /// Adds a server that is registered under its name.
    fn server(self, name: &str, rest: &str) -> Self {
        let rest = format!("serves.serve = {{ path = '/{name}' }}\n{rest}");
        self.task(name, "serve", &rest)
    }

    /// Adds a task that is a line of shell.
    fn shell(mut self, name: &str, line: &str, rest: &str) -> Self {
        let _ = write!(
            self.text,
            "[task.{name}]
program = 'sh'
arguments = ['-c', {line:?}]
sandbox.enabled = false
required = false
{rest}
"
        );
        self
    }

    fn start(&self) -> System {
        let file = self.file();
        System::with(|command| {
            command.arg(&file);
        })
    }

    fn file(&self) -> std::path::PathBuf {
        let file = self.directory.path().join("manifest.toml");
        std::fs::write(&file, &self.text).unwrap();
        file
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("notes")).unwrap_or_default()
    }

    fn go(&self) {
        std::fs::write(self.directory.path().join("notes.go"), "").unwrap();
    }
}

fn row(task: &Task, name: &str) -> Row {
    servers(task).into_iter().find(|row| row.name == name).expect("a task of that name")
}

/// Waits until the state of `name` is what `is` says.
fn becomes(task: &Task, name: &str, is: impl Fn(&State) -> bool) -> Row {
    eventually(name, || Some(row(task, name)).filter(|row| is(&row.state)))
}

fn deaths(task: &Task, name: &str) -> Vec<Death> {
    let asked = encode(&Deaths { name: Some(name.into()), before: None });
    let reply = common::supervisor(task).send(operation::DEATHS, &asked, 8192).unwrap();
    decode::<DeathList>(&reply).unwrap().deaths
}

fn connection(task: &Task, name: &str) -> Connection {
    let (found, _, _) = task.look_up(&format!("/{name}"), None, None).unwrap();
    Connection::open(task, found.slot, &for_ever()).unwrap()
}

#[test]
fn a_server_that_crashes_is_started_again_and_its_end_is_on_record() {
    let plan = Plan::new().server("a", "");
    let system = plan.start();
    let task = system.task();
    let mut client = connection(&task, "a");
    assert_eq!(client.send(ECHO, b"x", 64).unwrap().ok().unwrap(), b"x");
    let before = row(&task, "a");
    let interrupted = client.send(ABORT, &[], 64).unwrap_err();
    assert!(
        matches!(interrupted, SendError::Interrupted { why: Why::Dead, .. }),
        "{interrupted:?}"
    );
    // Nobody asked for it.
    assert_eq!(connection(&task, "a").send(ECHO, b"y", 64).unwrap().ok().unwrap(), b"y");
    let after = becomes(&task, "a", |state| *state == State::Ready);
    assert_eq!((after.starts, after.restarts), (2, 1));
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.last_end, "killed by SIGABRT");

    let all = deaths(&task, "a");
    let [death] = &all[..] else { panic!("{all:?}") };
    assert_eq!((death.incarnation, death.task, death.pid), (1, before.task, before.pid));
    assert!(matches!(&death.end, End::Killed { name, signal: 6, .. } if name == "SIGABRT"));
    assert_eq!(death.then, "restarted at once");
    assert_eq!(death.killed_for, "");
    let [doing] = &death.serving[..] else { panic!("{death:?}") };
    assert_eq!((doing.task, doing.count), (task.id(), 1), "for whom it worked");
    assert!(death.log.iter().any(|line| line.ends_with("first line")), "{death:?}");
    assert!(death.log.last().is_some_and(|line| line == "last words\u{1b}[2J"), "{death:?}");

    let told = system.rendez(["deaths", "a"]);
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("a #1: killed by SIGABRT"), "{told}");
    assert!(told.contains("last words\\u{1b}[2J"), "{told}");
    let json = system.rendez(["--json", "deaths"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[0]["serving"][0]["count"], 1, "{json}");
    let none = system.rendez(["deaths", "nobody"]);
    assert_eq!(none.status.code(), Some(4), "{none:?}");
}

#[test]
fn a_crash_loop_backs_off_and_is_given_up() {
    let rest = "restart = { back-off = '20ms', budget = { restarts = 3, within = '1h' } }";
    let plan = Plan::new().shell("loop", "echo oops; exit 7", rest);
    let system = plan.start();
    let task = system.task();
    let gives_up = |starts| {
        let row = eventually("it is given up", || {
            let row = row(&task, "loop");
            (matches!(row.state, State::Failed { .. }) && row.starts == starts).then_some(row)
        });
        let State::Failed { why } = row.state else { panic!() };
        assert!(
            why.contains("restarted 3 times within 1h") && why.contains("exited with 7"),
            "{why}"
        );
    };
    gives_up(4);
    let mut all = deaths(&task, "loop");
    all.reverse();
    let then: Vec<_> = all.iter().map(|death| death.then.as_str()).collect();
    assert_eq!(then[0], "restarted at once");
    assert!(
        then[1].starts_with("restarted after") && then[2].starts_with("restarted after"),
        "{then:?}"
    );
    assert!(then[3].starts_with("given up"), "{then:?}");
    for (pair, least) in all.windows(2).skip(1).zip([20, 40]) {
        let between = pair[1].at_unix_ms - pair[0].at_unix_ms;
        assert!(between >= least - 1, "{between} ms after one that waits {least}");
    }
    assert!(all.iter().all(|death| death.log == ["oops"] && death.end == End::Exited(7)));
    let status = system.rendez(["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("failed: given up"), "{status:?}");
    // Whoever asks gets a fresh budget.
    common::restart(&task, "loop");
    gives_up(8);
}

#[test]
fn tasks_start_after_those_that_they_name() {
    let plan = Plan::new()
        .server("last", "after = ['job', 'first']")
        .task("job", "job", "ready = 'finished'\nafter = ['first']")
        .server("first", "");
    let system = plan.start();
    assert_eq!(plan.notes(), "first\njob\nlast\n");
    let job = row(&system.task(), "job");
    assert_eq!((job.state, job.last_end.as_str()), (State::Ended, "exited with 0"));
    assert_eq!(system.rendez(["status"]).status.code(), Some(0));
}

#[test]
fn whoever_says_when_it_is_ready_is_waited_for() {
    let plan = Plan::new()
        .task("sayer", "say", "ready = 'says'\nrequired = false")
        .server("after", "after = ['sayer']\nrequired = false");
    let system = plan.start();
    let task = system.task();
    assert_eq!(row(&task, "sayer").state, State::Starting);
    assert_eq!(row(&task, "after").state, State::Waiting { on: "sayer".into() });
    plan.go();
    becomes(&task, "sayer", |state| *state == State::Ready);
    becomes(&task, "after", |state| *state == State::Ready);
    assert_eq!(plan.notes(), "sayer\nafter\n");
    // Others cannot say it for it.
    let (status, _) = common::refusal(common::supervisor(&task).send(operation::READY, &[], 256));
    assert_eq!(status, rendez::Status::DENIED);
}

#[test]
fn whoever_is_not_ready_in_time_is_killed() {
    let rest = "ready = 'says'\nready-within = '100ms'\nrequired = false\nrestart.when = 'never'";
    let plan = Plan::new().task("slow", "say", rest);
    let system = plan.start();
    let task = system.task();
    becomes(&task, "slow", |state| matches!(state, State::Failed { .. }));
    let death = &deaths(&task, "slow")[0];
    assert_eq!(death.killed_for, "it was not ready within 100ms");
    assert!(death.ran_ms >= 100, "{death:?}");
}

#[test]
fn never_and_on_failure_and_always() {
    let plan = Plan::new()
        .shell("never", "exit 3", "restart.when = 'never'")
        .shell("good", "exit 0", "")
        .shell("bad", "exit 3", "restart.budget = { restarts = 1, within = '1h' }")
        .shell(
            "always",
            "exit 0",
            "restart = { when = 'always', budget = { restarts = 1, within = '1h' } }",
        );
    let system = plan.start();
    let task = system.task();
    let never = becomes(&task, "never", |state| matches!(state, State::Failed { .. }));
    assert_eq!((never.starts, never.last_end.as_str()), (1, "exited with 3"));
    assert_eq!(becomes(&task, "good", |state| *state == State::Ended).starts, 1);
    assert_eq!(becomes(&task, "bad", |state| matches!(state, State::Failed { .. })).starts, 2);
    assert_eq!(becomes(&task, "always", |state| matches!(state, State::Failed { .. })).starts, 2);
}

#[test]
fn a_server_that_is_stuck_is_shown_killed_or_restarted() {
    let mut plan = Plan::new();
    for then in ["report", "restart", "kill"] {
        plan = plan.server(then, &format!("stuck = {{ after = '200ms', then = '{then}' }}"));
    }
    let system = plan.start();
    let task = system.task();
    let sleepers: Vec<_> = ["report", "restart", "kill"]
        .into_iter()
        .map(|name| {
            let (system_task, name) = (system.task(), name.to_owned());
            std::thread::spawn(move || {
                connection(&system_task, &name).send(SLEEP, &[], 64).map(drop)
            })
        })
        .collect();
    let stuck = becomes(&task, "report", |state| matches!(state, State::Stuck { .. }));
    assert_eq!((stuck.starts, stuck.pid.is_some()), (1, true), "it lives");
    let again = eventually("it is restarted", || {
        Some(row(&task, "restart")).filter(|row| row.starts == 2 && row.state == State::Ready)
    });
    assert_eq!(again.restarts, 1);
    let death = &deaths(&task, "restart")[0];
    assert_eq!(death.killed_for, "stuck: it has received nothing for 200ms");
    assert_eq!(death.serving.len(), 1);
    becomes(&task, "kill", |state| matches!(state, State::Failed { why } if why.contains("stuck")));
    let status = system.rendez(["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("stuck for"), "{status:?}");
    // Who was served by those that were killed is told; the other waits.
    signal(pid_of(&task, "report"), Signal::KILL);
    for sleeper in sleepers {
        let told = sleeper.join().unwrap();
        assert!(matches!(told, Err(SendError::Interrupted { why: Why::Dead, .. })), "{told:?}");
    }
}

#[test]
fn a_server_that_was_stopped_is_stuck_once_somebody_waits_for_it() {
    let plan = Plan::new().server("a", "stuck = { after = '200ms', then = 'report' }");
    let system = plan.start();
    let task = system.task();
    let waiting_task = system.task();
    let mut client = connection(&waiting_task, "a");
    client.send(ECHO, b"x", 64).unwrap().ok().unwrap();
    signal(pid_of(&task, "a"), Signal::STOP);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(row(&task, "a").state, State::Ready, "nobody waits for it");
    let waits = std::thread::spawn(move || {
        client.send(ECHO, b"y", 64).map(|reply| reply.ok().unwrap().to_vec())
    });
    becomes(&task, "a", |state| matches!(state, State::Stuck { .. }));
    signal(pid_of(&task, "a"), Signal::CONT);
    assert_eq!(waits.join().unwrap().unwrap(), b"y");
    becomes(&task, "a", |state| *state == State::Ready);
    assert_eq!(row(&task, "a").starts, 1);
}

#[test]
fn a_server_that_keeps_its_answer_back_is_not_stuck() {
    let plan = Plan::new().server("a", "stuck = { after = '100ms', then = 'kill' }");
    let system = plan.start();
    let task = system.task();
    let mut client = connection(&task, "a");
    let late = Duration::from_secs(1);
    let deadline = rendez::deadline_after(late);
    let told = client.send_until(KEEP, &[], 64, deadline).map(drop);
    assert!(matches!(told, Err(SendError::Interrupted { why: Why::Deadline, .. })), "{told:?}");
    let row = row(&task, "a");
    assert_eq!((row.starts, row.state), (1, State::Ready));
}

#[test]
fn what_tasks_say_is_passed_on_with_their_names() {
    let line = "echo hello; printf '\\033[2Jrude\\n' >&2; echo \"$SECRET:$SHOWN:$(pwd)\"";
    let rest = "environment = { SHOWN = 'shown' }\ndirectory = '/'\nrestart.when = 'never'";
    let plan = Plan::new().shell("talker", line, rest);
    let (file, heard) = (plan.file(), tempfile::NamedTempFile::new().unwrap());
    let system = System::with(|command| {
        command.arg(&file).env("SECRET", "secret").stderr(heard.reopen().unwrap());
    });
    becomes(&system.task(), "talker", |state| *state == State::Ended);
    let said = eventually("it is passed on", || {
        let said = std::fs::read_to_string(heard.path()).unwrap();
        said.contains("shown").then_some(said)
    });
    assert!(said.contains("talker: hello\n"), "{said}");
    assert!(said.contains("talker: \\u{1b}[2Jrude\n"), "{said}");
    assert!(said.contains("talker: :shown:/\n"), "what it was not given it has not: {said}");
    assert_eq!(deaths(&system.task(), "talker")[0].log.len(), 3);
}

#[test]
fn limits_hold_from_the_start() {
    let rest = "limits = { descriptors = 33, core = '0B', cpu = '2min' }\nrestart.when = 'never'";
    let plan = Plan::new().shell("limited", "ulimit -n; ulimit -c; ulimit -t", rest);
    let system = plan.start();
    let task = system.task();
    becomes(&task, "limited", |state| *state == State::Ended);
    assert_eq!(deaths(&task, "limited")[0].log, ["33", "0", "120"]);
}

#[test]
fn a_program_in_the_strong_setting_serves_and_sees_nothing_else() {
    // Its notes are all that it may write.
    let plan = Plan::new();
    let directory = plan.directory.path().to_owned();
    let mut plan = plan.server("walled", "");
    let own = std::env::current_exe().unwrap();
    plan.text = plan.text.replace(
        "sandbox.enabled = false",
        &format!(
            "sandbox.files = {{ write = [{directory:?}], read = [{:?}] }}",
            own.parent().unwrap()
        ),
    );
    let plan = plan.shell("peeks", "cat /etc/passwd", "restart.when = 'never'");
    let mut plan = plan;
    let tail = plan.text.split_off(plan.text.find("[task.peeks]").unwrap());
    plan.text +=
        &tail.replace("sandbox.enabled = false", "sandbox.files.execute = ['/bin', '/usr/bin']");
    let system = plan.start();
    let task = system.task();
    let reply = connection(&task, "walled").send(ECHO, b"x", 64).unwrap().ok().map(<[u8]>::to_vec);
    assert_eq!(reply.unwrap(), b"x");
    if rendez_supervisor::sandbox::landlock_version() == 0 {
        return common::skip("this Linux has no Landlock");
    }
    becomes(&task, "peeks", |state| matches!(state, State::Failed { .. }));
    let death = &deaths(&task, "peeks")[0];
    assert!(death.log.iter().any(|line| line.contains("Permission denied")), "{death:?}");
}

#[test]
fn a_name_that_nobody_has_yet_is_waited_for() {
    let rest = "gets.late = { from = '/late', rights = 's' }\nrequired = false";
    let plan = Plan::new().server("patient", rest);
    let system = plan.start();
    let task = system.task();
    let State::Waiting { on } = row(&task, "patient").state else { panic!() };
    assert!(on.contains("names"), "{on}");
    let endpoint = task.create_endpoint().unwrap();
    let _name = task.register("/late", endpoint.slot).unwrap();
    becomes(&task, "patient", |state| *state == State::Ready);
}

#[test]
fn whoever_must_not_fail_takes_the_system_with_it() {
    let rest = "restart = { when = 'never', give-up = 'stop-system' }";
    let plan = Plan::new().server("vital", rest);
    let mut system = plan.start();
    let task = system.task();
    signal(pid_of(&task, "vital"), Signal::KILL);
    drop(task);
    assert_eq!(system.up().wait().unwrap().code(), Some(1));
}

#[test]
fn dependents_go_when_they_are_told_to() {
    let plan = Plan::new()
        .server("base", "restart = { when = 'never', give-up = 'stop-dependents' }")
        .server("upper", "after = ['base']")
        .server("other", "");
    let system = plan.start();
    let task = system.task();
    signal(pid_of(&task, "base"), Signal::KILL);
    becomes(
        &task,
        "upper",
        |state| matches!(state, State::Failed { why } if why.contains("base, which it starts after, has failed")),
    );
    assert_eq!(row(&task, "other").state, State::Ready);
}

#[test]
fn connects_are_held_as_the_manifest_says() {
    let rest = "restart.when = 'never'";
    let mut plan = Plan::new().server("held", rest);
    plan.text = plan.text.replace("path = '/held' }", "path = '/held', hold = { connects = 0 } }");
    let system = plan.start();
    let task = system.task();
    let (found, _, _) = task.look_up("/held", None, None).unwrap();
    signal(pid_of(&task, "held"), Signal::KILL);
    becomes(&task, "held", |state| matches!(state, State::Failed { .. }));
    let refused = Connection::open(&task, found.slot, &Options { ..for_ever() });
    assert!(matches!(refused, Err(Error::Kernel(_))), "at once: {refused:?}");
}

fn manifest(directory: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = rendez(&runtime_of(directory));
    command.current_dir(directory).args(arguments).output().unwrap()
}

#[test]
fn a_manifest_that_is_wrong_is_shown_where() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[task.a]\nprogam = './a'\n";
    std::fs::write(directory.path().join("bad.toml"), text).unwrap();
    let picture = "\
error: unknown key `progam`
 --> bad.toml:2:1
  |
2 | progam = './a'
  | ^^^^^^ no such key here
  |
  = help: did you mean `program`?
";
    let checked = manifest(directory.path(), &["manifest", "check", "bad.toml"]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&checked.stderr), picture);
    let json = manifest(directory.path(), &["--json", "manifest", "check", "bad.toml"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["problems"][0]["line"], 2, "{json}");
    let up = manifest(directory.path(), &["up", "bad.toml"]);
    assert_eq!(up.status.code(), Some(2));
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(said.contains(picture.trim_end()), "{said}");
    assert!(!runtime_of(directory.path()).exists(), "nothing was started");

    let missing = manifest(directory.path(), &["manifest", "check", "none.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("reading the manifest none.toml"));
}

#[test]
fn the_standard_manifest_is_shown_and_explained() {
    let directory = tempfile::tempdir().unwrap();
    let shown = manifest(directory.path(), &["manifest", "show"]);
    assert_eq!(shown.status.code(), Some(0));
    // What is shown is a manifest, and says the same.
    std::fs::write(directory.path().join("own.toml"), &shown.stdout).unwrap();
    let checked = manifest(directory.path(), &["manifest", "check", "own.toml"]);
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "right: own.toml, 3 tasks\n");
    let explained = manifest(directory.path(), &["manifest", "explain"]);
    let text = String::from_utf8_lossy(&explained.stdout);
    for words in [
        "1. name: the name server of this executable",
        "gets      name: srwn to name.serve",
        "no files but its program and libraries; no sockets",
        "at once, then after 100ms",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = manifest(directory.path(), &["--json", "manifest", "explain", "own.toml"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[2]["name"], "signal");
}
