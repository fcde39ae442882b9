//! A ledger from genesis on: what is ordered once, what is remembered, what is refused.

use std::sync::Arc;

use polity_base::{NodeId, Value, row};

use crate::block::{Block, Header};
use crate::consensus::application::{Application, CommitError};
use crate::consensus::context::{Address, Vote};
use crate::consensus::message::Signed;
use crate::evidence::Evidence;
use crate::ledger::error::Error;
use crate::ledger::outcome::Outcome;
use crate::ledger::storage::memory::MemoryStorage;
use crate::ledger::testing::*;
use crate::ledger::{Ledger, audit};
use crate::transaction::{Body, SignedTransaction};
use crate::types::{BlockId, Height, LedgerId, Signature};

#[test]
fn a_transaction_is_ordered_once_and_in_time() {
    let mut bench = Bench::with_tables();
    let transaction = bench.transaction("root", vec![open_account(1, None, 1)]);
    assert!(bench.ledger.admits(&transaction));
    assert_eq!(bench.order(transaction.clone()), Outcome::Applied);
    assert!(!bench.ledger.admits(&transaction), "a replay");
    let next = bench.ledger.tip().height.0 + 1;
    let mut expiring = |expires| {
        let body = bench.body("root", vec![]);
        bench.ledger.admits(&sign(Body { expires: Height(expires), ..body }, 1))
    };
    assert!(!expiring(next - 1) && expiring(next));
    // The lifetime is 8: what expires later could be replayed once it is forgotten.
    assert!(expiring(next + 7) && !expiring(next + 8));
    let body = bench.body("root", vec![]);
    assert!(!bench.ledger.admits(&sign(Body { ledger: LedgerId([1; 32]), ..body }, 1)));
    for _ in 0..12 {
        bench.run("root", vec![pay(1, 1)]);
        assert!(!bench.ledger.admits(&transaction), "once it is forgotten it has expired");
    }
}

#[test]
fn the_gate_lets_known_authors_in() {
    let mut bench = Bench::with_tables();
    let gate = bench.ledger.gate();
    let body = bench.body("root", vec![]);
    let by = |number| sign(body.clone(), number);
    assert!(gate(&by(1)) && !gate(&by(50)));
    let register =
        crate::transaction::Operation::Register { user: "ada".into(), key: secret(50).public(), exclusive: false };
    bench.run("ada", vec![register]);
    assert!(gate(&by(50)));
    assert!(!gate(&sign(Body { expires: Height(1000), ..body.clone() }, 1)));
    assert!(!gate(&sign(Body { ledger: LedgerId([1; 32]), ..body.clone() }, 1)));
}

#[test]
fn blocks_that_are_not_right_are_refused() {
    let mut bench = Bench::with_tables();
    let transaction = bench.transaction("root", vec![open_account(1, None, 1)]);
    let (block, _) = bench.propose(vec![transaction.clone()], Vec::new());
    let changed = |change: &dyn Fn(&mut Block)| {
        let mut other = Block::clone(&block);
        change(&mut other);
        Arc::new(other)
    };
    let header = |change: fn(&mut Header)| changed(&|block| change(&mut block.header));
    let forged = SignedTransaction::with_signature(transaction.body().clone(), Signature::void());
    let wrong = [
        header(|header| header.ledger.0[0] ^= 1),
        header(|header| header.height.0 += 1),
        header(|header| header.parent.0[0] ^= 1),
        header(|header| header.time_ms = 1),
        header(|header| header.state_root[0] ^= 1),
        header(|header| header.results[0] ^= 1),
        header(|header| header.transactions[0] ^= 1),
        header(|header| header.evidence[0] ^= 1),
        header(|header| header.validators[0] ^= 1),
        header(|header| header.next_validators[0] ^= 1),
        header(|header| header.proposer = NodeId(9)),
        changed(&|block| block.transactions.clear()),
        changed(&|block| {
            block.transactions.push(block.transactions[0].clone());
            block.header.transactions = Block::transactions_hash(&block.transactions);
        }),
        changed(&|block| {
            block.transactions = vec![Arc::new(forged.clone())];
            block.header.transactions = Block::transactions_hash(&block.transactions);
        }),
        // The right header with another signature under it.
        changed(&|block| block.transactions = vec![Arc::new(forged.clone())]),
    ];
    for (place, block) in wrong.iter().enumerate() {
        let error = bench.ledger.check(block, &|_| false);
        assert!(error.is_err(), "number {place}");
    }
    assert_eq!(bench.ledger.check(&block, &|_| false), Ok(()));
}

