//! The kernel's sockets: frames that are none, descriptors that nobody asked for, floods at the
//! front door.

use crate::attacker::Hostile;
use crate::common::raw::{RawTask, next};
use crate::common::{Role, raise_descriptor_limit};
use rendez::protocol::kernel::{Answer, Hello, KernelError, Request, frame};
use rendez::protocol::limit::FRAME_BYTES_MAX;
use rendez::protocol::{Version, decode, encode};
use rendez_ipc_core::control::{Mode, prefix, send_frame};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, send, sendmsg, shutdown,
    sockopt,
};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

fn plain(socket: &OwnedFd, packet: &[u8]) {
    send(socket, packet, SendFlags::NOSIGNAL).unwrap();
}

pub(crate) fn frame_cut_short(hostile: &mut Hostile) {
    plain(&hostile.task.socket, b"short");
    std::thread::park();
}

pub(crate) fn frame_of_nothing(hostile: &mut Hostile) {
    plain(&hostile.task.socket, b"");
    std::thread::park();
}

pub(crate) fn frame_too_long(hostile: &mut Hostile) {
    plain(&hostile.task.socket, &vec![0; FRAME_BYTES_MAX + 1]);
    std::thread::park();
}

pub(crate) fn frame_whose_length_lies(hostile: &mut Hostile) {
    for said in [0, 4, 6, 1 << 20] {
        let mut lie = prefix(77, frame::REQUEST, said).to_vec();
        lie.extend_from_slice(b"rest!");
        plain(&hostile.task.socket, &lie);
        let answer = next(&hostile.task.socket).unwrap();
        let answer = decode(&answer.payload).unwrap();
        assert!(matches!(answer, Answer::Error(KernelError::Malformed(_))), "{answer:?}");
    }
}

pub(crate) fn greeting_again(hostile: &mut Hostile) {
    for payload in [&Hello::OURS.to_bytes()[..], b"", b"GET / HTTP/1.1"] {
        let socket = &hostile.task.socket;
        send_frame(socket, 78, frame::HELLO, payload, &[], Mode::Wait).unwrap();
        let answer = decode(&next(socket).unwrap().payload).unwrap();
        assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
    }
}

pub(crate) fn greeting_of_another_version(socket: OwnedFd, _: &Role) {
    let refused = RawTask::greet(socket, Hello { version: Version::new(9, 9) });
    assert!(matches!(refused.err(), Some(KernelError::Protocol { .. })));
}

pub(crate) fn request_instead_of_a_greeting(socket: OwnedFd, _: &Role) {
    let request = encode(&Request::CreateEndpoint);
    send_frame(&socket, 1, frame::REQUEST, &request, &[], Mode::Wait).unwrap();
    let answer = decode(&next(&socket).unwrap().payload).unwrap();
    assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
    std::thread::park();
}

pub(crate) fn rubbish_at_the_front_door(hostile: &mut Hostile) {
    for packet in
        [&b""[..], b"x", b"GET / HTTP/1.1\r\n\r\n", &[0; 24], &[0xff; 24], &[0xff; 60_000]]
    {
        let socket = hostile.knock();
        plain(&socket, packet);
        // An error, or its end.
        if let Some(answer) = next(&socket) {
            let answer = decode(&answer.payload).unwrap();
            assert!(matches!(answer, Answer::Error(_)), "{answer:?}");
        }
    }
}

pub(crate) fn silent_at_the_front_door(hostile: &mut Hostile) {
    let silent: Vec<_> = (0..300).map(|_| hostile.knock()).collect();
    // Who came first had to go.
    assert!(next(&silent[0]).is_none());
    let door = hostile.door();
    std::thread::spawn(move || {
        let mut silent = silent;
        // And goes on for as long as it lives.
        for number in (0..300).cycle() {
            silent[number] = crate::common::raw::knock(&door);
        }
    });
    std::thread::sleep(Duration::from_millis(100));
}

