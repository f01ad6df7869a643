//! Requests to the kernel about what is not one's own, or not there, or not yet.

use crate::attacker::{Hostile, honest, reply_to};
use crate::common::Random;
use crate::common::raw::{self, mint, request};
use crate::victim::ACCEPT;
use rendez::protocol::kernel::{
    Answer, DoorRule, Doorbell, Give, Hold, KernelError, Limits, Request, Shape, Travel, frame,
};
use rendez::protocol::{ArenaId, ConnectionId, SpareId, TaskId, Ticket, encode};
use rendez::{Rights, Slot, Status, Why};
use rendez_ipc_core::control::{Mode, send_frame};

fn give(slot: Slot, rights: Rights) -> Vec<Give> {
    vec![Give { name: "x".into(), slot, rights, badge: None, limits: Limits::SAME }]
}

/// What can be asked about a slot.
fn about(slot: Slot) -> Vec<Request> {
    let shape = Shape::default();
    vec![
        mint(slot, Rights::SEND, None),
        Request::Move { slot },
        Request::Delete { slot },
        Request::Revoke { slot },
        Request::Inspect { slot },
        Request::Watch { slot },
        Request::Serve { slot, interface: None },
        Request::Kill { slot, signal: 9 },
        Request::List { slot, from: 0 },
        Request::Page { slot, task: TaskId { index: 1, generation: 0 } },
        Request::FrontDoor {
            slot,
            rules: vec![DoorRule { uid: None, give: give(slot, Rights::all()), quotas: vec![] }],
        },
        Request::CreateTask {
            name: "child".into(),
            give: give(slot, Rights::all()),
            quotas: vec![],
        },
        Request::MapRegion { slot, write: true },
        Request::RegionSealed { slot },
        Request::Hold { slot, hold: Hold::Fail },
        Request::Provenance { slot, of: None },
        Request::Provenance { slot, of: Some((TaskId { index: 1, generation: 0 }, slot)) },
        Request::Connect {
            slot,
            interface: None,
            requests: shape,
            replies: shape,
            doorbell: Doorbell::Futex,
        },
    ]
}

pub(crate) fn forged_slots(hostile: &mut Hostile) {
    let mut random = Random::of(4);
    for _ in 0..100 {
        // Beyond those that it has.
        let index = 50 + random.below(u64::from(u32::MAX) - 50) as u32;
        let slot = Slot { index, generation: random.below(3) as u32 };
        for request in about(slot) {
            assert_eq!(hostile.task.refused(&request), KernelError::BadSlot(slot), "{request:?}");
        }
    }
}

pub(crate) fn every_slot_there_may_be(hostile: &mut Hostile) {
    let given: Vec<Slot> = hostile.task.given.iter().map(|given| given.capability.slot).collect();
    let own = hostile.task.own.slot;
    for index in 0..300 {
        for generation in 0..5 {
            let slot = Slot { index, generation };
            let (answer, _) = hostile.task.ask(&Request::Inspect { slot });
            let its = slot == own || given.contains(&slot);
            assert_eq!(matches!(answer, Answer::Inspected(_)), its, "{slot:?}: {answer:?}");
        }
    }
}

pub(crate) fn stale_slots(hostile: &mut Hostile) {
    for _ in 0..50 {
        let first = hostile.task.endpoint().slot;
        let Answer::Slot(moved) = hostile.task.ask(&Request::Move { slot: first }).0 else {
            panic!()
        };
        assert_eq!(hostile.task.ask(&Request::Delete { slot: moved.slot }).0, Answer::Done);
        // Its place is another's now.
        hostile.task.endpoint();
        for slot in [first, moved.slot] {
            for request in about(slot) {
                assert_eq!(hostile.task.refused(&request), KernelError::BadSlot(slot));
            }
        }
    }
}

pub(crate) fn rights_that_it_lacks(hostile: &mut Hostile) {
    // It holds SEND and WATCH.
    let slot = hostile.victim();
    let lacking = |request: &Request, hostile: &mut Hostile| {
        let refused = hostile.task.refused(request);
        assert!(
            matches!(
                refused,
                KernelError::MissingRights { .. }
                    | KernelError::WrongObject { .. }
                    | KernelError::Denied(_)
            ),
            "{request:?}: {refused:?}"
        );
    };
    for request in about(slot) {
        let allowed = matches!(
            request,
            Request::Move { .. }
                | Request::Delete { .. }
                | Request::Revoke { .. }
                | Request::Inspect { .. }
                | Request::Watch { .. }
                | Request::Connect { .. }
        );
        if !allowed {
            lacking(&request, hostile);
        }
    }
    for rights in [Rights::all(), Rights::RECEIVE, Rights::SEND | Rights::GRANT] {
        lacking(&mint(slot, rights, Some(7)), hostile);
    }
    let connection = hostile.connect();
    for travel in [Travel::Mint, Travel::Move] {
        let offer = raw::offer(connection.id, slot, Rights::SEND, travel);
        lacking(&offer, hostile);
    }
    // What it may do with itself gives it nothing of others.
    let own = hostile.task.own.slot;
    lacking(&Request::List { slot: own, from: 0 }, hostile);
    lacking(&Request::Serve { slot: own, interface: None }, hostile);
}

