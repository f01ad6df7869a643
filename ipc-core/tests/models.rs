//! The protocol under loom: each model asks one question of the code that ships, and each ordering
//! and fence has a broken twin that must fail.
//!
//! A twin runs the same body on a platform that weakens one label. Every role runs in a spawned
//! thread (loom keeps one last access per object, and the main thread's own would hide others),
//! and where it matters in both spawn orders.

use loom::thread::{JoinHandle, spawn};
use rendez_ipc_core::arena::{Lent, Releases, Words};
use rendez_ipc_core::bits::{PostEnd, Posted, TakeEnd};
use rendez_ipc_core::client::{NEVER, SendError};
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::model::{
    Model, ModelBell, ModelStatus, SharedHalf, Sound, Twin, connection, expect_failure, explore,
};
use rendez_ipc_core::notification::{Acknowledger, Poster};
use rendez_ipc_core::platform::{Area, Half, Label};
use rendez_ipc_core::ring::{Buffer, Reader, Writer};
use rendez_ipc_core::server::Found;
use rendez_protocol::message::Header;
use rendez_protocol::status::{ConnectionState, Status, Why};
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! twin {
    ($name:ident) => {
        #[derive(Debug)]
        enum $name {}
        impl Twin for $name {
            const WEAK: Option<Label> = Some(Label::$name);
        }
    };
}
twin!(TurnRelease);
twin!(TurnAcquire);
twin!(FreedRelease);
twin!(FreedAcquire);
twin!(StatusRelease);
twin!(PublishFence);
twin!(SleepFence);
twin!(TakeFence);
twin!(WithdrawFence);
twin!(PostFence);
twin!(AcknowledgeFence);
twin!(StandFence);
twin!(ReleaseRelease);
twin!(ReleaseAcquire);

const HEADER: Header = Header { length: 0, flags: 0, code: 7, room: 0, word: 0 };

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("a role");
    }
}

/// Spawns the two roles, the second first if `swapped`.
fn both(
    swapped: bool,
    first: impl FnOnce() + 'static,
    second: impl FnOnce() + 'static,
) -> [JoinHandle<()>; 2] {
    if swapped {
        let second = spawn(second);
        [spawn(first), second]
    } else {
        [spawn(first), spawn(second)]
    }
}

#[allow(clippy::type_complexity, reason = "five things that belong together for a few lines")]
fn ring<T: Twin>(
    lines: usize,
    area_lines: usize,
) -> (Ours<Model<T>>, Theirs<Model<T>>, SharedHalf<T>, Writer, Reader) {
    let half = SharedHalf::<T>::new(lines, area_lines);
    let (ours, theirs) = (Ours::<Model<T>>::new(half.clone()), Theirs::<Model<T>>::new(half));
    let (writer, reader) = (Writer::new(&ours), Reader::new(&theirs));
    (ours, theirs, SharedHalf::<T>::new(lines, area_lines), writer, reader)
}

/// One message, published and consumed: is what is read what was written?
fn publish<T: Twin>(swapped: bool) {
    let (ours, theirs, _, mut writer, mut reader) = ring::<T>(1, 1);
    join(both(
        swapped,
        move || {
            writer.publish(&ours, HEADER, &[5; 80]);
        },
        move || {
            let mut out = Buffer::new();
            loop {
                if let Some(header) = reader.peek(&theirs).expect("no fault") {
                    reader.copy(&theirs, &header, &mut out);
                    reader.advance(&header);
                    break;
                }
                loom::thread::yield_now();
            }
            assert_eq!(out.as_slice(), [5; 80]);
        },
    ));
}

#[test]
fn ring_publishes() {
    explore(4, || publish::<Sound>(false));
    explore(4, || publish::<Sound>(true));
}

#[test]
fn ring_publishes_not_without_the_release_of_the_turn() {
    expect_failure("ring_publishes_not_without_the_release_of_the_turn", || {
        publish::<TurnRelease>(false);
    });
}

