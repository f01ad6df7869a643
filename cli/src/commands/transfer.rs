//! The content of files: several reads or writes in flight, and a server's restart survived.
//!
//! Reading twice does no harm, nor does writing the same bytes to the same place. So whatever a
//! server's death leaves open is simply done again over the next connection, from the first byte that
//! is not known to have arrived. Emptying the file is not repeated.

use super::name_space::{Files, REFUSAL_BYTES};
use crate::failure::{FAILED, Failure};
use crate::output::Output;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use rendez::protocol::file::{Open, OpenFlags, Read, Write, operation};
use rendez::protocol::{decode, encode, limit};
use rendez::{Connection, Error, Why, deadline_after};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Bytes of each payload area.
pub(super) const AREA: u32 = 1 << 20;
/// Reads or writes in flight.
const AHEAD: usize = 4;
/// Bytes of one: so many that as many as are in flight fit the area with what they are headed by.
const CHUNK: usize = AREA as usize / AHEAD - limit::LINE_BYTES;
/// How often a server may die before a transfer is given up.
const RESTARTS: u32 = 5;
/// How long a server may take to come back.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What takes no time worth showing, in bytes.
const SMALL: u64 = 4 << 20;

/// Reads all of a file and gives it to `sink`; how many bytes that were. `size` is what is expected.
///
/// # Errors
/// What the server says; what `sink` says, as a failure that speaks of `target`.
pub(super) fn download(
    files: &Files,
    size: u64,
    target: &str,
    sink: &mut dyn io::Write,
) -> Result<u64, Failure> {
    let mut at = 0;
    surviving(files, |connection| read_on(connection, files.rest(), size, &mut at, sink))?
        .map_err(|error| match error.kind() {
            // For whoever wants to know whether to be quiet.
            io::ErrorKind::BrokenPipe => Failure::nobody_reads(),
            _ => Failure::system(format!("writing {target}"), error),
        })?;
    Ok(at)
}

/// Runs `body` over a connection, and again over the next one if the server died.
fn surviving<R>(
    files: &Files,
    mut body: impl FnMut(&mut Connection) -> Result<R, Error>,
) -> Result<R, Failure> {
    let mut deaths = 0;
    loop {
        match files.client().with(deadline_after(TIMEOUT), &mut body) {
            Err(error)
                if matches!(error.why(), Some(Why::Dead | Why::Closed)) && deaths < RESTARTS =>
            {
                deaths += 1;
            }
            Err(error) => return Err(files.failure(error)),
            Ok(result) => return Ok(result),
        }
    }
}

fn open(
    connection: &mut Connection,
    path: &str,
    flags: OpenFlags,
    mode: u32,
) -> Result<u32, Error> {
    let request = encode(&Open { path, flags, mode });
    Ok(decode(connection.send(operation::OPEN, &request, REFUSAL_BYTES)?.ok()?)?)
}

fn close(connection: &mut Connection, handle: u32) -> Result<(), Error> {
    connection.send(operation::CLOSE, &encode(&handle), REFUSAL_BYTES)?.ok()?;
    Ok(())
}

/// Reads from `at` to the end. What is inside says how the sink fared.
fn read_on(
    connection: &mut Connection,
    path: &str,
    size: u64,
    at: &mut u64,
    sink: &mut dyn io::Write,
) -> Result<io::Result<()>, Error> {
    let handle = open(connection, path, OpenFlags::READ, 0)?;
    let room = CHUNK.min(connection.reply_bytes_max());
    let mut flying = VecDeque::new();
    let mut next = *at;
    // Set with the first answer after which the others do not matter any more.
    let mut end: Option<Result<io::Result<()>, Error>> = None;
    loop {
        // Beyond the expected size only one read goes at a time: it finds the end.
        while end.is_none() && flying.len() < AHEAD && (flying.is_empty() || next < size) {
            let read = encode(&Read { handle, offset: next, length: room as u32 });
            flying.push_back(connection.begin(operation::READ, &read, room)?);
            next += room as u64;
        }
        let Some(transaction) = flying.pop_front() else { break };
        let reply = connection.finish(transaction)?;
        if end.is_some() {
            continue;
        }
        match reply.ok() {
            Err(error) => end = Some(Err(error)),
            Ok(bytes) => match sink.write_all(bytes) {
                Err(error) => end = Some(Ok(Err(error))),
                Ok(()) => {
                    *at += bytes.len() as u64;
                    if bytes.len() < room {
                        end = Some(Ok(Ok(())));
                    }
                }
            },
        }
    }
    let end = end.unwrap_or(Ok(Ok(())))?;
    close(connection, handle)?;
    Ok(end)
}

