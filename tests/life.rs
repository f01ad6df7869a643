//! How systems and tasks come to their ends, and that nothing is left of them.

mod common;

use common::raw::{RawTask, knock};
use common::{
    Assistant, Processes, Role, System, descriptors, eventually, for_ever, info, pid_of,
    raise_descriptor_limit, rendez, runtime_of, segments, servers, signal, signal_if_there,
};
use rendez::protocol::kernel::{Hello, Received};
use rendez::protocol::{Interface, Rights, Version, encode, file};
use rendez::service::{Caller, Context, Message, Refusal, Reply, Service};
use rendez::{Client, Connection, Error, NEVER, Options, Server, Task};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let open = || {
        let slot = task.given_as("observer").unwrap().slot;
        Connection::open(&task, slot, &for_ever()).unwrap()
    };
    let works = |connection: &mut Connection| {
        let reply = connection.send_until(1, b"it works", 64, NEVER).unwrap();
        assert_eq!(reply.ok().unwrap(), b"it works");
    };
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("300").stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    match role.name.as_str() {
        "observer" => {
            raise_descriptor_limit();
            let mut server = Server::new(&task).unwrap();
            server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
            match server.run(&mut Observer { role: &role }) {
                Ok(()) | Err(Error::KernelGone) => role.say("the system has ended"),
                Err(error) => panic!("{error}"),
            }
        }
        "client" => {
            works(&mut open());
            let mut connection = open();
            works(&mut connection);
            role.say("connected");
            role.wait_for_ever();
        }
        "execs" => {
            let mut connection = open();
            works(&mut connection);
            panic!("{}", sleep().exec());
        }
        "forks and dies" => {
            let mut connection = open();
            works(&mut connection);
            role.say(common::raw::fork_a_sleeper());
            std::process::exit(0);
        }
        "spawns and dies" => {
            let mut connection = open();
            works(&mut connection);
            role.say(sleep().spawn().unwrap().id());
            std::process::exit(0);
        }
        "forks and lives" => {
            let mut connection = open();
            works(&mut connection);
            let sleeper = common::raw::fork_a_sleeper();
            signal(sleeper, Signal::KILL);
            assert!(Command::new("true").status().unwrap().success());
            works(&mut connection);
            works(&mut open());
            role.say("lives");
        }
        other => panic!("no part is called {other}"),
    }
}

/// Echoes, and says who comes and goes.
struct Observer<'a> {
    role: &'a Role,
}

impl Service for Observer<'_> {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        reply.ok(message.payload);
    }

    fn connected(&mut self, _: &mut dyn Context, _: &Caller) -> Result<(), Refusal> {
        self.role.say("comes");
        Ok(())
    }

    fn disconnected(&mut self, _: &mut dyn Context, _: &Caller) {
        self.role.say("goes");
    }
}

fn observer(task: &Task) -> (Assistant, Received) {
    let endpoint = task.create_endpoint().unwrap();
    let given = [("serve", endpoint.slot, Rights::RECEIVE)];
    (Assistant::start(task, "observer", &given, &[]), endpoint)
}

fn client_of(task: &Task, endpoint: Received, role: &str) -> Assistant {
    Assistant::start(task, role, &[("observer", endpoint.slot, Rights::SEND)], &[])
}

/// All processes of a system but `rendez up`.
fn parts(system: &System) -> Vec<u32> {
    let task = system.task();
    let servers = servers(&task).into_iter().filter_map(|server| server.pid);
    [system.kernel, system.supervisor].into_iter().chain(servers).collect()
}

