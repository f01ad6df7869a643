//! Leases, and messages longer than a ring, between real processes: honest ones, and liars.

mod common;

use common::raw::{RawConnection, RawTask, at, knock, request};
use common::{Assistant, Role, System, eventually, for_ever, refusal};
use rendez::file;
use rendez::protocol::file as files;
use rendez::protocol::kernel::{Answer, Hello, Limits, Received, Request};
use rendez::protocol::kernel::{KernelError, Offer, Travel};
use rendez::protocol::lease::{Descriptor, Kind, write};
use rendez::protocol::limit::{ARENA_HEAD_BYTES, LEASES_MAX};
use rendez::protocol::message::{Header, room_for};
use rendez::protocol::status::ConnectionState;
use rendez::protocol::{Rights, decode, encode};
use rendez::region::Mapped;
use rendez::service::{Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez::{
    Connection, Error, Lease, LeaseError, NEVER, Options, Room, SendError, Server, Status, Task,
    Wait, Why, deadline_after,
};
use std::io::Read;
use std::time::Duration;

/// Payload → the same.
const ECHO: u16 = 1;
/// Leases → for each its length and the sum of its bytes, as u64.
const SUM: u16 = 2;
/// `[length: u64]…` → leases of these lengths, each filled with its place.
const LEND: u16 = 3;
/// Leases → nothing, once [`SUM_KEPT`] comes.
const KEEP: u16 = 4;
/// Nothing → the sum of what was kept; then what was kept is answered.
const SUM_KEPT: u16 = 5;

/// A ticket → the length and the sum of the sealed region that it stands for.
const SUM_REGION: u16 = 6;
/// A ticket → nothing: adds one to each byte of the shared region, the first 100 of them.
const ADD_SHARED: u16 = 7;

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let mut server = Server::new(&task).unwrap();
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    match server.run(&mut Bulk { task, kept: Vec::new() }) {
        Ok(()) | Err(Error::KernelGone) => {}
        Err(error) => panic!("{error}"),
    }
}

struct Bulk {
    task: Task,
    kept: Vec<(ReplyRight, Vec<Lease>)>,
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn bytes_of(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

impl Service for Bulk {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, mut reply: Reply<'_>) {
        match message.operation {
            ECHO => reply.ok(message.payload),
            SUM => {
                let of = |lease: &Lease| [lease.len() as u64, sum(&lease.to_vec())];
                let sums: Vec<u64> = message.leases.iter().flat_map(of).collect();
                reply.ok(&bytes_of(&sums));
            }
            LEND => {
                for (place, length) in numbers(message.payload).into_iter().enumerate() {
                    match reply.lease(length as usize) {
                        Ok(mut lease) => {
                            lease.fill(place as u8 + 1);
                            reply = reply.with_lease(lease);
                        }
                        Err(error) => {
                            return reply.refuse(&Refusal::new(Status::QUOTA, error.to_string()));
                        }
                    }
                }
                reply.ok(b"lent");
            }
            KEEP => self.kept.push((reply.keep(), message.leases.to_vec())),
            SUM_KEPT => {
                let leases = self.kept.iter().flat_map(|(_, leases)| leases);
                let sums: Vec<u64> = leases.map(|lease| sum(&lease.to_vec())).collect();
                reply.ok(&bytes_of(&sums));
                self.kept.drain(..).for_each(|(right, _)| right.ok(&[]));
            }
            SUM_REGION | ADD_SHARED => {
                let ticket = decode(message.payload).unwrap();
                let received = context.accept(message.caller.connection, ticket).unwrap();
                let mapped = self.task.map_region(received[0].slot);
                context.delete(received[0].slot).unwrap();
                match mapped {
                    Ok(Mapped::Sealed(region)) => {
                        reply.ok(&bytes_of(&[region.len() as u64, sum(&region)]));
                    }
                    Ok(Mapped::Shared(region)) => {
                        let mut bytes = [0; 100];
                        assert_eq!(region.copy_to(0, &mut bytes), 100);
                        bytes.iter_mut().for_each(|byte| *byte += 1);
                        assert_eq!(region.copy_from(0, &bytes), 100);
                        reply.ok(&[]);
                    }
                    Ok(Mapped::Published(region)) => {
                        let mut bytes = vec![0; region.len()];
                        region.copy_to(0, &mut bytes);
                        reply.ok(&bytes_of(&[region.len() as u64, sum(&bytes)]));
                    }
                    Err(error) => {
                        reply.refuse(&Refusal::new(Status::DENIED, error.to_string()));
                    }
                }
            }
            other => reply.refuse(&Refusal::new(Status::UNIMPLEMENTED, format!("{other}"))),
        }
    }
}

struct Stage {
    task: Task,
    endpoint: Received,
    server: Assistant,
    // Last: it ends the others.
    system: System,
}

impl Stage {
    fn new() -> Self {
        let system = System::start();
        let task = system.task();
        let endpoint = task.create_endpoint().unwrap();
        let given = [("serve", endpoint.slot, Rights::RECEIVE)];
        let server = Assistant::start(&task, "bulk", &given, &[]);
        Self { task, endpoint, server, system }
    }

