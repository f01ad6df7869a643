//! Notifications between real tasks: bits that coalesce, wait for a receiver, and outlive one.
//!
//! Where a test says nothing else, its tasks are several of this process, each with a kernel socket of
//! its own; whoever dies is a process.

mod common;

use common::raw::{RawTask, at, request};
use common::{Assistant, Role, System, eventually};
use rendez::protocol::kernel::{Fate, Give, Hello, KernelError, Limits, ObjectKind, Received};
use rendez::protocol::status::ConnectionState;
use rendez::protocol::{Rights, Slot};
use rendez::service::{Caller, Context, Message, Refusal, Reply, Service};
use rendez::{
    Bits, Connection, Error, NEVER, Notification, NotificationSet, Options, Poster, SendError,
    Server, Task, Wait, Why,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
/// For what must not come.
const SHORT: Duration = Duration::from_millis(30);

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let slot = |name: &str| task.given_as(name).unwrap().slot;
    match role.name.as_str() {
        "posts and ends" => {
            let mut poster = Poster::new(&task, slot("post")).unwrap();
            eventually("a receiver", || poster.receiver().unwrap());
            poster.post(0b101).unwrap();
            std::process::exit(0);
        }
        "posts and waits" => {
            let mut poster = Poster::new(&task, slot("post")).unwrap();
            poster.post(0b11).unwrap();
            role.say("posted");
            role.wait_for_ever();
        }
        "receives" => {
            let mut notification = Notification::new(&task, slot("receive")).unwrap();
            role.say(notification.generation());
            while let Some(posted) = notification.wait_until(NEVER).unwrap() {
                role.say(posted.bits);
            }
        }
        other => panic!("no part is called {other}"),
    }
}

/// A system, a task with a notification.
fn start() -> (System, Task, Received) {
    let system = System::start();
    let task = system.task();
    let notification = task.create_notification().unwrap();
    assert_eq!(notification.kind, ObjectKind::Notification);
    (system, task, notification)
}

fn give(slot: Slot, rights: Rights, badge: u64, bits: u64) -> Give {
    let limits = Limits { bits: Some(bits), ..Limits::SAME };
    Give { name: "given".into(), slot, rights, badge: Some(badge), limits }
}

/// Another task of this process, that was given one capability.
fn other(parent: &Task, given: Give) -> (Task, Slot) {
    let (_, _, socket) = parent.create_task("other", vec![given]).unwrap();
    let task = Task::over(socket).unwrap();
    let slot = task.given_as("given").unwrap().slot;
    (task, slot)
}

/// A poster with a badge and a mask.
fn poster(parent: &Task, notification: Slot, badge: u64, bits: u64) -> Poster {
    let (task, slot) = other(parent, give(notification, Rights::POST, badge, bits));
    Poster::new(&task, slot).unwrap()
}

/// Takes bits until those of `wanted` have come, in whatever portions; nothing else may come.
#[track_caller]
fn take(notification: &mut Notification, wanted: u64) {
    let mut seen = 0;
    while seen != wanted {
        let posted = notification.wait(LONG).unwrap().expect("bits come");
        seen |= posted.bits;
        assert_eq!(seen & !wanted, 0, "{posted:?}, where {wanted:#b} was posted");
    }
}

#[test]
fn posts_wait_for_a_receiver() {
    let (_system, task, capability) = start();
    let mut poster = poster(&task, capability.slot, 7, u64::MAX);
    poster.post(0b001).unwrap();
    poster.post(0b100).unwrap();
    poster.post(0b100).unwrap();
    assert_eq!(poster.receiver().unwrap(), None);
    assert_eq!(poster.unacknowledged(), 0b101);
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let posted = notification.wait(LONG).unwrap().unwrap();
    assert_eq!((posted.bits, posted.badge, posted.notification), (0b101, 7, capability.object));
    assert_eq!(posted.credentials.pid, std::process::id());
    assert_eq!(notification.wait(SHORT).unwrap(), None, "once");
    poster.post(0b100).unwrap();
    take(&mut notification, 0b100);
    let receiving = poster.receiver().unwrap().expect("a receiver");
    assert_eq!((receiving.task, receiving.generation), (task.id(), 1));
    assert_eq!(poster.unacknowledged(), 0);
}

