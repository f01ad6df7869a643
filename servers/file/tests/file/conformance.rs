//! What every file system behind the file server does alike.

use crate::fake::{caller, ok, refused};
use crate::world::{BOTH, NEW, World};
use rendez::service::Service;
use rendez_file::{Backend, limit};
use rendez_protocol::file::{Entry, Kind, List, Listing, Open, OpenFlags, operation, status};
use rendez_protocol::{Rights, Status, decode, encode};

/// Each test of the suite, on each file system.
macro_rules! conformance {
    ($($test:ident)*) => {
        mod on_memory { $(#[test] fn $test() { super::$test(&mut super::World::memory()); })* }
        mod on_a_real_directory { $(#[test] fn $test() { super::$test(&mut super::World::real()); })* }
    };
}

conformance! {
    what_is_written_is_read
    files_grow_with_zeros_and_shrink
    opening
    senseless_flags_are_malformed
    listing
    a_listing_comes_in_pages
    directories
    removing
    renaming
    renaming_replaces
    paths_stay_inside
    handles_belong_to_their_connection
    open_files_are_bounded
    who_may_only_read_changes_nothing
    who_may_only_write_sees_nothing
    a_read_is_cut_to_the_room_of_its_reply
    an_open_file_outlives_its_name
    refusals_name_path_and_reason
}

fn what_is_written_is_read<B: Backend>(world: &mut World<B>) {
    let handle = world.open("a", NEW);
    ok(world.write(handle, 0, b"hello world"));
    ok(world.write(handle, 6, b"there"));
    assert_eq!(ok(world.read(handle, 0, 100)), b"hello there");
    assert_eq!(ok(world.read(handle, 6, 3)), b"the");
    assert_eq!(ok(world.read(handle, 11, 100)), b"");
    assert_eq!(ok(world.read(handle, u64::MAX, u32::MAX)), b"");
    assert_eq!(ok(world.read(handle, i64::MAX as u64 - 1, u32::MAX)), b"");
    ok(world.ask(operation::SYNC, &handle));
    ok(world.close(handle));
    refused(status::BAD_HANDLE, world.close(handle));
    refused(status::BAD_HANDLE, world.read(handle, 0, 1));
    assert_eq!(world.get("a"), b"hello there");
    let stat = world.stat("a");
    assert_eq!((stat.kind, stat.size, stat.mode), (Kind::File, 11, 0o600));
    assert!(stat.modified_ns > 1_500_000_000_000_000_000, "ns since 1970");
}

fn files_grow_with_zeros_and_shrink<B: Backend>(world: &mut World<B>) {
    let handle = world.open("a", NEW);
    ok(world.write(handle, 4, b"x"));
    assert_eq!(ok(world.read(handle, 0, 100)), b"\0\0\0\0x");
    ok(world.write(handle, 100, b""));
    assert_eq!(world.stat("a").size, 5, "writing nothing changes nothing");
    ok(world.truncate(handle, 2));
    ok(world.truncate(handle, 3));
    assert_eq!(ok(world.read(handle, 0, 100)), b"\0\0\0");
    for size in [u64::MAX, i64::MAX as u64 + 1] {
        assert!(!world.truncate(handle, size).0.is_ok());
        assert!(!world.write(handle, size, b"x").0.is_ok());
    }
    assert_eq!(world.stat("a").size, 3);
}

fn opening<B: Backend>(world: &mut World<B>) {
    refused(status::NOT_FOUND, world.try_open("a", BOTH));
    let exclusive = NEW | OpenFlags::EXCLUSIVE;
    world.open("a", exclusive);
    refused(status::EXISTS, world.try_open("a", exclusive));
    world.put("a", b"content");
    world.open("a", NEW);
    assert_eq!(world.get("a"), b"content", "CREATE leaves what is there");
    world.open("a", OpenFlags::WRITE | OpenFlags::TRUNCATE);
    assert_eq!(world.get("a"), b"");
    ok(world.make_directory("d"));
    refused(status::IS_DIRECTORY, world.try_open("d", OpenFlags::READ));
    refused(status::IS_DIRECTORY, world.try_open("", OpenFlags::READ));
    refused(status::IS_DIRECTORY, world.try_open("d", NEW));
    refused(status::EXISTS, world.try_open("d", exclusive));
    refused(status::NOT_FOUND, world.try_open("x/a", NEW));
    refused(status::NOT_DIRECTORY, world.try_open("a/x", NEW));

    let reading = world.open("a", OpenFlags::READ);
    refused(status::NOT_OPEN_FOR, world.write(reading, 0, b"x"));
    refused(status::NOT_OPEN_FOR, world.truncate(reading, 0));
    refused(status::NOT_OPEN_FOR, world.ask(operation::SYNC, &reading));
    let writing = world.open("a", OpenFlags::WRITE);
    refused(status::NOT_OPEN_FOR, world.read(writing, 0, 1));
}

fn senseless_flags_are_malformed<B: Backend>(world: &mut World<B>) {
    for flags in [
        OpenFlags::empty(),
        OpenFlags::CREATE,
        OpenFlags::READ | OpenFlags::TRUNCATE,
        OpenFlags::READ | OpenFlags::EXCLUSIVE,
        OpenFlags::from_bits_retain(0x81),
    ] {
        refused(Status::MALFORMED, world.try_open("a", flags));
    }
    let set_uid = Open { path: "a", flags: NEW, mode: 0o4755 };
    refused(Status::MALFORMED, world.ask(operation::OPEN, &set_uid));
    assert!(world.list("").is_empty());
}

fn listing<B: Backend>(world: &mut World<B>) {
    assert!(world.list("").is_empty());
    world.put("b", b"four");
    world.put("a-b", b"");
    ok(world.make_directory("a"));
    world.put("a/inner", b"");
    let entries = world.list("");
    let seen: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind)).collect();
    assert_eq!(seen, [("a", Kind::Directory), ("a-b", Kind::File), ("b", Kind::File)]);
    assert_eq!(entries[2], Entry { name: "b".into(), kind: Kind::File, size: 4 });
    assert_eq!(world.names("a"), ["inner"]);
    assert_eq!(world.stat("").kind, Kind::Directory);
    refused(status::NOT_DIRECTORY, world.try_list("b"));
    refused(status::NOT_FOUND, world.try_list("c"));
}

fn a_listing_comes_in_pages<B: Backend>(world: &mut World<B>) {
    let count = limit::LIST_ENTRIES + 100;
    let names: Vec<_> = (0..count).map(|i| format!("{i:05}")).collect();
    for name in &names {
        world.put(name, b"");
    }
    for room in [100, 1 << 20] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let payload = encode(&List { path: "", after: &after });
            let listing: Listing =
                decode(&ok(world.raw(operation::LIST, &payload, room))).expect("Listing");
            seen.extend(listing.entries.into_iter().map(|entry| entry.name));
            if !listing.more {
                break;
            }
            after.clone_from(seen.last().expect("a page is not empty"));
        }
        assert_eq!(seen, names);
    }
}

