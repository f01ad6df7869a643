//! The regions that were handed out over one connection.
//!
//! A region is on the file server's quota for as long as anybody holds a capability to it, and
//! nobody tells the server when its client has mapped it. So the server keeps a capability of its
//! own and revokes what it gave when several more were asked for: what was mapped stays mapped.

use crate::limit::{REGION_BYTES, REGIONS_PER_CONNECTION};
use rendez::service::Context;
use rendez_protocol::Slot;
use std::collections::VecDeque;

/// The server's own capabilities to what one connection was given, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    given: VecDeque<(Slot, u64)>,
    bytes: u64,
}

impl Regions {
    /// Makes room for one more of `bytes`, at most [`REGION_BYTES`].
    pub(crate) fn make_room(&mut self, context: &mut dyn Context, bytes: u64) {
        while self.given.len() >= REGIONS_PER_CONNECTION || self.bytes + bytes > REGION_BYTES {
            if !self.take_back_first(context) {
                return;
            }
        }
    }

    /// Remembers one that is given.
    pub(crate) fn add(&mut self, slot: Slot, bytes: u64) {
        self.given.push_back((slot, bytes));
        self.bytes += bytes;
    }

    /// Takes all back: the connection has ended.
    pub(crate) fn take_back(&mut self, context: &mut dyn Context) {
        while self.take_back_first(context) {}
    }

    fn take_back_first(&mut self, context: &mut dyn Context) -> bool {
        let Some((slot, bytes)) = self.given.pop_front() else { return false };
        self.bytes -= bytes;
        // The kernel refuses neither of a slot that is ours; if it is gone there is nothing to do.
        let _ = context.revoke(slot);
        let _ = context.delete(slot);
        true
    }
}
