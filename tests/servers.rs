//! The name, file and signal servers, as processes, through real rings.

mod common;

use common::{Assistant, Role, System, eventually, info, look_up_over, names, pid_of, refusal};
use rendez::protocol::file::{self, OpenFlags};
use rendez::protocol::kernel::{Limits, Offer, Travel};
use rendez::protocol::{Rights, decode, encode, name, signal};
use rendez::{Client, Connection, Error, Options, Status, Task, Why};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    match role.name.as_str() {
        "registrant" => {
            let endpoint = task.create_endpoint().unwrap();
            let _one = task.register("/of/a/mortal", endpoint.slot).unwrap();
            let _two = task.register("/of/the/same", endpoint.slot).unwrap();
            role.say("registered");
            role.wait_for_ever();
        }
        "sleeper" => {
            role.say("asleep");
            role.wait_for_ever();
        }
        other => panic!("no part is called {other}"),
    }
}

// ---- names

#[test]
fn names_are_registered_looked_up_listed_and_unregistered() {
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let registration = task.register("/my/service", endpoint.slot).unwrap();
    assert_eq!(registration.path(), "/my/service");

    let other = system.task();
    let (found, registered, rest) = other.look_up("/my/service/a/b", None, None).unwrap();
    assert_eq!((registered.as_str(), rest.as_str()), ("/my/service", "a/b"));
    assert_eq!(found.object, endpoint.object);
    assert!(!found.rights.contains(Rights::RECEIVE), "nobody can serve what he looked up");

    let entries = |path: &str| -> Vec<(String, bool)> {
        let entries = other.list_names(path).unwrap();
        entries.into_iter().map(|entry| (entry.name, entry.registered)).collect()
    };
    let top = ["file", "my", "name", "signal", "supervisor"];
    assert_eq!(entries("/").iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), top);
    assert!(entries("/").contains(&("my".into(), false)), "a directory of names");
    assert_eq!(entries("/my"), [("service".into(), true)]);

    drop(registration);
    eventually("the name vanishes", || {
        let gone = other.look_up("/my/service", None, None).err()?;
        assert_eq!(refusal::<()>(Err(gone)).0, name::status::NOT_FOUND);
        Some(())
    });
    assert_eq!(refusal(other.list_names("/my")).0, name::status::NOT_FOUND);

    // By its own operation, and while the connection that registered it goes on.
    let mut connection = names(&task, "register");
    let offer = Offer {
        slot: endpoint.slot,
        rights: Rights::SEND | Rights::MINT | Rights::GRANT,
        badge: None,
        limits: Limits::SAME,
        travel: Travel::Mint,
    };
    let ticket = connection.offer(&[offer]).unwrap();
    let request = encode(&name::Register { path: "/again", ticket });
    connection.send(name::operation::REGISTER, &request, 256).unwrap().ok().unwrap();
    other.look_up("/again", None, None).unwrap();
    let request = encode(&"/again");
    connection.send(name::operation::UNREGISTER, &request, 256).unwrap().ok().unwrap();
    assert_eq!(refusal(other.look_up("/again", None, None)).0, name::status::NOT_FOUND);
}

