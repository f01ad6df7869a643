//! What tasks count of themselves, and what `rendez top` makes of it.

mod common;

use common::raw::{RawTask, knock};
use common::{Assistant, Role, System, eventually, names, rendez};
use rendez::protocol::kernel::{Answer, Hello, KernelError, Request};
use rendez::protocol::{Rights, encode, name};
use rendez::service::{Context, Message, Reply, ReplyRight, Service};
use rendez::{Connection, NEVER, Options, Server, Task, Wait};
use rendez_ipc_core::counters::{PageFile, Side, total};
use serde_json::Value;
use std::os::fd::AsFd;

/// The test program as a task of a test; see [`Assistant`].
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let mut server = Server::new(&task).unwrap();
    server.set_wait(Wait::Block);
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    role.say("serving");
    match role.name.as_str() {
        "echo" => server.run(&mut Echo).unwrap(),
        "mute" => server.run(&mut Mute(Vec::new())).unwrap(),
        other => panic!("no such part: {other}"),
    }
}

/// Answers with what it was sent.
struct Echo;

impl Service for Echo {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        reply.ok(message.payload);
    }
}

/// Never answers.
struct Mute(Vec<ReplyRight>);

impl Service for Mute {
    fn receive(&mut self, _: &mut dyn Context, _: Message<'_>, reply: Reply<'_>) {
        self.0.push(reply.keep());
    }
}

/// A server in a process of its own, and a connection to it.
fn server(task: &Task, part: &str, wait: Wait) -> (Assistant, Connection) {
    let endpoint = task.create_endpoint().unwrap();
    let mut server =
        Assistant::start(task, part, &[("serve", endpoint.slot, Rights::RECEIVE)], &[]);
    assert_eq!(server.hear(), "serving");
    let options = Options { wait, ..Options::default() };
    let connection = Connection::open(task, endpoint.slot, &options).unwrap();
    (server, connection)
}

/// What `rendez top` says in JSON.
fn top(system: &System) -> Value {
    let output = system.rendez(["--json", "top", "--interval", "50", "--iterations", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// The row of a connection.
fn row<'a>(report: &'a Value, connection: &Connection) -> Option<&'a Value> {
    let id = connection.id();
    let wanted = format!("{}.{}", id.index, id.generation);
    report["connections"].as_array().unwrap().iter().find(|row| row["connection"] == wanted)
}

fn page(task: &Task, of: rendez::protocol::TaskId) -> PageFile {
    task.page_of(task.given_as("kernel").unwrap().slot, of).unwrap()
}

#[test]
fn so_many_sends_are_so_many_in_top() {
    const SENDS: u64 = 1234;
    let system = System::start();
    let task = system.task();
    for wait in [Wait::Adaptive, Wait::Block] {
        let (echo, mut connection) = server(&task, "echo", wait);
        for _ in 0..SENDS {
            let reply = connection.send_until(1, b"12345678", 64, NEVER).unwrap();
            assert_eq!(reply.payload, b"12345678");
        }
        let report = top(&system);
        let row = row(&report, &connection).expect("the connection is there");
        assert_eq!(row["confirmed"], true);
        assert_eq!(row["server"]["name"], "echo");
        for end in ["client_end", "server_end"] {
            let end = &row[end];
            assert_eq!(end["requests"], SENDS, "{row:#}");
            assert_eq!(end["replies"], SENDS, "{row:#}");
            assert_eq!(end["request_bytes"], SENDS * 8);
            assert_eq!(end["reply_bytes"], SENDS * 8);
            assert_eq!(end["late"], 0);
            let samples = end["times_ns_ever"]["samples"].as_u64().unwrap();
            assert!((1..=SENDS).contains(&samples), "{samples}");
            assert!(end["times_ns_ever"]["p50"].as_f64().unwrap() > 0.0);
        }
        assert_eq!(row["transactions_per_s"], 0.0, "nothing while it looked");
        // A round trip has its service in it.
        let p99 = |end: &str| row[end]["times_ns_ever"]["p99"].as_f64().unwrap();
        assert!(p99("client_end") > 0.0 && p99("server_end") > 0.0);
        if wait == Wait::Block {
            let client = &row["client_end"];
            assert!(client["sleeps"].as_u64().unwrap() > 0, "{client:#}");
            assert!(row["server_end"]["rings"].as_u64().unwrap() > 0);
            let tasks = report["tasks"].as_array().unwrap();
            let of = format!("{}.{}", echo.id.index, echo.id.generation);
            let server = tasks.iter().find(|task| task["task"] == of).unwrap();
            assert!(server["threads"][0]["sleeps"].as_u64().unwrap() > 0, "{server:#}");
            assert_eq!(server["threads"][0]["connections"], 1);
        }
    }
}

#[test]
fn looking_disturbs_nobody() {
    let system = System::start();
    let task = system.task();
    let (echo, mut connection) = server(&task, "echo", Wait::Block);
    connection.send(1, b"x", 8).unwrap();
    let pages = [page(&task, task.id()), page(&task, echo.id)];
    let look = || -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        for page in &pages {
            let head = page.head().unwrap();
            page.connections(head.records, |end| all.push((end.requests, end.sleeps, end.rings)))
                .unwrap();
        }
        all
    };
    // Both are asleep by and by; from then on nothing moves, however often it is looked at.
    let quiet = eventually("quiet", || {
        let before = look();
        std::thread::sleep(std::time::Duration::from_millis(50));
        (look() == before).then_some(before)
    });
    for _ in 0..1000 {
        assert_eq!(look(), quiet);
    }
    let report = top(&system);
    assert_eq!(row(&report, &connection).unwrap()["transactions_per_s"], 0.0);
    assert_eq!(look(), quiet);
    connection.send(1, b"x", 8).unwrap();
    assert_ne!(look(), quiet);
}

