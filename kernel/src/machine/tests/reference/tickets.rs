//! Tickets: what travels over a connection.

use super::connections::Phase;
use super::grants::Holder;
use super::space::received;
use super::{Reference, Reply, bad, fits};
use crate::effect::Side;
use crate::machine::tree::Powers;
use rendez_protocol::kernel::{Answer, How, KernelError, Offer, Travel};
use rendez_protocol::{ConnectionId, Slot, TaskId, Ticket};

#[derive(Clone, Debug)]
pub(super) struct Escrow {
    ticket: Ticket,
    connection: ConnectionId,
    pub(super) offerer: TaskId,
    from: Side,
    pub(super) items: Vec<Item>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    grant: u64,
    slot: Slot,
    powers: Powers,
    pub(super) travel: Travel,
}

impl Reference {
    pub(super) fn offer(&mut self, who: TaskId, id: ConnectionId, items: &[Offer]) -> Reply {
        let from = self.side(who, id)?;
        if self.connection(id).is_some_and(|it| it.phase != Phase::Open) {
            return Err(KernelError::Order(String::new()));
        }
        if !(1..=16).contains(&items.len()) {
            return Err(bad(items.len() as u64));
        }
        let offered = self.escrow.iter().filter(|it| it.offerer == who).count() as u64;
        fits(offered, 1, self.quotas.tickets, "tickets of a task")?;
        let mints = items.iter().filter(|it| it.travel == Travel::Mint).count();
        self.space_for(who, mints)?;
        let mut allowed: Vec<Item> = Vec::new();
        for Offer { slot, rights, badge, limits, travel } in items.iter().copied() {
            if allowed.iter().any(|it| it.slot == slot && it.travel == Travel::Move) {
                return Err(KernelError::BadSlot(slot));
            }
            let (grant, powers) = self.passable(who, slot, (rights, badge, limits))?;
            allowed.push(Item { grant: grant.number, slot, powers, travel });
        }
        let ticket = Ticket(self.number());
        for item in &mut allowed {
            let grant = *self.grant(item.grant).unwrap();
            match item.travel {
                Travel::Mint => {
                    let holder = Holder::Ticket(ticket);
                    item.grant = self.enter(Some(item.grant), grant.object, item.powers, holder);
                    self.came(item.grant, who, How::Offered);
                }
                Travel::Move => {
                    self.grant_mut(item.grant).unwrap().watches = false;
                    self.stop_serving_with(&grant);
                    self.lies(item.grant, Holder::Ticket(ticket));
                }
            }
        }
        self.escrow.push(Escrow { ticket, connection: id, offerer: who, from, items: allowed });
        Ok(Some(Answer::Ticket(ticket)))
    }

    pub(super) fn accept(&mut self, who: TaskId, id: ConnectionId, ticket: Ticket) -> Reply {
        self.side(who, id)?;
        let at = self.escrow.iter().position(|it| {
            let receiver = self.connection(id).map(|on| on.end(it.from.other()).task);
            it.ticket == ticket && it.connection == id && receiver == Some(who)
        });
        let Some(at) = at else { return Err(KernelError::BadTicket) };
        self.space_for(who, self.escrow[at].items.len())?;
        let escrow = self.escrow.remove(at);
        let mut arrived = Vec::new();
        for item in escrow.items {
            if item.travel == Travel::Move {
                self.free_slot(escrow.offerer, item.slot);
            }
            let Some(grant) = self.grant(item.grant).copied() else { continue };
            if grant.powers == item.powers {
                let (index, generation) = self.task_mut(who).unwrap().space.put(());
                let slot = Slot { index, generation };
                let how = match item.travel {
                    Travel::Mint => How::Offered,
                    Travel::Move => How::Moved,
                };
                self.came_over(item.grant, who, how);
                self.lies(item.grant, Holder::Slot(who, slot));
                arrived.push(received(slot, grant.object, grant.powers));
            } else {
                let (object, powers) = (grant.object, item.powers);
                arrived.extend(self.place(who, Some(item.grant), object, powers, How::Moved));
                self.remove(item.grant);
            }
        }
        Ok(Some(Answer::Received(arrived)))
    }

    /// A ticket ends: what was moved is back with a living offerer, the rest is gone.
    pub(super) fn void(&mut self, ticket: Ticket) {
        let Some(at) = self.escrow.iter().position(|it| it.ticket == ticket) else { return };
        let escrow = self.escrow.remove(at);
        let lives = self.task(escrow.offerer).is_some();
        for item in escrow.items {
            let there = self.grant(item.grant).is_some();
            if item.travel == Travel::Move && lives && there {
                self.lies(item.grant, Holder::Slot(escrow.offerer, item.slot));
            } else {
                if item.travel == Travel::Move {
                    self.free_slot(escrow.offerer, item.slot);
                }
                self.remove(item.grant);
            }
        }
    }

    /// Whom a ticket is for.
    pub(super) fn receiver_of(&self, ticket: Ticket) -> Option<TaskId> {
        let escrow = self.escrow.iter().find(|it| it.ticket == ticket)?;
        Some(self.connection(escrow.connection)?.end(escrow.from.other()).task)
    }

    pub(super) fn void_all(&mut self, id: ConnectionId) {
        let of = self.escrow.iter().filter(|it| it.connection == id);
        let tickets: Vec<Ticket> = of.map(|it| it.ticket).collect();
        for ticket in tickets {
            self.void(ticket);
        }
    }
}
