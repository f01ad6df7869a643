//! A protocol of an application's own, model-checked in a plain `cargo test`.
//!
//! The application hands a value from one thread to another through a mailbox of one place: a flag
//! says whether it is full. The mailbox is written once, generic over [`Platform`], so that what
//! ships (`Mailbox<Host>`) is what is explored (`Mailbox<Model>`). A twin that leaves one ordering
//! out must fail: that shows that the model would notice.
//!
//! `docs/guide/models.md` goes through this file.

use loom::thread::spawn;
use rendez::model::{Model, Sound, Twin, connection, expect_failure, explore};
use rendez::platform::{Atomic, Body, Host, Label, Platform};
use rendez::{Buffer, NEVER, Status};
use std::sync::atomic::Ordering::{Acquire, Release};

/// A place for one line of data, and whether it is full. One thread puts, one takes.
struct Mailbox<P: Platform> {
    full: P::U32,
    place: P::Body,
}

impl<P: Platform> Mailbox<P> {
    fn new() -> Self {
        Self { full: P::U32::new(0), place: P::Body::new() }
    }

    /// Puts a value, if the place is free.
    fn put(&self, value: [u8; 16]) -> bool {
        // ORDERING(freed): Acquire; the taker has copied before the place is written again.
        if self.full.load(P::ordering(Label::FreedAcquire, Acquire)) != 0 {
            return false;
        }
        self.place.write(value, &[]);
        // ORDERING(turn): Release; the value is there before the flag. Pairs with `take`.
        self.full.store(1, P::ordering(Label::TurnRelease, Release));
        true
    }

    /// Takes the value, if there is one.
    fn take(&self) -> Option<[u8; 16]> {
        // ORDERING(turn): Acquire; pairs with `put`.
        if self.full.load(P::ordering(Label::TurnAcquire, Acquire)) == 0 {
            return None;
        }
        let value = self.place.header();
        // ORDERING(freed): Release; pairs with `put`.
        self.full.store(0, P::ordering(Label::FreedRelease, Release));
        Some(value)
    }
}

/// Two values through one place: do both arrive, in order, unmixed?
fn hand_over<T: Twin>() {
    let mailbox = loom::sync::Arc::new(Mailbox::<Model<T>>::new());
    let taking = mailbox.clone();
    let putter = spawn(move || {
        for n in 1..=2 {
            while !mailbox.put([n; 16]) {
                loom::thread::yield_now();
            }
        }
    });
    let taker = spawn(move || {
        for n in 1..=2 {
            let value = loop {
                match taking.take() {
                    Some(value) => break value,
                    None => loom::thread::yield_now(),
                }
            };
            assert_eq!(value, [n; 16]);
        }
    });
    putter.join().expect("the putter");
    taker.join().expect("the taker");
}

#[derive(Debug)]
enum WithoutTurn {}
impl Twin for WithoutTurn {
    const WEAK: Option<Label> = Some(Label::TurnRelease);
}

#[derive(Debug)]
enum WithoutFreed {}
impl Twin for WithoutFreed {
    const WEAK: Option<Label> = Some(Label::FreedAcquire);
}

#[test]
fn what_is_put_is_taken() {
    explore(10, hand_over::<Sound>);
}

#[test]
fn not_without_the_ordering_of_the_flag() {
    expect_failure("not_without_the_ordering_of_the_flag", hand_over::<WithoutTurn>);
}

#[test]
fn not_without_the_ordering_of_the_free_place() {
    expect_failure("not_without_the_ordering_of_the_free_place", hand_over::<WithoutFreed>);
}

#[test]
fn the_same_code_runs_on_the_machine() {
    let mailbox = std::sync::Arc::new(Mailbox::<Host>::new());
    let taking = mailbox.clone();
    let taker = std::thread::spawn(move || {
        (0..100u8).for_each(|n| {
            let value = loop {
                match taking.take() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(value, [n; 16]);
        });
    });
    for n in 0..100 {
        while !mailbox.put([n; 16]) {
            std::thread::yield_now();
        }
    }
    taker.join().expect("the taker");
}

/// A server's logic of one's own behind Rendez's connection, both under the model: the counter is
/// incremented once for each answer, whatever the interleaving.
#[test]
fn a_server_of_your_own_over_the_real_protocol() {
    explore(20, || {
        let (mut client, mut server, _kernel) = connection::<Sound>(1, 1);
        let serving = spawn(move || {
            let mut counter = 0;
            let mut request = Buffer::new();
            for _ in 0..2 {
                let taken = server.receive_blocking(&mut request);
                counter += request[0];
                server.port().reply(&taken, Status::OK, &[counter]);
            }
        });
        let sending = spawn(move || {
            let mut reply = Buffer::new();
            for expected in [5, 10] {
                assert_eq!(client.send(1, &[5], 1, NEVER, &mut reply), Ok(Status::OK));
                assert_eq!(&reply[..], [expected]);
            }
        });
        serving.join().expect("the server");
        sending.join().expect("the client");
    });
}
