//! The kernel's shell over real sockets: the kernel runs in a thread, tasks are this process and
//! a child of it.
//!
//! Every receive has a time limit (`PATIENCE`), so that what hangs fails.

mod hold;
mod system;

use hold::Hold;
use rendez_ipc_core::control::{Mode, send_frame};
use rendez_ipc_core::segment::{OwnSegment, PeerSegment, SEALS};
use rendez_ipc_core::waits::Waiting;
use rendez_kernel::shell::socket_pair;
use rendez_protocol::kernel::{
    Answer, Doorbell, Event, Fate, Give, Hello, KernelError, Limits, Request, Shape, frame,
};
use rendez_protocol::status::{ConnectionState, Why};
use rendez_protocol::version::PROTOCOL;
use rendez_protocol::{Rights, Version, encode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use system::{PATIENCE, System, Task, answer_of, knock, mapped, next};

#[test]
fn a_task_greets_and_is_welcome() {
    let mut system = System::start();
    let mut first = system.first();
    let kernel = first.given("kernel");
    let visitor = system.visitor("ls\x07");
    assert_ne!(visitor.id, first.id);
    let Answer::Tasks { tasks, .. } = first.ask(Request::List { slot: kernel.slot, from: 0 })
    else {
        panic!()
    };
    let own = std::process::id();
    for task in &tasks {
        assert_eq!(task.credentials.map(|credentials| credentials.pid), Some(own));
    }
    let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["supervisor", "ls"]);
}

#[test]
fn a_wrong_version_is_told_and_shown_out() {
    let mut system = System::start();
    let yours = Version::new(PROTOCOL.major + 1, 0);
    let greeting = Hello { version: yours }.to_bytes();
    let socket = knock(&system.path());
    send_frame(&socket, 9, frame::HELLO, &greeting, &[], Mode::Wait).unwrap();
    let frame = next(&socket).unwrap();
    assert_eq!(frame.transaction, 9);
    let error = KernelError::Protocol { yours, kernel: PROTOCOL };
    assert_eq!(answer_of(frame).0, Answer::Error(error));
    assert!(next(&socket).is_none());
    system.first();
}

#[test]
fn rubbish_is_answered_or_ends_its_sender_alone() {
    let mut system = System::start();
    let mut first = system.first();

    let socket = knock(&system.path());
    send_frame(&socket, 3, frame::HELLO, b"GET / HTTP/1.1", &[], Mode::Wait).unwrap();
    assert!(matches!(
        answer_of(next(&socket).unwrap()).0,
        Answer::Error(KernelError::Malformed(_))
    ));
    assert!(next(&socket).is_none());

    let socket = knock(&system.path());
    send_frame(&socket, 3, frame::REQUEST, &encode(&Request::CreateEndpoint), &[], Mode::Wait)
        .unwrap();
    assert!(matches!(answer_of(next(&socket).unwrap()).0, Answer::Error(KernelError::Order(_))));
    assert!(next(&socket).is_none());

    let mut task = system.visitor("rubbish");
    for (code, payload) in [(frame::REQUEST, &[0xff; 9][..]), (99, b""), (frame::HELLO, b"x")] {
        task.transaction += 1;
        let transaction = task.transaction;
        send_frame(&task.socket, transaction, code, payload, &[], Mode::Wait).unwrap();
        assert!(matches!(task.answer(transaction).0, Answer::Error(_)));
    }
    let mut lie = rendez_ipc_core::control::prefix(77, frame::REQUEST, 5).to_vec();
    lie.push(0);
    rustix::net::send(&task.socket, &lie, SendFlags::empty()).unwrap();
    assert!(matches!(task.answer(77).0, Answer::Error(KernelError::Malformed(_))));
    assert_eq!(task.ask(Request::PageMapped).clone(), task.ask(Request::PageMapped));
    rustix::net::send(&task.socket, b"short", SendFlags::empty()).unwrap();
    assert!(task.is_ended());

    let task = system.visitor("long");
    rustix::net::send(&task.socket, &vec![0; 100_000], SendFlags::empty()).unwrap();
    assert!(task.is_ended());
    first.slot(Request::CreateEndpoint);
}