#[test]
fn ring_publishes_not_without_the_acquire_of_the_turn() {
    expect_failure("ring_publishes_not_without_the_acquire_of_the_turn", || {
        publish::<TurnAcquire>(false);
    });
}

/// `messages` messages through a ring of `lines`: the writer meets the full edge, the reader the
/// empty one, and lines are used again only when they were read.
fn laps<T: Twin>(lines: usize, messages: u8, swapped: bool) {
    let (ours, theirs, back, mut writer, mut reader) = ring::<T>(lines, 1);
    // The reader says in a segment of its own what it has freed.
    let (freed_ours, freed_theirs) =
        (Ours::<Model<T>>::new(back.clone()), Theirs::<Model<T>>::new(back));
    join(both(
        swapped,
        move || {
            for n in 0..messages {
                while !writer.has_room(&freed_theirs, 1).expect("no fault") {
                    loom::thread::yield_now();
                }
                writer.publish(&ours, HEADER, &[n]);
            }
        },
        move || {
            let mut out = Buffer::new();
            let mut n = 0;
            while n < messages {
                if let Some(header) = reader.peek(&theirs).expect("no fault") {
                    reader.copy(&theirs, &header, &mut out);
                    assert_eq!(out.as_slice(), [n]);
                    reader.advance(&header);
                    reader.publish_freed(&freed_ours);
                    n += 1;
                } else {
                    loom::thread::yield_now();
                }
            }
        },
    ));
}

#[test]
fn ring_full_and_empty() {
    explore(10, || laps::<Sound>(1, 2, false));
    explore(10, || laps::<Sound>(2, 3, true));
}

#[test]
fn ring_wraps() {
    explore(10, || laps::<Sound>(1, 3, true));
}

#[test]
fn ring_frees_not_without_the_release_of_freed() {
    expect_failure("ring_frees_not_without_the_release_of_freed", || {
        laps::<FreedRelease>(1, 2, false);
    });
}

#[test]
fn ring_frees_not_without_the_acquire_of_freed() {
    expect_failure("ring_frees_not_without_the_acquire_of_freed", || {
        laps::<FreedAcquire>(1, 2, false);
    });
}

/// One send against a server that sleeps: is the wake-up lost in either direction? loom reports a
/// lost one as a deadlock.
fn exchange<T: Twin>(swapped: bool) {
    let (mut client, mut server, _kernel) = connection::<T>(1, 1);
    join(both(
        swapped,
        move || {
            let mut reply = Buffer::new();
            assert_eq!(client.send(1, &[1], 1, NEVER, &mut reply), Ok(Status::OK));
            assert_eq!(reply.as_slice(), [2]);
        },
        move || {
            let mut request = Buffer::new();
            let taken = server.receive_blocking(&mut request);
            server.port().reply(&taken, Status::OK, &[request[0] + 1]);
        },
    ));
}

#[test]
fn wake_is_not_lost_either_way() {
    explore(20, || exchange::<Sound>(false));
    explore(20, || exchange::<Sound>(true));
}

#[test]
fn wake_is_lost_without_the_writers_fence() {
    expect_failure("wake_is_lost_without_the_writers_fence", || exchange::<PublishFence>(false));
}

#[test]
fn wake_is_lost_without_the_readers_fence() {
    expect_failure("wake_is_lost_without_the_readers_fence", || exchange::<SleepFence>(false));
}

/// Two requests begun quietly: one fence and one look for both must wake a server that lies down at
/// any moment.
fn quietly<T: Twin>(swapped: bool) {
    let (mut client, mut server, _kernel) = connection::<T>(2, 1);
    join(both(
        swapped,
        move || {
            for n in 0..2 {
                client.begin_quietly(1, &[n], 0, NEVER).expect("room");
            }
            client.flush();
        },
        move || {
            let mut request = Buffer::new();
            for n in 0..2 {
                server.receive_blocking(&mut request);
                assert_eq!(request.as_slice(), [n]);
            }
        },
    ));
}

