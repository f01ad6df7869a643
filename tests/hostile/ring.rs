//! A client's lies in its own segment: turns, lengths, what is freed, what is withdrawn.

use crate::attacker::{Hostile, hoard, honest, lines, scribble};
use crate::common::Random;
use crate::common::raw::{RawConnection, at, request};
use crate::victim::{ECHO, KEEP};
use rendez::Status;
use rendez::protocol::kernel::Shape;
use rendez::protocol::message::Header;

/// Has one lie told over a connection, which is ended for it.
fn lie(hostile: &mut Hostile, lie: impl FnOnce(&mut RawConnection)) {
    let mut connection = hostile.connect();
    lie(&mut connection);
    connection.ring();
    hostile.is_shown_out(&connection);
}

pub(crate) fn turn_of_a_later_lap(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.store_u32(it.own.line(0), 2));
}

pub(crate) fn turn_far_ahead(hostile: &mut Hostile) {
    lie(hostile, |it| it.own.store_u32(it.own.line(0), u32::MAX));
}

pub(crate) fn turn_that_jumps(hostile: &mut Hostile) {
    lie(hostile, |it| {
        let next = honest(it, 5);
        it.own.store_u32(it.own.line(next), 3);
    });
}

pub(crate) fn turn_that_falls_back(hostile: &mut Hostile) {
    lie(hostile, |it| {
        let next = honest(it, 2 * lines() + 3);
        it.own.store_u32(it.own.line(next), 1);
    });
}

pub(crate) fn length_beyond_the_area(hostile: &mut Hostile) {
    lie(hostile, |it| {
        let header = Header { length: Shape::default().area_bytes + 41, ..request(ECHO, 64) };
        it.own.store_bytes(it.own.line(0) + 8, &header.to_bytes());
        it.own.store_u32(it.own.line(0), 1);
    });
}

pub(crate) fn longest_length(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.own.store_bytes(it.own.line(0) + 8, &[0xff; 16]);
        it.own.store_u32(it.own.line(0), 1);
    });
}

pub(crate) fn more_room_than_there_is(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.publish(Header { room: u16::MAX, ..request(ECHO, 64) }, b"");
    });
}

pub(crate) fn freed_what_never_came(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.own.store(at::FREED, 1 << 40);
        hoard(it, lines() + 1);
    });
}

pub(crate) fn freed_all_that_can_be_counted(hostile: &mut Hostile) {
    lie(hostile, |it| {
        it.own.store(at::FREED, u64::MAX);
        hoard(it, lines() + 1);
    });
}

pub(crate) fn freed_and_taken_back(hostile: &mut Hostile) {
    lie(hostile, |it| {
        honest(it, lines());
        hoard(it, lines());
        it.own.store(at::FREED, lines() + 1);
        hoard(it, 2);
        it.own.store(at::FREED, 1);
        hoard(it, 1);
    });
}

pub(crate) fn half_a_message(hostile: &mut Hostile) {
    let connection = hostile.connect();
    let header = Header { length: 600, ..request(ECHO, 600) };
    connection.own.store_bytes(connection.own.line(0) + 8, &header.to_bytes());
    connection.ring();
    hostile.is_open(&connection);
    std::mem::forget(connection);
}

pub(crate) fn payload_never_written(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, lines() / 2);
    let position = honest(&mut connection, 1);
    // Published with a length, and nothing where the payload should be.
    let line = connection.own.line(position);
    let header = Header { length: 5000, ..request(ECHO, 6000) };
    connection.own.store_bytes(line + 8, &header.to_bytes());
    connection.own.store_u32(line, connection.own.turn(position));
    connection.ring();
    // It gets what lay there, which was its own.
    assert_eq!(connection.reply(position), Status::OK.0);
    hostile.is_open(&connection);
}

