//! What a manifest may say, and what is said of one that says something else: golden pictures.

use super::super::{Plan, Program, Readiness, Source, read, standard};
use crate::machine::GiveUp;
use crate::restart::{Policy, When};
use rendez::Rights;
use rendez::protocol::kernel::Hold;
use std::path::Path;
use std::time::Duration;

fn plan(text: &str) -> Plan {
    read(text, "x.toml", Path::new("/srv")).unwrap_or_else(|problems| panic!("{problems}"))
}

#[track_caller]
fn problems(text: &str) -> String {
    match read(text, "x.toml", Path::new("/srv")) {
        Ok(plan) => panic!("nothing is wrong with it: {plan:?}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn the_standard_manifest_is_right() {
    let plan = standard().unwrap();
    let names: Vec<_> = plan.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["name", "file", "signal"]);
    assert_eq!(plan.name_server(), Some((0, 0)));
    for task in &plan.tasks {
        assert_eq!(task.program, Program::BuiltIn(task.name.clone()));
        assert_eq!((task.ready, task.restart.when), (Readiness::Serving, When::Always));
    }
    assert_eq!(plan.tasks[1].gets[0].source, Source::Endpoint { task: 0, place: 0 });
}

#[test]
fn the_standard_servers_are_there_unless_one_says_otherwise() {
    let names = |text| plan(text).tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(""), ["name", "file", "signal"]);
    assert_eq!(names("standard = false"), Vec::<String>::new());
    assert_eq!(names("task.a.program = 'a'"), ["a", "name", "file", "signal"]);
    let own = "[task.file]\nprogram = 'mine'\nserves.serve = { path = '/file' }";
    assert_eq!(names(own), ["file", "name", "signal"]);
    assert_eq!(plan(own).tasks[0].program, Program::File("mine".into()));
}

#[test]
fn what_is_not_written_is_filled_in() {
    let plan = plan(
        "standard = false\n[task.a]\nprogram = 'bin/a'\nserves.x = {}\ngets.names = { from = '/name', rights = 'r' }",
    );
    let task = &plan.tasks[0];
    assert_eq!(task.program, Program::File("/srv/bin/a".into()));
    assert_eq!(task.restart, Policy::default());
    assert_eq!((task.ready, task.required), (Readiness::Serving, true));
    assert_eq!(task.directory, Path::new("/srv"));
    assert_eq!(task.gets[0].source, Source::Path("/name".into()), "nobody of the plan has it");
    assert!(task.inherit.contains(&"PATH".to_owned()));
    assert!(task.stuck.is_some() && plan.policy.is_none());
    assert_eq!(task.sandbox, crate::sandbox::Sandbox::default(), "the strong setting");
    assert_eq!(task.serves[0].hold, Hold::FOR_EVER);
}

#[test]
fn everything_can_be_said() {
    let plan = plan(
        "standard = false
policy.rule = [{ who = 'others', give.name = 'r' }]
[task.a]
program = '/bin/a'
arguments = ['x']
environment = { A = 'b' }
inherit = ['PATH']
directory = 'sub'
ready = 'says'
ready-within = '5s'
required = false
restart = { when = 'on-failure', back-off = '1s', cap = '4s', reset-after = '1min', budget = { restarts = 3, within = '1h' }, give-up = 'stop-dependents' }
stuck = { after = '3s', then = 'kill' }
limits = { memory = '1GiB', descriptors = 64, processes = 8, cpu = '10s', core = '0B', file-size = '1MiB' }
quotas = { bytes = 1048576, tasks = 2 }
sandbox = { network = 'unix', files.write = ['data'] }
serves.one = { path = '/a/one', rights = 'srp' }
serves.two = { hold = { connects = 5, within = '2s' } }
[task.b]
program = 'b'
after = ['a', 'a']
gets.k = { from = 'kernel', rights = 'i' }
gets.s = { from = 'supervisor', rights = 'r' }
gets.t = { from = 'a.two', rights = 's', badge = 9 }
gets.u = { from = '/a/one', rights = 'sp' }
",
    );
    let (a, b) = (&plan.tasks[0], &plan.tasks[1]);
    let restart = Policy {
        when: When::OnFailure,
        back_off: Duration::from_secs(1),
        cap: Duration::from_secs(4),
        reset_after: Duration::from_secs(60),
        budget: 3,
        within: Duration::from_secs(3600),
    };
    assert_eq!((a.restart, a.give_up), (restart, GiveUp::StopDependents));
    assert_eq!((a.limits.memory, a.limits.core), (Some(1 << 30), Some(0)));
    let quotas: Vec<_> = a.quotas.iter().map(|one| (one.quota.name(), one.amount)).collect();
    assert_eq!(quotas, [("bytes", 1 << 20), ("tasks", 2)]);
    assert_eq!(a.sandbox.network, crate::sandbox::Network::Unix);
    assert_eq!(a.sandbox.files.write, [Path::new("/srv/data")]);
    assert_eq!(a.serves[1].hold, Hold::Wait { connects: 5, milliseconds: 2_000 });
    assert!(plan.policy.as_ref().is_some_and(|policy| policy.admits_others(7)));
    assert_eq!(a.directory, Path::new("/srv/sub"));
    assert_eq!(b.after, [0]);
    let sources: Vec<_> = b.gets.iter().map(|getting| getting.source.clone()).collect();
    let endpoint = |place| Source::Endpoint { task: 0, place };
    assert_eq!(sources, [Source::Kernel, Source::Supervisor, endpoint(1), endpoint(0)]);
    assert_eq!(b.gets[1].rights, Rights::SEND | Rights::READ);
}

