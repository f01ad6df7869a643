//! The supervisor, as the commands that ask it see it.

use super::name_space::unreachable;
use crate::failure::Failure;
use rendez::protocol::supervisor::{Server, interface, operation};
use rendez::protocol::{decode, encode};
use rendez::{Client, Error, Options, Task};
use std::time::Duration;

/// How long a restart may take. The supervisor itself gives a server 10 s.
const RESTART_TIMEOUT: Duration = Duration::from_secs(15);

/// A client of the supervisor.
#[derive(Debug)]
pub(super) struct Supervisor(Client);

impl Supervisor {
    /// Connects, by the capability that this task was given.
    ///
    /// # Errors
    /// If it was given none, or the supervisor does not answer.
    pub(super) fn of(task: &Task) -> Result<Self, Failure> {
        let slot = task.given_as("supervisor")?.slot;
        let client = Client::connect(task, slot, Options::speaking(interface()));
        client.map(Self).map_err(|error| unreachable(error, "the supervisor"))
    }

    /// What it started.
    ///
    /// # Errors
    /// What the supervisor says.
    pub(super) fn list(&self) -> Result<Vec<Server>, Failure> {
        let room = rendez::protocol::limit::AREA_BYTES_DEFAULT as usize;
        let reply = self.0.send(operation::LIST, &[], room)?;
        Ok(decode(&reply).map_err(Error::from)?)
    }

    /// Starts a server again; answers once it serves.
    ///
    /// # Errors
    /// What the supervisor says.
    pub(super) fn restart(&self, server: &str) -> Result<(), Failure> {
        self.0.send_within(operation::RESTART, &encode(server), 256, RESTART_TIMEOUT)?;
        Ok(())
    }

    /// Stops the system.
    ///
    /// # Errors
    /// What the supervisor says. An end that comes before its answer is what was asked for.
    pub(super) fn stop(&self) -> Result<(), Failure> {
        match self.0.send(operation::STOP, &[], 256) {
            Ok(_) | Err(Error::Send(_) | Error::KernelGone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
