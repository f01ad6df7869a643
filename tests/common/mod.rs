//! What the tests of whole systems share: a system of real processes, tasks that are this very test
//! program started again, a watchdog, a seeded random number.
//!
//! Each test starts a system of its own in a directory of its own, so tests run beside each other.
//! Nothing here says how fast anything must be: what hangs is ended by the watchdog.

// Each test program uses a part of it.
#![allow(dead_code)]

#[allow(unsafe_code)]
pub(crate) mod raw;

use rendez::protocol::kernel::{Give, Limits, ObjectKind, Received, TaskInfo};
use rendez::protocol::quota::Allotment;
use rendez::protocol::{Rights, Slot, TaskId, decode, encode, name, supervisor};
use rendez::runtime::Place;
use rendez::{Client, Connection, Error, NEVER, Options, Status, Task};
use rendez_supervisor::launch::{spawn, spawn_task};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, pidfd_open, setrlimit,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The `rendez` executable.
pub(crate) const RENDEZ: &str = env!("CARGO_BIN_EXE_rendez");

/// Says which part a test program plays that was started again as a task; see [`Role`].
const ROLE: &str = "RENDEZ_TEST_ROLE";

/// How long what must come may take before the test is given up. No test measures time with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Ends the whole test program if a test takes longer than [`PATIENCE`].
#[derive(Debug)]
pub(crate) struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(patience: Duration) -> Self {
        let (alive, watched) = std::sync::mpsc::channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            if watched.recv_timeout(patience) == Err(Timeout) {
                // Past the test harness, which would keep it for itself.
                let text = format!("\nwatchdog: {test} hangs: {} s\n", patience.as_secs());
                let _ = std::io::stderr().write_all(text.as_bytes());
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// A running system, which ends with this value; by SIGKILL if that is how it goes.
pub(crate) struct System {
    pub(crate) directory: TempDir,
    up: Child,
    said: Option<ChildStdout>,
    pub(crate) kernel: u32,
    pub(crate) supervisor: u32,
    _watchdog: Watchdog,
}

impl System {
    /// A system whose file server keeps its files in memory.
    pub(crate) fn start() -> Self {
        Self::with(|_| ())
    }

    /// A system whose servers stay away when they end, until somebody asks for a restart. The file
    /// server serves `directory`, if it is one.
    pub(crate) fn unattended(directory: Option<&Path>) -> Self {
        let mut text = String::new();
        for (name, gets) in [
            ("name", ""),
            ("file", "gets.name = { from = 'name', rights = 'srwn' }"),
            ("signal", "gets.name = { from = 'name', rights = 'srwn' }"),
        ] {
            text += &format!(
                "[task.{name}]\nbuilt-in = '{name}'\nrestart.when = 'never'\n{gets}\n\
                 serves.serve = {{ path = '/{name}', rights = 'srwnmgti' }}\n"
            );
        }
        let manifest = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(manifest.path(), text).unwrap();
        Self::with(|command| {
            command.arg(manifest.path());
            if let Some(directory) = directory {
                command.arg("--dir").arg(directory);
            }
        })
    }

    /// A system whose file server serves `directory`.
    pub(crate) fn serving(directory: &Path) -> Self {
        Self::with(|command| {
            command.arg("--dir").arg(directory);
        })
    }

    /// A system started by `rendez up` after `change` was made to that command. The test's own user is
    /// an operator.
    pub(crate) fn with(change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::Builder::new().prefix("rendez-test-").tempdir().unwrap();
        Self::at(directory, change)
    }

    /// As [`System::with`], in a directory that exists.
    pub(crate) fn at(directory: TempDir, change: impl FnOnce(&mut Command)) -> Self {
        Self::patient(directory, PATIENCE, change)
    }

    /// As [`System::at`], for a test that has more to do than others.
    pub(crate) fn patient(
        directory: TempDir,
        patience: Duration,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        Self::begin(directory, patience, |command| {
            command.args(["--policy", "operator"]);
            change(command);
        })
    }

    /// A system whose front door lets in whom this policy lets in: a name, or a file; `None` for
    /// what it is when nobody says.
    pub(crate) fn admitting(directory: TempDir, policy: Option<&std::ffi::OsStr>) -> Self {
        Self::begin(directory, PATIENCE, |command| {
            if let Some(policy) = policy {
                command.arg("--policy").arg(policy);
            }
        })
    }

    fn begin(directory: TempDir, patience: Duration, change: impl FnOnce(&mut Command)) -> Self {
        let watchdog = Watchdog::start(patience);
        let mut command = rendez(&runtime_of(directory.path()));
        command.args(["--json", "up"]).stdin(Stdio::null()).stdout(Stdio::piped());
        change(&mut command);
        // Linux kills it if this thread ends in whatever way.
        let mut up = spawn(command, Vec::new(), true).expect("starting rendez up");
        let mut said = up.stdout.take().unwrap();
        let ready: serde_json::Value = serde_json::Deserializer::from_reader(&mut said)
            .into_iter()
            .next()
            .expect("rendez up says something")
            .expect("rendez up says it in JSON");
        let pid = |key: &str| match ready[key].as_u64().and_then(|pid| u32::try_from(pid).ok()) {
            Some(pid) => pid,
            None => panic!("rendez up is not ready: {ready}"),
        };
        Self {
            kernel: pid("kernel_pid"),
            supervisor: pid("supervisor_pid"),
            directory,
            up,
            said: Some(said),
            _watchdog: watchdog,
        }
    }

    /// The runtime directory.
    pub(crate) fn runtime(&self) -> PathBuf {
        runtime_of(self.directory.path())
    }

    pub(crate) fn place(&self) -> Place {
        Place { directory: self.runtime(), instance: "default".into(), owner: None }
    }

    /// A task through the front door.
    pub(crate) fn task(&self) -> Task {
        Task::front_door(&self.place()).expect("the front door lets us in")
    }

    /// What a `rendez` command of this system does and says.
    pub(crate) fn rendez<I: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
    ) -> Output {
        rendez(&self.runtime()).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The process of `rendez up`.
    pub(crate) fn up(&mut self) -> &mut Child {
        &mut self.up
    }

    /// Stops the system as a person would, and answers how `rendez up` ended.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        signal(self.up.id(), Signal::TERM);
        self.up.wait().unwrap()
    }

    /// The rest of what `rendez up` said.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        if let Some(mut said) = self.said.take() {
            let _ = said.read_to_string(&mut rest);
        }
        rest
    }
}

