use super::{
    Answer, CREDENTIALS, KernelError, Pair, Quotas, Request, Rights, connect, give, mapped, pair,
    pair_with, quota, revoked,
};
use crate::effect::{Attach, Effect, Side};
use rendez_protocol::kernel::{Doorbell, Event, Shape};
use rendez_protocol::{ConnectionId, Why};

fn bad() -> KernelError {
    KernelError::System { doing: "sealing".into(), error: "a hole".into() }
}

fn disconnect(connection: ConnectionId) -> Request {
    Request::Disconnect { connection, why: Why::Denied }
}

#[test]
fn step_by_step_with_the_descriptors_of_each() {
    for client_bell in [Doorbell::Futex, Doorbell::Event] {
        for server_bell in [Doorbell::Futex, Doorbell::Event] {
            steps(client_bell, server_bell);
        }
    }
}

fn steps(client_bell: Doorbell, server_bell: Doorbell) {
    let Pair { mut world, server, client, send, .. } = pair();
    world.seals = false;
    let (requests, replies) = (Shape { lines: 64, area_bytes: 4096 }, Shape::default());
    let (slot, interface, doorbell) = (send, None, client_bell);
    let transaction =
        world.send(client, Request::Connect { slot, interface, requests, replies, doorbell });
    let (answer, attach) = world.answer_with(transaction).unwrap();
    let Answer::Connecting { connection, status_index: 1 } = answer else { panic!("{answer:?}") };
    assert_eq!(attach, [Attach::OwnSegment(connection.into(), Side::Client)]);
    let made = Effect::MakeSegments {
        pair: connection.into(),
        client_bytes: requests.segment_bytes(),
        server_bytes: replies.segment_bytes(),
    };
    assert_eq!(world.log, [made]);
    world.log.clear();
    let peer = world.machine.connection_at(client, 1);
    assert_eq!(peer, Some((connection, Side::Client, server)));

    // Before it is told, the server cannot name it.
    for request in [mapped(connection), disconnect(connection)] {
        assert_eq!(world.fail(server, request), KernelError::BadConnection(connection));
    }

    let waits = world.send(client, mapped(connection));
    assert_eq!(world.log, [Effect::Seal { pair: connection.into(), side: Side::Client }]);
    world.log.clear();
    assert!(matches!(world.fail(client, mapped(connection)), KernelError::Order(_)));
    world.seal(connection.into(), Side::Client, Ok(()));
    let mut expected = vec![
        Attach::OwnSegment(connection.into(), Side::Server),
        Attach::SealedSegment(connection.into(), Side::Client),
        Attach::Wait(connection, Side::Server),
    ];
    if client_bell == Doorbell::Event {
        expected.push(Attach::Ring(connection, Side::Client));
    }
    let [Effect::Event { to, event, attach }] = world.log.as_slice() else { panic!() };
    assert_eq!((*to, attach), (server, &expected));
    let Event::Incoming { badge, rights, client: from, credentials, rings, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!((*badge, *from, *credentials, *rings), (0, client, CREDENTIALS, client_bell));
    assert!(rights.contains(Rights::SEND | Rights::READ) && !rights.contains(Rights::WRITE));
    world.log.clear();

    let done = world.send(server, Request::Mapped { connection, doorbell: server_bell });
    assert_eq!(world.log, [Effect::Seal { pair: connection.into(), side: Side::Server }]);
    world.log.clear();
    world.seal(connection.into(), Side::Server, Ok(()));
    assert!(matches!(world.log[0], Effect::Answer { to, .. } if to == server));
    assert_eq!(world.answer_to(done), Some(Answer::Done));
    let (answer, attach) = world.answer_with(waits).unwrap();
    let generation = 1;
    assert_eq!(
        answer,
        Answer::Connected {
            connection,
            status_index: 1,
            spare: None,
            server,
            generation,
            rings: server_bell,
            interface: None,
        }
    );
    let mut expected = vec![Attach::SealedSegment(connection.into(), Side::Server)];
    if server_bell == Doorbell::Event {
        expected.push(Attach::Ring(connection, Side::Server));
    }
    if client_bell == Doorbell::Event {
        expected.push(Attach::Wait(connection, Side::Client));
    }
    assert_eq!(attach, expected);
    assert_eq!(world.log, [Effect::ForgetSegments(connection.into())]);
    for who in [client, server] {
        assert!(matches!(world.fail(who, mapped(connection)), KernelError::Order(_)));
    }
}

#[test]
fn sizes_are_checked_and_named() {
    let Pair { mut world, client, send, .. } = pair();
    let good = Shape::default();
    for (requests, replies, what, value) in [
        (Shape { lines: 3, ..good }, good, "requests.lines", 3),
        (Shape { lines: 0, ..good }, good, "requests.lines", 0),
        (good, Shape { lines: 8192, ..good }, "replies.lines", 8192),
        (good, Shape { area_bytes: 2048, ..good }, "replies.area_bytes", 2048),
        (Shape { area_bytes: 1 << 31, ..good }, good, "requests.area_bytes", 1 << 31),
    ] {
        let (slot, interface, doorbell) = (send, None, Doorbell::Futex);
        let request = Request::Connect { slot, interface, requests, replies, doorbell };
        let error = world.fail(client, request);
        let KernelError::BadValue { what: named, value: given, .. } = &error else { panic!() };
        assert_eq!((named.as_str(), *given), (what, value));
    }
}

#[test]
fn connections_are_counted_at_both_ends_and_in_bytes() {
    let bytes = 2 * Shape::default().segment_bytes() as u64;
    for (quotas, what, limit) in [
        (Quotas { client_connections: 1, ..Quotas::default() }, "connections of a client", 1),
        (Quotas { server_connections: 1, ..Quotas::default() }, "connections of a server", 1),
        (
            Quotas { segment_bytes: bytes, ..Quotas::default() },
            "bytes of a client's segments",
            bytes,
        ),
        (
            Quotas { connections_to_one_server: 1, ..Quotas::default() },
            "connections of a client to one server",
            1,
        ),
        (
            Quotas { reply_bytes_of_one_server: bytes / 2, ..Quotas::default() },
            "bytes of a server's segments for one client",
            bytes / 2,
        ),
    ] {
        let Pair { mut world, server, client, send, .. } = pair_with(quotas);
        let id = world.connected(client, send, server);
        let error = world.fail(client, connect(send));
        assert_eq!(quota(&error), (what.into(), limit));
        world.ask(client, disconnect(id));
        world.connecting(client, send);
    }
}

#[test]
fn no_two_clients_fill_a_server() {
    let quotas = Quotas::default();
    assert!(quotas.connections_to_one_server * 2 < quotas.server_connections);
    // As many connections as that of the usual size.
    let usual = Shape::default().segment_bytes() as u64;
    let many = u64::from(quotas.connections_to_one_server);
    assert!(many * usual <= quotas.reply_bytes_of_one_server);
    // What one client has at a server, another does not lack.
    let quotas = Quotas { connections_to_one_server: 1, ..quotas };
    let Pair { mut world, first, endpoint, server, client, send, .. } = pair_with(quotas);
    world.connected(client, send, server);
    let own = world.mint(first, endpoint, Rights::SEND);
    world.connected(first, own, server);
    // Nor at another server.
    let other = world.endpoint(first);
    let (peer, _, slots) = world.spawn(first, vec![give(other, Rights::RECEIVE)]);
    world.serve(peer, slots[0]);
    world.connected(first, other, peer);
    world.fail(first, connect(own));
    // A server that dies takes the shares in it along.
    world.die(peer);
    let shares = &world.machine.tasks.get(first).unwrap().shares;
    assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [server]);
}