#[test]
fn several_posters_are_told_apart_by_their_badges() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let mut posters: Vec<Poster> =
        (1..=9).map(|badge| poster(&task, capability.slot, badge, 1 << badge)).collect();
    for poster in &mut posters {
        poster.post(poster.bits()).unwrap();
    }
    let mut seen = 0;
    while seen != 0b11_1111_1110 {
        let posted = notification.wait(LONG).unwrap().expect("bits come");
        assert_eq!(posted.bits, 1 << posted.badge);
        assert_eq!(seen & posted.bits, 0, "twice");
        seen |= posted.bits;
    }
    assert_eq!(notification.posters(), 9);
}

#[test]
fn a_poster_posts_what_its_capability_allows_and_nothing_else() {
    let (_system, task, capability) = start();
    let mut poster = poster(&task, capability.slot, 1, 0b110);
    let error = poster.post(0b1010).unwrap_err();
    assert!(
        matches!(error, Error::Kernel(KernelError::Bits { missing: 0b1000, held: 0b110, .. })),
        "{error}"
    );
    assert_eq!(poster.unacknowledged(), 0, "none of them");
    let bare = task.mint(capability.slot, Rights::RECEIVE, None).unwrap();
    let error = Poster::new(&task, bare.slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::MissingRights { .. })), "{error}");
    let endpoint = task.create_endpoint().unwrap();
    let error = Poster::new(&task, endpoint.slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::WrongObject { .. })), "{error}");
    let error = NotificationSet::new(&task).unwrap().add(endpoint.slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::WrongObject { .. })), "{error}");
}

#[test]
fn bits_of_a_client_are_those_of_its_capability() {
    struct Notes(Vec<u64>);
    impl Service for Notes {
        fn receive(&mut self, _: &mut dyn Context, _: Message<'_>, reply: Reply<'_>) {
            reply.ok(&[]);
        }
        fn notified(&mut self, _: &mut dyn Context, caller: &Caller, bits: u64) {
            assert_eq!(caller.bits, 0b110);
            self.0.push(bits);
        }
        fn finished(&self) -> bool {
            !self.0.is_empty()
        }
    }
    let system = System::start();
    let task = system.task();
    let mut server = Server::new(&task).unwrap();
    let endpoint = task.create_endpoint().unwrap();
    server.serve(endpoint.slot, None).unwrap();
    let rights = Rights::SEND | Rights::POST;
    let (client, slot) = other(&task, give(endpoint.slot, rights, 3, 0b110));
    let posting = std::thread::spawn(move || {
        let mut connection = Connection::open(&client, slot, &Options::default()).unwrap();
        connection.post(0b1111);
        connection
    });
    let mut notes = Notes(Vec::new());
    server.run(&mut notes).unwrap();
    assert_eq!(notes.0, [0b110]);
    drop(posting.join().unwrap());
}

#[test]
fn a_set_waits_for_any_of_several_and_for_no_longer_than_it_is_told() {
    let (_system, task, first) = start();
    let second = task.create_notification().unwrap();
    let mut set = NotificationSet::new(&task).unwrap();
    set.add(first.slot).unwrap();
    set.add(second.slot).unwrap();
    let error = set.add(second.slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::Served(_))), "{error}");
    let (mut one, mut two) = (poster(&task, first.slot, 1, 1), poster(&task, second.slot, 2, 2));
    let before = Instant::now();
    assert_eq!(set.wait(SHORT).unwrap(), None);
    assert!(before.elapsed() >= SHORT);
    for round in 0..4 {
        let (poster, from) = if round % 2 == 0 { (&mut two, second) } else { (&mut one, first) };
        poster.post(poster.bits()).unwrap();
        let posted = set.wait(LONG).unwrap().expect("bits come");
        assert_eq!((posted.notification, posted.bits), (from.object, posted.badge));
    }
}

