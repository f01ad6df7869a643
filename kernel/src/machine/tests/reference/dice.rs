//! Random steps: mostly what makes sense, sometimes what does not.

use super::connections::Phase;
use super::grants::{Grant, Holder};
use super::steps::{Brought, Does, S, Step, With};
use super::{Reference, of_connection};
use crate::effect::Side;
use crate::machine::tests::random::Dice;
use rendez_protocol::kernel::{Doorbell, Hold, ObjectKind, RegionKind, Travel};
use rendez_protocol::{Rights, TaskId, Why};

/// Draws steps for a reference that is at some point of a sequence.
pub(super) struct Draw<'a> {
    pub(super) dice: &'a mut Dice,
    pub(super) reference: &'a Reference,
    pub(super) brought: &'a Brought,
    pub(super) step: u32,
    /// Of what kind a capability was wanted, where the task has none.
    pub(super) missed: Option<ObjectKind>,
}

impl Draw<'_> {
    fn one_in(&mut self, n: usize) -> bool {
        self.dice.below(n) == 0
    }

    /// Steps that brought tasks which live.
    fn living(&self) -> Vec<u32> {
        let lives = |id: &TaskId| self.reference.task(*id).is_some();
        self.brought.tasks.iter().filter(|(_, id)| lives(id)).map(|(step, _)| *step).collect()
    }

    fn step(&self, who: u32, does: Does) -> Step {
        Step { step: self.step, who, does }
    }

    pub(super) fn draw(&mut self) -> Step {
        let living = self.living();
        let Some(who) = self.dice.pick(&living) else { return self.step(0, Does::First) };
        let id = self.brought.task(who);
        if self.reference.task(id).is_some_and(|task| !task.runs) && !self.one_in(8) {
            return self.step(who, Does::Greet);
        }
        let does = match self.dice.below(100) {
            0 => Does::Die,
            1 => {
                let uid = self.dice.pick(&[1000, 1000, 7]).unwrap();
                return self.step(0, Does::Admit { uid });
            }
            2..28 if !self.brought.seals.is_empty() => {
                let (of, side) = self.dice.pick(&self.brought.seals).unwrap();
                let good = !self.one_in(12);
                return self.step(0, Does::Sealed(of, side, good));
            }
            28..31 if !self.brought.looks.is_empty() => {
                let all: Vec<u32> = self.brought.looks.keys().copied().collect();
                let of = self.dice.pick(&all).unwrap();
                let good = !self.one_in(4);
                return self.step(0, Does::RegionLookedAt(of, good));
            }
            31..33 if !self.brought.alarms.is_empty() => {
                let alarm = self.dice.pick(&self.brought.alarms).unwrap();
                return self.step(0, Does::Expired(alarm));
            }
            33 if self.one_in(3) => {
                let of = self.any_connection();
                let side = self.dice.pick(&[Side::Client, Side::Server]).unwrap();
                return self.step(0, Does::GiveUp(of, side, Why::Quota));
            }
            33 if self.one_in(2) => {
                let of = self.any_connection();
                return self.step(0, Does::Unheard(of));
            }
            34..60 => return self.next_in_handshake().unwrap_or_else(|| self.request(who, id)),
            _ => return self.request(who, id),
        };
        self.step(who, does)
    }

    /// What an honest end does next for a connection that is being made.
    fn next_in_handshake(&mut self) -> Option<Step> {
        let mut next = Vec::new();
        for (of, id) in &self.brought.connections {
            let Some(connection) = self.reference.connections.get(of_connection(*id)) else {
                continue;
            };
            let end = match connection.phase {
                Phase::ClientMaps => connection.client.task,
                Phase::ServerMaps(_) => connection.server.task,
                _ => continue,
            };
            let who = self.brought.tasks.iter().find(|(_, task)| **task == end).map(|it| *it.0);
            next.extend(who.map(|who| (who, *of)));
        }
        let (who, of) = self.dice.pick(&next)?;
        let doorbell = self.doorbell();
        Some(self.step(who, Does::Mapped(of, doorbell)))
    }

    fn doorbell(&mut self) -> Doorbell {
        if self.one_in(2) { Doorbell::Futex } else { Doorbell::Event }
    }

    fn any_connection(&mut self) -> u32 {
        let all: Vec<u32> = self.brought.connections.keys().copied().collect();
        let recent = &all[all.len().saturating_sub(6)..];
        self.dice.pick(recent).unwrap_or(1)
    }

    /// A connection of the task's, mostly one that is there; `None` if it has none.
    fn own_connection(&mut self, id: TaskId, open: bool) -> Option<u32> {
        if self.one_in(12) {
            return Some(self.any_connection());
        }
        let mut own = Vec::new();
        for (of, at) in &self.brought.connections {
            if let Some(it) = self.reference.connections.get(of_connection(*at)) {
                let ends = [it.client.task, it.server.task];
                if ends.contains(&id) && (!open || it.phase == Phase::Open) {
                    own.push(*of);
                }
            }
        }
        self.dice.pick(&own)
    }

    /// A capability of the task's: mostly one that is there, of that kind, with some of these rights.
    fn slot(&mut self, id: TaskId, kind: Option<ObjectKind>, useful: Rights) -> S {
        let all: Vec<(S, Option<Grant>)> = self
            .brought
            .slots
            .iter()
            .filter(|(_, (owner, _))| *owner == id)
            .map(|(name, (owner, slot))| {
                (*name, self.reference.held(Holder::Slot(*owner, *slot)).copied())
            })
            .collect();
        let any = || S(1, 0);
        if self.one_in(16) {
            // Perhaps a stale one, perhaps somebody else's.
            let all: Vec<S> = self.brought.slots.keys().copied().collect();
            return self.dice.pick(&all).unwrap_or_else(any);
        }
        let fits = |grant: &Grant| {
            kind.is_none_or(|kind| grant.object.kind() == kind)
                && (useful.is_empty() || grant.powers.rights.intersects(useful))
        };
        let good: Vec<S> = all
            .iter()
            .filter(|(_, grant)| grant.as_ref().is_some_and(fits))
            .map(|(name, _)| *name)
            .collect();
        if good.is_empty() {
            self.missed = kind;
        }
        let held: Vec<S> = all.iter().filter(|it| it.1.is_some()).map(|it| it.0).collect();
        self.dice.pick(&good).or_else(|| self.dice.pick(&held)).unwrap_or_else(any)
    }

    /// What is asked for when `slot` is passed on.
    fn with(&mut self, slot: S) -> With {
        let held = self
            .brought
            .slots
            .get(&slot)
            .and_then(|(owner, slot)| self.reference.held(Holder::Slot(*owner, *slot)))
            .map_or(Rights::SEND, |grant| grant.powers.rights);
        let rights = match self.dice.below(14) {
            12.. if held.contains(Rights::RECEIVE) => held - Rights::SEND - Rights::POST,
            0 => held | Rights::KILL | Rights::RECEIVE,
            1 | 2 => held - Rights::RECEIVE,
            3 => held - Rights::SEND,
            4 => held & (Rights::SEND | Rights::GRANT | Rights::MINT | Rights::WATCH),
            5 => held & Rights::from_bits_truncate(self.dice.next() as u32),
            _ => held,
        };
        let badge = if self.one_in(4) { Some(self.dice.next() % 3) } else { None };
        let bits = if self.one_in(8) { Some(self.dice.next() % 4) } else { None };
        let priority = if self.one_in(8) { Some(self.dice.below(256) as u8) } else { None };
        With(rights, badge, bits, priority)
    }

    fn gifts(&mut self, id: TaskId) -> Vec<(S, With)> {
        (0..1 + self.dice.below(3))
            .map(|_| {
                let kind = if self.one_in(4) { None } else { Some(ObjectKind::Endpoint) };
                let slot = self.slot(id, kind, Rights::GRANT);
                (slot, self.with(slot))
            })
            .collect()
    }

    /// Asks where a capability came from: its own, or another's.
    fn provenance(&mut self, id: TaskId) -> Does {
        if self.one_in(2) {
            return Does::Provenance(self.slot(id, None, Rights::INSPECT), None);
        }
        let living = self.living();
        let of = self.dice.pick(&living).unwrap_or(1);
        let theirs = self.slot(self.brought.task(of), None, Rights::empty());
        let slot = self.slot(id, Some(ObjectKind::Task), Rights::INSPECT);
        Does::Provenance(slot, Some((of, theirs)))
    }

    fn minor(&mut self) -> Option<u16> {
        if self.one_in(4) { Some(self.dice.below(2) as u16) } else { None }
    }

    fn request(&mut self, who: u32, id: TaskId) -> Step {
        use ObjectKind::{Endpoint, Notification, Region, Task};
        let connect = |this: &mut Self| {
            let posts = this.one_in(4);
            let (kind, right, lines) = match posts {
                true => (Notification, Rights::POST, 1),
                false => (Endpoint, Rights::SEND, 32),
            };
            let lines = if this.one_in(20) { 3 } else { lines };
            Does::Connect {
                slot: this.slot(id, Some(kind), right),
                speaks: if posts { None } else { this.minor() },
                lines,
                doorbell: this.doorbell(),
            }
        };
        let does = match self.dice.below(160) {
            0 => Does::PageMapped,
            1..7 => Does::CreateEndpoint,
            7..9 => Does::CreateNotification,
            9..15 => Does::CreateTask(self.gifts(id)),
            15..25 => {
                let slot = self.slot(id, None, Rights::MINT);
                Does::Mint(slot, self.with(slot))
            }
            25..28 => Does::Move(self.slot(id, None, Rights::empty())),
            28..36 => Does::Delete(self.slot(id, None, Rights::empty())),
            36..43 => {
                let kind = if self.one_in(4) { None } else { Some(Endpoint) };
                Does::Revoke(self.slot(id, kind, Rights::MINT | Rights::GRANT))
            }
            43..46 => Does::Inspect(self.slot(id, None, Rights::empty())),
            46..60 => {
                let Some(connection) = self.own_connection(id, true) else {
                    let does = connect(self);
                    return self.step(who, does);
                };
                let items = (0..1 + self.dice.below(3))
                    .map(|_| {
                        let slot = self.slot(id, None, Rights::GRANT);
                        let travel = if self.one_in(2) { Travel::Move } else { Travel::Mint };
                        (slot, self.with(slot), travel)
                    })
                    .collect();
                Does::Offer(connection, items)
            }
            60..70 => {
                let all: Vec<u32> = self.brought.tickets.keys().copied().collect();
                let recent = &all[all.len().saturating_sub(4)..];
                let ticket = self.dice.pick(recent).unwrap_or(1);
                return self.accept(who, ticket);
            }
            70..77 => Does::Watch(self.slot(id, None, Rights::WATCH)),
            77..89 => {
                let kind = if self.one_in(4) { Notification } else { Endpoint };
                Does::Serve(self.slot(id, Some(kind), Rights::RECEIVE), self.minor())
            }
            89 => Does::StopReceiving(self.slot(id, None, Rights::RECEIVE)),
            90..93 => {
                let all = [
                    Hold::Fail,
                    Hold::FOR_EVER,
                    Hold::Wait { connects: 1, milliseconds: 100 },
                    Hold::Wait { connects: 2, milliseconds: u32::MAX },
                ];
                let hold = self.dice.pick(&all).unwrap();
                Does::Hold(self.slot(id, Some(Endpoint), Rights::RECEIVE), hold)
            }
            93..117 => connect(self),
            117 => Does::Mapped(self.any_connection(), self.doorbell()),
            118..124 => {
                let Some(connection) = self.own_connection(id, false) else {
                    let does = connect(self);
                    return self.step(who, does);
                };
                let all = [Why::Closed, Why::Denied, Why::Dead, Why::Protocol];
                let why = self.dice.pick(&all).unwrap();
                Does::Disconnect(connection, why)
            }
            124..127 => {
                // What has ended, and is looked at until its end says so.
                let over =
                    self.reference.task(id).map(|task| task.over.clone()).unwrap_or_default();
                let ended = self.dice.pick(&over).and_then(|(ended, _)| {
                    let steps = self.brought.connections.iter();
                    steps.rev().find(|(_, it)| **it == ended).map(|(step, _)| *step)
                });
                Does::Disconnect(ended.unwrap_or_else(|| self.any_connection()), Why::Closed)
            }
            127..131 => {
                let open = self.brought.open.iter().filter(|(_, of)| **of == id);
                let open: Vec<u32> = open.map(|(step, _)| *step).collect();
                Does::Cancel(self.dice.pick(&open).unwrap_or(1))
            }
            131..133 => {
                let slot = self.slot(id, Some(Task), Rights::KILL);
                Does::Kill(slot, self.dice.below(70) as i32 - 2)
            }
            133 => Does::List(self.slot(id, Some(Task), Rights::INSPECT)),
            134 => {
                let living = self.living();
                let of = self.dice.pick(&living).unwrap_or(1);
                let slot = self.slot(id, Some(Task), Rights::INSPECT);
                Does::Page(slot, of)
            }
            135..138 => {
                let rules = [Some(1000), Some(7), None];
                let uid = self.dice.pick(&rules).unwrap();
                let rules = vec![(uid, self.gifts(id)), (None, self.gifts(id))];
                Does::FrontDoor(self.slot(id, Some(Task), Rights::GRANT), rules)
            }
            138..141 => {
                let all = [RegionKind::Sealed, RegionKind::Published, RegionKind::Shared];
                let kind = self.dice.pick(&all).unwrap();
                Does::CreateRegion(4096 * self.dice.below(4) as u64, kind)
            }
            141..144 => Does::RegionSealed(self.slot(id, Some(Region), Rights::empty())),
            144..148 => {
                let write = self.one_in(3);
                Does::MapRegion(self.slot(id, Some(Region), Rights::empty()), write)
            }
            150..154 => {
                let living = self.living();
                let of = self.dice.pick(&living).unwrap_or(1);
                let slot = self.slot(id, Some(Task), Rights::INSPECT);
                let from = if self.one_in(4) { self.dice.below(8) as u32 } else { 0 };
                if self.one_in(2) { Does::Held(slot, of, from) } else { Does::Ends(slot, of, from) }
            }
            154..160 => self.provenance(id),
            _ => Does::TakeBack(self.slot(id, None, Rights::empty())),
        };
        let does = match self.missed.take() {
            Some(missed) if !self.one_in(8) => match missed {
                Region => Does::CreateRegion(4096, RegionKind::Sealed),
                Notification => Does::CreateNotification,
                Endpoint => Does::CreateEndpoint,
                Task => Does::CreateTask(Vec::new()),
            },
            _ => does,
        };
        self.step(who, does)
    }

    /// Accepting: mostly by whom the ticket is for.
    fn accept(&mut self, who: u32, ticket: u32) -> Step {
        let receiver = self.brought.tickets.get(&ticket).and_then(|(_, number)| {
            let receiver = self.reference.receiver_of(*number)?;
            self.brought.tasks.iter().find(|(_, task)| **task == receiver).map(|it| *it.0)
        });
        let who = if self.one_in(8) { who } else { receiver.unwrap_or(who) };
        self.step(who, Does::Accept(ticket))
    }
}
