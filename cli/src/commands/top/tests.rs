use super::report::Report;
use super::screen::{View, lines, rate, size, time};
use super::terminal::Key;
use super::watch::{Sample, TaskSample};
use crate::arguments::SortKey;
use rendez::protocol::{ConnectionId, TaskId};
use rendez_ipc_core::counters::{BUCKETS, ConnectionCounts, Head, Identity, Side, bucket};
use rendez_ipc_core::status::Claim;

const CLIENT: TaskId = TaskId { index: 4, generation: 0 };
const SERVER: TaskId = TaskId { index: 2, generation: 1 };

fn end(key: u64, side: Side, peer: TaskId, requests: u64) -> ConnectionCounts {
    let mut histogram = [0; BUCKETS];
    histogram[bucket(300)] = requests / 64;
    ConnectionCounts {
        key,
        whose: Identity {
            connection: ConnectionId { index: 9, generation: 3 },
            peer,
            side,
            status_index: 1,
        },
        since_ns: 1_000_000_000,
        requests,
        request_bytes: requests.saturating_mul(8),
        replies: requests,
        reply_bytes: requests.saturating_mul(8),
        late: 1,
        room_waits: 0,
        looks: 10,
        sleeps: 2,
        rings: 3,
        wake_ns: 25_000,
        budget_ns: 25_000,
        histogram,
    }
}

fn wait(status_index: u32, since_ns: u64) -> Claim {
    let (transaction, taken, thread, deadline_ns) = (Some(7), true, 77, 0);
    Claim { status_index, transaction, taken, thread, since_ns, deadline_ns }
}

fn task(id: TaskId, name: &str, ends: Vec<ConnectionCounts>) -> TaskSample {
    TaskSample { id, name: name.into(), pid: Some(77), head: Head::default(), ends }
}

fn sample(at_s: u64, requests: u64) -> Sample {
    Sample {
        at_ns: at_s * 1_000_000_000,
        own: None,
        tasks: vec![
            task(SERVER, "file", vec![end(1, Side::Server, CLIENT, requests)]),
            task(CLIENT, "app", vec![end(2, Side::Client, SERVER, requests)]),
        ],
    }
}

#[test]
fn both_ends_are_one_row() {
    let report = Report::between(Some(&sample(5, 1000)), &sample(7, 5000));
    let [row] = &report.connections[..] else { panic!("{report:?}") };
    assert!(row.confirmed);
    assert_eq!((row.client.name.as_str(), row.server.name.as_str()), ("app", "file"));
    assert_eq!((row.transactions_per_s, row.bytes_per_s), (2000.0, 32_000.0));
    assert_eq!((row.wakes_per_s, row.late), (0.0, 1));
    assert!(row.round_trip(0).is_some_and(|ns| (256.0..384.0).contains(&ns)));
    assert_eq!(report.interval_ms, 2000);
    assert_eq!((report.tasks[0].served_per_s, report.tasks[1].sent_per_s), (2000.0, 2000.0));
    assert_eq!(report.transactions_per_s, 2000.0);
}

#[test]
fn without_a_first_look_it_is_since_the_beginning() {
    let report = Report::between(None, &sample(5, 1000));
    assert_eq!(report.connections[0].transactions_per_s, 250.0, "1000 in 4 s");
    assert_eq!(report.connections[0].client_end.as_ref().unwrap().since_ms, 4000);
}

#[test]
fn who_is_not_contradicted_is_not_believed_either() {
    // A third task claims the server's connection for its own.
    let liar = TaskId { index: 8, generation: 0 };
    let mut now = sample(7, 1000);
    let mut lie = end(1, Side::Client, SERVER, u64::MAX);
    lie.since_ns = u64::MAX;
    lie.histogram = [u64::MAX; BUCKETS];
    now.tasks.push(task(liar, "liar\x1b[2J", vec![lie]));
    let report = Report::between(Some(&sample(5, 1000)), &now);
    assert_eq!(report.connections.len(), 2);
    let of = |name: &str| report.connections.iter().find(|row| row.client.name == name).unwrap();
    assert!(of("app").confirmed && of("app").transactions_per_s == 0.0);
    let lie = of("liar\x1b[2J");
    assert!(!lie.confirmed && lie.server_end.is_none());
    assert!(report.tasks.iter().all(|row| row.name != "file" || row.served_per_s == 0.0));
    // Nothing of it moves the cursor.
    let view = View::new(SortKey::Rate, 1000);
    assert!(lines(&report, &view, (80, 24)).iter().all(|line| !line.contains("\x1b[2J")));
}