#[test]
fn polling_finds_what_is_there_however_long_nobody_looked() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let mut posters: Vec<Poster> =
        (0..3).map(|bit| poster(&task, capability.slot, bit + 1, 1 << bit)).collect();
    assert_eq!(notification.poll().unwrap(), None);
    for round in 0..50 {
        for poster in &mut posters {
            poster.post(poster.bits()).unwrap();
        }
        let mut seen = 0;
        while seen != 0b111 {
            // A wait of no time at all is a look too.
            let found = match round % 2 {
                0 => notification.poll().unwrap(),
                _ => notification.wait(Duration::ZERO).unwrap(),
            };
            seen |= found.map_or(0, |posted| posted.bits);
        }
        if round % 5 == 0 {
            // It lies down, and everybody is quiet.
            assert_eq!(notification.wait(Duration::from_millis(3)).unwrap(), None);
        }
    }
}

#[test]
fn a_server_waits_for_messages_and_notifications_at_once() {
    /// Adds up what it hears, and who is said to be there.
    #[derive(Default)]
    struct Both {
        messages: u32,
        bits: u64,
        clients: u32,
        notifications: Vec<(u64, u64)>,
    }
    impl Service for Both {
        fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
            self.messages += 1;
            reply.ok(message.payload);
        }
        fn connected(&mut self, _: &mut dyn Context, _: &Caller) -> Result<(), Refusal> {
            self.clients += 1;
            Ok(())
        }
        fn notified(&mut self, _: &mut dyn Context, caller: &Caller, bits: u64) {
            self.bits |= bits;
            self.notifications.push((caller.endpoint.0, caller.badge));
        }
        fn finished(&self) -> bool {
            self.messages == 100 && self.bits == 0b1_0000_0111
        }
    }
    let (_system, task, capability) = start();
    let mut server = Server::new(&task).unwrap();
    let endpoint = task.create_endpoint().unwrap();
    server.serve(endpoint.slot, None).unwrap();
    assert_eq!(server.bind(capability.slot).unwrap(), 1);
    let error = server.bind(endpoint.slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::WrongObject { .. })), "{error}");

    let mut early = poster(&task, capability.slot, 4, 1 << 8);
    early.post(1 << 8).unwrap();
    let mut poster = poster(&task, capability.slot, 5, 0b111);
    let (client, slot) = other(&task, give(endpoint.slot, Rights::SEND, 6, 0));
    let sending = std::thread::spawn(move || {
        let mut connection = Connection::open(&client, slot, &Options::default()).unwrap();
        for round in 0..100_u8 {
            if round % 40 == 0 {
                poster.post(1 << (round / 40)).unwrap();
            }
            let reply = connection.send(1, &[round], 8).unwrap();
            assert_eq!(reply.ok().unwrap(), [round]);
        }
        (connection, poster)
    });
    let mut both = Both::default();
    server.run(&mut both).unwrap();
    assert_eq!(both.clients, 1, "posters are no clients");
    let badges: Vec<u64> = both.notifications.iter().map(|(_, badge)| *badge).collect();
    assert!(badges.contains(&4) && badges.contains(&5), "{badges:?}");
    assert!(both.notifications.iter().all(|(object, _)| *object == capability.object.0));
    assert_eq!(server.connections(), 3);
    drop(sending.join().unwrap());
}

#[test]
fn what_a_poster_posted_last_outlives_it() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    for _ in 0..5 {
        let given = [("post", capability.slot, Rights::POST)];
        let mut ends = Assistant::start(&task, "posts and ends", &given, &[]);
        take(&mut notification, 0b101);
        ends.child.wait().unwrap();
        assert_eq!(notification.wait(SHORT).unwrap(), None);
        assert_eq!(notification.posters(), 0);
    }
}

