use super::{
    Answer, CREDENTIALS, Credentials, Give, Hello, KernelError, Pair, Quotas, Request, Rights,
    Slot, Version, World, connect, give, pair, quota, rule,
};
use crate::effect::{Attach, Effect};
use crate::machine::task::{KERNEL_RIGHTS, TASK_RIGHTS};
use rendez_protocol::TaskId;
use rendez_protocol::kernel::{Limits, ObjectKind};

#[test]
fn the_first_task_holds_the_kernel() {
    let mut world = World::new();
    assert!(world.machine.is_alive(TaskId::KERNEL));
    let first = world.machine.create_first("supervisor", &mut world.log);
    assert_eq!(world.log, [Effect::MakeTask(first)]);
    assert_eq!(world.machine.name(first), Some("supervisor"));
    assert_eq!(world.machine.tasks().collect::<Vec<_>>(), [first]);
    let (own, given) = world.hello(first);
    assert_eq!((own.kind, own.rights), (ObjectKind::Task, TASK_RIGHTS));
    assert_eq!((given.len(), given[0].name.as_str()), (1, "kernel"));
    assert_eq!(given[0].capability.rights, KERNEL_RIGHTS);
    assert_ne!(given[0].capability.object, own.object);
}

#[test]
fn hello_comes_first_and_once() {
    let (mut world, first, _) = World::started();
    let (embryo, _) = world.embryo(first, vec![]);
    assert!(matches!(world.fail(embryo, Request::CreateEndpoint), KernelError::Order(_)));
    let nothing = world.send(embryo, Request::Cancel { transaction: 1 });
    assert_eq!(world.answer_to(nothing), None);
    world.machine.hello(embryo, 500, Hello::OURS, CREDENTIALS, &mut world.log);
    let (answer, attach) = world.answer_with(500).unwrap();
    assert!(matches!(answer, Answer::Welcome { task, .. } if task == embryo));
    assert_eq!(attach, [Attach::StatusSegment(embryo), Attach::TaskPage(embryo)]);
    world.machine.hello(embryo, 501, Hello::OURS, CREDENTIALS, &mut world.log);
    assert!(matches!(world.answer_to(501), Some(Answer::Error(KernelError::Order(_)))));
}

#[test]
fn versions_must_fit() {
    let (mut world, first, _) = World::started();
    let (embryo, _) = world.embryo(first, vec![]);
    let ours = Hello::OURS.version;
    for yours in [
        Version::new(ours.major + 1, ours.minor),
        Version::new(ours.major, ours.minor + 1),
        Version::new(0, 0),
    ] {
        let hello = Hello { version: yours };
        world.machine.hello(embryo, 500, hello, CREDENTIALS, &mut world.log);
        let error = KernelError::Protocol { yours, kernel: ours };
        assert_eq!(world.answer_to(500), Some(Answer::Error(error)));
    }
    world.hello(embryo);
}

#[test]
fn a_created_task_finds_what_it_was_given() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (name, rights) = ("names".to_owned(), Rights::SEND);
    let gift =
        Give { name: name.clone(), slot: endpoint, rights, badge: Some(4), limits: Limits::SAME };
    let give = vec![gift];
    let transaction =
        world.send(first, Request::CreateTask { name: "file".into(), give, quotas: vec![] });
    let (answer, attach) = world.answer_with(transaction).unwrap();
    let Answer::Task { capability, id } = answer else { panic!() };
    assert_eq!(attach, [Attach::TaskSocket(id)]);
    assert_eq!(world.log, [Effect::MakeTask(id)]);
    assert_eq!(capability.rights, TASK_RIGHTS);
    let (own, given) = world.hello(id);
    assert_eq!(own.object, capability.object);
    assert_eq!((given.len(), &given[0].name), (1, &name));
    assert_eq!((given[0].capability.rights, given[0].capability.badge), (rights, 4));
    let mut page = || world.ask(id, Request::PageMapped);
    assert_eq!(page(), Answer::Done);
    assert!(matches!(page(), Answer::Error(KernelError::Order(_))));
    assert!(world.log.contains(&Effect::SealPage(id)));
}

#[test]
fn what_is_revoked_before_hello_is_not_given() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (embryo, _) = world.embryo(first, vec![give(endpoint, Rights::SEND)]);
    world.ask(first, Request::Revoke { slot: endpoint });
    assert_eq!(world.hello(embryo).1, []);
}

