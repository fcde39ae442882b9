//! openraft's log over the node's shared write-ahead log.
//!
//! Entries go to disk as bytes and stay here, decoded, until they are applied:
//! the state machine reads each of them once, right after it was written, and
//! nobody decodes what was encoded a moment ago. Older entries, which a follower
//! or a restart asks for, are read from the log.
//!
//! Beside the entries the log holds small named values of the group, of which the
//! last one wins:
//!
//! | name | value | written |
//! |------|-------|---------|
//! | vote | [`Vote`] | fsynced before it is acted on |
//! | committed | [`LogId`] | with the next entry, or fsynced before definitions are applied, see below |
//! | purged | [`LogId`] | with each purge: it names the term, which the log's own mark does not |
//! | membership | [`StoredMembership`] | fsynced before the entry is applied |
//!
//! The committed position is a hint that lets a restarted replica apply what it
//! knows to be committed before it has heard from a leader. An fsync of its own
//! per entry would halve the throughput, so it travels with the next entries. A
//! value that is behind is safe: a leader tells where the log is committed to. Only
//! definitions (the catalog's rows) do not wait for a leader: they are what a node
//! needs to go on alone with its eventual tables, so the position is made durable
//! before an entry that changes them is applied.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::EntryOf;
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use polity_base::RangeId;
use polity_base::planted::{Bug, planted};
use polity_store::log::{Log, Record};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::machine::on_worker;
use crate::metrics::{GroupMetrics, add};
use crate::payload;
use crate::types::{Entry, LogId, StoredMembership, Types, Vote, log_id, stored_index};

/// Entries that one read from disk returns at most; more are read in steps.
const READ_ENTRIES: u64 = 256;
/// A message to a follower is full when its entries have this many bytes;
const MESSAGE_BYTES: usize = 4 << 20;
/// they are read so many at a time, so that it is not overfull by much.
const MESSAGE_STEP: u64 = 8;

/// Names of the group's values in the log.
mod name {
    pub const VOTE: &str = "vote";
    pub const COMMITTED: &str = "committed";
    pub const PURGED: &str = "purged";
    pub const MEMBERSHIP: &str = "membership";
}

/// One group's part of the shared log. Clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: RangeId,
    log: Log,
    tail: Arc<Mutex<Tail>>,
    metrics: Arc<GroupMetrics>,
}

/// What is kept in memory.
#[derive(Default)]
struct Tail {
    /// Entries that are not applied yet, in order and without a hole.
    entries: VecDeque<Entry>,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// `committed` is not in the log yet.
    committed_is_news: bool,
    /// At least so far it is known from the disk alone.
    committed_on_disk: Option<LogId>,
}

