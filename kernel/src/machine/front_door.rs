//! Who is let in that nobody here started, and what they are given.
//!
//! Rules by uid, in order: the first one for a process's uid counts, and whoever has none is not let
//! in. Which rules those are is policy, and the policy is whose who may say it (GRANT on the kernel's
//! own task); see `docs/guide/quotas-and-the-front-door.md`.
//!
//! The kernel keeps capabilities of its own for them, derived from those of whoever said what is
//! given, so that a revocation reaches both these and what was handed out from them.

use super::tree::{Holder, NodeId, Object, Powers, Wish};
use super::{Machine, Reply, bounded, label};
use rendez_protocol::kernel::{Answer, DoorRule, Give, How, KernelError, ObjectKind};
use rendez_protocol::quota::{Allotment, Quota};
use rendez_protocol::{Rights, Slot, TaskId, limit};

/// A rule, and the capabilities that the kernel keeps for it.
#[derive(Debug)]
pub(super) struct Rule {
    /// Whom it is for, `None` for all others.
    uid: Option<u32>,
    pub(super) given: Vec<(String, NodeId)>,
    /// What is set aside for each such uid, where it is not what it usually is.
    pub(super) quotas: Vec<Allotment>,
}

/// The rules, if there are any yet.
#[derive(Debug, Default)]
pub(super) struct FrontDoor {
    rules: Option<Vec<Rule>>,
}

impl FrontDoor {
    /// The rule for a process of `uid`; none if it is let in without one.
    pub(super) fn for_uid(&self, uid: u32, own_uid: bool) -> Result<Option<&Rule>, KernelError> {
        match &self.rules {
            None if own_uid => Ok(None),
            None => Err(KernelError::Denied(format!(
                "the front door is not open to uid {uid}: the system has no policy yet"
            ))),
            Some(rules) => {
                rules.iter().find(|rule| rule.uid.is_none_or(|of| of == uid)).map(Some).ok_or_else(
                    || {
                        KernelError::Denied(format!(
                            "no rule of the front door's policy lets uid {uid} in; who started the \
                         system says who may come, with `rendez up --policy FILE`"
                        ))
                    },
                )
            }
        }
    }

    /// All capabilities that are kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = &(String, NodeId)> {
        self.rules.iter().flatten().flat_map(|rule| &rule.given)
    }

    /// A capability is gone.
    pub(super) fn forget(&mut self, id: NodeId) {
        for rule in self.rules.iter_mut().flatten() {
            rule.given.retain(|(_, kept)| *kept != id);
        }
    }
}

impl Machine {
    /// Says who is let in at the front door. Needs GRANT on the kernel's own task.
    pub(super) fn set_front_door(&mut self, who: TaskId, slot: Slot, rules: &[DoorRule]) -> Reply {
        self.kernel_capability(who, slot, Rights::GRANT)?;
        bounded("the number of rules of the front door", rules.len(), 0, limit::DOOR_RULES_MAX)?;
        let mut checked = Vec::with_capacity(rules.len());
        for rule in rules {
            if rule.quotas.iter().any(|part| !Quota::SHARED.contains(&part.quota)) {
                let text = "a rule names a quota that is not shared out: each task has so many";
                return Err(KernelError::Order(text.into()));
            }
            checked.push((rule, self.checked_gifts(who, &rule.give)?));
        }
        let rules = checked
            .into_iter()
            .map(|(rule, gifts)| Rule {
                uid: rule.uid,
                given: self.kept_for_visitors(&gifts),
                quotas: rule.quotas.clone(),
            })
            .collect();
        let before = self.front_door.rules.replace(rules);
        for (_, id) in before.into_iter().flatten().flat_map(|rule| rule.given) {
            self.remove(id);
        }
        Ok(Some(Answer::Done))
    }

    /// Derives the capabilities that the kernel keeps for a rule.
    fn kept_for_visitors(&mut self, gifts: &[Gift<'_>]) -> Vec<(String, NodeId)> {
        let mut given = Vec::with_capacity(gifts.len());
        for gift in gifts {
            if let Some(object) = self.tree.get(gift.from).map(|node| node.object) {
                let origin = self.origin(TaskId::KERNEL, How::FrontDoor);
                let id =
                    self.plant(Some(gift.from), object, gift.powers, Holder::FrontDoor, origin);
                given.push((gift.name.into(), id));
            }
        }
        given
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
                self.tree.admits_below(from)?;
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