#[test]
fn a_decided_block_that_comes_to_something_else_here_stops_the_node() {
    let mut bench = Bench::with_tables();
    let transaction = bench.transaction("root", vec![open_account(1, None, 1)]);
    let (block, _) = bench.propose(vec![transaction], Vec::new());
    let mut other = Block::clone(&block);
    other.header.state_root[0] ^= 1;
    let certificate = certify(bench.ledger.id(), &other, 1..=4);
    let outcome = bench.ledger.commit(&Arc::new(other), &Arc::new(certificate));
    assert!(matches!(outcome.map(|_| ()), Err(CommitError::Storage(_))));
}

#[test]
fn blocks_and_states_are_there_as_of_every_height() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 0)]);
    for _ in 0..20 {
        bench.run("root", vec![pay(1, 1)]);
    }
    let reader = bench.ledger.reader();
    let newest = reader.height().unwrap();
    assert_eq!(newest, Height(22));
    for height in 2..=newest.0 {
        let stored = reader.get(&row_key(accounts(), 1), Some(Height(height))).unwrap().unwrap();
        assert_eq!(row::decode(&stored).unwrap()[2], Value::Int8(height as i64 - 2));
    }
    assert_eq!(reader.get(&row_key(accounts(), 1), Some(Height(1))).unwrap(), None);
    assert!(matches!(reader.get(b"", Some(Height(23))), Err(Error::Ahead(_))));
    for height in 1..=newest.0 {
        let (block, certificate) = bench.ledger.block(Height(height)).unwrap().unwrap();
        assert_eq!((block.clone(), certificate.clone()), bench.blocks[height as usize - 1].clone());
        assert_eq!(Block::decode(&block.encode()).unwrap(), *block);
        assert_eq!(reader.journal(Height(height)).unwrap().events.is_some(), height + 8 > newest.0, "{height}");
        assert_eq!(reader.height_at(block.header.time_ms).unwrap(), Height(height));
    }
    assert_eq!(bench.ledger.oldest_block(), Height(1));
    assert_eq!(bench.ledger.block(Height(0)).unwrap(), None);
    assert_eq!(bench.ledger.block(Height(23)).unwrap(), None);
}

#[test]
fn a_rows_history_is_told_by_height() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 5)]);
    bench.run("root", vec![pay(1, 1)]);
    bench.run("root", vec![open_account(2, None, 5)]);
    bench.run("root", vec![delete(accounts(), 1)]);
    bench.run("root", vec![open_account(1, None, 9)]);
    let history = bench.ledger.reader().history(&row_key(accounts(), 1)).unwrap();
    let balance = |row: &Option<bytes::Bytes>| row.as_ref().map(|row| row::decode(row).unwrap()[2].as_i64().unwrap());
    let told: Vec<_> = history.iter().map(|revision| (revision.height.0, balance(&revision.value))).collect();
    assert_eq!(told, [(6, Some(9)), (5, None), (3, Some(6)), (2, Some(5))]);
    assert_eq!(bench.ledger.reader().history(&row_key(accounts(), 7)).unwrap(), []);
}

#[test]
fn old_headers_go_but_those_where_validators_changed_stay() {
    let genesis = genesis(4);
    let options = crate::ledger::Options { keep_blocks: 3, keep_headers: 10, keep_snapshot: 4 };
    let mut bench = Bench::open_with(MemoryStorage::new(), genesis.clone());
    bench.ledger =
        Ledger::open(MemoryStorage::new(), genesis, Arc::new(crate::ledger::rules::Comparisons), options).unwrap();
    bench.make_tables();
    let change = crate::transaction::ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 1 };
    for by in 1..=3 {
        let body = bench.body("", vec![crate::transaction::Operation::Approve(change.clone())]);
        bench.order(sign(Body { user: None, ..body }, by));
    }
    for id in 0..20 {
        bench.run("root", vec![open_account(id, None, 1)]);
    }
    let reader = bench.ledger.reader();
    let kept: Vec<u64> = (1..=24).filter(|height| reader.journal(Height(*height)).is_ok()).collect();
    // Approved at height 4, so the last header of the old ones is that of height 5.
    assert_eq!(kept, [vec![5], (15..=24).collect()].concat());
    assert_eq!(bench.ledger.oldest_block(), Height(22));
    assert_eq!(bench.ledger.block(Height(21)).unwrap(), None);
    assert!(bench.ledger.block(Height(22)).unwrap().is_some());
    assert_eq!(reader.chain(Height(24)).unwrap().len(), 1);
    assert!(matches!(reader.journal(Height(14)), Err(Error::Gone { oldest: Height(15), .. })));
}

