//! The file server is killed in the middle of a transfer, and the transfer is finished.

use super::show::{Bar, Outcome, count, size};
use super::stage::{Part, Stage};
use super::talk::{Direction, Job, Lost, Plan, Said, Stopped};
use super::transfer::verdict;
use super::tree::{self, Tree};
use crate::failure::{FAILED, Failure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rendez::Rights;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Connections that write at the same time.
const SENDERS: usize = 4;
/// Bytes in one write.
const CHUNK_BYTES: u32 = 256 << 10;
/// The least that is copied, so that there is a middle; generated files make it up.
const BYTES_MIN: u64 = 96 << 20;
/// The server is killed when so much of a hundred has been copied.
const KILLED_AT: u64 = 40;
/// Where the tree goes at the file server.
const PREFIX: &str = "again";

/// A transfer whose server is dead.
#[derive(Debug)]
pub(super) struct Half {
    part: Part,
    generated: Vec<Job>,
    pid: i32,
    generation: u32,
    /// Senders that wait for the next incarnation.
    waiting: usize,
}

/// Starts a transfer and kills the file server in the middle of it.
pub(super) fn interrupt(stage: &Stage, tree: &Tree, bar: &Bar) -> Result<(Half, Outcome), Failure> {
    let generated = generate(&stage.directory, BYTES_MIN.saturating_sub(tree.bytes))?;
    let mut jobs = tree.jobs(&tree.root, PREFIX);
    let middle = jobs.len() / 2;
    jobs.splice(middle..middle, generated.iter().cloned());
    let total: u64 = jobs.iter().map(|job| job.bytes).sum();
    let plan = Plan {
        direction: Direction::In,
        senders: SENDERS,
        chunk_bytes: CHUNK_BYTES,
        goes_on: true,
        directories: tree.directories(PREFIX),
        jobs,
    };
    bar.expect_bytes(total);
    let pid = stage.pid("file")?;
    let mut part = stage.copier(&plan, Rights::WRITE)?;
    let (mut killed, mut finished, mut generation) = (None, 0, 0);
    let mut stopped: Vec<Stopped> = Vec::new();
    while stopped.len() + finished < SENDERS {
        match part.next()? {
            Said::Connected { generation: now, .. } => generation = now,
            Said::Finished { .. } => finished += 1,
            Said::Stopped(one) => stopped.push(one),
            Said::Progress { bytes, .. } => {
                bar.at_bytes(bytes);
                if killed.is_none() && bytes * 100 >= total * KILLED_AT {
                    killed = Some(bytes);
                    kill(Pid::from_raw(pid), Signal::SIGKILL)
                        .map_err(|error| Failure::system("killing the file server", error))?;
                }
            }
            _ => {}
        }
    }
    let (Some(killed), false) = (killed, stopped.is_empty()) else {
        return Err(Failure::new(
            FAILED,
            "the transfer was over before the file server was killed",
        ));
    };
    stopped.sort_by_key(|one| one.sender);
    let mut details: Vec<String> = stopped.iter().map(told).collect();
    let lost: Vec<&Lost> = stopped.iter().flat_map(|one| &one.lost).collect();
    let interrupted = lost.iter().filter(|one| one.interrupted.is_some()).count();
    let not_delivered = lost.len() - interrupted;
    details.extend(looked(&lost, &stage.served)?);
    let outcome = Outcome {
        text: format!(
            "SIGKILL to the file server (pid {pid}) at {} of {}; {} told at once: \
             {interrupted} interrupted, {not_delivered} not delivered",
            size(killed),
            size(total),
            count(stopped.len(), "sender")
        ),
        details,
        figures: json!({
            "pid": pid,
            "killed_at_bytes": killed,
            "total_bytes": total,
            "interrupted": interrupted,
            "not_delivered": not_delivered,
            "senders": stopped,
        }),
    };
    Ok((Half { part, generated, pid, generation, waiting: stopped.len() }, outcome))
}

/// Starts the file server again and waits until the transfer is complete.
pub(super) fn finish(
    stage: &Stage,
    tree: &Tree,
    mut half: Half,
    bar: &Bar,
) -> Result<Outcome, Failure> {
    bar.expect_bytes(tree.bytes + half.generated.iter().map(|job| job.bytes).sum::<u64>());
    let start = Instant::now();
    stage.restart("file")?;
    let restart_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut generations = Vec::new();
    let (files, bytes) = loop {
        match half.part.next()? {
            Said::Connected { generation, .. } => generations.push(generation),
            Said::Progress { bytes, .. } => bar.at_bytes(bytes),
            Said::Copied { files, bytes, .. } => break (files, bytes),
            _ => {}
        }
    };
    let pid = stage.pid("file")?;
    let grown = generations.iter().all(|now| *now > half.generation);
    if generations.len() != half.waiting || !grown || pid == half.pid {
        return Err(Failure::new(
            FAILED,
            format!(
                "{} senders waited; the incarnations they found: {generations:?} after {}",
                half.waiting, half.generation
            ),
        ));
    }
    let mut equal = verdict(tree, &stage.served.join(PREFIX))?.0;
    for job in &half.generated {
        let copy = stage.served.join(&job.remote);
        if tree::hash_file(&job.local, job.bytes) != tree::hash_file(&copy, job.bytes) {
            return Err(Failure::new(FAILED, format!("{} differs from the original", job.remote)));
        }
    }
    if !half.generated.is_empty() {
        equal = format!("{equal} and the {} generated", half.generated.len());
    }
    let generation = generations.first().copied().unwrap_or(half.generation);
    Ok(Outcome {
        text: format!("{}, {} complete; {equal}", count(files as usize, "file"), size(bytes)),
        details: vec![
            format!(
                "file server started again in {restart_ms:.0} ms (pid {pid}) on the same endpoint: \
                 incarnation {} → {generation}",
                half.generation
            ),
            format!("{} went on by the capability they had", count(half.waiting, "sender")),
        ],
        figures: json!({
            "restart_ms": restart_ms,
            "pid": pid,
            "generation_before": half.generation,
            "generation": generation,
            "files": files,
            "bytes": bytes,
        }),
    })
}

/// One file of random bytes for each sender, `bytes` in all.
fn generate(directory: &Path, bytes: u64) -> Result<Vec<Job>, Failure> {
    let each = bytes / SENDERS as u64;
    if each == 0 {
        return Ok(Vec::new());
    }
    (1..=SENDERS)
        .map(|number| {
            let local = directory.join(format!("generated-{number}"));
            tree::write_random(&local, each, number as u64)
                .map_err(|error| Failure::system(format!("writing {}", local.display()), error))?;
            let remote = format!("{PREFIX}/generated-{number}");
            Ok(Job { local, remote, bytes: each, mode: 0o600 })
        })
        .collect()
}

/// What one sender was told, in the library's words.
fn told(stopped: &Stopped) -> String {
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for lost in &stopped.lost {
        *words.entry(&lost.told).or_default() += 1;
    }
    let words: Vec<_> = words.iter().map(|(told, count)| format!("{count} × {told}")).collect();
    format!("sender {}: {} × answered; {}", stopped.sender, stopped.answered, words.join("; "))
}

/// Looks on the disk for what the senders were told: a write that was not delivered must not be
/// there; one that was interrupted may be.
///
/// Each sender writes its files alone and each from its start on, so a write that has been done
/// shows in the file's length.
fn looked(lost: &[&Lost], served: &Path) -> Result<Vec<String>, Failure> {
    let mut absent = 0;
    let mut lines = Vec::new();
    for one in lost {
        let Some((offset, bytes)) = one.write else {
            if let Some(generation) = one.interrupted {
                lines.push(format!(
                    "interrupted: incarnation {generation} had taken it, its effect is unknown to \
                     the sender: the opening or closing of {}",
                    one.path
                ));
            }
            continue;
        };
        let length = std::fs::metadata(served.join(&one.path)).map_or(0, |known| known.len());
        match one.interrupted {
            None if length > offset => {
                return Err(Failure::new(
                    FAILED,
                    format!(
                        "a write of {} at byte {offset} was said to be not delivered, and is there",
                        one.path
                    ),
                ));
            }
            None => absent += 1,
            Some(generation) => {
                let found = match length {
                    _ if length >= offset + u64::from(bytes) => "all there",
                    _ if length > offset => "there in part",
                    _ => "not there",
                };
                lines.push(format!(
                    "interrupted: incarnation {generation} had taken it, its effect is unknown to \
                     the sender; on the disk it is {found}: {} at {}",
                    one.path,
                    size(offset)
                ));
            }
        }
    }
    if absent > 0 {
        lines.push(format!(
            "not delivered: no server ever saw it, safe to send again; on the disk, none of the \
             {absent} writes is there"
        ));
    }
    Ok(lines)
}