#[test]
fn who_waits_for_whom_is_shown() {
    let system = System::start();
    let task = system.task();
    let (mut mute, mut connection) = server(&task, "mute", Wait::Block);
    let id = connection.id();
    let waiter = std::thread::spawn(move || connection.send_until(1, b"", 8, NEVER).is_err());
    let own = format!("{}.{}", task.id().index, task.id().generation);
    let wait = eventually("the wait is published", || {
        let report = top(&system);
        let tasks = report["tasks"].as_array().unwrap();
        let waits = tasks.iter().find(|row| row["task"] == own)?["waits"].as_array().unwrap();
        waits.first().cloned()
    });
    assert_eq!(wait["name"], "mute");
    assert_eq!(wait["on"], format!("{}.{}", mute.id.index, mute.id.generation));
    assert_eq!(wait["connection"], format!("{}.{}", id.index, id.generation));
    let said = String::from_utf8(system.rendez(["top", "--interval", "50"]).stdout).unwrap();
    assert!(said.contains("mute ") && said.contains("WAITS FOR"), "{said}");
    mute.kill();
    assert!(waiter.join().unwrap(), "the server's death ends the wait");
}

#[test]
fn an_ended_connection_leaves_no_row() {
    let system = System::start();
    let task = system.task();
    let (_echo, mut connection) = server(&task, "echo", Wait::Adaptive);
    connection.send(1, b"x", 8).unwrap();
    let own = page(&task, task.id());
    let records = || {
        let mut sides = Vec::new();
        own.connections(own.head().unwrap().records, |end| sides.push(end.whose.side)).unwrap();
        sides
    };
    assert_eq!(records(), [Side::Client]);
    assert!(row(&top(&system), &connection).is_some());
    drop(connection);
    assert!(records().is_empty());
    eventually("the server has heard of it", || {
        top(&system)["connections"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["server"]["name"] != "echo")
            .then_some(())
    });
}

