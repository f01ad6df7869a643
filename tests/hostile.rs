//! Tasks that lie: in their rings and headers, to the kernel, to their clients. Each harms itself;
//! everybody else goes on.

mod common;

use common::raw::{RawConnection, RawTask, at, knock, next, request};
use common::{Random, System, for_ever, pid_of, servers};
use rendez::protocol::kernel::{
    Answer, DoorRule, Event, Give, Hello, KernelError, Limits, Offer, Request, Shape, Travel, frame,
};
use rendez::protocol::message::Header;
use rendez::protocol::status::ConnectionState;
use rendez::protocol::version::PROTOCOL;
use rendez::protocol::{
    ConnectionId, Interface, Rights, Slot, Ticket, Version, decode, encode, name,
};
use rendez::{Connection, Error, NEVER, SendError, Status, Task, Wait, Why};
use rendez_ipc_core::control::{Mode, prefix, send_frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn raw(system: &System) -> RawTask {
    RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap()
}

/// An honest request to the name server.
fn list() -> (Header, Vec<u8>) {
    (request(name::operation::LIST, 600), encode(&name::List { path: "/", after: "" }))
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

/// Sends `count` honest requests one after the other, letting go of each reply.
fn honest(connection: &mut RawConnection, count: u64) -> u64 {
    let (header, payload) = list();
    let mut last = 0;
    for _ in 0..count {
        last = connection.publish(header, &payload);
        assert_eq!(connection.reply(last), Status::OK.0);
        connection.own.store(at::FREED, last + 1);
    }
    last + 1
}

/// As [`honest`], but letting go of no reply; the last of them is not waited for.
fn hoard(connection: &mut RawConnection, count: u64) {
    let header = request(name::operation::LIST, 0);
    let payload = encode(&name::List { path: "/no", after: "" });
    for number in 1..=count {
        let position = connection.publish(header, &payload);
        if number < count {
            connection.reply(position);
        }
    }
}

#[test]
fn each_lie_in_a_ring_ends_its_connection_and_no_other() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let server = pid_of(&bystander.task, "name");
    let mut liar = raw(&system);
    let slot = liar.given("name").slot;
    let lines = u64::from(Shape::default().lines);
    let area = Shape::default().area_bytes;
    type Lie = fn(&mut RawConnection, u64, u32);
    let lies: [(&str, Lie); 10] = [
        ("a turn of a later lap", |it, _, _| it.own.store_u32(it.own.line(0), 2)),
        ("a turn far ahead", |it, _, _| it.own.store_u32(it.own.line(0), u32::MAX)),
        ("a turn that jumps after honest ones", |it, _, _| {
            let next = honest(it, 5);
            it.own.store_u32(it.own.line(next), 3);
        }),
        ("a turn that falls back on a later lap", |it, lines, _| {
            let next = honest(it, 2 * lines + 3);
            it.own.store_u32(it.own.line(next), 1);
        }),
        ("a length beyond the area", |it, _, area| {
            let header = Header { length: area + 41, ..list().0 };
            it.own.store_bytes(it.own.line(0) + 8, &header.to_bytes());
            it.own.store_u32(it.own.line(0), 1);
        }),
        ("the longest length there is", |it, _, _| {
            it.own.store_bytes(it.own.line(0) + 8, &[0xff; 16]);
            it.own.store_u32(it.own.line(0), 1);
        }),
        ("more room than there is area", |it, _, _| {
            it.publish(Header { room: u16::MAX, ..list().0 }, b"");
        }),
        ("replies freed that never came", |it, lines, _| {
            it.own.store(at::FREED, 1 << 40);
            hoard(it, lines + 1);
        }),
        ("all replies freed that can be counted", |it, lines, _| {
            it.own.store(at::FREED, u64::MAX);
            hoard(it, lines + 1);
        }),
        ("replies freed and taken back", |it, lines, _| {
            honest(it, lines);
            hoard(it, lines);
            it.own.store(at::FREED, lines + 1);
            hoard(it, 2);
            it.own.store(at::FREED, 1);
            hoard(it, 1);
        }),
    ];
    for (what, lie) in lies {
        let mut connection = liar.connect(slot);
        lie(&mut connection, lines, area);
        connection.ring();
        assert_eq!(liar.closed(&connection), ConnectionState::Protocol, "{what}");
        bystander.goes_on();
    }
    // The liar itself may go on too, as long as it speaks the truth.
    honest(&mut liar.connect(slot), 3);
    assert_eq!(pid_of(&bystander.task, "name"), server);
}

#[test]
fn what_a_header_says_of_oneself_deceives_nobody_else() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut random = Random::seeded();
    let mut liar = raw(&system);
    let mut connection = liar.connect(liar.given("name").slot);
    for _ in 0..200 {
        connection.own.store(at::TAKEN, random.next());
        connection.own.store(at::RANG_AT, random.next());
        connection.own.store(at::POSTED, random.next());
        connection.own.store(at::ACKNOWLEDGED, random.next());
        connection.own.store_u32(at::CPU, random.next() as u32);
        connection.own.store_u32(at::ASLEEP, random.next() as u32);
        connection.own.store_u32(at::DOORBELL, random.next() as u32);
        honest(&mut connection, 1);
    }
    bystander.goes_on();
    assert_eq!(liar.state(&connection), ConnectionState::Open);
}

