//! When a server replenishes its spares: in its idle moments.
//!
//! A client that has just connected is about to send, so nothing is done before it had its time.
//! A server that has no such moment has no spares either, and takes its clients in step by step: that
//! costs it no more.

use crate::spares::{SERVER_SPARES, SERVER_SPARES_MAX};
use crate::task::Task;
use rendez_ipc_core::platform::{Host, Platform};
use rendez_protocol::kernel::{Doorbell, Shape};

/// How long a server waits after a client has come, in ns.
const AFTER_CLIENT_NS: u64 = 200_000;
/// How long between two spares, in ns: messages have their turn.
const BETWEEN_NS: u64 = 20_000;

/// How many spares a server wants, and when it sees to them.
#[derive(Debug)]
pub(crate) struct Stock {
    wanted: usize,
    /// In ns of `CLOCK_MONOTONIC`, `u64::MAX` while there is nothing to do.
    due: u64,
}

impl Stock {
    /// The stock of a server that begins.
    pub(crate) fn new(task: &Task) -> Self {
        // A client's are of no use: it is woken by futex.
        task.spares().begin_again(task, Doorbell::Event);
        Self { wanted: SERVER_SPARES, due: 0 }
    }

    /// None at all: only one of a server's threads has a stock.
    pub(crate) const fn none() -> Self {
        Self { wanted: 0, due: u64::MAX }
    }

    /// The earlier of `deadline` and when there is something to do.
    #[inline]
    pub(crate) fn at_latest(&self, deadline: u64) -> u64 {
        deadline.min(self.due)
    }

    /// Whether there is something to do now.
    pub(crate) fn is_due(&self) -> bool {
        self.due != u64::MAX && Host::now() >= self.due
    }

    /// A client has come, and has taken a spare or found none.
    pub(crate) fn used(&mut self, spare: bool, shape: Shape) {
        if shape == Shape::default() {
            if !spare {
                self.wanted = (self.wanted * 2).min(SERVER_SPARES_MAX);
            }
            // Not put off by the next one: a server whose clients come without a pause needs them.
            self.due = self.due.min(Host::now().saturating_add(AFTER_CLIENT_NS));
        }
    }

    /// Makes a spare, if one is wanting. If that fails, not before the next client.
    pub(crate) fn replenish(&mut self, task: &Task) {
        let more = task.spares().len() < self.wanted && task.spares().make(task).is_ok();
        self.due = if more { Host::now().saturating_add(BETWEEN_NS) } else { u64::MAX };
    }
}
