use super::{
    Answer, KernelError, Offer, Pair, Quotas, Request, Rights, Slot, TaskId, Ticket, World, give,
    offered, pair, pair_with, quota, revoked,
};
use rendez_protocol::kernel::{Limits, Travel};
use rendez_protocol::{ConnectionId, Why};

const RIGHTS: Rights = Rights::SEND.union(Rights::GRANT).union(Rights::MINT).union(Rights::WATCH);

/// A connection, and a capability of the client's to an endpoint of its own.
fn offering() -> (Pair, ConnectionId, Slot) {
    offering_with(Quotas::default())
}

fn offering_with(quotas: Quotas) -> (Pair, ConnectionId, Slot) {
    let mut pair = pair_with(quotas);
    let id = pair.world.connected(pair.client, pair.send, pair.server);
    let own = pair.world.endpoint(pair.client);
    let slot = pair.world.mint(pair.client, own, RIGHTS);
    (pair, id, slot)
}

fn take(world: &mut World, who: TaskId, connection: ConnectionId, ticket: Ticket) -> Answer {
    world.ask(who, Request::Accept { connection, ticket })
}

const BAD: Answer = Answer::Error(KernelError::BadTicket);

#[test]
fn a_minted_capability_arrives_with_what_was_said() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    let (rights, travel) = (Rights::SEND, Travel::Mint);
    let items = vec![Offer { slot, rights, badge: Some(5), limits: Limits::SAME, travel }];
    let ticket = world.offer(client, id, items);
    let received = world.accept(server, id, ticket);
    assert_eq!((received.len(), received[0].rights, received[0].badge), (1, rights, 5));
    assert_eq!(world.inspect(server, received[0].slot).itself, received[0]);
    assert_eq!(world.inspect(client, slot).descendants, 1);
}

#[test]
fn a_moved_capability_goes_with_its_place_in_the_tree() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    world.mint(client, slot, Rights::SEND);
    let ticket = world.offer(client, id, vec![offered(slot, RIGHTS, Travel::Move)]);
    assert_eq!(world.fail(client, Request::Inspect { slot }), KernelError::BadSlot(slot));
    let received = world.accept(server, id, ticket);
    let seen = world.inspect(server, received[0].slot);
    assert_eq!((seen.itself.rights, seen.descendants, seen.depth), (RIGHTS, 1, 1));
    assert_eq!(world.fail(client, Request::Inspect { slot }), KernelError::BadSlot(slot));
}

#[test]
fn a_capability_moved_with_less_leaves_the_rest_behind() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    let below = world.mint(client, slot, RIGHTS);
    let ticket = world.offer(client, id, vec![offered(slot, Rights::SEND, Travel::Move)]);
    let received = world.accept(server, id, ticket);
    let seen = world.inspect(server, received[0].slot);
    assert_eq!((seen.itself.rights, seen.descendants, seen.depth), (Rights::SEND, 0, 1));
    assert_eq!(world.inspect(client, below).depth, 1);
}

#[test]
fn a_ticket_works_once_for_one_end_of_one_connection() {
    let (Pair { mut world, client, server, send, .. }, id, slot) = offering();
    let other = world.connected(client, send, server);
    let ticket = world.offer(client, id, vec![offered(slot, Rights::SEND, Travel::Mint)]);
    assert_eq!(take(&mut world, client, id, ticket), BAD, "its own");
    assert_eq!(take(&mut world, server, other, ticket), BAD, "another connection");
    assert_eq!(take(&mut world, server, id, Ticket(ticket.0 + 1)), BAD, "another ticket");
    world.accept(server, id, ticket);
    assert_eq!(take(&mut world, server, id, ticket), BAD, "used");
    // And the other way round.
    let back = world.endpoint(server);
    let ticket = world.offer(server, id, vec![offered(back, Rights::SEND, Travel::Mint)]);
    assert_eq!(take(&mut world, server, id, ticket), BAD);
    world.accept(client, id, ticket);
}

