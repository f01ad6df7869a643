//! A server's lies to its clients: replies, what is taken, what is never answered.

use crate::attacker::{Hostile, question, reply_to};
use crate::common::raw::{Memory, RawConnection, at};
use rendez::Why;
use rendez::protocol::kernel::{Event, Request};

/// Lets a client ask, and answers by a lie.
fn lie(hostile: &mut Hostile, lie: impl FnOnce(&RawConnection)) {
    let connection = hostile.take_in();
    question(&connection);
    lie(&connection);
    connection.ring();
    hostile.is_shown_out(&connection);
}

pub(crate) fn reply_of_a_turn_that_jumps(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.store_u32(it.own.line(0), 9));
}

pub(crate) fn reply_of_a_turn_that_jumps_once_taken(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.own.store(at::TAKEN, 1);
        it.own.store_u32(it.own.line(0), 9);
    });
}

pub(crate) fn reply_to_nothing(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.publish(0, reply_to(99), b"x"));
}

pub(crate) fn reply_to_what_is_to_come(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.publish(0, reply_to(1), b"x"));
}

pub(crate) fn reply_to_everything(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.publish(0, reply_to(u64::MAX), b"x"));
}

pub(crate) fn reply_longer_than_the_area(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.own.store(at::TAKEN, u64::MAX);
        it.own.store_bytes(it.own.line(0) + 8, &[0xff; 16]);
        it.own.store_u32(it.own.line(0), 1);
    });
}

pub(crate) fn two_replies_to_one_request(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    connection.own.publish(0, reply_to(0), b"one");
    connection.own.publish(1, reply_to(0), b"two");
    connection.ring();
}

pub(crate) fn request_never_taken(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    std::mem::forget(connection);
}

pub(crate) fn reply_held_for_ever(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    std::mem::forget(connection);
}

pub(crate) fn taken_and_taken_back(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    connection.own.store(at::TAKEN, 0);
    let end = Request::Disconnect { connection: connection.id, why: Why::Closed };
    hostile.task.ask(&end);
}

pub(crate) fn taken_what_never_came(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, u64::MAX);
    let end = Request::Disconnect { connection: connection.id, why: Why::Closed };
    hostile.task.ask(&end);
}

pub(crate) fn taken_by_a_reply_alone(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.publish(0, reply_to(0), b"not taken, and answered");
    connection.ring();
}

pub(crate) fn client_never_taken_in(hostile: &mut Hostile) {
    hostile.serve();
    let (event, _) = hostile.task.event();
    assert!(matches!(event, Event::Incoming { .. }));
}

pub(crate) fn client_refused(hostile: &mut Hostile) {
    hostile.serve();
    let (Event::Incoming { connection, .. }, _) = hostile.task.event() else { panic!() };
    hostile.task.ask(&Request::Disconnect { connection, why: Why::Denied });
}

pub(crate) fn server_with_a_hole(hostile: &mut Hostile) {
    hostile.serve();
    let (Event::Incoming { connection, replies, .. }, descriptors) = hostile.task.event() else {
        panic!()
    };
    let _own = Memory::own_with_a_hole(&descriptors[0], replies);
    let mapped =
        Request::Mapped { connection, doorbell: rendez::protocol::kernel::Doorbell::Futex };
    hostile.task.refused(&mapped);
}

pub(crate) fn server_that_does_not_seal(hostile: &mut Hostile) {
    hostile.serve();
    let (Event::Incoming { connection, .. }, _) = hostile.task.event() else { panic!() };
    let mapped =
        Request::Mapped { connection, doorbell: rendez::protocol::kernel::Doorbell::Futex };
    hostile.task.refused(&mapped);
}