    fn connect(&self, arena_bytes_max: u32) -> Connection {
        let options = Options { arena_bytes_max, ..for_ever() };
        Connection::open(&self.task, self.endpoint.slot, &options).unwrap()
    }
}

const MIB: usize = 1 << 20;

#[test]
fn what_is_lent_is_read_in_place_at_the_other_end() {
    let stage = Stage::new();
    let mut connection = stage.connect(64 << 20);
    for (turn, lengths) in
        [&[1][..], &[4096, 1], &[MIB], &[3 * MIB, 100, 7], &[1; LEASES_MAX]].iter().enumerate()
    {
        let mut leases = Vec::new();
        let mut expected = Vec::new();
        for (place, length) in lengths.iter().enumerate() {
            let mut lease = connection.lease(*length).unwrap();
            lease.fill((turn + place) as u8);
            expected.extend([*length as u64, sum(&lease)]);
            leases.push(lease);
        }
        let reply = connection.send_leased(SUM, b"", leases, 256).unwrap();
        assert_eq!(numbers(reply.ok().unwrap().0), expected);
    }
    // Beside a payload, in the line and beyond it.
    for length in [0, 10, 40, 5000, 9000, 100_000] {
        let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let lease = connection.lease(77).unwrap();
        let reply = connection.send_leased(ECHO, &payload, [lease], length).unwrap();
        assert_eq!(reply.ok().unwrap().0, payload);
    }
    // A lease that is dropped, or cut short.
    drop(connection.lease(MIB).unwrap());
    let mut lease = connection.lease(100).unwrap();
    lease.fill(1);
    lease.shorten(60);
    let reply = connection.send_leased(SUM, b"", [lease], 256).unwrap();
    assert_eq!(numbers(reply.ok().unwrap().0), [60, 60]);
}

#[test]
fn what_a_reply_lends_is_read_in_place_until_it_is_let_go_of() {
    let stage = Stage::new();
    let mut connection = stage.connect(4 << 20);
    let lend = |connection: &mut Connection, lengths: &[u64], room: usize| {
        let room = Room::payload(64).lending(room);
        let reply = connection.send_leased(LEND, &bytes_of(lengths), [], room)?;
        reply.ok().map(|(payload, leases)| {
            assert_eq!(payload, b"lent");
            leases
        })
    };
    for lengths in [&[1][..], &[4096, 100], &[MIB as u64], &[64; LEASES_MAX]] {
        let room = lengths.iter().map(|length| length.next_multiple_of(64)).sum::<u64>();
        let leases = lend(&mut connection, lengths, room as usize).unwrap();
        for (place, (lease, length)) in leases.iter().zip(lengths).enumerate() {
            let mut bytes = Vec::new();
            lease.reader().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, vec![place as u8 + 1; *length as usize]);
        }
    }
    // More than there was room for, or none at all.
    let (status, text) = refusal(lend(&mut connection, &[65], 64));
    assert_eq!(status, Status::QUOTA, "{text}");
    let reply = connection.send(LEND, &bytes_of(&[1]), 256).unwrap();
    assert_eq!(reply.status, Status::QUOTA);
    // What is held fills the arena, of which the client itself keeps count; its end frees it.
    let mut held = Vec::new();
    let full = loop {
        match lend(&mut connection, &[MIB as u64], MIB) {
            Ok(leases) => held.extend(leases),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Lease(LeaseError::Full { asked: MIB, .. })), "{full}");
    assert!(held.len() >= 4);
    assert!(held.iter().all(|lease| lease.to_vec() == [1; MIB]), "what is held stays");
    held.clear();
    lend(&mut connection, &[MIB as u64], MIB).unwrap();
    // A lease outlives its connection.
    let last = lend(&mut connection, &[500], 512).unwrap();
    drop(connection);
    assert_eq!(last[0].to_vec(), [1; 500]);
}

