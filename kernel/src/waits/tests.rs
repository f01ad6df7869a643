//! Circles: the cases one by one, then random graphs against the definition, computed naively.

use super::{
    CERTAIN_FOR_NS, Claims, Receiver, SUSPECTED_FOR_NS, SUSPICIONS_MAX, Suspicions, Verdict,
    WAITS_LOOKED_AT_MAX, Wait, WaitId, circle_of,
};
use rendez_protocol::{ConnectionId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

fn task(index: u32) -> TaskId {
    TaskId { index, generation: 0 }
}

fn connection(index: u32) -> ConnectionId {
    ConnectionId { index, generation: 0 }
}

/// Tasks and what they claim.
#[derive(Clone, Default)]
struct World(BTreeMap<TaskId, Claims>);

impl World {
    /// A task with a server of so many threads, numbered from 1.
    fn server(&mut self, index: u32, threads: u32) {
        let receiving = (1..=threads).map(|thread| Receiver { thread, handles: None }).collect();
        let claims = Claims { receivers: threads as usize, receiving, waits: Vec::new() };
        self.0.insert(task(index), claims);
    }

    /// Thread `thread` of `from` waits for `transaction` of connection `on` to `to`.
    fn waits(&mut self, (from, thread): (u32, u32), to: u32, on: u32, transaction: u64) -> WaitId {
        let wait = Wait {
            connection: connection(on),
            server: task(to),
            transaction,
            taken: false,
            thread,
        };
        self.0.entry(task(from)).or_default().waits.push(wait);
        WaitId { task: task(from), connection: connection(on), transaction }
    }

    /// Thread `thread` of `of` says that it handles this transaction.
    fn handles(&mut self, (of, thread): (u32, u32), on: u32, transaction: u64) {
        let claims = self.0.get_mut(&task(of)).unwrap();
        claims.receiving[thread as usize - 1].handles = Some((connection(on), transaction));
    }

    fn take(&mut self, wait: WaitId) {
        let waits = &mut self.0.get_mut(&wait.task).unwrap().waits;
        waits.iter_mut().find(|it| it.transaction == wait.transaction).unwrap().taken = true;
    }

    fn circle(&self, wait: WaitId) -> Vec<WaitId> {
        circle_of(wait, |task| self.0.get(&task).cloned())
    }
}

#[test]
fn two_that_send_to_each_other_are_a_circle() {
    let mut world = World::default();
    world.server(1, 1);
    world.server(2, 1);
    let a = world.waits((1, 1), 2, 10, 5);
    assert!(world.circle(a).is_empty(), "the other one is free");
    let b = world.waits((2, 1), 1, 11, 7);
    assert_eq!(world.circle(a), [a, b]);
    assert_eq!(world.circle(b), [a, b]);
}

#[test]
fn who_waits_behind_a_circle_is_not_in_it() {
    let mut world = World::default();
    (1..=3).for_each(|index| world.server(index, 1));
    world.server(4, 1);
    let ring: Vec<_> = (1..=3).map(|at| world.waits((at, 1), at % 3 + 1, 10 + at, 1)).collect();
    let outside = world.waits((4, 1), 1, 20, 1);
    let client = world.waits((5, 77), 4, 21, 1);
    assert_eq!(world.circle(ring[0]), ring);
    assert!(world.circle(outside).is_empty() && world.circle(client).is_empty());
}

#[test]
fn who_sends_to_itself_is_a_circle() {
    let mut world = World::default();
    world.server(1, 1);
    let own = world.waits((1, 1), 1, 10, 3);
    assert_eq!(world.circle(own), [own]);
    world.server(1, 2);
    let own = world.waits((1, 1), 1, 10, 3);
    assert!(world.circle(own).is_empty(), "the second thread is free");
    let other = world.waits((1, 2), 1, 11, 3);
    assert_eq!(world.circle(own), [own, other], "whichever becomes free could take either");
}

#[test]
fn a_message_that_was_taken_waits_for_who_handles_it() {
    let mut world = World::default();
    world.server(1, 1);
    world.server(2, 2);
    // 1 waits for thread 1 of 2, which waits for 1. The other thread of 2 waits for somebody slow.
    let a = world.waits((1, 1), 2, 10, 5);
    world.take(a);
    world.handles((2, 1), 10, 5);
    let b = world.waits((2, 1), 1, 11, 1);
    assert!(world.circle(a).is_empty(), "thread 2 is free: the rule is careful");
    world.server(3, 1);
    world.waits((2, 2), 3, 12, 1);
    assert_eq!(world.circle(a), [a, b]);
    // Where it lies in the ring, thread 2 may become free and take it.
    world.0.get_mut(&task(2)).unwrap().receiving[0].handles = None;
    world.0.get_mut(&task(1)).unwrap().waits[0].taken = false;
    assert!(world.circle(a).is_empty());
}

#[test]
fn an_answer_that_was_put_off_may_come_from_anywhere() {
    let mut world = World::default();
    world.server(1, 1);
    world.server(2, 1);
    let a = world.waits((1, 1), 2, 10, 5);
    let b = world.waits((2, 1), 1, 11, 7);
    world.take(a);
    assert!(world.circle(a).is_empty() && world.circle(b).is_empty());
    world.handles((2, 1), 10, 4);
    assert!(world.circle(a).is_empty(), "it handles another one by now");
    world.handles((2, 1), 10, 5);
    assert_eq!(world.circle(b), [a, b]);
}

#[test]
fn nothing_is_concluded_of_who_does_not_say_all() {
    let mut world = World::default();
    world.server(1, 1);
    world.server(2, 1);
    let a = world.waits((1, 1), 2, 10, 5);
    world.waits((2, 1), 1, 11, 7);
    for change in [
        |claims: &mut Claims| claims.receivers = 0,
        |claims: &mut Claims| claims.receivers = 2,
        |claims: &mut Claims| claims.receiving.clear(),
        |claims: &mut Claims| claims.receiving[0].thread = 0,
        |claims: &mut Claims| claims.waits[0].thread = 9,
        |claims: &mut Claims| claims.waits.clear(),
    ] {
        let mut changed = world.clone();
        change(changed.0.get_mut(&task(2)).unwrap());
        assert!(changed.circle(a).is_empty());
    }
    world.0.remove(&task(2));
    assert!(world.circle(a).is_empty(), "dead");
    assert!(world.circle(WaitId { transaction: 6, ..a }).is_empty(), "not what the page says");
}

#[test]
fn who_claims_to_wait_for_a_victim_does_not_make_it_wait() {
    let mut world = World::default();
    world.server(1, 1);
    world.server(2, 1);
    // 2 lies. 1 is free, or waits for somebody else.
    let lie = world.waits((2, 1), 1, 11, 7);
    assert!(world.circle(lie).is_empty());
    world.server(3, 1);
    let honest = world.waits((1, 1), 3, 10, 5);
    assert!(world.circle(lie).is_empty() && world.circle(honest).is_empty());
    // It may say that it handles what was never sent to it, too.
    world.handles((2, 1), 10, 5);
    assert!(world.circle(lie).is_empty() && world.circle(honest).is_empty());
}

#[test]
fn a_look_has_an_end() {
    let mut world = World::default();
    let count = WAITS_LOOKED_AT_MAX as u32;
    for (length, found) in [(count, true), (count + 1, false)] {
        (0..length).for_each(|index| world.server(index, 1));
        let ring: Vec<_> =
            (0..length).map(|at| world.waits((at, 1), (at + 1) % length, at, 1)).collect();
        assert_eq!(!world.circle(ring[0]).is_empty(), found);
    }
}

/// What the module's essay says, word by word: the greatest set of stuck waits, and in it those that
/// come round to themselves.
fn naively(world: &World) -> BTreeSet<WaitId> {
    let all: Vec<(WaitId, Wait)> = world
        .0
        .iter()
        .flat_map(|(id, claims)| claims.waits.iter().map(move |wait| (*id, *wait)))
        .map(|(task, wait)| {
            let Wait { connection, transaction, .. } = wait;
            (WaitId { task, connection, transaction }, wait)
        })
        .collect();
    let needs = |wait: &Wait| -> Option<Vec<WaitId>> {
        let server = world.0.get(&wait.server)?;
        let wait_of = |thread: u32| {
            all.iter().find(|(id, it)| id.task == wait.server && it.thread == thread).map(|it| it.0)
        };
        let threads: Vec<_> =
            server.receiving.iter().map(|it| (it.handles, wait_of(it.thread))).collect();
        if threads.is_empty() || threads.iter().any(|(_, wait)| wait.is_none()) {
            return None;
        }
        let handler = threads.iter().find(|it| it.0 == Some((wait.connection, wait.transaction)));
        match handler {
            Some((_, wait)) => Some(vec![(*wait)?]),
            None if wait.taken => None,
            None => threads.iter().map(|(_, wait)| *wait).collect(),
        }
    };
    let mut stuck: BTreeMap<WaitId, Vec<WaitId>> =
        all.iter().filter_map(|(id, wait)| Some((*id, needs(wait)?))).collect();
    loop {
        let before = stuck.len();
        let still: BTreeSet<WaitId> = stuck.keys().copied().collect();
        stuck.retain(|_, needs| needs.iter().all(|need| still.contains(need)));
        if stuck.len() == before {
            break;
        }
    }
    let comes_round = |start: &WaitId| {
        let mut seen = BTreeSet::new();
        let mut ahead = stuck[start].clone();
        while let Some(next) = ahead.pop() {
            if seen.insert(next) {
                ahead.extend(&stuck[&next]);
            }
        }
        seen.contains(start)
    };
    stuck.keys().filter(|start| comes_round(start)).copied().collect()
}

#[test]
fn random_graphs_have_the_circles_that_the_definition_gives_them() {
    let mut lot = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: u64| {
        lot ^= lot << 13;
        lot ^= lot >> 7;
        lot ^= lot << 17;
        lot % n
    };
    let (mut circles, mut outside) = (0, 0);
    for _ in 0..20_000 {
        let mut world = World::default();
        let tasks = 1 + below(5) as u32;
        for index in 0..tasks {
            world.server(index, 1 + below(2) as u32);
        }
        let mut number = 0;
        for index in 0..tasks {
            for thread in 1..=world.0[&task(index)].receivers as u32 {
                if below(8) == 0 {
                    continue;
                }
                number += 1;
                let to = below(u64::from(tasks)) as u32;
                let wait = world.waits((index, thread), to, number, number.into());
                if below(3) == 0 {
                    world.take(wait);
                    if below(4) != 0 {
                        let threads = world.0[&task(to)].receivers as u64;
                        world.handles((to, 1 + below(threads) as u32), number, number.into());
                    }
                }
            }
        }
        let expected = naively(&world);
        for (id, claims) in &world.0 {
            for wait in &claims.waits {
                let Wait { connection, transaction, .. } = *wait;
                let wait = WaitId { task: *id, connection, transaction };
                let circle = world.circle(wait);
                assert_eq!(!circle.is_empty(), expected.contains(&wait));
                if circle.is_empty() {
                    outside += 1;
                    continue;
                }
                circles += 1;
                assert!(circle.contains(&wait) && circle.is_sorted());
                // Each member sees the same one.
                assert!(circle.iter().all(|member| world.circle(*member) == circle));
            }
        }
    }
    assert!(circles > 1_000 && outside > 1_000, "{circles} in circles, {outside} not");
}

/// A circle of so many.
fn ring(count: u32) -> Vec<WaitId> {
    (0..count)
        .map(|index| WaitId { task: task(index), connection: connection(index), transaction: 1 })
        .collect()
}

#[test]
fn nobody_is_told_before_all_have_said_it_again() {
    let mut suspicions = Suspicions::default();
    let circle = ring(3);
    let [a, b, c] = circle[..] else { panic!() };
    assert_eq!(suspicions.certain(1, a), None);
    assert_eq!(suspicions.found(1, a, circle.clone()), Verdict::Suspected(vec![b, c]));
    assert_eq!(suspicions.found(2, b, circle.clone()), Verdict::Suspected(vec![]));
    assert_eq!(suspicions.found(3, b, circle.clone()), Verdict::Suspected(vec![]), "said twice");
    assert_eq!(suspicions.found(4, c, circle.clone()), Verdict::Suspected(vec![]));
    assert_eq!(suspicions.certain(5, c), None);
    // The one who found it first must have looked again as well.
    let Verdict::Deadlock { circle: told, wake } = suspicions.found(6, a, circle.clone()) else {
        panic!("they have all said it again")
    };
    assert_eq!((&told[..], &wake[..]), (&circle[..], &[b, c][..]));
    assert!(
        matches!(suspicions.certain(7, b), Some(Verdict::Deadlock { wake, .. }) if wake.is_empty())
    );
    assert_eq!(suspicions.certain(8, b), None, "told once");
    assert_eq!(suspicions.certain(8, WaitId { transaction: 2, ..c }), None, "another wait");
    assert_eq!(suspicions.certain(7 + CERTAIN_FOR_NS, c), None, "too late");
}

#[test]
fn looks_that_do_not_match_come_to_nothing() {
    let mut suspicions = Suspicions::default();
    let (two, three) = (ring(2), ring(3));
    assert_eq!(suspicions.found(1, two[0], vec![]), Verdict::Nothing);
    assert_eq!(suspicions.found(1, three[2], two.clone()), Verdict::Nothing, "not a member");
    suspicions.found(1, two[0], two.clone());
    assert_eq!(
        suspicions.found(2, two[1], three.clone()),
        Verdict::Suspected(vec![three[0], three[2]])
    );
    assert_eq!(suspicions.found(3, two[0], two.clone()), Verdict::Suspected(vec![]));
    // What is old counts for nothing.
    let later = 3 + SUSPECTED_FOR_NS;
    assert_eq!(suspicions.found(later, two[1], two.clone()), Verdict::Suspected(vec![two[0]]));
    suspicions.forget(two[1].task);
    assert_eq!(suspicions.found(later, two[0], two.clone()), Verdict::Suspected(vec![two[1]]));
}

#[test]
fn one_task_remembers_only_so_many() {
    let mut suspicions = Suspicions::default();
    let own = |transaction| WaitId { transaction, ..ring(1)[0] };
    for transaction in 0..1_000 {
        suspicions.found(1, own(transaction), vec![own(transaction)]);
    }
    let raised: usize = suspicions.raised.values().map(Vec::len).sum();
    assert_eq!(raised, SUSPICIONS_MAX);
    let last = own(999);
    assert!(matches!(suspicions.found(2, last, vec![last]), Verdict::Deadlock { .. }));
    assert_eq!(suspicions.found(2, own(0), vec![own(0)]), Verdict::Suspected(vec![]));
}
