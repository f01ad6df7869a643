use super::{
    Answer, KernelError, Quotas, Request, Rights, World, connect, give, mapped, offered, pair,
    pair_with, quota, revoked,
};
use rendez_protocol::kernel::{Doorbell, Event, Shape, Travel};
use rendez_protocol::{Interface, Version};

fn speaks(name: &str, minor: u16) -> Option<Interface> {
    Some(Interface::new(name, Version::new(1, minor)))
}

#[test]
fn one_receiver_at_a_time_and_a_new_generation_for_each() {
    let mut pair = pair();
    let world = &mut pair.world;
    let error = world.fail(pair.first, Request::Serve { slot: pair.endpoint, interface: None });
    assert_eq!(error, KernelError::Served(pair.server));
    assert_eq!(world.serve(pair.server, pair.receive), 1);
    world.die(pair.server);
    assert_eq!(world.serve(pair.first, pair.endpoint), 2);
}

#[test]
fn serving_needs_receive_and_connecting_send() {
    let mut pair = pair();
    let world = &mut pair.world;
    let slot = pair.send;
    let error = world.fail(pair.client, Request::Serve { slot, interface: None });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::RECEIVE, .. }));
    let slot = world.mint(pair.first, pair.endpoint, Rights::RECEIVE);
    let error = world.fail(pair.first, connect(slot));
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::SEND, .. }));
}

#[test]
fn a_receiver_without_its_capability_is_none() {
    for way in 0..3 {
        let mut pair = pair();
        let world = &mut pair.world;
        // A connection over which the server can give its capability away.
        let id = world.connected(pair.client, pair.send, pair.server);
        let slot = pair.receive;
        match way {
            0 => _ = world.ask(pair.server, Request::Delete { slot }),
            1 => _ = world.ask(pair.first, Request::Revoke { slot: pair.endpoint }),
            _ => {
                let rights = world.inspect(pair.server, slot).itself.rights;
                world.offer(pair.server, id, vec![offered(slot, rights, Travel::Move)]);
            }
        }
        assert_eq!(world.serve(pair.first, pair.endpoint), 2, "way {way}");
    }
}

#[test]
fn moving_the_capability_within_the_space_changes_nothing() {
    let mut pair = pair();
    let world = &mut pair.world;
    let slot = world.slot(pair.server, Request::Move { slot: pair.receive });
    let error = world.fail(pair.first, Request::Serve { slot: pair.endpoint, interface: None });
    assert_eq!(error, KernelError::Served(pair.server));
    world.ask(pair.server, Request::Delete { slot });
    assert_eq!(world.serve(pair.first, pair.endpoint), 2);
}

#[test]
fn a_connect_waits_for_a_receiver() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (client, _, send) = world.spawn(first, vec![give(endpoint, Rights::SEND)]);
    let one = world.send(client, connect(send[0]));
    let two = world.send(client, connect(send[0]));
    assert_eq!((world.answer_to(one), world.answer_to(two)), (None, None));
    world.serve(first, endpoint);
    assert!(matches!(world.answer_to(one), Some(Answer::Connecting { status_index: 1, .. })));
    assert!(matches!(world.answer_to(two), Some(Answer::Connecting { status_index: 2, .. })));
}

#[test]
fn a_connect_that_waits_is_refused_for_the_same_reasons_as_one_that_does_not() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (client, _, send) = world.spawn(first, vec![give(endpoint, Rights::SEND)]);
    let request = Request::Connect {
        slot: send[0],
        interface: speaks("file", 1),
        requests: Shape::default(),
        replies: Shape::default(),
        doorbell: Doorbell::Futex,
    };
    let waits = world.send(client, request.clone());
    let interface = speaks("file", 0);
    world.ask(first, Request::Serve { slot: endpoint, interface: interface.clone() });
    let error =
        KernelError::Version { client: speaks("file", 1).unwrap(), server: interface.unwrap() };
    assert_eq!(world.answer_to(waits), Some(Answer::Error(error.clone())));
    assert_eq!(world.fail(client, request), error);
}

#[test]
fn whoever_says_no_interface_fits_any() {
    for (client, server) in [(None, speaks("file", 0)), (speaks("file", 0), None)] {
        let mut pair = pair();
        let slot = pair.receive;
        pair.world.ask(pair.server, Request::Serve { slot, interface: server });
        let request = Request::Connect {
            slot: pair.send,
            interface: client,
            requests: Shape::default(),
            replies: Shape::default(),
            doorbell: Doorbell::Futex,
        };
        assert!(matches!(pair.world.ask(pair.client, request), Answer::Connecting { .. }));
    }
}

