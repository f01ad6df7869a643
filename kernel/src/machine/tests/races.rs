//! What may happen between an offer and its acceptance: all of a ticket arrives, or nothing does.
//!
//! Each race is run twice: as it is, and with so little done at once that the acceptance comes while
//! most of what happened is put off.

use super::{
    Answer, KernelError, Pair, Quotas, Request, Rights, Slot, TaskId, Ticket, World, give, offered,
    pair_with,
};
use rendez_protocol::kernel::{Offer, Travel};
use rendez_protocol::{ConnectionId, Why};

const RIGHTS: Rights = Rights::SEND.union(Rights::GRANT).union(Rights::MINT).union(Rights::WATCH);

/// A ticket of one capability that is minted, one that is moved, and one that is moved with less.
struct Race {
    world: World,
    first: TaskId,
    /// What everything comes from, the first task's: an endpoint for each of the three.
    origins: [Slot; 3],
    /// Behind the connection.
    service: Slot,
    offerer: TaskId,
    slots: [Slot; 3],
    receiver: TaskId,
    connection: ConnectionId,
    ticket: Ticket,
}

fn race(portion: usize) -> Race {
    let quotas = Quotas { capabilities: 12, ..Quotas::default() };
    let Pair { mut world, first, endpoint, server: receiver, .. } = pair_with(quotas);
    let service = world.mint(first, endpoint, RIGHTS);
    let origins = [world.endpoint(first), world.endpoint(first), world.endpoint(first)];
    let gifts = origins.map(|origin| give(origin, RIGHTS));
    let gifts = gifts.into_iter().chain([give(service, RIGHTS)]).collect();
    let (offerer, _, held) = world.spawn(first, gifts);
    let connection = world.connected(offerer, held[3], receiver);
    let slots = [held[0], held[1], held[2]];
    let items: Vec<Offer> = vec![
        offered(slots[0], RIGHTS, Travel::Mint),
        offered(slots[1], RIGHTS, Travel::Move),
        offered(slots[2], Rights::SEND, Travel::Move),
    ];
    let ticket = world.offer(offerer, connection, items);
    world.machine.portion = portion;
    world.log.clear();
    Race { world, first, origins, service, offerer, slots, receiver, connection, ticket }
}

impl Race {
    fn accept(&mut self) -> Answer {
        let (connection, ticket) = (self.connection, self.ticket);
        self.world.ask(self.receiver, Request::Accept { connection, ticket })
    }

    /// Which of the three the offerer has.
    fn has(&mut self) -> [bool; 3] {
        self.slots.map(|slot| {
            let answer = self.world.ask(self.offerer, Request::Inspect { slot });
            let gone = Answer::Error(KernelError::BadSlot(slot));
            assert!(answer == gone || matches!(answer, Answer::Inspected(_)), "{answer:?}");
            answer != gone
        })
    }

    /// How many of each are there, apart from those of the first task.
    fn there(&mut self) -> [u32; 3] {
        self.origins.map(|slot| self.world.inspect(self.first, slot).descendants)
    }
}

/// Runs a race in both ways, in portions and at once.
fn both(run: impl Fn(Race)) {
    for portion in [1, 64] {
        run(race(portion));
    }
}

const REFUSED: Answer = Answer::Error(KernelError::BadTicket);

#[test]
fn nothing_happens_and_all_of_it_arrives() {
    both(|mut race| {
        let Answer::Received(received) = race.accept() else { panic!() };
        assert_eq!(
            received.iter().map(|it| it.rights).collect::<Vec<_>>(),
            [RIGHTS, RIGHTS, Rights::SEND]
        );
        assert_eq!((race.has(), race.there()), ([true, false, false], [2, 1, 1]));
        assert_eq!(race.accept(), REFUSED, "once");
    });
}

#[test]
fn the_offerer_dies_and_nothing_arrives() {
    both(|mut race| {
        race.world.die(race.offerer);
        assert_eq!(race.accept(), Answer::Error(KernelError::BadConnection(race.connection)));
        race.world.work();
        assert_eq!(race.there(), [0, 0, 0]);
        assert!(race.world.machine.escrow.is_empty());
    });
}

#[test]
fn the_offerer_dies_after_all_of_it_has_arrived() {
    both(|mut race| {
        let Answer::Received(received) = race.accept() else { panic!() };
        race.world.die(race.offerer);
        race.world.work();
        assert_eq!(race.there(), [1, 1, 1]);
        for it in received {
            assert_eq!(race.world.inspect(race.receiver, it.slot).depth, 1);
        }
    });
}

#[test]
fn the_receiver_dies_and_what_was_moved_is_back() {
    both(|mut race| {
        race.world.die(race.receiver);
        race.world.work();
        assert_eq!((race.has(), race.there()), ([true; 3], [1, 1, 1]));
        assert!(race.world.machine.escrow.is_empty());
    });
}

#[test]
fn either_end_disconnects_and_what_was_moved_is_back() {
    for offerer in [false, true] {
        both(|mut race| {
            let who = if offerer { race.offerer } else { race.receiver };
            let connection = race.connection;
            race.world.ask(who, Request::Disconnect { connection, why: Why::Closed });
            let refused = Answer::Error(KernelError::BadConnection(connection));
            assert_eq!(race.accept(), refused);
            assert_eq!((race.has(), race.there()), ([true; 3], [1, 1, 1]));
        });
    }
}

#[test]
fn a_right_in_the_ticket_is_revoked_and_nothing_arrives() {
    for which in 0..3 {
        both(|mut race| {
            race.world.send(race.first, Request::Revoke { slot: race.origins[which] });
            assert_eq!(race.accept(), REFUSED, "at once");
            race.world.work();
            assert_eq!(race.accept(), REFUSED);
            let mut kept = [true; 3];
            kept[which] = false;
            assert_eq!((race.has(), race.there()), (kept, kept.map(u32::from)));
        });
    }
}

#[test]
fn a_right_is_revoked_after_it_has_arrived_and_goes_alone() {
    both(|mut race| {
        let Answer::Received(received) = race.accept() else { panic!() };
        race.world.send(race.first, Request::Revoke { slot: race.origins[1] });
        for (it, stays) in received.iter().zip([true, false, true]) {
            let answer = race.world.ask(race.receiver, Request::Inspect { slot: it.slot });
            assert_eq!(matches!(answer, Answer::Inspected(_)), stays);
        }
        race.world.work();
        assert_eq!(race.there(), [2, 0, 1]);
    });
}

#[test]
fn the_connection_is_revoked_and_what_was_moved_is_back() {
    both(|mut race| {
        race.world.send(race.first, Request::Revoke { slot: race.service });
        let refused = Answer::Error(KernelError::BadConnection(race.connection));
        assert_eq!(race.accept(), refused, "at once");
        race.world.work();
        assert_eq!((race.has(), race.there()), ([true; 3], [1, 1, 1]));
        assert!(race.world.machine.escrow.is_empty());
    });
}

#[test]
fn the_receiver_has_no_room_and_the_ticket_stays_whole() {
    both(|mut race| {
        // It holds itself and RECEIVE; of twelve.
        let filler: Vec<_> = (0..8).map(|_| race.world.endpoint(race.receiver)).collect();
        let answer = race.accept();
        assert!(matches!(answer, Answer::Error(KernelError::Quota { limit: 12, .. })));
        assert_eq!((race.has(), race.there()), ([true, false, false], [2, 1, 1]));
        race.world.ask(race.receiver, Request::Delete { slot: filler[0] });
        assert!(matches!(race.accept(), Answer::Received(received) if received.len() == 3));
    });
}
