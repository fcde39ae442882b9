//! What a transaction sees at one moment.
//!
//! A view is the snapshot with the transaction's own writes laid over it, as
//! both were when the view was taken. It is `'static` and shared freely: plans
//! run on other threads and portals outlive their statement. Under
//! SERIALIZABLE it notes what is read; a scan notes the keys it has passed, so
//! that a scan that stops early has not read the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Guarantee, IndexId, Key, Span, Timestamp};

use crate::Error;
use crate::overlay::{Frozen, Slot};
use crate::reads::Recorder;
use crate::replica::{Rows, Snapshot};

/// A snapshot, when to read it, and who notes what is read.
type Source<'a> = (&'a dyn Snapshot, Timestamp, Option<&'a Arc<Recorder>>);

/// A consistent view of all rows, own writes included.
#[derive(Clone)]
pub struct View {
    pub(crate) snapshot: Option<Arc<dyn Snapshot>>,
    pub(crate) read_at: Timestamp,
    /// None: this node keeps no eventual tables; an error: they cannot be read now
    pub(crate) local: Option<Result<Local, Error>>,
    /// None: this node follows no ledger
    pub(crate) ledger: Option<LedgerView>,
    pub(crate) own: Option<Frozen>,
    pub(crate) reads: Option<Arc<Recorder>>,
}

/// What the eventual tables of this node show, and up to when.
#[derive(Clone)]
pub(crate) struct Local {
    pub snapshot: Arc<dyn Snapshot>,
    pub at: Timestamp,
}

/// What the byzantine tables of this node show, and who notes what is read of them.
#[derive(Clone)]
pub(crate) struct LedgerView {
    pub local: Local,
    pub reads: Option<Arc<Recorder>>,
}

impl View {
    /// The timestamp of the snapshot of what is strong.
    pub fn read_at(&self) -> Timestamp {
        self.read_at
    }

    /// The timestamp at which `key` is read.
    pub fn read_at_of(&self, key: &[u8]) -> Timestamp {
        match (Guarantee::of_key(key), &self.local) {
            (Guarantee::Eventual, Some(Ok(local))) => local.at,
            (Guarantee::Byzantine, _) => self.ledger.as_ref().map_or(self.read_at, |ledger| ledger.local.at),
            _ => self.read_at,
        }
    }

    /// Whether all entries of the secondary index `index` are there. Replicas of eventual
    /// tables build each its own, some time after it was asked for.
    pub fn has_index(&self, index: IndexId) -> Result<bool, Error> {
        match index.guarantee() {
            Guarantee::Eventual => Ok(self.get(&polity_crdt::replica::built_key(index))?.is_some()),
            _ => Ok(true),
        }
    }

    /// The same view, leaving no trace: what is read through it does not
    /// conflict with later writes. For display and statistics, and where an
    /// explicit precondition says all that matters.
    pub fn untracked(&self) -> View {
        let ledger = self.ledger.clone().map(|ledger| LedgerView { reads: None, ..ledger });
        View { reads: None, ledger, ..self.clone() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(own) = &self.own {
            match own.get(key) {
                Slot::Untouched => {}
                Slot::Value(value) => return Ok(Some(value)),
                Slot::Deleted => return Ok(None),
            }
        }
        let (snapshot, at, reads) = self.source(key)?;
        if let Some(reads) = reads {
            reads.point(key);
        }
        snapshot.get(key, at)
    }

    /// The rows of `span` in the order of their keys, or against it.
    pub fn scan(&self, span: Span, direction: Direction) -> Result<ViewScan, Error> {
        let (snapshot, at, reads) = self.source(&span.start)?;
        let rows = if span.is_empty() { None } else { Some(snapshot.scan(&span, at, direction)?) };
        Ok(ViewScan {
            rows,
            fetched: VecDeque::new(),
            own: self.own.clone(),
            reads: reads.cloned(),
            remaining: span,
            direction,
        })
    }

    /// The same view without the transaction's own writes, leaving no trace.
    pub fn committed(&self) -> View {
        View { own: None, ..self.untracked() }
    }

    /// Notes that all keys of `span` are read, by other means than this view's.
    pub fn note_read(&self, span: &Span) {
        if let Ok((_, _, Some(reads))) = self.source(&span.start) {
            reads.span(span.start.clone(), span.end.clone());
        }
    }

    /// The keys of `span` that the transaction itself wrote or deleted, in order.
    /// `None` when there are more than `most`.
    pub fn own_keys(&self, span: &Span, most: usize) -> Option<Vec<Key>> {
        let Some(own) = &self.own else { return Some(Vec::new()) };
        let guard = own.read();
        let keys: Vec<Key> =
            guard.range(span, Direction::Ascending).map(|(key, _)| key.clone()).take(most.saturating_add(1)).collect();
        (keys.len() <= most).then_some(keys)
    }

    /// The keys of `span` whose committed values may differ between `at`, a time
    /// that could be read when somebody did, and this view, in order. `None` when
    /// there are more than `most`, or when it is not known any more.
    pub fn written_between(&self, span: &Span, at: Timestamp, most: usize) -> Option<Vec<Key>> {
        let (snapshot, read_at, _) = self.source(&span.start).ok()?;
        snapshot.written_since(span, at.min(read_at), most)
    }

    /// Where `key` is read, at what time, and who notes it. What is read of eventual
    /// tables is no condition of anything.
    fn source(&self, key: &[u8]) -> Result<Source<'_>, Error> {
        let early = Error::Misuse("a read before the first statement");
        if Guarantee::of_key(key) == Guarantee::Byzantine
            && let Some(ledger) = &self.ledger
        {
            return Ok((ledger.local.snapshot.as_ref(), ledger.local.at, ledger.reads.as_ref()));
        }
        match (Guarantee::of_key(key), &self.local) {
            (Guarantee::Eventual, Some(Ok(local))) => Ok((local.snapshot.as_ref(), local.at, None)),
            (Guarantee::Eventual, Some(Err(error))) => Err(error.clone()),
            _ => Ok((self.snapshot.as_deref().ok_or(early)?, self.read_at, self.reads.as_ref())),
        }
    }
}

