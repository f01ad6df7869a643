//! Lies that take many tries, or more than one liar: rubbish by chance, versions that do not fit,
//! a server without descriptors.

use crate::common::raw::{RawTask, at, knock, mint, next};
use crate::common::{Random, System, for_ever, pid_of, servers};
use rendez::protocol::kernel::{Answer, Event, Hello, KernelError, Request, frame};
use rendez::protocol::status::ConnectionState;
use rendez::protocol::version::PROTOCOL;
use rendez::protocol::{
    ConnectionId, Interface, Rights, Slot, SpareId, Ticket, Version, decode, encode, name,
};
use rendez::{Connection, Error, NEVER, SendError, Task, Wait, Why};
use rendez_ipc_core::control::{Mode, send_frame};

fn raw(system: &System) -> RawTask {
    RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap()
}

/// Somebody with a connection of old who must not notice anything.
struct Bystander {
    task: Task,
    old: Connection,
}

impl Bystander {
    fn of(system: &System) -> Self {
        let task = system.task();
        let slot = task.given_as("name").unwrap().slot;
        let old = Connection::open(&task, slot, &for_ever()).unwrap();
        Self { task, old }
    }

    fn goes_on(&mut self) {
        let payload = encode(&name::List { path: "/", after: "" });
        for _ in 0..3 {
            let reply = self.old.send_until(name::operation::LIST, &payload, 600, NEVER).unwrap();
            let listing: name::Listing = decode(reply.ok().unwrap()).unwrap();
            assert!(listing.entries.iter().any(|entry| entry.name == "file"));
        }
        assert!(!self.task.list_names("/").unwrap().is_empty(), "and connects anew");
    }
}

#[test]
fn rubbish_in_messages_is_refused() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let before = servers(&bystander.task);
    let mut random = Random::seeded();
    for path in ["/name", "/file", "/signal", "/supervisor"] {
        let (found, _, _) = bystander.task.look_up(path, None, None).unwrap();
        // Without MANAGE, or it would stop the system when it is told to.
        let mut connection = Connection::open(&bystander.task, found.slot, &for_ever()).unwrap();
        for _ in 0..2000 {
            let length = random.below(200) as usize;
            let mut payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            if random.below(2) == 0 && !payload.is_empty() {
                // A length that looks like one.
                payload[0] = random.below(length as u64 + 3) as u8;
            }
            let operation = random.below(15) as u16;
            let room = random.below(600) as usize;
            match connection.send_until(operation, &payload, room, NEVER) {
                Ok(_) | Err(SendError::Interrupted { why: Why::TooBig, .. }) => {}
                Err(error) => panic!("{path}: {error:?}"),
            }
        }
    }
    bystander.goes_on();
    assert_eq!(servers(&bystander.task), before, "all servers live on");
}

#[test]
fn a_server_that_frees_what_was_never_sent_is_left() {
    let system = System::start();
    let mut server = raw(&system);
    server.serve_as("/liar");
    let task = system.task();
    let (found, _, _) = task.look_up("/liar", None, None).unwrap();
    let victim = std::thread::spawn(move || {
        let mut connection = Connection::open(&task, found.slot, &for_ever()).unwrap();
        connection.set_wait(Wait::Spin);
        // More than the area holds: to go on it must believe what is freed.
        let ended = (0..20).find_map(|_| connection.begin(1, &[7; 1000], 0).err());
        ended.expect("it ends")
    });
    let connection = server.take_in();
    connection.own.store(at::FREED, 1 << 50);
    connection.own.store(at::TAKEN, 1 << 50);
    assert_eq!(victim.join().unwrap(), SendError::NotDelivered { why: Why::Protocol });
    drop(connection);
}

#[test]
fn rubbish_from_a_server_ends_every_send_of_its_clients() {
    let system = System::start();
    let mut server = raw(&system);
    server.serve_as("/liar");
    let mut random = Random::seeded();
    let task = system.task();
    let (found, _, _) = task.look_up("/liar", None, None).unwrap();
    for _ in 0..60 {
        let (task, slot) = (task.clone(), found.slot);
        let victim = std::thread::spawn(move || {
            let mut connection = Connection::open(&task, slot, &for_ever()).unwrap();
            for number in 0..50_usize {
                let payload = vec![number as u8; number * 11];
                if connection.send_until(1, &payload, 500, NEVER).is_err() {
                    return;
                }
            }
        });
        let connection = server.take_in();
        for _ in 0..random.below(100) {
            let value = if random.below(2) == 0 { random.below(50) } else { random.next() };
            connection.own.store(random.below((1024 + 32 * 64) / 8) as usize * 8, value);
        }
        // It is no use to lie if one then goes: its clients are told.
        let end = Request::Disconnect { connection: connection.id, why: Why::Closed };
        server.ask(&end);
        victim.join().unwrap();
    }
}

// ---- lies to the kernel

#[test]
fn another_protocol_version_is_named_and_refused() {
    let system = System::start();
    for version in [Version::new(9, 9), Version::new(0, 1), Version::new(PROTOCOL.major, 9)] {
        let refused = RawTask::greet(knock(&system.place().socket()), Hello { version });
        let error = refused.err().expect("the versions do not fit");
        assert_eq!(error, KernelError::Protocol { yours: version, kernel: PROTOCOL });
        let text = error.to_string();
        assert!(text.contains(&version.to_string()) && text.contains(&PROTOCOL.to_string()));
    }
    Bystander::of(&system).goes_on();
}

