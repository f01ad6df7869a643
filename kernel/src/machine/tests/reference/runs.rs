//! Both machines side by side, through random sequences.

use super::Reference;
use super::broken::Sabotage;
use super::dice::Draw;
use super::plain::{plain, plain_error};
use super::shrink::{report, shortest};
use super::steps::{Brought, Does, Step};
use crate::effect::Effect;
use crate::input::{Input, Outcome};
use crate::machine::Machine;
use crate::machine::tests::random::Dice;
use crate::quota::{Quotas, Shares};
use rendez_protocol::kernel::{Answer, Event, Shape};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Steps of a sequence.
const LENGTH: u32 = 160;
/// Sequences of the short run, which is part of every test run.
const FEW: u64 = 500;

/// Quotas that a short sequence reaches.
pub(super) fn quotas() -> Quotas {
    let segment = Shape { lines: 32, area_bytes: 4096 }.segment_bytes() as u64;
    // What tasks share is not modelled: there is plenty.
    let plenty = Shares {
        tasks: 1 << 20,
        capabilities: 1 << 30,
        endpoints: 1 << 30,
        connections: 1 << 30,
        regions: 1 << 30,
        bytes: 1 << 50,
    };
    Quotas {
        system: plenty,
        uid: Shares {
            tasks: 1 << 10,
            capabilities: 1 << 20,
            endpoints: 1 << 20,
            connections: 1 << 20,
            regions: 1 << 20,
            bytes: 1 << 40,
        },
        children: 5,
        capabilities: 24,
        endpoints: 4,
        notifications: 2,
        client_connections: 6,
        server_connections: 8,
        connections_to_one_server: 4,
        tickets: 3,
        parked: 4,
        watches: 4,
        regions: 3,
        region_bytes: 5 * 4096,
        segment_bytes: 9 * segment,
        reply_bytes_of_one_server: 3 * segment,
        ..Quotas::default()
    }
}

/// Both, and what they have brought.
#[derive(Debug)]
pub(super) struct Both {
    machine: Machine,
    pub(super) reference: Reference,
    pub(super) brought: Brought,
    sabotage: Sabotage,
}

impl Both {
    pub(super) fn new(sabotage: Sabotage) -> Self {
        let mut machine = Machine::new(quotas());
        // Nothing is put off: what is under way between two portions is not for the reference.
        machine.portion = usize::MAX;
        let (reference, brought) = (Reference::new(quotas()), Brought::default());
        Self { machine, reference, brought, sabotage }
    }

    /// Takes a step, with both: what they said, or how they differ, or which invariant is broken.
    pub(super) fn take(&mut self, step: &Step) -> Result<Vec<Effect>, String> {
        let input = self.brought.input(step);
        let (outcome, effects) = self.tell(input.clone())?;
        let (wanted_outcome, wanted) =
            catch_unwind(AssertUnwindSafe(|| self.reference.apply(input)))
                .map_err(|_| "the reference panicked".to_owned())?;
        let plain_outcome = |outcome: Outcome| match outcome {
            Outcome::Refused(mut error) => {
                plain_error(&mut error);
                Outcome::Refused(error)
            }
            other => other,
        };
        let (said, wanted) = (plain(effects.clone()), plain(wanted));
        let (outcome, wanted_outcome) = (plain_outcome(outcome), plain_outcome(wanted_outcome));
        if outcome != wanted_outcome || said != wanted {
            return Err(difference(&(outcome.clone(), said), &(wanted_outcome, wanted)));
        }
        catch_unwind(AssertUnwindSafe(|| self.machine.check()))
            .map_err(|_| "an invariant is broken".to_owned())?;
        self.brought.learn(step, &outcome, &effects);
        self.brought.ticket_for(step);
        Ok(effects)
    }

    /// Tells the machine something, and has it do whatever it puts off.
    fn tell(&mut self, input: Input) -> Result<(Outcome, Vec<Effect>), String> {
        catch_unwind(AssertUnwindSafe(|| {
            let mut effects = Vec::new();
            let outcome = self.machine.apply(input.clone(), &mut effects);
            while self.machine.is_at_work() {
                let _ = self.machine.apply(Input::Step, &mut effects);
            }
            (self.sabotage)(&mut self.machine, &input, &mut effects);
            (outcome, effects)
        }))
        .map_err(|_| "the machine panicked".to_owned())
    }
}

/// Where two lists of effects part.
fn difference(said: &(Outcome, Vec<Effect>), wanted: &(Outcome, Vec<Effect>)) -> String {
    if said.0 != wanted.0 {
        return format!("the machine: {:?}\nthe reference: {:?}", said.0, wanted.0);
    }
    let pairs = said.1.iter().zip(&wanted.1);
    let at = pairs.take_while(|(one, other)| one == other).count();
    let show = |it: Option<&Effect>| it.map_or("nothing more".into(), |it| format!("{it:?}"));
    format!(
        "after {at} effects alike\nthe machine: {}\nthe reference: {}",
        show(said.1.get(at)),
        show(wanted.1.get(at))
    )
}

/// Takes a sequence of steps: at which it fails, and how.
pub(super) fn fails(steps: &[Step], sabotage: Sabotage) -> Option<(usize, String)> {
    let mut both = Both::new(sabotage);
    steps.iter().enumerate().find_map(|(at, step)| both.take(step).err().map(|how| (at, how)))
}

