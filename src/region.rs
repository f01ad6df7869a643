//! Regions: memory as a capability.
//!
//! A region is made with a size and a kind, filled, and handed over by a ticket in a message
//! ([`Connection::offer`](crate::Connection::offer)) or under a name
//! ([`Task::register`](crate::Task::register)); whoever has a capability to it maps it
//! ([`Task::map_region`]). A mapping outlives the capability that it was made with, and its maker.
//!
//! ```no_run
//! # fn main() -> Result<(), rendez::Error> {
//! use rendez::Task;
//! use rendez::region::Mapped;
//!
//! let task = Task::current()?;
//! let mut region = task.create_region(1 << 20)?;
//! region.bytes_mut()[..5].copy_from_slice(b"hello");
//! let capability = region.seal()?;
//!
//! // Anywhere that the capability has got to:
//! let Mapped::Sealed(bytes) = task.map_region(capability.slot)? else { unreachable!() };
//! assert_eq!(&bytes[..5], b"hello");
//! # Ok(())
//! # }
//! ```

use crate::error::Error;
use crate::task::{Task, out_of_turn};
use rendez_ipc_core::region::{NewRegion, RegionMut};
pub use rendez_ipc_core::region::{PublishedMut, PublishedRegion, SealedRegion, SharedRegion};
use rendez_protocol::Slot;
use rendez_protocol::kernel::{Answer, Received, RegionKind, Request};
use std::os::fd::AsFd;

/// What every size of a region is a multiple of, in bytes.
const UNIT: u64 = 4096;

/// A region in this process.
#[derive(Debug)]
pub enum Mapped {
    /// Nobody can change it: it is a slice.
    Sealed(SealedRegion),
    /// Its maker goes on writing it: read by copies.
    Published(PublishedRegion),
    /// All who have it may write it: read and written by copies.
    Shared(SharedRegion),
}

/// A capability that is let go of unless it is kept.
#[derive(Debug)]
struct Held {
    task: Task,
    capability: Received,
    kept: bool,
}

impl Held {
    fn keep(mut self) -> Received {
        self.kept = true;
        self.capability
    }

    /// Tells the kernel that the region is sealed as its kind wants it.
    fn ready(self) -> Result<Received, Error> {
        match self.task.ask(&Request::RegionSealed { slot: self.capability.slot })?.0 {
            Answer::Done => Ok(self.keep()),
            other => Err(out_of_turn(&other)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kept {
            self.task.link().tell(&Request::Delete { slot: self.capability.slot });
        }
    }
}

/// A region that is being written, and that nobody else can map yet. Dropped, it is gone.
#[derive(Debug)]
pub struct WritableRegion {
    held: Held,
    region: RegionMut,
}

impl WritableRegion {
    /// Its bytes, all zero at first.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.region
    }

    /// Seals it: its content stands for ever. The answer names a capability with all rights.
    ///
    /// # Errors
    /// What Linux and the kernel say.
    pub fn seal(self) -> Result<Received, Error> {
        self.region.seal().map_err(|error| Error::system("sealing a region", error))?;
        self.held.ready()
    }
}

/// A new region that is not mapped: filled from a file or a slice, then sealed. Dropped instead, it
/// is gone.
#[derive(Debug)]
pub struct EmptyRegion {
    held: Held,
    region: NewRegion,
}

impl EmptyRegion {
    /// Copies the content of `file` into it, from its beginning, at most as much as fits: within
    /// Linux, once, past this process. Answers how many bytes there were; the rest is zero.
    ///
    /// # Errors
    /// What Linux says.
    pub fn fill_from(&mut self, file: impl AsFd) -> Result<u64, Error> {
        self.region.fill_from(file).map_err(|error| Error::system("filling a region", error))
    }

    /// Copies `bytes` into it, as many as fit; the rest is zero.
    ///
    /// # Errors
    /// What Linux says.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.region.fill(bytes).map_err(|error| Error::system("filling a region", error))
    }

