//! What leases need of a client's end: requests that say that they lend, and replies that come too
//! late and lend all the same. What is lent, and from where, is the library's business.

use super::{Also, ClientEnd, NEVER, SendError};
use crate::flight::Entry;
use crate::platform::Platform;
use crate::ring::{Buffer, Fault};
use crate::wait::{Spinner, Step};
use crate::waits::Patience;
use rendez_protocol::message::Header;
use rendez_protocol::status::Why;

impl<P: Platform> ClientEnd<P> {
    /// As [`ClientEnd::begin_waiting`], for a payload that begins with
    /// [lease descriptors](rendez_protocol::lease).
    ///
    /// # Errors
    /// As `begin_waiting`.
    #[inline]
    pub fn begin_leased(
        &mut self,
        operation: u16,
        payload: &[u8],
        room: usize,
        deadline: u64,
    ) -> Result<u64, SendError> {
        self.flags_next = Header::LEASED;
        let begun = self.begin_waiting(operation, payload, room, deadline);
        self.flags_next = 0;
        begun
    }

    /// Whether the reply to a transaction may still come: until then the server may read what the
    /// request has lent, whoever has given it up.
    pub fn is_pending(&mut self, transaction: u64) -> bool {
        matches!(
            self.flight.get(transaction),
            Some(Entry::Waiting { .. } | Entry::Abandoned { .. })
        )
    }

    /// Whether nothing of a transaction is to come or to be asked for any more.
    pub fn is_over(&mut self, transaction: u64) -> bool {
        self.flight.get(transaction).is_none()
    }

    /// Waits until a reply to any transaction has come, at most until `deadline`. It stays where
    /// [`ClientEnd::poll`] and [`ClientEnd::wait`] find it. Whether there was one.
    ///
    /// # Errors
    /// `NotDelivered` with the reason if the connection has ended.
    #[cold]
    pub fn wait_for_reply(&mut self, deadline: u64) -> Result<bool, SendError> {
        self.flush();
        let mut spinner = Spinner::new(self.wait, &self.habit);
        // For any of several: no circle is looked for.
        let mut patience = Patience::new(None, deadline);
        loop {
            if self.take_in()? {
                return Ok(true);
            }
            match spinner.step(&mut self.habit, &self.ours, &self.theirs) {
                Step::Again => continue,
                Step::Look(now) if now < deadline => {}
                Step::Look(_) => return Ok(false),
                Step::Sleep => {
                    self.sleep(Also::Nothing, deadline, &mut patience);
                    spinner.exhaust();
                    if deadline == NEVER {
                        if P::is_orphaned(&self.status) {
                            return Err(Self::not_delivered(Why::Closed));
                        }
                    } else if P::now() >= deadline {
                        return self.take_in();
                    }
                }
            }
            self.settle();
            if let Some(why) = self.why_ended() {
                return Err(Self::not_delivered(why));
            }
        }
    }

    /// Takes all replies in that are there; whether there were any.
    ///
    /// # Errors
    /// `NotDelivered` for `Protocol` if one of them is a fault.
    pub fn take_in(&mut self) -> Result<bool, SendError> {
        let mut any = false;
        loop {
            match self.absorb(None) {
                Ok(true) => any = true,
                Ok(false) => return Ok(any),
                Err(fault) => {
                    return Err(self.broken(fault, Self::not_delivered(Why::Protocol)));
                }
            }
        }
    }

    /// Payloads of late replies that lend something: whoever reads the descriptors lets go of it.
    pub fn take_late(&mut self) -> Vec<Buffer> {
        core::mem::take(&mut self.late)
    }

    /// Ends the connection for what the server said of leases.
    #[cold]
    pub fn break_off(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Keeps a late reply that lends something. No more than can be in flight: more than that no
    /// honest server sends between two looks.
    #[inline]
    pub(super) fn keep_late_leases(&mut self, header: &Header) {
        if header.flags & Header::LEASED != 0 && self.late.len() < 2 * self.ours.lines() as usize {
            let mut payload = Buffer::new();
            self.reader.copy(&self.theirs, header, &mut payload);
            self.late.push(payload);
        }
    }
}
