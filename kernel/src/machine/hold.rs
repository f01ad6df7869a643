//! What becomes of connects to an endpoint that has no receiver just now.
//!
//! That a capability with RECEIVE is left says that a receiver may come, not that one will. So the
//! endpoint has a policy: how many connects wait, and for how long after the last receiver went.
//! The machine has no clock; it asks for an alarm when an endpoint loses its receiver, one for an
//! endpoint at a time, and takes it back when there is a receiver or no endpoint any more.

use super::endpoint::Endpoint;
use super::{Machine, Reply};
use crate::effect::{Alarm, Effect};
use rendez_protocol::kernel::{Answer, Hold, KernelError, ObjectKind};
use rendez_protocol::{ObjectId, Rights, Slot, TaskId};

/// An endpoint's policy, and how far its time has run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) hold: Hold,
    /// Whether the alarm is awaited.
    pub(super) runs: bool,
    /// Whether the time is over, so that nobody waits before there has been a receiver.
    pub(super) over: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { hold: Hold::FOR_EVER, runs: false, over: false }
    }
}

impl Policy {
    /// How many connects may wait now.
    pub(super) fn connects(&self) -> u32 {
        if self.over { 0 } else { self.hold.connects() }
    }
}

impl Endpoint {
    /// How many connects wait.
    fn waiting(&self) -> u32 {
        u32::try_from(self.parked.len()).unwrap_or(u32::MAX)
    }

    fn not_held(&self) -> KernelError {
        KernelError::NotHeld { hold: self.policy.hold, waiting: self.waiting() }
    }
}

impl Machine {
    /// Sets an endpoint's policy. Needs RECEIVE.
    pub(super) fn hold(&mut self, who: TaskId, slot: Slot, hold: Hold) -> Reply {
        let (_, capability) =
            self.capability_to(who, slot, ObjectKind::Endpoint, Rights::RECEIVE)?;
        let id = capability.object.id();
        let Some(endpoint) = self.endpoints.get(&id) else {
            return Err(KernelError::BadSlot(slot));
        };
        let vacant = endpoint.receiver.is_none();
        self.occupied(id);
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.policy.hold = hold;
        }
        if vacant {
            self.vacated(id);
            self.hold_no_more_than_allowed(id);
        }
        Ok(Some(Answer::Done))
    }

    /// An endpoint has no receiver from now on: its time begins.
    pub(super) fn vacated(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        if let Some(milliseconds) = endpoint.policy.hold.limit_ms() {
            endpoint.policy.runs = true;
            self.effects.push(Effect::After { milliseconds, alarm: Alarm::Hold(id) });
        }
    }

    /// No time runs for an endpoint, and none is over: there is a receiver, or it is gone.
    pub(super) fn occupied(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        endpoint.policy.over = false;
        if core::mem::take(&mut endpoint.policy.runs) {
            self.effects.push(Effect::Unset(Alarm::Hold(id)));
        }
    }

    /// An endpoint's time is over, if any runs.
    pub(super) fn hold_expired(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        if !core::mem::take(&mut endpoint.policy.runs) {
            return;
        }
        endpoint.policy.over = true;
        self.hold_no_more_than_allowed(id);
    }

    /// Whether one more connect may wait.
    pub(super) fn admits_parked(&self, id: ObjectId) -> Result<(), KernelError> {
        let Some(endpoint) = self.endpoints.get(&id) else { return Err(KernelError::Dead) };
        if endpoint.waiting() < endpoint.policy.connects() {
            Ok(())
        } else {
            Err(endpoint.not_held())
        }
    }

    /// Refuses those that wait beyond what the policy allows now, the last ones first to go.
    fn hold_no_more_than_allowed(&mut self, id: ObjectId) {
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        let allowed = endpoint.policy.connects() as usize;
        let error = KernelError::NotHeld {
            hold: endpoint.policy.hold,
            waiting: endpoint.waiting().min(endpoint.policy.connects()),
        };
        self.refuse_waiting(id, allowed, &error);
    }

    /// Refuses all connects that wait but the first `left`.
    pub(super) fn refuse_waiting(&mut self, id: ObjectId, left: usize, error: &KernelError) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let refused = match endpoint.parked.keys().nth(left).copied() {
            Some(first) => endpoint.parked.split_off(&first),
            None => return,
        };
        for parked in refused.into_values() {
            self.tree.remove(parked.node);
            self.end_wait(parked.client, parked.transaction, Err(error.clone()));
        }
    }
}