#[test]
fn messages_longer_than_a_ring_cross_both_ways() {
    let stage = Stage::new();
    let mut connection = stage.connect(16 << 20);
    let most = connection.request_bytes_max();
    let bytes: Vec<u8> = (0..16 * MIB).map(|at| (at * 7 / 64) as u8).collect();
    for length in [most - 1, most, most + 1, 100_000, MIB, 5 * MIB + 3, 16 * MIB, 3, 0, 70_000] {
        let reply = connection.send(ECHO, &bytes[..length], length).unwrap();
        assert!(reply.ok().unwrap() == &bytes[..length], "{length} bytes");
    }
    // Short though the room is long; and a reply that is longer than the room.
    assert_eq!(connection.send(ECHO, b"short", MIB).unwrap().ok().unwrap(), b"short");
    let error = connection.send(ECHO, &bytes[..2 * MIB], MIB).unwrap_err();
    assert!(matches!(error, SendError::Interrupted { why: Why::TooBig, .. }), "{error}");
    // Several in flight, taken in another order.
    let sent: Vec<(usize, u64)> = [40_000, 50_000, 60_000]
        .map(|length| (length, connection.begin(ECHO, &bytes[..length], length).unwrap()))
        .into();
    for (length, transaction) in sent.into_iter().rev() {
        let reply = connection.finish(transaction).unwrap();
        assert!(reply.ok().unwrap() == &bytes[..length], "{length} bytes");
    }
    // Beyond the limit nothing is sent.
    let too_big = Err(SendError::NotDelivered { why: Why::TooBig });
    assert_eq!(connection.send(ECHO, &vec![0; 16 * MIB + 1], 0), too_big);
    assert_eq!(connection.send(ECHO, b"", 16 * MIB + 1), too_big);
    assert_eq!(connection.send(ECHO, b"it goes on", 64).unwrap().ok().unwrap(), b"it goes on");
}

#[test]
fn a_full_arena_makes_its_sender_wait_or_says_so() {
    let stage = Stage::new();
    let mut connection = stage.connect(MIB as u32);
    // The largest that there may be, so that nothing can grow.
    drop(connection.lease(MIB).unwrap());
    let half = connection.lease(MIB / 2).unwrap();
    let other = connection.lease(MIB / 2).unwrap();
    // Both in this program's hands: nothing that is in flight would end.
    let error = connection.lease(1).unwrap_err();
    let full = LeaseError::Full { asked: 1, longest: 0, total: MIB };
    assert!(matches!(&error, Error::Lease(found) if *found == full), "{error}");
    assert!(error.to_string().contains("0 free in one piece of 1048576"), "{error}");
    let error = connection.lease(MIB + 1).unwrap_err();
    assert!(matches!(error, Error::Lease(LeaseError::TooBig { .. })), "{error}");
    assert!(matches!(connection.lease(0), Err(Error::Lease(LeaseError::Empty))));
    // In flight at a server that takes its time: waits, to the deadline.
    let kept = connection.begin_leased(KEEP, b"", [half], 0).unwrap();
    let also = connection.begin_leased(SUM, b"", [other], 64).unwrap();
    let error = connection.lease_until(MIB, deadline_after(Duration::from_millis(50))).unwrap_err();
    let deadline = SendError::NotDelivered { why: Why::Deadline };
    assert!(matches!(&error, Error::Send(found) if *found == deadline), "{error}");
    // The other half is free once its reply is here, asked for or not.
    let lease = connection.lease(MIB / 2).unwrap();
    let reply = connection.send_leased(SUM_KEPT, b"", [lease], 64).unwrap();
    assert_eq!(numbers(reply.ok().unwrap().0), [0]);
    assert!(connection.finish_leased(kept).unwrap().status.is_ok());
    assert!(connection.finish(also).unwrap().status.is_ok());
    assert_eq!(connection.lease(MIB).unwrap().len(), MIB);
    // Of another connection.
    let mut second = stage.connect(MIB as u32);
    let foreign = second.lease(10).unwrap();
    let error = connection.send_leased(SUM, b"", [foreign], 64).unwrap_err();
    assert!(matches!(error, Error::Lease(LeaseError::Foreign)), "{error}");
    let many: Vec<_> = (0..=LEASES_MAX).map(|_| connection.lease(1).unwrap()).collect();
    let error = connection.send_leased(SUM, b"", many, 64).unwrap_err();
    assert!(matches!(error, Error::Lease(LeaseError::TooMany)), "{error}");
}

