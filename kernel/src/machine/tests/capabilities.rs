use super::{
    Answer, KernelError, Request, Rights, Slot, World, connect, give, pair, quota, revoked,
};
use crate::machine::endpoint::ENDPOINT_RIGHTS;
use crate::quota::Quotas;
use rendez_protocol::kernel::{Event, Give, Limits, ObjectKind};
use rendez_protocol::{ConnectionId, Why};

#[test]
fn an_endpoint_comes_with_all_its_rights() {
    let (mut world, first, _) = World::started();
    let Answer::Slot(received) = world.ask(first, Request::CreateEndpoint) else { panic!() };
    assert_eq!((received.kind, received.rights), (ObjectKind::Endpoint, ENDPOINT_RIGHTS));
    assert_eq!(received.badge, 0);
}

#[test]
fn rights_never_grow() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let held = Rights::SEND | Rights::MINT | Rights::READ;
    let slot = world.mint(first, endpoint, held);
    for missing in [Rights::RECEIVE, Rights::WRITE, Rights::from_bits_retain(1 << 31)] {
        let missing = missing.difference(held);
        let rights = held | missing;
        let error =
            world.fail(first, Request::Mint { slot, rights, badge: None, limits: Limits::SAME });
        assert_eq!(error, KernelError::MissingRights { slot, missing, held });
    }
}

#[test]
fn minting_needs_mint() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let slot = world.mint(first, endpoint, Rights::SEND);
    let error = world.fail(
        first,
        Request::Mint { slot, rights: Rights::SEND, badge: None, limits: Limits::SAME },
    );
    let (missing, held) = (Rights::MINT, Rights::SEND);
    assert_eq!(error, KernelError::MissingRights { slot, missing, held });
}

#[test]
fn bits_and_priority_never_grow() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
    let mint = |slot, limits| Request::Mint { slot, rights, badge: None, limits };
    let limits = Limits { bits: Some(0b0110), priority: Some(7) };
    let slot = world.slot(first, mint(endpoint, limits));
    let seen = world.inspect(first, slot).itself;
    assert_eq!((seen.bits, seen.priority), (0b0110, 7));

    let more = Limits { bits: Some(0b1010), priority: None };
    let error = KernelError::Bits { slot, missing: 0b1000, held: 0b0110 };
    assert_eq!(world.fail(first, mint(slot, more)), error);
    let higher = Limits { bits: None, priority: Some(8) };
    let error = KernelError::Priority { slot, wanted: 8, held: 7 };
    assert_eq!(world.fail(first, mint(slot, higher)), error);
    let gift = Give { limits: higher, ..give(slot, rights) };
    let create = Request::CreateTask { name: "child".into(), give: vec![gift], quotas: vec![] };
    assert_eq!(world.fail(first, create), error);

    let same = world.slot(first, mint(slot, Limits::SAME));
    let less = world.slot(first, mint(same, Limits { bits: Some(0b0010), priority: Some(0) }));
    let seen = world.inspect(first, less).itself;
    assert_eq!((seen.bits, seen.priority), (0b0010, 0));
}

#[test]
fn a_badge_is_given_once() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let rights = Rights::SEND | Rights::MINT;
    let slot = world.slot(
        first,
        Request::Mint { slot: endpoint, rights, badge: Some(7), limits: Limits::SAME },
    );
    assert_eq!(world.inspect(first, slot).itself.badge, 7);
    for badge in [Some(8), Some(0)] {
        let error = world.fail(first, Request::Mint { slot, rights, badge, limits: Limits::SAME });
        assert_eq!(error, KernelError::Badged { slot, badge: 7 });
    }
    for badge in [None, Some(7)] {
        let same = world.slot(first, Request::Mint { slot, rights, badge, limits: Limits::SAME });
        assert_eq!(world.inspect(first, same).itself.badge, 7);
    }
}

#[test]
fn a_stale_slot_is_refused_and_not_misread() {
    let (mut world, first, _) = World::started();
    let old = world.endpoint(first);
    assert_eq!(world.ask(first, Request::Delete { slot: old }), Answer::Done);
    let new = world.endpoint(first);
    assert_eq!((new.index, new.generation), (old.index, old.generation + 1));
    for request in [
        Request::Inspect { slot: old },
        Request::Delete { slot: old },
        Request::Revoke { slot: old },
        Request::Move { slot: old },
        Request::Watch { slot: old },
        Request::Serve { slot: old, interface: None },
        Request::Mint { slot: old, rights: Rights::SEND, badge: None, limits: Limits::SAME },
        connect(old),
    ] {
        assert_eq!(world.fail(first, request), KernelError::BadSlot(old));
    }
    let never = Slot { index: u32::MAX, generation: 0 };
    assert_eq!(world.fail(first, Request::Inspect { slot: never }), KernelError::BadSlot(never));
}

#[test]
fn a_slot_says_nothing_to_another_task() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (other, ..) = world.spawn(first, vec![]);
    let error = world.fail(other, Request::Inspect { slot: endpoint });
    assert_eq!(error, KernelError::BadSlot(endpoint));
}

#[test]
fn moving_makes_the_old_slot_stale_and_keeps_the_place_in_the_tree() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let child = world.mint(first, endpoint, Rights::SEND | Rights::MINT);
    world.mint(first, child, Rights::SEND);
    let moved = world.slot(first, Request::Move { slot: child });
    assert_ne!(moved, child);
    assert_eq!(world.fail(first, Request::Inspect { slot: child }), KernelError::BadSlot(child));
    let seen = world.inspect(first, moved);
    assert_eq!((seen.itself.slot, seen.descendants, seen.depth), (moved, 1, 1));
}