#[test]
fn quiet_requests_are_rung_for_once() {
    explore(20, || quietly::<Sound>(false));
    explore(20, || quietly::<Sound>(true));
}

#[test]
fn quiet_requests_are_slept_over_without_the_fence() {
    expect_failure("quiet_requests_are_slept_over_without_the_fence", || {
        quietly::<PublishFence>(false);
    });
}

/// Two requests through a ring of one line: the sender of the second waits for room.
fn room<T: Twin>(swapped: bool) {
    let (mut client, mut server, _kernel) = connection::<T>(1, 1);
    join(both(
        swapped,
        move || {
            let mut reply = Buffer::new();
            for n in 0..2 {
                let sent = client.begin_waiting(1, &[n], 0, NEVER).expect("room comes");
                assert_eq!(client.wait(sent, &mut reply, NEVER), Ok(Status::OK));
            }
        },
        move || {
            let mut request = Buffer::new();
            for n in 0..2 {
                let taken = server.receive_blocking(&mut request);
                assert_eq!(request.as_slice(), [n]);
                server.port().reply(&taken, Status::OK, &[]);
            }
        },
    ));
}

#[test]
fn line_is_used_again_for_the_next_transaction() {
    explore(20, || room::<Sound>(false));
}

/// A writer whose payload area is full sleeps; the reader frees some and goes to sleep itself. The
/// writer must have been rung by then, or both sleep for ever.
#[test]
fn wake_for_room() {
    explore(20, || {
        let (mut client, mut server, _kernel) = connection::<Sound>(2, 1);
        let sender = spawn(move || {
            let first = client.begin(1, &[0; 80], 0, NEVER).expect("an empty ring");
            let second = client.begin_waiting(1, &[1; 80], 0, NEVER).expect("room comes");
            let mut reply = Buffer::new();
            assert_eq!(client.wait(second, &mut reply, NEVER), Ok(Status::OK));
            assert_eq!(client.wait(first, &mut reply, NEVER), Ok(Status::OK));
        });
        let receiver = spawn(move || {
            let mut request = Buffer::new();
            let first = server.receive_blocking(&mut request);
            // The first reply comes only after the second request, so room is all that wakes.
            let second = server.receive_blocking(&mut request);
            server.port().reply(&second, Status::OK, &[]);
            server.port().reply(&first, Status::OK, &[]);
        });
        join([sender, receiver]);
    });
}

/// A deadline (or cancel) races with the server's taking: if the sender is told `NotDelivered`, the
/// handler has not run.
fn withdrawal<T: Twin>(swapped: bool) {
    let (mut client, mut server, _kernel) = connection::<T>(1, 1);
    // Not a loom atomic: it says what happened in this execution and orders nothing.
    let ran = std::sync::Arc::new(AtomicU32::new(0));
    let told = std::sync::Arc::new(AtomicU32::new(0));
    let (ran_here, told_here) = (ran.clone(), told.clone());
    let sent = client.begin(1, &[1], 0, NEVER).expect("an empty ring");
    join(both(
        swapped,
        move || {
            let outcome = client.withdraw(sent, Why::Deadline, &mut Buffer::new());
            let told = match outcome {
                Ok(_) => 1,
                Err(SendError::NotDelivered { why: Why::Deadline }) => 2,
                Err(SendError::Interrupted { why: Why::Deadline, .. }) => 3,
                Err(other) => panic!("{other}"),
            };
            told_here.store(told, Ordering::Relaxed);
        },
        move || {
            let mut request = Buffer::new();
            if let Found::Message(taken) = server.receive(&mut request).expect("no fault") {
                ran_here.store(1, Ordering::Relaxed);
                server.port().reply(&taken, Status::OK, &[]);
            }
        },
    ));
    let (ran, told) = (ran.load(Ordering::Relaxed), told.load(Ordering::Relaxed));
    assert!(told != 0);
    assert!(!(told == 2 && ran == 1), "not delivered, and it ran");
    assert!(!(told == 1 && ran == 0), "answered, and it did not run");
}

