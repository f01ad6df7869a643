//! Authority that it does not have, and that goes while it is used.

use crate::attacker::{Hostile, honest, over_quota};
use crate::common::raw::{Memory, mint, offer, request};
use crate::victim::{ACCEPT, KEEP};
use rendez::protocol::injection::{Action, Injection, InjectionId, Phase};
use rendez::protocol::kernel::{Answer, Doorbell, Hold, KernelError, Request, Shape, Travel};
use rendez::protocol::waits::Look;
use rendez::protocol::{ConnectionId, TaskId, encode};
use rendez::{Rights, Slot, Status};
use rustix::process::Signal;

pub(crate) fn where_others_came_from(hostile: &mut Hostile) {
    let slots: Vec<Slot> = hostile.task.given.iter().map(|given| given.capability.slot).collect();
    for slot in slots {
        // It holds INSPECT on none of them.
        let refused = hostile.task.refused(&Request::Provenance { slot, of: None });
        assert!(matches!(refused, KernelError::MissingRights { .. }), "{refused:?}");
        for index in 0..20 {
            let task = TaskId { index, generation: 0 };
            let of = Some((task, Slot { index: 1, generation: 0 }));
            hostile.task.refused(&Request::Provenance { slot, of });
            let own = hostile.task.own.slot;
            hostile.task.refused(&Request::Provenance { slot: own, of });
        }
    }
}

pub(crate) fn faults_in_others(hostile: &mut Hostile) {
    let own = hostile.task.own.slot;
    let injection = Injection { phase: Phase::Now, nth: 1, action: Action::Kill };
    let given: Vec<Slot> = hostile.task.given.iter().map(|given| given.capability.slot).collect();
    for index in 0..20 {
        let other = TaskId { index, generation: 0 };
        if other == hostile.task.id {
            continue;
        }
        for slot in given.iter().copied().chain([own]) {
            let task = Some(other);
            for request in [
                Request::Inject { slot, task, injection },
                Request::Injections { slot, task },
                Request::CancelInjection { slot, task, id: InjectionId(1) },
            ] {
                hostile.task.refused(&request);
            }
        }
    }
    for slot in given {
        hostile.task.refused(&Request::Inject { slot, task: None, injection });
    }
    for number in 0..100 {
        hostile.task.refused(&Request::Struck { id: InjectionId(number) });
    }
}

pub(crate) fn what_others_hold(hostile: &mut Hostile) {
    let own = hostile.task.own.slot;
    let given: Vec<Slot> = hostile.task.given.iter().map(|given| given.capability.slot).collect();
    for slot in given.into_iter().chain([own]) {
        for index in 0..20 {
            let task = TaskId { index, generation: 0 };
            if task == hostile.task.id {
                continue;
            }
            for request in [
                Request::Quotas { slot, task },
                Request::Held { slot, task, from: 0 },
                Request::Ends { slot, task, from: 0 },
                Request::Page { slot, task },
                Request::List { slot, from: index },
                Request::Waits { slot, after: Some(task) },
                Request::Capabilities { slot, after: Some((task, slot)) },
                Request::Endpoints { slot, after: None },
            ] {
                hostile.task.refused(&request);
            }
        }
    }
}

