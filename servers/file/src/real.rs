//! A directory of this machine, and nothing outside it.
//!
//! The root is opened once. Every path is resolved by Linux beneath it, with `openat2` and
//! `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`: relative symbolic links that stay inside work; those
//! that lead out, absolute ones, and the links that /proc makes up are refused. What changes a
//! directory opens the parent that way and names its last component only, which Linux then never
//! follows. So no path is resolved twice, and nobody who renames things meanwhile can lead a
//! request out of the tree.
//!
//! Only regular files are opened. A file is looked at through `O_PATH` before it is opened, since
//! opening a FIFO or a device has effects by itself, and again afterwards, since somebody may have
//! put another in its place.

use crate::{Backend, Failure, Path};
use rendez::region::EmptyRegion;
use rendez_protocol::file::{Entry, Kind, OpenFlags, Stat, status};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// How often a resolution that lost a race with somebody's rename is tried.
const RACES_MAX: usize = 16;

/// A directory of this machine, as a file system.
#[derive(Debug)]
pub struct RealDirectory {
    root: OwnedFd,
}

impl RealDirectory {
    /// Serves the directory at `path`. What it is called later does not matter.
    ///
    /// # Errors
    /// What Linux says if it is no directory, or if Linux lacks `openat2` (before 5.6, or where a
    /// seccomp filter forbids it).
    pub fn open(path: &std::path::Path) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        beneath_raw(&root, ".", flags, Mode::empty())?;
        Ok(Self { root })
    }

    /// Opens `path` beneath the root.
    fn beneath(&self, path: &Path<'_>, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let text = if path.as_str().is_empty() { "." } else { path.as_str() };
        // `openat2` refuses a mode where nothing is created.
        let created = if flags.contains(OFlags::CREATE) { mode } else { 0 };
        beneath_raw(&self.root, text, flags | OFlags::CLOEXEC, Mode::from_raw_mode(created))
    }

    /// The directory that holds `path`, and its last component.
    fn parent<'a>(&self, path: &'a Path<'_>) -> Result<(OwnedFd, &'a str), Failure> {
        let (parent, name) = path.split()?;
        let directory = self.beneath(&parent, OFlags::PATH | OFlags::DIRECTORY, 0);
        Ok((directory?, name))
    }
}

