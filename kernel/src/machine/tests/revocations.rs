//! Revocations and deaths that take more than one portion, and what happens meanwhile.

use super::{
    Answer, KernelError, Pair, Request, Rights, Slot, TaskId, World, connect, give, offered, pair,
    revoked,
};
use crate::effect::{Alarm, Effect};
use crate::machine::endpoint::ENDPOINT_RIGHTS;
use crate::machine::work::PORTION;
use rendez_protocol::kernel::{Event, Fate, Limits, Travel};
use rendez_protocol::{ConnectionId, Why, limit};

const RIGHTS: Rights = Rights::SEND
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT);

fn mint(slot: Slot, rights: Rights) -> Request {
    Request::Mint { slot, rights, badge: None, limits: Limits::SAME }
}

/// Derives so many capabilities from one, without looking at everything after each.
fn many(world: &mut World, who: TaskId, slot: Slot, count: usize) -> Vec<Slot> {
    let mut effects = Vec::new();
    for _ in 0..count {
        world.machine.handle(who, 0, mint(slot, RIGHTS), &mut effects);
    }
    let slots = effects.into_iter().map(|effect| match effect {
        Effect::Answer { answer: Answer::Slot(received), .. } => received.slot,
        other => panic!("{other:?}"),
    });
    slots.collect()
}

/// How many nodes are handled by what `does`.
fn handled(world: &mut World, does: impl FnOnce(&mut World)) -> u64 {
    let before = world.machine.tree.handled;
    does(world);
    world.machine.tree.handled - before
}

/// A revocation of 200 capabilities of one task that is under way: the world, who revokes, from
/// what, the request, and what is doomed.
fn under_way() -> (World, TaskId, Slot, u64, Vec<Slot>) {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let below = many(&mut world, first, top, 200);
    let transaction = world.send(first, Request::Revoke { slot: top });
    assert!(world.machine.is_at_work());
    assert_eq!(world.answer_to(transaction), None);
    (world, first, top, transaction, below)
}

#[test]
fn ten_thousand_are_revoked_and_no_portion_is_larger_than_it_may_be() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let middle = world.mint(first, top, RIGHTS);
    many(&mut world, first, middle, 9_999);
    let mut transaction = 0;
    // The shell has a portion done right after the request.
    let mut most = handled(&mut world, |world| {
        transaction = world.send(first, Request::Revoke { slot: top });
        world.machine.step(&mut world.log);
    });
    assert!(most <= 64, "{most} nodes between two requests of others");
    most = 0;
    let mut portions = 1;
    while world.machine.is_at_work() {
        assert_eq!(world.answer_to(transaction), None, "before all of it is gone");
        let portion = handled(&mut world, |world| {
            world.machine.step(&mut world.log);
            // What others ask meanwhile is answered meanwhile.
            let transaction = world.next();
            let request = Request::Inspect { slot: top };
            world.machine.handle(first, transaction, request, &mut world.log);
            assert!(matches!(world.answer_to(transaction), Some(Answer::Inspected(_))));
        });
        most = most.max(portion);
        portions += 1;
    }
    world.machine.check();
    assert_eq!(world.answer_to(transaction), Some(revoked(10_000, 0)));
    assert!(most <= PORTION as u64, "{most} nodes in a portion");
    assert_eq!(portions, 10_000_usize.div_ceil(PORTION) - 1);
}

#[test]
fn no_portion_is_too_large_when_tickets_and_connections_go() {
    let Pair { mut world, first, endpoint, server, client, .. } = pair();
    let slot = world.mint(first, endpoint, RIGHTS);
    let (friend, _, held) = world.spawn(first, vec![give(slot, RIGHTS)]);
    for _ in 0..30 {
        let id = world.connected(friend, held[0], server);
        let items = vec![offered(held[0], Rights::SEND, Travel::Mint); 16];
        world.offer(friend, id, items);
    }
    let mut most = handled(&mut world, |world| {
        world.send(first, Request::Revoke { slot });
    });
    while world.machine.is_at_work() {
        most = most.max(handled(&mut world, |world| world.machine.step(&mut world.log)));
        world.machine.check();
    }
    assert!(most <= PORTION as u64, "{most} nodes between two requests");
    assert!(world.machine.is_alive(client) && world.machine.escrow.is_empty());
}

