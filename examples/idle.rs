//! What connections cost while nothing happens: memory for each, and run time of the whole system.
//!
//! With a system and `echo_server` running, all of them release builds:
//! `cargo run --release --example idle -- 1000`. Prints the difference of `MemAvailable` over the
//! connections, divided by their number (whatever else the machine does is in it), the same for
//! what Linux itself books for them (`Shmem`, `Slab`, `PageTables`), and by how much the run times of all tasks' processes and
//! of the kernel (`/proc/PID/schedstat`) grow in ten seconds.

use rendez::{Connection, Error, Options, Task};
use std::time::Duration;

fn main() -> Result<(), Error> {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000);
    let task = Task::current()?;
    let (echo, _, _) = task.look_up("/echo", None, None)?;
    // The first connection pays for what all share.
    let mut first = Connection::open(&task, echo.slot, &Options::default())?;
    first.send(1, b"hello", 64)?.ok()?;
    let before = kib(&["MemAvailable"]);
    let booked = kib(&BOOKED);
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open(&task, echo.slot, &Options::default())?;
        connection.send(1, b"hello", 64)?.ok()?;
        connections.push(connection);
    }
    let each = |kib: u64| kib as f64 / count as f64;
    let used = before.saturating_sub(kib(&["MemAvailable"]));
    let booked = kib(&BOOKED).saturating_sub(booked);
    println!("{count} connections: MemAvailable fell by {:.1} KiB for each", each(used));
    println!(
        "{count} connections: {} rose by {:.1} KiB for each",
        BOOKED.join(" + "),
        each(booked)
    );

    let kernel = task.given_as("kernel")?.slot;
    let tasks = task.list(kernel)?;
    let mut pids: Vec<(String, u32)> = tasks
        .iter()
        .filter_map(|info| Some((info.name.clone(), info.credentials?.pid)))
        .filter(|(_, pid)| *pid != std::process::id())
        .collect();
    if let Some(parent) =
        pids.iter().find(|(name, _)| name == "supervisor").and_then(|(_, pid)| sibling(*pid))
    {
        pids.push(("kernel".into(), parent));
    }
    std::thread::sleep(Duration::from_secs(1));
    let before: Vec<u64> = pids.iter().map(|(_, pid)| run_time_ns(*pid)).collect();
    std::thread::sleep(Duration::from_secs(10));
    let mut sum = 0;
    for ((name, pid), before) in pids.iter().zip(before) {
        let grown = run_time_ns(*pid).saturating_sub(before);
        sum += grown;
        println!("{name} ({pid}): {:.3} ms in 10 s", grown as f64 / 1e6);
    }
    println!("together: {:.3} ms in 10 s", sum as f64 / 1e6);
    Ok(())
}

/// Where the memory of connections is booked.
const BOOKED: [&str; 3] = ["Shmem", "Slab", "PageTables"];

/// The sum of these lines of `/proc/meminfo`, in KiB.
fn kib(names: &[&str]) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Run time of all threads of a process, in ns.
fn run_time_ns(pid: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The kernel: the other child of the supervisor's parent.
fn sibling(pid: u32) -> Option<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let up = parent(pid)?;
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|other| *other != pid && parent(*other) == Some(up))
}
