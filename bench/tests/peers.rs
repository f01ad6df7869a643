//! The peers answer what they are asked, small and large, and leave nothing behind. Like
//! `two_processes`, this test is its own partner and has a `main` of its own.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rendez_bench::report::{Class, Cores};
use rendez_bench::{Options, PARTNER, mechanism};

/// In one message of everybody's, and in more than one of some.
const PAYLOADS: [usize; 2] = [8, 1 << 20];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == PARTNER
    {
        return match rendez_bench::partner(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    // A test runner may ask for the list of tests, or for one of them by name.
    if args.iter().any(|arg| arg == "--list") {
        println!("peers: test");
        return ExitCode::SUCCESS;
    }
    let before = named();
    every_peer_passes_messages();
    let after = named();
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    println!("peers: 2 passed");
    ExitCode::SUCCESS
}

fn every_peer_passes_messages() {
    let peers: Vec<_> =
        mechanism::all().iter().copied().filter(|one| one.class() == Class::Peer).collect();
    assert_eq!(peers.len(), 7);
    let mut options = Options::new(env::current_exe().expect("this test"));
    options.quick = true;
    options.experiments = vec!["size".into()];
    options.only = peers.iter().map(|one| mechanism::label(*one)).collect();
    options.payloads = PAYLOADS.into();
    options.cores = vec![Cores::Two, Cores::One];
    let report = rendez_bench::run(&options, &mut |_| {}).expect("every peer works here");
    let [experiment] = report.experiments.as_slice() else { panic!("{:?}", report.notes) };
    let available = report.machine.cores_used.len();
    for cores in [Cores::Two, Cores::One].into_iter().filter(|one| one.processors() <= available) {
        for peer in peers.iter().filter(|peer| peer.runs_on(cores.processors())) {
            let label = mechanism::label(*peer);
            for payload in PAYLOADS {
                let found = experiment
                    .series
                    .iter()
                    .filter(|series| series.label == label)
                    .flat_map(|series| &series.points)
                    .any(|point| point.cores == cores && point.x == Some(payload as f64));
                assert!(found, "{label}, {payload} bytes, {cores:?}: {:?}", experiment.notes);
            }
        }
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
