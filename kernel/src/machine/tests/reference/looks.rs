//! Looking: what a task has, and where a capability came from.
//!
//! The way of a capability is what is told of it and of all that it derives from. Between two of
//! these there were others, perhaps, that are gone, and others who had the same: of each such gap the
//! nearest four are told.

use super::grants::Holder;
use super::space::{needs, received};
use super::{Reference, Reply};
use crate::effect::Side;
use crate::machine::tree::Object;
use rendez_protocol::kernel::{Answer, EndInfo, How, KernelError, ObjectKind, Provenance, Step};
use rendez_protocol::{ConnectionId, Rights, Slot, TaskId};

/// How a capability came to where it lies.
#[derive(Debug)]
pub(super) struct Way {
    grant: u64,
    own: Step,
    /// What there was between it and what it derives from, the nearest first.
    gone: Vec<Step>,
}

impl Reference {
    fn step(&self, number: u64, task: TaskId, how: How) -> Step {
        let name = self.task(task).map_or("?".into(), |it| it.name.clone());
        let powers = self.grant(number).unwrap().powers;
        Step { task, name, how, rights: powers.rights, badge: powers.badge }
    }

    fn way(&self, number: u64) -> Option<&Way> {
        self.ways.iter().find(|way| way.grant == number)
    }

    /// A new capability is a task's.
    pub(super) fn came(&mut self, number: u64, task: TaskId, how: How) {
        let own = self.step(number, task, how);
        self.ways.push(Way { grant: number, own, gone: Vec::new() });
    }

    /// What lay in escrow is a task's: its first owner's who is not the one who offered it, or the
    /// next one's.
    pub(super) fn came_over(&mut self, number: u64, task: TaskId, how: How) {
        let step = self.step(number, task, how);
        let way = self.ways.iter_mut().find(|way| way.grant == number).unwrap();
        let before = core::mem::replace(&mut way.own, step);
        if how == How::Moved {
            way.gone.insert(0, before);
        }
    }

    /// A capability goes: those that derive from it remember it.
    pub(super) fn way_without(&mut self, number: u64) {
        let Some(at) = self.ways.iter().position(|way| way.grant == number) else { return };
        let Way { own, gone, .. } = self.ways.remove(at);
        let below = self.live().filter(|it| it.parent == Some(number)).map(|it| it.number);
        for child in below.collect::<Vec<_>>() {
            if let Some(way) = self.ways.iter_mut().find(|way| way.grant == child) {
                way.gone.push(own.clone());
                way.gone.extend(gone.iter().cloned());
            }
        }
    }

    pub(super) fn provenance(&self, who: TaskId, slot: Slot, of: Option<(TaskId, Slot)>) -> Reply {
        let grant = match of {
            None => {
                let grant = self.capability(who, slot)?;
                needs(slot, &grant, Rights::INSPECT)?;
                grant
            }
            Some((whose, theirs)) => {
                self.kernels(who, slot, Rights::INSPECT)?;
                self.capability(whose, theirs)?
            }
        };
        let (mut steps, mut omitted) = (Vec::new(), 0);
        let mut at = Some(grant.number);
        while let Some(number) = at {
            if let Some(way) = self.way(number) {
                steps.push(way.own.clone());
                steps.extend(way.gone.iter().take(4).cloned());
                omitted += way.gone.len().saturating_sub(4);
            }
            at = self.grant(number).and_then(|grant| grant.parent);
        }
        omitted += steps.len().saturating_sub(64);
        steps.truncate(64);
        Ok(Some(Answer::Provenance(Provenance { steps, omitted: omitted as u32 })))
    }

    /// Whether a capability lets one look at a task.
    pub(super) fn may_look(
        &self,
        who: TaskId,
        slot: Slot,
        task: TaskId,
    ) -> Result<(), KernelError> {
        let grant = self.capability_to(who, slot, ObjectKind::Task, Rights::INSPECT)?;
        let Object::Task { task: of, .. } = grant.object else { return Ok(()) };
        if of != TaskId::KERNEL && of != task {
            return Err(KernelError::Denied(String::new()));
        }
        if self.task(task).is_none() {
            return Err(KernelError::Order(String::new()));
        }
        Ok(())
    }

    /// What lies in a task's space.
    pub(super) fn look_at_space(&self, who: TaskId, slot: Slot, task: TaskId, from: u32) -> Reply {
        self.may_look(who, slot, task)?;
        let slots = self.task(task).unwrap().space.iter();
        let slots = slots.map(|((index, generation), _)| Slot { index, generation });
        let capabilities = slots.filter(|slot| slot.index >= from).filter_map(|slot| {
            let grant = self.held(Holder::Slot(task, slot))?;
            Some(received(slot, grant.object, grant.powers))
        });
        Ok(Some(Answer::Held { capabilities: capabilities.collect(), next: None }))
    }

    /// A task's ends of connections, by their status words.
    pub(super) fn look_at_ends(&self, who: TaskId, slot: Slot, task: TaskId, from: u32) -> Reply {
        self.may_look(who, slot, task)?;
        let mut ends = Vec::new();
        for ((index, generation), it) in self.connections.iter() {
            let connection = ConnectionId { index, generation };
            let with = self.held(Holder::End(connection, Side::Client)).unwrap().powers;
            for side in [Side::Client, Side::Server] {
                let (own, other) = (it.end(side), it.end(side.other()).task);
                if own.task != task || own.index < from {
                    continue;
                }
                let met = other != TaskId::KERNEL;
                let name = self.task(other).filter(|_| met).map(|it| it.name.clone());
                let shapes = [it.wanted.requests, it.wanted.replies];
                let info = EndInfo {
                    connection,
                    serves: side == Side::Server,
                    other: met.then_some(other),
                    name: name.unwrap_or_default(),
                    object: it.endpoint,
                    rights: with.rights,
                    badge: with.badge,
                    bytes: shapes.map(super::connections::bytes).iter().sum(),
                };
                ends.push((own.index, info));
            }
        }
        ends.sort_by_key(|(index, _)| *index);
        let ends = ends.into_iter().map(|(_, info)| info).collect();
        Ok(Some(Answer::Ends { ends, next: None }))
    }
}