#[test]
fn what_was_posted_to_nobody_goes_with_its_poster() {
    let (_system, task, capability) = start();
    let given = [("post", capability.slot, Rights::POST)];
    let mut waits = Assistant::start(&task, "posts and waits", &given, &[]);
    assert_eq!(waits.hear(), "posted");
    waits.kill();
    eventually("its end", || {
        let mut notification = Notification::new(&task, capability.slot).unwrap();
        notification.wait(SHORT).unwrap().is_none().then_some(())
    });
}

#[test]
fn a_receiver_dies_and_the_next_one_is_told_what_it_had_not_taken() {
    let (_system, task, capability) = start();
    let mut poster = poster(&task, capability.slot, 7, u64::MAX);
    let given = [("receive", capability.slot, Rights::RECEIVE)];
    let mut first = Assistant::start(&task, "receives", &given, &[]);
    assert_eq!(first.hear(), "1");
    poster.post(0b1).unwrap();
    assert_eq!(first.hear(), "1");
    let receiving = eventually("a receiver", || poster.receiver().unwrap());
    assert_eq!((receiving.task, receiving.generation), (first.id, 1));

    // It stops, so that what is posted is not taken; then it dies.
    common::signal(first.child.id(), rustix::process::Signal::STOP);
    let stat = format!("/proc/{}/stat", first.child.id());
    eventually("its stop", || {
        let state = std::fs::read_to_string(&stat).unwrap();
        state.rsplit_once(") ")?.1.starts_with('T').then_some(())
    });
    poster.post(0b10).unwrap();
    assert_eq!(poster.unacknowledged(), 0b10);
    first.kill();
    // Learnt by the next look, and carried over.
    eventually("the death", || poster.receiver().unwrap().is_none().then_some(()));
    poster.post(0b100).unwrap();
    assert_eq!(poster.unacknowledged(), 0b110);

    let mut second = Assistant::start(&task, "receives", &given, &[]);
    assert_eq!(second.hear(), "2");
    assert_eq!(second.hear(), "6");
    let receiving = eventually("a receiver", || poster.receiver().unwrap());
    assert_eq!((receiving.task, receiving.generation), (second.id, 2));
    assert_eq!(poster.unacknowledged(), 0);
    poster.post(0b1000).unwrap();
    assert_eq!(second.hear(), "8");
}

#[test]
fn a_receiver_of_the_same_task_can_follow() {
    let (_system, task, capability) = start();
    let mut poster = poster(&task, capability.slot, 7, u64::MAX);
    for round in 1..=5 {
        let mut notification = Notification::new(&task, capability.slot).unwrap();
        assert_eq!(notification.generation(), round);
        poster.post(1 << round).unwrap();
        take(&mut notification, 1 << round);
        drop(notification);
        eventually("the end", || poster.receiver().unwrap().is_none().then_some(()));
    }
}

#[test]
fn somebody_else_cannot_receive_meanwhile() {
    let (_system, task, capability) = start();
    let _notification = Notification::new(&task, capability.slot).unwrap();
    let (thief, slot) = other(&task, give(capability.slot, Rights::RECEIVE, 0, 0));
    let error = Notification::new(&thief, slot).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::Served(by)) if by == task.id()), "{error}");
}

#[test]
fn a_revoked_poster_is_ended_at_once() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let between = task.mint(capability.slot, Rights::POST | Rights::MINT | Rights::GRANT, None);
    let between = between.unwrap().slot;
    let mut revoked = poster(&task, between, 1, 0b01);
    let mut stays = poster(&task, capability.slot, 2, 0b10);
    revoked.post(0b01).unwrap();
    take(&mut notification, 0b01);
    // Posted, and not looked at before the revocation: it is not taken any more.
    revoked.post(0b01).unwrap();
    task.revoke(between).unwrap();
    stays.post(0b10).unwrap();
    take(&mut notification, 0b10);
    for _ in 0..2 {
        let error = revoked.post(0b01).unwrap_err();
        let expected = matches!(error, Error::Send(SendError::NotDelivered { why: Why::Revoked }))
            || matches!(error, Error::Kernel(KernelError::BadSlot(_)));
        assert!(expected, "{error}");
    }
    stays.post(0b10).unwrap();
    take(&mut notification, 0b10);
    assert_eq!(notification.posters(), 1);
}

