//! What the layer itself costs, over rows in a map and over a Raft group whose
//! disk is in memory.
//!
//! `cargo bench -p polity-txn --features testing --bench transactions`; each line
//! is `module::op/key=value` and nanoseconds per operation.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::seams::ClockSource;
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{IndexId, Key, NodeId, RangeId, Span, Timestamp, Value};
use polity_raft::{Group, GroupOptions};
use polity_store::disk::MemoryDisk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};
use polity_txn::locks::{Locks, TransactionId};
use polity_txn::testing::{MemoryReplica, database_on, seams};
use polity_txn::{Database, Isolation, LockMode, Options, StrongReplica, TransactionOptions, Wait};
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
    println!("{name:<68} {:>8} ns", 400_000_000 / rounds.max(1));
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

async fn locks(keys: &[Key]) {
    let locks = Locks::default();
    let mut owner = 0;
    measure("locks::lock_and_unlock/contended=no", |n| {
        owner += 1;
        let (locks, key) = (&locks, &keys[n as usize]);
        async move {
            let me = TransactionId { node: polity_base::NodeId(1), number: owner };
            locks.lock(me, key, LockMode::Exclusive, Wait::Block, None).await.expect("is free");
            locks.release_all(me);
        }
    })
    .await;
}

async fn load(database: &Database, keys: &[Key]) {
    for keys in keys.chunks(1000) {
        let mut load = database.begin(TransactionOptions::default()).await.expect("begins");
        for key in keys {
            load.put(key.clone(), Bytes::from_static(&[7; 100])).expect("fits");
        }
        load.commit().await.expect("commits");
    }
}

async fn reads(name: &str, database: &Database, keys: &[Key]) {
    let (_, replica) = database.directory().of_key(&[]);
    let (snapshot, at) = (replica.snapshot().expect("is there"), replica.applied());
    measure(&format!("replica::get/replica={name}"), |n| {
        assert!(snapshot.get(&keys[n as usize], at).expect("reads").is_some());
        std::future::ready(())
    })
    .await;
    measure(&format!("replica::read_timestamp/replica={name}"), |_| async {
        replica.read_timestamp().await.expect("leads");
    })
    .await;
    for (tracked, read_only) in [("no", true), ("yes", false)] {
        measure(&format!("transaction::begin_get_end/replica={name} tracked={tracked}"), |n| async move {
            let options = TransactionOptions { read_only, ..Default::default() };
            let mut t = database.begin(options).await.expect("begins");
            t.begin_statement().await.expect("reads");
            assert!(t.view().get(&keys[n as usize]).expect("reads").is_some());
            t.commit().await.expect("ends");
        })
        .await;
    }
    for own in [0, 1000] {
        let mut t = database.begin(TransactionOptions::default()).await.expect("begins");
        t.begin_statement().await.expect("reads");
        for n in 0..own {
            t.put(key(n * 50), Bytes::from_static(&[8; 100])).expect("fits");
        }
        let view = &t.view();
        measure(&format!("view::scan/replica={name} rows=100 own_writes={own}"), |n| async move {
            let span = Span { start: key(n.min(ROWS - 100)), end: key(ROWS) };
            let mut scan = view.scan(span, Direction::Ascending).expect("reads");
            assert_eq!(scan.next_chunk(100).expect("reads").len(), 100);
        })
        .await;
    }
}

async fn updates(name: &str, database: &Database) {
    for (level, isolation) in [("serializable", Isolation::Serializable), ("read_committed", Isolation::ReadCommitted)]
    {
        let name = format!("transaction::update_one/replica={name} isolation={level}");
        measure(&name, |n| update(database, n, isolation)).await;
    }
}

async fn strong() -> (Database, Arc<State>) {
    let (disk, seams) = (Arc::new(MemoryDisk::new(1)), seams());
    let keys = Keyring::open(&*disk, &MasterKey::generate(&*seams.entropy), &*seams.entropy).expect("makes keys");
    let log = Log::open(disk.clone(), &keys, seams.entropy.clone(), LogOptions::default()).await;
    let state = State::open(disk, &keys, seams.entropy, StateOptions::default()).expect("opens the state");
    let (log, state) = (log.expect("opens the log").0, Arc::new(state));
    let clock = Arc::new(HybridClock::new(Arc::new(Still), Timestamp::ZERO));
    let group = Group::start(RangeId(1), NodeId(1), log, state.clone(), clock, GroupOptions::default()).await;
    let replica = StrongReplica::new(group.expect("starts"), state.clone());
    (database_on(replica, Options::default()), state)
}

/// A clock that stands: hybrid time goes on by itself.
struct Still;

impl ClockSource for Still {
    fn read(&self) -> ClockReading {
        ClockReading { earliest: Timestamp(1), latest: Timestamp(1) }
    }
}

async fn run() {
    let keys: Vec<Key> = (0..ROWS).map(key).collect();
    locks(&keys).await;
    let memory = database_on(MemoryReplica::default(), Options::default());
    load(&memory, &keys).await;
    reads("memory", &memory, &keys).await;
    updates("memory", &memory).await;
    let (strong, state) = strong().await;
    load(&strong, &keys).await;
    reads("strong_layer", &strong, &keys).await;
    state.checkpoint().expect("writes");
    reads("strong_redb", &strong, &keys).await;
    updates("strong_redb", &strong).await;
}

fn main() {
    // `cargo test` runs benches too, and wants no figures.
    if std::env::args().any(|a| a == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("starts threads").block_on(run());
    }
}
