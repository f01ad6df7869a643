//! Faults put into a task's transactions: who may, what is kept, and what the words say.

use super::{Answer, Effect, KernelError, Request, Rights, World, give, pair};
use rendez_protocol::injection::{Action, INJECTIONS_MAX, Injection, InjectionId, Pending, Phase};
use rendez_protocol::status::{ConnectionState, injected_word};
use rendez_protocol::{Slot, TaskId};

const DROP: Injection = Injection::next(Phase::Taken, Action::Drop);
const OPEN: u32 = ConnectionState::Open as u32;

fn inject(slot: Slot, injection: Injection) -> Request {
    Request::Inject { slot, task: None, injection }
}

impl World {
    fn injected(&mut self, who: TaskId, slot: Slot, injection: Injection) -> InjectionId {
        match self.ask(who, inject(slot, injection)) {
            Answer::Injected { id } => id,
            other => panic!("not injected: {other:?}"),
        }
    }

    fn own(&mut self, who: TaskId) -> Vec<InjectionId> {
        match self.ask(who, Request::OwnInjections) {
            Answer::Injections(all) => all.into_iter().map(|pending| pending.id).collect(),
            other => panic!("no list: {other:?}"),
        }
    }
}

#[test]
fn injecting_is_a_right_of_its_own() {
    let (mut world, first, kernel) = World::started();
    let (task, slot, _) = world.spawn(first, vec![]);
    let all = world.inspect(first, slot).itself.rights;
    let without = world.mint(first, slot, all - Rights::INJECT);
    let only = world.mint(first, slot, Rights::INJECT);
    for request in [
        inject(without, DROP),
        Request::Injections { slot: without, task: None },
        Request::CancelInjection { slot: without, task: None, id: InjectionId(1) },
    ] {
        let error = world.fail(first, request);
        assert!(matches!(error, KernelError::MissingRights { missing: Rights::INJECT, .. }));
    }
    assert_eq!(world.injected(first, only, DROP), InjectionId(1));
    // By the kernel's own task, into any; never into the kernel.
    let request = |task| Request::Inject { slot: kernel, task, injection: DROP };
    assert_eq!(world.ask(first, request(Some(task))), Answer::Injected { id: InjectionId(2) });
    for none in [None, Some(TaskId::KERNEL)] {
        assert!(matches!(world.fail(first, request(none)), KernelError::Denied(_)));
    }
    // A capability to one task is none to another.
    let other = Request::Inject { slot: only, task: Some(first), injection: DROP };
    assert!(matches!(world.fail(first, other), KernelError::Denied(_)));
    world.die(task);
    assert!(matches!(world.fail(first, inject(only, DROP)), KernelError::Order(_)));
}

#[test]
fn what_is_pending_is_listed_until_it_strikes_or_is_taken_back() {
    let (mut world, first, _) = World::started();
    let (task, slot, _) = world.spawn(first, vec![]);
    let ids = [3, 1, 2].map(|nth| world.injected(first, slot, Injection { nth, ..DROP }));
    let list = world.ask(first, Request::Injections { slot, task: None });
    let pending = |at: usize, nth| Pending { id: ids[at], injection: Injection { nth, ..DROP } };
    assert_eq!(list, Answer::Injections(vec![pending(0, 3), pending(1, 1), pending(2, 2)]));
    let cancel = |id| Request::CancelInjection { slot, task: None, id };
    assert_eq!(world.ask(first, cancel(ids[0])), Answer::Done);
    assert_eq!(world.ask(task, Request::Struck { id: ids[1] }), Answer::Done);
    assert_eq!(world.own(task), [ids[2]]);
    // Gone is gone: whoever took it back was heard first.
    let struck = Request::Struck { id: ids[0] };
    assert_eq!(world.fail(task, struck), KernelError::BadInjection(ids[0]));
    assert_eq!(world.fail(first, cancel(ids[1])), KernelError::BadInjection(ids[1]));
    // Others' are nobody's business.
    let struck = Request::Struck { id: ids[2] };
    assert_eq!(world.fail(first, struck), KernelError::BadInjection(ids[2]));
    assert_eq!(world.own(task), [ids[2]]);
}

