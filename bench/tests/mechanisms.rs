//! Every mechanism, at sizes from a word to 16 MiB: either each answer is right, or a limit is named.
//! And what is left of it when either side is killed. The test is its own partner, which is why it
//! has a `main` of its own.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{self, Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rendez_bench::mechanism::{self, Block, Client, Rescue, Server, Setting};
use rendez_bench::report::Class;
use rendez_bench::{Error, Launcher, Mechanism, PARTNER, Recorder, Wait, trial};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use tempfile::TempDir;

/// A word; a line and a bit; more than a page; more than any buffer; the largest.
const SIZES: [usize; 5] = [8, 72, 8000, 1 << 20, 16 << 20];

/// The subcommand of a process that tries the named mechanism, and in the midst of it says
/// [`HOLDING`] and waits.
const HOLD: &str = "hold";
const HOLDING: &str = "holding";

/// The same, in a process that is denied whatever can be denied.
const IN_WANT: &str = "in-want";

/// How long whatever was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long all of it may take, before it counts as stuck.
const LONGEST: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == PARTNER => match rendez_bench::partner(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Some((first, [label])) if first == HOLD => hold(label),
        Some((first, [label])) if first == IN_WANT => hold_in_want(label),
        // A test runner may ask for the list of tests, or for one of them by name.
        _ if args.iter().any(|arg| arg == "--list") => {
            println!("mechanisms: test");
            ExitCode::SUCCESS
        }
        _ => {
            thread::spawn(|| {
                thread::sleep(LONGEST);
                eprintln!("mechanisms: still at it, given up");
                process::abort();
            });
            every_baseline_is_described();
            every_size_is_carried_or_refused();
            what_is_missing_is_named();
            nothing_is_left_of_a_killed_client();
            a_client_notices_that_its_partner_was_killed();
            nothing_is_left_of_both_interrupted();
            println!("mechanisms: 6 passed");
            ExitCode::SUCCESS
        }
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get().min(2))
}

fn exe() -> PathBuf {
    env::current_exe().expect("this test")
}

/// Mechanisms whose own limits are below 16 MiB, and the largest of `SIZES` that each carries where
/// Linux is set up as it comes.
const LIMITED: [(&str, usize); 6] = [
    ("signal", 8),
    ("udp", 8000),
    ("unix-datagram", 8000),
    ("unix-seqpacket", 8000),
    ("posix-queue", 8000),
    ("system-v-queue", 8000),
];

fn every_size_is_carried_or_refused() {
    for (label, mechanism) in mechanisms() {
        for payload_bytes in SIZES {
            let setting = Setting { payload_bytes, cores: processors() };
            match trial(&exe(), mechanism, setting) {
                Ok(made) => assert!(made > 0, "{label} with {payload_bytes} bytes"),
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
                    let reason = source.to_string();
                    if reason.contains("is not to be had here") {
                        println!("{label} with {payload_bytes} bytes: {reason}");
                        continue;
                    }
                    let limited = LIMITED.iter().find(|(name, _)| *name == label);
                    let limit = limited.map_or(usize::MAX, |(_, bytes)| *bytes);
                    assert!(
                        payload_bytes > limit || mechanism.name() == "rendez",
                        "{label}: {reason}"
                    );
                }
                Err(error) => panic!("{label} with {payload_bytes} bytes: {error}"),
            }
        }
    }
}

