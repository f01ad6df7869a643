//! The supervisor, as the commands that ask it see it.

use super::name_space::unreachable;
use crate::failure::Failure;
use rendez::protocol::supervisor::{
    Death, DeathList, Deaths, List, Listing, Server, interface, operation,
};
use rendez::protocol::{decode, encode};
use rendez::{Client, Error, Options, Task};
use std::time::Duration;

/// Room for one answer.
const ROOM: usize = rendez::protocol::limit::AREA_BYTES_DEFAULT as usize;
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
        let mut servers: Vec<Server> = Vec::new();
        loop {
            let asked = encode(&List { skip: servers.len() as u32 });
            let reply = self.0.send(operation::LIST, &asked, ROOM)?;
            let listing: Listing = decode(&reply).map_err(Error::from)?;
            let more = listing.more && !listing.servers.is_empty();
            servers.extend(listing.servers);
            if !more {
                return Ok(servers);
            }
        }
    }

    /// The last `count` records of deaths, the latest first, of the task called `name` or of all.
    ///
    /// # Errors
    /// What the supervisor says.
    pub(super) fn deaths(&self, name: Option<&str>, count: usize) -> Result<Vec<Death>, Failure> {
        let mut deaths: Vec<Death> = Vec::new();
        loop {
            let before = deaths.last().map(|death| death.number);
            let asked = encode(&Deaths { name: name.map(Into::into), before });
            let reply = self.0.send(operation::DEATHS, &asked, ROOM)?;
            let list: DeathList = decode(&reply).map_err(Error::from)?;
            let more = list.more && !list.deaths.is_empty();
            deaths.extend(list.deaths);
            if !more || deaths.len() >= count {
                deaths.truncate(count);
                return Ok(deaths);
            }
        }
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
