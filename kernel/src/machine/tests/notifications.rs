use super::{Answer, KernelError, Quotas, Request, Rights, World, connect, give, mapped};
use rendez_protocol::kernel::{Doorbell, Event, Fate, Give, Limits, ObjectKind, Shape};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, Slot, TaskId, Why};

const WAITING: u32 = ConnectionState::Waiting as u32;
const OPEN: u32 = ConnectionState::Open as u32;

/// A first task with a notification, one that may receive from it, one that may post to it.
#[derive(Debug)]
struct Parties {
    world: World,
    first: TaskId,
    notification: Slot,
    receiver: TaskId,
    receive: Slot,
    poster: TaskId,
    post: Slot,
}

fn parties() -> Parties {
    parties_with(Quotas::default())
}

fn parties_with(quotas: Quotas) -> Parties {
    let (mut world, first, _) = World::started_with(quotas);
    let notification = world.slot(first, Request::CreateNotification);
    let (receiver, _, receive) = world.spawn(first, vec![give(notification, Rights::RECEIVE)]);
    let bounded = Give {
        badge: Some(7),
        limits: Limits { bits: Some(0b110), ..Limits::SAME },
        ..give(notification, Rights::POST | Rights::MINT | Rights::WATCH)
    };
    let (poster, _, post) = world.spawn(first, vec![bounded]);
    world.log.clear();
    Parties { world, first, notification, receiver, receive: receive[0], poster, post: post[0] }
}

fn stand(slot: Slot) -> Request {
    Request::Connect {
        slot,
        interface: None,
        requests: Shape::SMALLEST,
        replies: Shape::SMALLEST,
        doorbell: Doorbell::Futex,
    }
}

impl Parties {
    /// The poster connects and has mapped its segment: the connection, its status index, the request
    /// that is answered when a receiver has done the same.
    fn standing(&mut self) -> (ConnectionId, u32, u64) {
        let Answer::Connecting { connection, status_index } =
            self.world.ask(self.poster, stand(self.post))
        else {
            panic!("not connecting");
        };
        let waits = self.world.send(self.poster, mapped(connection));
        (connection, status_index, waits)
    }

    /// The receiver has been told of a connection: its badge and bits.
    fn incoming(&mut self) -> Option<(ConnectionId, u64, u64)> {
        let event = self.world.events(self.receiver).pop()?;
        let Event::Incoming { connection, kind, badge, bits, client, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!((kind, client), (ObjectKind::Notification, self.poster));
        Some((connection, badge, bits))
    }

    fn serve(&mut self) -> u32 {
        self.world.serve(self.receiver, self.receive)
    }
}

#[test]
fn a_notification_has_rights_of_its_own() {
    let mut it = parties();
    let received = it.world.inspect(it.first, it.notification).itself;
    assert_eq!(received.kind, ObjectKind::Notification);
    assert_eq!((received.bits, received.badge), (u64::MAX, 0));
    let lacks = received.rights & (Rights::SEND | Rights::SERVER_MASK | Rights::KILL);
    assert!(lacks.is_empty(), "{lacks:?}");
    let error = it.world.fail(it.receiver, stand(it.receive));
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::POST, .. }));
    let error = it.world.fail(it.poster, Request::Serve { slot: it.post, interface: None });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::RECEIVE, .. }));
}

#[test]
fn bits_shrink_when_minted_and_never_grow() {
    let mut it = parties();
    let mint = |bits| Request::Mint {
        slot: it.post,
        rights: Rights::POST,
        badge: None,
        limits: Limits { bits, ..Limits::SAME },
    };
    let error = it.world.fail(it.poster, mint(Some(0b1110)));
    assert_eq!(error, KernelError::Bits { slot: it.post, missing: 0b1000, held: 0b110 });
    let narrow = it.world.slot(it.poster, mint(Some(0b100)));
    assert_eq!(it.world.inspect(it.poster, narrow).itself.bits, 0b100);
    it.serve();
    let Answer::Connecting { connection, .. } = it.world.ask(it.poster, stand(narrow)) else {
        panic!()
    };
    it.world.send(it.poster, mapped(connection));
    assert_eq!(it.incoming(), Some((connection, 7, 0b100)));
}

