//! Regions.

use super::space::needs;
use super::{Reference, Reply, bad, fits};
use crate::effect::{Attach, Effect};
use crate::machine::tree::{Object, Powers};
use rendez_protocol::kernel::{Answer, How, KernelError, ObjectKind, RegionKind};
use rendez_protocol::{ObjectId, Rights, Slot, TaskId};

#[derive(Debug)]
pub(super) struct Region {
    pub(super) id: ObjectId,
    maker: TaskId,
    bytes: u64,
    kind: RegionKind,
    ready: bool,
}

impl Reference {
    fn region(&self, id: ObjectId) -> Option<&Region> {
        self.regions.iter().find(|region| region.id == id)
    }

    pub(super) fn create_region(
        &mut self,
        who: TaskId,
        transaction: u64,
        bytes: u64,
        kind: RegionKind,
    ) -> Reply {
        if bytes == 0 || !bytes.is_multiple_of(4096) || bytes > 1 << 36 {
            return Err(bad(bytes));
        }
        self.space_for(who, 1)?;
        let id = self.object();
        let own = || self.regions.iter().filter(|region| region.maker == who);
        fits(own().count() as u64, 1, self.quotas.regions, "regions of a task")?;
        let used = own().map(|region| region.bytes).sum();
        fits(used, bytes, self.quotas.region_bytes, "bytes of a task's regions")?;
        let shared = kind == RegionKind::Shared;
        self.regions.push(Region { id, maker: who, bytes, kind, ready: shared });
        self.said.push(Effect::MakeRegion { region: id, bytes, kind });
        let mut rights = Rights::MAP_READ | Rights::MINT | Rights::GRANT | Rights::INSPECT;
        if shared {
            rights |= Rights::MAP_WRITE;
        }
        let own = self.place(who, None, Object::Region(id), Powers::first(rights), How::Created)?;
        let attach = vec![Attach::Region(id)];
        self.answer_with(who, transaction, Ok(Answer::Region(own)), attach);
        Ok(None)
    }

    pub(super) fn region_sealed(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let grant = self.capability_to(who, slot, ObjectKind::Region, Rights::empty())?;
        let region = grant.object.id();
        if self.region(region).unwrap().ready {
            return Ok(Some(Answer::Done));
        }
        self.said.push(Effect::CheckRegion { to: who, transaction, region });
        Ok(None)
    }

    pub(super) fn region_looked_at(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ObjectId,
        result: Result<(), KernelError>,
    ) {
        if let Some(region) = self.regions.iter_mut().find(|region| region.id == id)
            && result.is_ok()
        {
            region.ready = true;
        }
        self.answer(who, transaction, result.map(|()| Answer::Done));
    }

    pub(super) fn map_region(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        write: bool,
    ) -> Reply {
        let grant = self.capability_to(who, slot, ObjectKind::Region, Rights::empty())?;
        let id = grant.object.id();
        let Region { bytes, kind, ready, .. } = *self.region(id).unwrap();
        if kind != RegionKind::Shared {
            if write {
                return Err(KernelError::Denied(String::new()));
            }
            needs(slot, &grant, Rights::MAP_READ)?;
        } else if write {
            needs(slot, &grant, Rights::MAP_WRITE)?;
        } else {
            needs(slot, &grant, Rights::MAP_READ | Rights::MAP_WRITE)?;
        }
        if !ready {
            return Err(KernelError::Order(String::new()));
        }
        let answer = Answer::Mapping { bytes, kind };
        self.answer_with(who, transaction, Ok(answer), vec![Attach::Region(id)]);
        Ok(None)
    }
}
