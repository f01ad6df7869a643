//! What may be had of it.

use super::{Finding, line};
use rustix::process::{Resource, getrlimit};

const GROUP: &str = "limits";

/// Connections for which the ordinary limits should do.
const CONNECTIONS: u64 = 10_000;
/// Descriptors that a process needs beside one doorbell a connection.
const DESCRIPTORS_BESIDE: u64 = 64;
/// Mappings that one end of a connection takes: its own segment, and the other's.
const MAPPINGS: u64 = 2;
/// Mappings of a process beside its connections.
const MAPPINGS_BESIDE: u64 = 512;

pub(super) fn find() -> Vec<Finding> {
    let mut findings = vec![descriptors(), mappings()];
    findings.extend(overcommit());
    if let Some(most) = line("/proc/sys/fs/pipe-max-size") {
        let soft = line("/proc/sys/fs/pipe-user-pages-soft").unwrap_or_else(|| "?".into());
        let found = format!("at most {most} bytes each; {soft} pages of one user's");
        findings.push(Finding::note(GROUP, "pipes (for `bench`)", found));
    }
    findings
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let word = |value: Option<u64>| value.map_or("unlimited".into(), |value| value.to_string());
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let connections = hard.saturating_sub(DESCRIPTORS_BESIDE);
    let found = format!(
        "soft {}, hard {}: up to {} connections of one task",
        word(limit.current),
        word(limit.maximum),
        if limit.maximum.is_none() { "any number of".into() } else { connections.to_string() },
    );
    Finding::check(
        GROUP,
        "descriptors (RLIMIT_NOFILE)",
        connections >= CONNECTIONS,
        found,
        "a server's connections are limited by it: raise the hard limit (`ulimit -Hn`, LimitNOFILE=)",
    )
}

fn mappings() -> Finding {
    let most = line("/proc/sys/vm/max_map_count").and_then(|text| text.parse::<u64>().ok());
    let connections = most.map(|most| most.saturating_sub(MAPPINGS_BESIDE) / MAPPINGS);
    let found = match (most, connections) {
        (Some(most), Some(connections)) => {
            format!("{most}: up to {connections} connections of one task")
        }
        _ => "unknown: /proc/sys/vm/max_map_count cannot be read".into(),
    };
    Finding::check(
        GROUP,
        "mappings (vm.max_map_count)",
        connections.is_none_or(|connections| connections >= CONNECTIONS),
        found,
        "a server's connections are limited by it: raise vm.max_map_count",
    )
}

fn overcommit() -> Option<Finding> {
    let mode = line("/proc/sys/vm/overcommit_memory")?;
    let word = match mode.as_str() {
        "0" => "by guess",
        "1" => "always",
        "2" => "never",
        _ => "in an unknown way",
    };
    Some(Finding::check(
        GROUP,
        "overcommitted memory",
        mode != "2",
        format!("{word} (vm.overcommit_memory = {mode})"),
        "status segments are mostly holes, and all of them count: fewer tasks fit",
    ))
}
