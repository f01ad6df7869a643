//! `rendez rm`: removes files and empty directories.

use super::name_space::{Files, SMALL};
use crate::arguments::NamePath;
use crate::failure::Failure;
use crate::output::Output;
use rendez::Task;
use rendez::protocol::file::{operation, status};

/// Removes `paths`, in order.
///
/// # Errors
/// If one cannot be removed; those after it are left alone.
pub(super) fn run(task: &Task, paths: &[NamePath], output: &Output) -> Result<(), Failure> {
    for path in paths {
        let files = Files::at(task, path, SMALL)?;
        let removed = match files.change(operation::REMOVE) {
            Err(error) if error.status() == Some(status::IS_DIRECTORY) => {
                files.change(operation::REMOVE_DIRECTORY)
            }
            other => other,
        };
        removed.map_err(|error| files.failure(error))?;
    }
    output.value(&serde_json::json!({ "removed": names(paths) }));
    Ok(())
}

/// The paths as text.
pub(super) fn names(paths: &[NamePath]) -> Vec<&str> {
    paths.iter().map(NamePath::as_str).collect()
}
