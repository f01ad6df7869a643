//! The list of all tasks, with whom each says it waits for ([`waits`](super::waits)).
//!
//! What a task says of its waits is its own claim, and its name its own choice. So that nobody can
//! keep the others off the list by saying much, only so many waits are told of each, and the list
//! comes in pages, each as long as a frame allows.

use super::Shell;
use rendez_ipc_core::control::FRAME_PAYLOAD_BYTES_MAX;
use rendez_protocol::encode;
use rendez_protocol::kernel::{Answer, TaskInfo};

/// How many waits are said of each task.
const WAITS: usize = 8;

impl Shell {
    /// The answer that lists these tasks, or as many of them as fit.
    pub(super) fn listing(&mut self, mut tasks: Vec<TaskInfo>, next: Option<u32>) -> Answer {
        for task in &mut tasks {
            task.waits = self.waits(task);
            task.waits.truncate(WAITS);
        }
        fitting(tasks, next)
    }
}

/// As many of these tasks as fit into a frame; the next page begins with the first that does not.
fn fitting(mut tasks: Vec<TaskInfo>, mut next: Option<u32>) -> Answer {
    // The answer itself, the number of its tasks, the cursor.
    const AROUND: usize = 32;
    let mut left = FRAME_PAYLOAD_BYTES_MAX.saturating_sub(AROUND);
    let fit = tasks.iter().take_while(|task| {
        let rest = left.checked_sub(encode(task).len());
        left = rest.unwrap_or(0);
        rest.is_some()
    });
    let fit = fit.count();
    if let Some(first) = tasks.get(fit) {
        next = Some(first.id.index);
        tasks.truncate(fit);
    }
    Answer::Tasks { tasks, next }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_PAYLOAD_BYTES_MAX, WAITS, fitting};
    use rendez_protocol::kernel::{Answer, Credentials, TaskInfo, Waiting};
    use rendez_protocol::quota::{Quota, Share, Use};
    use rendez_protocol::{TaskId, encode};

    /// A task that says as much of itself as it can.
    fn loud(index: u32) -> TaskInfo {
        let on = Some(TaskId { index: u32::MAX, generation: u32::MAX });
        let waiting =
            Waiting { on, name: "w".repeat(64), for_ms: u64::MAX, left_ms: Some(u64::MAX) };
        TaskInfo {
            id: TaskId { index, generation: 0 },
            name: "n".repeat(64),
            credentials: Some(Credentials { pid: 4_000_000, uid: 1000, gid: 1000 }),
            parent: Some(TaskId { index: 1, generation: 0 }),
            capabilities: 1000,
            client_connections: 1000,
            server_connections: 1000,
            tightest: Some(Use {
                quota: Quota::Bytes,
                used: u64::MAX,
                limit: u64::MAX,
                share: Some(Share { whose: "s".repeat(80), used: u64::MAX, limit: u64::MAX }),
            }),
            waits: vec![waiting; WAITS],
        }
    }

    #[test]
    fn tasks_that_say_much_keep_nobody_off_the_list() {
        for (count, next) in [(3, None), (4096, None), (4096, Some(9000))] {
            let mut left: Vec<TaskInfo> = (0..count).map(loud).collect();
            let mut told = 0;
            let mut pages = 0;
            while !left.is_empty() {
                let answer = fitting(left.clone(), next);
                assert!(encode(&answer).len() <= FRAME_PAYLOAD_BYTES_MAX);
                let Answer::Tasks { tasks, next: after } = answer else { panic!() };
                assert!(!tasks.is_empty(), "no page is empty");
                assert!(tasks.iter().zip(told..).all(|(task, index)| task.id.index == index));
                told += tasks.len() as u32;
                left.drain(..tasks.len());
                assert_eq!(after, if left.is_empty() { next } else { Some(told) });
                pages += 1;
            }
            assert_eq!(told, count);
            assert_eq!(pages == 1, count == 3);
        }
    }
}
