//! Both ends of a connection over real segments, in one process: what the models do not reach
//! (long payloads, many transactions, the clock).

use rendez_ipc_core::client::{ClientEnd, NEVER, SendError};
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::{Host, HostBell, HostStatus, Platform};
use rendez_ipc_core::receive::{Receiver, Turn};
use rendez_ipc_core::ring::{Buffer, Fault};
use rendez_ipc_core::segment::{OwnSegment, PeerSegment, SEALS};
use rendez_ipc_core::server::{Found, ServerEnd, Taken};
use rendez_ipc_core::status::{PAGE_BYTES, PageWriter, StatusReader, StatusWriter, memory_file};
use rendez_ipc_core::wait::Wait;
use rendez_protocol::kernel::Shape;
use rendez_protocol::status::{ConnectionState, Status, Why};
use rustix::event::EventfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;
use std::sync::Arc;

struct Pair {
    client: ClientEnd<Host>,
    server: ServerEnd<Host>,
    kernel: StatusWriter,
    _socket: OwnedFd,
}

fn segment(shape: Shape) -> (Ours<Host>, Theirs<Host>) {
    let file = memory_file("test", shape.segment_bytes()).expect("a memfd");
    let other = file.try_clone().expect("a duplicate");
    let own = OwnSegment::map(file, shape).expect("a segment");
    // Already sealed by its owner, if that is whose part it is.
    let _ = rustix::fs::fcntl_add_seals(&other, SEALS);
    (Ours::over(own), Theirs::over(PeerSegment::map(other, shape).expect("a sealed segment")))
}

fn pair(requests: Shape, replies: Shape) -> Pair {
    let mut kernel = StatusWriter::new().expect("a status segment");
    let file = kernel.take_file().expect("not taken yet");
    let reader = Arc::new(StatusReader::map(file).expect("a sealed status segment"));
    let page = memory_file("page", PAGE_BYTES).expect("a memfd");
    let page = Arc::new(PageWriter::map(page).expect("a page"));
    let (socket, other) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket pair");
    let socket = Arc::new(socket);
    let status = |index| {
        HostStatus::new(reader.clone(), page.clone(), socket.clone(), index).expect("a word")
    };
    let (client_ours, server_theirs) = segment(requests);
    let (server_ours, client_theirs) = segment(replies);
    Pair {
        client: ClientEnd::new(
            client_ours,
            client_theirs,
            status(1),
            HostBell::Futex,
            7,
            Wait::Block,
        ),
        server: ServerEnd::new(server_ours, server_theirs, status(2), HostBell::Futex, u64::MAX),
        kernel,
        _socket: other,
    }
}

fn default_pair() -> Pair {
    pair(Shape::default(), Shape::default())
}

fn receive(server: &mut ServerEnd<Host>, out: &mut Buffer) -> Taken {
    match server.receive(out) {
        Ok(Found::Message(taken)) => taken,
        other => panic!("no message: {other:?}"),
    }
}

#[test]
fn payloads_of_every_length_cross_both_ways_and_wrap() {
    let Pair { mut client, mut server, .. } = default_pair();
    let most = client.request_bytes_max();
    let bytes: Vec<u8> = (0..most).map(|at| (at * 31 / 8) as u8).collect();
    let (mut request, mut reply) = (Buffer::new(), Buffer::new());
    let lengths = [0, 1, 7, 8, 39, 40, 41, 63, 64, 65, 104, 105, 1000, 4096, 5000, most - 1, most];
    for length in lengths.into_iter().cycle().take(400) {
        let payload = &bytes[..length];
        let sent = client.begin(3, payload, length, NEVER).expect("room");
        let taken = receive(&mut server, &mut request);
        assert_eq!((taken.operation, &*request), (3, payload));
        server.port().reply(&taken, Status::OK, payload);
        assert_eq!(client.poll(sent, &mut reply), Some(Ok(Status::OK)));
        assert_eq!(&*reply, payload);
    }
}

#[test]
fn what_does_not_fit_is_told_before_it_is_sent() {
    let Pair { mut client, server, .. } = default_pair();
    let too_big = Err(SendError::NotDelivered { why: Why::TooBig });
    let long = vec![0; client.request_bytes_max() + 1];
    assert_eq!(client.begin(1, &long, 0, NEVER), too_big);
    assert_eq!(client.begin(1, &[], client.reply_bytes_max() + 1, NEVER), too_big);
    drop(server);
}

#[test]
fn a_reply_longer_than_its_room_is_told_as_too_big() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    let sent = client.begin(1, &[], 100, NEVER).expect("room");
    let taken = receive(&mut server, &mut out);
    server.port().reply(&taken, Status::OK, &[0; 2000]);
    assert_eq!(
        client.poll(sent, &mut out),
        Some(Err(SendError::Interrupted { why: Why::TooBig, generation: 7 }))
    );
}

