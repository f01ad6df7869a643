//! What this machine has of what sandboxes are made of.

use super::{Namespace, Sandbox, User};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use std::fs;
use std::sync::OnceLock;

/// A wall that this machine cannot put up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What is not there.
    pub what: String,
    /// What a process can do therefore.
    pub costs: &'static str,
}

impl Sandbox {
    /// What of this sandbox the machine, and the user who asks, cannot put up.
    #[must_use]
    pub fn lacks(&self) -> Vec<Lack> {
        let mut lacks = Vec::new();
        if !self.enabled {
            return lacks;
        }
        let mut lack = |what: &str, costs| lacks.push(Lack { what: what.into(), costs });
        let root = nix::unistd::geteuid().is_root();
        let landlock = landlock_version();
        if !self.files.all {
            match landlock {
                0 => lack(
                    "Landlock (Linux 5.13, and switched on)",
                    "it can open every file that its user can",
                ),
                1 | 2 => {
                    lack("Landlock 3 (Linux 6.2)", "it can truncate files that it may not write")
                }
                _ => {}
            }
        }
        if (1..6).contains(&landlock) {
            lack("Landlock 6 (Linux 6.12)", "it can send signals to its user's other processes");
        }
        let namespaces = self.namespaces.contains(&Namespace::User) || !root;
        if !self.namespaces.is_empty() && namespaces && !user_namespaces() {
            lack("user namespaces", "it is in the host's namespaces");
        }
        if let Some(User { uid, .. }) = self.user
            && !root
            && uid != nix::unistd::geteuid().as_raw()
        {
            lack("root, to change the user", "it runs as the same user as whoever started it");
        }
        lacks
    }
}

/// The version of Landlock that both Linux and this program know, 0 if it is missing or off.
#[must_use]
pub fn landlock_version() -> u8 {
    // It does not change while a machine runs, and each start of a task asks.
    static FOUND: OnceLock<u8> = OnceLock::new();
    *FOUND.get_or_init(find_landlock)
}

fn find_landlock() -> u8 {
    const KNOWN: [(u8, ABI); 7] = [
        (9, ABI::V9),
        (6, ABI::V6),
        (5, ABI::V5),
        (4, ABI::V4),
        (3, ABI::V3),
        (2, ABI::V2),
        (1, ABI::V1),
    ];
    KNOWN
        .into_iter()
        .find(|(version, abi)| {
            let rules = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(*abi));
            let rules = match rules {
                Ok(rules) if *version >= 4 => rules.handle_access(AccessNet::from_all(*abi)),
                other => other,
            };
            let rules = match rules {
                Ok(rules) if *version >= 6 => rules.scope(Scope::from_all(*abi)),
                other => other,
            };
            rules.and_then(Ruleset::create).is_ok()
        })
        .map_or(0, |(version, _)| version)
}

/// Whether this user may make user namespaces, as far as Linux's settings say.
#[must_use]
pub fn user_namespaces() -> bool {
    let setting = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if nix::unistd::geteuid().is_root() {
        return setting("/proc/sys/user/max_user_namespaces") != Some(0);
    }
    setting("/proc/sys/user/max_user_namespaces") != Some(0)
        && setting("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) == 0
}
