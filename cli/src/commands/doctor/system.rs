//! The system that this command would reach, and what its tasks have learned about waiting.

use super::Finding;
use crate::failure::Failure;
use rendez::Task;
use rendez::runtime::Place;
use rendez_ipc_core::counters::{Head, ThreadCounts};

const GROUP: &str = "system";

/// What one task has learned: its name, the cost of a wake-up in ns, how often its threads that wait
/// for many have slept.
#[derive(Debug, PartialEq, Eq)]
struct Learned {
    name: String,
    wake_ns: u64,
    sleeps: u64,
}

pub(super) fn find(place: &Place) -> Vec<Finding> {
    let name = format!("instance {}", place.instance);
    let task = match Task::front_door(place) {
        Ok(task) => task,
        Err(error) => return vec![Finding::note(GROUP, name, Failure::from(error).to_string())],
    };
    let found =
        format!("running at {}, version {}", place.socket().display(), task.kernel_version());
    let learned = match learned(&task) {
        Ok(learned) => words(learned),
        Err(failure) => format!("unknown: {failure}"),
    };
    vec![
        Finding::note(GROUP, name, found),
        Finding::note(GROUP, "wake-ups, as tasks have learned", learned),
    ]
}

fn learned(task: &Task) -> Result<Vec<Learned>, Failure> {
    let kernel = task.given_as("kernel")?.slot;
    let heads = task.list(kernel)?.into_iter().filter_map(|info| {
        // One that ends meanwhile is left out.
        let head = task.page_of(kernel, info.id).ok()?.head().ok()?;
        of(info.name, &head)
    });
    Ok(heads.collect())
}

/// What a page says; `None` if no thread of that task has slept.
fn of(name: String, head: &Head) -> Option<Learned> {
    let sleeps = |sum: u64, thread: &ThreadCounts| sum.saturating_add(thread.sleeps);
    let sleeps = head.threads.iter().fold(0, sleeps);
    (head.wake_ns != 0).then_some(Learned { name, wake_ns: head.wake_ns, sleeps })
}

/// Least and most, and who.
fn words(mut all: Vec<Learned>) -> String {
    all.sort_by_key(|learned| learned.wake_ns);
    let say = |learned: &Learned| {
        let Learned { name, wake_ns, sleeps } = learned;
        let name = crate::output::printable(name);
        format!("{:.1} µs ({name}, {sleeps} sleeps)", *wake_ns as f64 / 1e3)
    };
    match &all[..] {
        [] => "nothing: none has slept yet".into(),
        [one] => say(one),
        [least, .., most] => {
            format!("{} to {}; an adaptive waiter spins about that long", say(least), say(most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Learned, of, words};
    use rendez_ipc_core::counters::Head;

    #[test]
    fn what_was_learned_in_words() {
        let learned = |name: &str, wake_ns| Learned { name: name.into(), wake_ns, sleeps: 3 };
        assert_eq!(words(vec![]), "nothing: none has slept yet");
        assert_eq!(words(vec![learned("a", 25_000)]), "25.0 µs (a, 3 sleeps)");
        let text = words(vec![learned("b", 41_000), learned("c", 30_000), learned("a\n", 25_500)]);
        assert!(text.starts_with("25.5 µs (a\\n, 3 sleeps) to 41.0 µs (b, 3 sleeps);"), "{text}");
    }

    #[test]
    fn who_has_not_slept_has_learned_nothing() {
        assert_eq!(of("a".into(), &Head::default()), None);
        let head = Head { wake_ns: 5, ..Head::default() };
        assert_eq!(
            of("a".into(), &head),
            Some(Learned { name: "a".into(), wake_ns: 5, sleeps: 0 })
        );
    }
}
