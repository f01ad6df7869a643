//! A client's lies about what it lends: descriptors, release words, memory that changes. Those of a
//! server are in `tests/bulk.rs`.

use crate::attacker::{Hostile, honest};
use crate::common::raw::{Memory, RawConnection, at, request};
use crate::victim::{ECHO, LEND, READ_LEASES};
use rendez::Status;
use rendez::protocol::kernel::Request;
use rendez::protocol::lease::{Descriptor, Kind, write};
use rendez::protocol::limit::{ARENA_HEAD_BYTES, LEASES_MAX};
use rendez::protocol::message::{Header, room_for};
use rendez::protocol::{ArenaId, limit};
use std::sync::atomic::{AtomicBool, Ordering};

const WHOLE: u32 = 64 << 10;

fn lent(kind: Kind, arena: u32, offset: usize, length: usize) -> Descriptor {
    Descriptor { arena, word: 0, kind, place: (offset / 64) as u32, length: length as u32 }
}

/// A request whose payload begins with `descriptors`.
fn leased(operation: u16, descriptors: &[Descriptor]) -> (Header, Vec<u8>) {
    let mut payload = Vec::new();
    write(descriptors, &mut payload);
    (Header { flags: Header::LEASED, room: room_for(512), ..request(operation, 0) }, payload)
}

fn attached(hostile: &mut Hostile) -> (RawConnection, u32, Memory) {
    let connection = hostile.connect();
    let (arena, memory) = hostile.task.attach(&connection, WHOLE, WHOLE);
    (connection, arena, memory)
}

/// Sends one message with these descriptors, for which the connection is ended.
fn lie(hostile: &mut Hostile, descriptors: impl FnOnce(u32) -> Vec<Descriptor>) {
    let (mut connection, arena, _memory) = attached(hostile);
    let (header, payload) = leased(ECHO, &descriptors(arena));
    // What is longer than a line lies in the area.
    connection.publish_long(header, &payload);
    hostile.is_shown_out(&connection);
}

const HEAD: usize = ARENA_HEAD_BYTES;

pub(crate) fn lease_of_the_release_words(hostile: &mut Hostile) {
    lie(hostile, |id| vec![lent(Kind::Lease, id, 0, 64)]);
}

pub(crate) fn lease_beyond_the_end(hostile: &mut Hostile) {
    lie(hostile, |id| vec![lent(Kind::Lease, id, WHOLE as usize - 64, 65)]);
}

pub(crate) fn lease_of_no_arena(hostile: &mut Hostile) {
    lie(hostile, |id| vec![lent(Kind::Lease, id + 1, HEAD, 64)]);
}

pub(crate) fn leases_that_overlap(hostile: &mut Hostile) {
    lie(hostile, |id| vec![lent(Kind::Lease, id, HEAD, 100), lent(Kind::Lease, id, HEAD + 64, 9)]);
}

pub(crate) fn more_leases_than_there_may_be(hostile: &mut Hostile) {
    lie(hostile, |id| (0..=LEASES_MAX).map(|n| lent(Kind::Lease, id, HEAD + 64 * n, 64)).collect());
}

pub(crate) fn lease_without_end(hostile: &mut Hostile) {
    let (mut connection, arena, _memory) = attached(hostile);
    let (header, mut payload) = leased(ECHO, &[lent(Kind::Lease, arena, HEAD, 64)]);
    // Another one follows, it says, and none does.
    payload[7] = 1;
    connection.publish(header, &payload);
    hostile.is_shown_out(&connection);
}

pub(crate) fn more_room_than_the_arena_has(hostile: &mut Hostile) {
    lie(hostile, |id| vec![lent(Kind::Room, id, 0, WHOLE as usize + 1)]);
}

pub(crate) fn lease_of_a_detached_arena(hostile: &mut Hostile) {
    let (mut connection, arena, _memory) = attached(hostile);
    let detach = Request::Detach { connection: connection.id, arena: ArenaId(arena) };
    hostile.task.ask(&detach);
    // Another pair after it: its being attached says that the server has heard of the detaching.
    let _other = hostile.task.attach(&connection, WHOLE, 0);
    let (header, payload) = leased(ECHO, &[lent(Kind::Lease, arena, HEAD, 64)]);
    connection.publish(header, &payload);
    hostile.is_shown_out(&connection);
}

/// Has the victim lend 64 bytes in a reply; the status.
fn borrow(connection: &mut RawConnection, arena: u32, bytes: u64) -> u16 {
    let (header, mut payload) = leased(LEND, &[lent(Kind::Room, arena, 0, bytes as usize)]);
    payload.extend_from_slice(&bytes.to_le_bytes());
    let position = connection.publish(header, &payload);
    let status = connection.reply(position);
    connection.own.store(at::FREED, position + 1);
    status
}

pub(crate) fn release_words_that_lie(hostile: &mut Hostile) {
    let (mut connection, arena, memory) = attached(hostile);
    assert_eq!(borrow(&mut connection, arena, 64), Status::OK.0);
    for word in 0..limit::RELEASE_WORDS {
        memory.store_u32(word * 4, 1000);
    }
    let (header, mut payload) = leased(LEND, &[lent(Kind::Room, arena, 0, 4096)]);
    payload.extend_from_slice(&64_u64.to_le_bytes());
    connection.publish(header, &payload);
    hostile.is_shown_out(&connection);
}

pub(crate) fn leases_never_let_go_of(hostile: &mut Hostile) {
    let (mut connection, arena, _memory) = attached(hostile);
    let refused = (0..1000).find(|_| borrow(&mut connection, arena, 20 << 10) != Status::OK.0);
    assert_eq!(refused, Some(3), "three of 20 KiB fit into its own 64");
    honest(&mut connection, 3);
    hostile.is_open(&connection);
}

pub(crate) fn lease_that_changes_while_it_is_read(hostile: &mut Hostile) {
    let (mut connection, arena, memory) = attached(hostile);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0_u64;
            while !over.load(Ordering::Relaxed) {
                for offset in (HEAD..HEAD + 4096).step_by(8) {
                    memory.store(offset, value);
                }
                value = !value;
            }
        });
        for _ in 0..5 {
            let (header, payload) = leased(READ_LEASES, &[lent(Kind::Lease, arena, HEAD, 4096)]);
            let position = connection.publish(header, &payload);
            assert_eq!(connection.reply(position), Status::OK.0);
            connection.own.store(at::FREED, position + 1);
        }
        over.store(true, Ordering::Relaxed);
    });
    hostile.is_open(&connection);
}