#[test]
fn a_server_that_replies_more_than_there_is_room_for_breaks_the_protocol() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    let sent = client.begin(1, &[], 0, NEVER).expect("room");
    let taken = receive(&mut server, &mut out);
    server.port().reply(&Taken { room: 10, ..taken }, Status::OK, &[0; 500]);
    let told = client.poll(sent, &mut out);
    assert_eq!(told, Some(Err(SendError::Interrupted { why: Why::Protocol, generation: 7 })));
    assert!(matches!(client.fault(), Some(Fault::Length { .. })));
    // From now on nothing is sent.
    assert_eq!(client.begin(1, &[], 0, NEVER), Err(SendError::NotDelivered { why: Why::Protocol }));
}

#[test]
fn a_reply_to_nothing_breaks_the_protocol() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    let sent = client.begin(1, &[], 0, NEVER).expect("room");
    let taken = receive(&mut server, &mut out);
    server.port().reply(&Taken { transaction: 5, ..taken }, Status::OK, &[]);
    let told = client.poll(sent, &mut out);
    assert_eq!(told, Some(Err(SendError::Interrupted { why: Why::Protocol, generation: 7 })));
    assert_eq!(client.fault(), Some(Fault::Transaction(5)));
}

/// A transaction that stays unanswered holds one line of the server's ring and nothing else: others
/// go on for many laps, and it is answered in the end.
#[test]
fn a_transaction_that_waits_for_long_stops_nobody() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    let long = client.begin(1, b"long", 8, NEVER).expect("room");
    let kept = receive(&mut server, &mut out);
    for n in 0..1000u64 {
        let sent = client.begin(2, &n.to_le_bytes(), 8, NEVER).expect("room");
        let taken = receive(&mut server, &mut out);
        let request = out.to_vec();
        server.port().reply(&taken, Status::OK, &request);
        assert_eq!(client.poll(sent, &mut out), Some(Ok(Status::OK)));
        assert_eq!(*out, n.to_le_bytes());
    }
    server.port().reply(&kept, Status::OK, b"at last");
    assert_eq!(client.poll(long, &mut out), Some(Ok(Status::OK)));
    assert_eq!(&*out, b"at last");
}

/// Replies that nobody asks for are bounded: then it is the caller who is told `Full`.
#[test]
fn replies_that_are_not_taken_are_bounded() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    let mut begun = Vec::new();
    let full = loop {
        match client.begin_waiting(1, &[], 0, Host::now() + 50_000_000) {
            Ok(sent) => begun.push(sent),
            Err(error) => break error,
        }
        let taken = receive(&mut server, &mut out);
        server.port().reply(&taken, Status::OK, &[]);
        assert!(begun.len() < 1000, "without end");
    };
    assert_eq!(full, SendError::NotDelivered { why: Why::Full });
    for sent in begun {
        assert_eq!(client.poll(sent, &mut out), Some(Ok(Status::OK)));
    }
    assert!(client.begin(1, &[], 0, NEVER).is_ok());
}

/// A client that does not read its replies is not received from, and its requests are not lost.
#[test]
fn a_request_whose_reply_has_no_room_waits_for_it() {
    let small = Shape { lines: 4, area_bytes: 4096 };
    let Pair { mut client, mut server, .. } = pair(Shape::default(), small);
    let mut out = Buffer::new();
    let first = client.begin(1, &[], 4000, NEVER).expect("room");
    // The client's own account says that there is no room; it is the honest end.
    assert_eq!(client.begin(1, &[], 4000, NEVER), Err(SendError::NotDelivered { why: Why::Full }));
    let taken = receive(&mut server, &mut out);
    server.port().reply(&taken, Status::OK, &[9; 4000]);
    assert_eq!(client.poll(first, &mut out), Some(Ok(Status::OK)));
    assert_eq!(*out, [9; 4000]);
    assert!(client.begin(1, &[], 4000, NEVER).is_ok());
}

/// Withdrawing is exact against a server that has not looked, and the line is used again.
#[test]
fn withdrawn_messages_are_not_run_one_at_a_time() {
    let Pair { mut client, mut server, .. } = default_pair();
    let mut out = Buffer::new();
    for _ in 0..3 {
        let sent = client.begin(1, &[], 0, NEVER).expect("room");
        assert_eq!(
            client.withdraw(sent, Why::Cancelled, &mut out),
            Err(SendError::NotDelivered { why: Why::Cancelled })
        );
    }
    // One for each look, so that whoever withdraws everything does not hold the thread.
    for _ in 0..3 {
        assert!(server.is_ready());
        assert_eq!(server.receive(&mut out), Ok(Found::Nothing));
    }
    assert!(!server.is_ready());
    let sent = client.begin(1, &[], 0, NEVER).expect("room");
    let taken = receive(&mut server, &mut out);
    server.port().reply(&taken, Status::OK, &[]);
    assert_eq!(client.poll(sent, &mut out), Some(Ok(Status::OK)));
    assert_eq!(client.counts().late, 3);
}

