//! What only a real directory can be asked: ways out of it, and files that are none.

use crate::fake::{ok, refused};
use crate::world::{BOTH, NEW, World};
use rendez_file::RealDirectory;
use rendez_protocol::file::{Kind, OpenFlags, status};
use rustix::fs::{CWD, Mode, inotify};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// A world whose surroundings hold a secret.
fn with_secret() -> World<RealDirectory> {
    let world = World::real();
    let outside = world.root().join("..");
    fs::write(outside.join("secret"), "secret").expect("a file");
    fs::create_dir(outside.join("elsewhere")).expect("a directory");
    fs::write(outside.join("elsewhere/secret"), "secret").expect("a file");
    world
}

#[test]
fn links_that_stay_inside_are_followed() {
    let mut world = World::real();
    ok(world.make_directory("d"));
    world.put("d/f", b"content");
    symlink("d/f", world.root().join("link")).expect("a link");
    symlink("../d", world.root().join("d/up-and-down")).expect("a link");
    assert_eq!(world.get("link"), b"content");
    assert_eq!(world.get("d/up-and-down/f"), b"content");
    assert_eq!(world.stat("link").kind, Kind::File);
    assert_eq!(world.list("").iter().find(|e| e.name == "link").map(|e| e.kind), Some(Kind::Link));
    // What changes a directory means the link itself.
    ok(world.rename("link", "moved"));
    ok(world.remove("moved"));
    assert_eq!(world.get("d/f"), b"content");
}

#[test]
fn links_that_lead_out_are_refused() {
    let mut world = with_secret();
    let root = world.root();
    let outside = root.join("..").canonicalize().expect("a path");
    symlink("../secret", root.join("relative")).expect("a link");
    symlink(outside.join("secret"), root.join("absolute")).expect("a link");
    symlink("../elsewhere", root.join("directory")).expect("a link");
    symlink("relative", root.join("indirect")).expect("a link");
    symlink("../not-there", root.join("dangling")).expect("a link");
    symlink("circle", root.join("circle")).expect("a link");
    symlink("/", root.join("top")).expect("a link");
    for path in [
        "relative",
        "absolute",
        "directory/secret",
        "directory/new",
        "indirect",
        "dangling",
        "circle",
        "top/etc/passwd",
    ] {
        let text = refused(status::OUTSIDE, world.try_open(path, OpenFlags::READ));
        assert!(text.contains(path), "{text}");
        refused(status::OUTSIDE, world.try_open(path, NEW));
        refused(status::OUTSIDE, world.try_open(path, NEW | OpenFlags::TRUNCATE));
        refused(status::OUTSIDE, world.try_stat(path));
        refused(status::OUTSIDE, world.try_list(path));
    }
    for path in ["directory/secret", "directory/new", "top/new"] {
        refused(status::OUTSIDE, world.remove(path));
        refused(status::OUTSIDE, world.make_directory(path));
        refused(status::OUTSIDE, world.remove_directory(path));
        refused(status::OUTSIDE, world.rename(path, "here"));
        refused(status::OUTSIDE, world.rename("relative", path));
    }
    assert_eq!(fs::read(outside.join("secret")).expect("untouched"), b"secret");
    assert_eq!(fs::read_dir(outside.join("elsewhere")).expect("untouched").count(), 1);
    assert!(!outside.join("not-there").exists());
    // The links themselves can be renamed and removed.
    ok(world.rename("relative", "gone"));
    ok(world.remove("gone"));
    ok(world.remove("directory"));
    refused(status::NOT_DIRECTORY, world.remove_directory("top"));
}

#[test]
fn a_link_to_create_through_stays_inside() {
    let mut world = World::real();
    symlink("target", world.root().join("link")).expect("a link");
    refused(status::NOT_FOUND, world.try_open("link", BOTH));
    refused(status::EXISTS, world.try_open("link", NEW | OpenFlags::EXCLUSIVE));
    world.put("link", b"content");
    assert_eq!(world.get("target"), b"content");
}