#[test]
fn another_interface_version_is_named_and_refused() {
    let system = System::start();
    let task = system.task();
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    for (wanted, version) in [("file", Version::new(2, 0)), ("fish", Version::new(1, 0))] {
        let interface = Interface::new(wanted, version);
        let options = rendez::Options::speaking(interface.clone());
        let error = Connection::open(&task, found.slot, &options).unwrap_err().to_string();
        assert!(error.contains(&interface.to_string()) && error.contains("file 1.1"), "{error}");
    }
}

#[test]
fn rubbish_to_the_kernel_is_answered_or_ends_its_sender() {
    // The numbers of requests, but of none that would wait or kill this very process.
    let (slot, why) = (Slot { index: 0, generation: 0 }, Why::Closed);
    let connection = ConnectionId { index: 0, generation: 0 };
    let known = [
        Request::PageMapped,
        Request::CreateEndpoint,
        Request::CreateTask { name: String::new(), give: vec![], quotas: vec![] },
        mint(slot, Rights::empty(), None),
        Request::Move { slot },
        Request::Delete { slot },
        Request::Inspect { slot },
        Request::Offer { connection, items: vec![] },
        Request::Accept { connection, ticket: Ticket(0) },
        Request::Watch { slot },
        Request::Disconnect { connection, why },
        Request::List { slot, from: 0 },
        Request::MapRegion { slot, write: true },
        Request::DropSpare { spare: SpareId(0) },
        Request::Attach { connection, requests: 0, replies: 0 },
    ]
    .map(|request| encode(&request)[0]);
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut random = Random::seeded();
    for _ in 0..40 {
        let mut liar = raw(&system);
        for transaction in 0..60 {
            let length = random.below(60) as usize;
            let mut payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            if let Some(first) = payload.first_mut() {
                *first = known[random.below(known.len() as u64) as usize];
            }
            let code = if random.below(10) == 0 { random.next() as u16 } else { frame::REQUEST };
            if send_frame(&liar.socket, 1000 + transaction, code, &payload, &[], Mode::Wait)
                .is_err()
            {
                break;
            }
            if next(&liar.socket).is_none() {
                break;
            }
        }
        // It still is a task like any other, if it is one.
        if liar.socket_lives() {
            liar.ask(&Request::CreateEndpoint);
        }
    }
    bystander.goes_on();
}

#[test]
fn an_end_that_nobody_is_told_of_twice() {
    let system = System::start();
    let mut server = raw(&system);
    server.serve_as("/liar");
    let task = system.task();
    let (found, _, _) = task.look_up("/liar", None, None).unwrap();
    let slot = found.slot;
    let (opener, options) = (task.clone(), for_ever());
    let opened = std::thread::spawn(move || Connection::open(&opener, slot, &options).unwrap());
    let connection = server.take_in();
    drop(opened.join().unwrap());
    assert_eq!(server.closed(&connection), ConnectionState::Closed);
    // The first says that the end is known, the second is for nothing.
    let disconnect = Request::Disconnect { connection: connection.id, why: Why::Protocol };
    assert!(matches!(server.ask(&disconnect).0, Answer::Done));
    let (again, _) = server.ask(&disconnect);
    assert!(matches!(again, Answer::Error(KernelError::BadConnection(_))), "{again:?}");
    // Nothing else was said meanwhile.
    let transaction = server.send(&Request::CreateEndpoint);
    assert!(matches!(server.answer(transaction).0, Answer::Slot(_)));
    assert!(!server.pending().any(|event| matches!(event, Event::Closed { .. })));
}

/// Reproduces: one client could end any server by connecting until that had no descriptor left.
#[test]
fn a_server_out_of_descriptors_refuses_clients_and_lives() {
    let system = System::start();
    let task = system.task();
    let pid = pid_of(&task, "file");
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let mut first = Connection::open(&task, found.slot, &for_ever()).unwrap();
    let few = Some(crate::common::descriptors(pid) as u64 + 8);
    let limit = rustix::process::Rlimit { current: few, maximum: few };
    let server = rustix::process::Pid::from_raw(pid as i32);
    rustix::process::prlimit(server, rustix::process::Resource::Nofile, limit).unwrap();
    let mut others = Vec::new();
    let refused = loop {
        match Connection::open(&task, found.slot, &for_ever()) {
            Ok(one) => others.push(one),
            Err(error) => break error,
        }
        assert!(others.len() < 100, "without end");
    };
    assert!(matches!(refused, Error::Kernel(KernelError::NotCompleted(Why::Quota))), "{refused:?}");
    let stat = rendez::protocol::file::operation::STAT;
    first.send_until(stat, &encode(&""), 64, NEVER).unwrap().ok().unwrap();
    let mut served = 0;
    for connection in &mut others {
        match connection.send_until(stat, &encode(&""), 64, NEVER) {
            Ok(reply) => {
                reply.ok().unwrap();
                served += 1;
            }
            // The server's segment was ready, and the rest of what it needs was not to be had.
            Err(error) => assert_eq!(error, SendError::NotDelivered { why: Why::Quota }),
        }
    }
    assert!(served > 0);
    drop(others);
    crate::common::eventually("there is room again", || {
        Connection::open(&task, found.slot, &for_ever()).ok()
    });
    assert_eq!(pid_of(&task, "file"), pid, "it is the same process");
}
