//! Where a capability came from, and how many could ever send.

use super::{Answer, KernelError, Request, Rights, Slot, TaskId, World, give, offered, pair, rule};
use crate::machine::endpoint::ENDPOINT_RIGHTS;
use rendez_protocol::kernel::{How, Senders, Travel};

const RIGHTS: Rights = Rights::SEND.union(Rights::GRANT).union(Rights::MINT).union(Rights::INSPECT);

/// The way of a capability: who, and how.
fn way(world: &mut World, who: TaskId, slot: Slot) -> Vec<(TaskId, How)> {
    match world.ask(who, Request::Provenance { slot, of: None }) {
        Answer::Provenance(provenance) => {
            assert_eq!(provenance.omitted, 0);
            provenance.steps.into_iter().map(|step| (step.task, step.how)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_way_of_coming_to_a_capability_is_told() {
    let mut pair = pair();
    let world = &mut pair.world;
    let (first, server, client) = (pair.first, pair.server, pair.client);
    let own = world.endpoint(first);
    assert_eq!(way(world, first, own), [(first, How::Created)]);
    let minted = world.mint(first, own, RIGHTS);
    assert_eq!(way(world, first, minted), [(first, How::Minted), (first, How::Created)]);
    let (friend, _, held) =
        world.spawn(first, vec![give(minted, RIGHTS), give(pair.endpoint, RIGHTS)]);
    let given = [(friend, How::Given), (first, How::Minted), (first, How::Created)];
    assert_eq!(way(world, friend, held[0]), given);

    let id = world.connected(friend, held[1], server);
    let ticket = world.offer(friend, id, vec![offered(held[0], RIGHTS, Travel::Mint)]);
    let arrived = world.accept(server, id, ticket)[0].slot;
    let mut wanted = given.to_vec();
    wanted.insert(0, (server, How::Offered));
    assert_eq!(way(world, server, arrived), wanted);

    let ticket = world.offer(friend, id, vec![offered(held[0], RIGHTS, Travel::Move)]);
    let moved = world.accept(server, id, ticket)[0].slot;
    wanted[0] = (server, How::Moved);
    assert_eq!(way(world, server, moved), wanted);
    let less = world.mint(server, moved, RIGHTS);
    let ticket =
        world.offer(server, id, vec![offered(less, Rights::SEND | Rights::INSPECT, Travel::Move)]);
    let less = world.accept(friend, id, ticket)[0].slot;
    wanted.splice(0..0, [(friend, How::Moved), (server, How::Minted)]);
    assert_eq!(way(world, friend, less), wanted);
    assert!(world.machine.is_alive(client));
}

#[test]
fn those_who_are_gone_are_named() {
    let (mut world, first, _) = World::started();
    let own = world.endpoint(first);
    let (middle, _, held) = world.spawn(first, vec![give(own, RIGHTS)]);
    let minted = world.mint(middle, held[0], RIGHTS);
    let (last, _, given) = world.spawn(middle, vec![give(minted, RIGHTS)]);
    let wanted =
        [(last, How::Given), (middle, How::Minted), (middle, How::Given), (first, How::Created)];
    assert_eq!(way(&mut world, last, given[0]), wanted);
    world.die(middle);
    assert_eq!(way(&mut world, last, given[0]), wanted);
    assert_eq!(world.inspect(last, given[0]).depth, 1);
}

#[test]
fn the_front_door_is_a_step_of_its_own() {
    let (mut world, first, kernel) = World::started();
    let own = world.endpoint(first);
    let rules = vec![rule(None, vec![give(own, RIGHTS)])];
    assert_eq!(world.ask(first, Request::FrontDoor { slot: kernel, rules }), Answer::Done);
    let visitor = world.machine.admit("visitor", super::CREDENTIALS, true, &mut world.log).unwrap();
    let (_, given) = world.hello(visitor);
    let wanted = [(visitor, How::Given), (TaskId::KERNEL, How::FrontDoor), (first, How::Created)];
    assert_eq!(way(&mut world, visitor, given[0].capability.slot), wanted);
}

#[test]
fn it_names_tasks_so_it_needs_inspect() {
    let (mut world, first, kernel) = World::started();
    let own = world.endpoint(first);
    let rights = Rights::SEND | Rights::WATCH;
    let (child, _, held) = world.spawn(first, vec![give(own, rights)]);
    let slot = held[0];
    let error = world.fail(child, Request::Provenance { slot, of: None });
    let missing = Rights::INSPECT;
    assert_eq!(error, KernelError::MissingRights { slot, missing, held: rights });
    // Of somebody else's, INSPECT on the kernel.
    let of = Some((child, slot));
    let answer = world.ask(first, Request::Provenance { slot: kernel, of });
    let Answer::Provenance(provenance) = answer else { panic!("{answer:?}") };
    assert_eq!(provenance.steps.len(), 2);
    assert_eq!((provenance.steps[0].rights, provenance.steps[1].rights), (rights, ENDPOINT_RIGHTS));
    assert_eq!(provenance.steps[1].name, "supervisor");
    let error = world.fail(first, Request::Provenance { slot: own, of });
    assert!(matches!(error, KernelError::WrongObject { .. }));
    let error = world.fail(child, Request::Provenance { slot, of });
    assert!(matches!(error, KernelError::WrongObject { .. }));
}

#[test]
fn whether_somebody_could_send_meanwhile_shows_in_the_count() {
    let mut pair = pair();
    let world = &mut pair.world;
    let senders = |world: &mut World| world.inspect(pair.server, pair.receive).senders;
    // The first task's, the server's own, the client's.
    assert_eq!(senders(world), Some(Senders { present: 3, made: 3 }));
    assert_eq!(world.inspect(pair.client, pair.send).senders, None, "it does not receive");
    let extra = world.mint(pair.first, pair.endpoint, Rights::SEND);
    world.ask(pair.first, Request::Delete { slot: extra });
    assert_eq!(senders(world), Some(Senders { present: 3, made: 4 }));
    world.mint(pair.first, pair.endpoint, Rights::RECEIVE);
    assert_eq!(senders(world), Some(Senders { present: 3, made: 4 }));
}
