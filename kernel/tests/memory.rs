//! Memory that tasks share through the kernel's shell, over real sockets: arenas, regions, spares.
//!
//! Every receive has a time limit (`PATIENCE`), so that what hangs fails.

mod system;

use rendez_ipc_core::segment::{OwnSegment, SEALS, check_sealed};
use rendez_protocol::kernel::{
    Answer, DoorRule, Doorbell, Event, Give, KernelError, Limits, Received, RegionKind, Request,
    Shape,
};
use rendez_protocol::status::Why;
use rendez_protocol::{ArenaId, ConnectionId, Rights, Slot, SpareId};
use rustix::fs::SealFlags;
use std::os::fd::OwnedFd;
use system::{System, Task, mapped};

/// Fills a memory file, as a mapping of it that is populated does.
fn fill(file: &OwnedFd, bytes: usize, with: u8) {
    let content = vec![with; bytes];
    assert_eq!(rustix::io::pwrite(file, &content, 0).unwrap(), bytes);
}

fn first_byte(file: &OwnedFd) -> u8 {
    let mut byte = [0];
    assert_eq!(rustix::io::pread(file, &mut byte, 0).unwrap(), 1);
    byte[0]
}

fn one(descriptors: Vec<OwnedFd>) -> OwnedFd {
    let [one] = <[OwnedFd; 1]>::try_from(descriptors).expect("one descriptor");
    one
}

/// Connects `client` to `server`, both doing what they should.
fn connected(client: &mut Task, server: &mut Task) -> ConnectionId {
    let (connection, _, own) = client.connect(Doorbell::Futex).unwrap();
    drop(OwnSegment::map(own, Shape::default()).unwrap());
    let waits = client.send(&mapped(connection, Doorbell::Futex));
    let (event, descriptors) = server.event();
    assert!(matches!(event, Event::Incoming { .. }), "{event:?}");
    let own = descriptors.into_iter().next().unwrap();
    drop(OwnSegment::map(own, Shape::default()).unwrap());
    assert_eq!(server.ask(mapped(connection, Doorbell::Futex)), Answer::Done);
    assert!(matches!(client.answer(waits).0, Answer::Connected { .. }));
    connection
}