#[test]
fn who_disconnects_is_only_answered_and_the_other_is_told() {
    for by_client in [true, false] {
        let Pair { mut world, server, client, send, .. } = pair();
        let connection = world.connected(client, send, server);
        let (asker, other) = if by_client { (client, server) } else { (server, client) };
        world.log.clear();
        assert_eq!(world.ask(asker, disconnect(connection)), Answer::Done);
        assert_eq!(world.words(), [(client, 1, 5), (server, 1, 5)]);
        assert_eq!(world.events(other), [Event::Closed { connection, why: Why::Denied }]);
        assert_eq!(world.log, [], "its segments were forgotten once it was complete");
        // The other end says that it knows; then nobody has anything to say any more.
        assert_eq!(world.ask(other, disconnect(connection)), Answer::Done);
        for who in [client, server] {
            let error = world.fail(who, disconnect(connection));
            assert_eq!(error, KernelError::BadConnection(connection));
        }
    }
}

#[test]
fn a_status_word_is_used_again_only_when_its_end_is_known() {
    let Pair { mut world, server, client, send, .. } = pair();
    let old = world.connected(client, send, server);
    // The server ends it, and says no more; the client has not said that it knows.
    assert_eq!(world.ask(server, disconnect(old)), Answer::Done);
    let (known, unknown) = {
        let task = world.machine.tasks.get(server).expect("alive");
        let other = world.machine.tasks.get(client).expect("alive");
        (task.words.used.len(), other.words.used.len())
    };
    assert_eq!((known, unknown), (1, 0));
    assert_eq!(world.ask(client, disconnect(old)), Answer::Done);
    assert_eq!(world.machine.tasks.get(client).expect("alive").words.used.len(), 1);
}

