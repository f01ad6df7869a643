//! `rendez put`: a local file into the name space.

use super::name_space::Files;
use super::transfer::{AREA, is_dash, local, progress, upload};
use crate::arguments::NamePath;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::{Output, bytes};
use rendez::Task;
use rendez::protocol::file::Kind;
use serde::Serialize;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What was done.
#[derive(Debug, Serialize)]
struct Done<'a> {
    from: &'a Path,
    to: String,
    bytes: u64,
}

/// Permission bits of what came from standard input.
const MODE_DEFAULT: u32 = 0o644;

/// Copies the local file `from` to `to`.
///
/// # Errors
/// If the one cannot be read, or the other not be written.
pub(super) fn run(task: &Task, from: &Path, to: &NamePath, output: &Output) -> Result<(), Failure> {
    // Looked at first: without it, nothing is to be touched.
    let source = if is_dash(from) { None } else { Some(open(from)?) };
    let files = destination(Files::at(task, to, AREA)?, from)?;
    let written = match source {
        None => {
            let bar = progress(output, None);
            let mut input = bar.wrap_read(std::io::stdin().lock());
            upload(&files, MODE_DEFAULT, "standard input", &mut input)?
        }
        Some((file, mode, size)) => {
            let bar = progress(output, size);
            let name = from.display().to_string();
            upload(&files, mode, &name, &mut bar.wrap_read(file))?
        }
    };
    output.value(&Done { from, to: files.path(), bytes: written });
    output.line(format_args!("{}: {}", files.path(), bytes(written)));
    Ok(())
}

/// The local file, its permission bits, and its size if it has one.
fn open(from: &Path) -> Result<(File, u32, Option<u64>), Failure> {
    let file = File::open(from).map_err(|error| local("opening", from, &error))?;
    let found = file.metadata().map_err(|error| local("looking at", from, &error))?;
    if found.is_dir() {
        return Err(Failure::new(
            FAILED,
            format!("{} is a directory; put its files one by one", from.display()),
        ));
    }
    Ok((file, found.permissions().mode() & 0o777, found.is_file().then_some(found.len())))
}

/// In a directory, the file is called as it is here.
fn destination(files: Files, from: &Path) -> Result<Files, Failure> {
    let is_directory =
        files.rest().is_empty() || files.stat().is_ok_and(|stat| stat.kind == Kind::Directory);
    if !is_directory {
        return Ok(files);
    }
    let name = if is_dash(from) { None } else { from.file_name().and_then(|name| name.to_str()) };
    match name {
        Some(name) => Ok(files.join(name)),
        None => {
            let path = files.path();
            Err(Failure::new(USAGE, format!("{path} is a directory: name the file, {path}/NAME")))
        }
    }
}