#[test]
fn withdraw_against_take() {
    explore(4, || withdrawal::<Sound>(false));
    explore(4, || withdrawal::<Sound>(true));
}

#[test]
fn withdraw_is_not_exact_without_the_takers_fence() {
    expect_failure("withdraw_is_not_exact_without_the_takers_fence", || {
        withdrawal::<TakeFence>(false)
    });
}

#[test]
fn withdraw_is_not_exact_without_the_senders_fence() {
    expect_failure("withdraw_is_not_exact_without_the_senders_fence", || {
        withdrawal::<WithdrawFence>(false)
    });
}

/// A sender gives up a message that the server has taken; the late reply is dropped and counted,
/// and the next transaction on the same line gets its own reply.
#[test]
fn late_reply_after_withdrawal() {
    explore(4, || {
        let (mut client, mut server, _kernel) = connection::<Sound>(2, 1);
        let sent = client.begin(1, &[1], 0, NEVER).expect("an empty ring");
        let sender = spawn(move || {
            let mut out = Buffer::new();
            let first = client.withdraw(sent, Why::Cancelled, &mut out);
            assert_eq!(client.send(2, &[2], 1, NEVER, &mut out), Ok(Status::OK));
            assert_eq!(out.as_slice(), [2], "the second reply for the second request");
            let late = client.counts().late;
            assert!(if first.is_ok() { late == 0 } else { late <= 1 });
        });
        let receiver = spawn(move || {
            let mut request = Buffer::new();
            loop {
                let taken = server.receive_blocking(&mut request);
                server.port().reply(&taken, Status::OK, &[request[0]][..taken.room_bytes().min(1)]);
                if taken.operation == 2 {
                    break;
                }
            }
        });
        join([sender, receiver]);
    });
}

/// When the server of a model dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    BeforeTaking,
    /// Between its store of *taken* and the fence.
    Taking,
    AfterTaking,
    AfterReplying,
}

/// The server dies: the sender is told whether it had taken the message, and its last reply counts.
fn death<T: Twin>(dies: Dies) {
    let (mut client, mut server, kernel) = connection::<T>(1, 1);
    let sent = client.begin(1, &[1], 0, NEVER).expect("an empty ring");
    let sender = spawn(move || {
        let outcome = client.wait(sent, &mut Buffer::new(), NEVER);
        let expected = match dies {
            Dies::BeforeTaking => Err(SendError::NotDelivered { why: Why::Dead }),
            Dies::Taking | Dies::AfterTaking => {
                Err(SendError::Interrupted { why: Why::Dead, generation: 1 })
            }
            Dies::AfterReplying => Ok(Status::OK),
        };
        assert_eq!(outcome, expected);
    });
    let dying = spawn(move || match dies {
        Dies::BeforeTaking => {}
        Dies::Taking => server.die_after_taking(),
        Dies::AfterTaking | Dies::AfterReplying => {
            let Ok(Found::Message(taken)) = server.receive(&mut Buffer::new()) else {
                panic!("the message was published before")
            };
            if dies == Dies::AfterReplying {
                server.port().reply(&taken, Status::OK, &[]);
            }
        }
    });
    // Linux tells the kernel of a death when it is over: that is the join.
    let kernel = spawn(move || {
        dying.join().expect("a server that just ends");
        kernel.client.set::<T>(ConnectionState::Dead as u32);
    });
    join([sender, kernel]);
}

#[test]
fn server_dies_before_taking() {
    explore(2, || death::<Sound>(Dies::BeforeTaking));
}

#[test]
fn server_dies_while_taking() {
    explore(2, || death::<Sound>(Dies::Taking));
}

#[test]
fn server_dies_after_taking() {
    explore(2, || death::<Sound>(Dies::AfterTaking));
}

#[test]
fn server_dies_with_its_last_reply_in_the_ring() {
    explore(2, || death::<Sound>(Dies::AfterReplying));
}