#[test]
fn nobody_but_the_kernel_says_dead_or_revoked() {
    for (said, heard, word) in [
        (Why::Dead, Why::Closed, 3),
        (Why::Revoked, Why::Closed, 3),
        (Why::Protocol, Why::Protocol, 4),
        (Why::Quota, Why::Quota, 6),
    ] {
        let Pair { mut world, server, client, send, .. } = pair();
        let connection = world.connected(client, send, server);
        world.words();
        world.ask(client, Request::Disconnect { connection, why: said });
        assert_eq!(world.events(server), [Event::Closed { connection, why: heard }]);
        assert_eq!(world.words(), [(client, 1, word), (server, 1, word)]);
    }
}

#[test]
fn a_stranger_cannot_touch_a_connection() {
    let Pair { mut world, first, server, client, send, .. } = pair();
    let connection = world.connected(client, send, server);
    for request in [mapped(connection), disconnect(connection)] {
        assert_eq!(world.fail(first, request), KernelError::BadConnection(connection));
    }
    let stale = ConnectionId { generation: connection.generation + 1, ..connection };
    assert_eq!(world.fail(client, disconnect(stale)), KernelError::BadConnection(stale));
}

#[test]
fn a_server_that_dies_or_refuses_before_completion() {
    for dies in [true, false] {
        let Pair { mut world, server, client, send, .. } = pair();
        let (connection, index) = world.connecting(client, send);
        let waits = world.send(client, mapped(connection));
        world.log.clear();
        let (why, word) = if dies {
            world.die(server);
            (Why::Dead, 1)
        } else {
            world.ask(server, disconnect(connection));
            (Why::Denied, 5)
        };
        assert!(world.words().contains(&(client, index, word)));
        let error = KernelError::NotCompleted(why);
        assert_eq!(world.answer_to(waits), Some(Answer::Error(error)));
        assert_eq!(world.events(client), [], "it was answered");
    }
}

#[test]
fn a_server_that_dies_before_it_knew() {
    let Pair { mut world, server, client, send, .. } = pair();
    let (connection, index) = world.connecting(client, send);
    world.die(server);
    assert_eq!(world.words(), [(client, index, 1)]);
    assert_eq!(world.events(client), [Event::Closed { connection, why: Why::Dead }]);
    assert_eq!(world.fail(client, mapped(connection)), KernelError::BadConnection(connection));
}

#[test]
fn a_client_that_dies_before_the_server_knew_leaves_nothing() {
    let Pair { mut world, server, client, send, .. } = pair();
    let (connection, _) = world.connecting(client, send);
    world.log.clear();
    world.die(client);
    assert_eq!(world.log, [Effect::ForgetSegments(connection.into()), Effect::ForgetTask(client)]);
    assert_eq!(world.machine.connection_at(server, 1), None);
}

#[test]
fn a_client_that_dies_while_the_server_maps_or_seals() {
    for seals in [false, true] {
        let Pair { mut world, server, client, send, .. } = pair();
        let (connection, _) = world.connecting(client, send);
        world.send(client, mapped(connection));
        world.events(server);
        world.seals = false;
        let sealing = seals.then(|| world.send(server, mapped(connection)));
        world.die(client);
        if let Some(sealing) = sealing {
            let error = KernelError::NotCompleted(Why::Dead);
            assert_eq!(world.answer_to(sealing), Some(Answer::Error(error)));
            assert_eq!(world.events(server), []);
            world.seal(connection.into(), Side::Server, Ok(()));
            assert_eq!(world.answer_to(sealing), None, "too late");
        } else {
            let closed = Event::Closed { connection, why: Why::Dead };
            assert_eq!(world.events(server), [closed]);
        }
    }
}

#[test]
fn a_bad_segment_of_the_client_ends_it_before_the_server_knew() {
    let Pair { mut world, server, client, send, .. } = pair();
    world.seals = false;
    let (connection, index) = world.connecting(client, send);
    let waits = world.send(client, mapped(connection));
    world.seal(connection.into(), Side::Client, Err(bad()));
    assert_eq!(world.answer_to(waits), Some(Answer::Error(bad())));
    assert_eq!((world.events(client), world.events(server)), (vec![], vec![]));
    assert_eq!(world.words(), [(client, index, 4)]);
}

#[test]
fn a_bad_segment_of_the_server_is_told_to_both() {
    let Pair { mut world, server, client, send, .. } = pair();
    let (connection, _) = world.connecting(client, send);
    let waits = world.send(client, mapped(connection));
    world.events(server);
    world.seals = false;
    let sealing = world.send(server, mapped(connection));
    world.seal(connection.into(), Side::Server, Err(bad()));
    assert_eq!(world.answer_to(sealing), Some(Answer::Error(bad())));
    let error = KernelError::NotCompleted(Why::Protocol);
    assert_eq!(world.answer_to(waits), Some(Answer::Error(error)));
    assert_eq!((world.events(client), world.events(server)), (vec![], vec![]));
    assert_eq!(world.words(), [(client, 1, 4), (server, 1, 4)]);
}