pub(crate) fn header_rewritten_while_it_is_read(hostile: &mut Hostile) {
    let mut random = Random::of(1);
    for _ in 0..40 {
        let mut connection = hostile.connect();
        for _ in 0..lines() {
            let position = connection.publish(request(ECHO, 64), b"first this");
            for _ in 0..20 {
                connection.own.store(connection.own.line(position) + 8, random.next());
            }
        }
        connection.ring();
    }
}

pub(crate) fn words_about_oneself(hostile: &mut Hostile) {
    let mut random = Random::of(2);
    let mut connection = hostile.connect();
    for _ in 0..200 {
        for word in [at::TAKEN, at::RANG_AT, at::POSTED, at::ACKNOWLEDGED] {
            connection.own.store(word, random.next());
        }
        for word in [at::CPU, at::ASLEEP, at::DOORBELL] {
            connection.own.store_u32(word, random.next() as u32);
        }
        honest(&mut connection, 1);
    }
    hostile.is_open(&connection);
}

pub(crate) fn everything_withdrawn(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    for position in 0..lines() {
        let line = connection.own.line(position);
        connection.own.store_u32(line + 4, connection.own.turn(position));
        assert_eq!(connection.publish(request(ECHO, 0), b"never"), position);
    }
    for position in 0..lines() {
        assert_eq!(connection.reply(position), Status::WITHDRAWN.0);
    }
    // A mark of another lap means nothing.
    connection.own.store(at::FREED, lines());
    connection.own.store_u32(connection.own.line(0) + 4, 77);
    let position = connection.publish(request(ECHO, 0), b"this");
    assert_eq!(connection.reply(position), Status::OK.0);
    hostile.is_open(&connection);
}

pub(crate) fn rubbish_all_over(hostile: &mut Hostile) {
    let mut random = Random::seeded();
    for _ in 0..60 {
        let connection = hostile.connect();
        let bytes = connection.own.bytes();
        let end = if random.below(2) == 0 { bytes } else { 1024 + lines() as usize * 64 };
        for _ in 0..1 + random.below(3) {
            let kind = random.below(4);
            scribble(&connection.own, 0, end, || match kind {
                0 => random.next(),
                1 => random.below(40),
                2 => u64::MAX,
                _ => 1 << random.below(64),
            });
            connection.ring();
        }
    }
}

pub(crate) fn deadlines_of_every_kind(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    for word in [0, 1, 1 << 40, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        let header = Header { word, ..request(ECHO, 64) };
        let position = connection.publish(header, b"late");
        connection.reply(position);
        connection.own.store(at::FREED, position + 1);
    }
    hostile.is_open(&connection);
}

pub(crate) fn operations_that_are_none(hostile: &mut Hostile) {
    let mut random = Random::of(3);
    let mut connection = hostile.connect();
    for _ in 0..500 {
        let operation = 8 + random.below(60_000) as u16;
        let length = random.below(41) as usize;
        let payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let position = connection.publish(request(operation, 64), &payload);
        assert_eq!(connection.reply(position), Status::UNIMPLEMENTED.0);
        connection.own.store(at::FREED, position + 1);
    }
    hostile.is_open(&connection);
}

pub(crate) fn replies_not_taken(hostile: &mut Hostile) {
    for _ in 0..10 {
        let mut connection = hostile.connect();
        for _ in 0..lines() {
            connection.publish(request(ECHO, 64), b"and no reply is read");
        }
        connection.reply(lines() - 1);
        hostile.is_open(&connection);
    }
}

pub(crate) fn requests_that_are_never_answered(hostile: &mut Hostile) {
    for _ in 0..10 {
        let mut connection = hostile.connect();
        for _ in 0..lines() {
            connection.publish(request(KEEP, 64), b"keep this for ever");
        }
        hostile.is_open(&connection);
    }
}

pub(crate) fn notifications_without_the_right(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    for number in 0..1000_u64 {
        connection.own.store(at::POSTED, !0 >> (number % 64));
        connection.ring();
        if number % 100 == 0 {
            honest(&mut connection, 1);
        }
    }
    hostile.is_open(&connection);
}
