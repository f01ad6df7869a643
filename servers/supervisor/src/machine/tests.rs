//! The machine on a clock that only the tests move.

use super::{Action, Event, GiveUp, Machine, Phase, Rules};
use crate::restart::{Policy, When};
use crate::stuck::Then;
use std::time::Duration;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn rules(name: &str, after: &[usize]) -> Rules {
    Rules {
        name: name.into(),
        after: after.to_vec(),
        names: 0,
        finishes: false,
        required: true,
        restart: Policy::default(),
        give_up: GiveUp::Leave,
        ready_within: None,
    }
}

fn does(machine: &mut Machine, at: u64, event: Event) -> Vec<Action> {
    machine.handle(ms(at), event).into()
}

fn ended(machine: &mut Machine, at: u64, task: usize, good: bool) -> Vec<Action> {
    does(machine, at, Event::Ended { task, good, how: "boom".into() })
}

/// A machine of one task that is ready, and was from 1 ms on.
fn one(rules: Rules) -> Machine {
    let mut machine = Machine::new([rules]);
    assert_eq!(does(&mut machine, 0, Event::Begin), [Action::Launch(0)]);
    let ready = does(&mut machine, 1, Event::Ready { task: 0 });
    assert_eq!(ready[0], Action::Answer(0));
    machine
}

#[test]
fn each_starts_once_those_before_it_are_ready() {
    let mut machine = Machine::new([rules("a", &[]), rules("b", &[0]), rules("c", &[0, 1])]);
    assert_eq!(does(&mut machine, 0, Event::Begin), [Action::Launch(0)]);
    assert_eq!(machine.waits_for(2), "a; b");
    let then = does(&mut machine, 1, Event::Ready { task: 0 });
    assert_eq!(then, [Action::Answer(0), Action::Launch(1)]);
    let then = does(&mut machine, 2, Event::Ready { task: 1 });
    assert_eq!(then, [Action::Answer(1), Action::Launch(2)]);
    let then = does(&mut machine, 3, Event::Ready { task: 2 });
    assert_eq!(then, [Action::Answer(2), Action::Announce]);
    assert!(does(&mut machine, 4, Event::Ready { task: 2 }).is_empty(), "it is ready already");
}

#[test]
fn a_job_is_ready_when_it_has_finished() {
    let job = Rules { finishes: true, ..rules("job", &[]) };
    let mut machine = Machine::new([job, rules("server", &[0])]);
    does(&mut machine, 0, Event::Begin);
    assert_eq!(ended(&mut machine, 5, 0, true), [Action::Answer(0), Action::Launch(1)]);
    assert_eq!(machine.phase(0), &Phase::Ended);
}

#[test]
fn names_are_waited_for() {
    let mut machine = Machine::new([Rules { names: 2, ..rules("a", &[]) }]);
    assert!(does(&mut machine, 0, Event::Begin).is_empty());
    assert!(machine.waits_for(0).contains("names"));
    assert!(does(&mut machine, 1, Event::Named { task: 0 }).is_empty());
    assert_eq!(does(&mut machine, 2, Event::Named { task: 0 }), [Action::Launch(0)]);
}

#[test]
fn the_first_crash_is_answered_at_once_and_the_next_later() {
    let mut machine = one(rules("a", &[]));
    assert_eq!(ended(&mut machine, 10, 0, false), [Action::Launch(0)]);
    does(&mut machine, 11, Event::Ready { task: 0 });
    assert!(ended(&mut machine, 12, 0, false).is_empty());
    assert_eq!(machine.phase(0), &Phase::BackingOff { until: ms(112) });
    assert_eq!(machine.next(), Some(ms(112)));
    assert!(does(&mut machine, 111, Event::Tick).is_empty());
    assert_eq!(does(&mut machine, 112, Event::Tick), [Action::Launch(0)]);
    assert_eq!(machine.starts(0), (3, 2));
    assert_eq!(machine.next(), None);
}

