//! What becomes of tasks: events and times in, actions out. No process, clock or message here.
//!
//! ```text
//!            all that it starts after are ready            ready
//!  Waiting ───────────────────────────────► Starting ─────────────► Ready
//!     ▲                                        │  ▲                   │
//!     │                                        ▼  │ at once           │
//!     └───────────────── BackingOff ◄──────── its end ◄───────────────┘
//!                                              │
//!                                              ▼
//!                              Ended (well) or Failed (given up, or killed for it)
//! ```
//!
//! Each event is answered by actions, which whoever holds the machine performs, in their order.

use crate::restart::{History, Policy};
use crate::stuck::Then;
use std::collections::VecDeque;
use std::time::Duration;

mod ends;

/// What becomes of the others when a task is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GiveUp {
    /// Nothing: it is left failed.
    #[default]
    Leave,
    /// Those that start after it are stopped.
    StopDependents,
    /// The system is stopped.
    StopSystem,
}

/// What the machine knows of a task from the start.
#[derive(Clone, Debug)]
pub struct Rules {
    /// For people.
    pub name: String,
    /// Tasks that must be ready before it starts.
    pub after: Vec<usize>,
    /// Names that must be there before it starts.
    pub names: usize,
    /// It is ready once it has exited with 0.
    pub finishes: bool,
    /// Whether the system is ready only once it is.
    pub required: bool,
    /// How it is restarted.
    pub restart: Policy,
    /// What becomes of the others when it is given up.
    pub give_up: GiveUp,
    /// How long it may take from its start until it is ready.
    pub ready_within: Option<Duration>,
}

/// Where a task is in its life. Times are counted from the same moment as those of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Others must be ready first.
    Waiting,
    /// Its process runs, and it is not ready yet.
    Starting,
    /// It does what it is for.
    Ready,
    /// It will be started again.
    BackingOff {
        /// When.
        until: Duration,
    },
    /// It has ended, as it should.
    Ended,
    /// It will not be started again, unless somebody asks.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// What has happened. `task` is the place of a task among the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Those who can are to start.
    Begin,
    /// A task is ready.
    Ready {
        /// Which.
        task: usize,
    },
    /// A task is not ready any more, and lives.
    NotReady {
        /// Which.
        task: usize,
    },
    /// A name that a task needs has been found.
    Named {
        /// Which task.
        task: usize,
    },
    /// A task's process has ended, or could not be started.
    Ended {
        /// Which.
        task: usize,
        /// Whether it exited with 0.
        good: bool,
        /// How, for people.
        how: String,
    },
    /// Somebody asks for a restart.
    Restart {
        /// Of which.
        task: usize,
    },
    /// A task does not receive.
    Stuck {
        /// Which.
        task: usize,
        /// What is to be done.
        then: Then,
        /// What is said of it.
        why: String,
    },
    /// A task that was stuck gets on.
    Moves {
        /// Which.
        task: usize,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a task's process.
    Launch(usize),
    /// Kill a task's process.
    Kill(usize),
    /// Tell those who wait for a task that it is ready.
    Answer(usize),
    /// Tell those who wait for a task why they wait in vain.
    Refuse(usize, String),
    /// Say that the system is ready.
    Announce,
    /// Stop the system: why.
    Stop(String),
}

/// What happens once a process that is to end has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doom {
    /// The next is started.
    Restart,
    /// It stays away: why.
    Stay(String),
    /// Its policy decides, as after a crash.
    Crash,
}

#[derive(Debug)]
struct Life {
    rules: Rules,
    phase: Phase,
    /// Whether there is a process.
    runs: bool,
    started: Duration,
    /// When it is to have become ready.
    ready_by: Option<Duration>,
    /// It has been killed, and what for.
    doom: Option<(Doom, String)>,
    stuck: Option<Duration>,
    ever_ready: bool,
    history: History,
    starts: u32,
    restarts: u32,
    names_missing: usize,
}

/// The lives of all tasks.
#[derive(Debug)]
pub struct Machine {
    lives: Vec<Life>,
    announced: bool,
    stopped: bool,
}

