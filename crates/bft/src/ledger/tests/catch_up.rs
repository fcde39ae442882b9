//! Nodes that are far behind: they take over a snapshot, verified from genesis, or
//! nothing at all.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::NodeId;
use proptest::prelude::*;

use crate::consensus::application::{Application, CommitError};
use crate::ledger::Ledger;
use crate::ledger::rules::Comparisons;
use crate::ledger::storage::memory::MemoryStorage;
use crate::ledger::testing::*;
use crate::transaction::{Body, Operation, ValidatorChange};
use crate::types::Height;

/// A ledger with rows, a dropped table that is not swept yet, and a new validator.
fn grown() -> Bench<MemoryStorage> {
    let mut bench = Bench::with_tables();
    let change = ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 1 };
    for by in 1..=3 {
        let body = bench.body("", vec![Operation::Approve(change.clone())]);
        bench.order(sign(Body { user: None, ..body }, by));
    }
    for part in 0..4 {
        let rows = (part * 100..part * 100 + 100).map(|id| open_account(id, Some(&format!("u{id}")), id)).collect();
        bench.run("root", rows);
    }
    for id in 0..8 {
        bench.run("root", vec![place_order(id, Some(id))]);
    }
    bench.run("root", vec![Operation::Drop { storage: orders() }]);
    bench.run("root", vec![Operation::Drop { storage: accounts() }]);
    let again = polity_base::Guarantee::Byzantine.storage(50);
    let mut definition = accounts_definition();
    definition.indexes[0].storage = polity_base::Guarantee::Byzantine.storage(51);
    bench.run("root", vec![define(again, &definition)]);
    bench
}

fn parts(bench: &mut Bench<MemoryStorage>, height: Height) -> Vec<Bytes> {
    let (first, count) = bench.ledger.snapshot_part(height, 0).unwrap().unwrap();
    let rest = (1..count).map(|part| bench.ledger.snapshot_part(height, part).unwrap().unwrap().0);
    [first].into_iter().chain(rest.collect::<Vec<_>>()).collect()
}

fn fresh(bench: &Bench<MemoryStorage>) -> Ledger<MemoryStorage> {
    Ledger::open(MemoryStorage::new(), bench.genesis().clone(), Arc::new(Comparisons), OPTIONS).unwrap()
}

#[test]
fn a_snapshot_brings_a_node_to_where_others_are_and_it_goes_on_from_there() {
    let mut bench = Bench::with_tables();
    for id in 0..30 {
        bench.run("root", vec![open_account(id, Some(&format!("u{id}")), id)]);
    }
    let height = bench.ledger.snapshot().unwrap();
    assert_eq!(height, bench.ledger.tip().height);
    let parts = parts(&mut bench, height);
    let mut behind = fresh(&bench);
    assert_eq!(behind.install(height, parts).unwrap(), bench.ledger.tip());
    assert_eq!(behind.tip(), bench.ledger.tip());
    assert_eq!((behind.oldest_block(), behind.block(height).unwrap()), (height.next(), None));
    // Replays, preconditions and indexes are known as if it had been there all the time.
    let replay = bench.blocks.last().unwrap().0.transactions[0].clone();
    assert!(!behind.admits(&replay));
    let duplicate = bench.transaction("root", vec![open_account(99, Some("u3"), 1)]);
    let (block, certificate) = bench.propose(vec![duplicate], Vec::new());
    let there = behind.commit(&block, &certificate).unwrap().outcomes;
    let here = bench.ledger.commit(&block, &certificate).unwrap().outcomes;
    assert_eq!(there, here);
    assert!(!here[0].1.is_applied());
    assert_eq!(behind.block(height.next()).unwrap().unwrap(), (block.clone(), certificate.clone()));
    // And it can be asked for proofs.
    let proof = behind.reader().prove(&[row_key(accounts(), 7)], None).unwrap();
    assert!(crate::proof::verify(&proof, bench.genesis()).is_ok());
    // Opened again, from its log alone.
    let tip = behind.tip();
    let again =
        Ledger::open(behind.into_storage().restart(), bench.genesis().clone(), Arc::new(Comparisons), OPTIONS).unwrap();
    assert_eq!(again.tip(), tip);
    assert_eq!((again.oldest_block(), again.block(height).unwrap()), (height.next(), None));
}

#[test]
fn those_who_took_a_snapshot_sweep_as_those_who_did_not() {
    let mut bench = grown();
    let height = bench.ledger.snapshot().unwrap();
    let parts = parts(&mut bench, height);
    let mut behind = fresh(&bench);
    behind.install(height, parts).unwrap();
    for _ in 0..12 {
        let nothing = bench.transaction("root", vec![]);
        let (block, certificate) = bench.propose(vec![nothing], Vec::new());
        behind.commit(&block, &certificate).unwrap();
        bench.ledger.commit(&block, &certificate).unwrap();
    }
    assert_eq!(behind.tip(), bench.ledger.tip());
}

#[test]
fn a_snapshot_stays_what_it_was_while_blocks_go_on() {
    let mut bench = grown();
    let height = bench.ledger.snapshot().unwrap();
    let before = parts(&mut bench, height);
    for _ in 0..3 {
        bench.run("root", vec![]);
    }
    assert_eq!(bench.ledger.snapshot(), Some(height), "others may be fetching it");
    assert_eq!(parts(&mut bench, height), before);
    for _ in 0..3 {
        bench.run("root", vec![]);
    }
    assert_eq!(bench.ledger.snapshot(), Some(Height(height.0 + 6)));
    let later = parts(&mut bench, Height(height.0 + 2));
    let mut behind = fresh(&bench);
    assert!(behind.install(Height(height.0 + 2), later).is_ok(), "made of a state of the past");
    assert_eq!(bench.ledger.snapshot_part(Height(height.0 + 90), 0).unwrap(), None);
}

#[test]
fn a_snapshot_of_another_height_or_from_before_is_not_taken() {
    let mut bench = grown();
    let height = bench.ledger.snapshot().unwrap();
    let parts = parts(&mut bench, height);
    assert!(matches!(fresh(&bench).install(height.next(), parts.clone()), Err(CommitError::Invalid(_))));
    assert!(matches!(bench.ledger.install(height, parts), Err(CommitError::Invalid(_))));
}

type Grown = (Bench<MemoryStorage>, Height, Vec<Bytes>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_of_a_snapshot_can_be_another(place: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
        thread_local! {
            static GROWN: std::cell::RefCell<Option<Grown>> = const { std::cell::RefCell::new(None) };
        }
        GROWN.with_borrow_mut(|grown_once| {
            let (bench, height, parts) = grown_once.get_or_insert_with(|| {
                let mut bench = grown();
                let height = bench.ledger.snapshot().unwrap();
                let parts = parts(&mut bench, height);
                (bench, height, parts)
            });
            let whole = parts.concat();
            let mut lie = whole.clone();
            lie[place.index(whole.len())] ^= flip;
            let mut behind = fresh(bench);
            let before = behind.tip();
            let outcome = behind.install(*height, vec![lie.into()]);
            assert!(matches!(outcome, Err(CommitError::Invalid(_))), "byte {} of {}", place.index(whole.len()), whole.len());
            let outcome = behind.install(*height, vec![whole[..cut.index(whole.len())].to_vec().into()]);
            assert!(matches!(outcome, Err(CommitError::Invalid(_))));
            // Nothing of it was believed.
            assert_eq!(behind.tip(), before);
            assert!(behind.install(*height, parts.clone()).is_ok());
        });
    }
}