#[test]
fn what_goes_backwards_counts_as_nothing() {
    let report = Report::between(Some(&sample(7, 5000)), &sample(7, 1));
    assert_eq!(report.connections[0].transactions_per_s, 0.0);
    assert!(report.connections[0].round_trip(0).is_none());
}

#[test]
fn a_wait_names_whom_it_is_for() {
    let mut now = sample(7, 1);
    now.tasks[1].head.waits = vec![wait(1, 4_500_000_000), wait(99, u64::MAX)];
    let report = Report::between(None, &now);
    let waits = &report.tasks[1].waits;
    assert_eq!((waits[0].name.as_str(), waits[0].for_ms), ("file", 2500));
    assert_eq!(waits[0].connection.as_deref(), Some("9.3"));
    assert_eq!((waits[1].name.as_str(), waits[1].on.as_deref(), waits[1].for_ms), ("?", None, 0));
    let shown = lines(&report, &View::new(SortKey::Rate, 1000), (80, 24)).join("\n");
    assert!(shown.contains("file 2.5 s"), "{shown}");
}

fn plain(line: &str) -> String {
    anstream::adapter::strip_str(line).to_string()
}

#[test]
fn the_screen_fits_whatever_its_size() {
    let mut now = sample(7, 1_234_567);
    for index in 10..60 {
        let id = TaskId { index, generation: 0 };
        now.tasks.push(task(id, &"long".repeat(16), vec![end(1, Side::Client, SERVER, 1)]));
    }
    let report = Report::between(None, &now);
    let mut view = View::new(SortKey::Rate, 1000);
    for (width, height) in [(80, 24), (200, 50), (20, 5), (1, 1), (0, 0), (80, 3)] {
        let lines = lines(&report, &view, (width, height));
        assert_eq!(lines.len(), height);
        for line in &lines {
            let line = plain(line);
            assert!(line.chars().count() <= width.max(1), "{width}: {line:?}");
        }
    }
    let shown = lines(&report, &view, (80, 24));
    assert!(plain(&shown[0]).starts_with("rendez top   52 tasks   51 connections"));
    assert!(shown.iter().any(|line| plain(line).starts_with("app → file")));
    assert!(plain(&shown[23]).contains("q quit") && plain(&shown[23]).contains("sort: rate"));
    view.pressed(Key::Down, report.connections.len());
    let scrolled = lines(&report, &view, (80, 24));
    assert!(!scrolled.iter().any(|line| plain(line).starts_with("app → file")), "{scrolled:?}");
}

#[test]
fn keys_change_the_view() {
    let mut view = View::new(SortKey::Rate, 1000);
    for key in [b's', b'r', b'p', b'+'] {
        view.pressed(Key::Character(key), 3);
    }
    assert_eq!(view.sort, SortKey::Bytes);
    assert!(view.reverse && view.paused);
    assert_eq!(view.interval_ms, 500);
    for _ in 0..20 {
        view.pressed(Key::Character(b'+'), 3);
        view.pressed(Key::Down, 3);
    }
    assert_eq!((view.interval_ms, view.first), (50, 2));
    view.pressed(Key::Character(b'g'), 3);
    assert_eq!(view.first, 0);
    let mut key = SortKey::Rate;
    for _ in 0..6 {
        key = key.next();
    }
    assert_eq!(key, SortKey::Rate, "all have been seen");
}

#[test]
fn numbers_are_short() {
    for (value, text) in
        [(0.0, "0"), (0.4, "0.4"), (12.3, "12"), (999.6, "1.0k"), (3_440.0, "3.4k"), (12e6, "12M")]
    {
        assert_eq!(rate(value), text);
    }
    assert!(rate(f64::INFINITY).chars().count() < 6);
    assert_eq!([size(0.0), size(900.0), size(2048.0)], ["0", "900", "2.0K"]);
    for (ns, text) in [(310.0, "310ns"), (4_200.0, "4.2µs"), (12_000_000.0, "12ms"), (2e9, "2.0s")]
    {
        assert_eq!(time(Some(ns)), text);
    }
    assert_eq!(time(None), "-");
}
