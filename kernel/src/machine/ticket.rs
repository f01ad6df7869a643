//! Tickets: capabilities in escrow, on their way over a connection.
//!
//! What is offered leaves its owner's reach at once. A minted capability hangs in the tree, below
//! the one that it comes from, and belongs to the ticket; a moved one keeps its place in the tree,
//! and its slot stays reserved. So a revocation finds both, and voids the whole ticket. Until it is
//! accepted, a ticket counts against the one who offered.
//!
//! Accepting is one request, so it is before or after anything else that happens to the ticket:
//!
//! | what comes first | what accepting comes to | what was moved |
//! |---|---|---|
//! | the offerer dies | refused: the connection is over | gone |
//! | the receiver dies, or either end disconnects | nobody accepts any more | back in its slot |
//! | anything in the ticket is revoked | refused, the whole of it | back, if it was not that |
//! | the receiver's quota is exhausted | refused, and the ticket stays good | in escrow still |

use super::connection::Phase;
use super::space::Cell;
use super::tree::{Holder, NodeId, Powers, Wish};
use super::{Machine, Reply, bounded};
use crate::effect::Side;
use rendez_protocol::kernel::{Answer, How, KernelError, Offer, Received, Travel};
use rendez_protocol::quota::Quota;
use rendez_protocol::{ConnectionId, Slot, TaskId, Ticket, limit};

/// What a ticket stands for.
#[derive(Debug)]
pub(super) struct Escrow {
    pub(super) connection: ConnectionId,
    pub(super) offerer: TaskId,
    /// The offerer's end; the other one accepts.
    from: Side,
    pub(super) items: Vec<Item>,
}

/// One capability of a ticket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// The minted capability, or the moved one, as it is.
    pub(super) node: NodeId,
    /// The offerer's slot: reserved if it is moved.
    pub(super) slot: Slot,
    /// With what it arrives.
    powers: Powers,
    pub(super) travel: Travel,
}

impl Machine {
    /// Puts capabilities into escrow, all or none. Needs GRANT on each, and MINT where anything
    /// changes.
    pub(super) fn offer(&mut self, who: TaskId, id: ConnectionId, items: &[Offer]) -> Reply {
        let from = self.side_of(who, id)?;
        if self.connections.get(id).is_none_or(|it| it.phase != Phase::Open) {
            return Err(KernelError::Order(format!("{id} is not complete")));
        }
        bounded(
            "the number of capabilities offered",
            items.len(),
            1,
            limit::TICKET_CAPABILITIES_MAX,
        )?;
        let Some(task) = self.tasks.get(who) else { return Ok(None) };
        task.tickets.admits(1, self.quotas.tickets, "tickets of a task")?;
        self.space_for(who, items.iter().filter(|item| item.travel == Travel::Mint).count())?;
        let mut allowed: Vec<Item> = Vec::with_capacity(items.len());
        for item in items {
            let moved = |before: &Item| before.slot == item.slot && before.travel == Travel::Move;
            if allowed.iter().any(moved) {
                return Err(KernelError::BadSlot(item.slot));
            }
            let Offer { slot, rights, badge, limits, travel } = *item;
            let (node, powers) = self.passable(who, slot, Wish { rights, badge, limits })?;
            if travel == Travel::Mint {
                self.tree.admits_below(node)?;
            }
            allowed.push(Item { node, slot, powers, travel });
        }

        let ticket = Ticket(self.number());
        let items = allowed.into_iter().map(|item| self.escrow_item(who, ticket, item)).collect();
        self.escrow.insert(ticket, Escrow { connection: id, offerer: who, from, items });
        if let Some(connection) = self.connections.get_mut(id) {
            connection.tickets.insert(ticket);
        }
        if let Some(task) = self.tasks.get_mut(who) {
            task.tickets.add(1);
        }
        Ok(Some(Answer::Ticket(ticket)))
    }

    fn escrow_item(&mut self, who: TaskId, ticket: Ticket, item: Item) -> Item {
        let Some(node) = self.tree.get(item.node).copied() else { return item };
        let holder = Holder::Ticket(ticket);
        match item.travel {
            Travel::Mint => {
                let origin = self.origin(who, How::Offered);
                let minted = self.plant(Some(item.node), node.object, item.powers, holder, origin);
                if let Some(task) = self.tasks.get_mut(who) {
                    task.capabilities.add(1);
                    self.accounts.spend(&task.draws, Quota::Capabilities, 1);
                }
                Item { node: minted, ..item }
            }
            Travel::Move => {
                self.unbind(item.node, &node);
                self.set_holder(item.node, holder);
                self.set_cell(who, item.slot, Cell::Reserved);
                item
            }
        }
    }