/// Draws a sequence and takes it; the steps until the first failure, if there is one.
pub(super) fn random(
    seed: u64,
    sabotage: Sabotage,
    seen: &mut BTreeMap<&'static str, u64>,
) -> Option<Vec<Step>> {
    let mut dice = Dice(seed);
    let mut both = Both::new(sabotage);
    let mut taken = Vec::new();
    for number in 1..=LENGTH {
        let (reference, brought) = (&both.reference, &both.brought);
        let step = Draw { dice: &mut dice, reference, brought, step: number, missed: None }.draw();
        taken.push(step.clone());
        match both.take(&step) {
            Err(_) => return Some(taken),
            Ok(effects) => effects.iter().for_each(|it| *seen.entry(name(it)).or_default() += 1),
        }
    }
    // And then everybody dies, and nothing is left.
    let living: Vec<u32> = both.brought.tasks.keys().copied().collect();
    for (who, number) in living.into_iter().zip(LENGTH + 1..) {
        let step = Step { step: number, who, does: Does::Die };
        taken.push(step.clone());
        if both.take(&step).is_err() {
            return Some(taken);
        }
    }
    assert_eq!(both.machine.tasks().count(), 0);
    None
}

/// What sort of effect it is, for seeing that all sorts come.
fn name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Answer { answer, .. } => match answer {
            Answer::Welcome { .. } => "welcome",
            Answer::Done => "done",
            Answer::Slot(_) => "slot",
            Answer::Task { .. } => "task",
            Answer::Revoked { unacknowledged, .. } if !unacknowledged.is_empty() => "late",
            Answer::Revoked { connections: 1.., .. } => "severed",
            Answer::Revoked { capabilities: 1.., .. } => "revoked",
            Answer::Revoked { .. } => "revoked nothing",
            Answer::Inspected(_) => "inspected",
            Answer::Ticket(_) => "ticket",
            Answer::Received(_) => "received",
            Answer::Serving { .. } => "serving",
            Answer::Connecting { .. } => "connecting",
            Answer::Connected { .. } => "connected",
            Answer::Region(_) => "region",
            Answer::Mapping { .. } => "mapping",
            Answer::Held { .. } => "held",
            Answer::Ends { .. } => "ends",
            Answer::Provenance(_) => "provenance",
            Answer::Error(error) => error_name(error),
            _ => "other answers",
        },
        Effect::Event { event, .. } => match event {
            Event::Incoming { .. } => "incoming",
            Event::Closed { .. } => "closed",
            Event::Watched { .. } => "watched",
            Event::NoSenders { .. } => "no senders",
            _ => "other events",
        },
        Effect::Status { .. } => "status",
        Effect::Signal { .. } => "signal",
        Effect::ForgetTask(_) => "forget task",
        Effect::ForgetRegion(_) => "forget region",
        Effect::Unset(_) => "unset",
        _ => "other effects",
    }
}

fn error_name(error: &rendez_protocol::kernel::KernelError) -> &'static str {
    use rendez_protocol::kernel::KernelError;
    match error {
        KernelError::BadSlot(_) => "bad slot",
        KernelError::WrongObject { .. } => "wrong object",
        KernelError::MissingRights { .. } => "missing rights",
        KernelError::Badged { .. } => "badged",
        KernelError::Quota { .. } => "quota",
        KernelError::Dead => "dead",
        KernelError::Served(_) => "served",
        KernelError::Version { .. } => "version",
        KernelError::BadConnection(_) => "bad connection",
        KernelError::NotCompleted(_) => "not completed",
        KernelError::BadTicket => "bad ticket",
        KernelError::Cancelled => "cancelled",
        KernelError::NotHeld { .. } => "not held",
        _ => "other errors",
    }
}

/// So many random sequences, from this seed on.
fn sequences(first: u64, count: u64) -> BTreeMap<&'static str, u64> {
    let mut seen = BTreeMap::new();
    for seed in first..first + count {
        if let Some(steps) = random(seed, |_, _, _| (), &mut seen) {
            let shortest = shortest(steps, |_, _, _| ());
            panic!("seed {seed}:\n{}", report(&shortest, |_, _, _| ()));
        }
        if count > FEW && (seed + 1 - first).is_multiple_of((count / 20).max(1)) {
            println!("{} of {count} sequences", seed + 1 - first);
        }
    }
    seen
}

#[test]
fn the_machine_says_what_the_reference_says() {
    let seen = sequences(0, FEW);
    for name in [
        "welcome",
        "done",
        "slot",
        "task",
        "late",
        "severed",
        "revoked",
        "inspected",
        "ticket",
        "received",
        "serving",
        "connecting",
        "connected",
        "region",
        "mapping",
        "held",
        "ends",
        "provenance",
        "bad slot",
        "wrong object",
        "missing rights",
        "badged",
        "quota",
        "dead",
        "served",
        "version",
        "bad connection",
        "not completed",
        "bad ticket",
        "cancelled",
        "not held",
        "incoming",
        "closed",
        "watched",
        "no senders",
        "status",
        "signal",
        "forget task",
        "forget region",
        "unset",
    ] {
        assert!(seen.get(name).is_some_and(|count| *count >= 3), "{name} hardly ever: {seen:?}");
    }
}

/// Long: `RENDEZ_SEQUENCES=1000000 cargo test --release -p rendez-kernel -- --ignored many_sequences`.
/// `RENDEZ_SEED` is the first one's seed.
#[test]
#[ignore = "takes as long as it is told to"]
fn many_sequences() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let count = number("RENDEZ_SEQUENCES", 1_000_000);
    println!("{:?}", sequences(number("RENDEZ_SEED", 0), count));
}
