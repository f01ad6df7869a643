//! What the pure machine is told: one value for each of its entry points.
//!
//! A run of the kernel is the list of its inputs, in order, and nothing else: the machine reads no
//! clock, draws no lots, and sees nothing of the world. So a list that was recorded can be run again
//! on another machine, and comes to the same effects. The shell tells the machine things in one
//! place only, by [`Machine::apply`].

use crate::effect::{Alarm, Effect, Pair, Side};
use crate::machine::Machine;
use rendez_protocol::kernel::{Credentials, Hello, KernelError, Request};
use rendez_protocol::{ConnectionId, ObjectId, Slot, SpareId, TaskId, Version, Why};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that the machine is told. The methods of [`Machine`] say what each comes to.
///
/// New ones go to the end: their order is part of the format of recordings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// `Machine::create_first`.
    First {
        /// Its name.
        name: String,
    },
    /// `Machine::admit`.
    Admit {
        /// What the process calls itself.
        name: String,
        /// Who it is.
        credentials: Credentials,
        /// Whether it has the system's own uid.
        own_uid: bool,
    },
    /// `Machine::hello`.
    Hello {
        /// Who says it.
        who: TaskId,
        /// Which request.
        transaction: u64,
        /// What it speaks.
        version: Version,
        /// Who it is to Linux.
        credentials: Credentials,
    },
    /// `Machine::handle`.
    Request {
        /// Who asks.
        who: TaskId,
        /// Which request.
        transaction: u64,
        /// For what.
        request: Request,
    },
    /// `Machine::sealed`.
    Sealed {
        /// Of which pair.
        pair: Pair,
        /// Whose segment.
        side: Side,
        /// What was seen.
        result: Result<(), KernelError>,
    },
    /// `Machine::give_up`.
    GiveUp {
        /// Which pair.
        pair: Pair,
        /// Which end lacks something.
        side: Side,
        /// What the other end is told.
        why: Why,
    },
    /// `Machine::spare_looked_at`.
    SpareLookedAt {
        /// Whose.
        task: TaskId,
        /// Which.
        spare: SpareId,
        /// What was seen.
        result: Result<(), KernelError>,
    },
    /// `Machine::spare_failed`.
    SpareFailed {
        /// Whose.
        task: TaskId,
        /// Which.
        spare: SpareId,
    },
    /// `Machine::told`.
    Told {
        /// The server of which connection.
        connection: ConnectionId,
    },
    /// `Machine::region_looked_at`.
    RegionLookedAt {
        /// Who asked.
        who: TaskId,
        /// Its request.
        transaction: u64,
        /// Which.
        region: ObjectId,
        /// What was seen.
        result: Result<(), KernelError>,
    },
    /// `Machine::take_back`.
    TakeBack {
        /// Who was not told of it.
        creator: TaskId,
        /// The capability that vanishes.
        capability: Slot,
    },
    /// `Machine::never_made`.
    NeverMade {
        /// Who was not told of it.
        creator: TaskId,
        /// The capability that vanishes.
        capability: Slot,
        /// The task that vanishes.
        child: TaskId,
    },
    /// `Machine::died`.
    Died {
        /// Who.
        who: TaskId,
    },
    /// `Machine::expired`.
    Expired {
        /// Which alarm.
        alarm: Alarm,
    },
    /// `Machine::step`.
    Step,
    /// `Machine::unheard`.
    Unheard {
        /// Which server.
        server: TaskId,
        /// Of which connection.
        connection: ConnectionId,
    },
}

/// What an input comes to at once, apart from its effects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum Outcome {
    /// Nothing more.
    Done,
    /// Of [`Input::First`] and [`Input::Admit`]: a task.
    Task(TaskId),
    /// Of [`Input::Admit`]: nobody was let in.
    Refused(KernelError),
}

impl Outcome {
    /// The task that there is now.
    ///
    /// # Errors
    /// Why there is none.
    pub fn task(self) -> Result<TaskId, KernelError> {
        match self {
            Self::Task(task) => Ok(task),
            Self::Refused(error) => Err(error),
            Self::Done => Err(KernelError::Order("nobody was to be let in".into())),
        }
    }
}