#[test]
fn nobody_left_to_receive_is_an_error_for_who_posts() {
    let (_system, task, capability) = start();
    let (owner, slot) =
        other(&task, give(capability.slot, Rights::POST | Rights::MINT | Rights::GRANT, 0, 3));
    let mut poster = Poster::new(&owner, slot).unwrap();
    poster.post(1).unwrap();
    task.delete(capability.slot).unwrap();
    let error = poster.post(2).unwrap_err();
    assert!(matches!(error, Error::Kernel(KernelError::Dead)), "{error}");
    assert_eq!(poster.unacknowledged(), 3, "kept");
}

#[test]
fn a_lying_poster_is_masked_and_muted() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let mut honest = poster(&task, capability.slot, 2, 0b100);
    honest.post(0b100).unwrap();
    take(&mut notification, 0b100);

    let given = give(capability.slot, Rights::POST, 1, 0b11);
    let (_, _, socket) = task.create_task("liar", vec![given]).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let lying = std::thread::spawn(move || {
        let mut liar = RawTask::greet(socket, Hello::OURS).unwrap();
        let slot = liar.given("given").slot;
        let connection = liar.connect_to_post(slot);
        let mut turn = 0_u64;
        // All bits but its own flip, its own stay; its doorbell rings all the time; it says that it has
        // acknowledged what nobody posted, and its ring is full of messages.
        connection.own.publish(0, request(1, 8), b"no message");
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            turn = turn.wrapping_add(1);
            connection.own.store(at::POSTED, if turn.is_multiple_of(2) { !0b11 } else { 0 });
            connection.own.store(at::ACKNOWLEDGED, turn);
            connection.ring();
        }
        connection.own.store(at::POSTED, !0b01);
        connection.ring();
        (liar, connection)
    });
    for _ in 0..300 {
        honest.post(0b100).unwrap();
        take(&mut notification, 0b100);
    }
    stop.send(()).unwrap();
    take(&mut notification, 0b10);
    let (liar, connection) = lying.join().unwrap();
    assert_eq!(liar.state(&connection), ConnectionState::Open);
    assert_eq!(notification.wait(SHORT).unwrap(), None);
}

#[test]
fn a_poster_that_sends_messages_to_a_server_is_cut_off() {
    #[derive(Default)]
    struct Bound(u64);
    impl Service for Bound {
        fn receive(&mut self, _: &mut dyn Context, _: Message<'_>, _: Reply<'_>) {
            panic!("nobody may send");
        }
        fn notified(&mut self, _: &mut dyn Context, caller: &Caller, bits: u64) {
            self.0 |= bits;
            assert_eq!(bits & !caller.bits, 0);
        }
        fn finished(&self) -> bool {
            self.0 == 0b100
        }
    }
    let (_system, task, capability) = start();
    let mut server = Server::new(&task).unwrap();
    server.bind(capability.slot).unwrap();
    let given = give(capability.slot, Rights::POST, 1, 0b11);
    let (_, _, socket) = task.create_task("liar", vec![given]).unwrap();
    let mut honest = poster(&task, capability.slot, 2, 0b100);
    let lying = std::thread::spawn(move || {
        let mut liar = RawTask::greet(socket, Hello::OURS).unwrap();
        let slot = liar.given("given").slot;
        let mut connection = liar.connect_to_post(slot);
        connection.publish(request(1, 8), b"a message");
        assert_eq!(liar.closed(&connection), ConnectionState::Protocol);
        honest.post(0b100).unwrap();
        honest
    });
    server.run(&mut Bound::default()).unwrap();
    drop(lying.join().unwrap());
}

