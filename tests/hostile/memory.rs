//! Memory files: said to be mapped when they are not whole, not sealed, held, shrunk, opened again.

use crate::attacker::{Hostile, honest, over_quota};
use crate::common::raw::{Memory, RawTask, offer, request};
use crate::common::skip;
use crate::hold::Hold;
use crate::victim::READ_REGION;
use rendez::protocol::encode;
use rendez::protocol::kernel::{
    Answer, Doorbell, Hello, KernelError, RegionKind, Request, Shape, Travel, frame,
};
use rendez::{Rights, Status};
use rendez_ipc_core::control::{Mode, send_frame};
use rendez_ipc_core::status::{PAGE_BYTES, SEALS};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

fn fill(file: &OwnedFd, bytes: usize) {
    rustix::io::pwrite(file, &vec![1; bytes], 0).unwrap();
}

fn punch(file: &OwnedFd) -> rustix::io::Result<()> {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096)
}

/// Says that a segment is mapped, which it is not as it should be; the refusal's words.
fn spoilt(hostile: &mut Hostile, spoil: impl FnOnce(&OwnedFd, usize)) -> String {
    let slot = hostile.victim();
    let (connection, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    spoil(&own, Shape::default().segment_bytes());
    let mapped = Request::Mapped { connection, doorbell: Doorbell::Futex };
    match hostile.task.refused(&mapped) {
        KernelError::Order(text) => text,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn segment_unsealed(hostile: &mut Hostile) {
    assert!(spoilt(hostile, fill).contains("lacks the seals"));
}

pub(crate) fn segment_with_other_seals(hostile: &mut Hostile) {
    let text = spoilt(hostile, |own, bytes| {
        fill(own, bytes);
        fcntl_add_seals(own, SealFlags::SEAL).unwrap();
    });
    assert!(text.contains("lacks the seals"));
}

pub(crate) fn segment_never_populated(hostile: &mut Hostile) {
    let text = spoilt(hostile, |own, _| fcntl_add_seals(own, SEALS).unwrap());
    assert!(text.contains("a hole"));
}

pub(crate) fn segment_with_a_hole(hostile: &mut Hostile) {
    let text = spoilt(hostile, |own, bytes| {
        fill(own, bytes);
        punch(own).unwrap();
        fcntl_add_seals(own, SEALS).unwrap();
    });
    assert!(text.contains("a hole"));
}

pub(crate) fn segment_shrunk(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let (_, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    for size in [0, 4096, 1 << 40] {
        assert_eq!(ftruncate(&own, size), Err(rustix::io::Errno::PERM));
    }
    let beyond = fallocate(&own, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20);
    assert_eq!(beyond, Err(rustix::io::Errno::PERM));
}

pub(crate) fn segment_changed_once_it_is_read(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let (connection, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    let _mapped = Memory::own(&own, Shape::default());
    let mapped = Request::Mapped { connection, doorbell: Doorbell::Futex };
    let (answer, _) = hostile.task.ask(&mapped);
    assert!(matches!(answer, Answer::Connected { .. }), "{answer:?}");
    let refused = Err(rustix::io::Errno::PERM);
    assert_eq!(ftruncate(&own, 0), refused);
    assert_eq!(punch(&own), refused);
    assert_eq!(rustix::io::pwrite(&own, &[9], 0).map(drop), refused);
    // Opened once more, as whoever has it can.
    let path = format!("/proc/self/fd/{}", own.as_raw_fd());
    if let Ok(again) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
        let again = OwnedFd::from(again);
        assert_eq!(rustix::io::pwrite(&again, &[9], 0).map(drop), refused);
        assert_eq!(ftruncate(&again, 0), refused);
        assert!(Memory::is_not_writable(&again, 4096));
    }
}

pub(crate) fn everything_mapped_opened_again(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    // The victim's segment, its own status words, its own page: all by way of its mappings.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains("/memfd:rendez-"));
    let mut seen = 0;
    for line in ours {
        let range = line.split(' ').next().unwrap();
        let path = format!("/proc/self/map_files/{range}");
        // Only the privileged may.
        let options = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let Ok(file) = options.map(OwnedFd::from) else { continue };
        seen += 1;
        assert!(rustix::io::pwrite(&file, &[9], 0).is_err(), "{line}");
        assert!(ftruncate(&file, 0).is_err(), "{line}");
        assert!(punch(&file).is_err(), "{line}");
        assert!(Memory::is_not_writable(&file, 4096), "{line}");
    }
    if seen == 0 {
        skip("Linux lets nobody open mappings but the privileged");
    }
    honest(&mut connection, 1);
}

pub(crate) fn segment_said_mapped_twice(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let again = Request::Mapped { connection: connection.id, doorbell: Doorbell::Event };
    assert!(matches!(hostile.task.refused(&again), KernelError::Order(_)));
    honest(&mut connection, 1);
}

pub(crate) fn segment_whose_lock_is_held(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let (connection, _, own) = hostile.task.begin_to_connect(slot).unwrap();
    let Some(hold) = Hold::of(&own) else {
        return skip("Linux does not let us use userfaultfd in a write");
    };
    let mapped = Request::Mapped { connection, doorbell: Doorbell::Futex };
    let refused = hostile.task.refused(&mapped);
    assert!(matches!(refused, KernelError::Order(_)), "{refused:?}");
    // Held for as long as it lives.
    std::mem::forget((hold, own));
}

pub(crate) fn page_never_populated(socket: OwnedFd, _: &crate::common::Role) {
    send_frame(&socket, 1, frame::HELLO, &Hello::OURS.to_bytes(), &[], Mode::Wait).unwrap();
    let _welcome = crate::common::raw::next(&socket).unwrap();
    let said = encode(&Request::PageMapped);
    send_frame(&socket, 2, frame::REQUEST, &said, &[], Mode::Wait).unwrap();
    std::thread::park();
}

pub(crate) fn page_of_rubbish(socket: OwnedFd, role: &crate::common::Role) {
    let task = RawTask::greet_with(socket, Hello::OURS, |page| {
        let rubbish = vec![0xff; 1 << 20];
        for offset in (0..PAGE_BYTES).step_by(rubbish.len()) {
            let bytes = rubbish.len().min(PAGE_BYTES - offset);
            rustix::io::pwrite(page, &rubbish[..bytes], offset as u64).unwrap();
        }
    })
    .unwrap();
    role.say("done");
    std::mem::forget(task);
    role.wait_for_ever();
}

/// Says that an arena is mapped, which it is not as it should be.
fn spoilt_arena(hostile: &mut Hostile, spoil: impl FnOnce(&OwnedFd)) {
    let mut connection = hostile.connect();
    let id = connection.id;
    let attach = Request::Attach { connection: id, requests: 8192, replies: 0 };
    let (Answer::Attaching { arena, .. }, descriptors) = hostile.task.ask(&attach) else {
        panic!()
    };
    spoil(&descriptors[0]);
    let refused = hostile.task.refused(&Request::ArenaMapped { connection: id, arena });
    assert!(matches!(refused, KernelError::Order(_)), "{refused:?}");
    honest(&mut connection, 1);
}

pub(crate) fn arena_unsealed(hostile: &mut Hostile) {
    spoilt_arena(hostile, |own| fill(own, 8192));
}

pub(crate) fn arena_with_a_hole(hostile: &mut Hostile) {
    spoilt_arena(hostile, |own| {
        fill(own, 8192);
        punch(own).unwrap();
        fcntl_add_seals(own, SEALS).unwrap();
    });
}

pub(crate) fn spare_unsealed(hostile: &mut Hostile) {
    let shape = Shape::default();
    for _ in 0..100 {
        let (Answer::Spare { spare }, _) = hostile.task.ask(&Request::Spare { shape }) else {
            panic!()
        };
        let said = Request::SpareMapped { spare, doorbell: Doorbell::Event };
        let refused = hostile.task.refused(&said);
        assert!(matches!(refused, KernelError::Order(_)), "{refused:?}");
    }
}

pub(crate) fn spare_of_rubbish(hostile: &mut Hostile) {
    let shape = Shape::default();
    let (Answer::Spare { spare }, descriptors) = hostile.task.ask(&Request::Spare { shape }) else {
        panic!()
    };
    rustix::io::pwrite(&descriptors[0], &vec![0xff; shape.segment_bytes()], 0).unwrap();
    fcntl_add_seals(&descriptors[0], SEALS).unwrap();
    let said = Request::SpareMapped { spare, doorbell: Doorbell::Futex };
    assert_eq!(hostile.task.ask(&said).0, Answer::Done);
    let connect = Request::Connect {
        slot: hostile.victim(),
        interface: None,
        requests: shape,
        replies: shape,
        doorbell: Doorbell::Futex,
    };
    let (answer, _) = hostile.task.ask(&connect);
    let Answer::Connected { connection, .. } = answer else { panic!("{answer:?}") };
    crate::common::eventually("it is shown out", || {
        let (event, _) = hostile.task.event();
        let closed =
            rendez::protocol::kernel::Event::Closed { connection, why: rendez::Why::Protocol };
        (event == closed).then_some(())
    });
}

fn region(hostile: &mut Hostile, kind: RegionKind) -> (rendez::Slot, OwnedFd) {
    match hostile.task.ask(&Request::CreateRegion { bytes: 8192, kind }) {
        (Answer::Region(received), mut files) => (received.slot, files.pop().unwrap()),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn region_unsealed(hostile: &mut Hostile) {
    for kind in [RegionKind::Sealed, RegionKind::Published] {
        let (slot, file) = region(hostile, kind);
        fill(&file, 8192);
        let refused = hostile.task.refused(&Request::RegionSealed { slot });
        assert!(matches!(refused, KernelError::Order(_)), "{refused:?}");
    }
}

pub(crate) fn region_with_a_hole(hostile: &mut Hostile) {
    let (slot, file) = region(hostile, RegionKind::Published);
    fill(&file, 4096);
    fcntl_add_seals(&file, SEALS).unwrap();
    let refused = hostile.task.refused(&Request::RegionSealed { slot });
    assert!(matches!(refused, KernelError::Order(_)), "{refused:?}");
}

pub(crate) fn region_emptied_while_it_is_read(hostile: &mut Hostile) {
    let (slot, file) = region(hostile, RegionKind::Shared);
    fill(&file, 8192);
    let mut connection = hostile.connect();
    let rights = Rights::MAP_READ | Rights::MAP_WRITE;
    let offer = offer(connection.id, slot, rights, Travel::Mint);
    let Answer::Ticket(ticket) = hostile.task.ask(&offer).0 else { panic!() };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(ftruncate(&file, 0), Err(rustix::io::Errno::PERM));
                punch(&file).unwrap();
            }
        });
        let position = connection.publish(request(READ_REGION, 64), &encode(&ticket));
        assert_eq!(connection.reply(position), Status::OK.0);
        over.store(true, Ordering::Relaxed);
    });
}

pub(crate) fn half_made_connections_hoarded(hostile: &mut Hostile) {
    let slot = hostile.victim();
    let mut hoarded = Vec::new();
    let refused = loop {
        match hostile.task.begin_to_connect(slot) {
            Ok((connection, ..)) => hoarded.push(connection),
            Err(error) => break error,
        }
        assert!(hoarded.len() < 20_000, "without end");
    };
    over_quota(&refused);
}