#[test]
fn offering_is_all_or_nothing() {
    let (Pair { mut world, client, .. }, id, slot) = offering();
    let good = offered(slot, RIGHTS, Travel::Move);
    let stale = Slot { index: 999, generation: 0 };
    let sealed = world.mint(client, slot, Rights::SEND | Rights::MINT);
    let fixed = world.mint(client, slot, Rights::SEND | Rights::GRANT);
    let badge = |slot, badge| Offer { badge: Some(badge), ..offered(slot, RIGHTS, Travel::Mint) };
    for (bad, missing) in [
        (offered(stale, Rights::SEND, Travel::Mint), None),
        (offered(slot, Rights::SEND, Travel::Mint), None),
        (offered(sealed, Rights::SEND, Travel::Mint), Some(Rights::GRANT)),
        (offered(fixed, Rights::empty(), Travel::Mint), Some(Rights::MINT)),
        (offered(fixed, Rights::SEND, Travel::Move), Some(Rights::MINT)),
        (offered(fixed, Rights::SEND | Rights::KILL, Travel::Move), Some(Rights::KILL)),
        (badge(fixed, 3), Some(RIGHTS.difference(Rights::SEND | Rights::GRANT))),
    ] {
        let items = vec![good, bad];
        match world.fail(client, Request::Offer { connection: id, items }) {
            KernelError::MissingRights { missing: named, .. } => assert_eq!(Some(named), missing),
            KernelError::BadSlot(named) => assert_eq!((named, None), (bad.slot, missing)),
            other => panic!("{other:?}"),
        }
        world.inspect(client, slot);
    }
    for many in [0, 17] {
        let items = vec![offered(slot, Rights::SEND, Travel::Mint); many];
        let error = world.fail(client, Request::Offer { connection: id, items });
        assert!(matches!(error, KernelError::BadValue { .. }));
    }
}

#[test]
fn one_may_be_minted_from_and_then_moved() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    let items = [offered(slot, Rights::SEND, Travel::Mint), offered(slot, RIGHTS, Travel::Move)];
    let ticket = world.offer(client, id, items.to_vec());
    let received = world.accept(server, id, ticket);
    assert_eq!(world.inspect(server, received[1].slot).descendants, 1);
    assert_eq!(world.inspect(server, received[0].slot).depth, 2);
}

#[test]
fn a_revocation_reaches_into_escrow_and_voids_the_ticket() {
    for travel in [Travel::Mint, Travel::Move] {
        let (Pair { mut world, first, client, server, endpoint, send, .. }, id, slot) = offering();
        // The connection is the client's own and survives.
        let other = world.endpoint(first);
        let (friend, _, held) =
            world.spawn(first, vec![give(other, RIGHTS), give(endpoint, RIGHTS)]);
        let theirs = world.connected(friend, held[1], server);
        let items = vec![offered(held[0], RIGHTS, travel)];
        let ticket = world.offer(friend, theirs, items);
        let answer = world.ask(first, Request::Revoke { slot: other });
        let capabilities = if travel == Travel::Mint { 2 } else { 1 };
        assert_eq!(answer, revoked(capabilities, 0));
        assert_eq!(take(&mut world, server, theirs, ticket), BAD);
        let gone = KernelError::BadSlot(held[0]);
        assert_eq!(world.fail(friend, Request::Inspect { slot: held[0] }), gone);
        assert!(world.machine.is_alive(client), "{id} {slot} {send}");
    }
}

#[test]
fn what_else_was_moved_with_a_void_ticket_returns() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    let own = world.endpoint(client);
    let doomed = world.mint(client, own, RIGHTS);
    let items = vec![
        offered(slot, RIGHTS, Travel::Move),
        offered(doomed, RIGHTS, Travel::Move),
        offered(own, Rights::SEND, Travel::Mint),
    ];
    let ticket = world.offer(client, id, items);
    world.ask(client, Request::Revoke { slot: own });
    assert_eq!(take(&mut world, server, id, ticket), BAD);
    assert_eq!(world.inspect(client, slot).itself.slot, slot);
    let gone = KernelError::BadSlot(doomed);
    assert_eq!(world.fail(client, Request::Inspect { slot: doomed }), gone);
}