#[test]
fn who_crashes_too_often_is_given_up_and_started_again_when_asked() {
    let restart = Policy { budget: 1, ..Policy::default() };
    let mut machine = one(Rules { restart, ..rules("a", &[]) });
    assert_eq!(ended(&mut machine, 10, 0, false), [Action::Launch(0)]);
    let then = ended(&mut machine, 11, 0, false);
    assert!(
        matches!(&then[..], [Action::Refuse(0, _), Action::Refuse(0, why)]
        if why.contains("given up") && why.contains("boom")),
        "{then:?}"
    );
    assert!(matches!(machine.phase(0), Phase::Failed { why } if why.contains("1 times")));
    assert_eq!(does(&mut machine, 20, Event::Restart { task: 0 }), [Action::Launch(0)]);
    does(&mut machine, 21, Event::Ready { task: 0 });
    assert_eq!(ended(&mut machine, 22, 0, false), [Action::Launch(0)], "a fresh budget");
}

#[test]
fn what_is_restarted_on_request_does_not_count() {
    let restart = Policy { budget: 0, ..Policy::default() };
    let mut machine = one(Rules { restart, ..rules("a", &[]) });
    for at in [10, 20, 30] {
        assert_eq!(does(&mut machine, at, Event::Restart { task: 0 }), [Action::Kill(0)]);
        assert_eq!(machine.killed_for(0), Some("somebody asked for a restart"));
        // The one that is to be no more is ready: nobody is told.
        assert!(does(&mut machine, at + 1, Event::Ready { task: 0 }).is_empty());
        assert_eq!(ended(&mut machine, at + 2, 0, false), [Action::Launch(0)]);
        assert_eq!(machine.killed_for(0), None);
        assert_eq!(does(&mut machine, at + 3, Event::Ready { task: 0 }), [Action::Answer(0)]);
    }
    assert_eq!(machine.starts(0), (4, 0));
}

#[test]
fn a_required_task_that_never_gets_ready_ends_the_start() {
    let mut machine = Machine::new([rules("a", &[])]);
    does(&mut machine, 0, Event::Begin);
    let then = ended(&mut machine, 5, 0, false);
    assert!(
        matches!(&then[..], [Action::Refuse(0, _), Action::Stop(why)]
        if why == "the task a ended before the system was ready: boom"),
        "{then:?}"
    );
    assert!(does(&mut machine, 6, Event::Tick).is_empty(), "it is over");
}

#[test]
fn without_one_that_is_not_required_the_system_is_ready() {
    let loose = Rules { required: false, ..rules("loose", &[]) };
    let mut machine = Machine::new([rules("a", &[]), loose]);
    does(&mut machine, 0, Event::Begin);
    let then = does(&mut machine, 1, Event::Ready { task: 0 });
    assert_eq!(then, [Action::Answer(0), Action::Announce]);
    let then = ended(&mut machine, 2, 1, false);
    assert!(matches!(&then[..], [Action::Refuse(1, _), Action::Launch(1)]), "{then:?}");
}

#[test]
fn never_and_on_failure() {
    let never = Policy { when: When::Never, ..Policy::default() };
    let mut machine = one(Rules { restart: never, ..rules("a", &[]) });
    assert!(!ended(&mut machine, 10, 0, false).is_empty());
    assert_eq!(machine.phase(0), &Phase::Failed { why: "it is not restarted: boom".into() });
    let mut machine = one(rules("a", &[]));
    assert!(ended(&mut machine, 10, 0, true).is_empty());
    assert_eq!(machine.phase(0), &Phase::Ended);
}