/// A notification that nobody has taken does not keep a waiting send from sleeping.
#[test]
fn a_send_sleeps_beside_a_pending_notification() {
    let Pair { mut client, server, .. } = default_pair();
    server.port().post(1);
    let mut out = Buffer::new();
    let deadline = Host::now() + 50_000_000;
    assert_eq!(
        client.send(1, &[], 0, deadline, &mut out),
        Err(SendError::NotDelivered { why: Why::Deadline })
    );
    assert!(client.counts().sleeps > 0, "it spun for the whole time");
    assert_eq!(client.wait_notifications(deadline), Ok(1));
}

/// Without a kernel nobody tells of deaths: a sender without a deadline finds out by itself.
#[test]
fn a_sender_without_a_deadline_notices_that_the_kernel_is_gone() {
    let Pair { mut client, server, _socket, .. } = default_pair();
    drop(_socket);
    let mut out = Buffer::new();
    assert_eq!(
        client.send(1, &[], 0, NEVER, &mut out),
        Err(SendError::NotDelivered { why: Why::Closed })
    );
    drop(server);
}

#[test]
fn the_end_of_a_connection_wakes_a_sleeping_sender_and_names_the_incarnation() {
    let Pair { mut client, mut server, mut kernel, _socket } = default_pair();
    let mut out = Buffer::new();
    let sent = client.begin(1, &[], 0, NEVER).expect("room");
    receive(&mut server, &mut out);
    let waiting = std::thread::spawn(move || client.wait(sent, &mut Buffer::new(), NEVER));
    kernel.set(1, ConnectionState::Dead as u32);
    assert_eq!(
        waiting.join().expect("no panic"),
        Err(SendError::Interrupted { why: Why::Dead, generation: 7 })
    );
}

/// Reproduces: a reply that was taken in before the peer's mistake was found was told of without end.
#[test]
fn each_transaction_of_an_ended_connection_is_told_of_once_whatever_the_peer_did_last() {
    let Pair { mut client, mut server, mut kernel, .. } = default_pair();
    let mut out = Buffer::new();
    let [first, second] = [(); 2].map(|()| client.begin(1, &[], 8, NEVER).expect("room"));
    let [_, taken] = [(); 2].map(|()| receive(&mut server, &mut out));
    server.port().reply(&taken, Status::OK, b"honest");
    server.port().reply(&Taken { transaction: 5, ..taken }, Status::OK, &[]);
    kernel.set(1, ConnectionState::Dead as u32);
    let told = client.next_of_ended(&mut out).expect("two are in flight");
    let interrupted = Err(SendError::Interrupted { why: Why::Dead, generation: 7 });
    assert_eq!((told.transaction, told.result), (first, interrupted));
    assert_eq!((client.fault(), client.in_flight()), (Some(Fault::Transaction(5)), 1));
    let told = client.next_of_ended(&mut out).expect("one is left");
    assert_eq!((told.transaction, told.result, &*out), (second, Ok(Status::OK), &b"honest"[..]));
    assert_eq!((client.next_of_ended(&mut out), client.in_flight()), (None, 0));
}

/// Reproduces: while messages of a priority came without a pause, a connection without any was looked
/// at before each of them, and never became quiet.
#[test]
fn priorities_do_not_keep_a_connection_awake_in_which_nothing_happens() {
    let eventfd = || {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        rustix::event::eventfd(0, flags).expect("an eventfd")
    };
    let mut receiver = Receiver::new(Wait::Block, None).expect("epoll");
    let Pair { client: mut busy, server, .. } = default_pair();
    let busy_key = receiver.add(server, eventfd()).expect("epoll");
    let Pair { client: mut idle, server, .. } = default_pair();
    let idle_key = receiver.add(server, eventfd()).expect("epoll");
    busy.set_priority(1);
    let mut out = Buffer::new();
    let mut ordered = |receiver: &mut Receiver, out: &mut Buffer| {
        let sent = busy.begin(1, &[], 0, NEVER).expect("room");
        let Ok(Turn::Message(key, taken)) = receiver.next(out, NEVER) else { panic!("a message") };
        assert_eq!(key, busy_key);
        receiver.port(key).expect("its port").reply(&taken, Status::OK, &[]);
        assert_eq!(busy.poll(sent, out), Some(Ok(Status::OK)));
    };
    assert_eq!(receiver.polled(), 2);
    for _ in 0..1000 {
        ordered(&mut receiver, &mut out);
    }
    assert_eq!(receiver.polled(), 1, "it is quiet");
    let sent = idle.begin(1, &[], 0, NEVER).expect("room");
    assert!(idle.counts().rings > 0, "it is to be rung");
    receiver.rouse(idle_key);
    let Ok(Turn::Message(key, taken)) = receiver.next(&mut out, NEVER) else { panic!("a message") };
    assert_eq!(key, idle_key);
    receiver.port(key).expect("its port").reply(&taken, Status::OK, &[]);
    assert_eq!(idle.poll(sent, &mut out), Some(Ok(Status::OK)));
}