pub(crate) fn more_rights_than_it_holds(hostile: &mut Hostile) {
    let slot = hostile.task.endpoint().slot;
    let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
    let Answer::Slot(lesser) = hostile.task.ask(&mint(slot, rights, None)).0 else { panic!() };
    let slot = lesser.slot;
    for more in [Rights::RECEIVE, Rights::all(), rights | Rights::MANAGE, Rights::POST] {
        let mint = mint(slot, more, None);
        let refused = hostile.task.refused(&mint);
        assert!(matches!(refused, KernelError::MissingRights { .. }), "{refused:?}");
        let create =
            Request::CreateTask { name: "child".into(), give: give(slot, more), quotas: vec![] };
        let refused = hostile.task.refused(&create);
        assert!(matches!(refused, KernelError::MissingRights { .. }), "{refused:?}");
    }
    // A badge is given once.
    let badged = mint(slot, rights, Some(7));
    let Answer::Slot(badged) = hostile.task.ask(&badged).0 else { panic!() };
    let again = mint(badged.slot, rights, Some(8));
    let refused = hostile.task.refused(&again);
    assert!(matches!(refused, KernelError::Badged { badge: 7, .. }), "{refused:?}");
}

pub(crate) fn connections_of_others(hostile: &mut Hostile) {
    for index in 0..200 {
        for generation in 0..10 {
            let connection = ConnectionId { index, generation };
            let arena = ArenaId(1);
            for request in [
                Request::Disconnect { connection, why: Why::Revoked },
                Request::Mapped { connection, doorbell: Doorbell::Event },
                Request::Accept { connection, ticket: Ticket(1) },
                Request::Offer { connection, items: vec![] },
                Request::Attach { connection, requests: 4096, replies: 4096 },
                Request::ArenaMapped { connection, arena },
                Request::Detach { connection, arena },
            ] {
                hostile.task.refused(&request);
            }
        }
    }
}

pub(crate) fn tickets_guessed(hostile: &mut Hostile) {
    let connection = hostile.connect().id;
    for number in (0..3000).chain([u64::MAX, u64::MAX / 2]) {
        let ticket = Ticket(number);
        let refused = hostile.task.refused(&Request::Accept { connection, ticket });
        assert_eq!(refused, KernelError::BadTicket);
    }
}

