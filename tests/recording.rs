//! A recording of a whole system of real processes, run again by `rendez replay`.

mod common;

use common::{Processes, System, pid_of, rendez, restart, signal};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Output, Stdio};

fn replay(file: &Path) -> Output {
    rendez(file.parent().unwrap()).args(["--json", "replay"]).arg(file).output().unwrap()
}

#[test]
fn a_recorded_system_at_work_replays_to_the_same_effects() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording");
    let mut system = System::with(|command| {
        command.arg("--record").arg(&file);
    });
    let task = system.task();
    for round in 0..5 {
        let local = directory.path().join("some");
        std::fs::write(&local, vec![b'x'; 1000 << round]).unwrap();
        let put = system.rendez([Path::new("put"), &local, Path::new("/file/copy")]);
        assert!(put.status.success(), "{put:?}");
        let got = system.rendez(["cat", "/file/copy"]);
        assert_eq!(got.stdout.len(), 1000 << round);
        assert!(system.rendez(["ps"]).status.success());
    }
    // A server dies; it and another are started again.
    let dies = Processes::of([pid_of(&task, "file")]);
    signal(pid_of(&task, "file"), Signal::KILL);
    dies.wait_for_ends();
    restart(&task, "file");
    restart(&task, "name");
    drop(task);
    assert!(system.stop().success());

    let replayed = replay(&file);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(summary["equal"], true);
    assert!(summary["steps"].as_u64().unwrap() > 200, "{summary}");
    assert_eq!(summary["end"], "the kernel stopped");

    // Damaged: it says where.
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).unwrap();
    let damaged = replay(&file);
    assert_eq!(damaged.status.code(), Some(1));
    let said = String::from_utf8_lossy(&damaged.stderr) + String::from_utf8_lossy(&damaged.stdout);
    assert!(said.contains("the frame at byte"), "{said}");
}

#[test]
fn a_recording_that_is_there_is_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("precious");
    std::fs::write(&file, "precious").unwrap();
    let mut up = rendez(&directory.path().join("run"));
    let up = up.arg("up").arg("--record").arg(&file).stdin(Stdio::null()).output().unwrap();
    assert_eq!(up.status.code(), Some(1));
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(said.contains("no recording is overwritten"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}
