//! A ledger's storage in the node's shared log and state, beside all other groups.
//!
//! ```text
//!   append ──▶ log, group 3 ──▶ apply ──▶ state: versions in memory, on disk from one
//!                 ▲                        checkpoint to the next
//!                 ╰── a restart applies again what comes after the last checkpoint
//! ```
//! A block's time is the timestamp of what it writes. What it writes is split into
//! batches that the state remembers key by key: they get timestamps a nanosecond apart,
//! within the block's millisecond, and become visible all together.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use polity_base::{Batch, Guarantee, Key, NodeId, Operation, RangeId, Span, Timestamp};
use polity_store::log::{Log, Record};
use polity_store::state::{AppliedMark, BatchOutcome, EntryBody, EntryOutcome, OrderedEntry, Reader, State};

use super::{Storage, View, Views, Visit, Writes};
use crate::ledger::error::Error;

/// The range that a node's ledger is.
pub const LEDGER: RangeId = RangeId::LEDGER;

/// So many writes at most are one batch: of more the state would only remember spans.
const BATCH: usize = 4000;
const NANOS_PER_MS: u64 = 1_000_000;
/// Entries are let go of so many at a time.
const PURGE: u64 = 64;

/// A ledger in a node's log and state.
pub struct StoreStorage {
    log: Log,
    views: StoreViews,
    /// Index of the newest entry
    last: u64,
    durable: Durable,
}

/// Up to which entry a ledger's state is durable, for whoever takes checkpoints. Clones
/// are the same.
#[derive(Clone, Default)]
pub struct Durable(Arc<AtomicU64>);

impl Durable {
    /// Takes note that the state is durable up to a mark of [`LEDGER`].
    pub fn made_durable(&self, mark: AppliedMark) {
        self.0.fetch_max(mark.index, Ordering::AcqRel);
    }
}

impl StoreStorage {
    /// The ledger in a log and a state that were just opened.
    pub fn open(log: Log, state: Arc<State>) -> StoreStorage {
        let applied = state.applied(LEDGER).index;
        let logged = log.last(LEDGER).map(|(index, _)| index).or(log.purged(LEDGER));
        let durable = Durable::default();
        durable.0.store(applied, Ordering::Release);
        StoreStorage { log, views: StoreViews { state }, last: logged.unwrap_or(0).max(applied), durable }
    }

    /// Whom to tell of checkpoints.
    pub fn durable(&self) -> Durable {
        self.durable.clone()
    }
}

/// Where states are seen.
#[derive(Clone)]
pub struct StoreViews {
    state: Arc<State>,
}

impl Views for StoreViews {
    type View = StoreView;

    fn now(&self) -> Result<StoreView, Error> {
        Ok(StoreView { reader: self.state.snapshot()?, at: Timestamp::MAX })
    }

    fn at(&self, time_ms: u64) -> Result<Option<StoreView>, Error> {
        let at = last_moment(time_ms);
        let reader = self.state.snapshot()?;
        Ok((at >= reader.horizon(Guarantee::Byzantine)).then_some(StoreView { reader, at }))
    }
}

fn first_moment(time_ms: u64) -> Timestamp {
    Timestamp(time_ms.saturating_mul(NANOS_PER_MS))
}

fn last_moment(time_ms: u64) -> Timestamp {
    Timestamp(first_moment(time_ms).0.saturating_add(NANOS_PER_MS - 1))
}

impl Storage for StoreStorage {
    type Views = StoreViews;

    fn views(&self) -> &StoreViews {
        &self.views
    }

    fn append(&mut self, entry: Bytes) -> Result<(), Error> {
        let record = Record::Entry { group: LEDGER, index: self.last + 1, term: 1, payload: entry };
        let (done, durable) = mpsc::channel();
        self.log.append(vec![record], move |outcome| {
            // Nobody waits any more if the ledger is gone.
            let _ = done.send(outcome);
        });
        durable.recv().unwrap_or(Err(polity_store::Error::Closed))?;
        self.last += 1;
        Ok(())
    }