pub(crate) fn circles_that_are_none(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    connection.publish(request(KEEP, 64), b"never answered");
    for number in 0..3000 {
        let asked = if number % 2 == 0 {
            connection.id
        } else {
            ConnectionId { index: number, generation: 0 }
        };
        let look = Request::LookForCircle { connection: asked, transaction: u64::from(number / 9) };
        match hostile.task.ask(&look).0 {
            Answer::Error(_) | Answer::Circle(Look::Nothing | Look::Suspected) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn receivers_of_others(hostile: &mut Hostile) {
    for name in ["victim", "handed", "bell"] {
        let slot = hostile.task.given(name).slot;
        for hold in [Hold::Fail, Hold::Wait { connects: 0, milliseconds: 0 }] {
            hostile.task.refused(&Request::Hold { slot, hold });
        }
        hostile.task.ask(&Request::StopReceiving { slot });
    }
}

/// A capability derived from the one to the victim.
fn derived(hostile: &mut Hostile, rights: Rights) -> Slot {
    let from = hostile.task.given("handed").slot;
    match hostile.task.ask(&mint(from, rights, None)).0 {
        Answer::Slot(minted) => minted.slot,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn connects_and_revokes_at_once(hostile: &mut Hostile) {
    let from = hostile.task.given("handed").slot;
    let (shape, doorbell) = (Shape::default(), Doorbell::Futex);
    for number in 0..200 {
        let slot = derived(hostile, Rights::SEND);
        let connect =
            Request::Connect { slot, interface: None, requests: shape, replies: shape, doorbell };
        let connects = hostile.task.send(&connect);
        if number % 2 == 0 {
            let revokes = hostile.task.send(&Request::Revoke { slot: from });
            let (answer, files) = hostile.task.answer(connects);
            if let Answer::Connecting { connection, .. } = answer {
                let _own = Memory::own(&files[0], shape);
                hostile.task.ask(&Request::Mapped { connection, doorbell });
            }
            let (answer, _) = hostile.task.answer(revokes);
            assert!(matches!(answer, Answer::Revoked { .. }), "{answer:?}");
        } else {
            let (Answer::Connecting { connection, .. }, files) = hostile.task.answer(connects)
            else {
                panic!()
            };
            let _own = Memory::own(&files[0], shape);
            let mapped = hostile.task.send(&Request::Mapped { connection, doorbell });
            let revokes = hostile.task.send(&Request::Revoke { slot: from });
            hostile.task.answer(mapped);
            let (answer, _) = hostile.task.answer(revokes);
            assert!(matches!(answer, Answer::Revoked { .. }), "{answer:?}");
        }
        // Of what was revoked nothing can be used.
        let gone = hostile.task.refused(&Request::Inspect { slot });
        assert_eq!(gone, KernelError::BadSlot(slot));
    }
}

pub(crate) fn offer_revoked_before_it_is_accepted(hostile: &mut Hostile) {
    let mut connection = hostile.connect();
    for travel in [Travel::Mint, Travel::Move] {
        let slot = derived(hostile, Rights::SEND | Rights::GRANT | Rights::MINT);
        let offered = offer(connection.id, slot, Rights::SEND, travel);
        // To be moved is all of it.
        let offered = match travel {
            Travel::Mint => offered,
            Travel::Move => {
                let all = Rights::SEND | Rights::GRANT | Rights::MINT;
                offer(connection.id, slot, all, travel)
            }
        };
        let Answer::Ticket(ticket) = hostile.task.ask(&offered).0 else { panic!() };
        let from = hostile.task.given("handed").slot;
        let (answer, _) = hostile.task.ask(&Request::Revoke { slot: from });
        assert!(matches!(answer, Answer::Revoked { .. }), "{answer:?}");
        let position = connection.publish(request(ACCEPT, 200), &encode(&ticket));
        assert_eq!(connection.reply(position), Status::DENIED.0, "{travel:?}");
        connection.own.store(crate::common::raw::at::FREED, position + 1);
    }
    honest(&mut connection, 1);
}

pub(crate) fn revocations_without_end(hostile: &mut Hostile) {
    let first = hostile.task.endpoint();
    let slot = first.slot;
    let mut last = 0;
    for number in 0..300 {
        for _ in 0..10 {
            hostile.task.send(&mint(slot, first.rights, None));
        }
        last = hostile.task.send(&Request::Revoke { slot });
        if number % 10 == 9 {
            hostile.task.answer(last);
        }
    }
    let _ = last;
}

pub(crate) fn dies_while_it_revokes(hostile: &mut Hostile) {
    let first = hostile.task.endpoint();
    for _ in 0..3000 {
        hostile.task.ask(&mint(first.slot, first.rights, None));
    }
    hostile.task.send(&Request::Revoke { slot: first.slot });
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

pub(crate) fn a_hold_without_end(hostile: &mut Hostile) {
    let slot = hostile.task.endpoint().slot;
    let hold = Hold::Wait { connects: u32::MAX, milliseconds: u32::MAX };
    hostile.task.ask(&Request::Hold { slot, hold });
    let shape = Shape::default();
    let connect = Request::Connect {
        slot,
        interface: None,
        requests: shape,
        replies: shape,
        doorbell: Doorbell::Futex,
    };
    for waiting in 0..60_000 {
        let transaction = hostile.task.send(&connect);
        let probe = hostile.task.send(&Request::Inspect { slot });
        // What waits is not answered; what is refused is, before the probe.
        let frame = crate::common::raw::next(&hostile.task.socket).unwrap();
        if frame.transaction == transaction {
            let answer = rendez::protocol::decode(&frame.payload).unwrap();
            let Answer::Error(error) = answer else { panic!("{answer:?}") };
            assert!(waiting > 10);
            hostile.task.answer(probe);
            return match error {
                KernelError::Quota { .. } => over_quota(&error),
                other => assert!(matches!(other, KernelError::Dead), "{other:?}"),
            };
        }
        assert_eq!(frame.transaction, probe);
    }
    panic!("without end");
}
