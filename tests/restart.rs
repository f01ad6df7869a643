//! Servers that are killed and started again: clients' capabilities stay good.

mod common;

use common::{System, eventually, for_ever, info, pid_of, refusal, restart, servers, signal};
use rendez::protocol::file::{self, OpenFlags};
use rendez::protocol::kernel::KernelError;
use rendez::protocol::{Rights, decode, encode, name};
use rendez::{Client, Connection, Error, Options, SendError, Server, Task, Why};
use rustix::process::Signal;

fn stat(files: &Client, path: &str) -> Result<file::Stat, Error> {
    Ok(decode(&files.send(file::operation::STAT, &encode(&path), 256)?)?)
}

fn make(files: &Client, path: &str) {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE;
    let request = encode(&file::Open { path, flags, mode: 0o600 });
    files.send(file::operation::OPEN, &request, 256).unwrap();
}

/// A client of the file server that waits for as long as it takes.
fn patient(task: &Task) -> Client {
    let options = Options { interface: Some(file::interface()), ..for_ever() };
    Client::look_up_prefix(task, "/file", options).unwrap().0
}

/// Waits until the supervisor has seen that a server is dead.
fn seen_dead(task: &Task, server: &str) {
    eventually("the supervisor sees the death", || {
        servers(task).iter().any(|one| one.name == server && one.pid.is_none()).then_some(())
    });
}

#[test]
fn a_killed_server_comes_back_behind_the_same_capability() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::unattended(Some(directory.path()));
    let task = system.task();
    let files = patient(&task);
    make(&files, "kept");
    let (slot, _, _) = task.look_up("/file", None, None).unwrap();
    let mut generations = Vec::new();
    for _ in 0..3 {
        let connection = Connection::open(&task, slot.slot, &Options::default()).unwrap();
        generations.push(connection.generation());
        let before = pid_of(&task, "file");
        signal(before, Signal::KILL);
        seen_dead(&task, "file");
        restart(&task, "file");
        assert_ne!(pid_of(&task, "file"), before);
        // The client connects anew by itself.
        assert_eq!(stat(&files, "kept").unwrap().kind, file::Kind::File);
    }
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");
    let listed = servers(&task);
    let file = listed.iter().find(|server| server.name == "file").unwrap();
    assert_eq!(file.starts, 4);
    assert!(file.last_end.contains("SIGKILL"), "{}", file.last_end);
}

#[test]
fn who_sends_while_there_is_no_server_waits_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::unattended(Some(directory.path()));
    let task = system.task();
    let clients: Vec<_> = (0..3).map(|_| patient(&system.task())).collect();
    make(&clients[0], "kept");
    signal(pid_of(&task, "file"), Signal::KILL);
    seen_dead(&task, "file");
    let senders: Vec<_> = clients
        .into_iter()
        .map(|files| std::thread::spawn(move || stat(&files, "kept").map(|stat| stat.kind)))
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(senders.iter().all(|sender| !sender.is_finished()), "nobody could answer them");
    restart(&task, "file");
    for sender in senders {
        assert_eq!(sender.join().unwrap().unwrap(), file::Kind::File);
    }
}

#[test]
fn a_restart_while_many_send_loses_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let system = System::unattended(Some(directory.path()));
    let task = system.task();
    make(&patient(&task), "kept");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let files = patient(&system.task());
                let stop = &stop;
                scope.spawn(move || {
                    let (mut answered, mut interrupted) = (0_u32, 0_u32);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        match stat(&files, "kept") {
                            Ok(_) => answered += 1,
                            // It had taken it: only the sender may know whether to send again.
                            Err(Error::Send(SendError::Interrupted { why: Why::Dead, .. })) => {
                                interrupted += 1;
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    (answered, interrupted)
                })
            })
            .collect();
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            restart(&task, "file");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for sender in senders {
            let (answered, interrupted) = sender.join().unwrap();
            assert!(answered > 0 && interrupted <= 10, "{answered} {interrupted}");
        }
    });
}

#[test]
fn a_connection_reports_and_never_sends_again() {
    let system = System::unattended(None);
    let task = system.task();
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let mut connection = Connection::open(&task, found.slot, &Options::default()).unwrap();
    let request = encode(&"");
    connection.send(file::operation::STAT, &request, 256).unwrap().ok().unwrap();
    signal(pid_of(&task, "file"), Signal::KILL);
    seen_dead(&task, "file");
    let expected = SendError::NotDelivered { why: Why::Dead };
    assert_eq!(connection.send(file::operation::STAT, &request, 256).unwrap_err(), expected);
    restart(&task, "file");
    assert_eq!(connection.send(file::operation::STAT, &request, 256).unwrap_err(), expected);
}

#[test]
fn the_name_server_restarts_with_the_names_of_the_system() {
    let system = System::unattended(None);
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let registration = task.register("/mine", endpoint.slot).unwrap();
    signal(pid_of(&task, "name"), Signal::KILL);
    seen_dead(&task, "name");
    restart(&task, "name");
    for path in ["/name", "/file", "/signal", "/supervisor"] {
        task.look_up(path, None, Some(std::time::Duration::from_secs(100))).unwrap();
    }
    // Others register again themselves.
    assert_eq!(refusal(task.look_up("/mine", None, None)).0, name::status::NOT_FOUND);
    drop(registration);
    let _registration = task.register("/mine", endpoint.slot).unwrap();
}

#[test]
fn a_restart_of_what_is_not_there_is_refused() {
    let system = System::unattended(None);
    let task = system.task();
    let request = encode(&"nothing");
    let asked = common::supervisor(&task).send(
        rendez::protocol::supervisor::operation::RESTART,
        &request,
        256,
    );
    let (status, text) = refusal(asked);
    assert_eq!(status, rendez::protocol::supervisor::status::NOT_FOUND);
    assert!(text.contains("file"), "it says what there is: {text}");
}

#[test]
fn an_endpoint_whose_last_receiver_is_gone_answers_at_once() {
    let system = System::unattended(None);
    let task = system.task();
    let mortal = system.task();
    let endpoint = mortal.create_endpoint().unwrap();
    Server::new(&mortal).unwrap().serve(endpoint.slot, None).unwrap();
    let registration = mortal.register("/mortal", endpoint.slot).unwrap();
    let (found, _, _) = task.look_up("/mortal", None, None).unwrap();
    assert!(found.rights.contains(Rights::SEND));
    let id = mortal.id();
    drop((registration, mortal));
    eventually("it is dead", || info(&task, id).is_none().then_some(()));
    // Nobody is left who could bring one back: no waiting, however patient the client is.
    let refused = Connection::open(&task, found.slot, &for_ever());
    assert!(matches!(refused, Err(Error::Kernel(KernelError::Dead))), "{refused:?}");
}