#[test]
fn names_and_lists_are_bounded() {
    let (mut world, first, kernel) = World::started();
    let endpoint = world.endpoint(first);
    let (long, fits) = ("x".repeat(65), "x".repeat(64));
    for name in ["", "a\nb", "\u{7f}", &long] {
        let request = Request::CreateTask { name: name.into(), give: vec![], quotas: vec![] };
        assert!(matches!(world.fail(first, request), KernelError::BadValue { .. }), "{name:?}");
        let gift = Give { name: name.into(), ..give(endpoint, Rights::SEND) };
        let request = Request::FrontDoor { slot: kernel, rules: vec![rule(None, vec![gift])] };
        assert!(matches!(world.fail(first, request), KernelError::BadValue { .. }), "{name:?}");
    }
    let many = vec![give(endpoint, Rights::SEND); 65];
    let error =
        world.fail(first, Request::CreateTask { name: "many".into(), give: many, quotas: vec![] });
    assert!(matches!(error, KernelError::BadValue { value: 65, .. }));
    let all = vec![give(endpoint, Rights::SEND); 64];
    let made = world.ask(first, Request::CreateTask { name: fits, give: all, quotas: vec![] });
    assert!(matches!(made, Answer::Task { .. }));
}

#[test]
fn giving_needs_grant_and_less_needs_mint() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let rights = Rights::SEND | Rights::READ;
    let kept = world.mint(first, endpoint, rights);
    let fixed = world.mint(first, endpoint, rights | Rights::GRANT);
    let mut create = |slot, rights, badge| {
        let give = vec![Give { badge, ..give(slot, rights) }];
        match world.ask(first, Request::CreateTask { name: "x".into(), give, quotas: vec![] }) {
            Answer::Error(KernelError::MissingRights { missing, .. }) => Some(missing),
            Answer::Task { .. } => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(create(kept, rights, None), Some(Rights::GRANT));
    assert_eq!(create(fixed, rights, None), Some(Rights::MINT));
    assert_eq!(create(fixed, rights | Rights::GRANT, Some(1)), Some(Rights::MINT));
    assert_eq!(create(fixed, rights | Rights::GRANT | Rights::WRITE, None), Some(Rights::WRITE));
    assert_eq!(create(fixed, rights | Rights::GRANT, None), None);
    assert_eq!(create(endpoint, rights, Some(1)), None);
}

#[test]
fn tasks_are_counted() {
    let (mut world, first, _) =
        World::started_with(Quotas { children: 1, ..Quotas::default().of_tasks(3, 1) });
    let create = || Request::CreateTask { name: "x".into(), give: vec![], quotas: vec![] };
    let (child, _) = world.embryo(first, vec![]);
    let error = world.fail(first, create());
    assert_eq!(quota(&error), ("tasks created by a task".into(), 1));
    world.hello(child);
    world.embryo(child, vec![]);
    let mut log = Vec::new();
    let error = world.machine.admit("x", CREDENTIALS, true, &mut log).unwrap_err();
    assert_eq!(quota(&error), ("tasks of the system".into(), 3));
    world.die(child);
    world.embryo(first, vec![]);
    world.machine.admit("x", CREDENTIALS, true, &mut log).unwrap();
}

#[test]
fn the_dead_leave_nothing_but_what_others_hold() {
    let Pair { mut world, first, server, client, endpoint, send, .. } = pair();
    let theirs = {
        let rights = Rights::SEND | Rights::GRANT;
        world.spawn(client, vec![give(send, rights)])
    };
    let before = world.inspect(first, endpoint).descendants;
    world.die(client);
    assert_eq!(world.inspect(first, endpoint).descendants, before - 1);
    assert_eq!(world.inspect(theirs.0, theirs.2[0]).depth, 1);
    world.connected(theirs.0, theirs.2[0], server);
    let forgotten = world.log.iter().filter(|it| **it == Effect::ForgetTask(client)).count();
    assert_eq!(forgotten, 1);
    world.log.clear();
    world.die(client);
    assert_eq!(world.log, [], "a second death");
    let waits = world.send(client, connect(send));
    assert_eq!(world.answer_to(waits), None, "the dead are not answered");
    let (next, ..) = world.spawn(first, vec![]);
    assert_eq!((next.index, next.generation), (client.index, client.generation + 1));
}

#[test]
fn embryos_die_with_who_made_them_and_running_tasks_do_not() {
    let (mut world, first, _) = World::started();
    let (parent, ..) = world.spawn(first, vec![]);
    let (running, ..) = world.spawn(parent, vec![]);
    let (embryo, _) = world.embryo(parent, vec![]);
    world.die(parent);
    assert!(world.machine.is_alive(running));
    assert!(!world.machine.is_alive(embryo));
    assert!(world.log.contains(&Effect::ForgetTask(embryo)));
}

#[test]
fn signals() {
    let (mut world, first, kernel) = World::started();
    let (embryo, slot) = world.embryo(first, vec![]);
    let kill = |signal| Request::Kill { slot, signal };
    assert!(matches!(world.fail(first, kill(9)), KernelError::Order(_)));
    world.hello(embryo);
    for signal in [0, -9, 65, i32::MIN] {
        assert!(matches!(world.fail(first, kill(signal)), KernelError::BadValue { .. }));
    }
    for signal in [1, 64] {
        let transaction = world.send(first, kill(signal));
        let sent = Effect::Signal { to: first, transaction, task: embryo, signal };
        assert_eq!(world.log.pop(), Some(sent));
    }
    let weak = world.mint(first, slot, Rights::WATCH);
    let error = world.fail(first, Request::Kill { slot: weak, signal: 9 });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::KILL, .. }));
    let error = world.fail(first, Request::Kill { slot: kernel, signal: 9 });
    assert!(matches!(error, KernelError::Denied(_)));
    world.die(embryo);
    assert!(matches!(world.fail(first, kill(9)), KernelError::Order(_)));
}

