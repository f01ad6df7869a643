//! Machines that are broken on purpose: each is found, and the script that shows it is short.

use super::runs::{fails, random};
use super::shrink::{report, shortest};
use super::steps::{Step, parse, script};
use crate::effect::Effect;
use crate::input::Input;
use crate::machine::Machine;
use crate::machine::space::Cell;
use rendez_protocol::Rights;
use rendez_protocol::kernel::{Answer, Event, Request};
use std::collections::BTreeMap;

/// What is done to a machine, and to what it says, after each input.
pub(super) type Sabotage = fn(&mut Machine, &Input, &mut Vec<Effect>);

/// Rights grow on mint.
fn rights_grow(machine: &mut Machine, input: &Input, _: &mut Vec<Effect>) {
    if let Input::Request { who, request: Request::Mint { .. }, .. } = input {
        let minted: Vec<_> = machine
            .tasks
            .get(*who)
            .map_or(Vec::new(), |task| task.space.iter().map(|(slot, _)| slot).collect());
        for slot in minted {
            if let Ok((id, _)) = machine.capability(*who, slot)
                && machine.tree.depth(id) > 0
                && let Some(node) = machine.tree.get_mut(id)
            {
                node.powers.rights |= Rights::KILL;
            }
        }
    }
}

/// Whoever serves is not told that nobody can send any more.
fn no_senders_is_lost(_: &mut Machine, _: &Input, effects: &mut Vec<Effect>) {
    effects.retain(|it| !matches!(it, Effect::Event { event: Event::NoSenders { .. }, .. }));
}

/// What a death comes to is said in reverse.
fn ends_are_told_in_reverse(_: &mut Machine, input: &Input, effects: &mut [Effect]) {
    if let Input::Died { .. } = input {
        effects.reverse();
    }
}

/// A revocation counts one too few.
fn revoked_too_few(_: &mut Machine, _: &Input, effects: &mut Vec<Effect>) {
    for effect in effects {
        if let Effect::Answer { answer: Answer::Revoked { capabilities, .. }, .. } = effect {
            *capabilities = capabilities.saturating_sub(1);
        }
    }
}

/// A moved capability leaves a reserved place behind.
fn places_are_left(machine: &mut Machine, input: &Input, _: &mut Vec<Effect>) {
    if let Input::Request { request: Request::Move { .. }, who, .. } = input
        && let Some(task) = machine.tasks.get_mut(*who)
    {
        task.space.insert(Cell::Reserved);
    }
}

/// The first sequence that shows it, made as short as it gets.
fn found(sabotage: Sabotage) -> Vec<Step> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    // Of a few, since each gets as short only as its own way of failing allows.
    let failing: Vec<Vec<Step>> = (0..2_000)
        .filter_map(|seed| random(seed, sabotage, &mut BTreeMap::new()))
        .take(4)
        .collect();
    std::panic::set_hook(quiet);
    let short = failing.into_iter().map(|steps| shortest(steps, sabotage));
    short.min_by_key(Vec::len).expect("it is found")
}

#[test]
fn what_is_broken_is_found_and_shown_in_few_steps() {
    let reversed: Sabotage = |machine, input, effects| {
        ends_are_told_in_reverse(machine, input, effects);
    };
    let all: [(&str, Sabotage, usize); 5] = [
        ("rights grow on mint", rights_grow, 4),
        ("no senders is lost", no_senders_is_lost, 10),
        ("deaths are told in reverse", reversed, 6),
        ("a revocation counts too few", revoked_too_few, 6),
        ("a moved capability leaves a place behind", places_are_left, 5),
    ];
    for (what, sabotage, most) in all {
        let steps = found(sabotage);
        assert!(steps.len() <= most, "{what}: {}", report(&steps, sabotage));
        // It is the sabotage that fails, and nothing else.
        assert_eq!(fails(&steps, |_, _, _| ()), None, "{what}");
        // What is printed can be put back.
        let printed = script(&steps);
        assert_eq!(parse(&printed), steps, "{printed}");
        let (at, _) = fails(&parse(&printed), sabotage).expect(what);
        assert_eq!(at + 1, steps.len(), "{what}: it ends where it fails");
    }
}
