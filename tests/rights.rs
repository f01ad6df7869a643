//! What capabilities do not allow is refused, in a system of real processes, by whoever has to.

mod common;

use common::{Assistant, Role, System, eventually, look_up_over, names, pid_of, refusal};
use rendez::protocol::file::{self, OpenFlags};
use rendez::protocol::kernel::{Give, KernelError, Limits, Offer, Travel};
use rendez::protocol::{Rights, Slot, decode, encode, name, supervisor};
use rendez::{Connection, Error, Options, Revoked, SendError, Server, Status, Task, Why};
use rustix::process::Signal;
use std::fmt::Debug;

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    match role.name.as_str() {
        "confined" => {
            let given: Vec<_> = task.given().iter().map(|given| given.name.clone()).collect();
            role.say(given.join(","));
            let named = task.look_up("/file", None, None).is_ok();
            let listed = task.given_as("kernel").is_ok();
            role.say(format_args!("names {named}, kernel {listed}"));
            // Places for capabilities can be guessed; capabilities cannot.
            let own = task.own().slot;
            let guessed = (0..2000).any(|index| {
                (0..3).map(|generation| Slot { index, generation }).any(|slot| {
                    let known = task.given().iter().any(|given| given.capability.slot == slot);
                    !known && slot != own && task.inspect(slot).is_ok()
                })
            });
            role.say(format_args!("guessed {guessed}"));
        }
        other => panic!("no part is called {other}"),
    }
}

#[track_caller]
fn kernel_error<T: Debug>(result: Result<T, Error>) -> KernelError {
    match result {
        Err(Error::Kernel(error)) => error,
        other => panic!("not refused by the kernel: {other:?}"),
    }
}

