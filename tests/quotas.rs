//! Quotas between real processes: what one exhausts nobody else misses, what was set aside returns,
//! a refusal says who has how much, and the list of thousands has an end.

mod common;

use common::{Assistant, Role, System, eventually, info, tasks};
use rendez::protocol::TaskId;
use rendez::protocol::kernel::KernelError;
use rendez::protocol::quota::{Allotment, Quota, Use};
use rendez::{Connection, Error, Options, Rights, Slot, Task, Why};
use std::collections::BTreeSet;

/// What each of two neighbours is given for itself.
const PARTS: [(Quota, u64); 6] = [
    (Quota::Tasks, 8),
    (Quota::Capabilities, 600),
    (Quota::Endpoints, 40),
    (Quota::Connections, 12),
    (Quota::Regions, 9),
    (Quota::Bytes, 4 << 20),
];

/// Not a test by itself: what the others start as tasks.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "glutton" => glutton(&role),
        other => panic!("there is no part called {other}"),
    }
}

/// Takes as much of everything as it gets, says how much that was, keeps it, and goes on asking.
fn glutton(role: &Role) {
    let task = role.task();
    let file = task.given_as("file").unwrap().slot;
    let (mut connections, mut embryos, mut regions) = (Vec::new(), Vec::new(), Vec::new());
    let counts = [
        exhaust(|| connect(&task, file).map(|it| connections.push(it))),
        exhaust(|| task.create_task("embryo", Vec::new()).map(|it| embryos.push(it))),
        exhaust(|| task.share_region(4096).map(|it| regions.push(it))),
        exhaust(|| task.create_endpoint().map(drop)),
        exhaust(|| mint(&task, file)),
    ];
    role.say(counts.map(|count| count.to_string()).join(" "));
    loop {
        let _ = task.create_endpoint();
        let _ = mint(&task, file);
        let _ = task.create_task("embryo", Vec::new());
        let _ = connect(&task, file);
    }
}

fn connect(task: &Task, slot: Slot) -> Result<Connection, Error> {
    Connection::open(task, slot, &Options::default())
}

fn mint(task: &Task, slot: Slot) -> Result<(), Error> {
    task.mint(slot, Rights::SEND, None).map(drop)
}

/// Does it until it is refused as over quota; how often it was not.
fn exhaust(mut one: impl FnMut() -> Result<(), Error>) -> u32 {
    for count in 0..100_000 {
        match one() {
            Ok(()) => {}
            Err(Error::Kernel(
                KernelError::Quota { .. } | KernelError::NotCompleted(Why::Quota),
            )) => {
                return count;
            }
            Err(error) => panic!("after {count}: {error}"),
        }
    }
    panic!("without end")
}

/// Starts a glutton with parts of its own of what `parent` has.
fn with_parts(parent: &Task, file: Slot) -> (TaskId, Slot, Assistant) {
    let quotas = PARTS.map(|(quota, amount)| Allotment { quota, amount }).to_vec();
    let given = [("file", file, Rights::SEND | Rights::READ | Rights::MINT)];
    let started = Assistant::start_with(parent, "glutton", &given, &[], quotas);
    (started.id, started.capability.slot, started)
}

fn of(uses: &[Use], quota: Quota) -> Use {
    uses.iter().find(|it| it.quota == quota).cloned().unwrap()
}

#[test]
fn what_one_exhausts_its_neighbour_does_not_miss() {
    let system = System::start();
    let task = system.task();
    let file = task.look_up("/file", None, None).unwrap().0.slot;
    let before = task.quotas_of(task.own().slot, task.id()).unwrap();

    // What a task with such parts can have while it has no neighbour.
    let (_, _, mut alone) = with_parts(&task, file);
    let counts = alone.hear();
    alone.kill();
    let free = |uses: &[Use]| of(uses, Quota::Capabilities).share.unwrap().used;
    eventually("its parts return with its end", || {
        let now = task.quotas_of(task.own().slot, task.id()).unwrap();
        // But for the capability to it, which is dead.
        (free(&now) <= free(&before) + 2).then_some(())
    });

    // And beside one that has exhausted all that it may have, and goes on asking for more.
    let (id, slot, mut glutton) = with_parts(&task, file);
    assert_eq!(glutton.hear(), counts);
    let (_, _, mut neighbour) = with_parts(&task, file);
    assert_eq!(neighbour.hear(), counts, "the neighbour has all that it may have");
    // So has whoever shares nothing with them: the servers go on, and visitors come in.
    for _ in 0..3 {
        let visitor = system.task();
        connect(&visitor, visitor.look_up("/file", None, None).unwrap().0.slot).unwrap();
        visitor.create_endpoint().unwrap();
    }
    assert!(system.rendez(["status"]).status.success());

    // Its parent sees it: nothing is left, and by whom it was taken.
    let uses = task.quotas_of(slot, id).unwrap();
    for (quota, amount) in PARTS {
        let share = of(&uses, quota).share.unwrap();
        assert_eq!((share.limit, share.whose.as_str()), (amount, "glutton (its own part)"));
        assert!(quota == Quota::Bytes || share.used == amount, "{quota:?}: {share:?}");
    }
    let kernel = task.given_as("kernel").unwrap().slot;
    let (own, seen) = (info(&task, id).unwrap(), task.quotas_of(kernel, id).unwrap());
    assert_eq!(own.tightest.unwrap().permille(), 1000);
    assert_eq!(of(&seen, Quota::Capabilities).share, of(&uses, Quota::Capabilities).share);
}

