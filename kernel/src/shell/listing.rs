//! The list of all tasks, with whom each says it waits for ([`waits`](super::waits)).
//!
//! What a task says of its waits is its own claim, and its name its own choice. So that nobody can
//! keep the others off the list by saying much, both are shortened as far as it takes for the whole
//! list to fit into a frame.

use super::Shell;
use rendez_ipc_core::control::FRAME_PAYLOAD_BYTES_MAX;
use rendez_protocol::encode;
use rendez_protocol::kernel::{Answer, TaskInfo};

/// How much is said of each task, from the first to the last resort: waits, bytes of a name.
const DETAILS: [(usize, usize); 3] = [(8, usize::MAX), (2, 16), (0, 16)];

impl Shell {
    /// The answer that lists these tasks. If there are too many even so, it does not fit, and is
    /// refused where all answers are that do not.
    pub(super) fn listing(&mut self, mut tasks: Vec<TaskInfo>) -> Answer {
        for task in &mut tasks {
            task.waits = self.waits(task);
        }
        fitting(tasks)
    }
}

/// As much about these tasks as fits into a frame.
fn fitting(mut tasks: Vec<TaskInfo>) -> Answer {
    for (waits, bytes) in DETAILS {
        for task in &mut tasks {
            task.waits.truncate(waits);
            shorten(&mut task.name, bytes);
            task.waits.iter_mut().for_each(|wait| shorten(&mut wait.name, bytes));
        }
        let answer = Answer::Tasks(tasks);
        if encode(&answer).len() <= FRAME_PAYLOAD_BYTES_MAX {
            return answer;
        }
        let Answer::Tasks(again) = answer else { return answer };
        tasks = again;
    }
    Answer::Tasks(tasks)
}

/// Leaves at most `bytes` bytes of a name, the last of which say that there was more.
fn shorten(name: &mut String, bytes: usize) {
    const MORE: char = '…';
    if name.len() > bytes {
        name.truncate(name.floor_char_boundary(bytes.saturating_sub(MORE.len_utf8())));
        name.push(MORE);
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_PAYLOAD_BYTES_MAX, fitting, shorten};
    use rendez_protocol::kernel::{Answer, Credentials, TaskInfo, Waiting};
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
            waits: vec![waiting; 63],
        }
    }

    #[test]
    fn tasks_that_say_much_keep_nobody_off_the_list() {
        for (count, waits) in [(3, 8), (300, 2), (1000, 0)] {
            let Answer::Tasks(tasks) = fitting((0..count).map(loud).collect()) else { panic!() };
            assert_eq!(tasks.len(), count as usize);
            assert_eq!(tasks[0].waits.len(), waits, "of {count}");
            assert!(encode(&Answer::Tasks(tasks)).len() <= FRAME_PAYLOAD_BYTES_MAX);
        }
        let all = fitting((0..4096).map(loud).collect());
        assert!(encode(&all).len() > FRAME_PAYLOAD_BYTES_MAX, "refused later");
    }

    #[test]
    fn names_are_cut_where_characters_end() {
        for (name, bytes, short) in
            [("supervisor", 16, "supervisor"), ("supervisor", 6, "sup…"), ("äöüä", 6, "ä…")]
        {
            let mut name = name.to_owned();
            shorten(&mut name, bytes);
            assert_eq!(name, short);
        }
    }
}