    /// Takes what a ticket stands for, all or nothing.
    pub(super) fn accept(&mut self, who: TaskId, id: ConnectionId, ticket: Ticket) -> Reply {
        self.side_of(who, id)?;
        let Some(escrow) = self.escrow.get(&ticket).filter(|escrow| {
            let receiver = self.connections.get(id).map(|it| it.end(escrow.from.other()).task);
            let usable = |item: &Item| !self.tree.is_doomed(item.node);
            escrow.connection == id
                && receiver == Some(who)
                && self.tasks.contains(escrow.offerer)
                && escrow.items.iter().all(usable)
        }) else {
            return Err(KernelError::BadTicket);
        };
        self.space_for(who, escrow.items.len())?;
        let Some(escrow) = self.take_escrow(ticket) else { return Err(KernelError::BadTicket) };
        let mut received = Vec::with_capacity(escrow.items.len());
        for item in escrow.items {
            match item.travel {
                Travel::Mint => self.uncount(escrow.offerer),
                Travel::Move => self.free_slot(escrow.offerer, item.slot),
            }
            let Some(node) = self.tree.get(item.node).copied() else { continue };
            if node.powers == item.powers {
                received.extend(self.settle(who, item.node, item.travel));
            } else {
                // Moved with less: what arrives takes its place in the tree, without its powers.
                let (object, powers) = (node.object, item.powers);
                received.extend(self.place(who, Some(item.node), object, powers, How::Moved));
                self.remove(item.node);
            }
        }
        Ok(Some(Answer::Received(received)))
    }

    /// Ends the first of a connection's tickets. Whether it had any.
    pub(super) fn void_one(&mut self, connection: ConnectionId) -> bool {
        let tickets = self.connections.get(connection).map(|connection| &connection.tickets);
        let Some(ticket) = tickets.and_then(|tickets| tickets.first().copied()) else {
            return false;
        };
        self.void(ticket);
        true
    }

    /// Ends a ticket that nobody has accepted: what was moved returns to a living offerer, the rest
    /// is gone.
    pub(super) fn void(&mut self, ticket: Ticket) {
        let Some(escrow) = self.take_escrow(ticket) else { return };
        let lives = self.tasks.contains(escrow.offerer);
        for item in escrow.items {
            match item.travel {
                Travel::Mint => {
                    self.uncount(escrow.offerer);
                    self.remove(item.node);
                }
                Travel::Move if lives && self.tree.get(item.node).is_some() => {
                    self.set_holder(item.node, Holder::Slot(escrow.offerer, item.slot));
                    self.set_cell(escrow.offerer, item.slot, Cell::Held(item.node));
                }
                Travel::Move => {
                    self.free_slot(escrow.offerer, item.slot);
                    self.remove(item.node);
                }
            }
        }
    }

    fn take_escrow(&mut self, ticket: Ticket) -> Option<Escrow> {
        let escrow = self.escrow.remove(&ticket)?;
        if let Some(connection) = self.connections.get_mut(escrow.connection) {
            connection.tickets.remove(&ticket);
        }
        if let Some(task) = self.tasks.get_mut(escrow.offerer) {
            task.tickets.sub(1);
        }
        Some(escrow)
    }

    /// Puts a capability that lay in escrow into a new slot.
    fn settle(&mut self, who: TaskId, id: NodeId, travel: Travel) -> Option<Received> {
        let origin = |how| self.origin(who, how);
        match travel {
            Travel::Mint => self.tree.arrived(id, origin(How::Offered)),
            Travel::Move => self.tree.handed(id, origin(How::Moved)),
        }
        let task = self.tasks.get_mut(who)?;
        task.capabilities.add(1);
        self.accounts.spend(&task.draws, Quota::Capabilities, 1);
        let slot = task.space.insert(Cell::Held(id));
        self.set_holder(id, Holder::Slot(who, slot));
        self.received(id)
    }

    fn set_cell(&mut self, who: TaskId, slot: Slot, to: Cell) {
        if let Some(cell) = self.tasks.get_mut(who).and_then(|task| task.space.get_mut(slot)) {
            *cell = to;
        }
    }

    /// A minted capability is in escrow no longer.
    fn uncount(&mut self, offerer: TaskId) {
        if let Some(task) = self.tasks.get_mut(offerer) {
            task.capabilities.sub(1);
            self.repay(offerer, Quota::Capabilities, 1);
        }
    }
}
