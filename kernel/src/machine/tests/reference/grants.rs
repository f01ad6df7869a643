//! The flat list of grants, and what can be asked of it.
//!
//! A grant stands in the list after the one that it derives from, before whatever is derived from
//! others: what was *made* with a grant, an end of a connection or a connect that waits, comes first,
//! then what was *derived* from it, each line in the order in which it came. When a grant goes, what
//! is below it stays where it stands, and is its parent's.

use super::Reference;
use crate::effect::Side;
use crate::machine::tree::{Object, Powers};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Ticket};

/// Where a grant lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Slot(TaskId, Slot),
    Ticket(Ticket),
    Door,
    Parked(ObjectId, u64),
    End(ConnectionId, Side),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    /// Its number, higher than those of all that were there when it came.
    pub(super) number: u64,
    pub(super) parent: Option<u64>,
    /// Made with its parent by that one's holder.
    pub(super) made: bool,
    pub(super) object: Object,
    pub(super) powers: Powers,
    pub(super) holder: Holder,
    pub(super) watches: bool,
    /// It is going: it is no capability any more, and counts until all that follows is done.
    going: bool,
}

impl Grant {
    pub(super) fn is_capability(&self) -> bool {
        matches!(self.holder, Holder::Slot(..) | Holder::Ticket(_) | Holder::Door)
    }
}

impl Reference {
    /// All grants that are not going.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = &Grant> {
        self.grants.iter().filter(|grant| !grant.going)
    }

    pub(super) fn grant(&self, number: u64) -> Option<&Grant> {
        self.live().find(|grant| grant.number == number)
    }

    pub(super) fn grant_mut(&mut self, number: u64) -> Option<&mut Grant> {
        self.grants.iter_mut().find(|grant| grant.number == number && !grant.going)
    }

    /// The grant that lies there.
    pub(super) fn held(&self, holder: Holder) -> Option<&Grant> {
        self.live().find(|grant| grant.holder == holder)
    }

    /// Whether `number` is derived from, or made with, `top`, at whatever remove.
    pub(super) fn is_below(&self, number: u64, top: u64) -> bool {
        let mut at = self.grant(number).and_then(|grant| grant.parent);
        while let Some(parent) = at {
            if parent == top {
                return true;
            }
            at = self.grant(parent).and_then(|grant| grant.parent);
        }
        false
    }

    /// All capabilities derived from one.
    pub(super) fn descendants(&self, top: u64) -> u32 {
        let below = |it: &&Grant| it.is_capability() && self.is_below(it.number, top);
        self.live().filter(below).count() as u32
    }

    /// How many it is derived from.
    pub(super) fn depth(&self, number: u64) -> u32 {
        self.live().filter(|top| self.is_below(number, top.number)).count() as u32
    }

    /// Whether a revocation of `top` takes it.
    pub(super) fn is_revoked_with(&self, grant: &Grant, top: u64) -> bool {
        self.is_below(grant.number, top) && !(grant.made && grant.parent == Some(top))
    }

    /// Enters a grant.
    pub(super) fn enter(
        &mut self,
        parent: Option<u64>,
        object: Object,
        powers: Powers,
        holder: Holder,
    ) -> u64 {
        self.grants_ever += 1;
        let number = self.grants_ever;
        let made = matches!(holder, Holder::Parked(..) | Holder::End(..));
        if !made
            && let Some(endpoint) = self.endpoint_mut(object.id())
            && powers.rights.contains(endpoint.sends())
        {
            endpoint.senders_made += 1;
        }
        let grant =
            Grant { number, parent, made, object, powers, holder, watches: false, going: false };
        let after = parent.and_then(|parent| {
            let own = |it: &Grant| it.number == parent || (it.made && it.parent == Some(parent));
            let below = |it: &Grant| it.number == parent || self.is_below(it.number, parent);
            self.grants.iter().rposition(|it| if made { own(it) } else { below(it) })
        });
        self.grants.insert(after.map_or(self.grants.len(), |after| after + 1), grant);
        number
    }

    /// A grant is no longer; what is below it is its parent's. It counts until [`Reference::forget`].
    pub(super) fn take_out(&mut self, number: u64) -> Option<Grant> {
        let grant = *self.grant(number)?;
        self.way_without(number);
        for other in &mut self.grants {
            if other.parent == Some(number) {
                other.parent = grant.parent;
                other.made = false;
            }
            if other.number == number {
                other.going = true;
            }
        }
        Some(grant)
    }

    /// It does not count any more.
    pub(super) fn forget(&mut self, number: u64) {
        self.grants.retain(|grant| grant.number != number);
    }

    /// A grant for something that was made, and not a capability, is no longer.
    pub(super) fn unmake(&mut self, holder: Holder) {
        if let Some(number) = self.held(holder).map(|grant| grant.number) {
            self.take_out(number);
            self.forget(number);
        }
    }

    /// How many capabilities to an object have these rights, those that are going included.
    pub(super) fn with(&self, object: ObjectId, rights: Rights) -> usize {
        self.grants
            .iter()
            .filter(|it| it.is_capability() && it.object.id() == object)
            .filter(|it| it.powers.rights.contains(rights))
            .count()
    }
}