#[test]
fn what_is_doomed_is_of_no_use_from_the_next_request_on() {
    let Pair { mut world, first, endpoint, server, receive, client, send, .. } = pair();
    let own = world.mint(client, send, RIGHTS & !Rights::INSPECT);
    let id = world.connected(client, own, server);
    many(&mut world, first, endpoint, 200);
    world.send(first, Request::Revoke { slot: endpoint });
    assert!(world.machine.is_at_work());
    for (who, slot) in [(client, send), (client, own), (server, receive)] {
        for request in [
            Request::Inspect { slot },
            Request::Delete { slot },
            Request::Revoke { slot },
            Request::Move { slot },
            Request::Watch { slot },
            Request::Serve { slot, interface: None },
            Request::Provenance { slot, of: None },
            mint(slot, Rights::SEND),
            connect(slot),
            Request::CreateTask {
                name: "child".into(),
                give: vec![give(slot, Rights::SEND)],
                quotas: vec![],
            },
        ] {
            assert_eq!(world.fail(who, request), KernelError::BadSlot(slot), "{who} {slot}");
        }
    }
    let items = vec![offered(own, Rights::SEND, Travel::Mint)];
    for who in [client, server] {
        let offer = Request::Offer { connection: id, items: items.clone() };
        assert_eq!(world.fail(who, offer), KernelError::BadConnection(id));
    }
    // Its holder still has it, and others may serve and connect.
    assert_eq!(world.inspect(first, endpoint).descendants, 0);
    assert_eq!(world.serve(first, endpoint), 2);
    world.connecting(first, endpoint);
    world.work();
    world.acknowledge();
    assert!(world.machine.revocations.is_empty());
}

#[test]
fn what_its_holder_makes_meanwhile_stays() {
    let (mut world, first, top, transaction, below) = under_way();
    let young = world.mint(first, top, RIGHTS);
    let younger = world.mint(first, young, RIGHTS);
    let (child, _, given) = world.spawn(first, vec![give(top, RIGHTS)]);
    assert_eq!(world.inspect(first, top).descendants, 3);
    world.work();
    assert_eq!(world.answer_to(transaction), Some(revoked(200, 0)));
    for slot in below {
        assert_eq!(world.fail(first, Request::Inspect { slot }), KernelError::BadSlot(slot));
    }
    assert_eq!(world.inspect(first, younger).depth, 2);
    assert_eq!(world.inspect(child, given[0]).depth, 1);
    assert_eq!(world.ask(first, Request::Revoke { slot: top }), revoked(3, 0));
}

#[test]
fn a_second_revocation_of_the_same_capability_joins_the_first() {
    let (mut world, first, top, transaction, _) = under_way();
    let young = many(&mut world, first, top, 5);
    let second = world.send(first, Request::Revoke { slot: top });
    let later = world.mint(first, top, RIGHTS);
    assert_eq!(
        world.fail(first, Request::Inspect { slot: young[0] }),
        KernelError::BadSlot(young[0])
    );
    world.work();
    assert_eq!(world.answer_to(transaction), Some(revoked(200, 0)));
    assert_eq!(world.answer_to(second), Some(revoked(5, 0)));
    world.inspect(first, later);
}

