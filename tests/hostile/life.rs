//! Ends: at each step of a handshake, a transaction, an offer; by exec, by fork, by both; standing
//! still; going on without a task.

use crate::attacker::{Hostile, honest, question, reply_to};
use crate::common::Role;
use crate::common::raw::{Memory, at, fork_a_sleeper, offer, request};
use crate::victim::{ACCEPT, ECHO, KEEP};
use rendez::Rights;
use rendez::protocol::encode;
use rendez::protocol::kernel::{Answer, Doorbell, Event, Hello, Request, Shape, Travel, frame};
use rendez_ipc_core::control::{Mode, send_frame};
use rendez_ipc_core::status::SEALS;
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;

/// Ends as suddenly as can be.
fn die() -> ! {
    signal(Signal::KILL)
}

/// Stands still, and never moves again by itself.
fn stop() -> ! {
    signal(Signal::STOP)
}

fn signal(signal: Signal) -> ! {
    rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
    // It may reach another thread first.
    loop {
        std::thread::park();
    }
}

pub(crate) fn dies_before_it_greets(socket: OwnedFd, _: &Role) {
    // Its parent has no copy.
    let _socket = socket;
    die();
}

pub(crate) fn dies_before_it_is_welcome(socket: OwnedFd, _: &Role) {
    send_frame(&socket, 1, frame::HELLO, &Hello::OURS.to_bytes(), &[], Mode::Wait).unwrap();
    die();
}

pub(crate) fn dies_while_it_connects(hostile: &mut Hostile) {
    let slot = hostile.victim();
    hostile.task.begin_to_connect(slot).unwrap();
    die();
}

pub(crate) fn dies_once_it_is_mapped(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let (connection, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    let _own = Memory::own(&own, Shape::default());
    hostile.task.send(&Request::Mapped { connection, doorbell: Doorbell::Futex });
    die();
}

pub(crate) fn dies_in_the_middle_of_a_message(hostile: &mut Hostile) {
    let connection = hostile.connect();
    connection.own.store_bytes(connection.own.line(0) + 8, &[7; 16]);
    die();
}

pub(crate) fn dies_with_a_message_on_its_way(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    connection.publish(request(ECHO, 64), b"last words");
    die();
}

pub(crate) fn dies_with_its_answer_owed(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    for _ in 0..10 {
        connection.publish(request(KEEP, 64), b"to be answered later");
    }
    honest_on_another(hostile);
    die();
}

/// By when the victim has seen what was sent before.
fn honest_on_another(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
}

pub(crate) fn dies_while_it_attaches(hostile: &mut Hostile) {
    let connection = hostile.connect().id;
    let attach = Request::Attach { connection, requests: 1 << 20, replies: 1 << 20 };
    let (Answer::Attaching { arena, .. }, files) = hostile.task.ask(&attach) else { panic!() };
    rustix::io::pwrite(&files[0], &vec![1; 1 << 20], 0).unwrap();
    rustix::fs::fcntl_add_seals(&files[0], SEALS).unwrap();
    hostile.task.send(&Request::ArenaMapped { connection, arena });
    die();
}

pub(crate) fn dies_with_an_offer_on_its_way(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let slot = hostile.task.endpoint().slot;
    for travel in [Travel::Mint, Travel::Move] {
        let offer = offer(connection.id, slot, Rights::SEND, travel);
        let Answer::Ticket(ticket) = hostile.task.ask(&offer).0 else { panic!() };
        connection.publish(request(ACCEPT, 64), &encode(&ticket));
    }
    die();
}

pub(crate) fn dies_as_a_server_told_of_a_client(hostile: &mut Hostile) {
    hostile.serve();
    let (event, _) = hostile.task.event();
    assert!(matches!(event, Event::Incoming { .. }));
    die();
}

pub(crate) fn dies_as_a_server_before_it_takes(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    die();
}

pub(crate) fn dies_as_a_server_once_it_has_taken(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    die();
}

pub(crate) fn dies_as_a_server_once_it_has_replied(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    connection.own.publish(0, reply_to(0), b"and nobody is rung");
    die();
}

pub(crate) fn execs(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    panic!("{}", sleep().exec());
}

/// What sleeps, and says nothing to whoever listens to the assistant.
fn sleep() -> std::process::Command {
    let mut command = std::process::Command::new("sleep");
    command.arg("120").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    command
}

pub(crate) fn leaves_its_socket_to_a_child(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    rustix::io::fcntl_setfd(&hostile.task.socket, rustix::io::FdFlags::empty()).unwrap();
    // A descendant that keeps the socket too, and knows nothing of it.
    let mut child = sleep().spawn().unwrap();
    hostile.role.say(format!("child {} ", child.id()));
    if child.try_wait().unwrap().is_none() {
        die();
    }
}

pub(crate) fn forks_and_execs(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    // The library would have the child let go of the socket.
    let child = fork_a_sleeper();
    hostile.role.say(format!("child {child} "));
    hostile.role.say("done");
    panic!("{}", sleep().exec());
}

pub(crate) fn forks_and_dies(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    hostile.role.say(format!("child {} ", fork_a_sleeper()));
    die();
}

pub(crate) fn leaves_and_goes_on_writing(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    rustix::net::shutdown(&hostile.task.socket, rustix::net::Shutdown::Both).unwrap();
    loop {
        connection.own.store(at::FREED, u64::MAX);
        connection.publish(request(ECHO, 64), b"I am no task any more");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

pub(crate) fn stops_while_it_connects(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let (connection, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    let _own = Memory::own(&own, Shape::default());
    hostile.task.send(&Request::Mapped { connection, doorbell: Doorbell::Event });
    stop();
}

pub(crate) fn stops_in_the_middle_of_a_message(hostile: &mut Hostile) {
    let connection = hostile.connect();
    connection.own.store_bytes(connection.own.line(0) + 8, &[7; 16]);
    connection.ring();
    stop();
}

pub(crate) fn stops_before_it_greets(socket: OwnedFd, _: &Role) {
    let _socket = socket;
    stop();
}

pub(crate) fn stops_as_a_server_told_of_a_client(hostile: &mut Hostile) {
    hostile.serve();
    let (event, _) = hostile.task.event();
    assert!(matches!(event, Event::Incoming { .. }));
    stop();
}

pub(crate) fn a_thousand_short_lives(hostile: &mut Hostile) {
    let door = hostile.door();
    for number in 0..1000 {
        let socket = crate::common::raw::knock(&door);
        if number % 3 == 0 {
            continue;
        }
        send_frame(&socket, 1, frame::HELLO, &Hello::OURS.to_bytes(), &[], Mode::Wait).unwrap();
        if number % 3 == 1 {
            let _ = crate::common::raw::next(&socket);
        }
    }
}
