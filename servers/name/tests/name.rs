//! The name server by direct call.

mod fake;

use fake::{Fake, Random, ask, caller, message, ok, refused, send};
use rendez::service::{Caller, Service, call};
use rendez_name::{NameServer, limit};
use rendez_protocol::kernel::ObjectKind::{Endpoint, Task};
use rendez_protocol::kernel::Travel;
use rendez_protocol::name::{Found, List, Listing, LookUp, Register, operation, status};
use rendez_protocol::{ObjectId, Rights, Status, decode};
use std::time::{Duration, Instant};

const SERVER: Rights = Rights::all().difference(Rights::KILL);

struct World {
    server: NameServer,
    fake: Fake,
}

impl World {
    fn new() -> Self {
        Self { server: NameServer::new(), fake: Fake::default() }
    }

    fn client(&mut self, task: u32, connection: u32, rights: Rights) -> Caller {
        let caller = caller(task, connection, rights);
        self.server.connected(&mut self.fake, &caller).expect("welcome");
        caller
    }

    fn register(&mut self, caller: &Caller, path: &str) -> (Status, Vec<u8>) {
        let (ticket, _) = self.fake.ticket(caller.connection, Endpoint, SERVER);
        self.ask(caller, operation::REGISTER, &Register { path, ticket })
    }

    fn ask<T: serde::Serialize + ?Sized>(
        &mut self,
        caller: &Caller,
        operation: u16,
        request: &T,
    ) -> (Status, Vec<u8>) {
        ask(&mut self.server, &mut self.fake, caller, operation, request)
    }

    fn look_up(
        &mut self,
        caller: &Caller,
        path: &str,
        rights: Option<Rights>,
    ) -> (Status, Vec<u8>) {
        self.ask(caller, operation::LOOK_UP, &LookUp { path, rights, wait: false })
    }

    /// The rights of what a look-up offers.
    #[track_caller]
    fn given(&mut self, caller: &Caller, path: &str, rights: Option<Rights>) -> Rights {
        let reply = ok(self.look_up(caller, path, rights));
        let found: Found<'_> = decode(&reply).expect("Found");
        let (connection, ticket, _, offer) = self.fake.offered.last().expect("an offer");
        assert_eq!((*connection, *ticket), (caller.connection, found.ticket));
        assert_eq!((offer.travel, offer.badge), (Travel::Mint, None));
        offer.rights
    }

    fn list(&mut self, caller: &Caller, path: &str) -> Vec<(String, bool)> {
        let reply = ok(self.ask(caller, operation::LIST, &List { path, after: "" }));
        let listing: Listing = decode(&reply).expect("Listing");
        assert!(!listing.more);
        listing.entries.into_iter().map(|e| (e.name, e.registered)).collect()
    }
}

#[test]
fn the_registered_part_of_a_path_is_found_and_the_rest_is_told() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    let (ticket, object) = world.fake.ticket(server.connection, Endpoint, SERVER);
    ok(world.ask(&server, operation::REGISTER, &Register { path: "/disk/main", ticket }));
    let client = world.client(2, 2, Rights::empty());
    for (path, rest) in [("/disk/main", ""), ("/disk/main/a/b", "a/b")] {
        let reply = ok(world.look_up(&client, path, None));
        let found: Found<'_> = decode(&reply).expect("Found");
        assert_eq!((found.name, found.rest), ("/disk/main", rest));
        assert_eq!(world.fake.offered.last().map(|o| o.2), Some(object));
    }
    for path in ["/", "/disk", "/disk/mainly", "/other"] {
        refused(status::NOT_FOUND, world.look_up(&client, path, None));
    }
}

