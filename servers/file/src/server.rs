//! The server itself: who may do what, and whose open file a handle is.

use crate::handles::{Handles, OpenFile};
use crate::regions::Regions;
use crate::{Backend, Failure, Path, limit};
use rendez::service::{Caller, Context, Message, Refusal, Reply, Service};
use rendez_protocol::encode::{decode_first, page};
use rendez_protocol::file::{
    List, Listing, Mapping, Open, OpenFlags, Read, Rename, Truncate, Write, operation, status,
};
use rendez_protocol::kernel::{KernelError, Limits, Offer, Received, Travel};
use rendez_protocol::{ConnectionId, Rights, Status, decode, encode};
use std::collections::HashMap;

/// The file server, over any [`Backend`].
#[derive(Debug)]
pub struct FileServer<B: Backend> {
    backend: B,
    connections: HashMap<ConnectionId, Handles<B::File>>,
    regions: HashMap<ConnectionId, Regions>,
    open_files: usize,
    scratch: Vec<u8>,
}

impl<B: Backend> FileServer<B> {
    /// A server of `backend`.
    pub fn new(backend: B) -> Self {
        Self {
            backend,
            connections: HashMap::new(),
            regions: HashMap::new(),
            open_files: 0,
            scratch: Vec::new(),
        }
    }

    fn open(&mut self, caller: &Caller, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Open { path: text, flags, mode } = decode(payload)?;
        check(flags, mode).map_err(|reason| Failure::new(Status::MALFORMED, reason).about(text))?;
        let mut needed = Rights::empty();
        needed.set(Rights::READ, flags.contains(OpenFlags::READ));
        needed.set(Rights::WRITE, flags.intersects(OpenFlags::all() - OpenFlags::READ));
        caller.require(needed)?;
        let handles = self
            .connections
            .get_mut(&caller.connection)
            .ok_or_else(|| Refusal::new(Status::DENIED, "refused: the caller has no connection"))?;
        let over_quota = |limit: usize, whose: &str| {
            let reason = format!("over quota: open files {whose} (limit {limit})");
            Err(Failure::new(Status::QUOTA, reason).about(text))
        };
        if !handles.has_room() {
            return over_quota(limit::OPEN_FILES_PER_CONNECTION, "of one connection");
        }
        if self.open_files >= limit::OPEN_FILES {
            return over_quota(limit::OPEN_FILES, "of all connections");
        }
        let file = Path::new(text)
            .and_then(|path| self.backend.open(&path, flags, mode))
            .map_err(|failure| failure.about(text))?;
        self.open_files += 1;
        Ok(encode(&handles.insert(OpenFile { file, path: text.into(), flags })))
    }

    fn read(&mut self, caller: &Caller, room: usize, payload: &[u8]) -> Result<&[u8], Refusal> {
        let Read { handle, offset, length } = decode(payload)?;
        let open = find(&self.connections, caller, handle, OpenFlags::READ)?;
        let length = (length as usize).min(room).min(limit::READ_BYTES);
        self.backend
            .read(&open.file, offset, length, &mut self.scratch)
            .map_err(|failure| failure.about(&open.path))
    }

    /// Copies an open file into a region and hands that over.
    fn map(
        &mut self,
        context: &mut dyn Context,
        caller: &Caller,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let open = find(&self.connections, caller, decode(payload)?, OpenFlags::READ)?;
        let about = |failure: Failure| failure.about(&open.path);
        let size = self.backend.size(&open.file).map_err(about)?;
        if size > limit::REGION_BYTES {
            let most = limit::REGION_BYTES;
            let reason = format!("its {size} bytes are more than a region of {most}; read it");
            return Err(about(Failure::new(Status::QUOTA, reason)));
        }
        let regions = self.regions.entry(caller.connection).or_default();
        regions.make_room(context, size);
        let refused = |error: KernelError| {
            let status = match error {
                KernelError::Quota { .. } => Status::QUOTA,
                _ => status::IO,
            };
            about(Failure::new(status, error.to_string()))
        };
        let mut region = context.create_region(size).map_err(refused)?;
        let size = self.backend.fill(&open.file, &mut region).map_err(about)?;
        let Received { slot, rights, .. } = region.seal().map_err(|error| about(error.into()))?;
        let item = Offer { slot, rights, badge: None, limits: Limits::SAME, travel: Travel::Mint };
        match context.offer(caller.connection, &[item]) {
            Ok(ticket) => {
                regions.add(slot, size);
                Ok(encode(&Mapping { size, ticket }))
            }
            Err(error) => {
                let _ = context.delete(slot);
                Err(refused(error))
            }
        }
    }

    /// The operations on open files, but for read.
    fn on_file(
        &mut self,
        caller: &Caller,
        operation: u16,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let ((handle, offset), rest): ((u32, u64), _) = match operation {
            operation::WRITE => decode_first(payload)
                .map(|(Write { handle, offset }, bytes)| ((handle, offset), bytes))?,
            operation::TRUNCATE => {
                let Truncate { handle, size } = decode(payload)?;
                ((handle, size), &[])
            }
            _ => ((decode(payload)?, 0), &[]),
        };
        let open = find(&self.connections, caller, handle, OpenFlags::WRITE)?;
        let backend = &mut self.backend;
        match operation {
            operation::WRITE => backend.write(&open.file, offset, rest),
            operation::TRUNCATE => backend.truncate(&open.file, offset),
            _ => backend.sync(&open.file),
        }
        .map(|()| Vec::new())
        .map_err(|failure| failure.about(&open.path))
    }

