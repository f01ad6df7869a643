//! The processors, and what a wake-up costs on them.

use super::{Finding, line};
use rustix::thread::{CpuSet, sched_getaffinity};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const GROUP: &str = "processors";

/// Wake-ups that are measured.
const ROUNDS: usize = 40;
/// So long that whoever waits has gone to sleep.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn find() -> Vec<Finding> {
    let usable = usable();
    let list: Vec<_> = usable.iter().map(ToString::to_string).collect();
    let mut findings = vec![Finding::check(
        GROUP,
        "usable",
        usable.len() > 1,
        if usable.len() > 1 {
            format!("{} ({})", usable.len(), list.join(", "))
        } else {
            "one only".into()
        },
        "spinning cannot help where both sides share it: each transaction is two context switches",
    )];
    findings.push(Finding::note(GROUP, "cores", cores(&usable)));
    if virtual_machine() {
        let found = "yes: what Linux calls a core may be a thread of one, and may change";
        findings.push(Finding::note(GROUP, "virtual machine", found));
    }
    if let Some(governor) = line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        findings.push(Finding::note(GROUP, "frequency governor", governor));
    }
    if let Some(wake) = wake_up() {
        let found = format!(
            "{:.1} µs (median of {ROUNDS}); an adaptive waiter spins about that long",
            wake.as_nanos() as f64 / 1e3
        );
        findings.push(Finding::note(GROUP, "cost of a wake-up", found));
    }
    findings
}

fn usable() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// Which of the processors are threads of one core.
fn cores(usable: &[usize]) -> String {
    let mut shared: Vec<String> = usable
        .iter()
        .filter_map(|cpu| {
            line(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        })
        .collect();
    let known = !shared.is_empty();
    shared.retain(|list| list.contains([',', '-']));
    shared.sort();
    shared.dedup();
    match (known, shared.is_empty()) {
        (false, _) => "unknown: Linux does not say".into(),
        (true, true) => "each processor is a core of its own, as far as Linux knows".into(),
        (true, false) => format!("threads of one core: {}", shared.join("; ")),
    }
}

fn virtual_machine() -> bool {
    line("/proc/cpuinfo").is_some_and(|info| {
        info.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split(' ').any(|flag| flag == "hypervisor"))
    })
}

/// From waking a sleeping thread until it runs: the median.
fn wake_up() -> Option<Duration> {
    let (tell, told) = mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            std::thread::park();
            if tell.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let mut costs = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        std::thread::sleep(PAUSE);
        let rang = Instant::now();
        sleeper.thread().unpark();
        // `park` may return for nothing: then the answer was there before, and counts as 0.
        costs.push(told.recv().ok()?.saturating_duration_since(rang));
    }
    costs.sort();
    costs.get(ROUNDS / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::{usable, wake_up};

    #[test]
    fn there_is_a_processor_and_it_can_be_woken() {
        assert!(!usable().is_empty());
        assert!(wake_up().is_some());
    }
}