#[test]
fn death_is_misread_without_the_status_words_ordering() {
    expect_failure("death_is_misread_without_the_status_words_ordering", || {
        death::<StatusRelease>(Dies::Taking)
    });
}

/// The connection is closed (revoked) by the kernel while a message is on its way to a living
/// server: `NotDelivered` is exact here too.
#[test]
fn close_against_send() {
    explore(4, || {
        let (mut client, mut server, kernel) = connection::<Sound>(1, 1);
        let ran = std::sync::Arc::new(AtomicU32::new(0));
        let ran_here = ran.clone();
        let told = std::sync::Arc::new(AtomicU32::new(0));
        let told_here = told.clone();
        let sent = client.begin(1, &[1], 0, NEVER).expect("an empty ring");
        let sender = spawn(move || match client.wait(sent, &mut Buffer::new(), NEVER) {
            Err(SendError::NotDelivered { why: Why::Revoked }) => {
                told_here.store(1, Ordering::Relaxed)
            }
            Ok(_) | Err(SendError::Interrupted { why: Why::Revoked, .. }) => {}
            Err(other) => panic!("{other}"),
        });
        let receiver = spawn(move || {
            if let Ok(Found::Message(taken)) = server.receive(&mut Buffer::new()) {
                ran_here.store(1, Ordering::Relaxed);
                server.port().reply(&taken, Status::OK, &[]);
            }
        });
        let revoking = spawn(move || {
            kernel.client.set::<Sound>(ConnectionState::Revoked as u32);
            kernel.server.set::<Sound>(ConnectionState::Revoked as u32);
        });
        join([sender, receiver, revoking]);
        let (ran, told) = (ran.load(Ordering::Relaxed), told.load(Ordering::Relaxed));
        assert!(!(told == 1 && ran == 1), "not delivered, and it ran");
    });
}

/// Two notifications, the second possibly while the first is being acknowledged: whatever was
/// posted is taken, and the data that it tells of is seen.
fn notified<T: Twin>(swapped: bool) {
    let (poster_half, reader_half) = (SharedHalf::<T>::new(1, 1), SharedHalf::<T>::new(1, 1));
    let data = loom::sync::Arc::new(loom::sync::atomic::AtomicU32::new(0));
    let data_here = data.clone();
    let (p_ours, p_theirs) =
        (Ours::<Model<T>>::new(poster_half.clone()), Theirs::<Model<T>>::new(reader_half.clone()));
    let (r_ours, r_theirs) =
        (Ours::<Model<T>>::new(reader_half), Theirs::<Model<T>>::new(poster_half));
    join(both(
        swapped,
        move || {
            let mut poster = Poster::new();
            for n in 1..=2 {
                data.store(n, Ordering::Relaxed);
                poster.post(&p_ours, &p_theirs, 1);
            }
        },
        move || {
            let mut reader = Acknowledger::new(u64::MAX);
            let mut seen = 0;
            while seen < 2 {
                // A bit that is pending for ever would be looked at for ever: loom says so.
                if reader.take(&r_ours, &r_theirs) != 0 {
                    seen = data_here.load(Ordering::Relaxed);
                    assert_ne!(seen, 0, "the bit came before its data");
                } else {
                    loom::thread::yield_now();
                }
            }
        },
    ));
}

#[test]
fn notification_is_not_lost() {
    explore(4, || notified::<Sound>(false));
    explore(4, || notified::<Sound>(true));
}

#[test]
fn notification_is_lost_without_the_posters_fence() {
    expect_failure("notification_is_lost_without_the_posters_fence", || {
        notified::<PostFence>(false)
    });
}

#[test]
fn notification_is_lost_without_the_acknowledgers_fence() {
    expect_failure("notification_is_lost_without_the_acknowledgers_fence", || {
        notified::<AcknowledgeFence>(false)
    });
}