impl Drop for System {
    fn drop(&mut self) {
        signal_if_there(self.up.id(), Signal::TERM);
        let _ = self.up.wait();
    }
}

/// Where a system's runtime directory is in a test's directory.
pub(crate) fn runtime_of(directory: &Path) -> PathBuf {
    directory.join("run")
}

/// A `rendez` command with its runtime directory and an environment that is otherwise empty of ours.
pub(crate) fn rendez(runtime: &Path) -> Command {
    let mut command = Command::new(RENDEZ);
    for variable in ["RENDEZ_INSTANCE", "RENDEZ_KERNEL_SOCKET", "RENDEZ_RUNTIME_DIR"] {
        command.env_remove(variable);
    }
    command.arg("--runtime-dir").arg(runtime);
    command
}

/// Copies an executable, to be started by this test. Another process writes the copy: what this one
/// has open for writing, a child that another test's thread starts has open too until it is its own
/// program, and Linux refuses to execute such a file.
pub(crate) fn copy_executable(from: impl AsRef<Path>, to: &Path) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(copied.success(), "cp: {copied}");
}

/// Sends a POSIX signal to a process that is there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(process(pid), signal).expect("the process is there");
}

/// Sends a POSIX signal to a process that may have ended.
pub(crate) fn signal_if_there(pid: u32, signal: Signal) {
    let _ = kill_process(process(pid), signal);
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a process id")
}

/// Processes, held on to, so that their ends can be waited for.
pub(crate) struct Processes(Vec<(u32, OwnedFd)>);

impl Processes {
    pub(crate) fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let open = |pid| (pid, pidfd_open(process(pid), PidfdFlags::empty()).expect("it lives"));
        Self(pids.into_iter().map(open).collect())
    }

    /// Waits until all have ended.
    pub(crate) fn wait_for_ends(&self) {
        for (pid, descriptor) in &self.0 {
            let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
            let long = rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(poll(&mut polled, Some(&long)), Ok(1), "process {pid} goes on");
        }
    }
}