#[test]
fn a_poster_stands_until_there_is_a_receiver() {
    let mut it = parties();
    let (connection, index, waits) = it.standing();
    assert_eq!(it.world.words(), [(it.poster, index, WAITING)]);
    assert_eq!(it.world.answer_to(waits), None);
    assert_eq!(it.serve(), 1);
    assert_eq!(it.incoming(), Some((connection, 7, 0b110)));
    assert_eq!(it.world.words(), [], "not before the receiver has mapped");
    assert_eq!(it.world.ask(it.receiver, mapped(connection)), Answer::Done);
    assert_eq!(it.world.words(), [(it.poster, index, OPEN)]);
    let Some(Answer::Connected { server, generation, .. }) = it.world.answer_to(waits) else {
        panic!("not connected");
    };
    assert_eq!((server, generation), (it.receiver, 1));
}

#[test]
fn the_poster_is_told_before_the_receiver_may_take_bits() {
    use crate::effect::Effect;
    let mut it = parties();
    let (connection, ..) = it.standing();
    it.serve();
    it.incoming();
    let done = it.world.send(it.receiver, mapped(connection));
    let at = |is: &dyn Fn(&Effect) -> bool| it.world.log.iter().position(is).unwrap();
    let word = at(&|effect| matches!(effect, Effect::Status { word: OPEN, .. }));
    let told =
        at(&|effect| matches!(effect, Effect::Answer { transaction, .. } if *transaction == done));
    assert!(word < told, "{:?}", it.world.log);
}

#[test]
fn with_a_receiver_there_the_steps_follow_one_another() {
    let mut it = parties();
    it.serve();
    let (connection, index, waits) = it.standing();
    assert_eq!(it.incoming().map(|(id, ..)| id), Some(connection));
    assert_eq!(it.world.words(), [(it.poster, index, WAITING)]);
    it.world.ask(it.receiver, mapped(connection));
    assert_eq!(it.world.words(), [(it.poster, index, OPEN)]);
    assert!(matches!(it.world.answer_to(waits), Some(Answer::Connected { .. })));
}

#[test]
fn a_receiver_that_dies_ends_its_posters_connections_and_the_next_meets_new_ones() {
    let mut it = parties();
    it.serve();
    let (connection, index, _) = it.standing();
    it.world.ask(it.receiver, mapped(connection));
    it.world.log.clear();
    it.world.die(it.receiver);
    assert_eq!(it.world.words(), [(it.poster, index, ConnectionState::Dead as u32)]);
    let (second, other, waits) = it.standing();
    assert_ne!(index, other, "its word is looked at until it says that it knows");
    assert_eq!(it.world.answer_to(waits), None);
    assert_eq!(it.world.serve(it.first, it.notification), 2);
    assert!(matches!(it.world.events(it.first).as_slice(), [
        Event::Incoming { connection, .. }
    ] if *connection == second));
}

#[test]
fn a_receiver_that_dies_before_it_has_mapped_ends_the_connection() {
    let mut it = parties();
    it.serve();
    let (_, index, waits) = it.standing();
    it.world.log.clear();
    it.world.die(it.receiver);
    assert_eq!(it.world.words(), [(it.poster, index, ConnectionState::Dead as u32)]);
    let error = Answer::Error(KernelError::NotCompleted(Why::Dead));
    assert_eq!(it.world.answer_to(waits), Some(error));
}

#[test]
fn revoking_ends_what_stands_and_what_is_open() {
    let mut it = parties();
    let (_, standing, waits) = it.standing();
    it.world.log.clear();
    it.world.ask(it.first, Request::Revoke { slot: it.notification });
    let revoked = ConnectionState::Revoked as u32;
    assert_eq!(it.world.words(), [(it.poster, standing, revoked)]);
    let error = Answer::Error(KernelError::NotCompleted(Why::Revoked));
    assert_eq!(it.world.answer_to(waits), Some(error));

    let mut it = parties();
    it.serve();
    let (connection, open, _) = it.standing();
    it.world.ask(it.receiver, mapped(connection));
    // The poster's own, in the first task's hand: minted from it, so that the receiver keeps its own.
    it.world.log.clear();
    let below = it.world.mint(it.poster, it.post, Rights::POST);
    let Answer::Connecting { connection: below_connection, .. } =
        it.world.ask(it.poster, stand(below))
    else {
        panic!()
    };
    it.world.send(it.poster, mapped(below_connection));
    it.world.ask(it.receiver, mapped(below_connection));
    it.world.log.clear();
    it.world.ask(it.poster, Request::Revoke { slot: it.post });
    let words = it.world.words();
    assert!(words.iter().all(|(_, index, word)| *index != open && *word == revoked), "{words:?}");
    assert_eq!(words.len(), 2, "both ends of the one made with what was derived");
}

