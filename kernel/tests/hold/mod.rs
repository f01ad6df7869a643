//! Holding the lock of a file for as long as one likes, as any process may that has it.
//!
//! # Safety
//! An island of `unsafe`. The page is mapped until [`Hold`] is dropped, by when the thread that
//! reads it has ended; the structures given to Linux are those of `linux/userfaultfd.h`.

#![allow(unsafe_code)]

use nix::libc;
use rustix::event::{PollFd, PollFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

const PAGE: usize = 4096;

/// While it lives, a thread is in a `write` to the file, and Linux holds the file's lock for it.
pub(crate) struct Hold {
    page: usize,
    /// Dropped first: then the page comes, and the write ends.
    faults: Option<OwnedFd>,
    writer: Option<JoinHandle<()>>,
}

impl Hold {
    /// Writes to `file` from a page that does not come. `None` where Linux does not let us.
    pub(crate) fn of(file: &OwnedFd) -> Option<Self> {
        // SAFETY: a new descriptor, or an error.
        let faults = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let faults = i32::try_from(faults).ok().filter(|number| *number >= 0)?;
        // SAFETY: it was just made, and is ours.
        let faults = unsafe { OwnedFd::from_raw_fd(faults) };
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping at a place that Linux chooses.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        let mut hold = Self { page: page.addr(), faults: Some(faults), writer: None };
        // `struct uffdio_api`, and `struct uffdio_register` for missing pages.
        hold.ask(0xc018_aa3f, &mut [0xaa, 0, 0])?;
        hold.ask(0xc020_aa00, &mut [hold.page as u64, PAGE as u64, 1, 0])?;
        let (file, page) = (File::from(file.try_clone().unwrap()), page.expose_provenance());
        hold.writer = Some(std::thread::spawn(move || {
            let page = std::ptr::with_exposed_provenance::<u8>(page);
            // SAFETY: a page that is mapped until this thread has ended.
            let page = unsafe { std::slice::from_raw_parts(page, PAGE) };
            // Whatever comes of it in the end.
            let _ = file.write_at(page, 0);
        }));
        // Linux says by a fault to be read that it is there; or it refuses the write before that.
        let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        loop {
            let mut fault = [PollFd::new(hold.faults.as_ref()?, PollFlags::IN)];
            if rustix::event::poll(&mut fault, Some(&moment)) == Ok(1) {
                break;
            }
            if hold.writer.as_ref()?.is_finished() {
                return None;
            }
        }
        Some(hold)
    }

    fn ask<const N: usize>(&self, request: libc::c_ulong, what: &mut [u64; N]) -> Option<()> {
        let faults = self.faults.as_ref()?.as_raw_fd();
        // SAFETY: the request reads and writes a structure of just these words.
        let result = unsafe { libc::ioctl(faults, request as _, what.as_mut_ptr()) };
        (result == 0).then_some(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.faults = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        let page = std::ptr::with_exposed_provenance_mut::<libc::c_void>(self.page);
        // SAFETY: mapped by `of`, and nobody reads it any more.
        let _ = unsafe { libc::munmap(page, PAGE) };
    }
}
