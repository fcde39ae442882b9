//! Two replicas in one process: filling a new one, comparing when nothing differs and when
//! rows were lost, and how many bytes what merging keeps takes a row:
//! `cargo bench -p polity-crdt --bench reconcile`. `POLITY_BENCH_ROWS` says how many rows
//! (1,000,000). What travels is counted as messages are, before links pack and seal them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::guarantee::merging_key;
use polity_base::key::KeyBuilder;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{
    Batch, Bounds, ColumnChange, ColumnId, Guarantee, IndexId, Key, NodeId, Operation, RangeId, RowChange, Timestamp,
    Value,
};
use polity_crdt::replica::{CallFailed, Members, NoIndexes, Peers, Traffic};
use polity_crdt::{Limits, Options, Replica};
use polity_store::disk::RealDisk;
use polity_store::log::{Log, Record};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::State;
use tokio::time::Instant;

/// Rows that one transaction writes.
const AT_ONCE: u64 = 2_000;
/// Rows after which they are made durable, so that the memory does not hold them all.
const CHECKPOINT_EVERY: u64 = 100 * AT_ONCE;
/// Rows that are lost.
const LOST: u64 = 100;
/// How often each comparison is made.
const ROUNDS: usize = 3;
/// The form of the replica's entries in the log.
const ENTRY_VERSION: u8 = 1;

struct BenchClock(Instant);

impl ClockSource for BenchClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.elapsed().as_nanos() as u64 + 1);
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

/// The other replica, a function call away.
#[derive(Default)]
struct Other {
    replica: OnceLock<Replica>,
    bytes: AtomicU64,
}

struct Pair {
    node: NodeId,
    other: Arc<Other>,
}

#[async_trait]
impl Peers for Pair {
    fn members(&self) -> Members {
        Members { nodes: [NodeId(1), NodeId(2)].into(), removed: Default::default() }
    }

    fn unreachable_since(&self, _: NodeId) -> Option<Timestamp> {
        None
    }

    async fn call(&self, _: NodeId, _: Traffic, request: Bytes) -> Result<Bytes, CallFailed> {
        let Some(replica) = self.other.replica.get() else { return Err(CallFailed("not there yet".to_owned())) };
        let sent = request.len() as u64;
        let answer = replica.answer(self.node, request).await.map_err(|e| CallFailed(e.to_string()))?;
        self.other.bytes.fetch_add(sent + answer.len() as u64, Ordering::Relaxed);
        Ok(answer)
    }
}

/// One node's log and rows, and the replica over them.
struct Site {
    node: NodeId,
    log: Log,
    state: Arc<State>,
    clock: Arc<HybridClock>,
    other: Arc<Other>,
}

impl Site {
    async fn open(node: u64, folder: &Path, clock: &Arc<BenchClock>) -> Site {
        let disk = Arc::new(RealDisk::open(folder.join(node.to_string())).unwrap());
        let entropy: Arc<dyn Entropy> = Arc::new(CountingEntropy::default());
        let keys = Keyring::open(&*disk, &MasterKey::generate(&*entropy), &*entropy).unwrap();
        let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), Default::default()).await.unwrap();
        let state = Arc::new(State::open(disk, &keys, entropy, Default::default()).unwrap());
        let clock = Arc::new(HybridClock::new(clock.clone(), Timestamp::ZERO));
        Site { node: NodeId(node), log, state, clock, other: Arc::default() }
    }

    async fn start(&self) -> Replica {
        // No patrol meanwhile: what is counted is what was asked for.
        let limits = Limits { patrol_every: Duration::from_secs(3600), ..Limits::default() };
        let options = Options {
            node: self.node,
            log: self.log.clone(),
            state: self.state.clone(),
            clock: self.clock.clone(),
            peers: Arc::new(Pair { node: self.node, other: self.other.clone() }),
            schema: Arc::new(NoIndexes),
            joins: self.node != NodeId(1),
            limits,
        };
        Replica::start(options).await.unwrap()
    }

    async fn checkpoint(&self, replica: &Replica) {
        let state = self.state.clone();
        let done = tokio::task::spawn_blocking(move || state.checkpoint()).await.unwrap().unwrap();
        if let Some(mark) = done.marks.get(&RangeId::EVENTUAL) {
            replica.checkpointed().made_durable(*mark);
        }
    }

    /// Lets some rows be gone, as no replica ever does by itself: by an entry that is
    /// applied at the next start.
    async fn lose(&self, rows: u64) {
        let lost = (0..LOST).map(|n| key(n * (rows / LOST) + 7));
        let gone = lost.flat_map(|key| [Operation::Delete { key: merging_key(&key) }, Operation::Delete { key }]);
        let payload = postcard::to_extend(&(self.clock.now(), gone.collect::<Vec<_>>()), vec![ENTRY_VERSION]).unwrap();
        // A checkpoint may have purged all there was.
        let purged = || (self.log.purged(RangeId::EVENTUAL).unwrap(), 1);
        let (last, term) = self.log.last(RangeId::EVENTUAL).unwrap_or_else(purged);
        let record = Record::Entry { group: RangeId::EVENTUAL, index: last + 1, term, payload: payload.into() };
        self.log.append_wait(vec![record]).await.unwrap();
    }
}

