//! The command line, from outside: what it does, and how it refuses what it cannot do. Exit codes are
//! promises, and nothing that a person types makes it panic.

mod common;

use common::{System, pid_of, rendez, runtime_of, servers, signal};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO_SYSTEM: i32 = 3;
const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;
const DEADLINE: i32 = 6;
const FULL: i32 = 8;

/// What was said on standard error, if the exit code is `code`.
#[track_caller]
fn says(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{output:?}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.is_empty(), code == DONE, "a failure says why, and nothing else does: {text}");
    text
}

/// What was said on standard output by what went well.
#[track_caller]
fn said(output: &Output) -> String {
    says(output, DONE);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A command of the system with this standard input.
fn fed(system: &System, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = rendez(&system.runtime());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may refuse before it has read everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

#[test]
fn without_a_system_every_command_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime_of(directory.path());
    let commands: [&[&str]; 12] = [
        &["ls"],
        &["down"],
        &["status"],
        &["ps"],
        &["graph"],
        &["cat", "/file/x"],
        &["put", "/dev/null", "/file/x"],
        &["rm", "/file/x"],
        &["stat", "/file"],
        &["restart", "file"],
        &["signal", "list"],
        &["run", "--", "true"],
    ];
    for arguments in commands {
        let output = rendez(&runtime).args(arguments).output().unwrap();
        let text = says(&output, NO_SYSTEM);
        assert!(text.contains("rendez up") && text.contains("default.sock"), "{text}");
        let output = rendez(&runtime).arg("--json").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(NO_SYSTEM));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["code"], NO_SYSTEM, "{value}");
        assert!(value["error"].as_str().unwrap().contains("rendez up"), "{value}");
    }
    // A socket that is left over, with nobody behind it.
    fs::create_dir(&runtime).unwrap();
    drop(std::os::unix::net::UnixListener::bind(runtime.join("default.sock")).unwrap());
    says(&rendez(&runtime).arg("ls").output().unwrap(), NO_SYSTEM);
}

#[test]
fn what_is_typed_wrong_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let long = format!("/file/{}", "x".repeat(5000));
    let commands: [&[&str]; 14] = [
        &["frobnicate"],
        &["ls", "--frobnicate"],
        &["ls", "relative/path"],
        &["ls", ""],
        &["ls", &long],
        &["cat"],
        &["put", "x"],
        &["get", "relative", "x"],
        &["signal"],
        &["signal", "wait", "x", "--timeout-ms", "soon"],
        &["run"],
        &["run", "--give", "nonsense", "--", "true"],
        &["run", "--give", "x=/file:sq", "--", "true"],
        &["completions", "emacs"],
    ];
    for arguments in commands {
        let output = rendez(&runtime_of(directory.path())).args(arguments).output().unwrap();
        says(&output, USAGE);
    }
    let mut command = rendez(&runtime_of(directory.path()));
    let output = command.env("RENDEZ_INSTANCE", "a/b").arg("ls").output().unwrap();
    assert!(says(&output, USAGE).contains("RENDEZ_INSTANCE"));
    // Parts of a system are started by it.
    for part in ["part-kernel", "part-supervisor"] {
        let output = rendez(&runtime_of(directory.path())).arg(part).output().unwrap();
        assert_ne!(output.status.code(), Some(DONE));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["ls", "--help"], &["help", "run"]] {
        said(&rendez(&runtime_of(directory.path())).args(arguments).output().unwrap());
    }
}

#[test]
fn a_kernel_socket_that_is_none_is_named() {
    let system = System::start();
    for value in ["rubbish", "-1", "0", "99999999999999999999"] {
        let mut command = rendez(&system.runtime());
        let output = command.env("RENDEZ_KERNEL_SOCKET", value).arg("ls").output().unwrap();
        assert!(says(&output, FAILED).contains("RENDEZ_KERNEL_SOCKET"));
    }
}

