//! Regions: memory as a capability.
//!
//! A region lives while a capability to it exists, wherever that lies, and is on the quota of the
//! task that made it for as long as both live. What has been mapped stays mapped: a capability that
//! is gone takes nothing from those who had it.
//!
//! | kind | who writes | ready |
//! |---|---|---|
//! | sealed | nobody | when the shell has seen `WRITE` and the other seals, and no hole |
//! | published | its maker, through the mapping it has | when the shell has seen `FUTURE_WRITE` and the others, and no hole |
//! | shared | every holder of MAP_WRITE | at once: the kernel seals its size before anybody has it |
//!
//! A region that is not ready is mapped by nobody but its maker, who was given the descriptor when
//! it was made. To say that it is ready is to have the shell look, so anybody who holds it may.
//!
//! Reading and writing are told apart by seals, not by what a descriptor was opened for: whoever has
//! a memory file's descriptor can open it once more, for writing, through `/proc/self/fd`. A shared
//! region has no seal against writing, so there is no reading it without MAP_WRITE.

use super::account::Draws;
use super::tree::{Object, Powers};
use super::{Machine, Reply};
use crate::effect::{Attach, Effect};
use crate::quota::Count;
use rendez_protocol::kernel::{Answer, How, KernelError, ObjectKind, RegionKind};
use rendez_protocol::quota::Quota;
use rendez_protocol::{ObjectId, Rights, Slot, TaskId, limit};

/// All rights that there are to a region that nobody but its maker writes.
pub(super) const READABLE: Rights =
    Rights::MAP_READ.union(Rights::MINT).union(Rights::GRANT).union(Rights::INSPECT);

/// All rights that there are to a shared region.
pub(super) const WRITABLE: Rights = READABLE.union(Rights::MAP_WRITE);

/// One region.
#[derive(Debug)]
pub(super) struct Region {
    /// On whose quota it is, while that lives.
    pub(super) maker: TaskId,
    /// On whose accounts, also then.
    pub(super) draws: Draws,
    pub(super) bytes: u64,
    pub(super) kind: RegionKind,
    /// Whether it may be mapped.
    ready: bool,
    /// Capabilities to it.
    pub(super) capabilities: Count,
}

impl Machine {
    /// Makes a region.
    pub(super) fn create_region(
        &mut self,
        who: TaskId,
        transaction: u64,
        bytes: u64,
        kind: RegionKind,
    ) -> Reply {
        if !(4096..=limit::REGION_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096) {
            return Err(KernelError::BadValue {
                what: "the size of a region, in bytes,".into(),
                value: bytes,
                allowed: format!("a multiple of 4096 from 4096 to {}", limit::REGION_BYTES_MAX),
            });
        }
        self.space_for(who, 1)?;
        self.room(who, Quota::Regions, 1)?;
        self.room(who, Quota::Bytes, bytes)?;
        let (most, most_bytes) = (self.quotas.regions, self.quotas.region_bytes);
        let id = ObjectId(self.number());
        let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
        task.regions.admits(1, most, "regions of a task")?;
        task.region_bytes.admits(bytes, most_bytes, "bytes of a task's regions")?;
        task.regions.add(1);
        task.region_bytes.add(bytes);
        let draws = task.draws;
        self.accounts.spend(&draws, Quota::Regions, 1);
        self.accounts.spend(&draws, Quota::Bytes, bytes);
        let ready = kind == RegionKind::Shared;
        let capabilities = Count::default();
        self.regions.insert(id, Region { maker: who, draws, bytes, kind, ready, capabilities });
        self.effects.push(Effect::MakeRegion { region: id, bytes, kind });
        let rights = if kind == RegionKind::Shared { WRITABLE } else { READABLE };
        let capability =
            self.place(who, None, Object::Region(id), Powers::first(rights), How::Created)?;
        let attach = vec![Attach::Region(id)];
        self.answer_with(who, transaction, Answer::Region(capability), attach);
        Ok(None)
    }

    /// Has the shell look whether a region is filled and sealed.
    pub(super) fn region_sealed(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let (_, node) = self.capability_to(who, slot, ObjectKind::Region, Rights::empty())?;
        let id = node.object.id();
        let Some(region) = self.regions.get(&id) else { return Err(KernelError::BadSlot(slot)) };
        if !region.ready {
            self.effects.push(Effect::CheckRegion { to: who, transaction, region: id });
            return Ok(None);
        }
        Ok(Some(Answer::Done))
    }

    /// A region was looked at.
    pub(super) fn region_seen(
        &mut self,
        who: TaskId,
        transaction: u64,
        id: ObjectId,
        result: Result<(), KernelError>,
    ) {
        if let (Some(region), Ok(())) = (self.regions.get_mut(&id), &result) {
            region.ready = true;
        }
        self.answer(who, transaction, result.map(|()| Answer::Done));
    }

    /// Gives a task a region's descriptor. Needs MAP_READ or MAP_WRITE.
    pub(super) fn map_region(
        &mut self,
        who: TaskId,
        transaction: u64,
        slot: Slot,
        write: bool,
    ) -> Reply {
        let (_, node) = self.capability_to(who, slot, ObjectKind::Region, Rights::empty())?;
        let id = node.object.id();
        let Some(region) = self.regions.get(&id) else { return Err(KernelError::BadSlot(slot)) };
        let (bytes, kind, ready) = (region.bytes, region.kind, region.ready);
        if write && kind != RegionKind::Shared {
            return Err(KernelError::Denied(
                "only a shared region can be mapped for writing; of another its maker alone has a \
                 mapping that writes"
                    .into(),
            ));
        }
        // Who has a shared region's descriptor can write, whatever it asked for.
        let needed = match (kind, write) {
            (RegionKind::Shared, true) => Rights::MAP_WRITE,
            (RegionKind::Shared, false) => Rights::MAP_READ | Rights::MAP_WRITE,
            (RegionKind::Sealed | RegionKind::Published, _) => Rights::MAP_READ,
        };
        super::space::needs(slot, &node, needed)?;
        if !ready {
            return Err(KernelError::Order(
                "the region is not ready: whoever made it fills it, seals it, and says so".into(),
            ));
        }
        let attach = vec![Attach::Region(id)];
        self.answer_with(who, transaction, Answer::Mapping { bytes, kind }, attach);
        Ok(None)
    }

    /// There is one more capability to a region.
    pub(super) fn region_in(&mut self, id: ObjectId) {
        if let Some(region) = self.regions.get_mut(&id) {
            region.capabilities.add(1);
        }
    }

    /// There is one capability less to a region; with the last one it is gone.
    pub(super) fn region_out(&mut self, id: ObjectId) {
        let Some(region) = self.regions.get_mut(&id) else { return };
        region.capabilities.sub(1);
        if !region.capabilities.is_zero() {
            return;
        }
        if let Some(maker) = self.tasks.get_mut(region.maker) {
            maker.regions.sub(1);
            maker.region_bytes.sub(region.bytes);
        }
        let [.., of_regions, of_bytes] = region.draws;
        let bytes = region.bytes;
        self.regions.remove(&id);
        self.accounts.repay(of_regions, Quota::Regions, 1);
        self.accounts.repay(of_bytes, Quota::Bytes, bytes);
        self.effects.push(Effect::ForgetRegion(id));
    }
}
