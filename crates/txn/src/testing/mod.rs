//! A database without log or disk, for tests of what stands above.
//!
//! [`MemoryReplica`] keeps all versions in a map and applies each batch at once.
//! It keeps the promises of [`Replica`] in the plainest way there is, which also
//! makes it the model that real replicas are compared with. [`World`] puts several nodes together.

mod eventual;
mod world;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use polity_base::key::Direction;
use polity_base::seams::{ClockSource, Entropy, Seams};
use polity_base::time::ClockReading;
use polity_base::{Batch, Key, NodeId, Operation, Precondition, RangeId, Span, Timestamp};

use crate::replica::{Change, Outcome, Replica, Rows, Snapshot};
pub use world::{Losing, Site, World};

use crate::{Database, Directory, Error, Options};

/// Versions of a key, newest last.
type Versions = Vec<(Timestamp, Option<Bytes>)>;

#[derive(Default)]
struct State {
    rows: BTreeMap<Key, Versions>,
    applied: Timestamp,
    /// What was cleared, and when
    clears: Vec<(Timestamp, Span)>,
}

/// All versions of all rows, in memory. Clones are the same replica.
#[derive(Clone, Default)]
pub struct MemoryReplica {
    state: Arc<RwLock<State>>,
    batches: Arc<AtomicU64>,
}

impl MemoryReplica {
    /// Applies a batch that was proposed then.
    fn apply(&self, proposed_at: Timestamp, batch: &Batch) -> Outcome {
        self.state.write().apply(proposed_at, batch)
    }

    /// How many batches were ordered: what would have cost a log entry.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }
}

/// An empty database in memory.
pub fn database() -> Database {
    database_on(MemoryReplica::default(), Options::default())
}

/// A database on `replica`.
pub fn database_on(replica: impl Replica, options: Options) -> Database {
    Database::open(Directory::of_one(RangeId(1), Arc::new(replica)), &seams(), options)
}

/// A clock that stands at the end of time, and entropy that counts.
pub fn seams() -> Seams {
    struct Stopped;
    impl ClockSource for Stopped {
        fn read(&self) -> ClockReading {
            ClockReading { earliest: Timestamp::MAX, latest: Timestamp::MAX }
        }
    }
    struct Counting(AtomicU64);
    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            let next = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            buffer.iter_mut().rev().zip(next.iter().rev()).for_each(|(to, from)| *to = *from);
        }
    }
    Seams { clock: Arc::new(Stopped), entropy: Arc::new(Counting(AtomicU64::new(1))) }
}

#[async_trait]
impl Replica for MemoryReplica {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        Ok(self.applied())
    }

    fn leader(&self) -> Option<NodeId> {
        Some(Options::default().node)
    }

    fn has_peers(&self) -> bool {
        false
    }

    fn applied(&self) -> Timestamp {
        self.state.read().applied
    }

    fn oldest(&self) -> Timestamp {
        Timestamp::ZERO
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        Ok(Arc::new(self.clone()))
    }

    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        // Others run between the read and the write, as they would with a log.
        tokio::task::yield_now().await;
        self.batches.fetch_add(1, Ordering::Relaxed);
        Ok(self.apply(Timestamp::ZERO, &batch))
    }

    fn changed_since(&self, span: &Span, since: Timestamp) -> Change {
        self.state.read().changed_since(span, since).map_or(Change::Unchanged, Change::Changed)
    }

    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(self.state.read().rows.get(key).and_then(|versions| versions.last()).map(|(at, _)| *at))
    }
}