#[test]
fn a_look_up_waits_for_its_name() {
    let system = System::start();
    let early = system.task();
    let waiting = std::thread::spawn(move || {
        early.look_up("/late/one/below", None, Some(Duration::from_secs(100))).unwrap()
    });
    let task = system.task();
    // It may or may not wait by now: both must end well.
    std::thread::sleep(Duration::from_millis(30));
    let endpoint = task.create_endpoint().unwrap();
    let _registration = task.register("/late/one", endpoint.slot).unwrap();
    let (found, name, rest) = waiting.join().unwrap();
    assert_eq!(found.object, endpoint.object);
    assert_eq!((name.as_str(), rest.as_str()), ("/late/one", "below"));

    let in_vain = task.look_up("/never", None, Some(Duration::from_millis(50)));
    match in_vain {
        Err(Error::Refused { status: Status::DEADLINE, .. }) => {}
        Err(error) if error.why() == Some(Why::Deadline) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_names_of_a_dead_task_vanish() {
    let system = System::start();
    let task = system.task();
    let register = task.given_as("register").unwrap();
    let given = [("register", register.slot, Rights::SEND | Rights::REGISTER | Rights::WRITE)];
    let mut mortal = Assistant::start(&task, "registrant", &given, &[]);
    assert_eq!(mortal.hear(), "registered");
    task.look_up("/of/a/mortal", None, None).unwrap();
    task.look_up("/of/the/same", None, None).unwrap();
    mortal.kill();
    for path in ["/of/a/mortal", "/of/the/same"] {
        eventually("its names vanish", || {
            let error = task.look_up(path, None, None).err()?;
            assert_eq!(refusal::<()>(Err(error)).0, name::status::NOT_FOUND);
            Some(())
        });
    }
    // And are free.
    let endpoint = task.create_endpoint().unwrap();
    let _registration = task.register("/of/a/mortal", endpoint.slot).unwrap();
}

#[test]
fn nobody_takes_over_the_name_of_another() {
    let system = System::start();
    let (task, thief) = (system.task(), system.task());
    let endpoint = task.create_endpoint().unwrap();
    let _registration = task.register("/mine", endpoint.slot).unwrap();
    let his = thief.create_endpoint().unwrap();
    for path in ["/mine", "/mine/below", "/file", "/name", "/supervisor"] {
        assert_eq!(refusal(thief.register(path, his.slot)).0, name::status::TAKEN, "{path}");
    }
    let mut connection = names(&thief, "register");
    for path in ["/mine", "/file"] {
        let request = encode(&path);
        let refused = connection.send(name::operation::UNREGISTER, &request, 256).unwrap().ok();
        assert_eq!(refusal(refused).0, name::status::NOT_YOURS);
    }
    assert_eq!(task.look_up("/mine", None, None).unwrap().0.object, endpoint.object);
    for path in ["", "relative", "/a//b", "/a/../b", "/.", "/a\0b"] {
        assert_eq!(refusal(thief.register(path, his.slot)).0, name::status::BAD_PATH, "{path:?}");
    }
}

// ---- files

/// A client of the file server with room for large pieces.
fn file_client(task: &Task) -> Connection {
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let options = Options::speaking(file::interface()).with_area(64 << 10);
    Connection::open(task, found.slot, &options).unwrap()
}

fn ask(files: &mut Connection, operation: u16, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let room = files.reply_bytes_max();
    Ok(files.send(operation, payload, room)?.ok()?.to_vec())
}

fn open(files: &mut Connection, path: &str, flags: OpenFlags) -> Result<u32, Error> {
    let request = encode(&file::Open { path, flags, mode: 0o640 });
    Ok(decode(&ask(files, file::operation::OPEN, &request)?)?)
}

fn write(files: &mut Connection, handle: u32, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let mut request = encode(&file::Write { handle, offset });
    request.extend_from_slice(bytes);
    ask(files, file::operation::WRITE, &request).map(drop)
}

fn read(files: &mut Connection, handle: u32, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
    let request = encode(&file::Read { handle, offset, length });
    ask(files, file::operation::READ, &request)
}

fn list(files: &mut Connection, path: &str) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().map_or("", |name| name);
        let request = encode(&file::List { path, after });
        let listing: file::Listing = decode(&ask(files, file::operation::LIST, &request)?)?;
        names.extend(listing.entries.into_iter().map(|entry| entry.name));
        if !listing.more {
            return Ok(names);
        }
    }
}

