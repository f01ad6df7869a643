//! Whom the front door lets in: the policy that `rendez up` is told.

use crate::arguments::PolicyName;
use crate::failure::{Failure, USAGE};
use rendez_supervisor::policy::Policy;

/// The policy of that name, or in that file.
///
/// # Errors
/// If the file cannot be read, or what is wrong in it and where.
pub fn load(name: &PolicyName) -> Result<Policy, Failure> {
    let path = match name {
        PolicyName::Little => return Ok(Policy::little()),
        PolicyName::Operator => return Ok(Policy::operator()),
        PolicyName::File(path) => path,
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::system(format!("reading the policy {}", path.display()), error)
    })?;
    Policy::parse(&text)
        .map_err(|mistake| Failure::new(USAGE, mistake.in_text(&text)).about(path.display()))
}
