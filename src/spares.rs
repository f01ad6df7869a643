//! Segments made in advance, so that whoever connects waits for nobody.
//!
//! A task keeps a few of the default shape with the kernel, mapped and sealed. The kernel says which
//! of them a connection has taken; what is here is their mappings, by number. A spare is put here
//! before the kernel is told that it is ready, so a taken one is always found.
//!
//! Making one asks the kernel twice and populates memory. That is done when nobody waits for it: by
//! a server when it has nothing else to do, by a client when it lets go of a connection, and only
//! if it has connected before.

use crate::error::Error;
use crate::task::{Task, out_of_turn};
use parking_lot::Mutex;
use rendez_ipc_core::segment::OwnSegment;
use rendez_protocol::SpareId;
use rendez_protocol::kernel::{Answer, Doorbell, Request, Shape};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most spares that a server keeps.
pub(crate) const SERVER_SPARES_MAX: usize = 8;
/// What a server begins with.
pub(crate) const SERVER_SPARES: usize = 2;
/// How many connections a client has made, that found no spare, before it keeps one.
const CLIENT_MISSES: usize = 2;

/// A task's spares.
#[derive(Debug)]
pub(crate) struct Spares {
    ready: Mutex<BTreeMap<SpareId, OwnSegment>>,
    /// How the task is woken as a server, held while one is made.
    making: Mutex<Doorbell>,
    /// Connections of the default shape that found none.
    misses: AtomicUsize,
}

impl Spares {
    pub(crate) fn new() -> Self {
        Self {
            ready: Mutex::default(),
            making: Mutex::new(Doorbell::Futex),
            misses: AtomicUsize::new(0),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ready.lock().len()
    }

    /// One that a connection has taken.
    pub(crate) fn take(&self, spare: SpareId) -> Option<OwnSegment> {
        self.ready.lock().remove(&spare)
    }

    /// A connection found no spare at this end.
    pub(crate) fn missed(&self, shape: Shape) {
        if shape == Shape::default() {
            // Relaxed: it only counts.
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes one of the default shape.
    pub(crate) fn make(&self, task: &Task) -> Result<(), Error> {
        let doorbell = self.making.lock();
        let shape = Shape::default();
        let (answer, mut descriptors) = task.ask(&Request::Spare { shape })?;
        let Answer::Spare { spare } = answer else { return Err(out_of_turn(&answer)) };
        let made = match descriptors.pop_front() {
            Some(own) => OwnSegment::map(own, shape)
                .map_err(|error| Error::system("mapping a spare segment", error)),
            None => Err(Error::Protocol("a spare without its descriptor".into())),
        };
        let told = made.and_then(|own| {
            self.ready.lock().insert(spare, own);
            match task.ask(&Request::SpareMapped { spare, doorbell: *doorbell })?.0 {
                Answer::Done => Ok(()),
                other => Err(out_of_turn(&other)),
            }
        });
        if told.is_err() {
            self.ready.lock().remove(&spare);
            task.link().tell(&Request::DropSpare { spare });
        }
        told
    }

    /// Lets go of all. Those that come are for a task that is woken so as a server.
    pub(crate) fn begin_again(&self, task: &Task, doorbell: Doorbell) {
        let mut making = self.making.lock();
        *making = doorbell;
        let all = core::mem::take(&mut *self.ready.lock());
        for spare in all.into_keys() {
            task.link().tell(&Request::DropSpare { spare });
        }
    }

    /// Connecting has failed, and nobody says whether it has taken a spare first.
    pub(crate) fn start_over(&self, task: &Task) {
        if self.len() > 0 {
            let doorbell = *self.making.lock();
            self.begin_again(task, doorbell);
        }
    }

    /// Keeps one for a client that connects again and again; what goes wrong is found out when it
    /// connects. Nothing for a server, which sees to its own.
    pub(crate) fn keep_for_client(&self, task: &Task) {
        // Relaxed: as in `missed`.
        let wanted = self.misses.load(Ordering::Relaxed) >= CLIENT_MISSES;
        if wanted && self.len() == 0 && !task.link().is_served() {
            let _ = self.make(task);
        }
    }
}
