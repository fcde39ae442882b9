//! What it costs to find and mend rows that two replicas of many hold differently:
//! `cargo run --release -p polity-crdt --example reconcile -- [ROWS] [DIFFERENCES]`.
//!
//! Two replicas in one process, on real disks in temporary folders, without a network
//! between them: bytes are those of messages, seconds those of the processor and the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::guarantee::merging_key;
use polity_base::key::KeyBuilder;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{
    Batch, ColumnChange, ColumnId, Guarantee, Key, NodeId, Operation, RangeId, RowChange, Timestamp, Value,
};
use polity_crdt::replica::{CallFailed, Members, NoIndexes, Traffic};
use polity_crdt::{Limits, Options, Peers, Replica};
use polity_store::disk::RealDisk;
use polity_store::log::{Log, Record};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{EntryBody, OrderedEntry, State};
use tokio::time::Instant;

struct ExampleClock(Instant);

impl ClockSource for ExampleClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(1_000_000_000 + self.0.elapsed().as_nanos() as u64);
        ClockReading { earliest: now, latest: now }
    }
}

#[derive(Default)]
struct CountingEntropy(AtomicU64);

impl Entropy for CountingEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed) as u8);
    }
}

#[derive(Default)]
struct Net(Mutex<BTreeMap<NodeId, Replica>>);

struct Way(Arc<Net>, NodeId);

#[async_trait]
impl Peers for Way {
    fn members(&self) -> Members {
        Members { nodes: BTreeSet::from([NodeId(1), NodeId(2)]), removed: BTreeMap::new() }
    }

    fn unreachable_since(&self, _: NodeId) -> Option<Timestamp> {
        None
    }

    async fn call(&self, node: NodeId, _: Traffic, request: Bytes) -> Result<Bytes, CallFailed> {
        let replica = self.0.0.lock().get(&node).cloned();
        let replica = replica.ok_or_else(|| CallFailed("it is down".to_owned()))?;
        replica.answer(self.1, request).await.map_err(|e| CallFailed(e.to_string()))
    }
}

struct Node {
    replica: Replica,
    state: Arc<State>,
    log: Log,
}

async fn start(net: &Arc<Net>, node: u64, folder: &Path) -> Node {
    let node = NodeId(node);
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let entropy: Arc<dyn Entropy> = Arc::new(CountingEntropy::default());
    let master = MasterKey::from_hex(&"07".repeat(32), "the example").unwrap();
    let keys = Keyring::open(&*disk, &master, &*entropy).unwrap();
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), Default::default()).await.unwrap();
    let state = Arc::new(State::open(disk, &keys, entropy, Default::default()).unwrap());
    let options = Options {
        node,
        log: log.clone(),
        state: state.clone(),
        clock: Arc::new(HybridClock::new(Arc::new(ExampleClock(Instant::now())), Timestamp::ZERO)),
        peers: Arc::new(Way(net.clone(), node)),
        schema: Arc::new(NoIndexes),
        joins: false,
        limits: Limits { patrol_every: Duration::from_secs(3600), ..Limits::default() },
    };
    let replica = Replica::start(options).await.unwrap();
    net.0.lock().insert(node, replica.clone());
    Node { replica, state, log }
}

fn key(n: u64) -> Key {
    let mut key = KeyBuilder::new(Guarantee::Eventual.storage(20_000));
    key.push(&Value::Int8(n as i64)).unwrap();
    key.finish()
}

fn insert(n: u64) -> Operation {
    let text = |value: String| ColumnChange::Set(Value::Text(value));
    let columns = vec![
        (ColumnId(0), ColumnChange::Set(Value::Int8(n as i64))),
        (ColumnId(1), text(format!("name of row {n}"))),
        (ColumnId(2), text("x".repeat(100))),
    ];
    Operation::Change { key: key(n), change: RowChange::Insert(columns) }
}

/// Makes a stopped node's rows lack some, as no replica does by itself.
async fn lose(node: Node, lost: impl Iterator<Item = u64>) {
    node.replica.shutdown().await;
    let index = node.state.applied(RangeId::EVENTUAL).index + 1;
    let keys = lost.flat_map(|n| [key(n), merging_key(&key(n))]);
    let operations = keys.map(|key| Operation::Delete { key }).collect();
    let batch = Batch { id: u128::MAX, author: NodeId(2), preconditions: vec![], operations };
    let body = EntryBody::Batches { proposed_at: Timestamp::ZERO, batches: vec![batch] };
    node.state.apply(RangeId::EVENTUAL, &[OrderedEntry { index, term: 1, body }]).unwrap();
    node.state.checkpoint().unwrap();
    node.log.append_wait(vec![Record::Purge { group: RangeId::EVENTUAL, upto_index: index }]).await.unwrap();
    node.log.close().await;
}

async fn run(rows: u64, differences: u64) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let net = Arc::new(Net::default());
    let here = start(&net, 1, folders[0].path()).await;
    let there = start(&net, 2, folders[1].path()).await;
    let begun = Instant::now();
    for n in 0..rows.div_ceil(1000) {
        let operations = (n * 1000..rows.min((n + 1) * 1000)).map(insert).collect();
        let batch = Batch { id: u128::from(n), author: NodeId(1), preconditions: vec![], operations };
        here.replica.commit(batch, 2).await.unwrap();
    }
    let bytes = here.replica.status().counts.sent_bytes;
    println!("{rows} rows written to two replicas in {:.1?}, {bytes} bytes of deltas", begun.elapsed());

    // Checkpoints, so that rows are read from the disk.
    here.state.checkpoint().unwrap();
    net.0.lock().remove(&NodeId(2));
    let lost = (0..differences).map(|n| n * rows / differences.max(1));
    lose(there, lost).await;
    let there = start(&net, 2, folders[1].path()).await;
    here.replica.wait_for(&there.replica.vector(), Duration::from_secs(60)).await.unwrap();
    there.replica.wait_for(&here.replica.vector(), Duration::from_secs(60)).await.unwrap();
    for _ in 0..2 {
        let begun = Instant::now();
        let found = here.replica.compare(NodeId(2)).await.unwrap();
        println!(
            "compared {} rows in {:.2?}: {} differ; {} bytes sent, {} bytes received",
            found.rows,
            begun.elapsed(),
            found.differing,
            found.sent_bytes,
            found.received_bytes
        );
    }
    println!("mended there: {}", there.replica.status().counts.repaired_rows);
    here.replica.shutdown().await;
    there.replica.shutdown().await;
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (rows, differences) = (numbers.first().copied().unwrap_or(1_000_000), numbers.get(1).copied().unwrap_or(100));
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run(rows, differences));
}