#[test]
fn the_words_of_all_connections_say_so_while_any_is_pending() {
    let mut pair = pair();
    let (server, client) = (pair.server, pair.client);
    let world = &mut pair.world;
    world.connected(client, pair.send, server);
    let kernel = pair.kernel;
    let into = |task| Request::Inject { slot: kernel, task: Some(task), injection: DROP };
    world.words();
    world.ask(pair.first, into(server));
    assert_eq!(world.words(), [(server, 1, injected_word(1))]);
    world.ask(pair.first, into(server));
    assert_eq!(world.words(), [(server, 1, injected_word(2))], "a new number: there is news");
    // One that is made meanwhile begins with it, at that end alone.
    world.connected(client, pair.send, server);
    assert_eq!(world.words(), [(server, 2, injected_word(2))]);
    world.ask(server, Request::Struck { id: InjectionId(1) });
    assert_eq!(world.words(), []);
    world.ask(server, Request::Struck { id: InjectionId(2) });
    assert_eq!(world.words(), [(server, 1, OPEN), (server, 2, OPEN)]);
    // An end outlasts what is pending.
    world.ask(pair.first, into(client));
    assert_eq!(world.words(), [(client, 1, injected_word(1)), (client, 2, injected_word(1))]);
    world.die(server);
    let dead = ConnectionState::Dead as u32;
    assert_eq!(world.words(), [(client, 1, dead), (client, 2, dead)]);
    world.ask(client, Request::Struck { id: InjectionId(1) });
    assert_eq!(world.words(), []);
}

#[test]
fn a_task_that_has_not_begun_can_be_injected_into() {
    let (mut world, first, _) = World::started();
    let endpoint = world.endpoint(first);
    let (child, slot) = world.embryo(first, vec![give(endpoint, Rights::SEND)]);
    let id = world.injected(first, slot, DROP);
    world.hello(child);
    assert_eq!(world.own(child), [id]);
}

#[test]
fn what_is_for_now_is_a_signal_and_is_not_kept() {
    let (mut world, first, _) = World::started();
    let (task, slot, _) = world.spawn(first, vec![]);
    let only = world.mint(first, slot, Rights::INJECT);
    for (action, number) in [(Action::Kill, 9), (Action::Stop, 19)] {
        world.log.clear();
        let asked = world.send(first, inject(only, Injection::next(Phase::Now, action)));
        let signal = Effect::Signal { to: first, transaction: asked, task, signal: number };
        assert_eq!(world.log, [signal]);
    }
    assert_eq!(world.own(task), []);
    let (_, unborn) = world.embryo(first, vec![]);
    let error = world.fail(first, inject(unborn, Injection::next(Phase::Now, Action::Kill)));
    assert!(matches!(error, KernelError::Order(_)));
}

#[test]
fn nonsense_and_too_much_are_refused() {
    let (mut world, first, _) = World::started();
    let (task, slot, _) = world.spawn(first, vec![]);
    for nonsense in [
        Injection { nth: 0, ..DROP },
        Injection::next(Phase::Now, Action::Drop),
        Injection::next(Phase::ReplyPublished, Action::Drop),
    ] {
        assert!(matches!(world.fail(first, inject(slot, nonsense)), KernelError::Malformed(_)));
    }
    for _ in 0..INJECTIONS_MAX {
        world.injected(first, slot, DROP);
    }
    assert!(matches!(world.fail(first, inject(slot, DROP)), KernelError::Quota { .. }));
    let first_id = world.own(task)[0];
    world.ask(task, Request::Struck { id: first_id });
    world.injected(first, slot, DROP);
}
