//! Regions: memory as a capability.

use super::{Pair, World, give, offered, pair, revoked};
use crate::effect::{Attach, Effect};
use crate::machine::region::{READABLE, WRITABLE};
use crate::quota::Quotas;
use rendez_protocol::kernel::{Answer, KernelError, ObjectKind, RegionKind, Request, Travel};
use rendez_protocol::{ObjectId, Rights, Slot, TaskId, limit};

fn create(bytes: u64, kind: RegionKind) -> Request {
    Request::CreateRegion { bytes, kind }
}

fn map(slot: Slot, write: bool) -> Request {
    Request::MapRegion { slot, write }
}

/// A region of one page, and its identity.
fn region(world: &mut World, who: TaskId, kind: RegionKind) -> (Slot, ObjectId) {
    match world.ask(who, create(4096, kind)) {
        Answer::Region(received) => (received.slot, received.object),
        other => panic!("not made: {other:?}"),
    }
}

/// Has the shell see what it should.
fn ready(world: &mut World, who: TaskId, slot: Slot) {
    let transaction = world.send(who, Request::RegionSealed { slot });
    look(world, Ok(()));
    assert_eq!(world.answer_to(transaction), Some(Answer::Done));
}

/// Answers what the machine wants to be looked at.
fn look(world: &mut World, result: Result<(), KernelError>) {
    let is_it = |effect: &Effect| matches!(effect, Effect::CheckRegion { .. });
    let at = world.log.iter().position(is_it).expect("something to look at");
    let Effect::CheckRegion { to, transaction, region } = world.log.remove(at) else {
        unreachable!()
    };
    world.machine.region_looked_at(to, transaction, region, result, &mut world.log);
    world.machine.check();
}

#[test]
fn made_filled_mapped_and_gone() {
    for (kind, rights) in [
        (RegionKind::Sealed, READABLE),
        (RegionKind::Published, READABLE),
        (RegionKind::Shared, WRITABLE),
    ] {
        let (mut world, first, _) = World::started();
        let asked = world.send(first, create(8192, kind));
        let (answer, attach) = world.answer_with(asked).unwrap();
        let Answer::Region(received) = answer else { panic!("{answer:?}") };
        let (slot, id) = (received.slot, received.object);
        assert_eq!((received.kind, received.rights), (ObjectKind::Region, rights));
        assert_eq!(attach, [Attach::Region(id)]);
        assert_eq!(world.log, [Effect::MakeRegion { region: id, bytes: 8192, kind }]);
        world.log.clear();

        if kind != RegionKind::Shared {
            assert!(matches!(world.fail(first, map(slot, false)), KernelError::Order(_)));
            let transaction = world.send(first, Request::RegionSealed { slot });
            let hole = KernelError::Malformed("a hole".into());
            look(&mut world, Err(hole.clone()));
            assert_eq!(world.answer_to(transaction), Some(Answer::Error(hole)));
            assert!(matches!(world.fail(first, map(slot, false)), KernelError::Order(_)));
            ready(&mut world, first, slot);
        }
        // Said again, it needs no look.
        assert_eq!(world.ask(first, Request::RegionSealed { slot }), Answer::Done);
        let asked = world.send(first, map(slot, kind == RegionKind::Shared));
        let mapping = (Answer::Mapping { bytes: 8192, kind }, vec![Attach::Region(id)]);
        assert_eq!(world.answer_with(asked), Some(mapping));
        assert_eq!(world.log, []);

        let second = world.mint(first, slot, rights);
        world.ask(first, Request::Delete { slot });
        assert_eq!(world.log, [], "somebody can still name it");
        world.ask(first, Request::Delete { slot: second });
        assert_eq!(world.log, [Effect::ForgetRegion(id)]);
    }
}

