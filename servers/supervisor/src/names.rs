//! The names that the supervisor registers: of the endpoints that its tasks serve, and its own.

use crate::manifest::{Plan, SUPERVISOR_PATH};
use rendez::{Rights, Slot};
use std::time::Duration;

/// How soon to try again after a registration has failed; then twice as long each time...
pub(crate) const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// ...up to this.
pub(crate) const AGAIN_MAX: Duration = Duration::from_secs(5);

/// What a client of the supervisor, and of the name server, can be given.
pub(crate) const CLIENT: Rights = Rights::SEND
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT);

/// A name.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) path: String,
    /// The supervisor's own capability to what is called so.
    pub(crate) slot: Slot,
    /// What whoever looks it up can have. Giving it away needs MINT and GRANT.
    pub(crate) rights: Rights,
}

/// All names of a plan. `endpoint`: an endpoint of a task; `own`: that of the supervisor.
pub(crate) fn of(plan: &Plan, own: Slot, endpoint: impl Fn(usize, usize) -> Slot) -> Vec<Name> {
    let mut names = Vec::new();
    for (task, planned) in plan.tasks.iter().enumerate() {
        for (place, serving) in planned.serves.iter().enumerate() {
            let Some(path) = &serving.path else { continue };
            names.push(Name {
                path: path.clone(),
                slot: endpoint(task, place),
                rights: serving.rights | Rights::MINT | Rights::GRANT,
            });
        }
    }
    let rights = CLIENT | Rights::READ | Rights::MANAGE;
    names.push(Name { path: SUPERVISOR_PATH.into(), slot: own, rights });
    names
}
