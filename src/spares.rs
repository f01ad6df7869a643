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
    gate: Mutex<Gate>,
}

/// Who is connecting. One that fails may have taken a spare, and nobody says which: when no other is
/// under way, all that are left here are dropped, and before that none, since one of the others may
/// have been told of it already.
#[derive(Debug, Default)]
struct Gate {
    connecting: usize,
    doubt: bool,
}

/// Somebody connects, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Connecting<'a> {
    task: &'a Task,
}

impl Connecting<'_> {
    /// It has failed, and nobody says whether it has taken a spare first.
    pub(crate) fn failed(&self) {
        self.task.spares().gate.lock().doubt = true;
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        let spares = self.task.spares();
        let mut gate = spares.gate.lock();
        gate.connecting -= 1;
        if gate.connecting == 0 && core::mem::take(&mut gate.doubt) && spares.len() > 0 {
            // With the gate closed: whoever connects next asks the kernel afterwards.
            let doorbell = *spares.making.lock();
            spares.begin_again(self.task, doorbell);
        }
    }
}

impl Spares {
    pub(crate) fn new() -> Self {
        Self {
            ready: Mutex::default(),
            making: Mutex::new(Doorbell::Futex),
            misses: AtomicUsize::new(0),
            gate: Mutex::default(),
        }
    }

    /// To be held from before a connect is asked for until its spare, if any, is taken.
    pub(crate) fn connecting<'a>(&self, task: &'a Task) -> Connecting<'a> {
        self.gate.lock().connecting += 1;
        Connecting { task }
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