fn handshake(client_bell: Doorbell, server_bell: Doorbell) {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");

    let (connection, index, own) = client.connect(client_bell).unwrap();
    let own = OwnSegment::map(own, Shape::default()).unwrap();
    let transaction = client.send(&mapped(connection, client_bell));

    let (event, descriptors) = server.event();
    let Event::Incoming { connection: same, badge, rights, rings, status_index, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!((same, badge, rings), (connection, 7, client_bell));
    assert_eq!(rights, Rights::SEND | Rights::WATCH);
    let mut descriptors = descriptors.into_iter();
    let mut take = || descriptors.next().unwrap();
    let replies = OwnSegment::map(take(), Shape::default()).unwrap();
    let requests = PeerSegment::map(take(), Shape::default()).unwrap();
    let server_wait = take();
    let rings_client = (client_bell == Doorbell::Event).then(&mut take);
    assert!(descriptors.next().is_none());
    assert_eq!(server.ask(mapped(connection, server_bell)), Answer::Done);

    let (answer, descriptors) = client.answer(transaction);
    let Answer::Connected { server: task, generation, rings, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((task, generation, rings), (server.id, 1, server_bell));
    let mut descriptors = descriptors.into_iter();
    let peer = PeerSegment::map(descriptors.next().unwrap(), Shape::default()).unwrap();
    let rings_server = (server_bell == Doorbell::Event).then(|| descriptors.next().unwrap());
    let client_wait = (client_bell == Doorbell::Event).then(|| descriptors.next().unwrap());
    assert!(descriptors.next().is_none());

    // The bells ring where they should, each time anew.
    for _ in 0..2 {
        if let (Some(ring), Some(wait)) = (&rings_client, &client_wait) {
            assert!(ring_is_heard(ring, wait));
        }
        if let Some(ring) = &rings_server {
            assert!(ring_is_heard(ring, &server_wait));
        }
    }
    drop((own, replies, requests, peer));

    assert_eq!(client.status.state(index), ConnectionState::Open);
    let changes = server.status.load(0);
    let answer = client.ask(Request::Disconnect { connection, why: Why::Closed });
    assert_eq!(answer, Answer::Done);
    let (event, _) = server.event();
    assert_eq!(event, Event::Closed { connection, why: Why::Closed });
    assert_eq!(server.status.state(status_index), ConnectionState::Closed);
    assert!(server.status.load(0) > changes);
}

/// Rings an eventfd and takes the edge from the epoll instance behind it.
fn ring_is_heard(ring: &OwnedFd, wait: &OwnedFd) -> bool {
    use rustix::event::epoll;
    rustix::io::write(ring, &1_u64.to_ne_bytes()).unwrap();
    let mut events = Vec::with_capacity(4);
    let patience = rustix::time::Timespec { tv_sec: 30, tv_nsec: 0 };
    let space = rustix::buffer::spare_capacity(&mut events);
    epoll::wait(wait, space, Some(&patience)).unwrap() == 1
}

#[test]
fn a_connection_is_made_with_futexes() {
    handshake(Doorbell::Futex, Doorbell::Futex);
}

#[test]
fn a_connection_is_made_with_eventfds() {
    handshake(Doorbell::Event, Doorbell::Event);
}

#[test]
fn a_connection_is_made_with_one_of_each() {
    handshake(Doorbell::Event, Doorbell::Futex);
    handshake(Doorbell::Futex, Doorbell::Event);
}

#[test]
fn a_segment_with_a_hole_or_without_its_seals_is_refused() {
    use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals};
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let bytes = Shape::default().segment_bytes();
    let mut refused = |what: &str, spoil: &dyn Fn(&OwnedFd)| {
        let (connection, _, own) = client.connect(Doorbell::Futex).unwrap();
        spoil(&own);
        match client.ask(mapped(connection, Doorbell::Futex)) {
            Answer::Error(KernelError::Order(text)) => assert!(text.contains(what), "{text}"),
            other => panic!("{other:?}"),
        }
    };
    let populate = |own: &OwnedFd| _ = rustix::io::write(own, &vec![1; bytes]).unwrap();
    refused("a hole", &|own| fcntl_add_seals(own, SEALS).unwrap());
    refused("a hole", &|own| {
        populate(own);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(own, punch, 4096, 4096).unwrap();
        fcntl_add_seals(own, SEALS).unwrap();
    });
    // Memory beyond the end would make up for a hole before it: there can be none.
    refused("a hole", &|own| {
        let forged = fallocate(own, FallocateFlags::KEEP_SIZE, bytes as u64, bytes as u64);
        assert_eq!(forged, Err(rustix::io::Errno::PERM));
        fcntl_add_seals(own, SEALS).unwrap();
    });
    refused("lacks the seals", &populate);
    refused("lacks the seals", &|own| {
        populate(own);
        fcntl_add_seals(own, SealFlags::SEAL).unwrap();
    });
    // No size but the right one.
    let (_, _, own) = client.connect(Doorbell::Futex).unwrap();
    for size in [0, 4096, 1 << 32] {
        assert_eq!(rustix::fs::ftruncate(&own, size), Err(rustix::io::Errno::PERM));
    }
    // The server never heard of any of them.
    server.slot(Request::CreateEndpoint);
    assert!(server.events.is_empty());
}

#[test]
fn a_file_whose_lock_is_held_holds_up_nobody() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    // Not sealed: that would be for its owner to wait for.
    let (connection, _, own) = client.connect(Doorbell::Futex).unwrap();
    rustix::io::write(&own, &vec![1; Shape::default().segment_bytes()]).unwrap();
    // Linux may not let us.
    let Some(hold) = Hold::of(&own) else { return };
    let refused = client.ask(mapped(connection, Doorbell::Futex));
    assert!(matches!(refused, Answer::Error(KernelError::Order(_))), "{refused:?}");
    // Sealed, and held after that.
    let (connection, _, own) = client.connect(Doorbell::Futex).unwrap();
    let kept = own.try_clone().unwrap();
    let _own = OwnSegment::map(own, Shape::default()).unwrap();
    let again = Hold::of(&kept);
    client.send(&mapped(connection, Doorbell::Futex));
    let (event, descriptors) = server.event();
    assert!(matches!(event, Event::Incoming { .. }));
    PeerSegment::map(descriptors.into_iter().nth(1).unwrap(), Shape::default()).unwrap();
    server.slot(Request::CreateEndpoint);
    drop((hold, again));
}

