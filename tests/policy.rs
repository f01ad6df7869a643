//! The front door's policy: who is let in, what they are given, and what they are told otherwise.

mod common;

use common::{Processes, System, Watchdog, names, refusal, rendez, runtime_of, servers, skip};
use rendez::protocol::encode;
use rendez::protocol::supervisor::operation;
use rendez::{Status, Task};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A uid that is nobody's here.
const OTHER: u32 = 54_321;
/// Exit codes.
const REFUSED: i32 = 5;
const USAGE: i32 = 2;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn little_is_the_default_and_says_what_to_do() {
    let mut system = System::admitting(tempfile::tempdir().unwrap(), None);
    std::fs::write(system.directory.path().join("file"), "content").unwrap();
    let file = system.directory.path().join("file");
    // Names and servers can be used.
    for arguments in [
        &["put", file.to_str().unwrap(), "/file/x"][..],
        &["cat", "/file/x"],
        &["ls", "/"],
        &["status"],
        &["signal", "list"],
        &["run", "--give", "files=/file:r", "--", "true"],
    ] {
        let output = system.rendez(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    }
    // The rest is refused, and it is said how it would not be.
    for arguments in [
        &["ps"][..],
        &["top"],
        &["restart", "file"],
        &["down"],
        &["run", "--give", "register=/name:rn", "--", "true"],
    ] {
        let output = system.rendez(arguments);
        assert_eq!(output.status.code(), Some(REFUSED), "{arguments:?}: {output:?}");
        assert!(told(&output).contains("--policy operator"), "{arguments:?}: {}", told(&output));
    }
    let task = system.task();
    let names: Vec<_> = task.given().iter().map(|given| given.name.as_str()).collect();
    assert_eq!(names, ["name", "supervisor"]);
    let endpoint = task.create_endpoint().unwrap();
    let (status, text) = refusal(task.register("/mine", endpoint.slot));
    assert_eq!(status, Status::DENIED);
    assert!(text.contains("REGISTER") && text.contains("--policy operator"), "{text}");
    // Nor is there a way around it through the name server.
    let supervisor = common::supervisor(&task);
    for (operation, payload) in [(operation::RESTART, encode(&"file")), (operation::STOP, vec![])] {
        assert_eq!(refusal(supervisor.send(operation, &payload, 256)).0, Status::DENIED);
    }
    let managing = Some(rendez::Rights::SEND | rendez::Rights::MANAGE);
    assert_eq!(refusal(task.look_up("/supervisor", managing, None)).0, Status::DENIED);
    assert_eq!(servers(&task).len(), 3);
    assert!(system.stop().success());
}

#[test]
fn operator_is_given_everything() {
    let system = System::start();
    for arguments in [&["ps"][..], &["restart", "file"]] {
        let output = system.rendez(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    }
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    task.register("/mine", endpoint.slot).unwrap();
    drop(names(&task, "register"));
}

#[test]
fn a_policy_that_cannot_be_meant_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let up = |policy: &Path| {
        let mut command = rendez(&runtime_of(directory.path()));
        command.arg("up").arg("--policy").arg(policy).output().unwrap()
    };
    for (text, place) in [
        ("[[rule]]\nwho = \"own\"\ngive.names = \"r\"\n", "line 3, column 6"),
        ("[[rule]]\nwho = \"mine\"\n", "line 2, column 7"),
        ("[[rule]]\nwho = 1\nwhat = 3\n", "line 3, column 1"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = up(&file);
        assert_eq!(output.status.code(), Some(USAGE), "{output:?}");
        assert!(told(&output).contains(place), "{}", told(&output));
        assert!(told(&output).contains("policy.toml"), "{}", told(&output));
    }
    assert_eq!(up(Path::new("operators")).status.code(), Some(USAGE), "it is no file");
    assert_eq!(up(Path::new("./none")).status.code(), Some(1));
    assert!(!runtime_of(directory.path()).exists());
}

/// A place that every user can reach, and a copy of the command there.
struct Reachable {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Reachable {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rendez-test-").tempdir_in("/tmp").unwrap();
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let program = directory.path().join("rendez");
        common::copy_executable(common::RENDEZ, &program);
        Self { directory, program }
    }

    /// What the command does and says, run by somebody else.
    fn as_other(&self, runtime: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        for variable in ["RENDEZ_INSTANCE", "RENDEZ_KERNEL_SOCKET", "RENDEZ_RUNTIME_DIR"] {
            command.env_remove(variable);
        }
        command.arg("--runtime-dir").arg(runtime).args(arguments);
        command.uid(OTHER).gid(OTHER).current_dir("/").output().unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

/// Needs root, to become somebody else.
#[test]
fn other_users_reach_the_door_if_the_policy_names_them_and_get_what_it_says() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become somebody else");
    }
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let reachable = Reachable::new();
    let policy = reachable.directory.path().join("policy.toml");
    let rules = format!("[[rule]]\nwho = \"own\"\ngive.name = \"r\"\n[[rule]]\nwho = {OTHER}\n");
    std::fs::write(&policy, format!("{rules}give.name = \"sr\"\n")).unwrap();

    // Nobody but the own user is named: nobody else even reaches the socket.
    let closed = System::start();
    assert_eq!((mode(&closed.runtime()), mode(&closed.place().socket())), (0o700, 0o600));
    drop(closed);

    let directory = tempfile::Builder::new().prefix("rendez-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let system = System::admitting(directory, Some(policy.as_os_str()));
    assert_eq!((mode(&system.runtime()), mode(&system.place().socket())), (0o711, 0o666));
    let output = reachable.as_other(&system.runtime(), &["ls", "/"]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("file"));
    let output = reachable.as_other(&system.runtime(), &["ps"]);
    assert_eq!(output.status.code(), Some(REFUSED), "{}", told(&output));
    // It may read, and not write.
    let output = reachable.as_other(&system.runtime(), &["mkdir", "/file/x"]);
    assert_eq!(output.status.code(), Some(REFUSED), "{}", told(&output));
    // The own user is held to the same file.
    let own: Vec<_> = system.task().given().iter().map(|given| given.name.clone()).collect();
    assert_eq!(own, ["name"]);
    drop(system);

    // Reached, since another is named, and refused all the same.
    let rules = rules.replace(&OTHER.to_string(), &(OTHER + 1).to_string());
    std::fs::write(&policy, rules).unwrap();
    let directory = tempfile::Builder::new().prefix("rendez-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let system = System::admitting(directory, Some(policy.as_os_str()));
    let output = reachable.as_other(&system.runtime(), &["ls", "/"]);
    assert_eq!(output.status.code(), Some(REFUSED), "{}", told(&output));
    assert!(told(&output).contains(&format!("uid {OTHER}")), "{}", told(&output));
    let ends = Processes::of([system.kernel]);
    drop(system);
    ends.wait_for_ends();
}

/// Needs root, to become somebody else.
#[test]
fn a_system_of_a_stranger_is_used_only_by_whoever_says_so() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become somebody else");
    }
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let reachable = Reachable::new();
    let policy = reachable.directory.path().join("policy.toml");
    std::fs::write(&policy, "[[rule]]\nwho = \"others\"\ngive.name = \"r\"\n").unwrap();
    let runtime = reachable.directory.path().join("theirs");
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(OTHER), Some(OTHER)).unwrap();
    let mut up = Command::new(&reachable.program);
    up.arg("--runtime-dir").arg(&runtime).arg("up").arg("--policy").arg(&policy);
    up.uid(OTHER).gid(OTHER).current_dir("/").stdout(std::process::Stdio::null());
    let mut up = up.spawn().unwrap();
    let mut place =
        rendez::runtime::Place { directory: runtime, instance: "default".into(), owner: None };
    common::eventually("it is up", || match Task::front_door(&place) {
        Err(rendez::Error::Stranger { uid: OTHER, .. }) => Some(()),
        _ => None,
    });
    place.owner = Some(OTHER);
    common::eventually("it serves", || Task::front_door(&place).ok());
    common::signal(up.id(), rustix::process::Signal::TERM);
    assert!(up.wait().unwrap().success());
}
