//! The signal server by direct call.

#[path = "../../../name/tests/fake/mod.rs"]
mod fake;

use fake::{Fake, Random, ask, caller, message, ok, refused};
use nix::sys::signal::{Signal, raise};
use rendez::service::{Caller, Service, call};
use rendez_protocol::kernel::ObjectKind::{Endpoint, Task};
use rendez_protocol::signal::{
    Bridge, Deliver, Listing, Mask, Raise, Subscribe, operation, status,
};
use rendez_protocol::{ObjectId, Rights, Status, Ticket, decode, encode};
use rendez_signal::{SignalServer, limit};

struct World {
    server: SignalServer,
    fake: Fake,
}

impl World {
    fn new() -> Self {
        SignalServer::block_bridged().expect("blocked");
        Self { server: SignalServer::new().expect("a server"), fake: Fake::default() }
    }

    fn client(&mut self, connection: u32, rights: Rights) -> Caller {
        let caller = caller(connection, connection, rights);
        self.server.connected(&mut self.fake, &caller).expect("welcome");
        caller
    }

    fn ask<T: serde::Serialize + ?Sized>(
        &mut self,
        caller: &Caller,
        operation: u16,
        request: &T,
    ) -> (Status, Vec<u8>) {
        ask(&mut self.server, &mut self.fake, caller, operation, request)
    }

    #[track_caller]
    fn subscribe(&mut self, caller: &Caller, signal: &str, bit: u8) {
        ok(self.ask(caller, operation::SUBSCRIBE, &Subscribe { signal, bit }));
    }

    #[track_caller]
    fn raise(&mut self, caller: &Caller, signal: &str, group: &str) -> u32 {
        decode(&ok(self.ask(caller, operation::RAISE, &Raise { signal, group }))).expect("a number")
    }

    #[track_caller]
    fn mask(&mut self, caller: &Caller, signal: &str, masked: bool) {
        ok(self.ask(caller, operation::MASK, &Mask { signal, masked }));
    }

    fn pending(&mut self, caller: &Caller) -> Vec<String> {
        decode(&ok(self.ask(caller, operation::PENDING, &()))).expect("names")
    }

    fn deliver(&mut self, caller: &Caller, signal: &str, ticket: Ticket) -> (Status, Vec<u8>) {
        self.ask(caller, operation::DELIVER, &Deliver { signal, ticket, posix: 10 })
    }

    /// A delivery that is accepted; to which object.
    #[track_caller]
    fn delivered(&mut self, caller: &Caller, signal: &str) -> ObjectId {
        let (ticket, object) = self.fake.ticket(caller.connection, Task, Rights::KILL);
        ok(self.deliver(caller, signal, ticket));
        object
    }

    /// What was posted since the last look: connection and bits.
    fn posted(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.fake.posted).into_iter().map(|(c, bits)| (c.index, bits)).collect()
    }

    fn list(&mut self, caller: &Caller) -> Listing {
        decode(&ok(self.ask(caller, operation::LIST, &()))).expect("Listing")
    }
}

#[test]
fn a_raise_posts_each_subscribers_bit() {
    let mut world = World::new();
    let (a, b) = (world.client(1, Rights::empty()), world.client(2, Rights::WRITE));
    world.subscribe(&a, "reload", 0);
    world.subscribe(&b, "reload", 63);
    world.subscribe(&a, "other", 1);
    assert_eq!(world.raise(&b, "reload", ""), 2);
    assert_eq!(world.posted(), [(1, 1), (2, 1 << 63)]);
    assert_eq!(world.raise(&b, "nobody", ""), 0);
    world.subscribe(&a, "reload", 5);
    ok(world.ask(&b, operation::UNSUBSCRIBE, "reload"));
    refused(status::NOT_SUBSCRIBED, world.ask(&b, operation::UNSUBSCRIBE, "reload"));
    assert_eq!(world.raise(&b, "reload", ""), 1);
    assert_eq!(world.posted(), [(1, 1 << 5)]);
}

#[test]
fn raising_needs_write_and_bridging_needs_register() {
    let mut world = World::new();
    let client = world.client(1, Rights::READ | Rights::MANAGE);
    world.subscribe(&client, "a", 0);
    let text = refused(
        Status::DENIED,
        world.ask(&client, operation::RAISE, &Raise { signal: "a", group: "" }),
    );
    assert!(text.contains("WRITE"), "{text}");
    let text = refused(
        Status::DENIED,
        world.ask(&client, operation::BRIDGE, &Bridge { posix: 1, signal: "a" }),
    );
    assert!(text.contains("REGISTER"), "{text}");
    assert!(world.posted().is_empty());
}