#[test]
fn a_server_that_dies_is_noticed_by_its_socket() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let service = client.given("service").slot;
    assert_eq!(client.ask(Request::Watch { slot: service }), Answer::Done);
    let (connection, index, own) = client.connect(Doorbell::Futex).unwrap();
    let _own = OwnSegment::map(own, Shape::default()).unwrap();
    let transaction = client.send(&mapped(connection, Doorbell::Futex));
    let (_, descriptors) = server.event();
    let own = descriptors.into_iter().next().unwrap();
    let _own = OwnSegment::map(own, Shape::default()).unwrap();
    server.send(&mapped(connection, Doorbell::Futex));
    assert!(matches!(client.answer(transaction).0, Answer::Connected { .. }));

    drop(server);
    let mut seen = [client.event().0, client.event().0];
    seen.sort_by_key(|event| matches!(event, Event::Watched { .. }));
    assert_eq!(seen[0], Event::Closed { connection, why: Why::Dead });
    assert!(matches!(seen[1], Event::Watched { what: Fate::Gone | Fate::Died { .. }, .. }));
    assert_eq!(client.status.state(index), ConnectionState::Dead);
}

#[test]
fn a_created_task_greets_over_its_inherited_socket() {
    let mut system = System::start();
    let mut first = system.first();
    let endpoint = first.slot(Request::CreateEndpoint);
    let give = vec![Give {
        name: "mine".into(),
        slot: endpoint.slot,
        rights: Rights::SEND,
        badge: None,
        limits: Limits::SAME,
    }];
    let (answer, descriptors) =
        first.ask_for(Request::CreateTask { name: "child".into(), give, quotas: vec![] });
    let Answer::Task { capability, id } = answer else { panic!("{answer:?}") };
    let [inherited] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
    let child = Task::greet(inherited, "another name").unwrap();
    assert_eq!(child.id, id);
    assert_eq!(child.given("mine").object, endpoint.object);

    // SIGURG, which does nothing unless it is caught.
    let slot = capability.slot;
    assert_eq!(first.ask(Request::Kill { slot, signal: 23 }), Answer::Done);

    assert_eq!(first.ask(Request::Watch { slot }), Answer::Done);
    drop(child);
    assert!(matches!(first.event().0, Event::Watched { what: Fate::Died { .. } | Fate::Gone, .. }));
}

