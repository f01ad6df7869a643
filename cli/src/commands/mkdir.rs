//! `rendez mkdir`: makes directories.

use super::name_space::{Files, SMALL};
use super::rm::names;
use crate::arguments::NamePath;
use crate::failure::Failure;
use crate::output::Output;
use rendez::Task;
use rendez::protocol::file::{Kind, operation, status};

/// Makes `paths`, in order; with `parents`, those above them too.
///
/// # Errors
/// If one cannot be made; those after it are left alone.
pub(super) fn run(
    task: &Task,
    paths: &[NamePath],
    parents: bool,
    output: &Output,
) -> Result<(), Failure> {
    for path in paths {
        let files = Files::at(task, path, SMALL)?;
        if parents {
            with_parents(files)?;
        } else {
            files.change(operation::MAKE_DIRECTORY).map_err(|error| files.failure(error))?;
        }
    }
    output.value(&serde_json::json!({ "made": names(paths) }));
    Ok(())
}

fn with_parents(files: Files) -> Result<(), Failure> {
    let whole = files.rest().to_owned();
    let mut files = files.at_root();
    for component in whole.split('/').filter(|component| !component.is_empty()) {
        files = files.join(component);
        match files.change(operation::MAKE_DIRECTORY) {
            Err(error)
                if error.status() == Some(status::EXISTS)
                    && files.stat().is_ok_and(|stat| stat.kind == Kind::Directory) => {}
            other => other.map_err(|error| files.failure(error))?,
        }
    }
    Ok(())
}