#[test]
fn what_was_derived_from_a_deleted_one_passes_to_its_parent() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let middle = world.mint(first, top, Rights::SEND | Rights::MINT);
    let low = world.mint(first, middle, Rights::SEND);
    assert_eq!(world.inspect(first, low).depth, 2);
    world.ask(first, Request::Delete { slot: middle });
    assert_eq!(world.inspect(first, low).depth, 1);
    let answer = world.ask(first, Request::Revoke { slot: top });
    assert_eq!(answer, revoked(1, 0));
    assert_eq!(world.fail(first, Request::Inspect { slot: low }), KernelError::BadSlot(low));
}

#[test]
fn revoking_takes_all_descendants_in_all_spaces_and_not_itself() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
    let (child, _, held) = world.spawn(first, vec![give(top, rights)]);
    let (grandchild, _, theirs) = world.spawn(child, vec![give(held[0], rights)]);
    let own = world.mint(grandchild, theirs[0], Rights::SEND);
    let answer = world.ask(first, Request::Revoke { slot: top });
    assert_eq!(answer, revoked(3, 0));
    for (who, slot) in [(child, held[0]), (grandchild, theirs[0]), (grandchild, own)] {
        assert_eq!(world.fail(who, Request::Inspect { slot }), KernelError::BadSlot(slot));
    }
    assert_eq!(world.inspect(first, top).descendants, 0);
    let answer = world.ask(first, Request::Revoke { slot: top });
    assert_eq!(answer, revoked(0, 0));
}

#[test]
fn revoking_severs_connections_and_tells_both_ends() {
    let mut pair = pair();
    let world = &mut pair.world;
    let id = world.connected(pair.client, pair.send, pair.server);
    world.words();
    let answer = world.ask(pair.first, Request::Revoke { slot: pair.endpoint });
    assert_eq!(answer, revoked(2, 1));
    assert_eq!(world.words(), [(pair.client, 1, 2), (pair.server, 1, 2)]);
    let closed = Event::Closed { connection: id, why: Why::Revoked };
    assert_eq!(world.events(pair.client), std::slice::from_ref(&closed));
    assert!(world.events(pair.server).contains(&closed));
}

#[test]
fn revoking_spares_the_holders_own_connection() {
    let mut pair = pair();
    let world = &mut pair.world;
    let below = world.mint(pair.client, pair.send, Rights::SEND);
    let own = world.connected(pair.client, pair.send, pair.server);
    let theirs = world.connected(pair.client, below, pair.server);
    let answer = world.ask(pair.client, Request::Revoke { slot: pair.send });
    assert_eq!(answer, revoked(1, 1));
    let refused = |world: &mut World, connection: ConnectionId| {
        world.ask(pair.client, Request::Disconnect { connection, why: Why::Closed })
    };
    assert_eq!(refused(world, own), Answer::Done);
    // The first says that its end is known.
    assert_eq!(refused(world, theirs), Answer::Done);
    assert_eq!(refused(world, theirs), Answer::Error(KernelError::BadConnection(theirs)));
}

#[test]
fn a_connection_outlives_its_capability_and_not_the_revocation_of_an_ancestor() {
    for travels in [false, true] {
        let mut pair = pair();
        let world = &mut pair.world;
        let mut slot = pair.send;
        let id = world.connected(pair.client, slot, pair.server);
        if travels {
            slot = world.slot(pair.client, Request::Move { slot });
        } else {
            world.ask(pair.client, Request::Delete { slot });
        }
        assert_eq!(world.events(pair.client), []);
        let answer = world.ask(pair.first, Request::Revoke { slot: pair.endpoint });
        assert!(matches!(answer, Answer::Revoked { connections: 1, .. }), "{slot} {answer:?}");
        let closed = Event::Closed { connection: id, why: Why::Revoked };
        assert_eq!(world.events(pair.client), [closed]);
    }
}

#[test]
fn a_deep_chain_is_revoked_and_its_middle_deleted() {
    let (mut world, first, _) = World::started();
    let top = world.endpoint(first);
    let mut chain = vec![top];
    for _ in 0..200 {
        chain.push(world.mint(first, *chain.last().unwrap(), ENDPOINT_RIGHTS));
    }
    for slot in chain.iter().skip(1).step_by(2).copied().collect::<Vec<_>>() {
        world.ask(first, Request::Delete { slot });
    }
    assert_eq!(world.inspect(first, chain[200]).depth, 100);
    let answer = world.ask(first, Request::Revoke { slot: top });
    assert_eq!(answer, revoked(100, 0));
}

#[test]
fn capabilities_are_counted() {
    let (mut world, first, _) =
        World::started_with(Quotas { capabilities: 4, ..Quotas::default() });
    // It holds itself and the kernel.
    let endpoint = world.endpoint(first);
    let last = world.mint(first, endpoint, Rights::SEND);
    let error = world.fail(first, Request::CreateEndpoint);
    assert_eq!(quota(&error), ("capabilities of a task".into(), 4));
    world.slot(first, Request::Move { slot: last });
    let mint =
        Request::Mint { slot: endpoint, rights: Rights::SEND, badge: None, limits: Limits::SAME };
    assert!(matches!(world.fail(first, mint), KernelError::Quota { .. }));
}

#[test]
fn a_capability_to_another_sort_of_object_is_named() {
    let (mut world, first, kernel) = World::started();
    let endpoint = world.endpoint(first);
    let error = world.fail(first, connect(kernel));
    let (wanted, found) = (ObjectKind::Endpoint, ObjectKind::Task);
    assert_eq!(error, KernelError::WrongObject { slot: kernel, wanted, found });
    let error = world.fail(first, Request::Kill { slot: endpoint, signal: 9 });
    let (wanted, found) = (found, wanted);
    assert_eq!(error, KernelError::WrongObject { slot: endpoint, wanted, found });
}
