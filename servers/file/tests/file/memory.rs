//! What only the file system in memory can be asked: its quotas.

use crate::fake::{ok, refused};
use crate::world::{NEW, World};
use rendez_file::MemoryFileSystem;
use rendez_protocol::file::status;

#[test]
fn bytes_are_bounded_and_come_back() {
    let mut world = World::new(MemoryFileSystem::new(1000, 10), None);
    world.put("a", &[1; 600]);
    let handle = world.open("b", NEW);
    let text = refused(status::NO_SPACE, world.write(handle, 0, &[2; 500]));
    assert!(text.contains('b') && text.contains("full") && text.contains("600 of 1000"), "{text}");
    refused(status::NO_SPACE, world.truncate(handle, 401));
    refused(status::NO_SPACE, world.write(handle, u64::MAX, &[2]));
    refused(status::NO_SPACE, world.truncate(handle, u64::MAX));
    assert_eq!(world.stat("b").size, 0, "nothing of it was written");
    ok(world.truncate(handle, 400));
    ok(world.write(handle, 0, &[2; 400]));

    // A removed file counts until it is closed; a replaced or emptied one does not.
    let removed = world.open("a", NEW);
    ok(world.remove("a"));
    refused(status::NO_SPACE, world.truncate(handle, 401));
    ok(world.close(removed));
    ok(world.truncate(handle, 1000));
    ok(world.truncate(handle, 500));
    world.put("c", &[3; 500]);
    ok(world.rename("c", "b"));
    ok(world.close(handle));
    world.put("d", &[4; 500]);
}

#[test]
fn more_bytes_than_the_machine_has_are_refused() {
    let mut world = World::new(MemoryFileSystem::new(u64::MAX, 10), None);
    let handle = world.open("a", NEW);
    for size in [u64::MAX, i64::MAX as u64, 1 << 62] {
        refused(status::NO_SPACE, world.truncate(handle, size));
    }
    ok(world.write(handle, 0, b"x"));
}

#[test]
fn files_and_directories_are_bounded_and_come_back() {
    let mut world = World::new(MemoryFileSystem::new(1000, 3), None);
    ok(world.make_directory("d"));
    world.put("d/a", b"");
    world.put("b", b"");
    refused(status::NO_SPACE, world.make_directory("e"));
    refused(status::NO_SPACE, world.try_open("c", NEW));
    ok(world.rename("b", "d/b"));
    ok(world.remove("d/a"));
    world.put("c", b"");
    refused(status::NO_SPACE, world.try_open("e", NEW));
}

/// Renames nest directories deeper than any path reaches; nothing may recurse over them.
#[test]
fn a_deep_tree_can_be_made_and_dropped() {
    let mut world = World::new(MemoryFileSystem::new(1000, 100_000), None);
    let chain = vec!["x"; 1000].join("/");
    for _ in 0..20 {
        // What there is goes below another thousand directories.
        let there = world.rename("x", "below");
        for end in (1..chain.len() + 1).step_by(2) {
            ok(world.make_directory(&chain[..end]));
        }
        if there.0.is_ok() {
            ok(world.rename("below", &format!("{chain}/x")));
        }
    }
    assert_eq!(world.names(&chain), ["x"]);
    assert_eq!(world.names(&format!("{chain}/{chain}")), ["x"]);
}
