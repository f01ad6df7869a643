//! What a process within walls can and cannot do: this program starts itself within some, and what
//! is inside tries.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use rendez_supervisor::launch::spawn_confined;
use rendez_supervisor::sandbox::{
    Files, Missing, Namespace, Network, Resources, Sandbox, User, landlock_version, user_namespaces,
};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the copy of this program that is within walls what it may find.
const INSIDE: &str = "RENDEZ_TEST_INSIDE";

/// Not a test by itself: what the others start. Prints a line for each thing that it tries.
#[test]
fn inside() {
    let Some(directory) = std::env::var_os(INSIDE) else { return };
    let directory = Path::new(&directory);
    let say = |what: &str, result: Result<(), String>| {
        println!("\ntried {what}: {}", result.map_or_else(|error| error, |()| "ok".into()));
    };
    let file = |result: std::io::Result<()>| result.map_err(|error| error.kind().to_string());
    let call = |result: Result<(), Errno>| result.map_err(|error| error.to_string());
    let parent = nix::unistd::getppid();

    say("read outside", file(std::fs::read("/etc/passwd").map(drop)));
    say("list outside", file(std::fs::read_dir("/").map(drop)));
    say("read", file(std::fs::read(directory.join("read/file")).map(drop)));
    say("write what is to be read", file(std::fs::write(directory.join("read/file"), "x")));
    say("truncate what is to be read", {
        let path = directory.join("read/file");
        call(nix::unistd::truncate(&path, 0))
    });
    say("write", file(std::fs::write(directory.join("write/new"), "x")));
    say("device", file(std::fs::write("/dev/null", "x")));
    say("thread", file(std::thread::Builder::new().spawn(|| ()).map(|it| it.join().unwrap())));
    say("itself", {
        let program = std::env::current_exe().unwrap();
        file(Command::new(program).arg("--list").stdout(Stdio::null()).status().map(drop))
    });
    say("another program", file(Command::new("/usr/bin/env").status().map(drop)));
    say("internet socket", file(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)));
    say("unix socket", file(UnixDatagram::unbound().map(drop)));
    say("connect", file(UnixStream::connect(directory.join("write/door")).map(drop)));
    say("pair", file(UnixDatagram::pair().map(drop)));
    say("signal", call(nix::sys::signal::kill(parent, None)));
    say("namespace", call(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)));
    // Does not stop it, and ends with this process.
    let options = nix::sys::ptrace::Options::empty();
    say("trace", call(nix::sys::ptrace::seize(parent, options)));
    let dumpable = nix::sys::prctl::get_dumpable().map_err(|error| error.to_string());
    say("dumpable", dumpable.and_then(|it| if it { Ok(()) } else { Err("no".into()) }));
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0;
    say("descriptors", Err(descriptors.to_string()));
    say("user", Err(nix::unistd::getuid().to_string()));
    let interfaces = nix::ifaddrs::getifaddrs().map(Iterator::count).unwrap_or(0);
    say("interfaces", Err(interfaces.to_string()));
}

/// Starts this program within walls. What it found.
fn try_inside(sandbox: &Sandbox, resources: &Resources) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["read", "write"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("read/file"), "something").unwrap();
    let _door = UnixListener::bind(at("write/door")).unwrap();
    // Another user shall be able to come in too, where Linux's own permissions are concerned.
    use std::os::unix::fs::PermissionsExt;
    let everybody = std::fs::Permissions::from_mode(0o777);
    for path in [at(""), at("read"), at("write"), at("read/file"), at("write/door")] {
        std::fs::set_permissions(path, everybody.clone()).unwrap();
    }

    let mut sandbox = sandbox.clone();
    for (paths, name) in [(&mut sandbox.files.read, "read"), (&mut sandbox.files.write, "write")] {
        paths.push(at(name));
    }
    let program = std::env::current_exe().unwrap();
    let walls = sandbox.prepare(program.as_os_str(), resources).unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "inside", "--nocapture", "--test-threads=1"]);
    command.env(INSIDE, directory.path()).stdout(Stdio::piped());
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut child = spawn_confined(command, theirs.into(), true, walls).unwrap();
    drop(ours);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text.lines()
        .filter_map(|line| line.strip_prefix("tried ")?.split_once(": "))
        .map(|(what, result)| (what.into(), result.into()))
        .collect()
}

