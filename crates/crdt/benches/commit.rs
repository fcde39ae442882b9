//! Transactions per second through a replica on a real disk, by how many callers wait at
//! once: `cargo bench -p polity-crdt`. The folder is `$POLITY_BENCH_FOLDER` or a temporary
//! one; a folder in memory measures the program without its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity_base::key::KeyBuilder;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{
    Batch, Bounds, ColumnChange, ColumnId, Guarantee, Key, NodeId, Operation, RowChange, Timestamp, Value,
};
use polity_crdt::replica::{Alone, NoIndexes};
use polity_crdt::{Limits, Options, Replica};
use polity_store::disk::RealDisk;
use polity_store::log::Log;
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::State;
use tokio::time::Instant;

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(2);

struct BenchClock(Instant);

impl ClockSource for BenchClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.elapsed().as_nanos() as u64);
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

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn key(caller: u64, number: u64) -> Key {
    let mut key = KeyBuilder::new(Guarantee::Eventual.storage(20_000));
    key.push(&Value::Int8((caller * 1_000_000 + number % 1000) as i64)).unwrap();
    key.finish()
}

fn batch(caller: u64, number: u64, change: RowChange) -> Batch {
    let id = u128::from(caller) << 64 | u128::from(number);
    let operations = vec![Operation::Change { key: key(caller, number), change }];
    Batch { id, author: NodeId(1), preconditions: vec![], operations }
}

/// A row is there the second time round.
fn upsert(number: u64) -> RowChange {
    let text = ColumnChange::Set(Value::Text("x".repeat(100)));
    let columns = vec![(ColumnId(0), ColumnChange::Set(Value::Int8(number as i64))), (ColumnId(1), text)];
    if number < 1000 { RowChange::Insert(columns) } else { RowChange::Update(columns) }
}

fn increment(number: u64) -> RowChange {
    let bounds = Bounds { lower: Some(0), upper: None };
    let columns = vec![(ColumnId(1), ColumnChange::Add { amount: 1, bounds })];
    if number < 1000 { RowChange::Insert(columns) } else { RowChange::Update(columns) }
}

async fn measure(replica: &Replica, name: &str, callers: u64, first: u64, change: fn(u64) -> RowChange) {
    let entries = replica.status().counts;
    let processor = processor_seconds();
    let begun = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let replica = replica.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < SPAN {
                let sent = Instant::now();
                let number = latencies.len() as u64;
                replica.commit(batch(first + caller, number, change(number)), 1).await.unwrap();
                latencies.push(sent.elapsed());
            }
            latencies
        })
    });
    let mut latencies = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        latencies.extend(task.await.unwrap());
    }
    let elapsed = begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let count = latencies.len();
    let counts = replica.status().counts;
    println!(
        "crdt::{name}/callers={callers:<3} {:>8.0} transactions/s  p50 {:>5} µs  p99 {:>5} µs  processor {:>5.1} µs each  {:.1} an entry  {:.0} bytes each",
        count as f64 / elapsed,
        latencies[count / 2].as_micros(),
        latencies[count * 99 / 100].as_micros(),
        (processor_seconds() - processor) * 1e6 / count as f64,
        count as f64 / (counts.entries - entries.entries) as f64,
        (counts.entry_bytes - entries.entry_bytes) as f64 / count as f64,
    );
}

async fn run() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("POLITY_BENCH_FOLDER").map_or(temporary.path().to_owned(), Into::into);
    let disk = Arc::new(RealDisk::open(&folder).unwrap());
    let entropy: Arc<dyn Entropy> = Arc::new(CountingEntropy::default());
    let keys = Keyring::open(&*disk, &MasterKey::generate(&*entropy), &*entropy).unwrap();
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), Default::default()).await.unwrap();
    let state = Arc::new(State::open(disk, &keys, entropy, Default::default()).unwrap());
    let clock = Arc::new(HybridClock::new(Arc::new(BenchClock(Instant::now())), Timestamp::ZERO));
    let replica = Replica::start(Options {
        node: NodeId(1),
        log,
        state: state.clone(),
        clock,
        peers: Arc::new(Alone(NodeId(1))),
        schema: Arc::new(NoIndexes),
        joins: false,
        limits: Limits::default(),
    })
    .await
    .unwrap();
    let mut first = 0;
    for (name, change) in [("upsert", upsert as fn(u64) -> RowChange), ("increment", increment)] {
        for callers in [1, 16, 64] {
            measure(&replica, name, callers, first, change).await;
            first += callers;
            let checkpointed = state.clone();
            let done = tokio::task::spawn_blocking(move || checkpointed.checkpoint()).await.unwrap().unwrap();
            replica.checkpointed().made_durable(done.marks[&polity_base::RangeId::EVENTUAL]);
        }
    }
    replica.shutdown().await;
}

fn main() {
    // `cargo test` runs benches too, and wants no figures.
    if std::env::args().any(|a| a == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
    }
}
