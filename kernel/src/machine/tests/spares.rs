//! Spares: segments that are ready before anybody connects.

use super::{Pair, Segments, World, connect, mapped, pair, pair_with};
use crate::effect::{Attach, Effect, Side};
use crate::quota::Quotas;
use rendez_protocol::kernel::{Answer, Doorbell, Event, KernelError, Request, Shape};
use rendez_protocol::{ConnectionId, SpareId, TaskId, Why};

/// Has a task make a spare of the default shape.
fn spare(world: &mut World, who: TaskId, doorbell: Doorbell) -> SpareId {
    let Answer::Spare { spare } = world.ask(who, Request::Spare { shape: Shape::default() }) else {
        panic!("no spare")
    };
    assert_eq!(world.ask(who, Request::SpareMapped { spare, doorbell }), Answer::Done);
    world.log.clear();
    spare
}

/// The connection that an answer brings, with what comes with it and the spare that it took.
fn connected(
    world: &mut World,
    transaction: u64,
) -> (ConnectionId, Option<SpareId>, Doorbell, Vec<Attach>) {
    match world.answer_with(transaction) {
        Some((Answer::Connected { connection, spare, rings, .. }, attach)) => {
            (connection, spare, rings, attach)
        }
        other => panic!("not connected: {other:?}"),
    }
}

#[test]
fn with_a_spare_at_both_ends_a_connection_is_there_at_once() {
    for doorbell in [Doorbell::Futex, Doorbell::Event] {
        let Pair { mut world, server, client, send, .. } = pair();
        let ours = spare(&mut world, client, Doorbell::Futex);
        let theirs = spare(&mut world, server, doorbell);
        world.seals = false;
        let asked = world.send(client, connect(send));
        let [
            Effect::MakeSegments { pair, .. },
            Effect::UseSpare { side: Side::Client, spare: first, .. },
            Effect::UseSpare { side: Side::Server, spare: second, .. },
            Effect::Event { to, event, attach },
            Effect::Told(told),
        ] = world.log.as_slice()
        else {
            panic!("{:?}", world.log)
        };
        let (pair, told) = (*pair, *told);
        assert_eq!((pair, *first, *second, *to), (told.into(), ours, theirs, server));
        let Event::Incoming { connection, spare, .. } = event else { panic!("{event:?}") };
        assert_eq!((*connection, *spare), (told, Some(theirs)));
        let mut expected = vec![Attach::SealedSegment(pair, Side::Client)];
        if doorbell == Doorbell::Event {
            expected.push(Attach::Wait(told, Side::Server));
        }
        assert_eq!(*attach, expected);
        world.log.clear();
        // Only when the server was told is the client.
        assert_eq!(world.answer_to(asked), None);
        world.machine.told(told, &mut world.log);
        world.machine.check();
        let (connection, spare, rings, attach) = connected(&mut world, asked);
        assert_eq!((connection, spare, rings), (told, Some(ours), doorbell));
        let mut expected = vec![Attach::SealedSegment(pair, Side::Server)];
        if doorbell == Doorbell::Event {
            expected.push(Attach::Ring(told, Side::Server));
        }
        assert_eq!(attach, expected);
        assert_eq!(world.log, [Effect::ForgetSegments(pair)]);
        // It is a connection like any other.
        for who in [client, server] {
            assert!(matches!(world.fail(who, mapped(connection)), KernelError::Order(_)));
        }
        let why = Why::Closed;
        assert_eq!(world.ask(server, Request::Disconnect { connection, why }), Answer::Done);
        assert_eq!(world.events(client), [Event::Closed { connection, why }]);
        // Spares are taken once.
        for (who, spare) in [(client, ours), (server, theirs)] {
            let error = world.fail(who, Request::DropSpare { spare });
            assert_eq!(error, KernelError::BadSpare(spare));
        }
        world.connecting(client, send);
    }
}