#[test]
fn a_task_written_early_may_start_late() {
    let plan = plan(
        "standard = false
[task.z]
program = 'z'
after = ['a']
gets.a = { from = 'a', rights = 's' }
[task.a]
program = 'a'
serves.s = {}
",
    );
    assert_eq!((plan.tasks[0].name.as_str(), plan.tasks[1].after.as_slice()), ("a", &[0][..]));
    assert_eq!(plan.tasks[1].gets[0].source, Source::Endpoint { task: 0, place: 0 });
}

#[test]
fn an_unknown_key_has_a_suggestion() {
    let expected = "\
error: unknown key `progam`
 --> x.toml:2:1
  |
2 | progam = 'x'
  | ^^^^^^ no such key here
  |
  = help: did you mean `program`?";
    assert_eq!(problems("[task.a]\nprogam = 'x'"), expected);
    let there_are = problems("[task.a]\nzebra = 'x'");
    assert!(there_are.contains("= help: there are: program, built-in, arguments"), "{there_are}");
    assert!(problems("[task.a.restart]\nwhen = 'alway'").contains("did you mean `always`?"));
    assert!(problems("tasks = 1").contains("did you mean `task`?"));
}

#[test]
fn what_is_no_toml_is_shown() {
    let shown = problems("[task.a]\nprogram = 'x\n");
    assert!(shown.contains(" --> x.toml:2:") && shown.contains("^"), "{shown}");
    let shown = problems("[task.a]\nprogram = 'x'\nready-within = '5 days'");
    assert!(shown.contains("3 | ready-within = '5 days'"), "{shown}");
    assert!(shown.contains("\"5 days\" is no time"), "{shown}");
    let shown = problems("[task.a]\nprogram = 'x'\nready-within = 5");
    assert!(shown.contains("expected a time such as"), "{shown}");
}

#[test]
fn a_cycle_is_shown_with_each_step() {
    let text = "\
standard = false
task.a = { program = 'a', after = ['b'] }
task.b = { program = 'b', after = ['c'] }
task.c = { program = 'c', after = ['a'] }
";
    let expected = "\
error: none of these tasks could ever start: a → b → c → a
 --> x.toml:2:36
  |
2 | task.a = { program = 'a', after = ['b'] }
  |                                    ^^^ a starts after b
3 | task.b = { program = 'b', after = ['c'] }
  |                                    --- b starts after c
4 | task.c = { program = 'c', after = ['a'] }
  |                                    --- c starts after a";
    assert_eq!(problems(text), expected);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "\
standard = false
[task.a]
program = 'a'
after = ['bee']
gets.x = { from = 'b.mian', rights = 's' }
[task.b]
serves.main = { path = 'b' }
";
    let expected = "\
error: no task is called `bee`
 --> x.toml:4:10
  |
4 | after = ['bee']
  |          ^^^^^ here
  |
  = help: there are: a, b

error: the task `b` has no endpoint `mian`
 --> x.toml:5:19
  |
5 | gets.x = { from = 'b.mian', rights = 's' }
  |                   ^^^^^^^^ here
  |
  = help: did you mean `main`?

error: it is not said what this task executes
 --> x.toml:6:7
  |
6 | [task.b]
  |       ^ this task
  |
  = help: add: program = \"…\"

error: \"b\" is no path of the name space
 --> x.toml:7:24
  |
7 | serves.main = { path = 'b' }
  |                        ^^^ this path
  |
  = help: write \"/a\" or \"/a/b\": no `.`, no `..`, nothing empty";
    assert_eq!(problems(text), expected);
}