/// Says that a test is left out, and why, past the test harness, which would keep it for itself.
pub(crate) fn skip(why: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes());
}

/// Looks until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client of the supervisor.
pub(crate) fn supervisor(task: &Task) -> Client {
    let slot = task.given_as("supervisor").unwrap().slot;
    Client::connect(task, slot, Options::speaking(supervisor::interface())).unwrap()
}

/// The servers that the supervisor has started.
pub(crate) fn servers(task: &Task) -> Vec<supervisor::Server> {
    let asked = encode(&supervisor::List { skip: 0 });
    let reply = supervisor(task).send(supervisor::operation::LIST, &asked, 8192).unwrap();
    let mut listing: supervisor::Listing = decode(&reply).unwrap();
    assert!(!listing.more, "there are too many for one answer");
    // So that two looks can be compared.
    for server in &mut listing.servers {
        server.up_ms = 0;
    }
    listing.servers
}

/// The process of a server, which lives.
pub(crate) fn pid_of(task: &Task, server: &str) -> u32 {
    let all = servers(task);
    let found = all.iter().find(|one| one.name == server).expect("a server of that name");
    found.pid.expect("it lives")
}

/// Has the supervisor start a server again.
pub(crate) fn restart(task: &Task, server: &str) {
    supervisor(task)
        .send_within(supervisor::operation::RESTART, &encode(&server), 256, Duration::from_secs(60))
        .unwrap();
}

/// The tasks of the system.
pub(crate) fn tasks(task: &Task) -> Vec<TaskInfo> {
    task.list(task.given_as("kernel").unwrap().slot).unwrap()
}

/// What the kernel says of a living task.
pub(crate) fn info(task: &Task, id: TaskId) -> Option<TaskInfo> {
    tasks(task).into_iter().find(|info| info.id == id)
}

/// A connection to the name server by the capability given as `given`: `name`, or `register`.
pub(crate) fn names(task: &Task, given: &str) -> Connection {
    let slot = task.given_as(given).unwrap().slot;
    Connection::open(task, slot, &Options::speaking(name::interface())).unwrap()
}

/// Looks a path up over a connection to the name server.
pub(crate) fn look_up_over(
    connection: &mut Connection,
    path: &str,
    rights: Option<Rights>,
) -> Result<Received, Error> {
    let request = encode(&name::LookUp { path, rights, wait: false });
    let reply = connection.send(name::operation::LOOK_UP, &request, 256)?.ok()?.to_vec();
    let found: name::Found<'_> = decode(&reply)?;
    Ok(connection.accept(found.ticket)?[0])
}

/// Options for those who wait for as long as it takes.
pub(crate) fn for_ever() -> Options {
    Options { timeout: Duration::from_nanos(NEVER / 4), ..Options::default() }
}

/// The status with which something was refused.
#[track_caller]
pub(crate) fn refusal<T: Debug>(result: Result<T, Error>) -> (Status, String) {
    match result {
        Err(Error::Refused { status, text }) => (status, text),
        other => panic!("not refused: {other:?}"),
    }
}

/// A task whose process is this test program, started again to play a part.
///
/// Its `main` is the test harness: the test called `assistant`, which each test program that uses
/// this has, looks with [`Role::of_this_process`] which part it plays.
pub(crate) struct Assistant {
    pub(crate) child: Child,
    pub(crate) capability: Received,
    pub(crate) id: TaskId,
}

impl Assistant {
    /// Starts one. `given`: what it is given, by name. It ends with the calling thread at the latest.
    pub(crate) fn start(
        parent: &Task,
        role: &str,
        given: &[(&str, Slot, Rights)],
        variables: &[(&str, &std::ffi::OsStr)],
    ) -> Self {
        Self::start_with(parent, role, given, variables, Vec::new())
    }