#[test]
fn listing_needs_inspect_on_the_kernel() {
    let Pair { mut world, first, kernel, server, client, send, .. } = pair();
    world.connected(client, send, server);
    let transaction = world.send(first, Request::List { slot: kernel, from: 0 });
    let Some(Effect::Tasks { to, transaction: named, tasks, next: None }) = world.log.pop() else {
        panic!()
    };
    assert_eq!((to, named), (first, transaction));
    assert_eq!(tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [first, server, client]);
    assert_eq!((tasks[1].server_connections, tasks[2].client_connections), (1, 1));
    assert_eq!((tasks[1].parent, tasks[1].credentials), (Some(first), Some(CREDENTIALS)));
    let weak = world.mint(first, kernel, Rights::GRANT);
    let error = world.fail(first, Request::List { slot: weak, from: 0 });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::INSPECT, .. }));
    let (_, child, _) = world.spawn(first, vec![]);
    assert!(matches!(
        world.fail(first, Request::List { slot: child, from: 0 }),
        KernelError::Denied(_)
    ));
}

#[test]
fn reading_a_page_needs_inspect_on_the_kernel_and_a_page() {
    let Pair { mut world, first, kernel, server, client, .. } = pair();
    let page = |task| Request::Page { slot: kernel, task };
    let error = world.fail(first, page(client));
    assert!(matches!(error, KernelError::Order(text) if text.contains("no page yet")));
    assert_eq!(world.ask(client, Request::PageMapped), Answer::Done);
    let transaction = world.send(first, page(client));
    let attach = vec![Attach::SealedPage(client)];
    let answer = Answer::Page;
    assert_eq!(world.log.pop(), Some(Effect::Answer { to: first, transaction, answer, attach }));
    let weak = world.mint(first, kernel, Rights::GRANT);
    let error = world.fail(first, Request::Page { slot: weak, task: client });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::INSPECT, .. }));
    // What the client has under that number is something else.
    world.fail(client, page(client));
    assert!(matches!(world.fail(first, page(TaskId::KERNEL)), KernelError::Order(_)));
    world.ask(server, Request::PageMapped);
    world.die(server);
    let error = world.fail(first, page(server));
    assert!(matches!(error, KernelError::Order(text) if text.contains("dead")));
}

#[test]
fn the_front_door_gives_what_it_was_told() {
    let Pair { mut world, first, kernel, endpoint, server, .. } = pair();
    let set = |give| Request::FrontDoor { slot: kernel, rules: vec![rule(None, give)] };
    assert_eq!(world.ask(first, set(vec![give(endpoint, Rights::SEND)])), Answer::Done);
    let enter = |world: &mut World| {
        let id = world.machine.admit("rendez", CREDENTIALS, true, &mut world.log).unwrap();
        let (own, given) = world.hello(id);
        assert_eq!(own.rights, TASK_RIGHTS);
        (id, given)
    };
    let (guest, given) = enter(&mut world);
    assert_eq!((given[0].name.as_str(), given[0].capability.rights), ("given", Rights::SEND));
    world.connected(guest, given[0].capability.slot, server);

    // Replaced: what was handed out stays, and a revocation still reaches it.
    let other = world.endpoint(first);
    assert_eq!(world.ask(first, set(vec![give(other, Rights::SEND)])), Answer::Done);
    let slot = given[0].capability.slot;
    world.inspect(guest, slot);
    let object = world.inspect(first, other).itself.object;
    assert_eq!(enter(&mut world).1[0].capability.object, object);
    world.ask(first, Request::Revoke { slot: endpoint });
    assert_eq!(world.fail(guest, Request::Inspect { slot }), KernelError::BadSlot(slot));

    // Revoked: fewer are given, and nobody is turned away.
    world.ask(first, Request::Revoke { slot: other });
    assert_eq!(enter(&mut world).1, []);
    let weak = world.mint(first, kernel, Rights::INSPECT);
    let error = world.fail(first, Request::FrontDoor { slot: weak, rules: vec![] });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::GRANT, .. }));
}