/// What must hold over a directory and over memory alike.
fn files_are_kept(files: &mut Connection) {
    use file::operation::{
        CLOSE, MAKE_DIRECTORY, REMOVE, REMOVE_DIRECTORY, RENAME, STAT, SYNC, TRUNCATE,
    };
    let new = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    ask(files, MAKE_DIRECTORY, &encode(&"dir")).unwrap();
    let handle = open(files, "dir/file", new).unwrap();
    assert_eq!(refusal(open(files, "dir/file", new)).0, file::status::EXISTS);
    // In pieces of all sizes around those that fit a line, to wrap the area more than once.
    let content: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 / 3) as u8).collect();
    let mut offset = 0;
    for size in [1, 24, 25, 26, 39, 40, 41, 104, 4096, 60_000].into_iter().cycle() {
        let piece = &content[offset..content.len().min(offset + size)];
        if piece.is_empty() {
            break;
        }
        write(files, handle, offset as u64, piece).unwrap();
        offset += piece.len();
    }
    let mut back = Vec::new();
    while back.len() < content.len() {
        let length = 1 + (back.len() as u32 * 31) % 50_000;
        let piece = read(files, handle, back.len() as u64, length).unwrap();
        assert!(!piece.is_empty());
        back.extend(piece);
    }
    assert!(back == content, "what was written is read");
    assert_eq!(read(files, handle, 300_000, 10).unwrap(), b"", "behind the end");
    ask(files, SYNC, &encode(&handle)).unwrap();
    ask(files, TRUNCATE, &encode(&file::Truncate { handle, size: 5 })).unwrap();
    let stat: file::Stat = decode(&ask(files, STAT, &encode(&"dir/file")).unwrap()).unwrap();
    assert_eq!((stat.kind, stat.size, stat.mode), (file::Kind::File, 5, 0o640));
    ask(files, CLOSE, &encode(&handle)).unwrap();
    assert_eq!(refusal(read(files, handle, 0, 1)).0, file::status::BAD_HANDLE);

    for number in 0..300 {
        let path = format!("dir/entry-{number:03}-{}", "x".repeat(100));
        let handle = open(files, &path, OpenFlags::WRITE | OpenFlags::CREATE).unwrap();
        ask(files, CLOSE, &encode(&handle)).unwrap();
    }
    let names = list(files, "dir").unwrap();
    assert_eq!(names.len(), 301);
    assert!(names.is_sorted());
    for name in names.iter().filter(|name| *name != "file") {
        ask(files, REMOVE, &encode(&format!("dir/{name}"))).unwrap();
    }
    let rename = file::Rename { from: "dir/file", to: "moved" };
    ask(files, RENAME, &encode(&rename)).unwrap();
    assert_eq!(refusal(ask(files, STAT, &encode(&"dir/file"))).0, file::status::NOT_FOUND);
    assert_eq!(refusal(open(files, "dir", OpenFlags::WRITE)).0, file::status::IS_DIRECTORY);
    for outside in ["..", "../etc/passwd", "dir/../../x", "/etc/passwd"] {
        let refused = open(files, outside, OpenFlags::READ);
        assert_eq!(refusal(refused).0, file::status::OUTSIDE, "{outside}");
    }
    ask(files, REMOVE_DIRECTORY, &encode(&"dir")).unwrap();
    assert_eq!(list(files, "").unwrap(), ["moved"]);
}

#[test]
fn files_are_kept_in_memory() {
    let system = System::start();
    files_are_kept(&mut file_client(&system.task()));
}

#[test]
fn files_are_kept_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let system = System::serving(directory.path());
    let mut files = file_client(&system.task());
    files_are_kept(&mut files);
    let moved = std::fs::read(directory.path().join("moved")).unwrap();
    assert_eq!(moved.len(), 5, "it is a file like any other");

    // A link that leads out is not followed, wherever it stands in a path.
    std::os::unix::fs::symlink(outside.path(), directory.path().join("way-out")).unwrap();
    let secret = outside.path().join("secret");
    std::os::unix::fs::symlink(&secret, directory.path().join("the-secret")).unwrap();
    for path in ["way-out/secret", "the-secret"] {
        assert_eq!(refusal(open(&mut files, path, OpenFlags::READ)).0, file::status::OUTSIDE);
    }
    let new = OpenFlags::WRITE | OpenFlags::CREATE;
    assert_eq!(refusal(open(&mut files, "way-out/new", new)).0, file::status::OUTSIDE);
    assert!(!outside.path().join("new").exists());
}

#[test]
fn an_open_file_belongs_to_its_connection() {
    let system = System::start();
    let task = system.task();
    let (mut one, mut other) = (file_client(&task), file_client(&task));
    let handle = open(&mut one, "file", OpenFlags::WRITE | OpenFlags::CREATE).unwrap();
    assert_eq!(refusal(write(&mut other, handle, 0, b"x")).0, file::status::BAD_HANDLE);
    assert_eq!(refusal(read(&mut one, handle, 0, 1)).0, file::status::NOT_OPEN_FOR);
    write(&mut one, handle, 0, b"x").unwrap();
}

#[test]
fn a_message_that_is_too_large_is_not_delivered() {
    let system = System::start();
    let task = system.task();
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let options = Options { arena_bytes_max: 1 << 20, ..Options::speaking(file::interface()) };
    let mut files = Connection::open(&task, found.slot, &options).unwrap();
    let handle = open(&mut files, "file", OpenFlags::WRITE | OpenFlags::CREATE).unwrap();
    let bytes = vec![0; 1 << 20];
    let error = write(&mut files, handle, 0, &bytes).unwrap_err();
    assert!(
        matches!(error, Error::Send(rendez::SendError::NotDelivered { why: Why::TooBig })),
        "{error:?}"
    );
    // A reply that does not fit the room that was named.
    write(&mut files, handle, 0, &[7; 1000]).unwrap();
    let reply = files.send(file::operation::STAT, &encode(&"file"), 0).unwrap();
    assert!(matches!(reply.status, Status::OK | Status::TOO_BIG), "{reply:?}");
    write(&mut files, handle, 0, b"and it goes on").unwrap();
}

