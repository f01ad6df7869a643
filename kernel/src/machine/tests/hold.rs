//! What becomes of connects while an endpoint has no receiver.

use super::{Answer, KernelError, Pair, Request, Rights, World, connect, give, pair};
use crate::effect::{Alarm, Effect};
use rendez_protocol::Slot;
use rendez_protocol::kernel::Hold;

impl World {
    fn hold(&mut self, who: rendez_protocol::TaskId, slot: Slot, hold: Hold) {
        assert_eq!(self.ask(who, Request::Hold { slot, hold }), Answer::Done);
    }

    /// Takes the alarms that were asked for out of the log.
    fn alarms(&mut self) -> Vec<(u32, Alarm)> {
        let mut alarms = Vec::new();
        self.log.retain(|effect| match effect {
            Effect::After { milliseconds, alarm } => {
                alarms.push((*milliseconds, *alarm));
                false
            }
            _ => true,
        });
        alarms
    }

    /// Takes those that were taken back out of the log.
    fn unset(&mut self) -> Vec<Alarm> {
        let mut unset = Vec::new();
        self.log.retain(|effect| match effect {
            Effect::Unset(alarm) => {
                unset.push(*alarm);
                false
            }
            _ => true,
        });
        unset
    }

    fn expire(&mut self, alarm: Alarm) {
        self.machine.expired(alarm, &mut self.log);
        self.machine.check();
    }
}

fn wait(connects: u32, milliseconds: u32) -> Hold {
    Hold::Wait { connects, milliseconds }
}

/// A pair whose server has died under this policy, and the alarms that were asked for.
fn without_server(hold: Hold) -> (Pair, Vec<(u32, Alarm)>) {
    let mut pair = pair();
    pair.world.hold(pair.first, pair.endpoint, hold);
    assert_eq!(pair.world.alarms(), [], "there is a receiver: no time runs");
    pair.world.die(pair.server);
    let alarms = pair.world.alarms();
    (pair, alarms)
}

#[test]
fn an_endpoint_that_fails_refuses_at_once_and_serves_again() {
    for hold in [Hold::Fail, wait(0, 100), wait(5, 0)] {
        let (mut pair, alarms) = without_server(hold);
        assert_eq!(alarms, []);
        let world = &mut pair.world;
        let error = world.fail(pair.client, connect(pair.send));
        assert_eq!(error, KernelError::NotHeld { hold, waiting: 0 });
        assert_eq!(world.serve(pair.first, pair.endpoint), 2);
        world.connecting(pair.client, pair.send);
    }
}

#[test]
fn an_endpoint_holds_so_many_connects_and_refuses_the_next() {
    let hold = wait(2, u32::MAX);
    let (mut pair, alarms) = without_server(hold);
    assert_eq!(alarms, [], "no limit of time, no alarm");
    let world = &mut pair.world;
    let held = [0; 2].map(|_| world.send(pair.client, connect(pair.send)));
    assert_eq!(held.map(|waits| world.answer_to(waits)), [None, None]);
    let error = world.fail(pair.client, connect(pair.send));
    assert_eq!(error, KernelError::NotHeld { hold, waiting: 2 });
    // One that gives up makes room.
    let transaction = held[0];
    world.machine.handle(pair.client, 0, Request::Cancel { transaction }, &mut world.log);
    assert_eq!(world.answer_to(held[0]), Some(Answer::Error(KernelError::Cancelled)));
    let third = world.send(pair.client, connect(pair.send));
    world.serve(pair.first, pair.endpoint);
    for waited in [held[1], third] {
        assert!(matches!(world.answer_to(waited), Some(Answer::Connecting { .. })));
    }
}

