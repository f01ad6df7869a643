//! What is compared of what both say.

use crate::effect::Effect;
use rendez_protocol::kernel::{Answer, Event, KernelError};

/// Effects without what is said for people, and with those who are told of an object's fate at one
/// moment in a fixed order.
pub(super) fn plain(mut effects: Vec<Effect>) -> Vec<Effect> {
    for effect in &mut effects {
        if let Effect::Answer { answer: Answer::Error(error), .. } = effect {
            plain_error(error);
        }
        if let Effect::Tasks { tasks, .. } = effect {
            tasks.iter_mut().for_each(|task| task.tightest = None);
        }
    }
    let fate = |effect: &Effect| match effect {
        Effect::Event { event: Event::Watched { object, what, .. }, .. } => Some((*object, *what)),
        _ => None,
    };
    for run in effects.chunk_by_mut(|one, other| fate(one).is_some() && fate(one) == fate(other)) {
        run.sort_by_key(|effect| match effect {
            Effect::Event { to, event: Event::Watched { slot, .. }, .. } => Some((*to, *slot)),
            _ => None,
        });
    }
    effects
}

pub(super) fn plain_error(error: &mut KernelError) {
    match error {
        KernelError::Order(text) | KernelError::Denied(text) | KernelError::Malformed(text) => {
            text.clear();
        }
        KernelError::BadValue { what, allowed, .. } => {
            what.clear();
            allowed.clear();
        }
        KernelError::Quota { holders, .. } => holders.clear(),
        _ => {}
    }
}
