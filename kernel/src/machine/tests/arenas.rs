//! Arenas: attached in steps, detached in one.

use super::{Pair, Segments, World, mapped, pair, pair_with};
use crate::effect::{Attach, Effect, Side};
use crate::quota::Quotas;
use rendez_protocol::kernel::{Answer, Event, KernelError, Request, Shape};
use rendez_protocol::{ArenaId, ConnectionId, TaskId, Why, limit};

const FIRST: ArenaId = ArenaId(1);

fn attach(connection: ConnectionId, requests: u32, replies: u32) -> Request {
    Request::Attach { connection, requests, replies }
}

fn arena_mapped(connection: ConnectionId, arena: ArenaId) -> Request {
    Request::ArenaMapped { connection, arena }
}

fn detach(connection: ConnectionId, arena: ArenaId) -> Request {
    Request::Detach { connection, arena }
}

fn attaching(world: &mut World, client: TaskId, request: Request) -> ArenaId {
    match world.ask(client, request) {
        Answer::Attaching { arena, .. } => arena,
        other => panic!("not attaching: {other:?}"),
    }
}

/// A pair of tasks, connected, and nothing in the log.
fn connected() -> (Pair, ConnectionId) {
    let mut pair = pair();
    let connection = pair.world.connected(pair.client, pair.send, pair.server);
    pair.world.log.clear();
    (pair, connection)
}

fn bytes_of(pair: &Pair) -> u64 {
    pair.world.machine.tasks.get(pair.client).unwrap().segment_bytes.get()
}

#[test]
fn attached_step_by_step() {
    for replies in [0, 8192] {
        let (Pair { mut world, server, client, .. }, connection) = connected();
        world.seals = false;
        let asked = world.send(client, attach(connection, 4096, replies));
        let (answer, with) = world.answer_with(asked).unwrap();
        assert_eq!(answer, Answer::Attaching { connection, arena: FIRST });
        let pair = Segments::Arena(connection, FIRST);
        assert_eq!(with, [Attach::OwnSegment(pair, Side::Client)]);
        let sizes = (4096, replies as usize);
        let made = Effect::MakeSegments { pair, client_bytes: sizes.0, server_bytes: sizes.1 };
        assert_eq!(world.log, [made]);
        world.log.clear();

        // Before it is told, the server cannot name it.
        let unknown = KernelError::BadArena { connection, arena: FIRST };
        for request in [arena_mapped(connection, FIRST), detach(connection, FIRST)] {
            assert_eq!(world.fail(server, request), unknown);
        }
        let waits = world.send(client, arena_mapped(connection, FIRST));
        assert_eq!(world.log, [Effect::Seal { pair, side: Side::Client }]);
        world.log.clear();
        let again = world.fail(client, arena_mapped(connection, FIRST));
        assert!(matches!(again, KernelError::Order(_)));
        world.seal(pair, Side::Client, Ok(()));
        let mut with = vec![Attach::SealedSegment(pair, Side::Client)];
        if replies > 0 {
            with.insert(0, Attach::OwnSegment(pair, Side::Server));
        }
        let event = Event::Attach { connection, arena: FIRST, requests: 4096, replies };
        assert_eq!(world.log, [Effect::Event { to: server, event, attach: with }]);
        world.log.clear();

        let done = world.send(server, arena_mapped(connection, FIRST));
        if replies > 0 {
            assert_eq!(world.log, [Effect::Seal { pair, side: Side::Server }]);
            world.log.clear();
            world.seal(pair, Side::Server, Ok(()));
        }
        assert_eq!(world.answer_to(done), Some(Answer::Done));
        let (answer, with) = world.answer_with(waits).unwrap();
        assert_eq!(answer, Answer::Attached);
        let sealed = (replies > 0).then_some(Attach::SealedSegment(pair, Side::Server));
        assert_eq!(with, sealed.into_iter().collect::<Vec<_>>());
        assert_eq!(world.log, [Effect::ForgetSegments(pair)]);
        world.log.clear();
        for who in [client, server] {
            let late = world.fail(who, arena_mapped(connection, FIRST));
            assert!(matches!(late, KernelError::Order(_)));
        }
        // The next one has another number, whatever became of this one.
        assert_eq!(world.ask(client, detach(connection, FIRST)), Answer::Done);
        assert_eq!(world.events(server), [Event::Detached { connection, arena: FIRST }]);
        assert_eq!(world.fail(server, detach(connection, FIRST)), unknown);
        assert_eq!(attaching(&mut world, client, attach(connection, 4096, 0)), ArenaId(2));
    }
}