#[test]
fn a_connect_waits_only_while_somebody_could_receive() {
    let mut pair = pair();
    let world = &mut pair.world;
    world.die(pair.server);
    // The first task still holds RECEIVE.
    let waits = world.send(pair.client, connect(pair.send));
    assert_eq!(world.answer_to(waits), None);
    world.ask(pair.first, Request::Delete { slot: pair.endpoint });
    assert_eq!(world.answer_to(waits), Some(Answer::Error(KernelError::Dead)));
    assert_eq!(world.fail(pair.client, connect(pair.send)), KernelError::Dead);
}

#[test]
fn a_connect_whose_capability_is_revoked_is_refused_and_one_whose_capability_is_deleted_waits() {
    let mut pair = pair();
    let world = &mut pair.world;
    world.die(pair.server);
    let slot = pair.send;
    let waits = world.send(pair.client, connect(slot));
    world.ask(pair.client, Request::Delete { slot });
    assert_eq!(world.answer_to(waits), None);
    let answer = world.ask(pair.first, Request::Revoke { slot: pair.endpoint });
    assert_eq!(answer, revoked(0, 0));
    assert_eq!(world.answer_to(waits), Some(Answer::Error(KernelError::BadSlot(slot))));
}

#[test]
fn a_connect_that_waits_can_be_cancelled() {
    let mut pair = pair();
    let world = &mut pair.world;
    world.die(pair.server);
    let waits = world.send(pair.client, connect(pair.send));
    let cancel = world.send(pair.client, Request::Cancel { transaction: waits });
    assert_eq!(world.answer_to(waits), Some(Answer::Error(KernelError::Cancelled)));
    assert_eq!(world.answer_to(cancel), None);
    world.send(pair.client, Request::Cancel { transaction: waits });
    world.serve(pair.first, pair.endpoint);
    assert_eq!(world.answer_to(waits), None);
}

#[test]
fn a_transaction_that_waits_cannot_be_used_again() {
    let mut pair = pair();
    let world = &mut pair.world;
    world.die(pair.server);
    let waits = world.send(pair.client, connect(pair.send));
    world.machine.handle(pair.client, waits, Request::CreateEndpoint, &mut world.log);
    world.machine.check();
    assert!(matches!(world.answer_to(waits), Some(Answer::Error(KernelError::Order(_)))));
}

#[test]
fn waiting_requests_are_counted() {
    let mut pair = pair_with(Quotas { parked: 1, ..Quotas::default() });
    let world = &mut pair.world;
    world.die(pair.server);
    let waits = world.send(pair.client, connect(pair.send));
    let error = world.fail(pair.client, connect(pair.send));
    let what = "requests of a task that wait".into();
    assert_eq!(quota(&error), (what, 1));
    world.send(pair.client, Request::Cancel { transaction: waits });
    let again = world.send(pair.client, connect(pair.send));
    assert_eq!(world.answer_to(again), None);
}

#[test]
fn endpoints_are_counted_while_they_exist() {
    let (mut world, first, _) = World::started_with(Quotas { endpoints: 1, ..Quotas::default() });
    let endpoint = world.endpoint(first);
    let copy = world.mint(first, endpoint, Rights::SEND);
    world.ask(first, Request::Delete { slot: endpoint });
    let error = world.fail(first, Request::CreateEndpoint);
    assert_eq!(quota(&error), ("endpoints of a task".into(), 1));
    world.ask(first, Request::Delete { slot: copy });
    world.endpoint(first);
}

#[test]
fn the_receiver_hears_once_when_nobody_can_send_any_more() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let object = world.inspect(first, endpoint).itself.object;
    let (server, _, receive) =
        world.spawn(first, vec![give(endpoint, Rights::RECEIVE | Rights::MINT)]);
    let (client, _, send) = world.spawn(first, vec![give(endpoint, Rights::SEND)]);
    world.serve(server, receive[0]);
    world.ask(first, Request::Delete { slot: endpoint });
    assert_eq!(world.events(server), []);
    world.connecting(client, send[0]);
    world.die(client);
    assert_eq!(world.events(server), [Event::NoSenders { endpoint: object, made: 2 }]);
    world.mint(server, receive[0], Rights::RECEIVE);
    assert_eq!(world.events(server), []);
}

#[test]
fn an_endpoint_outlives_its_receiver_and_its_clients_capabilities_stay_good() {
    let mut pair = pair();
    let world = &mut pair.world;
    world.die(pair.server);
    let (server, _, receive) = world.spawn(pair.first, vec![give(pair.endpoint, Rights::RECEIVE)]);
    let waits = world.send(pair.client, connect(pair.send));
    assert_eq!(world.serve(server, receive[0]), 2);
    let Some(Answer::Connecting { connection, .. }) = world.answer_to(waits) else { panic!() };
    let waits = world.send(pair.client, mapped(connection));
    assert_eq!(world.ask(server, mapped(connection)), Answer::Done);
    let answer = world.answer_to(waits);
    assert!(
        matches!(answer, Some(Answer::Connected { generation: 2, server: by, .. }) if by == server)
    );
}