#[test]
fn evidence_is_committed_once_and_names_the_liar() {
    let mut bench = Bench::with_tables();
    let (ledger, height) = (bench.ledger.id(), bench.ledger.tip().height);
    let vote = |by: u8, block: u8, of: Height| {
        let message = Vote {
            height: of,
            round: 0,
            kind: arc_malachitebft_core_types::VoteType::Prevote,
            value: arc_malachitebft_core_types::NilOrVal::Val(BlockId([block; 32])),
            voter: Address(NodeId(u64::from(by))),
        };
        let signature = secret(by).sign(&message.sign_bytes(&ledger)).unwrap();
        Signed { message, signature }
    };
    let lie = Evidence::votes(vote(3, 1, height), vote(3, 2, height));
    assert!(bench.ledger.admits_evidence(&lie));
    let same = Evidence::votes(vote(3, 1, height), vote(3, 1, height));
    let of_a_stranger = Evidence::votes(vote(9, 1, height), vote(9, 2, height));
    let yet_to_come = Evidence::votes(vote(3, 1, Height(height.0 + 2)), vote(3, 2, Height(height.0 + 2)));
    for none in [same, of_a_stranger, yet_to_come] {
        assert!(!bench.ledger.admits_evidence(&none));
    }
    assert_eq!(bench.commit(Vec::new(), vec![lie.clone()]), []);
    assert!(!bench.ledger.admits_evidence(&lie));
    assert_eq!(bench.ledger.reader().evidence().unwrap(), std::slice::from_ref(&lie));
    // A block that accuses once more is refused.
    let transaction = bench.transaction("root", vec![]);
    let (block, _) = bench.propose(vec![transaction], Vec::new());
    let mut again = Block::clone(&block);
    again.evidence = vec![lie];
    again.header.evidence = Block::evidence_hash(&again.evidence);
    assert!(bench.ledger.check(&Arc::new(again), &|_| false).is_err());
    assert_eq!(
        Evidence::decode(&bench.ledger.reader().evidence().unwrap()[0].encode()).unwrap().validator(),
        NodeId(3)
    );
}

#[test]
fn a_ledger_is_opened_again_where_it_was_and_with_nothing_else() {
    let mut bench = Bench::with_tables();
    for id in 0..12 {
        bench.run("root", vec![open_account(id, None, 1)]);
    }
    let (tip, genesis) = (bench.ledger.tip(), bench.genesis().clone());
    let storage = bench.ledger.into_storage();
    let rules = || Arc::new(crate::ledger::rules::Comparisons);
    let mut other = genesis.clone();
    other.name.push('!');
    assert!(matches!(Ledger::open(storage.copy(), other, rules(), OPTIONS), Err(Error::Invalid(_))));
    let again = Ledger::open(storage.copy(), genesis.clone(), rules(), OPTIONS).unwrap();
    assert_eq!(again.tip(), tip);
    let replayed = Ledger::open(storage.restart(), genesis, rules(), OPTIONS).unwrap();
    assert_eq!(replayed.tip(), tip);
    assert_eq!(replayed.reader().history(&row_key(accounts(), 3)).unwrap().len(), 1);
}

#[test]
fn an_audit_finds_the_same_root_from_genesis_and_what_does_not_hold() {
    let mut bench = Bench::with_tables();
    for id in 0..6 {
        bench.run("root", vec![open_account(id, None, 1)]);
    }
    let rules = || Arc::new(crate::ledger::rules::Comparisons);
    let found = audit(bench.genesis(), rules(), bench.blocks.clone()).unwrap();
    assert_eq!(found.height, bench.ledger.tip().height);
    assert_eq!(found.state_root, bench.blocks.last().unwrap().0.header.state_root);
    let mut forged = bench.blocks.clone();
    let mut certificate = crate::block::Certificate::clone(&forged[4].1);
    certificate.signatures.truncate(2);
    forged[4].1 = Arc::new(certificate);
    let error = audit(bench.genesis(), rules(), forged).unwrap_err().to_string();
    assert_eq!(error, "height 5: its certificate has a power of 2 of 4, and it takes 3");
}
