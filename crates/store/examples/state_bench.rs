//! How fast the versioned rows are on this machine.
//!
//! `cargo run --release -p polity-store --example state_bench -- [folder] [rows]`

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::seams::Entropy;
use polity_base::{Batch, IndexId, Key, NodeId, Operation, Precondition, RangeId, Span, Timestamp, Value};
use polity_store::disk::RealDisk;
use polity_store::state::{EntryBody, OrderedEntry, State, StateOptions};
use polity_store::{Disk, Error, Keyring, MasterKey};
use tokio::time::Instant;

const GROUP: RangeId = RangeId(1);
const INDEX: IndexId = IndexId(16384);

/// Good enough to measure with.
struct ProcessEntropy;

impl Entropy for ProcessEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer).expect("the operating system has no entropy");
    }
}

/// A cheap stream of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into).join("polity-state-bench");
    let rows: u64 = std::env::args().nth(2).map_or(Ok(1_000_000), |n| n.parse())?;
    let _ = std::fs::remove_dir_all(&folder);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&folder)?);
    let keys = Keyring::open(&*disk, &MasterKey::from_hex(&"7".repeat(64), "bench")?, &ProcessEntropy)?;
    let options = StateOptions { cache_bytes: 1 << 30, retention: Duration::ZERO, ..StateOptions::default() };
    let state = Arc::new(State::open(disk.clone(), &keys, Arc::new(ProcessEntropy), options)?);

    load(&state, rows)?;
    reads(&state, rows, "redb")?;
    for (batches, operations) in [(1, 1), (64, 1), (1, 64)] {
        stages(&state, rows, batches, operations)?;
    }
    beside_checkpoints(&state, rows)?;
    let mut random = Random(5);
    for _ in 0..50_000 {
        state.apply(GROUP, &[update(&state, &mut random, rows, 1, 1)])?;
    }
    reads(&state, rows, "redb and a layer")?;
    println!("file: {} MiB, {:?}", std::fs::metadata(folder.join("state"))?.len() >> 20, state.stats(INDEX));
    drop(state);
    let state = timed("state::open", 1, || State::open(disk.clone(), &keys, Arc::new(ProcessEntropy), options))?;
    reads(&state, rows, "a cold cache")?;
    drop(state);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn timed<T>(name: &str, count: u64, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let (start, cpu) = (Instant::now(), cpu_time());
    let result = run()?;
    let (took, cpu) = (start.elapsed(), cpu_time() - cpu);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    println!("{name}: {took:.1?}, {:.2} µs each, of which {:.2} µs CPU", each(took), each(cpu));
    Ok(result)
}

/// The CPU time of this process so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |n| stat.rsplit(')').next()?.split_whitespace().nth(n)?.parse::<u64>().ok();
    Duration::from_millis(10 * (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)))
}

fn key(n: u64) -> Key {
    let mut bytes = INDEX.0.to_be_bytes().to_vec();
    polity_base::key::encode(&Value::Int8(n as i64), &mut bytes).expect("a number is a key");
    Key::from(bytes)
}

fn row() -> Bytes {
    Bytes::from(vec![7; 100])
}

fn entry(index: u64, batches: Vec<Batch>) -> OrderedEntry {
    OrderedEntry { index, term: 1, body: EntryBody::Batches { proposed_at: Timestamp(index << 20), batches } }
}

fn load(state: &State, rows: u64) -> Result<(), Error> {
    let operations = (0..rows).map(|n| Operation::Put { key: key(n), value: row() }).collect();
    let batch = Batch { id: 1, author: NodeId(1), preconditions: vec![], operations };
    let entry = entry(1, vec![batch]);
    timed("state::apply/rows=all/batches=1", rows, || state.apply(GROUP, &[entry]))?;
    println!("layer: {} MiB", state.layer_bytes() >> 20);
    timed("state::checkpoint/rows=all", rows, || state.checkpoint())?;
    Ok(())
}