#[test]
fn an_abandoned_lease_is_not_written_again_before_the_late_reply() {
    let stage = Stage::new();
    let mut connection = stage.connect(MIB as u32);
    let mut lease = connection.lease(MIB).unwrap();
    lease.fill(3);
    let soon = deadline_after(Duration::from_millis(50));
    let error = connection.send_leased_until(KEEP, b"", [lease], 0, soon).unwrap_err();
    let interrupted = Some(Why::Deadline);
    assert_eq!(error.why(), interrupted, "{error}");
    // The server has it still.
    let soon = deadline_after(Duration::from_millis(50));
    let error = connection.lease_until(1, soon).unwrap_err();
    assert_eq!(error.why(), Some(Why::Deadline), "{error}");
    let sums = connection.send(SUM_KEPT, b"", 64).unwrap().ok().unwrap().to_vec();
    assert_eq!(numbers(&sums), [3 * MIB as u64], "what it reads is what was lent");
    // Its late reply sets the memory free.
    assert_eq!(connection.lease(MIB).unwrap().len(), MIB);

    // A reply that lends and comes too late: the room is there again.
    let mut connection = stage.connect(MIB as u32);
    for _ in 0..20 {
        let room = Room::payload(64).lending(MIB);
        let sent = connection.begin_leased(LEND, &bytes_of(&[MIB as u64]), [], room).unwrap();
        if let Ok(reply) = connection.cancel(sent) {
            assert_eq!(reply.payload, b"lent", "a reply that comes first wins");
        }
    }
    let room = Room::payload(64).lending(MIB);
    let reply = connection.send_leased(LEND, &bytes_of(&[MIB as u64]), [], room).unwrap();
    assert_eq!(reply.ok().unwrap().1[0].to_vec(), [1; MIB]);
}

#[test]
fn arenas_grow_when_needed_and_go_when_idle() {
    let stage = Stage::new();
    let mut connection = stage.connect(64 << 20);
    assert_eq!(connection.arena_bytes(), (0, 0));
    let small = connection.lease(1000).unwrap();
    let (first, _) = connection.arena_bytes();
    assert!((1000..MIB).contains(&first));
    let large = connection.lease(2 * MIB).unwrap();
    let (both, _) = connection.arena_bytes();
    assert!(both > first, "the small one stays while something of it is lent");
    let reply = connection.send_leased(SUM, b"", [small, large], 64).unwrap();
    assert_eq!(numbers(reply.ok().unwrap().0).len(), 4);
    assert_eq!(connection.arena_bytes().0, both - first, "and goes with its last lease");
    connection.send(ECHO, b"", MIB).unwrap();
    assert!(connection.arena_bytes().1 >= MIB);
    connection.detach_arenas();
    assert_eq!(connection.arena_bytes(), (0, 0));
    // The server has let go of them too.
    let server = stage.server.child.id();
    eventually("the server unmaps", || {
        let maps = std::fs::read_to_string(format!("/proc/{server}/maps")).unwrap();
        (!maps.contains("arena")).then_some(())
    });
    let reply = connection.send(ECHO, &vec![5; MIB], MIB).unwrap();
    assert_eq!(reply.ok().unwrap(), vec![5; MIB]);
}