#[test]
fn a_created_task_that_never_starts_is_dead_when_its_socket_is_gone() {
    let mut system = System::start();
    let mut first = system.first();
    let request = Request::CreateTask { name: "embryo".into(), give: vec![], quotas: vec![] };
    let (answer, descriptors) = first.ask_for(request);
    let Answer::Task { capability, .. } = answer else { panic!("{answer:?}") };
    let unborn = first.ask(Request::Kill { slot: capability.slot, signal: 9 });
    assert!(matches!(unborn, Answer::Error(_)));
    assert_eq!(first.ask(Request::Watch { slot: capability.slot }), Answer::Done);
    drop(descriptors);
    assert!(matches!(first.event().0, Event::Watched { .. }));
}

#[test]
fn waits_are_listed() {
    let mut system = System::start();
    let mut server = system.server();
    let kernel = server.given("kernel").slot;
    let mut client = system.visitor("client");
    let (_, index, _own) = client.connect(Doorbell::Futex).unwrap();
    let waits = |server: &mut Task| {
        let Answer::Tasks { tasks, .. } = server.ask(Request::List { slot: kernel, from: 0 })
        else {
            panic!()
        };
        tasks.into_iter().find(|task| task.name == "client").unwrap().waits
    };
    assert!(waits(&mut server).is_empty());
    // However many of its threads wait there.
    let wait = Waiting { transaction: Some(0), since_ns: 1, deadline_ns: u64::MAX, taken: false };
    let guards = [client.page.waiting(index, &wait), client.page.waiting(index, &wait)];
    let published = waits(&mut server);
    assert_eq!(published.len(), 1);
    assert_eq!((published[0].on, published[0].name.as_str()), (Some(server.id), "supervisor"));
    drop(guards);
    assert!(waits(&mut server).is_empty());
}

#[test]
fn a_task_page_that_is_not_populated_ends_its_task() {
    let mut system = System::start();
    let socket = knock(&system.path());
    send_frame(&socket, 1, frame::HELLO, &Hello::OURS.to_bytes(), &[], Mode::Wait).unwrap();
    assert!(matches!(answer_of(next(&socket).unwrap()).0, Answer::Welcome { .. }));
    send_frame(&socket, 2, frame::REQUEST, &encode(&Request::PageMapped), &[], Mode::Wait).unwrap();
    while next(&socket).is_some() {}
    system.first();
}