#[test]
fn posting_costs_no_system_call_while_the_receiver_is_awake() {
    let (_system, task, capability) = start();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    notification.set_wait(Wait::Spin);
    let mut poster = poster(&task, capability.slot, 1, 0b11);
    let receiving = std::thread::spawn(move || {
        loop {
            let posted = notification.wait(LONG).unwrap().expect("bits come");
            if posted.bits & 0b10 != 0 {
                return;
            }
        }
    });
    eventually("a receiver", || poster.receiver().unwrap());
    for _ in 0..200 {
        poster.post(0b01).unwrap();
        while poster.unacknowledged() != 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(poster.rings(), 0);
    poster.post(0b10).unwrap();
    receiving.join().unwrap();
}

#[test]
fn a_receiver_comes_back_to_hundreds_that_stand() {
    let (_system, task, capability) = start();
    let mut posters = Vec::new();
    for badge in 1..=8 {
        let given = give(capability.slot, Rights::POST, badge, u64::MAX);
        let (owner, slot) = other(&task, given);
        for bit in 0..50 {
            let mut poster = Poster::new(&owner, slot).unwrap();
            poster.post(1 << bit).unwrap();
            posters.push(poster);
        }
    }
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let mut seen = [0; 9];
    for _ in 0..posters.len() {
        let posted = notification.wait(LONG).unwrap().expect("nobody is left out");
        let of_one = &mut seen[posted.badge as usize];
        assert_eq!(*of_one & posted.bits, 0, "twice");
        *of_one |= posted.bits;
    }
    assert!(seen[1..].iter().all(|bits| *bits == (1 << 50) - 1), "{seen:x?}");
}

#[test]
fn a_server_of_several_threads_is_told_of_notifications_too() {
    struct Part {
        seen: Arc<AtomicU64>,
        messages: Arc<AtomicU64>,
    }
    impl Service for Part {
        fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
            self.messages.fetch_add(1, Ordering::SeqCst);
            reply.ok(message.payload);
        }
        fn notified(&mut self, _: &mut dyn Context, caller: &Caller, bits: u64) {
            assert_eq!(bits, 1 << (caller.badge - 1));
            self.seen.fetch_or(bits, Ordering::SeqCst);
        }
        fn finished(&self) -> bool {
            let (seen, messages) = (&self.seen, &self.messages);
            seen.load(Ordering::SeqCst) == 0b1111 && messages.load(Ordering::SeqCst) >= 60
        }
    }
    let (_system, task, capability) = start();
    let endpoint = task.create_endpoint().unwrap();
    let mut server = Server::new(&task).unwrap();
    server.serve(endpoint.slot, None).unwrap();
    server.bind(capability.slot).unwrap();
    let clients: Vec<_> = (1..=4)
        .map(|badge| {
            let (client, slot) = other(&task, give(endpoint.slot, Rights::SEND, badge, 0));
            let mut poster = poster(&task, capability.slot, badge, 1 << (badge - 1));
            std::thread::spawn(move || {
                let mut connection = Connection::open(&client, slot, &Options::default()).unwrap();
                for round in 0..15 {
                    if round == 7 {
                        poster.post(poster.bits()).unwrap();
                    }
                    connection.send(1, &[round], 8).unwrap().ok().unwrap();
                }
                (poster, connection)
            })
        })
        .collect();
    let (seen, messages) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    server
        .run_on(3, |_| Part { seen: Arc::clone(&seen), messages: Arc::clone(&messages) })
        .unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0b1111);
    for client in clients {
        drop(client.join().unwrap());
    }
}