fn directories<B: Backend>(world: &mut World<B>) {
    ok(world.make_directory("d"));
    ok(world.make_directory("d/e"));
    refused(status::EXISTS, world.make_directory("d"));
    refused(status::NOT_FOUND, world.make_directory("x/y"));
    world.put("f", b"");
    refused(status::EXISTS, world.make_directory("f"));
    refused(status::NOT_DIRECTORY, world.make_directory("f/x"));
    refused(status::NOT_EMPTY, world.remove_directory("d"));
    refused(status::NOT_DIRECTORY, world.remove_directory("f"));
    refused(status::NOT_FOUND, world.remove_directory("x"));
    ok(world.remove_directory("d/e"));
    ok(world.remove_directory("d"));
    assert_eq!(world.names(""), ["f"]);
}

fn removing<B: Backend>(world: &mut World<B>) {
    world.put("f", b"");
    ok(world.make_directory("d"));
    refused(status::IS_DIRECTORY, world.remove("d"));
    refused(status::NOT_FOUND, world.remove("x"));
    refused(status::NOT_DIRECTORY, world.remove("f/x"));
    ok(world.remove("f"));
    refused(status::NOT_FOUND, world.remove("f"));
    assert_eq!(world.names(""), ["d"]);
}

fn renaming<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    ok(world.make_directory("d"));
    ok(world.rename("a", "d/b"));
    assert_eq!(world.names(""), ["d"]);
    assert_eq!(world.get("d/b"), b"content");
    ok(world.rename("d", "e"));
    assert_eq!(world.get("e/b"), b"content");
    ok(world.rename("e/b", "e/b"));
    assert_eq!(world.get("e/b"), b"content");
    refused(status::NOT_FOUND, world.rename("a", "c"));
    refused(status::NOT_FOUND, world.rename("e/b", "x/b"));
    refused(status::NOT_DIRECTORY, world.rename("e/b", "e/b/c"));
    refused(status::IO, world.rename("e", "e/f"));
    for (from, to) in [("", "x"), ("e", ""), ("e", "..")] {
        refused(status::OUTSIDE, world.rename(from, to));
    }
    assert_eq!(world.get("e/b"), b"content");
}