fn beneath_raw(
    root: &OwnedFd,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RACES_MAX {
        result = retry_on_intr(|| rustix::fs::openat2(root, path, flags, mode, resolve));
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result
}

impl Backend for RealDirectory {
    type File = OwnedFd;

    fn open(&mut self, path: &Path<'_>, flags: OpenFlags, mode: u32) -> Result<OwnedFd, Failure> {
        let access = match (flags.contains(OpenFlags::READ), flags.contains(OpenFlags::WRITE)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        // Not blocking: should a FIFO get here all the same, the open must not wait for its peer.
        let access = access | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = if flags.contains(OpenFlags::EXCLUSIVE) {
            self.beneath(path, access | OFlags::CREATE | OFlags::EXCL, mode)
        } else {
            match self.beneath(path, OFlags::PATH, 0) {
                Ok(seen) => {
                    must_be_regular(&seen)?;
                    self.beneath(path, access, 0)
                }
                Err(Errno::NOENT) if flags.contains(OpenFlags::CREATE) => {
                    self.beneath(path, access | OFlags::CREATE, mode)
                }
                Err(error) => Err(error),
            }
        };
        let file = opened?;
        must_be_regular(&file)?;
        if flags.contains(OpenFlags::TRUNCATE) {
            self.truncate(&file, 0)?;
        }
        Ok(file)
    }

    fn close(&mut self, file: OwnedFd) {
        drop(file);
    }

    fn read<'a>(
        &'a mut self,
        file: &OwnedFd,
        offset: u64,
        length: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Failure> {
        // No file is longer than Linux can count, and beyond that it calls a read invalid.
        let possible = (i64::MAX as u64).saturating_sub(offset);
        let length = length.min(usize::try_from(possible).unwrap_or(usize::MAX));
        if scratch.len() < length {
            scratch.resize(length, 0);
        }
        let buffer = &mut scratch[..length];
        let mut done = 0;
        while done < length {
            let from = offset + done as u64;
            match retry_on_intr(|| rustix::io::pread(file, &mut buffer[done..], from)) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(&buffer[..done])
    }

    fn size(&mut self, file: &OwnedFd) -> Result<u64, Failure> {
        Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0))
    }

    fn fill(&mut self, file: &OwnedFd, region: &mut EmptyRegion) -> Result<u64, Failure> {
        Ok(region.fill_from(file)?)
    }

    fn write(&mut self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes.len() {
            let to = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
            match retry_on_intr(|| rustix::io::pwrite(file, &bytes[done..], to)) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(written) => done += written,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn truncate(&mut self, file: &OwnedFd, size: u64) -> Result<(), Failure> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(file, size))?)
    }

    fn sync(&mut self, file: &OwnedFd) -> Result<(), Failure> {
        Ok(retry_on_intr(|| rustix::fs::fsync(file))?)
    }

    fn stat(&mut self, path: &Path<'_>) -> Result<Stat, Failure> {
        let file = self.beneath(path, OFlags::PATH, 0)?;
        let stat = rustix::fs::fstat(&file)?;
        let (seconds, nanoseconds) = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
        Ok(Stat {
            kind: kind(FileType::from_raw_mode(stat.st_mode)),
            size: stat.st_size as u64,
            mode: stat.st_mode as RawMode & 0o7777,
            modified_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
        })
    }

    fn list(
        &mut self,
        path: &Path<'_>,
        after: &str,
        most: usize,
    ) -> Result<(Vec<Entry>, bool), Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let mut directory = self.beneath(path, flags, 0).and_then(Dir::new)?;
        // Linux lists in an order of its own. What is kept meanwhile is one page, however many
        // entries there are. The raw name tells those apart that look alike.
        let mut first: BTreeMap<(String, CString), FileType> = BTreeMap::new();
        while let Some(entry) = directory.read() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." || *name <= *after {
                continue;
            }
            first.insert((name.into_owned(), entry.file_name().to_owned()), entry.file_type());
            if first.len() > most + 1 {
                first.pop_last();
            }
        }
        let more = first.len() > most;
        let directory = directory.fd()?;
        let entry = |((name, raw), seen): ((String, CString), FileType)| {
            match rustix::fs::statat(directory, &raw, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = kind(FileType::from_raw_mode(stat.st_mode));
                    Some(Entry { name, kind, size: stat.st_size as u64 })
                }
                // Removed since.
                Err(Errno::NOENT) => None,
                Err(_) => Some(Entry { name, kind: kind(seen), size: 0 }),
            }
        };
        Ok((first.into_iter().take(most).filter_map(entry).collect(), more))
    }

    fn make_directory(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777))?)
    }

    fn remove_directory(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
    }

    fn remove(&mut self, path: &Path<'_>) -> Result<(), Failure> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
    }

    fn rename(&mut self, from: &Path<'_>, to: &Path<'_>) -> Result<(), Failure> {
        let (old_parent, old_name) = self.parent(from)?;
        let (new_parent, new_name) = self.parent(to)?;
        rustix::fs::renameat(old_parent, old_name, new_parent, new_name).map_err(|error| {
            match error {
                // Here these two do not mean what they mean when a path is resolved.
                Errno::XDEV => Failure::new(status::IO, "lie on different file systems"),
                Errno::INVAL => Failure::into_itself(),
                error => error.into(),
            }
        })
    }
}

fn must_be_regular(file: impl AsFd) -> Result<(), Failure> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR.into()),
        _ => Err(Errno::NXIO.into()),
    }
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}
