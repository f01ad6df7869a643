//! Recordings of a kernel that runs, and what becomes of damaged ones.

mod system;

use rendez_ipc_core::segment::OwnSegment;
use rendez_kernel::recording::read::Unreadable;
use rendez_kernel::recording::replay::{Failed, Replay};
use rendez_kernel::recording::{End, FORMAT, checksum, digest};
use rendez_kernel::shell::Record;
use rendez_protocol::kernel::{Answer, Doorbell, Event, Request, Shape};
use rendez_protocol::status::Why;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use system::{System, Task, mapped};

/// Has a kernel record to a file while `work` is done; the bytes that it wrote.
fn recorded(bytes_max: u64, work: impl FnOnce(&mut System)) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let file = File::create_new(&path).unwrap();
    let mut system = System::recording(Record { file: file.into(), bytes_max });
    work(&mut system);
    drop(system);
    std::fs::read(&path).unwrap()
}

/// What tasks do: one serves, others connect, by every step; capabilities travel; some just die.
fn work(system: &mut System) {
    let mut server = system.server();
    let mut kept: Vec<Task> = Vec::new();
    for round in 0..10 {
        let mut client = system.visitor("client");
        let doorbell = if round % 2 == 0 { Doorbell::Futex } else { Doorbell::Event };
        let (connection, _, segment) = client.connect(doorbell).unwrap();
        drop(OwnSegment::map(segment, Shape::default()).unwrap());
        let waiting = client.send(&mapped(connection, doorbell));
        let (incoming, mut descriptors) = loop {
            let (event, descriptors) = server.event();
            if let Event::Incoming { .. } = event {
                break (event, descriptors);
            }
        };
        assert!(matches!(incoming, Event::Incoming { connection: it, .. } if it == connection));
        drop(OwnSegment::map(descriptors.remove(0), Shape::default()).unwrap());
        assert_eq!(server.ask(mapped(connection, doorbell)), Answer::Done);
        assert!(matches!(client.answer(waiting).0, Answer::Connected { .. }));
        let slot = client.given("service").slot;
        assert_eq!(client.ask(Request::Watch { slot }), Answer::Done);
        match round % 3 {
            0 => {
                let why = Why::Closed;
                assert_eq!(client.ask(Request::Disconnect { connection, why }), Answer::Done);
            }
            1 => drop(client),
            _ => kept.push(client),
        }
    }
}

/// Runs a recording again: how many steps and effects, and how it ended.
fn again(recording: &[u8]) -> Result<(u64, u64, Option<End>), Failed> {
    let mut replay = Replay::new(recording, 1)?;
    while replay.next_step()?.is_some() {}
    Ok((replay.steps(), replay.effects(), replay.end()))
}

#[test]
fn a_recording_of_a_running_kernel_comes_to_the_same_effects() {
    let recording = recorded(1 << 30, work);
    let (steps, effects, end) = again(&recording).unwrap();
    assert!(steps > 100 && effects > 100, "{steps} steps, {effects} effects");
    assert_eq!(end, Some(End::Stopped));
}

#[test]
fn a_recording_ends_at_its_limit_and_the_kernel_goes_on() {
    let recording = recorded(2048, work);
    assert!(recording.len() <= 2048, "{} bytes", recording.len());
    let (steps, _, end) = again(&recording).unwrap();
    assert!(steps > 5, "{steps} steps");
    assert_eq!(end, Some(End::Limit));
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_kernel() {
    let full: OwnedFd = OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let mut system = System::recording(Record { file: full, bytes_max: 1 << 30 });
    work(&mut system);
    system.visitor("late");
}

#[test]
fn a_recording_says_which_step_came_to_something_else() {
    let recording = recorded(1 << 30, work);
    let third = frames(&recording)[3].clone();
    // The digest is the end of the frame.
    let mut other = recording.clone();
    other[third.end - 1] ^= 1;
    let sum = checksum(&other[third.start + 8..third.end]);
    other[third.start + 4..third.start + 8].copy_from_slice(&sum.to_le_bytes());
    match again(&other) {
        Err(Failed::Different { step, recorded, now }) => {
            assert_eq!(step.number, 3);
            assert_ne!(recorded, now);
            assert_eq!(now, digest(&step.outcome, &step.effects));
            assert!(step.script().contains("task 1.0 asks"), "{}", step.script());
        }
        other => panic!("{other:?}"),
    }
}

/// Where the frames of a recording are.
fn frames(recording: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut at = 12;
    let mut frames = Vec::new();
    while at < recording.len() {
        let length = u32::from_le_bytes(recording[at..at + 4].try_into().unwrap()) as usize;
        frames.push(at..at + 8 + length);
        at += 8 + length;
    }
    frames
}

#[test]
fn damage_is_named_with_its_place() {
    let recording = recorded(1 << 30, work);
    let frames = frames(&recording);
    for (number, frame) in frames.iter().enumerate().step_by(7) {
        for at in [frame.start + 1, frame.start + 5, frame.start + 8, frame.end - 1] {
            let mut damaged = recording.clone();
            damaged[at] ^= 0x20;
            match again(&damaged) {
                Err(Failed::Unreadable(
                    Unreadable::Damaged { offset, .. } | Unreadable::Cut { offset },
                )) => assert_eq!(offset, frame.start as u64, "frame {number}, byte {at}"),
                other => panic!("frame {number}, byte {at}: {other:?}"),
            }
        }
        // Cut off within: what came before is good.
        match again(&recording[..frame.end - 1]) {
            Err(Failed::Unreadable(Unreadable::Cut { offset })) => {
                assert_eq!(offset, frame.start as u64);
            }
            other => panic!("cut within frame {number}: {other:?}"),
        }
    }
    // Cut off between two frames: the kernel was killed.
    let (steps, _, end) = again(&recording[..frames[10].start]).unwrap();
    assert_eq!((steps, end), (9, None));
}

#[test]
fn what_is_no_recording_is_not_read() {
    let recording = recorded(1 << 30, |_| ());
    assert!(matches!(again(b""), Err(Failed::Unreadable(Unreadable::Foreign))));
    assert!(matches!(again(b"#!/bin/sh\nexit\n"), Err(Failed::Unreadable(Unreadable::Foreign))));
    let mut later = recording;
    later[8] += 1;
    match again(&later) {
        Err(Failed::Unreadable(Unreadable::Format { found })) => assert_eq!(found, FORMAT + 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_blocks_holds_up_the_recorder_alone() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // As much as it takes: from now on writing to it blocks until somebody reads.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut system = System::recording(Record { file: writer, bytes_max: 1 << 30 });
    work(&mut system);
    // The writer gets on again: what it says now is that nobody reads.
    drop(reader);
}
