//! A started task that says when it is ready.

use crate::connection::{Connection, Options};
use crate::error::Error;
use crate::task::Task;
use rendez_protocol::supervisor::{READY_LABEL, interface, operation};

impl Task {
    /// Tells the supervisor, which started this task by a manifest with `ready = "says"`, that it is
    /// ready: those that start after it are started now.
    ///
    /// # Errors
    /// [`Error::NotGiven`] if the supervisor does not wait for that; what the kernel or the
    /// supervisor says.
    pub fn say_ready(&self) -> Result<(), Error> {
        let slot = self.given_as(READY_LABEL)?.slot;
        let mut connection = Connection::open(self, slot, &Options::speaking(interface()))?;
        connection.send(operation::READY, &[], 256)?.ok()?;
        Ok(())
    }
}