#[test]
fn memory_is_full_at_its_quota() {
    let system = System::start();
    let task = system.task();
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let options = Options::speaking(file::interface()).with_area(4 << 20);
    let mut files = Connection::open(&task, found.slot, &options).unwrap();
    let handle = open(&mut files, "big", OpenFlags::WRITE | OpenFlags::CREATE).unwrap();
    let piece = vec![1; 3 << 20];
    let mut offset = 0;
    let refused = loop {
        match write(&mut files, handle, offset, &piece) {
            Ok(()) => offset += piece.len() as u64,
            refused => break refused,
        }
        assert!(offset < 1 << 32, "there is a quota");
    };
    assert_eq!(refusal(refused).0, file::status::NO_SPACE);
    ask(&mut files, file::operation::REMOVE, &encode(&"big")).unwrap();
    ask(&mut files, file::operation::CLOSE, &encode(&handle)).unwrap();
    let handle = open(&mut files, "next", OpenFlags::WRITE | OpenFlags::CREATE).unwrap();
    write(&mut files, handle, 0, &piece).expect("what was removed is free");
}

// ---- signals

fn signals(task: &Task) -> Connection {
    let (found, _, _) = task.look_up("/signal", None, None).unwrap();
    Connection::open(task, found.slot, &Options::speaking(signal::interface())).unwrap()
}

fn tell(to: &mut Connection, operation: u16, payload: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(to.send(operation, payload, 1024)?.ok()?.to_vec())
}

fn subscribe(to: &mut Connection, name: &str, bit: u8) {
    let request = encode(&signal::Subscribe { signal: name, bit });
    tell(to, signal::operation::SUBSCRIBE, &request).unwrap();
}

fn raise(to: &mut Connection, name: &str, group: &str) -> u32 {
    let request = encode(&signal::Raise { signal: name, group });
    decode(&tell(to, signal::operation::RAISE, &request).unwrap()).unwrap()
}

/// The bits that come; waits for them.
fn bits(of: &mut Connection) -> u64 {
    of.wait_notifications(Duration::from_secs(100)).unwrap()
}

#[test]
fn signals_reach_their_subscribers_and_groups() {
    let system = System::start();
    let task = system.task();
    let (mut one, mut two) = (signals(&system.task()), signals(&task));
    let mut raiser = signals(&task);
    subscribe(&mut one, "reload", 3);
    subscribe(&mut two, "reload", 63);
    subscribe(&mut two, "other", 0);
    assert_eq!(raise(&mut raiser, "reload", ""), 2);
    assert_eq!((bits(&mut one), bits(&mut two)), (1 << 3, 1 << 63));
    assert_eq!(raise(&mut raiser, "nobody/cares", ""), 0);

    tell(&mut two, signal::operation::JOIN, &encode(&"workers")).unwrap();
    assert_eq!(raise(&mut raiser, "reload", "workers"), 1);
    assert_eq!(bits(&mut two), 1 << 63);
    assert_eq!(raise(&mut raiser, "reload", "strangers"), 0);
    assert_eq!(one.take_notifications(), 0);

    let listing: signal::Listing =
        decode(&tell(&mut raiser, signal::operation::LIST, &[]).unwrap()).unwrap();
    assert_eq!(listing.signals, [("other".to_owned(), 1), ("reload".to_owned(), 2)]);
    assert_eq!(listing.groups, [("workers".to_owned(), 1)]);
    // Who has gone is not reached.
    drop(two);
    eventually("the subscription ends", || (raise(&mut raiser, "reload", "") == 1).then_some(()));
}

#[test]
fn a_masked_signal_is_pending_and_comes_once() {
    let system = System::start();
    let task = system.task();
    let (mut one, mut raiser) = (signals(&task), signals(&task));
    subscribe(&mut one, "reload", 5);
    let mask = |masked| encode(&signal::Mask { signal: "reload", masked });
    tell(&mut one, signal::operation::MASK, &mask(true)).unwrap();
    for _ in 0..3 {
        assert_eq!(raise(&mut raiser, "reload", ""), 1);
    }
    assert_eq!(one.take_notifications(), 0);
    let pending: Vec<String> =
        decode(&tell(&mut one, signal::operation::PENDING, &[]).unwrap()).unwrap();
    assert_eq!(pending, ["reload"]);
    tell(&mut one, signal::operation::MASK, &mask(false)).unwrap();
    assert_eq!(bits(&mut one), 1 << 5);
    assert_eq!(one.take_notifications(), 0);
    tell(&mut one, signal::operation::UNSUBSCRIBE, &encode(&"reload")).unwrap();
    assert_eq!(raise(&mut raiser, "reload", ""), 0);
}

