//! The peers: each answer is right at every size, a client notices that its partner was killed, and
//! nothing with a name is left. Like the other tests of two processes, this one is its own partner
//! and has a `main` of its own.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use rendez_bench::mechanism::{self, Block, Client, Rescue, Server, Setting};
use rendez_bench::report::Class;
use rendez_bench::{Launcher, Mechanism, PARTNER, Recorder, Wait, trial};
use rustix::process::{Pid, Signal, kill_process};

/// A word; a line and a bit; more than a page; more than any buffer; the largest.
const SIZES: [usize; 5] = [8, 72, 8000, 1 << 20, 16 << 20];

/// How long all of it may take, before it counts as stuck.
const LONGEST: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == PARTNER => match rendez_bench::partner(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        // A test runner may ask for the list of tests, or for one of them by name.
        _ if args.iter().any(|arg| arg == "--list") => {
            println!("peers: test");
            ExitCode::SUCCESS
        }
        _ => {
            thread::spawn(|| {
                thread::sleep(LONGEST);
                eprintln!("peers: still at it, given up");
                process::abort();
            });
            let before = named();
            every_size_is_carried();
            a_client_notices_that_its_partner_was_killed();
            let left: Vec<_> = named().difference(&before).cloned().collect();
            assert!(left.is_empty(), "left behind: {left:?}");
            println!("peers: 3 passed");
            ExitCode::SUCCESS
        }
    }
}

fn exe() -> PathBuf {
    env::current_exe().expect("this test")
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get().min(2))
}

fn peers() -> impl Iterator<Item = &'static dyn Mechanism> {
    mechanism::all()
        .iter()
        .copied()
        .filter(|one| one.class() == Class::Peer && one.runs_on(cores()))
}

fn every_size_is_carried() {
    let names: BTreeSet<_> = peers().map(Mechanism::name).collect();
    let wanted = ["capnp-rpc", "iceoryx2", "ipc-channel", "tarpc", "tonic", "zbus"];
    assert_eq!(names, wanted.into());
    for peer in peers() {
        for payload_bytes in SIZES {
            let made = trial(&exe(), peer, Setting { payload_bytes, cores: cores() });
            let label = mechanism::label(peer);
            assert!(made.is_ok_and(|made| made > 0), "{label} with {payload_bytes} bytes");
        }
    }
}

/// A peer whose partner is killed before the second block.
#[derive(Debug)]
struct Killed(&'static dyn Mechanism);

impl Mechanism for Killed {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn wait(&self) -> Option<Wait> {
        self.0.wait()
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(KilledClient { client: self.0.connect(setting, launcher)?, blocks: 0 }))
    }

    fn serve(&self, _: Setting, _: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct KilledClient {
    client: Box<dyn Client>,
    blocks: u32,
}

impl Client for KilledClient {
    fn prepare(&mut self, block: Block) -> io::Result<()> {
        self.client.prepare(block)
    }

    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        self.blocks += 1;
        if self.blocks == 2 {
            let children: Vec<Pid> = children().collect();
            let [partner] = children.as_slice() else { panic!("one partner, not {children:?}") };
            kill_process(*partner, Signal::KILL)?;
        }
        self.client.block(recorder)
    }

    fn rescue(&self) -> Option<Rescue> {
        self.client.rescue()
    }
}

/// The processes that this one has started and that have not ended.
fn children() -> impl Iterator<Item = Pid> {
    let own = process::id().to_string();
    fs::read_dir("/proc").expect("proc is mounted").filter_map(move |entry| {
        let entry = entry.ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut words = rest.split_whitespace();
        let (state, parent) = (words.next()?, words.next()?);
        let process = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        (parent == own && !matches!(state, "Z" | "X")).then_some(process)
    })
}

fn a_client_notices_that_its_partner_was_killed() {
    for peer in peers() {
        let setting = Setting { payload_bytes: 8, cores: cores() };
        let error = trial(&exe(), &Killed(peer), setting).expect_err("its partner was killed");
        assert!(error.to_string().contains(peer.name()), "{error}");
    }
}

/// What lies where iceoryx2 puts what it names.
fn named() -> BTreeSet<PathBuf> {
    [&*env::temp_dir(), Path::new("/dev/shm")]
        .into_iter()
        .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().contains("iceoryx2"))
        .map(|entry| entry.path())
        .collect()
}