fn attaching(
    client: &mut Task,
    connection: ConnectionId,
    requests: u32,
    replies: u32,
) -> (ArenaId, OwnedFd) {
    match client.ask_for(Request::Attach { connection, requests, replies }) {
        (Answer::Attaching { arena, .. }, descriptors) => (arena, one(descriptors)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arenas_are_attached_in_both_directions_and_detached() {
    const BYTES: usize = 1 << 20;
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let connection = connected(&mut client, &mut server);
    for round in 1..=3 {
        let (arena, own) = attaching(&mut client, connection, BYTES as u32, 8192);
        assert_eq!(arena, ArenaId(round));
        fill(&own, BYTES, 1);
        rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
        drop(own);
        let waits = client.send(&Request::ArenaMapped { connection, arena });

        let (event, descriptors) = server.event();
        let requests = BYTES as u32;
        assert_eq!(event, Event::Attach { connection, arena, requests, replies: 8192 });
        let [own, theirs] = <[OwnedFd; 2]>::try_from(descriptors).unwrap();
        check_sealed(&theirs, BYTES).unwrap();
        assert_eq!(first_byte(&theirs), 1);
        assert!(rustix::io::write(&theirs, &[9]).is_err(), "nobody else writes");
        fill(&own, 8192, 2);
        rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
        drop(own);
        assert_eq!(server.ask(Request::ArenaMapped { connection, arena }), Answer::Done);

        let (answer, descriptors) = client.answer(waits);
        assert_eq!(answer, Answer::Attached);
        let theirs = one(descriptors);
        check_sealed(&theirs, 8192).unwrap();
        assert_eq!(first_byte(&theirs), 2);

        assert_eq!(client.ask(Request::Detach { connection, arena }), Answer::Done);
        assert_eq!(server.event().0, Event::Detached { connection, arena });
    }
    // In one direction.
    let (arena, own) = attaching(&mut client, connection, 4096, 0);
    fill(&own, 4096, 1);
    rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
    let waits = client.send(&Request::ArenaMapped { connection, arena });
    let (event, descriptors) = server.event();
    assert_eq!(event, Event::Attach { connection, arena, requests: 4096, replies: 0 });
    assert_eq!(first_byte(&one(descriptors)), 1);
    assert_eq!(server.ask(Request::ArenaMapped { connection, arena }), Answer::Done);
    let (answer, descriptors) = client.answer(waits);
    assert_eq!((answer, descriptors.len()), (Answer::Attached, 0));
}

#[test]
fn an_arena_with_a_hole_or_without_its_seals_is_refused_alone() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let connection = connected(&mut client, &mut server);
    let spoil: [fn(&OwnedFd); 3] = [
        |own| rustix::fs::fcntl_add_seals(own, SEALS).unwrap(),
        |own| fill(own, 8192, 1),
        |own| {
            fill(own, 8192, 1);
            rustix::fs::fcntl_add_seals(own, SealFlags::SEAL).unwrap();
        },
    ];
    for spoil in spoil {
        // The client's.
        let (arena, own) = attaching(&mut client, connection, 8192, 0);
        spoil(&own);
        let answer = client.ask(Request::ArenaMapped { connection, arena });
        assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
        // The server's.
        let (arena, own) = attaching(&mut client, connection, 8192, 8192);
        fill(&own, 8192, 1);
        rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
        let waits = client.send(&Request::ArenaMapped { connection, arena });
        let (event, descriptors) = server.event();
        assert!(matches!(event, Event::Attach { .. }), "{event:?}");
        spoil(&descriptors[0]);
        let answer = server.ask(Request::ArenaMapped { connection, arena });
        assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
        let refused = KernelError::NotAttached { arena, why: Why::Protocol };
        assert_eq!(client.answer(waits).0, Answer::Error(refused));
    }
    let (event, _) = {
        client.ask(Request::Disconnect { connection, why: Why::Closed });
        server.event()
    };
    assert_eq!(event, Event::Closed { connection, why: Why::Closed }, "it was there all the time");
}

#[test]
fn arenas_for_a_server_that_does_not_read_are_refused_at_a_bound() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let mut waits = Vec::new();
    let mut refused = None;
    let connections: Vec<_> = (0..40).map(|_| connected(&mut client, &mut server)).collect();
    'all: for connection in connections {
        for _ in 0..8 {
            let (arena, own) = attaching(&mut client, connection, 4096, 4096);
            fill(&own, 4096, 1);
            rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
            let transaction = client.send(&Request::ArenaMapped { connection, arena });
            let probe = client.send(&Request::CreateEndpoint);
            let frame = system::next(&client.socket).unwrap();
            if frame.transaction == transaction {
                refused = Some(system::answer_of(frame).0);
                client.answer(probe);
                break 'all;
            }
            assert_eq!(frame.transaction, probe);
            waits.push(transaction);
        }
    }
    match refused {
        Some(Answer::Error(KernelError::NotAttached { why: Why::Quota, .. })) => {}
        other => panic!("{other:?}"),
    }
    // The server reads after all: those that waited are all there, in order.
    for waits in waits {
        let (event, _) = server.event();
        let Event::Attach { connection, arena, .. } = event else { panic!("{event:?}") };
        assert_eq!(server.ask(Request::Detach { connection, arena }), Answer::Done);
        let refused = KernelError::NotAttached { arena, why: Why::Denied };
        assert_eq!(client.answer(waits).0, Answer::Error(refused));
    }
}

fn region(task: &mut Task, bytes: u64, kind: RegionKind) -> (Received, OwnedFd) {
    match task.ask_for(Request::CreateRegion { bytes, kind }) {
        (Answer::Region(received), descriptors) => (received, one(descriptors)),
        other => panic!("{other:?}"),
    }
}

