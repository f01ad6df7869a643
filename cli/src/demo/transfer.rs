//! The real tree into the file server and out of it, from other processes.

use super::show::{Bar, Outcome, count, size};
use super::stage::Stage;
use super::talk::{Direction, Plan, Said};
use super::tree::{Comparison, Tree};
use crate::failure::{FAILED, Failure};
use rendez::Rights;
use serde_json::json;
use std::path::Path;

/// Bytes in one read or write of a plain copy.
const CHUNK_BYTES: u32 = 256 << 10;

/// Where the tree goes at the file server.
const PREFIX: &str = "tree";

/// Copies the tree into the file server.
pub(super) fn copy_in(stage: &Stage, tree: &Tree, bar: &Bar) -> Result<Outcome, Failure> {
    let plan = Plan {
        direction: Direction::In,
        senders: 1,
        chunk_bytes: CHUNK_BYTES,
        goes_on: false,
        directories: tree.directories(PREFIX),
        jobs: tree.jobs(&tree.root, PREFIX),
    };
    copy(stage, &plan, Rights::WRITE, bar)
}

/// Copies it out of the file server, and compares what came with what went.
pub(super) fn copy_out(stage: &Stage, tree: &Tree, bar: &Bar) -> Result<Outcome, Failure> {
    let to = stage.directory.join("out");
    let plan = Plan {
        direction: Direction::Out,
        senders: 1,
        chunk_bytes: CHUNK_BYTES,
        goes_on: false,
        directories: tree.directories(&to.to_string_lossy()),
        jobs: tree.jobs(&to, PREFIX),
    };
    let mut outcome = copy(stage, &plan, Rights::READ, bar)?;
    let verdict = verdict(tree, &to)?;
    outcome.text = format!("{}; {}", outcome.text, verdict.0);
    outcome.figures["sha256_equal"] = json!(verdict.1.same);
    outcome.figures["changed_meanwhile"] = json!(verdict.1.changed);
    // Nobody needs them any more, and the disk may be small.
    let _ = std::fs::remove_dir_all(&to);
    let _ = std::fs::remove_dir_all(stage.served.join(PREFIX));
    Ok(outcome)
}

/// Compares a copy with its original, in words; a difference is a failure.
pub(super) fn verdict(tree: &Tree, copy: &Path) -> Result<(String, Comparison), Failure> {
    let compared = tree.compare(copy);
    if !compared.different.is_empty() {
        let first: Vec<_> = compared.different.iter().take(3).map(String::as_str).collect();
        return Err(Failure::new(
            FAILED,
            format!(
                "{} of {} differ from the original: {}",
                compared.different.len(),
                count(tree.files.len(), "file"),
                first.join(", ")
            ),
        ));
    }
    let mut text = format!("SHA-256 equal for all {}", compared.same);
    if !compared.changed.is_empty() {
        text = format!("{text}, {} changed meanwhile", compared.changed.len());
    }
    Ok((text, compared))
}

fn copy(stage: &Stage, plan: &Plan, rights: Rights, bar: &Bar) -> Result<Outcome, Failure> {
    bar.expect_bytes(plan.jobs.iter().map(|job| job.bytes).sum());
    let mut part = stage.copier(plan, rights)?;
    let (files, bytes, transactions, seconds) = loop {
        match part.next()? {
            Said::Progress { bytes, .. } => bar.at_bytes(bytes),
            Said::Copied { files, bytes, transactions, seconds } => {
                break (files, bytes, transactions, seconds);
            }
            _ => {}
        }
    };
    let rate = bytes as f64 / 1_048_576.0 / seconds;
    let direction = if plan.direction == Direction::In { "in" } else { "out" };
    Ok(Outcome {
        text: format!(
            "{}, {} {direction} at {rate:.0} MiB/s, by {} (pid {}) holding SEND, {}",
            count(files as usize, "file"),
            size(bytes),
            part.id,
            part.pid(),
            rights.names()
        ),
        figures: json!({
            "files": files,
            "bytes": bytes,
            "transactions": transactions,
            "copy_seconds": seconds,
            "mib_per_second": rate,
        }),
        ..Outcome::default()
    })
}