#[test]
fn a_task_given_up_takes_its_dependents_or_the_system_with_it() {
    let restart = Policy { budget: 0, ..Policy::default() };
    let first = Rules { restart, give_up: GiveUp::StopDependents, ..rules("a", &[]) };
    let all = [first.clone(), rules("b", &[0]), rules("c", &[1]), rules("d", &[])];
    let mut machine = Machine::new(all);
    does(&mut machine, 0, Event::Begin);
    for task in [3, 0, 1, 2] {
        does(&mut machine, 1, Event::Ready { task });
    }
    let then = ended(&mut machine, 10, 0, false);
    assert!(
        matches!(&then[..], [Action::Refuse(0, _), Action::Kill(1), Action::Kill(2)]),
        "{then:?}"
    );
    ended(&mut machine, 11, 1, false);
    ended(&mut machine, 11, 2, false);
    assert!(matches!(machine.phase(2), Phase::Failed { why } if why.contains("b, which")));
    assert_eq!(machine.phase(3), &Phase::Ready);

    let mut machine = one(Rules { give_up: GiveUp::StopSystem, ..first });
    let then = ended(&mut machine, 10, 0, false);
    assert!(
        matches!(&then[..], [Action::Refuse(0, _), Action::Stop(why)] if why.contains("a has failed"))
    );
}

#[test]
fn a_restart_waits_for_those_before_it() {
    let mut machine = Machine::new([rules("a", &[]), rules("b", &[0])]);
    does(&mut machine, 0, Event::Begin);
    does(&mut machine, 1, Event::Ready { task: 0 });
    does(&mut machine, 2, Event::Ready { task: 1 });
    assert_eq!(ended(&mut machine, 10, 0, false), [Action::Launch(0)]);
    assert!(ended(&mut machine, 11, 1, false).is_empty(), "a is not ready");
    assert_eq!(machine.phase(1), &Phase::Waiting);
    let then = does(&mut machine, 12, Event::Ready { task: 0 });
    assert_eq!(then, [Action::Answer(0), Action::Launch(1)]);
}

#[test]
fn a_stuck_task_is_shown_killed_or_restarted() {
    let stuck = |then| Event::Stuck { task: 0, then, why: "stuck".into() };
    let mut machine = one(rules("a", &[]));
    assert!(does(&mut machine, 10, stuck(Then::Report)).is_empty());
    assert_eq!(machine.stuck(0), Some(ms(10)));
    does(&mut machine, 11, Event::Moves { task: 0 });
    assert_eq!(machine.stuck(0), None);

    assert_eq!(does(&mut machine, 12, stuck(Then::Restart)), [Action::Kill(0)]);
    assert!(does(&mut machine, 13, stuck(Then::Restart)).is_empty(), "it is being killed");
    assert_eq!(machine.killed_for(0), Some("stuck"));
    let then = ended(&mut machine, 14, 0, true);
    assert_eq!(then.last(), Some(&Action::Launch(0)));
    assert_eq!(machine.starts(0), (2, 1), "it counts as a crash");

    does(&mut machine, 15, Event::Ready { task: 0 });
    assert_eq!(does(&mut machine, 16, stuck(Then::Kill)), [Action::Kill(0)]);
    ended(&mut machine, 17, 0, false);
    assert_eq!(machine.phase(0), &Phase::Failed { why: "stuck".into() });
}

#[test]
fn a_start_that_takes_too_long_is_a_crash() {
    let slow = Rules { ready_within: Some(ms(50)), required: false, ..rules("a", &[]) };
    let mut machine = Machine::new([slow]);
    does(&mut machine, 0, Event::Begin);
    assert_eq!(machine.next(), Some(ms(50)));
    assert_eq!(does(&mut machine, 50, Event::Tick), [Action::Kill(0)]);
    assert!(does(&mut machine, 51, Event::Tick).is_empty(), "once is enough");
    assert_eq!(machine.killed_for(0), Some("it was not ready within 50ms"));
    assert_eq!(ended(&mut machine, 52, 0, false).last(), Some(&Action::Launch(0)));
}

#[test]
fn who_does_not_serve_any_more_is_starting_again() {
    let mut machine = one(rules("a", &[]));
    does(&mut machine, 5, Event::NotReady { task: 0 });
    assert_eq!(machine.phase(0), &Phase::Starting);
    assert_eq!(does(&mut machine, 6, Event::Ready { task: 0 }), [Action::Answer(0)]);
}
