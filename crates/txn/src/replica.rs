//! What a transaction needs of a replica: where the guarantee is kept.
//!
//! A replica orders batches and applies them to versioned rows. How it agrees
//! with its peers is its own affair; a transaction sees only this:
//!
//! - versions up to a timestamp that [`Replica::read_timestamp`] returned never
//!   change, and hold everything that was acknowledged before the call;
//! - a batch is applied at one timestamp, whole or not at all, and
//!   [`Replica::commit`] returns after that;
//! - the outcome depends on the order of batches alone, not on this node.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Batch, Key, NodeId, Span, Timestamp};

use crate::Error;
use crate::locks::Claim;

/// One replica of a range, on this node.
#[async_trait]
pub trait Replica: Send + Sync + 'static {
    /// A timestamp at which everything acknowledged before this call can be
    /// read here, and below which nothing will be written any more.
    async fn read_timestamp(&self) -> Result<Timestamp, Error>;

    /// The node that leads the range, as far as is known here: it keeps the locks.
    fn leader(&self) -> Option<NodeId>;

    /// Whether there are other replicas, which may serve reads alone.
    fn has_peers(&self) -> bool;

    /// The newest timestamp that can be read here without asking anyone: nothing
    /// will be written at or before it any more, whoever leads.
    fn applied(&self) -> Timestamp;

    /// The oldest timestamp that can still be read here.
    fn oldest(&self) -> Timestamp;

    /// The rows as they are now, and as they were at any time from
    /// [`Replica::oldest`] on; what is in there does not change any more.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error>;

    /// Orders the batch and waits until it is applied here, or is known not to
    /// be.
    async fn commit(&self, batch: Batch) -> Result<Outcome, Error>;

    /// The same, unless somebody holds one of these locks: [`Contested::Lock`]. A
    /// courtesy to others, as all locks are; a replica that keeps none may leave it out.
    ///
    /// [`Contested::Lock`]: crate::Contested::Lock
    async fn commit_if_free(&self, batch: Batch, claim: Claim) -> Result<Outcome, Error> {
        let _ = claim;
        self.commit(batch).await
    }

    /// Orders the batch, and waits until that many replicas keep it. Where the guarantee says
    /// how many there must be, it is as many as that.
    async fn commit_kept_by(&self, batch: Batch, replicas: u32) -> Result<Outcome, Error> {
        let _ = replicas;
        self.commit(batch).await
    }

    /// Whether some key of `span` was written after `since`, as far as applied
    /// here.
    fn changed_since(&self, span: &Span, since: Timestamp) -> Change;

    /// When `key` was last written or deleted, as far as applied here; `None`
    /// if never, or so long ago that no version is left.
    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error>;
}

/// Rows of one replica that do not change any more.
pub trait Snapshot: Send + Sync + 'static {
    /// The value of `key` at `at`.
    fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<Bytes>, Error>;

    /// The rows of `span` at `at`, in the order of their keys or against it.
    fn scan(&self, span: &Span, at: Timestamp, direction: Direction) -> Result<Box<dyn Rows>, Error>;

    /// The keys of `span` that were written after `since`, deleted ones included, in
    /// order; also such as were written after the snapshot was taken. All other keys
    /// read the same at any time from `since` up to the snapshot's. `None` when there
    /// are more than `most`, or when it is not known any more.
    fn written_since(&self, span: &Span, since: Timestamp, most: usize) -> Option<Vec<Key>>;
}

/// Rows one after the other.
pub trait Rows: Send + 'static {
    /// The next rows, at most `max_rows` (at least 1); none at the end.
    fn next_chunk(&mut self, max_rows: usize) -> Result<Vec<(Key, Bytes)>, Error>;
}

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Applied, at this timestamp.
    Committed(Timestamp),
    /// Not applied: a key of this span was written since it was read.
    Conflict(Span),
    /// Not applied: the key has no value.
    Missing(Key),
    /// Not applied: the key has a value.
    Exists(Key),
    /// Not applied: it was read so long ago that what changed since is
    /// forgotten.
    TooOld,
}

/// Whether something was written since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// No.
    Unchanged,
    /// Yes, last at this timestamp.
    Changed(Timestamp),
    /// Not known any more.
    Forgotten,
}
