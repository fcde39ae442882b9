//! What the tests of groups have in common: a node's store, and batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Batch, Key, NodeId, Operation, Precondition, RangeId, Timestamp};
use polity_store::disk::Disk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{BatchOutcome, State, StateOptions};

use crate::{Error, Group, GroupOptions};

pub const RANGE: RangeId = RangeId(1);

/// A clock that moves by a microsecond whenever it is read.
#[derive(Default)]
pub struct StepClock(AtomicU64);

impl ClockSource for StepClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.fetch_add(1_000, Ordering::Relaxed) + 1_000);
        ClockReading { earliest: now, latest: now }
    }
}

/// Entropy that repeats itself in every run, and never within one.
#[derive(Default)]
pub struct CountingEntropy(AtomicU64);

impl Entropy for CountingEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            let bytes = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// A node's store and its member of [`RANGE`].
pub struct Member {
    pub group: Group,
    pub log: Log,
    pub state: Arc<State>,
}

/// The master key of every node in tests.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

pub struct Store {
    pub log: Log,
    pub state: Arc<State>,
}

pub async fn open_store(disk: Arc<dyn Disk>) -> Result<Store, polity_store::Error> {
    open_store_with(disk, LogOptions::default()).await
}

pub async fn open_store_with(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Store, polity_store::Error> {
    let entropy = Arc::new(CountingEntropy::default());
    let master = MasterKey::from_hex(KEY, "the test")?;
    let keys = Keyring::open(&*disk, &master, &*entropy)?;
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), options).await?;
    let state = State::open(disk, &keys, entropy, StateOptions::default())?;
    Ok(Store { log, state: Arc::new(state) })
}

pub async fn start(store: Store, node: u64, options: GroupOptions) -> Result<Member, Error> {
    let clock = Arc::new(HybridClock::new(Arc::new(StepClock::default()), Timestamp::ZERO));
    let Store { log, state } = store;
    let group = Group::start(RANGE, NodeId(node), log.clone(), state.clone(), clock, options).await?;
    Ok(Member { group, log, state })
}

/// The only member of its group, on `disk`.
pub async fn alone(disk: Arc<dyn Disk>) -> Member {
    start(open_store(disk).await.unwrap(), 1, GroupOptions::default()).await.unwrap()
}

impl Member {
    /// Stops the member and closes its store.
    pub async fn stop(self) {
        self.group.shutdown().await;
        self.log.close().await;
    }

    /// The value of a key, as a read after a barrier sees it.
    pub async fn read(&self, key: &str) -> Option<String> {
        let at = self.group.read_barrier().await.unwrap();
        self.value(key, at)
    }

    pub fn value(&self, key: &str, at: Timestamp) -> Option<String> {
        let found = self.state.snapshot().unwrap().get(&named(key), at).unwrap();
        found.map(|(value, _)| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Every row at the last applied timestamp.
    pub fn rows(&self) -> BTreeMap<Key, Bytes> {
        let all = polity_base::Span { start: Key::default(), end: Key(Bytes::from_static(&[0xFF; 8])) };
        let mut scan = self.state.snapshot().unwrap().scan(&all, self.group.applied()).unwrap();
        std::iter::from_fn(|| scan.next().unwrap()).collect()
    }
}

pub fn named(key: &str) -> Key {
    Key([b"\0\0\x40\0", key.as_bytes()].concat().into())
}

/// A batch that puts one key.
pub fn put(id: u128, key: &str, value: &str) -> Batch {
    let operation = Operation::Put { key: named(key), value: Bytes::copy_from_slice(value.as_bytes()) };
    Batch { id, author: NodeId(1), preconditions: vec![], operations: vec![operation] }
}

/// A batch that puts one key if it is absent.
pub fn insert(id: u128, key: &str, value: &str) -> Batch {
    Batch { preconditions: vec![Precondition::Absent(named(key))], ..put(id, key, value) }
}

pub fn committed(outcome: BatchOutcome) -> Timestamp {
    match outcome {
        BatchOutcome::Committed(at) => at,
        other => panic!("not committed: {other:?}"),
    }
}