#[test]
fn where_nobody_can_receive_any_more_a_poster_is_told_so() {
    let mut it = parties();
    let (_, index, waits) = it.standing();
    it.world.log.clear();
    it.world.ask(it.receiver, Request::Delete { slot: it.receive });
    assert_eq!(it.world.words(), []);
    it.world.ask(it.first, Request::Delete { slot: it.notification });
    assert_eq!(it.world.words(), [(it.poster, index, ConnectionState::Dead as u32)]);
    let error = Answer::Error(KernelError::NotCompleted(Why::Dead));
    assert_eq!(it.world.answer_to(waits), Some(error));
    assert_eq!(it.world.fail(it.poster, stand(it.post)), KernelError::Dead);
}

#[test]
fn whoever_watches_a_notification_hears_of_its_receivers() {
    let mut it = parties();
    it.world.ask(it.poster, Request::Watch { slot: it.post });
    let fates = |it: &mut Parties| -> Vec<Fate> {
        let events = it.world.events(it.poster).into_iter();
        events
            .map(|event| match event {
                Event::Watched { what, .. } => what,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(fates(&mut it), [Fate::Died { generation: 0 }], "nobody receives yet");
    it.serve();
    assert_eq!(fates(&mut it), [Fate::Restarted { generation: 1 }]);
    it.world.die(it.receiver);
    assert_eq!(fates(&mut it), [Fate::Died { generation: 1 }]);
    it.world.ask(it.first, Request::Delete { slot: it.notification });
    assert_eq!(fates(&mut it), [Fate::Gone]);
}

#[test]
fn the_receiver_hears_when_nobody_can_post_any_more() {
    let mut it = parties();
    it.serve();
    it.world.ask(it.first, Request::Delete { slot: it.notification });
    assert_eq!(it.world.events(it.receiver), []);
    it.world.die(it.poster);
    assert!(matches!(it.world.events(it.receiver).as_slice(), [Event::NoSenders { .. }]));
}

#[test]
fn only_the_smallest_segments_and_no_interface() {
    let mut it = parties();
    let error = it.world.fail(it.poster, connect(it.post));
    assert!(matches!(error, KernelError::BadValue { value: 32, .. }), "{error}");
    let interface = Some(rendez_protocol::Interface::new("x", rendez_protocol::Version::new(1, 0)));
    let Request::Connect { slot, requests, replies, doorbell, .. } = stand(it.post) else {
        unreachable!()
    };
    let request = Request::Connect { slot, interface, requests, replies, doorbell };
    assert!(matches!(it.world.fail(it.poster, request), KernelError::Order(_)));
}

#[test]
fn a_dead_poster_leaves_nothing_standing() {
    let mut it = parties();
    it.standing();
    it.standing();
    it.world.die(it.poster);
    it.serve();
    assert_eq!(it.incoming(), None);
}

#[test]
fn a_poster_can_give_up_while_it_stands() {
    for way in 0..2 {
        let mut it = parties();
        let (connection, _, waits) = it.standing();
        if way == 0 {
            it.world.send(it.poster, Request::Cancel { transaction: waits });
            assert_eq!(it.world.answer_to(waits), Some(Answer::Error(KernelError::Cancelled)));
        } else {
            let why = Why::Closed;
            let done = it.world.ask(it.poster, Request::Disconnect { connection, why });
            assert_eq!(done, Answer::Done);
        }
        it.serve();
        assert_eq!(it.incoming(), None, "way {way}");
    }
}

#[test]
fn quotas_of_notifications_and_of_those_who_wait_for_a_receiver() {
    let quotas = Quotas { notifications: 2, parked: 1, ..Quotas::default() };
    let mut it = parties_with(quotas);
    it.world.ask(it.first, Request::CreateNotification);
    let error = it.world.fail(it.first, Request::CreateNotification);
    assert!(matches!(error, KernelError::Quota { limit: 2, .. }), "{error}");
    it.standing();
    let error = it.world.fail(it.poster, stand(it.post));
    assert!(matches!(error, KernelError::Quota { limit: 1, .. }), "{error}");
    // Endpoints are counted by themselves.
    it.world.endpoint(it.first);
}

#[test]
fn a_receiver_that_has_no_room_costs_the_poster_its_connection() {
    let quotas = Quotas { connections_to_one_server: 1, ..Quotas::default() };
    let mut it = parties_with(quotas);
    it.serve();
    let (first, ..) = it.standing();
    it.world.ask(it.receiver, mapped(first));
    it.world.log.clear();
    let (_, index, waits) = it.standing();
    let error = Answer::Error(KernelError::NotCompleted(Why::Quota));
    assert_eq!(it.world.answer_to(waits), Some(error));
    let words = it.world.words();
    assert_eq!(words.last(), Some(&(it.poster, index, ConnectionState::Quota as u32)));
}

#[test]
fn who_stops_receiving_makes_room_for_the_next_and_keeps_its_connections() {
    let mut it = parties();
    it.serve();
    let (connection, index, _) = it.standing();
    it.world.ask(it.receiver, mapped(connection));
    it.world.log.clear();
    let done = it.world.ask(it.receiver, Request::StopReceiving { slot: it.receive });
    assert_eq!((done, it.world.words()), (Answer::Done, vec![]));
    let (_, other, waits) = it.standing();
    assert_ne!(index, other);
    assert_eq!(it.world.answer_to(waits), None);
    assert_eq!(it.world.serve(it.first, it.notification), 2);
    let slot = it.receive;
    assert_eq!(it.world.ask(it.receiver, Request::StopReceiving { slot }), Answer::Done);
    assert_eq!(
        it.world.fail(it.receiver, Request::Serve { slot, interface: None }),
        KernelError::Served(it.first),
        "it was not the receiver any more"
    );
}

#[test]
fn a_receiver_is_told_of_a_few_posters_at_a_time() {
    let mut it = parties();
    let standing: Vec<_> = (0..40).map(|_| it.standing()).collect();
    it.serve();
    let mut open = 0;
    loop {
        let told = it.world.events(it.receiver);
        if told.is_empty() {
            break;
        }
        assert!(told.len() <= 16, "{}", told.len());
        for event in told {
            let Event::Incoming { connection, .. } = event else { panic!("{event:?}") };
            it.world.ask(it.receiver, mapped(connection));
            open += 1;
        }
    }
    assert_eq!(open, standing.len());
    let answered = |(.., waits): &(_, _, u64)| it.world.answer_to(*waits);
    assert!(standing.iter().map(answered).all(|it| matches!(it, Some(Answer::Connected { .. }))));
}

#[test]
fn who_never_takes_posters_in_keeps_none_from_the_next_receiver() {
    let mut it = parties();
    let standing: Vec<_> = (0..20).map(|_| it.standing()).collect();
    it.serve();
    assert_eq!(it.world.events(it.receiver).len(), 16);
    it.world.ask(it.receiver, Request::StopReceiving { slot: it.receive });
    it.world.serve(it.first, it.notification);
    assert_eq!(it.world.events(it.first).len(), 4);
    // And one that dies takes those with it that it had been told of, and no others.
    it.world.die(it.receiver);
    it.world.work();
    let open = standing.iter().filter(|(id, ..)| it.world.machine.connections.get(*id).is_some());
    assert_eq!(open.count(), 4);
}

#[test]
fn a_revocation_waits_for_no_receiver_of_bits() {
    let mut it = parties();
    it.serve();
    let (connection, ..) = it.standing();
    it.world.ask(it.receiver, mapped(connection));
    let own = it.world.mint(it.first, it.notification, Rights::POST | Rights::MINT | Rights::GRANT);
    let (poster, _, post) = it.world.spawn(it.first, vec![give(own, Rights::POST)]);
    let Answer::Connecting { connection, .. } = it.world.ask(poster, stand(post[0])) else {
        panic!("not connecting");
    };
    it.world.send(poster, mapped(connection));
    it.world.ask(it.receiver, mapped(connection));
    let transaction = it.world.send(it.first, Request::Revoke { slot: own });
    assert_eq!(it.world.answer_to(transaction), Some(super::revoked(1, 1)));
}