fn entries(directory: &Path) -> BTreeSet<String> {
    let found = match std::fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeSet::new(),
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn our_shared_memory() -> BTreeSet<String> {
    let ours = |name: &String| name.to_lowercase().contains("rendez");
    entries(Path::new("/dev/shm")).into_iter().filter(ours).collect()
}

/// Uses every part of a system a little.
fn use_it(task: &Task) {
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let mut files = Connection::open(task, found.slot, &Options::default()).unwrap();
    let flags = file::OpenFlags::WRITE | file::OpenFlags::CREATE;
    let request = encode(&file::Open { path: "used", flags, mode: 0o600 });
    files.send(file::operation::OPEN, &request, 64).unwrap().ok().unwrap();
    for path in ["/signal", "/supervisor", "/name"] {
        assert!(Client::look_up(task, path, None).unwrap().send(999, &[], 64).is_err());
    }
}

// ---- systems

#[test]
fn a_clean_stop_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut system = System::with(|command| {
        command.env("TMPDIR", temporary.path());
    });
    let task = system.task();
    use_it(&task);
    let (mut observer, endpoint) = observer(&task);
    let _name = task.register("/observer", endpoint.slot).unwrap();
    let _connection = Connection::open(&task, endpoint.slot, &for_ever()).unwrap();
    let parts = parts(&system);
    for pid in &parts {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        assert!(!maps.contains("/dev/shm"), "no memory with a name");
    }
    assert_eq!(entries(&system.runtime()).len(), 2, "a socket and a lock");
    let ends = Processes::of(parts);
    assert!(system.stop().success());
    ends.wait_for_ends();
    // The tasks of others were ended too, and connections to them.
    observer.child.wait().unwrap();
    assert_eq!(entries(&system.runtime()), BTreeSet::new());
    assert_eq!(entries(temporary.path()), BTreeSet::new());
    assert_eq!(our_shared_memory(), BTreeSet::new());
    assert!(matches!(Task::front_door(&system.place()), Err(Error::NoSystem { .. })));
}

#[test]
fn down_stops_a_system_from_elsewhere() {
    let mut system = System::start();
    use_it(&system.task());
    let ends = Processes::of(parts(&system));
    let down = system.rendez(["down"]);
    assert!(down.status.success(), "{down:?}");
    assert!(system.up().wait().unwrap().success());
    ends.wait_for_ends();
    assert_eq!(entries(&system.runtime()), BTreeSet::new());
    assert_eq!(system.rendez(["down"]).status.code(), Some(3), "nothing is running any more");
}

#[test]
fn after_a_massacre_the_next_system_takes_over_unasked() {
    let temporary = tempfile::tempdir().unwrap();
    let mut system = System::with(|command| {
        command.env("TMPDIR", temporary.path());
    });
    use_it(&system.task());
    let mut all = parts(&system);
    all.push(system.up().id());
    let ends = Processes::of(all.clone());
    for pid in all {
        signal_if_there(pid, Signal::KILL);
    }
    ends.wait_for_ends();
    system.up().wait().unwrap();
    let may_be_left = BTreeSet::from(["default.lock".to_owned(), "default.sock".to_owned()]);
    assert!(entries(&system.runtime()).is_subset(&may_be_left));
    assert_eq!(entries(temporary.path()), BTreeSet::new());
    assert_eq!(our_shared_memory(), BTreeSet::new());

    let directory = std::mem::replace(&mut system.directory, tempfile::tempdir().unwrap());
    let mut next = System::at(directory, |_| ());
    use_it(&next.task());
    assert!(next.stop().success());
    assert_eq!(entries(&next.runtime()), BTreeSet::new());
}

#[test]
fn a_second_system_at_the_same_place_is_refused() {
    let system = System::start();
    for _ in 0..3 {
        let second = system.rendez(["up"]);
        assert_eq!(second.status.code(), Some(9), "{second:?}");
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(said.contains("running already") && said.contains("default"), "{said}");
        use_it(&system.task());
    }
    // Another instance has a place of its own.
    let mut command = rendez(&system.runtime());
    command.env("RENDEZ_INSTANCE", "other").arg("status");
    let other = command.output().unwrap();
    assert_eq!(other.status.code(), Some(3), "{other:?}");
}

#[test]
fn many_start_at_once_and_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime_of(directory.path());
    let mut starting: Vec<_> = (0..6)
        .map(|_| {
            let mut command = rendez(&runtime);
            command.arg("up").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            rendez_supervisor::launch::spawn(command, vec![], true).unwrap()
        })
        .collect();
    let refused = eventually("all but one are refused", || {
        let ended = starting.iter_mut().filter_map(|up| up.try_wait().unwrap());
        let codes: Vec<_> = ended.map(|status| status.code()).collect();
        (codes.len() == 5).then_some(codes)
    });
    assert_eq!(refused, [Some(9); 5]);
    for up in &mut starting {
        signal_if_there(up.id(), Signal::TERM);
        up.wait().unwrap();
    }
    assert_eq!(entries(&runtime), BTreeSet::new());
}

#[test]
fn with_the_kernel_everything_ends() {
    let mut system = System::start();
    let task = system.task();
    use_it(&task);
    let (mut observer, endpoint) = observer(&task);
    let _connection = Connection::open(&task, endpoint.slot, &for_ever()).unwrap();
    let ends = Processes::of(parts(&system));
    signal(system.kernel, Signal::KILL);
    ends.wait_for_ends();
    assert!(!system.up().wait().unwrap().success(), "it says that something went wrong");
    while observer.hear() != "the system has ended" {}
    assert!(matches!(task.list_names("/"), Err(Error::KernelGone)));
    assert_eq!(entries(&system.runtime()), BTreeSet::new());
}

