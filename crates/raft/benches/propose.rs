//! Batches per second through a group of one on a real disk, by how many callers
//! wait at once: `cargo bench -p polity-raft`. The folder is `$POLITY_BENCH_FOLDER`
//! or a temporary one; a folder in memory measures the program without its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Batch, Key, NodeId, Operation, RangeId, Timestamp};
use polity_raft::{Checkpointer, Group, GroupOptions};
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

fn batch(caller: u64, number: u64) -> Batch {
    let key = Key([b"\0\0\x40\0".as_slice(), &caller.to_be_bytes(), &(number % 1000).to_be_bytes()].concat().into());
    let value = Bytes::from_static(&[7; 100]);
    let id = u128::from(caller) << 64 | u128::from(number);
    Batch { id, author: NodeId(1), preconditions: vec![], operations: vec![Operation::Put { key, value }] }
}

async fn measure(group: &Group, callers: u64) {
    let entries = group.metrics().batches_per_entry.summary().count;
    let processor = processor_seconds();
    let begun = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let group = group.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < SPAN {
                let sent = Instant::now();
                let number = latencies.len() as u64;
                group.propose(batch(callers * 1000 + caller, number)).await.unwrap();
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
    println!(
        "raft::propose/callers={callers:<3} {:>8.0} batches/s  p50 {:>5} µs  p99 {:>5} µs  processor {:>5.1} µs/batch  {:.1} batches/entry",
        count as f64 / elapsed,
        latencies[count / 2].as_micros(),
        latencies[count * 99 / 100].as_micros(),
        (processor_seconds() - processor) * 1e6 / count as f64,
        count as f64 / (group.metrics().batches_per_entry.summary().count - entries) as f64,
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
    let options = GroupOptions::default();
    let group = Group::start(RangeId(1), NodeId(1), log, state.clone(), clock, options).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let checkpoints = Checkpointer::new(state, vec![group.clone()], Duration::from_secs(1), 64 << 20);
    let checkpoints = tokio::spawn(checkpoints.run(stopped));

    let begun = Instant::now();
    for _ in 0..100_000 {
        std::hint::black_box(group.read_barrier().await.unwrap());
    }
    println!("raft::read_barrier          {:>8} ns", begun.elapsed().as_nanos() / 100_000);
    for callers in [1, 4, 16, 64] {
        measure(&group, callers).await;
    }
    let metrics = group.metrics();
    println!("raft::append  {:?}", metrics.append_micros.summary());
    println!("raft::apply   {:?}", metrics.apply_micros.summary());
    stop.send_replace(true);
    checkpoints.await.unwrap();
    group.shutdown().await;
}

fn main() {
    // `cargo test` runs benches too, and wants no figures.
    if std::env::args().any(|a| a == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
    }
}