fn raw(stage: &Stage) -> RawTask {
    RawTask::greet(knock(&stage.system.place().socket()), Hello::OURS).unwrap()
}

/// A request whose payload begins with `descriptors`.
fn leased(operation: u16, descriptors: &[Descriptor]) -> (Header, Vec<u8>) {
    let mut payload = Vec::new();
    write(descriptors, &mut payload);
    (Header { flags: Header::LEASED, room: room_for(512), ..request(operation, 0) }, payload)
}

fn one(kind: Kind, arena: u32, offset: usize, length: usize) -> Descriptor {
    Descriptor { arena, word: 0, kind, place: (offset / 64) as u32, length: length as u32 }
}

/// Has `liar` lie in a connection of its own to the name server, which reads leases as any other.
fn lies(liar: &mut RawTask, what: &str, lie: impl FnOnce(u32) -> (Header, Vec<u8>)) {
    let slot = liar.given("name").slot;
    let mut connection = liar.connect(slot);
    let (arena, _memory) = liar.attach(&connection, 64 << 10, 64 << 10);
    let (header, payload) = lie(arena);
    connection.publish(header, &payload);
    assert_eq!(liar.closed(&connection), ConnectionState::Protocol, "{what}");
}

#[test]
fn each_lie_about_a_lease_ends_its_connection_and_no_other() {
    let stage = Stage::new();
    let mut bystander = stage.connect(MIB as u32);
    let mut goes_on = || {
        let lease = bystander.lease(1000).unwrap();
        let reply = bystander.send_leased(SUM, b"", [lease], 64).unwrap();
        assert_eq!(numbers(reply.ok().unwrap().0)[0], 1000);
    };
    goes_on();
    let mut liar = raw(&stage);
    let head = ARENA_HEAD_BYTES;
    let whole = 64 << 10;
    type Lie = fn(u32, usize, usize) -> Vec<Descriptor>;
    let all: [(&str, Lie); 10] = [
        ("before the first byte", |id, _, _| vec![one(Kind::Lease, id, 0, 64)]),
        ("beyond the end", |id, _, whole| vec![one(Kind::Lease, id, whole - 64, 65)]),
        ("far beyond the end", |id, _, _| {
            vec![Descriptor { place: u32::MAX, ..one(Kind::Payload, id, 0, 1 << 30) }]
        }),
        ("longer than any", |id, head, _| vec![one(Kind::Lease, id, head, u32::MAX as usize)]),
        ("of no length", |id, head, _| vec![one(Kind::Lease, id, head, 0)]),
        ("an arena that is not there", |id, head, _| vec![one(Kind::Lease, id + 1, head, 64)]),
        ("overlapping", |id, head, _| {
            vec![one(Kind::Lease, id, head, 100), one(Kind::Lease, id, head + 64, 100)]
        }),
        ("the payload over a lease", |id, head, _| {
            vec![one(Kind::Lease, id, head, 100), one(Kind::Payload, id, head, 8)]
        }),
        ("more room than the arena has", |id, _, whole| vec![one(Kind::Room, id, 0, whole + 1)]),
        ("two payloads", |id, head, _| {
            vec![one(Kind::Payload, id, head, 8), one(Kind::Payload, id, head + 64, 8)]
        }),
    ];
    for (what, descriptors) in all {
        lies(&mut liar, what, |id| leased(ECHO, &descriptors(id, head, whole)));
        goes_on();
    }
    lies(&mut liar, "no descriptor at all", |_| {
        (Header { flags: Header::LEASED, ..request(ECHO, 64) }, Vec::new())
    });
    lies(&mut liar, "a descriptor of no kind", |id| {
        let (header, mut payload) = leased(ECHO, &[one(Kind::Lease, id, head, 64)]);
        payload[6] = 9;
        (header, payload)
    });
    goes_on();
}