/// Two threads of a server post different bits while the client takes them: neither is lost.
/// A poster that begins before its receiver: its end, what it needs to meet the receiver, the
/// receiver's end, and the poster's status word as the kernel holds it.
#[allow(clippy::type_complexity, reason = "four things that belong together for a few lines")]
fn standing<T: Twin>() -> (PostEnd<Model<T>>, Theirs<Model<T>>, TakeEnd<Model<T>>, ModelStatus) {
    let (poster, receiver) = (SharedHalf::<T>::new(1, 1), SharedHalf::<T>::new(1, 1));
    let status = ModelStatus::new();
    status.set::<T>(ConnectionState::Waiting as u32);
    let post = PostEnd::new(Ours::new(poster.clone()), status.clone(), 0);
    let theirs = Theirs::new(receiver.clone());
    let take = TakeEnd::new(Ours::new(receiver), Theirs::new(poster), ModelStatus::new(), u64::MAX);
    (post, theirs, take, status)
}

fn post<T: Twin>(end: &mut PostEnd<Model<T>>, theirs: &mut Option<Theirs<Model<T>>>) {
    if let Posted::Met { again } = end.post(1) {
        end.meet(theirs.take().expect("met once"), ModelBell);
        end.settle(again);
    }
}

/// The same bit posted twice, while a receiver comes: is the data of the second post seen, though
/// the bit may have been set, and taken, before? The kernel's part is played by the receiver: what
/// it stores comes before everything that the receiver does once it was told.
fn stands<T: Twin>(swapped: bool) {
    let (mut end, theirs, mut take, status) = standing::<T>();
    let data = loom::sync::Arc::new(loom::sync::atomic::AtomicU32::new(0));
    let data_here = data.clone();
    join(both(
        swapped,
        move || {
            let mut theirs = Some(theirs);
            for n in 1..=2 {
                data.store(n, Ordering::Relaxed);
                post(&mut end, &mut theirs);
            }
        },
        move || {
            status.set::<T>(ConnectionState::Open as u32);
            let mut seen = 0;
            while seen < 2 {
                // A bit that never comes would be looked for for ever: loom says so.
                if take.take() != 0 {
                    seen = data_here.load(Ordering::Relaxed);
                    assert_ne!(seen, 0, "the bit came before its data");
                } else {
                    loom::thread::yield_now();
                }
            }
        },
    ));
}

#[test]
fn post_that_stands_is_not_lost() {
    explore(4, || stands::<Sound>(false));
    explore(4, || stands::<Sound>(true));
}

#[test]
fn post_that_stands_is_lost_without_the_posters_fence_before_the_bit() {
    expect_failure("post_that_stands_is_lost_without_the_posters_fence_before_the_bit", || {
        stands::<PostFence>(false);
    });
}

#[test]
fn post_that_stands_is_lost_without_the_acknowledgers_fence() {
    expect_failure("post_that_stands_is_lost_without_the_acknowledgers_fence", || {
        stands::<AcknowledgeFence>(false);
    });
}

/// A post while a receiver comes and lies down at once: is it woken? loom reports a lost wake-up as a
/// deadlock.
fn stands_and_wakes<T: Twin>(swapped: bool) {
    let (mut end, theirs, mut take, status) = standing::<T>();
    join(both(
        swapped,
        move || post(&mut end, &mut Some(theirs)),
        move || {
            status.set::<T>(ConnectionState::Open as u32);
            while take.take() == 0 {
                take.sleep();
            }
        },
    ));
}

#[test]
fn post_that_stands_wakes() {
    explore(4, || stands_and_wakes::<Sound>(false));
    explore(4, || stands_and_wakes::<Sound>(true));
}

#[test]
fn post_that_stands_does_not_wake_without_the_fence_before_the_look_for_a_receiver() {
    expect_failure(
        "post_that_stands_does_not_wake_without_the_fence_before_the_look_for_a_receiver",
        || stands_and_wakes::<StandFence>(false),
    );
}

#[test]
fn post_that_stands_does_not_wake_without_the_sleepers_fence() {
    expect_failure("post_that_stands_does_not_wake_without_the_sleepers_fence", || {
        stands_and_wakes::<SleepFence>(false);
    });
}

