//! What a thousand tasks cost the kernel.

mod common;

use common::System;
use common::raw::{self, RawTask, knock};
use rendez::protocol::Rights;
use rendez::protocol::kernel::{Answer, Hello, Request};
use std::collections::BTreeMap;

const TASKS: usize = 1_000;

/// Memory of a process that is resident, in KiB, by what it is.
fn resident(pid: u32) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| matches!(*name, "VmRSS" | "RssAnon" | "RssFile" | "RssShmem"))
        .map(|(name, rest)| (name.into(), rest.split_whitespace().next().unwrap().parse().unwrap()))
        .collect()
}

#[test]
fn the_kernel_serves_a_thousand_tasks_within_twenty_mebibytes() {
    common::raise_descriptor_limit();
    let system = System::start();
    let before = resident(system.kernel);
    let mut tasks: Vec<RawTask> = Vec::with_capacity(TASKS);
    for _ in 0..TASKS {
        let mut task = RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap();
        // What a task has that does something: an endpoint that it serves, and a few capabilities.
        let endpoint = task.endpoint().slot;
        let serve = Request::Serve { slot: endpoint, interface: None };
        assert!(matches!(task.ask(&serve).0, Answer::Serving { .. }));
        for _ in 0..4 {
            let mint = raw::mint(endpoint, Rights::SEND | Rights::GRANT, Some(7));
            assert!(matches!(task.ask(&mint).0, Answer::Slot(_)));
        }
        tasks.push(task);
    }
    // All of them are served.
    for task in &mut tasks {
        let slot = task.own.slot;
        assert!(matches!(task.ask(&Request::Inspect { slot }).0, Answer::Inspected(_)));
    }
    let after = resident(system.kernel);
    eprintln!("KiB before: {before:?}, with {TASKS} tasks: {after:?}");
    // Unoptimised code is several times as large; that says nothing of the kernel.
    let code = if cfg!(debug_assertions) { after["RssFile"] } else { 0 };
    assert!(after["VmRSS"] - code <= 20 << 10, "{after:?}");
}