/// A mechanism whose client says so before its second block and goes on when told to. Its partner
/// is the real one, and waits for a request meanwhile.
#[derive(Debug)]
struct Held(&'static dyn Mechanism);

impl Mechanism for Held {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn wait(&self) -> Option<Wait> {
        self.0.wait()
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(HeldClient { client: self.0.connect(setting, launcher)?, blocks: 0 }))
    }

    fn serve(&self, _: Setting, _: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct HeldClient {
    client: Box<dyn Client>,
    blocks: u32,
}

impl Client for HeldClient {
    fn prepare(&mut self, block: Block) -> io::Result<()> {
        self.client.prepare(block)
    }

    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        self.blocks += 1;
        if self.blocks == 2 {
            println!("{HOLDING}");
            io::stdin().read_exact(&mut [0])?;
        }
        self.client.block(recorder)
    }

    fn rescue(&self) -> Option<Rescue> {
        self.client.rescue()
    }
}

/// The process that is killed, or whose partner is.
fn hold(label: &str) -> ExitCode {
    let Some(mechanism) = mechanism::find(label) else { return ExitCode::FAILURE };
    match trial(&exe(), &Held(mechanism), Setting { payload_bytes: 8, cores: processors() }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A client that holds, and its partner.
struct Pair {
    client: Child,
    partner: i32,
    /// Its directory for temporary files, empty in the beginning.
    directory: TempDir,
    output: BufReader<ChildStdout>,
}

impl Pair {
    /// `None` if the mechanism is not to be had here.
    fn start(label: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut client = Command::new(exe())
            .args([HOLD, label])
            .env("TMPDIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut output = BufReader::new(client.stdout.take().expect("asked for"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says how it is");
        if line.trim() != HOLDING {
            assert!(line.contains("is not to be had here"), "{label}: {line}");
            client.wait().expect("it ends");
            return None;
        }
        let own = client.id();
        let partner = processes().find(|process| parent(*process) == Some(own));
        let partner = partner.unwrap_or_else(|| panic!("{label}: a partner was started"));
        Some(Self { client, partner: partner.cast_signed(), directory, output })
    }

    fn signal(process: i32, signal: Signal) {
        let process = Pid::from_raw(process).expect("not zero");
        kill_process(process, signal).expect("it is there");
    }

    /// What has a name and is this pair's.
    fn left(&self) -> Vec<String> {
        let (client, partner) = (self.client.id().to_string(), self.partner.to_string());
        let mut left: Vec<String> = fs::read_dir(self.directory.path())
            .expect("the directory is ours")
            .map(|entry| entry.expect("listed").path().display().to_string())
            .collect();
        let own = format!("rendez-bench-{client}-");
        let queues = fs::read_dir("/dev/mqueue").into_iter().flatten().filter_map(Result::ok);
        left.extend(
            queues
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.starts_with(&own)),
        );
        // key msqid perms cbytes qnum lspid lrpid ...
        let queues = fs::read_to_string("/proc/sysvipc/msg").unwrap_or_default();
        left.extend(queues.lines().map(str::to_owned).filter(|line| {
            let mut last = line.split_whitespace().skip(5).take(2);
            last.any(|process| process == client || process == partner)
        }));
        left
    }

    /// Waits until the partner is gone, and with it whatever had a name.
    fn expect_nothing(&self, label: &str) {
        let start = Instant::now();
        loop {
            let (gone, left) = (parent(self.partner.cast_unsigned()).is_none(), self.left());
            if gone && left.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{label}: partner gone: {gone}, left: {left:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The parent of a process that has not ended.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?;
    if matches!(state, "Z" | "X") { None } else { words.next()?.parse().ok() }
}

fn mechanisms() -> impl Iterator<Item = (String, &'static dyn Mechanism)> {
    mechanism::all()
        .iter()
        // Other frameworks have tests of their own.
        .filter(|one| one.class() != Class::Peer && one.runs_on(processors()))
        .map(|one| (mechanism::label(*one), *one))
}

fn nothing_is_left_of_a_killed_client() {
    for (label, _) in mechanisms() {
        let Some(mut pair) = Pair::start(&label) else { continue };
        pair.client.kill().expect("it was there");
        pair.client.wait().expect("killed");
        pair.expect_nothing(&label);
    }
}

fn a_client_notices_that_its_partner_was_killed() {
    for (label, _) in mechanisms() {
        let Some(mut pair) = Pair::start(&label) else { continue };
        Pair::signal(pair.partner, Signal::KILL);
        pair.client.stdin.take().expect("asked for").write_all(b"x").expect("it holds");
        let mut said = String::new();
        pair.output.read_to_string(&mut said).expect("it ends");
        assert!(!pair.client.wait().expect("it ends").success(), "{label}");
        assert!(said.contains(mechanism::find(&label).expect("listed").name()), "{label}: {said}");
        pair.expect_nothing(&label);
    }
}

fn every_baseline_is_described() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/mechanisms.md");
    let page = fs::read_to_string(page).expect("it is part of the book");
    for mechanism in mechanism::all() {
        if matches!(mechanism.class(), Class::Floor | Class::Baseline) {
            let row = format!("| `{}` |", mechanism::label(*mechanism));
            assert!(page.contains(&row), "{row} in docs/reference/mechanisms.md");
        }
    }
}

/// Tries the named mechanism where there is no directory for files, and no room for anything queued.
fn hold_in_want(label: &str) -> ExitCode {
    let none = || Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Sigpending, none()).expect("a limit can be lowered");
    setrlimit(Resource::Msgqueue, none()).expect("a limit can be lowered");
    hold(label)
}

fn what_is_missing_is_named() {
    for label in ["named-pipe", "mapped-file-spin", "file-spin", "posix-queue", "signal"] {
        if mechanism::find(label).is_none_or(|one| !one.runs_on(processors())) {
            continue;
        }
        let output = Command::new(exe())
            .args([IN_WANT, label])
            .env("TMPDIR", "/nonexistent")
            .stdin(Stdio::null())
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{label}: {said}");
        assert!(
            said.contains(label) && said.contains("is not to be had here: "),
            "{label}: {said}"
        );
    }
}

fn nothing_is_left_of_both_interrupted() {
    for (label, _) in mechanisms() {
        let Some(mut pair) = Pair::start(&label) else { continue };
        Pair::signal(pair.partner, Signal::INT);
        Pair::signal(pair.client.id().cast_signed(), Signal::INT);
        pair.client.wait().expect("interrupted");
        pair.expect_nothing(&label);
    }
}