#[test]
fn a_refusal_says_which_quota_how_much_of_it_and_who_has_most() {
    let system = System::start();
    let task = system.task();
    let file = task.look_up("/file", None, None).unwrap().0.slot;
    let (id, _, mut glutton) = with_parts(&task, file);
    glutton.hear();
    // A quarter of what its uid has is the most that one task of it gets.
    let share = of(&task.quotas_of(task.own().slot, task.id()).unwrap(), Quota::Capabilities);
    let asked = Allotment { quota: Quota::Capabilities, amount: share.share.unwrap().limit / 4 };
    let refused = task.create_task_with("greedy", Vec::new(), vec![asked]).unwrap_err();
    let text = refused.to_string();
    let Error::Kernel(KernelError::Quota { what, limit, used, holders }) = refused else {
        panic!("{refused:?}")
    };
    assert!(what.starts_with("capabilities of one task of uid"), "{what}");
    assert_eq!(limit, asked.amount);
    assert!((600..limit).contains(&used), "{used}");
    // The asker learns of itself and of what it has set aside, and of nobody else.
    assert_eq!((holders[0].task, holders[0].amount), (id, 600));
    assert_eq!((holders[1].task, holders.len()), (task.id(), 2));
    assert!(text.contains("glutton") && text.contains(&limit.to_string()), "{text}");
    // A stranger may not look.
    let stranger = system.task();
    let denied = stranger.quotas_of(stranger.own().slot, id);
    assert!(matches!(denied, Err(Error::Kernel(KernelError::Denied(_)))), "{denied:?}");
}

#[test]
fn the_list_of_thousands_comes_to_its_end() {
    let system = System::start();
    let parents: Vec<_> = (0..4).map(|_| system.task()).collect();
    let name = "n".repeat(64);
    let mut embryos = Vec::new();
    for parent in &parents {
        for _ in 0..200 {
            embryos.push(parent.create_task(&name, Vec::new()).unwrap());
        }
    }
    let listed = tasks(&parents[0]);
    let ids: BTreeSet<_> = listed.iter().map(|info| info.id).collect();
    assert_eq!(ids.len(), listed.len(), "nobody is told twice");
    assert!(embryos.iter().all(|(_, id, _)| ids.contains(id)), "nobody is left out");
    assert!(listed.iter().filter(|info| info.name == name).count() == embryos.len());
    let output = system.rendez(["--json", "ps"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rows.as_array().unwrap().len() > embryos.len());
}

#[test]
fn inspect_shows_what_a_task_has() {
    let system = System::start();
    let said = |arguments: &[&str]| {
        let output = system.rendez(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said(&["inspect", "file"]);
    for part in ["QUOTA", "capabilities", "SLOT", "endpoint", "given", "supervisor", "...."] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "plain in a pipe: {text:?}");
    let value: serde_json::Value =
        serde_json::from_str(&said(&["--json", "inspect", "file"])).unwrap();
    assert_eq!(value["name"], "file");
    assert_eq!(value["quotas"].as_array().unwrap().len(), 11);
    assert!(value["capabilities"].as_array().unwrap().iter().any(|one| one["kind"] == "endpoint"));
    assert!(value["capabilities"][0]["from"].is_array(), "{value}");
    let path = said(&["inspect", "/file"]);
    assert!(path.contains("endpoint") && path.contains("SEND"), "{path}");
    assert!(said(&["ps"]).contains("TIGHTEST"));
    assert_eq!(system.rendez(["inspect", "nobody"]).status.code(), Some(4));
    // Of itself, every task may know.
    let little = System::admitting(tempfile::tempdir().unwrap(), None);
    assert!(little.rendez(["inspect"]).status.success());
    assert_eq!(little.rendez(["inspect", "file"]).status.code(), Some(5));
}
