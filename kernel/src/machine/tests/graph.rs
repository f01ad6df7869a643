use super::{Answer, KernelError, Pair, Request, Rights, World, give, pair};
use crate::effect::Effect;
use crate::machine::graph::TASKS_PER_PAGE;
use crate::waits::WaitId;
use rendez_protocol::TaskId;
use rendez_protocol::kernel::ObjectKind;
use std::collections::BTreeSet;

#[test]
fn only_the_client_of_a_connection_has_its_waits_looked_at() {
    let Pair { mut world, first, server, client, send, .. } = pair();
    let connection = world.connected(client, send, server);
    let look = Request::LookForCircle { connection, transaction: 7 };
    let transaction = world.send(client, look.clone());
    let wait = WaitId { task: client, connection, transaction: 7 };
    assert_eq!(world.log.pop(), Some(Effect::LookForCircle { transaction, wait }));
    assert_eq!(world.machine.client_index(connection), Some(1));
    for stranger in [first, server] {
        assert_eq!(world.fail(stranger, look.clone()), KernelError::BadConnection(connection));
    }
    world.die(server);
    assert_eq!(world.fail(client, look), KernelError::BadConnection(connection));
    assert_eq!(world.machine.client_index(connection), None);
}

#[test]
fn waits_are_asked_for_page_by_page() {
    let Pair { mut world, first, kernel, client, .. } = pair();
    for _ in 0..TASKS_PER_PAGE {
        world.spawn(first, vec![]);
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let asked = world.send(first, Request::Waits { slot: kernel, after });
        let Some(Effect::Waits { to, transaction, tasks, more }) = world.log.pop() else {
            panic!("{:?}", world.log)
        };
        assert_eq!((to, transaction), (first, asked));
        assert!(tasks.len() <= TASKS_PER_PAGE);
        after = tasks.last().copied();
        seen.extend(tasks);
        if !more {
            break;
        }
    }
    assert_eq!(seen, world.machine.tasks().collect::<Vec<_>>());
    assert!(matches!(
        world.fail(client, Request::Waits { slot: kernel, after: None }),
        KernelError::BadSlot(_) | KernelError::WrongObject { .. } | KernelError::Denied(_)
    ));
}

#[test]
fn who_holds_what_is_told_page_by_page_and_in_order() {
    let Pair { mut world, first, kernel, endpoint, client, send, .. } = pair();
    for _ in 0..1_000 {
        world.mint(first, endpoint, Rights::SEND);
    }
    let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let answer = world.ask(first, Request::Capabilities { slot: kernel, after });
        let Answer::Capabilities { held, more } = answer else { panic!("{answer:?}") };
        after = held.last().map(|held| (held.holder, held.capability.slot));
        seen.extend(held);
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!(pages, 2);
    let order: Vec<_> = seen.iter().map(|held| (held.holder, held.capability.slot)).collect();
    assert!(order.is_sorted() && order.len() > 1_000);
    let of_client = seen.iter().find(|held| (held.holder, held.capability.slot) == (client, send));
    assert_eq!(of_client.unwrap().capability.kind, ObjectKind::Endpoint);
    let of_kernel = seen.iter().find(|held| held.task == Some(TaskId::KERNEL)).unwrap();
    assert_eq!((of_kernel.holder, of_kernel.capability.slot), (first, kernel));
    let weak = world.mint(first, kernel, Rights::GRANT);
    let error = world.fail(first, Request::Capabilities { slot: weak, after: None });
    assert!(matches!(error, KernelError::MissingRights { missing: Rights::INSPECT, .. }));
}

#[test]
fn endpoints_are_told_with_who_serves_them() {
    let Pair { mut world, first, kernel, server, .. } = pair();
    let unserved = world.endpoint(first);
    let ask = |world: &mut World, after| {
        let answer = world.ask(first, Request::Endpoints { slot: kernel, after });
        let Answer::Endpoints { endpoints, more: false } = answer else { panic!("{answer:?}") };
        endpoints
    };
    let all = ask(&mut world, None);
    let [served, other] = &all[..] else { panic!("{all:?}") };
    assert_eq!((served.server, served.generation), (Some(server), 1));
    assert_eq!((other.server, other.generation, other.connects), (None, 0, 0));
    assert_eq!(other.endpoint, world.inspect(first, unserved).itself.object);
    assert_eq!(ask(&mut world, Some(served.endpoint)), std::slice::from_ref(other));
    world.die(server);
    assert_eq!(ask(&mut world, None)[0].server, None);
}

#[test]
fn who_may_be_watched_may_be_named() {
    let Pair { mut world, first, server, endpoint, client, .. } = pair();
    let all = BTreeSet::from([first, server, client]);
    let may = |world: &World, who| world.machine.may_watch(who, &all);
    // The parent has capabilities to its children, and everybody one to itself.
    assert_eq!(may(&world, first), all);
    let (known, _, _) = world.spawn(first, vec![give(endpoint, Rights::SEND | Rights::WATCH)]);
    assert_eq!(may(&world, known), BTreeSet::from([server]));
    let (stranger, _, _) = world.spawn(first, vec![give(endpoint, Rights::SEND)]);
    assert_eq!(may(&world, stranger), BTreeSet::new());
    assert!(may(&world, client).contains(&client));
    world.die(server);
    assert_eq!(may(&world, known), BTreeSet::new());
}