/// An entry that updates random rows as transactions do.
fn update(state: &State, random: &mut Random, rows: u64, batches: u64, operations: u64) -> OrderedEntry {
    let mark = state.applied(GROUP);
    let batches = (0..batches).map(|n| {
        let keys: Vec<Key> = (0..operations).map(|_| key(random.below(rows))).collect();
        let unchanged = |k: &Key| Precondition::Unchanged { span: k.point(), since: mark.commit };
        Batch {
            id: u128::from(mark.index) << 64 | u128::from(n),
            author: NodeId(1),
            preconditions: if n == 0 { keys.iter().map(unchanged).collect() } else { vec![] },
            operations: keys.iter().map(|k| Operation::Put { key: k.clone(), value: row() }).collect(),
        }
    });
    entry(mark.index + 1, batches.collect())
}

/// What updating a row costs in each of its stages.
fn stages(state: &State, rows: u64, batches: u64, operations: u64) -> Result<(), Error> {
    let mut random = Random(batches + operations);
    let shape = format!("batches={batches}/operations={operations}");
    for count in [10_000, 100_000] {
        timed(&format!("state::apply/{shape}/count={count}"), count, || {
            for _ in 0..count / batches / operations {
                state.apply(GROUP, &[update(state, &mut random, rows, batches, operations)])?;
            }
            Ok(())
        })?;
        timed(&format!("state::checkpoint/count={count}"), count, || state.checkpoint())?;
        timed(&format!("state::collect/count={count}"), count, || state.collect(Timestamp::MAX, usize::MAX))?;
    }
    Ok(())
}

/// How long applying stops at most, and how much gets through, with a checkpoint
/// and a collection every second beside it.
fn beside_checkpoints(state: &Arc<State>, rows: u64) -> Result<(), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let keeper = std::thread::spawn({
        let (state, stop) = (state.clone(), stop.clone());
        move || -> Result<u64, Error> {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(1));
                state.checkpoint()?;
                let newest = *state.observe_commits(polity_base::Guarantee::Strong).borrow();
                state.collect(newest, 100_000)?;
                done += 1;
            }
            Ok(done)
        }
    });
    let (mut random, mut count, mut longest) = (Random(3), 0, Duration::ZERO);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let entry = update(state, &mut random, rows, 1, 1);
        let began = Instant::now();
        state.apply(GROUP, &[entry])?;
        longest = longest.max(began.elapsed());
        count += 1;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let done = keeper.join().expect("the keeper ended")?;
    println!("state::apply/beside={done} checkpoints: {rate:.0}/s, longest {longest:.1?}");
    Ok(())
}

fn reads(state: &State, rows: u64, place: &str) -> Result<(), Error> {
    let mut random = Random(9);
    let gets = 300_000;
    timed(&format!("state::snapshot+get/from={place}"), gets, || {
        for _ in 0..gets {
            let reader = state.snapshot()?;
            assert!(reader.get(&key(random.below(rows)), Timestamp::MAX)?.is_some());
        }
        Ok(())
    })?;
    let (reader, all) = (state.snapshot()?, Span::of_index(INDEX));
    timed(&format!("state::for_each/from={place}"), rows, || {
        let mut bytes = 0;
        reader.for_each(&all, Timestamp::MAX, |key, row| {
            bytes += key.len() + row.len();
            ControlFlow::Continue(())
        })?;
        assert_eq!(bytes as u64, rows * 113);
        Ok(())
    })?;
    for (name, mut scan) in
        [("up", reader.scan(&all, Timestamp::MAX)?), ("down", reader.scan_rev(&all, Timestamp::MAX)?)]
    {
        timed(&format!("state::next_chunk/{name}/from={place}"), rows, || {
            let mut seen = 0;
            loop {
                let chunk = scan.next_chunk(1024, 1 << 20)?;
                if chunk.is_empty() {
                    break;
                }
                seen += chunk.len() as u64;
            }
            assert_eq!(seen, rows);
            Ok(())
        })?;
    }
    Ok(())
}