#[test]
fn each_rule_has_its_words() {
    for (text, words) in [
        ("task.'a b'.program = 'a'", "cannot be the name of a task"),
        ("task.kernel.program = 'a'", "it is taken"),
        ("task.a = { program = 'a', built-in = 'file' }", "exclude each other"),
        ("task.a = { built-in = 'fil', serves.serve = {} }", "did you mean `file`?"),
        ("task.a.built-in = 'file'", "add: serves.serve"),
        (
            "task.a = { program = 'a', serves.x = { path = '/file' } }",
            "define [task.file] yourself",
        ),
        (
            "task.a = { program = 'a', serves.x = { path = '/x' }, serves.y = { path = '/x' } }",
            "two endpoints",
        ),
        ("task.a = { program = 'a', serves.x = { path = '/supervisor' } }", "the supervisor's own"),
        (
            "task.a = { program = 'a', serves.x = {}, gets.x = { from = 'name', rights = 's' } }",
            "two capabilities",
        ),
        (
            "task.a = { program = 'a', gets.ready = { from = 'name', rights = 's' } }",
            "what the supervisor itself",
        ),
        (
            "task.a = { program = 'a', gets.x = { from = 'kernel', rights = 'k' } }",
            "no right KILL to the kernel",
        ),
        (
            "task.a = { program = 'a', gets.x = { from = 'name', rights = 'v' } }",
            "no right RECEIVE",
        ),
        (
            "task.a = { program = 'a', gets.x = { from = 'name', rights = 'q' } }",
            "no right has the letter 'q'",
        ),
        ("task.a = { program = 'a', gets.x = { from = 'a', rights = 's' } }", "serves no endpoint"),
        (
            "task.a = { program = 'a', serves = { x = {}, y = {} }, gets.z = { from = 'a', rights = 's' } }",
            "several endpoints",
        ),
        ("task.a = { program = 'a', ready = 'serving' }", "never ready by serving"),
        (
            "task.a = { program = 'a', ready = 'after-5s' }",
            "there are: serving, says, started, finished",
        ),
        (
            "task.a = { program = 'a', ready = 'finished', restart.when = 'always' }",
            "never finishes",
        ),
        ("task.a = { program = 'a', after = ['a'] }", "after itself"),
        (
            "task.a = { program = 'a', restart = { back-off = '2s', cap = '1s' } }",
            "shorter than the first back-off, 2s",
        ),
        (
            "task.a = { program = 'a', restart.budget = { restarts = 1, within = '0s' } }",
            "`within` must be longer",
        ),
        ("task.a = { program = 'a', stuck = { after = '1s', then = 'kill' } }", "never stuck"),
        ("task.a = { program = 'a', limits.descriptors = 0 }", "nonzero"),
        ("task.a = { program = 'a', limits.cpu = '10ms' }", "in seconds"),
        ("task.a = { program = 'a', environment = { 'A=B' = 'c' } }", "name of a variable"),
        (
            "task.a = { program = 'a', environment = { RENDEZ_KERNEL_SOCKET = '3' } }",
            "set by the supervisor",
        ),
        ("task.a = { program = \"a\\u0000\" }", "cannot contain a NUL"),
        ("task.a = { program = 'a', quotas.task = 1 }", "did you mean `tasks`?"),
        ("policy = 'litle'", "did you mean `little`?"),
        ("policy.rule = [{ who = 'me' }]", "1 | policy.rule = [{ who = 'me' }]"),
        ("task.a = { program = 'a', sandbox.netwrok = 'all' }", "did you mean `network`?"),
        (
            "task.name = { program = 'a' }",
            "in the standard task `file`: the task `name` serves no endpoint",
        ),
    ] {
        let told = problems(text);
        assert!(told.contains(words), "{text}\n{told}");
    }
}

#[test]
fn a_manifest_has_bounds() {
    assert!(problems(&"#".repeat(super::super::MANIFEST_BYTES_MAX + 1)).contains("longer than"));
    let many: String = (0..300).map(|n| format!("task.t{n}.program = 'x'\n")).collect();
    assert!(problems(&many).contains("more than 256 tasks"));
}