#[test]
fn an_arena_that_is_detached_is_known_no_more() {
    let stage = Stage::new();
    let mut liar = raw(&stage);
    let slot = liar.given("name").slot;
    let mut connection = liar.connect(slot);
    let (arena, _memory) = liar.attach(&connection, 64 << 10, 0);
    let id = rendez::protocol::ArenaId(arena);
    let detach = Request::Detach { connection: connection.id, arena: id };
    assert_eq!(liar.ask(&detach).0, Answer::Done);
    // Another pair after it: its being attached says that the server has heard of the detaching.
    liar.attach(&connection, 64 << 10, 0);
    let (header, payload) = leased(ECHO, &[one(Kind::Lease, arena, ARENA_HEAD_BYTES, 64)]);
    connection.publish(header, &payload);
    assert_eq!(liar.closed(&connection), ConnectionState::Protocol);
}

#[test]
fn release_words_that_lie_end_their_connection() {
    let stage = Stage::new();
    let _name = stage.task.register("/bulk", stage.endpoint.slot).unwrap();
    let mut bystander = stage.connect(MIB as u32);
    let mut liar = raw(&stage);
    for said in [2, 1000, u32::MAX] {
        let slot = liar.look_up("/bulk");
        let mut connection = liar.connect(slot);
        let (arena, memory) = liar.attach(&connection, 64 << 10, 64 << 10);
        let lend = |connection: &mut RawConnection| {
            let (header, mut payload) = leased(LEND, &[one(Kind::Room, arena, 0, 4096)]);
            payload.extend_from_slice(&64_u64.to_le_bytes());
            connection.publish(header, &payload)
        };
        let first = lend(&mut connection);
        assert_eq!(connection.reply(first), Status::OK.0);
        // One lease was lent, by one of the words: all of them lie.
        for word in 0..256 {
            memory.store_u32(word * 4, said);
        }
        lend(&mut connection);
        assert_eq!(liar.closed(&connection), ConnectionState::Protocol, "{said}");
        let lease = bystander.lease(10).unwrap();
        assert!(bystander.send_leased(SUM, b"", [lease], 64).unwrap().status.is_ok());
    }
}

#[test]
fn a_client_that_never_lets_go_fills_only_its_own_arena() {
    let stage = Stage::new();
    let _name = stage.task.register("/bulk", stage.endpoint.slot).unwrap();
    let mut miser = raw(&stage);
    let slot = miser.look_up("/bulk");
    let mut connection = miser.connect(slot);
    let (arena, _memory) = miser.attach(&connection, 4096, 64 << 10);
    let mut last = 0;
    let refused = (0..10_000).find(|_| {
        let (header, mut payload) = leased(LEND, &[one(Kind::Room, arena, 0, 32 << 10)]);
        payload.extend_from_slice(&(20_u64 << 10).to_le_bytes());
        last = connection.publish(header, &payload);
        let status = connection.reply(last);
        connection.own.store(at::FREED, last + 1);
        status == Status::QUOTA.0
    });
    assert_eq!(refused, Some(3), "three leases of 20 KiB fit into 64");
    assert_eq!(miser.state(&connection), ConnectionState::Open);
    let mut honest = stage.connect(MIB as u32);
    let room = Room::payload(64).lending(MIB);
    assert!(honest.send_leased(LEND, &bytes_of(&[MIB as u64]), [], room).unwrap().status.is_ok());
}