fn renaming_replaces<B: Backend>(world: &mut World<B>) {
    world.put("a", b"new");
    world.put("b", b"old");
    let old = world.open("b", OpenFlags::READ);
    ok(world.rename("a", "b"));
    assert_eq!(world.names(""), ["b"]);
    assert_eq!(world.get("b"), b"new");
    assert_eq!(ok(world.read(old, 0, 10)), b"old", "who had it open keeps it");
    ok(world.make_directory("d"));
    ok(world.make_directory("e"));
    refused(status::IS_DIRECTORY, world.rename("b", "d"));
    refused(status::NOT_DIRECTORY, world.rename("d", "b"));
    ok(world.rename("d", "e"));
    ok(world.make_directory("d"));
    world.put("e/x", b"");
    refused(status::NOT_EMPTY, world.rename("d", "e"));
    assert_eq!(world.names(""), ["b", "d", "e"]);
}

fn paths_stay_inside<B: Backend>(world: &mut World<B>) {
    ok(world.make_directory("d"));
    world.put("d/f", b"content");
    let long = "x".repeat(256);
    let longer = "x/".repeat(2100);
    for path in ["/", "/etc/passwd", "..", "../x", "d/../../x", "d/..", "d/f\0", &long, &longer] {
        refused(status::OUTSIDE, world.try_open(path, OpenFlags::READ));
        refused(status::OUTSIDE, world.try_open(path, NEW));
        refused(status::OUTSIDE, world.try_stat(path));
        refused(status::OUTSIDE, world.try_list(path));
        refused(status::OUTSIDE, world.make_directory(path));
        refused(status::OUTSIDE, world.remove_directory(path));
        refused(status::OUTSIDE, world.remove(path));
        refused(status::OUTSIDE, world.rename(path, "x"));
        refused(status::OUTSIDE, world.rename("d/f", path));
    }
    for root in ["", ".", "./"] {
        refused(status::OUTSIDE, world.make_directory(root));
        refused(status::OUTSIDE, world.remove_directory(root));
        refused(status::OUTSIDE, world.remove(root));
        assert_eq!(world.names(root), ["d"]);
    }
    assert_eq!(world.get("./d//f"), b"content");
}

fn handles_belong_to_their_connection<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    let handle = world.open("a", BOTH);
    let mine = world.client.clone();
    let other = caller(1, 2, Rights::READ | Rights::WRITE);
    world.connect(&other);
    world.client = other;
    refused(status::BAD_HANDLE, world.read(handle, 0, 1));
    refused(status::BAD_HANDLE, world.write(handle, 0, b"x"));
    refused(status::BAD_HANDLE, world.truncate(handle, 0));
    refused(status::BAD_HANDLE, world.close(handle));
    world.server.disconnected(&mut world.fake, &mine);
    // Somebody whose connection has ended has no handles, and gets none.
    world.client = mine.clone();
    refused(status::BAD_HANDLE, world.read(handle, 0, 1));
    refused(Status::DENIED, world.try_open("a", BOTH));
    world.connect(&mine);
    refused(status::BAD_HANDLE, world.read(handle, 0, 1));
}

