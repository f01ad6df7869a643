//! As much of everything as one task may have, and then more: refused, to nobody's harm.

use crate::attacker::{Hostile, over_quota};
use crate::common::raise_descriptor_limit;
use crate::common::raw::{RawTask, mint, offer};
use rendez::protocol::kernel::{
    Answer, Doorbell, Hello, KernelError, RegionKind, Request, Shape, Travel,
};
use rendez::protocol::limit::{AREA_BYTES_MAX, RING_LINES_MAX};
use rendez::{Rights, Slot, Why};

/// Far more than any quota.
const MANY: usize = 60_000;

/// Asks the same again and again until it is refused as over quota; how often it was not.
pub(crate) fn exhaust(
    hostile: &mut Hostile,
    mut request: impl FnMut(&mut Hostile) -> Request,
) -> usize {
    let mut kept = Vec::new();
    for number in 0..MANY {
        let request = request(hostile);
        match hostile.task.ask(&request) {
            (Answer::Error(error), _) => {
                over_quota(&error);
                // A quota stays one.
                over_quota(&hostile.task.refused(&request));
                return number;
            }
            (_, descriptors) => kept.extend(descriptors),
        }
    }
    panic!("without end");
}

fn endpoint_with(hostile: &mut Hostile, rights: Rights) -> Slot {
    let slot = hostile.task.endpoint().slot;
    match hostile.task.ask(&mint(slot, rights, None)).0 {
        Answer::Slot(minted) => minted.slot,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn capabilities_without_end(hostile: &mut Hostile) {
    let rights = Rights::SEND | Rights::MINT;
    let slot = endpoint_with(hostile, rights);
    let held = exhaust(hostile, |_| mint(slot, rights, None));
    assert!(held > 100);
    // And has room for one more, so that it can show to be a task still.
    hostile.task.ask(&Request::Revoke { slot });
}

pub(crate) fn endpoints_without_end(hostile: &mut Hostile) {
    let mut last = None;
    loop {
        match hostile.task.ask(&Request::CreateEndpoint).0 {
            Answer::Slot(one) => last = Some(one.slot),
            Answer::Error(error) => break over_quota(&error),
            other => panic!("{other:?}"),
        }
    }
    hostile.task.ask(&Request::Delete { slot: last.unwrap() });
}

pub(crate) fn tasks_without_end(hostile: &mut Hostile) {
    raise_descriptor_limit();
    exhaust(hostile, |_| Request::CreateTask {
        name: "child".into(),
        give: vec![],
        quotas: vec![],
    });
}

pub(crate) fn tasks_of_tasks_without_end(hostile: &mut Hostile) {
    raise_descriptor_limit();
    // Each a child of the one before, and all of them this process.
    let mut line: Vec<RawTask> = Vec::new();
    let refused = loop {
        let parent = line.last_mut().unwrap_or(&mut hostile.task);
        let request =
            Request::CreateTask { name: "descendant".into(), give: vec![], quotas: vec![] };
        match parent.ask(&request) {
            (Answer::Task { .. }, mut sockets) => {
                let child = RawTask::greet(sockets.pop().unwrap(), Hello::OURS).unwrap();
                line.push(child);
            }
            (Answer::Error(error), _) => break error,
            other => panic!("{other:?}"),
        }
        assert!(line.len() < 20_000, "without end");
    };
    over_quota(&refused);
    assert!(line.len() > 10);
    std::mem::forget(line);
}

pub(crate) fn regions_without_end(hostile: &mut Hostile) {
    raise_descriptor_limit();
    exhaust(hostile, |_| Request::CreateRegion { bytes: 4096, kind: RegionKind::Shared });
}

pub(crate) fn bytes_of_regions_without_end(hostile: &mut Hostile) {
    exhaust(hostile, |_| Request::CreateRegion { bytes: 1 << 30, kind: RegionKind::Shared });
}

pub(crate) fn spares_without_end(hostile: &mut Hostile) {
    let shape = Shape::default();
    exhaust(hostile, |_| Request::Spare { shape });
}

pub(crate) fn tickets_without_end(hostile: &mut Hostile) {
    let slot = hostile.task.endpoint().slot;
    let connection = hostile.connect().id;
    exhaust(hostile, |_| offer(connection, slot, Rights::SEND, Travel::Mint));
}

pub(crate) fn watches_without_end(hostile: &mut Hostile) {
    let rights = Rights::WATCH | Rights::MINT;
    let slot = endpoint_with(hostile, rights);
    for _ in 0..MANY {
        let minted = match hostile.task.ask(&mint(slot, rights, None)).0 {
            Answer::Slot(minted) => minted.slot,
            other => panic!("{other:?}"),
        };
        match hostile.task.ask(&Request::Watch { slot: minted }).0 {
            Answer::Done => {}
            Answer::Error(error) => return over_quota(&error),
            other => panic!("{other:?}"),
        }
    }
    panic!("without end");
}

pub(crate) fn arenas_without_end(hostile: &mut Hostile) {
    let connection = hostile.connect().id;
    exhaust(hostile, |_| Request::Attach { connection, requests: 4096, replies: 0 });
}

pub(crate) fn segments_as_large_as_can_be(hostile: &mut Hostile) {
    raise_descriptor_limit();
    let slot = hostile.victim();
    let shape = Shape { lines: RING_LINES_MAX, area_bytes: AREA_BYTES_MAX };
    exhaust(hostile, |_| Request::Connect {
        slot,
        interface: None,
        requests: shape,
        replies: shape,
        doorbell: Doorbell::Futex,
    });
}

pub(crate) fn connections_without_end(hostile: &mut Hostile) {
    raise_descriptor_limit();
    let slot = hostile.victim();
    let mut kept = Vec::new();
    for _ in 0..MANY {
        match hostile.task.try_connect(slot) {
            Ok(connection) => kept.push(connection),
            Err(KernelError::Quota { .. } | KernelError::NotCompleted(Why::Quota)) => {
                assert!(kept.len() > 10);
                return std::mem::forget(kept);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("without end");
}

pub(crate) fn connects_that_wait_without_end(hostile: &mut Hostile) {
    // To an endpoint of its own that nobody serves.
    let slot = hostile.task.endpoint().slot;
    let shape = Shape::default();
    let connect = Request::Connect {
        slot,
        interface: None,
        requests: shape,
        replies: shape,
        doorbell: Doorbell::Futex,
    };
    let mut waiting = 0;
    loop {
        let transaction = hostile.task.send(&connect);
        let probe = hostile.task.send(&Request::Inspect { slot });
        let frame = crate::common::raw::next(&hostile.task.socket).unwrap();
        if frame.transaction == transaction {
            // What has come for the probe is read as any answer is.
            assert!(matches!(hostile.task.answer(probe).0, Answer::Inspected(_)));
            break;
        }
        assert_eq!(frame.transaction, probe);
        waiting += 1;
        assert!(waiting < MANY, "without end");
    }
    assert!(waiting > 10, "{waiting}");
}