impl State {
    fn apply(&mut self, proposed_at: Timestamp, batch: &Batch) -> Outcome {
        let has_value = |key: &Key| self.rows.get(key).is_some_and(|v| visible(v, Timestamp::MAX).is_some());
        for condition in &batch.preconditions {
            match condition {
                Precondition::Unchanged { span, since } => {
                    if self.changed_since(span, *since).is_some() {
                        return Outcome::Conflict(span.clone());
                    }
                }
                Precondition::Present(key) if !has_value(key) => return Outcome::Missing(key.clone()),
                Precondition::Absent(key) if has_value(key) => return Outcome::Exists(key.clone()),
                Precondition::Present(_) | Precondition::Absent(_) => {}
            }
        }
        let at = proposed_at.max(self.applied.next());
        self.applied = at;
        for operation in &batch.operations {
            let (key, value) = match operation {
                Operation::Put { key, value } => (key, Some(value.clone())),
                Operation::Delete { key } => (key, None),
                Operation::Clear { span } => {
                    self.rows.retain(|key, _| !span.contains(key));
                    self.clears.push((at, span.clone()));
                    continue;
                }
                // No strong range takes it.
                Operation::Change { .. } => continue,
            };
            self.rows.entry(key.clone()).or_default().push((at, value));
        }
        Outcome::Committed(at)
    }

    fn changed_since(&self, span: &Span, since: Timestamp) -> Option<Timestamp> {
        let newest = |versions: &Versions| versions.last().map(|(at, _)| *at);
        range(&self.rows, span).filter_map(|(_, versions)| newest(versions)).filter(|at| *at > since).max()
    }
}

fn range<'a>(
    rows: &'a BTreeMap<Key, Versions>,
    span: &Span,
) -> impl DoubleEndedIterator<Item = (&'a Key, &'a Versions)> + use<'a> {
    let end = span.end.clone().max(span.start.clone());
    rows.range((Bound::Included(span.start.clone()), Bound::Excluded(end.clone())))
}

fn visible(versions: &Versions, at: Timestamp) -> Option<&Bytes> {
    versions.iter().rev().find(|(written, _)| *written <= at).and_then(|(_, value)| value.as_ref())
}

impl Snapshot for MemoryReplica {
    fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<Bytes>, Error> {
        Ok(self.state.read().rows.get(key).and_then(|versions| visible(versions, at)).cloned())
    }

    fn scan(&self, span: &Span, at: Timestamp, direction: Direction) -> Result<Box<dyn Rows>, Error> {
        let rows = MemoryRows { state: self.state.clone(), remaining: span.clone(), at, direction };
        Ok(Box::new(rows))
    }

    fn written_since(&self, span: &Span, since: Timestamp, most: usize) -> Option<Vec<Key>> {
        let state = self.state.read();
        let is_later = |versions: &Versions| versions.last().is_some_and(|(at, _)| *at > since);
        let keys: Vec<Key> =
            range(&state.rows, span).filter(|(_, versions)| is_later(versions)).map(|(key, _)| key.clone()).collect();
        let cleared = state.clears.iter().any(|(at, cleared)| *at > since && cleared.overlaps(span));
        (keys.len() <= most && !cleared).then_some(keys)
    }
}

struct MemoryRows {
    state: Arc<RwLock<State>>,
    remaining: Span,
    at: Timestamp,
    direction: Direction,
}

impl Rows for MemoryRows {
    fn next_chunk(&mut self, max_rows: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        let at = self.at;
        let row = |(key, versions): (&Key, &Versions)| visible(versions, at).map(|v| (key.clone(), v.clone()));
        let state = self.state.read();
        let range = range(&state.rows, &self.remaining);
        let chunk: Vec<(Key, Bytes)> = match self.direction {
            Direction::Ascending => range.filter_map(row).take(max_rows).collect(),
            Direction::Descending => range.rev().filter_map(row).take(max_rows).collect(),
        };
        match (chunk.last(), self.direction) {
            (Some((last, _)), Direction::Ascending) => self.remaining.start = last.successor(),
            (Some((last, _)), Direction::Descending) => self.remaining.end = last.clone(),
            (None, _) => self.remaining.start = self.remaining.end.clone(),
        }
        Ok(chunk)
    }
}
