use super::{
    Answer, KernelError, Pair, Quotas, Request, Rights, Slot, World, give, offered, pair, quota,
};
use rendez_protocol::TaskId;
use rendez_protocol::kernel::{Event, Fate, Travel};

fn watch(world: &mut World, who: TaskId, slot: Slot) {
    assert_eq!(world.ask(who, Request::Watch { slot }), Answer::Done);
}

fn fates(world: &mut World, who: TaskId, wanted: Slot) -> Vec<Fate> {
    let told = world.events(who).into_iter().map(|event| match event {
        Event::Watched { slot, what, .. } => (slot, what),
        other => panic!("{other:?}"),
    });
    told.inspect(|(slot, _)| assert_eq!(*slot, wanted)).map(|(_, what)| what).collect()
}

#[test]
fn a_task_is_watched_until_it_dies() {
    let (mut world, first, _) = World::started();
    let (child, slot, _) = world.spawn(first, vec![]);
    watch(&mut world, first, slot);
    assert_eq!(fates(&mut world, first, slot), []);
    world.die(child);
    assert_eq!(fates(&mut world, first, slot), [Fate::Died { generation: 0 }]);
    // Again, it is told at once, after the answer.
    let transaction = world.send(first, Request::Watch { slot });
    let answered =
        world.log.iter().position(|it| matches!(it, crate::effect::Effect::Answer { .. }));
    let told = world.log.iter().position(|it| matches!(it, crate::effect::Effect::Event { .. }));
    assert!(answered < told);
    assert_eq!(world.answer_to(transaction), Some(Answer::Done));
    assert_eq!(fates(&mut world, first, slot), [Fate::Died { generation: 0 }]);
}

#[test]
fn an_endpoint_is_watched_through_its_incarnations() {
    let Pair { mut world, first, server, endpoint, client, send, .. } = pair();
    watch(&mut world, client, send);
    assert_eq!(fates(&mut world, client, send), []);
    world.die(server);
    assert_eq!(fates(&mut world, client, send), [Fate::Died { generation: 1 }]);
    let (again, _, receive) = world.spawn(first, vec![give(endpoint, Rights::RECEIVE)]);
    world.serve(again, receive[0]);
    assert_eq!(fates(&mut world, client, send), [Fate::Restarted { generation: 2 }]);
    world.ask(first, Request::Delete { slot: endpoint });
    assert_eq!(fates(&mut world, client, send), []);
    world.die(again);
    let told = [Fate::Died { generation: 2 }, Fate::Gone];
    assert_eq!(fates(&mut world, client, send), told);
    watch(&mut world, client, send);
    assert_eq!(fates(&mut world, client, send), [Fate::Gone]);
}

#[test]
fn an_endpoint_without_receiver_is_told_at_once() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    watch(&mut world, first, endpoint);
    assert_eq!(fates(&mut world, first, endpoint), [Fate::Died { generation: 0 }]);
    world.serve(first, endpoint);
    assert_eq!(fates(&mut world, first, endpoint), [Fate::Restarted { generation: 1 }]);
}

#[test]
fn watching_needs_watch_and_counts_once() {
    let (mut world, first, _) = World::started_with(Quotas { watches: 1, ..Quotas::default() });
    let endpoint = world.endpoint(first);
    world.serve(first, endpoint);
    let slot = world.mint(first, endpoint, Rights::SEND);
    let error = world.fail(first, Request::Watch { slot });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::WATCH, .. }));
    watch(&mut world, first, endpoint);
    watch(&mut world, first, endpoint);
    let other = world.mint(first, endpoint, Rights::WATCH);
    let error = world.fail(first, Request::Watch { slot: other });
    assert_eq!(quota(&error), ("watches of a task".into(), 1));
    world.ask(first, Request::Delete { slot: endpoint });
    watch(&mut world, first, other);
}

#[test]
fn a_watch_follows_its_capability_within_the_space_and_no_further() {
    let Pair { mut world, server, client, send, .. } = pair();
    let id = world.connected(client, send, server);
    let slot = world.mint(client, send, Rights::WATCH | Rights::GRANT);
    watch(&mut world, client, slot);
    let slot = world.slot(client, Request::Move { slot });
    let other = world.mint(client, send, Rights::WATCH | Rights::GRANT);
    watch(&mut world, client, other);
    let rights = Rights::WATCH | Rights::GRANT;
    world.offer(client, id, vec![offered(other, rights, Travel::Move)]);
    world.die(server);
    let told: Vec<_> = world
        .events(client)
        .into_iter()
        .filter(|event| matches!(event, Event::Watched { .. }))
        .collect();
    assert!(matches!(told.as_slice(), [Event::Watched { slot: by, .. }] if *by == slot));
}

#[test]
fn who_is_dead_or_revoked_watches_no_more() {
    let Pair { mut world, first, server, endpoint, client, send, .. } = pair();
    watch(&mut world, client, send);
    world.ask(first, Request::Revoke { slot: endpoint });
    assert_eq!(world.events(client), []);
    let (child, ..) = world.spawn(first, vec![give(endpoint, Rights::WATCH)]);
    world.die(child);
    world.die(server);
    assert_eq!(world.events(client), []);
}

#[test]
fn a_watch_of_the_dead_counts_no_more() {
    let (mut world, first, _) = World::started_with(Quotas { watches: 1, ..Quotas::default() });
    for _ in 0..3 {
        let (child, slot, _) = world.spawn(first, vec![]);
        watch(&mut world, first, slot);
        world.die(child);
    }
}
