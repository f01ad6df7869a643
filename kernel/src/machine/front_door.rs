//! What processes are given that nobody here started.
//!
//! The kernel keeps capabilities of its own for them, derived from those of whoever said what is
//! given, so that a revocation reaches both these and what was handed out from them.

use super::tree::{Holder, NodeId, Object, Powers, Wish};
use super::{Machine, Reply, bounded, label};
use rendez_protocol::kernel::{Answer, Give, KernelError, ObjectKind};
use rendez_protocol::{Rights, Slot, TaskId, limit};

/// Names, and the capabilities that the kernel keeps.
#[derive(Debug, Default)]
pub(super) struct FrontDoor {
    pub(super) given: Vec<(String, NodeId)>,
}

impl FrontDoor {
    /// A capability is gone.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.given.retain(|(_, kept)| *kept != id);
    }
}

impl Machine {
    /// Says what is given at the front door. Needs GRANT on the kernel's own task.
    pub(super) fn set_front_door(&mut self, who: TaskId, slot: Slot, give: &[Give]) -> Reply {
        self.kernel_capability(who, slot, Rights::GRANT)?;
        let checked = self.checked_gifts(who, give)?;
        let mut given = Vec::with_capacity(checked.len());
        for gift in &checked {
            if let Some(object) = self.tree.get(gift.from).map(|node| node.object) {
                let id = self.plant(Some(gift.from), object, gift.powers, Holder::FrontDoor);
                given.push((gift.name.into(), id));
            }
        }
        let before = core::mem::replace(&mut self.front_door.given, given);
        for (_, id) in before {
            self.remove(id);
        }
        Ok(Some(Answer::Done))
    }

    /// A capability to the kernel's own task.
    pub(super) fn kernel_capability(
        &self,
        who: TaskId,
        slot: Slot,
        rights: Rights,
    ) -> Result<(), KernelError> {
        let (_, node) = self.capability_to(who, slot, ObjectKind::Task, rights)?;
        match node.object {
            Object::Task { task: TaskId::KERNEL, .. } => Ok(()),
            _ => Err(KernelError::Denied(format!(
                "{slot} holds a capability to another task, where one to the kernel's own is needed"
            ))),
        }
    }

    /// Whether `who` may give all this away.
    pub(super) fn checked_gifts<'a>(
        &self,
        who: TaskId,
        give: &'a [Give],
    ) -> Result<Vec<Gift<'a>>, KernelError> {
        bounded("the number of capabilities given", give.len(), 0, limit::GIVEN_CAPABILITIES_MAX)?;
        give.iter()
            .map(|give| {
                label("the name of a given capability", &give.name)?;
                let Give { rights, badge, limits, .. } = *give;
                let (from, powers) =
                    self.passable(who, give.slot, Wish { rights, badge, limits })?;
                Ok(Gift { name: &give.name, from, powers })
            })
            .collect()
    }
}

/// A [`Give`] that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gift<'a> {
    pub(super) name: &'a str,
    pub(super) from: NodeId,
    pub(super) powers: Powers,
}
