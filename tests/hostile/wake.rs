//! Doorbells and futexes: rung for ever, filled, drained, stolen.

use crate::attacker::{Hostile, honest, lines, question, reply_to};
use crate::common::raw::{RawConnection, at, request};
use crate::victim::ECHO;
use rustix::fs::OFlags;
use rustix::thread::futex;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a storm lasts.
const STORM: Duration = Duration::from_millis(200);

fn bell(connection: &RawConnection) -> OwnedFd {
    connection.bell.as_ref().expect("servers are rung by eventfd").try_clone().unwrap()
}

pub(crate) fn doorbell_rung_for_ever(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let bell = bell(&connection);
    let started = Instant::now();
    while started.elapsed() < STORM {
        for _ in 0..100 {
            let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
        }
    }
    // Who rings for nothing is looked at later, and still is.
    honest(&mut connection, 20);
    hostile.is_open(&connection);
    // And goes on ringing while others are judged.
    std::thread::spawn(move || {
        loop {
            let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
        }
    });
}

pub(crate) fn doorbell_filled_and_made_to_block(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let bell = bell(&connection);
    let flags = rustix::fs::fcntl_getfl(&bell).unwrap();
    rustix::fs::fcntl_setfl(&bell, flags - OFlags::NONBLOCK).unwrap();
    rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    // Whoever rings it now waits for ever: nobody else has it. Let go of, it works again.
    let ringing = bell.try_clone().unwrap();
    let waits = std::thread::spawn(move || rustix::io::write(&ringing, &1_u64.to_ne_bytes()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waits.is_finished());
    rustix::io::read(&bell, &mut [0; 8]).unwrap();
    waits.join().unwrap().unwrap();
    honest(&mut connection, 3);
    hostile.is_open(&connection);
}

pub(crate) fn doorbell_drained(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let bell = bell(&connection);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::io::read(&bell, &mut [0; 8]);
            }
        });
        for _ in 0..20 {
            connection.publish(request(ECHO, 0), b"who rings?");
            std::thread::sleep(STORM / 20);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // What it has drained it has cheated itself of. Rung again, all is there.
    connection.ring();
    connection.reply(19);
    hostile.is_open(&connection);
}

/// Waits on, wakes and requeues the waiters of a word, to one of its own.
fn steal(word: &std::sync::atomic::AtomicU32, own: &std::sync::atomic::AtomicU32) {
    let none = futex::Flags::empty();
    let _ = futex::requeue(word, none, 0, i32::MAX as u32, own);
    let _ = futex::wake(word, none, i32::MAX as u32);
    let moment = futex::Timespec { tv_sec: 0, tv_nsec: 1000 };
    let value = word.load(std::sync::atomic::Ordering::Relaxed);
    let _ = futex::wait(word, none, value, Some(&moment));
}

pub(crate) fn every_futex_that_it_can_read(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    honest(&mut connection, 1);
    let started = Instant::now();
    while started.elapsed() < STORM {
        for offset in (0..1024 + lines() as usize * 64).step_by(64) {
            steal(connection.peer.word(offset), connection.own.word(at::DOORBELL));
        }
        for index in 0..64 {
            steal(hostile.task.status.word(index), connection.own.word(at::DOORBELL));
        }
    }
    honest(&mut connection, 3);
    hostile.is_open(&connection);
}

pub(crate) fn wake_up_of_its_own_client_stolen(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    crate::common::eventually("the client sleeps", || {
        (connection.peer.load_u32(at::ASLEEP) & 1 == 1).then_some(())
    });
    // The client sleeps on the server's word; it is moved away from there, then rung.
    std::thread::sleep(Duration::from_millis(20));
    let none = futex::Flags::empty();
    let (bell, other) = (connection.own.word(at::DOORBELL), connection.own.word(at::CPU));
    futex::requeue(bell, none, 0, i32::MAX as u32, other).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    connection.own.publish(0, reply_to(0), b"late");
    connection.ring();
}

pub(crate) fn a_server_that_never_wakes_its_client(hostile: &mut Hostile) {
    let connection = hostile.take_in();
    question(&connection);
    connection.own.store(at::TAKEN, 1);
    crate::common::eventually("the client sleeps", || {
        (connection.peer.load_u32(at::ASLEEP) & 1 == 1).then_some(())
    });
    // Published, and nobody is rung: the client finds it when its deadline passes.
    connection.own.publish(0, reply_to(0), b"silent");
}
