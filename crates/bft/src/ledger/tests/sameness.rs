//! The same blocks give the same roots: however often the ledger was opened again,
//! whatever else it was asked meanwhile, on however many threads, and however
//! transactions that do not depend on each other are split into blocks.

use std::sync::Arc;

use proptest::prelude::*;

use crate::consensus::application::Application;
use crate::hash::Hash;
use crate::ledger::rules::Comparisons;
use crate::ledger::storage::memory::MemoryStorage;
use crate::ledger::storage::{Storage, View, Views};
use crate::ledger::testing::*;
use crate::ledger::tree::{Authenticated, Jellyfish};
use crate::ledger::{Ledger, Outcome};
use crate::transaction::{Operation, Privileges};

#[derive(Clone, Debug)]
enum Deed {
    Open(i64, Option<u8>, i64),
    Pay(i64, i64, i64),
    Close(i64),
    Order(i64, i64),
    Cancel(i64),
    Grant(bool),
    Reindex(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    let id = || 0i64..12;
    prop_oneof![
        4 => (id(), proptest::option::of(0u8..6), 0i64..50).prop_map(|(id, owner, sum)| Deed::Open(id, owner, sum)),
        6 => (id(), id(), 0i64..40).prop_map(|(from, to, sum)| Deed::Pay(from, to, sum)),
        2 => id().prop_map(Deed::Close),
        3 => (id(), id()).prop_map(|(order, account)| Deed::Order(order, account)),
        2 => id().prop_map(Deed::Cancel),
        1 => any::<bool>().prop_map(Deed::Grant),
        1 => any::<bool>().prop_map(Deed::Reindex),
    ]
}

fn operations(deed: &Deed) -> Vec<Operation> {
    match deed {
        Deed::Open(id, owner, sum) => vec![open_account(*id, owner.map(|n| format!("u{n}")).as_deref(), *sum)],
        Deed::Pay(from, to, sum) => vec![pay(*from, -sum), pay(*to, *sum)],
        Deed::Close(id) => vec![delete(accounts(), *id)],
        Deed::Order(id, account) => vec![place_order(*id, Some(*account))],
        Deed::Cancel(id) => vec![delete(orders(), *id)],
        Deed::Grant(all) => {
            let privileges = if *all { Privileges::ALL } else { Privileges::default() };
            vec![Operation::Grant { storage: accounts(), user: "ada".into(), privileges }]
        }
        Deed::Reindex(unique_too) => {
            let mut definition = accounts_definition();
            if *unique_too {
                definition.checks.push(Comparisons::at_least("again", polity_base::ColumnId(2), 0));
            }
            vec![define(accounts(), &definition)]
        }
    }
}

/// All keys and values that the storage of a ledger holds of tables and records.
fn contents<S: Storage>(storage: &S) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        // Certificates in journals may differ.
        if crate::ledger::records::storage_of(key) != crate::ledger::records::journal() {
            found.push((key.to_vec(), value.to_vec()));
        }
        std::ops::ControlFlow::Continue(())
    };
    storage.views().now().unwrap().scan(&crate::ledger::reader::everything(), visit).unwrap();
    found
}

fn root<S: Storage>(storage: &S) -> Hash {
    Jellyfish.root(&storage.views().now().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn blocks_alone_decide(
        blocks in proptest::collection::vec(proptest::collection::vec(deed(), 1..8), 1..14),
        reopened in proptest::collection::vec(any::<bool>(), 14),
    ) {
        let mut bench = Bench::with_tables();
        for deeds in &blocks {
            let transactions = deeds.iter().map(|deed| bench.transaction("root", operations(deed))).collect();
            bench.commit(transactions, Vec::new());
        }
        // Others who see the same blocks, each on a thread of its own; one is opened
        // again now and then, one checks each block first, and something else too.
        let blocks = &bench.blocks;
        let genesis = bench.genesis().clone();
        let replica = |reopens: bool, checks: bool| {
            let open = |storage| Ledger::open(storage, genesis.clone(), Arc::new(Comparisons), OPTIONS).unwrap();
            let mut ledger = open(MemoryStorage::new());
            for (place, (block, certificate)) in blocks.iter().enumerate() {
                if checks {
                    let mut other = crate::block::Block::clone(block);
                    other.header.state_root = [9; 32];
                    assert!(ledger.check(&Arc::new(other), &|_| true).is_err());
                    assert_eq!(ledger.check(block, &|_| false), Ok(()));
                }
                ledger.commit(block, certificate).unwrap();
                if reopens && reopened.get(place) == Some(&true) {
                    ledger = open(ledger.into_storage().restart());
                }
            }
            ledger.into_storage()
        };
        let storages = std::thread::scope(|scope| {
            let threads = [(false, false), (true, false), (false, true), (true, true)]
                .map(|(reopens, checks)| scope.spawn(move || replica(reopens, checks)));
            threads.map(|thread| thread.join().unwrap())
        });
        let own = bench.ledger.into_storage();
        for storage in &storages {
            prop_assert_eq!(root(storage), root(&own));
            prop_assert_eq!(contents(storage), contents(&own));
        }
        // The tree is the one that rows and records give.
        let last = blocks.last().unwrap().0.header.clone();
        prop_assert_eq!(last.state_root, root(&own));
    }

    #[test]
    fn where_blocks_end_does_not_matter_to_those_who_do_not_ask(
        deeds in proptest::collection::vec(deed(), 1..30),
        cuts in proptest::collection::vec(1usize..6, 30),
    ) {
        let run = |cuts: &[usize]| {
            let mut bench = Bench::with_tables();
            let (mut rest, mut cuts) = (&deeds[..], cuts.iter());
            let mut outcomes: Vec<Outcome> = Vec::new();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&1)));
                let transactions = now.iter().map(|deed| bench.transaction("root", operations(deed))).collect();
                outcomes.extend(bench.commit(transactions, Vec::new()));
                rest = later;
            }
            (outcomes, root(&bench.ledger.into_storage()))
        };
        let one_by_one = run(&[]);
        prop_assert_eq!(run(&cuts), one_by_one.clone());
        prop_assert_eq!(run(&[30]), one_by_one);
    }
}