fn open_files_are_bounded<B: Backend>(world: &mut World<B>) {
    world.put("a", b"");
    let handles: Vec<_> =
        (0..limit::OPEN_FILES_PER_CONNECTION).map(|_| world.open("a", BOTH)).collect();
    let text = refused(Status::QUOTA, world.try_open("a", BOTH));
    assert!(text.contains("256"), "{text}");
    ok(world.close(handles[7]));
    world.open("a", BOTH);
    refused(Status::QUOTA, world.try_open("a", BOTH));
    let client = world.client.clone();
    world.server.disconnected(&mut world.fake, &client);
    world.connect(&client);
    world.open("a", BOTH);
}

fn who_may_only_read_changes_nothing<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    ok(world.make_directory("d"));
    let reader = caller(2, 2, Rights::READ);
    world.connect(&reader);
    world.client = reader;
    let answers = [
        world.try_open("a", BOTH),
        world.try_open("a", OpenFlags::WRITE),
        world.try_open("new", OpenFlags::READ | OpenFlags::CREATE),
        world.make_directory("new"),
        world.remove_directory("d"),
        world.remove("a"),
        world.rename("a", "b"),
    ];
    for answer in answers {
        let text = refused(Status::DENIED, answer);
        assert!(text.contains("refused") && text.contains("WRITE"), "{text}");
    }
    let handle = world.open("a", OpenFlags::READ);
    refused(status::NOT_OPEN_FOR, world.write(handle, 0, b"x"));
    assert_eq!(world.names(""), ["a", "d"]);
    assert_eq!(world.get("a"), b"content");
}

fn who_may_only_write_sees_nothing<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    let writer = caller(2, 2, Rights::WRITE);
    world.connect(&writer);
    world.client = writer;
    for answer in [world.try_open("a", BOTH), world.try_stat("a"), world.try_list("")] {
        let text = refused(Status::DENIED, answer);
        assert!(text.contains("refused") && text.contains("READ"), "{text}");
    }
    let handle = world.open("a", OpenFlags::WRITE);
    ok(world.write(handle, 0, b"C"));
    refused(status::NOT_OPEN_FOR, world.read(handle, 0, 1));
}

fn a_read_is_cut_to_the_room_of_its_reply<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    let handle = world.open("a", OpenFlags::READ);
    let request = encode(&rendez_protocol::file::Read { handle, offset: 0, length: u32::MAX });
    for room in [0, 1, 3, 100] {
        let bytes = ok(world.raw(operation::READ, &request, room));
        assert_eq!(bytes, b"content"[..room.min(7)]);
    }
}

fn an_open_file_outlives_its_name<B: Backend>(world: &mut World<B>) {
    world.put("a", b"content");
    let handle = world.open("a", BOTH);
    ok(world.remove("a"));
    assert!(world.list("").is_empty());
    ok(world.write(handle, 0, b"C"));
    world.put("a", b"other");
    assert_eq!(ok(world.read(handle, 0, 10)), b"Content");
    ok(world.close(handle));
    assert_eq!(world.get("a"), b"other");
}

fn refusals_name_path_and_reason<B: Backend>(world: &mut World<B>) {
    let text = refused(status::NOT_FOUND, world.try_stat("some/thing"));
    assert_eq!(text, r#""some/thing": there is no such file or directory"#);
    let text = refused(status::NOT_FOUND, world.rename("one", "two"));
    assert!(text.contains("one") && text.contains("two"), "{text}");
    let text = refused(status::OUTSIDE, world.try_open("../x", BOTH));
    assert!(text.contains("../x"), "{text}");
    refused(Status::UNIMPLEMENTED, world.ask(999, &()));
}