#[test]
fn a_name_is_a_leaf_or_a_directory_and_directories_come_and_go_with_their_leaves() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    ok(world.register(&server, "/a/b/c"));
    ok(world.register(&server, "/a-b"));
    for taken in ["/a", "/a/b", "/a/b/c", "/a/b/c/d"] {
        refused(status::TAKEN, world.register(&server, taken));
    }
    assert_eq!(world.fake.held.len(), 2, "what came with a refused registration is deleted");
    assert!(world.fake.escrow.is_empty());
    assert_eq!(world.list(&server, "/"), [("a".into(), false), ("a-b".into(), true)]);
    assert_eq!(world.list(&server, "/a/b"), [("c".into(), true)]);
    refused(status::NOT_FOUND, world.ask(&server, operation::UNREGISTER, "/a/b"));
    refused(status::NOT_FOUND, world.ask(&server, operation::UNREGISTER, "/a/b/c/d"));
    ok(world.ask(&server, operation::UNREGISTER, "/a/b/c"));
    assert_eq!(world.list(&server, "/"), [("a-b".into(), true)]);
    let text = refused(
        status::NOT_FOUND,
        world.ask(&server, operation::LIST, &List { path: "/a-b/x", after: "" }),
    );
    assert!(text.contains("ask its server"), "{text}");
    ok(world.ask(&server, operation::UNREGISTER, "/a-b"));
    assert!(world.list(&server, "/").is_empty());
    assert!(world.fake.held.is_empty());
}

#[test]
fn who_lacks_register_registers_nothing() {
    let mut world = World::new();
    let client = world.client(1, 1, Rights::READ | Rights::WRITE | Rights::MANAGE);
    let text = refused(Status::DENIED, world.register(&client, "/a"));
    assert!(text.contains("REGISTER"), "{text}");
    assert!(world.list(&client, "/").is_empty());
}

#[test]
fn only_one_endpoint_with_mint_and_grant_can_be_registered() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    for (what, word) in [
        (vec![(Endpoint, Rights::SEND | Rights::GRANT)], "MINT"),
        (vec![(Endpoint, Rights::SEND | Rights::MINT)], "GRANT"),
        (vec![(Task, SERVER)], "Task"),
        (vec![(Endpoint, SERVER), (Endpoint, SERVER)], "2 capabilities"),
        (vec![], "0 capabilities"),
    ] {
        let (ticket, _) = world.fake.tickets(server.connection, &what);
        let answer = world.ask(&server, operation::REGISTER, &Register { path: "/a", ticket });
        let text = refused(status::BAD_CAPABILITY, answer);
        assert!(text.contains(word), "{text}");
        assert!(world.fake.held.is_empty());
    }
    let other = world.client(2, 2, Rights::REGISTER);
    let (ticket, _) = world.fake.ticket(other.connection, Endpoint, SERVER);
    let answer = world.ask(&server, operation::REGISTER, &Register { path: "/a", ticket });
    refused(status::BAD_CAPABILITY, answer);
    assert!(world.list(&server, "/").is_empty());
}

#[test]
fn a_look_up_gives_no_more_than_the_callers_own_view() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    let held = Rights::SEND
        | Rights::RECEIVE
        | Rights::MINT
        | Rights::GRANT
        | Rights::READ
        | Rights::WRITE
        | Rights::MANAGE;
    let (ticket, _) = world.fake.ticket(server.connection, Endpoint, held);
    ok(world.ask(&server, operation::REGISTER, &Register { path: "/a", ticket }));
    let kernels = Rights::SEND | Rights::MINT | Rights::GRANT;

    let reader = world.client(2, 2, Rights::READ);
    assert_eq!(world.given(&reader, "/a", None), kernels | Rights::READ);
    assert_eq!(world.given(&reader, "/a", Some(Rights::SEND)), Rights::SEND);
    let text = refused(Status::DENIED, world.look_up(&reader, "/a", Some(Rights::WRITE)));
    assert!(text.contains("WRITE"), "{text}");

    let manager = world.client(3, 3, Rights::READ | Rights::WRITE | Rights::MANAGE);
    assert_eq!(world.given(&manager, "/a", None), kernels | Rights::READ | Rights::WRITE);
    let asked = Rights::SEND | Rights::MANAGE;
    assert_eq!(world.given(&manager, "/a", Some(asked)), asked);
    for never in [Rights::RECEIVE, Rights::REGISTER, Rights::KILL] {
        refused(Status::DENIED, world.look_up(&manager, "/a", Some(never)));
    }
}