#[test]
fn an_end_without_a_spare_goes_through_its_steps() {
    // Only the client has one.
    let Pair { mut world, server, client, send, .. } = pair();
    let ours = spare(&mut world, client, Doorbell::Futex);
    let asked = world.send(client, connect(send));
    let events = world.events(server);
    let [Event::Incoming { connection, spare: None, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(world.answer_to(asked), None);
    assert!(matches!(world.fail(client, mapped(*connection)), KernelError::Order(_)));
    assert_eq!(world.ask(server, mapped(*connection)), Answer::Done);
    let (same, spare_of_client, ..) = connected(&mut world, asked);
    assert_eq!((same, spare_of_client), (*connection, Some(ours)));

    // Only the server has one, of which it was told.
    let Pair { mut world, server, client, send, .. } = pair();
    let theirs = spare(&mut world, server, Doorbell::Event);
    let (connection, _) = world.connecting(client, send);
    assert_eq!(world.events(server), []);
    let waits = world.send(client, mapped(connection));
    let events = world.events(server);
    assert!(
        matches!(events.as_slice(), [Event::Incoming { spare: Some(it), .. }] if *it == theirs),
        "{events:?}"
    );
    let (same, spare_of_client, rings, _) = connected(&mut world, waits);
    assert_eq!((same, spare_of_client, rings), (connection, None, Doorbell::Event));
}

#[test]
fn only_a_spare_of_the_very_shape_that_was_looked_at_is_taken() {
    let Pair { mut world, server, client, send, .. } = pair();
    let other = Shape { lines: 64, area_bytes: 4096 };
    let Answer::Spare { spare: large } = world.ask(client, Request::Spare { shape: other }) else {
        panic!()
    };
    let doorbell = Doorbell::Futex;
    world.ask(client, Request::SpareMapped { spare: large, doorbell });
    // One that is only promised, and one that is being looked at.
    world.ask(client, Request::Spare { shape: Shape::default() });
    world.seals = false;
    let Answer::Spare { spare } = world.ask(client, Request::Spare { shape: Shape::default() })
    else {
        panic!()
    };
    let looks = world.send(client, Request::SpareMapped { spare, doorbell });
    assert!(matches!(
        world.fail(client, Request::SpareMapped { spare, doorbell }),
        KernelError::Order(_)
    ));
    world.log.retain(|effect| !matches!(effect, Effect::CheckSpare { .. }));
    world.seals = true;
    world.connecting(client, send);
    // What is not sealed is gone.
    let hole = KernelError::Malformed("a hole".into());
    world.machine.spare_looked_at(client, spare, Err(hole.clone()), &mut world.log);
    world.machine.check();
    assert_eq!(world.answer_to(looks), Some(Answer::Error(hole)));
    let gone = KernelError::BadSpare(spare);
    assert_eq!(world.fail(client, Request::SpareMapped { spare, doorbell }), gone);
    world.connecting(client, send);
    // Of that shape it is taken.
    let asked = world.send(
        client,
        Request::Connect {
            slot: send,
            interface: None,
            requests: other,
            replies: Shape::default(),
            doorbell,
        },
    );
    let events = world.events(server);
    let Some(Event::Incoming { connection, .. }) = events.last() else { panic!() };
    world.ask(server, mapped(*connection));
    assert_eq!(connected(&mut world, asked).1, Some(large));
    // Nobody else can say anything of it.
    assert_eq!(
        world.fail(server, Request::DropSpare { spare: large }),
        KernelError::BadSpare(large)
    );
}

#[test]
fn spares_are_bounded_and_are_their_owners_bytes() {
    let bytes = Shape::default().segment_bytes() as u64;
    let quotas = Quotas { spares: 2, segment_bytes: 4 * bytes, ..Quotas::default() };
    let Pair { mut world, server, client, send, .. } = pair_with(quotas);
    let shape = Shape { lines: 3, area_bytes: 4096 };
    assert!(matches!(world.fail(client, Request::Spare { shape }), KernelError::BadValue { .. }));
    let spares = [(); 2].map(|()| spare(&mut world, client, Doorbell::Futex));
    let shape = Shape::default();
    let error = world.fail(client, Request::Spare { shape });
    assert!(matches!(error, KernelError::Quota { limit: 2, .. }), "{error:?}");
    let used = |world: &World| world.machine.tasks.get(client).unwrap().segment_bytes.get();
    assert_eq!(used(&world), 2 * bytes);
    let asked = world.send(client, connect(send));
    assert_eq!(used(&world), 3 * bytes, "one became the connection's");
    let error = world.fail(client, connect(send));
    assert!(matches!(error, KernelError::Quota { .. }), "{error:?}");
    assert_eq!(world.ask(client, Request::DropSpare { spare: spares[1] }), Answer::Done);
    assert!(world.log.contains(&Effect::ForgetSpare(client, spares[1])));
    assert_eq!(used(&world), 2 * bytes);
    // The server's is the client's from when it is taken.
    let theirs = spare(&mut world, server, Doorbell::Event);
    let of_server = |world: &World| world.machine.tasks.get(server).unwrap().segment_bytes.get();
    assert_eq!((of_server(&world), theirs), (bytes, SpareId(1)));
    let (connection, _) = world.connecting(client, send);
    world.send(client, mapped(connection));
    assert_eq!((of_server(&world), used(&world)), (0, 4 * bytes));
    world.die(server);
    assert!(matches!(world.answer_to(asked), Some(Answer::Error(KernelError::NotCompleted(_)))));
    assert_eq!(used(&world), 0);
}

#[test]
fn whoever_dies_or_gives_up_while_the_server_is_told_leaves_nothing() {
    for end in 0..4 {
        let Pair { mut world, server, client, send, .. } = pair();
        spare(&mut world, client, Doorbell::Futex);
        spare(&mut world, server, Doorbell::Event);
        world.seals = false;
        let asked = world.send(client, connect(send));
        let Some(Effect::Told(connection)) = world.log.pop() else { panic!() };
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
                let transaction = asked;
                world.machine.handle(client, 0, Request::Cancel { transaction }, &mut world.log);
                Why::Cancelled
            }
            _ => {
                let (pair, side) = (Segments::Connection(connection), Side::Server);
                world.machine.give_up(pair, side, Why::Quota, &mut world.log);
                Why::Quota
            }
        };
        world.machine.check();
        let answer = world.answer_to(asked);
        match end {
            0 => assert_eq!(answer, None),
            2 => assert_eq!(answer, Some(Answer::Error(KernelError::Cancelled))),
            _ => assert_eq!(answer, Some(Answer::Error(KernelError::NotCompleted(why)))),
        }
        if end == 0 || end == 2 {
            assert_eq!(world.events(server), [Event::Closed { connection, why }]);
        }
        let forgotten = Effect::ForgetSegments(connection.into());
        assert_eq!(world.log.iter().filter(|it| **it == forgotten).count(), 1);
        world.log.clear();
        // What the shell says late is about nothing.
        world.machine.told(connection, &mut world.log);
        world.machine.check();
        assert_eq!(world.log, []);
    }
}

#[test]
fn a_connect_that_waited_takes_a_spare_when_a_server_comes() {
    let Pair { mut world, server, client, send, endpoint, first, .. } = pair();
    let ours = spare(&mut world, client, Doorbell::Futex);
    world.die(server);
    let asked = world.send(client, connect(send));
    assert_eq!(world.answer_to(asked), None);
    spare(&mut world, first, Doorbell::Event);
    world.serve(first, endpoint);
    assert_eq!(connected(&mut world, asked).1, Some(ours));
}