pub(crate) fn tasks_through_the_front_door(hostile: &mut Hostile) {
    raise_descriptor_limit();
    let mut tasks = Vec::new();
    for _ in 0..100 {
        match RawTask::greet(hostile.knock(), Hello::OURS) {
            Ok(task) => tasks.push(task),
            Err(KernelError::Quota { .. }) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    std::mem::forget(tasks);
}

pub(crate) fn labels_to_confuse_people(hostile: &mut Hostile) {
    let mut sockets = Vec::new();
    for label in ["supervisor\x1b[2J\r\n".as_bytes(), &[0xff; 40], &[b'a'; 60_000], b"   "] {
        let socket = hostile.knock();
        let mut greeting = Hello::OURS.to_bytes().to_vec();
        greeting.extend_from_slice(label);
        send_frame(&socket, 1, frame::HELLO, &greeting, &[], Mode::Wait).unwrap();
        let answer = decode(&next(&socket).unwrap().payload).unwrap();
        assert!(matches!(answer, Answer::Welcome { .. }), "{answer:?}");
        sockets.push(socket);
    }
    std::mem::forget(sockets);
}

pub(crate) fn answers_with_nowhere_to_go(hostile: &mut Hostile) {
    // As little room as Linux allows.
    sockopt::set_socket_recv_buffer_size(&hostile.task.socket, 1).unwrap();
    for _ in 0..200 {
        hostile.task.endpoint();
    }
}

pub(crate) fn deaf(hostile: &mut Hostile) {
    // Nothing is to be heard any more, and answers cannot be sent.
    shutdown(&hostile.task.socket, Shutdown::Read).unwrap();
    let ask = encode(&Request::CreateEndpoint);
    let _ = send_frame(&hostile.task.socket, 9, frame::REQUEST, &ask, &[], Mode::Now);
    std::thread::park();
}

pub(crate) fn mute(hostile: &mut Hostile) {
    shutdown(&hostile.task.socket, Shutdown::Write).unwrap();
    std::thread::park();
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
}

/// Sends descriptors with a request, and with a greeting at the front door. Linux refuses them at
/// the sender where it can (6.16); else their sender is ended.
fn uninvited(hostile: &mut Hostile, descriptors: &[BorrowedFd<'_>]) {
    let mut greeting = prefix(1, frame::HELLO, 8).to_vec();
    greeting.extend_from_slice(&Hello::OURS.to_bytes());
    let payload = encode(&Request::CreateEndpoint);
    let mut question = prefix(9, frame::REQUEST, payload.len()).to_vec();
    question.extend_from_slice(&payload);
    let early = hostile.knock();
    let visitor = RawTask::greet(hostile.knock(), Hello::OURS).unwrap();
    let own = send_with(&hostile.task.socket, &question, descriptors);
    match send_with(&early, &greeting, descriptors) {
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::PERM);
            assert_eq!(send_with(&visitor.socket, &question, descriptors), Err(error));
            assert_eq!(own, Err(error));
        }
        Ok(_) => {
            assert!(next(&early).is_none());
            send_with(&visitor.socket, &question, descriptors).unwrap();
            while next(&visitor.socket).is_some() {}
            // The kernel kills the task that it has made.
            own.unwrap();
            std::thread::park();
        }
    }
}

pub(crate) fn descriptor_that_lingers(hostile: &mut Hostile) {
    // Its last close takes longer than anybody here is patient. Our own copy must not be the last.
    let (slow, receiver) = lingering(1000);
    uninvited(hostile, &[slow.as_fd(), slow.as_fd()]);
    sockopt::set_socket_linger(&slow, None).unwrap();
    drop(receiver);
}

pub(crate) fn descriptors_of_every_kind(hostile: &mut Hostile) {
    use rustix::event::{EventfdFlags, epoll, eventfd};
    use rustix::fs::{CWD, MemfdFlags, Mode as Bits, OFlags, memfd_create, openat};
    let (pipe, other) = rustix::pipe::pipe().unwrap();
    let all = [
        pipe,
        other,
        eventfd(u32::MAX, EventfdFlags::empty()).unwrap(),
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
        memfd_create("rubbish", MemfdFlags::CLOEXEC).unwrap(),
        openat(CWD, "/", OFlags::DIRECTORY, Bits::empty()).unwrap(),
        openat(CWD, "/dev/zero", OFlags::RDWR, Bits::empty()).unwrap(),
        openat(CWD, "/", OFlags::PATH, Bits::empty()).unwrap(),
        rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap(),
        // Its kernel socket, which then would keep itself open.
        hostile.task.socket.try_clone().unwrap(),
        hostile.knock(),
    ];
    for one in &all {
        uninvited(hostile, &[one.as_fd()]);
    }
    let many = vec![all[0].as_fd(); 253];
    uninvited(hostile, &many);
}

pub(crate) fn one_socket_for_two_processes(hostile: &mut Hostile) {
    // A child that has the socket too, and speaks over it as anybody does.
    let socket = hostile.task.socket.try_clone().unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", "printf 'rubbish of a child, long enough'; printf rubbish"])
        .stdout(socket)
        .spawn();
    child.unwrap().wait().unwrap();
    std::thread::park();
}
