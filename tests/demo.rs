//! `rendez demo` as a whole: every step goes well on a small tree, and nothing stays behind, not
//! after the end and not after a signal.
//!
//! The demonstration has a watchdog of its own, so nothing here can hang.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The demonstration of `tree`, with its temporary files in `scratch`.
fn demo(tree: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendez"));
    command.args(["demo", "--json", "--dir"]).arg(tree).env("TMPDIR", scratch);
    command.stdin(Stdio::null());
    command
}

/// A short path: sockets are made in it.
fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rd-").tempdir().expect("a directory")
}

fn left_in(scratch: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(scratch).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn every_step_goes_well() {
    let (tree, scratch) = (scratch(), scratch());
    std::fs::create_dir(tree.path().join("sub")).expect("a directory");
    for (name, bytes) in [("empty", 0), ("one", 1), ("sub/many", 700_000)] {
        std::fs::write(tree.path().join(name), vec![b'x'; bytes]).expect("a file");
    }
    let done = demo(tree.path(), scratch.path()).output().expect("the demonstration");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    let summary: Value = serde_json::from_str(&told).expect("one object");
    assert_eq!(summary["ok"], true);
    let step = |name: &str| {
        let steps = summary["steps"].as_array().expect("steps");
        steps.iter().find(|step| step["step"] == name).cloned().expect("that step")
    };
    assert_eq!(step("copy out")["figures"]["sha256_equal"], 3);
    let attempts = step("rights")["figures"]["attempts"].clone();
    let attempts = attempts.as_array().expect("attempts");
    assert!(attempts.iter().all(|attempt| attempt["refused"] == true));
    assert!(attempts.iter().any(|it| it["answer"].as_str().is_some_and(|a| a.contains("refused"))));
    let kill = step("kill")["figures"].clone();
    assert_ne!(kill["not_delivered"].as_u64().zip(kill["interrupted"].as_u64()), Some((0, 0)));
    assert_eq!(step("finish")["figures"]["generation"], 2);
    assert_eq!(left_in(scratch.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_signal_leaves_nothing_behind() {
    for after_ms in [10, 60, 150, 350, 600, 900] {
        let (tree, scratch) = (scratch(), scratch());
        let mut child = demo(tree.path(), scratch.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the demonstration");
        std::thread::sleep(Duration::from_millis(after_ms));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
        let end = child.wait().expect("its end");
        // On a slow machine the signal comes before the demonstration knows what to do with it.
        assert!(!end.success());
        assert_eq!(left_in(scratch.path()), [] as [PathBuf; 0], "after {after_ms} ms");
    }
}

#[test]
fn not_even_sigkill_leaves_anything_behind() {
    for after_ms in [0, 50, 300, 700] {
        let (tree, scratch) = (scratch(), scratch());
        let mut child = demo(tree.path(), scratch.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the demonstration");
        let pid = child.id();
        // From when the cleaner is there.
        while child.try_wait().expect("its state").is_none() && !has_children(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(after_ms));
        child.kill().expect("it is there");
        child.wait().expect("its end");
        let start = Instant::now();
        while !left_in(scratch.path()).is_empty() {
            let left = left_in(scratch.path());
            assert!(start.elapsed() < Duration::from_secs(60), "{left:?} after {after_ms} ms");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn has_children(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .is_ok_and(|children| !children.trim().is_empty())
}

#[test]
fn a_cleaner_started_by_hand_removes_nothing() {
    let scratch = scratch();
    let done = Command::new(env!("CARGO_BIN_EXE_rendez"))
        .args(["demo-part", "cleaner"])
        .arg(scratch.path())
        .stdin(Stdio::null())
        .output()
        .expect("the cleaner");
    assert_eq!(done.status.code(), Some(2));
    assert!(scratch.path().exists());
}

#[test]
fn a_tree_that_is_not_there_is_said_at_once() {
    let scratch = scratch();
    let done = demo(Path::new("/not/there"), scratch.path()).output().expect("the demonstration");
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stdout).contains("/not/there"));
    assert_eq!(left_in(scratch.path()), [] as [PathBuf; 0]);
}