    fn close(&mut self, caller: &Caller, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let handle = decode(payload)?;
        let handles = self.connections.get_mut(&caller.connection);
        let open = handles.and_then(|handles| handles.remove(handle));
        self.backend.close(open.ok_or_else(|| bad_handle(handle))?.file);
        self.open_files -= 1;
        Ok(Vec::new())
    }

    fn stat(&mut self, caller: &Caller, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::READ)?;
        let text = decode(payload)?;
        let stat = Path::new(text).and_then(|path| self.backend.stat(&path));
        stat.map(|stat| encode(&stat)).map_err(|failure| failure.about(text))
    }

    fn list(&mut self, caller: &Caller, room: usize, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::READ)?;
        let List { path: text, after } = decode(payload)?;
        let (entries, more) = Path::new(text)
            .and_then(|path| self.backend.list(&path, after, limit::LIST_ENTRIES))
            .map_err(|failure| failure.about(text))?;
        let (entries, cut) = page(entries, room);
        Ok(encode(&Listing { entries, more: more || cut }))
    }

    /// The operations that change the tree and take one path.
    fn change(
        &mut self,
        caller: &Caller,
        payload: &[u8],
        change: impl FnOnce(&mut B, &Path<'_>) -> Result<(), Failure>,
    ) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::WRITE)?;
        let text = decode(payload)?;
        Path::new(text)
            .and_then(|path| change(&mut self.backend, &path))
            .map(|()| Vec::new())
            .map_err(|failure| failure.about(text))
    }

    fn rename(&mut self, caller: &Caller, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::WRITE)?;
        let Rename { from, to } = decode(payload)?;
        Path::new(from)
            .and_then(|source| self.backend.rename(&source, &Path::new(to)?))
            .map(|()| Vec::new())
            .map_err(|Failure { status, reason }| {
                Refusal::new(status, format!("{from:?} to {to:?}: {reason}"))
            })
    }
}

impl<B: Backend> Service for FileServer<B> {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let Message { caller, operation, payload, room, .. } = message;
        let result = match operation {
            operation::READ => {
                return match self.read(caller, room, payload) {
                    Ok(bytes) => reply.ok(bytes),
                    Err(refusal) => reply.refuse(&refusal),
                };
            }
            operation::WRITE | operation::TRUNCATE | operation::SYNC => {
                self.on_file(caller, operation, payload)
            }
            operation::MAP => self.map(context, caller, payload),
            operation::OPEN => self.open(caller, payload),
            operation::CLOSE => self.close(caller, payload),
            operation::STAT => self.stat(caller, payload),
            operation::LIST => self.list(caller, room, payload),
            operation::MAKE_DIRECTORY => self.change(caller, payload, B::make_directory),
            operation::REMOVE_DIRECTORY => self.change(caller, payload, B::remove_directory),
            operation::REMOVE => self.change(caller, payload, B::remove),
            operation::RENAME => self.rename(caller, payload),
            unknown => Err(Refusal::new(
                Status::UNIMPLEMENTED,
                format!("the file server knows no operation {unknown}"),
            )),
        };
        reply.result(result);
    }

    fn connected(&mut self, _context: &mut dyn Context, caller: &Caller) -> Result<(), Refusal> {
        self.connections.insert(caller.connection, Handles::default());
        Ok(())
    }

    fn disconnected(&mut self, context: &mut dyn Context, caller: &Caller) {
        if let Some(mut regions) = self.regions.remove(&caller.connection) {
            regions.take_back(context);
        }
        let Some(handles) = self.connections.remove(&caller.connection) else { return };
        for file in handles.into_files() {
            self.backend.close(file);
            self.open_files -= 1;
        }
    }
}

/// The caller's open file of that handle, if it was opened for what is `needed`.
fn find<'a, F>(
    connections: &'a HashMap<ConnectionId, Handles<F>>,
    caller: &Caller,
    handle: u32,
    needed: OpenFlags,
) -> Result<&'a OpenFile<F>, Refusal> {
    let open = connections
        .get(&caller.connection)
        .and_then(|handles| handles.get(handle))
        .ok_or_else(|| bad_handle(handle))?;
    if open.flags.contains(needed) {
        return Ok(open);
    }
    let reason = if needed == OpenFlags::READ { "reading" } else { "writing" };
    let failure = Failure::new(status::NOT_OPEN_FOR, format!("was not opened for {reason}"));
    Err(failure.about(&open.path))
}

fn bad_handle(handle: u32) -> Refusal {
    let why = format!("handle {handle:#x} is not open on this connection");
    Refusal::new(status::BAD_HANDLE, why)
}

/// `Ok` if the flags and mode of an open make sense together.
fn check(flags: OpenFlags, mode: u32) -> Result<(), &'static str> {
    if !OpenFlags::all().contains(flags) {
        Err("unknown flags")
    } else if !flags.intersects(OpenFlags::READ | OpenFlags::WRITE) {
        Err("open for READ, WRITE, or both")
    } else if flags.contains(OpenFlags::EXCLUSIVE) && !flags.contains(OpenFlags::CREATE) {
        Err("EXCLUSIVE goes with CREATE only")
    } else if flags.contains(OpenFlags::TRUNCATE) && !flags.contains(OpenFlags::WRITE) {
        Err("TRUNCATE goes with WRITE only")
    } else if mode & !0o777 != 0 {
        Err("permission bits are within 0o777")
    } else {
        Ok(())
    }
}
