//! Real round trips between two processes. The test is its own partner: the laboratory starts this
//! executable again, which is why it has a `main` of its own.

use std::env;
use std::process::{Command, ExitCode, Stdio};

use rendez_bench::report::Cores;
use rendez_bench::{Error, Options, PARTNER, mechanism};

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
        println!("two_processes: test");
        return ExitCode::SUCCESS;
    }
    every_mechanism_passes_messages();
    a_partner_without_a_parent_ends();
    an_executable_that_is_no_partner_is_an_error();
    println!("two_processes: 3 passed");
    ExitCode::SUCCESS
}

fn options() -> Options {
    let mut options = Options::new(env::current_exe().expect("this test"));
    options.quick = true;
    options
}

fn every_mechanism_passes_messages() {
    let mut options = options();
    options.experiments = vec!["size".into()];
    options.payloads = vec![64];
    let mut done = 0.0;
    let report = rendez_bench::run(&options, &mut |progress| {
        assert!(progress.done >= done && progress.done < 1.0, "progress goes forward");
        done = progress.done;
    })
    .expect("every mechanism works here");
    let available = report.machine.cores_used.len();
    let [experiment] = report.experiments.as_slice() else { panic!("{:?}", report.notes) };
    for cores in Cores::ALL.into_iter().filter(|cores| cores.processors() <= available) {
        for mechanism in mechanism::all().iter().filter(|one| one.runs_on(cores.processors())) {
            let label = mechanism::label(*mechanism);
            if mechanism.carries(64).is_err()
                || experiment.notes.iter().any(|note| note.contains(&label))
            {
                continue;
            }
            let point = experiment
                .series
                .iter()
                .find(|series| series.label == label)
                .and_then(|series| series.points.iter().find(|point| point.cores == cores))
                .unwrap_or_else(|| panic!("{label} {cores:?}: {:?}", experiment.notes));
            let summary = point.summary;
            assert_eq!(point.x, Some(64.0));
            assert!(point.blocks.kept > 0, "{label} {point:?}");
            assert!(summary.p50 > 0.0 && summary.p99 > Some(0.0), "{label} {summary:?}");
            assert!(summary.p99 <= summary.p999, "{label} {summary:?}");
            assert!(point.cpu_s_per_million.is_some_and(|cpu| cpu > 0.0), "{label} {point:?}");
            assert_eq!(point.ratio_to("floor").is_some(), available > 1, "{label} {point:?}");
        }
    }
    if available == 1 {
        assert!(experiment.notes.iter().any(|note| note.contains("only one processor")));
    }
}

fn a_partner_without_a_parent_ends() {
    let status = Command::new(env::current_exe().expect("this test"))
        .args([PARTNER, "floor", "8", "2", "-"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("started");
    assert!(!status.success());
}

fn an_executable_that_is_no_partner_is_an_error() {
    let mut options = options();
    options.only = vec!["pipe".into()];
    options.exe = "/bin/true".into();
    assert!(matches!(
        rendez_bench::run(&options, &mut |_| {}),
        Err(Error::Partner { .. } | Error::Io { .. })
    ));
    options.exe = "/nonexistent/partner".into();
    let error = rendez_bench::run(&options, &mut |_| {}).expect_err("nothing to start");
    assert!(error.to_string().contains("/nonexistent/partner"), "{error}");
}