    fn apply(&mut self, time_ms: u64, writes: Writes, whole: bool) -> Result<(), Error> {
        let mark = self.views.state.applied(LEDGER);
        let index = mark.index + 1;
        let mut batches = Vec::with_capacity(2 + writes.len() / BATCH);
        let batch = |number: usize, operations| Batch {
            id: u128::from(index) << 64 | number as u128,
            author: NodeId(0),
            preconditions: Vec::new(),
            operations,
        };
        if whole {
            batches.push(batch(0, vec![Operation::Clear { span: Guarantee::Byzantine.span() }]));
        }
        let mut operations = writes.into_iter().map(|(key, value)| match value {
            Some(value) => Operation::Put { key, value },
            None => Operation::Delete { key },
        });
        loop {
            let some: Vec<Operation> = operations.by_ref().take(BATCH).collect();
            if some.is_empty() {
                break;
            }
            batches.push(batch(batches.len(), some));
        }
        let count = batches.len();
        let entry = EntryBody::Batches { proposed_at: first_moment(time_ms), batches };
        let outcomes = self.views.state.apply(LEDGER, &[OrderedEntry { index, term: 1, body: entry }])?;
        let committed =
            |outcome: &BatchOutcome| matches!(outcome, BatchOutcome::Committed(at) if *at <= last_moment(time_ms));
        match outcomes.as_slice() {
            [EntryOutcome::Batches(outcomes)] if outcomes.len() == count && outcomes.iter().all(committed) => Ok(()),
            other => Err(Error::Damaged(format!("a block of time {time_ms} was applied as {other:?}"))),
        }
    }

    fn unapplied(&self) -> Result<Option<Bytes>, Error> {
        let next = self.views.state.applied(LEDGER).index + 1;
        if next > self.last {
            return Ok(None);
        }
        let found = self.log.read(LEDGER, next..next + 1)?;
        let entry = found.into_iter().next().map(|(_, _, entry)| entry);
        entry.map(Some).ok_or_else(|| Error::Damaged(format!("the log lacks entry {next} of the ledger")))
    }

    fn entry(&self, back: u64) -> Result<Option<Bytes>, Error> {
        let Some(index) = self.last.checked_sub(back).filter(|index| *index > 0) else { return Ok(None) };
        let found = self.log.read(LEDGER, index..index + 1)?;
        Ok(found.into_iter().next().map(|(_, _, entry)| entry))
    }

    fn entries(&self) -> u64 {
        self.log.first(LEDGER).map_or(0, |first| self.last + 1 - first)
    }

    fn forget(&mut self, keep: u64) {
        let upto_index = self.last.saturating_sub(keep).min(self.durable.0.load(Ordering::Acquire));
        let first = self.log.first(LEDGER).unwrap_or(u64::MAX);
        if upto_index >= first.saturating_add(PURGE - 1) {
            // If it fails, the next append does too, and says so.
            self.log.append(vec![Record::Purge { group: LEDGER, upto_index }], |_| {});
        }
    }
}

/// A state in the store.
#[derive(Clone)]
pub struct StoreView {
    reader: Reader,
    at: Timestamp,
}

impl StoreView {
    fn moment(&self) -> Timestamp {
        self.at.min(self.reader.applied(Guarantee::Byzantine)).max(self.reader.horizon(Guarantee::Byzantine))
    }
}

impl View for StoreView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.reader.get(key, self.moment())?.map(|(value, _)| value))
    }

    fn scan(&self, span: &Span, visit: Visit) -> Result<(), Error> {
        Ok(self.reader.for_each(span, self.moment(), visit)?)
    }

    fn keys(&self, span: &Span, most: usize) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        self.reader.scan(span, self.moment())?.drive_all(|key, _, _| {
            if keys.len() == most {
                return ControlFlow::Break(());
            }
            keys.push(Key(Bytes::copy_from_slice(key)));
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }

    fn versions(&self, key: &[u8]) -> Result<Vec<(u64, Option<Bytes>)>, Error> {
        let (mut versions, mut at) = (Vec::new(), self.moment());
        while let Some((written, value)) = self.reader.version(key, at)? {
            versions.push((written.0 / NANOS_PER_MS, value));
            if written <= self.reader.horizon(Guarantee::Byzantine) {
                break;
            }
            at = written.minus_nanos(1);
        }
        Ok(versions)
    }
}