/// Whether Linux has what a test is about; says so if not.
fn there(is: bool, what: &str) -> bool {
    if !is {
        eprintln!("skipped: this machine has no {what}");
    }
    is
}

#[test]
fn the_strong_setting_keeps_everything_out_that_is_not_named() {
    let found = try_inside(&Sandbox::default(), &Resources::default());
    for what in ["read", "write", "device", "thread", "itself", "pair"] {
        assert_eq!(found.get(what).map(String::as_str), Some("ok"), "{what}: {found:#?}");
    }
    let mut refused = vec!["internet socket", "unix socket", "connect", "namespace", "trace"];
    if there(landlock_version() >= 3, "Landlock 3") {
        refused.extend(["read outside", "list outside", "another program"]);
        refused.extend(["write what is to be read", "truncate what is to be read"]);
    }
    if there(landlock_version() >= 6, "Landlock 6") {
        refused.push("signal");
    }
    for what in refused {
        let said = found.get(what).map_or("", String::as_str);
        assert!(said.contains("ermi"), "{what} was not refused: {found:#?}");
    }
}

#[test]
fn without_walls_everything_goes() {
    let found = try_inside(&Sandbox::open(), &Resources::default());
    for what in ["read outside", "another program", "unix socket", "connect", "signal", "dumpable"]
    {
        assert_eq!(found.get(what).map(String::as_str), Some("ok"), "{what}: {found:#?}");
    }
}

#[test]
fn a_unix_socket_can_be_allowed_and_no_other() {
    let sandbox = Sandbox { network: Network::Unix, ..Sandbox::default() };
    let found = try_inside(&sandbox, &Resources::default());
    assert_eq!(found["unix socket"], "ok", "{found:#?}");
    assert_eq!(found["connect"], "ok", "{found:#?}");
    assert!(found["internet socket"].contains("ermi"), "{found:#?}");
}

#[test]
fn resources_are_limited_without_walls_too() {
    let resources = Resources { descriptors: Some(77), ..Resources::default() };
    let found = try_inside(&Sandbox::open(), &resources);
    assert_eq!(found["descriptors"], "77");
}

#[test]
fn a_namespace_has_no_network_but_its_own() {
    if !there(user_namespaces(), "user namespaces") {
        return;
    }
    let namespaces = vec![Namespace::User, Namespace::Network, Namespace::Ipc, Namespace::Host];
    let sandbox = Sandbox {
        namespaces,
        network: Network::All,
        missing: Missing::Refuse,
        ..Sandbox::default()
    };
    let found = try_inside(&sandbox, &Resources::default());
    // At most the loopback, by its link address only: it is down.
    assert!(["0", "1"].contains(&found["interfaces"].as_str()), "{found:#?}");
    assert_eq!(found["user"], nix::unistd::getuid().to_string());
}

#[test]
fn root_can_give_its_servers_another_user() {
    if !there(nix::unistd::geteuid().is_root(), "root here") {
        return;
    }
    let user = Some(User { uid: 65534, gid: 65534 });
    // The program has to be within reach of that user.
    let files = Files { all: true, ..Files::default() };
    let sandbox = Sandbox { user, files, missing: Missing::Refuse, ..Sandbox::default() };
    let found = try_inside(&sandbox, &Resources::default());
    assert_eq!(found["user"], "65534");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let files = Files { read: vec!["/no/such/path".into()], ..Files::default() };
    let sandbox = Sandbox { files, ..Sandbox::default() };
    if !there(landlock_version() >= 1, "Landlock") {
        return;
    }
    let error = sandbox.prepare("/bin/sh".as_ref(), &Resources::default()).unwrap_err().to_string();
    assert!(error.contains("/no/such/path") && error.contains("No such file"), "{error}");
    let error =
        Sandbox::default().prepare("no-such-program".as_ref(), &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
}