#[test]
fn who_asks_wrongly_is_told_what_was_wrong() {
    let (Pair { mut world, first, server, client, send, .. }, connection) = connected();
    for (requests, replies) in
        [(0, 0), (4095, 0), (4096, 1), (1 << 31, 0), (4096, u32::MAX), (12_289, 4096)]
    {
        let error = world.fail(client, attach(connection, requests, replies));
        assert!(matches!(error, KernelError::BadValue { .. }), "{error:?}");
    }
    let error = world.fail(server, attach(connection, 4096, 0));
    assert!(matches!(error, KernelError::Order(_)), "a server waits for no client");
    let foreign = KernelError::BadConnection(connection);
    for request in
        [attach(connection, 4096, 0), arena_mapped(connection, FIRST), detach(connection, FIRST)]
    {
        assert_eq!(world.fail(first, request), foreign);
    }
    let unknown = KernelError::BadArena { connection, arena: FIRST };
    for request in [arena_mapped(connection, FIRST), detach(connection, FIRST)] {
        assert_eq!(world.fail(client, request), unknown);
    }
    let (incomplete, _) = world.connecting(client, send);
    let error = world.fail(client, attach(incomplete, 4096, 0));
    assert!(matches!(error, KernelError::Order(_)), "{error:?}");
    for _ in 0..limit::ARENAS_MAX {
        attaching(&mut world, client, attach(connection, 4096, 0));
    }
    let error = world.fail(client, attach(connection, 4096, 0));
    assert!(matches!(error, KernelError::Quota { .. }), "{error:?}");
}

#[test]
fn both_arenas_are_the_clients_bytes_until_they_end() {
    let ring = Shape::default().segment_bytes() as u64;
    let quotas = Quotas {
        segment_bytes: 2 * ring + 3 * 4096,
        reply_bytes_of_one_server: ring + 4096,
        ..Quotas::default()
    };
    let mut pair = pair_with(quotas);
    let connection = pair.world.connected(pair.client, pair.send, pair.server);
    let client = pair.client;
    for (requests, replies, limit) in [
        (16_384, 0, 2 * ring + 3 * 4096),
        (8192, 8192, 2 * ring + 3 * 4096),
        (4096, 8192, ring + 4096),
    ] {
        match pair.world.fail(client, attach(connection, requests, replies)) {
            KernelError::Quota { limit: said, .. } => assert_eq!(said, limit),
            other => panic!("{other:?}"),
        }
    }
    let arena = attaching(&mut pair.world, client, attach(connection, 8192, 4096));
    assert_eq!(bytes_of(&pair), 2 * ring + 3 * 4096);
    pair.world.ask(client, detach(connection, arena));
    assert_eq!(bytes_of(&pair), 2 * ring);
    attaching(&mut pair.world, client, attach(connection, 8192, 4096));
    let why = Why::Closed;
    pair.world.ask(client, Request::Disconnect { connection, why });
    assert_eq!(bytes_of(&pair), 0);
}

#[test]
fn a_server_that_refuses_is_answered_and_the_client_is_told() {
    let (Pair { mut world, server, client, .. }, connection) = connected();
    let arena = attaching(&mut world, client, attach(connection, 4096, 4096));
    let waits = world.send(client, arena_mapped(connection, arena));
    world.events(server);
    assert_eq!(world.ask(server, detach(connection, arena)), Answer::Done);
    let refused = KernelError::NotAttached { arena, why: Why::Denied };
    assert_eq!(world.answer_to(waits), Some(Answer::Error(refused)));
    assert_eq!(world.events(client), [], "the answer says it");
    assert!(world.log.contains(&Effect::ForgetSegments(Segments::Arena(connection, arena))));
    let unknown = KernelError::BadArena { connection, arena };
    for who in [client, server] {
        assert_eq!(world.fail(who, arena_mapped(connection, arena)), unknown);
    }
    // The connection is none the worse for it.
    attaching(&mut world, client, attach(connection, 4096, 4096));
}