#[test]
fn links_that_proc_makes_up_are_refused() {
    let backend = RealDirectory::open("/proc/self".as_ref()).expect("openat2");
    let mut world = World::new(backend, None);
    for path in ["root/etc/passwd", "cwd/Cargo.toml", "exe", "fd/0"] {
        refused(status::OUTSIDE, world.try_open(path, OpenFlags::READ));
        refused(status::OUTSIDE, world.try_stat(path));
    }
    refused(status::OUTSIDE, world.try_list("root"));
    assert!(!world.get("comm").is_empty());
}

#[test]
fn what_is_no_regular_file_is_seen_and_removed_and_never_opened() {
    let (done, watchdog) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        open_what_is_no_file();
        let _ = done.send(());
    });
    let end = watchdog.recv_timeout(Duration::from_secs(60));
    assert_ne!(end, Err(RecvTimeoutError::Timeout), "an open waits for the peer of a FIFO");
    test.join().expect("no assertion failed");
}

fn open_what_is_no_file() {
    let mut world = World::real();
    rustix::fs::mkfifoat(CWD, world.root().join("fifo"), Mode::from_raw_mode(0o600))
        .expect("a FIFO");
    let socket = std::os::unix::net::UnixListener::bind(world.root().join("socket"));
    // Opening it even for a moment would let somebody through who waits for a peer.
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("inotify");
    inotify::add_watch(&watch, world.root().join("fifo"), inotify::WatchFlags::OPEN)
        .expect("a watch");
    for path in ["fifo", "socket"] {
        assert_eq!(world.stat(path).kind, Kind::Other);
        for flags in [OpenFlags::READ, OpenFlags::WRITE, BOTH, NEW] {
            // Would block, were the FIFO opened as files are.
            let text = refused(status::PERMISSION, world.try_open(path, flags));
            assert!(text.contains("refused"), "{text}");
        }
        let seen = rustix::io::read(&watch, &mut [0; 64]);
        assert_eq!(seen, Err(rustix::io::Errno::AGAIN), "it was opened");
    }
    for path in ["fifo", "socket"] {
        ok(world.remove(path));
    }
    drop(socket);
    let backend = RealDirectory::open("/dev".as_ref()).expect("openat2");
    refused(status::PERMISSION, World::new(backend, None).try_open("null", OpenFlags::READ));
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        // Relaxed: it says nothing about other memory.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody swaps a directory for a link out of the tree, as fast as possible.
#[test]
fn a_race_with_a_rename_does_not_lead_out() {
    let mut world = with_secret();
    let root = world.root();
    fs::create_dir(root.join("d")).expect("a directory");
    fs::write(root.join("d/secret"), "inside").expect("a file");
    symlink("../elsewhere", root.join("link")).expect("a link");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for its threads.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (root.join("d"), root.join("link"));
                if rustix::fs::renameat_with(CWD, a, CWD, b, flags).is_err() {
                    break;
                }
            }
        });
        for _ in 0..2000 {
            let (status, payload) = world.try_open("d/secret", OpenFlags::READ);
            if status.is_ok() {
                let handle = rendez_protocol::decode(&payload).expect("a handle");
                assert_eq!(ok(world.read(handle, 0, 100)), b"inside");
                ok(world.close(handle));
            }
            // Neither may it create or remove anything there.
            let _ = world.make_directory("d/new");
            let _ = world.remove_directory("d/new");
            let _ = world.rename("d/secret", "d/other");
            let _ = world.rename("d/other", "d/secret");
        }
    });
    let elsewhere = root.join("../elsewhere");
    assert_eq!(fs::read(elsewhere.join("secret")).expect("untouched"), b"secret");
    assert_eq!(fs::read_dir(elsewhere).expect("untouched").count(), 1);
}

#[test]
fn names_that_are_no_text_are_listed_and_nothing_more() {
    use std::os::unix::ffi::OsStrExt;
    let mut world = World::real();
    for raw in [b"a\xff".as_slice(), b"a\xfe"] {
        fs::write(world.root().join(std::ffi::OsStr::from_bytes(raw)), "").expect("a file");
    }
    assert_eq!(world.names(""), ["a\u{fffd}", "a\u{fffd}"]);
    refused(status::NOT_FOUND, world.try_open("a\u{fffd}", BOTH));
}