#[test]
fn notification_two_posters() {
    explore(4, || {
        let (mut client, server, _kernel) = connection::<Sound>(1, 1);
        let port = server.port().clone();
        let other = server.port().clone();
        let taking = spawn(move || {
            let mut bits = 0;
            while bits != 3 {
                bits |= client.wait_notifications(NEVER).expect("an open connection");
            }
        });
        let first = spawn(move || port.post(1));
        let second = spawn(move || other.post(2));
        join([taking, first, second]);
    });
}

/// Two threads reply to two transactions: both replies arrive, each at its own.
#[test]
fn reply_from_another_thread() {
    explore(4, || {
        let (mut client, mut server, _kernel) = connection::<Sound>(2, 1);
        let first = client.begin(1, &[1], 1, NEVER).expect("an empty ring");
        let second = client.begin(1, &[2], 1, NEVER).expect("a line is free");
        let mut request = Buffer::new();
        let a = server.receive_blocking(&mut request);
        let b = server.receive_blocking(&mut request);
        let (one, two) = (server.port().clone(), server.port().clone());
        let replying = spawn(move || one.reply(&a, Status::OK, &[1]));
        let also = spawn(move || two.reply(&b, Status::OK, &[2]));
        let sending = spawn(move || {
            let mut reply = Buffer::new();
            assert_eq!(client.wait(second, &mut reply, NEVER), Ok(Status::OK));
            assert_eq!(reply.as_slice(), [2]);
            assert_eq!(client.wait(first, &mut reply, NEVER), Ok(Status::OK));
            assert_eq!(reply.as_slice(), [1]);
        });
        join([replying, also, sending]);
    });
}

/// The release words of a pair of arenas, as both ends see them.
#[derive(Clone)]
struct ModelWords(loom::sync::Arc<loom::sync::atomic::AtomicU32>);

impl<T: Twin> Words<Model<T>> for ModelWords {
    fn count(&self) -> usize {
        1
    }
    fn word(&self, _number: u16) -> &loom::sync::atomic::AtomicU32 {
        &self.0
    }
}

/// Two replies lend the same bytes of the server's arena one after the other: it writes them again
/// only when the client has read and let go of them. loom fails a read of what is being written.
fn lend_twice<T: Twin>(swapped: bool) {
    let (ours, theirs, _, mut writer, mut reader) = ring::<T>(2, 1);
    let arena = SharedHalf::<T>::new(1, 1);
    let arena_here = arena.clone();
    let words = ModelWords(loom::sync::Arc::new(loom::sync::atomic::AtomicU32::new(0)));
    let words_here = words.clone();
    join(both(
        swapped,
        move || {
            let mut lent = Lent::new(1);
            for n in 1..=2 {
                let word = loop {
                    lent.reclaim::<Model<T>>(&words).expect("an honest client");
                    if let Some(word) = lent.take_word() {
                        break word;
                    }
                    loom::thread::yield_now();
                };
                arena.area().write(0, &[n; 8]);
                lent.lend(word, ());
                writer.publish(&ours, HEADER, &[n]);
            }
        },
        move || {
            let (mut out, mut lease) = (Buffer::new(), [0; 8]);
            let mut releases = Releases::new(1);
            let mut n = 0;
            while n < 2 {
                if let Some(header) = reader.peek(&theirs).expect("no fault") {
                    reader.copy(&theirs, &header, &mut out);
                    reader.advance(&header);
                    releases.hold(0).expect("an honest server");
                    arena_here.area().read(0, &mut lease);
                    assert_eq!(lease, [out[0]; 8]);
                    releases.release::<Model<T>>(&words_here, 0);
                    n += 1;
                } else {
                    loom::thread::yield_now();
                }
            }
        },
    ));
}

#[test]
fn lease_is_read_before_it_is_written_again() {
    explore(10, || lend_twice::<Sound>(false));
    explore(10, || lend_twice::<Sound>(true));
}

