//! Notifications: bits that may not be posted, or not so many.

use crate::attacker::{Hostile, over_quota};
use crate::common::raw::{Memory, at, mint, request};
use crate::quotas::exhaust;
use crate::stage::BITS;
use crate::victim::ECHO;
use rendez::protocol::kernel::{Answer, Doorbell, KernelError, Limits, Request, Shape};
use rendez::{Rights, Slot};
use rustix::process::Signal;
use std::time::{Duration, Instant};

fn bell(hostile: &Hostile) -> Slot {
    hostile.task.given("bell").slot
}

/// What connects to a notification.
fn connect(slot: Slot) -> Request {
    let (shape, doorbell) = (Shape::SMALLEST, Doorbell::Futex);
    Request::Connect { slot, interface: None, requests: shape, replies: shape, doorbell }
}

pub(crate) fn bits_outside_its_mask(hostile: &mut Hostile) {
    let slot = bell(hostile);
    let connection = hostile.task.connect_to_post(slot);
    connection.own.store(at::POSTED, !BITS);
    connection.ring();
    std::thread::sleep(Duration::from_millis(20));
    connection.own.store(at::POSTED, u64::MAX);
    connection.ring();
    hostile.is_open(&connection);
    taken(&connection);
}

/// Waits until the victim has seen what is posted, all bits.
fn taken(connection: &crate::common::raw::RawConnection) {
    crate::common::eventually("the bits are taken", || {
        (connection.peer.load(at::ACKNOWLEDGED) & BITS == BITS).then_some(())
    });
}

pub(crate) fn bits_for_ever(hostile: &mut Hostile) {
    let slot = bell(hostile);
    let connection = hostile.task.connect_to_post(slot);
    let started = Instant::now();
    let mut bits = 0_u64;
    while started.elapsed() < Duration::from_millis(200) {
        bits = !bits;
        connection.own.store(at::POSTED, bits);
        connection.own.store(at::ACKNOWLEDGED, bits);
        connection.ring();
    }
    connection.own.store(at::POSTED, u64::MAX);
    connection.ring();
    taken(&connection);
    hostile.is_open(&connection);
}

pub(crate) fn a_message_to_a_notification(hostile: &mut Hostile) {
    let slot = bell(hostile);
    let mut connection = hostile.task.connect_to_post(slot);
    connection.publish(request(ECHO, 0), b"to nobody");
    hostile.is_shown_out(&connection);
}

pub(crate) fn a_wider_mask(hostile: &mut Hostile) {
    let slot = bell(hostile);
    for bits in [u64::MAX, BITS << 1, 1 << 63] {
        let limits = Limits { bits: Some(bits), priority: None };
        let more = Request::Mint { slot, rights: Rights::POST, badge: None, limits };
        hostile.task.refused(&more);
    }
    let Answer::Slot(without) = hostile.task.ask(&mint(slot, Rights::MINT, None)).0 else {
        panic!()
    };
    let refused = hostile.task.refused(&connect(without.slot));
    assert!(matches!(refused, KernelError::MissingRights { .. }), "{refused:?}");
    let receive = Request::Serve { slot, interface: None };
    let refused = hostile.task.refused(&receive);
    assert!(matches!(refused, KernelError::MissingRights { .. }), "{refused:?}");
}

/// A notification of its own.
fn notification(hostile: &mut Hostile) -> Slot {
    match hostile.task.ask(&Request::CreateNotification).0 {
        Answer::Slot(made) => made.slot,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn notifications_without_end(hostile: &mut Hostile) {
    exhaust(hostile, |_| Request::CreateNotification);
}

pub(crate) fn standing_without_end(hostile: &mut Hostile) {
    let slot = notification(hostile);
    let mut standing = Vec::new();
    let refused = loop {
        match hostile.task.ask(&connect(slot)) {
            (Answer::Connecting { connection, .. }, files) => {
                standing.push(Memory::own(&files[0], Shape::SMALLEST));
                let doorbell = Doorbell::Futex;
                // Answered when there is a receiver, which there never is.
                hostile.task.send(&Request::Mapped { connection, doorbell });
            }
            (Answer::Error(error), _) => break error,
            other => panic!("{other:?}"),
        }
        assert!(standing.len() < 60_000, "without end");
    };
    over_quota(&refused);
    std::mem::forget(standing);
}

fn die() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

pub(crate) fn dies_with_bits_posted(hostile: &mut Hostile) {
    let slot = bell(hostile);
    let connection = hostile.task.connect_to_post(slot);
    connection.own.store(at::POSTED, u64::MAX);
    die();
}

pub(crate) fn dies_while_it_stands(hostile: &mut Hostile) {
    let slot = notification(hostile);
    for _ in 0..10 {
        let (Answer::Connecting { connection, .. }, files) = hostile.task.ask(&connect(slot))
        else {
            panic!()
        };
        let own = Memory::own(&files[0], Shape::SMALLEST);
        own.store(at::POSTED, u64::MAX);
        hostile.task.send(&Request::Mapped { connection, doorbell: Doorbell::Event });
    }
    die();
}