#[test]
fn a_withdrawn_message_is_not_run() {
    let system = System::start();
    let mut task = raw(&system);
    let mut connection = task.connect(task.given("name").slot);
    let (header, payload) = list();
    let line = connection.own.line(0);
    connection.own.store_u32(line + 4, connection.own.turn(0));
    let position = connection.publish(header, &payload);
    assert_eq!(connection.reply(position), Status::WITHDRAWN.0);
    // A mark of another lap means nothing.
    let line = connection.own.line(1);
    connection.own.store_u32(line + 4, 77);
    let position = connection.publish(header, &payload);
    assert_eq!(connection.reply(position), Status::OK.0);
    assert_eq!(task.state(&connection), ConnectionState::Open);
}

#[test]
fn a_storm_of_doorbells_holds_up_nobody() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut liar = raw(&system);
    let mut connection = liar.connect(liar.given("name").slot);
    let bell = connection.bell.as_ref().unwrap().try_clone().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
                }
            }
        });
        for _ in 0..20 {
            bystander.goes_on();
        }
        // Who rings for nothing is looked at later, and still is.
        honest(&mut connection, 20);
        stop.store(true, Ordering::Relaxed);
    });
    honest(&mut connection, 20);
    bystander.goes_on();
}

#[test]
fn rubbish_everywhere_all_the_time_harms_its_writer_alone() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let before = servers(&bystander.task);
    let mut random = Random::seeded();
    let mut liar = raw(&system);
    let slots: Vec<Slot> = {
        let name = liar.given("name").slot;
        let supervisor = liar.given("supervisor").slot;
        vec![name, name, supervisor]
    };
    for round in 0..150 {
        let slot = slots[random.below(slots.len() as u64) as usize];
        let connection = liar.connect(slot);
        let bytes = connection.own.bytes() as u64;
        // Words anywhere, or only where they hurt; while the server reads.
        for _ in 0..random.below(400) {
            let value = match random.below(4) {
                0 => random.next(),
                1 => random.below(40),
                2 => u64::MAX,
                _ => 1 << random.below(64),
            };
            let words = if random.below(2) == 0 { bytes / 8 } else { (1024 + 32 * 64) / 8 };
            connection.own.store(random.below(words) as usize * 8, value);
            if random.below(8) == 0 {
                connection.ring();
            }
        }
        connection.ring();
        if random.below(2) == 0 {
            let why = [Why::Closed, Why::Dead, Why::Protocol][random.below(3) as usize];
            liar.ask(&Request::Disconnect { connection: connection.id, why });
        }
        if round % 10 == 0 {
            bystander.goes_on();
        }
    }
    drop(liar);
    bystander.goes_on();
    assert_eq!(servers(&bystander.task), before, "all servers live on");
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
fn who_takes_no_replies_holds_up_nobody() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut lazy = raw(&system);
    let connections: Vec<_> = (0..10)
        .map(|_| {
            let mut connection = lazy.connect(lazy.given("name").slot);
            let (header, payload) = list();
            for _ in 0..Shape::default().lines {
                connection.publish(header, &payload);
            }
            connection
        })
        .collect();
    bystander.goes_on();
    for connection in &connections {
        assert_eq!(lazy.state(connection), ConnectionState::Open);
    }
}

// ---- servers that lie