const TABLE: u32 = 20_000;

fn key(number: u64) -> Key {
    let mut key = KeyBuilder::new(Guarantee::Eventual.storage(TABLE));
    key.push(&Value::Int8(number as i64)).unwrap();
    key.finish()
}

/// A number, a text of 100 bytes and a counter.
fn row(number: u64) -> RowChange {
    let counter = ColumnChange::Add { amount: 100, bounds: Bounds { lower: Some(0), upper: None } };
    RowChange::Insert(vec![
        (ColumnId(0), ColumnChange::Set(Value::Int8(number as i64))),
        (ColumnId(1), ColumnChange::Set(Value::Text("x".repeat(100)))),
        (ColumnId(2), counter),
    ])
}

async fn write(site: &Site, replica: &Replica, rows: u64) {
    for first in (0..rows).step_by(AT_ONCE as usize) {
        if first % CHECKPOINT_EVERY == 0 {
            site.checkpoint(replica).await;
        }
        let change = |n| Operation::Change { key: key(n), change: row(n) };
        let operations = (first..(first + AT_ONCE).min(rows)).map(change).collect();
        let batch = Batch { id: u128::from(first), author: NodeId(1), preconditions: vec![], operations };
        replica.commit(batch, 1).await.unwrap();
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(600), "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run() {
    let rows: u64 = std::env::var("POLITY_BENCH_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(BenchClock(Instant::now()));
    let (one, two) = (Site::open(1, folder.path(), &clock).await, Site::open(2, folder.path(), &clock).await);
    let first = one.start().await;
    let begun = Instant::now();
    write(&one, &first, rows).await;
    println!("crdt::write/rows={rows} {:.1} s", begun.elapsed().as_secs_f64());
    one.checkpoint(&first).await;
    let storage = Guarantee::Eventual.storage(TABLE);
    let of = |storage: IndexId| one.state.stats(storage).bytes as f64 / rows as f64;
    println!(
        "crdt::stored {:.0} bytes a row to see, {:.0} bytes a row to merge (key and value; a number, a text of 100 bytes, a counter of 2 replicas)",
        of(storage),
        of(storage.merging())
    );

    two.other.replica.set(first.clone()).ok().unwrap();
    let begun = Instant::now();
    let second = two.start().await;
    until("filling", || second.readable().is_ok() && second.vector() == first.vector()).await;
    let (seconds, bytes) = (begun.elapsed().as_secs_f64(), two.other.bytes.load(Ordering::Relaxed));
    println!(
        "crdt::fill/rows={rows} {seconds:.1} s, {:.1} MB, {:.0} bytes a row",
        bytes as f64 / 1e6,
        bytes as f64 / rows as f64
    );

    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let found = second.compare(NodeId(1)).await.unwrap();
        assert_eq!((found.rows, found.differing), (rows, 0));
        let bytes = found.sent_bytes + found.received_bytes;
        println!("crdt::compare/rows={rows}/differing=0 {:.2} s, {bytes} bytes", begun.elapsed().as_secs_f64());
    }
    two.checkpoint(&second).await;
    let mut second = second;
    for _ in 0..ROUNDS {
        second.shutdown().await;
        two.lose(rows).await;
        second = two.start().await;
        let begun = Instant::now();
        let found = second.compare(NodeId(1)).await.unwrap();
        let (seconds, bytes) = (begun.elapsed().as_secs_f64(), found.sent_bytes + found.received_bytes);
        assert_eq!((found.differing, found.repaired), (LOST, LOST));
        println!("crdt::compare/rows={rows}/differing={LOST} {seconds:.2} s, {bytes} bytes");
    }
    second.shutdown().await;
    first.shutdown().await;
}

fn main() {
    // `cargo test` runs benches too, and wants no figures.
    if std::env::args().any(|a| a == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
    }
}