#[test]
fn with_the_supervisor_everything_ends() {
    let mut system = System::start();
    let ends = Processes::of(parts(&system));
    signal(system.supervisor, Signal::KILL);
    ends.wait_for_ends();
    assert!(!system.up().wait().unwrap().success());
    assert_eq!(entries(&system.runtime()), BTreeSet::new());
}

#[test]
fn with_up_everything_ends() {
    let mut system = System::start();
    let task = system.task();
    let (mut observer, _) = observer(&task);
    eventually("it is a task", || info(&task, observer.id)?.credentials.map(drop));
    let ends = Processes::of(parts(&system));
    system.up().kill().unwrap();
    assert_eq!(system.up().wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    ends.wait_for_ends();
    observer.child.wait().unwrap();
    let may_be_left = BTreeSet::from(["default.lock".to_owned(), "default.sock".to_owned()]);
    assert!(entries(&system.runtime()).is_subset(&may_be_left));
}

// ---- tasks

#[test]
fn a_task_that_execs_is_dead() {
    let system = System::start();
    let task = system.task();
    let (mut observer, endpoint) = observer(&task);
    let mut execs = client_of(&task, endpoint, "execs");
    assert_eq!(observer.hear(), "comes");
    assert_eq!(observer.hear(), "goes");
    eventually("the kernel says so", || info(&task, execs.id).is_none().then_some(()));
    assert_eq!(execs.child.try_wait().unwrap(), None, "its process goes on");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", execs.child.id())).unwrap();
    assert_eq!(name.trim_end(), "sleep");
}

#[test]
fn a_task_that_forks_and_dies_is_dead() {
    let system = System::start();
    let task = system.task();
    let (mut observer, endpoint) = observer(&task);
    for role in ["forks and dies", "spawns and dies"] {
        let mut dies = client_of(&task, endpoint, role);
        let child: u32 = dies.hear().parse().unwrap();
        assert_eq!(observer.hear(), "comes");
        assert_eq!(observer.hear(), "goes");
        dies.child.wait().unwrap();
        eventually("the kernel says so", || info(&task, dies.id).is_none().then_some(()));
        let ends = Processes::of([child]);
        signal(child, Signal::KILL);
        ends.wait_for_ends();
    }
}

#[test]
fn a_task_that_forks_and_lives_goes_on() {
    let system = System::start();
    let task = system.task();
    let (mut observer, endpoint) = observer(&task);
    let mut lives = client_of(&task, endpoint, "forks and lives");
    assert_eq!(lives.hear(), "lives");
    assert!(lives.child.wait().unwrap().success());
    let heard: Vec<_> = (0..4).map(|_| observer.hear()).collect();
    assert_eq!(heard.iter().filter(|said| *said == "goes").count(), 2, "{heard:?}");
}

// ---- what is left of them

/// What the processes of a system hold: descriptors, and segments that are mapped.
fn holdings(pids: &[u32]) -> Vec<(usize, usize)> {
    pids.iter().map(|pid| (descriptors(*pid), segments(*pid))).collect()
}

/// Has a server find out that it may need as many spares as a server ever has: more come than it is
/// ready for, and more again. So what it keeps is the same from then on.
fn fill_stock(system: &System, path: &str, pid: u32) {
    const MORE_THAN_SPARES: usize = 12;
    let visitor = system.task();
    let slot = visitor.look_up(path, None, None).unwrap().0.slot;
    let open = || drop(Connection::open(&visitor, slot, &for_ever()).unwrap());
    signal(pid, Signal::STOP);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..MORE_THAN_SPARES).map(|_| scope.spawn(open)).collect();
        // All have asked by then.
        std::thread::sleep(std::time::Duration::from_millis(50));
        signal(pid, Signal::CONT);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn connects_and_deaths_leave_no_descriptor_behind() {
    let system = System::start();
    let task = system.task();
    let (mut observer, endpoint) = observer(&task);
    let _name = task.register("/observer", endpoint.slot).unwrap();
    let mut pids = parts(&system);
    pids.push(observer.child.id());
    let mut load = || {
        for round in 0..10 {
            let visitor = system.task();
            use_it(&visitor);
            let found = visitor.look_up("/observer", None, None).unwrap().0;
            let mut open: Vec<_> = (0..5)
                .map(|_| Connection::open(&visitor, found.slot, &for_ever()).unwrap())
                .collect();
            open[0].send_until(1, b"x", 8, NEVER).unwrap();
            open.truncate(2);
            // Refused: the wrong version; a shape that is none.
            let interface = Some(Interface::new("file", Version::new(7, 0)));
            let (files, _, _) = visitor.look_up("/file", None, None).unwrap();
            let wrong = Options { interface, ..Options::default() };
            assert!(Connection::open(&visitor, files.slot, &wrong).is_err());
            let wrong = Options::default().with_area(5000);
            assert!(Connection::open(&visitor, files.slot, &wrong).is_err());
            let made = visitor.create_endpoint().unwrap();
            let registration = visitor.register("/visitor", made.slot).unwrap();
            let mut clients: Vec<_> =
                (0..3).map(|_| client_of(&task, endpoint, "client")).collect();
            for client in &mut clients[round % 2..] {
                assert_eq!(client.hear(), "connected");
            }
            // Half made, and then left.
            let mut half = RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap();
            let slot = half.given("name").slot;
            let kept: Vec<_> = (0..10).map(|_| half.begin_to_connect(slot).unwrap()).collect();
            let unborn = visitor.create_task("unborn", vec![]).unwrap();
            drop((clients, half, kept, unborn, registration));
            drop((open, visitor));
        }
        observer.ignore();
    };
    // What comes to stay (buffers, threads' stacks, spares) comes with the first load.
    load();
    for name in ["name", "file", "signal"] {
        fill_stock(&system, &format!("/{name}"), pid_of(&task, name));
    }
    fill_stock(&system, "/supervisor", system.supervisor);
    fill_stock(&system, "/observer", pids[pids.len() - 1]);
    let before = eventually("it is quiet", || {
        let one = holdings(&pids);
        std::thread::sleep(std::time::Duration::from_millis(250));
        (one == holdings(&pids)).then_some(one)
    });
    load();
    eventually("everything is let go of", || {
        let after = holdings(&pids);
        let none_more = after.iter().zip(&before).all(|(a, b)| a.0 <= b.0 && a.1 <= b.1);
        if !none_more {
            println!("before {before:?}, after {after:?}");
        }
        none_more.then_some(())
    });
    let living = common::tasks(&task);
    assert!(living.iter().all(|one| one.name != "client" && one.name != "unborn"), "{living:?}");
}

#[test]
fn a_thousand_connections_to_one_server() {
    const MANY: usize = 1000;
    /// Segments that a server keeps ready, at most.
    const SPARES_MAX: usize = 8;
    if raise_descriptor_limit() < 3 * MANY as u64 {
        common::skip(format_args!("it needs {} open files (ulimit -Hn)", 3 * MANY));
        return;
    }
    let system = System::start();
    let tasks: Vec<_> = (0..4).map(|_| system.task()).collect();
    for path in ["/file", "/observer"] {
        let (mut observer, endpoint) = observer(&tasks[0]);
        let _name = tasks[0].register("/observer", endpoint.slot).unwrap();
        let pid = match path {
            "/file" => pid_of(&tasks[0], "file"),
            _ => observer.child.id(),
        };
        let before = segments(pid);
        let slots: Vec<_> =
            tasks.iter().map(|task| task.look_up(path, None, None).unwrap().0.slot).collect();
        let mut connections: Vec<_> = (0..MANY)
            .map(|number| {
                // It says so each time, into a pipe that somebody must empty.
                observer.ignore();
                let place = number % tasks.len();
                Connection::open(&tasks[place], slots[place], &for_ever()).unwrap()
            })
            .collect();
        let payload = encode(&"");
        for _ in 0..3 {
            for connection in &mut connections {
                let operation = file::operation::STAT;
                connection.send_until(operation, &payload, 64, NEVER).unwrap().ok().unwrap();
            }
        }
        // All at once.
        let begun: Vec<_> = connections
            .iter_mut()
            .map(|connection| connection.begin(file::operation::STAT, &payload, 64).unwrap())
            .collect();
        for (connection, transaction) in connections.iter_mut().zip(begun) {
            connection.finish(transaction).unwrap().ok().unwrap();
        }
        let mapped = segments(pid) - before;
        let expected = 2 * MANY..=2 * MANY + SPARES_MAX;
        assert!(expected.contains(&mapped), "two segments a connection, and spares: {mapped}");
        drop(connections);
        eventually("all are let go of", || {
            observer.ignore();
            (segments(pid) <= before + SPARES_MAX).then_some(())
        });
    }
}