#[test]
fn reading_and_writing_need_their_rights() {
    let (mut world, first, _) = World::started();
    for kind in [RegionKind::Sealed, RegionKind::Published] {
        let (slot, _) = region(&mut world, first, kind);
        ready(&mut world, first, slot);
        assert!(matches!(world.fail(first, map(slot, true)), KernelError::Denied(_)));
        let blind = world.mint(first, slot, Rights::INSPECT);
        let error = world.fail(first, map(blind, false));
        let missing = Rights::MAP_READ;
        let held = Rights::INSPECT;
        assert_eq!(error, KernelError::MissingRights { slot: blind, missing, held });
    }
    let (slot, _) = region(&mut world, first, RegionKind::Shared);
    // Whoever had the descriptor could write through it, so reading alone is not to be had.
    let reader = world.mint(first, slot, Rights::MAP_READ);
    for write in [false, true] {
        let error = world.fail(first, map(reader, write));
        let missing = Rights::MAP_WRITE;
        let held = Rights::MAP_READ;
        assert_eq!(error, KernelError::MissingRights { slot: reader, missing, held });
    }
    let writer = world.mint(first, slot, Rights::MAP_WRITE);
    assert!(matches!(world.ask(first, map(writer, true)), Answer::Mapping { .. }));
    assert!(matches!(world.fail(first, map(writer, false)), KernelError::MissingRights { .. }));
    // An endpoint is no region, nor the other way round.
    let endpoint = world.endpoint(first);
    for request in [map(endpoint, false), Request::RegionSealed { slot: endpoint }] {
        assert!(matches!(world.fail(first, request), KernelError::WrongObject { .. }));
    }
    let error = world.fail(first, Request::Serve { slot, interface: None });
    assert!(matches!(error, KernelError::WrongObject { .. }));
    let error = world.fail(first, Request::Watch { slot });
    assert!(matches!(error, KernelError::MissingRights { .. }), "it does not die: {error:?}");
}

#[test]
fn sizes_and_quotas_are_checked_and_named() {
    let quotas = Quotas { regions: 2, region_bytes: 16_384, ..Quotas::default() };
    let (mut world, first, _) = World::started_with(quotas);
    for bytes in [0, 4095, 5000, limit::REGION_BYTES_MAX + 4096, u64::MAX] {
        let error = world.fail(first, create(bytes, RegionKind::Sealed));
        assert!(matches!(error, KernelError::BadValue { value, .. } if value == bytes));
    }
    let error = world.fail(first, create(20_480, RegionKind::Sealed));
    assert!(matches!(error, KernelError::Quota { limit: 16_384, .. }));
    let slots = [(); 2].map(|()| region(&mut world, first, RegionKind::Sealed).0);
    let error = world.fail(first, create(4096, RegionKind::Sealed));
    assert!(matches!(error, KernelError::Quota { limit: 2, .. }));
    world.ask(first, Request::Delete { slot: slots[0] });
    assert!(matches!(world.ask(first, create(12_288, RegionKind::Sealed)), Answer::Region(_)));
}

#[test]
fn a_region_goes_where_any_capability_goes_and_outlives_its_maker() {
    let Pair { mut world, first, server, client, send, .. } = pair();
    let connection = world.connected(client, send, server);
    let (slot, id) = region(&mut world, client, RegionKind::Sealed);
    ready(&mut world, client, slot);
    let passed = Rights::MAP_READ | Rights::GRANT;
    for travel in [Travel::Mint, Travel::Move] {
        let ticket = world.offer(client, connection, vec![offered(slot, passed, travel)]);
        let received = world.accept(server, connection, ticket);
        let [received] = received.as_slice() else { panic!() };
        assert_eq!((received.object, received.rights), (id, passed));
        assert!(matches!(world.ask(server, map(received.slot, false)), Answer::Mapping { .. }));
    }
    assert_eq!(world.fail(client, map(slot, false)), KernelError::BadSlot(slot), "it was moved");
    let (shared, shared_id) = region(&mut world, first, RegionKind::Shared);
    let (child, _, given) = world.spawn(first, vec![give(shared, Rights::MAP_WRITE)]);
    assert!(matches!(world.ask(child, map(given[0], true)), Answer::Mapping { .. }));
    world.log.clear();
    world.die(client);
    assert!(!world.log.contains(&Effect::ForgetRegion(id)), "the server still has it");
    world.die(server);
    assert!(world.log.contains(&Effect::ForgetRegion(id)));
    // Revoked, it is mapped no more; whoever has it mapped keeps it.
    let answer = world.ask(first, Request::Revoke { slot: shared });
    assert_eq!(answer, revoked(1, 0));
    assert_eq!(world.fail(child, map(given[0], true)), KernelError::BadSlot(given[0]));
    world.die(first);
    assert!(world.log.contains(&Effect::ForgetRegion(shared_id)));
}

#[test]
fn what_cannot_be_made_is_taken_back() {
    let (mut world, first, _) = World::started();
    let (slot, id) = region(&mut world, first, RegionKind::Sealed);
    for _ in 0..2 {
        world.machine.take_back(first, slot, &mut world.log);
        world.machine.check();
    }
    assert_eq!(world.log.iter().filter(|it| **it == Effect::ForgetRegion(id)).count(), 1);
    // What the shell says late is about nothing.
    world.machine.region_looked_at(first, 99, id, Ok(()), &mut world.log);
    world.machine.check();
}
