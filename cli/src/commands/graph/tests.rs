use super::model::{Graph, Known, Looked, circles};
use super::{dot, draw};
use rendez::protocol::kernel::{ObjectKind, Received};
use rendez::protocol::waits::{EndpointInfo, Held, Receiving, TaskWaits, Wait};
use rendez::protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId};

fn id(index: u32) -> TaskId {
    TaskId { index, generation: 0 }
}

fn waits(task: u32, on: u32) -> TaskWaits {
    let wait = Wait {
        thread: 70,
        connection: ConnectionId { index: task, generation: 1 },
        server: id(on),
        transaction: Some(7),
        taken: false,
        for_ms: 2_100,
        left_ms: (task != 2).then_some(7_900),
    };
    let receiving = vec![Receiving { thread: 70, handles: None }];
    TaskWaits { task: id(task), receivers: 1, receiving, waits: vec![wait] }
}

/// Two that wait for each other, one behind them that holds something and calls itself something odd.
fn looked() -> Looked {
    let task =
        |index, name: &str| Known { id: id(index), name: name.into(), pid: Some(100 + index) };
    let endpoint = |number, server: Option<u32>| EndpointInfo {
        endpoint: ObjectId(number),
        server: server.map(id),
        generation: 1,
        interface: server.map(|_| "file 1.2".into()),
        connects: 2,
    };
    let capability = Received {
        slot: Slot { index: 1, generation: 0 },
        kind: ObjectKind::Endpoint,
        object: ObjectId(50),
        rights: Rights::SEND | Rights::READ,
        badge: 9,
        bits: 0,
        priority: 0,
    };
    let all = vec![waits(1, 2), waits(2, 1), waits(3, 1)];
    Looked {
        tasks: vec![task(1, "a"), task(2, "b"), task(3, "o\"dd\\\u{1b}")],
        endpoints: vec![endpoint(50, Some(1)), endpoint(51, None)],
        capabilities: vec![
            Held { holder: id(3), capability, task: None },
            Held { holder: id(3), capability, task: None },
            Held { holder: id(3), capability, task: Some(id(3)) },
        ],
        circles: circles(&all),
        waits: all,
    }
}

#[test]
fn a_circle_is_marked_and_who_waits_behind_it_is_not() {
    let graph = Graph::new(&looked(), id(3));
    assert_eq!(graph.circles, [["1.0", "2.0"]]);
    let in_circle: Vec<_> = graph.waits.iter().map(|wait| wait.circle).collect();
    assert_eq!(in_circle, [Some(0), Some(0), None]);
    assert_eq!((graph.tasks[0].receivers, graph.tasks[0].free), (1, 0));
    assert_eq!(graph.capabilities.len(), 1, "alike, and none to oneself");
    assert_eq!(
        (graph.capabilities[0].count, graph.capabilities[0].to.as_deref()),
        (2, Some("1.0"))
    );
}

#[test]
fn the_tree_says_all_of_it() {
    let shown = draw::tree(&Graph::new(&looked(), id(3)));
    let plain = anstream::adapter::strip_str(&shown).to_string();
    let expected = r#"a 1.0, pid 101  no thread of 1 free
├─ serves  endpoint 50: file 1.2, incarnation 1
└─ waits   for b 2.0 for 2.1 s (7.9 s left): transaction 7 of connection 1.1, not taken in circle 0
b 2.0, pid 102  no thread of 1 free
└─ waits   for a 1.0 for 2.1 s (no deadline): transaction 7 of connection 2.1, not taken in circle 0
o"dd\\u{1b} 3.0, pid 103 (this command)  no thread of 1 free
├─ holds   endpoint 50  sr badge 9 ×2  → a 1.0
└─ waits   for a 1.0 for 2.1 s (7.9 s left): transaction 7 of connection 3.1, not taken
endpoints without a server
   endpoint 51, incarnation 1, 2 connects wait
circle 0: a 1.0 → b 2.0 → a 1.0"#;
    assert_eq!(plain, expected);
}

#[test]
fn the_document_is_quoted_and_whole() {
    let document = dot::document(&Graph::new(&looked(), id(3)));
    assert!(document.starts_with("digraph rendez {\n") && document.ends_with("\n}"));
    // Each line but the first and the last is one statement, its quotes in pairs.
    for line in document.lines().skip(1).take_while(|line| *line != "}") {
        assert!(line.starts_with("  ") && line.ends_with(';'), "{line}");
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert!(bare.matches('"').count().is_multiple_of(2), "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert!(
        document.contains(r#""task 3.0" [shape=box, label="o\"dd\\\\u{1b} 3.0", style=bold];"#)
    );
    assert!(document.contains(r#""task 3.0" -> "endpoint 50" [color=gray"#));
    assert_eq!(document.matches("color=red").count(), 4, "two waits, line and label");
}
