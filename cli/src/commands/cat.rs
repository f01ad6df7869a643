//! `rendez cat`: files to standard output.

use super::name_space::Files;
use super::transfer::{AREA, download};
use crate::arguments::NamePath;
use crate::failure::{FAILED, Failure};
use rendez::Task;
use rendez::protocol::file::Kind;
use std::io::Write;

/// Writes the files to standard output, one after the other.
///
/// # Errors
/// If one cannot be read, or standard output not be written.
pub(super) fn run(task: &Task, paths: &[NamePath]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for path in paths {
        let files = Files::at(task, path, AREA)?;
        let stat = files.stat().map_err(|error| files.failure(error))?;
        if stat.kind == Kind::Directory {
            let path = files.path();
            let why = format!("{path} is a directory, not a file; `rendez ls {path}` lists it");
            return Err(Failure::new(FAILED, why));
        }
        download(&files, stat.size, "standard output", &mut out)?;
    }
    out.flush().map_err(|error| Failure::system("writing standard output", error))
}
