//! The machine as far as it matters to the numbers, read from `/proc` and `/sys`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};
use serde::{Deserialize, Serialize};

/// Where the numbers come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Linux's release and version.
    pub linux: String,
    /// Instruction set: `x86_64`, `aarch64`.
    pub architecture: String,
    /// What the processor calls itself.
    pub cpu_model: String,
    /// What runs this machine, if it is a virtual one; null if nothing says that it is.
    pub hypervisor: Option<String>,
    /// Linux's policy for the processors' frequency; null where it has none, as on most virtual
    /// machines.
    pub governor: Option<String>,
    /// What Linux reads the time from.
    pub clock_source: Option<String>,
    /// Processors that are online, as Linux counts them.
    pub cores_online: usize,
    /// The processors that were used: the client's, and the partner's if there was a second.
    pub cores_used: Vec<usize>,
    /// Remarks on how the processors relate, and on what moves the numbers.
    pub topology: Vec<String>,
    /// Cost of one reading of the clock, in nanoseconds.
    pub clock_cost_ns: u64,
    /// Linux's mitigations of processor flaws: many of them are paid on each system call.
    pub mitigations: BTreeMap<String, String>,
}

impl Machine {
    /// Reads all of it. What cannot be read is called unknown.
    pub(crate) fn read(cores_used: &[usize], clock_cost_ns: u64) -> Self {
        let name = rustix::system::uname();
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            linux: format!(
                "{} {}",
                name.release().to_string_lossy(),
                name.version().to_string_lossy()
            ),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu_model: field(&info, "model name")
                .or_else(|| field(&info, "CPU part").map(|part| format!("CPU part {part}")))
                .unwrap_or_else(|| "unknown".to_owned()),
            hypervisor: hypervisor(&info),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            cores_online: line("/sys/devices/system/cpu/online")
                .map_or(1, |list| numbers(&list).len().max(1)),
            cores_used: cores_used.to_vec(),
            topology: topology(cores_used, &info),
            clock_cost_ns,
            mitigations: mitigations(),
        }
    }
}

/// The processors to use: the first that this process may use, and another, on a core of its own if
/// there is such a one.
pub(crate) fn choose_cpus() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return vec![0] };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some((&first, others)) = allowed.split_first() else { return vec![0] };
    let siblings = siblings(first);
    let second = others.iter().find(|cpu| !siblings.contains(cpu)).or(others.first());
    std::iter::once(first).chain(second.copied()).collect()
}

/// Ticks that other guests have taken from these processors since the machine started.
pub(crate) fn stolen(cpus: &[usize]) -> u64 {
    stolen_in(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpus)
}

fn stolen_in(stat: &str, cpus: &[usize]) -> u64 {
    stat.lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
            let cpu: usize = words.next()?.parse().ok()?;
            // user nice system idle iowait irq softirq steal
            if cpus.contains(&cpu) { words.nth(7)?.parse::<u64>().ok() } else { None }
        })
        .sum()
}

fn topology(cpus: &[usize], info: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if let [first, second] = *cpus {
        notes.push(if siblings(first).contains(&second) {
            format!("processors {first} and {second} are threads of one core")
        } else {
            format!("processors {first} and {second} are cores of their own, as far as Linux knows")
        });
    } else {
        notes.push("one processor only".to_owned());
    }
    if field(info, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")) {
        notes.push(
            "a virtual machine: its processors may be threads of one core or not, and change"
                .to_owned(),
        );
    }
    notes
}

/// What Linux and the firmware know of a hypervisor.
fn hypervisor(info: &str) -> Option<String> {
    let flagged =
        field(info, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let kind = line("/sys/hypervisor/type");
    if !flagged && kind.is_none() {
        return None;
    }
    let firmware: Vec<String> = ["sys_vendor", "product_name"]
        .iter()
        .filter_map(|name| line(format!("/sys/class/dmi/id/{name}")))
        .filter(|text| !text.is_empty())
        .collect();
    Some(match (kind, firmware.is_empty()) {
        (Some(kind), true) => kind,
        (Some(kind), false) => format!("{kind}, {}", firmware.join(" ")),
        (None, false) => firmware.join(" "),
        (None, true) => "of a kind that does not tell".to_owned(),
    })
}

fn siblings(cpu: usize) -> Vec<usize> {
    line(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        .map_or_else(|| vec![cpu], |list| numbers(&list))
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(directory) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return BTreeMap::new();
    };
    directory
        .filter_map(Result::ok)
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), line(entry.path())?))
        })
        .collect()
}

/// A file of one line.
fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The first value of that name in a file of lines like `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (left, right) = line.split_once(':')?;
        (left.trim() == name).then(|| right.trim().to_owned())
    })
}

/// A list of processors as Linux writes it: `0,2-3`.
fn numbers(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
        .take(CpuSet::MAX_CPU)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Machine, choose_cpus, field, numbers, stolen_in};

    #[test]
    fn lists_of_processors() {
        assert_eq!(numbers("0"), [0]);
        assert_eq!(numbers("0,2-4\n"), [0, 2, 3, 4]);
        assert!(numbers("nonsense").is_empty());
    }

    #[test]
    fn fields() {
        let info = "processor\t: 0\nmodel name\t: Some: CPU\n";
        assert_eq!(field(info, "model name").as_deref(), Some("Some: CPU"));
        assert_eq!(field(info, "flags"), None);
    }

    #[test]
    fn steal_is_the_eighth_number_of_the_processors_in_use() {
        let stat = "cpu  1 2 3 4 5 6 7 100 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\ncpu1 1 2 3 4 5 6 7 30 0 0\n\
                    cpu10 1 1 1 1 1 1 1 500 0 0\nintr 1 2\n";
        assert_eq!(stolen_in(stat, &[0]), 8);
        assert_eq!(stolen_in(stat, &[0, 1]), 38);
        assert_eq!(stolen_in("", &[0]), 0);
    }

    #[test]
    fn this_machine_can_be_read() {
        let cpus = choose_cpus();
        assert!((1..=2).contains(&cpus.len()));
        let machine = Machine::read(&cpus, 1);
        assert!(machine.cores_online >= 1);
        assert!(!machine.linux.is_empty());
        assert!(!machine.topology.is_empty());
    }
}