    /// As [`WritableRegion::seal`].
    ///
    /// # Errors
    /// What Linux and the kernel say.
    pub fn seal(self) -> Result<Received, Error> {
        self.region.seal().map_err(|error| Error::system("sealing a region", error))?;
        self.held.ready()
    }
}

impl Task {
    fn new_region(&self, bytes: u64, kind: RegionKind) -> Result<(Held, NewRegion), Error> {
        let bytes = bytes.max(1).checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
        match self.ask(&Request::CreateRegion { bytes, kind })? {
            (Answer::Region(capability), mut descriptors) => {
                let held = Held { task: self.clone(), capability, kept: false };
                let file = descriptors.pop_front().ok_or_else(no_file)?;
                Ok((held, NewRegion::new(file, bytes)))
            }
            (other, _) => Err(out_of_turn(&other)),
        }
    }

    /// Makes a region of at least `bytes` (whole pages), to be written in place and sealed.
    ///
    /// # Errors
    /// What the kernel says, its quotas among it; what Linux says to mapping.
    pub fn create_region(&self, bytes: u64) -> Result<WritableRegion, Error> {
        let (held, region) = self.new_region(bytes, RegionKind::Sealed)?;
        Ok(WritableRegion { held, region: region.map().map_err(mapping)? })
    }

    /// As [`Task::create_region`], not mapped: to be filled from a file or a slice.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_empty_region(&self, bytes: u64) -> Result<EmptyRegion, Error> {
        let (held, region) = self.new_region(bytes, RegionKind::Sealed)?;
        Ok(EmptyRegion { held, region })
    }

    /// Makes a region of at least `bytes` that this task goes on writing, through the mapping that it
    /// is given, and that nobody else ever can.
    ///
    /// # Errors
    /// As [`Task::create_region`].
    pub fn publish_region(&self, bytes: u64) -> Result<(Received, PublishedMut), Error> {
        let (held, region) = self.new_region(bytes, RegionKind::Published)?;
        let published = region.map().and_then(RegionMut::publish).map_err(mapping)?;
        Ok((held.ready()?, published))
    }

    /// Makes a region of at least `bytes` that every holder of a capability to it with MAP_WRITE
    /// reads and writes.
    ///
    /// # Errors
    /// As [`Task::create_region`].
    pub fn share_region(&self, bytes: u64) -> Result<(Received, SharedRegion), Error> {
        let (held, _) = self.new_region(bytes, RegionKind::Shared)?;
        match self.map_region_for(held.capability.slot, true)? {
            Mapped::Shared(shared) => Ok((held.keep(), shared)),
            _ => Err(Error::Protocol("a shared region of another kind".into())),
        }
    }

    /// Maps the region that the capability in `slot` names: for reading, or, a shared one, for
    /// reading and writing. The mapping stays when the capability goes.
    ///
    /// # Errors
    /// What the kernel says: a right is missing, the region is not ready; what Linux says to
    /// mapping. This end checks seals, size and holes itself.
    pub fn map_region(&self, slot: Slot) -> Result<Mapped, Error> {
        self.map_region_for(slot, false)
    }

    fn map_region_for(&self, slot: Slot, write: bool) -> Result<Mapped, Error> {
        let (answer, mut descriptors) = self.ask(&Request::MapRegion { slot, write })?;
        let Answer::Mapping { bytes, kind } = answer else { return Err(out_of_turn(&answer)) };
        let file = descriptors.pop_front().ok_or_else(no_file)?;
        match kind {
            RegionKind::Sealed => SealedRegion::map(file, bytes).map(Mapped::Sealed),
            RegionKind::Published => PublishedRegion::map(file, bytes).map(Mapped::Published),
            RegionKind::Shared => SharedRegion::map(file, bytes).map(Mapped::Shared),
        }
        .map_err(mapping)
    }
}

fn no_file() -> Error {
    Error::Protocol("a region without its descriptor: this process may have too many open".into())
}

fn mapping(error: std::io::Error) -> Error {
    Error::system("mapping a region", error)
}
