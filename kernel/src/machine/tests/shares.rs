use super::{
    Answer, CREDENTIALS, Credentials, DoorRule, KernelError, Quotas, Request, Rights, Slot, TaskId,
    World, give, quota,
};
use rendez_protocol::quota::{Allotment, Holding, Quota, Use};

fn part(quota: Quota, amount: u64) -> Allotment {
    Allotment { quota, amount }
}

/// A child with parts of its own, greeted.
fn with_parts(world: &mut World, parent: TaskId, parts: Vec<Allotment>) -> (TaskId, Slot) {
    let request = Request::CreateTask { name: "child".into(), give: vec![], quotas: parts };
    let Answer::Task { capability, id } = world.ask(parent, request) else { panic!("no task") };
    world.hello(id);
    (id, capability.slot)
}

fn of(uses: &[Use], quota: Quota) -> &Use {
    uses.iter().find(|it| it.quota == quota).unwrap()
}

fn uses(world: &mut World, who: TaskId, slot: Slot, task: TaskId) -> Vec<Use> {
    match world.ask(who, Request::Quotas { slot, task }) {
        Answer::Quotas(uses) => uses,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_part_is_the_childs_alone_and_returns_with_it() {
    let (mut world, first, kernel) = World::started();
    let limit = of(&uses(&mut world, first, kernel, first), Quota::Endpoints).clone();
    let all = limit.share.unwrap().limit;
    let (child, slot) = with_parts(&mut world, first, vec![part(Quota::Endpoints, all - 1)]);
    // One is left for everybody else.
    world.endpoint(first);
    let error = world.fail(first, Request::CreateEndpoint);
    assert_eq!(quota(&error), ("endpoints of the system".into(), all));
    // Those who share the part draw on it too.
    let (grandchild, _) = with_parts(&mut world, child, vec![part(Quota::Capabilities, 9)]);
    let own = world.endpoint(grandchild);
    let seen = uses(&mut world, first, slot, child);
    let share = of(&seen, Quota::Endpoints).share.clone().unwrap();
    assert_eq!((share.used, share.limit), (1, all - 1));
    assert_eq!(of(&seen, Quota::Endpoints).used, 0, "it is the grandchild's");
    // The part is kept while somebody draws on it.
    world.die(child);
    let error = world.fail(first, Request::CreateEndpoint);
    assert!(matches!(error, KernelError::Quota { .. }));
    world.inspect(grandchild, own);
    world.die(grandchild);
    world.endpoint(first);
}

#[test]
fn what_was_made_stays_on_the_account_of_the_dead() {
    let (mut world, first, kernel) = World::started();
    let (child, _) = with_parts(&mut world, first, vec![part(Quota::Endpoints, 3)]);
    let own = world.endpoint(child);
    let heir = {
        let gift = vec![give(own, Rights::SEND)];
        let (heir, _) = world.embryo(child, gift);
        world.hello(heir);
        heir
    };
    let share = |world: &mut World| {
        let seen = uses(world, first, kernel, first);
        of(&seen, Quota::Endpoints).share.clone().unwrap().used
    };
    let before = share(&mut world);
    world.die(child);
    assert_eq!(share(&mut world), before, "the heir draws on it");
    world.die(heir);
    assert_eq!(share(&mut world), before - 3);
}

#[test]
fn a_refusal_names_who_has_most_as_far_as_the_asker_may_know() {
    let (mut world, first, _) = World::started();
    let parts = vec![part(Quota::Capabilities, 50)];
    let (middle, _) = with_parts(&mut world, first, parts);
    let (large, _) = with_parts(&mut world, middle, vec![part(Quota::Capabilities, 30)]);
    let (small, _) = with_parts(&mut world, middle, vec![]);
    world.endpoint(small);
    // Of its grandchildren it hears nothing.
    with_parts(&mut world, small, vec![part(Quota::Capabilities, 5)]);
    let endpoint = world.endpoint(middle);
    let error = loop {
        let mint = Request::Mint {
            slot: endpoint,
            rights: Rights::SEND,
            badge: None,
            limits: rendez_protocol::kernel::Limits::SAME,
        };
        if let Answer::Error(error) = world.ask(middle, mint) {
            break error;
        }
    };
    let KernelError::Quota { what, limit, used, holders } = error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), limit, used), ("capabilities of child (its own part)", 50, 50));
    let holder = |task, amount| Holding { task, name: "child".into(), amount };
    // 30 + 5 are set aside, the small one has three: itself, its child, an endpoint.
    assert_eq!(holders, [holder(large, 30), holder(middle, 12), holder(small, 3)]);
}