/// Who does what, in one line.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |result: &Result<(), KernelError>| match result {
            Ok(()) => "sealed and whole".into(),
            Err(error) => format!("{error}"),
        };
        match self {
            Self::First { name } => write!(f, "the first task is made: {name:?}"),
            Self::Admit { name, credentials: Credentials { pid, uid, gid }, own_uid } => {
                let own = if *own_uid { ", the system's own uid" } else { "" };
                write!(f, "pid {pid} (uid {uid}{own}, gid {gid}) comes in: {name:?}")
            }
            Self::Hello { who, transaction, version, credentials } => {
                write!(f, "{who} greets ({transaction}): pid {}, {version}", credentials.pid)
            }
            Self::Request { who, transaction, request } => {
                write!(f, "{who} asks ({transaction}): {request:?}")
            }
            Self::Sealed { pair, side, result } => {
                write!(f, "the shell has looked at {pair:?}, {side:?}: {}", seen(result))
            }
            Self::GiveUp { pair, side, why } => {
                write!(f, "the shell gives {pair:?} up for {side:?}: {why}")
            }
            Self::SpareLookedAt { task, spare, result } => {
                write!(f, "the shell has looked at {spare} of {task}: {}", seen(result))
            }
            Self::SpareFailed { task, spare } => {
                write!(f, "the shell cannot make {spare} of {task}")
            }
            Self::Told { connection } => {
                write!(f, "the shell has told the server of {connection}")
            }
            Self::RegionLookedAt { who, transaction, region, result } => {
                let seen = seen(result);
                write!(f, "the shell has looked at {region:?} for {who} ({transaction}): {seen}")
            }
            Self::TakeBack { creator, capability } => {
                write!(f, "the shell cannot make what {capability} of {creator} names")
            }
            Self::NeverMade { creator, capability, child } => {
                write!(f, "the shell cannot make {child}, {capability} of {creator}")
            }
            Self::Died { who } => write!(f, "{who} dies"),
            Self::Expired { alarm } => write!(f, "it is time for {alarm:?}"),
            Self::Step => write!(f, "a portion of what was put off is done"),
            Self::Unheard { server, connection } => {
                write!(f, "{server} was never told of {connection}, which is over")
            }
        }
    }
}

impl Machine {
    /// Tells the machine something. What must happen now is appended to `effects`.
    pub fn apply(&mut self, input: Input, effects: &mut Vec<Effect>) -> Outcome {
        match input {
            Input::First { name } => return Outcome::Task(self.create_first(&name, effects)),
            Input::Admit { name, credentials, own_uid } => {
                return match self.admit(&name, credentials, own_uid, effects) {
                    Ok(task) => Outcome::Task(task),
                    Err(error) => Outcome::Refused(error),
                };
            }
            Input::Hello { who, transaction, version, credentials } => {
                self.hello(who, transaction, Hello { version }, credentials, effects);
            }
            Input::Request { who, transaction, request } => {
                self.handle(who, transaction, request, effects);
            }
            Input::Sealed { pair, side, result } => self.sealed(pair, side, result, effects),
            Input::GiveUp { pair, side, why } => self.give_up(pair, side, why, effects),
            Input::SpareLookedAt { task, spare, result } => {
                self.spare_looked_at(task, spare, result, effects);
            }
            Input::SpareFailed { task, spare } => self.spare_failed(task, spare, effects),
            Input::Told { connection } => self.told(connection, effects),
            Input::RegionLookedAt { who, transaction, region, result } => {
                self.region_looked_at(who, transaction, region, result, effects);
            }
            Input::TakeBack { creator, capability } => {
                self.take_back(creator, capability, effects);
            }
            Input::NeverMade { creator, capability, child } => {
                self.never_made(creator, capability, child, effects);
            }
            Input::Died { who } => self.died(who, effects),
            Input::Expired { alarm } => self.expired(alarm, effects),
            Input::Step => self.step(effects),
            Input::Unheard { server, connection } => self.unheard(server, connection, effects),
        }
        Outcome::Done
    }
}
