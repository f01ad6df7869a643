//! Any bytes at all, as frames of tasks that have greeted: through the parser, the decoder and the
//! machine. Nothing panics, nothing that must always hold is broken, and whoever asked is answered
//! once.

use super::random::Dice;
use super::{Pair, mapped, offered, pair};
use crate::effect::Effect;
use rendez_ipc_core::control;
use rendez_protocol::kernel::Travel;
use rendez_protocol::kernel::{Request, frame};
use rendez_protocol::{Rights, decode, encode};
use std::collections::BTreeSet;

/// How many variants of a request there may be; those that there are not are refused.
const VARIANTS: usize = 56;

/// Bytes that may be a request: a variant, and small numbers, which name things that are there. Now and
/// then a large number, or anything.
fn bytes(dice: &mut Dice, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match dice.below(4) {
        0 => examples[dice.below(examples.len())].clone(),
        _ => {
            let mut bytes = vec![dice.below(VARIANTS) as u8];
            bytes.extend((0..dice.below(24)).map(|_| dice.below(4) as u8));
            bytes
        }
    };
    for _ in 0..dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.next() as u8),
            2 => bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]),
            _ if at < bytes.len() => bytes[at] = dice.below(8) as u8,
            _ => {}
        }
    }
    bytes
}

/// A frame around a payload: the header says how long it is, mostly.
fn framed(dice: &mut Dice, transaction: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = control::prefix(transaction, frame::REQUEST, payload.len()).to_vec();
    bytes.extend_from_slice(payload);
    if dice.below(20) == 0 {
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
    if dice.below(20) == 0 {
        bytes.truncate(dice.below(bytes.len()));
    }
    bytes
}

fn examples(it: &Pair) -> Vec<Vec<u8>> {
    let connection = it.world.machine.connections.iter().map(|(id, _)| id).next().unwrap();
    let all = [
        super::connect(it.send),
        mapped(connection),
        Request::Offer { connection, items: vec![offered(it.send, Rights::SEND, Travel::Mint)] },
        Request::CreateTask {
            name: "x".into(),
            give: vec![super::give(it.send, Rights::SEND)],
            quotas: Vec::new(),
        },
        Request::Revoke { slot: it.endpoint },
    ];
    all.iter().map(encode).collect()
}

#[test]
fn any_bytes_are_answered_and_break_nothing() {
    let mut decoded = 0;
    let mut variants = BTreeSet::new();
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let mut it = pair();
        it.world.connected(it.client, it.send, it.server);
        let examples = examples(&it);
        for transaction in 1_000..2_500_u64 {
            let living: Vec<_> = it.world.machine.tasks().collect();
            let who = dice.pick(&living).unwrap();
            let payload = bytes(&mut dice, &examples);
            let bytes = framed(&mut dice, transaction, &payload);
            let Ok((transaction, _, payload)) = control::parse(&bytes) else { continue };
            let Ok(request) = decode::<Request>(payload) else { continue };
            decoded += 1;
            variants.insert(payload[0]);
            it.world.machine.handle(who, transaction, request, &mut it.world.log);
            it.world.settle();
            let answers = it.world.log.iter().filter(|effect| {
                matches!(effect, Effect::Answer { to, transaction: of, .. }
                    if *to == who && *of == transaction)
            });
            assert!(answers.count() <= 1, "seed {seed}: {transaction} is answered twice");
            it.world.log.clear();
        }
    }
    assert!(decoded > 1_000, "only {decoded} were requests");
    assert!(variants.len() > 25, "only {} sorts of requests", variants.len());
}