    /// As [`Assistant::start`], with parts of its own of what its parent has.
    pub(crate) fn start_with(
        parent: &Task,
        role: &str,
        given: &[(&str, Slot, Rights)],
        variables: &[(&str, &std::ffi::OsStr)],
        quotas: Vec<Allotment>,
    ) -> Self {
        let give = given
            .iter()
            .map(|(name, slot, rights)| Give {
                name: (*name).into(),
                slot: *slot,
                rights: *rights,
                badge: None,
                limits: Limits::SAME,
            })
            .collect();
        let (capability, id, socket) = parent.create_task_with(role, give, quotas).unwrap();
        assert_eq!(capability.kind, ObjectKind::Task);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "assistant", "--nocapture", "--test-threads", "1"]);
        command.env(ROLE, role).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = spawn_task(command, socket, true).unwrap();
        Self { child, capability, id }
    }

    /// The next line that it says by [`Role::say`].
    pub(crate) fn hear(&mut self) -> String {
        let said = self.child.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            assert_eq!(said.read(&mut byte).unwrap(), 1, "the assistant has ended: {line:?}");
            match byte[0] {
                b'\n' => {
                    // The harness writes in front of it what it pleases.
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if let Some((_, said)) = text.rsplit_once("SAY:") {
                        return said.to_owned();
                    }
                    line.clear();
                }
                other => line.push(other),
            }
        }
    }

    /// Passes over what it has said up to now; answers that.
    pub(crate) fn ignore(&mut self) -> String {
        let said = self.child.stdout.as_mut().unwrap();
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut all = Vec::new();
        let mut some = [0; 4096];
        while poll(&mut [PollFd::new(said, PollFlags::IN)], Some(&now)) == Ok(1) {
            match said.read(&mut some).unwrap() {
                0 => break,
                bytes => all.extend_from_slice(&some[..bytes]),
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Kills it, and waits until it has ended.
    pub(crate) fn kill(&mut self) -> std::process::ExitStatus {
        let _ = self.child.kill();
        self.child.wait().unwrap()
    }
}

impl Drop for Assistant {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The part that this process plays.
pub(crate) struct Role {
    pub(crate) name: String,
}

impl Role {
    /// `None` if it is not an assistant but the test program itself.
    pub(crate) fn of_this_process() -> Option<Self> {
        std::env::var(ROLE).ok().map(|name| Self { name })
    }

    /// The task that it is.
    pub(crate) fn task(&self) -> Task {
        Task::inherited().unwrap().expect("started as a task")
    }

    /// Says a line to whoever started it.
    pub(crate) fn say(&self, line: impl std::fmt::Display) {
        let mut out = std::io::stdout().lock();
        writeln!(out, "SAY:{line}").and_then(|()| out.flush()).expect("somebody listens");
    }

    /// Does nothing until it is killed.
    pub(crate) fn wait_for_ever(&self) -> ! {
        loop {
            std::thread::park();
        }
    }

    /// A variable that it was given.
    pub(crate) fn variable(&self, name: &str) -> PathBuf {
        std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")).into()
    }
}

/// Random numbers that the same seed brings again (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From `$RENDEZ_TEST_SEED`, or from the clock; says which, for a test that fails.
    pub(crate) fn seeded() -> Self {
        let seed = match std::env::var("RENDEZ_TEST_SEED") {
            Ok(text) => text.parse().expect("RENDEZ_TEST_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        println!("RENDEZ_TEST_SEED={seed}");
        Self(seed)
    }

    /// From this seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `below`, without it.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// Another sequence, for somebody else.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many descriptors of each kind a process has open, by what Linux calls it.
pub(crate) fn descriptor_kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for one in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // Gone by now, perhaps.
        let Ok(link) = std::fs::read_link(one.unwrap().path()) else { continue };
        let link = link.to_string_lossy();
        let numbered = ["socket", "pipe"].into_iter().find(|kind| link.starts_with(kind));
        *kinds.entry(numbered.unwrap_or(&link).to_owned()).or_default() += 1;
    }
    kinds
}

/// Allows this process as many descriptors as it may allow itself; how many that is.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

/// How many segments of connections a process has mapped.
pub(crate) fn segments(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains("memfd:rendez-segment")).count()
}

/// The names of all tests in the sources below `directory`; a macro's are not among them.
pub(crate) fn tests_by_name(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(tests_by_name(&path));
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut test = false;
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("fn ").filter(|_| test) {
                    found.insert(rest.split('(').next().unwrap().to_owned());
                }
                test =
                    line == "#[test]" || test && (line.starts_with("#[") || line.starts_with("//"));
            }
        }
    }
    found
}