impl Tail {
    /// The entries of `start..end` that are here; a suffix of the range.
    fn get(&self, start: u64, end: u64) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|e| e.index()) else { return Vec::new() };
        let from = start.saturating_sub(first) as usize;
        let to = (end.saturating_sub(first) as usize).min(self.entries.len());
        if from >= to { Vec::new() } else { self.entries.range(from..to).cloned().collect() }
    }

    fn first(&self) -> u64 {
        self.entries.front().map_or(u64::MAX, |e| e.index())
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl LogStore {
    /// The group's part of `log`, as recovery left it.
    pub fn open(group: RangeId, log: Log, metrics: Arc<GroupMetrics>) -> io::Result<LogStore> {
        let store = LogStore { group, log, tail: Arc::default(), metrics };
        if let (Some((last, _)), true) = (store.log.last(group), planted(Bug::DropLastEntry)) {
            store.log.append(vec![Record::Truncate { group, from_index: last }], drop);
        }
        let purged: Option<LogId> = store.value(name::PURGED)?;
        let last = store.log.last(group).and_then(|(index, term)| log_id(term, index));
        let committed = store.value(name::COMMITTED)?;
        *store.tail.lock() = Tail {
            entries: VecDeque::new(),
            last: last.max(purged),
            purged,
            vote: store.value(name::VOTE)?,
            committed,
            committed_is_news: false,
            committed_on_disk: committed,
        };
        Ok(store)
    }

    /// The last position of the log.
    pub fn last(&self) -> Option<LogId> {
        self.tail.lock().last
    }

    /// The membership that was stored last.
    pub fn membership(&self) -> io::Result<Option<StoredMembership>> {
        self.value(name::MEMBERSHIP)
    }

    /// Stores a membership; it is on disk when this returns.
    pub async fn save_membership(&self, membership: &StoredMembership) -> io::Result<()> {
        let record = self.record(name::MEMBERSHIP, membership)?;
        self.log.append_wait(vec![record]).await.map_err(other)
    }

    /// Stores that the log is committed up to `at`; it is on disk when this returns.
    pub async fn mark_committed(&self, at: LogId) -> io::Result<()> {
        let record = {
            let tail = self.tail.lock();
            if tail.committed_on_disk >= Some(at) {
                return Ok(());
            }
            // openraft says how far the log is committed before it has entries applied.
            self.record(name::COMMITTED, &tail.committed.unwrap_or(at))?
        };
        self.log.append_wait(vec![record]).await.map_err(other)?;
        let mut tail = self.tail.lock();
        tail.committed_on_disk = tail.committed_on_disk.max(Some(at));
        Ok(())
    }

    /// Forgets the entries up to and with `index`: they are applied.
    pub fn applied(&self, index: u64) {
        let mut tail = self.tail.lock();
        while tail.first() <= index {
            tail.entries.pop_front();
        }
    }

    fn value<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let bytes = self.log.state(self.group, name);
        bytes.map(|bytes| payload::whole(&bytes).map_err(other)).transpose()
    }

    fn record(&self, name: &'static str, value: &impl Serialize) -> io::Result<Record> {
        let value = postcard::to_stdvec(value).map_err(other)?.into();
        Ok(Record::State { group: self.group, name: name.into(), value })
    }

    /// The entries of `start..end` that the log holds.
    fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let (cached, cached_from) = {
            let tail = self.tail.lock();
            let first = tail.first();
            (tail.get(start, end), first.clamp(start, end.max(start)))
        };
        if start >= cached_from {
            return Ok(cached);
        }
        let range = stored_index(start)..stored_index(cached_from);
        let stored = self.log.read(self.group, range).map_err(other)?;
        let mut entries = Vec::with_capacity(stored.len() + cached.len());
        for (index, term, bytes) in stored {
            let at = log_id(term, index).ok_or_else(|| io::Error::other("the log holds an entry of index 0"))?;
            entries.push(Entry::new(at, payload::decode(&bytes).map_err(other)?));
        }
        entries.extend(cached);
        Ok(entries)
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let known = self.last().map_or(0, |last| last.index + 1);
        (start, end.min(known))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        self.read(start, end)
    }

    /// For the state machine: what is in memory at once, what is on disk in steps,
    /// so that a long log is not decoded into memory as a whole.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<EntryOf<Types>, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let (recent, recent_from) = {
            let tail = self.tail.lock();
            (tail.get(start, end), tail.first().clamp(start, end.max(start)))
        };
        let store = self.clone();
        let older = stream::unfold(start, move |from| {
            let store = store.clone();
            async move {
                let to = recent_from.min(from.saturating_add(READ_ENTRIES));
                let step = if from < to { store.read(from, to) } else { return None };
                let items = step.map_or_else(|e| vec![Err(e)], |entries| entries.into_iter().map(Ok).collect());
                Some((stream::iter(items), to))
            }
        });
        older.flatten().chain(stream::iter(recent.into_iter().map(Ok)))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let end = end.min(start.saturating_add(READ_ENTRIES));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < MESSAGE_BYTES {
            let from = start + entries.len() as u64;
            if from >= end {
                break;
            }
            let step = self.read(from, end.min(from + MESSAGE_STEP))?;
            if step.is_empty() {
                break;
            }
            bytes += step.iter().map(size).sum::<usize>();
            entries.extend(step);
        }
        Ok(entries)
    }
}

fn size(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(pack) => pack.size(),
        _ => 0,
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let tail = self.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let record = self.record(name::VOTE, vote)?;
        if !planted(Bug::ForgetVote) {
            self.log.append_wait(vec![record]).await.map_err(other)?;
        }
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut tail = self.tail.lock();
        tail.committed = committed;
        tail.committed_is_news = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // The log may have lost a tail that was not fsynced, never one that was
        // committed; the hint is cut to what is there all the same.
        let tail = self.tail.lock();
        Ok(tail.committed.min(tail.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut fresh = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let size = if let EntryPayload::Normal(pack) = &entry.payload { pack.size() } else { 0 };
            let payload = on_worker(size, || payload::encode(&entry.payload)).map_err(other)?;
            bytes += payload.len() as u64;
            let (index, term) = (stored_index(entry.index()), *entry.log_id.leader_id);
            records.push(Record::Entry { group: self.group, index, term, payload });
            fresh.push(entry);
        }
        {
            let mut tail = self.tail.lock();
            if let (Some(committed), true) = (tail.committed, tail.committed_is_news) {
                records.push(self.record(name::COMMITTED, &committed)?);
                tail.committed_is_news = false;
            }
            tail.last = fresh.last().map(|e| e.log_id).or(tail.last);
            tail.entries.extend(fresh);
        }
        add(&self.metrics.log_bytes, bytes);
        let (metrics, begun) = (self.metrics.clone(), Instant::now());
        self.log.append(records, move |result| {
            metrics.append_micros.record_micros(begun.elapsed());
            callback.io_completed(result.map_err(other));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut tail = self.tail.lock();
            while tail.entries.back().is_some_and(|e| e.index() >= from) {
                tail.entries.pop_back();
            }
            tail.last = last;
        }
        let record = Record::Truncate { group: self.group, from_index: stored_index(from) };
        self.log.append_wait(vec![record]).await.map_err(other)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut tail = self.tail.lock();
            while tail.first() <= upto.index {
                tail.entries.pop_front();
            }
            tail.purged = tail.purged.max(Some(upto));
            tail.last = tail.last.max(Some(upto));
        }
        let mark = self.record(name::PURGED, &upto)?;
        let record = Record::Purge { group: self.group, upto_index: stored_index(upto.index) };
        // Nothing waits for a purge: one that is lost is made good by the next.
        self.log.append(vec![mark, record], |result| {
            if let Err(error) = result {
                tracing::warn!(%error, "the log could not be purged");
            }
        });
        Ok(())
    }
}