/// A file on its way to the server.
struct Upload<'a> {
    source: &'a mut dyn io::Read,
    mode: u32,
    /// The file is there and was empty.
    opened: bool,
    /// Where the source has been read to.
    read: u64,
    ended: bool,
    /// What was read and is not known to have been written.
    unanswered: VecDeque<(u64, Vec<u8>)>,
    written: u64,
}

/// Writes all of `source` to a file, which is made or emptied; how many bytes that were. `origin` is
/// what failures of `source` speak of.
///
/// # Errors
/// What the server says; what `source` says.
pub(super) fn upload(
    files: &Files,
    mode: u32,
    origin: &str,
    source: &mut dyn io::Read,
) -> Result<u64, Failure> {
    let mut upload = Upload {
        source,
        mode,
        opened: false,
        read: 0,
        ended: false,
        unanswered: VecDeque::new(),
        written: 0,
    };
    let incomplete = |upload: &Upload<'_>, failure: Failure| {
        let written = upload.written;
        if upload.opened {
            failure.but(format!("{written} bytes of it were written"))
        } else {
            failure
        }
    };
    match surviving(files, |connection| upload.write_on(connection, files.rest())) {
        Ok(Ok(())) => Ok(upload.written),
        Ok(Err(error)) => {
            let failure = Failure::system(format!("reading {origin}"), error);
            Err(incomplete(&upload, failure))
        }
        Err(failure) => Err(incomplete(&upload, failure)),
    }
}

impl Upload<'_> {
    /// Writes what is left. What is inside says how the source fared.
    fn write_on(
        &mut self,
        connection: &mut Connection,
        path: &str,
    ) -> Result<io::Result<()>, Error> {
        let flags = if self.opened {
            OpenFlags::WRITE
        } else {
            OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE
        };
        let handle = open(connection, path, flags, self.mode)?;
        self.opened = true;
        let mut flying = VecDeque::new();
        for (offset, bytes) in &self.unanswered {
            flying.push_back(begin_write(connection, handle, *offset, bytes)?);
        }
        let mut read = Ok(());
        loop {
            while !self.ended && flying.len() < AHEAD {
                let mut bytes = Vec::with_capacity(CHUNK);
                let limited = &mut io::Read::take(&mut *self.source, CHUNK as u64);
                if let Err(error) = io::Read::read_to_end(limited, &mut bytes) {
                    read = Err(error);
                    self.ended = true;
                    break;
                }
                self.ended = bytes.len() < CHUNK;
                if !bytes.is_empty() {
                    flying.push_back(begin_write(connection, handle, self.read, &bytes)?);
                    let length = bytes.len() as u64;
                    self.unanswered.push_back((self.read, bytes));
                    self.read += length;
                }
            }
            let Some(transaction) = flying.pop_front() else { break };
            connection.finish(transaction)?.ok()?;
            if let Some((_, bytes)) = self.unanswered.pop_front() {
                self.written += bytes.len() as u64;
            }
        }
        close(connection, handle)?;
        Ok(read)
    }
}

fn begin_write(
    connection: &mut Connection,
    handle: u32,
    offset: u64,
    bytes: &[u8],
) -> Result<u64, Error> {
    let mut request = encode(&Write { handle, offset });
    request.extend_from_slice(bytes);
    Ok(connection.begin(operation::WRITE, &request, REFUSAL_BYTES)?)
}

/// A progress bar for `size` bytes (`None` if nobody knows), if there is somebody to look at it and
/// it takes long enough.
pub(super) fn progress(output: &Output, size: Option<u64>) -> ProgressBar {
    if !output.shows_progress() || size.is_some_and(|size| size < SMALL) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:40} {binary_bytes:>10} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
        ),
        None => {
            (ProgressBar::new_spinner(), "{spinner} {binary_bytes:>10}  {binary_bytes_per_sec}")
        }
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
    .with_finish(ProgressFinish::AndClear)
}

/// What stands for standard input or output.
pub(super) fn is_dash(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

/// A failure to do something to a local file.
pub(super) fn local(doing: &str, path: &std::path::Path, error: &io::Error) -> Failure {
    let code =
        if error.kind() == io::ErrorKind::NotFound { crate::failure::NOT_FOUND } else { FAILED };
    Failure::new(code, format!("{doing} the local file {}: {error}", path.display()))
}
