//! Running a recording again, on the machine alone.

use super::read::{Reader, Recorded, Unreadable};
use super::{End, digest};
use crate::effect::Effect;
use crate::input::{Input, Outcome};
use crate::machine::Machine;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a replay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The recording ends here, but not as it should.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The same input has come to other effects.
    #[error(
        "step {} came to other effects than were recorded (digest {recorded:016x} then, {now:016x} \
         now):\n{}", step.number, step.script()
    )]
    Different {
        /// What has come to what, now.
        step: Box<Step>,
        /// The digest in the recording.
        recorded: u64,
        /// The one of what came now.
        now: u64,
    },
    /// The machine panicked, over the input or when its invariants were checked.
    #[error("step {number} broke the machine: {what}\n{input}")]
    Broken {
        /// Which, from 1.
        number: u64,
        /// What it was told.
        input: Box<Input>,
        /// What the panic said.
        what: String,
    },
}

/// One step that was run again.
#[derive(Debug)]
pub struct Step {
    /// Which, from 1.
    pub number: u64,
    /// What the machine was told.
    pub input: Input,
    /// What it came to at once.
    pub outcome: Outcome,
    /// What was to be done.
    pub effects: Vec<Effect>,
}

impl Step {
    /// The step in words: what was told, and below it what came of it, a line each.
    #[must_use]
    pub fn script(&self) -> String {
        let mut text = self.input.to_string();
        match &self.outcome {
            Outcome::Done => {}
            outcome => text.push_str(&format!("\n    -> {outcome:?}")),
        }
        for effect in &self.effects {
            text.push_str(&format!("\n    -> {effect:?}"));
        }
        text
    }
}

/// A recording that is being run again.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    machine: Machine,
    steps: u64,
    effects: u64,
    check_every: u64,
}

impl<R: Read> Replay<R> {
    /// Reads the beginning. After every `check_every`th step all invariants of the machine are
    /// checked, which takes a time that grows with how much there is; 0 for never.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn new(source: R, check_every: u64) -> Result<Self, Unreadable> {
        let reader = Reader::new(source)?;
        let machine = Machine::new(reader.header().quotas);
        Ok(Self { reader, machine, steps: 0, effects: 0, check_every })
    }

    /// The recording.
    #[must_use]
    pub fn reader(&self) -> &Reader<R> {
        &self.reader
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Effects so far.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.effects
    }

    /// How the recording ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.reader.end()
    }

    /// The machine, as it is now.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs the next step again and compares; `None` after the last.
    ///
    /// # Errors
    /// [`Failed`]. There is no going on after one.
    pub fn next_step(&mut self) -> Result<Option<Step>, Failed> {
        let Some(Recorded { input, effects: recorded, .. }) = self.reader.next_input()? else {
            return Ok(None);
        };
        self.steps = self.steps.saturating_add(1);
        let number = self.steps;
        let checks = self.check_every > 0 && number.is_multiple_of(self.check_every);
        let mut effects = Vec::new();
        // Nobody looks at a machine that has panicked.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let outcome = self.machine.apply(input.clone(), &mut effects);
            if checks {
                self.machine.check();
            }
            outcome
        }))
        .map_err(|cause| Failed::Broken {
            number,
            input: Box::new(input.clone()),
            what: said(cause.as_ref()),
        })?;
        self.effects = self.effects.saturating_add(effects.len() as u64);
        let now = digest(&outcome, &effects);
        let step = Step { number, input, outcome, effects };
        match recorded {
            Some(recorded) if recorded != now => {
                Err(Failed::Different { step: Box::new(step), recorded, now })
            }
            _ => Ok(Some(step)),
        }
    }
}

/// What a panic said.
fn said(cause: &(dyn core::any::Any + Send)) -> String {
    cause
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).into()))
        .unwrap_or_else(|| "it panicked".into())
}