#[test]
fn a_uid_has_what_its_rule_says_and_no_more() {
    let (mut world, first, kernel) = World::started_with(Quotas::default());
    let quotas = vec![part(Quota::Tasks, 2), part(Quota::Capabilities, 40)];
    let rules = vec![
        DoorRule { uid: Some(7), give: vec![], quotas },
        DoorRule { uid: None, give: vec![], quotas: vec![] },
    ];
    world.ask(first, Request::FrontDoor { slot: kernel, rules });
    let seven = Credentials { uid: 7, ..CREDENTIALS };
    let enter = |world: &mut World, who| world.machine.admit("v", who, false, &mut world.log);
    let (one, _) = (enter(&mut world, seven).unwrap(), enter(&mut world, seven).unwrap());
    let error = enter(&mut world, seven).unwrap_err();
    assert_eq!(quota(&error), ("tasks of uid 7".into(), 2));
    // Others come in as before, and when one goes there is room again.
    enter(&mut world, CREDENTIALS).unwrap();
    world.die(one);
    enter(&mut world, seven).unwrap();
    let bad = DoorRule { uid: None, give: vec![], quotas: vec![part(Quota::Tickets, 1)] };
    let error = world.fail(first, Request::FrontDoor { slot: kernel, rules: vec![bad] });
    assert!(matches!(error, KernelError::Order(_)));
}

#[test]
fn whoever_may_inspect_sees_and_nobody_else() {
    let (mut world, first, kernel) = World::started();
    let (child, slot) = with_parts(&mut world, first, vec![]);
    let (other, _) = with_parts(&mut world, first, vec![]);
    let endpoint = world.endpoint(child);
    for slot in [slot, kernel] {
        let request = Request::Held { slot, task: child, from: 0 };
        let Answer::Held { capabilities, next } = world.ask(first, request) else { panic!() };
        assert_eq!((capabilities.len(), next), (2, None));
        assert!(capabilities.iter().any(|held| held.slot == endpoint));
        let request = Request::Ends { slot, task: child, from: 0 };
        assert_eq!(world.ask(first, request), Answer::Ends { ends: vec![], next: None });
    }
    for request in [
        Request::Held { slot, task: other, from: 0 },
        Request::Ends { slot, task: other, from: 0 },
        Request::Quotas { slot, task: other },
    ] {
        assert!(matches!(world.fail(first, request), KernelError::Denied(_)));
    }
    world.die(child);
    let dead = world.fail(first, Request::Quotas { slot: kernel, task: child });
    assert!(matches!(dead, KernelError::Order(_)));
}

#[test]
fn long_lists_come_in_pages() {
    let (mut world, first, kernel) = World::started();
    let endpoint = world.endpoint(first);
    for _ in 0..600 {
        world.mint(first, endpoint, Rights::SEND);
    }
    let (mut from, mut seen, mut pages) = (Some(0), Vec::new(), 0);
    while let Some(place) = from {
        let request = Request::Held { slot: kernel, task: first, from: place };
        let Answer::Held { capabilities, next } = world.ask(first, request) else { panic!() };
        seen.extend(capabilities.into_iter().map(|held| held.slot));
        (from, pages) = (next, pages + 1);
    }
    assert_eq!((seen.len(), pages), (603, 3));
    assert!(seen.is_sorted());
}

#[test]
fn a_task_is_not_half_made_for_lack_of_its_creators_own_capability() {
    let (mut world, first, _) = World::started();
    let (task, _) = with_parts(&mut world, first, vec![part(Quota::Capabilities, 10)]);
    let create = |amount| Request::CreateTask {
        name: "child".into(),
        give: vec![],
        quotas: vec![part(Quota::Capabilities, amount)],
    };
    let before = world.machine.tasks().count();
    // Its own, and one to the child.
    let error = world.fail(task, create(9));
    assert_eq!(quota(&error), ("capabilities of child (its own part)".into(), 10));
    assert_eq!(world.machine.tasks().count(), before);
    assert!(matches!(world.ask(task, create(8)), Answer::Task { .. }));
}