#[test]
fn only_who_may_inspect_the_kernel_reads_pages_and_nobody_writes_them() {
    let system = System::start();
    let task = system.task();
    let kernel = task.given_as("kernel").unwrap();
    let weak = task.mint(kernel.slot, Rights::MINT, None);
    if let Ok(weak) = weak {
        assert!(task.page_of(weak.slot, task.id()).is_err());
    }
    let name = task.given_as("name").unwrap().slot;
    assert!(task.page_of(name, task.id()).is_err(), "no capability to the kernel");
    let mut raw = RawTask::greet(knock(&system.place().socket()), Hello::OURS).unwrap();
    let slot = raw.given("kernel").slot;
    let (answer, descriptors) = raw.ask(&Request::Page { slot, task: task.id() });
    assert_eq!(answer, Answer::Page);
    let page = descriptors[0].as_fd();
    assert!(rustix::io::pwrite(page, b"x", 0).is_err());
    assert!(rustix::fs::ftruncate(page, 0).is_err());
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&page));
    let again = std::fs::OpenOptions::new().write(true).open(path);
    assert!(again.is_err() || std::io::Write::write(&mut again.unwrap(), b"x").is_err());
    let nobody = rendez::protocol::TaskId { index: 4000, generation: 9 };
    let (answer, _) = raw.ask(&Request::Page { slot, task: nobody });
    assert!(matches!(answer, Answer::Error(KernelError::Order(_))), "{answer:?}");
}

/// A page of rubbish, sealed as an honest one is.
#[test]
fn a_page_of_rubbish_misleads_about_its_writer_alone() {
    let system = System::start();
    let task = system.task();
    let mut names = names(&task, "name");
    let honest = encode(&name::List { path: "/", after: "" });
    names.send_until(name::operation::LIST, &honest, 600, NEVER).unwrap();
    let liars: Vec<_> = [0x00, 0x01, 0x5a, 0xff]
        .into_iter()
        .map(|byte| {
            RawTask::greet_with(knock(&system.place().socket()), Hello::OURS, |page| {
                let rubbish: Vec<u8> = (0..rendez_ipc_core::status::PAGE_BYTES)
                    .map(|place| if byte == 0x5a { ((place * 31) >> 3) as u8 } else { byte })
                    .collect();
                let mut done = 0;
                while done < rubbish.len() {
                    done += rustix::io::pwrite(page, &rubbish[done..], done as u64).unwrap();
                }
            })
            .unwrap()
        })
        .collect();
    let report = top(&system);
    let row = row(&report, &names).expect("the honest connection is there");
    assert_eq!(row["confirmed"], true);
    assert_eq!(
        (&row["client_end"]["requests"], &row["server_end"]["requests"]),
        (&1.into(), &1.into())
    );
    let liars: Vec<_> =
        liars.iter().map(|task| format!("{}.{}", task.id.index, task.id.generation)).collect();
    let mut lies = 0;
    for row in report["connections"].as_array().unwrap() {
        if row["confirmed"] == false {
            lies += 1;
            let by = |party: &str| liars.iter().any(|liar| row[party]["task"] == **liar);
            assert!(by("client") || by("server"), "{row:#}");
        }
    }
    assert!(lies <= liars.len() * 64, "no more than may be new: {lies}");
    let output = system.rendez(["top", "--interval", "50"]);
    assert!(output.status.success());
    assert!(system.rendez(["ps"]).status.success());
}

#[test]
fn what_is_not_counted_is_not_shown() {
    let system = System::start();
    let task = system.task();
    task.set_counting(false);
    let (_echo, mut connection) = server(&task, "echo", Wait::Adaptive);
    connection.send(1, b"x", 8).unwrap();
    let report = top(&system);
    let row = row(&report, &connection).expect("the server counts");
    assert_eq!(row["confirmed"], false);
    assert_eq!((&row["client_end"], &row["server_end"]["requests"]), (&Value::Null, &1.into()));
}

#[test]
fn times_are_sampled_and_add_up() {
    let system = System::start();
    let task = system.task();
    let (echo, mut connection) = server(&task, "echo", Wait::Spin);
    for _ in 0..10_000 {
        connection.send(1, b"x", 8).unwrap();
    }
    let page = page(&task, echo.id);
    let mut samples = 0;
    page.connections(page.head().unwrap().records, |end| samples = total(&end.histogram)).unwrap();
    assert!((10_000 / 96..=10_000).contains(&samples), "{samples}");
}

#[test]
fn without_a_system_top_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let output = rendez(directory.path()).args(["top"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no system is running"));
    let output = rendez(directory.path()).args(["top", "--interval", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "too short");
}