#[test]
fn a_server_that_lies_about_a_lease_is_left() {
    let system = System::start();
    let task = system.task();
    let mut liar = RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap();
    liar.serve_as("/liar");
    let slot = task.look_up("/liar", None, None).unwrap().0.slot;
    type Lie = fn(u32) -> Vec<Descriptor>;
    let all: [(&str, Lie); 7] = [
        ("beyond the end", |id| vec![one(Kind::Lease, id, (1 << 20) - 64, 65)]),
        ("an arena that is not there", |id| vec![one(Kind::Lease, id + 7, 0, 64)]),
        ("overlapping", |id| vec![one(Kind::Lease, id, 0, 65), one(Kind::Payload, id, 64, 64)]),
        ("one release word twice", |id| {
            vec![one(Kind::Lease, id, 0, 64), one(Kind::Lease, id, 64, 64)]
        }),
        ("no such release word", |id| {
            vec![Descriptor { word: 256, ..one(Kind::Lease, id, 0, 64) }]
        }),
        ("room, which only requests name", |id| vec![one(Kind::Room, id, 0, 64)]),
        ("more than was asked for", |id| vec![one(Kind::Lease, id, 0, 200)]),
    ];
    for (what, descriptors) in all {
        let client = std::thread::spawn({
            let task = task.clone();
            move || {
                let options = Options { arena_bytes_max: 1 << 20, ..for_ever() };
                let mut connection = Connection::open(&task, slot, &options).unwrap();
                // The liar does not wake anybody.
                connection.set_wait(Wait::Spin);
                let room = Room::payload(64).lending(128);
                let reply = connection.send_leased_until(ECHO, b"", [], room, NEVER);
                let error = reply.map(|reply| reply.status).unwrap_err();
                assert_eq!(error.why(), Some(Why::Protocol), "{error}");
                let again = connection.send(ECHO, b"", 0).unwrap_err();
                assert_eq!(again, SendError::NotDelivered { why: Why::Protocol });
            }
        });
        let connection = liar.take_in();
        let (arena, _own) = liar.take_in_arenas(&connection);
        let mut payload = Vec::new();
        write(&descriptors(arena), &mut payload);
        let header = Header { flags: Header::LEASED, word: 0, ..request(Status::OK.0, 0) };
        eventually("a request", || {
            (connection.peer.load_u32(connection.peer.line(0)) == 1).then_some(())
        });
        connection.own.store(at::TAKEN, 1);
        connection.own.publish(0, header, &payload);
        client.join().unwrap_or_else(|_| panic!("{what}"));
        assert_eq!(liar.closed(&connection), ConnectionState::Protocol, "{what}");
    }
}

/// Sends a capability to a region along; the reply.
fn hand_over(
    connection: &mut Connection,
    operation: u16,
    region: Received,
    rights: Rights,
) -> Result<Vec<u64>, Error> {
    let item = Offer {
        slot: region.slot,
        rights,
        badge: None,
        limits: Limits::SAME,
        travel: Travel::Mint,
    };
    let ticket = connection.offer(&[item])?;
    Ok(numbers(connection.send(operation, &encode(&ticket), 512)?.ok()?))
}

#[test]
fn regions_are_handed_over_in_messages_and_under_names() {
    let stage = Stage::new();
    let mut connection = stage.connect(0);
    let task = &stage.task;
    // Sealed: a slice at both ends, which outlives its capabilities.
    let mut region = task.create_region(5 << 20).unwrap();
    region.bytes_mut().fill(2);
    let sealed = region.seal().unwrap();
    let found = hand_over(&mut connection, SUM_REGION, sealed, Rights::MAP_READ).unwrap();
    assert_eq!(found, [5 << 20, 2 * (5 << 20)]);
    let name = task.register("/atlas", sealed.slot).unwrap();
    let (looked_up, _, _) = stage.system.task().look_up("/atlas", None, None).unwrap();
    assert_eq!(looked_up.object, sealed.object);
    drop(name);
    let Mapped::Sealed(mine) = task.map_region(sealed.slot).unwrap() else { panic!() };
    task.delete(sealed.slot).unwrap();
    assert!(mine.len() == 5 << 20 && mine.iter().all(|byte| *byte == 2));
    // Published: only its maker writes.
    let (published, mut own) = task.publish_region(10_000).unwrap();
    assert_eq!(own.len(), 12_288, "whole pages");
    for value in 1..4 {
        own.fill(value);
        let found = hand_over(&mut connection, SUM_REGION, published, Rights::MAP_READ).unwrap();
        assert_eq!(found, [12_288, 12_288 * u64::from(value)]);
    }
    // Shared: both write.
    let (shared, mine) = task.share_region(4096).unwrap();
    for value in 1..4 {
        let both = Rights::MAP_READ | Rights::MAP_WRITE;
        assert!(hand_over(&mut connection, ADD_SHARED, shared, both).unwrap().is_empty());
        let mut bytes = [0; 101];
        mine.copy_to(0, &mut bytes);
        assert_eq!(bytes[..100], [value; 100]);
        assert_eq!(bytes[100], 0);
    }
    // Without the right.
    let (status, text) = refusal(hand_over(&mut connection, ADD_SHARED, shared, Rights::MAP_READ));
    assert_eq!(status, Status::DENIED);
    assert!(text.contains("lacks the right"), "{text}");
    // What is given up half-way is gone.
    drop(task.create_region(4096).unwrap());
    assert!(matches!(task.map_region(sealed.slot), Err(Error::Kernel(KernelError::BadSlot(_)))));
}

