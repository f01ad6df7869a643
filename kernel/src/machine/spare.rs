//! Spares: segments that are ready before anybody connects.
//!
//! To make a segment takes its owner: it maps it, populates it, seals it. A task that has done so in
//! advance is not waited for when a connection comes. With a spare at both ends a connection is
//! complete as soon as it is asked for: the server is told, and then the client, each with the
//! other's segment. With one at one end, the other goes through its steps as ever.
//!
//! A spare is taken by one connection and never comes back, whatever becomes of that: its reader may
//! have mapped it. Its bytes are its owner's until it is taken, and the client's from then on.

use super::{Machine, Reply};
use crate::effect::{Attach, Effect, Pair, Side};
use crate::quota::over;
use rendez_protocol::kernel::{Answer, Doorbell, KernelError, Shape};
use rendez_protocol::quota::Quota;
use rendez_protocol::{SpareId, TaskId};

/// A spare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    pub(super) shape: Shape,
    pub(super) phase: Phase,
}

/// What a spare waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its owner's `SpareMapped`.
    Maps,
    /// The shell, and with it this request.
    Seals { transaction: u64, doorbell: Doorbell },
    /// A connection. So is the owner woken if it is the server.
    Ready(Doorbell),
}

impl Machine {
    /// Makes a spare.
    pub(super) fn make_spare(&mut self, who: TaskId, transaction: u64, shape: Shape) -> Reply {
        super::connection::check_shape("shape", shape)?;
        let (most, most_bytes) = (self.quotas.spares, self.quotas.segment_bytes);
        let bytes = shape.segment_bytes();
        self.room(who, Quota::Bytes, bytes as u64)?;
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        if task.spares.len() >= most as usize {
            return Err(over("spares of a task", most.into(), task.spares.len() as u64));
        }
        task.segment_bytes.admits(bytes as u64, most_bytes, "bytes of a client's segments")?;
        let Some(number) = task.spares_ever.checked_add(1) else {
            return Err(over("spares that a task has ever had", u32::MAX.into(), u32::MAX.into()));
        };
        task.spares_ever = number;
        task.segment_bytes.add(bytes as u64);
        self.accounts.spend(&task.draws, Quota::Bytes, bytes as u64);
        let spare = SpareId(number);
        task.spares.insert(spare, Spare { shape, phase: Phase::Maps });
        self.effects.push(Effect::MakeSpare { task: who, spare, bytes });
        let attach = vec![Attach::Spare(who, spare)];
        self.answer_with(who, transaction, Answer::Spare { spare }, attach);
        Ok(None)
    }

    /// The owner of a spare has mapped, populated and sealed it.
    pub(super) fn spare_mapped(
        &mut self,
        who: TaskId,
        transaction: u64,
        spare: SpareId,
        doorbell: Doorbell,
    ) -> Reply {
        let of = self.tasks.get_mut(who).and_then(|task| task.spares.get_mut(&spare));
        let of = of.ok_or(KernelError::BadSpare(spare))?;
        if of.phase != Phase::Maps {
            return Err(KernelError::Order(format!("{spare} was mapped before")));
        }
        of.phase = Phase::Seals { transaction, doorbell };
        let bell = doorbell == Doorbell::Event;
        self.effects.push(Effect::CheckSpare { task: who, spare, bell });
        Ok(None)
    }

    /// A spare was looked at.
    pub(super) fn spare_seen(
        &mut self,
        who: TaskId,
        spare: SpareId,
        result: Result<(), KernelError>,
    ) {
        let of = self.tasks.get_mut(who).and_then(|task| task.spares.get_mut(&spare));
        let Some(of) = of else { return };
        let Phase::Seals { transaction, doorbell } = of.phase else { return };
        match result {
            Ok(()) => {
                of.phase = Phase::Ready(doorbell);
                self.answer(who, transaction, Ok(Answer::Done));
            }
            Err(error) => {
                of.phase = Phase::Maps;
                self.answer(who, transaction, Err(error));
                self.forget_spare(who, spare);
            }
        }
    }

    /// Lets go of a spare at its owner's wish.
    pub(super) fn drop_spare(&mut self, who: TaskId, spare: SpareId) -> Reply {
        let of = self.tasks.get(who).and_then(|task| task.spares.get(&spare));
        let phase = of.ok_or(KernelError::BadSpare(spare))?.phase;
        self.forget_spare(who, spare);
        if let Phase::Seals { transaction, .. } = phase {
            self.answer(who, transaction, Err(KernelError::BadSpare(spare)));
        }
        Ok(Some(Answer::Done))
    }

    /// Lets go of a spare, if it is there.
    pub(super) fn forget_spare(&mut self, who: TaskId, spare: SpareId) {
        let Some(task) = self.tasks.get_mut(who) else { return };
        if let Some(gone) = task.spares.remove(&spare) {
            let bytes = gone.shape.segment_bytes() as u64;
            task.segment_bytes.sub(bytes);
            self.repay(who, Quota::Bytes, bytes);
            self.effects.push(Effect::ForgetSpare(who, spare));
        }
    }

    /// Has a spare of that shape, if the task has one that is ready, become a segment of `pair`: the
    /// oldest. With it comes how its owner is woken.
    pub(super) fn take_spare(
        &mut self,
        who: TaskId,
        shape: Shape,
        pair: Pair,
        side: Side,
    ) -> Option<(SpareId, Doorbell)> {
        let task = self.tasks.get_mut(who)?;
        let (spare, doorbell) = task.spares.iter().find_map(|(id, spare)| match spare.phase {
            Phase::Ready(doorbell) if spare.shape == shape => Some((*id, doorbell)),
            _ => None,
        })?;
        task.spares.remove(&spare);
        task.segment_bytes.sub(shape.segment_bytes() as u64);
        self.repay(who, Quota::Bytes, shape.segment_bytes() as u64);
        self.effects.push(Effect::UseSpare { task: who, spare, pair, side });
        Some((spare, doorbell))
    }
}
