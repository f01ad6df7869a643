//! `rendez get`: a file out of the name space.
//!
//! The content goes to a file beside the local one, which it replaces when it is complete: nobody sees
//! half of it, whatever dies. What is no regular file (`/dev/null`, a FIFO) is written to directly.

use super::name_space::Files;
use super::transfer::{AREA, download, is_dash, local, progress};
use crate::arguments::NamePath;
use crate::failure::{FAILED, Failure, NOT_FOUND};
use crate::output::{Output, bytes};
use rendez::Task;
use rendez::protocol::file::{Kind, Stat};
use serde::Serialize;
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What was done.
#[derive(Debug, Serialize)]
struct Done<'a> {
    from: String,
    to: &'a Path,
    bytes: u64,
}

/// Copies the file `from` to the local file `to`.
///
/// # Errors
/// If the one cannot be read, or the other not be written.
pub(super) fn run(task: &Task, from: &NamePath, to: &Path, output: &Output) -> Result<(), Failure> {
    let files = Files::at(task, from, AREA)?;
    let stat = files.stat().map_err(|error| files.failure(error))?;
    if stat.kind == Kind::Directory {
        let why = format!("{from} is a directory; get its files one by one");
        return Err(Failure::new(FAILED, why));
    }
    let bar = progress(output, Some(stat.size));
    if is_dash(to) {
        let mut out = std::io::stdout().lock();
        download(&files, stat.size, "standard output", &mut bar.wrap_write(&mut out))?;
        return out.flush().map_err(|error| Failure::system("writing standard output", error));
    }
    let to = destination(&files, to)?;
    let bytes_read = match std::fs::metadata(&to) {
        Ok(found) if !found.is_file() => {
            let file = OpenOptions::new().write(true).open(&to);
            let mut file = file.map_err(|error| local("opening", &to, &error))?;
            download(&files, stat.size, &to.display().to_string(), &mut bar.wrap_write(&mut file))?
        }
        _ => replace(&files, &stat, &to, &bar)?,
    };
    drop(bar);
    output.value(&Done { from: files.path(), to: &to, bytes: bytes_read });
    output.line(format_args!("{}: {}", to.display(), bytes(bytes_read)));
    Ok(())
}

/// Downloads into a new file beside `to`, then gives it that name.
fn replace(
    files: &Files,
    stat: &Stat,
    to: &Path,
    bar: &indicatif::ProgressBar,
) -> Result<u64, Failure> {
    // Through a symbolic link, what it leads to is replaced, and not the link.
    let to = &std::fs::canonicalize(to).unwrap_or_else(|_| to.into());
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        let why = format!("there is no local directory {}", directory.display());
        return Err(Failure::new(NOT_FOUND, why));
    }
    let mut beside = tempfile::Builder::new()
        .prefix(".rendez-")
        // Linux takes the umask's bits away.
        .permissions(Permissions::from_mode(stat.mode & 0o777))
        .tempfile_in(directory)
        .map_err(|error| local("making", to, &error))?;
    let name = to.display().to_string();
    let count = download(files, stat.size, &name, &mut bar.wrap_write(beside.as_file_mut()))?;
    beside.persist(to).map_err(|error| local("replacing", to, &error.error))?;
    Ok(count)
}

/// The local file: in a directory, it is called as at the server.
fn destination(files: &Files, to: &Path) -> Result<PathBuf, Failure> {
    if !to.is_dir() {
        return Ok(to.into());
    }
    let name = files.file_name().ok_or_else(|| {
        Failure::new(FAILED, format!("{} is a whole server, not a file", files.path()))
    })?;
    Ok(to.join(name))
}
