//! A report for tests, with everything in it that a report can have.

use std::collections::BTreeMap;

use super::{
    Axis, BYTES, Blocks, Class, Cores, Experiment, FORMAT, NS, PER_SECOND, Plot, Point, Ratio,
    Report, Summary, WHOLE,
};
use crate::Machine;
use crate::mechanism::Wait;

/// A point with a tail, a ratio to the floor, and a distribution.
fn point(cores: Cores, x: f64, p50: f64, to_floor: Option<f64>) -> Point {
    let summary = Summary {
        p50,
        p90: Some(p50 * 1.5),
        p99: Some(p50 * 2.0),
        p999: Some(p50 * 20.0),
        mean: p50 * 1.1,
        count: 1000,
    };
    Point {
        x: Some(x),
        ratios: to_floor
            .map(|ratio| Ratio {
                to: "floor".into(),
                median: ratio,
                q1: ratio * 0.9,
                q3: ratio * 1.1,
            })
            .into_iter()
            .collect(),
        cpu_s_per_million: Some(p50 / 500.0),
        histogram: vec![(p50, 500), (p50 * 1.5, 400), (p50 * 2.0, 90), (p50 * 20.0, 10)],
        blocks: Blocks { kept: 200, disturbed: 1, repeated: 3 },
        ..Point::new(cores, NS, summary)
    }
}

fn case(name: &str, ns: f64) -> Point {
    Point { case: Some(name.into()), ..Point::new(Cores::Two, NS, Summary::single(ns)) }
}

/// Lines, bars, a stack, two kinds of cores, two units, notes with characters that need care.
pub(crate) fn report() -> Report {
    let mut size = Experiment::new(
        "size",
        "Cost against size",
        "What does a round trip cost, by the size of its payload?",
        Plot::Lines,
        Some(Axis::logarithmic("payload", BYTES)),
    );
    for (x, by) in [(8.0, 1.0), (4096.0, 6.0)] {
        let spin = Some(Wait::Spin);
        size.add("floor", spin, Class::Floor, point(Cores::Two, x, 310.0 * by, Some(1.0)));
        size.add("rendez-spin", spin, Class::Rendez, point(Cores::Two, x, 370.0 * by, Some(1.2)));
        let block = Some(Wait::Block);
        size.add("pipe", block, Class::Baseline, point(Cores::Two, x, 59_000.0 * by, Some(190.0)));
        size.add("pipe", block, Class::Baseline, point(Cores::One, x, 4_100.0 * by, None));
        size.add("rendez-block", block, Class::Rendez, point(Cores::One, x, 4_600.0 * by, None));
    }
    size.notes.push("left out <b>because</b> & so on".into());

    let mut clients = Experiment::new(
        "clients",
        "Rate against clients",
        "How does the rate change with the number of clients?",
        Plot::Lines,
        Some(Axis::logarithmic("clients", "")),
    );
    for (x, rate) in [(1.0, 1e6), (64.0, 2e6), (1000.0, 1.9e6)] {
        let point =
            Point { x: Some(x), ..Point::new(Cores::Two, PER_SECOND, Summary::single(rate)) };
        clients.add("rendez-adaptive", Some(Wait::Adaptive), Class::Rendez, point);
    }

    let mut breakdown = Experiment::new(
        "breakdown",
        "Where the time of a send goes",
        "Which step takes how long?",
        Plot::Stack,
        None,
    );
    for (step, ns) in [("write", 20.0), ("cross", 150.0), ("serve", 30.0), (WHOLE, 205.0)] {
        breakdown.add("rendez-spin", Some(Wait::Spin), Class::Rendez, case(step, ns));
    }

    let mut capabilities = Experiment::new(
        "capabilities",
        "Capability operations",
        "What does each cost?",
        Plot::Bars,
        None,
    );
    for (operation, ns) in [("mint", 9_000.0), ("revoke", 12_000.0)] {
        capabilities.add("rendez", None, Class::Rendez, case(operation, ns));
    }

    Report {
        format: FORMAT,
        machine: Machine {
            linux: "6.18.0 #1 SMP".into(),
            architecture: "x86_64".into(),
            cpu_model: "Model \"A\" <1>".into(),
            hypervisor: Some("Some monitor".into()),
            governor: None,
            clock_source: Some("tsc".into()),
            cores_online: 2,
            cores_used: vec![0, 1],
            topology: vec!["a note".into()],
            clock_cost_ns: 25,
            mitigations: BTreeMap::from([("meltdown".into(), "Not affected".into())]),
        },
        quick: true,
        experiments: vec![size, clients, breakdown, capabilities],
        notes: vec!["something to know".into()],
    }
}