#[test]
fn names_end_with_the_last_connection_of_their_task_and_belong_to_it_alone() {
    let mut world = World::new();
    let first = world.client(1, 1, Rights::REGISTER);
    let second = world.client(1, 2, Rights::REGISTER);
    let other = world.client(2, 3, Rights::REGISTER);
    ok(world.register(&first, "/a/b"));
    ok(world.register(&other, "/a/c"));
    refused(status::NOT_YOURS, world.ask(&other, operation::UNREGISTER, "/a/b"));
    world.server.disconnected(&mut world.fake, &first);
    assert_eq!(world.list(&other, "/a").len(), 2);
    world.server.disconnected(&mut world.fake, &second);
    assert_eq!(world.list(&other, "/a"), [("c".into(), true)]);
    assert_eq!(world.fake.held.len(), 1);
    ok(world.register(&other, "/a/b"));
    world.server.disconnected(&mut world.fake, &other);
    assert!(world.fake.held.is_empty());
}

#[test]
fn a_name_whose_capability_was_revoked_is_no_name() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    let (ticket, object) = world.fake.ticket(server.connection, Endpoint, SERVER);
    ok(world.ask(&server, operation::REGISTER, &Register { path: "/a", ticket }));
    world.fake.revoke(object);
    refused(status::NOT_FOUND, world.look_up(&server, "/a", None));
    ok(world.register(&server, "/a"));
}

#[test]
fn a_look_up_can_wait_for_the_name() {
    let mut world = World::new();
    let client = world.client(2, 2, Rights::empty());
    let wait = LookUp { path: "/a/b/rest", rights: None, wait: true };
    let waiting = send(&mut world.server, &mut world.fake, &client, operation::LOOK_UP, &wait);
    let server = world.client(1, 1, Rights::REGISTER);
    ok(world.register(&server, "/a/bb"));
    assert!(waiting.take().is_none());
    ok(world.register(&server, "/a/b"));
    let reply = ok(waiting.take().expect("answered"));
    let found: Found<'_> = decode(&reply).expect("Found");
    assert_eq!((found.name, found.rest), ("/a/b", "rest"));
    // A right that cannot be had is refused when the name comes.
    let wait = LookUp { path: "/c", rights: Some(Rights::WRITE), wait: true };
    let waiting = send(&mut world.server, &mut world.fake, &client, operation::LOOK_UP, &wait);
    ok(world.register(&server, "/c"));
    refused(Status::DENIED, waiting.take().expect("answered"));
}

#[test]
fn waiting_ends_at_the_deadline_or_with_the_connection() {
    let mut world = World::new();
    let client = world.client(2, 2, Rights::empty());
    let start = Instant::now();
    let payload = rendez_protocol::encode(&LookUp { path: "/a", rights: None, wait: true });
    let wait = |world: &mut World, ms: Option<u64>| {
        let mut message = message(&client, operation::LOOK_UP, &payload, 1000);
        message.deadline_ns = ms.map_or(0, |ms| rendez::deadline_after(Duration::from_millis(ms)));
        call(&mut world.server, &mut world.fake, message)
    };
    let never = wait(&mut world, None);
    assert_eq!(world.server.next_deadline(), None);
    let (late, soon) = (wait(&mut world, Some(200_000)), wait(&mut world, Some(100_000)));
    let first = world.server.next_deadline().expect("one waits");
    assert!(first >= start + Duration::from_secs(100));
    world.server.expired(&mut world.fake, first);
    refused(Status::DEADLINE, soon.take().expect("answered"));
    assert!(late.take().is_none());
    let second = world.server.next_deadline().expect("the other waits");
    assert!(second >= start + Duration::from_secs(200));
    world.server.disconnected(&mut world.fake, &client);
    for gone in [late, never] {
        assert_eq!(gone.take(), Some((Status::DROPPED, vec![])));
    }
    assert_eq!(world.server.next_deadline(), None);
}