#[test]
fn an_arena_that_is_not_sealed_ends_alone() {
    for side in [Side::Client, Side::Server] {
        let (Pair { mut world, server, client, .. }, connection) = connected();
        world.seals = false;
        let arena = attaching(&mut world, client, attach(connection, 4096, 4096));
        let pair = Segments::Arena(connection, arena);
        let waits = world.send(client, arena_mapped(connection, arena));
        let hole = KernelError::Malformed("a hole".into());
        let refused = KernelError::NotAttached { arena, why: Why::Protocol };
        if side == Side::Client {
            world.seal(pair, side, Err(hole.clone()));
            assert_eq!(world.answer_to(waits), Some(Answer::Error(hole)));
            assert_eq!(world.events(server), [], "it never heard of it");
        } else {
            world.seal(pair, Side::Client, Ok(()));
            let asked = world.send(server, arena_mapped(connection, arena));
            world.seal(pair, side, Err(hole.clone()));
            assert_eq!(world.answer_to(asked), Some(Answer::Error(hole)));
            assert_eq!(world.answer_to(waits), Some(Answer::Error(refused)));
        }
        assert!(world.log.contains(&Effect::ForgetSegments(pair)));
        // What the shell says late is about nothing.
        world.seal(pair, side, Ok(()));
        let live = attaching(&mut world, client, attach(connection, 4096, 0));
        assert_eq!(live, ArenaId(2));
    }
}

#[test]
fn whatever_ends_the_connection_answers_who_waits_for_its_arenas() {
    for end in 0..4 {
        let (Pair { mut world, first, endpoint, server, client, .. }, connection) = connected();
        world.seals = false;
        let arena = attaching(&mut world, client, attach(connection, 4096, 4096));
        let pair = Segments::Arena(connection, arena);
        let client_waits = world.send(client, arena_mapped(connection, arena));
        world.seal(pair, Side::Client, Ok(()));
        let server_waits = world.send(server, arena_mapped(connection, arena));
        world.events(server);
        let why = match end {
            0 => {
                world.die(client);
                Why::Dead
            }
            1 => {
                world.die(server);
                Why::Dead
            }
            2 => {
                world.ask(first, Request::Revoke { slot: endpoint });
                Why::Revoked
            }
            _ => {
                let why = Why::Denied;
                world.ask(server, Request::Disconnect { connection, why });
                why
            }
        };
        let refused = Answer::Error(KernelError::NotAttached { arena, why });
        let answers = [world.answer_to(client_waits), world.answer_to(server_waits)];
        assert_eq!(answers, [(end != 0).then(|| refused.clone()), (end != 1).then_some(refused)]);
        let forgotten = Effect::ForgetSegments(pair);
        assert_eq!(world.log.iter().filter(|it| **it == forgotten).count(), 1);
        for who in [client, server] {
            let events = world.events(who);
            assert!(!events.iter().any(|it| matches!(it, Event::Detached { .. })), "{events:?}");
        }
        world.seal(pair, Side::Server, Ok(()));
    }
}

#[test]
fn a_client_that_gives_up_waiting_detaches() {
    let (Pair { mut world, server, client, .. }, connection) = connected();
    let arena = attaching(&mut world, client, attach(connection, 4096, 4096));
    let waits = world.send(client, arena_mapped(connection, arena));
    world.events(server);
    world.machine.handle(client, 0, Request::Cancel { transaction: waits }, &mut world.log);
    world.settle();
    assert_eq!(world.answer_to(waits), Some(Answer::Error(KernelError::Cancelled)));
    assert_eq!(world.events(server), [Event::Detached { connection, arena }]);
    // Crossed: the server has not heard of it yet.
    let unknown = KernelError::BadArena { connection, arena };
    assert_eq!(world.fail(server, arena_mapped(connection, arena)), unknown);
    assert_eq!(world.fail(server, detach(connection, arena)), unknown);
}

#[test]
fn a_task_that_is_both_ends_attaches_to_itself() {
    let Pair { mut world, server, receive, .. } = pair();
    let (connection, _) = world.connecting(server, receive);
    let waits = world.send(server, mapped(connection));
    assert_eq!(world.ask(server, mapped(connection)), Answer::Done);
    assert!(matches!(world.answer_to(waits), Some(Answer::Connected { .. })));
    let arena = attaching(&mut world, server, attach(connection, 4096, 4096));
    let waits = world.send(server, arena_mapped(connection, arena));
    assert_eq!(world.ask(server, arena_mapped(connection, arena)), Answer::Done);
    assert_eq!(world.answer_to(waits), Some(Answer::Attached));
    world.events(server);
    assert_eq!(world.ask(server, detach(connection, arena)), Answer::Done);
    assert_eq!(world.events(server), [Event::Detached { connection, arena }]);
}