#[test]
fn the_death_of_whoever_revokes_does_not_end_it() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let (caller, _, held) = world.spawn(first, vec![give(top, ENDPOINT_RIGHTS)]);
    let (other, ..) = world.spawn(first, vec![]);
    let below = many(&mut world, caller, held[0], 100);
    let child = world.mint(caller, below[99], RIGHTS);
    let transaction = world.send(caller, Request::Revoke { slot: held[0] });
    let young = world.mint(caller, held[0], RIGHTS);
    world.die(caller);
    assert!(world.machine.is_alive(other));
    world.work();
    assert_eq!(world.answer_to(transaction), None, "nothing is answered to the dead");
    assert_eq!(world.inspect(first, top).descendants, 0, "{child} {young}");
    assert!(world.machine.revocations.is_empty());
}

#[test]
fn what_the_dead_had_revoked_stays_revoked_and_the_rest_is_hung_over() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let (caller, _, held) = world.spawn(first, vec![give(top, ENDPOINT_RIGHTS)]);
    let mut gifts = Vec::new();
    for _ in 0..40 {
        gifts.push(give(held[0], RIGHTS));
    }
    let (old, _, theirs) = world.spawn(caller, gifts.clone());
    let (older, _, others) = world.spawn(caller, gifts);
    world.send(caller, Request::Revoke { slot: held[0] });
    let (young, _, kept) = world.spawn(caller, vec![give(held[0], RIGHTS)]);
    world.die(caller);
    for (who, slot) in [(old, theirs[0]), (older, others[39])] {
        assert_eq!(world.fail(who, Request::Inspect { slot }), KernelError::BadSlot(slot));
    }
    world.work();
    assert_eq!(world.inspect(young, kept[0]).depth, 1, "below what the dead had its own from");
    assert_eq!(world.inspect(first, top).descendants, 1);
    assert_eq!(world.ask(first, Request::Revoke { slot: top }), revoked(1, 0));
}

#[test]
fn one_that_is_under_way_is_taken_by_another_from_further_up() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let (inner, _, held) = world.spawn(first, vec![give(top, ENDPOINT_RIGHTS)]);
    many(&mut world, inner, held[0], 150);
    many(&mut world, first, top, 150);
    let within = world.send(inner, Request::Revoke { slot: held[0] });
    let around = world.send(first, Request::Revoke { slot: top });
    // Its own capability is doomed now: it cannot begin another, and the one it began goes on.
    let slot = held[0];
    assert_eq!(world.fail(inner, Request::Revoke { slot }), KernelError::BadSlot(slot));
    world.work();
    assert_eq!(world.answer_to(within), Some(revoked(150, 0)));
    assert_eq!(world.answer_to(around), Some(revoked(151, 0)));
    assert!(world.machine.revocations.is_empty());
}

#[test]
fn two_that_have_nothing_to_do_with_each_other_take_turns() {
    let (mut world, first, _) = World::started();
    let (huge, small) = (world.endpoint(first), world.endpoint(first));
    let (other, _, held) = world.spawn(first, vec![give(small, ENDPOINT_RIGHTS)]);
    many(&mut world, first, huge, 2_000);
    many(&mut world, other, held[0], 100);
    let long = world.send(first, Request::Revoke { slot: huge });
    let short = world.send(other, Request::Revoke { slot: held[0] });
    for _ in 0..8 {
        world.machine.step(&mut world.log);
    }
    assert_eq!(world.answer_to(short), Some(revoked(100, 0)));
    assert_eq!(world.answer_to(long), None);
    world.work();
    assert_eq!(world.answer_to(long), Some(revoked(2_000, 0)));
}

/// A server with a client's connection, and the revocation that severs it, waiting to be
/// acknowledged.
fn severed() -> (Pair, ConnectionId, u64) {
    let mut pair = pair();
    let id = pair.world.connected(pair.client, pair.send, pair.server);
    let slot = pair.world.mint(pair.first, pair.endpoint, RIGHTS);
    let (friend, _, held) = pair.world.spawn(pair.first, vec![give(slot, RIGHTS)]);
    let theirs = pair.world.connected(friend, held[0], pair.server);
    pair.world.words();
    let transaction = pair.world.send(pair.first, Request::Revoke { slot });
    assert!(pair.world.words().contains(&(pair.server, 2, 2)), "the word comes first");
    let closed = Event::Closed { connection: theirs, why: Why::Revoked };
    assert_eq!(pair.world.events(pair.server), [closed]);
    assert_eq!(pair.world.answer_to(transaction), None, "{id} is another's");
    (pair, theirs, transaction)
}

