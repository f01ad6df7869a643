//! What the supervisor says of its tasks: how they are, and how those ended that ended.

use crate::entry::{Output, Running};
use crate::log::prefixed;
use crate::machine::Phase;
use crate::server::{BuiltIn, Supervisor};
use crate::words::time;
use rendez::protocol::{encode, supervisor};
use rendez::service::Refusal;
use rendez_ipc_core::status::monotonic_ns;
use rendez_protocol::supervisor::{Death, End, State, status};
use std::time::{Duration, UNIX_EPOCH};

/// Somebody who has ended and is not in the records yet.
#[derive(Debug)]
pub(crate) struct Dead {
    place: usize,
    running: Option<Running>,
    death: Death,
}

fn in_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl<P: BuiltIn> Supervisor<P> {
    /// Notes an end while it is known how it came about; what it was doing is read later. Answers how
    /// it ended, for people.
    pub(crate) fn note_death(
        &mut self,
        place: usize,
        running: Option<Running>,
        end: End,
    ) -> String {
        let killed_for = self.machine.killed_for(place).unwrap_or_default().to_owned();
        let how =
            if killed_for.is_empty() { end.to_string() } else { format!("{end}: {killed_for}") };
        let ran = match running {
            Some(_) => self.now().saturating_sub(self.machine.started(place)),
            None => Duration::ZERO,
        };
        let death = Death {
            number: 0,
            name: self.plan.tasks[place].name.clone(),
            incarnation: self.machine.starts(place).0,
            task: running.as_ref().map(|running| running.id),
            pid: running.as_ref().map(|running| running.child.id()),
            at_unix_ms: UNIX_EPOCH.elapsed().map_or(0, in_ms),
            ran_ms: in_ms(ran),
            end,
            killed_for,
            then: String::new(),
            serving: Vec::new(),
            waiting: Vec::new(),
            log: Vec::new(),
        };
        self.entries[place].last_end.clone_from(&how);
        self.dead.push(Dead { place, running, death });
        how
    }

    /// The machine has decided what becomes of a task that has ended.
    pub(crate) fn decided(&mut self, place: usize) {
        let then = match self.machine.phase(place) {
            _ if self.machine.is_stopped() => "the system stopped".into(),
            Phase::Starting | Phase::Ready => "restarted at once".into(),
            Phase::BackingOff { until } => {
                let left = until.saturating_sub(self.now()).as_millis() + 1;
                format!("restarted after {}", time(Duration::from_millis(left as u64)))
            }
            Phase::Waiting => format!("restarted after: {}", self.machine.waits_for(place)),
            Phase::Ended => "that was its end".into(),
            Phase::Failed { why } => why.clone(),
        };
        if let Some(dead) = self.dead.iter_mut().rev().find(|dead| dead.place == place) {
            dead.death.then = then;
        }
    }

    /// Puts those who have ended into the records, with what they were doing and their last words.
    pub(crate) fn bury(&mut self) {
        for Dead { place, running, mut death } in std::mem::take(&mut self.dead) {
            if let Some(running) = running {
                if let Some(page) = &running.page {
                    let tasks = self.task.list(self.kernel).unwrap_or_default();
                    (death.serving, death.waiting) =
                        crate::pages::doings(page, &tasks, monotonic_ns());
                }
                self.last_words(place, running.output);
            }
            death.log = self.entries[place].log.next_incarnation();
            self.deaths.record(death);
        }
    }

    /// Reads what a process that has ended has still written.
    fn last_words(&mut self, place: usize, mut output: Output) {
        let mut buffer = Output::buffer();
        // As much as a pipe can hold: a child of it may go on writing.
        for _ in 0..64 {
            match output.read(&mut buffer) {
                Some(bytes) if !bytes.is_empty() => self.said(place, bytes),
                _ => break,
            }
        }
        if let Some(line) = self.entries[place].log.end() {
            self.scribe.write(prefixed(&self.plan.tasks[place].name, &line));
        }
    }

    /// The records of deaths that were asked for.
    ///
    /// # Errors
    /// If there is no task of that name.
    pub(crate) fn deaths_of(
        &self,
        asked: &supervisor::Deaths,
        room: usize,
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(name) = &asked.name {
            self.place(name)?;
        }
        Ok(encode(&self.deaths.list(asked.name.as_deref(), asked.before, room)))
    }

    pub(crate) fn place(&self, name: &str) -> Result<usize, Refusal> {
        self.plan.find(name).ok_or_else(|| {
            let known: Vec<_> = self.plan.tasks.iter().map(|task| task.name.as_str()).collect();
            Refusal::new(
                status::NOT_FOUND,
                format!("no task is called {name:?}; there are: {}", known.join(", ")),
            )
        })
    }

    pub(crate) fn list(&self, list: supervisor::List, room: usize) -> supervisor::Listing {
        let mut listing = supervisor::Listing { servers: Vec::new(), more: false };
        let mut used = 8;
        for place in list.skip as usize..self.entries.len() {
            let server = self.describe(place);
            used += encode(&server).len();
            if used > room {
                listing.more = true;
                break;
            }
            listing.servers.push(server);
        }
        listing
    }

    fn describe(&self, place: usize) -> supervisor::Server {
        let (entry, now) = (&self.entries[place], self.now());
        let ms = in_ms;
        let state = match (self.machine.phase(place), self.machine.stuck(place)) {
            (Phase::Ready | Phase::Starting, Some(since)) => {
                State::Stuck { for_ms: ms(now.saturating_sub(since)) }
            }
            (Phase::Waiting, _) => State::Waiting { on: self.machine.waits_for(place) },
            (Phase::Starting, None) => State::Starting,
            (Phase::Ready, None) => State::Ready,
            (Phase::BackingOff { until }, _) => {
                State::BackingOff { in_ms: ms(until.saturating_sub(now)) }
            }
            (Phase::Ended, _) => State::Ended,
            (Phase::Failed { why }, _) => State::Failed { why: why.clone() },
        };
        let (starts, restarts) = self.machine.starts(place);
        let is_name_server = self.plan.name_server().is_some_and(|(task, _)| task == place);
        let last_end = match &self.registered {
            Err(why) if is_name_server && state == State::Ready => {
                format!("names are not registered yet: {why}")
            }
            _ => entry.last_end.clone(),
        };
        supervisor::Server {
            name: self.plan.tasks[place].name.clone(),
            task: entry.running.as_ref().map(|running| running.id),
            pid: entry.running.as_ref().map(|running| running.child.id()),
            state,
            starts,
            restarts,
            up_ms: match entry.running {
                Some(_) => ms(now.saturating_sub(self.machine.started(place))),
                None => 0,
            },
            last_end,
        }
    }
}
