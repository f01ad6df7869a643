//! The files of regions, which the kernel keeps for as long as somebody can name them.

use super::closer::Closing;
use super::segments::{Held, Shared, check, system};
use crate::quota::over;
use rendez_ipc_core::status::{SEALS, memory_file};
use rendez_protocol::ObjectId;
use rendez_protocol::kernel::{KernelError, RegionKind};
use rustix::fs::{SealFlags, fcntl_add_seals};
use std::collections::HashMap;
use std::rc::Rc;

/// What a region that nobody writes any more is sealed with.
const SEALED: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// All regions.
#[derive(Debug)]
pub(super) struct Regions {
    all: HashMap<ObjectId, Region>,
    most: usize,
    closing: Closing,
}

#[derive(Debug)]
struct Region {
    bytes: usize,
    kind: RegionKind,
    file: Option<Shared>,
}

impl Regions {
    /// `most`: how many there may be, of all tasks together, since each costs a descriptor.
    pub(super) fn new(most: usize, closing: Closing) -> Self {
        Self { all: HashMap::new(), most, closing }
    }

    /// Remembers a region.
    pub(super) fn make(&mut self, region: ObjectId, bytes: u64, kind: RegionKind) {
        // The machine allows no size that this process could not address.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.all.insert(region, Region { bytes, kind, file: None });
    }

    /// Lets go of a region.
    pub(super) fn forget(&mut self, region: ObjectId) {
        self.all.remove(&region);
    }

    /// A region's file; made now if it is not there yet.
    pub(super) fn file(&mut self, id: ObjectId) -> Result<Shared, KernelError> {
        let (count, most) = (self.all.len(), self.most);
        let region = self.region(id)?;
        if let Some(file) = &region.file {
            return Ok(Rc::clone(file));
        }
        if count > most {
            return Err(over("regions of all tasks together", most as u64, count as u64));
        }
        let (bytes, kind) = (region.bytes, region.kind);
        let making = |error: std::io::Error| system("making a region", error);
        let file = memory_file("rendez-region", bytes).map_err(making)?;
        if kind == RegionKind::Shared {
            // Nobody else has it yet, so nobody holds its lock.
            fcntl_add_seals(&file, SealFlags::SEAL).map_err(|error| making(error.into()))?;
        }
        let file = Rc::new(Held::file(file, bytes, &self.closing));
        if let Some(region) = self.all.get_mut(&id) {
            region.file = Some(Rc::clone(&file));
        }
        Ok(file)
    }

    /// Whether a region is filled, and sealed as its kind wants it.
    pub(super) fn check(&mut self, id: ObjectId) -> Result<(), KernelError> {
        let file = self.file(id)?;
        let region = self.region(id)?;
        match region.kind {
            RegionKind::Sealed => check(&file, region.bytes, SEALED, "region"),
            RegionKind::Published => check(&file, region.bytes, SEALS, "region"),
            RegionKind::Shared => Ok(()),
        }
    }

    fn region(&mut self, id: ObjectId) -> Result<&mut Region, KernelError> {
        let missing = || KernelError::Order(format!("object {} is no region", id.0));
        self.all.get_mut(&id).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::closer::Closers;
    use super::{Regions, SEALED, SEALS};
    use rendez_protocol::ObjectId;
    use rendez_protocol::kernel::{KernelError, RegionKind};
    use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals};

    #[test]
    fn each_kind_wants_its_seals_and_no_hole() {
        let closers = Closers::start(|| Ok(())).unwrap();
        let mut regions = Regions::new(9, closers.closing());
        let kinds = [(RegionKind::Sealed, SEALED), (RegionKind::Published, SEALS)];
        for (at, (kind, seals)) in (1..).zip(kinds) {
            regions.make(ObjectId(at), 8192, kind);
            let file = regions.file(ObjectId(at)).unwrap();
            fcntl_add_seals(&*file, SealFlags::FUTURE_WRITE).unwrap();
            let refused = regions.check(ObjectId(at));
            assert!(matches!(refused, Err(KernelError::Order(_))), "{refused:?}");
            regions.forget(ObjectId(at));
            for whole in [false, true] {
                regions.make(ObjectId(at), 8192, kind);
                let file = regions.file(ObjectId(at)).unwrap();
                let bytes = if whole { 8192 } else { 4096 };
                rustix::io::write(&*file, &vec![1; bytes]).unwrap();
                assert!(regions.check(ObjectId(at)).is_err(), "not sealed");
                fcntl_add_seals(&*file, seals).unwrap();
                assert_eq!(regions.check(ObjectId(at)).is_ok(), whole);
                regions.forget(ObjectId(at));
            }
        }
    }

    #[test]
    fn a_shared_region_is_sealed_in_size_and_open_to_writers() {
        let closers = Closers::start(|| Ok(())).unwrap();
        let mut regions = Regions::new(1, closers.closing());
        let id = ObjectId(1);
        regions.make(id, 4096, RegionKind::Shared);
        let file = regions.file(id).unwrap();
        let size = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        assert!(fcntl_get_seals(&*file).unwrap().contains(size));
        assert!(fcntl_add_seals(&*file, SealFlags::WRITE).is_err(), "for good");
        assert_eq!(rustix::io::write(&*file, &[1; 4096]).unwrap(), 4096);
        regions.check(id).unwrap();
        // One more than there may be.
        regions.make(ObjectId(2), 4096, RegionKind::Shared);
        assert!(matches!(regions.file(ObjectId(2)), Err(KernelError::Quota { limit: 1, .. })));
    }
}