#[test]
fn it_is_answered_when_the_server_has_let_go_of_the_status_word() {
    let (Pair { mut world, server, .. }, id, transaction) = severed();
    assert!(world.log.iter().any(|effect| matches!(
        effect,
        Effect::After { milliseconds: limit::REVOKE_GRACE_MS, alarm: Alarm::Grace(_) }
    )));
    let disconnect = Request::Disconnect { connection: id, why: Why::Closed };
    assert_eq!(world.ask(server, disconnect), Answer::Done);
    assert_eq!(world.answer_to(transaction), Some(revoked(1, 1)));
    assert!(world.log.iter().any(|effect| matches!(effect, Effect::Unset(Alarm::Grace(_)))));
}

#[test]
fn a_server_that_does_not_is_named_when_its_time_is_over() {
    let (Pair { mut world, server, .. }, id, transaction) = severed();
    let alarm = world.log.iter().find_map(|effect| match effect {
        Effect::After { alarm, .. } => Some(*alarm),
        _ => None,
    });
    world.machine.expired(alarm.unwrap(), &mut world.log);
    world.machine.check();
    let unacknowledged = vec![server];
    let answer = Answer::Revoked { capabilities: 1, connections: 1, unacknowledged };
    assert_eq!(world.answer_to(transaction), Some(answer));
    // Late, and of no consequence; nor is the alarm, a second time.
    let disconnect = Request::Disconnect { connection: id, why: Why::Closed };
    assert_eq!(world.ask(server, disconnect), Answer::Done);
    world.machine.expired(alarm.unwrap(), &mut world.log);
    world.machine.check();
}

#[test]
fn nobody_waits_for_a_server_that_dies_or_was_never_told() {
    let (Pair { mut world, server, .. }, _, transaction) = severed();
    world.die(server);
    assert_eq!(world.answer_to(transaction), Some(revoked(1, 1)));

    let (Pair { mut world, server, .. }, id, transaction) = severed();
    world.machine.unheard(server, id, &mut world.log);
    world.machine.check();
    assert_eq!(world.answer_to(transaction), Some(revoked(1, 1)));
}

#[test]
fn a_server_does_not_wait_for_itself() {
    let Pair { mut world, server, client, receive, .. } = pair();
    let slot = world.mint(server, receive, Rights::SEND | Rights::GRANT | Rights::MINT);
    let (friend, _, held) = world.spawn(server, vec![give(slot, Rights::SEND)]);
    world.connected(friend, held[0], server);
    assert!(world.machine.is_alive(client));
    let transaction = world.send(server, Request::Revoke { slot });
    assert_eq!(world.answer_to(transaction), Some(revoked(1, 1)));
}

#[test]
fn one_around_another_waits_for_its_acknowledgements_too() {
    let mut pair = pair();
    let (inner, _, held) = pair.world.spawn(pair.first, vec![give(pair.endpoint, RIGHTS)]);
    let (friend, _, theirs) = pair.world.spawn(inner, vec![give(held[0], RIGHTS)]);
    let id = pair.world.connected(friend, theirs[0], pair.server);
    many(&mut pair.world, inner, held[0], 100);
    let within = pair.world.send(inner, Request::Revoke { slot: held[0] });
    // Severed on behalf of the inner one; then the outer one begins.
    assert_eq!(pair.world.events(pair.server).len(), 1);
    assert!(pair.world.machine.is_at_work());
    let around = pair.world.send(pair.first, Request::Revoke { slot: pair.endpoint });
    pair.world.work();
    assert_eq!(pair.world.answer_to(within), None);
    assert_eq!(pair.world.answer_to(around), None);
    let disconnect = Request::Disconnect { connection: id, why: Why::Closed };
    assert_eq!(pair.world.ask(pair.server, disconnect), Answer::Done);
    assert_eq!(pair.world.answer_to(within), Some(revoked(101, 1)));
    assert!(matches!(pair.world.answer_to(around), Some(Answer::Revoked { .. })));
}

