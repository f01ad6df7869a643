//! The file server by direct call: one suite for both file systems, what only one of them can be
//! asked, and rubbish.

mod conformance;
#[path = "../../../name/tests/fake/mod.rs"]
mod fake;
mod hostile;
mod memory;
mod real;
mod world;