#[track_caller]
fn missing<T: Debug>(result: Result<T, Error>) -> Rights {
    match kernel_error(result) {
        KernelError::MissingRights { missing, .. } => missing,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn stale<T: Debug>(result: Result<T, Error>) {
    assert!(matches!(kernel_error(result), KernelError::BadSlot(_)));
}

fn connect(task: &Task, slot: Slot) -> Result<Connection, Error> {
    Connection::open(task, slot, &Options::default())
}

fn open(files: &mut Connection, path: &str, flags: OpenFlags) -> Result<u32, Error> {
    let request = encode(&file::Open { path, flags, mode: 0o600 });
    Ok(decode(files.send(file::operation::OPEN, &request, 256)?.ok()?)?)
}

#[test]
fn who_may_only_read_writes_nothing() {
    let system = System::start();
    let task = system.task();
    let wanted = Rights::SEND | Rights::READ;
    let (narrow, _, _) = task.look_up("/file", Some(wanted), None).unwrap();
    assert_eq!(narrow.rights, wanted);
    let (wide, _, _) = task.look_up("/file", None, None).unwrap();
    let mut writer = connect(&task, wide.slot).unwrap();
    let new = OpenFlags::WRITE | OpenFlags::CREATE;
    open(&mut writer, "file", new).unwrap();

    let mut reader = connect(&task, narrow.slot).unwrap();
    open(&mut reader, "file", OpenFlags::READ).unwrap();
    for flags in [OpenFlags::WRITE, new, OpenFlags::READ | OpenFlags::WRITE] {
        let (status, text) = refusal(open(&mut reader, "file", flags));
        assert_eq!(status, Status::DENIED);
        assert!(text.contains("WRITE"), "it says which right is missing: {text}");
    }
    for operation in [
        file::operation::MAKE_DIRECTORY,
        file::operation::REMOVE_DIRECTORY,
        file::operation::REMOVE,
    ] {
        let refused = reader.send(operation, &encode(&"file"), 256).unwrap();
        assert_eq!(refused.status, Status::DENIED);
    }
    // The same of one that was minted here.
    let minted = task.mint(wide.slot, Rights::SEND | Rights::WRITE, None).unwrap();
    let mut blind = connect(&task, minted.slot).unwrap();
    assert_eq!(refusal(open(&mut blind, "file", OpenFlags::READ)).0, Status::DENIED);
    let list = encode(&file::List { path: "", after: "" });
    let refused = blind.send(file::operation::LIST, &list, 256).unwrap();
    assert_eq!(refused.status, Status::DENIED);
}

#[test]
fn registering_needs_register() {
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let mut connection = names(&task, "name");
    let offer = Offer {
        slot: endpoint.slot,
        rights: Rights::SEND | Rights::MINT | Rights::GRANT,
        badge: None,
        limits: Limits::SAME,
        travel: Travel::Mint,
    };
    let ticket = connection.offer(&[offer]).unwrap();
    let request = encode(&name::Register { path: "/mine", ticket });
    let refused = connection.send(name::operation::REGISTER, &request, 256).unwrap().ok();
    let (status, text) = refusal(refused.map(<[u8]>::to_vec));
    assert_eq!(status, Status::DENIED);
    assert!(text.contains("REGISTER"), "{text}");
    // Nor can a look-up bring a right that the asker does not have himself.
    let rights = Some(Rights::SEND | Rights::REGISTER);
    assert_eq!(refusal(look_up_over(&mut connection, "/signal", rights)).0, Status::DENIED);
    let rights = Some(Rights::SEND | Rights::RECEIVE);
    assert_eq!(refusal(look_up_over(&mut connection, "/file", rights)).0, Status::DENIED);
}

#[test]
fn managing_needs_manage() {
    let system = System::start();
    let task = system.task();
    let (found, _, _) = task.look_up("/supervisor", None, None).unwrap();
    let mut connection = connect(&task, found.slot).unwrap();
    let file = pid_of(&task, "file");
    for (operation, payload) in
        [(supervisor::operation::RESTART, encode(&"file")), (supervisor::operation::STOP, vec![])]
    {
        let refused = connection.send(operation, &payload, 256).unwrap();
        assert_eq!(refused.status, Status::DENIED);
    }
    assert_eq!(pid_of(&task, "file"), file);
}

#[test]
fn the_kernel_holds_everybody_to_his_rights() {
    let system = System::start();
    let task = system.task();
    let (file, _, _) = task.look_up("/file", None, None).unwrap();

    let deaf = task.mint(file.slot, Rights::READ | Rights::MINT, None).unwrap();
    assert_eq!(missing(connect(&task, deaf.slot)), Rights::SEND);
    let more = Rights::READ | Rights::SEND;
    assert_eq!(missing(task.mint(deaf.slot, more, None)), Rights::SEND);
    let barren = task.mint(file.slot, Rights::SEND, None).unwrap();
    assert_eq!(missing(task.mint(barren.slot, Rights::SEND, None)), Rights::MINT);
    assert_eq!(missing(task.watch(barren.slot)), Rights::WATCH);
    let server = Server::new(&task).unwrap();
    assert_eq!(missing(server.serve(file.slot, None)), Rights::RECEIVE);

    let badged = task.mint(file.slot, file.rights, Some(7)).unwrap();
    assert_eq!(badged.badge, 7);
    let again = task.mint(badged.slot, Rights::SEND, Some(8));
    assert!(matches!(kernel_error(again), KernelError::Badged { badge: 7, .. }));

    // An endpoint is no task, nor the other way round.
    let wrong = |result| matches!(kernel_error::<()>(result), KernelError::WrongObject { .. });
    assert!(wrong(task.kill(file.slot, Signal::TERM.as_raw())));
    assert!(wrong(connect(&task, task.own().slot).map(drop)));
    // Front doors lead nobody to the kernel's own powers.
    let kernel = task.given_as("kernel").unwrap();
    assert_eq!(missing(task.set_front_door(kernel.slot, vec![])), Rights::GRANT);
    assert_eq!(missing(task.kill(kernel.slot, Signal::KILL.as_raw())), Rights::KILL);

    // What it may not pass on, it cannot give a child either.
    let give = Give {
        name: "x".into(),
        slot: barren.slot,
        rights: Rights::SEND,
        badge: None,
        limits: Limits::SAME,
    };
    assert!(task.create_task("child", vec![give]).is_err());
    // Serving what somebody serves is refused, with RECEIVE too.
    let other = system.task();
    let endpoint = task.create_endpoint().unwrap();
    server.serve(endpoint.slot, None).unwrap();
    let his = Server::new(&other).unwrap();
    stale(his.serve(endpoint.slot, None));
}

#[test]
fn a_slot_that_is_left_is_stale_for_ever() {
    let system = System::start();
    let task = system.task();
    let (file, _, _) = task.look_up("/file", None, None).unwrap();

    let deleted = task.mint(file.slot, file.rights, None).unwrap().slot;
    task.delete(deleted).unwrap();
    stale(connect(&task, deleted));
    stale(task.delete(deleted));
    let before = task.mint(file.slot, file.rights, None).unwrap().slot;
    assert_ne!(before, deleted, "a place that is used again is another slot");
    let moved = task.move_capability(before).unwrap().slot;
    stale(task.inspect(before));
    connect(&task, moved).unwrap();
    stale(task.mint(Slot { generation: moved.generation + 1, ..moved }, Rights::SEND, None));
    stale(task.inspect(Slot { index: u32::MAX, generation: u32::MAX }));
}

#[test]
fn what_is_revoked_is_of_no_more_use_to_anybody() {
    let system = System::start();
    let task = system.task();
    let (file, _, _) = task.look_up("/file", None, None).unwrap();
    let parent = task.mint(file.slot, file.rights, None).unwrap().slot;
    let child = task.mint(parent, file.rights, None).unwrap().slot;
    let grandchild = task.mint(child, file.rights, None).unwrap().slot;
    let mut kept = connect(&task, parent).unwrap();
    let mut severed = connect(&task, grandchild).unwrap();
    let list = encode(&file::List { path: "", after: "" });
    severed.send(file::operation::LIST, &list, 256).unwrap();

    let wanted = Revoked { capabilities: 2, connections: 1, unacknowledged: vec![] };
    assert_eq!(task.revoke(parent).unwrap(), wanted);
    stale(connect(&task, child));
    stale(task.inspect(grandchild));
    let error = severed.send(file::operation::LIST, &list, 256).unwrap_err();
    assert_eq!(error, SendError::NotDelivered { why: Why::Revoked });
    kept.send(file::operation::LIST, &list, 256).unwrap().ok().unwrap();
    task.inspect(parent).unwrap();
}

#[test]
fn a_ticket_works_once_and_for_its_receiver_alone() {
    let system = System::start();
    let task = system.task();
    let (thief, other) = (system.task(), system.task());
    let mut connection = names(&task, "name");
    let request = encode(&name::LookUp { path: "/file", rights: None, wait: false });
    let mut found = || {
        let reply = connection.send(name::operation::LOOK_UP, &request, 256).unwrap();
        decode::<name::Found<'_>>(reply.ok().unwrap()).unwrap().ticket
    };
    let (one, two) = (found(), found());
    // Of another task, over a connection of its own; of the same task, over another connection.
    let bad = |result| matches!(kernel_error(result), KernelError::BadTicket);
    assert!(bad(names(&thief, "name").accept(one)));
    let refused = thief.accept(connection.id(), one);
    assert!(matches!(kernel_error(refused), KernelError::BadConnection(_)));
    assert!(bad(names(&task, "name").accept(one)));
    assert_eq!(connection.accept(one).unwrap().len(), 1);
    assert!(bad(connection.accept(one)));
    // Its connection ends, and so does the ticket.
    let id = connection.id();
    drop(connection);
    assert!(task.accept(id, two).is_err());
    drop(other);
}

#[test]
fn a_task_has_what_it_was_given_and_nothing_else() {
    let system = System::start();
    let task = system.task();
    let (file, _, _) = task.look_up("/file", None, None).unwrap();
    let given = [("files", file.slot, Rights::SEND | Rights::READ)];
    let mut confined = Assistant::start(&task, "confined", &given, &[]);
    assert_eq!(confined.hear(), "files");
    assert_eq!(confined.hear(), "names false, kernel false");
    assert_eq!(confined.hear(), "guessed false");
    assert!(confined.child.wait().unwrap().success());
    eventually("the kernel sees its end", || {
        common::info(&task, confined.id).is_none().then_some(())
    });
}