#[test]
fn a_server_does_not_wait_for_itself_where_another_s_revocation_does() {
    let Pair { mut world, first, server, receive, .. } = pair();
    let slot = world.mint(server, receive, RIGHTS & !Rights::WATCH & !Rights::INSPECT);
    let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
    let (inner, _, held) = world.spawn(server, vec![give(slot, rights)]);
    let (friend, _, theirs) = world.spawn(inner, vec![give(held[0], rights)]);
    let id = world.connected(friend, theirs[0], server);
    let within = world.send(inner, Request::Revoke { slot: held[0] });
    assert_eq!(world.answer_to(within), None, "the server has not acknowledged");
    // From within a handler, perhaps: it cannot acknowledge before it is answered.
    let own = world.send(server, Request::Revoke { slot });
    assert_eq!(world.answer_to(own), Some(revoked(1, 0)));
    assert_eq!(world.answer_to(within), None, "others do wait for it");
    let disconnect = Request::Disconnect { connection: id, why: Why::Closed };
    assert_eq!(world.ask(server, disconnect), Answer::Done);
    assert_eq!(world.answer_to(within), Some(revoked(1, 1)));
    assert!(world.machine.revocations.is_empty());
    assert!(world.machine.is_alive(first));
}

#[test]
fn a_server_that_joins_a_revocation_does_not_wait_for_itself() {
    let Pair { mut world, first, endpoint, server, client, .. } = pair();
    let top = world.mint(first, endpoint, RIGHTS);
    let (friend, _, held) = world.spawn(first, vec![give(top, RIGHTS)]);
    let (other, _, theirs) = world.spawn(first, vec![give(endpoint, RIGHTS)]);
    world.connected(friend, held[0], server);
    let way = world.connected(other, theirs[0], server);
    assert!(world.machine.is_alive(client));
    many(&mut world, first, top, 100);
    let begun = world.send(first, Request::Revoke { slot: top });
    assert!(world.machine.is_at_work());
    assert_eq!(world.answer_to(begun), None);
    // It is the server's now, while it is under way.
    let on = world.connected(first, endpoint, server);
    let ticket = world.offer(first, on, vec![offered(top, RIGHTS, Travel::Move)]);
    let slot = world.accept(server, on, ticket)[0].slot;
    let joined = world.send(server, Request::Revoke { slot });
    world.work();
    assert_eq!(world.answer_to(joined), Some(revoked(0, 1)), "{way}");
    assert_eq!(world.answer_to(begun), None);
    world.acknowledge();
    assert_eq!(world.answer_to(begun), Some(revoked(101, 1)));
}

#[test]
fn whoever_gives_it_up_is_told_so_and_it_is_done_all_the_same() {
    let (mut world, first, top, transaction, _) = under_way();
    world.send(first, Request::Cancel { transaction });
    let cancelled = Answer::Error(KernelError::Cancelled);
    assert_eq!(world.answer_to(transaction), Some(cancelled));
    world.work();
    assert_eq!(world.inspect(first, top).descendants, 0);
    assert_eq!(world.answer_to(transaction), None);
}

#[test]
fn who_loses_the_capability_to_watch_hears_nothing_of_what_else_goes() {
    let Pair { mut world, first, endpoint, server, client, send, .. } = pair();
    assert_eq!(world.ask(client, Request::Watch { slot: send }), Answer::Done);
    world.send(first, Request::Revoke { slot: endpoint });
    world.work();
    assert!(world.machine.is_alive(server));
    assert_eq!(world.events(client), []);
}

