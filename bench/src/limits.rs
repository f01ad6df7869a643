//! How much of what Linux rations a process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors and mappings that are not those of connections.
const OTHERS: u64 = 128;

/// How many connections' descriptors this process can have, at one each: the soft limit is raised to
/// the hard one. Partner processes inherit it.
pub(crate) fn descriptors() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If Linux refuses, the soft limit stays.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    less_others(if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX))
}

/// How many mappings a process can have.
pub(crate) fn mappings() -> usize {
    /// If Linux does not say.
    const USUAL: u64 = 65_530;
    let said = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    less_others(said.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL))
}

fn less_others(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(OTHERS)).unwrap_or(usize::MAX)
}
