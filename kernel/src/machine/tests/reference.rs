//! Capabilities against a naive reference: a list in which everybody knows its parent, searched
//! from end to end for every question.

use super::random::Dice;
use super::{Answer, KernelError, Request, Rights, Slot, TaskId, World, give, revoked};
use crate::machine::endpoint::ENDPOINT_RIGHTS;
use rendez_protocol::kernel::Limits;

#[derive(Clone, Debug)]
struct Entry {
    who: TaskId,
    slot: Slot,
    rights: Rights,
    badge: u64,
    parent: Option<usize>,
    lives: bool,
}

#[derive(Debug, Default)]
struct Reference(Vec<Entry>);

impl Reference {
    fn is_below(&self, mut at: usize, top: usize) -> bool {
        while let Some(parent) = self.0[at].parent {
            if parent == top {
                return true;
            }
            at = parent;
        }
        false
    }

    fn below(&self, top: usize) -> Vec<usize> {
        (0..self.0.len()).filter(|at| self.0[*at].lives && self.is_below(*at, top)).collect()
    }

    fn depth(&self, at: usize) -> u32 {
        (0..self.0.len()).filter(|top| self.is_below(at, *top)).count() as u32
    }

    fn delete(&mut self, gone: usize) {
        let parent = self.0[gone].parent;
        self.0[gone].lives = false;
        for entry in &mut self.0 {
            if entry.parent == Some(gone) {
                entry.parent = parent;
            }
        }
    }

    /// What minting should say: the error, or the badge.
    fn mint(&self, at: usize, rights: Rights, badge: Option<u64>) -> Result<u64, KernelError> {
        let Entry { slot, rights: held, badge: before, lives, .. } = self.0[at];
        if !lives {
            return Err(KernelError::BadSlot(slot));
        }
        let missing = (rights | Rights::MINT) - held;
        if !missing.is_empty() {
            return Err(KernelError::MissingRights { slot, missing, held });
        }
        match badge {
            Some(badge) if before != 0 && before != badge => {
                Err(KernelError::Badged { slot, badge: before })
            }
            _ => Ok(badge.unwrap_or(before)),
        }
    }
}

#[test]
fn capabilities_are_what_a_naive_list_says() {
    for seed in 100..110 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let (mut world, first, _) = World::started();
    let mut reference = Reference::default();
    let mut tasks = vec![first];
    let top = world.endpoint(first);
    let entry =
        |who, slot, rights, badge, parent| Entry { who, slot, rights, badge, parent, lives: true };
    reference.0.push(entry(first, top, ENDPOINT_RIGHTS, 0, None));

    for _ in 0..400 {
        // Mostly living ones, sometimes the dead.
        let living: Vec<usize> =
            (0..reference.0.len()).filter(|at| reference.0[*at].lives).collect();
        let at = match dice.below(10) {
            0 => dice.below(reference.0.len()),
            _ => dice.pick(&living).unwrap_or(0),
        };
        let Entry { who, slot, rights: held, lives, .. } = reference.0[at].clone();
        if !world.machine.is_alive(who) {
            continue;
        }
        let stale = Answer::Error(KernelError::BadSlot(slot));
        match dice.below(20) {
            0..9 => {
                let some = Rights::from_bits_retain(dice.next() as u32);
                let rights = if dice.below(3) == 0 { held & some } else { held };
                let rights = if dice.below(9) == 0 { rights | Rights::KILL } else { rights };
                let badge = (dice.below(4) == 0).then(|| dice.next() % 3);
                let wanted = reference.mint(at, rights, badge);
                match (
                    world.ask(who, Request::Mint { slot, rights, badge, limits: Limits::SAME }),
                    wanted,
                ) {
                    (Answer::Slot(got), Ok(badge)) => {
                        assert_eq!((got.rights, got.badge), (rights, badge), "seed {seed}");
                        reference.0.push(entry(who, got.slot, rights, badge, Some(at)));
                    }
                    (Answer::Error(error), Err(wanted)) => assert_eq!(error, wanted),
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            9..12 => match world.ask(who, Request::Move { slot }) {
                Answer::Slot(got) if lives => reference.0[at].slot = got.slot,
                answer => assert_eq!(answer, stale, "seed {seed}"),
            },
            12..15 => {
                let answer = world.ask(who, Request::Delete { slot });
                assert_eq!(answer, if lives { Answer::Done } else { stale }, "seed {seed}");
                if lives {
                    reference.delete(at);
                }
            }
            15 => {
                let below = if lives { reference.below(at) } else { Vec::new() };
                let capabilities = below.len() as u32;
                let gone = revoked(capabilities, 0);
                let answer = world.ask(who, Request::Revoke { slot });
                assert_eq!(answer, if lives { gone } else { stale }, "seed {seed}");
                for gone in below {
                    reference.0[gone].lives = false;
                    reference.0[gone].parent = None;
                }
            }
            16..18 if lives && held.contains(Rights::GRANT) => {
                let (child, _, given) = world.spawn(who, vec![give(slot, held)]);
                tasks.push(child);
                let badge = reference.0[at].badge;
                reference.0.push(entry(child, given[0], held, badge, Some(at)));
            }
            18 if tasks.len() > 3 => {
                let gone = tasks.swap_remove(1 + dice.below(tasks.len() - 1));
                world.die(gone);
                for at in 0..reference.0.len() {
                    if reference.0[at].lives && reference.0[at].who == gone {
                        reference.delete(at);
                    }
                }
            }
            _ => match world.ask(who, Request::Inspect { slot }) {
                Answer::Inspected(seen) if lives => {
                    let Entry { rights, badge, .. } = reference.0[at];
                    assert_eq!((seen.itself.rights, seen.itself.badge), (rights, badge));
                    assert_eq!(seen.descendants, reference.below(at).len() as u32, "seed {seed}");
                    assert_eq!(seen.depth, reference.depth(at), "seed {seed}");
                }
                answer => assert_eq!(answer, stale, "seed {seed}"),
            },
        }
        world.log.clear();
        if living.is_empty() {
            let slot = world.endpoint(first);
            reference.0.push(entry(first, slot, ENDPOINT_RIGHTS, 0, None));
        }
    }
}
