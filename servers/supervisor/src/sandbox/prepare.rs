//! From a sandbox to what can be put up between fork and exec, where nothing may be allocated.

use super::{Error, Files, Missing, Namespace, Network, Resources, Sandbox, calls};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use nix::unistd::{Gid, Uid};
use seccompiler::BpfProgram;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The newest rules of Landlock that are asked for; an older Linux holds those that it knows.
const NEWEST: ABI = ABI::V9;

/// What dynamically linked programs are loaded from, to read.
const LIBRARIES: [&str; 6] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"];
/// What loads them, to execute.
const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
/// Devices that are as good as memory.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Walls that are ready to be put up by [`spawn_confined`](crate::launch::spawn_confined).
#[derive(Debug)]
pub struct Prepared {
    pub(crate) limits: Vec<(Resource, u64)>,
    pub(crate) namespaces: CloneFlags,
    /// What goes into `uid_map` and `gid_map`, if there is a user namespace.
    pub(crate) maps: Option<[Vec<u8>; 2]>,
    pub(crate) user: Option<(Uid, Gid)>,
    pub(crate) rules: Option<OwnedFd>,
    pub(crate) filters: Vec<BpfProgram>,
    pub(crate) confined: bool,
    pub(crate) dumpable: bool,
}

impl Sandbox {
    /// Makes everything that needs memory, files or time. `program` is what will be executed, as it
    /// would be given to [`Command::new`](std::process::Command::new).
    ///
    /// # Errors
    /// [`Error`]: a path that is not there, or what the machine lacks if the sandbox refuses to do
    /// without.
    pub fn prepare(&self, program: &OsStr, resources: &Resources) -> Result<Prepared, Error> {
        let limits = limits(resources);
        if !self.enabled {
            return Ok(Prepared {
                limits,
                namespaces: CloneFlags::empty(),
                maps: None,
                user: None,
                rules: None,
                filters: Vec::new(),
                confined: false,
                dumpable: true,
            });
        }
        let lacks = self.lacks();
        if self.missing == Missing::Refuse && !lacks.is_empty() {
            return Err(Error::Lacks(lacks.into_iter().map(|lack| lack.what).collect()));
        }
        let lacking = |what: &str| lacks.iter().any(|lack| lack.what.starts_with(what));
        let mut flags = CloneFlags::empty();
        if !lacking("user namespaces") {
            for namespace in &self.namespaces {
                flags |= flag(*namespace);
            }
            if !flags.is_empty() && !nix::unistd::geteuid().is_root() {
                flags |= CloneFlags::CLONE_NEWUSER;
            }
        }
        let user = self.user.filter(|_| !lacking("root"));
        let (uid, gid) = match user {
            Some(user) => (user.uid, user.gid),
            None => (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        };
        let maps = flags
            .contains(CloneFlags::CLONE_NEWUSER)
            .then(|| [uid, gid].map(|id| format!("{id} {id} 1").into_bytes()));
        let filters = calls::filters(self.system_calls, self.network)
            .map_err(|error| Error::System { doing: "building the system call filter", error })?;
        Ok(Prepared {
            limits,
            namespaces: flags,
            maps,
            user: user.map(|_| (Uid::from_raw(uid), Gid::from_raw(gid))),
            rules: self.rules(&found(program)?)?,
            filters,
            confined: true,
            dumpable: self.dumpable,
        })
    }

    /// The rules of Landlock, `None` where there is none.
    fn rules(&self, program: &Path) -> Result<Option<OwnedFd>, Error> {
        let failed = |error: RulesetError| Error::System {
            doing: "building the rules about files",
            error: error.to_string(),
        };
        let mut rules = Ruleset::default();
        if !self.files.all {
            rules = rules.handle_access(AccessFs::from_all(NEWEST)).map_err(failed)?;
        }
        if self.network != Network::All {
            rules = rules.handle_access(AccessNet::from_all(NEWEST)).map_err(failed)?;
        }
        let mut scope: BitFlags<Scope> = Scope::Signal.into();
        if self.network != Network::All {
            scope |= Scope::AbstractUnixSocket;
        }
        let mut rules = rules.scope(scope).and_then(Ruleset::create).map_err(failed)?;
        if !self.files.all {
            rules = allow(rules, &self.files, program)?;
        }
        Ok(rules.into())
    }
}

fn allow(
    mut rules: RulesetCreated,
    files: &Files,
    program: &Path,
) -> Result<RulesetCreated, Error> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = AccessFs::from_all(NEWEST);
    let write = all & !AccessFs::Execute;
    let execute = AccessFs::from_read(NEWEST);
    let there = |paths: &[&str]| -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
    };
    let libraries = there(&LIBRARIES);
    let mut executables = there(&LOADERS);
    executables.push(program.into());
    let devices = there(&DEVICES);
    for (paths, access) in [
        (&libraries, read),
        (&executables, execute),
        (&devices, AccessFs::ReadFile | AccessFs::WriteFile),
        (&files.read, read),
        (&files.write, write),
        (&files.execute, execute),
    ] {
        for path in paths {
            let failed = |error: String| Error::Path { path: path.clone(), error };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            let parent =
                PathFd::new(path).map_err(|error| match std::error::Error::source(&error) {
                    Some(source) => failed(source.to_string()),
                    None => failed(error.to_string()),
                })?;
            rules = rules
                .add_rule(PathBeneath::new(parent, access))
                .map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(rules)
}

/// Where `program` is, as `execvp` would find it.
fn found(program: &OsStr) -> Result<PathBuf, Error> {
    let path = Path::new(program);
    let missing = || Error::Program { program: program.to_string_lossy().into() };
    if path.components().count() > 1 || path.is_absolute() {
        return if path.exists() { Ok(path.into()) } else { Err(missing()) };
    }
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join(path))
        .find(|candidate| candidate.is_file())
        .ok_or_else(missing)
}

fn flag(namespace: Namespace) -> CloneFlags {
    match namespace {
        Namespace::User => CloneFlags::CLONE_NEWUSER,
        Namespace::Network => CloneFlags::CLONE_NEWNET,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Host => CloneFlags::CLONE_NEWUTS,
        Namespace::ControlGroup => CloneFlags::CLONE_NEWCGROUP,
    }
}

fn limits(resources: &Resources) -> Vec<(Resource, u64)> {
    let Resources { memory, descriptors, processes, cpu_seconds, file_size, core } = *resources;
    [
        (Resource::RLIMIT_AS, memory),
        (Resource::RLIMIT_NOFILE, descriptors),
        (Resource::RLIMIT_NPROC, processes),
        (Resource::RLIMIT_CPU, cpu_seconds),
        (Resource::RLIMIT_FSIZE, file_size),
        (Resource::RLIMIT_CORE, core),
    ]
    .into_iter()
    .filter_map(|(resource, limit)| Some((resource, limit?)))
    .collect()
}