#[test]
fn what_one_task_can_occupy_is_bounded() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    for i in 0..limit::NAMES_PER_TASK {
        ok(world.register(&server, &format!("/{i}")));
    }
    refused(Status::QUOTA, world.register(&server, "/one-more"));
    assert!(world.fake.escrow.is_empty() && world.fake.held.len() == limit::NAMES_PER_TASK);
    let other = world.client(2, 2, Rights::REGISTER);
    ok(world.register(&other, "/one-more"));

    let wait = LookUp { path: "/nothing", rights: None, wait: true };
    let mut waiting = Vec::new();
    for _ in 0..limit::WAITERS_PER_TASK {
        let slot = send(&mut world.server, &mut world.fake, &other, operation::LOOK_UP, &wait);
        assert!(slot.take().is_none());
        waiting.push(slot);
    }
    refused(Status::QUOTA, world.ask(&other, operation::LOOK_UP, &wait));
    ok(world.ask(&other, operation::UNREGISTER, "/one-more"));
    ok(world.register(&other, "/nothing"));
    assert_eq!(waiting.iter().filter_map(|slot| slot.take()).map(ok).count(), waiting.len());
    let slot = send(
        &mut world.server,
        &mut world.fake,
        &other,
        operation::LOOK_UP,
        &LookUp { path: "/still-nothing", ..wait },
    );
    assert!(slot.take().is_none(), "answered waiters are no longer counted");
}

#[test]
fn a_listing_comes_in_pages() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    let names: Vec<_> = (0..100).map(|i| format!("name-{i:03}")).collect();
    for name in &names {
        ok(world.register(&server, &format!("/d/{name}")));
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let payload = rendez_protocol::encode(&List { path: "/d", after: &after });
        let message = message(&server, operation::LIST, &payload, 200);
        let answer = call(&mut world.server, &mut world.fake, message).take();
        let listing: Listing = decode(&ok(answer.expect("an answer"))).expect("Listing");
        seen.extend(listing.entries.into_iter().map(|e| e.name));
        if !listing.more {
            break;
        }
        after.clone_from(seen.last().expect("a page is not empty"));
    }
    assert_eq!(seen, names);
}

#[test]
fn what_is_no_path_is_refused() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    let deep = "/x".repeat(limit::DEPTH + 1);
    let long = format!("/{}", "x".repeat(256));
    let longer = format!("/{}", "x/".repeat(3000));
    for path in ["", "a", "/a/", "//a", "/a//b", "/./a", "/a/..", "/a\0b", &long, &longer] {
        refused(status::BAD_PATH, world.register(&server, path));
        refused(status::BAD_PATH, world.look_up(&server, path, None));
        refused(status::BAD_PATH, world.ask(&server, operation::UNREGISTER, path));
    }
    for path in ["/", "/a\nb", "/\u{1b}[31m", &deep] {
        refused(status::BAD_PATH, world.register(&server, path));
    }
    refused(status::NOT_FOUND, world.look_up(&server, &deep, None));
    assert!(world.fake.held.is_empty() && world.fake.escrow.is_empty());
}

#[test]
fn rubbish_is_answered_and_holds_nothing() {
    let mut world = World::new();
    let client = world.client(1, 1, Rights::REGISTER);
    let mut random = Random(0x5eed_0001);
    for _ in 0..20_000 {
        let (operation, payload) = (random.below(7) as u16, random.bytes(24));
        let room = random.below(64);
        let message = message(&client, operation, &payload, room);
        let answer = call(&mut world.server, &mut world.fake, message);
        // A well-formed look-up among the rubbish may wait.
        if let Some((status, payload)) = answer.take() {
            assert!(payload.len() <= room || status == Status::TOO_BIG);
        }
    }
    world.server.disconnected(&mut world.fake, &client);
    assert!(world.fake.held.is_empty());
}

#[test]
fn a_found_that_does_not_fit_offers_nothing() {
    let mut world = World::new();
    let server = world.client(1, 1, Rights::REGISTER);
    ok(world.register(&server, "/a"));
    let payload = rendez_protocol::encode(&LookUp { path: "/a", rights: None, wait: false });
    let message = message(&server, operation::LOOK_UP, &payload, 4);
    let answer = call(&mut world.server, &mut world.fake, message).take();
    assert_eq!(answer.map(|(status, _)| status), Some(Status::TOO_BIG));
    assert_eq!(world.fake.offered.first().map(|o| o.2), None::<ObjectId>);
}