#[test]
fn lease_is_written_too_early_without_the_release_of_its_word() {
    expect_failure("lease_is_written_too_early_without_the_release_of_its_word", || {
        lend_twice::<ReleaseRelease>(false);
    });
}

#[test]
fn lease_is_written_too_early_without_the_acquire_of_its_word() {
    expect_failure("lease_is_written_too_early_without_the_acquire_of_its_word", || {
        lend_twice::<ReleaseAcquire>(false);
    });
}

/// Two requests lend the same bytes of the client's arena one after the other: the reply to the
/// first ends its lease. `late`: the server reads once more after its reply, which must fail.
fn lend_for_a_transaction(swapped: bool, late: bool) {
    let (mut client, mut server, _kernel) = connection::<Sound>(1, 1);
    let arena = SharedHalf::<Sound>::new(1, 1);
    let arena_here = arena.clone();
    join(both(
        swapped,
        move || {
            for n in 1..=2 {
                arena.area().write(0, &[n; 8]);
                let sent = client.begin_leased(1, &[n], 0, NEVER).expect("room");
                let outcome = client.wait(sent, &mut Buffer::new(), NEVER);
                assert!(outcome == Ok(Status::OK) && client.is_over(sent));
            }
        },
        move || {
            let (mut request, mut lease) = (Buffer::new(), [0; 8]);
            for n in 1..=2 {
                let taken = server.receive_blocking(&mut request);
                assert_eq!(request.flags(), Header::LEASED);
                arena_here.area().read(0, &mut lease);
                assert_eq!(lease, [n; 8]);
                server.port().reply(&taken, Status::OK, &[]);
                if late {
                    arena_here.area().read(0, &mut lease);
                }
            }
        },
    ));
}

#[test]
fn lease_ends_with_its_reply() {
    explore(10, || lend_for_a_transaction(false, false));
    explore(10, || lend_for_a_transaction(true, false));
}

#[test]
fn lease_does_not_outlive_its_reply() {
    expect_failure("lease_does_not_outlive_its_reply", || lend_for_a_transaction(false, true));
}

/// A client gives up a transaction that lends: until the late reply is there the server may read,
/// so the bytes are not written again. `hasty`: they are, which must fail.
fn abandoned_lease(swapped: bool, hasty: bool) {
    let (mut client, mut server, _kernel) = connection::<Sound>(2, 1);
    let arena = SharedHalf::<Sound>::new(1, 1);
    arena.area().write(0, &[1; 8]);
    let arena_here = arena.clone();
    let first = client.begin_leased(1, &[1], 0, NEVER).expect("an empty ring");
    join(both(
        swapped,
        move || {
            if client.give_up(first, Why::Deadline).is_none() {
                // Taken: its grace has passed at once.
                let outcome = client.next_overdue(NEVER).expect("it is overdue");
                assert!(outcome.result.is_err());
            }
            while !hasty && client.is_pending(first) {
                client.wait_for_reply(NEVER).expect("an open connection");
            }
            arena.area().write(0, &[2; 8]);
            let second = client.begin_leased(1, &[2], 0, NEVER).expect("room");
            assert_eq!(client.wait(second, &mut Buffer::new(), NEVER), Ok(Status::OK));
        },
        move || {
            let (mut request, mut lease) = (Buffer::new(), [0; 8]);
            loop {
                let taken = server.receive_blocking(&mut request);
                arena_here.area().read(0, &mut lease);
                assert_eq!(lease, [request[0]; 8]);
                server.port().reply(&taken, Status::OK, &[]);
                if request[0] == 2 {
                    break;
                }
            }
        },
    ));
}

#[test]
fn abandoned_lease_waits_for_the_late_reply() {
    explore(10, || abandoned_lease(false, false));
    explore(10, || abandoned_lease(true, false));
}

#[test]
fn abandoned_lease_is_not_written_before_the_late_reply() {
    expect_failure("abandoned_lease_is_not_written_before_the_late_reply", || {
        abandoned_lease(false, true);
    });
}
