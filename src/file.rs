//! A file of a file server, as memory.
//!
//! ```no_run
//! # fn main() -> Result<(), rendez::Error> {
//! use rendez::{Connection, Options, Task, file};
//!
//! let task = Task::current()?;
//! let (server, _, _) = task.look_up("/file", None, None)?;
//! let options = Options::speaking(rendez::protocol::file::interface());
//! let mut connection = Connection::open(&task, server.slot, &options)?;
//! let content = file::map(&mut connection, "atlas/europe")?;
//! println!("{} bytes, the first of them {:?}", content.len(), content.first());
//! # Ok(())
//! # }
//! ```

use crate::connection::Connection;
use crate::error::Error;
use crate::region::{Mapped, SealedRegion};
use rendez_protocol::file::{Mapping, Open, OpenFlags, operation};
use rendez_protocol::kernel::Request;
use rendez_protocol::{decode, encode};

/// A file's content as it was when it was mapped: bytes that nobody can change any more.
#[derive(Debug)]
pub struct MappedFile {
    region: SealedRegion,
    size: usize,
}

impl core::ops::Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.region[..self.size]
    }
}

/// Maps the content of the file `path`, relative to the server's root: a copy that the server makes
/// once, of up to 1 GiB. It stays when the connection ends.
///
/// # Errors
/// What the server, the kernel and Linux say.
pub fn map(connection: &mut Connection, path: &str) -> Result<MappedFile, Error> {
    let open = encode(&Open { path, flags: OpenFlags::READ, mode: 0 });
    let handle: u32 = decode(connection.send(operation::OPEN, &open, TEXT)?.ok()?)?;
    let mapped = map_handle(connection, handle);
    let closed = connection.send(operation::CLOSE, &encode(&handle), TEXT)?.ok().map(drop);
    mapped.and_then(|mapped| closed.map(|()| mapped))
}

/// As [`map`], for a file that is open for reading.
///
/// # Errors
/// As [`map`].
pub fn map_handle(connection: &mut Connection, handle: u32) -> Result<MappedFile, Error> {
    let reply = connection.send(operation::MAP, &encode(&handle), TEXT)?;
    let Mapping { size, ticket } = decode(reply.ok()?)?;
    let received = connection.accept(ticket)?;
    let task = connection.task();
    let [capability] = received[..] else {
        return Err(Error::Protocol(format!("a ticket for {} regions", received.len())));
    };
    let mapped = task.map_region(capability.slot);
    // The mapping needs it no more.
    task.link().tell(&Request::Delete { slot: capability.slot });
    match (mapped?, usize::try_from(size)) {
        (Mapped::Sealed(region), Ok(size)) if size <= region.len() => {
            Ok(MappedFile { region, size })
        }
        _ => Err(Error::Protocol("the server's region is not what it says".into())),
    }
}

/// Room for a reply: an answer, or a refusal that names a path.
const TEXT: usize = 512;
