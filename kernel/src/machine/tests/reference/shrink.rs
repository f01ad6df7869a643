//! The shortest sequence that still fails (Zeller and Hildebrandt, "Simplifying and isolating
//! failure-inducing input", 2002), and what is printed of it.

use super::broken::Sabotage;
use super::runs::{Both, fails};
use super::steps::{Does, S, Step, With, script};
use std::fmt::Write;

/// A sequence that fails too, of which nothing can be left out. Ends at the step that fails.
pub(super) fn shortest(steps: Vec<Step>, sabotage: Sabotage) -> Vec<Step> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut steps = steps;
    loop {
        let before = steps.clone();
        let mut chunk = steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < steps.len() {
                let end = (at + chunk).min(steps.len());
                let fewer: Vec<Step> = steps[..at].iter().chain(&steps[end..]).cloned().collect();
                match fails(&fewer, sabotage) {
                    Some((last, _)) => {
                        steps = fewer;
                        steps.truncate(last + 1);
                    }
                    None => at = end,
                }
            }
            if chunk == 1 {
                break;
            }
            chunk = chunk.div_ceil(2);
        }
        for at in 0..steps.len() {
            for simpler in simpler(&steps[at]) {
                let mut other = steps.clone();
                other[at] = simpler;
                if let Some((last, _)) = fails(&other, sabotage) {
                    other.truncate(last + 1);
                    steps = other;
                    break;
                }
            }
            if at + 1 >= steps.len() {
                break;
            }
        }
        if steps == before {
            break;
        }
    }
    std::panic::set_hook(quiet);
    steps
}

/// The same step with less in it.
fn simpler(step: &Step) -> Vec<Step> {
    let one_less = |given: &[(S, With)]| -> Vec<Vec<(S, With)>> {
        (0..given.len())
            .map(|at| {
                let mut fewer = given.to_vec();
                fewer.remove(at);
                fewer
            })
            .collect()
    };
    let plain = |with: With| With(with.0, None, None, None);
    let does: Vec<Does> = match &step.does {
        Does::CreateTask(given) => one_less(given).into_iter().map(Does::CreateTask).collect(),
        Does::Offer(connection, items) if items.len() > 1 => (0..items.len())
            .map(|at| {
                let mut fewer = items.clone();
                fewer.remove(at);
                Does::Offer(*connection, fewer)
            })
            .collect(),
        Does::FrontDoor(slot, rules) => (0..rules.len())
            .flat_map(|at| {
                let mut without = rules.clone();
                without.remove(at);
                let less = one_less(&rules[at].1).into_iter().map(move |given| {
                    let mut rules = rules.clone();
                    rules[at].1 = given;
                    rules
                });
                core::iter::once(without).chain(less)
            })
            .map(|rules| Does::FrontDoor(*slot, rules))
            .collect(),
        Does::Mint(slot, with) if *with != plain(*with) => vec![Does::Mint(*slot, plain(*with))],
        Does::Serve(slot, Some(_)) => vec![Does::Serve(*slot, None)],
        Does::Connect { slot, speaks: Some(_), lines, doorbell } => {
            vec![Does::Connect { slot: *slot, speaks: None, lines: *lines, doorbell: *doorbell }]
        }
        _ => Vec::new(),
    };
    does.into_iter().map(|does| Step { does, ..step.clone() }).collect()
}

/// A failing sequence for people: the script, which can be put into a test as it is, and after each
/// line what it came to.
pub(super) fn report(steps: &[Step], sabotage: Sabotage) -> String {
    let mut text = String::from("replay(r#\"\n");
    let mut both = Both::new(sabotage);
    for step in steps {
        text.push_str(&script(core::slice::from_ref(step)));
        let _ = writeln!(text, "    // {}", both.brought.input(step));
        match both.take(step) {
            Ok(effects) => effects.iter().for_each(|it| _ = writeln!(text, "    // -> {it:?}")),
            Err(how) => {
                for line in how.lines() {
                    let _ = writeln!(text, "    // {line}");
                }
            }
        }
    }
    text.push_str("\"#);\n");
    text
}