/// Offers the victim a capability of the attacker's own.
fn offer(hostile: &mut Hostile, connection: ConnectionId) -> Ticket {
    let slot = hostile.task.endpoint().slot;
    match hostile.task.ask(&raw::offer(connection, slot, Rights::SEND, Travel::Mint)).0 {
        Answer::Ticket(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn ticket_replayed(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    let ticket = offer(hostile, connection.id);
    let statuses: Vec<u16> = (0..3)
        .map(|_| {
            let position = connection.publish(request(ACCEPT, 200), &encode(&ticket));
            connection.reply(position)
        })
        .collect();
    assert_eq!(statuses, [Status::OK.0, Status::DENIED.0, Status::DENIED.0]);
    honest(&mut connection, 1);
}

pub(crate) fn ticket_of_another_connection(hostile: &mut Hostile) {
    let first = hostile.connect();
    let mut second = hostile.connect();
    let ticket = offer(hostile, first.id);
    let position = second.publish(request(ACCEPT, 200), &encode(&ticket));
    assert_eq!(second.reply(position), Status::DENIED.0);
    honest(&mut second, 1);
}

pub(crate) fn ticket_taken_by_who_offered_it(hostile: &mut Hostile) {
    let connection = hostile.connect();
    let ticket = offer(hostile, connection.id);
    let refused = hostile.task.refused(&Request::Accept { connection: connection.id, ticket });
    assert_eq!(refused, KernelError::BadTicket);
}

pub(crate) fn steps_out_of_order(hostile: &mut Hostile) {
    let connection = hostile.connect().id;
    for request in [
        Request::SpareMapped { spare: SpareId(1), doorbell: Doorbell::Event },
        Request::DropSpare { spare: SpareId(77) },
        Request::ArenaMapped { connection, arena: ArenaId(1) },
        Request::Detach { connection, arena: ArenaId(9) },
        Request::Attach { connection, requests: 5, replies: 0 },
        Request::Attach { connection, requests: 0, replies: 4096 },
        Request::Attach { connection, requests: u32::MAX, replies: u32::MAX },
        Request::CreateRegion {
            bytes: u64::MAX,
            kind: rendez::protocol::kernel::RegionKind::Shared,
        },
        Request::Spare { shape: Shape { lines: 3, area_bytes: 0 } },
        Request::Offer { connection, items: vec![] },
        Request::CreateTask { name: "n".repeat(60_000), give: vec![], quotas: vec![] },
    ] {
        hostile.task.refused(&request);
    }
    let own = hostile.task.own.slot;
    for signal in [-1, 65, i32::MAX, i32::MIN] {
        hostile.task.refused(&Request::Kill { slot: own, signal });
    }
}

pub(crate) fn cancels_of_what_never_was(hostile: &mut Hostile) {
    for transaction in 0..5000 {
        hostile.task.send(&Request::Cancel { transaction: transaction * 7 });
    }
    hostile.task.endpoint();
}

pub(crate) fn requests_that_are_none(hostile: &mut Hostile) {
    let mut random = Random::seeded();
    let mut asked = 0;
    for transaction in 0..2000 {
        let length = random.below(60) as usize;
        let mut payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if let Some(first) = payload.first_mut() {
            // Of no request.
            *first |= 0x40;
        }
        let code =
            if random.below(4) == 0 { 100 + random.below(1000) as u16 } else { frame::REQUEST };
        let socket = &hostile.task.socket;
        send_frame(socket, 1 << 40 | transaction, code, &payload, &[], Mode::Wait).unwrap();
        let answer = raw::next(socket).expect("an answer");
        assert_eq!(answer.transaction, 1 << 40 | transaction);
        asked += 1;
    }
    assert_eq!(asked, 2000);
}

pub(crate) fn a_tree_of_capabilities_revoked(hostile: &mut Hostile) {
    const WIDE: u32 = 3000;
    let first = hostile.task.endpoint();
    let mut last = first;
    let mut deep = 0;
    let mint =
        |hostile: &mut Hostile, from: Slot| hostile.task.ask(&mint(from, first.rights, None));
    // As deep as it may, and from there as wide as it likes.
    loop {
        match mint(hostile, last.slot).0 {
            Answer::Slot(next) => (last, deep) = (next, deep + 1),
            Answer::Error(KernelError::Quota { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    let top = hostile.task.ask(&Request::Inspect { slot: first.slot }).0;
    assert!(matches!(top, Answer::Inspected(found) if found.descendants == deep), "{top:?}");
    hostile.task.ask(&Request::Delete { slot: last.slot });
    let again = hostile.task.ask(&Request::Inspect { slot: first.slot }).0;
    let Answer::Inspected(above) = again else { panic!("{again:?}") };
    assert_eq!(above.descendants, deep - 1);
    for _ in 0..WIDE {
        assert!(matches!(mint(hostile, first.slot).0, Answer::Slot(_)));
    }
    match hostile.task.ask(&Request::Revoke { slot: first.slot }).0 {
        Answer::Revoked { capabilities, .. } => assert_eq!(capabilities, deep - 1 + WIDE),
        other => panic!("{other:?}"),
    }
    let gone = hostile.task.refused(&Request::Inspect { slot: last.slot });
    assert_eq!(gone, KernelError::BadSlot(last.slot));
}

pub(crate) fn a_flood_of_requests_unread(hostile: &mut Hostile) {
    let payload = encode(&Request::Inspect { slot: Slot { index: 99, generation: 9 } });
    let mut asked = 0_u64;
    // Until neither direction has room.
    let mut full = 0;
    while full < 50 {
        let socket = &hostile.task.socket;
        match send_frame(socket, (1 << 41) + asked, frame::REQUEST, &payload, &[], Mode::Now) {
            Ok(()) => (asked, full) = (asked + 1, 0),
            Err(_) => {
                full += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
    assert!(asked > 100);
    // It reads after all, and every answer is there, in order.
    for transaction in 0..asked {
        let frame = raw::next(&hostile.task.socket).unwrap();
        assert_eq!(frame.transaction, (1 << 41) + transaction);
    }
}

pub(crate) fn connection_to_itself(hostile: &mut Hostile) {
    let endpoint = hostile.task.endpoint().slot;
    let serve = Request::Serve { slot: endpoint, interface: None };
    assert!(matches!(hostile.task.ask(&serve).0, Answer::Serving { .. }));
    let (connection, _, own) = hostile.task.begin_to_connect(endpoint).unwrap();
    let own = raw::Memory::own(&own, Shape::default());
    let mapped = Request::Mapped { connection, doorbell: Doorbell::Futex };
    let waits = hostile.task.send(&mapped);
    // The other end is its own, and has the same name.
    let served = hostile.task.take_in();
    assert_eq!(served.id, connection);
    let (answer, _) = hostile.task.answer(waits);
    assert!(matches!(answer, Answer::Connected { .. }), "{answer:?}");
    served.own.publish(0, reply_to(0), b"to whom it may concern");
    hostile.task.ask(&Request::Disconnect { connection, why: Why::Protocol });
    drop(own);
}