#[test]
fn the_first_rule_for_a_uid_counts_and_whoever_has_none_is_refused() {
    let Pair { mut world, first, kernel, endpoint, .. } = pair();
    let of = |uid| Credentials { uid, ..CREDENTIALS };
    let given = |world: &mut World, uid, own| {
        let id = world.machine.admit("visitor", of(uid), own, &mut world.log)?;
        Ok(world.hello(id).1.into_iter().map(|given| given.capability.rights).collect::<Vec<_>>())
    };
    // No policy yet: who runs the kernel is let in, and given nothing.
    assert_eq!(given(&mut world, 7, true), Ok(vec![]));
    assert!(matches!(given(&mut world, 7, false), Err(KernelError::Denied(_))));

    let read = vec![give(endpoint, Rights::SEND | Rights::READ)];
    let send = vec![give(endpoint, Rights::SEND)];
    let rules = vec![rule(Some(7), read), rule(Some(8), vec![]), rule(Some(7), send.clone())];
    let set = |rules| Request::FrontDoor { slot: kernel, rules };
    assert_eq!(world.ask(first, set(rules.clone())), Answer::Done);
    assert_eq!(given(&mut world, 7, false), Ok(vec![Rights::SEND | Rights::READ]));
    assert_eq!(given(&mut world, 8, false), Ok(vec![]));
    for own in [true, false] {
        let Err(KernelError::Denied(text)) = given(&mut world, 9, own) else { panic!() };
        assert!(text.contains("uid 9"), "{text}");
    }
    let others = rules.into_iter().chain([rule(None, send)]).collect();
    assert_eq!(world.ask(first, set(others)), Answer::Done);
    assert_eq!(given(&mut world, 9, false), Ok(vec![Rights::SEND]));
    assert_eq!(given(&mut world, 8, false), Ok(vec![]));

    // All or nothing: what is there stays if the new rules cannot be had.
    let bad = vec![rule(None, vec![give(Slot { index: 99, generation: 0 }, Rights::SEND)])];
    assert!(matches!(world.fail(first, set(bad)), KernelError::BadSlot(_)));
    let many = vec![rule(None, vec![]); 33];
    assert!(matches!(world.fail(first, set(many)), KernelError::BadValue { value: 33, .. }));
    assert_eq!(given(&mut world, 9, false), Ok(vec![Rights::SEND]));
}

#[test]
fn any_process_name_is_made_presentable() {
    let mut world = World::new();
    for (name, shown) in
        [("", "?".to_owned()), ("a\nb", "a\u{fffd}b".to_owned()), (&"ä".repeat(40), "ä".repeat(32))]
    {
        let id = world.machine.admit(name, CREDENTIALS, true, &mut world.log).unwrap();
        assert_eq!(world.machine.name(id), Some(shown.as_str()));
    }
}

#[test]
fn the_kernels_own_task_neither_dies_nor_asks() {
    let mut world = World::new();
    world.machine.died(TaskId::KERNEL, &mut world.log);
    world.machine.handle(TaskId::KERNEL, 1, Request::CreateEndpoint, &mut world.log);
    assert!(world.machine.is_alive(TaskId::KERNEL));
    assert_eq!(world.log, []);
}

#[test]
fn a_task_that_could_not_be_made_leaves_its_creator_nothing() {
    let (mut world, first, _) = World::started();
    let held = world.machine.tasks.get(first).unwrap().space.len();
    let (child, slot) = world.embryo(first, vec![]);
    world.machine.never_made(first, slot, child, &mut world.log);
    world.machine.check();
    assert!(!world.machine.is_alive(child));
    assert_eq!(world.machine.tasks.get(first).unwrap().space.len(), held);
    assert_eq!(world.fail(first, Request::Inspect { slot }), KernelError::BadSlot(slot));
}
