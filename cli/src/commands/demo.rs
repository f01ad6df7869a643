//! `rendez demo`, and the processes that it starts.

use crate::arguments::Demo;
use crate::demo;
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;

/// Shows the main job on real input; the exit code.
///
/// # Errors
/// If it cannot even begin.
pub(super) fn run(arguments: &Demo, output: &Output) -> Result<u8, Failure> {
    demo::run(arguments, output)
}

/// This executable as one of its processes.
///
/// # Errors
/// If it was started by hand.
pub(super) fn part(name: &str, arguments: &[PathBuf]) -> Result<u8, Failure> {
    demo::part(name, arguments)
}