impl Machine {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rules>) -> Self {
        let life = |rules: Rules| Life {
            phase: Phase::Waiting,
            runs: false,
            started: Duration::ZERO,
            ready_by: None,
            doom: None,
            stuck: None,
            ever_ready: false,
            history: History::default(),
            starts: 0,
            restarts: 0,
            names_missing: rules.names,
            rules,
        };
        Self { lives: rules.into_iter().map(life).collect(), announced: false, stopped: false }
    }

    /// Where a task is in its life.
    #[must_use]
    pub fn phase(&self, task: usize) -> &Phase {
        &self.lives[task].phase
    }

    /// Since when a task is stuck, if it is.
    #[must_use]
    pub fn stuck(&self, task: usize) -> Option<Duration> {
        self.lives[task].stuck
    }

    /// How often a task was started, and how often of these after an end and without being asked.
    #[must_use]
    pub fn starts(&self, task: usize) -> (u32, u32) {
        (self.lives[task].starts, self.lives[task].restarts)
    }

    /// When a task was started last.
    #[must_use]
    pub fn started(&self, task: usize) -> Duration {
        self.lives[task].started
    }

    /// What a task was killed for, from then until its end.
    #[must_use]
    pub fn killed_for(&self, task: usize) -> Option<&str> {
        self.lives[task].doom.as_ref().map(|(_, why)| why.as_str())
    }

    /// Whether the system has been said to be ready.
    #[must_use]
    pub const fn announced(&self) -> bool {
        self.announced
    }

    /// Whether the system is to be stopped: nothing more happens.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What a task that waits for others waits for, for people.
    #[must_use]
    pub fn waits_for(&self, task: usize) -> String {
        let life = &self.lives[task];
        let missing = life.rules.after.iter().filter(|on| !self.is_done(**on));
        let mut words: Vec<_> = missing
            .map(|on| match &self.lives[*on].phase {
                Phase::Failed { .. } => format!("{}, which has failed", self.lives[*on].rules.name),
                _ => self.lives[*on].rules.name.clone(),
            })
            .collect();
        if life.names_missing > 0 {
            words.push("names that nobody has registered yet".into());
        }
        words.join("; ")
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        let due = |life: &Life| match life.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Starting if life.doom.is_none() => life.ready_by,
            _ => None,
        };
        self.lives.iter().filter_map(due).min()
    }

    /// Takes an event in, which happened at `now`.
    pub fn handle(&mut self, now: Duration, event: Event) -> VecDeque<Action> {
        let mut actions = VecDeque::new();
        if self.stopped {
            return actions;
        }
        match event {
            Event::Begin => self.launch_all(now, &mut actions),
            Event::Ready { task } => self.ready(now, task, &mut actions),
            Event::NotReady { task } => {
                let life = &mut self.lives[task];
                if life.phase == Phase::Ready {
                    life.phase = Phase::Starting;
                }
            }
            Event::Named { task } => {
                let life = &mut self.lives[task];
                life.names_missing = life.names_missing.saturating_sub(1);
                self.launch_all(now, &mut actions);
            }
            Event::Ended { task, good, how } => self.ended(now, task, good, &how, &mut actions),
            Event::Restart { task } => {
                let life = &mut self.lives[task];
                life.history.forget();
                if life.runs {
                    self.kill(task, Doom::Restart, "somebody asked for a restart", &mut actions);
                } else {
                    self.launch(now, task, &mut actions);
                }
            }
            Event::Stuck { task, then, why } => {
                let life = &mut self.lives[task];
                if !life.runs || life.doom.is_some() {
                    return actions;
                }
                life.stuck.get_or_insert(now);
                match then {
                    Then::Report => {}
                    Then::Restart => self.kill(task, Doom::Crash, &why, &mut actions),
                    Then::Kill => self.kill(task, Doom::Stay(why.clone()), &why, &mut actions),
                }
            }
            Event::Moves { task } => self.lives[task].stuck = None,
            Event::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    /// Whether those that start after a task may start.
    fn is_done(&self, task: usize) -> bool {
        let life = &self.lives[task];
        match life.phase {
            Phase::Ready => true,
            Phase::Ended => life.rules.finishes,
            _ => false,
        }
    }

    fn may_start(&self, task: usize) -> bool {
        let life = &self.lives[task];
        life.names_missing == 0 && life.rules.after.iter().all(|on| self.is_done(*on))
    }

    /// Launches those who have waited for others and do not have to any more.
    fn launch_all(&mut self, now: Duration, actions: &mut VecDeque<Action>) {
        for task in 0..self.lives.len() {
            if self.lives[task].phase == Phase::Waiting && self.may_start(task) {
                self.launch(now, task, actions);
            }
        }
    }

    fn launch(&mut self, now: Duration, task: usize, actions: &mut VecDeque<Action>) {
        let life = &mut self.lives[task];
        life.phase = Phase::Starting;
        life.runs = true;
        life.started = now;
        life.ready_by = life.rules.ready_within.map(|within| now + within);
        life.starts = life.starts.saturating_add(1);
        life.doom = None;
        life.stuck = None;
        actions.push_back(Action::Launch(task));
    }

    /// Launches a task once those are ready that it starts after.
    fn launch_again(&mut self, now: Duration, task: usize, actions: &mut VecDeque<Action>) {
        self.lives[task].restarts = self.lives[task].restarts.saturating_add(1);
        if self.may_start(task) {
            self.launch(now, task, actions);
        } else {
            self.lives[task].phase = Phase::Waiting;
        }
    }

    fn kill(&mut self, task: usize, doom: Doom, why: &str, actions: &mut VecDeque<Action>) {
        let life = &mut self.lives[task];
        life.doom = Some((doom, why.into()));
        life.phase = Phase::Starting;
        actions.push_back(Action::Kill(task));
    }

    fn ready(&mut self, now: Duration, task: usize, actions: &mut VecDeque<Action>) {
        let life = &mut self.lives[task];
        // Of one that is to be no more, or is none: an event that was late.
        if life.phase != Phase::Starting || life.doom.is_some() {
            return;
        }
        life.phase = Phase::Ready;
        life.ready_by = None;
        life.ever_ready = true;
        actions.push_back(Action::Answer(task));
        self.launch_all(now, actions);
        self.announce(actions);
    }

    fn announce(&mut self, actions: &mut VecDeque<Action>) {
        if !self.announced && self.lives.iter().all(|life| life.ever_ready || !life.rules.required)
        {
            self.announced = true;
            actions.push_back(Action::Announce);
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut VecDeque<Action>) {
        for task in 0..self.lives.len() {
            let life = &self.lives[task];
            match life.phase {
                Phase::BackingOff { until } if until <= now => {
                    self.launch_again(now, task, actions);
                }
                Phase::Starting
                    if life.doom.is_none() && life.ready_by.is_some_and(|by| by <= now) =>
                {
                    let within = life.rules.ready_within.unwrap_or_default();
                    let why = format!("it was not ready within {}", crate::words::time(within));
                    self.kill(task, Doom::Crash, &why, actions);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