#[test]
fn a_task_that_does_not_read_is_not_read_and_holds_up_nobody() {
    let mut system = System::start();
    let mut first = system.first();
    let mut glutton = system.visitor("glutton");
    // Until neither direction has room.
    let mut asked = 0_u64;
    let payload =
        encode(&Request::Inspect { slot: rendez_protocol::Slot { index: 9, generation: 9 } });
    let full = |task: &Task| {
        let mut waiting = [PollFd::new(&task.socket, PollFlags::OUT)];
        let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        poll(&mut waiting, Some(&moment)).unwrap() == 0
    };
    loop {
        let socket = &glutton.socket;
        if send_frame(socket, 100 + asked, frame::REQUEST, &payload, &[], Mode::Now).is_ok() {
            asked += 1;
        } else if full(&glutton) {
            break;
        }
    }
    assert!(asked > 100);
    for _ in 0..100 {
        first.slot(Request::CreateEndpoint);
    }
    // It reads after all, and every answer is there, in order.
    for transaction in 100..100 + asked {
        let (answer, _) = glutton.answer(transaction);
        assert!(matches!(answer, Answer::Error(KernelError::BadSlot(_))));
    }
    assert!(matches!(glutton.ask(Request::CreateEndpoint), Answer::Slot(_)));
}