fn files_go_in_and_come_out(system: &System, directory: &Path) {
    let local = |name: &str| directory.join(name);
    let content: Vec<u8> = (0..5_000_003_u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    fs::write(local("big"), &content).unwrap();
    fs::write(local("empty"), "").unwrap();
    let run = |arguments: &[&OsStr]| system.rendez(arguments);
    let text = |text: &'static str| OsStr::new(text);

    said(&run(&[text("mkdir"), text("/file/dir")]));
    said(&run(&[text("put"), local("big").as_os_str(), text("/file/dir/big")]));
    said(&run(&[text("put"), local("empty").as_os_str(), text("/file/dir/empty")]));
    said(&fed(system, &["put", "-", "/file/dir/piped"], b"through a pipe\n"));
    assert_eq!(said(&system.rendez(["ls", "/file/dir"])), "big\nempty\npiped\n");
    assert_eq!(said(&system.rendez(["cat", "/file/dir/piped"])), "through a pipe\n");
    let cat = system.rendez(["cat", "/file/dir/big"]);
    says(&cat, DONE);
    assert!(cat.stdout == content);
    said(&run(&[text("get"), text("/file/dir/big"), local("back").as_os_str()]));
    assert!(fs::read(local("back")).unwrap() == content);
    said(&run(&[text("get"), text("/file/dir/empty"), local("nothing").as_os_str()]));
    assert_eq!(fs::read(local("nothing")).unwrap(), b"");
    let stat = system.rendez(["--json", "stat", "/file/dir/big"]);
    let stat: serde_json::Value = serde_json::from_str(&said(&stat)).unwrap();
    assert_eq!(stat["size"], content.len());
    // Nobody reads to the end: no reason to complain.
    let mut command = rendez(&system.runtime());
    let mut cat = command
        .args(["cat", "/file/dir/big"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = cat.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");

    says(&system.rendez(["rm", "/file/dir"]), FAILED);
    for name in ["big", "empty", "piped"] {
        said(&system.rendez(["rm", &format!("/file/dir/{name}")]));
    }
    said(&system.rendez(["rm", "/file/dir"]));
    assert_eq!(said(&system.rendez(["ls", "/file"])), "");
}

#[test]
fn files_go_into_memory_and_come_out() {
    let system = System::start();
    files_go_in_and_come_out(&system, system.directory.path());
}

#[test]
fn files_go_into_a_directory_and_come_out() {
    let served = tempfile::tempdir().unwrap();
    let system = System::serving(served.path());
    files_go_in_and_come_out(&system, system.directory.path());
}

#[test]
fn what_is_not_there_and_what_leads_out_is_refused() {
    let served = tempfile::tempdir().unwrap();
    let system = System::serving(served.path());
    fs::write(served.path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", served.path().join("way-out")).unwrap();
    let missing: [&[&str]; 9] = [
        &["cat", "/file/missing"],
        &["cat", "/nothing/at/all"],
        &["ls", "/nothing"],
        &["ls", "/file/missing"],
        &["stat", "/file/missing"],
        &["rm", "/file/missing"],
        &["get", "/file/missing", "/tmp/never-made"],
        &["put", "/no/such/local/file", "/file/x"],
        &["put", "/etc/hostname", "/file/no/such/directory/x"],
    ];
    for arguments in missing {
        says(&system.rendez(arguments), NOT_FOUND);
    }
    let refused: [&[&str]; 4] = [
        &["cat", "/file/../../etc/passwd"],
        &["cat", "/file/way-out"],
        &["put", "/etc/hostname", "/file/../x"],
        &["rm", "/file/a/../../b"],
    ];
    for arguments in refused {
        says(&system.rendez(arguments), REFUSED);
    }
    let failed: [&[&str]; 6] = [
        &["cat", "/file"],
        &["cat", "/file/file/below"],
        &["mkdir", "/file/file"],
        &["cat", "/signal"],
        &["put", "/", "/file/x"],
        &["mkdir", "/file"],
    ];
    for arguments in failed {
        let output = system.rendez(arguments);
        assert!(!matches!(output.status.code(), Some(DONE | USAGE) | None), "{output:?}");
        assert!(!output.stderr.is_empty());
    }
    says(&system.rendez(["restart", "nothing"]), NOT_FOUND);
    let long = format!("/file/{}", "x".repeat(300));
    assert_ne!(system.rendez(["put", "/etc/hostname", &long]).status.code(), Some(DONE));
    assert_eq!(said(&system.rendez(["cat", "/file/file"])), "content");
    assert!(!Path::new("/tmp/never-made").exists());
}

#[test]
fn a_directory_that_cannot_be_served_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for what in [directory.path().join("missing"), file] {
        let mut command = rendez(&runtime_of(directory.path()));
        let output = command.arg("up").arg("--dir").arg(&what).output().unwrap();
        let text = says(&output, FAILED);
        assert!(text.contains(what.to_str().unwrap()), "{text}");
    }
    let left = fs::read_dir(runtime_of(directory.path())).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing is left in the runtime directory");
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    // A disk of its own, in a mount namespace that ends with the system: that needs root.
    let mount = "mount -t tmpfs -o size=256k tmpfs \"$1\" && shift && exec \"$@\"";
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let may = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount, "sh"])
        .args([disk.as_os_str(), OsStr::new("true")])
        .stderr(Stdio::null())
        .status();
    if !may.is_ok_and(|status| status.success()) {
        common::skip("mounting a small disk needs root and unshare");
        return;
    }
    let system = System::with(|command| {
        let up = std::mem::replace(command, Command::new("unshare"));
        command.args(["--mount", "sh", "-c", mount, "sh"]).arg(&disk);
        command.arg(up.get_program()).args(up.get_args()).arg("--dir").arg(&disk);
        for (name, value) in up.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    });
    said(&fed(&system, &["put", "-", "/file/small"], b"small"));
    let text = says(&fed(&system, &["put", "-", "/file/big"], &vec![1; 1 << 20]), FULL);
    assert!(text.contains("/file/big"), "{text}");
    assert_eq!(said(&system.rendez(["cat", "/file/small"])), "small");
    said(&system.rendez(["rm", "/file/big"]));
    said(&fed(&system, &["put", "-", "/file/fits"], &[1; 100_000]));
    assert!(!disk.join("small").exists(), "nobody else sees that disk");
}

#[test]
fn signals_are_raised_and_waited_for() {
    let system = System::start();
    let text = says(&system.rendez(["signal", "wait", "never", "--timeout-ms", "50"]), DEADLINE);
    assert!(text.contains("never"), "{text}");
    let mut command = rendez(&system.runtime());
    let waiting = command
        .args(["signal", "wait", "go", "--group", "us", "--timeout-ms", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    common::eventually("it waits", || {
        said(&system.rendez(["signal", "list"])).contains("go").then_some(())
    });
    said(&system.rendez(["signal", "raise", "go", "--group", "others"]));
    said(&system.rendez(["signal", "raise", "go", "--group", "us"]));
    assert!(said(&waiting.wait_with_output().unwrap()).contains("go"));
    assert_ne!(system.rendez(["signal", "raise", ""]).status.code(), Some(DONE));
}

#[test]
fn a_program_is_run_with_what_it_is_given() {
    let system = System::start();
    let run = |give: &[&str], command: &[&str]| {
        let mut arguments = vec!["run"];
        for give in give {
            arguments.extend(["--give", give]);
        }
        arguments.push("--");
        arguments.extend(command);
        system.rendez(arguments)
    };
    assert_eq!(said(&run(&[], &["echo", "hello"])), "hello\n");
    assert_eq!(run(&[], &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(run(&[], &["sh", "-c", "kill -TERM $$"]).status.code(), Some(128 + 15));
    says(&run(&[], &["/no/such/program"]), 127);
    let no_program = system.directory.path().join("no-program");
    fs::write(&no_program, "").unwrap();
    says(&run(&[], &[no_program.to_str().unwrap()]), 126);

    said(&fed(&system, &["put", "-", "/file/kept"], b"kept"));
    let rendez = common::RENDEZ;
    // Nothing given, nothing had.
    says(&run(&[], &[rendez, "ls"]), REFUSED);
    let text = said(&run(&["name=/name:r"], &[rendez, "cat", "/file/kept"]));
    assert_eq!(text, "kept");
    // Through a name server to which it may only read, it gets nothing with which to write.
    let text = says(&run(&["name=/name:r"], &[rendez, "put", "/dev/null", "/file/kept"]), REFUSED);
    assert!(text.contains("WRITE"), "{text}");
    says(&run(&["name=/name:r"], &[rendez, "ps"]), REFUSED);
    says(&run(&["name=/name:r"], &[rendez, "graph"]), REFUSED);
    assert_eq!(said(&system.rendez(["cat", "/file/kept"])), "kept");
    says(&run(&["x=/nothing:r"], &["true"]), NOT_FOUND);
    says(&run(&["x=/file:k"], &["true"]), REFUSED);
}

#[test]
fn a_dead_server_is_seen_and_started_again() {
    let system = System::unattended(None);
    let task = system.task();
    said(&system.rendez(["status"]));
    let tasks = said(&system.rendez(["ps"]));
    for name in ["supervisor", "name", "file", "signal"] {
        assert!(tasks.contains(name), "{tasks}");
    }
    signal(pid_of(&task, "file"), Signal::KILL);
    common::eventually("it is seen", || {
        servers(&task).iter().any(|server| server.pid.is_none()).then_some(())
    });
    let status = system.rendez(["status"]);
    assert_eq!(status.status.code(), Some(FAILED));
    assert!(String::from_utf8_lossy(&status.stdout).contains("SIGKILL"));
    said(&system.rendez(["restart", "file"]));
    said(&system.rendez(["status"]));
    said(&system.rendez(["ls", "/file"]));
}

#[test]
fn every_answer_for_scripts_is_json() {
    let system = System::start();
    said(&fed(&system, &["put", "-", "/file/x"], b"x"));
    let commands: [&[&str]; 10] = [
        &["ls"],
        &["ls", "/file"],
        &["stat", "/file/x"],
        &["stat", "/file"],
        &["status"],
        &["ps"],
        &["graph"],
        &["signal", "list"],
        &["signal", "raise", "x"],
        &["mkdir", "/file/dir"],
    ];
    for arguments in commands {
        let output = system.rendez(["--json"].iter().chain(arguments));
        serde_json::from_str::<serde_json::Value>(&said(&output)).expect("one value");
    }
    let refused = system.rendez(["--json", "cat", "/file/missing"]);
    let value: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(value["code"], NOT_FOUND);
}

#[test]
fn names_are_shown_fit_for_a_terminal() {
    let served = tempfile::tempdir().unwrap();
    fs::write(served.path().join("\x1b[31mred\nline"), "").unwrap();
    let system = System::serving(served.path());
    let shown = said(&system.rendez(["ls", "/file"]));
    assert!(!shown.contains('\x1b') && shown.lines().count() == 1, "{shown:?}");
}

#[test]
fn up_speaks_of_where_it_is_and_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = rendez(&runtime_of(directory.path()));
    command.arg("up").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut up = rendez_supervisor::launch::spawn(command, vec![], true).unwrap();
    let mut said = BufReader::new(up.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("ready") && line.contains("default.sock"), "{line}");
    signal(up.id(), Signal::INT);
    assert_eq!(up.wait().unwrap().code(), Some(DONE));
    line.clear();
    said.read_to_string(&mut line).unwrap();
    assert!(line.contains("stopped"), "{line}");
}

/// `rendez bench` and no system.
fn bench(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = rendez(&runtime_of(directory.path()));
    command.arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn bench_answers_what_it_does_not_know_with_what_it_does() {
    let cases: [(&[&str], &[&str]); 7] = [
        (&["colour"], &["colour", "size", "load"]),
        (&["--only", "pigeon"], &["pigeon", "floor", "rendez-spin", "unix-stream"]),
        (&["--payload", "7"], &["7", "multiple of 8"]),
        (&["--payload", "1GiB"], &["1GiB", "MiB"]),
        (&["--cores", "three"], &["three", "awake"]),
        (&["--seconds", "0"], &["0"]),
        (&["--json", "size"], &["./size"]),
    ];
    for (arguments, words) in cases {
        let text = says(&bench(arguments), USAGE);
        for word in words {
            assert!(text.contains(word), "{arguments:?}: {text}");
        }
    }
    let list = said(&bench(&["--list"]));
    for name in ["size", "load", "posix-queue", "rendez-adaptive"] {
        assert!(list.contains(name), "{list}");
    }
    let text = says(&bench(&["size", "--json", "/nowhere/report.json"]), NOT_FOUND);
    assert!(text.contains("/nowhere/report.json"), "{text}");
}

#[test]
fn bench_writes_reports_that_it_can_compare() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (report, page) = (path("report.json"), path("report.html"));
    let small =
        ["size", "--quick", "--seconds", "1", "--only", "pipe,rendez-block", "--payload", "40"];
    let files = ["--cores", "one", "--json", &report, "--html", &page];
    let table = said(&bench(&[&small[..], &files].concat()));
    for text in ["pipe", "rendez-block", "one core", &report, &page] {
        assert!(table.contains(text), "{text}: {table}");
    }
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{html}");
    let written: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let said_so: serde_json::Value =
        serde_json::from_str(&said(&bench(&[&small[..], &["--cores", "1", "--json"]].concat())))
            .unwrap();
    for value in [&written, &said_so] {
        assert_eq!(value["format"], 2);
        assert_eq!(value["experiments"][0]["series"][0]["label"], "pipe");
        assert_eq!(value["experiments"][0]["series"][1]["points"][0]["x"], 40.0);
    }

    let same = said(&bench(&["compare", &report, &report]));
    assert!(same.contains("2 points compared: 0 better, 0 worse"), "{same}");
    let value: serde_json::Value =
        serde_json::from_str(&said(&bench(&["compare", &report, &report, "--json=-"]))).unwrap();
    assert_eq!(value["changes"][0]["verdict"], "same");

    let cut = path("cut.json");
    let text = fs::read_to_string(&report).unwrap();
    fs::write(&cut, &text[..text.len() / 2]).unwrap();
    let error = says(&bench(&["compare", &report, &cut]), FAILED);
    assert!(error.contains(&cut) && error.contains("cut off (line "), "{error}");
    fs::write(&cut, "{\"machine\": {}, \"quick\": true, \"rows\": []}").unwrap();
    let error = says(&bench(&["compare", &cut, &report]), FAILED);
    assert!(error.contains("format 1") && error.contains("repeat the run"), "{error}");
    let error = says(&bench(&["compare", &report, "/nowhere/b.json"]), NOT_FOUND);
    assert!(error.contains("/nowhere/b.json"), "{error}");
}

#[test]
fn bench_on_one_processor_says_so_and_runs_what_it_can() {
    let output = std::thread::spawn(|| {
        let mut one = rustix::thread::CpuSet::new();
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        one.set(first);
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        bench(&["size", "--quick", "--seconds", "1", "--payload", "8", "--only", "floor,pipe"])
    });
    let table = said(&output.join().unwrap());
    assert!(table.contains("only one processor may be used here"), "{table}");
    assert!(table.contains("one core") && table.contains("pipe"), "{table}");
    assert!(!table.contains("two cores, payload"), "{table}");
}