#[test]
fn an_endpoint_holds_for_so_long_after_its_receiver_died() {
    let hold = wait(u32::MAX, 250);
    let (mut pair, alarms) = without_server(hold);
    let [(250, alarm)] = alarms[..] else { panic!("{alarms:?}") };
    let world = &mut pair.world;
    let waits = world.send(pair.client, connect(pair.send));
    assert_eq!(world.answer_to(waits), None);
    world.expire(alarm);
    let refused = KernelError::NotHeld { hold, waiting: 0 };
    assert_eq!(world.answer_to(waits), Some(Answer::Error(refused.clone())));
    assert_eq!(world.fail(pair.client, connect(pair.send)), refused);
    // The next receiver ends that, and its death begins anew.
    world.serve(pair.first, pair.endpoint);
    world.connecting(pair.client, pair.send);
    world.die(pair.first);
    assert_eq!(world.fail(pair.client, connect(pair.send)), KernelError::Dead);
}

#[test]
fn a_receiver_ends_the_time_and_its_death_begins_it_anew() {
    let (mut pair, alarms) = without_server(wait(9, 250));
    let world = &mut pair.world;
    let alarm = alarms[0].1;
    let (server, _, receive) = world.spawn(pair.first, vec![give(pair.endpoint, Rights::RECEIVE)]);
    world.serve(server, receive[0]);
    assert_eq!(world.unset(), [alarm]);
    // Should it ring all the same, nothing comes of it.
    world.expire(alarm);
    let connected = world.send(pair.client, connect(pair.send));
    assert!(matches!(world.answer_to(connected), Some(Answer::Connecting { .. })));
    world.die(server);
    assert_eq!(world.alarms(), [(250, alarm)]);
    let waits = world.send(pair.client, connect(pair.send));
    world.expire(alarm);
    assert!(matches!(world.answer_to(waits), Some(Answer::Error(KernelError::NotHeld { .. }))));
    world.expire(alarm);
}

#[test]
fn a_new_policy_is_for_those_that_wait_already() {
    let (mut pair, _) = without_server(Hold::FOR_EVER);
    let world = &mut pair.world;
    let held = [0; 3].map(|_| world.send(pair.client, connect(pair.send)));
    world.hold(pair.first, pair.endpoint, wait(2, 50));
    let [(50, alarm)] = world.alarms()[..] else { panic!("its time begins now") };
    let refused = KernelError::NotHeld { hold: wait(2, 50), waiting: 2 };
    assert_eq!(
        held.map(|waits| world.answer_to(waits)),
        [None, None, Some(Answer::Error(refused))],
        "the last ones go"
    );
    world.hold(pair.first, pair.endpoint, Hold::FOR_EVER);
    assert_eq!(world.unset(), [alarm]);
    world.expire(alarm);
    assert_eq!(world.answer_to(held[0]), None);
    world.hold(pair.first, pair.endpoint, Hold::Fail);
    let refused = KernelError::NotHeld { hold: Hold::Fail, waiting: 0 };
    for waits in &held[..2] {
        assert_eq!(world.answer_to(*waits), Some(Answer::Error(refused.clone())));
    }
}

#[test]
fn an_endpoint_without_a_first_receiver_has_its_time_too() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (client, _, send) = world.spawn(first, vec![give(endpoint, Rights::SEND)]);
    world.hold(first, endpoint, wait(9, 10));
    let [(10, alarm)] = world.alarms()[..] else { panic!("no alarm") };
    let waits = world.send(client, connect(send[0]));
    world.expire(alarm);
    assert!(matches!(world.answer_to(waits), Some(Answer::Error(KernelError::NotHeld { .. }))));
    // One that is gone takes its alarm along.
    world.hold(first, endpoint, wait(9, 10));
    world.log.clear();
    world.die(client);
    world.die(first);
    assert_eq!(world.unset(), [alarm]);
    world.expire(alarm);
}

#[test]
fn the_policy_is_for_receivers_to_say() {
    let mut pair = pair();
    let world = &mut pair.world;
    let error = world.fail(pair.client, Request::Hold { slot: pair.send, hold: Hold::Fail });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::RECEIVE, .. }));
    let error = world.fail(pair.first, Request::Hold { slot: pair.kernel, hold: Hold::Fail });
    assert!(matches!(error, KernelError::WrongObject { .. }));
}