#[test]
fn a_masked_signal_is_pending_until_it_is_unmasked() {
    let mut world = World::new();
    let client = world.client(1, Rights::WRITE);
    world.subscribe(&client, "a", 3);
    world.subscribe(&client, "b", 4);
    let object = world.delivered(&client, "a");
    world.mask(&client, "a", true);
    for _ in 0..3 {
        assert_eq!(world.raise(&client, "a", ""), 1);
    }
    world.raise(&client, "b", "");
    assert_eq!(world.posted(), [(1, 1 << 4)]);
    assert!(world.fake.killed.is_empty());
    assert_eq!(world.pending(&client), ["a"]);
    world.mask(&client, "a", true);
    assert!(world.posted().is_empty());
    world.mask(&client, "a", false);
    assert_eq!(world.posted(), [(1, 1 << 3)], "three raises, one post");
    assert_eq!(world.fake.killed, [(object, 10)]);
    assert!(world.pending(&client).is_empty());
    world.mask(&client, "a", false);
    assert!(world.posted().is_empty());
    refused(
        status::NOT_SUBSCRIBED,
        world.ask(&client, operation::MASK, &Mask { signal: "c", masked: true }),
    );
}

#[test]
fn a_raise_can_be_limited_to_a_group() {
    let mut world = World::new();
    let (a, b) = (world.client(1, Rights::WRITE), world.client(2, Rights::WRITE));
    for client in [&a, &b] {
        world.subscribe(client, "s", 0);
    }
    ok(world.ask(&a, operation::JOIN, "workers"));
    ok(world.ask(&a, operation::JOIN, "workers"));
    ok(world.ask(&b, operation::JOIN, "others"));
    assert_eq!(world.raise(&b, "s", "workers"), 1);
    assert_eq!(world.posted(), [(1, 1)]);
    assert_eq!(world.raise(&b, "s", "nobody"), 0);
    let listing = world.list(&a);
    assert_eq!(listing.signals, [("s".into(), 2)]);
    assert_eq!(listing.groups, [("others".into(), 1), ("workers".into(), 1)]);
    ok(world.ask(&a, operation::LEAVE, "workers"));
    refused(status::NOT_SUBSCRIBED, world.ask(&a, operation::LEAVE, "workers"));
    assert_eq!(world.raise(&b, "s", "workers"), 0);
    assert_eq!(world.raise(&b, "s", ""), 2);
}

#[test]
fn a_named_signal_is_delivered_to_a_task() {
    let mut world = World::new();
    let client = world.client(1, Rights::WRITE);
    world.subscribe(&client, "a", 0);
    let first = world.delivered(&client, "a");
    world.raise(&client, "a", "");
    let second = world.delivered(&client, "a");
    assert_eq!(world.fake.held.len(), 1, "the first one's capability is deleted");
    world.raise(&client, "a", "");
    assert_eq!(world.fake.killed, [(first, 10), (second, 10)]);
    world.fake.revoke(second);
    assert_eq!(world.raise(&client, "a", ""), 1, "the subscriber itself is told as before");
    assert_eq!(world.fake.killed.len(), 2);
    world.delivered(&client, "a");
    ok(world.ask(&client, operation::UNSUBSCRIBE, "a"));
    assert!(world.fake.held.is_empty());
}

#[test]
fn only_one_task_with_kill_is_accepted() {
    let mut world = World::new();
    let client = world.client(1, Rights::WRITE);
    world.subscribe(&client, "a", 0);
    for (what, word) in [
        (vec![(Task, Rights::all() - Rights::KILL)], "KILL"),
        (vec![(Endpoint, Rights::all())], "Endpoint"),
        (vec![(Task, Rights::KILL), (Task, Rights::KILL)], "2 capabilities"),
        (vec![], "0 capabilities"),
    ] {
        let (ticket, _) = world.fake.tickets(client.connection, &what);
        let text = refused(status::BAD_CAPABILITY, world.deliver(&client, "a", ticket));
        assert!(text.contains(word), "{text}");
    }
    refused(status::BAD_CAPABILITY, world.deliver(&client, "a", Ticket(12345)));
    let (ticket, _) = world.fake.ticket(client.connection, Task, Rights::KILL);
    refused(status::NOT_SUBSCRIBED, world.deliver(&client, "b", ticket));
    for posix in [i32::MIN, -1, 0, 32, 33, 65, i32::MAX] {
        let (ticket, _) = world.fake.ticket(client.connection, Task, Rights::KILL);
        let request = Deliver { signal: "a", ticket, posix };
        refused(status::BAD_SIGNAL, world.ask(&client, operation::DELIVER, &request));
    }
    assert!(world.fake.held.is_empty() && world.fake.escrow.is_empty());
    world.raise(&client, "a", "");
    assert!(world.fake.killed.is_empty());
}

#[test]
fn a_posix_signal_raises_a_named_one() {
    let mut world = World::new();
    let client = world.client(1, Rights::REGISTER);
    world.subscribe(&client, "reload", 2);
    let (hup, usr1) = (Signal::SIGHUP as i32, Signal::SIGUSR1 as i32);
    ok(world.ask(&client, operation::BRIDGE, &Bridge { posix: hup, signal: "x" }));
    ok(world.ask(&client, operation::BRIDGE, &Bridge { posix: hup, signal: "reload" }));
    ok(world.ask(&client, operation::BRIDGE, &Bridge { posix: usr1, signal: "reload" }));
    for posix in [9, 15, 17, 0, -1, i32::MAX] {
        let request = Bridge { posix, signal: "reload" };
        let text = refused(status::BAD_SIGNAL, world.ask(&client, operation::BRIDGE, &request));
        assert!(text.contains("SIGHUP (1)"), "{text}");
    }
    assert_eq!(world.server.descriptors().len(), 1);
    world.server.ready(&mut world.fake, 0);
    assert!(world.posted().is_empty(), "none has come");
    // To this thread, where they are blocked.
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH] {
        raise(signal).expect("raised");
    }
    world.server.ready(&mut world.fake, 0);
    assert_eq!(world.posted(), [(1, 1 << 2), (1, 1 << 2)]);
    ok(world.ask(&client, operation::BRIDGE, &Bridge { posix: hup, signal: "" }));
    raise(Signal::SIGHUP).expect("raised");
    world.server.ready(&mut world.fake, 0);
    assert!(world.posted().is_empty());
}