#[test]
fn clients_of_a_server_that_does_not_read_are_refused_at_a_bound() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let mut waiting = Vec::new();
    let refused = loop {
        assert!(waiting.len() < 1000, "there is a bound");
        let (connection, _, own) = match client.connect(Doorbell::Event) {
            Ok(connecting) => connecting,
            Err(error) => break Some(error),
        };
        drop(OwnSegment::map(own, Shape::default()).unwrap());
        let transaction = client.send(&mapped(connection, Doorbell::Event));
        // Refused at once or not at all before the server reads: a request that is answered after
        // it shows which.
        let probe = client.send(&Request::CreateEndpoint);
        let frame = next(&client.socket).unwrap();
        if frame.transaction == transaction {
            let (answer, _) = answer_of(frame);
            assert!(matches!(client.answer(probe).0, Answer::Slot(_)));
            match answer {
                Answer::Error(error) => break Some(error),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(frame.transaction, probe);
        waiting.push(connection);
    };
    assert!(
        matches!(refused, Some(KernelError::NotCompleted(Why::Quota) | KernelError::Quota { .. })),
        "{refused:?}"
    );
    assert!(waiting.len() >= 64, "{}", waiting.len());
    // Half of them go again; of those that it has not been told of, the server never hears.
    let kept = waiting.split_off(waiting.len() / 2);
    for connection in &waiting {
        let transaction =
            client.send(&Request::Disconnect { connection: *connection, why: Why::Closed });
        // The request that waited for the connection is answered too.
        let frames = [next(&client.socket).unwrap(), next(&client.socket).unwrap()];
        assert!(frames.iter().any(|frame| frame.transaction == transaction));
    }
    let mut incoming = Vec::new();
    let mut closed = Vec::new();
    // Whatever it was told of and is gone is told to be closed, after that.
    while !kept.iter().all(|connection| incoming.contains(connection))
        || incoming.len() > kept.len() + closed.len()
    {
        match server.event() {
            (Event::Incoming { connection, .. }, descriptors) => {
                assert_eq!(descriptors.len(), 4);
                incoming.push(connection);
            }
            (Event::Closed { connection, .. }, _) => closed.push(connection),
            (other, _) => panic!("{other:?}"),
        }
    }
    assert!(closed.len() < 8, "told of few that were gone already: {}", closed.len());
    server.slot(Request::CreateEndpoint);
}

#[test]
fn silent_processes_do_not_shut_the_front_door() {
    let mut system = System::start();
    let silent: Vec<_> = (0..100).map(|_| knock(&system.path())).collect();
    let mut visitor = system.visitor("visitor");
    visitor.slot(Request::CreateEndpoint);
    // Who came first had to go; who came last can still greet.
    assert!(next(&silent[0]).is_none());
    Task::greet(silent.into_iter().next_back().unwrap(), "late").unwrap();
    system.first().slot(Request::CreateEndpoint);
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
}

fn hello_packet() -> Vec<u8> {
    let greeting = Hello::OURS.to_bytes();
    let mut packet = rendez_ipc_core::control::prefix(1, frame::HELLO, greeting.len()).to_vec();
    packet.extend_from_slice(&greeting);
    packet
}

#[test]
fn closing_what_lingers_takes_long() {
    // What the next two tests rest on. More than once: a process that another test is starting just
    // now may hold a copy for a moment, and then this close is not the last.
    let slow = (0..5).any(|_| {
        let (sender, _receiver) = lingering(1);
        let started = Instant::now();
        drop(sender);
        started.elapsed() >= Duration::from_millis(900)
    });
    assert!(slow);
}

#[test]
fn descriptors_sent_to_the_kernel_hold_up_nobody() {
    // They are sent before the kernel starts, so that the kernel has the last copies: closing these
    // takes longer than anybody here is patient.
    let mut early = Vec::new();
    let mut receivers = Vec::new();
    let mut system = System::start_with(true, |path, _| {
        for _ in 0..2 {
            let (slow, receiver) = lingering(120);
            let socket = knock(path);
            send_with(&socket, &hello_packet(), &[slow.as_fd()]).unwrap();
            early.push(socket);
            receivers.push(receiver);
        }
    });
    for socket in &early {
        assert!(next(socket).is_none(), "without an answer");
    }
    let mut first = system.first();
    for _ in 0..200 {
        first.slot(Request::CreateEndpoint);
    }
    // Not only in a greeting.
    let (harmless, _other) = socket_pair().unwrap();
    let late = system.visitor("late");
    send_with(&late.socket, &hello_packet(), &[harmless.as_fd()]).unwrap();
    assert!(late.is_ended());
    system.visitor("another").slot(Request::CreateEndpoint);
    first.slot(Request::CreateEndpoint);
}

#[test]
fn an_inherited_socket_with_descriptors_in_it_holds_up_nobody() {
    let mut receivers = Vec::new();
    let mut system = System::start_with(true, |_, first| {
        let (slow, receiver) = lingering(120);
        send_with(first, &hello_packet(), &[slow.as_fd()]).unwrap();
        receivers.push(receiver);
    });
    let mut visitor = system.visitor("visitor");
    visitor.slot(Request::CreateEndpoint);
    assert!(next(&system.first.take().unwrap()).is_none());
    visitor.slot(Request::CreateEndpoint);
}

#[test]
fn linux_refuses_descriptors_at_their_sender_where_it_can() {
    let mut system = System::start();
    let mut first = system.first();
    let visitor = system.visitor("visitor");
    let (harmless, _other) = socket_pair().unwrap();
    let sent = send_with(&visitor.socket, &hello_packet(), &[harmless.as_fd()]);
    let early = knock(&system.path());
    let greeting = send_with(&early, &hello_packet(), &[harmless.as_fd()]);
    assert_eq!(greeting.is_err(), sent.is_err());
    match sent {
        Err(error) => assert_eq!(error, rustix::io::Errno::PERM),
        // An older Linux: it ends the sender.
        Ok(_) => assert!(visitor.is_ended()),
    }
    first.slot(Request::CreateEndpoint);
}

/// Not a test by itself: what the next one starts as another user.
#[test]
fn stranger() {
    let Some(path) = std::env::var_os("RENDEZ_TEST_STRANGER") else { return };
    match Task::greet(knock(Path::new(&path)), "").map(drop) {
        Err(KernelError::Denied(_)) => println!("stranger denied"),
        other => println!("stranger {other:?}"),
    }
}

/// Needs root, to become somebody else.
#[test]
fn another_user_is_refused_at_the_front_door() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let system = System::start();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(system.directory.path());
    open(&system.path());
    // A copy, since the way to this program may be closed to others. Another process writes it: Linux
    // refuses to execute what any process has open for writing, such as a child that another test's
    // thread has started and that is not its own program yet.
    let program = system.directory.path().join("program");
    let this = std::env::current_exe().unwrap();
    let copied = std::process::Command::new("cp").arg(this).arg(&program).status().unwrap();
    assert!(copied.success(), "{copied}");
    let output = std::process::Command::new(program)
        .args(["--exact", "stranger", "--nocapture"])
        .env("RENDEZ_TEST_STRANGER", system.path())
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("stranger denied"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Not a test by itself: what the next one starts, with a kernel socket in place of its input.
#[test]
fn created() {
    let Ok(what) = std::env::var("RENDEZ_TEST_CREATED") else { return };
    let task = Task::greet(std::io::stdin().as_fd().try_clone_to_owned().unwrap(), "").unwrap();
    match what.as_str() {
        "rubbish" => _ = rustix::net::send(&task.socket, b"short", SendFlags::empty()).unwrap(),
        "long" => _ = rustix::net::send(&task.socket, &[0; 100_000], SendFlags::empty()).unwrap(),
        _ => rustix::net::shutdown(&task.socket, rustix::net::Shutdown::Both).unwrap(),
    }
    // One that leaves goes on for a while, and ends as it likes.
    std::thread::sleep(if what == "leaves" { Duration::from_millis(300) } else { PATIENCE });
}

#[test]
fn a_created_task_that_is_given_up_is_killed_and_one_that_leaves_is_not() {
    use std::os::unix::process::ExitStatusExt;
    let mut system = System::start();
    let mut first = system.first();
    for (what, killed) in [("rubbish", Some(9)), ("long", Some(9)), ("leaves", None)] {
        let request = Request::CreateTask { name: what.into(), give: vec![], quotas: vec![] };
        let (answer, descriptors) = first.ask_for(request);
        let Answer::Task { capability, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(first.ask(Request::Watch { slot: capability.slot }), Answer::Done);
        let [inherited] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "created"])
            .env("RENDEZ_TEST_CREATED", what)
            .stdin(std::process::Stdio::from(inherited))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        assert!(matches!(first.event().0, Event::Watched { .. }));
        assert_eq!(child.wait().unwrap().signal(), killed, "{what}");
    }
}

/// Not a test by itself: what the next one starts in a process of its own.
#[test]
fn child() {
    let Some(path) = std::env::var_os("RENDEZ_TEST_FRONT_DOOR") else { return };
    let task = Task::greet(knock(Path::new(&path)), "mother").unwrap();
    // A descendant that keeps the socket open and knows nothing of it.
    rustix::io::fcntl_setfd(&task.socket, rustix::io::FdFlags::empty()).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    println!("child {}", child.id());
    std::io::stdout().flush().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_process_is_dead_though_its_child_keeps_the_socket() {
    use std::io::BufRead;
    let mut system = System::start();
    let mut server = system.server();
    let kernel = server.given("kernel").slot;
    let mut mother = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("RENDEZ_TEST_FRONT_DOOR", system.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(mother.stdout.take().unwrap());
    let grandchild = output
        .lines()
        .find_map(|line| line.unwrap().rsplit_once("child ").and_then(|(_, pid)| pid.parse().ok()))
        .expect("the child has started");
    let names = |server: &mut Task| {
        let Answer::Tasks { tasks, .. } = server.ask(Request::List { slot: kernel, from: 0 })
        else {
            panic!()
        };
        tasks.into_iter().map(|task| task.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut server), ["supervisor", "mother"]);
    mother.kill().unwrap();
    mother.wait().unwrap();
    let started = Instant::now();
    while names(&mut server) != ["supervisor"] {
        assert!(started.elapsed() < PATIENCE, "the kernel has not noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    let grandchild = rustix::process::Pid::from_raw(grandchild).unwrap();
    rustix::process::kill_process(grandchild, rustix::process::Signal::KILL)
        .expect("the grandchild was alive all the time");
}
