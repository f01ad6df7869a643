//! The floor as a rate, for experiments whose values are rates: a ratio to it is then how many
//! transactions take place in the time of one bare round trip.

use std::io;
use std::time::Duration;

use super::Context;
use crate::Error;
use crate::interleave::{Sample, Subject};
use crate::mechanism::{self, Wait};
use crate::report::{Class, Cores};
use crate::station::Station;

/// The floor, in round trips per second.
pub(super) struct FloorRate<'c>(Station<'c>);

impl<'c> FloorRate<'c> {
    /// Sets the floor up on two cores.
    pub(super) fn set_up(context: &'c Context<'c>, payload_bytes: usize) -> Result<Self, Error> {
        let missing =
            || Error::io("setting the floor up", io::Error::from(io::ErrorKind::NotFound));
        let floor = mechanism::find("floor").ok_or_else(missing)?;
        let station = Station::set_up(context, floor, payload_bytes, Cores::Two, true)?;
        Ok(Self(station.ok_or_else(missing)?))
    }
}

impl Subject for FloorRate<'_> {
    fn label(&self) -> &str {
        self.0.label()
    }

    fn wait(&self) -> Option<Wait> {
        self.0.wait()
    }

    fn class(&self) -> Class {
        Class::Floor
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let Sample { value, cpu_ns, .. } = self.0.block(length)?;
        Ok(Sample { value: 1e9 / value, singles: Vec::new(), cpu_ns })
    }
}