/// A task that serves `/liar` without the library.
fn lying_server(system: &System) -> RawTask {
    let mut server = raw(system);
    let Answer::Slot(endpoint) = server.ask(&Request::CreateEndpoint).0 else { panic!() };
    let serving = server.ask(&Request::Serve { slot: endpoint.slot, interface: None }).0;
    assert!(matches!(serving, Answer::Serving { generation: 1, .. }), "{serving:?}");
    let mut names = server.connect(server.given("register").slot);
    let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
    let item = Offer {
        slot: endpoint.slot,
        rights,
        badge: None,
        limits: Limits::SAME,
        travel: Travel::Mint,
    };
    let offer = Request::Offer { connection: names.id, items: vec![item] };
    let Answer::Ticket(ticket) = server.ask(&offer).0 else { panic!() };
    let payload = encode(&name::Register { path: "/liar", ticket });
    let position = names.publish(request(name::operation::REGISTER, 64), &payload);
    assert_eq!(names.reply(position), Status::OK.0);
    // Or its name would go with the connection.
    std::mem::forget(names);
    server
}

fn reply_to(transaction: u64) -> Header {
    Header { word: transaction, code: 0, room: 0, ..request(0, 0) }
}

#[test]
fn each_lie_of_a_server_ends_its_connection() {
    let system = System::start();
    let mut server = lying_server(&system);
    type Lie = fn(&mut RawConnection);
    let not = SendError::NotDelivered { why: Why::Protocol };
    let interrupted = SendError::Interrupted { why: Why::Protocol, generation: 1 };
    let lies: [(&str, Lie, SendError); 6] = [
        ("a turn that jumps", |it| it.own.store_u32(it.own.line(0), 9), not),
        (
            "a turn that jumps, taken",
            |it| {
                it.own.store(at::TAKEN, 1);
                it.own.store_u32(it.own.line(0), 9);
            },
            interrupted,
        ),
        ("a reply to nothing", |it| it.own.publish(0, reply_to(99), b"x"), not),
        ("a reply to what is to come", |it| it.own.publish(0, reply_to(1), b"x"), not),
        ("a reply to everything", |it| it.own.publish(0, reply_to(u64::MAX), b"x"), not),
        (
            "a reply longer than the area",
            |it| {
                it.own.store(at::TAKEN, u64::MAX);
                it.own.store_bytes(it.own.line(0) + 8, &[0xff; 16]);
                it.own.store_u32(it.own.line(0), 1);
            },
            interrupted,
        ),
    ];
    let task = system.task();
    let (found, _, _) = task.look_up("/liar", None, None).unwrap();
    for (what, lie, expected) in lies {
        let (task, slot) = (task.clone(), found.slot);
        let victim = std::thread::spawn(move || {
            let mut connection = Connection::open(&task, slot, &for_ever()).unwrap();
            // The liar does not wake anybody.
            connection.set_wait(Wait::Spin);
            let told = connection.send_until(1, b"question", 64, NEVER).map(drop);
            let again = connection.send_until(1, b"question", 64, NEVER).map(drop);
            (told, again)
        });
        let mut connection = server.take_in();
        common::eventually("the question", || {
            (connection.peer.load_u32(connection.peer.line(0)) == 1).then_some(())
        });
        lie(&mut connection);
        assert_eq!(victim.join().unwrap(), (Err(expected), Err(not)), "{what}");
        // The kernel tells the liar what it was.
        assert_eq!(server.closed(&connection), ConnectionState::Protocol, "{what}");
    }
}