#[test]
fn a_posix_signal_to_the_server_raises_a_named_one() {
    let system = System::start();
    let task = system.task();
    let mut one = signals(&task);
    subscribe(&mut one, "from/posix", 9);
    let rights = Some(Rights::SEND | Rights::REGISTER);
    let found = look_up_over(&mut names(&task, "register"), "/signal", rights).unwrap();
    let options = Options::speaking(signal::interface());
    let mut manager = Connection::open(&task, found.slot, &options).unwrap();
    let server = pid_of(&task, "signal");
    let bridge = |posix: Signal, signal: &str| {
        encode(&signal::Bridge { posix: posix.as_raw(), signal }).clone()
    };
    let request = bridge(Signal::USR1, "from/posix");
    tell(&mut manager, signal::operation::BRIDGE, &request).unwrap();
    common::signal(server, Signal::USR1);
    assert_eq!(bits(&mut one), 1 << 9);
    common::signal(server, Signal::USR1);
    assert_eq!(bits(&mut one), 1 << 9, "each time anew");
    // One that is bridged to nothing does nothing.
    common::signal(server, Signal::USR2);
    let refused = tell(&mut manager, signal::operation::BRIDGE, &bridge(Signal::KILL, "x"));
    assert_eq!(refusal(refused).0, signal::status::BAD_SIGNAL);
    let refused = tell(&mut one, signal::operation::BRIDGE, &request);
    assert_eq!(refusal(refused).0, Status::DENIED, "without REGISTER");
    assert_eq!(pid_of(&task, "signal"), server);
}

#[test]
fn a_named_signal_arrives_as_a_posix_one() {
    let system = System::start();
    let task = system.task();
    let mut sleeper = Assistant::start(&task, "sleeper", &[], &[]);
    assert_eq!(sleeper.hear(), "asleep");
    let mut one = signals(&task);
    subscribe(&mut one, "stop", 1);
    let deliver = |one: &mut Connection, rights, signal: &str| {
        let slot = sleeper.capability.slot;
        let offer = Offer { slot, rights, badge: None, limits: Limits::SAME, travel: Travel::Mint };
        let ticket = one.offer(&[offer]).unwrap();
        let request = encode(&signal::Deliver { signal, ticket, posix: Signal::USR1.as_raw() });
        tell(one, signal::operation::DELIVER, &request)
    };
    let refused = deliver(&mut one, Rights::WATCH | Rights::GRANT, "stop");
    assert_eq!(refusal(refused).0, signal::status::BAD_CAPABILITY, "without KILL");
    let refused = deliver(&mut one, Rights::KILL, "not/mine");
    assert_eq!(refusal(refused).0, signal::status::NOT_SUBSCRIBED);
    deliver(&mut one, Rights::KILL, "stop").unwrap();
    assert!(info(&task, sleeper.id).is_some(), "it sleeps on");

    assert_eq!(raise(&mut signals(&task), "stop", ""), 1);
    let end = sleeper.child.wait().unwrap();
    assert_eq!(end.signal(), Some(Signal::USR1.as_raw()));
    assert_eq!(bits(&mut one), 1 << 1);
    // It is dead, and the signal still reaches who subscribes.
    assert_eq!(raise(&mut signals(&task), "stop", ""), 1);
    assert_eq!(bits(&mut one), 1 << 1);
}

#[test]
fn an_unknown_operation_and_a_malformed_payload_are_told() {
    let system = System::start();
    let task = system.task();
    for path in ["/name", "/file", "/signal", "/supervisor"] {
        let client = Client::look_up(&task, path, None).unwrap();
        assert_eq!(refusal(client.send(999, &[], 256)).0, Status::UNIMPLEMENTED, "{path}");
        if path != "/supervisor" {
            let rubbish = [0xff; 30];
            assert_eq!(refusal(client.send(2, &rubbish, 256)).0, Status::MALFORMED, "{path}");
        }
    }
}