#[test]
fn without_blocked_signals_there_is_no_server() {
    let unblocked = std::thread::spawn(|| {
        nix::sys::signal::SigSet::from_iter(rendez_signal::BRIDGED)
            .thread_unblock()
            .expect("unblocked");
        SignalServer::new().map(drop)
    });
    let error = unblocked.join().expect("no panic").expect_err("refused");
    assert!(error.to_string().contains("block_bridged"), "{error}");
}

#[test]
fn what_belongs_to_a_connection_ends_with_it() {
    let mut world = World::new();
    let (a, b) = (world.client(1, Rights::WRITE), world.client(2, Rights::WRITE));
    for client in [&a, &b] {
        world.subscribe(client, "s", 0);
        world.subscribe(client, "t", 1);
        ok(world.ask(client, operation::JOIN, "g"));
        world.delivered(client, "s");
    }
    world.server.disconnected(&mut world.fake, &a);
    assert_eq!(world.fake.held.len(), 1);
    let listing = world.list(&b);
    assert_eq!(listing.signals, [("s".into(), 1), ("t".into(), 1)]);
    assert_eq!(listing.groups, [("g".into(), 1)]);
    world.raise(&b, "s", "g");
    assert_eq!(world.posted(), [(2, 1)]);
    let request = Subscribe { signal: "s", bit: 0 };
    refused(Status::DENIED, world.ask(&a, operation::SUBSCRIBE, &request));
    refused(Status::DENIED, world.ask(&a, operation::JOIN, "g"));
    world.server.disconnected(&mut world.fake, &b);
    assert!(world.fake.held.is_empty());
    let c = world.client(3, Rights::empty());
    assert_eq!(world.list(&c), Listing { signals: vec![], groups: vec![] });
}

#[test]
fn names_bits_and_numbers_are_bounded() {
    let mut world = World::new();
    let client = world.client(1, Rights::WRITE);
    let long = "x".repeat(65);
    for name in ["", "a\nb", "\0", &long] {
        let request = Subscribe { signal: name, bit: 0 };
        refused(status::BAD_NAME, world.ask(&client, operation::SUBSCRIBE, &request));
        refused(status::BAD_NAME, world.ask(&client, operation::JOIN, name));
        let request = Raise { signal: name, group: "" };
        refused(status::BAD_NAME, world.ask(&client, operation::RAISE, &request));
    }
    for bit in [64, 255] {
        let request = Subscribe { signal: "a", bit };
        refused(status::BAD_BIT, world.ask(&client, operation::SUBSCRIBE, &request));
    }
    for i in 0..limit::SUBSCRIPTIONS_PER_CONNECTION {
        world.subscribe(&client, &format!("{i}"), 0);
    }
    let request = Subscribe { signal: "more", bit: 0 };
    refused(Status::QUOTA, world.ask(&client, operation::SUBSCRIBE, &request));
    world.subscribe(&client, "0", 1);
    ok(world.ask(&client, operation::UNSUBSCRIBE, "0"));
    world.subscribe(&client, "more", 0);
    for i in 0..limit::GROUPS_PER_CONNECTION {
        ok(world.ask(&client, operation::JOIN, &*format!("{i}")));
    }
    refused(Status::QUOTA, world.ask(&client, operation::JOIN, "more"));
    ok(world.ask(&client, operation::LEAVE, "0"));
    ok(world.ask(&client, operation::JOIN, "more"));
}

#[test]
fn rubbish_is_answered_and_holds_nothing() {
    let mut world = World::new();
    let client = world.client(1, Rights::WRITE | Rights::REGISTER);
    let mut random = Random(0x5eed_0003);
    for _ in 0..20_000 {
        let operation = random.below(13) as u16;
        let (payload, room) = (random.bytes(16), random.below(64));
        let message = message(&client, operation, &payload, room);
        let answer = call(&mut world.server, &mut world.fake, message).take();
        let (status, payload) = answer.expect("an answer at once");
        assert!(payload.len() <= room || status == Status::TOO_BIG);
        assert_ne!(status, Status::DROPPED);
    }
    world.server.disconnected(&mut world.fake, &client);
    let other = world.client(2, Rights::empty());
    assert_eq!(world.list(&other), Listing { signals: vec![], groups: vec![] });
    assert_eq!(encode(&()), [0u8; 0], "nothing is said as no bytes");
}