#[test]
fn a_server_that_frees_what_was_never_sent_is_left() {
    let system = System::start();
    let mut server = lying_server(&system);
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
    let mut server = lying_server(&system);
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
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut random = Random::seeded();
    for _ in 0..40 {
        let mut liar = raw(&system);
        for transaction in 0..60 {
            let length = random.below(60) as usize;
            let mut payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            if let Some(first) = payload.first_mut() {
                // The number of a request, but of none that would wait or kill this very process.
                *first = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 17][random.below(13) as usize];
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
fn requests_about_what_is_not_ones_own_are_refused() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let mut random = Random::seeded();
    let mut liar = raw(&system);
    for _ in 0..3000 {
        let slot = Slot {
            // Beyond those that it has.
            index: 50 + random.below(5000) as u32,
            generation: random.below(3) as u32,
        };
        let connection =
            ConnectionId { index: random.below(30) as u32, generation: random.below(30) as u32 };
        let ticket = Ticket(random.below(50));
        let give = vec![Give {
            name: "x".into(),
            slot,
            rights: Rights::all(),
            badge: None,
            limits: Limits::SAME,
        }];
        let request = match random.below(14) {
            0 => Request::Mint { slot, rights: Rights::SEND, badge: None, limits: Limits::SAME },
            1 => Request::Move { slot },
            2 => Request::Delete { slot },
            3 => Request::Revoke { slot },
            4 => Request::Inspect { slot },
            5 => Request::Accept { connection, ticket },
            6 => Request::Watch { slot },
            7 => Request::Serve { slot, interface: None },
            8 => Request::Disconnect { connection, why: Why::Revoked },
            9 => Request::Kill { slot, signal: 9 },
            10 => Request::List { slot },
            11 => Request::FrontDoor { slot, rules: vec![DoorRule { uid: None, give }] },
            12 => Request::CreateTask { name: "child".into(), give },
            _ => Request::Offer { connection, items: vec![] },
        };
        let (answer, _) = liar.ask(&request);
        assert!(matches!(answer, Answer::Error(_)), "{request:?}: {answer:?}");
    }
    bystander.goes_on();
}

/// A TCP socket whose last close takes as long as it lingers: there is data that nobody reads.
fn lingering(seconds: u64) -> (OwnedFd, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    sockopt::set_socket_linger(&sender, Some(Duration::from_secs(seconds))).unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.write(&[0; 65536]).is_ok() {}
    (sender.into(), receiver)
}

fn send_with(
    socket: &OwnedFd,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
}

/// How many sockets and pipes a process has open: for the kernel, all that it has not made itself,
/// and its own ends of what it has.
fn foreign(pid: u32) -> usize {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    all.filter_map(|one| std::fs::read_link(one.ok()?.path()).ok())
        .filter(|link| {
            let link = link.to_string_lossy();
            link.starts_with("socket:") || link.starts_with("pipe:")
        })
        .count()
}

#[test]
fn descriptors_that_nobody_asked_for_hold_up_nobody() {
    let system = System::start();
    let mut bystander = Bystander::of(&system);
    let greeting = {
        let mut packet = prefix(1, frame::HELLO, 8).to_vec();
        packet.extend_from_slice(&Hello::OURS.to_bytes());
        packet
    };
    let question = {
        let payload = encode(&Request::CreateEndpoint);
        let mut packet = prefix(9, frame::REQUEST, payload.len()).to_vec();
        packet.extend_from_slice(&payload);
        packet
    };
    let before = foreign(system.kernel);
    let mut kept = Vec::new();
    for _ in 0..4 {
        // Its last close takes longer than the watchdog is patient: only whoever would close it in
        // the wrong place notices.
        let (slow, receiver) = lingering(1000);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let many = [slow.as_fd(), pipe.as_fd(), slow.as_fd()];
        let visitor = raw(&system);
        let early = knock(&system.place().socket());
        let sent =
            [send_with(&early, &greeting, &many), send_with(&visitor.socket, &question, &many)];
        // Linux refuses them at the sender where it can (6.16); else their sender is ended.
        match sent {
            [Err(one), Err(two)] => {
                assert_eq!((one, two), (rustix::io::Errno::PERM, rustix::io::Errno::PERM));
            }
            [Ok(_), Ok(_)] => {
                assert!(next(&early).is_none());
                while next(&visitor.socket).is_some() {}
            }
            other => panic!("refused at one door and not at the other: {other:?}"),
        }
        // Our own copy must not be closed here either.
        kept.push((slow, receiver));
        bystander.goes_on();
        raw(&system).ask(&Request::CreateEndpoint);
    }
    common::eventually("the kernel lets go of all", || {
        (foreign(system.kernel) <= before).then_some(())
    });
    for (slow, _) in &kept {
        sockopt::set_socket_linger(slow, None).unwrap();
    }
}

#[test]
fn an_end_that_nobody_is_told_of_twice() {
    let system = System::start();
    let mut server = lying_server(&system);
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
    let few = Some(common::descriptors(pid) as u64 + 8);
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
    common::eventually("there is room again", || {
        Connection::open(&task, found.slot, &for_ever()).ok()
    });
    assert_eq!(pid_of(&task, "file"), pid, "it is the same process");
}
