//! How a system starts, and what becomes of a start that goes wrong.

mod common;

use common::{
    Processes, System, eventually, pid_of, refusal, rendez, runtime_of, servers, signal, skip,
    supervisor, tasks,
};
use rendez::protocol::encode;
use rendez::protocol::supervisor::{operation, status};
use rendez::{Error, SendError, Task};
use rendez_cli::arguments::Served;
use rendez_cli::manifest::Manifest;
use rendez_supervisor::launch::spawn;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustix::process::{Signal, geteuid};
use rustix::thread::set_thread_uid;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("rendez-test-").tempdir().unwrap()
}

/// What is left of a system in its runtime directory.
fn left(directory: &Path) -> usize {
    std::fs::read_dir(runtime_of(directory)).map_or(0, Iterator::count)
}

fn up(directory: &Path) -> Command {
    let mut command = rendez(&runtime_of(directory));
    command.args(["--json", "up"]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_server_that_dies_at_the_start_is_told() {
    let directory = directory();
    let manifest = directory.path().join("manifest");
    std::fs::write(&manifest, "task.file = { program = 'false', serves.serve = {} }").unwrap();
    let ended = up(directory.path()).arg(&manifest).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("the task file ended before the system was ready"), "{told}");
    assert!(told.contains("exited with 1"), "{told}");
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn a_signal_ends_a_start_that_does_not_get_on() {
    for end in [Signal::TERM, Signal::INT, Signal::HUP] {
        let directory = directory();
        let child = spawn(up(directory.path()), Vec::new(), true).unwrap();
        // Whether it is ready yet, or has not even begun to be: it ends, and nothing is left.
        let lock = runtime_of(directory.path()).join("default.lock");
        eventually("it has begun", || lock.exists().then_some(()));
        signal(child.id(), end);
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(0), "{told}");
        assert_eq!(left(directory.path()), 0);
    }
}

#[test]
fn a_server_that_hangs_at_the_start_does_not_deafen_up() {
    let (directory, served) = (directory(), directory());
    // A signal server that is stopped as soon as it is there.
    let mut command = up(directory.path());
    command.arg("--dir").arg(served.path());
    let child = spawn(command, Vec::new(), true).unwrap();
    let stopped =
        eventually("a server is there", || descendant_of(child.id(), "part-server", |_, _| true));
    common::signal_if_there(stopped, Signal::STOP);
    signal(child.id(), Signal::TERM);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    eventually("the server has ended", || {
        (!Path::new(&format!("/proc/{stopped}/cmdline")).exists()
            || std::fs::read(format!("/proc/{stopped}/cmdline")).is_ok_and(|it| it.is_empty()))
        .then_some(())
    });
    assert_eq!(left(directory.path()), 0);
}

/// A process started by `pid`, or by one that was, whose first argument is `argument`, and of which
/// `is_it` says so from its number and its command line.
fn descendant_of(
    pid: u32,
    argument: &str,
    is_it: impl Fn(u32, &[u8]) -> bool + Copy,
) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find_map(|child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).ok()?;
        let first = line.split(|byte| *byte == 0).nth(1)?;
        if first == argument.as_bytes() && is_it(child, &line) {
            Some(child)
        } else {
            descendant_of(child, argument, is_it)
        }
    })
}

#[test]
fn a_kernel_that_does_not_stop_is_killed() {
    let mut system = System::start();
    let parts = [system.kernel, system.supervisor];
    let processes = Processes::of(parts);
    signal(system.kernel, Signal::STOP);
    assert!(system.stop().success());
    processes.wait_for_ends();
    assert_eq!(left(system.directory.path()), 0);
}

#[test]
fn a_start_that_fails_late_leaves_nothing_behind() {
    let directory = directory();
    let place = rendez::runtime::Place {
        directory: runtime_of(directory.path()),
        instance: "x".into(),
        owner: None,
    };
    let started = rendez_cli::system::System::start(
        &place,
        Path::new("/there/is/no/such/program"),
        &Manifest::read(None, &Served::default(), None).unwrap(),
    );
    assert!(started.unwrap_err().to_string().contains("starting the kernel"));
    assert_eq!(left(directory.path()), 0);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let directory = directory();
    let runtime = runtime_of(directory.path());
    DirBuilder::new().mode(0o700).create(&runtime).unwrap();
    for mode in [0o777, 0o770, 0o1777, 0o702] {
        std::fs::set_permissions(&runtime, PermissionsExt::from_mode(mode)).unwrap();
        let ended = up(directory.path()).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{mode:o}");
        let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
        assert!(told.contains("chmod go-w"), "{told}");
    }
    assert_eq!(left(directory.path()), 0);
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o755)).unwrap();
    drop(System::at(directory, |_| ()));
}

#[test]
fn a_restart_of_what_dies_at_once_says_so() {
    let served = directory();
    let root = served.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let manifest = served.path().join("manifest");
    let text = "[task.file]
        built-in = 'file'
        restart.when = 'never'
        sandbox.enabled = false
        serves.serve = { path = '/file' }";
    std::fs::write(&manifest, text).unwrap();
    let system = System::with(|command| {
        command.arg(&manifest).arg("--dir").arg(&root);
    });
    let task = system.task();
    std::fs::remove_dir(&root).unwrap();
    let asked = || {
        let request = encode(&"file");
        let client = supervisor(&task);
        refusal(client.send_within(operation::RESTART, &request, 256, Duration::from_secs(60)))
    };
    // Once while it lives, and once when it does not.
    for starts in [2, 3] {
        let (refused, text) = asked();
        assert_eq!(refused, status::NOT_STARTED);
        assert!(text.contains("the task file ended before it was ready: exited with 1"), "{text}");
        let all = servers(&task);
        let file = all.iter().find(|server| server.name == "file").unwrap();
        assert_eq!((file.starts, file.pid, file.task), (starts, None, None));
    }
    // The system is none the worse for it.
    std::fs::create_dir(&root).unwrap();
    common::restart(&task, "file");
    task.look_up("/file", None, None).unwrap();
}