#[test]
fn whoever_watches_a_notification_is_told_of_its_receivers() {
    struct Watcher(Vec<Fate>);
    impl Service for Watcher {
        fn receive(&mut self, _: &mut dyn Context, _: Message<'_>, _: Reply<'_>) {}
        fn watched(&mut self, _: &mut dyn Context, _: Slot, what: Fate) {
            self.0.push(what);
        }
    }
    let (_system, task, capability) = start();
    let given = give(capability.slot, Rights::POST | Rights::WATCH, 1, 1);
    let (watching, slot) = other(&task, given);
    let mut server = Server::new(&watching).unwrap();
    watching.watch(slot).unwrap();
    let mut watcher = Watcher(Vec::new());
    let next = |server: &mut Server, watcher: &mut Watcher| {
        while watcher.0.is_empty() {
            server.step(watcher).unwrap();
        }
        watcher.0.remove(0)
    };
    assert_eq!(next(&mut server, &mut watcher), Fate::Died { generation: 0 });
    let given = [("receive", capability.slot, Rights::RECEIVE)];
    let mut receiver = Assistant::start(&task, "receives", &given, &[]);
    assert_eq!(next(&mut server, &mut watcher), Fate::Restarted { generation: 1 });
    receiver.kill();
    assert_eq!(next(&mut server, &mut watcher), Fate::Died { generation: 1 });
    task.delete(capability.slot).unwrap();
    assert_eq!(next(&mut server, &mut watcher), Fate::Gone);
}

#[test]
fn a_task_can_receive_beside_its_server() {
    struct Echo;
    impl Service for Echo {
        fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
            reply.ok(message.payload);
        }
        fn notified(&mut self, _: &mut dyn Context, _: &Caller, bits: u64) {
            panic!("{bits} are not the server's");
        }
    }
    let (_system, task, capability) = start();
    let endpoint = task.create_endpoint().unwrap();
    let mut server = Server::new(&task).unwrap();
    server.serve(endpoint.slot, None).unwrap();
    // It ends with the system.
    std::thread::spawn(move || server.run(&mut Echo));
    let (client, slot) = other(&task, give(endpoint.slot, Rights::SEND, 1, 0));
    let mut connection = Connection::open(&client, slot, &Options::default()).unwrap();
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    for round in 0..60_u64 {
        // New posters come all the time, and whichever thread is awake reads of them.
        let mut poster = poster(&task, capability.slot, round + 1, 1 << round);
        poster.post(1 << round).unwrap();
        let reply = connection.send(1, &[7], 8).unwrap();
        assert_eq!(reply.ok().unwrap(), [7]);
        take(&mut notification, 1 << round);
    }
}

/// Whoever posts first writes a number; whoever takes the bit reads it afterwards. At the end every last
/// number has been read, whoever slept when, and whatever coalesced.
#[test]
fn no_post_is_lost_whoever_sleeps() {
    const POSTERS: u64 = 4;
    const POSTS: u64 = 3_000;
    let (_system, task, capability) = start();
    let written: Arc<Vec<AtomicU64>> = Arc::new((0..POSTERS).map(|_| AtomicU64::new(0)).collect());
    let threads: Vec<_> = (0..POSTERS)
        .map(|index| {
            let mut poster = poster(&task, capability.slot, index + 1, 1 << index);
            let written = Arc::clone(&written);
            std::thread::spawn(move || {
                let mut random = common::Random::of(index);
                for number in 1..=POSTS {
                    // Relaxed: the bit brings it.
                    written[index as usize].store(number, Ordering::Relaxed);
                    poster.post(1 << index).unwrap();
                    match random.below(64) {
                        0 => std::thread::sleep(Duration::from_micros(random.below(300))),
                        1..8 => std::thread::yield_now(),
                        _ => {}
                    }
                }
                poster
            })
        })
        .collect();
    // Some posts come before anybody receives.
    std::thread::sleep(Duration::from_millis(2));
    let mut notification = Notification::new(&task, capability.slot).unwrap();
    let mut seen = [0; POSTERS as usize];
    while seen.iter().any(|number| *number != POSTS) {
        let Bits { bits, badge, .. } = notification.wait(LONG).unwrap().expect("nothing is lost");
        assert_eq!(bits, 1 << (badge - 1));
        seen[badge as usize - 1] = written[badge as usize - 1].load(Ordering::Relaxed);
    }
    for thread in threads {
        drop(thread.join().unwrap());
    }
}
