//! Rubbish for every operation: it is answered, nothing panics, nothing is left behind.

use crate::fake::{Random, message};
use crate::world::{NEW, World};
use rendez::service::{Service, call};
use rendez_file::Backend;
use rendez_protocol::file::{Open, OpenFlags, Read, Rename, Truncate, Write, operation};
use rendez_protocol::{Status, encode};

fn rubbish<B: Backend>(world: &mut World<B>, seed: u64) {
    let mut random = Random(seed);
    let handle = world.open("a", NEW);
    let paths = ["a", "b", "a/b", "", ".", "..", "/", "b/c", "b/../a"];
    let numbers = [0, 1, 7, 1 << 16, u64::MAX, i64::MAX as u64];
    for _ in 0..10_000 {
        let operation = random.below(14) as u16;
        let path = paths[random.below(paths.len())];
        let handle = if random.below(2) == 0 { handle } else { random.below(1 << 18) as u32 };
        let number = numbers[random.below(numbers.len())];
        // Half of it well-formed, so that it gets beyond the decoder; sometimes cut or longer.
        let mut payload = match operation {
            _ if random.below(2) == 0 => random.bytes(40),
            operation::OPEN => encode(&Open {
                path,
                flags: OpenFlags::from_bits_retain(random.below(64) as u8),
                mode: random.below(0o1000) as u32,
            }),
            operation::READ => encode(&Read { handle, offset: number, length: number as u32 }),
            operation::WRITE => encode(&Write { handle, offset: number.min(1 << 16) }),
            operation::TRUNCATE => encode(&Truncate { handle, size: number.min(1 << 16) }),
            operation::CLOSE | operation::SYNC => encode(&handle),
            operation::RENAME => encode(&Rename { from: path, to: paths[random.below(5)] }),
            _ => encode(path),
        };
        match random.below(8) {
            0 => payload.truncate(random.below(payload.len() + 1)),
            1 => payload.extend(random.bytes(8)),
            _ => {}
        }
        let room = random.below(200);
        let message = message(&world.client, operation, &payload, room);
        let answer = call(&mut world.server, &mut world.fake, message).take();
        let (status, payload) = answer.expect("an answer at once");
        assert!(payload.len() <= room || status == Status::TOO_BIG);
        assert_ne!(status, Status::DROPPED);
    }
    let client = world.client.clone();
    world.server.disconnected(&mut world.fake, &client);
}

#[test]
fn rubbish_for_memory() {
    for seed in 1..=4 {
        rubbish(&mut World::memory(), seed * 0x9e37_79b9);
    }
}

#[test]
fn rubbish_for_a_real_directory() {
    let mut world = World::real();
    rubbish(&mut world, 0x5eed_0002);
    let outside = world.outside.as_ref().expect("a directory").path();
    let left = std::fs::read_dir(outside).expect("a directory").count();
    assert_eq!(left, 1, "nothing was made outside of the served directory");
}
