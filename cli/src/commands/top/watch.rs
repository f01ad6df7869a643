//! What all tasks say at one moment.
//!
//! All of it is claims. What bounds a liar: rows are only ever about the task whose page they were
//! read from, and no more of them are believed than the kernel knows connections of that task.

use crate::failure::Failure;
use rendez::Task;
use rendez::protocol::kernel::TaskInfo;
use rendez::protocol::{Slot, TaskId};
use rendez_ipc_core::counters::{ConnectionCounts, Head, PageFile};
use rendez_ipc_core::status::monotonic_ns;
use std::collections::HashMap;

/// How often the kernel is asked which tasks there are, at most.
const LIST_NS: u64 = 1_000_000_000;
/// Connections that a task may have made since the kernel was asked how many it has.
const SINCE_LISTED: usize = 64;

/// Looks at all tasks.
#[derive(Debug)]
pub(super) struct Watch {
    task: Task,
    kernel: Slot,
    listed_ns: u64,
    tasks: Vec<TaskInfo>,
    pages: HashMap<TaskId, PageFile>,
}

/// All tasks at one moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) at_ns: u64,
    /// The task that looks.
    pub(super) own: Option<TaskId>,
    pub(super) tasks: Vec<TaskSample>,
}

/// One task at that moment.
#[derive(Debug)]
pub(super) struct TaskSample {
    pub(super) id: TaskId,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    pub(super) head: Head,
    pub(super) ends: Vec<ConnectionCounts>,
}

impl Watch {
    /// One that has not looked yet.
    ///
    /// # Errors
    /// If this task was not given a capability to the kernel.
    pub(super) fn new(task: &Task) -> Result<Self, Failure> {
        let kernel = task.given_as("kernel")?.slot;
        let (tasks, pages) = (Vec::new(), HashMap::new());
        Ok(Self { task: task.clone(), kernel, listed_ns: 0, tasks, pages })
    }

    /// Asks the kernel who is there, and for the pages of those who are new.
    fn list(&mut self) -> Result<(), Failure> {
        self.tasks = self.task.list(self.kernel)?;
        self.pages.retain(|id, _| self.tasks.iter().any(|task| task.id == *id));
        for info in &self.tasks {
            if !self.pages.contains_key(&info.id)
                // A task that is dead by now, or not ready yet, is asked for next time.
                && let Ok(page) = self.task.page_of(self.kernel, info.id)
            {
                self.pages.insert(info.id, page);
            }
        }
        Ok(())
    }

    /// Looks.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn look(&mut self) -> Result<Sample, Failure> {
        let now_ns = monotonic_ns();
        if self.listed_ns == 0 || now_ns.saturating_sub(self.listed_ns) >= LIST_NS {
            self.listed_ns = now_ns;
            self.list()?;
        }
        let mut sample = Sample { at_ns: monotonic_ns(), own: Some(self.task.id()), tasks: vec![] };
        for info in &self.tasks {
            let (head, ends) =
                self.pages.get(&info.id).and_then(|page| read(page, info)).unwrap_or_default();
            sample.tasks.push(TaskSample {
                id: info.id,
                name: info.name.clone(),
                pid: info.credentials.map(|who| who.pid),
                head,
                ends,
            });
        }
        Ok(sample)
    }
}

fn read(page: &PageFile, info: &TaskInfo) -> Option<(Head, Vec<ConnectionCounts>)> {
    let head = page.head().ok()?;
    let known = info.client_connections as usize + info.server_connections as usize;
    let mut ends = Vec::new();
    page.connections(head.records, |counts| {
        if ends.len() < known + SINCE_LISTED {
            ends.push(counts);
        }
    })
    .ok()?;
    Some((head, ends))
}