#[test]
fn a_ticket_dies_with_its_connection_and_what_was_moved_returns_to_its_slot() {
    for way in 0..3 {
        let (Pair { mut world, client, server, .. }, id, slot) = offering();
        let mint = world.endpoint(client);
        let items =
            vec![offered(slot, RIGHTS, Travel::Move), offered(mint, Rights::SEND, Travel::Mint)];
        let ticket = world.offer(client, id, items);
        match way {
            0 => world.die(server),
            1 => _ = world.ask(client, Request::Disconnect { connection: id, why: Why::Closed }),
            _ => _ = world.ask(server, Request::Disconnect { connection: id, why: Why::Closed }),
        }
        assert_eq!(world.inspect(client, slot).itself.rights, RIGHTS);
        assert_eq!(world.inspect(client, mint).descendants, 0);
        if way > 0 {
            let error = world.fail(server, Request::Accept { connection: id, ticket });
            assert_eq!(error, KernelError::BadConnection(id));
        }
    }
}

#[test]
fn a_ticket_dies_with_the_one_who_offered() {
    let (Pair { mut world, client, server, .. }, id, slot) = offering();
    let below = world.mint(client, slot, RIGHTS);
    let kept = {
        let ticket = world.offer(client, id, vec![offered(below, RIGHTS, Travel::Mint)]);
        world.accept(server, id, ticket)[0].slot
    };
    let ticket = world.offer(client, id, vec![offered(slot, RIGHTS, Travel::Move)]);
    world.die(client);
    let error = world.fail(server, Request::Accept { connection: id, ticket });
    assert_eq!(error, KernelError::BadConnection(id));
    assert_eq!(world.inspect(server, kept).depth, 0, "what was accepted stays");
}

#[test]
fn tickets_and_what_they_hold_count_against_who_offers() {
    let (Pair { mut world, client, server, .. }, id, slot) =
        offering_with(Quotas { tickets: 2, ..Quotas::default() });
    let item = || vec![offered(slot, Rights::SEND, Travel::Mint)];
    let first = world.offer(client, id, item());
    world.offer(client, id, item());
    let error = world.fail(client, Request::Offer { connection: id, items: item() });
    assert_eq!(quota(&error), ("tickets of a task".into(), 2));
    world.accept(server, id, first);
    world.offer(client, id, item());

    // The client holds itself, SEND, and the two of `offering`.
    let (Pair { mut world, client, .. }, id, slot) =
        offering_with(Quotas { capabilities: 5, ..Quotas::default() });
    world.offer(client, id, vec![offered(slot, Rights::SEND, Travel::Mint)]);
    let items = vec![offered(slot, Rights::SEND, Travel::Mint)];
    let error = world.fail(client, Request::Offer { connection: id, items });
    assert_eq!(quota(&error), ("capabilities of a task".into(), 5));
    world.offer(client, id, vec![offered(slot, RIGHTS, Travel::Move)]);
}

#[test]
fn an_accept_over_quota_leaves_the_ticket_valid() {
    let (Pair { mut world, client, server, .. }, id, slot) =
        offering_with(Quotas { capabilities: 6, ..Quotas::default() });
    let item = offered(slot, Rights::SEND, Travel::Mint);
    let ticket = world.offer(client, id, vec![item, item]);
    // The server holds itself and RECEIVE.
    let filler: Vec<_> = (0..3).map(|_| world.endpoint(server)).collect();
    let error = world.fail(server, Request::Accept { connection: id, ticket });
    assert!(matches!(error, KernelError::Quota { limit: 6, .. }));
    world.ask(server, Request::Delete { slot: filler[0] });
    assert_eq!(world.accept(server, id, ticket).len(), 2);
}

#[test]
fn nothing_is_offered_over_a_connection_that_is_not_complete_or_not_ones_own() {
    let Pair { mut world, first, client, send, .. } = pair();
    let (connection, _) = world.connecting(client, send);
    let own = world.endpoint(client);
    let items = vec![offered(own, Rights::SEND, Travel::Mint)];
    let error = world.fail(client, Request::Offer { connection, items: items.clone() });
    assert!(matches!(error, KernelError::Order(_)));
    let error = world.fail(first, Request::Offer { connection, items });
    assert_eq!(error, KernelError::BadConnection(connection));
}

#[test]
fn a_task_can_send_a_ticket_to_itself() {
    let Pair { mut world, server, receive, .. } = pair();
    let id = world.connected(server, receive, server);
    let own = world.endpoint(server);
    let rights = world.inspect(server, own).itself.rights;
    let ticket = world.offer(server, id, vec![offered(own, rights, Travel::Move)]);
    let received = world.accept(server, id, ticket);
    assert_eq!(world.inspect(server, received[0].slot).itself.rights, rights);
}