/// The rows of a span, chunk by chunk.
pub struct ViewScan {
    /// The snapshot's rows; `None` after the last.
    rows: Option<Box<dyn Rows>>,
    /// Rows taken from `rows` and not merged yet.
    fetched: VecDeque<(Key, Bytes)>,
    own: Option<Frozen>,
    reads: Option<Arc<Recorder>>,
    /// The keys not passed yet.
    remaining: Span,
    direction: Direction,
}

impl ViewScan {
    /// The next rows, at most `max_rows` (at least 1); none at the end.
    pub fn next_chunk(&mut self, max_rows: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        let max_rows = max_rows.max(1);
        if self.own.is_some() {
            return self.next_merged(max_rows);
        }
        let chunk = match &mut self.rows {
            Some(rows) => rows.next_chunk(max_rows)?,
            None => Vec::new(),
        };
        match chunk.last() {
            Some((last, _)) if self.reads.is_some() => self.pass(&last.clone()),
            Some(_) => {}
            None => self.pass_all(),
        }
        Ok(chunk)
    }

    fn next_merged(&mut self, max_rows: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        let mut chunk = Vec::new();
        let Some(frozen) = self.own.clone() else { return Ok(chunk) };
        let guard = frozen.read();
        let span = self.remaining.clone();
        let mut own = guard.range(&span, self.direction).peekable();
        let mut last = None;
        while chunk.len() < max_rows {
            if self.fetched.is_empty() {
                self.fetch(max_rows)?;
            }
            let own_first = match (self.fetched.front(), own.peek()) {
                (None, None) => {
                    drop(own);
                    self.pass_all();
                    return Ok(chunk);
                }
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((theirs, _)), Some((ours, _))) => {
                    if theirs == *ours {
                        // Our write stands for theirs.
                        self.fetched.pop_front();
                        continue;
                    }
                    (*ours < theirs) == (self.direction == Direction::Ascending)
                }
            };
            if own_first {
                if let Some((key, slot)) = own.next() {
                    last = Some(key.clone());
                    if let Slot::Value(value) = slot {
                        chunk.push((key.clone(), value.clone()));
                    }
                }
            } else if let Some((key, value)) = self.fetched.pop_front() {
                last = Some(key.clone());
                chunk.push((key, value));
            }
        }
        if let Some(last) = last {
            self.pass(&last);
        }
        Ok(chunk)
    }

    fn fetch(&mut self, max_rows: usize) -> Result<(), Error> {
        if let Some(rows) = &mut self.rows {
            let chunk = rows.next_chunk(max_rows)?;
            if chunk.is_empty() {
                self.rows = None;
            }
            self.fetched = chunk.into();
        }
        Ok(())
    }

    /// Notes that the scan has come to `last`, which it passed.
    fn pass(&mut self, last: &Key) {
        let (start, end) = match self.direction {
            Direction::Ascending => {
                let next = last.successor();
                let start = std::mem::replace(&mut self.remaining.start, next.clone());
                (start, next)
            }
            Direction::Descending => {
                let end = std::mem::replace(&mut self.remaining.end, last.clone());
                (last.clone(), end)
            }
        };
        if let Some(reads) = &self.reads {
            reads.span(start, end);
        }
    }

    /// Notes that nothing follows.
    fn pass_all(&mut self) {
        self.rows = None;
        let start = std::mem::replace(&mut self.remaining.start, self.remaining.end.clone());
        if let Some(reads) = &self.reads {
            reads.span(start, self.remaining.end.clone());
        }
    }
}