#[test]
fn a_task_with_many_capabilities_is_buried_in_portions() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let (rich, watched, held) = world.spawn(first, vec![give(top, ENDPOINT_RIGHTS)]);
    assert_eq!(world.ask(first, Request::Watch { slot: watched }), Answer::Done);
    assert_eq!(world.serve(rich, held[0]), 1);
    many(&mut world, rich, held[0], 10_000);
    let (heir, _, given) = world.spawn(rich, vec![give(held[0], RIGHTS)]);
    let mut most = handled(&mut world, |world| world.die(rich));
    assert!(world.machine.is_at_work());
    assert!(world.log.contains(&Effect::ForgetTask(rich)));
    let died = [Fate::Died { generation: 0 }];
    let seen = world.events(first).into_iter().map(|event| match event {
        Event::Watched { what, .. } => what,
        other => panic!("{other:?}"),
    });
    assert!(seen.eq(died));
    // It does not serve any more, whatever of it is left.
    assert_eq!(world.serve(first, top), 2);
    while world.machine.is_at_work() {
        most = most.max(handled(&mut world, |world| world.machine.step(&mut world.log)));
    }
    world.machine.check();
    assert!(most <= PORTION as u64, "{most} nodes between two requests");
    assert_eq!(world.inspect(heir, given[0]).depth, 1);
    assert_eq!(world.inspect(first, top).descendants, 1);
}

#[test]
fn a_capability_with_many_children_is_deleted_in_portions() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let middle = world.mint(first, top, RIGHTS);
    let below = many(&mut world, first, middle, 1_000);
    let mut most = handled(&mut world, |world| {
        assert_eq!(world.ask(first, Request::Delete { slot: middle }), Answer::Done);
    });
    assert_eq!(world.fail(first, Request::Inspect { slot: middle }), KernelError::BadSlot(middle));
    for slot in [below[0], below[999]] {
        assert_eq!(world.inspect(first, slot).depth, 1);
    }
    while world.machine.is_at_work() {
        most = most.max(handled(&mut world, |world| world.machine.step(&mut world.log)));
    }
    assert!(most <= PORTION as u64, "{most} nodes between two requests");
    assert_eq!(world.ask(first, Request::Revoke { slot: top }), revoked(1_000, 0));
}

#[test]
fn no_chain_is_longer_than_it_may_be() {
    let (mut world, first, _) = World::started();
    let mut last = world.endpoint(first);
    for _ in 0..limit::DERIVATION_DEPTH_MAX {
        let mut effects = Vec::new();
        world.machine.handle(first, 0, mint(last, RIGHTS), &mut effects);
        let Effect::Answer { answer: Answer::Slot(received), .. } = &effects[0] else {
            panic!("{effects:?}")
        };
        last = received.slot;
    }
    assert_eq!(world.inspect(first, last).depth, 256);
    for request in [
        mint(last, Rights::SEND),
        Request::CreateTask {
            name: "child".into(),
            give: vec![give(last, Rights::SEND)],
            quotas: vec![],
        },
    ] {
        assert!(matches!(world.fail(first, request), KernelError::Quota { limit: 256, .. }));
    }
}

#[test]
fn those_who_never_began_are_buried_in_portions() {
    let (mut world, first, _) = World::started();
    let (parent, ..) = world.spawn(first, vec![]);
    let endpoint = world.endpoint(parent);
    let embryos: Vec<_> =
        (0..40).map(|_| world.embryo(parent, vec![give(endpoint, Rights::SEND); 20]).0).collect();
    let mut most = handled(&mut world, |world| world.die(parent));
    assert!(embryos.iter().all(|embryo| !world.machine.is_alive(*embryo)));
    while world.machine.is_at_work() {
        most = most.max(handled(&mut world, |world| world.machine.step(&mut world.log)));
    }
    assert!(most <= 32, "{most}");
    world.machine.check();
}
