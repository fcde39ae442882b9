//! What the layer itself costs, over rows in memory.
//!
//! `cargo bench -p polity-txn --features testing`; each line is
//! `module::op/key=value` and nanoseconds per operation.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{IndexId, Key, Span, Value};
use polity_txn::locks::{Locks, TransactionId};
use polity_txn::testing::{MemoryReplica, database_on};
use polity_txn::{Database, Isolation, LockMode, Options, Replica, TransactionOptions, Wait};
use tokio::time::Instant;

const ROWS: i64 = 100_000;
const TABLE: IndexId = IndexId(16384);

fn key(n: i64) -> Key {
    let mut key = KeyBuilder::new(TABLE);
    key.push(&Value::Int8(n)).expect("an integer is a key");
    key.finish()
}

async fn measure<F: Future<Output = ()>>(name: &str, mut op: impl FnMut(i64) -> F) {
    let mut rounds = 0i64;
    for budget in [Duration::from_millis(100), Duration::from_millis(400)] {
        rounds = 0;
        let begun = Instant::now();
        while begun.elapsed() < budget {
            for _ in 0..100 {
                op(rounds.wrapping_mul(7919) % ROWS).await;
                rounds += 1;
            }
        }
    }
    println!("{name:<56} {:>8} ns", 400_000_000 / rounds.max(1));
}

async fn update(database: &Database, n: i64, isolation: Isolation) {
    let mut t = database.begin(TransactionOptions { isolation, ..Default::default() }).await.expect("begins");
    t.begin_statement().await.expect("reads");
    let key = key(n);
    let locked = t.lock(&key, LockMode::NoKeyExclusive, Wait::Block).await.expect("locks");
    if locked.newest > t.read_at() {
        t.advance().await.expect("moves");
    }
    let value = t.view().get(&key).expect("reads").expect("is there");
    t.put(key, value).expect("writes");
    t.commit().await.expect("commits");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let locks = Locks::default();
    let keys: Vec<Key> = (0..ROWS).map(key).collect();
    let mut owner = 0;
    measure("locks::lock_and_unlock/contended=no", |n| {
        owner += 1;
        let (locks, key) = (&locks, &keys[n as usize]);
        async move {
            let me = TransactionId(owner);
            locks.lock(me, key, LockMode::Exclusive, Wait::Block, None).await.expect("is free");
            locks.release_all(me);
        }
    })
    .await;

    let replica = MemoryReplica::default();
    let database = database_on(replica.clone(), Options::default());
    let mut load = database.begin(TransactionOptions::default()).await.expect("begins");
    for key in &keys {
        load.put(key.clone(), Bytes::from_static(&[7; 100])).expect("fits");
    }
    load.commit().await.expect("commits");

    let (snapshot, at) = (replica.snapshot().expect("is there"), replica.applied());
    measure("replica::get", |n| {
        assert!(snapshot.get(&keys[n as usize], at).expect("reads").is_some());
        std::future::ready(())
    })
    .await;
    for (name, read_only) in [("yes", true), ("no", false)] {
        let (database, keys) = (&database, &keys);
        measure(&format!("transaction::begin_get_end/read_only={name}"), |n| async move {
            let options = TransactionOptions { read_only, ..Default::default() };
            let mut t = database.begin(options).await.expect("begins");
            t.begin_statement().await.expect("reads");
            assert!(t.view().get(&keys[n as usize]).expect("reads").is_some());
            t.commit().await.expect("ends");
        })
        .await;
    }
    for (name, isolation) in [("serializable", Isolation::Serializable), ("read_committed", Isolation::ReadCommitted)] {
        let database = &database;
        measure(&format!("transaction::update_one/isolation={name}"), |n| update(database, n, isolation)).await;
    }
    for own in [0, 1000] {
        let mut t = database.begin(TransactionOptions::default()).await.expect("begins");
        t.begin_statement().await.expect("reads");
        for n in 0..own {
            t.put(key(n * 50), Bytes::from_static(&[8; 100])).expect("fits");
        }
        let view = &t.view();
        measure(&format!("view::scan/rows=100 own_writes={own}"), |n| async move {
            let span = Span { start: key(n.min(ROWS - 100)), end: key(ROWS) };
            let mut scan = view.scan(span, Direction::Ascending).expect("reads");
            assert_eq!(scan.next_chunk(100).expect("reads").len(), 100);
        })
        .await;
    }
}