/// What both file systems must do with a file as a region.
fn files_are_mapped(system: &System) {
    let task = system.task();
    let (found, _, _) = task.look_up("/file", None, None).unwrap();
    let options = Options { interface: Some(files::interface()), ..for_ever() };
    let open = || Connection::open(&task, found.slot, &options).unwrap();
    let mut connection = open();
    let mut write = |path: &str, bytes: &[u8]| {
        let flags = files::OpenFlags::WRITE | files::OpenFlags::CREATE | files::OpenFlags::TRUNCATE;
        let request = encode(&files::Open { path, flags, mode: 0o600 });
        let reply = connection.send(files::operation::OPEN, &request, 64).unwrap();
        let handle: u32 = decode(reply.ok().unwrap()).unwrap();
        let mut request = encode(&files::Write { handle, offset: 0 });
        request.extend_from_slice(bytes);
        connection.send(files::operation::WRITE, &request, 64).unwrap().ok().unwrap();
        handle
    };
    let content: Vec<u8> = (0..3 * MIB + 5).map(|at| (at / 7) as u8).collect();
    write("large", &content);
    write("empty", b"");
    let not_for_reading = write("small", b"as it was");
    let mut reader = open();
    let large = file::map(&mut reader, "large").unwrap();
    assert!(*large == content);
    assert_eq!(file::map(&mut reader, "empty").unwrap().len(), 0);
    // A copy: what is written later is not in it.
    let small = file::map(&mut reader, "small").unwrap();
    write("small", b"as it is now");
    assert_eq!(&small[..], b"as it was");
    assert_eq!(&file::map(&mut reader, "small").unwrap()[..], b"as it is now");
    assert_eq!(refusal(file::map(&mut reader, "nothing")).0, files::status::NOT_FOUND);
    let refused = refusal(file::map_handle(&mut reader, not_for_reading));
    assert_eq!(refused.0, files::status::BAD_HANDLE, "of another connection");
    let refused = refusal(file::map_handle(&mut connection, not_for_reading));
    assert_eq!(refused.0, files::status::NOT_OPEN_FOR);
    // More of them than the server may have regions at a time, all mapped.
    let many: Vec<_> = (0..300).map(|_| file::map(&mut reader, "small").unwrap()).collect();
    drop(reader);
    assert!(many.iter().all(|one| one[..] == *b"as it is now"));
    assert!(*large == content, "a mapping outlives the connection");
    drop(many);
    // Whoever keeps tickets to itself is taken back the oldest; others are served.
    let mut miser = open();
    let request = encode(&files::Open { path: "small", flags: files::OpenFlags::READ, mode: 0 });
    let reply = miser.send(files::operation::OPEN, &request, 64).unwrap();
    let handle: u32 = decode(reply.ok().unwrap()).unwrap();
    let tickets: Vec<files::Mapping> = (0..300)
        .map(|_| {
            let reply = miser.send(files::operation::MAP, &encode(&handle), 64).unwrap();
            decode(reply.ok().unwrap()).unwrap()
        })
        .collect();
    let first = miser.accept(tickets[0].ticket).map(|received| task.map_region(received[0].slot));
    assert!(!matches!(first, Ok(Ok(_))), "revoked");
    let last = miser.accept(tickets[299].ticket).unwrap();
    assert!(task.map_region(last[0].slot).is_ok());
    assert_eq!(&file::map(&mut open(), "small").unwrap()[..], b"as it is now");
}

#[test]
fn a_file_in_memory_is_served_as_a_region() {
    files_are_mapped(&System::start());
}

#[test]
fn a_file_on_a_disk_is_served_as_a_region() {
    let directory = tempfile::tempdir().unwrap();
    files_are_mapped(&System::serving(directory.path()));
}