fn map(task: &mut Task, slot: Slot, write: bool) -> Result<OwnedFd, KernelError> {
    match task.ask_for(Request::MapRegion { slot, write }) {
        (Answer::Mapping { .. }, descriptors) => Ok(one(descriptors)),
        (Answer::Error(error), _) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// A system whose visitors are given a capability to `region` of its first task.
fn given(first: &mut Task, region: Slot, rights: Rights) {
    let kernel = first.given("kernel").slot;
    let give = vec![Give {
        name: "region".into(),
        slot: region,
        rights,
        badge: None,
        limits: Limits::SAME,
    }];
    let rules = vec![DoorRule { uid: None, give, quotas: vec![] }];
    assert_eq!(first.ask(Request::FrontDoor { slot: kernel, rules }), Answer::Done);
}

/// Whether a file can be opened once more for writing, and then written.
fn can_be_written(file: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let again = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let fresh = again.is_ok_and(|again| rustix::io::pwrite(&again, &[9], 0).is_ok());
    fresh || rustix::io::pwrite(file, &[9], 0).is_ok()
}

#[test]
fn a_region_that_is_sealed_is_read_by_who_may_and_written_by_nobody() {
    const BYTES: usize = 1 << 20;
    let write = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    for (kind, seals) in [(RegionKind::Sealed, write), (RegionKind::Published, SEALS)] {
        let mut system = System::start();
        let mut first = system.first();
        let (own, file) = region(&mut first, BYTES as u64, kind);
        given(&mut first, own.slot, Rights::MAP_READ);
        let mut reader = system.visitor("reader");
        let theirs = reader.given("region").slot;
        assert!(matches!(map(&mut reader, theirs, false), Err(KernelError::Order(_))));
        let error = first.ask(Request::RegionSealed { slot: own.slot });
        assert!(matches!(error, Answer::Error(KernelError::Order(_))), "{error:?}");
        fill(&file, BYTES, 5);
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        drop(file);
        assert_eq!(first.ask(Request::RegionSealed { slot: own.slot }), Answer::Done);

        assert!(matches!(map(&mut reader, theirs, true), Err(KernelError::Denied(_))));
        for _ in 0..2 {
            let file = map(&mut reader, theirs, false).unwrap();
            assert!(rustix::fs::fcntl_get_seals(&file).unwrap().contains(seals));
            assert_eq!(first_byte(&file), 5);
            assert!(!can_be_written(&file));
            assert!(rustix::fs::ftruncate(&file, 0).is_err());
        }
        // It outlives its maker's capability, and ends with the last.
        let before = map(&mut reader, theirs, false).unwrap();
        assert_eq!(first.ask(Request::Delete { slot: own.slot }), Answer::Done);
        drop(map(&mut reader, theirs, false).unwrap());
        assert_eq!(reader.ask(Request::Delete { slot: theirs }), Answer::Done);
        assert_eq!(map(&mut reader, theirs, false).unwrap_err(), KernelError::BadSlot(theirs));
        assert_eq!(first_byte(&before), 5, "who has it keeps it");
    }
}

#[test]
fn a_shared_region_is_written_by_all_who_may_and_read_by_nobody_else() {
    let mut system = System::start();
    let mut first = system.first();
    let (own, file) = region(&mut first, 1 << 30, RegionKind::Shared);
    given(&mut first, own.slot, Rights::MAP_READ | Rights::MAP_WRITE);
    let mut writer = system.visitor("writer");
    let slot = writer.given("region").slot;
    let theirs = map(&mut writer, slot, true).unwrap();
    assert_eq!(rustix::io::pwrite(&theirs, &[3], 0).unwrap(), 1);
    assert_eq!(first_byte(&file), 3);
    for file in [&file, &theirs] {
        assert!(rustix::fs::ftruncate(file, 4096).is_err(), "its size stands");
        let late = rustix::fs::fcntl_add_seals(file, SealFlags::WRITE);
        assert!(late.is_err(), "and nobody takes writing from the others");
    }
    // This is why reading alone is refused: no descriptor would keep its holder from writing.
    assert!(can_be_written(&theirs));
    given(&mut first, own.slot, Rights::MAP_READ);
    let mut reader = system.visitor("reader");
    let slot = reader.given("region").slot;
    for write in [false, true] {
        let refused = map(&mut reader, slot, write).unwrap_err();
        let missing = Rights::MAP_WRITE;
        let held = Rights::MAP_READ;
        assert_eq!(refused, KernelError::MissingRights { slot, missing, held });
    }
}

/// Has a task make a spare of the default shape, filled with one byte.
fn spare(task: &mut Task, with: u8, doorbell: Doorbell) -> SpareId {
    let shape = Shape::default();
    let (Answer::Spare { spare }, descriptors) = task.ask_for(Request::Spare { shape }) else {
        panic!("no spare")
    };
    let own = one(descriptors);
    fill(&own, shape.segment_bytes(), with);
    rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
    assert_eq!(task.ask(Request::SpareMapped { spare, doorbell }), Answer::Done);
    spare
}

fn connect(task: &mut Task) -> u64 {
    let shape = Shape::default();
    let slot = task.given("service").slot;
    task.send(&Request::Connect {
        slot,
        interface: None,
        requests: shape,
        replies: shape,
        doorbell: Doorbell::Futex,
    })
}

#[test]
fn with_spares_a_connection_is_there_at_once() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    for (with, doorbell) in [(1, Doorbell::Event), (3, Doorbell::Futex)] {
        let ours = spare(&mut client, with, Doorbell::Futex);
        let theirs = spare(&mut server, with + 1, doorbell);
        let asked = connect(&mut client);
        let (answer, mut descriptors) = client.answer(asked);
        let Answer::Connected { connection, spare, rings, .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((spare, rings), (Some(ours), doorbell));
        let replies = descriptors.remove(0);
        check_sealed(&replies, Shape::default().segment_bytes()).unwrap();
        assert_eq!(first_byte(&replies), with + 1);
        let (event, mut others) = server.event();
        let Event::Incoming { connection: same, spare, .. } = event else { panic!("{event:?}") };
        assert_eq!((same, spare), (connection, Some(theirs)));
        assert_eq!(first_byte(&others.remove(0)), with);
        // The bell, if there is one, was made with the spare.
        assert_eq!(
            (descriptors.len(), others.len()),
            match doorbell {
                Doorbell::Event => (1, 1),
                Doorbell::Futex => (0, 0),
            }
        );
        if let (Some(ring), Some(wait)) = (descriptors.pop(), others.pop()) {
            rustix::io::write(&ring, &1_u64.to_ne_bytes()).unwrap();
            let mut polled = [rustix::event::PollFd::new(&wait, rustix::event::PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
        }
        let why = Why::Denied;
        assert_eq!(server.ask(Request::Disconnect { connection, why }), Answer::Done);
        assert_eq!(client.event().0, Event::Closed { connection, why });
    }
    // They are used up: step by step.
    let asked = connect(&mut client);
    assert!(matches!(client.answer(asked).0, Answer::Connecting { .. }));
}

#[test]
fn a_spare_with_a_hole_or_without_its_seals_is_refused() {
    let mut system = System::start();
    let _first = system.first();
    let mut task = system.visitor("client");
    let doorbell = Doorbell::Event;
    for fills in [false, true] {
        let shape = Shape::default();
        let (Answer::Spare { spare }, descriptors) = task.ask_for(Request::Spare { shape }) else {
            panic!("no spare")
        };
        let own = one(descriptors);
        if fills {
            fill(&own, shape.segment_bytes(), 1);
        } else {
            rustix::fs::fcntl_add_seals(&own, SEALS).unwrap();
        }
        let answer = task.ask(Request::SpareMapped { spare, doorbell });
        assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
        let answer = task.ask(Request::DropSpare { spare });
        assert_eq!(answer, Answer::Error(KernelError::BadSpare(spare)), "it is gone");
    }
}

#[test]
fn a_server_that_does_not_read_hears_of_every_spare_that_is_taken() {
    let mut system = System::start();
    let mut server = system.server();
    let mut client = system.visitor("client");
    let theirs: Vec<_> = (0..8).map(|_| spare(&mut server, 2, Doorbell::Event)).collect();
    let mut connections = Vec::new();
    for _ in &theirs {
        spare(&mut client, 1, Doorbell::Futex);
        let asked = connect(&mut client);
        let (answer, _) = client.answer(asked);
        let Answer::Connected { connection, .. } = answer else { panic!("{answer:?}") };
        let why = Why::Closed;
        assert_eq!(client.ask(Request::Disconnect { connection, why }), Answer::Done);
        connections.push(connection);
    }
    let mut taken = Vec::new();
    let mut closed = Vec::new();
    for _ in 0..2 * theirs.len() {
        match server.event().0 {
            Event::Incoming { spare: Some(spare), .. } => taken.push(spare),
            Event::Closed { connection, .. } => closed.push(connection),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, closed), (theirs, connections));
}