#[test]
fn a_restart_that_cannot_be_made_leaves_no_task_behind() {
    let programs = directory();
    let (executable, aside) = (programs.path().join("rendez"), programs.path().join("aside"));
    common::copy_executable(common::RENDEZ, &executable);
    let system = System::with(|command| {
        let mut copied = Command::new(&executable);
        copied.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::piped());
        *command = copied;
    });
    let task = system.task();
    std::fs::rename(&executable, &aside).unwrap();
    for _ in 0..3 {
        let request = encode(&"signal");
        let (refused, text) = refusal(supervisor(&task).send(operation::RESTART, &request, 256));
        assert_eq!(refused, status::NOT_STARTED);
        assert!(text.contains("starting the task signal"), "{text}");
    }
    eventually("nothing is left of them", || {
        tasks(&task).iter().all(|one| one.name != "signal").then_some(())
    });
    std::fs::rename(&aside, &executable).unwrap();
    common::restart(&task, "signal");
}

#[test]
fn names_are_registered_again_however_long_it_takes() {
    let system = System::start();
    let task = system.task();
    let client = supervisor(&task);
    // The new name server hangs before it serves, while names are registered with it, or after.
    for after_us in [0, 600, 1200, 2500] {
        let before = pid_of(&task, "name");
        let deadline = Duration::from_millis(1);
        // Nobody waits for it; but it must have been delivered, which on a busy machine can take
        // longer than the deadline.
        while let Err(Error::Send(SendError::NotDelivered { .. })) =
            client.send_within(operation::RESTART, &encode(&"name"), 256, deadline)
        {}
        let hangs = eventually("it is started again", || {
            descendant_of(system.supervisor, "part-server", |pid, line| {
                pid != before && line.ends_with(b"name\0")
            })
        });
        std::thread::sleep(Duration::from_micros(after_us));
        signal(hangs, Signal::STOP);
        // Longer than the supervisor waits for it.
        std::thread::sleep(Duration::from_millis(1500));
        signal(hangs, Signal::CONT);
        for path in ["/name", "/file", "/signal", "/supervisor"] {
            task.look_up(path, None, Some(Duration::from_secs(100))).unwrap();
        }
    }
}

#[test]
fn a_stranger_at_the_front_door_is_not_trusted() {
    if !geteuid().is_root() {
        skip("only root can play another user");
        return;
    }
    let directory = directory();
    let path = directory.path().join("default.sock");
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let stranger = rustix::process::Uid::from_raw(54321);
    std::thread::scope(|scope| {
        // Of this thread alone: Linux notes who listens.
        let listens = || {
            set_thread_uid(stranger).unwrap();
            listen(&listener, 8).unwrap();
        };
        scope.spawn(listens).join().unwrap();
    });
    let refused = Task::front_door_at(&path).unwrap_err();
    assert!(matches!(refused, Error::Stranger { uid: 54321, own: 0, .. }), "{refused}");
    let said = rendez(directory.path()).arg("status").output().unwrap();
    assert_eq!(said.status.code(), Some(5));
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(told.contains("54321") && told.contains("default.sock"), "{told}");
}

#[test]
fn what_others_made_in_the_temporary_directory_is_not_trusted() {
    if !geteuid().is_root() {
        skip("only root can play another user");
        return;
    }
    let temporary = directory();
    let theirs = temporary.path().join("rendez-54321");
    DirBuilder::new().mode(0o755).create(&theirs).unwrap();
    std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let executable = temporary.path().join("rendez");
    common::copy_executable(common::RENDEZ, &executable);
    let mut command = Command::new(&executable);
    for variable in
        ["RENDEZ_RUNTIME_DIR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RENDEZ_KERNEL_SOCKET"]
    {
        command.env_remove(variable);
    }
    std::os::unix::process::CommandExt::uid(&mut command, 54321);
    command.env("TMPDIR", temporary.path()).current_dir("/").arg("status");
    let said = command.output().unwrap();
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(5), "{told}");
    assert!(told.contains("rendez-54321") && told.contains("uid 0"), "{told}");
}

#[test]
fn every_thread_of_the_kernel_is_confined() {
    let directory = directory();
    let system = System::with(|command| {
        command.arg("--record").arg(directory.path().join("recording"));
    });
    let threads = std::fs::read_dir(format!("/proc/{}/task", system.kernel)).unwrap();
    let mut names = Vec::new();
    for thread in threads {
        let thread = thread.unwrap().path();
        names.push(std::fs::read_to_string(thread.join("comm")).unwrap().trim_end().to_owned());
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
        };
        assert_eq!(field("Seccomp:"), "2", "a filter, in {names:?}");
        assert_eq!(field("NoNewPrivs:"), "1", "{names:?}");
    }
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    for name in ["closer", "closer-suspect", "recorder"] {
        assert!(names.iter().any(|it| it == name), "{names:?}");
    }
    drop(system);
}
