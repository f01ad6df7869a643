//! A file server and somebody who asks it.

use crate::fake::{Fake, ask, caller, message, ok};
use rendez::service::{Caller, Service, call};
use rendez_file::{Backend, FileServer, MemoryFileSystem, RealDirectory};
use rendez_protocol::file::{
    Entry, List, Listing, Open, OpenFlags, Read, Rename, Stat, Truncate, Write, operation,
};
use rendez_protocol::{Rights, Status, decode, encode};

pub(crate) const BOTH: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
pub(crate) const NEW: OpenFlags = BOTH.union(OpenFlags::CREATE);

/// A server, and a client with READ and WRITE.
#[derive(Debug)]
pub(crate) struct World<B: Backend> {
    pub(crate) server: FileServer<B>,
    pub(crate) fake: Fake,
    pub(crate) client: Caller,
    /// The directory that holds the served one, as `served`.
    pub(crate) outside: Option<tempfile::TempDir>,
}

pub(crate) type Answer = (Status, Vec<u8>);

impl World<MemoryFileSystem> {
    pub(crate) fn memory() -> Self {
        Self::new(MemoryFileSystem::new(1 << 20, 2000), None)
    }
}

impl World<RealDirectory> {
    pub(crate) fn real() -> Self {
        let outside = tempfile::tempdir().expect("a directory");
        let served = outside.path().join("served");
        std::fs::create_dir(&served).expect("a directory in it");
        Self::new(RealDirectory::open(&served).expect("openat2"), Some(outside))
    }

    /// The path of the served directory.
    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.outside.as_ref().expect("a real directory").path().join("served")
    }
}

impl<B: Backend> World<B> {
    pub(crate) fn new(backend: B, outside: Option<tempfile::TempDir>) -> Self {
        let client = caller(1, 1, Rights::READ | Rights::WRITE);
        let mut world =
            Self { server: FileServer::new(backend), fake: Fake::default(), client, outside };
        world.connect(&world.client.clone());
        world
    }

    pub(crate) fn connect(&mut self, caller: &Caller) {
        self.server.connected(&mut self.fake, caller).expect("welcome");
    }

    pub(crate) fn raw(&mut self, operation: u16, payload: &[u8], room: usize) -> Answer {
        let message = message(&self.client, operation, payload, room);
        call(&mut self.server, &mut self.fake, message).take().expect("an answer at once")
    }

    pub(crate) fn ask<T: serde::Serialize + ?Sized>(
        &mut self,
        operation: u16,
        request: &T,
    ) -> Answer {
        ask(&mut self.server, &mut self.fake, &self.client, operation, request)
    }

    pub(crate) fn try_open(&mut self, path: &str, flags: OpenFlags) -> Answer {
        self.ask(operation::OPEN, &Open { path, flags, mode: 0o600 })
    }

    #[track_caller]
    pub(crate) fn open(&mut self, path: &str, flags: OpenFlags) -> u32 {
        decode(&ok(self.try_open(path, flags))).expect("a handle")
    }

    pub(crate) fn read(&mut self, handle: u32, offset: u64, length: u32) -> Answer {
        self.ask(operation::READ, &Read { handle, offset, length })
    }

    pub(crate) fn write(&mut self, handle: u32, offset: u64, bytes: &[u8]) -> Answer {
        let mut payload = encode(&Write { handle, offset });
        payload.extend_from_slice(bytes);
        self.raw(operation::WRITE, &payload, 1000)
    }

    pub(crate) fn truncate(&mut self, handle: u32, size: u64) -> Answer {
        self.ask(operation::TRUNCATE, &Truncate { handle, size })
    }

    pub(crate) fn close(&mut self, handle: u32) -> Answer {
        self.ask(operation::CLOSE, &handle)
    }

    /// A new file with that content, closed again.
    #[track_caller]
    pub(crate) fn put(&mut self, path: &str, content: &[u8]) {
        let handle = self.open(path, NEW | OpenFlags::TRUNCATE);
        ok(self.write(handle, 0, content));
        ok(self.close(handle));
    }

    /// A file's content.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Vec<u8> {
        let handle = self.open(path, OpenFlags::READ);
        let content = ok(self.read(handle, 0, 8 << 10));
        ok(self.close(handle));
        content
    }

    pub(crate) fn make_directory(&mut self, path: &str) -> Answer {
        self.ask(operation::MAKE_DIRECTORY, path)
    }

    pub(crate) fn remove_directory(&mut self, path: &str) -> Answer {
        self.ask(operation::REMOVE_DIRECTORY, path)
    }

    pub(crate) fn remove(&mut self, path: &str) -> Answer {
        self.ask(operation::REMOVE, path)
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Answer {
        self.ask(operation::RENAME, &Rename { from, to })
    }

    pub(crate) fn try_stat(&mut self, path: &str) -> Answer {
        self.ask(operation::STAT, path)
    }

    #[track_caller]
    pub(crate) fn stat(&mut self, path: &str) -> Stat {
        decode(&ok(self.try_stat(path))).expect("Stat")
    }

    pub(crate) fn try_list(&mut self, path: &str) -> Answer {
        self.ask(operation::LIST, &List { path, after: "" })
    }

    #[track_caller]
    pub(crate) fn list(&mut self, path: &str) -> Vec<Entry> {
        let listing: Listing = decode(&ok(self.try_list(path))).expect("Listing");
        assert!(!listing.more);
        listing.entries
    }

    #[track_caller]
    pub(crate) fn names(&mut self, path: &str) -> Vec<String> {
        self.list(path).into_iter().map(|entry| entry.name).collect()
    }
}