#[test]
fn a_client_can_give_up_while_the_server_maps() {
    let Pair { mut world, server, client, send, .. } = pair();
    let (connection, _) = world.connecting(client, send);
    let waits = world.send(client, mapped(connection));
    world.events(server);
    world.send(client, Request::Cancel { transaction: waits });
    assert_eq!(world.answer_to(waits), Some(Answer::Error(KernelError::Cancelled)));
    assert_eq!(world.events(client), []);
    let closed = Event::Closed { connection, why: Why::Cancelled };
    assert_eq!(world.events(server), [closed]);
}

#[test]
fn the_shell_gives_a_connection_up_whatever_its_task_waits_for() {
    for side in [Side::Client, Side::Server] {
        let Pair { mut world, server, client, send, .. } = pair();
        let (connection, _) = world.connecting(client, send);
        // A transaction id that anybody may use.
        world.machine.handle(client, u64::MAX, mapped(connection), &mut world.log);
        world.settle();
        world.events(server);
        let mut effects = Vec::new();
        world.machine.give_up(connection.into(), side, Why::Quota, &mut effects);
        world.machine.check();
        world.log.append(&mut effects);
        let error = KernelError::NotCompleted(Why::Quota);
        assert_eq!(world.answer_to(u64::MAX), Some(Answer::Error(error)));
        let closed = Event::Closed { connection, why: Why::Quota };
        let told = if side == Side::Server { vec![] } else { vec![closed] };
        assert_eq!(world.events(server), told);
        world.machine.give_up(connection.into(), side, Why::Quota, &mut effects);
        assert_eq!(effects, [], "once");
    }
}

#[test]
fn a_client_that_disconnects_while_it_waits_gets_both_answers() {
    let Pair { mut world, client, send, .. } = pair();
    let (connection, _) = world.connecting(client, send);
    let waits = world.send(client, mapped(connection));
    assert_eq!(world.ask(client, disconnect(connection)), Answer::Done);
    let error = KernelError::NotCompleted(Why::Denied);
    assert_eq!(world.answer_to(waits), Some(Answer::Error(error)));
}

#[test]
fn status_words_are_used_again_as_late_as_possible_and_set_to_zero_before() {
    let Pair { mut world, server, client, send, .. } = pair();
    let words = rendez_protocol::limit::STATUS_WORDS;
    for wanted in 1..words {
        // Without the checks of every step: this is long.
        world.machine.handle(client, 0, connect(send), &mut world.log);
        let Some(Effect::Answer { answer, .. }) = world.log.pop() else { panic!() };
        let Answer::Connecting { connection, status_index } = answer else { panic!("{answer:?}") };
        assert_eq!(status_index, wanted);
        world.machine.handle(client, 0, disconnect(connection), &mut world.log);
        world.log.clear();
    }
    let (first, index) = world.connecting(client, send);
    assert_eq!((index, world.words()), (1, vec![(client, 1, 0)]));
    let (_, index) = world.connecting(client, send);
    assert_eq!(index, 2);
    world.words();
    world.send(client, mapped(first));
    assert_eq!(world.words(), [(server, 1, 0)], "the server's too, when it is told");
    assert!(first.generation > 0);
}

#[test]
fn a_task_can_connect_to_itself() {
    let Pair { mut world, server, receive, .. } = pair();
    let connection = world.connected(server, receive, server);
    assert_eq!(world.machine.connection_at(server, 1), Some((connection, Side::Client, server)));
    assert_eq!(world.machine.connection_at(server, 2), Some((connection, Side::Server, server)));
    assert_eq!(world.ask(server, disconnect(connection)), Answer::Done);
    assert_eq!(world.events(server), [Event::Closed { connection, why: Why::Denied }]);
    let connection = world.connected(server, receive, server);
    world.die(server);
    assert_eq!(world.machine.connection_at(server, 1), None, "{connection}");
}

#[test]
fn revoking_the_receivers_capability_severs_what_it_served() {
    let Pair { mut world, first, endpoint, server, client, send, .. } = pair();
    let own = world.mint(first, endpoint, Rights::SEND);
    let connection = world.connected(first, own, server);
    world.connected(client, send, server);
    let answer = world.ask(first, Request::Revoke { slot: endpoint });
    assert_eq!(answer, revoked(3, 2));
    assert_eq!(world.events(first), [Event::Closed { connection, why: Why::Revoked }]);
}
